"""Output files of a noisy-label run: a table of labels, figures, a summary."""

import dataclasses
import pathlib
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrobust import metrics
from jaxrobust.data.dataset import Dataset, FileDataset
from jaxrobust.data.features import FeatureDataset
from jaxrobust.data.tables import escape_formula
from jaxrobust.engine.files import format_number, write_table
from jaxrobust.methods.noisy_label_method import Method
from jaxrobust.report import figures
from jaxrobust.review import suspects
from jaxrobust.review.health import findings
from jaxrobust.tasks.common import best_of, write_test_files
from jaxrobust.tasks.images import ResidentFeatures, ResidentImages, StreamedImages

NUM_LAST = 10  # epochs in the mean that the papers report
REVIEW_PAGE = "label_review.html"
NUM_SHOWN = 60  # images on the contact sheet


@dataclasses.dataclass(frozen=True)
class JudgedLabels:
    """The labels of a training set, and what a method says about them."""

    given: np.ndarray  # int32 `[N]`
    true: np.ndarray | None  # int32 `[N]`; None where nobody knows them
    label_scores: Mapping[str, np.ndarray]  # of the method, `[N]` by name
    class_names: tuple[str, ...]  # of the C classes
    review: np.ndarray | None = None  # str `[N]`, as in `Reviewed`; None where nobody reviewed any

    @property
    def is_wrong(self) -> np.ndarray | None:
        """bool `[N]`; None where nobody knows."""
        return None if self.true is None else self.given != self.true

    def by_suspicion(self, score: str) -> np.ndarray:
        """Ids, those whose label looks most wrong first; `score` orders equal ones.

        JudgedLabels that a person has decided about come last.
        """
        return np.lexsort(
            (self.label_scores[score], self.label_scores["clean_prob"], self.is_decided)
        )

    @property
    def is_decided(self) -> np.ndarray:
        """bool `[N]`, whether a person said which label is right, who is not asked again."""
        return np.zeros(len(self.given), bool) if self.review is None else self.review != ""


def detection(labels: JudgedLabels, score: str) -> dict[str, float]:
    """How many labels look wrong and, where the truth is known, how well they were found."""
    label_scores, is_wrong = labels.label_scores, labels.is_wrong
    flagged = label_scores["flagged"]
    values = {"flagged_fraction": float(flagged.mean())}
    if is_wrong is None:
        return values
    precision, recall, f1 = metrics.detection_scores(flagged, is_wrong)
    values |= {
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "suggested_accuracy": float((label_scores["suggested"] == labels.true).mean()),
    }
    if is_wrong.any() and not is_wrong.all():
        for name in [n for n in label_scores if n.startswith(("clean_prob", score))]:
            values[f"auroc_{name}"] = float(metrics.auroc(-label_scores[name], is_wrong))
    return values


def write_label_quality(
    path: pathlib.Path, labels: JudgedLabels, score: str, files: tuple[str, ...] | None
) -> None:
    """Writes a table of every training image, the most suspicious label first.

    JudgedLabels that a person has decided about come last, and the column `reviewed` says so.
    """
    names = [escape_formula(name) for name in labels.class_names]
    cells_of_files = [escape_formula(name) for name in files or ()]
    label_scores = {
        **labels.label_scores,
        "flagged": labels.label_scores["flagged"] & ~labels.is_decided,
    }
    is_class = [n for n in label_scores if n == "suggested" or n.startswith("prediction_")]
    others = [n for n in label_scores if n != "suggested"]
    truth = [] if labels.true is None else ["true_label"]
    reviewed = [] if labels.review is None else ["reviewed"]
    header = ["id", *(["file"] if cells_of_files else []), "given_label", "suggested_label"]
    rows: list[list[Any]] = [[*header, *others, *truth, *reviewed]]
    for i in labels.by_suspicion(score):
        file = [cells_of_files[i]] if cells_of_files else []
        classes = [names[labels.given[i]], names[label_scores["suggested"][i]]]
        cells = [
            names[label_scores[n][i]] if n in is_class else format_number(label_scores[n][i])
            for n in others
        ]
        true_label = [] if labels.true is None else [names[labels.true[i]]]
        review = [] if labels.review is None else [labels.review[i]]
        rows.append([int(i), *file, *classes, *cells, *true_label, *review])
    write_table(path, rows)


