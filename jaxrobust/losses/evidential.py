"""Evidential losses on two heads, the training objective of DCFS.

A network's K outputs z are read as the logarithm of evidence for K known classes. With a constant
offset they are the concentration of a Dirichlet distribution over the class simplex,

    alpha_c = exp(z_c) + offset,    S = sum_c alpha_c,    p_c = alpha_c / S,

so that, unlike with a softmax, a constant added to every logit changes the prediction: S is the
total evidence. Two heads read the same features; the distance between their p is reduced on known
classes and amplified on unknown ones.

Labels are int: 0..K-1 for known classes, K for examples annotated as unknown; every other value, by
convention -1, marks padding, which is excluded from all terms and means.

Wang, Zong, Xie and Huang, "Dirichlet-Based Coarse-to-Fine Example Selection For Open-Set
Annotation", arXiv 2409.17607. Only the abstract was available: the formulas are a reconstruction
from the papers named in each function, not the authors' objective.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma

from jaxrobust.arrays import at_least_float32, check_logits, label_mask, masked_mean
from jaxrobust.errors import check_option
from jaxrobust.losses._dirichlet import kl_to_uniform

EVIDENCE = ("exp", "softplus", "relu")
EDL_LOSSES = ("nll", "digamma", "mse")
DISCREPANCIES = ("tv", "l1_mean", "l2", "js", "dirichlet_kl")
AMPLIFICATIONS = ("neg", "one_minus", "hinge")


def dirichlet_log_alpha(
    logits: jax.typing.ArrayLike,
    *,
    offset: float = 1.0,
    clip: float | None = 10.0,
    evidence: str = "exp",
) -> jax.Array:
    """Log concentration of the Dirichlet distribution that a classifier predicts.

    `log alpha_c = log(g(z_c) + offset)` with z clipped to [-clip, clip], where the evidence g is
    exp(z), softplus(z) = log(1 + exp(z)), or relu(z) = max(z, 0).

    Args:
      logits: [..., K], K >= 2 classes, any float dtype.
      offset: prior evidence of every class, >= 0. With 0 the expected probabilities are the
        softmax of the logits. (offset, clip) is (1, 10) in E2OAL, whose values are the defaults,
        (0, None) in DUC and (10 / K, None) in DPC.
      clip: bound on the size of a logit, None for no bound. A logit beyond it has zero gradient.
      evidence: "exp", "softplus" or "relu"; "relu" needs a positive offset.

    Returns:
      [..., K], float32 or wider.

    Raises:
      ValueError: on fewer than two classes, a negative offset, a clip that is not positive, an
        unknown `evidence`, or "relu" without an offset.

    References:
      Sensoy et al., "Evidential Deep Learning to Quantify Classification Uncertainty", NeurIPS
      2018 (relu, offset 1); Xie et al., "Dirichlet-based Uncertainty Calibration for Active Domain
      Adaptation", ICLR 2023 (exp, offset 0).
    """
    check_option("evidence", evidence, EVIDENCE)
    if offset < 0:
        raise ValueError(f"offset={offset} must not be negative: it is evidence.")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip={clip} must be positive, or None for no clipping.")
    if evidence == "relu" and offset == 0:
        raise ValueError("evidence='relu' needs offset > 0: without one alpha would be 0.")
    z = check_logits(logits)
    if clip is not None:
        z = jnp.clip(z, -clip, clip)
    if evidence == "relu":
        return jnp.log(jax.nn.relu(z) + offset)
    if evidence == "softplus":
        # Below -40, log(softplus(z)) = z in any float dtype, while softplus itself underflows.
        small = z < -40
        z = jnp.where(small, z, jnp.log(jax.nn.softplus(jnp.where(small, 0, z))))
    return jnp.logaddexp(z, math.log(offset)) if offset else z


def dirichlet_alpha(log_alpha: jax.typing.ArrayLike) -> jax.Array:
    """Concentration `alpha = exp(log_alpha)` within a range whose squares are finite.

    Args:
      log_alpha: [..., K], from `dirichlet_log_alpha`.

    Returns:
      [..., K], limited to [sqrt(tiny), 1 / sqrt(tiny)] of its dtype (1e-19 to 1e19 in float32), so
      that losses of alpha and their gradients are finite for any finite logits. The gradient is
      zero where the limit acts; with the default clip of `dirichlet_log_alpha` it never does.
    """
    return _bounded_exp(at_least_float32(log_alpha), 1 / 2)


def _bounded_exp(x: jax.Array, power: float) -> jax.Array:
    """exp(x), limited to [tiny^power, tiny^-power] of its dtype."""
    bound = -power * math.log(jnp.finfo(x.dtype).tiny)
    return jnp.exp(jnp.clip(x, -bound, bound))


def edl_nll(
    log_alpha: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Negative log of the expected probability of the label: `log S - log alpha_y`.

    With offset 0 it is the softmax cross-entropy.

    Args:
      log_alpha: [..., K], from `dirichlet_log_alpha`.
      labels: int, broadcast against [...].
      where: bool [K] or [..., K], the classes that exist; None for all.

    Returns:
      [...], in nats; 0, without gradient, where the label is not in 0..K-1.

    Raises:
      ValueError: if the labels are not integers or do not broadcast, or K < 2.

    References:
      Xie et al., ICLR 2023 (DUC): the negative log-likelihood marginalised over the Dirichlet.
    """
    log_alpha = check_logits(log_alpha, "log_alpha")
    is_label = _known_label_mask(log_alpha, labels)
    where = _classes(where, log_alpha)
    log_strength = jax.nn.logsumexp(log_alpha, axis=-1, keepdims=True, where=where)
    return jnp.sum(jnp.where(is_label, log_strength - log_alpha, 0), axis=-1)


