import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.losses import dirichlet_log_alpha
from jaxrobust.selection import (
    differential_entropy,
    dirichlet_uncertainties,
    merge_heads,
    vacuity,
)

# On |error| / (1 + |value|). The entropy is computed without the cancellation that the recorded
# limits, 3e-4 and 1e-2 on case3, allow for.
TOLERANCE = {np.float64: 1e-10, np.float32: 5e-6}
# Compiling takes nearly all the time of these tests.
fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
seeded = settings(max_examples=15, deadline=None, derandomize=True)
uncertainties = fast_jit(dirichlet_uncertainties)


def error(actual, expected):
    actual = np.asarray(actual)
    assert actual.shape == expected.shape
    return np.max(np.abs(actual - expected) / (1 + np.abs(expected)), initial=0)


def random_log_alpha(seed, shape=(8, 4), scale=2.0, dtype=np.float32):
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape), dtype)


@functools.partial(fast_jit, static_argnames=("offset", "clip"))
def scores(logits, offset, clip):
    log_alpha = dirichlet_log_alpha(logits, offset=offset, clip=clip)
    total, data, dist = dirichlet_uncertainties(log_alpha)
    merged = merge_heads(log_alpha)
    values = {
        "total_unc": total,
        "data_unc": data,
        "dist_unc": dist,
        "diff_entropy": differential_entropy(log_alpha),
        "prob_mean": merged[2],
    }
    if offset:
        values["vacuity"] = vacuity(log_alpha, offset=offset)
    return values


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", [f"case{i}" for i in range(11)])
def test_goldens(load_golden, x64, case, dtype):
    golden = load_golden("dcfs")
    offset, clip = float(golden[case, "offset"]), float(golden[case, "clip"])
    values = scores(
        golden[case, "logits"].astype(dtype), offset, None if math.isnan(clip) else clip
    )
    if case == "case10":
        assert (case, "diff_entropy") not in golden
        del values["diff_entropy"]
    for name, value in values.items():
        assert value.dtype == dtype
        assert error(value, golden[case, name]) < TOLERANCE[dtype], name
    np.testing.assert_array_equal(np.argmax(values["prob_mean"], axis=-1), golden[case, "pred"])
    relative = np.asarray(values["dist_unc"]) / golden[case, "dist_unc"] - 1
    assert np.max(np.abs(relative)) < {np.float64: 1e-12, np.float32: 3e-5}[dtype]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", [f"sel{i}" for i in range(6)])
def test_golden_merges(load_golden, x64, case, dtype):
    golden = load_golden("dcfs")
    logits = golden[case, "logits"].astype(dtype)

    @fast_jit
    def merges(logits):
        log_alpha = dirichlet_log_alpha(logits)
        return {
            merge: merge_heads(log_alpha, merge=merge) for merge in ("mean_score", "mean_alpha")
        }

    for merge, (data, dist, probs) in merges(logits).items():
        suffix = "_mean_alpha" if merge == "mean_alpha" else ""
        assert data.dtype == dist.dtype == probs.dtype == dtype
        assert error(data, golden[case, f"data_unc{suffix}"]) < TOLERANCE[dtype]
        assert error(dist, golden[case, f"dist_unc{suffix}"]) < TOLERANCE[dtype]
        assert error(probs, golden[case, "prob_mean"]) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("num_classes", "alpha", "data", "dist"),
    [
        (2, 1.0, 0.5, 0.193147),
        (10, 1.0, 1.928968, 0.373617),
        (100, 1.0, 4.187378, 0.417793),
        (100, 0.1, 2.775508, 1.829663),
    ],
)
def test_flat_distributions(num_classes, alpha, data, dist):
    total, *parts = uncertainties(jnp.full((num_classes,), math.log(alpha)))
    np.testing.assert_allclose(parts, [data, dist], atol=2e-6)
    np.testing.assert_allclose(total, math.log(num_classes), rtol=1e-6)
    if alpha == 1:
        harmonic = np.sum(1 / np.arange(1, num_classes + 1))
        np.testing.assert_allclose(parts[0], harmonic - 1, rtol=1e-5)


def test_vanishing_evidence_is_all_distribution_uncertainty():
    """The Dirichlet sits on the corners: alpha -> 0, flat."""
    _, data, dist = uncertainties(jnp.full((4,), -15.0))
    np.testing.assert_allclose(data, 0, atol=3e-6)
    np.testing.assert_allclose(dist, math.log(4), rtol=3e-6)


def test_ample_evidence_leaves_its_asymptotic_value():
    """dist ~ (K - 1) / (2 S), far below what a subtraction in float32 can resolve."""
    log_alpha = jnp.log(jnp.array([5e6, 3e6, 2e6]))
    _, data, dist = uncertainties(log_alpha)
    np.testing.assert_allclose(dist, 2 / (2 * 1e7), rtol=1e-5)
    np.testing.assert_allclose(data, scipy.stats.entropy([0.5, 0.3, 0.2]), rtol=1e-6)


