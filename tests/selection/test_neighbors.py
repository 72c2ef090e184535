"""Nearest neighbours in chunks, and their votes."""

import numpy as np
import pytest

from jaxrobust.selection import nearest_neighbors, neighbor_votes, neighbors


@pytest.mark.parametrize("chunk", [5, 7, 100])
def test_neighbors_are_those_of_a_sort(monkeypatch, chunk):
    """Whatever the chunks, the last of which overlaps the one before where they do not fit."""
    monkeypatch.setattr(neighbors, "_CHUNK", chunk)
    generator = np.random.default_rng(0)
    features = generator.normal(size=(17, 3)).astype(np.float16)
    ids = np.array([0, 4, 16])
    products = features[ids].astype(np.float32) @ features.T.astype(np.float32)
    for exclude in (None, ids):
        if exclude is not None:
            products[np.arange(3), ids] = -np.inf
        expected = np.argsort(-products, axis=1, kind="stable")[:, :6]
        nearness, found = nearest_neighbors(
            features[ids], features, num_neighbors=6, exclude=exclude
        )
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(
            nearness, np.take_along_axis(products, expected, axis=1), rtol=1e-6
        )


def test_votes_by_hand():
    votes = neighbor_votes([[1.0, 0.5, -2.0]], [[0, 2, 1]], num_classes=4)
    np.testing.assert_allclose(votes, [[1.25 / 2.5, 0.25 / 2.5, 0.75 / 2.5, 0.25 / 2.5]], rtol=1e-6)


def test_what_does_not_fit_is_refused():
    features = np.zeros((3, 2), np.float32)
    with pytest.raises(ValueError, match="1 to 2, got 3"):
        nearest_neighbors(features, features, num_neighbors=3, exclude=np.arange(3))
    with pytest.raises(ValueError, match=r"\[B, D\] and \[N, D\]"):
        nearest_neighbors(features[:, :1], features, num_neighbors=1)
