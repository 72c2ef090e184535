"""What recipes of a task share: their variants, and what differs by data set."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from jaxrobust.recipes import choose, has_pretrained
from jaxrobust.recipes.fields import replace
from jaxrobust.recipes.tasks import (
    ActiveLearning,
    Distillation,
    MultilabelDistillation,
    NoisyLabels,
)

DATASETS = ("cifar10", "cifar100", "tiny_imagenet", "fashion_mnist", "digits", "features")

OPEN_SET = {
    **{dataset: (dataset, 0.6) for dataset in DATASETS},
    **{
        f"{dataset}_openness_{openness}": (dataset, openness)
        for dataset in ("cifar10", "cifar100", "tiny_imagenet", "features")
        for openness in (0.2, 0.4, 0.6, 0.8)
    },
    "image_folder_pixels": ("image_folder", 0.6),
    # With the extra `pretrained` a folder of images is embedded first.
    "image_folder": ("features" if has_pretrained() else "image_folder", 0.6),
}
"""Variant of an active-learning recipe -> (data set, unknown classes / all classes)."""

# BUAL's for CIFAR and Tiny-ImageNet; the others are ours.
_ACTIVE_LEARNING: dict[str, dict[str, Any]] = {
    "cifar10": {},
    "cifar100": {
        "dataset.mean": (0.4914, 0.4822, 0.4465),  # BUAL's code: CIFAR-10's constants
        "dataset.std": (0.2023, 0.1994, 0.2010),
        "al.init_fraction": 0.08,
    },
    "tiny_imagenet": {"al.init_fraction": 0.08, "al.query_size": 3000, "model.pool": "window4"},
    "fashion_mnist": {"augment.padding": 2},
    "digits": {  # network, images and epochs small: the same code in under a minute
        "model.name": "resnet8_small",
        "augment.padding": 1,
        "augment.flip": False,
        "num_epochs": 60,
        "batch_size": 32,
        "last_batch": "even",  # BatchNorm on a row of one 8x8 image ruins the network
        "optimizer.learning_rate": 0.05,
        "optimizer.schedule": "cosine",
        "al.init_fraction": 0.02,
        "al.query_size": 30,
        "al.rounds": 6,
    },
    "image_folder": {"dataset.image_size": 32},
    "features": {  # of a frozen network, so that a run takes seconds: see docs/results.md
        "model.name": "mlp",
        "num_epochs": 40,
        "optimizer.learning_rate": 0.005,
        "al.query_size": 100,
        "al.rounds": 7,
        "al.score_transform": "test",
    },
}


def active_learning(
    recipe: ActiveLearning,
    variant: str | None,
    by_dataset: Mapping[str, dict[str, Any]] = MappingProxyType({}),
) -> ActiveLearning:
    """A recipe for one variant of `OPEN_SET`, `cifar10` for None.

    Args:
      recipe: with what holds for all data sets.
      variant: as on the command line.
      by_dataset: data set -> further fields of this recipe.
    """
    name = choose(variant, "cifar10", OPEN_SET)
    dataset, openness = OPEN_SET[name]
    fields = {"dataset.name": dataset, "al.openness": openness, **_ACTIVE_LEARNING[dataset]}
    if (name, dataset) == ("image_folder", "features"):
        fields["dataset.features"] = "auto"
    return replace(recipe, fields | by_dataset.get(dataset, {}))


# DPC's for CIFAR; the others are ours.
NOISY_LABELS: dict[str, dict[str, Any]] = {
    "cifar10": {},
    "cifar100": {},
    "mini_webvision": {},
    "fashion_mnist": {"augment.padding": 2},
    "digits": {  # network, images and epochs small: the same code in about a minute
        "model.name": "preact_resnet8_small",
        "augment.padding": 1,
        "augment.flip": False,
        "augment.cutout": 4,
        "num_epochs": 40,
        "batch_size": 32,
        "last_batch": "even",
        "optimizer.decay_epochs": (30,),
    },
    "image_folder": {"dataset.image_size": 32},
    "features": {
        # Ours. A strong decay, as of the regression that cleanlab's users train, keeps linear heads
        # from memorising; the views of an image are its augmentation.
        "model.name": "linear",
        "augment.feature_test": "mean",
        "num_epochs": 16,
        "batch_size": 256,
        "optimizer.learning_rate": 0.01,
        "optimizer.schedule": "cosine",
        "optimizer.weight_decay": 0.03,
        "flag_by": "count",
    },
}
"""Data set -> fields of every noisy-label recipe."""


def noisy_labels(recipe: NoisyLabels, dataset: str, fields: Mapping[str, Any]) -> NoisyLabels:
    """A recipe for one data set, with further fields of the recipe."""
    return replace(recipe, {"dataset.name": dataset, **NOISY_LABELS[dataset], **fields})


# (teacher, student) -> weight of DKD's non-target part, from its authors.
_CIFAR100_PAIRS = {
    ("resnet56", "resnet20"): 2.0,
    ("resnet110", "resnet20"): 2.0,
    ("resnet110", "resnet32"): 2.0,
    ("resnet32x4", "resnet8x4"): 8.0,
    ("wrn_40_2", "wrn_16_2"): 6.0,
    ("wrn_40_2", "wrn_40_1"): 6.0,
    ("vgg13", "vgg8"): 6.0,
    ("vgg13", "mobilenet_v2_half"): 6.0,
    ("resnet50", "mobilenet_v2_half"): 8.0,
    ("resnet50", "vgg8"): 8.0,
    ("resnet32x4", "shuffle_v1"): 8.0,
    ("resnet32x4", "shuffle_v2"): 8.0,
    ("wrn_40_2", "shuffle_v1"): 8.0,
}
# (teacher, student) -> ReviewKD's settings where its authors have others for a pair.
_REVIEW_KD: dict[tuple[str, str], dict[str, Any]] = {
    ("resnet56", "resnet20"): {"reviewkd.weight": 0.6},
    ("resnet110", "resnet32"): {"reviewkd.weight": 1.0},
    ("resnet32x4", "shuffle_v2"): {"reviewkd.weight": 8.0},
    ("resnet50_imagenet", "mobilenet_v1"): {"reviewkd.width": 256},
}
DISTILLATIONS = {
    **{
        f"{teacher}_{student}": ("cifar100", teacher, student, beta)
        for (teacher, student), beta in _CIFAR100_PAIRS.items()
    },
    "resnet34_resnet18_imagenet": ("imagenet", "resnet34_imagenet", "resnet18_imagenet", 0.5),
    "resnet50_mobilenet_v1_imagenet": ("imagenet", "resnet50_imagenet", "mobilenet_v1", 2.0),
    "cifar10": ("cifar10", "resnet32x4", "resnet8x4", 8.0),
    "fashion_mnist": ("fashion_mnist", "resnet20", "resnet8", 8.0),
    "digits": ("digits", "resnet14", "resnet8", 8.0),
    "image_folder": ("image_folder", "resnet32x4", "resnet8x4", 8.0),
}
"""Variant of a distillation recipe -> data set, teacher, student, DKD's beta."""

