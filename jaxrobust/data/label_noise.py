"""Which wrong labels a training set gets: the noise of a recipe, put into clean labels."""

import pathlib

import ml_collections
import numpy as np

from jaxrobust.data.dataset import Dataset
from jaxrobust.data.noise import (
    asymmetric_noise_cifar10,
    asymmetric_noise_cifar100,
    flip_labels,
    pairflip_transition,
    read_cifarn_labels,
    symmetric_noise,
    symmetric_transition,
)
from jaxrobust.data.subsets import archive_order
from jaxrobust.errors import UserError


def given_labels(noise: ml_collections.ConfigDict, dataset: Dataset, *, seed: int) -> np.ndarray:
    """The training labels that a method gets to see.

    Args:
      noise: options as of `jaxrobust.tasks.options.Noise`.
      dataset: the clean data.
      seed: of the run.

    Returns:
      int32 `[N]` in the order of the data set.

    Raises:
      UserError: if the noise is not one for this data, or its file is not usable.
    """
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


def _asymmetric(noise: ml_collections.ConfigDict, dataset: Dataset, seed: int) -> np.ndarray:
    if dataset.name in ("cifar10", "cifar10_jpeg"):
        return asymmetric_noise_cifar10(dataset.train.labels, noise.rate, seed)
    if dataset.name == "cifar100":
        return asymmetric_noise_cifar100(
            dataset.train.labels, noise.rate, seed, groups=noise.groups
        )
    raise UserError(
        f"noise.kind='asymmetric' names look-alike classes of CIFAR, not of {dataset.name}; use "
        "'pairflip', or 'transition' with a matrix of your own in noise.path."
    )


def _read_transition(path: str, num_classes: int) -> np.ndarray:
    """Matrix `[C, C]` from a .npy file, or from text with one row per line."""
    if not path:
        raise UserError("noise.kind='transition' needs --config.noise.path= of a C x C matrix.")
    file = pathlib.Path(path).expanduser()
    try:
        if not file.stat().st_size:
            raise ValueError("it is empty")
        if file.suffix == ".npy":
            matrix = np.load(file, allow_pickle=False)
        else:
            matrix = np.loadtxt(file, delimiter="," if file.suffix == ".csv" else None, ndmin=2)
    except (OSError, ValueError) as error:
        raise UserError(
            f"noise.path={path} cannot be read as a matrix ({error}); use .npy, .csv or text."
        ) from None
    if matrix.shape != (num_classes, num_classes):
        raise UserError(
            f"noise.path={path} holds a matrix of shape {matrix.shape}, but there are "
            f"{num_classes} classes; it must be {num_classes} x {num_classes}."
        )
    return matrix


def _human(noise: ml_collections.ConfigDict, dataset: Dataset) -> np.ndarray:
    """CIFAR-N's labels, from the archive's order to that of the images at hand."""
    if dataset.name not in ("cifar10", "cifar10_jpeg", "cifar100"):
        raise UserError(
            f"noise.kind='human' reads the labels of CIFAR-10N and CIFAR-100N, not of "
            f"{dataset.name}; choose another noise.kind."
        )
    path = noise.path or (
        "datasets/CIFAR-100_human.pt"
        if dataset.name == "cifar100"
        else "datasets/CIFAR-10_human.pt"
    )
    origin = dataset.train.origin
    whole = dataset.train.labels if origin is None else origin.labels
    order = archive_order(whole, read_cifarn_labels(path, "clean"))
    labels = np.empty_like(whole)
    labels[order] = read_cifarn_labels(path, noise.label_set)
    if labels.max() >= dataset.num_classes:
        raise UserError(f"{path} holds labels beyond the {dataset.num_classes} classes.")
    return labels if origin is None else labels[origin.ids]
