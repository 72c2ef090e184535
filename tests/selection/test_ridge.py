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
    for i in range(30):
        rest = np.arange(30) != i
        predicted = _regression(features, np.eye(3)[labels], 0.3, rest, everything=rest | ~rest)[i]
        np.testing.assert_allclose(scores[i], np.maximum(predicted, 0), atol=2e-5)


def _regression(features, targets, ridge, rest, everything):
    """Predictions of all by a ridge regression with an intercept on `rest`, of N examples."""
    x = features.astype(np.float64)
    of_all = x[everything]
    x = (x - of_all.mean(0)) / np.where(of_all.std(0) > 0, of_all.std(0), 1)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    penalty = ridge * everything.sum() * np.diag([1.0] * (x.shape[1] - 1) + [0.0])
    return x @ np.linalg.solve(x[rest].T @ x[rest] + penalty, x[rest].T @ targets[rest])


@pytest.mark.parametrize("chunk", [7, 100])
def test_labels_may_be_probabilities_and_some_examples_left_out(monkeypatch, chunk):
    monkeypatch.setattr(ridge, "_CHUNK", chunk)
    generator = np.random.default_rng(1)
    features = generator.normal(5, 3, (30, 4)).astype(np.float32)
    labels = generator.dirichlet(np.ones(3), 30)
    where = np.arange(30) % 3 > 0
    scores = leave_one_out_scores(
        features, labels, num_classes=3, ridges=[0.3], where=where, clip=False
    )
    for i in range(30):
        rest = where & (np.arange(30) != i)
        predicted = _regression(features, labels, 0.3, rest, everything=where)[i]
        np.testing.assert_allclose(scores[i], predicted, atol=2e-5)


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


def test_more_dimensions_than_examples_do_not_tell_an_example_its_own_label():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(60, 400)).astype(np.float32)
    labels = generator.integers(0, 3, 60)
    ridges = (1e-4, 1e-3, 0.1)  # with the first two regressions the features explain every label
    scores = leave_one_out_scores(features, labels, num_classes=3, ridges=ridges, clip=False)
    assert np.mean(scores.argmax(axis=1) == labels) < 0.5  # of random labels
