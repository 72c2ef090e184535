"""Judges that did not see the label that they judge."""

import numpy as np
import pytest

from jaxrobust.selection import judges

JUDGES = {
    "ridge": lambda x, y, c: judges.ridge_scores(x, y, c),
    "logistic": lambda x, y, c: judges.logistic_scores(x, y, c, seed=0),
    "neighbors": lambda x, y, c: judges.neighbor_scores(x, y, c, seed=0),
    "kernel": lambda x, y, c: judges.ridge_scores(judges.fourier_features(x, seed=0), y, c),
}


@pytest.mark.parametrize("name", JUDGES)
def test_labels_without_a_rule_are_not_predicted(name):
    """In 200 dimensions a model that saw the labels of 150 rows would predict all of them."""
    generator = np.random.default_rng(0)
    features = judges.standardized(generator.normal(size=(150, 200)))
    labels = generator.integers(0, 3, 150)
    agreement = np.mean(JUDGES[name](features, labels, 3).argmax(axis=1) == labels)
    assert agreement < 1 / 3 + 4 * np.sqrt(2 / 9 / 150)


@pytest.mark.parametrize("name", JUDGES)
def test_clear_classes_are_predicted_even_one_of_two_rows(name):
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [40, 40, 2])
    features = generator.normal(size=(82, 12)) + 6 * generator.normal(size=(3, 12))[labels]
    scores = JUDGES[name](judges.standardized(features), labels, 3)
    assert scores.shape == (82, 3) and np.isfinite(scores).all()
    assert np.mean(scores.argmax(axis=1) == labels) > 0.95


def test_standardized():
    features = np.array([[1.0, 5, 1e9], [3, 5, 1e9 + 2], [5, 5, 1e9 + 4]])
    rows = judges.standardized(features)
    np.testing.assert_allclose(rows, np.sqrt(1.5) * np.array([[-1, -1], [0, 0], [1, 1]]), rtol=1e-4)
    assert judges.standardized(features[:, 1:2]).tolist() == [[0], [0], [0]]


def test_many_rows_are_weighed_by_a_part_of_them(monkeypatch):
    monkeypatch.setattr(judges, "_MOST_ROWS", 60)
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 200)
    features = judges.standardized(generator.normal(size=(200, 3)) + 3 * labels[:, None])
    scores = judges.logistic_scores(features, labels, 2, seed=0)
    assert np.mean(scores.argmax(axis=1) == labels) > 0.97


def test_a_regression_that_would_take_minutes_is_left_out(monkeypatch):
    monkeypatch.setattr(judges, "_MOST_WORK", 100)
    assert (
        judges.logistic_scores(np.zeros((10, 6), np.float32), np.arange(10) % 2, 2, seed=0) is None
    )
