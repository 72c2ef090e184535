"""What a run reports, as fractions in [0, 1]. Host code on NumPy arrays unless said otherwise."""

import jax
import jax.numpy as jnp
import numpy as np


def topk_accuracy(
    logits: jax.typing.ArrayLike, labels: jax.typing.ArrayLike, k: int = 1
) -> jax.Array:
    """Whether the label is among the k highest logits. Can be jitted with static `k`.

    Args:
      logits: [B, C], or probabilities. Of equal ones the lower class counts as higher.
      labels: int [B]. A label outside 0..C-1, or whose own logit is NaN, is never hit.
      k: how many classes may be named, 1 <= k <= C.

    Returns:
      float32 [B] of zeros and ones.

    Raises:
      ValueError: on shapes other than [B, C] and [B], or a k outside 1..C.
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits must be [B, C] and labels [B]; got {logits.shape} and {labels.shape}."
        )
    if not 1 <= k <= logits.shape[1]:
        raise ValueError(f"k={k} must lie between 1 and the {logits.shape[1]} classes.")
    classes = jnp.arange(logits.shape[1], dtype=labels.dtype)[None]
    labels = labels[:, None]
    of_label = jnp.max(logits, axis=1, keepdims=True, where=classes == labels, initial=-jnp.inf)
    # Counted by what is below: NaN is below nothing, so a diverged network scores 0, not 1.
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
      probs: [n, C], predicted probabilities; float64 decides the bin.
      labels: int [n].
      num_bins: how many bins.

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
    # Not ceil(confidence * num_bins), whose rounding puts 0.7 of ten bins into (0.7, 0.8].
    bins = np.searchsorted(np.arange(1, num_bins) / num_bins, confidence, side="left")
    return float(np.abs(np.bincount(bins, weights=gap)).sum() / labels.size)


def query_precision(is_known_selected: np.typing.ArrayLike) -> float:
    """Share of the queried examples that turned out to be of a known class.

    Args:
      is_known_selected: bool, one per queried example.

    Returns:
      A number in [0, 1]; 0 for an empty query.
    """
    is_known = np.asarray(is_known_selected, bool)
    return _ratio(is_known.sum(), is_known.size)


def query_recall(num_labeled_known: int, num_known_selected: int, num_known_in_pool: int) -> float:
    """Share of all examples of known classes that are labelled after the query.

    `(labelled + selected) / (labelled + in pool)`.

    Args:
      num_labeled_known: labelled examples of known classes before the query.
      num_known_selected: examples of known classes in the query.
      num_known_in_pool: examples of known classes in the pool before the query.

    Returns:
      A number in [0, 1]; 0 if there are none.

    References:
      Ning et al., "Active Learning for Open-set Annotation", CVPR 2022 (LfOSA), section 4.
    """
    return _ratio(num_labeled_known + num_known_selected, num_labeled_known + num_known_in_pool)


def detection_scores(
    predicted: np.typing.ArrayLike, truth: np.typing.ArrayLike
) -> tuple[float, float, float]:
    """Precision, recall and F1 of a detector.

    Args:
      predicted: bool [n], what was flagged.
      truth: bool [n], what should have been.

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
        _ratio(hits, predicted.sum()),
        _ratio(hits, truth.sum()),
        _ratio(2 * hits, predicted.sum() + truth.sum()),
    )


def auroc(scores: np.typing.ArrayLike, positives: np.typing.ArrayLike) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties counting half.

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
    return _ratio(wins, num_positive * (positives.size - num_positive))


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else 0.0
