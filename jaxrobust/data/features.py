"""Features as a data set: vectors computed by a frozen network, instead of images.

The files are those of `jaxrobust.embed`, or any `.npy` or `.npz` of embeddings. Arrays are
memory-mapped if the file format allows, so that only the parts that are read take memory.
"""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxrobust.data.array_files import open_arrays
from jaxrobust.data.dataset import (
    NO_LABEL,
    Origin,
    ReadableDataset,
    ReadableExamples,
    check_labels,
    check_parts,
    joined_names,
)
from jaxrobust.data.subsets import HELD_OUT, hold_out, subset
from jaxrobust.data.tables import read_cells
from jaxrobust.errors import DataError

log = logging.getLogger("jaxrobust")

FEATURES = "features"
"""Name of the data set, the value of `--config.dataset.name`."""

CHUNK = 16_384  # rows that are read at a time
_SPLITS = ("train", "test", "unlabeled")
_MOST_DIGITS = 18  # of an int64, a sign included
_LARGEST = float(np.finfo(np.float16).max)


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureExamples(ReadableExamples):
    """Features of images and their labels.

    Attributes:
      source: float [M, V, D], V views of each of M images, in memory or mapped from a file.
      rows: int [N], the rows of `source` that are these examples.
      labels: int32 [N].
      files: name of each image, if known.
      origin: set if they are a part of a larger set of examples.
      probs: float32 [N, C], for soft labels; `labels` are then the most probable classes.
    """

    source: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    files: tuple[str, ...] | None = None
    origin: Origin | None = None
    probs: np.ndarray | None = None

    def __post_init__(self):
        if self.source.ndim != 3 or self.source.dtype.kind != "f":
            raise DataError(
                "Features must be floats [N, V, D], but are "
                f"{self.source.dtype} {list(self.source.shape)}."
            )
        check_labels(self.labels, len(self.rows))
        if self.files is not None and len(self.files) != len(self.rows):
            raise DataError(f"There are {len(self.files)} files for {len(self.rows)} features.")

    @property
    def shape(self) -> tuple[int, int]:
        """(V, D): views of each image, and dimensions."""
        return self.source.shape[1:]

    @property
    def file_names(self) -> tuple[str, ...] | None:
        """As in `Examples`."""
        return self.files

    def take(self, ids: np.ndarray) -> "FeatureExamples":
        """The examples at these positions, in this order; no feature is copied."""
        files = None if self.files is None else tuple(self.files[i] for i in ids)
        origin, probs = Origin(self.labels, ids), None if self.probs is None else self.probs[ids]
        return FeatureExamples(self.source, self.rows[ids], self.labels[ids], files, origin, probs)

    def join(self, other: "FeatureExamples") -> "FeatureExamples":
        """These examples, then the others, of the same file; none of them has soft labels."""
        rows, labels = (
            np.concatenate([getattr(self, name), getattr(other, name)])
            for name in ("rows", "labels")
        )
        return FeatureExamples(self.source, rows, labels, joined_names(self.files, other.files))

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Features float16 [n, V, D] at these positions."""
        return self.source[self.rows[ids]].astype(np.float16, copy=False)

    def pictures(self, ids: np.ndarray) -> None:
        """None: features have no images."""
        return None

    def inputs(self) -> np.ndarray:
        """The mean of the views of each example, float32 [N, D]."""
        return MeansOfViews(self)[:]

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """As in `feature_statistics`."""
        return feature_statistics([self])

    def read_all(self) -> np.ndarray:
        """Features float16 [N, V, D] of all examples, read in chunks."""
        features = np.empty((len(self), *self.shape), np.float16)
        for i in range(0, len(self), CHUNK):
            features[i : i + CHUNK] = self.source[self.rows[i : i + CHUNK]]
        return features

    def content(self) -> Iterator[np.ndarray]:
        """The features in chunks of float16, for `fingerprint`."""
        for i in range(0, len(self), CHUNK):
            yield self.read(np.arange(i, min(i + CHUNK, len(self))))


class MeansOfViews:
    """The mean of the views of each example, float32 [N, D], computed when rows are requested."""

    def __init__(self, examples: FeatureExamples):
        self._examples = examples
        self.shape = (len(examples), examples.shape[1])

    def __getitem__(self, rows: slice) -> np.ndarray:
        ids = np.arange(len(self._examples))[rows]
        return self._examples.read(ids).mean(axis=1, dtype=np.float32)


class Embedding(NamedTuple):
    """How `jaxrobust.embed` computed features from images.

    Attributes:
      backbone: name of the network.
      size: side in pixels that images were resized to.
      weights_hash: SHA-256 of the network.
    """

    backbone: str
    size: int
    weights_hash: str


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureDataset(ReadableDataset):
    """A data set of features, with the statistics for normalisation and the class names.

    Attributes:
      name: name of the set in reports.
      train: training examples; every class has some.
      test: test examples; there may be none.
      class_names: one per label.
      mean: float32 [D], mean of each dimension over all views of the training examples.
      std: standard deviation of each dimension, positive.
      unlabeled: further training examples, all labelled `NO_LABEL`, if the set has any.
      embedding: how the features were computed, if known.
    """

    name: str
    train: FeatureExamples
    test: FeatureExamples
    class_names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    unlabeled: FeatureExamples | None = None
    embedding: Embedding | None = None

    def __post_init__(self):
        check_parts(self.name, self.class_names, self.train, self.test)
        dimensions = (self.train.shape[1],)
        if np.shape(self.mean) != dimensions or np.shape(self.std) != dimensions:
            raise DataError(
                f"mean and std need one number for each of the {dimensions[0]} dimensions, but "
                f"have shapes {np.shape(self.mean)} and {np.shape(self.std)}: leave "
                "--config.dataset.mean= and std= empty to compute them."
            )
        if np.min(self.std) <= 0:
            raise DataError(f"std must be positive, but is {np.min(self.std)} in a dimension.")


def feature_dataset(
    features: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    probs: np.ndarray | None = None,
) -> FeatureDataset:
    """Features in memory as a data set without a test part.

    Args:
      features: float [N, V, D], finite and within float16's range.
      labels: int32 [N], `NO_LABEL` for examples without a label, which become `unlabeled`.
      class_names: one per label.
      probs: float32 [N, C], for soft labels.

    Returns:
      A `FeatureDataset`, with both parts in the order given and the mean and std of all examples.

    Raises:
      DataError: if features, labels and classes do not fit.
    """
    everything = FeatureExamples(features, np.arange(len(labels)), labels, probs=probs)
    train, unlabeled = (
        everything.take(np.flatnonzero(where)) for where in (labels != NO_LABEL, labels == NO_LABEL)
    )
    mean, std = feature_statistics([everything])
    return FeatureDataset(
        FEATURES,
        train,
        everything.take(np.arange(0)),
        tuple(class_names),
        mean,
        std,
        unlabeled if len(unlabeled) else None,
    )


def load_features(
    features: str | os.PathLike | Mapping[str, np.ndarray],
    *,
    labels: str | os.PathLike | None = None,
    test_fraction: float = HELD_OUT,
    max_train: int | None = None,
    max_test: int | None = None,
    seed: int = 0,
) -> FeatureDataset:
    """Opens a file of features as a data set.

    | file | what is read |
    |---|---|
    | `.npz` of `jaxrobust.embed` | `features` and, if present, `labels`, \
