"""The page on which a person reviews the labels that look wrong."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.data.corrections import COLUMNS
from jaxrobust.errors import UserError
from jaxrobust.report.thumbnails import thumbnail
from jaxrobust.review.answer_page import write_page


class Suspect(NamedTuple):
    """An image on the page."""

    id: int  # of the image in the training set
    file: str  # relative to the folder of the data set; "" if images are not files
    given: str  # its label
    suggested: str  # the label that the method suggests
    clean_prob: float  # probability that the given label is right
    likely: Sequence[str] = ()  # classes, the most probable first; empty if not known
    # where it is shown: `labels`, `duplicates`, `outliers`, `random`
    tabs: Sequence[str] = ("labels",)
    finding: str = ""  # what else was found about it, in words


class Check(NamedTuple):
    """A random check of N labels, which bounds the number of wrong ones left."""

    total: int  # N, labels that nobody had decided about
    # ids of suspects with the tab `random`, in a random order of all N of which these are the first
    # ones
    order: Sequence[int]


def write(
    path: pathlib.Path,
    suspects: Sequence[Suspect],
    class_names: Sequence[str],
    *,
    root: pathlib.Path | None = None,
    pictures: np.ndarray | None = None,
    texts: Sequence[str] | None = None,
    examples: Mapping[str, Sequence[str | np.ndarray]] | None = None,
    check: Check | None = None,
    after_saving: Sequence[tuple[str, str]] = (),
    title: str = "Labels that look wrong",
) -> None:
    """Writes the page; its Save button downloads `corrections.csv`.

    Suspects come with the most suspicious first. Their files are relative to `root`; None if they
    are not shown. `pictures` uint8 `[n, H, W, 3]` of the first images are shown instead of files,
    or `texts`. `examples` maps a class to files, uint8 `[H, W, 3]` or texts whose labels look
    right. `after_saving` are (text, command), what to do with the saved table.
    """
    number = {name: i for i, name in enumerate(class_names)}
    rows = [
        [
            str(int(s.id)),
            s.file,
            s.given,
            s.suggested,
            round(float(s.clean_prob), 6),
            [number[name] for name in s.likely],
            list(s.tabs),
            s.finding,
        ]
        for s in suspects
    ]
    position = {int(s.id): i for i, s in enumerate(suspects)}
    write_page(
        path,
        title=title,
        intro=(
            "Keep the given label, accept the suggested one, choose another class, say that you "
            "are unsure, or exclude the image. Your answers are saved as a table, "
            "corrections.csv; the images themselves are never changed."
        ),
        keys=[
            ("k", "keep the given label"),
            ("a", "accept the suggested label"),
            ("u", "unsure"),
            ("x", "exclude: the image belongs to no class, or is useless"),
            ("n", "write a note"),
        ],
        data={
            "kind": "review",
            "columns": list(COLUMNS),
            "rows": rows,
            "classes": list(class_names),
            "save_as": "corrections.csv",
            "place": "Put it next to this page.",
            "after_saving": [{"text": text, "code": code} for text, code in after_saving],
            "examples": {
                name: [uri for uri in (thumbnail(x, root) for x in shown) if uri]
                if texts is None
                else list(shown)
                for name, shown in (examples or {}).items()
            },
            "random": [position[int(i)] for i in check.order] if check else [],
            "total": check.total if check else 0,
        },
        identity=[[row[:5] for row in rows], list(class_names)],
        files=[s.file for s in suspects],
        root=root,
        pictures=pictures,
        texts=texts,
    )


def check_shown(count: int, what: str, **shown: Any) -> None:
    """Refuses a review of `count` labels or items without one image, file or text of each."""
    given = {name: values for name, values in shown.items() if values is not None}
    if not given:
        names = " or ".join(f"{name}=" for name in shown)
        raise UserError(f"A review needs {names}, one for every {what}.")
    for name, values in given.items():
        if len(values) != count:
            raise UserError(f"There are {len(values)} {name} for {count} {what}s.")
