"""Options of the annotation strategies that BUAL and DCFS are compared with."""

import dataclasses

from jaxrobust.options import Options, option

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
