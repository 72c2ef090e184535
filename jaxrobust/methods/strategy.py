"""The interface between the active-learning task and a strategy, as records of pure functions."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust.engine.optim import learning_rate, make_optimizer
from jaxrobust.engine.training import TrainState, init_state, sgd_step
from jaxrobust.losses import masked_mean
from jaxrobust.models import make_network
from jaxrobust.recipes.protocols import ActiveLearning

NOT_ANNOTATED = -1
"""Entry of `annotations` for an image that nobody has been asked about: it is in the pool."""

NO_EXAMPLE = -2
"""Entry of `annotations` in the rows beyond the examples, which sets of about one size share."""


@dataclasses.dataclass(frozen=True)
class AnnotationProblem:
    """The problem that a strategy is built for.

    Attributes:
      num_classes: known classes K. Annotations are 0..K-1 for them, K for "unknown",
        `NOT_ANNOTATED` for the pool.
      input_shape: (H, W, 3) of a training view.
      dtype: computation dtype of the networks.
      budget: images per query.
      truth: int32 `[N]`, the hidden annotations, only for options that reproduce a published leak;
        None if unknown.
      inputs: returns all raw examples in the order of their ids: images uint8 `[N, H, W, 3]`, or
        features float32 `[N, D]`. None if nothing is trained.
      norm_parts: number of parts of a training batch for BatchNorm; see `models.layers.Network`.
    """

    num_classes: int
    input_shape: tuple[int, ...]
    dtype: Any
    budget: int
    truth: np.ndarray | None = dataclasses.field(default=None, compare=False)
    norm_parts: int = 1
    inputs: Callable[[], np.ndarray] | None = dataclasses.field(default=None, compare=False)


class Relabeled(NamedTuple):
    """The labels that a phase learns in a round instead of the annotations.

    Attributes:
      labels: int32 `[N]`, `NOT_ANNOTATED` for the same examples as in `annotations`.
      scalars: numbers that the step receives in addition to `Phase.scalars`.
    """

    labels: np.ndarray
    scalars: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Observation:
    """Evaluations of the pool during a phase, summed for the query.

    Attributes:
      first: first epoch before which the pool is evaluated.
      every: number of epochs between evaluations.
      measure: the phase's `forward` result -> floats `[n, ...]` to sum.
      verdict: the outcome of the evaluations so far, as an integer: the phase ends when `patience`
        consecutive verdicts equal the one before them (0 before the first). None for phases that
        never end early.
      patience: see `verdict`.
    """

    first: int
    every: int
    measure: Callable[[Any], jax.Array]
    verdict: "Callable[[QueryContext], int] | None" = None
    patience: int = 5

    def due(self, epoch: int) -> bool:
        """Whether the pool is evaluated before `epoch`."""
        return epoch >= self.first and (epoch - self.first) % self.every == 0

    def settled(self, verdicts: Sequence[int]) -> bool:
        """Whether the phase ends after these verdicts."""
        last = [0, *verdicts][-self.patience - 1 :]
        return len(last) == self.patience + 1 and len(set(last)) == 1


@dataclasses.dataclass(frozen=True)
class Phase:
    """The training of one network within a round.

    Attributes:
      name: used in metrics, checkpoints and random streams.
      num_epochs: passes over the members.
      batch_size: examples per step.
      members: `QueryContext` at the beginning of the phase -> ids visited in every epoch. The phase
        is skipped in a round without members.
      relabel: `QueryContext` as for `members` -> `Relabeled`, which may depend only on the
        annotations, since a resumed run calls it again. None if the step sees the annotations.
      start: `(key, trained states by phase name) -> TrainState` at the beginning of the phase.
      scalars: epoch -> dict of floats that the step receives as traced scalars.
      step: `(state, images, labels, valid, pool_images, key, scalars) -> (state, metrics)`: images
        `[B, H, W, 3]` augmented and normalised, labels int32 `[B]` annotations (`NOT_ANNOTATED`
        also at padding), valid bool `[B]` False at padding, pool_images `[P, H, W, 3]`.
      forward: `(variables, images) -> pytree of [B, ...]`, what `QueryContext.predict` returns.
      class_probs: `forward`'s result -> class probabilities `[n, K]`, whose accuracy is reported.
        None for a network that only serves queries: it is not trained in the last round, which has
        no query.
      is_fresh: whether the network starts from `model.backbone`, if there is one; False if it
        starts from another network of the round.
      pool_batch: number P of random pool images per step.
      observation: evaluations of the pool between epochs, if any.
    """

    name: str
    num_epochs: int
    batch_size: int
    members: "Callable[[QueryContext], np.ndarray]"
    start: Callable[[jax.Array, Mapping[str, TrainState]], TrainState]
    scalars: Callable[[int], dict[str, float]]
    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    forward: Callable[[Mapping[str, Any], jax.Array], Any]
    class_probs: Callable[[Any], jax.Array] | None
    is_fresh: bool = True
    pool_batch: int = 0
    observation: Observation | None = None
    relabel: "Callable[[QueryContext], Relabeled] | None" = None


@dataclasses.dataclass(frozen=True)
class QueryContext:
    """The information available to a strategy in a round, without hidden labels.

    Attributes:
      predict: phase name -> the result of that network's `forward` on every training image, arrays
        `[N, ...]` indexed by dataset id.
      observed: phase name -> mean of its `Observation.measure` over the evaluations of this round
        so far, `[N, ...]`, zeros outside the pool; and the number of evaluations.
      trained: phases that were trained in this round.
      in_pool: bool `[N]`.
      annotations: int32 `[N]`; `NO_EXAMPLE` in padded rows of features, which are not in the pool
        and have outputs of zero.
      budget: number of images to choose.
      round: number of the round, from 0.
      precisions: query precision of every round so far.
      rng: generator of this round's random choices.
      jit: `(name, function) -> function`, compiled once per run.
      relabeled: phase name -> result of `Phase.relabel` in this round, for phases that have it.
    """

    predict: Callable[[str], Any]
    observed: Callable[[str], tuple[jax.Array, int]]
    trained: frozenset[str]
    in_pool: np.ndarray
    annotations: np.ndarray
    budget: int
    round: int
    precisions: tuple[float, ...]
    rng: np.random.Generator
    jit: Callable[[str, Callable], Callable]
    relabeled: Mapping[str, Relabeled] = dataclasses.field(default_factory=dict)


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
      phases: phases, trained in this order in every round, each from `start`.
      target: name of the phase whose `class_probs` give the reported accuracy.
      query: function that chooses the next images.
      unknown_scores: columns of `Query.scores` whose AUROC for unknown classes over the pool is
        reported: below 0.5, they are lower on unknown than on known images.
      detector: name of the phase whose network has a separate class K for unknown images; its
        `forward` returns logits `[N, K+1]`, alone or as `"logits"`. "" for none.
      unknown_probs: `(forward's result, scalars of Relabeled) -> float [N]`, the probability of
        being unknown, if the detector's network has no such class.
    """

    phases: tuple[Phase, ...]
    target: str
    query: Callable[[QueryContext], Query]
    unknown_scores: tuple[str, ...] = ()
    detector: str = ""
    unknown_probs: Callable[[Any, dict[str, float]], jax.Array] | None = None


