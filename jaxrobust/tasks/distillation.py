"""Knowledge distillation: train or take a teacher, train a student under it, hand the student over.

The same loop serves every method. Only the student's primary head is ever evaluated; its last epoch
is the headline, and its best one, known only by looking at the test set, stands beside it.
"""

import dataclasses
import logging
import os
from collections.abc import Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.data.augment import num_views
from jaxrobust.data.dataset import Dataset, FileDataset, check_has_test, fingerprint
from jaxrobust.data.views import statistics_of
from jaxrobust.engine import rng
from jaxrobust.engine.files import write_json
from jaxrobust.engine.loops import epoch_program, gather_program
from jaxrobust.engine.optim import learning_rate, make_optimizer
from jaxrobust.engine.plan import make_plan, place_plan
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.run import Run, Saved, open_run
from jaxrobust.engine.sharding import fetch
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.methods.distillation import Distiller, Problem, distillation_schedule
from jaxrobust.methods.distillation_steps import (
    ClassifierState,
    PredictSpec,
    TableSpec,
    Targets,
    TrainSpec,
    all_views,
    inference_variables,
    initial_state,
    prediction,
    training_step,
)
from jaxrobust.methods.gradient_diagnosis import DiagnosisSpec, diagnosis
from jaxrobust.models import (
    MOBILE_BACKBONES,
    make_classifier,
    make_multilabel_classifier,
)
from jaxrobust.models.costs import cost, milliseconds
from jaxrobust.models.storage import StoredClassifier, load_classifier, save_classifier
from jaxrobust.recipes.dhkd import Distillation, Teacher
from jaxrobust.recipes.fields import replace
from jaxrobust.recipes.l2d import MultilabelDistillation
from jaxrobust.recipes.parse import DistillationRecipe
from jaxrobust.recipes.run import StudentSgd
from jaxrobust.tasks.common import (
    batch_norm_parts,
    check_batch_size,
    check_common,
    compute_dtype,
    introduce_networks,
    load,
    next_command,
    program_settings,
    write_test_files,
)
from jaxrobust.tasks.distillation_measures import (
    MAX_RETRIEVED,
    MULTILABEL,
    SINGLE_LABEL,
    Protocol,
    multilabel_comparison,
)
from jaxrobust.tasks.images import images_of, view_transforms
from jaxrobust.tasks.student_folder import check_export, write_student
from jaxrobust.tasks.teachers import (
    TEACHER_LOGITS,
    TeacherLogits,
    backbone_source,
    check_table,
    digest,
    frozen_teacher,
    has_table,
    is_frozen,
    logits_of,
    read_logits,
    sees_own_images,
    start_from,
    stored_teacher,
    teacher_size,
    write_logits,
)

log = logging.getLogger("jaxrobust")

LATENCY = "latency.json"
"""Milliseconds on the CPU by network and number of images in a batch."""

ROLES: tuple[str, ...] = ("teacher", "student", "student_alone")
"""The networks of a run, in the order in which they are trained; not every run has all."""


def run(
    recipe: DistillationRecipe,
    workdir: str | os.PathLike,
    programs: Programs | None = None,
    *,
    dataset: Dataset | None = None,
    teacher: TeacherLogits | None = None,
    bar: bool | None = None,
) -> dict:
    """Runs a whole distillation experiment, or what is left of it.

    Args:
      recipe: a recipe, see `jaxrobust.recipes.tasks.Distillation`.
      workdir: where everything is written; that of an interrupted run is resumed.
      programs: those of a run of the same recipe with another seed.
      dataset: one in memory, in place of the one that the recipe names.
      teacher: a teacher's logits on these images, in place of the one that the recipe names.
      bar: as in `open_run`.

    Returns:
      What `results.json` holds.

    Raises:
      UserError: if the recipe, the data, the teacher or the workdir is not usable.
    """
    inputs = read_inputs(recipe, dataset, teacher)
    with open_run(recipe, workdir, programs, bar=bar) as run_:
        return _Distillation(recipe, run_, _with_told(recipe, run_, inputs)).distill()


@dataclasses.dataclass(frozen=True)
class _Inputs:
    """What a run starts from, all that can be checked before its workdir is opened.

    Attributes:
      dataset: the images.
      protocol: what is measured on them.
      distiller: the method.
      taught: training images of the student: the labelled ones, then those without a label.
      stored: the teacher, None if it is to be trained, if only its logits are given, or if none is
        needed.
      logits: those of a teacher that is not asked in every step.
      backbones: by role, what the network starts from, None if from its initialisation.
      own_images: what a teacher that sees other images than the student is trained on, None if it
        is not trained on any.
      size: side of the images of a teacher that sees other ones than the student, else 0.
    """

    dataset: Dataset | FileDataset
    taught: Any
    protocol: Protocol
    distiller: Distiller
    stored: StoredClassifier | None
    logits: TeacherLogits | None
    backbones: Mapping[str, StoredClassifier | None]
    own_images: Dataset | FileDataset | None = None
    size: int = 0


