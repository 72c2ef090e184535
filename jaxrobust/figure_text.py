"""Names of classes and files as figures can show them: in fonts that are there, and short."""

import functools
from typing import NamedTuple

# Fonts with Chinese, Japanese and Korean characters, as Linux, macOS and Windows have them.
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
"""Letters of a name beside an axis; of longer ones the middle is left out."""


class Font(NamedTuple):
    """A font that is installed.

    Attributes:
      family: its name in Matplotlib.
      path: its file.
      letters: code points that it has.
    """

    family: str
    path: str
    letters: frozenset[int]


@functools.cache
def fonts() -> tuple[Font, ...]:
    """DejaVu Sans, which comes with Matplotlib, and a font for Chinese, Japanese and Korean."""
    from matplotlib import font_manager

    installed = {entry.name: entry.fname for entry in font_manager.fontManager.ttflist}
    installed["DejaVu Sans"] = font_manager.findfont("DejaVu Sans")
    names = ["DejaVu Sans", *[name for name in _CJK if name in installed][:1]]
    return tuple(
        Font(name, installed[name], frozenset(font_manager.get_font(installed[name]).get_charmap()))
        for name in names
    )


def drawable(text: str, fonts_: tuple[Font, ...] | None = None) -> str:
    """The text, each letter that no font has as its code point, such as \\u732b; lines stay."""
    known = frozenset[int]().union(*(font.letters for font in fonts_ or fonts())) | {ord("\n")}
    return "".join(
        letter if ord(letter) in known else letter.encode("ascii", "backslashreplace").decode()
        for letter in text
    )


def short_name(name: str) -> str:
    """A name to be drawn, of at most 24 letters, as its start and its end."""
    text = drawable(name.replace("\n", " "))
    if len(text) <= MAX_LETTERS:
        return text
    end = MAX_LETTERS // 3
    return f"{text[: MAX_LETTERS - end - 1]}…{text[-end:]}"


def font_of(text: str) -> tuple[str, str]:
    """The font, as a file, in which most of a text can be drawn at once, and the text in it."""
    best = max(fonts(), key=lambda font: sum(ord(letter) in font.letters for letter in text))
    return best.path, drawable(text, (best,))
