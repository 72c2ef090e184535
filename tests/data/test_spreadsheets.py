"""Tables that LibreOffice 25.2 saved, and what is known of Excel, come back as they were written.

The files in `libreoffice/` are a query and corrections as jaxrobust writes them, opened by `soffice
--headless --convert-to xlsx` and saved as CSV with commas, semicolons or tabs.
"""

import csv
import io
import json
import pathlib

import numpy as np
import pytest

from jaxrobust.data.corrections import read_corrections
from jaxrobust.tasks.annotator import Annotator

SAVED = pathlib.Path(__file__).parent / "libreoffice"
CLASSES = ("01", "1e5", "Cat", "cat", "true", "Käfer", "=x", "1.50", "02-03")
FILES = tuple(f"unlabeled/{i:04d} ü,;.png" for i in range(12)) + ("=cmd.png",) * 88


def _annotator(folder, table):
    ids = [*range(12), 99]
    note = {"ids": ids, "files": [FILES[i] for i in ids], "scores": {}, "notes": {}}
    (folder / "round_00.json").write_text(json.dumps(note))
    (folder / "round_00.csv").write_bytes(table)
    return Annotator(folder, None, FILES, CLASSES)


def _check_query(annotator):
    answers = annotator.answers(0)
    assert answers.labels == {**dict(enumerate(CLASSES)), 9: "unknown", 99: "cat"}
    assert answers.skipped == (10,) and answers.empty == (13,)


@pytest.mark.parametrize("separator", ["comma", "semicolon", "tab"])
def test_a_query_saved_by_libreoffice(separator, tmp_path):
    table = (SAVED / f"query_{separator}.csv").read_bytes()
    assert b",1,0.1" in table or b";1;0.1" in table or b"\t1\t0.1" in table  # it was 01
    _check_query(_annotator(tmp_path, table))


@pytest.mark.parametrize("separator", ["comma", "semicolon", "tab"])
def test_corrections_saved_by_libreoffice(separator):
    reviewed = read_corrections(
        SAVED / f"corrections_{separator}.csv",
        files=("a.png", "ü.png", "b,c.png", "=d.png", "e.png"),
        labels=np.array([0, 5, 3, 2, 4]),
        class_names=CLASSES,
    )
    assert reviewed.labels.tolist() == [2, 5, 3, 0, 3]
    assert reviewed.review.tolist() == ["corrected", "kept", "", "corrected", "corrected"]


EXCEL = {
    "CSV UTF-8": (",", "utf-8-sig"),
    "CSV UTF-8 in Europe": (";", "utf-8-sig"),
    "Unicode text": ("\t", "utf-16"),
}


@pytest.mark.parametrize(("separator", "encoding"), EXCEL.values(), ids=EXCEL)
def test_a_query_as_excel_saves_it(separator, encoding, tmp_path):
    """Numbers without zeros, `TRUE` in capitals, and lines that end as on Windows."""
    labels = ["1", "100000", "Cat", "cat", "TRUE", "Käfer", "=x", "1.5", "02-03"]
    rows = [["id", "file", "label", "score"]]
    rows += [
        [i, FILES[i], label, "0.1"] for i, label in enumerate([*labels, "unknown", "skip", ""])
    ]
    rows.append([99, "=cmd.png", "cat", "-1E-05"])
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows(rows)
    _check_query(_annotator(tmp_path, text.getvalue().encode(encoding)))
