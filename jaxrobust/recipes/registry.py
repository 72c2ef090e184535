"""Functions by name, imported on first use."""

import importlib
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """A function in a registry, described without importing it."""

    function: str | Callable[..., Any]  # `"module:name"`, or the function
    summary: str = ""  # a line for `jaxrobust list`
    recipe: type | None = None  # of a method, the dataclass of the recipe that it is built from
    # whether the state of a method has a row for each training example, so that its programs are
    # compiled for their number
    has_tables: bool = False
    weighted: bool = True  # whether the losses of a method for noisy labels take weights


class Registry(MutableMapping[str, Callable[..., Any]]):
    """Name -> function. `registry[name]` imports its module, iteration and `entry` nothing."""

    def __init__(self, entries: dict[str, Entry]):
        self._entries = dict(entries)

    def entry(self, name: str) -> Entry:
        """The entry of `name`; its module is not imported."""
        return self._entries[name]

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return resolve(self._entries[name].function)

    def __setitem__(self, name: str, value: Entry | str | Callable[..., Any]) -> None:
        self._entries[name] = value if isinstance(value, Entry) else Entry(value)

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries


def resolve(path: str | Callable[..., Any]) -> Any:
    """The object named by `"module:name"`; anything but a string is returned unchanged."""
    if not isinstance(path, str):
        return path
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
