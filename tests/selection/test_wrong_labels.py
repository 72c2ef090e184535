"""How probable it is that labels are wrong, and how many are."""

import numpy as np
import pytest

from jaxrobust.metrics import auroc
from jaxrobust.selection.wrong_labels import find_wrong_labels, no_wrong_labels

NUM_ROWS, NUM_CLASSES = 600, 5


def log_probs(rate: float, seed: int = 0, *, spread: float = 2.0):
    """(scores of two judges, labels, which are wrong): true classes are drawn from the scores."""
    generator = np.random.default_rng(seed)
    logits = spread * generator.normal(size=(NUM_ROWS, NUM_CLASSES))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    true = (probs.cumsum(axis=1) < generator.random((NUM_ROWS, 1))).sum(axis=1)
    is_wrong = np.zeros(NUM_ROWS, bool)
    is_wrong[generator.permutation(NUM_ROWS)[: round(rate * NUM_ROWS)]] = True
    labels = np.where(is_wrong, (true + generator.integers(1, 5, NUM_ROWS)) % 5, true)
    second = logits + generator.normal(size=logits.shape)
    return np.stack([np.log(probs), second]), labels, is_wrong


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.4])
def test_as_many_are_expected_as_are_wrong(rate):
    scores, labels, is_wrong = log_probs(rate, spread=4.0)
    found = find_wrong_labels(scores, labels)
    assert found.num_wrong == pytest.approx(found.wrong_prob.sum())
    assert 0.6 < found.num_wrong / is_wrong.sum() < 1.67
    low, high = found.interval
    assert 0 <= low <= found.num_wrong <= high <= NUM_ROWS
    assert low <= is_wrong.sum() <= high
    # The better judge is the one that the true classes were drawn from.
    assert found.weights[0] > found.weights[1]
    assert auroc(found.wrong_prob, is_wrong) > 0.9
    np.testing.assert_array_equal(np.sort(found.ranked), np.arange(NUM_ROWS))
    assert (np.diff(found.wrong_prob[found.ranked]) <= 1e-12).all()
    # Said and seen agree in five groups, within three deviations of a share and some bias.
    order = np.argsort(found.wrong_prob)
    for part in np.array_split(order, 5):
        said, seen = found.wrong_prob[part].mean(), is_wrong[part].mean()
        assert abs(said - seen) < 0.1 + 3 * np.sqrt(said * (1 - said) / len(part))


def test_right_labels_of_an_unsure_judge_are_not_wrong_ones():
    """The best class is not the label's for a fifth of the examples, and no label is wrong."""
    scores, labels, _ = log_probs(0.0, spread=3.0)
    assert 0.15 < np.mean(scores[0].argmax(axis=1) != labels) < 0.3
    found = find_wrong_labels(scores, labels)
    assert found.num_wrong < 0.06 * NUM_ROWS
    assert np.mean(found.wrong_prob > 0.5) < 0.03
    assert found.interval[0] == 0


def test_mistakes_of_pairs_of_classes():
    """A fifth of the labels is the next class: what a judge says of them it learned from them."""
    generator = np.random.default_rng(0)
    true = generator.integers(0, NUM_CLASSES, NUM_ROWS)
    is_wrong = generator.random(NUM_ROWS) < 0.2
    labels = np.where(is_wrong, (true + 1) % 5, true)
    probs = 0.8 * np.eye(5)[true] + 0.19 * np.eye(5)[(true + 1) % 5] + 0.002
    logits = np.log(probs) + 0.3 * generator.normal(size=probs.shape)
    found = find_wrong_labels(logits[None], labels)
    assert 0.6 < found.num_wrong / is_wrong.sum() < 1.67 and found.kind == "pairs"


def test_what_a_pair_of_classes_is_often_taken_for_is_more_suspicious():
    """Class 0 is often called 1 and never 2; a judge cannot tell 1 from 2 apart either."""
    generator = np.random.default_rng(0)
    true = generator.integers(0, 3, NUM_ROWS)
    is_wrong = (true == 0) & (generator.random(NUM_ROWS) < 0.3)
    labels = np.where(is_wrong, 1, true)
    scores = 3 * np.eye(3)[true] + generator.normal(size=(NUM_ROWS, 3))
    scores[:2], labels[:2] = [[2, 1, -3], [-3, 1, 2]], 1
    found = find_wrong_labels(scores[None], labels)
    assert found.wrong_prob[0] > found.wrong_prob[1] + 0.05


def test_a_label_that_no_class_beats_is_not_called_wrong():
    scores, labels, _ = log_probs(0.4, spread=4.0)
    found = find_wrong_labels(scores, labels)
    is_best = found.probs.argmax(axis=1) == labels
    assert found.wrong_prob[is_best].max() <= 0.5
    assert found.agreement == pytest.approx(is_best.mean())


def test_margins_tell_labels_of_equal_odds_apart():
    """Both labels have no probability; the first one's other classes are less sure."""
    scores, labels, _ = log_probs(0.2, spread=4.0)
    scores = scores[:1].copy()
    scores[0, 0], labels[0] = np.log([0.25, 0.25, 0.25, 0.249, 0.001]), 4
    scores[0, 1], labels[1] = np.log([0.99, 0.003, 0.003, 0.003, 0.001]), 4
    found = find_wrong_labels(scores, labels, order="margin")
    assert found.wrong_prob[1] > found.wrong_prob[0]


def test_many_classes():
    """Of 100 classes the most probable ones and the given one count."""
    generator = np.random.default_rng(0)
    true = generator.integers(0, 100, 400)
    is_wrong = generator.random(400) < 0.1
    labels = np.where(is_wrong, (true + generator.integers(1, 100, 400)) % 100, true)
    scores = 6 * np.eye(100)[true] + generator.normal(size=(400, 100))
    found = find_wrong_labels(scores[None], labels)
    assert 0.6 < found.num_wrong / is_wrong.sum() < 1.67
    assert auroc(found.wrong_prob, is_wrong) > 0.99


def test_equal_calls_give_equal_bits():
    scores, labels, _ = log_probs(0.2, spread=4.0)
    first, second = (find_wrong_labels(scores, labels) for _ in range(2))
    np.testing.assert_array_equal(first.wrong_prob, second.wrong_prob)


def test_nothing_to_compare():
    found = no_wrong_labels(np.zeros(3, int), 1)
    assert found.num_wrong == 0 and found.probs.tolist() == [[1], [1], [1]]


def test_wrong_labels_drawn_by_a_seed_that_people_use_are_counted():
    count, random = 20_000, np.random.default_rng(1)
    true = random.integers(0, 3, count)
    scores = 4 * np.eye(3)[true] + random.normal(0, 1, (count, 3))
    labels, changed = true.copy(), np.random.default_rng(0).permutation(count)[:2000]
    labels[changed] = (true[changed] + 1 + random.integers(0, 2, 2000)) % 3
    assert 1800 < find_wrong_labels(scores[None], labels).num_wrong < 2200
