"""What DHKD is compared with: plain training, KD, DKD, DIST, RKD, PKT, AT, ReviewKD, logit MSE."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import optax

from jaxrobust.losses import (
    attention_transfer_loss,
    dist_loss,
    dkd_loss,
    logit_mse_loss,
    masked_mean,
    pkt_loss,
    review_kd_hcl_loss,
    rkd_loss,
    soft_target_kl,
)
from jaxrobust.methods import dhkd
from jaxrobust.methods.distillation import Distiller, Problem
from jaxrobust.methods.kd_baselines_options import (
    At,
    Dist,
    Dkd,
    Kd,
    LogitMse,
    Pkt,
    ReviewKd,
    Rkd,
)
from jaxrobust.models.dual_head import Outputs
from jaxrobust.models.review_fusion import ReviewFusion, review_levels

# (student, teacher, labels [B], where [B]) -> scalar
Loss = Callable[[Outputs, Outputs, jax.Array, jax.Array], jax.Array]


def _distiller(loss: Loss, *, weight: float, ce_weight: float = 1.0, **options) -> Distiller:
    """`ce_weight * CE + weight * ramp * loss` on one head."""

    def objective(student, teacher, labels, where, ramp):
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels(student.logits, labels)
        loss_cls = ce_weight * masked_mean(cross_entropy, where)
        return loss_cls, weight * ramp * loss(student, teacher, labels, where)

    return Distiller(objective=objective, **options)


def cross_entropy(config: ml_collections.ConfigDict, problem: Problem | None) -> Distiller:
    """No distillation: cross-entropy on the labels, as teachers are trained."""
    del config, problem

    def nothing(student, teacher, labels, where):
        del teacher, labels, where
        return jnp.zeros((), student.logits.dtype)

    return _distiller(nothing, weight=0.0, has_teacher=False)


def kd(config: ml_collections.ConfigDict, problem: Problem) -> Distiller:
    """KD: softened teacher probabilities. Hinton et al., 2015."""
    del problem
    options = Kd.read(config)

    def loss(student, teacher, labels, where):
        del labels
        divergence = soft_target_kl(student.logits, teacher.logits, temperature=options.temperature)
        return masked_mean(divergence, where)

    return _distiller(loss, weight=options.weight, ce_weight=options.ce_weight, logits_only=True)


def dkd(config: ml_collections.ConfigDict, problem: Problem) -> Distiller:
    """DKD: target and non-target part apart, warmed up. Zhao et al., CVPR 2022."""
    del problem
    options = Dkd.read(config)

    def loss(student, teacher, labels, where):
        divergence = dkd_loss(
            student.logits,
            teacher.logits,
            labels,
            alpha=options.alpha,
            beta=options.beta,
            temperature=options.temperature,
        )
        return masked_mean(divergence, where)

    return _distiller(loss, weight=1.0, warm_up=options.warm_up, logits_only=True)


def dist(config: ml_collections.ConfigDict, problem: Problem) -> Distiller:
    """DIST: correlation with the teacher over classes and over the batch. NeurIPS 2022."""
    del problem
    options = Dist.read(config)

    def loss(student, teacher, labels, where):
        del labels
        return dist_loss(
            student.logits,
            teacher.logits,
            beta=options.beta,
            gamma=options.gamma,
            temperature=options.temperature,
            where=where,
        )

    return _distiller(loss, weight=1.0, logits_only=True)


def rkd(config: ml_collections.ConfigDict, problem: Problem) -> Distiller:
    """RKD: distances and angles between features. Park et al., CVPR 2019."""
    del problem
    options = Rkd.read(config)

    def loss(student, teacher, labels, where):
        del labels
        # The benchmark takes the mean over pairs of distances, `rkd_loss` their sum over B.
        num_examples = jnp.sum(where, dtype=jnp.float32)
        return rkd_loss(
            student.features.pooled,
            teacher.features.pooled,
            w_distance=options.distance_weight / num_examples,
            w_angle=options.angle_weight,
            where=where,
        )

    return _distiller(loss, weight=1.0)


def pkt(config: ml_collections.ConfigDict, problem: Problem) -> Distiller:
    """PKT: similarities within the batch as probabilities. Passalis and Tefas, ECCV 2018."""
    del problem

    def loss(student, teacher, labels, where):
        del labels
        return pkt_loss(student.features.pooled, teacher.features.pooled, where=where)

    return _distiller(loss, weight=Pkt.read(config).weight)


def at(config: ml_collections.ConfigDict, problem: Problem) -> Distiller:
    """AT: where the maps of each stage are active. Zagoruyko and Komodakis, ICLR 2017."""
    del problem

    def loss(student, teacher, labels, where):
        del labels
        count = min(len(student.features.maps), len(teacher.features.maps))
        error = attention_transfer_loss(
            student.features.maps[-count:], teacher.features.maps[-count:]
        )
        return masked_mean(error, where)

    return _distiller(loss, weight=At.read(config).weight)


def logit_mse(config: ml_collections.ConfigDict, problem: Problem) -> Distiller:
    """Mean squared error of the logits."""
    del problem

    def loss(student, teacher, labels, where):
        del labels
        return masked_mean(logit_mse_loss(student.logits, teacher.logits), where)

    return _distiller(loss, weight=LogitMse.read(config).weight, logits_only=True)


def reviewkd(config: ml_collections.ConfigDict, problem: Problem) -> Distiller:
    """ReviewKD: fused features of all stages, warmed up. Chen et al., CVPR 2021."""
    options = ReviewKd.read(config)
    return _distiller(
        _review_loss,
        weight=options.weight,
        warm_up=options.warm_up,
        connector=_review_fusion(problem),
    )


def dhkd_reviewkd(config: ml_collections.ConfigDict, problem: Problem) -> Distiller:
    """DHKD with ReviewKD's loss, which alone warms up, added to the distillation loss."""
    options, dual_head = ReviewKd.read(config), dhkd.build(config, problem)

    def objective(student, teacher, labels, where, ramp):
        loss_cls, loss_kd = dual_head.objective(student, teacher, labels, where, ramp)
        review = _review_loss(student, teacher, labels, where)
        return loss_cls, loss_kd + options.weight * ramp * review

    return Distiller(
        objective=objective,
        auxiliary=dual_head.auxiliary,
        merge=dual_head.merge,
        connector=_review_fusion(problem),
        warm_up=options.warm_up,
    )


def _review_loss(student, teacher, labels, where):
    del labels
    levels = review_levels(teacher.features)[-len(student.features.maps) :]
    return review_kd_hcl_loss(student.features.maps, levels, where=where)


def _review_fusion(problem: Problem) -> ReviewFusion:
    student, teacher = (
        jax.eval_shape(review_levels, features)
        for features in (problem.student_features, problem.teacher_features)
    )
    levels = teacher[-min(len(student), len(teacher)) :]
    return ReviewFusion(
        channels=tuple(level.shape[-1] for level in levels),
        sizes=tuple(level.shape[1:3] for level in levels),
        dtype=problem.dtype,
    )
