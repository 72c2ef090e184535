import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from jaxrobust.metrics import (
    average_precision,
    class_correlation,
    mean_average_precision,
    multilabel_f1,
    neighbor_precision,
    oracle_topk_predictions,
)

CASES = [f"case{i}" for i in range(5)]
property_test = settings(max_examples=50, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def random_problem(seed, has_ties=False):
    """Scores and targets [30, 4] in which every class has a positive."""
    rng = np.random.default_rng(seed)
    scores = rng.random((30, 4))
    targets = (rng.random((30, 4)) < 0.4).astype(int)
    targets[rng.integers(30), :] = 1
    return np.round(scores, 1) if has_ties else scores, targets


def test_golden_cases_are_all_tested(load_golden):
    names = load_golden("l2d").names("metrics")
    assert {name.split("/")[0] for name in names} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_golden(load_golden, case):
    golden = load_golden("l2d")
    arrays = {
        name.removeprefix(case + "/"): golden["metrics", name]
        for name in golden.names("metrics")
        if name.startswith(case + "/")
    }
    scores, targets = arrays["scores"], arrays["targets"]
    by_class = [average_precision(s, y) for s, y in zip(scores.T, targets.T, strict=True)]
    np.testing.assert_allclose(by_class, arrays["ap"], rtol=1e-12)
    np.testing.assert_allclose(mean_average_precision(scores, targets), arrays["map"], rtol=1e-12)

    predictions = oracle_topk_predictions(scores, targets)
    np.testing.assert_array_equal(predictions, arrays["preds_topk"])
    np.testing.assert_array_equal(predictions, scores > arrays["threshold"][:, None])
    recorded = {
        **{"OP": "op", "OR": "or", "OF1": "of1", "CP": "cp", "CR": "cr"},
        **{"CF1": "cf1_macro", "CF1_harmonic": "cf1_harmonic"},
    }
    for kind, kind_predictions in [("sk_topk", predictions), ("sk_thr05", scores > 0.5)]:
        results = multilabel_f1(kind_predictions, targets)
        assert set(results) == set(recorded)
        for name, key in recorded.items():
            np.testing.assert_allclose(results[name], arrays[f"{kind}_{key}"], rtol=1e-12)
    topk = multilabel_f1(predictions, targets)
    np.testing.assert_allclose(
        [topk["OF1"], topk["CF1"]], [arrays["of1"], arrays["cf1"]], rtol=1e-12
    )


class TestAveragePrecision:
    def test_hand_computed(self):
        # Positives at ranks 1 and 3: (1 + 2/3) / 2.
        assert average_precision([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0]) == pytest.approx(5 / 6)
        # The tie of ranks 2 and 3 is one threshold, with precision 2/3.
        assert average_precision([0.9, 0.8, 0.8, 0.1], [1, 0, 1, 0]) == pytest.approx(5 / 6)
        assert average_precision([0.9, 0.8, 0.8, 0.1], [0, 1, 0, 0]) == pytest.approx(1 / 3)
        assert average_precision([np.inf, np.inf, -np.inf], [0, 1, 0]) == pytest.approx(1 / 2)

    def test_without_positives(self):
        assert average_precision([0.5, 0.1], [0, 0]) == 0.0
        assert mean_average_precision([[0.5, 0.5], [0.1, 0.1]], [[0, 1], [0, 0]]) == 0.5

    @given(seeds, st.booleans())
    @property_test
    def test_equals_scikit_learn(self, seed, has_ties):
        scores, targets = random_problem(seed, has_ties)
        expected = average_precision_score(targets, scores, average=None)
        by_class = [average_precision(s, y) for s, y in zip(scores.T, targets.T, strict=True)]
        np.testing.assert_allclose(by_class, expected, rtol=1e-12)
        np.testing.assert_allclose(mean_average_precision(scores, targets), expected.mean())

    @given(seeds)
    @property_test
    def test_depends_on_ranks_only(self, seed):
        scores, targets = random_problem(seed, has_ties=True)
        value = average_precision(scores[:, 0], targets[:, 0])
        assert average_precision(np.exp(3 * scores[:, 0]) - 5, targets[:, 0]) == value
        order = np.random.default_rng(seed).permutation(30)
        assert average_precision(scores[order, 0], targets[order, 0]) == pytest.approx(value)
        assert average_precision(targets[:, 0], targets[:, 0]) == pytest.approx(1.0)
        prevalence = targets[:, 0].mean()
        assert average_precision(np.ones(30), targets[:, 0]) == pytest.approx(prevalence)

    def test_errors(self):
        with pytest.raises(ValueError, match="vectors of one length"):
            average_precision([0.1, 0.2], [1])
        with pytest.raises(ValueError, match="vectors of one length"):
            average_precision([[0.1, 0.2]], [[1, 0]])
        with pytest.raises(ValueError, match="NaN"):
            average_precision([0.1, np.nan], [1, 0])
        with pytest.raises(ValueError, match=r"\[n, C\] arrays of one shape"):
            mean_average_precision([0.1, 0.2], [1, 0])


class TestOracleTopk:
    def test_hand_computed(self):
        scores = np.array([[0.9, 0.2, 0.5], [0.9, 0.2, 0.5], [0.9, 0.2, 0.5], [0.5, 0.5, 0.1]])
        targets = np.array([[0, 1, 0], [0, 0, 0], [1, 1, 1], [1, 0, 0]])
        expected = [[1, 0, 0], [0, 0, 0], [1, 1, 1], [0, 0, 0]]
        np.testing.assert_array_equal(oracle_topk_predictions(scores, targets), expected)

    @given(seeds)
    @property_test
    def test_predicts_the_true_number(self, seed):
        scores, targets = random_problem(seed)
        predictions = oracle_topk_predictions(scores, targets)
        np.testing.assert_array_equal(predictions.sum(1), targets.sum(1))
        results = multilabel_f1(predictions, targets)
        assert results["OP"] == results["OR"] == pytest.approx(results["OF1"])

    def test_error(self):
        with pytest.raises(ValueError, match=r"\[n, C\] arrays of one shape"):
            oracle_topk_predictions(np.zeros((2, 3)), np.zeros((2, 2)))


class TestMultilabelF1:
    def test_hand_computed(self):
        predictions, targets = [[1, 1, 0], [1, 0, 0]], [[1, 0, 0], [0, 1, 0]]
        results = multilabel_f1(predictions, targets)
        assert results["OP"] == pytest.approx(1 / 3)
        assert results["OR"] == pytest.approx(1 / 2)
        assert results["OF1"] == pytest.approx(2 / 5)
        assert results["CP"] == pytest.approx((1 / 2) / 3)
        assert results["CR"] == pytest.approx(1 / 3)
        assert results["CF1"] == pytest.approx((2 / 3) / 3)
        assert results["CF1_harmonic"] == pytest.approx(2 / 9)

    def test_nothing_predicted_and_nothing_true(self):
        results = multilabel_f1(np.zeros((2, 3)), np.zeros((2, 3)))
        assert set(results.values()) == {0.0}

    @given(seeds, st.sampled_from([0.05, 0.5, 0.99]))
    @property_test
    def test_equals_scikit_learn(self, seed, threshold):
        scores, targets = random_problem(seed)
        predictions = scores > threshold
        results = multilabel_f1(predictions, targets)
        for average, names in [("micro", ("OP", "OR", "OF1")), ("macro", ("CP", "CR", "CF1"))]:
            expected = precision_recall_fscore_support(
                targets, predictions, average=average, zero_division=0
            )
            np.testing.assert_allclose([results[n] for n in names], expected[:3], rtol=1e-12)

    def test_error(self):
        with pytest.raises(ValueError, match=r"\[n, C\] arrays of one shape"):
            multilabel_f1(np.zeros(3), np.zeros(3))


def test_class_correlation():
    probs = np.random.default_rng(0).random((20, 4))
    probs[:, 3] = 0.5
    correlation = class_correlation(probs)
    np.testing.assert_allclose(correlation[:3, :3], np.corrcoef(probs[:, :3].T), atol=1e-12)
    np.testing.assert_array_equal(correlation[3], [0, 0, 0, 1])
    with pytest.raises(ValueError, match="n >= 2"):
        class_correlation(probs[:1])


def test_neighbor_precision_by_hand():
    # On a line: 0 1 3 7. Nearest two of each: (1 3), (0 3), (1 0), (3 1).
    features = np.array([[0.0], [1], [3], [7]])
    targets = np.array([[1, 0], [1, 0], [0, 1], [0, 0]])
    # 0 finds 1 but not 2, 1 finds 0 but not 2, 2 finds none, 3 asks for nothing.
    assert neighbor_precision(features, targets, k=2) == (0.5 + 0.5 + 0) / 3
    assert neighbor_precision(features, np.zeros((4, 2)), k=2) == 0
    with pytest.raises(ValueError, match="between 1 and 3"):
        neighbor_precision(features, targets, k=4)
