"""How many labels are wrong, by decoys: the labels that an example does not have."""

import numpy as np


def decoy_count(
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    level: float = 0.6,
    mistakes: np.ndarray | None = None,
) -> float:
    """Number of wrong labels from the margins of labels that are known to be wrong.

    An out-of-sample score does not depend on the example's own label, so that each of its other
    classes is a label of which it is known that it is wrong, a decoy:

        M[i, c] = s[i, c] - max over c' != c of s[i, c'],    m_i = M[i, y_i]
        t = weighted `level`-quantile of {M[i, d], d != y_i}
        count = #{m_i <= t} / level

    Class d weighs with y as `1 + #{j: y_j = y, argmax s_j = d}`, since some confusions are more
    frequent than others; or, where it is known how mistakes are spread, as a mistake of the class
    k that is most probable, `Q[k, d]`. Right labels below t are counted too: an upper estimate.

    Args:
      scores: floats `[N, C]`, log probabilities or others, out of sample.
      labels: int `[N]` in `0..C-1`.
      level: share of the wrong labels below t.
      mistakes: floats `[C, C]`, Q: the share of each label among the mistakes of each true class.

    Returns:
      At most N.
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
