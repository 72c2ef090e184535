"""Tests of jaxrobust.data.features: files of embeddings as data sets."""

import numpy as np
import pytest

from jaxrobust.data import fingerprint
from jaxrobust.data.dataset import Examples
from jaxrobust.data.features import CHUNK, MeansOfViews, feature_dataset, load_features
from jaxrobust.errors import DataError

RNG = np.random.default_rng(0)


def _features(count=40, dimensions=3, views=None):
    shape = (count, dimensions) if views is None else (count, views, dimensions)
    return RNG.normal(size=shape).astype(np.float16)


def _npy(folder, features, labels, name="labels.npy"):
    np.save(folder / "features.npy", features)
    np.save(folder / name, labels)
    return folder / "features.npy", folder / name


def test_plain_embeddings_with_an_array_of_labels(tmp_path):
    features, labels = _features(), np.arange(40) % 4 + 5
    path, labels_path = _npy(tmp_path, features, labels)
    dataset = load_features(path, labels=labels_path)
    assert dataset.class_names == ("5", "6", "7", "8") and dataset.num_classes == 4
    assert dataset.train.labels.dtype == np.int32 and not dataset.is_multilabel
    # A fifth of each class is held out, and no row is lost.
    assert np.bincount(dataset.test.labels).tolist() == [2] * 4
    assert np.bincount(dataset.train.labels).tolist() == [8] * 4
    for part in (dataset.train, dataset.test):
        read = part.read_all()
        assert read.dtype == np.float16 and read.shape == (len(part), 1, 3)
        np.testing.assert_array_equal(read[:, 0], features[part.rows])
        np.testing.assert_array_equal(part.labels, labels[part.rows] - 5)
        np.testing.assert_array_equal(part.read(np.array([3, 1])), read[[3, 1]])
    # The same rows are held out whatever the seed; test_fraction says how many.
    again = load_features(path, labels=labels_path, seed=3)
    np.testing.assert_array_equal(again.test.rows, dataset.test.rows)
    assert len(load_features(path, labels=labels_path, test_fraction=0.5).test) == 20


def test_the_file_of_embed(tmp_path):
    """Views, names, the split, and images without a label."""
    features = _features(12, 4, views=2)
    split = np.array(["train"] * 6 + ["test"] * 4 + ["unlabeled"] * 2)
    labels = np.array([0, 1, 2, 0, 1, 2, 2, 1, 0, 0, -1, -1], np.int32)
    names = [f"{i}.jpg" for i in range(12)]
    for save in (np.savez, np.savez_compressed):
        path = tmp_path / "features.npz"
        save(
            path,
            features=features,
            labels=labels,
            label_names=["cat", "dog", "fox"],
            files=names,
            ids=np.arange(12),
            split=split,
            weights_hash="0",
            size=128,
        )
        dataset = load_features(path)
        assert dataset.class_names == ("cat", "dog", "fox")
        assert dataset.train.shape == (2, 4)
        assert dataset.train.rows.tolist() == list(range(6))
        assert dataset.test.rows.tolist() == [6, 7, 8, 9]
        assert dataset.test.files == tuple(names[6:10])
        assert dataset.unlabeled.rows.tolist() == [10, 11]
        np.testing.assert_array_equal(dataset.train.read_all(), features[:6])
        used = features[np.r_[:6, 10:12]].astype(np.float64).reshape(-1, 4)
        np.testing.assert_allclose(dataset.mean, used.mean(axis=0), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(dataset.std, used.std(axis=0), rtol=1e-5)


def test_arrays_are_mapped_and_not_copied(tmp_path):
    features, labels = _features(), np.arange(40) % 2
    path, labels_path = _npy(tmp_path, features, labels)
    np.savez(tmp_path / "all.npz", features=features, labels=labels)
    for dataset in (load_features(path, labels=labels_path), load_features(tmp_path / "all.npz")):
        array = dataset.train.source
        while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
            array = array.base
        assert isinstance(array, np.memmap)
        assert dataset.test.source is dataset.train.source


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("label\ncat\ndog\ncat\ndog\n", ("cat", "dog")),
        ("id,label\n0,7\n1,3\n2,7\n3,3\n", ("3", "7")),
        ("dog\ncat\ndog\ncat\n", ("cat", "dog")),
        ("ID;Label\r\n0;cat\r\n1;dog\r\n2;cat\r\n3;dog\r\n", ("cat", "dog")),
    ],
)
def test_labels_from_a_table(tmp_path, text, names):
    np.save(tmp_path / "x.npy", _features(4))
    (tmp_path / "labels.csv").write_text(text)
    dataset = load_features(tmp_path / "x.npy", labels=tmp_path / "labels.csv", test_fraction=0.5)
    assert dataset.class_names == names
    for part in (dataset.train, dataset.test):
        assert sorted(part.labels.tolist()) == [0, 1]


