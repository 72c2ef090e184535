"""The parser of arguments that the commands share."""

import argparse


class Parser(argparse.ArgumentParser):
    """argparse's parser, with errors in one sentence; exit code 2."""

    def __init__(self, command: str, **options):
        super().__init__(prog=f"jaxrobust {command}", **options)

    def error(self, message: str):
        self.exit(2, f"jaxrobust: {message}; see `{self.prog} --help`.\n")
