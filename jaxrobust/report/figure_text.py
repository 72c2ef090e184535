"""Text in figures: shortened names, in characters that the installed fonts have."""

import functools
from typing import NamedTuple

# Fonts with Chinese, Japanese and Korean characters on Linux, macOS and Windows.
_CJK = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Source Han Sans",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "IPAGothic",
    "VL Gothic",
    "NanumGothic",
    "Hiragino Sans",
    "PingFang SC",
    "Apple SD Gothic Neo",
    "Arial Unicode MS",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "SimHei",
)
MAX_LETTERS = 24
"""Most letters of a name at an axis; the middle of a longer one is left out."""


class Font(NamedTuple):
    """An installed font.

    Attributes:
      family: its name in Matplotlib.
      path: its file.
      letters: its code points.
    """

    family: str
    path: str
    letters: frozenset[int]


@functools.cache
def fonts() -> tuple[Font, ...]:
    """DejaVu Sans, which comes with Matplotlib, and an installed font of `_CJK`, if any."""
    from matplotlib import font_manager

    installed = {entry.name: entry.fname for entry in font_manager.fontManager.ttflist}
    installed["DejaVu Sans"] = font_manager.findfont("DejaVu Sans")
    names = ["DejaVu Sans", *[name for name in _CJK if name in installed][:1]]
    return tuple(
        Font(name, installed[name], frozenset(font_manager.get_font(installed[name]).get_charmap()))
        for name in names
    )


def drawable(text: str, fonts_: tuple[Font, ...] | None = None) -> str:
    """The text, with letters that no font has replaced by code points such as \\u732b."""
    known = frozenset[int]().union(*(font.letters for font in fonts_ or fonts())) | {ord("\n")}
    return "".join(
        letter if ord(letter) in known else letter.encode("ascii", "backslashreplace").decode()
        for letter in text
    )


def short_name(name: str) -> str:
    """A name for a figure, cut to `MAX_LETTERS` by leaving out its middle."""
    text = drawable(name.replace("\n", " "))
    if len(text) <= MAX_LETTERS:
        return text
    end = MAX_LETTERS // 3
    return f"{text[: MAX_LETTERS - end - 1]}…{text[-end:]}"


def font_of(text: str) -> tuple[str, str]:
    """File of the font that has most letters of a text, and the text as drawable in it."""
    best = max(fonts(), key=lambda font: sum(ord(letter) in font.letters for letter in text))
    return best.path, drawable(text, (best,))
