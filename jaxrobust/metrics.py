"""Metrics, as fractions in [0, 1]; host code on NumPy arrays unless stated otherwise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def topk_accuracy(
    logits: jax.typing.ArrayLike, labels: jax.typing.ArrayLike, k: int = 1
) -> jax.Array:
    """Whether the label is among the k highest logits. Can be jitted with static `k`.

    Args:
      logits: [B, C], or probabilities. Of equal values, the lower class ranks higher.
      labels: int [B]. A label outside 0..C-1, or whose own logit is NaN, is never hit.
      k: number of classes, 1 <= k <= C.

    Returns:
      float32 [B] of zeros and ones.

    Raises:
      ValueError: on shapes other than [B, C] and [B], or a k outside 1..C.
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels).astype(jnp.int32)
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits must be [B, C] and labels [B]; got {logits.shape} and {labels.shape}."
        )
    if not 1 <= k <= logits.shape[1]:
        raise ValueError(f"k={k} must lie between 1 and the {logits.shape[1]} classes.")
    return _hits(logits, labels, k)


@functools.partial(jax.jit, static_argnames="k")  # one program instead of one per operation
def _hits(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
    classes = jnp.arange(logits.shape[1], dtype=jnp.int32)[None]
    labels = labels[:, None]
    of_label = jnp.max(logits, axis=1, keepdims=True, where=classes == labels, initial=-jnp.inf)
    # Logits below are counted: NaN is not below, so a diverged network scores 0, not 1.
    below = (logits < of_label) | ((logits == of_label) & (classes >= labels))
    in_range = (labels[:, 0] >= 0) & (labels[:, 0] < logits.shape[1])
    hit = jnp.sum(~below, axis=1) < k
    return (hit & in_range).astype(jnp.float32)


def expected_calibration_error(
    probs: np.typing.ArrayLike, labels: np.typing.ArrayLike, *, num_bins: int = 10
) -> float:
    """Mean gap between confidence and accuracy, over equal bins of confidence.

    `sum_b (n_b / n) |accuracy_b - confidence_b|`, where bin b holds the predictions whose largest
    probability lies in (b / num_bins, (b + 1) / num_bins]. Empty bins add 0.

    Args:
      probs: [n, C], predicted probabilities; bins are assigned in float64.
      labels: int [n].
      num_bins: number of bins; the default is that of DPC's Figure 2a.

    Returns:
      A number in [0, 1]; 0 for no examples.

    Raises:
      ValueError: on shapes other than [n, C] and [n], or fewer than one bin.

    References:
      Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
    """
    probs, labels = np.asarray(probs, np.float64), np.asarray(labels)
    if probs.ndim != 2 or labels.shape != probs.shape[:1]:
        raise ValueError(
            f"probs must be [n, C] and labels [n]; got {probs.shape} and {labels.shape}."
        )
    if num_bins < 1:
        raise ValueError(f"num_bins={num_bins} must be at least 1.")
    if not labels.size:
        return 0.0
    confidence = probs.max(axis=1)
    gap = (probs.argmax(axis=1) == labels) - confidence
    bins = _confidence_bins(confidence, num_bins)
    return float(np.abs(np.bincount(bins, weights=gap)).sum() / labels.size)


def reliability_bins(
    confidence: np.typing.ArrayLike, hits: np.typing.ArrayLike, *, num_bins: int = 10
) -> dict[str, np.ndarray]:
    """The bins of a reliability diagram: accuracy by confidence, in equal bins of confidence.

    Args:
      confidence: [n], predicted probabilities.
      hits: bool or {0, 1} [n], whether the prediction is right.
      num_bins: number of bins; bin b is (b / num_bins, (b + 1) / num_bins].

    Returns:
      Arrays [num_bins]: `count`, and the means `confidence` and `accuracy`, 0 in empty bins.
    """
    confidence = np.asarray(confidence, np.float64)
    bins = _confidence_bins(confidence, num_bins)
    count = np.bincount(bins, minlength=num_bins)

    def mean(values):
        return _ratio(np.bincount(bins, values, num_bins), count)

    return {"count": count, "confidence": mean(confidence), "accuracy": mean(np.asarray(hits))}


def _confidence_bins(confidence: np.ndarray, num_bins: int) -> np.ndarray:
    # Not ceil(confidence * num_bins), whose rounding puts 0.7 of ten bins into (0.7, 0.8].
    return np.searchsorted(np.arange(1, num_bins) / num_bins, confidence, side="left")


def confusion_matrix(
    predicted: np.typing.ArrayLike, labels: np.typing.ArrayLike, num_classes: int
) -> np.ndarray:
    """Number of examples for each pair of a true and a predicted class.

    Args:
      predicted: int [n].
      labels: int [n].
      num_classes: C.

    Returns:
      int64 [C, C], a row per true class and a column per predicted one.
    """
    pairs = np.asarray(labels, np.int64) * num_classes + np.asarray(predicted, np.int64)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def query_precision(is_known_selected: np.typing.ArrayLike) -> float:
    """Fraction of the queried examples that are of a known class.

    Args:
      is_known_selected: bool, one per queried example.

    Returns:
      A number in [0, 1]; 0 for an empty query.

    References:
      Zong et al., "Bidirectional Uncertainty-Based Active Learning for Open-Set Annotation",
      ECCV 2024 (BUAL), where it is the recognition rate of one query.
    """
    is_known = np.asarray(is_known_selected, bool)
    return float(_ratio(is_known.sum(), is_known.size))


def query_recall(num_labeled_known: int, num_known_selected: int, num_known_in_pool: int) -> float:
    """Fraction of all examples of known classes that are labelled after the query.

    `(labelled + selected) / (labelled + in pool)`.

    Args:
      num_labeled_known: labelled examples of known classes before the query.
      num_known_selected: examples of known classes in the query.
      num_known_in_pool: examples of known classes in the pool before the query.

    Returns:
      A number in [0, 1]; 0 if there are none.

    References:
      Ning et al., "Active Learning for Open-set Annotation", CVPR 2022 (LfOSA).
    """
    total = num_labeled_known + num_known_in_pool
    return float(_ratio(num_labeled_known + num_known_selected, total))


def detection_scores(
    predicted: np.typing.ArrayLike, truth: np.typing.ArrayLike
) -> tuple[float, float, float]:
    """Precision, recall and F1 of a detector.

    Args:
      predicted: bool [n], flagged examples.
      truth: bool [n], positive examples.

    Returns:
      (precision, recall, f1); a ratio without a denominator is 0.

    Raises:
      ValueError: on shapes that differ.
    """
    predicted, truth = np.asarray(predicted, bool), np.asarray(truth, bool)
    if predicted.shape != truth.shape:
        raise ValueError(
            f"predicted {predicted.shape} and truth {truth.shape} must have one shape, [n]."
        )
    hits = (predicted & truth).sum()
    return (
        float(_ratio(hits, predicted.sum())),
        float(_ratio(hits, truth.sum())),
        float(_ratio(2 * hits, predicted.sum() + truth.sum())),
    )


def auroc(scores: np.typing.ArrayLike, positives: np.typing.ArrayLike) -> float:
    """Area under the ROC curve: how often a positive scores above a negative; ties count half.

    Args:
      scores: [n], high = positive.
      positives: bool [n].

    Returns:
      A number in [0, 1]; 0 if there are no positives or no negatives.

    Raises:
      ValueError: on shapes that differ, or a NaN among the scores.
    """
    scores, positives = np.asarray(scores, np.float64), np.asarray(positives, bool)
    if scores.ndim != 1 or scores.shape != positives.shape:
        raise ValueError(f"scores {scores.shape} and positives {positives.shape} must both be [n].")
    if np.isnan(scores).any():
        raise ValueError("scores contain NaN, which has no rank.")
    _, level, count = np.unique(scores, return_inverse=True, return_counts=True)
    below = np.cumsum(count) - count
    rank = (below + (count - 1) / 2)[level]
    num_positive = positives.sum()
    wins = rank[positives].sum() - num_positive * (num_positive - 1) / 2
    return float(_ratio(wins, num_positive * (positives.size - num_positive)))


def _ratio(numerator: np.typing.ArrayLike, denominator: np.typing.ArrayLike) -> np.ndarray:
    """The ratio, 0 where the denominator is 0."""
    numerator, denominator = np.asarray(numerator), np.asarray(denominator)
    nothing = denominator == 0
    return np.where(nothing, 0.0, numerator / np.where(nothing, 1, denominator))


def average_precision(scores: np.typing.ArrayLike, targets: np.typing.ArrayLike) -> float:
    """Average precision of a ranking, without interpolation.

        sum_k (R_k - R_{k-1}) P_k

    with precision P_k and recall R_k at the k-th highest distinct score. Equal scores are one
    threshold. It is neither the 11-point nor the interpolated AP of PASCAL VOC.

    Args:
      scores: float [n]; any increasing transform gives the same result.
      targets: {0, 1} [n].

    Returns:
      Float in [0, 1]; 0 without positives.

    Raises:
      ValueError: if the arrays are not vectors of one length or a score is NaN.

    References:
      Yang et al., "Multi-Label Knowledge Distillation", ICCV 2023,
      https://arxiv.org/abs/2308.06453 (mAP, computed as scikit-learn does).
    """
    scores = np.asarray(scores, np.float64)
    targets = np.asarray(targets).astype(bool)
    if scores.ndim != 1 or scores.shape != targets.shape:
        raise ValueError(
            "scores and targets must be vectors of one length, "
            f"got shapes {scores.shape} and {targets.shape}."
        )
    if np.isnan(scores).any():
        raise ValueError("scores must not be NaN: a ranking needs comparable numbers.")
    num_positives = np.count_nonzero(targets)
    if num_positives == 0:
        return 0.0
    order = np.argsort(-scores)
    ranked = scores[order]
    is_last_of_tie = np.append(ranked[1:] != ranked[:-1], True)
    true_positives = np.cumsum(targets[order])[is_last_of_tie]
    precision = true_positives / (np.flatnonzero(is_last_of_tie) + 1)
    recall = true_positives / num_positives
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def mean_average_precision(scores: np.typing.ArrayLike, targets: np.typing.ArrayLike) -> float:
    """Mean of `average_precision` over all classes; a class without positives counts as 0.

    Args:
      scores: float [n, C].
      targets: {0, 1} [n, C].

    Returns:
      Float in [0, 1].

    Raises:
      ValueError: if the arrays are not matrices of one shape or a score is NaN.

    References:
      Yang et al., ICCV 2023, https://arxiv.org/abs/2308.06453 (mAP).
    """
    scores, targets = _checked_matrices(scores, targets)
    return float(np.mean([average_precision(*c) for c in zip(scores.T, targets.T, strict=True)]))


def oracle_topk_predictions(
    scores: np.typing.ArrayLike, targets: np.typing.ArrayLike
) -> np.ndarray:
    """Predicts, for each example, as many labels as it truly has: those with the highest scores.

    A label is predicted if its score is above the (k + 1)-th largest of the row, where k is the
    true number of labels; a tie there gives fewer than k. The true number is not available in
    deployment: results are not comparable to those at a fixed threshold.

    Args:
      scores: float [n, C].
      targets: {0, 1} [n, C].

    Returns:
      Int [n, C] of 0 and 1.

    Raises:
      ValueError: if the arrays are not matrices of one shape.

    References:
      Yang et al., ICCV 2023, https://arxiv.org/abs/2308.06453 (predictions behind OF1 and CF1;
      their code fails where all classes are present).
    """
    scores, targets = _checked_matrices(scores, targets)
    num_labels = np.count_nonzero(targets, axis=1)[:, None]
    has_all = num_labels == scores.shape[1]
    descending = np.sort(scores, axis=1)[:, ::-1]
    threshold = np.take_along_axis(descending, np.where(has_all, 0, num_labels), axis=1)
    return ((scores > threshold) | has_all).astype(np.int64)


def multilabel_f1(
    predictions: np.typing.ArrayLike, targets: np.typing.ArrayLike
) -> dict[str, float]:
    """Overall and per-class precision, recall and F1 of multi-label predictions.

    Args:
      predictions: {0, 1} [n, C], for example of `oracle_topk_predictions`, or `probs > 0.5`.
      targets: {0, 1} [n, C].

    Returns:
      Dict of floats in [0, 1]: `OP`, `OR`, `OF1` over all cells; `CP`, `CR`, `CF1`, the means over
      classes of their precision, recall and F1; `CF1_harmonic`, the harmonic mean of `CP` and `CR`,
      which much of the literature calls CF1.

    Raises:
      ValueError: if the arrays are not matrices of one shape.

    References:
      Yang et al., ICCV 2023, https://arxiv.org/abs/2308.06453 (OF1 and CF1).
    """
    predictions, targets = _checked_matrices(predictions, targets)
    predictions, targets = predictions.astype(bool), targets.astype(bool)
    hits = np.count_nonzero(predictions & targets, axis=0)
    predicted = np.count_nonzero(predictions, axis=0)
    actual = np.count_nonzero(targets, axis=0)
    class_precision = np.mean(_ratio(hits, predicted))
    class_recall = np.mean(_ratio(hits, actual))
    results = {
        "OP": _ratio(hits.sum(), predicted.sum()),
        "OR": _ratio(hits.sum(), actual.sum()),
        "OF1": _ratio(2 * hits.sum(), predicted.sum() + actual.sum()),
        "CP": class_precision,
        "CR": class_recall,
        "CF1": np.mean(_ratio(2 * hits, predicted + actual)),
        "CF1_harmonic": _ratio(2 * class_precision * class_recall, class_precision + class_recall),
    }
    return {name: float(value) for name, value in results.items()}


def class_correlation(probs: np.typing.ArrayLike) -> np.ndarray:
    """Pearson correlation between the predicted probabilities of each pair of classes.

    L2D compares the student's matrix with the teacher's, as a measure of how far the student has
    learned the teacher's relations between classes.

    Args:
      probs: floats [n, C], predictions for a test set, n >= 2.

    Returns:
      float64 [C, C]; 1 on the diagonal, and 0 elsewhere for a class whose probability is constant.

    Raises:
      ValueError: if `probs` is not a matrix of at least two rows.

    References:
      Yang et al., "Multi-Label Knowledge Distillation", ICCV 2023, arXiv 2308.06453, experiments.
    """
    probs = np.asarray(probs, np.float64)
    if probs.ndim != 2 or len(probs) < 2:
        raise ValueError(f"probs must be [n, C] with n >= 2; got shape {probs.shape}.")
    centred = probs - probs.mean(axis=0)
    norms = np.linalg.norm(centred, axis=0)
    unit = np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 0)
    correlation = unit.T @ unit
    np.fill_diagonal(correlation, 1)
    return correlation


