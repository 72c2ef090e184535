"""`jaxrobust.distill`: trains a small image classifier with a teacher, from arrays."""

import contextlib
import dataclasses
import hashlib
import io
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from jaxrobust.api.in_memory import programs_for, shapes_of
from jaxrobust.data.array_files import open_arrays
from jaxrobust.data.augment import num_views, view_of
from jaxrobust.data.dataset import Dataset, Examples, with_own_statistics
from jaxrobust.data.image_inputs import as_images
from jaxrobust.data.inputs import (
    Labels,
    aligned,
    as_labels,
    as_logits,
    check_lengths,
    columns_as_classes,
)
from jaxrobust.data.subsets import hold_out
from jaxrobust.engine.files import write_bytes
from jaxrobust.engine.plan import pad
from jaxrobust.errors import UserError, for_python
from jaxrobust.methods.classifiers import Classifier, load_classifier
from jaxrobust.models import storage
from jaxrobust.recipes.dhkd import Distillation, distillation
from jaxrobust.recipes.fields import replace, to_config
from jaxrobust.recipes.methods import DISTILLERS, DistillerName
from jaxrobust.recipes.parse import parse
from jaxrobust.tasks import distillation as task
from jaxrobust.tasks.distillation_inputs import read_inputs
from jaxrobust.tasks.images import rows_on_devices
from jaxrobust.tasks.teachers import TEACHER_LOGITS, TeacherLogits

TeacherFunction = Callable[[np.ndarray], Any]
"""uint8 `[B, H, W, 3]` -> logits `[B, C]`."""

_ASKED_AT_A_TIME = 256  # images


