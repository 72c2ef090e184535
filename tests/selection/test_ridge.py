"""Leave-one-out scores."""

import numpy as np
import pytest

from jaxrobust.selection import estimate_num_wrong, leave_one_out_scores, ridge


@pytest.mark.parametrize("chunk", [7, 100])
def test_they_are_those_of_a_regression_on_all_others(monkeypatch, chunk):
    monkeypatch.setattr(ridge, "_CHUNK", chunk)
    generator = np.random.default_rng(0)
    features = generator.normal(5, 3, (30, 4)).astype(np.float16)
    features[:, 3] = 1  # a dimension of one value says nothing
    labels = generator.integers(0, 3, 30)
    scores = leave_one_out_scores(features, labels, num_classes=3, ridges=[0.3])
    x = features.astype(np.float64)
    x = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1)
    x = np.column_stack([x, np.ones(30)])
    onehot = np.eye(3)[labels]
    for i in range(30):
        rest = np.arange(30) != i
        gram = x[rest].T @ x[rest] + 0.3 * 30 * np.diag([1, 1, 1, 1, 0])
        weights = np.linalg.solve(gram, x[rest].T @ onehot[rest])
        np.testing.assert_allclose(scores[i], np.maximum(x[i] @ weights, 0), atol=2e-5)


@pytest.mark.parametrize("chunk", [60, 200])
def test_the_ridge_of_the_least_error_on_examples_left_out_is_taken(monkeypatch, chunk):
    """Labels that follow the features ask for little, labels that do not for much."""
    monkeypatch.setattr(ridge, "_CHUNK", chunk)
    generator = np.random.default_rng(0)
    features = generator.normal(size=(120, 40))
    ridges = [0.01, 1.0, 100.0]

    def scores(labels, ridges):
        return leave_one_out_scores(features, labels, num_classes=2, ridges=ridges)

    clear = (features[:, 0] > 0).astype(int)
    for labels, expected in ((clear, 0.01), (generator.integers(0, 2, 120), 100.0)):
        np.testing.assert_array_equal(scores(labels, ridges), scores(labels, [expected]))


def test_wrong_labels_are_counted():
    """Four clusters of 200, some labels drawn anew; three deviations of the draws are 7 %."""
    generator = np.random.default_rng(1)
    true = np.arange(800) % 4
    features = 2 * generator.normal(size=(4, 30))[true] + generator.normal(size=(800, 30))
    for rate in (0.1, 0.4):
        is_wrong = generator.random(800) < rate
        labels = np.where(is_wrong, (true + generator.integers(1, 4, 800)) % 4, true)
        scores = leave_one_out_scores(features, labels, num_classes=4)
        assert abs(float(estimate_num_wrong(scores, labels)) / is_wrong.sum() - 1) < 0.2
