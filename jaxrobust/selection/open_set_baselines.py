"""Scores of other open-set annotation methods, which BUAL is compared with."""

import jax
import jax.numpy as jnp

from jaxrobust.losses._classes import check_logits, label_mask
from jaxrobust.losses._numerics import masked_mean
from jaxrobust.losses.negative import log_one_minus_softmax
from jaxrobust.selection.mixture import fit_gaussian_mixture_1d, gaussian_mixture_posterior


def lfosa_score(detector_logits: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    """LfOSA's probability that an image is of the known class it looks like; high = query.

    The images are grouped by predicted class; to the largest logits of each group a mixture of two
    Gaussians is fitted, and the score is the posterior of the one with the larger mean. Images
    predicted unknown, and those alone in their group, score 0.

    Args:
      detector_logits: floats `[N, K+1]` of a (K+1)-way detector; class K is "unknown".
      where: bool `[N]`, the candidates; `None` for all.

    Returns:
      Floats `[N]` in [0, 1], at least float32; -inf outside `where`.

    Raises:
      ValueError: if `detector_logits` is not a matrix with at least two columns.

    References:
      Ning et al., "Active Learning for Open-set Annotation", CVPR 2022.
    """
    detector_logits = check_logits(detector_logits)
    if detector_logits.ndim != 2:
        raise ValueError(f"detector_logits must be [N, K+1]; got shape {detector_logits.shape}.")
    activations = jnp.max(detector_logits, axis=1)
    predicted = jnp.argmax(detector_logits, axis=1)
    candidate = jnp.ones(len(predicted), bool) if where is None else jnp.asarray(where, bool)

    def visit(label, scores):
        members = candidate & (predicted == label.astype(predicted.dtype))
        mixture = fit_gaussian_mixture_1d(activations, where=members)
        known = gaussian_mixture_posterior(activations, mixture)[:, 1]
        return jnp.where(members & (jnp.sum(members) >= 2), known, scores)

    scores = jnp.where(candidate, jnp.zeros_like(activations), -jnp.inf)
    return jax.lax.fori_loop(0, detector_logits.shape[1] - 1, visit, scores)


def aleatoric_uncertainty(logits: jax.Array) -> jax.Array:
    """EAOA's aleatoric uncertainty: `logsumexp_{k != argmax} z_k - logsumexp_k z_k`; high = query.

    This is `log(1 - max p)`, free of cancellation.

    Args:
      logits: floats `[M, K]` of the K-way classifier, K >= 2.

    Returns:
      Floats `[M]`, at least float32, below 0.

    Raises:
      ValueError: if there are fewer than two classes.

    References:
      Zong and Huang, "Rethinking Epistemic and Aleatoric Uncertainty for Active Open-Set
      Annotation: An Energy-Based Approach", CVPR 2025.
    """
    return jnp.min(log_one_minus_softmax(logits), axis=-1)


def epistemic_energy(detector_logits: jax.Array) -> jax.Array:
    """EAOA's free energy of a (K+1)-way detector: `-logsumexp_{k < K} w_k + softplus(w_K)`.

    Low means that the image looks known.

    Args:
      detector_logits: floats `[M, K+1]`; class K is "unknown".

    Returns:
      Floats `[M]`, at least float32.

    Raises:
      ValueError: if there is no known class.

    References:
      Zong and Huang, CVPR 2025.
    """
    detector_logits = check_logits(detector_logits)
    return _known_energy(detector_logits) + jax.nn.softplus(detector_logits[..., -1])


def energy_margin_loss(
    detector_logits: jax.Array,
    labels: jax.Array,
    *,
    known_margin: float = -25.0,
    unknown_margin: float = -7.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Keeps the energy of known images low and that of unknown ones high.

    `mean over known of relu(E - known_margin)^2 + mean over unknown of relu(unknown_margin - E)^2`
    with `E = -logsumexp_{k < K} w_k`. EAOA adds it with weight 0.01 to the detector's (K+1)-way
    cross-entropy. A batch quantity; a group that is absent from the batch counts 0.

    Args:
      detector_logits: floats `[B, K+1]`; class K is "unknown".
      labels: integers `[B]` in `0..K`.
      known_margin: energy below which a known image costs nothing.
      unknown_margin: energy above which an unknown image costs nothing.
      where: bool `[B]`, the rows that count; `None` for all.

    Returns:
      Float scalar, at least float32.

    Raises:
      ValueError: if the labels are not integers, one per row of logits, or there is no known class.

    References:
      Zong and Huang, CVPR 2025.
    """
    detector_logits = check_logits(detector_logits)
    unknown = label_mask(detector_logits, labels)[..., -1]
    energy = _known_energy(detector_logits)
    counted = jnp.ones_like(unknown) if where is None else where
    return masked_mean(jax.nn.relu(energy - known_margin) ** 2, counted & ~unknown) + masked_mean(
        jax.nn.relu(unknown_margin - energy) ** 2, counted & unknown
    )


def _known_energy(detector_logits: jax.Array) -> jax.Array:
    return -jax.nn.logsumexp(detector_logits[..., :-1], axis=-1)
