"""Building blocks of sections: HTML elements, embedded images, and numbers as text.

Functions named after elements take text and return markup.
"""

import base64
import html
import io
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence

from jaxrobust.data import names
from jaxrobust.report.figures import SHEET_LAYOUT

STYLE_SHEET = pathlib.Path(__file__).with_name("style.css")

_NARROW_COLUMNS = 3  # of a contact sheet on a phone
_MAX_EMBEDDED_PNG = 150_000  # bytes; larger photographs are embedded as JPEG


def table(
    caption: str,
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    numeric: bool = False,
    stacked: bool = False,
) -> str:
    """A table whose first column holds row headers; it scrolls if it is too wide."""
    head = "".join(
        f'<th scope="col">{html.escape(str(cell))}</th>' if cell else "<td></td>" for cell in header
    )
    body = ""
    for first, *others in rows:
        cells = "".join(
            f'<td data-name="{html.escape(str(name), quote=True)}">{html.escape(str(cell))}</td>'
            for name, cell in zip(header[1:], others, strict=True)
        )
        body += f'<tr><th scope="row">{html.escape(str(first))}</th>{cells}</tr>\n'
    kind = " ".join(filter(None, ["numeric" * numeric, "stacked" * stacked]))
    kind = f' class="{kind}"' if kind else ""
    label = html.escape(caption, quote=True)
    return (
        f'<div class="scroll" role="group" aria-label="{label}" tabindex="0"><table{kind}>'
        f"<caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead>\n"
        f"<tbody>{body}</tbody></table></div>"
    )


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{html.escape(text)}</p>' if kind else f"<p>{html.escape(text)}</p>"


def section(title: str, *parts: str) -> str:
    """A section; "" if all its parts are empty."""
    body = "\n".join(filter(None, parts))
    return f"<section><h2>{html.escape(title)}</h2>\n{body}\n</section>" if body else ""


def details(summary: str, *parts: str, is_open: bool = False) -> str:
    body = "\n".join(filter(None, parts))
    start = "<details open>" if is_open else "<details>"
    return f"{start}<summary>{html.escape(summary)}</summary>\n{body}\n</details>" if body else ""


def side_by_side(*parts: str) -> str:
    body = "\n".join(filter(None, parts))
    return f'<div class="pair">{body}</div>' if body else ""


def commands(text: str) -> str:
    """What to type; it scrolls if it is too wide."""
    return f'<pre tabindex="0">{html.escape(text)}</pre>'


def gallery(pictures: Sequence[tuple[str, str, str]]) -> str:
    """Small pictures side by side, of (address, alternative text, caption); "" without any."""
    cells = "".join(
        f'<figure><img src="{uri}" alt="{html.escape(alt)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for uri, alt, caption in pictures
    )
    return f'<div class="gallery">{cells}</div>' if cells else ""


class Images:
    """The figures of a page: embedded in it, and as PNGs in its folder."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder

    def plot(self, name: str, alt: str, caption: str, draw: Callable[[pathlib.Path, int], None]):
        """A figure of panels: up to three side by side, in one column on a phone."""
        sources = {}
        for columns, suffix in ((3, ""), (1, "_narrow")):
            path = self._folder / f"{name}{suffix}.png"
            draw(path, columns)
            sources[columns] = data_uri(path.read_bytes())
        return (
            '<figure class="plot"><picture>'
            f'<source media="(max-width: 40rem)" srcset="{sources[1]}">'
            f'<img src="{sources[3]}" alt="{html.escape(alt)}"></picture>'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    def drawn(self, name: str, alt: str, caption: str, draw: Callable[[pathlib.Path], None]) -> str:
        """A figure of one panel; arguments as in `plot`."""
        path = self._folder / f"{name}.png"
        draw(path)
        return self._figure(path.read_bytes(), alt, caption, "plot")

    def found(self, source: pathlib.Path, name: str, alt: str, caption: str, kind: str) -> str:
        """A PNG that the run wrote; "" if there is none. `kind` is `wide plot` or `photos`."""
        if not source.exists():
            return ""
        content = source.read_bytes()
        (self._folder / f"{name}.png").write_bytes(content)
        return self._figure(content, alt, caption, kind)

    def link(self, target: pathlib.Path, text: str) -> str:
        """A link to a file that the run wrote; "" if there is none."""
        if not target.exists():
            return ""
        place = os.path.relpath(target.resolve(), self._folder.resolve()).replace(os.sep, "/")
        address = html.escape(names.quoted(place), quote=True)
        return f'<p><a href="{address}">{html.escape(text)}</a></p>'

    def _figure(self, content: bytes, alt: str, caption: str, kind: str) -> str:
        source = data_uri(content, photos=kind == "photos")
        image = f'<img src="{source}" alt="{html.escape(alt)}">'
        narrow = _narrow_sheet(content) if kind == "photos" else None
        if narrow is not None and narrow is not content:
            image = (
                f'<picture><source media="(max-width: 40rem)" '
                f'srcset="{data_uri(narrow, photos=True)}">{image}</picture>'
            )
        elif narrow is None and kind != "plot":
            image = f'<div class="scroll" tabindex="0">{image}</div>'
        text = f"<figcaption>{html.escape(caption)}</figcaption>"
        return f'<figure class="{kind}">{image}{text}</figure>'


def _narrow_sheet(content: bytes) -> bytes | None:
    """A contact sheet in at most three columns, for a phone; None for other images."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as sheet:
        layout = sheet.info.get(SHEET_LAYOUT)
        if layout is None:
            return None
        width, height, count = map(int, layout.split())
        columns = sheet.width // width
        if columns <= _NARROW_COLUMNS:
            return content
        size = (_NARROW_COLUMNS * width, -(-count // _NARROW_COLUMNS) * height)
        narrow = Image.new("RGB", size, "white")
        for n in range(count):
            left, top = n % columns * width, n // columns * height
            cell = sheet.crop((left, top, left + width, top + height))
            narrow.paste(cell, (n % _NARROW_COLUMNS * width, n // _NARROW_COLUMNS * height))
    found = io.BytesIO()
    narrow.save(found, "PNG")
    return found.getvalue()


def data_uri(content: bytes, *, photos: bool = False) -> str:
    kind = "png"
    if photos and len(content) > _MAX_EMBEDDED_PNG:
        from PIL import Image

        jpeg = io.BytesIO()
        with Image.open(io.BytesIO(content)) as image:
            image.convert("RGB").save(jpeg, "JPEG", quality=85)
        if len(jpeg.getvalue()) < len(content):
            kind, content = "jpeg", jpeg.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def file_stem(label: str) -> str:
    """A label as part of a file name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", label).strip("._") or "run"


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def mean_and_std(mean: float, std: float, num_seeds: int) -> str:
    return f"{percent(mean)} ± {percent(std)}" if num_seeds > 1 else percent(mean)


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "not recorded"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