`label_names`, `files`, `split` |
    | any other `.npz` | `features`, or its only array with 2 or 3 axes; the others by their names |
    | `.npy` | the features; their labels come from `labels` |

    Features are floats [N, D], or [N, V, D] with V views of each image. Labels are integers or
    text, one for each row; -1 or empty text means that the image is unlabelled. Without
    `label_names`, the classes are the sorted values of the labels.

    `split` names `train`, `test` or `unlabeled` for each row. Without it, `test_fraction` of each
    class is held out for testing: always the same rows for any seed.

    Args:
      features: `.npy` or `.npz` file, or the arrays of one by name. A `.npy` file and an
        uncompressed `.npz` are mapped into memory.
      labels: `.npy` file of labels, or `.csv` file with a column `label` or with one column without
        a header; None for the labels of the `.npz`.
      test_fraction: share of each class that is held out if the file names no split.
      max_train: maximum number of labelled training examples to keep, with the class shares of the
        whole set.
      max_test: the same for the test examples.
      seed: fixes which examples `max_train` and `max_test` keep.

    Returns:
      A `FeatureDataset`. Its mean and std are those of the training examples before `max_train`,
      including unlabelled ones, computed in float64.

    Raises:
      DataError: if a file is missing or damaged, a feature is not finite, lengths differ, or labels
        are missing or of one class only.
    """
    if isinstance(features, Mapping):
        path, arrays = pathlib.Path("features"), features
    else:
        path = _existing(features, "features")
        arrays = open_arrays(path)
    source = checked_source(path, arrays)
    num_rows = len(source)
    given = arrays.get("labels") if labels is None else read_labels(_existing(labels, "labels"))
    if given is None:
        raise DataError(
            f"{path} holds no labels: set --config.dataset.labels= to a .npy or .csv file with one "
            "label for each row."
        )
    if given.ndim != 1 or len(given) != num_rows:
        raise DataError(
            f"There are labels of shape {list(given.shape)} for {num_rows} rows of features in "
            f"{path}: give one label for each row, in the same order."
        )
    codes, class_names = _encoded(given, arrays.get("label_names"), path)
    files = arrays.get("files")
    for name in ("files", "split"):
        if name in arrays and len(arrays[name]) not in (0, num_rows):
            raise DataError(
                f"{path} has {len(arrays[name])} entries in {name!r} for {num_rows} rows of "
                "features: write the file again."
            )
    everything = FeatureExamples(
        source,
        np.arange(num_rows),
        codes,
        tuple(map(str, files)) if files is not None and len(files) else None,
    )
    train, test, unlabeled = _parts(everything, arrays.get("split"), test_fraction, path)
    mean, std = feature_statistics(part for part in (train, unlabeled) if part is not None)
    return FeatureDataset(
        FEATURES,
        subset(train, max_train, "max_train", seed),
        subset(test, max_test, "max_test", seed),
        class_names,
        mean,
        std,
        unlabeled,
        embedding_of(arrays),
    )


def embedding_of(arrays: Mapping[str, np.ndarray]) -> Embedding | None:
    """How the features of a file were computed, from its arrays; None if unknown."""
    if not all(name in arrays and arrays[name].ndim == 0 for name in Embedding._fields):
        return None
    found = Embedding(**{name: arrays[name].item() for name in Embedding._fields})
    return found if found.weights_hash else None  # a function of the user's own has none


def _existing(path: str | os.PathLike, field: str) -> pathlib.Path:
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"There is no file {path}: correct --config.dataset.{field}=.")
    return path


def checked_source(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The features of a file as [N, V, D], every one of them finite and within float16's range.

    Raises:
      DataError: if there are no such features.
    """
    if "features" in arrays:
        source = arrays["features"]
    else:
        candidates = [name for name, array in arrays.items() if array.ndim in (2, 3)]
        if len(candidates) != 1:
            raise DataError(
                f"{path} has no array named 'features', and not exactly one with 2 or 3 axes, but "
                f"{', '.join(arrays) or 'nothing'}: name the embeddings 'features'."
            )
        source = arrays[candidates[0]]
    if source.ndim not in (2, 3) or source.dtype.kind != "f" or 0 in source.shape:
        raise DataError(
            f"The features in {path} must be floats [N, D] or [N, V, D], at least one of each, "
            f"but are {source.dtype} {list(source.shape)}."
        )
    source = np.asarray(source)  # of a mapped file still no copy
    if source.ndim == 2:
        source = source[:, None]
    for i in range(0, len(source), CHUNK):
        chunk = source[i : i + CHUNK]
        usable = np.isfinite(chunk) & (np.abs(chunk) <= _LARGEST)
        if not usable.all():
            row, view, dimension = np.argwhere(~usable)[0]
            raise DataError(
                f"{path} holds {chunk[row, view, dimension]} in row {i + row}, dimension "
                f"{dimension}: features must be finite and at most {_LARGEST:.0f}, as float16 is; "
                "remove the row, or scale the features."
            )
    return source