def in_random_order(query: Callable[[QueryContext], Query]) -> Callable[[QueryContext], Query]:
    """`Strategy.query` with permuted ids, so that ties do not favour the first class folders.

    Scores are those of the examples alone.
    """

    def permuted(context: QueryContext) -> Query:
        count = int(np.sum(context.annotations != NO_EXAMPLE))
        order = np.arange(len(context.in_pool))
        order[:count] = context.rng.permutation(count)

        def take(name, outputs):
            return context.jit(f"query/{name}", _rows)(outputs, order)

        def observed(name: str) -> tuple[jax.Array, int]:
            mean, count = context.observed(name)
            return take(f"observed/{name}", mean), count

        seen = dataclasses.replace(
            context,
            predict=lambda name: take(name, context.predict(name)),
            observed=observed,
            in_pool=context.in_pool[order],
            annotations=context.annotations[order],
            relabeled={
                name: given._replace(labels=given.labels[order])
                for name, given in context.relabeled.items()
            },
        )
        found = query(seen)
        back = np.argsort(order[:count])
        scores = {name: np.asarray(column)[back] for name, column in found.scores.items()}
        return dataclasses.replace(found, ids=order[found.ids], scores=scores)

    return permuted


def _rows(outputs: Any, ids: jax.Array) -> Any:
    return jax.tree.map(lambda x: x[ids], outputs)


def known(annotations: np.ndarray, num_classes: int) -> np.ndarray:
    """Ids of the images annotated with a known class."""
    return np.flatnonzero((annotations >= 0) & (annotations < num_classes))


def annotated(annotations: np.ndarray) -> np.ndarray:
    """Ids of the images that were annotated, with a known class or as unknown."""
    return np.flatnonzero(annotations >= 0)


def fresh_start(
    module: nn.Module, optimizer: optax.GradientTransformation, input_shape: tuple[int, ...]
) -> Callable[[jax.Array, Mapping[str, TrainState]], TrainState]:
    """`Phase.start` of a network that begins from its initialisation in every round."""

    def start(key, trained):
        del trained
        return init_state(key, module, optimizer, input_shape)

    return start


