"""The interface between the distillation task and a method, as a record of pure functions."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxrobust.losses import masked_mean
from jaxrobust.models.auxiliary_head import Outputs as SingleLabelOutputs
from jaxrobust.models.layers import FeatureMaps
from jaxrobust.models.ml_decoder import MultiLabelOutputs

Outputs = SingleLabelOutputs | MultiLabelOutputs


@dataclasses.dataclass(frozen=True)
class DistillationProblem:
    """The problem that a method is built for.

    Attributes:
      num_classes: C.
      student, teacher: names of the architectures.
      student_features, teacher_features: shapes of the networks' features for one image.
      dtype: computation dtype of the networks.
      num_examples: N, training images.
    """

    num_classes: int
    student: str
    teacher: str
    student_features: FeatureMaps
    teacher_features: FeatureMaps
    dtype: Any
    num_examples: int


class SoftLabels(NamedTuple):
    """Labels of images that have several classes each, or none.

    Attributes:
      ids: int32 `[B]`, a single class for each image: the one with the largest share, or the
        teacher's prediction for an unlabelled image.
      targets: float32 `[B, C]`; a row sums to the weight of its image, which is 0 without a label.
    """

    ids: jax.Array
    targets: jax.Array


Labels = jax.Array | SoftLabels
"""Int `[B]`, {0, 1} `[B, C]`, or soft labels."""


def class_ids(labels: Labels) -> jax.Array:
    """Int `[B]`, one class for each image."""
    return labels.ids if isinstance(labels, SoftLabels) else labels


def cross_entropy_loss(logits: jax.Array, labels: Labels, where: jax.Array | None) -> jax.Array:
    """Mean of `-sum_c t_c log softmax(logits)_c` over the valid examples that have a label."""
    if isinstance(labels, SoftLabels):
        has_label = jnp.any(labels.targets > 0, axis=-1)
        where = has_label if where is None else where & has_label
        return masked_mean(optax.softmax_cross_entropy(logits, labels.targets), where)
    return masked_mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels), where)


# (student, teacher or None, labels [B] or targets [B, C], where [B]) -> numbers to report
Measures = Callable[[Outputs, Outputs | None, Labels, jax.Array], dict[str, jax.Array]]

# (student, teacher or None, labels [B] or targets [B, C], where [B], ramp) -> (loss_cls, loss_kd)
Objective = Callable[
    [Outputs, Outputs | None, Labels, jax.Array, jax.Array], tuple[jax.Array, jax.Array]
]


def _accuracy(
    student: Outputs, teacher: Outputs | None, labels: Labels, where: jax.Array
) -> dict[str, jax.Array]:
    hits = jnp.argmax(student.logits, axis=-1) == class_ids(labels)
    return {"accuracy": masked_mean(hits.astype(student.logits.dtype), where)}


@dataclasses.dataclass(frozen=True)
class Distiller:
    """A distillation method.

    Attributes:
      objective: `(student, teacher, labels, where, ramp) -> (loss_cls, loss_kd)`, two weighted
        scalars; `student` and `teacher` are the outputs of the networks, with `teacher` None if not
        `has_teacher`; `ramp` is the completed share of the warm-up.
      auxiliary: the student's second head: "none", "linear" or "mlp".
      merge: `(grad_cls, grad_kd) -> grad`; None adds them, which takes one backward pass less.
      connector: module that maps the student's features to those that `objective` receives, trained
        with the student and dropped with the auxiliary head.
      contrasts: whether the connector compares with the teacher and with other images during
        training, and takes `pairs`, as `ContrastiveMemory` does.
      until_epoch: the last epoch with distillation, counted from 1; 0 for all epochs.
      warm_up: number of epochs in which `ramp` grows to 1; 0 if it is 1 from the start.
      warm_up_from: number of the first epoch: with 1, `ramp` starts at 1 / warm_up, with 0 at 0.
      has_teacher: whether there is anything to distil.
      logits_only: whether `objective` reads only the teacher's logits.
      measures: `(student, teacher, labels, where) -> scalars` to report for every step.
    """

    objective: Objective
    auxiliary: str = "none"
    merge: Callable[[Any, Any], Any] | None = None
    connector: nn.Module | None = None
    contrasts: bool = False
    until_epoch: int = 0
    warm_up: int = 0
    warm_up_from: int = 1
    has_teacher: bool = True
    logits_only: bool = False
    measures: Measures = _accuracy


def distillation_schedule(
    epoch: int, *, warm_up: int, until_epoch: int, warm_up_from: int = 1
) -> dict[str, float]:
    """`ramp`, min((epoch + warm_up_from) / warm_up, 1), and `distill_weight`, 1 or 0.

    `distill_weight` is 1 for epoch + 1 up to `until_epoch`, then 0. With a `warm_up` of 0 `ramp` is
    1, with an `until_epoch` of 0 `distill_weight`.
    """
    return {
        "ramp": min((epoch + warm_up_from) / warm_up, 1.0) if warm_up else 1.0,
        "distill_weight": 0.0 if 0 < until_epoch < epoch + 1 else 1.0,
    }
