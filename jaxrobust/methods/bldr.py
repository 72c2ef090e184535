"""BLDR: noise-robust bidirectional learning with dynamic sample reweighting.

Zong et al., arXiv 2209.01334, as the authors' code runs it; only the paper's abstract is known.

One ResNet carries a positive head ("this image is class y"), a negative head ("this image is not
class k") and early exits. Step, on a weak and a strong view of every example:
  1. pass A on all views together, then pass B on the weak ones again, both in training mode;
  2. complementary labels: every class but the given one and the negative head's top class;
  3. `bldr_loss`: both heads and the exits learn from pass A, the exits from both heads in pass B;
  4. SGD on the network, plain SGD on the rows of the tables u and v, in which every example keeps
     what sparse over-parameterisation (SOP+) takes its label to be wrong by;
  5. the negative head's probability of the given label (pass B) is kept for every example.
Epoch, once the warm-up is over: these probabilities, scaled to [0, 1], become the weights of the
examples, and the share below 0.3 the noise rate. Then the average of the parameters moves; it is
tested, by the sum of both heads' probabilities. A label whose probability under the negative head
is below 0.05 is called wrong.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust.arrays import at_least_float32
from jaxrobust.engine.optim import learning_rate, make_optimizer
from jaxrobust.engine.sharding import join_batches, part_batches
from jaxrobust.engine.training import TrainState, descend, init_state
from jaxrobust.errors import UserError
from jaxrobust.losses import bldr_loss, complementary_label_mask, masked_mean
from jaxrobust.methods.noisy_label_method import (
    Apply,
    Batch,
    Method,
    NoisyLabelProblem,
    Pass,
    Stage,
    current_variables,
    network_apply,
    predicted_class,
)
from jaxrobust.models import make_multi_exit
from jaxrobust.recipes.bldr import Bldr, BldrRecipe
from jaxrobust.selection import detect_noisy_labels, estimate_noise_rate, weights_from_nl_probs

log = logging.getLogger("jaxrobust")

POSITIVE, NEGATIVE = 0, 1
DETECTION_VIEWS = {"weak": "weak", "clean": "test"}
_INITIAL_NOISE_SCALE = 1e-8  # of u and v


class BldrState(TrainState):
    """A network and what it keeps of each of the N training examples.

    All of it is replicated on every device: a step gathers and scatters rows all over the tables,
    which for 50,000 examples of 100 classes are 20 MB.
    """

    ema: Any  # average of the parameters over the epochs, or `{}`
    # `[N, 1]`, root of the noise on the given label. `[N, C]`, as in the authors' code, gives the
    # same numbers.
    u: jax.Array
    v: jax.Array  # `[N, C]`, root of the noise on the other classes
    weights: jax.Array  # `[N]`, of the examples in this epoch
    # `[N]`, the negative head's probability of the given label when last visited
    nl_probs: jax.Array
    noise_rate: jax.Array  # scalar, estimated share of wrong labels


def bldr_step(
    state: BldrState,
    batch: Batch,
    key: jax.Array,
    scalars: dict[str, jax.Array],
    *,
    apply: Apply,
    optimizer: optax.GradientTransformation,
    loss: Callable[..., tuple[jax.Array, dict[str, jax.Array]]] = bldr_loss,
    complementary: str = "all_but_label_and_top",
    num_complementary: int = 1,
    learning_rate_u: float = 10.0,
    learning_rate_v: float = 10.0,
    clip_tables: bool = False,
) -> tuple[BldrState, dict[str, jax.Array]]:
    """One step on B examples. BatchNorm's averages move twice, by pass A and then by pass B.

    Args:
      batch: examples with a weak and a strong view.
      key: for complementary labels that are drawn, and for dropout.
      apply: the network, as in `network_apply`; its output as that of `MultiExit`.
      optimizer: gives descent directions, without the rate, `scalars["learning_rate"]`.
      loss: `bldr_loss`, with its options set.
      complementary, num_complementary: of `complementary_label_mask`.
      learning_rate_u, learning_rate_v: of the tables. The losses are means over the batch.
      clip_tables: keep both tables in [-1, 1], beyond which an entry gets no gradient any more.
    """
    weak, strong = batch.views
    rows, labels, valid = batch.ids, batch.labels, batch.valid
    given = labels if batch.targets is None else batch.targets
    weights = batch.weighted(state.weights[rows])

    def loss_fn(params, u_rows, v_rows):
        (logits, _), stats = apply(
            params,
            state.batch_stats,
            join_batches((weak, strong)),
            train=True,
            key=jax.random.fold_in(key, 1),
            where=join_batches((valid, valid)),
        )
        logits_weak, logits_strong = part_batches(logits, 2)
        (again, features), stats = apply(
            params, stats, weak, train=True, key=jax.random.fold_in(key, 2), where=valid
        )
        nl_again = again[:, NEGATIVE]
        mask = complementary_label_mask(
            given,
            jax.lax.stop_gradient(nl_again),
            mode=complementary,
            key=key,
            num_complementary=num_complementary,
        )
        total, parts = loss(
            logits_weak,
            logits_strong,
            again,
            features,
            given,
            mask,
            u_rows,
            v_rows,
            weights,
            state.noise_rate,
            where=valid,
        )
        return total, (stats, parts, again)

    gradient = jax.value_and_grad(loss_fn, argnums=(0, 1, 2), has_aux=True)
    (total, (batch_stats, parts, again)), (grads, u_grads, v_grads) = gradient(
        state.params, state.u[rows], state.v[rows]
    )
    u = sop_sgd_update(state.u, rows, u_grads, learning_rate=learning_rate_u)
    v = sop_sgd_update(state.v, rows, v_grads, learning_rate=learning_rate_v)
    if clip_tables:
        u, v = jnp.clip(u, -1, 1), jnp.clip(v, -1, 1)
    kept = jnp.where(valid, rows, len(state.nl_probs))  # out of range at padding: dropped
    nl_probs = state.nl_probs.at[kept].set(_label_probs(again[:, NEGATIVE], given), mode="drop")
    metrics = {
        "loss": total,
        **parts,
        "noise_rate": state.noise_rate,
        "mean_weight": masked_mean(weights, valid),
    }
    for name, head in (("pl", POSITIVE), ("nl", NEGATIVE)):
        hits = (jnp.argmax(again[:, head], axis=-1) == labels).astype(total.dtype)
        metrics[f"label_agreement_{name}"] = masked_mean(hits, valid)
    state = descend(state, grads, optimizer, scalars)
    return state.replace(batch_stats=batch_stats, u=u, v=v, nl_probs=nl_probs), metrics


def sop_sgd_update(
    table: jax.Array, indices: jax.Array, row_grads: jax.Array, *, learning_rate: float = 10.0
) -> jax.Array:
    """Plain gradient step on the batch's rows of a per-example table (u or v).

    `table[indices] -= learning_rate * row_grads`; the gradients of a repeated index add up, so
    padded rows, whose gradient is zero, do no harm. No momentum and no decay: this equals a dense
    step on the whole table. The losses are batch means: scale the rate with the batch size (10
    belongs to 256). Liu et al., ICML 2022; Zong et al., arXiv 2209.01334 (authors' code).
    """
    return table.at[indices].add((-learning_rate * row_grads).astype(table.dtype))


def ema_decay(epoch: jax.typing.ArrayLike) -> jax.Array:
    """Decay of the parameter average after one epoch: `min(0.9, (1 + epoch) / (10 + epoch))`.

    Epochs count from 0, after which the method copies the parameters instead; 2/11 at epoch 1,
    exactly 0.9 from epoch 80 on. Zong et al., arXiv 2209.01334 (authors' code).
    """
    epoch = at_least_float32(epoch)
    return jnp.minimum(0.9, (1.0 + epoch) / (10.0 + epoch))


def end_epoch(
    state: BldrState,
    epoch: jax.Array | int,
    *,
    warm_up: int = 20,
    reweighting: bool = True,
    estimate_noise: bool = True,
    noise_threshold: float = 0.3,
) -> BldrState:
    """Weights and noise rate for the next epoch, and the average of the parameters.

    Weights (`reweighting`) and noise rate (`estimate_noise`) change after epoch `warm_up`, the
    first being 0.
    """
    started = epoch >= warm_up
    weights, noise_rate = state.weights, state.noise_rate
    if reweighting:
        weights = jnp.where(started, weights_from_nl_probs(state.nl_probs), weights)
    if estimate_noise:
        estimated = estimate_noise_rate(state.nl_probs, threshold=noise_threshold)
        noise_rate = jnp.where(started, estimated, noise_rate)
    ema = state.ema
    if ema:
        # Epoch 0 copies the parameters. Called the other way round, with the step 1 - decay, the
        # average would be weighted by 1 - (1 - decay), which is rounded.
        decay = jnp.where(epoch == 0, 0, ema_decay(epoch))
        ema = optax.incremental_update(ema, state.params, decay)
    return state.replace(weights=weights, noise_rate=noise_rate, ema=ema)


def table_learning_rates(bldr: Bldr, batch_size: int) -> tuple[float, float]:
    """Rates of u and v for batches of `batch_size`: `rate * batch_size / tables_batch_size`.

    The losses are means over the batch, so that in a smaller one the gradient of an example's rows
    is larger. Scaled, the rows move as far per visit as with `tables_batch_size`.
    """
    scale = batch_size / bldr.tables_batch_size
    return scale * bldr.learning_rate_u, scale * bldr.learning_rate_v


def build(recipe: BldrRecipe, problem: NoisyLabelProblem) -> Method:
    """BLDR as a method of the noisy-label task."""
    bldr = recipe.bldr
    schedule, model = recipe.optimizer, recipe.model
    optimizer = make_optimizer(schedule)
    module = make_multi_exit(
        **model.architecture,
        init=model.init,
        num_classes=problem.num_classes,
        exits=bldr.self_distillation,
        dtype=problem.dtype,
        norm_parts=problem.norm_parts,
    )
    if bldr.num_complementary >= problem.num_classes:
        raise UserError(
            f"bldr.num_complementary={bldr.num_complementary} must be below the number of "
            f"classes, {problem.num_classes}."
        )
    loss_options = (
        "positive",
        "negative",
        "noise_terms",
        "reg_weight",
        "reg_power",
        "balance_weight",
        "consistency_weight",
        "distillation_weight",
        "temperature",
        "hint_weight",
        "head_agreement_weight",
    )
    learning_rate_u, learning_rate_v = table_learning_rates(bldr, recipe.batch_size)
    train_step = functools.partial(
        bldr_step,
        apply=network_apply(module),
        optimizer=optimizer,
        loss=functools.partial(bldr_loss, **{name: getattr(bldr, name) for name in loss_options}),
        complementary=bldr.complementary,
        num_complementary=bldr.num_complementary,
        learning_rate_u=learning_rate_u,
        learning_rate_v=learning_rate_v,
        clip_tables=bldr.clip_tables,
    )

    def start(key):
        network_key, u_key, v_key = jax.random.split(key, 3)
        network = init_state(network_key, module, optimizer, problem.input_shape)
        size = problem.num_examples
        return BldrState(
            params=network.params,
            batch_stats=network.batch_stats,
            opt_state=network.opt_state,
            ema=jax.tree.map(jnp.zeros_like, network.params) if bldr.ema else {},
            u=_INITIAL_NOISE_SCALE * jax.random.normal(u_key, (size, 1)),
            v=_INITIAL_NOISE_SCALE * jax.random.normal(v_key, (size, problem.num_classes)),
            weights=jnp.ones(size),
            nl_probs=jnp.ones(size),
            noise_rate=jnp.float32(bldr.noise_rate),
        )

    def step(network, peer, batches, key, scalars):
        del peer
        return train_step(network, batches["all"], key, scalars)

    def passes(epoch, label_scores, generator):
        if bldr.reweighting and epoch == bldr.warm_up + 1:  # the first epoch with weights
            found = np.unique(label_scores.get("prediction_nl", label_scores["suggested"])).size
            if found < problem.num_classes:
                log.warning(
                    "The negative head predicts only %d of %d classes at the end of the "
                    "warm-up, and correct labels of the others now lose their weight: raise "
                    "--config.bldr.warm_up=, or lower --config.batch_size= for more steps.",
                    found,
                    problem.num_classes,
                )
        ids = {"all": generator("net/order").permutation(problem.num_examples)}
        rate = learning_rate(schedule, epoch, recipe.num_epochs)
        return [Pass("train", "net", ids, {"learning_rate": rate})]

    learning = {"pl": (POSITIVE, bldr.positive), "nl": (NEGATIVE, bldr.negative)}
    heads = {name: head for name, (head, learns) in learning.items() if learns}

    def forward(variables, images):
        logits, _ = module.apply(variables, images)
        return logits[:, jnp.array(list(heads.values()))]

    test_variables = _averaged if bldr.ema else current_variables
    return Method(
        networks=("net",),
        start=start,
        stages=(
            Stage("train", {"all": recipe.batch_size}, ("weak", "strong"), step, recipe.last_batch),
        ),
        passes=passes,
        forward=forward,
        class_probs=two_head_probs,
        score_labels=functools.partial(_score_labels, tuple(heads), bldr.detection_threshold),
        score=f"{tuple(heads)[-1]}_prob",
        score_threshold=lambda scores: bldr.detection_threshold,
        heads=tuple(heads),
        end_epoch=functools.partial(
            end_epoch,
            warm_up=bldr.warm_up,
            reweighting=bldr.reweighting,
            estimate_noise=bldr.estimate_noise,
            noise_threshold=bldr.noise_threshold,
        ),
        test_variables=test_variables,
        score_variables=test_variables if bldr.detection_params == "ema" else current_variables,
        score_view=DETECTION_VIEWS[bldr.detection_view],
        soft=True,
    )


def two_head_probs(logits: jax.Array) -> jax.Array:
    """Mean of the heads' softmaxes `[n, C]`, of their logits `[M, n, C]`."""
    return jnp.mean(jax.nn.softmax(logits), axis=0)


def _score_labels(
    heads: tuple[str, ...], threshold: float, logits: jax.Array, labels: jax.Array
) -> dict[str, jax.Array]:
    """`Method.score_labels`: the negative head judges, or the positive one where it is alone.

    `clean_prob` is the weight that its probabilities of the given labels amount to.
    """
    probs = _label_probs(logits[-1], labels)
    label_scores = {
        "suggested": predicted_class(two_head_probs(logits)),
        "clean_prob": weights_from_nl_probs(probs),
        f"{heads[-1]}_prob": probs,
        "flagged": detect_noisy_labels(logits[-1], labels, threshold=threshold),
    }
    if len(heads) > 1:
        for name, each in zip(heads, logits, strict=True):
            label_scores[f"prediction_{name}"] = predicted_class(each)
    return label_scores


def _label_probs(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Probability `[B]` of the given labels, of soft ones `[B, C]` its mean over them."""
    if labels.ndim == logits.ndim:
        return jnp.sum(labels * jax.nn.softmax(logits), axis=-1)
    return jnp.take_along_axis(jax.nn.softmax(logits), labels[:, None], axis=-1)[:, 0]


def _averaged(state: BldrState) -> dict[str, Any]:
    """Averaged parameters, with the current averages of BatchNorm."""
    return {"params": state.ema, "batch_stats": state.batch_stats}
