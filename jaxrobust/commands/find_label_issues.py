"""`jaxrobust find-label-issues`: finds wrong labels, from files of arrays."""

import pathlib
from collections.abc import Sequence

import numpy as np

from jaxrobust.api.label_issues import QUALITY_FILE, find_label_issues
from jaxrobust.commands.array_arguments import (
    FEATURES_HELP,
    add_training,
    check_exists,
    features,
    holds,
    named,
    training,
)
from jaxrobust.commands.parser import Parser, new_file
from jaxrobust.data.array_files import open_arrays
from jaxrobust.data.features import read_labels
from jaxrobust.data.tables import read_cells
from jaxrobust.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """`jaxrobust find-label-issues`; returns the exit code."""
    parser = Parser(
        "find-label-issues",
        description="Lists labels that are probably wrong, the most suspicious first.",
        epilog=(
            "A .npz file may hold labels, pred_probs or features, and class_names together; "
            "then no other file is needed. In a .csv file of labels, the column 'label' is "
            "read, or the only column. A .csv file of probabilities has a column for each "
            "class, with an optional first line of class names."
        ),
    )
    parser.add_argument("labels", type=pathlib.Path, help=".npz, .npy or .csv file")
    parser.add_argument("--pred-probs", type=pathlib.Path, help=".npz, .npy or .csv file [N, C]")
    parser.add_argument("--features", type=pathlib.Path, help=FEATURES_HELP)
    add_training(parser, "for noisy labels; default: auto, or dpc with --config")
    parser.add_argument(
        "--class-names", help="names in the order of the columns, separated by commas"
    )
    parser.add_argument("--out", type=new_file, default=QUALITY_FILE, help="table to write")
    parser.add_argument(
        "--images",
        type=pathlib.Path,
        metavar="DIR",
        help=(
            "folder of the images named by `files` in the .npz file; writes label_review.html "
            "next to --out"
        ),
    )
    arguments = parser.parse_args(argv)
    labels, names = _labels(arguments.labels)
    given = arguments.class_names.split(",") if arguments.class_names else None
    folder = arguments.images
    files = None if folder is None else _files(folder, arguments, len(labels))
    review = arguments.out.with_name("label_review.html")
    if files is not None and review.exists():
        raise UserError(
            f"{review} already exists, and answers may belong to it; delete it, or name a table "
            "in another folder by --out=, next to which the page is written."
        )
    if arguments.pred_probs is not None or holds(arguments.labels, "pred_probs"):
        if arguments.features is not None:
            raise UserError("Give one of --features= and --pred-probs=, not both.")
        probs, columns = _probabilities(arguments.pred_probs or arguments.labels)
        issues = find_label_issues(
            labels,
            pred_probs=probs,
            method=arguments.method,
            config=arguments.config,
            class_names=given or columns or names,
        )
    else:
        issues = find_label_issues(
            labels,
            features=features(arguments.features or arguments.labels),
            class_names=given or names,
            **training(arguments),
        )
    issues.save(arguments.out, files=files or _names(arguments, len(labels)))
    if files is not None and folder is not None:
        issues.save_review(review, files=files, folder=folder)
    print(f"{issues.summary['num_issues']:,} of {len(issues):,} labels look wrong.")
    for given, suggested, count in issues.summary["most_confused"]:
        print(f"  {count:,} labelled {given} that look like {suggested}")
    print(f"every label, the most suspicious first: {arguments.out}")
    if files is not None:
        print(f"page on which to review them: {review}")
    return 0


def _files(folder: pathlib.Path, arguments, count: int) -> list[str]:
    """The names of the images in a folder, from the file of features or labels."""
    if not folder.is_dir():
        raise UserError(f"--images={folder} is not a folder; name the one that holds the images.")
    files = _names(arguments, count)
    if files is not None:
        return files
    raise UserError(
        "--images= needs a .npz file in which `files` names an image for each label, as `python -m "
        "jaxrobust.embed` writes it."
    )


def _names(arguments, count: int) -> list[str] | None:
    """The image of each label, from the file of features or labels, if one names them."""
    for path in filter(None, (arguments.features, arguments.labels)):
        if holds(path, "files") and len(files := open_arrays(path)["files"]) == count:
            return files.tolist()
    return None


def _labels(path: pathlib.Path) -> tuple[np.ndarray, Sequence[str] | None]:
    """Labels in a file, and the names of their classes if it holds them."""
    check_exists(path)
    if path.suffix != ".npz":
        return read_labels(path), None
    arrays = open_arrays(path)
    names = arrays.get("class_names", arrays.get("label_names"))
    return named(arrays, path, "labels"), None if names is None else names.tolist()


def _probabilities(path: pathlib.Path) -> tuple[np.ndarray, Sequence[str] | None]:
    """Probabilities in a file, and the names of their columns if it holds them."""
    check_exists(path)
    if path.suffix == ".npz":
        return named(open_arrays(path), path, "pred_probs"), None
    if path.suffix == ".npy":
        return open_arrays(path)["features"], None
    rows = read_cells(path)
    names = rows.pop(0)[1] if rows and None in map(_number, rows[0][1]) else None
    probs = [[_number(cell) for cell in cells] for _, cells in rows]
    for (line, _), row in zip(rows, probs, strict=True):
        if len(row) != len(probs[0]) or None in row:
            raise UserError(f"Line {line} of {path} must hold {len(probs[0])} numbers; correct it.")
    return np.array(probs, np.float64), names


def _number(cell: str) -> float | None:
    """A number with a decimal point, or comma, as many spreadsheets write it; otherwise None."""
    try:
        return float(cell.replace(",", "."))
    except ValueError:
        return None
