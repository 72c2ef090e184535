"""Options of L2D and of what it is compared with; every default is L2D's code's."""

import dataclasses

from jaxrobust.recipes.fields import Options, option

_RECIPE = "configs/l2d.py"


@dataclasses.dataclass(frozen=True)
class Labels(Options, section="labels", recipe=_RECIPE):
    """The loss on the labels."""

    loss: str = option("bce", ("bce", "asymmetric"), "asymmetric: an extra, not L2D's")
    reduction: str = option(
        "sum", ("sum", "batchmean"), "over the batch, as the code; batchmean: as the paper"
    )


@dataclasses.dataclass(frozen=True)
class Asymmetric(Options, section="asymmetric", recipe=_RECIPE):
    """Asymmetric loss (ICCV 2021)."""

    gamma_neg: float = option(4.0, "[0, inf)", "focusing of negative labels")
    gamma_pos: float = option(1.0, "[0, inf)", "focusing of positive labels")
    margin: float = option(0.05, "[0, 1)", "probability below which negatives cost nothing")


@dataclasses.dataclass(frozen=True)
class L2d(Options, section="l2d", recipe=_RECIPE):
    """L2D (ICCV 2023, arXiv 2308.06453); a weight of 0 leaves its term out."""

    lambda_mld: float = option(10.0, "[0, inf)", "of the logits")
    lambda_cd: float = option(100.0, "[0, inf)", "of class-aware label embeddings")
    lambda_id: float = option(1000.0, "[0, inf)", "of instance-aware label embeddings")
    normalize: bool = option(
        True, bool, "distances by their mean, as the code; False: as the paper"
    )


@dataclasses.dataclass(frozen=True)
class Mse(Options, section="mse", recipe=_RECIPE):
    """Squared error of the logits."""

    weight: float = option(1.0, "[0, inf)", "not published")


@dataclasses.dataclass(frozen=True)
class Ps(Options, section="ps", recipe=_RECIPE):
    """Partial softmax."""

    weight: float = option(1.0, "[0, inf)", "not published")


@dataclasses.dataclass(frozen=True)
class FinalReviewKd(Options, section="reviewkd", recipe=_RECIPE):
    """ReviewKD (CVPR 2021) on the final map."""

    weight: float = option(1.0, "[0, inf)", "of the map's error")
    width: int = option(256, "[1, inf)", "channels of the fusion")
