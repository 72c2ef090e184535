"""Compiled loops: whole epochs and whole-set predictions as single programs."""

import collections
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.engine.plan import PADDING
from jaxrobust.engine.sharding import Placement


class Programs:
    """The jitted programs of one recipe, each of which may be traced once.

    A second trace means that a shape or a Python value changed between calls, which costs a compile
    of seconds to minutes every time; it is refused. Runs that differ in nothing but the seed share
    their programs.

    Attributes:
      traces: how often each program has been traced, by name.
    """

    def __init__(self):
        self.traces: collections.Counter[str] = collections.Counter()
        self._jitted: dict[str, Callable] = {}

    def jit(
        self, name: str, function: Callable, *, visits: Callable | None = None, **options
    ) -> Callable:
        """`jax.jit(function, **options)`, counted under `name`; what has that name already.

        Args:
          name: of the program.
          function: what is compiled.
          visits: the same arguments -> (steps, images) of a call, for measurements.
          **options: of `jax.jit`.
        """
        del visits
        if name in self._jitted:
            return self._jitted[name]

        def counted(*args):
            self.traces[name] += 1
            if self.traces[name] > 1:
                shapes = jax.tree.map(jnp.shape, args)
                raise RuntimeError(f"Program {name!r} was traced twice; arguments {shapes}.")
            return function(*args)

        counted.__name__ = name.replace("/", "_")
        self._jitted[name] = jax.jit(counted, **options)
        return self._jitted[name]


def epoch_program(
    programs: Programs,
    name: str,
    step: Callable,
    placement: Placement,
    *,
    device_loop: bool | None = None,
) -> Callable:
    """Compiles an epoch: `step` over the rows of a plan, whatever their number.

    On an accelerator the loop is part of the program, with a traced number of steps. On CPU each
    step is one call, since XLA's CPU backend runs the gradients of convolutions inside a loop 20
    to 40 times slower than outside (jax 0.10); the numbers are the same.

    Args:
      programs: counts the traces.
      name: of the program.
      step: `(state, ids [width], key, *operands) -> (state, metrics)`; `ids` a dict if the plan's
        are; `metrics` a dict of scalars.
      placement: the batch axis is split over its devices.
      device_loop: whether the loop is compiled; None chooses by the backend.

    Returns:
      `(state, plan, key, *operands) -> (state, sums of the metrics over the steps)`. Step `i`
      receives `fold_in(key, i)`; the state passed in is consumed.
    """
    if device_loop is None:
        device_loop = placement.mesh.devices.flat[0].platform != "cpu"

    def advance(i, carry, plan_ids, key, operands):
        state, sums = carry
        rows = jax.tree.map(lambda ids: ids[i], plan_ids)
        ids = jax.lax.with_sharding_constraint(rows, placement.batch)
        state, metrics = step(state, ids, jax.random.fold_in(key, i), *operands)
        return state, jax.tree.map(jnp.add, sums, metrics)

    def loop(num_steps, carry, plan_ids, key, operands):
        return jax.lax.fori_loop(
            0, num_steps, lambda i, carry: advance(i, carry, plan_ids, key, operands), carry
        )

    def visits(step, carry, plan_ids, *_):
        return _visits(plan_ids, slice(step) if device_loop else slice(step, step + 1))

    program = programs.jit(
        name,
        loop if device_loop else advance,
        visits=visits,
        donate_argnums=1,
        out_shardings=placement.replicated,
    )
    zeros = {}

    def epoch(state, plan, key, *operands):
        if not zeros:
            rows = jax.tree.map(lambda ids: ids[0], plan.ids)
            _, metrics = jax.eval_shape(step, state, rows, key, *operands)
            zeros.update({k: np.zeros(v.shape, v.dtype) for k, v in metrics.items()})
        carry = state, placement.put(zeros)
        if device_loop:
            return program(np.int32(plan.num_steps), carry, plan.ids, key, operands)
        for i in range(plan.num_steps):
            carry = program(np.int32(i), carry, plan.ids, key, operands)
        return carry

    return epoch


def _visits(plan_ids, rows: slice) -> tuple[int, int]:
    """Number of steps, and of images in them, in some rows of a plan."""
    visited = [np.asarray(ids)[rows] for ids in jax.tree.leaves(plan_ids)]
    return len(visited[0]), sum(int(np.sum(ids != PADDING)) for ids in visited)


def gather_program(
    programs: Programs, name: str, forward: Callable, num_examples: int, placement: Placement
) -> Callable:
    """Compiles a whole-set evaluation: `forward` on a plan's ids, each result filed under its id.

    Args:
      programs: counts the traces.
      name: of the program.
      forward: `(ids [width], key, *operands) -> pytree of [width, ...]`.
      num_examples: size N of the set that the ids refer to.
      placement: the batch axis is split over its devices.

    Returns:
      `(plan, key, *operands) -> pytree of [N, ...]`, zeros at ids that are not in the plan.
    """

    def gather(num_steps, plan_ids, key, operands):
        def outputs(i):
            ids = jax.lax.with_sharding_constraint(plan_ids[i], placement.batch)
            return ids, forward(jnp.maximum(ids, 0), jax.random.fold_in(key, i), *operands)

        def body(i, tables):
            ids, rows = outputs(i)
            slots = jnp.where(ids == PADDING, num_examples, ids)  # out of range: dropped
            return jax.tree.map(lambda t, x: t.at[slots].set(x, mode="drop"), tables, rows)

        _, shapes = jax.eval_shape(outputs, 0)
        tables = jax.tree.map(lambda x: jnp.zeros((num_examples, *x.shape[1:]), x.dtype), shapes)
        return jax.lax.fori_loop(0, num_steps, body, tables)

    def visits(num_steps, plan_ids, *_):
        return _visits(plan_ids, slice(num_steps))

    program = programs.jit(name, gather, visits=visits, out_shardings=placement.replicated)

    def evaluate(plan, key, *operands):
        return program(np.int32(plan.num_steps), plan.ids, key, operands)

    return evaluate
