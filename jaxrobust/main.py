"""Runs a recipe: `python -m jaxrobust.main --config=configs/dcfs.py:digits --workdir=runs/digits`.

In any other folder, `--config=dcfs:digits` names the recipe that is installed with jaxrobust.

Exit codes: 0 done; 2 an error that the user can fix, in one sentence; 75 stopped by SIGTERM and 130
by Ctrl-C, both after saving: the same command resumes the run.
"""

import difflib
import logging
import os
import signal
import sys
import threading
import time
import traceback

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags
from tqdm import tqdm

from jaxrobust import recipes
from jaxrobust.errors import UserError, check_limits, explained
from jaxrobust.recipes import locate, no_recipe
from jaxrobust.recipes.parse import parse

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe, such as configs/dcfs.py or configs/dcfs.py:digits."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything the run writes.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Whether SLURM, Kubernetes, MPI or a TPU pod started this as one of several processes.",
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of the first of the processes.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")

_SEVERAL = ("distributed", "coordinator", "num_processes", "process_id")

EXIT_USER_ERROR = 2
EXIT_PREEMPTED = 75
EXIT_CTRL_C = 130


class _Lines(logging.Handler):
    """Log lines on standard error that do not break a progress bar.

    Lines from other threads, which run one seed each, begin with the thread's name.
    """

    def emit(self, record):
        is_main = record.thread == threading.main_thread().ident
        text = record.getMessage() if is_main else f"{record.threadName}: {record.getMessage()}"
        record.msg, record.args = text, None
        tqdm.write(self.format(record), file=sys.stderr)


def _setup_logging() -> None:
    handler = _Lines()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log = logging.getLogger("jaxrobust")
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(logging.INFO)
    absl_logging.set_verbosity(absl_logging.WARNING)


def fail(message: str) -> None:
    """Prints one sentence and exits with `EXIT_USER_ERROR`."""
    print(f"jaxrobust: {message}", file=sys.stderr)
    sys.exit(EXIT_USER_ERROR)


def _config_fields(config) -> list[str]:
    fields = []
    for name, value in config.items():
        if hasattr(value, "keys"):
            fields += [f"{name}.{inner}" for inner in _config_fields(value)]
        else:
            fields.append(name)
    return fields


def _given_config(argv: list[str]) -> str:
    given = next((a for a in argv[1:] if a.lstrip("-").startswith("config=")), "")
    return given.partition("=")[2]


def _unknown_override(argv: list[str]) -> str | None:
    """The message for the first `--config.FIELD` that the recipe does not have."""
    path = _given_config(argv).partition(":")[0]
    try:
        fields = _config_fields(recipes.read(_given_config(argv)))
    except UserError as error:
        return str(error)
    for argument in argv[1:]:
        name = argument.lstrip("-").split("=")[0]
        if name.startswith("config.") and name.removeprefix("config.") not in fields:
            name = name.removeprefix("config.")
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean --config.{near[0]}?" if near else f"see {path} for its fields."
            return f"The recipe has no field {name!r}: {hint}"
    return None


def _with_recipe_located(argv: list[str]) -> list[str]:
    """The arguments with `--config` and its value as one word, with the file that `locate` finds.

    A first argument that is not a flag is the recipe: `jaxrobust run dcfs:digits --workdir=DIR`.
    """
    program, *arguments = argv
    if arguments and not arguments[0].startswith("-"):
        arguments[0] = f"--config={arguments[0]}"
    located = [program]
    for argument in arguments:
        if located and located[-1] in ("-config", "--config"):
            argument = f"{located.pop()}={argument}"
        flag, equals, value = argument.partition("=")
        if flag in ("-config", "--config") and equals:
            argument = f"{flag}={locate(value)}"
        located.append(argument)
    return located


