"""Where images come from: every data set as uint8 arrays in memory, under one name each."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxrobust.data import readers
from jaxrobust.data._streams import host_generator
from jaxrobust.data.canvases import compose_canvases
from jaxrobust.errors import DataError, unknown_name

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

# Mean and standard deviation that the papers' code normalises with. CIFAR-10's deviations are the
# customary ones (mean over images of the deviation inside each), not the deviation of all pixels.
_CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_CIFAR100_STATISTICS = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
_FASHION_MNIST_STATISTICS = ((0.2860,) * 3, (0.3530,) * 3)
_TINY_IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

_HELD_OUT = 0.2  # of each class, where a set has no test part
_NUM_CANVASES = 1000  # of each part
_UNLABELED = "unlabeled"  # folder of images without a label, in place of a class
NO_LABEL = -1
"""Label of an image that nobody has labelled; only `Dataset.unlabeled` holds such images."""


class Origin(NamedTuple):
    """What examples were taken from.

    Attributes:
      labels: of all the examples there.
      ids: int [N], positions there of those that were taken.
    """

    labels: np.ndarray
    ids: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Images and their labels.

    Attributes:
      images: uint8 [N, H, W, 3].
      labels: int32 [N], or uint8 {0, 1} [N, C] where an image may have several labels, or none.
      files: path of each image relative to the data set, where images are files.
      origin: where they are a part of more examples.
    """

    images: np.ndarray
    labels: np.ndarray
    files: tuple[str, ...] | None = None
    origin: Origin | None = None

    def __post_init__(self):
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[-1] != 3:
            raise DataError(
                "Images must be uint8 [N, H, W, 3], but are "
                f"{self.images.dtype} {list(self.images.shape)}."
            )
        check_labels(self.labels, len(self.images))
        if self.files is not None and len(self.files) != len(self.images):
            raise DataError(f"There are {len(self.files)} files for {len(self.images)} images.")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def is_multilabel(self) -> bool:
        """Whether an image may have several labels."""
        return self.labels.ndim == 2

    def take(self, ids: np.ndarray) -> "Examples":
        """The examples at these positions, in this order."""
        files = None if self.files is None else tuple(self.files[i] for i in ids)
        return Examples(self.images[ids], self.labels[ids], files, Origin(self.labels, ids))


def check_labels(labels: np.ndarray, num_images: int) -> None:
    """Refuses labels that are neither int32 [N] nor uint8 {0, 1} [N, C]."""
    kind = labels.dtype, labels.ndim
    if kind not in ((np.int32, 1), (np.uint8, 2)) or len(labels) != num_images:
        raise DataError(
            f"Labels must be int32 [{num_images}], one for each image, or uint8 [{num_images}, "
            f"classes], but are {labels.dtype} {list(labels.shape)}."
        )
    if labels.ndim == 2 and np.any(labels > 1):
        raise DataError(f"Multi-label targets must be 0 or 1, but reach {labels.max()}.")


