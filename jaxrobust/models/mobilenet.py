"""MobileNetV1 and V2.

Howard et al., "MobileNets", 2017, https://arxiv.org/abs/1704.04861; Sandler et al., "MobileNetV2:
Inverted Residuals and Linear Bottlenecks", CVPR 2018, https://arxiv.org/abs/1801.04381.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust.models.layers import Backbone, ConvNorm, FeatureMaps, global_average, he_normal

# (output channels, stride) of MobileNetV1's depthwise-separable units.
_UNITS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)


class MobileNetV1(Backbone):
    """MobileNetV1 for ImageNet up to the pooled feature."""

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> FeatureMaps:
        """Features at four resolutions, and pooled; arguments as for `ResNetBackbone`."""
        conv = functools.partial(ConvNorm, dtype=self.dtype)
        x = conv(32, 3, 2)(images.astype(self.dtype), train=train, where=where)
        maps, preactivations = [], []
        for unit, (features, stride) in enumerate(_UNITS):
            x = conv(x.shape[-1], 3, stride, groups=x.shape[-1])(x, train=train, where=where)
            before = conv(features, 1, activation=None)(x, train=train, where=where)
            x = nn.relu(before)
            if unit in (2, 4, 10, 12):
                maps.append(x)
                preactivations.append(before)
        return FeatureMaps(global_average(x), tuple(maps), tuple(preactivations), x)


class InvertedResidual(nn.Module):
    """conv1x1 to `expansion` times the width, depthwise conv3x3, linear conv1x1; each with BN."""

    features: int  # output channels
    stride: int  # of the depthwise convolution
    expansion: int  # factor on the input's width; 0 leaves out the first convolution
    activation: Callable[[jax.Array], jax.Array]  # after the first two convolutions
    dtype: Any = jnp.float32  # computation dtype

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool, where: jax.Array | None) -> jax.Array:
        conv = functools.partial(ConvNorm, kernel_init=he_normal, dtype=self.dtype)
        width = inputs.shape[-1] * max(self.expansion, 1)
        x = inputs
        if self.expansion > 0:
            x = conv(width, 1, activation=self.activation, name="expand")(
                x, train=train, where=where
            )
        x = conv(width, 3, self.stride, groups=width, activation=self.activation, name="depthwise")(
            x, train=train, where=where
        )
        x = conv(self.features, 1, activation=None, name="project")(x, train=train, where=where)
        return x + inputs if x.shape == inputs.shape else x


class MobileNetV2(Backbone):
    """MobileNetV2 up to the pooled feature.

    The maps are those of stages 2, 3, 5 and 7 of the seven.

    Attributes:
      width: factor on all widths but the last, 1280.
      strides: of the seven stages.
      first_expansion: expansion of the first stage, 0 or 1; see `InvertedResidual`.
      activation: after every convolution except the linear ones.
    """

    head_options: ClassVar = {
        "kernel_init": nn.initializers.normal(0.01),
        "bias_init": nn.initializers.zeros,
    }

    width: float = 1.0
    strides: Sequence[int] = (1, 2, 2, 2, 1, 2, 1)
    first_expansion: int = 0
    activation: Callable[[jax.Array], jax.Array] = nn.relu6

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> FeatureMaps:
        """Features at the end of four stages, and pooled; arguments as for `ResNetBackbone`."""
        conv = functools.partial(
            ConvNorm, kernel_init=he_normal, activation=self.activation, dtype=self.dtype
        )
        x = conv(int(32 * self.width), 3, 2, name="stem")(
            images.astype(self.dtype), train=train, where=where
        )
        stages = zip(
            (16, 24, 32, 64, 96, 160, 320), (1, 2, 3, 4, 3, 3, 1), self.strides, strict=True
        )
        maps = []
        for stage, (features, size, stride) in enumerate(stages):
            for block in range(size):
                x = InvertedResidual(
                    int(features * self.width),
                    stride if block == 0 else 1,
                    self.first_expansion if stage == 0 else 6,
                    self.activation,
                    dtype=self.dtype,
                    name=f"block_{stage}_{block}",
                )(x, train=train, where=where)
            if stage in (1, 2, 4, 6):
                maps.append(x)
        x = conv(1280, 1, name="last")(x, train=train, where=where)
        return FeatureMaps(global_average(x), tuple(maps), tuple(maps), x)
