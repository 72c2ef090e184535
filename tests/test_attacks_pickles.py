"""Pickles that run code, hang, or hold more than any memory; PyTorch's files are pickles.

A new pickle is a line of `PICKLES`, a new reader one of `READERS`: each reader is given all of them
and answers in one sentence. A new PyTorch file is a line of `TORCH`.
"""

import io
import os
import pathlib
import pickle
import resource
import struct
import sys
import zipfile

import numpy as np
import pytest

from jaxrobust.commands import cli
from jaxrobust.data import guards, noise, readers
from jaxrobust.errors import UserError
from jaxrobust.models import torch_files

RUN = b"S'touch ran'\n"


def _text(text):
    return b"\x8c" + bytes([len(text)]) + text.encode()


def _global(module, name):
    return b"\x80\x04" + _text(module) + _text(name) + b"\x93"


def _nested(levels):
    """A tuple of two that are the same tuple of two, and so on: 2 ** levels parts."""
    return b"\x80\x02}))\x86" + b"2\x86" * levels


class _Call:
    def __reduce__(self):
        return os.system, ("touch ran",)


# Name -> content. None of them may run anything, or hold the reader up.
PICKLES = {
    "GLOBAL and REDUCE": b"cos\nsystem\n(" + RUN + b"tR.",
    "INST": b"(" + RUN + b"ios\nsystem\n.",
    "OBJ": b"(cos\nsystem\n" + RUN + b"o.",
    "STACK_GLOBAL": _global("posix", "system") + _text("touch ran") + b"\x85R.",
    "NEWOBJ": b"\x80\x02csubprocess\nPopen\n" + RUN + b"\x85\x81.",
    "NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n" + RUN + b"\x85}\x92.",
    "as Python writes it": pickle.dumps(_Call()),
    "within a list": pickle.dumps([{"model": (_Call(),)}]),
    "after the end": pickle.dumps({})[:-1] + pickle.dumps(_Call()),
    "eval": b'cbuiltins\neval\n(S\'open("ran", "w")\'\ntR.',
    "exec of Python 2": b'c__builtin__\nexec\n(S\'open("ran", "w")\'\ntR.',
    "getattr": b"c__builtin__\ngetattr\n(}S'keys'\ntR.",
    "an attribute of what is admitted": _global("numpy", "ndarray.__class__") + b".",
    "an extension's code": b"\x80\x02\x82\x01.",
    "a module that loads": b"cantigravity\nfly\n.",
    "another pickle": b"c_pickle\nloads\n(" + RUN + b"tR.",
    "a persistent id": b"P../../etc/passwd\n.",
    "lines and controls in a name": _global("os\n\x1b[31m", "sys\ntem") + b".",
    "a long name": b"\x80\x04X" + struct.pack("<I", 10**6) + b"x" * 10**6 + b"\x8c\x01y\x93.",
    "an integer of a million digits": b"\x8b"
    + struct.pack("<i", 500_000)
    + b"\x01" * 500_000
    + b".",
    "text of 2 ** 60": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b".",
    "bytes of 2 ** 60": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b".",
    "a byte array of 2 ** 40": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
    "a frame of 2 ** 60": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b".",
    "a memo of 2 ** 31": b"\x80\x02}r" + struct.pack("<I", 1 << 31) + b".",
    "a key of 2 ** 200": _nested(200) + b"Ns.",
    "keys of 2 ** 200": b"\x80\x02}(" + _nested(200)[3:] + b"Nu.",
    "a set of 2 ** 200": b"\x80\x04\x8f(" + _nested(200)[3:] + b"\x90.",
    "lists in lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "itself": b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.",
    "a dict of nothing": b"}.",
    "no value": b".",
    "a mark alone": b"(.",
    "empty": b"",
    "no pickle": b"<html>404</html>",
}


