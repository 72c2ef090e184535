"""DCFS: Dirichlet-based coarse-to-fine example selection for open-set annotation.

Wang, Zong, Xie, Huang, arXiv 2409.17607 (2024). Only the abstract of the paper was available and
no code exists, so this is a reconstruction. From the abstract: evidential learning on the simplex,
data and distribution uncertainty used together, two heads whose discrepancy is amplified on unknown
and reduced on known classes, a coarse and then a fine selection stage. From sibling papers (DUC,
DPC, E2OAL, BUAL, EAOA): the losses' exact form, the recipe, class quotas. Ours: that labelled
unknowns carry the amplification and a flat-Dirichlet target, and which score each stage sorts by.

Round:
  1. `target`: a K-way classifier, cross-entropy on the labelled known images;
  2. `query`: a two-headed evidential network on all annotated images, `dcfs_loss`;
  3. coarse: keep the pool images that look known; fine: of these, take the informative ones.

By default the distribution uncertainty decides what looks known and the margin of the target what
is informative; the heads' discrepancy takes the first part under
`select.stage_order="discrepancy_first"`, and the second with `select.fine="discrepancy"`.
"""

import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import selection
from jaxrobust.engine.training import sgd_step
from jaxrobust.losses import dcfs_loss, dirichlet_log_alpha, head_discrepancy
from jaxrobust.methods.strategy import (
    AnnotationProblem,
    Phase,
    Query,
    QueryContext,
    Strategy,
    annotated,
    fresh_start,
    recipe_parts,
    target_phase,
    training_features,
)
from jaxrobust.recipes.dcfs import DcfsRecipe, Edl


def build(recipe: DcfsRecipe, problem: AnnotationProblem) -> Strategy:
    """DCFS as a strategy of the active-learning task."""
    query_phase = _query_phase(recipe, problem)
    phases = (query_phase,)
    if not recipe.is_shared:
        with_features = recipe.select.fine == "badge"
        phases = (target_phase(recipe, problem, with_features=with_features), query_phase)
    return Strategy(
        phases=phases,
        target=phases[0].name,
        query=lambda context: _query(recipe, problem, context),
        unknown_scores=("data", "dist", "total", "discrepancy", "coarse"),
    )


def _dirichlet(edl: Edl) -> dict[str, Any]:
    return {"offset": edl.offset, "clip": edl.clip, "evidence": edl.evidence}


