"""Users' annotations of an open set, in which some examples belong to none of the classes."""

from typing import Any

import numpy as np

from jaxrobust.data import inputs
from jaxrobust.data.votes import present
from jaxrobust.errors import UserError

UNLABELED, UNKNOWN = -1, -2  # as in jaxrobust
UNKNOWN_NAME = "unknown"  # as in the tables of the annotation task


def as_annotations(
    annotations: Any, num_classes: int | None = None, class_names: Any = None
) -> inputs.Labels:
    """Annotations of any type as class ids, `UNLABELED` or `UNKNOWN`.

    Args:
      annotations: `[N]`, whole numbers: a class 0..K-1, -1 (`UNLABELED`) or -2 (`UNKNOWN`); or the
        names of classes, with `UNKNOWN` or "unknown" for an example of none of them. NaN, None, NA
        and "" stand for `UNLABELED`. Or a `Consensus`.
      num_classes: K of whole numbers; None for the highest class + 1.
      class_names: the K classes: names of the class ids, or the values that occur.

    Returns:
      `Labels`, whose ids are -1 and -2 too. K is 0 if nothing says what the classes are.

    Raises:
      UserError: if an entry is none of these.
    """
    if inputs.is_consensus(annotations):
        found = inputs.Labels(annotations.annotations, annotations.classes, annotations.class_names)
    else:
        found = _read(annotations, num_classes, class_names)
    if num_classes not in (None, found.num_classes):
        raise UserError(
            f"num_classes={num_classes}, but annotations has {found.num_classes} classes, "
            f"{', '.join(found.names)}; name all of them by class_names=."
        )
    is_sure = num_classes or class_names is not None or (found.ids == UNKNOWN).any()
    if found.num_classes == 1 and not is_sure:
        raise UserError(
            f"annotations holds only the class {found.names[0]}; annotate another "
            "class, mark an example of none of the classes as UNKNOWN (-2), or set num_classes=1."
        )
    return found


def _read(annotations: Any, num_classes: int | None, class_names: Any) -> inputs.Labels:
    values, class_names = inputs.labels_and_names(annotations, class_names, "annotations")
    is_given, values = present(values, "annotations")
    if values.ndim != 1:
        inputs.label_values(values, "annotations")  # which says what is wrong
    names = None if class_names is None else inputs.to_array(class_names, "class_names")
    # An entry that is no class gets a value that is one, so that messages name the right row.
    values = _filled(values, is_given)
    is_unknown = is_given & _equals(values, UNKNOWN)
    if names is None or UNKNOWN_NAME not in names.tolist():
        is_unknown |= is_given & _equals(values, UNKNOWN_NAME)
    is_class = is_given & ~is_unknown & ~_equals(values, UNLABELED)
    ids = np.where(is_unknown, UNKNOWN, UNLABELED).astype(np.int32)
    if not is_class.any():
        classes = np.arange(num_classes or 0) if names is None else names
        return inputs.Labels(ids, classes, tuple(map(str, classes.tolist())))
    values = inputs.label_values(_filled(values, is_class), "annotations")
    if inputs.is_whole(values) and (names is None or names.dtype.kind in "US"):
        size = len(names) if names is not None else num_classes or int(values.max()) + 1
        if (is_wrong := (values < 0) | (values >= size)).any():
            row = int(np.argmax(is_wrong))
            raise UserError(
                f"annotations[{row}] is {values[row]}; it must be a class 0 to {size - 1}, -1 "
                "(UNLABELED) or -2 (UNKNOWN)."
            )
        classes = np.arange(size)
        found = inputs.Labels(values.astype(np.int32), classes, tuple(map(str, classes.tolist())))
    else:
        classes = np.unique(values) if names is None else names
        found = inputs.in_classes(values, classes, "annotations")
    ids[is_class] = found.ids[is_class]
    named = found.names if names is None else tuple(map(str, names.tolist()))
    return inputs.Labels(ids, found.classes, named)


def _filled(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.where(where, values, values[where][0]) if where.any() else values


def _equals(values: np.ndarray, value: Any) -> np.ndarray:
    """Where an entry is a value, or what NumPy makes of it beside text."""
    return (values == value) | (values == str(value))
