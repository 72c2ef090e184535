"""Large-margin scores of given labels, their normalisation and their threshold."""

import jax
import jax.numpy as jnp

from jaxrobust.arrays import at_least_float32, check_logits, label_mask


def logit_margin(logits: jax.typing.ArrayLike, labels: jax.typing.ArrayLike) -> jax.Array:
    """Logit of the given label minus the best other logit, `o_y - max_{c != y} o_c`.

    Positive if and only if the label is the only class of the largest logit.

    Args:
      logits: floats `[..., C]`, C >= 2.
      labels: integers `[...]` in `0..C-1`; any other gives `-max_c o_c`.

    Returns:
      Floats `[...]`, at least float32.

    Raises:
      ValueError: on fewer than two classes, or labels of another shape or not integers.

    References:
      Zong et al., "Dirichlet-Based Prediction Calibration for Learning with Noisy Labels", AAAI
      2024, large-margin criterion.
    """
    logits = check_logits(logits)
    is_label = label_mask(logits, labels)
    best_other = jnp.max(logits, axis=-1, where=~is_label, initial=-jnp.inf)
    return jnp.sum(logits, axis=-1, where=is_label) - best_other


def min_max_normalize(
    x: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
    constant: jax.typing.ArrayLike = 0.0,
) -> jax.Array:
    """Maps scores onto [0, 1]: `(x - min) / (max - min)`.

    Args:
      x: floats `[N]`.
      where: bool `[N]`, the entries over which minimum and maximum are taken; None for all.
        Entries outside it are unspecified in the result. Infinite scores, such as margins of
        probabilities of exactly zero, are not counted: -inf becomes 0 and +inf becomes 1.
      constant: result if the maximum equals the minimum.

    Returns:
      Floats `[N]`, at least float32.

    Raises:
      ValueError: if `x` is not a vector, or `where` has another shape.

    References:
      DPC (margins of a training set) and BUAL (confidences of the candidates), whose code gives NaN
      if the maximum equals the minimum.
    """
    x, where = check_scores(x, where)
    where &= ~jnp.isinf(x)
    low = jnp.min(x, where=where, initial=jnp.inf)
    high = jnp.max(x, where=where, initial=-jnp.inf)
    flat = high <= low
    scaled = (x - low) / jnp.where(flat, 1, high - low)
    # XLA may divide by multiplying with a rounded reciprocal, which misses 1 at the maximum.
    scaled = jnp.where(x == high, 1, scaled)
    scaled = jnp.where(flat, jnp.asarray(constant, x.dtype), scaled)
    return jnp.where(jnp.isinf(x), (x > 0).astype(x.dtype), scaled)


def select_clean(prob: jax.typing.ArrayLike, *, threshold: jax.typing.ArrayLike = 0.5) -> jax.Array:
    """Mask of the examples whose label is probably right: `prob > threshold`.

    Args:
      prob: floats `[N]`, probabilities that the given label is right.
      threshold: a number in `[0, 1]`.

    Returns:
      Bool `[N]`.

    References:
      DPC. The comparison is strict as in the authors' code; the appendix has >=.
    """
    prob = at_least_float32(prob)
    return prob > jnp.asarray(threshold, prob.dtype)


def check_scores(
    x: jax.typing.ArrayLike, where: jax.typing.ArrayLike | None
) -> tuple[jax.Array, jax.Array]:
    """The scores `[N]` as floats and their mask `[N]`, all true for None."""
    x = at_least_float32(x)
    if x.ndim != 1:
        raise ValueError(f"scores must be a vector, one per example; got shape {x.shape}.")
    where = jnp.ones(x.shape, bool) if where is None else jnp.asarray(where, bool)
    if where.shape != x.shape:
        raise ValueError(f"where must have the shape of the scores, {x.shape}; got {where.shape}.")
    return x, where
