import functools
import math

import jax
import numpy as np
import pytest
from golden_cases import arrays_of, tolerances
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxrobust.losses import (
    attention_transfer_loss,
    contrastive_loss,
    fitnet_loss,
    pkt_loss,
    review_kd_hcl_loss,
    rkd_loss,
    similarity_preserving_loss,
    structural_distance_loss,
    variational_information_loss,
)

by_dtype = pytest.mark.parametrize("dtype", [np.float64, np.float32])
by_case = pytest.mark.parametrize("case", ["case0", "case1", "case2"])
property_test = settings(max_examples=20, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)

pkt = jax.jit(jax.value_and_grad(pkt_loss))
hcl = jax.jit(jax.value_and_grad(review_kd_hcl_loss))
attention = jax.jit(jax.value_and_grad(lambda s, t: attention_transfer_loss(s, t).mean()))


def random_features(seed, batch=5, widths=(3, 4)):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(batch, width)).astype(np.float32) for width in widths]


def random_maps(seed, shapes):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@functools.partial(jax.jit, static_argnames=("w_distance", "w_angle"))
def rkd(student, teacher, **weights):
    """Value and gradient."""
    return jax.value_and_grad(lambda s: rkd_loss(s, teacher, **weights))(student)


@jax.jit
def rkd_parts(student, teacher):
    """Value and gradient of each part with weight 1, and the weighted total."""
    weights = {"distance": (1.0, 0.0), "angle": (0.0, 1.0)}
    parts = {
        name: jax.value_and_grad(rkd_loss)(student, teacher, w_distance=w, w_angle=v)
        for name, (w, v) in weights.items()
    }
    return parts, rkd_loss(student, teacher)


def test_golden_cases_are_all_tested(load_golden):
    golden = load_golden("l2d")
    for topic, count in [("rkd", 3), ("pkt", 3), ("hcl", 2)]:
        cases = {name.split("/")[0] for name in golden.names(topic)}
        assert cases == {f"case{i}" for i in range(count)}


def test_rows_outside_where_are_not_there():
    rows, where = np.array([0, 2, 3]), np.array([True, False, True, True, False])
    student, teacher = random_features(4)
    maps = random_maps(4, [(5, 4, 4, 2), (5, 4, 4, 2)])

    def losses(student, teacher, student_map, teacher_map, where=None):
        return {
            "rkd": rkd_loss(student, teacher, where=where),
            "pkt": pkt_loss(student, teacher, where=where),
            "hcl": review_kd_hcl_loss([student_map], [teacher_map], where=where),
        }

    expected = jax.jit(losses)(*(x[rows] for x in (student, teacher, *maps)))
    # What lies in the other rows must not count, whatever it is.
    for x in (student, teacher):
        x[~where] = np.nan
    for x in maps:
        x[~where] = 1e4
    found = jax.jit(losses)(student, teacher, *maps, where)
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)
    grad = jax.jit(jax.grad(lambda s: sum(losses(s, teacher, *maps, where).values())))(student)
    assert np.isfinite(grad).all()
    np.testing.assert_array_equal(grad[~where], 0.0)
    with pytest.raises(ValueError, match=r"where must be \(5,\)"):
        pkt_loss(student, teacher, where=where[:2])