def check_parts(name: str, class_names: Sequence[str], train, test, unlabeled=None) -> None:
    """Refuses parts of a data set that are empty, or whose labels and classes do not fit.

    Args:
      name: of the data set.
      class_names: one per label.
      train: examples, in memory or not.
      test: likewise; there may be none if there are unlabelled ones.
      unlabeled: likewise, or None.
    """
    num_classes = len(class_names)
    if num_classes < 2:
        raise DataError(f"{name} has {num_classes} class: at least 2 are needed.")
    for split, examples in (("train", train), ("test", test)):
        if not len(examples):
            if split == "test" and unlabeled is not None:
                continue
            raise DataError(f"The {split} part of {name} holds no images.")
        if examples.is_multilabel != train.is_multilabel:
            raise DataError(f"Only one of train and test of {name} is multi-label.")
        if train.is_multilabel:
            if examples.labels.shape[1] != num_classes:
                raise DataError(
                    f"{name} has {num_classes} classes, but {split} labels are for "
                    f"{examples.labels.shape[1]}."
                )
            continue
        low, high = examples.labels.min(), examples.labels.max()
        if low < 0 or high >= num_classes:
            raise DataError(
                f"{name} has {num_classes} classes, so labels must lie in 0 to "
                f"{num_classes - 1}, but {split} labels reach from {low} to {high}."
            )
    if train.is_multilabel:
        counts = train.labels.sum(axis=0, dtype=np.int64)
    else:
        counts = np.bincount(train.labels, minlength=num_classes)
    if absent := [class_names[label] for label in np.flatnonzero(counts == 0)]:
        raise DataError(f"{name} has no training images of {', '.join(absent)}.")


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory, with what is needed to normalise it and to name its classes.

    Attributes:
      name: what reports call it: the name given to `load_dataset`, but `cifar10_jpeg` for the
        recompressed images, whose pixels are not the official ones.
      train: training examples; every class has some.
      test: test examples; none only where there are unlabelled images.
      class_names: one per label.
      mean: of each channel on the [0, 1] scale.
      std: likewise, positive.
      unlabeled: further training images, all labelled `NO_LABEL`, if the set has any.
    """

    name: str
    train: Examples
    test: Examples
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    unlabeled: Examples | None = None

    def __post_init__(self):
        check_parts(self.name, self.class_names, self.train, self.test, self.unlabeled)
        if self.unlabeled is not None and np.any(self.unlabeled.labels != NO_LABEL):
            raise DataError(f"Unlabelled images of {self.name} must all have the label {NO_LABEL}.")
        for split, examples in (("test", self.test), ("unlabelled", self.unlabeled)):
            if examples is not None and examples.images.shape[1:] != self.train.images.shape[1:]:
                raise DataError(
                    f"Images of {self.name} differ in size: train {self.train.images.shape[1:3]}, "
                    f"{split} {examples.images.shape[1:3]}. Set image_size "
                    "(--config.dataset.image_size=) to resize them all."
                )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise DataError(
                "mean and std need one number per channel, and std positive ones, but are "
                f"{self.mean} and {self.std}."
            )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def is_multilabel(self) -> bool:
        """Whether an image may have several labels."""
        return self.train.is_multilabel


def load_dataset(
    name: str,
    *,
    path: str | os.PathLike | None = None,
    image_size: int | None = None,
    max_train: int | None = None,
    max_test: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Reads a data set into memory.

    | name | what `path` may be |
    |---|---|
    | `digits` | empty: 1,797 real 8 x 8 digits that come with scikit-learn |
    | `digit_canvases` | empty: multi-label canvases made of them on the spot |
    | `fashion_mnist` | folder with the four idx files, gzipped or not |
    | `cifar10` | official python or binary archive, or `cifar10_jpeg.tar.xz`, or their folders |
    | `cifar100` | official python or binary archive, or their folders |
    | `tiny_imagenet` | the folder `tiny-imagenet-200` |
    | `image_folder` | folder with `train/<class>/*` and `test/<class>/*` (or `val`), or only \
`<class>/*` |

    Beside the classes of an `image_folder`, in `train/` where it has one, a folder `unlabeled` may
    hold images that nobody has labelled, for a person to be asked about; `train/` may then do
    without `test/`.

    `path` may also be the folder around the thing named, and for `fashion_mnist` and the CIFARs a
    TensorFlow Datasets folder. Without a path, `datasets/` below the working directory and the
    customary folders of the machine are searched; nothing is ever downloaded.

    `digits`, and a folder without a test part, hold out 20 % of each class for testing: always the
    same images, whatever the seed. `digit_canvases` lays one to five digits on each of 1,000
    training and 1,000 test canvases, 24 x 24: the digits of one never lie on the other, the seed
    changes the training canvases only. For multi-label sets of files see
    `jaxrobust.data.multilabel`. Grey images are repeated to three channels.

    Order of the examples: the archives' own order for archives and for TensorFlow Datasets that
    kept it (`id`), else by class and file name. See `archive_order`.

    Args:
      name: one of the above.
      path: where the data is.
      image_size: side in pixels to resize images to (centre crop to a square, bilinear).
      max_train: keep at most so many labelled training images, class shares as in the whole; of a
        multi-label set any, with every class among them.
      max_test: likewise for the test images.
      seed: fixes which images `max_train` and `max_test` keep, and the training canvases.

    Returns:
      A `Dataset`.

    Raises:
      DataError: the set is unknown, missing, damaged or inconsistent.
    """
    if name not in SOURCES:
        raise DataError(unknown_name("dataset", name, SOURCES))
    if image_size is not None and image_size < 1:
        raise DataError(f"image_size must be 1 or more pixels, but is {image_size}.")
    path = None if path is None else pathlib.Path(path).expanduser()
    if path is not None and not path.exists():
        raise DataError(f"There is no {path}: correct --config.dataset.path=.")
    dataset = SOURCES[name](path, image_size, seed)
    train = subset(dataset.train, max_train, "max_train", seed)
    test = subset(dataset.test, max_test, "max_test", seed)
    return dataclasses.replace(
        dataset, train=_resized(train, image_size), test=_resized(test, image_size)
    )


