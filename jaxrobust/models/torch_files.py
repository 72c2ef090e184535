"""Tensors of PyTorch and safetensors files as NumPy arrays; code in a file is never executed."""

import functools
import io
import math
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.data import guards
from jaxrobust.data.pickles import GuardedUnpickler, plain_key, reason
from jaxrobust.errors import UserError
from jaxrobust.models import safetensors_file
from jaxrobust.models.safetensors_file import DTYPES

# Class of a storage in PyTorch's pickles -> type.
_STORAGE_TYPES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}


# Values beside the weights in a training checkpoint, which are not kept.
_SKIPPED = {
    ("_codecs", "encode"),
    ("argparse", "Namespace"),
    ("collections", "Counter"),
    ("collections", "defaultdict"),
    ("torch", "Size"),
    ("torch", "device"),
    *(
        ("torch", dtype)
        for dtype in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8")
    ),
    *(("numpy", name) for name in ("dtype", "float64", "float32", "int64", "int32")),
    *((f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")),
    *(
        (module, kind)
        for module in ("pathlib", "pathlib._local")
        for kind in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    ),
    *(
        (builtins, kind)
        for builtins in ("builtins", "__builtin__")
        for kind in ("bool", "complex", "dict", "float", "frozenset", "int", "list", "set", "str")
    ),
}


class _Skipped:
    """Stands for a value of `_SKIPPED`: ignores what a pickle adds to it."""

    __slots__ = ()

    def __new__(cls, *_, **__):
        return super().__new__(cls)

    def __init__(self, *_, **__):
        pass

    def _ignore(self, *_):
        pass

    append = extend = _ignore


class _Dict(dict):
    """An `OrderedDict` of a pickle."""

    __slots__ = ()

    def __init__(self, pairs=()):
        super().__init__((plain_key(key), value) for key, value in pairs)


class _TensorUnpickler(GuardedUnpickler):
    """Admits tensors, plain containers and, as `_Skipped`, the values of `_SKIPPED`.

    A pickle can call only the two bound methods, `_Dict` and `_Skipped`, none of which it can
    change.

    Args:
      file: positioned at the pickle.
      storage: `(key, kind, size) -> array [size]`.
    """

    def __init__(self, file: io.BytesIO, storage: Callable[[str, str, int], np.ndarray]):
        super().__init__(
            file,
            {
                ("collections", "OrderedDict"): _Dict,
                ("torch._utils", "_rebuild_tensor"): self._tensor,
                ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
                ("torch._utils", "_rebuild_parameter"): self._parameter,
                **{("torch", name): kind for name, kind in _STORAGE_TYPES.items()},
                **dict.fromkeys(_SKIPPED, _Skipped),
            },
        )
        self._storage = storage

    def persistent_load(self, reference: tuple) -> np.ndarray:
        what, kind, key, _, size, *view = reference
        texts = all(isinstance(part, str) for part in (what, kind, key))
        if not texts or what != "storage" or any(part is not None for part in view):
            raise pickle.UnpicklingError("it shares storages in a way that no state dict does")
        return self._storage(key, kind, size)

    def _tensor(self, storage, offset, shape, strides, *_) -> np.ndarray:
        # Strides reach into memory: nothing outside the storage may be read. A storage is whole,
        # and a number Python's, which cannot overflow.
        numbers = (offset, *shape, *strides)
        is_whole = isinstance(storage, np.ndarray) and storage.ndim == 1
        is_whole = is_whole and storage.flags.c_contiguous and len(numbers) <= 2 * _MOST_AXES + 1
        if not is_whole or any(type(number) is not int for number in numbers):
            raise pickle.UnpicklingError("it holds a forged tensor")
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        reaches = 0 not in shape and max(last + 1, math.prod(shape)) > storage.size
        if min(numbers) < 0 or reaches:
            raise pickle.UnpicklingError(f"a tensor of shape {list(shape)} exceeds its storage")
        strides = [step * storage.itemsize for step in strides]
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides, writeable=False)

    def _parameter(self, tensor, *_) -> np.ndarray:
        return tensor


def _load_zip(content: bytes) -> object:
    """The format since PyTorch 1.6: a zip of one pickle, and one file for each storage."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            guards.check_zip_member(member)
        guards.check_memory(sum(member.file_size for member in archive.infolist()), "what it holds")
        root = next((n for n in archive.namelist() if n.endswith("data.pkl")), None)
        if root is None:
            raise pickle.UnpicklingError("it holds no data.pkl")
        pickled = archive.read(root)
        root = root.removesuffix("data.pkl")
        read = functools.cache(lambda key: archive.read(f"{root}data/{key}"))

        def storage(key: str, kind: str, size: int) -> np.ndarray:
            return np.frombuffer(read(key), DTYPES[kind], count=size)

        return _TensorUnpickler(io.BytesIO(pickled), storage).load()


_MAGIC = 0x1950A86A20F9469CFC6C


def _load_legacy(content: bytes) -> object:
    """The format before PyTorch 1.6.

    Pickles of a magic number, a version, the writer's system, the value and the keys of its
    storages, then each storage as its int64 size and its numbers.
    """
    file = io.BytesIO(content)

    def no_storage(key: str, kind: str, size: int) -> np.ndarray:
        raise pickle.UnpicklingError("it has tensors before its content")

    def plain() -> Any:
        return _TensorUnpickler(file, no_storage).load()

    if plain() != _MAGIC:
        raise pickle.UnpicklingError("it does not begin as PyTorch's files do")
    _version, _system = plain(), plain()
    start, kinds = file.tell(), {}

    # Storages follow the pickle that refers to them, so it is read twice: first for their types.
    scan = _TensorUnpickler(file, lambda key, kind, size: kinds.setdefault(key, kind))
    for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"):
        scan.admitted["torch._utils", name] = _Skipped
    scan.load()
    storages, keys = {}, plain()
    for key in keys:
        if not isinstance(key, str):
            raise pickle.UnpicklingError("it has a storage without a name")
        kind = np.dtype(DTYPES[kinds[key]])
        (size,) = struct.unpack("<q", file.read(8))
        if not 0 <= size * kind.itemsize <= len(content) - file.tell():
            raise pickle.UnpicklingError("it is cut short")
        storages[key] = np.frombuffer(content, kind, count=size, offset=file.tell())
        file.seek(size * kind.itemsize, io.SEEK_CUR)
    file.seek(start)
    return _TensorUnpickler(file, lambda key, kind, size: storages[key]).load()


def _read_torch(path: pathlib.Path) -> object:
    try:
        content = guards.read_regular(path)
        load = _load_zip if content[:4] == b"PK\x03\x04" else _load_legacy
        return load(content)
    except Exception as error:  # a hostile or damaged pickle can raise anything
        raise UserError(
            f"Refused to read {path}: {reason(error)}. Only tensors in plain "
            "containers are read, because any other pickle can run code; save the state dict alone "
            "with PyTorch: torch.save(model.state_dict(), NEW)."
        ) from error


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return safetensors_file.decoded(guards.read_regular(path))
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise UserError(f"{path} is not a safetensors file, or damaged: {error}.") from error


# Where a training checkpoint keeps its weights, and their moving average.
_WEIGHTS = ("model", "state_dict", "net", "model_state_dict", "student")
_AVERAGES = ("model_ema", "state_dict_ema", "ema_state_dict", "ema")

_DEEPEST = 8  # a dict may be in itself
_MOST_AXES = 64  # of NumPy

# Prefixes that wrappers of a network add to all names.
_PREFIXES = ("module.", "model.", "_orig_mod.", "backbone.", "student.")


class Checkpoint(NamedTuple):
    """The weights of a checkpoint."""

    tensors: dict[str, np.ndarray]  # by PyTorch name
    taken: tuple[str, ...]  # keys under which they were in the file, outermost first
    # keys of other weights in the file: moving averages, or the weights they are averages of
    left: tuple[str, ...]


def read_checkpoint(path: pathlib.Path, *, ema: bool = False) -> Checkpoint:
    """A state dict saved by PyTorch or as safetensors, alone or in a training checkpoint.

    In a checkpoint it is under `model`, `state_dict`, `net`, `model_state_dict` or `student`, and a
    moving average, read with `ema`, under `model_ema` or a similar key. Prefixes of wrappers
    (`module.`, `model.`, `_orig_mod.`, `backbone.`, `student.`) are removed; of a distiller only
    the student is read. A pickle that names anything but tensors and the skipped values is refused.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"There is no file {path}; correct its name.")
    found = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    taken, left = [], []
    while isinstance(found, dict) and len(taken) < _DEEPEST:
        inner = [key for key in (*_WEIGHTS, *_AVERAGES) if isinstance(found.get(key), dict)]
        if not inner:
            break
        inner.sort(key=lambda key: (key in _AVERAGES) != ema)
        taken.append(inner[0])
        left += [key for key in inner[1:] if (key in _AVERAGES) != (inner[0] in _AVERAGES)]
        found = found[inner[0]]
    if not isinstance(found, dict) or not found:
        raise UserError(f"{path} does not hold a state dict. Save model.state_dict() instead.")
    if ema and not set(taken) & set(_AVERAGES):
        raise UserError(f"{path} holds no moving average of the weights; leave out --ema.")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            shown = name[:80] if isinstance(name, str) else f"a key of {type(name).__name__}"
            raise UserError(
                f"{path} does not hold a state dict: {shown!r} is not a tensor. Save "
                "model.state_dict() instead."
            )
    return Checkpoint(_without_prefixes(found), tuple(taken), tuple(left))


def read_state_dict(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of `read_checkpoint`."""
    return read_checkpoint(path).tensors


def _without_prefixes(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    tensors = dict(tensors)
    while True:
        if any(name.startswith("student.") for name in tensors):
            tensors = {n: value for n, value in tensors.items() if n.startswith("student.")}
        prefix = next((p for p in _PREFIXES if all(n.startswith(p) for n in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    # A backbone and a head without the prefix.
    bare = [name.removeprefix("backbone.") for name in tensors]
    return tensors if len(set(bare)) < len(bare) else dict(zip(bare, tensors.values(), strict=True))
