"""Options of cross-entropy and mixup on given labels."""

import dataclasses

from jaxrobust.options import Options, option


@dataclasses.dataclass(frozen=True)
class Baseline(Options, section="baseline", recipe="configs/dpc.py"):
    """Cross-entropy and mixup."""

    mixup_alpha: float = option(1.0, "(0, inf)", "of the Beta distribution of a pair's shares")
    threshold: float = option(0.5, "[0, 1)", "labels with a clean probability above it are kept")