# On CIFAR-100 and ImageNet the numbers of data and optimiser are DHKD's code's, shared on CIFAR-100
# by the benchmark that its baselines come from; elsewhere they are ours.
_DISTILLATION: dict[str, dict[str, Any]] = {
    "cifar10": {},
    "cifar100": {},
    "fashion_mnist": {"augment.padding": 2},
    "digits": {  # networks, images and epochs small: the same code in under a minute
        "augment.padding": 1,
        "augment.flip": False,
        "teacher.num_epochs": 30,
        "num_epochs": 30,
        "batch_size": 32,
        "last_batch": "even",
        "optimizer.decay_epochs": (19, 23, 26),
        "dkd.warm_up": 3,
        "dist.temperature": 1.0,
        "dist.weight": 1.0,
        "reviewkd.weight": 1.0,
        "reviewkd.warm_up": 3,
        "rld.warm_up": 3,
        "crd.num_negatives": 1024,
    },
    "image_folder": {
        "dataset.image_size": 32,
        "num_diagnosed": 64,  # 512 took longer than an epoch of 800 images
        "measure_latency": True,
    },
    "imagenet": {
        "dataset.stream": True,
        "dataset.image_size": 224,
        "dataset.mean": (0.485, 0.456, 0.406),
        "dataset.std": (0.229, 0.224, 0.225),
        "num_workers": 16,
        "augment.padding": 0,
        "augment.crop": "random_resized",
        "augment.resize": 256,
        "augment.area": (0.1, 1.0),
        "augment.aspect": (0.8, 1.25),
        "num_epochs": 100,
        "teacher.num_epochs": 100,
        "batch_size": 256,  # two GPUs with 128 each
        "num_diagnosed": 64,  # at once, so they take memory
        "optimizer.learning_rate": 0.1,
        "optimizer.mobile_learning_rate": 0.1,
        "optimizer.decay_epochs": (30, 60, 90),
        "optimizer.weight_decay": 1e-4,
        "distill.alpha": 0.1,
        "distill.auxiliary": "linear",
        "distill.gradients": "sum",
        "distill.until_epoch": 49,
        "kd.ce_weight": 0.5,
        "kd.weight": 0.5,
        "kd.temperature": 1.0,
        "dkd.temperature": 1.0,
        "dkd.warm_up": 1,
        "dist.temperature": 1.0,
        "reviewkd.weight": 8.0,
        "reviewkd.warm_up": 1,
        "reviewkd.student_maps": "preactivation",
    },
}