def training_features(
    module: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    *,
    where: jax.Array,
    key: jax.Array,
    train: bool = True,
) -> tuple[jax.Array, Mapping[str, Any]]:
    """Features of a training step, and the batch statistics after it; `key` for dropout."""
    features, updates = cast(
        Any,
        module.apply(
            variables,
            images,
            train=train,
            where=where,
            mutable=["batch_stats"],
            rngs={"dropout": key},
            method="features",
        ),
    )
    return features, updates.get("batch_stats", {})


def cross_entropy(
    logits: jax.Array, labels: jax.Array, valid: jax.Array, key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean cross-entropy of the valid rows, and their accuracy; logits `[B, C]`."""
    del key
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    hits = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    return masked_mean(losses, valid), {"accuracy": masked_mean(hits, valid)}


def classifier_phase(
    name: str,
    module: nn.Module,
    optimizer: optax.GradientTransformation,
    problem: AnnotationProblem,
    *,
    num_epochs: int,
    batch_size: int,
    rate: Callable[[int], float],
    loss: Callable[..., tuple[jax.Array, dict[str, jax.Array]]] = cross_entropy,
    members: Callable[[QueryContext], np.ndarray] | None = None,
    with_features: bool = False,
    frozen_features: bool = False,
) -> Phase:
    """A one-headed classifier, trained from scratch in each round.

    The default is the K-way classifier on the labelled known images, whose accuracy every open-set
    annotation paper reports.

    Args:
      name: name of the phase.
      module: network with one head.
      optimizer: optimiser without the learning rate.
      problem: the problem.
      num_epochs: passes over the members.
      batch_size: examples per step.
      rate: epoch -> learning rate.
      loss: `(logits [B, C], annotations, valid, key) -> (scalar, metrics)`.
      members: as in `Phase`; None for the labelled known images.
      with_features: whether `forward` returns `{"logits", "features"}` instead of logits.
      frozen_features: whether gradients stop at the head and BatchNorm stays in evaluation mode.
    """

    def classify(variables, features):
        return cast(jax.Array, module.apply(variables, features, method="classify"))[:, 0]

    def step(state, images, labels, valid, pool_images, key, scalars):
        del pool_images

        def loss_fn(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            dropout = jax.random.fold_in(key, 1)
            features, batch_stats = training_features(
                module, variables, images, where=valid, key=dropout, train=not frozen_features
            )
            if frozen_features:
                features = jax.lax.stop_gradient(features)
            logits = classify(variables, features)
            value, metrics = loss(logits, labels, valid, key)
            return value, (batch_stats, metrics)

        return sgd_step(state, loss_fn, optimizer, scalars)

    def forward(variables, images):
        features = module.apply(variables, images, method="features")
        logits = classify(variables, features)
        return {"logits": logits, "features": features} if with_features else logits

    def class_probs(outputs):
        return jax.nn.softmax(outputs["logits"] if with_features else outputs, axis=-1)

    return Phase(
        name=name,
        num_epochs=num_epochs,
        batch_size=batch_size,
        members=members or (lambda context: known(context.annotations, problem.num_classes)),
        start=fresh_start(module, optimizer, problem.input_shape),
        scalars=lambda epoch: {"learning_rate": rate(epoch)},
        step=step,
        forward=forward,
        class_probs=class_probs,
    )


def recipe_parts(recipe: ActiveLearning, problem: AnnotationProblem):
    """Parts that every phase of a recipe is built from: network maker, optimiser, learning rate."""
    model, optimizer = recipe.model, recipe.optimizer

    def network(num_heads: int, num_classes: int = problem.num_classes) -> nn.Module:
        return make_network(
            **model.architecture,
            num_classes=num_classes,
            num_heads=num_heads,
            dtype=problem.dtype,
            norm_parts=problem.norm_parts,
        )

    def rate(epoch: int, num_epochs: int = recipe.num_epochs) -> float:
        return learning_rate(optimizer, epoch, num_epochs)

    return network, make_optimizer(optimizer), rate


def recipe_phase(
    name: str, num_classes: int, recipe: ActiveLearning, problem: AnnotationProblem, **options
) -> Phase:
    """`classifier_phase` with network, optimiser, epochs and batches of the recipe."""
    network, optimizer, rate = recipe_parts(recipe, problem)
    return classifier_phase(
        name,
        network(1, num_classes),
        optimizer,
        problem,
        num_epochs=recipe.num_epochs,
        batch_size=recipe.batch_size,
        rate=rate,
        **options,
    )


def target_phase(
    recipe: ActiveLearning, problem: AnnotationProblem, *, with_features: bool = False
) -> Phase:
    """The reported K-way classifier of a recipe; see `classifier_phase`."""
    return recipe_phase("target", problem.num_classes, recipe, problem, with_features=with_features)
