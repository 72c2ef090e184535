"""The registry of data sets, and the two functions that open a set by name."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from jaxrobust.data import class_folders, file_sets, image_sets, readers
from jaxrobust.data.dataset import Dataset, Examples, FileDataset, check_has_test
from jaxrobust.data.features import FEATURES
from jaxrobust.data.subsets import subset
from jaxrobust.errors import DataError, unknown_name


class Source(NamedTuple):
    """How a data set is read.

    Attributes:
      description: one line for lists of data sets.
      read: `(path, image_size, seed) -> Dataset`, which reads the set into memory.
      find: `path -> FileDataset`, which leaves the images in their files.
      side: side of its images in pixels; 0 if sizes vary.

    A set of images has at least one of `read` and `find`; features have neither and use
    `load_features`.
    """

    description: str
    read: Callable[[pathlib.Path | None, int | None, int], Dataset] | None = None
    find: Callable[[pathlib.Path | None], FileDataset] | None = None
    side: int = 0


SOURCES: dict[str, Source] = {
    "digits": Source(
        "1,797 scanned digits of 8 x 8 pixels that come with scikit-learn",
        read=image_sets.digits,
        side=8,
    ),
    "digit_canvases": Source(
        "multi-label canvases composed of these digits", read=image_sets.digit_canvases, side=24
    ),
    "fashion_mnist": Source(
        "Fashion-MNIST: 70,000 grey articles of clothing, 10 classes",
        read=image_sets.fashion_mnist,
        side=28,
    ),
    "cifar10": Source(
        "CIFAR-10: 60,000 photographs of 32 x 32 pixels, 10 classes",
        read=image_sets.cifar10,
        side=32,
    ),
    "cifar100": Source(
        "CIFAR-100: 60,000 photographs of 32 x 32 pixels, 100 classes",
        read=image_sets.cifar100,
        side=32,
    ),
    "tiny_imagenet": Source(
        "Tiny-ImageNet: 110,000 photographs of 64 x 64 pixels, 200 classes",
        read=image_sets.tiny_imagenet,
        side=64,
    ),
    "image_folder": Source(
        "your own images, in one folder for each class",
        read=class_folders.image_folder,
        find=class_folders.image_folder_files,
    ),
    FEATURES: Source("your own embeddings, from jaxrobust.embed or any .npy or .npz file"),
    "coco2014": Source("MS-COCO 2014: photographs with up to 80 labels", find=file_sets.coco2014),
    "imagenet": Source("ImageNet: photographs of 1,000 classes", find=file_sets.imagenet),
    "mini_webvision": Source(
        "the first 50 classes of WebVision 1.0, labelled by web search",
        find=file_sets.mini_webvision,
    ),
    "multilabel_folder": Source(
        "your own images, with a table of the labels of each", find=file_sets.multilabel_folder
    ),
    "nus_wide": Source("NUS-WIDE: photographs with up to 81 labels", find=file_sets.nus_wide),
    "voc2007": Source("Pascal VOC 2007: photographs with up to 20 labels", find=file_sets.voc2007),
}
"""Every data set by its name, the value of `--config.dataset.name`."""


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
    | `digit_canvases` | empty: multi-label canvases composed of these digits |
    | `fashion_mnist` | folder with the four idx files, gzipped or not |
    | `cifar10` | official python or binary archive, or `cifar10_jpeg.tar.xz`, or their folders |
    | `cifar100` | official python or binary archive, or their folders |
    | `tiny_imagenet` | the folder `tiny-imagenet-200` |
    | `image_folder` | folder with `train/<class>/*` and `test/<class>/*` (or `val`), or only \
`<class>/*` |
    | any other set of `list_dataset` | as there; `image_size` must be given, and images are \
squeezed to squares |

    Next to the class folders of an `image_folder` (in `train/`, if it has one), a folder
    `unlabeled` may hold unlabelled images for a person to annotate; `test/` is then optional.

    `path` may also be the parent folder of the above and, for `fashion_mnist` and the CIFARs, a
    TensorFlow Datasets folder. Without a path, `datasets/` below the working directory and the
    default data set folders are searched; nothing is ever downloaded.

    `digits`, and a folder without a test part, hold out 20 % of each class for testing: always the
    same images for any seed. `digit_canvases` lays one to five digits on each of 1,000 training and
    1,000 test canvases, 24 x 24: no digit occurs in both parts, and the seed changes only the
    training canvases. Grey images are repeated to three channels.

    Order of the examples: that of the archive for archives and for TensorFlow Datasets that kept it
    (`id`), otherwise by class and file name. See `archive_order`.

    Args:
      name: one of the above.
      path: where the data is.
      image_size: side in pixels to resize images to (centre crop to a square, bilinear).
      max_train: maximum number of labelled training images to keep, with the class shares of the
        whole set; in a multi-label set any images, including every class.
      max_test: the same for the test images.
      seed: fixes which images `max_train` and `max_test` keep, and the training canvases.

    Returns:
      A `Dataset`.

    Raises:
      DataError: the set is unknown, missing, damaged or inconsistent.
    """
    source = _source(name)
    if image_size is not None and image_size < 1:
        raise DataError(f"image_size must be 1 or more pixels, but is {image_size}.")
    if name == FEATURES:
        raise DataError("features are not images: open them with jaxrobust.data.load_features.")
    if source.read is None:
        if image_size is None:
            raise DataError(f"{name} has images of many sizes: set --config.dataset.image_size=.")
        found = list_dataset(name, path=path, max_train=max_train, max_test=max_test, seed=seed)
        return found.decode(image_size)
    dataset = source.read(_existing(path), image_size, seed)
    if dataset.unlabeled is None:
        check_has_test(dataset)
    train = subset(dataset.train, max_train, "max_train", seed)
    test = subset(dataset.test, max_test, "max_test", seed)
    return dataclasses.replace(
        dataset, train=_resized(train, image_size), test=_resized(test, image_size)
    )


