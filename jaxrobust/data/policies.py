"""AutoAugment policies and Cutout on the device: pure functions of a key and a batch of images.

All operations reproduce Pillow on 8-bit images bit for bit, on every backend: the arithmetic is in
integers, or in floats whose products are exact. The one exception is "ShearXBicubic", where a few
pixels in a million differ by one level.

Cubuk et al., "AutoAugment: Learning Augmentation Strategies from Data", CVPR 2019; DeVries and
Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", arXiv 1708.04552.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.errors import unknown_name


class Op(NamedTuple):
    """One operation of a sub-policy.

    Attributes:
      name: one of `OPS`.
      prob: probability that the operation is applied.
      values: one value, or two values, each drawn with probability 1/2.
    """

    name: str
    prob: float
    values: tuple[float, ...] = (0.0,)


class Policy(NamedTuple):
    """Sub-policies, one of which is drawn for every image.

    Attributes:
      sub_policies: sequences of operations, all of the same length.
      fill: level, 0..255, of pixels that a geometric operation moves in from outside the image.
    """

    sub_policies: tuple[tuple[Op, ...], ...]
    fill: int


_AFFINE = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
_LEVELS = ("Invert", "Solarize", "Posterize", "AutoContrast", "Equalize")
_BLENDS = ("Color", "Brightness", "Contrast", "Sharpness")
OPS = (*_AFFINE, "ShearXBicubic", *_LEVELS, *_BLENDS)

CIFAR10_POLICY = Policy(
    fill=0,
    sub_policies=(
        (Op("Invert", 0.1), Op("Contrast", 0.2, (1.18,))),
        (Op("Rotate", 0.7, (-6, 6)), Op("TranslateX", 0.3, (-9, 9))),
        (Op("Sharpness", 0.8, (0.28,)), Op("Sharpness", 0.9, (0.64,))),
        (Op("ShearY", 0.5, (-0.24, 0.24)), Op("TranslateY", 0.7, (-9, 9))),
        (Op("AutoContrast", 0.5), Op("Equalize", 0.9)),
        (Op("ShearY", 0.2, (-0.21, 0.21)), Op("Posterize", 0.3, (2,))),
        (Op("Color", 0.4, (0.64,)), Op("Brightness", 0.6, (1.36,))),
        (Op("Sharpness", 0.3, (1.72,)), Op("Brightness", 0.7, (1.72,))),
        (Op("Equalize", 0.6), Op("Equalize", 0.5)),
        (Op("Contrast", 0.6, (1.36,)), Op("Sharpness", 0.6, (1.0,))),
        (Op("Color", 0.7, (1.36,)), Op("TranslateX", 0.5, (-8, 8))),
        (Op("Equalize", 0.3), Op("AutoContrast", 0.4)),
        (Op("TranslateY", 0.4, (-3, 3)), Op("Sharpness", 0.2, (1.18,))),
        (Op("Brightness", 0.9, (1.18,)), Op("Color", 0.2, (1.18,))),
        (Op("Solarize", 0.5, (205,)), Op("Invert", 0.0)),
        (Op("Equalize", 0.2), Op("AutoContrast", 0.6)),
        (Op("Equalize", 0.2), Op("Equalize", 0.6)),
        (Op("Color", 0.9, (1.72,)), Op("Equalize", 0.6)),
        (Op("AutoContrast", 0.8), Op("Solarize", 0.2, (52,))),
        (Op("Brightness", 0.1, (0.64,)), Op("Color", 0.7, (0.1,))),
        (Op("Solarize", 0.4, (128,)), Op("AutoContrast", 0.9)),
        (Op("TranslateY", 0.9, (-9, 9)), Op("TranslateY", 0.7, (-9, 9))),
        (Op("AutoContrast", 0.9), Op("Solarize", 0.8, (180,))),
        (Op("Equalize", 0.8), Op("Invert", 0.1)),
        (Op("TranslateY", 0.7, (-9, 9)), Op("AutoContrast", 0.9)),
    ),
)
"""AutoAugment's policy for CIFAR-10 as DPC and BLDR use it, on CIFAR-100 too.

