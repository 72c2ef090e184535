"""ML-Decoder: one embedding per class of an image, by attention to the map of a backbone.

Ridnik et al., "ML-Decoder: Scalable and Versatile Classification Head", WACV 2023,
https://arxiv.org/abs/2111.12933, as the authors of L2D use it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust.losses._numerics import at_least_float32
from jaxrobust.models.dual_head import Outputs
from jaxrobust.models.layers import torch_bias, torch_uniform


class MLDecoder(nn.Module):
    """A decoder layer without self-attention, and a linear classifier for each embedding.

    The queries, one per class, are random and stay as they are; no gradient reaches them.

    Attributes:
      num_classes: C.
      num_groups: queries, each for several consecutive classes; None for one per class.
      width: of the embeddings.
      hidden: width of the feed-forward layer.
      num_heads: of the attention; divides `width`.
      dropout: share that is dropped in training: of the queries, of attention weights, of the
        attention's output, and around the feed-forward layer.
    """

    num_classes: int
    num_groups: int | None = None
    width: int = 768
    hidden: int = 2048
    num_heads: int = 8
    dropout: float = 0.1

    @nn.compact
    def __call__(self, maps: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Embeddings and logits; in training a `dropout` random stream is needed.

        Args:
          maps: `[B, H, W, F]` or tokens `[B, S, F]`; their order is of no account.
          train: whether units are dropped.

        Returns:
          Label embeddings `[B, G, width]` and logits `[B, C]`, at least float32.
        """
        num_groups = min(self.num_groups or self.num_classes, self.num_classes)
        tokens = maps.reshape(len(maps), -1, maps.shape[-1])
        tokens = at_least_float32(tokens)

        def drop(x):
            return nn.Dropout(self.dropout, deterministic=not train)(x)

        memory = nn.relu(_dense(self.width, tokens, "memory"))
        queries = self.param("queries", nn.initializers.normal(1.0), (num_groups, self.width))
        queries = jnp.broadcast_to(
            jax.lax.stop_gradient(queries), (len(maps), num_groups, self.width)
        )
        x = _norm("norm1")(queries + drop(queries))
        attended = _Attention(self.num_heads, self.dropout, name="attention")(
            x, memory, train=train
        )
        x = _norm("norm2")(x + drop(attended))
        hidden = drop(nn.relu(_dense(self.hidden, x, "expand")))
        x = _norm("norm3")(x + drop(_dense(self.width, hidden, "contract")))

        per_group = -(-self.num_classes // num_groups)
        spread = (2 / (self.width + self.num_classes)) ** 0.5
        kernel = self.param(
            "kernel", nn.initializers.normal(spread), (num_groups, self.width, per_group)
        )
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,))
        logits = jnp.einsum("bgd,gdk->bgk", x, kernel).reshape(len(maps), -1)
        return x, logits[:, : self.num_classes] + bias[None]


def _dense(features: int, x: jax.Array, name: str) -> jax.Array:
    """A linear layer as PyTorch starts it."""
    return nn.Dense(
        features, kernel_init=torch_uniform, bias_init=torch_bias(x.shape[-1]), name=name
    )(x)


def _norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-5, name=name)


class _Attention(nn.Module):
    """Multi-head attention of queries to a memory, with PyTorch's initial weights."""

    num_heads: int
    dropout: float

    @nn.compact
    def __call__(self, queries: jax.Array, memory: jax.Array, *, train: bool) -> jax.Array:
        width = queries.shape[-1]
        # PyTorch keeps the three projections in one matrix, whose Xavier bound this is.
        bound = (6 / (4 * width)) ** 0.5

        def uniform(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        def heads(x, name):
            x = nn.Dense(width, kernel_init=uniform, name=name)(x)
            return x.reshape(*x.shape[:-1], self.num_heads, -1)

        query, key, value = (
            heads(x, name) for x, name in ((queries, "query"), (memory, "key"), (memory, "value"))
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
        weights = nn.Dropout(self.dropout, deterministic=not train)(nn.softmax(scores))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(queries.shape)
        return nn.Dense(width, kernel_init=torch_uniform, name="out")(mixed)


class LabelClassifier(nn.Module):
    """A backbone whose final map an ML-Decoder reads, for images with several labels.

    The top-level keys of the parameters are `backbone` and `primary`, as in `Classifier`.

    Attributes:
      backbone: network that returns `Features`.
      num_classes: C.
      decoder: options of `MLDecoder`.
    """

    backbone: nn.Module
    num_classes: int
    decoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def setup(self):
        self.primary = MLDecoder(self.num_classes, **self.decoder)

    def __call__(
        self, images: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> Outputs:
        """Logits, label embeddings and the features; arguments as for `Classifier`."""
        features = self.backbone(images, train=train, where=where)
        embeddings, logits = self.primary(features.final, train=train)
        return Outputs(logits, None, features, embeddings)
