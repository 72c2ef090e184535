"""E2OAL: clusters of unknown images, and queries of a target precision, for open-set annotation.

Zong, Chi, Wang, Cui, Huang, CVPR 2026, arXiv 2603.07898. Where the paper and the released code
differ the default is the code's; docs/methods/e2oal.md lists where.

Round:
  1. the unknown images that were annotated are divided into u clusters of frozen features;
  2. one network with two heads: `main`, K-way cross-entropy on the known images, and `auxiliary`,
     evidential learning of K + u classes on all annotated ones;
  3. the auxiliary head tells how known an image of the pool looks, the main head how informative it
     is; so many candidates that the query is expected to have the target precision;
  4. equal quotas by predicted class. The precision that comes out moves the next target.

The auxiliary head has a fixed number of outputs, of which those above K + u are masked, so that
every round runs the same programs.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust import losses, selection
from jaxrobust.arrays import unit_rows
from jaxrobust.data.features import open_arrays
from jaxrobust.engine.training import sgd_step
from jaxrobust.errors import UserError
from jaxrobust.methods.strategy import (
    NOT_ANNOTATED,
    AnnotationProblem,
    Phase,
    Query,
    QueryContext,
    Relabeled,
    Strategy,
    annotated,
    fresh_start,
    recipe_parts,
    target_phase,
    training_features,
)
from jaxrobust.recipes.e2oal import E2oal, E2oalRecipe

_PHASE = "e2oal"
_SOURCES = ("auto", "pixels")  # of embeddings that are no file
_COUNT = "num_outputs"  # scalar of a round: K + u


def build(recipe: E2oalRecipe, problem: AnnotationProblem) -> Strategy:
    """E2OAL as a strategy of the active-learning task."""
    e2oal = recipe.e2oal
    if e2oal.max_clusters <= problem.num_classes:
        raise UserError(
            f"e2oal.max_clusters={e2oal.max_clusters} leaves no cluster for unknown images beside "
            f"{problem.num_classes} known classes; raise it."
        )
    if problem.inputs is not None and e2oal.embeddings not in _SOURCES:
        _existing(e2oal.embeddings)  # before anything is trained
    phases = (_phase(e2oal, recipe, problem),)
    if e2oal.target == "separate":
        phases = (target_phase(recipe, problem), *phases)
    return Strategy(
        phases=phases,
        target=phases[0].name,
        query=lambda context: _query(e2oal, problem, context),
        unknown_scores=("unknown_prob", "known_margin", "informativeness"),
        detector=_PHASE,
        unknown_probs=lambda outputs, scalars: _unknown_probs(outputs, scalars, problem),
    )


# Training.


def _phase(e2oal: E2oal, recipe: E2oalRecipe, problem: AnnotationProblem) -> Phase:
    """The network of both heads, from scratch, on all annotated images."""
    network, optimizer, rate = recipe_parts(recipe, problem)
    num_classes = problem.num_classes
    module = network(2, e2oal.max_clusters)
    places = _places(e2oal, problem)

    def heads(variables, features):
        logits = cast(jax.Array, module.apply(variables, features, method="classify"))
        return logits[:, 0, :num_classes], logits[:, 1]

    def scalars(epoch: int) -> dict[str, float]:
        anneal = min(1.0, epoch / e2oal.anneal_epochs) if e2oal.anneal_epochs else 1.0
        return {"learning_rate": rate(epoch), "anneal": anneal}

    def step(state, images, labels, valid, pool_images, key, scalars):
        del pool_images

        def loss_fn(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            features, batch_stats = training_features(
                module, variables, images, where=valid, key=key
            )
            main, auxiliary = heads(variables, features)
            loss, metrics = e2oal_loss(
                main,
                auxiliary,
                labels,
                num_outputs=scalars[_COUNT],
                anneal=scalars["anneal"],
                kl_per_class=e2oal.kl_per_class,
            )
            return loss, (batch_stats, metrics)

        return sgd_step(state, loss_fn, optimizer, scalars)

    def forward(variables, images):
        main, auxiliary = heads(variables, module.apply(variables, images, method="features"))
        return {"main": main, "auxiliary": auxiliary}

    def class_probs(outputs):
        if e2oal.target == "main":
            return jax.nn.softmax(outputs["main"])
        return jax.nn.softmax(
            losses.dirichlet_log_alpha(outputs["auxiliary"][:, :num_classes], clip=None)
        )

    return Phase(
        name=_PHASE,
        num_epochs=recipe.num_epochs,
        batch_size=recipe.batch_size,
        members=lambda context: annotated(context.annotations),
        relabel=lambda context: _relabel(e2oal, num_classes, places, context.annotations),
        start=fresh_start(module, optimizer, problem.input_shape),
        scalars=scalars,
        step=step,
        forward=forward,
        class_probs=class_probs,
    )


def e2oal_loss(
    main: jax.Array,
    auxiliary: jax.Array,
    labels: jax.Array,
    *,
    num_outputs: jax.typing.ArrayLike,
    anneal: jax.typing.ArrayLike,
    kl_per_class: bool = True,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy of the main head and evidential loss of the auxiliary head.

    `mean_known CE(z, y) + mean (nll + anneal kl / (K + u))`. A batch without a known image has no
    first term, where that of the authors' code is not a number.

    Args:
      main: `[B, K]`, logits z.
      auxiliary: `[B, C]`, logits, of which the first `num_outputs` count.
      labels: int `[B]`, 0..K-1 known, from K on clusters of unknown images, -1 padding.
      num_outputs: K + u.
      anneal: scalar, `min(1, epoch / 10)`.
      kl_per_class: whether kl is divided by K + u.

    Returns:
      The total, a scalar, and its parts "ce", "nll", "kl" and the main head's "accuracy".
    """
    known = (labels >= 0) & (labels < main.shape[-1])
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels(
        main, jnp.where(known, labels, 0)
    )
    hits = (jnp.argmax(main, axis=-1) == labels).astype(jnp.float32)
    count = jnp.asarray(num_outputs, auxiliary.dtype)
    where = _counted(auxiliary, count)
    log_alpha = losses.dirichlet_log_alpha(auxiliary)
    kl = losses.misleading_kl(losses.dirichlet_alpha(log_alpha), labels, where=where)
    parts = {
        "ce": losses.masked_mean(cross_entropy, known),
        "nll": losses.masked_mean(losses.edl_nll(log_alpha, labels, where=where), labels >= 0),
        "kl": losses.masked_mean(kl, labels >= 0) / (count if kl_per_class else 1),
    }
    total = parts["ce"] + parts["nll"] + jnp.asarray(anneal, count.dtype) * parts["kl"]
    return total, {**parts, "accuracy": losses.masked_mean(hits, known)}


