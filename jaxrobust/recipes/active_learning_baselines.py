"""The strategies that open-set annotation papers compare with."""

import ml_collections

from jaxrobust.recipes.fields import to_config
from jaxrobust.recipes.protocols import OPEN_SET, ActiveLearning, active_learning

VARIANTS = tuple(OPEN_SET)


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
    """Recipe for one variant of `OPEN_SET`."""
    return to_config(active_learning(ActiveLearning(method="random"), variant))
