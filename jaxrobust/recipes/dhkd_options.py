"""Options of DHKD; defaults are those of the authors' one complete command on CIFAR-100."""

import dataclasses

from jaxrobust.errors import UserError
from jaxrobust.recipes.fields import Options, option


@dataclasses.dataclass(frozen=True)
class Distill(Options, section="distill", recipe="configs/dhkd.py"):
    """DHKD (KDD 2025, arXiv 2411.08937). Other methods read nothing of it."""

    loss: str = option(
        "binary_kl_norm",
        ("binary_kl", "binary_kl_norm", "logit_mse", "soft_target_kl"),
        "on the logits of the head that learns from the teacher",
    )
    head: str = option("auxiliary", ("primary", "auxiliary"), "primary: one head for both losses")
    auxiliary: str = option(
        "auto", ("auto", "linear", "mlp"), "linear within a family of networks, else mlp"
    )
    gamma: float = option(1.0, "[0, inf)", "of cross-entropy")
    alpha: float = option(
        1.0,
        "[0, inf)",
        "of the distillation loss; ImageNet: 0.1; the paper's value per pair is not known",
    )
    temperature: float = option(0.0, "[0, inf)", "0: the loss's own, 2, for soft_target_kl 4")
    standardize: bool = option(
        False, bool, "logits of the taught head to mean 0 and deviation 1 (CVPR 2024)"
    )
    gradients: str = option(
        "align", ("align", "pcgrad", "sum"), "pcgrad: project both; ImageNet: sum"
    )
    scope: str = option("all", ("all", "backbone"), "backbone: align its gradients alone")
    until_epoch: int = option(
        0,
        "[0, inf)",
        "the last one with distillation, counted from 1; 0: all; ImageNet: 49, as the code",
    )

    def check_combinations(self) -> None:
        if self.scope != "all" and self.gradients != "align":
            raise UserError(
                f"distill.scope={self.scope!r} is for distill.gradients='align', not "
                f"{self.gradients!r}; set one of the two."
            )
