"""What the commands do alike with their arguments."""

import argparse


class Parser(argparse.ArgumentParser):
    """argparse's parser, which reports a mistake in one sentence as all commands do."""

    def __init__(self, command: str, **options):
        super().__init__(prog=f"jaxrobust {command}", **options)

    def error(self, message: str):
        self.exit(2, f"jaxrobust: {message}; `{self.prog} --help` says what there is.\n")
