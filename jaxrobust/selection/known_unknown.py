"""E2OAL's query: informative examples among those that look known, class by class.

Zong, Chi, Wang, Cui and Huang, "Revisiting Unknowns: Towards Effective and Efficient Open-Set
Active Learning", CVPR 2026, arXiv 2603.07898. Labelled unknown examples are clustered, and a
classifier of the known classes and these clusters scores how known an example looks.
"""

import heapq
import math
import warnings
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.arrays import at_least_float32, check_logits
from jaxrobust.errors import check_option

DIVERGENCES = ("reverse", "js")
_EPS = 1e-8
_UNIT = 2**1074  # its reciprocal is the smallest float


def known_unknown_margin(logits: jax.typing.ArrayLike, num_known: int) -> jax.Array:
    """Largest logit of a known class minus the largest other one; high = looks known.

    `max_{c < K} o_c - max_{c >= K} o_c`, or `max_{c < K} o_c` without others. A logit of -inf marks
    an absent class.

    Args:
      logits: floats `[..., C]`, C >= K.
      num_known: K, the first classes; static.

    Returns:
      Floats `[...]`, at least float32.

    Raises:
      ValueError: if `num_known` is not in 1..C.

    References:
      Zong et al., CVPR 2026 (E2OAL), the purity of an example.
    """
    logits = at_least_float32(logits)
    if logits.ndim == 0 or not 1 <= num_known <= logits.shape[-1]:
        raise ValueError(
            f"num_known={num_known} must lie in 1..C of logits [..., C]; got shape {logits.shape}."
        )
    known = jnp.max(logits[..., :num_known], axis=-1)
    other = jnp.max(logits[..., num_known:], axis=-1, initial=-jnp.inf)
    is_absent = jnp.isneginf(other)
    return jnp.where(is_absent, known, known - jnp.where(is_absent, 0, other))


def divergence_informativeness(
    logits: jax.typing.ArrayLike, *, divergence: str = "reverse"
) -> jax.Array:
    """How far a prediction is from uniform and from one-hot; high = informative.

    `J(p, uniform) J(p, onehot(argmax p))` of `p = softmax(logits)`, where, with M = (p + q) / 2,

    - "reverse": `J(p, q) = (KL(M || p) + KL(M || q)) / 2`;
    - "js": the Jensen-Shannon divergence, `J(p, q) = (KL(p || M) + KL(q || M)) / 2`.

    1e-8 is added to every probability, and the result is normalised again. This determines the
    value of the first kind at a one-hot distribution, and is too small to matter for the second.

    Args:
      logits: floats `[..., C]` of the known classes, C >= 2.
      divergence: "reverse" or "js".

    Returns:
      Floats `[...]`, at least float32, in nats squared; 0 for a uniform prediction.

    Raises:
      ValueError: on an unknown `divergence`, or fewer than two classes.

    References:
      Zong et al., CVPR 2026 (E2OAL). The paper has "js", the authors' code "reverse".
    """
    check_option("divergence", divergence, DIVERGENCES)
    probs = jax.nn.softmax(check_logits(logits), axis=-1)
    num_classes = probs.shape[-1]
    top = jax.nn.one_hot(jnp.argmax(probs, axis=-1), num_classes, dtype=probs.dtype)
    uniform = jnp.full_like(probs, 1 / num_classes)
    return _divergence(probs, uniform, divergence) * _divergence(probs, top, divergence)


def _divergence(p: jax.Array, q: jax.Array, kind: str) -> jax.Array:
    """J of `divergence_informativeness`, summed from terms that are never negative."""
    p, q = ((x + _EPS) / jnp.sum(x + _EPS, axis=-1, keepdims=True) for x in (p, q))

    def half(x, other):
        change = (other - x) / (2 * x)  # (M - x) / x
        log = jnp.log1p(change)
        # KL(M || x) and KL(x || M), to whose terms M - x and its negative add nothing in the sum.
        terms = (1 + change) * log - change if kind == "reverse" else change - log
        return jnp.sum(x * terms, axis=-1)

    return (half(p, q) + half(q, p)) / 2


