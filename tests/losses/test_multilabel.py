import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_cases import arrays_of, tolerances
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy.special import expit

from jaxrobust.losses import (
    asymmetric_loss,
    binary_kl_loss,
    class_aware_embedding_distillation_loss,
    instance_aware_embedding_distillation_loss,
    label_embedding_distillation_loss,
    multilabel_bce_loss,
    multilabel_logits_distillation_loss,
    pairwise_euclidean_distance,
    partial_softmax_distillation_loss,
    structural_distance_loss,
)

CASES = {
    "bce": 5,
    "mld": 5,
    "structural_distance": 5,
    "led": 7,
    "partial_softmax": 6,
    "l2d_objective": 2,
}
by_dtype = pytest.mark.parametrize("dtype", [np.float64, np.float32])
property_test = settings(max_examples=20, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def by_case(topic):
    return pytest.mark.parametrize("case", [f"case{i}" for i in range(CASES[topic])])


def value_and_grad(loss):
    """Compiled value and student gradient of the sum of `loss`."""
    return jax.jit(jax.value_and_grad(lambda *args: jnp.sum(loss(*args))))


bce = value_and_grad(multilabel_bce_loss)
mld = value_and_grad(multilabel_logits_distillation_loss)
partial_softmax = value_and_grad(partial_softmax_distillation_loss)
structural = value_and_grad(structural_distance_loss)
masked_structural = value_and_grad(lambda s, t, w: structural_distance_loss(s, t, where=w))
class_aware = value_and_grad(class_aware_embedding_distillation_loss)
instance_aware = value_and_grad(instance_aware_embedding_distillation_loss)
distance = jax.jit(pairwise_euclidean_distance)


def random_logits(seed, shape=(6, 5), scale=2.0):
    """Student and teacher logits and targets."""
    rng = np.random.default_rng(seed)
    student, teacher = (scale * rng.normal(size=shape).astype(np.float32) for _ in range(2))
    return student, teacher, (rng.random(shape) < 0.5).astype(np.float32)


def random_embeddings(seed, shape=(5, 4, 3)):
    """Student and teacher embeddings and targets."""
    rng = np.random.default_rng(seed)
    student, teacher = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    return student, teacher, rng.random(shape[:2]) < 0.7


def sigmoid(x):
    return expit(np.asarray(x, np.float64))


def test_golden_cases_are_all_tested(load_golden):
    golden = load_golden("l2d")
    for topic, count in CASES.items():
        assert {name.split("/")[0] for name in golden.names(topic)} == {
            f"case{i}" for i in range(count)
        }


class TestBce:
    def test_hand_computed(self):
        logits, targets = np.float32([[0, 2], [-30, 30]]), np.array([[1, 0], [1, 1]])
        expected = [math.log(2) + math.log(1 + math.e**2), -math.log(1e-8)]
        np.testing.assert_allclose(
            jax.jit(multilabel_bce_loss)(logits, targets), expected, rtol=1e-6
        )

    @by_dtype
    @by_case("bce")
    def test_golden(self, load_golden, x64, case, dtype):
        arrays = arrays_of(load_golden("l2d"), "bce", case, dtype)
        value, grad = bce(arrays["logits"], arrays["targets"])
        assert value.dtype == grad.dtype == dtype
        np.testing.assert_allclose(value, arrays["loss_sum"], **tolerances(dtype))
        np.testing.assert_allclose(grad, arrays["grad_logits"], **tolerances(dtype))
        rows = jax.jit(multilabel_bce_loss)(arrays["logits"], arrays["targets"])
        np.testing.assert_allclose(rows, arrays["loss_none"].sum(-1), **tolerances(dtype))

    @given(seeds)
    @property_test
    def test_gradient_is_its_closed_form(self, seed):
        logits, _, targets = random_logits(seed)
        value, grad = bce(logits, targets)
        np.testing.assert_allclose(grad, sigmoid(logits) - targets, rtol=1e-4, atol=1e-6)
        twice, _ = bce(np.tile(logits, (2, 1)), np.tile(targets, (2, 1)))
        np.testing.assert_allclose(twice, 2 * value, rtol=1e-6)
        shifted, _ = bce(logits + np.float32(1), targets)
        assert abs(shifted - value) > 1e-4

    def test_extreme_logits(self):
        logits = np.float32([[-1e4, -1e4, 1e4, 1e4]])
        value, grad = bce(logits, np.float32([[0, 1, 0, 1]]))
        np.testing.assert_allclose(value, -2 * math.log(1e-8), rtol=1e-6)
        np.testing.assert_array_equal(grad, 0.0)

    @pytest.mark.parametrize("target_dtype", [bool, np.int32, np.int8])
    def test_target_dtypes(self, target_dtype):
        logits, _, targets = random_logits(0)
        expected = multilabel_bce_loss(logits, targets)
        value = multilabel_bce_loss(logits, targets.astype(target_dtype))
        np.testing.assert_array_equal(value, expected)

    def test_check_grads_and_no_jit(self, x64):
        logits, _, targets = (x.astype(np.float64) for x in random_logits(0, (2, 3)))
        loss = functools.partial(multilabel_bce_loss, targets=targets)
        check_grads(jax.jit(loss), (logits,), order=1, modes=["rev"])
        np.testing.assert_allclose(loss(logits).sum(), bce(logits, targets)[0], rtol=1e-12)

    def test_errors(self):
        logits = np.zeros((2, 3), np.float32)
        with pytest.raises(ValueError, match=r"targets must hold 0 or 1 .* \(2, 3\), got \(2,\)"):
            multilabel_bce_loss(logits, np.zeros(2))
        with pytest.raises(ValueError, match="eps must be between 0 and 1"):
            multilabel_bce_loss(logits, logits, eps=0.0)


class TestLogitsDistillation:
    def test_hand_computed(self):
        student, teacher = np.float32([[0, 0]]), np.float32([[2, -2]])
        q = 1 / (1 + math.exp(-2))
        kl = math.log(2) + q * math.log(q) + (1 - q) * math.log(1 - q)
        np.testing.assert_allclose(mld(student, teacher)[0], 2 * kl, rtol=1e-6)

    @by_dtype
    @by_case("mld")
    def test_golden(self, load_golden, x64, case, dtype):
        arrays = arrays_of(load_golden("l2d"), "mld", case, dtype)
        value, grad = mld(arrays["student_logits"], arrays["teacher_logits"])
        batch, num_classes = grad.shape
        assert value.dtype == grad.dtype == dtype
        close = functools.partial(np.testing.assert_allclose, **tolerances(dtype))
        close(value, arrays["loss_sum"])
        close(value / batch, arrays["loss_batchmean"])
        close(value / (batch * num_classes), arrays["loss_mean"])
        close(grad / batch, arrays["grad_student_logits"])

    @given(seeds)
    @property_test
    def test_properties(self, seed):
        student, teacher, _ = random_logits(seed)
        value, grad = mld(student, teacher)
        assert value > 0
        np.testing.assert_allclose(grad, sigmoid(student) - sigmoid(teacher), rtol=1e-4, atol=1e-6)
        by_class = [mld(student[:, k : k + 1], teacher[:, k : k + 1])[0] for k in range(5)]
        np.testing.assert_allclose(np.sum(by_class), value, rtol=1e-5)
        shifted, _ = mld(student + np.float32(1), teacher)
        assert abs(shifted - value) > 1e-4
        equal, zero = mld(student, student)
        np.testing.assert_allclose(equal, 0.0, atol=1e-6)
        np.testing.assert_allclose(zero, 0.0, atol=1e-6)

    def test_is_binary_kl_at_temperature_one(self):
        student, teacher, _ = random_logits(1)
        np.testing.assert_array_equal(
            multilabel_logits_distillation_loss(student, teacher),
            binary_kl_loss(student, teacher, temperature=1.0, eps=1e-8),
        )

    def test_hard_teacher_is_cross_entropy(self):
        logits, _, targets = random_logits(2)
        distilled, _ = mld(logits, np.float32(18.42) * (2 * targets - 1))
        np.testing.assert_allclose(distilled, bce(logits, targets)[0], atol=30 * 1e-6)

    def test_extreme_logits(self):
        values = np.float32([-1e4, -20, 0, 20, 1e4])
        student, teacher = (x.reshape(1, -1) for x in np.meshgrid(values, values))
        value, grad = mld(student, teacher)
        assert np.isfinite(value)
        np.testing.assert_array_equal(grad[np.abs(student) > 19], 0.0)
        assert np.isfinite(grad).all()

    def test_teacher_receives_no_gradient(self):
        student, teacher, _ = random_logits(3)
        loss = value_and_grad(lambda t: multilabel_logits_distillation_loss(student, t))
        np.testing.assert_array_equal(loss(teacher)[1], 0.0)

    def test_errors(self):
        with pytest.raises(ValueError, match="same shape"):
            multilabel_logits_distillation_loss(np.zeros((2, 3)), np.zeros((2, 2)))
        with pytest.raises(ValueError, match=r"eps must be between 0 and 0\.5"):
            multilabel_logits_distillation_loss(np.zeros((2, 3)), np.zeros((2, 3)), eps=1.0)


class TestPairwiseDistance:
    def test_hand_computed(self):
        rows = np.float32([[0, 0], [3, 4], [0, 0]])
        expected = [[0, 5, 1e-6], [5, 0, 5], [1e-6, 5, 0]]
        np.testing.assert_allclose(distance(rows), expected, rtol=1e-6)

    @by_dtype
    @by_case("structural_distance")
    def test_golden(self, load_golden, x64, case, dtype):
        arrays = arrays_of(load_golden("l2d"), "structural_distance", case, dtype)
        for name in ("student", "teacher"):
            value = distance(arrays[name])
            assert value.dtype == dtype
            np.testing.assert_allclose(value, arrays[f"{name}_dist"], **tolerances(dtype))

    @given(seeds)
    @property_test
    def test_is_a_distance(self, seed):
        rows = random_embeddings(seed)[0]
        value = np.asarray(distance(rows))
        np.testing.assert_array_equal(value, np.swapaxes(value, -1, -2))
        np.testing.assert_array_equal(np.diagonal(value, axis1=-2, axis2=-1), 0.0)
        expected = np.linalg.norm(rows[:, :, None].astype(np.float64) - rows[:, None], axis=-1)
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)

    def test_float32_cancellation(self):
        rng = np.random.default_rng(0)
        base = rng.normal(size=(1, 768)).astype(np.float32) * 3
        noise = 1e-2 * rng.normal(size=(6, 768)).astype(np.float32)
        rows = base + noise
        rows[1] = rows[0]
        value = np.asarray(distance(rows))
        expected = np.linalg.norm(rows[:, None].astype(np.float64) - rows[None], axis=-1)
        np.testing.assert_allclose(value[0, 1], 1e-6, rtol=1e-6)
        expected[0, 1] = expected[1, 0] = 1e-6
        np.testing.assert_allclose(value, expected, rtol=1e-5)

    def test_identical_rows_have_a_finite_gradient(self):
        rows = np.ones((3, 2), np.float32)
        grad = jax.jit(jax.grad(lambda e: distance(e).sum()))(rows)
        np.testing.assert_array_equal(grad, 0.0)

    def test_check_grads_and_no_jit(self, x64):
        rows = np.random.default_rng(0).normal(size=(3, 2))
        check_grads(distance, (rows,), order=1, modes=["rev"])
        np.testing.assert_allclose(pairwise_euclidean_distance(rows), distance(rows), rtol=1e-12)

    def test_errors(self):
        with pytest.raises(ValueError, match=r"embeddings must be \[..., G, D\], got shape \(3,\)"):
            pairwise_euclidean_distance(np.zeros(3))
        with pytest.raises(ValueError, match="eps must be positive"):
            pairwise_euclidean_distance(np.zeros((3, 2)), eps=0.0)


