"""Warnings about arrays that are valid, but probably not intended."""

import numpy as np

from jaxrobust.errors import warn

_FEWEST = 20  # examples, of fewer nothing is said
_FEWEST_EACH = 5  # predictions of a column
_LEAST_GAIN = 0.1  # of the labels, that another order of the columns predicts more of
_NUM_SHOWN = 30  # classes, of whose order a message says all


def doubt_classes(argument: str, num_examples: int, num_classes: int) -> None:
    """Warns if nearly every label is different, as ids are."""
    if num_examples >= _FEWEST and num_classes > num_examples / 2:
        warn(
            f"{argument} holds {num_classes:,} different values in {num_examples:,} entries; if "
            "these are ids or measured numbers, give the column of the classes."
        )


def doubt_probabilities(ids: np.ndarray, probs: np.ndarray, classes: np.ndarray) -> bool:
    """Warns if columns or rows of probabilities do not seem to match the labels `ids`."""
    predicted = probs.argmax(axis=1)
    hits = np.mean(predicted == ids)
    if (order := order_of_columns(ids, probs)) is not None:
        many = len(classes) > _NUM_SHOWN
        names = "in the order of the columns" if many else classes[order].tolist()
        warn(
            "The columns of pred_probs seem to be in another order than the classes, "
            f"{classes[0]}, {classes[1]} and so on: they predict {100 * hits:.0f} % of the labels, "
            f"in the best order {100 * np.mean(order[predicted] == ids):.0f} %. If so, give "
            f"class_names={names}."
        )
        return True
    counts = np.stack([np.bincount(x, minlength=len(classes)) for x in (ids, predicted)])
    chance = np.prod(counts / len(ids), axis=0).sum()
    if len(ids) < _FEWEST or chance > 0.5 or hits > chance + 2 * np.sqrt(chance / len(ids)):
        return False
    warn(
        f"pred_probs predict {100 * hits:.0f} % of the labels, no more than chance: check that "
        "row i of labels and pred_probs is the same example."
    )
    return True


def order_of_columns(ids: np.ndarray, probs: np.ndarray) -> np.ndarray | None:
    """The class int `[C]` that each column predicts best; None where that hardly matters.

    Of n random predictions the best order agrees with about sqrt(2 n ln C) labels more than a given
    one, so that it must be twice as many, and most of the predictions of the columns that move.
    """
    from scipy.optimize import linear_sum_assignment

    count, size = probs.shape
    predicted = probs.argmax(axis=1)
    if np.mean(predicted == ids) > 1 - _LEAST_GAIN:
        return None
    table = np.bincount(predicted * size + ids, minlength=size * size).reshape(size, size)
    # Columns of which nothing is known stay where they are.
    _, order = linear_sum_assignment(2 * table + np.eye(size), maximize=True)
    moved = order != np.arange(size)
    most, now = table[moved].sum(), np.diag(table)[moved].sum()
    then = table[np.arange(size), order][moved].sum()
    least = max(_LEAST_GAIN * count, 2 * np.sqrt(2 * most * np.log(size)))
    is_better = then - now > least and then > max(most / 2, 2 * now)
    return order if is_better and most >= _FEWEST_EACH * moved.sum() else None


def doubt_issues(is_issue: np.ndarray) -> None:
    """Warns where more than half of the labels look wrong."""
    found, count = int(is_issue.sum()), len(is_issue)
    if count >= _FEWEST and found > count / 2:
        warn(
            f"{found:,} of {count:,} labels look wrong, more than half: check that row i of all "
            "arguments is the same example, and that the classes are in the intended order."
        )
