"""Runs whose task keeps its own position, until distillation uses `jaxrobust.engine.run`."""

import functools
from collections.abc import Callable
from typing import Any

from jaxrobust.engine import run
from jaxrobust.engine.checkpoint import abstract_like
from jaxrobust.engine.loops import Resume
from jaxrobust.engine.progress import Progress
from jaxrobust.engine.sharding import fetch


class Run(run.Run):
    """`run.Run` with a position that the task keeps."""

    _within: dict | None = None

    def restore(self, like: Any) -> tuple[Any, dict] | None:
        self._epochs_before = lambda step: step
        found = self._checkpoints.restore(abstract_like(like))
        record = found[1] if found else {"metrics_bytes": 0, "seconds": 0.0, "step": 0}
        self.is_resumed = found is not None
        self._within = record.get("within")
        first_step = record["step"] + (2 if self._within else 1) if found else 0
        self._open_writers(record, first_step=first_step)
        if found:
            self._last_saved = record["step"], self._within["row"] if self._within else 0
        return found

    @property
    def is_within_epoch(self) -> bool:
        return self._within is not None

    def start_progress(self, total: int, done: int) -> None:
        every_seconds = self.config.log_every_seconds
        self._progress = Progress(total, done, every_seconds=every_seconds, workdir=self.workdir)

    def epoch_done(self, step: int, tree: Any, record: dict, where: str) -> None:
        self._progress.show(step, where)
        self._save_or_stop(where, lambda: self.save(step, tree, record))

    def within_epoch(
        self,
        step: int,
        where: str,
        keep: Callable[[Any], tuple[Any, dict]],
        *,
        num_steps: int,
        part: tuple[int, int] = (0, 1),
    ) -> Resume:
        resumed, self._within = self._within or {"row": 0, "sums": {}}, None

        def pause(row, state, sums):
            here = f"{where}, step {row}"
            self._progress.show(step + (part[0] + row / num_steps) / part[1], here)

            def save():
                within = {"row": row, "sums": {k: float(v) for k, v in fetch(sums).items()}}
                self._refuse_a_loss_not_finite(within["sums"], here)
                self.save(step, *keep(state), within)

            self._save_or_stop(here, save)

        return Resume(resumed["row"], resumed["sums"], pause)

    def save(self, step: int, tree: Any, record: dict, within: dict | None = None) -> None:
        place = step, within["row"] if within else 0
        if within is None and place == self._last_saved:
            return
        self.flush()
        self._write_checkpoint(tree, {**record, "step": step, "within": within})
        self._last_saved = place


open_run = functools.partial(run.open_run, kind=Run)
