"""BUAL: bidirectional uncertainty-based active learning for open-set annotation.

Zong, Wang, Ning, Ye, Huang, ECCV 2024, arXiv 2402.15198. Where paper and released code differ the
default is the code's; its two looks at hidden labels are options that are off.

Round:
  1. `aux`: a (K+1)-way classifier on all annotated images, once an unknown one has been revealed;
  2. `target`: the positive classifier f_p, K-way cross-entropy on the labelled known images;
  3. `negative`: f_n continues f_p under a fresh head with random label negative learning on the
     labelled images and a random part of the pool; its probabilities on the pool are averaged over
     evaluations between the epochs;
  4. query the lowest bidirectional scores.

The code keeps both heads in one network, of which one idles at a time. Here f_n is a copy of f_p
with the head replaced, so that neither can touch the other.
"""

import dataclasses
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust import selection
from jaxrobust.engine.training import TrainState, init_state
from jaxrobust.errors import UserError
from jaxrobust.losses import masked_mean, negative_learning_loss, random_label_targets
from jaxrobust.methods.strategy import (
    AnnotationProblem,
    Observation,
    Phase,
    Query,
    QueryContext,
    Strategy,
    annotated,
    classifier_phase,
    known,
    recipe_parts,
    target_phase,
)
from jaxrobust.recipes.bual import Bual, BualRecipe

_HEAD = "heads_0"


def build(recipe: BualRecipe, problem: AnnotationProblem) -> Strategy:
    """BUAL as a strategy of the active-learning task."""
    bual = recipe.bual
    looks_at_truth = bual.subset_mode == "stratified" or bual.stop_rule == "oracle"
    if looks_at_truth and problem.truth is None:
        raise UserError(
            "bual.subset_mode='stratified' and bual.stop_rule='oracle' read hidden labels, but "
            "with a person as oracle there are none; set 'uniform' and 'none' or 'overlap'."
        )
    return Strategy(
        phases=(
            _aux_phase(bual, recipe, problem),
            target_phase(recipe, problem),
            _negative_phase(bual, recipe, problem),
        ),
        target="target",
        query=lambda context: _query(bual, context),
        unknown_scores=("unknown_prob", "conf_neg", "conf_pos"),
        detector="aux",
    )


def _aux_phase(bual: Bual, recipe: BualRecipe, problem: AnnotationProblem) -> Phase:
    """f_aux: K known classes and "unknown", from scratch; skipped until an unknown is revealed."""
    network, optimizer, rate = recipe_parts(recipe, problem)
    epochs = bual.aux_epochs

    def members(context: QueryContext) -> np.ndarray:
        ids = annotated(context.annotations)
        return ids if np.any(context.annotations == problem.num_classes) else ids[:0]

    phase = classifier_phase(
        "aux",
        network(1, problem.num_classes + 1),
        optimizer,
        problem,
        num_epochs=epochs,
        batch_size=bual.aux_batch_size,
        rate=lambda epoch: rate(epoch, epochs),
        members=members,
    )
    return dataclasses.replace(phase, class_probs=None)


def _negative_phase(bual: Bual, recipe: BualRecipe, problem: AnnotationProblem) -> Phase:
    """f_n: the weights and statistics of f_p go on under a new head and a new optimiser."""
    network, optimizer, rate = recipe_parts(recipe, problem)
    module = network(1)
    head_only = bual.nl_trainable == "head"
    if head_only:
        optimizer = optax.chain(optimizer, optax.masked(optax.set_to_zero(), _all_but_head))

    def start(key, trained):
        positive = trained["target"]
        fresh = init_state(key, module, optimizer, problem.input_shape).params[_HEAD]
        params = {**positive.params, _HEAD: fresh}
        return TrainState(params, positive.batch_stats, optimizer.init(params))

    def loss(logits, labels, valid, key):
        targets = random_label_targets(key, labels, labels >= 0, problem.num_classes)
        losses = negative_learning_loss(logits, targets, prob_floor=bual.prob_floor)
        return masked_mean(losses, valid), {}

    phase = classifier_phase(
        "negative",
        module,
        optimizer,
        problem,
        num_epochs=bual.nl_epochs + 1,  # as in the code; the last one follows the last evaluation
        batch_size=bual.nl_batch_size,
        rate=lambda epoch: rate(epoch, bual.nl_epochs + 1),
        loss=loss,
        members=lambda context: _negative_members(bual, problem, context),
        frozen_features=head_only,
    )

    def verdict(context: QueryContext) -> int:
        selected = _query(bual, context).ids
        if bual.stop_rule == "oracle":
            return int(np.sum(_is_known(problem, selected)))
        return zlib.crc32(np.sort(selected).astype("<i8").tobytes())

    observation = Observation(
        first=0 if bual.nl_eval_at_start else bual.eval_interval,
        every=bual.eval_interval,
        measure=jax.nn.softmax,
        verdict=None if bual.stop_rule == "none" else verdict,
    )
    return dataclasses.replace(
        phase, start=start, is_fresh=False, class_probs=None, observation=observation
    )