class TestStructuralDistance:
    def test_hand_computed(self):
        # Student distances 1, 1, 2 and teacher distances 1, 2, 3, each pair counted twice.
        student, teacher = np.float32([[0], [1], [2]]), np.float32([[0], [1], [3]])
        errors = [3 / 4 - 1 / 2, 3 / 4 - 1, 3 / 2 - 3 / 2]
        expected = 2 * sum(0.5 * e**2 for e in errors) / 3
        np.testing.assert_allclose(structural(student, teacher)[0], expected, rtol=1e-6)
        raw = jax.jit(functools.partial(structural_distance_loss, normalize=False))
        np.testing.assert_allclose(raw(student, teacher), 2 * (0 + 0.5 + 0.5) / 3, rtol=1e-6)
        # Equations 4 to 8 of the paper: no mean, and no division by the size of the group.
        paper = structural_distance_loss(student, teacher, normalize=False, group_mean=False)
        np.testing.assert_allclose(paper, 2 * (0 + 0.5 + 0.5), rtol=1e-6)

    @by_dtype
    @by_case("structural_distance")
    def test_golden(self, load_golden, x64, case, dtype):
        arrays = arrays_of(load_golden("l2d"), "structural_distance", case, dtype)
        value, grad = structural(arrays["student"], arrays["teacher"])
        assert value.dtype == grad.dtype == dtype
        np.testing.assert_allclose(value, arrays["loss"], **tolerances(dtype))
        np.testing.assert_allclose(grad, arrays["grad_student"], **tolerances(dtype))

    @given(seeds)
    @property_test
    def test_invariances(self, seed):
        rng = np.random.default_rng(seed)
        student, teacher = rng.normal(size=(2, 5, 3)).astype(np.float32)
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        moved = [(2.5 * x @ turn + 4).astype(np.float32) for x in (student, teacher)]
        value, grad = structural(student, teacher)
        np.testing.assert_allclose(structural(moved[0], teacher)[0], value, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(structural(student, moved[1])[0], value, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(structural(moved[1], teacher)[0], 0.0, atol=1e-6)
        np.testing.assert_allclose(np.sum(grad, axis=0), 0.0, atol=1e-5)
        np.testing.assert_allclose(np.sum(grad * student), 0.0, atol=1e-5)

    @given(seeds)
    @property_test
    def test_two_rows_teach_nothing(self, seed):
        student, teacher = np.random.default_rng(seed).normal(size=(2, 2, 7)).astype(np.float32)
        value, grad = structural(student, teacher)
        assert value == 0
        np.testing.assert_array_equal(grad, 0.0)

    def test_where_equals_the_rows_alone(self):
        rng = np.random.default_rng(0)
        student, teacher = rng.normal(size=(2, 5, 3)).astype(np.float32)
        student[[0, 3]], teacher[[0, 3]] = np.nan, np.inf
        where = np.array([False, True, True, False, True])
        value, grad = masked_structural(student, teacher, where)
        expected, expected_grad = structural(student[where], teacher[where])
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_allclose(grad[where], expected_grad, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(grad[~where], 0.0)
        for where in (np.zeros(5, bool), np.arange(5) == 1):
            value, grad = masked_structural(student, teacher, where)
            assert value == 0
            np.testing.assert_array_equal(grad, 0.0)

    @pytest.mark.parametrize("shape", [(4, 3), (1, 3)])
    def test_coinciding_rows(self, shape):
        same, spread = np.ones(shape, np.float32), np.eye(*shape, dtype=np.float32)
        value, grad = structural(same, same)
        np.testing.assert_allclose(value, 0.0, atol=1e-12)
        np.testing.assert_array_equal(grad, 0.0)
        for pair in [(same, spread), (spread, same)]:
            value, grad = structural(*pair)
            assert np.isfinite(value)
            assert np.isfinite(grad).all()

    def test_teacher_receives_no_gradient(self):
        student, teacher, _ = random_embeddings(0)
        grad = jax.jit(jax.grad(structural_distance_loss, argnums=1))(student[0], teacher[0])
        np.testing.assert_array_equal(grad, 0.0)

    def test_check_grads_and_no_jit(self, x64):
        student, teacher = np.random.default_rng(1).normal(size=(2, 4, 3))
        loss = functools.partial(structural_distance_loss, teacher=teacher)
        check_grads(jax.jit(loss), (student,), order=1, modes=["rev"])
        np.testing.assert_allclose(loss(student), structural(student, teacher)[0], rtol=1e-12)

    def test_errors(self):
        rows = np.zeros((4, 3), np.float32)
        with pytest.raises(ValueError, match="student must have 2 axes"):
            structural_distance_loss(rows[0], rows[0])
        with pytest.raises(ValueError, match="have 2 axes and agree in the first 1"):
            structural_distance_loss(rows, rows[:3])
        with pytest.raises(ValueError, match=r"where must be \(4,\), one per row, got \(3,\)"):
            structural_distance_loss(rows, rows, where=np.ones(3, bool))


class TestLabelEmbeddings:
    def test_hand_computed(self):
        # One class on three images; its group is that of TestStructuralDistance.
        student, teacher = np.float32([0, 1, 2]), np.float32([0, 1, 3])
        targets = np.ones((3, 1))
        expected = 2 * (0.5 * 0.25**2 + 0.5 * 0.25**2) / 3
        column = student.reshape(3, 1, 1), teacher.reshape(3, 1, 1)
        row = student.reshape(1, 3, 1), teacher.reshape(1, 3, 1)
        np.testing.assert_allclose(class_aware(*column, targets)[0], expected, rtol=1e-6)
        np.testing.assert_allclose(instance_aware(*row, targets.T)[0], expected, rtol=1e-6)
        assert class_aware(*row, targets.T)[0] == instance_aware(*column, targets)[0] == 0
        led = jax.jit(label_embedding_distillation_loss, static_argnames=("lambda_cd", "lambda_id"))
        np.testing.assert_allclose(led(*column, targets), 100 * expected, rtol=1e-6)
        np.testing.assert_allclose(led(*row, targets.T), 1000 * expected, rtol=1e-6)
        np.testing.assert_allclose(
            led(*row, targets.T, lambda_cd=1.0, lambda_id=2.0), 2 * expected, rtol=1e-6
        )

    @by_dtype
    @by_case("led")
    def test_golden(self, load_golden, x64, case, dtype):
        arrays = arrays_of(load_golden("l2d"), "led", case, dtype)
        inputs = arrays["le_student"], arrays["le_teacher"], arrays["targets"]
        close = functools.partial(np.testing.assert_allclose, **tolerances(dtype))
        total = 0
        for name, loss, weight in [("cd", class_aware, 100), ("id", instance_aware, 1000)]:
            value, grad = loss(*inputs)
            assert value.dtype == grad.dtype == dtype
            close(value, arrays[f"loss_{name}"])
            close(grad, arrays[f"grad_{name}"])
            total += weight * value
        np.testing.assert_allclose(
            total, arrays["loss_led"], rtol=tolerances(dtype)["rtol"], atol=1e-6
        )

    @by_dtype
    @by_case("l2d_objective")
    def test_golden_objective(self, load_golden, x64, case, dtype):
        arrays = arrays_of(load_golden("l2d"), "l2d_objective", case, dtype)
        targets = arrays["targets"]

        def objective(logits, embeddings):
            supervised = multilabel_bce_loss(logits, targets).sum()
            distilled = label_embedding_distillation_loss(embeddings, arrays["le_teacher"], targets)
            mld = multilabel_logits_distillation_loss(logits, arrays["teacher_logits"]).mean()
            return supervised + distilled + 10 * mld, (supervised, distilled + 10 * mld)

        (total, parts), grads = jax.jit(jax.value_and_grad(objective, (0, 1), has_aux=True))(
            arrays["student_logits"], arrays["le_student"]
        )
        rtol = tolerances(dtype)["rtol"]
        expected = [arrays[f"loss_{name}"] for name in ("total", "bce", "distill")]
        np.testing.assert_allclose([total, *parts], expected, rtol=rtol)
        for grad, name in zip(grads, ("student_logits", "le_student"), strict=True):
            np.testing.assert_allclose(grad, arrays[f"grad_{name}"], rtol=rtol, atol=rtol)

    @given(seeds)
    @property_test
    def test_class_and_instance_aware_are_transposes(self, seed):
        student, teacher, targets = random_embeddings(seed, (4, 4, 3))
        transposed = [np.swapaxes(x, 0, 1) for x in (student, teacher, targets)]
        value, grad = class_aware(student, teacher, targets)
        other, other_grad = instance_aware(*transposed)
        np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(grad, np.swapaxes(other_grad, 0, 1), rtol=1e-4, atol=1e-6)

    @given(seeds)
    @property_test
    def test_sums_of_structural_losses(self, seed):
        student, teacher, targets = random_embeddings(seed)
        images = zip(student, teacher, targets, strict=True)
        classes = zip(*(np.swapaxes(x, 0, 1) for x in (student, teacher, targets)), strict=True)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
        close(
            instance_aware(student, teacher, targets)[0],
            sum(masked_structural(*group)[0] for group in images),
        )
        close(
            class_aware(student, teacher, targets)[0],
            sum(masked_structural(*group)[0] for group in classes),
        )

    @given(seeds)
    @property_test
    def test_order_of_images_and_classes(self, seed):
        inputs = random_embeddings(seed)
        rng = np.random.default_rng(seed)
        images, classes = rng.permutation(5), rng.permutation(4)
        permuted = [x[images][:, classes] for x in inputs]
        for loss in (class_aware, instance_aware):
            np.testing.assert_allclose(loss(*permuted)[0], loss(*inputs)[0], rtol=1e-4, atol=1e-6)

    def test_absent_labels_have_no_influence(self):
        student, teacher, targets = random_embeddings(3)
        junk = [
            np.where(targets[..., None], x, fill)
            for x, fill in [(student, np.nan), (teacher, 1e30)]
        ]
        for loss in (class_aware, instance_aware):
            value, grad = loss(student, teacher, targets)
            other, other_grad = loss(*(x.astype(np.float32) for x in junk), targets)
            assert value > 0
            np.testing.assert_array_equal(other, value)
            np.testing.assert_array_equal(other_grad, grad)
            np.testing.assert_array_equal(grad[~targets], 0.0)

    def test_without_groups(self):
        student, teacher, targets = random_embeddings(4)
        nothing = np.zeros_like(targets)
        for loss in (class_aware, instance_aware):
            value, grad = loss(student, teacher, nothing)
            assert value == 0
            np.testing.assert_array_equal(grad, 0.0)
        value, grad = class_aware(student[:1], teacher[:1], targets[:1])
        assert value == 0
        np.testing.assert_array_equal(grad, 0.0)
        pairs = np.arange(4)[None] < np.array([2, 1, 2, 0, 2])[:, None]
        value, grad = instance_aware(student, teacher, pairs)
        assert value == 0
        np.testing.assert_array_equal(grad, 0.0)

    def test_doubled_batch_doubles_the_instance_aware_loss(self):
        inputs = random_embeddings(5)
        twice = instance_aware(*(np.concatenate([x, x]) for x in inputs))[0]
        np.testing.assert_allclose(twice, 2 * instance_aware(*inputs)[0], rtol=1e-6)

    def test_teacher_receives_no_gradient(self):
        grad = jax.jit(jax.grad(label_embedding_distillation_loss, argnums=1))
        np.testing.assert_array_equal(grad(*random_embeddings(6)), 0.0)

    def test_raw_distances(self):
        student, teacher, targets = random_embeddings(7, (4, 1, 3))
        raw_class_aware, raw_structural = (
            jax.jit(functools.partial(loss, normalize=False))
            for loss in (class_aware_embedding_distillation_loss, structural_distance_loss)
        )
        np.testing.assert_allclose(
            raw_class_aware(student, teacher, np.ones_like(targets)),
            raw_structural(student[:, 0], teacher[:, 0]),
            rtol=1e-5,
        )

    def test_check_grads_and_no_jit(self, x64):
        student, teacher, _ = (x.astype(np.float64) for x in random_embeddings(8, (3, 3, 2)))
        targets = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]])
        loss = functools.partial(
            label_embedding_distillation_loss, teacher=teacher, targets=targets
        )
        compiled = jax.jit(loss)
        check_grads(compiled, (student,), order=1, modes=["rev"])
        np.testing.assert_allclose(loss(student), compiled(student), rtol=1e-12)

    @pytest.mark.parametrize(
        "loss",
        [class_aware_embedding_distillation_loss, instance_aware_embedding_distillation_loss],
    )
    def test_errors(self, loss):
        embeddings, targets = np.zeros((5, 4, 3), np.float32), np.zeros((5, 4))
        with pytest.raises(ValueError, match="student must have 3 axes"):
            loss(embeddings[0], embeddings[0], targets)
        with pytest.raises(ValueError, match="have 3 axes and agree in the first 2"):
            loss(embeddings, embeddings[:, :3], targets)
        with pytest.raises(ValueError, match=r"targets must hold .* \(5, 4\), got \(4, 5\)"):
            loss(embeddings, embeddings, targets.T)


