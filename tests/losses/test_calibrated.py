"""Tests of the calibrated evidential losses; "check n" is a check of DPC's specification."""

import functools
import math

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxrobust.losses import (
    calibrated_log_softmax,
    calibrated_softmax,
    class_prior_penalty,
    evidential_kl,
    evidential_loss,
    evidential_nll,
    negative_entropy,
    semi_supervised_loss,
    sharpen,
    strong_view_consistency,
    uniform_prior_penalty,
)

EVERY_CASE = range(8)
ROWS = 64
DTYPES = [np.float32, np.float64]
properties = settings(max_examples=25, deadline=None, derandomize=True)
logits_of_ten = hnp.arrays(np.float32, 10, elements=st.floats(-80, 80, width=32))


def random_logits(seed, shape, scale=3.0, dtype=np.float32):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def random_labels(seed, shape, num_classes=10):
    return np.random.default_rng(seed).integers(0, num_classes, shape, dtype=np.int32)


def rows_of(array, dtype=None):
    """Repeats the rows up to a common number, so that cases share a compiled program."""
    return np.resize(array, (ROWS, *array.shape[1:])).astype(dtype or array.dtype)


def ulps_of_largest(exact):
    """1.5 float32 units in the last place of the largest value.

    The divergence is the sum of two products: the large one is rounded once, the sum once more,
    half a unit each, and the small one has the error of much smaller numbers.
    """
    return 1.5 * np.spacing(np.float32(np.max(exact)))


def assert_close(dtype, actual, expected):
    """Compares with a recorded number, and the dtype with the one that was asked for."""
    assert actual.dtype == dtype
    single = dtype == np.float32
    np.testing.assert_allclose(
        actual, expected, rtol=2e-6 if single else 1e-9, atol=1e-6 if single else 1e-10
    )


@jax.jit
def _nll_and_kl(logits, labels, gamma):
    nll, pull_nll = jax.vjp(lambda o: evidential_nll(o, labels, gamma), logits)
    kl, pull_kl = jax.vjp(lambda o: evidential_kl(o, labels, gamma), logits)
    return nll, kl, pull_nll(jnp.ones_like(nll))[0], pull_kl(jnp.ones_like(kl))[0]


def nll_and_kl(logits, labels, gamma):
    """Both terms, and the gradient of either for every row."""
    dtype, rows = logits.dtype, len(logits)
    outputs = _nll_and_kl(rows_of(logits), rows_of(labels, np.int32), dtype.type(gamma))
    return tuple(np.asarray(output)[:rows] for output in outputs)


@jax.jit
def probs_and_vjp(logits, gamma, cotangent):
    probs, pull = jax.vjp(lambda o: calibrated_softmax(o, gamma), logits)
    return probs, pull(cotangent)[0]


@functools.partial(jax.jit, static_argnames="clamp")
def entropy_and_grad(logits, gamma, clamp):
    entropy, pull = jax.vjp(lambda o: negative_entropy(o, gamma, clamp_logits=clamp), logits)
    return entropy, pull(jnp.ones_like(entropy))[0]


@jax.jit
def consistency_and_grads(weak, strong, gamma):
    values, pull = jax.vjp(lambda w, s: strong_view_consistency(w, s, gamma), weak, strong)
    return values, *pull(jnp.ones_like(values))


@jax.jit
def supervised_and_grad(logits, labels_a, labels_b, mix, gamma):
    def supervised(o):
        return semi_supervised_loss(o, labels_a, labels_b, mix, o[:1], o[:1], gamma)[0]

    return jax.value_and_grad(supervised)(logits)


@jax.jit
def unsupervised_and_grad(logits, targets, gamma):
    def unsupervised(o):
        label = jnp.zeros(1, int)
        return semi_supervised_loss(o[:1], label, label, 0.5, o, targets, gamma)[1]

    return jax.value_and_grad(unsupervised)(logits)


