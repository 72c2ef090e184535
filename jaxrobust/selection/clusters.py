"""Selections by where images lie in feature space: TypiClust, ProbCover and DropQuery.

They ask about typical images of large clusters, about images whose neighbourhood covers most
others, and about one image from each cluster of those whose prediction is not stable. All of them
run on the host. Features should come from a network that learned from more than the few labels at
hand. Time is that of distances: `leading_components` makes them ten times cheaper.
"""

from typing import Any, cast

import numpy as np

_SMALL = 50  # clusters that plain k-means is used for, as in TypiClust's code; above: mini-batches
_BATCH = 1024
_STEPS = 50  # of mini-batches, so that 50,000 images take seconds
_BLOCK = 500  # rows whose distances are held at once


def leading_components(
    features: np.ndarray, num_components: int, *, num_rows: int = 10_000
) -> np.ndarray:
    """Coordinates along the directions in which features vary most.

    Args:
      features: floats `[N, D]`.
      num_components: C.
      num_rows: the directions are those of at most so many rows, evenly spaced.

    Returns:
      `[N, C]`, or the features themselves where there are not more than C dimensions or rows.
    """
    if min(features.shape) <= num_components:
        return features
    from sklearn.decomposition import PCA  # takes long to import

    some = features[np.linspace(0, len(features) - 1, min(num_rows, len(features)), dtype=int)]
    return PCA(num_components, svd_solver="covariance_eigh").fit(some).transform(features)


def typical_select(
    features: np.ndarray,
    budget: int,
    *,
    annotated: np.ndarray,
    where: np.ndarray,
    rng: np.random.Generator,
    num_neighbors: int = 20,
    max_clusters: int = 500,
    min_cluster_size: int = 6,
) -> np.ndarray:
    """TypiClust: the most typical image of each large cluster that nobody has asked about.

    k-means makes min(annotated + budget, max_clusters) clusters of pool and annotated images. They
    are visited by ascending number of annotated members, then by descending size, over and over;
    each visit picks the pool image of the highest typicality,
    `1 / (mean distance to its min(num_neighbors, n // 2) nearest of the n pool images left there)`.

    Args:
      features: floats `[N, D]`.
      budget: images to choose.
      annotated: bool `[N]`, images that were asked about, whatever the answer.
      where: bool `[N]`, the pool.
      rng: starts k-means.
      num_neighbors: of the typicality.
      max_clusters: upper bound of the number of clusters.
      min_cluster_size: smaller clusters are left out as long as there are others.

    Returns:
      int `[min(budget, pool)]` positions in the order of choice.

    References:
      Hacohen, Dekel and Weinshall, "Active Learning on a Budget: Opposite Strategies Suit High and
      Low Budgets", ICML 2022, section 3 and Algorithm 1. Sizes and bounds are their code's.
    """
    rows = np.flatnonzero(annotated | where)
    pool = np.flatnonzero(where)
    size = min(budget, pool.size)
    if size == 0:
        return pool[:0]
    num_clusters = min(int(np.sum(annotated)) + budget, max_clusters, rows.size)
    found, _ = _k_means(features[rows], num_clusters, rng)
    cluster = np.full(len(features), -1)
    cluster[rows] = found
    sizes = np.bincount(found, minlength=num_clusters)
    asked = np.bincount(cluster[annotated], minlength=num_clusters)
    order = np.lexsort((-sizes, asked))
    large = order[sizes[order] >= min_cluster_size]
    members = {c: pool[cluster[pool] == c] for c in order}
    squares: dict[int, np.ndarray] = {}  # distances within the clusters that were visited
    picks: list[int] = []
    for visited in (large, np.setdiff1d(order, large)):
        while len(picks) < size and any(members[c].size for c in visited):
            for c in visited[: size - len(picks)]:
                if not members[c].size:
                    continue
                if c not in squares:
                    squares[c] = _squared_distances(features[members[c]], features[members[c]])
                    np.fill_diagonal(squares[c], np.inf)
                best = np.argmin(_mean_neighbor_distance(squares[c], num_neighbors))
                picks.append(int(members[c][best]))
                members[c] = np.delete(members[c], best)
                squares[c] = np.delete(np.delete(squares[c], best, axis=0), best, axis=1)
    return np.array(picks, np.int64)


