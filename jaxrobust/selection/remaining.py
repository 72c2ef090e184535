"""Number of wrong labels left among the unreviewed ones, valid at any time during a review.

A betting confidence sequence for sampling without replacement: Waudby-Smith and Ramdas,
"Estimating means of bounded random variables by betting", JRSS B 2024, section 5. No JAX.
"""

import numpy as np

BETS = (0.0, 0.1, 0.25, 0.5, 0.8)
_WINDOW = 40  # latest answers by suspicion
_FEW = 0.04  # of them that are wrong, below which random ones tell more
_SHARES = (0.2, 0.8)  # of picks at random, before and after


def wrong_labels_left(
    is_wrong: np.ndarray,
    is_random: np.ndarray,
    *,
    num_labels: int,
    confidence: float = 0.95,
    most: int | None = None,
) -> np.ndarray:
    """Upper bound on the number of wrong labels left after each answer.

    For each number m of labels that were wrong at the start, and each theta in {0, 0.1, 0.25, 0.5,
    0.8}, a bet `e_theta(m)` starts at 1. With `p = (m - found) / left` before a pick that is drawn
    at random from the unreviewed labels,

        wrong: e_theta(m) *= theta,    right: e_theta(m) *= (1 - theta p) / (1 - p).

    If m labels or more were wrong, the mean of the bets exceeds `1 / (1 - confidence)` at any time
    with a probability of at most `1 - confidence`: such m are excluded. A pick by suspicion changes
    only `found` and `left`. The bound therefore holds for any order of picks and any stopping time,
    as long as the choice of a random pick does not depend on its label.

    Args:
      is_wrong: bool `[T]`, whether the reviewed label was wrong, in the order of the answers.
      is_random: bool `[T]`, whether it was drawn at random from the unreviewed labels.
      num_labels: N, the number of labels at the start.
      confidence: probability with which the bound holds at all times simultaneously.
      most: largest m to distinguish, None for N; above it the bound is `N - T`, the number of
        labels left.

    Returns:
      int `[T + 1]`, the bound before any answer and after each one.
    """
    numbers = np.arange(num_labels + 1 if most is None else min(most, num_labels) + 1)
    bets = np.ones((len(BETS), len(numbers)))
    thetas = np.array(BETS)[:, None]
    is_excluded = np.zeros(len(numbers), bool)
    bounds = np.empty(len(is_wrong) + 1, np.int64)
    bounds[0], found, left = num_labels, 0, num_labels
    for t, (wrong, random) in enumerate(zip(is_wrong, is_random, strict=True)):
        if random:
            p = np.clip((numbers - found) / left, 0, 1)
            with np.errstate(all="ignore"):  # what is impossible becomes infinite
                bets *= thetas if wrong else np.where(p < 1, (1 - thetas * p) / (1 - p), np.inf)
        found, left = found + bool(wrong), left - 1
        # Fewer than were found, or more than are left, is impossible rather than improbable.
        is_excluded |= np.mean(bets, axis=0) >= 1 / (1 - confidence)
        is_possible = (numbers >= found) & (numbers <= found + left)
        excluded = numbers[(is_excluded | ~is_possible) & (numbers > found)]
        bounds[t + 1] = left if not len(excluded) else min(left, excluded[0] - 1 - found)
    return bounds


def random_share(is_wrong: np.ndarray, is_random: np.ndarray) -> float:
    """Share of the next picks to draw at random, given the answers so far.

    0.2 while more than 4 % of the last 40 picks by suspicion were wrong, otherwise 0.8: picking by
    suspicion is the better use of an answer as long as it finds wrong labels.

    Args:
      is_wrong: bool `[T]`, as in `wrong_labels_left`.
      is_random: bool `[T]`, as in `wrong_labels_left`.
    """
    latest = np.asarray(is_wrong)[~np.asarray(is_random, bool)][-_WINDOW:]
    finds = len(latest) < _WINDOW or np.mean(latest) > _FEW
    return _SHARES[0] if finds else _SHARES[1]


def next_to_review(
    ranked: np.ndarray,
    reviewed: np.ndarray,
    is_wrong: np.ndarray,
    is_random: np.ndarray,
    *,
    seed: int = 0,
) -> tuple[int, bool] | None:
    """The label to review next, and whether it is drawn at random.

    The draws depend only on the seed and the number of answers.

    Args:
      ranked: int `[N]`, ids, the most suspicious first.
      reviewed: int `[T]`, ids that were looked at, in order.
      is_wrong: bool `[T]`, as in `wrong_labels_left`.
      is_random: bool `[T]`, as in `wrong_labels_left`.
      seed: random seed of the draws.

    Returns:
      (id, is_random), or None if all labels were reviewed.
    """
    rest = np.asarray(ranked)[~np.isin(ranked, reviewed)]
    if not len(rest):
        return None
    rng = np.random.default_rng([seed, len(reviewed)])
    if rng.random() < random_share(is_wrong, is_random):
        return int(rest[rng.integers(len(rest))]), True
    return int(rest[0]), False


