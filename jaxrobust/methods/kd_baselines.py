"""What DHKD is compared with: plain training, and published losses on logits or features."""

import jax
import jax.numpy as jnp

from jaxrobust import losses
from jaxrobust.errors import UserError
from jaxrobust.losses.feature_distillation import average_pool_to
from jaxrobust.methods import dhkd
from jaxrobust.methods.distillation_terms import (
    Term,
    logit_mse_term,
    pkt_term,
    review_fusion,
    review_term,
    rkd_term,
)
from jaxrobust.methods.distiller import (
    DistillationProblem,
    Distiller,
    class_ids,
    cross_entropy_loss,
)
from jaxrobust.models.auxiliary_head import Outputs
from jaxrobust.models.contrast import ContrastiveMemory
from jaxrobust.models.regressors import HintRegressor, VariationalRegressor
from jaxrobust.models.review_fusion import ReviewFusion, review_activations, review_levels
from jaxrobust.recipes.baselines import ReviewKd
from jaxrobust.recipes.dhkd import Distillation


def _distiller(loss: Term, *, weight: float, ce_weight: float = 1.0, **options) -> Distiller:
    """`ce_weight * CE + weight * ramp * loss` on one head."""

    def objective(student, teacher, labels, where, ramp):
        loss_cls = ce_weight * cross_entropy_loss(student.logits, labels, where)
        return loss_cls, weight * ramp * loss(student, teacher, class_ids(labels), where)

    return Distiller(objective=objective, **options)


def cross_entropy(recipe: Distillation, problem: DistillationProblem | None) -> Distiller:
    """No distillation: cross-entropy on the labels, as teachers are trained."""
    del recipe, problem

    def nothing(student, teacher, labels, where):
        del teacher, labels, where
        return jnp.zeros((), student.logits.dtype)

    return _distiller(nothing, weight=0.0, has_teacher=False)


def kd(recipe: Distillation, problem: DistillationProblem) -> Distiller:
    """KD: softened teacher probabilities. Hinton et al., 2015."""
    del problem
    options = recipe.kd

    def loss(student, teacher, labels, where):
        del labels
        logits = _logits(student, teacher, options.standardize)
        return losses.masked_mean(
            losses.soft_target_kl(*logits, temperature=options.temperature), where
        )

    return _distiller(loss, weight=options.weight, ce_weight=options.ce_weight, logits_only=True)


def dkd(recipe: Distillation, problem: DistillationProblem) -> Distiller:
    """DKD: target and non-target part apart, warmed up. Zhao et al., CVPR 2022."""
    del problem
    options = recipe.dkd

    def loss(student, teacher, labels, where):
        divergence = losses.dkd_loss(
            *_logits(student, teacher, options.standardize),
            labels,
            alpha=options.alpha,
            beta=options.beta,
            temperature=options.temperature,
        )
        return losses.masked_mean(divergence, where)

    return _distiller(loss, weight=1.0, warm_up=options.warm_up, logits_only=True)


def _logits(student: Outputs, teacher: Outputs, standardize: bool) -> tuple[jax.Array, jax.Array]:
    """Logits of both, standardised if asked for (Sun et al., CVPR 2024)."""
    if not standardize:
        return student.logits, teacher.logits
    return losses.standardize_logits(student.logits), losses.standardize_logits(teacher.logits)


def rld(recipe: Distillation, problem: DistillationProblem) -> Distiller:
    """RLD: the teacher's confidence, and the classes below the label. Sun et al., ICCV 2025."""
    del problem
    options = recipe.rld

    def loss(student, teacher, labels, where):
        divergence = losses.rld_loss(
            student.logits,
            teacher.logits,
            labels,
            alpha=options.alpha,
            beta=options.beta,
            temperature=options.temperature,
            confidence_temperature=options.confidence_temperature,
        )
        return losses.masked_mean(divergence, where)

    return _distiller(loss, weight=1.0, warm_up=options.warm_up, logits_only=True)


def wttm(recipe: Distillation, problem: DistillationProblem) -> Distiller:
    """WTTM: a temperature of the teacher alone, a weight per example. Zheng and Yang, ICLR 2024."""
    del problem
    options = recipe.wttm

    def loss(student, teacher, labels, where):
        del labels
        divergence = losses.transformed_teacher_loss(
            student.logits, teacher.logits, power=options.power, weighted=options.weighted
        )
        return losses.masked_mean(divergence, where)

    return _distiller(loss, weight=options.weight, logits_only=True)


def dist(recipe: Distillation, problem: DistillationProblem) -> Distiller:
    """DIST: correlation with the teacher over classes and over the batch. NeurIPS 2022."""
    del problem
    options = recipe.dist

    def loss(student, teacher, labels, where):
        del labels
        return losses.dist_loss(
            student.logits,
            teacher.logits,
            beta=options.beta,
            gamma=options.gamma,
            temperature=options.temperature,
            where=where,
        )

    return _distiller(loss, weight=options.weight, logits_only=True)


def rkd(recipe: Distillation, problem: DistillationProblem) -> Distiller:
    """RKD: distances and angles between features. Park et al., CVPR 2019."""
    del problem
    return _distiller(rkd_term(recipe.rkd, mean_over_batch=True), weight=1.0)


def pkt(recipe: Distillation, problem: DistillationProblem) -> Distiller:
    """PKT: similarities within the batch as probabilities. Passalis and Tefas, ECCV 2018."""
    del problem
    return _distiller(pkt_term, weight=recipe.pkt.weight)


