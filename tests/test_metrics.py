import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.losses import calibrated_softmax
from jaxrobust.metrics import (
    auroc,
    confusion_matrix,
    detection_scores,
    expected_calibration_error,
    query_precision,
    query_recall,
    reliability_bins,
    topk_accuracy,
)

seeded = settings(max_examples=40, deadline=None, derandomize=True)
jit_topk = jax.jit(topk_accuracy, static_argnums=2)


def test_topk_accuracy_by_hand():
    logits = jnp.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3], [0.2, 0.3, 0.5]])
    labels = jnp.array([1, 1, 0])
    for k, expected in ((1, [1, 0, 0]), (2, [1, 0, 0]), (3, [1, 1, 1])):
        hits = jit_topk(logits, labels, k)
        assert hits.dtype == jnp.float32
        np.testing.assert_array_equal(hits, expected)
        np.testing.assert_array_equal(topk_accuracy(logits, labels, k), expected)


def test_topk_accuracy_as_recorded(load_golden):
    golden = load_golden("dhkd")
    logits, labels = golden["topk", "logits"], golden["topk", "labels"]
    percent = [100 * np.mean(topk_accuracy(logits, labels, k)) for k in (1, 5)]
    np.testing.assert_allclose(percent, golden["topk", "acc1_acc5"], rtol=1e-4)


def test_topk_accuracy_counts_the_lower_class_first():
    logits = jnp.zeros((4, 4))
    labels = jnp.arange(4)
    np.testing.assert_array_equal(jit_topk(logits, labels, 1), [1, 0, 0, 0])
    np.testing.assert_array_equal(jit_topk(logits, labels, 3), [1, 1, 1, 0])


def test_topk_accuracy_of_labels_out_of_range_and_of_nan():
    logits = jnp.array([[0.1, 0.7], [0.1, 0.7], [jnp.nan, jnp.nan], [jnp.nan, 0.7]])
    labels = jnp.array([-1, 2, 0, 1])
    np.testing.assert_array_equal(jit_topk(logits, labels, 2), [0, 0, 0, 1])
    np.testing.assert_array_equal(jit_topk(logits, labels, 1), [0, 0, 0, 0])
    lowest = jnp.full((2, 2), -jnp.inf)
    np.testing.assert_array_equal(jit_topk(lowest, jnp.array([0, 2]), 2), [1, 0])


@seeded
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_topk_accuracy_is_a_stable_sort(seed, k):
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, 4, size=(5, 6)).astype(np.float32)
    labels = rng.integers(0, 6, size=5).astype(np.uint8)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(jit_topk(logits, labels, k), (order == labels[:, None]).any(1))


@pytest.mark.parametrize("case", ["ece0", "ece1", "ece2"])
def test_calibration_error_goldens(load_golden, x64, case):
    golden = load_golden("metrics")
    gamma, num_bins = float(golden[case, "gamma"]), int(golden[case, "num_bins"])
    probs = calibrated_softmax(golden[case, "logits"].astype(np.float64), gamma)
    error = expected_calibration_error(probs, golden[case, "labels"], num_bins=num_bins)
    np.testing.assert_allclose(error, golden[case, "ece"], rtol=1e-12)
    # The bins on the way, from the same golden.
    per_bin = golden[case, "bin_count"] * np.abs(golden[case, "bin_acc"] - golden[case, "bin_conf"])
    np.testing.assert_allclose(error, per_bin.sum() / len(probs), rtol=1e-12)


def test_calibration_error_by_hand():
    probs = np.array([[0.95, 0.05], [0.91, 0.09], [0.4, 0.6]])
    # Bin (0.9, 1]: accuracy 1/2, confidence 0.93. Bin (0.5, 0.6]: accuracy 1, confidence 0.6.
    error = expected_calibration_error(probs, np.array([0, 1, 1]))
    np.testing.assert_allclose(error, 2 / 3 * 0.43 + 1 / 3 * 0.4, rtol=1e-12)
    one_bin = expected_calibration_error(probs, np.array([0, 1, 1]), num_bins=1)
    np.testing.assert_allclose(one_bin, abs(2 / 3 - 2.46 / 3), rtol=1e-12)


@pytest.mark.parametrize("edge", [0.6, 0.7, 0.8, 0.9])
def test_calibration_bins_are_closed_above(edge):
    """A confidence on an edge shares the bin below it, where the errors of both cancel."""
    probs = np.array([[edge, 1 - edge], [edge - 0.05, 1.05 - edge]])
    labels = np.array([0, 1])
    together = abs(1 - edge - (edge - 0.05)) / 2
    np.testing.assert_allclose(expected_calibration_error(probs, labels), together, rtol=1e-12)


def test_calibration_error_of_perfect_and_of_no_predictions():
    assert expected_calibration_error(np.eye(3), np.arange(3)) == 0
    assert expected_calibration_error(np.eye(3), np.array([1, 2, 0])) == 1
    assert expected_calibration_error(np.zeros((0, 3)), np.zeros(0, int)) == 0


