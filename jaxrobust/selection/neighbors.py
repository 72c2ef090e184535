"""Nearest neighbours by inner product, and their votes."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxrobust.arrays import at_least_float32

_CHUNK = 16_384  # candidates compared at a time


def nearest_neighbors(
    queries: jax.typing.ArrayLike,
    features: jax.typing.ArrayLike,
    *,
    num_neighbors: int,
    exclude: jax.typing.ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Finds the candidates with the largest inner product with each query.

    For vectors of unit length these are the nearest ones. Candidates are compared in chunks, so
    memory does not grow with B * N.

    Args:
      queries: floats `[B, D]`.
      features: floats `[N, D]`, of any precision; products are summed in float32.
      num_neighbors: k, from 1 to N, or to N - 1 with `exclude`.
      exclude: int `[B]`, a candidate to exclude for each query, such as the query itself.

    Returns:
      Inner products, float32 `[B, k]`, largest first, and positions, int32 `[B, k]`. Ties go to the
      lower position.

    Raises:
      ValueError: if shapes do not fit, or there are fewer candidates than `num_neighbors`.
    """
    queries, features = jnp.asarray(queries), jnp.asarray(features)
    if queries.ndim != 2 or features.ndim != 2 or queries.shape[1] != features.shape[1]:
        raise ValueError(
            f"queries and features must be [B, D] and [N, D], got {queries.shape} and "
            f"{features.shape}."
        )
    size, available = len(features), len(features) - (exclude is not None)
    if not 1 <= num_neighbors <= available:
        raise ValueError(f"num_neighbors must lie in 1 to {available}, got {num_neighbors}.")
    chunk = min(_CHUNK, size)
    queries = queries.astype(jnp.float32)
    exclude = jnp.full(len(queries), -1) if exclude is None else jnp.asarray(exclude)

    def visit(i, best):
        first = jnp.minimum(i * chunk, size - chunk)  # the last chunk overlaps the one before
        ids = first + jnp.arange(chunk)
        candidates = lax.dynamic_slice_in_dim(features, first, chunk).astype(jnp.float32)
        nearness = jnp.dot(queries, candidates.T, precision=lax.Precision.HIGHEST)
        is_candidate = (ids[None] >= i * chunk) & (ids[None] != exclude[:, None])
        nearness = jnp.where(is_candidate, nearness, -jnp.inf)
        found, places = lax.top_k(nearness, min(num_neighbors, chunk))
        nearness = jnp.concatenate([best[0], found], axis=1)
        positions = jnp.concatenate([best[1], first + places.astype(jnp.int32)], axis=1)
        found, places = lax.top_k(nearness, num_neighbors)
        return found, jnp.take_along_axis(positions, places, axis=1)

    shape = (len(queries), num_neighbors)
    start = jnp.full(shape, -jnp.inf, jnp.float32), jnp.zeros(shape, jnp.int32)
    return lax.fori_loop(0, -(-size // chunk), visit, start)


def neighbor_votes(
    similarities: jax.typing.ArrayLike, labels: jax.typing.ArrayLike, *, num_classes: int
) -> jax.Array:
    """Class probabilities from the labels of neighbours, each weighted by its similarity.

        p_c = (sum_j max(s_j, 0) [y_j = c] + 1 / C) / (sum_j max(s_j, 0) + 1)

    One vote is spread over all classes, so that no probability is 0.

    Args:
      similarities: floats `[B, k]`.
      labels: int `[B, k]` in `0..C-1`, of the neighbours.
      num_classes: C.

    Returns:
      Floats `[B, C]` that sum to 1, at least float32.
    """
    weights = jnp.maximum(at_least_float32(similarities), 0)
    is_class = jax.nn.one_hot(labels, num_classes, dtype=weights.dtype)
    votes = jnp.einsum("bk,bkc->bc", weights, is_class, precision="highest")
    return (votes + 1 / num_classes) / (jnp.sum(weights, axis=1, keepdims=True) + 1)
