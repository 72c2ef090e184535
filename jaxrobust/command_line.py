"""The parser of arguments and the report of errors that the commands share."""

import argparse
import functools
import sys
from collections.abc import Callable

from jaxrobust.errors import UserError

Command = Callable[[list[str] | None], int]


def reports_errors(command: Command) -> Callable[..., int]:
    """The command, with a `UserError` printed as one sentence; the exit code is then 2."""

    @functools.wraps(command)
    def reporting(argv: list[str] | None = None) -> int:
        try:
            return command(argv)
        except UserError as error:
            print(f"jaxrobust: {error}", file=sys.stderr)
            return 2

    return reporting


class Parser(argparse.ArgumentParser):
    """argparse's parser, with errors in one sentence; exit code 2."""

    def __init__(self, command: str, **options):
        super().__init__(prog=f"jaxrobust {command}", **options)

    def error(self, message: str):
        self.exit(2, f"jaxrobust: {message}; see `{self.prog} --help`.\n")