def _query_phase(recipe: DcfsRecipe, problem: AnnotationProblem) -> Phase:
    """The two-headed evidential network, trained on known and revealed unknown images."""
    network, optimizer, rate = recipe_parts(recipe, problem)
    module = network(2)
    anneal_epochs = recipe.edl.anneal_epochs
    options = {
        **_dirichlet(recipe.edl),
        "edl": recipe.edl.loss,
        "kl_weight": recipe.edl.kl_weight,
        "lambda_unk": recipe.loss.lambda_unk,
        "lambda_dis": recipe.loss.lambda_dis,
        "discrepancy": recipe.discrepancy.kind,
        "amplify": recipe.loss.amplify,
        "margin": recipe.loss.margin,
    }

    def scalars(epoch: int) -> dict[str, float]:
        anneal = min(1.0, epoch / anneal_epochs) if anneal_epochs else 1.0
        return {"learning_rate": rate(epoch), "anneal": anneal}

    def step(state, images, labels, valid, pool_images, key, scalars):
        num_labeled = images.shape[0]
        everything = jnp.concatenate([images, pool_images]) if recipe.loss.pool_amplify else images
        counted = jnp.pad(valid, (0, everything.shape[0] - num_labeled), constant_values=True)

        def loss_fn(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            features, batch_stats = training_features(
                module, variables, everything, where=counted, key=key
            )

            def classify(features):
                logits = module.apply(variables, features, method="classify")
                return jnp.swapaxes(cast(jax.Array, logits), 0, 1)

            logits = classify(features)
            routed = logits
            if recipe.loss.dis_route == "heads":
                routed = classify(jax.lax.stop_gradient(features))
            loss, parts = dcfs_loss(
                logits[:, :num_labeled],
                labels,
                **options,
                anneal=scalars["anneal"],
                logits_amplify=routed[:, :num_labeled],
            )
            if recipe.loss.pool_amplify:
                parts["pool"] = _pool_amplification(recipe, routed[:, num_labeled:])
                loss = loss + recipe.loss.pool_amplify * parts["pool"]
            return loss, (batch_stats, parts)

        return sgd_step(state, loss_fn, optimizer, scalars)

    def class_probs(logits):
        log_alpha = dirichlet_log_alpha(logits, **_dirichlet(recipe.edl))
        return jnp.mean(jax.nn.softmax(log_alpha, axis=-1), axis=1)

    return Phase(
        name="query",
        num_epochs=recipe.num_epochs,
        batch_size=recipe.batch_size,
        members=lambda context: annotated(context.annotations),
        start=fresh_start(module, optimizer, problem.input_shape),
        scalars=scalars,
        step=step,
        forward=module.apply,
        class_probs=class_probs,
        pool_batch=recipe.batch_size if recipe.loss.pool_amplify else 0,
    )


def _pool_amplification(recipe: DcfsRecipe, logits: jax.Array) -> jax.Array:
    """Mean of -discrepancy over pool images, weighted by how unknown they look now (ADS).

    The weight is the vacuity K * offset / S, averaged over the heads, without gradient.
    """
    log_alpha = dirichlet_log_alpha(logits, **_dirichlet(recipe.edl))
    weight = jnp.mean(selection.vacuity(log_alpha, offset=recipe.edl.offset), axis=0)
    disc = head_discrepancy(logits, kind=recipe.discrepancy.kind, **_dirichlet(recipe.edl))
    return -jnp.mean(jax.lax.stop_gradient(weight) * disc)


def share_after(share: float, precisions: tuple[float, ...]) -> float:
    """Share of the pool that is candidate, after the given query precisions; at least 0.02.

    The mean of the first share and of `precision - 0.3` of every query. Where queries are pure the
    coarse stage leaves out more known images than it needs to, where they are impure it keeps too
    many unknown ones. Ours: on photographs this line meets the shares that were best where 20, 40,
    60 and 80 % of the pool are known (docs/results.md).
    """
    shares = [share, *(precision - 0.3 for precision in precisions)]
    return max(0.02, sum(shares) / len(shares))


def kappa_after(kappa: float, precisions: tuple[float, ...], step: float = 1) -> float:
    """EAOA's adaptive candidate factor after the given query precisions.

    Above a precision of 0.65 it grows by `step`, below 0.55 it shrinks by it, never below 1.
    """
    for precision in precisions:
        if precision > 0.65:
            kappa += step
        elif precision < 0.55:
            kappa = max(1, kappa - step)
    return kappa


def _query(recipe: DcfsRecipe, problem: AnnotationProblem, context: QueryContext) -> Query:
    """Scores the pool and runs the two stages."""
    select = recipe.select
    score = context.jit("dcfs/scores", lambda *arrays: _scores(recipe, *arrays))
    target_logits, target_features = None, None
    if select.fine == "badge":
        outputs = context.predict("target")
        target_logits, target_features = outputs["logits"], outputs["features"]
    elif not recipe.is_shared:
        target_logits = context.predict("target")
    scores = score(context.predict("query"), target_logits, context.in_pool)
    scores = {name: np.asarray(column) for name, column in scores.items()}
    predictions = scores["prediction"]

    share = select.pool_share
    if select.adaptive_share:
        share = share_after(share, context.precisions)
    kappa = select.kappa or max(1.0, share * context.in_pool.sum() / context.budget)
    if select.adaptive_kappa:
        kappa = kappa_after(kappa, context.precisions)
    no_unknown_yet = not np.any(context.annotations == problem.num_classes)
    by_uncertainty = select.stage_order == "uncertainty_first" or (
        no_unknown_yet and select.first_round == "uncertainty"
    )
    if not by_uncertainty:
        scores["coarse"] = scores["discrepancy"]
    elif select.coarse == "sequential":
        scores["coarse"] = _sequential(scores, context, select.kappa_1 * kappa)

    fine = select.fine
    if fine == "random":
        scores["fine"] = context.rng.random(predictions.shape, np.float32)
    elif fine == "discrepancy_low":
        scores["fine"] = -scores["discrepancy"]
    elif fine == "badge":
        scores["fine"] = scores["target_margin"]  # for what is missing where candidates are few
    else:
        scores["fine"] = scores[fine]

    if no_unknown_yet and select.first_round == "coarse_only":
        kappa = 1
    if no_unknown_yet and select.first_round == "random":
        pool = np.flatnonzero(context.in_pool)
        selected = context.rng.choice(pool, min(context.budget, pool.size), replace=False)
        candidates = pool
    else:
        candidates, selected = selection.select_coarse_to_fine(
            scores["coarse"],
            scores["fine"],
            context.budget,
            kappa=kappa,
            predictions=predictions if select.class_balanced else None,
            num_classes=problem.num_classes if select.class_balanced else None,
            where=context.in_pool,
        )
        if fine == "badge":
            drawn = _diverse(problem.budget, context, target_logits, target_features, candidates)
            others = selected[~np.isin(selected, drawn)]
            selected = np.concatenate([drawn, others])[: context.budget]
    scores["candidate"] = np.isin(np.arange(predictions.size), candidates)
    return Query(ids=selected, scores=scores, notes={"kappa": float(kappa)})


def _diverse(budget: int, context: QueryContext, logits, features, candidates) -> np.ndarray:
    """Candidates by k-means++ on the gradient embeddings of the target; see `badge_select`."""
    key = jax.random.key(context.rng.integers(2**31))

    def pick(key, logits, features, where):
        return selection.badge_select(key, logits, features, budget, where=where)

    where = np.isin(np.arange(len(context.in_pool)), candidates)
    drawn = np.asarray(context.jit("dcfs/badge", pick)(key, logits, features, where))
    return drawn[drawn >= 0]


def _scores(recipe: DcfsRecipe, logits, target_logits, in_pool) -> dict[str, jax.Array]:
    """Every score of the pool, float32 `[N]`; logits `[N, 2, K]`."""
    select = recipe.select
    log_alpha = dirichlet_log_alpha(jnp.swapaxes(logits, 0, 1), **_dirichlet(recipe.edl))
    data, dist, probs = selection.merge_heads(log_alpha, merge=select.merge)
    disc = head_discrepancy(
        jnp.swapaxes(logits, 0, 1), kind=recipe.discrepancy.kind, **_dirichlet(recipe.edl)
    )
    scores = {
        "data": data,
        "dist": dist,
        "total": data + dist,
        "discrepancy": disc,
        "vacuity": jnp.mean(selection.vacuity(log_alpha, offset=recipe.edl.offset or 1.0), axis=0),
        "prediction": jnp.argmax(probs, axis=-1).astype(jnp.int32),
    }
    if target_logits is not None:
        log_probs = jax.nn.log_softmax(target_logits)
        scores["target_entropy"] = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
        scores["target_margin"] = -selection.classifier_confidence(jnp.exp(log_probs), "margin")
    if select.coarse == "gmm_product":
        scores["coarse"] = 1 - _low_component(data, in_pool) * _low_component(dist, in_pool)
    elif select.coarse != "sequential":
        scores["coarse"] = selection.coarse_score(
            data,
            dist,
            kind=select.coarse,
            w_data=select.w_data,
            w_dist=select.w_dist,
            where=in_pool,
        )
    if select.w_discrepancy:
        scores["coarse"] += select.w_discrepancy * selection.min_max_normalize(disc, where=in_pool)
    return scores


def _low_component(score: jax.Array, in_pool: jax.Array) -> jax.Array:
    """Posterior of the low-mean component of a two-component mixture of the scaled score."""
    scaled = selection.min_max_normalize(score, where=in_pool)
    mixture = selection.fit_gaussian_mixture_1d(scaled, where=in_pool)
    return selection.gaussian_mixture_posterior(scaled, mixture)[:, 0]


def _sequential(scores, context: QueryContext, factor: float) -> np.ndarray:
    """DUC's order: the lowest in `dist` first, sorted among themselves by `data`.

    Images outside that first cut follow in the order of `dist`.
    """
    pool = np.flatnonzero(context.in_pool)
    by_dist = pool[np.argsort(scores["dist"][pool], kind="stable")]
    keep = math.ceil(factor * context.budget)
    kept, rest = np.sort(by_dist[:keep]), by_dist[keep:]
    order = np.concatenate([kept[np.argsort(scores["data"][kept], kind="stable")], rest])
    rank = np.zeros(context.in_pool.shape, np.float32)
    rank[order] = np.arange(order.size)
    return rank