def fingerprint(dataset) -> str:
    """SHA-256 over images, labels and class names: equal if and only if the data is.

    Of a `FileDataset` it is over the files' names in place of the images.
    """
    digest = hashlib.sha256(repr(dataset.class_names).encode())
    unlabeled = getattr(dataset, "unlabeled", None)
    for examples in filter(None, (dataset.train, dataset.test, unlabeled)):
        in_memory = isinstance(examples, Examples)
        pixels = examples.images if in_memory else np.array(list(map(os.fsencode, examples.names)))
        for array in (pixels, examples.labels):
            digest.update(repr((array.dtype.str, array.shape)).encode())
            digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def archive_order(labels_of_files: np.ndarray, clean_labels: np.ndarray) -> np.ndarray:
    """Where the images of CIFAR's official archive are in a list that is sorted by class.

    Files named by class and running number lose the order that label files such as CIFAR-N's refer
    to. Official index i is the n-th file of class `clean_labels[i]`, n = how many earlier j < i
    have the same class. Data that is in archive order already is left as it is, and any other
    order is refused.

    Args:
      labels_of_files: int [N], clean labels in the order at hand: ascending, each class in archive
        order, or equal to `clean_labels`.
      clean_labels: int [N], clean labels in archive order.

    Returns:
      int [N]: `images[archive_order(...)]` are in archive order.

    Raises:
      DataError: the two do not hold the same number of each class, or the order is neither.
    """
    by_class = np.argsort(labels_of_files, kind="stable")
    wanted = np.argsort(clean_labels, kind="stable")
    if not np.array_equal(np.asarray(labels_of_files)[by_class], np.asarray(clean_labels)[wanted]):
        raise DataError(
            f"The {len(clean_labels)} clean labels of the label file do not count the same images "
            f"of each class as the {len(labels_of_files)} images: use the whole training set."
        )
    if np.any(np.diff(labels_of_files) < 0) and not np.array_equal(labels_of_files, clean_labels):
        raise DataError(
            "The images are neither in the order of the label file nor sorted by class, so their "
            "labels cannot be told: use the official archive or class folders, and the label file "
            "in the archive's order."
        )
    order = np.empty(len(by_class), np.int64)
    order[wanted] = by_class
    return order


# ---------------------------------------------------------------------------------------- sources


_DIGIT_CLASSES = tuple("0123456789")


def _digits(path: pathlib.Path | None, image_size: int | None, seed: int) -> Dataset:
    return _with_own_statistics("digits", *_held_out_digits("digits", path), _DIGIT_CLASSES)


def _digit_canvases(path: pathlib.Path | None, image_size: int | None, seed: int) -> Dataset:
    name = "digit_canvases"
    train, test = (
        Examples(*compose_canvases(digits.images, digits.labels, _NUM_CANVASES, generator))
        for digits, generator in zip(
            _held_out_digits(name, path),
            (host_generator(seed, f"sources/{name}"), host_generator(0, f"sources/{name}/test")),
            strict=True,
        )
    )
    return _with_own_statistics(name, train, test, _DIGIT_CLASSES)


def _held_out_digits(name: str, path: pathlib.Path | None) -> tuple[Examples, Examples]:
    from sklearn.datasets import load_digits

    if path is not None:
        raise DataError(f"{name} comes with scikit-learn: leave --config.dataset.path= empty.")
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return _hold_out(_examples((images, digits.target)))


def _fashion_mnist(path: pathlib.Path | None, image_size: int | None, seed: int) -> Dataset:
    stems = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    names = [f"{stem}-ubyte" for stem in stems]
    installed = ("/usr/share/datasets/fashion-mnist", "~/.keras/datasets/fashion-mnist")
    for place in find_places("fashion_mnist", path, *installed):
        if directory := tfds_directory(place):
            train, test, class_names = readers.read_tfds(directory)
        elif any(file.name.removesuffix(".gz") in names for file in place.glob("*-ubyte*")):
            arrays = [readers.read_idx(_idx_file(place, name)) for name in names]
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


