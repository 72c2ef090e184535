"""The command `jaxrobust COMMAND ...`, also as `python -m jaxrobust COMMAND ...`.

Every command is the `main` of a module, and only that of the given command is imported.
"""

import io
import os
import sys

from jaxrobust.errors import UserError, check_limits, explained, unknown_name
from jaxrobust.recipes.registry import Entry, Registry

_HERE = "jaxrobust.commands"

COMMANDS = Registry(
    {
        "run": Entry("jaxrobust.main:command", "run a recipe, or continue a run"),
        "embed": Entry(
            f"{_HERE}.embed:main", "compute features of images with a pretrained network"
        ),
        "find-label-issues": Entry(
            f"{_HERE}.find_label_issues:main", "find wrong labels, from files of arrays"
        ),
        "consensus": Entry(
            f"{_HERE}.consensus:main", "combine the votes of several people into labels, from files"
        ),
        "query": Entry(f"{_HERE}.query:main", "choose what to annotate next, from files of arrays"),
        "review": Entry(
            "jaxrobust.commands.review:main", "review labels or annotate images in the browser"
        ),
        "apply-corrections": Entry(
            f"{_HERE}.apply_corrections:main", "write a table of labels, corrected by a review"
        ),
        "import": Entry(
            f"{_HERE}.import_answers:main", "import answers from Label Studio or CVAT into a run"
        ),
        "predict": Entry(
            f"{_HERE}.predict:main", "predict the classes of new images with a trained classifier"
        ),
        "export": Entry(
            f"{_HERE}.export:main",
            "export a trained network as an ONNX file, or a run's images for Label Studio or CVAT",
        ),
        "convert": Entry(f"{_HERE}.convert:main", "convert published PyTorch weights for a recipe"),
        "report": Entry(f"{_HERE}.report:main", "write a page about one or several runs"),
        "compare": Entry(f"{_HERE}.compare:main", "compare several runs in a figure and a table"),
        "benchmark": Entry(f"{_HERE}.benchmark:main", "time the compiled programs of recipes"),
        "list": Entry(f"{_HERE}.listing:main", "list recipes, methods, data sets and networks"),
    }
)
"""Command -> function of the further arguments that returns the exit code."""


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may be no text
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(*argv)
        if sys.stdout is not None:  # closed by whoever started the command
            sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        # Without it Python would report an error at exit.
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("jaxrobust: stopped.", file=sys.stderr)
        return 130
    except Exception as error:
        message = explained(error, "a file")
        if message is None:
            if not isinstance(error, OSError) or error.filename is None:
                raise
            message = f"{error.filename}: {error.strerror}; correct the path, or choose another."
        print(f"jaxrobust: {message}", file=sys.stderr)
        return 2


def _run(name: str = "", *arguments: str) -> int:
    if name in ("", "-h", "--help", "help"):
        print(_usage())
        return 0 if name else 2
    if name == "--version":
        import jaxrobust

        print(jaxrobust.__version__)
        return 0
    if name not in COMMANDS:
        raise UserError(unknown_name("command", name, COMMANDS))
    sys.argv = [f"jaxrobust {name}", *arguments]  # for usage messages
    check_limits()
    return COMMANDS[name]([*arguments])


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {COMMANDS.entry(name).summary}" for name in COMMANDS]
    return "\n".join(
        (
            "usage: jaxrobust COMMAND ...",
            "",
            *lines,
            "",
            "`jaxrobust COMMAND --help` describes each.",
        )
    )
