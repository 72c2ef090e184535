"""Number of virtual CPU devices of a run, which has to be known before JAX starts."""

import contextlib
import json
import os
import pathlib

import jax
import jax.numpy as jnp

from jaxrobust.data.sources import SOURCES
from jaxrobust.engine.environment import num_cores
from jaxrobust.models import BACKBONES, FEATURE_NETWORKS, NETWORKS, make_network
from jaxrobust.models.costs import operations
from jaxrobust.recipes.parse import DistillationRecipe, Recipe

GFLOP_OF_A_PART = 25.0
"""A training step is split only as far as every device has this much of it. Steps whose halves had
about 30 became faster (docs/scaling.md); with much less the devices wait longer for each other than
they compute."""

MOST = 8
"""Devices at most: images and networks are kept once for each."""

_FEWEST_PIXELS = 8192  # of a step: with fewer no network is large enough, and none is traced


def cpu_devices(recipe: Recipe, workdir: pathlib.Path) -> int:
    """The number of devices for a run that does not say `device_count`.

    A resumed run keeps the number of its last start, so that its results repeat bit for bit.
    A new one gets the largest divisor of its batch, up to the number of cores, of which each part
    is large enough. There is one device where it would change more than the speed
    (`batch_norm=per_device`), and for several seeds, which would take a device each.

    Returns:
      The number; 0 where the choice is somebody else's: of the recipe, of JAX's own settings, of
      other processes.
    """
    if recipe.device_count or recipe.device not in ("auto", "cpu") or _jax_is_told():
        return 0
    if before := _last_start(workdir):
        return before
    most = min(num_cores(), MOST)
    if most == 1 or recipe.num_seeds > 1 or recipe.batch_norm == "per_device":
        return 1
    most = min(most, int(gflop_of_step(recipe) / GFLOP_OF_A_PART))
    return max((n for n in range(1, most + 1) if recipe.batch_size % n == 0), default=1)


def _jax_is_told() -> bool:
    """Whether the number of its CPU devices is set already, or left to several processes."""
    return (
        jax.config.values["jax_num_cpu_devices"] > 0
        or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
        or jax.distributed.is_initialized()
    )


def _last_start(workdir: pathlib.Path) -> int:
    """Devices of a CPU that a run had when it last started; 0 where there is none."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        last = json.loads((workdir / "environment.json").read_text())["starts"][-1]
        if last["devices"][0].startswith("cpu"):
            return last["device_count"]
    return 0


def gflop_of_step(recipe: Recipe) -> float:
    """1e9 additions and multiplications of a plain training step: forward, and twice that back.

    They are those of the network that is trained, which with a teacher is the student; 0 for images
    of unknown size, for few of them, and for features.
    """
    source = SOURCES.get(recipe.dataset.name)
    side = recipe.dataset.image_size or (source.side if source else 0)
    if side * side * recipe.batch_size < _FEWEST_PIXELS:
        return 0.0
    if isinstance(recipe, DistillationRecipe):
        if recipe.student.name not in BACKBONES:
            return 0.0
        module = BACKBONES[recipe.student.name](dtype=jnp.float32)
    else:
        if recipe.model.name not in NETWORKS or recipe.model.name in FEATURE_NETWORKS:
            return 0.0
        options = {"num_classes": 2, "num_heads": 1, "dtype": jnp.float32}
        module = make_network(recipe.model.name, **options)
    # Traced without a device, so that JAX does not start.
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.ShapeDtypeStruct((2,), jnp.uint32), images)
    return 3 * recipe.batch_size * operations(module.apply, variables, images) / 1e9
