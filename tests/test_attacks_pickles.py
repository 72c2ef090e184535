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
from jaxrobust.data import guards, noise, pickles, readers
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


def _value(value):
    """The opcodes that put a value on the stack."""
    return pickle.dumps(value, 2)[2:-1]


def _bytes(content):
    return b"B" + struct.pack("<I", len(content)) + content


def _dtype(code="u1", state=None):
    made = b"cnumpy\ndtype\n(" + _value(code) + b"\x89\x88tR"
    return made if state is None else made + state + b"b"


PLAIN = (None, None, None, -1, -1, 0)  # what NumPy says of a dtype of numbers
_EMPTY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"


def _filled(shape, dtype, content):
    """Gives an array on the stack a shape, a dtype and bytes."""
    return b"(K\x01" + _value(shape) + dtype + b"\x89" + content + b"tb"


def _buffer(content, dtype, shape):
    return b"cnumpy.core.numeric\n_frombuffer\n(" + content + dtype + _value(shape) + b"U\x01CtR"


POINTERS = _dtype("O8", _value((3, "|", *PLAIN)))  # without the flag that they are pointers
BEYOND = b"(K\x03U\x01|N" + _value(("a",)) + b"}U\x01a" + _dtype("f8") + b"J"
BEYOND += struct.pack("<i", 1 << 30) + b"\x86sK\x08K\x01K\x00t"
MILLION = b"X" + struct.pack("<I", 10**6) + b"x" * 10**6

# Pickles of arrays, which no other reader than those of arrays gets as far as to refuse.
ARRAYS = {
    "pointers": _EMPTY + _filled((4,), POINTERS, _bytes(b"A" * 32)),
    "pointers in a buffer": _buffer(_bytes(b"A" * 32), POINTERS, (4,)),
    "a field beyond its item": _EMPTY + _filled((4,), _dtype("V8", BEYOND), _bytes(b"A" * 32)),
    "text of other sizes": _EMPTY
    + _filled((4,), _dtype("U8", _value((3, "<", None, None, None, 3, 1, 8))), _bytes(b"A" * 12)),
    "empty texts, 2 ** 50 of them": _EMPTY + _filled((1 << 50,), _dtype("S0"), _bytes(b"")),
    "a forged size": _dtype("u1", _value((3, "|", None, None, None, 1 << 30, 1, 0))),
    "forged flags": _dtype("u1", _value((3, "|", None, None, None, -1, -1, 63))),
    "an unknown order": _dtype("i8", _value((3, "x", *PLAIN))),
    "Python objects": _EMPTY + _filled((2,), _dtype("O8"), _value([1, 2])),
    "a list of bytes": _EMPTY + _filled((2,), _dtype(), _value([1, 2])),
    "a negative shape": _EMPTY + _filled((-4, -8), _dtype(), _bytes(b"A" * 32)),
    "an array of 2 ** 33": b"cnumpy\nndarray\n" + _value((1 << 33,)) + b"\x85R",
    "a new array of 2 ** 33": b"cnumpy\nndarray\n" + _value((1 << 33,)) + b"\x85\x81",
    "filled twice": _EMPTY + 2 * _filled((4,), _dtype(), _bytes(b"A" * 4)),
    "a buffer of an array": _buffer(
        _EMPTY + _filled((4,), _dtype(), _bytes(b"A" * 4)), _dtype(), (4,)
    ),
    "the same bytes again and again": MILLION
    + b"q\x010c_codecs\nencode\nq\x020]("
    + b"h\x02h\x01U\x01a\x86R" * 3000
    + b"e",
    "the same array again and again": MILLION
    + b"q\x010"
    + _dtype()
    + b"q\x020]("
    + (_EMPTY + _filled((10**6,), b"h\x02", b"h\x01")) * 3000
    + b"e",
    "labels of 2 ** 50": b"}("
    + b"".join(map(_value, ("data", 3, "filenames", 3)))
    + b"".join(_value(name) + _nested(50)[3:] for name in ("labels", "fine_labels", "aggre_label"))
    + b"u",
    "data of 2 ** 50": b"}(" + _value("data") + _nested(50)[3:] + _value("labels") + b"]u",
    "an argument for good": b"c_codecs\nencode\nN}" + _value("__defaults__") + b")s\x86b",
}

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
    **{name: b"\x80\x02" + content + b"." for name, content in ARRAYS.items()},
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
# The last of four numbers, four times; then as if those four lay one behind the other.
LAST_FOUR_TIMES = _tensor((4,), (0,), offset=3)[3:-2].removeprefix(_text("w"))
STORAGE = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu")
SMALL_NUMBERS = b"ctorch._utils\n_rebuild_tensor_v2\n((" + _text("storage")
SMALL_NUMBERS += b"ctorch\nByteStorage\n" + _text("0") + _text("cpu") + b"K\x10tQ"


def _forged(storage, offset, shape, strides):
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + shape + strides
    return b"\x80\x04}" + _text("w") + call + b"\x89}tRs."


# Name -> (content, words of the sentence).
TORCH = {
    "a tensor of a tensor": (
        _zip_of(
            data_pkl=_forged(LAST_FOUR_TIMES, b"K\x00", b"K\x04\x85", b"K\x01\x85"), data_0=FLOATS
        ),
        "forged tensor",
    ),
    "a shape that overflows": (
        _zip_of(
            data_pkl=_forged(
                STORAGE + b"K\x04tQ",
                b"K\x00",
                SMALL_NUMBERS + b"K\x00K\x01\x85K\x01\x85\x89}tR",
                b"K\x64\x85",
            ),
            data_0=FLOATS,
        ),
        "forged tensor",
    ),
    "a tensor of 10,000 axes": (
        _zip_of(
            data_pkl=_forged(STORAGE + b"K\x04tQ", b"K\x00", *2 * [_value((1,) * 10_000)]),
            data_0=FLOATS,
        ),
        "forged tensor",
    ),
    "a storage named by 2 ** 200": (
        _zip_of(
            data_pkl=b"\x80\x04("
            + _text("storage")
            + b"ctorch\nFloatStorage\n"
            + _nested(200)[3:]
            + _text("cpu")
            + b"K\x04tQ."
        ),
        "no state dict does",
    ),
    "a storage of the type 2 ** 200": (
        _zip_of(
            data_pkl=b"\x80\x04("
            + _text("storage")
            + _nested(200)[3:]
            + _text("0")
            + _text("cpu")
            + b"K\x04tQ."
        ),
        "no state dict does",
    ),
    "storages before 1.6 named by 2 ** 200": (
        b"".join(pickle.dumps(part, 2) for part in (torch_files._MAGIC, 1001, {}, {}))
        + b"\x80\x02]"
        + _nested(200)[3:]
        + b"a.",
        "a storage without a name",
    ),
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


def test_a_pickle_of_more_parts_than_memory_holds_is_refused(tmp_path, monkeypatch):
    """An empty dict is a byte of the file, which an archive keeps a thousand of in one."""
    monkeypatch.setattr(pickles, "_MOST_OPERATIONS", 1000)
    for reader in READERS.values():
        with pytest.raises(UserError, match="it has more than 1,000 parts"):
            reader(b"\x80\x02](" + b"}" * 2000 + b"e.", tmp_path)
