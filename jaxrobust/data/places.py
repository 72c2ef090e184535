"""Locations of data sets on this machine: the folders that are searched, and their files."""

import os
import pathlib

from jaxrobust.data import guards, readers
from jaxrobust.errors import DataError


def find_places(name: str, path: pathlib.Path | None, *installed: str) -> list[pathlib.Path]:
    """Where to look: the path given and nowhere else, or the default data set folders."""
    if path is None:
        prepared = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
        bases = [pathlib.Path(base).expanduser() for base in ("datasets", *installed, prepared)]
    else:
        bases = [path]
    return [place for base in bases for place in (base, base / name)]


def find(place: pathlib.Path, archive: str | None, folder: str, marker: str) -> pathlib.Path | None:
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


def find_tfds(name: str, path: pathlib.Path | None) -> pathlib.Path | None:
    return next(filter(None, map(tfds_directory, find_places(name, path))), None)


def missing_set(title: str, path: pathlib.Path | None, remedy: str) -> DataError:
    """The error for a set that is in none of the folders that were searched."""
    where = path or "datasets, ~/tensorflow_datasets or other default folders"
    return DataError(
        f"{title} was not found in {where}: {remedy}, or set --config.dataset.path= to where it is."
    )


def subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders in a folder, sorted; hidden ones are left out."""
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def images_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """The images in a folder, sorted."""
    if not folder.is_dir():
        raise DataError(f"{folder} is missing: the data set is incomplete, unpack it again.")
    files = sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in readers.IMAGE_SUFFIXES and not file.name.startswith(".")
    )
    for file in files:
        guards.check_regular(file)
    return files


def listed(root: pathlib.Path, split: str = "") -> list[tuple[str, str, pathlib.Path]]:
    """(class, path relative to root, path) of all images in `<root>/<split>/<class>/`."""
    return [
        (folder.name, file.relative_to(root).as_posix(), file)
        for folder in subfolders(root / split)
        for file in images_in(folder)
    ]
