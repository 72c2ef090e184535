"""Compiled loops: whole epochs and whole-set predictions as single programs."""

import collections
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrobust.engine.plan import PADDING
from jaxrobust.engine.sharding import Placement


class Programs:
    """The jitted programs of one run, each of which may be traced once.

    A second trace means that a shape or a Python value changed between calls, which costs a compile
    of seconds to minutes every time; it is refused.

    Attributes:
      traces: how often each program has been traced, by name.
    """

    def __init__(self):
        self.traces: collections.Counter[str] = collections.Counter()

    def jit(self, name: str, function: Callable, **options) -> Callable:
        """`jax.jit(function, **options)`, counted under `name`."""

        def counted(*args):
            self.traces[name] += 1
            if self.traces[name] > 1:
                shapes = jax.tree.map(jnp.shape, args)
                raise RuntimeError(f"Program {name!r} was traced twice; arguments {shapes}.")
            return function(*args)

        counted.__name__ = name.replace("/", "_")
        return jax.jit(counted, **options)


def epoch_program(step: Callable, placement: Placement) -> Callable:
    """Runs `step` over the rows of a plan in one loop with a traced number of steps.

    Args:
      step: `(state, ids [width], key, *operands) -> (state, metrics)`; `metrics` a pytree of
        scalars.
      placement: the batch axis is split over its devices.

    Returns:
      `(state, plan_ids, num_steps, key, *operands) -> (state, metrics averaged over the steps)`.
      Step `i` receives `fold_in(key, i)`.
    """

    def epoch(state, plan_ids, num_steps, key, *operands):
        def run_step(i, state):
            ids = jax.lax.with_sharding_constraint(plan_ids[i], placement.batch)
            return step(state, ids, jax.random.fold_in(key, i), *operands)

        def body(i, carry):
            state, totals = carry
            state, metrics = run_step(i, state)
            return state, jax.tree.map(jnp.add, totals, metrics)

        _, shapes = jax.eval_shape(run_step, 0, state)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        state, totals = jax.lax.fori_loop(0, num_steps, body, (state, zeros))
        return state, jax.tree.map(lambda x: x / num_steps.astype(x.dtype), totals)

    return epoch


def gather_program(forward: Callable, num_examples: int, placement: Placement) -> Callable:
    """Evaluates `forward` on the ids of a plan and files each result under its id.

    Args:
      forward: `(ids [width], key, *operands) -> pytree of [width, ...]`.
      num_examples: size N of the set that the ids refer to.
      placement: the batch axis is split over its devices.

    Returns:
      `(plan_ids, num_steps, key, *operands) -> pytree of [N, ...]`, zeros at ids not in the plan.
    """

    def gather(plan_ids, num_steps, key, *operands):
        def run_step(i):
            ids = jax.lax.with_sharding_constraint(plan_ids[i], placement.batch)
            return ids, forward(jnp.maximum(ids, 0), jax.random.fold_in(key, i), *operands)

        def body(i, tables):
            ids, outputs = run_step(i)
            slots = jnp.where(ids == PADDING, num_examples, ids)  # out of range: dropped
            return jax.tree.map(lambda t, x: t.at[slots].set(x, mode="drop"), tables, outputs)

        _, shapes = jax.eval_shape(run_step, 0)
        tables = jax.tree.map(lambda x: jnp.zeros((num_examples, *x.shape[1:]), x.dtype), shapes)
        return jax.lax.fori_loop(0, num_steps, body, tables)

    return gather
