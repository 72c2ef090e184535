"""L2D: knowledge distillation for images with several labels, and what it is compared with.

Yang, Xie, Zong, Feng, Niu, Sugiyama and Huang, "Multi-Label Knowledge Distillation", ICCV 2023,
arXiv 2308.06453, as the authors' code runs it.

A network is a backbone, a decoder that makes one embedding per class of an image, and a linear
classifier for each class. Every class is a binary problem:
  1. binary cross-entropy on the labels, *summed* over classes and batch;
  2. MLD: the student's Bernoulli distributions follow the teacher's;
  3. CD: for each class, the distances between its embeddings in the images that have it, and
     ID: for each image, the distances between the embeddings of the classes it has, follow the
     teacher's.

All images of the global batch count, however many devices share it. The ablations are L2D without
some of its terms; the baselines add another distillation loss to the same cross-entropy.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust import losses
from jaxrobust.engine.sharding import on_every_device
from jaxrobust.methods import distillation_terms
from jaxrobust.methods.distiller import DistillationProblem, Distiller
from jaxrobust.models.ml_decoder import MultiLabelOutputs
from jaxrobust.models.review_fusion import final_map
from jaxrobust.recipes.l2d import Asymmetric, L2d, LabelLoss, MultilabelDistillation

# ---------------------------------------------------------------------------------- L2D's terms


def mld_term(
    student: MultiLabelOutputs, teacher: MultiLabelOutputs, targets: jax.Array, where: jax.Array
) -> jax.Array:
    """MLD of the logits, a mean over the batch."""
    del targets
    return losses.masked_mean(
        losses.multilabel_logits_distillation_loss(student.logits, teacher.logits), where
    )


def cd_term(
    student: MultiLabelOutputs,
    teacher: MultiLabelOutputs,
    targets: jax.Array,
    where: jax.Array,
    *,
    normalize: bool = True,
    group_mean: bool = True,
) -> jax.Array:
    """CD of the label embeddings, a sum over the classes that two images have."""
    return losses.class_aware_embedding_distillation_loss(
        *on_every_device(  # for distances between images
            (student.label_embeddings, teacher.label_embeddings, _present(targets, where))
        ),
        normalize=normalize,
        group_mean=group_mean,
    )


def id_term(
    student: MultiLabelOutputs,
    teacher: MultiLabelOutputs,
    targets: jax.Array,
    where: jax.Array,
    *,
    normalize: bool = True,
    group_mean: bool = True,
) -> jax.Array:
    """ID of the label embeddings, a sum over the images with two labels."""
    return losses.instance_aware_embedding_distillation_loss(
        student.label_embeddings,
        teacher.label_embeddings,
        _present(targets, where),
        normalize=normalize,
        group_mean=group_mean,
    )


def _present(targets: jax.Array, where: jax.Array) -> jax.Array:
    """Targets with nothing in padding: an image without labels belongs to no group."""
    return (targets > 0) & where[:, None]


# ------------------------------------------------------------------------------------- methods


def build(recipe: MultilabelDistillation, problem: DistillationProblem | None) -> Distiller:
    """L2D as a method of the distillation task; a weight of 0 leaves a term out."""
    del problem
    return _with_terms(recipe, recipe.l2d)


def _with_terms(recipe: MultilabelDistillation, options: L2d) -> Distiller:
    # The paper's equations have neither the mean of the distances nor the size of the group.
    on_embeddings = {"normalize": options.normalize, "group_mean": options.normalize}
    return _distiller(
        recipe,
        {
            "mld": (options.lambda_mld, mld_term),
            "cd": (options.lambda_cd, functools.partial(cd_term, **on_embeddings)),
            "id": (options.lambda_id, functools.partial(id_term, **on_embeddings)),
        },
    )


def mld(recipe: MultilabelDistillation, problem: DistillationProblem | None) -> Distiller:
    """Ablation: MLD alone."""
    return _without(recipe, problem, "cd", "id")


def mld_cd(recipe: MultilabelDistillation, problem: DistillationProblem | None) -> Distiller:
    """Ablation: L2D without ID."""
    return _without(recipe, problem, "id")


def mld_id(recipe: MultilabelDistillation, problem: DistillationProblem | None) -> Distiller:
    """Ablation: L2D without CD."""
    return _without(recipe, problem, "cd")


def _without(
    recipe: MultilabelDistillation, problem: DistillationProblem | None, *terms: str
) -> Distiller:
    del problem
    without = {f"lambda_{term}": 0.0 for term in terms}
    return _with_terms(recipe, dataclasses.replace(recipe.l2d, **without))


def bce(recipe: MultilabelDistillation, problem: DistillationProblem | None) -> Distiller:
    """The labels alone, as teachers are trained."""
    del problem
    return _distiller(recipe, {}, has_teacher=False)


def mse(recipe: MultilabelDistillation, problem: DistillationProblem | None) -> Distiller:
    """Mean squared error of the logits, over classes and batch."""
    del problem
    return _distiller(recipe, {"mse": (recipe.mse.weight, distillation_terms.logit_mse_term)})


def ps(recipe: MultilabelDistillation, problem: DistillationProblem | None) -> Distiller:
    """PS: soft-target KL over each positive class and all negative ones."""
    del problem

    def term(student, teacher, targets, where):
        divergence = losses.partial_softmax_distillation_loss(
            student.logits, teacher.logits, targets
        )
        return losses.masked_mean(divergence, where)

    return _distiller(recipe, {"ps": (recipe.ps.weight, term)})


def rkd(recipe: MultilabelDistillation, problem: DistillationProblem | None) -> Distiller:
    """RKD: distances and angles between pooled features. Park et al., CVPR 2019."""
    del problem
    return _distiller(
        recipe, {"rkd": (1.0, distillation_terms.rkd_term(recipe.rkd, mean_over_batch=False))}
    )


def pkt(recipe: MultilabelDistillation, problem: DistillationProblem | None) -> Distiller:
    """PKT: similarities within the batch as probabilities. Passalis and Tefas, ECCV 2018."""
    del problem
    return _distiller(recipe, {"pkt": (recipe.pkt.weight, distillation_terms.pkt_term)})


def reviewkd(recipe: MultilabelDistillation, problem: DistillationProblem) -> Distiller:
    """ReviewKD on the final map alone, where there is nothing to fuse. Chen et al., CVPR 2021."""
    options = recipe.reviewkd
    connector = distillation_terms.review_fusion(problem, options.width, final_map, final_map)
    terms = {"reviewkd": (options.weight, distillation_terms.review_term(final_map))}
    return _distiller(recipe, terms, connector=connector)


def _distiller(
    recipe: MultilabelDistillation,
    terms: dict[str, tuple[float, distillation_terms.Term]],
    *,
    connector: nn.Module | None = None,
    has_teacher: bool = True,
) -> Distiller:
    """The loss on the labels and the weighted sum of the terms."""
    labels, asymmetric = recipe.labels, recipe.asymmetric
    terms = {name: (weight, term) for name, (weight, term) in terms.items() if weight}

    def objective(student, teacher, targets, where, ramp):
        values = {name: term(student, teacher, targets, where) for name, (_, term) in terms.items()}
        loss_kd = sum((terms[name][0] * values[name] for name in values), jnp.zeros_like(ramp))
        loss_cls = _label_loss(labels, asymmetric, student.logits, targets, where)
        return loss_cls, ramp * loss_kd

    def measures(student, teacher, targets, where):
        return {name: term(student, teacher, targets, where) for name, (_, term) in terms.items()}

    return Distiller(
        objective=objective, measures=measures, connector=connector, has_teacher=has_teacher
    )


def _label_loss(
    options: LabelLoss,
    asymmetric: Asymmetric,
    logits: jax.Array,
    targets: jax.Array,
    where: jax.Array,
) -> jax.Array:
    """The loss on the labels, summed over classes and reduced over the batch."""
    if options.loss == "bce":
        values = losses.multilabel_bce_loss(logits, targets)
    else:
        values = losses.asymmetric_loss(logits, targets, **dataclasses.asdict(asymmetric))
    if options.reduction == "batchmean":
        return losses.masked_mean(values, where)
    return jnp.sum(values, where=where)
