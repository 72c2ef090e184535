"""TypiClust, ProbCover and DropQuery, with distances and counts that can be worked out by hand."""

import numpy as np
import pytest

from jaxrobust.selection import (
    clusters,
    cover_radius,
    cover_select,
    drop_query_select,
    leading_components,
    typical_select,
)

# Two far groups on a line, of 4 and of 3; the middle of each is nearest to its neighbours.
LINE = np.array([0.0, 1.0, 1.5, 3.0, 100.0, 101.0, 103.0], np.float32)[:, None]
NOBODY, ALL = np.zeros(7, bool), np.ones(7, bool)


def rng():
    return np.random.default_rng(0)


def test_leading_components_keep_distances_where_little_is_left_out():
    """Rows in a plane of five dimensions, and a thousandth beside it."""
    random = np.random.default_rng(0)
    plane = np.linalg.qr(random.normal(size=(5, 2)))[0]
    features = random.normal(size=(90, 2)) @ plane.T + 1e-3 * random.normal(size=(90, 5)) + 7
    features = features.astype(np.float32)

    def distances(x):
        return np.linalg.norm(x[:, None] - x[None], axis=-1)

    for num_rows in (90, 30):
        found = leading_components(features, 2, num_rows=num_rows)
        assert found.shape == (90, 2)
        np.testing.assert_allclose(distances(found), distances(features), atol=0.01)
    assert leading_components(features, 5) is features
    assert leading_components(features[:2], 2).shape == (2, 5)  # two rows lie on a line


def typical(budget, annotated=NOBODY, features=LINE, **options):
    options = {"min_cluster_size": 1, "max_clusters": 2, "squared": False, **options}
    return typical_select(
        features, budget, annotated=annotated, where=~annotated, rng=rng(), **options
    ).tolist()


def test_typical_images_of_the_largest_clusters_come_first():
    # Of 4 the nearest two neighbours count: means 1.25, .75, 1, 1.75. Of 3 the nearest one alone:
    # 1, 1, 2, a tie that goes to the lower position. Then the second visit: of 0, 1.5 and 3, with
    # one neighbour each, both 1.5 apart.
    assert typical(2) == [1, 4]
    assert typical(3) == [1, 4, 0]
    assert typical(3, num_neighbors=1) == [1, 4, 0]


def test_clusters_that_were_asked_about_come_last():
    asked = np.arange(7) == 2
    assert typical(1, asked) == [4]
    # In the large cluster 0, 1 and 3 are left: nearest neighbours at 1, 1 and 2.
    assert typical(2, asked) == [4, 0]


def test_small_clusters_come_last():
    assert typical(2, min_cluster_size=4) == [1, 0]
    assert sorted(typical(9, min_cluster_size=4)) == list(range(7))
    assert sorted(typical(9, min_cluster_size=4)[:4]) == [0, 1, 2, 3]


def test_as_many_clusters_as_images_asked_about_and_budget():
    """One was asked about in the first of two clusters; alone, it holds all the others too."""
    asked = np.arange(7) == 1
    assert typical(1, asked, max_clusters=500) == [4]
    # The two nearest of 0 1.5 3 100 101 103 are at 4.5 3 4.5 4 3 5 in sum.
    assert typical(1, asked, max_clusters=1, num_neighbors=2) == [2]


def test_visits_pass_over_clusters_that_are_exhausted():
    """The cluster of 3 has one member asked about fewer, so that it comes first, and ends first."""
    features = np.append(LINE, np.float32(2.9)[None, None], axis=0)
    asked = np.arange(8) == 0
    picks = typical(7, asked, features=features)
    assert picks[0] == 4
    assert sorted(picks) == list(range(1, 8))


def test_neighbors_that_were_taken_out_do_not_count():
    """Against all distances at every pick, many more than an image keeps neighbours for."""
    features = np.random.default_rng(1).normal(size=(40, 3))
    left, expected = list(range(40)), []
    for _ in range(36):
        distances = np.linalg.norm(features[left][:, None] - features[left][None], axis=-1)
        nearest = np.sort(distances, axis=1)[:, 1:3]
        expected.append(left.pop(int(np.argmin(nearest.mean(axis=1)))))
    picks = typical(36, np.zeros(40, bool), features, num_neighbors=2, max_clusters=1)
    assert picks == expected


