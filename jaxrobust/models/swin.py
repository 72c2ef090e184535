"""Swin Transformers, for images of any size.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021,
https://arxiv.org/abs/2103.14030.
"""

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.models.layers import Backbone, FeatureMaps, global_average

WINDOW = 7

# PyTorch cuts the normal distribution at +-2, a hundred deviations out.
_normal = nn.initializers.normal(0.02)


def _relative_positions() -> np.ndarray:
    """Row of the bias table for every pair of positions in a window, [49, 49]."""
    grid = np.stack(np.meshgrid(*[np.arange(WINDOW)] * 2, indexing="ij")).reshape(2, -1)
    rows, columns = grid[:, :, None] - grid[:, None, :] + WINDOW - 1
    return rows * (2 * WINDOW - 1) + columns


def _windows(x: Any) -> Any:
    """Maps `[B, H, W, C]`, NumPy or JAX, as windows `[B * windows, 49, C]`."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // WINDOW, WINDOW, width // WINDOW, WINDOW, channels)
    return x.swapaxes(2, 3).reshape(-1, WINDOW**2, channels)


def _shift_mask(size: tuple[int, ...], shifts: tuple[int, ...]) -> np.ndarray:
    """Bool [windows, 49, 49], True for pairs in one window only because of the cyclic shift."""
    rows, columns = (
        np.select([np.arange(n) < n - WINDOW, np.arange(n) < n - shift], [0, 1], 2)
        if shift
        else np.zeros(n, int)
        for n, shift in zip(size, shifts, strict=True)
    )
    region = _windows((3 * rows[:, None] + columns)[None, :, :, None])[..., 0]
    return region[:, :, None] != region[:, None, :]


class WindowAttention(nn.Module):
    """Self-attention within windows of 7x7 positions, shifted by `shift`.

    Maps are padded to whole windows. An axis that one window covers is not shifted.
    """

    num_heads: int  # divisor of the width
    shift: int  # 0 or 3
    dtype: Any = jnp.float32  # computation dtype

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=_normal)
        batch, *size, width = inputs.shape
        padding = [(0, -n % WINDOW) for n in size]
        x = jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
        padded = x.shape[1:3]
        shifts = tuple(self.shift if n > WINDOW else 0 for n in padded)
        x = _windows(jnp.roll(x, [-n for n in shifts], (1, 2)))

        qkv = dense(3 * width, name="qkv")(x).reshape(*x.shape[:2], 3, self.num_heads, -1)
        query, key, value = jnp.unstack(qkv, axis=2)
        query = query * jnp.asarray((width // self.num_heads) ** -0.5, self.dtype)
        scores = jnp.einsum("nqhe,nkhe->nhqk", query, key).astype(jnp.float32)
        table = self.param(
            "relative_position_bias_table", _normal, ((2 * WINDOW - 1) ** 2, self.num_heads)
        )
        scores += jnp.transpose(table[_relative_positions()], (2, 0, 1))[None]
        if any(shifts):
            apart = _shift_mask(padded, shifts)
            scores = scores.reshape(batch, -1, *scores.shape[1:])
            scores += jnp.where(apart, -100.0, 0.0).astype(jnp.float32)[None, :, None]
            scores = scores.reshape(-1, *scores.shape[2:])
        weights = nn.softmax(scores, axis=-1).astype(self.dtype)
        x = jnp.einsum("nhqk,nkhe->nqhe", weights, value).reshape(x.shape)
        x = dense(width, name="proj")(x)

        rows, columns = (n // WINDOW for n in padded)
        x = x.reshape(batch, rows, columns, WINDOW, WINDOW, width).swapaxes(2, 3)
        x = jnp.roll(x.reshape(batch, *padded, width), shifts, (1, 2))
        return x[:, : size[0], : size[1]]


class SwinBlock(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)), with stochastic depth in training."""

    num_heads: int  # of the attention
    shift: int  # of the attention's windows
    drop: float  # probability that a branch is dropped for a row of the batch
    dtype: Any = jnp.float32  # computation dtype

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
        norm = functools.partial(nn.LayerNorm, epsilon=1e-5, dtype=self.dtype)
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=_normal)

        def drop(branch):
            layer = nn.Dropout(self.drop, broadcast_dims=(1, 2, 3), deterministic=not train)
            return layer(branch)

        width = inputs.shape[-1]
        attention = WindowAttention(self.num_heads, self.shift, self.dtype, name="attn")
        x = inputs + drop(attention(norm(name="norm1")(inputs)))
        hidden = dense(4 * width, name="mlp_0")(norm(name="norm2")(x))
        return x + drop(dense(width, name="mlp_3")(nn.gelu(hidden, approximate=False)))


class SwinTransformer(Backbone):
    """Swin Transformer up to the pooled feature.

    In training a `dropout` random stream is needed. The maps are the outputs of the stages; the
    final map is the last of them after LayerNorm. `where` has no effect: there is no BatchNorm.

    Attributes:
      width: of the first stage; each stage doubles it.
      sizes: blocks per stage.
      num_heads: of the attention, per stage.
      drop: stochastic depth of the last block; it grows linearly with the block from 0.
    """

    head_options: ClassVar = {"kernel_init": _normal, "bias_init": nn.initializers.zeros}

    width: int = 96
    sizes: Sequence[int] = (2, 2, 6, 2)
    num_heads: Sequence[int] = (3, 6, 12, 24)
    drop: float = 0.2

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> FeatureMaps:
        """Features at the end of every stage, and pooled; arguments as for `ResNetBackbone`."""
        del where
        norm = functools.partial(nn.LayerNorm, epsilon=1e-5, dtype=self.dtype)
        x = nn.Conv(
            self.width,
            (4, 4),
            strides=4,
            padding="VALID",
            dtype=self.dtype,
            kernel_init=_normal,
            name="patch_conv",
        )(images.astype(self.dtype))
        x = norm(name="patch_norm")(x)
        maps, drops = [], iter(np.linspace(0, self.drop, sum(self.sizes)).tolist())
        for stage, (size, num_heads) in enumerate(zip(self.sizes, self.num_heads, strict=True)):
            if stage > 0:
                x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
                batch, height, width, channels = x.shape
                x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
                corners = x.transpose(0, 1, 3, 4, 2, 5)  # columns, then rows, as in PyTorch
                x = corners.reshape(batch, height // 2, width // 2, 4 * channels)
                x = norm(name=f"merge_{stage}_norm")(x)
                x = nn.Dense(
                    self.width * 2**stage,
                    use_bias=False,
                    dtype=self.dtype,
                    kernel_init=_normal,
                    name=f"merge_{stage}_reduction",
                )(x)
            for block in range(size):
                x = SwinBlock(
                    num_heads,
                    WINDOW // 2 if block % 2 else 0,
                    next(drops),
                    self.dtype,
                    name=f"block_{stage}_{block}",
                )(x, train=train)
            maps.append(x)
        final = norm(name="norm")(x)
        return FeatureMaps(global_average(final), tuple(maps), tuple(maps), final)
