"""Counts of wrong labels by confident learning.

Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR
2021, arXiv 1911.00068.
"""

import jax
import jax.numpy as jnp

from jaxrobust.arrays import check_logits, label_mask


def confident_joint(
    probs: jax.typing.ArrayLike, labels: jax.typing.ArrayLike, *, calibrate: bool = True
) -> jax.Array:
    """Estimated number of examples for each pair of a given and a true label.

    Among the classes whose probability reaches the threshold of the class, an example is counted
    for the true class j with the largest `p_j`. The threshold is

        t_j = mean of p_j over the examples labelled j,

    which compensates for a classifier that is less confident about some classes than about others.
    An example that reaches no threshold is not counted. Every class counts at least one correct
    label.

    Args:
      probs: floats `[N, C]`, predicted out of sample.
      labels: integers `[N]` in `0..C-1`. An example with another label is not counted.
      calibrate: whether to scale every row to the number of examples with that label, including
        those that reach no threshold; a label that does not occur then has a row of zeros.

    Returns:
      Floats `[C, C]`, at least float32, given label by true class.

    Raises:
      ValueError: on fewer than two classes, or labels of another shape or not integers.

    References:
      Confident learning, section 3.1 (the thresholds, the confident joint and its calibration).
    """
    probs = check_logits(probs, "probs")
    is_label = label_mask(probs, labels)
    sizes = jnp.sum(is_label, axis=0, dtype=probs.dtype)
    thresholds = jnp.sum(probs, axis=0, where=is_label) / jnp.maximum(sizes, 1)
    thresholds = jnp.where(sizes > 0, thresholds, jnp.inf)
    # Equal probabilities must reach their own mean in spite of its rounding.
    reaches = probs >= thresholds[None, :] * (1 - 16 * jnp.finfo(probs.dtype).eps)
    confident = jnp.argmax(jnp.where(reaches, probs, -1), axis=-1)
    counted = jax.nn.one_hot(confident, probs.shape[-1], dtype=probs.dtype)
    counted = jnp.where(jnp.any(reaches, axis=-1)[:, None], counted, 0)
    joint = jnp.einsum("ni,nj->ij", is_label.astype(probs.dtype), counted, precision="highest")
    identity = jnp.eye(probs.shape[-1], dtype=probs.dtype)
    joint = jnp.maximum(joint, identity)
    if not calibrate:
        return joint
    return joint / jnp.sum(joint, axis=1, keepdims=True) * sizes[:, None]


def estimate_num_wrong(probs: jax.typing.ArrayLike, labels: jax.typing.ArrayLike) -> jax.Array:
    """Estimated number of wrong labels: the off-diagonal sum of `confident_joint`.

    This is the mean of the calibrated and the uncalibrated sum. The first assumes that examples
    that reach no threshold are wrong as often as the others, which overestimates; the second
    assumes that all of them are right, which underestimates. The count depends less on the
    calibration of the probabilities than a threshold of one half does.

    Args:
      probs: as for `confident_joint`.
      labels: as for `confident_joint`.

    Returns:
      Scalar in `[0, N]`, at least float32.

    Raises:
      ValueError: as for `confident_joint`.

    References:
      Confident learning, section 3.1, has the calibrated sum. The mean is ours.
    """

    def off_diagonal(joint):
        return jnp.sum(joint) - jnp.trace(joint)

    calibrated = confident_joint(probs, labels)
    counted = confident_joint(probs, labels, calibrate=False)
    return (off_diagonal(calibrated) + off_diagonal(counted)) / 2
