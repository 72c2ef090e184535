"""DHKD; notes in configs/dhkd.py."""

import ml_collections

from jaxrobust.options import to_config
from jaxrobust.recipes._protocols import distillation


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
    """Recipe for one variant of `DISTILLATIONS`."""
    return to_config(distillation("dhkd", variant))
