"""The method that CONTRIBUTING adds is a method."""

import pathlib
import re

import jax.numpy as jnp
import numpy as np

from jaxrobust.methods.active_learning import NOT_ANNOTATED, Problem, QueryContext
from jaxrobust.recipes import active_learning_baselines

ROOT = pathlib.Path(__file__).parents[1]


def test_the_strategy_of_contributing_queries_the_least_evident_images():
    (example,) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S
    )
    namespace = {}
    exec(example, namespace)
    problem = Problem(num_classes=2, input_shape=(8, 8, 3), dtype=jnp.float32, budget=2)
    strategy = namespace["build"](active_learning_baselines.get_config("digits"), problem)
    assert [phase.name for phase in strategy.phases] == [strategy.target]

    logits = jnp.array([[3.0, 0.0], [-5.0, -6.0], [0.0, 1.0], [-1.0, 0.0]])
    context = QueryContext(
        predict={"target": logits}.__getitem__,
        observed=None,
        trained=frozenset({"target"}),
        in_pool=np.array([True, False, True, True]),
        annotations=np.array([NOT_ANNOTATED, 0, NOT_ANNOTATED, NOT_ANNOTATED]),
        budget=problem.budget,
        round=0,
        precisions=(),
        rng=np.random.default_rng(0),
        jit=lambda name, function: function,
    )
    query = strategy.query(context)
    assert query.ids.tolist() == [3, 2]
    np.testing.assert_allclose(query.scores["evidence"], np.logaddexp(*logits.T), rtol=1e-6)
