"""Leave-one-out scores of ridge regression in closed form."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from threadpoolctl import threadpool_limits

_CHUNK = 16_384  # examples at a time
_LEAST = 1e-3  # share of an example that others must explain; below it rounding decides


class Rows(Protocol):
    """`[N, D]`, read by slices of rows: an array, or an object that reads one in parts."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


def leave_one_out_scores(
    features: Rows,
    labels: np.ndarray,
    *,
    num_classes: int,
    ridges: Sequence[float] = (0.1, 0.3, 1.0, 3.0, 10.0),
    clip: bool = True,
) -> np.ndarray:
    """Scores of each example by a ridge regression of the labels that is trained without it.

    With standardised features X, one-hot labels Y of mean m and `H = X (X' X + ridge N I)^-1 X'`,
    the prediction of example i by the regression with an intercept on all others is

        y_i - r_i,    r_i = (y_i - m - (H (Y - m))_i) / (1 - 1 / N - H_ii),

    so that one eigendecomposition of D x D replaces N trainings for every ridge. The ridge is the
    one of the least mean of `|r_i|^2`. Standardising uses all examples.

    Args:
      features: floats `[N, D]`, of any scale; read five times, 16,384 rows at a time.
      labels: int `[N]` in `0..C-1`.
      num_classes: C.
      ridges: weights of the squared weights per example to choose from; the defaults are ours. Of
        more than 16,384 examples as many, evenly spaced, decide.
      clip: whether scores below 0 become 0.

    Returns:
      float32 `[N, C]`. Rows do not sum to 1. `estimate_num_wrong` compares them with
      their class's mean.

    References:
      Allen, "The relationship between variable selection and data augmentation and a method for
      prediction", Technometrics 1974 (PRESS).
    """
    num_examples, num_dimensions = features.shape
    parts = [slice(i, i + _CHUNK) for i in range(0, num_examples, _CHUNK)]
    mean, squares = np.zeros(num_dimensions), np.zeros(num_dimensions)
    for part in parts:
        mean += np.sum(features[part], axis=0, dtype=np.float64) / num_examples
    for part in parts:
        squares += np.sum((features[part] - mean) ** 2, axis=0) / num_examples
    std = np.sqrt(np.where(squares > 0, squares, 1))
    mean, std = mean.astype(np.float32), std.astype(np.float32)
    shares = (np.bincount(labels, minlength=num_classes) / num_examples).astype(np.float32)

    def rows(part, step=1):
        onehot = np.eye(num_classes, dtype=np.float32)[labels[part]]
        return (features[part][::step].astype(np.float32) - mean) / std, onehot[::step]

    gram = np.zeros((num_dimensions, num_dimensions))
    targets = np.zeros((num_dimensions, num_classes))
    for part in parts:
        x, onehot = rows(part)
        gram += x.T @ x
        targets += x.T @ (onehot - shares)
    # Beside other work OpenBLAS's threads wait for each other here for up to a minute.
    with threadpool_limits(1, user_api="blas"):
        eigenvalues, rotation = np.linalg.eigh(gram)
    targets, rotation = rotation.T @ targets, rotation.astype(np.float32)

    def residuals(rotated, onehot, ridge):
        """`r_i` of `[n, D]` rows of X along the eigenvectors."""
        shrinkage = 1 / (np.maximum(eigenvalues, 0) + ridge * num_examples)
        predicted = rotated @ (shrinkage[:, None] * targets).astype(np.float32)
        leverage = np.square(rotated) @ shrinkage.astype(np.float32) + 1 / num_examples
        return (onehot - shares - predicted) / np.maximum(1 - leverage, _LEAST)[:, None]

    errors = np.zeros(len(ridges))
    for part in parts:
        x, onehot = rows(part, step=len(parts))
        rotated = x @ rotation
        errors += [np.sum(np.square(residuals(rotated, onehot, ridge))) for ridge in ridges]
    best = ridges[int(np.argmin(errors))]
    scores = np.empty((num_examples, num_classes), np.float32)
    for part in parts:
        x, onehot = rows(part)
        scores[part] = onehot - residuals(x @ rotation, onehot, best)
    return np.maximum(scores, 0) if clip else scores