def test_hand_computed():
    worked = calibrated_softmax(jnp.array([[0.0, 2, 0, 0], [-2, 0, -2, -2]]), 1.0)
    np.testing.assert_allclose(worked[:, 1], [0.583, 0.370], atol=5e-4)  # check 3

    logits = jnp.log(jnp.array([[3.0, 1.0]]))  # alpha = (4, 2)
    nll = evidential_nll(logits, jnp.array([0]), 1.0)
    np.testing.assert_allclose(nll, math.log(1.5), rtol=1e-6)
    # Dir(1, 2) against Dir(1, 1): the integral of 2x log(2x) over [0, 1].
    kl = evidential_kl(jnp.zeros((1, 2)), jnp.array([0]), 1.0, beta=0.5)
    np.testing.assert_allclose(kl, 0.5 / 2 * (math.log(2) - 0.5), atol=1e-6)
    entropy = negative_entropy(logits, 1.0)
    np.testing.assert_allclose(entropy, (2 * math.log(2 / 3) + math.log(1 / 3)) / 3, rtol=1e-6)

    probs = jnp.array([[0.8, 0.2], [0.4, 0.6]])  # mean (0.6, 0.4)
    prior = uniform_prior_penalty(jnp.log(probs), 0.0)
    np.testing.assert_allclose(prior, -0.5 * (math.log(1.2) + math.log(0.8)), rtol=1e-5)
    sharp = sharpen(jnp.array([0.5, 0.3, 0.2]))
    np.testing.assert_allclose(sharp, np.array([25, 9, 4]) / 38, rtol=1e-6)
    consistency = strong_view_consistency(jnp.zeros((1, 2)), jnp.log(probs[:1]), 0.0)
    np.testing.assert_allclose(consistency, 0.5 * math.log(0.25 / 0.16), rtol=1e-6)


def test_semi_supervised_loss_hand_computed():
    logits_x = jnp.array([[0.0, 0.0], [0.0, math.log(3)]])  # alpha = (2, 2) and (2, 4)
    labels_a, labels_b = jnp.array([0, 0]), jnp.array([1, 1])
    targets = jnp.array([[0.9, 0.1], [0.5, 0.5]])
    supervised, unsupervised = semi_supervised_loss(
        logits_x, labels_a, labels_b, 0.75, jnp.zeros((2, 2)), targets, 1.0, beta=0.0
    )
    second_row = 0.75 * math.log(3) + 0.25 * math.log(1.5)
    np.testing.assert_allclose(supervised, (math.log(2) + second_row) / 2, rtol=1e-6)
    np.testing.assert_allclose(unsupervised, (0.16 + 0.16 + 0 + 0) / 4, rtol=1e-6)


