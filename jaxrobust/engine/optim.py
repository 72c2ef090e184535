"""Optimisers and learning-rate schedules that recipes name."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrobust.arrays import at_least_float32
from jaxrobust.engine.training import NUMBERS, is_head
from jaxrobust.errors import UserError
from jaxrobust.recipes.run import OneCycleAdam, Optimizer, Sgd


def make_optimizer(options: Optimizer, steps_per_epoch: int = 0) -> optax.GradientTransformation:
    """SGD as the papers run it, or `one_cycle_adam`, without the learning rate.

    Weight decay is added to the gradient before the momentum, as in PyTorch, for every parameter.
    The step multiplies the result by `-learning_rate(options, epoch)`: the rate is a traced scalar,
    so a schedule never recompiles. Nor do other `training.NUMBERS`, which an update takes by name
    in place of those of `options`.
    """

    def made(numbers: Mapping[str, Any]) -> optax.GradientTransformation:
        if isinstance(options, OneCycleAdam):
            return one_cycle_adam(options, options.cycle_epochs * steps_per_epoch, **numbers)
        assert isinstance(options, Sgd)
        sgd = optax.chain(
            optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity(),
            optax.add_decayed_weights(numbers["weight_decay"]),
            optax.trace(decay=numbers["momentum"], nesterov=options.nesterov),
        )
        if options.head_factor == 1:
            return sgd
        return optax.chain(sgd, optax.masked(optax.scale(options.head_factor), _heads))

    own = numbers_of(options)

    def update(updates, state, params=None, **numbers):
        return made({**own, **numbers}).update(updates, state, params)

    return optax.GradientTransformationExtraArgs(made(own).init, update)


def numbers_of(options: Optimizer | None) -> dict[str, float]:
    """Those of `training.NUMBERS` that an optimiser has."""
    return {name: getattr(options, name) for name in NUMBERS if hasattr(options, name)}


def _heads(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: is_head(path, params), params)


def one_cycle_adam(
    options: OneCycleAdam, num_steps: int, *, weight_decay: float | jax.Array
) -> optax.GradientTransformation:
    """Adam under a one-cycle policy that also cycles its first moment's decay.

    Over `num_steps` the rate rises from `1 / div_factor` of the highest to the highest and falls to
    `1 / div_factor / final_div_factor` of it, while beta1 goes from 0.95 to 0.85 and back.
    Weight decay is coupled (added to the gradient, not AdamW's), for what `is_decayed`. Directions
    come scaled by the cycle, so the rate to multiply them with stays the highest one throughout.

    References:
      Smith and Topin, "Super-Convergence", arXiv 1708.07120; Yang et al., ICCV 2023 (L2D).
    """

    def cycle(start, peak, end):
        return functools.partial(
            one_cycle, num_steps=num_steps, start=start, peak=peak, end=end, rise=options.pct_start
        )

    lowest = 1 / options.div_factor
    with_schedules = optax.inject_hyperparams(optax.scale_by_adam, ("b2", "eps", "eps_root"))
    adam = with_schedules(b1=cycle(0.95, 0.85, 0.95))

    def update(updates, state, params=None):
        # optax takes a float to an integer power, which strict promotion of dtypes refuses.
        with jax.numpy_dtype_promotion("standard"):
            return adam.update(updates, state, params)

    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=is_decayed),
        optax.GradientTransformation(adam.init, update),
        optax.scale_by_schedule(cycle(lowest, 1.0, lowest / options.final_div_factor)),
    )


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

    Raises:
      UserError: for fewer than 2 steps, or a `rise` outside of (0, 1).
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


def learning_rate(options: Optimizer, epoch: int, num_epochs: int) -> float:
    """Rate of one epoch, constant within it.

    In the first w = `warm_up_epochs`, where a recipe has some, it is (epoch + 1) / (w + 1) of what
    the schedule says.

    `constant`: lr. `step`: lr * decay_factor ** (epoch // decay_every). `milestones`: lr *
    decay_factor ** (how many of decay_epochs have been reached). `cosine`: from lr at epoch 0 to 0
    after the last. `constant_cosine`: lr up to epoch constant_epochs, from there a cosine to
    min_learning_rate after the last.
    """
    warm_up = options.warm_up_epochs if isinstance(options, Sgd) else 0
    return min((epoch + 1) / (warm_up + 1), 1.0) * _scheduled(options, epoch, num_epochs)


def _scheduled(options: Optimizer, epoch: int, num_epochs: int) -> float:
    rate = options.learning_rate
    match options:
        case Sgd(schedule="step"):
            return rate * options.decay_factor ** (epoch // options.decay_every)
        case Sgd(schedule="milestones"):
            reached = sum(epoch >= milestone for milestone in options.decay_epochs)
            return rate * options.decay_factor**reached
        case Optimizer(schedule="cosine"):
            return rate * (1 + math.cos(math.pi * epoch / num_epochs)) / 2
        case Sgd(schedule="constant_cosine"):
            rate = constant_cosine(
                epoch,
                base_lr=rate,
                warmup_epochs=options.constant_epochs,
                cosine_epochs=max(num_epochs - options.constant_epochs, 1),
                min_lr=options.min_learning_rate,
            )
    return float(rate)


def constant_cosine(
    epoch: jax.typing.ArrayLike,
    *,
    base_lr: float,
    warmup_epochs: int,
    cosine_epochs: int,
    min_lr: float,
) -> jax.Array:
    """Learning rate of one epoch: constant warm-up, then one cosine.

    `min_lr + (base_lr - min_lr) * (1 + cos(pi * t / cosine_epochs)) / 2` with
    `t = max(epoch - warmup_epochs, 0)`.

    Args:
      epoch: counted from 0. Epochs `0..warmup_epochs`, both included, run at `base_lr`.
      base_lr: rate of the warm-up.
      warmup_epochs: 20 for CIFAR-10N, 40 for CIFAR-100N, at BLDR.
      cosine_epochs: length of the cosine; the run lasts `warmup_epochs + cosine_epochs`.
      min_lr: rate that the cosine would reach one epoch after the last.

    Returns:
      Float of `epoch`'s shape, at least float32.

    References:
      Zong et al., arXiv 2209.01334 (authors' code).
    """
    elapsed = jnp.maximum(at_least_float32(epoch) - warmup_epochs, 0.0)
    cosine = (1.0 + jnp.cos(jnp.pi * elapsed / cosine_epochs)) / 2.0
    return min_lr + (base_lr - min_lr) * cosine
