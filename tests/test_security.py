"""Data never runs and never leaves its place: hostile names, files and archives."""

import hashlib
import io
import json
import pathlib
import re

import numpy as np
import pytest

from jaxrobust.data.tables import escape_formula, to_csv, unescape_formula
from jaxrobust.errors import UserError
from jaxrobust.methods.strategy import Query
from jaxrobust.models.storage import load_classifier
from jaxrobust.report import figures
from jaxrobust.tasks.annotator import Annotator, query_rows

ROOT = pathlib.Path(__file__).parents[1]
FORMULAS = ("=HYPERLINK(0)", "+1", "-1", "@SUM(1)", "\tx", "'quoted")


@pytest.mark.parametrize("name", FORMULAS)
def test_a_name_is_never_a_formula(name):
    assert escape_formula(name) == f"'{name}" and unescape_formula(escape_formula(name)) == name


@pytest.mark.parametrize("name", ["cat", "a=b", "", "été"])
def test_other_names_stay_as_they_are(name):
    assert escape_formula(name) == name == unescape_formula(name)


def test_a_table_with_formulas_comes_back_as_it_was_asked(tmp_path):
    query = Query(ids=np.array([1, 0]), scores={"a": np.float32([-0.5, 0.25])})
    files, classes = ("=1+1/0.png", "@x/1.png"), ("=cat", "dog")
    table = to_csv(query_rows(query, files, ["=cat", "dog"]))
    assert table.splitlines()[1:] == ["1,'@x/1.png,'=cat,0.25", "0,'=1+1/0.png,dog,-0.5"]
    annotator = Annotator(tmp_path, None, files, classes)
    annotator.ask(0, query)
    # A spreadsheet may take the apostrophes off, and a person need not write one.
    for written in (table, table.replace("'", "")):
        annotator.table(0).write_text(written, encoding="utf-8")
        assert annotator.answers(0).labels == {1: "=cat", 0: "dog"}


def test_names_are_drawn_as_they_are(tmp_path):
    images = np.zeros((2, 4, 4, 3), np.uint8)
    captions = ["$\\frac{$\na_b^c", "<script>\n$x$"]
    figures.contact_sheet(images, captions, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 0


@pytest.mark.parametrize("content", ["pickled", "no header"])
def test_a_stored_classifier_runs_nothing(content, tmp_path):
    class Hostile:
        def __reduce__(self):
            return pathlib.Path.touch, (tmp_path / "ran",)

    file = io.BytesIO()
    np.savez(file, params=np.array([Hostile()], object))
    variables = file.getvalue() if content == "pickled" else b"params"
    (tmp_path / "model.safetensors").write_bytes(variables)
    facts = {"arch": "resnet8", "num_classes": 2}
    facts["variables_sha256"] = hashlib.sha256(variables).hexdigest()
    (tmp_path / "model.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"model\.safetensors is not a safetensors file"):
        load_classifier(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_pickles_are_read_in_two_guarded_places_and_arrays_without_them():
    sources = {p: p.read_text() for p in (ROOT / "jaxrobust").rglob("*.py")}
    sources |= {p: p.read_text() for p in (ROOT / "configs").glob("*.py")}
    unguarded = re.compile(r"pickle\.loads?\(|allow_pickle=True|extractall|\beval\(|\bexec\(|yaml")
    assert not [p.name for p, text in sources.items() if unguarded.search(text)]
    assert sorted(p.name for p, text in sources.items() if "import pickle" in text) == [
        "pickles.py",
        "torch_files.py",
    ]
    for path, text in sources.items():
        assert text.count("np.load(") == text.count("allow_pickle=False"), path.name