def _mean_neighbor_distance(squares: np.ndarray, num_neighbors: int) -> np.ndarray:
    """Mean distance `[n]` of every row to its min(num_neighbors, n // 2) nearest others.

    Of squared distances `[n, n]` with infinity on the diagonal.
    """
    count = min(num_neighbors, len(squares) // 2)
    if count == 0:
        return np.zeros(len(squares))
    return np.sqrt(np.partition(squares, count - 1, axis=1)[:, :count]).mean(axis=1)


def cover_radius(
    features: np.ndarray,
    num_clusters: int,
    *,
    rng: np.random.Generator,
    purity: float = 0.95,
    num_balls: int = 1000,
) -> float:
    """ProbCover's radius: the largest at which the share `purity` of balls hold one cluster alone.

    The ball of an image is pure as long as the radius is less than the distance to the nearest
    image of another k-means cluster, so that it is the (1 - purity) quantile of these distances.

    Args:
      features: floats `[N, D]`, of length 1 in the paper.
      num_clusters: of k-means; the paper's is the number of classes.
      rng: starts k-means and draws the balls.
      purity: alpha of the paper.
      num_balls: images, drawn without replacement, whose balls are looked at.

    Returns:
      The radius; infinity if all images are in one cluster.

    References:
      Yehuda, Dekel, Hacohen and Weinshall, "Active Learning Through a Covering Lens", NeurIPS 2022,
      section 3.3.
    """
    cluster, _ = _k_means(features, min(num_clusters, len(features)), rng)
    centers = rng.choice(len(features), min(num_balls, len(features)), replace=False)
    nearest = []
    for start in range(0, len(centers), _BLOCK):
        block = centers[start : start + _BLOCK]
        squares = _squared_distances(features[block], features)
        squares[cluster[block][:, None] == cluster[None]] = np.inf
        nearest.append(squares.min(axis=1))
    return float(np.quantile(np.sqrt(np.concatenate(nearest)), 1 - purity, method="lower"))


def cover_select(
    features: np.ndarray,
    budget: int,
    *,
    radius: float,
    annotated: np.ndarray,
    where: np.ndarray,
    rng: np.random.Generator,
    num_covered: int = 2500,
) -> np.ndarray:
    """ProbCover: one after another the pool image that covers most images not covered yet.

    An image covers those at a distance less than `radius`. What annotated images cover does not
    count. The coverage is a probability, and it is estimated from `num_covered` images; with all of
    them this is the paper's greedy algorithm.

    Args:
      features: floats `[N, D]`.
      budget: images to choose.
      radius: see `cover_radius`.
      annotated: bool `[N]`, images that were asked about, whatever the answer.
      where: bool `[N]`, the pool.
      rng: draws the images that the coverage is estimated from, without replacement.
      num_covered: how many these are.

    Returns:
      int `[min(budget, pool)]` positions in the order of choice. Ties go to the lower position.

    References:
      Yehuda et al., NeurIPS 2022, Algorithm 1.
    """
    rows = np.flatnonzero(annotated | where)
    targets = np.sort(rng.choice(rows, min(num_covered, rows.size), replace=False))
    covers = np.empty((len(targets), len(features)), bool)
    for start in range(0, len(targets), _BLOCK):
        block = slice(start, start + _BLOCK)
        covers[block] = _squared_distances(features[targets[block]], features) < radius**2
    left = ~covers[:, annotated].any(axis=1)
    gain = covers[left].sum(axis=0, dtype=np.int64)
    candidate = where.copy()
    picks = np.empty(min(budget, int(where.sum())), np.int64)
    for i in range(picks.size):
        picks[i] = np.argmax(np.where(candidate, gain, -1))
        candidate[picks[i]] = False
        newly = left & covers[:, picks[i]]
        gain -= covers[newly].sum(axis=0, dtype=np.int64)
        left &= ~newly
    return picks


def drop_query_select(
    features: np.ndarray,
    disagreements: np.ndarray,
    budget: int,
    *,
    num_masks: int,
    where: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """DropQuery: the centre of each cluster of the images whose prediction dropout changes.

    Candidates are pool images whose prediction changes under more than half of the dropout masks.
    k-means makes `budget` clusters of them, and the candidate nearest to each centre is chosen. If
    there are fewer candidates than that, all of them, then further images by descending number of
    disagreements, equal ones by chance.

    Args:
      features: floats `[N, D]`.
      disagreements: int `[N]`, dropout masks under which the prediction differs from that without
        dropout.
      budget: images to choose.
      num_masks: M, dropout masks.
      where: bool `[N]`, the pool.
      rng: starts k-means and breaks ties.

    Returns:
      int `[min(budget, pool)]` positions.

    References:
      Gupte et al., "Revisiting Active Learning in the Era of Vision Foundation Models", TMLR 2024,
      section 3. What to do with too few candidates is ours.
    """
    candidates = np.flatnonzero(where & (2 * np.asarray(disagreements) > num_masks))
    if candidates.size <= budget:
        pool = rng.permutation(np.flatnonzero(where))
        return pool[np.argsort(-disagreements[pool], kind="stable")][:budget]
    _, centers = _k_means(features[candidates], budget, rng)
    free = np.ones(candidates.size, bool)
    picks = np.empty(budget, np.int64)
    for start in range(0, budget, _BLOCK):
        squares = _squared_distances(centers[start : start + _BLOCK], features[candidates])
        for i, row in enumerate(squares, start):
            nearest = np.argmin(np.where(free, row, np.inf))
            picks[i] = candidates[nearest]
            free[nearest] = False
    return picks


def _squared_distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """`[L, R]` of rows `[L, D]` and `[R, D]`."""
    sizes = np.sum(left**2, axis=1)[:, None] + np.sum(right**2, axis=1)[None]
    return np.maximum(sizes - 2 * left @ right.T, 0)


def _k_means(
    features: np.ndarray, num_clusters: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster `[N]` of every row and the centres `[C, D]`, by scikit-learn."""
    from sklearn.cluster import KMeans, MiniBatchKMeans  # takes long to import

    options: dict[str, Any] = {
        "n_clusters": num_clusters,
        "n_init": 1,
        "random_state": int(rng.integers(2**31)),
    }
    if num_clusters <= _SMALL:
        model = KMeans(max_iter=_STEPS, **options)
    else:
        passes = max(1, _STEPS * _BATCH // len(features))
        # k-means++ takes longer than all steps, and ends with clusters that are not tighter.
        model = MiniBatchKMeans(batch_size=_BATCH, max_iter=passes, init="random", **options)
    model.fit(features)
    return np.asarray(model.labels_), cast(np.ndarray, model.cluster_centers_)