def read_labels(path: pathlib.Path) -> np.ndarray:
    """Labels [N], integers or text, from a `.npy` or `.csv` file.

    Raises:
      DataError: if it cannot be read, or does not say which column holds the labels.
    """
    if path.suffix == ".npy":
        return np.asarray(open_arrays(path)["features"])
    rows = read_cells(path)
    header = rows[0][1] if rows else []
    columns = [name.lower() for name in header]
    if "label" in columns:
        column, rows = columns.index("label"), rows[1:]
    elif len(header) == 1:
        column = 0
    else:
        raise DataError(
            f"{path} has the columns {', '.join(header) or '(none)'}: name the column of the "
            "labels 'label'."
        )
    if short := [line for line, cells in rows if len(cells) <= column]:
        raise DataError(f"{path} has no label in line {short[0]}: write -1 for no label.")
    labels = [cells[column] for _, cells in rows]
    if not all(label.removeprefix("-").isdecimal() or not label for label in labels):
        return np.array(labels)
    for (line, _), label in zip(rows, labels, strict=True):
        if len(label) > _MOST_DIGITS:
            raise DataError(
                f"Line {line} of {path} has the label {label[:40]}, a number of {len(label)} "
                "digits; number the classes from 0, or give their names."
            )
    return np.array([int(label or NO_LABEL) for label in labels], np.int64)


