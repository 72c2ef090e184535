"""Votes of several annotators: their reliability, and the probable class of each item.

Votes are in long form, three integer arrays `[V]` of the same length: vote v says that item
`items[v]` is of class `votes[v]`, by annotator `annotators[v]`. An item may have any number of
votes. The model is that of Dawid and Skene (1979), with each annotator's confusion matrix shrunk
towards a single accuracy.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.arrays import at_least_float32

STRENGTH = 10.0
_RIGHT = 0.7  # of one vote that is added to those of all annotators


class Cells(NamedTuple):
    """The pairs of annotator and class for which counts are kept.

    Attributes:
      of_vote: int `[V]`, the pair of each vote.
      annotators: int `[P]`, the annotator of each pair.
      votes: int `[P]`, the class of each pair.
    """

    of_vote: jax.typing.ArrayLike
    annotators: jax.typing.ArrayLike
    votes: jax.typing.ArrayLike


class AnnotatorModel(NamedTuple):
    """Result of `fit_annotators`.

    Attributes:
      probs: floats `[N, C]`, probability of each class of each item.
      log_likelihood: floats `[N, C]`, log probability of an item's votes given its class.
      log_prior: floats `[N, C]`, log probabilities of the classes before any vote.
      accuracies: floats `[A]`, the shrunk accuracies of `annotator_accuracies`.
      num_iter: integer scalar, number of rounds.
    """

    probs: jax.Array
    log_likelihood: jax.Array
    log_prior: jax.Array
    accuracies: jax.Array
    num_iter: jax.Array


@functools.partial(jax.jit, static_argnames="num_annotators")
def annotator_accuracies(
    probs: jax.typing.ArrayLike,
    items: jax.typing.ArrayLike,
    annotators: jax.typing.ArrayLike,
    votes: jax.typing.ArrayLike,
    *,
    num_annotators: int,
    strength: jax.typing.ArrayLike = STRENGTH,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Accuracy of each annotator, shrunk towards that of all annotators.

    With the expected number of correct votes `R_j = sum_v q_{i(v)}(l_v)` over the `V_j` votes of
    annotator j,

        a = (sum_j R_j + 0.7) / (sum_j V_j + 1),    a_j = (R_j + s a) / (V_j + s).

    Args:
      probs: floats `[N, C]`, q, the probability of each class of each item.
      items: int `[V]` in `0..N-1`.
      annotators: int `[V]` in `0..A-1`.
      votes: int `[V]` in `0..C-1`. A vote outside, or of an item or annotator outside, is left out.
      num_annotators: A.
      strength: s, the number of votes that the accuracy of all annotators counts as.
      where: bool `[V]`, the votes to count; None for all.

    Returns:
      Floats `[A]`, at least float32.

    References:
      The shrinkage is ours.
    """
    probs, cells, weights = _prepared(probs, items, annotators, votes, num_annotators, where)
    return _m_step(probs, items, cells, weights, num_annotators, strength)[1]


