"""Shared by the recipes of a task: its options, variants, and differences by data set."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from jaxrobust.errors import UserError
from jaxrobust.recipes import baselines, choose, has_pretrained
from jaxrobust.recipes.fields import Names, Options, option, replace
from jaxrobust.recipes.run import (
    BACKBONES,
    METHODS,
    TASK_NAMES,
    Augment,
    BaseRecipe,
    Model,
    Noise,
    Sgd,
    StrongAugment,
)

DISTILLERS = Names(f"{METHODS}:DISTILLERS", f"{METHODS}:MULTILABEL_DISTILLERS")

# Annotation.


@dataclasses.dataclass(frozen=True)
class Al(Options, section="al"):
    """The open-set annotation protocol of LfOSA, BUAL and EAOA, with BUAL's numbers on CIFAR-10."""

    openness: float = option(0.6, "[0, 1)", "unknown classes / all classes")
    num_known: int = option(0, "[0, inf)", "above 0: number of known classes, instead of openness")
    class_order: tuple[int, ...] = option(
        (), "[0, inf)", "permutation of class ids, of which the first are known; (): 0, 1, .."
    )
    shuffle_classes: bool = option(
        False, bool, "True: the seed draws class_order, so several seeds have different ones"
    )
    init_fraction: float = option(
        0.01, "(0, 1]", "share of the known training images labelled at the start"
    )
    query_size: int = option(1500, "[1, inf)", "images to annotate after a round")
    rounds: int = option(
        8, "[1, inf)", "models evaluated: on the initial set, then after each query"
    )
    query_last: bool = option(
        False, bool, "True: also query after the last round, as in BUAL's mean precision"
    )
    finish: bool = option(
        False,
        bool,
        "of oracle=csv: train once more on the annotations, and end; False: continue",
    )
    new_classes: str = option(
        "",
        str,
        "of oracle=csv: names in the tables that have no folder but are classes, separated by "
        "commas",
    )
    links: bool = option(
        False, bool, "of oracle=csv: write by_class/, with links to all images by their class"
    )
    target_model: str = option(
        "separate", ("separate", "shared"), "shared: report DCFS's query network itself"
    )
    score_transform: str = option(
        "train",
        ("test", "train"),
        "view in which every strategy scores the pool; train: augmented, as in BUAL's code",
    )

    def check_combinations(self) -> None:
        if self.shuffle_classes and self.class_order:
            raise UserError(
                "al.shuffle_classes=True draws the order that al.class_order="
                f"{tuple(self.class_order)} gives; set one of the two."
            )


@dataclasses.dataclass(frozen=True)
class ActiveLearning(BaseRecipe):
    """A recipe of the active-learning task."""

    task: str = option("active_learning", TASK_NAMES, "outer loop")
    method: str = option("random", Names(f"{METHODS}:STRATEGIES"), "how images are chosen")
    oracle: str = option(
        "truth",
        ("truth", "csv"),
        "the data set's labels answer; csv: a person does, see `jaxrobust.tasks.annotator`",
    )
    augment: Augment = Augment()
    model: Model = Model()
    optimizer: Sgd = Sgd()
    al: Al = Al()
    uncertainty: baselines.Uncertainty = baselines.Uncertainty()
    lfosa: baselines.Lfosa = baselines.Lfosa()
    eaoa: baselines.Eaoa = baselines.Eaoa()
    typiclust: baselines.Typiclust = baselines.Typiclust()
    probcover: baselines.Probcover = baselines.Probcover()
    dropquery: baselines.Dropquery = baselines.Dropquery()

    def check_combinations(self) -> None:
        super().check_combinations()
        for name in ("finish", "new_classes", "links"):
            if self.oracle != "csv" and getattr(self.al, name):
                raise UserError(
                    f"al.{name} is for oracle='csv', where a person annotates; clear "
                    f"--config.al.{name}=, or set --config.oracle=csv."
                )
        if self.al.target_model == "shared" and self.method != "dcfs":
            raise UserError(
                "al.target_model='shared' reports DCFS's query network, which "
                f"method={self.method!r} lacks; set --config.al.target_model=separate."
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
    "cifar10": {"uncertainty.unknown_class": False},
    "cifar100": {
        "uncertainty.unknown_class": False,
        "dataset.mean": (0.4914, 0.4822, 0.4465),  # BUAL's code: CIFAR-10's constants
        "dataset.std": (0.2023, 0.1994, 0.2010),
        "al.init_fraction": 0.08,
    },
    "tiny_imagenet": {
        "uncertainty.unknown_class": False,
        "al.init_fraction": 0.08,
        "al.query_size": 3000,
        "model.pool": "window4",
    },
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
        # Of 10,000 images and queries of 100 what EAOA has of 50,000 and 1,500.
        "eaoa.kappa": 15.0,
        "eaoa.kappa_step": 3.0,
        "eaoa.num_neighbors": 50,
    },
}


