"""Random draws on the host."""

import numpy as np


def host_generator(seed: int, stream: str) -> np.random.Generator:
    """NumPy generator that depends on `seed` and the name of the draw, and on nothing else."""
    return np.random.default_rng([seed, *stream.encode()])
