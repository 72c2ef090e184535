"""Views of features: which is taken, and what is done to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.data.feature_views import FeatureViews

RAW = np.random.default_rng(0).normal(3, 2, (64, 3, 4)).astype(np.float16)
STATISTICS = {"mean": np.float32([3, 2, 1, 0]), "std": np.float32([1, 2, 4, 8])}
KEY = jax.random.key(5)


def _normalized():
    return (RAW.astype(np.float32) - STATISTICS["mean"]) / STATISTICS["std"]


def test_the_first_view_is_tested_and_any_is_trained_on():
    views = FeatureViews(dtype=jnp.float32)
    expected = _normalized()
    np.testing.assert_allclose(views("test", KEY, RAW, STATISTICS), expected[:, 0], rtol=1e-6)
    mean = FeatureViews(dtype=jnp.float32, test="mean")("test", KEY, RAW, STATISTICS)
    np.testing.assert_allclose(mean, expected.mean(axis=1), rtol=1e-5, atol=1e-6)
    for kind in ("weak", "strong"):
        seen = np.asarray(jax.jit(views, static_argnums=0)(kind, KEY, jnp.asarray(RAW), STATISTICS))
        near = np.abs(seen[:, None] - expected).max(axis=2) < 1e-5
        assert near.any(axis=1).all()
        # Each of three views in about a third of 64 rows; fewer than 8 would be four deviations.
        assert (near.sum(axis=0) >= 8).all()
    other = views("weak", jax.random.key(6), RAW, STATISTICS)
    assert not np.array_equal(other, views("weak", KEY, RAW, STATISTICS))


def test_noise_and_dropout():
    plain = np.asarray(FeatureViews(jnp.float32)("weak", KEY, RAW, STATISTICS))
    noisy = np.asarray(FeatureViews(jnp.float32, noise=0.1)("weak", KEY, RAW, STATISTICS))
    # The deviation of 256 draws has one of its own of 4.4 %.
    assert 0.08 < np.std(noisy - plain) < 0.12
    dropped = np.asarray(FeatureViews(jnp.float32, dropout=0.5)("strong", KEY, RAW, STATISTICS))
    kept = dropped != 0
    assert 0.3 < kept.mean() < 0.7
    np.testing.assert_allclose(dropped[kept], 2 * plain[kept], rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtype_and_shared_statistics(dtype):
    shared = {"mean": np.float32([3]), "std": np.float32([2])}
    seen = FeatureViews(dtype)("test", KEY, RAW, shared)
    assert seen.dtype == dtype and seen.shape == (64, 4)
