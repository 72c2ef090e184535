"""The probability that each label is wrong, and their number, from the scores of several judges."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import brentq, minimize

from jaxrobust.selection.decoys import decoy_count

_RATES = np.array(
    [0.001, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.14, 0.18, 0.23, 0.29, 0.36, 0.44, 0.52]
)
_TEMPERATURE = 0.75  # of the mistakes that follow the examples
_MOST_ROWS = 8192  # on which weights and rate are fitted
_MOST_CLASSES = 64  # above it, the most probable ones of each example count
_NUM_KEPT = 32
_MOST_CLASS_PAIRS = 32  # classes up to which mistakes of pairs of classes are looked for
_DECOYS_BELOW = 0.7  # share of the decoys that counts
_PSEUDO_MISTAKES = 10.0  # of each class, spread evenly over the others
_MODEL_ERROR = 0.25  # of the expected number, where pairs of classes are estimated
_Z90 = 1.645


class WrongLabels(NamedTuple):
    """The combined verdict of several judges on N labels.

    Attributes:
      probs: float32 `[N, C]`, probabilities of the true class.
      wrong_prob: float64 `[N]`, probability that the given label is wrong.
      flagged: bool `[N]`, whether the label is probably wrong: `wrong_prob` above one half.
      ranked: int `[N]`, positions of the labels, the most suspicious first.
      num_wrong: expected number of wrong labels, the sum of `wrong_prob`.
      interval: (low, high), an interval for the number of wrong labels.
      weights: float64 `[J]`, weights of the judges' standardised scores.
      kind: kind of the mistakes: "uniform", "similar" (towards classes that the example resembles)
        or "pairs" (they depend on the true class).
      agreement: share of the labels that equal the most probable class.
    """

    probs: np.ndarray
    wrong_prob: np.ndarray
    flagged: np.ndarray
    ranked: np.ndarray
    num_wrong: float
    interval: tuple[float, float]
    weights: np.ndarray
    kind: str
    agreement: float


class _Fit(NamedTuple):
    """Parameters for each rate of wrong labels, and how probable each rate is."""

    params: np.ndarray  # [R, J + 1]
    losses: np.ndarray  # [R]
    expected: np.ndarray  # [R], share of wrong labels
    shares: np.ndarray  # [R], posterior
    similar: np.ndarray  # [R], share of mistakes that follow the examples


def find_wrong_labels(
    scores: np.ndarray, labels: np.ndarray, *, order: str = "odds"
) -> WrongLabels:
    """The probability that each label is wrong, from out-of-sample scores and the labels alone.

    The judges' scores are pooled. The given label y is the true class or, at a rate e, a mistake
    for another class k:

        z = sum_j w_j s_j,    p = softmax(z)
        P(y) = (1 - e) p_y + e sum_{k != y} p_k ((1 - h) Q[k, y] + h g_y / (1 - g_k)),
        g = softmax(z / 4 * 3)

    `Q[k, y]` is the share of label y among the mistakes of true class k; a share h of the mistakes
    goes to classes that the example resembles instead, as human mistakes do. For each of 15 rates
    e, the weights w and the share h maximise the likelihood of the given labels. The rates are then
    averaged, weighted by their likelihood and a prior proportional to 1 / (e + 0.02). Since the
    scores are out of sample, every class other than the given one is a decoy, and its scores show
    what a wrong label looks like. With 3 to 32 classes, Q is estimated in two rounds from the
    expected number of mistakes for each pair of classes, plus ten mistakes per class spread evenly;
    otherwise Q is uniform.

    Human mistakes occur where the judges are unsure and correct labels look wrong, too. In that
    case the model's count n is too low; the decoy count d (`decoy_count`) is too high if mistakes
    are spread evenly. The expected number of wrong labels is therefore `n^(1 - h) max(n, d)^h`.

    `wrong_prob` is

        sigmoid(log(sum_{k != y} p_k Q[k, y] / p_y) + b),

    with b chosen so that it sums to this number. The same number of labels is flagged: those with
    the highest probability among the labels for which another class is more probable. If this does
    not split the labels at one half, the probabilities on the wrong side are moved across it.

    Args:
      scores: floats `[J, N, C]` of J judges, out of sample: log probabilities or other scores.
      labels: int `[N]` in `0..C-1`.
      order: "odds": as above; "margin": ranks by the largest term instead of the sum, which also
        distinguishes labels of probability 0.

    Returns:
      `WrongLabels`.

    References:
      Ours. The noise model with a matrix Q is that of Patrini et al., "Making Deep Neural Networks
      Robust to Label Noise: a Loss Correction Approach", CVPR 2017.
    """
    scores = np.array(scores, np.float64)
    if not np.ptp(scores):  # the judges say nothing
        return no_wrong_labels(labels, scores.shape[2])
    scores /= np.maximum(scores.std(axis=(1, 2), keepdims=True), 1e-12)
    num_judges, num_rows, num_classes = scores.shape
    kept, given, others = _most_probable(scores, labels)
    # Not seed 0: whoever changed labels by it would find these first in the sample.
    sample = np.random.default_rng([0, _MOST_ROWS]).permutation(num_rows)[:_MOST_ROWS]
    part = jnp.asarray(kept[:, sample], jnp.float32), jnp.asarray(given[sample])
    if 2 < num_classes <= _MOST_CLASS_PAIRS:
        fit, matrix = _fit_with_pairs(*part)
    else:
        even = jnp.full(part[0].shape[1:], 1 / others, jnp.float32)
        even = even.at[jnp.arange(len(sample)), part[1]].set(0)
        fit, matrix = _fit(*part, even), None
    logits = np.zeros(scores.shape[1:])
    for share, params in zip(fit.shares, fit.params, strict=True):
        if share > 1e-3:
            logits += share * np.tensordot(np.exp(params[:num_judges]), scores, 1)
    probs = _softmax(logits)
    own = probs[np.arange(num_rows), labels]
    log_odds = _log_odds_against(logits, labels, matrix, is_margin=order == "margin")
    likely = float(np.sum(fit.shares * fit.expected) * num_rows)
    spread = np.sqrt(np.sum(fit.shares * np.square(fit.expected * num_rows - likely)))
    of_pairs = matrix is not None and matrix.max(axis=1).mean() > 0.5
    counted = max(decoy_count(logits, labels, level=_DECOYS_BELOW, mistakes=matrix), likely)
    similar = float(fit.shares @ fit.similar)
    expected = likely ** (1 - similar) * counted**similar
    is_top = own >= probs.max(axis=1)
    wrong_prob = _summing_to(log_odds, is_top, min(expected, num_rows - 1.0))
    ranked = np.argsort(-log_odds, kind="stable")
    flagged = np.zeros(num_rows, bool)
    flagged[ranked[~is_top[ranked]][: round(float(wrong_prob.sum()))]] = True
    wrong_prob = on_sides_of_a_half(wrong_prob, flagged)
    num_wrong = float(wrong_prob.sum())
    error = 0.0 if matrix is None else _MODEL_ERROR * likely
    noise = np.sqrt(spread**2 + max(likely, 1.0) + error**2)
    low = min(max(likely - _Z90 * noise, 0.0), num_wrong)
    high = max(likely + _Z90 * noise, counted + _Z90 * np.sqrt(counted))
    return WrongLabels(
        probs=probs.astype(np.float32),
        wrong_prob=wrong_prob,
        flagged=flagged,
        ranked=ranked,
        num_wrong=num_wrong,
        interval=(low, float(np.clip(high, num_wrong, num_rows))),
        weights=np.sum(fit.shares[:, None] * np.exp(fit.params[:, :num_judges]), axis=0),
        kind="pairs" if of_pairs else "similar" if similar > 0.5 else "uniform",
        agreement=float(np.mean(logits.argmax(axis=1) == labels)),
    )


def no_wrong_labels(labels: np.ndarray, num_classes: int) -> WrongLabels:
    """The result if there is nothing to compare the labels with."""
    return WrongLabels(
        probs=np.eye(num_classes, dtype=np.float32)[labels],
        wrong_prob=np.zeros(len(labels)),
        flagged=np.zeros(len(labels), bool),
        ranked=np.arange(len(labels)),
        num_wrong=0.0,
        interval=(0.0, float(len(labels))),
        weights=np.zeros(0),
        kind="uniform",
        agreement=1.0,
    )


def _most_probable(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores of the given and the most probable classes, position of the given one, C - 1."""
    num_classes = scores.shape[2]
    if num_classes <= _MOST_CLASSES:
        return scores, labels, num_classes - 1
    rows = np.arange(len(labels))
    pooled = scores.mean(axis=0)
    pooled[rows, labels] = np.inf
    classes = np.argpartition(-pooled, _NUM_KEPT, axis=1)[:, : _NUM_KEPT + 1]
    given = np.argmax(classes == labels[:, None], axis=1)
    return np.take_along_axis(scores, classes[None], axis=2), given, num_classes - 1


