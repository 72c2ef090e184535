"""Corrections of labels: what people and spreadsheets write, and what is wrong with it."""

import subprocess
import sys

import numpy as np
import pytest

from configs import bual
from jaxrobust.commands import cli
from jaxrobust.data.corrections import (
    Correction,
    read_all_corrections,
    read_corrections,
    write_corrections,
)
from jaxrobust.errors import UserError
from jaxrobust.recipes.parse import parse

CLASSES = ("01", "Cat", "Käfer", "cat", "true")
FILES = ("train/a.png", "train/b,c.png", "train/=d.png", "train/ü.png", "e.png")
LABELS = np.int32([0, 1, 2, 3, 4])


def _read(path, text=None, **options):
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    defaults = {"files": FILES, "labels": LABELS, "class_names": CLASSES}
    return read_corrections(path, **(defaults | options))


def test_no_jax_is_loaded():
    script = "import sys, jaxrobust.data.corrections; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "corrections.csv"
    write_corrections(
        path,
        [
            Correction(0, FILES[0], "01", "Cat", "accept"),
            Correction(1, FILES[1], "Cat", "Cat", "keep"),
            Correction(2, FILES[2], "Käfer", "", "unsure"),
            Correction(None, FILES[3], "cat", "Käfer", "other", drawn=True, note="=blurred"),
            Correction(4, FILES[4], "true", "", "exclude"),
        ],
    )
    header, *lines = path.read_bytes().decode("utf-8-sig").splitlines()
    assert header == "id,file,given_label,label,decision,drawn,note"
    assert lines[3] == ",train/ü.png,cat,Käfer,other,1,'=blurred"
    reviewed = _read(path)
    assert reviewed.labels.tolist() == [1, 1, 2, 2, 4] and reviewed.labels.dtype == np.int32
    assert reviewed.review.tolist() == ["corrected", "kept", "", "corrected", "excluded"]
    assert LABELS.tolist() == [0, 1, 2, 3, 4]


BY_HAND = {
    "file and label": "file,label\ntrain/a.png,cat\n",
    "id and label": "id,label\n0,cat\n",
    "semicolons and a mark": "\ufefffile;label\r\ntrain/a.png;cat\r\n",
    "tabs": "label\tfile\ncat\ttrain/a.png\n",
    "quotes": '"file","label"\n"train/a.png","cat"\n',
    "blanks and empty lines": "File , LABEL\n\n train/a.png , cat \n,,\n",
    "an apostrophe": "file,label\n'train/a.png,'cat\n",
    "windows": "file,label\ntrain\\a.png,cat\n",
    "the file counts": "id,file,label\n4,train/a.png,cat\n",
    "other columns": "rank,file,label,note\n1,train/a.png,cat,hm\n",
    "some undecided": "file,label\ntrain/ü.png,\ntrain/a.png,cat\n",
    "utf-16": "file\tlabel\ntrain/a.png\tcat\n".encode("utf-16"),
    "old macintosh": "file,label\rtrain/a.png,cat\r",
    "a decision in capitals": "file,label,decision\ntrain/a.png,cat,OTHER\n",
}


@pytest.mark.parametrize("text", BY_HAND.values(), ids=BY_HAND)
def test_by_hand(text, tmp_path):
    reviewed = _read(tmp_path / "c.csv", text)
    assert reviewed.labels.tolist() == [3, 1, 2, 3, 4]
    assert reviewed.review.tolist() == ["corrected", "", "", "", ""]


def test_what_a_spreadsheet_makes_of_class_names(tmp_path):
    table = "file,label\ne.png,1\ntrain/a.png,TRUE\ntrain/ü.png,Cat\n"
    assert _read(tmp_path / "c.csv", table).labels.tolist() == [4, 1, 2, 1, 0]
    # Umlauts of macOS.
    table = "file,label\ntrain/u\u0308.png,Ka\u0308fer\n"
    assert _read(tmp_path / "c.csv", table).labels.tolist() == [0, 1, 2, 2, 4]
    # 1 is a class of its own, so that only a look at the given label tells that it was 01.
    classes = ("01", "1", "2")
    table = "file,given_label,label\ntrain/a.png,1,2\n"
    with pytest.raises(UserError, match="the label was '1', but now it is '01'"):
        _read(tmp_path / "c.csv", table, class_names=classes, labels=LABELS % 3)
    # Either could have become 1.
    with pytest.raises(UserError, match="says '1', which is not a class"):
        _read(tmp_path / "c.csv", "file,label\ne.png,1\n", class_names=("01", "001", *CLASSES[2:]))


def test_later_tables_count(tmp_path):
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    first.write_text('file,label\ntrain/a.png,cat\n"train/b,c.png",cat\n')
    second.write_text("file,given_label,label\ntrain/a.png,cat,01\n")
    reviewed = read_all_corrections(
        [first, second], files=FILES, labels=LABELS, class_names=CLASSES
    )
    assert reviewed.labels.tolist() == [0, 3, 2, 3, 4]
    assert reviewed.review.tolist() == ["kept", "corrected", "", "", ""]


