"""Out-of-sample scores in closed form, by leaving out one example at a time."""

from typing import Protocol

import numpy as np

_CHUNK = 16_384  # examples at a time


class Rows(Protocol):
    """`[N, D]`, of which slices of rows are asked for: an array, or what reads one in parts."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


def leave_one_out_scores(
    features: Rows, labels: np.ndarray, *, num_classes: int, ridge: float = 0.3
) -> np.ndarray:
    """What ridge regression of the labels predicts of each example without having seen it.

    With standardised features X, centred one-hot labels Y and `H = X (X' X + ridge N I)^-1 X'`, the
    prediction of example i by the regression on all others is

        y_i - (y_i - (H Y)_i) / (1 - H_ii),

    so that one solve of D x D stands for N trainings. Centring and standardising see all examples.

    Args:
      features: floats `[N, D]`, of any scale; read four times, some thousand rows at a time.
      labels: int `[N]` in `0..C-1`.
      num_classes: C.
      ridge: of the squared weights, per example.

    Returns:
      float32 `[N, C]`, clipped at 0. No probabilities: rows do not sum to 1. Their order within a
      class is what `estimate_num_wrong` reads.

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
