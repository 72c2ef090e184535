"""Conversion and validation of users' arrays.

Accepts NumPy and JAX arrays, lists, pandas Series and DataFrames and Hugging Face data sets,
without importing these libraries. Only unambiguous conversions are made. Other input raises a
`UserError` that names the first invalid row. See also `image_inputs` and `annotation_inputs`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrobust.data.doubts import doubt_classes
from jaxrobust.errors import UserError, shown, warn

_LABEL_COLUMNS = ("label", "labels", "fine_label")
_MOST_VIEWS = 10  # as many as `jaxrobust.embed` gives
# Largest difference of a row of probabilities from 1: rounding to its dtype or to three digits.
_SUM_TOLERANCE = 5e-3


@dataclasses.dataclass(frozen=True)
class Labels:
    """Labels as class ids."""

    ids: np.ndarray  # int32 `[N]` in `0..C-1`; of soft labels the most probable class
    classes: np.ndarray  # `[C]`, the value of each class in the given labels
    names: tuple[str, ...]  # of the C classes
    # float32 `[N, C]`, the probability of each class, where labels are soft; else None
    probs: np.ndarray | None = None

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def values(self, ids: np.ndarray) -> np.ndarray:
        """Class ids as values in the type of the given labels."""
        return self.classes[ids]

    def take(self, positions: Any) -> "Labels":
        """Those of some examples."""
        probs = None if self.probs is None else self.probs[positions]
        return dataclasses.replace(self, ids=self.ids[positions], probs=probs)

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


def is_hugging_face(data: Any) -> bool:
    """Whether this looks like a `datasets.Dataset`, or a dictionary of them."""
    return hasattr(data, "column_names")


def is_consensus(data: Any) -> bool:
    """Whether this looks like a `jaxrobust.Consensus`."""
    return hasattr(data, "annotators_frame")


def is_soft(labels: Any) -> bool:
    """Whether labels are soft: a `Consensus`, or floats `[N, C]` that are not a table of votes."""
    if is_consensus(labels):
        return True
    is_nested = isinstance(labels, list | tuple) and len(labels) and np.ndim(labels[0]) == 1
    if len(getattr(labels, "shape", ())) != 2 and not is_nested:
        return False
    array = to_array(labels, "labels")
    if array.dtype.kind != "f" or array.ndim != 2 or array.shape[1] < 2:
        return False
    numbers = np.nan_to_num(array)
    return not np.array_equal(numbers, np.round(numbers)) or np.allclose(array.sum(axis=1), 1)


def column_of(dataset: Any, names: Sequence[str], argument: str) -> Any:
    """The first of the named columns that one split of a Hugging Face data set has."""
    if isinstance(dataset, Mapping):
        splits = ", ".join(map(repr, dataset))
        raise UserError(f"{argument} holds the splits {splits}; give one of them.")
    name = next((n for n in names if n in dataset.column_names), None)
    if name is None:
        raise UserError(
            f"{argument} has no column {names[0]!r}, only {', '.join(dataset.column_names)}; give "
            "the column itself."
        )
    return dataset[name]


def labels_and_names(labels: Any, class_names: Any, argument: str = "labels") -> tuple[Any, Any]:
    """Labels and class names.

    Of a Hugging Face data set these are its column and `ClassLabel`'s names, of a categorical of
    pandas all its categories, whether or not they occur.
    """
    categories = getattr(getattr(labels, "cat", labels), "categories", None)
    if categories is not None and class_names is None:
        return labels, categories.tolist()
    if not is_hugging_face(labels):
        return labels, class_names
    column = column_of(labels, _LABEL_COLUMNS, argument)
    name = next(n for n in _LABEL_COLUMNS if n in labels.column_names)
    return column, class_names or getattr(labels.features[name], "names", None)


def to_array(data: Any, argument: str) -> np.ndarray:
    """A dense array or sequence, with rows of one length, as a NumPy array."""
    if data is None:
        raise UserError(f"{argument} is None; give an array.")
    if isinstance(data, np.ma.MaskedArray):
        if (mask := np.ma.getmaskarray(data)).any():
            place = ", ".join(str(int(i)) for i in np.argwhere(mask)[0])
            raise UserError(
                f"{argument}[{place}] is masked; leave out that example, or give "
                f"{argument}.filled(...) with a number."
            )
        data = data.data
    if hasattr(data, "toarray") and hasattr(data, "nnz"):
        raise UserError(f"{argument} is a sparse matrix; give {argument}.toarray().")
    if hasattr(data, "detach") and hasattr(data, "cpu"):  # a PyTorch tensor
        data = data.detach().cpu()
    try:
        # A column of a Hugging Face data set is a sequence, which NumPy would read item by item.
        array = np.asarray(data if hasattr(data, "__array__") else list(data))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{argument} cannot be read as an array ({error}); give a NumPy array, or rows of one "
            "length."
        ) from None
    if array.dtype.kind == "V" and array.dtype.names is None:  # such as bfloat16
        array = array.astype(np.float32)
    return array


def check_lengths(**arrays: Any) -> int:
    """The common length of arrays, by argument name; refuses different ones."""
    (first, size), *others = ((name, len(array)) for name, array in arrays.items())
    for name, length in others:
        if length != size:
            raise UserError(
                f"{first} has {size} entries, but {name} has {length}; row i of both must be the "
                "same example."
            )
    return size


def aligned(**arrays: Any) -> tuple[Any, ...]:
    """Arrays of the same examples (or None), in the order of the first pandas index among them.

    Those of pandas are paired by their index instead of by position, which must be of the same
    rows; a warning names those that were reordered.
    """
    indices = {name: index for name, x in arrays.items() if (index := index_of(x)) is not None}
    if len(indices) < 2:
        return tuple(arrays.values())
    first, wanted = next(iter(indices.items()))
    for name, index in indices.items():
        if len(index) != len(wanted) or index.equals(wanted):
            continue  # other lengths are refused as those of other arrays are
        remedy = (
            f"; pair the rows by index, or, if row i of both is the same example, give "
            f"{name}.reset_index(drop=True) and {first}.reset_index(drop=True)."
        )
        places = index.get_indexer(wanted) if index.is_unique and wanted.is_unique else None
        if places is None:
            of = first if not wanted.is_unique else name
            twice = indices[of][indices[of].duplicated()][0]
            raise UserError(
                f"{first} and {name} have different indices, and that of {of} holds "
                f"{shown(twice)} twice{remedy}"
            )
        if (places < 0).any():
            row = int(np.argmin(places >= 0))
            raise UserError(
                f"{first} and {name} have different indices: {shown(wanted[row])}, row {row} of "
                f"{first}, is not in that of {name}{remedy}"
            )
        warn(f"The rows of {name} were put in the order of {first}, by their index.")
        arrays[name] = arrays[name].iloc[places]
    return tuple(arrays.values())


def index_of(data: Any) -> Any:
    """Index of a pandas Series or DataFrame, else None; that of a list is a method."""
    index = getattr(data, "index", None)
    return index if hasattr(index, "get_indexer") and hasattr(data, "iloc") else None


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

    Classes are the values that occur, in sorted order, or `class_names`: names in the order of the
    ids, or the values. Whole numbers that all lie in `0..num_columns-1`, or in
    `0..len(class_names)-1` if the names are text, are class ids, whether or not every class occurs.

    Soft labels are a `Consensus`, or floats `[N, C]` whose rows sum to 1; their classes are those
    of the consensus, the columns of a DataFrame, or 0..C-1.

    Refused are labels that are missing, of another type or of no class, and fewer than two classes.
    """
    if is_soft(labels):
        return _soft_labels(labels, class_names, num_columns, argument)
    labels, class_names = labels_and_names(labels, class_names, argument)
    array = label_values(labels, argument)
    present, ids = np.unique(array, return_inverse=True)
    doubt_classes(argument, len(array), len(present))
    if class_names is not None:
        given = to_array(class_names, "class_names")
        if len(set(given.tolist())) != len(given) or given.ndim != 1:
            raise UserError("class_names must be a list without repeated names.")
        if num_columns is not None and len(given) != num_columns:
            raise UserError(
                f"class_names has {len(given)} names, but there are {num_columns} columns of "
                "probabilities."
            )
        num_columns = len(given)
        if given.dtype.kind == array.dtype.kind or not is_whole(array):
            found = in_classes(array, given, argument)
            _check_several(present, argument)
            return found
        names = tuple(map(str, given))
    else:
        names = None
    if num_columns is not None and is_whole(array):
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
    if is_whole(array) and present[0] < 0 and 0 in present:
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


