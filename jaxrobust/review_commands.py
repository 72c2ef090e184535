"""Commands on questions to a person and answers: `apply-corrections`, `export` and `import`.

JAX is not imported.
"""

import argparse
import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxrobust.annotation_tools import (
    LOCAL_FILES,
    Answer,
    Item,
    cvat_annotations,
    label_studio_interface,
    label_studio_tasks,
    read_cvat,
    read_label_studio,
)
from jaxrobust.command_line import Parser
from jaxrobust.data.class_folders import UNLABELED
from jaxrobust.data.corrections import (
    CORRECTED,
    KEPT,
    Correction,
    read_all_corrections,
    write_corrections,
)
from jaxrobust.data.places import listed, subfolders
from jaxrobust.data.tables import (
    escape_formula,
    read_rows,
    refuse_if_any,
    unescape_formula,
    write_rows,
)
from jaxrobust.engine.workdir import read_object
from jaxrobust.errors import UserError
from jaxrobust.export_command import TOOLS


def apply_corrections(argv: list[str] | None = None) -> int:
    """`jaxrobust apply-corrections`; returns the exit code."""
    parser = Parser(
        "apply-corrections",
        description="Writes a table with the columns file and label of all labels, corrected by "
        "corrections.csv. No image is read, moved or changed.",
    )
    parser.add_argument(
        "labels",
        type=pathlib.Path,
        metavar="DIR_OR_TABLE",
        help="folder of class folders, or .csv file with the columns file and label",
    )
    parser.add_argument(
        "corrections",
        type=pathlib.Path,
        nargs="+",
        metavar="CORRECTIONS",
        help="tables as saved by label_review.html; of several answers the last one counts",
    )
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("labels.csv"), help="table to write"
    )
    arguments = parser.parse_args(argv)
    source = arguments.labels.expanduser()
    if arguments.out.exists() and arguments.out.resolve() in {
        path.resolve() for path in (source, *arguments.corrections)
    }:
        raise UserError(f"--out={arguments.out} would overwrite an input; name another file.")
    files, names = _of_folder(source) if source.is_dir() else _of_table(source)
    classes, labels = np.unique(names, return_inverse=True)
    reviewed = read_all_corrections(
        arguments.corrections, files=files, labels=labels, class_names=classes.tolist()
    )
    rows = [
        [escape_formula(file), escape_formula(str(classes[label]))]
        for file, label in zip(files, reviewed.labels, strict=True)
    ]
    write_rows(arguments.out, [["file", "label"], *rows])
    counts = [int(np.sum(reviewed.review == word)) for word in (CORRECTED, KEPT)]
    print(
        f"{len(files):,} labels, {counts[0]:,} of them corrected and {counts[1]:,} kept by review: "
        f"{arguments.out}"
    )
    return 0


def _of_folder(root: pathlib.Path) -> tuple[list[str], list[str]]:
    """Files and classes of the images in class folders, of all splits."""
    splits = [name for name in ("train", "test", "val") if subfolders(root / name)] or [""]
    entries = [entry for split in splits for entry in listed(root, split)]
    entries = [(file, name) for name, file, _ in entries if name != UNLABELED]
    if not entries:
        raise UserError(
            f"{root} holds no folders of images, one for each class; name such a folder, or a "
            ".csv file with the columns file and label."
        )
    files, names = map(list, zip(*entries, strict=True))
    return files, names


def _of_table(path: pathlib.Path) -> tuple[list[str], list[str]]:
    rows = read_rows(path, required=["file", "label"])
    files, names, problems = [], [], []
    first_line: dict[str, int] = {}
    for line, cells in rows:
        file, name = (unescape_formula(cells[column]) for column in ("file", "label"))
        if not file or not name:
            problems.append(f"line {line} has no {'label' if file else 'file'}")
        elif file in first_line:
            problems.append(f"line {line} repeats {file} of line {first_line[file]}")
        first_line.setdefault(file, line)
        files.append(file)
        names.append(name)
    refuse_if_any(path, problems)
    if not rows:
        raise UserError(f"{path} has no row below its first line; name the table of all labels.")
    return files, names


