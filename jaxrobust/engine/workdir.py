"""Which run a workdir belongs to: its lock, and the configuration that it was started with."""

import contextlib
import errno
import json
import logging
import os
import pathlib
import platform
from typing import Any

import filelock

from jaxrobust.errors import UserError
from jaxrobust.recipes.fields import is_default
from jaxrobust.recipes.parse import option_classes
from jaxrobust.recipes.run import BaseRecipe

log = logging.getLogger("jaxrobust")

# Settings that change how a run is watched, not what it computes: a restart may alter them.
FREE_ON_RESTART = (
    *("checkpoint", "device", "device_count", "log_every_seconds", "num_workers", "writers"),
    # Nor does it matter where the images are, which are recognised by their content, or what a
    # person decides between two rounds.
    *("dataset.path", "al.finish", "al.links", "al.new_classes"),
)
# What some network file systems and mounted buckets answer.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Fields of a nested configuration by their dotted names."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def read_object(path: pathlib.Path) -> dict:
    """The JSON object in a file."""
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError("it holds no JSON object")
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); restore it, or run again with another --workdir."
        ) from None
    return found


def check_same_config(recipe: BaseRecipe, path: pathlib.Path) -> None:
    """Refuses to resume with `recipe` in a workdir whose `path`, its `config.json`, says otherwise.

    An option that the file lacks, since it did not exist then, counts as having its default.
    """
    before, now = flatten(read_object(path)), flatten(dict(recipe.settings))
    classes = option_classes(recipe.task)
    for name in sorted(before.keys() | now.keys()):
        if name in FREE_ON_RESTART or name.split(".")[0] in FREE_ON_RESTART:
            continue
        if name not in before and is_default(name, now, classes):
            continue  # an option that is newer than the run
        if before.get(name) != now.get(name):
            raise UserError(
                f"{path.parent} belongs to a run with {name}={before.get(name)!r}, but this "
                f"command says {name}={now.get(name)!r}; choose another --workdir, or rerun the "
                "first command to resume."
            )


def lock(workdir: pathlib.Path, recipe: BaseRecipe, stack: contextlib.ExitStack) -> None:
    """Makes the workdir if need be, and locks it for this recipe until `stack` is closed."""
    owner = workdir / ".lock_owner"  # on Windows nobody else may read a locked file
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        stack.enter_context(filelock.FileLock(workdir / ".lock", blocking=False))
    except filelock.Timeout:
        name = owner.read_text().strip() if owner.exists() else ""
        raise UserError(
            f"{workdir} is in use by {name or 'another process'}; wait for it, or choose another "
            "--workdir."
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise UserError(
                f"--workdir={workdir} cannot be written ({error.strerror}); choose another folder."
            ) from None
        log.warning(
            "%s cannot be locked (%s): make sure that no other run writes there.", workdir, error
        )
    owner.write_text(f"process {os.getpid()} on {platform.node()}")
    stack.callback(owner.unlink, missing_ok=True)
    if (workdir / "config.json").exists():
        check_same_config(recipe, workdir / "config.json")


def remove_empty(folders: list[pathlib.Path]) -> None:
    """Removes the folders that a workdir was made with, the innermost first."""
    with contextlib.suppress(OSError):  # never made, or no longer empty
        if folders:
            (folders[0] / ".lock").unlink(missing_ok=True)
        for folder in folders:
            folder.rmdir()