def is_whole(array: np.ndarray) -> bool:
    return array.dtype.kind in "iuf"


def _check_several(present: np.ndarray, argument: str) -> None:
    if len(present) < 2:
        held = f"only the class {present[0]!s}" if len(present) else "nothing"
        raise UserError(f"{argument} holds {held}; labels of at least two classes are needed.")


def label_values(labels: Any, argument: str) -> np.ndarray:
    """Labels `[N]` as bool, integers, whole floats or text."""
    array = to_array(labels, argument)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        hint = _of_a_table(array) if array.ndim == 2 else ""
        raise UserError(f"{argument} must have one entry per example, got {array.shape}{hint}.")
    if array.dtype.kind == "O" or array.dtype.kind not in "biufUS":
        array = _of_objects(array, argument)
    if array.dtype.kind == "f":
        _check_finite(array, argument, "leave out examples without a label")
        if (array != np.round(array)).any():
            row = int(np.argmax(array != np.round(array)))
            raise UserError(
                f"{argument}[{row}] is {array[row]}; classes are whole numbers, text or bool."
            )
    if array.dtype.kind == "S":
        array = array.astype(str)
    return array


def _of_a_table(table: np.ndarray) -> str:
    """End of a message: what `[N, A]` in place of labels probably is."""
    if table.dtype.kind in "biuf" and np.allclose(table.sum(axis=1), 1) and (table >= 0).all():
        return "; for one-hot rows, give .argmax(axis=1)"
    return "; if a column holds the votes of one annotator, call jaxrobust.consensus(votes)"


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
                f"{argument}[{row}] is {value!r}, but the ones before are {found.__name__}; give "
                "labels of one type."
            )
    return array.astype(found or str)


