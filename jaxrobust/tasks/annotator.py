"""A person as oracle: questions as a table with an empty column, answers read back from it.

The images of a round are decided once. `queries/round_XX.json` keeps them from then on, and the
table `queries/round_XX.csv` and the contact sheet `queries/round_XX.png` are written after it, each
in one piece and never over an existing table. So after a kill, a deleted file or a repeated
computation the same images are asked about, and a written answer is never asked for again.
"""

import csv
import dataclasses
import difflib
import io
import json
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from jaxrobust.data.readers import decode_images
from jaxrobust.data.tables import escape_formula, unescape_formula
from jaxrobust.engine.files import (
    format_number,
    write_json,
    write_text,
)
from jaxrobust.errors import UserError
from jaxrobust.figures import contact_sheet
from jaxrobust.methods.active_learning import Query

UNKNOWN = "unknown"
"""What a person writes for an image of none of the known classes."""

_MAX_PROBLEMS = 5
_TILE = 96


@dataclasses.dataclass(frozen=True)
class Annotator:
    """The person's side of a run.

    Attributes:
      folder: `queries/` of the workdir.
      root: folder of the data set, from which `files` are relative; None: no contact sheets.
      files: of every training image.
      class_names: the K known classes, in the order of their labels.
    """

    folder: pathlib.Path
    root: pathlib.Path | None
    files: Sequence[str]
    class_names: Sequence[str]

    def table(self, round_: int) -> pathlib.Path:
        """The file that the person fills."""
        return self.folder / f"round_{round_:02d}.csv"

    def sheet(self, round_: int) -> pathlib.Path:
        """The contact sheet."""
        return self.table(round_).with_suffix(".png")

    def asked(self, round_: int) -> Query | None:
        """The query of a round as it was decided, or None; scores only at its ids, NaN elsewhere.

        Raises:
          UserError: if the note of it is damaged.
        """
        path = self.table(round_).with_suffix(".json")
        if not path.exists():
            return None
        try:
            note = json.loads(path.read_text())
            ids = np.array(note["ids"], np.int64)
            columns = {name: np.full(len(self.files), np.nan) for name in note["scores"]}
            for name, column in columns.items():
                column[ids] = note["scores"][name]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"{path} is damaged ({error}); restore it, or delete it if {self.table(round_)} is "
                "still empty."
            ) from None
        return Query(ids=ids, scores=columns, notes=note["notes"])

    def ask(self, round_: int, query: Query) -> None:
        """Writes the questions, for the program and for the person."""
        note = {
            "ids": [int(i) for i in query.ids],
            "scores": {
                name: np.asarray(column, np.float64)[query.ids].tolist()
                for name, column in query.scores.items()
            },
            "notes": query.notes,
        }
        write_json(self.table(round_).with_suffix(".json"), note)
        self.show(round_, query)

    def show(self, round_: int, query: Query) -> None:
        """Writes the contact sheet and the table where they are missing."""
        if self.root is not None and not self.sheet(round_).exists():
            files = [self.files[int(i)] for i in query.ids]
            # The first line of the table is its header.
            captions = [f"{n}: {pathlib.Path(f).name}" for n, f in enumerate(files, start=2)]
            contact_sheet(
                decode_images([(f, self.root / f) for f in files], _TILE),
                captions,
                self.sheet(round_),
            )
        if not self.table(round_).exists():
            write_text(self.table(round_), query_table(query, self.files))

    def answers(self, round_: int, query: Query) -> tuple[np.ndarray | None, str]:
        """What the person wrote.

        Returns:
          (int32 `[b]` annotations in the order of `query.ids`, "") or (None, what is missing).

        Raises:
          UserError: if the table is not as it was written but for the labels, or a label is not a
            class; the lines are named.
        """
        path = self.table(round_)
        labels = {name: label for label, name in enumerate([*self.class_names, UNKNOWN])}
        asked = {int(i): self.files[i] for i in query.ids}
        answers: dict[int, int] = {}
        first_line: dict[int, int] = {}
        empty, problems = [], []
        for line, row in _rows(path):
            row = {name: (row.get(name) or "").strip() for name in ("id", "file", "label")}
            image = int(row["id"]) if row["id"].isdecimal() else None
            if image not in asked:
                problems.append(f"line {line}: id {row['id']!r} was not asked about")
            elif image in first_line:
                problems.append(f"line {line} repeats id {image} of line {first_line[image]}")
            else:
                first_line[image] = line
                label = row["label"] if row["label"] in labels else unescape_formula(row["label"])
                if asked[image] not in (row["file"], unescape_formula(row["file"])):
                    problems.append(
                        f"line {line}: id {image} is {asked[image]}, not {row['file']!r}"
                    )
                elif not row["label"]:
                    empty.append(line)
                elif label not in labels:
                    problems.append(f"line {line}: {_no_class(label, labels)}")
                else:
                    answers[image] = labels[label]
        problems += [f"no line for id {i} ({f})" for i, f in asked.items() if i not in first_line]
        if problems:
            shown = "; ".join(problems[:_MAX_PROBLEMS])
            more = len(problems) - _MAX_PROBLEMS
            raise UserError(
                f"{path}: {shown}{f'; and {more} more' if more > 0 else ''}. Correct this and type "
                "the same command again."
            )
        if empty:
            return (
                None,
                f"{len(empty)} of {len(asked)} labels are empty, the first in line {empty[0]}",
            )
        return np.array([answers[int(i)] for i in query.ids], np.int32), ""


def query_table(
    query: Query, files: Sequence[str] | None, labels: Sequence[str] | None = None
) -> str:
    """The chosen images in order of choice, with every score that led to it, as CSV.

    Args:
      query: what was chosen.
      files: of every training image, if images are files.
      labels: of the chosen images; None leaves the column empty.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["id", *(["file"] if files else []), *query.scores, "label"])
    for n, i in enumerate(query.ids):
        cells = [format_number(column[i]) for column in query.scores.values()]
        file = [escape_formula(files[int(i)])] if files else []
        table.writerow([int(i), *file, *cells, escape_formula(labels[n]) if labels else ""])
    return text.getvalue()


def _rows(path: pathlib.Path) -> list[tuple[int, dict[str, str]]]:
    """(line number, cells by column) of a table that may have been through a spreadsheet."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); save it as CSV in UTF-8.") from None
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    absent = {"id", "file", "label"} - set(reader.fieldnames or ())
    if absent:
        raise UserError(
            f"{path} has no column {', '.join(sorted(absent))} in its first line; put the header "
            "back, or delete the file to have it written again without labels."
        )
    try:
        return [(reader.line_num, row) for row in reader if any(row.values())]
    except csv.Error as error:
        raise UserError(
            f"{path} is not a table from line {reader.line_num} on ({error}); save it as CSV."
        ) from None


def _no_class(name: str, labels: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(labels), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"use {', '.join(labels)}"
    return f"{name!r} is no class, {hint}"