def candidate_count(
    prob: np.typing.ArrayLike, informativeness: np.typing.ArrayLike, *, budget: int, target: float
) -> int:
    """Number of the most probably known examples to choose informative ones from.

    In descending order of `prob`, this is the smallest k >= b such that the b most informative of
    the first k examples are expected to contain no more known examples than `target` asks for,

        floor(sum of their prob) <= target * b.

    All N if there is no such k, or `target` is 0 or less. Ties go to the lower position. The sum is
    exact, and the time O(N log N).

    Args:
      prob: floats `[N]` in [0, 1], probability of being of a known class.
      informativeness: floats `[N]`, high = informative.
      budget: b, number of examples to choose.
      target: share of the chosen examples that should be of known classes.

    Returns:
      k.

    Raises:
      ValueError: on shapes that differ, NaN, or a negative budget.

    References:
      Zong et al., CVPR 2026 (E2OAL), `find_threshold` of the authors' code, whose time is quadratic
      and whose sums are rounded.
    """
    prob, informativeness = (np.asarray(x, np.float64) for x in (prob, informativeness))
    if prob.ndim != 1 or prob.shape != informativeness.shape:
        raise ValueError(
            f"prob {prob.shape} and informativeness {informativeness.shape} must both be [N]."
        )
    if not np.isfinite(prob).all() or np.isnan(informativeness).any():
        raise ValueError("prob or informativeness holds values that cannot be summed or ranked.")
    if budget < 0:
        raise ValueError(f"budget={budget} must not be negative.")
    if target <= 0 or budget > len(prob):
        return len(prob)
    if budget == 0:
        return 0
    limit = math.floor(target * budget)
    # Python's integers, here multiples of the smallest float, are added without rounding.
    exact = [n * (_UNIT // d) for n, d in map(float.as_integer_ratio, prob.tolist())]
    best: list[tuple[float, int]] = []  # a heap, the least informative one first
    total = 0
    for k, i in enumerate(np.argsort(-prob, kind="stable").tolist(), 1):
        total += exact[i]
        entry = float(informativeness[i]), -i
        if k <= budget:
            heapq.heappush(best, entry)
        else:
            total -= exact[-heapq.heappushpop(best, entry)[1]]
        if k >= budget and total // _UNIT <= limit:
            return k
    return len(prob)


def select_by_class_quota(
    margin: np.typing.ArrayLike,
    informativeness: np.typing.ArrayLike,
    predictions: np.typing.ArrayLike,
    *,
    num_candidates: int,
    num_known: int,
    budget: int,
) -> np.ndarray:
    """The most informative of the examples that look most known, for every predicted class.

    For each known class, the ceil(k / K) examples with the largest margin are taken from those
    predicted to be of it, and of these the ceil(b / K) most informative ones are chosen. Ties go to
    the lower position. Examples predicted unknown are never chosen, and a class with too few
    examples leaves the selection short.

    Args:
      margin: floats `[N]`, high = looks known.
      informativeness: floats `[N]`, high = informative.
      predictions: int `[N]`, 0..K-1 for the known classes, other values for none of them.
      num_candidates: k, such as from `candidate_count`.
      num_known: K.
      budget: b.

    Returns:
      int `[n]` positions by class, then by descending informativeness. n may exceed b, by less than
      K, or fall short of it.

    Raises:
      ValueError: on shapes that differ, NaN, a negative number, or no known class.

    References:
      Zong et al., CVPR 2026 (E2OAL), the authors' code; the quotas are those of EAOA (Zong and
      Huang, CVPR 2025).
    """
    margin, informativeness = np.asarray(margin), np.asarray(informativeness)
    predictions = np.asarray(predictions)
    shapes = [a.shape for a in (margin, informativeness, predictions)]
    if margin.ndim != 1 or len(set(shapes)) != 1:
        raise ValueError(f"margin, informativeness and predictions must all be [N]; got {shapes}.")
    if np.isnan(margin).any() or np.isnan(informativeness).any():
        raise ValueError("margin or informativeness is NaN: it cannot be ranked.")
    if num_known < 1 or num_candidates < 0 or budget < 0:
        raise ValueError(
            f"num_known={num_known} must be at least 1, num_candidates={num_candidates} and "
            f"budget={budget} not negative."
        )
    picks = [np.zeros(0, np.int64)]
    for c in range(num_known):
        members = np.flatnonzero(predictions == c)
        members = _highest(margin, members, -(-num_candidates // num_known))
        picks.append(_highest(informativeness, np.sort(members), -(-budget // num_known)))
    return np.concatenate(picks)


def _highest(scores: np.ndarray, positions: np.ndarray, count: int) -> np.ndarray:
    """Those of ascending positions with the highest scores, in descending order."""
    # Not the reversed ascending order, in which the higher of equal positions would come first.
    return positions[np.argsort(-scores[positions], kind="stable")[:count]]


def cluster_objective(
    labels: np.typing.ArrayLike, clusters: np.typing.ArrayLike, num_known: int
) -> tuple[float, np.ndarray]:
    """How well clusters agree with the known classes and the rest with "unknown".

    Clusters are matched to the classes 0..K, of which K is "unknown", so that most examples lie in
    the cluster of their class (Hungarian algorithm). All clusters that are not matched to a known
    class then count as one, that of the unknown examples. The objective is the geometric mean of K
    + 1 harmonic means of precision and recall,

        F_c = 2 n_c / (examples of class c + examples in its cluster),

    where n_c counts the examples that are both.

    Args:
      labels: int `[N]`, 0..K-1 for known classes and K for unknown.
      clusters: int `[N]`, from 0.
      num_known: K.

    Returns:
      (objective, int ids of the clusters left over, ascending). NaN if a class shares no example
      with its cluster, for instance because it has none.

    Raises:
      ValueError: on shapes that differ, or labels or clusters out of range.

    References:
      Zong et al., CVPR 2026 (E2OAL), `cluster_acc` of the authors' code.
    """
    from scipy.optimize import linear_sum_assignment  # takes long to import

    labels, clusters = np.asarray(labels), np.asarray(clusters)
    if labels.ndim != 1 or labels.shape != clusters.shape:
        raise ValueError(f"labels {labels.shape} and clusters {clusters.shape} must both be [N].")
    if num_known < 1 or (labels.size and not 0 <= labels.min() <= labels.max() <= num_known):
        raise ValueError(f"labels must lie in 0..{num_known}, num_known={num_known} for unknown.")
    if clusters.size and clusters.min() < 0:
        raise ValueError(f"clusters must be numbered from 0, got {clusters.min()}.")
    ids, rows = np.unique(clusters, return_inverse=True)
    table = np.zeros((len(ids), num_known + 1), np.int64)
    np.add.at(table, (rows, labels.astype(np.int64)), 1)
    rows, columns = linear_sum_assignment(table, maximize=True)
    is_known = columns < num_known
    rows, columns = rows[is_known], columns[is_known]
    left = np.setdiff1d(np.arange(len(ids)), rows)
    shared, in_cluster = np.zeros((2, num_known + 1))
    shared[columns], in_cluster[columns] = table[rows, columns], table[rows].sum(axis=1)
    shared[-1], in_cluster[-1] = table[left, -1].sum(), table[left].sum()
    if not shared.all():
        return math.nan, ids[left]
    scores = 2 * shared / (table.sum(axis=0) + in_cluster)
    return float(np.exp(np.log(scores).mean())), ids[left]


def cluster_unknowns(
    features: np.ndarray,
    labels: np.ndarray,
    num_known: int,
    *,
    max_clusters: int = 1000,
    num_starts: int = 10,
) -> tuple[np.ndarray, int]:
    """Divides labelled unknown examples into clusters; their number fits the known classes best.

    k-means makes k clusters of all labelled examples, and k in K+1..`max_clusters`, which is at
    most N - 1, maximises `cluster_objective` by ternary search. Of these clusters u = k - K belong
    to no known class. The label of an unknown example becomes K plus the number of the nearest
    centre among them. With at most K + 1 examples the unknown ones are one cluster.

    Args:
      features: floats `[N, D]` of the labelled examples.
      labels: int `[N]`, 0..K-1 for known classes and K for unknown.
      num_known: K.
      max_clusters: maximum number of clusters.
      num_starts: number of k-means starts, of which the tightest clusters are kept.

    Returns:
      (int32 labels `[N]`, in which 0..K-1 are unchanged and K..K+u-1 are clusters; u). u is 0
      without unknown examples.

    References:
      Zong et al., CVPR 2026 (E2OAL), `estimateK` of the authors' code, which does not cap the
      number of clusters by that of examples and has a cluster before there is an unknown example.
    """
    labels = np.asarray(labels, np.int32)
    is_unknown = labels == num_known
    if not is_unknown.any():
        return labels, 0
    most = min(max_clusters, len(labels) - 1)
    if most <= num_known:
        return labels, 1
    found: dict[int, tuple[float, np.ndarray, np.ndarray]] = {}

    def objective(k: int) -> float:
        if k not in found:
            clusters, centers = _k_means(features, k, num_starts)
            value, left = cluster_objective(labels, clusters, num_known)
            found[k] = value, left, centers
        return found[k][0]

    best = _ternary_search(objective, num_known + 1, most)
    objective(best)
    _, left, centers = found[best]
    if not left.size:  # too few distinct examples
        return labels, 1
    places = features[is_unknown]
    distances = [np.sum(np.square(places - center), axis=1) for center in centers[left]]
    divided = labels.copy()
    divided[is_unknown] = num_known + np.argmin(distances, axis=0)
    return divided, len(left)


def _ternary_search(objective: Callable[[int], float], low: int, high: int) -> int:
    """The argmax in low..high of a function with one peak; NaN counts as a low value."""
    while high - low > 2:
        third = (high - low) // 3
        if objective(low + third) < objective(high - third):
            low += third
        else:
            high -= third
    values = [objective(k) for k in range(low, high + 1)]
    return low + int(np.argmax([-math.inf if math.isnan(v) else v for v in values]))


def _k_means(
    features: np.ndarray, num_clusters: int, num_starts: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster `[N]` of every row and centres `[C, D]`, the same in every call."""
    from sklearn.cluster import KMeans  # takes long to import
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    model = KMeans(num_clusters, n_init=cast(Any, num_starts), random_state=0)
    # Several threads would add up the rows of a cluster in an order of chance.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
        model.fit(features)
    return np.asarray(model.labels_), cast(np.ndarray, model.cluster_centers_)
