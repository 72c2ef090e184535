"""ResNets: the backbone, and the network with linear heads on its pooled feature."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust.models import layers

POOLINGS = ("global", "window4")


class BasicBlock(nn.Module):
    """conv3x3 - BN - ReLU - conv3x3 - BN plus shortcut, ReLU.

    The shortcut is the identity, or conv1x1 - BN where the stride or the width changes. Returns the
    output after and before the last ReLU, as every block here does.
    """

    features: int
    stride: int = 1
    kernel_init: nn.initializers.Initializer = layers.torch_uniform
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, inputs: jax.Array, *, train: bool, where: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        conv = functools.partial(
            layers.Conv, self.features, kernel_init=self.kernel_init, dtype=self.dtype
        )

        def norm(x):
            return layers.BatchNorm(dtype=self.dtype)(x, train=train, where=where)

        x = nn.relu(norm(conv(3, self.stride)(inputs)))
        x = norm(conv()(x))
        if self.stride != 1 or inputs.shape[-1] != self.features:
            inputs = norm(conv(1, self.stride)(inputs))
        x = x + inputs
        return nn.relu(x), x


class BottleneckBlock(nn.Module):
    """conv1x1 - BN - ReLU - conv3x3 - BN - ReLU - conv1x1 - BN plus shortcut, ReLU.

    The last convolution has 4 times `features` channels and the 3x3 convolution has the stride.

    Attributes:
      widening: factor on the width of the first two convolutions (2 in wide ResNets).
    """

    features: int
    stride: int = 1
    kernel_init: nn.initializers.Initializer = layers.torch_uniform
    dtype: Any = jnp.float32
    widening: int = 1

    @nn.compact
    def __call__(
        self, inputs: jax.Array, *, train: bool, where: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        conv = functools.partial(layers.Conv, kernel_init=self.kernel_init, dtype=self.dtype)
        inner, outer = self.features * self.widening, self.features * 4

        def norm(x):
            return layers.BatchNorm(dtype=self.dtype)(x, train=train, where=where)

        x = nn.relu(norm(conv(inner, 1)(inputs)))
        x = nn.relu(norm(conv(inner, 3, self.stride)(x)))
        x = norm(conv(outer, 1)(x))
        if self.stride != 1 or inputs.shape[-1] != outer:
            inputs = norm(conv(outer, 1, self.stride)(inputs))
        x = x + inputs
        return nn.relu(x), x


class ResNetBackbone(layers.Backbone):
    """ResNet up to the pooled feature.

    Attributes:
      block: residual block, made as `block(features, stride, kernel_init=..., dtype=...)`.
      stage_sizes: blocks per stage; every stage but the first halves the resolution.
      widths: channels per stage, before the expansion of a bottleneck block.
      stem_width: channels of the stem; None is `widths[0]`.
      stem: `"small"` for a 3x3 convolution, `"imagenet"` for 7x7 with stride 2 and max-pooling.
      pool: `"global"`, or `"window4"` for average pooling over 4x4 windows, flattened (at 64x64
        input this gives 4 times as many features).
      kernel_init: of every convolution.
    """

    block: Callable[..., nn.Module] = BasicBlock
    stage_sizes: Sequence[int] = (2, 2, 2, 2)
    widths: Sequence[int] = (64, 128, 256, 512)
    stem_width: int | None = None
    stem: str = "small"
    pool: str = "global"
    kernel_init: nn.initializers.Initializer = layers.he_normal

    def setup(self):
        options = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        kernel, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        self.stem_conv = layers.Conv(self.stem_width or self.widths[0], kernel, stride, **options)
        self.stem_norm = layers.BatchNorm(dtype=self.dtype)
        self.blocks = [
            self.block(width, 2 if stage > 0 and block == 0 else 1, **options)
            for stage, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True))
            for block in range(size)
        ]

    def __call__(
        self, images: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> layers.FeatureMaps:
        """Features at the end of every stage, and pooled."""
        x = self.stem_conv(images.astype(self.dtype))
        x = nn.relu(self.stem_norm(x, train=train, where=where))
        if self.stem == "imagenet":
            x = nn.pool(x, -jnp.inf, jax.lax.max, (3, 3), (2, 2), ((1, 1), (1, 1)))
        maps, preactivations = [], []
        blocks = iter(self.blocks)
        for size in self.stage_sizes:
            preactivation = x
            for _ in range(size):
                x, preactivation = next(blocks)(x, train=train, where=where)
            maps.append(x)
            preactivations.append(preactivation)
        return layers.FeatureMaps(self._pooled(x), tuple(maps), tuple(preactivations), x)

    def _pooled(self, x: jax.Array) -> jax.Array:
        if self.pool == "global":
            return layers.global_average(x)
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 4, 4, width // 4, 4, channels)
        return jnp.mean(x, axis=(2, 4), dtype=jnp.float32).reshape(batch, -1)


class ResNet(layers.HeadedNetwork):
    """ResNet with linear heads, with a 3x3 stem for images of 8 to 64 pixels.

    Attributes:
      num_classes: outputs per head.
      num_heads: number of heads.
      block: as for `ResNetBackbone`.
      stage_sizes: as for `ResNetBackbone`.
      widths: as for `ResNetBackbone`.
      stem: as for `ResNetBackbone`.
      pool: as for `ResNetBackbone`.
      kernel_init: of every convolution; PyTorch's default.
      dtype: computation dtype of the convolutions; features and logits are float32.
    """

    num_classes: int
    num_heads: int = 1
    block: Callable[..., nn.Module] = BasicBlock
    stage_sizes: Sequence[int] = (2, 2, 2, 2)
    widths: Sequence[int] = (64, 128, 256, 512)
    stem: str = "small"
    pool: str = "global"
    kernel_init: nn.initializers.Initializer = layers.torch_uniform
    dtype: Any = jnp.float32

    def setup(self):
        self.backbone = ResNetBackbone(
            block=self.block,
            stage_sizes=self.stage_sizes,
            widths=self.widths,
            stem=self.stem,
            pool=self.pool,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
        )
        # The parameters of the backbone and of the heads lie side by side.
        nn.share_scope(self, self.backbone)
        self.heads = [layers.Linear(self.num_classes) for _ in range(self.num_heads)]

    def stages(
        self, images: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> layers.FeatureMaps:
        """Features at the end of every stage, and pooled; arguments as for `ResNetBackbone`."""
        return self.backbone(images, train=train, where=where)