def distillation(method: str, variant: str | None) -> Distillation:
    """A recipe for one variant of `DISTILLATIONS`, `resnet32x4_resnet8x4` for None."""
    name = choose(variant, "resnet32x4_resnet8x4", DISTILLATIONS)
    dataset, teacher, student, beta = DISTILLATIONS[name]
    fields = {
        "dataset.name": dataset,
        "teacher.name": teacher,
        "student.name": student,
        "dkd.beta": beta,
        **_DISTILLATION[dataset],
        **_REVIEW_KD.get((teacher, student), {}),
    }
    return replace(Distillation(method=method), fields)


# (data set, teacher, student) of every column of L2D's tables.
_MULTILABEL_PAIRS = (
    ("coco", "repvgg_a2", "repvgg_a0"),
    ("coco", "resnet101", "resnet34"),
    ("coco", "wrn101", "wrn50"),
    ("coco", "swin_s", "swin_t"),
    ("coco", "resnet101", "repvgg_a0"),
    ("coco", "swin_t", "resnet34"),
    ("coco", "resnet101", "mobilenet_v2"),
    ("coco", "swin_t", "mobilenet_v2"),
    ("coco", "resnet34", "resnet101"),  # reversed
    ("voc", "repvgg_a2", "repvgg_a0"),
    ("voc", "resnet50", "resnet18"),
    ("voc", "wrn101", "wrn50"),
    ("voc", "swin_s", "swin_t"),
    ("voc", "resnet50", "repvgg_a0"),
    ("voc", "swin_t", "resnet18"),
    ("voc", "resnet50", "mobilenet_v2"),
    ("voc", "swin_t", "mobilenet_v2"),
    ("nus", "resnet101", "resnet34"),
    ("nus", "swin_t", "mobilenet_v2"),
)
_MULTILABEL_SETS = {"coco": "coco2014", "voc": "voc2007", "nus": "nus_wide"}
_IMAGENET_NAMES = {
    **{f"resnet{depth}": f"resnet{depth}_imagenet" for depth in (18, 34, 50, 101)},
    **{f"wrn{depth}": f"wide_resnet{depth}_2" for depth in (50, 101)},
}
MULTILABEL_DISTILLATIONS = {
    **{
        f"{dataset}_{teacher}_{student}": (
            _MULTILABEL_SETS[dataset],
            *(_IMAGENET_NAMES.get(name, name) for name in (teacher, student)),
        )
        for dataset, teacher, student in _MULTILABEL_PAIRS
    },
    "digits": ("digit_canvases", "resnet8", "resnet8"),  # deeper ones learn less in 30 epochs
    "image_folder": ("multilabel_folder", "resnet101_imagenet", "resnet34_imagenet"),
}
"""Variant of a multi-label distillation recipe -> data set, teacher, student."""

# Networks, images and epochs small: the same code in about a minute.
_CANVASES: dict[str, Any] = {
    "dataset.image_size": 0,
    "dataset.stream": False,
    "num_workers": 0,
    "decoder.width": 32,
    "decoder.hidden": 64,
    "decoder.num_heads": 4,
    "eval_batch_size": 250,
    "batch_size": 50,
    "num_epochs": 30,
    "teacher.num_epochs": 30,
    "optimizer.cycle_epochs": 30,
    "augment.padding": 2,
    "optimizer.learning_rate": 5e-3,
    # With 10 classes and narrow embeddings groups are larger, and distances differ more, than on
    # photographs: these make every term a tenth to a half of cross-entropy at the start.
    "l2d.lambda_mld": 100.0,
    "l2d.lambda_cd": 1.0,
    "l2d.lambda_id": 100.0,
    "mse.weight": 100.0,
    "ps.weight": 100.0,
}


def multilabel_distillation(method: str, variant: str | None) -> MultilabelDistillation:
    """A recipe for one of `MULTILABEL_DISTILLATIONS`, `coco_resnet101_resnet34` for None.

    Every number is L2D's (ICCV 2023), the same for all its data sets and pairs; those of `digits`
    are ours.
    """
    name = choose(variant, "coco_resnet101_resnet34", MULTILABEL_DISTILLATIONS)
    dataset, teacher, student = MULTILABEL_DISTILLATIONS[name]
    fields = {"dataset.name": dataset, "teacher.name": teacher, "student.name": student}
    fields |= _CANVASES if dataset == "digit_canvases" else {}
    return replace(MultilabelDistillation(method=method), fields)
