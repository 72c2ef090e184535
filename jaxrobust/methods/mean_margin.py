"""Labels judged by the logits of a network on its own training examples, averaged over epochs."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from jaxrobust.engine.training import TrainState, init_state, sgd_step
from jaxrobust.losses import masked_mean
from jaxrobust.methods.noisy_label_method import (
    Method,
    NoisyLabelProblem,
    Stage,
    expected_loss,
    network_apply,
    score_labels_by,
    single_head,
    single_network,
)
from jaxrobust.recipes.protocols import NoisyLabels
from jaxrobust.selection import logit_margin


class AveragingState(TrainState):
    """A network, and the sum `[N, C]` of its logits on each training example when visited."""

    logits: jax.Array
    visits: jax.Array  # [N]


def build(recipe: NoisyLabels, problem: NoisyLabelProblem) -> Method:
    """Cross-entropy on the given labels; wrong ones have a low margin on average over the epochs.

    A network learns right labels first and wrong ones late, so that the logits of an example's
    visits, averaged, still say what it resembles:

        m_i = margin of mean_t o_i^(t) at the given label

    Pleiss et al., "Identifying Mislabeled Data using the Area Under the Margin Ranking", NeurIPS
    2020, average the margins instead of the logits, and find the threshold by a class of their own;
    here labels are counted as by DPC.
    """
    module, optimizer, passes = single_network(recipe, problem)
    apply = network_apply(module)

    def start(key):
        network = init_state(key, module, optimizer, problem.input_shape)
        shape = problem.num_examples, problem.num_classes
        parts = {f.name: getattr(network, f.name) for f in dataclasses.fields(network)}
        return AveragingState(**parts, logits=jnp.zeros(shape), visits=jnp.zeros(shape[0]))

    def step(network, peer, batches, key, scalars):
        del peer
        batch = batches["all"]

        def loss_fn(params):
            logits, stats = apply(
                params,
                network.batch_stats,
                batch.views[0],
                train=True,
                key=key,
                where=batch.valid,
            )
            loss = expected_loss(
                optax.softmax_cross_entropy_with_integer_labels,
                logits[:, 0],
                batch.labels,
                batch.targets,
            )
            return masked_mean(batch.weighted(loss), batch.valid), (stats, {})

        network, metrics = sgd_step(network, loss_fn, optimizer, scalars)
        logits, _ = apply(network.params, network.batch_stats, batch.views[0], train=False)
        rows = jnp.where(batch.valid, batch.ids, problem.num_examples)  # dropped at padding
        network = network.replace(
            logits=network.logits.at[rows].add(logits[:, 0], mode="drop"),
            visits=network.visits.at[rows].add(1, mode="drop"),
        )
        return network, metrics

    def score_forward(variables, images, ids):
        del images
        visits = jnp.maximum(variables["visits"][ids], 1)
        return variables["logits"][ids] / visits[:, None]

    return Method(
        networks=("net",),
        start=start,
        stages=(
            Stage("train", {"all": 2 * recipe.batch_size}, ("weak",), step, recipe.last_batch),
        ),
        passes=passes,
        forward=single_head(module),
        class_probs=lambda logits: jax.nn.softmax(jnp.mean(logits, axis=0)),
        score_labels=score_labels_by(
            ("net",),
            logit_margin,
            name="mean_margin",
            mode="gmm",
            threshold=recipe.baseline.threshold,
        ),
        score="mean_margin",
        score_variables=lambda state: {"logits": state.logits, "visits": state.visits},
        score_forward=score_forward,
        soft=True,
    )
