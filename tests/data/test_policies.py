"""Tests of AutoAugment and Cutout, against recorded images and against Pillow itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from PIL import Image, ImageEnhance, ImageOps

from jaxrobust.data.policies import (
    CIFAR10_POLICY,
    IMAGENET_POLICY,
    OPS,
    Op,
    Policy,
    apply_op,
    auto_augment,
    cutout,
    cutout_mask,
)

RENAMED = {"TranslateXAbs": "TranslateX", "TranslateYAbs": "TranslateY", "Posterize2": "Posterize"}
NO_VALUE = {"AutoContrast", "Equalize", "Invert"}

compiled_op = jax.jit(apply_op, static_argnames=("name", "value", "fill"))


@functools.partial(jax.jit, static_argnames=("settings", "fill"))
def compiled_ops(images, settings, fill=0):
    """What each `(name, value)` makes of the images, as one program."""
    return [apply_op(images, name, value, fill=fill) for name, value in settings]


compiled_policy = jax.jit(auto_augment, static_argnames="policy")


def pillow_op(image, name, value, fill):
    """What Pillow makes of one image."""
    image = Image.fromarray(image)
    colour = (fill,) * 3

    def affine(*coefficients, resample=Image.Resampling.NEAREST):
        return image.transform(
            image.size, Image.Transform.AFFINE, coefficients, resample, fillcolor=colour
        )

    enhancers = {name: getattr(ImageEnhance, name) for name in OPS if hasattr(ImageEnhance, name)}
    operations = {
        "ShearX": lambda: affine(1, value, 0, 0, 1, 0),
        "ShearXBicubic": lambda: affine(1, value, 0, 0, 1, 0, resample=Image.Resampling.BICUBIC),
        "ShearY": lambda: affine(1, 0, 0, value, 1, 0),
        "TranslateX": lambda: affine(1, 0, value, 0, 1, 0),
        "TranslateY": lambda: affine(1, 0, 0, 0, 1, value),
        "Rotate": lambda: image.rotate(value, fillcolor=colour),
        "Invert": lambda: ImageOps.invert(image),
        "Solarize": lambda: ImageOps.solarize(image, value),
        "Posterize": lambda: ImageOps.posterize(image, int(value)),
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
    }
    if name in enhancers:
        return np.asarray(enhancers[name](image).enhance(value))
    return np.asarray(operations[name]())


def some_images(num, height, width):
    """Noise, ramps and plain images between random levels."""
    rng = np.random.default_rng(0)
    images = np.empty((num, height, width, 3), np.uint8)
    for i, image in enumerate(images):
        low = rng.integers(0, 200)
        high = rng.integers(low + 1, 256)
        if i % 8 == 7:
            image[...] = low
        elif i % 3:
            image[...] = rng.integers(low, high + 1, image.shape)
        else:
            ramp = np.add.outer(np.arange(height), np.arange(width)) / (height + width - 2)
            image[...] = (low + (high - low) * ramp[..., None] ** [0.5, 1, 2]).astype(np.uint8)
    return images


def settings_of(*policies):
    ops = {op for policy in policies for pair in policy.sub_policies for op in pair}
    return sorted({(op.name, value) for op in ops for value in op.values})


class TestGolden:
    @pytest.mark.parametrize("paper", ["dpc", "bldr"])
    def test_operations(self, load_golden, paper):  # DPC's check 16
        golden = load_golden(paper)
        image = golden["aug", "image"][None]
        cases = {}
        for case in golden.names("aug"):
            if paper == "dpc" and case != "image":
                name, value, sign = case.split("_")
            elif case.startswith("op/"):
                (name, value), sign = case[3:].split("@"), "pos"
            else:
                continue
            name = RENAMED.get(name, name)
            value = 0.0 if name in NO_VALUE else float(value) * (-1 if sign == "neg" else 1)
            cases[case] = name, value
        for case, changed in zip(cases, compiled_ops(image, tuple(cases.values())), strict=True):
            assert changed.dtype == np.uint8
            np.testing.assert_array_equal(changed[0], golden["aug", case], err_msg=case)
        assert len(cases) == {"dpc": 38, "bldr": 44}[paper]

    def test_policy_of_dpc(self, load_golden):
        golden = load_golden("dpc")
        assert len(CIFAR10_POLICY.sub_policies) == 25
        for row, pair in enumerate(CIFAR10_POLICY.sub_policies):
            for column, op in enumerate(pair):
                name = str(golden["policy", "op"][row, column])
                assert op.name == RENAMED.get(name, name)
                assert op.prob == pytest.approx(golden["policy", "prob"][row, column])
                if op.name not in NO_VALUE:
                    assert op.values[-1] == pytest.approx(
                        golden["policy", "magnitude"][row, column]
                    )
                signed = op.name.startswith(("Shear", "Translate", "Rotate"))
                assert len(op.values) == (2 if signed else 1)
                assert not signed or op.values[0] == -op.values[1]

    def test_policy_of_bldr_is_the_same(self, load_golden):
        golden = load_golden("bldr")
        names = [RENAMED.get(str(name), str(name)) for name in golden["aug", "policy_ops"]]
        for recorded, pair in zip(
            golden["aug", "policy"], CIFAR10_POLICY.sub_policies, strict=True
        ):
            for (op_id, prob, _, value), op in zip(recorded, pair, strict=True):
                assert (op.name, op.prob) == (names[int(op_id)], pytest.approx(prob))
                assert op.name in NO_VALUE or op.values[-1] == pytest.approx(value)

    def test_cutout_masks(self, load_golden):
        dpc, bldr = load_golden("dpc"), load_golden("bldr")
        for case in dpc.cases("cutout"):
            center = dpc[case, "center_yx"]
            mask = cutout_mask(center[None], 32, 32)[0]
            np.testing.assert_array_equal(mask, dpc[case, "mask"].astype(bool))
        mask = cutout_mask(bldr["aug", "cutout_centres_yx"], 32, 32)
        np.testing.assert_array_equal(mask, bldr["aug", "cutout_keep_mask"].astype(bool))


class TestOperations:
    @pytest.mark.parametrize("name", OPS)
    def test_pillow_does_the_same(self, name):
        # Neither square nor a power of two, as wide as steps of 1/65536 of a pixel add up in.
        images = some_images(24, 21, 150)
        settings = tuple(
            setting
            for setting in (*settings_of(CIFAR10_POLICY, IMAGENET_POLICY), ("ShearX", 0.3))
            if setting[0] == name
        )
        for (_, value), changed in zip(
            settings, compiled_ops(images, settings, fill=128), strict=True
        ):
            expected = np.stack([pillow_op(image, name, value, 128) for image in images])
            if name == "ShearXBicubic":
                difference = np.abs(np.asarray(changed).astype(int) - expected)
                assert difference.max() <= 1 and np.mean(difference > 0) < 1e-4
            else:
                np.testing.assert_array_equal(changed, expected, err_msg=str(value))

    def test_every_operation_occurs_in_a_test(self):
        assert {name for name, _ in settings_of(CIFAR10_POLICY, IMAGENET_POLICY)} | {
            "ShearX"
        } == set(OPS)

    def test_contrast_of_every_range_of_levels(self):
        """Pillow's 64-bit floats fall one short of the exact level in some of the ranges."""
        low, high = np.triu_indices(256, k=1)
        # Three ranges an image, one per channel.
        chosen = np.random.default_rng(0).choice(len(low), (200, 3))
        ramp = np.linspace(0, 1, 64)
        images = low[chosen][:, None] + ramp[None, :, None] * (high - low)[chosen][:, None]
        images = np.round(images).astype(np.uint8)[:, None]
        expected = np.stack([pillow_op(image, "AutoContrast", 0.0, 0) for image in images])
        np.testing.assert_array_equal(compiled_op(images, "AutoContrast"), expected)
        assert np.any(expected.max(axis=(1, 2)) == 254)

    def test_blends_of_every_pair_of_levels(self):
        """With a fused multiply-add thousands of them would come out one off."""
        levels = np.arange(256, dtype=np.uint8)
        images = np.stack(np.meshgrid(levels, levels, indexing="ij"), -1)
        images = np.concatenate([images, np.full((256, 256, 1), 77, np.uint8)], -1)[None]
        for value in (0.2, 1.72, 1.8):
            expected = pillow_op(images[0], "Color", value, 0)
            np.testing.assert_array_equal(compiled_op(images, "Color", value)[0], expected)

    @pytest.mark.parametrize("shape", [(1, 1), (2, 3)])
    def test_tiny_images(self, shape):
        images = some_images(4, *shape) if shape != (1, 1) else np.full((4, 1, 1, 3), 9, np.uint8)
        for name, value in (("Sharpness", 1.72), ("Equalize", 0.0), ("Contrast", 1.36)):
            expected = np.stack([pillow_op(image, name, value, 0) for image in images])
            np.testing.assert_array_equal(compiled_op(images, name, value), expected)

    @pytest.mark.parametrize("policy", [CIFAR10_POLICY, IMAGENET_POLICY])
    def test_traces_under_x64(self, x64, policy):
        augment = functools.partial(auto_augment, policy=policy)
        out = jax.eval_shape(augment, jax.random.key(0), some_images(4, 8, 8))
        assert (out.shape, out.dtype) == ((4, 8, 8, 3), np.uint8)

    def test_unknown_operation_is_refused_in_words(self):
        with pytest.raises(ValueError, match=r"'Equalise': did you mean 'Equalize'\?"):
            apply_op(np.zeros((1, 4, 4, 3), np.uint8), "Equalise")

    @pytest.mark.parametrize(
        "images",
        [
            np.zeros((4, 4, 3), np.uint8),
            np.zeros((1, 4, 4, 1), np.uint8),
            np.zeros((1, 4, 4, 3), np.float32),
        ],
    )
    def test_other_images_are_refused_in_words(self, images):
        with pytest.raises(ValueError, match="images must be uint8"):
            apply_op(images, "Invert")
        with pytest.raises(ValueError, match="images must be uint8"):
            auto_augment(jax.random.key(0), images)


