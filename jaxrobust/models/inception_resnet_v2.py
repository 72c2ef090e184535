"""InceptionResNetV2 as DPC trains it on WebVision, for images of 299 pixels.

Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning",
AAAI 2017.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust.models.layers import BatchNorm, HeadedNetwork, Linear, torch_bias, torch_uniform

# A convolution with BN and ReLU: (features, kernel, stride, padding); kernel and padding may be
# pairs (height, width).
_Spec = tuple[int, int | tuple[int, int], int, int | tuple[int, int]]

_MIXED_5B = (
    ((96, 1, 1, 0),),
    ((48, 1, 1, 0), (64, 5, 1, 2)),
    ((64, 1, 1, 0), (96, 3, 1, 1), (96, 3, 1, 1)),
)
_BLOCK_35 = (
    ((32, 1, 1, 0),),
    ((32, 1, 1, 0), (32, 3, 1, 1)),
    ((32, 1, 1, 0), (48, 3, 1, 1), (64, 3, 1, 1)),
)
_MIXED_6A = (
    ((384, 3, 2, 0),),
    ((256, 1, 1, 0), (256, 3, 1, 1), (384, 3, 2, 0)),
)
_BLOCK_17 = (
    ((192, 1, 1, 0),),
    ((128, 1, 1, 0), (160, (1, 7), 1, (0, 3)), (192, (7, 1), 1, (3, 0))),
)
_MIXED_7A = (
    ((256, 1, 1, 0), (384, 3, 2, 0)),
    ((256, 1, 1, 0), (288, 3, 2, 0)),
    ((256, 1, 1, 0), (288, 3, 1, 1), (320, 3, 2, 0)),
)
_BLOCK_8 = (
    ((192, 1, 1, 0),),
    ((192, 1, 1, 0), (224, (1, 3), 1, (0, 1)), (256, (3, 1), 1, (1, 0))),
)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def _max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), strides=(2, 2))


class ConvNormRelu(nn.Module):
    """Convolution without bias, BN, ReLU."""

    spec: _Spec
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool, where: jax.Array | None) -> jax.Array:
        features, kernel, stride, padding = self.spec
        x = nn.Conv(
            features,
            _pair(kernel),
            strides=stride,
            padding=[(p, p) for p in _pair(padding)],
            use_bias=False,
            dtype=self.dtype,
            kernel_init=torch_uniform,
        )(inputs)
        return nn.relu(BatchNorm(dtype=self.dtype, epsilon=1e-3)(x, train=train, where=where))


class Branches(nn.Module):
    """Chains of convolutions on the same input, concatenated."""

    chains: tuple[tuple[_Spec, ...], ...]  # specs of each chain
    # a further branch: `"max"` pooling of the input, `"average"` pooling of it and a convolution of
    # 64 features, or `""` for none
    pool: str = ""
    dtype: Any = jnp.float32  # computation dtype

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool, where: jax.Array | None) -> jax.Array:
        def conv(spec, x):
            return ConvNormRelu(spec, dtype=self.dtype)(x, train=train, where=where)

        outputs = []
        for chain in self.chains:
            x = inputs
            for spec in chain:
                x = conv(spec, x)
            outputs.append(x)
        if self.pool == "max":
            outputs.append(_max_pool(inputs))
        if self.pool == "average":
            mean = nn.avg_pool(inputs, (3, 3), padding="SAME", count_include_pad=False)
            outputs.append(conv((64, 1, 1, 0), mean))
        return jnp.concatenate(outputs, axis=-1)


class ResidualBranches(nn.Module):
    """x + scale * conv1x1(branches(x)), the convolution with bias, then ReLU if `activate`."""

    chains: tuple[tuple[_Spec, ...], ...]
    scale: float
    activate: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool, where: jax.Array | None) -> jax.Array:
        mixed = Branches(self.chains, dtype=self.dtype)(inputs, train=train, where=where)
        residual = nn.Conv(
            inputs.shape[-1],
            (1, 1),
            dtype=self.dtype,
            kernel_init=torch_uniform,
            bias_init=torch_bias(mixed.shape[-1]),
        )(mixed)
        x = inputs + jnp.asarray(self.scale, self.dtype) * residual
        return nn.relu(x) if self.activate else x


class InceptionResNetV2(HeadedNetwork):
    """InceptionResNetV2 with linear heads on the pooled feature, without dropout.

    Attributes:
      num_classes: outputs per head.
      num_heads: number of heads.
      repeats: number of blocks of each of the three kinds.
      dtype: computation dtype of the convolutions; features and logits are float32.
    """

    num_classes: int
    num_heads: int = 1
    repeats: tuple[int, int, int] = (10, 20, 9)
    dtype: Any = jnp.float32

    def setup(self):
        def conv(*spec):
            return ConvNormRelu(spec, dtype=self.dtype)

        def mixed(chains, pool):
            return Branches(chains, pool, dtype=self.dtype)

        def blocks(number, chains, scale):
            return [ResidualBranches(chains, scale, dtype=self.dtype) for _ in range(number)]

        self.stem_1 = [conv(32, 3, 2, 0), conv(32, 3, 1, 0), conv(64, 3, 1, 1)]
        self.stem_2 = [conv(80, 1, 1, 0), conv(192, 3, 1, 0)]
        self.mixed_5b = mixed(_MIXED_5B, "average")
        self.blocks_35 = blocks(self.repeats[0], _BLOCK_35, 0.17)
        self.mixed_6a = mixed(_MIXED_6A, "max")
        self.blocks_17 = blocks(self.repeats[1], _BLOCK_17, 0.10)
        self.mixed_7a = mixed(_MIXED_7A, "max")
        self.blocks_8 = blocks(self.repeats[2], _BLOCK_8, 0.20)
        self.last_block = ResidualBranches(_BLOCK_8, 1.0, activate=False, dtype=self.dtype)
        self.last_conv = conv(1536, 1, 1, 0)
        self.heads = [Linear(self.num_classes) for _ in range(self.num_heads)]

    def features(
        self, images: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> jax.Array:
        """Pooled features.

        Args:
          images: `[B, H, W, 3]`, normalised; H and W at least 75.
          train: whether BatchNorm uses, and updates its running averages from, this batch.
          where: bool `[B]`; rows that are left out of BatchNorm's statistics are False.

        Returns:
          float32 `[B, 1536]`.
        """
        x = images.astype(self.dtype)
        for layer in self.stem_1:
            x = layer(x, train=train, where=where)
        x = _max_pool(x)
        for layer in self.stem_2:
            x = layer(x, train=train, where=where)
        x = _max_pool(x)
        for layer in (
            self.mixed_5b,
            *self.blocks_35,
            self.mixed_6a,
            *self.blocks_17,
            self.mixed_7a,
            *self.blocks_8,
            self.last_block,
            self.last_conv,
        ):
            x = layer(x, train=train, where=where)
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
