"""Warnings about settings that are legal but probably unintended."""

import math
import pathlib
import tempfile

import jax
from tqdm import tqdm

from jaxrobust.engine.environment import num_cores
from jaxrobust.engine.sharding import Placement
from jaxrobust.recipes.run import BaseRecipe

_PATIENCE = 600.0  # seconds; a longer wait on a CPU is announced before the first step
_GFLOP_PER_SECOND = 10.0  # of a core while residual networks are trained, within a factor of two
_LONG_SECONDS = 3600.0  # longer runs and intervals are worth a warning


def likely_mistakes(recipe: BaseRecipe, placement: Placement) -> list[str]:
    """Settings that are legal but probably unintended, one sentence for each."""
    warnings = []
    num_devices = placement.num_devices
    if recipe.dtype == "bfloat16" and placement.mesh.devices.flat[0].platform == "cpu":
        warnings.append(
            "dtype=bfloat16 is slower on a CPU than float32; leave --config.dtype=auto there."
        )
    if recipe.batch_size % num_devices:
        warnings.append(
            f"batch_size={recipe.batch_size} does not divide evenly by {num_devices} devices, so "
            "some of them idle in every step; choose a multiple."
        )
    if recipe.checkpoint.every_seconds > _LONG_SECONDS:
        seconds = recipe.checkpoint.every_seconds
        interval = "hours" if math.isinf(seconds) else tqdm.format_interval(seconds)
        warnings.append(
            f"checkpoint.every_seconds={recipe.checkpoint.every_seconds:g}: a kill may cost "
            f"{interval} of work (SIGTERM and Ctrl-C save at once)."
        )
    return warnings


def expected_on_cpu(gflop: float, num_images: int, num_epochs: int, runs: int) -> list[str]:
    """How long training from pixels will take on this CPU, if longer than ten minutes.

    Args:
      gflop: of the network, for one image forward; a step takes three times as much.
      num_images: in an epoch.
      num_epochs: of each network that is trained.
      runs: such networks, one after the other.
    """
    if jax.default_backend() != "cpu":
        return []
    each = 3 * gflop * num_images * runs / (_GFLOP_PER_SECOND * num_cores())
    if num_epochs * each < _PATIENCE:
        return []
    fitting = max(int(_PATIENCE / each), 1)
    decays = ",".join(str(max(fitting * part // 8, 1)) for part in (5, 6, 7))
    hours = num_epochs * each / 3600
    long = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    twice = f", {runs} networks" if runs > 1 else ""
    return [
        f"on this CPU expect about {long}: {num_epochs} epochs of {num_images:,} images{twice}, "
        f"{gflop:.2f} GFLOP an image. What fits ten minutes: --config.num_epochs={fitting} "
        f"'--config.optimizer.decay_epochs=({decays})'; a cheaper student (--config.student.name=) "
        "or a GPU allow more."
    ]


def slow_run(workdir: pathlib.Path, num_epochs: float, seconds_each: float) -> list[str]:
    """What a user may want to change about a run that takes long, one sentence for each."""
    warnings = []
    if num_epochs * seconds_each < _LONG_SECONDS:
        return warnings
    if jax.default_backend() == "cpu":
        left, each = (tqdm.format_interval(s) for s in (num_epochs * seconds_each, seconds_each))
        cores = num_cores()
        split = (
            f"; --config.device_count={cores} gives every core a part of each batch, which helps "
            "where a part is large"
            if jax.device_count() == 1 < cores
            else ""
        )
        warnings.append(
            f"on this CPU the run takes about {left} more, {each} for an epoch. It is meant for a "
            "GPU or TPU; --config.num_epochs= and --config.dataset.max_train= make it shorter, and "
            f"a :digits variant takes a minute or two{split}."
        )
    if workdir.resolve().is_relative_to(pathlib.Path(tempfile.gettempdir()).resolve()):
        warnings.append(
            f"{workdir} is a temporary folder, which may be emptied before the run ends; choose "
            "another --workdir for a run of this length."
        )
    return warnings
