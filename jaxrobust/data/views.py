"""Raw images or features as network inputs: augmentation and normalisation."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.data.augment import normalize, pad_crop_flip
from jaxrobust.data.feature_views import FeatureViews, Statistics
from jaxrobust.data.policies import CIFAR10_POLICY, IMAGENET_POLICY, auto_augment, cutout
from jaxrobust.recipes.run import Augment, StrongAugment

POLICIES = {"cifar10": CIFAR10_POLICY, "imagenet": IMAGENET_POLICY, "none": None}


def statistics_of(mean: np.typing.ArrayLike, std: np.typing.ArrayLike) -> Statistics:
    """`mean` and `std` on the [0, 1] scale as an operand of a compiled step, float32 `[C]`.

    They are `[1]` where all channels have the same one: by a scalar XLA computes what it does for
    constants, to the last bit.
    """
    values = {"mean": np.asarray(mean, np.float32), "std": np.asarray(std, np.float32)}
    return {name: x[:1] if np.all(x == x[0]) else x for name, x in values.items()}


@dataclasses.dataclass(frozen=True)
class ImageViews:
    """Views of raw images: unchanged ("test"), or cropped and mirrored at random ("weak")."""

    padding: int  # pixels added on each side before the crop
    flip: bool  # whether half of the images are mirrored
    dtype: Any  # of the views

    def __call__(
        self, kind: str, key: jax.Array, raw: jax.Array, statistics: Statistics
    ) -> jax.Array:
        """A batch as a network sees it, `[B, H, W, C]` of `dtype`."""
        if kind == "weak":
            raw = self.crop(key, raw)
        return self.normalized(raw, statistics)

    def crop(self, key: jax.Array, raw: jax.Array) -> jax.Array:
        """Cropped and mirrored at random, `[B, H, W, C]` of the dtype of `raw`."""
        return pad_crop_flip(key, raw, padding=self.padding, flip=self.flip)

    def normalized(self, raw: jax.Array, statistics: Statistics) -> jax.Array:
        """`(raw / 255 - mean) / std`, `[B, H, W, C]` of `dtype`."""
        return normalize(raw, statistics["mean"], statistics["std"], dtype=self.dtype)


@dataclasses.dataclass(frozen=True)
class PolicyViews(ImageViews):
    """Views of raw images, of which "strong" ones follow a policy and have a square cut out."""

    policy: str  # one of `POLICIES`
    cutout: int  # side of the square, in pixels; 0: none is cut out
    # what strong views are normalised with in place of `statistics`, C numbers on the [0, 1] scale;
    # () for `statistics`
    strong_mean: tuple[float, ...] = ()
    strong_std: tuple[float, ...] = ()  # their standard deviation

    def __call__(
        self, kind: str, key: jax.Array, raw: jax.Array, statistics: Statistics
    ) -> jax.Array:
        if kind == "test":
            return self.normalized(raw, statistics)
        policy_key, crop_key, cutout_key = jax.random.split(key, 3)
        policy = POLICIES[self.policy]
        if kind == "weak" or policy is None:
            raw = self.crop(crop_key, raw)
        elif self.policy == "imagenet":  # the authors flip first, as it rotates one way only
            raw = auto_augment(policy_key, self.crop(crop_key, raw), policy)
        else:
            raw = self.crop(crop_key, auto_augment(policy_key, raw, policy))
        if kind == "strong" and self.strong_mean:
            statistics = statistics_of(self.strong_mean, self.strong_std)
        views = self.normalized(raw, statistics)
        if kind == "strong" and self.cutout:
            views = cutout(cutout_key, views, size=self.cutout)
        return views


Views = ImageViews | FeatureViews


def make_views(augment: Augment, input_shape: tuple[int, ...], dtype: Any) -> Views:
    """The views that options ask for, of images (H, W, 3) or of features (D,)."""
    if len(input_shape) == 1:
        return FeatureViews(
            jnp.dtype(dtype), augment.feature_noise, augment.feature_dropout, augment.feature_test
        )
    crops = {"padding": augment.padding, "flip": augment.flip, "dtype": jnp.dtype(dtype)}
    if isinstance(augment, StrongAugment):
        names = ("policy", "cutout", "strong_mean", "strong_std")
        return PolicyViews(**{name: getattr(augment, name) for name in names}, **crops)
    return ImageViews(**crops)