def read_inputs(
    recipe: DistillationRecipe,
    given: Dataset | None = None,
    logits: TeacherLogits | None = None,
) -> _Inputs:
    """What a run of these arguments would start from.

    Raises:
      UserError: if they cannot be right.
    """
    _check(recipe)
    check_export(recipe)
    dataset: Any = given or load(recipe, multilabel=None, streams=True)
    check_has_test(dataset)
    protocol = MULTILABEL if dataset.is_multilabel else SINGLE_LABEL
    if recipe.method not in protocol.distillers:
        raise UserError(
            f"Images of {dataset.name} have {protocol.labels} each. "
            + unknown_name("method for them", recipe.method, protocol.distillers)
        )
    if isinstance(recipe, MultilabelDistillation) != dataset.is_multilabel:
        start = "l2d" if dataset.is_multilabel else "dhkd"
        raise UserError(
            f"Images of {dataset.name} have {protocol.labels} each, and this recipe is not for "
            f"them: start from --config=configs/{start}.py."
        )
    check_batch_size(recipe, len(dataset.train))
    stored = stored_teacher(recipe, dataset)
    backbones = {role: backbone_source(recipe, role) for role in ROLES[:2]}
    needs_teacher = bool(stored) or recipe.method != protocol.labels_only
    own = needs_teacher and sees_own_images(recipe)
    start = backbones["teacher"]
    size = teacher_size(recipe, stored or cast(StoredClassifier, start)) if own else 0
    taught = dataset.train
    unlabeled = getattr(dataset, "unlabeled", None)
    if recipe.use_unlabeled and recipe.method != protocol.labels_only and unlabeled:
        taught = taught.join(unlabeled)
    if recipe.teacher.logits_file and logits is None and needs_teacher:
        logits = read_logits(recipe.teacher.logits_file, dataset, taught)
    asked = stored or (start and dataclasses.replace(start, num_classes=dataset.num_classes))
    distiller = _distiller(recipe, dataset, protocol, asked, logits)
    check_table(recipe, distiller, logits)
    if distiller.contrasts and _targets(recipe, dataset, taught):
        raise UserError(
            f"method {recipe.method} compares every image with others by their labels, so there "
            "can be no images without a label, weights, smoothing or mixup: leave out "
            "use_unlabeled, class_weights, label_smoothing and mixup."
        )
    own_images: Any = None
    if own and not stored and not is_frozen(recipe):
        if given is not None:
            raise UserError(
                "A teacher is fine-tuned on images of its own size from a folder; of images in "
                "memory give it a head, --config.teacher.train=head."
            )
        at_its_size = replace(recipe, {"dataset.image_size": size})
        own_images = load(at_its_size, multilabel=None, streams=True)
    return _Inputs(
        dataset, taught, protocol, distiller, stored, logits, backbones, own_images, size
    )


def _targets(recipe: DistillationRecipe, dataset: Any, taught: Any) -> Targets | None:
    """What is made of the labels, None if nothing is."""
    smoothing, mixup = recipe.label_smoothing, recipe.mixup
    has_weights = recipe.class_weights != "none"
    weighted = has_weights or len(taught) > len(dataset.train)
    if not (smoothing or mixup or weighted):
        return None
    return Targets(smoothing, mixup, weighted)


def _class_weights(recipe: DistillationRecipe, dataset: Any) -> np.ndarray:
    """Float32 `[C]`, of mean 1 over the labelled images."""
    counts = np.bincount(dataset.train.labels, minlength=dataset.num_classes)
    if recipe.class_weights == "none":
        return np.ones(len(counts), np.float32)
    return (counts.sum() / (len(counts) * np.maximum(counts, 1))).astype(np.float32)


