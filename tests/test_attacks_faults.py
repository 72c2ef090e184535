"""Faults of the machine: flipped bits, cut files, full disks. A new one is a line of a table."""

import contextlib
import errno
import logging
import os
import pathlib
import shutil

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxrobust.engine.checkpoint import Checkpoints, abstract_like
from jaxrobust.engine.sharding import make_placement
from jaxrobust.errors import UserError

# ------------------------------------------------------------------------------- checkpoints

NUM_FLIPS = 40


@pytest.fixture(scope="module")
def placement():
    return make_placement(jax.devices()[:1])


def _tree(placement, value):
    rng = np.random.default_rng(value)
    return placement.put(
        {"w": rng.normal(size=(64, 9)).astype(np.float32), "n": {"b": rng.integers(0, 9, 5)}}
    )


def _record(value):
    return {"at": [value], "sums": {"loss": 1 / 3 + value}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory, placement):
    """A folder of two checkpoints."""
    folder = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(folder, keep=2)
    for value in (1, 2):
        checkpoints.save(_tree(placement, value), _record(value))
    checkpoints.close()
    return folder


def _copy(saved, folder):
    for path in saved.rglob("*"):
        target = folder / path.relative_to(saved)
        if path.is_dir():
            target.mkdir(parents=True)
        else:
            target.write_bytes(path.read_bytes())


def _flip(path: pathlib.Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def _restored(folder, placement):
    checkpoints = Checkpoints(folder, keep=2)
    try:
        return checkpoints.restore(abstract_like(_tree(placement, 0)))
    finally:
        checkpoints.close()


def _random_flip(folder, seed):
    """Flips a bit of the newest checkpoint, drawn among all of its bits."""
    files = sorted(p for p in (folder / "2").rglob("*") if p.is_file() and p.stat().st_size)
    sizes = np.array([p.stat().st_size for p in files])
    rng = np.random.default_rng(seed)
    # Half of them by size, half by file: the small ones say what the large ones are.
    weights = 0.5 * sizes / sizes.sum() + 0.5 / len(files)
    number = rng.choice(len(files), p=weights)
    _flip(files[number], int(rng.integers(8 * sizes[number])))


@pytest.mark.parametrize("seed", range(NUM_FLIPS))
def test_a_flipped_bit_of_a_checkpoint_changes_nothing_or_is_named(
    seed, saved, tmp_path, placement, caplog
):
    _copy(saved, tmp_path / "run")
    _random_flip(tmp_path / "run", seed)
    with caplog.at_level(logging.WARNING, logger="jaxrobust"):
        tree, record = _restored(tmp_path / "run", placement)
    (value,) = record["at"]
    assert record == _record(value)
    chex.assert_trees_all_equal(tree, _tree(placement, value))
    said = [r.message for r in caplog.records if r.name == "jaxrobust"]
    if value == 1:
        assert len(said) == 1 and f"Checkpoint {tmp_path / 'run' / '2'} is damaged" in said[0]
        assert (tmp_path / "run" / "damaged_2").is_dir()
    else:
        assert not said


# -------------------------------------------------------------------------------- full disk


@pytest.fixture
def full_disk():
    """A context in which no file grows beyond so many bytes, as on a full disk."""
    resource = pytest.importorskip("resource")

    @contextlib.contextmanager
    def limited(size):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


def _no_space(monkeypatch, full_disk):
    usage = shutil.disk_usage("/")._replace(free=70_000 + 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    return contextlib.nullcontext()


def _in_the_array_store(monkeypatch, full_disk):
    def fail(*args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: writing [os_error_code='28'] [x='y']\nand so on")

    monkeypatch.setattr(ocp.CheckpointManager, "wait_until_finished", fail)
    return contextlib.nullcontext()


# How there is no room -> the reason that is told.
NO_ROOM = {
    "file size limit": (lambda monkeypatch, full_disk: full_disk(1000), errno.EFBIG),
    "free space": (_no_space, errno.ENOSPC),
    "in the array store": (_in_the_array_store, errno.ENOSPC),
}


@pytest.mark.parametrize("case", NO_ROOM)
def test_without_room_the_last_checkpoint_is_kept_and_one_sentence_said(
    case, tmp_path, placement, full_disk, monkeypatch, capfd
):
    make, reason = NO_ROOM[case]
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save({"w": placement.put(np.zeros(2000, np.float32))}, _record(1))
    checkpoints._settle()
    with monkeypatch.context() as patch, make(patch, full_disk):
        with pytest.raises(UserError) as caught:
            checkpoints.save({"w": placement.put(np.ones(2000, np.float32))}, _record(2))
        checkpoints.close()
    message = str(caught.value)
    assert (
        f"(the last good one, 1, is kept). {tmp_path}: {os.strerror(reason)}; make room" in message
    )
    assert "\n" not in message and len(message) < 400
    checkpoints = Checkpoints(tmp_path, keep=1)  # there is room again
    abstract = {"w": jax.ShapeDtypeStruct((2000,), np.float32, sharding=placement.replicated)}
    assert checkpoints.restore(abstract)[1] == _record(1)
    checkpoints.save({"w": placement.put(np.ones(2000, np.float32))}, _record(3))
    checkpoints.close()
    assert "Traceback" not in capfd.readouterr().err
