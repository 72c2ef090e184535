"""Bidirectional uncertainty sampling (BUAL; Zong et al., ECCV 2024, arXiv 2402.15198).

Two confidences are combined: that of a classifier trained on the labelled images (positive), and
that of the same classifier fine-tuned with random label negative learning (negative). They are
weighted by the precision of the last query and the "unknown" probability of an auxiliary (K+1)-way
classifier.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.arrays import at_least_float32
from jaxrobust.errors import check_option
from jaxrobust.selection.margin import min_max_normalize

_CONFIDENCES = ("lc", "margin", "entropy")
_RULES = ("code", "paper")
_ENTROPY_EPS = 1e-10


def classifier_confidence(probs: jax.Array, kind: str) -> jax.Array:
    """Confidence of a classifier; low means informative.

    `lc`: `max_k p_k`. `margin`: the largest minus the second largest. `entropy`:
    `sum_k p_k log(p_k + 1e-10)`, the negative entropy.

    Args:
      probs: floats `[M, K]`, predicted probabilities, or their mean over several evaluations.
      kind: `"lc"`, `"margin"` or `"entropy"`.

    Returns:
      Floats `[M]`, at least float32.

    Raises:
      ValueError: for an unknown `kind`, or `"margin"` with fewer than two classes.

    References:
      Zong et al., ECCV 2024, Eqs. 4-6, whose uncertainties are minus this up to a constant. As in
      the authors' code: Eq. 5 as printed has the opposite sign, and Eq. 6 has only the term of the
      top class.
    """
    check_option("kind", kind, _CONFIDENCES)
    probs = at_least_float32(probs)
    if kind == "lc":
        return jnp.max(probs, axis=-1)
    if kind == "entropy":
        return jnp.sum(probs * jnp.log(probs + _ENTROPY_EPS), axis=-1)
    if probs.shape[-1] < 2:
        raise ValueError(f"A margin needs at least two classes, got probs {probs.shape}.")
    top = jax.lax.top_k(probs, 2)[0]
    return top[..., 0] - top[..., 1]


def predicted_unknown(aux_probs: jax.Array) -> jax.Array:
    """Images that the auxiliary classifier predicts to be unknown: its top class is the last one.

    They are not candidates in this round, but stay in the pool.

    Args:
      aux_probs: floats `[M, K+1]`, probabilities (or logits); class K is "unknown".

    Returns:
      bool `[M]`. A tie between a known class and "unknown" counts as known.

    References:
      Zong et al., ECCV 2024, Algorithm 1.
    """
    return jnp.argmax(aux_probs, axis=-1) == aux_probs.shape[-1] - 1


def bidirectional_score(
    conf_neg: jax.Array,
    conf_pos: jax.Array,
    precision: jax.typing.ArrayLike,
    *,
    unknown_prob: jax.Array | None = None,
    where: jax.Array | None = None,
    rule: str = "code",
) -> jax.Array:
    """Bidirectional uncertainty score; low means query first.

    With `c_n`, `c_p`, `a` the min-max normalised `conf_neg`, `conf_pos`, `unknown_prob` and
    `r = precision`, the default rule is

    `a * c_n + r * (1 - a) * c_p`, or `c_n + r * c_p` without `unknown_prob`.

    `rule="paper"` returns minus `a * (1 - c_n) + r * (1 - a) * (1 - c_p)`, or minus
    `(1 - c_n) + r * (1 - c_p)` without `unknown_prob`. With `unknown_prob` it is lower by
    `r + (1 - r) * a`: for `r < 1` the printed rule prefers images that look unknown, and its
    queries have a lower precision. Without `unknown_prob`, and at `r = 1`, both rules give the same
    ranking.

    Args:
      conf_neg: floats `[M]`, `classifier_confidence` of the negative classifier, whose
        probabilities are averaged over its evaluations.
      conf_pos: floats `[M]`, the same for the positive classifier.
      precision: scalar in [0, 1], the share of known images in the previous query; 0 before the
        first query, which removes `c_p`.
      unknown_prob: floats `[M]`, the auxiliary classifier's probability of "unknown"; `None` as
        long as no unknown image has been found.
      where: bool `[M]`, the candidates; minimum and maximum are taken over them. `None` for all.
      rule: `"code"` or `"paper"`.

    Returns:
      Floats `[M]`, at least float32; +inf outside `where`.

    Raises:
      ValueError: for an unknown `rule`.

    References:
      Zong et al., ECCV 2024, Eq. 3 for `rule="paper"`, here with normalised quantities. The
      default is what the released code ranks by; it is not equivalent.
    """
    check_option("rule", rule, _RULES)
    negative = min_max_normalize(conf_neg, where=where)
    positive = min_max_normalize(conf_pos, where=where)
    if rule == "paper":
        negative, positive = negative - 1.0, positive - 1.0
    precision = jnp.asarray(precision, positive.dtype)
    if unknown_prob is None:
        score = negative + precision * positive
    else:
        unknown = min_max_normalize(unknown_prob, where=where)
        score = unknown * negative + precision * (1.0 - unknown) * positive
    return score if where is None else jnp.where(where, score, jnp.inf)


def select_lowest(
    scores: jax.typing.ArrayLike, budget: int, *, where: jax.typing.ArrayLike | None = None
) -> np.ndarray:
    """Positions of the lowest scores, in ascending order; ties keep the order of the array.

    Host code, since the length of the result depends on the data.

    Args:
      scores: floats `[M]`; +inf marks entries that are not candidates.
      budget: how many to select, at least 0.
      where: bool `[M]`, the candidates; `None` for all.

    Returns:
      int64 positions `[min(budget, number of candidates)]`, without repetition or padding.

    Raises:
      ValueError: if `budget` is negative or a candidate's score is NaN.
    """
    scores = np.asarray(scores)
    if budget < 0:
        raise ValueError(f"budget must not be negative, got {budget}.")
    candidate = np.ones(scores.shape, bool) if where is None else np.asarray(where, bool)
    if np.isnan(scores[candidate]).any():
        raise ValueError("A candidate's score is NaN: it cannot be ranked.")
    positions = np.flatnonzero(candidate & (scores < np.inf))
    if 0 < budget < len(positions):  # a sort takes three times the memory of the scores
        last = np.partition(scores[positions], budget - 1)[budget - 1]
        positions = positions[scores[positions] <= last]
    return positions[np.argsort(scores[positions], kind="stable")[:budget]]