class TestRkd:
    def test_hand_computed(self):
        # A right angle at the first row for the student, a straight one for the teacher.
        student, teacher = np.float32([[0, 0], [1, 0], [0, 1]]), np.float32([[0], [1], [-1]])
        half = math.sqrt(0.5)
        cosines_s, cosines_t = [0, half, half], [-1, 1, 1]
        expected = 2 * sum(
            0.5 * (s - t) ** 2 if abs(s - t) < 1 else abs(s - t) - 0.5
            for s, t in zip(cosines_s, cosines_t, strict=True)
        )
        value, _ = rkd(student, teacher, w_distance=0.0, w_angle=27.0)
        np.testing.assert_allclose(value, expected, rtol=1e-5)

    @by_dtype
    @by_case
    def test_golden(self, load_golden, x64, case, dtype):
        arrays = arrays_of(load_golden("l2d"), "rkd", case, dtype)
        close = functools.partial(np.testing.assert_allclose, **tolerances(dtype))
        results, total = rkd_parts(arrays["student"], arrays["teacher"])
        for part, (value, grad) in results.items():
            assert value.dtype == grad.dtype == dtype
            close(value, arrays[f"loss_{part}"])
            close(grad, arrays[f"grad_{part}"])
        np.testing.assert_allclose(
            total, arrays["loss_total"], rtol=tolerances(dtype)["rtol"], atol=1e-12
        )

    def test_distance_part_is_the_structural_loss(self):
        student, teacher = random_features(0)
        value, _ = rkd(student, teacher, w_distance=1.0, w_angle=0.0)
        expected = jax.jit(structural_distance_loss)(student, teacher)
        np.testing.assert_allclose(value, expected, rtol=1e-6)

    @given(seeds)
    @property_test
    def test_invariant_to_similarity_transforms(self, seed):
        student, teacher = random_features(seed)
        turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
        moved = (2.5 * student @ turn + 1).astype(np.float32)
        value, grad = rkd(student, teacher)
        np.testing.assert_allclose(rkd(moved, teacher)[0], value, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(rkd(moved, student)[0], 0.0, atol=1e-5)
        np.testing.assert_allclose(np.sum(grad, axis=0), 0.0, atol=1e-3)

    def test_coinciding_rows(self):
        student, teacher = random_features(1)
        twin, single = student.copy(), np.repeat(student[:1], 5, axis=0)
        twin[1] = twin[0]
        for pair in [(twin, teacher), (single, teacher), (student, np.zeros_like(teacher))]:
            value, grad = rkd(*pair)
            assert np.isfinite(value)
            assert np.isfinite(grad).all()
            assert np.abs(grad).max() < 1e3
        value, grad = rkd(student[:1], teacher[:1])
        assert value == 0
        np.testing.assert_array_equal(grad, 0.0)

    def test_teacher_receives_no_gradient(self):
        grad = jax.jit(jax.grad(rkd_loss, argnums=1))(*random_features(2))
        np.testing.assert_array_equal(grad, 0.0)

    def test_check_grads_and_no_jit(self, x64):
        student, teacher = (x.astype(np.float64) for x in random_features(3, 4, (3, 2)))
        loss = functools.partial(rkd_loss, teacher=teacher)
        check_grads(jax.jit(loss), (student,), order=1, modes=["rev"])
        np.testing.assert_allclose(loss(student), rkd(student, teacher)[0], rtol=1e-12)


class TestPkt:
    def test_hand_computed(self):
        # Similarities [[1, 1/2], [1/2, 1]] against [[1, 1], [1, 1]]: rows (2/3, 1/3), (1/2, 1/2).
        student, teacher = np.eye(2, dtype=np.float32), np.ones((2, 1), np.float32)
        expected = 0.5 * (0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3)))
        np.testing.assert_allclose(pkt(student, teacher)[0], expected, rtol=1e-4)

    @by_dtype
    @by_case
    def test_golden(self, load_golden, x64, case, dtype):
        arrays = arrays_of(load_golden("l2d"), "pkt", case, dtype)
        value, grad = pkt(arrays["student"], arrays["teacher"])
        assert value.dtype == grad.dtype == dtype
        np.testing.assert_allclose(value, arrays["loss"], **tolerances(dtype))
        np.testing.assert_allclose(grad, arrays["grad_student"], **tolerances(dtype))

    @given(seeds)
    @property_test
    def test_properties(self, seed):
        student, teacher = random_features(seed)
        value, _ = pkt(student, teacher)
        assert value > 0
        scale = np.random.default_rng(seed).uniform(0.5, 20, size=(5, 1)).astype(np.float32)
        np.testing.assert_allclose(pkt(scale * student, teacher)[0], value, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(pkt(scale * student, student)[0], 0.0, atol=1e-6)

    def test_corners(self):
        student, teacher = random_features(0)
        opposite = np.repeat(student[:1], 5, axis=0) * np.float32([[1], [-1], [3], [-7], [-1e4]])
        for pair in [
            (opposite, teacher),
            (student, opposite),
            (np.zeros_like(student), teacher),
            (student, np.zeros_like(teacher)),
            (np.float32(1e4) * student, teacher),
        ]:
            value, grad = pkt(*pair)
            assert np.isfinite(value)
            assert np.isfinite(grad).all()

    def test_teacher_receives_no_gradient(self):
        grad = jax.jit(jax.grad(pkt_loss, argnums=1))(*random_features(1))
        np.testing.assert_array_equal(grad, 0.0)

    def test_check_grads_and_no_jit(self, x64):
        student, teacher = (x.astype(np.float64) for x in random_features(2, 4, (3, 2)))
        loss = functools.partial(pkt_loss, teacher=teacher)
        check_grads(jax.jit(loss), (student,), order=1, modes=["rev"])
        np.testing.assert_allclose(loss(student), pkt(student, teacher)[0], rtol=1e-12)

    def test_eps_must_be_positive(self):
        with pytest.raises(ValueError, match="eps must be positive"):
            pkt_loss(*random_features(3), eps=0.0)


@pytest.mark.parametrize("loss", [rkd_loss, pkt_loss])
def test_feature_shape_errors(loss):
    features = np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match="student must have 2 axes"):
        loss(features[0], features[0])
    with pytest.raises(ValueError, match="have 2 axes and agree in the first 1"):
        loss(features, features[:2])