def test_rows_without_a_label_are_unlabeled(tmp_path):
    np.save(tmp_path / "x.npy", _features(6))
    (tmp_path / "labels.csv").write_text('label\na\nb\n""\na\nb\n-1\n')
    dataset = load_features(tmp_path / "x.npy", labels=tmp_path / "labels.csv", test_fraction=0.5)
    assert dataset.unlabeled.rows.tolist() == [2, 5]
    assert set(dataset.unlabeled.labels.tolist()) == {-1}


def test_statistics_over_several_chunks_keep_their_digits(tmp_path):
    features = RNG.normal(100, 0.5, size=(CHUNK + 100, 2)).astype(np.float32)
    features[:, 1] = 7
    split = np.array(["train"] * (CHUNK + 98) + ["test"] * 2)
    labels = np.arange(len(features)) % 2
    np.savez(tmp_path / "x.npz", features=features, labels=labels, split=split)
    dataset = load_features(tmp_path / "x.npz")
    used = features[:-2].astype(np.float16).astype(np.float64)
    np.testing.assert_allclose(dataset.mean, used.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(dataset.std, [used[:, 0].std(), 1], rtol=1e-6)


def test_limits_and_the_fingerprint(tmp_path):
    features, labels = _features(), np.arange(40) % 4
    path, labels_path = _npy(tmp_path, features, labels)
    dataset = load_features(path, labels=labels_path, max_train=8, max_test=4, seed=1)
    assert np.bincount(dataset.train.labels).tolist() == [2] * 4
    assert np.bincount(dataset.test.labels).tolist() == [1] * 4
    whole = load_features(path, labels=labels_path)
    np.testing.assert_array_equal(dataset.mean, whole.mean)
    # Equal for the same data, another for other rows, features or labels.
    np.savez(tmp_path / "same.npz", features=features.astype(np.float32), labels=labels)
    assert fingerprint(load_features(tmp_path / "same.npz")) == fingerprint(whole)
    features[0, 0] += 1
    np.savez(tmp_path / "other.npz", features=features, labels=labels)
    others = [dataset, load_features(tmp_path / "other.npz")]
    assert len({fingerprint(whole), *map(fingerprint, others)}) == 3


def _bad(position, value):
    features = _features(6).astype(np.float32)
    features[position] = value
    return features


GOOD = _features(6)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"features": _bad((4, 1), np.nan)}, r"holds nan in row 4, dimension 1"),
        ({"features": _bad((2, 0), 1e6)}, r"holds 1000000.0 in row 2, dimension 0"),
        ({"features": GOOD, "labels": np.arange(5)}, r"shape \[5\] for 6 rows"),
        ({"features": GOOD, "labels": None}, "holds no labels: set --config.dataset.labels="),
        ({"features": GOOD, "labels": np.zeros(6, int)}, "name 1 class: at least 2"),
        ({"features": GOOD, "labels": np.full(6, -1)}, "name 0 classes: at least 2"),
        ({"features": GOOD, "labels": np.ones(6)}, "integers or text, but are float64"),
        ({"features": GOOD, "label_names": ["a", "b"]}, "labels must lie in 0 to 1"),
        ({"features": GOOD, "split": ["train"] * 5 + ["dev"]}, "has the split 'dev'"),
        ({"features": GOOD, "split": ["train"] * 5}, "5 entries in 'split' for 6 rows"),
        ({"features": GOOD.astype(int)}, r"must be floats \[N, D\] or \[N, V, D\]"),
        ({"features": GOOD[:0], "labels": np.arange(0)}, "at least one of each"),
        ({"a": GOOD, "b": GOOD}, "no array named 'features'.*a, b, labels"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(tmp_path, arrays, words):
    arrays = {"labels": np.arange(6) % 3, **arrays}
    if arrays.get("a") is not None:
        arrays = {"a": arrays["a"], "b": arrays["b"], "labels": arrays["labels"]}
    np.savez(tmp_path / "x.npz", **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(DataError, match=words) as error:
        load_features(tmp_path / "x.npz")
    assert str(error.value).count("\n") == 0


def test_files_that_are_none_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", GOOD)
    (tmp_path / "x.txt").write_text("1 2 3")
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04 no archive")
    np.save(tmp_path / "objects.npy", np.array([None, 1], object))
    (tmp_path / "table.csv").write_text("id,name\n0,a\n")
    for features, labels, words in (
        ("none.npy", None, "There is no file .*none.npy: correct --config.dataset.features="),
        ("x.npy", "none.csv", "correct --config.dataset.labels="),
        ("x.npy", None, "holds no labels"),
        ("x.txt", None, "neither a .npy nor a .npz"),
        ("damaged.npz", None, "cannot be read as arrays"),
        ("objects.npy", None, "cannot be read as arrays"),
        ("x.npy", "table.csv", "name the column of the labels 'label'"),
    ):
        with pytest.raises(DataError, match=words):
            load_features(tmp_path / features, labels=labels and tmp_path / labels)
    np.save(tmp_path / "y.npy", np.arange(6) % 3)
    for fraction in (-0.1, 1):
        with pytest.raises(DataError, match="test_fraction must be at least 0 and below 1"):
            load_features(tmp_path / "x.npy", labels=tmp_path / "y.npy", test_fraction=fraction)


def test_means_of_views_are_read_in_parts(tmp_path):
    features = np.random.default_rng(0).normal(size=(9, 2, 3)).astype(np.float16)
    path = tmp_path / "features.npz"
    np.savez(path, features=features, labels=np.arange(9) % 2, split=["train", "test", "train"] * 3)
    means = MeansOfViews(load_features(path).train)
    expected = features[[0, 2, 3, 5, 6, 8]].mean(axis=1, dtype=np.float32)
    assert means.shape == expected.shape
    np.testing.assert_array_equal(means[2:99], expected[2:])


def test_images_and_features_are_read_alike():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (6, 4, 4, 3), np.uint8)
    features = generator.normal(size=(6, 2, 3)).astype(np.float32)
    labels, ids = np.array([0, 1, -1, 0, 1, -1], np.int32), np.array([4, 1])
    order = np.array([0, 1, 3, 4, 2, 5])  # labelled ones first
    dataset = feature_dataset(features, labels, ("a", "b"))
    examples = dataset.examples
    np.testing.assert_array_equal(examples.labels, labels[order])
    np.testing.assert_array_equal(examples.read(ids), features[order[ids]].astype(np.float16))
    assert examples.pictures(ids) is None
    mean, std = examples.statistics()  # of float16
    np.testing.assert_allclose((mean, std), (dataset.mean, dataset.std), rtol=1e-6)
    of_images = Examples(images, np.maximum(labels, 0))
    np.testing.assert_array_equal(of_images.read(ids), images[ids])
    np.testing.assert_array_equal(of_images.pictures(ids), images[ids])
    mean, std = of_images.statistics()
    np.testing.assert_allclose(mean, images.mean(axis=(0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(std, images.std(axis=(0, 1, 2)) / 255, rtol=1e-12)
