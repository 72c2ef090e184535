"""The classes that an image shows: one function per file format.

Every format is read as a listing: `{image: the classes of its objects}` in the file's order.
"""

import json
import pathlib
from collections.abc import Iterable, Sequence
from xml.parsers import expat

import numpy as np

from jaxrobust.data import readers, tables
from jaxrobust.errors import DataError, unknown_name

Listing = dict[str, tuple[str, ...]]


def read_lines(path: pathlib.Path) -> list[str]:
    """Lines of a UTF-8 text file without surrounding blanks; empty ones are left out."""
    return [line for line in map(str.strip, _text(path).splitlines()) if line]


def _text(path: pathlib.Path) -> str:
    if not path.is_file():
        raise DataError(f"{path} is missing: the data set is incomplete, unpack it again.")
    try:
        return readers.read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}): save it as such.") from None


def read_voc_objects(path: pathlib.Path) -> tuple[str, ...]:
    """Classes of all objects in an annotation of Pascal VOC (XML), the difficult ones too.

    Refuses a file that declares a document type, which is how XML names other files to be read.
    """
    names, open_tags, text = [], [], []

    def enter(tag, attributes):
        open_tags.append(tag)
        text.clear()

    def leave(tag):
        if open_tags == ["annotation", "object", "name"]:
            names.append("".join(text).strip())
        open_tags.pop()

    def refuse(*_):
        raise DataError(
            f"{path} declares a document type, which an annotation file must not: replace it."
        )

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = enter, leave
    parser.CharacterDataHandler = text.append
    parser.StartDoctypeDeclHandler = refuse
    if not path.is_file():
        raise DataError(f"{path} is missing: the data set is incomplete, unpack it again.")
    try:
        parser.Parse(readers.read_bytes(path), True)
    except expat.ExpatError as error:
        raise DataError(f"{path} is damaged ({error}): unpack the data set again.") from None
    return tuple(names)


def read_coco(path: pathlib.Path, class_names: tuple[str, ...]) -> tuple[Listing, tuple[str, ...]]:
    """The images with at least one object in an annotation file of MS-COCO (JSON), and class names.

    Either the official `instances_*.json`, of which the names are those of the categories, sorted,
    with underscores for blanks, or a list of `{"file_name": ..., "labels": [...]}` with positions
    in `class_names`.
    """
    try:
        content = json.loads(_text(path))
        if isinstance(content, dict):
            names = {c["id"]: c["name"].replace(" ", "_") for c in content["categories"]}
            found = {image["id"]: set() for image in content["images"]}
            for entry in content["annotations"]:
                found[entry["image_id"]].add(names[entry["category_id"]])
            rows = [(image["file_name"], found[image["id"]]) for image in content["images"]]
            class_names = tuple(sorted(names.values()))
        else:
            rows = [(row["file_name"], row["labels"]) for row in content]
            for file, labels in rows:
                if wrong := [x for x in labels if not 0 <= x < len(class_names)]:
                    raise DataError(
                        f"{path}: {file} has the label {wrong[0]}, but labels must lie in 0 to "
                        f"{len(class_names) - 1}."
                    )
            rows = [(file, {class_names[x] for x in labels}) for file, labels in rows]
    except (json.JSONDecodeError, KeyError, TypeError, IndexError) as error:
        raise DataError(
            f"{path} is neither an instances file of COCO nor a list of file_name and labels "
            f"({error!r}): download it again."
        ) from error
    return {file: tuple(sorted(classes)) for file, classes in rows if classes}, class_names


def read_columns(paths: Sequence[pathlib.Path], num_images: int) -> np.ndarray:
    """Targets of NUS-WIDE, uint8 {0, 1} `[N, C]`: a file per class, a line per image."""
    columns = np.zeros((len(paths), num_images), np.uint8)
    for column, path in zip(columns, paths, strict=True):
        values = np.array(_text(path).split())
        if len(values) != num_images:
            raise DataError(
                f"{path} has {len(values)} lines for {num_images} images: download it again."
            )
        if wrong := np.flatnonzero((values != "0") & (values != "1")).tolist():
            raise DataError(
                f"{path}, line {wrong[0] + 1}: a label must be 0 or 1, but is {values[wrong[0]]}."
            )
        column[:] = values == "1"
    return np.ascontiguousarray(columns.T)


def read_csv(path: pathlib.Path) -> list[tuple[str, tuple[str, ...], str]]:
    """Rows of a table of images: their path, their labels and the split they belong to.

    The first line names the columns: `path`, `labels` with semicolons in between (none: the image
    shows no class) and, if there is one, `split`. No image may be named twice.
    """
    note = ", with semicolons between the labels of an image,"
    rows = [cells for _, cells in tables.read_rows(path, required=("path", "labels"), note=note)]
    seen = set()
    for row in rows:
        if row["path"] in seen:
            raise DataError(f"{path} names {row['path']} twice: put all its labels into one row.")
        seen.add(row["path"])
    return [
        (
            row["path"],
            tuple(filter(None, map(str.strip, row["labels"].split(";")))),
            row.get("split", ""),
        )
        for row in rows
    ]


def read_imagenet_solution(path: pathlib.Path) -> dict[str, str]:
    """The class of every validation image of ImageNet, by Kaggle's table of bounding boxes."""
    header, *lines = read_lines(path) or [""]
    if header != "ImageId,PredictionString":
        raise DataError(
            f"{path} must start with the line ImageId,PredictionString, but does with {header!r}: "
            "download it again."
        )
    class_of = {}
    for number, line in enumerate(lines, start=2):
        image, _, boxes = line.partition(",")
        if not image or not boxes.split():  # each box: its class and four numbers
            raise DataError(f"{path}, line {number}: not an image and its class: {line!r}.")
        class_of[image] = boxes.split()[0]
    return class_of


def to_targets(
    listing: Iterable[tuple[str, Sequence[str]]], class_names: Sequence[str], source: pathlib.Path
) -> np.ndarray:
    """Targets uint8 {0, 1} `[N, C]` of (image, classes) pairs; refuses other classes."""
    listing = list(listing)
    label_of = {name: label for label, name in enumerate(class_names)}
    targets = np.zeros((len(listing), len(class_names)), np.uint8)
    for row, (file, classes) in zip(targets, listing, strict=True):
        for name in classes:
            if name not in label_of:
                raise DataError(f"{source}, {file}: {unknown_name('label', name, class_names)}")
            row[label_of[name]] = 1
    return targets
