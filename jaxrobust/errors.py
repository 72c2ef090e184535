"""Errors that the user can fix; the command line shows their message without a traceback."""

import difflib
import errno
import numbers
import os
from collections.abc import Collection, Iterable
from typing import Any

# Full disk, quota, file size limit; no right to write.
BEYOND_THE_RUN = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EROFS, errno.EACCES, errno.EPERM),
}


class UserError(ValueError):
    """Input, config or environment is wrong; the message names the remedy."""


class DataError(UserError):
    """A data set is missing, damaged or unsuitable."""


def no_room(path: str | os.PathLike, reason: str | None) -> str:
    """Message for a file that cannot be written for a reason in `BEYOND_THE_RUN`."""
    return (
        f"{os.fspath(path)}: {reason}; make room, or give the right to read and write there, and "
        "rerun the same command to resume."
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy or JAX could not have the memory that it asked for."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    )


def no_memory(error: BaseException) -> str:
    """Message for an error of `is_out_of_memory`."""
    reason = (str(error).splitlines() or ["no more could be had"])[0][:200]
    return (
        f"There is not enough memory ({reason}); choose smaller batches or images, fewer examples, "
        "or a larger machine."
    )


def unknown_name(what: str, name: object, valid: Iterable[str]) -> str:
    """Message for a misspelt name: the nearest valid one, then all of them."""
    valid = list(valid)
    nearest = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.0)[0]
    return f"Unknown {what} {name!r}: did you mean {nearest!r}? Valid: {', '.join(valid)}."


def check_option(name: str, value: str, valid: Collection[str]) -> None:
    """Raises a ValueError with `unknown_name`'s message unless `value` is valid."""
    if value not in valid:
        raise ValueError(unknown_name(name, value, valid))


def check_count(name: str, value: Any, of: str = "") -> None:
    """Refuses what is no whole number of at least 1, `of` what it counts."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or value < 1:
        raise UserError(f"{name}={value!r} must be a whole number{of}, at least 1.")
