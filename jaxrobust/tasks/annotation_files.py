"""What a person gets back for annotating: predictions of all other images, and links by class."""

import logging
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from jaxrobust.data.tables import escape_formula, to_csv
from jaxrobust.engine import processes
from jaxrobust.engine.files import format_number, write_text

log = logging.getLogger("jaxrobust")

ANSWERS, PREDICTIONS, LINKS = "annotations.csv", "predictions.csv", "by_class"


def write_annotations(
    path: pathlib.Path, files: Sequence[str], labels: Mapping[int, str], rounds: Mapping[int, int]
) -> None:
    """Writes every answer once.

    Args:
      path: of the table.
      files: of every image by id.
      labels: class or `unknown` by id.
      rounds: whose table holds it, by id; none for an answer whose table is gone.
    """
    rows = [
        [i, *map(escape_formula, (files[i], labels[i])), rounds.get(i, "")] for i in sorted(labels)
    ]
    write_text(path, to_csv([["id", "file", "label", "round"], *rows]))


def write_predictions(
    path: pathlib.Path,
    files: Sequence[str],
    class_names: Sequence[str],
    probs: np.ndarray,
    unknown_probs: np.ndarray | None,
) -> None:
    """Writes the most probable class of each image.

    Args:
      path: of the table.
      files: n images.
      class_names: K classes.
      probs: `[n, K]`.
      unknown_probs: `[n]`, of being of none of them; None where the method does not say.
    """
    names = [escape_formula(name) for name in class_names]
    rows: list[list] = [["file", "class", "probability"]]
    rows += [
        [escape_formula(file), names[row.argmax()], format_number(row.max())]
        for file, row in zip(files, probs, strict=True)
    ]
    if unknown_probs is not None:
        for row, value in zip(rows, ["unknown_probability", *unknown_probs], strict=True):
            row.append(value if isinstance(value, str) else format_number(value))
    write_text(path, to_csv(rows))


def link_by_class(
    folder: pathlib.Path, root: pathlib.Path, files: Sequence[str], classes: Sequence[str]
) -> int:
    """Makes `folder/CLASS/NAME`, symbolic links to all images, in place of those that are there.

    Args:
      folder: of the links; anything in it that is not a link stays.
      root: folder of the images.
      files: of the images, relative to it.
      classes: name of the class of each.

    Returns:
      How many there are; 0 where this system allows none.
    """
    if not processes.is_main():
        return 0
    for old in folder.glob("*/*"):
        if old.is_symlink():
            old.unlink()
    count = 0
    for file, name in zip(files, classes, strict=True):
        link = folder / name / pathlib.PurePosixPath(file).name
        if link.is_symlink() or link.exists():  # another folder has an image of that name
            link = link.with_name(file.replace("/", "_"))
        try:
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((root / file).resolve())
        except OSError as error:
            log.warning(
                "No links to the images were made, since %s cannot hold them (%s).", folder, error
            )
            return count
        count += 1
    return count