class TestGolden:
    """The authors' functions, recorded in double precision."""

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("case", EVERY_CASE)
    def test_evidential_loss(self, load_golden, x64, case, dtype):
        golden = load_golden("dpc")
        labels = golden[f"edl{case}", "labels"]
        rows = len(labels)
        logits = golden[f"edl{case}", "logits"].astype(dtype)
        nll, kl, grad_nll, grad_kl = nll_and_kl(logits, labels, golden[f"edl{case}", "gamma"])
        assert_close(dtype, nll, golden[f"edl{case}", "nll"])
        assert_close(dtype, kl, golden[f"edl{case}", "kl_scaled"])
        assert_close(dtype, nll.mean() + kl.mean(), golden[f"edl{case}", "loss"])
        assert_close(dtype, grad_nll / rows, golden[f"edl{case}", "grad_nll"])
        assert_close(dtype, grad_kl / rows, golden[f"edl{case}", "grad_kl"])
        assert_close(dtype, (grad_nll + grad_kl) / rows, golden[f"edl{case}", "grad_loss"])

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("case", EVERY_CASE)
    def test_calibrated_softmax(self, load_golden, x64, case, dtype):
        golden = load_golden("dpc")
        logits = golden[f"calsm{case}", "logits"]
        cotangent = rows_of(golden[f"calsm{case}", "cotangent"], dtype)
        probs, vjp = probs_and_vjp(
            rows_of(logits, dtype), golden[f"calsm{case}", "gamma"], cotangent
        )
        assert_close(dtype, probs[: len(logits)], golden[f"calsm{case}", "probs"])
        assert_close(dtype, vjp[: len(logits)], golden[f"calsm{case}", "vjp"])

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("case", EVERY_CASE)
    def test_negative_entropy(self, load_golden, x64, case, dtype):
        golden = load_golden("dpc")
        logits = golden[f"negent{case}", "logits"]
        rows = len(logits)
        for clamp, prefix in ((False, ""), (True, "cifarn_")):
            entropy, grad = entropy_and_grad(
                rows_of(logits, dtype), golden[f"negent{case}", "gamma"], clamp
            )
            mean = np.mean(entropy[:rows])
            assert_close(dtype, mean, golden[f"negent{case}", prefix + "value"])
            # At a logit of 0 the derivative of the clamp is a convention.
            settled = (logits != 0) | (not clamp)
            expected = golden[f"negent{case}", prefix + "grad"][settled]
            assert_close(dtype, np.asarray(grad)[:rows][settled] / rows, expected)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("case", EVERY_CASE)
    def test_strong_view_consistency(self, load_golden, x64, case, dtype):
        golden = load_golden("dpc")
        weak, strong = (golden[f"consist{case}", f"logits_{v}"] for v in ("weak", "strong"))
        rows = len(weak)
        values, to_weak, to_strong = consistency_and_grads(
            rows_of(weak, dtype), rows_of(strong, dtype), golden[f"consist{case}", "gamma"]
        )
        assert_close(dtype, values[:rows], golden[f"consist{case}", "per_example"])
        expected = golden[f"consist{case}", "grad_strong_of_mean"]
        assert_close(dtype, np.asarray(to_strong)[:rows] / rows, expected)
        assert not np.any(to_weak)  # check 6

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("case", EVERY_CASE)
    def test_semi_supervised_loss(self, load_golden, x64, case, dtype):
        golden = load_golden("dpc")

        def semi(name, dtype=None):
            array = golden[f"semi{case}", name]
            return array.astype(dtype or array.dtype)

        logits = semi("outputs_x", dtype)
        # A mean over 96 rows: as many repetitions of 1, 2, 3, 4 or 32 rows.
        repeats = 96 // len(logits)
        loss_x, grad_x = supervised_and_grad(
            np.tile(logits, (repeats, 1)),
            np.tile(semi("targets_a"), repeats),
            np.tile(semi("targets_b"), repeats),
            semi("lam_mix"),
            semi("gamma"),
        )
        assert_close(dtype, loss_x, semi("loss_x"))
        assert_close(dtype, grad_x[: len(logits)] * repeats, semi("grad_x"))
        loss_u, grad_u = unsupervised_and_grad(
            semi("outputs_u", dtype), semi("targets_u", dtype), semi("gamma")
        )
        assert_close(dtype, loss_u, semi("loss_u"))
        assert_close(dtype, grad_u, semi("grad_u"))

    @pytest.mark.parametrize("case", range(4))
    def test_extreme_logits_in_single_precision(self, load_golden, case):  # check 5
        golden = load_golden("dpc")
        logits, labels = (golden[f"extreme{case}", name] for name in ("logits", "labels"))
        nll, kl, _, grad = nll_and_kl(logits.astype(np.float32), labels, 10 / logits.shape[-1])
        assert kl.dtype == grad.dtype == np.float32
        np.testing.assert_allclose(nll, golden[f"extreme{case}", "authors_nll"], atol=2e-6)
        exact = golden[f"extreme{case}", "exact_kl_scaled"]
        np.testing.assert_allclose(kl, exact, rtol=0, atol=ulps_of_largest(exact))
        exact_grad = golden[f"extreme{case}", "exact_grad_kl_scaled"]
        np.testing.assert_allclose(grad, exact_grad, rtol=0, atol=5e-7)

    @pytest.mark.parametrize("case", range(4))
    def test_extreme_logits_in_double_precision(self, load_golden, x64, case):
        golden = load_golden("dpc")
        logits, labels = (golden[f"extreme{case}", name] for name in ("logits", "labels"))
        nll, kl, _, grad = nll_and_kl(logits, labels, 10 / logits.shape[-1])
        assert kl.dtype == grad.dtype == np.float64
        np.testing.assert_allclose(nll, golden[f"extreme{case}", "authors_nll"], rtol=1e-12)
        exact = golden[f"extreme{case}", "exact_kl_scaled"]
        np.testing.assert_allclose(kl, exact, rtol=1e-13, atol=1e-13)
        exact_grad = golden[f"extreme{case}", "exact_grad_kl_scaled"]
        np.testing.assert_allclose(grad, exact_grad, rtol=0, atol=1e-13)


