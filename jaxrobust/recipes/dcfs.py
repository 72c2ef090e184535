"""DCFS, Dirichlet-based coarse-to-fine example selection (2024)."""

import dataclasses

import ml_collections

from jaxrobust.errors import UserError
from jaxrobust.recipes.fields import Options, option, to_config
from jaxrobust.recipes.protocols import OPEN_SET, ActiveLearning, Al, active_learning

_RECIPE = "configs/dcfs.py"


@dataclasses.dataclass(frozen=True)
class Edl(Options, section="edl", recipe=_RECIPE):
    """alpha = evidence(clip(logits)) + offset [family: E2OAL], and the loss on it."""

    evidence: str = option("exp", ("exp", "softplus", "relu"), "evidence of the logits")
    offset: float = option(1.0, "[0, inf)", "offset of alpha; DUC: 0, DPC: 10/K")
    clip: float = option(10.0, "(0, inf]", "bound of the logits; inf: none, as in DUC and DPC")
    loss: str = option("nll", ("nll", "digamma", "mse"), "[family: DUC, DPC, E2OAL]")
    kl_weight: float = option(1.0, "[0, inf)", "weight of the divergence of misleading evidence")
    anneal_epochs: int = option(
        10, "[0, inf)", "epochs in which the KL terms grow from 0 [family: E2OAL]"
    )

    def check_combinations(self) -> None:
        if self.offset == 0 and self.evidence != "exp":
            raise UserError(
                f"edl.offset=0 is for edl.evidence='exp', not {self.evidence!r}, whose evidence "
                "may be 0; set --config.edl.offset=1."
            )


@dataclasses.dataclass(frozen=True)
class Loss(Options, section="loss", recipe=_RECIPE):
    """total = nll + anneal * (kl_weight * kl + lambda_unk * unk) + lambda_dis * dis."""

    lambda_unk: float = option(1.0, "[0, inf)", "flat-Dirichlet target of labelled unknowns [ours]")
    lambda_dis: float = option(
        1.0, "[0, inf)", "signed discrepancy of the heads: sign [abstract], weight [ours]"
    )
    amplify: str = option(
        "neg", ("neg", "one_minus", "hinge"), "discrepancy on unknown images [family: MCD]"
    )
    margin: float = option(1.0, "[0, inf)", "margin of hinge")
    dis_route: str = option(
        "joint", ("joint", "heads"), "heads: the amplification does not reach the backbone"
    )
    pool_amplify: float = option(
        0.0, "[0, inf)", "weight of an ADS-like amplification on random pool images"
    )


@dataclasses.dataclass(frozen=True)
class Discrepancy(Options, section="discrepancy", recipe=_RECIPE):
    """How far apart the two heads' predictions are."""

    kind: str = option(
        "tv", ("tv", "l1_mean", "l2", "js", "dirichlet_kl"), "tv: total variation [ours]"
    )


@dataclasses.dataclass(frozen=True)
class Select(Options, section="select", recipe=_RECIPE):
    """The coarse and the fine stage of a query."""

    merge: str = option(
        "mean_score", ("mean_score", "mean_alpha", "head1"), "of the two heads' uncertainties"
    )
    stage_order: str = option(
        "uncertainty_first",
        ("uncertainty_first", "discrepancy_first"),
        "uncertainty_first: coarse = `coarse`, better on photographs than the other order, see "
        "docs/results.md. discrepancy_first: coarse = discrepancy (low = known)",
    )
    coarse: str = option(
        "dist",
        (
            *("weighted_sum", "product", "rank_sum", "data", "dist", "total"),
            *("sequential", "gmm_product"),
        ),
        "score of the coarse stage, for uncertainty_first and first_round=uncertainty",
    )
    w_data: float = option(1.0, "[0, inf)", "of the data uncertainty in weighted_sum")
    w_dist: float = option(1.0, "[0, inf)", "of the distribution uncertainty in weighted_sum")
    w_discrepancy: float = option(
        0.0, "[0, inf)", "weight of the min-max discrepancy in the weighted sum"
    )
    pool_share: float = option(
        0.3, "(0, 1]", "share of the pool that becomes candidates in the first query [ours]"
    )
    adaptive_share: bool = option(
        True, bool, "the share follows the precision [ours; BUAL and EAOA use it too]"
    )
    kappa: float = option(
        0.0, "[0, inf)", "candidates per image to choose, instead of pool_share; EAOA: 5; 0: none"
    )
    kappa_1: float = option(2.0, "[1, inf)", "of sequential: first cut, in candidates")
    adaptive_kappa: bool = option(False, bool, "kappa follows the precision [family: EAOA]")
    class_balanced: bool = option(
        True, bool, "equal quotas by predicted class [family: EAOA, E2OAL]"
    )
    fine: str = option(
        "target_margin",
        (
            *("discrepancy", "discrepancy_low", "data", "total"),
            *("target_entropy", "target_margin", "badge", "random"),
        ),
        "score of the fine stage [ours]; target_*: of the separate classifier; badge: not a "
        "score but a draw by k-means++ on its gradient embeddings, uncertain and diverse "
        "[BADGE, ICLR 2020]",
    )
    first_round: str = option(
        "uncertainty",
        ("same", "uncertainty", "coarse_only", "random"),
        "before any unknown is known. uncertainty: for discrepancy_first, coarse = `coarse`, since "
        "the heads' discrepancy says nothing yet [ours]; for uncertainty_first it is `same`. same: "
        "as later; coarse_only: the lowest in the coarse score; random: any of the pool",
    )

    def check_combinations(self) -> None:
        if 0 < self.kappa < 1:
            raise UserError(
                f"select.kappa={self.kappa} leaves fewer candidates than images to choose; set 1 "
                "or more, or 0 for select.pool_share."
            )
        if self.adaptive_kappa and not self.kappa:
            raise UserError("select.adaptive_kappa=True needs a select.kappa to start from, as 5.")
        if self.w_discrepancy and self.coarse != "weighted_sum":
            raise UserError(
                f"select.w_discrepancy={self.w_discrepancy} is a term of the weighted sum; set "
                f"select.coarse='weighted_sum' (it is {self.coarse!r}) or select.w_discrepancy=0."
            )
        if self.w_discrepancy and self.stage_order != "uncertainty_first":
            raise UserError(
                f"select.w_discrepancy={self.w_discrepancy} is a term of the uncertainties' coarse "
                "score; set select.stage_order='uncertainty_first' or select.w_discrepancy=0."
            )


@dataclasses.dataclass(frozen=True)
class DcfsRecipe(ActiveLearning):
    """The annotation protocol with DCFS."""

    al: Al = Al(score_transform="test")  # [ours]; BUAL's protocol scores augmented images
    edl: Edl = Edl()
    loss: Loss = Loss()
    discrepancy: Discrepancy = Discrepancy()
    select: Select = Select()

    @property
    def is_shared(self) -> bool:
        """Whether the query network is reported, in place of a separate classifier."""
        return self.al.target_model == "shared"

    def check_combinations(self) -> None:
        super().check_combinations()
        if self.is_shared and self.select.fine.startswith(("target_", "badge")):
            raise UserError(
                f"select.fine={self.select.fine!r} needs the separate target classifier; set "
                "al.target_model='separate' or another select.fine."
            )


VARIANTS = tuple(OPEN_SET)


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
    """Recipe for one variant of `OPEN_SET`."""
    return to_config(active_learning(DcfsRecipe(method="dcfs"), variant))
