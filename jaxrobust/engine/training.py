"""The training state of one network, and a step of gradient descent."""

from collections.abc import Callable
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

State = TypeVar("State", bound="TrainState")


class TrainState(struct.PyTreeNode):
    """Everything of one network that must survive a kill.

    Attributes:
      params: parameters, float32.
      batch_stats: BatchNorm running averages, float32.
      opt_state: the optimiser's state.
    """

    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_state(
    key: jax.Array,
    module: nn.Module,
    optimizer: optax.GradientTransformation,
    input_shape: tuple[int, ...],
) -> TrainState:
    """Fresh parameters, statistics and optimiser state for inputs of `input_shape`, one of them."""
    variables = module.init(key, jnp.zeros((1, *input_shape)))
    params = variables["params"]
    return TrainState(params, variables.get("batch_stats", {}), optimizer.init(params))


def sgd_step(
    state: State,
    loss_fn: Callable,
    optimizer: optax.GradientTransformation,
    learning_rate: jax.Array,
) -> tuple[State, dict[str, jax.Array]]:
    """One descent step.

    Args:
      state: before the step.
      loss_fn: `params -> (scalar loss, (new batch_stats, metrics dict of scalars))`.
      optimizer: gives descent directions, without the rate.
      learning_rate: scalar.

    Returns:
      The state after the step, and the metrics with `loss` added.
    """
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (batch_stats, metrics)), grads = gradient(state.params)
    state = descend(state, grads, optimizer, learning_rate).replace(batch_stats=batch_stats)
    return state, {"loss": loss, **metrics}


def descend(
    state: State,
    grads: Any,
    optimizer: optax.GradientTransformation,
    learning_rate: jax.Array,
) -> State:
    """The state with parameters and optimiser state after one step along known gradients."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, optax.tree.scale(-learning_rate, updates))
    return state.replace(params=params, opt_state=opt_state)
