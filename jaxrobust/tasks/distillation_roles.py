"""The networks of a distillation run: what each starts from and sees, and its compiled programs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import numpy as np

from jaxrobust.data.views import statistics_of
from jaxrobust.engine.loops import epoch_program, gather_program
from jaxrobust.engine.optim import learning_rate, make_optimizer
from jaxrobust.engine.plan import make_plan
from jaxrobust.engine.run import Run
from jaxrobust.methods.distillation_steps import (
    PredictSpec,
    TableSpec,
    TrainSpec,
    all_views,
    initial_state,
    prediction,
    training_step,
)
from jaxrobust.methods.distiller import Distiller
from jaxrobust.methods.gradient_diagnosis import DiagnosisSpec, diagnosis
from jaxrobust.models import MOBILE_BACKBONES
from jaxrobust.models.storage import StoredClassifier
from jaxrobust.recipes.dhkd import Distillation, TeacherOptions
from jaxrobust.recipes.fields import replace
from jaxrobust.recipes.parse import DistillationRecipe
from jaxrobust.recipes.run import OneCycleAdam, StudentSgd
from jaxrobust.tasks.common import batch_norm_parts, compute_dtype, program_settings
from jaxrobust.tasks.distillation_inputs import (
    Inputs,
    classifier_module,
    image_shape,
    targets_of,
    teacher_module,
)
from jaxrobust.tasks.images import images_of
from jaxrobust.tasks.teachers import NetworkTeacher, Teacher, has_table

ROLES: tuple[str, ...] = ("teacher", "student", "student_alone")
"""The networks of a run, in the order in which they are trained; not every run has all."""


@dataclasses.dataclass(frozen=True, eq=False)
class RoleView:
    """What a network sees.

    Attributes:
      images, test_images: of the splits.
      crops: padding and flip of random crops.
      mean, std: that images are normalised with, those of the network's training or its backbone's.
      statistics: the same on the devices.
    """

    images: Any
    test_images: Any
    crops: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    statistics: dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Role:
    """One network of a run.

    Attributes:
      name: one of `ROLES`.
      arch: name of its architecture.
      num_epochs: 0: it is not trained in this run.
      num_examples: it is trained on the first so many images.
      start: network whose backbone it starts from; None: from its initialisation.
      optimizer: options, with the network's own learning rate.
      view: what it sees.
      initialize, train, predict, pool: programs of its start, of an epoch, and of the logits and
        the pooled features of test images.
    """

    name: str
    arch: str
    num_epochs: int
    num_examples: int
    start: StoredClassifier | None
    optimizer: Any
    view: RoleView
    initialize: Callable
    train: Callable
    predict: Callable
    pool: Callable

    @property
    def draws(self) -> str:
        """Name in random streams: the student alone starts and is trained as the student is."""
        return "student" if self.name == "student_alone" else self.name

    @property
    def number(self) -> int:
        """Place in `ROLES`."""
        return ROLES.index(self.name)

    def learning_rate(self, epoch: int) -> float:
        """That of an epoch, counted from 0."""
        return learning_rate(self.optimizer, epoch, self.num_epochs)


@dataclasses.dataclass(frozen=True, eq=False)
class Networks:
    """The networks of a run, and the programs of two of them.

    Attributes:
      roles: by name, in the order in which they are trained.
      distiller: the method, with its connector as it is trained.
      tabulate: program of the teacher's logits on all views.
      diagnose: program that compares gradients; None for images with several labels.
    """

    roles: dict[str, Role]
    distiller: Distiller
    tabulate: Callable
    diagnose: Callable | None


def uses_table(recipe: DistillationRecipe, teacher: Teacher | None) -> bool:
    """Whether a step reads the teacher's logits from a table."""
    return has_table(recipe) or bool(teacher and teacher.gives_logits)