def _counted(auxiliary: jax.Array, num_outputs: jax.typing.ArrayLike) -> jax.Array:
    """Bool `[C]`, the outputs of the auxiliary head that this round has."""
    return jnp.arange(auxiliary.shape[-1], dtype=jnp.float32) < jnp.asarray(
        num_outputs, jnp.float32
    )


def _unknown_probs(
    outputs: Any, scalars: dict[str, float], problem: AnnotationProblem
) -> jax.Array:
    """Share `[N]` of the clusters of unknown images in the auxiliary head's probability."""
    log_alpha = losses.dirichlet_log_alpha(outputs["auxiliary"])
    counted = _counted(log_alpha, scalars[_COUNT])
    unknown = counted & (np.arange(len(counted)) >= problem.num_classes)
    log_sum, log_unknown = (
        jax.nn.logsumexp(jnp.where(where[None], log_alpha, -jnp.inf), axis=-1)
        for where in (counted, unknown)
    )
    return jnp.exp(log_unknown - log_sum)


# Clusters.


def _places(e2oal: E2oal, problem: AnnotationProblem) -> Callable[[], np.ndarray]:
    """Gives the float32 `[N, D]` of length 1 in which unknown images are clustered."""

    @functools.cache
    def places() -> np.ndarray:
        assert problem.inputs is not None  # a round has examples
        inputs = problem.inputs()
        found = unit_rows(_embeddings(e2oal.embeddings, inputs).astype(np.float32))
        return (
            selection.leading_components(found, e2oal.num_components)
            if e2oal.num_components
            else found
        )

    return places


def _embeddings(source: str, inputs: np.ndarray) -> np.ndarray:
    """Frozen features `[N, D]` of images or features, as `e2oal.embeddings` says."""
    if source not in _SOURCES:
        return _of_file(_existing(source), len(inputs))
    if inputs.ndim == 2:
        return inputs
    if source == "pixels":
        return inputs.reshape(len(inputs), -1)
    from jaxrobust.models.embedding import embed

    try:
        return embed(inputs).array[:, 0]
    except UserError as error:
        raise UserError(
            f"e2oal.embeddings='auto' embeds the images, which failed ({error}); set "
            "--config.e2oal.embeddings= to a file of features, or to pixels."
        ) from None


def _existing(source: str) -> pathlib.Path:
    path = pathlib.Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"There is no file {path}: correct --config.e2oal.embeddings=.")
    return path


