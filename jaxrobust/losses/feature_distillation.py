"""Feature-based distillation baselines: FitNet, AT, SP, RKD, PKT, VID, CRD, ReviewKD's loss."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.arrays import at_least_float32, masked_mean
from jaxrobust.losses._distillation import (
    huber,
    positive,
    row_mask,
    safe_sqrt,
    student_and_teacher,
)
from jaxrobust.losses.multilabel import structural_distance_loss


def rkd_loss(
    student: jax.typing.ArrayLike,
    teacher: jax.typing.ArrayLike,
    *,
    w_distance: float | jax.Array = 10.0,
    w_angle: float | jax.Array = 10.0,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Relational KD: distances between pairs and angles between triplets of a batch.

        w_distance * structural_distance_loss(s, t) + w_angle * mean_ijk huber(a_ijk - a'_ijk)

    with a_ijk the cosine of the angle at row i between rows j and k; it is 0, without gradient, if
    row i is closer than 1e-12 to one of them. Needs memory for B^2 * D floats.

    Args:
      student: float [B, D].
      teacher: float [B, D'], its width may differ; receives no gradient.
      w_distance: weight of the distance part. It is a sum over pairs divided by B, as in L2D's
        code; the original paper takes the mean over B^2.
      w_angle: weight of the angle part. Both defaults are L2D's; CRD's benchmark uses 25 and 50.
      where: bool [B], the rows that form the batch; None for all. Values of other rows are ignored.

    Returns:
      Float scalar.

    Raises:
      ValueError: if the features are not matrices with the same number of rows, or `where` does
        not fit them.

    References:
      Park et al., "Relational Knowledge Distillation", CVPR 2019,
      https://arxiv.org/abs/1904.05068, section 3.2.
    """
    student, teacher = student_and_teacher(student, teacher, rank=2, shared_axes=1)
    where = row_mask(where, len(student))
    student, teacher = (jnp.where(where[:, None], x, 0) for x in (student, teacher))
    triplets = where[:, None, None] & where[None, :, None] & where[None, None, :]
    angle = masked_mean(huber(_angle_cosines(student) - _angle_cosines(teacher)), triplets)
    distance = structural_distance_loss(student, teacher, where=where)
    return w_distance * distance + w_angle * angle


def _angle_cosines(features: jax.Array) -> jax.Array:
    """Cosines [B, B, B] of the angles at the first row between the other two."""
    offset = features[None, :, :] - features[:, None, :]
    length = safe_sqrt(jnp.sum(offset**2, axis=-1, keepdims=True))
    has_direction = length > 1e-12
    direction = jnp.where(has_direction, offset / jnp.where(has_direction, length, 1), 0)
    return jnp.einsum("ijd,ikd->ijk", direction, direction, precision=jax.lax.Precision.HIGHEST)


