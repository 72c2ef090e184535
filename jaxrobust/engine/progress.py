"""How far a run is: a bar on a terminal, lines in a log elsewhere."""

import logging
import math
import pathlib
import sys
import threading
import time
from collections.abc import Callable

from tqdm import tqdm

from jaxrobust.engine import processes
from jaxrobust.engine.advice import slow_run

log = logging.getLogger("jaxrobust")

_SURE_SECONDS = 10.0  # of measuring, before a run is called long


class Progress:
    """Progress of a run of `total` epochs, of which `done` were finished by an earlier attempt.

    `num_compiled` counts compiled programs: what is left is estimated from the times in which none
    was. `bar`: a progress bar in place of lines; None: on a terminal.
    """

    def __init__(
        self,
        total: int,
        done: int,
        *,
        every_seconds: float,
        workdir: pathlib.Path,
        num_compiled: Callable[[], int],
        bar: bool | None = None,
    ):
        self._total = total
        self._every_seconds = every_seconds
        self._workdir = workdir
        is_only_run = threading.current_thread() is threading.main_thread()
        on_terminal = sys.stderr.isatty() and processes.is_main() and is_only_run
        self._has_lines = bar is None and not on_terminal
        self._bar = tqdm(
            total=total,
            initial=done,
            desc="compiling",  # until the first steps are done
            bar_format="{desc}{percentage:3.0f} %|{bar}| {elapsed}{postfix}",
            file=sys.stderr,
            dynamic_ncols=True,
            leave=False,
            disable=not (on_terminal if bar is None else bar),
        )
        self._num_compiled = num_compiled
        self._last: tuple[float, float, int] | None = None  # place, time, programs at a report
        self._measured = (0.0, 0.0)  # epochs, and their seconds, in which nothing was compiled
        self._has_warned = False
        self._last_line = -math.inf

    def show(self, step: float, where: str) -> None:
        """Reports that `step` epochs are finished."""
        now = time.monotonic()
        left = self._left(step, now)
        text = "" if left is None else f"{tqdm.format_interval(left)} left"
        self._bar.set_description(where, refresh=False)
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(step - self._bar.n)
        if not self._has_lines or now - self._last_line < self._every_seconds:
            return
        self._last_line = now
        text = f" | {text}" if text else ""
        log.info("%s | %.0f %% of the run%s", where, 100 * step / self._total, text)

    def _left(self, step: float, now: float) -> float | None:
        """Seconds that are left, None while nothing is known; warns of a long run once."""
        num_compiled = self._num_compiled()
        if self._last is not None and self._last[2] == num_compiled:
            epochs, seconds = self._measured
            self._measured = epochs + step - self._last[0], seconds + now - self._last[1]
        self._last = step, now, num_compiled
        epochs, seconds = self._measured
        if epochs <= 0:
            return None
        each = seconds / epochs
        if seconds >= _SURE_SECONDS and not self._has_warned:
            self._has_warned = True
            for warning in slow_run(self._workdir, self._total - step, each):
                log.warning("warning: %s", warning)
        return (self._total - step) * each

    def close(self) -> None:
        """Removes the bar."""
        self._bar.close()