def make_networks(recipe: DistillationRecipe, run_: Run, inputs: Inputs) -> Networks:
    """The networks of a run before their first step, none of their programs compiled yet."""
    dataset, teacher, distiller = inputs.dataset, inputs.teacher, inputs.distiller
    maker = _Maker(recipe, run_, inputs)
    if distiller.connector is not None:
        connector = maker.trained(distiller.connector)
        distiller = dataclasses.replace(distiller, connector=connector)
    view = _student_view(recipe, run_, inputs)
    labels_only = inputs.protocol.distillers[inputs.protocol.labels_only](recipe, None)
    teacher_net = teacher_module(recipe, dataset, teacher)
    student = classifier_module(recipe, dataset, recipe.student.name)
    two_headed = classifier_module(recipe, dataset, recipe.student.name, distiller.auxiliary)
    is_applied = distiller.has_teacher and not uses_table(recipe, teacher)
    arch, start = teacher.name if teacher else recipe.teacher.name, teacher and teacher.start
    of_teacher = maker.role(
        "teacher",
        teacher_net,
        labels_only,
        applied=maker.trained(teacher_net),
        view=_teacher_view(recipe, run_, inputs, view),
        arch=arch,
        start=start,
        optimizer=_optimizer(recipe, arch, start),
        num_epochs=recipe.teacher.num_epochs if teacher and teacher.is_trained else 0,
        num_examples=len(dataset.train),
    )
    common = {
        "applied": student,
        "view": view,
        "arch": recipe.student.name,
        "start": inputs.student_start,
        "optimizer": _optimizer(recipe, recipe.student.name),
        "num_epochs": recipe.num_epochs,
    }
    roles = [
        of_teacher,
        maker.role(
            "student",
            two_headed,
            distiller,
            teacher=teacher_net if is_applied else None,
            num_examples=len(inputs.taught),
            **common,
        ),
    ]
    if recipe.with_baseline and distiller.has_teacher:
        count = len(dataset.train)
        roles.append(
            maker.role("student_alone", student, labels_only, num_examples=count, **common)
        )
    teacher_net = maker.trained(teacher_net)
    table = TableSpec(
        teacher_net, dtype=maker.dtype, table_dtype=recipe.teacher.table_dtype, **view.crops
    )
    diagnose = None
    if isinstance(recipe, Distillation):
        spec = DiagnosisSpec(
            maker.trained(two_headed),
            distiller,
            teacher_net if teacher and not teacher.gives_logits else None,
            recipe.distill.temperature or 2.0,
            maker.dtype,
        )
        diagnose = run_.programs.jit("diagnose", diagnosis(spec), **maker.replicated)
    return Networks(
        roles={role.name: role for role in roles},
        distiller=distiller,
        tabulate=maker.gathered("teacher/table", all_views(table), inputs.rows(len(inputs.taught))),
        diagnose=diagnose,
    )


