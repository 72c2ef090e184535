"""Options of BLDR; every default is the authors' code's, as of 28 June 2022."""

import dataclasses

from jaxrobust.errors import UserError
from jaxrobust.recipes.fields import Options, option


@dataclasses.dataclass(frozen=True)
class Bldr(Options, section="bldr", recipe="configs/bldr.py"):
    """BLDR (arXiv 2209.01334)."""

    warm_up: int = option(
        20, "[0, inf)", "epochs of constant rate, unit weights and `noise_rate`; CIFAR-100: 40"
    )
    positive: bool = option(True, bool, "the positive head learns")
    negative: bool = option(True, bool, "the negative head learns")
    reweighting: bool = option(True, bool, "examples are weighted by the negative head")
    self_distillation: bool = option(True, bool, "both heads teach early exits")
    complementary: str = option(
        "all_but_label_and_top",
        ("all_but_label_and_top", "all_but_label", "random"),
        "classes that an image is said not to be of",
    )
    num_complementary: int = option(1, "[1, inf)", "complementary labels per image, for random")
    noise_terms: str = option(
        "bldr",
        ("bldr", "sop"),
        "sop: as in SOP's code the residual teaches u too, and the bound of u^2 and v^2 is 1",
    )
    reg_weight: float = option(
        50.0, "[0, inf)", "of the residual that drives v; first upload: 25; SOP+: 1"
    )
    reg_power: int = option(
        2, "[1, 2]", "of the noise rate that reg_weight is multiplied by; first upload: 1"
    )
    balance_weight: float = option(0.1, "[0, inf)", "of equally frequent predictions")
    consistency_weight: float = option(0.9, "[0, inf)", "of the strong views")
    distillation_weight: float = option(0.1, "[0, inf)", "of the exits' soft targets")
    temperature: float = option(3.0, "(0, inf)", "of the distillation")
    hint_weight: float = option(1e-6, "[0, inf)", "of the exits' features")
    head_agreement_weight: float = option(0.0, "[0, inf)", "of both heads; CIFAR-100: 10")
    learning_rate_u: float = option(10.0, "[0, inf)", "times batch_size / tables_batch_size")
    learning_rate_v: float = option(10.0, "[0, inf)", "times batch_size / tables_batch_size")
    tables_batch_size: int = option(256, "[1, inf)", "that the rates of u and v belong to")
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
