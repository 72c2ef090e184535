"""The outer loops, each written once for every method."""

import os

import ml_collections

from jaxrobust.engine.runtime import setup_jax
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.ranges import check_ranges
from jaxrobust.tasks import active_learning, distillation, noisy_labels
from jaxrobust.tasks.seeds import run_seeds

TASKS = {
    "active_learning": active_learning.run,
    "distillation": distillation.run,
    "noisy_labels": noisy_labels.run,
}


def run(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> dict:
    """Runs a recipe from start to end, or from where an earlier attempt in `workdir` stopped.

    Args:
      config: what a file in `configs/` returns.
      workdir: folder for everything that the run writes.

    Returns:
      What `results.json` holds.

    Raises:
      UserError: if the recipe, the data or the workdir is not usable.
    """
    if (task := config.get("task")) not in TASKS:
        raise UserError(unknown_name("task", task, TASKS))
    check_ranges(config)
    setup_jax(config)
    if config.num_seeds > 1:
        return run_seeds(TASKS[config.task], config, workdir)
    return TASKS[config.task](config, workdir)
