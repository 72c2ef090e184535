"""Users' labels of any type as class ids, with their shares where they are soft."""

import dataclasses
from typing import Any

import numpy as np

from jaxrobust.data.inputs import (
    as_probabilities,
    check_finite,
    column_of,
    is_hugging_face,
    shown_value,
    to_array,
)
from jaxrobust.errors import UserError

_LABEL_COLUMNS = ("label", "labels", "fine_label")


@dataclasses.dataclass(frozen=True)
class Labels:
    """Labels as class ids.

    Attributes:
      ids: int32 `[N]` in `0..C-1`; of soft labels the most probable class.
      classes: `[C]`, the value of each class in the given labels.
      names: of the C classes.
      probs: float32 `[N, C]`, the probability of each class, where labels are soft; else None.
    """

    ids: np.ndarray
    classes: np.ndarray
    names: tuple[str, ...]
    probs: np.ndarray | None = None

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def values(self, ids: np.ndarray) -> np.ndarray:
        """Class ids as values in the type of the given labels."""
        return self.classes[ids]

    def of_present(self) -> tuple[np.ndarray, "Labels"]:
        """The class ids that occur, and the labels of these classes alone.

        Soft labels are conditional on these: what they give to other classes is left out.
        """
        present, ids = np.unique(self.ids, return_inverse=True)
        probs = None
        if self.probs is not None:
            probs = self.probs[:, present]
            probs = probs / probs.sum(axis=1, keepdims=True)
        names = tuple(self.names[i] for i in present)
        return present, Labels(ids.astype(np.int32), self.classes[present], names, probs)


def is_consensus(data: Any) -> bool:
    """Whether this looks like a `jaxrobust.Consensus`."""
    return hasattr(data, "annotators_frame")


def is_soft(labels: Any) -> bool:
    """Whether labels are soft: a `Consensus`, or floats `[N, C]` with C >= 2."""
    if is_consensus(labels):
        return True
    is_nested = isinstance(labels, list | tuple) and len(labels) and np.ndim(labels[0]) == 1
    if len(getattr(labels, "shape", ())) != 2 and not is_nested:
        return False
    array = to_array(labels, "labels")
    return array.dtype.kind == "f" and array.ndim == 2 and array.shape[1] > 1


def labels_and_names(labels: Any, class_names: Any, argument: str = "labels") -> tuple[Any, Any]:
    """Labels and class names, of a Hugging Face data set its column and `ClassLabel`'s names."""
    if not is_hugging_face(labels):
        return labels, class_names
    column = column_of(labels, _LABEL_COLUMNS, argument)
    name = next(n for n in _LABEL_COLUMNS if n in labels.column_names)
    return column, class_names or getattr(labels.features[name], "names", None)


def columns_as_classes(labels: Any, table: Any, class_names: Any) -> Any:
    """`class_names`, or the columns of a DataFrame if they are the labels' classes."""
    columns = getattr(table, "columns", None)
    if class_names is not None or columns is None or is_soft(labels):
        return class_names
    present = set(np.asarray(labels).tolist())
    return list(columns) if present <= set(columns) else None


