"""What the methods are compared with: cross-entropy, mixup, nearest neighbours, DivideMix."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust.arrays import unit_rows
from jaxrobust.engine.environment import num_cores
from jaxrobust.engine.training import TrainState, init_state, sgd_step
from jaxrobust.errors import UserError
from jaxrobust.losses import masked_mean
from jaxrobust.methods import dpc
from jaxrobust.methods.noisy_label_method import (
    Method,
    NoisyLabelProblem,
    Pass,
    Stage,
    expected_loss,
    network_apply,
    predicted_class,
    score_labels_by,
    single_head,
    single_network,
)
from jaxrobust.recipes.baselines import Baseline
from jaxrobust.recipes.dpc import Dpc, DpcRecipe
from jaxrobust.recipes.protocols import NoisyLabels
from jaxrobust.selection import nearest_neighbors, neighbor_votes

_PRODUCTS_PER_SECOND = 5e10  # multiplications and additions of a core of a CPU
_LONG_SECONDS = 3600.0


def cross_entropy(recipe: NoisyLabels, problem: NoisyLabelProblem) -> Method:
    """One network, softmax cross-entropy on the given labels."""
    return _single(recipe.baseline, recipe, problem, alpha=0.0)


def mixup(recipe: NoisyLabels, problem: NoisyLabelProblem) -> Method:
    """One network on mixed images: l CE(o, y) + (1 - l) CE(o, y of the partner), l ~ Beta(a, a).

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
    """
    options = recipe.baseline
    return _single(options, recipe, problem, alpha=options.mixup_alpha)


def dividemix(recipe: DpcRecipe, problem: NoisyLabelProblem) -> Method:
    """DPC with softmax and cross-entropy, the small-loss score, one head, and DivideMix's rules.

    Losses are divided by a mixture on every data set, WebVision too, and the warm-up's entropy is
    penalised for asymmetric noise alone: the penalty of human labels is DPC's.

    Li, Socher and Hoi, "DivideMix: Learning with Noisy Labels as Semi-supervised Learning", ICLR
    2020.
    """
    options = recipe.dpc
    return dpc.build_with(dividemix_options(options), recipe, problem)


def dividemix_options(dpc: Dpc) -> Dpc:
    """DivideMix in terms of DPC's options."""
    return dataclasses.replace(
        dpc,
        loss="cross_entropy",
        score="loss",
        score_mode="gmm",
        heads=1,
        entropy_penalty="none" if dpc.entropy_penalty == "clamped" else dpc.entropy_penalty,
    )


def knn(recipe: NoisyLabels, problem: NoisyLabelProblem) -> Method:
    """The given labels of the nearest features, by cosine similarity, vote; nothing is trained.

    The single epoch stores every training example in its test view. A training example's own label
    does not count, so its votes are out of sample. `clean_prob` is the share of the votes for the
    given label, and a label is flagged if another one has more votes. All pairs are compared, so
    the time grows as N^2; a warning says when that will take hours.

    Zhu et al., "Detecting Corrupted Labels Without Training a Model to Predict", ICML 2022, section
    3, have the votes of equal weight.
    """
    num_neighbors = recipe.baseline.num_neighbors
    if len(problem.input_shape) != 1:
        raise UserError(
            "method='knn' compares features, not images: start from --config=dpc:features, or "
            "choose another --config.method=."
        )
    if num_neighbors >= problem.num_examples:
        raise UserError(
            f"baseline.num_neighbors={num_neighbors} must be below the number of training examples,"
            f" {problem.num_examples}."
        )
    _warn_of_hours(problem.num_examples, problem.input_shape[0])
    batch_size = 2 * recipe.batch_size

    def start(key):
        del key
        features = jnp.zeros((problem.num_examples, *problem.input_shape), jnp.float16)
        labels = jnp.zeros(problem.num_examples, jnp.int32)
        return TrainState({"features": features, "labels": labels}, {}, {})

    def step(network, peer, batches, key, scalars):
        del peer, key, scalars
        batch, stored = batches["all"], network.params
        rows = jnp.where(batch.valid, batch.ids, problem.num_examples)  # dropped at padding
        features = unit_rows(batch.views[0].astype(jnp.float32)).astype(jnp.float16)
        params = {
            "features": stored["features"].at[rows].set(features, mode="drop"),
            "labels": stored["labels"].at[rows].set(batch.labels, mode="drop"),
        }
        return network.replace(params=params), {"stored": jnp.sum(batch.valid, dtype=jnp.float32)}

    def passes(epoch, label_scores, generator):
        del epoch, label_scores, generator
        return [Pass("store", "net", {"all": np.arange(problem.num_examples)}, {})]

    def forward(variables, images, ids=None):
        stored = variables["params"]
        nearness, neighbors = nearest_neighbors(
            unit_rows(images.astype(jnp.float32)),
            stored["features"],
            num_neighbors=num_neighbors,
            exclude=ids,
        )
        votes = neighbor_votes(
            nearness, stored["labels"][neighbors], num_classes=problem.num_classes
        )
        return jnp.log(votes)

    def score_labels(logits, labels):
        votes = jnp.exp(logits[0])
        agreement = jnp.take_along_axis(votes, labels[:, None], axis=-1)[:, 0]
        suggested = predicted_class(votes)
        return {
            "suggested": suggested,
            "clean_prob": agreement,
            "agreement": agreement,
            "flagged": suggested != labels,
        }

    return Method(
        networks=("net",),
        start=start,
        stages=(Stage("store", {"all": batch_size}, ("test",), step),),
        passes=passes,
        forward=forward,
        class_probs=lambda logits: jax.nn.softmax(logits[0]),
        score_labels=score_labels,
        score="agreement",
        score_forward=forward,
        one_epoch=True,
    )


