"""Images read from their files while the device trains, for sets too large for its memory.

A `FileStream` follows an index plan row by row: grain's worker processes decode, crop and stack the
images of each row, some rows ahead of the device. A worker's random draws for an image depend only
on the seed, the stream's name, the epoch, the row and the image's id, not on the number of workers
or on earlier rows. An iterator therefore has no state to save. A run that resumes at any row, with
any number of workers, sees the same pixels as one that was never stopped.

Memory holds only the list of files and a few rows of images, for a set of any size.
"""

import dataclasses
import functools
import logging
import multiprocessing
import os
import pathlib
import signal
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from absl import flags

from jaxrobust.data.readers import decode_image
from jaxrobust.data.transforms import Transform
from jaxrobust.errors import DataError

log = logging.getLogger("jaxrobust")

ON_CORRUPT = ("stop", "skip")
_PADDING = -1  # as `jaxrobust.engine.plan.PADDING`, which would start JAX in every worker
_ROWS_AHEAD = 2  # of each worker

Ids = np.ndarray | dict[str, np.ndarray]


class PackedPaths(Sequence):
    """Paths as one array of bytes, which takes 10 % of the memory and is fast to send to workers.

    Args:
      paths: paths of the files.
    """

    def __init__(self, paths: Sequence[pathlib.Path]):
        encoded = [os.fsencode(path) for path in paths]
        self._text = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: int) -> pathlib.Path:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return pathlib.Path(os.fsdecode(self._text[self._ends[i] : self._ends[i + 1]].tobytes()))


def packed(files: Sequence[Any]) -> Sequence[Any]:
    """The same files, as `PackedPaths` if all of them are paths."""
    if all(isinstance(file, pathlib.Path) for file in files):
        return PackedPaths(files)
    return files


