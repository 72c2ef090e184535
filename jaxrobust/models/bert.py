"""BERT as an encoder of sentences."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxrobust.arrays import unit_rows
from jaxrobust.models.vision_transformer import Attention, Hidden

_EPSILON = 1e-12  # of the layer norms of published weights


class EncoderLayer(nn.Module):
    """Self-attention and a hidden layer, each added to its input and normalised after it."""

    num_heads: int
    hidden_width: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        norm = functools.partial(nn.LayerNorm, epsilon=_EPSILON)
        mixed = Attention(self.num_heads, name="attention")(x, x, mask[:, None, None])
        x = norm(name="mixed_norm")(x + mixed)
        return norm(name="out_norm")(x + Hidden(self.hidden_width, "gelu", name="mlp")(x))


class Bert(nn.Module):
    """Transformer encoder whose outputs are averaged over the tokens of a text.

    References:
      Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
      Understanding", NAACL 2019. Mean of the tokens: Reimers and Gurevych, "Sentence-BERT",
      EMNLP 2019, Section 3.
    """

    vocabulary: int  # number of tokens
    width: int  # D
    num_layers: int  # of attention
    num_heads: int  # of each layer
    hidden_width: int  # of each layer's hidden units
    max_length: int  # most tokens of a text

    @nn.compact
    def __call__(self, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
        """Embeddings float32 `[B, D]`, of unit length, of tokens int32 `[B, T]`."""
        places = jnp.arange(tokens.shape[1])[None]
        mask = places < lengths[:, None]
        x = nn.Embed(self.vocabulary, self.width, name="tokens")(tokens)
        x += nn.Embed(self.max_length, self.width, name="positions")(places)
        x += nn.Embed(2, self.width, name="segments")(jnp.zeros((1, 1), jnp.int32))
        x = nn.LayerNorm(epsilon=_EPSILON, name="norm")(x)
        for i in range(self.num_layers):
            x = EncoderLayer(self.num_heads, self.hidden_width, name=f"layer_{i}")(x, mask)
        sums = jnp.sum(jnp.where(mask[..., None], x, 0), axis=1)
        return unit_rows(sums)


_OF_LAYER = {
    ("attention", "query"): "attention.self.query",
    ("attention", "key"): "attention.self.key",
    ("attention", "value"): "attention.self.value",
    ("attention", "out"): "attention.output.dense",
    ("mixed_norm",): "attention.output.LayerNorm",
    ("mlp", "hidden"): "intermediate.dense",
    ("mlp", "out"): "output.dense",
    ("out_norm",): "output.LayerNorm",
}


def bert_parameters(tensors: dict[str, np.ndarray], num_layers: int) -> dict:
    """Parameters of `Bert` from those of transformers' `BertModel`, without its pooler."""

    def module(name: str) -> dict[str, np.ndarray]:
        weight = tensors[f"{name}.weight"]
        if f"{name}.bias" not in tensors:
            return {"embedding": weight}
        of_dense = {"kernel": weight.T} if weight.ndim == 2 else {"scale": weight}
        return {**of_dense, "bias": tensors[f"{name}.bias"]}

    found: dict[str, Any] = {
        "tokens": module("embeddings.word_embeddings"),
        "positions": module("embeddings.position_embeddings"),
        "segments": module("embeddings.token_type_embeddings"),
        "norm": module("embeddings.LayerNorm"),
    }
    for i in range(num_layers):
        layer = {ours: module(f"encoder.layer.{i}.{name}") for ours, name in _OF_LAYER.items()}
        found[f"layer_{i}"] = traverse_util.unflatten_dict(layer)
    return {"params": found}
