"""Formulas of a page become MathML when the site is built, so that no script has to be fetched."""

import html
import re

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(page_html, **_):
    """mkdocs calls this with the HTML of every page."""

    def mathml(match):
        display = {"span": "inline", "div": "block"}[match[1]]
        return convert(html.unescape(match[2]), display=display)

    return _FORMULA.sub(mathml, page_html)