class TestCalibratedSoftmax:
    @properties
    @given(logits=logits_of_ten, log_gamma=st.floats(-5, 5))
    def test_is_softmax_drawn_towards_uniform(self, logits, log_gamma):  # checks 1 and 2
        probs = np.asarray(calibrated_softmax(logits, math.exp(log_gamma)))
        exact = logits.astype(np.float64)
        softmax = scipy.special.softmax(exact)
        s = scipy.special.expit(scipy.special.logsumexp(exact) - math.log(10) - log_gamma)
        np.testing.assert_allclose(probs, s * softmax + (1 - s) / 10, rtol=0, atol=1e-6)
        assert probs.max() <= softmax.max() + 1e-6
        assert np.all(np.diff(probs[np.argsort(logits, kind="stable")]) >= 0)

    def test_limits_of_gamma(self):  # check 1
        logits = random_logits(0, (5, 10))
        plain = jax.nn.log_softmax(logits)
        np.testing.assert_allclose(calibrated_log_softmax(logits, 0.0), plain, rtol=1e-6)
        np.testing.assert_allclose(calibrated_softmax(logits, 1e-9), jnp.exp(plain), atol=1e-6)
        np.testing.assert_allclose(calibrated_softmax(logits, 1e9), 0.1, atol=1e-6)

    def test_a_common_shift_changes_the_confidence(self):  # check 3
        logits = random_logits(1, (5, 10))
        strong, weak = calibrated_softmax(logits + 40), calibrated_softmax(logits - 40)
        np.testing.assert_allclose(strong, jax.nn.softmax(logits), atol=1e-5)
        np.testing.assert_allclose(weak, 0.1, atol=1e-6)

    def test_default_gamma_is_ten_over_the_number_of_classes(self):
        logits = random_logits(2, (3, 50))
        np.testing.assert_array_equal(calibrated_softmax(logits), calibrated_softmax(logits, 0.2))

    def test_leading_axes(self):
        logits = random_logits(3, (2, 3, 4))
        rows = calibrated_log_softmax(logits.reshape(6, 4))
        np.testing.assert_allclose(calibrated_log_softmax(logits), rows.reshape(2, 3, 4), rtol=1e-6)


class TestEvidentialNll:
    def test_is_a_bounded_cross_entropy(self):  # check 4
        logits, labels = random_logits(4, (20, 10)), random_labels(4, 20)
        nll = evidential_nll(logits, labels, 0.5)
        probs = np.asarray(calibrated_softmax(logits, 0.5))
        np.testing.assert_allclose(nll, -np.log(probs[np.arange(20), labels]), rtol=1e-5)
        total = np.sum(np.exp(logits) + 0.5, axis=-1)
        assert np.all(nll <= np.log(total / 0.5) + 1e-6)

    def test_gamma_zero_is_softmax_cross_entropy(self):
        logits, labels = random_logits(5, (20, 10)), random_labels(5, 20)
        expected = -jax.nn.log_softmax(logits)[np.arange(20), labels]
        np.testing.assert_allclose(evidential_nll(logits, labels, 0), expected, rtol=1e-5)

    def test_gradient_falls_short_of_softmax_on_wrong_classes(self, x64):  # check 4
        gamma, labels = 0.7, random_labels(6, 6)
        logits = random_logits(6, (6, 10), dtype=np.float64)

        def grad(gamma):
            return jax.grad(lambda o: jnp.sum(evidential_nll(o, labels, gamma)))(logits)

        evidence = np.exp(logits)
        total = evidence.sum(axis=-1, keepdims=True)
        expected = gamma * 10 * evidence / (total * (total + 10 * gamma))
        wrong = ~np.eye(10, dtype=bool)[labels]
        shortfall = np.asarray(grad(0.0) - grad(gamma))
        np.testing.assert_allclose(shortfall[wrong], expected[wrong], rtol=1e-9)

    def test_renaming_classes_renames_the_gradient(self):  # check 4
        logits, labels = random_logits(7, (ROWS, 10)), random_labels(7, ROWS)
        order = np.random.default_rng(7).permutation(10)
        renamed = np.argsort(order)[labels].astype(np.int32)
        before = nll_and_kl(logits, labels, 1.0)
        after = nll_and_kl(logits[:, order], renamed, 1.0)
        for values, permuted in zip(before, after, strict=True):
            values = values if values.ndim == 1 else values[:, order]
            np.testing.assert_allclose(permuted, values, atol=1e-6)


