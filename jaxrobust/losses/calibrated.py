"""Dirichlet-based prediction calibration, the losses of DPC.

A network's C outputs o are read as the logarithm of evidence for C classes. A constant gamma is
added to every piece of evidence before it is normalised,

    alpha_c = exp(o_c) + gamma,    S = sum_c alpha_c,    p_c = alpha_c / S,

so that weak evidence for every class gives a flat prediction, whereas softmax, which ignores a
common shift of the logits, may give a confident one.

`gamma` is one non-negative number everywhere: None for the paper's 10 / C, 0 for plain softmax.

Zong, Wang, Xie and Huang, "Dirichlet-Based Prediction Calibration for Learning with Noisy Labels",
AAAI 2024, arXiv 2401.07062.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust.arrays import at_least_float32, check_logits, label_mask
from jaxrobust.losses._dirichlet import kl_to_uniform, series_start


def calibrated_log_softmax(
    logits: jax.typing.ArrayLike, gamma: jax.typing.ArrayLike | None = None
) -> jax.Array:
    """Log-probabilities of the calibrated softmax.

    `log p_c = log(exp(o_c) + gamma) - log sum_j (exp(o_j) + gamma)`

    Equal to `p = s softmax(o) + (1 - s) / C` with `s = sigmoid(logsumexp(o) - log(C gamma))`: the
    order of the classes is that of softmax, the confidence is lower. No logit is exponentiated on
    its own, so none overflows.

    Args:
      logits: floats `[..., C]`, C >= 2.
      gamma: prior evidence of every class, >= 0; None for 10 / C.

    Returns:
      Floats `[..., C]`, at least float32.

    Raises:
      ValueError: on fewer than two classes, or a gamma that is negative or not a scalar.

    References:
      DPC, Eq. 1.
    """
    logits = check_logits(logits)
    evidence = _scalar_gamma(gamma, logits)
    if gamma is not None and _is_known(gamma) and np.asarray(gamma) == 0:
        return jax.nn.log_softmax(logits)  # logaddexp has no gradient where both are -inf
    return jax.nn.log_softmax(jnp.logaddexp(logits, jnp.log(evidence)))


def calibrated_softmax(
    logits: jax.typing.ArrayLike, gamma: jax.typing.ArrayLike | None = None
) -> jax.Array:
    """Probabilities of the calibrated softmax.

    `p_c = (exp(o_c) + gamma) / sum_j (exp(o_j) + gamma)`

    Args:
      logits: floats `[..., C]`, C >= 2.
      gamma: prior evidence of every class, >= 0; None for 10 / C.

    Returns:
      Floats `[..., C]` that sum to 1 over the last axis, at least float32.

    Raises:
      ValueError: on fewer than two classes, or a gamma that is negative or not a scalar.

    References:
      DPC, Eq. 1.
    """
    return jnp.exp(calibrated_log_softmax(logits, gamma))


def evidential_nll(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    gamma: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Negative log-likelihood of the labels under the mean of the predicted Dirichlet.

    `log S - log alpha_y`, the cross-entropy of the calibrated softmax. Its gradient with respect to
    the logit of a wrong class is smaller than that of softmax cross-entropy, by
    `gamma C exp(o_c) / (S sum_j exp(o_j))`; `evidential_kl` compensates for this.

    Args:
      logits: floats `[..., C]`, C >= 2.
      labels: integers `[...]` in `0..C-1`; any other value gives 0.
      gamma: prior evidence of every class, >= 0; None for 10 / C.

    Returns:
      Floats `[...]`, one per example, at least float32.

    Raises:
      ValueError: on fewer than two classes, labels of another shape or not integers, or a gamma
        that is negative or not a scalar.

    References:
      DPC, the first term of its evidential loss; Eq. 2 for the difference of the gradients.
    """
    log_probs = calibrated_log_softmax(logits, gamma)
    return -jnp.sum(log_probs, axis=-1, where=label_mask(log_probs, labels))


