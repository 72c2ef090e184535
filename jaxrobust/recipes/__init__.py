"""Recipes: options with the numbers of a paper's experiments, one file per paper.

`jaxrobust.recipes.NAME.get_config(variant)` is what `--config=NAME:variant` runs. A file of your
own needs no more than such a function. The papers' lab notes are in the repository's `configs/`.
"""

import os
import pathlib
from collections.abc import Iterable

from jaxrobust.errors import UserError, unknown_name

_FOLDER = pathlib.Path(__file__).parent


def names() -> list[str]:
    """Of the recipes that are installed with jaxrobust."""
    return sorted(file.stem for file in _FOLDER.glob("[a-z]*.py"))


def locate(recipe: str) -> str:
    """Path of a recipe that is named on the command line, its `:VARIANT` kept.

    `configs/dcfs.py` and `dcfs` both mean the recipe of that name in this folder or, from anywhere
    else, the one that is installed with jaxrobust. What is none of these is returned as it is.
    """
    path, colon, argument = recipe.partition(":")
    if path and not os.path.exists(path):
        name = pathlib.Path(path).with_suffix("").name
        if path in (name, f"{name}.py", f"configs/{name}.py") and name in names():
            return f"{_FOLDER / name}.py{colon}{argument}"
    return recipe


def no_recipe(path: str) -> str:
    """What to say of a path at which `locate` found nothing."""
    return f"--config={path} does not exist; give a file or one of {', '.join(names())}."


def choose(variant: str | None, default: str, variants: Iterable[str]) -> str:
    """The variant that `--config=FILE:VARIANT` names.

    Raises:
      UserError: if there is no such variant.
    """
    if (name := variant or default) not in variants:
        raise UserError(unknown_name("config variant", name, variants))
    return name
