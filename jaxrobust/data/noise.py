"""Wrong labels: drawn by the papers' generators, or read from CIFAR-N's human annotations.

Host code on NumPy arrays in archive order. The generators repeat the authors' draws bit for bit:
every call has its own legacy generator, and the order of its draws is part of the contract.

DPC is Zong et al., "Dirichlet-Based Prediction Calibration for Learning with Noisy Labels", AAAI
2024; BLDR is Zong et al., "Noise-Robust Bidirectional Learning with Dynamic Sample Reweighting",
2022; CIFAR-N is Wei et al., "Learning with Noisy Labels Revisited", ICLR 2022.
"""

import math
import os
import random
import zipfile

import numpy as np

from jaxrobust.data.pickles import unpickle_arrays
from jaxrobust.data.readers import DAMAGED
from jaxrobust.errors import DataError, unknown_name

# Names of label sets in configs and papers -> keys of the published files.
CIFARN_KEYS = {
    "clean": "clean_label",
    "aggre": "aggre_label",
    "worst": "worse_label",
    "rand1": "random_label1",
    "rand2": "random_label2",
    "rand3": "random_label3",
    "clean100": "clean_label",
    "noisy100": "noisy_label",
}
_NUM_CIFAR_LABELS = 50_000
_MAX_CIFARN_BYTES = 64 * 2**20  # the published files hold 1 and 2.4 MB

# Superclass of each of CIFAR-100's fine classes.
_CIFAR100_SUPERCLASS = np.array(
    [
        *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7),
        *(
            6,
            13,
            15,
            3,
            15,
            0,
            11,
            1,
            10,
            12,
            14,
            16,
            9,
            11,
            5,
            5,
            19,
            8,
            8,
            15,
            13,
            14,
            17,
            18,
            10,
        ),
        *(16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16),
        *(12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13),
    ]
)


def symmetric_noise(labels: np.ndarray, rate: float, seed: int, num_classes: int) -> np.ndarray:
    """Replaces a random share of the labels by classes drawn uniformly from all classes.

    The true class is among them, so about `rate * (1 - 1 / C)` of the labels become wrong. The
    draws are from `random.Random(seed)`: a shuffle of the N positions, the first `int(rate * N)` of
    which are noisy, then one class for each noisy position in ascending order.

    Args:
      labels: integers `[N]` in `0..C-1`; left as they are.
      rate: share of labels redrawn, in `[0, 1]`.
      seed: of this noise alone. The authors use 123.
      num_classes: C, at least 2.

    Returns:
      New integers `[N]`, of the dtype of `labels`.

    Raises:
      ValueError: on labels other than a vector of integers in `0..C-1`, a rate outside `[0, 1]`, or
        fewer than two classes.

    References:
      DPC, symmetric noise of the authors' code (from DivideMix).
    """
    noisy = _copy_labels(labels, num_classes)
    _check_rate(rate)
    generator = random.Random(int(seed))
    order = list(range(len(noisy)))
    generator.shuffle(order)
    for i in sorted(order[: int(rate * len(noisy))]):
        noisy[i] = generator.randint(0, num_classes - 1)
    return noisy


def asymmetric_noise_cifar10(labels: np.ndarray, rate: float, seed: int) -> np.ndarray:
    """Confuses similar classes of CIFAR-10, each label with probability `rate`.

    Truck becomes automobile, bird airplane, deer horse, cat dog and dog cat; the other five classes
    keep their labels, so a share of `rate / 2` of all labels is wrong. Drawn by `flip_labels`.

    Args:
      labels: integers `[N]` in `0..9`; left as they are.
      rate: probability in `[0, 1]`.
      seed: of this noise alone. The authors' code sets none.

    Returns:
      New integers `[N]`, of the dtype of `labels`.

    Raises:
      ValueError: on labels other than a vector of integers in `0..9`, or a rate outside `[0, 1]`.

    References:
      DPC, asymmetric noise.
    """
    return flip_labels(labels, asymmetric_transition_cifar10(rate), seed)


def asymmetric_noise_cifar100(
    labels: np.ndarray, rate: float, seed: int, *, groups: str = "blocks"
) -> np.ndarray:
    """Turns labels of CIFAR-100 into the next class of their group, with probability `rate`.

    Args:
      labels: integers `[N]` in `0..99`, the fine classes; left as they are.
      rate: probability in `[0, 1]`.
      seed: of this noise alone.
      groups: "blocks" of five consecutive ids, as in the code that the authors build on (fine ids
        are alphabetical, so these are not the superclasses), or "superclasses", the real ones.

    Returns:
      New integers `[N]`, of the dtype of `labels`.

    Raises:
      ValueError: on labels other than a vector of integers in `0..99`, a rate outside `[0, 1]`, or
        unknown groups.

    References:
      DPC, asymmetric noise; the released loader applies the map of CIFAR-10 and fails.
    """
    return flip_labels(labels, asymmetric_transition_cifar100(rate, groups=groups), seed)


