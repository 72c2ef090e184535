"""Open-set splits: the known classes, and the initially labelled images."""

import dataclasses
import fractions
import math
from collections.abc import Sequence

import numpy as np

from jaxrobust.data._streams import host_generator
from jaxrobust.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False)
class OpenSetSplit:
    """Known and unknown classes of a data set, and the initial labelled set.

    Attributes:
      known_classes: original class ids; the position in this tuple is the new label.
      targets: int32 [N], new labels of the training images, K = `num_known` for unknown ones.
        Only the oracle knows them: a learner may read only what it has queried.
      labeled: bool [N], the initial labelled set (known classes only).
      test_targets: int32 [M], like `targets`, for the test images.
      test_known: bool [M], the test images of known classes.
    """

    known_classes: tuple[int, ...]
    targets: np.ndarray
    labeled: np.ndarray
    test_targets: np.ndarray
    test_known: np.ndarray

    @property
    def num_known(self) -> int:
        """K, the number of known classes."""
        return len(self.known_classes)


def open_set_split(
    train_labels: np.ndarray,
    test_labels: np.ndarray,
    *,
    num_classes: int,
    openness: float | None = None,
    num_known: int | None = None,
    class_order: Sequence[int] | None = None,
    init_fraction: float,
    seed: int,
) -> OpenSetSplit:
    """Splits the classes into known and unknown ones and draws the initial labelled set.

    The first K classes of `class_order` are known. `floor(init_fraction * n)` of the n known
    training images start labelled, drawn uniformly without replacement from all of them (not class
    balanced). This is the protocol of BUAL (ECCV 2024), also used for DCFS (arXiv 2409.17607).

    Args:
      train_labels: int [N], original class ids.
      test_labels: int [M], original class ids.
      num_classes: number of original classes C.
      openness: unknown classes / all classes, in [0, 1); the number of unknown classes is
        `openness * C` rounded to the nearest whole number. 0 is the closed set.
      num_known: K, instead of `openness`; give exactly one of the two.
      class_order: permutation of the C class ids; None is the natural order.
      init_fraction: share of the known training images labelled at the start, in (0, 1].
      seed: fixes the draw. The class split does not depend on it.

    Returns:
      An `OpenSetSplit`.

    Raises:
      DataError: if an argument is out of range, fewer than two classes would be known, or no image
        would be labelled.
    """
    num_known = _num_known(num_classes, openness, num_known)
    order = range(num_classes) if class_order is None else [int(c) for c in class_order]
    if sorted(order) != list(range(num_classes)):
        raise DataError(
            f"class_order must be a permutation of the class ids 0 to {num_classes - 1}, each "
            f"exactly once, but is {list(order)}."
        )
    new_label = np.empty(num_classes, np.int32)
    new_label[list(order)] = np.minimum(np.arange(num_classes), num_known)
    targets = new_label[_class_ids("train_labels", train_labels, num_classes)]
    test_targets = new_label[_class_ids("test_labels", test_labels, num_classes)]

    known = np.flatnonzero(targets < num_known)
    if not 0 < init_fraction <= 1:
        raise DataError(f"init_fraction must be above 0 and at most 1, but is {init_fraction}.")
    # The decimal number that was written: 0.29 of 100 images are 29, in floating point 28.
    num_labeled = math.floor(fractions.Fraction(str(float(init_fraction))) * known.size)
    if num_labeled == 0:
        raise DataError(
            f"init_fraction={init_fraction} of {known.size} known training images leaves none "
            f"labelled: use more than {1 / max(known.size, 1):.2g}."
        )
    labeled = np.zeros(targets.shape, bool)
    generator = host_generator(seed, "open_set/initial_labeled")
    labeled[generator.choice(known, num_labeled, replace=False)] = True
    return OpenSetSplit(
        known_classes=tuple(order[:num_known]),
        targets=targets,
        labeled=labeled,
        test_targets=test_targets,
        test_known=test_targets < num_known,
    )


def _num_known(num_classes: int, openness: float | None, num_known: int | None) -> int:
    if openness is None and num_known is not None:
        known = num_known
    elif openness is not None and num_known is None:
        if not 0 <= openness < 1:
            raise DataError(
                "openness is the share of unknown classes, at least 0 (closed set) and below 1, "
                f"but is {openness}."
            )
        known = num_classes - round(openness * num_classes)
    else:
        raise DataError(
            "An open-set split needs exactly one of openness and num_known: "
            f"openness={openness}, num_known={num_known}."
        )
    if not 2 <= known <= num_classes:
        given = f"num_known={num_known}" if openness is None else f"openness={openness}"
        raise DataError(
            f"{given} makes {known} of {num_classes} classes known: at least 2 and at most "
            f"{num_classes} must be."
        )
    return known


def _class_ids(name: str, labels: np.ndarray, num_classes: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{name} must be a vector of integers, but has shape {labels.shape} and dtype "
            f"{labels.dtype}."
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise DataError(
            f"{name} must lie in 0 to {num_classes - 1}, but reach from {labels.min()} to "
            f"{labels.max()}."
        )
    return labels
