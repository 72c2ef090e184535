"""Features of any range in float16: standardised in float64 if they need it."""

import dataclasses

import numpy as np

from jaxrobust.data.features import CHUNK
from jaxrobust.errors import UserError

_LARGEST = 6e4  # below the largest float16, 65,504
# Smallest share of a standard deviation that the middle half of a column must span.
_LEAST_SPREAD = 1e-6
_FAR = 20  # standard deviations, beyond which a column is looked at for that


@dataclasses.dataclass(frozen=True)
class Scaling:
    """`(x - mean) / std` before features are stored as float16."""

    mean: np.ndarray  # float64 `[D]`
    # float64 `[D]`; infinite for a column of one value, which becomes 0 whatever it is later
    std: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        scaled = np.empty(features.shape, np.float32)
        for i in range(0, len(features), CHUNK):
            with np.errstate(over="ignore"):
                values = (features[i : i + CHUNK].astype(np.float64) - self.mean) / self.std
            scaled[i : i + CHUNK] = np.clip(values, -_LARGEST, _LARGEST)
        return scaled


def scaling_of(features: np.ndarray) -> Scaling | None:
    """The scaling of features `[N, V, D]` for float16; None if they need none.

    They need one if they exceed its range, or if it would round a dimension by more than 0.01 of
    its standard deviation. A constant column is left out: it carries no information, and its value
    in other examples has not been learned. Refused if every column is constant, or if one example
    is so far from all others that their differences vanish.
    """
    rows = features.reshape(-1, features.shape[-1])
    if not len(rows):
        return None
    low, high = rows.min(axis=0).astype(np.float64), rows.max(axis=0).astype(np.float64)
    is_constant = low == high
    if is_constant.all():
        raise UserError(
            f"features has a single value in each of its {len(low)} columns, so the examples do "
            "not differ; give features that differ."
        )
    largest = np.maximum(high, -low)
    mean, std = _moments(rows, np.where(largest > 0, largest, 1.0))
    _check_spread(rows, features.shape[1], mean, std, is_constant)
    if features.dtype == np.float16:
        is_needed = False
    else:
        rounding = np.maximum(largest * 2.0**-11, 2.0**-24)
        is_needed = ((largest > _LARGEST) | (rounding > 0.01 * std))[~is_constant].any()
    if not is_needed and not is_constant.any():
        return None
    if not is_needed:
        mean, std = np.where(is_constant, mean, 0.0), np.ones_like(std)
    return Scaling(mean, np.where(is_constant, np.inf, std))


def _moments(rows: np.ndarray, largest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation float64 `[D]`, divided by the largest so that none overflows."""

    def mean_of(function) -> np.ndarray:
        total = np.zeros_like(largest)
        for i in range(0, len(rows), CHUNK):
            total += function(rows[i : i + CHUNK] / largest).sum(axis=0)
        return total / len(rows)

    mean = mean_of(lambda values: values)
    std = np.sqrt(mean_of(lambda values: np.square(values - mean)))
    return mean * largest, std * largest


def _check_spread(
    rows: np.ndarray, num_views: int, mean: np.ndarray, std: np.ndarray, is_constant: np.ndarray
) -> None:
    """Refuses a value that leaves nothing of the differences between all others."""
    furthest = np.maximum(rows.max(axis=0) - mean, mean - rows.min(axis=0))
    far = min(_FAR, 0.9 * (len(rows) - 1) ** 0.5)
    with np.errstate(over="ignore", invalid="ignore"):
        suspects = np.flatnonzero((furthest > far * std) & ~is_constant)
    for column in suspects:
        values = rows[:, column].astype(np.float64)
        first, last = np.quantile(values, (0.25, 0.75))
        if 0 < last - first < _LEAST_SPREAD * std[column]:
            row = int(np.argmax(np.abs(values - mean[column])))
            raise UserError(
                f"features[{row // num_views}] holds {values[row]:.6g} in column {column}, where "
                f"half of all values lie between {first:.6g} and {last:.6g}; correct it, leave out "
                "that example, or take the logarithm of the column."
            )
