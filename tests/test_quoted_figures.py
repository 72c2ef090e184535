"""Figures that pages quote are those of docs/results.csv, and in README and the advice all are."""

import csv
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROBABILITIES = "Probabilities of any classifier: `find_label_issues(pred_probs=)` versus cleanlab"
LABELS = "Photographs, frozen features: wrong labels"
E2OAL = "E2OAL on photographs' features"
OPINIONS = "Several annotators: `consensus` versus CROWDLAB and Dawid-Skene"
TEXTS = "Texts: MiniLM versus TF-IDF"
REVIEW = "A person's review of photographs"
WAYS = "Ways to find wrong labels, side by side"
EVERY_DAY = "Everyday data sets, measured again"
STUDENTS = "Distillation on photographs: two commands, and a teacher on frozen features"
SMALL = "DHKD and KD on real photographs, much reduced"
CANVASES = "L2D on canvases of digits: a good teacher helps, a weak one harms"
PHOTO_CANVASES = "L2D on canvases of photographs"
DIGITS_DPC = "DPC on digits, 40 % symmetric noise"
DIGITS_BLDR = "BLDR on digits, 40 % of the labels wrong"
RATES = ("5 % wrong", "20 %", "40 %")
CLEANED = (
    "cleaned by `find_label_issues(features=)`",
    "cleaned by cleanlab",
    '`RobustClassifier("dpc")`',
)
_SECONDS = "s of processor time"


def ahead(row: int, *tables: int) -> list:
    return [(E2OAL, table, row, "last, ahead of random", "±") for table in tables]