class TestPartialSoftmax:
    def test_hand_computed(self):
        # Class 0 against the negatives {1, 2}: teacher 1/2, 1/4, 1/4, student uniform.
        teacher = np.float32([[math.log(2), 0, 0, 5]])
        student, targets = np.float32([[0, 0, 0, 7]]), np.array([[1, 0, 0, 0]])
        teacher[0, 3] = student[0, 3] = -200
        expected = 0.5 * math.log(1.5) + 2 * 0.25 * math.log(0.75)
        value, _ = partial_softmax(student, teacher, targets)
        np.testing.assert_allclose(value, expected, rtol=1e-5)

    @by_dtype
    @by_case("partial_softmax")
    def test_golden(self, load_golden, x64, case, dtype):
        arrays = arrays_of(load_golden("l2d"), "partial_softmax", case, dtype)
        names = ("student_logits", "teacher_logits", "targets")
        value, grad = partial_softmax(*(arrays[name] for name in names))
        assert value.dtype == grad.dtype == dtype
        batch = len(grad)
        np.testing.assert_allclose(value / batch, arrays["loss"], **tolerances(dtype))
        np.testing.assert_allclose(grad / batch, arrays["grad_student_logits"], **tolerances(dtype))

    @given(seeds)
    @property_test
    def test_is_the_sum_over_candidate_sets(self, seed):
        student, teacher, targets = random_logits(seed)
        expected = 0.0
        for s, t, y in zip(student.astype(np.float64), teacher, targets, strict=True):
            for k in np.flatnonzero(y):
                candidates = (y == 0) | (np.arange(len(y)) == k)
                log_p, log_q = (x[candidates] - np.log(np.exp(x[candidates]).sum()) for x in (s, t))
                expected += np.sum(np.exp(log_q) * (log_q - log_p))
        value, _ = partial_softmax(student, teacher, targets)
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
        shift = np.arange(6, dtype=np.float32)[:, None]
        moved, _ = partial_softmax(student + shift, teacher - shift, targets)
        np.testing.assert_allclose(moved, value, rtol=1e-4, atol=1e-5)

    def test_one_positive_is_ordinary_distillation(self):
        student, teacher, _ = random_logits(1)
        targets = np.eye(6, 5)
        targets[5, 0] = 1
        log_p, log_q = jax.nn.log_softmax(student), jax.nn.log_softmax(teacher)
        expected = jnp.sum(jnp.exp(log_q) * (log_q - log_p))
        np.testing.assert_allclose(
            partial_softmax(student, teacher, targets)[0], expected, rtol=1e-5
        )

    @pytest.mark.parametrize("fill", [0.0, 1.0])
    def test_all_negative_or_all_positive(self, fill):
        student, teacher, targets = random_logits(2)
        value, grad = partial_softmax(student, teacher, np.full_like(targets, fill))
        assert value == 0
        np.testing.assert_array_equal(grad, 0.0)

    def test_extreme_logits(self):
        student = np.float32([[-1e4, 1e4, 1e4, -1e4, 0], [1e4, 1e4, 1e4, -1e4, -1e4]])
        for teacher in (student, -student):
            for targets in np.float32([[[1, 0, 0, 1, 1], [1, 1, 0, 0, 1]], [[1] * 5, [0] * 5]]):
                value, grad = partial_softmax(student, teacher, targets)
                assert np.isfinite(value)
                assert np.isfinite(grad).all()

    def test_teacher_receives_no_gradient(self):
        student, teacher, targets = random_logits(3)
        loss = value_and_grad(lambda t: partial_softmax_distillation_loss(student, t, targets))
        np.testing.assert_array_equal(loss(teacher)[1], 0.0)

    def test_check_grads_and_no_jit(self, x64):
        student, teacher, _ = (x.astype(np.float64) for x in random_logits(4, (2, 4)))
        targets = np.array([[1, 0, 1, 0], [0, 0, 0, 1]])
        loss = functools.partial(
            partial_softmax_distillation_loss, teacher_logits=teacher, targets=targets
        )
        check_grads(jax.jit(loss), (student,), order=1, modes=["rev"])
        np.testing.assert_allclose(
            loss(student).sum(), partial_softmax(student, teacher, targets)[0], rtol=1e-12
        )

    def test_errors(self):
        logits = np.zeros((2, 3), np.float32)
        with pytest.raises(ValueError, match="same shape"):
            partial_softmax_distillation_loss(logits, logits[:1], logits)
        with pytest.raises(ValueError, match="targets must hold"):
            partial_softmax_distillation_loss(logits, logits, logits[:1])


