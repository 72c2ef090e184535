"""BUAL, bidirectional uncertainty-based active learning (ECCV 2024); notes in configs/."""

import dataclasses

import ml_collections

from jaxrobust.recipes.bual_options import Bual
from jaxrobust.recipes.fields import replace, to_config
from jaxrobust.recipes.protocols import OPEN_SET, active_learning
from jaxrobust.recipes.tasks import ActiveLearning


@dataclasses.dataclass(frozen=True)
class Recipe(ActiveLearning):
    """The annotation protocol with BUAL."""

    bual: Bual = Bual()


_BY_DATASET = {
    "tiny_imagenet": {"bual.subset_size": 10_000},
    "digits": {"bual.aux_batch_size": 32, "bual.subset_size": 400},
    "features": {"bual.subset_size": 1000},  # accurate alike in half the time: docs/results.md
}

# The paper's Table 2, in which the base is the least confidence.
ABLATIONS = {
    "unc_n": {"bual.base": "lc", "bual.weights": "negative"},
    "unweighted": {"bual.base": "lc", "bual.weights": "none"},
    "no_aux_weight": {"bual.base": "lc", "bual.weights": "precision"},
}

VARIANTS = (*OPEN_SET, *(f"{name}_{ablation}" for name in OPEN_SET for ablation in ABLATIONS))


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
    """Recipe for one variant of `OPEN_SET`, ablated or not."""
    ablation = next((name for name in ABLATIONS if (variant or "").endswith(f"_{name}")), "")
    recipe = active_learning(
        Recipe(method="bual"), (variant or "").removesuffix(f"_{ablation}") or None, _BY_DATASET
    )
    return to_config(replace(recipe, ABLATIONS.get(ablation, {})))
