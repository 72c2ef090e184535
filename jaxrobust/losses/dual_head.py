"""Dual-head knowledge distillation (DHKD): logit-level losses, gradient alignment, diagnostics.

Yang et al., "Dual-Head Knowledge Distillation: Enhancing Logits Utilization with an Auxiliary
Head", KDD 2025, https://arxiv.org/abs/2411.08937.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.arrays import at_least_float32, check_logits, label_mask
from jaxrobust.errors import check_option
from jaxrobust.losses._distillation import (
    bernoulli_kl,
    positive,
    safe_sqrt,
    softmax_kl,
    student_and_teacher,
)


def soft_target_kl(
    student_logits: jax.typing.ArrayLike,
    teacher_logits: jax.typing.ArrayLike,
    *,
    temperature: float = 4.0,
) -> jax.Array:
    """KL divergence from the softened teacher to the softened student.

        T^2 * KL(softmax(t / T) || softmax(s / T))

    Adding a constant to all student or teacher logits of an example changes nothing.

    Args:
      student_logits: float [..., C].
      teacher_logits: float [..., C]; receives no gradient.
      temperature: T > 0. T^2 is part of the loss, so its gradient keeps its size as T grows.

    Returns:
      Float [...], in nats times T^2.

    Raises:
      ValueError: if the shapes differ or the temperature is not positive.

    References:
      Hinton et al., "Distilling the Knowledge in a Neural Network", 2015,
      https://arxiv.org/abs/1503.02531, section 2.
    """
    student, teacher = student_and_teacher(student_logits, teacher_logits)
    temperature = positive("temperature", temperature)
    return temperature**2 * softmax_kl(student / temperature, teacher / temperature)


def binary_kl_loss(
    student_logits: jax.typing.ArrayLike,
    teacher_logits: jax.typing.ArrayLike,
    *,
    temperature: float = 2.0,
    eps: float | None = None,
) -> jax.Array:
    """BinaryKL: compares each class with the teacher's as a separate Bernoulli variable.

        T^2 * sum_k KL(Bernoulli(sigmoid(t_k / T)) || Bernoulli(sigmoid(s_k / T)))

    Unlike `soft_target_kl`, it changes if a constant is added to all logits of an example. Its
    gradient with respect to s_k is `T * (sigmoid(s_k / T) - sigmoid(t_k / T))`.

    Args:
      student_logits: float [..., C].
      teacher_logits: float [..., C]; receives no gradient.
      temperature: T > 0; T^2 is part of the loss.
      eps: None (default) computes the exact loss. The authors' code clamps both probabilities to
        [eps, 1 - eps] with `eps=1e-8`, which removes the gradient of a student logit beyond 18.42
        T; use it to compare with their numbers.

    Returns:
      Float [...], the sum over classes, in nats times T^2.

    Raises:
      ValueError: if the shapes differ, the temperature is not positive or eps is not in (0, 0.5).

    References:
      Yang et al., KDD 2025, https://arxiv.org/abs/2411.08937 (BinaryKL).
    """
    student, teacher = student_and_teacher(student_logits, teacher_logits)
    temperature = positive("temperature", temperature)
    student, teacher = student / temperature, teacher / temperature
    if eps is not None:
        eps = float(eps)
        if not 0 < eps < 0.5:
            raise ValueError(f"eps must be between 0 and 0.5, or None for no clamp, got {eps}.")
        # Clamping logits instead of probabilities: in float32, 1 - 1e-8 would round to 1.
        bound = math.log1p(-eps) - math.log(eps)
        student, teacher = jnp.clip(student, -bound, bound), jnp.clip(teacher, -bound, bound)
    return temperature**2 * jnp.sum(bernoulli_kl(student, teacher), axis=-1)


def binary_kl_norm_loss(
    student_logits: jax.typing.ArrayLike,
    teacher_logits: jax.typing.ArrayLike,
    *,
    temperature: float = 2.0,
    eps: float | None = None,
) -> jax.Array:
    """BinaryKL-Norm, the loss of DHKD's auxiliary head: BinaryKL with the teacher shifted to 0.

        T^2 * sum_k KL(Bernoulli(1/2) || Bernoulli(sigmoid(d_k)))
            = T^2 * sum_k log cosh(d_k / 2),    d = (s - t) / T

    Per class it is `(s - t)^2 / 8` for small differences and `T |s - t| / 2 - T^2 log 2` for large
    ones; it equals `binary_kl_loss(s - t, 0)`. Its gradient `(T / 2) tanh(d_k / 2)` with respect to
    s_k does not vanish where the teacher is saturated. There is no standardisation over the
    classes.

    Args:
      student_logits: float [..., C].
      teacher_logits: float [..., C]; receives no gradient.
      temperature: T > 0; T^2 is part of the loss.
      eps: None (default) computes the exact loss; see `binary_kl_loss`.

    Returns:
      Float [...], the sum over classes, in nats times T^2.

    Raises:
      ValueError: if the shapes differ, the temperature is not positive or eps is not in (0, 0.5).

    References:
      Yang et al., KDD 2025, https://arxiv.org/abs/2411.08937 (BinaryKL-Norm).
    """
    student, teacher = student_and_teacher(student_logits, teacher_logits)
    difference = student - teacher
    if eps is not None:
        return binary_kl_loss(
            difference, jnp.zeros_like(difference), temperature=temperature, eps=eps
        )
    temperature = positive("temperature", temperature)
    return temperature**2 * jnp.sum(_log_cosh(difference / (2 * temperature)), axis=-1)


def _log_cosh(x: jax.Array) -> jax.Array:
    """log(cosh(x)) with full relative precision near 0 and without overflow far from it."""
    is_small = jnp.abs(x) < 1
    small = jnp.where(is_small, x, 0)
    large = jnp.abs(jnp.where(is_small, 1, x))
    return jnp.where(
        is_small,
        jnp.log1p(2 * jnp.sinh(small / 2) ** 2),
        large + jnp.log1p(jnp.exp(-2 * large)) - math.log(2),
    )


def align_gradients(grad_cls: Any, grad_kd: Any, *, scope: str | None = None) -> Any:
    """Adds two gradients after removing the component of the second that opposes the first.

        g_cls + g_kd - (min(<g_kd, g_cls>, 0) / ||g_cls||^2) g_cls

    Gradients whose inner product is not negative are added unchanged. With `scope=None` the vectors
    are whole trees, as in the authors' code. The heads share no parameter, so a conflict arises in
    the backbone alone, yet the norm and the correction include the primary head: under conflict
    that head receives its gradient times `1 + |dot| / norm^2`, and only part of the conflict is
    removed from the backbone. With `scope="backbone"` all of it is removed, and the gradients of
    the heads are added unchanged.

    Args:
      grad_cls: pytree of arrays, the gradient of the weighted classification loss.
      grad_kd: pytree of the same structure, the gradient of the weighted distillation loss.
      scope: the top-level key whose leaves enter the dot product, norm and correction; None for all
        leaves.

    Returns:
      Pytree of the same structure and dtypes as `grad_cls`, to hand to the optimiser.

    Raises:
      ValueError: if the structures differ or `scope` is not a top-level key.

    References:
      Yang et al., KDD 2025, https://arxiv.org/abs/2411.08937 (gradient alignment); one
      direction of Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020.
    """
    _check_same_structure(grad_cls, grad_kd)
    keys = [
        jax.tree_util.keystr(path[:1], simple=True)
        for path, _ in jax.tree_util.tree_leaves_with_path(grad_cls)
    ]
    if scope is not None:
        check_option("scope", scope, sorted(set(keys)))
    inside = [scope in (None, key) for key in keys]
    leaves_cls, structure = jax.tree.flatten(grad_cls)
    leaves_kd = jax.tree.leaves(grad_kd)
    scope_cls = list(itertools.compress(leaves_cls, inside))
    scope_kd = list(itertools.compress(leaves_kd, inside))

    dot = _inner_product(scope_cls, scope_kd)
    squared_norm = _inner_product(scope_cls, scope_cls)
    is_conflict = (dot < 0) & (squared_norm > 0)
    gain = jnp.where(is_conflict, -dot / jnp.where(is_conflict, squared_norm, 1), 0)

    def merge(is_inside, leaf_cls, leaf_kd):
        cls, kd = at_least_float32(leaf_cls), at_least_float32(leaf_kd)
        return (cls + (kd + gain * cls if is_inside else kd)).astype(leaf_cls.dtype)

    return structure.unflatten(map(merge, inside, leaves_cls, leaves_kd))


def gradient_cosine(tree_a: Any, tree_b: Any) -> jax.Array:
    """Cosine of the angle between two gradients, each flattened to a vector.

        <a, b> / (||a|| ||b||), or 0 where a norm is 0

    Args:
      tree_a: pytree of arrays.
      tree_b: pytree of the same structure.

    Returns:
      Float scalar in [-1, 1]; negative where the gradients conflict.

    Raises:
      ValueError: if the structures differ.

    References:
      Yang et al., KDD 2025, https://arxiv.org/abs/2411.08937 (conflict of the two losses).
    """
    _check_same_structure(tree_a, tree_b)
    norms = safe_sqrt(_inner_product(tree_a, tree_a)) * safe_sqrt(_inner_product(tree_b, tree_b))
    has_angle = norms > 0
    return jnp.where(has_angle, _inner_product(tree_a, tree_b) / jnp.where(has_angle, norms, 1), 0)


def gradient_conflict_report(
    grad_cls: Any, grad_kd: Any, partition: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, jax.Array]]:
    """Agreement of two gradients on each part of a network, and overall.

    Args:
      grad_cls: dict of pytrees, the gradient of the classification loss by top-level key.
      grad_kd: the same structure, the gradient of the distillation loss.
      partition: part -> top-level keys that belong to it, such as `{"head": ("primary",),
        "backbone": ("backbone",)}`.

    Returns:
      For each part and for `all`, the scalars `dot`, `cosine` (0 where a norm is 0), `norm_cls` and
      `norm_kd`.

    Raises:
      ValueError: if the structures differ or a part has a key that is not in them.

    References:
      Yang et al., KDD 2025, https://arxiv.org/abs/2411.08937 (conflict of the two losses).
    """
    _check_same_structure(grad_cls, grad_kd)

    def report(keys):
        for key in keys:
            check_option("partition", key, sorted(grad_cls))
        cls, kd = ({key: tree[key] for key in keys} for tree in (grad_cls, grad_kd))
        return {
            "dot": _inner_product(cls, kd),
            "cosine": gradient_cosine(cls, kd),
            "norm_cls": safe_sqrt(_inner_product(cls, cls)),
            "norm_kd": safe_sqrt(_inner_product(kd, kd)),
        }

    return {part: report(keys) for part, keys in {**partition, "all": tuple(grad_cls)}.items()}


def logit_conflict(
    student_logits: jax.typing.ArrayLike,
    teacher_logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    temperature: float = 2.0,
) -> jax.Array:
    """Inner product of the gradients of cross-entropy and BinaryKL with respect to the logits.

        <softmax(s) - onehot(y), T (sigmoid(s / T) - sigmoid(t / T))>

    Negative for every over-confident student, whose logit of the label is above the teacher's and
    whose other logits are below; positive for every under-confident one.

    Args:
      student_logits: float [..., C].
      teacher_logits: float [..., C]; receives no gradient.
      labels: int [...], in 0..C-1; any other value has a one-hot vector of zeros.
      temperature: T > 0 of BinaryKL.

    Returns:
      Float [...], one per example; divide by B^2 for the gradients of batch means.

    Raises:
      ValueError: if the shapes do not fit or the temperature is not positive.

    References:
      Yang et al., KDD 2025, https://arxiv.org/abs/2411.08937 (pull and push forces).
    """
    student, teacher = student_and_teacher(check_logits(student_logits), teacher_logits)
    temperature = positive("temperature", temperature)
    of_ce = jax.nn.softmax(student) - label_mask(student, labels).astype(student.dtype)
    of_kd = jax.nn.sigmoid(student / temperature) - jax.nn.sigmoid(teacher / temperature)
    return temperature * jnp.sum(of_ce * of_kd, axis=-1)


def etf_deviation(kernel: jax.typing.ArrayLike) -> jax.Array:
    """Distance of a classifier from a simplex equiangular tight frame.

        || G / ||G||_F - (I - 1 1^T / C) / sqrt(C - 1) ||_F,    G = W W^T

    A measure of neural collapse: 0 for a simplex frame at any scale, 1 for W = 0.

    Args:
      kernel: float [C, D], one row per class; transpose the kernel of a Dense layer.

    Returns:
      Float scalar, at least 0.

    Raises:
      ValueError: if the kernel is not a matrix or has fewer than two rows.

    References:
      Papyan et al., "Prevalence of Neural Collapse during the terminal phase of deep learning
      training", PNAS 2020, https://arxiv.org/abs/2008.08186.
    """
    kernel = at_least_float32(kernel)
    if kernel.ndim != 2 or kernel.shape[0] < 2:
        raise ValueError(f"kernel must be [C, D] with at least 2 classes, got {kernel.shape}.")
    num_classes = kernel.shape[0]
    gram = jnp.matmul(kernel, kernel.T, precision=jax.lax.Precision.HIGHEST)
    norm = _frobenius_norm(gram)
    frame = jnp.eye(num_classes, dtype=kernel.dtype) - 1 / num_classes
    return _frobenius_norm(gram / jnp.where(norm > 0, norm, 1) - frame / math.sqrt(num_classes - 1))


def _frobenius_norm(matrix: jax.Array) -> jax.Array:
    return safe_sqrt(jnp.sum(matrix**2))


def _inner_product(tree_a: Any, tree_b: Any) -> jax.Array:
    products = jax.tree.map(
        lambda a, b: jnp.sum(at_least_float32(a) * at_least_float32(b)), tree_a, tree_b
    )
    return jnp.asarray(sum(jax.tree.leaves(products)))


def _check_same_structure(tree_a: Any, tree_b: Any) -> None:
    structure_a, structure_b = jax.tree.structure(tree_a), jax.tree.structure(tree_b)
    if structure_a != structure_b:
        raise ValueError(
            f"both gradients must be trees of the same structure, got {structure_a} and "
            f"{structure_b}."
        )