def edl_loss(
    log_alpha: jax.typing.ArrayLike, labels: jax.typing.ArrayLike, *, kind: str = "nll"
) -> jax.Array:
    """Evidential classification loss.

    - "nll": `log S - log alpha_y`, see `edl_nll`;
    - "digamma": the expected cross-entropy, `psi(S) - psi(alpha_y)`;
    - "mse": the expected squared error, `sum_c (y_c - p_c)^2 + p_c (1 - p_c) / (S + 1)`.

    Args:
      log_alpha: [..., K], from `dirichlet_log_alpha`.
      labels: int, broadcast against [...].
      kind: "nll", "digamma" or "mse".

    Returns:
      [...], in nats except "mse"; 0, without gradient, where the label is not in 0..K-1.

    Raises:
      ValueError: on an unknown `kind`, labels that are not integers or do not broadcast, or K < 2.

    References:
      Sensoy et al., NeurIPS 2018: equations 3 (nll), 4 (digamma) and 5 (mse).
    """
    check_option("kind", kind, EDL_LOSSES)
    if kind == "nll":
        return edl_nll(log_alpha, labels)
    log_alpha = check_logits(log_alpha, "log_alpha")
    is_label = _known_label_mask(log_alpha, labels)
    alpha = dirichlet_alpha(log_alpha)
    strength = jnp.sum(alpha, axis=-1, keepdims=True)
    if kind == "digamma":
        return jnp.sum(jnp.where(is_label, digamma(strength) - digamma(alpha), 0), axis=-1)
    probs = jax.nn.softmax(log_alpha, axis=-1)
    error = jnp.square(is_label.astype(probs.dtype) - probs)
    variance = probs * (1 - probs) / (strength + 1)
    return jnp.where(is_label.any(axis=-1), jnp.sum(error + variance, axis=-1), 0)


def dirichlet_kl_to_uniform(
    beta: jax.typing.ArrayLike, *, where: jax.typing.ArrayLike | None = None
) -> jax.Array:
    """Kullback-Leibler divergence from a Dirichlet distribution to the uniform one.

    `KL(Dir(beta) || Dir(1)) = lnG(T) - lnG(K) - sum_c lnG(beta_c)
    + sum_c (beta_c - 1)(psi(beta_c) - psi(T))`, T = sum_c beta_c, evaluated without cancellation.
    It is 0 only at beta = 1; the gradient is `(beta_c - 1) psi1(beta_c) - (T - K) psi1(T)`.

    Args:
      beta: [..., K], positive; `dirichlet_alpha` gives values whose divergence is finite.
      where: bool [K] or [..., K], the classes that exist, K of them in the formula; None for all.

    Returns:
      [...], in nats, not divided by K.

    Raises:
      ValueError: if K < 2.

    References:
      Sensoy et al., NeurIPS 2018, section 4.
    """
    beta = check_logits(beta, "beta")
    return kl_to_uniform(beta, jnp.log(beta), where=_classes(where, beta))


