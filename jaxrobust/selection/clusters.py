"""Selection by the density of images in feature space: TypiClust, ProbCover and DropQuery.

They choose typical images of large clusters, images whose neighbourhood covers most others, and one
image of each cluster of those whose prediction is unstable. Features should come from a network
that was trained on more than the few labels. All of them run on the host. Distances take most of
the time; `leading_components` makes them ten times cheaper. Time and memory are linear in the
number of images, except for the time of `typical_select`.
"""

from typing import Any, cast

import numpy as np

_SMALL = 50  # most clusters for which all images are used, as in TypiClust's code, not mini-batches
_BATCH = 1024
_STEPS = 50  # of mini-batches, so that 50,000 images take seconds
_ENTRIES = 2**24  # distances in memory at a time
_ROWS = 16_384  # rows whose components are computed at a time


def leading_components(
    features: np.ndarray, num_components: int, *, num_rows: int = 10_000
) -> np.ndarray:
    """The first principal components of features.

    Args:
      features: floats `[N, D]`.
      num_components: C.
      num_rows: maximum number of rows, evenly spaced, from which the directions are computed.

    Returns:
      Floats `[N, C]`, or the features themselves if N or D is at most C.
    """
    if min(features.shape) <= num_components:
        return features
    from sklearn.decomposition import PCA  # takes long to import

    some = features[np.linspace(0, len(features) - 1, min(num_rows, len(features)), dtype=int)]
    model = PCA(num_components, svd_solver="covariance_eigh").fit(some)
    starts = range(0, len(features), _ROWS)  # sklearn makes a centred copy of what it is given
    return np.concatenate([model.transform(features[i : i + _ROWS]) for i in starts])


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
    squared: bool = True,
) -> np.ndarray:
    """TypiClust: the most typical images of large clusters without annotated images.

    k-means makes min(annotated + budget, max_clusters) clusters of pool and annotated images. They
    are visited repeatedly, by ascending number of annotated members, then by descending size. Each
    visit chooses the pool image of the highest typicality, `1 / mean squared distance` to its
    min(num_neighbors, n // 2) nearest of the n pool images left in the cluster.

    The distances of all pairs within a cluster are needed: with max_clusters clusters the time
    grows as N^2 / max_clusters, which dominates from about 300,000 images on.

    Args:
      features: floats `[N, D]`, of unit length in the authors' code.
      budget: images to choose.
      annotated: bool `[N]`, images of earlier queries, known or unknown.
      where: bool `[N]`, the pool.
      rng: initialises k-means.
      num_neighbors: number of neighbours in the typicality.
      max_clusters: maximum number of clusters.
      min_cluster_size: smaller clusters are visited only once the others are empty; the authors'
        code drops them.
      squared: whether distances are squared, as in the authors' code; the paper has no square.

    Returns:
      int `[min(budget, pool)]` positions in the order of choice. Ties go to the lower position.

    References:
      Hacohen, Dekel and Weinshall, "Active Learning on a Budget: Opposite Strategies Suit High and
      Low Budgets", ICML 2022, section 3 and Algorithm 1; defaults of the authors' code.
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
    by_cluster = pool[np.argsort(cluster[pool], kind="stable")]
    ends = np.cumsum(np.bincount(cluster[pool], minlength=num_clusters))
    parts = np.split(by_cluster, ends[:-1])
    members = [_Cluster(features, part, num_neighbors, squared) for part in parts]
    picks: list[int] = []
    for visited in (large, np.setdiff1d(order, large)):
        while not_empty := [members[c] for c in visited if members[c].num_left]:
            picks += [c.take_most_typical() for c in not_empty[: size - len(picks)]]
            if len(picks) == size:
                break
    return np.array(picks, np.int64)


class _Cluster:
    """Pool images of a cluster, from which the most typical one is removed repeatedly.

    Twice as many nearest others are kept of every image as its typicality needs, so that distances
    are computed again only after enough of them have been removed.
    """

    def __init__(
        self, features: np.ndarray, members: np.ndarray, num_neighbors: int, squared: bool
    ):
        self._features = features
        self._num_neighbors = num_neighbors
        self._squared = squared
        self._begin(members)

    def _begin(self, members: np.ndarray) -> None:
        self._members = members
        self._is_left = np.ones(len(members), bool)
        self._nearest: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def num_left(self) -> int:
        return int(self._is_left.sum())

    def take_most_typical(self) -> int:
        """Removes the most typical image; its position among all images, ties to the lower one."""
        count = min(self._num_neighbors, self.num_left // 2)
        distances, is_counted = self._neighbors(count)
        if (is_counted.sum(axis=1)[self._is_left] < count).any():
            self._begin(self._members[self._is_left])
            distances, is_counted = self._neighbors(count)
        sums = np.sum(distances, axis=1, where=is_counted)
        best = int(np.argmin(np.where(self._is_left, sums, np.inf)))
        self._is_left[best] = False
        return int(self._members[best])

    def _neighbors(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Distances `[n, m]` to near others, ascending, and which are the first `count` left."""
        if self._nearest is None:
            self._nearest = self._find()
        distances, others = self._nearest
        is_there = self._is_left[others]
        return distances, is_there & (np.cumsum(is_there, axis=1) <= count)

    def _find(self) -> tuple[np.ndarray, np.ndarray]:
        """Distances `[n, m]` to the nearest others, ascending, and positions among the members."""
        features = self._features[self._members]
        size = len(features)
        num_kept = min(2 * self._num_neighbors, size - 1)
        distances = np.empty((size, num_kept), features.dtype)
        others = np.empty((size, num_kept), np.int32)
        for rows in _blocks(size, size):
            squares = _squared_distances(features[rows], features)
            squares[np.arange(len(squares)), np.arange(size)[rows]] = np.inf
            found = np.argpartition(squares, max(num_kept - 1, 0), axis=1)[:, :num_kept]
            kept = np.take_along_axis(squares, found, axis=1)
            order = np.argsort(kept, axis=1)
            kept = np.take_along_axis(kept, order, axis=1)
            distances[rows] = kept if self._squared else np.sqrt(kept)
            others[rows] = np.take_along_axis(found, order, axis=1)
        return distances, others


