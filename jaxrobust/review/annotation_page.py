"""The page on which a person annotates the images of one query."""

import pathlib
from collections.abc import Sequence

import numpy as np

from jaxrobust.data.tables import unescape_formula
from jaxrobust.review.answer_page import write_page


def write(
    path: pathlib.Path,
    rows: Sequence[Sequence[object]],
    class_names: Sequence[str],
    *,
    root: pathlib.Path | None = None,
    pictures: np.ndarray | None = None,
    suggestions: Sequence[tuple[str, float]] = (),
) -> None:
    """Writes the page; its Save button downloads the table with the answers in its column `label`.

    Answers in the table are shown. Answers given on the page are stored by the browser under a key
    that is specific to the page's path and its table.

    Args:
      path: path of the page, such as `queries/round_00.html`; the saved table has the same name, as
        `.csv`.
      rows: the table as written to CSV, after `escape_formula`: the header, which begins with `id`,
        `file`, `label`, and a row for each image, in order of choice.
      root: folder that the files are relative to; None if they are not shown.
      pictures: uint8 `[n, H, W, 3]` of the images, shown instead of their files.
      suggestions: class and probability of each image according to the current classifier, which
        the person may hide; empty for none.
    """
    header, *images = [[str(cell) for cell in row] for row in rows]
    files = [unescape_formula(row[header.index("file")]) for row in images]
    table = path.with_suffix(".csv").name
    write_page(
        path,
        title="Which class does each image show?",
        intro=(
            "Choose the class of each image, “unknown” for an image of none of the classes, or "
            f"“skip” to be asked again later. Save downloads {table}: replace the table next to "
            "this page with it, and rerun the command of the run."
        ),
        keys=[
            ("u", "unknown: none of the classes"),
            ("s", "skip: asked again in a later round"),
            ("a", "the suggested class, if suggestions are shown"),
        ],
        data={
            "kind": "annotation",
            "columns": header,
            "rows": images,
            "classes": list(class_names),
            "save_as": table,
            "place": f"Replace {table} next to this page with it.",
            "after_saving": [{"text": "Then rerun the command of the run.", "code": ""}],
            "suggestions": [[str(name), round(float(p), 4)] for name, p in suggestions],
        },
        identity=[[row[0] for row in images], files, list(class_names)],
        files=files,
        root=root,
        pictures=pictures,
    )
