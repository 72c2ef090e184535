"""The interface between the noisy-label task and a method, as records of pure functions."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import selection
from jaxrobust.engine.optim import learning_rate, make_optimizer
from jaxrobust.engine.sharding import split_rows
from jaxrobust.engine.training import TrainState
from jaxrobust.models import make_network
from jaxrobust.recipes.protocols import NoisyLabels


@dataclasses.dataclass(frozen=True)
class NoisyLabelProblem:
    """The problem that a method is built for.

    Attributes:
      num_classes: C.
      num_examples: N, the number of training examples.
      input_shape: (H, W, 3).
      dtype: computation dtype of the networks.
      norm_parts: number of parts of a training batch for BatchNorm; see `models.layers.Network`.
    """

    num_classes: int
    num_examples: int
    input_shape: tuple[int, ...]
    dtype: Any
    norm_parts: int = 1


class Batch(NamedTuple):
    """Examples of one set that a step visits.

    Attributes:
      ids: int32 `[B]`, 0 at padding.
      labels: int32 `[B]`, the given labels; for soft labels, the most probable class.
      valid: bool `[B]`, False at padding.
      views: images `[B, H, W, 3]`, augmented and normalised, one for each of `Stage.views`.
      label_scores: rows `[B]` of `Pass.label_scores`.
      targets: float32 `[B, C]`, soft labels, for a method that is `soft`; otherwise None.
    """

    ids: jax.Array
    labels: jax.Array
    valid: jax.Array
    views: tuple[jax.Array, ...]
    label_scores: dict[str, jax.Array]
    targets: jax.Array | None = None

    @property
    def weights(self) -> jax.Array | None:
        """Float32 `[B]`, example weights with mean 1 over the set; None for equal weights."""
        return self.label_scores.get(WEIGHT)

    def weighted(self, losses: jax.Array) -> jax.Array:
        """Losses `[B]` times the weights."""
        return losses if self.weights is None else self.weights * losses


def expected_loss(
    per_example: Callable[[jax.Array, jax.Array], jax.Array],
    logits: jax.Array,
    labels: jax.Array,
    targets: jax.Array | None,
) -> jax.Array:
    """`sum_c t_c loss(o, c)`, `[B]`: the expected loss under a soft label.

    Args:
      per_example: `(logits [B, C], labels [B]) -> [B]`.
      logits: `[B, C]`, o.
      labels: int `[B]`, used without targets.
      targets: float `[B, C]`, t, whose rows sum to 1; or None.
    """
    if targets is None:
        return per_example(logits, labels)
    classes = jnp.arange(logits.shape[-1], dtype=labels.dtype)
    losses = jax.vmap(lambda c: per_example(logits, jnp.full_like(labels, c)), out_axes=1)(classes)
    return jnp.sum(targets.astype(losses.dtype) * losses, axis=1)


WEIGHT = "weight"
"""The column of `Batch.label_scores` with the weights of examples."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One kind of training step, compiled once.

    Attributes:
      name: used in metrics and random streams.
      batch_sizes: examples per step of each set that a step visits.
      views: kinds of views of every example: "weak" (crop and flip) or "strong" (also a policy and
        cutout).
      step: `(network, peer, batches, key, scalars) -> (network, metrics)`: `network` a state as
        `Method.start` makes it, `peer` the variables of another network (`{}` without one),
        `batches` a `Batch` by set, `scalars` those of the pass and `progress`, the completed share
        of its steps.
      last_batch: treatment of a remainder, as in `make_plan`.
      mixes: whether the step combines different rows of a batch, so that every device needs all
        rows.
    """

    name: str
    batch_sizes: Mapping[str, int]
    views: tuple[str, ...]
    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    last_batch: str = "short"
    mixes: bool = False


@dataclasses.dataclass(frozen=True)
class Pass:
    """A stage run over chosen examples, for one network.

    Attributes:
      stage: name of the stage.
      network: name of the network that is trained.
      ids: dataset ids `[n]` in the order of their visit, by set. All sets of a pass give the same
        number of steps.
      scalars: numbers that the step receives traced.
      peer: name of the network whose variables the step may read.
      label_scores: values `[N]` of every example that the step's batches carry.
      notes: further numbers for the metrics.
      is_undivided: whether the labels should have been divided, but too few looked wrong.
    """

    stage: str
    network: str
    ids: dict[str, np.ndarray]
    scalars: dict[str, float]
    peer: str | None = None
    label_scores: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    notes: dict[str, float] = dataclasses.field(default_factory=dict)
    is_undivided: bool = False


def current_variables(state: TrainState) -> Mapping[str, Any]:
    """The variables that are being trained."""
    return state.variables


@dataclasses.dataclass(frozen=True)
class Method:
    """One method of learning with noisy labels.

    Attributes:
      networks: names of the networks, which have the same architecture.
      start: `key -> TrainState` of one network, or a subclass of it with everything else that the
        method carries from step to step, including tables over the training examples.
      stages: the kinds of step.
      passes: `(epoch, label_scores, generator) -> passes in order`: `label_scores` is the result of
        `score_labels` at the end of the previous epoch (zeros at the start), `generator(name)` is
        the epoch's NumPy generator of one stream.
      forward: `(variables, images) -> logits [n, C]`, or `[n, M, C]` with `heads`.
      class_probs: `logits of all predictors, stacked [M, n, C] -> probabilities [n, C]`.
      score_labels: `(logits [M, N, C] on the training set, labels [N]) -> scores [N] by name`.
        Required are `clean_prob`, `suggested` (a class), `flagged` (bool: the label is probably
        wrong) and the one named by `score`.
      score: name of the column that breaks ties of `clean_prob`; high means clean.
      score_threshold: `scores [N] -> number`: labels whose score is below it are flagged; None if a
        mixture of two Gaussians decides.
      peer_from: `"now"`, or `"epoch_start"`: the time from which passes read their peer.
      heads: names of the M predictions of a single network, if there are several.
      end_epoch: `(state, epoch) -> state`, once for every network after its last step of an epoch.
      test_variables: `state -> variables` to test.
      score_variables: `state -> variables` whose logits on the training set `score_labels` gets.
      counts: whether `score_labels` takes a third operand, the number of wrong labels estimated
        before training, if there is such an estimate.
      score_view: the view of the training images for `score_labels`: `"test"`, or a kind of
        `Stage.views`.
      score_forward: `(variables, images, ids) -> logits` of training images instead of `forward`,
        for a method that has to leave out the information it stores about these images.
      one_epoch: whether there is nothing to learn after the first epoch.
      soft: whether its steps learn from `Batch.targets`, if there are any.
    """

    networks: tuple[str, ...]
    start: Callable[[jax.Array], TrainState]
    stages: tuple[Stage, ...]
    passes: Callable[..., list[Pass]]
    forward: Callable[[Mapping[str, Any], jax.Array], jax.Array]
    class_probs: Callable[[jax.Array], jax.Array]
    score_labels: Callable[[jax.Array, jax.Array], dict[str, jax.Array]]
    score: str
    score_threshold: Callable[[np.ndarray], float | None] = lambda scores: None
    peer_from: str = "now"
    heads: tuple[str, ...] = ()
    end_epoch: Callable[[Any, jax.Array], TrainState] | None = None
    test_variables: Callable[[Any], Mapping[str, Any]] = current_variables
    score_variables: Callable[[Any], Mapping[str, Any]] = current_variables
    counts: bool = False
    score_view: str = "test"
    score_forward: Callable[..., jax.Array] | None = None
    one_epoch: bool = False
    soft: bool = False

    @property
    def predictors(self) -> tuple[str, ...]:
        """Names of the M predictions: of the networks, or of the heads of the only one."""
        return self.heads or self.networks


# (params, batch_stats, images, *, train, key, where, num_batches) -> (output, batch_stats)
Apply = Callable[..., tuple[Any, Any]]


def network_apply(module: nn.Module) -> Apply:
    """A network as the function that steps use.

    Returns:
      `(params, batch_stats, images, *, train, key=None, where=None, num_batches=1) -> (output,
      batch_stats)`: the output is what the network returns, usually logits `[B, heads, C]`; `key`
      is for dropout; in training, the statistics are updated; each of `num_batches` batches, joined
      by `join_batches`, is normalised separately. Every device computes its own rows.
    """

    def apply(params, batch_stats, images, *, train, key=None, where=None, num_batches=1):
        variables = {"params": params, "batch_stats": batch_stats}
        images = split_rows(images)
        if not train:
            return module.apply(variables, images), batch_stats
        network = module if num_batches == 1 else module.clone(norm_batches=num_batches)
        output, updates = network.apply(
            variables,
            images,
            train=True,
            where=where,
            mutable=["batch_stats"],
            rngs=None if key is None else {"dropout": key},
        )
        return output, updates.get("batch_stats", {})

    return apply


def single_network(recipe: NoisyLabels, problem: NoisyLabelProblem):
    """Module, optimiser and passes of a method with one single-headed network on all labels."""

    def passes(epoch, label_scores, generator):
        del label_scores
        ids = {"all": generator("net/order").permutation(problem.num_examples)}
        rate = learning_rate(recipe.optimizer, epoch, recipe.num_epochs)
        return [Pass("train", "net", ids, {"learning_rate": rate})]

    module = make_network(
        **recipe.model.architecture,
        num_classes=problem.num_classes,
        num_heads=1,
        dtype=problem.dtype,
        norm_parts=problem.norm_parts,
    )
    return module, make_optimizer(recipe.optimizer), passes


def single_head(module: nn.Module) -> Callable[[Mapping[str, Any], jax.Array], jax.Array]:
    """`Method.forward` of a network with one head."""
    return lambda variables, images: cast(jax.Array, module.apply(variables, images))[:, 0]


def score_labels_by(
    networks: tuple[str, ...],
    score: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    name: str,
    mode: str,
    threshold: float,
    kurtosis_threshold: float = 1.2,
    reg_covar: float = 5e-4,
    class_probs: Callable[[jax.Array], jax.Array] = jax.nn.softmax,
) -> Callable[[jax.Array, jax.Array], dict[str, jax.Array]]:
    """`Method.score_labels` from a score per example: the mean over the networks' splits decides.

    Args:
      networks: their names.
      score: `(logits [N, C], labels [N]) -> [N]`, high for labels that look right.
      name: name of the score's column.
      mode: mode of `clean_probability`, or `"count"` for `clean_probability_given_count`.
      threshold: as in `select_clean`.
      kurtosis_threshold: as in `clean_probability`.
      reg_covar: as in `clean_probability`.
      class_probs: `logits [N, C] -> probabilities`, from which `"count"` counts.

    Returns:
      The function, which in mode `"count"` has a third operand; see `Method.counts`. With several
      networks, the scores of each carry its name.
    """

    how = {"mode": mode, "kurtosis_threshold": kurtosis_threshold, "reg_covar": reg_covar}

    def clean_probs(scores, logits, labels, num_wrong):
        if mode != "count":
            return jnp.stack([selection.clean_probability(s, **how) for s in scores])
        counts = [_known_or_counted(num_wrong, class_probs(o), labels) for o in logits]
        pairs = zip(scores, counts, strict=True)
        return jnp.stack([selection.clean_probability_given_count(s, count) for s, count in pairs])

    def score_labels(logits, labels, num_wrong=None):
        scores = jax.vmap(score, in_axes=(0, None))(logits, labels)
        probs = clean_probs(scores, logits, labels, num_wrong)
        clean_prob = jnp.mean(probs, axis=0)
        label_scores = {
            "suggested": predicted_class(jnp.mean(logits, axis=0)),
            "clean_prob": clean_prob,
            name: jnp.mean(scores, axis=0),
            "flagged": ~selection.select_clean(clean_prob, threshold=threshold),
        }
        if len(networks) > 1:
            for i, network in enumerate(networks):
                label_scores[f"clean_prob_{network}"] = probs[i]
                label_scores[f"{name}_{network}"] = scores[i]
                label_scores[f"prediction_{network}"] = predicted_class(logits[i])
        return label_scores

    return score_labels


def flag_by_count(method: Method) -> Method:
    """The method, flagging as many labels as the confident joint counts.

    The labels with the lowest `method.score` are flagged, as many as are estimated to be wrong,
    except labels that equal the suggested class. The number is the one that the task estimates
    before training or, without such an estimate, `estimate_num_wrong` of the method's own
    probabilities, which are not out of sample and therefore give too low a number. `clean_prob`
    becomes `clean_probability_given_count` of that score, which has the same order. The training of
    the method does not change.
    """

    def score_labels(logits, labels, num_wrong=None):
        known = (num_wrong,) if method.counts else ()
        label_scores = method.score_labels(logits, labels, *known)
        num_wrong = _known_or_counted(num_wrong, method.class_probs(logits), labels)
        clean_prob = selection.clean_probability_given_count(label_scores[method.score], num_wrong)
        flagged = (clean_prob < 0.5) & (label_scores["suggested"] != labels)
        return {**label_scores, "clean_prob": clean_prob, "flagged": flagged}

    return dataclasses.replace(method, score_labels=score_labels, counts=True)


def _known_or_counted(
    num_wrong: jax.Array | None, probs: jax.Array, labels: jax.Array
) -> jax.Array:
    """The number of wrong labels that is known, or what the confident joint counts."""
    return selection.estimate_num_wrong(probs, labels) if num_wrong is None else num_wrong


def predicted_class(logits: jax.Array) -> jax.Array:
    """int32 `[N]`, the top class of logits or probabilities `[N, C]`."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
