"""VGG with batch normalisation, of the CIFAR distillation benchmark.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
ICLR 2015, https://arxiv.org/abs/1409.1556.
"""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax

from jaxrobust.models import layers


class VGG(layers.Backbone):
    """Five blocks of conv3x3 - BN - ReLU up to the pooled feature.

    A 2x2 max-pooling follows the first three blocks, and for images of 64 pixels the fourth. The
    maps are those of the last four blocks.

    Attributes:
      block_sizes: convolutions per block, of 64, 128, 256, 512 and 512 channels.
    """

    head_options: ClassVar = {
        "kernel_init": nn.initializers.normal(0.01),
        "bias_init": nn.initializers.zeros,
    }

    block_sizes: Sequence[int]

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> layers.FeatureMaps:
        """Features at the end of every block, and pooled; arguments as for `ResNetBackbone`."""
        pooled_blocks = 4 if images.shape[1] == 64 else 3
        x = images.astype(self.dtype)
        maps, preactivations = [], []
        widths = (64, 128, 256, 512, 512)
        for block, (size, width) in enumerate(zip(self.block_sizes, widths, strict=True)):
            before = x
            for i in range(size):
                x = layers.Conv(
                    width,
                    use_bias=True,
                    kernel_init=layers.he_normal,
                    dtype=self.dtype,
                    name=f"conv_{block}_{i}",
                )(x)
                before = layers.BatchNorm(dtype=self.dtype, name=f"norm_{block}_{i}")(
                    x, train=train, where=where
                )
                x = nn.relu(before)
            maps.append(x)
            preactivations.append(before)
            if block < pooled_blocks:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return layers.FeatureMaps(
            layers.global_average(x), tuple(maps[1:]), tuple(preactivations[1:]), x
        )
