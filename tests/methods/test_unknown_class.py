"""Strategies by uncertainty ask a classifier that knows what was found unknown, or forget it."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs import active_learning_baselines as recipe
from jaxrobust.methods.strategy import NOT_ANNOTATED, AnnotationProblem, QueryContext
from jaxrobust.recipes.methods import STRATEGIES
from jaxrobust.recipes.parse import parse

# Of two known classes and the unknown one: 0 is between the known ones, 1 is surely unknown, and
# without the unknown class as unsure as 0; 2 is between a known and the unknown class.
DETECTOR = np.array([[2.0, 1.8, -5.0], [0.0, 0.0, 9.0], [2.0, -5.0, 1.9], [9.0, 0.0, 0.0]])
TARGET = np.array([[2.0, 1.8], [0.0, 0.0], [2.0, -5.0], [9.0, 0.0]])


def strategy_of(method, variant, **changes):
    config = recipe.get_config(variant)
    config.method = method
    config.update_from_flattened_dict(changes)
    shape = (3,) if variant == "features" else (32, 32, 3)
    return STRATEGIES[method](parse(config), AnnotationProblem(2, shape, jnp.float32, budget=2))


@pytest.mark.parametrize("method", ["lc", "margin", "entropy"])
@pytest.mark.parametrize("is_class", [True, False])
def test_who_is_asked(method, is_class):
    strategy = strategy_of(method, "features", **{"uncertainty.unknown_class": is_class})
    names = [phase.name for phase in strategy.phases]
    assert names == (["target", "detector"] if is_class else ["target"])
    assert strategy.target == "target"
    context = QueryContext(
        predict={"target": jnp.asarray(TARGET), "detector": jnp.asarray(DETECTOR)}.__getitem__,
        observed=lambda name: pytest.fail(name),
        trained=frozenset(names),
        in_pool=np.ones(4, bool),
        annotations=np.full(4, NOT_ANNOTATED, np.int32),
        budget=2,
        round=0,
        precisions=(),
        rng=np.random.default_rng(0),
        jit=lambda name, function: function,
    )
    assert set(strategy.query(context).ids.tolist()) == ({0, 2} if is_class else {0, 1})


@pytest.mark.parametrize("method", ["lc", "badge"])
def test_tables_of_the_papers_have_the_reported_classifier_choose(method):
    assert len(strategy_of(method, "cifar10").phases) == 1
    assert len(strategy_of(method, "features").phases) == 2
