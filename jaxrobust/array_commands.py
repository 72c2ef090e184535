"""Commands on files of arrays: `jaxrobust find-label-issues` and `jaxrobust query`."""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrobust.command_line import Parser
from jaxrobust.data.features import open_arrays, read_labels
from jaxrobust.data.tables import escape_formula, read_cells
from jaxrobust.errors import UserError
from jaxrobust.label_issues import QUALITY_FILE
from jaxrobust.label_issues import find_label_issues as find


def find_label_issues(argv: list[str] | None = None) -> int:
    """`jaxrobust find-label-issues`; returns the exit code."""
    parser = Parser(
        "find-label-issues",
        description="Lists labels that are probably wrong, the most suspicious first.",
        epilog="A .npz file may hold labels, pred_probs or features, and class_names together; no "
        "other file is needed then. With features a method is trained on them. Of a .csv file of "
        "labels the column 'label' is read, or the only one. A .csv file of probabilities has a "
        "column for each class, with an optional first line of class names.",
    )
    parser.add_argument("labels", type=pathlib.Path, help=".npz, .npy or .csv file")
    parser.add_argument("--pred-probs", type=pathlib.Path, help=".npz, .npy or .csv file [N, C]")
    parser.add_argument("--features", type=pathlib.Path, help=_FEATURES_HELP)
    _add_training(parser, "for wrong labels; default: dpc")
    parser.add_argument("--class-names", help="in the order of the columns, separated by commas")
    parser.add_argument("--out", type=pathlib.Path, default=QUALITY_FILE, help="table to write")
    parser.add_argument(
        "--images",
        type=pathlib.Path,
        metavar="DIR",
        help="folder of the images that `files` of the .npz file names; writes label_review.html "
        "beside --out",
    )
    arguments = parser.parse_args(argv)
    labels, names = _labels(arguments.labels)
    given = arguments.class_names.split(",") if arguments.class_names else None
    folder = arguments.images
    files = None if folder is None else _files(folder, arguments, len(labels))
    if arguments.pred_probs is not None or _holds(arguments.labels, "pred_probs"):
        if arguments.features is not None:
            raise UserError("Give one of --features= and --pred-probs=, not both.")
        probs, columns = _probabilities(arguments.pred_probs or arguments.labels)
        issues = find(
            labels,
            pred_probs=probs,
            method=arguments.method,
            config=arguments.config,
            class_names=given or columns or names,
        )
    else:
        issues = find(
            labels,
            features=_features(arguments.features or arguments.labels),
            class_names=given or names,
            **_training(arguments),
        )
    issues.save(arguments.out)
    review = arguments.out.with_name("label_review.html")
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
    """The names of the images in a folder, from the file of features or of labels.

    Raises:
      UserError: if neither file names an image for each label, or there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"--images={folder} is not a folder; name the one that holds the images.")
    for path in filter(None, (arguments.features, arguments.labels)):
        if _holds(path, "files") and len(files := open_arrays(path)["files"]) == count:
            return files.tolist()
    raise UserError(
        "--images= needs a .npz file in which `files` names an image for each label, as `python -m "
        "jaxrobust.embed` writes it."
    )


def query(argv: list[str] | None = None) -> int:
    """`jaxrobust query`; returns the exit code."""
    parser = Parser(
        "query",
        description="Chooses examples to annotate, where some may be of none of the classes.",
        epilog="Of a .csv file of annotations the column 'label' is read, or the only one: the "
        "name of a class, empty if not annotated, 'unknown' for none of the classes. Numbers are "
        "classes from 0, -1 if not annotated, -2 for none of the classes.",
    )
    parser.add_argument("features", type=pathlib.Path, help=_FEATURES_HELP)
    parser.add_argument(
        "annotations", type=pathlib.Path, help=".csv or .npy file, a row for each example"
    )
    parser.add_argument("--budget", type=int, required=True, help="number of examples to choose")
    parser.add_argument("--out", type=pathlib.Path, default="query.csv", help="table to write")
    _add_training(parser, "for annotation; default: bual")
    arguments = parser.parse_args(argv)
    from jaxrobust.engine.files import format_number, write_table
    from jaxrobust.querying import query as choose

    features = _features(arguments.features)
    annotations, names = _annotations(arguments.annotations)
    options = {name: x for name, x in _training(arguments).items() if x is not None}
    result = choose(annotations, features=features, budget=arguments.budget, **options)
    files = open_arrays(arguments.features).get("files") if _is_npz(arguments.features) else None
    files = None if files is None or len(files) != len(annotations) else files
    header = ["id", *([] if files is None else ["file"]), "predicted_label", *result.scores]
    rows: list[list] = [header]
    for i in result.ids:
        file = [] if files is None else [escape_formula(str(files[i]))]
        predicted = escape_formula(names[result.pred_probs[i].argmax()])
        scores = [format_number(column[i]) for column in result.scores.values()]
        rows.append([int(i), *file, predicted, *scores])
    write_table(arguments.out, rows)
    print(f"{len(result)} examples to annotate, in order of choice: {arguments.out}")
    return 0


_FEATURES_HELP = ".npz or .npy file [N, D] or [N, V, D], such as of jaxrobust embed"
_UNKNOWN = "unknown"  # as in the tables of the annotation task


def _add_training(parser: argparse.ArgumentParser, methods: str) -> None:
    parser.add_argument("--method", help=f"method {methods}")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--config", help="recipe instead of the method's own, such as dpc:features")
    parser.add_argument(
        "--workdir", type=pathlib.Path, help="folder that keeps the run, to continue it"
    )


def _training(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of the function, with a progress bar on a terminal."""
    names = ("method", "seed", "config", "workdir")
    return {n: getattr(arguments, n) for n in names} | {"progress": sys.stderr.isatty()}


