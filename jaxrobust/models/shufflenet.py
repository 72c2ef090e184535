"""ShuffleNet V1 and V2 of the CIFAR distillation benchmark.

Zhang et al., "ShuffleNet", CVPR 2018, https://arxiv.org/abs/1707.01083; Ma et al., "ShuffleNet V2",
ECCV 2018, https://arxiv.org/abs/1807.11164.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust.models.layers import Backbone, ConvNorm, FeatureMaps, global_average


def shuffle_channels(x: jax.Array, groups: int) -> jax.Array:
    """Maps `[B, H, W, C]` with their channels, as `[g, C / g]`, transposed to `[C / g, g]`."""
    *leading, channels = x.shape
    x = x.reshape(*leading, groups, channels // groups)
    return jnp.swapaxes(x, -1, -2).reshape(*leading, channels)


class GroupUnit(nn.Module):
    """ShuffleNet V1's unit: grouped conv1x1, shuffle, depthwise conv3x3, grouped conv1x1.

    With stride 2 the average-pooled input is concatenated to the output, else the input is added to
    it. Returns the result after and before the last ReLU.
    """

    features: int  # output channels, including those of a concatenated input
    stride: int  # of the depthwise convolution
    first_groups: int  # groups of the first convolution and of the shuffle
    groups: int  # groups of the last convolution
    dtype: Any = jnp.float32  # computation dtype

    @nn.compact
    def __call__(
        self, inputs: jax.Array, *, train: bool, where: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        conv = functools.partial(ConvNorm, dtype=self.dtype)
        features = self.features - (inputs.shape[-1] if self.stride == 2 else 0)
        width = features // 4
        x = conv(width, 1, groups=self.first_groups)(inputs, train=train, where=where)
        x = shuffle_channels(x, self.first_groups)
        x = conv(width, 3, self.stride, groups=width)(x, train=train, where=where)
        x = conv(features, 1, groups=self.groups, activation=None)(x, train=train, where=where)
        if self.stride == 2:
            # The mean counts the padding.
            padding = ((1, 1), (1, 1))
            pooled = nn.pool(inputs, 0.0, jax.lax.add, (3, 3), (2, 2), padding) / 9
            x = jnp.concatenate([x, pooled], axis=-1)
        else:
            x = x + inputs
        return nn.relu(x), x


class ShuffleNetV1(Backbone):
    """ShuffleNet V1 with three groups up to the pooled feature."""

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> FeatureMaps:
        """Features at the end of every stage, and pooled; arguments as for `ResNetBackbone`."""
        x = ConvNorm(24, 1, dtype=self.dtype)(images.astype(self.dtype), train=train, where=where)
        maps, preactivations = [], []
        for features, size in ((240, 4), (480, 8), (960, 4)):
            before = x
            for unit in range(size):
                first_groups = 1 if x.shape[-1] == 24 else 3
                x, before = GroupUnit(
                    features, 2 if unit == 0 else 1, first_groups, 3, dtype=self.dtype
                )(x, train=train, where=where)
            maps.append(x)
            preactivations.append(before)
        return FeatureMaps(global_average(x), tuple(maps), tuple(preactivations), x)


class SplitUnit(nn.Module):
    """ShuffleNet V2's unit: half of the channels are passed on, half convolved; then a shuffle.

    With `down` both halves are convolutions of the whole input, with stride 2. Returns the output
    after and before the last ReLU of the convolved half.
    """

    features: int  # output channels
    down: bool  # whether the resolution is halved
    dtype: Any = jnp.float32  # computation dtype

    @nn.compact
    def __call__(
        self, inputs: jax.Array, *, train: bool, where: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        half = self.features // 2
        stride = 2 if self.down else 1

        def conv(x, features, *args, **kwargs):
            return ConvNorm(features, *args, dtype=self.dtype, **kwargs)(
                x, train=train, where=where
            )

        def depthwise(x):
            return conv(x, x.shape[-1], 3, stride, groups=x.shape[-1], activation=None)

        if self.down:
            left = conv(depthwise(inputs), half, 1, activation=None)
            x = inputs
        else:
            left, x = jnp.split(inputs, 2, axis=-1)
        x = depthwise(conv(x, half, 1))
        before = shuffle_channels(
            jnp.concatenate([left, conv(x, half, 1, activation=None)], axis=-1), 2
        )
        # The half that is passed on is the output of a ReLU, which a second one does not change.
        return nn.relu(before), before


class ShuffleNetV2(Backbone):
    """ShuffleNet V2 of width 1 up to the pooled feature."""

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> FeatureMaps:
        """Features at the end of every stage, and pooled; arguments as for `ResNetBackbone`."""
        x = ConvNorm(24, 1, dtype=self.dtype)(images.astype(self.dtype), train=train, where=where)
        maps, preactivations = [], []
        for features, size in ((116, 4), (232, 8), (464, 4)):
            before = x
            for unit in range(size):
                x, before = SplitUnit(features, unit == 0, dtype=self.dtype)(
                    x, train=train, where=where
                )
            maps.append(x)
            preactivations.append(before)
        x = ConvNorm(1024, 1, dtype=self.dtype)(x, train=train, where=where)
        return FeatureMaps(global_average(x), tuple(maps), tuple(preactivations), x)