def as_labels(
    labels: Any,
    *,
    class_names: Any = None,
    num_columns: int | None = None,
    argument: str = "labels",
) -> Labels:
    """Labels of any type as class ids.

    Classes are the values that occur, in sorted order. Whole numbers that all lie in
    `0..num_columns-1`, or in `0..len(class_names)-1` if the names are text, are class ids, whether
    or not every class occurs.

    Soft labels are a `Consensus`, or floats `[N, C]` whose rows sum to 1; their classes are those
    of the consensus, the columns of a DataFrame, or 0..C-1.

    Args:
      labels: int, text or bool `[N]`, or soft.
      class_names: the C classes in the order of their ids: their names, or the values that occur in
        `labels`. None for the values that occur.
      num_columns: C if it is known otherwise, such as from the columns of probabilities.
      argument: name of the labels in messages.

    Returns:
      `Labels`.

    Raises:
      UserError: if a label is missing, of another type or of no class, or if fewer than two classes
        occur.
    """
    if is_soft(labels):
        return _soft_labels(labels, class_names, num_columns, argument)
    labels, class_names = labels_and_names(labels, class_names, argument)
    array = _label_values(labels, argument)
    present, ids = np.unique(array, return_inverse=True)
    if class_names is not None:
        given = to_array(class_names, "class_names")
        if len(set(given.tolist())) != len(given) or given.ndim != 1:
            raise UserError("class_names must be a list in which no name occurs twice.")
        if num_columns is not None and len(given) != num_columns:
            raise UserError(
                f"class_names has {len(given)} names, but there are {num_columns} columns of "
                "probabilities."
            )
        num_columns = len(given)
        if given.dtype.kind == array.dtype.kind or not _is_whole(array):
            return _in_classes(array, given, argument)
        names = tuple(map(str, given))
    else:
        names = None
    if num_columns is not None and _is_whole(array):
        is_id = (array >= 0) & (array < num_columns)
        if is_id.all():
            _check_several(present, argument)
            classes = np.arange(num_columns).astype(array.dtype)
            return Labels(
                array.astype(np.int32), classes, names or tuple(map(str, classes.tolist()))
            )
        # Values such as 1..C, or -1 and 1, are classes in sorted order; with a 0 they are ids.
        if names is not None or 0 in present or len(present) != num_columns:
            row = int(np.argmin(is_id))
            raise UserError(
                f"{argument}[{row}] is {array[row]}, but there are {num_columns} classes, 0 to "
                f"{num_columns - 1}; correct it, or give the classes in order by class_names=."
            )
    _check_several(present, argument)
    if num_columns is not None and len(present) != num_columns:
        shown = ", ".join(map(repr, present[:5].tolist()))
        raise UserError(
            f"{argument} holds {len(present)} classes ({shown}{', ...' if present[5:].size else ''}"
            f"), but there are {num_columns} columns of probabilities; give the classes in the "
            "order of the columns by class_names=."
        )
    if _is_whole(array) and present[0] < 0 and 0 in present:
        row = int(np.argmax(array < 0))
        raise UserError(
            f"{argument}[{row}] is {array[row]}; leave out examples without a label, or, if it is "
            "a class, give all classes by class_names=."
        )
    return Labels(ids.reshape(-1).astype(np.int32), present, tuple(map(str, present.tolist())))


def _soft_labels(labels: Any, class_names: Any, num_columns: int | None, argument: str) -> Labels:
    """A `Consensus`, or probabilities `[N, C]`, as soft labels."""
    if is_consensus(labels):
        if (labels.num_votes == 0).any() and labels.summary["source"] == "votes":
            row = int(np.argmin(labels.num_votes))
            raise UserError(
                f"{argument} is a Consensus in which nobody voted on item {row}; leave that item "
                "out, or give features= to consensus."
            )
        probs, classes, names = labels.probs, labels.classes, labels.class_names
    else:
        columns = getattr(labels, "columns", None)
        if class_names is None and columns is not None and not callable(columns):
            class_names = list(columns)
        probs = as_probabilities(labels, argument)
        classes = np.arange(probs.shape[1])
        names = tuple(map(str, classes.tolist()))
    if class_names is not None:
        classes = to_array(class_names, "class_names")
        names = tuple(map(str, classes.tolist()))
    for size, what in ((len(classes), "class_names"), (num_columns, "columns of probabilities")):
        if size not in (None, probs.shape[1]):
            raise UserError(
                f"{argument} has {probs.shape[1]} classes, but there are {size} {what}; give as "
                "many, in the same order."
            )
    ids = probs.argmax(axis=1).astype(np.int32)
    _check_several(np.unique(ids), argument)
    return Labels(ids, classes, names, probs.astype(np.float32))


def _is_whole(array: np.ndarray) -> bool:
    return array.dtype.kind in "iuf"


def _check_several(present: np.ndarray, argument: str) -> None:
    if len(present) < 2:
        held = f"only the class {present[0]!s}" if len(present) else "nothing"
        raise UserError(f"{argument} holds {held}; labels of at least two classes are needed.")


