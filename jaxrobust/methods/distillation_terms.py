"""Distillation losses that images with one label and with several share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import losses
from jaxrobust.methods.distiller import DistillationProblem
from jaxrobust.models.layers import FeatureMaps
from jaxrobust.models.review_fusion import ReviewFusion, review_levels
from jaxrobust.recipes.baselines import Rkd

# (student, teacher, class ids [B] or targets {0, 1} [B, C], where [B]) -> scalar
Term = Callable[[Any, Any, jax.Array, jax.Array], jax.Array]

# features -> maps, shallow to deep
Levels = Callable[[FeatureMaps], tuple[jax.Array, ...]]


def logit_mse_term(student, teacher, labels, where):
    """Mean squared error of the logits, over classes and batch."""
    del labels
    return losses.masked_mean(losses.logit_mse_loss(student.logits, teacher.logits), where)


def pkt_term(student, teacher, labels, where):
    """PKT: similarities within the batch as probabilities. Passalis and Tefas, ECCV 2018."""
    del labels
    return losses.pkt_loss(student.features.pooled, teacher.features.pooled, where=where)


def rkd_term(options: Rkd, *, mean_over_batch: bool) -> Term:
    """RKD: distances and angles between pooled features. Park et al., CVPR 2019.

    The benchmark of single labels takes the mean over pairs of distances, `rkd_loss` and L2D's code
    their sum over B.
    """

    def term(student, teacher, labels, where):
        del labels
        weight = options.distance_weight
        return losses.rkd_loss(
            student.features.pooled,
            teacher.features.pooled,
            w_distance=weight / jnp.sum(where, dtype=jnp.float32) if mean_over_batch else weight,
            w_angle=options.angle_weight,
            where=where,
        )

    return term


def review_term(levels: Levels = review_levels) -> Term:
    """ReviewKD: the student's fused maps against the teacher's levels. Chen et al., CVPR 2021."""

    def term(student, teacher, labels, where):
        del labels
        maps = student.features.maps
        return losses.review_kd_hcl_loss(maps, levels(teacher.features)[-len(maps) :], where=where)

    return term


def review_fusion(
    problem: DistillationProblem, width: int, levels: Levels, teacher_levels: Levels = review_levels
) -> ReviewFusion:
    """The connector of ReviewKD, for the deepest levels that both networks have."""
    student = jax.eval_shape(levels, problem.student_features)
    teacher = jax.eval_shape(teacher_levels, problem.teacher_features)
    common = teacher[-min(len(student), len(teacher)) :]
    return ReviewFusion(
        channels=tuple(level.shape[-1] for level in common),
        sizes=tuple(level.shape[1:3] for level in common),
        levels=levels,
        width=width or None,
        dtype=problem.dtype,
    )
