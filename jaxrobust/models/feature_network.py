"""Classifiers of features instead of images: linear heads, or one hidden layer before them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust.models.layers import FeatureMaps, HeadedNetwork, Linear, torch_uniform


class FeatureNetwork(HeadedNetwork):
    """Linear heads on features, with an optional dense - LayerNorm - ReLU - dropout before them.

    It has the methods of `ResNet`, so that every method can train it. There is no BatchNorm, so a
    batch may have any size and any mixture of classes.

    Attributes:
      num_classes: outputs per head.
      num_heads: number of heads.
      width: of the hidden layer; 0 for none.
      dropout: fraction of the hidden units (without a hidden layer: of the features) that is
        dropped in training.
      kernel_init: of the hidden layer's weights; PyTorch's default.
      dtype: computation dtype of the hidden layer; features and logits are float32.
    """

    num_classes: int
    num_heads: int = 1
    width: int = 0
    dropout: float = 0.0
    kernel_init: nn.initializers.Initializer = torch_uniform
    dtype: Any = jnp.float32

    def setup(self):
        if self.width:
            self.hidden = nn.Dense(
                self.width,
                dtype=self.dtype,
                kernel_init=self.kernel_init,
            )
            self.norm = nn.LayerNorm(dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)
        self.heads = [Linear(self.num_classes) for _ in range(self.num_heads)]

    def stages(
        self, inputs: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> FeatureMaps:
        """The features that the heads read; there are no maps, and `where` is not used."""
        x = inputs.astype(self.dtype)
        if self.width:
            x = nn.relu(self.norm(self.hidden(x)))
        x = self.drop(x, deterministic=not train)
        return FeatureMaps(x.astype(jnp.float32), (), (), x[:, None, None])
