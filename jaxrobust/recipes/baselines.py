"""Options of the baselines that papers compare with."""

import dataclasses

from jaxrobust.recipes.fields import Options, option

_ANNOTATION = "configs/active_learning_baselines.py"
_DISTILLATION = "configs/kd_baselines.py"


# Annotation.


@dataclasses.dataclass(frozen=True)
class Uncertainty(
    Options, section="uncertainty", methods=("entropy", "lc", "margin", "badge"), recipe=_ANNOTATION
):
    """`lc`, `margin`, `entropy` and `badge`."""

    unknown_class: bool = option(
        True,
        bool,
        "of a classifier that is trained to choose images: a separate class for images found to "
        "be unknown [ours]; False: the reported classifier chooses, which ignores them, as in "
        "the tables of BUAL and EAOA; CIFAR and Tiny-ImageNet: False",
    )


@dataclasses.dataclass(frozen=True)
class Lfosa(Options, section="lfosa", methods=("lfosa",), recipe=_ANNOTATION):
    """LfOSA (CVPR 2022)."""

    temperature: float = option(0.5, "(0, inf)", "of the detector's softmax")


@dataclasses.dataclass(frozen=True)
class Eaoa(Options, section="eaoa", methods=("eaoa",), recipe=_ANNOTATION):
    """EAOA (CVPR 2025)."""

    kappa: float = option(
        5.0, "[1, inf)", "candidates per image to choose, adapted to the precision; features: 15"
    )
    kappa_step: float = option(1.0, "[0, inf)", "step by which kappa is adapted; features: 3")
    num_neighbors: int = option(
        250, "[1, inf)", "neighbours whose labels give an image's class shares; features: 50"
    )
    energy_weight: float = option(0.01, "[0, inf)", "weight of the energy's margin loss")
    known_margin: float = option(-25.0, "(-inf, inf)", "energy that known images stay below")
    unknown_margin: float = option(-7.0, "(-inf, inf)", "energy that unknown images stay above")


@dataclasses.dataclass(frozen=True)
class _Places:
    num_components: int = option(
        128,
        "[0, inf)",
        "leading principal components in which distances are measured, so that a query of "
        "50,000 images takes seconds, see docs/results.md; 0: all features, as in the papers",
    )


@dataclasses.dataclass(frozen=True)
class Typiclust(_Places, Options, section="typiclust", methods=("typiclust",), recipe=_ANNOTATION):
    """TypiClust (ICML 2022); the authors' code's numbers."""

    num_neighbors: int = option(20, "[1, inf)", "whose mean distance is the inverse typicality")
    max_clusters: int = option(500, "[1, inf)", "else annotated images plus budget")
    min_cluster_size: int = option(6, "[1, inf)", "smaller clusters come last")
    unit_length: bool = option(True, bool, "features are scaled to length 1; False: [ours]")
    squared: bool = option(True, bool, "distances are squared; paper: False")


@dataclasses.dataclass(frozen=True)
class Probcover(_Places, Options, section="probcover", methods=("probcover",), recipe=_ANNOTATION):
    """ProbCover (NeurIPS 2022)."""

    radius: float = option(
        0.0, "[0, inf)", "of the balls around features of length 1; 0: by purity"
    )
    purity: float = option(0.95, "(0, 1)", "share of balls whose images all belong to one cluster")
    num_covered: int = option(
        2500, "[1, inf)", "images from which the coverage is estimated; paper: all"
    )


@dataclasses.dataclass(frozen=True)
class Dropquery(_Places, Options, section="dropquery", methods=("dropquery",), recipe=_ANNOTATION):
    """DropQuery (TMLR 2024)."""

    num_masks: int = option(3, "[1, inf)", "dropout masks whose predictions are compared")
    rate: float = option(0.75, "(0, 1)", "dropout rate")


# Noisy labels.


