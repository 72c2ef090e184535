"""Options of the distillation losses that DHKD is compared with, by the CIFAR-100 benchmark."""

import dataclasses

from jaxrobust.recipes.fields import Options, option

_RECIPE = "configs/kd_baselines.py"


@dataclasses.dataclass(frozen=True)
class Kd(Options, section="kd", recipe=_RECIPE):
    """KD (Hinton et al., 2015)."""

    ce_weight: float = option(0.1, "[0, inf)", "of cross-entropy; ImageNet: 0.5")
    weight: float = option(0.9, "[0, inf)", "of the divergence; ImageNet: 0.5")
    temperature: float = option(4.0, "(0, inf)", "ImageNet: 1")
    standardize: bool = option(
        False, bool, "logits to mean 0 and deviation 1 (CVPR 2024), with weight=9, temperature=2"
    )


@dataclasses.dataclass(frozen=True)
class Dkd(Options, section="dkd", recipe=_RECIPE):
    """DKD (CVPR 2022)."""

    alpha: float = option(1.0, "[0, inf)", "of the target part")
    beta: float = option(8.0, "[0, inf)", "of the non-target part, by pair of networks")
    temperature: float = option(4.0, "(0, inf)", "ImageNet: 1")
    warm_up: int = option(20, "[0, inf)", "epochs in which the loss grows; ImageNet: 1")
    standardize: bool = option(
        False, bool, "logits to mean 0 and deviation 1 (CVPR 2024), with both weights times 9, T 2"
    )


@dataclasses.dataclass(frozen=True)
class Rld(Options, section="rld", recipe=_RECIPE):
    """RLD (ICCV 2025); the authors' code's defaults, whose values per pair are not published."""

    alpha: float = option(1.0, "[0, inf)", "of the teacher's confidence")
    beta: float = option(8.0, "[0, inf)", "of the classes below the label")
    temperature: float = option(4.0, "(0, inf)", "of the classes below the label")
    confidence_temperature: float = option(1.0, "(0, inf)", "of the confidence")
    warm_up: int = option(20, "[0, inf)", "epochs in which the loss grows")


@dataclasses.dataclass(frozen=True)
class FitNet(Options, section="fitnet", recipe=_RECIPE):
    """FitNet (ICLR 2015) beside cross-entropy, as CRD's benchmark has it."""

    weight: float = option(100.0, "[0, inf)", "of the hint's squared error")
    hint_stage: int = option(2, "[1, inf)", "the stage whose map is compared, counted from 1")


@dataclasses.dataclass(frozen=True)
class Sp(Options, section="sp", recipe=_RECIPE):
    """SP (ICCV 2019) of the last stage's maps."""

    weight: float = option(3000.0, "[0, inf)", "of the similarities' error")


@dataclasses.dataclass(frozen=True)
class Vid(Options, section="vid", recipe=_RECIPE):
    """VID (CVPR 2019) of every stage's maps."""

    weight: float = option(1.0, "[0, inf)", "of the sum over stages")
    variance: float = option(5.0, "(0, inf)", "of a channel at the start")


@dataclasses.dataclass(frozen=True)
class Crd(Options, section="crd", recipe=_RECIPE):
    """CRD (ICLR 2020) of pooled features."""

    weight: float = option(0.8, "[0, inf)", "of both contrastive terms")
    width: int = option(128, "[1, inf)", "of the embeddings")
    num_negatives: int = option(16384, "[1, inf)", "images of other classes per image and step")
    momentum: float = option(0.5, "[0, 1)", "of the memories of embeddings")
    temperature: float = option(0.07, "(0, inf)", "of the inner products")


@dataclasses.dataclass(frozen=True)
class Dist(Options, section="dist", recipe=_RECIPE):
    """DIST (NeurIPS 2022)."""

    beta: float = option(1.0, "[0, inf)", "of the correlation over classes")
    gamma: float = option(1.0, "[0, inf)", "of the correlation over the batch")
    temperature: float = option(4.0, "(0, inf)", "of both softmaxes; ImageNet: 1")
    weight: float = option(2.0, "[0, inf)", "of both correlations, as its authors' configurations")


@dataclasses.dataclass(frozen=True)
class Rkd(Options, section="rkd", recipe=_RECIPE):
    """RKD (CVPR 2019) of pooled features."""

    distance_weight: float = option(25.0, "[0, inf)", "of distances; L2D: 10")
    angle_weight: float = option(50.0, "[0, inf)", "of angles; L2D: 10")


@dataclasses.dataclass(frozen=True)
class Pkt(Options, section="pkt", recipe=_RECIPE):
    """PKT (ECCV 2018) of pooled features."""

    weight: float = option(30_000.0, "[0, inf)", "of the divergence; L2D: 1")


@dataclasses.dataclass(frozen=True)
class At(Options, section="at", recipe=_RECIPE):
    """AT (ICLR 2017)."""

    weight: float = option(1000.0, "[0, inf)", "of the attention maps' error")


@dataclasses.dataclass(frozen=True)
class ReviewKd(Options, section="reviewkd", recipe=_RECIPE):
    """ReviewKD (CVPR 2021)."""

    weight: float = option(
        5.0,
        "[0, inf)",
        "of the fused features' error; resnet56_resnet20: 0.6, resnet110_resnet32: 1, "
        "resnet32x4_shuffle_v2 and ImageNet: 8",
    )
    warm_up: int = option(20, "[0, inf)", "epochs in which the loss grows; ImageNet: 1")
    student_maps: str = option(
        "activation",
        ("activation", "preactivation"),
        "the student's, after or before the activation; the teacher's are before it; ImageNet: "
        "preactivation [ours]",
    )
    width: int = option(
        0,
        "[0, inf)",
        "channels of the fusion; 0: those of the student's deepest features, at most 512; "
        "resnet50_mobilenet_v1_imagenet: 256",
    )


@dataclasses.dataclass(frozen=True)
class LogitMse(Options, section="logit_mse", recipe=_RECIPE):
    """Squared error of the logits."""

    weight: float = option(1.0, "[0, inf)", "[ours]")
