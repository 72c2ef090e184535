"""Commands in processes of their own, forked from one that has imported what every run imports.

That takes a command of a small run as long as all the rest of it.
"""

import gc
import multiprocessing
import os
import pathlib
import runpy
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import jax

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "jaxrobust.report.figures",
        "jaxrobust.tasks.active_learning",
        "jaxrobust.tasks.distillation",
        "jaxrobust.tasks.noisy_labels",
        "matplotlib.pyplot",
        "sklearn.datasets",
        "tensorboardX",
    ]
)


class Command:
    """`python -m MODULE ARGUMENTS`, started in a folder.

    Args:
      module: what is run.
      *arguments: of the command.
      folder: where it is run.
      renders: whether it lays figures out and renders them, which is a fifth of a small run.
      **variables: of the environment, beside those of this process.

    Attributes:
      stdout, stderr: what it says, to be read.
      process: with `pid`, `is_alive` and `kill`.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        folder: str | os.PathLike,
        renders: bool = False,
        **variables: str,
    ):
        (read_out, out), (read_err, err) = os.pipe(), os.pipe()
        self.stdout, self.stderr = os.fdopen(read_out), os.fdopen(read_err)
        ends = [Connection(end, readable=False) for end in (out, err)]
        environment = {**os.environ, **variables}
        self.process = _CONTEXT.Process(
            target=_become,
            args=(module, [*map(str, arguments)], str(folder), renders, environment, *ends),
        )
        # The first one starts the process that all are forked from, whose JAX is as by default.
        settings = {name: os.environ.pop(name) for name in _settings_of_jax(os.environ)}
        try:
            self.process.start()
        finally:
            os.environ.update(settings)
        for end in ends:
            end.close()  # the other's alone, so that reading ends with it

    def wait_for(self, path: pathlib.Path, condition: Callable[[str], object]) -> None:
        """Until a file that it writes is there and its text meets the condition."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and self.process.is_alive():
            if path.exists() and condition(path.read_text()):
                return
            time.sleep(0.01)
        raise AssertionError(f"never reached: {self.end()[1]}")

    def end(self) -> tuple[int, str]:
        """Exit code, a negative number of the signal that killed it, and standard error."""
        with self.stdout, self.stderr:
            said = self.stderr.read()
        self.process.join()
        return self.process.exitcode, said


def save_unrendered(figure, path: pathlib.Path) -> None:
    """In place of `figures._save`: the file is there, and what would be on it was drawn up."""
    from matplotlib import pyplot
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (1, 1)).save(path, "png")
    pyplot.close(figure)


def search_less_for_cycles() -> None:
    """What is imported already is not searched for cycles again and again."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _become(module, arguments, folder, renders, environment, stdout, stderr):
    os.dup2(stdout.fileno(), 1)
    os.dup2(stderr.fileno(), 2)
    # Those of the process that this one was forked from may have been files.
    sys.stdout, sys.stderr = (open(number, "w", 1, closefd=False) for number in (1, 2))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # JAX has read the environment of the process that this one was forked from.
    for name in _settings_of_jax(environment):
        option, value = name.lower(), environment[name]
        default = jax.config.values[option]
        if default is not None:
            value = type(default)(float(value)) if not isinstance(default, str) else value
        jax.config.update(option, value)
    search_less_for_cycles()
    if not renders:
        from jaxrobust.report import figures

        figures._save = save_unrendered
    sys.path.insert(0, folder)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _settings_of_jax(environment):
    return [name for name in environment if name.lower() in jax.config.values]