@dataclasses.dataclass(frozen=True)
class Baseline(
    Options,
    section="baseline",
    methods=("cross_entropy", "mixup", "knn", "mean_margin"),
    recipe="configs/dpc.py",
):
    """Cross-entropy, mixup and nearest neighbours."""

    mixup_alpha: float = option(1.0, "(0, inf)", "of the Beta distribution of mixing weights")
    num_neighbors: int = option(20, "[1, inf)", "of knn: neighbours whose labels vote")
    threshold: float = option(0.5, "[0, 1)", "labels with a clean probability above it are kept")


# Distillation.


@dataclasses.dataclass(frozen=True)
class Kd(Options, section="kd", methods=("kd",), recipe=_DISTILLATION):
    """KD (Hinton et al., 2015)."""

    ce_weight: float = option(0.1, "[0, inf)", "weight of cross-entropy; ImageNet: 0.5")
    weight: float = option(0.9, "[0, inf)", "weight of the divergence; ImageNet: 0.5")
    temperature: float = option(4.0, "(0, inf)", "ImageNet: 1")
    standardize: bool = option(
        False, bool, "logits to mean 0 and deviation 1 (CVPR 2024), with weight=9, temperature=2"
    )


@dataclasses.dataclass(frozen=True)
class Dkd(Options, section="dkd", methods=("dkd",), recipe=_DISTILLATION):
    """DKD (CVPR 2022)."""

    alpha: float = option(1.0, "[0, inf)", "weight of the target part")
    beta: float = option(8.0, "[0, inf)", "weight of the non-target part, by pair of networks")
    temperature: float = option(4.0, "(0, inf)", "ImageNet: 1")
    warm_up: int = option(20, "[0, inf)", "epochs in which the loss grows; ImageNet: 1")
    standardize: bool = option(
        False, bool, "logits to mean 0 and deviation 1 (CVPR 2024), with both weights times 9, T 2"
    )


@dataclasses.dataclass(frozen=True)
class Rld(Options, section="rld", methods=("rld",), recipe=_DISTILLATION):
    """RLD (ICCV 2025); the authors' code has the same values for all pairs on CIFAR-100."""

    alpha: float = option(1.0, "[0, inf)", "weight of the teacher's confidence")
    beta: float = option(
        8.0,
        "[0, inf)",
        "weight of the classes below the label; resnet34_resnet18_imagenet: 0.5, "
        "resnet50_mobilenet_v1_imagenet: 2",
    )
    temperature: float = option(4.0, "(0, inf)", "of the classes below the label; ImageNet: 1")
    confidence_temperature: float = option(1.0, "(0, inf)", "of the confidence")
    warm_up: int = option(20, "[0, inf)", "epochs in which the loss grows; ImageNet: 1")


@dataclasses.dataclass(frozen=True)
class Wttm(Options, section="wttm", methods=("wttm",), recipe=_DISTILLATION):
    """WTTM (ICLR 2024) beside cross-entropy; the authors' values per pair could not be read."""

    weight: float = option(4.0, "[0, inf)", "of the loss; the authors' value with CRD. TTM: 45")
    power: float = option(
        0.2, "(0, inf)", "1 / temperature of the teacher; the authors' value with CRD. TTM: 0.1"
    )
    weighted: bool = option(True, bool, "False: TTM, all examples weigh the same")


@dataclasses.dataclass(frozen=True)
class FitNet(Options, section="fitnet", methods=("fitnet",), recipe=_DISTILLATION):
    """FitNet (ICLR 2015) beside cross-entropy, as CRD's benchmark has it."""

    weight: float = option(100.0, "[0, inf)", "weight of the hint's squared error")
    hint_stage: int = option(2, "[1, inf)", "stage whose map is compared, counted from 1")


@dataclasses.dataclass(frozen=True)
class Sp(Options, section="sp", methods=("sp",), recipe=_DISTILLATION):
    """SP (ICCV 2019) of the last stage's maps."""

    weight: float = option(3000.0, "[0, inf)", "weight of the similarities' error")


