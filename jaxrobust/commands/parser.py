"""The argument parser shared by the commands."""

import argparse
import contextlib
import os
import pathlib
import tempfile


def new_file(text: str) -> pathlib.Path:
    """Argument type: a file to write, which is tried before anything is computed."""
    path = pathlib.Path(text)
    _check_writable(path.parent)
    if not path.name or path.is_dir() or text.endswith(os.sep):
        raise argparse.ArgumentTypeError(f"{text!r} is not a file; name a file to write")
    return path


def new_folder(text: str) -> pathlib.Path:
    """Argument type: a folder to write into, which is tried before anything is computed."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; name a folder to write into")
    _check_writable(pathlib.Path(text))
    return pathlib.Path(text)


def _check_writable(folder: pathlib.Path) -> None:
    """Tries to write to the folder, or to where it would be made, and leaves nothing behind."""
    try:
        with contextlib.suppress(FileNotFoundError):
            folder.stat()  # of a name that is too long, or leads through a file
        found = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=found):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise argparse.ArgumentTypeError(
            f"{folder} cannot be written ({reason}); choose another place"
        ) from None


class Parser(argparse.ArgumentParser):
    """argparse's parser, with errors in one sentence; exit code 2."""

    def __init__(self, command: str, **options):
        super().__init__(prog=f"jaxrobust {command}", **options)

    def error(self, message: str):
        self.exit(2, f"jaxrobust: {message}; see `{self.prog} --help`.\n")
