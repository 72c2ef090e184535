"""Uncertainties of a Dirichlet prediction, the scores of DCFS's coarse stage.

Wang et al., "Dirichlet-Based Coarse-to-Fine Example Selection For Open-Set Annotation",
arXiv 2409.17607, with the decomposition of Xie et al., "Dirichlet-based Uncertainty Calibration for
Active Domain Adaptation", ICLR 2023. All functions take `log_alpha` from
`jaxrobust.losses.dirichlet_log_alpha`; S is the sum of alpha and p = alpha / S.
"""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma

from jaxrobust.arrays import check_logits
from jaxrobust.errors import check_option
from jaxrobust.losses.evidential import dirichlet_alpha, dirichlet_kl_to_uniform

MERGES = ("mean_score", "mean_alpha", "head1")


def dirichlet_uncertainties(
    log_alpha: jax.typing.ArrayLike,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Total uncertainty of a Dirichlet prediction, split into data and distribution uncertainty.

    - total: entropy of the expected probabilities, `H(p) = -sum_c p_c log p_c`;
    - data: expected entropy, `sum_c p_c (psi(S + 1) - psi(alpha_c + 1))`;
    - distribution: their difference, the mutual information of class and probabilities.

    Subtraction would cancel for large evidence, so distribution is computed as `sum_c p_c
    (delta(alpha_c) - delta(S))` with `delta(x) = psi(x + 1) - log x`, and data as total minus
    distribution.

    Args:
      log_alpha: [..., K].

    Returns:
      (total, data, distribution), each [...], in nats, with 0 <= distribution <= total.

    Raises:
      ValueError: if K < 2.

    References:
      Xie et al., ICLR 2023 (DUC), without the 1e-7 that its code adds inside the logarithm.
    """
    log_alpha = check_logits(log_alpha, "log_alpha")
    log_strength = jax.nn.logsumexp(log_alpha, axis=-1, keepdims=True)
    log_probs = log_alpha - log_strength
    probs = jnp.exp(log_probs)
    possible = probs > 0  # a class of probability 0 adds nothing
    total = -jnp.sum(jnp.where(possible, probs * log_probs, 0), axis=-1)
    information = probs * (_delta(log_alpha) - _delta(log_strength))
    information = jnp.sum(jnp.where(possible, information, 0), axis=-1)
    distribution = jnp.clip(information, 0, total)
    return total, total - distribution, distribution


def _delta(log_x: jax.Array) -> jax.Array:
    """psi(x + 1) - log x, by its asymptotic series for x > 20, where the difference cancels."""
    large = log_x > math.log(20)
    r = jnp.exp(-jnp.where(large, log_x, math.log(20)))
    r2 = jnp.square(r)
    series = r / 2 - r2 / 12 * (1 - r2 / 10 * (1 - r2 * (10 / 21) * (1 - r2 * (21 / 20))))
    small = jnp.where(large, 0, log_x)
    return jnp.where(large, series, digamma(jnp.exp(small) + 1) - small)


def vacuity(log_alpha: jax.typing.ArrayLike, *, offset: float = 1.0) -> jax.Array:
    """Fraction of the strength S that is not evidence: `K offset / S`.

    Args:
      log_alpha: [..., K].
      offset: the offset that alpha was made with, positive.

    Returns:
      [...], in (0, 1]; 1 means no evidence.

    Raises:
      ValueError: if the offset is not positive, or K < 2.

    References:
      Sensoy et al., "Evidential Deep Learning to Quantify Classification Uncertainty", NeurIPS
      2018, equation 1 (offset 1).
    """
    if not offset > 0:
        raise ValueError(f"offset={offset}: vacuity is defined for a positive offset only.")
    log_alpha = check_logits(log_alpha, "log_alpha")
    log_prior = math.log(log_alpha.shape[-1] * offset)
    return jnp.exp(log_prior - jax.nn.logsumexp(log_alpha, axis=-1))


def differential_entropy(log_alpha: jax.typing.ArrayLike) -> jax.Array:
    """Differential entropy of the Dirichlet distribution.

    `sum_c lnG(alpha_c) - lnG(S) + (S - K) psi(S) - sum_c (alpha_c - 1) psi(alpha_c)`, computed as
    the entropy `-lnG(K)` of the uniform Dirichlet minus the divergence from it.

    Args:
      log_alpha: [..., K].

    Returns:
      [...], in nats, at most `-lnG(K)`.

    Raises:
      ValueError: if K < 2.

    References:
      Malinin and Gales, "Predictive Uncertainty Estimation via Prior Networks", NeurIPS 2018.
    """
    alpha = dirichlet_alpha(check_logits(log_alpha, "log_alpha"))
    return -math.lgamma(alpha.shape[-1]) - dirichlet_kl_to_uniform(alpha)


def merge_heads(
    log_alpha: jax.typing.ArrayLike, *, merge: str = "mean_score"
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Combines the uncertainties and predictions of two heads.

    - "mean_score": means of the two heads' uncertainties;
    - "mean_alpha": uncertainties of `(alpha1 + alpha2) / 2`, in which disagreement of the heads
      counts as data uncertainty;
    - "head1": those of the first head.

    Args:
      log_alpha: [2, ..., K], one row per head.
      merge: "mean_score", "mean_alpha" or "head1".

    Returns:
      (data [...], distribution [...], probs [..., K]); `probs` is the mean of both heads' expected
      probabilities for every merge, and its argmax is the predicted class.

    Raises:
      ValueError: on an unknown `merge`, another number of heads, or K < 2.

    References:
      Ours; the authors' rule is not known.
    """
    check_option("merge", merge, MERGES)
    log_alpha = check_logits(log_alpha, "log_alpha")
    if log_alpha.ndim < 2 or log_alpha.shape[0] != 2:
        raise ValueError(f"log_alpha must hold two heads, [2, ..., K]; got {log_alpha.shape}.")
    if merge == "mean_score":
        _, data, distribution = dirichlet_uncertainties(log_alpha)
        data, distribution = jnp.mean(data, axis=0), jnp.mean(distribution, axis=0)
    elif merge == "mean_alpha":
        mean_alpha = jnp.logaddexp(log_alpha[0], log_alpha[1]) - math.log(2)
        _, data, distribution = dirichlet_uncertainties(mean_alpha)
    else:
        _, data, distribution = dirichlet_uncertainties(log_alpha[0])
    return data, distribution, jnp.mean(jax.nn.softmax(log_alpha, axis=-1), axis=0)