def flip_labels(labels: np.ndarray, transition: np.ndarray, seed: int) -> np.ndarray:
    """Replaces every label by a draw from its row of a transition matrix.

    The draws are one `multinomial(1, transition[y])` of `np.random.RandomState(seed)` per label, in
    order, as in NumPy up to version 2.4: class after class, with one uniform number each, until a
    class is chosen; the last class and classes of probability 0 use none. NumPy 2.5 uses a number
    for those too, so the draws are made here from `random_sample`, whose stream NumPy keeps fixed.

    Args:
      labels: integers `[N]` in `0..C-1`; left as they are.
      transition: `[C, C]`, probability of the class of the column given that of the row.
      seed: of this noise alone.

    Returns:
      New integers `[N]`, of the dtype of `labels`.

    Raises:
      ValueError: on labels other than a vector of integers in `0..C-1`, or a transition that is
        not square, has a negative entry, or has a row that does not sum to 1.

    References:
      BLDR, label-noise builders.
    """
    transition = np.asarray(transition, np.float64)
    if transition.ndim != 2 or transition.shape[0] != transition.shape[1]:
        raise ValueError(f"transition must be [C, C], got shape {transition.shape}.")
    if (transition < 0).any() or not np.allclose(transition.sum(axis=1), 1):
        raise ValueError("Every row of transition must hold probabilities that sum to 1.")
    noisy = _copy_labels(labels, len(transition))
    uniform = np.random.RandomState(seed).random_sample
    bounds = [_binomial_bounds(row.tolist()) for row in transition]
    last = len(transition) - 1
    for i, label in enumerate(noisy):
        draws = bounds[label]
        noisy[i] = next((k for k, bound, above in draws if (uniform() > bound) == above), last)
    return noisy


def symmetric_transition(rate: float, num_classes: int) -> np.ndarray:
    """Uniform transition: probability `1 - rate` to stay, `rate / (C - 1)` for each other class.

    Unlike in `symmetric_noise`, `rate` is the share of labels that become wrong.

    Args:
      rate: probability in `[0, 1]` of another class.
      num_classes: C, at least 2.

    Returns:
      float64 `[C, C]`.

    Raises:
      ValueError: on a rate outside `[0, 1]`, or fewer than two classes.

    References:
      BLDR, label-noise builders.
    """
    _check_rate(rate)
    _check_num_classes(num_classes)
    transition = np.full((num_classes, num_classes), rate / (num_classes - 1))
    np.fill_diagonal(transition, 1 - rate)
    return transition


def pairflip_transition(rate: float, num_classes: int) -> np.ndarray:
    """Transition to the next class only: `1 - rate` to stay, `rate` for class `i + 1 mod C`.

    Args:
      rate: probability in `[0, 1]` of the next class.
      num_classes: C, at least 2.

    Returns:
      float64 `[C, C]`.

    Raises:
      ValueError: on a rate outside `[0, 1]`, or fewer than two classes.

    References:
      BLDR, label-noise builders.
    """
    _check_num_classes(num_classes)
    return _transition_to((np.arange(num_classes) + 1) % num_classes, rate)


def asymmetric_transition_cifar10(rate: float) -> np.ndarray:
    """Transition of `asymmetric_noise_cifar10`.

    Args:
      rate: probability in `[0, 1]` of the similar class.

    Returns:
      float64 `[10, 10]`.

    Raises:
      ValueError: on a rate outside `[0, 1]`.

    References:
      DPC, asymmetric noise.
    """
    look_alike = np.arange(10)
    look_alike[[9, 2, 4, 3, 5]] = [1, 0, 7, 5, 3]
    return _transition_to(look_alike, rate)


def asymmetric_transition_cifar100(rate: float, *, groups: str = "blocks") -> np.ndarray:
    """Transition of `asymmetric_noise_cifar100`.

    Args:
      rate: probability in `[0, 1]` of the next class of the group.
      groups: "blocks" or "superclasses".

    Returns:
      float64 `[100, 100]`.

    Raises:
      ValueError: on a rate outside `[0, 1]`, or unknown groups.

    References:
      DPC, asymmetric noise.
    """
    group_of = {"blocks": np.arange(100) // 5, "superclasses": _CIFAR100_SUPERCLASS}
    if groups not in group_of:
        raise ValueError(unknown_name("groups", groups, group_of))
    following = np.empty(100, int)
    for group in range(20):
        members = np.flatnonzero(group_of[groups] == group)
        following[members] = np.roll(members, -1)
    return _transition_to(following, rate)


def transition_matrix(clean: np.ndarray, noisy: np.ndarray, num_classes: int) -> np.ndarray:
    """Share of each noisy class among the labels of each clean class.

    Args:
      clean: integers `[N]` in `0..C-1`.
      noisy: integers `[N]` in `0..C-1`.
      num_classes: C, at least 2.

    Returns:
      float64 `[C, C]`, rows summing to 1; a class without examples keeps its label.

    Raises:
      ValueError: on labels that are not vectors of integers in `0..C-1` of one length, or fewer
        than two classes.

    References:
      BLDR, whose code divides column j by the sum of row j, which is the same only for balanced
      classes.
    """
    clean, noisy = _copy_labels(clean, num_classes), _copy_labels(noisy, num_classes)
    if clean.shape != noisy.shape:
        raise ValueError(
            f"clean and noisy must have the same length, got {len(clean)} and {len(noisy)}."
        )
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (clean, noisy), 1)
    totals = counts.sum(axis=1, keepdims=True)
    return np.where(totals > 0, counts / np.maximum(totals, 1), np.eye(num_classes))


