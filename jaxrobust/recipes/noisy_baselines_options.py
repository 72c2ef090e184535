"""Options of cross-entropy, mixup and nearest neighbours on given labels."""

import dataclasses

from jaxrobust.recipes.fields import Options, option


@dataclasses.dataclass(frozen=True)
class Baseline(Options, section="baseline", recipe="configs/dpc.py"):
    """Cross-entropy, mixup and nearest neighbours."""

    mixup_alpha: float = option(1.0, "(0, inf)", "of the Beta distribution of a pair's shares")
    num_neighbors: int = option(20, "[1, inf)", "of knn, whose labels vote")
    threshold: float = option(0.5, "[0, 1)", "labels with a clean probability above it are kept")