def answers_needed(
    ranked: np.ndarray,
    wrong_prob: np.ndarray,
    reviewed: np.ndarray,
    is_wrong: np.ndarray,
    is_random: np.ndarray,
    *,
    target: float,
    confidence: float = 0.95,
    num_simulations: int = 5,
    most: int = 20_000,
    seed: int = 0,
) -> int | None:
    """Estimates how many more answers are needed until the bound is `target * N`.

    This is the median over simulated reviews that continue as `next_to_review` does, with labels
    that are wrong with the given probabilities.

    Args:
      ranked: int `[N]`, ids, the most suspicious first.
      wrong_prob: floats `[N]`, probability that each label is wrong, by id.
      reviewed: int `[T]`, ids that were looked at, in order.
      is_wrong: bool `[T]`, as in `wrong_labels_left`.
      is_random: bool `[T]`, as in `wrong_labels_left`.
      target: share of all labels that may still be wrong.
      confidence: as in `wrong_labels_left`.
      num_simulations: number of simulated reviews.
      most: number of answers after which a simulation ends.
      seed: random seed of the simulations.

    Returns:
      The number, or None if it is more than `most`.
    """
    num_labels, allowed = len(ranked), int(target * len(ranked))
    found = int(np.sum(is_wrong))
    # Numbers of wrong labels at the start that decide; more of them would tell little more.
    numbers = np.geomspace(found + allowed + 1, num_labels + allowed + 1, 400)
    numbers = np.unique(numbers.astype(np.int64))
    start = np.zeros((len(BETS), len(numbers)))
    left, before = num_labels, 0
    for wrong, random in zip(is_wrong, is_random, strict=True):
        if random:
            start += _log_bets(numbers, before, left, wrong)
        left, before = left - 1, before + int(wrong)
    by_suspicion = np.asarray(is_wrong, bool)[~np.asarray(is_random, bool)][-_WINDOW:]
    is_seen = np.zeros(num_labels, bool)
    is_seen[np.asarray(reviewed, np.int64)] = True
    counts = []
    for k in range(num_simulations):
        rng = np.random.default_rng([seed, k])
        wrong_at = rng.random(num_labels) < wrong_prob
        orders = {True: rng.permutation(num_labels), False: np.asarray(ranked)}
        counts.append(
            _simulated(
                orders,
                wrong_at,
                is_seen.copy(),
                start.copy(),
                numbers,
                found=found,
                latest=by_suspicion.tolist(),
                allowed=allowed,
                confidence=confidence,
                most=most,
                rng=rng,
            )
        )
    needed = float(np.median(counts))
    return None if needed > most else round(needed)


def _simulated(
    orders, wrong_at, is_seen, bets, numbers, *, found, latest, allowed, confidence, most, rng
) -> float:
    """Answers until more than `allowed` wrong labels that are left are excluded."""
    places = {True: 0, False: 0}
    left = int((~is_seen).sum())
    threshold = np.log(len(BETS) / (1 - confidence))
    for count in range(most + 1):
        decides = np.searchsorted(numbers, found + allowed + 1)
        if left <= allowed or np.logaddexp.reduce(bets[:, decides]) >= threshold:
            return count
        finds = len(latest) < _WINDOW or sum(latest[-_WINDOW:]) > _FEW * _WINDOW
        random = bool(rng.random() < (_SHARES[0] if finds else _SHARES[1]))
        while is_seen[orders[random][places[random]]]:
            places[random] += 1
        i = orders[random][places[random]]
        is_seen[i], wrong = True, bool(wrong_at[i])
        if random:
            bets += _log_bets(numbers, found, left, wrong)
        else:
            latest.append(wrong)
        left, found = left - 1, found + int(wrong)
    return np.inf


def _log_bets(numbers: np.ndarray, found: int, left: int, wrong: bool) -> np.ndarray:
    """Logarithm of what each bet is multiplied by, for a random pick."""
    thetas = np.array(BETS)[:, None]
    p = np.clip((numbers - found) / left, 0, 1 - 1e-12)
    if wrong:
        return np.broadcast_to(np.log(np.maximum(thetas, 1e-300)), (len(BETS), len(numbers)))
    return np.log1p(-thetas * p) - np.log1p(-p)
