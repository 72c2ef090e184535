"""Random draws as pure functions of (seed, stream name, indices).

No key is threaded through a loop, so a resumed run, or one that asks for step 700 alone, draws the
same numbers as an uninterrupted one.
"""

import zlib

import jax
import numpy as np


def _stream_id(name: str) -> int:
    return zlib.crc32(name.encode())


def stream(seed: int, name: str, *indices: int) -> jax.Array:
    """Typed JAX key of one named stream."""
    key = jax.random.fold_in(jax.random.key(seed), _stream_id(name))
    for index in indices:
        key = jax.random.fold_in(key, index)
    return key


def generator(seed: int, name: str, *indices: int) -> np.random.Generator:
    """NumPy generator of one named stream, for draws that are made on the host."""
    return np.random.default_rng([seed, _stream_id(name), *indices])
