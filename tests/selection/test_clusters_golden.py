"""TypiClust and ProbCover beside the authors' code, avihu111/TypiClust at 4097a71.

Recorded from its `TypiClust` and `ProbCover` on the inputs below, its k-means and its index of
neighbours replaced by exact ones (`clustered`, numpy), on the CPU.
"""

import numpy as np
import pytest

from jaxrobust.selection import clusters, cover_select, typical_select

TYPICLUST = {
    0: [
        391,
        189,
        47,
        26,
        207,
        61,
        33,
        321,
        30,
        375,
        41,
        51,
        221,
        274,
        14,
        16,
        44,
        175,
        327,
        186,
        217,
        153,
        341,
        63,
        22,
        50,
        371,
        218,
        45,
        48,
        100,
        485,
        431,
        426,
        212,
        206,
        5,
        309,
        267,
        238,
    ],
    1: [
        412,
        380,
        39,
        46,
        449,
        159,
        469,
        227,
        297,
        370,
        346,
        173,
        66,
        241,
        92,
        14,
        40,
        171,
        3,
        4,
        55,
        22,
        477,
        454,
        58,
        342,
        1,
        17,
        24,
        285,
        45,
        122,
        82,
        175,
        133,
        465,
        476,
        135,
        248,
        345,
    ],
}
PROBCOVER = {
    (0, 0.15): [
        206,
        49,
        442,
        264,
        221,
        160,
        321,
        477,
        298,
        299,
        14,
        8,
        37,
        235,
        74,
        391,
        16,
        50,
        26,
        320,
        460,
        467,
        202,
        326,
        4,
        362,
        283,
        197,
        129,
        379,
    ],
    (0, 0.3): [
        166,
        198,
        294,
        403,
        330,
        337,
        400,
        417,
        464,
        185,
        63,
        444,
        451,
        54,
        168,
        157,
        41,
        266,
        178,
        456,
        396,
        446,
        398,
        455,
        238,
        97,
        56,
        227,
        59,
        195,
    ],
    (1, 0.15): [
        241,
        412,
        486,
        390,
        230,
        39,
        59,
        57,
        351,
        465,
        89,
        472,
        389,
        382,
        387,
        161,
        235,
        298,
        82,
        137,
        277,
        345,
        55,
        45,
        380,
        296,
        370,
        149,
        0,
        173,
    ],
    (1, 0.3): [
        49,
        248,
        46,
        362,
        195,
        274,
        267,
        65,
        14,
        111,
        238,
        42,
        67,
        6,
        272,
        468,
        395,
        262,
        244,
        388,
        40,
        419,
        53,
        451,
        124,
        162,
        194,
        10,
        218,
        96,
    ],
}


def inputs(seed):
    """Features of length 1, labelled ids and the pool in the order that the authors' code sees."""
    random = np.random.default_rng(seed)
    centers = 3 * random.normal(size=(8, 4))
    features = centers[random.integers(8, size=500)] + random.normal(size=(500, 4))
    features = (features * random.uniform(0.2, 5, size=(500, 1))).astype(np.float32)
    order = random.permutation(500)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features, order[:10], order[10:]


def clustered(features, num_clusters, rng):
    """By the nearest of the first rows, in place of k-means, whose initialisation is random."""
    del rng
    return np.argmax(features @ features[:num_clusters].T, axis=1), None


def masks(labeled):
    annotated = np.isin(np.arange(500), labeled)
    return {"annotated": annotated, "where": ~annotated}


@pytest.mark.parametrize("seed", TYPICLUST)
def test_typiclust(monkeypatch, seed):
    features, labeled, _ = inputs(seed)
    monkeypatch.setattr(clusters, "_k_means", clustered)
    rng = np.random.default_rng(0)
    found = typical_select(features, 40, rng=rng, **masks(labeled))
    np.testing.assert_array_equal(found, TYPICLUST[seed])
    plain = typical_select(features, 40, rng=rng, squared=False, **masks(labeled))
    assert (plain != found).any()  # the mean of roots is another one


class AuthorsOrder:
    """A generator that leaves the ids in the order in which the authors' code breaks ties."""

    def __init__(self, order):
        self.order = order

    def choice(self, rows, size, replace):
        del size, replace
        return rows

    def permutation(self, size):
        del size
        return self.order


@pytest.mark.parametrize(("seed", "radius"), PROBCOVER)
def test_probcover(seed, radius):
    features, labeled, pool = inputs(seed)
    rng = AuthorsOrder(np.concatenate([labeled, pool]))
    found = cover_select(features, 30, radius=radius, rng=rng, **masks(labeled))
    np.testing.assert_array_equal(found, PROBCOVER[seed, radius])
