"""DPC, Dirichlet-based prediction calibration (AAAI 2024)."""

import dataclasses
from typing import Any

import ml_collections

from jaxrobust.errors import UserError
from jaxrobust.recipes import choose, has_pretrained
from jaxrobust.recipes.fields import Options, option, to_config
from jaxrobust.recipes.protocols import NoisyLabels, noisy_labels
from jaxrobust.recipes.run import Model


@dataclasses.dataclass(frozen=True)
class Dpc(Options, section="dpc", methods=("dpc", "dividemix"), recipe="configs/dpc.py"):
    """DPC (AAAI 2024, arXiv 2401.07062); DPC* with `consistency_weight` above 0."""

    warm_up: int = option(
        10, "[0, inf)", "epochs on all labels; CIFAR-100 and CIFAR-10N: 30, CIFAR-100N: 40"
    )
    lambda_u: float = option(
        25.0, "[0, inf)", "of the unsupervised loss divided by C; searched over 0, 25, 50, 150"
    )
    rampup_length: float = option(
        16.0, "[0, inf)", "epochs in which lambda_u grows to its full value; 0: at once"
    )
    mixup_alpha: float = option(4.0, "(0, inf)", "of the Beta distribution of mixing weights")
    temperature: float = option(0.5, "(0, inf)", "temperature that sharpens guessed labels")
    threshold: float = option(
        0.5, "[0, 1)", "labels with a clean probability above it are kept; paper: at or above"
    )
    loss: str = option(
        "evidential",
        ("evidential", "cross_entropy"),
        "calibrated evidential loss; cross_entropy: softmax, as in DivideMix",
    )
    gamma_c: float = option(
        10.0,
        "[0, inf)",
        "prior evidence of all classes together, gamma times C; ablation: 0, 5, 10, 15, 20",
    )
    beta: float = option(
        0.5, "[0, inf)", "weight of the divergence; ablation: 0, 0.25, 0.5, 0.75, 1"
    )
    score: str = option("margin", ("margin", "loss"), "logit margin; loss: small losses are clean")
    score_mode: str = option(
        "gmm",
        ("gmm", "minmax", "auto", "count"),
        "gmm: mixture of two Gaussians; minmax: the scaled score itself; auto: by kurtosis "
        "(paper); count: a mixture that drops as many labels as the confident joint counts",
    )
    kurtosis_threshold: float = option(
        1.2, "(-inf, inf)", "excess kurtosis above which auto uses minmax"
    )
    reg_covar: float = option(
        5e-4, "[0, inf)", "added to the variances of the mixture; DivideMix on WebVision: 1e-3"
    )
    heads: int = option(2, "[1, 2]", "1: the unsupervised loss is also on head 1")
    entropy_penalty: str = option(
        "none",
        ("none", "plain", "clamped"),
        "in the warm-up; code: plain for asymmetric noise, clamped (logits at 0) for CIFAR-N",
    )
    consistency_weight: float = option(
        0.0,
        "[0, inf)",
        "of strong views; above 0: DPC*; code: CIFAR-10 3, CIFAR-100 1; appendix: the reverse",
    )
    forward_unlabeled: bool = option(
        True, bool, "False: only labelled rows, mixed with any rows (WebVision)"
    )
    peer_from: str = option(
        "now",
        ("now", "epoch_start"),
        "parameters of the peer network; epoch_start: those before the epoch (WebVision)",
    )
    guess_updates_statistics: bool = option(
        True, bool, "guessing in training mode updates BatchNorm's averages"
    )
    class_prior: str = option(
        "uniform",
        ("uniform", "labels", "none"),
        "distribution towards which the mean prediction is pulled; code: uniform, as its data "
        "sets are balanced; labels: the frequencies of the given labels",
    )

    def check_combinations(self) -> None:
        if not self.forward_unlabeled and self.lambda_u:
            raise UserError(
                f"dpc.lambda_u={self.lambda_u} weighs a loss on unlabelled rows, but "
                "dpc.forward_unlabeled=False leaves them out; set one of the two."
            )


# Variant -> (data set, noise, what else is set).
SETTINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    f"{dataset}_{short}{percent}": (
        dataset,
        {"kind": kind, "rate": percent / 100},
        {"dpc.lambda_u": lambda_u},
    )
    for dataset, short, kind, lambdas in (
        ("cifar10", "sym", "symmetric", {20: 0.0, 50: 25.0, 80: 25.0}),
        ("cifar10", "asym", "asymmetric", {10: 0.0, 30: 0.0, 40: 0.0}),
        ("cifar100", "sym", "symmetric", {20: 25.0, 50: 150.0, 80: 150.0}),
        ("cifar100", "asym", "asymmetric", {10: 25.0, 30: 25.0, 40: 150.0}),
    )
    for percent, lambda_u in lambdas.items()
}
SETTINGS |= {
    f"cifar10n_{label_set}": (
        "cifar10",
        {"kind": "human", "label_set": label_set},
        {"dpc.lambda_u": lambda_u, "dpc.warm_up": 30},
    )
    for label_set, lambda_u in {
        "aggre": 0.0,
        "rand1": 0.0,
        "rand2": 0.0,
        "rand3": 0.0,
        "worst": 25.0,
    }.items()
}
SETTINGS["cifar100n"] = (
    "cifar100",
    {"kind": "human", "label_set": "noisy100"},
    {"dpc.lambda_u": 25.0, "dpc.warm_up": 40},
)
SETTINGS["webvision"] = ("mini_webvision", {"kind": "none"}, {})
SETTINGS["fashion_mnist"] = ("fashion_mnist", {"kind": "symmetric", "rate": 0.4}, {})
# Dividing before every class is known would lose a class for good.
SETTINGS["digits"] = ("digits", {"kind": "symmetric", "rate": 0.4}, {"dpc.warm_up": 15})
SETTINGS["image_folder_pixels"] = ("image_folder", {"kind": "none"}, {})
SETTINGS["features"] = ("features", {"kind": "none"}, {})
SETTINGS["image_folder"] = (
    ("features", {"kind": "none"}, {"dataset.features": "auto"})
    if has_pretrained()
    else SETTINGS["image_folder_pixels"]
)


