"""Tests of jaxrobust.data.open_set."""

import decimal

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxrobust.data import open_set_split
from jaxrobust.errors import DataError, UserError


def _balanced(num_classes, per_class):
    return np.arange(num_classes * per_class, dtype=np.int32) % num_classes


def _split(**changes):
    arguments = {"num_classes": 10, "openness": 0.6, "init_fraction": 0.1, "seed": 0} | changes
    return open_set_split(_balanced(10, 50), _balanced(10, 20), **arguments)


# BUAL and DCFS, tables of sections 3 and 3.4: classes, training and test images per class, initial
# share; then for openness 0.2, 0.4, 0.6, 0.8: K, labelled, unlabelled known, unknown, test images.
TABLE = {
    "cifar10": (
        (10, 5000, 1000, 0.01),
        [
            (8, 400, 39600, 10000, 8000),
            (6, 300, 29700, 20000, 6000),
            (4, 200, 19800, 30000, 4000),
            (2, 100, 9900, 40000, 2000),
        ],
    ),
    "cifar100": (
        (100, 500, 100, 0.08),
        [
            (80, 3200, 36800, 10000, 8000),
            (60, 2400, 27600, 20000, 6000),
            (40, 1600, 18400, 30000, 4000),
            (20, 800, 9200, 40000, 2000),
        ],
    ),
    "tiny_imagenet": (
        (200, 500, 50, 0.08),
        [
            (160, 6400, 73600, 20000, 8000),
            (120, 4800, 55200, 40000, 6000),
            (80, 3200, 36800, 60000, 4000),
            (40, 1600, 18400, 80000, 2000),
        ],
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_counts_of_the_papers(name):
    (num_classes, num_train, num_test, init_fraction), rows = TABLE[name]
    for openness, row in zip((0.2, 0.4, 0.6, 0.8), rows, strict=True):
        split = open_set_split(
            _balanced(num_classes, num_train),
            _balanced(num_classes, num_test),
            num_classes=num_classes,
            openness=openness,
            init_fraction=init_fraction,
            seed=0,
        )
        known = split.targets < split.num_known
        measured = (
            split.num_known,
            split.labeled.sum(),
            (known & ~split.labeled).sum(),
            (~known).sum(),
            split.test_known.sum(),
        )
        assert measured == row


def test_types_and_shapes():
    split = _split()
    assert split.known_classes == (0, 1, 2, 3) and split.num_known == 4
    assert split.targets.dtype == np.int32 and split.targets.shape == (500,)
    assert split.labeled.dtype == bool and split.labeled.shape == (500,)
    assert split.test_targets.dtype == np.int32 and split.test_targets.shape == (200,)
    assert split.test_known.dtype == bool and split.test_known.shape == (200,)


@hypothesis.settings(max_examples=30, derandomize=True, deadline=None)
@hypothesis.given(
    order=st.permutations(range(7)),
    num_known=st.integers(2, 7),
    init_fraction=st.floats(0.05, 1.0),
    seed=st.integers(0, 2**32),
)
def test_properties_for_any_order(order, num_known, init_fraction, seed):
    train_labels = np.random.default_rng(0).permutation(_balanced(7, 20))
    test_labels = _balanced(7, 3)
    split = open_set_split(
        train_labels,
        test_labels,
        num_classes=7,
        num_known=num_known,
        class_order=order,
        init_fraction=init_fraction,
        seed=seed,
    )
    assert split.known_classes == tuple(order[:num_known])
    new_label = [order.index(c) if order.index(c) < num_known else num_known for c in range(7)]
    np.testing.assert_array_equal(split.targets, [new_label[c] for c in train_labels])
    np.testing.assert_array_equal(split.test_targets, [new_label[c] for c in test_labels])
    np.testing.assert_array_equal(split.test_known, split.test_targets < num_known)
    assert (split.targets[split.labeled] < num_known).all()
    assert split.labeled.sum() == int(decimal.Decimal(repr(init_fraction)) * 20 * num_known)


def test_seed_alone_decides_the_draw():
    np.testing.assert_array_equal(_split(seed=3).labeled, _split(seed=3).labeled)
    assert (_split(seed=3).labeled != _split(seed=4).labeled).any()
    np.testing.assert_array_equal(_split(seed=3).targets, _split(seed=4).targets)


def test_draw_is_recorded():
    # A change here changes every active-learning run that anyone has made.
    assert np.flatnonzero(_split(seed=0).labeled).tolist() == [
        32,
        51,
        63,
        93,
        131,
        181,
        191,
        200,
        201,
        203,
        232,
        240,
        270,
        271,
        331,
        333,
        371,
        403,
        441,
        470,
    ]


def test_draw_is_uniform_over_known_images_and_not_class_balanced():
    splits = [_split(seed=seed) for seed in range(300)]
    share = np.mean([split.labeled for split in splits], axis=0)
    known = splits[0].targets < 4
    assert share[~known].max() == 0
    # 300 draws of probability 0.1: standard deviation 0.0173, five of them either way.
    assert np.abs(share[known] - 0.1).max() < 0.087
    per_class = [np.bincount(split.targets[split.labeled], minlength=4) for split in splits]
    assert np.std(per_class) > 1


def test_openness_zero_is_the_closed_set():
    split = _split(openness=0)
    assert split.known_classes == tuple(range(10))
    assert split.test_known.all()
    np.testing.assert_array_equal(split.targets, _balanced(10, 50))


def test_openness_is_rounded_to_whole_classes():
    assert _split(openness=0.33).num_known == 7
    assert _split(openness=0.38).num_known == 6


@pytest.mark.parametrize(("openness", "num_known"), [(0.2, 8), (0.4, 6), (0.6, 4), (0.8, 2)])
def test_num_known_says_the_same_as_openness(openness, num_known):
    by_openness = _split(openness=openness)
    by_count = _split(openness=None, num_known=num_known)
    assert by_openness.known_classes == by_count.known_classes
    np.testing.assert_array_equal(by_openness.labeled, by_count.labeled)


def test_init_fraction_is_the_decimal_number_that_was_written():
    labels = _balanced(2, 50)
    split = open_set_split(labels, labels, num_classes=2, openness=0, init_fraction=0.29, seed=0)
    assert int(0.29 * 100) == 28 and split.labeled.sum() == 29


def test_whole_pool_may_start_labelled():
    split = _split(init_fraction=1)
    np.testing.assert_array_equal(split.labeled, split.targets < 4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"openness": None}, "exactly one of openness and num_known"),
        ({"num_known": 4}, "exactly one of openness and num_known"),
        ({"openness": 1.0}, "openness is the share of unknown classes, at least 0"),
        ({"openness": -0.1}, "but is -0.1"),
        ({"openness": float("nan")}, "but is nan"),
        ({"openness": 0.9}, "openness=0.9 makes 1 of 10 classes known: at least 2"),
        ({"openness": None, "num_known": 1}, "num_known=1 makes 1 of 10 classes known"),
        ({"openness": None, "num_known": 11}, "at most 10 must be"),
        ({"init_fraction": 0.0}, "init_fraction must be above 0 and at most 1"),
        ({"init_fraction": 1.1}, "but is 1.1"),
        ({"init_fraction": float("nan")}, "but is nan"),
        ({"init_fraction": 0.004}, "of 200 known training images leaves none labelled"),
        ({"class_order": list(range(9))}, "class_order must be a permutation of the class ids"),
        ({"class_order": [0] * 10}, "each exactly once"),
        ({"num_classes": 9}, "train_labels must lie in 0 to 8, but reach from 0 to 9"),
    ],
)
def test_refusals_in_words(changes, words):
    with pytest.raises(DataError, match=words):
        _split(**changes)


@pytest.mark.parametrize("labels", [np.zeros((3, 2), int), np.zeros(3)])
def test_labels_must_be_a_vector_of_integers(labels):
    with pytest.raises(DataError, match="test_labels must be a vector of integers"):
        open_set_split(_balanced(3, 5), labels, num_classes=3, openness=0, init_fraction=1, seed=0)


def test_negative_seed_is_refused():
    with pytest.raises(UserError, match="seed must be 0 or more, but is -1"):
        _split(seed=-1)