class TestAutoAugment:
    @pytest.mark.parametrize("policy", [CIFAR10_POLICY, IMAGENET_POLICY])
    def test_every_image_is_an_outcome_of_the_policy(self, policy):
        image = some_images(2, 16, 16)[1]
        images = np.repeat(image[None], 128, axis=0)
        changed = np.asarray(compiled_policy(jax.random.key(1), images, policy))

        def outcomes(image, ops):
            if not ops:
                return [image]
            done = [pillow_op(image, ops[0].name, v, policy.fill) for v in ops[0].values]
            skipped = [image] if ops[0].prob < 1 else []
            return [last for first in done + skipped for last in outcomes(first, ops[1:])]

        possible = [o for ops in policy.sub_policies for o in outcomes(image, ops)]
        distance = np.abs(np.stack(possible).astype(int)[None] - changed[:, None])
        # One level of tolerance for the interpolated shear, which Equalize may spread.
        exact = np.any(distance.max(axis=(2, 3, 4)) == 0, axis=1)
        assert np.mean(exact) == 1 if policy is CIFAR10_POLICY else np.mean(exact) > 0.97
        assert len({image.tobytes() for image in changed}) > 20

    def test_frequencies(self):
        """Sub-policies uniform, operations by their probability, values by halves."""
        policy = Policy(
            fill=0,
            sub_policies=(
                (Op("Posterize", 0.3, (1,)), Op("TranslateX", 0.5, (-1, 1))),
                (Op("Invert", 1.0), Op("Invert", 0.0)),
            ),
        )
        num = 8000
        images = np.tile(np.array([[200, 100, 3]], np.uint8)[..., None], (num, 1, 1, 3))
        changed = np.asarray(compiled_policy(jax.random.key(2), images, policy))[:, 0, :, 0]
        expected = {(55, 155, 252): 0.5}
        for posterized, prob in ((False, 0.7), (True, 0.3)):
            row = [128, 0, 0] if posterized else [200, 100, 3]
            expected[tuple(row)] = 0.5 * prob * 0.5
            expected[0, row[0], row[1]] = 0.5 * prob * 0.25
            expected[row[1], row[2], 0] = 0.5 * prob * 0.25
        observed = {row: 0 for row in expected}
        for row in map(tuple, changed.tolist()):
            observed[row] += 1
        counts = np.array([observed[row] for row in expected])
        result = scipy.stats.chisquare(counts, num * np.array(list(expected.values())))
        assert result.pvalue > 1e-3

    def test_is_a_pure_function_of_the_key(self):
        images = some_images(16, 8, 8)
        before = images.copy()
        first, again, other = (compiled_policy(jax.random.key(k), images) for k in (3, 3, 4))
        np.testing.assert_array_equal(first, again)
        assert np.any(first != other)
        np.testing.assert_array_equal(images, before)

    def test_vmap_over_views(self):
        images = some_images(16, 8, 8)
        keys = jax.random.split(jax.random.key(5))
        views = jax.jit(jax.vmap(auto_augment, in_axes=(0, None)))(keys, images)
        for key, view in zip(keys, views, strict=True):
            np.testing.assert_array_equal(view, compiled_policy(key, images))


