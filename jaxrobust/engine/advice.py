"""Warnings about settings that are legal but probably unintended."""

import math
import pathlib
import tempfile
from collections.abc import Mapping

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
            "dtype=bfloat16 is slower than float32 on a CPU; leave --config.dtype=auto."
        )
    if recipe.batch_size % num_devices:
        warnings.append(
            f"batch_size={recipe.batch_size} is not divisible by the number of devices, "
            f"{num_devices}, so some of them idle in every step; choose a multiple."
        )
    if recipe.checkpoint.every_seconds > _LONG_SECONDS:
        seconds = recipe.checkpoint.every_seconds
        interval = "hours" if math.isinf(seconds) else tqdm.format_interval(seconds)
        warnings.append(
            f"checkpoint.every_seconds={recipe.checkpoint.every_seconds:g}: a kill may lose "
            f"{interval} of work (SIGTERM and Ctrl-C save at once)."
        )
    return warnings


def expected_on_cpu(
    trained: Mapping[str, tuple[float, int, int]], *, teacher: str = ""
) -> list[str]:
    """How long training from pixels will take on this CPU, if longer than ten minutes.

    `trained` maps `teacher` or `student` to GFLOP of one image forward (a step takes three times as
    much), images in an epoch, and epochs; `teacher` is an option in place of a trained one.
    """
    if jax.default_backend() != "cpu":
        return []
    speed = _GFLOP_PER_SECOND * num_cores()
    epoch = {name: 3 * gflop * images / speed for name, (gflop, images, _) in trained.items()}
    seconds = sum(epoch[name] * epochs for name, (_, _, epochs) in trained.items())
    if seconds < _PATIENCE:
        return []
    left = sum(time for name, time in epoch.items() if name != "teacher" or not teacher)
    fitting = max(int(_PATIENCE / left), 1)
    decays = ",".join(str(max(fitting * part // 8, 1)) for part in (5, 6, 7))
    long = f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.0f} minutes"
    networks = "; ".join(
        f"{name}: {epochs} epochs of {images:,} images, {gflop:.2f} GFLOP an image"
        for name, (gflop, images, epochs) in trained.items()
    )
    of_teacher = f"{teacher or f'--config.teacher.num_epochs={fitting}'} "
    return [
        f"on this CPU expect about {long} ({networks}). What fits ten minutes: "
        f"{of_teacher if 'teacher' in trained else ''}"
        f"--config.num_epochs={fitting} '--config.optimizer.decay_epochs=({decays})'; a cheaper "
        "student (--config.student.name=) or a GPU allow more."
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
            "if the parts are large"
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
