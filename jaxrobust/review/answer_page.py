"""The document of the annotation and the review page: thumbnails, and data for the script.

The page is one file that needs no server. It fetches only images of the data set: those beyond the
first `NUM_EMBEDDED`, and the one that is shown large. The files of `_SCRIPTS` run in the browser.
"""

import base64
import hashlib
import html
import json
import os
import pathlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxrobust.engine import processes
from jaxrobust.engine.files import write_text
from jaxrobust.report.markup import STYLE_SHEET, table
from jaxrobust.report.thumbnails import SMALL, thumbnail

NUM_EMBEDDED = 1000
"""Number of images whose thumbnails are inside a page; further ones are read from the data set."""

_SCRIPTS = ("tables", "answers", "bound", "view", "single", "answering")  # in this order
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
    texts: Sequence[str] | None = None,
) -> None:
    """Writes a page on which a person answers a question about each image, or each text.

    Args:
      path: of the page.
      title: of the page.
      intro: instruction.
      keys: (key, effect), in addition to those of every page.
      data: for the script: `kind`, `columns`, `rows`, `classes`, `save_as`, `place` (where to put
        it) and `after_saving`, a list of `{"text": ..., "code": ...}`; of a review `examples`
        (class -> addresses of images), `random` (rows in the order of the random check) and
        `total`, of an annotation `suggestions` (class and probability of each row).
      identity: JSON-able, distinguishes this page from others at the same path, for the answers
        that a browser stores.
      files: of the images, relative to `root`; "" for an image without a file.
      root: folder of the data set, if it is available.
      pictures: uint8 `[n, H, W, 3]` of the first images, shown instead of their files.
      texts: one for each row, shown instead of images.
    """
    if not processes.is_main():
        return
    embedded = (
        _of_files(files, root)
        if pictures is None
        else [thumbnail(picture, root) for picture in pictures]
    )
    folder = ""
    if root is not None:
        folder = os.path.relpath(root.resolve(), path.resolve().parent).replace(os.sep, "/")
    identity = json.dumps([str(path.resolve()), identity])
    data = {
        **data,
        "key": f"jaxrobust {data['kind']} {hashlib.sha256(identity.encode()).hexdigest()[:24]}",
        "pictures": embedded,
        "texts": None if texts is None else list(map(str, texts)),
        "folder": folder,
        "small": SMALL,
    }
    here = pathlib.Path(__file__).parent
    parts = [(here / f"page_{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS]
    script = '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"
    # Only this script may run, whatever the names of files and classes contain.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src 'self' data: file:"
    )
    style = STYLE_SHEET.read_text(encoding="utf-8") + _OWN_STYLE.read_text(encoding="utf-8")
    more = len(files) - len(embedded)
    note = (
        f"The first {len(embedded):,} images are embedded in this page; the other {more:,} are "
        "shown from the folder of the data set."
        if more > 0 and texts is None
        else ""
    )

    def worded(words: str) -> str:  # our own, in which nothing of the data stands
        if texts is None:
            return words
        return words.replace("an image", "a text").replace("image", "text")

    common = [
        ("1, 2, ...", "the class with this key"),
        ("o", "another class, by its name; Enter chooses it"),
        ("z", "undo the last step"),
        ("arrow keys, Home, End, Page Up, Page Down", "go to another image"),
        ("Shift and an arrow key, Shift and a click", "select all images up to that one"),
        ("Ctrl and a click; Ctrl a", "select one more image; all images that are shown"),
        ("Enter, double click", "see one image at a time, or go back to all"),
        ("+, -, mouse wheel, double click", "zoom in the view of one image; drag to move it"),
        ("v", "choose which images are shown"),
        ("Escape", "close what is open"),
        ("?", "show these keys"),
    ]
    write_text(
        path,
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head>\n"
        f'<body class="answers"><main>\n<header><h1>{html.escape(title)}</h1>'
        f"<p>{html.escape(worded(intro))} {html.escape(note)}</p></header>\n"
        f"<noscript><p>{_NO_SCRIPT}</p></noscript>\n"
        f"{worded(_BODY)}</main>\n"
        f'<dialog id="keys" aria-label="Keys">'
        f"{worded(table('Keys', ['key', 'does'], [*keys, *common]))}"
        '<button type="button" id="close_keys">Close</button></dialog>\n'
        f'<script type="application/json" id="data">{safe_json(data)}</script>\n'
        f"<script>{script}</script></body></html>\n",
    )


_NO_SCRIPT = "This page needs JavaScript; without it, enter your answers in the table."

_BODY = """<div class="tools" id="tabs" role="group" aria-label="Kinds of images"></div>
<div id="bar">
<div class="line">
<div id="progress_box"><label for="progress" id="count"></label><progress id="progress"></progress>
</div>
<div id="answers" role="group" aria-label="Answers"><span id="fixed"></span>
<button type="button" id="other" aria-expanded="false" aria-controls="panel_other"><kbd>o</kbd>
<span>Other …</span></button><span id="classes"></span></div>
<div id="tools" role="group" aria-label="Tools">
<button type="button" id="undo"><kbd>z</kbd> <span>Undo</span></button>
<button type="button" id="one" aria-pressed="false" title="One at a time"><span>One</span><span
class="wide"> at a time</span></button>
<button type="button" id="view" aria-expanded="false" aria-controls="panel_view"><kbd>v</kbd>
<span>View</span></button>
<button type="button" id="save">Save</button>
<button type="button" id="more" aria-expanded="false" aria-controls="panel_more">More</button>
</div></div>
<div class="panel" id="panel_other" hidden>
<label>Find a class <input type="search" id="find" autocomplete="off" spellcheck="false"></label>
<button type="button" id="new" hidden></button>
<div class="choices" id="found" role="group" aria-label="Classes"></div></div>
<div class="panel" id="panel_view" hidden>
<div class="tools" id="filters" role="group" aria-label="Which images are shown">
<label id="limits">Given label right <input type="range" id="limit" min="0" max="100" value="100">
<span id="limit_text">at most 100 %</span></label></div>
<div class="tools" role="group" aria-label="How they are shown">
<label>Size <input type="range" id="size" min="6" max="24" value="10"></label>
<label id="hint"><input type="checkbox" id="suggestions" checked> Suggestions of the classifier
</label>
<label><input type="checkbox" id="several"> Click to select several</label>
<button type="button" id="select_all">Select all</button>
</div></div>
<div class="panel tools" id="panel_more" hidden>
<label class="file">Load a saved table<input type="file" id="load" accept=".csv,text/csv"></label>
<button type="button" id="help">Keys <kbd>?</kbd></button>
<button type="button" id="restart">Start over</button>
<span id="folders"><label>Folder of the data set, from this page
<input id="folder" size="30" autocomplete="off" spellcheck="false"></label></span>
</div>
<div class="tools" id="bulk" hidden><span id="bulk_text"></span>
<button type="button" id="accept_all"></button><button type="button" id="keep_all"></button>
<button type="button" id="unmark">Select none</button></div>
</div>
<p id="done" class="note" hidden><span id="done_text"></span></p>
<button type="button" id="again" hidden></button>
<div id="random_note"><p id="random_intro" class="note" hidden>These images are drawn at random
from all labels, one after the other. Answer each one, right or wrong: the answers show how many
wrong labels are left among the unreviewed ones.</p>
<p id="bound" class="note"></p></div>
<p id="nothing" hidden>No image matches the filters. <button type="button" id="show_all">Show all
</button></p>
<div id="grid" role="listbox" aria-label="Images" aria-multiselectable="true"></div>
<div id="single" role="region" aria-label="One image" tabindex="-1" hidden>
<div id="frame" role="group" aria-label="The image, with zoom" tabindex="0"></div>
<div id="side">
<div class="tools"><button type="button" id="back" aria-label="Previous image">←</button>
<span id="single_place"></span>
<button type="button" id="forward" aria-label="Next image">→</button>
<button type="button" id="zoom_out" aria-label="Smaller">−</button>
<button type="button" id="zoom_fit">Fit</button>
<button type="button" id="zoom_in" aria-label="Larger">+</button>
<button type="button" id="grid_again">All images</button></div>
<div id="facts"></div>
<p class="answer" id="single_answer"></p>
<div class="choices" id="side_classes" role="group" aria-label="Classes"></div>
<label id="notes">Note <kbd>n</kbd> <input id="note" autocomplete="off"></label>
<div id="examples"></div>
</div></div>
<div class="tools" id="paging" role="group" aria-label="Pages" hidden>
<button type="button" id="previous">Previous page</button><span id="place"></span>
<button type="button" id="next">Next page</button></div>
<p id="status" role="status"></p>
"""


def safe_json(value: Any) -> str:
    """JSON for a script element, without characters that could end it."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _of_files(files: Sequence[str], root: pathlib.Path | None) -> list[str | None]:
    if root is None:
        return []
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda file: thumbnail(file, root), files[:NUM_EMBEDDED]))