def neighbor_precision(
    features: np.typing.ArrayLike, targets: np.typing.ArrayLike, k: int = 5
) -> float:
    """Mean fraction of an image's k nearest neighbours that share a label with it.

    Distances are Euclidean; ties go to the lower index. L2D shows such neighbours, found by pooled
    features, as pictures.

    Args:
      features: floats [n, D].
      targets: {0, 1} [n, C]. Images without labels are neighbours, but no queries.
      k: number of neighbours, 1 <= k < n.

    Returns:
      A number in [0, 1]; 0 if no image has a label.

    Raises:
      ValueError: if the shapes do not fit, or k is not in 1..n-1.

    References:
      Yang et al., ICCV 2023, arXiv 2308.06453, image retrieval by nearest neighbours.
    """
    features, targets = np.asarray(features, np.float64), np.asarray(targets) > 0
    if features.ndim != 2 or targets.ndim != 2 or len(features) != len(targets):
        raise ValueError(
            f"features and targets must be [n, D] and [n, C]; got {features.shape} and "
            f"{targets.shape}."
        )
    if not 1 <= k < len(features):
        raise ValueError(f"k={k} must lie between 1 and {len(features) - 1}.")
    shares = []
    squares = np.sum(features**2, axis=1)
    for i in np.flatnonzero(targets.any(axis=1)):
        distances = squares - 2 * features @ features[i]  # up to a constant
        distances[i] = np.inf
        nearest = np.argsort(distances, kind="stable")[:k]
        shares.append(np.mean(np.any(targets[nearest] & targets[i], axis=1)))
    return float(np.mean(shares)) if shares else 0.0


def _checked_matrices(
    values: np.typing.ArrayLike, targets: np.typing.ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    values, targets = np.asarray(values), np.asarray(targets)
    if values.ndim != 2 or values.shape != targets.shape:
        raise ValueError(
            f"expected two [n, C] arrays of one shape, got {values.shape} and {targets.shape}."
        )
    return values, targets
