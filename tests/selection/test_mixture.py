"""Tests of the mixture of two Gaussians and of clean probabilities; "check n" is one of DPC's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture

from jaxrobust.selection import (
    GaussianMixture1D,
    clean_probability,
    clean_probability_given_count,
    excess_kurtosis,
    fit_gaussian_mixture_1d,
    gaussian_mixture_posterior,
    min_max_normalize,
    select_clean,
)

CASES = range(5)
properties = settings(max_examples=10, deadline=None, derandomize=True)


def two_groups(seed, num=200, shares=(0.4, 0.6), means=(0.3, 0.8), scales=(0.1, 0.07)):
    rng = np.random.default_rng(seed)
    low = rng.random(num) < shares[0]
    x = np.where(low, rng.normal(means[0], scales[0], num), rng.normal(means[1], scales[1], num))
    return x.astype(np.float32)


def fields(mixture):
    return mixture.means, mixture.variances, mixture.weights


class TestGolden:
    """scikit-learn with the settings of the authors' code."""

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("case", CASES)
    def test_from_the_recorded_start(self, load_golden, x64, case, dtype):  # check 10
        golden = functools.partial(lambda g, name: g[f"gmm{case}", name], load_golden("dpc"))
        x = golden("x").astype(dtype)
        mixture = fit_gaussian_mixture_1d(x, init_labels=golden("init_is_high"))
        posterior = gaussian_mixture_posterior(x, mixture)
        assert posterior.dtype == mixture.means.dtype == dtype
        single = np.float32 in (dtype, golden("x").dtype)
        close = functools.partial(np.testing.assert_allclose, rtol=0, atol=2e-3 if single else 1e-6)
        for field, name in zip(fields(mixture), ("means", "vars", "weights"), strict=True):
            close(field, golden(f"{name}_hi_lo")[::-1])
        close(posterior[:, 1], golden("prob_clean"))
        num_iter = int(golden("n_iter"))
        assert (mixture.num_iter, mixture.converged) == (num_iter, golden("converged"))
        close(mixture.lower_bounds[:num_iter], golden("lower_bounds"))
        assert np.all(mixture.lower_bounds[num_iter:] == -np.inf)
        np.testing.assert_array_equal(select_clean(posterior[:, 1]), golden("selected"))

    @pytest.mark.parametrize("case", CASES)
    def test_from_the_margins_alone(self, load_golden, x64, case):
        """The library's own start may differ from seeded k-means in a few labels."""
        golden = functools.partial(lambda g, name: g[f"gmm{case}", name], load_golden("dpc"))
        prob = clean_probability(golden("raw"), mode="gmm")
        np.testing.assert_allclose(prob, golden("prob_clean"), atol=0.05)
        assert np.mean(select_clean(prob) != golden("selected")) <= 0.02

    @pytest.mark.parametrize("case", CASES)
    def test_kurtosis(self, load_golden, x64, case):
        golden = load_golden("dpc")
        kurtosis = excess_kurtosis(golden[f"gmm{case}", "raw"])
        np.testing.assert_allclose(kurtosis, golden[f"gmm{case}", "excess_kurtosis"], rtol=1e-8)


