"""L2D; notes in configs/l2d.py."""

import ml_collections

from jaxrobust.options import to_config
from jaxrobust.recipes._protocols import multilabel_distillation


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
    """Recipe for one variant of `MULTILABEL_DISTILLATIONS`."""
    return to_config(multilabel_distillation("l2d", variant))
