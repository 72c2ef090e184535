"""Small images inside a page, as data URIs."""

import base64
import io
import pathlib

import numpy as np

from jaxrobust.data.readers import to_rgb
from jaxrobust.errors import DataError

SMALL = 64
"""Pixels; images up to this size are embedded unchanged, and magnified without smoothing."""

_SIDE = 192  # pixels, the longer side of a thumbnail


def thumbnail(image: str | np.ndarray, root: pathlib.Path | None) -> str | None:
    """A file below `root`, or uint8 `[H, W, 3]`, as a data URI; None if it cannot be shown."""
    if isinstance(image, str):
        return None if root is None else _of_file(root / image)
    return _of_array(image)


def _of_file(path: pathlib.Path) -> str | None:
    """An image file as a JPEG data URI; None if it cannot be decoded."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.draft(None, (2 * _SIDE, 2 * _SIDE))  # far faster for large JPEGs
            rgb = to_rgb(path.name, image)
    except (OSError, DataError):
        return None
    rgb.thumbnail((_SIDE, _SIDE))
    return _data_uri(rgb, "JPEG", quality=80)


def _of_array(pixels: np.ndarray) -> str:
    from PIL import Image

    image = Image.fromarray(pixels)
    if max(image.size) <= SMALL:
        return _data_uri(image, "PNG")
    image.thumbnail((_SIDE, _SIDE))
    return _data_uri(image, "JPEG", quality=80)


def _data_uri(image, kind: str, **options) -> str:
    content = io.BytesIO()
    image.save(content, kind, **options)
    encoded = base64.b64encode(content.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{encoded}"
