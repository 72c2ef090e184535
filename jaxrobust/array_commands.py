"""Commands on files of arrays: `jaxrobust find-label-issues`."""

import csv
import pathlib
from collections.abc import Sequence

import numpy as np

from jaxrobust.command_line import Parser
from jaxrobust.data.features import open_arrays, read_labels
from jaxrobust.errors import UserError
from jaxrobust.label_issues import QUALITY_FILE
from jaxrobust.label_issues import find_label_issues as find


def find_label_issues(argv: list[str] | None = None) -> int:
    """`jaxrobust find-label-issues`; returns the exit code."""
    parser = Parser(
        "find-label-issues",
        description="Lists labels that are probably wrong, the most suspicious first.",
        epilog="A .npz file may hold labels, pred_probs and class_names together, and then needs "
        "no other file. Of a .csv file of labels the column 'label' is read, or the only one; one "
        "of probabilities has a column for each class, named by it in a first line or not.",
    )
    parser.add_argument("labels", type=pathlib.Path, help=".npz, .npy or .csv file")
    parser.add_argument("--pred-probs", type=pathlib.Path, help=".npz, .npy or .csv file [N, C]")
    parser.add_argument("--class-names", help="in the order of the columns, separated by commas")
    parser.add_argument("--out", type=pathlib.Path, default=QUALITY_FILE, help="table to write")
    arguments = parser.parse_args(argv)
    labels, names = _labels(arguments.labels)
    probs, columns = _probabilities(arguments.pred_probs or arguments.labels)
    names = arguments.class_names.split(",") if arguments.class_names else columns or names
    issues = find(labels, pred_probs=probs, class_names=names)
    issues.save(arguments.out)
    print(f"{issues.summary['num_issues']:,} of {len(issues):,} labels look wrong.")
    for given, suggested, count in issues.summary["most_confused"]:
        print(f"  {count:,} labelled {given} that look like {suggested}")
    print(f"every label, the most suspicious first: {arguments.out}")
    return 0


def _labels(path: pathlib.Path) -> tuple[np.ndarray, Sequence[str] | None]:
    """Labels of a file, and the names of their classes where they are in it."""
    _check_exists(path)
    if path.suffix != ".npz":
        return read_labels(path), None
    arrays = open_arrays(path)
    names = arrays.get("class_names", arrays.get("label_names"))
    return _named(arrays, path, "labels"), None if names is None else names.tolist()


def _probabilities(path: pathlib.Path) -> tuple[np.ndarray, Sequence[str] | None]:
    """Probabilities of a file, and the names of their columns where they are in it."""
    _check_exists(path)
    if path.suffix == ".npz":
        return _named(open_arrays(path), path, "pred_probs"), None
    if path.suffix == ".npy":
        return open_arrays(path)["features"], None
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines(), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path} is no .npz, .npy or .csv file of probabilities ({error})."
        ) from None
    names = rows.pop(0) if rows and not all(map(_is_number, rows[0])) else None
    for line, row in enumerate(rows, start=1 if names is None else 2):
        if len(row) != len(rows[0]) or not all(map(_is_number, row)):
            raise UserError(f"{path} has no line of {len(rows[0])} numbers in line {line}.")
    return np.array(rows, np.float64), names


def _named(arrays: dict[str, np.ndarray], path: pathlib.Path, name: str) -> np.ndarray:
    if name not in arrays:
        raise UserError(f"{path} holds no array {name!r}, only {', '.join(arrays)}.")
    return arrays[name]


def _check_exists(path: pathlib.Path) -> None:
    if not path.is_file():
        raise UserError(f"There is no file {path}.")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
