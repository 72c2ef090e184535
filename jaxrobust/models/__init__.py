"""Networks by the name that a recipe gives them."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import ml_collections

from jaxrobust.errors import UserError, unknown_name
from jaxrobust.models.resnet import POOLINGS, ResNet

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": functools.partial(ResNet, stage_sizes=(2, 2, 2, 2), widths=(64, 128, 256, 512)),
    "resnet18_thin": functools.partial(ResNet, stage_sizes=(2, 2, 2, 2), widths=(16, 32, 64, 128)),
    "resnet8_small": functools.partial(ResNet, stage_sizes=(1, 1, 1), widths=(16, 32, 64)),
}


def make_network(
    config: ml_collections.ConfigDict, *, num_classes: int, num_heads: int, dtype: Any
) -> nn.Module:
    """The network of a recipe.

    Args:
      config: `name` (a key of `NETWORKS`) and `pool` (`"global"` or `"window4"`).
      num_classes: outputs per head.
      num_heads: linear heads on the pooled feature.
      dtype: computation dtype.

    Raises:
      UserError: for an unknown name or pooling.
    """
    if config.name not in NETWORKS:
        raise UserError(unknown_name("model.name", config.name, NETWORKS))
    if config.pool not in POOLINGS:
        raise UserError(unknown_name("model.pool", config.pool, POOLINGS))
    return NETWORKS[config.name](
        num_classes=num_classes, num_heads=num_heads, pool=config.pool, dtype=dtype
    )