def _archive(content, name="x/data.pkl"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def _read_as_cifar(content, folder):
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(content)
    readers.read_cifar_python(folder, False)


def _read(reader, content, folder, suffix=".pth"):
    path = folder / f"file{suffix}"
    path.write_bytes(content)
    reader(path)


# Name -> function of a pickle and an empty folder.
READERS = {
    "weights": lambda content, folder: _read(
        torch_files.read_checkpoint, _archive(content), folder
    ),
    "weights before 1.6": lambda content, folder: _read(
        torch_files.read_checkpoint, content, folder
    ),
    "weights before 1.6, after their magic number": lambda content, folder: _read(
        torch_files.read_checkpoint,
        b"".join(pickle.dumps(part, 2) for part in (torch_files._MAGIC, 1001, {})) + content,
        folder,
    ),
    "CIFAR": _read_as_cifar,
    "CIFAR-N": lambda content, folder: _read(
        lambda path: noise.read_cifarn_labels(path, "aggre"), _archive(content), folder
    ),
}


@pytest.fixture
def within_memory():
    """What allocates before it has read would need more than this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    (used,) = [
        1024 * int(line.split()[1])
        for line in pathlib.Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmData")
    ]
    resource.setrlimit(resource.RLIMIT_DATA, (used + (1 << 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_every_pickle_in_one_sentence(
    reader, tmp_path, monkeypatch, within_memory
):
    monkeypatch.chdir(tmp_path)
    for name, content in PICKLES.items():
        with pytest.raises(UserError) as caught:
            READERS[reader](content, tmp_path)
        message = str(caught.value)
        assert "\n" not in message and "\x1b" not in message, name
        assert 10 < len(message) < 700 + len(str(tmp_path)), (name, message)
        assert not (tmp_path / "ran").exists(), name


# ------------------------------------------------------------------------------ PyTorch's files


def _tensor(shape, strides, size=4, offset=0):
    """A pickle of a state dict whose one tensor is of the storage `0`."""
    numbers = b"(" + b"".join(b"J" + struct.pack("<i", n) for n in shape) + b"t"
    steps = b"(" + b"".join(b"J" + struct.pack("<i", n) for n in strides) + b"t"
    storage = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu")
    storage += b"J" + struct.pack("<i", size) + b"tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"J" + struct.pack("<i", offset)
    return b"\x80\x04}" + _text("w") + call + numbers + steps + b"\x89}tRs."


def _zip_of(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"x/{name.replace('_', '/').replace('/pkl', '.pkl')}", content)
    return file.getvalue()


def _overridden(name):
    """An OrderedDict one of whose methods the file replaces."""
    made = b"\x80\x04ccollections\nOrderedDict\n)R}" + _text(name) + b"ctorch\nSize\nsb"
    return made + b"."


FLOATS = np.arange(4, dtype=np.float32).tobytes()
# Name -> (content, words of the sentence).
TORCH = {
    "a storage that is missing": (_zip_of(data_pkl=_tensor((4,), (1,))), "no item named"),
    "a storage cut short": (_zip_of(data_pkl=_tensor((4,), (1,)), data_0=FLOATS[:6]), "buffer"),
    "a storage of 2 ** 31": (
        _zip_of(data_pkl=_tensor((4,), (1,), size=2**31 - 1), data_0=FLOATS),
        "buffer is smaller",
    ),
    "a storage that is a pickle": (
        _zip_of(data_pkl=_tensor((4,), (1,)), data_0=pickle.dumps(_Call())),
        "has no classifier",
    ),
    "one number as 2 ** 60": (
        _zip_of(data_pkl=_tensor((1 << 30, 1 << 30), (0, 0)), data_0=FLOATS),
        "exceeds its storage",
    ),
    "a negative size": (
        _zip_of(data_pkl=_tensor((-1,), (1,)), data_0=FLOATS),
        "exceeds its storage",
    ),
    "an archive in an archive": (
        _zip_of(data_pkl=_zip_of(data_pkl=pickle.dumps(_Call()))),
        "Refused to read",
    ),
    "no pickle": (_zip_of(code=b""), "it holds no data.pkl"),
    "a bomb of zeros": (
        _zip_of(data_pkl=_tensor((4,), (1,)), data_0=FLOATS, data_1=bytes(150_000_000)),
        "memory",
    ),
    "a method replaced": (_zip_of(data_pkl=_overridden("items")), "does not hold a state dict"),
    "another method replaced": (_zip_of(data_pkl=_overridden("get")), "does not hold a state dict"),
    "not tensors": (_zip_of(data_pkl=pickle.dumps({"w": 3})), "'w' is not a tensor"),
    "a long name": (_zip_of(data_pkl=pickle.dumps({"w" * 10**6: 3})), "is not a tensor"),
    "a huge number for a name": (_zip_of(data_pkl=pickle.dumps({1 << 10**5: 3})), "key of int"),
    "a TorchScript archive": (
        _zip_of(data_pkl=b"c__torch__.torch.nn\nModule\n)\x81.", code=b"exec"),
        "it asks for __torch__",
    ),
}


@pytest.mark.parametrize("case", TORCH)
def test_every_hostile_pytorch_file_is_refused_in_one_line(case, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(guards, "_memory", lambda: 100_000_000)
    monkeypatch.chdir(tmp_path)
    content, words = TORCH[case]
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    places = [f"--from={path}", f"--to={tmp_path / 'out'}"]
    assert cli.main(["convert", "--arch=resnet8x4", *places]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxrobust: ") and words in line and len(line) < 900
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pth"]
