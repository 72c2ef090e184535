"""Conversion and validation of users' arrays.

Accepts NumPy and JAX arrays, lists, pandas Series and DataFrames, Hugging Face data sets, and lists
of PIL images, without importing these libraries. Only unambiguous conversions are made. Other input
raises a `UserError` that names the first invalid row.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrobust.errors import UserError

_IMAGE_COLUMNS = ("image", "img")
_MOST_VIEWS = 10  # as many as `jaxrobust.embed` gives
# Largest difference of a row of probabilities from 1: rounding to its dtype or to three digits.
_SUM_TOLERANCE = 5e-3


def is_hugging_face(data: Any) -> bool:
    """Whether this looks like a `datasets.Dataset`, or a dictionary of them."""
    return hasattr(data, "column_names")


def column_of(dataset: Any, names: Sequence[str], argument: str) -> Any:
    """The first of the named columns that a Hugging Face data set has.

    Raises:
      UserError: if it has none of them, or is a dictionary of splits.
    """
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


def to_array(data: Any, argument: str) -> np.ndarray:
    """An array or sequence as a NumPy array.

    Raises:
      UserError: if its rows differ in length, or it is sparse or not an array.
    """
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
    """The common length of arrays, by argument name.

    Raises:
      UserError: if they differ.
    """
    (first, size), *others = ((name, len(array)) for name, array in arrays.items())
    for name, length in others:
        if length != size:
            raise UserError(
                f"{first} has {size} entries, but {name} has {length}; row i of both must be the "
                "same example."
            )
    return size


def aligned(**arrays: Any) -> tuple[Any, ...]:
    """Arrays of the same examples, those of pandas paired by their index instead of by position.

    Args:
      **arrays: by argument name; None where one is not given.

    Returns:
      The arrays, with rows in the order of the first one that has an index; a warning names those
      that were reordered.

    Raises:
      UserError: if two have an index and these are not of the same rows.
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
                f"{shown_value(twice)} twice{remedy}"
            )
        if (places < 0).any():
            row = int(np.argmin(places >= 0))
            raise UserError(
                f"{first} and {name} have different indices: {shown_value(wanted[row])}, row {row} "
                f"of {first}, is not in that of {name}{remedy}"
            )
        warnings.warn(
            f"The rows of {name} were put in the order of {first}, by their index.",
            UserWarning,
            stacklevel=3,
        )
        arrays[name] = arrays[name].iloc[places]
    return tuple(arrays.values())


def shown_value(value: Any) -> str:
    return repr(value.item() if isinstance(value, np.generic) else value)


def index_of(data: Any) -> Any:
    """Index of a pandas Series or DataFrame, else None; that of a list is a method."""
    index = getattr(data, "index", None)
    return index if hasattr(index, "get_indexer") and hasattr(data, "iloc") else None


def check_finite(array: np.ndarray, argument: str, remedy: str) -> None:
    is_finite = np.isfinite(array)
    if not is_finite.all():
        place = tuple(int(i) for i in np.argwhere(~is_finite)[0])
        where = ", ".join(map(str, place))
        raise UserError(f"{argument}[{where}] is {array[place]}; {remedy}.")


def _numbers(data: Any, argument: str) -> np.ndarray:
    """An array of real numbers."""
    array = to_array(data, argument)
    if array.dtype.kind == "O":
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise UserError(f"{argument} holds something that is not a number ({error}).") from None
    if array.dtype.kind not in "biuf":
        raise UserError(f"{argument} must hold real numbers, not {array.dtype}.")
    return array


def as_probabilities(probs: Any, argument: str = "pred_probs") -> np.ndarray:
    """Predicted probabilities as floats `[N, C]`, at least float32.

    Raises:
      UserError: for another shape, an entry outside [0, 1], or a row that does not sum to 1; the
        message tells if the entries look like logits, logarithms or percent.
    """
    array = _numbers(probs, argument)
    if array.ndim == 1:
        raise UserError(
            f"{argument} must be [N, C], one column per class; of the probability p of the second "
            "of two classes give numpy.stack([1 - p, p], axis=1)."
        )
    if array.ndim != 2 or array.shape[1] < 2:
        raise UserError(f"{argument} must be [N, C] with C >= 2 classes, got {array.shape}.")
    array = array.astype(np.float64 if array.dtype == np.float64 else np.float32)
    check_finite(array, argument, "give probabilities of every example")
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
            f"{argument}[{row}] sums to {sums[row]:.6g}, not to 1; divide every row by its sum if "
            "its entries are probabilities of exclusive classes."
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
    """Logits as finite float32 `[N, C]`.

    Raises:
      UserError: for another shape, an entry that is not finite, or if all rows are probabilities.
    """
    array = _numbers(logits, argument)
    if array.ndim != 2 or array.shape[1] < 2:
        raise UserError(f"{argument} must be [N, C] with C >= 2 classes, got {array.shape}.")
    array = array.astype(np.float32)
    check_finite(array, argument, "give logits of every example")
    sums = array.sum(axis=1, dtype=np.float64)
    if len(array) and (array >= 0).all() and (np.abs(sums - 1) <= _SUM_TOLERANCE).all():
        raise UserError(
            f"{argument} are probabilities: every row sums to 1; give their logarithm, with zeros "
            "replaced by a small number, or the logits before the softmax."
        )
    return array