class _Maker:
    """Makes roles with all that they have in common."""

    def __init__(self, recipe: DistillationRecipe, run_: Run, inputs: Inputs):
        dataset, taught = inputs.dataset, inputs.taught
        self._run, self._num_tested = run_, inputs.rows(len(dataset.test))
        self.dtype = compute_dtype(recipe.dtype)
        full_epoch = make_plan(
            np.arange(len(dataset.train)),
            recipe.batch_size,
            capacity=len(dataset.train),
            last_batch=recipe.last_batch,
        )
        self._static = (
            program_settings(recipe),
            image_shape(recipe, dataset),
            dataset.num_classes,
            inputs.rows(len(taught)),
            inputs.rows(len(dataset.train)),
            # By which alone a schedule depends on the number of images.
            full_epoch.num_steps if isinstance(recipe.optimizer, OneCycleAdam) else 0,
        )
        self._parts: dict[str, Any] = {"norm_parts": batch_norm_parts(recipe, run_.placement)}
        self._training = {
            "optimizer": make_optimizer(recipe.optimizer, full_epoch.num_steps),
            "batch_size": recipe.batch_size,
            "dtype": self.dtype,
            "targets": targets_of(recipe, dataset, taught),
            "ema": recipe.ema,
        }

    @property
    def replicated(self) -> dict[str, Any]:
        """Options of a program whose outputs are on every device."""
        return {"out_shardings": self._run.placement.replicated, "static": self._static}

    def trained(self, module: nn.Module) -> Any:
        """A module as it is trained: with the recipe's parts of a batch in BatchNorm."""
        return module.clone(**self._parts)

    def gathered(self, name: str, function: Callable, count: int) -> Callable:
        """The program of a function of `count` images."""
        run_ = self._run
        return gather_program(
            run_.programs, name, function, count, run_.placement, static=self._static
        )

    def role(
        self,
        name: str,
        module: nn.Module,
        distiller: Distiller,
        *,
        applied: nn.Module,
        view: RoleView,
        teacher: nn.Module | None = None,
        **fields: Any,
    ) -> Role:
        """A network that is trained as `module` and predicts as `applied`."""
        programs, placement = self._run.programs, self._run.placement
        spec = TrainSpec(
            self.trained(module),
            distiller,
            input_shape=view.images.shape,
            teacher=teacher,
            **view.crops,
            **self._training,
        )

        def tests(program, output):
            function = prediction(PredictSpec(applied, self.dtype, output))
            return self.gathered(f"{name}/{program}", function, self._num_tested)

        return Role(
            name=name,
            view=view,
            initialize=programs.jit(
                f"{name}/start", initial_state(spec), is_start=True, **self.replicated
            ),
            train=epoch_program(
                programs, f"{name}/epoch", training_step(spec), placement, static=self._static
            ),
            predict=tests("predict", "logits"),
            pool=tests("pool", "pooled"),
            **fields,
        )


def _student_view(recipe: DistillationRecipe, run_: Run, inputs: Inputs) -> RoleView:
    dataset, start, placement = inputs.dataset, inputs.student_start, run_.placement
    mean, std = dataset.mean, dataset.std
    if start and start.mean and not dataset.is_multilabel:
        mean, std = start.mean, start.std
    return RoleView(
        images_of(inputs.taught, recipe, placement, inputs.rows(len(inputs.taught))),
        images_of(dataset.test, recipe, placement, inputs.rows(len(dataset.test))),
        {"padding": recipe.augment.padding, "flip": recipe.augment.flip},
        mean,
        std,
        placement.put(statistics_of(mean, std)),
    )


def _teacher_view(
    recipe: DistillationRecipe, run_: Run, inputs: Inputs, student: RoleView
) -> RoleView:
    """The student's images, or the teacher's own; normalised as its own training was."""
    dataset, teacher, placement = inputs.dataset, inputs.teacher, run_.placement
    mean, std = dataset.mean, dataset.std
    known = None
    if teacher:
        known = teacher.network or (None if dataset.is_multilabel else teacher.start)
    if known and known.mean:
        mean, std = known.mean, known.std
    view = dataclasses.replace(
        student, mean=mean, std=std, statistics=placement.put(statistics_of(mean, std))
    )
    if not isinstance(teacher, NetworkTeacher) or teacher.own_images is None:
        return view
    at_its_size = replace(recipe, {"dataset.image_size": teacher.size})
    padding = round(student.crops["padding"] * teacher.size / student.images.shape[0])
    return dataclasses.replace(
        view,
        images=images_of(teacher.own_images.train, at_its_size, placement),
        test_images=images_of(teacher.own_images.test, at_its_size, placement),
        crops={**student.crops, "padding": padding},
    )


def _optimizer(
    recipe: DistillationRecipe, arch: str, teacher_start: StoredClassifier | None = None
) -> Any:
    """The recipe's optimiser with the learning rate of a network."""
    optimizer, teacher = recipe.optimizer, recipe.teacher
    if arch in MOBILE_BACKBONES and isinstance(optimizer, StudentSgd):
        rate = optimizer.mobile_learning_rate
        optimizer = dataclasses.replace(optimizer, learning_rate=rate)
    if teacher_start and isinstance(teacher, TeacherOptions):
        optimizer = dataclasses.replace(optimizer, learning_rate=teacher.learning_rate)
    return optimizer
