"""Pure functions cannot look at labels under jit; what others give is what the docstrings say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses, selection

LOGITS = jnp.array([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]])
ROWS = jnp.full((2, 3), 0.1)
LABELS = [np.array([12, 3]), np.array([-1, -2])]

# Function of labels -> what it gives.
CASES = {
    "evidential_nll": (lambda y: losses.evidential_nll(LOGITS, y), 0),
    "logit_margin": (lambda y: selection.logit_margin(LOGITS, y), [-2, -3]),
    "positive_learning_loss": (
        lambda y: losses.positive_learning_loss(LOGITS, y, ROWS, ROWS)[0],
        0,
    ),
    "complementary_label_mask": (
        lambda y: losses.complementary_label_mask(y, LOGITS, mode="all_but_label"),
        1,
    ),
    "negative_learning_loss": (lambda y: losses.negative_learning_loss(LOGITS, y), 0),
    "detect_noisy_labels": (lambda y: selection.detect_noisy_labels(LOGITS, y), True),
    "edl_nll": (lambda y: losses.edl_nll(losses.dirichlet_log_alpha(LOGITS), y), 0),
    "energy_margin_loss": (
        lambda y: (
            losses.energy_margin_loss(LOGITS, y)
            - losses.energy_margin_loss(LOGITS, jnp.array([0, 1]))
        ),
        0,
    ),
    "confident_joint": (lambda y: selection.confident_joint(jax.nn.softmax(LOGITS), y), 0),
}


@pytest.mark.parametrize("labels", LABELS, ids=["above", "below"])
@pytest.mark.parametrize("name", CASES)
def test_as_the_docstring_says(name, labels):
    function, wanted = CASES[name]
    found = jax.jit(function)(labels)
    np.testing.assert_array_equal(found, np.broadcast_to(wanted, found.shape))


@pytest.mark.parametrize("labels", LABELS, ids=["above", "below"])
def test_the_divergence_counts_every_class_as_wrong(labels):
    gradient = jax.grad(lambda o: losses.evidential_kl(o, labels).sum())(LOGITS)
    assert (np.asarray(gradient) != 0).all()
    of_a_class = jax.grad(lambda o: losses.evidential_kl(o, jnp.array([0, 1])).sum())(LOGITS)
    np.testing.assert_array_equal(of_a_class == 0, np.eye(3, dtype=bool)[:2])