class TestReviewKd:
    def test_hand_computed(self):
        # 2x2 differences 1, 1, 1, 5: mean square 7, square of the mean 4.
        student = np.float32([1, 1, 1, 5]).reshape(1, 2, 2, 1)
        value, _ = hcl([student], [np.zeros_like(student)])
        np.testing.assert_allclose(value, (7 + 4 / 2) / 1.5, rtol=1e-6)

    @by_dtype
    @pytest.mark.parametrize("case", ["case0", "case1"])
    def test_golden(self, load_golden, x64, case, dtype):
        arrays = arrays_of(load_golden("l2d"), "hcl", case, dtype)
        count = sum(name.startswith("teacher") for name in arrays)
        student, teacher, expected = (
            [arrays[f"{name}{level}"].transpose(0, 2, 3, 1) for level in range(count)]
            for name in ("student", "teacher", "grad_student")
        )
        value, grads = hcl(student, teacher)
        np.testing.assert_allclose(value, arrays["loss"], **tolerances(dtype))
        for grad, level in zip(grads, expected, strict=True):
            assert value.dtype == grad.dtype == dtype
            np.testing.assert_allclose(grad, level, **tolerances(dtype))

    def test_zero_for_equal_maps_and_sum_of_levels(self):
        shapes = [(2, 7, 7, 3), (2, 2, 2, 4)]
        student, teacher = random_maps(0, shapes), random_maps(1, shapes)
        value, grads = hcl(student, student)
        assert value == 0
        np.testing.assert_array_equal(grads[0], 0.0)
        levels = [hcl([s], [t])[0] for s, t in zip(student, teacher, strict=True)]
        np.testing.assert_allclose(hcl(student, teacher)[0], sum(levels), rtol=1e-6)

    def test_teacher_receives_no_gradient(self):
        shapes = [(2, 2, 2, 4)]
        grad = jax.jit(jax.grad(review_kd_hcl_loss, argnums=1))
        np.testing.assert_array_equal(grad(random_maps(0, shapes), random_maps(1, shapes))[0], 0.0)

    def test_check_grads_and_no_jit(self, x64):
        student, teacher = (x.astype(np.float64) for x in random_maps(2, [(1, 5, 5, 2)] * 2))
        loss = functools.partial(review_kd_hcl_loss, teacher_maps=[teacher])
        check_grads(jax.jit(loss), ([student],), order=1, modes=["rev"])
        np.testing.assert_allclose(loss([student]), hcl([student], [teacher])[0], rtol=1e-12)


