"""Logit-based distillation baselines: DKD, RLD, DIST, mean squared error, standardised logits."""

import jax
import jax.numpy as jnp

from jaxrobust.arrays import check_logits, label_mask, masked_mean
from jaxrobust.losses._distillation import (
    bernoulli_kl,
    positive,
    row_mask,
    safe_sqrt,
    softmax_kl,
    student_and_teacher,
)


def dkd_loss(
    student_logits: jax.typing.ArrayLike,
    teacher_logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> jax.Array:
    """Decoupled KD: soft-target KL split into a target-class and a non-target-class part.

        T^2 * (alpha * KL([q_y, 1 - q_y] || [p_y, 1 - p_y]) + beta * KL(q' || p'))

    with p and q the softmaxes of student and teacher logits over T, and p' and q' the same over the
    wrong classes only. With alpha = 1 and beta = 1 - q_y, the two parts add up to `soft_target_kl`.
    The second part is 0 with two classes.

    Args:
      student_logits: float [..., C].
      teacher_logits: float [..., C]; receives no gradient.
      labels: int [...], in 0..C-1; the result for any other value is unspecified.
      alpha: weight of the target-class part.
      beta: weight of the non-target-class part; the paper sets it per pair of networks (CIFAR-100:
        2, 6 or 8).
      temperature: T > 0 (the paper uses 4 on CIFAR-100, 1 on ImageNet); T^2 is part of the loss;
        the warm-up factor `min(epoch / 20, 1)` is not.

    Returns:
      Float [...], in nats times T^2.

    Raises:
      ValueError: if the shapes do not fit, there are fewer than two classes, labels are not
        integers or the temperature is not positive.

    References:
      Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, https://arxiv.org/abs/2203.08679,
      section 3.3.
    """
    student, teacher = student_and_teacher(check_logits(student_logits), teacher_logits)
    is_target = label_mask(student, labels)
    temperature = positive("temperature", temperature)
    student, teacher = student / temperature, teacher / temperature
    target_part = bernoulli_kl(
        _target_log_odds(student, is_target), _target_log_odds(teacher, is_target)
    )
    rest_part = softmax_kl(student, teacher, where=~is_target)
    return temperature**2 * (alpha * target_part + beta * rest_part)


def _target_log_odds(logits: jax.Array, is_target: jax.Array) -> jax.Array:
    """log(p_y / (1 - p_y)) of a softmax."""
    target = jnp.sum(logits, axis=-1, where=is_target)
    return target - jax.nn.logsumexp(logits, axis=-1, where=~is_target)


def rld_loss(
    student_logits: jax.typing.ArrayLike,
    teacher_logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    confidence_temperature: float = 1.0,
) -> jax.Array:
    """Refined logit distillation: the teacher's confidence, and its classes ranked below the label.

        alpha * T_c^2 * KL([q_max, 1 - q_max] || [p_y, 1 - p_y]) + beta * T^2 * KL(q' || p')

    with p and q the softmaxes of student and teacher logits over T_c, q_max the largest entry of q,
    and p' and q' the softmaxes over T of the classes whose teacher logit is below that of the
    label. A wrong teacher thus passes on its confidence, but not the classes it prefers to the
    label. The second part is 0 if fewer than two classes are below the label.

    Args:
      student_logits: float [..., C].
      teacher_logits: float [..., C]; receives no gradient.
      labels: int [...], in 0..C-1; the result for any other value is unspecified.
      alpha: weight of the confidence part.
      beta: weight of the part of the classes below the label.
      temperature: T > 0, of that part; T^2 is part of the loss. The warm-up factor
        `min(epoch / 20, 1)` of the authors' code is not.
      confidence_temperature: T_c > 0. All four defaults are those of the authors' code.

    Returns:
      Float [...], in nats times the squared temperatures.

    Raises:
      ValueError: if the shapes do not fit, there are fewer than two classes, labels are not
        integers or a temperature is not positive.

    References:
      Sun et al., "Knowledge Distillation with Refined Logits", ICCV 2025,
      https://arxiv.org/abs/2408.07703, section on sample confidence (SCD) and masked correlation
      distillation (MCD).
    """
    student, teacher = student_and_teacher(check_logits(student_logits), teacher_logits)
    is_label = label_mask(student, labels)
    is_top = jax.nn.one_hot(jnp.argmax(teacher, axis=-1), teacher.shape[-1], dtype=bool)
    confidence_temperature = positive("confidence_temperature", confidence_temperature)
    confidence_part = bernoulli_kl(
        _target_log_odds(student / confidence_temperature, is_label),
        _target_log_odds(teacher / confidence_temperature, is_top),
    )
    temperature = positive("temperature", temperature)
    lesser = teacher < jnp.sum(teacher, axis=-1, keepdims=True, where=is_label)
    # In a row without lesser classes the label alone gives a divergence of 0.
    left = lesser | (is_label & ~jnp.any(lesser, axis=-1, keepdims=True))
    lesser_part = softmax_kl(student / temperature, teacher / temperature, where=left)
    return alpha * confidence_temperature**2 * confidence_part + beta * temperature**2 * lesser_part


def standardize_logits(logits: jax.typing.ArrayLike, *, eps: float = 1e-7) -> jax.Array:
    """Logits with mean 0 and standard deviation 1 over the classes of each example.

        (z_k - mean_k z) / (std_k z + eps)

    with C - 1 in the denominator of the variance. Equal logits give 0, without gradient. A
    distillation loss on both networks' standardised logits does not compare their scale; on
    CIFAR-100 the authors use KD with temperature 2 and weight 9, plus 0.1 times cross-entropy.

    Args:
      logits: float [..., C], C >= 2.
      eps: added to the standard deviation; above 0.

    Returns:
      Float [..., C], at least float32.

    Raises:
      ValueError: if there are fewer than two classes or eps is not positive.

    References:
      Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024,
      https://arxiv.org/abs/2403.01427, section 4; the form is that of the authors' code.
    """
    logits = check_logits(logits)
    centred = logits - jnp.mean(logits, axis=-1, keepdims=True)
    variance = jnp.sum(centred**2, axis=-1, keepdims=True) / (logits.shape[-1] - 1)
    scaled = centred / (safe_sqrt(variance) + positive("eps", eps))
    return jnp.where(variance > 0, scaled, 0)


def dist_loss(
    student_logits: jax.typing.ArrayLike,
    teacher_logits: jax.typing.ArrayLike,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """DIST: Pearson correlation of predictions within each example and within each class.

        T^2 * (beta * mean_i (1 - corr(P_i, Q_i)) + gamma * mean_k (1 - corr(P_:k, Q_:k)))

    with P and Q the softmaxes of student and teacher logits over T. 1e-8 is added to the
    denominator of the correlation, so that a constant row or column counts as uncorrelated.

    Args:
      student_logits: float [B, C].
      teacher_logits: float [B, C]; receives no gradient.
      beta: weight of the correlation over classes; 2 in the authors' configurations.
      gamma: weight of the correlation over the batch; 2 in the authors' configurations.
      temperature: T > 0; T^2 is part of the loss. The authors' configurations use the values 4 on
        CIFAR-100 and 1 on ImageNet.
      where: bool [B], the examples that form the batch, at least one; None for all.

    Returns:
      Float scalar for the batch.

    Raises:
      ValueError: if a shape does not fit or the temperature is not positive.

    References:
      Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022,
      https://arxiv.org/abs/2205.10536, section 4.
    """
    student, teacher = student_and_teacher(student_logits, teacher_logits, rank=2)
    temperature = positive("temperature", temperature)
    where = row_mask(where, len(student))
    p = jax.nn.softmax(student / temperature)
    q = jax.nn.softmax(teacher / temperature)
    inter = masked_mean(1 - _pearson_correlation(p, q, axis=-1), where)
    intra = jnp.mean(1 - _pearson_correlation(p, q, axis=0, where=where[:, None]))
    return temperature**2 * (beta * inter + gamma * intra)


def _pearson_correlation(
    p: jax.Array, q: jax.Array, axis: int, where: jax.Array | None = None
) -> jax.Array:
    def centred(x):
        x = x - jnp.mean(x, axis=axis, keepdims=True, where=where)
        return x if where is None else jnp.where(where, x, 0)

    p, q = centred(p), centred(q)
    norms = safe_sqrt(jnp.sum(p**2, axis=axis)) * safe_sqrt(jnp.sum(q**2, axis=axis))
    return jnp.sum(p * q, axis=axis) / (norms + 1e-8)


def transformed_teacher_loss(
    student_logits: jax.typing.ArrayLike,
    teacher_logits: jax.typing.ArrayLike,
    *,
    power: float = 0.2,
    weighted: bool = True,
) -> jax.Array:
    """(W)TTM: only the teacher has a temperature, and smooth examples are weighted more.

        U KL(q || softmax(s)),    U = sum_k p_k^power,    q_k = p_k^power / U,    p = softmax(t)

    q is the teacher's softmax at temperature 1 / power; the student has no temperature. U is 1 for
    a fully confident teacher and C^(1 - power) for a uniform one.

    Args:
      student_logits: float [..., C].
      teacher_logits: float [..., C]; receives no gradient.
      power: > 0, the paper's gamma.
      weighted: False for TTM, without the factor U.

    Returns:
      Float [...], in nats times U.

    Raises:
      ValueError: if the shapes differ or the power is not positive.

    References:
      Zheng and Yang, "Knowledge Distillation Based on Transformed Teacher Matching", ICLR 2024,
      https://arxiv.org/abs/2402.11148; as in the authors' code.
    """
    student, teacher = student_and_teacher(student_logits, teacher_logits)
    power = positive("power", power)
    divergence = softmax_kl(student, power * teacher)
    if not weighted:
        return divergence
    log_probs = jax.nn.log_softmax(teacher, axis=-1)
    return jnp.exp(jax.nn.logsumexp(power * log_probs, axis=-1)) * divergence


def logit_mse_loss(
    student_logits: jax.typing.ArrayLike, teacher_logits: jax.typing.ArrayLike
) -> jax.Array:
    """Mean squared error between the logits of student and teacher.

        mean_k (s_k - t_k)^2

    Args:
      student_logits: float [..., C].
      teacher_logits: float [..., C]; receives no gradient.

    Returns:
      Float [...], the mean over classes.

    Raises:
      ValueError: if the shapes differ.

    References:
      Yang et al., "Multi-Label Knowledge Distillation", ICCV 2023,
      https://arxiv.org/abs/2308.06453 (baseline MSE; its reduction is not published).
    """
    student, teacher = student_and_teacher(student_logits, teacher_logits)
    return jnp.mean((student - teacher) ** 2, axis=-1)
