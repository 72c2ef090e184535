"""DPC: Dirichlet-based prediction calibration for learning with noisy labels.

Zong, Wang, Xie and Huang, AAAI 2024, arXiv 2401.07062, as in the authors' code; differences from
the paper are listed with the losses and in `docs/methods/dpc.md`.

Epoch, after a warm-up with `evidential_loss` on all given labels:
  1. both networks score every example by `logit_margin`; a mixture of two Gaussians makes it the
     probability that the label is right;
  2. network 1 is trained by `semi_supervised_step` on the split made by network 2: likely clean
     examples with their labels, the others with labels that both networks guess;
  3. network 2 in the same way, on the split made by network 1, with the new network 1 as its peer.

DPC* (`consistency_weight` above 0) adds a consistency loss on strongly augmented views. DivideMix
is the same method with softmax, small losses fitted by a mixture everywhere, and one head.
"""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust import losses
from jaxrobust.arrays import at_least_float32
from jaxrobust.engine.optim import learning_rate, make_optimizer
from jaxrobust.engine.sharding import join_batches, on_every_device, part_batches
from jaxrobust.engine.training import TrainState, init_state, sgd_step
from jaxrobust.methods.noisy_label_method import (
    Apply,
    Batch,
    Method,
    NoisyLabelProblem,
    Pass,
    Stage,
    expected_loss,
    network_apply,
    score_labels_by,
    single_head,
)
from jaxrobust.models import make_network, make_two_headed
from jaxrobust.models.two_headed import UNSUPERVISED_HEAD
from jaxrobust.recipes.dpc import Dpc, DpcRecipe
from jaxrobust.recipes.run import Optimizer
from jaxrobust.selection import excess_kurtosis, logit_margin, select_clean

log = logging.getLogger("jaxrobust")

PAIR = ("net1", "net2")


