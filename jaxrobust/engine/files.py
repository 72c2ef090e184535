"""Files of a run: a kill leaves the old one or the new one, never a part.

Of several processes only the main one writes.
"""

import csv
import io
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from jaxrobust.engine import processes

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON-able value, indented."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes text as UTF-8."""
    write_bytes(path, text.encode())


def write_table(path: pathlib.Path, rows: Iterable[Sequence]) -> None:
    """Writes rows of cells as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def text_cell(text: str) -> str:
    """Text for a table: no spreadsheet takes it for a formula, which could send data away.

    An apostrophe in front, which spreadsheets read as "this is text", is taken off by
    `text_of_cell`.
    """
    return f"'{text}" if text.startswith((*_FORMULA, "'")) else text


def text_of_cell(written: str) -> str:
    """What `text_cell` was given."""
    return written[1:] if written.startswith("'") else written


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes bytes; folders are made as needed."""
    if not processes.is_main():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".part")
    scratch.write_bytes(content)
    scratch.replace(path)