def _warn_of_hours(num_examples: int, num_dimensions: int) -> None:
    if jax.default_backend() != "cpu":
        return
    speed = _PRODUCTS_PER_SECOND * num_cores()
    seconds = 2 * num_examples**2 * num_dimensions / speed
    if seconds > _LONG_SECONDS:
        warnings.warn(
            f"method='knn' compares every pair of {num_examples:,} examples, which takes about "
            f"{seconds / 3600:.0f} hours on this CPU; take fewer examples, or a method whose time "
            "grows only as their number, such as 'dpc'.",
            stacklevel=2,
        )


def _single(
    options: Baseline, recipe: NoisyLabels, problem: NoisyLabelProblem, *, alpha: float
) -> Method:
    module, optimizer, passes = single_network(recipe, problem)
    apply = network_apply(module)
    networks = ("net",)
    batch_size = 2 * recipe.batch_size

    def step(network, peer, batches, key, scalars):
        del peer
        batch = batches["all"]
        images, mix = batch.views[0], jnp.float32(1)
        given = partners = batch.labels, batch.targets
        valid, partner_weights = batch.valid, batch.weights
        if alpha:
            mix_key, permutation_key = jax.random.split(key)
            mix = jax.random.beta(mix_key, alpha, alpha)
            permutation = jax.random.permutation(permutation_key, batch_size)
            # A partner at padding is none: the example stays as it is.
            permutation = jnp.where(valid[permutation], permutation, jnp.arange(batch_size))
            mixed = mix * images.astype(mix.dtype) + (1 - mix) * images[permutation].astype(
                mix.dtype
            )
            images = mixed.astype(images.dtype)
            partners, partner_weights = jax.tree.map(
                lambda x: x[permutation], (given, batch.weights)
            )

        def loss_fn(params):
            logits, batch_stats = apply(
                params,
                network.batch_stats,
                images,
                train=True,
                key=jax.random.fold_in(key, 2),
                where=valid,
            )
            logits = logits[:, 0]
            own, other = (
                expected_loss(optax.softmax_cross_entropy_with_integer_labels, logits, *labels)
                for labels in (given, partners)
            )
            hits = (jnp.argmax(logits, axis=-1) == batch.labels).astype(jnp.float32)
            metrics = {"label_agreement": masked_mean(hits, valid)}
            if partner_weights is not None:
                own, other = batch.weighted(own), partner_weights * other
            loss = masked_mean(mix * own + (1 - mix) * other, valid)
            return loss, (batch_stats, metrics)

        return sgd_step(network, loss_fn, optimizer, scalars)

    def score(logits, labels):
        return -optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    return Method(
        networks=networks,
        start=lambda key: init_state(key, module, optimizer, problem.input_shape),
        stages=(Stage("train", {"all": batch_size}, ("weak",), step, recipe.last_batch),),
        passes=passes,
        forward=single_head(module),
        class_probs=lambda logits: jax.nn.softmax(jnp.mean(logits, axis=0)),
        score_labels=score_labels_by(
            networks,
            score,
            name="negative_loss",
            mode="gmm",
            threshold=options.threshold,
        ),
        score="negative_loss",
        soft=True,
    )
