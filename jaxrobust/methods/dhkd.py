"""DHKD: dual-head knowledge distillation.

Yang, Zong, Huang, Feng and An, KDD 2025, arXiv 2411.08937, as the authors' code runs it.

Step, on one forward pass of a student with two heads:
  1. the primary head sees cross-entropy alone, the auxiliary one a loss on logits alone;
  2. `align_gradients` takes from the gradient of the second its component against the first;
  3. SGD steps along the sum. The auxiliary head never predicts and is dropped after training.

The ablations are the same method with other switches: `binary_kl` is the logit loss alone on a
single head, `cross_entropy_binary_kl` both losses on it, which the paper finds to collapse.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, cast

import jax

from jaxrobust import losses
from jaxrobust.errors import check_option
from jaxrobust.methods.distiller import (
    DistillationProblem,
    Distiller,
    SoftLabels,
    cross_entropy_loss,
)
from jaxrobust.recipes.dhkd import Distill, Distillation

# Loss on logits -> function and temperature, None for one that has none.
LOGIT_LOSSES: dict[str, tuple[Callable[..., jax.Array], float | None]] = {
    "binary_kl": (losses.binary_kl_loss, 2.0),
    "binary_kl_norm": (losses.binary_kl_norm_loss, 2.0),
    "logit_mse": (losses.logit_mse_loss, None),
    "soft_target_kl": (losses.soft_target_kl, 4.0),
}
HEADS = ("primary", "auxiliary")


def dual_head_objective(
    primary_logits: jax.Array,
    aux_logits: jax.Array | None,
    teacher_logits: jax.Array,
    labels: jax.Array | SoftLabels,
    *,
    gamma: float = 1.0,
    alpha: float = 1.0,
    temperature: float | None = None,
    loss: str = "binary_kl_norm",
    head: str = "auxiliary",
    standardize: bool = False,
    where: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The two weighted losses of DHKD, apart, because their gradients are merged.

        gamma * mean_i CE(primary_i, y_i),    alpha * mean_i loss(head_i, t_i)

    Args:
      primary_logits: float `[B, C]`.
      aux_logits: float `[B, C]`; not read with `head="primary"`.
      teacher_logits: float `[B, C]`; receives no gradient.
      labels: int `[B]`, or soft ones.
      gamma: weight of cross-entropy.
      alpha: weight of the distillation loss.
      temperature: of the distillation loss; None for the loss's own: 2, for `soft_target_kl` 4.
      loss: a key of `LOGIT_LOSSES`; sums over classes, but for `logit_mse`.
      head: which head learns from the teacher.
      standardize: whether its and the teacher's logits go through `standardize_logits` before.
      where: bool `[B]`, the examples that count; None counts all.

    Returns:
      Two float scalars: classification and distillation loss.

    Raises:
      ValueError: for an unknown loss or head.
    """
    check_option("loss", loss, tuple(LOGIT_LOSSES))
    check_option("head", head, HEADS)
    function, own_temperature = LOGIT_LOSSES[loss]
    options = {}
    if own_temperature is not None:
        options["temperature"] = own_temperature if temperature is None else temperature
    taught = primary_logits if head == "primary" else cast(jax.Array, aux_logits)
    if standardize:
        taught, teacher_logits = map(losses.standardize_logits, (taught, teacher_logits))
    loss_cls = gamma * cross_entropy_loss(primary_logits, labels, where)
    return loss_cls, alpha * losses.masked_mean(function(taught, teacher_logits, **options), where)


def project_both(grad_cls: Any, grad_kd: Any) -> Any:
    """PCGrad of two gradients: each loses its component against the other, then they are added.

    The order, random in the paper, makes no difference for two gradients.

    References:
      Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, algorithm 1.
    """
    sums = losses.align_gradients(grad_cls, grad_kd), losses.align_gradients(grad_kd, grad_cls)
    return jax.tree.map(lambda a, b, cls, kd: a + b - cls - kd, *sums, grad_cls, grad_kd)


def auxiliary_head(kind: str, *, student: str, teacher: str) -> str:
    """The kind of auxiliary head: `auto` is linear within a family of networks, else MLP."""
    if kind != "auto":
        return kind
    return "linear" if _family(student) == _family(teacher) else "mlp"


def _family(name: str) -> str:
    """`resnet` of `resnet8x4`, `wrn` of `wrn_40_2`, `shufflev` of `ShuffleV1`."""
    return re.split(r"[^a-z]", name.lower(), maxsplit=1)[0]


def build(recipe: Distillation, problem: DistillationProblem) -> Distiller:
    """DHKD as a method of the distillation task."""
    return build_with(recipe.distill, problem)


def build_with(options: Distill, problem: DistillationProblem) -> Distiller:
    """DHKD, or an ablation of it, with these options."""

    def objective(student, teacher, labels, where, ramp):
        del ramp
        return dual_head_objective(
            student.logits,
            student.aux_logits,
            teacher.logits,
            labels,
            gamma=options.gamma,
            alpha=options.alpha,
            temperature=options.temperature or None,
            loss=options.loss,
            head=options.head,
            standardize=options.standardize,
            where=where,
        )

    def align(grad_cls, grad_kd):
        scope = None if options.scope == "all" else options.scope
        return losses.align_gradients(grad_cls, grad_kd, scope=scope)

    auxiliary = "none"
    if options.head == "auxiliary":
        auxiliary = auxiliary_head(
            options.auxiliary, student=problem.student, teacher=problem.teacher
        )
    return Distiller(
        objective=objective,
        auxiliary=auxiliary,
        merge={"align": align, "pcgrad": project_both, "sum": None}[options.gradients],
        until_epoch=options.until_epoch,
        logits_only=True,
    )


def binary_kl(recipe: Distillation, problem: DistillationProblem) -> Distiller:
    """BinaryKL alone, on a single head, in all epochs: the labels are not used."""
    return _single_head(recipe, problem, gamma=0.0, until_epoch=0)


def cross_entropy_binary_kl(recipe: Distillation, problem: DistillationProblem) -> Distiller:
    """Cross-entropy and BinaryKL on the same head, which the paper finds to collapse."""
    return _single_head(recipe, problem)


def _single_head(recipe: Distillation, problem: DistillationProblem, **changes: float) -> Distiller:
    single = {"loss": "binary_kl", "head": "primary", "gradients": "sum", "scope": "all"}
    return build_with(dataclasses.replace(recipe.distill, **single, **changes), problem)
