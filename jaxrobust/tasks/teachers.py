"""The teacher of a distillation run: a network, a linear head on a frozen one, or stored logits."""

import dataclasses
import hashlib
import io
import logging
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import jax
import numpy as np

from jaxrobust.data.array_files import open_arrays
from jaxrobust.data.augment import normalize, num_views, plain_view
from jaxrobust.data.dataset import Dataset, Examples, FileDataset, FileExamples
from jaxrobust.engine.files import write_bytes
from jaxrobust.engine.sharding import Placement
from jaxrobust.engine.training import TrainState, backbone_of, with_backbone
from jaxrobust.errors import UserError
from jaxrobust.methods.distiller import Distiller
from jaxrobust.models.embedding import embed
from jaxrobust.models.linear_head import fit_linear_head
from jaxrobust.models.pretrained import load_pretrained
from jaxrobust.models.storage import (
    MODEL,
    StoredClassifier,
    load_classifier,
    save_classifier,
)
from jaxrobust.recipes.dhkd import Distillation
from jaxrobust.recipes.parse import DistillationRecipe

log = logging.getLogger("jaxrobust")

_DEFAULT_SIZE = 128  # pixels, as `jaxrobust.embed` has it

TEACHER_LOGITS = "teacher_logits.npz"
"""A teacher's logits, computed once, in a run's folder; see `read_logits`."""


@dataclasses.dataclass(frozen=True, eq=False)
class TeacherLogits:
    """The logits of a teacher on the images of a data set, computed once."""

    name: str  # what reports call it
    # float32 `[N, V, C]`, on the V views of the training images that a recipe's crops have, in the
    # order of `draw_views`; or on the whole images, V = 1, and their mirror images, V = 2
    train: np.ndarray
    test: np.ndarray | None  # float32 `[n, C]`, on the test images; None if not known

    def plain(self, ids: np.ndarray, *, padding: int, flip: bool) -> np.ndarray:
        """Float32 `[n, C]`, on some training images without a crop; the recipe's crops."""
        has_all = self.train.shape[1] == num_views(padding=padding, flip=flip)
        return self.train[ids, plain_view(padding=padding, flip=flip) if has_all else 0]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All logits."""
        return {"train": self.train} | ({} if self.test is None else {"test": self.test})


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """What a student learns from, of one of the kinds below."""

    name: str  # what reports call it
    # None where there are only logits, and of a network that is trained in this run
    network: StoredClassifier | None = None
    logits: TeacherLogits | None = None  # None of a network that is applied to the student's crops
    # network whose backbone it starts from; None: from its initialisation
    start: StoredClassifier | None = None
    size: int = 0  # side of its images, where they are not the student's, else 0

    @property
    def is_trained(self) -> bool:
        """Whether this run trains it as it trains the student."""
        return False

    @property
    def gives_logits(self) -> bool:
        """Whether nothing but logits, known before the student's first step, is read of it."""
        return self.logits is not None or self.size > 0

    @property
    def sha256(self) -> str | None:
        """Hash of its logits or its network; None before it is trained."""
        if self.logits:
            return digest(self.logits.arrays)
        return digest(self.network.variables) if self.network else None

    def with_logits(
        self, recipe: DistillationRecipe, workdir: pathlib.Path, dataset: Any, taught: Any
    ) -> Self:
        """The teacher with its logits, if they can be computed before the run; a resumed run reads
        them."""
        del recipe, workdir, dataset, taught
        return self


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkTeacher(Teacher):
    """A network, given or trained in this run."""

    own_images: Dataset | FileDataset | None = None  # what one with a `size` is trained on

    @property
    def is_trained(self) -> bool:
        return self.network is None

    def with_logits(self, recipe, workdir, dataset, taught):
        if self.network is None or not self.size:
            return self
        return self.with_logits_of(self.network, recipe, workdir, dataset, taught)

    def with_logits_of(
        self,
        network: StoredClassifier,
        recipe: DistillationRecipe,
        workdir: pathlib.Path,
        dataset: Any,
        taught: Any,
    ) -> Self:
        """The teacher with the logits of a network on images of its size."""
        file = workdir / TEACHER_LOGITS
        if file.exists():
            logits = _written_logits(file, network, dataset, taught)
        else:
            root = recipe.dataset.path
            logits = _compute_teacher_logits(network, dataset, taught, root=root, size=self.size)
            write_logits(file, logits, dataset, taught)
        return dataclasses.replace(self, logits=logits)


