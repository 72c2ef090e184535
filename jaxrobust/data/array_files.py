"""Files of arrays from any source: checked against their headers before anything is allocated.

Arrays are mapped into memory where the file allows. The checksum that every `.npz` has of each of
its arrays is compared for those that are mapped, too.
"""

import errno
import functools
import io
import mmap
import pathlib
import zipfile
import zlib
from typing import IO, Any

import numpy as np

from jaxrobust.data import guards, names
from jaxrobust.errors import DataError

_BLOCK = 1 << 24  # bytes that are read at a time
_NAME = ".npy"


def open_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a `.npy` (as `features`) or `.npz` file by name, mapped where that is possible.

    Refuses damaged files, Python objects, and what is read and larger than the machine's memory.
    """
    try:
        guards.check_regular(path)
        if path.suffix == ".npy":
            return {"features": _mapped_file(path)}
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                return _arrays(archive, path)
    except DataError:
        raise
    except Exception as error:  # NumPy, zipfile and each codec raise types of their own
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            raise DataError(
                f"{path} takes {path.stat().st_size / 2**30:,.1f} GiB, more than this process may "
                "map into memory (ulimit -v); raise that limit, or use a smaller file."
            ) from None
        raise DataError(
            f"{path} cannot be read as arrays of numbers and text ({_reason(error)}): write it "
            "again with numpy.save, numpy.savez or python -m jaxrobust.embed."
        ) from None
    raise DataError(
        f"{path} is neither a .npy nor a .npz file: save the features with numpy.save or "
        "numpy.savez."
    )


def names_in(path: pathlib.Path) -> tuple[str, ...]:
    """The names of the arrays of a `.npz` file, none of which is read; raises as `open_arrays`."""
    try:
        guards.check_regular(path)
        with zipfile.ZipFile(path) as archive:
            return tuple(map(_stem, archive.infolist()))
    except DataError:
        raise
    except Exception as error:  # as above
        raise DataError(
            f"{path} cannot be read as a .npz file ({_reason(error)}): write it again."
        ) from None


def decoded(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of the content of a `.npz` file; ValueError for damage or Python objects."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return _arrays(archive, None)
    except Exception as error:  # as above
        raise ValueError(_reason(error)) from None


def _reason(error: Exception) -> str:
    return names.escaped((str(error).splitlines() or [type(error).__name__])[0])[:200]


def _stem(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(_NAME)


def _arrays(archive: zipfile.ZipFile, path: pathlib.Path | None) -> dict[str, np.ndarray]:
    members = archive.infolist()
    if len(set(map(_stem, members))) < len(members):
        raise ValueError("it holds two arrays of the same name")
    return {_stem(member): _array(archive, member, path) for member in members}


def _array(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: pathlib.Path | None
) -> np.ndarray:
    """An array of an archive, mapped from `path` where it is stored as it is."""
    if not member.filename.endswith(_NAME):
        raise ValueError(f"{member.filename} is not an array")
    guards.check_zip_member(member)
    with archive.open(member) as file:
        header = _header(file)
        size = file.tell()
        _check_size(header, member.file_size - size, member.filename)
        is_stored = member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1
        if path is None or not is_stored or not _num_bytes(header):
            where = f" of {path}" if path else ""
            guards.check_memory(member.file_size, f"{member.filename}{where}, once it is read,")
            file.seek(0)
            return np.load(file, allow_pickle=False)
    with path.open("rb") as file:
        # A member's local header: 26 bytes, then the lengths of its name and its extra field.
        file.seek(member.header_offset + 26)
        lengths = np.frombuffer(file.read(4), "<u2")
    start = member.header_offset + 30 + int(lengths.sum(dtype=np.int64))
    stop = start + member.file_size
    if _crc_of(path, start, stop, path.stat().st_mtime_ns) != member.CRC:
        raise ValueError(f"{member.filename} has changed since it was written")
    return _mapped(path, header, start + size)


def _mapped_file(path: pathlib.Path) -> np.ndarray:
    with path.open("rb") as file:
        header = _header(file)
        size = file.tell()
    _check_size(header, path.stat().st_size - size, path.name)
    if not _num_bytes(header):
        return np.empty(header[0], header[2])
    return _mapped(path, header, size)


def _mapped(path: pathlib.Path, header: tuple[Any, ...], offset: int) -> np.ndarray:
    shape, fortran_order, dtype = header
    order = "F" if fortran_order else "C"
    return np.memmap(path, dtype, mode="r", offset=offset, shape=shape, order=order)


def _header(file: IO[bytes]) -> tuple[Any, ...]:
    """(shape, whether in Fortran's order, dtype) of an array in NumPy's format."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        header = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        header = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError("it holds records, not numbers or text")
    if header[2].hasobject:
        raise ValueError("it holds Python objects")
    if header[2].kind == "V":
        raise ValueError("it holds records, not numbers or text")
    return header


def _num_bytes(header: tuple[Any, ...]) -> int:
    shape, _, dtype = header
    number = dtype.itemsize
    for length in shape:
        number *= int(length)
    return number


def _check_size(header: tuple[Any, ...], found: int, name: str) -> None:
    if min(header[0], default=0) < 0 or _num_bytes(header) != found:
        raise ValueError(
            f"{name} holds {found:,} bytes, but an array of {list(header[0])} {header[2]} takes "
            f"{_num_bytes(header):,}"
        )


@functools.lru_cache(maxsize=256)
def _crc_of(path: pathlib.Path, start: int, stop: int, modified: int) -> int:
    """CRC-32 of a part of a file, which was `modified` at that time."""
    del modified
    crc = 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for i in range(start, stop, _BLOCK):
            crc = zlib.crc32(content[i : min(i + _BLOCK, stop)], crc)
    return crc
