"""A run's questions for a person: its latest query, or the labels that look wrong."""

import pathlib
from typing import NamedTuple

from jaxrobust.data.tables import read_rows, refuse_if_any, unescape_formula
from jaxrobust.engine.workdir import read_object
from jaxrobust.errors import UserError
from jaxrobust.review.annotation_tools import Item


class Questions(NamedTuple):
    """A run's questions for a person: the latest query, or the labels that look wrong."""

    workdir: pathlib.Path  # of the run
    table: pathlib.Path  # file of the questions
    rows: list[dict[str, str]]  # of this table
    items: list[Item]  # the images of these rows
    choices: list[str]  # possible answers
    facts: tuple[str, ...]  # names of `Item.facts`
    method: str  # of the run
    root: pathlib.Path  # folder of the images
    is_review: bool  # whether the questions are about labels that look wrong


def questions(workdir: pathlib.Path, round_: int | None, top: int | None) -> Questions:
    """The questions of a run: its latest query, that of a round, or its most suspicious labels."""
    if not (workdir / "config.json").is_file():
        raise UserError(
            f"{workdir} is not a workdir: it holds no config.json; name the workdir of a run."
        )
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
        return Questions(workdir, table, *found)
    if config["task"] != "noisy_labels":
        raise UserError(
            f"{workdir} has no questions for a person; give a noisy-label run, or an annotation "
            "run with oracle=csv."
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
    return Questions(workdir, table, *found)


def _query_table(workdir: pathlib.Path, round_: int | None) -> pathlib.Path:
    name = "round_[0-9][0-9]" if round_ is None else f"round_{round_:02d}"
    tables = sorted((workdir / "queries").glob(f"{name}.csv"))
    if not tables:
        which = "no query" if round_ is None else f"no query of round {round_}"
        raise UserError(f"{workdir} holds {which}; rerun the command of the run first.")
    return tables[-1]