class TestAttentionTransfer:
    def test_hand_computed(self):
        # Energies (9, 16) -> (9, 16) / sqrt(337) against (1, 0).
        student = np.float32([3, 4]).reshape(1, 1, 2, 1)
        teacher = np.float32([[2, 2], [0, 0]]).reshape(1, 1, 2, 2)
        norm = math.sqrt(337)
        expected = ((9 / norm - 1) ** 2 + (16 / norm) ** 2) / 2
        value = jax.jit(attention_transfer_loss)([student], [teacher])
        assert value.shape == (1,)
        np.testing.assert_allclose(value, [expected], rtol=1e-5)

    def test_maps_of_different_size_are_pooled_to_the_smaller(self):
        student, teacher = random_maps(0, [(2, 4, 6, 3), (2, 2, 3, 5)])
        pooled = student.reshape(2, 2, 2, 3, 2, 3).mean((2, 4))
        for pair, expected in [
            ((student, teacher), (pooled, teacher)),
            ((teacher, student), (teacher, pooled)),
        ]:
            value, _ = attention([pair[0]], [pair[1]])
            np.testing.assert_allclose(value, attention([expected[0]], [expected[1]])[0], rtol=1e-5)

    @given(seeds, st.sampled_from([0.1, 7.0]))
    @property_test
    def test_scale_of_an_example_does_not_matter(self, seed, scale):
        student, teacher = random_maps(seed, [(2, 3, 3, 2), (2, 3, 3, 4)])
        value, _ = attention([student], [teacher])
        assert 0 < value < 2 / 9
        student[0] *= np.float32(scale)
        np.testing.assert_allclose(attention([student], [teacher])[0], value, rtol=1e-4)

    def test_corners(self):
        shapes = [(2, 3, 3, 2), (2, 2, 2, 4)]
        student, teacher = random_maps(1, shapes), random_maps(2, shapes)
        levels = [attention([s], [t])[0] for s, t in zip(student, teacher, strict=True)]
        np.testing.assert_allclose(attention(student, teacher)[0], sum(levels), rtol=1e-6)
        np.testing.assert_allclose(attention(student, student)[0], 0.0, atol=1e-12)
        for s in ([np.zeros_like(x) for x in student], [1e4 * x for x in student]):
            value, grads = attention(s, teacher)
            assert np.isfinite(value)
            assert all(np.isfinite(grad).all() for grad in grads)

    def test_teacher_receives_no_gradient(self):
        student, teacher = random_maps(3, [(2, 2, 2, 4)] * 2)
        grad = jax.jit(jax.grad(lambda t: attention_transfer_loss([student], t).sum()))
        np.testing.assert_array_equal(grad([teacher])[0], 0.0)

    def test_check_grads_and_no_jit(self, x64):
        student, teacher = (x.astype(np.float64) for x in random_maps(4, [(2, 2, 2, 3)] * 2))
        loss = functools.partial(attention_transfer_loss, teacher_maps=[teacher])
        check_grads(jax.jit(loss), ([student],), order=1, modes=["rev"])
        np.testing.assert_allclose(
            loss([student]).mean(), attention([student], [teacher])[0], rtol=1e-12
        )


@pytest.mark.parametrize("loss", [review_kd_hcl_loss, attention_transfer_loss])
def test_map_errors(loss):
    maps = np.zeros((2, 3, 3, 4), np.float32)
    for student, teacher in [([], []), ([maps], [maps, maps])]:
        with pytest.raises(ValueError, match="one map per level, got"):
            loss(student, teacher)
    with pytest.raises(ValueError, match="student must have 4 axes"):
        loss([maps[0]], [maps[0]])
    with pytest.raises(ValueError, match="student and teacher must have"):
        loss([maps], [maps[:1]])


