"""Casts, masked means and checks of arrays for losses, selection and methods; imports only JAX."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def at_least_float32(x: jax.typing.ArrayLike) -> jax.Array:
    """Casts half precision and integers to float32; float32 and float64 are not changed."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x.astype(jnp.float32)
    # NumPy's rule, because JAX's refuses (float64, float32) under strict promotion.
    return x.astype(np.promote_types(x.dtype, np.float32))


def masked_mean(values: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Mean of `values` over all entries, or over those where `where` holds; 0 if there are none."""
    if where is None:
        return jnp.mean(values)
    count = jnp.maximum(jnp.sum(where, dtype=values.dtype), 1)
    return jnp.sum(jnp.where(where, values, jnp.zeros_like(values))) / count


def check_logits(logits: jax.typing.ArrayLike, name: str = "logits") -> jax.Array:
    """The logits [..., C] in at least float32; ValueError for fewer than two classes."""
    logits = at_least_float32(logits)
    if logits.ndim == 0 or logits.shape[-1] < 2:
        raise ValueError(f"{name} must be [..., C] with C >= 2 classes; got shape {logits.shape}.")
    return logits


def label_mask(logits: jax.Array, labels: jax.typing.ArrayLike) -> jax.Array:
    """Bool [..., C], true at the label; ValueError unless labels are integers [...].

    A label outside 0..C-1 marks no class: its row is false everywhere.
    """
    labels = jnp.asarray(labels)
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"labels must have one entry per row of logits, got {labels.shape} for {logits.shape}."
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, not {labels.dtype}; pass class indices.")
    return jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)


def shares_of_classes(logits: jax.Array, labels: jax.typing.ArrayLike) -> jax.Array:
    """Floats [..., C] like the logits: soft labels of their shape as they are, others one-hot."""
    if jnp.shape(labels) == logits.shape:
        return jnp.asarray(labels, logits.dtype)
    return label_mask(logits, labels).astype(logits.dtype)


def unit_rows(rows: Any) -> Any:
    """Rows `[N, D]` of length 1, an array of the kind given; a row of zeros stays one."""
    xp = jnp if isinstance(rows, jax.Array) else np
    return rows / xp.maximum(xp.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
