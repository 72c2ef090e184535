"""Diverse selections: greedy k-center (Coreset) and gradient embeddings (BADGE).

Both choose the row with the highest score, and each further pick can only lower a score. Scores are
therefore updated lazily: every row holds its distance to the picks of all complete blocks, which
takes one matrix product per block, and only rows that come first are compared with later picks. The
picks are the same as with a full pass over the pool for every pick. Memory is that of the features
and one block of distances; the loop is one compiled program. Time grows as the size of the pool
times the number of picks (for k-center, of picks and labelled rows).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxrobust.arrays import at_least_float32

_BLOCK = 64


def k_center_greedy(
    features: jax.Array,
    labeled_features: jax.Array,
    budget: int,
    *,
    where: jax.Array | None = None,
    labeled_where: jax.Array | None = None,
) -> jax.Array:
    """Repeatedly picks the row farthest from all centres.

    `argmax_i min_c ||x_i - c||`, where the centres c are the labelled rows and all earlier picks.

    Args:
      features: floats `[N, D]` of the pool.
      labeled_features: floats `[L, D]` of the labelled images, L >= 1.
      budget: number of picks, static.
      where: bool `[N]`, the candidates; `None` for all. With it pools of different sizes share one
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
    candidate = jnp.ones(len(features), bool) if where is None else jnp.asarray(where, bool)
    return _pick_far((features,), nearest, candidate, _num_picks(budget, len(features)))


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
    feature. The first pick has the longest embedding; further ones are drawn with probability
    proportional to the squared distance to the nearest pick.

    Args:
      key: random key of the draws.
      logits: floats `[N, C]` of the pool.
      features: floats `[N, D]`, the last layer's input.
      budget: number of picks, static.
      where: bool `[N]`, the candidates; `None` for all. With it pools of different sizes share one
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
    factors = residuals, features
    candidate = jnp.ones(len(logits), bool) if where is None else jnp.asarray(where, bool)
    num_picks = _num_picks(budget, len(logits))
    if num_picks == 0:
        return jnp.zeros(0, jnp.int32)
    longest = jnp.argmax(jnp.where(candidate, _sizes(factors), -1.0)).astype(jnp.int32)
    nearest = _squared_distances(factors, (residuals[longest][None], features[longest][None]))[:, 0]
    first = jnp.where(candidate[longest], longest, -1)

    others = _pick_far(
        factors,
        nearest,
        candidate.at[longest].set(False),
        num_picks - 1,
        # The bound lets exact duplicates of a pick be drawn, but only when nothing else is left.
        score=lambda nearest: jnp.log(jnp.maximum(nearest, jnp.finfo(nearest.dtype).tiny)),
        noise=lambda step: jax.random.gumbel(
            jax.random.fold_in(key, step), nearest.shape, nearest.dtype
        ),
    )
    return jnp.concatenate([first[None], others])


def _pick_far(
    factors: tuple[jax.Array, ...],
    nearest: jax.Array,
    candidate: jax.Array,
    num_picks: int,
    *,
    score: Callable[[jax.Array], jax.Array] = lambda nearest: nearest,
    noise: Callable[[jax.Array], jax.Array] = jnp.zeros_like,
) -> jax.Array:
    """int32 `[num_picks]` candidates of the largest `score(nearest) + noise(step)`; -1: none left.

    `nearest` `[N]` are squared distances to the nearest pick so far; `score` is increasing.
    """
    if num_picks == 0:
        return jnp.zeros(0, jnp.int32)
    block = min(_BLOCK, num_picks)

    def pick(step, carry):
        nearest, candidate, picks, recent = carry
        num_recent = step % block
        at_recent = tuple(x[recent] for x in factors)
        drawn = jnp.broadcast_to(noise(step), nearest.shape).astype(nearest.dtype)

        def look(carry):
            """Updates the row that comes first; it is the pick if its score does not change."""
            nearest, scores, _, _ = carry
            row = jnp.argmax(scores).astype(jnp.int32)
            distances = _squared_distances(tuple(x[row][None] for x in factors), at_recent)[0]
            distances = jnp.where(jnp.arange(block) < num_recent, distances, jnp.inf)
            exact = jnp.minimum(nearest[row], jnp.min(distances))
            is_first = (exact >= nearest[row]) | ~candidate[row]
            value = jnp.where(candidate[row], score(exact) + drawn[row], -jnp.inf)
            return nearest.at[row].set(exact), scores.at[row].set(value), row, is_first

        scores = jnp.where(candidate, score(nearest) + drawn, -jnp.inf)
        start = nearest, scores, jnp.int32(0), jnp.bool_(False)
        nearest, _, row, _ = lax.while_loop(lambda carry: ~carry[3], look, start)
        picks = picks.at[step].set(jnp.where(candidate[row], row, -1))
        recent = recent.at[num_recent].set(row)

        def after_block(nearest):
            distances = _squared_distances(factors, tuple(x[recent] for x in factors))
            return jnp.minimum(nearest, jnp.min(distances, axis=1))

        nearest = lax.cond(num_recent + 1 == block, after_block, lambda x: x, nearest)
        return nearest, candidate.at[row].set(False), picks, recent

    empty = jnp.zeros(num_picks, jnp.int32), jnp.zeros(block, jnp.int32)
    return lax.fori_loop(0, num_picks, pick, (nearest, candidate, *empty))[2]


def _sizes(factors: tuple[jax.Array, ...]) -> jax.Array:
    """Squared length `[N]` of every outer product of factors `[N, D_f]`."""
    return functools.reduce(jnp.multiply, (jnp.sum(x**2, axis=1) for x in factors))


def _squared_distances(left: tuple[jax.Array, ...], right: tuple[jax.Array, ...]) -> jax.Array:
    """Squared distances `[L, R]` of outer products of rows, which are not formed.

    `prod |l_f|^2 + prod |r_f|^2 - 2 prod <l_f, r_f>` over the factors f; one factor is a vector.
    """
    inner = functools.reduce(jnp.multiply, (_dot(a, b.T) for a, b in zip(left, right, strict=True)))
    return jnp.maximum(_sizes(left)[:, None] + _sizes(right)[None] - 2.0 * inner, 0.0)


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
    counted = jnp.ones(len(centers), bool) if where is None else jnp.asarray(where, bool)
    # Whole blocks of the rows that count, then padding.
    rows = jnp.nonzero(counted, size=-(-len(centers) // block) * block, fill_value=-1)[0]

    def visit(index, nearest):
        ids = lax.dynamic_slice_in_dim(rows, index * block, block)
        distances = _squared_distances((features,), (centers[ids],))
        return jnp.minimum(
            nearest, jnp.min(distances, axis=1, where=ids[None] >= 0, initial=jnp.inf)
        )

    start = jnp.full(len(features), jnp.inf, features.dtype)
    return lax.fori_loop(0, -(-jnp.sum(counted) // block), visit, start)