@dataclasses.dataclass(frozen=True)
class Objective:
    """How logits are read as probabilities, and what a labelled example costs."""

    evidential: bool = True  # the calibrated evidential loss; otherwise softmax and cross-entropy
    gamma: float = 1.0  # evidence that every class has beforehand; 0 is softmax
    beta: float = 0.5  # weight of the divergence
    evidence_scale: float | None = None  # what turns exp(logits) into evidence; None for 1 / gamma

    @property
    def _options(self) -> dict[str, Any]:
        return {"gamma": self.gamma, "beta": self.beta, "evidence_scale": self.evidence_scale}

    def probs(self, logits: jax.Array) -> jax.Array:
        """Class probabilities `[..., C]`."""
        return losses.calibrated_softmax(logits, self.gamma)

    def per_example(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """Loss `[B]` of given labels."""
        if self.evidential:
            nll, kl = losses.evidential_loss(logits, labels, **self._options)
            return nll + kl
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    def mixed(
        self,
        logits_x: jax.Array,
        hard: tuple[jax.Array, jax.Array],
        soft_x: jax.Array,
        mix: jax.Array,
        logits_u: jax.Array,
        soft_u: jax.Array,
        weights: tuple[jax.Array, jax.Array, jax.Array] | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """(supervised, unsupervised) scalar losses of mixed inputs.

        Args:
          logits_x: `[M, C]`, rows whose first partner is labelled.
          hard: labels `[M]` of the first and of the second partners, for the evidential loss.
          soft_x: `[M, C]`, mixed targets, for cross-entropy.
          mix: share of the first partner.
          logits_u: `[K, C]`, the other rows.
          soft_u: `[K, C]`, their mixed targets.
          weights: `[M]` of the first and of the second partners, which `soft_x` has been multiplied
            by, and `[K]` of the other rows.
        """
        if self.evidential:
            return losses.semi_supervised_loss(
                logits_x, *hard, mix, logits_u, soft_u, weights=weights, **self._options
            )
        supervised = jnp.mean(optax.softmax_cross_entropy(logits_x, soft_x))
        errors = jnp.square(self.probs(logits_u) - soft_u)
        return supervised, jnp.mean(errors if weights is None else weights[2][:, None] * errors)


def linear_rampup(
    time: jax.typing.ArrayLike, warm_up: jax.typing.ArrayLike, *, length: float = 16.0
) -> jax.Array:
    """Weight that grows from 0 to 1: `clip((time - warm_up) / length, 0, 1)`, in epochs.

    `length` 0 gives 1 at once. DPC, weight of the unsupervised loss (from MixMatch).
    """
    time = at_least_float32(time)
    if not length:
        return jnp.ones_like(time)
    return jnp.clip((time - jnp.asarray(warm_up, time.dtype)) / length, 0, 1)


def warm_up_step(
    network: TrainState,
    batch: Batch,
    key: jax.Array,
    scalars: dict[str, jax.Array],
    *,
    apply: Apply,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    entropy_penalty: str = "none",
    frozen: str = UNSUPERVISED_HEAD,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step on given labels: mean loss of head 1, plus the confidence penalty if asked for.

    The other head, `frozen`, stays as it is to the bit, momentum included: in PyTorch it gets no
    gradient, so weight decay does not touch it either. Of `batch` the first view is used.
    `optimizer` gives descent directions, without the rate, `scalars["learning_rate"]`.
    `entropy_penalty` is "none", "plain", or "clamped" (see `negative_entropy`).
    """

    def loss_fn(params):
        logits, batch_stats = apply(
            params, network.batch_stats, batch.views[0], train=True, key=key, where=batch.valid
        )
        logits = logits[:, 0]
        loss = expected_loss(objective.per_example, logits, batch.labels, batch.targets)
        loss = losses.masked_mean(batch.weighted(loss), batch.valid)
        if entropy_penalty != "none":
            penalty = losses.negative_entropy(
                logits, objective.gamma, clamp_logits=entropy_penalty == "clamped"
            )
            loss = loss + losses.masked_mean(penalty, batch.valid)
        hits = (jnp.argmax(logits, axis=-1) == batch.labels).astype(loss.dtype)
        return loss, (batch_stats, {"label_agreement": losses.masked_mean(hits, batch.valid)})

    stepped, metrics = sgd_step(network, loss_fn, optimizer, scalars)

    def choose(path, before, after):
        names = {getattr(entry, "key", getattr(entry, "name", None)) for entry in path}
        return before if frozen in names else after

    return jax.tree.map_with_path(choose, network, stepped), metrics


def semi_supervised_step(
    network: TrainState,
    peer: dict[str, Any],
    labeled: Batch,
    unlabeled: Batch,
    mix: jax.Array,
    permutation: jax.Array,
    key: jax.Array,
    scalars: dict[str, jax.Array],
    *,
    apply: Apply,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    temperature: float = 0.5,
    forward_unlabeled: bool = True,
    guess_updates_statistics: bool = True,
    class_prior: str = "uniform",
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step on B likely clean and B likely mislabelled examples.

    BatchNorm's averages of the network move five times, or six with strong views: at each of its
    four guesses on the views u1, u2, x1, x2, at the mixed batch, and at the strong mixed batch.

    Args:
      network: before the step; guesses in training mode.
      peer: variables of the other network; guesses in evaluation mode.
      labeled: two weak views, then, if the method uses them, two strong ones; with the column
        `clean_prob`.
      unlabeled: the same views.
      mix: scalar l >= 1/2, the share of the first partner.
      permutation: int `[4 B]`, the second partners among the rows x1, x2, u1, u2.
      key: for dropout.
      scalars: `learning_rate`; `weight_u`, weight of the unsupervised loss; with strong views
        `consistency_weight`.
      apply: the network, as in `network_apply`.
      optimizer: gives descent directions, without the rate.
      objective: the losses.
      temperature: of sharpening.
      forward_unlabeled: whether mixed rows with an unlabelled first partner are part of the loss.
        Without them `weight_u` must be 0.
      guess_updates_statistics: whether the guesses move BatchNorm's averages.
      class_prior: distribution to which the mean prediction is drawn: `"uniform"`, `"labels"` (the
        scalar `class_shares` `[C]`) or `"none"`.

    Returns:
      The network after the step and the metrics.
    """
    batch_size = labeled.labels.shape[0]
    weak = (*labeled.views[:2], *unlabeled.views[:2])
    strong = (*labeled.views[2:], *unlabeled.views[2:])
    guess_key, weak_key, strong_key = jax.random.split(key, 3)

    x1, x2, u1, u2 = weak
    own, guessed_stats = _guess(apply, network, (u1, u2, x1, x2), guess_key)
    peers, _ = apply(peer["params"], peer["batch_stats"], join_batches((u1, u2)), train=False)
    own = objective.probs(own[:, :, 0])
    peers = part_batches(objective.probs(on_every_device(peers)[:, 0]), 2)
    guesses_u = jnp.concatenate([own[:2], peers])
    given = jax.nn.one_hot(labeled.labels, own.shape[-1], dtype=own.dtype)
    if labeled.targets is not None:
        given = labeled.targets.astype(own.dtype)
    clean_prob = labeled.label_scores["clean_prob"].astype(own.dtype)[:, None]
    refined = clean_prob * given + (1 - clean_prob) * jnp.mean(own[2:], axis=0)
    target_x = losses.sharpen(refined, temperature=temperature)
    target_u = losses.sharpen(jnp.mean(guesses_u, axis=0), temperature=temperature)
    targets = jax.lax.stop_gradient(jnp.concatenate([target_x, target_x, target_u, target_u]))

    num_x = 2 * batch_size
    used = slice(None) if forward_unlabeled else slice(num_x)
    targets, partners = on_every_device((targets, permutation[used]))

    def mixed(rows):
        rows = at_least_float32(rows)
        share = mix.astype(rows.dtype)
        return share * on_every_device(rows[used]) + (1 - share) * rows[partners]

    weak_inputs, *strong_inputs = (
        mixed(on_every_device(jnp.concatenate(views))).astype(x1.dtype)
        for views in (weak, strong)
        if views
    )
    soft = soft_x = mixed(targets)
    weights = None
    if labeled.weights is not None and unlabeled.weights is not None:
        of_x, of_u = labeled.weights, unlabeled.weights
        weights = jnp.concatenate([of_x, of_x, of_u, of_u]).astype(targets.dtype)
        weights = on_every_device(weights)
        soft_x = mixed(weights[:, None] * targets)
    hard = jnp.argmax(targets, axis=-1).astype(jnp.int32)
    hard = hard[:num_x], hard[partners[:num_x]]
    # Without rows of their own the second part is any rows at all: its weight is 0.
    rest = slice(num_x, None) if forward_unlabeled else slice(None)
    if weights is not None:
        of_rows = weights[used][rest]
        weights = weights[:num_x], weights[partners[:num_x]], of_rows
    batch_stats = guessed_stats if guess_updates_statistics else network.batch_stats

    def loss_fn(params):
        logits, stats = apply(params, batch_stats, weak_inputs, train=True, key=weak_key)
        logits = on_every_device(logits)
        supervised, unsupervised = objective.mixed(
            logits[:num_x, 0], hard, soft_x[:num_x], mix, logits[rest, -1], soft[rest], weights
        )
        if class_prior == "labels":
            shares = scalars["class_shares"]
            prior = losses.class_prior_penalty(logits[:, 0], shares, objective.gamma)
        elif class_prior == "uniform":
            prior = losses.uniform_prior_penalty(logits[:, 0], objective.gamma)
        else:
            prior = jnp.zeros((), supervised.dtype)
        loss = supervised + scalars["weight_u"] * unsupervised + prior
        metrics = {"loss_x": supervised, "loss_u": unsupervised, "prior": prior}
        for inputs in strong_inputs:
            strong_logits, stats = apply(params, stats, inputs, train=True, key=strong_key)
            strong_logits = on_every_device(strong_logits)
            consistency = jnp.mean(
                losses.strong_view_consistency(logits[:, 0], strong_logits[:, 0], objective.gamma)
            )
            loss = loss + scalars["consistency_weight"] * consistency
            metrics["consistency"] = consistency
        return loss, (stats, metrics)

    network, metrics = sgd_step(network, loss_fn, optimizer, scalars)
    return network, {**metrics, "weight_u": scalars["weight_u"]}


def _guess(
    apply: Apply, network: TrainState, views: tuple[jax.Array, ...], key: jax.Array
) -> tuple[jax.Array, Any]:
    """Logits `[V, B, heads, C]` in training mode, each view a batch of its own, side by side."""
    logits, batch_stats = apply(
        network.params,
        network.batch_stats,
        join_batches(views),
        train=True,
        key=key,
        num_batches=len(views),
    )
    return part_batches(on_every_device(logits), len(views)), batch_stats


def make_objective(dpc: Dpc, num_classes: int) -> Objective:
    """The losses of DPC's options."""
    if dpc.loss == "cross_entropy":
        return Objective(evidential=False, gamma=0.0)
    # At gamma 0 the scale of the evidence is open; that of the default gamma is kept.
    scale = None if dpc.gamma_c else num_classes / 10
    return Objective(gamma=dpc.gamma_c / num_classes, beta=dpc.beta, evidence_scale=scale)


def build(recipe: DpcRecipe, problem: NoisyLabelProblem) -> Method:
    """DPC as a method of the noisy-label task."""
    return build_with(recipe.dpc, recipe, problem)


def build_with(dpc: Dpc, recipe: DpcRecipe, problem: NoisyLabelProblem) -> Method:
    """DPC, or an ablation of it, with options in place of those of the recipe."""
    schedule = recipe.optimizer
    optimizer = make_optimizer(schedule)
    objective = make_objective(dpc, problem.num_classes)
    network = {
        **recipe.model.architecture,
        "num_classes": problem.num_classes,
        "dtype": problem.dtype,
        "norm_parts": problem.norm_parts,
    }
    if dpc.heads == 2:
        module = make_two_headed(**network)
    else:
        module = make_network(**network, num_heads=1)
    parts = {"apply": network_apply(module), "optimizer": optimizer, "objective": objective}
    batch_size = recipe.batch_size

    def warm_up(network, peer, batches, key, scalars):
        del peer
        penalty = dpc.entropy_penalty
        return warm_up_step(network, batches["all"], key, scalars, entropy_penalty=penalty, **parts)

    def semi_supervised(network, peer, batches, key, scalars):
        mix_key, permutation_key, step_key = jax.random.split(key, 3)
        mix = jax.random.beta(mix_key, dpc.mixup_alpha, dpc.mixup_alpha)
        time = scalars["epoch"] + scalars["progress"]
        ramp = linear_rampup(time, dpc.warm_up, length=dpc.rampup_length)
        return semi_supervised_step(
            network,
            peer,
            batches["labeled"],
            batches["unlabeled"],
            jnp.maximum(mix, 1 - mix),
            jax.random.permutation(permutation_key, 4 * batch_size),
            step_key,
            {
                **scalars,
                "weight_u": dpc.lambda_u * ramp,
                "consistency_weight": jnp.float32(dpc.consistency_weight),
            },
            temperature=dpc.temperature,
            forward_unlabeled=dpc.forward_unlabeled,
            guess_updates_statistics=dpc.guess_updates_statistics,
            class_prior=dpc.class_prior,
            **parts,
        )

    def score(logits, labels):
        if dpc.score == "margin":
            return logit_margin(logits, labels)
        return -objective.per_example(logits, labels)

    def score_threshold(scores):
        is_auto = dpc.score_mode == "auto"
        by_mixture = is_auto and excess_kurtosis(scores) <= dpc.kurtosis_threshold
        if dpc.score_mode in ("gmm", "count") or by_mixture:
            return None
        low, high = float(scores.min()), float(scores.max())
        return low + dpc.threshold * (high - low)

    return Method(
        networks=PAIR,
        start=lambda key: init_state(key, module, optimizer, problem.input_shape),
        stages=(
            Stage("warm_up", {"all": 2 * batch_size}, ("weak",), warm_up, recipe.last_batch),
            Stage(
                "semi_supervised",
                {"labeled": batch_size, "unlabeled": batch_size},
                ("weak", "weak", "strong", "strong") if dpc.consistency_weight else ("weak",) * 2,
                semi_supervised,
                "drop",
                mixes=True,
            ),
        ),
        passes=_passes(dpc, schedule, recipe.num_epochs, batch_size, problem.num_examples),
        forward=single_head(module),
        class_probs=lambda logits: objective.probs(jnp.mean(logits, axis=0)),
        score_labels=score_labels_by(
            PAIR,
            score,
            name=dpc.score if dpc.score == "margin" else "negative_loss",
            mode=dpc.score_mode,
            threshold=dpc.threshold,
            kurtosis_threshold=dpc.kurtosis_threshold,
            reg_covar=dpc.reg_covar,
            class_probs=objective.probs,
        ),
        counts=dpc.score_mode == "count",
        score=dpc.score if dpc.score == "margin" else "negative_loss",
        score_threshold=score_threshold,
        peer_from=dpc.peer_from,
        soft=True,
    )


def _passes(
    dpc: Dpc, schedule: Optimizer, num_epochs: int, batch_size: int, num_examples: int
) -> Callable[..., list[Pass]]:
    """`Method.passes` of the co-divided training."""

    def passes(epoch, label_scores, generator):
        scalars = {
            "learning_rate": learning_rate(schedule, epoch, num_epochs),
            "epoch": float(epoch),
        }
        plans = []
        for name, peer in zip(PAIR, reversed(PAIR), strict=True):
            order = generator(f"{name}/order")
            clean_prob = label_scores[f"clean_prob_{peer}"]
            clean = np.asarray(select_clean(clean_prob, threshold=dpc.threshold))
            notes = {"num_labeled": float(clean.sum())}
            divided = epoch >= dpc.warm_up
            is_undivided = divided and bool(min(clean.sum(), np.sum(~clean)) < batch_size)
            if is_undivided:
                log.debug(
                    "Epoch %d, %s: %d labels look clean and %d do not, fewer than a batch of %d; "
                    "training on all of them as in the warm-up.",
                    epoch,
                    name,
                    clean.sum(),
                    np.sum(~clean),
                    batch_size,
                )
                divided = False
            if not divided:
                ids = {"all": order.permutation(num_examples)}
                plans.append(Pass("warm_up", name, ids, scalars, is_undivided=is_undivided))
                continue
            labeled, unlabeled = np.flatnonzero(clean), np.flatnonzero(~clean)
            num_steps = labeled.size // batch_size
            ids = {
                "labeled": order.permutation(labeled)[: num_steps * batch_size],
                "unlabeled": _restarted(order, unlabeled, batch_size, num_steps),
            }
            plans.append(
                Pass(
                    "semi_supervised",
                    name,
                    ids,
                    scalars,
                    peer=peer,
                    label_scores={"clean_prob": clean_prob},
                    notes=notes,
                )
            )
        return plans

    return passes


def _restarted(
    order: np.random.Generator, ids: np.ndarray, batch_size: int, num_steps: int
) -> np.ndarray:
    """Ids for `num_steps` full batches, shuffled again whenever no full batch is left."""
    per_round = ids.size // batch_size
    rounds = [
        order.permutation(ids)[: per_round * batch_size] for _ in range(-(-num_steps // per_round))
    ]
    return np.concatenate(rounds)[: num_steps * batch_size]