class TestCutout:
    def test_cuts_one_square_in_all_channels(self):
        images = jnp.ones((500, 32, 32, 3))
        cut = np.asarray(jax.jit(cutout)(jax.random.key(0), images))
        assert cut.dtype == np.float32
        np.testing.assert_array_equal(cut[..., 0], cut[..., 2])
        holes = 1 - cut[..., 0]
        rows, columns = holes.max(axis=2).sum(axis=1), holes.max(axis=1).sum(axis=1)
        np.testing.assert_array_equal(holes.sum(axis=(1, 2)), rows * columns)
        assert rows.min() == columns.min() == 8 and rows.max() == columns.max() == 16
        # A pixel in the middle lies in 16 of 32 rows' squares, and as many columns'.
        assert abs(holes[:, 16, 16].mean() - 0.25) < 0.08
        assert abs(holes[:, 0, 0].mean() - (9 / 32) ** 2) < 0.05

    def test_keeps_the_dtype_and_leaves_the_rest(self):
        images = some_images(8, 20, 12)
        cut = np.asarray(cutout(jax.random.key(1), images, size=4))
        assert cut.dtype == np.uint8
        assert np.all((cut == images) | (cut == 0)) and np.any(cut != images)

    def test_no_square(self):
        images = some_images(2, 8, 8)
        np.testing.assert_array_equal(cutout(jax.random.key(0), images, size=0), images)

    @pytest.mark.parametrize("size", [-2, 3])
    def test_odd_sizes_are_refused_in_words(self, size):
        with pytest.raises(ValueError, match="size must be an even number"):
            cutout(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), size=size)

    def test_other_ranks_are_refused_in_words(self):
        with pytest.raises(ValueError, match=r"must be \[B, H, W, C\]"):
            cutout(jax.random.key(0), jnp.zeros((8, 8, 3)))
