"""Weights that the networks of a run start from, instead of random ones."""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrobust.engine.sharding import Placement
from jaxrobust.engine.training import State, TrainState, backbone_of, with_backbone
from jaxrobust.errors import UserError
from jaxrobust.methods import classifiers
from jaxrobust.models import storage
from jaxrobust.recipes.parse import ImageRecipe
from jaxrobust.tasks.teachers import digest

log = logging.getLogger("jaxrobust")


@dataclasses.dataclass(frozen=True, eq=False)
class StoredBackbone:
    """A trained backbone: variables on the host, without heads.

    `mean` and `std` are of the images that it was trained on, on the [0, 1] scale; () if not known.
    """

    folder: str
    arch: str
    variables: Mapping[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def sha256(self) -> str:
        """Hash of all of its arrays."""
        return digest(self.variables)

    def check(self, network: TrainState | Mapping[str, Any], name: str) -> None:
        """Refuses a network (state, variables or shapes) that this backbone does not fit."""
        wanted = backbone_of(network)
        if not wanted["params"]:
            raise UserError(
                f"model.name={name!r} consists of heads only and takes no backbone; clear "
                "--config.model.backbone=."
            )
        if difference := storage.first_difference(self.variables, wanted):
            raise UserError(
                f"{self.folder} holds the backbone of a {self.arch}, which does not fit "
                f"model.name={name!r}: {difference}; change --config.model.name= or "
                "--config.model.backbone=."
            )

    def put_into(self, network: State, placement: Placement) -> State:
        """The network with this backbone in place of its own."""
        return with_backbone(network, placement.put(dict(self.variables)))


def stored_backbone(recipe: ImageRecipe, dataset: Any) -> StoredBackbone | None:
    """What the networks of an image task start from, None if the recipe names nothing."""
    path = recipe.model.backbone
    if not path:
        return None
    backbone = _read(classifiers.resolve(path))
    log.info("Networks start from the backbone of a %s in %s", backbone.arch, path)
    theirs = (backbone.mean, backbone.std)
    if len(backbone.mean) == 3 and not np.allclose((dataset.mean, dataset.std), theirs, atol=0.01):
        log.warning(
            "The backbone in %s was trained on images normalised by mean %s and std %s, but "
            "those of %s are not: set --config.dataset.mean= and --config.dataset.std= to these "
            "values.",
            path,
            *theirs,
            dataset.name,
        )
    return backbone


def _read(folder: pathlib.Path) -> StoredBackbone:
    facts = storage.read_facts(folder)
    if not storage.is_of_run(facts):
        stored = storage.load_classifier(folder)
        return StoredBackbone(
            str(folder), stored.arch, backbone_of(stored.variables), stored.mean, stored.std
        )
    networks = storage.read_variables(folder, facts)
    variables = next(iter(networks.values()))  # DPC has two, which learned the same
    name = facts["config"]["model"]["name"]
    statistics = (tuple(facts[x]) for x in ("mean", "std"))
    return StoredBackbone(str(folder), name, backbone_of(variables), *statistics)
