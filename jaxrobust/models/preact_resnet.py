"""Pre-activation residual block of DPC's PreAct ResNet-18."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust.models.layers import BatchNorm, Conv, torch_uniform


class PreActBlock(nn.Module):
    """h = ReLU(BN(x)), then conv3x3(ReLU(BN(conv3x3(h)))) plus shortcut.

    The shortcut starts from h, not from x: h itself, or conv1x1(h) where the stride or the width
    changes. Nothing follows the sum, so a network of these ends without BN and ReLU.
    """

    features: int
    stride: int = 1
    kernel_init: nn.initializers.Initializer = torch_uniform
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, inputs: jax.Array, *, train: bool, where: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        conv = functools.partial(
            Conv, self.features, kernel_init=self.kernel_init, dtype=self.dtype
        )

        def activate(x):
            return nn.relu(BatchNorm(dtype=self.dtype)(x, train=train, where=where))

        shortcut = hidden = activate(inputs)
        x = conv(3, self.stride)(hidden)
        x = conv()(activate(x))
        if self.stride != 1 or inputs.shape[-1] != self.features:
            shortcut = conv(1, self.stride)(hidden)
        x = x + shortcut
        return x, x
