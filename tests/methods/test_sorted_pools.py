"""Pools in the order of class folders: where a strategy cannot tell images apart, chance does."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.methods.strategy import (
    NOT_ANNOTATED,
    AnnotationProblem,
    QueryContext,
    Relabeled,
    in_random_order,
)
from jaxrobust.recipes.methods import STRATEGIES
from jaxrobust.recipes.parse import parse

CLASSES, PER_CLASS, BUDGET = 10, 66, 60
SIZE = CLASSES * PER_CLASS


def query_of_equal_images(method, seed, wrapped=True):
    """Ids that a strategy asks for in a pool of one image 600 times; 60 of ten are annotated."""
    name = method if method in ("bual", "dcfs", "e2oal") else "active_learning_baselines"
    config = importlib.import_module(f"jaxrobust.recipes.{name}").get_config("features")
    config.method = method
    config.probcover.radius = 99.0  # all is covered by the first
    problem = AnnotationProblem(num_classes=4, input_shape=(3,), dtype=jnp.float32, budget=BUDGET)
    strategy = STRATEGIES[method](parse(config), problem)
    trained, outputs = {}, {}
    images = jnp.ones((SIZE, 3))
    for phase in strategy.phases:
        state = trained[phase.name] = phase.start(jax.random.key(0), trained)
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        outputs[phase.name] = phase.forward(variables, images)
    truth = np.arange(SIZE) // PER_CLASS
    is_asked = np.arange(SIZE) % PER_CLASS < 6
    context = QueryContext(
        predict=outputs.__getitem__,
        observed=lambda name: (jax.nn.softmax(outputs[name]), 1),
        trained=frozenset(trained),
        in_pool=~is_asked,
        annotations=np.where(is_asked, np.minimum(truth, 4), NOT_ANNOTATED).astype(np.int32),
        budget=BUDGET,
        round=1,
        precisions=(0.5,),
        rng=np.random.default_rng(seed),
        jit=lambda name, function: jax.jit(function),
        relabeled={"e2oal": Relabeled(np.full(SIZE, NOT_ANNOTATED), {"num_outputs": 5.0})},
    )
    ids = (in_random_order(strategy.query) if wrapped else strategy.query)(context).ids
    assert len(set(ids.tolist())) == BUDGET and not is_asked[ids].any()
    return ids


@pytest.mark.parametrize("method", STRATEGIES)
def test_a_pool_sorted_by_class_is_asked_for_every_class(method):
    """6 of each class are expected; a hypergeometric count above 16 has a chance of 3e-5."""
    ids = query_of_equal_images(method, 0)
    counts = np.bincount(ids // PER_CLASS, minlength=CLASSES)
    assert counts.max() <= 16, counts
    assert (counts > 0).sum() >= 7
    # Within a class neither the first files nor the last are preferred, nor is the order kept.
    assert 24 < np.mean(ids % PER_CLASS) < 48
    assert (np.sort(ids) != ids).any()


def test_without_the_permutation_the_first_folder_has_them_all():
    """What the test above is for: the pure selections promise ties to the lower position."""
    ids = query_of_equal_images("margin", 0, wrapped=False)
    assert np.bincount(ids // PER_CLASS, minlength=CLASSES).tolist() == [60] + [0] * 9
