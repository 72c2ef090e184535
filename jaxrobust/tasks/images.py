"""Where a task's images or features are: on the devices, or in files that a stream reads."""

import logging
import pathlib
from typing import cast

import numpy as np

from jaxrobust.data.dataset import Examples, FileExamples, ReadableExamples
from jaxrobust.data.features import FeatureExamples
from jaxrobust.data.readers import decode_images
from jaxrobust.data.streaming import FileStream, packed, read_files
from jaxrobust.data.transforms import Transform, crop_transform, multilabel_transform
from jaxrobust.engine.plan import pad_rows, padded_size
from jaxrobust.engine.sharding import Placement
from jaxrobust.errors import UserError
from jaxrobust.recipes.parse import Recipe
from jaxrobust.recipes.registry import Entry
from jaxrobust.tasks.common import MULTILABEL

log = logging.getLogger("jaxrobust")

_PICTURE_SIZE = 64  # side in pixels of an image on a contact sheet, where there are features of it


class ResidentImages:
    """All images of a split in device memory, and file names if any; rows beyond them are zeros."""

    def __init__(self, examples: Examples, placement: Placement, num_rows: int):
        self._host = examples.images
        self._images = placement.put(pad_rows(examples.images, num_rows))
        self.shape = examples.images.shape[1:]
        self.names = examples.files

    def visit(self, views: tuple[str, ...], name: str, epoch: int = 0):
        """The operand from which a program takes its images."""
        del views, name, epoch
        return self._images

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Some images as they are tested, uint8 `[n, H, W, 3]`."""
        return self._host[ids]


class ResidentFeatures:
    """All features of a split in device memory, as float16; attributes as in `ResidentImages`.

    `shape` is `(D,)`.
    """

    def __init__(self, examples: FeatureExamples, placement: Placement, num_rows: int, folder: str):
        self._examples, self._folder = examples, folder
        self._features = placement.put(pad_rows(examples.read_all(), num_rows))
        self.shape = examples.shape[1:]
        self.names = examples.files

    def visit(self, views: tuple[str, ...], name: str, epoch: int = 0):
        """The operand from which a program takes its features."""
        del views, name, epoch
        return self._features

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Some features, float16 `[n, V, D]`."""
        return self._examples.read(ids)

    def pictures(self, ids: np.ndarray) -> np.ndarray | None:
        """The images of some features, uint8 `[n, 64, 64, 3]`; None where there are none."""
        if not self._folder or self.names is None:
            return None
        folder = pathlib.Path(self._folder).expanduser()
        files = [(self.names[i], folder / self.names[i]) for i in ids]
        if not all(path.is_file() for _, path in files):
            return None
        return decode_images(files, _PICTURE_SIZE)


def rows_on_devices(count: int, method: Entry, *, pads: bool) -> int:
    """Rows of so many examples in programs, which are shared with about as many where `pads`."""
    return padded_size(count) if pads and not method.has_tables else count


class StreamedImages:
    """Images of a split in files; attributes and methods as in `ResidentImages`.

    Views are cropped on the host, "weak" and "strong" ones as the recipe says, "test" ones in the
    middle; all else is done to them on the devices.
    """

    def __init__(self, examples: FileExamples, recipe: Recipe):
        self._recipe = recipe
        self._files = packed(examples.files)
        self._transforms = view_transforms(recipe)
        self._reported: set[int] = set()
        self.shape = (recipe.dataset.image_size, recipe.dataset.image_size, 3)
        self.names = examples.names

    def visit(self, views: tuple[str, ...], name: str, epoch: int = 0) -> FileStream:
        return FileStream(
            self._files,
            tuple(self._transforms[view] for view in views),
            self.shape,
            seed=self._recipe.seed,
            name=name,
            epoch=epoch,
            num_workers=self._recipe.num_workers,
            on_corrupt=self._recipe.dataset.on_corrupt,
            reported=self._reported,
        )

    def read(self, ids: np.ndarray) -> np.ndarray:
        on_corrupt = self._recipe.dataset.on_corrupt
        return read_files(self._files, ids, self._transforms["test"], self.shape, on_corrupt)


def images_of(
    examples: ReadableExamples | FileExamples,
    recipe: Recipe,
    placement: Placement,
    num_rows: int = 0,
) -> ResidentImages | ResidentFeatures | StreamedImages:
    """The images or features of a split, on the devices, in at least `num_rows` rows, or in their
    files."""
    num_rows = max(num_rows, len(examples))
    if isinstance(examples, FeatureExamples):
        return ResidentFeatures(examples, placement, num_rows, recipe.dataset.path)
    if isinstance(examples, FileExamples):
        return StreamedImages(examples, recipe)
    return ResidentImages(cast(Examples, examples), placement, num_rows)


def view_transforms(recipe: Recipe) -> dict[str, Transform]:
    """What is done on the host to streamed images, by the kind of view."""
    augment, size = recipe.augment, recipe.dataset.image_size
    if not size:
        raise UserError(
            "dataset.stream=True needs the side of the images: set --config.dataset.image_size=."
        )
    if augment.crop == MULTILABEL:
        train, test = (multilabel_transform(size, train=train) for train in (True, False))
        return {"weak": train, "strong": train, "test": test}
    if 0 < augment.resize < size:
        raise UserError(
            f"augment.resize={augment.resize} is less than dataset.image_size={size}: crops "
            "would not fit; raise the former, or lower the latter."
        )
    weak = crop_transform(
        size,
        augment.crop,
        shorter_side=0 if augment.crop_from == "original" else augment.resize,
        area=augment.area,
        aspect=augment.aspect,
    )
    strong = weak
    if augment.crop == "random_resized":  # DPC's are all of one size
        strong = crop_transform(size, "random", shorter_side=augment.resize)
    test = crop_transform(size, "center", shorter_side=augment.resize)
    return {"weak": weak, "strong": strong, "test": test}
