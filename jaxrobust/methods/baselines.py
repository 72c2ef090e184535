"""The strategies that BUAL and DCFS are compared with.

`random` and `coreset` look at the target classifier only; so do `lc`, `margin`, `entropy` and
`badge` in the papers, and otherwise at a classifier with a class for images found unknown;
`typiclust`, `probcover` and `dropquery` at where images lie among each other; `lfosa` and `eaoa`
also train a (K+1)-way detector of unknown classes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import selection
from jaxrobust.arrays import unit_rows
from jaxrobust.losses import energy_margin_loss
from jaxrobust.methods.dcfs import kappa_after
from jaxrobust.methods.strategy import (
    NO_EXAMPLE,
    AnnotationProblem,
    Phase,
    Query,
    QueryContext,
    Strategy,
    annotated,
    cross_entropy,
    known,
    recipe_parts,
    recipe_phase,
    target_phase,
)
from jaxrobust.recipes.baselines import Dropquery
from jaxrobust.recipes.protocols import ActiveLearning


def random(recipe: ActiveLearning, problem: AnnotationProblem) -> Strategy:
    """Uniform draws from the pool without replacement."""

    def query(context: QueryContext) -> Query:
        pool = np.flatnonzero(context.in_pool)
        chosen = context.rng.choice(pool, min(context.budget, pool.size), replace=False)
        return Query(ids=chosen, scores={})

    return Strategy(phases=(target_phase(recipe, problem),), target="target", query=query)


def _uncertainty(kind: str) -> Callable[[ActiveLearning, AnnotationProblem], Strategy]:
    def build(recipe: ActiveLearning, problem: AnnotationProblem) -> Strategy:
        def score(logits):
            return -selection.classifier_confidence(jax.nn.softmax(logits), kind)

        name, phases = _asked(recipe, problem)

        def query(context: QueryContext) -> Query:
            scores = np.asarray(context.jit(f"{kind}/scores", score)(context.predict(name)))
            ids = selection.select_lowest(-scores, context.budget, where=context.in_pool)
            return Query(ids=ids, scores={"uncertainty": scores})

        return Strategy(
            phases, "target", query, unknown_scores=("uncertainty",), detector=_detector(phases)
        )

    build.__doc__ = f"The most uncertain images by `classifier_confidence(probs, {kind!r})`."
    return build


def _asked(
    recipe: ActiveLearning, problem: AnnotationProblem, **options
) -> tuple[str, tuple[Phase, ...]]:
    """The name of the network whose uncertainty counts, and the phases; `uncertainty.unknown_class`
    has it trained on unknown images too."""
    if not recipe.uncertainty.unknown_class:
        return "target", (target_phase(recipe, problem, **options),)
    detector = _detector_phase(recipe, problem, cross_entropy, **options)
    return "detector", (target_phase(recipe, problem), detector)


def _detector(phases: tuple[Phase, ...]) -> str:
    return "detector" if len(phases) == 2 else ""


least_confidence = _uncertainty("lc")
margin = _uncertainty("margin")
entropy = _uncertainty("entropy")


def coreset(recipe: ActiveLearning, problem: AnnotationProblem) -> Strategy:
    """Greedy k-center on the target classifier's features; labelled known images are centres."""

    def pick(features, in_pool, is_center):
        return selection.k_center_greedy(
            features, features, problem.budget, where=in_pool, labeled_where=is_center
        )

    def query(context: QueryContext) -> Query:
        is_center = np.zeros(context.in_pool.shape, bool)
        is_center[known(context.annotations, problem.num_classes)] = True
        picks = context.jit("coreset/picks", pick)(
            context.predict("target")["features"], context.in_pool, is_center
        )
        return Query(ids=_without_padding(picks), scores={})

    phases = (target_phase(recipe, problem, with_features=True),)
    return Strategy(phases, target="target", query=query)


def badge(recipe: ActiveLearning, problem: AnnotationProblem) -> Strategy:
    """k-means++ seeding on gradient embeddings."""
    name, phases = _asked(recipe, problem, with_features=True)

    def pick(key, outputs, in_pool):
        return selection.badge_select(
            key, outputs["logits"], outputs["features"], problem.budget, where=in_pool
        )

    def query(context: QueryContext) -> Query:
        key = jax.random.key(context.rng.integers(2**31))
        picks = context.jit("badge/picks", pick)(key, context.predict(name), context.in_pool)
        return Query(ids=_without_padding(picks), scores={})

    return Strategy(phases, target="target", query=query, detector=_detector(phases))


def _without_padding(picks: jax.Array) -> np.ndarray:
    ids = np.asarray(picks)
    return ids[ids >= 0]


