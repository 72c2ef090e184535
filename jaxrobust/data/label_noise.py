"""The labels that a method is given: clean ones with the noise of a recipe."""

import pathlib
from collections.abc import Sequence
from typing import TypeGuard, cast

import numpy as np

from jaxrobust.data.array_files import open_arrays
from jaxrobust.data.dataset import Dataset, FileDataset
from jaxrobust.data.features import FeatureDataset
from jaxrobust.data.guards import read_regular
from jaxrobust.data.image_sets import CIFAR10_CLASSES
from jaxrobust.data.noise import (
    asymmetric_noise_cifar10,
    asymmetric_noise_cifar100,
    flip_labels,
    pairflip_transition,
    read_cifarn_labels,
    symmetric_noise,
    symmetric_transition,
)
from jaxrobust.data.readers import DAMAGED
from jaxrobust.data.subsets import archive_order
from jaxrobust.errors import UserError
from jaxrobust.recipes.run import Noise


def given_labels(
    noise: Noise, dataset: Dataset | FeatureDataset | FileDataset, *, seed: int
) -> np.ndarray:
    """The training labels that a method is given, int32 `[N]` in the order of the data set."""
    clean, num_classes = dataset.train.labels, dataset.num_classes
    seed = noise.seed if noise.seed >= 0 else seed
    try:
        match noise.kind:
            case "none":
                labels = clean
            case "symmetric":
                labels = symmetric_noise(clean, noise.rate, seed, num_classes)
            case "uniform":
                labels = flip_labels(clean, symmetric_transition(noise.rate, num_classes), seed)
            case "pairflip":
                labels = flip_labels(clean, pairflip_transition(noise.rate, num_classes), seed)
            case "asymmetric":
                labels = _asymmetric(noise, dataset, seed)
            case "transition":
                labels = flip_labels(clean, _read_transition(noise.path, num_classes), seed)
            case "human":
                labels = _human(noise, dataset)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"noise.kind={noise.kind!r}: {error}") from None
    return labels.astype(np.int32)


def _asymmetric(
    noise: Noise, dataset: Dataset | FeatureDataset | FileDataset, seed: int
) -> np.ndarray:
    if dataset.name in ("cifar10", "cifar10_jpeg") or _is_cifar10_features(dataset):
        return asymmetric_noise_cifar10(dataset.train.labels, noise.rate, seed)
    if dataset.name == "cifar100":
        return asymmetric_noise_cifar100(
            dataset.train.labels, noise.rate, seed, groups=noise.groups
        )
    raise UserError(
        f"noise.kind='asymmetric' names look-alike classes of CIFAR, not of {dataset.name}; use "
        "'pairflip', or 'transition' with your own matrix in noise.path."
    )


def _read_transition(path: str, num_classes: int) -> np.ndarray:
    """Matrix `[C, C]` from a .npy file, or from text with one row per line."""
    if not path:
        raise UserError("noise.kind='transition' needs --config.noise.path= of a C x C matrix.")
    file = pathlib.Path(path).expanduser()
    try:
        if file.suffix == ".npy":
            matrix = open_arrays(file)["features"]
        else:
            lines = read_regular(file).decode().splitlines()
            if not any(lines):
                raise ValueError("it is empty")
            matrix = np.loadtxt(lines, delimiter="," if file.suffix == ".csv" else None, ndmin=2)
    except (*DAMAGED, ValueError, OverflowError, MemoryError) as error:
        raise UserError(
            f"noise.path={path} cannot be read as a matrix ({error}); use .npy, .csv or text."
        ) from None
    if matrix.shape != (num_classes, num_classes):
        raise UserError(
            f"noise.path={path} holds a matrix of shape {matrix.shape}, but there are "
            f"{num_classes} classes; it must be {num_classes} x {num_classes}."
        )
    return matrix


def _is_cifar10_features(dataset: object) -> TypeGuard[FeatureDataset]:
    return isinstance(dataset, FeatureDataset) and dataset.class_names == CIFAR10_CLASSES


def _human(noise: Noise, dataset: Dataset | FeatureDataset | FileDataset) -> np.ndarray:
    """CIFAR-N's labels, from the archive's order to that of the images in use."""
    known = dataset.name in ("cifar10", "cifar10_jpeg", "cifar100")
    if not known and not _is_cifar10_features(dataset):
        raise UserError(
            f"noise.kind='human' reads the labels of CIFAR-10N and CIFAR-100N, not of "
            f"{dataset.name}; choose another noise.kind, or features of CIFAR-10 with the names of "
            "its classes."
        )
    path = noise.path or (
        "datasets/CIFAR-100_human.pt"
        if dataset.name == "cifar100"
        else "datasets/CIFAR-10_human.pt"
    )
    clean, human = (read_cifarn_labels(path, key) for key in ("clean", noise.label_set))
    if _is_cifar10_features(dataset):
        return human[_archive_ids(dataset.train.files, dataset.train.labels, clean)]
    origin = cast(Dataset, dataset).train.origin  # CIFAR is never left in files
    whole = dataset.train.labels if origin is None else origin.labels
    order = archive_order(whole, clean)
    labels = np.empty_like(whole)
    labels[order] = human
    if labels.max() >= dataset.num_classes:
        raise UserError(f"{path} holds labels beyond the {dataset.num_classes} classes.")
    return labels if origin is None else labels[origin.ids]


def _archive_ids(
    files: Sequence[str] | None, labels: np.ndarray, clean_labels: np.ndarray
) -> np.ndarray:
    """Positions [N] in CIFAR-10's archive of images that are named by class and running number.

    `CLASS/NNNN.jpg` is the image number NNNN, from 0, of its class in the archive's order.
    """
    if files is None:
        raise UserError(
            "noise.kind='human' finds the labels of features by the names of their images, but "
            "dataset.features holds no 'files': embed a folder by python -m jaxrobust embed."
        )
    members = [np.flatnonzero(clean_labels == c) for c in range(len(CIFAR10_CLASSES))]
    ids = np.empty(len(files), np.int64)
    for i, (file, label) in enumerate(zip(files, labels.tolist(), strict=True)):
        path = pathlib.PurePosixPath(file)
        is_numbered = path.stem.isdecimal() and int(path.stem) < len(members[label])
        if path.parent.name != CIFAR10_CLASSES[label] or not is_numbered:
            raise UserError(
                f"noise.kind='human' cannot tell which of CIFAR-10's training images "
                f"{file!r} of class {CIFAR10_CLASSES[label]} is: its name must end in "
                f"{CIFAR10_CLASSES[label]}/NNNN.jpg, the running number within the class."
            )
        ids[i] = members[label][int(path.stem)]
    return ids
