"""Writes every table of docs/results.md to docs/results.csv: `python docs/results_csv.py`.

Columns: the section, the number of the table in it, the row and the column, the cell as it stands,
and where it is a number (or mean ± deviation) these. An empty first cell repeats the one above.
"""

import csv
import io
import pathlib
import re

DOCS = pathlib.Path(__file__).parent
HEADER = ("section", "table", "row", "label", "column", "text", "value", "deviation")
_NUMBER = re.compile(r"([+-]?[\d,]*\.?\d+)(?: ± ([\d.]+))?(?: ?(?:%|s|MiB|images/s))?")


def _cells(line):
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def rows(text):
    """Yields the cells of every table of a page but that of its first screen, as `HEADER` says."""
    section, table, lines = "", 0, []
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            section, table = line.lstrip("# "), 0
        if line.startswith("|"):
            lines.append(_cells(line))
        elif lines and section == "Measured results":
            lines = []
        elif lines:
            columns, _, *body = lines
            table, lines, label = table + 1, [], ""
            for number, cells in enumerate(body, 1):
                label = cells[0] or label
                for column, cell in zip(columns[1:], cells[1:], strict=True):
                    plain = cell.replace("*", "").replace("−", "-")
                    match = _NUMBER.fullmatch(plain)
                    value, deviation = match.groups("") if match else ("", "")
                    value = value.replace(",", "")
                    yield section, table, number, label, column, cell, value, deviation


def as_csv(text):
    """The tables of a page as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(rows(text))
    return file.getvalue()


if __name__ == "__main__":
    (DOCS / "results.csv").write_text(as_csv((DOCS / "results.md").read_text()))
