"""Detects wrong labels from the labels of the nearest examples: SimiFeat and WANN, on features."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust.errors import UserError
from jaxrobust.selection.judges import most_similar, nearest, standardized
from jaxrobust.selection.wrong_labels import on_sides_of_a_half

_MOST_CLASSES = 128  # whose triples fit in memory
_NUM_STEPS = 400
_NO_VOTE = 1e-8  # keeps shares finite
_LITTLE = 1e-6  # of the votes, which only part equal numbers of neighbours


class NeighborVotes(NamedTuple):
    """The verdict of the neighbours on N labels.

    Attributes:
      probs: float32 `[N, C]`, shares of the votes.
      wrong_prob: float64 `[N]`, share of the votes against the label, not a calibrated probability;
        above one half for flagged labels and at most one half for the others.
      flagged: bool `[N]`, whether the label is probably wrong.
      ranked: int `[N]`, positions, the most suspicious first.
    """

    probs: np.ndarray
    wrong_prob: np.ndarray
    flagged: np.ndarray
    ranked: np.ndarray


def simifeat(
    features: np.ndarray, labels: np.ndarray, num_classes: int, *, num_neighbors: int = 10
) -> NeighborVotes:
    """SimiFeat-V: compares each label with the votes of the nearest examples and its own.

    With s the cosine similarities to the k - 1 nearest examples, largest first, the label itself
    votes with 2 s_1 - s_2:

        v_c = (2 s_1 - s_2) [y = c] + sum_j s_j [y_j = c]

    A label is flagged if it does not have the most votes; labels are ranked by v_y / |v|.

    Args:
      features: floats `[N, D]`.
      labels: int `[N]` in `0..C-1`.
      num_classes: C.
      num_neighbors: k, at least 3; reduced if there are fewer rows.

    Returns:
      `NeighborVotes`.

    References:
      Zhu, Dong and Liu, "Detecting Corrupted Labels Without Training a Model to Predict", ICML
      2022, Algorithm 1 with one epoch, since features are not augmented; the weights are those of
      the authors' code, whereas the paper has equal ones.
    """
    votes, scores, _ = _similar(features, labels, num_classes, num_neighbors)
    return _answer(votes, labels, votes.argmax(axis=1) != labels, scores)


def simifeat_rank(
    features: np.ndarray, labels: np.ndarray, num_classes: int, *, num_neighbors: int = 10
) -> NeighborVotes:
    """SimiFeat-R: flags the lowest scores of each class j, a share 1 - P(true = j | label = j).

    The share follows from `transition_of_triples`. Scores, arguments and paper are those of
    `simifeat`.

    Raises:
      UserError: for more than 128 classes.
    """
    if num_classes > _MOST_CLASSES:
        raise UserError(
            f"method='simifeat_rank' counts the labels of three examples at once, for which "
            f"{num_classes:,} classes are too many; take method='simifeat', or at most "
            f"{_MOST_CLASSES} classes."
        )
    votes, scores, triples = _similar(features, labels, num_classes, num_neighbors)
    matrix, prior = transition_of_triples(triples, num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    right = np.minimum(np.diag(matrix) * prior * len(labels) / np.maximum(counts, 1), 1)
    flagged = np.zeros(len(labels), bool)
    for c, count in enumerate(counts):
        ids = np.flatnonzero(labels == c)
        lowest = ids[np.argsort(scores[ids], kind="stable")]
        flagged[lowest[: int((1 - right[c]) * count)]] = True
    return _answer(votes, labels, flagged, scores)


def wann(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    *,
    fewest: int = 11,
    most: int = 51,
) -> NeighborVotes:
    """WANN: rates each label by the number of nearest neighbours needed to predict it.

    Let k_i be the smallest number of neighbours among `fewest`, `fewest` + 2, ... below `most`
    whose most frequent label is y_i, or `most` if there is none. The label has the reliability 1 /
    k_i, which weights the example's vote in the neighbourhoods of other examples. The size of a
    neighbourhood is the k of the nearest neighbour:

        v_c = sum over the k_n nearest j of [y_j = c] / k_j,    n the nearest

    A label with k_i = `most` is flagged. Labels are ranked by 1 / k_i, and ties by their share of
    the votes.

    Args:
      features: floats `[N, D]`; they are standardised.
      labels: int `[N]` in `0..C-1`.
      num_classes: C.
      fewest: smallest number of neighbours; reduced if there are fewer rows.
      most: number of neighbours for labels that no smaller number predicts; also reduced if there
        are fewer rows.

    Returns:
      `NeighborVotes`.

    References:
      Di Salvo et al., "An Embedding is Worth a Thousand Noisy Labels", TMLR 2025, section 3;
      flagged labels are those that its filter for LDA leaves out.
    """
    _, neighbors = nearest(standardized(features), most)
    given, available = labels[neighbors], neighbors.shape[1]
    needed = np.full(len(labels), most)
    for k in range(min(fewest, available), min(most, available + 1), 2):
        counts = _votes(np.ones((len(labels), k)), given[:, :k], num_classes)
        needed[(needed == most) & (counts.argmax(axis=1) == labels)] = k
    is_asked = np.arange(available) < needed[neighbors[:, :1]]
    votes = _votes(is_asked / needed[neighbors], given, num_classes)
    shares = votes[np.arange(len(labels)), labels] / votes.sum(axis=1)
    return _answer(votes, labels, needed == most, 1 / needed + _LITTLE * shares)


def transition_of_triples(triples: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Estimates the transition matrix from labels of examples and their two nearest neighbours.

    If all three have the same true class and their labels are wrong independently of each other,
    the probabilities of single labels, pairs and triples are

        sum_k p_k T[k, a],    sum_k p_k T[k, a] T[k, b],    sum_k p_k T[k, a] T[k, b] T[k, c]

    The sum of the Euclidean distances between these and the observed frequencies is minimised.

    Args:
      triples: int `[N, 3]`.
      num_classes: C.

    Returns:
      T, `[C, C]`, the probability of each label given the true class, and p, `[C]`, that of the
      true classes.

    References:
      Zhu, Song and Liu, "Clusterability as an Alternative to Anchor Points When Learning with Noisy
      Labels", ICML 2021.
    """
    seen = np.zeros((num_classes,) * 3, np.float32)
    np.add.at(seen, tuple(triples.T), 1 / len(triples))
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam has powers of whole numbers
        matrix, prior = _fitted_transition(seen)
    return np.asarray(matrix), np.asarray(prior)


