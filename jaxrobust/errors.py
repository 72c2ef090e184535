"""Errors that the user can fix; the command line shows their message without a traceback."""

import contextlib
import difflib
import errno
import functools
import numbers
import os
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

# Full disk, quota, file size limit; no right to write.
BEYOND_THE_RUN = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EROFS, errno.EACCES, errno.EPERM),
}


# Limit of a process, as in `resource` -> the least with which JAX starts, what it limits, flag of
# `ulimit`. Below, its libraries wait for ever or end the process without an error.
_LEAST = {
    "RLIMIT_AS": (4 * 2**30, "bytes of addresses", "-v"),
    "RLIMIT_DATA": (2 * 2**30, "bytes of data", "-d"),
    "RLIMIT_NOFILE": (32, "open files", "-n"),
}


class UserError(ValueError):
    """An error in the input, config or environment; the message names the remedy."""


class DataError(UserError):
    """A data set is missing, damaged or unsuitable."""


def no_room(path: str | os.PathLike, reason: str | None) -> str:
    """Message for a file that cannot be written for a reason in `BEYOND_THE_RUN`."""
    return (
        f"{os.fspath(path)}: {reason}; make room, or give the right to read and write there, and "
        "rerun the same command to resume."
    )


@functools.cache  # a command asks, and so does what it calls
def check_limits() -> None:
    """Refuses a process whose limits are too low for JAX to start.

    Raises:
      UserError: naming the limit and how to raise it.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    for name, (least, what, flag) in _LEAST.items():
        limit = resource.getrlimit(getattr(resource, name))[0]
        if limit != resource.RLIM_INFINITY and limit < least:
            raise UserError(
                f"This process may have {limit:,} {what}, but JAX needs {least:,}; raise the limit "
                f"(ulimit {flag})."
            )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy or JAX could not allocate memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    )


def no_memory(error: BaseException) -> str:
    """Message for an error of `is_out_of_memory`."""
    reason = (str(error).splitlines() or ["the allocation failed"])[0][:200]
    return (
        f"There is not enough memory ({reason}); choose smaller batches or images, fewer examples, "
        "or a larger machine."
    )


def explained(error: BaseException, path: str | os.PathLike) -> str | None:
    """The message of a command instead of a traceback; None for what the user cannot fix.

    `path` names a file if the error does not.
    """
    if isinstance(error, UserError):
        return str(error)
    if is_out_of_memory(error):
        return no_memory(error)
    if isinstance(error, OSError) and error.errno in BEYOND_THE_RUN:
        return no_room(error.filename or path, error.strerror)
    return None


def _in_mapping(name: str, value: str) -> str:
    return f"config={{{name!r}: {value}}}"


def as_attribute(name: str, value: str) -> str:
    """A field as it is set in a `ConfigDict`."""
    return f"config.{name}={value}"


def as_option(name: str, value: str) -> str:
    """A field as it is given to `RobustClassifier`."""
    return f"{name.replace('.', '__')}={value}"


@contextlib.contextmanager
def for_python(spell: Callable[[str, str], str] = _in_mapping) -> Iterator[None]:
    """A decorator of public functions: a `UserError` names arguments instead of flags.

    `spell` is as in `flags_as_arguments`.
    """
    try:
        yield
    except UserError as error:
        error.args = (flags_as_arguments(str(error), spell),)
        raise


def flags_as_arguments(message: str, spell: Callable[[str, str], str] = _in_mapping) -> str:
    """A message with `--config.a.b=1` as `spell` writes it, by default `config={'a.b': 1}`."""

    def argument(flag: re.Match) -> str:
        name, value = flag.groups("")
        if not name:
            return f"config={value!r}" if value else "config="
        if not re.fullmatch(r"-?[\d.]+|True|False", value):
            value = repr(value) if value else "..."
        return spell(name, value)

    flag = r"--config(?:\.(\w+(?:\.\w+)*))?=([^\s,;)]*[^\s,;).])?"
    return re.sub(flag, argument, message).replace("--workdir", "workdir")


def warn(message: str) -> None:
    """A `UserWarning` at the line outside the package that led here."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals["__name__"].split(".")[0] in ("jaxrobust", "contextlib"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)


def shown(value: Any) -> str:
    """A value for a message, with NumPy scalars shown as Python's."""
    return repr(value.item() if hasattr(value, "item") and not hasattr(value, "__len__") else value)


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
    """Refuses anything but a whole number of at least 1; `of` says what it counts."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or value < 1:
        raise UserError(f"{name}={shown(value)} must be a whole number{of}, at least 1.")
