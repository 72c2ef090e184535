"""A run: its state, saved and restored, also at a signal; its metrics and results."""

import contextlib
import dataclasses
import logging
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxrobust.engine import processes, sharding
from jaxrobust.engine.advice import likely_mistakes
from jaxrobust.engine.checkpoint import Checkpoints, abstract_like
from jaxrobust.engine.environment import append_environment
from jaxrobust.engine.files import write_json
from jaxrobust.engine.loops import Resume
from jaxrobust.engine.optim import numbers_of
from jaxrobust.engine.plan import Plan
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.progress import Progress
from jaxrobust.engine.sharding import Placement, fetch
from jaxrobust.engine.signals import Interrupted, Stop, stop_on_signals
from jaxrobust.engine.training import TrainState
from jaxrobust.engine.workdir import lock, read_object, remove_empty
from jaxrobust.engine.writers import JsonLines, Writer, optional_writers
from jaxrobust.errors import UserError
from jaxrobust.recipes.run import BaseRecipe

log = logging.getLogger("jaxrobust")

LAYOUT = 2
"""Number of the layout of checkpoints; one of another layout is refused."""

_MAX_PENDING = 8


@dataclasses.dataclass
class Saved:
    """All that a run is at a moment, and therefore all that a checkpoint holds."""

    # training states by name
    networks: dict[str, TrainState] = dataclasses.field(default_factory=dict)
    # other arrays that a task needs to resume, in dictionaries
    arrays: dict[str, Any] = dataclasses.field(default_factory=dict)
    record: dict[str, Any] = dataclasses.field(default_factory=dict)  # JSON-able results so far
    # the pass over data that comes next, or is under way: `(round, phase, epoch)`, `(epoch, pass)`,
    # or what else the task counts by
    at: tuple[int, ...] = ()
    row: int = 0  # number of steps of that pass that are done
    # of the metrics over these steps
    sums: dict[str, float] = dataclasses.field(default_factory=dict)

    def move(self, *at: int) -> None:
        """Makes `at` the pass that comes next."""
        self.at, self.row, self.sums = at, 0, {}


