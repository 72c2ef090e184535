"""L2D, multi-label knowledge distillation (ICCV 2023), and its protocol."""

import dataclasses
from typing import Any, ClassVar

import ml_collections

from jaxrobust.errors import UserError
from jaxrobust.recipes import choose
from jaxrobust.recipes.baselines import Pkt, Rkd
from jaxrobust.recipes.fields import Names, Options, option, replace, to_config
from jaxrobust.recipes.protocols import DISTILLERS, Export, Student
from jaxrobust.recipes.run import (
    BACKBONES,
    TASK_NAMES,
    Augment,
    BaseRecipe,
    DatasetOptions,
    OneCycleAdam,
)

_RECIPE = "configs/l2d.py"


@dataclasses.dataclass(frozen=True)
class LabelLoss(Options, section="labels", recipe=_RECIPE):
    """The loss on the labels."""

    loss: str = option("bce", ("bce", "asymmetric"), "asymmetric: an extra, not L2D's")
    reduction: str = option(
        "sum", ("sum", "batchmean"), "over the batch, as in the code; batchmean: as in the paper"
    )


@dataclasses.dataclass(frozen=True)
class Asymmetric(Options, section="asymmetric", recipe=_RECIPE):
    """Asymmetric loss (ICCV 2021)."""

    gamma_neg: float = option(4.0, "[0, inf)", "focusing of negative labels")
    gamma_pos: float = option(1.0, "[0, inf)", "focusing of positive labels")
    margin: float = option(0.05, "[0, 1)", "probability below which negatives have no loss")


@dataclasses.dataclass(frozen=True)
class L2d(Options, section="l2d", methods=("l2d", "mld", "mld_cd", "mld_id"), recipe=_RECIPE):
    """L2D (ICCV 2023, arXiv 2308.06453); a weight of 0 leaves its term out."""

    lambda_mld: float = option(10.0, "[0, inf)", "weight of the logits' term")
    lambda_cd: float = option(100.0, "[0, inf)", "weight of class-aware label embeddings")
    lambda_id: float = option(1000.0, "[0, inf)", "weight of instance-aware label embeddings")
    normalize: bool = option(
        True, bool, "divide distances by their mean, as in the code; False: as in the paper"
    )


@dataclasses.dataclass(frozen=True)
class Mse(Options, section="mse", methods=("mse",), recipe=_RECIPE):
    """Squared error of the logits."""

    weight: float = option(1.0, "[0, inf)", "not published")


@dataclasses.dataclass(frozen=True)
class Ps(Options, section="ps", methods=("ps",), recipe=_RECIPE):
    """Partial softmax."""

    weight: float = option(1.0, "[0, inf)", "not published")


@dataclasses.dataclass(frozen=True)
class FinalReviewKd(Options, section="reviewkd", methods=("reviewkd",), recipe=_RECIPE):
    """ReviewKD (CVPR 2021) on the final map."""

    weight: float = option(1.0, "[0, inf)", "weight of the map's error")
    width: int = option(256, "[1, inf)", "channels of the fusion")


@dataclasses.dataclass(frozen=True)
class BackboneTeacher(Options, section="teacher"):
    """The teacher, with a backbone to start from."""

    path: str = option("", str, "folder of a trained one; empty: train one first with this recipe")
    logits_file: ClassVar[tuple[str, ...]] = ()
    train: ClassVar[str] = "all"
    image_size: ClassVar[int] = 0
    logits: ClassVar[str] = "step"
    table_dtype: ClassVar[str] = "float32"

    name: str = option("resnet101_imagenet", BACKBONES, "not used with a path")
    backbone: str = option("", str, "as student.backbone; not used with a path")
    num_epochs: int = option(
        30, "[1, inf)", "epochs of the cycle, at whose 30th epoch the learning rate is still high"
    )


@dataclasses.dataclass(frozen=True)
class Decoder(Options, section="decoder"):
    """ML-Decoder."""

    width: int = option(768, "[1, inf)", "width of an embedding; a multiple of num_heads")
    hidden: int = option(2048, "[1, inf)", "width of the feed-forward part")
    num_heads: int = option(8, "[1, inf)", "attention heads")
    dropout: float = option(0.1, "[0, 1)", "dropout rate in training")

    def check_combinations(self) -> None:
        if self.width % self.num_heads:
            raise UserError(
                f"decoder.width={self.width} cannot be shared by decoder.num_heads="
                f"{self.num_heads}; make it a multiple."
            )


@dataclasses.dataclass(frozen=True)
class MultilabelDistillation(BaseRecipe):
    """A recipe of the distillation task for images with several labels, with L2D's numbers.

    What only images with one label have is fixed here.
    """

    use_unlabeled: ClassVar[bool] = False
    label_smoothing: ClassVar[float] = 0.0
    mixup: ClassVar[float] = 0.0
    class_weights: ClassVar[str] = "none"
    ema: ClassVar[float] = 0.0
    with_baseline: ClassVar[bool] = False
    measure_latency: ClassVar[bool] = False

    task: str = option("distillation", TASK_NAMES, "outer loop")
    method: str = option(
        "bce",
        DISTILLERS,
        "how the student learns from the teacher",
    )
    num_workers: int = option(
        16, "[0, inf)", "processes that read streamed images; 0: threads of this process"
    )
    eval_batch_size: int = option(128, "[1, inf)", "images per step without training")
    num_epochs: int = option(80, "[1, inf)", "epochs of the student", static=False)
    batch_size: int = option(
        64, "[1, inf)", "cross-entropy is summed over the batch, the other terms are not"
    )
    last_batch: str = option(
        "drop", Names("jaxrobust.engine.plan:LAST_BATCHES"), "the remainder of an epoch"
    )
    distill_until_epoch: int = option(
        0, "[0, inf)", "last epoch with distillation, counted from 1; 0: all"
    )
    dataset: DatasetOptions = DatasetOptions(name="coco2014", image_size=224, stream=True)
    augment: Augment = Augment(  # the paper flips, its code does not
        crop="multilabel", padding=0, flip=False
    )
    student: Student = Student(name="resnet34_imagenet")
    teacher: BackboneTeacher = BackboneTeacher()
    decoder: Decoder = Decoder()
    optimizer: OneCycleAdam = OneCycleAdam()
    export: Export = Export()
    labels: LabelLoss = LabelLoss()
    asymmetric: Asymmetric = Asymmetric()
    l2d: L2d = L2d()
    mse: Mse = Mse()
    ps: Ps = Ps()
    rkd: Rkd = Rkd(distance_weight=10.0, angle_weight=10.0)
    pkt: Pkt = Pkt(weight=1.0)
    reviewkd: FinalReviewKd = FinalReviewKd()


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


VARIANTS = tuple(MULTILABEL_DISTILLATIONS)


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
    """Recipe for one variant of `MULTILABEL_DISTILLATIONS`."""
    return to_config(multilabel_distillation("l2d", variant))
