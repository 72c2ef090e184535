"""Sets with a folder of images for each class, read into memory or left in their files."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from jaxrobust.data import readers
from jaxrobust.data.dataset import (
    NO_LABEL,
    Dataset,
    Examples,
    FileDataset,
    FileExamples,
    with_own_statistics,
)
from jaxrobust.data.places import listed, subfolders
from jaxrobust.data.subsets import hold_out
from jaxrobust.errors import DataError

Entry = tuple[str, str, bytes | pathlib.Path]
"""Class, path relative to the data set, content or path."""

UNLABELED = "unlabeled"
"""Folder of images without a label, in place of a class."""


def image_folder(path: pathlib.Path | None, image_size: int | None, seed: int) -> Dataset:
    """Class folders, read into memory."""

    build = functools.partial(decoded, image_size=image_size)
    return with_own_statistics("image_folder", *image_folder_parts("image_folder", path, build))


def image_folder_files(path: pathlib.Path | None, name: str = "image_folder") -> FileDataset:
    train, test, class_names, unlabeled = image_folder_parts(name, path, in_files)
    return FileDataset(name, train, test, class_names, unlabeled=unlabeled)


def image_folder_parts(name: str, path: pathlib.Path | None, build: Callable) -> tuple:
    """(train, test, class names, unlabelled or None) of a folder of class folders.

    `build` makes examples, in memory or not, of a part, its folder, (class, path relative to the
    folder, path) triples and the class names.
    """
    if path is None or not path.is_dir():
        raise DataError(
            f"{name} needs a folder that holds a folder of images for each class: set "
            f"--config.dataset.path= to one{'' if path is None else f', {path} is a file'}."
        )
    root = path / "train" if subfolders(path / "train") else path
    classes = [folder.name for folder in subfolders(root) if folder.name != UNLABELED]
    entries = listed(path, root.relative_to(path).as_posix())
    labeled = [entry for entry in entries if entry[0] != UNLABELED]
    train = build("train", path, labeled, classes)
    unlabeled = None
    if len(labeled) < len(entries):
        others = [entry for entry in entries if entry[0] == UNLABELED]
        unlabeled = build("unlabelled", path, others, (UNLABELED,))
        unlabeled = dataclasses.replace(unlabeled, labels=np.full_like(unlabeled.labels, NO_LABEL))
    test_folder = next((f for f in ("test", "val") if (path / f).is_dir()), None)
    if root == path:
        train, test = hold_out(train)
    elif test_folder is not None:
        test = build("test", path, listed(path, test_folder), classes)
    elif unlabeled is not None:
        test = train.take(np.arange(0))
    else:
        raise DataError(
            f"{path} has train/ but no test/: add test/<class>/*, or move the class folders up "
            f"into {path}, and 20 % of each class are held out for testing."
        )
    return train, test, tuple(classes), unlabeled


def test_folder(
    path: pathlib.Path, class_names: Sequence[str], *, image_size: int | None
) -> Examples | FileExamples:
    """A further test set: the images of known classes in `<path>/<class>/`.

    A folder belongs to the class that it is named after, or whose name it is the first word of, as
    `n01440764` of WebVision's `n01440764 tench`. Folders of other classes are left out. Each class
    must have images. `image_size` None leaves them in their files.
    """
    class_of = {name.split()[0]: name for name in class_names} | {n: n for n in class_names}
    entries = [
        (class_of[folder], file, source)
        for folder, file, source in listed(path)
        if folder in class_of
    ]
    if missing := [name for name in class_names if name not in {entry[0] for entry in entries}]:
        raise DataError(
            f"dataset.test2={path} has no images of {len(missing)} of the {len(class_names)} "
            f"classes, such as {missing[0]!r}: add a folder for each, or clear "
            "--config.dataset.test2=."
        )
    if image_size is None:
        return in_files("second test", path, entries, class_names)
    return decoded("second test", path, entries, class_names, image_size)


def in_order(
    split: str, root: pathlib.Path, entries: Sequence[Entry], class_names: Sequence[str]
) -> tuple[list[Entry], np.ndarray]:
    """Entries sorted by class and path, and their labels; refuses none at all, or another class."""
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


def decoded(
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


def in_files(
    split: str, root: pathlib.Path, entries: Sequence[Entry], class_names: Sequence[str]
) -> FileExamples:
    """Examples in files from entries, sorted by class and path."""
    entries, labels = in_order(split, root, entries, class_names)
    names = tuple(name for _, name, _ in entries)
    files = tuple(cast(pathlib.Path, file) for _, _, file in entries)
    return FileExamples(names, files, labels)
