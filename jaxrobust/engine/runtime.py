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
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from tqdm import tqdm

from jaxrobust.engine import processes
from jaxrobust.engine.checkpoint import Checkpoints, abstract_like
from jaxrobust.engine.files import write_json
from jaxrobust.engine.programs import Programs, Within
from jaxrobust.engine.sharding import Placement, fetch, make_placement
from jaxrobust.engine.writers import JsonLines, Writer, optional_writers
from jaxrobust.errors import UserError

log = logging.getLogger("jaxrobust")

# Settings that change how a run is watched, not what it computes: a restart may alter them.
FREE_ON_RESTART = ("checkpoint", "device", "log_every_seconds", "num_workers", "writers")
_MAX_PENDING = 8
_LONG_SECONDS = 3600.0  # a run or an interval that a user may want to hear of
_SURE_SECONDS = 10.0  # of measuring, before a run is called long


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


DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def setup_jax(config: ml_collections.ConfigDict) -> None:
    """Chooses the platform, turns the persistent compilation cache on, and makes GPUs repeatable.

    The cache lies in `$JAX_COMPILATION_CACHE_DIR`, by default `~/.cache/jaxrobust/xla`. With
    `config.deterministic` XLA is told to sum in a fixed order and not to choose kernels by timing
    them, if JAX has not started yet.

    Raises:
      UserError: if `config.device` asks for an accelerator that JAX does not find.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update(
            "jax_compilation_cache_dir", str(pathlib.Path.home() / ".cache" / "jaxrobust" / "xla")
        )
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    xla_flags = os.environ.get("XLA_FLAGS", "")
    if config.deterministic and DETERMINISTIC not in xla_flags:
        os.environ["XLA_FLAGS"] = f"{xla_flags} {DETERMINISTIC}".strip()
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


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Fields of a nested configuration by their dotted names."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _read_object(path: pathlib.Path) -> dict:
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError("it holds no JSON object")
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); restore it, or choose another --workdir."
        ) from None
    return found


def check_same_config(config: dict, path: pathlib.Path) -> None:
    """Refuses to go on with `config` in a workdir whose `path`, its `config.json`, says otherwise.

    Raises:
      UserError: naming the first field that differs, or if the file cannot be read.
    """
    before, now = flatten(_read_object(path)), flatten(config)
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


def environment(dtype: Any = None) -> dict:
    """Versions, settings, devices, commit and command of this process.

    Args:
      dtype: of convolutions, if there are some.
    """
    versions = {}
    for name in _PACKAGES:
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
        "dtype": None if dtype is None else jnp.dtype(dtype).name,
        "x64": bool(jax.config.jax_enable_x64),
        "matmul_precision": jax.config.jax_default_matmul_precision,
        "variables": {k: v for k, v in sorted(os.environ.items()) if k.startswith(_VARIABLES)},
        "versions": versions,
        "commit": _git_commit(),
    }


class _Stop:
    """Notes the signals that ask this process to stop.

    Attributes:
      signum: the signal that came, None before.
    """

    def __init__(self):
        self.signum: int | None = None

    def _on_signal(self, signum, frame):
        del frame
        if self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum
        name = signal.Signals(signum).name
        tqdm.write(
            f"{name}: saving as soon as possible (once more: stop at once).", file=sys.stderr
        )


_stop: _Stop | None = None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[_Stop]:
    """Notes SIGTERM and SIGINT, for all runs in it to stop at; within another one, that one's."""
    global _stop
    if _stop is not None:
        yield _stop
        return
    _stop = _Stop()
    handlers = {s: signal.signal(s, _stop._on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield _stop
    finally:
        _stop = None
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def likely_mistakes(config: ml_collections.ConfigDict, placement: Placement) -> list[str]:
    """What a recipe may say, and seldom means to."""
    doubts = []
    num_devices = placement.num_devices
    if config.dtype == "bfloat16" and placement.mesh.devices.flat[0].platform == "cpu":
        doubts.append(
            "dtype=bfloat16 is slower on a CPU than float32; leave --config.dtype=auto there."
        )
    if config.batch_size % num_devices:
        doubts.append(
            f"batch_size={config.batch_size} does not divide evenly by {num_devices} devices, so "
            "some of them idle in every step; choose a multiple."
        )
    if config.checkpoint.every_seconds > _LONG_SECONDS:
        interval = tqdm.format_interval(config.checkpoint.every_seconds)
        doubts.append(
            f"checkpoint.every_seconds={config.checkpoint.every_seconds:g}: a kill may cost "
            f"{interval} of work (SIGTERM and Ctrl-C save at once)."
        )
    return doubts


def slow_run(workdir: pathlib.Path, num_epochs: float, seconds_each: float) -> list[str]:
    """What a user may want to change about a run that takes long.

    Args:
      workdir: of the run.
      num_epochs: that are left.
      seconds_each: of an epoch, as measured.
    """
    doubts = []
    if num_epochs * seconds_each < _LONG_SECONDS:
        return doubts
    if jax.default_backend() == "cpu":
        left, each = (tqdm.format_interval(s) for s in (num_epochs * seconds_each, seconds_each))
        doubts.append(
            f"on this CPU the run takes about {left} more, {each} for an epoch. It is meant for a "
            "GPU or TPU; --config.num_epochs= and --config.dataset.max_train= make it shorter, and "
            "a :digits variant takes a minute or two."
        )
    if workdir.resolve().is_relative_to(pathlib.Path(tempfile.gettempdir()).resolve()):
        doubts.append(
            f"{workdir} is a temporary folder, which may be emptied before the run ends; choose "
            "another --workdir for a run of this length."
        )
    return doubts


class Run:
    """Everything of a run that is not mathematics.

    Made by `open_run`. A task runs each epoch `within_epoch` and reports it to `epoch_done`: both
    save when it is time and stop when a signal came.

    Attributes:
      config: the recipe.
      workdir: where every file of the run lies.
      placement: devices.
      programs: the run's compiled programs.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: pathlib.Path,
        programs: Programs,
        stop: _Stop,
    ):
        self.config = config
        self.workdir = workdir
        self.placement: Placement = programs.placement or make_placement()
        self.programs = programs
        self._checkpoints: Checkpoints | None = None
        self._writers: list[Writer] = []
        self._jsonl: JsonLines | None = None
        self._pending: list[tuple[dict, dict, int]] = []
        self._stop = stop
        self._seconds_before = 0.0
        self._started = time.monotonic()
        self._last_save = time.monotonic()
        self._last_line = -math.inf
        self._last_saved: tuple[int, int] | None = None  # finished epochs, and steps of the next
        self._num_saved = 0
        self._within: dict | None = None
        self._is_paced = False
        self._bar: tqdm | None = None

    # Starting and resuming

    def begin(self, name: str, facts: dict, *, dtype: Any) -> None:
        """Writes the first files; before, a run that is refused leaves the workdir as it was.

        Args:
          name: of a file about what the run sees.
          facts: what is in it, JSON-able; the same in every attempt.
          dtype: of convolutions.

        Raises:
          UserError: if an earlier attempt saw something else.
        """
        path = self.workdir / name
        if path.exists() and _read_object(path) != facts:
            raise UserError(
                f"The data, labels or teacher are not what {self.workdir} was started with "
                f"({path}); restore them, or choose another --workdir."
            )
        if processes.is_main():
            write_json(self.workdir / "config.json", plain(self.config))
            _append_environment(self.workdir / "environment.json", dtype)
        write_json(path, facts)
        self._checkpoints = Checkpoints(
            self.workdir / "checkpoints", keep=self.config.checkpoint.keep
        )

    @property
    def has_begun(self) -> bool:
        """Whether anything was written."""
        return self._checkpoints is not None

    def restore(self, like: Any) -> tuple[Any, dict] | None:
        """Latest saved (tree, record) of this workdir, or None for a new run.

        Opens the metric files, cut back to what the checkpoint vouches for.

        Args:
          like: pytree of device arrays with the shapes and shardings to restore to.
        """
        found = self._checkpoints.restore(abstract_like(like))
        record = found[1] if found else {"metrics_bytes": 0, "seconds": 0.0, "step": 0}
        self._seconds_before = record["seconds"]
        self._num_saved = record.get("number", 0)
        self._within = record.get("within")
        if processes.is_main():
            self._jsonl = JsonLines(
                self.workdir / "metrics.jsonl", keep_bytes=record["metrics_bytes"]
            )
            self._writers = [self._jsonl]
            self._writers += optional_writers(
                tuple(self.config.writers),
                self.workdir,
                # What the checkpoint vouches for stays: of an epoch under way, what it has written.
                first_step=record["step"] + (2 if self._within else 1) if found else 0,
                config=plain(self.config),
            )
        if found:
            row = self._within["row"] if self._within else 0
            self._last_saved = record["step"], row
        return found

    @property
    def is_resumed(self) -> bool:
        """Whether a checkpoint was found."""
        return self._num_saved > 0

    @property
    def is_within_epoch(self) -> bool:
        """Whether the state is that of a checkpoint between two steps of the epoch to go on in."""
        return self._within is not None

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
        where = ", ".join(f"{k} {event[k]}" for k in ("round", "phase", "epoch") if k in event)
        if "steps" in event:
            where += ", steps {} to {}".format(*event["steps"])
        self._refuse_a_loss_not_finite(values, f"{where} (step {event['step']})")
        for writer in self._writers:
            writer.write({**event, **values})

    def _refuse_a_loss_not_finite(self, values: dict[str, float], where: str) -> None:
        if math.isfinite(values.get("loss", 0.0)):
            return
        saved = "none yet"
        if self._last_saved is not None:
            step, row = self._last_saved
            saved = f"step {step}" + (f" and {row} steps of the next epoch" if row else "")
        raise UserError(
            f"The loss became {values['loss']} in {where}, and the last good checkpoint is "
            f"{saved}; lower optimizer.learning_rate, or set --config.dtype=float32."
        )

    # Progress, checkpoints, signals

    def start_progress(self, total: int, done: int) -> None:
        """Shows a bar on a terminal, or a line every `log_every_seconds` elsewhere."""
        for doubt in likely_mistakes(self.config, self.placement):
            log.warning("warning: %s", doubt)
        self._bar = tqdm(
            total=total,
            initial=done,
            bar_format="{desc}: {percentage:3.0f} %|{bar}| {elapsed}, {remaining} left",
            file=sys.stderr,
            dynamic_ncols=True,
            leave=False,
            disable=not (sys.stderr.isatty() and processes.is_main() and _is_only_run()),
        )
        self._total = total
        self._paced: tuple[float, float] | None = None  # place and time that a rate is taken from

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
        self._stop_or_go_on(where, lambda: self.save(step, tree, record))

    def within_epoch(
        self,
        step: int,
        where: str,
        keep: Callable[[Any], tuple[Any, dict]],
        *,
        num_steps: int,
        part: tuple[int, int] = (0, 1),
    ) -> Within:
        """How the epoch program that is called next is taken up and may be left.

        Args:
          step: number of finished epochs.
          where: how far the run is, in words.
          keep: the program's state between two steps -> `tree` and `record` as in `epoch_done`.
          num_steps: of the program.
          part: which one it is, from 0, of how many programs that make up the epoch.

        Returns:
          `within` of the program. It raises `Interrupted` after saving, if a signal came, and
          `UserError` if what is to be saved has a loss that is not finite.
        """
        resumed, self._within = self._within or {"row": 0, "sums": {}}, None

        def pause(row, state, sums):
            here = f"{where}, step {row}"
            self._show(step + (part[0] + row / num_steps) / part[1], here)

            def save():
                within = {"row": row, "sums": {k: float(v) for k, v in fetch(sums).items()}}
                self._refuse_a_loss_not_finite(within["sums"], here)
                self.save(step, *keep(state), within)

            self._stop_or_go_on(here, save)

        return Within(resumed["row"], resumed["sums"], pause)

    def _stop_or_go_on(self, where: str, save: Callable[[], None]) -> None:
        """Saves if it is time or a signal came, and then stops in the latter case."""
        signum = processes.largest(self._stop.signum or 0)
        due = time.monotonic() - self._last_save >= self.config.checkpoint.every_seconds
        if processes.of_main(due) or signum:
            save()
        if signum:
            raise Interrupted(signum, where)

    def write_timing(self) -> None:
        """`timing.json`: seconds spent, and how often each program was traced."""
        write_json(
            self.workdir / "timing.json",
            {"seconds": self.seconds, "traces": dict(self.programs.traces)},
        )

    def save(self, step: int, tree: Any, record: dict, within: dict | None = None) -> None:
        """Saves now, in the background.

        Args:
          step: number of finished epochs.
          tree: device arrays that a restart needs.
          record: JSON-able facts that a restart needs.
          within: `row` and `sums` of the epoch that is under way.
        """
        place = step, within["row"] if within else 0
        if within is None and place == self._last_saved:
            return
        self.flush()
        self._num_saved += 1
        record = {
            **record,
            "number": self._num_saved,
            "step": step,
            "within": within,
            "seconds": self.seconds,
            "metrics_bytes": self._jsonl.size if self._jsonl else 0,
        }
        self._checkpoints.save(self._num_saved, tree, record)
        self._last_saved = place
        self._last_save = time.monotonic()

    def _show(self, step: float, where: str) -> None:
        now = time.monotonic()
        # The time to the first report went into compiling, and says nothing about what is left.
        first, since = self._paced = self._paced or (step, now)
        each = (now - since) / (step - first) if step > first else None
        if each is not None and now - since >= _SURE_SECONDS and not self._is_paced:
            self._is_paced = True
            for doubt in slow_run(self.workdir, self._total - step, each):
                log.warning("warning: %s", doubt)
        self._bar.set_description(where, refresh=False)
        self._bar.update(step - self._bar.n)
        if not self._bar.disable or now - self._last_line < self.config.log_every_seconds:
            return
        self._last_line = now
        left = ""
        if each is not None:
            left = f" | {tqdm.format_interval((self._total - step) * each)} left"
        log.info("%s | %.0f %% of the run%s", where, 100 * step / self._total, left)

    def say(self, text: str) -> None:
        """Prints a line without tearing the progress bar."""
        tqdm.write(text, file=sys.stderr)

    def _close(self, *, finish_saving: bool) -> None:
        if self._bar is not None:
            self._bar.close()
        for writer in self._writers:
            writer.close()
        if self._checkpoints is not None and finish_saving:
            self._checkpoints.close()


def _is_only_run() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def open_run(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike,
    programs: Programs | None = None,
) -> Iterator[Run]:
    """Takes a workdir for one process, checks that it belongs to `config`, and yields its `Run`.

    Nothing but a lock is written until the run begins. SIGTERM and SIGINT make it save and stop.

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
        missing = [path for path in (workdir, *workdir.parents) if not path.exists()]
        if processes.is_main():
            try:
                _take(workdir, plain(config), stack)
            except UserError as error:
                refusal = error
        if processes.of_main(refusal is not None):
            raise refusal or UserError("The main process could not open the workdir.")
        stop = stack.enter_context(stop_on_signals())
        run = Run(config, workdir, programs or Programs(), stop)
        finish_saving = True
        try:
            yield run
        except Exception as error:
            # Another process may be gone, and the checkpoint under way would wait for it in vain.
            expected = isinstance(error, UserError | Interrupted)
            finish_saving = expected or jax.process_count() == 1
            raise
        finally:
            run._close(finish_saving=finish_saving)
            if not run.has_begun and processes.is_main():
                _give_back(missing)


def _take(workdir: pathlib.Path, settings: dict, stack: contextlib.ExitStack) -> None:
    """Locks the workdir until `stack` is closed."""
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


def _give_back(folders: list[pathlib.Path]) -> None:
    """Removes the folders that a workdir was made with, the innermost first."""
    if folders:
        (folders[0] / ".lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # no longer empty
        for folder in folders:
            folder.rmdir()


def _append_environment(path: pathlib.Path, dtype: Any) -> None:
    """One entry per start, so that a run finished on another machine says so."""
    try:
        starts = json.loads(path.read_text())["starts"]
    except (OSError, ValueError, KeyError):
        starts = []
    write_json(path, {"starts": [*starts, environment(dtype)]})