class TestEvidentialKl:
    def test_vanishes_without_evidence_for_wrong_classes(self):  # check 5
        logits = np.full((2, 10), -1e4, np.float32)
        logits[:, 3] = [5, -1e4]
        np.testing.assert_allclose(nll_and_kl(logits, np.array([3, 3]), 1.0)[1], 0, atol=1e-6)

    def test_the_label_has_no_influence(self):  # check 5
        logits, labels = random_logits(8, (ROWS, 10)), random_labels(8, ROWS)
        moved = logits.copy()
        moved[np.arange(ROWS), labels] = np.resize([-1e4, -3, 0, 3, 50, 1e4], ROWS)
        _, kl, _, grad = nll_and_kl(logits, labels, 1.0)
        np.testing.assert_array_equal(nll_and_kl(moved, labels, 1.0)[1], kl)
        assert np.all(grad[np.arange(ROWS), labels] == 0)

    def test_increases_in_the_largest_other_logit(self, x64):  # check 5
        """And not always in a smaller one: its evidence makes the distribution less peaked."""
        logits, labels = random_logits(9, (ROWS, 10)), random_labels(9, ROWS)
        logits[np.arange(ROWS), labels] = -np.inf
        largest = logits.argmax(axis=-1)
        logits[np.arange(ROWS), labels] = 0
        grad = nll_and_kl(logits.astype(np.float64), labels, 1.0)[3]
        assert np.all(grad[np.arange(ROWS), largest] > 0)
        assert np.any(grad < 0)

    @pytest.mark.parametrize(("num_classes", "limit"), [(10, 0.45), (100, 0.495)])
    def test_gradient_of_one_dominating_logit(self, num_classes, limit):  # check 5
        logits = np.zeros((ROWS, num_classes), np.float32)
        logits[:, 1] = np.resize([40, 80, 1e4], ROWS)
        grad = nll_and_kl(logits, np.zeros(ROWS, np.int32), 10 / num_classes)[3]
        np.testing.assert_allclose(grad[:, 1], limit, atol=1e-6)

    def test_gradient_has_its_closed_form(self, x64):  # check 5
        logits, labels = random_logits(10, (ROWS, 10), dtype=np.float64), random_labels(10, ROWS)
        a = np.where(np.eye(10, dtype=bool)[labels], 0, np.exp(logits) / 0.8)
        s = 10 + a.sum(axis=-1, keepdims=True)
        trigamma = functools.partial(scipy.special.polygamma, 1)
        expected = a * (a * trigamma(1 + a) - (s - 10) * trigamma(s)) * 0.5 / 10
        np.testing.assert_allclose(nll_and_kl(logits, labels, 0.8)[3], expected, atol=1e-13)

    def test_equals_the_textbook_form_where_that_is_accurate(self, x64):  # check 5
        logits = np.random.default_rng(11).uniform(-8, 8, (ROWS, 10))
        labels = random_labels(11, ROWS)
        alpha = 1 + np.where(np.eye(10, dtype=bool)[labels], 0, np.exp(logits))
        s = alpha.sum(axis=-1)
        digamma, gammaln = scipy.special.digamma, scipy.special.gammaln
        terms = (alpha - 1) * (digamma(alpha) - digamma(s)[:, None]) - gammaln(alpha)
        expected = gammaln(s) - gammaln(10) + terms.sum(axis=-1)
        kl = nll_and_kl(logits, labels, 1.0)[1]
        np.testing.assert_allclose(kl, 0.5 / 10 * expected, rtol=1e-8)

    @pytest.mark.parametrize("num_classes", [2, 10, 100])
    def test_single_precision_up_to_sixty(self, num_classes):
        rng = np.random.default_rng(12)
        scale = np.linspace(0, 60, ROWS)[:, None]
        logits = (scale * rng.uniform(-1, 1, (ROWS, num_classes))).astype(np.float32)
        labels, gamma = random_labels(12, ROWS, num_classes), np.float32(10 / num_classes)
        _, value, _, grad = nll_and_kl(logits, labels, gamma)
        with jax.enable_x64(True):
            _, exact, _, exact_grad = nll_and_kl(logits.astype(np.float64), labels, gamma)
        assert np.max(np.abs(value - exact)) < ulps_of_largest(exact)
        assert np.max(np.abs(grad - exact_grad)) < 2e-6

    def test_gradient_where_the_series_begins(self):
        """Exactly at the switch no branch may lose a part of the gradient."""
        at = np.float32(math.log(4))
        logits = np.zeros((ROWS, 2), np.float32)
        logits[:, 1] = np.resize([at, np.nextafter(at, np.float32(2))], ROWS)
        grad = nll_and_kl(logits, np.zeros(ROWS, np.int32), 1.0)[3]
        np.testing.assert_allclose(grad[0], grad[1], atol=1e-6)
        # With one other class it is beta / C times (a / (1 + a)) ** 2.
        np.testing.assert_allclose(grad[0, 1], 0.25 * 0.64, rtol=1e-5)

    def test_evidence_scale_stands_in_for_gamma(self):
        logits, labels = random_logits(13, (ROWS, 10)), random_labels(13, ROWS)
        scaled = jax.jit(lambda o: evidential_kl(o, labels, 0.0, evidence_scale=2.5))(logits)
        np.testing.assert_allclose(scaled, nll_and_kl(logits, labels, 0.4)[1], rtol=1e-5)

    def test_beta_is_a_weight_and_gamma_ten_over_the_number_of_classes(self):
        logits, labels = random_logits(14, (ROWS, 10)), random_labels(14, ROWS)
        nll, kl = jax.jit(lambda o: evidential_loss(o, labels, beta=0.25))(logits)
        expected_nll, expected_kl, _, _ = nll_and_kl(logits, labels, 1.0)
        np.testing.assert_allclose(nll, expected_nll, rtol=2e-6)
        np.testing.assert_allclose(2 * kl, expected_kl, rtol=2e-6)