A = TypeVar("A", bound=ActiveLearning)


def active_learning(
    recipe: A,
    variant: str | None,
    by_dataset: Mapping[str, dict[str, Any]] = MappingProxyType({}),
) -> A:
    """A recipe for one variant of `OPEN_SET`, `cifar10` for None.

    Args:
      recipe: recipe with the settings for all data sets.
      variant: name of the variant, as on the command line.
      by_dataset: data set -> further fields of this recipe.
    """
    name = choose(variant, "cifar10", OPEN_SET)
    dataset, openness = OPEN_SET[name]
    fields = {"dataset.name": dataset, "al.openness": openness, **_ACTIVE_LEARNING[dataset]}
    if (name, dataset) == ("image_folder", "features"):
        fields["dataset.features"] = "auto"
    return replace(recipe, fields | by_dataset.get(dataset, {}))


# Noisy labels.


@dataclasses.dataclass(frozen=True)
class NoisyLabels(BaseRecipe):
    """A recipe of the noisy-label task, with DPC's numbers; baselines have their own."""

    task: str = option("noisy_labels", TASK_NAMES, "outer loop")
    method: str = option(
        "cross_entropy",
        Names(f"{METHODS}:NOISY_LABEL_METHODS"),
        "how the networks learn from the labels",
    )
    flag_by: str = option(
        "method",
        ("method", "count", "auto"),
        "which labels are flagged as wrong; method: those that the method flags; count: as many "
        "of its lowest scores as the confident joint counts; auto: for features, those flagged "
        "by judges that did not see them, whatever the method, otherwise as method",
    )
    num_epochs: int = option(301, "[1, inf)", "DPC's code loops over 0..300", static=False)
    batch_size: int = option(
        64, "[1, inf)", "size of a divided batch; passes over all labels use twice as many"
    )
    augment: StrongAugment = StrongAugment()
    model: Model = Model()
    optimizer: Sgd = Sgd(
        learning_rate=0.02,
        schedule="milestones",
        decay_every=150,
        decay_factor=0.1,
        weight_decay=5e-4,
    )
    noise: Noise = Noise()
    baseline: baselines.Baseline = baselines.Baseline()


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
        "flag_by": "auto",
        "dataset.test_fraction": 0.0,  # every label is judged, and out of sample as it is
    },
}
"""Data set -> fields of every noisy-label recipe."""


N = TypeVar("N", bound=NoisyLabels)


def noisy_labels(recipe: N, dataset: str, fields: Mapping[str, Any]) -> N:
    """A recipe for one data set, with further fields of the recipe."""
    return replace(recipe, {"dataset.name": dataset, **NOISY_LABELS[dataset], **fields})


# Distillation.


@dataclasses.dataclass(frozen=True)
class Student(Options, section="student"):
    """The student."""

    name: str = option("resnet8x4", BACKBONES, "name of a backbone in `jaxrobust.models`")
    backbone: str = option(
        "",
        str,
        "classifier of the same name whose backbone is used as a start: `efficientnet_lite0` "
        "(ImageNet weights of jaxrobust[pretrained]), `hf:REPO`, or a folder that "
        "`jaxrobust.models.convert` or a run wrote; empty: random",
    )


@dataclasses.dataclass(frozen=True)
class Export(Options, section="export"):
    """What is written beside `student/`."""

    onnx: bool = option(False, bool, "write student/student.onnx, verified with onnxruntime")
    int8: bool = option(
        False, bool, "write student/student.int8.onnx, by onnxruntime's dynamic quantisation"
    )
    onnx_input: str = option(
        "pixels",
        ("pixels", "normalized"),
        "input of ONNX files: uint8, normalised inside, or float32 that is already normalised",
    )
    onnx_output: str = option(
        "logits",
        ("logits", "probabilities"),
        "output of ONNX files; probabilities: by softmax, for several labels by sigmoid",
    )
    program: bool = option(
        False,
        bool,
        "write student/program.bin, which JAX promises to read for six months; an ONNX file lasts",
    )