def _with_told(recipe: DistillationRecipe, run_: Run, inputs: _Inputs) -> _Inputs:
    """The inputs with the logits of a teacher that sees other images than the student.

    They are computed once, unless the teacher is trained here; a resumed run reads them.
    """
    needs = inputs.distiller.has_teacher or inputs.stored
    if not inputs.size or inputs.own_images is not None or not needs:
        return inputs
    folder, file = run_.workdir / "teacher", run_.workdir / TEACHER_LOGITS
    if file.exists():
        told = read_logits((str(file),), inputs.dataset, inputs.taught)
        stored = inputs.stored or load_classifier(folder)
        return dataclasses.replace(
            inputs, stored=stored, logits=dataclasses.replace(told, name=stored.arch)
        )
    options = {"root": recipe.dataset.path, "size": inputs.size}
    stored = inputs.stored
    if stored is None:
        stored, told = frozen_teacher(
            cast(StoredClassifier, inputs.backbones["teacher"]),
            inputs.dataset,
            inputs.taught,
            seed=recipe.seed,
            balanced=recipe.class_weights == "balanced",
            **options,
        )
        save_classifier(stored, folder)
    else:
        told = logits_of(stored, inputs.dataset, inputs.taught, **options)
    write_logits(file, told, inputs.dataset, inputs.taught)
    return dataclasses.replace(inputs, stored=stored, logits=told)


def _check(recipe: DistillationRecipe) -> None:
    """Refuses values that no method could run with."""
    check_common(recipe)
    cycle = recipe.optimizer.cycle_epochs if isinstance(recipe, MultilabelDistillation) else 0
    trained = {"num_epochs": recipe.num_epochs}
    if not recipe.teacher.path and recipe.method != MULTILABEL.labels_only:
        trained["teacher.num_epochs"] = recipe.teacher.num_epochs
    for field, num_epochs in trained.items():
        if cycle and num_epochs > cycle:
            raise UserError(
                f"{field}={num_epochs} must be at most the {cycle} of optimizer.cycle_epochs, at "
                "whose end the learning rate is almost 0."
            )


def _classifier(
    recipe: DistillationRecipe,
    dataset: Dataset | FileDataset,
    name: str,
    auxiliary: str = "none",
) -> nn.Module:
    options = {"num_classes": dataset.num_classes, "dtype": compute_dtype(recipe.dtype)}
    if isinstance(recipe, MultilabelDistillation):
        return make_multilabel_classifier(
            name, decoder=dataclasses.asdict(recipe.decoder), **options
        )
    return make_classifier(name, auxiliary=auxiliary, **options)


def _distiller(
    recipe: DistillationRecipe,
    dataset: Dataset | FileDataset,
    protocol: Protocol,
    stored: StoredClassifier | None,
    logits: TeacherLogits | None,
) -> Distiller:
    """The recipe's method.

    Raises:
      UserError: if the recipe's options of the method, or of streamed images, are not valid.
    """
    if isinstance(dataset, FileDataset):
        view_transforms(recipe)
        image_shape = (recipe.dataset.image_size, recipe.dataset.image_size, 3)
    else:
        image_shape = dataset.train.images.shape[1:]
    dtype = compute_dtype(recipe.dtype)

    def features(module):
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        outputs, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), images)
        return outputs.features

    teacher = stored.module(dtype) if stored else _classifier(recipe, dataset, recipe.teacher.name)
    given = stored.arch if stored else logits and logits.name
    problem = Problem(
        num_classes=dataset.num_classes,
        student=recipe.student.name,
        teacher=given or recipe.teacher.name,
        student_features=features(_classifier(recipe, dataset, recipe.student.name)),
        teacher_features=features(teacher),
        dtype=dtype,
        num_examples=len(dataset.train),
    )
    return protocol.distillers[recipe.method](recipe, problem)


