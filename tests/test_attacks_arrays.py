"""Odd arrays and tables: paired by index, kept in their range, or refused in one sentence.

A new call on arrays is a line of `CALLS`, a new kind of array a line of `ARRAYS` or `REFUSED`.
"""

import warnings

import numpy as np
import pytest

import jaxrobust
from jaxrobust.data.inputs import aligned
from jaxrobust.errors import UserError

pandas = pytest.importorskip("pandas")

N, D, C = 48, 5, 3
QUICK = {"num_epochs": 2, "dpc.warm_up": 1}


def _blobs(seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(N) % C
    return 3.0 * np.eye(C, D)[labels] + rng.normal(size=(N, D)), labels


def _find(features, labels):
    return jaxrobust.find_label_issues(labels, features=features, config=QUICK).pred_probs


def _find_by_probs(features, labels):
    scores = np.asarray(features, float)[:, :C]
    probs = np.exp(scores - scores.max(1, keepdims=True))
    probs /= probs.sum(1, keepdims=True)
    if (index := getattr(features, "index", None)) is not None:
        probs = pandas.DataFrame(probs, index=index)
    return jaxrobust.find_label_issues(labels, pred_probs=probs).clean_prob


def _query(features, labels):
    if isinstance(labels, pandas.Series):
        hidden = labels.where(labels.index % 4 != 0, -1)
    else:
        hidden = np.where(np.arange(len(labels)) % 4 == 0, -1, labels)
    found = jaxrobust.query(
        hidden, features=features, budget=2, method="margin", config={"num_epochs": 2}
    )
    return found.pred_probs


def _fit(features, labels):
    classifier = jaxrobust.RobustClassifier(num_epochs=2, dpc__warm_up=1).fit(features, labels)
    return classifier.predict_proba(features)


CALLS = {
    "find_label_issues, features": _find,
    "find_label_issues, probabilities": _find_by_probs,
    "query": _query,
    "RobustClassifier": _fit,
}

# ----------------------------------------------------------------------------------- pandas


def _tables():
    """Features in a random order, and labels by the same index in ascending order."""
    features, labels = _blobs()
    order = np.random.default_rng(1).permutation(N)
    frame = pandas.DataFrame(features[order], index=order, columns=[f"x{i}" for i in range(D)])
    return frame, pandas.Series(labels), features, labels


@pytest.mark.parametrize("call", CALLS)
def test_tables_are_paired_by_their_index(call):
    frame, series, features, labels = _tables()
    order = slice(None) if call != "RobustClassifier" else frame.index.to_numpy()
    expected = CALLS[call](features[order], labels[order])  # as of the first argument
    with pytest.warns(UserWarning, match=r"The rows of \w+ were put in the order of \w+, by their"):
        found = CALLS[call](frame, series)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("call", CALLS)
def test_tables_of_other_rows_are_refused_by_the_first(call):
    frame, series, _, _ = _tables()
    frame.index = np.where(frame.index == 7, 700, frame.index)
    with pytest.raises(UserError, match=r"(7, row 7 of|700, row \d+ of) .*reset_index"):
        CALLS[call](frame, series)


@pytest.mark.parametrize("call", CALLS)
def test_a_row_twice_is_refused(call):
    frame, series, _, _ = _tables()
    frame.index = np.where(frame.index == 7, 8, frame.index)
    with pytest.raises(UserError, match=r"holds 8 twice"):
        CALLS[call](frame, series)


def test_equal_indices_and_arrays_are_left_alone():
    series = pandas.Series([1, 2], index=["a", "b"])
    frame = pandas.DataFrame({"x": [1.0, 2.0]}, index=["a", "b"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given in ((series, frame), (series, [1, 2]), ([1, 2], frame), (series, None)):
            assert all(x is y for x, y in zip(given, aligned(a=given[0], b=given[1]), strict=True))


def test_distill_pairs_images_labels_and_logits(monkeypatch):
    """What reaches the data set is in the order of the labels."""
    from jaxrobust.api import distill

    images = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    labels = pandas.Series(np.arange(8) % 2)
    order = np.array([3, 1, 0, 2, 7, 5, 4, 6])
    logits = pandas.DataFrame({1: order * 1.0, 0: -1.0 * order}, index=order)
    seen = {}

    def stop(teacher, fields, dataset):
        seen.update(teacher=teacher, dataset=dataset)
        raise InterruptedError

    monkeypatch.setattr(distill, "_logits_of", stop)
    with pytest.warns(UserWarning, match="of teacher were put"), pytest.raises(InterruptedError):
        distill.distill(
            pandas.Series(list(images)), labels, teacher=logits, config={"batch_size": 2}
        )
    # Columns are the classes by name, here 1 and then 0.
    np.testing.assert_array_equal(seen["teacher"][:, 0], np.arange(8))
    assert seen["dataset"].class_names == ("1", "0")


def test_a_fitted_classifier_knows_its_columns_by_name():
    frame, series, _, _ = _tables()
    with pytest.warns(UserWarning, match="by their index"):
        classifier = jaxrobust.RobustClassifier(num_epochs=1, dpc__warm_up=1).fit(frame, series)
    assert list(classifier.feature_names_in_) == list(frame.columns)
    with pytest.raises(ValueError, match="same order"):
        classifier.predict(frame[frame.columns[::-1]])
    with pytest.raises(ValueError, match="feature names"):
        classifier.predict(frame.rename(columns={"x0": "y0"}))
