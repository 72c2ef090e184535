"""The tables of a person's queries: written with an empty column `label`, read back with answers.

The images of a query are chosen once and recorded in `queries/round_XX.json`. After it the table
`queries/round_XX.csv`, the page `round_XX.html` and the contact sheet `round_XX.png` are written,
each atomically; an existing table is never overwritten. The same images are therefore queried after
a kill, a deleted file or a repeated computation.

A cell of the column `label` is a class, `unknown`, `skip`, or empty. A partly filled table ends the
round; an entirely empty one does not. Images left empty may be queried again in any later round,
skipped ones only when no others are left, and those skipped twice never again. All tables are read
before every round, so that answers may be changed or added later.
"""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jaxrobust.data import tables
from jaxrobust.data.readers import decode_images
from jaxrobust.engine.files import format_number, write_json, write_text
from jaxrobust.errors import UserError
from jaxrobust.methods.strategy import Query
from jaxrobust.report.figures import contact_sheet
from jaxrobust.review import annotation_page

UNKNOWN, SKIP = "unknown", "skip"
"""Labels of an image of no known class, and of an image that is not to be labelled."""

_MAX_SKIPS = 2
_TILE = 96


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a person wrote into a table."""

    labels: dict[int, str]  # class or `UNKNOWN` by id
    skipped: tuple[int, ...]  # ids
    empty: tuple[int, ...]  # lines without an answer

    @property
    def is_untouched(self) -> bool:
        """Whether nothing was written at all."""
        return not self.labels and not self.skipped


@dataclasses.dataclass(frozen=True)
class Merged:
    """The answers of several rounds; the latest one counts."""

    labels: dict[int, str]  # class or `UNKNOWN` by id
    rounds: dict[int, int]  # in which each id was answered
    skips: collections.Counter[int]  # how often each id was skipped


@dataclasses.dataclass(frozen=True)
class Annotator:
    """The person's side of a run."""

    folder: pathlib.Path  # `queries/` of the workdir
    # folder of the data set, from which `files` are relative; None: no contact sheets
    root: pathlib.Path | None
    files: Sequence[str]  # of every image by id, where it is now
    class_names: Sequence[str]  # the known classes
    new_classes: Sequence[str] = ()  # names that the person has confirmed to be classes too

    def table(self, round_: int) -> pathlib.Path:
        """The file that the person fills."""
        return self.folder / f"round_{round_:02d}.csv"

    def page(self, round_: int) -> pathlib.Path:
        """The page on which it is filled by looking."""
        return self.table(round_).with_suffix(".html")

    def sheet(self, round_: int) -> pathlib.Path:
        """The contact sheet."""
        return self.table(round_).with_suffix(".png")

    def _note(self, round_: int) -> pathlib.Path:
        return self.table(round_).with_suffix(".json")

    def is_asked(self, round_: int) -> bool:
        """Whether the query of a round is recorded."""
        return self._note(round_).exists()

    def asked(self, round_: int, count: int) -> Query | None:
        """The recorded query of a round of `count` images, or None; scores are NaN at other ids."""
        if not self.is_asked(round_):
            return None
        query, _ = self._read_note(round_, count)
        return query

    def _read_note(self, round_: int, count: int) -> tuple[Query, list[str]]:
        """The query of a round, and the files of its images at that time."""
        try:
            note = json.loads(self._note(round_).read_text())
            ids = np.array(note["ids"], np.int64)
            columns = {name: np.full(count, np.nan) for name in note["scores"]}
            for name, column in columns.items():
                column[ids] = note["scores"][name]
            return Query(ids=ids, scores=columns, notes=note["notes"]), list(note["files"])
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"{self._note(round_)} is damaged ({error}); restore it, or delete it if "
                f"{self.table(round_)} is still empty."
            ) from None

    def ask(self, round_: int, query: Query, suggestions: Sequence[tuple[str, float]] = ()) -> None:
        """Records a query and writes its table, page and contact sheet.

        Args:
          round_: counted from 0.
          query: what is asked about.
          suggestions: the most probable class of each image, and its probability; on the page a
            person may hide them.
        """
        note = {
            "ids": [int(i) for i in query.ids],
            "files": [self.files[int(i)] for i in query.ids],
            "scores": {
                name: np.asarray(column, np.float64)[query.ids].tolist()
                for name, column in query.scores.items()
            },
            "notes": query.notes,
            "suggestions": list(suggestions),
        }
        write_json(self._note(round_), note)
        self.show(round_, query)

    def show(self, round_: int, query: Query) -> None:
        """Writes the contact sheet, the table and the page where they are missing."""
        if not self.sheet(round_).exists():
            self._draw_sheet(round_, query, {})
        rows = query_rows(query, self.files)
        if not self.table(round_).exists():
            write_text(self.table(round_), tables.to_csv(rows))
        if not self.page(round_).exists():
            suggestions = json.loads(self._note(round_).read_text()).get("suggestions", [])
            annotation_page.write(
                self.page(round_),
                rows,
                self.class_names,
                root=self.root,
                suggestions=suggestions,
            )

    def show_answers(self, round_: int, query: Query, answers: Answers) -> None:
        """Draws the contact sheet again with the answers, if the table is newer."""
        table, sheet = self.table(round_), self.sheet(round_)
        is_newer = sheet.exists() and table.stat().st_mtime_ns > sheet.stat().st_mtime_ns
        if is_newer and not answers.is_untouched:
            self._draw_sheet(round_, query, answers.labels | dict.fromkeys(answers.skipped, SKIP))

    def _draw_sheet(self, round_: int, query: Query, labels: Mapping[int, str]) -> None:
        """Writes the contact sheet, with the answers as far as there are some."""
        files = [self.files[int(i)] for i in query.ids]
        if self.root is None:
            return
        # The first line of the table is its header.
        captions = [f"{n}: {pathlib.Path(f).name}" for n, f in enumerate(files, start=2)]
        given = [labels.get(int(i), "–") for i in query.ids]
        if labels:
            captions = [f"{one}\n{answer}" for one, answer in zip(captions, given, strict=True)]
        contact_sheet(
            decode_images([(f, self.root / f) for f in files], _TILE),
            captions,
            self.sheet(round_),
            wrong=np.array([x == UNKNOWN for x in given]) if labels else None,
        )

    def answers(self, round_: int) -> Answers:
        """What the person wrote about the images of a round.

        Refuses, by line, a table that is not as written but for the labels, and labels of no class.
        """
        path = self.table(round_)
        query, files = self._read_note(round_, len(self.files))
        # By where an image is now, and where it was then.
        asked = {
            int(i): {self.files[int(i)], file} for i, file in zip(query.ids, files, strict=True)
        }
        valid = tables.Texts([*self.class_names, *self.new_classes, UNKNOWN, SKIP])
        labels: dict[int, str] = {}
        first_line: dict[int, int] = {}
        empty, problems, strange = [], [], []
        for row in tables.read_rows(path, required=("id", "file", "label")):
            image, problem = _image(row, asked, first_line)
            if image is not None:
                first_line[image] = row.line
            if problem:
                problems.append(problem)
            elif not row.cells["label"]:
                empty.append(row.line)
            elif (label := valid.find(row.cells["label"])) is None:
                name = tables.unescape_formula(row.cells["label"])
                strange.append(name)
                problems.append(f"line {row.line}: {name!r} is not a class, {valid.hint(name)}")
            elif image is not None:
                labels[image] = label
        problems += [f"no line for id {i} ({self.files[i]})" for i in asked if i not in first_line]
        tables.refuse_if_any(path, problems, _confirmation(strange))
        skipped = tuple(i for i, label in labels.items() if label == SKIP)
        return Answers(
            {i: label for i, label in labels.items() if label != SKIP}, skipped, tuple(empty)
        )

    def merged(self, num_rounds: int) -> Merged:
        """The answers of the first rounds, as far as their tables are there."""
        labels, rounds, skips = {}, {}, collections.Counter()
        for round_ in range(num_rounds):
            if not self.is_asked(round_) or not self.table(round_).exists():
                continue
            answers = self.answers(round_)
            labels |= answers.labels
            rounds |= dict.fromkeys(answers.labels, round_)
            skips.update(answers.skipped)
        return Merged(labels, rounds, skips)

    def eligible(self, num_rounds: int, in_pool: np.ndarray) -> np.ndarray:
        """bool `[N]`, images of the pool that may be queried after the first rounds."""
        skips = np.zeros(len(in_pool), np.int64)
        for i, count in self.merged(num_rounds).skips.items():
            if i < len(skips):
                skips[i] = count
        for count in range(_MAX_SKIPS):
            found = in_pool & (skips == count)
            if found.any():
                return found
        return np.zeros_like(in_pool)