It is the open-source form with shifts in pixels; Color of sub-policy 13 is 1.18 there, where the
published list has level 8 (1.54).
"""

IMAGENET_POLICY = Policy(
    fill=128,
    sub_policies=(
        (Op("Posterize", 0.4, (4,)), Op("Rotate", 0.6, (30,))),
        (Op("Solarize", 0.6, (113.8,)), Op("AutoContrast", 0.6)),
        (Op("Equalize", 0.8), Op("Equalize", 0.6)),
        (Op("Posterize", 0.6, (5,)), Op("Posterize", 0.6, (5,))),
        (Op("Equalize", 0.4), Op("Solarize", 0.2, (142.2,))),
        (Op("Equalize", 0.4), Op("Rotate", 0.8, (26.67,))),
        (Op("Solarize", 0.6, (170.7,)), Op("Equalize", 0.6)),
        (Op("Posterize", 0.8, (6,)), Op("Equalize", 1.0)),
        (Op("Rotate", 0.2, (10,)), Op("Solarize", 0.6, (28.4,))),
        (Op("Equalize", 0.6), Op("Posterize", 0.4, (5,))),
        (Op("Rotate", 0.8, (26.67,)), Op("Color", 0.4, (1.0,))),
        (Op("Rotate", 0.4, (30,)), Op("Equalize", 0.6)),
        (Op("Equalize", 0.0), Op("Equalize", 0.8)),
        (Op("Invert", 0.6), Op("Equalize", 1.0)),
        (Op("Color", 0.6, (0.6, 1.4)), Op("Contrast", 1.0, (0.2, 1.8))),
        (Op("Rotate", 0.8, (26.67,)), Op("Color", 1.0, (0.8, 1.2))),
        (Op("Color", 0.8, (0.2, 1.8)), Op("Solarize", 0.8, (56.9,))),
        (Op("Sharpness", 0.4, (0.3, 1.7)), Op("Invert", 0.6)),
        (Op("ShearXBicubic", 0.6, (-0.1667, 0.1667)), Op("Equalize", 1.0)),
        (Op("Color", 0.4, (1.0,)), Op("Equalize", 0.6)),
        (Op("Equalize", 0.4), Op("Solarize", 0.2, (142.2,))),
        (Op("Solarize", 0.6, (113.8,)), Op("AutoContrast", 0.6)),
        (Op("Invert", 0.6), Op("Equalize", 1.0)),
        (Op("Color", 0.6, (0.6, 1.4)), Op("Contrast", 1.0, (0.2, 1.8))),
        (Op("Equalize", 0.8), Op("Equalize", 0.6)),
    ),
)
"""AutoAugment's policy for ImageNet in the open-source form that DPC uses for WebVision."""


