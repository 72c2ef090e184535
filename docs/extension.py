"""What the site shows beside its text: formulas as MathML, notebooks, tables of names.

An extension of Python-Markdown, for Zensical and MkDocs. Nothing is fetched from elsewhere.
"""

import ast
import base64
import html
import json
import pathlib
import re

from latex2mathml.converter import convert
from markdown import Extension
from markdown.postprocessors import Postprocessor
from markdown.preprocessors import Preprocessor

from jaxrobust.recipes import methods

_ROOT = pathlib.Path(__file__).parents[1]
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_MODULE = re.compile(r"^::: (\S+)(?:\n    options: {members: \[(.*)\]})?$", re.MULTILINE)
# Of a function without brackets: browsers set no space after its name.
_NAME = re.compile(r"(<mi>(?:log|cosh)</mi>)(?!<mo)")
_EMPTY_HEADER = re.compile(r"<th([^>]*)></th>")
_INSERT = re.compile(r"<!-- (summary|notebook|methods) ?(\S*) -->")


class _Formulas(Postprocessor):
    def run(self, text):
        def mathml(match):
            display = {"span": "inline", "div": "block"}[match[1]]
            formula = convert(html.unescape(match[2]), display=display)
            formula = _NAME.sub(r'\1<mspace width="0.17em"/>', formula)
            return f'<div class="formula">{formula}</div>' if display == "block" else formula

        return _FORMULA.sub(mathml, text)


class _Corners(Postprocessor):
    """The empty corner of a table is no header, of which a screen reader would say nothing."""

    def run(self, text):
        return _EMPTY_HEADER.sub(r"<td\1></td>", text)


def _summary(lines):
    """A table of the public names of the modules that `::: MODULE` describes further down."""
    rows = ["| name | what it is |", "|---|---|"]
    for module, members in _MODULE.findall("\n".join(lines)):
        path = _ROOT.joinpath(*module.split("."))
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        for node in ast.parse(source.read_text()).body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            if members and node.name not in members.split(", "):
                continue
            first = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            first = first.replace("|", "\\|")
            rows.append(f"| [`{node.name}`][{module}.{node.name}] | {first} |")
    return rows


def _methods(registry):
    """A table of a registry of `jaxrobust.methods`, as `jaxrobust list methods` prints it."""
    entries = getattr(methods, registry)
    rows = [f"| `{name}` | {entries.entry(name).summary} |" for name in sorted(entries)]
    return ["| `--config.method=` | what it is |", "|---|---|", *rows]


def _notebook(file):
    """The cells of a notebook, each with what it put out."""
    lines = []
    for cell in json.loads((_ROOT / file).read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            lines += [*source.splitlines(), ""]
            continue
        lines += ["```python", *source.splitlines(), "```", ""]
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if image := data.get("image/png"):
                image = base64.b64encode(base64.b64decode("".join(image))).decode()
                image = f'<img alt="output" src="data:image/png;base64,{image}">'
                lines += [f'<div class="output">{image}</div>', ""]
            elif page := data.get("text/html"):
                page = "".join(line.strip() + " " for line in "".join(page).splitlines())
                lines += [f'<div class="output">{page}</div>', ""]
            elif text := "".join(output.get("text", data.get("text/plain", []))):
                lines += ["```text", *text.splitlines(), "```", ""]
    return lines


class _Inserts(Preprocessor):
    def run(self, lines):
        result = []
        for line in lines:
            match = _INSERT.fullmatch(line.strip())
            if match is None:
                result.append(line)
            elif match[1] == "summary":
                result += _summary(lines)
            else:
                result += {"notebook": _notebook, "methods": _methods}[match[1]](match[2])
        return result


class SiteExtension(Extension):
    def extendMarkdown(self, md):
        md.preprocessors.register(_Inserts(md), "inserts", 31)  # before code blocks are found
        md.postprocessors.register(_Formulas(md), "formulas", 0)  # after raw HTML is back
        md.postprocessors.register(_Corners(md), "corners", 0)


def makeExtension(**options):
    """Python-Markdown calls this."""
    return SiteExtension(**options)
