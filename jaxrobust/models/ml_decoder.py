"""L2D's classifier: one embedding per label by cross-attention, and a linear classifier of each.

Yang et al., "Multi-Label Knowledge Distillation", ICCV 2023, https://arxiv.org/abs/2308.06453;
Ridnik et al., "ML-Decoder: Scalable and Versatile Classification Head", WACV 2023,
https://arxiv.org/abs/2111.12933.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust.models.layers import Backbone, FeatureMaps, Linear, Network


class MultiLabelOutputs(NamedTuple):
    """Outputs of a multi-label classifier."""

    logits: jax.Array  # float32 `[B, C]`
    label_embeddings: jax.Array  # float32 `[B, G, width]`, one per query; G = C by default
    features: FeatureMaps  # of the backbone


class CrossAttention(nn.Module):
    """Multi-head attention of queries to a memory, as in PyTorch."""

    num_heads: int  # divisor of the width
    dropout: float  # fraction of the attention weights that is dropped in training
    dtype: Any = jnp.float32  # computation dtype; parameters and softmax are float32

    @nn.compact
    def __call__(self, queries: jax.Array, memory: jax.Array, *, train: bool) -> jax.Array:
        """`[B, G, width]` of queries of that shape and memory `[B, S, width]`."""
        width = queries.shape[-1]
        # One matrix for queries, keys and values: its shape determines the initialisation's bound.
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (width, 3 * width))
        bias = self.param("bias", nn.initializers.zeros, (3 * width,))

        def project(x, part):
            columns = slice(part * width, (part + 1) * width)
            x, weights, shift = (
                a.astype(self.dtype) for a in (x, kernel[:, columns], bias[columns])
            )
            x = jnp.einsum("bsd,de->bse", x, weights) + shift[None, None]
            return x.reshape(*x.shape[:2], self.num_heads, -1)

        query, key, value = project(queries, 0), project(memory, 1), project(memory, 2)
        scores = jnp.einsum("bghe,bshe->bhgs", query, key) * (width // self.num_heads) ** -0.5
        weights = nn.softmax(scores.astype(jnp.float32), axis=-1).astype(self.dtype)
        weights = nn.Dropout(self.dropout, deterministic=not train)(weights)
        mixed = jnp.einsum("bhgs,bshe->bghe", weights, value).reshape(queries.shape)
        return Linear(width, bias_init=nn.initializers.zeros, dtype=self.dtype)(mixed)


class MLDecoder(nn.Module):
    """Logits and label embeddings of a map.

    The queries are random and not trained: they are in the collection `constants`, which is saved
    with `params`. Defaults are those of L2D's code.
    """

    num_classes: int  # C
    # G, number of queries, at most C; None for C, a negative number for 100
    num_groups: int | None = None
    width: int = 768  # of the embeddings
    hidden: int = 2048  # width of the feed-forward layer
    num_heads: int = 8  # of the attention
    dropout: float = 0.1  # fraction that is dropped in training, in every dropout
    # computation dtype of the linear layers and the attention; embeddings and logits are float32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """(logits `[B, C]`, embeddings `[B, G, width]`); training needs a `dropout` stream."""
        groups = self.num_classes if self.num_groups is None else self.num_groups
        groups = min(100 if groups < 0 else groups, self.num_classes)
        duplicates = -(-self.num_classes // groups)
        drop = functools.partial(nn.Dropout(self.dropout), deterministic=not train)
        norm = functools.partial(nn.LayerNorm, epsilon=1e-5)

        tokens = maps.reshape(maps.shape[0], -1, maps.shape[-1])
        memory = nn.relu(Linear(self.width, dtype=self.dtype, name="embed")(tokens))
        queries = self.variable(
            "constants",
            "queries",
            lambda: jax.random.normal(self.make_rng("params"), (groups, self.width)),
        ).value
        queries = jnp.broadcast_to(queries, (maps.shape[0], groups, self.width))

        x = norm(name="norm1")(queries + drop(queries))
        attention = CrossAttention(self.num_heads, self.dropout, self.dtype, name="attention")
        mixed = drop(attention(x, memory, train=train))
        x = norm(name="norm2")(x + mixed.astype(jnp.float32))
        hidden = drop(nn.relu(Linear(self.hidden, dtype=self.dtype, name="linear1")(x)))
        hidden = drop(Linear(self.width, dtype=self.dtype, name="linear2")(hidden))
        x = norm(name="norm3")(x + hidden.astype(jnp.float32))

        deviation = (2 / (duplicates * (self.width + groups))) ** 0.5
        kernel = self.param(
            "group_kernel",
            nn.initializers.normal(deviation),
            (groups, self.width, duplicates),
        )
        bias = self.param("group_bias", nn.initializers.zeros, (self.num_classes,))
        logits = jnp.einsum("bgd,gdk->bgk", x, kernel).reshape(maps.shape[0], -1)
        return logits[:, : self.num_classes] + bias[None], x


class MultiLabelClassifier(Network):
    """A backbone with an ML-Decoder on its final map.

    The top-level keys of the parameters are `backbone` and `decoder`.

    Attributes:
      backbone: network that returns `FeatureMaps`.
      num_classes: C.
      options: of the `MLDecoder`.
    """

    backbone: Backbone
    num_classes: int
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def setup(self):
        self.decoder = MLDecoder(self.num_classes, dtype=self.backbone.dtype, **self.options)

    def __call__(
        self, images: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> MultiLabelOutputs:
        """Logits, label embeddings and features; trains with a `dropout` random stream."""
        features = self.backbone(images, train=train, where=where)
        logits, label_embeddings = self.decoder(features.final, train=train)
        return MultiLabelOutputs(logits, label_embeddings, features)
