"""Active-learning strategies that need only the K-way target classifier."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxrobust.methods.strategy import (
    Query,
    QueryContext,
    Strategy,
    Task,
    classifier_phase,
    recipe_parts,
)


def _target(config: ml_collections.ConfigDict, task: Task):
    network, optimizer, rate = recipe_parts(config, task)
    return classifier_phase(
        "target",
        network(1),
        optimizer,
        task,
        num_epochs=config.num_epochs,
        batch_size=config.batch_size,
        rate=rate,
    )


def random(config: ml_collections.ConfigDict, task: Task) -> Strategy:
    """Uniform draws from the pool without replacement."""

    def query(context: QueryContext) -> Query:
        pool = np.flatnonzero(context.in_pool)
        chosen = context.rng.choice(pool, min(context.budget, pool.size), replace=False)
        return Query(ids=chosen, scores={})

    target = _target(config, task)
    return Strategy(phases=(target,), target=target.name, query=query)


def entropy(config: ml_collections.ConfigDict, task: Task) -> Strategy:
    """The pool images on which the target classifier's softmax has the highest entropy.

    -sum_k p_k log p_k, in nats; ties go to the lower id.
    """

    def score(logits):
        log_probs = jax.nn.log_softmax(logits)
        return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)

    def query(context: QueryContext) -> Query:
        scores = np.asarray(context.jit("entropy/scores", score)(context.predict("target")))
        pool = np.flatnonzero(context.in_pool)
        order = np.argsort(-scores[pool], kind="stable")
        return Query(ids=pool[order[: context.budget]], scores={"entropy": scores})

    target = _target(config, task)
    return Strategy(phases=(target,), target=target.name, query=query, unknown_scores=("entropy",))