class _Questions(NamedTuple):
    """The questions of a run to a person: the latest query, or the labels that look wrong.

    Attributes:
      workdir: of the run.
      table: file of the questions.
      rows: of this table.
      items: the images of these rows.
      choices: possible answers.
      facts: names of `Item.facts`.
      method: of the run.
      root: folder of the images.
      is_review: whether the questions are about labels that look wrong.
    """

    workdir: pathlib.Path
    table: pathlib.Path
    rows: list[dict[str, str]]
    items: list[Item]
    choices: list[str]
    facts: tuple[str, ...]
    method: str
    root: pathlib.Path
    is_review: bool


def _questions(workdir: pathlib.Path, round_: int | None, top: int | None) -> _Questions:
    if not (workdir / "config.json").is_file():
        raise UserError(f"{workdir} is not a workdir: it holds no config.json; name that of a run.")
    config = read_object(workdir / "config.json")
    root = pathlib.Path(config["dataset"]["path"]).expanduser()
    if config["task"] == "active_learning" and config["oracle"] == "csv":
        table = _query_table(workdir, round_)
        note = read_object(table.with_suffix(".json"))
        suggested = dict(zip(note["ids"], note["suggestions"], strict=True))
        names = [*read_object(workdir / "queries" / "images.json")["classes"], "unknown"]
        lines = read_rows(table, required=("id", "file", "label"))
        ids = {str(i): i for i in note["ids"]}
        strange = [row for row in lines if row.cells["id"] not in ids]
        refuse_if_any(
            table, [f"line {x.line}: id {x.cells['id']!r} was not asked about" for x in strange]
        )
        rows = [dict(row.cells) for row in lines]
        items = [
            Item(ids[row["id"]], unescape_formula(row["file"]), *suggested[ids[row["id"]]])
            for row in rows
        ]
        found = (rows, items, names, (), config["method"], root, False)
        return _Questions(workdir, table, *found)
    if config["task"] != "noisy_labels":
        raise UserError(
            f"{workdir} has no questions for a person; give a run of noisy labels, or of "
            "annotation with oracle=csv."
        )
    table = workdir / "label_quality.csv"
    columns = ("id", "file", "given_label", "suggested_label", "clean_prob", "flagged")
    rows = [
        {name: unescape_formula(cell) for name, cell in row.cells.items()}
        for row in read_rows(table, required=columns)
        if not row.cells.get("reviewed")
    ]
    rows = rows[:top] if top else [row for row in rows if row["flagged"] == "1"]
    items = [
        Item(
            int(row["id"]),
            row["file"],
            row["suggested_label"],
            1 - float(row["clean_prob"]),
            {"given_label": row["given_label"]},
        )
        for row in rows
    ]
    names = read_object(workdir / "noise.json")["class_names"]
    found = (rows, items, names, ("given_label",), config["method"], root, True)
    return _Questions(workdir, table, *found)


def _query_table(workdir: pathlib.Path, round_: int | None) -> pathlib.Path:
    name = "round_[0-9][0-9]" if round_ is None else f"round_{round_:02d}"
    tables = sorted((workdir / "queries").glob(f"{name}.csv"))
    if not tables:
        which = "no query" if round_ is None else f"no query of round {round_}"
        raise UserError(f"{workdir} holds {which}; repeat the command of the run first.")
    return tables[-1]


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=pathlib.Path, metavar="RUN", help="workdir of the run")
    parser.add_argument(
        "--round", type=int, help="for annotation: round of the query, from 0; default: the latest"
    )
    parser.add_argument(
        "--top",
        type=int,
        help="for wrong labels: number of the most suspicious ones; default: all flagged ones",
    )


