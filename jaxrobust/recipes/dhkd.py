"""DHKD, dual-head knowledge distillation (KDD 2025), and the protocol of its baselines."""

import dataclasses
from typing import Any

import ml_collections

from jaxrobust.errors import UserError
from jaxrobust.recipes import baselines, choose
from jaxrobust.recipes.fields import Options, option, replace, to_config
from jaxrobust.recipes.protocols import DISTILLERS, Export, Student
from jaxrobust.recipes.run import BACKBONES, TASK_NAMES, Augment, BaseRecipe, StudentSgd


@dataclasses.dataclass(frozen=True)
class Distill(Options, section="distill", recipe="configs/dhkd.py"):
    """DHKD (KDD 2025, arXiv 2411.08937). Other methods read nothing of it."""

    loss: str = option(
        "binary_kl_norm",
        ("binary_kl", "binary_kl_norm", "logit_mse", "soft_target_kl"),
        "distillation loss, on the logits of the head that learns from the teacher",
    )
    head: str = option("auxiliary", ("primary", "auxiliary"), "primary: one head for both losses")
    auxiliary: str = option(
        "auto", ("auto", "linear", "mlp"), "auto: linear within a family of networks, else mlp"
    )
    gamma: float = option(1.0, "[0, inf)", "weight of cross-entropy")
    alpha: float = option(
        1.0,
        "[0, inf)",
        "weight of the distillation loss; ImageNet: 0.1; the paper's value per pair is not known",
    )
    temperature: float = option(0.0, "[0, inf)", "0: the loss's own (2; for soft_target_kl 4)")
    standardize: bool = option(
        False, bool, "standardise the distilled head's logits to mean 0 and deviation 1 (CVPR 2024)"
    )
    gradients: str = option(
        "align", ("align", "pcgrad", "sum"), "pcgrad: project both; ImageNet: sum"
    )
    scope: str = option("all", ("all", "backbone"), "parameters whose gradients are aligned")
    until_epoch: int = option(
        0,
        "[0, inf)",
        "last epoch with distillation, counted from 1; 0: all; ImageNet: 49, as in the code",
    )

    def check_combinations(self) -> None:
        if self.scope != "all" and self.gradients != "align":
            raise UserError(
                f"distill.scope={self.scope!r} is for distill.gradients='align', not "
                f"{self.gradients!r}; set one of the two."
            )


@dataclasses.dataclass(frozen=True)
class TeacherOptions(Options, section="teacher"):
    """The teacher."""

    path: str = option(
        "",
        str,
        "folder of a trained teacher: `teacher` or `student` of another run, or what "
        "`jaxrobust.models.convert` wrote; empty: train one first with this recipe",
    )
    logits_file: tuple[str, ...] = option(
        (),
        str,
        ".npz files of teachers' logits, averaged, instead of a network: see "
        "`jaxrobust.tasks.teachers.read_logits`",
    )
    name: str = option("resnet32x4", BACKBONES, "network of a teacher that is trained from scratch")
    backbone: str = option(
        "",
        str,
        "pretrained network to start from, as student.backbone, instead of name; not used with "
        "a path",
    )
    train: str = option(
        "head",
        ("head", "all"),
        "with a backbone; head: a linear head on its frozen features, minutes on a CPU; all: "
        "every parameter, for num_epochs",
    )
    image_size: int = option(
        0,
        "[0, inf)",
        "side of the teacher's images, if different from the student's: the teacher is applied "
        "once to each image and its mirror image, and a crop reuses the logits of the full "
        "image; 0: the student's images; with a head, what the backbone was trained on, or 128",
    )
    learning_rate: float = option(
        0.01, "[0, inf)", "with a backbone: initial rate, instead of optimizer.learning_rate"
    )
    num_epochs: int = option(240, "[1, inf)", "not used with a path, logits or a head")
    logits: str = option(
        "step",
        ("step", "table"),
        "step: a forward pass in every step; table: logits of every view of every image are "
        "computed before the first step and then looked up",
    )
    table_dtype: str = option("float32", ("float32", "float16"), "dtype of the table")