def _likelihood(params, scores, labels, rate, by_class):
    """Probability `[N]` of the given labels, of a mistake, and of the true classes `[N, C]`."""
    num_judges, rows = scores.shape[0], jnp.arange(len(labels))
    logits = jnp.tensordot(jnp.exp(params[:num_judges]), scores, 1)
    share = jax.nn.sigmoid(params[num_judges])
    probs, tempered = jax.nn.softmax(logits), jax.nn.softmax(_TEMPERATURE * logits)
    own = probs[rows, labels]
    # by_class is Q's column of each given label, [N, C], zero at the label itself.
    even = jnp.sum(probs * by_class, axis=1)
    ratio = probs / (1 - tempered + 1e-5)
    alike = tempered[rows, labels] * (jnp.sum(ratio, axis=1) - ratio[rows, labels])
    mistake = rate * ((1 - share) * even + share * alike)
    return (1 - rate) * own + mistake + 1e-9, mistake, probs


@jax.jit
def _loss_and_slope(params, scores, labels, rate, by_class):
    """Negative log posterior of the parameters, and its gradient."""

    def loss(params):
        total, _, _ = _likelihood(params, scores, labels, rate, by_class)
        weights, share = params[:-1], params[-1]
        # Weights about one half, within a factor of 4.5; h of a Beta prior with its mean at 1/3.
        prior = jnp.sum(jnp.square(weights + 0.7)) / 4.5
        prior -= 0.5 * jax.nn.log_sigmoid(share) + jax.nn.log_sigmoid(-share)
        return prior - jnp.sum(jnp.log(total))

    return jax.value_and_grad(loss)(params)


