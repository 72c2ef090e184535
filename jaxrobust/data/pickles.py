"""Untrusted pickles: plain containers, and arrays made from the bytes they hold.

NumPy trusts what it unpickles: a dtype may say that bytes are pointers, or that a field lies beyond
its item, and an array may be filled twice while another looks at it. So dtypes are compared with
NumPy's own, and an array is filled once.
"""

import io
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxrobust.data import names
from jaxrobust.errors import DataError

_MOST_OPERATIONS = 5_000_000  # an empty set of one byte takes 216 of memory


def _counted(operation: Callable[[Any], None]) -> Callable[[Any], None]:
    def counted(self: Any) -> None:
        self.operations += 1
        if self.operations > _MOST_OPERATIONS:
            raise pickle.UnpicklingError(f"it has more than {_MOST_OPERATIONS:,} parts")
        operation(self)

    return counted


class GuardedUnpickler(pickle._Unpickler):
    """Admits plain containers and, by name, what it is given; refuses every other name.

    It is the one in Python, whose memo is a dict: the one in C allocates as many entries as a file
    asks for. Nor is anything else allocated before it was read, no key is hashed that may be a
    tuple of tuples, twice as many with each level, and no state is given to any object.

    Args:
      file: positioned at the pickle.
      admitted: (module, name) -> what is meant.
    """

    dispatch: dict[int, Callable[[Any], None]] = {  # noqa: RUF012
        code: function
        for code, function in pickle._Unpickler.dispatch.items()
        if code not in (pickle.NEXT_BUFFER[0], pickle.ADDITEMS[0], pickle.FROZENSET[0])
    }

    def __init__(self, file: io.BytesIO, admitted: Mapping[tuple[str, str], Any]):
        super().__init__(file, encoding="latin1")  # text of Python 2
        self.admitted = dict(admitted)
        self.operations = 0

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.admitted[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None

    def set_state(self, made: Any, state: Any) -> None:
        """What a pickle says of an object that it has made; nothing is done with it."""

    def _build(self: Any) -> None:
        state = self.stack.pop()
        self.set_state(self.stack[-1], state)

    def _set_item(self: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(self.stack[-1], [key, value])

    def _set_items(self: Any) -> None:
        items = self.pop_mark()
        self._set(self.stack[-1], items)

    def _set(self, made: Any, items: list) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(made, dict):
                made[plain_key(key)] = value

    def _byte_array(self: Any) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))

    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.SETITEM[0]] = _set_item
    dispatch[pickle.SETITEMS[0]] = _set_items
    dispatch[pickle.BYTEARRAY8[0]] = _byte_array
    dispatch = {code: _counted(function) for code, function in dispatch.items()}  # noqa: RUF012


def plain_key(key: Any) -> Any:
    """The key of a dict in a pickle; a tuple is refused."""
    if isinstance(key, tuple):
        raise pickle.UnpicklingError("it has a key that is neither text nor a number")
    return key


def reason(error: Exception) -> str:
    """Why a file could not be read, in a line: what an error says may come from the file."""
    return names.escaped(str(error) or type(error).__name__)[:200]


class _ArrayUnpickler(GuardedUnpickler):
    """Admits arrays of numbers as NumPy writes them, in old protocols and in protocol 5."""

    def __init__(self, content: bytes):
        functions: dict[str, tuple[str, Callable]] = {
            "multiarray": ("_reconstruct", self._empty),
            "numeric": ("_frombuffer", self._of_buffer),
        }
        super().__init__(
            io.BytesIO(content),
            {
                **{
                    (f"numpy.{core}.{module}", name): function
                    for core in ("core", "_core")
                    for module, (name, function) in functions.items()
                },
                ("numpy", "ndarray"): None,  # an argument of `_reconstruct`
                ("numpy", "dtype"): self._dtype,
                ("_codecs", "encode"): self._encoded,
            },
        )
        self._left = 2 * len(content)  # read as text, and in an array

    def _spend(self, num_bytes: int) -> None:
        """Bytes are copied once, or a file of a few would fill any memory."""
        self._left -= num_bytes
        if self._left < 0:
            raise pickle.UnpicklingError("it says the same bytes many times")

    def _empty(self, *_) -> np.ndarray:
        return np.empty(0, np.uint8)

    def _dtype(self, code: str, *_) -> np.dtype:
        if re.fullmatch("[biuf][1248]", code) is None:
            raise pickle.UnpicklingError("it holds an array of something else than numbers")
        return np.dtype(code, copy=True)

    def _encoded(self, text: str, _) -> bytes:
        """How Python 3 writes bytes in pickles that Python 2 can read: always as Latin-1 text."""
        self._spend(len(text))
        return text.encode("latin1")

    def _of_buffer(self, buffer, dtype, shape, order) -> np.ndarray:
        if not isinstance(buffer, bytes | bytearray):
            raise pickle.UnpicklingError("it holds an array without numbers")
        self._spend(len(buffer))
        return np.frombuffer(bytes(buffer), _checked(dtype)).reshape(shape, order=order)

    def set_state(self, made: Any, state: Any) -> None:
        kind = type(made)
        if issubclass(kind, np.dtype):
            _, order, *rest = state
            version, _, *own = made.__reduce__()[2]
            if rest != own or order not in ("<", ">", "|", "="):
                raise pickle.UnpicklingError("it holds a forged dtype")
            made.__setstate__((version, order, *own))
        elif issubclass(kind, np.ndarray):
            _, shape, dtype, in_fortrans_order, data = state
            if made.shape != (0,) or not isinstance(data, str | bytes):
                raise pickle.UnpicklingError("it holds a forged array")
            self._spend(len(data))
            made.__setstate__((1, shape, _checked(dtype), in_fortrans_order, data))


def _checked(dtype: Any) -> np.dtype:
    if not isinstance(dtype, np.dtype):
        raise pickle.UnpicklingError("it holds an array without a dtype")
    return dtype


def unpickle_arrays(content: bytes, source: str) -> object:
    """Reads a pickle of NumPy arrays of numbers in builtin containers, and refuses any other."""
    try:
        return _ArrayUnpickler(content).load()
    except Exception as error:  # a hostile or damaged pickle can raise anything
        raise DataError(
            f"Refused to unpickle {source}: {reason(error)}. Only NumPy arrays of numbers in plain "
            "containers are read, because any other pickle can run code; download the file again "
            "from its official page."
        ) from error
