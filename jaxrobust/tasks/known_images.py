"""Ids of images that do not change while images are added, moved and renamed between rounds.

`queries/images.json` lists every image of a person's run in the order of the ids, with its SHA-256,
by which it is found under a new name, and the first round in which it is used. A round that has
begun never changes: new images and classes are used from the next round on.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

import numpy as np

from jaxrobust.data.dataset import ReadableDataset, ReadableExamples
from jaxrobust.data.open_set import OpenSetSplit
from jaxrobust.data.tables import MAX_PROBLEMS, shortened
from jaxrobust.engine.files import write_json
from jaxrobust.errors import UserError
from jaxrobust.methods.strategy import NOT_ANNOTATED


class View(NamedTuple):
    """The images and classes of a round."""

    examples: ReadableExamples  # the N images or features by id
    # K known classes; `targets` are the labels by folder, `NOT_ANNOTATED` in the pool
    split: OpenSetSplit
    class_names: tuple[str, ...]  # of the K classes
    mean: Any  # of the examples, to normalise with
    std: Any  # of the examples


@dataclasses.dataclass
class _Image:
    """One image of the list: its file now, its content, and its first round."""

    file: str
    sha256: str
    round: int
    label: str | None  # by its folder, when it was first seen


class KnownImages:
    """The images of a data set, which has `files`, by ids that do not change.

    `path` is of `images.json`, which may not exist yet; files are relative to `root`. `overridden`:
    mean and std are the recipe's, not those of the images. UserError if an image of the list is
    gone, or holds something else.
    """

    def __init__(
        self,
        path: pathlib.Path,
        dataset: ReadableDataset,
        root: pathlib.Path | None,
        *,
        overridden: bool = False,
    ):
        self._path = path
        self._dataset = dataset
        self._overridden = overridden
        self._found = dataset.examples
        self._hashes = _hashes(self._found, root)
        self.begun = -1
        self._images: list[_Image] = []
        self._classes: dict[str, int] = {}
        if path.exists():
            self._read()
        self._positions = self._matched()
        self.moved = self._rename()
        if self.begun < 0:
            self.begin_round(0, ())

    @property
    def files(self) -> tuple[str, ...]:
        """Of every known image, those of later rounds too."""
        return tuple(image.file for image in self._images)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Every known class, those of later rounds too."""
        return tuple(self._classes)

    def facts(self) -> dict:
        """What the run was started with, the same in every attempt."""
        first = [image for image in self._images if image.round == 0]
        content = "".join(f"{image.sha256}{image.label}" for image in first)
        initial = [i for i, image in enumerate(first) if image.label is not None]
        test = hashlib.sha256()
        for array in self._dataset.test.content():
            test.update(np.ascontiguousarray(array).data)
        return {
            "known_classes": [name for name, round_ in self._classes.items() if round_ == 0],
            "unknown_classes": [],
            "num_train": len(first),
            "num_test_known": int(self.view(0).split.test_known.sum()),
            "initial_ids": initial,
            "initial_ids_sha256": hashlib.sha256(np.array(initial, "<i8").tobytes()).hexdigest(),
            "dataset_sha256": hashlib.sha256(content.encode()).hexdigest(),
            "test_sha256": test.hexdigest(),
        }

    def begin_round(self, round_: int, new_classes: Collection[str]) -> None:
        """Adds new images and classes from a round on, unless a later round has begun.

        `new_classes` are names that a person has given to images, with or without a folder.
        """
        if round_ < self.begun:
            return
        self.begun = round_
        taken = set(self._positions)
        labels = self._folder_labels()
        for i in range(len(self._found)):
            if i not in taken:
                file = cast(tuple, self._found.files)[i]
                self._images.append(_Image(file, self._hashes[i], round_, labels[i]))
                self._positions.append(i)
        for name in (*self._dataset.class_names, *new_classes):
            self._classes.setdefault(name, round_)

    def write(self) -> None:
        """Writes the list."""
        content = {
            "begun": self.begun,
            "classes": self._classes,
            "images": [dataclasses.asdict(image) for image in self._images],
        }
        write_json(self._path, content)

    def view(self, round_: int) -> View:
        """The images and classes of a round."""
        names = tuple(name for name, first in self._classes.items() if first <= round_)
        code = {name: i for i, name in enumerate(names)}
        ids = [i for i, image in enumerate(self._images) if image.round <= round_]
        labels = self._folder_labels()
        positions = np.array(self._positions, np.int64)[ids]
        targets = np.array([code.get(labels[i], NOT_ANNOTATED) for i in positions], np.int32)
        tested = [self._dataset.class_names[label] for label in self._dataset.test.labels]
        examples = self._found.take(positions)
        mean, std = self._dataset.mean, self._dataset.std
        if len(ids) < len(self._found) and not self._overridden:
            mean, std = examples.statistics()
        split = OpenSetSplit(
            known_classes=tuple(range(len(names))),
            targets=targets,
            labeled=targets != NOT_ANNOTATED,
            test_targets=np.array([code.get(name, len(names)) for name in tested], np.int32),
            test_known=np.array([name in code for name in tested], bool),
        )
        return View(examples, split, names, mean, std)

    def changes_at(self, round_: int) -> tuple[int, list[str]]:
        """Number of images, and names of classes, whose first round this is."""
        count = sum(image.round == round_ for image in self._images)
        return count, [name for name, first in self._classes.items() if first == round_]

    def _folder_labels(self) -> list[str | None]:
        """Of all images that were found, by their folders now."""
        names = self._dataset.class_names
        return [names[label] if label >= 0 else None for label in self._found.labels.tolist()]

    def _read(self) -> None:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            self.begun = int(content["begun"])
            self._classes = {str(name): int(first) for name, first in content["classes"].items()}
            self._images = [_Image(**image) for image in content["images"]]
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise UserError(
                f"{self._path} is damaged ({error!r}); restore it, or choose another --workdir."
            ) from None

    def _matched(self) -> list[int]:
        """Positions of the known images in what was found, by name and content, or by content."""
        files = cast(tuple[str, ...], self._found.files)
        place = {file: i for i, file in enumerate(files)}
        positions: list[int | None] = []
        for image in self._images:
            i = place.get(image.file)
            positions.append(i if i is not None and self._hashes[i] == image.sha256 else None)
        taken = set(positions)
        by_content: dict[str, list[int]] = {}
        for i in reversed(range(len(files))):
            if i not in taken:
                by_content.setdefault(self._hashes[i], []).append(i)
        problems = []
        for n, image in enumerate(self._images):
            if positions[n] is None:
                if found := by_content.get(image.sha256):
                    positions[n] = found.pop()
                elif image.file in place:
                    problems.append(f"{image.file} has a different content than before")
                else:
                    problems.append(f"{image.file} is gone")
        if problems:
            shown = shortened(problems, MAX_PROBLEMS)
            raise UserError(
                f"The images differ from those that {self._path.parent.parent} was started with: "
                f"{shown}; put them back under any name, or choose another --workdir."
            )
        return cast(list[int], positions)

    def _rename(self) -> int:
        """Records where images are now; returns how many have moved."""
        files = cast(tuple[str, ...], self._found.files)
        moved = 0
        for image, i in zip(self._images, self._positions, strict=True):
            moved += image.file != files[i]
            image.file = files[i]
        return moved


def _hashes(examples: ReadableExamples, root: pathlib.Path | None) -> Sequence[str]:
    """SHA-256 of each file or, where there is no file, of the array."""
    files = cast(tuple[str, ...], examples.files)

    def hashed(i: int) -> str:
        path = None if root is None else root / files[i]
        if path is not None and path.is_file():
            return hashlib.sha256(path.read_bytes()).hexdigest()
        array = examples.read(np.array([i]))
        return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()

    with ThreadPoolExecutor() as pool:
        return list(pool.map(hashed, range(len(files))))
