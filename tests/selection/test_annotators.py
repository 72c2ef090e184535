"""Accuracies and confusions of annotators, and the classes of what they voted on."""

import jax
import numpy as np
import pytest

from jaxrobust.selection import (
    annotator_accuracies,
    annotator_confusions,
    consensus_posterior,
    fit_annotators,
    vote_log_likelihood,
)
from jaxrobust.selection.annotators import Cells

# Two items, three annotators (the last without a vote), two classes.
PROBS = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
VOTES = {
    "items": np.array([0, 1, 0]),
    "annotators": np.array([0, 0, 1]),
    "votes": np.array([0, 1, 1]),
}


def test_numbers_worked_out_by_hand():
    accuracies = annotator_accuracies(PROBS, **VOTES, num_annotators=3, strength=1.0)
    common = (0.9 + 0.8 + 0.1 + 0.7) / 4
    by_hand = [(1.7 + common) / 3, (0.1 + common) / 2, common]
    np.testing.assert_allclose(accuracies, by_hand, rtol=1e-6)
    confusions = annotator_confusions(PROBS, **VOTES, num_annotators=3, strength=1.0)
    a = by_hand[0]
    # Rows: the true class; of class 0 the votes are 0.9 for 0 and 0.2 for 1.
    first = [[(0.9 + a) / 2.1, (0.2 + 1 - a) / 2.1], [(0.1 + 1 - a) / 1.9, (0.8 + a) / 1.9]]
    np.testing.assert_allclose(confusions[0], first, rtol=1e-6)
    np.testing.assert_allclose(confusions[2], [[common, 1 - common], [1 - common, common]], 1e-6)
    log = vote_log_likelihood(confusions, **VOTES, num_items=3)
    np.testing.assert_allclose(log[1], np.log(np.array(first)[:, 1]), rtol=1e-5)
    np.testing.assert_allclose(
        log[0], np.log(np.array(first)[:, 0] * np.asarray(confusions)[1][:, 1]), rtol=1e-5
    )
    np.testing.assert_array_equal(log[2], 0)  # nobody voted
    posterior = consensus_posterior(log, np.log([0.5, 0.5]).astype(np.float32))
    np.testing.assert_allclose(posterior[1], np.array(first)[:, 1] / np.sum(first, 0)[1], 1e-5)


def test_votes_that_are_masked_or_out_of_range_do_not_count():
    expected = annotator_confusions(PROBS, **VOTES, num_annotators=3)
    more = {name: np.append(x, [0, 0, -1, 9]) for name, x in VOTES.items()}
    more["votes"][3:5] = (-1, 1)
    where = np.array([True, True, True, True, False, True, True])
    found = annotator_confusions(PROBS, **more, num_annotators=3, where=where)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    log = vote_log_likelihood(found, **more, num_items=2, where=where)
    np.testing.assert_allclose(log, vote_log_likelihood(expected, **VOTES, num_items=2), rtol=1e-5)
    fitted = fit_annotators(**more, num_items=2, num_annotators=3, num_classes=2, where=where)
    clean = fit_annotators(**VOTES, num_items=2, num_annotators=3, num_classes=2)
    np.testing.assert_allclose(fitted.probs, clean.probs, rtol=1e-5)


def test_without_shrinkage_they_are_counts():
    votes = np.array([0, 1, 1, 0])
    probs = np.eye(2, dtype=np.float32)[[0, 0, 1, 1]]
    found = annotator_confusions(
        probs, np.arange(4), np.zeros(4, int), votes, num_annotators=2, strength=0.0
    )
    np.testing.assert_allclose(found[0], [[0.5, 0.5], [0.5, 0.5]])
    assert np.isfinite(found).all()  # the second annotator has no vote


def crowd(num_items, seed, num_annotators=20, num_classes=4, per_item=4):
    """Votes of annotators between guessing and knowing, and the truth."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, num_classes, num_items)
    skill = rng.uniform(0.3, 0.95, num_annotators)
    items = np.repeat(np.arange(num_items), per_item)
    annotators = np.argsort(rng.random((num_items, num_annotators)), axis=1)[:, :per_item].ravel()
    wrong = (true[items] + rng.integers(1, num_classes, len(items))) % num_classes
    votes = np.where(rng.random(len(items)) < skill[annotators], true[items], wrong)
    return items, annotators, votes, true, skill


SIZES = {"num_items": 300, "num_annotators": 20, "num_classes": 4}


@pytest.fixture(scope="module")
def fitted():
    items, annotators, votes, true, skill = crowd(300, seed=0)
    return fit_annotators(items, annotators, votes, **SIZES), (
        items,
        annotators,
        votes,
        true,
        skill,
    )


def test_it_beats_the_majority_and_finds_the_good_annotators(fitted):
    model, (items, _, votes, true, skill) = fitted
    shares = np.zeros((300, 4))
    np.add.at(shares, (items, votes), 1)
    majority = np.mean(shares.argmax(1) != true)
    assert np.mean(np.asarray(model.probs).argmax(1) != true) < 0.8 * majority
    # 60 votes of each: the deviation of a share is at most .065, of a uniform skill .19.
    assert np.corrcoef(model.accuracies, skill)[0, 1] > 0.9
    assert 1 < int(model.num_iter) < 100


def test_pairs_that_occur_are_enough(fitted):
    model, (items, annotators, votes, *_) = fitted
    pairs, of_vote = np.unique(annotators * 4 + votes, return_inverse=True)
    found = fit_annotators(
        items, annotators, votes, **SIZES, cells=Cells(of_vote, pairs // 4, pairs % 4)
    )
    np.testing.assert_allclose(found.probs, model.probs, atol=1e-6)


def test_its_parts_are_a_round_of_it(fitted):
    """At the fixed point another round changes nothing."""
    model, (items, annotators, votes, *_) = fitted
    confusions = annotator_confusions(model.probs, items, annotators, votes, num_annotators=20)
    log = vote_log_likelihood(confusions, items, annotators, votes, num_items=300)
    again = consensus_posterior(log, model.log_prior)
    np.testing.assert_allclose(again, model.probs, atol=5e-3)


def test_a_classifier_takes_the_place_of_the_prior():
    model = fit_annotators(
        **VOTES,
        num_items=2,
        num_annotators=3,
        num_classes=2,
        log_prior=np.log(np.array([[0.5, 0.5], [1e-9, 1 - 1e-9]], np.float32)),
    )
    assert model.probs[1, 1] > 0.999
    np.testing.assert_allclose(
        model.probs, consensus_posterior(model.log_likelihood, model.log_prior), rtol=1e-6
    )


def test_float64_stays():
    with jax.enable_x64(True):
        found = annotator_accuracies(PROBS.astype(np.float64), **VOTES, num_annotators=3)
        assert found.dtype == np.float64


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"must be \[V\], got \(3,\), \(2,\), \(3,\)"):
        annotator_accuracies(
            PROBS, np.zeros(3, int), np.zeros(2, int), np.zeros(3, int), num_annotators=1
        )
    with pytest.raises(ValueError, match="votes must be integers"):
        annotator_accuracies(
            PROBS, np.zeros(3, int), np.zeros(3, int), np.zeros(3), num_annotators=1
        )