class TestRegularisers:
    @properties
    @given(logits=logits_of_ten)
    def test_negative_entropy_stays_within_its_bounds(self, logits):  # check 6
        assert -math.log(10) - 1e-5 <= negative_entropy(logits) <= 1e-6

    def test_clamped_logits_count_as_zero_and_get_no_gradient(self):
        logits = random_logits(15, (ROWS, 10))
        entropy, grad = entropy_and_grad(logits, 1.0, True)
        np.testing.assert_allclose(entropy, negative_entropy(np.maximum(logits, 0)), rtol=1e-6)
        assert np.all(np.asarray(grad)[logits < 0] == 0)
        assert np.any(np.asarray(grad)[logits > 0] != 0)

    def test_prior_penalty_vanishes_only_at_a_uniform_mean(self):  # check 6
        row = random_logits(16, (1, 10))
        balanced = np.concatenate([np.roll(row, i, axis=-1) for i in range(10)])
        np.testing.assert_allclose(uniform_prior_penalty(balanced), 0, atol=1e-6)
        assert uniform_prior_penalty(balanced[:9]) > 1e-3

    def test_prior_penalty_is_of_the_mean_over_all_rows(self):
        logits = random_logits(17, (4, 6, 10))
        mean = np.asarray(calibrated_softmax(logits)).reshape(24, 10).mean(axis=0)
        expected = -np.mean(np.log(10 * mean))
        np.testing.assert_allclose(uniform_prior_penalty(logits), expected, rtol=1e-5)

    def test_prior_penalty_survives_a_class_that_nothing_predicts(self):
        logits = np.zeros((3, 4), np.float32)
        logits[:, 0] = -1e4
        value, grad = jax.value_and_grad(uniform_prior_penalty)(logits, 0.0)
        np.testing.assert_allclose(value, 2500, rtol=1e-2)
        np.testing.assert_allclose(grad[:, 0], -1 / 4 / 3, rtol=1e-5)

    @properties
    @given(weak=logits_of_ten, strong=logits_of_ten)
    def test_consistency_is_a_divergence(self, weak, strong):  # check 6
        assert strong_view_consistency(weak, strong) >= -1e-6
        assert strong_view_consistency(weak, weak) == 0


