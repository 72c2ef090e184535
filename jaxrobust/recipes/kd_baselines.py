"""What DHKD is compared with; notes in configs/kd_baselines.py."""

import ml_collections

from jaxrobust.options import to_config
from jaxrobust.recipes._protocols import distillation


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
    """Recipe for one variant of `DISTILLATIONS`."""
    return to_config(distillation("kd", variant))
