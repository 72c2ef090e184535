"""Checksums of what is kept for long: damage is found before anything damaged is used.

CRC-32 finds every flipped bit and every burst of up to 32, at memory's speed. It is no protection
against a person who changes a file on purpose.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

CONTENT = "content_crc32"
"""Field of a signed record."""


def of_array(array: Any) -> int:
    """CRC-32 of the bytes of an array, whatever devices it lies on."""
    host = np.ascontiguousarray(np.asarray(array))
    return zlib.crc32(host.reshape(-1).view(np.uint8).data)


def of_tree(tree: Any) -> dict[str, int]:
    """`of_array` by path, of every array of a pytree that this process has as a whole."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): of_array(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated
    }


def signed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON-able record as it will be read again, with its checksum."""
    content = json.loads(json.dumps(record))
    return {**content, CONTENT: _of_json(content)}


def verified(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record that `signed` was given, or ValueError; unsigned ones pass."""
    content = dict(record)
    expected = content.pop(CONTENT, None)
    if expected is not None and expected != _of_json(content):
        raise ValueError(
            "its content has changed since it was written; if you changed it, remove "
            f"{CONTENT} from it"
        )
    return content


def check_tree(tree: Any, expected: Mapping[str, int]) -> None:
    """Compares a pytree with what `of_tree` gave of it; ValueError names what changed."""
    found = of_tree(tree)
    for name in sorted(expected.keys() & found.keys()):
        if found[name] != expected[name]:
            raise ValueError(f"the array {name} has changed since it was written")


def _of_json(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