class TestSharpen:
    @properties
    @given(logits=logits_of_ten, temperature=st.sampled_from([0.01, 0.5, 1.0, 2.0]))
    def test_keeps_a_distribution_and_its_mode(self, logits, temperature):  # check 7
        probs = np.asarray(jax.nn.softmax(logits))
        sharp = np.asarray(sharpen(probs, temperature=temperature))
        np.testing.assert_allclose(sharp.sum(), 1, rtol=1e-5)
        assert sharp[probs.argmax()] == sharp.max()
        if temperature == 1:
            np.testing.assert_allclose(sharp, probs, rtol=1e-5)

    def test_does_not_underflow(self):
        sharp = sharpen(jnp.full((1, 1000), 1e-3), temperature=0.01)
        np.testing.assert_allclose(sharp, 1e-3, rtol=1e-4)

    def test_refined_labels_follow_the_label_above_one_half(self):  # check 7
        probs = np.random.default_rng(18).dirichlet(np.full(10, 0.2), 200).astype(np.float32)
        onehot = np.eye(10, dtype=np.float32)[random_labels(18, 200)]

        def follows(weight):
            refined = sharpen(np.float32(weight) * onehot + np.float32(1 - weight) * probs)
            return np.argmax(refined, axis=-1) == onehot.argmax(axis=-1)

        assert np.all(follows(0.51))
        assert not np.all(follows(0.3))

    def test_gradient_is_finite_at_zero(self):
        grad = jax.grad(lambda p: sharpen(p)[0])(jnp.array([0.0, 0.25, 0.75]))
        assert np.all(np.isfinite(grad))


class TestSemiSupervisedLoss:
    def test_without_mixing_it_is_the_evidential_loss(self):  # check 8
        logits, labels, other = random_logits(19, (96, 10)), *(random_labels(s, 96) for s in (1, 2))
        supervised, _ = supervised_and_grad(logits, labels, other, 1.0, 1.0)
        first, last = (nll_and_kl(logits[i], labels[i], 1.0) for i in (np.s_[:64], np.s_[64:]))
        expected = sum(np.sum(part[0] + part[1]) for part in (first, last)) / 96
        np.testing.assert_allclose(supervised, expected, rtol=2e-6)

    def test_each_part_trains_its_own_head_and_the_targets_nothing(self):
        logits, labels = random_logits(20, (8, 10)), random_labels(20, 8)

        @jax.jit
        def pull(x, u, targets):
            _, pull = jax.vjp(
                lambda *arrays: semi_supervised_loss(
                    arrays[0], labels, labels, 0.6, arrays[1], arrays[2]
                ),
                *(x, u, targets),
            )
            return pull((1.0, 0.0)), pull((0.0, 1.0))

        (of_x, of_u) = pull(logits, logits, np.abs(logits))
        assert np.any(of_x[0]) and not np.any(of_x[1]) and not np.any(of_x[2])
        assert np.any(of_u[1]) and not np.any(of_u[0]) and not np.any(of_u[2])

    def test_exchanging_the_partners_exchanges_the_shares(self):
        logits, labels, other = random_logits(21, (96, 10)), *(random_labels(s, 96) for s in (3, 4))
        np.testing.assert_allclose(
            supervised_and_grad(logits, labels, other, 0.7, 1.0)[0],
            supervised_and_grad(logits, other, labels, 0.3, 1.0)[0],
            rtol=1e-6,
        )


LABELS = random_labels(23, 4, 5)
TARGETS = np.random.default_rng(23).dirichlet(np.ones(5), 4)
LOSSES = {
    "nll": lambda o: evidential_nll(o, LABELS),
    "kl": lambda o: evidential_kl(o, LABELS),
    "entropy": negative_entropy,
    "prior": uniform_prior_penalty,
    "sharpen": lambda o: sharpen(jax.nn.softmax(o)),
    "consistency": lambda o: strong_view_consistency(np.zeros((4, 5)), o),
    "semi": lambda o: semi_supervised_loss(o, LABELS, LABELS[::-1], 0.7, o, TARGETS),
}


@pytest.mark.parametrize("name", LOSSES)
def test_derivatives(x64, name):
    logits = random_logits(23, (4, 5), dtype=np.float64)
    check_grads(jax.jit(LOSSES[name]), (logits,), order=1, modes=("fwd", "rev"))


@pytest.mark.parametrize("loss", [evidential_nll, evidential_kl])
def test_leading_axes(loss):
    logits, labels = random_logits(25, (3, 4, 5)), random_labels(25, (3, 4), 5)
    per_example = jax.jit(loss)(logits, labels)
    assert per_example.shape == (3, 4)
    rows = jax.jit(loss)(logits.reshape(12, 5), labels.reshape(12))
    np.testing.assert_allclose(rows.reshape(3, 4), per_example, rtol=2e-6, atol=5e-7)


