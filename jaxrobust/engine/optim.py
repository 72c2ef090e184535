"""Optimisers and learning-rate schedules that recipes name."""

import math

import ml_collections
import optax

from jaxrobust.errors import UserError, unknown_name
from jaxrobust.losses.bidirectional import bldr_learning_rate

SCHEDULES = ("constant", "step", "milestones", "cosine", "constant_cosine")


def make_optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """SGD as the papers run it, without the learning rate.

    Weight decay is added to the gradient before the momentum, as in PyTorch, for every parameter.
    The step multiplies the result by `-learning_rate(config, epoch)`: the rate is a traced scalar,
    so a schedule never recompiles.

    Args:
      config: `momentum`, `nesterov`, `weight_decay`; and, where a recipe has it, `clip_norm`, the
        global norm above which a gradient is shortened, 0 for none.

    Returns:
      The transformation from gradients to descent directions.
    """
    clip_norm = config.get("clip_norm", 0.0)
    return optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.add_decayed_weights(config.weight_decay),
        optax.trace(decay=config.momentum, nesterov=config.nesterov),
    )


def learning_rate(config: ml_collections.ConfigDict, epoch: int, num_epochs: int) -> float:
    """Rate of one epoch, constant within it.

    `constant`: lr. `step`: lr * decay_factor ** (epoch // decay_every). `milestones`: lr *
    decay_factor ** (how many of decay_epochs have been reached). `cosine`: from lr at epoch 0 to 0
    after the last. `constant_cosine`: lr up to epoch constant_epochs, from there a cosine to
    min_learning_rate after the last.

    Args:
      config: `learning_rate`, `schedule`; `decay_factor` for `step`, with `decay_every`, and for
        `milestones`, with `decay_epochs`; `constant_epochs` and `min_learning_rate` for
        `constant_cosine`.
      epoch: counted from 0.
      num_epochs: length of the training.

    Raises:
      UserError: if the schedule is not one of `SCHEDULES`.
    """
    match config.schedule:
        case "constant":
            return config.learning_rate
        case "step":
            return config.learning_rate * config.decay_factor ** (epoch // config.decay_every)
        case "milestones":
            reached = sum(epoch >= milestone for milestone in config.decay_epochs)
            return config.learning_rate * config.decay_factor**reached
        case "cosine":
            return config.learning_rate * (1 + math.cos(math.pi * epoch / num_epochs)) / 2
        case "constant_cosine":
            rate = bldr_learning_rate(
                epoch,
                base_lr=config.learning_rate,
                warmup_epochs=config.constant_epochs,
                cosine_epochs=num_epochs - config.constant_epochs,
                min_lr=config.min_learning_rate,
            )
            return float(rate)
    raise UserError(unknown_name("optimizer.schedule", config.schedule, SCHEDULES))
