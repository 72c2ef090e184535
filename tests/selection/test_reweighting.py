import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.metrics import detection_scores
from jaxrobust.selection import detect_noisy_labels, estimate_noise_rate, weights_from_nl_probs

DTYPES = [np.float64, np.float32]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["uniform", "bimodal", "at_threshold", "two"])
def test_weights_golden(load_golden, x64, case, dtype):
    golden, case = load_golden("bldr"), f"weights/{case}"
    probs = golden[case, "nl_probs"].astype(dtype)
    weights = weights_from_nl_probs(probs)
    rate = estimate_noise_rate(probs, threshold=float(golden[case, "threshold"]))
    assert weights.dtype == rate.dtype == dtype
    np.testing.assert_allclose(weights, golden[case, "weights"], atol=1e-6)
    np.testing.assert_allclose(rate, golden[case, "noise_ratio"], atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["case0", "case1", "case2"])
def test_detection_golden(load_golden, x64, case, dtype):
    golden, case = load_golden("bldr"), f"detect/{case}"
    detected = detect_noisy_labels(
        golden[case, "nl_logits"].astype(dtype),
        golden[case, "labels"],
        threshold=float(golden[case, "threshold"]),
    )
    np.testing.assert_array_equal(detected, golden[case, "detected"])
    scores = detection_scores(detected, golden[case, "is_noisy"])
    recorded = [golden[case, name] for name in ("precision", "recall", "f1")]
    np.testing.assert_allclose(scores, recorded, rtol=1e-12)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.floats(0.1, 1.0), st.floats(-1.0, 1.0))
def test_weights(seed, scale, shift):
    probs = jnp.asarray(np.random.default_rng(seed).uniform(size=16), jnp.float32)
    weights = weights_from_nl_probs(probs)
    assert np.all((weights >= 0) & (weights <= 1))
    assert weights[jnp.argmin(probs)] == 0 and weights[jnp.argmax(probs)] == 1
    np.testing.assert_array_equal(np.argsort(weights), np.argsort(probs))
    moved = weights_from_nl_probs(jnp.float32(scale) * probs + jnp.float32(shift))
    np.testing.assert_allclose(moved, weights, atol=1e-4)


def test_equal_probabilities_give_full_weight():
    np.testing.assert_array_equal(jax.jit(weights_from_nl_probs)(jnp.full(4, 0.2)), 1)


def test_thresholds_are_strict():
    assert estimate_noise_rate(jnp.array([0.3, 0.29, 0.9, 0.3])) == 0.25
    assert jax.jit(estimate_noise_rate)(jnp.array([0.3, 0.1], jnp.bfloat16)).dtype == jnp.float32
    logits = jnp.zeros((2, 4))
    labels = jnp.array([0, 3])
    assert not np.any(detect_noisy_labels(logits, labels, threshold=0.25))
    assert np.all(jax.jit(detect_noisy_labels)(logits - 4 * jnp.eye(4)[labels], labels))


def test_errors():
    with pytest.raises(ValueError, match="one entry per row"):
        detect_noisy_labels(jnp.zeros((2, 3)), jnp.zeros(3, jnp.int32))