def test_values_and_gradients_are_finite_at_any_logit():
    corners = [-1e4, -100.0, 0.0, 100.0, 1e4]
    logits = np.stack(np.meshgrid(corners, corners, corners), -1).reshape(-1, 3)
    logits, labels = logits.astype(np.float32), np.zeros(len(logits), np.int32)

    def every_loss(o, gamma):
        return (
            evidential_loss(o, labels, gamma, evidence_scale=1.0),
            negative_entropy(o, gamma),
            negative_entropy(o, gamma, clamp_logits=True),
            uniform_prior_penalty(o, gamma),
            strong_view_consistency(o[::-1], o, gamma),
            semi_supervised_loss(
                o, labels, labels + 1, 0.6, o, jnp.zeros_like(o), gamma, evidence_scale=1.0
            ),
        )

    @jax.jit
    def values_and_gradients(o, gamma):
        values, pull = jax.vjp(lambda o: every_loss(o, gamma), o)
        return values, pull(jax.tree.map(jnp.ones_like, values))

    for gamma in (10 / 3, 0.0):
        for leaf in jax.tree.leaves(values_and_gradients(logits, gamma)):
            assert np.all(np.isfinite(leaf))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(jnp.bfloat16, np.float32), (np.float16, np.float32), (np.float32, np.float32)],
)
def test_dtype_under_x64(x64, dtype, expected):
    """No float64 gamma, weight, target or label may widen the result."""
    labels, wide, one = np.zeros(4, np.int64), np.zeros((4, 5)), np.float64(1)
    outputs = jax.eval_shape(
        lambda o: (
            calibrated_softmax(o, one),
            evidential_loss(o, labels, one, beta=one, evidence_scale=one),
            negative_entropy(o, one, clamp_logits=True),
            uniform_prior_penalty(o, one),
            sharpen(o, temperature=one),
            semi_supervised_loss(o, labels, labels, one, o, wide, one),
            strong_view_consistency(o, o, one),
        ),
        jax.ShapeDtypeStruct((4, 5), dtype),
    )
    assert {output.dtype for output in jax.tree.leaves(outputs)} == {np.dtype(expected)}


X, Y = np.zeros((3, 4), np.float32), np.zeros(3, np.int32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calibrated_softmax(X[:, :1]), "C >= 2 classes"),
        (lambda: calibrated_softmax(np.float32(0)), "C >= 2 classes"),
        (lambda: calibrated_softmax(X, -1.0), "gamma must be one number >= 0"),
        (lambda: calibrated_softmax(X, np.ones(3)), "gamma must be one number >= 0"),
        (lambda: evidential_nll(X, Y[:2]), "one entry per row"),
        (lambda: evidential_nll(X, X[:, 0]), "labels must be integers"),
        (lambda: evidential_kl(X, X.astype(int)), "one entry per row"),
        (lambda: evidential_kl(X, Y, 0.0), "pass evidence_scale="),
        (lambda: evidential_loss(X, Y, jnp.float32(0)), "pass evidence_scale="),
        (lambda: strong_view_consistency(X, X[:2]), "must have the same shape"),
        (lambda: semi_supervised_loss(X, Y, Y, 0.5, X, X[:, :1]), "must have the same shape"),
    ],
)
def test_wrong_arguments_are_refused_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_class_prior_penalty():
    """The divergence of the mean prediction from the frequencies of the classes."""
    logits = jnp.log(jnp.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1]]))
    mean = np.array([0.7, 0.2, 0.1])
    assert abs(float(class_prior_penalty(logits, mean, 0.0))) < 1e-6
    prior = np.array([0.5, 0.5, 0.0])
    expected = 0.5 * np.log(0.5 / 0.7) + 0.5 * np.log(0.5 / 0.2)
    np.testing.assert_allclose(class_prior_penalty(logits, prior, 0.0), expected, rtol=1e-5)
    np.testing.assert_allclose(
        class_prior_penalty(logits, np.full(3, 1 / 3)), uniform_prior_penalty(logits), atol=1e-6
    )
