"""Options of the annotation strategies that BUAL and DCFS are compared with."""

import dataclasses

from jaxrobust.recipes.fields import Options, option

_RECIPE = "configs/active_learning_baselines.py"


@dataclasses.dataclass(frozen=True)
class Lfosa(Options, section="lfosa", recipe=_RECIPE):
    """LfOSA (CVPR 2022)."""

    temperature: float = option(0.5, "(0, inf)", "of the detector's softmax")


@dataclasses.dataclass(frozen=True)
class Eaoa(Options, section="eaoa", recipe=_RECIPE):
    """EAOA (CVPR 2025)."""

    kappa: float = option(
        5.0, "[1, inf)", "candidates per image to choose, adapted to the precision"
    )
    num_neighbors: int = option(250, "[1, inf)", "whose labels form an image's class shares")
    energy_weight: float = option(0.01, "[0, inf)", "of the margin loss of the energy")
    known_margin: float = option(-25.0, "(-inf, inf)", "energy that known images stay below")
    unknown_margin: float = option(-7.0, "(-inf, inf)", "energy that unknown images stay above")


@dataclasses.dataclass(frozen=True)
class _Places:
    num_components: int = option(
        128,
        "[0, inf)",
        "leading principal components that distances are measured in, which keeps a query of "
        "50,000 images in seconds, see docs/results.md; 0: all features, as in the papers",
    )


@dataclasses.dataclass(frozen=True)
class Typiclust(_Places, Options, section="typiclust", recipe=_RECIPE):
    """TypiClust (ICML 2022); the authors' code's numbers."""

    num_neighbors: int = option(20, "[1, inf)", "whose mean distance is the typicality's inverse")
    max_clusters: int = option(500, "[1, inf)", "else annotated images and budget together")
    min_cluster_size: int = option(6, "[1, inf)", "smaller clusters come last")


@dataclasses.dataclass(frozen=True)
class Probcover(_Places, Options, section="probcover", recipe=_RECIPE):
    """ProbCover (NeurIPS 2022)."""

    radius: float = option(
        0.0, "[0, inf)", "of the balls around features of length 1; 0: by purity"
    )
    purity: float = option(0.95, "(0, 1)", "share of balls that hold one cluster alone")
    num_covered: int = option(
        2500, "[1, inf)", "images that the coverage is estimated from; paper: all"
    )


@dataclasses.dataclass(frozen=True)
class Dropquery(_Places, Options, section="dropquery", recipe=_RECIPE):
    """DropQuery (TMLR 2024)."""

    num_masks: int = option(3, "[1, inf)", "of dropout, whose predictions are compared")
    rate: float = option(0.75, "(0, 1)", "of the dropout")