def _all_but_head(params):
    return {name: name != _HEAD for name in params}


def _negative_members(bual: Bual, problem: AnnotationProblem, context: QueryContext) -> np.ndarray:
    """Labelled known images and this round's part of the pool."""
    pool = np.flatnonzero(context.in_pool)
    if bual.subset_after_filter and "aux" in context.trained:
        unknown = np.asarray(selection.predicted_unknown(context.predict("aux")))[pool]
        pool = pool if unknown.all() else pool[~unknown]
    is_known = _is_known(problem, pool) if bual.subset_mode == "stratified" else None
    subset = sample_unlabeled_subset(context.rng, pool, bual.subset_size, is_known=is_known)
    return np.concatenate([known(context.annotations, problem.num_classes), subset])


def _is_known(problem: AnnotationProblem, ids: np.ndarray) -> np.ndarray:
    """The hidden truth about images, which options that reproduce the released code read."""
    assert problem.truth is not None  # `build` refuses these options without it
    return problem.truth[ids] < problem.num_classes


def sample_unlabeled_subset(
    rng: np.random.Generator, pool: np.ndarray, size: int, *, is_known: np.ndarray | None = None
) -> np.ndarray:
    """Draws, without replacement, images of the pool that negative learning sees.

    `is_known` bool `[M]` is the hidden truth, for the stratified draw of the released code:
    `floor(size * n_known / M)` known images and the rest unknown. None, as in the paper, draws
    uniformly.
    """
    size = min(size, len(pool))
    if is_known is None:
        return rng.choice(pool, size, replace=False)
    num_known = size * int(np.sum(is_known)) // max(len(pool), 1)
    return np.concatenate(
        [
            rng.choice(pool[is_known], num_known, replace=False),
            rng.choice(pool[~is_known], size - num_known, replace=False),
        ]
    )


def _query(bual: Bual, context: QueryContext) -> Query:
    """Scores the pool and takes the lowest."""
    negative_probs, num_evaluations = context.observed("negative")
    has_aux = "aux" in context.trained
    precision = context.precisions[-1] if context.precisions else bual.initial_precision
    score = context.jit("bual/scores", lambda *arrays: _scores(bual, *arrays))
    scores = score(
        negative_probs,
        context.predict("target"),
        context.predict("aux"),  # of no effect in a round without f_aux
        np.bool_(has_aux),
        np.float32(precision),
        context.in_pool,
    )
    scores = {name: np.asarray(column) for name, column in scores.items()}
    if not has_aux:
        del scores["unknown_prob"]
    ids = selection.select_lowest(scores["score"], context.budget)
    return Query(ids=ids, scores=scores, notes={"num_evaluations": num_evaluations})


def _highest_share(scores: jax.Array, where: jax.Array, share: float) -> jax.Array:
    """Bool `[N]`, the share of those in `where` with the highest scores, rounded up."""
    rank = jnp.argsort(jnp.argsort(jnp.where(where, -scores, jnp.inf), stable=True))
    return where & (rank < jnp.ceil(share * jnp.sum(where, dtype=scores.dtype)).astype(rank.dtype))


def _scores(
    bual: Bual, negative_probs, target_logits, aux_logits, has_aux, precision: jax.Array, in_pool
) -> dict[str, jax.Array]:
    """Every score of the pool, `[N]`; `score` is +inf for images that are not candidates.

    `has_aux` is traced, so that rounds with and without f_aux share one program.
    """
    aux_probs = jax.nn.softmax(aux_logits)
    candidate = in_pool
    if bual.aux_filter:
        kept = in_pool & ~(has_aux & selection.predicted_unknown(aux_probs))
        candidate = jnp.where(jnp.any(kept), kept, in_pool)
    if bual.first_share < 1:
        likely = _highest_share(jax.nn.logsumexp(target_logits, axis=-1), in_pool, bual.first_share)
        candidate = jnp.where(has_aux, candidate, likely)
    conf_neg = selection.classifier_confidence(negative_probs, bual.base)
    conf_pos = selection.classifier_confidence(jax.nn.softmax(target_logits), bual.base)
    # The code's c_n + r c_p, at a precision of 1 or 0, is c_n + c_p or c_n.
    constant: dict[str, jax.typing.ArrayLike] = {"none": 1.0, "negative": 0.0}
    with_aux, without_aux = (
        selection.bidirectional_score(
            conf_neg,
            conf_pos,
            constant.get(bual.weights, precision),
            unknown_prob=unknown_prob,
            where=candidate,
            rule=bual.score_rule,
        )
        for unknown_prob in (aux_probs[:, -1], None)
    )
    return {
        "conf_neg": conf_neg,
        "conf_pos": conf_pos,
        "unknown_prob": aux_probs[:, -1],
        "score": jnp.where(has_aux & (bual.weights == "both"), with_aux, without_aux),
    }