def as_features(features: Any, argument: str = "features", *, is_wide: bool = False) -> np.ndarray:
    """Features as finite float16 or float32, `[N, D]` or `[N, V, D]` (V views of each example).

    Args:
      features: see above.
      argument: name of the features in messages.
      is_wide: whether all but float16 and float32 become float64, which is to be scaled.

    Raises:
      UserError: for another shape, or an entry that is not finite.
    """
    array = _numbers(features, argument)
    if array.ndim not in (2, 3) or 0 in array.shape[1:]:
        hint = "; of images use images=" if array.ndim == 4 else ""
        hint = "; of one feature give [:, None]" if array.ndim == 1 else hint
        raise UserError(f"{argument} must be [N, D] or [N, V, D], got {array.shape}{hint}.")
    if array.ndim == 3 and array.shape[1] > max(array.shape[2], _MOST_VIEWS):
        raise UserError(
            f"{argument} is {array.shape}, which is {array.shape[1]} views of {array.shape[2]} "
            f"numbers; if the last axis holds the views, give numpy.moveaxis({argument}, 2, 1)."
        )
    check_finite(array, argument, "leave out that example, or fill in a number")
    if is_wide and array.dtype not in (np.float16, np.float32):
        with np.errstate(over="ignore"):
            array = array.astype(np.float64)
        check_finite(array, argument, "scale the features; float64 ends at 1.8e308")
    elif array.dtype != np.float16:
        with np.errstate(over="ignore"):
            cast = array.astype(np.float32, copy=False)
        check_finite(cast, argument, "scale the features; float32 ends at 3e38")
        array = cast
    return array


def as_images(images: Any, argument: str = "images") -> np.ndarray:
    """Images as uint8 `[N, H, W, 3]`.

    Accepts uint8, whole numbers 0 to 255, or floats in [0, 1] (multiplied by 255 and rounded), as
    `[N, H, W, 3]`, grey as `[N, H, W]` or `[N, H, W, 1]`, and lists of PIL images or of arrays of
    one size.

    Raises:
      UserError: for any other shape or range, or images of several sizes.
    """
    if is_hugging_face(images):
        images = column_of(images, _IMAGE_COLUMNS, argument)
    if not hasattr(images, "__array__") or np.asarray(images).dtype.kind == "O":
        images = list(images)
        arrays = [_one_image(image, f"{argument}[{i}]") for i, image in enumerate(images)]
        for i, array in enumerate(arrays):
            if array.shape[:2] != arrays[0].shape[:2]:
                raise UserError(
                    f"{argument}[{i}] is {array.shape[0]} x {array.shape[1]} pixels and "
                    f"{argument}[0] {arrays[0].shape[0]} x {arrays[0].shape[1]}; resize all to "
                    "one size."
                )
        return np.stack(arrays) if arrays else np.zeros((0, 1, 1, 3), np.uint8)
    array = _numbers(images, argument)
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] not in (1, 3):
        raise UserError(
            f"{argument} is {array.shape}, channels first; give numpy.moveaxis({argument}, 1, -1)."
        )
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape[1:]:
        raise UserError(
            f"{argument} must be [N, H, W, 3], or [N, H, W] for grey ones, got {array.shape}."
        )
    array = _to_bytes(array, argument)
    return np.repeat(array, 3, axis=3) if array.shape[3] == 1 else array


def _one_image(image: Any, argument: str) -> np.ndarray:
    """A PIL image or an array as uint8 `[H, W, 3]`."""
    if hasattr(image, "convert") and hasattr(image, "getbands"):
        if image.mode.startswith(("I", "F")):
            raise UserError(
                f"{argument} has mode {image.mode}, whose range is not defined; convert it to "
                "mode L or RGB."
            )
        return np.asarray(image.convert("RGB"))
    array = to_array(image, argument)
    if array.ndim not in (2, 3):
        raise UserError(f"{argument} must be a PIL image or [H, W(, 3)], got {array.shape}.")
    return as_images(array[None], argument)[0]


def _to_bytes(array: np.ndarray, argument: str) -> np.ndarray:
    """Pixels as uint8, by their range."""
    if array.dtype == np.uint8 or not array.size:
        return array.astype(np.uint8)
    if array.dtype.kind == "b":
        return array.astype(np.uint8) * 255
    if array.dtype.kind == "f":
        check_finite(array, argument, "correct that pixel")
    low, high = array.min(), array.max()
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.round(array.astype(np.float32) * 255).astype(np.uint8)
    is_whole = array.dtype.kind != "f" or (array == np.round(array)).all()
    if is_whole and low >= 0 and 1 < high <= 255:
        return array.astype(np.uint8)
    is_wrong = (array < 0) | (array > (255 if is_whole else 1))
    row = int(np.argmax(is_wrong.reshape(len(array), -1).any(axis=1)))
    raise UserError(
        f"{argument}[{row}] has pixels from {array[row].min():.6g} to {array[row].max():.6g}; give "
        "uint8 from 0 to 255 or floats from 0 to 1, before any normalisation."
    )
