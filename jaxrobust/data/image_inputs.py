"""Users' images: arrays, Pillow images, paths and Hugging Face data sets, as uint8."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxrobust.data.inputs import as_numbers, column_of, is_hugging_face, to_array
from jaxrobust.data.readers import decode_image, to_rgb
from jaxrobust.errors import UserError

_COLUMNS = ("image", "img")


@dataclasses.dataclass(frozen=True, eq=False)
class OpenedImages:
    """N images, each of which is read when it is asked for."""

    items: Any  # an array `[N, H, W, 1 or 3]`, or N arrays, Pillow images or paths
    argument: str  # their name in messages
    scale: int  # by which pixels that are not uint8 are multiplied

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> np.ndarray:
        """Image i, uint8 `[H, W, 3]`."""
        return _to_bytes(_pixels(self.items[i], self.name(i)), self.scale)

    def name(self, i: int) -> str:
        """Of image i, for messages."""
        item = self.items[i] if isinstance(self.items, list) else None
        return str(item) if _is_path(item) else f"{self.argument}[{i}]"


def open_images(images: Any, argument: str = "images") -> OpenedImages:
    """Images of any sizes, in all the forms of `as_images`."""
    if is_hugging_face(images):
        images = column_of(images, _COLUMNS, argument)
    if _is_path(images) or _is_pillow(images):
        raise UserError(f"{argument} is one image; give a list of images, [{argument}].")
    array = to_array(images, argument) if hasattr(images, "__array__") else None
    if array is not None and array.dtype.kind not in "OU":
        array = _checked(as_numbers(array, argument), argument)
        return OpenedImages(array, argument, _scale(array, argument))
    items = images if array is None else array.tolist()
    # A column of a Hugging Face data set decodes each image when it is asked for.
    items = items if isinstance(items, Sequence) else list(items)
    if len(items) and _is_pillow(items[0]):
        return OpenedImages(items, argument, 1)
    items = list(items)
    pixels = (
        _pixels(item, f"{argument}[{i}]")
        for i, item in enumerate(items)
        if not (_is_path(item) or _is_pillow(item))
    )
    return OpenedImages(items, argument, _scale(pixels, argument))


def as_images(images: Any, argument: str = "images", *, is_batch: bool = False) -> np.ndarray:
    """Images as uint8 `[N, H, W, 3]`.

    Accepts uint8, whole numbers 0 to 255, or floats in [0, 1] (multiplied by 255 and rounded), as
    `[N, H, W, 3]`, grey as `[N, H, W]` or `[N, H, W, 1]`, or with the channels before H as PyTorch
    has them; lists of arrays, Pillow images or paths, of one size; and Hugging Face data sets with
    a column `image`. Three grey images might be the channels of one: refused unless `is_batch`.
    """
    if is_batch and getattr(images, "ndim", 0) == 3:
        images = images[..., None]
    opened = open_images(images, argument)
    if isinstance(opened.items, np.ndarray):
        return _to_bytes(opened.items, opened.scale)
    arrays = [opened[i] for i in range(len(opened))]
    for i, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise UserError(
                f"{argument}[{i}] is {array.shape[0]} x {array.shape[1]} pixels and {argument}[0] "
                f"{arrays[0].shape[0]} x {arrays[0].shape[1]}; resize all to one size."
            )
    return np.stack(arrays) if arrays else np.zeros((0, 1, 1, 3), np.uint8)


def _is_pillow(image: Any) -> bool:
    return hasattr(image, "convert") and hasattr(image, "getbands")


def _is_path(image: Any) -> bool:
    return isinstance(image, str | os.PathLike)


def _pixels(image: Any, name: str) -> np.ndarray:
    """One image as numbers `[H, W, 1 or 3]`."""
    if _is_pillow(image):
        return np.asarray(to_rgb(name, image))
    if _is_path(image):
        return np.asarray(decode_image(name, pathlib.Path(image).expanduser()))
    array = as_numbers(image, name) if hasattr(image, "__len__") else np.empty(())
    if array.ndim not in (2, 3):
        raise UserError(f"{name} must be a Pillow image, a path or [H, W(, 3)], got {array.shape}.")
    array = array[..., None] if array.ndim == 2 else array
    return _checked(array[None], name)[0]


def _checked(array: np.ndarray, argument: str) -> np.ndarray:
    """Images `[N, H, W, 1 or 3]` of an array that may lack the last axis or have it before H."""
    if array.ndim == 3 and array.shape[2] in (3, 4) and array.shape[1] > 4:
        raise UserError(f"{argument} is {array.shape}, one image; give {argument}[None].")
    if array.ndim == 3 and array.shape[0] == 3 and min(array.shape) > 1:
        raise UserError(
            f"{argument} is {array.shape}, one image with its channels first or three grey ones; "
            f"give [H, W, 3] in a list, [numpy.moveaxis({argument}, 0, -1)], or "
            f"{argument}[..., None] if they are grey."
        )
    array = array[..., None] if array.ndim == 3 else array
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] not in (1, 3):
        array = np.moveaxis(array, 1, -1)
    if array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape[1:]:
        raise UserError(
            f"{argument} must be [N, H, W, 3], or [N, H, W] for grey ones, got {array.shape}."
        )
    return array


def _scale(arrays: Iterable[np.ndarray], argument: str) -> int:
    """255 for floats in [0, 1], 1 for whole numbers 0 to 255, by the range of all images.

    They are looked at one at a time, as the array may be a file's.
    """
    ranges, is_float = {}, True
    for i, array in enumerate(arrays):
        if array.dtype.kind == "b" or array.dtype == np.uint8 or not array.size:
            continue
        if not (is_finite := np.isfinite(array)).all():
            place = ", ".join(map(str, (i, *np.argwhere(~is_finite)[0])))
            raise UserError(f"{argument}[{place}] is {array[~is_finite][0]}; correct that pixel.")
        is_float = is_float and array.dtype.kind == "f"
        ranges[i] = array.min(), array.max(), bool((array == np.round(array)).all())
    low = min((low for low, _, _ in ranges.values()), default=0)
    high = max((high for _, high, _ in ranges.values()), default=1)
    is_whole = all(whole for _, _, whole in ranges.values())
    if low >= 0 and high <= 1 and is_float:
        return 255
    if low >= 0 and 1 < high <= 255 and is_whole:
        return 1
    most = 255 if is_whole else 1
    wrong = (i for i, (low, high, _) in ranges.items() if low < 0 or high > most)
    i = next(wrong, next(iter(ranges)))
    raise UserError(
        f"{argument}[{i}] has pixels from {ranges[i][0]:.6g} to {ranges[i][1]:.6g}; give uint8 "
        "from 0 to 255 or floats from 0 to 1, before any normalisation."
    )


def _to_bytes(array: np.ndarray, scale: int) -> np.ndarray:
    """uint8 `[..., 3]` of `[..., 1 or 3]`."""
    if array.dtype.kind == "b":
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype != np.uint8:
        array = array if scale == 1 else np.round(array.astype(np.float32) * np.float32(scale))
        array = array.astype(np.uint8)
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else np.ascontiguousarray(array)
