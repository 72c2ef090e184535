"""Judges of labels: class scores for every example from a model that did not see its label."""

import warnings

import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from jaxrobust.arrays import unit_rows
from jaxrobust.selection.ridge import leave_one_out_scores

LEAST_LOG_PROB = -12.0
_RIDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_INVERSE_PENALTIES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
_NUM_FOLDS = 5
_MOST_ROWS = 8192  # on which a penalty is chosen
_MOST_WORK = 2e9  # rows x dimensions x classes up to which a regression is trained
_NUM_NEIGHBORS = (10, 20, 50)
_NUM_COMPONENTS = 128
_NUM_FREQUENCIES = 512


def standardized(features: np.ndarray) -> np.ndarray:
    """float32 `[N, D]` of mean 0 and deviation 1, without constant dimensions."""
    mean, std = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    kept = std > 1e-12 * np.maximum(np.abs(mean), 1)
    if not kept.any():
        return np.zeros((len(features), 1), np.float32)
    return ((features[:, kept] - mean[kept]) / std[kept]).astype(np.float32)


def nearest(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and positions `[N, k]` of at most `count` other rows, the nearest first."""
    count = min(count, len(rows) - 1)
    return NearestNeighbors(n_neighbors=count, algorithm="brute").fit(rows).kneighbors()


def most_similar(features: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine similarities and positions, otherwise as `nearest`."""
    distances, neighbors = nearest(unit_rows(features), count)
    return 1 - np.square(distances) / 2, neighbors


def ridge_scores(features: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """`leave_one_out_scores` with a wide choice of ridges, not clipped."""
    return leave_one_out_scores(
        features, labels, num_classes=num_classes, ridges=_RIDGES, clip=False
    )


def logistic_scores(
    features: np.ndarray, labels: np.ndarray, num_classes: int, *, seed: int
) -> np.ndarray | None:
    """Out-of-fold log probabilities of logistic regression in five folds, with a chosen penalty.

    Penalties are tried from the strongest on until the out-of-sample cross-entropy stops
    decreasing. With more than 8,192 rows, the choice is made on two folds of a random sample of
    that size.

    Args:
      features: float32 `[N, D]`, standardised.
      labels: int `[N]` in `0..C-1`.
      num_classes: C.
      seed: random seed of the folds.

    Returns:
      float32 `[N, C]`, at least -12; None if N D C is so large that training takes minutes.
    """
    if features.size * num_classes > _MOST_WORK:
        return None
    is_large = len(labels) > _MOST_ROWS
    # Not the seed alone: whoever changed labels by it would find these first in the sample.
    generator = np.random.default_rng([seed, _MOST_ROWS] if is_large else seed)
    features = _rotated(features)
    sample = generator.permutation(len(labels))[:_MOST_ROWS]
    part, given = features[sample], labels[sample]
    fold = _folds(given, generator)
    best, found, models = np.inf, np.zeros(0), _regressions()[: 2 if is_large else None]
    judged = np.flatnonzero(fold < len(models))
    chosen = _INVERSE_PENALTIES[0]
    for inverse in _INVERSE_PENALTIES:
        scores = _out_of_fold(models, part, given, fold, num_classes, inverse)
        loss = -np.mean(scores[judged, given[judged]])
        if loss >= best:
            break
        best, found, chosen = loss, scores, inverse
    if not is_large:
        scores = np.empty_like(found)
        scores[sample] = found
        return scores
    fold = _folds(labels, generator)
    return _out_of_fold(_regressions(), features, labels, fold, num_classes, chosen)


def _rotated(features: np.ndarray) -> np.ndarray:
    """The rows in at most N dimensions of equal inner products, so with the same penalised fit."""
    if len(features) >= features.shape[1]:
        return features
    with threadpool_limits(1, user_api="blas"):
        values, vectors = np.linalg.eigh((features @ features.T).astype(np.float64))
    kept = values > 1e-7 * values[-1]
    return (vectors[:, kept] * np.sqrt(values[kept])).astype(np.float32)


def _folds(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Fold `[N]` of each row: every class is spread evenly, even one of two rows."""
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), int)
    fold[order] = np.arange(len(labels)) % _NUM_FOLDS
    return fold


def _regressions() -> list[LogisticRegression]:
    return [LogisticRegression(max_iter=100, tol=1e-3, warm_start=True) for _ in range(_NUM_FOLDS)]


def _out_of_fold(models, features, labels, fold, num_classes, inverse_penalty) -> np.ndarray:
    scores = np.full((len(labels), num_classes), LEAST_LOG_PROB, np.float32)
    for k, model in enumerate(models):
        rest, held_out = fold != k, np.flatnonzero(fold == k)
        if not len(held_out):
            continue
        model.C = inverse_penalty
        classes = np.unique(labels[rest])
        if len(classes) < 2:
            scores[np.ix_(held_out, classes)] = 0.0
            continue
        with warnings.catch_warnings(), threadpool_limits(2, user_api="blas"):
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(features[rest], labels[rest])
        logits = model.decision_function(features[held_out])
        logits = np.stack([-logits / 2, logits / 2], axis=1) if logits.ndim == 1 else logits
        logits = logits - logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        scores[np.ix_(held_out, model.classes_)] = np.maximum(logits, LEAST_LOG_PROB)
    return scores


def neighbor_scores(
    features: np.ndarray, labels: np.ndarray, num_classes: int, *, seed: int
) -> np.ndarray:
    """Log vote shares of the nearest rows by cosine similarity, excluding the row itself.

    The number of neighbours, 10, 20 or 50, is the one with the lowest out-of-sample cross-entropy.

    Args:
      features: float32 `[N, D]`, standardised; with more than 128 dimensions, the first 128
        principal components are used.
      labels: int `[N]` in `0..C-1`.
      num_classes: C.
      seed: random seed of the components.

    Returns:
      float32 `[N, C]`.
    """
    num_rows = len(labels)
    if min(features.shape) > _NUM_COMPONENTS:
        pca = PCA(_NUM_COMPONENTS, svd_solver="randomized", random_state=seed)
        features = pca.fit_transform(features)
    similarities, neighbors = most_similar(features, max(_NUM_NEIGHBORS))
    similarities, most = np.maximum(similarities, 0).astype(np.float32), neighbors.shape[1]
    rows, best, found = np.arange(num_rows), np.inf, np.zeros(0)
    for k in dict.fromkeys(min(k, most) for k in _NUM_NEIGHBORS):
        votes = np.full((num_rows, num_classes), 1 / num_classes, np.float32)
        for j in range(k):
            votes[rows, labels[neighbors[:, j]]] += similarities[:, j]
        scores = np.log(votes / votes.sum(axis=1, keepdims=True))
        loss = -scores[rows, labels].mean()
        if loss < best:
            best, found = loss, scores
    return np.maximum(found, LEAST_LOG_PROB)


def fourier_features(features: np.ndarray, *, seed: int) -> np.ndarray:
    """Random Fourier features of a Gaussian kernel, which give a linear judge nonlinear boundaries.

        [cos(X W), sin(X W)],    W of normal entries over the median distance of rows

    Args:
      features: float32 `[N, D]`, standardised.
      seed: random seed of W.

    Returns:
      float32 `[N, F]`, with F at most 1,024, and about N for fewer rows.

    References:
      Rahimi and Recht, "Random Features for Large-Scale Kernel Machines", NeurIPS 2007.
    """
    generator = np.random.default_rng(seed)
    num_rows, num_dimensions = features.shape
    some = features[generator.permutation(num_rows)[:300]]
    squares = np.square(some).sum(axis=1)
    distances = squares[:, None] + squares[None] - 2 * some @ some.T
    distances = distances[np.triu_indices(len(some), 1)]
    median = np.median(distances[distances > 1e-6]) if (distances > 1e-6).any() else 1.0
    count = max(min(_NUM_FREQUENCIES, num_rows // 2), 2)
    weights = generator.standard_normal((num_dimensions, count)) * np.sqrt(2 / median)
    angles = features @ weights.astype(np.float32)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