class TestAsymmetricLoss:
    @staticmethod
    def reference(x, y, gamma_neg=4.0, gamma_pos=1.0, margin=0.05, eps=1e-8):
        p = sigmoid(x)
        n = np.minimum(sigmoid(-np.asarray(x)) + margin, 1)
        on = y * (1 - p) ** gamma_pos * np.log(np.maximum(p, eps))
        off = (1 - y) * (1 - n) ** gamma_neg * np.log(np.maximum(n, eps))
        return -np.sum(on + off, axis=-1)

    def test_hand_computed(self):
        logits, targets = np.float32([[0, 0], [-5, -5]]), np.array([[1, 0], [0, 0]])
        expected = [0.5 * math.log(2) - 0.45**4 * math.log(0.55), 0.0]
        np.testing.assert_allclose(asymmetric_loss(logits, targets), expected, rtol=1e-5)

    @given(seeds)
    @property_test
    def test_formula(self, seed):
        logits, _, targets = random_logits(seed)
        np.testing.assert_allclose(
            asymmetric(logits, targets)[0], self.reference(logits, targets).sum(), rtol=1e-4
        )
        plain, grad = asymmetric(logits, targets, gamma_neg=0.0, gamma_pos=0.0, margin=0.0)
        expected, expected_grad = bce(logits, targets)
        np.testing.assert_allclose(plain, expected, rtol=1e-5)
        np.testing.assert_allclose(grad, expected_grad, rtol=1e-4, atol=1e-6)

    def test_is_bce_for_confident_logits_too(self):
        logits = np.float32([[-18, -17, -10, 10, 17, 18], [-18, -17, -10, 10, 17, 18]])
        targets = np.float32([[1] * 6, [0] * 6])
        value, grad = asymmetric(logits, targets, gamma_neg=0.0, gamma_pos=0.0, margin=0.0)
        expected, expected_grad = bce(logits, targets)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(grad, expected_grad, rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 4.0])
    @pytest.mark.parametrize("margin", [0.0, 0.05])
    def test_extreme_logits(self, gamma, margin):
        size = np.float32([1e4, 104, 100, 95, 88, 50, 17, 0])
        logits = np.stack([np.concatenate([-size, size])] * 2)
        targets = np.stack([np.ones(16), np.zeros(16)])
        value, grad = asymmetric(logits, targets, gamma_neg=gamma, gamma_pos=gamma, margin=margin)
        expected = self.reference(logits, targets, gamma, gamma, margin).sum()
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        assert np.isfinite(grad).all()

    @pytest.mark.parametrize("options", [{}, {"gamma_neg": 2.0, "gamma_pos": 0.0, "margin": 0.0}])
    def test_check_grads_and_no_jit(self, x64, options):
        logits = np.array([[-1.0, 0.5, 2.0], [0.3, -0.7, -2.0]])
        targets = np.array([[1, 0, 1], [0, 0, 1]])
        loss = functools.partial(asymmetric_loss, targets=targets, **options)
        check_grads(jax.jit(loss), (logits,), order=1, modes=["rev"])
        np.testing.assert_allclose(
            loss(logits).sum(), asymmetric(logits, targets, **options)[0], rtol=1e-12
        )
        np.testing.assert_allclose(
            loss(logits), self.reference(logits, targets, **options), rtol=1e-9
        )

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"gamma_neg": -1.0}, "gammas must be at least 0"),
            ({"margin": 1.0}, r"margin must be in \[0, 1\)"),
            ({"eps": 0.0}, "eps must be between 0 and 1"),
        ],
    )
    def test_errors(self, options, message):
        logits = np.zeros((2, 3), np.float32)
        with pytest.raises(ValueError, match=message):
            asymmetric_loss(logits, logits, **options)
        with pytest.raises(ValueError, match="targets must hold"):
            asymmetric_loss(logits, logits[:1])


@functools.partial(jax.jit, static_argnames=("gamma_neg", "gamma_pos", "margin"))
def asymmetric(logits, targets, **options):
    """Value and gradient of the sum."""
    return jax.value_and_grad(lambda x: asymmetric_loss(x, targets, **options).sum())(logits)