def in_classes(array: np.ndarray, classes: np.ndarray, argument: str) -> Labels:
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
    return Labels(ids.astype(np.int32), classes, tuple(map(str, classes.tolist())))


def _check_finite(array: np.ndarray, argument: str, remedy: str) -> None:
    is_finite = np.isfinite(array)
    if not is_finite.all():
        place = tuple(int(i) for i in np.argwhere(~is_finite)[0])
        where = ", ".join(map(str, place))
        raise UserError(f"{argument}[{where}] is {array[place]}; {remedy}.")


def as_numbers(data: Any, argument: str) -> np.ndarray:
    """An array of real numbers."""
    array = to_array(data, argument)
    if array.dtype.kind == "O":
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise UserError(f"{argument} holds something other than numbers ({error}).") from None
    if array.dtype.kind not in "biuf":
        raise UserError(f"{argument} must hold real numbers, not {array.dtype}.")
    return array


def as_probabilities(probs: Any, argument: str = "pred_probs") -> np.ndarray:
    """Predicted probabilities `[N, C]` in [0, 1], rows of sum 1, at least float32.

    The message tells if the entries look like logits, logarithms or percent.
    """
    array = as_numbers(probs, argument)
    if array.ndim == 1:
        raise UserError(
            f"{argument} must be [N, C], one column per class; for the probability p of the "
            "second of two classes, give numpy.stack([1 - p, p], axis=1)."
        )
    if array.ndim != 2 or array.shape[1] < 2:
        raise UserError(f"{argument} must be [N, C] with C >= 2 classes, got {array.shape}.")
    array = array.astype(np.float64 if array.dtype == np.float64 else np.float32)
    _check_finite(array, argument, "give probabilities of every example")
    is_outside = (array < 0) | (array > 1 + _SUM_TOLERANCE)
    sums = array.sum(axis=1, dtype=np.float64)
    is_off = np.abs(sums - 1) > _SUM_TOLERANCE
    if is_outside.any():
        row, column = (int(i) for i in np.argwhere(is_outside)[0])
        raise UserError(
            f"{argument}[{row}, {column}] is {array[row, column]:.6g}, which is not a probability"
            f"{_what_else(array)}."
        )
    if is_off.any():
        row = int(np.argmax(is_off))
        raise UserError(
            f"{argument}[{row}] sums to {sums[row]:.6g}, not to 1; if the entries are "
            "probabilities of exclusive classes, divide every row by its sum."
        )
    return array


def _what_else(array: np.ndarray) -> str:
    """End of a message: what rows that are not probabilities probably are."""
    with np.errstate(over="ignore"):
        exponents = np.exp(np.minimum(array, 1).astype(np.float64)).sum(axis=1)
    if (array <= _SUM_TOLERANCE).all() and (np.abs(exponents - 1) <= 2 * _SUM_TOLERANCE).all():
        return "; these look like log-probabilities: give numpy.exp of them"
    if (array >= 0).all() and (np.abs(array.sum(axis=1) - 100) <= 1).all():
        return "; these look like percent: divide by 100"
    return "; if these are logits, give scipy.special.softmax(logits, axis=1)"


