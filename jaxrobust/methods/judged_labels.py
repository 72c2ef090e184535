"""Labels judged on features without training a network: `method="auto"`, SimiFeat and WANN."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxrobust.recipes.methods import JUDGES
from jaxrobust.selection import judges
from jaxrobust.selection.neighbor_detectors import NeighborVotes
from jaxrobust.selection.wrong_labels import WrongLabels, find_wrong_labels, no_wrong_labels

log = logging.getLogger("jaxrobust")


def judged_by(
    name: str, features: np.ndarray, labels: np.ndarray, num_classes: int, *, seed: int
) -> tuple[WrongLabels | NeighborVotes, dict[str, Any]]:
    """The verdict of the judges (`"auto"`) or a detector, and facts as in `judge_labels`."""
    if name == "auto" or _is_too_little(labels, num_classes):
        return judge_labels(features, labels, num_classes, seed=seed)
    return JUDGES[name](features, labels, num_classes), {}


def judge_labels(
    features: np.ndarray, labels: np.ndarray, num_classes: int, *, seed: int = 0
) -> tuple[WrongLabels, dict[str, Any]]:
    """Finds wrong labels of features with several judges that do not see the label they judge.

    The judges are leave-one-out ridge regression, five-fold logistic regression, nearest
    neighbours, and ridge regression on random Fourier features; `find_wrong_labels` weights them by
    how well they predict the given labels.

    Args:
      features: floats `[N, D]`, finite, of any scale.
      labels: int `[N]` in `0..C-1`. If there is only one class, or fewer than four labels, all
        count as correct.
      num_classes: C.
      seed: random seed of folds and random features.

    Returns:
      (`WrongLabels`, JSON-able facts for people: see `facts_of`).
    """
    if _is_too_little(labels, num_classes):
        wrong = no_wrong_labels(labels, num_classes)
        return wrong, facts_of(wrong, len(labels))
    rows = judges.standardized(features)
    by_name: dict[str, Callable[[], np.ndarray | None]] = {
        "ridge": lambda: judges.ridge_scores(rows, labels, num_classes),
        "logistic": lambda: judges.logistic_scores(rows, labels, num_classes, seed=seed),
        "neighbors": lambda: judges.neighbor_scores(rows, labels, num_classes, seed=seed),
        "kernel_ridge": lambda: judges.ridge_scores(
            judges.standardized(judges.fourier_features(rows, seed=seed)), labels, num_classes
        ),
    }
    found = {name: scores for name, judge in by_name.items() if (scores := judge()) is not None}
    wrong = find_wrong_labels(np.stack(list(found.values())), labels)
    agreement = {name: float(np.mean(s.argmax(axis=1) == labels)) for name, s in found.items()}
    facts = facts_of(wrong, len(labels))
    facts["judges"] = {
        name: {"weight": round(float(weight), 3), "agreement": round(agreement[name], 4)}
        for (name, weight) in zip(found, wrong.weights, strict=True)
    }
    log.info("%s", describe(facts))
    return wrong, facts


def _is_too_little(labels: np.ndarray, num_classes: int) -> bool:
    """Whether there are too few labels to compare."""
    return num_classes < 2 or len(labels) < 4


def judged_columns(
    features: np.ndarray, labels: np.ndarray, num_classes: int, *, seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """`judge_labels` as columns `clean_prob`, `suggested` and `flagged` of `[N]`, and its facts."""
    wrong, facts = judge_labels(features, labels, num_classes, seed=seed)
    suggested = wrong.probs.argmax(axis=1).astype(np.int32)
    clean_prob = (1 - wrong.wrong_prob).astype(np.float32)
    return {"clean_prob": clean_prob, "suggested": suggested, "flagged": wrong.flagged}, facts


def facts_of(wrong: WrongLabels, num_labels: int) -> dict[str, Any]:
    """JSON-able facts about the number of wrong labels, for `summary` and reports.

    Keys: `expected_wrong`, the sum of the probabilities of being wrong; `expected_wrong_interval`
    of about 90 %; `mistakes`, as `WrongLabels.kind`; `agreement`, the share of labels that the
    combined judges predict out of sample, which is not an accuracy, since labels may be wrong.
    """
    low, high = wrong.interval
    return {
        "num_labels": num_labels,
        "expected_wrong": round(wrong.num_wrong, 1),
        "expected_wrong_interval": [int(np.floor(low)), int(np.ceil(high))],
        "mistakes": wrong.kind,
        "agreement": round(wrong.agreement, 4),
    }


def describe(facts: dict[str, Any]) -> str:
    """One sentence on the number of wrong labels."""
    low, high = facts["expected_wrong_interval"]
    return (
        f"about {facts['expected_wrong']:.0f} of {facts['num_labels']:,} labels are expected to be "
        f"wrong ({low} to {high})"
    )
