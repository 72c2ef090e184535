"""BLDR's network: a ResNet with two linear heads on its last feature, and early exits.

The exits are those of Zhang et al., "Be Your Own Teacher: Improve the Performance of Convolutional
Neural Networks via Self Distillation", ICCV 2019.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust.models import layers


class ExitBlock(nn.Module):
    """conv1x1 - conv KxK with stride K - conv1x1, each with bias, BN and ReLU."""

    features: int  # channels of the last convolution
    hidden: int  # channels of the first two
    kernel: int  # K, the factor by which the map shrinks
    kernel_init: nn.initializers.Initializer = layers.torch_uniform  # of the convolutions' weights
    dtype: Any = jnp.float32  # computation dtype

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool, where: jax.Array | None) -> jax.Array:
        x = inputs
        for features, kernel in ((self.hidden, 1), (self.hidden, self.kernel), (self.features, 1)):
            x = nn.Conv(
                features,
                (kernel, kernel),
                strides=kernel,
                padding="VALID",
                dtype=self.dtype,
                kernel_init=self.kernel_init,
                bias_init=layers.torch_bias(kernel * kernel * x.shape[-1]),
            )(x)
            x = nn.relu(layers.BatchNorm(dtype=self.dtype)(x, train=train, where=where))
        return x


class MultiExit(layers.Network):
    """A ResNet with a positive and a negative head, and an exit after each stage but the last.

    An exit shrinks its map as much as the remaining stages do. It has the channels of the last
    stage, and a quarter of them in its first two convolutions (128 of 512).

    Attributes:
      backbone: network with a method `stages`; its own heads are not used.
      num_classes: outputs per head.
      exits: whether there are exits.
      kernel_init: of the exits' convolutions.
      dtype: computation dtype of the exits.
    """

    backbone: nn.Module
    num_classes: int
    exits: bool = True
    kernel_init: nn.initializers.Initializer = layers.torch_uniform
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Logits and the features that they are computed from, float32.

        Logits are `[B, 2 + exits, C]` of the positive head, the negative head and the exits,
        shallow to deep, and features `[B, 1 + exits, D]` of the last stage and the exits.
        """
        stages = self.backbone.stages(images, train=train, where=where)
        width = stages.pooled.shape[-1]
        logits = [
            layers.Linear(self.num_classes, name=name)(stages.pooled)
            for name in ("positive_head", "negative_head")
        ]
        features = [stages.pooled]
        for i, stage in enumerate(stages.maps[:-1] if self.exits else ()):
            block = ExitBlock(
                width,
                width // 4,
                2 ** (len(stages.maps) - 1 - i),
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                name=f"exit_{i + 1}",
            )
            feature = layers.global_average(block(stage, train=train, where=where))
            features.append(feature)
            logits.append(layers.Linear(self.num_classes, name=f"exit_head_{i + 1}")(feature))
        return jnp.stack(logits, axis=1), jnp.stack(features, axis=1)