class _Distillation:
    """One experiment in progress."""

    def __init__(self, recipe: DistillationRecipe, run_: Run, inputs: _Inputs):
        self.recipe = recipe
        self.run = run_
        self.dataset, self.protocol = inputs.dataset, inputs.protocol
        self.stored, self.distiller = inputs.stored, inputs.distiller
        self.teacher_logits = inputs.logits
        self.taught, self.own_images = inputs.taught, inputs.own_images
        self.dtype = compute_dtype(recipe.dtype)
        dataset, put = self.dataset, run_.placement.put
        self._backbones = inputs.backbones
        images = images_of(inputs.taught, recipe, run_.placement)
        tested = images_of(dataset.test, recipe, run_.placement)
        self._images, self._test_images = dict.fromkeys(ROLES, images), dict.fromkeys(ROLES, tested)
        crops = {"padding": recipe.augment.padding, "flip": recipe.augment.flip}
        self._crops = dict.fromkeys(ROLES, crops)
        if self.own_images is not None:
            at_its_size = replace(recipe, {"dataset.image_size": inputs.size})
            for of_role, part in (
                (self._images, self.own_images.train),
                (self._test_images, self.own_images.test),
            ):
                of_role["teacher"] = images_of(part, at_its_size, run_.placement)
            padding = round(crops["padding"] * inputs.size / images.shape[0])
            self._crops["teacher"] = {**crops, "padding": padding}
        self.input_shape = images.shape
        # Whether the teacher's logits are in a table before the student's first step.
        self._tells = bool(self.teacher_logits) or self.own_images is not None
        start = self._backbones["teacher"]
        self.teacher_name = start.arch if start else recipe.teacher.name
        if self.stored:
            self.teacher_name = self.stored.arch
        elif self.teacher_logits:
            self.teacher_name = self.teacher_logits.name
        is_multilabel = isinstance(recipe, MultilabelDistillation)
        self.decoder = dataclasses.asdict(recipe.decoder) if is_multilabel else None
        self.has_teacher = bool(self.stored) or self.distiller.has_teacher
        is_given = bool(self.stored or self.teacher_logits)
        self.trains_teacher = self.has_teacher and not is_given
        has_baseline = recipe.with_baseline and self.distiller.has_teacher
        self.roles = ROLES if has_baseline else ROLES[:2]
        self.num_epochs = {
            "teacher": recipe.teacher.num_epochs if self.trains_teacher else 0,
            "student": recipe.num_epochs,
            "student_alone": recipe.num_epochs if has_baseline else 0,
        }
        self.saved = Saved(  # at the role's place in `ROLES`, and its epoch
            record={"epochs": {role: [] for role in self.roles}}, at=(0, 0)
        )
        self._targets = _targets(recipe, dataset, self.taught)
        self._labels: Any = put(self.taught.labels)
        if self._targets:
            weights = put(_class_weights(recipe, dataset))
            self._labels = {"labels": self._labels, "class_weights": weights}
        # A network sees images as it, or the backbone that it starts from, was trained on them.
        self._normalization: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
            role: (dataset.mean, dataset.std) for role in ROLES
        }
        for role, given in (("student", None), ("teacher", self.stored)):
            known = given or (None if dataset.is_multilabel else self._backbones[role])
            if known and known.mean:
                self._normalization[role] = known.mean, known.std
        self._normalization["student_alone"] = self._normalization["student"]
        self._statistics = {
            role: put(statistics_of(*constants)) for role, constants in self._normalization.items()
        }
        if self.stored:
            self._given = put(self.stored.variables)
        self._build_programs()

    @property
    def epochs(self) -> dict[str, list[dict]]:
        """What each network has scored on the test images, by role."""
        return self.saved.record["epochs"]

    # Programs

    def _build_programs(self) -> None:
        programs, placement, recipe = self.run.programs, self.run.placement, self.recipe
        count = len(self.taught)
        specs = self._specs()
        student = _classifier(recipe, self.dataset, recipe.student.name)
        predictors = {
            "teacher": specs["teacher"].module,
            "student": student,
            "student_alone": student,
        }
        static = (
            program_settings(recipe),
            self.input_shape,
            self.dataset.num_classes,
            count,
            len(self.dataset.train),
        )
        replicated = {"out_shardings": placement.replicated, "static": static}
        self._start, self._epoch, self._predict, self._pool = {}, {}, {}, {}

        def gather(role, name, output):
            spec = PredictSpec(predictors[role], self.dtype, output)
            return gather_program(
                programs,
                f"{role}/{name}",
                prediction(spec),
                len(self.dataset.test),
                placement,
                static=static,
            )

        for role, spec in specs.items():
            self._start[role] = programs.jit(
                f"{role}/start", initial_state(spec), is_start=True, **replicated
            )
            self._epoch[role] = epoch_program(
                programs, f"{role}/epoch", training_step(spec), placement, static=static
            )
            self._predict[role] = gather(role, "predict", "logits")
            self._pool[role] = gather(role, "pool", "pooled")
        table = TableSpec(
            predictors["teacher"],
            dtype=self.dtype,
            table_dtype=recipe.teacher.table_dtype,
            **self._crops["student"],
        )
        self._tabulate = gather_program(
            programs, "teacher/table", all_views(table), count, placement, static=static
        )
        if isinstance(recipe, Distillation):
            spec = DiagnosisSpec(
                specs["student"].module,
                self.distiller,
                predictors["teacher"] if self.has_teacher and not self._tells else None,
                recipe.distill.temperature or 2.0,
                self.dtype,
            )
            self._diagnose = programs.jit("diagnose", diagnosis(spec), **replicated)
            ids = _diagnosed(recipe.seed, len(self.dataset.train), recipe.num_diagnosed)
            images = self._images["student"].read(ids)
            self._diagnosed_ids = ids
            self._diagnosed = placement.put_split((images, self.dataset.train.labels[ids]))

    def _specs(self) -> dict[str, TrainSpec]:
        """How each network is trained."""
        recipe, dataset = self.recipe, self.dataset
        full_epoch = make_plan(
            np.arange(len(dataset.train)),
            recipe.batch_size,
            capacity=len(dataset.train),
            last_batch=recipe.last_batch,
        )
        common = {
            "optimizer": make_optimizer(recipe.optimizer, full_epoch.num_steps),
            "batch_size": recipe.batch_size,
            "dtype": self.dtype,
            "targets": self._targets,
            "ema": recipe.ema,
        }
        of_role = {
            role: {"input_shape": self._images[role].shape, **self._crops[role]} for role in ROLES
        }
        name = self._backbones["teacher"].arch if self._backbones["teacher"] else None
        teacher = (
            self.stored.module(self.dtype)
            if self.stored
            else _classifier(recipe, dataset, name or recipe.teacher.name)
        )
        student = _classifier(recipe, dataset, recipe.student.name, self.distiller.auxiliary)
        labels_only = self.protocol.distillers[self.protocol.labels_only](recipe, None)
        asks = self.distiller.has_teacher and not self._looks_up
        parts: dict[str, Any] = {"norm_parts": batch_norm_parts(recipe, self.run.placement)}
        if self.distiller.connector is not None:
            connector = self.distiller.connector.clone(**parts)
            self.distiller = dataclasses.replace(self.distiller, connector=connector)
        specs = {
            "teacher": TrainSpec(
                teacher.clone(**parts), labels_only, **common, **of_role["teacher"]
            ),
            "student": TrainSpec(
                student.clone(**parts),
                self.distiller,
                teacher=teacher if asks else None,
                **common,
                **of_role["student"],
            ),
        }
        if "student_alone" in self.roles:
            alone = _classifier(recipe, dataset, recipe.student.name).clone(**parts)
            specs["student_alone"] = TrainSpec(alone, labels_only, **common, **of_role["student"])
        return specs

    @property
    def _looks_up(self) -> bool:
        """Whether a step finds the teacher's logits in a table."""
        return has_table(self.recipe) or self._tells

    # The loop

    def distill(self) -> dict:
        """Trains what is to be trained, and returns the results."""
        run, saved, recipe = self.run, self.saved, self.recipe
        self._write_inputs()
        self._introduce()
        self._restore()
        introduce_networks(saved.networks, self.dtype, run)
        total = sum(self.num_epochs.values())
        run.start_progress(saved, total=total)
        first = saved.at
        for number in range(first[0], len(self.roles)):
            role = self.roles[number]
            if role == "student" or (number == first[0] and role == "student_alone"):
                self._settle_teacher()
            if role == "student" and self.distiller.has_teacher and self._looks_up:
                if self._epochs_before(saved.at) < self._epochs_before((1, recipe.num_epochs)):
                    self._table = self._teacher_table()
            for epoch in range(first[1] if number == first[0] else 0, self.num_epochs[role]):
                self._train(role, epoch)
                entry = self._test(role, epoch)
                self.epochs[role].append(entry)
                headline = self.protocol.headline
                where = f"{self._where(role, epoch)}, {headline} {100 * entry[headline]:.2f} %"
                run.epoch_done(saved, at=(number, epoch + 1), where=where)
        run.save(saved)
        return self._finish()

    def _epochs_before(self, at: tuple[int, ...]) -> int:
        """Finished epochs of both networks."""
        number, epoch = at
        return sum(self.num_epochs[role] for role in self.roles[:number]) + epoch

    def _where(self, role: str, epoch: int) -> str:
        return f"{role} epoch {epoch + 1}/{self.num_epochs[role]}"

    def _test(self, role: str, epoch: int) -> dict[str, Any]:
        """What a network scores after an epoch and, of the student, how its gradients agree."""
        entry = {"epoch": epoch, **self._test_measures(role)}
        self._write("test", role, role, epoch, entry)
        if role == "student" and self.protocol.diagnoses:
            entry["diagnosis"] = self._diagnose_epoch(epoch)
        return entry

    def _train(self, role: str, epoch: int) -> None:
        """An epoch, or what is left of it."""
        recipe, seed = self.recipe, self.recipe.seed
        count = len(self.taught if role == "student" else self.dataset.train)
        # The student alone starts from the same weights and sees the same batches.
        drawn = "student" if role == "student_alone" else role
        plan = place_plan(
            rng.generator(seed, f"{drawn}/order", epoch).permutation(count),
            recipe.batch_size,
            self.run.placement,
            capacity=count,
            last_batch=recipe.last_batch,
        )
        warm_up = self.distiller.warm_up if role == "student" else 0
        until_epoch = recipe.distill_until_epoch or self.distiller.until_epoch
        scalars = {
            "learning_rate": self._learning_rate(role, epoch),
            **distillation_schedule(epoch, warm_up=warm_up, until_epoch=until_epoch),
        }
        uses_teacher = role == "student" and self.distiller.has_teacher
        self.run.train(
            self.saved,
            role,
            self._epoch[role],
            plan,
            rng.stream(seed, f"{drawn}/epoch", epoch),
            self._teacher_operand() if uses_teacher else {},
            self._images[role].visit(("weak",), f"{drawn}/epoch", epoch),
            self._labels,
            self._statistics[role],
            scalars=scalars,
            at=(ROLES.index(role), epoch),
            event={
                "phase": role,
                "epoch": epoch,
                "steps": [epoch * plan.num_steps + 1, (epoch + 1) * plan.num_steps],
            },
            where=self._where(role, epoch),
            notes=scalars,
        )

    def _learning_rate(self, role: str, epoch: int) -> float:
        optimizer = self.recipe.optimizer
        name = self.teacher_name if role == "teacher" else self.recipe.student.name
        if name in MOBILE_BACKBONES and isinstance(optimizer, StudentSgd):
            rate = optimizer.mobile_learning_rate
            optimizer = dataclasses.replace(optimizer, learning_rate=rate)
        teacher = self.recipe.teacher
        if role == "teacher" and self._backbones["teacher"] and isinstance(teacher, Teacher):
            rate = teacher.learning_rate
            optimizer = dataclasses.replace(optimizer, learning_rate=rate)
        return learning_rate(optimizer, epoch, self.num_epochs[role])

    def _variables(self, role: str) -> dict[str, Any]:
        """What the predictions of a network need."""
        if role == "teacher" and self.stored:
            return self._given
        network = cast(ClassifierState, self.saved.networks[role])
        return inference_variables(network.predicting)

    def _operand(self, role: str) -> dict[str, Any]:
        """A network that predicts, as an operand of programs."""
        return {"variables": self._variables(role), "statistics": self._statistics[role]}

    def _teacher_operand(self) -> dict[str, Any]:
        """What a step finds the teacher's outputs in: a table of its logits, or the teacher."""
        return {"table": self._table} if self._looks_up else self._operand("teacher")

    def _logits(self, role: str) -> np.ndarray:
        """Logits on the test images."""
        return self._outputs(self._predict[role], role, np.arange(len(self.dataset.test)))

    def _outputs(self, program: Any, role: str, ids: np.ndarray) -> np.ndarray:
        """What a program of predictions makes of test images."""
        plan = place_plan(
            ids,
            self.recipe.eval_batch_size,
            self.run.placement,
            capacity=len(self.dataset.test),
        )
        key = rng.stream(self.recipe.seed, f"{role}/predict")
        images = self._test_images[role].visit(("test",), f"{role}/predict")
        return fetch(program(plan, key, self._operand(role), images))[ids]

    def _comparison(self) -> dict[str, float]:
        """Measures of `multilabel_comparison`."""
        test = self.dataset.test
        roles = ("student", "teacher") if self.has_teacher else ("student",)
        ids = np.arange(len(test))
        if len(ids) > MAX_RETRIEVED:
            draw = rng.generator(self.recipe.seed, "retrieval")
            ids = np.sort(draw.choice(len(test), MAX_RETRIEVED, replace=False))
        return multilabel_comparison(
            {role: np.asarray(self.protocol.probabilities(self._logits(role))) for role in roles},
            {role: self._outputs(self._pool[role], role, ids) for role in roles},
            test.labels[ids],
        )

    def _teacher_table(self) -> jax.Array:
        """The teacher's logits `[N, V, C]` on all views of all training images."""
        if self.teacher_logits:
            dtype = self.recipe.teacher.table_dtype
            return self.run.placement.put(self.teacher_logits.train.astype(dtype))
        count, views = len(self.taught), num_views(**self._crops["student"])
        size = count * views * self.dataset.num_classes
        bytes_ = size * jnp.dtype(self.recipe.teacher.table_dtype).itemsize
        log.info(
            "Teacher's logits on %d views of %d images: %.2f GB of every device's memory",
            views,
            count,
            bytes_ / 1e9,
        )
        plan = place_plan(
            np.arange(count),
            max(self.recipe.eval_batch_size // views, 1),
            self.run.placement,
            capacity=count,
        )
        key = rng.stream(self.recipe.seed, "teacher/table")
        images = self._images["student"].visit(("weak",), "teacher/table")
        return self._tabulate(plan, key, self._operand("teacher"), images)

    def _test_measures(self, role: str) -> dict[str, float]:
        return self.protocol.measures(self._logits(role), self.dataset.test.labels)

    def _diagnose_epoch(self, epoch: int) -> dict[str, dict[str, float]]:
        if self.teacher_logits:
            plain = self.teacher_logits.plain(self._diagnosed_ids, **self._crops["student"])
            teacher = {"logits": self.run.placement.put(plain)}
        else:
            teacher = self._operand("teacher") if self.has_teacher else {}
        values = self._diagnose(
            self.saved.networks["student"].variables,
            teacher,
            *self._diagnosed,
            self._statistics["student"],
        )
        values = jax.tree.map(float, fetch(values))
        for name, measures in values.items():
            self._write("diagnosis", "student", name, epoch, measures)
        return values

    def _write(self, split: str, role: str, phase: str, epoch: int, values: dict) -> None:
        step = self._epochs_before((ROLES.index(role), epoch + 1))
        values = {name: value for name, value in values.items() if name != "epoch"}
        self.run.write({"step": step, "split": split, "phase": phase, "epoch": epoch}, values)

    def _restore(self) -> None:
        """The networks at their start, or what the latest checkpoint holds."""
        for role in self.roles if self.trains_teacher else self.roles[1:]:
            drawn = "student" if role == "student_alone" else role
            network = self._start[role](rng.stream(self.recipe.seed, f"{drawn}/start"))
            if stored := self._backbones[drawn]:
                network = start_from(network, stored, self.run.placement)
            self.saved.networks[role] = network
        self.run.restore(self.saved, self._epochs_before)

    # Files

    def _write_inputs(self) -> None:
        """`inputs.json`: which data and which teacher the run saw."""
        facts = {
            "dataset_sha256": fingerprint(self.dataset),
            "class_names": list(self.dataset.class_names),
            "teacher_sha256": digest(self.stored.variables) if self.stored else None,
        }
        if self.teacher_logits:
            facts["teacher_sha256"] = digest(self.teacher_logits.arrays)
        self.run.begin("inputs.json", facts, dtype=self.dtype)

    def _settle_teacher(self) -> None:
        """`teacher/`, once it is trained, and what it scores."""
        if self.trains_teacher:
            trained = self._as_stored("teacher")
            save_classifier(trained, self.run.workdir / "teacher")
            if self.own_images is not None:
                self._tell(trained)
        elif self.teacher_logits and not self.epochs["teacher"]:
            logits = self.teacher_logits.test
            if logits is not None:
                measures = self.protocol.measures(logits, self.dataset.test.labels)
                self.epochs["teacher"].append(measures)
        elif self.stored and not self.epochs["teacher"]:
            self.epochs["teacher"].append(self._test_measures("teacher"))
        if self.epochs["teacher"]:
            scored = self.protocol.describe(self.epochs["teacher"][-1])
            log.info("Teacher %s: %s", self.teacher_name, scored)

    def _tell(self, trained: StoredClassifier) -> None:
        """The logits, computed once, of a teacher that sees images of its own size."""
        file = self.run.workdir / TEACHER_LOGITS
        if file.exists():
            told = read_logits((str(file),), self.dataset, self.taught)
            self.teacher_logits = dataclasses.replace(told, name=trained.arch)
            return
        size, root = trained.image_shape[0], self.recipe.dataset.path
        told = logits_of(trained, self.dataset, self.taught, root=root, size=size)
        write_logits(file, told, self.dataset, self.taught)
        self.teacher_logits = told

    def _as_stored(self, role: str) -> StoredClassifier:
        dataset, (mean, std) = self.dataset, self._normalization[role]
        return StoredClassifier(
            arch=self.teacher_name if role == "teacher" else self.recipe.student.name,
            num_classes=dataset.num_classes,
            variables=fetch(self._variables(role)),
            class_names=dataset.class_names,
            image_shape=self._images[role].shape,
            mean=mean,
            std=std,
            decoder=self.stored.decoder if role == "teacher" and self.stored else self.decoder,
        )

    def _teacher(self) -> StoredClassifier | None:
        """The teacher, None where there is none or only its logits are known."""
        if self.stored or not self.trains_teacher:
            stored = self.stored
            if stored and not stored.image_shape:
                return dataclasses.replace(stored, image_shape=self.input_shape)
            return stored
        return self._as_stored("teacher")

    def _class_by_class(self) -> dict[str, Any]:
        """`agreement`, the share of test images of which student and teacher name the same class,
        and `classes`, what every network has right of each class."""
        labels, predicted = self.dataset.test.labels, {}
        for role in ("student", "student_alone"):
            if role in self.roles:
                predicted[role] = self._logits(role).argmax(axis=1)
        if self.teacher_logits:
            if self.teacher_logits.test is not None:
                predicted["teacher"] = self.teacher_logits.test.argmax(axis=1)
        elif self.has_teacher:
            predicted["teacher"] = self._logits("teacher").argmax(axis=1)
        names = self.dataset.class_names
        counts = np.bincount(labels, minlength=len(names))
        right = {
            role: np.bincount(labels[classes == labels], minlength=len(names))
            for role, classes in predicted.items()
        }
        rows = [
            {
                "class": name,
                "test_images": int(counts[i]),
                **{role: float(hits[i] / max(counts[i], 1)) for role, hits in right.items()},
            }
            for i, name in enumerate(names)
        ]
        found: dict[str, Any] = {"classes": rows}
        if "teacher" in predicted:
            same = predicted["student"] == predicted["teacher"]
            found["agreement"] = float(same.mean())
        return found

    def _measure_latency(self, student: StoredClassifier) -> None:
        """`latency.json`, apart from the results, which are the same in every run."""
        networks = {"student": student, "teacher": self._teacher() if self.has_teacher else None}
        write_json(
            self.run.workdir / LATENCY,
            {role: milliseconds(network) for role, network in networks.items() if network},
        )

    def _draw(self, results: dict) -> None:
        workdir, test = self.run.workdir, self.dataset.test
        self.protocol.draw_curves(
            {self.recipe.method: [results]}, workdir / "figures" / "epochs.png"
        )
        probs = np.asarray(self.protocol.probabilities(self._logits("student")))
        write_test_files(workdir, probs, test.labels, self.dataset.class_names)

    # What the user sees

    def _introduce(self) -> None:
        log.info(
            "%s on %s: %d training images, %d classes, %s%s",
            self.recipe.method,
            self.dataset.name,
            len(self.taught),
            self.dataset.num_classes,
            self.recipe.student.name,
            f" taught by {self.teacher_name}" if self.has_teacher else "",
        )

    def _finish(self) -> dict:
        epochs, workdir = self.epochs["student"], self.run.workdir
        student = self._as_stored("student")
        results = {
            "task": "distillation",
            "method": self.recipe.method,
            "dataset": self.dataset.name,
            "seed": self.recipe.seed,
            "num_classes": self.dataset.num_classes,
            "student": {
                "name": student.arch,
                "auxiliary": self.distiller.auxiliary,
                **cost(student)._asdict(),
            },
            "teacher": None,
            "last": epochs[-1],
            "best": self.protocol.best(epochs),
            "epochs": epochs,
        }
        if self.has_teacher:
            tested = self.epochs["teacher"][-1] if self.epochs["teacher"] else {}
            measures = {k: v for k, v in tested.items() if k != "epoch"}
            results["teacher"] = {"name": self.teacher_name, **measures}
            if teacher := self._teacher():
                results["teacher"] |= cost(teacher)._asdict()
        if alone := self.epochs.get("student_alone"):
            results["student_alone"] = {"last": alone[-1], "best": self.protocol.best(alone)}
        if not self.dataset.is_multilabel:
            results |= self._class_by_class()
        if self.recipe.measure_latency:
            self._measure_latency(student)
        if self.protocol.compares:
            results["comparison"] = self._comparison()
        results["student"]["files"] = write_student(
            workdir / "student",
            student,
            self.recipe,
            dtype=self.dtype,
            results=results,
            num_examples=len(self.dataset.train),
        )
        self._draw(results)
        best = results["best"]
        lines = [
            f"last epoch: {self.protocol.describe(epochs[-1])}; best {self.protocol.headline} "
            f"{100 * best[self.protocol.headline]:.2f} % (epoch {best['epoch'] + 1}), "
            f"{self.run.seconds:.0f} s in all",
            f"results: {workdir / 'results.json'}",
            f"student, without the auxiliary head: {workdir / 'student'}",
            f"figures: {workdir / 'figures'}",
            next_command(workdir),
        ]
        if alone:
            lines.insert(1, f"student alone: {self.protocol.describe(alone[-1])}")
        self.run.finish(results, lines)
        return results


def _diagnosed(seed: int, count: int, num_diagnosed: int) -> np.ndarray:
    """Ids of the images on which gradients are compared, the same in every epoch."""
    ids = rng.generator(seed, "diagnosis").choice(count, min(num_diagnosed, count), replace=False)
    return np.sort(ids).astype(np.int32)
