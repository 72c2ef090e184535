"""The reliability of the annotators of a consensus."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from jaxrobust.data.votes import Votes

_INTERVAL = 0.95


@dataclasses.dataclass(frozen=True, eq=False)
class Annotators:
    """The reliability of A annotators; arrays are in the order of `ids`.

    Attributes:
      ids: `[A]`, as given.
      votes: int `[A]`, number of votes.
      accuracy: float32 `[A]`, probability that a vote is correct, shrunk towards that of all
        annotators, which counts as ten votes.
      accuracy_low: float32 `[A]`, lower end of the 95 % interval of the accuracy.
      accuracy_high: float32 `[A]`, upper end of that interval.
      agreement: float32 `[A]`, share of other annotators' votes on the same items that agree; NaN
        if nobody else voted on them.
      confusions: float32 `[A, C, C]`, probability of each vote (columns) given the true class
        (rows), computed on first use.
    """

    ids: np.ndarray
    votes: np.ndarray
    accuracy: np.ndarray
    accuracy_low: np.ndarray
    accuracy_high: np.ndarray
    agreement: np.ndarray
    _confusions: Callable[[], np.ndarray] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def confusions(self) -> np.ndarray:
        return self._confusions()


def padded_votes(votes: Votes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Items, annotators and classes of the votes, padded with -1; padding is ignored."""
    from jaxrobust.engine.plan import pad

    return pad(votes.items, -1), pad(votes.annotators, -1), pad(votes.votes, -1)


def find_annotators(votes: Votes, probs: np.ndarray) -> Annotators:
    """The annotators, from the calibrated probabilities `[N, C]` of the items."""
    from scipy.special import betaincinv

    from jaxrobust import selection
    from jaxrobust.engine.plan import pad, padded_size
    from jaxrobust.selection.annotators import STRENGTH

    count = votes.num_annotators
    operands = pad(probs), *padded_votes(votes)
    num_annotators = padded_size(count)
    accuracy = selection.annotator_accuracies(*operands, num_annotators=num_annotators)
    accuracy = np.asarray(accuracy)[:count]
    sizes = np.bincount(votes.annotators, minlength=count)
    right, tail = accuracy.astype(np.float64) * (sizes + STRENGTH), (1 - _INTERVAL) / 2
    wrong = sizes + STRENGTH - right
    # Of other votes on the same items.
    flat = votes.items.astype(np.int64) * votes.num_classes + votes.votes
    _, place, same = np.unique(flat, return_inverse=True, return_counts=True)
    others = np.bincount(votes.items, minlength=votes.num_items)[votes.items] - 1
    same = np.bincount(votes.annotators, same[place] - 1.0, count)
    others = np.bincount(votes.annotators, others, count)
    agreement = np.divide(same, others, out=np.full(count, np.nan), where=others > 0)

    def confusions() -> np.ndarray:
        found = selection.annotator_confusions(*operands, num_annotators=num_annotators)
        return np.asarray(found)[:count]

    return Annotators(
        ids=votes.annotator_ids,
        votes=sizes,
        accuracy=accuracy,
        accuracy_low=betaincinv(right, wrong, tail).astype(np.float32),
        accuracy_high=betaincinv(right, wrong, 1 - tail).astype(np.float32),
        agreement=agreement.astype(np.float32),
        _confusions=confusions,
    )
