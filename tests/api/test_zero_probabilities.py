"""Logarithms of probabilities of exactly zero are logits too: what they give is the limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses, selection

PROBS = np.array([[0.0, 0.7, 0.3], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5]], np.float32)
ZERO = jnp.log(PROBS)
NEARLY = jnp.log(np.maximum(PROBS, 1e-30))
FUNCTIONS = {
    "consistency_kl": lambda z: losses.consistency_kl(z, z),
    "strong_view_consistency": lambda z: losses.strong_view_consistency(z, z, 0),
    "evidential_kl": lambda z: losses.evidential_kl(z, jnp.array([1, 0, 2]), jnp.float32(3)),
    "gradient of evidential_kl": jax.grad(
        lambda z: losses.evidential_kl(z, jnp.array([1, 0, 2])).sum()
    ),
    "negative_entropy": lambda z: losses.negative_entropy(z, 0),
    "gradient of negative_entropy": jax.grad(lambda z: losses.negative_entropy(z, 0).sum()),
    "gradient of evidential_nll": jax.grad(
        lambda z: losses.evidential_nll(z, jnp.array([1, 0, 2]), 0).sum()
    ),
    "soft_target_kl": lambda z: losses.soft_target_kl(z, z),
    "calibrated_softmax": losses.calibrated_softmax,
    "dirichlet_uncertainties": selection.dirichlet_uncertainties,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_zero_is_the_limit_of_small_probabilities(name):
    function = jax.jit(FUNCTIONS[name])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        function(ZERO),
        function(NEARLY),
    )


def test_one_impossible_label_does_not_spoil_the_others():
    labels = jnp.array([0, 0, 2])  # impossible, certain, likely
    margins = selection.logit_margin(ZERO, labels)
    np.testing.assert_array_equal(margins[:2], [-np.inf, np.inf])
    many = jnp.concatenate([margins, jnp.linspace(-3, 3, 20)])
    scaled = jax.jit(selection.min_max_normalize)(many)
    np.testing.assert_array_equal(scaled[:2], [0, 1])
    np.testing.assert_allclose(scaled[2:], selection.min_max_normalize(many[2:]), rtol=1e-6)
    kept = jnp.arange(len(many)) != 5
    masked = selection.min_max_normalize(many, where=kept)
    np.testing.assert_allclose(masked[kept], scaled[kept], rtol=1e-6)


def test_nothing_but_infinite_margins():
    scaled = selection.min_max_normalize(jnp.array([-jnp.inf, jnp.inf, -jnp.inf]))
    np.testing.assert_array_equal(scaled, [0, 1, 0])
