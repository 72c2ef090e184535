"""Output files of an annotation run: its split, scores, results, figures, and a person's tables."""

import hashlib
import logging
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from jaxrobust.data.dataset import ReadableDataset, fingerprint
from jaxrobust.data.open_set import OpenSetSplit
from jaxrobust.data.tables import escape_formula, to_csv
from jaxrobust.engine import processes
from jaxrobust.engine.files import format_number, write_table, write_text
from jaxrobust.methods.strategy import NOT_ANNOTATED, Query
from jaxrobust.tasks.annotator import UNKNOWN
from jaxrobust.tasks.common import best_of

log = logging.getLogger("jaxrobust")

ANSWERS, PREDICTIONS, LINKS = "annotations.csv", "predictions.csv", "by_class"
NUM_BINS = 40  # of the histograms of scores


def split_facts(dataset: ReadableDataset, split: OpenSetSplit) -> dict:
    """`split.json`: which classes are known, which images started labelled, of which data."""
    names, known = dataset.class_names, split.known_classes
    initial = np.flatnonzero(split.labeled)
    return {
        "known_classes": [names[c] for c in known],
        "unknown_classes": [n for c, n in enumerate(names) if c not in known],
        "num_train": len(split.targets),
        "num_test_known": int(split.test_known.sum()),
        "initial_ids": initial.tolist(),
        "initial_ids_sha256": hashlib.sha256(initial.astype("<i8").tobytes()).hexdigest(),
        "dataset_sha256": fingerprint(dataset),
    }


def write_scores(
    path: pathlib.Path, query: Query, annotations: np.ndarray, is_unknown: np.ndarray | None
) -> None:
    """Writes a histogram of every score over the pool; `is_unknown` is None without the truth."""
    parts = {
        "pool": annotations == NOT_ANNOTATED,
        "chosen": np.isin(np.arange(len(annotations)), query.ids),
    }
    if is_unknown is not None:
        parts["unknown"] = parts["pool"] & is_unknown
    rows = [["score", "from", "to", *parts]]
    for name, score in query.scores.items():
        score = np.asarray(score)
        valid = parts["pool"] & np.isfinite(score)
        if not np.issubdtype(score.dtype, np.floating) or not valid.any():
            continue
        # Outliers are counted in the first and the last bin.
        score = score.astype(np.float64)
        low, high = np.quantile(score[valid], (0.005, 0.995))
        edges = np.histogram_bin_edges(score[valid], NUM_BINS, (low, high))
        score = np.clip(score, edges[0], edges[-1])
        counts = [np.histogram(score[valid & part], edges)[0] for part in parts.values()]
        for low, high, *row in zip(edges[:-1], edges[1:], *counts, strict=True):
            rows.append([name, *map(format_number, (low, high, *row))])
    write_table(path, rows)


def label_counts(annotations: np.ndarray, num_classes: int) -> dict:
    """How many images are annotated: with a known class, as unknown, with each class."""
    counts = np.bincount(annotations[annotations != NOT_ANNOTATED], minlength=num_classes + 1)
    return {
        "num_labeled_known": int(counts[:-1].sum()),
        "num_labeled_unknown": int(counts[-1]),
        "num_labeled_per_class": counts[:-1].tolist(),
    }


def summary(rounds: list[dict]) -> dict:
    """Last, best and mean accuracy, the area under the accuracy curve, precision and recall.

    Without test images there is no accuracy, and with a person as oracle no recall.

    The area is taken over the number of queried images by the trapezoid rule and divided by its
    width, so that it is an accuracy too.
    """
    queries = [r["query"] for r in rounds if "query" in r]
    precisions = [q["precision"] for q in queries if q["size"]]
    values = {"mean_query_precision": float(np.mean(precisions or [0.0]))}
    if not queries or "recall" in queries[-1]:
        values["last_query_recall"] = queries[-1]["recall"] if queries else 0.0
    if "accuracy" not in rounds[-1]:
        return values
    accuracies = np.array([r["accuracy"] for r in rounds])
    asked = np.array([r["num_labeled_known"] + r["num_labeled_unknown"] for r in rounds])
    width = float(asked[-1] - asked[0])
    area = np.trapezoid(accuracies, asked) / width if width else accuracies[-1]
    return {
        "last": {"round": len(rounds) - 1, "accuracy": rounds[-1]["accuracy"]},
        "best": best_of(rounds, "accuracy", "round"),
        "mean_accuracy": float(accuracies.mean()),
        "area_under_accuracy_curve": float(area),
        **values,
    }


