"""`corrections.csv`: what a person decided about labels that look wrong, read and written.

No JAX is loaded. In a hand-written table, `file` (or `id`) and `label` are enough: a label equal to
the given one counts as kept, an empty one as not decided yet.
"""

import dataclasses
import os
import pathlib
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jaxrobust.data import tables
from jaxrobust.errors import DataError

COLUMNS = ("id", "file", "given_label", "label", "decision", "drawn", "note")
DECISIONS = ("keep", "accept", "other", "unsure", "exclude")
"""The given label is right; the suggested one is; another one is; nobody can tell; none is."""


class Correction(NamedTuple):
    """A row of `corrections.csv`.

    Attributes:
      id: position in the data set; None if only the file is known.
      file: path of the image; "" if images are not files.
      given_label: the label at the time of the review.
      label: the correct label; empty if it is undecidable or no class fits.
      decision: one of `DECISIONS`, or "" for only a note.
      drawn: whether the image was drawn at random, which `jaxrobust.audit` needs to know.
      note: the person's note about it.
    """

    id: int | None
    file: str
    given_label: str
    label: str
    decision: str
    drawn: bool = False
    note: str = ""


KEPT, CORRECTED, EXCLUDED = "kept", "corrected", "excluded"


@dataclasses.dataclass(frozen=True, eq=False)
class Reviewed:
    """Labels of N examples after a person has reviewed some of them.

    Attributes:
      labels: int32 `[N]`, the given label unless it was corrected.
      review: str `[N]`, `KEPT`, `CORRECTED` or `EXCLUDED`; empty if undecided.
    """

    labels: np.ndarray
    review: np.ndarray


def write_corrections(path: str | os.PathLike, corrections: Iterable[Correction]) -> None:
    """Writes, atomically, a table that Excel, LibreOffice and `read_corrections` can read."""
    rows = [
        [
            "" if row.id is None else row.id,
            *map(tables.escape_formula, (row.file, row.given_label, row.label)),
            row.decision,
            int(row.drawn),
            tables.escape_formula(row.note),
        ]
        for row in corrections
    ]
    tables.write_rows(pathlib.Path(path), [COLUMNS, *rows])


def read_corrections(
    path: str | os.PathLike,
    *,
    files: Sequence[str] | None,
    labels: np.ndarray,
    class_names: Sequence[str],
) -> Reviewed:
    """The labels of a data set after applying the corrections of a table.

    Args:
      path: path of the table. If it names both `file` and `id`, the file counts.
      files: paths of the N examples, if they are files.
      labels: int `[N]`, the given labels.
      class_names: class names of the label ids.

    Raises:
      UserError: if the table cannot be read, or rows of it are wrong, naming each by its line.
    """
    path = pathlib.Path(path).expanduser()
    rows = tables.read_rows(path, required=["label"])
    if rows and not {"id", "file"} & rows[0].cells.keys():
        raise DataError(f"{path} has neither a column file nor a column id; add one of them.")
    find = _Finder(files, len(labels))
    classes, number = tables.Texts(class_names), {name: i for i, name in enumerate(class_names)}
    corrected = np.array(labels, np.int32)
    review = np.full(len(labels), "", _REVIEW)
    first_line: dict[int, int] = {}
    problems = []
    for row in rows:
        try:
            i = find(row)
            if i in first_line:
                raise _Problem(f"repeats {find.name(i)} of line {first_line[i]}")
            first_line[i] = row.line
            label = _decided(row, class_names[int(labels[i])], classes)
        except _Problem as problem:
            problems.append(f"line {row.line} {problem}")
            continue
        if label == _NO_CLASS:
            review[i] = EXCLUDED
        elif label is not None:
            corrected[i] = number[label]
            review[i] = KEPT if corrected[i] == labels[i] else CORRECTED
    tables.refuse_if_any(path, problems)
    return Reviewed(corrected, review)


def read_all_corrections(
    paths: Sequence[str | os.PathLike],
    *,
    files: Sequence[str] | None,
    labels: np.ndarray,
    class_names: Sequence[str],
) -> Reviewed:
    """`read_corrections` for several tables in order; later tables take precedence."""
    corrected, last = np.array(labels, np.int32), np.full(len(labels), "", _REVIEW)
    for path in paths:
        found = read_corrections(path, files=files, labels=corrected, class_names=class_names)
        corrected, last = found.labels, np.where(found.review != "", found.review, last)
    review = np.where(corrected == labels, KEPT, CORRECTED)
    return Reviewed(corrected, np.where((last == "") | (last == EXCLUDED), last, review))


_REVIEW = f"<U{max(map(len, (KEPT, CORRECTED, EXCLUDED)))}"
_NO_CLASS = ""


class _Problem(Exception):
    """The problem of a row, as the end of a sentence that begins with its line."""


class _Finder:
    """The position of the example that a row is about."""

    def __init__(self, files: Sequence[str] | None, count: int):
        self._files = files
        self._count = count
        self._of_file = {_normal(file): i for i, file in enumerate(files or ())}

    def name(self, i: int) -> str:
        return f"id {i}" if self._files is None else self._files[i]

    def __call__(self, row: tables.Row) -> int:
        file, number = (row.cells.get(name, "") for name in ("file", "id"))
        if file and self._files is not None:
            for written in (file, tables.unescape_formula(file)):
                if (i := self._of_file.get(_normal(written))) is not None:
                    return i
            raise _Problem(f"names {file!r}, which is not a training image")
        if not number:
            raise _Problem("names no file and no id" if self._files else "names no id")
        if not number.isdecimal() or int(number) >= self._count:
            raise _Problem(f"has the id {number!r}, which must lie in 0 to {self._count - 1}")
        return int(number)


def _normal(file: str) -> str:
    return unicodedata.normalize("NFC", file.replace("\\", "/")).removeprefix("./")


def _decided(row: tables.Row, given: str, classes: tables.Texts) -> str | None:
    """The class that a person decided for; `_NO_CLASS` for none, None where nothing was decided."""
    written, decision = row.cells["label"], row.cells.get("decision", "").lower()
    label = classes.find(written) if written else None
    if written and label is None:
        raise _Problem(f"says {written!r}, which is not a class: {classes.hint(written)}")
    if decision and decision not in DECISIONS:
        raise _Problem(f"has the decision {decision!r}; write one of {', '.join(DECISIONS)}")
    if (was := row.cells.get("given_label")) and classes.find(was) not in (given, label):
        raise _Problem(f"was written when the label was {was!r}, but now it is {given!r}")
    if decision in ("unsure", "exclude"):
        if label is not None:
            was = {"unsure": "is unsure", "exclude": "excludes the image"}[decision]
            raise _Problem(f"{was}, but says {written!r}; clear one of them")
        return None if decision == "unsure" else _NO_CLASS
    if decision == "keep":
        if label not in (None, given):
            raise _Problem(f"keeps the label {given!r}, but says {written!r}")
        return given
    if decision and label is None:
        raise _Problem(f"has the decision {decision}, but no label")
    return label
