"""Optimisers and learning-rate schedules that recipes name."""

import math

import jax
import jax.numpy as jnp
import ml_collections
import optax

from jaxrobust.errors import UserError, unknown_name
from jaxrobust.losses.bidirectional_learning import bldr_learning_rate

SCHEDULES = {
    "constant": (),
    "step": ("decay_every", "decay_factor"),
    "milestones": ("decay_epochs", "decay_factor"),
    "cosine": (),
    "constant_cosine": ("constant_epochs", "min_learning_rate"),
}
"""Schedule -> the fields of `optimizer` that it reads beside `learning_rate`."""

OPTIMIZERS = ("sgd", "one_cycle_adam")


def make_optimizer(
    config: ml_collections.ConfigDict, steps_per_epoch: int = 0
) -> optax.GradientTransformation:
    """SGD as the papers run it, or `one_cycle_adam`, without the learning rate.

    Weight decay is added to the gradient before the momentum, as in PyTorch, for every parameter.
    The step multiplies the result by `-learning_rate(config, epoch)`: the rate is a traced scalar,
    so a schedule never recompiles.

    Args:
      config: `momentum`, `nesterov`, `weight_decay`; and, where a recipe has it, `clip_norm`, the
        global norm above which a gradient is shortened, 0 for none. Where a recipe has the `name`
        one_cycle_adam: what that takes, and `cycle_epochs`, the length of its cycle.
      steps_per_epoch: for `one_cycle_adam`.

    Returns:
      The transformation from gradients to descent directions.
    """
    name = config.get("name", "sgd")
    if name not in OPTIMIZERS:
        raise UserError(unknown_name("optimizer.name", name, OPTIMIZERS))
    if name == "one_cycle_adam":
        return one_cycle_adam(config, config.cycle_epochs * steps_per_epoch)
    clip_norm = config.get("clip_norm", 0.0)
    return optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.add_decayed_weights(config.weight_decay),
        optax.trace(decay=config.momentum, nesterov=config.nesterov),
    )


def one_cycle_adam(
    config: ml_collections.ConfigDict, num_steps: int
) -> optax.GradientTransformation:
    """Adam under a one-cycle policy that also cycles its first moment's decay.

    Over `num_steps` the rate rises from `1 / div_factor` of the highest to the highest and falls to
    `1 / div_factor / final_div_factor` of it, while beta1 goes from 0.95 to 0.85 and back.
    Weight decay is coupled (added to the gradient, not AdamW's), for what `is_decayed`. Directions
    come scaled by the cycle, so the rate to multiply them with stays the highest one throughout.

    Args:
      config: `weight_decay`, `pct_start`, `div_factor`, `final_div_factor`.
      num_steps: length of the whole cycle; a training that stops earlier ends within it.

    Returns:
      The transformation from gradients to descent directions.

    References:
      Smith and Topin, "Super-Convergence", arXiv 1708.07120; Yang et al., ICCV 2023 (L2D).
    """

    def cycle(count, start, peak, end):
        return one_cycle(count, num_steps, start=start, peak=peak, end=end, rise=config.pct_start)

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), zeros, zeros)

    def update(grads, state, params=None):
        del params
        beta1, beta2 = cycle(state.count, 0.95, 0.85, 0.95), 0.999
        mu = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g**2, state.nu, grads)
        count = state.count + 1
        lowest = 1 / config.div_factor
        share = cycle(state.count, lowest, 1.0, lowest / config.final_div_factor)
        scale = share / (1 - beta1 ** count.astype(beta1.dtype))
        nu_scale = 1 - beta2 ** count.astype(beta1.dtype)
        directions = jax.tree.map(lambda m, v: scale * m / (jnp.sqrt(v / nu_scale) + 1e-8), mu, nu)
        return directions, optax.ScaleByAdamState(count, mu, nu)

    decay = optax.add_decayed_weights(config.weight_decay, mask=is_decayed)
    return optax.chain(decay, optax.GradientTransformation(init, update))


def is_decayed(params):
    """Which parameters are kernels: of two axes or more, and no biases."""
    return jax.tree_util.tree_map_with_path(
        lambda path, param: param.ndim > 1 and path[-1].key != "bias", params
    )


def one_cycle(
    step: jax.typing.ArrayLike,
    num_steps: int,
    *,
    start: float,
    peak: float,
    end: float,
    rise: float = 0.2,
) -> jax.Array:
    """A value that goes from start to peak and then to end along two half waves of a cosine.

    As PyTorch's `OneCycleLR` counts: the peak is at step `rise * num_steps - 1`, which need not be
    a whole number, and the end at step `num_steps - 1`.

    Args:
      step: counted from 0.
      num_steps: length of the cycle, at least 2.
      start: value at step 0.
      peak: greatest (or least) value.
      end: value at the last step.
      rise: share of the steps before the peak, in (0, 1).

    Returns:
      The value at `step`, of JAX's default float type.
    """
    if num_steps < 2 or not 0 < rise < 1:
        raise UserError(
            f"A one-cycle schedule needs 2 steps or more and 0 < optimizer.pct_start < 1, but has "
            f"{num_steps} and {rise}."
        )
    top, last = rise * num_steps - 1, num_steps - 1
    step = jnp.asarray(step, float)
    rising = step <= top
    done = jnp.where(rising, step / top if top > 0 else 1.0, (step - top) / (last - top))
    origin, target = jnp.where(rising, start, peak), jnp.where(rising, peak, end)
    return target + (origin - target) * jnp.cos(jnp.pi / 2 * jnp.clip(done, 0, 1)) ** 2


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
                cosine_epochs=max(num_epochs - config.constant_epochs, 1),
                min_lr=config.min_learning_rate,
            )
            return float(rate)
    raise UserError(unknown_name("optimizer.schedule", config.schedule, SCHEDULES))
