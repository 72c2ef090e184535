"""Random draws on the host."""

import numpy as np

from jaxrobust.errors import UserError


def host_generator(seed: int, stream: str) -> np.random.Generator:
    """NumPy generator that depends on `seed` and the name of the draw, and on nothing else."""
    if seed < 0:
        raise UserError(f"seed must be 0 or more, but is {seed}.")
    return np.random.default_rng([seed, *stream.encode()])
