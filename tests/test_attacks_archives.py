"""Archives and files of arrays that lie, are damaged, or hold more than any memory.

A new archive is a line of `ARCHIVES`, a new reader one of `READERS`: each reader is given all of
them and answers in one sentence, before anything large is allocated.
"""

import bz2
import gzip
import io
import lzma
import os
import pathlib
import resource
import struct
import sys
import tarfile
import zipfile

import numpy as np
import pytest

from jaxrobust.commands import cli
from jaxrobust.data import array_files, features, guards, noise, readers
from jaxrobust.data.label_noise import _read_transition
from jaxrobust.errors import UserError
from jaxrobust.models import torch_files

MEMORY = 40_000_000  # bytes that the machine of these tests is said to have


def _npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def _header(shape, dtype="<f4", body=b"", major=1):
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    length = struct.pack("<H" if major == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([major, 0]) + length + text.encode() + body


GOOD = _npy(np.arange(12, dtype=np.float32).reshape(6, 2))


def _zip(content=GOOD, name="features.npy", compression=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def _zip_of_two():
    file = io.BytesIO(_zip())
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("features.npy", GOOD)
    return file.getvalue()


def _patched(content, *changes):
    """A zip of one member, with fields of both of its headers overwritten.

    Args:
      content: of the zip.
      *changes: (offset in the central header, offset in the local header, bytes).
    """
    content = bytearray(content)
    central = content.index(b"PK\x01\x02")
    for in_central, in_local, field in changes:
        for start in (central + in_central, in_local):
            content[start : start + len(field)] = field
    return bytes(content)


def _data_damaged(compression):
    content = bytearray(
        _zip(_npy(np.random.default_rng(0).normal(size=500)), compression=compression)
    )
    start = 30 + len("features.npy") + (len(content) - 200) // 2  # not of the array's header
    content[start : start + 40] = bytes(b ^ 0x5A for b in content[start : start + 40])
    return bytes(content)


def _tar_header(size):
    member = tarfile.TarInfo("data_batch_1")
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT) + bytes(2048)


# Name -> (suffix, content).
ARCHIVES = {
    "encrypted": (".npz", _patched(_zip(), (8, 6, b"\x01\x00"))),
    "unknown compression": (".npz", _patched(_zip(), (10, 8, b"\x63\x00"))),
    "damaged deflate": (".npz", _data_damaged(zipfile.ZIP_DEFLATED)),
    "damaged bzip2": (".npz", _data_damaged(zipfile.ZIP_BZIP2)),
    "damaged lzma": (".npz", _data_damaged(zipfile.ZIP_LZMA)),
    "damaged stored": (".npz", _data_damaged(zipfile.ZIP_STORED)),
    "cut short": (".npz", _zip()[:-30]),
    "not a zip": (".npz", b"PK\x03\x04 but no more"),
    "no archive": (".npz", b"<html>404</html>"),
    "empty": (".npz", b""),
    "6 GB in a header": (".npz", _zip(_header((1_500_000_000,)))),
    "29 TB in a header": (".npz", _zip(_header((10**9, 7300)))),
    "2 ** 70 in a header": (".npz", _zip(_header((2**35, 2**35)))),
    "negative shape": (".npz", _zip(_header((-1, 4), body=bytes(16)))),
    "size of a member that lies": (".npz", _patched(_zip(), (24, 22, b"\xf0\xff\xff\xff"))),
    "two of one name": (".npz", _zip_of_two()),
    "items without a type": (".npz", _zip(_header((4,), "|V8", bytes(32)))),
    "a header of brackets": (".npz", _zip(_header("(" * 3000 + ")" * 3000))),
    "bomb": (".npz", _zip(_header((60_000_000,), "|u1", bytes(60_000_000)))),
    "Python objects": (".npz", _zip(_npy(np.array([{}], object)))),
    "code for a header": (".npz", _zip(_header("__import__('os').abort()"))),
    "no array": (".npz", _zip(b"text", "features.txt")),
    "records": (".npz", _zip(_header((1,), [("a", "<f4")], bytes(4), major=3))),
    "array of 6 GB": (".npy", _header((1_500_000_000,))),
    "array of 29 TB": (".npy", _header((10**9, 7300))),
    "array cut short": (".npy", GOOD[:-4]),
    "array of objects": (".npy", _npy(np.array([{}], object))),
    "header cut short": (".npy", GOOD[:40]),
    "gzip bomb": (".gz", gzip.compress(bytes(50_000_000), 1)),
    "gzip cut short": (".gz", gzip.compress(bytes(1000), mtime=0)[:-9]),
    "gzip damaged": (".gz", b"\x1f\x8b\x08\x00" + bytes(6) + b"\xff" * 40),
    "tar of 29 TB": (".tar", _tar_header(29 * 10**12)),
    "tar of a negative size": (".tar", _tar_header(-5)),
    "tar.bz2 damaged": (".tar", bz2.compress(_tar_header(10))[:-8]),
    "tar.xz damaged": (".tar", lzma.compress(_tar_header(10))[:-8]),
}

# Name -> function of a path; each refuses what is not its own, too.
READERS = {
    "arrays": array_files.open_arrays,
    "names of arrays": lambda path: array_files.names_in(path) and array_files.open_arrays(path),
    "arrays in memory": lambda path: array_files.decoded(path.read_bytes()),
    "features": features.load_features,
    "idx": readers.read_idx,
    "cifar": lambda path: readers.read_cifar_python(path, False),
    "cifar-n": lambda path: noise.read_cifarn_labels(path, "aggre"),
    "transition matrix": lambda path: _read_transition(str(path), 6),
    "weights": torch_files.read_checkpoint,
}


@pytest.fixture(autouse=True)
def small_machine(monkeypatch):
    monkeypatch.setattr(guards, "_memory", lambda: MEMORY)


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archives")
    for name, (suffix, content) in ARCHIVES.items():
        (folder / f"{name}{suffix}").write_bytes(content)
    return folder


@pytest.mark.parametrize("archive", ARCHIVES)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_every_archive_in_one_sentence(reader, archive, archives):
    path = archives / f"{archive}{ARCHIVES[archive][0]}"
    with pytest.raises(
        (UserError, ValueError) if reader == "arrays in memory" else UserError
    ) as caught:
        READERS[reader](path)
    message = str(caught.value)
    assert "\n" not in message and 10 < len(message) < 700, message


# What is said of some of them, since it is what helps.
SAID = {
    "encrypted": "is encrypted",
    "unknown compression": "is compressed by method 99, which is unknown",
    "29 TB in a header": "takes 29,200,000,000,000",
    "array of 6 GB": "takes 6,000,000,000",
    "damaged stored": "features.npy has changed since it was written",
    "bomb": "0.1 GiB, but this machine has",
}


@pytest.mark.parametrize("archive", SAID)
def test_the_sentence_names_what_is_wrong(archive, archives):
    with pytest.raises(UserError, match=SAID[archive]):
        array_files.open_arrays(archives / f"{archive}{ARCHIVES[archive][0]}")


COMMANDS = {
    "find-label-issues": lambda path, out: [path, f"--out={out}"],
    "query": lambda path, out: [path, path, "--budget=2", f"--out={out}"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_answers_every_archive_in_one_line(command, archives, tmp_path, capsys):
    for path in sorted(archives.iterdir()):
        arguments = COMMANDS[command](str(path), str(tmp_path / "out.csv"))
        assert cli.main([command, *arguments]) == 2, path
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("jaxrobust: ") and path.name in line
    assert not list(tmp_path.iterdir())


def test_names_of_arrays_are_shown_in_one_short_line(tmp_path, capsys):
    path = tmp_path / "a.npz"
    path.write_bytes(_zip(name="fea\ntures\x1b[31m" + "x" * 5000 + ".npy"))
    assert cli.main(["find-label-issues", str(path), f"--out={tmp_path / 'out.csv'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "fea\\ntures\\u001b" in line and len(line) < 400


def test_a_label_of_thirty_digits_is_named_by_its_line(tmp_path, capsys):
    np.save(tmp_path / "features.npy", np.zeros((3, 2), np.float32))
    labels = tmp_path / "labels.csv"
    labels.write_text("label\n0\n123456789012345678901234567890\n1\n")
    arguments = ["find-label-issues", str(labels), f"--features={tmp_path / 'features.npy'}"]
    assert cli.main(arguments) == 2
    assert "Line 3 of" in capsys.readouterr().err


def test_what_is_whole_is_read(tmp_path):
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = pathlib.Path(tmp_path / "good.npz")
        path.write_bytes(_zip(compression=compression))
        expected = np.arange(12, dtype=np.float32).reshape(6, 2)
        np.testing.assert_array_equal(array_files.open_arrays(path)["features"], expected)
        np.testing.assert_array_equal(array_files.decoded(path.read_bytes())["features"], expected)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_what_a_process_may_not_map_is_refused_in_one_sentence(suffix, tmp_path, monkeypatch):
    path, rows = tmp_path / f"large{suffix}", 900_000_000
    start, end = _header((rows,)), b""
    if suffix == ".npz":  # of one array, as long as it says
        size = struct.pack("<II", *2 * [len(start) + 4 * rows])
        content = _patched(_zip(start, compression=zipfile.ZIP_STORED), (20, 18, size))
        directory = content.index(b"PK\x01\x02")
        start, end = content[:directory], bytearray(content[directory:])
        end[-6:-2] = struct.pack("<I", len(start) + 4 * rows)
    with path.open("wb") as file:  # almost all of it a hole
        file.write(start)
        file.truncate(len(start) + 4 * rows)
        file.seek(0, os.SEEK_END)
        file.write(end)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30), limits[1]))
    try:
        with pytest.raises(UserError, match=r"takes 3\.4 GiB, more than this process may map"):
            array_files.open_arrays(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
