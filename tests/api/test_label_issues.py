"""Wrong labels from predicted probabilities, as a person calls it."""

import csv
import re

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.model_selection import cross_val_predict

from jaxrobust import LabelIssues, UserError, find_label_issues
from jaxrobust.data.image_inputs import as_images


def example(num=200, num_classes=4, rate=0.2, seed=0):
    """Labels of which some are wrong, which ones, and probabilities of the true class."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, num_classes, num)
    is_wrong = rng.random(num) < rate
    labels = np.where(is_wrong, (true + rng.integers(1, num_classes, num)) % num_classes, true)
    logits = rng.normal(size=(num, num_classes)) + 4 * np.eye(num_classes)[true]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, is_wrong, probs.astype(np.float32)


LABELS, IS_WRONG, PROBS = example()


@pytest.fixture(scope="module")
def issues():
    return find_label_issues(LABELS, pred_probs=PROBS)


def test_arrays(issues):
    assert isinstance(issues, LabelIssues) and len(issues) == 200
    assert issues.is_issue.dtype == bool and issues.is_issue.shape == (200,)
    assert issues.clean_prob.dtype == np.float32
    assert ((issues.clean_prob >= 0) & (issues.clean_prob <= 1)).all()
    assert issues.pred_probs.dtype == np.float32
    np.testing.assert_allclose(issues.pred_probs, PROBS, rtol=1e-6)
    assert sorted(issues.ranked) == list(range(200))
    np.testing.assert_array_equal(issues.suggested, PROBS.argmax(axis=1))
    np.testing.assert_array_equal(issues.classes, range(4))


def test_what_is_found(issues):
    assert f1_score(IS_WRONG, issues.is_issue) > 0.9
    assert roc_auc_score(IS_WRONG, -issues.clean_prob) > 0.98


def test_rank_flag_and_probability_agree(issues):
    probs = issues.clean_prob[issues.ranked]
    assert (np.diff(probs) >= 0).all()
    flags = issues.is_issue[issues.ranked]
    assert flags[: flags.sum()].all()
    np.testing.assert_array_equal(issues.is_issue, issues.clean_prob < 0.5)
    assert (issues.suggested != issues.given)[issues.is_issue].all()


def test_summary_and_repr(issues):
    summary = issues.summary
    assert (
        summary["num_issues"] == issues.is_issue.sum() == sum(summary["issues_by_class"].values())
    )
    given, suggested, count = summary["most_confused"][0]
    of_pair = (issues.given == int(given)) & (issues.suggested == int(suggested))
    assert count == (of_pair & issues.is_issue).sum()
    assert repr(issues) == (
        f"LabelIssues({summary['num_issues']} of 200 labels look wrong, 4 classes, method margin)"
    )


def test_zero_probabilities_are_certain_and_change_no_other(issues):
    probs = PROBS.copy()
    probs[0] = 1e-200, 0, 1 - 1e-12, 1e-12
    labels = LABELS.copy()
    labels[0] = 1
    labels[1] = np.argmax(PROBS[1])
    probs[1] = np.eye(4)[labels[1]]
    found = find_label_issues(labels, pred_probs=probs)
    assert 0 < found.clean_prob[0] < 0.01 and found.is_issue[0] and found.ranked[0] == 0
    assert found.clean_prob[1] > 0.999 and found.ranked[-1] == 1
    assert np.isfinite(found.clean_prob).all()
    # Two of 200 examples are others: the rest moves by little.
    np.testing.assert_allclose(found.clean_prob[2:], issues.clean_prob[2:], atol=0.15)


def test_hard_predictions():
    """One-hot probabilities: every margin is infinite."""
    is_wrong = np.arange(70) >= 60
    given, predicted = np.arange(70) % 3, np.arange(70) % 3
    predicted[is_wrong] = (given[is_wrong] + 1) % 3
    found = find_label_issues(given, pred_probs=np.eye(3)[predicted])
    assert found.clean_prob[~is_wrong].min() > 0.9
    assert found.clean_prob[is_wrong].max() < 0.6
    assert not found.is_issue[~is_wrong].any() and found.is_issue[is_wrong].sum() > 5


@pytest.mark.parametrize(
    "convert",
    [
        list,
        lambda x: jnp.asarray(x),
        lambda x: x.astype(np.int64)[:, None],
        lambda x: x.astype("f"),
    ],
    ids=["list", "jax", "column", "float"],
)
def test_kinds_of_labels_change_nothing(convert, issues):
    found = find_label_issues(convert(LABELS), pred_probs=jnp.asarray(PROBS, jnp.float32))
    np.testing.assert_array_equal(found.ranked, issues.ranked)
    np.testing.assert_array_equal(found.suggested, issues.suggested)


def test_text_labels_keep_their_type(issues, tmp_path):
    names = np.array(["ant", "bee", "=cat", "dog"])
    found = find_label_issues(names[LABELS], pred_probs=PROBS, class_names=names)
    np.testing.assert_array_equal(found.is_issue, issues.is_issue)
    np.testing.assert_array_equal(found.suggested, names[issues.suggested])
    found.save(tmp_path / "label_quality.csv")
    with open(tmp_path / "label_quality.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == found.ranked.tolist()
    assert {row["given_label"] for row in rows} == {"ant", "bee", "'=cat", "dog"}
    np.testing.assert_array_equal(
        np.array([row["clean_prob"] for row in rows], np.float32), found.clean_prob[found.ranked]
    )
    np.testing.assert_array_equal(
        [row["flagged"] == "1" for row in rows], found.is_issue[found.ranked]
    )


def test_a_workdir_gets_the_table(tmp_path, issues):
    find_label_issues(LABELS, pred_probs=PROBS, workdir=tmp_path / "run")
    issues.save(tmp_path / "same.csv")
    written = (tmp_path / "run" / "label_quality.csv").read_bytes()
    assert written == (tmp_path / "same.csv").read_bytes()


def test_pandas(issues):
    pandas = pytest.importorskip("pandas")
    names = np.array(["d", "c", "b", "a"])
    labels = pandas.Series(names[LABELS], index=np.arange(200) + 1000)
    # Columns are found by their names, in whatever order they are.
    probs = pandas.DataFrame(PROBS, columns=names, index=labels.index)
    found = find_label_issues(labels, pred_probs=probs)
    np.testing.assert_array_equal(found.is_issue, issues.is_issue)
    frame = found.to_frame()
    assert frame.index[0] == 1000
    assert frame.columns.tolist() == [
        "given_label",
        "suggested_label",
        "clean_prob",
        "is_issue",
        "rank",
    ]
    assert (frame["given_label"] == labels).all()
    assert (frame.sort_values("rank").index == found.ranked + 1000).all()
    missing = labels.copy()
    missing.iloc[3] = None
    with pytest.raises(UserError, match=re.escape("labels[3] is nan")):
        find_label_issues(missing, pred_probs=PROBS)


def test_hugging_face():
    datasets = pytest.importorskip("datasets")
    names = ["ant", "bee"]
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    )
    columns = {"image": [PIL.Image.fromarray(x) for x in images], "label": [0, 1, 0, 1, 0, 1]}
    dataset = datasets.Dataset.from_dict(columns, features=features)
    np.testing.assert_array_equal(as_images(dataset), images)
    np.testing.assert_array_equal(as_images(dataset["image"]), images)
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.3, 0.7], [0.8, 0.2], [0.1, 0.9]])
    for labels in (dataset, dataset["label"]):
        found = find_label_issues(labels, pred_probs=probs)
        assert found.is_issue.tolist() == [False, False, True, False, False, False]
    assert find_label_issues(dataset, pred_probs=probs).class_names == ("ant", "bee")
    with pytest.raises(UserError, match="holds the splits 'train'; give one of them"):
        find_label_issues(datasets.DatasetDict(train=dataset), pred_probs=probs)


@pytest.mark.parametrize(
    ("labels", "probs", "words"),
    [
        (LABELS[:-1], PROBS, "labels has 199 entries, but pred_probs has 200"),
        (LABELS + 1, PROBS, "but there are 4 classes, 0 to 3"),
        (LABELS, np.log(PROBS), "log-probabilities"),
        (np.zeros(200, int), PROBS, "only the class 0"),
    ],
)
def test_what_does_not_fit_is_refused(labels, probs, words):
    if words.startswith("but there"):
        labels = np.where(labels == 4, 12, labels - 1)
    with pytest.raises(UserError, match=words):
        find_label_issues(labels, pred_probs=probs)


def test_digits_beside_cleanlab():
    """On the same out-of-sample probabilities the flags are no worse than cleanlab's."""
    cleanlab = pytest.importorskip("cleanlab.filter")
    images, true = load_digits(return_X_y=True)
    ours, theirs = [], []
    for seed, rate in enumerate((0.05, 0.1, 0.2, 0.4)):
        rng = np.random.default_rng(seed)
        is_wrong = rng.random(len(true)) < rate
        labels = np.where(is_wrong, (true + rng.integers(1, 10, len(true))) % 10, true)
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1)
        probs = cross_val_predict(model, images / 16, labels, method="predict_proba")
        ours.append(f1_score(is_wrong, find_label_issues(labels, pred_probs=probs).is_issue))
        flags = cleanlab.find_label_issues(labels, probs, n_jobs=1)
        theirs.append(f1_score(is_wrong, flags))

    assert np.mean(ours) > np.mean(theirs)
    assert min(ours) > 0.7  # with one in twenty wrong
