"""Tensors of PyTorch and safetensors files as NumPy arrays, without PyTorch and without running
anything that a file may contain."""

import collections
import io
import json
import math
import pathlib
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np

from jaxrobust.errors import UserError

_SAFETENSORS_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": ml_dtypes.bfloat16,
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}

# By name of the class that PyTorch's pickles give each storage.
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


class _TensorUnpickler(pickle.Unpickler):
    """Admits tensors, builtin containers and their settings; any other name is refused.

    What a pickle may call are the two bound methods and `OrderedDict`: none of them can be changed
    from within a pickle.
    """

    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")))
        self._archive, self._root = archive, root
        self._admitted = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            # The settings of a training script; nothing of them is used.
            ("argparse", "Namespace"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): self._parameter,
            **{("torch", name): kind for name, kind in _STORAGE_TYPES.items()},
        }

    def find_class(self, module: str, name: str) -> object:
        try:
            return self._admitted[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None

    def persistent_load(self, reference: tuple) -> np.ndarray:
        _, kind, key, _, size = reference
        content = self._archive.read(f"{self._root}data/{key}")
        return np.frombuffer(content, _SAFETENSORS_TYPES[kind], count=size)

    def _tensor(self, storage, offset, shape, strides, *_) -> np.ndarray:
        # Strides reach into memory: nothing outside the storage may be read.
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if min((offset, *shape, *strides)) < 0 or (0 not in shape and last >= storage.size):
            raise pickle.UnpicklingError(f"a tensor of shape {list(shape)} exceeds its storage")
        strides = [step * storage.itemsize for step in strides]
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides, writeable=False)

    def _parameter(self, tensor, *_) -> np.ndarray:
        return tensor


def _read_torch(path: pathlib.Path) -> object:
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is not a zip archive: it is damaged, or older than PyTorch 1.6. If you trust "
            "its origin, load it with PyTorch and save it again: "
            "torch.save(torch.load(OLD, map_location='cpu', weights_only=True), NEW)."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            root = next(n for n in archive.namelist() if n.endswith("data.pkl"))
            return _TensorUnpickler(archive, root.removesuffix("data.pkl")).load()
    except Exception as error:  # a hostile or damaged pickle can raise anything
        raise UserError(
            f"Refused to read {path}: {error or type(error).__name__}. Only tensors in plain "
            "containers are read, because any other pickle can run code; save the state dict alone "
            "with PyTorch: torch.save(model.state_dict(), NEW)."
        ) from error


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        content = path.read_bytes()
        (length,) = struct.unpack_from("<Q", content)
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__", None)
        tensors = {}
        for name, entry in header.items():
            start, stop = entry["data_offsets"]
            shape, dtype = tuple(entry["shape"]), np.dtype(_SAFETENSORS_TYPES[entry["dtype"]])
            if stop - start != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{name} does not have the size of its shape {list(shape)}")
            buffer = content[8 + length + start : 8 + length + stop]
            tensors[name] = np.frombuffer(buffer, dtype).reshape(shape)
        return tensors
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise UserError(f"{path} is not a safetensors file, or damaged: {error}.") from error


def read_state_dict(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Tensors by name, of a state dict saved by PyTorch 1.6 or later or in safetensors.

    The state dict may lie under `model` or `state_dict` in a training checkpoint, and all of its
    names may start with `module.`.

    Args:
      path: `.safetensors`, or any other ending for a file written by `torch.save`.

    Raises:
      UserError: the file is missing, damaged, of an old format, holds no state dict, or its pickle
        names anything beyond tensors and plain containers.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    found = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for key in ("model", "state_dict"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not found:
        raise UserError(f"{path} does not hold a state dict. Save model.state_dict() instead.")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise UserError(
                f"{path} does not hold a state dict: {name!r} is no tensor. Save "
                "model.state_dict() instead."
            )
    if all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): value for name, value in found.items()}
    return dict(found)
