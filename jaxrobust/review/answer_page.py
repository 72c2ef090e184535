"""The document of the annotation and the review page: thumbnails, and data for the script.

The page is one file that needs no server. It fetches only images of the data set, those beyond the
first `NUM_EMBEDDED`. `answer_page.js` runs in the browser.
"""

import base64
import hashlib
import html
import io
import json
import os
import pathlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxrobust.data.readers import to_rgb
from jaxrobust.engine import processes
from jaxrobust.engine.files import write_text
from jaxrobust.errors import DataError
from jaxrobust.report.markup import STYLE_SHEET, details, table

NUM_EMBEDDED = 1000
"""Number of images whose thumbnails are inside a page; further ones are read from the data set."""

_SIDE = 192  # pixels, the longer side of a thumbnail
_SMALL = (
    64  # pixels; images up to this size are embedded unchanged, and magnified without smoothing
)
_SCRIPT = pathlib.Path(__file__).with_name("answer_page.js")
_OWN_STYLE = pathlib.Path(__file__).with_name("answer_page.css")


def write_page(
    path: pathlib.Path,
    *,
    title: str,
    intro: str,
    keys: Sequence[tuple[str, str]],
    data: dict[str, Any],
    identity: Any,
    files: Sequence[str],
    root: pathlib.Path | None,
    pictures: np.ndarray | None,
) -> None:
    """Writes a page on which a person answers a question about each image.

    Args:
      path: of the page.
      title: of the page.
      intro: instruction.
      keys: (key, effect), in addition to those of every page.
      data: for the script: `kind`, `columns`, `rows`, `classes`, `save_as`, `after_saving`.
      identity: JSON-able, distinguishes this page from others at the same path, for the answers
        that a browser stores.
      files: of the images, relative to `root`; "" for an image without a file.
      root: folder of the data set, if it is available.
      pictures: uint8 `[n, H, W, 3]` of the first images, shown instead of their files.
    """
    if not processes.is_main():
        return
    embedded = _of_files(files, root) if pictures is None else _of_arrays(pictures)
    folder = ""
    if root is not None:
        folder = os.path.relpath(root.resolve(), path.resolve().parent).replace(os.sep, "/")
    identity = json.dumps([str(path.resolve()), identity])
    data = {
        **data,
        "key": f"jaxrobust {data['kind']} {hashlib.sha256(identity.encode()).hexdigest()[:24]}",
        "pictures": embedded,
        "folder": folder,
        "small": _SMALL,
    }
    script = _SCRIPT.read_text(encoding="utf-8")
    # Only this script may run, whatever the names of files and classes contain.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src 'self' data: file:"
    )
    style = STYLE_SHEET.read_text(encoding="utf-8") + _OWN_STYLE.read_text(encoding="utf-8")
    more = len(files) - len(embedded)
    note = (
        f"The first {len(embedded):,} images are inside this page; the other {more:,} are shown "
        "from the folder of the data set, by their paths in it."
        if more > 0
        else ""
    )
    common = [
        ("arrow keys, Home, End, Page Up, Page Down", "go to another image"),
        ("Enter, double click", "see the image larger"),
        ("o", "find another class by its name; Enter takes it, Escape goes back"),
        ("z", "undo"),
    ]
    write_text(
        path,
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head>\n"
        f'<body class="answers"><main>\n<header><h1>{html.escape(title)}</h1>'
        f"<p>{html.escape(intro)} {html.escape(note)}</p></header>\n"
        f"<noscript><p>{_NO_SCRIPT}</p></noscript>\n"
        f"{details('Keys', table(_KEYS, ['key', 'does'], [*keys, *common]))}"
        f"{_BODY}</main>\n"
        f'<script type="application/json" id="data">{safe_json(data)}</script>\n'
        f"<script>{script}</script></body></html>\n",
    )


_NO_SCRIPT = "This page needs JavaScript; without it, enter your answers in the table."

_KEYS = "A letter or digit on a button is its key"

_BODY = """
<div class="tools" id="filters" role="group" aria-label="Which images are shown"></div>
<div class="tools" role="group" aria-label="Progress">
<label for="progress"><span id="count"></span></label><progress id="progress"></progress>
<button type="button" id="save">Save</button>
<label class="file">Load a saved table<input type="file" id="load" accept=".csv,text/csv"></label>
<button type="button" id="undo">Undo</button>
<button type="button" id="restart">Start over</button>
</div>
<div class="tools" id="folders"><label>Folder of the data set, from this page
<input id="folder" size="30" autocomplete="off" spellcheck="false"></label></div>
<div id="grid" role="listbox" aria-label="Images"></div>
<div id="bar">
<div class="tools" id="paging" role="group" aria-label="Pages">
<button type="button" id="previous">Previous page</button><span id="place"></span>
<button type="button" id="next">Next page</button></div>
<div class="choices" id="fixed" role="group" aria-label="Answers"></div>
<div class="choices" id="classes" role="group" aria-label="Classes"></div>
<div class="tools"><label><span>Find a class <kbd>o</kbd></span>
<input type="search" id="find" autocomplete="off" spellcheck="false"></label>
<button type="button" id="new" hidden></button></div>
<p id="status" role="status"></p>
</div>
<dialog id="whole" aria-label="The image larger"></dialog>
"""


def safe_json(value: Any) -> str:
    """JSON for a script element, without characters that could end it."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _of_files(files: Sequence[str], root: pathlib.Path | None) -> list[str | None]:
    if root is None:
        return []
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda file: _thumbnail(root / file), files[:NUM_EMBEDDED]))


def _thumbnail(path: pathlib.Path) -> str | None:
    """An image file as a JPEG data URI; None if it cannot be decoded."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.draft(None, (2 * _SIDE, 2 * _SIDE))  # far faster for large JPEGs
            rgb = to_rgb(path.name, image)
    except (OSError, DataError):
        return None
    rgb.thumbnail((_SIDE, _SIDE))
    return _data_uri(rgb, "JPEG", quality=80)


def _of_arrays(pictures: np.ndarray) -> list[str]:
    from PIL import Image

    uris = []
    for picture in pictures[:NUM_EMBEDDED]:
        image = Image.fromarray(picture)
        if max(image.size) <= _SMALL:
            uris.append(_data_uri(image, "PNG"))
        else:
            image.thumbnail((_SIDE, _SIDE))
            uris.append(_data_uri(image, "JPEG", quality=80))
    return uris


def _data_uri(image, kind: str, **options) -> str:
    content = io.BytesIO()
    image.save(content, kind, **options)
    encoded = base64.b64encode(content.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{encoded}"
