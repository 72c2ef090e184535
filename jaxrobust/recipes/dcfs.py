"""DCFS, Dirichlet-based coarse-to-fine example selection (2024); notes in configs/."""

import dataclasses

import ml_collections

from jaxrobust.methods.dcfs_options import Discrepancy, Edl, Loss, Select
from jaxrobust.options import to_config
from jaxrobust.tasks.options import ActiveLearning, Al
from jaxrobust.tasks.protocols import OPEN_SET, active_learning


@dataclasses.dataclass(frozen=True)
class Recipe(ActiveLearning):
    """The annotation protocol with DCFS."""

    al: Al = Al(score_transform="test")  # [ours]; BUAL's protocol scores augmented images
    edl: Edl = Edl()
    loss: Loss = Loss()
    discrepancy: Discrepancy = Discrepancy()
    select: Select = Select()


VARIANTS = tuple(OPEN_SET)


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
    """Recipe for one variant of `OPEN_SET`."""
    return to_config(active_learning(Recipe(method="dcfs"), variant))
