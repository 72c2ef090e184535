"""DCFS, Dirichlet-based coarse-to-fine example selection (2024); notes in configs/."""

import dataclasses

import ml_collections

from jaxrobust.recipes.dcfs_options import Discrepancy, Edl, Loss, Select
from jaxrobust.recipes.fields import to_config
from jaxrobust.recipes.protocols import OPEN_SET, active_learning
from jaxrobust.recipes.tasks import ActiveLearning, Al


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
