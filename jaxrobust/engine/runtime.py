"""A run in its workdir: lock, configuration, environment, metrics, checkpoints, signals."""

import contextlib
import datetime
import fcntl
import json
import logging
import math
import os
import pathlib
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import jax
import ml_collections
from tqdm import tqdm

from jaxrobust.engine import processes
from jaxrobust.engine.checkpoint import Checkpoints, abstract_like
from jaxrobust.engine.files import write_json
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.sharding import Placement, make_placement
from jaxrobust.engine.writers import JsonLines, Writer, optional_writers
from jaxrobust.errors import UserError

log = logging.getLogger("jaxrobust")

# Settings that change how a run is watched, not what it computes: a restart may alter them.
FREE_ON_RESTART = ("checkpoint", "device", "log_every_seconds", "writers")
_MAX_PENDING = 8


class Interrupted(Exception):
    """A signal asked the run to stop, and everything up to here is saved.

    Attributes:
      signum: the signal.
      where: how far the run got, in words.
    """

    def __init__(self, signum: int, where: str):
        super().__init__(where)
        self.signum = signum
        self.where = where


def plain(config: ml_collections.ConfigDict) -> dict:
    """The configuration as JSON-able dicts and lists."""
    return json.loads(config.to_json())


def setup_jax(config: ml_collections.ConfigDict) -> None:
    """Chooses the platform and turns the persistent compilation cache on.

    The cache lies in `$JAX_COMPILATION_CACHE_DIR`, by default `~/.cache/jaxrobust/xla`.

    Raises:
      UserError: if `config.device` asks for an accelerator that JAX does not find.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update(
            "jax_compilation_cache_dir", str(pathlib.Path.home() / ".cache" / "jaxrobust" / "xla")
        )
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if config.device not in ("auto", "cpu", "gpu", "tpu"):
        raise UserError(f"device={config.device!r} is unknown; choose auto, cpu, gpu or tpu.")
    if config.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    if config.device in ("gpu", "tpu") and jax.default_backend() != config.device:
        raise UserError(
            f"device={config.device!r} was asked for, but JAX finds only "
            f"{jax.default_backend()!r}; install jaxrobust[cuda13] or jaxrobust[tpu] on a machine "
            "that has one, or pass --config.device=auto."
        )


def _flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def check_same_config(config: dict, path: pathlib.Path) -> None:
    """Refuses to go on with `config` in a workdir whose `path`, its `config.json`, says otherwise.

    Raises:
      UserError: naming the first field that differs, or if the file cannot be read.
    """
    try:
        before = _flatten(json.loads(path.read_text()))
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); restore it, or choose another --workdir."
        ) from None
    now = _flatten(config)
    for name in sorted(before.keys() | now.keys()):
        if name.split(".")[0] in FREE_ON_RESTART:
            continue
        if before.get(name) != now.get(name):
            raise UserError(
                f"{path.parent} belongs to a run with {name}={before.get(name)!r}, but this "
                f"command says {name}={now.get(name)!r}; choose another --workdir, or repeat the "
                "first command to go on."
            )


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


def environment() -> dict:
    """Versions, devices, commit and command of this process."""
    names = ("jaxrobust", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpu_count": os.cpu_count(),
        "devices": [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()],
        "num_processes": jax.process_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "versions": versions,
        "commit": _git_commit(),
    }


class Run:
    """Everything of a run that is not mathematics.

    Made by `open_run`. A task reports each finished epoch to `epoch_done`, which writes metrics,
    shows progress, saves when it is time and stops when a signal came.

    Attributes:
      config: the recipe.
      workdir: where every file of the run lies.
      placement: devices.
      programs: the run's compiled programs.
    """

    def __init__(
        self, config: ml_collections.ConfigDict, workdir: pathlib.Path, programs: Programs
    ):
        self.config = config
        self.workdir = workdir
        self.placement: Placement = make_placement()
        self.programs = programs
        self._checkpoints = Checkpoints(workdir / "checkpoints", keep=config.checkpoint.keep)
        self._writers: list[Writer] = []
        self._jsonl: JsonLines | None = None
        self._pending: list[tuple[dict, dict, int]] = []
        self._signum: int | None = None
        self._seconds_before = 0.0
        self._started = time.monotonic()
        self._last_save = time.monotonic()
        self._last_line = -math.inf
        self._last_saved_step: int | None = None
        self._bar: tqdm | None = None

    # Starting and resuming

    def restore(self, like: Any) -> tuple[Any, dict] | None:
        """Latest saved (tree, record) of this workdir, or None for a new run.

        Opens the metric files, cut back to what the checkpoint vouches for.

        Args:
          like: pytree of device arrays with the shapes and shardings to restore to.
        """
        found = self._checkpoints.restore(abstract_like(like))
        record = found[1] if found else {"metrics_bytes": 0, "seconds": 0.0, "step": 0}
        self._seconds_before = record["seconds"]
        if processes.is_main():
            self._jsonl = JsonLines(
                self.workdir / "metrics.jsonl", keep_bytes=record["metrics_bytes"]
            )
            self._writers = [self._jsonl]
            self._writers += optional_writers(
                tuple(self.config.writers),
                self.workdir,
                first_step=record["step"],
                config=plain(self.config),
            )
        if found:
            self._last_saved_step = record["step"]
        return found

    @property
    def seconds(self) -> float:
        """Time spent on this run so far, earlier attempts that were saved included."""
        return self._seconds_before + time.monotonic() - self._started

    # Metrics

    def write(self, event: dict, values: dict, *, count: int = 1) -> None:
        """Records one event.

        Args:
          event: what it is: step, split, round, ...; `steps`, the first and the last that
            `values` are of.
          values: measurements by name; those still on the device are fetched later.
          count: number of steps that `values` are sums over.
        """
        event = {**event, "seconds": round(self.seconds, 3)}
        self._pending.append((event, values, count))
        if len(self._pending) > _MAX_PENDING:
            self._write_out(self._pending.pop(0))

    def flush(self) -> None:
        """Writes everything that is pending.

        Raises:
          UserError: if a loss is not finite.
        """
        while self._pending:
            self._write_out(self._pending.pop(0))
        for writer in self._writers:
            writer.flush()

    def _write_out(self, item: tuple[dict, dict, int]) -> None:
        event, values, count = item
        values = {name: float(value) / count for name, value in jax.device_get(values).items()}
        if not math.isfinite(values.get("loss", 0.0)):
            where = ", ".join(f"{k} {event[k]}" for k in ("round", "phase", "epoch") if k in event)
            if "steps" in event:
                where += ", steps {} to {}".format(*event["steps"])
            saved = self._last_saved_step
            raise UserError(
                f"The loss became {values['loss']} in {where} (step {event['step']}), and the last "
                f"good checkpoint is {'none yet' if saved is None else f'step {saved}'}; lower "
                "optimizer.learning_rate, or set --config.dtype=float32."
            )
        for writer in self._writers:
            writer.write({**event, **values})

    # Progress, checkpoints, signals

    def start_progress(self, total: int, done: int) -> None:
        """Shows a bar on a terminal, or a line every `log_every_seconds` elsewhere."""
        self._bar = tqdm(
            total=total,
            initial=done,
            unit="epoch",
            file=sys.stderr,
            dynamic_ncols=True,
            leave=False,
            disable=not (sys.stderr.isatty() and processes.is_main()),
        )
        self._progress = (total, done, time.monotonic())

    def epoch_done(self, step: int, tree: Any, record: dict, where: str) -> None:
        """Marks epoch `step` (counted over the whole run, from 1) as done.

        Args:
          step: number of finished epochs.
          tree: device arrays that a restart needs.
          record: JSON-able facts that a restart needs.
          where: how far the run is, in words.

        Raises:
          Interrupted: after saving, if a signal came.
        """
        self._show(step, where)
        signum = processes.largest(self._signum or 0)
        due = time.monotonic() - self._last_save >= self.config.checkpoint.every_seconds
        if processes.of_main(due) or signum:
            self.save(step, tree, record)
        if signum:
            raise Interrupted(signum, where)

    def write_timing(self) -> None:
        """`timing.json`: seconds spent, and how often each program was traced."""
        write_json(
            self.workdir / "timing.json",
            {"seconds": self.seconds, "traces": dict(self.programs.traces)},
        )

    def save(self, step: int, tree: Any, record: dict) -> None:
        """Saves now, in the background."""
        if step == self._last_saved_step:
            return
        self.flush()
        record = {
            **record,
            "step": step,
            "seconds": self.seconds,
            "metrics_bytes": self._jsonl.size if self._jsonl else 0,
        }
        self._checkpoints.save(step, tree, record)
        self._last_saved_step = step
        self._last_save = time.monotonic()

    def _show(self, step: int, where: str) -> None:
        total, first, since = self._progress
        self._bar.set_description(where, refresh=False)
        self._bar.update(step - self._bar.n)
        now = time.monotonic()
        if not self._bar.disable or now - self._last_line < self.config.log_every_seconds:
            return
        self._last_line = now
        rate = (step - first) / max(now - since, 1e-9)
        left = tqdm.format_interval((total - step) / rate) if rate > 0 else "?"
        log.info("%s | %d/%d epochs | %s left", where, step, total, left)

    def say(self, text: str) -> None:
        """Prints a line without tearing the progress bar."""
        tqdm.write(text, file=sys.stderr)

    def _on_signal(self, signum, frame):
        del frame
        if self._signum is not None:
            raise KeyboardInterrupt
        self._signum = signum
        self.say(
            f"{signal.Signals(signum).name}: saving after this epoch (once more: stop at once)."
        )

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        for writer in self._writers:
            writer.close()
        self._checkpoints.close()


@contextlib.contextmanager
def open_run(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike,
    programs: Programs | None = None,
) -> Iterator[Run]:
    """Takes a workdir for one process, checks that it belongs to `config`, and yields its `Run`.

    Writes `config.json` and `environment.json`. SIGTERM and SIGINT make the run save and stop.

    Args:
      config: the whole recipe.
      workdir: a new folder, or that of an earlier attempt at the same recipe.
      programs: those of a run of the same recipe with another seed.

    Raises:
      UserError: if the folder cannot be written, is in use by another process, or belongs to
        another recipe.
    """
    workdir = pathlib.Path(workdir)
    with contextlib.ExitStack() as stack:
        refusal = None
        if processes.is_main():
            try:
                _take(workdir, plain(config), stack)
            except UserError as error:
                refusal = error
        if processes.of_main(refusal is not None):
            raise refusal or UserError("The main process could not open the workdir.")
        run = Run(config, workdir, programs or Programs())
        handlers = {s: signal.signal(s, run._on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield run
        finally:
            for signum, handler in handlers.items():
                signal.signal(signum, handler)
            run._close()


def _take(workdir: pathlib.Path, settings: dict, stack: contextlib.ExitStack) -> None:
    """Locks the workdir until `stack` is closed, and writes what this attempt is."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = stack.enter_context(open(workdir / ".lock", "a+"))
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be written ({error.strerror}); choose another folder."
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        raise UserError(
            f"{workdir} is in use by {lock.read().strip() or 'another process'}; wait for it, "
            "or choose another --workdir."
        ) from None
    except OSError as error:  # some network file systems and mounted buckets
        log.warning("%s cannot be locked (%s): let no other run write there.", workdir, error)
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {platform.node()}")
    lock.flush()
    config_path = workdir / "config.json"
    if config_path.exists():
        check_same_config(settings, config_path)
    write_json(config_path, settings)
    _append_environment(workdir / "environment.json")


def _append_environment(path: pathlib.Path) -> None:
    """One entry per start, so that a run finished on another machine says so."""
    try:
        starts = json.loads(path.read_text())["starts"]
    except (OSError, ValueError, KeyError):
        starts = []
    write_json(path, {"starts": [*starts, environment()]})
