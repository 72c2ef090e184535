"""`jaxrobust.query`: chooses the examples to annotate next, from arrays."""

import dataclasses
import numbers
import os
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from jaxrobust.api import in_memory
from jaxrobust.data.annotation_inputs import UNKNOWN, UNLABELED, as_annotations
from jaxrobust.data.inputs import Labels, aligned, check_lengths
from jaxrobust.data.scaling import scaling_of
from jaxrobust.errors import UserError, check_count, for_python, shown, unknown_name
from jaxrobust.methods import annotation_gain
from jaxrobust.methods.strategy import NOT_ANNOTATED
from jaxrobust.recipes.methods import STRATEGIES, StrategyName
from jaxrobust.recipes.parse import parse
from jaxrobust.recipes.protocols import ActiveLearning
from jaxrobust.tasks import active_learning
from jaxrobust.tasks.images import rows_on_devices

_OWN_RECIPES = ("bual", "dcfs", "e2oal")  # strategies with options of their own
_WITHOUT_LABELS = ("typiclust", "probcover", "random")  # strategies that ask no network
_OF_TWO = ("bual", "dcfs", "dropquery", "e2oal", "eaoa")  # that compare known classes


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class QueryResult:
    """The examples to annotate next.

    Attributes:
      ids: int `[b]`, positions in the annotations, in the order of choice.
      scores: name -> float64 `[N]`, the scores that the choice is based on.
      pred_probs: float32 `[N, K]`, probabilities of the target classifier; 1 / K before anything is
        annotated.
      classes: `[K]` in the type of the annotations, the class of each column of `pred_probs`.
      class_names: names of the K classes.
      summary: JSON-able: `method`, `num_annotated`, `num_known`, `num_unknown`, `num_left`; and
        `next_query`, the expected gain from the answers: `points` of accuracy with a standard
        `error`, and the same in words, `text`. It is None for images that were not embedded, and if
        a class has fewer than ten annotated examples.

    Examples:
      >>> annotations = ["cat", "dog", None, "unknown", None, "cat", "dog"]
      >>> points = [[0, 2], [2, 0], [1, 1], [-3, -3], [-4, -3], [0, 3], [3, 0]]
      >>> result = query(annotations, features=points, budget=1, method="margin")
      >>> result
      QueryResult(1 of 7 examples to annotate)
      >>> result.pred_probs.shape, result.class_names
      ((7, 2), ('cat', 'dog'))
    """

    ids: np.ndarray
    scores: dict[str, np.ndarray]
    pred_probs: np.ndarray
    classes: np.ndarray
    class_names: tuple[str, ...]
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"QueryResult({len(self.ids)} of {len(self.pred_probs):,} examples to annotate)"


