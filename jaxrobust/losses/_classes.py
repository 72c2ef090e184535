"""Checks of class scores and labels, shared by losses and selection."""

import jax
import jax.numpy as jnp

from jaxrobust.losses._numerics import at_least_float32


def check_logits(logits: jax.typing.ArrayLike, name: str = "logits") -> jax.Array:
    """The logits [..., C] in at least float32; ValueError for fewer than two classes."""
    logits = at_least_float32(logits)
    if logits.ndim == 0 or logits.shape[-1] < 2:
        raise ValueError(f"{name} must be [..., C] with C >= 2 classes; got shape {logits.shape}.")
    return logits


def label_mask(logits: jax.Array, labels: jax.typing.ArrayLike) -> jax.Array:
    """Bool [..., C], true at the label; ValueError unless labels are integers [...]."""
    labels = jnp.asarray(labels)
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"labels must have one entry per row of logits, got {labels.shape} for {logits.shape}."
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, not {labels.dtype}; pass class indices.")
    return jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
