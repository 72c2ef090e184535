"""Options of the wrong labels that a clean training set gets."""

import dataclasses

from jaxrobust.recipes.fields import Names, Options, option


@dataclasses.dataclass(frozen=True)
class Noise(Options, section="noise"):
    """The wrong labels."""

    kind: str = option(
        "symmetric",
        ("none", "symmetric", "uniform", "asymmetric", "pairflip", "transition", "human"),
        "symmetric: the true class is among those drawn; uniform: never the true class; "
        "asymmetric: of CIFAR; transition: a matrix in a file; human: CIFAR-N",
    )
    rate: float = option(0.4, "[0, 1]", "share of labels that are drawn anew")
    seed: int = option(
        -1, "[-1, 4294967295]", "-1: the run's; the authors of DPC have 123 for every run"
    )
    path: str = option("", str, "of the matrix, or of CIFAR-N's label file")
    label_set: str = option(
        "worst",
        Names("jaxrobust.data.noise:CIFARN_KEYS"),
        "for human: aggre, worst, rand1, rand2, rand3; of CIFAR-100N noisy100",
    )
    groups: str = option("blocks", ("blocks", "superclasses"), "for asymmetric CIFAR-100")