# Page; its words, with {} for figures; their cells: section, table, row and column, then "±" where
# the deviation is quoted, too. Two cells in a list: the first less the second.
QUOTED = [
    (
        "README.md",
        "F1 of the flags | {}, {}, {} | the best of [cleanlab](docs/coming_from.md#cleanlab)'s "
        "seven filters {}, {}, {} | human errors on photographs: {} vs {} |",
        [
            *((PROBABILITIES, 4, row, f"F1, {rate}") for row in (8, 2) for rate in RATES),
            (PROBABILITIES, 1, 5, "now"),
            (PROBABILITIES, 1, 5, "best filter of cleanlab in each case"),
        ],
    ),
    (
        "README.md",
        "F1 | {}, {} (DPC on features) | cleanlab's best filter {}, {} | test accuracy is "
        "about equal ({} vs {}; {} vs {}); 20 and 40 % wrong at random: F1 {}, {} vs {}, {} |",
        [
            *((LABELS, 1, row, "F1") for row in (15, 1)),
            (LABELS, 2, 5, "human 40.0 %"),
            (LABELS, 2, 7, "human 9.2 %"),
            (LABELS, 1, 15, "accuracy"),
            (LABELS, 3, 2, "human 40.0 %"),
            (LABELS, 1, 1, "accuracy"),
            (LABELS, 3, 5, "human 9.2 %"),
            *((LABELS, 1, row, "F1") for row in (22, 29)),
            *((LABELS, 2, 7, f"symmetric {rate}") for rate in (20, 40)),
        ],
    ),
    (
        "README.md",
        "wrong labels | {}, {} | CROWDLAB {}, {} | photographs with three votes: {} vs {} |",
        [
            *((OPINIONS, 1, row, "votes and features") for row in (4, 5)),
            *((OPINIONS, 1, row, "CROWDLAB") for row in (4, 5)),
            *((OPINIONS, 1, 1, column) for column in ("votes and features", "CROWDLAB")),
        ],
    ),
    (
        "README.md",
        "final accuracy | {} (E2OAL), {} (BUAL) | EAOA and "
        "[scikit-activeml](docs/coming_from.md#scikit-activeml)'s margin {}; random {} |",
        [(E2OAL, 2, row, "last accuracy") for row in (9, 8, 6, 1)],
    ),
    (
        "README.md",
        "accuracy | {} (DHKD) | both its losses on one head {}; labels alone {}, KD {} | one "
        "epoch on 40,000 photographs: {} vs KD {} |",
        [
            *((STUDENTS, 2, row, "accuracy") for row in (7, 6, 1, 2)),
            *((STUDENTS, 3, row, "accuracy") for row in (6, 2)),
        ],
    ),
    (
        "docs/which_method.md",
        "reviews MiniLM's features rank wrong labels with an AUROC of {}, TF-IDF with {} (",
        [(TEXTS, 1, row, "AUROC, 20 %") for row in (4, 3)],
    ),
    (
        "docs/text_and_tables.md",
        "a regression on MiniLM's features has an accuracy of {} %, on TF-IDF {} %.",
        [(TEXTS, 1, row, "accuracy") for row in (4, 3)],
    ),
    (
        "docs/text_and_tables.md",
        "has an AUROC of {} versus {} for TF-IDF.",
        [(TEXTS, 1, row, "AUROC, 20 %") for row in (4, 3)],
    ),
    (
        "docs/which_method.md",
        "the best of cleanlab's seven filters on digits by {} to {} points",
        [
            [(PROBABILITIES, 4, row, f"F1, {rate}") for row in (8, 2)]
            for rate in ("40 %", "5 % wrong")
        ],
    ),
    (
        "docs/which_method.md",
        "turned into the next class, accuracy: {} and {}; with cleanlab's filter {} and {}, with "
        "DPC {} and {} (",
        [(EVERY_DAY, 3, row, column) for column in CLEANED for row in (1, 2)],
    ),
    (
        "docs/which_method.md",
        "higher on human labels, {} vs {} with 40 % wrong and {} vs {} with 9 %",
        [
            (LABELS, 1, 15, "F1"),
            (LABELS, 2, 5, "human 40.0 %"),
            (LABELS, 1, 1, "F1"),
            (LABELS, 2, 7, "human 9.2 %"),
        ],
    ),
    (
        "docs/which_method.md",
        "lower on random errors, {} vs {} and {} vs {} with 20 and 40 %",
        [
            (LABELS, 1, 22, "F1"),
            (LABELS, 2, 7, "symmetric 20"),
            (LABELS, 1, 29, "F1"),
            (LABELS, 2, 7, "symmetric 40"),
        ],
    ),
    (
        "docs/which_method.md",
        "flags ({} vs {} with 40 % wrong human labels), {} points better at 80 % symmetric noise; "
        "with 9 % wrong a regression on all labels has {}, DPC {} (",
        [
            (LABELS, 1, 15, "accuracy"),
            (LABELS, 3, 2, "human 40.0 %"),
            [(LABELS, 1, 36, "accuracy"), (LABELS, 3, 2, "symmetric 80")],
            (LABELS, 1, 6, "accuracy"),
            (LABELS, 1, 1, "accuracy"),
        ],
    ),
    (
        "docs/which_method.md",
        "on digits they are {} and {} points above cross-entropy",
        [
            [(DIGITS_DPC, 1, row, "accuracy") for row in (1, 3)],
            [(DIGITS_BLDR, 1, row, "accuracy") for row in (1, 7)],
        ],
    ),
    (
        "docs/which_method.md",
        "on features an ECE of {} to {} and {} to {}, at 80 % symmetric noise {} for BLDR; on "
        "digits "
        "BLDR has {}, DPC {}, which",
        [
            *((LABELS, 1, row, "ECE") for row in (15, 36, 10, 38, 37)),
            (DIGITS_BLDR, 1, 1, "ECE"),
            (DIGITS_DPC, 1, 1, "ECE"),
        ],
    ),
    (
        "docs/which_method.md",
        "human labels from {} to {} (",
        [("Networks for embed", 1, row, "AUROC, worst") for row in (1, 2)],
    ),
    (
        "docs/which_method.md",
        "above random sampling by {}, {}, {} and {} points with eight, six, four and two of ten",
        ahead(8, 1, 2, 3, 4),
    ),
    (
        "docs/which_method.md",
        "above random by {}, {}, {} and {} points, in half of BUAL's time",
        ahead(7, 1, 2, 3, 4),
    ),
    (
        "docs/which_method.md",
        "above random by {}, {}, {} and {} points, in a quarter of BUAL's time",
        ahead(5, 1, 2, 3, 4),
    ),
    (
        "docs/which_method.md",
        "above random by {} and {} points with eight of ten classes unknown, {} and {} with six",
        [*ahead(9, 1), *ahead(6, 1), *ahead(9, 2), *ahead(6, 2)],
    ),
    (
        "docs/which_method.md",
        "three seeds at 32 pixels: DHKD {}, KD {}, labels alone {}; one seed at 16 pixels: {}, "
        "{} and {} (",
        [
            *((STUDENTS, 2, row, "accuracy") for row in (7, 2, 1)),
            *((SMALL, 1, row, "accuracy") for row in (4, 3, 1)),
        ],
    ),
    (
        "docs/which_method.md",
        "in every seed: mAP {} vs {} on digits, {} vs {} on photographs, where its component MLD "
        "has {} (",
        [
            (CANVASES, 2, 3, "mAP"),
            (CANVASES, 2, 1, "mAP"),
            *((PHOTO_CANVASES, 1, row, "mAP") for row in (6, 2, 3)),
        ],
    ),
    (
        "docs/methods/dpc.md",
        "cross-entropy at 93 %, and {} % of the labels",
        [(DIGITS_DPC, 1, 1, "detection precision")],
    ),
    (
        "docs/methods/dcfs.md",
        "ends {} points\nabove random",
        [[("DCFS on digits", 1, row, "last accuracy") for row in (1, 5)]],
    ),
    (
        "docs/methods/dcfs.md",
        "exceeds random sampling by\n{} points with eight of ten classes unknown, and by {} "
        "with four",
        ahead(7, 1, 3),
    ),
    (
        "docs/methods/e2oal.md",
        "With eight and six of ten classes unknown it is\n{} and {} points more",
        ahead(9, 1, 2),
    ),
    ("docs/methods/e2oal.md", "below random ({} and {}", ahead(9, 3, 4)),
    ("docs/review_photographs.md", "train, list the labels | {} s of", [(REVIEW, 3, 1, _SECONDS)]),
    (
        "docs/review_photographs.md",
        "again on the corrected labels | {} s of",
        [(REVIEW, 3, 2, _SECONDS)],
    ),
    (
        "docs/review_photographs.md",
        "the clean table | {}, {} s",
        [(REVIEW, 3, row, _SECONDS) for row in (3, 4)],
    ),
    *(
        ("docs/review_photographs.md", words, [(REVIEW, table, row, column)])
        for words, table, row, column in (
            ("Of the labels, {} were wrong", 1, 1, "wrong"),
            ("the page asked about {},", 1, 1, "asked about"),
            ("and {} of these were wrong", 1, 1, "wrong among them"),
            ("rose from {} to", 2, 1, "accuracy, last 10 epochs"),
            (" to {} %, but", 2, 2, "accuracy, last 10 epochs"),
            ("enlarged photograph, took {} keys", 4, 2, "keys before"),
            ("and take {} now", 4, 2, "keys now"),
        )
    ),
    (
        "docs/which_method.md",
        "Compared with other methods: F1 {} and {} when labels were changed at random or to the "
        "next class (best of cleanlab's filters {} and {}); human errors {} vs {} (",
        [
            (WAYS, 1, 1, "F1, symmetric"),
            (WAYS, 1, 1, "F1, pairs"),
            (WAYS, 1, 13, "F1, symmetric"),
            (WAYS, 1, 13, "F1, pairs"),
            (WAYS, 1, 1, "F1, people"),
            (WAYS, 1, 14, "F1, people"),
        ],
    ),
]