@dataclasses.dataclass(frozen=True, eq=False)
class LinearHeadTeacher(Teacher):
    """A linear head on the frozen features of `start`, fitted before the run."""

    def with_logits(self, recipe, workdir, dataset, taught):
        folder, file = workdir / "teacher", workdir / TEACHER_LOGITS
        if file.exists():
            network = load_classifier(folder)
            logits = _written_logits(file, network, dataset, taught)
        else:
            network, logits = fit_teacher(
                cast(StoredClassifier, self.start),
                dataset,
                taught,
                root=recipe.dataset.path,
                size=self.size,
                seed=recipe.seed,
                balanced=recipe.class_weights == "balanced",
            )
            save_classifier(network, folder)
            write_logits(file, logits, dataset, taught)
        return dataclasses.replace(self, network=network, logits=logits)


@dataclasses.dataclass(frozen=True, eq=False)
class LogitsTeacher(Teacher):
    """Logits in memory or in files; if a network is given too, only its name and its cost count."""


def find_teacher(
    recipe: DistillationRecipe,
    dataset: Dataset | FileDataset,
    taught: Examples | FileExamples,
    logits: TeacherLogits | None,
    *,
    is_needed: bool,
) -> Teacher | None:
    """The teacher of a recipe, or of logits in memory; None if none is needed or named."""
    stored, start = stored_teacher(recipe, dataset), backbone_source(recipe, "teacher")
    if not (stored or is_needed):
        return None
    size = 0
    if sees_own_images(recipe):
        size = teacher_size(recipe, cast(StoredClassifier, stored or start))
    if recipe.teacher.logits_file and logits is None:
        logits = read_logits(recipe.teacher.logits_file, dataset, taught)
    if logits:
        return LogitsTeacher(stored.arch if stored else logits.name, stored, logits)
    if stored:
        return NetworkTeacher(stored.arch, stored, size=size)
    kind = LinearHeadTeacher if is_frozen(recipe) else NetworkTeacher
    return kind(start.arch if start else recipe.teacher.name, start=start, size=size)


def stored_teacher(
    recipe: DistillationRecipe, dataset: Dataset | FileDataset
) -> StoredClassifier | None:
    """The teacher of `teacher.path`, of the data set's classes; None if the recipe names none."""
    if not recipe.teacher.path:
        return None
    stored = load_classifier(recipe.teacher.path)
    if stored.num_classes != dataset.num_classes:
        raise UserError(
            f"The teacher in {recipe.teacher.path} has {stored.num_classes} classes, but "
            f"{dataset.name} has {dataset.num_classes}; give another --config.teacher.path."
        )
    if (stored.decoder is not None) != dataset.is_multilabel:
        has, wants = (
            ("one label", "several") if stored.decoder is None else ("several labels", "one")
        )
        raise UserError(
            f"The teacher in {recipe.teacher.path} learned from images with {has}, but those of "
            f"{dataset.name} have {wants}; give another --config.teacher.path."
        )
    if stored.class_names and stored.class_names != dataset.class_names:
        log.warning(
            "The teacher in %s names its classes %s, but those of %s are %s: if these are other "
            "classes, or in another order, it misleads the student.",
            recipe.teacher.path,
            _shortened(stored.class_names),
            dataset.name,
            _shortened(dataset.class_names),
        )
    return stored


