"""Figures that README and the advice quote are those of docs/results.csv."""

import csv
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROBABILITIES = "Probabilities of any classifier: `find_label_issues(pred_probs=)` beside cleanlab"
LABELS = "Photographs, frozen features: wrong labels"
E2OAL = "E2OAL on photographs' features"
REVIEW = "A person's review of photographs"
RATES = ("5 % wrong", "20 %", "40 %")
_SECONDS = "s of processor time"

# Page, start of the line or cell, and the cells whose numbers follow there in this order:
# section, table, row, column.
QUOTED = [
    *(
        ("README.md", start, [(PROBABILITIES, 3, row, f"F1, {rate}") for rate in RATES])
        for start, row in (
            ("find_label_issuespred_probs-beside-cleanlab)) | ", 8),
            ("(docs/coming_from.md#cleanlab)'s seven filters ", 2),
            (", its default ", 1),
        )
    ),
    (
        "README.md",
        "40 % and 9 % wrong, five seeds: F1 | ",
        [(LABELS, 1, row, "F1") for row in (15, 1)],
    ),
    (
        "README.md",
        "accuracy on test photographs | ",
        [(LABELS, 1, row, "accuracy") for row in (15, 1)],
    ),
    (
        "README.md",
        "margin with the unknown as a class ",
        [(E2OAL, 2, 5, "last accuracy")],
    ),
    (
        "README.md",
        "six of ten classes unknown, ten seeds: last accuracy | ",
        [(E2OAL, 2, 8, "last accuracy")],
    ),
    (
        "README.md",
        "share of the queries that is of a wanted class | ",
        [(E2OAL, 2, 8, "precision")],
    ),
    (
        "docs/methods/e2oal.md",
        "with eight and six of ten classes unknown it is\n",
        [(E2OAL, 1, 9, "last, ahead of random")],
    ),
    (
        "docs/which_method.md",
        "in two fifths of BUAL's time) | over random by ",
        [(E2OAL, 1, 9, "last, ahead of random")],
    ),
    (
        "docs/which_method.md",
        "takes half as long again and gives an AUROC of\n",
        [("Networks for embed", 1, 2, "AUROC, worst")],
    ),
    ("docs/which_method.md", "six kinds of wrong labels out of six, ", [(LABELS, 1, 15, "F1")]),
    ("docs/review_photographs.md", "train, list the labels | ", [(REVIEW, 3, 1, _SECONDS)]),
    ("docs/review_photographs.md", "again on what was decided | ", [(REVIEW, 3, 2, _SECONDS)]),
    (
        "docs/review_photographs.md",
        "the clean table | ",
        [(REVIEW, 3, row, _SECONDS) for row in (3, 4)],
    ),
    *(
        ("docs/review_photographs.md", start, [(REVIEW, table, row, column)])
        for start, table, row, column in (
            ("Of the labels, ", 1, 1, "wrong"),
            ("the page asked about ", 1, 1, "asked about"),
            ("of these ", 1, 1, "wrong among them"),
            ("the accuracy rose from ", 2, 1, "accuracy, last 10 epochs"),
            (" to\n", 2, 2, "accuracy, last 10 epochs"),
            ("looked at large, took ", 4, 2, "keys before"),
            ("and take ", 4, 2, "keys now"),
        )
    ),
    ("docs/which_method.md", "with 40 % wrong human labels and ", [(LABELS, 1, 1, "F1")]),
]


@pytest.fixture(scope="module")
def cells():
    with (ROOT / "docs" / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {(r["section"], int(r["table"]), int(r["row"]), r["column"]): r["value"] for r in rows}


@pytest.mark.parametrize(("page", "start", "keys"), QUOTED, ids=[start for _, start, _ in QUOTED])
def test_a_quoted_figure_is_the_measured_one(cells, page, start, keys):
    text = (ROOT / page).read_text()
    assert text.count(start) == 1
    assert text.split(start)[1].startswith(", ".join(cells[key] for key in keys))