@dataclasses.dataclass(frozen=True)
class Vid(Options, section="vid", methods=("vid",), recipe=_DISTILLATION):
    """VID (CVPR 2019) of every stage's maps."""

    weight: float = option(1.0, "[0, inf)", "weight of the sum over stages")
    variance: float = option(5.0, "(0, inf)", "initial variance of a channel")


@dataclasses.dataclass(frozen=True)
class Crd(Options, section="crd", methods=("crd",), recipe=_DISTILLATION):
    """CRD (ICLR 2020) of pooled features."""

    weight: float = option(0.8, "[0, inf)", "weight of both contrastive terms")
    width: int = option(128, "[1, inf)", "width of the embeddings")
    num_negatives: int = option(16384, "[1, inf)", "images of other classes per image and step")
    momentum: float = option(0.5, "[0, 1)", "momentum of the stored embeddings")
    temperature: float = option(0.07, "(0, inf)", "temperature of the inner products")


@dataclasses.dataclass(frozen=True)
class Dist(Options, section="dist", methods=("dist",), recipe=_DISTILLATION):
    """DIST (NeurIPS 2022)."""

    beta: float = option(1.0, "[0, inf)", "weight of the correlation over classes")
    gamma: float = option(1.0, "[0, inf)", "weight of the correlation over the batch")
    temperature: float = option(4.0, "(0, inf)", "of both softmaxes; ImageNet: 1")
    weight: float = option(2.0, "[0, inf)", "of both correlations, as in its authors' code")


@dataclasses.dataclass(frozen=True)
class Rkd(Options, section="rkd", methods=("rkd",), recipe=_DISTILLATION):
    """RKD (CVPR 2019) of pooled features."""

    distance_weight: float = option(25.0, "[0, inf)", "weight of distances; L2D: 10")
    angle_weight: float = option(50.0, "[0, inf)", "weight of angles; L2D: 10")


@dataclasses.dataclass(frozen=True)
class Pkt(Options, section="pkt", methods=("pkt",), recipe=_DISTILLATION):
    """PKT (ECCV 2018) of pooled features."""

    weight: float = option(30_000.0, "[0, inf)", "weight of the divergence; L2D: 1")


@dataclasses.dataclass(frozen=True)
class At(Options, section="at", methods=("at",), recipe=_DISTILLATION):
    """AT (ICLR 2017)."""

    weight: float = option(1000.0, "[0, inf)", "weight of the attention maps' error")


@dataclasses.dataclass(frozen=True)
class ReviewKd(
    Options, section="reviewkd", methods=("reviewkd", "dhkd_reviewkd"), recipe=_DISTILLATION
):
    """ReviewKD (CVPR 2021)."""

    weight: float = option(
        5.0,
        "[0, inf)",
        "weight of the fused features' error; resnet56_resnet20: 0.6, resnet110_resnet32: 1, "
        "resnet34_resnet18_imagenet: 1, resnet32x4_shuffle_v2 and "
        "resnet50_mobilenet_v1_imagenet: 8",
    )
    warm_up: int = option(20, "[0, inf)", "epochs in which the loss grows from 0; ImageNet: 0")
    student_maps: str = option(
        "activation",
        ("activation", "preactivation"),
        "the student's maps, after or before the activation; the teacher's are before it; "
        "ImageNet: preactivation, as in mdistiller",
    )
    width: int = option(
        0,
        "[0, inf)",
        "channels of the fusion; 0: those of the student's deepest features, at most 512; "
        "resnet50_mobilenet_v1_imagenet: 256",
    )


@dataclasses.dataclass(frozen=True)
class LogitMse(Options, section="logit_mse", methods=("logit_mse",), recipe=_DISTILLATION):
    """Squared error of the logits."""

    weight: float = option(1.0, "[0, inf)", "[ours]")
