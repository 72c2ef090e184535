"""Leaf helpers that the losses and the selection functions share."""

import jax
import jax.numpy as jnp
import numpy as np


def at_least_float32(x: jax.typing.ArrayLike) -> jax.Array:
    """Casts half precision (and integers) up to float32; float32 and float64 stay as they are."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x.astype(jnp.float32)
    # NumPy's rule, because JAX's refuses (float64, float32) under strict promotion.
    return x.astype(np.promote_types(x.dtype, np.float32))


def masked_mean(values: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Mean of `values` over all entries, or over those where `where` holds.

    An empty selection gives 0, in the gradient too.
    """
    if where is None:
        return jnp.mean(values)
    count = jnp.maximum(jnp.sum(where, dtype=values.dtype), 1)
    return jnp.sum(jnp.where(where, values, jnp.zeros_like(values))) / count
