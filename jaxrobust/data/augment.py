"""On-device augmentation: pure functions of a key and a batch of raw images."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def pad_crop_flip(
    key: jax.Array, images: jax.Array, *, padding: int = 4, flip: bool = True
) -> jax.Array:
    """Zero-pads every image, crops it back at a random place and mirrors half of them.

    The padding is done on the raw image, so it is black before normalisation. Offsets are uniform
    over the `(2 * padding + 1)**2` possible places, drawn per image.

    Args:
      key: PRNG key.
      images: [B, H, W, C], usually uint8.
      padding: pixels added on each side.
      flip: mirror left to right with probability 1/2, per image. Turn it off if a mirrored image
        belongs to another class (digits, letters).

    Returns:
      [B, H, W, C] of the dtype of `images`.

    Raises:
      ValueError: if `images` is not of rank 4, or `padding` is negative.
    """
    views = draw_views(key, len(images), padding=padding, flip=flip)
    return view_of(images, views, padding=padding, flip=flip)


def num_views(*, padding: int, flip: bool) -> int:
    """Number of `pad_crop_flip`'s views of an image: `(2 * padding + 1)**2`, twice with `flip`."""
    return (2 * padding + 1) ** 2 * (1 + flip)


def plain_view(*, padding: int, flip: bool) -> int:
    """The number of the view that is the unchanged image."""
    return (padding * (2 * padding + 1) + padding) * (1 + flip)


def draw_views(key: jax.Array, batch: int, *, padding: int, flip: bool) -> jax.Array:
    """The number of the view that `pad_crop_flip` takes of each image of a batch.

    Args:
      key: PRNG key.
      batch: B.
      padding: as in `pad_crop_flip`.
      flip: whether images are mirrored at random.

    Returns:
      int32 [B], each in 0 to `num_views(...) - 1`.

    Raises:
      ValueError: if `padding` is negative.
    """
    if padding < 0:
        raise ValueError(f"padding must be 0 or more pixels, but is {padding}.")
    crop_key, flip_key = jax.random.split(key)
    places = 2 * padding + 1
    views = jnp.zeros(batch, jnp.int32)
    if padding:
        corners = jax.random.randint(crop_key, (batch, 2), 0, places, jnp.int32)
        views = corners[:, 0] * places + corners[:, 1]
    if flip:
        views = 2 * views + jax.random.bernoulli(flip_key, 0.5, (batch,)).astype(jnp.int32)
    return views


def view_of(images: jax.Array, views: jax.Array, *, padding: int, flip: bool) -> jax.Array:
    """The views of the given numbers, as `draw_views` draws them.

    Args:
      images: [B, H, W, C], usually uint8.
      views: int32 [B].
      padding: as in `pad_crop_flip`.
      flip: whether images are mirrored at random.

    Returns:
      [B, H, W, C] of the dtype of `images`.

    Raises:
      ValueError: `images` is not of rank 4.
    """
    if images.ndim != 4:
        raise ValueError(f"images must be [B, H, W, C], but have shape {images.shape}.")
    shape = images.shape[1:]
    if padding:
        padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        y, x = jnp.divmod(views // (1 + flip), 2 * padding + 1)
        corners = jnp.stack([y, x, jnp.zeros_like(y)], axis=1)  # every crop keeps all channels
        images = jax.vmap(lambda image, corner: jax.lax.dynamic_slice(image, corner, shape))(
            padded, corners
        )
    if flip:
        mirrored = (views % 2 == 1)[:, None, None, None]
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    return images


def normalize(
    images: jax.Array,
    mean: jax.Array | np.ndarray | Sequence[float],
    std: jax.Array | np.ndarray | Sequence[float],
    *,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> jax.Array:
    """Scales raw images to [0, 1] and standardises each channel: `(images / 255 - mean) / std`.

    Args:
      images: uint8 [..., C].
      mean: C numbers on the [0, 1] scale.
      std: C positive numbers on the [0, 1] scale.
      dtype: dtype of the result; the arithmetic is in float32 in any case.

    Returns:
      [..., C] of `dtype`.
    """
    shape = (1,) * (images.ndim - 1) + (-1,)
    centre, scale = (jnp.asarray(x, jnp.float32).reshape(shape) for x in (mean, std))
    return ((images.astype(jnp.float32) / 255 - centre) / scale).astype(dtype)