def pkt_loss(
    student: jax.typing.ArrayLike,
    teacher: jax.typing.ArrayLike,
    *,
    eps: float = 1e-7,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """PKT: matches the cosine similarities of a batch, read as conditional probabilities.

        mean_ij Q_ij log((Q_ij + eps) / (P_ij + eps))

    with P of the student and Q of the teacher: `P_ij = k_ij / sum_j k_ij` (diagonal included),
    `k = (u u^T + 1) / 2`, `u_i = f_i / (||f_i|| + eps)`.

    Args:
      student: float [B, D].
      teacher: float [B, D'], its width may differ; receives no gradient.
      eps: added to norms and probabilities; above 0.
      where: bool [B], the rows that form the batch; None for all. Values of other rows are ignored.

    Returns:
      Float scalar, in nats, the mean over B^2 pairs.

    Raises:
      ValueError: if the features are not matrices with the same number of rows, `where` does not
        fit them or eps is not positive.

    References:
      Passalis and Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer",
      ECCV 2018, https://arxiv.org/abs/1803.10837, section 3.
    """
    student, teacher = student_and_teacher(student, teacher, rank=2, shared_axes=1)
    eps = positive("eps", eps)
    where = row_mask(where, len(student))
    p, q = (
        _conditional_similarities(jnp.where(where[:, None], x, 0), where, eps)
        for x in (student, teacher)
    )
    pairs = where[:, None] & where[None, :]
    return masked_mean(q * (jnp.log(q + eps) - jnp.log(p + eps)), pairs)


def _conditional_similarities(features: jax.Array, where: jax.Array, eps: float) -> jax.Array:
    norm = safe_sqrt(jnp.sum(features**2, axis=-1, keepdims=True))
    unit = features / (norm + eps)
    cosine = jnp.matmul(unit, unit.T, precision=jax.lax.Precision.HIGHEST)
    # Rounding may take the cosine of opposite rows below -1, where the logarithm has no value.
    similarity = jnp.where(where[None, :], jnp.maximum((cosine + 1) / 2, 0), 0)
    return similarity / jnp.sum(similarity, axis=-1, keepdims=True)


def fitnet_loss(
    student_maps: jax.typing.ArrayLike, teacher_maps: jax.typing.ArrayLike
) -> jax.Array:
    """FitNet's hint loss: the mean squared error of one intermediate map.

        mean_hwc (s - t)^2

    A trained regressor maps the student's map to the teacher's shape. The form is that of CRD's
    benchmark, whose weight is 100; the paper uses half the squared norm instead of the mean.

    Args:
      student_maps: float [B, ...], output of the regressor.
      teacher_maps: the same shape; receives no gradient.

    Returns:
      Float [B], the mean over all axes but the first.

    Raises:
      ValueError: if the shapes differ.

    References:
      Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015,
      https://arxiv.org/abs/1412.6550, equation 3.
    """
    student, teacher = student_and_teacher(student_maps, teacher_maps)
    return jnp.mean((student - teacher) ** 2, axis=tuple(range(1, student.ndim)))


def similarity_preserving_loss(
    student: jax.typing.ArrayLike,
    teacher: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """SP: matches the inner products between the examples of a batch, with rows scaled to length 1.

        ||G_s - G_t||_F^2 / B^2,    G = rows of F F^T divided by their norms

    with F the activations of a map, flattened to a row per example. A row of zeros stays zero.

    Args:
      student: float [B, ...].
      teacher: float [B, ...], its other axes may differ; receives no gradient.
      where: bool [B], the rows that form the batch; None for all. Values of other rows are ignored.

    Returns:
      Float scalar.

    Raises:
      ValueError: if the numbers of rows differ or `where` does not fit them.

    References:
      Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019,
      https://arxiv.org/abs/1907.09682, equations 1 to 4.
    """
    student, teacher = student_and_teacher(*map(_flat_rows, (student, teacher)), shared_axes=1)
    where = row_mask(where, len(student))

    def similarities(features):
        features = jnp.where(where[:, None], features, 0)
        gram = jnp.matmul(features, features.T, precision=jax.lax.Precision.HIGHEST)
        # As PyTorch's `normalize`.
        return gram / jnp.maximum(safe_sqrt(jnp.sum(gram**2, axis=1, keepdims=True)), 1e-12)

    pairs = where[:, None] & where[None, :]
    return masked_mean((similarities(student) - similarities(teacher)) ** 2, pairs)


def _flat_rows(features: jax.typing.ArrayLike) -> jax.Array:
    features = jnp.asarray(features)
    return features.reshape(features.shape[0], -1)


def variational_information_loss(
    predicted: jax.typing.ArrayLike,
    teacher_maps: jax.typing.ArrayLike,
    variance_logits: jax.typing.ArrayLike,
    *,
    min_variance: float = 1e-5,
) -> jax.Array:
    """VID: negative log-likelihood of a teacher's map under a Gaussian that the student predicts.

        mean_hwc [(t - m)^2 / v_c + log v_c] / 2,    v_c = softplus(a_c) + min_variance

    without the constant log(2 pi) / 2. The variance of a channel is trained with the student and
    starts at 5: `a = log(exp(5 - min_variance) - 1)`.

    Args:
      predicted: float [B, H, W, C], m, the output of a trained regressor on the student's map.
      teacher_maps: the same shape; receives no gradient.
      variance_logits: float [C], a.
      min_variance: the least variance, above 0.

    Returns:
      Float [B], the mean over the map, in nats.

    Raises:
      ValueError: if a shape does not fit or `min_variance` is not positive.

    References:
      Ahn et al., "Variational Information Distillation for Knowledge Transfer", CVPR 2019,
      https://arxiv.org/abs/1904.05835, equations 5 and 6.
    """
    predicted, teacher = student_and_teacher(predicted, teacher_maps, rank=4)
    variance_logits = at_least_float32(variance_logits).astype(predicted.dtype)
    if variance_logits.shape != predicted.shape[-1:]:
        raise ValueError(
            f"variance_logits must be [C], one per channel of {predicted.shape}, "
            f"got {variance_logits.shape}."
        )
    variance = jax.nn.softplus(variance_logits) + positive("min_variance", min_variance)
    variance = variance[None, None, None]
    terms = (predicted - teacher) ** 2 / variance + jnp.log(variance)
    return jnp.mean(terms, axis=(1, 2, 3)) / 2


def contrastive_loss(
    similarities: jax.typing.ArrayLike,
    num_examples: int,
    *,
    log_normalizer: jax.typing.ArrayLike,
    temperature: float = 0.07,
) -> jax.Array:
    """CRD's noise-contrastive loss: decides which of M + 1 pairs are of the same image.

        -log h_0 - sum_{j=1..M} log(1 - h_j),    h = e / (e + M / N),    e = exp(s / T) / Z

    CRD adds two such losses: the student's embeddings against a memory of the teacher's, and the
    teacher's (whose embedding is trained too) against a memory of the student's.

    Args:
      similarities: float [B, M + 1], inner products of embeddings of length 1; column 0 belongs to
        the image itself, the others to images drawn uniformly from the set.
      num_examples: N, the number of images in the set.
      log_normalizer: log Z, a number or float [B, 1]; the authors take Z = N times the mean of
        exp(s / T) over the first batch and keep it.
      temperature: T > 0.

    Returns:
      Float [B], in nats.

    Raises:
      ValueError: if there is no negative, or the temperature is not positive.

    References:
      Tian et al., "Contrastive Representation Distillation", ICLR 2020,
      https://arxiv.org/abs/1910.10699, equations 17 to 19. The authors' code adds 1e-7 to the
      denominator of h.
    """
    similarities = at_least_float32(similarities)
    if similarities.ndim != 2 or similarities.shape[1] < 2:
        raise ValueError(
            f"similarities must be [B, M + 1] with M >= 1 negatives; got {similarities.shape}."
        )
    noise = math.log((similarities.shape[1] - 1) / num_examples)
    log_normalizer = jnp.asarray(log_normalizer, similarities.dtype)
    log_odds = similarities / positive("temperature", temperature) - log_normalizer - noise
    return -jax.nn.log_sigmoid(log_odds[:, 0]) - jnp.sum(
        jax.nn.log_sigmoid(-log_odds[:, 1:]), axis=1
    )


def review_kd_hcl_loss(
    student_maps: Sequence[jax.typing.ArrayLike],
    teacher_maps: Sequence[jax.typing.ArrayLike],
    *,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """ReviewKD's hierarchical context loss: squared error at several resolutions.

        sum_levels sum_k w_k mse(pool_k(s), pool_k(t)) / sum_k w_k

    over the map itself with w = 1 and its average pools to k = 4, 2 and 1 cells per side, leaving
    out each k that is not below the height of the map. Each weight is half the previous one: 1/2,
    1/4 and 1/8 if no k is left out.

    Args:
      student_maps: one float [B, H, W, C] per level.
      teacher_maps: the same shapes; receive no gradient.
      where: bool [B], the examples that form the batch; None for all.

    Returns:
      Float scalar.

    Raises:
      ValueError: if there are no levels, their numbers differ or a shape does not fit.

    References:
      Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021,
      https://arxiv.org/abs/2104.09044, section 3.3.
    """
    levels = _levels(student_maps, teacher_maps)
    return jnp.asarray(sum(_hierarchical_context_loss(s, t, where) for s, t in levels))


def _hierarchical_context_loss(
    student: jax.typing.ArrayLike,
    teacher: jax.typing.ArrayLike,
    where: jax.typing.ArrayLike | None,
) -> jax.Array:
    student, teacher = student_and_teacher(student, teacher, rank=4)
    where = row_mask(where, len(student))

    def mean_square(maps):
        return masked_mean(jnp.mean(maps**2, axis=(1, 2, 3)), where)

    difference = student - teacher
    sizes = [k for k in (4, 2, 1) if k < difference.shape[1]]
    loss, weight, total_weight = mean_square(difference), 1.0, 1.0
    for k in sizes:
        weight /= 2
        total_weight += weight
        loss += weight * mean_square(average_pool_to(difference, (k, k)))
    return loss / total_weight


def attention_transfer_loss(
    student_maps: Sequence[jax.typing.ArrayLike], teacher_maps: Sequence[jax.typing.ArrayLike]
) -> jax.Array:
    """Attention transfer: squared error of the normalised spatial attention of each level.

        sum_levels mean_hw (a / ||a|| - a' / ||a'||)^2,    a_hw = mean_c f_hwc^2

    If the two maps of a level differ in size, both are average-pooled to the smaller size.

    Args:
      student_maps: one float [B, H, W, C] per level.
      teacher_maps: one float [B, H', W', C'] per level; receive no gradient.

    Returns:
      Float [B], summed over levels, as in the authors' code, which weights it with 1000; equation 2
      of the paper uses the norm instead of the mean square.

    Raises:
      ValueError: if there are no levels, their numbers differ or a shape does not fit.

    References:
      Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017,
      https://arxiv.org/abs/1612.03928, equation 2.
    """
    errors = (_attention_error(s, t) for s, t in _levels(student_maps, teacher_maps))
    return jnp.asarray(sum(errors))


def _attention_error(student: jax.typing.ArrayLike, teacher: jax.typing.ArrayLike) -> jax.Array:
    student, teacher = student_and_teacher(student, teacher, rank=4, shared_axes=1)
    size = tuple(min(pair) for pair in zip(student.shape[1:3], teacher.shape[1:3], strict=True))
    error = _attention(student, size) - _attention(teacher, size)
    return jnp.mean(error**2, axis=(1, 2))


def _attention(maps: jax.Array, size: tuple[int, ...]) -> jax.Array:
    if maps.shape[1:3] != size:
        maps = average_pool_to(maps, size)
    energy = jnp.mean(maps**2, axis=-1)
    norm = safe_sqrt(jnp.sum(energy**2, axis=(1, 2), keepdims=True))
    return energy / jnp.where(norm > 0, norm, 1)


def _levels(student_maps: Sequence, teacher_maps: Sequence) -> list[tuple]:
    if len(student_maps) != len(teacher_maps) or not student_maps:
        raise ValueError(
            "student_maps and teacher_maps must be lists with one map per level, "
            f"got {len(student_maps)} and {len(teacher_maps)} levels."
        )
    return list(zip(student_maps, teacher_maps, strict=True))


def average_pool_to(maps: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Average pool of [B, H, W, C]; cell i of k spans [floor(i H / k), ceil((i + 1) H / k))."""
    rows, columns = (
        jnp.asarray(_pooling_matrix(length, cells), maps.dtype)
        for length, cells in zip(maps.shape[1:3], size, strict=True)
    )
    return jnp.einsum("bhwc,ih,jw->bijc", maps, rows, columns, precision=jax.lax.Precision.HIGHEST)


def _pooling_matrix(length: int, cells: int) -> np.ndarray:
    matrix = np.zeros((cells, length))
    for i in range(cells):
        start, stop = i * length // cells, -(-(i + 1) * length // cells)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix
