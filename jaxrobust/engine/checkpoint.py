"""Checkpoints; the only module that uses orbax."""

import copy
import json
import logging
import pathlib
import threading
import zlib
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxrobust.engine import processes
from jaxrobust.errors import UserError

log = logging.getLogger("jaxrobust")

_starting = threading.Lock()  # orbax numbers the saves of a process, whichever thread they are of


def _inventory(directory: pathlib.Path) -> dict[str, list[int]]:
    """Size and CRC-32 of every file below `directory`."""
    return {
        str(path.relative_to(directory)): [len(data := path.read_bytes()), zlib.crc32(data)]
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


class Checkpoints:
    """Numbered snapshots of one pytree and one JSON-able record, written asynchronously.

    A snapshot appears under its number only when it is complete. Once it is, the sizes and
    checksums of its files are stored with it, so later damage is seen before anything is read.

    Attributes:
      directory: where the snapshots lie.
    """

    def __init__(self, directory: pathlib.Path, *, keep: int):
        """Opens, or makes, `directory`; the `keep` newest snapshots stay on disk."""
        self.directory = pathlib.Path(directory).absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        logging.getLogger("absl").setLevel(logging.WARNING)
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
        )

    def save(self, tree: Any, record: dict) -> None:
        """Starts writing a snapshot of `tree` and `record` as they are, under the next number."""
        self._settle()
        step = max(self._manager.all_steps(), default=0) + 1
        record = copy.deepcopy(record)  # written in the background, while the run goes on with it
        with _starting:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(tree), record=ocp.args.JsonSave(record)
                ),
            )

    def restore(self, abstract_tree: Any, *, layout: int | None = None) -> tuple[Any, dict] | None:
        """Newest undamaged snapshot as (tree, record), or None where there is none at all.

        Damaged snapshots are set aside under `damaged_<step>` and named in a warning.

        Args:
          abstract_tree: pytree of `jax.ShapeDtypeStruct` with shardings.
          layout: `layout` of the records that this program can read.

        Raises:
          UserError: if there are snapshots and every one of them is damaged, or one is of another
            layout.
        """

        def read(step: int) -> tuple[Any, dict]:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract_tree),
                    record=ocp.args.JsonRestore(),
                ),
            )
            return restored["state"], restored["record"]

        return self._newest(read, layout)

    def newest_record(self, *, layout: int | None = None) -> dict | None:
        """The record alone of what `restore` would give; arguments and errors as there."""
        return self._newest(self._record, layout)

    def _newest(self, read: Callable[[int], Any], layout: int | None) -> Any:
        """What `read` makes of the newest undamaged snapshot."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                self._verify(step)
                self._check_layout(step, layout)
                return read(step)
            except UserError:
                raise
            except Exception as error:
                reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                log.warning(
                    "Checkpoint %s is damaged (%s); trying the one before.",
                    self.directory / str(step),
                    reason,
                )
                self._set_aside(step)
        if steps:
            raise UserError(
                f"Every checkpoint in {self.directory} is damaged (set aside as damaged_<step>); "
                "rerun the command to start from scratch, or restore the folder."
            )
        return None

    def close(self) -> None:
        """Waits until the last snapshot is complete."""
        self._settle()
        self._manager.close()

    def _settle(self) -> None:
        self._manager.wait_until_finished()
        step = self._manager.latest_step()
        if step is None or not processes.is_main():
            return
        for note in self.directory.glob("*.files.json"):
            if not (self.directory / note.name.split(".")[0]).exists():
                note.unlink()
        note = self._note(step)
        if not note.exists():
            note.write_text(json.dumps(_inventory(self.directory / str(step))))

    def _note(self, step: int) -> pathlib.Path:
        return self.directory / f"{step}.files.json"

    def _verify(self, step: int) -> None:
        """Raises ValueError if a file of the snapshot is not as it was written."""
        note = self._note(step)
        if not note.exists():
            return
        expected = json.loads(note.read_text())
        found = _inventory(self.directory / str(step))
        for name, signature in expected.items():
            if name not in found:
                raise ValueError(f"file {name} is missing")
            if found[name] != signature:
                raise ValueError(f"file {name} has changed")

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
        return self._manager.restore(step, args=args)["record"]

    def _set_aside(self, step: int) -> None:
        if processes.is_main():
            target = self.directory / f"damaged_{step}"
            suffix = 0
            while target.exists():
                suffix += 1
                target = self.directory / f"damaged_{step}_{suffix}"
            (self.directory / str(step)).rename(target)
            self._note(step).unlink(missing_ok=True)
        self._manager.reload()


def abstract_like(tree: Any) -> Any:
    """Shapes, dtypes and shardings of a pytree of device arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
