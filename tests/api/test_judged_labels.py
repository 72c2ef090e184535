"""`find_label_issues` of features: judges that see no label that they judge."""

import json

import numpy as np
import pytest

import jaxrobust
from jaxrobust import UserError
from jaxrobust.metrics import auroc


def clusters(rate: float, sizes=(100, 100, 100), seed: int = 0):
    """(features, labels, which are wrong) of overlapping clusters."""
    generator = np.random.default_rng(seed)
    true = np.repeat(np.arange(len(sizes)), sizes)
    centres = 2.2 * generator.normal(size=(len(sizes), 8))
    features = generator.normal(size=(len(true), 8)) + centres[true]
    is_wrong = np.zeros(len(true), bool)
    is_wrong[generator.permutation(len(true))[: round(rate * len(true))]] = True
    moves = generator.integers(1, len(sizes), len(true))
    return features, np.where(is_wrong, (true + moves) % len(sizes), true), is_wrong


@pytest.fixture(scope="module")
def case():
    return clusters(0.1)


@pytest.fixture(scope="module")
def issues(case):
    features, labels, _ = case
    return jaxrobust.find_label_issues(labels, features=features)


def test_flags_probabilities_and_number_agree(case, issues):
    _, _, is_wrong = case
    expected = issues.summary["expected_wrong"]
    low, high = issues.summary["expected_wrong_interval"]
    assert np.sum(1 - issues.clean_prob) == pytest.approx(expected, abs=0.1)
    assert 0.6 < expected / is_wrong.sum() < 1.67
    assert low <= expected <= high and low <= is_wrong.sum() <= high
    np.testing.assert_array_equal(issues.is_issue, issues.clean_prob < 0.5)
    assert (issues.suggested != issues.given)[issues.is_issue].all()
    assert (np.diff(issues.clean_prob[issues.ranked]) >= 0).all()
    assert auroc(-issues.clean_prob, is_wrong) > 0.97
    precision = is_wrong[issues.is_issue].mean()
    assert issues.is_issue.sum() > 15 and precision > 0.8


def test_the_summary_says_what_was_taken_and_why(issues):
    summary = json.loads(json.dumps(issues.summary))
    assert summary["method"] == "auto" and summary["mistakes"] in ("uniform", "similar", "pairs")
    assert set(summary["judges"]) == {"ridge", "logistic", "neighbors", "kernel_ridge"}
    for judge in summary["judges"].values():
        assert judge["weight"] >= 0 and 0.8 < judge["agreement"] < 1
    assert 0.8 < summary["agreement"] < 1


def test_named_it_is_the_same_and_the_scale_of_features_does_not_matter(case, issues, tmp_path):
    features, labels, _ = case
    views = np.stack([1e5 * features + 3e7, 1e5 * features + 3e7], axis=1)
    same = jaxrobust.find_label_issues(labels, features=views, method="auto", workdir=tmp_path)
    np.testing.assert_array_equal(same.is_issue, issues.is_issue)
    np.testing.assert_allclose(same.clean_prob, issues.clean_prob, atol=0.02)
    rows = (tmp_path / "label_quality.csv").read_text().splitlines()
    assert len(rows) == 301 and rows[1].split(",")[0] == str(same.ranked[0])


def test_nothing_wrong():
    features, labels, _ = clusters(0.0)
    issues = jaxrobust.find_label_issues(labels, features=features)
    assert issues.is_issue.sum() <= 3
    assert issues.summary["expected_wrong"] < 9  # 3 %
    assert issues.summary["expected_wrong_interval"][0] == 0


def test_a_rare_class_is_not_flagged_away():
    """Of 12 right labels of the rarest of three classes that overlap, most stay."""
    features, labels, _ = clusters(0.0, sizes=(220, 68, 12), seed=3)
    issues = jaxrobust.find_label_issues(labels, features=features)
    assert issues.is_issue[labels == 2].sum() <= 2


@pytest.mark.parametrize("labels", [[0, 1, 0, 1, 0], ["a", "a", "a", "b", "c"]])
def test_few_rows(labels):
    features = np.random.default_rng(0).normal(size=(5, 3))
    issues = jaxrobust.find_label_issues(labels, features=features)
    assert len(issues) == 5 and np.isfinite(issues.clean_prob).all()
    assert not issues.is_issue.all()


def test_labels_of_one_class_are_refused():
    with pytest.raises(UserError, match="labels holds only the class 1; labels of at least two"):
        jaxrobust.find_label_issues([1] * 5, features=np.eye(5))


def test_what_auto_cannot_do(case):
    features, labels, _ = case
    with pytest.raises(UserError, match="method='auto' trains no network"):
        jaxrobust.find_label_issues(
            labels, features=features, method="auto", config={"num_epochs": 2}
        )
    with pytest.raises(UserError, match="method='auto' judges features, and these images are not"):
        jaxrobust.find_label_issues(labels, images=np.zeros((300, 8, 8), np.uint8), method="auto")
    with pytest.raises(UserError, match="Give one of features=, images= or pred_probs="):
        jaxrobust.find_label_issues(labels)


def test_the_mean_margin_is_a_method(case):
    features, labels, is_wrong = case
    issues = jaxrobust.find_label_issues(labels, features=features, method="mean_margin")
    assert issues.summary["method"] == "mean_margin"
    rank = np.empty(len(labels))
    rank[issues.ranked] = np.arange(len(labels))
    assert auroc(-rank, is_wrong) > 0.9
