"""Calibration by votes that were left out."""

import numpy as np
from scipy.special import expit, logit

from jaxrobust.selection import consensus_evidence, fit_agreement, temper


def test_evidence_by_hand():
    log_likelihood = np.log(np.array([[0.5, 0.25, 0.25]], np.float32))
    log_prior = np.log(np.array([[0.1, 0.6, 0.3]], np.float32))
    found = consensus_evidence(log_likelihood, log_prior, np.array([1]))[0]
    np.testing.assert_allclose(
        found, [1, np.log(0.15 / 0.125), np.log(0.25 / 0.75), np.log(0.6 / 0.4)], rtol=1e-5
    )


def test_evidence_is_finite_where_a_class_is_impossible():
    zero = np.array([[0, -np.inf]], np.float32)
    found = consensus_evidence(zero, np.zeros_like(zero), np.array([0]))
    np.testing.assert_array_equal(found[0], [1, 50, 50, 0])


def test_the_probability_of_being_right_is_recovered():
    """Votes drawn from the model, with a posterior that is twice as sure as it may be."""
    rng = np.random.default_rng(0)
    odds = rng.normal(3, 3, 20_000)
    right = rng.random(20_000) < expit(0.5 * odds)
    accuracy = 0.8
    agrees = rng.random(20_000) < np.where(right, accuracy, (1 - accuracy) / 3)
    evidence = np.stack([np.ones_like(odds), odds, np.zeros_like(odds), np.zeros_like(odds)], 1)
    weights = fit_agreement(
        evidence.astype(np.float32), agrees, np.full(20_000, accuracy, np.float32), num_classes=4
    )
    expected = 1 - expit(evidence @ np.asarray(weights))
    # The deviation of the share of wrong ones is .003; the surest tenth shifts accuracy a little.
    assert abs(expected.mean() - np.mean(~right)) < 0.02
    np.testing.assert_allclose(weights[1], 0.5, atol=0.07)


def test_easy_items_are_half_of_what_the_surest_agree_more():
    """The surest agree in 95 %, annotators in 80 %: where 70 % agree, more than that are right."""
    rng = np.random.default_rng(1)
    odds = np.repeat([0.0, 8.0], 5000)
    agrees = rng.random(10_000) < np.where(odds > 0, 0.95, 0.7)
    evidence = np.stack([np.ones_like(odds), odds, 0 * odds, 0 * odds], 1).astype(np.float32)
    weights = fit_agreement(evidence, agrees, np.full(10_000, 0.8, np.float32), num_classes=2)
    if_right = expit((logit(0.8) + logit(0.95)) / 2)
    share = (0.7 - (1 - if_right)) / (2 * if_right - 1)
    np.testing.assert_allclose(expit(np.asarray(weights)[0]), share, atol=0.03)


def test_votes_that_are_masked_do_not_count():
    rng = np.random.default_rng(2)
    evidence = np.concatenate([np.ones((400, 1)), rng.normal(2, 2, (400, 3))], 1)
    evidence = evidence.astype(np.float32)
    agrees, accuracies = rng.random(400) < 0.7, np.full(400, 0.8, np.float32)
    where = np.arange(400) < 200
    found = fit_agreement(evidence, agrees, accuracies, num_classes=3, where=where)
    agrees[200:] = True
    same = fit_agreement(evidence, agrees, accuracies, num_classes=3, where=where)
    np.testing.assert_allclose(found, same, rtol=1e-6)


def test_a_power_reaches_the_largest_probability_and_keeps_the_order():
    z = np.log(np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.4, 0.4, 0.2]], np.float32))
    probs = np.asarray(temper(z, np.array([0.5, 0.99, 0.9], np.float32)))
    np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(probs[:2, 0], [0.5, 0.99], rtol=1e-4)
    np.testing.assert_allclose(probs[2, :2], 0.5, rtol=1e-4)  # two share it
    assert (np.diff(probs[:2], axis=1) < 0).all()
