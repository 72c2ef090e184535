"""What the commands do alike with their arguments."""

import argparse


class Parser(argparse.ArgumentParser):
    """argparse's, in which a mistake is told in one sentence, as those of all commands are."""

    def __init__(self, command: str, **options):
        super().__init__(prog=f"jaxrobust {command}", **options)

    def error(self, message: str):
        self.exit(2, f"jaxrobust: {message}; `{self.prog} --help` says what there is.\n")
