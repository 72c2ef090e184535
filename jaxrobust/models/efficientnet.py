"""EfficientNet-Lite: EfficientNet without squeeze-and-excitation, with ReLU6.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019,
https://arxiv.org/abs/1905.11946. The Lite variants are Google's of 2020, with TensorFlow's padding.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax

from jaxrobust.models.layers import Backbone, ConvNorm, FeatureMaps, global_average, he_normal

# Kernel size, stride of the first block and expansion of each stage.
_STAGES = ((3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 2, 6), (5, 1, 6), (5, 2, 6), (3, 1, 6))


class EfficientNetLite(Backbone):
    """EfficientNet-Lite up to the pooled feature of 1,280 numbers, by default Lite0.

    The maps are those of stages 2, 3, 5 and 7 of the seven, at 1/4, 1/8, 1/16 and 1/32 of the size.

    Attributes:
      sizes: blocks of each stage.
      widths: output channels of each stage.
    """

    sizes: Sequence[int] = (1, 2, 2, 3, 3, 4, 1)
    widths: Sequence[int] = (16, 24, 40, 80, 112, 192, 320)

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> FeatureMaps:
        """Features at the end of four stages, and pooled; arguments as for `ResNetBackbone`."""
        conv = functools.partial(
            ConvNorm,
            activation=nn.relu6,
            kernel_init=he_normal,
            padding="SAME",
            epsilon=1e-3,
            dtype=self.dtype,
        )
        x = conv(32, 3, 2, name="stem")(images.astype(self.dtype), train=train, where=where)
        maps, number = [], 0
        for stage, (kernel, stride, expansion) in enumerate(_STAGES):
            features = self.widths[stage]
            for block in range(self.sizes[stage]):
                inputs, width, name = x, x.shape[-1] * expansion, f"block_{number}"
                if expansion > 1:
                    x = conv(width, 1, name=f"{name}_expand")(x, train=train, where=where)
                step = stride if block == 0 else 1
                x = conv(width, kernel, step, groups=width, name=f"{name}_depthwise")(
                    x, train=train, where=where
                )
                x = conv(features, 1, activation=None, name=f"{name}_project")(
                    x, train=train, where=where
                )
                if x.shape == inputs.shape:
                    x = x + inputs
                number += 1
            if stage in (1, 2, 4, 6):
                maps.append(x)
        x = conv(1280, 1, name="last")(x, train=train, where=where)
        return FeatureMaps(global_average(x), tuple(maps), tuple(maps), x)