@for_python()
def distill(
    images: Any,
    labels: Any,
    *,
    teacher: Any,
    student: str = "resnet8x4",
    method: DistillerName = "dhkd",
    test: tuple[Any, Any] | None = None,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    workdir: str | os.PathLike | None = None,
    progress: bool = False,
    class_names: Any = None,
) -> Classifier:
    """Trains a student with a teacher, as the recipe `dhkd:image_folder` does on the command line.

    | teacher | views the student is trained on | methods |
    |---|---|---|
    | folder of a network of jaxrobust (`teacher/`, `student/`, a conversion) | random crops and \
mirror images, whose teacher logits are computed too | all |
    | function, or `classifier/` of another run | every image and its mirror image; the teacher is \
called once for each, 256 at a time | on logits |
    | logits `[N, C]` | the images unchanged | on logits |
    | list of folders and functions | as for a function, with the mean of their logits | on logits |

    With a function, `config={"augment.padding": p}` adds crops; the function is then called for all
    2 (2 p + 1)^2 views. With a `workdir`, its logits are kept in `teacher_logits.npz`, so that the
    same call does not compute them again; delete that file if the teacher has changed. Stored
    logits cover one view of each image, so no other views are used.

    Args:
      images: `[N, H, W(, 3)]`, as for `find_label_issues`.
      labels: `[N]`, one class for each image, or soft labels: a `Consensus`, or floats `[N, C]`
        whose rows sum to 1. The cross-entropy then uses the probabilities; a method or test that
        needs one class uses the most probable one.
      teacher: see above. A function takes uint8 `[B, H, W, 3]`, for any B, and returns logits `[B,
        C]`, with columns in the sorted order of the classes, or in the order of `class_names`.
      student: name of a network; see `jaxrobust list networks`.
      method: distillation method; see `jaxrobust list methods`. With `config={"with_baseline":
        True}` a baseline student is trained as well, on the labels alone.
      test: (images, labels) to test the student on; None to hold out 20 % of each class, as for a
        folder.
      seed: random seed.
      config: fields to set in the recipe, such as `{"num_epochs": 60}`.
      workdir: folder for all files of the run, from which an interrupted run continues; None to
        keep nothing.
      progress: whether to show a progress bar.
      class_names: the C classes in order: names of the ids, or the values that occur in `labels`.

    Returns:
      The student; its `classes` are in the type of the labels.

    Raises:
      UserError: if an argument is invalid, or the method needs more than this teacher's logits.

    Examples:
      >>> images = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), np.uint8)
      >>> labels = np.arange(200) % 10
      >>> student = distill(images, labels, teacher=lambda batch: my_network(batch), method="kd")
      >>> student.predict(images[:5]).shape
      (5,)
    """
    if config is not None and not isinstance(config, Mapping):
        raise UserError(
            "config must be a dictionary of fields, such as {'num_epochs': 60}; run a whole "
            "recipe by jaxrobust.tasks.run."
        )
    labels, images, teacher = aligned(labels=labels, images=images, teacher=teacher)
    class_names = columns_as_classes(labels, teacher, class_names)
    several = isinstance(teacher, list | tuple) and all(map(_is_teacher, teacher))
    given = _mean_of(teacher) if several and teacher else _given(teacher)
    options = {
        "student.name": student,
        "seed": seed,
        "dataset.image_size": 0,
        "measure_latency": False,
        # In a folder that is deleted at the end, TensorBoard's file would be seen by nobody.
        **({} if workdir else {"writers": ()}),
        **(config or {}),
    }
    num_classes = None
    if isinstance(given, storage.StoredClassifier):
        options["teacher.path"] = str(teacher)
        class_names = given.class_names or None if class_names is None else class_names
        num_classes = given.num_classes
    else:
        options = {"teacher.logits": "table", "augment.padding": 0, **options}
    if isinstance(given, np.ndarray):
        options = {"augment.flip": False, **options}
        num_classes = given.shape[1]
    fields = replace(distillation(method, "image_folder"), options)
    fields = cast(Distillation, parse(to_config(fields)))
    if fields.num_seeds != 1:
        raise UserError("distill trains one student; call it once per seed.")
    known = as_labels(labels, class_names=class_names, num_columns=num_classes)
    examples = _examples(images, known, "images", "labels")
    if test is None:
        train, tested = hold_out(examples)
    else:
        test_labels, test_images = aligned(**{"test[1]": test[1], "test[0]": test[0]})
        of_test = as_labels(test_labels, class_names=known.classes, argument="test[1]")
        train, tested = examples, _examples(test_images, of_test, "test[0]", "test[1]")
    dataset = with_own_statistics("arrays", train, tested, known.names)
    if isinstance(given, storage.StoredClassifier):
        logits, of_teacher = None, (given.arch, given.image_shape)
    else:
        if isinstance(given, np.ndarray):
            check_lengths(labels=known.ids, teacher=given)
        logits = _logits_of(given, fields, dataset, workdir)
        of_teacher = logits.train.shape[1:]
    with contextlib.ExitStack() as stack:
        folder = workdir or stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxrobust-"))
        pads, entry = workdir is None, DISTILLERS.entry(fields.method)
        rows = [rows_on_devices(len(each), entry, pads=pads) for each in (train, tested)]
        shapes = *rows, train.images.shape[1:], known.num_classes, shapes_of(dataset)
        compared = min(fields.num_diagnosed, len(train))
        key = shapes, of_teacher, known.probs is None, compared
        programs = stack.enter_context(programs_for(fields, *key))
        task.run(fields, folder, programs, dataset=dataset, teacher=logits, bar=progress, pads=pads)
        classifier = load_classifier(pathlib.Path(folder) / "student")
    return dataclasses.replace(classifier, classes=known.classes)


def _given(teacher: Any) -> storage.StoredClassifier | np.ndarray | TeacherFunction:
    """A teacher as a stored network, as logits, or as a function."""
    if isinstance(teacher, Classifier):
        return _log_probs(teacher)
    if isinstance(teacher, str | os.PathLike):
        folder = pathlib.Path(teacher).expanduser()
        if storage.is_of_run(storage.read_facts(folder)):
            return _log_probs(load_classifier(folder))
        return storage.load_classifier(folder)
    return teacher if callable(teacher) else as_logits(teacher, "the teacher's logits")


def _is_teacher(given: Any) -> bool:
    return callable(given) or isinstance(given, str | os.PathLike | Classifier)


def _mean_of(teachers: Sequence[Any]) -> TeacherFunction:
    """The mean of several teachers' logits, as a function."""

    def function_of(given) -> TeacherFunction:
        return given.logits if isinstance(given, storage.StoredClassifier) else given

    functions = [function_of(_given(teacher)) for teacher in teachers]
    return lambda images: np.mean([np.asarray(each(images)) for each in functions], axis=0)