def _of_file(path: pathlib.Path, count: int) -> np.ndarray:
    arrays = open_arrays(path)
    found = np.asarray(arrays.get("features", np.zeros(0)))
    if "split" in arrays:
        found = found[arrays["split"] == "train"]
    found = found.mean(axis=1, dtype=np.float32) if found.ndim == 3 else found
    if found.ndim != 2 or len(found) != count:
        raise UserError(
            f"{path} has features {list(found.shape)} for {count} training images: "
            "--config.e2oal.embeddings= needs one row for each, in their order."
        )
    return found


def _relabel(
    e2oal: E2oal, num_classes: int, places: Callable[[], np.ndarray], annotations: np.ndarray
) -> Relabeled:
    """Annotations whose unknown images are divided into clusters; the number of outputs."""
    ids = annotated(annotations)
    labels, count = annotations[ids], int(np.any(annotations == num_classes))
    if count and e2oal.unknowns == "clusters":
        labels, count = selection.cluster_unknowns(
            places()[ids],
            labels,
            num_classes,
            max_clusters=e2oal.max_clusters,
            num_starts=e2oal.num_starts,
        )
    divided = np.minimum(annotations, NOT_ANNOTATED)
    divided[ids] = labels
    return Relabeled(divided, {_COUNT: float(num_classes + count)})


# Query.


def target_after(target: float, precisions: tuple[float, ...]) -> float:
    """Precision to ask for after queries of these precisions: too pure ones lower it.

    `t <- clip(t + (target - precision), 0, 1)` after every query, from t = target on.
    """
    steered = target
    for precision in precisions:
        steered = min(1.0, max(0.0, steered + target - precision))
    return steered


def _query(e2oal: E2oal, problem: AnnotationProblem, context: QueryContext) -> Query:
    """Scores the pool and takes the quota of every predicted class."""
    num_outputs = context.relabeled[_PHASE].scalars[_COUNT]
    is_fitted = context.in_pool
    if e2oal.mixture == "all":
        is_fitted = is_fitted | (context.annotations >= 0)
    score = context.jit("e2oal/scores", lambda *arrays: _scores(e2oal, problem, *arrays))
    scores = score(context.predict(_PHASE), np.float32(num_outputs), is_fitted)
    scores = {name: np.asarray(column) for name, column in scores.items()}
    log_odds = scores["known_log_odds"].astype(np.float64)

    # In descending order of the log-odds, which tell apart probabilities that round to 1.
    pool = np.flatnonzero(context.in_pool)
    pool = pool[np.argsort(-log_odds[pool], kind="stable")]
    target = target_after(e2oal.target_precision, context.precisions)
    count = selection.candidate_count(
        1 / (1 + np.exp(-log_odds[pool])),
        scores["informativeness"][pool],
        budget=context.budget,
        target=target,
    )
    if e2oal.select == "margin":
        count = context.budget
    elif e2oal.select == "informativeness":
        count = problem.num_classes * len(pool)  # all of every class
    pool = np.sort(pool)
    chosen = pool[
        selection.select_by_class_quota(
            scores["known_margin"][pool],
            scores["informativeness"][pool],
            scores["prediction"][pool],
            num_candidates=count,
            num_known=problem.num_classes,
            budget=context.budget,
        )
    ]
    chosen = context.rng.permutation(chosen)[: context.budget]
    if e2oal.refill:
        rest = np.setdiff1d(pool, chosen)
        likely = rest[np.argsort(-log_odds[rest], kind="stable")]
        chosen = np.concatenate([chosen, likely[: context.budget - len(chosen)]])
    notes = {
        "num_unknown_clusters": num_outputs - problem.num_classes,
        "num_candidates": float(count),
        "target_precision": target,
    }
    return Query(ids=chosen, scores=scores, notes=notes)


def _scores(
    e2oal: E2oal, problem: AnnotationProblem, outputs, num_outputs: jax.Array, is_fitted: jax.Array
) -> dict[str, jax.Array]:
    """Every score, `[N]`; the mixture is fitted where `is_fitted`."""
    auxiliary = outputs["auxiliary"]
    auxiliary = jnp.where(_counted(auxiliary, num_outputs)[None], auxiliary, -jnp.inf)
    margin = selection.known_unknown_margin(auxiliary, problem.num_classes)
    mixture = selection.fit_gaussian_mixture_1d(margin, where=is_fitted, num_components=3)
    log_odds = selection.gaussian_mixture_log_odds(margin, mixture)
    predicting = outputs["main"] if e2oal.select == "informativeness" else auxiliary
    return {
        "known_margin": margin,
        "known_log_odds": log_odds,
        "unknown_prob": jax.nn.sigmoid(-log_odds),
        "informativeness": selection.divergence_informativeness(
            outputs["main"], divergence=e2oal.divergence
        ),
        "prediction": jnp.argmax(predicting, axis=-1).astype(jnp.int32),
    }