def at(recipe: Distillation, problem: DistillationProblem) -> Distiller:
    """AT: where the maps of each stage are active. Zagoruyko and Komodakis, ICLR 2017.

    Of Wide ResNets, whose blocks end without an activation, the blocks' own outputs are compared.
    """
    del problem

    def loss(student, teacher, labels, where):
        del labels
        maps = [x.features.outputs for x in (student, teacher)]
        count = min(map(len, maps))
        error = losses.attention_transfer_loss(*(x[-count:] for x in maps))
        return losses.masked_mean(error, where)

    return _distiller(loss, weight=recipe.at.weight)


def fitnet(recipe: Distillation, problem: DistillationProblem) -> Distiller:
    """FitNet: the map of one stage through a regressor. Romero et al., ICLR 2015."""
    options = recipe.fitnet
    num_stages = min(len(problem.student_features.outputs), len(problem.teacher_features.outputs))
    if options.hint_stage > num_stages:
        raise UserError(
            f"fitnet.hint_stage={options.hint_stage}, but {problem.student} and {problem.teacher} "
            f"have only {num_stages} stages in common; set one of 1 to {num_stages}."
        )
    level = options.hint_stage - 1
    hint = problem.teacher_features.outputs[level]

    def loss(student, teacher, labels, where):
        del labels
        return losses.masked_mean(
            losses.fitnet_loss(student.features.maps[0], teacher.features.outputs[level]), where
        )

    _, height, width, channels = hint.shape
    connector = HintRegressor(level, channels, (height, width), dtype=problem.dtype)
    return _distiller(loss, weight=options.weight, connector=connector)


def sp(recipe: Distillation, problem: DistillationProblem) -> Distiller:
    """SP: similarities of the last stage's maps within the batch. Tung and Mori, ICCV 2019."""
    del problem

    def loss(student, teacher, labels, where):
        del labels
        return losses.similarity_preserving_loss(
            student.features.outputs[-1], teacher.features.outputs[-1], where=where
        )

    return _distiller(loss, weight=recipe.sp.weight)


def vid(recipe: Distillation, problem: DistillationProblem) -> Distiller:
    """VID: a Gaussian for the maps of every stage. Ahn et al., CVPR 2019.

    Where a teacher's map is larger than the student's, its average pool is what is predicted; where
    it is smaller, the student's is pooled before its regressor.
    """
    options = recipe.vid
    count = min(len(problem.student_features.outputs), len(problem.teacher_features.outputs))
    targets = problem.teacher_features.outputs[-count:]
    connector = VariationalRegressor(
        channels=tuple(target.shape[-1] for target in targets),
        sizes=tuple(target.shape[1:3] for target in targets),
        variance=options.variance,
        dtype=problem.dtype,
    )

    def loss(student, teacher, labels, where):
        del labels
        total = jnp.float32(0)
        for prediction, target in zip(
            student.features.maps, teacher.features.outputs[-count:], strict=True
        ):
            target = average_pool_to(target, prediction.mean.shape[1:3])
            error = losses.variational_information_loss(
                prediction.mean, target, prediction.variance_logits
            )
            total += losses.masked_mean(error, where)
        return total

    return _distiller(loss, weight=options.weight, connector=connector)


def crd(recipe: Distillation, problem: DistillationProblem) -> Distiller:
    """CRD: which of many images an embedding belongs to, both ways. Tian et al., ICLR 2020."""
    options = recipe.crd
    connector = ContrastiveMemory(
        num_examples=problem.num_examples,
        teacher_width=problem.teacher_features.pooled.shape[-1],
        width=options.width,
        num_negatives=options.num_negatives,
        momentum=options.momentum,
        temperature=options.temperature,
    )

    def loss(student, teacher, labels, where):
        del teacher, labels  # the connector has compared them
        total = jnp.float32(0)
        for contrast in student.features.maps:
            error = losses.contrastive_loss(
                contrast.similarities,
                problem.num_examples,
                log_normalizer=contrast.log_normalizer,
                temperature=options.temperature,
            )
            total += losses.masked_mean(error, where)
        return total

    return _distiller(loss, weight=options.weight, connector=connector, contrasts=True)


def logit_mse(recipe: Distillation, problem: DistillationProblem) -> Distiller:
    """Mean squared error of the logits."""
    del problem
    return _distiller(logit_mse_term, weight=recipe.logit_mse.weight, logits_only=True)


def reviewkd(recipe: Distillation, problem: DistillationProblem) -> Distiller:
    """ReviewKD: fused features of all stages, from the second epoch on. Chen et al., CVPR 2021."""
    options = recipe.reviewkd
    return _distiller(
        review_term(),
        weight=options.weight,
        warm_up=options.warm_up,
        warm_up_from=0,
        connector=_review_fusion(options, problem),
    )


def dhkd_reviewkd(recipe: Distillation, problem: DistillationProblem) -> Distiller:
    """DHKD with ReviewKD's loss, which alone warms up, added to the distillation loss.

    Where gradients are only added up it counts with the cross-entropy, so that it goes on after
    `distill.until_epoch`, which is of DHKD's loss.
    """
    options, dual_head, term = recipe.reviewkd, dhkd.build(recipe, problem), review_term()

    def objective(student, teacher, labels, where, ramp):
        loss_cls, loss_kd = dual_head.objective(student, teacher, labels, where, ramp)
        review = options.weight * ramp * term(student, teacher, labels, where)
        if dual_head.merge is None:
            return loss_cls + review, loss_kd
        return loss_cls, loss_kd + review

    return Distiller(
        objective=objective,
        auxiliary=dual_head.auxiliary,
        merge=dual_head.merge,
        connector=_review_fusion(options, problem),
        until_epoch=dual_head.until_epoch,
        warm_up=options.warm_up,
        warm_up_from=0,
    )


def _review_fusion(options: ReviewKd, problem: DistillationProblem) -> ReviewFusion:
    after = options.student_maps == "activation"
    return review_fusion(problem, options.width, review_activations if after else review_levels)
