"""BERT as an encoder of sentences."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

_EPSILON = 1e-12  # of the layer norms of published weights


class EncoderLayer(nn.Module):
    """Self-attention and a hidden layer, each added to its input and normalised after it."""

    num_heads: int
    hidden_width: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        width = x.shape[-1]
        heads = (*x.shape[:-1], self.num_heads, width // self.num_heads)
        query, key, value = (
            nn.Dense(width, name=name)(x).reshape(heads) for name in ("query", "key", "value")
        )
        mixed = jax.nn.dot_product_attention(query, key, value, mask=mask[:, None, None])
        mixed = nn.Dense(width, name="mixed")(mixed.reshape(x.shape))
        x = nn.LayerNorm(epsilon=_EPSILON, name="mixed_norm")(x + mixed)
        hidden = jax.nn.gelu(nn.Dense(self.hidden_width, name="hidden")(x), approximate=False)
        return nn.LayerNorm(epsilon=_EPSILON, name="out_norm")(
            x + nn.Dense(width, name="out")(hidden)
        )


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
        return sums / jnp.maximum(jnp.linalg.norm(sums, axis=1, keepdims=True), 1e-12)


_OF_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "mixed": "attention.output.dense",
    "mixed_norm": "attention.output.LayerNorm",
    "hidden": "intermediate.dense",
    "out": "output.dense",
    "out_norm": "output.LayerNorm",
}


def bert_parameters(tensors: dict[str, np.ndarray], num_layers: int) -> dict:
    """Parameters of `Bert` from those of transformers' `BertModel`, without its pooler."""

    def module(name: str) -> dict[str, np.ndarray]:
        weight = tensors[f"{name}.weight"]
        if f"{name}.bias" not in tensors:
            return {"embedding": weight}
        bias = tensors[f"{name}.bias"]
        return (
            {"kernel": weight.T, "bias": bias}
            if weight.ndim == 2
            else {"scale": weight, "bias": bias}
        )

    found: dict[str, Any] = {
        "tokens": module("embeddings.word_embeddings"),
        "positions": module("embeddings.position_embeddings"),
        "segments": module("embeddings.token_type_embeddings"),
        "norm": module("embeddings.LayerNorm"),
    }
    for i in range(num_layers):
        layer = {ours: module(f"encoder.layer.{i}.{name}") for ours, name in _OF_LAYER.items()}
        found[f"layer_{i}"] = layer
    return {"params": found}
