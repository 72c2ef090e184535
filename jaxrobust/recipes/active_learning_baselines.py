"""The strategies that open-set annotation papers compare with; notes in configs/."""

import ml_collections

from jaxrobust.options import to_config
from jaxrobust.recipes._protocols import active_learning
from jaxrobust.tasks.options import ActiveLearning


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
    """Recipe for one variant of `OPEN_SET`."""
    return to_config(active_learning(ActiveLearning(method="random"), variant))
