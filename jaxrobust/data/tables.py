"""Tables that people fill in with a spreadsheet; mistakes are reported by line.

No JAX is loaded. Excel and LibreOffice change what they open: separators become semicolons or tabs,
numbers lose leading zeros, `true` becomes `TRUE`, and text without a leading UTF-8 mark loses its
umlauts.
"""

import csv
import difflib
import io
import itertools
import pathlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from jaxrobust.data import names
from jaxrobust.errors import DataError

MAX_PROBLEMS = 5
BOM = "\ufeff"
"""Put in front of a table, so that Excel reads it as UTF-8."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_SAVE_AS = "save it as CSV in UTF-8"


class Row(NamedTuple):
    """A row of a table: the line it begins in, and its stripped cells by column."""

    line: int
    cells: Mapping[str, str]


def escape_formula(text: str) -> str:
    """A name for a table: in one line, and never a formula, by which a spreadsheet could send data.

    Line breaks and what is no UTF-8 are written as `names.escaped` does. An apostrophe is put in
    front of a formula, which spreadsheets read as "this is text". `unescape_formula` undoes both.
    """
    text = names.escaped(text)
    return f"'{text}" if text.startswith((*_FORMULA, "'")) else text


def unescape_formula(written: str) -> str:
    """The text that `escape_formula` was given."""
    return names.restored(written[1:] if written.startswith("'") else written)


def to_csv(rows: Iterable[Sequence]) -> str:
    """Rows of cells as CSV that Excel reads as UTF-8."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return BOM + text.getvalue()


def write_rows(path: pathlib.Path, rows: Iterable[Sequence]) -> None:
    """Writes `to_csv` in one piece: a kill leaves the old table or the new one."""
    scratch = path.with_name(path.name + ".part")
    scratch.write_text(to_csv(rows), encoding="utf-8", errors="backslashreplace", newline="")
    scratch.replace(path)


def read_cells(path: pathlib.Path) -> list[tuple[int, list[str]]]:
    """The line in which each row that is not empty begins, and its stripped cells.

    Cells are separated by commas, semicolons or tabs, as a spreadsheet writes them; the first line
    tells which.
    """
    text = _text(path)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    rows, line = [], 1
    try:
        for cells in reader:
            rows.append((line, [cell.strip() for cell in cells]))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path} is not a table from line {line} on ({error}); {_SAVE_AS}."
        ) from None
    return rows


def read_rows(path: pathlib.Path, required: Iterable[str] = (), note: str = "") -> list[Row]:
    """Rows below the header of a table, by column; empty ones are left out.

    Refuses a table without the `required` columns, or a line of more cells than the first; `note`
    is what else to correct then.
    """
    (_, header), *rows = read_cells(path) or [(1, [])]
    columns = [unescape_formula(cell).lower() for cell in header]
    _check_columns(path, columns, required)
    refuse_if_any(
        path,
        [
            f"line {line} has {len(cells)} cells for {len(columns)} columns; put quotes around a "
            "cell that holds a comma, a semicolon or a tab"
            for line, cells in rows
            if any(cells[len(columns) :])
        ],
        note,
    )
    # Spreadsheets leave out empty cells at the end of a line.
    return [
        Row(line, dict(itertools.zip_longest(columns, cells[: len(columns)], fillvalue="")))
        for line, cells in rows
        if any(cells)
    ]


def _text(path: pathlib.Path) -> str:
    if not path.is_file():
        raise DataError(f"There is no file {path}; correct its name.")
    try:
        content = path.read_bytes()
        if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
            raise DataError(f"{path} is a workbook, not text; {_SAVE_AS}.")
        is_utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # Excel's "Unicode text"
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); {_SAVE_AS}.") from None
    if "\0" in text:
        raise DataError(f"{path} is not text; {_SAVE_AS}.")
    # Old Macintoshes ended lines by a return alone.
    return text if "\n" in text else text.replace("\r", "\n")


def _check_columns(path: pathlib.Path, columns: Sequence[str], required: Iterable[str]) -> None:
    if absent := [name for name in required if name not in columns]:
        raise DataError(
            f"{path} has no column {' and no column '.join(absent)} in its first line, but "
            f"{', '.join(filter(None, columns)) or 'nothing'}; put the header back."
        )
    for name in filter(None, columns):
        if columns.count(name) > 1:
            raise DataError(f"{path} has the column {name} twice; remove one of them.")


def refuse_if_any(path: pathlib.Path, problems: Sequence[str], otherwise: str = "") -> None:
    """Raises DataError for the problems of a table, the first five in full, if there are some."""
    if not problems:
        return
    shown = "; ".join(problems[:MAX_PROBLEMS])
    more = len(problems) - MAX_PROBLEMS
    raise DataError(
        f"{path}: {shown}{f'; and {more} more' if more > 0 else ''}. Correct this{otherwise} and "
        "rerun the command."
    )


class Texts:
    """Texts as people and spreadsheets write them: exact ones first, else what Excel made of one.

    `1` is `01`, and `TRUE` is `true`, if only one text could have become that; `cat` is never
    `Cat`. Composed and decomposed umlauts are the same, as between macOS and others.
    """

    def __init__(self, texts: Iterable[str]):
        self.texts = tuple(dict.fromkeys(texts))
        self._exact = {text: text for text in self.texts}
        self._normal = _unambiguous((_normal(text), text) for text in self.texts)
        self._converted = _unambiguous(
            (value, text) for text in self.texts if (value := _converted(text)) is not None
        )

    def find(self, cell: str) -> str | None:
        """The text that a cell means, or None."""
        for written in (cell, unescape_formula(cell)):
            if written in self._exact:
                return written
            if found := self._normal.get(_normal(written)):
                return found
        value = _converted(cell)
        return None if value is None else self._converted.get(value)

    def hint(self, cell: str) -> str:
        """A suggestion for a cell that is none of the texts."""
        near = difflib.get_close_matches(cell, self.texts, n=1)
        return f"perhaps {near[0]!r} is meant" if near else f"use {shortened(self.texts)}"


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def _converted(text: str) -> float | str | None:
    """What a spreadsheet reads a text as: a number or a truth value; None for text."""
    text = text.strip()
    if text.upper() in ("TRUE", "FALSE"):
        return text.upper()
    try:
        if not set(text) <= set("0123456789.+-eE"):  # Python also takes nan and 1_000
            return None
        return float(text)
    except ValueError:
        return None


def _unambiguous(pairs: Iterable[tuple]) -> dict:
    found: dict = {}
    for key, text in pairs:
        found[key] = None if key in found else text
    return found


def shortened(texts: Sequence[str], limit: int = 12) -> str:
    """Texts for a message, the first ones of many."""
    more = len(texts) - limit
    return ", ".join(texts[:limit]) + (f" or {more} others" if more > 0 else "")
