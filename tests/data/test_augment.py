"""Tests of jaxrobust.data.augment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.data import normalize, pad_crop_flip
from jaxrobust.data.augment import draw_views, num_views, view_of

# Compiled in most tests, because one program is faster to build than a dozen eager ones.
_jitted = jax.jit(pad_crop_flip, static_argnames=("padding", "flip"))


def _numpy_crops(image, padding):
    """Every crop of the zero-padded image, by (row, column) offset."""
    height, width, _ = image.shape
    padded = np.zeros((height + 2 * padding, width + 2 * padding, 3), image.dtype)
    padded[padding : padding + height, padding : padding + width] = image
    offsets = range(2 * padding + 1)
    return {(i, j): padded[i : i + height, j : j + width] for i in offsets for j in offsets}


@pytest.fixture(scope="module")
def image():
    # No zeros and no repetition, so that every crop of it is unlike every other.
    return np.random.default_rng(0).integers(1, 256, (6, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize("flip", [False, True])
def test_every_offset_occurs_and_equals_a_plain_crop(image, flip):
    padding, batch = 2, 2000
    expected = {crop.tobytes(): place for place, crop in _numpy_crops(image, padding).items()}
    if flip:
        expected |= {
            crop[:, ::-1].tobytes(): (*place, "mirrored")
            for place, crop in _numpy_crops(image, padding).items()
        }
    assert len(expected) == 25 * (1 + flip)
    out = _jitted(
        jax.random.key(1), jnp.asarray(np.stack([image] * batch)), padding=padding, flip=flip
    )
    assert out.dtype == jnp.uint8 and out.shape == (batch, 6, 5, 3)
    places = [expected[row.tobytes()] for row in np.asarray(out)]  # KeyError: not a crop at all
    counts = np.array([places.count(place) for place in expected.values()])
    # Uniform: chi-square with 24 or 49 degrees of freedom, below its 0.9999 quantile.
    chi_square = ((counts - batch / len(expected)) ** 2 / (batch / len(expected))).sum()
    assert chi_square < (95 if flip else 59)


def test_every_view_has_a_number(image):
    for options in ({"padding": 1, "flip": True}, {"padding": 0, "flip": True}):
        count = num_views(**options)
        images = jnp.asarray(np.stack([image] * count))
        views = view_of(images, jnp.arange(count, dtype=jnp.int32), **options)
        assert len({view.tobytes() for view in np.asarray(views)}) == count
        key = jax.random.key(0)
        drawn = draw_views(key, count, **options)
        expected = pad_crop_flip(key, images, **options)
        np.testing.assert_array_equal(views[drawn], expected)


def test_each_image_keeps_its_own_content(image):
    batch = np.stack([np.roll(image, shift) for shift in range(50)])
    out = np.asarray(_jitted(jax.random.key(0), jnp.asarray(batch), padding=1))
    for before, after in zip(batch, out, strict=True):
        crops = _numpy_crops(before, 1).values()
        assert any((after == crop).all() or (after == crop[:, ::-1]).all() for crop in crops)


def test_mirrors_half_of_the_images(image):
    images = jnp.asarray(np.stack([image] * 4000))
    out = np.asarray(_jitted(jax.random.key(0), images, padding=0))
    mirrored = (out == image[:, ::-1]).all(axis=(1, 2, 3))
    assert ((out == image).all(axis=(1, 2, 3)) ^ mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / 4000**0.5


def test_neither_padding_nor_flip_is_the_identity(image):
    images = jnp.asarray(image[None])
    out = pad_crop_flip(jax.random.key(0), images, padding=0, flip=False)
    np.testing.assert_array_equal(out, images)


def test_key_decides_and_jit_agrees(image):
    images = jnp.asarray(np.stack([image] * 16))
    eager = pad_crop_flip(jax.random.key(0), images, padding=2)
    np.testing.assert_array_equal(eager, _jitted(jax.random.key(0), images, padding=2))
    assert (eager != _jitted(jax.random.key(1), images, padding=2)).any()


def test_default_padding_is_four():
    images = jnp.full((200, 32, 32, 3), 255, jnp.uint8)
    out = np.asarray(_jitted(jax.random.key(0), images))
    black_rows = (out[:, :, 16, 0] == 0).sum(axis=1)
    assert black_rows.max() == 4 and black_rows.min() == 0


def test_pad_crop_flip_in_double_precision(x64, image):
    out = _jitted(jax.random.key(0), jnp.asarray(image[None]), padding=2)
    assert out.dtype == jnp.uint8


def test_pad_crop_flip_refuses_in_words():
    with pytest.raises(ValueError, match=r"images must be \[B, H, W, C\], but have shape \(8, 8"):
        pad_crop_flip(jax.random.key(0), jnp.zeros((8, 8, 3), jnp.uint8))
    with pytest.raises(ValueError, match="padding must be 0 or more pixels, but is -1"):
        pad_crop_flip(jax.random.key(0), jnp.zeros((1, 8, 8, 3), jnp.uint8), padding=-1)


def test_normalize_by_hand():
    images = jnp.array([0, 51, 255], jnp.uint8).reshape(1, 1, 1, 3)
    out = normalize(images, (0.5, 0.2, 0.25), (0.5, 0.1, 0.25))
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out.ravel(), [-1, 0, 3], atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_normalize_all_values_against_double_precision(dtype):
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    values = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    exact = (values / 255 - mean) / std
    out = normalize(jnp.asarray(values), mean, std, dtype=dtype)
    assert out.dtype == dtype
    # Rounded once, at the end: half a unit in the last place of bfloat16 is 2**-8.
    tolerance = 2e-6 if dtype == jnp.float32 else 2.0**-8
    np.testing.assert_allclose(np.asarray(out, np.float64), exact, rtol=tolerance, atol=1e-6)
    jitted = jax.jit(lambda x: normalize(x, mean, std, dtype=dtype))(jnp.asarray(values))
    np.testing.assert_allclose(np.asarray(jitted, np.float64), exact, rtol=tolerance, atol=1e-6)


def test_normalize_takes_host_arrays_and_any_rank(x64):
    for shape in ((3,), (2, 3), (2, 4, 4, 3)):
        out = normalize(np.full(shape, 255, np.uint8), (0.5,) * 3, (0.5,) * 3)
        assert out.shape == shape and out.dtype == jnp.float32
        np.testing.assert_array_equal(out, np.ones(shape))
