"""What the active-learning task asks of a strategy, as records of pure functions."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from jaxrobust.engine.optim import learning_rate, make_optimizer
from jaxrobust.engine.training import TrainState, init_state, sgd_step
from jaxrobust.losses import masked_mean
from jaxrobust.models import make_network

NOT_ANNOTATED = -1
"""Entry of `annotations` for an image that nobody has been asked about: it is in the pool."""


@dataclasses.dataclass(frozen=True)
class Task:
    """The problem that a strategy is built for.

    Attributes:
      num_classes: known classes K. Annotations are 0..K-1 for them, K for "unknown",
        `NOT_ANNOTATED` for the pool.
      image_shape: (H, W, 3) of a training view.
      dtype: computation dtype of the networks.
      budget: images per query.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    dtype: Any
    budget: int


@dataclasses.dataclass(frozen=True)
class Phase:
    """The training of one network within a round.

    Attributes:
      name: used in metrics, checkpoints and random streams.
      num_epochs: passes over the members.
      batch_size: examples per step.
      members: annotations int32 `[N]` -> ids visited in every epoch. The phase is skipped in a
        round that gives none.
      start: `(key, trained states by phase name) -> TrainState` at the beginning of the phase.
      scalars: epoch -> dict of floats that the step receives as traced scalars.
      step: `(state, images, labels, valid, pool_images, key, scalars) -> (state, metrics)`: images
        `[B, H, W, 3]` augmented and normalised, labels int32 `[B]` annotations (`NOT_ANNOTATED`
        also at padding), valid bool `[B]` False at padding, pool_images `[P, H, W, 3]`.
      forward: `(variables, images) -> pytree of [B, ...]`, what `QueryContext.predict` returns.
      class_probs: `forward`'s result -> class probabilities `[n, K]`, or None if the network does
        not classify.
      pool_batch: number P of random pool images per step.
    """

    name: str
    num_epochs: int
    batch_size: int
    members: Callable[[np.ndarray], np.ndarray]
    start: Callable[[jax.Array, Mapping[str, TrainState]], TrainState]
    scalars: Callable[[int], dict[str, float]]
    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    forward: Callable[[Mapping[str, Any], jax.Array], Any]
    class_probs: Callable[[Any], jax.Array] | None
    pool_batch: int = 0


@dataclasses.dataclass(frozen=True)
class QueryContext:
    """What a strategy may look at when it chooses the next images. No hidden label is in it.

    Attributes:
      predict: phase name -> that network's `forward` on the pool, arrays `[N, ...]` indexed by
        dataset id; rows outside the pool hold zeros.
      trained: phases that were trained in this round.
      in_pool: bool `[N]`.
      annotations: int32 `[N]`.
      budget: images to choose.
      round: counted from 0.
      precisions: query precision of every round so far.
      rng: generator of this round's random choices.
      jit: `(name, function) -> function`, compiled once per run.
    """

    predict: Callable[[str], Any]
    trained: frozenset[str]
    in_pool: np.ndarray
    annotations: np.ndarray
    budget: int
    round: int
    precisions: tuple[float, ...]
    rng: np.random.Generator
    jit: Callable[[str, Callable], Callable]


@dataclasses.dataclass(frozen=True)
class Query:
    """Images to annotate next.

    Attributes:
      ids: int `[b]` dataset ids, in the order of choice.
      scores: columns `[N]` that led to the choice, by name; they go to `queries/round_XX.csv`.
      notes: further numbers of this round for the metrics.
    """

    ids: np.ndarray
    scores: dict[str, np.ndarray]
    notes: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Strategy:
    """One active-learning method.

    Attributes:
      phases: trained in this order in every round, each from `start`.
      target: name of the phase whose `class_probs` give the reported accuracy.
      query: chooses the next images.
      unknown_scores: columns of `Query.scores` that should be high on unknown classes; their AUROC
        over the pool is reported.
    """

    phases: tuple[Phase, ...]
    target: str
    query: Callable[[QueryContext], Query]
    unknown_scores: tuple[str, ...] = ()


def known(annotations: np.ndarray, num_classes: int) -> np.ndarray:
    """Ids of the images annotated with a known class."""
    return np.flatnonzero((annotations >= 0) & (annotations < num_classes))


def annotated(annotations: np.ndarray) -> np.ndarray:
    """Ids of the images that were annotated, with a known class or as unknown."""
    return np.flatnonzero(annotations != NOT_ANNOTATED)


def fresh_start(
    module: nn.Module, optimizer: optax.GradientTransformation, image_shape: tuple[int, int, int]
) -> Callable[[jax.Array, Mapping[str, TrainState]], TrainState]:
    """`Phase.start` of a network that begins from its initialisation in every round."""

    def start(key, trained):
        del trained
        return init_state(key, module, optimizer, image_shape)

    return start


def classifier_phase(
    name: str,
    module: nn.Module,
    optimizer: optax.GradientTransformation,
    task: Task,
    *,
    num_epochs: int,
    batch_size: int,
    rate: Callable[[int], float],
) -> Phase:
    """The K-way cross-entropy classifier on the labelled known images, from scratch each round.

    Every open-set annotation paper reports this network's accuracy.
    """

    def step(state, images, labels, valid, pool_images, key, scalars):
        del pool_images, key

        def loss_fn(params):
            logits, updates = module.apply(
                {"params": params, "batch_stats": state.batch_stats},
                images,
                train=True,
                where=valid,
                mutable=["batch_stats"],
            )
            logits = logits[:, 0]
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
            hits = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
            metrics = {"accuracy": masked_mean(hits, valid)}
            return masked_mean(losses, valid), (updates["batch_stats"], metrics)

        return sgd_step(state, loss_fn, optimizer, scalars["learning_rate"])

    return Phase(
        name=name,
        num_epochs=num_epochs,
        batch_size=batch_size,
        members=lambda annotations: known(annotations, task.num_classes),
        start=fresh_start(module, optimizer, task.image_shape),
        scalars=lambda epoch: {"learning_rate": rate(epoch)},
        step=step,
        forward=lambda variables, images: module.apply(variables, images)[:, 0],
        class_probs=lambda logits: jax.nn.softmax(logits, axis=-1),
    )


def recipe_parts(config: ml_collections.ConfigDict, task: Task):
    """Pieces that every phase of a recipe is built from: network maker, optimiser, rate."""

    def network(num_heads: int, num_classes: int = task.num_classes) -> nn.Module:
        return make_network(
            config.model, num_classes=num_classes, num_heads=num_heads, dtype=task.dtype
        )

    def rate(epoch: int) -> float:
        return learning_rate(config.optimizer, epoch, config.num_epochs)

    return network, make_optimizer(config.optimizer), rate
