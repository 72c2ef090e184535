"""The divergence of a Dirichlet distribution from the uniform one, without cancellation."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln

# Coefficients of x^-1, x^-2, ... in the asymptotic series of g(x) and of psi(x) - log(x).
_SERIES_OF_G = (-1 / 3, -1 / 12, -1 / 90, 1 / 120, 1 / 210, -1 / 252, -1 / 210, 1 / 240)
_SERIES_OF_PSI = (-1 / 2, -1 / 12, 0, 1 / 120, 0, -1 / 252, 0, 1 / 240)


def kl_to_uniform(
    x: jax.Array,
    log_alpha: jax.Array,
    remainder: jax.typing.ArrayLike = 0.0,
    log_scale: jax.typing.ArrayLike = 0.0,
    *,
    weight: jax.typing.ArrayLike = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """weight * KL(Dir(x) || Dir(1)) of concentrations that may be too large for a float.

    `lnG(S) - lnG(C) - sum_c lnG(x_c) + sum_c (x_c - 1)(psi(x_c) - psi(S))`, S = sum_c x_c, is a
    difference of terms as large as S log S that nearly cancel. With

        g(x) = lnG(x) - (x - 1) psi(x) + x - log(x) / 2,

    which tends to a constant, and because sum_c x_c = S, it is

        (C - 1) log(S) / 2 - sum_c log(x_c / S) / 2
        + (C - 1)(psi(S) - log S) + g(S) - sum_c g(x_c) - lnG(C).

    Only the first line grows with the concentrations. It is computed from the parts of
    log(x_c) = log_alpha_c + remainder_c + log_scale, of which log_alpha can be exact, and its large
    part is summed without rounding.

    Args:
      x: positive `[..., C]`; values above `series_start` are not used.
      log_alpha: `[..., C]`.
      remainder: `[..., C]`, of the order of 1.
      log_scale: scalar.
      weight: scalar.
      where: bool `[..., C]`, the concentrations that exist; None for all.

    Returns:
      `[...]`, in nats.
    """
    start = series_start(x.dtype)
    if where is None:
        num_classes, log_factorial = x.shape[-1], math.lgamma(x.shape[-1])
    else:
        num_classes = jnp.sum(where, axis=-1, dtype=x.dtype)
        log_factorial = gammaln(num_classes)
        x, log_alpha = jnp.where(where, x, 1), jnp.where(where, log_alpha, 0)
    log_scale = jnp.asarray(log_scale, x.dtype)
    remainder = jnp.broadcast_to(jnp.asarray(remainder, x.dtype), x.shape)

    def total(terms):
        return jnp.sum(terms if where is None else jnp.where(where, terms, 0), axis=-1)

    present = log_alpha if where is None else jnp.where(where, log_alpha, -jnp.inf)
    largest = jax.lax.stop_gradient(jnp.max(present, axis=-1, keepdims=True))
    log_sum = jax.nn.logsumexp(log_alpha - largest + remainder, axis=-1, where=where)
    log_s = largest[..., 0] + log_sum + log_scale
    s = total(jnp.minimum(x, start))  # used only where no x is larger
    bounded = (
        (num_classes - 1) * (_psi_minus_log(s, log_s) + log_scale / 2)
        + _g(s, log_s)
        - total(_g(x, log_alpha + remainder + log_scale))
        - log_factorial
    )
    # Multiples of 1/64 up to 2^18 are added without rounding in float32.
    coarse, coarse_largest = (jnp.round(64 * part) / 64 for part in (log_alpha, largest))
    factor = num_classes - 1
    large = factor * coarse_largest[..., 0] + total(coarse_largest - coarse)
    fine = log_alpha - coarse + remainder
    fine_largest = (largest - coarse_largest)[..., 0] + log_sum
    small = (2 * num_classes - 1) * fine_largest - total(fine)
    weight = jnp.asarray(weight, x.dtype)
    return weight * large / 2 + weight * (small / 2 + bounded)


def series_start(dtype: jnp.dtype) -> float:
    """The argument above which the series have the precision of `dtype`.

    Below it g is a difference of larger terms, so it should be low.
    """
    return 32.0 if dtype == jnp.float64 else 5.0


def power_series(coefficients: Sequence[float], r: jax.Array) -> jax.Array:
    """Sum of coefficients[k] r^(k + 1)."""
    total = jnp.zeros_like(r)
    for coefficient in reversed(coefficients):
        total = (total + coefficient) * r
    return total


def _g(x: jax.Array, log_x: jax.Array) -> jax.Array:
    limit = (math.log(2 * math.pi) + 1) / 2
    return _by_size(
        x,
        log_x,
        lambda inverse: limit + power_series(_SERIES_OF_G, inverse),
        lambda x: gammaln(x) - (x - 1) * digamma(x) + x - jnp.log(x) / 2,
    )


def _psi_minus_log(x: jax.Array, log_x: jax.Array) -> jax.Array:
    return _by_size(
        x,
        log_x,
        lambda inverse: power_series(_SERIES_OF_PSI, inverse),
        lambda x: digamma(x) - jnp.log(x),
    )


def _by_size(x: jax.Array, log_x: jax.Array, series, direct) -> jax.Array:
    """`series(1 / x)` or `direct(x)`; neither sees an argument outside its range."""
    start = series_start(x.dtype)
    # A minimum or maximum would halve the gradient where x equals the start.
    large = log_x >= math.log(start)
    inverse = jnp.exp(-jnp.where(large, log_x, math.log(start)))
    return jnp.where(large, series(inverse), direct(jnp.where(large, start, x)))