def misleading_kl(
    alpha: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    offset: float = 1.0,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Divergence to the uniform Dirichlet of the evidence for every class but the label.

    `KL(Dir(beta) || Dir(1))` with beta_y = 1 and, elsewhere, beta_c = alpha_c / offset (alpha_c
    when offset is 0). Because of the division by the offset, no evidence gives the minimum, 0.

    Args:
      alpha: [..., K], positive, from `dirichlet_alpha`.
      labels: int, broadcast against [...].
      offset: the offset that alpha was made with.
      where: bool [K] or [..., K], the classes that exist; None for all.

    Returns:
      [...], in nats, not divided by K; 0, without gradient, where the label is not in 0..K-1.

    Raises:
      ValueError: if the labels are not integers or do not broadcast, K < 2, or offset < 0.

    References:
      Sensoy et al., NeurIPS 2018, section 4; the same term is in DUC (offset 0), E2OAL (offset 1)
      and DPC (offset 10 / K).
    """
    beta = _evidence_ratio(alpha, offset)
    is_label = _known_label_mask(beta, labels)
    known = is_label.any(axis=-1)
    beta = jnp.where(is_label | ~known[..., None], 1, beta)
    return jnp.where(known, dirichlet_kl_to_uniform(beta, where=where), 0)


def unknown_kl(alpha: jax.typing.ArrayLike, *, offset: float = 1.0) -> jax.Array:
    """Divergence to the uniform Dirichlet of all the evidence, for labelled unknown examples.

    `KL(Dir(beta) || Dir(1))` with beta = alpha / offset (alpha when offset is 0).

    Args:
      alpha: [..., K], positive, from `dirichlet_alpha`.
      offset: the offset that alpha was made with.

    Returns:
      [...], in nats, not divided by K.

    Raises:
      ValueError: if K < 2 or offset < 0.

    References:
      Malinin and Gales, "Predictive Uncertainty Estimation via Prior Networks", NeurIPS 2018: a
      flat Dirichlet as the out-of-distribution target.
    """
    return dirichlet_kl_to_uniform(_evidence_ratio(alpha, offset))


def head_discrepancy(
    logits: jax.typing.ArrayLike,
    *,
    kind: str = "tv",
    offset: float = 1.0,
    clip: float | None = 10.0,
    evidence: str = "exp",
) -> jax.Array:
    """Distance between the predictions of two heads, symmetric in the heads.

    With p1, p2 the expected probabilities, m their mean, and Dir(alpha1), Dir(alpha2):

    - "tv": `1/2 sum_c |p1 - p2|`, in [0, 1];
    - "l1_mean": `1/K sum_c |p1 - p2|`;
    - "l2": `sum_c (p1 - p2)^2`;
    - "js": `1/2 KL(p1 || m) + 1/2 KL(p2 || m)`, at most log 2;
    - "dirichlet_kl": the mean of the two divergences between the Dirichlet distributions,
      `1/2 sum_c (alpha1 - alpha2)(psi(alpha1) - psi(alpha2) - psi(S1) + psi(S2))`.

    The gradient of an absolute value is 0 at 0, so equal heads stay equal: initialise them with
    different keys.

    Args:
      logits: [2, ..., K], one row per head, or a pair of [..., K].
      kind: "tv", "l1_mean", "l2", "js" or "dirichlet_kl".
      offset: as in `dirichlet_log_alpha`.
      clip: as in `dirichlet_log_alpha`.
      evidence: as in `dirichlet_log_alpha`.

    Returns:
      [...]; "js" and "dirichlet_kl" in nats.

    Raises:
      ValueError: on an unknown `kind` or another number of heads, and as `dirichlet_log_alpha`.

    References:
      Saito et al., "Maximum Classifier Discrepancy for Unsupervised Domain Adaptation", CVPR 2018
      (MCD), has "l1_mean". The default is ours: it gives the same ranking, with a range that does
      not depend on K.
    """
    check_option("kind", kind, DISCREPANCIES)
    logits = _check_two_heads(logits)
    log_alpha = dirichlet_log_alpha(logits, offset=offset, clip=clip, evidence=evidence)
    if kind == "dirichlet_kl":
        # Its gradient multiplies more factors of alpha than the other losses: a narrower range.
        alpha = _bounded_exp(log_alpha, 1 / 4)
        psi = digamma(alpha) - digamma(jnp.sum(alpha, axis=-1, keepdims=True))
        return 0.5 * jnp.sum((alpha[0] - alpha[1]) * (psi[0] - psi[1]), axis=-1)
    log_probs = jax.nn.log_softmax(log_alpha, axis=-1)
    probs = jnp.exp(log_probs)
    if kind == "js":
        log_mean = jnp.logaddexp(log_probs[0], log_probs[1]) - math.log(2)
        return 0.5 * jnp.sum(probs * (log_probs - log_mean[None]), axis=(0, -1))
    difference = probs[0] - probs[1]
    if kind == "l2":
        return jnp.sum(jnp.square(difference), axis=-1)
    # Not jnp.abs, whose gradient at 0 is 1.
    l1 = jnp.sum(difference * jnp.sign(difference), axis=-1)
    return 0.5 * l1 if kind == "tv" else l1 / difference.shape[-1]


def discrepancy_loss(
    discrepancy: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    num_classes: int,
    *,
    amplify: str = "neg",
    margin: float = 1.0,
) -> jax.Array:
    """Reduces the heads' discrepancy d on known classes and amplifies it on unknown ones.

    `mean_known d + mean_unknown f(d)`, where f(d) is -d ("neg"), 1 - d ("one_minus") or
    max(0, margin - d) ("hinge"). A group without examples in the batch contributes 0.

    Args:
      discrepancy: [B], from `head_discrepancy`.
      labels: int [B]; 0..K-1 known, K unknown, other values ignored.
      num_classes: K, the number of known classes.
      amplify: "neg", "one_minus" or "hinge".
      margin: for "hinge", the discrepancy from which on an unknown example has no loss.

    Returns:
      Scalar.

    Raises:
      ValueError: on an unknown `amplify`, shapes that differ, labels that are not integers, or
        fewer than two classes.

    References:
      Saito et al., CVPR 2018 (MCD) for "neg"; Fu et al., "Agreement-Discrepancy-Selection: Active
      Learning with Progressive Distribution Alignment", AAAI 2021 (ADS), for "one_minus", which has
      the same gradient.
    """
    check_option("amplify", amplify, AMPLIFICATIONS)
    if num_classes < 2:
        raise ValueError(
            f"num_classes={num_classes} must be at least 2; it is the number of known classes."
        )
    discrepancy = at_least_float32(discrepancy)
    known, unknown = _groups(labels, num_classes)
    if known.shape != discrepancy.shape:
        raise ValueError(
            f"labels {known.shape} and discrepancy {discrepancy.shape} must have one shape, [B]."
        )
    if amplify == "neg":
        amplified = -discrepancy
    elif amplify == "one_minus":
        amplified = 1 - discrepancy
    else:
        amplified = jax.nn.relu(margin - discrepancy)
    return masked_mean(discrepancy, known) + masked_mean(amplified, unknown)


def dcfs_loss(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    offset: float = 1.0,
    clip: float | None = 10.0,
    kl_weight: jax.typing.ArrayLike = 1.0,
    lambda_unk: jax.typing.ArrayLike = 1.0,
    lambda_dis: jax.typing.ArrayLike = 1.0,
    anneal: jax.typing.ArrayLike = 1.0,
    evidence: str = "exp",
    edl: str = "nll",
    discrepancy: str = "tv",
    amplify: str = "neg",
    margin: float = 1.0,
    logits_amplify: jax.typing.ArrayLike | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Objective of the two-headed query network.

    `nll + anneal (kl_weight kl + lambda_unk unk) + lambda_dis dis`, with

    - nll: mean over heads and known examples of `edl_loss`;
    - kl: mean over heads and known examples of `misleading_kl` / K;
    - unk: mean over heads and unknown examples of `unknown_kl` / K;
    - dis: `discrepancy_loss` of `head_discrepancy`.

    Each mean is over the examples of its group in the batch, and is 0 without any.

    Args:
      logits: [2, B, K], one row per head, or a pair of [B, K].
      labels: int [B]; 0..K-1 known, K unknown, other values (-1) padding.
      offset: as in `dirichlet_log_alpha`.
      clip: as in `dirichlet_log_alpha`.
      kl_weight: weight of kl.
      lambda_unk: weight of unk.
      lambda_dis: weight of dis.
      anneal: scalar in [0, 1], `min(1, epoch / 10)` with epochs from 0 in E2OAL. It and the weights
        may be traced.
      evidence: as in `dirichlet_log_alpha`.
      edl: `kind` of `edl_loss`.
      discrepancy: `kind` of `head_discrepancy`.
      amplify: as in `discrepancy_loss`.
      margin: as in `discrepancy_loss`.
      logits_amplify: logits, like `logits`, whose discrepancy is amplified on unknown examples.
        Computed from `stop_gradient(features)`, they confine the amplification to the heads, as in
        MCD. None for `logits`.

    Returns:
      The total, a scalar, and its parts "nll", "kl", "unk" and "dis", unweighted scalars.

    Raises:
      ValueError: on logits that are not [2, B, K], labels that are not int [B], or an unknown
        option.

    References:
      arXiv 2409.17607, whose abstract says that evidence and the signed discrepancy are trained.
      kl_weight and annealing are from E2OAL, and the flat target for unknowns is from prior
      networks (Malinin and Gales, NeurIPS 2018); lambda_unk and lambda_dis are ours.
    """
    logits = _check_two_heads(logits)
    num_classes = logits.shape[-1]
    known, unknown = _groups(labels, num_classes)
    if logits.ndim != 3 or known.shape != logits.shape[1:2]:
        raise ValueError(
            f"logits must be [2, B, K] and labels [B]; got {logits.shape} and {known.shape}."
        )
    dirichlet: dict[str, Any] = {"offset": offset, "clip": clip, "evidence": evidence}
    log_alpha = dirichlet_log_alpha(logits, **dirichlet)
    # Label K names no class, so that one divergence is `misleading_kl` on known and `unknown_kl` on
    # unknown examples: half the special functions of calling both.
    beta = _evidence_ratio(dirichlet_alpha(log_alpha), offset)
    kl = dirichlet_kl_to_uniform(jnp.where(_known_label_mask(beta, labels), 1, beta)) / num_classes
    distance = head_discrepancy(logits, kind=discrepancy, **dirichlet)
    if logits_amplify is not None:
        amplified = head_discrepancy(logits_amplify, kind=discrepancy, **dirichlet)
        distance = jnp.where(unknown, amplified, distance)

    def group_mean(per_head, group):
        return masked_mean(jnp.mean(per_head, axis=0), group)

    parts = {
        "nll": group_mean(edl_loss(log_alpha, labels, kind=edl), known),
        "kl": group_mean(kl, known),
        "unk": group_mean(kl, unknown),
        "dis": discrepancy_loss(distance, labels, num_classes, amplify=amplify, margin=margin),
    }
    anneal, kl_weight, lambda_unk, lambda_dis = (
        jnp.asarray(weight, log_alpha.dtype)
        for weight in (anneal, kl_weight, lambda_unk, lambda_dis)
    )
    evidence_kl = kl_weight * parts["kl"] + lambda_unk * parts["unk"]
    return parts["nll"] + anneal * evidence_kl + lambda_dis * parts["dis"], parts


def _evidence_ratio(alpha: jax.typing.ArrayLike, offset: float) -> jax.Array:
    """alpha / offset, which is 1 without evidence; alpha itself when the offset is 0."""
    if offset < 0:
        raise ValueError(f"offset={offset} must not be negative: it is evidence.")
    alpha = check_logits(alpha, "alpha")
    return alpha / offset if offset else alpha


def _classes(where: jax.typing.ArrayLike | None, values: jax.Array) -> jax.Array | None:
    """Which classes exist, [..., K]; None for all."""
    return None if where is None else jnp.broadcast_to(jnp.asarray(where, bool), values.shape)


def _known_label_mask(values: jax.Array, labels: jax.typing.ArrayLike) -> jax.Array:
    """Bool [..., K], true at the label; nowhere true where the label is not known."""
    labels = jnp.asarray(labels)
    try:
        labels = jnp.broadcast_to(labels, values.shape[:-1])
    except ValueError:
        raise ValueError(
            f"labels {labels.shape} do not broadcast against the examples {values.shape[:-1]}."
        ) from None
    return label_mask(values, labels)


def _groups(labels: jax.typing.ArrayLike, num_classes: int) -> tuple[jax.Array, jax.Array]:
    """Masks of the known and of the labelled unknown examples."""
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, not {labels.dtype}; pass class indices.")
    return (labels >= 0) & (labels < num_classes), labels == num_classes


def _check_two_heads(logits: jax.typing.ArrayLike) -> jax.Array:
    logits = jnp.asarray(logits)
    if logits.ndim < 2 or logits.shape[0] != 2:
        raise ValueError(f"logits must hold two heads, [2, ..., K]; got shape {logits.shape}.")
    return logits
