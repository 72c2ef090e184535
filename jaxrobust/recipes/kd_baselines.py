"""What DHKD is compared with, published distillation losses."""

import ml_collections

from jaxrobust.recipes.dhkd import DISTILLATIONS, distillation
from jaxrobust.recipes.fields import to_config

VARIANTS = tuple(DISTILLATIONS)


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
    """Recipe for one variant of `DISTILLATIONS`."""
    return to_config(distillation("kd", variant))
