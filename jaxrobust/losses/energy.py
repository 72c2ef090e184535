"""Energy loss of a detector of unknown classes, as trained by EAOA."""

import jax
import jax.numpy as jnp

from jaxrobust.arrays import check_logits, label_mask, masked_mean


def energy_margin_loss(
    detector_logits: jax.Array,
    labels: jax.Array,
    *,
    known_margin: float = -25.0,
    unknown_margin: float = -7.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Penalises known images of high energy and unknown images of low energy.

    `mean over known of relu(E - known_margin)^2 + mean over unknown of relu(unknown_margin - E)^2`
    with the energy `E = -logsumexp_{k < K} w_k`. EAOA adds it with weight 0.01 to the detector's
    (K+1)-way cross-entropy. It is computed over the batch; a group without examples contributes 0.

    Args:
      detector_logits: floats `[B, K+1]`; class K is "unknown".
      labels: integers `[B]` in `0..K`; any other counts as known.
      known_margin: energy below which a known image costs nothing.
      unknown_margin: energy above which an unknown image costs nothing.
      where: bool `[B]`, the rows that count; `None` for all.

    Returns:
      Float scalar, at least float32.

    Raises:
      ValueError: if the labels are not integers, one per row of logits, or there is no known class.

    References:
      Zong and Huang, "Rethinking Epistemic and Aleatoric Uncertainty for Active Open-Set
      Annotation: An Energy-Based Approach", CVPR 2025 (EAOA); margins and weight are its defaults.
    """
    detector_logits = check_logits(detector_logits)
    unknown = label_mask(detector_logits, labels)[..., -1]
    energy = -jax.nn.logsumexp(detector_logits[..., :-1], axis=-1)
    counted = jnp.ones_like(unknown) if where is None else where
    return masked_mean(jax.nn.relu(energy - known_margin) ** 2, counted & ~unknown) + masked_mean(
        jax.nn.relu(unknown_margin - energy) ** 2, counted & unknown
    )
