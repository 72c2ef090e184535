"""Negative learning: "this image is not of class k", for complementary labels k.

Shared by BUAL (Zong et al., ECCV 2024, arXiv 2402.15198), which gives unlabelled images random
complementary labels, and by the negative head of BLDR (Zong et al., arXiv 2209.01334).
"""

import math

import jax
import jax.numpy as jnp

from jaxrobust.arrays import check_logits, label_mask, shares_of_classes
from jaxrobust.errors import check_option

MASK_MODES = ("all_but_label_and_top", "all_but_label", "random")


def log_one_minus_softmax(logits: jax.Array) -> jax.Array:
    """`log(1 - softmax(logits))`, without cancellation for probabilities near one.

    Only the top class can have a probability above one half, so `log1p(-p)` is accurate for the
    others; for the top class the log of the remaining mass is summed directly.

    Args:
      logits: floats `[..., C]`, C >= 2.

    Returns:
      Floats `[..., C]`, at least float32; finite for finite logits.

    Raises:
      ValueError: if there are fewer than two classes.
    """
    logits = check_logits(logits)
    log_probs = jax.nn.log_softmax(logits)
    top = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=bool)
    log_rest = jax.nn.logsumexp(log_probs, axis=-1, keepdims=True, where=~top)
    # The inner `where` keeps log1p(-1) of a saturated top class out of the gradient.
    probs = jnp.where(top, jnp.zeros_like(log_probs), jnp.exp(log_probs))
    return jnp.where(top, log_rest, jnp.log1p(-probs))


def negative_learning_loss(
    logits: jax.Array, complementary: jax.Array, *, prob_floor: float = 1e-5
) -> jax.Array:
    """Negative learning loss of complementary labels.

    `sum over complementary k of -log(max(1 - p_k, prob_floor))` with `p = softmax(logits)`.

    Each term lies in `[0, -log(prob_floor)]`, and its gradient is exactly zero where the floor
    binds, at `p_k > 1 - prob_floor`.

    Args:
      logits: floats `[B, C]`, C >= 2.
      complementary: classes that the images do not have: integers `[B]`, one per image (a value
        outside `0..C-1` gives loss 0), or a {0, 1} mask `[B, C]` of any dtype (an empty row gives
        loss 0). The two are distinguished by their rank.
      prob_floor: lower bound of `1 - p_k`, in `[0, 1)`. The paper's Eq. 1 has none (`0`); the
        default is that of both papers' code.

    Returns:
      Floats `[B]`, at least float32. The caller applies example weights and the batch mean.

    Raises:
      ValueError: if the shapes do not fit, if class labels are not integers, if there are fewer
        than two classes, or if `prob_floor` is outside `[0, 1)`.

    References:
      Zong et al., "Bidirectional Uncertainty-Based Active Learning for Open-Set Annotation",
      ECCV 2024, Eq. 1; Zong et al., "Noise-Robust Bidirectional Learning with Dynamic Sample
      Reweighting", 2022.
    """
    if not 0.0 <= prob_floor < 1.0:
        raise ValueError(f"prob_floor must lie in [0, 1), got {prob_floor}.")
    log_complement = log_one_minus_softmax(logits)
    complementary = jnp.asarray(complementary)
    if complementary.ndim < log_complement.ndim:
        complementary = label_mask(log_complement, complementary)
    elif complementary.shape != log_complement.shape:
        raise ValueError(
            f"A mask of complementary classes must have the logits' shape {log_complement.shape}, "
            f"got {complementary.shape}."
        )
    if prob_floor > 0.0:
        floor = jnp.full_like(log_complement, math.log(prob_floor))
        # Not jnp.maximum, which would pass half of the gradient at the bound.
        log_complement = jnp.where(log_complement >= floor, log_complement, floor)
    return -jnp.sum(complementary.astype(log_complement.dtype) * log_complement, axis=-1)


def sample_complementary_labels(key: jax.Array, labels: jax.Array, num_classes: int) -> jax.Array:
    """Draws one wrong class per image, uniformly from the `num_classes - 1` other classes.

    `(labels + offset) mod num_classes` with `offset ~ Uniform{1, ..., num_classes - 1}`.

    Args:
      key: random key. Use a new one at every visit of an image.
      labels: integers `[B]` in `0..num_classes-1`; any other value is taken modulo `num_classes`.
      num_classes: number of classes, at least 2.

    Returns:
      int32 `[B]`.

    Raises:
      ValueError: if `num_classes` is less than 2.

    References:
      Zong et al., ECCV 2024, Eq. 2 (labelled images).
    """
    _check_num_classes(num_classes)
    labels = jnp.asarray(labels).astype(jnp.int32)
    offsets = jax.random.randint(key, labels.shape, 1, num_classes, dtype=jnp.int32)
    return (labels + offsets) % num_classes