@for_python()
def query(
    annotations: Any,
    *,
    features: Any = None,
    images: Any = None,
    budget: int,
    method: StrategyName | None = None,
    num_classes: int | None = None,
    class_names: Any = None,
    precisions: Sequence[float | None] | None = (),
    seed: int = 0,
    config: Any = None,
    workdir: str | os.PathLike | None = None,
    progress: bool = False,
) -> QueryResult:
    """Chooses examples to annotate from an open set, in which some belong to none of the classes.

    This is one round of the annotation task, as in `jaxrobust run --config=bual:features`: the
    networks of the strategy are trained on the annotated examples and score the others.

    Args:
      annotations: `[N]`, the class of each example: integers 0..K-1, or names; -1
        (`jaxrobust.UNLABELED`), NaN, None, NA or "" if it has not been annotated; -2
        (`jaxrobust.UNKNOWN`) or "unknown" if it is of none of the classes. A single class is
        enough, such as "mine". A `Consensus` stands for the labels of the items that somebody voted
        on.
      features: float `[N, D]`, or `[N, V, D]` with V views of each example.
      images: `[N, H, W(, 3)]` instead of features, as for `find_label_issues`.
      budget: number of examples to choose; all remaining ones if fewer are left.
      method: an annotation strategy; see `jaxrobust list methods`. None for `"bual"` or, with a
        single known class, `"margin"`, which chooses the examples whose membership is least
        certain. With a single class, `"lfosa"` chooses the examples that most certainly belong to
        it; `"bual"`, `"dcfs"`, `"dropquery"`, `"e2oal"` and `"eaoa"` compare known classes and need
        two. Until every class has an example, use `"typiclust"`, `"probcover"` (which needs
        `num_classes`) or `"random"`.
      num_classes: K, for integer annotations; None for the highest class + 1.
      class_names: the K classes: names of the class ids, or the values that occur; None for the
        values that occur, in sorted order.
      precisions: for each earlier query, the fraction of its examples that were of a known class. A
        None entry, None instead of the sequence, or an empty sequence although an unknown example
        is annotated, means the fraction among all annotated examples.
      seed: random seed of the training.
      config: as for `find_label_issues`, for the strategy.
      workdir: folder for the run's files, from which the same call continues after an interruption.
      progress: whether to show a progress bar.

    Returns:
      `QueryResult`.

    Raises:
      UserError: if an argument is invalid, or the method needs an example of each class and there
        is none.

    Examples:
      The first query, then the example that the classifier is least certain about:

      >>> points = [[0, 2], [2, 0], [1, 1], [-3, -3], [-4, -3], [0, 3], [3, 0]]
      >>> first = query([None] * 7, features=points, budget=3, method="typiclust").ids
      >>> annotations = ["cat", "dog", None, "unknown", None, "cat", "dog"]
      >>> query(annotations, features=points, budget=1, method="margin")
      QueryResult(1 of 7 examples to annotate)
    """
    annotations, features, images = aligned(
        annotations=annotations, features=features, images=images
    )
    name, inputs = in_memory.check_inputs(features=features, images=images)
    known = as_annotations(annotations, num_classes, class_names)
    given = known.ids
    check_lengths(annotations=given, **{name: inputs})
    check_count("budget", budget, " of examples")
    method = method or ("margin" if known.num_classes == 1 else "bual")
    if method not in STRATEGIES:
        raise UserError(unknown_name("method", method, STRATEGIES))
    precisions = _filled_in(precisions, given)
    num_left = int((given == UNLABELED).sum())
    if not num_left:
        raise UserError("annotations has no entry -1 (UNLABELED): there is nothing to choose from.")
    name, inputs = in_memory.embed_photographs(name, inputs, config, progress=progress)
    _check_classes(known, method, name)
    config = in_memory.make_config(
        method if method in _OWN_RECIPES else "active_learning_baselines",
        inputs,
        config,
        method=method,
        default=method,
        seed=seed,
    )
    config.oracle = "truth"
    with config.unlocked():
        config.al.update({"rounds": 1, "query_last": True, "query_size": min(budget, num_left)})
    recipe = cast(ActiveLearning, parse(config))
    if name == "features" and (scaling := scaling_of(inputs)) is not None:
        inputs = scaling(inputs)
    num_classes = max(known.num_classes, 1)
    names, labels = (*known.names, "", "")[: max(num_classes, 2)], np.maximum(given, -1)
    if len(np.unique(labels[labels >= 0])) < len(names):
        # A data set has two classes and examples of each. What is learned are the annotations.
        labels = np.arange(len(given)) % len(names)
    # The task expects labelled examples first.
    order = np.argsort(given < 0, kind="stable")
    dataset = in_memory.make_dataset(
        name,
        inputs[order],
        labels[order].astype(np.int32),
        names,
    )
    rows = rows_on_devices(len(given), STRATEGIES.entry(method), pads=workdir is None)
    shapes = rows, inputs.shape[1:], num_classes, in_memory.shapes_of(dataset)
    targets = np.where(given == UNLABELED, NOT_ANNOTATED, given)
    targets = np.where(given == UNKNOWN, num_classes, targets)[order].astype(np.int32)
    with in_memory.programs_for(recipe, *shapes) as programs:
        chosen, probs = active_learning.choose(
            recipe,
            dataset,
            targets,
            workdir,
            num_classes=num_classes,
            precisions=precisions,
            programs=programs,
            bar=progress,
        )
    place = np.argsort(order)
    if not (given >= 0).any():  # no classifier was trained
        probs = np.full((len(given), known.num_classes), 1 / num_classes)
    return QueryResult(
        ids=order[chosen.ids],
        scores={n: np.asarray(x)[place].astype(np.float64) for n, x in chosen.scores.items()},
        pred_probs=probs[place].astype(np.float32),
        classes=known.classes,
        class_names=known.names,
        summary=_summary(method, known, len(chosen.ids), name, inputs),
    )


