"""Leave-one-out scores of ridge regression in closed form."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from threadpoolctl import threadpool_limits

_CHUNK = 16_384  # examples at a time
_RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0)
_LEAST = 1e-3  # share of an example that others must explain; below it rounding decides


class Rows(Protocol):
    """`[N, D]`, read in slices of rows: an array, or an object that reads one in parts."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


def leave_one_out_scores(
    features: Rows,
    labels: np.ndarray,
    *,
    num_classes: int,
    ridges: Sequence[float] = _RIDGES,
    where: np.ndarray | None = None,
    clip: bool = True,
) -> np.ndarray:
    """Scores of each example from a ridge regression of the labels that is trained without it.

    With standardised features X, one-hot labels Y with mean m and `H = X (X' X + ridge N I)^-1 X'`,
    the prediction of example i by the regression with an intercept on all others is

        y_i - r_i,    r_i = (y_i - m - (H (Y - m))_i) / (1 - 1 / N - H_ii),

    so that one eigendecomposition of D x D replaces N trainings for every ridge. The ridge with the
    smallest mean of `|r_i|^2` is used. Standardising uses all examples. If the other examples
    explain less than 0.001 of an example, `1 - 1 / N - H_ii < 0.001`, the prediction is m.

    Args:
      features: floats `[N, D]`, of any scale; read 16,384 rows at a time, several times.
      labels: int `[N]` in `0..C-1`, or floats `[N, C]`, the probability of each class.
      num_classes: C.
      ridges: penalties per example to choose from; the defaults are ours. With more than 16,384
        examples, the choice is made on 16,384 evenly spaced ones.
      where: bool `[N]`, the examples to train on; the others are predicted by the regression on all
        of these. None for all.
      clip: whether to set scores below 0 to 0.

    Returns:
      float32 `[N, C]`. Rows do not sum to 1. `estimate_num_wrong` compares each score with the mean
      of its class.

    References:
      Allen, "The relationship between variable selection and data augmentation and a method for
      prediction", Technometrics 1974 (PRESS).
    """
    labels = np.asarray(labels)
    if labels.ndim == 1:
        labels = np.eye(num_classes, dtype=np.float32)[labels]
    scores = leave_one_out(features, ridges=ridges, where=where)(labels)
    return np.maximum(scores, 0) if clip else scores


def leave_one_out(
    features: Rows, *, ridges: Sequence[float] = _RIDGES, where: np.ndarray | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """`leave_one_out_scores` of labels `[N, C]`, not clipped; D x D is decomposed once."""
    num_examples, num_dimensions = features.shape
    parts = [slice(i, i + _CHUNK) for i in range(0, num_examples, _CHUNK)]
    weights = np.ones(num_examples, np.float32) if where is None else where.astype(np.float32)
    num_trained = float(weights.sum())
    mean, squares = np.zeros(num_dimensions), np.zeros(num_dimensions)
    for part in parts:
        mean += np.sum(features[part] * weights[part, None], axis=0, dtype=np.float64) / num_trained
    for part in parts:
        squares += np.sum(weights[part, None] * (features[part] - mean) ** 2, axis=0) / num_trained
    std = np.sqrt(np.where(squares > 0, squares, 1))
    mean, std = mean.astype(np.float32), std.astype(np.float32)

    def rows(part, step=1):
        return (features[part][::step].astype(np.float32) - mean) / std

    gram = np.zeros((num_dimensions, num_dimensions))
    for part in parts:
        x = rows(part)
        gram += (x * weights[part, None]).T @ x
    # Beside other work OpenBLAS's threads wait for each other here for up to a minute.
    with threadpool_limits(1, user_api="blas"):
        eigenvalues, rotation = np.linalg.eigh(gram)
    inverses = {r: 1 / (np.maximum(eigenvalues, 0) + r * num_trained) for r in ridges}
    rotation = rotation.astype(np.float32)

    def scores(labels: np.ndarray) -> np.ndarray:
        labels = labels.astype(np.float32, copy=False)
        shares = np.average(labels, axis=0, weights=weights).astype(np.float32)
        targets = np.zeros((num_dimensions, labels.shape[1]))
        for part in parts:
            targets += rows(part).T @ ((labels[part] - shares) * weights[part, None])
        targets = rotation.T @ targets

        def residuals(rotated, part, ridge, step=1):
            """`r_i` of `[n, D]` rows of X along the eigenvectors."""
            predicted = rotated @ (inverses[ridge][:, None] * targets).astype(np.float32)
            leverage = np.square(rotated) @ inverses[ridge].astype(np.float32) + 1 / num_trained
            rest = (1 - weights[part][::step] * leverage)[:, None]
            centred = labels[part][::step] - shares
            # Divided by a rest of rounding, an example would be predicted by its own label.
            return np.where(
                rest < _LEAST, centred, (centred - predicted) / np.maximum(rest, _LEAST)
            )

        step = len(parts)
        errors = np.zeros(len(ridges))
        for part in parts:
            rotated, weight = rows(part, step) @ rotation, weights[part][::step, None]
            errors += [
                np.sum(weight * np.square(residuals(rotated, part, ridge, step)))
                for ridge in ridges
            ]
        best = ridges[int(np.argmin(errors))]
        found = np.empty(labels.shape, np.float32)
        for part in parts:
            found[part] = labels[part] - residuals(rows(part) @ rotation, part, best)
        return found

    return scores