def auto_augment(key: jax.Array, images: jax.Array, policy: Policy = CIFAR10_POLICY) -> jax.Array:
    """Draws a sub-policy for every image and applies its operations in order.

    Each operation is applied with its own probability; if it has two values, one is drawn.

    The cost does not grow with the number of sub-policies, nor is every operation computed for
    every image. Operations fall into families that differ in parameters only: one affine gather,
    one look-up table of 256 levels per channel, one blend with a base image. At each of the two
    positions, an image passes once through every family that occurs there, with identity parameters
    if another family was drawn. The most expensive parts are two gathers of all pixels and a
    histogram (a scatter, for Equalize) per position; 64-bit floats are not used.

    Args:
      key: PRNG key.
      images: uint8 `[B, H, W, 3]`.
      policy: `CIFAR10_POLICY`, `IMAGENET_POLICY` or another; static under jit.

    Returns:
      uint8 `[B, H, W, 3]`.

    Raises:
      ValueError: on images that are not uint8 `[B, H, W, 3]`, or an unknown operation.

    References:
      AutoAugment; DPC and BLDR, strong views.
    """
    _check_images(images)
    batch = images.shape[0]
    policy_key, *op_keys = jax.random.split(key, 1 + len(policy.sub_policies[0]))
    drawn = jax.random.randint(policy_key, (batch,), 0, len(policy.sub_policies))
    for op_key, ops in zip(op_keys, zip(*policy.sub_policies, strict=True), strict=True):
        prob_key, value_key = jax.random.split(op_key)
        settings = sorted({(op.name, value) for op in ops for value in op.values})
        rows = [[settings.index((op.name, op.values[i])) for i in (0, -1)] for op in ops]
        setting = jnp.asarray(rows)[drawn, jax.random.randint(value_key, (batch,), 0, 2)]
        probs = jnp.asarray([op.prob for op in ops], jnp.float32)[drawn]
        carried_out = jax.random.uniform(prob_key, (batch,), jnp.float32) < probs
        changed = _apply(images, settings, setting, policy.fill)
        images = jnp.where(carried_out[:, None, None, None], changed, images)
    return images


def apply_op(images: jax.Array, name: str, value: float = 0.0, *, fill: int = 0) -> jax.Array:
    """Applies one operation to every image.

    Values: "ShearX", "ShearXBicubic" and "ShearY", columns or rows per row or column;
    "TranslateX" and "TranslateY", pixels to the left or up; "Rotate", degrees counter-clockwise;
    "Solarize", level from which on to invert; "Posterize", bits to keep; "Color", "Brightness",
    "Contrast" and "Sharpness", enhancement factor, 1 for none. The others take no value. Geometric
    operations look up the nearest pixel, except for "ShearXBicubic".

    Args:
      images: uint8 `[B, H, W, 3]`.
      name: one of `OPS`.
      value: value of the operation; static under jit.
      fill: level of pixels from outside, 0..255.

    Returns:
      uint8 `[B, H, W, 3]`.

    Raises:
      ValueError: on images that are not uint8 `[B, H, W, 3]`, or an unknown operation.
    """
    _check_images(images)
    return _apply(images, [(name, value)], jnp.zeros(images.shape[0], jnp.int32), fill)


def cutout(key: jax.Array, images: jax.Array, *, size: int = 16) -> jax.Array:
    """Sets one square of every image to zero, in all channels.

    The centre is drawn from all pixels, so the square may be cut off at the border. On normalised
    images, as in the papers, zero is the mean colour.

    Args:
      key: PRNG key.
      images: `[B, H, W, C]` of any dtype.
      size: side of the square in pixels, even.

    Returns:
      `[B, H, W, C]` of the dtype of `images`.

    Raises:
      ValueError: on images that are not of rank 4, or a size that is odd or negative.

    References:
      Cutout; DPC and BLDR, strong views.
    """
    if images.ndim != 4:
        raise ValueError(f"images must be [B, H, W, C], but have shape {images.shape}.")
    batch, height, width, _ = images.shape
    limits = jnp.array([height, width], jnp.int32)
    centers = jax.random.randint(key, (batch, 2), 0, limits[None, :])
    keep = cutout_mask(centers, height, width, size=size)
    return jnp.where(keep[..., None], images, jnp.zeros_like(images))


