"""Layers shared by the networks."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# PyTorch's default for convolutions and linear layers: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias(fan_in: int) -> nn.initializers.Initializer:
    """PyTorch's default for biases, which have the bound of the weights beside them."""

    def init(key, shape, dtype=jnp.float32):
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


BATCH_NORM_MOMENTUM = 0.9
"""Share of a running average that stays at every update: PyTorch's momentum of 0.1."""


class Linear(nn.Module):
    """Dense layer with PyTorch's default initialisation, the bias included, in float32.

    Attributes:
      features: number of outputs.
    """

    features: int

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        dense = nn.Dense(
            self.features, kernel_init=torch_uniform, bias_init=torch_bias(inputs.shape[-1])
        )
        return dense(inputs.astype(jnp.float32))


class Conv(nn.Module):
    """Square convolution without bias, PyTorch padding and initialisation.

    Attributes:
      features: output channels.
      kernel: kernel size.
      stride: step in both directions.
      dtype: computation dtype; parameters are float32.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        return nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=self.kernel // 2,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=torch_uniform,
        )(inputs)


class BatchNorm(nn.Module):
    """Batch normalisation over the valid rows, with PyTorch's constants.

    Under `jit` the statistics are those of the global batch. flax keeps the biased variance in its
    running average where PyTorch keeps the unbiased one.

    Attributes:
      dtype: computation dtype; statistics and parameters are float32.
      epsilon: added to the variance.
    """

    dtype: Any = jnp.float32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool, where: jax.Array | None) -> jax.Array:
        mask = None
        if where is not None:
            mask = where.reshape(where.shape + (1,) * (inputs.ndim - 1))
        return nn.BatchNorm(
            use_running_average=not train,
            momentum=BATCH_NORM_MOMENTUM,
            epsilon=self.epsilon,
            dtype=self.dtype,
        )(inputs, mask=mask)