def _cifar10(path: pathlib.Path | None, image_size: int | None, seed: int) -> Dataset:
    for place in find_places("cifar10", path):
        if root := _find(place, "cifar-10-python.tar.gz", "cifar-10-batches-py", "data_batch_1"):
            train, test, class_names = readers.read_cifar_python(root, fine=False)
        elif root := _find(
            place, "cifar-10-binary.tar.gz", "cifar-10-batches-bin", "data_batch_1.bin"
        ):
            train, test, class_names = readers.read_cifar_binary(root, fine=False)
        elif root := _find(place, "cifar10_jpeg.tar.xz", "cifar10_jpeg", "train/airplane"):
            return _cifar10_jpeg(root)
        elif directory := tfds_directory(place):
            train, test, class_names = readers.read_tfds(directory)
        else:
            continue
        return Dataset(
            "cifar10", _examples(train), _examples(test), class_names, *_CIFAR10_STATISTICS
        )
    raise missing_set(
        "CIFAR-10",
        path,
        "put cifar-10-python.tar.gz, cifar-10-binary.tar.gz, cifar10_jpeg.tar.xz or a TensorFlow "
        "Datasets folder cifar10 that was prepared as array_record into datasets",
    )


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
        _decoded("train", root, train, CIFAR10_CLASSES, None),
        _decoded("test", root, test, CIFAR10_CLASSES, None),
        CIFAR10_CLASSES,
        *_CIFAR10_STATISTICS,
    )


def _cifar100(path: pathlib.Path | None, image_size: int | None, seed: int) -> Dataset:
    for place in find_places("cifar100", path):
        if root := _find(place, "cifar-100-python.tar.gz", "cifar-100-python", "meta"):
            train, test, class_names = readers.read_cifar_python(root, fine=True)
        elif root := _find(place, "cifar-100-binary.tar.gz", "cifar-100-binary", "train.bin"):
            train, test, class_names = readers.read_cifar_binary(root, fine=True)
        elif directory := tfds_directory(place):
            train, test, class_names = readers.read_tfds(directory)
        else:
            continue
        return Dataset(
            "cifar100", _examples(train), _examples(test), class_names, *_CIFAR100_STATISTICS
        )
    raise missing_set(
        "CIFAR-100",
        path,
        "put cifar-100-python.tar.gz, cifar-100-binary.tar.gz or a TensorFlow Datasets folder "
        "cifar100 that was prepared as array_record into datasets",
    )


def _tiny_imagenet(path: pathlib.Path | None, image_size: int | None, seed: int) -> Dataset:
    places = find_places("tiny_imagenet", path)
    roots = (_find(place, None, "tiny-imagenet-200", "wnids.txt") for place in places)
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
        _decoded("train", root, train, wnids, image_size),
        _decoded("test", root, test, wnids, image_size),
        wnids,
        *_TINY_IMAGENET_STATISTICS,
    )


def _image_folder(path: pathlib.Path | None, image_size: int | None, seed: int) -> Dataset:
    def build(*part):
        return _decoded(*part, image_size)

    return _with_own_statistics("image_folder", *image_folder_parts("image_folder", path, build))


def image_folder_parts(name: str, path: pathlib.Path | None, build: Callable) -> tuple:
    """What a folder of class folders holds.

    Args:
      name: of the data set, for messages.
      path: of the folder.
      build: `(part, folder, (class, path relative to the folder, path) triples, class names) ->
        examples`, in memory or not.

    Returns:
      (train, test, class names, unlabelled or None).
    """
    if path is None or not path.is_dir():
        raise DataError(
            f"{name} needs a folder that holds a folder of images for each class: set "
            f"--config.dataset.path= to one{'' if path is None else f', {path} is a file'}."
        )
    root = path / "train" if subfolders(path / "train") else path
    classes = [folder.name for folder in subfolders(root) if folder.name != _UNLABELED]
    entries = listed(path, root.relative_to(path).as_posix())
    labeled = [entry for entry in entries if entry[0] != _UNLABELED]
    train = build("train", path, labeled, classes)
    unlabeled = None
    if len(labeled) < len(entries):
        others = [entry for entry in entries if entry[0] == _UNLABELED]
        unlabeled = build("unlabelled", path, others, (_UNLABELED,))
        unlabeled = dataclasses.replace(unlabeled, labels=np.full_like(unlabeled.labels, NO_LABEL))
    test_folder = next((f for f in ("test", "val") if (path / f).is_dir()), None)
    if root == path:
        train, test = _hold_out(train)
    elif test_folder is not None:
        test = build("test", path, listed(path, test_folder), classes)
    elif unlabeled is not None:
        test = train.take(np.arange(0))
    else:
        raise DataError(
            f"{path} has train/ but no test/: add test/<class>/*, or move the class folders up "
            f"into {path}, and a fifth of each class is held out for testing."
        )
    return train, test, tuple(classes), unlabeled


