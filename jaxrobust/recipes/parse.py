"""Parses flags or `config.json` into the recipe of a method, which a run receives."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import ml_collections

from jaxrobust.errors import UserError, unknown_name
from jaxrobust.recipes.dhkd import Distillation
from jaxrobust.recipes.fields import Options, from_config, sections_of, with_sections
from jaxrobust.recipes.l2d import MultilabelDistillation
from jaxrobust.recipes.methods import (
    DISTILLERS,
    MULTILABEL_DISTILLERS,
    NOISY_LABEL_METHODS,
    STRATEGIES,
    TASKS,
)
from jaxrobust.recipes.protocols import ActiveLearning, NoisyLabels
from jaxrobust.recipes.registry import Registry

DistillationRecipe = Distillation | MultilabelDistillation
ImageRecipe = ActiveLearning | NoisyLabels
Recipe = ImageRecipe | DistillationRecipe

# Kind of recipe -> what all of its methods have, and these methods.
_KINDS: dict[str, tuple[type[Recipe], Registry]] = {
    "active_learning": (ActiveLearning, STRATEGIES),
    "noisy_labels": (NoisyLabels, NOISY_LABEL_METHODS),
    "distillation": (Distillation, DISTILLERS),
    "multilabel_distillation": (MultilabelDistillation, MULTILABEL_DISTILLERS),
}


def parse(config: ml_collections.ConfigDict | Mapping[str, Any]) -> Recipe:
    """The recipe of a configuration, of the class that the registry has for its method.

    Sections of other methods of the task are allowed; they are checked but not read.

    Raises:
      UserError: for the first field that is invalid, or that nothing reads.
    """
    if not isinstance(config, ml_collections.ConfigDict):
        config = ml_collections.ConfigDict(config, convert_dict=True)
    if (task := config.get("task")) not in TASKS:
        raise UserError(unknown_name("task", task, TASKS))
    base, methods = _KINDS[_kind(config)]
    entries = {name: methods.entry(name).recipe for name in methods}
    cls = entries.get(config.get("method")) or base
    recipe = from_config(
        cls,
        config,
        others=[base, *(entry for entry in entries.values() if entry)],
        required=cls.__dataclass_fields__.keys() - base.__dataclass_fields__.keys(),
    )
    return dataclasses.replace(recipe, settings=plain(config))


def _kind(config: ml_collections.ConfigDict | Mapping[str, Any]) -> str:
    """Key of `_KINDS`: recipes for images with several labels have a section `labels`."""
    is_multilabel = config["task"] == "distillation" and "labels" in config
    return "multilabel_distillation" if is_multilabel else config["task"]


def unread_sections(config: Mapping[str, Any]) -> set[str]:
    """Sections of a configuration that its method does not read; none for a user's own method."""
    method = config["method"]
    base, methods = _KINDS[_kind(config)]
    if method not in methods:
        return set()
    own = sections_of(methods.entry(method).recipe or base)
    read = {name for name, cls in own.items() if not cls.methods or method in cls.methods}
    return {name for name, value in config.items() if isinstance(value, Mapping)} - read


def plain(config: ml_collections.ConfigDict) -> dict:
    """A configuration as JSON-able dicts and lists."""
    return json.loads(config.to_json())


def option_classes(task: str) -> list[type[Options]]:
    """The classes of all recipes and sections of a task."""
    kinds = [kind for name, kind in _KINDS.items() if name.endswith(task)]
    recipes = [base for base, _ in kinds]
    recipes += [
        registry.entry(name).recipe or base for base, registry in kinds for name in registry
    ]
    return list(dict.fromkeys(cls for recipe in recipes for cls in with_sections(recipe)))