@dataclasses.dataclass(frozen=True)
class DpcRecipe(NoisyLabels):
    """The noisy-label protocol with DPC."""

    model: Model = Model(name="preact_resnet18")
    dpc: Dpc = Dpc()


_BY_DATASET = {
    "cifar10": {"noise.seed": 123},
    "cifar100": {
        "noise.seed": 123,
        "dataset.mean": (0.507, 0.487, 0.441),
        "dataset.std": (0.267, 0.256, 0.276),
        # The authors' loader of strong views has CIFAR-10's constants here too.
        "augment.strong_mean": (0.4914, 0.4822, 0.4465),
        "augment.strong_std": (0.2023, 0.1994, 0.2010),
        "dpc.warm_up": 30,
    },
    # The first 50 classes of the Google subset, tested on WebVision's own images. Unlike the
    # authors' script it drops the last short batch of the divided sets. The paper's second test, on
    # the same classes of ImageNet, is `dataset.test2`.
    "mini_webvision": {
        "model.name": "inception_resnet_v2",
        "dataset.stream": True,
        "dataset.image_size": 299,
        "num_workers": 16,
        "dataset.mean": (0.485, 0.456, 0.406),
        "dataset.std": (0.229, 0.224, 0.225),
        "augment.padding": 0,
        "augment.crop": "random_resized",
        "augment.resize": 320,
        "augment.crop_from": "resized",
        "augment.policy": "imagenet",
        "augment.cutout": 0,
        "num_epochs": 101,
        "batch_size": 32,
        "optimizer.learning_rate": 0.01,
        "optimizer.decay_epochs": (50,),
        "dpc.warm_up": 1,
        "dpc.lambda_u": 0.0,
        "dpc.mixup_alpha": 0.5,
        "dpc.score_mode": "minmax",
        "dpc.reg_covar": 1e-3,  # of DivideMix, which fits a mixture here too
        "dpc.heads": 1,
        "dpc.forward_unlabeled": False,
        "dpc.peer_from": "epoch_start",
    },
}
_BY_DATASET["image_folder"] = {"dpc.class_prior": "labels"}
# Ours, see docs/methods/dpc.md. Frozen features are not a layer that a second head could keep the
# mistakes of guesses from.
_BY_DATASET["features"] = {
    "num_epochs": 30,
    "dpc.warm_up": 6,
    "dpc.score_mode": "count",
    "dpc.lambda_u": 0.0,
    "dpc.heads": 1,
    "dpc.mixup_alpha": 0.2,
    "dpc.beta": 0.1,
    "dpc.class_prior": "labels",
}
_BY_NOISE = {
    "asymmetric": {"dpc.entropy_penalty": "plain"},
    "human": {"model.name": "resnet34", "dpc.entropy_penalty": "clamped"},
}
# Data set -> weight of the strong views of DPC*; 3 elsewhere.
_STAR = {"cifar100": 1.0, "mini_webvision": 1.0}

# The paper's Table 4, and Figure 3 by `--config.dpc.beta` and `gamma_c`.
ABLATIONS = {
    "without_edl": {"dpc.loss": "cross_entropy"},
    "without_margin": {"dpc.score": "loss"},
    "without_heads": {"dpc.heads": 1},
}

VARIANTS = (*SETTINGS, *(f"{name}_{end}" for name in SETTINGS for end in ("star", *ABLATIONS)))


def make_recipe(variant: str | None = None) -> DpcRecipe:
    """Recipe for one setting of `SETTINGS`, an ablation behind it or `_star` for DPC*."""
    variant = variant or "cifar10_sym50"
    ablation = next((name for name in ABLATIONS if variant.endswith(f"_{name}")), "")
    name = variant.removesuffix(f"_{ablation}" if ablation else "_star")
    dataset, noise, changes = SETTINGS[choose(name, "", SETTINGS)]
    fields = {f"noise.{field}": value for field, value in noise.items()}
    fields |= _BY_DATASET.get(dataset, {}) | _BY_NOISE.get(noise["kind"], {}) | changes
    fields |= ABLATIONS.get(ablation, {})
    if variant.endswith("_star"):
        fields["dpc.consistency_weight"] = _STAR.get(dataset, 3.0)
    return noisy_labels(DpcRecipe(method="dpc"), dataset, fields)


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
    """The recipe of `make_recipe`, for flags."""
    return to_config(make_recipe(variant))