def read_cifarn_labels(
    path: str | os.PathLike, key: str, *, clean_labels: np.ndarray | None = None
) -> np.ndarray:
    """Human labels of CIFAR's training images, from the files of CIFAR-N.

    The file is a zip with a pickle, as PyTorch writes it. Nothing in it is executed: a pickle that
    holds more than NumPy arrays in plain containers is refused.

    Args:
      path: `CIFAR-10_human.pt` or `CIFAR-100_human.pt`.
      key: "clean", "aggre", "worst", "rand1", "rand2" or "rand3" for CIFAR-10; "clean100" or
        "noisy100" for CIFAR-100; or a key of the file itself.
      clean_labels: integers `[50000]`, the true labels of the images in use. If given, the clean
        labels of the file must equal them; otherwise the images are in another order.

    Returns:
      int32 `[50000]` in the order of the official archive.

    Raises:
      DataError: if the file is missing or is not such a zip, asks for code, lacks the key, or
        holds labels of another number or other than `clean_labels`.

    References:
      CIFAR-N. The share of wrong labels is 9.01 % in aggre, 17.23, 18.12 and 17.64 % in rand1 to
      rand3, 40.21 % in worst and 40.20 % in noisy100.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [info for info in archive.infolist() if info.filename.endswith("/data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > _MAX_CIFARN_BYTES:
                raise DataError(f"{path} is a zip, but not one of CIFAR-N's label files.")
            content = archive.read(pickles[0])
    except (*DAMAGED, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DataError(
            f"Cannot read {path}: {error}. Get CIFAR-10_human.pt or CIFAR-100_human.pt from "
            "github.com/UCSC-REAL/cifar-10-100n."
        ) from error
    record = unpickle_arrays(content, str(path))
    if not isinstance(record, dict) or not record:
        raise DataError(f"{path} holds no table of label sets.")
    labels = _cifarn_labels(record, key, path)
    if clean_labels is not None and not np.array_equal(
        _cifarn_labels(record, "clean", path), clean_labels
    ):
        raise DataError(
            f"The true labels in {path} differ from those of the data set: the file belongs to "
            "another data set, or the images are not in the order of the official archive."
        )
    return labels


def _cifarn_labels(record: dict, key: str, path: str | os.PathLike) -> np.ndarray:
    found = CIFARN_KEYS.get(key, key)
    if found not in record:
        names = [name for name, k in CIFARN_KEYS.items() if k in record]
        raise DataError(
            f"{unknown_name('label set', key, [*names, *map(str, record)])} (in {path})"
        )
    labels = record[found]
    if (
        not isinstance(labels, np.ndarray)
        or not np.issubdtype(labels.dtype, np.integer)
        or labels.shape != (_NUM_CIFAR_LABELS,)
    ):
        kind = type(labels).__name__
        if isinstance(labels, np.ndarray):
            kind = f"{labels.dtype} {list(labels.shape)}"
        raise DataError(
            f"{found} of {path} must be {_NUM_CIFAR_LABELS} integers in one array, but is {kind}."
        )
    return labels.astype(np.int32)


def _binomial_bounds(row: list[float]) -> list[tuple[int, float, bool]]:
    """(class, bound, above) per class that takes a draw; `(uniform > bound) == above` chooses it.

    As in NumPy, the probability is that of the class given that none before it was chosen, and the
    draw inverts the smaller one of it and its complement.
    """
    bounds, rest = [], 1.0
    for k, probability in enumerate(row[:-1]):
        if probability > 0:
            p = probability / rest
            above = p <= 0.5
            bounds.append((k, math.exp(math.log(1 - p if above else 1 - (1 - p))), above))
            rest -= probability
            if rest <= 0:  # this class is certain
                break
    return bounds


def _transition_to(target: np.ndarray, rate: float) -> np.ndarray:
    """Matrix that moves class i to `target[i]` with probability `rate`, and else keeps it."""
    _check_rate(rate)
    num_classes = len(target)
    return (1 - rate) * np.eye(num_classes) + rate * np.eye(num_classes)[target]


def _check_rate(rate: float) -> None:
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must lie in [0, 1], got {rate}.")


def _check_num_classes(num_classes: int) -> None:
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}.")


def _copy_labels(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """A copy that may be written to, after checking that it holds labels."""
    _check_num_classes(num_classes)
    labels = np.array(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be a vector of integers, got {labels.dtype} of shape {labels.shape}."
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"labels must lie in 0..{num_classes - 1}, but go from {labels.min()} to "
            f"{labels.max()}."
        )
    # Labels of a small type may not reach the largest class, but a drawn one may.
    return labels.astype(np.promote_types(labels.dtype, np.min_scalar_type(num_classes - 1)))
