"""Gaussian mixtures over scalar scores, and clean probabilities from mixtures of two.

Used as in Zong et al., "Dirichlet-Based Prediction Calibration for Learning with Noisy Labels",
AAAI 2024, arXiv 2401.07062, on the margins of a whole training set.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.arrays import masked_mean
from jaxrobust.errors import check_option
from jaxrobust.selection.margin import check_scores, min_max_normalize

MODES = ("gmm", "minmax", "auto")
MAX_LLOYD_STEPS = 300


class GaussianMixture1D(NamedTuple):
    """C Gaussians on the real line.

    Attributes:
      means: floats `[C]`, ascending.
      variances: floats `[C]`.
      weights: floats `[C]` that sum to 1.
      num_iter: integer scalar, number of rounds.
      converged: bool scalar, whether the last round changed the likelihood by less than `tol`.
      lower_bounds: floats `[max_iter]`, mean log-likelihood before each round; -inf after the last.
    """

    means: jax.Array
    variances: jax.Array
    weights: jax.Array
    num_iter: jax.Array
    converged: jax.Array
    lower_bounds: jax.Array


@functools.partial(jax.jit, static_argnames=("max_iter", "num_components"))
def fit_gaussian_mixture_1d(
    x: jax.typing.ArrayLike,
    *,
    init_labels: jax.typing.ArrayLike | None = None,
    where: jax.typing.ArrayLike | None = None,
    max_iter: int = 10,
    tol: jax.typing.ArrayLike = 1e-2,
    reg_covar: jax.typing.ArrayLike = 5e-4,
    num_components: int = 2,
) -> GaussianMixture1D:
    """Fits Gaussians, two by default, to scalars by expectation maximisation.

    Each round computes the responsibilities `r` under the current parameters (in the first round,
    from the start) and sets, for each component k,

        n_k = sum_i r_ik + 10 eps,    mu_k = sum_i r_ik x_i / n_k,    pi_k = n_k / sum_j n_j,
        v_k = sum_i r_ik (x_i - mu_k)^2 / n_k + reg_covar,

    until the mean log-likelihood changes by less than `tol`. Rounds and stopping rule are those of
    scikit-learn's `GaussianMixture`. The tolerance of the authors' code is loose, so the result
    depends on the start. The default start is deterministic, whereas scikit-learn's is random.

    Args:
      x: floats `[N]`.
      init_labels: integers or bool `[N]`, the component at the start, 0 for the lowest. None for
        k-means: Lloyd's algorithm from centres evenly spaced from the smallest to the largest
        value, until stable.
      where: bool `[N]`, the entries that count; None for all.
      max_iter: maximum number of rounds, >= 1; static.
      tol: change of the mean log-likelihood that ends the fit.
      reg_covar: added to every variance.
      num_components: C, >= 2; static.

    Returns:
      `GaussianMixture1D` of the dtype of `x`, at least float32. Equal data give a degenerate but
      finite mixture.

    Raises:
      ValueError: if `x` is not a vector, `where` or `init_labels` has another shape, or `max_iter`
        or `num_components` is too small.

    References:
      DPC, clean and noisy split, with the settings of the authors' code; E2OAL's has the same with
      three components.
    """
    x, where = check_scores(x, where)
    if max_iter < 1:
        raise ValueError(f"max_iter must be at least 1, got {max_iter}.")
    if num_components < 2:
        raise ValueError(f"num_components must be at least 2, got {num_components}.")
    x = jnp.where(where, x, 0)
    if init_labels is None:
        start_labels = _nearest_means(x, where, num_components)
    else:
        kind = bool if num_components == 2 else jnp.int32
        start_labels = jnp.asarray(init_labels).astype(kind).astype(jnp.int32)
    if start_labels.shape != x.shape:
        raise ValueError(
            f"init_labels must have the shape of the scores, {x.shape}; got {start_labels.shape}."
        )
    tol, reg_covar = jnp.asarray(tol, x.dtype), jnp.asarray(reg_covar, x.dtype)

    def maximize(r):
        r = jnp.where(where[:, None], r, 0)
        n = jnp.sum(r, axis=0) + 10 * jnp.finfo(x.dtype).eps
        means = jnp.sum(r * x[:, None], axis=0) / n
        deviations = jnp.square(x[:, None] - means[None, :])
        return means, jnp.sum(r * deviations, axis=0) / n + reg_covar, n

    def keep_going(carry):
        _, num_iter, converged, _ = carry
        return (num_iter < max_iter) & ~converged

    def one_round(carry):
        parameters, num_iter, _, bounds = carry
        joint = _log_joint(x, *parameters)
        bound = masked_mean(jax.nn.logsumexp(joint, axis=-1), where)
        means, variances, n = maximize(jax.nn.softmax(joint, axis=-1))
        converged = (num_iter > 0) & (jnp.abs(bound - bounds[num_iter - 1]) < tol)
        parameters = (means, variances, n / jnp.sum(n))
        return parameters, num_iter + 1, converged, bounds.at[num_iter].set(bound)

    means, variances, n = maximize(jax.nn.one_hot(start_labels, num_components, dtype=x.dtype))
    count = jnp.maximum(jnp.sum(where, dtype=x.dtype), 1)
    start = (
        (means, variances, n / count),
        jnp.array(0, jnp.int32),
        jnp.array(False),
        jnp.full(max_iter, -jnp.inf, x.dtype),
    )
    parameters, num_iter, converged, bounds = jax.lax.while_loop(keep_going, one_round, start)
    order = jnp.argsort(parameters[0])
    means, variances, weights = (p[order] for p in parameters)
    return GaussianMixture1D(means, variances, weights, num_iter, converged, bounds)


@jax.jit
def gaussian_mixture_posterior(x: jax.typing.ArrayLike, mixture: GaussianMixture1D) -> jax.Array:
    """Probability of each component given the value.

    Args:
      x: floats `[N]`.
      mixture: what `fit_gaussian_mixture_1d` returned.

    Returns:
      Floats `[N, C]`, at least float32, in the order of the means: the last column is the component
      with the largest mean.

    Raises:
      ValueError: if `x` is not a vector.

    References:
      DPC, clean and noisy split: column 1 of the margins is the clean probability.
    """
    # Not a softmax, whose largest entry a compiler may round in two ways: of values far from both
    # means exp(x - max) may overflow.
    joint = _joint(x, mixture)
    return jax.nn.sigmoid(
        jnp.stack([_component_odds(joint, k) for k in range(joint.shape[1])], axis=-1)
    )


@jax.jit
def gaussian_mixture_log_odds(x: jax.typing.ArrayLike, mixture: GaussianMixture1D) -> jax.Array:
    """Log-odds of the component with the largest mean, given the value.

    `log(p / (1 - p))` of the last column of `gaussian_mixture_posterior`. It also ranks values
    whose posterior rounds to exactly 0 or 1.

    Args:
      x: floats `[N]`.
      mixture: what `fit_gaussian_mixture_1d` returned.

    Returns:
      Floats `[N]`, at least float32.

    Raises:
      ValueError: if `x` is not a vector.
    """
    joint = _joint(x, mixture)
    return _component_odds(joint, joint.shape[1] - 1)


def _joint(x: jax.typing.ArrayLike, mixture: GaussianMixture1D) -> jax.Array:
    """Log of weight times density, `[N, C]`, in the dtype of the values."""
    x, _ = check_scores(x, None)
    return _log_joint(x, *(p.astype(x.dtype) for p in mixture[:3]))


def _component_odds(joint: jax.Array, component: int) -> jax.Array:
    """Log-odds `[N]` of one component against all others, of `[N, C]`."""
    others = jnp.delete(joint, component, axis=1)
    return joint[:, component] - jax.nn.logsumexp(others, axis=1)


def excess_kurtosis(
    x: jax.typing.ArrayLike, *, where: jax.typing.ArrayLike | None = None
) -> jax.Array:
    """Fourth central moment over the squared second, minus 3; no bias correction.

    Args:
      x: floats `[N]`.
      where: bool `[N]`, the entries that count; None for all.

    Returns:
      Scalar, at least float32: 0 for a Gaussian, negative for two separate groups; 0 for equal
      data, for which it is undefined.

    Raises:
      ValueError: if `x` is not a vector, or `where` has another shape.
    """
    x, where = check_scores(x, where)
    deviations = x - masked_mean(x, where)
    variance = masked_mean(jnp.square(deviations), where)
    flat = variance == 0
    standardized = deviations / jnp.sqrt(jnp.where(flat, 1, variance))
    return jnp.where(flat, 0, masked_mean(standardized**4, where) - 3)


def clean_probability(
    margins: jax.typing.ArrayLike,
    *,
    mode: str,
    kurtosis_threshold: jax.typing.ArrayLike = 1.2,
    reg_covar: jax.typing.ArrayLike = 5e-4,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Probability that the given label is right, from the margins of a whole training set.

    The margins are first mapped onto [0, 1]. If they are all equal, every probability is below one
    half. Infinite margins, those of probabilities of exactly zero, are not fitted: -inf gives 0 and
    inf gives 1.

    Args:
      margins: floats `[N]`, `logit_margin` of every example.
      mode: "gmm", the posterior of the upper of two Gaussians (the authors' CIFAR scripts);
        "minmax", the mapped margin itself (their WebVision scripts); or "auto" (the appendix):
        "gmm" if the margins' excess kurtosis is at most `kurtosis_threshold`, else "minmax".
      kurtosis_threshold: threshold of "auto".
      reg_covar: of `fit_gaussian_mixture_1d`; DivideMix's WebVision script has 1e-3.
      where: bool `[N]`, the examples that count; None for all.

    Returns:
      Floats `[N]` in `[0, 1]`, at least float32; 0 outside `where`.

    Raises:
      ValueError: on an unknown mode, margins that are not a vector, or a `where` of another shape.

    References:
      DPC, clean and noisy split. The appendix says kurtosis; a comment in the authors' code
      suggests that excess kurtosis is meant.
    """
    check_option("mode", mode, MODES)
    margins, where = check_scores(margins, where)
    finite = where & ~jnp.isinf(margins)
    scores = jnp.where(finite, min_max_normalize(margins, where=finite), 0)
    if mode == "minmax":
        return _with_infinite(scores, margins, where)
    mixture = fit_gaussian_mixture_1d(scores, where=finite, reg_covar=reg_covar)
    posterior = gaussian_mixture_posterior(scores, mixture)[:, 1]
    if mode == "auto":
        two_groups = excess_kurtosis(scores, where=finite) <= kurtosis_threshold
        posterior = jnp.where(two_groups, posterior, scores)
    return _with_infinite(posterior, margins, where)


