"""What is compiled of a noisy-label run: training steps, predictions, probabilities."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.data.streaming import views_at
from jaxrobust.data.views import Views
from jaxrobust.engine.loops import Resume
from jaxrobust.engine.sharding import Placement, on_every_device, split_rows
from jaxrobust.methods.noisy_label_method import Batch, Method, Stage


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
      int32 `[N]`; `statistics` as in `statistics_of`; `label_scores` as in `Pass`.
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
        return lay_out(Batch(rows, labels[rows], ids >= 0, seen, values))

    def step(network, ids, key, num_done, peer, images, labels, statistics, label_scores, scalars):
        step_key, *keys = jax.random.split(key, 1 + len(ids))
        batches = {
            name: batch(name, k, ids[name], images, labels, statistics, label_scores)
            for name, k in zip(sorted(ids), keys, strict=True)
        }
        progress = num_done / scalars["num_steps"]
        return stage.step(network, peer, batches, step_key, {**scalars, "progress": progress})

    return step


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
