"""BLDR, bidirectional learning with dynamic sample reweighting (2022)."""

import dataclasses
from typing import Any

import ml_collections

from jaxrobust.errors import UserError
from jaxrobust.recipes import choose, dpc, has_pretrained
from jaxrobust.recipes.dpc import Dpc
from jaxrobust.recipes.fields import Follows, Options, option, to_config
from jaxrobust.recipes.protocols import NoisyLabels, noisy_labels
from jaxrobust.recipes.run import ExitsModel, Sgd


@dataclasses.dataclass(frozen=True)
class Bldr(Options, section="bldr", recipe="configs/bldr.py"):
    """BLDR (arXiv 2209.01334)."""

    warm_up: int = option(
        20, "[0, inf)", "epochs of constant rate, unit weights and `noise_rate`; CIFAR-100: 40"
    )
    positive: bool = option(True, bool, "train the positive head")
    negative: bool = option(True, bool, "train the negative head")
    reweighting: bool = option(True, bool, "weight examples by the negative head")
    self_distillation: bool = option(True, bool, "both heads teach early exits")
    complementary: str = option(
        "all_but_label_and_top",
        ("all_but_label_and_top", "all_but_label", "random"),
        "complementary labels of an image: classes that it does not belong to",
    )
    num_complementary: int = option(1, "[1, inf)", "complementary labels per image, for random")
    noise_terms: str = option(
        "bldr",
        ("bldr", "sop"),
        "sop: as in SOP's code, the residual also trains u, and the bound of u^2 and v^2 is 1",
    )
    reg_weight: float = option(
        50.0, "[0, inf)", "weight of the residual that trains v; first upload: 25; SOP+: 1"
    )
    reg_power: int = option(
        2, "[1, 2]", "power of the noise rate that multiplies reg_weight; first upload: 1"
    )
    balance_weight: float = option(0.1, "[0, inf)", "weight of the penalty on uneven predictions")
    consistency_weight: float = option(0.9, "[0, inf)", "weight of the strong views' term")
    distillation_weight: float = option(0.1, "[0, inf)", "weight of the exits' soft targets")
    temperature: float = option(3.0, "(0, inf)", "of the distillation")
    hint_weight: float = option(1e-6, "[0, inf)", "weight of the exits' features")
    head_agreement_weight: float = option(0.0, "[0, inf)", "of both heads; CIFAR-100: 10")
    learning_rate_u: float = option(10.0, "[0, inf)", "times batch_size / tables_batch_size")
    learning_rate_v: float = option(10.0, "[0, inf)", "times batch_size / tables_batch_size")
    tables_batch_size: int = option(256, "[1, inf)", "for which the rates of u and v are given")
    clip_tables: bool = option(False, bool, "True: u and v stay in [-1, 1]")
    noise_rate: float = option(0.1, "[0, 1]", "before the first estimate; first upload: 0")
    estimate_noise: bool = option(True, bool, "estimate the noise rate after the warm-up")
    noise_threshold: float = option(
        0.3, "[0, 1]", "labels below this scaled probability count as wrong"
    )
    ema: bool = option(True, bool, "test the average of the parameters over the epochs")
    detection_threshold: float = option(0.05, "[0, 1]", "labels below this probability are flagged")
    detection_view: str = option("weak", ("weak", "clean"), "clean: not augmented")
    detection_params: str = option("raw", ("raw", "ema"), "ema: the averaged parameters")

    def check_combinations(self) -> None:
        if not (self.positive or self.negative):
            raise UserError("bldr.positive and bldr.negative are both False: nothing would learn.")
        for name in ("reweighting", "estimate_noise"):
            if getattr(self, name) and not self.negative:
                raise UserError(
                    f"bldr.{name} looks at the negative head, which bldr.negative=False leaves "
                    f"untrained; set bldr.{name}=False."
                )
        if self.self_distillation and not (self.positive and self.negative):
            raise UserError(
                "bldr.self_distillation teaches the exits by both heads, but one is left "
                "untrained; set bldr.self_distillation=False."
            )
        if self.head_agreement_weight and not (self.positive and self.negative):
            raise UserError(
                f"bldr.head_agreement_weight={self.head_agreement_weight} draws both heads "
                "together, but one is left untrained; set bldr.head_agreement_weight=0."
            )
        if self.detection_params == "ema" and not self.ema:
            raise UserError("bldr.detection_params='ema' needs bldr.ema=True.")


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
# SOP+ (ICML 2022), on BLDR's network and schedule; see also `_sop_plus`.
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
class BldrRecipe(NoisyLabels):
    """The noisy-label protocol with BLDR."""

    model: ExitsModel = ExitsModel(name="resnet34")
    optimizer: Sgd = Sgd(
        learning_rate=0.04,
        schedule="constant_cosine",
        constant_epochs=Follows("bldr.warm_up"),  # type: ignore[arg-type]
        decay_every=150,
        decay_factor=0.1,
        weight_decay=5e-4,
    )
    bldr: Bldr = Bldr()
    dpc: Dpc = Dpc()  # of the baselines dividemix and dpc


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
        "batch_size": 32,  # with 64 the warm-up has too few steps, see docs/methods/bldr.md
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


def _sop_plus(dataset: str, noise: dict[str, Any]) -> dict[str, Any]:
    """What SOP's authors have of their own on CIFAR-100; their code has no other recipe."""
    if dataset != "cifar100":
        return {}
    is_pairflip = noise["kind"] == "pairflip"
    return {
        "batch_size": 128,
        "optimizer.weight_decay": 1e-3,
        "bldr.tables_batch_size": 128,
        "bldr.learning_rate_u": 0.1 if is_pairflip else 1.0,
        "bldr.learning_rate_v": 100.0 if is_pairflip else 10.0,
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
    if ablation == "sop_plus":
        fields |= _sop_plus(dataset, noise)
    # Of noise that DPC's authors do not have, those of half of the labels.
    setting = name if name in dpc.SETTINGS else f"{dataset}_sym50"
    fields["dpc"] = dpc.make_recipe(setting).dpc
    # Batches are of each view; cross_entropy and mixup take twice as many.
    recipe = BldrRecipe(method="bldr", num_epochs=320, batch_size=256)
    return to_config(noisy_labels(recipe, dataset, fields | ABLATIONS.get(ablation, {})))
