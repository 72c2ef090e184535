"""Options of the network that methods for images with one label train."""

import dataclasses
from typing import Any

from jaxrobust.recipes.fields import Names, Options, option

NETWORKS = Names("jaxrobust.models:NETWORKS")


@dataclasses.dataclass(frozen=True)
class Model(Options, section="model"):
    """The network."""

    name: str = option("resnet18", NETWORKS, "of a network in `jaxrobust.models`")
    pool: str = option(
        "global",
        Names("jaxrobust.models.resnet:POOLINGS"),
        "of the last feature map; window4: windows of 4 x 4, as BUAL on Tiny-ImageNet",
    )
    dropout: float = option(
        0.0, "[0, 1)", "of linear and mlp: share of what the heads read, dropped in training"
    )
    backbone: str = option(
        "",
        str,
        "folder whose backbone every network starts from: what `jaxrobust.models.convert` wrote, "
        "or `student`, `teacher` or `classifier` of a run; empty: random",
    )

    @property
    def architecture(self) -> dict[str, Any]:
        """Arguments of `jaxrobust.models.make_network`."""
        return {"name": self.name, "pool": self.pool, "dropout": self.dropout}


@dataclasses.dataclass(frozen=True)
class ExitsModel(Model):
    """A network with exits: BLDR's."""

    init: str = option(
        "torch_default", Names("jaxrobust.models:INITIALIZATIONS"), "of the convolutions"
    )
