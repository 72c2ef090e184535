"""SIGTERM and Ctrl-C: recorded when they arrive, acted on once everything is saved."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

from tqdm import tqdm


class Interrupted(Exception):
    """Signal `signum` asked the run to stop; everything up to here, `where`, is saved."""

    def __init__(self, signum: int, where: str):
        super().__init__(where)
        self.signum = signum
        self.where = where


class Stop:
    """Records the first signal as `signum`, None before; a second one interrupts at once."""

    def __init__(self):
        self.signum: int | None = None

    def __call__(self, signum, frame):
        del frame
        if self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum
        name = signal.Signals(signum).name
        tqdm.write(
            f"{name}: saving as soon as possible (once more: stop at once).", file=sys.stderr
        )


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Records SIGTERM and SIGINT, at which all runs inside this context stop.

    Within another one, also in another thread, it is that one. Python lets no thread but the main
    one handle signals: elsewhere, and outside of another one, none is noted.
    """
    installed = signal.getsignal(signal.SIGTERM)
    if isinstance(installed, Stop):
        yield installed
        return
    stop = Stop()
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