def as_logits(logits: Any, argument: str = "logits") -> np.ndarray:
    """Logits as finite float32 `[N, C]`; refused if all rows are probabilities."""
    array = as_numbers(logits, argument)
    if array.ndim != 2 or array.shape[1] < 2:
        raise UserError(f"{argument} must be [N, C] with C >= 2 classes, got {array.shape}.")
    array = array.astype(np.float32)
    _check_finite(array, argument, "give logits of every example")
    sums = array.sum(axis=1, dtype=np.float64)
    if len(array) and (array >= 0).all() and (np.abs(sums - 1) <= _SUM_TOLERANCE).all():
        raise UserError(
            f"{argument} are probabilities: every row sums to 1; give their logarithm, with zeros "
            "replaced by a small number, or the logits before the softmax."
        )
    return array


def as_features(features: Any, argument: str = "features", *, is_wide: bool = False) -> np.ndarray:
    """Features as finite float16 or float32, `[N, D]` or `[N, V, D]` (V views of each example).

    `is_wide`: all but float16 and float32 become float64, which is to be scaled.
    """
    array = as_numbers(features, argument)
    if array.ndim not in (2, 3) or 0 in array.shape[1:]:
        hint = "; for images, use images=" if array.ndim == 4 else ""
        hint = "; for a single feature, give [:, None]" if array.ndim == 1 else hint
        raise UserError(f"{argument} must be [N, D] or [N, V, D], got {array.shape}{hint}.")
    if array.ndim == 3 and array.shape[1] > max(array.shape[2], _MOST_VIEWS):
        raise UserError(
            f"{argument} is {array.shape}, which is {array.shape[1]} views of {array.shape[2]} "
            f"numbers; if the last axis holds the views, give numpy.moveaxis({argument}, 2, 1)."
        )
    _check_finite(array, argument, "leave out that example, or fill in a number")
    if is_wide and array.dtype not in (np.float16, np.float32):
        with np.errstate(over="ignore"):
            array = array.astype(np.float64)
        _check_finite(array, argument, "scale the features; float64 ends at 1.8e308")
    elif array.dtype != np.float16:
        with np.errstate(over="ignore"):
            cast = array.astype(np.float32, copy=False)
        _check_finite(cast, argument, "scale the features; float32 ends at 3e38")
        array = cast
    return array


def refuse_labels_among(features: Any, labels: Any) -> None:
    """Refuses a table of features `[N, D]` of which a column equals the labels `[N]`."""
    table, values = (np.asarray(x) if hasattr(x, "__array__") else None for x in (features, labels))
    if table is None or values is None or table.ndim != 2 or table.shape[:1] != values.shape:
        return  # whatever it is, it is read and checked later
    is_label = [bool(np.all(column == values)) for column in table.T]
    if len(values) and any(is_label):
        column = is_label.index(True)
        names = getattr(features, "columns", range(table.shape[1]))
        raise UserError(
            f"Column {shown(names[column])} of features equals the labels, so no label would "
            "look wrong; leave it out."
        )


def merge_equal(
    inputs: np.ndarray, labels: Labels, weights: np.ndarray
) -> tuple[Any, Any, np.ndarray | None]:
    """Positions of the different examples `[U]`, the one of each given one `[N]`, and weights.

    The order is that of their bytes, whatever the given one. All examples in the given order, and
    no weights, where all differ and weigh the same.
    """
    rows = np.ascontiguousarray(inputs.reshape(len(inputs), -1) + inputs.dtype.type(0))  # no -0.0
    _, numbers = np.unique(rows.view(f"V{rows.strides[0]}").ravel(), return_inverse=True)
    # Soft labels differ although the most probable class is one.
    pairs = numbers * labels.num_classes + labels.ids
    if labels.probs is not None:
        pairs = np.arange(len(pairs))
    _, kept, merged = np.unique(pairs, return_index=True, return_inverse=True)
    weights = np.bincount(merged, weights)
    if len(kept) == len(pairs) and np.all(weights == weights[0]):
        return slice(None), slice(None), None
    return kept, merged, (weights / weights.mean()).astype(np.float32)