@dataclasses.dataclass(frozen=True)
class Distillation(BaseRecipe):
    """A recipe of the distillation task, with the CIFAR-100 benchmark's numbers."""

    task: str = option("distillation", TASK_NAMES, "outer loop")
    method: str = option(
        "cross_entropy",
        DISTILLERS,
        "how the student learns from the teacher",
    )
    num_epochs: int = option(240, "[1, inf)", "epochs of the student", static=False)
    batch_size: int = option(64, "[1, inf)", "images per training step")
    distill_until_epoch: int = option(
        0,
        "[0, inf)",
        "last epoch with distillation, for any method, counted from 1; 0: the method's own, for "
        "DHKD distill.until_epoch",
    )
    num_diagnosed: int = option(
        512, "[1, inf)", "training images on which gradients are compared every epoch"
    )
    label_smoothing: float = option(0.0, "[0, 1)", "share of each label spread over all classes")
    mixup: float = option(
        0.0, "[0, inf)", "a of the Beta(a, a) distribution of mixing weights; 0: none"
    )
    class_weights: str = option(
        "none",
        ("none", "balanced"),
        "of cross-entropy; balanced: every class counts the same, however many images it has",
    )
    use_unlabeled: bool = option(
        True, bool, "the student also learns from unlabelled images, with the teacher's outputs"
    )
    ema: float = option(
        0.0,
        "[0, 1)",
        "decay of a moving average of each network's parameters, which then predicts; 0: none",
    )
    with_baseline: bool = option(
        False, bool, "also train the student alone, from the same start and on the same batches"
    )
    measure_latency: bool = option(
        False, bool, "write latency.json: milliseconds of each network on the CPU"
    )
    augment: Augment = Augment()
    student: Student = Student()
    teacher: TeacherOptions = TeacherOptions()
    optimizer: StudentSgd = StudentSgd(
        learning_rate=0.05,
        schedule="milestones",
        decay_every=150,
        decay_epochs=(150, 180, 210),
        decay_factor=0.1,
        weight_decay=5e-4,
    )
    export: Export = Export()
    distill: Distill = Distill()
    kd: baselines.Kd = baselines.Kd()
    dkd: baselines.Dkd = baselines.Dkd()
    dist: baselines.Dist = baselines.Dist()
    rkd: baselines.Rkd = baselines.Rkd()
    pkt: baselines.Pkt = baselines.Pkt()
    at: baselines.At = baselines.At()
    reviewkd: baselines.ReviewKd = baselines.ReviewKd()
    logit_mse: baselines.LogitMse = baselines.LogitMse()
    rld: baselines.Rld = baselines.Rld()
    wttm: baselines.Wttm = baselines.Wttm()
    fitnet: baselines.FitNet = baselines.FitNet()
    sp: baselines.Sp = baselines.Sp()
    vid: baselines.Vid = baselines.Vid()
    crd: baselines.Crd = baselines.Crd()


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
    ("resnet34_imagenet", "resnet18_imagenet"): {"reviewkd.weight": 1.0},
    ("resnet50_imagenet", "mobilenet_v1"): {"reviewkd.weight": 8.0, "reviewkd.width": 256},
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
    "image_folder": ("image_folder", "resnet32x4", "resnet20", 8.0),  # a quarter of resnet8x4
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
        "reviewkd.warm_up": 0,
        "reviewkd.student_maps": "preactivation",
        "rld.temperature": 1.0,
        "rld.warm_up": 1,
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
        **({"rld.beta": beta} if dataset == "imagenet" else {}),  # RLD has DKD's there
        **_DISTILLATION[dataset],
        **_REVIEW_KD.get((teacher, student), {}),
    }
    return replace(Distillation(method=method), fields)


VARIANTS = tuple(DISTILLATIONS)


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
    """Recipe for one variant of `DISTILLATIONS`."""
    return to_config(distillation("dhkd", variant))