SOURCES: dict[str, Callable[[pathlib.Path | None, int | None, int], Dataset]] = {
    "digits": _digits,
    "digit_canvases": _digit_canvases,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "tiny_imagenet": _tiny_imagenet,
    "image_folder": _image_folder,
}
"""Name -> function that reads what is at a path."""


# ---------------------------------------------------------------------------------- finding files


def find_places(name: str, path: pathlib.Path | None, *installed: str) -> list[pathlib.Path]:
    """Where to look: the path given and nowhere else, or the customary folders."""
    if path is None:
        prepared = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
        bases = [pathlib.Path(base).expanduser() for base in ("datasets", *installed, prepared)]
    else:
        bases = [path]
    return [place for base in bases for place in (base, base / name)]


def _find(
    place: pathlib.Path, archive: str | None, folder: str, marker: str
) -> pathlib.Path | None:
    """The archive, or the folder known by its `marker`, that `place` is or holds."""
    if place.is_file():
        return place if place.name == archive else None
    if (place / marker).exists():
        return place
    if archive and (place / archive).is_file():
        return place / archive
    return place / folder if (place / folder / marker).exists() else None


def tfds_directory(place: pathlib.Path) -> pathlib.Path | None:
    """The prepared version that `place` is, or the newest that it holds."""
    if (place / "dataset_info.json").is_file():
        return place
    versions = {}
    for info in place.glob("*.*.*/dataset_info.json"):
        numbers = info.parent.name.split(".")
        if all(number.isdecimal() for number in numbers):
            versions[tuple(map(int, numbers))] = info.parent
    return versions[max(versions)] if versions else None


def missing_set(title: str, path: pathlib.Path | None, remedy: str) -> DataError:
    where = path or "datasets, ~/tensorflow_datasets or other customary folders"
    return DataError(
        f"{title} was not found in {where}: {remedy}, or set --config.dataset.path= to where it is."
    )


def _idx_file(place: pathlib.Path, name: str) -> pathlib.Path:
    for file in (place / name, place / f"{name}.gz"):
        if file.is_file():
            return file
    raise DataError(f"{place} lacks {name}.gz: put it beside the other three idx files.")


def subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders in a folder, sorted; hidden ones are left out."""
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def images_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """The images in a folder, sorted."""
    if not folder.is_dir():
        raise DataError(f"{folder} is missing: the data set is not whole, unpack it again.")
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in readers.IMAGE_SUFFIXES and not file.name.startswith(".")
    )


def listed(root: pathlib.Path, split: str = "") -> list[tuple[str, str, pathlib.Path]]:
    """(class, path relative to root, path) of all images in `<root>/<split>/<class>/`."""
    return [
        (folder.name, file.relative_to(root).as_posix(), file)
        for folder in subfolders(root / split)
        for file in images_in(folder)
    ]


# ------------------------------------------------------------------------------ building examples


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


Entry = tuple[str, str, bytes | pathlib.Path]
"""Class, path relative to the data set, content or path."""


def in_order(
    split: str, root: pathlib.Path, entries: Sequence[Entry], class_names: Sequence[str]
) -> tuple[list[Entry], np.ndarray]:
    """Entries sorted by class and path, and their labels.

    Raises:
      DataError: there are none, or one is of another class.
    """
    if not entries:
        raise DataError(
            f"The {split} part of {root} holds no images: put them into one folder for each class."
        )
    label_of = {name: label for label, name in enumerate(class_names)}
    for class_name, file, _ in entries:
        if class_name not in label_of:
            raise DataError(
                f"{root / file} belongs to the class {class_name!r}, which is not one of the "
                f"{len(class_names)} classes to train on: add training images of it, or remove it."
            )
    entries = sorted(entries, key=lambda entry: (label_of[entry[0]], entry[1]))
    return entries, np.array([label_of[class_name] for class_name, _, _ in entries], np.int32)


def _decoded(
    split: str,
    root: pathlib.Path,
    entries: Sequence[Entry],
    class_names: Sequence[str],
    image_size: int | None,
) -> Examples:
    """Decodes entries, sorted by class and path."""
    entries, labels = in_order(split, root, entries, class_names)
    images = readers.decode_images(
        [(str(root / file), source) for _, file, source in entries], image_size
    )
    return Examples(images, labels, tuple(file for _, file, _ in entries))


def _with_own_statistics(
    name: str,
    train: Examples,
    test: Examples,
    class_names: tuple[str, ...],
    unlabeled: Examples | None = None,
) -> Dataset:
    """Data set normalised by the mean and deviation of its own training pixels."""
    counts = np.zeros((3, 256))
    for examples in filter(None, (train, unlabeled)):
        for image in examples.images:
            for channel in range(3):
                counts[channel] += np.bincount(image[..., channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    std = np.sqrt(np.maximum(share @ values**2 - mean**2, 0))
    std = np.where(std > 0, std, 1)  # a channel of one value is only centred
    mean, std = tuple(mean.tolist()), tuple(std.tolist())
    return Dataset(name, train, test, class_names, mean, std, unlabeled)


def _hold_out(examples: Examples) -> tuple[Examples, Examples]:
    """(train, test): the same fifth of each class goes to test in every run."""
    generator = host_generator(0, "sources/hold_out")
    is_test = np.zeros(len(examples), bool)
    for label in np.unique(examples.labels):
        members = np.flatnonzero(examples.labels == label)
        count = round(_HELD_OUT * len(members))
        is_test[generator.permutation(members)[:count]] = True
    return examples.take(np.flatnonzero(~is_test)), examples.take(np.flatnonzero(is_test))


def subset(examples, limit: int | None, option: str, seed: int):
    """At most `limit` examples, in memory or not, with one of each class.

    The others are drawn in proportion to the classes or, from multi-label ones, from all alike.

    Args:
      examples: to choose from.
      limit: how many; None for all.
      option: name of the limit, for messages and the random stream.
      seed: fixes the choice.
    """
    if limit is None or limit >= len(examples):
        return examples
    generator = host_generator(seed, f"sources/{option}")
    if examples.is_multilabel:
        return examples.take(np.sort(covering_subset(examples.labels, limit, option, generator)))
    labels, counts = np.unique(examples.labels, return_counts=True)
    if limit < len(labels):
        raise _too_few(option, limit, len(labels))
    shares = (counts - 1) * ((limit - len(labels)) / (len(examples) - len(labels)))
    quotas = 1 + np.floor(shares).astype(np.int64)
    largest_remainders = np.argsort(np.floor(shares) - shares, kind="stable")
    quotas[largest_remainders[: limit - quotas.sum()]] += 1
    kept = [
        generator.permutation(np.flatnonzero(examples.labels == label))[:quota]
        for label, quota in zip(labels, quotas, strict=True)
    ]
    return examples.take(np.sort(np.concatenate(kept)))


def covering_subset(
    targets: np.ndarray, limit: int, option: str, generator: np.random.Generator
) -> np.ndarray:
    """`limit` random ids of rows of `targets` {0, 1} [N, C], every class that occurs among them."""
    order = generator.permutation(len(targets))
    present = np.flatnonzero(targets.any(axis=0))
    of_classes = np.unique(np.argmax(targets[order][:, present], axis=0))
    if limit < len(of_classes):
        raise _too_few(option, limit, len(of_classes))
    others = np.delete(np.arange(len(order)), of_classes)
    return order[np.concatenate([of_classes, others[: limit - len(of_classes)]])]


def _too_few(option: str, limit: int, num_classes: int) -> DataError:
    return DataError(
        f"{option}={limit} is fewer than the {num_classes} classes: keep at least one image of "
        "each."
    )


def _resized(examples: Examples, size: int | None) -> Examples:
    if size is None or examples.images.shape[1:3] == (size, size):
        return examples
    return dataclasses.replace(examples, images=readers.resize_images(examples.images, size))
