"""Index plans: which examples each step of an epoch visits, in which order.

A plan has a fixed shape and a step count that is traced, so sets that grow from round to round run
through one compiled program.
"""

from typing import NamedTuple

import numpy as np

from jaxrobust.engine.sharding import Placement
from jaxrobust.errors import unknown_name

PADDING = -1
LAST_BATCHES = ("short", "even", "drop")


def padded_size(size: int) -> int:
    """The number of rows that programs are compiled for, at least `size`: four in every octave.

    They are a quarter more than `size` at most, and `size` itself up to 4 and from 65,536 on, where
    memory counts more than seconds of compiling.
    """
    if size <= 4 or size >= 65_536:
        return size
    step = 1 << ((size - 1).bit_length() - 3)
    return -(-size // step) * step


def pad_rows(array: np.ndarray, num_rows: int, value: float = 0) -> np.ndarray:
    """An array with one value in further rows."""
    more = num_rows - len(array)
    widths = [(0, more), *[(0, 0)] * (array.ndim - 1)]
    return np.pad(array, widths, constant_values=value) if more else array


def pad(array: np.ndarray, value: float = 0) -> np.ndarray:
    """`pad_rows` to `padded_size`."""
    return pad_rows(array, padded_size(len(array)), value)


class Plan(NamedTuple):
    """Rows of dataset ids."""

    # int32 `[max_steps, width]`, or a dict of such arrays where a step visits several sets;
    # `PADDING` marks slots without an example
    ids: np.ndarray | dict[str, np.ndarray]
    num_steps: int  # how many rows hold examples


def make_plan(
    ids: np.ndarray,
    batch_size: int,
    *,
    capacity: int,
    width: int | None = None,
    last_batch: str = "short",
) -> Plan:
    """Lays `ids` out in rows of at most `batch_size`, in the given order.

    Args:
      capacity: largest number of ids that the same program will ever see; fixes the plan's shape.
      width: slots per row, at least `batch_size` (rounded up to the number of devices).
      last_batch: how a remainder is treated: `"short"` keeps it as a row of its own, as PyTorch's
        loaders do; `"even"` makes all rows equally long up to one, so that BatchNorm never sees a
        row of one example; `"drop"` leaves it out where there is a full row.
    """
    if len(ids) > capacity:
        raise ValueError(f"{len(ids)} ids do not fit a plan of capacity {capacity}.")
    if last_batch not in LAST_BATCHES:
        raise ValueError(unknown_name("last_batch", last_batch, LAST_BATCHES))
    num_steps = -(-len(ids) // batch_size)
    if last_batch == "drop" and len(ids) >= batch_size:
        num_steps = len(ids) // batch_size
    rows = np.full((max(-(-capacity // batch_size), 1), width or batch_size), PADDING, np.int32)
    if last_batch == "even":
        parts = np.array_split(ids, max(num_steps, 1))
    else:
        parts = [ids[i * batch_size : (i + 1) * batch_size] for i in range(num_steps)]
    for row, part in zip(rows, parts, strict=False):
        row[: len(part)] = part
    return Plan(rows, num_steps)


def place_plan(
    ids: np.ndarray,
    batch_size: int,
    placement: Placement,
    *,
    capacity: int,
    last_batch: str = "short",
) -> Plan:
    """`make_plan` on the devices of `placement`, rows wide enough to be split over them."""
    width = placement.round_up(batch_size)
    plan = make_plan(ids, batch_size, capacity=capacity, width=width, last_batch=last_batch)
    return plan._replace(ids=placement.put_plan(plan.ids))
