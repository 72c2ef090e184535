"""Example weights, noise rate and wrong labels from BLDR's negative head (arXiv 2209.01334)."""

import jax
import jax.numpy as jnp

from jaxrobust.arrays import at_least_float32, check_logits, label_mask
from jaxrobust.selection.margin import min_max_normalize


def weights_from_nl_probs(nl_probs: jax.Array) -> jax.Array:
    """Example weights of the next epoch: `(P - min P) / (max P - min P)`.

    Args:
      nl_probs: floats `[N]`, over the whole training set: the negative head's probability of the
        given label, collected during the training epoch.

    Returns:
      Floats `[N]` in [0, 1], at least float32: exactly 0 for the least and 1 for the most probable
      label. All ones if the probabilities are all equal (0/0 in the authors' code).

    References:
      Zong et al., arXiv 2209.01334 (authors' code).
    """
    return min_max_normalize(nl_probs, constant=1.0)


def estimate_noise_rate(nl_probs: jax.Array, *, threshold: float = 0.3) -> jax.Array:
    """Estimated fraction of wrong labels: `mean(P < threshold)`, a strict comparison.

    Args:
      nl_probs: floats `[N]`, as for `weights_from_nl_probs`.
      threshold: a label of a lower probability counts as wrong.

    Returns:
      Float scalar in [0, 1], at least float32.

    References:
      Zong et al., arXiv 2209.01334 (authors' code).
    """
    nl_probs = at_least_float32(nl_probs)
    return jnp.mean(nl_probs < threshold, dtype=nl_probs.dtype)


def detect_noisy_labels(
    nl_logits: jax.Array, labels: jax.Array, *, threshold: float = 0.05
) -> jax.Array:
    """Flags labels that the negative head finds unlikely: `softmax(nl_logits)[label] < threshold`.

    Args:
      nl_logits: floats `[N, C]` of the negative head.
      labels: integers `[N]` in `0..C-1`, the given labels; any other counts as wrong.
      threshold: a label of a lower probability counts as wrong.

    Returns:
      bool `[N]`, True for a label that counts as wrong.

    Raises:
      ValueError: if the labels are not integers, one per row of logits, or there are fewer than
        two classes.

    References:
      Zong et al., arXiv 2209.01334 (authors' code).
    """
    nl_logits = check_logits(nl_logits)
    is_label = label_mask(nl_logits, labels)
    return jnp.sum(jax.nn.softmax(nl_logits), axis=-1, where=is_label) < threshold