def _blocks(num_rows: int, width: int) -> list[slice]:
    """Slices of `num_rows` rows with at most `_ENTRIES` distances to `width` others each."""
    size = max(_ENTRIES // max(width, 1), 1)
    return [slice(start, start + size) for start in range(0, num_rows, size)]


def cover_radius(
    features: np.ndarray,
    num_clusters: int,
    *,
    rng: np.random.Generator,
    purity: float = 0.95,
    num_balls: int = 1000,
) -> float:
    """ProbCover's radius: the largest radius at which a fraction `purity` of the balls is pure.

    A ball around an image is pure if all images in it are of one k-means cluster, that is, if its
    radius is below the distance to the nearest image of another cluster. The result is the (1 -
    purity) quantile of these distances.

    Args:
      features: floats `[N, D]`, of unit length in the paper.
      num_clusters: number of k-means clusters; in the paper the number of classes.
      rng: initialises k-means and draws the balls.
      purity: the paper's alpha, 0.95.
      num_balls: number of images, drawn without replacement, whose balls are examined; sampling
        them is ours.

    Returns:
      The radius; infinity if all images are in one cluster.

    References:
      Yehuda, Dekel, Hacohen and Weinshall, "Active Learning Through a Covering Lens", NeurIPS 2022,
      section 3.3.
    """
    cluster, _ = _k_means(features, min(num_clusters, len(features)), rng)
    centers = rng.choice(len(features), min(num_balls, len(features)), replace=False)
    nearest = np.full(len(centers), np.inf, features.dtype)
    for others in _blocks(len(features), len(centers)):
        squares = _squared_distances(features[centers], features[others])
        squares[cluster[centers][:, None] == cluster[others][None]] = np.inf
        nearest = np.minimum(nearest, squares.min(axis=1))
    return float(np.quantile(np.sqrt(nearest), 1 - purity, method="lower"))


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
    """ProbCover: repeatedly chooses the pool image that covers the most uncovered images.

    An image covers those at a distance less than `radius`; images covered by an annotated one do
    not count. Coverage is estimated from `num_covered` images; with all of them this is the paper's
    greedy algorithm.

    Args:
      features: floats `[N, D]`.
      budget: images to choose.
      radius: see `cover_radius`.
      annotated: bool `[N]`, images of earlier queries, known or unknown.
      where: bool `[N]`, the pool.
      rng: draws the images that coverage is estimated from, without replacement, and breaks ties;
        once everything is covered, all images tie.
      num_covered: number of these images.

    Returns:
      int `[min(budget, pool)]` positions in the order of choice.

    References:
      Yehuda et al., NeurIPS 2022, Algorithm 1.
    """
    rows = np.flatnonzero(annotated | where)
    targets = np.sort(rng.choice(rows, min(num_covered, rows.size), replace=False))
    chance = rng.permutation(len(features))
    left = np.ones(len(targets), bool)
    covers = np.empty((-(-len(targets) // 8), len(features)), np.uint8)  # 8 targets in a byte
    for part in _blocks(len(features), len(targets)):
        is_near = _squared_distances(features[targets], features[part]) < radius**2
        left &= ~is_near[:, annotated[part]].any(axis=1)
        covers[:, part] = np.packbits(is_near, axis=0)
    gain = np.where(where, _num_common(covers, left), -1)
    picks = np.empty(min(budget, int(where.sum())), np.int64)
    for i in range(picks.size):
        picks[i] = chance[np.argmax(gain[chance])]
        newly = left & np.unpackbits(covers[:, picks[i]], count=len(targets)).astype(bool)
        if newly.any():
            gain -= _num_common(covers, newly)
            left &= ~newly
        gain[picks[i]] = -1  # as outside the pool
    return picks


def _num_common(covers: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """How many of the chosen targets, bool `[T]`, each image covers by packed bits `[T / 8, N]`."""
    masks = np.packbits(chosen)
    count = np.zeros(covers.shape[1], np.int64)
    for i in np.flatnonzero(masks):
        count += np.bitwise_count(covers[i] & masks[i])
    return count


def drop_query_select(
    features: np.ndarray,
    disagreements: np.ndarray,
    budget: int,
    *,
    num_masks: int,
    where: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """DropQuery: one image from each cluster of the images whose prediction changes under dropout.

    Candidates are pool images whose prediction changes under more than half of the dropout masks.
    k-means makes `budget` clusters of them, and the candidate nearest to each centre is chosen.
    If there are at most `budget` candidates, images are chosen by descending number of
    disagreements, with ties broken at random.

    Args:
      features: floats `[N, D]`.
      disagreements: int `[N]`, number of dropout masks under which the prediction differs from the
        prediction without dropout.
      budget: images to choose.
      num_masks: number of dropout masks.
      where: bool `[N]`, the pool.
      rng: initialises k-means and breaks ties.

    Returns:
      int `[min(budget, pool)]` positions.

    References:
      Gupte et al., "Revisiting Active Learning in the Era of Vision Foundation Models", TMLR 2024,
      section 3. The rule for too few candidates is ours.
    """
    candidates = np.flatnonzero(where & (2 * np.asarray(disagreements) > num_masks))
    if candidates.size <= budget:
        pool = rng.permutation(np.flatnonzero(where))
        return pool[np.argsort(-disagreements[pool], kind="stable")][:budget]
    _, centers = _k_means(features[candidates], budget, rng)
    free = np.ones(candidates.size, bool)
    picks = np.empty(budget, np.int64)
    places = features[candidates]
    for block in _blocks(budget, len(places)):
        for i, row in enumerate(_squared_distances(centers[block], places), block.start):
            nearest = np.argmin(np.where(free, row, np.inf))
            picks[i] = candidates[nearest]
            free[nearest] = False
    return picks


def _squared_distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Squared distances `[L, R]` of rows `[L, D]` and `[R, D]`."""
    squares = np.sum(left**2, axis=1)[:, None] + np.sum(right**2, axis=1)[None]
    squares -= 2 * left @ right.T
    return np.maximum(squares, 0, out=squares)


def _k_means(
    features: np.ndarray, num_clusters: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster `[N]` of every row and centres `[C, D]`, by scikit-learn."""
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
        # k-means++ takes longer than all steps, and its clusters are not tighter.
        model = MiniBatchKMeans(batch_size=_BATCH, max_iter=passes, init="random", **options)
    model.fit(features)
    return np.asarray(model.labels_), cast(np.ndarray, model.cluster_centers_)
