"""What a distillation run starts from, read and checked before its workdir is opened."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.data.dataset import Dataset, FileDataset, check_has_test
from jaxrobust.engine.plan import pad_rows
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.methods.distillation_steps import Targets
from jaxrobust.methods.distiller import DistillationProblem, Distiller
from jaxrobust.models import make_classifier, make_multilabel_classifier
from jaxrobust.models.storage import StoredClassifier
from jaxrobust.recipes.fields import replace
from jaxrobust.recipes.l2d import MultilabelDistillation
from jaxrobust.recipes.parse import DistillationRecipe
from jaxrobust.tasks.common import check_batch_size, check_common, compute_dtype, load
from jaxrobust.tasks.distillation_measures import MULTILABEL, SINGLE_LABEL, Protocol
from jaxrobust.tasks.images import rows_on_devices, view_transforms
from jaxrobust.tasks.student_folder import check_export
from jaxrobust.tasks.teachers import (
    NetworkTeacher,
    Teacher,
    TeacherLogits,
    backbone_source,
    check_table,
    find_teacher,
)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a run starts from.

    Attributes:
      dataset: the images.
      protocol: what is measured on them.
      distiller: the method.
      taught: training images of the student: the labelled ones, then those without a label.
      teacher: None if there is none.
      student_start: network whose backbone the student starts from; None: from its initialisation.
      rows: number of examples -> their rows in programs; see `rows_on_devices`.
    """

    dataset: Dataset | FileDataset
    taught: Any
    protocol: Protocol
    distiller: Distiller
    teacher: Teacher | None
    student_start: StoredClassifier | None
    rows: Callable[[int], int]

    def padded(self, values: np.ndarray) -> np.ndarray:
        """Values of examples with a row for each of the rows of programs."""
        return pad_rows(values, self.rows(len(values)))


def read_inputs(
    recipe: DistillationRecipe,
    given: Dataset | None = None,
    logits: TeacherLogits | None = None,
    *,
    pads: bool = False,
) -> Inputs:
    """What a run of these arguments would start from.

    Raises:
      UserError: if they cannot be right.
    """
    _check(recipe)
    check_export(recipe)
    dataset: Any = given or load(recipe, multilabel=None, streams=True)
    check_has_test(dataset)
    protocol = _protocol(recipe, dataset)
    check_batch_size(recipe, len(dataset.train))
    has_method = recipe.method != protocol.labels_only
    taught = dataset.train
    unlabeled = getattr(dataset, "unlabeled", None)
    if recipe.use_unlabeled and has_method and unlabeled:
        taught = taught.join(unlabeled)
    teacher = find_teacher(recipe, dataset, taught, logits, is_needed=has_method)
    student_start = backbone_source(recipe, "student")
    distiller = _distiller(recipe, dataset, protocol, teacher)
    check_table(recipe, distiller, teacher.logits if teacher else logits)
    if distiller.contrasts and targets_of(recipe, dataset, taught):
        raise UserError(
            f"method {recipe.method} compares every image with others by their labels, so it does "
            "not support unlabelled images, soft labels, weights, smoothing or mixup: leave out "
            "use_unlabeled, class_weights, label_smoothing and mixup, and give one label per image."
        )
    if isinstance(teacher, NetworkTeacher) and teacher.is_trained and teacher.size:
        if given is not None:
            raise UserError(
                "A teacher is fine-tuned on images of its own size only from a folder; for "
                "images in memory, train a head: --config.teacher.train=head."
            )
        at_its_size = replace(recipe, {"dataset.image_size": teacher.size})
        own_images: Any = load(at_its_size, multilabel=None, streams=True)
        teacher = dataclasses.replace(teacher, own_images=own_images)
    rows = functools.partial(
        rows_on_devices, method=protocol.distillers.entry(recipe.method), pads=pads
    )
    return Inputs(dataset, taught, protocol, distiller, teacher, student_start, rows)


def _protocol(recipe: DistillationRecipe, dataset: Any) -> Protocol:
    """That of the data set, which the recipe's method must be for."""
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
    return protocol


def targets_of(recipe: DistillationRecipe, dataset: Any, taught: Any) -> Targets | None:
    """How labels become targets; None: unchanged."""
    smoothing, mixup = recipe.label_smoothing, recipe.mixup
    has_weights = recipe.class_weights != "none"
    weighted = has_weights or len(taught) > len(dataset.train)
    soft = getattr(taught, "probs", None) is not None
    if not (smoothing or mixup or weighted or soft):
        return None
    return Targets(smoothing, mixup, weighted, soft)


def class_weights(recipe: DistillationRecipe, dataset: Any) -> np.ndarray:
    """Float32 `[C]`, of mean 1 over the labelled images."""
    counts = np.bincount(dataset.train.labels, minlength=dataset.num_classes)
    if recipe.class_weights == "none":
        return np.ones(len(counts), np.float32)
    return (counts.sum() / (len(counts) * np.maximum(counts, 1))).astype(np.float32)


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


def image_shape(recipe: DistillationRecipe, dataset: Dataset | FileDataset) -> tuple[int, ...]:
    """(H, W, 3) of the student's images."""
    if isinstance(dataset, FileDataset):
        return (recipe.dataset.image_size, recipe.dataset.image_size, 3)
    return dataset.train.images.shape[1:]


def classifier_module(
    recipe: DistillationRecipe,
    dataset: Dataset | FileDataset,
    name: str,
    auxiliary: str = "none",
) -> nn.Module:
    """A network for the classes of a data set, with the recipe's decoder for several labels."""
    options = {"num_classes": dataset.num_classes, "dtype": compute_dtype(recipe.dtype)}
    if isinstance(recipe, MultilabelDistillation):
        return make_multilabel_classifier(
            name, decoder=dataclasses.asdict(recipe.decoder), **options
        )
    return make_classifier(name, auxiliary=auxiliary, **options)


def teacher_module(
    recipe: DistillationRecipe, dataset: Dataset | FileDataset, teacher: Teacher | None
) -> nn.Module:
    """The teacher's network; of logits alone, whatever the recipe names."""
    if teacher and teacher.network:
        return teacher.network.module(compute_dtype(recipe.dtype))
    start = teacher.start if teacher else None
    return classifier_module(recipe, dataset, start.arch if start else recipe.teacher.name)


def _distiller(
    recipe: DistillationRecipe,
    dataset: Dataset | FileDataset,
    protocol: Protocol,
    teacher: Teacher | None,
) -> Distiller:
    """The recipe's method.

    Raises:
      UserError: if the recipe's options of the method, or of streamed images, are not valid.
    """
    if isinstance(dataset, FileDataset):
        view_transforms(recipe)

    def features(module):
        images = jax.ShapeDtypeStruct((1, *image_shape(recipe, dataset)), jnp.float32)
        outputs, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), images)
        return outputs.features

    problem = DistillationProblem(
        num_classes=dataset.num_classes,
        student=recipe.student.name,
        teacher=teacher.name if teacher else recipe.teacher.name,
        student_features=features(classifier_module(recipe, dataset, recipe.student.name)),
        teacher_features=features(teacher_module(recipe, dataset, teacher)),
        dtype=compute_dtype(recipe.dtype),
        num_examples=len(dataset.train),
    )
    return protocol.distillers[recipe.method](recipe, problem)
