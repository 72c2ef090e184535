"""Quality of a data set: suspicious labels by class, confused classes, duplicates, outliers.

`health.json` has the numbers and their definitions; `health.csv` names the images.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jaxrobust.arrays import unit_rows
from jaxrobust.data.dataset import Dataset, Examples, FileDataset, FileExamples
from jaxrobust.data.features import FeatureDataset, FeatureExamples
from jaxrobust.data.tables import escape_formula, read_rows, to_csv, unescape_formula
from jaxrobust.engine import processes
from jaxrobust.engine.files import format_number, write_json, write_text
from jaxrobust.selection import nearest_neighbors

REPORT, FINDINGS = "health.json", "health.csv"

NEAR = 0.9
"""Least cosine of two images' centred features from which they are near duplicates.

Among 10,000 photographs of CIFAR-10, in features of EfficientNet-Lite0, one pair reaches it; half
of the photographs reach it with their own mirror image.
"""
NUM_NEIGHBORS = 10
"""An outlier is found by the distance to its neighbour of this rank."""
FAR = 1.5
"""Interquartile ranges above the upper quartile from which on this distance makes an outlier."""

_MAX_EXAMPLES = 100_000  # larger sets are not searched for duplicates and outliers
_NUM_PAIRS = 10
_BATCH = 1024

DEFINITIONS = {
    "healthy_fraction": "training images without a finding: the label is not suspicious, no "
    "earlier or test image is a duplicate, and it is not an outlier",
    "suspicious": "labels that the method flags as wrong and nobody has reviewed",
    "exact_duplicates": "same content of the file or, without files, of the array",
    "near_duplicates": f"cosine of the centred features of {NEAR} or more; exact ones left out",
    "outliers": f"1 - cosine to the {NUM_NEIGHBORS}th nearest training image is more than {FAR:g} "
    "interquartile ranges above the upper quartile",
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """A finding about image `id`: its `kind` and, for a duplicate, the image that it repeats."""

    kind: str
    id: int
    other: int | None = None
    other_part: str = ""
    value: float | None = None


def write_health(
    workdir: pathlib.Path,
    dataset: Dataset | FeatureDataset | FileDataset,
    labels: np.ndarray,
    suggested: np.ndarray,
    is_suspicious: np.ndarray,
    root: pathlib.Path | None = None,
) -> dict[str, Any]:
    """Examines a data set, and writes `health.json`, which is returned, and `health.csv`.

    Labels and suggested ones are int `[N]` of the training images, `is_suspicious` bool `[N]`;
    `root` is the folder of the images, if features have files.
    """
    if not processes.is_main():
        return {}
    duplicates = exact_duplicates(dataset.train, dataset.test, root)
    near, outliers = None, None
    if isinstance(dataset, FeatureDataset) and len(dataset.train) <= _MAX_EXAMPLES:
        near, outliers = neighbors(dataset.train, dataset.test)
        seen = {(x.id, x.other, x.other_part) for x in duplicates or ()}
        near = [x for x in near if (x.id, x.other, x.other_part) not in seen]
    findings = [*(duplicates or ()), *(near or ()), *(outliers or ())]
    names = dataset.class_names
    num = np.bincount(labels, minlength=len(names))
    num_suspicious = np.bincount(labels[is_suspicious], minlength=len(names))
    is_healthy = ~is_suspicious
    is_healthy[[x.id for x in findings]] = False
    pairs = np.stack([labels[is_suspicious], suggested[is_suspicious]], axis=1)
    pairs, counts = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0, return_counts=True)
    health = {
        "num_train": len(labels),
        "num_test": len(dataset.test),
        "healthy_fraction": float(is_healthy.mean()),
        "num_suspicious": int(is_suspicious.sum()),
        "classes": [
            {
                "class": name,
                "images": int(count),
                "suspicious": int(wrong),
                "suspicious_fraction": float(wrong / max(count, 1)),
            }
            for name, count, wrong in zip(names, num, num_suspicious, strict=True)
        ],
        "most_confused": [
            {
                "given": names[pairs[i, 0]],
                "suggested": names[pairs[i, 1]],
                "images": int(counts[i]),
            }
            for i in np.argsort(-counts, kind="stable")[:_NUM_PAIRS]
        ],
        "exact_duplicates": _counts(duplicates, labels, dataset.test.labels),
        "near_duplicates": _counts(near, labels, dataset.test.labels),
        "outliers": None if outliers is None else len(outliers),
        "definitions": DEFINITIONS,
    }
    write_json(workdir / REPORT, health)
    files = {"train": dataset.train.file_names, "test": dataset.test.file_names}
    rows: list[list] = [["id", "file", "label", "finding", "other_id", "other_file", "value"]]
    for x in findings:
        file = "" if files["train"] is None else escape_formula(files["train"][x.id])
        there = files.get(x.other_part)
        other = "" if there is None or x.other is None else escape_formula(there[x.other])
        where = "" if x.other is None else f"{x.other_part} {x.other}"
        value = "" if x.value is None else format_number(x.value)
        rows.append([x.id, file, escape_formula(names[labels[x.id]]), x.kind, where, other, value])
    write_text(workdir / FINDINGS, to_csv(rows))
    return health


def findings(workdir: pathlib.Path, ids: np.ndarray) -> dict[str, dict[int, str]]:
    """Of `health.csv`: `duplicates` and `outliers` -> id -> what was found about one of `ids`."""
    wanted = set(ids.tolist())
    found: dict[str, dict[int, str]] = {"duplicates": {}, "outliers": {}}
    for row in read_rows(workdir / FINDINGS):
        i, kind, other = (row.cells.get(name, "") for name in ("id", "finding", "other_file"))
        if int(i) not in wanted:
            continue
        is_far = kind == "outlier"
        what = other or row.cells["other_id"]
        text = "unlike all other images" if is_far else f"{kind} of {unescape_formula(what)}"
        found["outliers" if is_far else "duplicates"][int(i)] = text
    return found


def _counts(
    found: Sequence[Finding] | None, labels: np.ndarray, test_labels: np.ndarray
) -> dict[str, int] | None:
    """Numbers of duplicates within and between the parts; None if they were not searched."""
    if found is None:
        return None
    inside = [(x.id, x.other) for x in found if x.other_part == "train"]
    across = [(x.id, x.other) for x in found if x.other_part == "test"]
    return {
        "within_train": len({i for i, _ in inside}),
        "with_another_label": sum(int(labels[i] != labels[j]) for i, j in inside)
        + sum(int(labels[i] != test_labels[j]) for i, j in across),
        "train_and_test": len({i for i, _ in across}),
    }


def exact_duplicates(
    train: Examples | FeatureExamples | FileExamples,
    test: Examples | FeatureExamples | FileExamples,
    root: pathlib.Path | None,
) -> list[Finding] | None:
    """Training images that equal an earlier or a test image; None beyond 100,000 images."""
    if len(train) + len(test) > _MAX_EXAMPLES:
        return None
    found = []
    first: dict[str, int] = {}
    for i, content in enumerate(_hashes(train, root)):
        if content in first:
            found.append(Finding("exact duplicate", i, first[content], "train"))
        else:
            first[content] = i
    for j, content in enumerate(_hashes(test, root)):
        if content in first:
            found.append(Finding("exact duplicate", first[content], j, "test"))
    return found


def _hashes(
    examples: Examples | FeatureExamples | FileExamples, root: pathlib.Path | None
) -> Iterable[str]:
    names = examples.file_names

    def content(i: int) -> bytes:
        if isinstance(examples, FileExamples):
            return examples.files[i].read_bytes()
        if isinstance(examples, Examples):
            return examples.images[i].tobytes()
        path = None if root is None or names is None else root / names[i]
        if path is not None and path.is_file():
            return path.read_bytes()
        return examples.read(np.array([i])).tobytes()

    with ThreadPoolExecutor() as pool:
        return list(
            pool.map(lambda i: hashlib.sha256(content(i)).hexdigest(), range(len(examples)))
        )


def neighbors(train: FeatureExamples, test: FeatureExamples) -> tuple[list[Finding], list[Finding]]:
    """(near duplicates, outliers by descending distance) by the first view of each image.

    A training image is a near duplicate of its nearest earlier neighbour.
    """
    features, tested = (_directions(x) for x in (train, test))
    mean = features.mean(axis=0)
    features, tested = (unit_rows(x - mean) for x in (features, tested))
    count = min(NUM_NEIGHBORS, len(train) - 1)
    if count < 1:
        return [], []
    cosines, others = _nearest(features, features, count, exclude_self=True)
    near = []
    for i in range(len(train)):
        before = [(c, j) for c, j in zip(cosines[i], others[i], strict=True) if c >= NEAR and j < i]
        if before:
            cosine, j = max(before, key=lambda pair: pair[0])
            near.append(Finding("near duplicate", i, int(j), "train", float(cosine)))
    if len(test):
        cosines_of_test, found = _nearest(tested, features, 1, exclude_self=False)
        for j in np.flatnonzero(cosines_of_test[:, 0] >= NEAR).tolist():
            cosine = float(cosines_of_test[j, 0])
            near.append(Finding("near duplicate", int(found[j, 0]), j, "test", cosine))
    distances = 1 - cosines[:, -1]
    low, high = np.quantile(distances, (0.25, 0.75))
    far = np.flatnonzero(distances > high + FAR * (high - low))
    far = far[np.argsort(-distances[far], kind="stable")]
    return near, [Finding("outlier", int(i), value=float(distances[i])) for i in far]


def _directions(examples: FeatureExamples) -> np.ndarray:
    """First views float32 `[n, D]`, of length 1."""
    parts = [x[:, 0].astype(np.float32) for x in examples.content()]
    return unit_rows(
        np.concatenate(parts) if parts else np.zeros((0, examples.shape[1]), np.float32)
    )


def _nearest(
    queries: np.ndarray, candidates: np.ndarray, count: int, *, exclude_self: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and positions `[n, k]` of the nearest candidates."""

    @jax.jit
    def nearest(queries, candidates, ids):
        exclude = ids if exclude_self else None
        return nearest_neighbors(queries, candidates, num_neighbors=count, exclude=exclude)

    size = min(_BATCH, len(queries))
    on_device = jax.device_put(candidates)
    found = []
    for start in range(0, len(queries), size):
        ids = np.minimum(np.arange(start, start + size, dtype=np.int32), len(queries) - 1)
        part = jax.device_get(nearest(queries[ids], on_device, ids))
        found.append([x[: len(queries) - start] for x in part])
    cosines, positions = (np.concatenate(x) for x in zip(*found, strict=True))
    return cosines, positions
