"""Whether further annotation pays off: the gain from the last queries, and the expected next gain.

Both are accuracy differences in percentage points with a standard error, also in words, for
deciding when to stop.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrobust.selection import leading_components, leave_one_out_scores

_NUM_QUERIES = 2
_NUM_DRAWS = 10
_NUM_COMPONENTS = 64
_FEWEST = 10  # examples per class, below which half of them say nothing


def of_last_queries(rounds: Sequence[Mapping[str, Any]], num_tested: int) -> dict[str, Any] | None:
    """The gain from the last two queries of a run, from `rounds` of `results.json`.

    `points`, the accuracy now minus that before these queries, in percent; `error`, its standard
    error if the two accuracies were independent, `100 sqrt((a (1 - a) + b (1 - b)) / n)`, which is
    too large since both are of the same images; `text`. None before two queries, or without test
    images.
    """
    tested = [r for r in rounds if "accuracy" in r]
    if len(tested) <= _NUM_QUERIES or not num_tested:
        return None
    before, now = tested[-1 - _NUM_QUERIES], tested[-1]
    accuracies = np.array([before["accuracy"], now["accuracy"]])
    error = 100 * math.sqrt(np.sum(accuracies * (1 - accuracies)) / num_tested)
    return _told(100 * (accuracies[1] - accuracies[0]), error, _num_labeled(now, before))


def over_seeds(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """`of_last_queries` of several seeds: the mean, and its standard error over the seeds."""
    gains = [run["last_queries"] for run in runs if run.get("last_queries")]
    if len(gains) < 2:
        return None
    points = np.array([gain["points"] for gain in gains])
    error = float(points.std(ddof=1) / math.sqrt(len(points)))
    return _told(float(points.mean()), error, round(np.mean([gain["size"] for gain in gains])))


def _num_labeled(now: Mapping[str, Any], before: Mapping[str, Any]) -> int:
    """Images that a query between two rounds had on average."""
    names = ("num_labeled_known", "num_labeled_unknown")
    return round(sum(now[name] - before[name] for name in names) / _NUM_QUERIES)


def _told(points: float, error: float, size: int) -> dict[str, Any]:
    text = f"the last two queries of {size} brought {points:.1f} ± {error:.1f} points"
    if points < 2 * error:
        text += ", which may be chance"
    return {"points": float(points), "error": float(error), "size": int(size), "text": text}


def of_next_query(
    features: np.ndarray, labels: np.ndarray, num_classes: int, *, num_more: float, seed: int = 0
) -> dict[str, Any] | None:
    """The expected gain from more examples of known classes, estimated from the annotated ones.

    With a(n) the leave-one-out accuracy of a ridge regression on n examples, the gain is

        (a(n) - a(n / 2)) log2(1 + num_more / n),

    which assumes that every doubling brings the same gain. a(n / 2) is the mean over ten random
    halves, stratified by class.

    Args:
      features: floats `[n, D]` of the annotated examples of known classes; 64 principal components
        of them are used.
      labels: int `[n]`, 0..K-1.
      num_classes: K.
      num_more: expected examples of known classes in the next query.
      seed: draws the halves.

    Returns:
      `points` in percent; `error`, from the binomial error of a(n), counting one more wrong and one
      more correct example, and the deviation of the halves; `accuracy` and `accuracy_of_half` in
      percent; `text`. None if a class has fewer than ten examples.
    """
    counts = np.bincount(labels, minlength=num_classes)
    if num_classes < 2 or counts.min() < _FEWEST:
        return None
    features = leading_components(np.asarray(features, np.float32), _NUM_COMPONENTS)
    rng = np.random.default_rng(seed)

    def accuracy(ids):
        scores = leave_one_out_scores(features[ids], labels[ids], num_classes=num_classes)
        return float(np.mean(scores.argmax(axis=1) == labels[ids]))

    def half():
        parts = [rng.permutation(np.flatnonzero(labels == c)) for c in range(num_classes)]
        return np.sort(np.concatenate([part[: len(part) // 2] for part in parts]))

    size, whole = len(labels), accuracy(np.arange(len(labels)))
    halves = np.array([accuracy(half()) for _ in range(_NUM_DRAWS)])
    doublings = math.log2(1 + num_more / size)
    wrong = (size * (1 - whole) + 1) / (size + 2)  # not 0 where all of few are right
    variance = wrong * (1 - wrong) / size + halves.var(ddof=1) / _NUM_DRAWS
    points, error = (100 * doublings * x for x in (whole - halves.mean(), math.sqrt(variance)))
    text = (
        f"a linear classifier of the {size} annotated examples of known classes has an accuracy "
        f"of {100 * whole:.1f} % on those left out, with half of them {100 * halves.mean():.1f} %; "
        f"the next query, of which about {num_more:.0f} are known, is likely to bring "
        f"{points:.1f} ± {error:.1f} points"
    )
    return {
        "points": points,
        "error": error,
        "accuracy": 100 * whole,
        "accuracy_of_half": 100 * float(halves.mean()),
        "text": text,
    }
