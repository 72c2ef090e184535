"""RepVGG with its three branches, as it is trained.

Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021,
https://arxiv.org/abs/2101.03697.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust.models.layers import Backbone, BatchNorm, ConvNorm, FeatureMaps, global_average


class RepVGGBlock(nn.Module):
    """BN(conv3x3) + BN(conv1x1) + BN of the input where the shape stays, before the ReLU."""

    features: int  # output channels
    stride: int  # step in both directions
    dtype: Any = jnp.float32  # computation dtype

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool, where: jax.Array | None) -> jax.Array:
        def branch(kernel, name):
            return ConvNorm(
                self.features, kernel, self.stride, activation=None, dtype=self.dtype, name=name
            )(inputs, train=train, where=where)

        x = branch(3, "dense") + branch(1, "pointwise")
        if self.stride == 1 and inputs.shape[-1] == self.features:
            x += BatchNorm(dtype=self.dtype, name="identity")(inputs, train=train, where=where)
        return x


class RepVGG(Backbone):
    """RepVGG up to the pooled feature.

    Attributes:
      widths: channels of the five stages, each of which begins with stride 2.
      sizes: blocks per stage.
    """

    widths: Sequence[int]
    sizes: Sequence[int] = (1, 2, 4, 14, 1)

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> FeatureMaps:
        """Features at the end of the last four stages, and pooled; arguments as for
        `ResNetBackbone`."""
        x = images.astype(self.dtype)
        maps, preactivations = [], []
        for stage, (size, width) in enumerate(zip(self.sizes, self.widths, strict=True)):
            before = x
            for block in range(size):
                before = RepVGGBlock(
                    width,
                    2 if block == 0 else 1,
                    dtype=self.dtype,
                    name=f"block_{stage}_{block}",
                )(x, train=train, where=where)
                x = nn.relu(before)
            maps.append(x)
            preactivations.append(before)
        return FeatureMaps(global_average(x), tuple(maps[1:]), tuple(preactivations[1:]), x)
