"""Tests of margins, their common range and their threshold; "check n" is one of DPC's."""

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.selection import logit_margin, min_max_normalize, select_clean

properties = settings(max_examples=25, deadline=None, derandomize=True)
whole_logits = hnp.arrays(np.float32, (4, 5), elements=st.integers(-50, 50))
labels_of_five = hnp.arrays(np.int32, 4, elements=st.integers(0, 4))
GOLDEN_CASES = [0, 1, 2, 4, 5, 6]

margin = jax.jit(logit_margin)
normalize = jax.jit(min_max_normalize, static_argnames="constant")


class TestLogitMargin:
    def test_hand_computed(self):
        logits = np.array([[1.0, 5.0, 2.0], [1.0, 5.0, 2.0], [3.0, 3.0, 0.0]], np.float32)
        np.testing.assert_array_equal(margin(logits, np.array([1, 2, 0])), [3, -3, 0])

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("case", GOLDEN_CASES)
    def test_golden(self, load_golden, x64, case, dtype):
        golden = load_golden("dpc")
        logits = golden[f"margin{case}", "logits"].astype(dtype)
        raw = margin(logits, golden[f"margin{case}", "labels"])
        assert raw.dtype == dtype
        tolerance = {"rtol": 1e-12} if dtype == np.float64 else {"rtol": 2e-6, "atol": 2e-6}
        np.testing.assert_allclose(raw, golden[f"margin{case}", "raw"], **tolerance)
        scaled = normalize(raw)
        assert scaled.dtype == dtype
        np.testing.assert_allclose(scaled, golden[f"margin{case}", "normalized"], **tolerance)

    @properties
    @given(logits=whole_logits, labels=labels_of_five, shift=st.integers(-1000, 1000))
    def test_a_common_shift_changes_nothing(self, logits, labels, shift):  # check 9
        shifted = margin(logits + np.float32(shift), labels)
        np.testing.assert_array_equal(shifted, margin(logits, labels))

    @properties
    @given(logits=whole_logits, labels=labels_of_five)
    def test_positive_only_for_the_one_largest_class(self, logits, labels):  # check 9
        own = logits[np.arange(4), labels]
        others = np.where(np.eye(5, dtype=bool)[labels], -np.inf, logits)
        np.testing.assert_array_equal(margin(logits, labels) > 0, own > others.max(axis=-1))

    def test_a_very_negative_runner_up(self):
        """The authors mask the label with -1e5, which would win here."""
        np.testing.assert_allclose(margin(np.array([[0, -3e5]], np.float32), np.array([0])), 3e5)

    def test_leading_axes_and_half_precision(self):
        logits = np.random.default_rng(0).standard_normal((2, 3, 5)).astype(np.float32)
        labels = np.arange(6, dtype=np.int32).reshape(2, 3) % 5
        per_example = margin(logits, labels)
        np.testing.assert_array_equal(jax.vmap(margin)(logits, labels), per_example)
        assert margin(jnp.asarray(logits).astype(jnp.bfloat16), labels).dtype == jnp.float32

    def test_gradient_reaches_the_label_and_its_rival(self):
        logits = jnp.array([[1.0, 5.0, 2.0]])
        grad = jax.grad(lambda o: logit_margin(o, jnp.array([2]))[0])(logits)
        np.testing.assert_array_equal(grad, [[0, -1, 1]])

    @pytest.mark.parametrize(
        ("shape", "labels", "message"),
        [
            ((3, 1), np.zeros(3, int), "C >= 2 classes"),
            ((3, 4), np.zeros(2, int), "one entry per row"),
            ((3, 4), np.zeros(3), "labels must be integers"),
        ],
    )
    def test_wrong_arguments_are_refused_in_words(self, shape, labels, message):
        with pytest.raises(ValueError, match=message):
            logit_margin(jnp.zeros(shape), labels)


class TestMinMaxNormalize:
    def test_hand_computed(self):
        scaled = normalize(np.array([2.0, 4.0, 3.0], np.float32))
        np.testing.assert_array_equal(scaled, [0, 1, 0.5])

    @properties
    @given(
        x=hnp.arrays(np.float32, 6, elements=st.integers(-100, 100)),
        scale=st.sampled_from([0.25, 1.0, 8.0]),
        shift=st.integers(-64, 64),
    )
    def test_scale_and_shift_change_nothing(self, x, scale, shift):  # check 9
        moved = normalize(np.float32(scale) * x + np.float32(shift))
        np.testing.assert_array_equal(moved, normalize(x))

    def test_entries_outside_where_have_no_influence(self):
        x = np.array([np.nan, 1.0, 3.0, np.inf, 2.0, -9.0], np.float32)
        inside = np.array([False, True, True, False, True, False])
        scaled = normalize(x, where=inside)
        np.testing.assert_array_equal(scaled[inside], normalize(x[inside]))

    @pytest.mark.parametrize("constant", [0.0, 1.0])
    def test_equal_scores(self, constant):
        np.testing.assert_array_equal(normalize(jnp.full(3, 7.0), constant=constant), constant)
        one = jnp.arange(3) == 1
        assert normalize(jnp.arange(3.0), where=one, constant=constant)[1] == constant
        nothing = normalize(jnp.arange(3.0), where=jnp.zeros(3, bool), constant=constant)
        assert np.all(np.isfinite(nothing))

    def test_nan_is_not_taken_for_equal_scores(self):
        assert np.all(np.isnan(normalize(jnp.array([1.0, np.nan, 1.0]))))

    def test_gradient_is_finite_at_equal_scores(self):
        grad = jax.grad(lambda x: jnp.sum(min_max_normalize(x)))(jnp.ones(3))
        np.testing.assert_array_equal(grad, 0)

    @pytest.mark.parametrize(
        ("x", "where", "message"),
        [(np.zeros((2, 2)), None, "must be a vector"), (np.zeros(3), np.ones(2, bool), "where")],
    )
    def test_wrong_shapes_are_refused_in_words(self, x, where, message):
        with pytest.raises(ValueError, match=message):
            min_max_normalize(x, where=where)


def test_select_clean_is_strict():
    prob = jnp.array([0.2, 0.5, 0.50001, 1.0])
    np.testing.assert_array_equal(select_clean(prob), [False, False, True, True])
    np.testing.assert_array_equal(select_clean(prob, threshold=0.1), [True] * 4)
    assert select_clean(prob.astype(jnp.bfloat16), threshold=np.float64(0.5)).dtype == bool