@pytest.mark.parametrize("case", ["metric0", "metric1"])
def test_query_goldens(load_golden, case):
    golden = load_golden("dcfs")
    is_known = golden[case, "pool_labels"] < golden[case, "num_known"]
    selected = is_known[golden[case, "query"]]
    recall = query_recall(int(golden[case, "num_labeled_known"]), selected.sum(), is_known.sum())
    np.testing.assert_allclose(query_precision(selected), golden[case, "precision"], rtol=1e-12)
    np.testing.assert_allclose(recall, golden[case, "recall"], rtol=1e-12)


def test_query_metrics_by_hand():
    assert query_precision([True, False, True, True]) == 0.75
    assert query_precision([]) == 0
    assert query_recall(10, 5, 20) == 0.5
    assert query_recall(0, 0, 0) == 0


def test_detection_scores_by_hand():
    predicted = np.array([1, 1, 1, 0, 0, 0], bool)
    truth = np.array([1, 0, 0, 1, 0, 0], bool)
    np.testing.assert_allclose(detection_scores(predicted, truth), [1 / 3, 1 / 2, 2 / 5])
    nobody = np.zeros(6, bool)
    assert detection_scores(nobody, truth) == (0, 0, 0)
    assert detection_scores(predicted, nobody) == (0, 0, 0)
    assert detection_scores(nobody, nobody) == (0, 0, 0)
    assert detection_scores(truth, truth) == (1, 1, 1)


@seeded
@given(st.integers(0, 10_000))
def test_detection_scores_are_sklearns(seed):
    predicted, truth = np.random.default_rng(seed).integers(0, 2, size=(2, 12)).astype(bool)
    expected = sklearn.metrics.precision_recall_fscore_support(
        truth, predicted, average="binary", zero_division=0
    )[:3]
    np.testing.assert_allclose(detection_scores(predicted, truth), expected, rtol=1e-12)


def test_auroc_by_hand():
    positives = np.array([1, 1, 0, 0], bool)
    assert auroc([4, 3, 2, 1], positives) == 1
    assert auroc([1, 2, 3, 4], positives) == 0
    assert auroc([1, 1, 1, 1], positives) == 0.5
    # Pairs: 3 > 2, 3 > 1, 2 = 2, 2 > 1.
    assert auroc([3, 2, 2, 1], positives) == 3.5 / 4
    assert auroc([np.inf, 0, -np.inf, 0], positives) == 3.5 / 4
    assert auroc([1, 2, 3, 4], np.ones(4, bool)) == 0
    assert auroc([1, 2, 3, 4], np.zeros(4, bool)) == 0
    assert auroc([], np.zeros(0, bool)) == 0


@seeded
@given(st.integers(0, 10_000), st.sampled_from([2, 5, 10**6]))
def test_auroc_is_sklearns(seed, levels):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, size=30) / levels
    positives = rng.permutation(np.arange(30) < rng.integers(1, 30))
    area = auroc(scores, positives)
    np.testing.assert_allclose(area, sklearn.metrics.roc_auc_score(positives, scores), atol=1e-12)
    np.testing.assert_allclose(area + auroc(-scores, positives), 1, atol=1e-12)
    np.testing.assert_allclose(area, auroc(np.exp(3 * scores), positives), atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (functools.partial(topk_accuracy, np.eye(3), np.zeros(3, int), 4), "k=4 must lie between"),
        (functools.partial(topk_accuracy, np.eye(3), np.zeros(3, int), 0), "k=0 must lie between"),
        (functools.partial(topk_accuracy, np.eye(3), np.zeros(2, int), 1), r"labels \[B\]"),
        (functools.partial(expected_calibration_error, np.eye(3), np.zeros(2, int)), r"\[n, C\]"),
        (
            functools.partial(expected_calibration_error, np.eye(3), np.zeros(3, int), num_bins=0),
            "num_bins=0",
        ),
        (functools.partial(detection_scores, np.zeros(3, bool), np.zeros(2, bool)), "one shape"),
        (functools.partial(auroc, np.zeros(3), np.zeros(2, bool)), r"must both be \[n\]"),
        (functools.partial(auroc, [0.0, np.nan], [True, False]), "NaN"),
    ],
)
def test_errors_name_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_reliability_bins_by_hand():
    bins = reliability_bins([0.95, 0.91, 0.6], [1, 0, 1])
    np.testing.assert_array_equal(bins["count"], [0, 0, 0, 0, 0, 1, 0, 0, 0, 2])
    np.testing.assert_allclose(bins["confidence"][[0, 5, 9]], [0, 0.6, 0.93], rtol=1e-12)
    np.testing.assert_allclose(bins["accuracy"][[0, 5, 9]], [0, 1, 0.5], rtol=1e-12)


def test_confusion_matrix_by_hand():
    """A row per true class."""
    counts = confusion_matrix([1, 1, 0, 2], [0, 1, 0, 2], 4)
    expected = [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(counts, expected)