def _placed_phase(
    recipe: ActiveLearning, problem: AnnotationProblem, dropout: Dropquery | None = None
) -> Phase:
    """The target classifier, which also says where an image lies and how stable its class is.

    `forward` gives `logits`; `place`, which is the input where that is the features of a frozen
    network, else what the head reads; and with `dropout` the `disagreements` of DropQuery, whose
    masks are applied to `place` and are the same in every round.
    """
    network, _, _ = recipe_parts(recipe, problem)
    module = network(1)
    is_vector = len(problem.input_shape) == 1

    def forward(variables, images):
        def classify(features):
            return cast(jax.Array, module.apply(variables, features, method="classify"))[:, 0]

        def read(images):
            return cast(jax.Array, module.apply(variables, images, method="features"))

        features = read(images)
        place = images if is_vector else features
        outputs = {"logits": classify(features), "place": place}
        if dropout is not None:
            top = jnp.argmax(outputs["logits"], axis=-1)
            count = jnp.zeros(top.shape, jnp.int32)
            for i in range(dropout.num_masks):
                kept = jax.random.bernoulli(jax.random.key(i), 1 - dropout.rate, place.shape)
                dropped = jnp.where(kept, place / (1 - dropout.rate), 0).astype(place.dtype)
                logits = classify(read(dropped) if is_vector else dropped)
                count += (jnp.argmax(logits, axis=-1) != top).astype(jnp.int32)
            outputs["disagreements"] = count
        return outputs

    phase = target_phase(recipe, problem, with_features=True)
    return dataclasses.replace(phase, forward=forward)


def _operands(
    context: QueryContext, num_components: int, *, unit_length: bool = False
) -> dict[str, Any]:
    """Operands of the selections: features, what is annotated, the pool, and a generator."""
    is_example = context.annotations != NO_EXAMPLE
    place = np.asarray(context.predict("target")["place"], np.float32)[is_example]
    place = place.reshape(len(place), -1)
    if unit_length:
        place = unit_rows(place)
    if num_components:
        place = selection.leading_components(place, num_components)
    return {
        "features": place,
        "annotated": ~context.in_pool[is_example],
        "where": context.in_pool[is_example],
        "rng": context.rng,
    }


def typiclust(recipe: ActiveLearning, problem: AnnotationProblem) -> Strategy:
    """TypiClust (Hacohen et al., ICML 2022), see `typical_select`."""
    options = dataclasses.asdict(recipe.typiclust)
    num_components, unit_length = options.pop("num_components"), options.pop("unit_length")

    def query(context: QueryContext) -> Query:
        operands = _operands(context, num_components, unit_length=unit_length)
        return Query(
            selection.typical_select(budget=context.budget, **operands, **options), scores={}
        )

    return Strategy((_placed_phase(recipe, problem),), target="target", query=query)


def probcover(recipe: ActiveLearning, problem: AnnotationProblem) -> Strategy:
    """ProbCover (Yehuda et al., NeurIPS 2022), see `cover_select`.

    For the radius, the clusters are as many as the known classes and one more.
    """
    options = recipe.probcover

    def query(context: QueryContext) -> Query:
        operands = _operands(context, options.num_components, unit_length=True)
        radius = options.radius or selection.cover_radius(
            operands["features"], problem.num_classes + 1, rng=context.rng, purity=options.purity
        )
        ids = selection.cover_select(
            budget=context.budget, radius=radius, num_covered=options.num_covered, **operands
        )
        return Query(ids, scores={}, notes={"radius": radius})

    return Strategy((_placed_phase(recipe, problem),), target="target", query=query)


def dropquery(recipe: ActiveLearning, problem: AnnotationProblem) -> Strategy:
    """DropQuery (Gupte et al., TMLR 2024), see `drop_query_select`."""
    options = recipe.dropquery

    def query(context: QueryContext) -> Query:
        operands = _operands(context, options.num_components)
        del operands["annotated"]
        count = np.asarray(context.predict("target")["disagreements"])
        count = count[: len(operands["where"])]
        ids = selection.drop_query_select(
            disagreements=count, budget=context.budget, num_masks=options.num_masks, **operands
        )
        return Query(ids, scores={"disagreements": count.astype(np.float32)})

    return Strategy((_placed_phase(recipe, problem, options),), target="target", query=query)


def _detector_phase(recipe: ActiveLearning, problem: AnnotationProblem, loss, **options) -> Phase:
    """(K+1)-way classifier of all annotated images, class K for the unknown ones."""
    phase = recipe_phase(
        "detector",
        problem.num_classes + 1,
        recipe,
        problem,
        loss=loss,
        members=lambda context: annotated(context.annotations),
        **options,
    )
    return dataclasses.replace(phase, class_probs=None)