def _label_values(labels: Any, argument: str) -> np.ndarray:
    """Labels `[N]` as bool, integers, whole floats or text."""
    array = to_array(labels, argument)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        hint = ""
        if array.ndim == 2:
            hint = "; of one-hot rows give .argmax(axis=1), of a table of votes jaxrobust.consensus"
        raise UserError(f"{argument} must have one entry per example, got {array.shape}{hint}.")
    if array.dtype.kind == "O" or array.dtype.kind not in "biufUS":
        array = _of_objects(array, argument)
    if array.dtype.kind == "f":
        check_finite(array, argument, "leave out examples without a label")
        if (array != np.round(array)).any():
            row = int(np.argmax(array != np.round(array)))
            raise UserError(
                f"{argument}[{row}] is {array[row]}; classes are whole numbers, text or bool."
            )
    if array.dtype.kind == "S":
        array = array.astype(str)
    return array


def _of_objects(array: np.ndarray, argument: str) -> np.ndarray:
    """Python objects as an array of their common type."""
    kinds = {bool: bool, np.bool_: bool, int: int, np.integer: int, str: str, float: float}
    found = None
    for row, value in enumerate(array.tolist()):
        kind = next((k for t, k in kinds.items() if isinstance(value, t)), None)
        if kind is None or value != value:
            raise UserError(
                f"{argument}[{row}] is {value!r}; leave out examples without a label."
                if value is None or kind is float or str(value) in ("<NA>", "NaT")
                else f"{argument}[{row}] is {value!r}; classes are whole numbers, text or bool."
            )
        found = found or kind
        if kind is not found:
            raise UserError(
                f"{argument}[{row}] is {value!r}, but those before are {found.__name__}; give "
                "labels of one type."
            )
    return array.astype(found or str)


def _in_classes(array: np.ndarray, classes: np.ndarray, argument: str) -> Labels:
    """Labels as positions in `classes`."""
    order = np.argsort(classes)
    try:
        places = np.searchsorted(classes, array, sorter=order)
        ids = order[np.minimum(places, len(classes) - 1)]
        is_known = classes[ids] == array
    except TypeError:  # text and numbers cannot be compared
        is_known = np.zeros(len(array), bool)
    if not is_known.all():
        row = int(np.argmin(is_known))
        raise UserError(f"{argument}[{row}] is {array[row]!s}, which is not in class_names.")
    _check_several(np.unique(ids), argument)
    return Labels(ids.astype(np.int32), classes, tuple(map(str, classes.tolist())))


def refuse_labels_among(features: Any, labels: Any) -> None:
    """Refuses a table of features `[N, D]` in which the labels `[N]` were left.

    Raises:
      UserError: if a column equals the labels.
    """
    table, values = (np.asarray(x) if hasattr(x, "__array__") else None for x in (features, labels))
    if table is None or values is None or table.ndim != 2 or table.shape[:1] != values.shape:
        return  # whatever it is, it is read and checked later
    is_label = [bool(np.all(column == values)) for column in table.T]
    if len(values) and any(is_label):
        column = is_label.index(True)
        names = getattr(features, "columns", range(table.shape[1]))
        raise UserError(
            f"Column {shown_value(names[column])} of features is the labels themselves, by which "
            "none would look wrong; leave it out."
        )


def as_annotations(annotations: Any, num_classes: int | None) -> tuple[np.ndarray, int]:
    """Annotations as int32 `[N]`, and the number of known classes.

    Args:
      annotations: int `[N]`: a class 0..K-1, `UNLABELED` (-1) or `UNKNOWN` (-2); or a `Consensus`.
      num_classes: K; None for the highest class + 1.

    Returns:
      (annotations, K).

    Raises:
      UserError: if an entry is none of these, or fewer than two classes have been annotated.
    """
    if is_consensus(annotations):
        num_classes = num_classes or len(annotations.classes)
        annotations = annotations.annotations
    array = _label_values(annotations, "annotations")
    if not _is_whole(array):
        raise UserError(
            f"annotations must be whole numbers: a class from 0, -1 if not annotated, -2 for an "
            f"example of none of the classes; got {array.dtype}."
        )
    most = int(array.max(initial=-1)) if num_classes is None else num_classes - 1
    is_wrong = (array < -2) | (array > most)
    if is_wrong.any():
        row = int(np.argmax(is_wrong))
        raise UserError(
            f"annotations[{row}] is {array[row]}; it must be a class 0 to {most}, -1 (UNLABELED) "
            "or -2 (UNKNOWN)."
        )
    _check_several(np.unique(array[array >= 0]), "annotations")
    return array.astype(np.int32), most + 1
