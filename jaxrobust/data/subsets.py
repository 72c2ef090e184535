"""Subsets of examples: limits, held-out parts, and the order of CIFAR's archive."""

import numpy as np

from jaxrobust.data._streams import host_generator
from jaxrobust.errors import DataError

HELD_OUT = 0.2
"""Share of the images that is held out for testing where a set has no test part."""


def hold_out(examples, fraction: float = HELD_OUT):
    """(train, test): the same share of each class is held out for testing in every run."""
    generator = host_generator(0, "sources/hold_out")
    is_test = np.zeros(len(examples), bool)
    for label in np.unique(examples.labels):
        members = np.flatnonzero(examples.labels == label)
        count = round(fraction * len(members))
        is_test[generator.permutation(members)[:count]] = True
    return examples.take(np.flatnonzero(~is_test)), examples.take(np.flatnonzero(is_test))


def subset(examples, limit: int | None, option: str, seed: int):
    """At most `limit` examples, in memory or not, with at least one of each class.

    The others are drawn in proportion to the classes or, from multi-label sets, uniformly.

    Args:
      examples: examples to choose from.
      limit: maximum number; None for all.
      option: name of the limit, for messages and the random stream.
      seed: fixes the choice.
    """
    if limit is None or limit >= len(examples):
        return examples
    generator = host_generator(seed, f"sources/{option}")
    if examples.is_multilabel:
        return examples.take(np.sort(covering_subset(examples.labels, limit, option, generator)))
    labels, counts = np.unique(examples.labels, return_counts=True)
    if limit < len(labels):
        raise _too_few(option, limit, len(labels))
    shares = (counts - 1) * ((limit - len(labels)) / (len(examples) - len(labels)))
    quotas = 1 + np.floor(shares).astype(np.int64)
    largest_remainders = np.argsort(np.floor(shares) - shares, kind="stable")
    quotas[largest_remainders[: limit - quotas.sum()]] += 1
    kept = [
        generator.permutation(np.flatnonzero(examples.labels == label))[:quota]
        for label, quota in zip(labels, quotas, strict=True)
    ]
    return examples.take(np.sort(np.concatenate(kept)))


def covering_subset(
    targets: np.ndarray, limit: int, option: str, generator: np.random.Generator
) -> np.ndarray:
    """`limit` random ids of rows of `targets` {0, 1} [N, C], including every class that occurs."""
    order = generator.permutation(len(targets))
    present = np.flatnonzero(targets.any(axis=0))
    of_classes = np.unique(np.argmax(targets[order][:, present], axis=0))
    if limit < len(of_classes):
        raise _too_few(option, limit, len(of_classes))
    others = np.delete(np.arange(len(order)), of_classes)
    return order[np.concatenate([of_classes, others[: limit - len(of_classes)]])]


def _too_few(option: str, limit: int, num_classes: int) -> DataError:
    return DataError(
        f"{option}={limit} is fewer than the {num_classes} classes: keep at least one image of "
        "each."
    )


def archive_order(labels_of_files: np.ndarray, clean_labels: np.ndarray) -> np.ndarray:
    """Positions of the images of CIFAR's official archive in a list that is sorted by class.

    Files named by class and running number lose the order that label files such as CIFAR-N's refer
    to. Official index i is the n-th file of class `clean_labels[i]`, where n counts the earlier j <
    i of the same class. Data already in archive order is left unchanged, and any other order is
    refused.

    Args:
      labels_of_files: int [N], clean labels in the order in use: either ascending, with each class
        in archive order, or equal to `clean_labels`.
      clean_labels: int [N], clean labels in archive order.

    Returns:
      int [N]: `images[archive_order(...)]` are in archive order.

    Raises:
      DataError: if the two do not hold the same number of each class, or the order is neither.
    """
    by_class = np.argsort(labels_of_files, kind="stable")
    wanted = np.argsort(clean_labels, kind="stable")
    if not np.array_equal(np.asarray(labels_of_files)[by_class], np.asarray(clean_labels)[wanted]):
        raise DataError(
            f"The {len(clean_labels)} clean labels of the label file and the "
            f"{len(labels_of_files)} images have different numbers of each class: use the whole "
            "training set."
        )
    if np.any(np.diff(labels_of_files) < 0) and not np.array_equal(labels_of_files, clean_labels):
        raise DataError(
            "The images are neither in the order of the label file nor sorted by class, so "
            "labels cannot be matched to images: use the official archive or class folders, and "
            "the label file in the archive's order."
        )
    order = np.empty(len(by_class), np.int64)
    order[wanted] = by_class
    return order
