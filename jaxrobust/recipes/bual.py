"""BUAL, bidirectional uncertainty-based active learning (ECCV 2024); notes in configs/."""

import dataclasses

import ml_collections

from jaxrobust.methods.bual_options import Bual
from jaxrobust.options import to_config
from jaxrobust.tasks.options import ActiveLearning, Al
from jaxrobust.tasks.protocols import OPEN_SET, active_learning


@dataclasses.dataclass(frozen=True)
class Recipe(ActiveLearning):
    """The annotation protocol with BUAL."""

    al: Al = Al(score_transform="train")  # the code scores augmented images
    bual: Bual = Bual()


_BY_DATASET = {
    "tiny_imagenet": {"bual.subset_size": 10_000, "model.pool": "window4"},
    "digits": {"bual.aux_batch_size": 32, "bual.subset_size": 400},
}

VARIANTS = tuple(OPEN_SET)


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
    """Recipe for one variant of `OPEN_SET`."""
    return to_config(active_learning(Recipe(method="bual"), variant, _BY_DATASET))
