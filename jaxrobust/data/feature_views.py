"""Raw features as network inputs: a random view per visit, normalisation, noise."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Statistics = Mapping[str, np.ndarray | jax.Array]
"""The constants of normalisation by name, `mean` and `std`."""


@dataclasses.dataclass(frozen=True)
class FeatureViews:
    """Views of features: for testing ("test"), or a random one per visit ("weak", "strong").

    Views of an image, such as its mirror image and its crops, take the place of augmentation. In
    "weak" and "strong" ones, `noise * N(0, 1)` is added to each normalised feature, and then each
    is dropped with the probability `dropout`, the others divided by `1 - dropout`.
    """

    dtype: Any  # of the result
    noise: float = 0.0  # in standard deviations of a feature
    dropout: float = 0.0  # share of the features that is set to 0, their mean
    test: str = "first"  # "first", the first view is tested, or "mean", the mean of all views

    def __call__(
        self,
        kind: str,
        key: jax.Array,
        raw: jax.Array,
        statistics: Statistics,
    ) -> jax.Array:
        """A batch as a network sees it, `[B, D]` of `dtype`."""
        mean, std = (statistics[name].reshape(1, -1) for name in ("mean", "std"))
        if kind == "test":
            tested = raw if self.test == "mean" else raw[:, :1]
            tested = jnp.mean(tested.astype(jnp.float32), axis=1)
            return ((tested - mean) / std).astype(self.dtype)
        view_key, noise_key, dropout_key = jax.random.split(key, 3)
        batch, num_views, _ = raw.shape
        if num_views > 1:
            chosen = jax.random.randint(view_key, (batch, 1, 1), 0, num_views)
            raw = jnp.take_along_axis(raw, chosen, axis=1)
        features = (raw[:, 0].astype(jnp.float32) - mean) / std
        if self.noise:
            features += self.noise * jax.random.normal(noise_key, features.shape)
        if self.dropout:
            kept = jax.random.bernoulli(dropout_key, 1 - self.dropout, features.shape)
            features = jnp.where(kept, features / (1 - self.dropout), 0)
        return features.astype(self.dtype)
