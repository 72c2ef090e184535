"""L2D, multi-label knowledge distillation (ICCV 2023); notes in configs/."""

import ml_collections

from jaxrobust.recipes.fields import to_config
from jaxrobust.recipes.protocols import MULTILABEL_DISTILLATIONS, multilabel_distillation

VARIANTS = tuple(MULTILABEL_DISTILLATIONS)


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
    """Recipe for one variant of `MULTILABEL_DISTILLATIONS`."""
    return to_config(multilabel_distillation("l2d", variant))
