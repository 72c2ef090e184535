"""Leave-one-out scores of ridge regression in closed form."""

from typing import Protocol

import numpy as np

_CHUNK = 16_384  # examples at a time


class Rows(Protocol):
    """`[N, D]`, read by slices of rows: an array, or an object that reads one in parts."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


def leave_one_out_scores(
    features: Rows, labels: np.ndarray, *, num_classes: int, ridge: float = 0.3
) -> np.ndarray:
    """Scores of each example by a ridge regression of the labels that is trained without it.

    With standardised features X, centred one-hot labels Y and `H = X (X' X + ridge N I)^-1 X'`, the
    prediction of example i by the regression on all others is

        y_i - (y_i - (H Y)_i) / (1 - H_ii),

    so that one inverse of D x D replaces N trainings. Centring and standardising use all examples.

    Args:
      features: floats `[N, D]`, of any scale; read four times, 16,384 rows at a time.
      labels: int `[N]` in `0..C-1`.
      num_classes: C.
      ridge: weight of the squared weights per example; the default is ours.

    Returns:
      float32 `[N, C]`, clipped at 0. Rows do not sum to 1. `estimate_num_wrong` compares them with
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
    shares = np.bincount(labels, minlength=num_classes) / num_examples

    def rows(part):
        onehot = np.eye(num_classes, dtype=np.float32)[labels[part]]
        return (features[part].astype(np.float32) - mean) / std, onehot

    gram = ridge * num_examples * np.eye(num_dimensions)
    targets = np.zeros((num_dimensions, num_classes))
    for part in parts:
        x, onehot = rows(part)
        gram += x.T @ x
        targets += x.T @ (onehot - shares.astype(np.float32))
    inverse = np.linalg.inv(gram)
    weights = (inverse @ targets).astype(np.float32)
    inverse = inverse.astype(np.float32)
    scores = np.empty((num_examples, num_classes), np.float32)
    for part in parts:
        x, onehot = rows(part)
        leverage = np.sum((x @ inverse) * x, axis=1, keepdims=True)
        residual = onehot - shares.astype(np.float32) - x @ weights
        scores[part] = onehot - residual / (1 - leverage)
    return np.maximum(scores, 0)