def _features(path: pathlib.Path) -> np.ndarray:
    _check_exists(path)
    arrays = open_arrays(path)
    if "features" not in arrays:
        raise UserError(
            f"{path} holds no array 'features' or 'pred_probs', only {', '.join(arrays)}; name a "
            "file of one by --features= or --pred-probs=."
        )
    return arrays["features"]


def _annotations(path: pathlib.Path) -> tuple[np.ndarray, list[str]]:
    """Annotations in a file as numbers, and the names of the classes."""
    _check_exists(path)
    given = read_labels(path)
    if given.dtype.kind in "iu":
        return given, [str(i) for i in range(int(given.max(initial=-1)) + 1)]
    names = sorted(set(given.tolist()) - {"", _UNKNOWN})
    ids = {name: i for i, name in enumerate(names)} | {"": -1, _UNKNOWN: -2}
    return np.array([ids[name] for name in given.tolist()]), names


def _is_npz(path: pathlib.Path) -> bool:
    return path.suffix == ".npz"


def _holds(path: pathlib.Path, name: str) -> bool:
    return _is_npz(path) and path.is_file() and name in open_arrays(path)


def _labels(path: pathlib.Path) -> tuple[np.ndarray, Sequence[str] | None]:
    """Labels in a file, and the names of their classes if it holds them."""
    _check_exists(path)
    if path.suffix != ".npz":
        return read_labels(path), None
    arrays = open_arrays(path)
    names = arrays.get("class_names", arrays.get("label_names"))
    return _named(arrays, path, "labels"), None if names is None else names.tolist()


def _probabilities(path: pathlib.Path) -> tuple[np.ndarray, Sequence[str] | None]:
    """Probabilities in a file, and the names of their columns if it holds them."""
    _check_exists(path)
    if path.suffix == ".npz":
        return _named(open_arrays(path), path, "pred_probs"), None
    if path.suffix == ".npy":
        return open_arrays(path)["features"], None
    rows = read_cells(path)
    names = rows.pop(0)[1] if rows and None in map(_number, rows[0][1]) else None
    probs = [[_number(cell) for cell in cells] for _, cells in rows]
    for (line, _), row in zip(rows, probs, strict=True):
        if len(row) != len(probs[0]) or None in row:
            raise UserError(f"Line {line} of {path} must hold {len(probs[0])} numbers; correct it.")
    return np.array(probs, np.float64), names


def _named(arrays: dict[str, np.ndarray], path: pathlib.Path, name: str) -> np.ndarray:
    if name not in arrays:
        raise UserError(
            f"{path} holds no array {name!r}, only {', '.join(arrays)}; save it by that name."
        )
    return arrays[name]


def _check_exists(path: pathlib.Path) -> None:
    if not path.is_file():
        raise UserError(f"There is no file {path}; correct its name.")


def _number(cell: str) -> float | None:
    """A number with a decimal point or comma, which many spreadsheets write; else None."""
    try:
        return float(cell.replace(",", "."))
    except ValueError:
        return None
