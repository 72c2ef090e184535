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
QUICK = {"num_epochs": 40, "dpc.warm_up": 10}


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
        hidden, features=features, budget=2, method="margin", config={"num_epochs": 5}
    )
    return found.pred_probs


def _fit(features, labels):
    classifier = jaxrobust.RobustClassifier(num_epochs=40, dpc__warm_up=10).fit(features, labels)
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

    def stop(teacher, fields, dataset, workdir):
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


# --------------------------------------------------------------------------------- numbers


def _with(features, row, column, value):
    features = features.copy()
    features[row, column] = value
    return features


def _changed(change):
    return lambda features: change(features.astype(np.float64))


# The same examples in another form: the classes are found as well.
ARRAYS = {
    "offset of 1e9": _changed(lambda x: x + 1e9),
    "offset of 1e9 in one column": _changed(lambda x: x + np.eye(D)[0] * 1e9),
    "1e30": _changed(lambda x: x * 1e30),
    "1e-30": _changed(lambda x: x * 1e-30),
    "1e300": _changed(lambda x: x * 1e300),
    "1e-300": _changed(lambda x: x * 1e-300),
    "float32 of 1e30": lambda x: (x * 1e30).astype(np.float32),
    "float16": lambda x: x.astype(np.float16),
    "long double": lambda x: x.astype(np.longdouble),
    "big endian": lambda x: x.astype(">f8"),
    "objects": lambda x: x.astype(object),
    "nothing masked": np.ma.masked_array,
    "columns first": np.asfortranarray,
    "every other row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "read only": lambda x: np.lib.stride_tricks.as_strided(x, writeable=False),
    "constant columns": lambda x: np.c_[np.zeros(N), x, np.full(N, 1e30)],
    "whole numbers": lambda x: (x * 1000).astype(np.int64),
    "a table": pandas.DataFrame,
    "a list": lambda x: x.tolist(),
}
# What every call shares is tried by one, and the extremes by each.
EXTREMES = ("offset of 1e9", "1e300", "constant columns")
TRIED = {
    "find_label_issues, features": ARRAYS,
    "query": {name: ARRAYS[name] for name in EXTREMES},
    "RobustClassifier": {name: ARRAYS[name] for name in EXTREMES},
}


@pytest.mark.parametrize("call", TRIED)
def test_every_form_of_an_array_is_learned_from(call):
    features, labels = _blobs()
    for name, change in TRIED[call].items():
        probs = CALLS[call](change(features), labels)
        assert np.isfinite(probs).all(), name
        assert (probs.argmax(1) == labels).mean() > 0.6, name  # by chance 0.33


def test_a_constant_column_says_nothing_of_others_either():
    """What it is in other examples has not been learned."""
    features, labels = _blobs()
    classifier = jaxrobust.RobustClassifier(num_epochs=2, dpc__warm_up=1)
    classifier.fit(np.c_[features, np.full(N, 7.0)], labels)
    probs = classifier.predict_proba(np.c_[features, np.full(N, 7.0)])
    np.testing.assert_array_equal(classifier.predict_proba(np.c_[features, np.zeros(N)]), probs)


# Features that cannot be meant, and words of the answer.
REFUSED = {
    "one row of 1e30": (lambda x: _with(x, 7, 1, 1e30), r"features\[7\] holds 1e\+30 in column 1"),
    "all constant": (np.ones_like, "a single value in each of its 5 columns"),
    "negative zeros": (lambda x: 0 * x, "a single value in each of its 5 columns"),
    "masked": (lambda x: np.ma.masked_array(x, np.eye(N, D)), r"features\[0, 0\] is masked"),
    "None": (lambda x: np.where(np.eye(N, D) > 0, None, x), r"features\[0, 0\] is nan"),
    "NaN": (lambda x: _with(x, 3, 2, np.nan), r"features\[3, 2\] is nan"),
    "infinity": (lambda x: _with(x, 3, 2, np.inf), r"features\[3, 2\] is inf"),
    "beyond float64": (
        lambda x: _with(x.astype(np.longdouble), 3, 2, np.longdouble("1e400")),
        r"features\[3, 2\] is inf; scale the features",
    ),
    "views last": (
        lambda x: np.repeat(np.tile(x, 3)[..., None], 2, 2),
        r"give numpy.moveaxis\(features, 2, 1\)",
    ),
    "complex": (lambda x: x.astype(complex), "must hold real numbers, not complex128"),
    "text": (lambda x: x.astype(str), "must hold real numbers"),
    "dates": (lambda x: x.astype("datetime64[s]"), "must hold real numbers"),
    "one axis": (lambda x: x[:, 0], r"for a single feature, give \[:, None\]"),
    "no columns": (lambda x: x[:, :0], r"must be \[N, D\]"),
    "too few rows": (lambda x: x[1:], "has 48 entries, but features has 47"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("call", ["find_label_issues, features", "query"])
def test_what_cannot_be_meant_is_refused_in_one_sentence(call, case):
    change, words = REFUSED[case]
    features, labels = _blobs()
    with pytest.raises(UserError, match=words) as caught:
        CALLS[call](change(features), labels)
    assert "\n" not in str(caught.value)


def test_labels_among_the_features_are_named():
    features, labels = _blobs()
    frame = pandas.DataFrame(features).assign(label=labels)
    with pytest.raises(UserError, match="Column 'label' of features equals the labels"):
        _find(frame, labels)


def test_calls_of_one_shape_share_programs_whatever_their_statistics():
    """Statistics that agree in all columns are an operand of another shape."""
    rng = np.random.default_rng(0)
    pair = rng.normal(size=(N, 1))
    labels = np.arange(N) % 2
    alike, others = np.concatenate([pair, pair[::-1]], 1), rng.normal(size=(N, 2))
    for features in (others, alike, others):
        _find(features, labels)