def _summary(
    method: str, annotated: Labels, size: int, name: str, inputs: np.ndarray
) -> dict[str, Any]:
    """As of `QueryResult`, after a query of `size` examples."""
    given = annotated.ids
    known = np.flatnonzero(given >= 0)
    num_unknown = int((given == UNKNOWN).sum())
    gain = None
    if name == "features" and annotated.num_classes > 1:
        num_more = size * len(known) / max(len(known) + num_unknown, 1)
        places = inputs[known].mean(axis=1, dtype=np.float32)
        gain = annotation_gain.of_next_query(
            places, given[known], annotated.num_classes, num_more=num_more
        )
    return {
        "method": method,
        "num_annotated": len(known) + num_unknown,
        "num_known": len(known),
        "num_unknown": num_unknown,
        "num_left": int((given == UNLABELED).sum()),
        "next_query": gain,
    }


def _check_classes(annotated: Labels, method: str, name: str) -> None:
    """Refuses a method that needs annotations that are missing."""
    if annotated.num_classes == 1 and method in _OF_TWO:
        raise UserError(
            f"method={method!r} compares known classes, but there is only "
            f"{annotated.names[0]!r}; choose method='lfosa' for examples that certainly belong "
            "to it, or 'margin' for doubtful ones."
        )
    counts = np.bincount(annotated.ids[annotated.ids >= 0], minlength=annotated.num_classes)
    if counts.all() and counts.size:
        return
    if not counts.any():
        missing = "no example of a class"
        remedy = "choose the first ones"
    else:
        missing = f"no example of class {annotated.names[np.argmin(counts)]}"
        remedy = (
            f"annotate one of each of the {len(counts)} classes, number them from 0 without a gap, "
            "or choose"
        )
    names = " or ".join(f"method={each!r}" for each in _WITHOUT_LABELS)
    if method not in _WITHOUT_LABELS:
        raise UserError(
            f"annotations has {missing}, and method={method!r} learns from them; {remedy} by "
            f"{names}."
        )
    if name == "images" and method != "random":
        raise UserError(
            f"annotations has {missing}, and method={method!r} then needs features of the "
            "images: install jaxrobust[pretrained], or give features= from your own network."
        )
    if method == "probcover" and not annotated.num_classes:
        raise UserError(
            "method='probcover' derives its radius from the number of classes; give num_classes=."
        )


def _filled_in(precisions: Any, given: np.ndarray) -> tuple[float, ...]:
    """Precisions of earlier queries; missing ones are that of all annotated examples."""
    share = float((given >= 0).sum() / max((given != UNLABELED).sum(), 1))
    has_unknown = bool((given == UNKNOWN).any())
    if np.ndim(precisions) != 1 and precisions is not None:
        raise UserError(
            f"precisions={shown(precisions)} must be a list with a fraction for each earlier "
            "query, such as [0.8, 0.65]."
        )
    if precisions is None or (len(precisions) == 0 and has_unknown):
        return (share,) if has_unknown else ()
    for value in precisions:
        if not (value is None or (isinstance(value, numbers.Real) and 0 <= float(value) <= 1)):
            raise UserError(
                f"precisions holds {shown(value)}; each must lie in [0, 1], or be None."
            )
    return tuple(share if value is None else float(value) for value in precisions)
