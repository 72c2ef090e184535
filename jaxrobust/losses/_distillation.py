"""Helpers shared by the distillation losses."""

import jax
import jax.numpy as jnp

from jaxrobust.arrays import at_least_float32


def student_and_teacher(
    student: jax.typing.ArrayLike,
    teacher: jax.typing.ArrayLike,
    *,
    rank: int | None = None,
    shared_axes: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Both arrays in the student's float type, at least float32, the teacher's without gradient.

    Both have `rank` axes (None: one or more), of which `shared_axes` (None: all) agree in size.
    """
    student = at_least_float32(student)
    teacher = jax.lax.stop_gradient(at_least_float32(teacher).astype(student.dtype))
    if student.ndim < 1 or (rank is not None and student.ndim != rank):
        wanted = "at least 1 axis" if rank is None else f"{rank} axes"
        raise ValueError(f"student must have {wanted}, got shape {student.shape}.")
    if student.ndim != teacher.ndim or student.shape[:shared_axes] != teacher.shape[:shared_axes]:
        wanted = (
            "have the same shape"
            if shared_axes is None
            else (f"have {rank} axes and agree in the first {shared_axes}")
        )
        raise ValueError(
            f"student and teacher must {wanted}, got {student.shape} and {teacher.shape}."
        )
    return student, teacher


def row_mask(where: jax.typing.ArrayLike | None, num_rows: int) -> jax.Array:
    """`where` as bool [B], all True if it is None."""
    where = jnp.ones(num_rows, bool) if where is None else jnp.asarray(where, bool)
    if where.shape != (num_rows,):
        raise ValueError(f"where must be ({num_rows},), one per row, got {where.shape}.")
    return where


def positive(name: str, value: float) -> float:
    """The static option `value` as a Python float above 0."""
    value = float(value)
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}.")
    return value


def bernoulli_kl(student_logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """KL(Bernoulli(sigmoid(t)) || Bernoulli(sigmoid(s))) for each entry."""
    on = jax.nn.log_sigmoid(teacher_logits) - jax.nn.log_sigmoid(student_logits)
    off = jax.nn.log_sigmoid(-teacher_logits) - jax.nn.log_sigmoid(-student_logits)
    return jax.nn.sigmoid(teacher_logits) * on + jax.nn.sigmoid(-teacher_logits) * off


def softmax_kl(
    student_logits: jax.Array, teacher_logits: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
    """KL(softmax(t) || softmax(s)) over the last axis, or over its entries where `where` holds.

    A class without teacher probability counts as 0. Every row needs one entry in `where`.
    """
    log_p = jax.nn.log_softmax(student_logits, where=where)
    log_q = jax.nn.log_softmax(teacher_logits, where=where)
    q = jnp.exp(log_q)
    return jnp.sum(q * jnp.where(q > 0, log_q - log_p, 0), axis=-1)


def huber(x: jax.Array) -> jax.Array:
    """x^2 / 2 for |x| < 1, |x| - 1/2 otherwise."""
    magnitude = jnp.abs(x)
    return jnp.where(magnitude < 1, 0.5 * x**2, magnitude - 0.5)


def safe_sqrt(x: jax.Array) -> jax.Array:
    """Square root of x >= 0 whose gradient at 0 is 0 instead of infinite."""
    is_positive = x > 0
    return jnp.where(is_positive, jnp.sqrt(jnp.where(is_positive, x, 1)), 0)