def random_label_targets(
    key: jax.Array, labels: jax.Array, is_labeled: jax.Array, num_classes: int
) -> jax.Array:
    """Draws the complementary labels of random label negative learning.

    If the label is known, a wrong class is drawn (`sample_complementary_labels`); if not, any
    class, uniformly.

    Args:
      key: random key. The method draws again for every image at every visit.
      labels: integers `[B]`; ignored where `is_labeled` is False.
      is_labeled: bool `[B]`.
      num_classes: number of known classes, at least 2.

    Returns:
      int32 `[B]` in `0..num_classes-1`.

    Raises:
      ValueError: if `num_classes` is less than 2.

    References:
      Zong et al., ECCV 2024, Eq. 2. The authors' code draws a random base label for an unlabelled
      image and then a class other than that one: the same distribution.
    """
    _check_num_classes(num_classes)
    labeled_key, unlabeled_key = jax.random.split(key)
    wrong = sample_complementary_labels(labeled_key, labels, num_classes)
    anything = jax.random.randint(unlabeled_key, wrong.shape, 0, num_classes, dtype=jnp.int32)
    return jnp.where(is_labeled, wrong, anything)


def complementary_label_mask(
    labels: jax.Array,
    nl_logits: jax.Array,
    *,
    mode: str = "all_but_label_and_top",
    key: jax.Array | None = None,
    num_complementary: int = 1,
) -> jax.Array:
    """Mask of the complementary classes that negative learning uses for each image.

    Args:
      labels: integers `[B]` in `0..C-1`, the given (possibly wrong) labels; any other value
        excludes no class. Or soft labels, floats `[B, C]` whose rows sum to 1: a class then counts
        with the probability that it is not the label, and `"random"` draws the label first.
      nl_logits: floats `[B, C]`, C >= 2, the negative head's logits. They give no gradient.
      mode: `"all_but_label_and_top"`, the authors' code: every class except the label and the
        head's current top class (first index on ties), hence C - 2 classes, or C - 1 when the
        two agree. `"all_but_label"`: the C - 1 other classes. `"random"`: `num_complementary`
        distinct classes drawn uniformly from those C - 1; NLNL draws one.
      key: random key, required by `"random"` and unused otherwise.
      num_complementary: number of classes that `"random"` draws, in `1..C-1`.

    Returns:
      Floats `[B, C]` of the logits' dtype, at least float32; {0, 1} unless labels are soft.

    Raises:
      ValueError: for an unknown `mode`, labels that do not match the logits' rows, a missing
        `key`, fewer than two classes, or `num_complementary` outside `1..C-1`.

    References:
      Zong et al., "Noise-Robust Bidirectional Learning with Dynamic Sample Reweighting", 2022.
      The paper says only "complementary labels"; the default mode is that of its code.
    """
    check_option("mode", mode, MASK_MODES)
    nl_logits = check_logits(nl_logits)
    num_classes = nl_logits.shape[-1]
    if mode != "random":
        mask = 1 - shares_of_classes(nl_logits, labels)
        if mode == "all_but_label_and_top":
            mask *= 1 - jax.nn.one_hot(
                jnp.argmax(nl_logits, axis=-1), num_classes, dtype=mask.dtype
            )
    else:
        if key is None:
            raise ValueError('mode="random" draws classes: pass key=.')
        if not 1 <= num_complementary < num_classes:
            raise ValueError(
                f"num_complementary must lie in 1..{num_classes - 1}, got {num_complementary}."
            )
        if jnp.ndim(labels) == nl_logits.ndim:
            labels = jax.random.categorical(jax.random.fold_in(key, 1), jnp.log(labels))
        is_label = label_mask(nl_logits, labels)
        order = jnp.where(is_label, -1.0, jax.random.uniform(key, nl_logits.shape))
        drawn = jax.lax.top_k(order, num_complementary)[1]
        mask = jnp.any(jax.nn.one_hot(drawn, num_classes, dtype=bool), axis=-2)
    return mask.astype(nl_logits.dtype)


def _check_num_classes(num_classes: int) -> None:
    if num_classes < 2:
        raise ValueError(f"A complementary label needs at least two classes, got {num_classes}.")