def round_text(round_: int, entry: dict, gain: dict | None) -> str:
    """A line about a finished round; `gain` is what the last queries brought, if known."""
    text = f"round {round_}: {accuracy_text(entry)} with {entry['num_labeled_known']} known labels"
    if "query" in entry:
        query = entry["query"]
        text += f"; queried {query['size']}: precision {100 * query['precision']:.1f} %"
        if "recall" in query:
            text += f", recall {100 * query['recall']:.1f} %"
    return text + (f"; {gain['text']}" if gain else "")


def accuracy_text(entry: dict) -> str:
    """The test accuracy of a round in words."""
    if "accuracy" not in entry:
        return "accuracy unknown without test images"
    return f"accuracy {100 * entry['accuracy']:.2f} %"


def shorten(names: Sequence[str]) -> str:
    """The first six names."""
    return ", ".join(names[:6]) + (", ..." if names[6:] else "")


def write_annotations(
    path: pathlib.Path, files: Sequence[str], labels: Mapping[int, str], rounds: Mapping[int, int]
) -> None:
    """Writes every answer once; `rounds` lacks answers whose table is gone."""
    rows = [
        [i, *map(escape_formula, (files[i], labels[i])), rounds.get(i, "")] for i in sorted(labels)
    ]
    write_text(path, to_csv([["id", "file", "label", "round"], *rows]))


def write_predictions(
    path: pathlib.Path,
    files: Sequence[str],
    class_names: Sequence[str],
    probs: np.ndarray,
    unknown_probs: np.ndarray | None,
) -> None:
    """Writes the most probable class of each image: `unknown` where that is more probable than not.

    `probs` are `[n, K]`, and `unknown_probs` `[n]` of being of none of the K classes: None where
    the method does not say. If it does, the table also names the most probable known class.
    """
    names = [escape_formula(name) for name in class_names]
    rows: list[list] = [["file", "class", "probability"]]
    if unknown_probs is not None:
        rows[0] += ["unknown_probability", "known_class"]
    for i, (file, row) in enumerate(zip(files, probs, strict=True)):
        name, probability = names[row.argmax()], row.max()
        more = []
        if unknown_probs is not None:
            more = [format_number(unknown_probs[i]), name]
            if unknown_probs[i] > 0.5:
                name, probability = UNKNOWN, unknown_probs[i]
        rows.append([escape_formula(file), name, format_number(probability), *more])
    write_text(path, to_csv(rows))


def link_by_class(
    folder: pathlib.Path, root: pathlib.Path, files: Sequence[str], classes: Sequence[str]
) -> int:
    """Replaces the symbolic links `folder/CLASS/NAME` to images of `root`, by class; their number.

    Other files in `folder` stay. The number is 0 where the file system supports no links.
    """
    if not processes.is_main():
        return 0
    for old in folder.glob("*/*"):
        if old.is_symlink():
            old.unlink()
    count = 0
    for file, name in zip(files, classes, strict=True):
        link = folder / name / pathlib.PurePosixPath(file).name
        if link.is_symlink() or link.exists():  # another folder has an image of that name
            link = link.with_name(file.replace("/", "_"))
        try:
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((root / file).resolve())
        except OSError as error:
            log.warning(
                "No links to the images were made, since %s does not support them (%s).",
                folder,
                error,
            )
            return count
        count += 1
    return count
