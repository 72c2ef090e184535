"""Readers of the named sets that are held in memory, each `(path, image_size, seed) -> Dataset`."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from jaxrobust.data import readers
from jaxrobust.data._streams import host_generator
from jaxrobust.data.canvases import compose_canvases
from jaxrobust.data.class_folders import decoded
from jaxrobust.data.dataset import Dataset, Examples, with_own_statistics
from jaxrobust.data.places import find, find_places, images_in, listed, missing_set, tfds_directory
from jaxrobust.data.subsets import hold_out
from jaxrobust.errors import DataError

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
FASHION_MNIST_CLASSES = (
    "t-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
_DIGIT_CLASSES = tuple("0123456789")

# Mean and standard deviation that the papers' code normalises with. CIFAR-10's deviations are the
# customary ones (mean over images of the deviation inside each), not the deviation of all pixels.
_CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_CIFAR100_STATISTICS = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
_FASHION_MNIST_STATISTICS = ((0.2860, 0.2860, 0.2860), (0.3530, 0.3530, 0.3530))
_TINY_IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_NUM_CANVASES = 1000  # of each part


def digits(path: pathlib.Path | None, image_size: int | None, seed: int) -> Dataset:
    """scikit-learn's scanned digits, a fifth of each class held out."""
    return with_own_statistics("digits", *_held_out_digits("digits", path), _DIGIT_CLASSES)


def digit_canvases(path: pathlib.Path | None, image_size: int | None, seed: int) -> Dataset:
    """Multi-label canvases on which several of these digits lie."""
    name = "digit_canvases"
    train, test = (
        Examples(*compose_canvases(digits.images, digits.labels, _NUM_CANVASES, generator))
        for digits, generator in zip(
            _held_out_digits(name, path),
            (host_generator(seed, f"sources/{name}"), host_generator(0, f"sources/{name}/test")),
            strict=True,
        )
    )
    return with_own_statistics(name, train, test, _DIGIT_CLASSES)


def _held_out_digits(name: str, path: pathlib.Path | None) -> tuple[Examples, Examples]:
    if path is not None:
        raise DataError(f"{name} comes with scikit-learn: leave --config.dataset.path= empty.")
    return hold_out(_examples(_scanned_digits()))


@functools.cache
def _scanned_digits() -> tuple[np.ndarray, np.ndarray]:
    """Images and classes, parsed once."""
    from sklearn.datasets import load_digits

    digits = cast(Any, load_digits())  # a Bunch
    return np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target


def fashion_mnist(path: pathlib.Path | None, image_size: int | None, seed: int) -> Dataset:
    """Fashion-MNIST from its idx files or TensorFlow Datasets."""
    stems = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    names = [f"{stem}-ubyte" for stem in stems]
    installed = ("/usr/share/datasets/fashion-mnist", "~/.keras/datasets/fashion-mnist")
    for place in find_places("fashion_mnist", path, *installed):
        if directory := tfds_directory(place):
            train, test, class_names = readers.read_tfds(directory)
        elif any(file.name.removesuffix(".gz") in names for file in place.glob("*-ubyte*")):
            arrays = [readers.read_idx(idx_file(place, name)) for name in names]
            train, test, class_names = arrays[:2], arrays[2:], FASHION_MNIST_CLASSES
        else:
            continue
        return Dataset(
            "fashion_mnist",
            _examples(train),
            _examples(test),
            class_names,
            *_FASHION_MNIST_STATISTICS,
        )
    raise missing_set(
        "Fashion-MNIST",
        path,
        "install the Debian package dataset-fashion-mnist, or put the four files "
        "{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz into datasets/fashion_mnist",
    )


def idx_file(place: pathlib.Path, name: str) -> pathlib.Path:
    for file in (place / name, place / f"{name}.gz"):
        if file.is_file():
            return file
    raise DataError(f"{place} lacks {name}.gz: put it beside the other three idx files.")


def cifar10(path: pathlib.Path | None, image_size: int | None, seed: int) -> Dataset:
    """CIFAR-10 from an archive, a folder or TensorFlow Datasets."""
    for place in find_places("cifar10", path):
        if archive := _cifar_archive(place, fine=False):
            return _cifar("cifar10", archive, _CIFAR10_STATISTICS)
        if root := find(place, "cifar10_jpeg.tar.xz", "cifar10_jpeg", "train/airplane"):
            return _cifar10_jpeg(root)
    raise missing_set(
        "CIFAR-10",
        path,
        "put cifar-10-python.tar.gz, cifar-10-binary.tar.gz, cifar10_jpeg.tar.xz or a TensorFlow "
        "Datasets folder cifar10 that was prepared as array_record into datasets",
    )