def cutout_mask(centers: jax.Array, height: int, width: int, *, size: int = 16) -> jax.Array:
    """The pixels that Cutout keeps: all but rows `y - size/2 .. y + size/2 - 1` and such columns.

    Args:
      centers: integers `[B, 2]`, (y, x).
      height: height of the images.
      width: width of the images.
      size: side of the square in pixels, even.

    Returns:
      Bool `[B, height, width]`.

    Raises:
      ValueError: on a size that is odd or negative.
    """
    if size < 0 or size % 2:
        raise ValueError(f"size must be an even number of pixels, got {size}.")

    def in_square(center, length):
        offsets = jnp.arange(length, dtype=jnp.int32)[None, :] - center[:, None]
        return (-size // 2 <= offsets) & (offsets < size // 2)

    rows, columns = in_square(centers[:, 0], height), in_square(centers[:, 1], width)
    return ~(rows[:, :, None] & columns[:, None, :])


def _check_images(images: jax.Array) -> None:
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != jnp.uint8:
        raise ValueError(
            f"images must be uint8 [B, H, W, 3], got {images.dtype} of shape {images.shape}."
        )


# (name, value) of an operation.
_Setting = tuple[str, float]


def _apply(
    images: jax.Array, settings: Sequence[_Setting], setting: jax.Array, fill: int
) -> jax.Array:
    """Carries out `settings[setting[i]]` on image i, through the families that occur."""
    names = {name for name, _ in settings}
    for name in names - set(OPS):
        raise ValueError(unknown_name("operation", name, OPS))
    if names & set(_AFFINE):
        images = _warp(images, settings, setting, fill)
    if "ShearXBicubic" in names:
        images = _shear_x_bicubic(images, settings, setting, fill)
    if names & set(_LEVELS):
        images = _map_levels(images, settings, setting)
    if names & set(_BLENDS):
        images = _blend(images, settings, setting)
    return images


def _is_op(name: str, settings: Sequence[_Setting], setting: jax.Array) -> jax.Array:
    """Bool `[B]`, whether an image's operation is the named one."""
    return jnp.asarray([other == name for other, _ in settings])[setting]


def _warp(
    images: jax.Array, settings: Sequence[_Setting], setting: jax.Array, fill: int
) -> jax.Array:
    """Nearest-pixel affine maps."""
    batch, height, width, channels = images.shape
    maps = jnp.asarray([_affine_map(*s, height, width) for s in settings], jnp.int32)[setting]
    a, b, c, d, e, f = (maps[:, i, None, None] for i in range(6))
    rows = jnp.arange(height, dtype=jnp.int32)[None, :, None]
    columns = jnp.arange(width, dtype=jnp.int32)[None, None, :]
    x = (a * columns + b * rows + c) >> 16
    y = (d * columns + e * rows + f) >> 16
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    source = jnp.where(inside, y * width + x, 0).reshape(batch, -1, 1)
    moved = jnp.take_along_axis(images.reshape(batch, -1, channels), source, axis=1)
    return jnp.where(inside[..., None], moved.reshape(images.shape), jnp.uint8(fill))


def _affine_map(name: str, value: float, height: int, width: int) -> list[int]:
    """Where the pixel (x, y) comes from, `((a x + b y + c) >> 16, (d x + e y + f) >> 16)`.

    Pillow, too, steps in 1/65536 of a pixel; with floats, pixels on the edge between two would
    differ.
    """
    a, b, c, d, e, f = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0
    if name == "ShearX":
        b = value
    elif name == "ShearY":
        d = value
    elif name == "TranslateX":
        c = value
    elif name == "TranslateY":
        f = value
    elif name == "Rotate":
        # Rounded like Pillow's.
        cos = round(math.cos(math.radians(value)), 15)
        sin = round(math.sin(math.radians(value)), 15)
        a, b, d, e = cos, -sin, sin, cos
        c = width / 2 - (a * width + b * height) / 2
        f = height / 2 - (d * width + e * height) / 2
    at_centres = (a, b, c + (a + b) / 2, d, e, f + (d + e) / 2)
    return [math.floor(v * 65536 + 0.5) for v in at_centres]


def _shear_x_bicubic(
    images: jax.Array, settings: Sequence[_Setting], setting: jax.Array, fill: int
) -> jax.Array:
    """Horizontal shear with cubic interpolation between columns (a = -1, as in Pillow)."""
    _, height, width, _ = images.shape
    slopes = np.array([value if name == "ShearXBicubic" else 0 for name, value in settings])
    shifts = slopes[:, None] * (np.arange(height) + 0.5)
    whole = np.floor(shifts)
    part = jnp.asarray(shifts - whole, jnp.float32)[setting][:, :, None]
    column = jnp.asarray(whole, jnp.int32)[setting][:, :, None]
    column = column + jnp.arange(width, dtype=jnp.int32)[None, None, :]

    def taken(offset):
        source = jnp.clip(column + offset, 0, width - 1)[..., None]
        return jnp.take_along_axis(images, source, axis=2).astype(jnp.float32)

    p0, p1, p2, p3 = taken(-1), taken(0), taken(1), taken(2)
    t = part[..., None]
    # In this form, and not with one weight a column, equal columns give exactly their level.
    cubic = p1 + t * ((p2 - p0) + t * ((2 * (p0 - p1) + p2 - p3) + t * (p1 - p0 + p3 - p2)))
    sheared = jnp.clip(cubic, 0, 255).astype(jnp.uint8)
    nearest = jnp.where(part >= 0.5, column + 1, column)
    inside = (nearest >= 0) & (nearest < width)
    sheared = jnp.where(inside[..., None], sheared, jnp.uint8(fill))
    is_shear = _is_op("ShearXBicubic", settings, setting)
    return jnp.where(is_shear[:, None, None, None], sheared, images)


def _map_levels(images: jax.Array, settings: Sequence[_Setting], setting: jax.Array) -> jax.Array:
    """Operations that send equal levels of a channel to equal levels: one table per channel."""
    batch, _, _, channels = images.shape
    names = {name for name, _ in settings}
    table = jnp.asarray(np.stack([_level_table(*s) for s in settings]))[setting][:, None, :]
    table = jnp.broadcast_to(table, (batch, channels, 256))
    if "AutoContrast" in names:
        is_op = _is_op("AutoContrast", settings, setting)[:, None, None]
        table = jnp.where(is_op, _auto_contrast_table(images), table)
    # Position of a pixel's level in the tables of its image, laid end to end.
    position = images.astype(jnp.int32) + 256 * jnp.arange(channels, dtype=jnp.int32).reshape(
        1, 1, 1, -1
    )
    position = position.reshape(batch, -1)
    if "Equalize" in names:
        is_op = _is_op("Equalize", settings, setting)[:, None, None]
        image_of = jnp.arange(batch, dtype=jnp.int32)[:, None]
        counts = jnp.zeros((batch, channels * 256), jnp.int32).at[image_of, position].add(1)
        equalized = _equalize_table(counts.reshape(batch, channels, 256))
        table = jnp.where(is_op, equalized, table)
    mapped = jnp.take_along_axis(table.reshape(batch, -1), position, axis=1)
    return mapped.astype(jnp.uint8).reshape(images.shape)


def _level_table(name: str, value: float) -> np.ndarray:
    """int32 `[256]`: new levels where they do not depend on the image, else the same."""
    levels = np.arange(256, dtype=np.int32)
    if name == "Invert":
        return 255 - levels
    if name == "Solarize":
        return np.where(levels < value, levels, 255 - levels)
    if name == "Posterize":
        return levels & ~(2 ** (8 - int(value)) - 1)
    return levels


def _auto_contrast_table(images: jax.Array) -> jax.Array:
    """int32 `[B, C, 256]`: the range of every channel stretched to 0..255."""
    low = jnp.min(images, axis=(1, 2)).astype(jnp.int32)
    high = jnp.max(images, axis=(1, 2)).astype(jnp.int32)
    levels = jnp.arange(256, dtype=jnp.int32)[None, None, :]
    span = jnp.maximum(high - low, 1)[..., None]
    stretched = jnp.clip(255 * jnp.maximum(levels - low[..., None], 0) // span, 0, 255)
    octets = jnp.repeat(jnp.asarray(_auto_contrast_shortfall())[low, high], 8, axis=-1)
    shortfall = (octets.astype(jnp.int32) >> (levels & 7)) & 1
    return jnp.where((high > low)[..., None], stretched - shortfall, levels)


@functools.cache
def _auto_contrast_shortfall() -> np.ndarray:
    """uint8 `[256, 256, 32]`: for lowest and highest level, one bit a level, set where Pillow falls
    one short of the exact result.

    It multiplies in 64-bit floats and truncates, and so loses some results that are whole numbers,
    the 255 of the highest level among them. No device is trusted with 64-bit floats.
    """
    levels = np.arange(256)
    bits = np.zeros((256, 256, 32), np.uint8)
    for low in range(255):
        span = np.arange(1, 256 - low)[:, None]
        scale = 255.0 / span
        pillow = np.clip((levels * scale + -low * scale).astype(int), 0, 255)
        exact = np.clip(255 * np.maximum(levels - low, 0) // span, 0, 255)
        bits[low, low + 1 :] = np.packbits(pillow < exact, axis=1, bitorder="little")
    return bits


def _equalize_table(counts: jax.Array) -> jax.Array:
    """int32 `[B, C, 256]`: levels spread so that their histogram `counts` becomes flat."""
    levels = jnp.arange(256, dtype=jnp.int32)[None, None, :]
    highest = jnp.max(jnp.where(counts > 0, levels, 0), axis=-1, keepdims=True)
    total = jnp.sum(counts, axis=-1, keepdims=True, dtype=jnp.int32)
    step = (total - jnp.take_along_axis(counts, highest, axis=-1)) // 255
    below = jnp.cumsum(counts, axis=-1, dtype=jnp.int32) - counts
    spread = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, spread, levels)


def _blend(images: jax.Array, settings: Sequence[_Setting], setting: jax.Array) -> jax.Array:
    """Enhancements: `base + factor (image - base)`, truncated; the base is black by default."""
    names = {name for name, _ in settings}
    pixels = images.astype(jnp.int32)
    base = jnp.zeros_like(pixels)

    def based_on(name, own_base):
        is_op = _is_op(name, settings, setting)[:, None, None, None]
        return jnp.where(is_op, own_base, base)

    if names & {"Color", "Contrast"}:
        red, green, blue = (pixels[..., c : c + 1] for c in range(3))
        gray = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    if "Color" in names:
        base = based_on("Color", gray)
    if "Contrast" in names:
        area = pixels.shape[1] * pixels.shape[2]
        mean = (2 * jnp.sum(gray, axis=(1, 2, 3), keepdims=True, dtype=jnp.int32) + area) // (
            2 * area
        )
        base = based_on("Contrast", mean)
    if "Sharpness" in names:
        base = based_on("Sharpness", _smooth(pixels))

    factors = np.array([v if name in _BLENDS else 1 for name, v in settings], np.float32)
    # 15 bits and the rest: their products with 9-bit integers are exact, so that a backend may
    # fuse multiplication and addition and the sum is still the rounded product.
    high = (factors.view(np.uint32) & np.uint32(0xFFFFFE00)).view(np.float32)
    high, low = (jnp.asarray(f)[setting][:, None, None, None] for f in (high, factors - high))
    difference = (pixels - base).astype(jnp.float32)
    blended = base.astype(jnp.float32) + (high * difference + low * difference)
    return jnp.clip(blended, 0, 255).astype(jnp.uint8)


def _smooth(pixels: jax.Array) -> jax.Array:
    """Mean of 3 x 3 pixels with weight 5 in the centre, rounded; the border stays as it is."""
    columns = pixels[:, :-2] + pixels[:, 1:-1] + pixels[:, 2:]
    box = columns[:, :, :-2] + columns[:, :, 1:-1] + columns[:, :, 2:]
    inner = (2 * (box + 4 * pixels[:, 1:-1, 1:-1]) + 13) // 26
    return pixels.at[:, 1:-1, 1:-1].set(inner)