def write_review(
    workdir: pathlib.Path,
    labels: JudgedLabels,
    score: str,
    images: ResidentImages | ResidentFeatures | StreamedImages,
    root: pathlib.Path | None,
    *,
    probs: np.ndarray,
    seed: int,
) -> pathlib.Path | None:
    """Writes the page on which a person reviews the labels that are flagged, or the first 60.

    Labels about which a person has decided are left out. Duplicates and outliers are those of
    `health.csv`. None where there are no images, as of features of unknown files, or all is
    decided.
    """
    ids = labels.by_suspicion(score)[: int(np.sum(~labels.is_decided))]
    count = max(int(np.sum(labels.label_scores["flagged"] & ~labels.is_decided)), NUM_SHOWN)
    files = images.names
    if root is not None and not all(files and (root / files[i]).is_file() for i in ids[:count]):
        root = None
    judged = suspects.Judged(
        given=labels.given,
        suggested=labels.label_scores["suggested"],
        clean_prob=labels.label_scores["clean_prob"],
        ranked=ids,
        class_names=labels.class_names,
        probs=probs,
        found=findings(workdir, ids),
    )
    corrections = shlex.quote(str(workdir / "corrections.csv"))
    page = workdir / REVIEW_PAGE
    is_written = suspects.write_review(
        page,
        judged,
        count,
        files=files,
        root=root if files else None,
        pictures=images.pictures if isinstance(images, ResidentFeatures) else images.read,
        seed=seed,
        after_saving=[
            (
                "To train on your decisions, put it into the folder of the run and rerun the "
                "command of the run with another --workdir= and",
                f"--config.dataset.corrections={corrections}",
            ),
            (
                "A clean table of all labels:",
                f"jaxrobust apply-corrections {shlex.quote(str(root or 'FOLDER'))} {corrections}",
            ),
        ],
    )
    return page if is_written else None


def draw(
    workdir: pathlib.Path,
    results: dict,
    labels: JudgedLabels,
    method: Method,
    images: ResidentImages | ResidentFeatures | StreamedImages,
    test_probs: np.ndarray | None,
    dataset: Dataset | FeatureDataset | FileDataset,
) -> None:
    """Draws `figures/`, and writes the tables that belong to the test images."""
    folder, names, label_scores = workdir / "figures", labels.class_names, labels.label_scores
    score = method.score
    shown = labels.by_suspicion(score)[: min(NUM_SHOWN, int(np.sum(~labels.is_decided)))]
    captions = [f"{names[labels.given[i]]}\n→ {names[label_scores['suggested'][i]]}" for i in shown]
    is_wrong = labels.is_wrong
    features = isinstance(images, ResidentFeatures)
    pictures = None
    if len(shown):  # else every label is decided
        pictures = images.pictures(shown) if features else images.read(shown)
    if pictures is not None:
        figures.contact_sheet(
            pictures,
            captions,
            folder / "suspicious.png",
            wrong=None if is_wrong is None else is_wrong[shown],
        )
    if test_probs is not None:
        write_test_files(workdir, test_probs, dataset.test.labels, names)
    scores = {n: label_scores.get(f"{score}_{n}", label_scores[score]) for n in method.networks}
    figures.score_histogram(
        scores,
        score,
        folder / f"{score}.png",
        is_wrong=is_wrong,
        thresholds={n: method.score_threshold(s) for n, s in scores.items()},
    )
    figures.noisy_label_curves({results["method"]: [results]}, folder / "epochs.png")


def summary(epochs: list[dict]) -> dict:
    """Last epoch, best epoch, and the mean of the last ones; without test images no best one."""
    tail = epochs[-NUM_LAST:]
    means = {
        name: float(np.mean([e[name] for e in tail]))
        for name, value in epochs[-1].items()
        if isinstance(value, float)
    }
    tested = {}
    if "accuracy" in epochs[-1]:
        tested["best"] = best_of(epochs, "accuracy", "epoch")
        means["accuracy_std"] = float(np.std([e["accuracy"] for e in tail]))
    return {
        "last": epochs[-1],
        **tested,
        "last_epochs": {
            "num": len(tail),
            **means,
            "labels": {
                name: float(np.mean([e["labels"][name] for e in tail]))
                for name in epochs[-1]["labels"]
            },
        },
    }


def matrix_text(matrix: np.ndarray) -> str:
    """A matrix for a log, its first 10 rows and columns."""
    rows = [" ".join(f"{x:5.2f}" for x in row[:10]) for row in matrix[:10]]
    more = f"\n... ({len(matrix)} x {len(matrix)}, whole in noise.json)"
    return "\n".join(rows) + (more if len(matrix) > 10 else "")
