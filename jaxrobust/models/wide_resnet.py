"""Wide ResNets of the CIFAR distillation benchmark.

Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, https://arxiv.org/abs/1605.07146.
"""

import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust.models import layers


class WideBlock(nn.Module):
    """conv3x3(ReLU(BN(conv3x3(ReLU(BN(x)))))) plus shortcut.

    The shortcut is x, or conv1x1(ReLU(BN(x))) where the width changes. Returns the output and
    BN(x), which is the pre-activation of the previous block's map.
    """

    features: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, inputs: jax.Array, *, train: bool, where: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        conv = functools.partial(
            layers.Conv, self.features, kernel_init=layers.he_normal, dtype=self.dtype
        )

        def norm(x):
            return layers.BatchNorm(dtype=self.dtype)(x, train=train, where=where)

        preactivation = norm(inputs)
        hidden = nn.relu(preactivation)
        x = nn.relu(norm(conv(3, self.stride)(hidden)))
        x = conv()(x)
        shortcut = inputs
        if inputs.shape[-1] != self.features:
            shortcut = conv(1, self.stride)(hidden)
        return x + shortcut, preactivation


class WideResNet(layers.Backbone):
    """Wide ResNet of three stages up to the pooled feature.

    A stage's map is the input of the next block, or of the head, after its BN and ReLU.

    Attributes:
      depth: 6 n + 4 for n blocks per stage.
      widening: factor on the widths 16, 32 and 64.
    """

    head_options: ClassVar = {"bias_init": nn.initializers.zeros}

    depth: int
    widening: int

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> layers.FeatureMaps:
        """Features at the end of every stage, and pooled; arguments as for `ResNetBackbone`."""
        x = layers.Conv(16, kernel_init=layers.he_normal, dtype=self.dtype)(
            images.astype(self.dtype)
        )
        preactivations, blocks = [], []
        for stage in range(3):
            for block in range((self.depth - 4) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                x, before = WideBlock(16 * 2**stage * self.widening, stride, dtype=self.dtype)(
                    x, train=train, where=where
                )
                if stage > 0 and block == 0:
                    preactivations.append(before)
            blocks.append(x)
        preactivations.append(layers.BatchNorm(dtype=self.dtype)(x, train=train, where=where))
        maps = tuple(nn.relu(x) for x in preactivations)
        return layers.FeatureMaps(
            layers.global_average(maps[-1]), maps, tuple(preactivations), maps[-1], tuple(blocks)
        )