def _sentence(error: BaseException) -> str:
    """A recipe's message, if it refused its variant: the flag parsers wrap it in a traceback."""
    said, cause = error, error
    while cause is not None:
        said = cause if isinstance(cause, UserError) else said
        cause = cause.__context__
    return str(said)


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with one-line error messages."""
    argv = _with_recipe_located(argv)
    asks_for_help = {"-h", "-help", "--help"} & set(argv)
    argv = [argument for argument in argv if argument not in asks_for_help]
    absl_logging.set_verbosity(absl_logging.ERROR)  # what is wrong is said once, below
    try:
        rest = flags.FLAGS(argv)
        given = config_flags.get_config_filename(flags.FLAGS["config"]) if _CONFIG.value else ""
    except (UserError, flags.Error) as error:
        fail(_sentence(error))
    except (AttributeError, KeyError) as error:
        fail(_unknown_override(argv) or str(error))
    except (TypeError, ValueError) as error:
        fail(f"{error} (check the type of the --config.FIELD=VALUE that you gave).")
    except (Exception, SystemExit) as error:  # whatever a recipe of the user's own may raise
        fail(recipes.unreadable(_given_config(argv), error))
    path = given.partition(":")[0]
    if path and not os.path.isfile(path):
        fail(no_recipe(path))
    if _CONFIG.value is None and _given_config(argv):
        fail(f"get_config of {_given_config(argv)} returns no recipe; correct that file.")
    if asks_for_help:
        print(_help())
        sys.exit()
    if len(rest) > 1:
        fail(f"{rest[1]!r} is not a flag; give --config=FILE and --workdir=FOLDER.")
    return rest


def _help() -> str:
    """The flags and, where a recipe is given, its fields with their values."""
    lines = ["usage: jaxrobust run RECIPE[:VARIANT] --workdir=DIR [--config.FIELD=VALUE ...]"]
    lines += ["", *(__doc__ or "").splitlines()[2:], "", "flags:"]
    names = ("config", "workdir", *_SEVERAL)
    lines += [f"  --{name}: {flags.FLAGS[name].help}" for name in names]
    if _CONFIG.value is None:
        return "\n".join([*lines, "", "With --config=, the fields of that recipe are listed too."])
    fields = {name: _CONFIG.value for name in _config_fields(_CONFIG.value)}
    lines += ["", "fields:"]
    for name, value in fields.items():
        for part in name.split("."):
            value = value[part]
        lines.append(f"  --config.{name}={value}")
    return "\n".join(lines)


def _is_one_of_several() -> bool:
    explicit = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    return _DISTRIBUTED.value or explicit != (None, None, None)


def _join_processes() -> None:
    """Joins the other processes of this run."""
    explicit = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if not _DISTRIBUTED.value and None in explicit:
        raise UserError("--coordinator, --num_processes and --process_id must be given together.")
    from jaxrobust.engine import processes

    processes.join(*explicit)
    if not processes.is_main():
        logging.getLogger("jaxrobust").setLevel(logging.WARNING)


def main(argv: list[str]) -> None:
    """The command. A process that fails does not wait for the other processes."""
    del argv
    _setup_logging()
    try:
        _main()
    except SystemExit as stop:
        if _is_one_of_several() or _threads_are_left():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(stop.code if isinstance(stop.code, int) else bool(stop.code))
        raise


def _threads_are_left() -> bool:
    """Whether threads, such as writers to a full disk, would keep the command from ending."""
    deadline = time.monotonic() + 10
    others = [t for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]
    for thread in others:
        thread.join(max(0.0, deadline - time.monotonic()))
    return any(thread.is_alive() for thread in others)


def _main() -> None:
    try:
        if _CONFIG.value is None:
            raise UserError("--config is missing; for example --config=configs/dcfs.py:digits.")
        if not _WORKDIR.value:
            raise UserError("--workdir is missing; name a folder for the run, such as runs/first.")
        recipe = parse(_CONFIG.value)
        check_limits()
        # Imported late, so that a wrong flag is answered before JAX has started.
        from jaxrobust.engine.environment import ask_for_determinism

        if _CONFIG.value.get("deterministic", False):
            ask_for_determinism()
        if _is_one_of_several():
            _join_processes()
        from jaxrobust import tasks
        from jaxrobust.engine.signals import Interrupted

        try:
            tasks.run_recipe(recipe, _WORKDIR.value)
        except Interrupted as stop:
            print(
                f"jaxrobust: saved at {stop.where}; rerun the same command to resume.",
                file=sys.stderr,
            )
            sys.exit(EXIT_CTRL_C if stop.signum == signal.SIGINT else EXIT_PREEMPTED)
    except KeyboardInterrupt:
        print("jaxrobust: stopped; rerun the same command to resume.", file=sys.stderr)
        sys.exit(EXIT_CTRL_C)
    except Exception as error:
        if (message := explained(error, str(_WORKDIR.value))) is not None:
            fail(message)
        if isinstance(error, OSError) or not _is_one_of_several():
            raise
        traceback.print_exc()
        print(
            f"jaxrobust: a process of this run stopped ({str(error).splitlines()[0][:200]}); "
            "restart all of them to resume.",
            file=sys.stderr,
        )
        sys.exit(EXIT_PREEMPTED)


def command(argv: list[str]) -> int:
    """`jaxrobust run`: the same with these arguments; ends the process with its exit code."""
    app.run(main, argv=[sys.argv[0], *argv], flags_parser=parse_flags)
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
