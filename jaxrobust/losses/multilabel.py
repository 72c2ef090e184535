"""Multi-label knowledge distillation (L2D): logits and label-wise embeddings; multi-label losses.

Yang et al., "Multi-Label Knowledge Distillation", ICCV 2023, https://arxiv.org/abs/2308.06453.
"""

import math

import jax
import jax.numpy as jnp

from jaxrobust.arrays import at_least_float32
from jaxrobust.losses._distillation import (
    bernoulli_kl,
    huber,
    positive,
    row_mask,
    softmax_kl,
    student_and_teacher,
)
from jaxrobust.losses.dual_head import binary_kl_loss


def multilabel_bce_loss(
    logits: jax.typing.ArrayLike, targets: jax.typing.ArrayLike, *, eps: float = 1e-8
) -> jax.Array:
    """Binary cross-entropy with probabilities clamped from below, summed over classes.

        -sum_k [y_k log max(sigmoid(x_k), eps) + (1 - y_k) log max(1 - sigmoid(x_k), eps)]

    An entry whose logit is wrong by more than -log(eps) = 18.42 gets no gradient.

    Args:
      logits: float [..., C].
      targets: {0, 1} [..., C] of any dtype.
      eps: the least probability, in (0, 1).

    Returns:
      Float [...], the sum over classes, in nats. The authors' code also sums over the batch,
      whereas equation 1 of the paper averages.

    Raises:
      ValueError: if the shapes differ or eps is not in (0, 1).

    References:
      Yang et al., ICCV 2023, https://arxiv.org/abs/2308.06453, equation 1.
    """
    logits = at_least_float32(logits)
    targets = _checked_targets(targets, logits.shape).astype(logits.dtype)
    log_eps = _log_probability_floor(eps)
    log_on = jnp.maximum(jax.nn.log_sigmoid(logits), log_eps)
    log_off = jnp.maximum(jax.nn.log_sigmoid(-logits), log_eps)
    return -jnp.sum(targets * log_on + (1 - targets) * log_off, axis=-1)


def multilabel_logits_distillation_loss(
    student_logits: jax.typing.ArrayLike,
    teacher_logits: jax.typing.ArrayLike,
    *,
    eps: float | None = 1e-8,
) -> jax.Array:
    """MLD: the student matches the teacher on every class as a separate binary problem.

        sum_k KL(Bernoulli(sigmoid(t_k)) || Bernoulli(sigmoid(s_k)))

    Probabilities are clamped to [eps, 1 - eps], so a student logit beyond 18.42 gets no gradient.
    This is `binary_kl_loss` at temperature 1.

    Args:
      student_logits: float [..., C].
      teacher_logits: float [..., C]; receives no gradient.
      eps: the clamp, in (0, 0.5), or None for no clamp.

    Returns:
      Float [...], the sum over classes, in nats.

    Raises:
      ValueError: if the shapes differ or eps is not in (0, 0.5).

    References:
      Yang et al., ICCV 2023, https://arxiv.org/abs/2308.06453 (MLD).
    """
    return binary_kl_loss(student_logits, teacher_logits, temperature=1.0, eps=eps)


def pairwise_euclidean_distance(
    embeddings: jax.typing.ArrayLike, *, eps: float = 1e-12
) -> jax.Array:
    """Euclidean distances between all rows of a group.

        d_ij = sqrt(max(||e_i - e_j||^2, eps)),    d_ii = 0

    Off the diagonal no distance is below sqrt(eps), and a clamped distance has no gradient.

    Args:
      embeddings: float [..., G, D].
      eps: the least squared distance, above 0.

    Returns:
      Float [..., G, G].

    Raises:
      ValueError: if there are fewer than two axes or eps is not positive.

    References:
      Yang et al., ICCV 2023, https://arxiv.org/abs/2308.06453, equations 4 to 8; Park et al.,
      "Relational Knowledge Distillation", CVPR 2019, https://arxiv.org/abs/1904.05068, section 3.2.
    """
    embeddings = at_least_float32(embeddings)
    if embeddings.ndim < 2:
        raise ValueError(f"embeddings must be [..., G, D], got shape {embeddings.shape}.")
    # Distances do not see an offset, but the cancellation below does: it grows with the norms.
    offset = jax.lax.stop_gradient(jnp.mean(embeddings, axis=-2, keepdims=True))
    centred = embeddings - offset
    gram = jnp.einsum("...id,...jd->...ij", centred, centred, precision=jax.lax.Precision.HIGHEST)
    # A matrix product need not round symmetrically; a distance must.
    gram = (gram + jnp.swapaxes(gram, -2, -1)) / 2
    squared_norm = jnp.diagonal(gram, axis1=-2, axis2=-1)
    squared = squared_norm[..., :, None] + squared_norm[..., None, :] - 2 * gram
    distance = jnp.sqrt(jnp.maximum(squared, positive("eps", eps)))
    group = embeddings.shape[-2]
    diagonal = jnp.eye(group, dtype=bool).reshape((1,) * (distance.ndim - 2) + (group, group))
    return jnp.where(diagonal, 0, distance)


