"""The probability that a consensus is right, estimated from held-out votes.

The posterior of `fit_annotators` is overconfident: it assumes that opinions are independent given
the class, but a hard image misleads everybody, including the classifier. A held-out vote shows how
certain the consensus of the others may be.
"""

import functools

import jax
import jax.numpy as jnp

from jaxrobust.arrays import at_least_float32

_LARGEST = 50.0  # log odds
_SHARE = 0.1  # of the left-out votes, those of the surest consensus
_PSEUDO_VOTES = 10.0
_NUM_STEPS = 30


@jax.jit
def consensus_evidence(
    log_likelihood: jax.typing.ArrayLike,
    log_prior: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
) -> jax.Array:
    """Evidence for a label of each item: combined, from its votes alone, and from its prior alone.

    For label c and each z of `L_i + log p_i`, `L_i` and `log p_i`, the log odds are

        z(c) - log sum_{c' != c} exp z(c').

    Args:
      log_likelihood: floats `[N, C]`, `L_i`, from `vote_log_likelihood`.
      log_prior: floats `[N, C]`, `log p_i`.
      labels: int `[N]` in `0..C-1`.

    Returns:
      Floats `[N, 4]`, at least float32: 1 and the three log odds, between -50 and 50.
    """
    log_likelihood, log_prior = at_least_float32(log_likelihood), at_least_float32(log_prior)
    is_label = jax.nn.one_hot(jnp.asarray(labels), log_likelihood.shape[-1], dtype=bool)

    def odds(z):
        others = jax.nn.logsumexp(jnp.where(is_label, -jnp.inf, z), axis=-1)
        of_label = jnp.sum(z, axis=-1, where=is_label)
        return jnp.clip(jnp.nan_to_num(of_label - others), -_LARGEST, _LARGEST)

    columns = (odds(log_likelihood + log_prior), odds(log_likelihood), odds(log_prior))
    return jnp.stack([jnp.ones_like(columns[0]), *columns], axis=-1)


@functools.partial(jax.jit, static_argnames="num_classes")
def fit_agreement(
    evidence: jax.typing.ArrayLike,
    agrees: jax.typing.ArrayLike,
    accuracies: jax.typing.ArrayLike,
    *,
    num_classes: int,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Fits the probability that a consensus is right, given its evidence, to held-out votes.

    The probability that a held-out vote agrees with the consensus of the other votes is

        b + (a - b) r,    r = sigmoid(x . w),    b = (1 - a) / (C - 1),

    with r the probability that the consensus is right, x its evidence, and a the accuracy of the
    annotator. Votes on easy items are right more often. Let g be the shift of logit a that explains
    how often the 10 % of the votes with the most certain consensus agree. Attributing all of g to
    easy items would make r too high, since items whose votes are wrong together look right;
    applying g to all items would make r too low, since hard items would look wrong. The shift used
    is therefore g / 2. The weights w maximise the likelihood with a Gaussian prior of unit variance
    around (0, 1, 0, 0), which is the posterior of `fit_annotators` itself.

    Args:
      evidence: floats `[V, 4]`, from `consensus_evidence`, for the consensus without the vote.
      agrees: bool `[V]`, whether the vote agrees with it.
      accuracies: floats `[V]`, accuracy of the vote's annotator, computed without the vote.
      num_classes: C.
      where: bool `[V]`, the votes to count; None for all.

    Returns:
      Floats `[4]`, w, at least float32. `sigmoid(evidence @ w)` is the probability that the
      consensus is right.

    References:
      The model is ours.
    """
    x = at_least_float32(evidence)
    weights = jnp.ones(x.shape[0], x.dtype)
    if where is not None:
        weights = jnp.asarray(where, x.dtype)
    y = jnp.asarray(agrees, x.dtype)
    logit = jax.scipy.special.logit(jnp.clip(jnp.asarray(accuracies, x.dtype), 1e-3, 1 - 1e-3))
    logit += _shift(x[:, 1], y, logit, weights) / 2
    if_right = jax.nn.sigmoid(logit)
    if_wrong = jnp.minimum((1 - if_right) / (num_classes - 1), if_right - 0.05)
    start = jnp.zeros(x.shape[1], x.dtype).at[1].set(1)

    def agreement(w):
        r = jax.nn.sigmoid(x @ w)
        return r, jnp.clip(if_wrong + (if_right - if_wrong) * r, 1e-6, 1 - 1e-6)

    def objective(w):
        _, p = agreement(w)
        likelihood = jnp.sum(weights * (y * jnp.log(p) + (1 - y) * jnp.log1p(-p)))
        return likelihood - jnp.sum(jnp.square(w - start)) / 2

    sizes = jnp.asarray([1, 0.5, 0.2, 0.05, 0.01, 0], x.dtype)

    def step(_, w):
        """One step of Fisher scoring, with the best of several step sizes."""
        r, p = agreement(w)
        slope = (if_right - if_wrong) * r * (1 - r)
        gradient = x.T @ (weights * slope * (y - p) / (p * (1 - p))) - (w - start)
        curvature = (x * (weights * slope**2 / (p * (1 - p)))[:, None]).T @ x
        direction = jnp.linalg.solve(curvature + jnp.eye(len(start), dtype=x.dtype), gradient)
        steps = w[None, :] + sizes[:, None] * direction[None, :]
        return steps[jnp.argmax(jax.lax.map(objective, steps))]

    return jax.lax.fori_loop(0, _NUM_STEPS, step, start)


def _shift(odds, y, logit, weights):
    """g, at least 0: see `fit_agreement`."""
    counted = jnp.where(weights > 0, odds, jnp.nan)
    surest = jnp.where(odds >= jnp.nanquantile(counted, 1 - _SHARE), weights, 0)
    before = jnp.sum(surest * jax.nn.sigmoid(logit))
    count = jnp.maximum(jnp.sum(surest), 1)
    target = (jnp.sum(surest * y) + _PSEUDO_VOTES * before / count) / (count + _PSEUDO_VOTES)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        is_low = jnp.sum(surest * jax.nn.sigmoid(logit + middle)) / count < target
        return jnp.where(is_low, middle, low), jnp.where(is_low, high, middle)

    bounds = (jnp.zeros((), odds.dtype), jnp.full((), 5, odds.dtype))
    return jnp.mean(jnp.stack(jax.lax.fori_loop(0, 30, halve, bounds)))


@jax.jit
def temper(log_probs: jax.typing.ArrayLike, largest: jax.typing.ArrayLike) -> jax.Array:
    """Raises each row to the power at which its largest probability has a given value.

    Args:
      log_probs: floats `[N, C]`, logarithms, up to a constant in each row.
      largest: floats `[N]`. For a value below 1 / C the row becomes uniform; if k classes share the
        largest probability, none exceeds 1 / k.

    Returns:
      Floats `[N, C]`, at least float32. Rows sum to 1 and keep the order of the classes.
    """
    z = at_least_float32(log_probs)
    z -= jnp.max(z, axis=-1, keepdims=True)
    largest = jnp.asarray(largest, z.dtype)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        top = 1 / jnp.sum(jnp.exp(jnp.exp(middle)[:, None] * z), axis=-1)
        is_low = top < largest
        return jnp.where(is_low, middle, low), jnp.where(is_low, high, middle)

    bounds = (jnp.full_like(largest, -8), jnp.full_like(largest, 5))
    power = jnp.exp(jax.lax.fori_loop(0, 30, halve, bounds)[0])
    return jax.nn.softmax(power[:, None] * z, axis=-1)
