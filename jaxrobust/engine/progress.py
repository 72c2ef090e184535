"""How far a run is: a bar on a terminal, lines in a log elsewhere."""

import logging
import math
import pathlib
import sys
import threading
import time

from tqdm import tqdm

from jaxrobust.engine import processes
from jaxrobust.engine.advice import slow_run

log = logging.getLogger("jaxrobust")

_SURE_SECONDS = 10.0  # of measuring, before a run is called long


class Progress:
    """Progress of a run of `total` epochs.

    Args:
      total: epochs of the whole run.
      done: epochs that an earlier attempt has finished.
      every_seconds: between two lines of a log.
      workdir: of the run, for warnings.
      bar: whether a bar is shown, and no lines; None: on a terminal, and elsewhere lines.
    """

    def __init__(
        self,
        total: int,
        done: int,
        *,
        every_seconds: float,
        workdir: pathlib.Path,
        bar: bool | None = None,
    ):
        self._total = total
        self._every_seconds = every_seconds
        self._workdir = workdir
        on_terminal = sys.stderr.isatty() and processes.is_main() and _is_only_run()
        self._has_lines = bar is None and not on_terminal
        self._bar = tqdm(
            total=total,
            initial=done,
            bar_format="{desc}: {percentage:3.0f} %|{bar}| {elapsed}, {remaining} left",
            file=sys.stderr,
            dynamic_ncols=True,
            leave=False,
            disable=not (on_terminal if bar is None else bar),
        )
        self._since: tuple[float, float] | None = None  # place and time that a rate is taken from
        self._has_warned = False
        self._last_line = -math.inf

    def show(self, step: float, where: str) -> None:
        """Reports that `step` epochs are finished.

        Args:
          step: fractions included.
          where: the same in words.
        """
        now = time.monotonic()
        # The time to the first report went into compiling, and says nothing about what is left.
        first, since = self._since = self._since or (step, now)
        each = (now - since) / (step - first) if step > first else None
        if each is not None and now - since >= _SURE_SECONDS and not self._has_warned:
            self._has_warned = True
            for warning in slow_run(self._workdir, self._total - step, each):
                log.warning("warning: %s", warning)
        self._bar.set_description(where, refresh=False)
        self._bar.update(step - self._bar.n)
        if not self._has_lines or now - self._last_line < self._every_seconds:
            return
        self._last_line = now
        left = ""
        if each is not None:
            left = f" | {tqdm.format_interval((self._total - step) * each)} left"
        log.info("%s | %.0f %% of the run%s", where, 100 * step / self._total, left)

    def close(self) -> None:
        """Removes the bar."""
        self._bar.close()


def _is_only_run() -> bool:
    return threading.current_thread() is threading.main_thread()