class Run:
    """The checkpoints, metrics, files and signals of a run.

    Made by `open_run`. A task calls `begin`, `restore`, and `start_progress`; in its loop `train`
    for every pass over data and `epoch_done` for every epoch, both of which save when it is time
    and stop when a signal came; at the end `save` and `finish`.
    """

    def __init__(
        self,
        recipe: BaseRecipe,
        workdir: pathlib.Path,
        programs: Programs,
        stop: Stop,
        bar: bool | None = None,
    ):
        self.recipe = recipe
        self.workdir = workdir
        self.placement: Placement = programs.placement or sharding.make_placement(
            count=recipe.device_count
        )
        self.programs = programs
        self.is_resumed = False
        self._bar = bar
        self._stop = stop
        self._checkpoints: Checkpoints | None = None
        self._writers: list[Writer] = []
        self._jsonl: JsonLines | None = None
        self._pending: list[tuple[dict, dict, int]] = []
        # Networks are initialised, and programs compiled, before the number of epochs is known.
        self._progress = self._new_progress(1, 0) if bar else None
        self._seconds_before = 0.0
        self._started = time.monotonic()
        self._last_save = time.monotonic()
        self._last_saved: tuple[Any, int] | None = None  # a position, and steps from there

    # Starting and resuming

    def begin(self, name: str, facts: dict, *, dtype: Any) -> None:
        """Writes the first files; before, a run that is refused leaves the workdir as it was."""
        path = self.workdir / name
        if path.exists() and read_object(path) != facts:
            raise UserError(
                f"The data, labels or teacher differ from those that {self.workdir} was started "
                f"with ({path}); restore them, or choose another --workdir."
            )
        if processes.is_main():
            write_json(self.workdir / "config.json", dict(self.recipe.settings))
            append_environment(self.workdir / "environment.json", dtype, self.placement.num_devices)
        write_json(path, facts)
        self._checkpoints = Checkpoints(
            self.workdir / "checkpoints", keep=self.recipe.checkpoint.keep
        )

    @property
    def has_begun(self) -> bool:
        """Whether anything was written."""
        return self._checkpoints is not None

    def position(self) -> tuple[int, ...] | None:
        """`Saved.at` of the latest checkpoint, None where there is none; raises as `restore`."""
        assert self._checkpoints is not None  # since `begin` was called
        record = self._checkpoints.newest_record(layout=LAYOUT)
        return None if record is None else tuple(record["at"])

    def restore(self, saved: Saved, epochs_before: Callable[[tuple[int, ...]], int]) -> None:
        """Puts the latest checkpoint of this workdir, if there is one, into `saved`.

        Opens the metric files, cut back to their length at the checkpoint. `epochs_before(at)` is
        the number of finished epochs, by which metrics and progress are counted.
        """
        self._epochs_before = epochs_before
        assert self._checkpoints is not None  # since `begin` was called
        found = self._checkpoints.restore(abstract_like(self._arrays(saved)), layout=LAYOUT)
        if found is None:
            return self._open_writers({"metrics_bytes": 0, "seconds": 0.0}, first_step=0)
        arrays, file = found
        self.is_resumed = True
        saved.networks, saved.arrays = arrays["networks"], arrays["arrays"]
        saved.record, saved.at = file["record"], tuple(file["at"])
        saved.row, saved.sums = file["row"], file["sums"]
        self._last_saved = saved.at, saved.row
        # Events up to the checkpoint stay, those of an unfinished epoch included.
        step = epochs_before(saved.at) + (2 if saved.row else 1)
        return self._open_writers(file, first_step=step)

    def _open_writers(self, file: dict, *, first_step: int) -> None:
        self._seconds_before = file["seconds"]
        if not processes.is_main():
            return
        self._jsonl = JsonLines(self.workdir / "metrics.jsonl", keep_bytes=file["metrics_bytes"])
        self._writers = [self._jsonl]
        self._writers += optional_writers(
            tuple(self.recipe.writers),
            self.workdir,
            first_step=first_step,
            config=dict(self.recipe.settings),
        )

    def start_progress(self, saved: Saved, *, total: int) -> None:
        """Shows a bar, or a line every `log_every_seconds`; see `open_run`."""
        for warning in likely_mistakes(self.recipe, self.placement):
            log.warning("warning: %s", warning)
        if self._progress is not None:
            self._progress.close()
        self._progress = self._new_progress(total, self._epochs_before(saved.at))

    def _new_progress(self, total: int, done: int) -> Progress:
        return Progress(
            total,
            done,
            every_seconds=self.recipe.log_every_seconds,
            workdir=self.workdir,
            num_compiled=self.programs.traces.total,
            bar=self._bar,
        )

    @property
    def seconds(self) -> float:
        """Time spent on this run so far, earlier attempts that were saved included."""
        return self._seconds_before + time.monotonic() - self._started

    # Training

    def train(
        self,
        saved: Saved,
        network: str,
        program: Callable,
        plan: Plan,
        key: jax.Array,
        *data: Any,
        scalars: Mapping[str, float | np.ndarray],
        at: tuple[int, ...],
        event: dict,
        where: str,
        part: tuple[int, int] = (0, 1),
        notes: Mapping[str, float] | None = None,
    ) -> None:
        """Trains `saved.networks[network]` by a pass, or what is left of it, and logs the sums.

        Between two steps it saves when it is time, and stops (`Interrupted`) when a signal came.

        Args:
          program: of `epoch_program`; its last operand is `scalars`, numbers that the step receives
            traced.
          at: this pass, as in `Saved`.
          event: what it is, for the metrics: phase, epoch, ...; `where`: the same in words.
          part: which one it is, from 0, of how many passes of an epoch.
          notes: further numbers for the metrics.
        """
        if saved.at != at:
            saved.move(*at)
        step = self._epochs_before(at)

        def on_pause(row, state, sums):
            here = f"{where}, step {row}"
            self._show(step + (part[0] + row / plan.num_steps) / part[1], here)

            def save():
                values = {name: float(value) for name, value in fetch(sums).items()}
                self._refuse_a_loss_not_finite(values, here)
                saved.networks[network], saved.row, saved.sums = state, row, values
                self.save(saved)

            self._save_or_stop(here, save)

        numbers = numbers_of(getattr(self.recipe, "optimizer", None))
        saved.networks[network], sums = program(
            saved.networks[network],
            plan,
            key,
            *data,
            {name: np.float32(value) for name, value in {**numbers, **scalars}.items()},
            resume=Resume(saved.row, saved.sums, on_pause),
        )
        saved.row, saved.sums = 0, {}
        notes = {name: value * plan.num_steps for name, value in (notes or {}).items()}
        event = {"step": step + 1, "split": "train", **event}
        self.write(event, {**sums, **notes}, count=plan.num_steps)

    def epoch_done(self, saved: Saved, *, at: tuple[int, ...], where: str) -> None:
        """Moves on to the pass `at`: saves when it is time; `Interrupted` if a signal came."""
        saved.move(*at)
        self._show(self._epochs_before(at), where)
        self._save_or_stop(where, lambda: self.save(saved))

    def _show(self, epochs: float, where: str) -> None:
        if self._progress is not None:
            self._progress.show(epochs, where)

    def _save_or_stop(self, where: str, save: Callable[[], None]) -> None:
        """Saves if it is time or a signal came, and stops in the latter case."""
        signum = processes.all_max(self._stop.signum or 0)
        due = time.monotonic() - self._last_save >= self.recipe.checkpoint.every_seconds
        if processes.broadcast_from_main(due) or signum:
            save()
        if signum:
            raise Interrupted(signum, where)

    def save(self, saved: Saved) -> None:
        """Saves now, in the background, unless this very position is saved already.

        Raises:
          UserError: if a loss is not finite.
        """
        self.flush()
        if not saved.row and (saved.at, 0) == self._last_saved:
            return
        file = {
            "layout": LAYOUT,
            "record": saved.record,
            "at": list(saved.at),
            "row": saved.row,
            "sums": saved.sums,
            "seconds": self.seconds,
            "metrics_bytes": self._jsonl.size if self._jsonl else 0,
        }
        assert self._checkpoints is not None  # since `begin` was called
        self._checkpoints.save(self._arrays(saved), file)
        self._last_save, self._last_saved = time.monotonic(), (saved.at, saved.row)

    def _arrays(self, saved: Saved) -> dict:
        """The arrays of a checkpoint, on the devices."""
        on_devices = jax.tree.map(
            lambda x: x if isinstance(x, jax.Array) else self.placement.put(x), saved.arrays
        )
        return {"networks": saved.networks, "arrays": on_devices}

    # Metrics and results

    def write(self, event: dict, values: dict, *, count: int = 1) -> None:
        """Records one event: what it is (step, split, round, ...), and measurements by name.

        `values` may be sums over `count` steps and still on the device, from which they are fetched
        later; `steps` in `event` are the first and the last step.
        """
        event = {**event, "seconds": round(self.seconds, 3)}
        self._pending.append((event, values, count))
        if len(self._pending) > _MAX_PENDING:
            self._write_out(self._pending.pop(0))

    def flush(self) -> None:
        """Writes everything that is pending; UserError if a loss is not finite."""
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
            at, row = self._last_saved
            step = self._epochs_before(at)
            saved = f"step {step}" + (f" and {row} steps of the next epoch" if row else "")
        raise UserError(
            f"The loss became {values['loss']} in {where}, and the last good checkpoint is "
            f"{saved}; lower optimizer.learning_rate, or set --config.dtype=float32."
        )

    def finish(self, results: dict, lines: Iterable[str]) -> None:
        """Writes `timing.json` and, as the last file, `results.json`; logs what was written."""
        self.write_timing()
        write_json(self.workdir / "results.json", results)
        for line in lines:
            log.info(line)

    def write_timing(self) -> None:
        """`timing.json`: seconds spent, and how often each program was traced."""
        write_json(
            self.workdir / "timing.json",
            {"seconds": self.seconds, "traces": dict(self.programs.traces)},
        )

    def _close(self, *, finish_saving: bool) -> None:
        if self._progress is not None:
            self._progress.close()
        for writer in self._writers:
            writer.close()
        if self._checkpoints is not None and finish_saving:
            self._checkpoints.close()


