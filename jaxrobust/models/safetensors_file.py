"""Arrays in the safetensors format, whose files cannot hold code.

https://huggingface.co/docs/safetensors: eight bytes with the length of a JSON header, the header,
and the concatenated arrays.
"""

import json
import math
import struct
from collections.abc import Mapping

import ml_dtypes
import numpy as np

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": ml_dtypes.bfloat16,
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}
"""Name of a type in the format -> NumPy's."""

_METADATA = "__metadata__"


def decoded(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of a file, by name.

    Raises:
      ValueError, KeyError, TypeError, AttributeError or struct.error: if the content is not in this
        format, or damaged.
    """
    (length,) = struct.unpack_from("<Q", content)
    if length > len(content) - 8:
        raise ValueError("its header is cut short")
    try:
        header = json.loads(content[8 : 8 + length])
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None
    header.pop(_METADATA, None)
    arrays, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        if start != end:  # bytes that are said many times would fill any memory
            raise ValueError(f"{name} does not begin where the array before it ends")
        end = stop
        shape, dtype = tuple(entry["shape"]), np.dtype(DTYPES[entry["dtype"]])
        if stop - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} does not have the size of its shape {list(shape)}")
        buffer = content[8 + length + start : 8 + length + stop]
        arrays[name] = np.frombuffer(buffer, dtype).reshape(shape)
    return {name: arrays[name] for name in header}


def encoded(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of a file of arrays, in the order of their names."""
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    header, parts, start = {}, [], 0
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        part = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        stop = start + len(part)
        header[name] = {
            "dtype": names[array.dtype.newbyteorder("<")],
            "shape": list(array.shape),
            "data_offsets": [start, stop],
        }
        parts.append(part)
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays are aligned
    return struct.pack("<Q", len(text)) + text + b"".join(parts)
