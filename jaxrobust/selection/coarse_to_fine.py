"""DCFS's two-stage query: keep examples that look known, then choose informative ones.

Wang et al., "Dirichlet-Based Coarse-to-Fine Example Selection For Open-Set Annotation",
arXiv 2409.17607; a reconstruction from the abstract. Examples of high distribution uncertainty look
unknown and are excluded, whereas DUC (Xie et al., ICLR 2023) queries them.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.arrays import at_least_float32
from jaxrobust.errors import check_option
from jaxrobust.selection.margin import min_max_normalize

COARSE_SCORES = ("weighted_sum", "product", "rank_sum", "data", "dist", "total")


def coarse_score(
    data: jax.typing.ArrayLike,
    dist: jax.typing.ArrayLike,
    *,
    kind: str = "weighted_sum",
    w_data: float = 1.0,
    w_dist: float = 1.0,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Combines data and distribution uncertainty; examples with a low score look known.

    With mm(u) = (u - min) / (max - min) over the pool, 0 if all are equal, and rank(u) the
    position, from 0, in the stable ascending order:

    - "weighted_sum": `w_data mm(data) + w_dist mm(dist)`;
    - "product": `mm(data) mm(dist)`;
    - "rank_sum": `(rank(data) + rank(dist)) / max(N - 1, 1)`, robust to outliers;
    - "data", "dist": one of them, not normalised;
    - "total": `data + dist`, which is the entropy of the expected probabilities.

    Args:
      data: [N], data uncertainty.
      dist: [N], distribution uncertainty.
      kind: one of the names above.
      w_data: weight of data in "weighted_sum".
      w_dist: weight of dist in "weighted_sum".
      where: bool [N], the pool; None for all. Minimum, maximum, ranks and N are taken over it.

    Returns:
      [N]; +inf outside `where`.

    Raises:
      ValueError: on an unknown `kind` or shapes that differ.

    References:
      Ours: the abstract of arXiv 2409.17607 asks for both uncertainties "simultaneously", without a
      formula.
    """
    check_option("kind", kind, COARSE_SCORES)
    data, dist = at_least_float32(data), at_least_float32(dist)
    where = jnp.ones(data.shape, bool) if where is None else jnp.asarray(where, bool)
    if not data.ndim == 1 or not data.shape == dist.shape == where.shape:
        raise ValueError(
            f"data {data.shape}, dist {dist.shape} and where {where.shape} must all be [N]."
        )
    if kind == "weighted_sum":
        score = w_data * min_max_normalize(data, where=where)
        score += w_dist * min_max_normalize(dist, where=where)
    elif kind == "product":
        score = min_max_normalize(data, where=where) * min_max_normalize(dist, where=where)
    elif kind == "rank_sum":
        ranks = (_ranks(data, where) + _ranks(dist, where)).astype(data.dtype)
        score = ranks / jnp.maximum(jnp.sum(where, dtype=data.dtype) - 1, 1)
    else:
        score = {"data": data, "dist": dist, "total": data + dist}[kind]
    return jnp.where(where, score, jnp.inf)


def _ranks(x: jax.Array, where: jax.Array) -> jax.Array:
    """Position of every entry in the stable ascending order of those in `where`."""
    return jnp.argsort(jnp.lexsort((x, ~where)))


def select_coarse_to_fine(
    coarse: np.typing.ArrayLike,
    fine: np.typing.ArrayLike,
    budget: int,
    *,
    kappa: float = 5,
    predictions: np.typing.ArrayLike | None = None,
    num_classes: int | None = None,
    where: np.typing.ArrayLike | None = None,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Two-stage selection: the highest fine scores among candidates with the lowest coarse scores.

    Every predicted class has the quota q = ceil(b / K), b = min(budget, N). Its candidates are the
    max(ceil(kappa q), q) examples with the lowest coarse scores, and its picks are the q candidates
    with the highest fine scores. All picks, sorted by fine score or shuffled, are cut to b. If
    there are fewer than b, the other candidates follow by descending fine score, then the rest of
    the pool by ascending coarse score. Without `predictions` all examples form one class. Ties go
    to the lower position. Host code, since the lengths depend on the data.

    Args:
      coarse: floats [N], low = looks known.
      fine: floats [N], high = informative.
      budget: number of examples to select.
      kappa: candidates per selected example; may be fractional. With 1 the coarse score alone
        decides.
      predictions: int [N], predicted class of each example, for class quotas (the recipe's
        default); None for no quotas. An example predicted outside 0..K-1 has no quota: it is chosen
        only to fill up.
      num_classes: K, required with `predictions`, else unused.
      where: bool [N], the pool; None for all.
      rng: shuffles the picks before the cut, as EAOA does; None sorts them by fine score.

    Returns:
      (candidates, selected): int positions in the given arrays, the candidates in ascending order,
      the b selected ones in order of selection. N counts the pool.

    Raises:
      ValueError: on shapes that differ, a negative budget, a kappa that is not positive and
        finite, or `predictions` without `num_classes`.

    References:
      Coarse to fine: arXiv 2409.17607. Quotas per predicted class, and kappa 5: Zong and Huang,
      "Rethinking Epistemic and Aleatoric Uncertainty for Active Open-Set Annotation: An
      Energy-Based Approach", CVPR 2025 (EAOA).
    """
    if budget < 0:
        raise ValueError(f"budget={budget} must not be negative.")
    if not 0 < kappa < math.inf:
        raise ValueError(
            f"kappa={kappa} must be positive and finite; with 1 `coarse` decides alone."
        )
    coarse, fine = np.asarray(coarse, np.float64), np.asarray(fine, np.float64)
    if predictions is None:
        predictions, num_classes = np.zeros(coarse.shape, np.int64), 1
    elif num_classes is None or num_classes < 1:
        raise ValueError(f"predictions need their num_classes, at least 1; got {num_classes}.")
    predictions = np.asarray(predictions)
    where = np.ones(coarse.shape, bool) if where is None else np.asarray(where, bool)
    shapes = [a.shape for a in (coarse, fine, predictions, where)]
    if coarse.ndim != 1 or len(set(shapes)) != 1:
        raise ValueError(f"coarse, fine, predictions and where must all be [N]; got {shapes}.")

    def ascending(positions, scores):
        positions = np.sort(positions)
        return positions[np.argsort(scores[positions], kind="stable")]

    pool = np.flatnonzero(where)
    size = min(budget, pool.size)
    quota = math.ceil(size / num_classes)
    num_candidates = max(math.ceil(kappa * quota), quota)
    candidates, picks = [], []
    for c in range(num_classes):
        of_class = ascending(pool[predictions[pool] == c], coarse)[:num_candidates]
        candidates.append(of_class)
        picks.append(ascending(of_class, -fine)[:quota])
    candidates, picks = np.sort(np.concatenate(candidates)), np.concatenate(picks)
    preference = np.concatenate(
        [
            ascending(picks, -fine) if rng is None else rng.permutation(picks),
            ascending(np.setdiff1d(candidates, picks), -fine),
            ascending(np.setdiff1d(pool, candidates), coarse),
        ]
    )
    return candidates, preference[:size]