@contextlib.contextmanager
def open_run(
    recipe: BaseRecipe,
    workdir: str | os.PathLike,
    programs: Programs | None = None,
    *,
    bar: bool | None = None,
) -> Iterator[Run]:
    """Locks a workdir for this process, checks that it belongs to `recipe`, and yields its `Run`.

    Nothing but a lock is written until the run begins. SIGTERM and SIGINT make it save and stop.
    `programs` are those of a run of the same recipe with another seed; `bar` as in `Progress`.
    """
    workdir = pathlib.Path(workdir)
    with contextlib.ExitStack() as stack:
        refusal = None
        missing = [path for path in (workdir, *workdir.parents) if not path.exists()]
        run = None
        if processes.is_main():
            stack.callback(lambda: (run and run.has_begun) or remove_empty(missing))
            try:
                lock(workdir, recipe, stack)
            except UserError as error:
                refusal = error
        if processes.broadcast_from_main(refusal is not None):
            raise refusal or UserError(
                "The main process could not open the workdir; its own message says why."
            )
        stop = stack.enter_context(stop_on_signals())
        run = Run(recipe, workdir, programs or Programs(), stop, bar)
        finish_saving = True
        try:
            yield run
        except Exception as error:
            # Another process may be gone, and the checkpoint under way would wait for it forever.
            expected = isinstance(error, UserError | Interrupted)
            finish_saving = expected or jax.process_count() == 1
            raise
        finally:
            run._close(finish_saving=finish_saving)