def cifar100(path: pathlib.Path | None, image_size: int | None, seed: int) -> Dataset:
    """CIFAR-100 from an archive, a folder or TensorFlow Datasets."""
    for place in find_places("cifar100", path):
        if archive := _cifar_archive(place, fine=True):
            return _cifar("cifar100", archive, _CIFAR100_STATISTICS)
    raise missing_set(
        "CIFAR-100",
        path,
        "put cifar-100-python.tar.gz, cifar-100-binary.tar.gz or a TensorFlow Datasets folder "
        "cifar100 that was prepared as array_record into datasets",
    )


def _cifar_archive(place: pathlib.Path, *, fine: bool) -> readers.Archive | None:
    """What the official archive, its folder or a TensorFlow Datasets folder at `place` holds."""
    if fine:
        python = ("cifar-100-python.tar.gz", "cifar-100-python", "meta")
        binary = ("cifar-100-binary.tar.gz", "cifar-100-binary", "train.bin")
    else:
        python = ("cifar-10-python.tar.gz", "cifar-10-batches-py", "data_batch_1")
        binary = ("cifar-10-binary.tar.gz", "cifar-10-batches-bin", "data_batch_1.bin")
    if root := find(place, *python):
        return readers.read_cifar_python(root, fine)
    if root := find(place, *binary):
        return readers.read_cifar_binary(root, fine)
    if directory := tfds_directory(place):
        return readers.read_tfds(directory)
    return None


def _cifar(name: str, archive: readers.Archive, statistics: tuple) -> Dataset:
    train, test, class_names = archive
    return Dataset(name, _examples(train), _examples(test), class_names, *statistics)


def _cifar10_jpeg(root: pathlib.Path) -> Dataset:
    """CIFAR-10 recompressed as JPEG files `<split>/<class>/NNNN.jpg`; sorted by class."""
    if root.is_dir():
        train, test = listed(root, "train"), listed(root, "test")
    else:
        members = [(name.split("/")[-3:], content) for name, content in readers.read_tar(root)]
        train, test = (
            [
                (parts[1], "/".join(parts), content)
                for parts, content in members
                if len(parts) == 3 and parts[0] == split
            ]
            for split in ("train", "test")
        )
    return Dataset(
        "cifar10_jpeg",
        decoded("train", root, train, CIFAR10_CLASSES, None),
        decoded("test", root, test, CIFAR10_CLASSES, None),
        CIFAR10_CLASSES,
        *_CIFAR10_STATISTICS,
    )


def tiny_imagenet(path: pathlib.Path | None, image_size: int | None, seed: int) -> Dataset:
    """Tiny-ImageNet from its folder."""
    places = find_places("tiny_imagenet", path)
    roots = (find(place, None, "tiny-imagenet-200", "wnids.txt") for place in places)
    root = next(filter(None, roots), None)
    if root is None:
        raise missing_set(
            "Tiny-ImageNet",
            path,
            "unzip tiny-imagenet-200.zip and put its folder tiny-imagenet-200 into datasets",
        )
    wnids = tuple(readers.read_bytes(root / "wnids.txt").decode().split())
    train = [
        (wnid, file.relative_to(root).as_posix(), file)
        for wnid in wnids
        for file in images_in(root / "train" / wnid / "images")
    ]
    annotations = readers.read_bytes(root / "val" / "val_annotations.txt").decode().splitlines()
    if not all("\t" in line and not readers.leads_out(line) for line in annotations):
        raise DataError(f"{root}/val/val_annotations.txt is damaged: unpack the data set again.")
    rows = [line.split("\t")[:2] for line in annotations]
    test = [(wnid, f"val/images/{file}", root / "val" / "images" / file) for file, wnid in rows]
    return Dataset(
        "tiny_imagenet",
        decoded("train", root, train, wnids, image_size),
        decoded("test", root, test, wnids, image_size),
        wnids,
        *_TINY_IMAGENET_STATISTICS,
    )


def _examples(arrays: Sequence[np.ndarray]) -> Examples:
    """Examples from images, grey or in colour, and labels of any integer type."""
    images, labels = arrays
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"Labels must be integers, but are {labels.dtype}.")
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[-1] == 1:
        images = np.repeat(images, 3, axis=-1)
    return Examples(images, labels.astype(np.int32))
