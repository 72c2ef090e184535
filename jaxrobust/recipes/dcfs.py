"""DCFS; notes in configs/dcfs.py."""

import dataclasses

import ml_collections

from jaxrobust.methods.dcfs_options import Discrepancy, Edl, Loss, Select
from jaxrobust.options import to_config
from jaxrobust.recipes._protocols import active_learning
from jaxrobust.tasks.options import ActiveLearning


@dataclasses.dataclass(frozen=True)
class Recipe(ActiveLearning):
    """The annotation protocol with DCFS."""

    edl: Edl = Edl()
    loss: Loss = Loss()
    discrepancy: Discrepancy = Discrepancy()
    select: Select = Select()


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
    """Recipe for one variant of `OPEN_SET`."""
    return to_config(active_learning(Recipe(method="dcfs"), variant))
