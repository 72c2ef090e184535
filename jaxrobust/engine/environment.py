"""What a run's numbers depend on outside of its recipe: JAX's settings, versions, devices."""

import contextlib
import datetime
import functools
import json
import logging
import os
import pathlib
import platform
import subprocess
import sys
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.engine.files import user_cache, write_json
from jaxrobust.errors import UserError
from jaxrobust.recipes.run import BaseRecipe

log = logging.getLogger("jaxrobust")

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def num_cores() -> int:
    """CPU cores that this process may use."""
    # As os.process_cpu_count, which Python has from 3.13 on.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ask_for_determinism() -> None:
    """Tells XLA to sum in a fixed order and not to choose kernels by timing them.

    For the entry of a command: it sets `XLA_FLAGS` of this process, which XLA reads once, when JAX
    first looks for devices.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if DETERMINISTIC not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {DETERMINISTIC}".strip()


@functools.cache
def _first_process() -> int:
    return os.getpid()


def _refuse_fork() -> None:
    """Refuses a child of a process in which JAX has started: it would wait for threads for ever."""
    if _first_process() != os.getpid():
        raise UserError(
            "This process was forked from a process in which JAX had started, but does not have "
            "its threads; start it with multiprocessing.set_start_method('spawn'), or by "
            "joblib's loky."
        )


def setup_jax(recipe: BaseRecipe, cpu_devices: int = 0) -> None:
    """Chooses the platform and its devices, and turns the persistent compilation cache on.

    The cache lies in `$JAX_COMPILATION_CACHE_DIR`, by default in a folder for each version of
    Python in `~/.cache/jaxrobust/xla`. A CPU is split into `recipe.device_count` devices, or else
    into `cpu_devices`, if JAX has not started.

    Raises:
      UserError: if the process was forked after JAX had started, if `recipe.device` asks for an
        accelerator that JAX does not find, or `recipe.device_count` for more devices than there
        are.
    """
    _refuse_fork()
    if jax.config.values["jax_compilation_cache_dir"] is None:
        # From Python 3.14 on entries are compressed otherwise, and one cannot read the other's.
        if folder := user_cache("xla", str(sys.implementation.cache_tag)):
            jax.config.update("jax_compilation_cache_dir", str(folder))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if recipe.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    split = recipe.device_count or cpu_devices
    if split and recipe.device in ("auto", "cpu"):
        with contextlib.suppress(RuntimeError):  # JAX has started, with the settings it had then
            jax.config.update("jax_num_cpu_devices", split)
    if recipe.device in ("gpu", "tpu") and jax.default_backend() != recipe.device:
        raise UserError(
            f"device={recipe.device!r} was asked for, but JAX finds only "
            f"{jax.default_backend()!r}; install jaxrobust[cuda13] or jaxrobust[tpu] on a "
            "machine with such a device, or pass --config.device=auto."
        )
    if recipe.device_count:
        _check_device_count(recipe.device_count)
    if (
        recipe.deterministic
        and jax.default_backend() == "gpu"
        and DETERMINISTIC not in os.environ.get("XLA_FLAGS", "")
    ):
        log.warning(
            "deterministic=True has no effect on this GPU: set XLA_FLAGS=%s before JAX starts.",
            DETERMINISTIC,
        )


def _check_device_count(count: int) -> None:
    if jax.process_count() > 1:
        raise UserError(
            "Several processes use all of their devices: set --config.device_count=0, and "
            "choose the devices of each process by CUDA_VISIBLE_DEVICES or a similar variable."
        )
    if count > jax.device_count():
        raise UserError(
            f"device_count={count} was asked for, but JAX has {jax.device_count()} "
            f"{jax.default_backend()} device(s) here; lower --config.device_count=. (A CPU can be "
            "split only before JAX starts, in a new Python process.)"
        )


@functools.cache
def _git_commit() -> str | None:
    root = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


# What a run's numbers and files may depend on; those that are installed are recorded.
_PACKAGES = (
    "jaxrobust",
    *("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu"),
    *("flax", "optax", "chex", "orbax-checkpoint", "ml_collections", "absl-py"),
    *("numpy", "scipy", "scikit-learn", "ml_dtypes", "pillow", "matplotlib"),
    *("grain", "array_record", "tensorflow-datasets"),
    *("flatbuffers", "tensorboardX", "wandb", "tqdm"),
)
_VARIABLES = ("JAX_", "XLA_", "LIBTPU_", "TF_", "NVIDIA_TF32", "CUDA_VISIBLE", "OMP_NUM", "TFDS_")


@functools.cache
def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def environment(dtype: Any = None, device_count: int | None = None) -> dict:
    """Versions, settings, devices, commit and command of this process."""
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpu_count": os.cpu_count(),
        "devices": [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()],
        "device_count": device_count or jax.device_count(),
        "num_processes": jax.process_count(),
        "dtype": None if dtype is None else jnp.dtype(dtype).name,
        "x64": bool(jax.config.values["jax_enable_x64"]),
        "matmul_precision": jax.config.values["jax_default_matmul_precision"],
        "variables": {k: v for k, v in sorted(os.environ.items()) if k.startswith(_VARIABLES)},
        "versions": _versions(),
        "commit": _git_commit(),
    }


def append_environment(path: pathlib.Path, dtype: Any, device_count: int) -> None:
    """Adds an entry for this start, so that a run finished on another machine says so."""
    try:
        starts = json.loads(path.read_text())["starts"]
    except (OSError, ValueError, KeyError):
        starts = []
    before = starts[-1].get("device_count", device_count) if starts else device_count
    if before != device_count:
        log.warning(
            "This run began on %d device(s) and continues on %d: its results agree with those "
            "of one device count up to rounding, no longer bit for bit, and the statistics of "
            "batch_norm=per_device are computed on different parts of a batch.",
            before,
            device_count,
        )
    write_json(path, {"starts": [*starts, environment(dtype, device_count)]})