def list_dataset(
    name: str,
    *,
    path: str | os.PathLike | None = None,
    max_train: int | None = None,
    max_test: int | None = None,
    seed: int = 0,
) -> FileDataset:
    """Finds the images and labels of a set of files; no image is opened.

    | name | what `path` may be |
    |---|---|
    | `coco2014` | folder with `train2014/`, `val2014/` and `annotations/instances_*2014.json` or \
the lists `train_anno.json`, `val_anno.json`; TensorFlow Datasets `coco/2014` |
    | `voc2007` | `VOCdevkit/VOC2007`, or `VOCtrainval2007/` and `VOCtest2007/` with one each; \
TensorFlow Datasets `voc/2007` |
    | `nus_wide` | folder with `Flickr/`, `ImageList/`, `TrainTestLabels/`, `Concepts81.txt` |
    | `multilabel_folder` | folder with `labels.csv`, or `train.csv` and `test.csv` |
    | `image_folder` | as for `load_dataset`, with the same images in the same order |
    | `imagenet` | folder with `train/<wnid>/*` and `val/<wnid>/*`, or all images in `val/` and \
`LOC_val_solution.csv`; Kaggle's `ILSVRC/` |
    | `mini_webvision` | WebVision 1.0: folder with `info/train_filelist_google.txt`, \
`info/val_filelist.txt`, `google/` and `val_images_256/`; or `train/<class>/*` and `val/<class>/*` |

    An image of VOC has a class if any of its objects does, including difficult ones. Images of COCO
    without any object are left out; those of the other sets are kept.

    The tables of a `multilabel_folder` have the columns `path`, relative to the folder, and
    `labels`, separated by semicolons; `labels.csv` may have a column `split` with train or test.
    Without it, the same 20 % are held out for testing in every run. Classes are the lines of
    `classes.txt` or, without it, the labels of the training images, sorted. Images of the last
    three sets of the table have one label each.

    `path` may also be the parent folder of the above; without it, `datasets/` below the working
    directory and the folder of TensorFlow Datasets are searched.

    Args:
      name: one of the above.
      path: where the data is.
      max_train: maximum number of training images to keep, any images, including every class.
      max_test: the same for the test images.
      seed: fixes which images `max_train` and `max_test` keep.

    Returns:
      A `FileDataset`.

    Raises:
      DataError: the set is unknown, missing, damaged or inconsistent.
    """
    if (find := _source(name).find) is None:
        of_files = [other for other, source in SOURCES.items() if source.find]
        raise DataError(
            f"dataset.stream=True is for sets of image files, which {name!r} is not: set "
            "--config.dataset.stream=False. " + unknown_name("set", name, of_files)
        )
    dataset = find(_existing(path))
    check_has_test(dataset)
    return dataclasses.replace(
        dataset,
        train=subset(dataset.train, max_train, "max_train", seed),
        test=subset(dataset.test, max_test, "max_test", seed),
    )


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise DataError(unknown_name("dataset", name, SOURCES))
    return SOURCES[name]


def _existing(path: str | os.PathLike | None) -> pathlib.Path | None:
    path = None if path is None else pathlib.Path(path).expanduser()
    if path is not None and not path.exists():
        raise DataError(f"There is no {path}: correct --config.dataset.path=.")
    return path


def _resized(examples: Examples, size: int | None) -> Examples:
    if size is None or examples.images.shape[1:3] == (size, size):
        return examples
    return dataclasses.replace(examples, images=readers.resize_images(examples.images, size))