class TestFit:
    def test_one_round_by_hand(self, x64):
        x = np.array([0.0, 0.0, 1.0, 1.0])
        mixture = fit_gaussian_mixture_1d(x, max_iter=1, reg_covar=0.25)
        # Start: means 0 and 1, variances 0.25. Odds of the farther component: exp(-1 / 0.5).
        far = np.exp(-2) / (1 + np.exp(-2))
        np.testing.assert_allclose(mixture.means, [far, 1 - far], rtol=1e-12)
        np.testing.assert_allclose(mixture.variances, 0.25 + far * (1 - far), rtol=1e-12)
        np.testing.assert_allclose(mixture.weights, 0.5, rtol=1e-12)
        density = (1 + np.exp(-2)) / 2 / np.sqrt(2 * np.pi * 0.25)
        np.testing.assert_allclose(mixture.lower_bounds, [np.log(density)], rtol=1e-12)
        assert mixture.num_iter == 1 and not mixture.converged

    def test_converges_to_the_optimum_of_scikit_learn(self, x64):
        x = two_groups(0).astype(np.float64)
        mixture = fit_gaussian_mixture_1d(x, max_iter=300, tol=1e-12)
        reference = GaussianMixture(2, tol=1e-12, max_iter=300, reg_covar=5e-4, random_state=0)
        reference.fit(x[:, None])
        order = np.argsort(reference.means_[:, 0])
        assert mixture.converged
        np.testing.assert_allclose(mixture.means, reference.means_[order, 0], atol=1e-4)
        np.testing.assert_allclose(mixture.weights, reference.weights_[order], atol=1e-4)
        np.testing.assert_allclose(
            mixture.variances, reference.covariances_[order, 0, 0], atol=1e-5
        )

    def test_likelihood_never_falls(self):
        bounds = fit_gaussian_mixture_1d(two_groups(1), tol=0.0, reg_covar=0.0).lower_bounds
        assert np.all(np.diff(bounds) > -1e-6)

    def test_entries_outside_where_have_no_influence(self):
        x = two_groups(2)
        inside = np.random.default_rng(2).random(len(x)) < 0.7
        noisy = np.where(inside, x, np.resize([np.nan, 1e9, -np.inf], len(x))).astype(np.float32)
        masked = fit_gaussian_mixture_1d(noisy, where=inside)
        alone = fit_gaussian_mixture_1d(x[inside])
        for a, b in zip(fields(masked), fields(alone), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4)
        assert masked.num_iter == alone.num_iter

    def test_exchanged_start_labels_give_the_same_mixture(self):
        x = two_groups(3)
        upper = x > 0.55
        for a, b in zip(
            fields(fit_gaussian_mixture_1d(x, init_labels=upper)),
            fields(fit_gaussian_mixture_1d(x, init_labels=(~upper).astype(np.int32))),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5)

    def test_start_is_stable_two_means(self):
        """From the extremes Lloyd's algorithm moves the border step by step."""
        x = np.array([0.0, 4.0, 5.0, 6.0, 7.0, 20.0], np.float32)
        mixture = fit_gaussian_mixture_1d(x, max_iter=1, reg_covar=1e-3)
        np.testing.assert_allclose(mixture.means, [4.4, 20.0], rtol=1e-3)
        # {0} against the rest is stable, too, but not what the extremes lead to here.
        x = np.array([0.0, 6.0, 9.0, 9.5, 10.0], np.float32)
        mixture = fit_gaussian_mixture_1d(x, max_iter=1, reg_covar=1e-3)
        np.testing.assert_allclose(mixture.means, [0.0, 8.625], rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("value", [-3.0, 0.0, 0.5])
    def test_equal_data_stay_finite(self, value):  # check 10
        x = jnp.full(8, value)
        mixture = fit_gaussian_mixture_1d(x)
        for leaf in (*fields(mixture), gaussian_mixture_posterior(x, mixture)):
            assert np.all(np.isfinite(leaf))

    def test_no_data_stay_finite(self):
        mixture = fit_gaussian_mixture_1d(jnp.arange(8.0), where=jnp.zeros(8, bool))
        assert all(np.all(np.isfinite(field)) for field in fields(mixture))

    def test_vmap_over_sets(self):
        sets = np.stack([two_groups(4), two_groups(5)])
        both = jax.vmap(fit_gaussian_mixture_1d)(sets)
        for i, x in enumerate(sets):
            alone = fit_gaussian_mixture_1d(x)
            np.testing.assert_allclose(both.means[i], alone.means, rtol=1e-5)
            assert both.num_iter[i] == alone.num_iter

    @pytest.mark.parametrize(
        ("x", "options", "message"),
        [
            (np.zeros((2, 2)), {}, "must be a vector"),
            (np.zeros(3), {"where": np.ones(2, bool)}, "where must have the shape"),
            (np.zeros(3), {"init_labels": np.ones(2, bool)}, "init_labels must have the shape"),
            (np.zeros(3), {"max_iter": 0}, "max_iter must be at least 1"),
        ],
    )
    def test_wrong_arguments_are_refused_in_words(self, x, options, message):
        with pytest.raises(ValueError, match=message):
            fit_gaussian_mixture_1d(x, **options)


class TestPosterior:
    def test_hand_computed(self):
        mixture = GaussianMixture1D(
            *(jnp.array(p) for p in ([0.0, 1.0], [0.25, 0.25], [0.75, 0.25])), None, None, None
        )
        posterior = gaussian_mixture_posterior(jnp.array([0.5, 1.0]), mixture)
        odds = np.array([1 / 3, np.exp(2) / 3])
        np.testing.assert_allclose(posterior[:, 1], odds / (1 + odds), rtol=1e-6)
        np.testing.assert_allclose(jnp.sum(posterior, axis=-1), 1, rtol=1e-6)

    @properties
    @given(seed=st.integers(0, 1000))
    def test_rises_between_the_means_and_stays_a_probability(self, seed):  # check 10
        mixture = fit_gaussian_mixture_1d(two_groups(seed))
        grid = jnp.linspace(mixture.means[0], mixture.means[1], 50)
        upper = gaussian_mixture_posterior(grid, mixture)[:, 1]
        assert np.all(np.diff(upper) >= 0)
        far = gaussian_mixture_posterior(jnp.linspace(-1e4, 1e4, 50), mixture)
        assert np.all((far >= 0) & (far <= 1))

    def test_follows_the_dtype_of_the_values(self, x64):
        mixture = fit_gaussian_mixture_1d(two_groups(6).astype(np.float64))
        assert gaussian_mixture_posterior(np.zeros(3, np.float32), mixture).dtype == np.float32


class TestExcessKurtosis:
    def test_equals_scipy(self, x64):
        x = np.random.default_rng(7).exponential(size=50)
        np.testing.assert_allclose(excess_kurtosis(x), scipy.stats.kurtosis(x), rtol=1e-10)

    def test_two_points(self):
        np.testing.assert_allclose(excess_kurtosis(jnp.array([0.0, 0, 1, 1])), -2, rtol=1e-6)

    def test_entries_outside_where_have_no_influence(self):
        x, inside = np.array([0.0, 1, 5, np.nan], np.float32), np.array([True, True, True, False])
        np.testing.assert_allclose(
            excess_kurtosis(x, where=inside), scipy.stats.kurtosis(x[:3]), rtol=1e-5
        )

    def test_equal_data(self):
        assert excess_kurtosis(jnp.full(4, 2.0)) == 0


class TestCleanProbability:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_modes(self, x64, dtype):
        margins = 20 * two_groups(8).astype(dtype) - 7
        scaled = min_max_normalize(margins)
        posterior = gaussian_mixture_posterior(scaled, fit_gaussian_mixture_1d(scaled))[:, 1]
        gmm, minmax = (clean_probability(margins, mode=mode) for mode in ("gmm", "minmax"))
        assert gmm.dtype == minmax.dtype == dtype
        np.testing.assert_allclose(gmm, posterior, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(minmax, scaled)
        # DivideMix on WebVision.
        mixture = fit_gaussian_mixture_1d(scaled, reg_covar=1e-3)
        wider = clean_probability(margins, mode="gmm", reg_covar=1e-3)
        expected = gaussian_mixture_posterior(scaled, mixture)[:, 1]
        np.testing.assert_allclose(wider, expected, rtol=1e-5, atol=1e-7)
        assert np.any(np.abs(wider - gmm) > 1e-3)

    def test_auto_goes_by_the_kurtosis(self):
        two, one = two_groups(9), np.random.default_rng(9).standard_t(3, 200).astype(np.float32)
        assert excess_kurtosis(two) < 1.2 < excess_kurtosis(one)
        auto = functools.partial(clean_probability, mode="auto")
        np.testing.assert_array_equal(auto(two), clean_probability(two, mode="gmm"))
        np.testing.assert_array_equal(auto(one), clean_probability(one, mode="minmax"))
        lenient = auto(one, kurtosis_threshold=100.0)
        np.testing.assert_array_equal(lenient, clean_probability(one, mode="gmm"))

    @pytest.mark.parametrize("mode", ["gmm", "minmax", "auto"])
    def test_under_jit_and_where(self, mode):
        margins = two_groups(10)
        inside = np.random.default_rng(10).random(len(margins)) < 0.6
        margins[~inside] = np.nan
        plain = clean_probability(margins, mode=mode, where=inside)
        compiled = jax.jit(functools.partial(clean_probability, mode=mode))(margins, where=inside)
        np.testing.assert_allclose(compiled, plain, rtol=1e-5, atol=1e-6)
        assert np.all(plain[~inside] == 0)
        assert np.all((plain >= 0) & (plain <= 1)) and np.ptp(plain[inside]) > 0.9

    @pytest.mark.parametrize("mode", ["gmm", "minmax", "auto"])
    @pytest.mark.parametrize("value", [-3.0, 0.0, 2.0])
    def test_equal_margins_select_nothing(self, mode, value):
        prob = clean_probability(jnp.full(8, value), mode=mode)
        assert np.all(np.isfinite(prob)) and not np.any(select_clean(prob))

    def test_unknown_mode_is_refused_in_words(self):
        with pytest.raises(
            ValueError, match=r"mode 'mimax': did you mean 'minmax'.*gmm, minmax, auto"
        ):
            clean_probability(jnp.arange(3.0), mode="mimax")


class TestInfiniteMargins:
    MARGINS = np.array([-np.inf, -2, -1.9, 3, 3.2, 2.9, np.inf], np.float32)

    @pytest.mark.parametrize("mode", ["gmm", "minmax", "auto"])
    def test_a_probability_of_zero_is_certain_and_changes_no_other(self, mode):
        prob = clean_probability(self.MARGINS, mode=mode)
        assert prob[0] == 0 and prob[-1] == 1
        np.testing.assert_allclose(
            prob[1:-1], clean_probability(self.MARGINS[1:-1], mode=mode), rtol=1e-6
        )

    def test_outside_where_nothing_is_probable(self):
        where = np.isfinite(self.MARGINS)
        prob = clean_probability(self.MARGINS, mode="gmm", where=where)
        np.testing.assert_array_equal(prob[~where], 0)


class TestGivenCount:
    RNG = np.random.default_rng(0)
    MARGINS = np.concatenate([RNG.normal(-2, 1, 30), RNG.normal(4, 2, 170)]).astype(np.float32)

    @pytest.mark.parametrize("num_wrong", [1, 30, 80, 199])
    def test_so_many_fall_below_one_half(self, num_wrong):
        prob = np.asarray(clean_probability_given_count(self.MARGINS, num_wrong))
        below = prob < 0.5
        assert below.sum() == num_wrong
        assert self.MARGINS[below].max() < self.MARGINS[~below].min()

    def test_order_is_that_of_the_margins(self):
        margins = np.linspace(-30, 30, 400, dtype=np.float32)
        margins[:40] = np.linspace(-9, -8, 40)  # a narrow group within a wide one
        prob = np.asarray(clean_probability_given_count(margins, 100))[np.argsort(margins)]
        assert (np.diff(prob) >= 0).all()

    def test_hand_computed_between_the_means(self):
        # Two values each: means 0 and 1 after normalising, both variances reg_covar = 5e-4.
        margins = np.array([0, 0, 10, 10, 5.01], np.float32)
        where = np.arange(5) < 4
        prob = clean_probability_given_count(margins, 2, where=where)
        np.testing.assert_array_equal(prob, [0, 0, 1, 1, 0])

    def test_none_and_all(self):
        np.testing.assert_array_equal(clean_probability_given_count(self.MARGINS, 0), 1)
        np.testing.assert_array_equal(clean_probability_given_count(self.MARGINS, 999), 0)

    def test_infinite_margins_count(self):
        margins = np.append(self.MARGINS, [-np.inf, np.inf]).astype(np.float32)
        prob = np.asarray(clean_probability_given_count(margins, 31))
        assert prob[-2] == 0 and prob[-1] == 1
        np.testing.assert_allclose(
            prob[:-2], clean_probability_given_count(self.MARGINS, 30), rtol=1e-5, atol=1e-30
        )

    def test_equal_margins_are_finite(self):
        prob = np.asarray(clean_probability_given_count(np.full(4, 2.0, np.float32), 2))
        assert np.isfinite(prob).all()

    def test_jit(self):
        jitted = jax.jit(clean_probability_given_count)(self.MARGINS, jnp.float32(30))
        plain = clean_probability_given_count(self.MARGINS, 30)
        np.testing.assert_allclose(jitted, plain, rtol=1e-4, atol=1e-7)
