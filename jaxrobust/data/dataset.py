"""Data sets: examples in memory or in files, their labels, and their fingerprints."""

import dataclasses
import hashlib
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from jaxrobust.data import readers
from jaxrobust.errors import DataError

NO_LABEL = -1
"""Label of an image that nobody has labelled; only `Dataset.unlabeled` holds such images."""


class Origin(NamedTuple):
    """The source that examples were taken from.

    Attributes:
      labels: labels of all examples of the source.
      ids: int [N], positions in the source of the examples that were taken.
    """

    labels: np.ndarray
    ids: np.ndarray


class Labeled:
    """Properties that examples of every kind derive from `labels`, int32 [N] or {0, 1} [N, C]."""

    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_multilabel(self) -> bool:
        """Whether an image may have several labels."""
        return self.labels.ndim == 2


class Classes:
    """Properties that data sets of every kind derive from `class_names` and `train`."""

    class_names: tuple[str, ...]
    train: Labeled

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def is_multilabel(self) -> bool:
        """Whether an image may have several labels."""
        return self.train.is_multilabel


class ReadableExamples(Labeled):
    """Examples, images or features, that are read by their positions.

    Attributes:
      files: path of each example relative to the data set, if they came from files.
      probs: float32 [N, C], where labels are soft.
    """

    files: tuple[str, ...] | None
    probs: np.ndarray | None

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Images uint8 [n, H, W, 3], or features float16 [n, V, D], at these positions."""
        raise NotImplementedError

    def pictures(self, ids: np.ndarray) -> np.ndarray | None:
        """The images uint8 [n, H, W, 3] at these positions; None for features."""
        raise NotImplementedError

    def inputs(self) -> np.ndarray:
        """Images uint8 [N, H, W, 3], or means of the views of features, float32 [N, D]."""
        raise NotImplementedError

    def statistics(self) -> tuple[Any, Any]:
        """Mean and standard deviation of each channel or dimension."""
        raise NotImplementedError

    def take(self, ids: np.ndarray) -> Self:
        """The examples at these positions, in this order."""
        raise NotImplementedError

    def join(self, other: Self) -> Self:
        """These examples, then the others."""
        raise NotImplementedError

    def content(self) -> Iterator[np.ndarray]:
        """The content of the examples, for `fingerprint`."""
        raise NotImplementedError


class ReadableDataset(Classes):
    """A data set of `ReadableExamples`; see `Dataset` and `FeatureDataset` for the attributes."""

    name: str
    train: ReadableExamples
    test: ReadableExamples
    mean: Any
    std: Any
    unlabeled: ReadableExamples | None

    @property
    def examples(self) -> ReadableExamples:
        """Labelled training examples, then unlabelled ones."""
        return self.train if self.unlabeled is None else self.train.join(self.unlabeled)


@dataclasses.dataclass(frozen=True, eq=False)
class Examples(ReadableExamples):
    """Images and their labels.

    Attributes:
      images: uint8 [N, H, W, 3].
      labels: int32 [N], or uint8 {0, 1} [N, C] if an image may have several labels, or none.
      files: path of each image relative to the data set, if images are files.
      origin: set if they are a part of a larger set of examples.
      probs: float32 [N, C], for soft labels; `labels` are then the most probable classes.
    """

    images: np.ndarray
    labels: np.ndarray
    files: tuple[str, ...] | None = None
    origin: Origin | None = None
    probs: np.ndarray | None = None

    def __post_init__(self):
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[-1] != 3:
            raise DataError(
                "Images must be uint8 [N, H, W, 3], but are "
                f"{self.images.dtype} {list(self.images.shape)}."
            )
        check_labels(self.labels, len(self.images))
        if self.files is not None and len(self.files) != len(self.images):
            raise DataError(f"There are {len(self.files)} files for {len(self.images)} images.")

    @property
    def file_names(self) -> tuple[str, ...] | None:
        """Path of each image relative to the data set, if images are files."""
        return self.files

    def take(self, ids: np.ndarray) -> "Examples":
        """The examples at these positions, in this order."""
        files = None if self.files is None else tuple(self.files[i] for i in ids)
        origin, probs = Origin(self.labels, ids), None if self.probs is None else self.probs[ids]
        return Examples(self.images[ids], self.labels[ids], files, origin, probs)

    def join(self, other: "Examples") -> "Examples":
        """These examples, then the others; none of them has soft labels."""
        images, labels = (
            np.concatenate([getattr(self, name), getattr(other, name)])
            for name in ("images", "labels")
        )
        return Examples(images, labels, joined_names(self.files, other.files))

    def content(self) -> Iterator[np.ndarray]:
        """What identifies the images, for `fingerprint`."""
        yield self.images

    def read(self, ids: np.ndarray) -> np.ndarray:
        """The images uint8 [n, H, W, 3] at these positions."""
        return self.images[ids]

    def pictures(self, ids: np.ndarray) -> np.ndarray:
        """As `read`."""
        return self.images[ids]

    def inputs(self) -> np.ndarray:
        """The images."""
        return self.images

    def statistics(self) -> tuple[tuple, tuple]:
        """As in `pixel_statistics`."""
        return pixel_statistics([self])


@dataclasses.dataclass(frozen=True, eq=False)
class FileExamples(Labeled):
    """Images that are read from their files when needed, and their labels.

    Attributes:
      names: path of each image relative to the data set.
      files: file objects, each of which has `read_bytes()` and can be sent to another process.
      labels: int32 [N], or uint8 {0, 1} [N, C].
    """

    names: tuple[str, ...]
    files: tuple[pathlib.Path | readers.TfdsImage, ...]
    labels: np.ndarray

    def __post_init__(self):
        check_labels(self.labels, len(self.files))
        if len(self.names) != len(self.files):
            raise DataError(f"There are {len(self.names)} names for {len(self.files)} files.")

    @property
    def file_names(self) -> tuple[str, ...]:
        """As in `Examples`."""
        return self.names

    def take(self, ids: np.ndarray) -> "FileExamples":
        """The examples at these positions, in this order."""
        names, files = (tuple(x[i] for i in ids) for x in (self.names, self.files))
        return FileExamples(names, files, self.labels[ids])

    def join(self, other: "FileExamples") -> "FileExamples":
        """These examples, then the others."""
        labels = np.concatenate([self.labels, other.labels])
        return FileExamples(self.names + other.names, self.files + other.files, labels)

    def content(self) -> Iterator[np.ndarray]:
        """What identifies the images, for `fingerprint`."""
        yield np.array(list(map(os.fsencode, self.names)))

    def decode(self, image_size: int) -> Examples:
        """Reads all images into memory, squeezed to squares so that no object is cut off."""
        sources = list(zip(self.names, self.files, strict=True))
        images = readers.decode_images(sources, image_size, crop=False)
        return Examples(images, self.labels, self.names)


def joined_names(first: tuple | None, second: tuple | None) -> tuple | None:
    """Names of files of one part after those of another; None where one has none."""
    return None if first is None or second is None else first + second


def check_labels(labels: np.ndarray, num_images: int) -> None:
    """Refuses labels that are neither int32 [N] nor uint8 {0, 1} [N, C]."""
    kind = labels.dtype, labels.ndim
    if kind not in ((np.int32, 1), (np.uint8, 2)) or len(labels) != num_images:
        raise DataError(
            f"Labels must be int32 [{num_images}], one for each image, or uint8 [{num_images}, "
            f"classes], but are {labels.dtype} {list(labels.shape)}."
        )
    if labels.ndim == 2 and np.any(labels > 1):
        raise DataError(f"Multi-label targets must be 0 or 1, but reach {labels.max()}.")


def check_has_test(dataset) -> None:
    """Refuses a data set without test images.

    Raises:
      DataError: if there are none.
    """
    if not len(dataset.test):
        raise DataError(f"The test part of {dataset.name} holds no images.")


def check_parts(name: str, class_names: Sequence[str], train, test) -> None:
    """Refuses an empty training part, and parts whose labels and classes do not fit.

    Args:
      name: name of the data set.
      class_names: one per label.
      train: examples, in memory or not.
      test: test examples; there may be none.
    """
    num_classes = len(class_names)
    if num_classes < 2:
        raise DataError(f"{name} has {num_classes} class: at least 2 are needed.")
    for split, examples in (("train", train), ("test", test)):
        if not len(examples):
            if split == "test":
                continue
            raise DataError(f"The {split} part of {name} holds no images.")
        if examples.is_multilabel != train.is_multilabel:
            raise DataError(f"Only one of train and test of {name} is multi-label.")
        if train.is_multilabel:
            if examples.labels.shape[1] != num_classes:
                raise DataError(
                    f"{name} has {num_classes} classes, but {split} labels are for "
                    f"{examples.labels.shape[1]}."
                )
            continue
        low, high = examples.labels.min(), examples.labels.max()
        if low < 0 or high >= num_classes:
            raise DataError(
                f"{name} has {num_classes} classes, so labels must lie in 0 to "
                f"{num_classes - 1}, but {split} labels reach from {low} to {high}."
            )
    if train.is_multilabel:
        counts = train.labels.sum(axis=0, dtype=np.int64)
    else:
        counts = np.bincount(train.labels, minlength=num_classes)
    if absent := [class_names[label] for label in np.flatnonzero(counts == 0).tolist()]:
        raise DataError(f"{name} has no training images of {', '.join(absent)}.")


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset(ReadableDataset):
    """A data set in memory, with what is needed to normalise it and to name its classes.

    Attributes:
      name: name of the set in reports: the name given to `load_dataset`, but `cifar10_jpeg` for the
        recompressed images, whose pixels are not the official ones.
      train: training examples; every class has some.
      test: test examples; there may be none.
      class_names: one per label.
      mean: mean of each channel on the [0, 1] scale.
      std: standard deviation of each channel, positive.
      unlabeled: further training images, all labelled `NO_LABEL`, if the set has any.
    """

    name: str
    train: Examples
    test: Examples
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    unlabeled: Examples | None = None

    def __post_init__(self):
        check_parts(self.name, self.class_names, self.train, self.test)
        if self.unlabeled is not None and np.any(self.unlabeled.labels != NO_LABEL):
            raise DataError(f"Unlabelled images of {self.name} must all have the label {NO_LABEL}.")
        for split, examples in (("test", self.test), ("unlabelled", self.unlabeled)):
            if examples is not None and examples.images.shape[1:] != self.train.images.shape[1:]:
                raise DataError(
                    f"Images of {self.name} differ in size: train {self.train.images.shape[1:3]}, "
                    f"{split} {examples.images.shape[1:3]}. Set image_size "
                    "(--config.dataset.image_size=) to resize them all."
                )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise DataError(
                "mean and std need one number per channel, and std positive ones, but are "
                f"{self.mean} and {self.std}."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class FileDataset(Classes):
    """A data set of files.

    Attributes:
      name: name of the set in reports.
      train: training examples; every class has some.
      test: test examples.
      class_names: one per label.
      mean: mean of each channel on the [0, 1] scale, for normalisation.
      std: standard deviation of each channel; the default leaves the [0, 1] scale unchanged.
      unlabeled: further training images, all labelled `NO_LABEL`, if the set has any.
    """

    name: str
    train: FileExamples
    test: FileExamples
    class_names: tuple[str, ...]
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    unlabeled: FileExamples | None = None

    def __post_init__(self):
        check_parts(self.name, self.class_names, self.train, self.test)

    def decode(self, image_size: int) -> Dataset:
        """Reads all images into memory; see `FileExamples.decode`."""
        train, test = self.train.decode(image_size), self.test.decode(image_size)
        return Dataset(self.name, train, test, self.class_names, self.mean, self.std)


def with_own_statistics(
    name: str,
    train: Examples,
    test: Examples,
    class_names: tuple[str, ...],
    unlabeled: Examples | None = None,
) -> Dataset:
    """Data set normalised by the mean and standard deviation of its own training pixels."""
    mean, std = pixel_statistics(filter(None, (train, unlabeled)))
    return Dataset(name, train, test, class_names, mean, std, unlabeled)


def pixel_statistics(parts: Iterable[Examples]) -> tuple[tuple, tuple]:
    """Mean and standard deviation of each channel over some parts, on the [0, 1] scale."""
    counts = np.zeros((3, 256))
    for examples in parts:
        rows = max(2**20 // max(examples.images[:1].size, 1), 1)  # small images many at a time
        for first in range(0, len(examples.images), rows):
            images = examples.images[first : first + rows]
            for channel in range(3):
                counts[channel] += np.bincount(images[..., channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    std = np.sqrt(np.maximum(share @ values**2 - mean**2, 0))
    std = np.where(std > 0, std, 1)  # a channel of one value is only centred
    return tuple(mean.tolist()), tuple(std.tolist())


def fingerprint(dataset) -> str:
    """SHA-256 over images or features, labels and class names; equal if and only if the data is.

    For a `FileDataset` it is over the file names instead of the images.
    """
    digest = hashlib.sha256(repr(dataset.class_names).encode())
    unlabeled = getattr(dataset, "unlabeled", None)
    for examples in filter(None, (dataset.train, dataset.test, unlabeled)):
        probs = getattr(examples, "probs", None)
        arrays = [examples.labels] if probs is None else [examples.labels, probs]
        for array in itertools.chain(examples.content(), arrays):
            digest.update(repr((array.dtype.str, array.shape)).encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
