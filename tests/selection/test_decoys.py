"""The number of wrong labels by labels that are known to be wrong."""

import numpy as np
import pytest

from jaxrobust.selection.decoys import decoy_count


def test_by_hand():
    """Three examples that are sure of class 0, two of class 1, one of them labelled 0.

    Margins of the other classes: -4 four times, -5 twice, and of the one wrong label's decoy, 5,
    +5. Half of the decoys lie at or below -4, where there is one given label: 1 / 0.5 wrong labels.
    """
    scores = np.array([[4.0, 0], [4, 0], [4, 0], [0, 4], [0, 5], [0, 5]])
    labels = np.array([0, 0, 0, 1, 1, 0])
    assert decoy_count(scores, labels, level=0.5) == pytest.approx(2)


def test_more_wrong_labels_count_more():
    generator = np.random.default_rng(0)
    true = generator.integers(0, 4, 2000)
    scores = 3 * np.eye(4)[true] + generator.normal(size=(2000, 4))
    counts = []
    for rate in (0, 0.1, 0.3):
        is_wrong = generator.random(2000) < rate
        labels = np.where(is_wrong, (true + generator.integers(1, 4, 2000)) % 4, true)
        counts.append(decoy_count(scores, labels) / 2000)
    # Scores whose best class is wrong for 5 % of the examples add right labels to the count.
    np.testing.assert_allclose(counts, [0.0, 0.1, 0.3], atol=0.06)
    assert sorted(counts) == counts


def test_known_mistakes_weigh_decoys():
    """The wrong label is at -4, like class 1 of the first two; class 2 of all is at -9 or -13."""
    scores = np.array([[4.0, 0, -5], [4, 0, -5], [0, 4, -5], [0, -9, 4]])
    labels = np.array([0, 1, 1, 2])
    of_neighbors = np.array([[0, 1.0, 0], [1.0, 0, 0], [1.0, 0, 0]])
    of_others = np.array([[0, 0, 1.0], [0, 0, 1.0], [0, 1.0, 0]])
    assert decoy_count(scores, labels, level=0.5, mistakes=of_neighbors) == pytest.approx(2)
    assert decoy_count(scores, labels, level=0.5, mistakes=of_others) == 0
