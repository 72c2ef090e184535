"""Tests of the transforms that workers carry out on single images."""

import pickle

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jaxrobust.data.transforms import (
    OPERATIONS,
    apply_operation,
    cutout,
    multilabel_transform,
    rand_augment,
    random_cutout,
)


def _noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


class _Draws:
    """A generator whose draws are chosen: signs, and positions of the small cutout."""

    def __init__(self, sign=1, position=(0, 0)):
        self.sign, self.position = sign, position

    def choice(self, options):
        assert tuple(options) == (-1, 1)
        return self.sign

    def integers(self, limits):
        return np.array(self.position)


def _changed(before, after):
    """Rows and columns (first, last) in which two images differ."""
    rows, columns = np.nonzero((before != after).any(axis=-1))
    return (rows.min(), rows.max()), (columns.min(), columns.max())


@pytest.mark.parametrize("case", ["cutout/case0", "cutout/case1", "cutout/case2"])
def test_cutout_equals_the_recorded_images(case, load_golden):
    golden = load_golden("l2d")
    image, color = golden[case, "image"], golden[case, "color"]
    center = int(golden[case, "center_y"]), int(golden[case, "center_x"])
    before = image.copy()
    np.testing.assert_array_equal(cutout(image, center, color), golden[case, "out"])
    np.testing.assert_array_equal(image, before)


def test_random_cutout_covers_every_centre_and_paints_one_colour():
    image = np.zeros((4, 6, 3), np.uint8)
    generator = np.random.default_rng(0)
    corners = set()
    for _ in range(300):
        out = random_cutout(image, generator, factor=0.2)  # 1 x 1 pixel
        painted = out[(out != 0).any(axis=-1)]
        assert len(painted) == 1
        corners.add(tuple(np.argwhere((out != 0).any(axis=-1))[0]))
    assert len(corners) == 4 * 6


def test_operations_at_their_magnitudes():
    image = Image.fromarray(_noise(20, 30))

    def made(name, magnitude, **draws):
        return np.asarray(apply_operation(image, name, magnitude, _Draws(**draws)))

    same = np.testing.assert_array_equal
    same(made("Invert", 3), 255 - np.asarray(image))
    same(made("AutoContrast", 5), ImageOps.autocontrast(image))
    same(made("Equalize", 5), ImageOps.equalize(image))
    for name in ("Brightness", "Color", "Contrast", "Sharpness"):
        enhancer = getattr(ImageEnhance, name)(image)
        same(made(name, 9), enhancer.enhance(1.9))
        same(made(name, 4, sign=-1), enhancer.enhance(0.6))
    pixels = np.asarray(image)
    for magnitude, bits in enumerate((8, 7, 7, 6, 6, 5, 5, 4, 4), start=1):
        same(made("Posterize", magnitude), pixels >> (8 - bits) << (8 - bits))
    same(made("Solarize", 9), 255 - pixels)
    same(made("Solarize", 3), np.where(pixels < 256 * 2 / 3, pixels, 255 - pixels))


def test_geometric_operations_fill_with_grey():
    image = Image.fromarray(_noise(20, 30))
    pixels = np.asarray(image)

    def made(name, magnitude, **draws):
        return np.asarray(apply_operation(image, name, magnitude, _Draws(**draws)))

    # 150 / 331 of 30 columns are 13.6, of 20 rows 9.1; the nearest pixel is taken.
    left = made("TranslateX", 9)
    np.testing.assert_array_equal(left[:, :16], pixels[:, 14:])
    assert np.all(left[:, 17:] == 128)
    down = made("TranslateY", 9, sign=-1)
    np.testing.assert_array_equal(down[9:], pixels[:11])
    assert np.all(down[:9] == 128)
    turned = made("Rotate", 9)
    np.testing.assert_array_equal(turned, image.rotate(30, fillcolor=(128, 128, 128)))
    stripe = np.zeros((20, 30, 3), np.uint8)
    stripe[:, 10] = 255
    sheared = apply_operation(Image.fromarray(stripe), "ShearX", 9, _Draws(sign=-1))
    # Row y moves right by 0.3 (y + 1/2).
    assert [int(np.asarray(sheared)[y, 7:, 0].argmax()) + 7 for y in (0, 11, 18)] == [10, 13, 16]
    assert np.all(np.asarray(sheared)[19, :3] == 128)
    assert np.all(made("ShearY", 9)[-3:, -1] == 128)


def test_the_small_cutout():
    image = np.zeros((40, 30, 3), np.uint8)

    def made(magnitude, x, y):
        draws = _Draws(position=(x, y))
        return np.asarray(apply_operation(Image.fromarray(image), "Cutout", magnitude, draws))

    out = made(3, 10, 20)  # side 7: three pixels before the centre, two after
    assert _changed(image, out) == ((17, 22), (7, 12))
    assert tuple(out[20, 10]) == (125, 122, 113)
    assert _changed(image, made(9, 0, 39)) == ((29, 39), (0, 9))


def test_an_unknown_operation_is_named():
    with pytest.raises(ValueError, match=r"'Inverted'.*did you mean 'Invert'"):
        apply_operation(Image.new("RGB", (2, 2)), "Inverted", 1, np.random.default_rng(0))


def test_rand_augment_leaves_a_quarter_alone_and_reaches_every_operation(monkeypatch):
    seen = []

    def recorded(image, name, magnitude, generator):
        seen.append((name, magnitude))
        return image

    monkeypatch.setattr("jaxrobust.data.transforms.apply_operation", recorded)
    generator, image = np.random.default_rng(0), Image.new("RGB", (2, 2))
    counts = []
    for _ in range(2000):
        before = len(seen)
        rand_augment(image, generator)
        counts.append(len(seen) - before)
    np.testing.assert_allclose(np.bincount(counts) / 2000, [0.25, 0.5, 0.25], atol=0.04)
    assert set(seen) == {(name, magnitude) for name in OPERATIONS for magnitude in range(1, 10)}


def test_the_transform_depends_on_the_generator_only():
    image = Image.fromarray(_noise(30, 50))
    train = pickle.loads(pickle.dumps(multilabel_transform(16, train=True)))
    out = [train(image, np.random.default_rng([3, 1, position])) for position in (7, 7, 8)]
    assert out[0].shape == (16, 16, 3) and out[0].dtype == np.uint8
    np.testing.assert_array_equal(out[0], out[1])
    assert np.any(out[0] != out[2])


def test_test_images_are_only_squeezed():
    image = Image.fromarray(_noise(30, 50))
    out = multilabel_transform(16, train=False)(image, np.random.default_rng(0))
    np.testing.assert_array_equal(out, image.resize((16, 16), Image.Resampling.BILINEAR))
