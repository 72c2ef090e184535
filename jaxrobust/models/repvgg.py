"""RepVGG: three branches in training, one convolution when deployed.

Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021,
https://arxiv.org/abs/2101.03697.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust.models.layers import Backbone, BatchNorm, Conv, ConvNorm, FeatureMaps, global_average

_EPSILON = BatchNorm.epsilon


class RepVGGBlock(nn.Module):
    """BN(conv3x3) + BN(conv1x1) + BN of the input where the shape stays, before the ReLU."""

    features: int  # output channels
    stride: int  # step in both directions
    deployed: bool  # whether there is one conv3x3 with bias in place of the branches
    dtype: Any = jnp.float32  # computation dtype

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool, where: jax.Array | None) -> jax.Array:
        if self.deployed:
            return Conv(
                self.features, 3, self.stride, use_bias=True, dtype=self.dtype, name="dense"
            )(inputs)

        def branch(kernel, name):
            return ConvNorm(
                self.features, kernel, self.stride, activation=None, dtype=self.dtype, name=name
            )(inputs, train=train, where=where)

        x = branch(3, "dense") + branch(1, "pointwise")
        if self.stride == 1 and inputs.shape[-1] == self.features:
            x += BatchNorm(dtype=self.dtype, name="identity")(inputs, train=train, where=where)
        return x


class RepVGG(Backbone):
    """RepVGG up to the pooled feature.

    Attributes:
      widths: channels of the five stages, each of which begins with stride 2.
      sizes: blocks per stage.
      deployed: whether every block is one convolution; see `reparameterize`.
    """

    widths: Sequence[int]
    sizes: Sequence[int] = (1, 2, 4, 14, 1)
    deployed: bool = False

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> FeatureMaps:
        """Features at the end of the last four stages, and pooled; arguments as for
        `ResNetBackbone`."""
        x = images.astype(self.dtype)
        maps, preactivations = [], []
        for stage, (size, width) in enumerate(zip(self.sizes, self.widths, strict=True)):
            before = x
            for block in range(size):
                before = RepVGGBlock(
                    width,
                    2 if block == 0 else 1,
                    self.deployed,
                    dtype=self.dtype,
                    name=f"block_{stage}_{block}",
                )(x, train=train, where=where)
                x = nn.relu(before)
            maps.append(x)
            preactivations.append(before)
        return FeatureMaps(global_average(x), tuple(maps[1:]), tuple(preactivations[1:]), x)


def _fused(kernel: jax.Array, norm: Mapping, stats: Mapping) -> tuple[jax.Array, jax.Array]:
    """Kernel and bias of a convolution followed by BN with its running averages."""
    scale = norm["scale"] / jnp.sqrt(stats["var"] + _EPSILON)
    return kernel * scale[None, None, None, :], norm["bias"] - stats["mean"] * scale


def reparameterize(variables: Mapping[str, Any]) -> dict[str, Any]:
    """`params` of the backbone with `deployed=True` that computes the same in evaluation mode.

    `variables` are the `params` and `batch_stats` of a RepVGG backbone as trained.
    """
    params = {}
    for name, block in variables["params"].items():
        stats = variables["batch_stats"][name]
        kernel, bias = 0.0, 0.0
        for branch in block:
            if branch == "identity":
                norm, averages = block[branch], stats[branch]
                width = norm["BatchNorm_0"]["scale"].size
                weights = jnp.eye(width, dtype=jnp.float32)[None, None]
            else:
                norm, averages = block[branch]["BatchNorm_0"], stats[branch]["BatchNorm_0"]
                weights = block[branch]["Conv_0"]["Conv_0"]["kernel"]
            if weights.shape[0] == 1:
                weights = jnp.pad(weights, ((1, 1), (1, 1), (0, 0), (0, 0)))
            weights, offset = _fused(weights, norm["BatchNorm_0"], averages["BatchNorm_0"])
            kernel, bias = kernel + weights, bias + offset
        params[name] = {"dense": {"Conv_0": {"kernel": kernel, "bias": bias}}}
    return {"params": params}
