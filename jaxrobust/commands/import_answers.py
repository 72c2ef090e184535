"""`jaxrobust import`: imports answers from Label Studio or CVAT into a run, without JAX."""

import pathlib
from collections.abc import Sequence

from jaxrobust.commands.export import add_run
from jaxrobust.commands.parser import Parser, new_file
from jaxrobust.data.corrections import Correction, write_corrections
from jaxrobust.data.tables import escape_formula, refuse_if_any, write_rows
from jaxrobust.errors import UserError
from jaxrobust.review.annotation_tools import Answer, read_cvat, read_label_studio
from jaxrobust.review.questions import Questions, questions


def main(argv: list[str] | None = None) -> int:
    """`jaxrobust import`; returns the exit code."""
    parser = Parser(
        "import",
        description="Reads the answers of an annotation tool, into the table of the latest query "
        "of a run or into corrections.csv: JSON or JSON-MIN of Label Studio, or "
        '"CVAT for images 1.1".',
    )
    add_run(parser)
    parser.add_argument("file", type=pathlib.Path, metavar="FILE", help=".json or .xml")
    parser.add_argument(
        "--out",
        type=new_file,
        help="for wrong labels: table to write; default: RUN/corrections.csv",
    )
    arguments = parser.parse_args(argv)
    path = arguments.file
    if not path.is_file():
        raise UserError(f"There is no file {path}; correct its name.")
    if path.suffix not in (".json", ".xml"):
        raise UserError(f"{path} is neither a .json file of Label Studio nor an .xml file of CVAT.")
    read = read_label_studio if path.suffix == ".json" else read_cvat
    asked = questions(arguments.run, arguments.round, arguments.top or 10**9)
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


def _write_review(out: pathlib.Path, asked: Questions, answers: dict[int, Answer]) -> None:
    if out.exists():
        raise UserError(f"{out} already exists; name another table by --out=.")
    corrections = []
    for i, answer in sorted(answers.items()):
        given, suggested = (asked.rows[i][name] for name in ("given_label", "suggested_label"))
        decision = {"": "unsure", suggested: "accept", given: "keep"}.get(answer.label, "other")
        item = asked.items[i]
        corrections.append(Correction(item.id, item.file, given, answer.label, decision))
    write_corrections(out, corrections)


def _fill(asked: Questions, answers: dict[int, Answer]) -> None:
    """Writes answers into the table of a query; other cells stay unchanged."""
    for i, answer in answers.items():
        asked.rows[i]["label"] = escape_formula(answer.label or "skip")
    rows: list[Sequence[str]] = [list(asked.rows[0])]
    rows += [list(row.values()) for row in asked.rows]
    write_rows(asked.table, rows)
