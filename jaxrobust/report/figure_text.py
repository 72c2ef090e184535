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
# Column of a score -> what it says of an image, in words of everyday; high is more.
_SCORES = {
    "agreement": "share of similar images with this label",
    "aleatoric": "how much it resembles several classes",
    "aleatoric_log_odds": "whether it resembles several classes",
    "coarse": "first stage: how strange it looks",
    "conf_neg": "second network: how sure of the class",
    "conf_pos": "first network: how sure of the class",
    "data": "how much it resembles several classes",
    "disagreements": "how often dropout changes the class",
    "discrepancy": "how much two networks differ on it",
    "dist": "how little it resembles any class",
    "energy": "how strange it looks",
    "fine": "second stage: how uncertain its class is",
    "informativeness": "how informative its label would be",
    "known_log_odds": "how likely it is of a known class",
    "known_margin": "how much closer to known classes",
    "loss": "how badly the given label fits",
    "margin": "margin of the given label",
    "mean_margin": "margin of the given label",
    "negative_loss": "how well the given label fits",
    "neighbor_energy": "how strange similar images look",
    "purity_log_odds": "how likely it is of a known class",
    "score": "the score; the lowest ones are chosen",
    "target_entropy": "how uncertain the class is",
    "target_margin": "how close the two best classes are",
    "total": "how uncertain the class is",
    "uncertainty": "how uncertain the class is",
    "unknown_prob": "how likely it is of no known class",
    "vacuity": "how few known images resemble it",
}
MAX_LETTERS = 24
"""Most letters of a name at an axis; the middle of a longer one is left out."""


class Font(NamedTuple):
    """An installed font."""

    family: str  # its name in Matplotlib
    path: str  # its file
    letters: frozenset[int]  # its code points


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


def score_words(name: str) -> str:
    """A score by its column, in words; the column's name if it is not known."""
    if name not in _SCORES and name.endswith("_prob"):  # of a network with this head
        return "how probable the given label is"
    return _SCORES.get(name, name.replace("_", " "))


def font_of(text: str) -> tuple[str, str]:
    """File of the font that has most letters of a text, and the text as drawable in it."""
    best = max(fonts(), key=lambda font: sum(ord(letter) in font.letters for letter in text))
    return best.path, drawable(text, (best,))
