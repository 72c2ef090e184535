"""The page on which a person reviews the labels that look wrong."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxrobust.review.answer_page import write_page


class Suspect(NamedTuple):
    """An image whose label looks wrong.

    Attributes:
      id: of the image in the training set.
      file: relative to the folder of the data set; "" if images are not files.
      given: its label.
      suggested: the label that the method suggests.
      clean_prob: probability that the given label is right.
    """

    id: int
    file: str
    given: str
    suggested: str
    clean_prob: float


def write(
    path: pathlib.Path,
    suspects: Sequence[Suspect],
    class_names: Sequence[str],
    *,
    root: pathlib.Path | None = None,
    pictures: np.ndarray | None = None,
) -> None:
    """Writes the page; its Save button downloads `corrections.csv`.

    Args:
      path: of the page.
      suspects: the images, the most suspicious first.
      class_names: of the classes.
      root: folder that the files are relative to; None if they are not shown.
      pictures: uint8 `[n, H, W, 3]` of the first images, shown instead of their files.
    """
    rows = [
        [str(int(s.id)), s.file, s.given, s.suggested, round(float(s.clean_prob), 6)]
        for s in suspects
    ]
    write_page(
        path,
        title="Labels that look wrong",
        intro="Keep the given label, accept the suggested one, choose another class, or say that "
        "you are unsure. Save gives corrections.csv, which holds what you decided; the images "
        "themselves are never changed.",
        keys=[
            ("k", "keep the given label"),
            ("a", "accept the suggested label"),
            ("u", "unsure"),
        ],
        data={
            "kind": "review",
            "columns": ["id", "file", "given_label", "label", "decision"],
            "rows": rows,
            "classes": list(class_names),
            "save_as": "corrections.csv",
            "after_saving": "",
        },
        identity=[rows, list(class_names)],
        files=[s.file for s in suspects],
        root=root,
        pictures=pictures,
    )