@jax.jit
def _fitted_transition(seen):
    """T and p by 400 steps of Adam, as in the authors' code, from T of a large diagonal."""
    num_classes = len(seen)
    params = 5 * jnp.eye(num_classes) - 1, jnp.zeros(num_classes)
    optimizer = optax.adam(0.1)

    @jax.value_and_grad
    def distance(params):
        matrix, prior = (jax.nn.softmax(x, axis=-1) for x in params)
        joint = (prior[:, None] * matrix).T
        pairs = jnp.matmul(joint, matrix, precision="highest")
        triples = jnp.einsum("ak,kb,kc->abc", joint, matrix, matrix, precision="highest")
        gaps = joint.sum(1) - seen.sum((1, 2)), pairs - seen.sum(2), triples - seen
        return sum(jnp.sqrt(jnp.sum(jnp.square(gap)) + 1e-12) for gap in gaps)

    def step(_, carry):
        params, state, best, least = carry
        value, slope = distance(params)
        is_less = value < least
        best = jax.tree.map(lambda x, y: jnp.where(is_less, x, y), params, best)
        updates, state = optimizer.update(slope, state)
        params = optax.apply_updates(params, updates)
        return params, state, best, jnp.minimum(value, least)

    carry = params, optimizer.init(params), params, jnp.float32(jnp.inf)
    best = jax.lax.fori_loop(0, _NUM_STEPS, step, carry)[2]
    return tuple(jax.nn.softmax(x, axis=-1) for x in best)


def _similar(features, labels, num_classes, num_neighbors):
    """SimiFeat's votes `[N, C]` and scores `[N]`, and the labels `[N, 3]` of the two nearest."""
    similarities, neighbors = most_similar(features, num_neighbors - 1)
    own = 2 * similarities[:, :1] - similarities[:, 1:2]
    rows = np.arange(len(labels))
    given = labels[np.concatenate([rows[:, None], neighbors], axis=1)]
    votes = _votes(np.concatenate([own, similarities], axis=1), given, num_classes)
    return votes, votes[rows, labels] / np.linalg.norm(votes, axis=1), given[:, :3]


def _votes(weights: np.ndarray, given: np.ndarray, num_classes: int) -> np.ndarray:
    """Sums `[N, C]` of weights `[N, k]` over the labels `[N, k]` of one class."""
    rows = np.broadcast_to(np.arange(len(given))[:, None], given.shape)
    votes = np.full((len(given), num_classes), _NO_VOTE)
    np.add.at(votes, (rows, given), np.maximum(weights, 0))
    return votes


def _answer(votes, labels, flagged, scores) -> NeighborVotes:
    probs = votes / votes.sum(axis=1, keepdims=True)
    wrong_prob = on_sides_of_a_half(1 - probs[np.arange(len(labels)), labels], flagged)
    ranked = np.argsort(scores, kind="stable")
    return NeighborVotes(probs.astype(np.float32), wrong_prob, flagged, ranked)