@jax.jit
def _share_wrong(params, scores, labels, rate, by_class):
    total, mistake, _ = _likelihood(params, scores, labels, rate, by_class)
    return jnp.mean(mistake / total)


@functools.partial(jax.jit, static_argnames="num_classes")
def _pairs(params, scores, labels, rate, by_class, num_classes):
    """Expected number of mistakes `[C, C]` by true class and given label."""
    total, _, probs = _likelihood(params, scores, labels, rate, by_class)
    mistakes = rate * probs * by_class / total[:, None]
    onehot = jax.nn.one_hot(labels, num_classes, dtype=mistakes.dtype)
    return jnp.einsum("nk,ny->ky", mistakes, onehot, precision="highest")


def _fit(scores, labels, by_class) -> _Fit:
    num_judges = scores.shape[0]
    # From large weights, at which p is sharp.
    params = np.append(np.full(num_judges, 1.0), -0.7)
    found = []
    for rate in _RATES[::-1]:
        rest = scores, labels, np.float32(rate), by_class

        def objective(x, rest=rest):
            loss, slope = _loss_and_slope(np.float32(x), *rest)
            return float(loss), np.asarray(slope, np.float64)

        solution = minimize(
            objective,
            params,
            jac=True,
            method="L-BFGS-B",
            bounds=[(-5, 4)] * num_judges + [(-6, 6)],
            options={"maxiter": 40, "ftol": 1e-7},
        )
        params = solution.x
        expected = float(_share_wrong(np.float32(params), *rest))
        found.append((params, float(solution.fun), expected))
    params, losses, expected = (np.array(x) for x in zip(*found[::-1], strict=True))
    log_post = np.log(np.gradient(_RATES)) - np.log(_RATES + 0.02) - losses
    shares = np.exp(log_post - log_post.max())
    similar = 1 / (1 + np.exp(-params[:, -1]))
    return _Fit(params, losses, expected, shares / shares.sum(), similar)


