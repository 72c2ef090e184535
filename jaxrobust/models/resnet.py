"""CIFAR-style ResNets with one or more linear heads on the pooled feature."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust.models.layers import BatchNorm, Conv, Linear

POOLINGS = ("global", "window4")


class BasicBlock(nn.Module):
    """conv3x3 - BN - ReLU - conv3x3 - BN plus shortcut, ReLU.

    The shortcut is the identity, or conv1x1 - BN where the stride or the width changes.
    """

    features: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool, where: jax.Array | None) -> jax.Array:
        def norm(x):
            return BatchNorm(dtype=self.dtype)(x, train=train, where=where)

        x = nn.relu(norm(Conv(self.features, 3, self.stride, dtype=self.dtype)(inputs)))
        x = norm(Conv(self.features, 3, dtype=self.dtype)(x))
        if self.stride != 1 or inputs.shape[-1] != self.features:
            inputs = norm(Conv(self.features, 1, self.stride, dtype=self.dtype)(inputs))
        return nn.relu(x + inputs)


class ResNet(nn.Module):
    """ResNet with a 3x3 stem and no max-pooling, for images of 8 to 64 pixels.

    Every head is a `Linear` layer initialised from its own key, so two heads never start equal.

    Attributes:
      num_classes: outputs per head.
      num_heads: number of heads.
      block: residual block, made as `block(features, stride, dtype=dtype)`.
      stage_sizes: blocks per stage; every stage but the first halves the resolution.
      widths: channels per stage.
      pool: `"global"`, or `"window4"` for average pooling over 4x4 windows, flattened (at 64x64
        input this gives 4 times as many features).
      dtype: computation dtype of the convolutions; features and logits are float32.
    """

    num_classes: int
    num_heads: int = 1
    block: Callable[..., nn.Module] = BasicBlock
    stage_sizes: Sequence[int] = (2, 2, 2, 2)
    widths: Sequence[int] = (64, 128, 256, 512)
    pool: str = "global"
    dtype: Any = jnp.float32

    def setup(self):
        self.stem_conv = Conv(self.widths[0], dtype=self.dtype)
        self.stem_norm = BatchNorm(dtype=self.dtype)
        self.blocks = [
            self.block(width, 2 if stage > 0 and block == 0 else 1, dtype=self.dtype)
            for stage, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True))
            for block in range(size)
        ]
        self.heads = [Linear(self.num_classes) for _ in range(self.num_heads)]

    def features(
        self, images: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> jax.Array:
        """Pooled features.

        Args:
          images: `[B, H, W, 3]`, normalised.
          train: whether BatchNorm uses, and updates its running averages from, this batch.
          where: bool `[B]`; rows that are left out of BatchNorm's statistics are False.

        Returns:
          float32 `[B, D]`.
        """
        x = self.stem_conv(images.astype(self.dtype))
        x = nn.relu(self.stem_norm(x, train=train, where=where))
        for block in self.blocks:
            x = block(x, train=train, where=where)
        if self.pool == "window4":
            batch, height, width, channels = x.shape
            x = x.reshape(batch, height // 4, 4, width // 4, 4, channels)
            return jnp.mean(x, axis=(2, 4), dtype=jnp.float32).reshape(batch, -1)
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)

    def classify(self, features: jax.Array) -> jax.Array:
        """Logits float32 `[B, num_heads, num_classes]` of features `[B, D]`."""
        return jnp.stack([head(features) for head in self.heads], axis=1)

    def __call__(
        self, images: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> jax.Array:
        """Logits float32 `[B, num_heads, num_classes]`; arguments as for `features`."""
        return self.classify(self.features(images, train=train, where=where))