# Figures of README and the advice that no table holds: in the sentences of docs/results.md that are
# given, or no measurements.
UNTABLED = {
    "README.md": {
        "takes 1.1 to 2.0 times as long as in PyTorch": "training steps take 1.1 to 2.0 times as",
        "is up to 1.2 times as fast": "is up to 1.2 times as fast in training",
        "(scoring 1.4, features of photographs 1.6 times)": "(scoring 1.4, embedding 1.6 times)",
        "Python 3.11 with": None,
        "Python 3.13 with": None,
        "Python 3.12 |": None,
        "requires\n  Python 3.12,": None,
    },
    "docs/which_method.md": {
        "ranking 1.5 points of AUROC above the better of two regressions on average": (
            "AUROC 1.5 points above the\nbetter regression on average"
        ),
    },
}


@pytest.fixture(scope="module")
def cells():
    with (ROOT / "docs" / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {(r["section"], int(r["table"]), int(r["row"]), r["column"]): r for r in rows}


def figure(cells, key) -> str:
    if isinstance(key, list):
        first, second = (cells[part]["value"] for part in key)
        return f"{float(first) - float(second):.{len(first.partition('.')[2])}f}"
    cell = cells[key[:4]]
    return cell["text"].strip("*") if key[4:] else cell["value"]


@pytest.mark.parametrize(("page", "words", "keys"), QUOTED, ids=[words for _, words, _ in QUOTED])
def test_a_quoted_figure_is_the_measured_one(cells, page, words, keys):
    expected = words.format(*(figure(cells, key) for key in keys))
    assert (ROOT / page).read_text().count(expected) == 1, expected


@pytest.mark.parametrize("page", UNTABLED)
def test_every_figure_of_the_page_is_quoted_or_has_its_sentence(cells, page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.S)
    for where, words, keys in QUOTED:
        if where == page:
            text = text.replace(words.format(*(figure(cells, key) for key in keys)), "")
    results = (ROOT / "docs" / "results.md").read_text()
    for words, source in UNTABLED[page].items():
        assert words in text and (source is None or source in results), words
        text = text.replace(words, "")
    assert not re.findall(r".{0,40}(?<![\w.])\d+\.\d+(?![\w.])", text)