def test_fitnet_hand_computed():
    student, teacher = np.float32([[[1, 2]], [[0, 3]]]), np.zeros((2, 1, 2), np.float32)
    np.testing.assert_allclose(fitnet_loss(student, teacher), [2.5, 4.5])
    assert not np.any(jax.grad(lambda t: fitnet_loss(student, t).sum())(teacher + 1))


class TestSimilarityPreserving:
    def test_hand_computed(self):
        # Inner products: the identity, and ones divided by the length of a row.
        student, teacher = np.eye(2, dtype=np.float32), np.float32([[2, 0, 0], [2, 0, 0]])
        loss = jax.jit(similarity_preserving_loss)
        root = math.sqrt(0.5)
        expected = (2 * (1 - root) ** 2 + 2 * root**2) / 4
        np.testing.assert_allclose(loss(student, teacher), expected, rtol=1e-6)
        # Padding, of maps as well as of rows.
        maps = np.concatenate([student, [[9, 9]]]).astype(np.float32).reshape(3, 1, 2, 1)
        padded = np.concatenate([teacher, [[9, 9, 9]]]).astype(np.float32)
        masked = loss(maps, padded, where=np.array([True, True, False]))
        np.testing.assert_allclose(masked, expected, rtol=1e-6)

    def test_rows_of_zeros_have_a_finite_gradient(self):
        student = np.float32([[0, 0], [1, 2]])
        grad = jax.grad(similarity_preserving_loss)(student, student + 1)
        assert np.all(np.isfinite(grad))
        assert not np.any(jax.grad(similarity_preserving_loss, argnums=1)(student, student + 1))

    def test_errors(self):
        with pytest.raises(ValueError, match="agree in the first 1"):
            similarity_preserving_loss(np.zeros((2, 3)), np.zeros((3, 3)))


class TestVariationalInformation:
    def test_hand_computed(self):
        start = np.log(np.exp(5 - 1e-5) - 1)
        variances = np.float32([start, -100])  # 5, and the least one
        predicted = np.zeros((1, 1, 1, 2), np.float32)
        teacher = np.float32([2, 0.01]).reshape(1, 1, 1, 2)
        expected = (4 / 5 + math.log(5) + 1e-4 / 1e-5 + math.log(1e-5)) / 2 / 2
        loss = jax.jit(variational_information_loss)(predicted, teacher, variances)
        np.testing.assert_allclose(loss, [expected], rtol=1e-5)

    def test_errors(self):
        maps = np.zeros((1, 1, 1, 2))
        with pytest.raises(ValueError, match="one per channel"):
            variational_information_loss(maps, maps, np.zeros(3))


class TestContrastive:
    def test_hand_computed(self):
        # e = 1 for the image itself and 2 for the negative, M / N = 1/2.
        similarities = np.float32([[0, math.log(2)]]) * 0.5
        loss = jax.jit(functools.partial(contrastive_loss, temperature=0.5), static_argnums=1)
        expected = -math.log(1 / 1.5) - math.log(1 - 2 / 2.5)
        np.testing.assert_allclose(loss(similarities, 2, log_normalizer=0.0), [expected], rtol=1e-6)
        # Z = 3 makes them 1/3 and 2/3.
        expected = -math.log((1 / 3) / (1 / 3 + 0.5)) - math.log(0.5 / (2 / 3 + 0.5))
        scaled = loss(similarities, 2, log_normalizer=math.log(3))
        np.testing.assert_allclose(scaled, [expected], rtol=1e-6)

    def test_finite_where_the_density_ratio_overflows(self):
        loss = functools.partial(contrastive_loss, num_examples=10, log_normalizer=-200.0)
        value, grad = jax.value_and_grad(lambda s: loss(s).sum())(np.float32([[-1, 1, 1]]))
        assert np.isfinite(value) and np.all(np.isfinite(grad))

    def test_errors(self):
        with pytest.raises(ValueError, match="M >= 1 negatives"):
            contrastive_loss(np.zeros((2, 1)), 5, log_normalizer=0.0)
