"""What to annotate next, as a person calls it."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from jaxrobust import UNKNOWN, UNLABELED, QueryResult, UserError, query
from jaxrobust.tasks import images

NUM_CLASSES, NUM_LABELED = 3, 24
SHORT = {"num_epochs": 20, "model.name": "linear", "optimizer.learning_rate": 0.05}


@pytest.fixture(scope="module")
def task():
    """Points around five centres, of which three are known; annotations of some; the truth."""
    rng = np.random.default_rng(0)
    truth = np.arange(120) % 5
    features = 2 * rng.normal(size=(5, 8))[truth] + rng.normal(size=(120, 8))
    annotations = np.full(120, UNLABELED)
    annotations[:NUM_LABELED] = np.where(truth < NUM_CLASSES, truth, UNKNOWN)[:NUM_LABELED]
    order = rng.permutation(120)
    return features[order], annotations[order], truth[order]


@pytest.fixture(scope="module")
def result(task):
    features, annotations, _ = task
    return query(annotations, features=features, budget=10, config=SHORT)


def test_bual(task, result):
    _, annotations, truth = task
    assert isinstance(result, QueryResult) and len(result) == 10
    assert len(set(result.ids.tolist())) == 10
    assert (annotations[result.ids] == UNLABELED).all()
    assert result.pred_probs.shape == (120, NUM_CLASSES)
    assert result.pred_probs.dtype == np.float32
    np.testing.assert_allclose(result.pred_probs.sum(axis=1), 1, atol=1e-5)
    assert set(result.scores) == {"conf_neg", "conf_pos", "unknown_prob", "score"}
    assert all(column.shape == (120,) for column in result.scores.values())
    chosen = result.scores["score"][result.ids]
    assert (np.diff(chosen) >= 0).all()  # in order of choice
    # Rows are in the order that they were given in.
    known = truth < NUM_CLASSES
    assert np.mean(result.pred_probs[known].argmax(axis=1) == truth[known]) > 0.7
    pool = annotations == UNLABELED
    assert roc_auc_score(~known[pool], result.scores["unknown_prob"][pool]) > 0.8
    assert repr(result) == "QueryResult(10 of 120 examples to annotate)"
    assert result.summary["num_annotated"] == NUM_LABELED and result.summary["num_left"] == 96
    assert result.summary["next_query"] is None  # of few examples nothing can be said


def test_what_the_next_query_is_likely_to_bring(task):
    features, _, truth = task
    annotations = np.where(truth < NUM_CLASSES, truth, UNKNOWN)
    annotations[::3] = UNLABELED
    summary = query(
        annotations, features=features, budget=10, config=SHORT, method="margin"
    ).summary
    counts = [summary[f"num_{name}"] for name in ("known", "unknown", "annotated", "left")]
    assert counts == [*((annotations >= 0).sum(), (annotations == UNKNOWN).sum()), 80, 40]
    gain = summary["next_query"]
    assert gain["error"] > 0 and f"of which about {10 * counts[0] / 80:.0f} are" in gain["text"]


def test_a_second_call_gives_the_same_and_a_workdir_goes_on(tmp_path, task, result):
    features, annotations, _ = task
    for _ in range(2):
        again = query(annotations, features=features, budget=10, config=SHORT, workdir=tmp_path)
        np.testing.assert_array_equal(again.ids, result.ids)
    assert (tmp_path / "checkpoints").exists()
    with pytest.raises(UserError, match=r"differ from those that .* was started with"):
        query(annotations, features=features + 1, budget=10, config=SHORT, workdir=tmp_path)


def test_what_a_workdir_keeps_has_the_rows_of_the_data(task, tmp_path, monkeypatch):
    """As runs of versions before pools were padded have it."""
    features, annotations, _ = task
    monkeypatch.delattr(images, "padded_size")
    query(
        annotations, features=features, budget=10, config=SHORT, method="margin", workdir=tmp_path
    )
    assert (tmp_path / "checkpoints").exists()


def test_pools_of_about_one_size_share_their_programs(task, compiled, monkeypatch):
    features, annotations, _ = task
    options = {"features": features[3:], "budget": 10, "config": SHORT}
    query(annotations, **options | {"features": features})
    with compiled() as names:
        found = query(annotations[3:], **options)
    assert len(found) == 10 and not names
    monkeypatch.setattr(images, "padded_size", lambda size: size)
    with compiled() as names:
        expected = query(annotations[3:], **options)
    assert "target_epoch" in names
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.pred_probs, expected.pred_probs, rtol=1e-5)
    for name, column in expected.scores.items():
        np.testing.assert_allclose(found.scores[name], column, rtol=1e-5)


@pytest.mark.usefixtures("tiny_network", "one_device")
def test_images_of_about_as_many_share_their_programs(task, compiled, tmp_path):
    _, annotations, truth = task
    images = np.random.default_rng(1).integers(0, 90, (120, 8, 8)) + 40 * truth[:, None, None]
    options = {"budget": 10, "config": {"num_epochs": 2, "model.name": "tiny"}}
    query(annotations, images=images.astype(np.uint8), **options)
    options["images"] = images[3:].astype(np.uint8)
    with compiled() as names:
        found = query(annotations[3:], **options)
    assert not names
    expected = query(annotations[3:], workdir=tmp_path, **options)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.pred_probs, expected.pred_probs)
    for name, column in expected.scores.items():
        np.testing.assert_allclose(found.scores[name], column, rtol=1e-5)


def test_precisions_weigh_the_two_confidences(task, result):
    features, annotations, _ = task
    options = {"features": features, "budget": 10, "config": SHORT}
    share = (annotations >= 0).sum() / NUM_LABELED
    derived = query(annotations, precisions=[1.0, None], **options)
    np.testing.assert_array_equal(derived.ids, result.ids)
    given = query(annotations, precisions=[share], **options)
    np.testing.assert_array_equal(given.scores["score"], result.scores["score"])
    other = query(annotations, precisions=[0.0], **options)
    assert (other.scores["score"] != result.scores["score"]).any()


def test_before_an_unknown_has_been_seen_and_with_few_left(task):
    features, annotations, truth = task
    annotations = np.where(annotations == UNKNOWN, UNLABELED, annotations)
    found = query(annotations, features=features, budget=10, config=SHORT)
    assert len(found) == 10 and "unknown_prob" not in found.scores
    left = np.flatnonzero(truth == 4)[:3]
    annotations = np.where(truth < NUM_CLASSES, truth, UNKNOWN)
    annotations[left] = UNLABELED
    found = query(annotations, features=features, budget=10, config=SHORT, method="margin")
    assert sorted(found.ids) == left.tolist()


def test_e2oal_fills_the_budget(task):
    features, annotations, truth = task
    options = {"features": features, "method": "e2oal", "config": SHORT}
    found = query(annotations, budget=10, **options)
    assert len(set(found.ids.tolist())) == 10 and (annotations[found.ids] == UNLABELED).all()
    pool = annotations == UNLABELED
    unknown = truth[pool] >= NUM_CLASSES
    assert roc_auc_score(unknown, found.scores["unknown_prob"][pool]) > 0.8
    np.testing.assert_allclose(found.pred_probs.sum(axis=1), 1, atol=1e-5)
    everything = query(annotations, budget=500, **options)
    assert sorted(everything.ids) == np.flatnonzero(pool).tolist()


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (
            lambda a: np.full_like(a, UNLABELED),
            {},
            "no example .* first ones by method='typiclust'",
        ),
        (
            lambda a: np.full_like(a, UNLABELED),
            {"method": "probcover"},
            "derives its radius from the number of classes; give num_classes=",
        ),
        (lambda a: np.where(a == 1, UNLABELED, a), {}, "no example of class 1"),
        (lambda a: np.where(a != 0, UNLABELED, a), {}, "only the class 0"),
        (lambda a: a, {"num_classes": 5}, "no example of class 3"),
        (lambda a: NAMES[np.maximum(a, 0)], {"num_classes": 4}, "num_classes=4, but .* 3 classes"),
        (lambda a: np.maximum(a, 0), {}, "nothing to choose from"),
        (lambda a: a - 1, {}, r"must be a class 0 to"),
        (lambda a: a[1:], {}, "annotations has 119 entries, but features has 120"),
        (lambda a: a, {"budget": 0}, "budget=0 must be a whole number"),
        (lambda a: a, {"method": "bald"}, "did you mean 'bual'"),
        (lambda a: a, {"precisions": [2.0]}, r"must lie in \[0, 1\]"),
        (lambda a: a, {"precisions": 0.5}, "precisions=0.5 must be a list"),
        (lambda a: a, {"precisions": ["high"]}, "precisions holds 'high'"),
        (lambda a: a, {"features": None}, "Give one of features= or images=; none is given"),
    ],
)
def test_what_does_not_fit_is_refused(task, change, options, words):
    features, annotations, _ = task
    with pytest.raises(UserError, match=words):
        query(change(annotations), **{"features": features, "budget": 5, **options})


NAMES = np.array(["ant", "bee", "cow"])


def test_names_and_missing_values_are_annotations(task):
    pandas = pytest.importorskip("pandas")
    features, annotations, _ = task
    options = {"features": features, "budget": 10, "config": SHORT, "method": "margin"}
    expected = query(annotations, **options)
    assert expected.classes.tolist() == [0, 1, 2] and expected.class_names == ("0", "1", "2")
    names = np.array([*NAMES, UNKNOWN, None], object)
    position = np.select([annotations == UNKNOWN, annotations == UNLABELED], [3, 4], annotations)
    of_names = names[position]
    numbers = np.where(annotations == UNLABELED, np.nan, annotations)
    for given, is_named in (
        (of_names, True),
        (of_names.tolist(), True),
        (np.array([*NAMES, "unknown", ""])[position], True),
        (pandas.Series(of_names), True),
        (pandas.Series(numbers), False),
        (pandas.Series(numbers).astype("Int64"), False),
    ):
        found = query(given, **options)
        np.testing.assert_array_equal(found.ids, expected.ids)
        assert found.classes.tolist() == (NAMES.tolist() if is_named else [0, 1, 2])


def test_one_known_class(task):
    features, _, truth = task
    annotations = np.full(120, None)
    annotations[:40] = np.where(truth == 1, "mine", "unknown")[:40]
    options = {"features": features, "budget": 10, "config": SHORT}
    found = query(annotations, method="lfosa", **options)
    assert np.mean(truth[found.ids] == 1) >= 0.7
    assert found.class_names == ("mine",) and found.pred_probs.shape == (120, 1)
    doubtful = query(annotations, **options)
    assert doubtful.summary["method"] == "margin"
    assert set(doubtful.ids) != set(found.ids) and not set(doubtful.ids) & set(range(40))
    for method in ("bual", "dcfs", "dropquery", "e2oal", "eaoa"):
        with pytest.raises(UserError, match=r"there is only 'mine'; choose method='lfosa'"):
            query(annotations, method=method, **options)


@pytest.mark.parametrize("method", ["typiclust", "probcover", "random"])
def test_the_very_first_annotations(task, method):
    features, _, truth = task
    options = {"features": features, "budget": 10, "config": SHORT, "method": method}
    found = query([None] * 120, num_classes=5, **options)
    assert len(set(found.ids.tolist())) == 10
    assert found.pred_probs.shape == (120, 5) and (found.pred_probs == np.float32(0.2)).all()
    assert len(set(truth[found.ids])) == 5 or method == "random"
    some = np.full(120, UNLABELED)
    some[found.ids] = np.where(truth == 3, 3, UNKNOWN)[found.ids]
    assert not set(query(some, num_classes=5, **options).ids) & set(found.ids)
    if method == "typiclust":  # not even the number of classes is known
        again = query([None] * 120, **options)
        np.testing.assert_array_equal(again.ids, found.ids)
        assert again.pred_probs.shape == (120, 0) and len(again.classes) == 0
