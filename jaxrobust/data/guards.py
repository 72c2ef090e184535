"""Files from other sources: their kind and size are checked before anything is read.

A pipe or `/dev/zero` has no end, and an archive of a few bytes may hold more than fits in any
memory.
"""

import os
import pathlib
import stat
import zipfile

from jaxrobust.errors import DataError

_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def kind_of(path: str | os.PathLike) -> str | None:
    """What a path leads to if it is not a file or a folder, in words; otherwise None."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # whoever reads it says why
        return None
    return next((name for is_kind, name in _KINDS if is_kind(mode)), None)


def check_regular(path: str | os.PathLike) -> None:
    """Refuses a pipe, a socket or a device, which have no end."""
    if kind := kind_of(path):
        raise DataError(f"{os.fspath(path)} is {kind}, not a file; remove it or name a file.")


def check_memory(num_bytes: int, what: str) -> None:
    """Refuses more bytes than the machine has memory; `what` is the subject of the sentence."""
    if (memory := _memory()) is not None and num_bytes > memory:
        raise DataError(
            f"{what} takes {num_bytes / 2**30:,.1f} GiB, but this machine has "
            f"{memory / 2**30:,.1f} GiB of memory; use a smaller file, or a larger machine."
        )


def read_regular(path: pathlib.Path) -> bytes:
    """The content of a file that is no pipe, socket or device and fits the memory."""
    check_regular(path)
    check_memory(path.stat().st_size, str(path))
    return path.read_bytes()


def check_zip_member(member: zipfile.ZipInfo) -> None:
    """ValueError if zipfile could not read a member: encrypted, or compressed in an unknown way."""
    if member.flag_bits & 0x1:
        raise ValueError(f"{member.filename} is encrypted")
    known = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    if member.compress_type not in known:
        raise ValueError(
            f"{member.filename} is compressed by method {member.compress_type}, which is unknown"
        )


def _memory() -> int | None:
    """Bytes that the machine has, or that this process may use; None where it does not say."""
    try:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, OSError, ValueError):
        return None
    try:
        import resource
    except ImportError:  # Windows
        return found[0]
    limits = (resource.getrlimit(name)[0] for name in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    found += [limit for limit in limits if limit != resource.RLIM_INFINITY]
    return min(found)