def _image(
    row: tables.Row, asked: dict[int, set[str]], first_line: dict[int, int]
) -> tuple[int | None, str]:
    """The id of a row, None if it was not queried, and what is wrong with the row."""
    written, file = row.cells["id"], row.cells["file"]
    image = int(written) if written.isdecimal() else None
    if image not in asked:
        return None, f"line {row.line}: id {written!r} was not asked about"
    if image in first_line:
        return None, f"line {row.line} repeats id {image} of line {first_line[image]}"
    if tables.Texts(asked[image]).find(file) is None:
        return image, f"line {row.line}: id {image} is {sorted(asked[image])[0]}, not {file!r}"
    return image, ""


def _confirmation(names: Iterable[str]) -> str:
    """How to confirm that names that are not classes are new classes."""
    names = list(dict.fromkeys(name for name in names if not new_class_problem(name)))
    if not names:
        return ""
    whose = f"{names[0]!r} is a new class" if len(names) == 1 else "these are new classes"
    return f", or, if {whose}, add --config.al.new_classes={','.join(names)}"


def new_class_problem(name: str) -> str:
    """Why a name cannot become that of a class, or nothing."""
    if name in (UNKNOWN, SKIP, "unlabeled"):
        return f"{name!r} is reserved"
    if not name or name.startswith(".") or set(name) & set("/\\,\0"):
        return f"{name!r} cannot be the name of a folder"
    return ""


def query_rows(
    query: Query, files: Sequence[str] | None, labels: Sequence[str] | None = None
) -> list[list]:
    """The header, then the chosen images in order of choice, with their labels and scores."""
    rows: list[list] = [["id", *(["file"] if files else []), "label", *query.scores]]
    for n, i in enumerate(query.ids):
        cells = [format_number(column[i]) for column in query.scores.values()]
        file = [tables.escape_formula(files[int(i)])] if files else []
        rows.append([int(i), *file, tables.escape_formula(labels[n]) if labels else "", *cells])
    return rows
