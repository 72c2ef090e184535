"""BLDR, bidirectional learning with dynamic sample reweighting (2022); notes in configs/."""

import dataclasses
from typing import Any

import ml_collections

from jaxrobust.recipes import choose, dpc, has_pretrained
from jaxrobust.recipes.bldr_options import Bldr
from jaxrobust.recipes.dpc_options import Dpc
from jaxrobust.recipes.fields import to_config
from jaxrobust.recipes.protocols import noisy_labels
from jaxrobust.recipes.tasks import ExitsModel, NoisyLabels, WarmUpSgd

# Variant -> (data set, noise).
SETTINGS = {
    f"cifar10n_{label_set}": ("cifar10", {"kind": "human", "label_set": label_set})
    for label_set in ("aggre", "rand1", "rand2", "rand3", "worst")
}
SETTINGS["cifar100n"] = ("cifar100", {"kind": "human", "label_set": "noisy100"})
# Drawn as by the authors' generator, which never keeps the true class, and always with its seed.
SETTINGS |= {
    f"{dataset}_{short}{percent}": (dataset, {"kind": kind, "rate": percent / 100, "seed": 0})
    for dataset in ("cifar10", "cifar100")
    for short, kind, percents in (
        ("sym", "uniform", (20, 40, 50, 60, 80)),
        ("pair", "pairflip", (20, 40, 45)),
    )
    for percent in percents
}
SETTINGS["fashion_mnist"] = ("fashion_mnist", {"kind": "uniform", "rate": 0.4})
SETTINGS["digits"] = ("digits", {"kind": "uniform", "rate": 0.4})
SETTINGS["image_folder_pixels"] = ("image_folder", {"kind": "none"})
SETTINGS["features"] = ("features", {"kind": "none"})
# With the extra `pretrained` a folder of images is embedded first.
SETTINGS["image_folder"] = SETTINGS["features" if has_pretrained() else "image_folder_pixels"]

ABLATIONS = {
    "positive": {
        "bldr.negative": False,
        "bldr.reweighting": False,
        "bldr.self_distillation": False,
        "bldr.estimate_noise": False,
        "bldr.noise_rate": 1.0,
        "bldr.reg_weight": 1.0,  # with 50 early mistakes saturate v within nine visits
        "bldr.head_agreement_weight": 0.0,
    },
    "negative": {
        "bldr.positive": False,
        "bldr.reweighting": False,
        "bldr.self_distillation": False,
        "bldr.estimate_noise": False,
        "bldr.head_agreement_weight": 0.0,
    },
    "both": {"bldr.reweighting": False, "bldr.self_distillation": False},
    "reweighted": {"bldr.self_distillation": False},
}
# SOP+ (ICML 2022), on BLDR's network and schedule.
ABLATIONS["sop_plus"] = {
    **ABLATIONS["positive"],
    "bldr.noise_terms": "sop",
    "bldr.ema": False,
}
# The code as first uploaded, before 28 June 2022.
ABLATIONS["first_upload"] = {
    "model.init": "kaiming_fan_out",
    "optimizer.learning_rate": 0.02,
    "bldr.noise_rate": 0.0,
    "bldr.reg_weight": 25.0,
    "bldr.reg_power": 1,
}
ABLATIONS["nlnl"] = {
    **ABLATIONS["negative"],
    "bldr.complementary": "random",
    "bldr.num_complementary": 1,
    "bldr.balance_weight": 0.0,
    "bldr.consistency_weight": 0.0,
}


@dataclasses.dataclass(frozen=True)
class Recipe(NoisyLabels):
    """The noisy-label protocol with BLDR."""

    model: ExitsModel = ExitsModel(name="resnet34")
    optimizer: WarmUpSgd = WarmUpSgd(
        learning_rate=0.04,
        schedule="constant_cosine",
        decay_every=150,
        decay_factor=0.1,
        weight_decay=5e-4,
    )
    bldr: Bldr = Bldr()
    dpc: Dpc = Dpc()  # of the rivals dividemix and dpc


_BY_DATASET = {
    "cifar100": {
        "num_epochs": 340,
        "bldr.warm_up": 40,
        "bldr.head_agreement_weight": 10.0,
    },
    "digits": {
        "model.name": "resnet8_small",
        "augment.policy": "none",  # it would shift images of 8 pixels by 9
        "num_epochs": 40,
        "batch_size": 32,  # with 64 the warm-up has too few steps, see configs/bldr.py
    },
    "features": {
        "num_epochs": 20,
        "optimizer.learning_rate": 0.05,  # a negative head's gradients are small
        "bldr.self_distillation": False,
        "bldr.warm_up": 5,
        # With the top class left out too, the head gives most images to the class that is ahead at
        # the start: nothing pushes it down, and no positive head shapes frozen features.
        "bldr.complementary": "all_but_label",
    },
}

VARIANTS = (*SETTINGS, *(f"{name}_{ablation}" for name in SETTINGS for ablation in ABLATIONS))


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
    """Recipe for one setting of `SETTINGS`, ablated or not."""
    variant = variant or "cifar10n_worst"
    ablation = next((name for name in ABLATIONS if variant.endswith(f"_{name}")), "")
    name = choose(variant.removesuffix(f"_{ablation}"), "", SETTINGS)
    dataset, noise = SETTINGS[name]
    fields: dict[str, Any] = {f"noise.{field}": value for field, value in noise.items()}
    fields |= _BY_DATASET.get(dataset, {})
    if name == "image_folder" and dataset == "features":
        fields["dataset.features"] = "auto"
    # Of noise that DPC's authors do not have, those of half of the labels.
    setting = name if name in dpc.SETTINGS else f"{dataset}_sym50"
    fields["dpc"] = Dpc.read(dpc.get_config(setting))
    # Batches are of each view; cross_entropy and mixup take twice as many.
    recipe = Recipe(method="bldr", num_epochs=320, batch_size=256)
    return to_config(noisy_labels(recipe, dataset, fields | ABLATIONS.get(ablation, {})))
