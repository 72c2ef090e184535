"""The training state of one network, and a step of gradient descent."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

State = TypeVar("State", bound="TrainState")


class TrainState(struct.PyTreeNode):
    """Everything of one network that must survive a kill."""

    params: Any  # parameters, float32
    batch_stats: Any  # BatchNorm running averages, float32
    opt_state: Any  # the optimiser's state

    @property
    def variables(self) -> dict[str, Any]:
        return {"params": self.params, "batch_stats": self.batch_stats}


NUMBERS = ("weight_decay", "momentum")
"""Options of an optimiser that are operands of its steps."""

_HEADS = "heads_"  # of the parameters of a network whose backbone's lie beside them


def is_head(path: tuple[Any, ...], params: Mapping[str, Any]) -> bool:
    """Whether a parameter belongs to no backbone, by its path in the parameters of a network.

    A network either has its backbone under the key `backbone`, or heads under `heads_0`, ...
    """
    name = path[0].key
    return name != "backbone" if "backbone" in params else name.startswith(_HEADS)


def backbone_of(network: "TrainState | Mapping[str, Any]") -> dict[str, Any]:
    """`params` and `batch_stats` of a network without those of heads."""
    variables = network.variables if isinstance(network, TrainState) else network
    return {name: _backbone(variables.get(name, {})) for name in ("params", "batch_stats")}


def with_backbone(network: State, variables: Mapping[str, Any]) -> State:
    """The state with another backbone, and all else as it was."""

    def replaced(part, backbone):
        if "backbone" in part:
            return {**part, "backbone": backbone}
        return {**part, **backbone}

    return network.replace(
        **{name: replaced(getattr(network, name), part) for name, part in variables.items()}
    )


def _backbone(part: Mapping[str, Any]) -> dict[str, Any]:
    if "backbone" in part:
        return dict(part["backbone"])
    return {name: x for name, x in part.items() if not name.startswith(_HEADS)}


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
    scalars: Mapping[str, jax.Array],
) -> tuple[State, dict[str, jax.Array]]:
    """One descent step, and the metrics with `loss` added; `scalars` as in `descend`."""
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (batch_stats, metrics)), grads = gradient(state.params)
    state = descend(state, grads, optimizer, scalars).replace(batch_stats=batch_stats)
    return state, {"loss": loss, **metrics}


def descend(
    state: State,
    grads: Any,
    optimizer: optax.GradientTransformation,
    scalars: Mapping[str, jax.Array],
) -> State:
    """The state with parameters and optimiser state after one step along known gradients.

    Of `scalars`, `learning_rate` is read, and by `make_optimizer` its numbers where they are there.
    """
    numbers = {name: scalars[name] for name in NUMBERS if name in scalars}
    update = optax.with_extra_args_support(optimizer).update
    updates, opt_state = update(grads, state.opt_state, state.params, **numbers)
    rate = -scalars["learning_rate"]
    params = optax.apply_updates(state.params, optax.tree.scale(rate, updates))
    return state.replace(params=params, opt_state=opt_state)
