"""`jaxrobust apply-corrections`: a table of labels, corrected by a review. JAX is not imported."""

import pathlib

import numpy as np

from jaxrobust.commands.parser import Parser, new_file
from jaxrobust.data import tables
from jaxrobust.data.class_folders import UNLABELED
from jaxrobust.data.corrections import CORRECTED, EXCLUDED, KEPT, read_all_corrections
from jaxrobust.data.places import listed, subfolders
from jaxrobust.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """`jaxrobust apply-corrections`; returns the exit code."""
    parser = Parser(
        "apply-corrections",
        description=(
            "Writes a table of all labels, with the columns file and label, corrected by "
            "corrections.csv. No image is read, moved or changed."
        ),
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
        help="tables as saved by label_review.html; the last answer about a label counts",
    )
    parser.add_argument(
        "--out", type=new_file, default=pathlib.Path("labels.csv"), help="table to write"
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
        [tables.escape_formula(file), tables.escape_formula(str(classes[label]))]
        for file, label, review in zip(files, reviewed.labels, reviewed.review, strict=True)
        if review != EXCLUDED
    ]
    tables.write_rows(arguments.out, [["file", "label"], *rows])
    corrected, kept, excluded = (
        int(np.sum(reviewed.review == word)) for word in (CORRECTED, KEPT, EXCLUDED)
    )
    left_out = f", without {excluded:,} that were excluded" if excluded else ""
    print(
        f"{len(rows):,} labels, {corrected:,} of them corrected and {kept:,} kept by review"
        f"{left_out}: {arguments.out}"
    )
    return 0


def _of_folder(root: pathlib.Path) -> tuple[list[str], list[str]]:
    """Files and classes of the images in class folders, of all splits."""
    splits = [name for name in ("train", "test", "val") if subfolders(root / name)] or [""]
    entries = [entry for split in splits for entry in listed(root, split)]
    entries = [(file, name) for name, file, _ in entries if name != UNLABELED]
    if not entries:
        raise UserError(
            f"{root} holds no class folders of images; name such a folder, or a .csv file with "
            "the columns file and label."
        )
    files, names = map(list, zip(*entries, strict=True))
    return files, names


def _of_table(path: pathlib.Path) -> tuple[list[str], list[str]]:
    rows = tables.read_rows(path, required=["file", "label"])
    files, names, problems = [], [], []
    first_line: dict[str, int] = {}
    for line, cells in rows:
        file, name = (tables.unescape_formula(cells[column]) for column in ("file", "label"))
        if not file or not name:
            problems.append(f"line {line} has no {'label' if file else 'file'}")
        elif file in first_line:
            problems.append(f"line {line} repeats {file} of line {first_line[file]}")
        first_line.setdefault(file, line)
        files.append(file)
        names.append(name)
    tables.refuse_if_any(path, problems)
    if not rows:
        raise UserError(f"{path} has no rows below its header; name the table of all labels.")
    return files, names
