"""Writing a run's files: a kill leaves the old file or the new one, never a part of one.

Of several processes only the main one writes.
"""

import csv
import io
import json
import logging
import pathlib
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxrobust.engine import processes

log = logging.getLogger("jaxrobust")


def user_cache(*names: str) -> pathlib.Path | None:
    """A folder in `~/.cache/jaxrobust`, or None, with a warning, where none can be written."""
    try:
        folder = pathlib.Path.home().joinpath(".cache", "jaxrobust", *names)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError) as error:  # no home, or one that cannot be written
        log.warning("Nothing can be kept in ~/.cache/jaxrobust (%s); set HOME to a folder.", error)
        return None


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON-able value, indented."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes text as UTF-8; of names that are not, see `data.names`, a mark shows that."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_table(path: pathlib.Path, rows: Iterable[Sequence]) -> None:
    """Writes rows of cells as CSV for programs; `data.tables` writes those for spreadsheets."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def format_number(value) -> str:
    """A number as text for a table: whole ones as they are, others with float32's nine digits."""
    return f"{value:.9g}" if isinstance(value, (float, np.floating)) else str(int(value))


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes bytes; folders are made as needed."""
    if not processes.is_main():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".part")
    scratch.write_bytes(content)
    scratch.replace(path)
