"""Checkpoints; the only module that uses orbax."""

import contextlib
import errno
import functools
import logging
import os
import pathlib
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxrobust.engine import digests, processes
from jaxrobust.errors import UserError, is_out_of_memory, no_room

log = logging.getLogger("jaxrobust")

_starting = threading.Lock()  # orbax numbers the saves of a process, whichever thread they are of
_LEAST_ROOM = 65_536  # bytes, for what describes the arrays
# What says nothing about the files: too many are open, no memory, no right to read.
_NO_DAMAGE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM)
_ARRAYS = "array_crc32"  # field of the record: checksum by path of every array


class Checkpoints:
    """Numbered snapshots of one pytree and one JSON-able record, written asynchronously.

    A snapshot appears under its number only when it is complete. Its record holds a checksum of
    every array and one of itself, which are compared when it is read; those of earlier versions of
    jaxrobust have none.
    """

    def __init__(self, directory: pathlib.Path, *, keep: int):
        """Opens, or makes, `directory`; the `keep` newest snapshots stay on disk."""
        self.directory = pathlib.Path(directory).absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._is_broken = False
        # What fails is raised too, and reported in one sentence.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
            # Also read what another process wrote.
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "record": ocp.JsonCheckpointHandler(),
            },
        )

    def save(self, tree: Any, record: dict) -> None:
        """Starts writing a snapshot of `tree` and `record` as they are, under the next number.

        Raises:
          UserError: if there is no room for it, or was none for the one before.
        """
        self._settle()
        step = max(self._manager.all_steps(), default=0) + 1
        record = digests.signed({**record, _ARRAYS: digests.of_tree(tree)})
        with _starting, self._written():
            self._check_room(sum(x.nbytes for x in jax.tree.leaves(tree)))
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(tree), record=ocp.args.JsonSave(record)
                ),
            )

    def restore(self, abstract_tree: Any, *, layout: int | None = None) -> tuple[Any, dict] | None:
        """Newest undamaged snapshot as (tree, record), or None where there is none at all.

        Damaged snapshots are set aside under `damaged_<step>` and named in a warning. UserError if
        every one is damaged, one cannot be read for another reason, or one has another `layout`.
        """

        def read(step: int) -> tuple[Any, dict]:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract_tree),
                    record=ocp.args.JsonRestore(),
                ),
            )
            return _checked(restored["state"], restored["record"])

        return self._newest(read, layout)

    def newest_record(self, *, layout: int | None = None) -> dict | None:
        """The record alone of what `restore` would give; arguments and errors as there."""

        def read(step: int) -> dict:
            stored = self._manager.item_metadata(step)["state"]
            abstract_tree = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), stored)
            args = ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract_tree), record=ocp.args.JsonRestore()
            )
            restored = self._manager.restore(step, args=args)
            return _checked(restored["state"], restored["record"])[1]

        return self._newest(read, layout)

    def _newest(self, read: Callable[[int], Any], layout: int | None) -> Any:
        """What `read` makes of the newest undamaged snapshot."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                self._check_layout(step, layout)
                return read(step)
            except UserError:
                raise
            except Exception as error:
                _ignore_abandoned_reads()
                if _os_error(error) in _NO_DAMAGE or is_out_of_memory(error):
                    raise UserError(
                        f"The checkpoint {self.directory / str(step)} cannot be read "
                        f"({_reason(error)}), but is not necessarily damaged; remove the cause "
                        "and rerun the same command to resume."
                    ) from error
                log.warning(
                    "Checkpoint %s is damaged (%s); trying the one before.",
                    self.directory / str(step),
                    _reason(error),
                )
                self._set_aside(step)
        if steps:
            raise UserError(
                f"Every checkpoint in {self.directory} is damaged (set aside as damaged_<step>); "
                "rerun the command to start from scratch, or restore the folder."
            )
        return None

    def close(self) -> None:
        """Waits until the last snapshot is complete; UserError if there was no room for it."""
        if self._is_broken:  # what was begun fails too, and was reported
            with contextlib.suppress(Exception):
                self._manager.close()
            return
        try:
            self._settle()
        finally:
            self._manager.close()

    def _settle(self) -> None:
        with self._written():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """Tells of a full disk and the like as of files that are written otherwise."""
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:  # as the array store puts it
            self._is_broken = True
            names = [path.name for path in self.directory.iterdir()]
            left = max((int(name) for name in names if name.isdecimal()), default=None)
            kept = "there is none yet" if left is None else f"the last good one, {left}, is kept"
            raise UserError(
                f"A checkpoint could not be written ({kept}). "
                f"{no_room(self.directory, _reason(error))}"
            ) from error

    def _check_room(self, num_bytes: int) -> None:
        """Raises OSError where the array store would fail after a while, and in many threads."""
        with tempfile.TemporaryFile(dir=self.directory) as file:
            file.write(bytes(_LEAST_ROOM))
        if shutil.disk_usage(self.directory).free < num_bytes + _LEAST_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _check_layout(self, step: int, layout: int | None) -> None:
        """Raises UserError if a snapshot is of another layout than this program reads."""
        found = self._record(step).get("layout", 1)
        if layout is not None and found != layout:
            raise UserError(
                f"{self.directory} holds checkpoints of layout {found}, from another version of "
                f"jaxrobust, but this one reads layout {layout}: finish the run with the version "
                "that began it, or choose another --workdir."
            )

    def _record(self, step: int) -> dict:
        args = ocp.args.Composite(record=ocp.args.JsonRestore())
        return _verified(self._manager.restore(step, args=args)["record"])

    def _set_aside(self, step: int) -> None:
        if processes.is_main():
            target = self.directory / f"damaged_{step}"
            suffix = 0
            while target.exists():
                suffix += 1
                target = self.directory / f"damaged_{step}_{suffix}"
            (self.directory / str(step)).rename(target)
        self._manager.reload()


def _checked(tree: Any, record: dict) -> tuple[Any, dict]:
    """A snapshot without its checksums; ValueError if something is not as it was written."""
    record = _verified(record)
    digests.check_tree(tree, record.pop(_ARRAYS, {}))
    return tree, record


def _verified(record: dict) -> dict:
    """As `digests.verified`; one that has lost a single checksum is damaged, too."""
    if (_ARRAYS in record) != (digests.CONTENT in record):
        raise ValueError("a checksum is missing")
    return digests.verified(record)


@functools.cache
def _ignore_abandoned_reads() -> None:
    """Where one array cannot be read, orbax leaves the reads of others to the garbage collector."""
    report = sys.unraisablehook

    def of_others(unraisable) -> None:
        code = getattr(unraisable.object, "cr_code", None)
        is_read = code is not None and "orbax" in code.co_filename
        if not is_read and str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    sys.unraisablehook = of_others


def _os_error(error: Exception) -> int | None:
    """The number of what the operating system refused, also in a message of the array store."""
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return getattr(error, "errno", None) or (int(found[1]) if found else None)


def _reason(error: Exception) -> str:
    """What went wrong, in a line: in the operating system's words where it refused something."""
    if number := _os_error(error):
        return os.strerror(number)
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def abstract_like(tree: Any) -> Any:
    """Shapes, dtypes and shardings of a pytree of device arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