@dataclasses.dataclass(frozen=True)
class FileStream:
    """Views of the images that a plan visits, made on the host in the plan's order.

    Attributes:
      files: files of all examples; each has `read_bytes()` and can be sent to another process.
      transforms: the transform for each view of an image.
      image_shape: (H, W, 3) of every view.
      seed: seed of the run.
      name: name of the random stream.
      epoch: epoch of the pass, for its random choices.
      num_workers: number of decoding processes; 0 for threads of this process.
      on_corrupt: treatment of a file that cannot be decoded: "stop" raises; "skip" logs it once and
        replaces it by another image of its row, with the id of that image.
      reported: ids of the files that were reported so far.
    """

    files: Sequence[Any]
    transforms: tuple[Transform, ...]
    image_shape: tuple[int, int, int]
    seed: int
    name: str
    epoch: int = 0
    num_workers: int = 0
    on_corrupt: str = "stop"
    reported: set[int] = dataclasses.field(default_factory=set)

    def batches(self, ids: Ids, first: int = 0) -> Iterator[tuple[Ids, Any]]:
        """The batches that the steps of a plan visit.

        Args:
          ids: `[steps, width]`, or a dict of such arrays, negative at padding.
          first: number of the first row; earlier rows are left out.

        Yields:
          For each row, its ids `[width]` and a tuple of views, uint8 `[width, H, W, 3]`, zero at
          padding; both in dicts if `ids` is one.

        Raises:
          DataError: if a file cannot be decoded or, with "skip", no file of a row.
        """
        import grain  # takes a second, which runs on images in memory need not spend

        from jaxrobust.engine.environment import num_cores  # imports JAX, which no worker needs

        source = _Rows(dataclasses.replace(self, reported=set()), ids)
        rows = grain.MapDataset.source(cast(Sequence, source))[first:]  # it asks for no more
        if self.num_workers:
            if not flags.FLAGS.is_parsed():  # in a notebook; grain's workers read theirs
                flags.FLAGS.mark_as_parsed()
            read = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
            options = grain.MultiprocessingOptions(self.num_workers, _ROWS_AHEAD)
            dataset = rows.to_iter_dataset(read).mp_prefetch(options, worker_init_fn=_start_worker)
        else:
            threads = num_cores()
            read = grain.ReadOptions(threads, _ROWS_AHEAD * threads)
            dataset = rows.to_iter_dataset(read)
        iterator = iter(dataset)
        try:
            for row_ids, views, unreadable in iterator:
                for i, message in unreadable.items():
                    if i not in self.reported:
                        self.reported.add(i)
                        log.warning("Skipped: %s", message)
                yield row_ids, views
        finally:
            iterator.close()

    def _row(self, step: int, ids: np.ndarray, name: str) -> tuple[np.ndarray, tuple, dict]:
        """(ids, views, messages by id of what cannot be decoded) of one row."""
        views = tuple(np.zeros((len(ids), *self.image_shape), np.uint8) for _ in self.transforms)
        used, unreadable = ids.copy(), {}
        for slot in np.flatnonzero(ids != _PADDING):
            try:
                made = self._views(step, int(ids[slot]), name)
            except DataError as error:
                if self.on_corrupt == "stop":
                    raise
                unreadable[int(ids[slot])] = str(error)
                used[slot] = _PADDING
                continue
            for view, image in zip(views, made, strict=True):
                view[slot] = image
        if unreadable:
            readable = np.flatnonzero(used != _PADDING)
            if not readable.size:
                first = next(iter(unreadable.values()))
                raise DataError(f"No image of a batch can be decoded; the first error: {first}")
            for slot in np.flatnonzero(used != ids):
                other = readable[np.searchsorted(readable, slot) % readable.size]
                used[slot] = ids[other]
                for view in views:
                    view[slot] = view[other]
        return used, views, unreadable

    def _views(self, step: int, i: int, name: str) -> list[np.ndarray]:
        file = self.files[i]
        image = decode_image(str(file), file)
        stream = zlib.crc32(name.encode())
        generator = np.random.default_rng([self.seed, stream, self.epoch, step, i])
        return [transform(image, generator) for transform in self.transforms]


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The decoded rows of a plan as grain's random-access source."""

    stream: FileStream
    ids: Ids

    def __len__(self) -> int:
        return len(next(iter(self.ids.values())) if isinstance(self.ids, Mapping) else self.ids)

    def __getitem__(self, step: int) -> tuple[Ids, Any, dict[int, str]]:
        if not isinstance(self.ids, Mapping):
            return self.stream._row(step, self.ids[step], self.stream.name)
        rows = {
            name: self.stream._row(step, ids[step], f"{self.stream.name}/{name}")
            for name, ids in self.ids.items()
        }
        ids = {name: row[0] for name, row in rows.items()}
        views = {name: row[1] for name, row in rows.items()}
        return ids, views, functools.reduce(dict.__or__, (row[2] for row in rows.values()))


def views_at(images: Any, rows: Any, num_views: int) -> tuple[Any, ...]:
    """Raw images of a batch, one array for each view.

    Args:
      images: the views that were streamed for this batch, or all images in one array.
      rows: positions `[B]` in the latter.
      num_views: number of views.
    """
    if isinstance(images, tuple):
        return tuple(view[: len(rows)] for view in images)
    return (images[rows],) * num_views


def read_files(
    files: Sequence[Any],
    ids: np.ndarray,
    transform: Transform,
    image_shape: tuple[int, int, int],
    on_corrupt: str,
) -> np.ndarray:
    """Reads some images at once, uint8 `[n, H, W, 3]`; black if "skip" leaves one out.

    Args:
      files: of all examples.
      ids: of those to read.
      transform: one that draws nothing.
      image_shape: (H, W, 3) of what it makes.
      on_corrupt: as in `FileStream`.
    """
    stream = FileStream(files, (transform,), image_shape, seed=0, name="", on_corrupt=on_corrupt)
    images = np.zeros((len(ids), *image_shape), np.uint8)
    for image, i in zip(images, ids, strict=True):
        try:
            (image[:],) = stream._views(0, int(i), "")
        except DataError:
            if on_corrupt == "stop":
                raise
    return images


def _start_worker(index: int, count: int) -> None:
    """Ignores Ctrl-C, which the training process handles, and ends with that process."""
    del index, count
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    trainer = multiprocessing.parent_process()

    def end_with_trainer():
        if trainer is not None:
            trainer.join()
        os._exit(1)

    threading.Thread(target=end_with_trainer, daemon=True).start()
