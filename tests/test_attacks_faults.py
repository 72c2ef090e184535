"""Faults of the machine: flipped bits, cut files, full disks. A new one is a line of a table."""

import asyncio
import contextlib
import errno
import functools
import json
import logging
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import jaxrobust
from jaxrobust.commands import cli, find_label_issues
from jaxrobust.engine import digests, environment, files
from jaxrobust.engine.checkpoint import Checkpoints, abstract_like
from jaxrobust.engine.sharding import make_placement
from jaxrobust.errors import UserError
from jaxrobust.models import embedding

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


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"),
        ValueError("UNAVAILABLE: opening [os_error_code='24']"),
        MemoryError("Unable to allocate 3 GiB"),
        RuntimeError("RESOURCE_EXHAUSTED: out of memory on the device"),
    ],
)
def test_what_is_no_damage_sets_no_checkpoint_aside(error, saved, tmp_path, placement, monkeypatch):
    _copy(saved, tmp_path)

    def fail(*arguments, **options):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "restore", fail)
        with pytest.raises(UserError, match=r"cannot be read .* rerun the same command to resume"):
            _restored(tmp_path, placement)
    assert _restored(tmp_path, placement)[1] == _record(2)


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


# ------------------------------------------------------------------------ files kept for long


def test_a_flipped_bit_of_the_features_that_embed_keeps_is_computed_again(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(embedding, "_CHUNK", 2)
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 3), np.uint8)
    found = embedding._images(images)

    def run():
        with ThreadPoolExecutor() as pool:
            array, _ = embedding._run(found, _colours, 1, 4, 2, False, "stop", pool, tmp_path)
        return np.array(array)

    expected = run()
    for part in range(4):  # of two images each; the first bytes are the header
        path = tmp_path / "features.npy"
        _flip(path, 8 * (path.stat().st_size - (7 - 2 * part) * expected[0].nbytes) + 5)
        with caplog.at_level(logging.WARNING, logger="jaxrobust"):
            np.testing.assert_array_equal(run(), expected)
        assert f"Images {2 * part} to" in caplog.records.pop().message
        np.testing.assert_array_equal(run(), expected)
        assert not caplog.records


def _colours(images):
    return np.asarray(images, np.float32).mean((1, 2)) / 255


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_of_a_file_of_features_is_told(seed, tmp_path):
    array = np.random.default_rng(0).normal(size=(8, 1, 3)).astype(np.float16)
    path = tmp_path / "features.npz"
    embedding.Features(array, files=tuple("abcdefgh")).save(path)
    start = path.read_bytes().index(array.tobytes())
    _flip(path, 8 * start + int(np.random.default_rng(seed).integers(8 * array.nbytes)))
    with pytest.raises(UserError, match=r"features\.npy( has changed since it was written|')"):
        embedding.Features.load(path)


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_of_a_record_is_told_or_changes_nothing(seed, tmp_path):
    """`model.json`, `classifier.json` and a checkpoint's record."""
    facts = {"arch": "resnet8", "num_classes": 3, "mean": [0.5, 0.25], "names": ["a", "é"]}
    files.write_json(tmp_path / "model.json", digests.signed(facts))
    _flip(
        tmp_path / "model.json",
        int(np.random.default_rng(seed).integers(8 * (tmp_path / "model.json").stat().st_size)),
    )
    try:
        found = digests.verified(json.loads((tmp_path / "model.json").read_text()))
    except ValueError:
        return
    assert {name: found[name] for name in facts} == facts


# ------------------------------------------------------------------------------ surroundings

