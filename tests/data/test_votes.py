"""Votes of any form as integer arrays."""

import numpy as np
import pandas
import pytest

from jaxrobust import UserError
from jaxrobust.data.votes import as_votes, read_votes
from jaxrobust.errors import DataError

TABLE = np.array([[0, 1, -1], [2, -1, -1], [-1, -1, -1], [1, 1, 0]])


def _long(votes):
    return list(
        zip(votes.items.tolist(), votes.annotators.tolist(), votes.votes.tolist(), strict=True)
    )


EXPECTED = [(0, 0, 0), (0, 1, 1), (1, 0, 2), (3, 0, 1), (3, 1, 1), (3, 2, 0)]
NAMES = np.array(["bird", "cat", "dog"])


@pytest.mark.parametrize(
    "votes",
    [
        TABLE,
        np.where(TABLE < 0, np.nan, TABLE),
        TABLE.tolist(),
        [["bird", "cat", None], ["dog", "", None], [None] * 3, ["cat", "cat", "bird"]],
        np.where(TABLE < 0, "", NAMES[TABLE]),
        np.ma.masked_less(TABLE, 0),
        pandas.DataFrame(TABLE).astype("Int64").replace(-1, pandas.NA),
        pandas.DataFrame(np.where(TABLE < 0, None, NAMES[TABLE])),
        pandas.DataFrame(np.where(TABLE < 0, None, NAMES[TABLE])).astype("category"),
    ],
    ids=["int", "nan", "list", "text", "empty text", "masked", "Int64", "objects", "category"],
)
def test_a_table_of_any_type(votes):
    found = as_votes(votes)
    assert _long(found) == EXPECTED
    assert found.num_items == 4 and found.num_annotators == 3 and found.num_classes == 3


def test_the_index_and_the_columns_name_items_and_annotators():
    frame = pandas.DataFrame(TABLE, index=["w", "x", "y", "z"], columns=["Ann", "Bob", "Cem"])
    found = as_votes(frame)
    assert found.item_ids.tolist() == ["w", "x", "y", "z"]
    assert found.annotator_ids.tolist() == ["Ann", "Bob", "Cem"]
    found = as_votes(TABLE, items=[5, 6, 7, 8], annotators=list("abc"))
    assert found.item_ids.tolist() == [5, 6, 7, 8] and found.annotator_ids.tolist() == list("abc")


def test_items_of_a_long_form_are_in_order_of_first_appearance():
    items, annotators, votes = ["z", "a", "z", "m"], [7, 7, 3, 9], ["no", "yes", "yes", ""]
    found = as_votes(votes, items=items, annotators=annotators)
    assert found.item_ids.tolist() == ["z", "a", "m"]  # m has no vote
    assert found.annotator_ids.tolist() == [7, 3, 9]
    assert _long(found) == [(0, 0, 0), (0, 1, 1), (1, 0, 1)]
    frame = pandas.DataFrame({"task": items, "worker": annotators, "label": votes})
    assert _long(as_votes(frame)) == _long(found)
    mixed = as_votes([0, 1, 1], items=["a", 1, "a"], annotators=np.array([0, 0, 1], object))
    assert mixed.item_ids.tolist() == ["a", "1"] or mixed.item_ids.tolist() == ["a", 1]


def test_the_last_vote_of_an_annotator_on_an_item_counts():
    found = as_votes([0, 1, 1, 0], items=[0, 0, 1, 0], annotators=[0, 0, 0, 1])
    assert _long(found) == [(0, 0, 1), (0, 1, 0), (1, 0, 1)]
    assert found.num_replaced == 1


def test_a_class_that_nobody_voted_for():
    found = as_votes(TABLE, class_names=["bird", "cat", "dog", "eel"])
    assert found.num_classes == 4 and found.labels.names[3] == "eel"
    unanimous = as_votes([[1, 1], [1, 1]], class_names=["no", "yes"])
    assert unanimous.votes.tolist() == [1, 1, 1, 1]
    assert as_votes([["yes", "yes"]], class_names=["no", "yes"]).votes.tolist() == [1, 1]
    assert as_votes([[1, 1]], table=np.zeros((1, 3))).num_classes == 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"votes": [0, 1]}, "votes has one dimension; give items= and annotators="),
        ({"votes": [[-1, -1]]}, "votes holds no vote"),
        ({"votes": [[1, 1]]}, "holds only the class 1"),
        ({"votes": [[0, 1]], "annotators": ["a"]}, "annotators has 1 entries, but votes has 2"),
        ({"votes": [[0, 1]], "annotators": ["a", "a"]}, "annotators holds an id twice"),
        ({"votes": [0, 1], "items": [0], "annotators": [0, 0]}, "items has 1 entries"),
        ({"votes": [[0, -2]]}, r"votes \(without the missing ones\)\[1\] is -2"),
        ({"votes": [[0, 1.5]]}, "classes are whole numbers"),
        ({"votes": np.zeros((2, 2, 2))}, r"must be \[N, A\], or \[V\]"),
        ({"votes": None}, "votes is None"),
    ],
)
def test_what_is_refused(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        as_votes(**arguments)


def test_both_forms_are_read_from_files(tmp_path):
    long = tmp_path / "long.csv"
    long.write_text("Worker;Task;Label\nAnn;a.jpg;cat\nBob;a.jpg;dog\nBob;b.jpg;\n")
    assert read_votes(long) == (
        ["cat", "dog", ""],
        ["a.jpg", "a.jpg", "b.jpg"],
        ["Ann", "Bob", "Bob"],
    )
    wide = tmp_path / "wide.csv"
    wide.write_text("file,Ann,Bob\na.jpg,1,0\nb.jpg,,-1\n")
    votes, items, annotators = read_votes(wide)
    assert votes == [1, 0, -1, -1] and items == ["a.jpg"] * 2 + ["b.jpg"] * 2
    assert annotators == ["Ann", "Bob", "Ann", "Bob"]
    wide.write_text("file,Ann\na.jpg,1\n")
    with pytest.raises(
        DataError, match="it needs item, annotator and vote, or the items in its first"
    ):
        read_votes(wide)
    wide.write_text("item,annotator,vote\na,b,c,d\n")
    with pytest.raises(DataError, match=r"Line 2 of .* has more cells than its first line"):
        read_votes(wide)
