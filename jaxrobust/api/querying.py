"""`jaxrobust.query`: which examples to annotate next, from arrays."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from jaxrobust.api import in_memory
from jaxrobust.data.inputs import aligned, check_lengths
from jaxrobust.data.label_inputs import Labels, as_annotations
from jaxrobust.data.scaling import scaling_of
from jaxrobust.errors import UserError, check_count, unknown_name
from jaxrobust.methods import annotation_gain
from jaxrobust.methods.strategy import NOT_ANNOTATED
from jaxrobust.recipes.methods import STRATEGIES
from jaxrobust.recipes.parse import parse
from jaxrobust.recipes.protocols import ActiveLearning
from jaxrobust.tasks import active_learning

_UNLABELED, _UNKNOWN = -1, -2  # as in jaxrobust
_OWN_RECIPES = ("bual", "dcfs", "e2oal")  # strategies with options of their own


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class QueryResult:
    """The examples to annotate next.

    Attributes:
      ids: int `[b]`, positions in the annotations, in order of choice.
      scores: float64 `[N]` by name, the scores that the choice was made by.
      pred_probs: float32 `[N, K]`, of the target classifier.
      summary: JSON-able: `method`, `num_annotated`, `num_known`, `num_unknown`, `num_left`; and
        `next_query`, what the answers are likely to bring: `points` of accuracy with a standard
        `error`, and the same in words, `text`. It is None for images that were not embedded, and
        below ten annotated examples of a class.
    """

    ids: np.ndarray
    scores: dict[str, np.ndarray]
    pred_probs: np.ndarray
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"QueryResult({len(self.ids)} of {len(self.pred_probs):,} examples to annotate)"


def query(
    annotations: Any,
    *,
    features: Any = None,
    images: Any = None,
    budget: int,
    method: str = "bual",
    num_classes: int | None = None,
    precisions: Sequence[float | None] | None = (),
    seed: int = 0,
    config: Any = None,
    workdir: str | os.PathLike | None = None,
    progress: bool = False,
) -> QueryResult:
    """Chooses examples to annotate from an open set, in which some are of none of the classes.

    One round of the annotation task, as in `jaxrobust run --config=bual:features`: the networks of
    the strategy are trained on the annotated examples and score the others.

    Args:
      annotations: int `[N]`: a class 0..K-1; -1 (`jaxrobust.UNLABELED`) if not annotated; or -2
        (`jaxrobust.UNKNOWN`) if annotated as none of the classes. A `Consensus` stands for its
        labels, of the items that somebody voted on.
      features: float `[N, D]`, or `[N, V, D]` with V views of each example.
      images: `[N, H, W(, 3)]` instead of features, as for `find_label_issues`.
      budget: number of examples to choose; all, if fewer are left.
      method: an annotation strategy; see `jaxrobust list methods`.
      num_classes: K; None for the highest class + 1.
      precisions: of earlier queries, the fraction of each that was of a known class. A None in it,
        None for all, and an empty sequence if an unknown example is annotated, stand for the
        fraction among all annotated examples.
      seed: of the training.
      config: as for `find_label_issues`, of the strategy.
      workdir: folder for the run's files, where the same call continues after an interruption.
      progress: whether to show a bar.

    Returns:
      `QueryResult`.

    Raises:
      UserError: if an argument is invalid, nothing is annotated, or a class has no example.
    """
    annotations, features, images = aligned(
        annotations=annotations, features=features, images=images
    )
    name, inputs = in_memory.check_inputs(features=features, images=images)
    given, num_classes = as_annotations(annotations, num_classes)
    check_lengths(annotations=given, **{name: inputs})
    check_count("budget", budget, " of examples")
    _check_classes(given, num_classes)
    if method not in STRATEGIES:
        raise UserError(unknown_name("method", method, STRATEGIES))
    name, inputs = in_memory.embed_photographs(name, inputs, config, progress=progress)
    num_left = int((given == _UNLABELED).sum())
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
    # The task expects labelled examples first.
    order = np.argsort(given < 0, kind="stable")
    dataset = in_memory.make_dataset(
        name,
        inputs[order],
        Labels(
            np.where(given < 0, -1, given)[order].astype(np.int32),
            np.arange(num_classes),
            tuple(map(str, range(num_classes))),
        ),
    )
    shapes = inputs.shape, num_classes, in_memory.shapes_of(dataset)
    targets = np.where(given == _UNLABELED, NOT_ANNOTATED, given)
    targets = np.where(given == _UNKNOWN, num_classes, targets)[order].astype(np.int32)
    with (
        in_memory.called_from_python(),
        in_memory.programs_for(recipe, *shapes) as programs,
    ):
        chosen, probs = active_learning.choose(
            recipe,
            dataset,
            targets,
            workdir,
            precisions=_filled_in(precisions, given),
            programs=programs,
            bar=progress,
        )
    place = np.argsort(order)
    return QueryResult(
        ids=order[chosen.ids],
        scores={n: np.asarray(x)[place].astype(np.float64) for n, x in chosen.scores.items()},
        pred_probs=probs[place].astype(np.float32),
        summary=_summary(method, given, num_classes, len(chosen.ids), name, inputs),
    )


def _summary(
    method: str, given: np.ndarray, num_classes: int, size: int, name: str, inputs: np.ndarray
) -> dict[str, Any]:
    """As of `QueryResult`, after a query of `size` examples."""
    known = np.flatnonzero(given >= 0)
    num_unknown = int((given == _UNKNOWN).sum())
    gain = None
    if name == "features":
        num_more = size * len(known) / (len(known) + num_unknown)
        places = inputs[known].mean(axis=1, dtype=np.float32)
        gain = annotation_gain.of_next_query(places, given[known], num_classes, num_more=num_more)
    return {
        "method": method,
        "num_annotated": len(known) + num_unknown,
        "num_known": len(known),
        "num_unknown": num_unknown,
        "num_left": int((given == _UNLABELED).sum()),
        "next_query": gain,
    }


def _check_classes(given: np.ndarray, num_classes: int) -> None:
    counts = np.bincount(given[given >= 0], minlength=num_classes)
    if (counts == 0).any():
        raise UserError(
            f"annotations has no example of class {int(np.argmin(counts))}; annotate one of each "
            f"of the {num_classes} classes, or number them from 0 without a gap."
        )
    if not (given == _UNLABELED).any():
        raise UserError("annotations has no entry -1 (UNLABELED): there is nothing to choose from.")


def _filled_in(precisions: Sequence[float | None] | None, given: np.ndarray) -> tuple[float, ...]:
    """Precisions of earlier queries; those not given are that of all annotated examples."""
    share = float((given >= 0).sum() / max((given != _UNLABELED).sum(), 1))
    has_unknown = bool((given == _UNKNOWN).any())
    if precisions is None or (len(precisions) == 0 and has_unknown):
        return (share,) if has_unknown else ()
    filled = tuple(share if value is None else float(value) for value in precisions)
    for value in filled:
        if not 0 <= value <= 1:
            raise UserError(f"precisions holds {value}; each must lie in [0, 1], or be None.")
    return filled
