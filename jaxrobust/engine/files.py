"""Files that a kill leaves whole."""

import json
import pathlib
from typing import Any


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON so that a kill leaves the old file or the new one, never a part."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes UTF-8 text so that a kill leaves the old file or the new one, never a part."""
    write_bytes(path, text.encode())


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file so that a kill leaves the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".part")
    scratch.write_bytes(content)
    scratch.replace(path)
