"""The outer loops, each shared by all methods of its task."""

import functools
import logging
import os
import pathlib
from typing import Any

import ml_collections

from jaxrobust.errors import as_attribute, for_python
from jaxrobust.recipes.methods import TASKS
from jaxrobust.recipes.parse import Recipe, parse

log = logging.getLogger("jaxrobust")


@for_python(as_attribute)
def run(
    config: ml_collections.ConfigDict, workdir: str | os.PathLike, *, dataset: Any = None
) -> dict:
    """Runs a recipe, from the start or from where an earlier attempt in `workdir` stopped.

    Args:
      config: the recipe that a file in `configs/` returns.
      workdir: folder for everything that the run writes.
      dataset: a `Dataset` or `FeatureDataset` in memory, instead of the one that the recipe names.

    Returns:
      The content of `results.json`.

    Raises:
      UserError: if the recipe, the data or the workdir cannot be used.
    """
    return run_recipe(parse(config), workdir, dataset=dataset)


def run_recipe(recipe: Recipe, workdir: str | os.PathLike, *, dataset: Any = None) -> dict:
    """`run` of a parsed recipe, whose errors name the flags of the command line."""
    # Imported late, so that a wrong recipe is answered before JAX has started.
    from jaxrobust.engine.environment import setup_jax
    from jaxrobust.tasks.devices import cpu_devices
    from jaxrobust.tasks.seeds import run_seeds

    # Whoever has the data in memory has chosen JAX's devices, too.
    split = cpu_devices(recipe, pathlib.Path(workdir)) if dataset is None else 0
    setup_jax(recipe, split)
    if split > 1:
        log.info(
            "A batch is split over %d devices of this CPU; --config.device_count=1 is slower, "
            "but gives the same bits for any number of cores.",
            split,
        )
    task = functools.partial(TASKS[recipe.task], dataset=dataset)
    if recipe.num_seeds > 1:
        return run_seeds(task, recipe, workdir)
    return task(recipe, workdir)
