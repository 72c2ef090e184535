"""SimiFeat and WANN beside what their authors' code says of the same 60 rows.

UCSC-REAL/SimiFeat (hoc.py, k = 10) and francescodisalvo05/wann-noisy-labels of GitHub at commit
314f2ae (5 to 15 neighbours) were run on `sixty_rows`, standardised for WANN.
"""

import numpy as np
import pytest

from jaxrobust import UserError, find_label_issues
from jaxrobust.selection import judges, neighbor_detectors

VOTED_WRONG = [2, 12, 18, 19, 21, 24, 30, 31, 37, 41, 48, 50, 54, 57]
RANKED_WRONG = [2, 12, 18, 19, 26, 30, 31, 37, 47, 48, 50, 53, 54]  # a share of a label rounded up
MOST_SUSPICIOUS = [18, 30, 12, 2]  # the lowest scores of the authors' code
TRANSITION = [[0.7744, 0.0594, 0.1662], [0.1025, 0.8238, 0.0737], [0.0088, 0.169, 0.8222]]
ASKED_FIFTEEN = [2, 12, 18, 21, 24, 30, 31, 37, 41, 47, 48, 50, 54]
VOTED = "000000000000100000021011012111111111101122222221222222222222"


@pytest.fixture(scope="module")
def sixty_rows():
    """(features, labels, which are wrong) of three classes."""
    generator = np.random.default_rng(3)
    true = np.repeat(np.arange(3), 20)
    features = 2.5 * np.eye(3)[true] + generator.normal(size=(60, 3))
    features = np.round(np.maximum(features, 0) + 0.2, 2)
    is_wrong = generator.random(60) < 0.25
    return features, np.where(is_wrong, (true + generator.integers(1, 3, 60)) % 3, true), is_wrong


def test_simifeat_votes_as_the_authors_code(sixty_rows):
    features, labels, _ = sixty_rows
    found = neighbor_detectors.simifeat(features, labels, 3)
    assert np.flatnonzero(found.flagged).tolist() == VOTED_WRONG
    own = found.probs[np.arange(60), labels] / np.linalg.norm(found.probs, axis=1)
    assert own[[0, 2, 5]] == pytest.approx([0.993812, 0.138240, 0.952647], abs=2e-6)
    assert found.ranked[:4].tolist() == MOST_SUSPICIOUS
    assert (np.diff(own[found.ranked]) >= -1e-6).all()


def test_simifeat_ranks_as_the_authors_code_but_for_a_label_of_a_class(sixty_rows):
    features, labels, _ = sixty_rows
    found = neighbor_detectors.simifeat_rank(features, labels, 3)
    flagged = np.flatnonzero(found.flagged)
    assert set(flagged) <= set(RANKED_WRONG)
    more = np.bincount(labels[RANKED_WRONG]) - np.bincount(labels[flagged])
    assert set(more) <= {0, 1}
    _, neighbors = judges.most_similar(features, 2)
    triples = np.concatenate([labels[:, None], labels[neighbors]], axis=1)
    matrix, prior = neighbor_detectors.transition_of_triples(triples, 3)
    # Their start is drawn, and steps of 0.1 leave the optimum uncertain by as much.
    np.testing.assert_allclose(matrix, TRANSITION, atol=0.015)
    np.testing.assert_allclose(prior, [0.3607, 0.3631, 0.2763], atol=0.015)


def test_transition_of_labels_that_are_mistaken_independently():
    generator = np.random.default_rng(0)
    true = generator.choice(3, 20_000, p=[0.5, 0.3, 0.2])
    matrix = np.array([[0.8, 0.15, 0.05], [0.0, 0.9, 0.1], [0.2, 0.1, 0.7]])
    drawn = generator.random((len(true), 3, 1)) > np.cumsum(matrix, axis=1)[true][:, None]
    found, prior = neighbor_detectors.transition_of_triples(drawn.sum(axis=2), 3)
    np.testing.assert_allclose(found, matrix, atol=0.02)
    np.testing.assert_allclose(prior, [0.5, 0.3, 0.2], atol=0.02)


def test_wann_asks_and_votes_as_the_authors_code(sixty_rows):
    features, labels, _ = sixty_rows
    found = neighbor_detectors.wann(features, labels, 3, fewest=5, most=15)
    assert np.flatnonzero(found.flagged).tolist() == ASKED_FIFTEEN
    assert "".join(map(str, found.probs.argmax(axis=1))) == VOTED
    assert set(found.ranked[:13].tolist()) == set(ASKED_FIFTEEN)
    assert set(found.ranked[13:15].tolist()) == {49, 58}  # who asked seven


@pytest.mark.parametrize("method", ["simifeat", "simifeat_rank", "wann"])
def test_they_are_methods_of_find_label_issues(sixty_rows, method):
    features, labels, is_wrong = sixty_rows
    names = np.array(["ant", "bee", "cat"])
    issues = find_label_issues(names[labels], features=features, method=method)
    assert issues.summary["method"] == method and "expected_wrong" not in issues.summary
    np.testing.assert_array_equal(issues.is_issue, issues.clean_prob < 0.5)
    assert (issues.suggested != issues.given)[issues.is_issue].all()
    assert is_wrong[issues.ranked[:8]].mean() >= 0.75
    few = find_label_issues(names[labels[:6]], features=features[:6], method=method)
    assert len(few) == 6
    with pytest.raises(UserError, match=f"method='{method}' trains no network, so config="):
        find_label_issues(labels, features=features, method=method, config={"num_epochs": 2})


def test_triples_of_many_classes_are_refused():
    labels = np.repeat(np.arange(129), 2)
    with pytest.raises(UserError, match="129 classes are too many; take method='simifeat'"):
        find_label_issues(labels, features=np.eye(258), method="simifeat_rank")


def test_a_misspelt_name_is_compared_with_detectors_and_trained_methods():
    with pytest.raises(UserError, match=r"'simfeat': did you mean 'simifeat'\? Valid: auto, .*dpc"):
        find_label_issues([0, 1], features=np.eye(2), method="simfeat")