def export_questions(argv: list[str] | None = None) -> int:
    """`jaxrobust export`; returns the exit code."""
    parser = Parser(
        "export",
        description="Writes images of a run for an annotation tool: those of its latest query, or "
        "those whose labels look wrong, with the suggestions of the run.",
    )
    _add_run(parser)
    parser.add_argument("--to", choices=TOOLS, required=True)
    parser.add_argument(
        "--url",
        default=LOCAL_FILES,
        help="for Label Studio: prefix of every file; default: local files, where "
        "LOCAL_FILES_DOCUMENT_ROOT is the folder of the data set",
    )
    parser.add_argument(
        "--out", type=pathlib.Path, help="folder; default: RUN/label-studio or RUN/cvat"
    )
    arguments = parser.parse_args(argv)
    asked = _questions(arguments.run, arguments.round, arguments.top)
    if not asked.items:
        raise UserError(
            f"{asked.table} flags no label; name a number of the most suspicious ones by --top=."
        )
    folder = arguments.out or arguments.run / arguments.to
    if arguments.to == "label-studio":
        tasks = label_studio_tasks(asked.items, model=asked.method, url=arguments.url)
        files = {
            "tasks.json": json.dumps(tasks, indent=2, ensure_ascii=False) + "\n",
            "interface.xml": label_studio_interface(asked.choices, asked.facts),
        }
    else:
        labels = [{"name": name, "type": "tag", "attributes": []} for name in asked.choices]
        files = {
            "annotations.xml": cvat_annotations(asked.items, asked.choices, _sizes(asked)),
            "labels.json": json.dumps(labels, indent=2, ensure_ascii=False) + "\n",
        }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
    written = " and ".join(str(folder / name) for name in files)
    print(f"{len(asked.items)} images to annotate: {written}")
    return 0


def _sizes(asked: _Questions) -> list[tuple[int, int]]:
    sizes = []
    for item in asked.items:
        try:
            with Image.open(asked.root / item.file) as image:
                sizes.append(image.size)
        except OSError as error:
            raise UserError(
                f"{asked.root / item.file} cannot be read ({error}), but CVAT needs the sizes of "
                "images; restore the folder that the run used."
            ) from None
    return sizes


def import_answers(argv: list[str] | None = None) -> int:
    """`jaxrobust import`; returns the exit code."""
    parser = Parser(
        "import",
        description="Reads the answers of an annotation tool, into the table of the latest query "
        "of a run or into corrections.csv: JSON or JSON-MIN of Label Studio, or "
        '"CVAT for images 1.1".',
    )
    _add_run(parser)
    parser.add_argument("file", type=pathlib.Path, metavar="FILE", help=".json or .xml")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        help="for wrong labels: table to write; default: RUN/corrections.csv",
    )
    arguments = parser.parse_args(argv)
    path = arguments.file
    if not path.is_file():
        raise UserError(f"There is no file {path}; correct its name.")
    if path.suffix not in (".json", ".xml"):
        raise UserError(f"{path} is neither a .json file of Label Studio nor an .xml one of CVAT.")
    read = read_label_studio if path.suffix == ".json" else read_cvat
    asked = _questions(arguments.run, arguments.round, arguments.top or 10**9)
    answers = read(path)
    position = {item.file: i for i, item in enumerate(asked.items)}
    strange = [
        f"{answer.file!r} is not an image of {asked.table}"
        for answer in answers
        if answer.file not in position
    ]
    strange += [
        f"{answer.file} has the answer {answer.label!r}, which is not a class"
        for answer in answers
        if answer.file in position and answer.label and answer.label not in asked.choices
    ]
    refuse_if_any(path, strange)
    place = {position[answer.file]: answer for answer in answers}
    if asked.is_review:
        out = arguments.out or arguments.run / "corrections.csv"
        _write_review(out, asked, place)
    else:
        out = asked.table
        _fill(asked, place)
    print(f"{len(place)} of {len(asked.items)} images were answered: {out}")
    return 0


def _write_review(out: pathlib.Path, asked: _Questions, answers: dict[int, Answer]) -> None:
    if out.exists():
        raise UserError(f"{out} exists already; name another table by --out=.")
    corrections = []
    for i, answer in sorted(answers.items()):
        given, suggested = (asked.rows[i][name] for name in ("given_label", "suggested_label"))
        decision = {"": "unsure", suggested: "accept", given: "keep"}.get(answer.label, "other")
        item = asked.items[i]
        corrections.append(Correction(item.id, item.file, given, answer.label, decision))
    write_corrections(out, corrections)


def _fill(asked: _Questions, answers: dict[int, Answer]) -> None:
    """Writes answers into the table of a query; other cells are not changed."""
    for i, answer in answers.items():
        asked.rows[i]["label"] = escape_formula(answer.label or "skip")
    rows: list[Sequence[str]] = [list(asked.rows[0])]
    rows += [list(row.values()) for row in asked.rows]
    write_rows(asked.table, rows)