def _fit_with_pairs(scores, labels) -> tuple[_Fit, np.ndarray]:
    """The fit with an estimated Q, and Q."""
    num_classes, given = scores.shape[2], np.asarray(labels)
    predicted = np.asarray(jnp.argmax(jnp.mean(scores, axis=0), axis=1))
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (predicted, given), 1)

    def fitted(counts):
        np.fill_diagonal(counts, 0)
        counts += _PSEUDO_MISTAKES / (num_classes - 1) * (1 - np.eye(num_classes))
        matrix = counts / counts.sum(axis=1, keepdims=True)
        by_class = jnp.asarray(matrix[:, given].T, jnp.float32)
        return _fit(scores, labels, by_class), matrix, by_class

    fit, _, by_class = fitted(counts)
    best = int(np.argmax(fit.shares))
    rate, params = np.float32(_RATES[best]), np.float32(fit.params[best])
    counts = np.array(_pairs(params, scores, labels, rate, by_class, num_classes))
    return fitted(counts)[:2]


def _softmax(logits: np.ndarray) -> np.ndarray:
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def _log_odds_against(
    logits: np.ndarray, labels: np.ndarray, matrix: np.ndarray | None, *, is_margin: bool
) -> np.ndarray:
    """`log(sum_{k != y} p_k Q[k, y] / p_y)`, Q = 1 if None, or the largest term alone, `[N]`."""
    rows = np.arange(len(labels))
    own = logits[rows, labels]
    rest = logits - own[:, None]
    if matrix is not None:
        rest += np.log(matrix + np.eye(len(matrix)))[:, labels].T
    rest[rows, labels] = -np.inf
    highest = rest.max(axis=1)
    if is_margin:
        return highest
    return highest + np.log(np.exp(rest - highest[:, None]).sum(axis=1))


def on_sides_of_a_half(wrong_prob: np.ndarray, flagged: np.ndarray) -> np.ndarray:
    """Above one half where flagged and not above it elsewhere; keeps the order."""
    near = 0.01 * (wrong_prob - 0.5)  # those beyond are squeezed to within 0.005 of one half
    raised = np.where(flagged & (wrong_prob <= 0.505), 0.505 + near, wrong_prob)
    return np.where(~flagged & (raised > 0.495), 0.495 + near, raised)


def _summing_to(log_odds: np.ndarray, is_top: np.ndarray, total: float) -> np.ndarray:
    """`sigmoid(log_odds + b)`, at most one half where `is_top`, with a sum closest to `total`."""
    most = 1 - 1 / (len(log_odds) + 2)  # N labels say nothing of rarer events: rule of succession

    def shifted(shift):
        prob = 1 / (1 + np.exp(-np.clip(log_odds + shift, -60, 60)))
        prob = np.minimum(prob, most)
        return np.where(is_top, np.minimum(prob, 0.5), prob)

    low, high = -60.0, 60.0
    if shifted(low).sum() >= total:
        return shifted(low)
    if shifted(high).sum() <= total:
        return shifted(high)
    return shifted(brentq(lambda shift: shifted(shift).sum() - total, low, high, xtol=1e-6))
