"""DPC's classifier: one head for the supervised and one for the unsupervised loss."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust.models.layers import Linear, Network

UNSUPERVISED_HEAD = "unsupervised_head"
"""Name of the second head in the parameters."""


class MLPHead(nn.Module):
    """Linear, ReLU, dropout, linear."""

    num_classes: int  # outputs
    hidden: int = 1024  # width of the hidden layer
    dropout: float = 0.5  # fraction of the hidden units that is dropped in training

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool) -> jax.Array:
        x = nn.relu(Linear(self.hidden)(features))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Linear(self.num_classes)(x)


class TwoHeaded(Network):
    """A linear and an MLP head on the pooled feature of a network.

    Attributes:
      backbone: network with a method `features`; its own heads are not used.
      num_classes: outputs per head.
    """

    backbone: nn.Module
    num_classes: int

    def setup(self):
        self.supervised_head = Linear(self.num_classes)
        self.unsupervised_head = MLPHead(self.num_classes)

    def __call__(
        self, images: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> jax.Array:
        """Logits float32 `[B, 2, num_classes]`; arguments as for `backbone.features`.

        In training a `dropout` random stream is needed.
        """
        features = self.backbone.features(images, train=train, where=where)
        supervised = self.supervised_head(features)
        unsupervised = self.unsupervised_head(features, train=train)
        return jnp.stack([supervised, unsupervised], axis=1)
