"""Diverse selections: greedy k-center (Coreset) and gradient embeddings (BADGE).

Both keep one distance per pool row and update it after each pick, so memory is that of the
features plus one block of distances; the loop over picks is one compiled program.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxrobust.arrays import at_least_float32

_BLOCK = 256


def k_center_greedy(
    features: jax.Array,
    labeled_features: jax.Array,
    budget: int,
    *,
    where: jax.Array | None = None,
    labeled_where: jax.Array | None = None,
) -> jax.Array:
    """Picks, one after another, the row farthest from every centre so far.

    `argmax_i min_c ||x_i - c||`, the centres being the labelled rows and all earlier picks.

    Args:
      features: floats `[N, D]` of the pool.
      labeled_features: floats `[L, D]` of the labelled images, L >= 1.
      budget: number of picks, static.
      where: bool `[N]`, the candidates; `None` for all. Lets pools of different size share one
        compiled program.
      labeled_where: bool `[L]`, the labelled rows that count; `None` for all.

    Returns:
      int32 row positions `[min(budget, N)]` in greedy order, without repetition; -1 once no
      candidate is left. Ties go to the lower position.

    Raises:
      ValueError: if the feature widths differ, there is no labelled row or `budget` is negative.

    References:
      Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set
      Approach", ICLR 2018, Algorithm 1.
    """
    features, centers = at_least_float32(features), at_least_float32(labeled_features)
    if features.ndim != 2 or centers.ndim != 2 or features.shape[1] != centers.shape[1]:
        raise ValueError(
            "features and labeled_features must be [N, D] and [L, D], got "
            f"{features.shape} and {centers.shape}."
        )
    if centers.shape[0] == 0:
        raise ValueError("k-center needs a centre to start from: labeled_features has no row.")
    nearest = _nearest_center(features, centers, labeled_where)
    # A row out of the running is nearer than any distance.
    nearest = nearest if where is None else jnp.where(where, nearest, -jnp.inf)

    def pick(step, carry):
        nearest, picks = carry
        row = jnp.argmax(nearest).astype(jnp.int32)
        picks = picks.at[step].set(jnp.where(nearest[row] < 0, -1, row))
        distance = jnp.sum((features - features[row][None]) ** 2, axis=1)
        return jnp.minimum(nearest, distance).at[row].set(-jnp.inf), picks

    picks = jnp.zeros(_num_picks(budget, len(features)), jnp.int32)
    return lax.fori_loop(0, picks.size, pick, (nearest, picks))[1]


def badge_select(
    key: jax.Array,
    logits: jax.Array,
    features: jax.Array,
    budget: int,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
    """Samples a diverse and uncertain set by k-means++ seeding on gradient embeddings.

    The embedding of a row is the gradient of its cross-entropy at the predicted class with respect
    to the last layer's weights, the outer product of `softmax(logits) - one_hot(argmax)` and its
    feature. First the longest one, then rows drawn with probability proportional to the squared
    distance to the nearest pick.

    Args:
      key: random key of the draws.
      logits: floats `[N, C]` of the pool.
      features: floats `[N, D]`, the last layer's input.
      budget: number of picks, static.
      where: bool `[N]`, the candidates; `None` for all. Lets pools of different size share one
        compiled program.

    Returns:
      int32 row positions `[min(budget, N)]` in the order of drawing, without repetition; -1 once
      no candidate is left.

    Raises:
      ValueError: if logits and features are not matrices with one row per image, or `budget` is
        negative.

    References:
      Ash et al., "Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds",
      ICLR 2020, Algorithm 1.
    """
    logits, features = at_least_float32(logits), at_least_float32(features)
    if logits.ndim != 2 or features.ndim != 2 or len(logits) != len(features):
        raise ValueError(
            f"logits and features must be [N, C] and [N, D], got {logits.shape} and "
            f"{features.shape}."
        )
    top = jax.nn.one_hot(jnp.argmax(logits, axis=1), logits.shape[1], dtype=logits.dtype)
    residuals = jax.nn.softmax(logits) - top
    sizes = jnp.sum(residuals**2, axis=1) * jnp.sum(features**2, axis=1)
    candidate = jnp.ones(len(logits), bool) if where is None else where
    picks = jnp.zeros(_num_picks(budget, len(logits)), jnp.int32)

    def pick(step, carry):
        nearest, candidate, picks = carry
        # The bound lets exact duplicates of a pick be drawn, but only when nothing else is left.
        log_odds = jnp.log(jnp.maximum(nearest, jnp.finfo(nearest.dtype).tiny))
        noise = jax.random.gumbel(jax.random.fold_in(key, step), nearest.shape, nearest.dtype)
        noise = jnp.where(step == 0, jnp.zeros_like(noise), noise)
        row = jnp.argmax(jnp.where(candidate, log_odds + noise, -jnp.inf)).astype(jnp.int32)
        picks = picks.at[step].set(jnp.where(candidate[row], row, -1))
        distance = _outer_product_distance(residuals, features, sizes, row)
        nearest = jnp.where(step == 0, distance, jnp.minimum(nearest, distance))
        return nearest, candidate.at[row].set(False), picks

    return lax.fori_loop(0, picks.size, pick, (sizes, candidate, picks))[2]


def _outer_product_distance(
    left: jax.Array, right: jax.Array, sizes: jax.Array, row: jax.Array
) -> jax.Array:
    """Squared distance `[N]` of every outer product `left_i right_i^T` to that of one row.

    `|l_i|^2 |r_i|^2 + |l_j|^2 |r_j|^2 - 2 <l_i, l_j> <r_i, r_j>`, with `sizes` the first term:
    the products themselves are never formed.
    """
    inner = _dot(left, left[row]) * _dot(right, right[row])
    return jnp.maximum(sizes + sizes[row] - 2.0 * inner, 0.0)


def _num_picks(budget: int, rows: int) -> int:
    if budget < 0:
        raise ValueError(f"budget must not be negative, got {budget}.")
    return min(budget, rows)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    # Accelerators would otherwise round the factors to fewer digits than a distance needs.
    return jnp.dot(a, b, precision=lax.Precision.HIGHEST)


def _nearest_center(features: jax.Array, centers: jax.Array, where: jax.Array | None) -> jax.Array:
    """Squared distance `[N]` to the nearest of the centres `[L, D]`, a block of them at a time."""
    block = min(_BLOCK, len(centers))
    center_sizes = jnp.sum(centers**2, axis=1)
    if where is not None:
        center_sizes = jnp.where(where, center_sizes, jnp.inf)

    def visit(index, nearest):
        # The last block is moved back inside the array: it repeats rows, which a minimum ignores.
        rows = lax.dynamic_slice_in_dim(centers, index * block, block)
        sizes = lax.dynamic_slice_in_dim(center_sizes, index * block, block)
        return jnp.minimum(nearest, jnp.min(sizes[None] - 2.0 * _dot(features, rows.T), axis=1))

    start = jnp.full(len(features), jnp.inf, features.dtype)
    nearest = lax.fori_loop(0, -(-len(centers) // block), visit, start)
    return jnp.maximum(nearest + jnp.sum(features**2, axis=1), 0.0)
