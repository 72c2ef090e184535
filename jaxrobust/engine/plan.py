"""Index plans: which examples each step of an epoch visits, in which order.

A plan has a fixed shape and a step count that is traced, so sets that grow from round to round run
through one compiled program.
"""

from typing import NamedTuple

import numpy as np

PADDING = -1


class Plan(NamedTuple):
    """Rows of dataset ids.

    Attributes:
      ids: int32 `[max_steps, width]`; `PADDING` marks slots without an example.
      num_steps: how many rows hold examples.
    """

    ids: np.ndarray
    num_steps: int


def make_plan(
    ids: np.ndarray, batch_size: int, *, capacity: int, width: int | None = None
) -> Plan:
    """Lays `ids` out in rows of `batch_size`, in the given order; the last row may be short.

    Args:
      ids: int `[n]` dataset ids.
      batch_size: examples per step.
      capacity: largest `n` that the same program will ever see; fixes the plan's shape.
      width: slots per row, at least `batch_size` (rounded up to the number of devices).

    Returns:
      The plan; every id appears once.

    Raises:
      ValueError: if there are more ids than `capacity`.
    """
    if len(ids) > capacity:
        raise ValueError(f"{len(ids)} ids do not fit a plan of capacity {capacity}.")
    width = batch_size if width is None else width
    max_steps = max(-(-capacity // batch_size), 1)
    num_steps = -(-len(ids) // batch_size)
    rows = np.full((max_steps, batch_size), PADDING, np.int32)
    rows.reshape(-1)[: len(ids)] = ids
    return Plan(np.pad(rows, ((0, 0), (0, width - batch_size)), constant_values=PADDING), num_steps)
