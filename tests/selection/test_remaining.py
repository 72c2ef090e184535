"""The bound on wrong labels that are left, by simulated reviews."""

import numpy as np
import pytest

from jaxrobust.selection import answers_needed, next_to_review, random_share, wrong_labels_left


def test_one_answer_by_hand():
    """Of two labels one is drawn and right: only that both were wrong is impossible."""
    bounds = wrong_labels_left(np.array([False]), np.array([True]), num_labels=2)
    np.testing.assert_array_equal(bounds, [2, 1])
    # With theta = 0 alone n right ones of N leave m with probability prod 1 - m / (N - t).
    is_wrong = np.zeros(60, bool)
    bounds = wrong_labels_left(is_wrong, ~is_wrong, num_labels=100)
    p = np.cumprod([1 - 10 / (100 - t) for t in range(60)])
    assert p[-1] < 1 / 20 and bounds[-1] < 10
    assert (np.diff(bounds) <= 0).all()


def test_answers_by_suspicion_lower_it_only_by_what_they_are():
    is_wrong = np.array([True, False, True])
    bounds = wrong_labels_left(is_wrong, np.zeros(3, bool), num_labels=10)
    np.testing.assert_array_equal(bounds, [10, 9, 8, 7])


def _review(num_labels, is_wrong, ranked, seed):
    """All labels in the order of `next_to_review`."""
    ids, wrong, drawn = [], [], []
    while len(ids) < num_labels:
        i, random = next_to_review(
            ranked, np.array(ids, int), np.array(wrong, bool), np.array(drawn, bool), seed=seed
        )
        ids.append(i)
        wrong.append(is_wrong[i])
        drawn.append(random)
    return ids, np.array(wrong), np.array(drawn)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.3])
def test_it_holds_at_all_times_for_simulated_reviewers(rate):
    """60 reviews of 120 labels: 95 % promised; fewer than 53 of 60 hold once in 1,600 of such."""
    holds = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        is_wrong = rng.permutation(120) < rate * 120
        ranked = np.argsort(rng.normal(size=120) - 2 * is_wrong)
        ids, wrong, drawn = _review(120, is_wrong, ranked, seed)
        assert sorted(ids) == list(range(120))
        bounds = wrong_labels_left(wrong, drawn, num_labels=120)
        left = is_wrong.sum() - np.concatenate([[0], np.cumsum(wrong)])
        holds += bool((bounds >= left).all())
    assert holds >= 53


def test_it_is_not_vacuous():
    """2,000 right labels: at most 2 % are wrong after about 250 answers."""
    rng = np.random.default_rng(0)
    wrong = np.zeros(400, bool)
    drawn = rng.random(400) < np.where(np.arange(400) < 50, 0.2, 0.8)
    bounds = wrong_labels_left(wrong, drawn, num_labels=2000)
    assert 150 < np.argmax(bounds <= 40) < 350
    needed = answers_needed(
        np.arange(2000), np.zeros(2000), np.array([], int), wrong[:0], drawn[:0], target=0.02
    )
    assert needed is not None and 150 < needed < 350
    after = answers_needed(
        np.arange(2000), np.zeros(2000), np.arange(100), wrong[:100], drawn[:100], target=0.02
    )
    assert after is not None and 60 < needed - after < 140


def test_random_picks_are_few_while_suspicion_finds_something():
    wrong, drawn = np.ones(50, bool), np.zeros(50, bool)
    assert random_share(wrong, drawn) == 0.2
    assert random_share(~wrong, drawn) == 0.8
    assert random_share(~wrong[:10], drawn[:10]) == 0.2  # too early to tell


def test_nothing_is_next_after_all():
    assert next_to_review(np.arange(2), np.arange(2), np.zeros(2), np.zeros(2)) is None