# What a shell does with `jaxrobust` -> exit codes that are right, words of the answer.
SHELLS = {
    "closed output": ("{} list methods >&-", (0,), ""),
    "closed output and error": ("{} list methods >&- 2>&-", (0,), ""),
    "a reader that leaves": ("{} list methods | head -c 1 >/dev/null", (0,), ""),
    "a full disk for output": ("{} list methods >/dev/full", (0, 2), ""),
    "a full disk for help": ("{} --help >/dev/full", (0, 2), ""),
    "no language": ("LC_ALL=C {} list methods", (0,), ""),
    "no home": ("env -u HOME {} list methods", (0,), ""),
    "few files": ("ulimit -n 32; {} list methods", (0,), ""),
    "too few files": ("ulimit -n 20; {} report x", (2,), "may have 20 open files"),
    "little memory": ("ulimit -v 900000; {} report x", (2,), "921,600,000 bytes of addresses"),
    "little data": ("ulimit -d 100000; {} query x y --budget=1", (2,), "(ulimit -d)"),
    "little memory for a run": (
        "ulimit -v 900000; {} run --config=dpc:digits --workdir=/nowhere/run",
        (2,),
        "raise the limit (ulimit -v)",
    ),
    "little memory for a call": (
        "ulimit -v 900000; {{0}} -c 'import jaxrobust; jaxrobust.query'",
        (1,),
        "UserError: This process may have 921,600,000 bytes of addresses",
    ),
}


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs Linux")
@pytest.mark.parametrize("shell", SHELLS)
def test_the_command_bears_its_surroundings(shell):
    line, codes, words = SHELLS[shell]
    python = shlex.quote(sys.executable)
    done = subprocess.run(
        ["sh", "-c", line.format(f"{python} -m jaxrobust").format(python)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode in codes, done.stderr
    assert words in done.stderr and "Exception ignored" not in done.stderr
    assert "Traceback" not in done.stderr or shell == "little memory for a call"


def test_a_command_that_is_stopped_says_so_in_a_line(capsys, monkeypatch):
    def stop(arguments):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "report", stop)
    assert cli.main(["report", "x"]) == 130
    assert capsys.readouterr().err == "jaxrobust: stopped.\n"


@pytest.mark.parametrize("home", ["a file", "missing"])
def test_without_a_home_nothing_is_kept_and_that_is_said(home, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file" if home == "a file" else "/proc/none"))
    assert files.user_cache("features") is None
    assert "Nothing can be kept in ~/.cache/jaxrobust" in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_fork_after_jax_has_started_is_told(monkeypatch):
    environment._refuse_fork()
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as in a child
    with pytest.raises(UserError, match="was forked from a process in which JAX had started"):
        jaxrobust.find_label_issues(
            [0, 1] * 6, features=np.random.default_rng(0).normal(size=(12, 2)), method="dpc"
        )


def test_a_running_event_loop_is_no_obstacle(tmp_path, placement):
    """As in a notebook."""

    async def save_and_restore():
        checkpoints = Checkpoints(tmp_path, keep=1)
        checkpoints.save(_tree(placement, 1), _record(1))
        checkpoints.close()
        return _restored(tmp_path, placement)

    tree, record = asyncio.run(save_and_restore())
    assert record == _record(1)
    chex.assert_trees_all_equal(tree, _tree(placement, 1))


def test_a_lack_of_memory_is_a_sentence(tmp_path, capsys, monkeypatch):
    def huge(*arguments, **options):
        return np.empty((10**7, 10**9))

    np.save(tmp_path / "labels.npy", np.arange(6) % 2)
    monkeypatch.setattr(find_label_issues, "find_label_issues", huge)
    arguments = [f"--pred-probs={tmp_path / 'labels.npy'}", f"--out={tmp_path / 'out.csv'}"]
    assert cli.main(["find-label-issues", str(tmp_path / "labels.npy"), *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("jaxrobust: There is not enough memory (Unable to allocate")
    assert len(said.splitlines()) == 1


@pytest.mark.slow
def test_two_threads_in_one_workdir_end_with_one_result(tmp_path):
    """The second waits for the first, and finds it done; the level of what is logged stays."""
    level = logging.getLogger("jaxrobust").level
    features = np.random.default_rng(0).normal(size=(24, 3))
    call = functools.partial(
        jaxrobust.find_label_issues,
        np.arange(24) % 2,
        features=features,
        config={"num_epochs": 2, "dpc.warm_up": 1},
        workdir=tmp_path,
    )
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda _: call(), range(2)))
    np.testing.assert_array_equal(found[0].pred_probs, found[1].pred_probs)
    assert logging.getLogger("jaxrobust").level == level