def test_distances_in_parts_give_the_same(monkeypatch):
    random = np.random.default_rng(2)
    features = random.normal(size=(60, 4)).astype(np.float32)
    asked, unstable = np.arange(60) < 5, np.full(60, 3)

    def found():
        return (
            typical(20, asked, features),
            cover(20, 1.5, annotated=asked, features=features, num_covered=37),
            cover_radius(features, 3, rng=rng()),
            # The two of a cluster of two would be equally near to its centre.
            drop_query_select(features, unstable, 4, num_masks=3, where=~asked, rng=rng()),
            leading_components(features, 2),
        )

    whole = found()
    monkeypatch.setattr(clusters, "_ENTRIES", 100)
    monkeypatch.setattr(clusters, "_ROWS", 7)
    for one, other in zip(whole, found(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def cover(budget, radius, *, annotated=NOBODY, features=LINE, num_covered=7, seed=0):
    return cover_select(
        features,
        budget,
        radius=radius,
        annotated=annotated,
        where=~annotated,
        rng=np.random.default_rng(seed),
        num_covered=num_covered,
    ).tolist()


def test_each_pick_covers_most_of_what_is_left():
    # Within 1.6: 0 {0 1 2}, 1 {0 1 2}, 2 {0 1 2 3}, 3 {2 3}, 4 {4 5}, 5 {4 5}, 6 {6}.
    # 4 and 5 cover the same two. Nothing is left to cover then: the others follow by chance.
    for seed in range(5):
        picks = cover(9, 1.6, seed=seed)
        assert picks[0] == 2 and picks[1] in (4, 5) and picks[2] == 6
        assert sorted(picks) == list(range(7))
    assert len({tuple(cover(9, 1.6, seed=seed)) for seed in range(5)}) > 1


def test_what_nothing_is_left_to_cover_for_is_no_single_class():
    """A pool sorted by class whose first pick covers all: 40 of 400 are some of every class.

    Of the 40, 4 are expected of each of ten classes; 13 or more are drawn of one of them with a
    probability below 1e-3 (binomial), and once in that many seeds alone.
    """
    random = np.random.default_rng(0)
    features = random.normal(size=(400, 3)).astype(np.float32)
    picks = cover(40, 99.0, annotated=np.zeros(400, bool), features=features, num_covered=400)
    by_class = np.bincount(np.array(picks) // 40, minlength=10)
    assert by_class.max() < 13, by_class


def test_what_annotated_images_cover_does_not_count():
    assert cover(2, 1.6, annotated=np.arange(7) == 2)[0] in (4, 5)
    assert cover(2, 1.6, annotated=np.arange(7) == 2)[1] == 6


def test_a_distance_of_the_radius_does_not_cover():
    """1.5 is 1.5 from 0 and from 3: without them it covers two, and 1 covers three."""
    assert cover(1, 1.5) == [1]
    assert cover(1, 1.50001) == [2]


def test_coverage_from_a_part_of_the_images():
    features = np.concatenate([np.zeros((30, 1)), np.full((10, 1), 50.0)]).astype(np.float32)
    nobody = np.zeros(40, bool)
    picks = cover(2, 1.0, annotated=nobody, features=features, num_covered=15)
    assert picks[0] < 30 <= picks[1]


def test_radius_by_purity():
    """Distances to the other group: 100, 99, 98.5, 97 and, from it, 97, 98, 100."""

    def radius(purity):
        return cover_radius(LINE, 2, rng=rng(), purity=purity)

    np.testing.assert_allclose(radius(0.95), 97)
    # The (1 - .4) quantile of 97 97 98 98.5 99 100 100 is the value at 6 * .6 = 3.6, lower: 98.5.
    np.testing.assert_allclose(radius(0.4), 98.5)
    assert cover_radius(LINE, 1, rng=rng()) == np.inf


def drop(disagreements, budget, where=ALL):
    return drop_query_select(
        LINE, np.array(disagreements), budget, num_masks=3, where=where, rng=rng()
    ).tolist()


def test_one_candidate_of_every_cluster():
    # Candidates 0, 1, 1.5 with the centre .83, and 100, 101, 103 with the centre 101.3.
    assert sorted(drop([3, 2, 2, 1, 3, 2, 2], 2)) == [1, 5]


def test_too_few_candidates_are_filled_up():
    count = [0, 3, 0, 1, 0, 0, 2]
    assert set(drop(count, 2)) == {1, 6}
    assert drop(count, 3) == [1, 6, 3]
    assert 1 not in drop(count, 3, where=np.arange(7) != 1)
    assert sorted(drop(count, 9)) == list(range(7))


@pytest.mark.parametrize("empty", [typical_select, cover_select, drop_query_select])
def test_nothing_is_chosen_of_an_empty_pool(empty):
    more = {
        typical_select: {"annotated": ALL},
        cover_select: {"annotated": ALL, "radius": 1.0},
        drop_query_select: {"disagreements": np.zeros(7, int), "num_masks": 3},
    }[empty]
    assert empty(LINE, budget=3, where=NOBODY, rng=rng(), **more).size == 0
