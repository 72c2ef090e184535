"""Metrics, computed on the host with NumPy. Fractions in [0, 1]; 0/0 counts as 0."""

import numpy as np


def average_precision(scores: np.typing.ArrayLike, targets: np.typing.ArrayLike) -> float:
    """Average precision of a ranking, without interpolation.

        sum_k (R_k - R_{k-1}) P_k

    with precision P_k and recall R_k at the k-th distinct score, from the highest down. Equal
    scores are one threshold. Neither the 11-point nor the interpolated AP of PASCAL VOC.

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
    is_last_of_tie = np.append(np.diff(scores[order]) != 0, True)
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
    """Predicts for each example as many labels as it truly has: those with the highest scores.

    A label is predicted if its score is above the (k + 1)-th largest of the row, k being the true
    number of labels. A tie at that place predicts fewer than k. The true numbers are information
    that a deployed model lacks: figures are not comparable to those at a fixed threshold.

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

    def ratio(numerator, denominator):
        return numerator / np.where(denominator == 0, 1, denominator)

    class_precision = np.mean(ratio(hits, predicted))
    class_recall = np.mean(ratio(hits, actual))
    results = {
        "OP": ratio(hits.sum(), predicted.sum()),
        "OR": ratio(hits.sum(), actual.sum()),
        "OF1": ratio(2 * hits.sum(), predicted.sum() + actual.sum()),
        "CP": class_precision,
        "CR": class_recall,
        "CF1": np.mean(ratio(2 * hits, predicted + actual)),
        "CF1_harmonic": ratio(2 * class_precision * class_recall, class_precision + class_recall),
    }
    return {name: float(value) for name, value in results.items()}


def _checked_matrices(
    values: np.typing.ArrayLike, targets: np.typing.ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    values, targets = np.asarray(values), np.asarray(targets)
    if values.ndim != 2 or values.shape != targets.shape:
        raise ValueError(
            f"expected two [n, C] arrays of one shape, got {values.shape} and {targets.shape}."
        )
    return values, targets
