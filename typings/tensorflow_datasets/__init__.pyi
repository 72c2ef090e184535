"""A set's features are known at run time alone; the library gives them the type of their base."""

from typing import Any

def __getattr__(name: str) -> Any: ...
