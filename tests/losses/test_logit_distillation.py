import functools
import math

import jax
import numpy as np
import pytest
from golden_cases import tolerances
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxrobust.losses import (
    dist_loss,
    dkd_loss,
    logit_mse_loss,
    rld_loss,
    soft_target_kl,
    standardize_logits,
    transformed_teacher_loss,
)

by_dtype = pytest.mark.parametrize("dtype", [np.float64, np.float32])
by_case = pytest.mark.parametrize("case", ["case0", "case1"])
property_test = settings(max_examples=20, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def baseline(golden, case, dtype):
    names = ("student", "teacher", "labels")
    student, teacher, labels = (golden[f"baseline/{case}", name] for name in names)
    return student.astype(dtype), teacher.astype(dtype), labels


def random_logits(seed, shape=(6, 5)):
    """Student and teacher logits and labels."""
    rng = np.random.default_rng(seed)
    student, teacher = 2 * rng.normal(size=(2, *shape)).astype(np.float32)
    return student, teacher, rng.integers(shape[-1], size=shape[0])


@functools.partial(jax.jit, static_argnames=("alpha", "beta", "temperature"))
def dkd(student, teacher, labels, **options):
    """Value and gradient of the batch mean."""
    return jax.value_and_grad(lambda s: dkd_loss(s, teacher, labels, **options).mean())(student)


@functools.partial(jax.jit, static_argnames=("beta", "gamma", "temperature"))
def dist(student, teacher, **options):
    """Value and gradient."""
    return jax.value_and_grad(lambda s: dist_loss(s, teacher, **options))(student)


def test_golden_cases_are_all_tested(load_golden):
    names = load_golden("dhkd").names("baseline")
    assert {name.split("/")[0] for name in names} == {"case0", "case1"}


class TestDkd:
    def test_hand_computed(self):
        # p = (1/3, 1/3, 1/3), q = (1/2, 1/3, 1/6): wrong classes (1/2, 1/2) and (2/3, 1/3).
        student, teacher = np.zeros((1, 3), np.float32), np.float32([[3, 2, 1]])
        target = 0.5 * math.log(0.5 / (1 / 3)) + 0.5 * math.log(0.5 / (2 / 3))
        rest = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
        value, _ = dkd(
            student, np.log(teacher), np.array([0]), alpha=2.0, beta=3.0, temperature=1.0
        )
        np.testing.assert_allclose(value, 2 * target + 3 * rest, rtol=1e-5)

    @by_dtype
    @by_case
    def test_golden(self, load_golden, x64, case, dtype):
        golden = load_golden("dhkd")
        alpha, beta, temperature = golden[f"baseline/{case}", "dkd_alpha_beta_T"].tolist()
        value, grad = dkd(
            *baseline(golden, case, dtype), alpha=alpha, beta=beta, temperature=temperature
        )
        assert value.dtype == grad.dtype == dtype
        np.testing.assert_allclose(
            value, golden[f"baseline/{case}", "dkd_loss"], **tolerances(dtype)
        )
        np.testing.assert_allclose(
            grad, golden[f"baseline/{case}", "dkd_grad"], **tolerances(dtype)
        )

    @given(seeds)
    @property_test
    def test_parts_add_up_to_soft_target_kl(self, seed):
        student, teacher, labels = random_logits(seed)
        target, rest = compiled_parts(student, teacher, labels)
        q = np.exp(teacher / 4) / np.exp(teacher / 4).sum(-1, keepdims=True)
        whole = target + (1 - q[np.arange(6), labels]) * rest
        np.testing.assert_allclose(whole, compiled_kl(student, teacher), rtol=1e-4, atol=1e-5)

    def test_two_classes_have_no_second_part(self):
        student, teacher, labels = random_logits(0, (6, 2))
        value, grad = dkd(student, teacher, labels, alpha=0.0)
        assert value == 0
        np.testing.assert_array_equal(grad, 0.0)

    def test_extreme_logits(self):
        values = np.float32([-1e4, 0, 1e4])
        student, teacher = (x.reshape(3, 3) for x in np.meshgrid(values, values))
        for label in range(3):
            for pair in [(student, teacher), (student, student), (teacher, student)]:
                value, grad = dkd(*pair, np.full(3, label))
                assert np.isfinite(value)
                assert np.isfinite(grad).all()

    def test_teacher_receives_no_gradient(self):
        student, teacher, labels = random_logits(1)
        grad = jax.jit(jax.grad(lambda t: dkd_loss(student, t, labels).sum()))(teacher)
        np.testing.assert_array_equal(grad, 0.0)

    def test_check_grads_and_no_jit(self, x64):
        student, teacher, labels = random_logits(2, (3, 4))
        student, teacher = student.astype(np.float64), teacher.astype(np.float64)
        loss = functools.partial(dkd_loss, teacher_logits=teacher, labels=labels)
        check_grads(jax.jit(loss), (student,), order=1, modes=["rev"])
        np.testing.assert_allclose(
            loss(student).mean(), dkd(student, teacher, labels)[0], rtol=1e-12
        )

    def test_errors(self):
        logits, labels = np.zeros((2, 3), np.float32), np.zeros(2, int)
        with pytest.raises(ValueError, match="same shape"):
            dkd_loss(logits, logits[:1], labels)
        with pytest.raises(ValueError, match="C >= 2 classes"):
            dkd_loss(logits[:, :1], logits[:, :1], labels)
        with pytest.raises(ValueError, match="one entry per row"):
            dkd_loss(logits, logits, np.zeros(3, int))
        with pytest.raises(ValueError, match="labels must be integers"):
            dkd_loss(logits, logits, labels.astype(np.float32))
        with pytest.raises(ValueError, match="temperature must be positive"):
            dkd_loss(logits, logits, labels, temperature=-1.0)


compiled_kl = jax.jit(soft_target_kl)


@jax.jit
def compiled_parts(student, teacher, labels):
    """The two parts of `dkd_loss`, each with weight 1."""
    return (
        dkd_loss(student, teacher, labels, alpha=1.0, beta=0.0),
        dkd_loss(student, teacher, labels, alpha=0.0, beta=1.0),
    )


class TestDist:
    def test_hand_computed(self):
        # P = [[3/4, 1/4], [1/4, 3/4]]; a teacher of the opposite opinion has correlation -1.
        student = np.log(np.float32([[3, 1], [1, 3]]))
        np.testing.assert_allclose(
            dist(student, -student, beta=2.0, gamma=3.0)[0], 2 * 2 + 3 * 2, rtol=1e-5
        )
        np.testing.assert_allclose(dist(student, student)[0], 0.0, atol=1e-5)

    @by_dtype
    @by_case
    def test_golden(self, load_golden, x64, case, dtype):
        golden = load_golden("dhkd")
        beta, gamma, temperature = golden[f"baseline/{case}", "dist_beta_gamma_T"].tolist()
        student, teacher, _ = baseline(golden, case, dtype)
        value, grad = dist(student, teacher, beta=beta, gamma=gamma, temperature=temperature)
        assert value.dtype == grad.dtype == dtype
        close = functools.partial(np.testing.assert_allclose, **tolerances(dtype))
        close(value, golden[f"baseline/{case}", "dist_loss"])
        close(grad, golden[f"baseline/{case}", "dist_grad"])

    @given(seeds)
    @property_test
    def test_range_and_shift(self, seed):
        student, teacher, _ = random_logits(seed)
        value, _ = dist(student, teacher)
        assert 0 <= value <= 4
        shift = np.arange(6, dtype=np.float32)[:, None]
        np.testing.assert_allclose(dist(student + shift, teacher)[0], value, rtol=1e-4)

    def test_corners(self):
        student, teacher, _ = random_logits(0)
        # One row has no correlation over the batch, equal logits none over classes.
        for pair in [
            (student[:1], teacher[:1]),
            (np.zeros_like(student), teacher),
            (student, np.zeros_like(teacher)),
            (np.float32(1e4) * student, np.float32(-1e4) * teacher),
        ]:
            value, grad = dist(*pair)
            assert np.isfinite(value)
            assert np.isfinite(grad).all()
        np.testing.assert_allclose(dist(np.zeros_like(student), teacher)[0], 2.0, rtol=1e-6)

    def test_teacher_receives_no_gradient(self):
        student, teacher, _ = random_logits(1)
        grad = jax.jit(jax.grad(dist_loss, argnums=1))(student, teacher)
        np.testing.assert_array_equal(grad, 0.0)

    def test_check_grads_and_no_jit(self, x64):
        student, teacher, _ = (x.astype(np.float64) for x in random_logits(2, (3, 4)))
        loss = functools.partial(dist_loss, teacher_logits=teacher)
        check_grads(jax.jit(loss), (student,), order=1, modes=["rev"])
        np.testing.assert_allclose(loss(student), dist(student, teacher)[0], rtol=1e-12)

    def test_examples_outside_where_are_not_there(self):
        student, teacher, _ = random_logits(3)
        where = np.arange(len(student)) % 3 != 1
        expected, _ = dist(student[where], teacher[where])
        student[~where] = 50.0
        value, grad = jax.jit(jax.value_and_grad(lambda s: dist_loss(s, teacher, where=where)))(
            student
        )
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_array_equal(grad[~where], 0.0)
        with pytest.raises(ValueError, match="where must be"):
            dist_loss(student, teacher, where=where[:1])

    def test_errors(self):
        logits = np.zeros((2, 3), np.float32)
        with pytest.raises(ValueError, match="student must have 2 axes"):
            dist_loss(logits[0], logits[0])
        with pytest.raises(ValueError, match="temperature must be positive"):
            dist_loss(logits, logits, temperature=0.0)


class TestLogitMse:
    def test_hand_computed(self):
        student, teacher = np.float32([[1, 2], [0, 0]]), np.float32([[0, 4], [0, 0]])
        np.testing.assert_allclose(logit_mse_loss(student, teacher), [2.5, 0.0])
        np.testing.assert_allclose(jax.jit(logit_mse_loss)(student, teacher), [2.5, 0.0])

    def test_gradients(self, x64):
        student, teacher, _ = (x.astype(np.float64) for x in random_logits(0, (2, 4)))
        grads = jax.jit(jax.grad(lambda s, t: logit_mse_loss(s, t).sum(), (0, 1)))(student, teacher)
        np.testing.assert_allclose(grads[0], (student - teacher) / 2, rtol=1e-12)
        np.testing.assert_array_equal(grads[1], 0.0)
        check_grads(jax.jit(lambda s: logit_mse_loss(s, teacher)), (student,), 1, modes=["rev"])

    def test_extreme_logits(self):
        loss = jax.jit(logit_mse_loss)
        np.testing.assert_allclose(
            loss(np.float32([[1e4, -1e4]]), np.float32([[-1e4, 1e4]])), [4e8]
        )

    def test_errors(self):
        with pytest.raises(ValueError, match="same shape"):
            logit_mse_loss(np.zeros((2, 3)), np.zeros((2, 2)))


class TestRld:
    def test_hand_computed(self):
        # p = (1/3, 1/3, 1/3), q = (1/2, 1/3, 1/6) at temperature 2, under each of the labels.
        student, teacher = np.zeros((3, 3), np.float32), 2 * np.log(np.float32([[3, 2, 1]] * 3))
        loss = jax.jit(
            functools.partial(
                rld_loss, alpha=2.0, beta=3.0, temperature=2.0, confidence_temperature=2.0
            )
        )
        confidence = 0.5 * math.log(0.5 / (1 / 3)) + 0.5 * math.log(0.5 / (2 / 3))
        # Below the label 0 are (2/3, 1/3) against (1/2, 1/2); below 1 one class, below 2 none.
        lesser = 2 / 3 * math.log((2 / 3) / 0.5) + 1 / 3 * math.log((1 / 3) / 0.5)
        expected = 2**2 * (2 * confidence + 3 * np.array([lesser, 0, 0]))
        np.testing.assert_allclose(loss(student, teacher, np.arange(3)), expected, rtol=1e-5)

    def test_finite_at_extreme_logits_and_no_gradient_for_the_teacher(self):
        student = np.float32([[1e4, -1e4, 0], [0, 0, 0]])
        teacher, labels = np.float32([[-1e4, 1e4, 0], [5, 5, 5]]), np.array([0, 1])
        total = jax.jit(
            jax.value_and_grad(lambda s, t: rld_loss(s, t, labels).sum(), argnums=(0, 1))
        )
        value, (grad, teacher_grad) = total(student, teacher)
        assert np.isfinite(value) and np.all(np.isfinite(grad)) and not np.any(teacher_grad)

    def test_check_grads(self, x64):
        student, teacher, labels = random_logits(3)
        loss = functools.partial(rld_loss, teacher_logits=teacher.astype(float), labels=labels)
        check_grads(jax.jit(lambda s: loss(s).sum()), (student.astype(float),), 1)


class TestStandardizedLogits:
    def test_hand_computed(self):
        logits = np.float32([[1, 2, 3], [7, 7, 7]])
        standardized = jax.jit(standardize_logits)(logits)
        # The mean may be off by a unit in the last place of the logits, as they are compiled here.
        np.testing.assert_allclose(standardized, [[-1, 0, 1], [0, 0, 0]], rtol=1e-6, atol=2e-7)
        grad = jax.grad(lambda z: standardize_logits(z)[:, 0].sum())(logits)
        assert np.all(np.isfinite(grad)) and not np.any(grad[1])

    def test_range_and_shift_do_not_count(self):
        student, teacher, _ = random_logits(5)
        pair = standardize_logits(student), standardize_logits(teacher)
        moved = standardize_logits(3 * student + 2), standardize_logits(teacher / 5 - 1)
        divergence = functools.partial(soft_target_kl, temperature=2.0)
        np.testing.assert_allclose(divergence(*moved), divergence(*pair), rtol=1e-4)


# Transformed teacher matching.


def test_transformed_teacher_by_hand(x64):
    """Powers of the teacher's probabilities .8 and .2; a uniform student; weight by their sum."""
    student, teacher = np.zeros((1, 2)), np.log([[0.8, 0.2]])
    powers = np.array([0.8, 0.2]) ** 0.5
    q = powers / powers.sum()
    divergence = np.sum(q * np.log(q / 0.5))
    plain = transformed_teacher_loss(student, teacher, power=0.5, weighted=False)
    np.testing.assert_allclose(plain, [divergence], rtol=1e-12)
    weighted = transformed_teacher_loss(student, teacher, power=0.5)
    np.testing.assert_allclose(weighted, [powers.sum() * divergence], rtol=1e-12)


def test_transformed_teacher_limits():
    student, teacher, _ = random_logits(0)
    # At a power of 1 it is knowledge distillation at the temperature 1, and every weight is 1.
    whole = transformed_teacher_loss(student, teacher, power=1.0)
    np.testing.assert_allclose(whole, soft_target_kl(student, teacher, temperature=1.0), rtol=1e-5)
    # A student that has the softened teacher's logits has nothing left to learn.
    equal = transformed_teacher_loss(0.2 * teacher, teacher)
    np.testing.assert_allclose(equal, 0, atol=1e-6)
    grad = jax.grad(lambda t: transformed_teacher_loss(student, t).sum())(teacher)
    assert not np.any(grad)
    with pytest.raises(ValueError, match="power"):
        transformed_teacher_loss(student, teacher, power=0.0)
