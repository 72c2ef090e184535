"""Augmentation of single images on the host, for streams that decode in worker processes.

A transform is a pure function `(image, generator) -> uint8 [H, W, 3]` of a Pillow image in RGB and
a NumPy generator; the generator is its only source of randomness, so with a generator seeded by
(seed, epoch, position) any worker gives the same pixels.
"""

import functools
from collections.abc import Callable
from typing import cast

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from jaxrobust.data.readers import fit_square
from jaxrobust.errors import unknown_name

Transform = Callable[[Image.Image, np.random.Generator], np.ndarray]

_FILL = (128, 128, 128)
_CUTOUT_COLOR = (125, 122, 113)


def multilabel_transform(size: int, *, train: bool) -> Transform:
    """The transform of the images that L2D trains and tests on.

    Images are squeezed to a square, so that no object is cut off; for training, `random_cutout` and
    `rand_augment` follow, as in the authors' code.

    Args:
      size: side of the result in pixels.
      train: whether to augment.

    Returns:
      The transform; it can be pickled.

    References:
      Yang et al., ICCV 2023, https://arxiv.org/abs/2308.06453.
    """
    return functools.partial(_multilabel, size=size, train=train)


def _multilabel(
    image: Image.Image, generator: np.random.Generator, *, size: int, train: bool
) -> np.ndarray:
    image = image.resize((size, size), Image.Resampling.BILINEAR)
    if not train:
        return np.asarray(image)
    pixels = random_cutout(np.asarray(image), generator)
    return np.asarray(rand_augment(Image.fromarray(pixels), generator))


def random_cutout(
    image: np.ndarray, generator: np.random.Generator, *, factor: float = 0.5
) -> np.ndarray:
    """`cutout` around a uniformly drawn pixel, in a uniformly drawn colour.

    Args:
      image: uint8 [H, W, 3].
      generator: of the draws.
      factor: side of the rectangle as a share of the image's.

    Returns:
      uint8 [H, W, 3].
    """
    center = generator.integers(image.shape[:2])
    return cutout(image, tuple(center), generator.integers(256, size=3), factor=factor)


