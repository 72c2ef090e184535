"""Number of wrong labels from decoys: the classes that an example is not labelled with."""

import numpy as np


def decoy_count(
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    level: float = 0.6,
    mistakes: np.ndarray | None = None,
) -> float:
    """Estimates the number of wrong labels from the margins of labels that are known to be wrong.

    An out-of-sample score does not depend on the example's own label. Each of the other classes
    therefore serves as a decoy, a label that is known to be wrong:

        M[i, c] = s[i, c] - max over c' != c of s[i, c'],    m_i = M[i, y_i]
        t = weighted `level`-quantile of {M[i, d], d != y_i}
        count = #{m_i <= t} / level

    The weight of decoy d of an example with label y is `1 + #{j: y_j = y, argmax s_j = d}`, since
    some confusions are more frequent than others. If `mistakes` is given, the weight is `Q[k, d]`
    for the most probable class k. Correct labels below t are counted too, so the estimate is an
    upper one.

    Args:
      scores: floats `[N, C]`, log probabilities or other scores, out of sample.
      labels: int `[N]` in `0..C-1`.
      level: share of the wrong labels below t.
      mistakes: floats `[C, C]`, Q: the share of each label among the mistakes of each true class.

    Returns:
      The estimated number, at most N.
    """
    num_rows, num_classes = scores.shape
    rows = np.arange(num_rows)
    second, first = np.partition(scores, num_classes - 2, axis=1)[:, -2:].T
    is_top = scores >= first[:, None]
    margins = scores - np.where(is_top, second[:, None], first[:, None])
    predicted = scores.argmax(axis=1)
    if mistakes is None:
        confusions = np.ones((num_classes, num_classes))
        np.add.at(confusions, (labels, predicted), 1)
        np.fill_diagonal(confusions, 0)
        by_row = (confusions / confusions.sum(axis=1, keepdims=True))[labels]
    else:
        by_row = mistakes[predicted]
        by_row[rows, labels] = 0
    weights = by_row.ravel()
    order = np.argsort(margins, axis=None, kind="stable")
    shares = np.cumsum(weights[order])
    threshold = margins.ravel()[order[np.searchsorted(shares, level * shares[-1])]]
    return min(float(np.sum(margins[rows, labels] <= threshold)) / level, float(num_rows))