def _shortened(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def has_table(recipe: DistillationRecipe) -> bool:
    """Whether the teacher's logits are computed before the first step."""
    return recipe.teacher.logits == "table"


def check_table(
    recipe: DistillationRecipe, distiller: Distiller, given: TeacherLogits | None
) -> None:
    """Refuses logits for a method that needs more of the teacher, and for streamed images."""
    gives_logits = bool(given) or (sees_own_images(recipe) and distiller.has_teacher)
    if not has_table(recipe) and not gives_logits:
        return
    if gives_logits and not given and not distiller.logits_only:
        raise UserError(
            f"method {recipe.method} reads a teacher's features of the images that the student "
            "sees, but this teacher has images of its own (a head on frozen features, or "
            "teacher.image_size): choose a method of logits, such as dhkd, kd, dkd or dist."
        )
    if given and not (distiller.has_teacher and distiller.logits_only):
        if not distiller.has_teacher:
            raise UserError(
                f"method {recipe.method} learns from the labels alone: to compare with it, choose "
                "a method of logits, such as dhkd or kd, and set with_baseline=True, which also "
                "trains a student on the labels alone."
            )
        raise UserError(
            f"method {recipe.method} reads a teacher's features too, but this teacher gives "
            "logits: choose one that learns from logits, such as dhkd, kd, dkd or dist, or give "
            "the folder of a network."
        )
    if sees_own_images(recipe):
        return
    reason = None
    if not distiller.has_teacher:
        reason = f"method {recipe.method} learns from labels alone"
    elif not distiller.logits_only:
        reason = f"method {recipe.method} reads the teacher's features too"
    elif recipe.dataset.stream and not given:
        reason = "streamed images are cropped anew on the host, and no two crops are alike"
    if reason:
        raise UserError(
            "teacher.logits='table' is for methods that read logits of images in memory, but "
            f"{reason}: set --config.teacher.logits=step."
        )


def backbone_source(recipe: DistillationRecipe, role: str) -> StoredClassifier | None:
    """The network whose backbone the teacher or the student starts from, None without one."""
    options = recipe.teacher if role == "teacher" else recipe.student
    path, name = options.backbone, options.name
    is_given = recipe.teacher.path or recipe.teacher.logits_file
    if not path or (role == "teacher" and is_given):
        return None
    is_folder = (pathlib.Path(path).expanduser() / MODEL).exists()
    stored = load_classifier(path) if is_folder else load_pretrained(path)
    # Of a teacher with one label the backbone is the architecture.
    if stored.arch != name and not (role == "teacher" and isinstance(recipe, Distillation)):
        raise UserError(
            f"{path} holds a {stored.arch}, not the {name} of {role}.name; give another "
            f"--config.{role}.backbone=."
        )
    return stored


def start_from(network: TrainState, stored: StoredClassifier, placement: Placement) -> TrainState:
    """The network, and its moving average if it has one, with the backbone of a stored one."""

    def joined():
        # Not the same buffers twice: a step gives its own back.
        return with_backbone(network, placement.put(backbone_of(stored.variables)))

    started = joined()
    if getattr(network, "average", None) is None:
        return started
    return started.replace(average=jax.tree.map(lambda x: x + 0, joined().variables))


def sees_own_images(recipe: DistillationRecipe) -> bool:
    """Whether the teacher sees other images than the student: frozen features, or another size."""
    teacher = recipe.teacher
    if teacher.logits_file or not (teacher.path or teacher.backbone):
        return False
    return is_frozen(recipe) or teacher.image_size not in (0, recipe.dataset.image_size)


def is_frozen(recipe: DistillationRecipe) -> bool:
    """Whether the teacher is a head on the frozen features of its backbone."""
    teacher = recipe.teacher
    starts = teacher.backbone and not teacher.path and not teacher.logits_file
    return bool(starts) and teacher.train == "head"


def teacher_size(recipe: DistillationRecipe, stored: StoredClassifier) -> int:
    """Side of the images that a teacher with images of its own sees."""
    known = stored.image_shape[0] if stored.image_shape else _DEFAULT_SIZE
    if not stored.mean:
        raise UserError(
            f"The teacher's {stored.arch} does not say how its images are normalised: convert its "
            "weights again with --mean= and --std=."
        )
    return recipe.teacher.image_size or known


def fit_teacher(
    backbone: StoredClassifier,
    dataset: Dataset | FileDataset,
    taught: Examples | FileExamples,
    *,
    root: str,
    size: int,
    seed: int,
    balanced: bool,
) -> tuple[StoredClassifier, TeacherLogits]:
    """A linear head on the frozen features of a backbone, and its logits on `taught` images, the
    labelled ones first; `root` is the folder of images that are files."""
    log.info("Teacher: a head on the frozen features of %s, %d pixels", backbone.arch, size)
    features = _of_images(backbone, taught, root, size=size, views=2)
    labels = dataset.train.labels
    head = fit_linear_head(
        features[: len(labels)],
        labels,
        num_classes=dataset.num_classes,
        seed=seed,
        balanced=balanced,
    )
    tested = _of_images(backbone, dataset.test, root, size=size, views=1)
    stored = head.on(backbone, dataset.class_names, size)
    return stored, TeacherLogits(backbone.arch, head(features), head(tested)[:, 0])


def _compute_teacher_logits(
    stored: StoredClassifier,
    dataset: Dataset | FileDataset,
    taught: Examples | FileExamples,
    *,
    root: str,
    size: int,
) -> TeacherLogits:
    """The logits of a network on images of its own size; arguments of `fit_teacher`."""
    log.info("Teacher %s is applied once to every image of %d pixels", stored.arch, size)
    module = stored.module()

    @jax.jit
    def logits(variables, images):
        images = normalize(images, stored.mean, stored.std)
        outputs: Any = module.apply(variables, images)
        return outputs.logits

    variables = jax.device_put(dict(stored.variables))

    def function(images):
        return logits(variables, images)

    train = _of_images(function, taught, root, size=size, views=2)
    test = _of_images(function, dataset.test, root, size=size, views=1)[:, 0]
    return TeacherLogits(stored.arch, train, test)


def _of_images(
    network: StoredClassifier | Callable,
    examples: Examples | FileExamples,
    root: str,
    *,
    size: int,
    views: int,
) -> np.ndarray:
    """Float32 `[N, V, D]` by a network of images of some size, in one pass."""
    if isinstance(examples, FileExamples):
        images: Any = list(examples.files)
    elif examples.files is not None and root:
        folder = pathlib.Path(root).expanduser()
        images = [folder / name for name in examples.files]
    else:
        images = examples.images
    if not len(images):
        raise UserError(
            "There are no test images to measure the teacher on; give some, or "
            "dataset.test_fraction=."
        )
    found = embed(images, backbone=network, views=views, size=size, progress=True)
    return found.array.astype(np.float32)


def _written_logits(
    file: pathlib.Path, network: StoredClassifier, dataset: Any, taught: Any
) -> TeacherLogits:
    """The logits of a network that an earlier attempt wrote."""
    return dataclasses.replace(read_logits((str(file),), dataset, taught), name=network.arch)


def write_logits(path: pathlib.Path, teacher: TeacherLogits, dataset: Any, taught: Any) -> None:
    """Writes what `read_logits` reads: `logits` and, where images are files, `files`."""
    logits = [teacher.train]
    names = list(_names(taught) or ())
    if names and teacher.test is not None and (tested := _names(dataset.test)):
        logits.append(np.repeat(teacher.test[:, None], teacher.train.shape[1], axis=1))
        names += tested
    content = io.BytesIO()
    arrays: dict[str, Any] = {"logits": np.concatenate(logits)}
    if not names and teacher.test is not None:
        arrays["test_logits"] = teacher.test
    if names:
        arrays["files"] = np.array(names)
    np.savez(content, class_names=np.array(dataset.class_names), **arrays)
    write_bytes(path, content.getvalue())


def read_logits(
    paths: Sequence[str], dataset: Dataset | FileDataset, taught: Examples | FileExamples
) -> TeacherLogits:
    """The logits of stored teachers, averaged over them.

    A file holds `logits`, float `[M, C]` of images as they are or `[M, V, C]` of them and, V = 2,
    their mirror images; and either `files` `[M]`, the images relative to the data set, or `ids`
    `[M]`, their positions among the training images (those without a label last), or neither:
    then rows are in this order. The teacher is measured if all test images are among `files`, or
    `test_logits` `[n, C]` are there. `class_names` `[C]`, if there, must be those of the data set.
    """
    found = [_read_logits(pathlib.Path(path), dataset, taught) for path in paths]
    views = max(each.train.shape[1] for each in found)
    shape = (len(taught), views, dataset.num_classes)
    train = np.mean([np.broadcast_to(each.train, shape) for each in found], axis=0)
    tests = [each.test for each in found if each.test is not None]
    test = np.mean(tests, axis=0) if len(tests) == len(found) else None
    name = found[0].name if len(found) == 1 else f"mean of {len(found)} teachers"
    return TeacherLogits(name, train.astype(np.float32), test)


def _read_logits(path: pathlib.Path, dataset: Any, taught: Any) -> TeacherLogits:
    try:
        facts = open_arrays(path.expanduser())
        logits = np.asarray(facts["logits"], np.float32)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} holds no logits of a teacher ({error!r}).") from None
    logits = logits[:, None] if logits.ndim == 2 else logits
    shape = [len(logits), "1 or 2", dataset.num_classes]
    if logits.ndim != 3 or logits.shape[1] > 2 or logits.shape[2] != dataset.num_classes:
        raise UserError(f"The logits in {path} are {list(logits.shape)}, but should be {shape}.")
    if not np.isfinite(logits).all():
        raise UserError(f"The logits in {path} are not all finite.")
    names = tuple(map(str, facts.get("class_names", ())))
    if names and names != tuple(dataset.class_names):
        raise UserError(
            f"The logits in {path} are for the classes {_shortened(names)}, but {dataset.name} "
            f"has {_shortened(tuple(dataset.class_names))}."
        )
    count, test = len(taught), None
    if "files" in facts:
        place = {name: i for i, name in enumerate(facts["files"].tolist())}
        wanted = _names(taught)
        if wanted is None:
            raise UserError(f"{path} names files, but the images of {dataset.name} have no names.")
        rows = [place.get(name) for name in wanted]
        if missing := [name for name, row in zip(wanted, rows, strict=True) if row is None]:
            more = f" and {len(missing) - 1} other images" if len(missing) > 1 else ""
            raise UserError(f"{path} has no logits for {missing[0]}{more}.")
        tested = [place.get(name) for name in _names(dataset.test) or (None,)]
        test = None if None in tested else logits[np.array(tested, int), 0]
    else:
        ids = np.asarray(facts.get("ids", np.arange(len(logits))))
        if sorted(ids.tolist()) != list(range(count)):
            raise UserError(
                f"{path} has the logits of {len(ids)} images, but must have each of the {count} "
                f"training images of {dataset.name} exactly once."
            )
        rows = np.argsort(ids)
        if "test_logits" in facts:
            test = np.asarray(facts["test_logits"], np.float32)
    return TeacherLogits(path.stem, logits[np.array(rows, int)], test)


def _names(examples: Any) -> tuple[str, ...] | None:
    """Of images that are files, relative to the data set."""
    return examples.names if isinstance(examples, FileExamples) else examples.files


def digest(variables: Any) -> str:
    """SHA-256 over all arrays, in the order of their paths."""
    hashed = hashlib.sha256()
    for path, x in jax.tree_util.tree_leaves_with_path(variables):
        hashed.update(jax.tree_util.keystr(path).encode())
        hashed.update(np.ascontiguousarray(x).data)
    return hashed.hexdigest()