def cutout(
    image: np.ndarray, center: tuple[int, int], color: np.ndarray, *, factor: float = 0.5
) -> np.ndarray:
    """Paints a rectangle over an image, clipped to the image.

    It covers rows `y - h .. y + h`, inclusive, with `h` half of `round(factor * H)`; columns
    likewise.

    Args:
      image: uint8 [H, W, 3].
      center: (y, x) in pixels.
      color: [3] in 0..255.
      factor: side of the rectangle as a share of the image's.

    Returns:
      uint8 [H, W, 3].

    References:
      DeVries and Taylor, arXiv 1708.04552; L2D's code includes both ends.
    """
    rows, columns = (
        slice(max(middle - half, 0), middle + half + 1)
        for middle, half in zip(
            center, (int(factor * side + 0.5) // 2 for side in image.shape[:2]), strict=True
        )
    )
    result = image.copy()
    result[rows, columns] = color
    return result


def rand_augment(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Applies two operations of random strength, each with probability 1/2.

    Each is drawn independently from 15 operations and magnitudes 1 to 9.

    Args:
      image: RGB.
      generator: of the draws.

    Returns:
      RGB of the same size.

    References:
      Cubuk et al., "RandAugment", NeurIPS 2020, with the operations and ranges common in
      multi-label code (every magnitude, not one).
    """
    for _ in range(2):
        name = OPERATIONS[generator.integers(len(OPERATIONS))]
        magnitude = int(generator.integers(1, 10))
        if generator.random() < 0.5:
            image = apply_operation(image, name, magnitude, generator)
    return image


OPERATIONS = (
    "AutoContrast",
    "Brightness",
    "Color",
    "Contrast",
    "Cutout",
    "Equalize",
    "Invert",
    "Posterize",
    "Rotate",
    "Sharpness",
    "ShearX",
    "ShearY",
    "Solarize",
    "TranslateX",
    "TranslateY",
)


def apply_operation(
    image: Image.Image, name: str, magnitude: int, generator: np.random.Generator
) -> Image.Image:
    """Applies one operation of `rand_augment`; pixels from outside the image are grey.

    Args:
      image: RGB.
      name: one of `OPERATIONS`.
      magnitude: 1 to 9. "AutoContrast", "Equalize" and "Invert" have none; "Rotate" turns only
        counter-clockwise; the other geometric and the enhancing ones draw their direction.
      generator: draws the direction, and the position of "Cutout".

    Returns:
      RGB of the same size.

    Raises:
      ValueError: if the operation is unknown.
    """
    share = magnitude / 9
    match name:
        case "AutoContrast":
            return ImageOps.autocontrast(image)
        case "Equalize":
            return ImageOps.equalize(image)
        case "Invert":
            return ImageOps.invert(image)
        case "Brightness" | "Color" | "Contrast" | "Sharpness":
            change = _sign(generator) * 0.9 * share
            return getattr(ImageEnhance, name)(image).enhance(1 + change)
        case "Posterize":
            return ImageOps.posterize(image, round(8 - 4 * share))
        case "Solarize":
            return ImageOps.solarize(image, cast(int, 256 * (1 - share)))  # it only compares
        case "ShearX":
            return _affine(image, _sign(generator) * 0.3 * share, 0, shear=True)
        case "ShearY":
            return _affine(image, 0, _sign(generator) * 0.3 * share, shear=True)
        case "TranslateX":
            return _affine(image, _sign(generator) * 150 / 331 * share * image.width, 0)
        case "TranslateY":
            return _affine(image, 0, _sign(generator) * 150 / 331 * share * image.height)
        case "Rotate":
            return image.rotate(30 * share, fillcolor=_FILL)
        case "Cutout":
            return _small_square(image, round(20 * share), generator)
    raise ValueError(unknown_name("operation", name, OPERATIONS))


def _sign(generator: np.random.Generator) -> int:
    return int(generator.choice((-1, 1)))


def _affine(image: Image.Image, x: float, y: float, *, shear: bool = False) -> Image.Image:
    coefficients = (1, x, 0, y, 1, 0) if shear else (1, 0, x, 0, 1, y)
    resample = Image.Resampling.BICUBIC if shear else Image.Resampling.NEAREST
    return image.transform(
        image.size, Image.Transform.AFFINE, coefficients, resample, fillcolor=_FILL
    )


def _small_square(image: Image.Image, side: int, generator: np.random.Generator) -> Image.Image:
    x, y = generator.integers(image.size)
    half = side // 2
    pixels = np.array(image)
    pixels[max(y - half, 0) : y + half, max(x - half, 0) : x + half] = _CUTOUT_COLOR
    return Image.fromarray(pixels)


CROPS = ("center", "random", "random_resized")


def crop_transform(
    size: int,
    crop: str,
    *,
    shorter_side: int = 0,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Transform:
    """The transform to a square that classifiers of photographs are trained and tested on.

    The resampling filter is a triangle (bilinear, widened when the image shrinks).

    Args:
      size: side of the result in pixels.
      crop: "center", "random" (uniform position) or "random_resized" (a rectangle of random area,
        aspect ratio and position, squeezed to the square).
      shorter_side: length in pixels to which the shorter side is scaled first. At 0,
        "random_resized" takes the unscaled image, and the others scale the shorter side to `size`
        pixels.
      area: minimum and maximum area of the random rectangle, as a share of the image.
      aspect: minimum and maximum width / height of the random rectangle.

    Returns:
      The transform; it can be pickled.

    Raises:
      ValueError: if the crop is unknown, or would not fit.
    """
    if crop not in CROPS:
        raise ValueError(unknown_name("crop", crop, CROPS))
    if crop != "random_resized" and 0 < shorter_side < size:
        raise ValueError(
            f"A {crop} crop of {size} pixels does not fit into images with a shorter side of "
            f"{shorter_side}; raise shorter_side, or leave it at 0."
        )
    return functools.partial(
        _crop, size=size, crop=crop, shorter_side=shorter_side, area=area, aspect=aspect
    )


def _crop(
    image: Image.Image,
    generator: np.random.Generator,
    *,
    size: int,
    crop: str,
    shorter_side: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> np.ndarray:
    if crop == "center" and not shorter_side:
        return fit_square(image, size)
    if shorter_side or crop == "random":
        image = _with_shorter_side(image, shorter_side or size)
    if crop == "random_resized":
        left, top, width, height = _random_rectangle(image.size, generator, area, aspect)
        image = image.crop((left, top, left + width, top + height))
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    room = np.subtract(image.size, size)
    left, top = room // 2 if crop == "center" else generator.integers(room + 1)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _with_shorter_side(image: Image.Image, length: int) -> Image.Image:
    """The whole image, so scaled that its shorter side is `length` pixels."""
    scale = length / min(image.size)
    width, height = (max(length, round(scale * side)) for side in image.size)
    if (width, height) == image.size:
        return image
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _random_rectangle(
    size: tuple[int, int],
    generator: np.random.Generator,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> tuple[int, int, int, int]:
    """(left, top, width, height): area uniform, aspect uniform in its logarithm.

    A draw that does not fit is repeated, ten times at most; then it is the largest part in the
    middle whose aspect is admitted.
    """
    for _ in range(10):
        pixels = generator.uniform(*area) * size[0] * size[1]
        ratio = np.exp(generator.uniform(*np.log(aspect)))
        width, height = round(np.sqrt(pixels * ratio)), round(np.sqrt(pixels / ratio))
        if 0 < width <= size[0] and 0 < height <= size[1]:
            left, top = generator.integers((size[0] - width + 1, size[1] - height + 1))
            return int(left), int(top), width, height
    ratio = np.clip(size[0] / size[1], *aspect)
    width = min(size[0], round(size[1] * ratio))
    height = min(size[1], round(size[0] / ratio))
    return (size[0] - width) // 2, (size[1] - height) // 2, width, height