def _encoded(
    given: np.ndarray, names: np.ndarray | None, path: pathlib.Path
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels int32 [N] from 0 on, `NO_LABEL` where there is none, and the names of the classes."""
    if given.dtype.kind not in "iuU":
        raise DataError(f"The labels for {path} must be integers or text, but are {given.dtype}.")
    given = np.asarray(given)
    if given.dtype.kind == "U":
        has_label = (given != "") & (given != str(NO_LABEL))
    else:
        has_label = given != NO_LABEL
    if names is not None and len(names) and given.dtype.kind != "U":
        classes = tuple(map(str, names))
        low, high = given.min(), given.max()
        if low < NO_LABEL or high >= len(classes):
            raise DataError(
                f"{path} names {len(classes)} classes, so labels must lie in 0 to "
                f"{len(classes) - 1}, but reach from {low} to {high}."
            )
        return given.astype(np.int32), classes
    values, positions = np.unique(given[has_label], return_inverse=True)
    if len(values) < 2:
        raise DataError(
            f"The labels for {path} name {len(values)} class{'' if len(values) == 1 else 'es'}: at "
            "least 2 are needed."
        )
    codes = np.full(len(given), NO_LABEL, np.int32)
    codes[has_label] = positions
    return codes, tuple(map(str, values))


def _parts(
    everything: FeatureExamples,
    split: np.ndarray | None,
    test_fraction: float,
    path: pathlib.Path,
) -> tuple[FeatureExamples, FeatureExamples, FeatureExamples | None]:
    """(train, test, unlabelled or None)."""
    has_label = everything.labels != NO_LABEL
    if split is None or not len(split):
        if not 0 <= test_fraction < 1:
            raise DataError(
                f"dataset.test_fraction must be at least 0 and below 1, but is {test_fraction}."
            )
        train, test = hold_out(everything.take(np.flatnonzero(has_label)), test_fraction)
        if test_fraction:
            log.info(
                "%s names no test part: %g of each class, %d rows, are held out for testing",
                path,
                test_fraction,
                len(test),
            )
    else:
        if wrong := sorted(set(map(str, split)) - set(_SPLITS)):
            raise DataError(
                f"{path} has the split {wrong[0]!r}: it must be one of {', '.join(_SPLITS)}."
            )
        if (row := np.flatnonzero((split == "test") & ~has_label)).size:
            raise DataError(f"Row {row[0]} of {path} is a test example without a label: remove it.")
        in_train = (split == "train") & has_label
        train, test = (everything.take(np.flatnonzero(x)) for x in (in_train, split == "test"))
        has_label = in_train | (split == "test")
        # A labelled row of the split "unlabeled" loses its label, as an unlabelled image has none.
    rest = np.flatnonzero(~has_label)
    if not rest.size:
        return train, test, None
    unlabeled = everything.take(rest)
    return (
        train,
        test,
        dataclasses.replace(unlabeled, labels=np.full(rest.size, NO_LABEL, np.int32)),
    )


def feature_statistics(parts: Iterable[FeatureExamples]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation float32 [D] over all views, added up chunk by chunk in float64.

    Chunks are combined as in Chan et al., "Updating formulae and a pairwise algorithm for computing
    sample variances", 1979, which loses no digits where the mean is large.
    """
    count, mean, squares = 0, np.zeros(()), np.zeros(())
    for part in parts:
        for chunk in part.content():
            values = chunk.reshape(-1, chunk.shape[-1]).astype(np.float64)
            chunk_mean = values.mean(axis=0)
            delta = chunk_mean - mean
            total = count + len(values)
            values -= chunk_mean
            squares = squares + np.square(values, out=values).sum(axis=0)
            squares = squares + delta**2 * (count * len(values) / total)
            mean = mean + delta * (len(values) / total)
            count = total
    std = np.sqrt(squares / count)
    std = np.where(std > 0, std, 1)  # a dimension of one value is only centred
    return mean.astype(np.float32), std.astype(np.float32)