def test_translation_lowers_distribution_uncertainty():
    """Without an offset p stays, with the softmax; only S reacts."""
    shifts = jnp.array([-4.0, -2.0, 0.0, 2.0, 4.0])
    logits = jnp.array([[0.0, 2.0, 0.0, 0.0]]) + shifts[:, None]
    total, _, dist = uncertainties(dirichlet_log_alpha(logits, offset=0))
    np.testing.assert_allclose(total, np.full(5, total[0]), rtol=1e-6)
    assert np.all(np.diff(dist) < 0)


def test_data_uncertainty_is_the_mean_entropy_of_samples():
    alpha = np.array([0.7, 2.0, 5.0])
    samples = np.random.default_rng(0).dirichlet(alpha, 50_000)
    entropy = scipy.stats.entropy(samples, axis=-1)
    _, data, _ = uncertainties(jnp.log(jnp.asarray(alpha, jnp.float32)))
    assert abs(data - entropy.mean()) < 4 * entropy.std() / math.sqrt(entropy.size)


@seeded
@given(st.integers(0, 10_000), st.floats(0.01, 30.0))
def test_properties(seed, scale):
    log_alpha = random_log_alpha(seed, scale=scale)
    total, data, dist = map(np.asarray, uncertainties(log_alpha))
    np.testing.assert_allclose(total, data + dist, atol=1e-6)
    assert np.all(dist >= 0) and np.all(data >= 0)
    assert np.all(data <= total) and np.all(total <= math.log(4) + 1e-6)
    permutation = np.random.default_rng(seed).permutation(4)
    permuted = uncertainties(log_alpha[:, permutation])
    np.testing.assert_allclose(permuted, [total, data, dist], rtol=1e-4, atol=1e-6)


def test_differential_entropy_is_scipys():
    alpha = np.array([[1.0, 1.0, 1.0], [0.3, 4.0, 11.0], [50.0, 60.0, 70.0]])
    expected = [scipy.stats.dirichlet(row).entropy() for row in alpha]
    entropy = jax.jit(differential_entropy)(jnp.log(jnp.asarray(alpha, jnp.float32)))
    np.testing.assert_allclose(entropy, expected, rtol=1e-5)
    assert np.argmax(entropy) == 0


def test_vacuity_by_hand():
    log_alpha = jnp.log(jnp.array([[0.5, 0.5], [0.5, 3.5]]))
    np.testing.assert_allclose(vacuity(log_alpha, offset=0.5), [1, 1 / 4], rtol=1e-6)


def test_merges_by_hand():
    """Two heads, each sure of another class: the mean of alpha takes the conflict for doubt."""
    alpha = jnp.array([[[9.0, 1.0]], [[1.0, 9.0]]])
    log_alpha = jnp.log(alpha)
    _, data, dist = uncertainties(log_alpha)
    _, flat_data, flat_dist = uncertainties(jnp.log(jnp.array([[5.0, 5.0]])))
    expected = {
        "mean_score": (data.mean(0), dist.mean(0)),
        "mean_alpha": (flat_data, flat_dist),
        "head1": (data[0], dist[0]),
    }
    for merge, values in expected.items():
        *merged, probs = fast_jit(functools.partial(merge_heads, merge=merge))(log_alpha)
        np.testing.assert_allclose(merged, values, rtol=1e-5)
        np.testing.assert_allclose(probs, [[0.5, 0.5]], rtol=1e-6)
    assert flat_data > data[0]


def test_vmap_and_half_precision():
    log_alpha = random_log_alpha(0, dtype=jnp.bfloat16)
    rows = fast_jit(jax.vmap(dirichlet_uncertainties))(log_alpha)
    at_once = uncertainties(log_alpha.astype(jnp.float32))
    for row, value in zip(rows, at_once, strict=True):
        assert row.dtype == jnp.float32
        np.testing.assert_allclose(row, value, rtol=1e-5, atol=1e-6)


def test_extreme_evidence_is_finite_with_finite_gradients():
    rows = [[1e4, -1e4, 0, 3], [-1e4] * 4, [1e4] * 4, [1e4, 1e4, -1e4, -1e4], [-50, -43, 44, 88]]
    log_alpha = jnp.array(rows)

    def scores(log_alpha):
        values = [*dirichlet_uncertainties(log_alpha), differential_entropy(log_alpha)]
        return sum(map(jnp.sum, values)), values

    (_, values), gradient = fast_jit(jax.value_and_grad(scores, has_aux=True))(log_alpha)
    assert np.all(np.isfinite(values)) and np.all(np.isfinite(gradient))
    total, _, dist, _ = values
    np.testing.assert_allclose(total, [0, *[math.log(4)] * 2, math.log(2), 0], atol=1e-3)
    np.testing.assert_allclose(dist, [0, math.log(4), 0, 0, 0], atol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: merge_heads(a, merge="mean"), "did you mean 'mean_"),
        (lambda a: merge_heads(a[0]), "two heads"),
        (lambda a: vacuity(a, offset=0.0), "positive offset only"),
        (lambda a: dirichlet_uncertainties(a[..., :1]), "log_alpha must be .* >= 2 classes"),
        (lambda a: differential_entropy(a[..., :1]), "log_alpha must be .* >= 2 classes"),
    ],
)
def test_errors_name_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call(random_log_alpha(0, (2, 3, 4)))
