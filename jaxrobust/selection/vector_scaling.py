"""Probabilities from scores: a temperature, then a scale and a bias for each class."""

from collections.abc import Sequence

import numpy as np

TEMPERATURES = tuple(range(1, 41))


def vector_scaling(
    scores: np.ndarray,
    probs: np.ndarray,
    *,
    where: np.ndarray | None = None,
    temperatures: Sequence[float] = TEMPERATURES,
) -> np.ndarray:
    """Fits log probabilities `log_softmax(w * s_i + b)` to given probabilities.

    First t is chosen to minimise the cross-entropy of `softmax(t s_i)` with the given
    probabilities; then w and b, `[C]` each, minimise

        - sum_i sum_c q_i(c) log softmax(w * s_i + b)_c + (|w - t|^2 + |b|^2) / 2.

    Host code.

    Args:
      scores: floats `[N, C]`, s: logits, log probabilities, or regression scores.
      probs: floats `[N, C]`, q, whose rows sum to 1.
      where: bool `[N]`, the rows to fit; None for all.
      temperatures: values to choose t from; the defaults are for leave-one-out scores near 0 and 1.

    Returns:
      float32 `[N, C]`, for all rows.

    References:
      Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017,
      section 4.2 (vector scaling). The penalty is ours.
    """
    # Imported late: losses and selection load JAX alone.
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    fitted = np.ones(len(scores), bool) if where is None else where
    s, q = scores[fitted].astype(np.float64), probs[fitted].astype(np.float64)
    num_classes = scores.shape[1]

    def cross_entropy(scaled):
        return -float(np.sum(q * log_softmax(scaled, axis=1)))

    best = min(temperatures, key=lambda t: cross_entropy(t * s))
    start = np.repeat([float(best), 0.0], num_classes)

    def objective(x):
        w, b = x[:num_classes], x[num_classes:]
        log_probs = log_softmax(w * s + b, axis=1)
        error = np.exp(log_probs) - q
        gradient = np.concatenate([np.sum(error * s, axis=0), np.sum(error, axis=0)])
        penalty = np.sum(np.square(x - start)) / 2
        return penalty - np.sum(q * log_probs), gradient + x - start

    x = minimize(objective, start, jac=True, method="L-BFGS-B").x
    return log_softmax(x[:num_classes] * scores + x[num_classes:], axis=1).astype(np.float32)
