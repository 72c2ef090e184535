"""Tests of jaxrobust.data.sources, on small files made in the layouts of the real ones."""

import dataclasses
import gzip
import io
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

import jaxrobust
from jaxrobust.data import (
    Dataset,
    Examples,
    archive_order,
    fingerprint,
    image_sets,
    load_dataset,
)
from jaxrobust.data.canvases import compose_canvases
from jaxrobust.data.dataset import check_has_test
from jaxrobust.data.image_sets import CIFAR10_CLASSES
from jaxrobust.data.sources import SOURCES, Source
from jaxrobust.errors import DataError

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _nothing_installed(tmp_path, monkeypatch):
    """No test may find data of this machine, except where the test itself asks for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


def _noise(count, side, channels=3):
    shape = (count, side, side, channels) if channels > 1 else (count, side, side)
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def _labels(count, num_classes=10):
    """Every class, in no particular order."""
    return RNG.permutation(np.arange(count) % num_classes)


def _save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)


def _pack(archive, folder):
    """Puts a folder into a tar under its own name, members sorted by path."""
    with tarfile.open(archive, "w:" + archive.suffix[1:]) as tar:
        tar.add(folder, folder.name)
    return archive


def _check(dataset, name, train, test, class_names):
    assert isinstance(dataset, Dataset) and dataset.name == name
    for examples, (images, labels) in ((dataset.train, train), (dataset.test, test)):
        assert examples.images.dtype == np.uint8 and examples.labels.dtype == np.int32
        np.testing.assert_array_equal(examples.images, images)
        np.testing.assert_array_equal(examples.labels, labels)
    assert dataset.class_names == tuple(class_names)
    assert dataset.num_classes == len(class_names)


# --------------------------------------------------------------------------------- load_dataset


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(DataError, match=r"Unknown dataset 'cifar-10': did you mean 'cifar10'\?"):
        load_dataset("cifar-10")


def test_path_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"There is no .*nowhere: correct --config.dataset.path="):
        load_dataset("cifar10", path=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fashion_mnist", "Fashion-MNIST was not found in {}: install the Debian package"),
        ("cifar10", "CIFAR-10 was not found in {}: put cifar-10-python.tar.gz"),
        ("cifar100", "CIFAR-100 was not found in {}: put cifar-100-python.tar.gz"),
        ("tiny_imagenet", "Tiny-ImageNet was not found in {}: unzip tiny-imagenet-200.zip"),
    ],
)
def test_missing_set_says_how_to_get_it(tmp_path, name, words):
    with pytest.raises(DataError) as error:
        load_dataset(name, path=tmp_path)
    assert words.format(tmp_path) in str(error.value)
    assert "set --config.dataset.path= to where it is." in str(error.value)
    assert "\n" not in str(error.value)
    (tmp_path / "file.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"was not found in .*file\.tar\.gz"):
        load_dataset(name, path=tmp_path / "file.tar.gz")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tiny_imagenet"])
def test_missing_set_without_a_path(name):
    with pytest.raises(
        DataError, match="was not found in datasets, ~/tensorflow_datasets or other"
    ):
        load_dataset(name)


def test_image_size_resizes_every_set():
    dataset = load_dataset("digits", image_size=12)
    assert dataset.train.images.shape[1:] == dataset.test.images.shape[1:] == (12, 12, 3)
    with pytest.raises(DataError, match="image_size must be 1 or more pixels, but is 0"):
        load_dataset("digits", image_size=0)


# --------------------------------------------------------------------------------------- subsets


def test_subset_keeps_class_shares_order_and_pairing():
    whole = load_dataset("digits")
    part = load_dataset("digits", max_train=203, max_test=50, seed=1)
    assert len(part.train) == 203 and len(part.test) == 50
    assert np.ptp(np.bincount(part.train.labels)) <= 1
    assert np.bincount(part.test.labels).tolist() == [5] * 10
    rows = {image.tobytes(): i for i, image in enumerate(whole.train.images)}
    places = [rows[image.tobytes()] for image in part.train.images]
    assert places == sorted(set(places))
    np.testing.assert_array_equal(part.train.labels, whole.train.labels[places])
    assert part.mean == whole.mean


def test_subset_is_fixed_by_the_seed():
    prints = [fingerprint(load_dataset("digits", max_train=100, seed=seed)) for seed in (1, 1, 2)]
    assert prints[0] == prints[1] != prints[2]


def test_subset_of_unequal_classes(tmp_path):
    for name, count in (("a", 1), ("b", 3), ("c", 40)):
        for i in range(count):
            _save(tmp_path / "train" / name / f"{i}.png", _noise(1, 4)[0])
        _save(tmp_path / "test" / name / "0.png", _noise(1, 4)[0])

    def counts(limit):
        train = load_dataset("image_folder", path=tmp_path, max_train=limit).train
        assert len(train.files) == len(train)
        return np.bincount(train.labels).tolist()

    assert counts(3) == [1, 1, 1]
    assert counts(4) == [1, 1, 2]
    assert counts(24) == [1, 2, 21]
    assert counts(43) == [1, 3, 39]
    assert counts(44) == counts(1000) == [1, 3, 40]


@pytest.mark.parametrize("option", ["max_train", "max_test"])
@pytest.mark.parametrize("limit", [9, 0, -1])
def test_subset_smaller_than_the_classes_is_refused(option, limit):
    with pytest.raises(DataError, match=f"{option}={limit} is fewer than the 10 classes"):
        load_dataset("digits", **{option: limit})


# ---------------------------------------------------------------------------------------- digits


def test_digits():
    from sklearn.datasets import load_digits

    dataset = load_dataset("digits", seed=0)
    assert dataset.train.images.shape == (1438, 8, 8, 3)
    assert dataset.test.images.shape == (359, 8, 8, 3)
    assert dataset.class_names == tuple("0123456789")
    assert dataset.train.images.min() == 0 and dataset.train.images.max() == 255
    original = load_digits()
    grey = np.concatenate([dataset.train.images, dataset.test.images])[..., 0]
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    restored = np.round(grey / 255 * 16)  # the scaling loses nothing
    pairs = {(image.tobytes(), label) for image, label in zip(restored, labels, strict=True)}
    wanted = zip(original.images, original.target, strict=True)
    assert pairs == {(image.tobytes(), label) for image, label in wanted}
    pixels = dataset.train.images.reshape(-1, 3) / 255
    np.testing.assert_allclose(dataset.mean, pixels.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(dataset.std, pixels.std(axis=0), rtol=1e-9)


def test_digits_hold_out_a_fifth_of_each_class_whatever_the_seed():
    dataset = load_dataset("digits", seed=0)
    assert fingerprint(dataset) == fingerprint(load_dataset("digits", seed=7))
    # Changes only with the split, which would change every published number.
    assert fingerprint(dataset).startswith("1a8cc5a552f9")
    test = np.bincount(dataset.test.labels)
    whole = test + np.bincount(dataset.train.labels)
    assert test.tolist() == [round(0.2 * count) for count in whole]


def test_digits_take_no_path(tmp_path):
    with pytest.raises(DataError, match="digits comes with scikit-learn: leave"):
        load_dataset("digits", path=tmp_path)


# --------------------------------------------------------------------------------- fashion_mnist


def _write_idx(folder, *, compress=True):
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for prefix, count in (("train", 30), ("t10k", 20)):
        images, labels = _noise(count, 28, 1), _labels(count)
        parts.append((np.repeat(images[..., None], 3, axis=-1), labels))
        for kind, values in (("images-idx3", images), ("labels-idx1", labels.astype(np.uint8))):
            header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
            content = header + values.tobytes()
            file = folder / f"{prefix}-{kind}-ubyte{'.gz' if compress else ''}"
            file.write_bytes(gzip.compress(content) if compress else content)
    return parts


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("inside", ["", "fashion_mnist"])
def test_fashion_mnist(tmp_path, compress, inside):
    train, test = _write_idx(tmp_path / "data" / inside, compress=compress)
    dataset = load_dataset("fashion_mnist", path=tmp_path / "data")
    _check(dataset, "fashion_mnist", train, test, dataset.class_names)
    assert dataset.class_names[0] == "t-shirt/top" and dataset.class_names[9] == "ankle boot"
    assert dataset.mean == (0.286,) * 3 and dataset.std == (0.353,) * 3


def test_datasets_below_the_working_directory_are_found(tmp_path):
    train, test = _write_idx(tmp_path / "datasets" / "fashion_mnist")
    dataset = load_dataset("fashion_mnist")
    _check(dataset, "fashion_mnist", train, test, dataset.class_names)


def test_fashion_mnist_lacking_a_file(tmp_path):
    _write_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"lacks t10k-labels-idx1-ubyte.gz: put it beside"):
        load_dataset("fashion_mnist", path=tmp_path)


def test_fashion_mnist_with_files_mixed_up(tmp_path):
    _write_idx(tmp_path)
    os.replace(tmp_path / "t10k-labels-idx1-ubyte.gz", tmp_path / "train-labels-idx1-ubyte.gz")
    _write_idx(tmp_path / "other")
    os.replace(
        tmp_path / "other" / "t10k-labels-idx1-ubyte.gz", tmp_path / "t10k-labels-idx1-ubyte.gz"
    )
    with pytest.raises(DataError, match=r"Labels must be int32 \[30\], one for each image"):
        load_dataset("fashion_mnist", path=tmp_path)


# ------------------------------------------------------------------------------- official CIFARs


def _planes(images):
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2).reshape(len(images), 3072))


def _python2_pickle(record):
    """Protocol 2 as Python 2 wrote the official archives: byte strings, numpy.core.multiarray."""

    def string(text):
        return b"T" + struct.pack("<i", len(text)) + text

    def integer(number):
        return b"J" + struct.pack("<i", number)

    def value(thing):
        if isinstance(thing, np.ndarray):
            assert thing.dtype == np.uint8
            empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
            empty += integer(0) + b"\x85" + string(b"b") + b"\x87R"
            dtype = b"cnumpy\ndtype\n" + string(b"u1") + integer(0) + integer(1) + b"\x87R"
            dtype += b"(" + integer(3) + string(b"|") + b"NNN" + integer(-1) + integer(-1)
            dtype += integer(0) + b"tb"
            shape = b"(" + b"".join(integer(n) for n in thing.shape) + b"t"
            return (
                empty
                + b"("
                + integer(1)
                + shape
                + dtype
                + b"\x89"
                + string(thing.tobytes())
                + b"tb"
            )
        if isinstance(thing, list):
            return b"](" + b"".join(value(item) for item in thing) + b"e"
        return integer(thing) if isinstance(thing, int) else string(thing.encode())

    items = b"".join(string(key.encode()) + value(thing) for key, thing in record.items())
    return b"\x80\x02}(" + items + b"u."


def _cifar10_batches():
    images, labels = _noise(60, 32), _labels(60)
    return images, labels, np.split(np.arange(60), 6)


def _write_cifar10_python(folder, dump):
    folder.mkdir(parents=True)
    images, labels, batches = _cifar10_batches()
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for name, ids in zip(names, batches, strict=True):
        record = {
            "batch_label": "some text",
            "data": _planes(images[ids]),
            "labels": labels[ids].tolist(),
            "filenames": [f"{i}.png" for i in ids],
        }
        (folder / name).write_bytes(dump(record))
    (folder / "batches.meta").write_bytes(dump({"label_names": list(CIFAR10_CLASSES)}))
    (folder / "readme.html").write_text("<html>")
    return (images[:50], labels[:50]), (images[50:], labels[50:])


def _write_cifar10_binary(folder):
    folder.mkdir(parents=True)
    images, labels, batches = _cifar10_batches()
    records = np.concatenate([labels[:, None].astype(np.uint8), _planes(images)], axis=1)
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    for name, ids in zip(names, batches, strict=True):
        (folder / name).write_bytes(records[ids].tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR10_CLASSES) + "\n\n")
    return (images[:50], labels[:50]), (images[50:], labels[50:])


CIFAR100_CLASSES = tuple(f"name_{i:02d}" for i in range(100))


def _write_cifar100_python(folder, dump):
    folder.mkdir(parents=True)
    parts = []
    for name, count in (("train", 100), ("test", 20)):
        images, labels = _noise(count, 32), _labels(count, 100)
        parts.append((images, labels))
        record = {
            "data": _planes(images),
            "fine_labels": labels.tolist(),
            "coarse_labels": (labels // 5).tolist(),
        }
        (folder / name).write_bytes(dump(record))
    (folder / "meta").write_bytes(
        dump({"fine_label_names": list(CIFAR100_CLASSES), "coarse_label_names": ["x"] * 20})
    )
    return parts


def _write_cifar100_binary(folder):
    folder.mkdir(parents=True)
    parts = []
    for name, count in (("train.bin", 100), ("test.bin", 20)):
        images, labels = _noise(count, 32), _labels(count, 100)
        parts.append((images, labels))
        both = np.stack([labels // 5, labels], axis=1).astype(np.uint8)
        (folder / name).write_bytes(np.concatenate([both, _planes(images)], axis=1).tobytes())
    (folder / "fine_label_names.txt").write_text("\n".join(CIFAR100_CLASSES) + "\n")
    (folder / "coarse_label_names.txt").write_text("x\n" * 20)
    return parts


OFFICIAL = {
    "cifar-10-batches-py": ("cifar10", "cifar-10-python.tar.gz", CIFAR10_CLASSES),
    "cifar-10-batches-bin": ("cifar10", "cifar-10-binary.tar.gz", CIFAR10_CLASSES),
    "cifar-100-python": ("cifar100", "cifar-100-python.tar.gz", CIFAR100_CLASSES),
    "cifar-100-binary": ("cifar100", "cifar-100-binary.tar.gz", CIFAR100_CLASSES),
}


def _write_official(folder, dump=_python2_pickle):
    return {
        "cifar-10-batches-py": lambda: _write_cifar10_python(folder, dump),
        "cifar-10-batches-bin": lambda: _write_cifar10_binary(folder),
        "cifar-100-python": lambda: _write_cifar100_python(folder, dump),
        "cifar-100-binary": lambda: _write_cifar100_binary(folder),
    }[folder.name]()


@pytest.mark.parametrize("folder", OFFICIAL)
@pytest.mark.parametrize("form", ["folder", "around folder", "archive", "around archive"])
def test_official_cifar(tmp_path, folder, form):
    name, archive, class_names = OFFICIAL[folder]
    train, test = _write_official(tmp_path / "data" / folder)
    path = tmp_path / "data" / folder
    if "archive" in form:
        (tmp_path / "packed").mkdir()
        path = _pack(tmp_path / "packed" / archive, path)
    dataset = load_dataset(name, path=path.parent if "around" in form else path)
    _check(dataset, name, train, test, class_names)
    assert dataset.train.files is None
    assert dataset.mean[0] == {"cifar10": 0.4914, "cifar100": 0.5071}[name]


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_cifar_pickled_again_by_python_3(tmp_path, protocol):
    folder = tmp_path / "cifar-10-batches-py"
    train, test = _write_official(folder, lambda record: pickle.dumps(record, protocol))
    _check(load_dataset("cifar10", path=folder), "cifar10", train, test, CIFAR10_CLASSES)


class _RunsCode:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_cifar_with_a_hostile_pickle_is_refused(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    _write_official(folder)
    (folder / "data_batch_3").write_bytes(pickle.dumps({"data": _RunsCode()}, 2))
    words = r"Refused to unpickle data_batch_3 of .*tar.gz: it asks for \w+.system"
    with pytest.raises(DataError, match=words):
        load_dataset("cifar10", path=_pack(tmp_path / "cifar-10-python.tar.gz", folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ([1], "data_batch_2 of .* does not hold data and labels"),
        ({"data": np.zeros((1, 3072), np.uint8)}, "does not hold data and labels"),
        (
            {"data": np.zeros((2, 3072), np.uint8), "labels": [1]},
            r"data_batch_2 of .* holds uint8 \[2, 3072\] for int64 labels \[1\]",
        ),
        (
            {"data": np.zeros((1, 3072)), "labels": [1]},
            r"holds float64 \[1, 3072\] for int64 labels \[1\]",
        ),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": ["a"]}, "holds no arrays"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, "labels reach from 0 to 10"),
    ],
)
def test_cifar_with_a_damaged_batch_is_refused(tmp_path, record, words):
    folder = tmp_path / "cifar-10-batches-py"
    _write_official(folder)
    (folder / "data_batch_2").write_bytes(pickle.dumps(record, 2))
    with pytest.raises(DataError, match=words):
        load_dataset("cifar10", path=folder)


@pytest.mark.parametrize("folder", OFFICIAL)
def test_cifar_lacking_a_file_is_refused(tmp_path, folder):
    name, _, _ = OFFICIAL[folder]
    _write_official(tmp_path / folder)
    absent = next(file for file in (tmp_path / folder).iterdir() if "test" in file.name)
    absent.unlink()
    with pytest.raises(DataError, match=f"{folder} lacks {absent.name}. Download it again"):
        load_dataset(name, path=tmp_path)


def test_cifar_binary_of_odd_length_is_refused(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    _write_official(folder)
    (folder / "test_batch.bin").write_bytes(bytes(3072))
    with pytest.raises(DataError, match=r"test_batch.bin of .* is not a whole number of CIFAR"):
        load_dataset("cifar10", path=folder)


def test_class_without_training_images_is_refused_by_name(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    _write_official(folder)
    for file in folder.glob("data_batch_*.bin"):
        records = np.frombuffer(file.read_bytes(), np.uint8).reshape(-1, 3073)
        file.write_bytes(records[(records[:, 0] != 3) & (records[:, 0] != 9)].tobytes())
    with pytest.raises(DataError, match="cifar10 has no training images of cat, truck"):
        load_dataset("cifar10", path=folder)


# ---------------------------------------------------------------------------------- cifar10_jpeg


def _write_jpeg_pack(folder):
    for split, count in (("train", 3), ("test", 2)):
        for class_name in CIFAR10_CLASSES:
            for i in range(count):
                _save(folder / split / class_name / f"{i:04d}.jpg", _noise(1, 32)[0], quality=75)


@pytest.mark.parametrize("form", ["folder", "around folder", "archive", "around archive"])
def test_jpeg_pack(tmp_path, form):
    folder = tmp_path / "data" / "cifar10_jpeg"
    _write_jpeg_pack(folder)
    path = folder
    if "archive" in form:
        (tmp_path / "packed").mkdir()
        path = _pack(tmp_path / "packed" / "cifar10_jpeg.tar.xz", folder)
    dataset = load_dataset("cifar10", path=path.parent if "around" in form else path)
    parts = []
    for split, count in (("train", 3), ("test", 2)):
        images = [
            np.asarray(Image.open(folder / split / class_name / f"{i:04d}.jpg"))
            for class_name in CIFAR10_CLASSES
            for i in range(count)
        ]
        parts.append((np.stack(images), np.repeat(np.arange(10), count)))
    _check(dataset, "cifar10_jpeg", *parts, CIFAR10_CLASSES)
    assert dataset.train.files[:4] == (
        "train/airplane/0000.jpg",
        "train/airplane/0001.jpg",
        "train/airplane/0002.jpg",
        "train/automobile/0000.jpg",
    )
    assert dataset.std == (0.2023, 0.1994, 0.2010)


def test_jpeg_pack_with_a_truncated_image_names_it(tmp_path):
    folder = tmp_path / "cifar10_jpeg"
    _write_jpeg_pack(folder)
    file = folder / "train" / "cat" / "0001.jpg"
    file.write_bytes(file.read_bytes()[:-100])
    archive = _pack(tmp_path / "cifar10_jpeg.tar.xz", folder)
    for path in (folder, archive):
        with pytest.raises(DataError, match=rf"Cannot decode {path}/train/cat/0001.jpg: .*truncat"):
            load_dataset("cifar10", path=path)


def test_jpeg_pack_with_another_class_is_refused(tmp_path):
    _write_jpeg_pack(tmp_path)
    _save(tmp_path / "test" / "tram" / "0.jpg", _noise(1, 32)[0])
    with pytest.raises(DataError, match=r"test/tram/0.jpg belongs to the class 'tram', which is"):
        load_dataset("cifar10", path=tmp_path)


def test_tar_without_images_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"The train part of .*tar.xz holds no images"):
        load_dataset("cifar10", path=_pack(tmp_path / "cifar10_jpeg.tar.xz", tmp_path / "empty"))


def test_archive_order_follows_the_rule():
    rng = np.random.default_rng(1)
    clean = rng.integers(0, 10, 200)
    files = np.sort(clean)
    order = archive_order(files, clean)
    assert sorted(order) == list(range(200))
    for i, label in enumerate(clean):
        n = (clean[:i] == label).sum()
        assert order[i] == np.flatnonzero(files == label)[n]
    np.testing.assert_array_equal(files[order], clean)


def test_archive_order_leaves_archive_order_alone():
    clean = np.random.default_rng(1).integers(0, 10, 200)
    np.testing.assert_array_equal(archive_order(clean, clean), np.arange(200))


@pytest.mark.parametrize("files", [[0, 0, 1, 2], [0, 0, 1, 1]])
def test_archive_order_of_other_labels_is_refused(files):
    with pytest.raises(DataError, match="have different numbers of each class"):
        archive_order(np.array(files), np.array([0, 1, 2]))


def test_archive_order_of_images_in_no_known_order_is_refused():
    with pytest.raises(DataError, match="neither in the order of the label file nor sorted"):
        archive_order(np.array([0, 1, 0, 1]), np.array([1, 0, 0, 1]))


# --------------------------------------------------------------------------- TensorFlow Datasets


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A TensorFlow Datasets folder that was prepared offline, with its arrays in archive order."""
    import tensorflow_datasets as tfds

    parts = {"train": (_noise(30, 32), _labels(30)), "test": (_noise(20, 32), _labels(20))}

    class TinyPictures(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=(32, 32, 3), encoding_format="png"),
                "label": tfds.features.ClassLabel(names=list(CIFAR10_CLASSES)),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in parts}

        def _generate_examples(self, split):
            for i, (image, label) in enumerate(zip(*parts[split], strict=True)):
                content = io.BytesIO()
                Image.fromarray(image).save(content, "PNG")
                content.seek(0)
                yield i, {"id": f"{split}_{i:05d}", "image": content, "label": label}

    folder = tmp_path_factory.mktemp("tfds")
    TinyPictures(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder / "tiny_pictures" / "1.0.0", parts["train"], parts["test"]


@pytest.mark.parametrize("form", ["version", "name", "data_dir", "environment", "home"])
def test_tfds(tmp_path, monkeypatch, prepared, form):
    version, train, test = prepared
    path = tmp_path / ("home/tensorflow_datasets" if form == "home" else "tfds")
    (path / "cifar10").mkdir(parents=True)
    (path / "cifar10" / "3.0.2").symlink_to(version)
    for older in ("3.0.1", "2.10.0"):
        (path / "cifar10" / older).mkdir()
        (path / "cifar10" / older / "dataset_info.json").write_text("{}")
    if form == "environment":
        monkeypatch.setenv("TFDS_DATA_DIR", str(path))
    given = {"version": version, "name": path / "cifar10", "data_dir": path}.get(form)
    dataset = load_dataset("cifar10", path=given)
    _check(dataset, "cifar10", train, test, CIFAR10_CLASSES)


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar100"])
def test_tfds_of_the_other_sets(prepared, name):
    version, train, test = prepared
    _check(load_dataset(name, path=version), name, train, test, CIFAR10_CLASSES)


def _copied(prepared, folder, **replaced):
    folder.mkdir()
    for file in prepared[0].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    info = (folder / "dataset_info.json").read_text()
    for old, new in replaced.items():
        info = info.replace(old, new)
    (folder / "dataset_info.json").write_text(info)
    return folder


def test_tfds_prepared_for_tensorflow_is_refused(tmp_path, prepared):
    folder = _copied(prepared, tmp_path / "copy", array_record="tfrecord")
    words = 'only TensorFlow reads: prepare it again with file_format="array_record"'
    with pytest.raises(DataError, match=words):
        load_dataset("cifar10", path=folder)


@pytest.mark.parametrize("part", ["records", "split", "metadata"])
def test_damaged_tfds_is_refused(tmp_path, prepared, part):
    replaced = {"split": {'"test"': '"val"'}, "metadata": {"{": "["}}.get(part, {})
    folder = _copied(prepared, tmp_path / "copy", **replaced)
    if part == "records":
        next(folder.glob("*test.array_record*")).unlink()
    with pytest.raises(DataError, match=r"Cannot read the TensorFlow Datasets folder .*copy: "):
        load_dataset("cifar10", path=folder)


# --------------------------------------------------------------------------------- tiny_imagenet

WNIDS = ("n03", "n01", "n02")


def _write_tiny_imagenet(root):
    train, test, lines = [], [], []
    for wnid in WNIDS:
        for i in range(4):
            image = _noise(1, 64)[0]
            if i == 2:
                image = np.repeat(image[..., :1], 3, axis=-1)
            _save(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", image, quality=90)
            train.append(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG")
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
    for i in range(6):
        file = root / "val" / "images" / f"val_{i}.JPEG"
        _save(file, _noise(1, 64)[0], quality=90)
        lines.append(f"val_{i}.JPEG\t{WNIDS[i % 3]}\t0\t0\t63\t63\n")
        test.append(file)
    (root / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (root / "words.txt").write_text("n03\ta thing\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    _save(root / "test" / "images" / "test_0.JPEG", _noise(1, 64)[0])
    test = [test[i] for i in (0, 3, 1, 4, 2, 5)]
    arrays = [np.stack([np.asarray(Image.open(file)) for file in files]) for files in (train, test)]
    return (arrays[0], np.repeat(range(3), 4)), (arrays[1], np.repeat(range(3), 2))


@pytest.mark.parametrize("around", [False, True])
def test_tiny_imagenet(tmp_path, around):
    root = tmp_path / "tiny-imagenet-200"
    train, test = _write_tiny_imagenet(root)
    dataset = load_dataset("tiny_imagenet", path=tmp_path if around else root)
    _check(dataset, "tiny_imagenet", train, test, WNIDS)
    assert dataset.train.files[0] == "train/n03/images/n03_0.JPEG"
    assert dataset.test.files[1] == "val/images/val_3.JPEG"
    assert dataset.mean == (0.485, 0.456, 0.406) and dataset.std == (0.229, 0.224, 0.225)


def test_tiny_imagenet_that_is_not_whole(tmp_path):
    _write_tiny_imagenet(tmp_path)
    os.replace(tmp_path / "val" / "images" / "val_3.JPEG", tmp_path / "kept.JPEG")
    with pytest.raises(DataError, match=r"Cannot decode .*val/images/val_3.JPEG: .*No such file"):
        load_dataset("tiny_imagenet", path=tmp_path)
    os.replace(tmp_path / "kept.JPEG", tmp_path / "val" / "images" / "val_3.JPEG")
    os.replace(tmp_path / "train" / "n02", tmp_path / "n02")
    with pytest.raises(DataError, match=r"train/n02/images is missing: .* unpack it again"):
        load_dataset("tiny_imagenet", path=tmp_path)
    os.replace(tmp_path / "n02", tmp_path / "train" / "n02")
    (tmp_path / "val" / "val_annotations.txt").write_text("val_0.JPEG n01\n")
    with pytest.raises(DataError, match=r"val_annotations.txt is damaged: unpack"):
        load_dataset("tiny_imagenet", path=tmp_path)
    (tmp_path / "val" / "val_annotations.txt").unlink()
    with pytest.raises(DataError, match=r"Cannot read .*val_annotations.txt: .*No such file"):
        load_dataset("tiny_imagenet", path=tmp_path)


# ---------------------------------------------------------------------------------- image_folder


def test_image_folder_with_a_test_part(tmp_path):
    parts = {}
    for split, count in (("train", 3), ("test", 2)):
        images = _noise(2 * count, 6)
        for i, image in enumerate(images):
            class_name = ("cat", "a dog")[i // count]
            _save(tmp_path / split / class_name / f"{i}.png", image)
        # Classes are sorted by name.
        order = np.roll(np.arange(2 * count), count)
        parts[split] = images[order], np.repeat([0, 1], count)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / "cat" / ".hidden.png").write_text("not an image")
    (tmp_path / "train" / ".cache").mkdir()
    dataset = load_dataset("image_folder", path=tmp_path)
    _check(dataset, "image_folder", parts["train"], parts["test"], ("a dog", "cat"))
    assert dataset.train.files[0] == "train/a dog/3.png"
    pixels = dataset.train.images.reshape(-1, 3) / 255
    np.testing.assert_allclose(dataset.mean, pixels.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(dataset.std, pixels.std(axis=0), rtol=1e-9)


def test_image_folder_of_odd_images(tmp_path):
    grey = _noise(1, 9, 1)[0]
    colour = _noise(1, 9)[0]
    _save(tmp_path / "a" / "grey.png", grey)
    _save(tmp_path / "a" / "deep.tif", grey.astype(np.uint16) * 257)
    _save(tmp_path / "a" / "tall.JPG", _noise(1, 30)[0][:, :20])
    Image.fromarray(colour).quantize(16).save(tmp_path / "a" / "palette.gif")
    (tmp_path / "b").mkdir()
    Image.fromarray(colour).convert("CMYK").save(tmp_path / "b" / "print.jpeg")
    Image.fromarray(grey).convert("LA").save(tmp_path / "b" / "alpha.webp", lossless=True)
    for i in range(3):
        _save(tmp_path / "b" / f"{i}.bmp", colour)
    dataset = load_dataset("image_folder", path=tmp_path, image_size=9)
    everything = dict(zip(dataset.train.files, dataset.train.images, strict=True))
    everything |= dict(zip(dataset.test.files, dataset.test.images, strict=True))
    assert len(everything) == 9
    for file in ("a/grey.png", "a/deep.tif", "b/alpha.webp"):
        np.testing.assert_array_equal(everything[file], np.repeat(grey[..., None], 3, axis=-1))
    with pytest.raises(DataError, match=r"Images differ in size: .*Set image_size"):
        load_dataset("image_folder", path=tmp_path)


def test_image_folder_holds_out_a_fifth_of_each_class(tmp_path):
    for class_name, count in (("a", 10), ("b", 25), ("train", 1)):
        for i in range(count):
            _save(tmp_path / class_name / f"{i:02d}.png", _noise(1, 4)[0])
    dataset = load_dataset("image_folder", path=tmp_path, seed=0)
    assert dataset.class_names == ("a", "b", "train")  # a class may be called train
    assert np.bincount(dataset.test.labels).tolist() == [2, 5]
    assert np.bincount(dataset.train.labels).tolist() == [8, 20, 1]
    assert not set(dataset.train.files) & set(dataset.test.files)
    again = load_dataset("image_folder", path=tmp_path, seed=5)
    assert again.test.files == dataset.test.files


@pytest.mark.parametrize("has_test", [True, False])
def test_image_folder_with_unlabelled_images(tmp_path, has_test):
    files = ["train/b/0.png", "train/a/0.png", "train/unlabeled/7.png", "train/unlabeled/3.png"]
    files += ["test/b/0.png", "test/a/0.png"] if has_test else []
    images = dict(zip(files, _noise(len(files), 4), strict=True))
    for file, image in images.items():
        _save(tmp_path / file, image)
    dataset = load_dataset("image_folder", path=tmp_path)
    assert dataset.class_names == ("a", "b")
    assert dataset.train.files == ("train/a/0.png", "train/b/0.png")
    assert dataset.unlabeled.files == ("train/unlabeled/3.png", "train/unlabeled/7.png")
    np.testing.assert_array_equal(dataset.unlabeled.images[1], images["train/unlabeled/7.png"])
    assert dataset.unlabeled.labels.tolist() == [-1, -1]
    assert len(dataset.test) == (2 if has_test else 0)
    pixels = np.stack([images[f] for f in files[:4]]).reshape(-1, 3) / 255
    np.testing.assert_allclose(dataset.mean, pixels.mean(axis=0), rtol=1e-9)
    assert load_dataset("image_folder", path=tmp_path, image_size=3).unlabeled.images.shape[1] == 3
    before = fingerprint(dataset)
    _save(tmp_path / "train/unlabeled/7.png", _noise(1, 4)[0])
    assert fingerprint(load_dataset("image_folder", path=tmp_path)) != before
    _save(tmp_path / "train/unlabeled/7.png", _noise(1, 6)[0])
    with pytest.raises(DataError, match="Images differ in size"):
        load_dataset("image_folder", path=tmp_path)


def test_flat_image_folder_with_unlabelled_images(tmp_path):
    for class_name in ("a", "b", "unlabeled"):
        for i in range(5):
            _save(tmp_path / class_name / f"{i}.png", _noise(1, 4)[0])
    dataset = load_dataset("image_folder", path=tmp_path)
    assert dataset.class_names == ("a", "b")
    assert (len(dataset.train), len(dataset.test), len(dataset.unlabeled)) == (8, 2, 5)


def test_image_folder_of_one_colour_is_only_centred(tmp_path):
    for class_name in "ab":
        for i in range(5):
            _save(tmp_path / class_name / f"{i}.png", np.full((4, 4, 3), (51, 0, 255), np.uint8))
    dataset = load_dataset("image_folder", path=tmp_path)
    np.testing.assert_allclose(dataset.mean, (0.2, 0, 1), atol=1e-12)
    assert dataset.std == (1, 1, 1)


def test_image_folder_refusals(tmp_path):
    def refused(words, path=tmp_path):
        with pytest.raises(DataError, match=words):
            load_dataset("image_folder", path=path)

    refused("image_folder needs a folder .*: set --config.dataset.path= to one", None)
    refused(r"The train part of .* holds no images: put them into one folder for each class")
    _save(tmp_path / "a" / "0.png", _noise(1, 4)[0])
    refused("set --config.dataset.path= to one, .*0.png is a file", tmp_path / "a" / "0.png")
    refused("image_folder has 1 class: at least 2 are needed")
    _save(tmp_path / "b" / "0.png", _noise(1, 4)[0])
    refused("The test part of image_folder holds no images")
    (tmp_path / "c").mkdir()
    for i in range(1, 5):
        for class_name in "ab":
            _save(tmp_path / class_name / f"{i}.png", _noise(1, 4)[0])
    refused("image_folder has no training images of c")
    (tmp_path / "c" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n junk")
    refused(r"c/broken.png.* Replace this file, or remove it from the data set")


def test_image_folder_refusals_with_splits(tmp_path):
    def refused(words):
        with pytest.raises(DataError, match=words):
            load_dataset("image_folder", path=tmp_path)

    for class_name in "ab":
        _save(tmp_path / "train" / class_name / "0.png", _noise(1, 4)[0])
    refused(r"has train/ but no test/: add test/<class>/\*, or move the class folders up")
    (tmp_path / "test").mkdir()
    refused("The test part of .* holds no images")
    _save(tmp_path / "test" / "c" / "0.png", _noise(1, 4)[0])
    refused("test/c/0.png belongs to the class 'c', which is not one of the 2 classes")
    os.replace(tmp_path / "test" / "c", tmp_path / "test" / "a")
    load_dataset("image_folder", path=tmp_path)
    _save(tmp_path / "test" / "a" / "0.png", _noise(1, 6)[0])
    refused(r"Images of image_folder differ in size: train \(4, 4\), test \(6, 6\)")


# ------------------------------------------------------------------------- Dataset, fingerprint


@pytest.fixture
def tiny():
    return Dataset(
        name="tiny",
        train=Examples(_noise(4, 2), np.array([0, 1, 0, 1], np.int32), ("a", "b", "c", "d")),
        test=Examples(_noise(2, 2), np.array([0, 1], np.int32)),
        class_names=("x", "y"),
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
    )


def test_take(tiny):
    part = tiny.train.take(np.array([2, 0]))
    assert len(part) == 2 and part.files == ("c", "a")
    np.testing.assert_array_equal(part.images, tiny.train.images[[2, 0]])
    np.testing.assert_array_equal(part.labels, [0, 0])
    assert tiny.test.take(np.array([1])).files is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": np.zeros((4, 2, 2, 3))}, r"Images must be uint8 \[N, H, W, 3\], but are float"),
        ({"images": np.zeros((4, 2, 3), np.uint8)}, r"but are uint8 \[4, 2, 3\]"),
        ({"images": np.zeros((4, 2, 2, 1), np.uint8)}, r"but are uint8 \[4, 2, 2, 1\]"),
        ({"labels": np.zeros(4, np.int64)}, r"Labels must be int32 \[4\], .* but are int64"),
        ({"labels": np.zeros((4, 1), np.int32)}, r"but are int32 \[4, 1\]"),
        ({"labels": np.zeros(3, np.int32)}, r"but are int32 \[3\]"),
        ({"files": ("a",)}, "There are 1 files for 4 images"),
    ],
)
def test_examples_are_checked(tiny, changes, words):
    with pytest.raises(DataError, match=words):
        dataclasses.replace(tiny.train, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"class_names": ("x",)}, "tiny has 1 class: at least 2"),
        ({"class_names": ("x", "y", "z")}, "tiny has no training images of z"),
        ({"mean": (0.5,)}, "mean and std need one number per channel"),
        ({"std": (0.2, 0.0, 0.2)}, "std positive ones"),
    ],
)
def test_datasets_are_checked(tiny, changes, words):
    with pytest.raises(DataError, match=words):
        dataclasses.replace(tiny, **changes)


def test_datasets_check_labels_and_sizes(tiny):
    for label in (2, -1):
        wrong = dataclasses.replace(tiny.test, labels=np.array([0, label], np.int32))
        with pytest.raises(DataError, match="labels must lie in 0 to 1, but test labels reach"):
            dataclasses.replace(tiny, test=wrong)
    with pytest.raises(DataError, match="The test part of tiny holds no images"):
        check_has_test(dataclasses.replace(tiny, test=tiny.test.take(np.array([], int))))
    larger = dataclasses.replace(tiny.test, images=_noise(2, 3))
    with pytest.raises(DataError, match=r"train \(2, 2\), test \(3, 3\). Set image_size"):
        dataclasses.replace(tiny, test=larger)


def test_fingerprint_notices_every_change_of_the_data(tiny):
    def changed(split, **arrays):
        return dataclasses.replace(
            tiny, **{split: dataclasses.replace(getattr(tiny, split), **arrays)}
        )

    pixel = tiny.train.images.copy()
    pixel[3, 1, 1, 2] ^= 1
    variants = [
        tiny,
        changed("train", images=pixel),
        changed("train", labels=np.array([0, 1, 1, 1], np.int32)),
        changed("train", images=tiny.train.images[::-1]),
        changed("test", labels=np.array([1, 0], np.int32)),
        dataclasses.replace(tiny, class_names=("x", "z")),
    ]
    prints = [fingerprint(variant) for variant in variants]
    assert len(set(prints)) == len(variants)
    assert all(len(text) == 64 for text in prints)
    copy = changed("train", images=np.asfortranarray(tiny.train.images), files=None)
    assert fingerprint(copy) == fingerprint(tiny)


def test_listing_the_sets_loads_neither_jax_nor_a_reader():
    code = (
        "import sys, jaxrobust.data.sources\n"
        "heavy = {'jax', 'tensorflow_datasets', 'grain', 'sklearn', 'PIL'}\n"
        "loaded = heavy & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    root = pathlib.Path(jaxrobust.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


# ------------------------------------------------------------------------------------ multi-label


def test_digit_canvases_hold_the_digits_that_their_labels_name():
    dataset = load_dataset("digit_canvases", max_train=60)
    assert dataset.is_multilabel and dataset.class_names == tuple("0123456789")
    assert len(dataset.train) == 60 and len(dataset.test) == 1000
    assert dataset.test.images.shape == (1000, 24, 24, 3)
    labels = dataset.test.labels
    assert labels.dtype == np.uint8 and labels.shape == (1000, 10)
    assert set(np.unique(labels.sum(axis=1))) == {1, 2, 3, 4, 5}
    assert labels.mean(axis=0).min() > 0.2
    again = load_dataset("digit_canvases", max_train=60)
    assert fingerprint(again) == fingerprint(dataset)
    other = load_dataset("digit_canvases", max_train=60, seed=1)
    assert np.any(other.train.images != dataset.train.images)
    np.testing.assert_array_equal(other.test.images, dataset.test.images)


def test_canvases_are_made_of_the_digits_given():
    digits = np.zeros((2, 8, 8, 3), np.uint8)
    digits[0, :, :2], digits[1, :2] = 200, 100
    canvases, targets = compose_canvases(digits, np.array([7, 3]), 50, np.random.default_rng(0))
    assert set(np.flatnonzero(targets.any(axis=0))) == {3, 7}
    brightest = canvases.max(axis=(1, 2, 3))
    assert np.all(brightest[targets[:, 7] == 1] >= 100)
    assert np.all(brightest[targets[:, 7] == 0] <= 100)
    # Overlapping digits do not add up.
    assert brightest.max() <= 200


def test_digit_canvases_of_train_and_test_are_made_of_different_digits(monkeypatch):
    given = []

    def recorded(digits, labels, num_canvases, generator):
        given.append({digit.tobytes() for digit in digits})
        return compose_canvases(digits, labels, num_canvases, generator)

    monkeypatch.setattr(image_sets, "compose_canvases", recorded)
    load_dataset("digit_canvases")
    assert len(given) == 2 and not given[0] & given[1]


def _multilabel(targets, num_classes=3):
    targets = np.array(targets, np.uint8)
    names = tuple("abcdefgh"[:num_classes])
    examples = Examples(_noise(len(targets), 4), targets)
    return Dataset("set", examples, examples, names, (0.5,) * 3, (0.5,) * 3)


def test_a_subset_of_a_multilabel_set_keeps_every_class(monkeypatch):
    targets = np.zeros((200, 3), np.uint8)
    targets[:, 0] = 1
    targets[17, 1] = targets[180, 2] = 1
    monkeypatch.setitem(SOURCES, "digits", Source("", read=lambda *_: _multilabel(targets)))
    part = load_dataset("digits", max_train=5, max_test=200)
    assert len(part.train) == 5 and part.train.labels.any(axis=0).all()
    assert len(part.test) == 200
    with pytest.raises(DataError, match="max_train=2 is fewer than the 3 classes"):
        load_dataset("digits", max_train=2)


def test_multilabel_targets_that_do_not_fit_are_refused():
    dataset = _multilabel([[1, 1, 0], [0, 0, 1], [0, 0, 0]])  # an image may have no label at all
    assert dataset.is_multilabel and dataset.num_classes == 3
    single = Examples(_noise(3, 4), np.arange(3, dtype=np.int32))
    with pytest.raises(DataError, match="Only one of train and test of set is multi-label"):
        dataclasses.replace(dataset, test=single)
    with pytest.raises(DataError, match="set has 2 classes, but train labels are for 3"):
        dataclasses.replace(dataset, class_names=("a", "b"))
    with pytest.raises(DataError, match="has no training images of b, c"):
        _multilabel([[1, 0, 0]])
    with pytest.raises(DataError, match="Multi-label targets must be 0 or 1, but reach 2"):
        _multilabel([[2, 1, 1]])
    with pytest.raises(DataError, match=r"or uint8 \[3, classes\], but are int64 \[3, 3\]"):
        Examples(_noise(3, 4), np.eye(3, dtype=np.int64))