@functools.partial(jax.jit, static_argnames="num_annotators")
def annotator_confusions(
    probs: jax.typing.ArrayLike,
    items: jax.typing.ArrayLike,
    annotators: jax.typing.ArrayLike,
    votes: jax.typing.ArrayLike,
    *,
    num_annotators: int,
    strength: jax.typing.ArrayLike = STRENGTH,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """M-step: the probability of each vote of each annotator given the true class.

    With the expected counts `C_j[c, l] = sum over the votes v of annotator j for l of q_{i(v)}(c)`,

        pi_j[c, l] = (C_j[c, l] + s P_j[c, l]) / (sum_l' C_j[c, l'] + s),

    where `P_j` has the accuracy `a_j` of `annotator_accuracies` on its diagonal and
    `(1 - a_j) / (C - 1)` elsewhere.

    Args:
      probs: as in `annotator_accuracies`.
      items: as in `annotator_accuracies`.
      annotators: as in `annotator_accuracies`.
      votes: as in `annotator_accuracies`.
      num_annotators: A.
      strength: s, the number of votes on each class that the accuracy of the annotator counts as; 0
        gives the maximum likelihood estimate, which is undefined if an annotator saw no item of a
        class.
      where: bool `[V]`, the votes to count; None for all.

    Returns:
      Floats `[A, C, C]`, at least float32: annotator, true class, vote. Rows sum to 1.

    References:
      Dawid and Skene, "Maximum likelihood estimation of observer error-rates using the EM
      algorithm", Applied Statistics 1979, equation 2.3. The shrinkage is ours: most annotators
      label little, and with 34 votes each the matrices without shrinkage are worse than a majority
      vote.
    """
    probs, cells, weights = _prepared(probs, items, annotators, votes, num_annotators, where)
    confusions = _m_step(probs, items, cells, weights, num_annotators, strength)[0]
    num_classes = probs.shape[1]
    return jnp.swapaxes(confusions.reshape(num_annotators, num_classes, num_classes), 1, 2)


@functools.partial(jax.jit, static_argnames="num_items")
def vote_log_likelihood(
    confusions: jax.typing.ArrayLike,
    items: jax.typing.ArrayLike,
    annotators: jax.typing.ArrayLike,
    votes: jax.typing.ArrayLike,
    *,
    num_items: int,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Log probability of an item's votes given its class.

    `L_i(c) = sum over the votes v of item i of log pi_{j(v)}[c, l_v]`, 0 for an item without votes.

    Args:
      confusions: floats `[A, C, C]`, from `annotator_confusions`.
      items: int `[V]` in `0..N-1`.
      annotators: int `[V]` in `0..A-1`.
      votes: int `[V]` in `0..C-1`. A vote outside, or of an item or annotator outside, is left out.
      num_items: N.
      where: bool `[V]`, the votes to count; None for all.

    Returns:
      Floats `[N, C]`, at least float32.

    References:
      Dawid and Skene (1979), equation 2.1.
    """
    confusions = at_least_float32(confusions)
    num_annotators, num_classes = confusions.shape[:2]
    by_cell = jnp.swapaxes(confusions, 1, 2).reshape(-1, num_classes)
    weights = _counted(
        items, annotators, votes, (num_items, num_annotators, num_classes), where, by_cell.dtype
    )
    cells = _all_cells(annotators, votes, num_annotators, num_classes)
    return _e_step(by_cell, items, cells, weights, num_items)


def consensus_posterior(
    log_likelihood: jax.typing.ArrayLike, log_prior: jax.typing.ArrayLike
) -> jax.Array:
    """E-step: `q_i(c) = exp(L_i(c) + log p_i(c)) / sum_c' exp(L_i(c') + log p_i(c'))`.

    Args:
      log_likelihood: floats `[N, C]`, from `vote_log_likelihood`.
      log_prior: floats `[N, C]` or `[C]`: log probabilities of the classes, or a classifier's
        out-of-sample log probabilities for each item. -inf excludes a class.

    Returns:
      Floats `[N, C]`, at least float32. Rows sum to 1.

    References:
      Dawid and Skene (1979), equation 2.5.
    """
    log_likelihood, log_prior = at_least_float32(log_likelihood), at_least_float32(log_prior)
    dtype = jnp.promote_types(log_likelihood.dtype, log_prior.dtype)
    log_prior = jnp.broadcast_to(log_prior.astype(dtype), log_likelihood.shape)
    return jax.nn.softmax(log_likelihood.astype(dtype) + log_prior, axis=-1)


@functools.partial(
    jax.jit, static_argnames=("num_items", "num_annotators", "num_classes", "max_iter")
)
def fit_annotators(
    items: jax.typing.ArrayLike,
    annotators: jax.typing.ArrayLike,
    votes: jax.typing.ArrayLike,
    *,
    num_items: int,
    num_annotators: int,
    num_classes: int,
    log_prior: jax.typing.ArrayLike | None = None,
    init_probs: jax.typing.ArrayLike | None = None,
    where: jax.typing.ArrayLike | None = None,
    cells: Cells | None = None,
    strength: jax.typing.ArrayLike = STRENGTH,
    max_iter: int = 100,
    tol: jax.typing.ArrayLike = 1e-6,
) -> AnnotatorModel:
    """Estimates classes of items and confusions of annotators by expectation maximisation.

    Repeats `annotator_confusions`, `vote_log_likelihood` and `consensus_posterior` until the
    relative change of the mean log-likelihood of the items' votes is below `tol`.

    Args:
      items: int `[V]` in `0..N-1`.
      annotators: int `[V]` in `0..A-1`.
      votes: int `[V]` in `0..C-1`. A vote outside, or of an item or annotator outside, is left out.
      num_items: N.
      num_annotators: A.
      num_classes: C.
      log_prior: floats `[N, C]`, the logarithm of out-of-sample probabilities of a classifier. None
        for `log((sum_i q_i(c) + 1) / (n + C))` over the n items with votes, recomputed in every
        round.
      init_probs: floats `[N, C]` to start from; None for the shares of the votes.
      where: bool `[V]`, the votes to count; None for all.
      cells: the pairs of annotator and class that occur, if far fewer than all A x C do; None for
        all pairs. The result is the same.
      strength: as in `annotator_confusions`.
      max_iter: maximum number of rounds.
      tol: see above.

    Returns:
      `AnnotatorModel`.

    References:
      Dawid and Skene (1979). The shrinkage, and a classifier instead of the prior for each item,
      are ours.
    """
    sizes = (num_items, num_annotators, num_classes)
    dtype = at_least_float32(0.0 if log_prior is None else log_prior).dtype
    weights = _counted(items, annotators, votes, sizes, where, dtype)
    items = jnp.asarray(items)
    if cells is None:
        cells = _all_cells(annotators, votes, num_annotators, num_classes)
    has_votes = jnp.zeros(num_items, dtype).at[items].add(weights, mode="drop") > 0
    if init_probs is None:
        flat = jnp.clip(items, 0) * num_classes + jnp.clip(jnp.asarray(votes), 0)
        shares = jax.ops.segment_sum(weights, flat, num_items * num_classes)
        shares = shares.reshape(num_items, num_classes)
        total = jnp.sum(shares, axis=1, keepdims=True)
        probs = jnp.where(total > 0, shares / jnp.maximum(total, 1), 1 / num_classes)
    else:
        probs = jnp.asarray(init_probs, dtype)

    def step(state):
        probs, _, before, _, i, _ = state
        confusions, accuracies = _m_step(probs, items, cells, weights, num_annotators, strength)
        log_likelihood = _e_step(confusions, items, cells, weights, num_items)
        prior = _log_prior(probs, has_votes) if log_prior is None else log_prior
        joint = log_likelihood + prior
        evidence = jax.nn.logsumexp(joint, axis=1)
        change = jnp.abs(jnp.mean(evidence - before)) / jnp.maximum(
            jnp.abs(jnp.mean(evidence)), jnp.finfo(dtype).tiny
        )
        return jax.nn.softmax(joint, axis=1), log_likelihood, evidence, accuracies, i + 1, change

    start = (
        probs,
        jnp.zeros_like(probs),
        jnp.zeros(num_items, dtype),
        jnp.zeros(num_annotators, dtype),
        jnp.int32(0),
        jnp.asarray(jnp.inf, dtype),
    )
    tol = jnp.asarray(tol, dtype)
    state = jax.lax.while_loop(lambda s: (s[4] < max_iter) & (s[5] > tol), step, start)
    probs, log_likelihood, _, accuracies, num_iter, _ = state
    prior = _log_prior(probs, has_votes) if log_prior is None else jnp.asarray(log_prior, dtype)
    return AnnotatorModel(
        probs, log_likelihood, jnp.broadcast_to(prior, probs.shape), accuracies, num_iter
    )


def _log_prior(probs: jax.Array, has_votes: jax.Array) -> jax.Array:
    """`[1, C]`, from the items with votes."""
    share = jnp.sum(probs, axis=0, keepdims=True, where=has_votes[:, None]) + 1
    return jnp.log(share) - jnp.log(jnp.sum(share))


def _prepared(probs, items, annotators, votes, num_annotators, where):
    """Probabilities, all cells and the weight of each vote."""
    probs = at_least_float32(probs)
    if probs.ndim != 2 or probs.shape[1] < 2:
        raise ValueError(f"probs must be [N, C] with C >= 2 classes, got {probs.shape}.")
    sizes = (probs.shape[0], num_annotators, probs.shape[1])
    weights = _counted(items, annotators, votes, sizes, where, probs.dtype)
    return probs, _all_cells(annotators, votes, num_annotators, probs.shape[1]), weights


def _all_cells(annotators, votes, num_annotators: int, num_classes: int) -> Cells:
    annotators, votes = jnp.asarray(annotators), jnp.asarray(votes)
    of_vote = jnp.clip(annotators, 0, num_annotators - 1) * num_classes
    of_vote += jnp.clip(votes, 0, num_classes - 1)
    every = jnp.arange(num_annotators * num_classes)
    return Cells(of_vote, every // num_classes, every % num_classes)


def _counted(items, annotators, votes, sizes, where, dtype) -> jax.Array:
    """`[V]`, 1 for each vote that counts, else 0."""
    arrays = [jnp.asarray(x) for x in (items, annotators, votes)]
    if len({x.shape for x in arrays}) > 1 or arrays[0].ndim != 1:
        raise ValueError(
            "items, annotators and votes must be [V], got "
            f"{', '.join(str(x.shape) for x in arrays)}."
        )
    for name, x in zip(("items", "annotators", "votes"), arrays, strict=True):
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(f"{name} must be integers, not {x.dtype}.")
    counts = jnp.ones(arrays[0].shape, bool) if where is None else jnp.asarray(where, bool)
    for x, size in zip(arrays, sizes, strict=True):
        counts &= (x >= 0) & (x < size)
    return counts.astype(dtype)


def _m_step(probs, items, cells, weights, num_annotators, strength):
    """Confusions `[P, C]`, the vote of a pair by the true class, and accuracies `[A]`."""
    strength = jnp.asarray(strength, probs.dtype)
    num_classes = probs.shape[1]
    of_pair, pair_votes = jnp.asarray(cells.annotators), jnp.asarray(cells.votes)
    voted = jnp.take(probs, jnp.asarray(items), axis=0, mode="clip") * weights[:, None]
    counts = jax.ops.segment_sum(voted, jnp.asarray(cells.of_vote), len(pair_votes))
    is_right = pair_votes[:, None] == jnp.arange(num_classes)[None, :]
    right = jnp.sum(counts, axis=1, where=is_right)
    totals = jax.ops.segment_sum(counts, of_pair, num_annotators)
    right, sizes = jax.ops.segment_sum(right, of_pair, num_annotators), jnp.sum(totals, axis=1)
    common = (jnp.sum(right) + _RIGHT) / (jnp.sum(sizes) + 1)
    # Without votes and without shrinkage the accuracy is that of all.
    weight = jnp.where(sizes + strength > 0, strength, 1)
    accuracies = (right + weight * common) / (sizes + weight)
    coin = jnp.where(
        is_right,
        accuracies[of_pair][:, None],
        ((1 - accuracies) / (num_classes - 1))[of_pair][:, None],
    )
    seen = totals[of_pair] + strength
    confusions = (counts + strength * coin) / jnp.where(seen > 0, seen, 1)
    return jnp.where(seen > 0, confusions, coin), accuracies


def _e_step(confusions, items, cells, weights, num_items):
    """Log-likelihoods `[N, C]` from confusions `[P, C]`."""
    tiny = jnp.finfo(confusions.dtype).tiny
    log = jnp.log(jnp.maximum(confusions, tiny))
    voted = jnp.take(log, jnp.asarray(cells.of_vote), axis=0) * weights[:, None]
    return jax.ops.segment_sum(voted, jnp.asarray(items), num_items)