def lfosa(recipe: ActiveLearning, problem: AnnotationProblem) -> Strategy:
    """LfOSA (Ning et al., CVPR 2022): the images most surely of the known class they look like.

    The detector is trained with the recipe's optimiser on logits divided by
    `lfosa.temperature`. The authors' script can add a centre loss, to which the commands of
    their experiments give weight 0; there is none here.
    """
    temperature = recipe.lfosa.temperature

    def loss(logits, labels, valid, key):
        return cross_entropy(logits / temperature, labels, valid, key)

    def query(context: QueryContext) -> Query:
        score = context.jit(
            "lfosa/scores", lambda logits, in_pool: selection.lfosa_score(logits, where=in_pool)
        )
        known = score(context.predict("detector"), context.in_pool)
        ids = selection.select_lowest(-np.asarray(known), context.budget, where=context.in_pool)
        return Query(ids, {"unknown_prob": np.asarray(jax.nn.sigmoid(-known))})

    phases = (target_phase(recipe, problem), _detector_phase(recipe, problem, loss))
    scores = ("unknown_prob",)
    return Strategy(phases, "target", query, unknown_scores=scores, detector="detector")


def eaoa(recipe: ActiveLearning, problem: AnnotationProblem) -> Strategy:
    """EAOA (Zong and Huang, CVPR 2025): low epistemic, then high aleatoric uncertainty.

    Purity is the product of two posteriors of looking known: of the detector's energy, and of the
    same energy formed from the classes in whose neighbourhood an image lies, in the detector's
    features of length 1. Of every predicted class `kappa` times the quota are kept by purity, and
    of these the quota with the highest aleatoric posterior; quotas add up to the budget or a little
    more, and chance decides what is left out. Both stages rank by log-odds, since posteriors round
    to exactly 1. The detector's loss has the energy term in batches with an unknown image alone, so
    that before any is known it is cross-entropy, as in the authors' code.
    """
    eaoa = recipe.eaoa
    margins = {"known_margin": eaoa.known_margin, "unknown_margin": eaoa.unknown_margin}

    def loss(logits, labels, valid, key):
        value, metrics = cross_entropy(logits, labels, valid, key)
        energy = energy_margin_loss(logits, labels, where=valid, **margins)
        has_unknown = jnp.any(valid & (labels == problem.num_classes))
        weight = jnp.where(has_unknown, eaoa.energy_weight, 0.0)
        return value + weight * energy, {**metrics, "energy": energy}

    def log_odds(scores, in_pool):
        """Of the upper component of the mixture that the pool's scores are fitted with."""
        scores = selection.min_max_normalize(scores, where=in_pool)
        mixture = selection.fit_gaussian_mixture_1d(scores, where=in_pool)
        return selection.gaussian_mixture_log_odds(scores, mixture)

    def score(target_logits, detector, in_pool, annotations):
        neighbor_energy = selection.reverse_neighbor_energy(
            unit_rows(detector["features"]),
            annotations,
            problem.num_classes,
            where=in_pool,
            num_neighbors=eaoa.num_neighbors,
        )
        energy = selection.epistemic_energy(detector["logits"])
        aleatoric = selection.aleatoric_uncertainty(target_logits)
        unknown = [log_odds(x, in_pool) for x in (energy, neighbor_energy)]
        return {
            "energy": energy,
            "neighbor_energy": neighbor_energy,
            # Of the product of both posteriors (1 / (1 + exp(u))) of looking known.
            "purity_log_odds": -jax.nn.logsumexp(jnp.stack([*unknown, sum(unknown)]), axis=0),
            "aleatoric": aleatoric,
            "aleatoric_log_odds": log_odds(aleatoric, in_pool),
            "prediction": jnp.argmax(target_logits, axis=-1).astype(jnp.int32),
        }

    def query(context: QueryContext) -> Query:
        scores = context.jit("eaoa/scores", score)(
            context.predict("target"),
            context.predict("detector"),
            context.in_pool,
            context.annotations,
        )
        scores = {name: np.asarray(column) for name, column in scores.items()}
        kappa = kappa_after(eaoa.kappa, context.precisions, eaoa.kappa_step)
        _, ids = selection.select_coarse_to_fine(
            -scores["purity_log_odds"],
            scores["aleatoric_log_odds"],
            context.budget,
            kappa=kappa,
            predictions=scores["prediction"],
            num_classes=problem.num_classes,
            where=context.in_pool,
            rng=context.rng,
        )
        return Query(ids, scores, notes={"kappa": float(kappa)})

    phases = (
        target_phase(recipe, problem),
        _detector_phase(recipe, problem, loss, with_features=True),
    )
    scores = ("energy", "neighbor_energy")
    return Strategy(phases, "target", query, unknown_scores=scores, detector="detector")
