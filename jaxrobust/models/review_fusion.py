"""ReviewKD's fusion of features over the stages of a student.

Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021,
https://arxiv.org/abs/2104.09044, section 3.3.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust.models.layers import BatchNorm, Conv, FeatureMaps, Network, torch_bias, torch_uniform

# He et al.'s uniform initialisation with slope 1: U(-sqrt(3 / fan_in), sqrt(3 / fan_in)).
_lecun_uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


def review_levels(features: FeatureMaps) -> tuple[jax.Array, ...]:
    """Maps that ReviewKD compares, shallow to deep: pre-activations, and pooled as 1x1 map."""
    return (*features.preactivations, features.pooled[:, None, None, :])


def review_activations(features: FeatureMaps) -> tuple[jax.Array, ...]:
    """As `review_levels`, the outputs of the blocks."""
    return (*features.outputs, features.pooled[:, None, None, :])


def _resize_nearest(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Resizes maps so that pixel i of n is pixel floor(i N / n) of N."""
    rows, columns = (
        jnp.arange(new) * old // new for new, old in zip(size, x.shape[1:3], strict=True)
    )
    return x[:, rows][:, :, columns]


class FusionBlock(nn.Module):
    """Attention-based fusion of one level with the output of the deeper level.

    x = BN(conv1x1(x));    a = sigmoid(conv1x1([x, y]));    x = a_0 x + a_1 y
    out = BN(conv3x3(x))
    """

    features: int  # channels of `out`, the teacher's
    size: tuple[int, int]  # height and width of `out`, the teacher's
    width: int  # channels of x
    dtype: Any = jnp.float32  # computation dtype

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        y: jax.Array | None = None,
        *,
        train: bool = False,
        where: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Fused maps `[B, *size, features]`, and x `[B, *size, width]` for the shallower level."""
        x = Conv(self.width, 1, kernel_init=_lecun_uniform, dtype=self.dtype, name="conv1")(x)
        x = BatchNorm(dtype=self.dtype, name="norm1")(x, train=train, where=where)
        if y is not None:
            y = _resize_nearest(y, x.shape[1:3])
            attention = nn.Conv(
                2,
                (1, 1),
                dtype=self.dtype,
                kernel_init=torch_uniform,
                bias_init=torch_bias(2 * self.width),
                name="attention",
            )(jnp.concatenate([x, y], axis=-1))
            attention = nn.sigmoid(attention)
            x = x * attention[..., :1] + y * attention[..., 1:]
        x = _resize_nearest(x, self.size)
        out = Conv(self.features, 3, kernel_init=_lecun_uniform, dtype=self.dtype, name="conv2")(x)
        return BatchNorm(dtype=self.dtype, name="norm2")(out, train=train, where=where), x


def final_map(features: FeatureMaps) -> tuple[jax.Array, ...]:
    """The final map alone, which L2D compares."""
    return (features.final,)


class ReviewFusion(Network):
    """Student maps in the shapes of the teacher's, deep ones fused into shallow ones.

    One `FusionBlock` per level, from the deepest to the shallowest.
    """

    channels: Sequence[int]  # of the teacher's levels, shallow to deep
    sizes: Sequence[tuple[int, int]]  # (height, width) of the teacher's levels
    # the student's levels, shallow to deep
    levels: Callable[[FeatureMaps], tuple[jax.Array, ...]] = review_levels
    # channels of the fusion; None for those of the student's deepest level, at most 512
    width: int | None = None
    dtype: Any = jnp.float32  # computation dtype

    @nn.compact
    def __call__(
        self, features: FeatureMaps, *, train: bool = False, where: jax.Array | None = None
    ) -> FeatureMaps:
        """The features with `maps` fused, one for each of the teacher's levels."""
        levels = self.levels(features)[-len(self.channels) :]
        if len(levels) < len(self.channels):
            raise ValueError(
                f"The student has {len(levels)} levels of features, fewer than the teacher's "
                f"{len(self.channels)}."
            )
        width = self.width or min(levels[-1].shape[-1], 512)
        fused, deeper = [], None
        for level, channels, size in reversed(
            list(zip(levels, self.channels, self.sizes, strict=True))
        ):
            block = FusionBlock(channels, size, width, self.dtype)
            out, deeper = block(level.astype(self.dtype), deeper, train=train, where=where)
            fused.append(out)
        return features._replace(maps=tuple(reversed(fused)))
