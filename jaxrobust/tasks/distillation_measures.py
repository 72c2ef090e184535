"""Measures and figures of a distillation run, for images with one label and with several."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from jaxrobust import metrics
from jaxrobust.engine.plan import pad
from jaxrobust.recipes.methods import DISTILLERS, MULTILABEL_DISTILLERS
from jaxrobust.recipes.registry import Registry
from jaxrobust.report import figures
from jaxrobust.tasks.common import best_of

NUM_NEIGHBORS = 5
MAX_RETRIEVED = 5000  # among so many images neighbours are looked for, which takes their square


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What differs between images with one label and with several.

    Attributes:
      labels: "one label" or "several labels", for messages.
      distillers: methods by name.
      labels_only: name of the method that teachers are trained by.
      measures: `(logits [n, C], labels [n] or [n, C]) -> scores`, as fractions.
      headline: name of the measure that decides which epoch is the best.
      others: other measures that are logged -> their titles.
      probabilities: of logits `[n, C]`.
      draw_curves: `({label: [results]}, path)`, the figure of all epochs.
      diagnoses: whether the gradients of the losses are compared in every epoch.
      compares: whether the trained networks are compared by `multilabel_comparison`.
    """

    labels: str
    distillers: Registry
    labels_only: str
    measures: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    headline: str
    others: Mapping[str, str]
    probabilities: Callable[[np.ndarray], np.ndarray | jax.Array]
    draw_curves: Callable[[Mapping[str, Sequence[dict]], pathlib.Path], None]
    diagnoses: bool
    compares: bool

    def describe(self, measures: Mapping[str, float]) -> str:
        """Measures in words, in percent."""
        shown = {self.headline: self.headline, **self.others}
        return ", ".join(f"{title} {100 * measures[name]:.2f} %" for name, title in shown.items())

    def best(self, epochs: Sequence[Mapping[str, float]]) -> dict:
        """The first epoch with the highest headline."""
        return best_of(epochs, self.headline, "epoch")


def single_label_measures(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, of more than five classes among the first five too, and calibration error."""
    values = {"accuracy": _hits(logits, labels, 1)}
    if logits.shape[1] > 5:
        values["top5_accuracy"] = _hits(logits, labels, 5)
    probs = _softmax(logits)
    values["ece"] = metrics.expected_calibration_error(probs, labels)
    return values


def _softmax(logits: np.ndarray) -> np.ndarray:
    return np.asarray(jax.nn.softmax(pad(logits)))[: len(logits)]


def _hits(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    hits = np.asarray(metrics.topk_accuracy(pad(logits), pad(labels), k))
    return float(np.mean(hits[: len(logits)], dtype=np.float64))


def multilabel_measures(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """mAP, and F1 with as many labels per image as it truly has and with those above 1/2."""
    oracle = metrics.multilabel_f1(metrics.oracle_topk_predictions(logits, targets), targets)
    threshold = metrics.multilabel_f1(logits > 0, targets)
    return {
        "mAP": metrics.mean_average_precision(logits, targets),
        **oracle,
        **{f"{name}_at_half": value for name, value in threshold.items()},
    }


def multilabel_comparison(
    probs: Mapping[str, np.ndarray], pooled: Mapping[str, np.ndarray], targets: np.ndarray
) -> dict[str, float]:
    """L2D's analysis of predictions `[n, C]` and pooled features `[m, D]`, both by role.

    `neighbor_precision_student` and `neighbor_precision_teacher`, of 5 neighbours;
    `class_correlation_difference`, the mean absolute difference between the networks'
    `metrics.class_correlation` of two different classes. Measures of too few images are left out.
    """
    values = {}
    if len(targets) > NUM_NEIGHBORS:
        for role, features in pooled.items():
            precision = metrics.neighbor_precision(features, targets, NUM_NEIGHBORS)
            values[f"neighbor_precision_{role}"] = precision
    if len(probs) == 2 and len(probs["student"]) > 1:
        student, teacher = (metrics.class_correlation(probs[role]) for role in probs)
        num_classes = len(student)
        total = np.sum(np.abs(student - teacher))
        values["class_correlation_difference"] = total / (num_classes * (num_classes - 1))
    return {name: float(value) for name, value in values.items()}


SINGLE_LABEL = Protocol(
    labels="one label",
    distillers=DISTILLERS,
    labels_only="cross_entropy",
    measures=single_label_measures,
    headline="accuracy",
    others={"ece": "calibration error"},
    probabilities=_softmax,
    draw_curves=figures.distillation_curves,
    diagnoses=True,
    compares=False,
)
MULTILABEL = Protocol(
    labels="several labels",
    distillers=MULTILABEL_DISTILLERS,
    labels_only="bce",
    measures=multilabel_measures,
    headline="mAP",
    others={"OF1": "OF1", "CF1": "CF1"},
    probabilities=jax.nn.sigmoid,
    draw_curves=figures.multilabel_curves,
    diagnoses=False,
    compares=True,
)