def clean_probability_given_count(
    margins: jax.typing.ArrayLike,
    num_wrong: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Probability that the given label is right, for a known number of wrong labels.

    The posterior of `clean_probability` in mode "gmm", with the prior odds of the two Gaussians
    replaced by those at which the `num_wrong` lowest margins are below one half:

        p_i = sigmoid(l(m_i) - l(t)),    l(m) = log N(m; mu_1, v_1) - log N(m; mu_0, v_0),

    with l(t) halfway between the values at the last margin below and at the first one above. Below
    mu_0 and above mu_1 `l` is continued by its tangents, so that the probability never decreases
    with the margin, as it could for Gaussians with different variances.

    Args:
      margins: floats `[N]`, `logit_margin` of every example.
      num_wrong: scalar, such as `estimate_num_wrong`; rounded, and clipped to the number of
        examples.
      where: bool `[N]`, the examples that count; None for all.

    Returns:
      Floats `[N]` in `[0, 1]`, at least float32, increasing with the margin; 0 outside `where`. All
      are 1 for `num_wrong` 0. Infinite margins are treated as by `clean_probability`.

    Raises:
      ValueError: if `margins` is not a vector, or `where` has another shape.

    References:
      Ours.
    """
    margins, where = check_scores(margins, where)
    finite = where & ~jnp.isinf(margins)
    scores = jnp.where(finite, min_max_normalize(margins, where=finite), 0)
    log_odds = _log_odds(scores, fit_gaussian_mixture_1d(scores, where=finite))
    count = jnp.sum(finite, dtype=jnp.int32)
    num_wrong = jnp.round(jnp.asarray(num_wrong, margins.dtype)).astype(jnp.int32)
    below = jnp.clip(num_wrong - jnp.sum(where & jnp.isneginf(margins), dtype=jnp.int32), 0, count)
    ordered = jnp.sort(jnp.where(finite, log_odds, jnp.inf))
    last, first = ordered[jnp.maximum(below - 1, 0)], ordered[jnp.minimum(below, count - 1)]
    boundary = jnp.where(
        below == 0, -jnp.inf, jnp.where(below == count, jnp.inf, (last + first) / 2)
    )
    return _with_infinite(jax.nn.sigmoid(log_odds - boundary), margins, where)


def _with_infinite(prob: jax.Array, margins: jax.Array, where: jax.Array) -> jax.Array:
    """Probabilities of finite margins, 0 and 1 at infinite ones, 0 outside `where`."""
    prob = jnp.where(jnp.isinf(margins), (margins > 0).astype(prob.dtype), prob)
    return jnp.where(where, prob, 0)


def _log_odds(x: jax.Array, mixture: GaussianMixture1D) -> jax.Array:
    """Log ratio `[N]` of upper to lower density, continued outside the means by its tangents."""
    (low, high), (v_low, v_high) = mixture.means, mixture.variances
    inside = jnp.clip(x, low, high)
    ratio = jnp.square(inside - low) / (2 * v_low) - jnp.square(inside - high) / (2 * v_high)
    slope = (high - low) * jnp.where(x < low, 1 / v_high, 1 / v_low)
    return ratio + slope * (x - inside)


def _log_joint(
    x: jax.Array, means: jax.Array, variances: jax.Array, weights: jax.Array
) -> jax.Array:
    """Log of weight times density, `[N, C]`."""
    constants = jnp.log(weights) - jnp.log(2 * jnp.pi * variances) / 2
    return constants[None, :] - jnp.square(x[:, None] - means[None, :]) / (2 * variances)[None, :]


def _nearest_means(x: jax.Array, where: jax.Array, num_means: int) -> jax.Array:
    """int32 `[N]`, the nearest of the means that Lloyd's algorithm finds, ties to the lower one."""
    low = jnp.min(x, where=where, initial=jnp.inf)
    high = jnp.max(x, where=where, initial=-jnp.inf)

    def assign(means):
        return jnp.argmin(jnp.abs(x[:, None] - means[None, :]), axis=1).astype(jnp.int32)

    def keep_going(carry):
        _, _, changed, step = carry
        # Rounding of the means could move a value back and forth without end.
        return changed & (step < MAX_LLOYD_STEPS)

    def one_step(carry):
        nearest, means, _, step = carry
        members = [where & (nearest == k) for k in range(num_means)]
        # A mean without values stays; one of equal values must not be rounded away from them.
        means = jnp.stack(
            [
                jnp.where(jnp.any(m), jnp.clip(masked_mean(x, m), low, high), means[k])
                for k, m in enumerate(members)
            ]
        )
        moved = assign(means)
        return moved, means, jnp.any((moved != nearest) & where), step + 1

    means = jnp.linspace(low, high, num_means, dtype=x.dtype)
    start = (assign(means), means, jnp.array(True), jnp.array(0, jnp.int32))
    return jax.lax.while_loop(keep_going, one_step, start)[0]
