"""What a noisy-label run measures and reports: facts about the labels, results, last lines."""

import hashlib
import json
import logging
import pathlib
from typing import Any

import jax
import numpy as np

from jaxrobust import metrics
from jaxrobust.data.dataset import Dataset, FileDataset, fingerprint
from jaxrobust.data.features import FeatureDataset, MeansOfViews
from jaxrobust.data.noise import transition_matrix
from jaxrobust.methods.judged_labels import describe
from jaxrobust.recipes.protocols import NoisyLabels
from jaxrobust.review.health import FINDINGS
from jaxrobust.selection import estimate_num_wrong, leave_one_out_scores
from jaxrobust.tasks.common import next_command
from jaxrobust.tasks.noisy_label_files import summary

log = logging.getLogger("jaxrobust")

_MANY_CLASSES = 20  # above which the five most probable classes are measured too


def noise_facts(
    recipe: NoisyLabels, dataset: Any, labels: np.ndarray, true_labels: np.ndarray | None
) -> dict[str, Any]:
    """What `noise.json` says of the labels that a run sees; they are right where nobody knows."""
    noise, clean = recipe.noise, labels if true_labels is None else true_labels
    return {
        "kind": noise.kind,
        "rate": noise.rate,
        "seed": noise.seed if noise.seed >= 0 else recipe.seed,
        "realised_rate": float(np.mean(labels != clean)),
        "num_wrong": int(np.sum(labels != clean)),
        "labels_sha256": hashlib.sha256(labels.astype("<i4").tobytes()).hexdigest(),
        "dataset_sha256": fingerprint(dataset),
        "class_names": list(dataset.class_names),
        "transition": transition_matrix(clean, labels, dataset.num_classes).tolist(),
    }


def measures(probs: np.ndarray, labels: np.ndarray, prefix: str, suffix: str) -> dict[str, float]:
    """Accuracy and calibration error of predictions `[n, C]`."""
    values = {f"{prefix}accuracy{suffix}": _mean_hits(probs, labels, 1)}
    if probs.shape[1] > _MANY_CLASSES:
        values[f"{prefix}top5_accuracy{suffix}"] = _mean_hits(probs, labels, 5)
    error = metrics.expected_calibration_error(probs, labels)
    return values | {f"{prefix}ece{suffix}": error}


def _mean_hits(probs: np.ndarray, labels: np.ndarray, k: int) -> float:
    return float(np.mean(np.asarray(metrics.topk_accuracy(probs, labels, k)), dtype=np.float64))


def results_of(epochs: list[dict], workdir: pathlib.Path) -> dict[str, Any]:
    """The noise, the summary and the epochs in `results.json`."""
    noise = json.loads((workdir / "noise.json").read_text())
    names = ("kind", "rate", "realised_rate", "labels_sha256")
    return {"noise": {k: noise[k] for k in names}, **summary(epochs), "epochs": epochs}


def last_lines(
    results: dict[str, Any], workdir: pathlib.Path, page: pathlib.Path | None, seconds: float
) -> list[str]:
    """What a finished run says: its measures, and where its files are."""
    lines = [f"{seconds:.0f} s in total"]
    if "accuracy" in results["last"]:
        tail = results["last_epochs"]
        lines = [
            f"mean of the last {tail['num']} epochs: accuracy {100 * tail['accuracy']:.2f} %, "
            f"calibration error {100 * tail['ece']:.2f} %; {lines[0]}",
        ]
    if found := results["last"].get("labels"):
        if "recall" in found:
            lines.append(
                f"wrong labels after the last epoch: {100 * found['recall']:.1f} % found, "
                f"{100 * found['precision']:.1f} % of those flagged are wrong"
            )
    if "label_counts" in results:
        lines.append(describe(results["label_counts"]))
    if undivided := results.get("undivided_passes"):
        lines.append(
            f"in {undivided} passes after the warm-up, {results['method']} could not divide the "
            "labels, since too few looked wrong, and trained on all of them"
        )
    return [
        *lines,
        f"results: {workdir / 'results.json'}",
        f"every label, the most suspicious first: {workdir / 'label_quality.csv'}",
        *([f"page for reviewing them: {page}"] if page else []),
        f"duplicates and outliers: {workdir / FINDINGS}",
        f"classifier, for jaxrobust predict: {workdir / 'classifier'}",
        f"figures: {workdir / 'figures'}",
        next_command(workdir),
    ]


def estimate_before_training(
    dataset: Dataset | FeatureDataset | FileDataset, labels: np.ndarray
) -> float:
    """How many labels of features are wrong, by out-of-sample scores; NaN of images."""
    if not isinstance(dataset, FeatureDataset):
        return float("nan")
    features = MeansOfViews(dataset.train)
    scores = leave_one_out_scores(features, labels, num_classes=dataset.num_classes)
    num_wrong = float(jax.jit(estimate_num_wrong)(scores, labels))
    log.info(
        "Training divides the labels assuming that %.0f of %d are wrong", num_wrong, len(labels)
    )
    return num_wrong