MALFORMED = {
    "no file": (None, "There is no file"),
    "empty": ("", "has no column label in its first line, but nothing"),
    "no label column": ("file,labell\ne.png,cat\n", "no column label in its first line, but file"),
    "neither file nor id": ("name,label\ne.png,cat\n", "neither a column file nor a column id"),
    "a column twice": ("file,label,label\ne.png,cat,cat\n", "has the column label twice"),
    "a workbook": (b"PK\x03\x04rest", "is a workbook, not text; save it as CSV in UTF-8"),
    "windows-1252": ("file,label\ne.png,Käfer\n".encode("cp1252"), "save it as CSV in UTF-8"),
    "binary": ("file,label\ne.png,\0\n", "is not text; save it as CSV"),
    "an open quote": ('file,label\n"e.png,cat\n', "is not a table from line 2 on"),
    "text after a quote": ('file,label\n"e"x,cat\n', "is not a table from line 2 on"),
    "too many cells": ("file,label\ne.png,cat,dog\n", "line 2 has 3 cells for 2 columns"),
    "an unquoted comma": (
        "file,label\ntrain/b,c.png,cat\n",
        "put quotes around a cell that holds a comma",
    ),
    "no image": ("file,label\nf.png,cat\n", "line 2 names 'f.png', which is not a training image"),
    "neither": ("file,id,label\n,,cat\n", "line 2 names no file and no id"),
    "no id": ("id,label\ncat.png,cat\n", "line 2 has the id 'cat.png', which must lie in 0 to 4"),
    "an id too high": ("id,label\n0,cat\n5,cat\n", "line 3 has the id '5'"),
    "a negative id": ("id,label\n-1,cat\n", "line 2 has the id '-1'"),
    "a fraction": ("id,label\n1.0,cat\n", "line 2 has the id '1.0'"),
    "twice": ("file,label\ne.png,cat\ne.png,cat\n", "line 3 repeats e.png of line 2"),
    "no class": (
        "file,label\ne.png,catt\n",
        "says 'catt', which is not a class: perhaps 'cat' is meant",
    ),
    "another case": ("file,label\ne.png,CAT\n", "line 2 says 'CAT', which is not a class"),
    "nothing like it": ("file,label\ne.png,zebra\n", "use 01, Cat, Käfer, cat, true"),
    "unknown": ("file,label\ne.png,unknown\n", "says 'unknown', which is not a class"),
    "no decision": ("file,label,decision\ne.png,cat,kep\n", "has the decision 'kep'; write one of"),
    "keep another": (
        "file,label,decision\ne.png,cat,keep\n",
        "line 2 keeps the label 'true', but says 'cat'",
    ),
    "unsure of a label": ("file,label,decision\ne.png,cat,unsure\n", "is unsure, but says 'cat'"),
    "nothing accepted": ("file,label,decision\ne.png,,accept\n", "decision accept, but no label"),
    "nothing else": ("file,label,decision\ne.png,,other\n", "decision other, but no label"),
    "of other labels": (
        "file,given_label,label\ne.png,Cat,cat\n",
        "line 2 was written when the label was 'Cat', but now it is 'true'",
    ),
    "a line after a quoted one": (
        'file,label,note\ne.png,cat,"two\nlines"\nf.png,cat,\n',
        "line 4 names 'f.png'",
    ),
    "a blank class": ('file,label\ne.png,"cat dog"\n', "says 'cat dog', which is not a class"),
    "a formula": ("file,label\ne.png,=1+1\n", "line 2 says '=1\\+1', which is not a class"),
    "several": (
        "file,label\n" + "f.png,cat\n" * 8,
        "line 2 names .*line 6 names 'f.png', which is not a training image; and 3 more. Correct",
    ),
}


@pytest.mark.parametrize(("text", "words"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_table_is_answered_by_line(text, words, tmp_path):
    path = tmp_path / "c.csv"
    with pytest.raises(UserError, match=words) as caught:
        _read(path, text)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_only_noisy_labels_are_corrected():
    config = bual.get_config("digits")
    config.dataset.corrections = "c.csv"
    with pytest.raises(UserError, match="correct them by jaxrobust apply-corrections"):
        parse(config)


# The command.


def _folder(root):
    for file in ("train/cat/a.png", "train/dog/b.png", "train/unlabeled/c.png", "test/dog/d.png"):
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_a_clean_table_of_a_folder(tmp_path, capsys):
    _folder(tmp_path / "data")
    corrections, out = tmp_path / "corrections.csv", tmp_path / "labels.csv"
    corrections.write_text("file;label\ntrain/cat/a.png;dog\ntest/dog/d.png;dog\n")
    before = sorted((tmp_path / "data").rglob("*"))
    command = ["apply-corrections", str(tmp_path / "data"), str(corrections), f"--out={out}"]
    assert cli.main(command) == 0
    assert "3 labels, 1 of them corrected and 1 kept by review" in capsys.readouterr().out
    assert out.read_text(encoding="utf-8-sig") == (
        "file,label\ntrain/cat/a.png,dog\ntrain/dog/b.png,dog\ntest/dog/d.png,dog\n"
    )
    assert sorted((tmp_path / "data").rglob("*")) == before
    # From this table, it goes on.
    corrections.write_text("file,label\ntrain/dog/b.png,cat\n")
    assert cli.main(["apply-corrections", str(out), str(corrections), f"--out={out}"]) == 2
    assert "would overwrite an input" in capsys.readouterr().err


WRONG = {
    "a class twice": ("file,label\na,x\na,y\n", "line 3 repeats a of line 2"),
    "no label": ("file,label\na,x\nb,\n", "line 3 has no label"),
    "nothing": ("file,label\n", "has no rows below its header"),
    "no column": ("path,label\na,x\n", "has no column file"),
}


@pytest.mark.parametrize(("text", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_table_of_labels(text, words, tmp_path, capsys):
    (tmp_path / "t.csv").write_text(text)
    (tmp_path / "c.csv").write_text("file,label\na,x\n")
    assert cli.main(["apply-corrections", str(tmp_path / "t.csv"), str(tmp_path / "c.csv")]) == 2
    assert words in capsys.readouterr().err