def _logits_of(
    teacher: np.ndarray | TeacherFunction,
    fields: Distillation,
    dataset: Dataset,
    workdir: str | os.PathLike | None,
) -> TeacherLogits:
    """The teacher's logits for the recipe's views; those of a function are kept in the workdir.

    Raises:
      UserError: if the recipe cannot be run on logits (checked before a function is called), a
        function returns something else, or stored logits are of other views.
    """
    padding, flip = fields.augment.padding, fields.augment.flip
    is_stored = isinstance(teacher, np.ndarray)
    logits = TeacherLogits("logits" if is_stored else "function", np.empty(0), None)
    read_inputs(fields, dataset, logits)
    train, test = dataset.train, dataset.test
    if not isinstance(teacher, np.ndarray):
        file = None if workdir is None else pathlib.Path(workdir).expanduser() / TEACHER_LOGITS
        asked = hashlib.sha256(train.images.tobytes() + test.images.tobytes())
        asked.update(repr((padding, flip, dataset.class_names)).encode())
        if file and file.exists():
            kept = open_arrays(file)
            if str(kept.get("asked")) == asked.hexdigest():
                return dataclasses.replace(logits, train=kept["logits"], test=kept["test_logits"])
        views = _all_views(train.images, padding=padding, flip=flip)
        table = [_ask(teacher, images, dataset.num_classes) for images in views]
        of_test = _ask(teacher, test.images, dataset.num_classes)
        logits = dataclasses.replace(logits, train=np.stack(table, axis=1), test=of_test)
        if file:
            content = io.BytesIO()
            np.savez(
                content,
                asked=np.array(asked.hexdigest()),
                logits=logits.train,
                test_logits=of_test,
            )
            write_bytes(file, content.getvalue())
        return logits
    if num_views(padding=padding, flip=flip) > 1:
        raise UserError(
            "Stored logits are for the unchanged images, but augment.padding and augment.flip "
            "require other views; leave them out, or give a function."
        )
    if train.origin and test.origin:  # two parts of the same images
        of_test = teacher[test.origin.ids]
        return dataclasses.replace(logits, train=teacher[train.origin.ids, None], test=of_test)
    return dataclasses.replace(logits, train=teacher[:, None])


def _log_probs(classifier: Classifier) -> TeacherFunction:
    if classifier.is_multilabel:
        raise UserError(
            "This teacher predicts several labels per image; give one that was trained on "
            "single labels, or run configs/l2d.py."
        )

    def log_probs(images):
        probs = classifier.predict_proba(images)
        return np.log(np.maximum(probs, np.finfo(np.float32).tiny))

    return log_probs


def _examples(images: Any, known: Labels, of_images: str, of_labels: str) -> Examples:
    pixels = as_images(images, of_images)
    check_lengths(**{of_images: pixels, of_labels: known.ids})
    return Examples(pixels, known.ids, probs=known.probs)


def _all_views(images: np.ndarray, *, padding: int, flip: bool) -> Iterator[np.ndarray]:
    """The images `[N, H, W, 3]` in each view, in the order of `draw_views`."""
    count, images = len(images), pad(images)
    for number in range(num_views(padding=padding, flip=flip)):
        numbers = jnp.full(len(images), number, jnp.int32)
        views = view_of(jnp.asarray(images), numbers, padding=padding, flip=flip)
        yield np.asarray(views)[:count]


def _ask(teacher: TeacherFunction, images: np.ndarray, num_classes: int) -> np.ndarray:
    """Logits float32 `[N, C]` of all images by a function of batches."""
    parts = []
    for start in range(0, len(images), _ASKED_AT_A_TIME):
        batch = images[start : start + _ASKED_AT_A_TIME]
        logits = as_logits(teacher(batch), "teacher(images)")
        if logits.shape != (len(batch), num_classes):
            raise UserError(
                f"teacher(images) gives {list(logits.shape)} for {len(batch)} images of "
                f"{num_classes} classes; it must be [{len(batch)}, {num_classes}]."
            )
        parts.append(logits)
    return np.concatenate(parts)