def structural_distance_loss(
    student: jax.typing.ArrayLike,
    teacher: jax.typing.ArrayLike,
    *,
    normalize: bool = True,
    group_mean: bool = True,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Compares the pairwise distances of a group of student embeddings with the teacher's.

        sum_ij huber(d_ij / mean(d) - d'_ij / mean(d')) / G

    with d and d' the student's and the teacher's distances and the means over i != j. The gradient
    flows through the student's mean. A group of two has one distance, equal to its mean: with
    `normalize` its loss and gradient are 0. Invariant to translation, rotation and (with
    `normalize`) scaling of either group.

    Args:
      student: float [G, D].
      teacher: float [G, D'], its width may differ; receives no gradient.
      normalize: divide distances by their mean, as the authors' code does. False compares raw
        distances.
      group_mean: divide the sum by G, as the authors' code does. False with `normalize=False` is
        the paper's equations 4 to 8.
      where: bool [G], the rows that form the group; None for all. Values of other rows are ignored.

    Returns:
      Float scalar; 0 for fewer than two rows.

    Raises:
      ValueError: if a shape does not fit.

    References:
      Yang et al., ICCV 2023, https://arxiv.org/abs/2308.06453, equations 4 to 8.
    """
    student, teacher = student_and_teacher(student, teacher, rank=2, shared_axes=1)
    where = row_mask(where, len(student))
    return _structural_distance_losses(student, teacher, where, normalize, group_mean)


def _structural_distance_losses(
    student: jax.Array, teacher: jax.Array, where: jax.Array, normalize: bool, group_mean: bool
) -> jax.Array:
    """One loss per group: embeddings [..., G, D] and bool rows [..., G] to [...]."""
    size = jnp.maximum(jnp.sum(where, axis=-1, dtype=student.dtype), 2)
    pairs = where[..., :, None] & where[..., None, :]
    if normalize:
        # The one distance of two rows is its own mean: what remains would be rounding error.
        pairs = pairs & (size > 2)[..., None, None]

    def distances(embeddings):
        rows = where[..., None]
        # Filled with the group's mean, which stays the offset that the distances remove.
        total = jnp.sum(embeddings, axis=-2, keepdims=True, where=rows)
        fill = jax.lax.stop_gradient(total / size[..., None, None])
        distance = pairwise_euclidean_distance(jnp.where(rows, embeddings, fill))
        if not normalize:
            return distance
        mean = jnp.sum(distance, axis=(-2, -1), where=pairs) / (size * (size - 1))
        return distance / jnp.where(mean > 0, mean, 1)[..., None, None]

    error = huber(distances(student) - distances(teacher))
    total = jnp.sum(error, axis=(-2, -1), where=pairs)
    return total / size if group_mean else total


def class_aware_embedding_distillation_loss(
    student: jax.typing.ArrayLike,
    teacher: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    normalize: bool = True,
    group_mean: bool = True,
) -> jax.Array:
    """CD: matches, for each class, the structure of its embeddings over the images of the class.

        sum_c structural_distance_loss({s_ic : y_ic = 1}, {t_ic : y_ic = 1})

    over the classes that at least two images have. Embeddings of absent labels have no influence.
    Needs memory for B * C * B distances.

    Args:
      student: float [B, C, D], one embedding per image and class.
      teacher: float [B, C, D'], its width may differ; receives no gradient.
      targets: {0, 1} [B, C] of any dtype.
      normalize: see `structural_distance_loss`.
      group_mean: see `structural_distance_loss`.

    Returns:
      Float scalar, the sum over classes; 0 if no class is in two images.

    Raises:
      ValueError: if a shape does not fit.

    References:
      Yang et al., ICCV 2023, https://arxiv.org/abs/2308.06453, equations 4 to 8.
    """
    student, teacher = student_and_teacher(student, teacher, rank=3, shared_axes=2)
    present = _checked_targets(targets, student.shape[:-1]).astype(bool)
    student, teacher, present = (jnp.swapaxes(x, 0, 1) for x in (student, teacher, present))
    return jnp.sum(_structural_distance_losses(student, teacher, present, normalize, group_mean))


def instance_aware_embedding_distillation_loss(
    student: jax.typing.ArrayLike,
    teacher: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    normalize: bool = True,
    group_mean: bool = True,
) -> jax.Array:
    """ID: matches, for each image, the structure of the embeddings of its classes.

        sum_i structural_distance_loss({s_ic : y_ic = 1}, {t_ic : y_ic = 1})

    over the images with at least two labels; with `normalize` an image with exactly two contributes
    0. Needs memory for B * C * C distances.

    Args:
      student: float [B, C, D], one embedding per image and class.
      teacher: float [B, C, D'], its width may differ; receives no gradient.
      targets: {0, 1} [B, C] of any dtype.
      normalize: see `structural_distance_loss`.
      group_mean: see `structural_distance_loss`.

    Returns:
      Float scalar, the sum over images; 0 if no image has two labels.

    Raises:
      ValueError: if a shape does not fit.

    References:
      Yang et al., ICCV 2023, https://arxiv.org/abs/2308.06453, equations 4 to 8.
    """
    student, teacher = student_and_teacher(student, teacher, rank=3, shared_axes=2)
    present = _checked_targets(targets, student.shape[:-1]).astype(bool)
    return jnp.sum(_structural_distance_losses(student, teacher, present, normalize, group_mean))


def label_embedding_distillation_loss(
    student: jax.typing.ArrayLike,
    teacher: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    lambda_cd: float = 100.0,
    lambda_id: float = 1000.0,
    normalize: bool = True,
    group_mean: bool = True,
) -> jax.Array:
    """LED: the weighted sum of the class-aware and the instance-aware loss.

        lambda_cd * CD + lambda_id * ID

    Args:
      student: float [B, C, D], one embedding per image and class.
      teacher: float [B, C, D'], its width may differ; receives no gradient.
      targets: {0, 1} [B, C] of any dtype.
      lambda_cd: weight of `class_aware_embedding_distillation_loss`; 100 in paper and code.
      lambda_id: weight of `instance_aware_embedding_distillation_loss`; 1000 in paper and code.
      normalize: see `structural_distance_loss`.
      group_mean: see `structural_distance_loss`.

    Returns:
      Float scalar.

    Raises:
      ValueError: if a shape does not fit.

    References:
      Yang et al., ICCV 2023, https://arxiv.org/abs/2308.06453, equations 4 to 8.
    """
    how = {"normalize": normalize, "group_mean": group_mean}
    class_aware = class_aware_embedding_distillation_loss(student, teacher, targets, **how)
    instance_aware = instance_aware_embedding_distillation_loss(student, teacher, targets, **how)
    return lambda_cd * class_aware + lambda_id * instance_aware


def partial_softmax_distillation_loss(
    student_logits: jax.typing.ArrayLike,
    teacher_logits: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
) -> jax.Array:
    """PS: for each positive class, soft-target KL over that class and all negative ones.

        sum_{k: y_k = 1} KL(softmax(t over A_k) || softmax(s over A_k)),    A_k = {k} + negatives

    An example without positives, or without negatives, gives 0. Adding a constant to all logits of
    an example changes nothing.

    Args:
      student_logits: float [..., C].
      teacher_logits: float [..., C]; receives no gradient.
      targets: {0, 1} [..., C] of any dtype.

    Returns:
      Float [...], the sum over the positive classes, in nats.

    Raises:
      ValueError: if the shapes differ.

    References:
      Yang et al., ICCV 2023, https://arxiv.org/abs/2308.06453 (baseline PS).
    """
    student, teacher = student_and_teacher(student_logits, teacher_logits)
    present = _checked_targets(targets, student.shape).astype(bool)
    has_negative = jnp.any(~present, axis=-1, keepdims=True)
    negative = ~present | ~has_negative
    # The divergence over A_k splits into "k or a negative?" and "which negative?", and only the
    # first depends on k: no [..., C, C] array is needed.
    rest_s = jax.nn.logsumexp(student, axis=-1, keepdims=True, where=negative)
    rest_t = jax.nn.logsumexp(teacher, axis=-1, keepdims=True, where=negative)
    which = softmax_kl(student, teacher, where=negative)[..., None]
    terms = bernoulli_kl(student - rest_s, teacher - rest_t) + (
        jax.nn.sigmoid(rest_t - teacher) * which
    )
    return jnp.sum(terms, axis=-1, where=present & has_negative)


def asymmetric_loss(
    logits: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    gamma_neg: float = 4.0,
    gamma_pos: float = 1.0,
    margin: float = 0.05,
    eps: float = 1e-8,
) -> jax.Array:
    """ASL: binary cross-entropy with separate focusing of negatives and positives.

        -sum_k [y_k (1 - p_k)^gamma_pos log max(p_k, eps)
                + (1 - y_k) (1 - n_k)^gamma_neg log max(n_k, eps)],
        p = sigmoid(x),    n = min(1 - p + margin, 1)

    A negative with probability below the margin has no loss. The gradient includes the focusing
    weights. With both gammas and the margin at 0, the loss is `multilabel_bce_loss`. It is not part
    of L2D.

    Args:
      logits: float [..., C].
      targets: {0, 1} [..., C] of any dtype.
      gamma_neg: focusing power of negatives, at least 0.
      gamma_pos: focusing power of positives, at least 0 (0 is usual on MS-COCO).
      margin: probability shift of negatives, in [0, 1).
      eps: the least probability, in (0, 1).

    Returns:
      Float [...], the sum over classes, in nats.

    Raises:
      ValueError: if the shapes differ or an option is out of its range.

    References:
      Ridnik et al., "Asymmetric Loss For Multi-Label Classification", ICCV 2021,
      https://arxiv.org/abs/2009.14119, section 2.
    """
    logits = at_least_float32(logits)
    present = _checked_targets(targets, logits.shape).astype(bool)
    gamma_neg, gamma_pos, margin = float(gamma_neg), float(gamma_pos), float(margin)
    if min(gamma_neg, gamma_pos) < 0:
        raise ValueError(f"gammas must be at least 0, got {gamma_neg} and {gamma_pos}.")
    if not 0 <= margin < 1:
        raise ValueError(f"margin must be in [0, 1), got {margin}.")
    log_eps = _log_probability_floor(eps)
    log_p, log_not_p = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    log_n = jnp.logaddexp(log_not_p, math.log(margin)) if margin else log_not_p
    positive_term = jnp.exp(gamma_pos * log_not_p) * jnp.maximum(log_p, log_eps)

    shifted = jax.nn.sigmoid(logits) - margin
    is_costly = shifted > 0
    weight = jnp.where(is_costly, shifted, 1) ** gamma_neg
    negative_term = jnp.where(is_costly, weight * jnp.maximum(log_n, log_eps), 0)
    return -jnp.sum(jnp.where(present, positive_term, negative_term), axis=-1)


def _checked_targets(targets: jax.typing.ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    targets = jnp.asarray(targets)
    if targets.shape != shape:
        raise ValueError(
            f"targets must hold 0 or 1 for each example and class, {shape}, got {targets.shape}."
        )
    return targets


def _log_probability_floor(eps: float) -> float:
    eps = float(eps)
    if not 0 < eps < 1:
        raise ValueError(f"eps must be between 0 and 1, got {eps}.")
    return math.log(eps)
