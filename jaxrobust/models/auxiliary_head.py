"""DHKD's classifier: a primary head that predicts, and an auxiliary head that only distils.

Yang et al., "Dual-Head Knowledge Distillation: Enhancing Logits Utilization with an Auxiliary
Head", KDD 2025, https://arxiv.org/abs/2411.08937.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxrobust.models.layers import BatchNorm, FeatureMaps, Linear, Network

AUXILIARY_HEADS = ("none", "linear", "mlp")


class Outputs(NamedTuple):
    """Outputs of a classifier."""

    logits: jax.Array  # float32 `[B, C]` of the primary head
    # float32 `[B, C]` of the auxiliary head, or None where there is none
    aux_logits: jax.Array | None
    features: FeatureMaps  # of the backbone


class AuxiliaryHead(nn.Module):
    """Linear, dropout, BN, ReLU, linear, in this order, as in DHKD's code."""

    num_classes: int  # outputs
    hidden: int = 200  # width of the hidden layer
    dropout: float = 0.1  # fraction of the hidden units that is dropped in training
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of its `Linear` layers

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool, where: jax.Array | None) -> jax.Array:
        x = Linear(self.hidden, **self.options)(features)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = nn.relu(BatchNorm()(x, train=train, where=where))
        return Linear(self.num_classes, **self.options)(x)


class DualHeadClassifier(Network):
    """A backbone with a primary head and an optional auxiliary head.

    The top-level keys of the parameters are `backbone`, `primary` and `auxiliary`; without the last
    one they are those of the classifier with `auxiliary="none"`.

    Attributes:
      backbone: returns `FeatureMaps`; the `Linear` layers of the heads are made with its
        `head_options`.
      num_classes: outputs per head.
      auxiliary: `"none"`, `"linear"` or `"mlp"`.
    """

    backbone: nn.Module
    num_classes: int
    auxiliary: str = "none"

    def setup(self):
        options = self.backbone.head_options
        self.primary = Linear(self.num_classes, **options)
        if self.auxiliary == "linear":
            self.auxiliary_head: Any = Linear(self.num_classes, **options, name="auxiliary")
        elif self.auxiliary == "mlp":
            self.auxiliary_head = AuxiliaryHead(self.num_classes, options=options, name="auxiliary")

    def __call__(
        self, images: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> Outputs:
        """Logits of both heads and their features; training needs a `dropout` stream."""
        features = self.backbone(images, train=train, where=where)
        aux_logits = None
        if self.auxiliary == "linear":
            aux_logits = self.auxiliary_head(features.pooled)
        elif self.auxiliary == "mlp":
            aux_logits = self.auxiliary_head(features.pooled, train=train, where=where)
        return Outputs(self.primary(features.pooled), aux_logits, features)
