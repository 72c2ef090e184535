"""What is compiled of a noisy-label run: training steps, predictions, probabilities."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.data.corrections import CORRECTED, KEPT, Reviewed
from jaxrobust.data.streaming import views_at
from jaxrobust.data.views import Views
from jaxrobust.engine.loops import Resume
from jaxrobust.engine.plan import Plan, place_plan
from jaxrobust.engine.sharding import Placement, on_every_device, split_rows
from jaxrobust.errors import UserError
from jaxrobust.methods.noisy_label_method import Batch, Method, Pass, Stage
from jaxrobust.recipes.methods import NOISY_LABEL_METHODS


def training_step(stage: Stage, views: Views) -> Callable:
    """A step of `stage` on raw images.

    Args:
      stage: of a method.
      views: of images.

    Returns:
      `(network, ids, key, num_done, peer, images, labels, statistics, label_scores, scalars) ->
      (network, metrics)`: `ids` int32 `[width]` by set, -1 at padding; `num_done` steps of the
      pass before this one, of the `num_steps` in `scalars`; `peer` as in `Stage.step`; `images` of
      the whole training set, uint8 `[N, H, W, 3]`, or what a stream gives for the batch; `labels`
      int32 `[N]`, or soft ones, float32 `[N, C]`; `statistics` as in `statistics_of`;
      `label_scores` as in `Pass`.
    """

    def batch(name, key, ids, images, labels, statistics, label_scores):
        # Slots beyond the batch size only even the rows out over the devices.
        ids = ids[: stage.batch_sizes[name]]
        lay_out = on_every_device if stage.mixes else split_rows
        rows = lay_out(jnp.maximum(ids, 0))
        keys = jax.random.split(key, len(stage.views))
        images = images[name] if isinstance(images, dict) else images
        raw = lay_out(views_at(images, rows, len(stage.views)))  # here images cross, as uint8
        seen = tuple(views(*each, statistics) for each in zip(stage.views, keys, raw, strict=True))
        values = {name: column[rows] for name, column in label_scores.items()}
        given, targets = labels[rows], None
        if given.ndim == 2:
            given, targets = jnp.argmax(given, axis=1).astype(jnp.int32), given
        return lay_out(Batch(rows, given, ids >= 0, seen, values, targets))

    def step(network, ids, key, num_done, peer, images, labels, statistics, label_scores, scalars):
        step_key, *keys = jax.random.split(key, 1 + len(ids))
        batches = {
            name: batch(name, k, ids[name], images, labels, statistics, label_scores)
            for name, k in zip(sorted(ids), keys, strict=True)
        }
        progress = num_done / scalars["num_steps"]
        return stage.step(network, peer, batches, step_key, {**scalars, "progress": progress})

    return step


def plan_of(entry: Pass, stage: Stage, placement: Placement, num_rows: int) -> Plan:
    """The rows of a pass on the devices; of the same shapes in every epoch."""
    plans = {
        name: place_plan(
            entry.ids[name], size, placement, capacity=num_rows, last_batch=stage.last_batch
        )
        for name, size in stage.batch_sizes.items()
    }
    (num_steps,) = {plan.num_steps for plan in plans.values()}
    return Plan({name: cast(np.ndarray, plan.ids) for name, plan in plans.items()}, num_steps)


def prediction(method: Method, view: str, views: Views, *, of_training_set: bool) -> Callable:
    """The logits of one network on raw images, seen in one view.

    Args:
      method: whose network it is.
      view: kind of view.
      views: of images.
      of_training_set: whether the images are those that the network was trained on.

    Returns:
      `(ids [width], key, variables, images, statistics) -> [width, C]`, or `[width, M, C]` for a
      method with heads; operands as in `training_step`.
    """

    def forward(ids, key, variables, images, statistics):
        (raw,) = views_at(images, ids, 1)
        images = views(view, key, raw, statistics)
        if of_training_set and method.score_forward is not None:
            return method.score_forward(variables, images, ids)
        return method.forward(variables, images)

    return forward


def given_labels(dataset: Any, reviewed: Reviewed) -> np.ndarray:
    """Labels int32 `[N]`, or soft ones float32 `[N, C]` in which reviewed labels are certain."""
    if (probs := getattr(dataset.train, "probs", None)) is None:
        return reviewed.labels
    decided = np.isin(reviewed.review, (CORRECTED, KEPT))
    probs = probs.copy()
    probs[decided] = np.eye(dataset.num_classes, dtype=np.float32)[reviewed.labels[decided]]
    return probs


def class_shares(given: np.ndarray, weights: np.ndarray | None, num_classes: int) -> np.ndarray:
    """Float32 `[C]`: the share of each class in labels, as they are weighted."""
    if given.ndim == 2:
        return np.average(given, axis=0, weights=weights).astype(np.float32)
    counts = np.bincount(given, weights, minlength=num_classes)
    return (counts / len(given)).astype(np.float32)


def check_takes(method: Method, name: str, *, soft: bool, weights: bool) -> None:
    """Refuses soft labels, or weights of examples, that a method cannot learn from.

    Raises:
      UserError: naming methods that can.
    """
    if soft and not method.soft:
        raise UserError(
            f"method={name!r} cannot learn from soft labels; choose another method, such as "
            "'dpc' or 'cross_entropy', or give one label for each example."
        )
    if weights and not NOISY_LABEL_METHODS.entry(name).weighted:
        raise UserError(
            f"method={name!r} has no loss that could be weighted; leave out sample_weight and "
            "class_weight, or choose another method, such as 'dpc'."
        )


def scores_of(method: Method, count: int) -> Callable:
    """`Method.score_labels` of the first `count` rows of logits."""

    def scores(logits, labels, *num_wrong):
        return method.score_labels(logits[:, :count], labels, *num_wrong)

    return scores


def probabilities(method: Method) -> Callable:
    """`logits [M, n, C] -> probabilities` of all predictors together `[n, C]`, and of each."""

    def probs(logits):
        together = method.class_probs(logits)
        return together, jax.vmap(lambda x: method.class_probs(x[None]))(logits)

    return probs


def counted_step(step: Callable) -> Callable:
    """A `training_step` for `epoch_program`, which counts the steps that are done."""

    def counted(carry, ids, key, *operands):
        network, num_done = carry
        network, values = step(network, ids, key, num_done, *operands)
        return (network, num_done + 1), values

    return counted


def without_count(program: Callable, placement: Placement) -> Callable:
    """An epoch of a `_counted` step as a program of the network alone."""

    def epoch(network, plan, key, *operands, resume):
        def on_pause(row, carry, sums):
            resume.on_pause(row, carry[0], sums)

        carry = network, placement.put(np.float32(resume.row))
        (network, _), sums = program(
            carry, plan, key, *operands, resume=Resume(resume.row, resume.sums, on_pause)
        )
        return network, sums

    return epoch