def evidential_kl(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    gamma: jax.typing.ArrayLike | None = None,
    *,
    beta: jax.typing.ArrayLike = 0.5,
    evidence_scale: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Divergence that drives the evidence of every class but the label to zero.

    `beta / C * KL(Dir(a + 1) || Dir(1))` with `a_c = evidence_scale * exp(o_c)` for wrong classes
    and `a_y = 0`. The logit of the label has no influence; its gradient is exactly 0.

    The textbook form of this divergence cancels: in float32 its gradient is lost where one wrong
    logit reaches 20. Here it is evaluated from log a in a form without cancellation: for logits up
    to 60 the error in float32 is at most 1.5 units in the last place of the largest value (below
    3e-6), and that of the gradient below 1e-6.

    Args:
      logits: floats `[..., C]`, C >= 2.
      labels: integers `[...]` in `0..C-1`; for any other value all classes count as wrong.
      gamma: a positive number, None for 10 / C. Used only if evidence_scale is None.
      beta: weight. The result includes it and 1 / C, as in the authors' code; the paper writes them
        outside, which is equivalent.
      evidence_scale: positive factor from exp(logits) to evidence; None for 1 / gamma.

    Returns:
      Floats `[...]`, one per example, non-negative up to rounding, at least float32.

    Raises:
      ValueError: on fewer than two classes, labels of another shape or not integers, a gamma that
        is negative or not a scalar, or `gamma=0` without an evidence_scale. A traced gamma is not
        checked: 0 then gives values that are not finite.

    References:
      DPC, the second term of its evidential loss. The paper scales the evidence by gamma, whereas
      the authors' code multiplies concentrations by C / 10, which is the same at gamma = 10 / C.
    """
    logits = check_logits(logits)
    is_label = label_mask(logits, labels)
    num_classes = logits.shape[-1]
    if evidence_scale is None:
        gamma = _scalar_gamma(gamma, logits)
        if _is_known(gamma) and np.asarray(gamma) == 0:
            raise ValueError(
                "gamma=0 does not determine the scale of the evidence: pass evidence_scale=."
            )
        log_scale = -jnp.log(gamma)
    else:
        log_scale = jnp.log(jnp.asarray(evidence_scale, logits.dtype))

    logits = jnp.where(is_label, -jnp.inf, logits)
    log_evidence = logits + log_scale
    # Concentrations too large for a float are read from their logarithm alone.
    is_small = log_evidence < math.log(series_start(logits.dtype))
    x = jnp.where(is_small, 1 + jnp.exp(jnp.where(is_small, log_evidence, 0)), jnp.inf)
    # log(alpha / scale) in two parts, the first of which is exact.
    above_one = log_evidence > 0
    log_alpha = jnp.where(above_one, logits, -log_scale)
    remainder = jnp.logaddexp(jnp.where(above_one, -log_evidence, log_evidence), 0)
    weight = jnp.asarray(beta, logits.dtype) / num_classes
    return kl_to_uniform(x, log_alpha, remainder, log_scale, weight=weight)


def evidential_loss(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    gamma: jax.typing.ArrayLike | None = None,
    *,
    beta: jax.typing.ArrayLike = 0.5,
    evidence_scale: jax.typing.ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Both terms of the evidential loss; the training loss is the sum of their batch means.

    Args:
      logits: floats `[..., C]`, C >= 2.
      labels: integers `[...]` in `0..C-1`; for other values see the two terms.
      gamma: prior evidence of every class, >= 0; None for 10 / C.
      beta: weight of the divergence, already applied to it.
      evidence_scale: as in `evidential_kl`, needed at `gamma=0`.

    Returns:
      `(evidential_nll, evidential_kl)`, floats `[...]` each.

    Raises:
      ValueError: as `evidential_nll` and `evidential_kl`.

    References:
      DPC, evidential loss.
    """
    kl = evidential_kl(logits, labels, gamma, beta=beta, evidence_scale=evidence_scale)
    return evidential_nll(logits, labels, gamma), kl


def negative_entropy(
    logits: jax.typing.ArrayLike,
    gamma: jax.typing.ArrayLike | None = None,
    *,
    clamp_logits: bool = False,
) -> jax.Array:
    """Confidence penalty of the warm-up, `sum_c p_c log p_c` of the calibrated prediction.

    Args:
      logits: floats `[..., C]`, C >= 2.
      gamma: prior evidence of every class, >= 0; None for 10 / C.
      clamp_logits: raise the logits to at least 1e-12 first, as the authors' CIFAR-N script does:
        a negative logit counts as 0 and gets no gradient.

    Returns:
      Floats `[...]` in `[-log C, 0]`, one per example, at least float32.

    Raises:
      ValueError: on fewer than two classes, or a gamma that is negative or not a scalar.

    References:
      The authors' code, which adds it with weight 1 during the warm-up for asymmetric and CIFAR-N
      noise. The paper does not mention it.
    """
    logits = check_logits(logits)
    if clamp_logits:
        logits = jnp.maximum(logits, 1e-12)
    log_probs = calibrated_log_softmax(logits, gamma)
    probs = jnp.exp(log_probs)
    return jnp.sum(probs * jnp.where(probs > 0, log_probs, 0), axis=-1)


def uniform_prior_penalty(
    logits: jax.typing.ArrayLike, gamma: jax.typing.ArrayLike | None = None
) -> jax.Array:
    """Divergence of a batch's mean calibrated prediction q from the uniform one.

    `sum_c 1/C log((1/C) / q_c)`

    Args:
      logits: floats `[..., C]`, C >= 2. The mean runs over all axes but the last.
      gamma: prior evidence of every class, >= 0; None for 10 / C.

    Returns:
      Scalar, at least float32; non-negative up to rounding and 0 only at a uniform mean.

    Raises:
      ValueError: on fewer than two classes, or a gamma that is negative or not a scalar.

    References:
      The authors' code (from DivideMix), which adds it with weight 1. Not in the paper's text.
    """
    log_mean = _log_mean_prediction(logits, gamma)
    return -math.log(log_mean.shape[0]) - jnp.mean(log_mean)


def class_prior_penalty(
    logits: jax.typing.ArrayLike,
    prior: jax.typing.ArrayLike,
    gamma: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Divergence of a batch's mean calibrated prediction q from a class distribution.

    `sum_c prior_c log(prior_c / q_c)`, which at a uniform prior is `uniform_prior_penalty`. A
    uniform prior pulls predictions away from frequent classes; a prior of the label frequencies
    does not.

    Args:
      logits: floats `[..., C]`, C >= 2. The mean runs over all axes but the last.
      prior: floats `[C]` that sum to 1.
      gamma: prior evidence of every class, >= 0; None for 10 / C.

    Returns:
      Scalar, at least float32; non-negative up to rounding and 0 only where q is the prior.

    Raises:
      ValueError: on fewer than two classes, or a gamma that is negative or not a scalar.

    References:
      Ours.
    """
    log_mean = _log_mean_prediction(logits, gamma)
    prior = jnp.asarray(prior, log_mean.dtype)
    return jnp.sum(jnp.where(prior > 0, prior * (jnp.log(jnp.maximum(prior, 1e-30)) - log_mean), 0))


def _log_mean_prediction(
    logits: jax.typing.ArrayLike, gamma: jax.typing.ArrayLike | None
) -> jax.Array:
    """Log `[C]` of the mean calibrated prediction."""
    log_probs = calibrated_log_softmax(logits, gamma)
    rows = log_probs.reshape(-1, log_probs.shape[-1])
    # As a mean of probabilities, a class that no row predicts would underflow to log 0.
    return jax.nn.logsumexp(rows, axis=0) - math.log(rows.shape[0])


def sharpen(probs: jax.typing.ArrayLike, *, temperature: jax.typing.ArrayLike = 0.5) -> jax.Array:
    """Sharpens distributions: `p_c**(1/T) / sum_j p_j**(1/T)`.

    Args:
      probs: floats `[..., C]`, non-negative and not all 0 on the last axis.
      temperature: T > 0. Below 1 sharpens, 1 leaves a distribution unchanged.

    Returns:
      Floats `[..., C]` that sum to 1 over the last axis, at least float32.

    References:
      DPC, label co-guessing and co-refinement (from MixMatch).
    """
    probs = at_least_float32(probs)
    # The scale of probs drops out; with a peak of 1 no power underflows in all classes at once.
    peak = jax.lax.stop_gradient(jnp.max(probs, axis=-1, keepdims=True))
    powers = (probs / peak) ** (1 / jnp.asarray(temperature, probs.dtype))
    return powers / jnp.sum(powers, axis=-1, keepdims=True)


def semi_supervised_loss(
    logits_x: jax.typing.ArrayLike,
    labels_a: jax.typing.ArrayLike,
    labels_b: jax.typing.ArrayLike,
    mix: jax.typing.ArrayLike,
    logits_u: jax.typing.ArrayLike,
    targets_u: jax.typing.ArrayLike,
    gamma: jax.typing.ArrayLike | None = None,
    *,
    beta: jax.typing.ArrayLike = 0.5,
    evidence_scale: jax.typing.ArrayLike | None = None,
    weights: tuple[jax.Array, jax.Array, jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Supervised and unsupervised loss of a batch of mixed inputs.

    With l the mixing weight and L the sum of both terms of `evidential_loss`,

        supervised   = mean over rows of  l L(o_x, a) + (1 - l) L(o_x, b),
        unsupervised = mean over rows and classes of  (p(o_u) - t_u)^2.

    Args:
      logits_x: floats `[M, C]`, outputs of the supervised head on the mixed rows whose first
        partner is labelled.
      labels_a: integers `[M]`, hard labels of the first partners.
      labels_b: integers `[M]`, hard labels of the second partners.
      mix: l, a number in `[0, 1]`, share of the first partner.
      logits_u: floats `[K, C]`, outputs of the unsupervised head on the other mixed rows.
      targets_u: floats `[K, C]`, their mixed soft targets; no gradient reaches them.
      gamma: prior evidence of every class, >= 0; None for 10 / C.
      beta: weight of the divergence.
      evidence_scale: as in `evidential_kl`, needed at `gamma=0`.
      weights: floats `[M]`, `[M]` and `[K]` by which the losses of the first partners, of the
        second partners and of the other rows are multiplied; None for 1.

    Returns:
      `(supervised, unsupervised)`, two scalars, neither weighted, at least float32.

    Raises:
      ValueError: as `evidential_loss`, or if logits_u and targets_u differ in shape.

    References:
      DPC, semi-supervised loss, as in the authors' code: means over rows, and the supervised loss
      of the mixed input. The paper has sums over examples, mixes the losses of the two source
      images, and does not divide the unsupervised loss by C.
    """
    probs = calibrated_softmax(logits_u, gamma)
    targets = jax.lax.stop_gradient(jnp.asarray(targets_u, probs.dtype))
    if targets.shape != probs.shape:
        raise ValueError(
            f"logits_u and targets_u must have the same shape, got {probs.shape} and "
            f"{targets.shape}."
        )
    logits_x = jnp.broadcast_to(logits_x, (2, *jnp.shape(logits_x)))
    labels = jnp.stack([labels_a, labels_b])
    nll, kl = evidential_loss(logits_x, labels, gamma, beta=beta, evidence_scale=evidence_scale)
    loss = nll + kl
    mix = jnp.asarray(mix, loss.dtype)
    errors = jnp.square(probs - targets)
    if weights is not None:
        loss = loss * jnp.stack(weights[:2])
        errors = errors * weights[2][:, None]
    return jnp.mean(mix * loss[0] + (1 - mix) * loss[1]), jnp.mean(errors)


def strong_view_consistency(
    logits_weak: jax.typing.ArrayLike,
    logits_strong: jax.typing.ArrayLike,
    gamma: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Divergence of the prediction on a strong view from that on the weak view (DPC*).

    `KL(p_weak || p_strong) = sum_c p_weak (log p_weak - log p_strong)`, calibrated.

    Args:
      logits_weak: floats `[..., C]`, C >= 2; no gradient reaches them.
      logits_strong: floats `[..., C]`.
      gamma: prior evidence of every class, >= 0; None for 10 / C.

    Returns:
      Floats `[...]`, one per example, non-negative up to rounding, at least float32.

    Raises:
      ValueError: on fewer than two classes, shapes that differ, or a gamma that is negative or not
        a scalar.

    References:
      DPC, appendix (DPC*). Its weights for CIFAR-10 and CIFAR-100 are 1 and 3 in the appendix, and
      3 and 1 in the authors' code.
    """
    log_weak = jax.lax.stop_gradient(calibrated_log_softmax(logits_weak, gamma))
    log_strong = calibrated_log_softmax(logits_strong, gamma)
    if log_weak.shape != log_strong.shape:
        raise ValueError(
            f"logits_weak and logits_strong must have the same shape, got {log_weak.shape} and "
            f"{log_strong.shape}."
        )
    weak = jnp.exp(log_weak)
    return jnp.sum(jnp.where(weak > 0, weak * (log_weak - log_strong), 0), axis=-1)


def _is_known(value: jax.typing.ArrayLike) -> bool:
    """Whether the value is concrete, not traced."""
    return not isinstance(value, Tracer)


def _scalar_gamma(gamma: jax.typing.ArrayLike | None, logits: jax.Array) -> jax.Array:
    if gamma is None:
        gamma = 10 / logits.shape[-1]
    if jnp.ndim(gamma) != 0 or (_is_known(gamma) and np.asarray(gamma) < 0):
        raise ValueError(f"gamma must be one number >= 0, or None for 10 / C; got {gamma}.")
    return jnp.asarray(gamma, logits.dtype)
