"""Options of DPC; where paper and code differ, the defaults are the code's."""

import dataclasses

from jaxrobust.errors import UserError
from jaxrobust.recipes.fields import Options, option


@dataclasses.dataclass(frozen=True)
class Dpc(Options, section="dpc", recipe="configs/dpc.py"):
    """DPC (AAAI 2024, arXiv 2401.07062); DPC* with `consistency_weight` above 0."""

    warm_up: int = option(
        10, "[0, inf)", "epochs on all labels; CIFAR-100 and CIFAR-10N: 30, CIFAR-100N: 40"
    )
    lambda_u: float = option(
        25.0, "[0, inf)", "of the unsupervised loss divided by C; searched over 0, 25, 50, 150"
    )
    rampup_length: float = option(
        16.0, "[0, inf)", "epochs in which lambda_u grows to its value; 0: at once"
    )
    mixup_alpha: float = option(4.0, "(0, inf)", "of the Beta distribution of a pair's shares")
    temperature: float = option(0.5, "(0, inf)", "of the sharpening of guessed labels")
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
        "evidence of all classes together beforehand, gamma times C; ablation: 0, 5, 10, 15, 20",
    )
    beta: float = option(
        0.5, "[0, inf)", "weight of the divergence; ablation: 0, 0.25, 0.5, 0.75, 1"
    )
    score: str = option("margin", ("margin", "loss"), "logit margin; loss: small losses are clean")
    score_mode: str = option(
        "gmm",
        ("gmm", "minmax", "auto", "count"),
        "mixture of two Gaussians; minmax: the scaled score itself; auto: by kurtosis (paper); "
        "count: a mixture that keeps all labels but as many as the confident joint counts",
    )
    kurtosis_threshold: float = option(
        1.2, "(-inf, inf)", "excess kurtosis above which auto is minmax"
    )
    reg_covar: float = option(
        5e-4, "[0, inf)", "added to the variances of the mixture; DivideMix on WebVision: 1e-3"
    )
    heads: int = option(2, "[1, 2]", "1: the unsupervised loss on head 1 too")
    entropy_penalty: str = option(
        "none",
        ("none", "plain", "clamped"),
        "in the warm-up; code: plain for asymmetric noise, clamped (logits at 0) for CIFAR-N",
    )
    consistency_weight: float = option(
        0.0,
        "[0, inf)",
        "of strong views, above 0: DPC*; code: CIFAR-10 3, CIFAR-100 1; appendix: the reverse",
    )
    forward_unlabeled: bool = option(
        True, bool, "False: only labelled rows, mixed with any (WebVision)"
    )
    peer_from: str = option(
        "now",
        ("now", "epoch_start"),
        "the partner as it is; epoch_start: as it was before the epoch (WebVision)",
    )
    guess_updates_statistics: bool = option(
        True, bool, "guesses in training mode move BatchNorm's averages"
    )

    def check_combinations(self) -> None:
        if not self.forward_unlabeled and self.lambda_u:
            raise UserError(
                f"dpc.lambda_u={self.lambda_u} weighs a loss on unlabelled rows, but "
                "dpc.forward_unlabeled=False leaves them out; set one of the two."
            )
