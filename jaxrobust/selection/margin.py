"""Scores turned into a common range."""

import jax
import jax.numpy as jnp

from jaxrobust.losses._numerics import at_least_float32


def min_max_normalize(
    x: jax.Array, *, where: jax.Array | None = None, constant: float = 0.0
) -> jax.Array:
    """Maps scores onto [0, 1]: `(x - min) / (max - min)`.

    Args:
      x: floats `[N]`.
      where: bool `[N]`, the entries over which minimum and maximum are taken; `None` for all.
        Entries outside it are unspecified in the result.
      constant: result where the maximum equals the minimum.

    Returns:
      Floats `[N]`, at least float32.
    """
    x = at_least_float32(x)
    low = jnp.min(x, where=where, initial=jnp.inf)
    spread = jnp.max(x, where=where, initial=-jnp.inf) - low
    flat = spread == 0
    scaled = (x - low) / jnp.where(flat, jnp.ones_like(spread), spread)
    return jnp.where(flat, jnp.full_like(x, constant), scaled)
