"""Compiled loops: whole epochs and whole-set predictions as single programs."""

import contextlib
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Generator, Hashable, Mapping
from typing import Any, Protocol, runtime_checkable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.engine import processes
from jaxrobust.engine.plan import PADDING, Plan
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.sharding import Placement, local_slots

SECONDS_PER_PIECE = 2.0
"""An epoch that lasts longer may be saved and stopped about this often."""


@runtime_checkable
class Stream(Protocol):
    """Values of the examples that a plan visits, made on the host while the device works.

    Among the operands of a program, a stream stands for its batch of each row.
    """

    def batches(self, ids: Any, first: int = 0) -> Generator[tuple[Any, Any]]:
        """For each row of `[steps, width]` ids: ids like them, and the batch for the step.

        The ids that come back are what the step receives, in place of those of the plan. Of
        several processes each is asked for the slots of its own devices. The rows before `first`
        are left out.
        """
        ...


def _is_streamed(operands: tuple) -> bool:
    return any(isinstance(operand, Stream) for operand in operands)


def _visited_rows(
    plan: Plan, operands: tuple, placement: Placement, first: int = 0
) -> Generator[tuple[np.int32, Any, tuple]]:
    """(number, ids, operands) of each row from `first` on, the operands' stream followed."""
    (place,) = (k for k, operand in enumerate(operands) if isinstance(operand, Stream))
    ids = jax.tree.map(lambda x: local_slots(x)[: plan.num_steps], plan.ids)
    with contextlib.closing(operands[place].batches(ids, first)) as batches:
        for i, row in enumerate(batches, first):
            row_ids, batch = placement.put_batch(row)
            yield np.int32(i), row_ids, (*operands[:place], batch, *operands[place + 1 :])


@dataclasses.dataclass(frozen=True)
class Resume:
    """Where an epoch resumes, and a callback that may save or stop it.

    Attributes:
      row: the first row to visit.
      sums: of the metrics over the rows before it.
      on_pause: `(row, state, sums) -> None`, called between steps at least every
        `SECONDS_PER_PIECE`, as far as single steps allow, once what it is given is computed.
        It may save and may raise. None: the epoch is not left.
    """

    row: int = 0
    sums: Mapping[str, float] = dataclasses.field(default_factory=dict)
    on_pause: Callable[[int, Any, dict[str, jax.Array]], None] | None = None


_WHOLE = Resume()


class _Pace:
    """How many rows a piece of an epoch has, from what the last one took; alike in all processes.

    Attributes:
      rows: of the next piece. The first one is short.
    """

    def __init__(self):
        self.rows = 1

    def took(self, rows: int, seconds: float) -> None:
        wanted = rows * SECONDS_PER_PIECE / max(seconds, 1e-9)
        self.rows = processes.broadcast_from_main(max(1, int(min(wanted, 1e9))))


def epoch_program(
    programs: Programs,
    name: str,
    step: Callable,
    placement: Placement,
    *,
    static: Hashable,
    device_loop: bool | None = None,
) -> Callable:
    """Compiles an epoch: `step` over the rows of a plan, whatever their number.

    On an accelerator the loop is part of the program, with traced first and last steps. On CPU each
    step is one call, since XLA's CPU backend runs the gradients of convolutions inside a loop 20
    to 40 times slower than outside (jax 0.10); the numbers are the same. So is each step where a
    stream is among the operands.

    Args:
      programs: counts the traces.
      name: of the program.
      step: `(state, ids [width], key, *operands) -> (state, metrics)`; `ids` a dict if the plan's
        are; `metrics` a dict of scalars.
      placement: the batch axis is split over its devices.
      static: all that `step` closes over, as in `Programs.jit`.
      device_loop: whether the loop over operands without a stream is compiled; None chooses by
        `programs`, and then by the backend.

    Returns:
      `(state, plan, key, *operands, resume=Resume()) -> (state, sums of the metrics over the
      steps)`. Step `i` receives `fold_in(key, i)`, and of a `Stream` among the operands the batch
      of row `i`, wherever the epoch resumes; the state passed in is consumed.
    """
    if device_loop is None:
        device_loop = programs.device_loop
    if device_loop is None:
        device_loop = placement.mesh.devices.flat[0].platform != "cpu"

    # Inlined, so that what is compiled is the step itself; the second use needs no second trace.
    traced_step = jax.jit(step, inline=True)

    def one_step(i, state, row_ids, key, operands):
        ids = jax.lax.with_sharding_constraint(row_ids, placement.batch)
        with placement.tracing():
            state, metrics = traced_step(state, ids, jax.random.fold_in(key, i), *operands)
        chex.assert_rank(jax.tree.leaves(metrics), 0)
        return state, metrics

    def advance(i, carry, row_ids, key, operands):
        state, sums = carry
        state, metrics = one_step(i, state, row_ids, key, operands)
        return state, jax.tree.map(jnp.add, sums, metrics)

    def advance_in_plan(i, carry, plan_ids, key, operands):
        return advance(i, carry, jax.tree.map(lambda ids: ids[i], plan_ids), key, operands)

    def loop(rows, carry, plan_ids, key, operands):
        def body(i, carry):
            return advance_in_plan(i, carry, plan_ids, key, operands)

        first, last = rows
        return jax.lax.fori_loop(first, last, body, carry)

    options = {"donate_argnums": 1, "out_shardings": placement.replicated, "static": static}

    @functools.cache
    def compiled(function):
        return programs.jit(name, function, visits=visits_of[function], **options)

    visits_of = {
        advance: lambda i, carry, row_ids, *_: _visits_of_row(row_ids),
        advance_in_plan: lambda i, carry, plan_ids, *_: _visits(plan_ids, slice(i, i + 1)),
        loop: lambda rows, carry, plan_ids, *_: _visits(plan_ids, slice(*rows)),
    }
    dtypes, pace = programs.metrics.setdefault((name, static), {}), _Pace()

    def with_sums(state, sums, ids, key, operands):
        """The carry that the first step receives."""
        if not dtypes:
            _, metrics = jax.eval_shape(one_step, np.int32(0), state, ids, key, operands)
            dtypes.update({name: value.dtype for name, value in metrics.items()})
        return state, placement.put({k: d.type(sums.get(k, 0)) for k, d in dtypes.items()})

    def resident(plan, key, operands, first, last, carry):
        if device_loop:
            rows = np.int32(first), np.int32(last)
            return compiled(loop)(rows, carry, plan.ids, key, operands)
        for i in range(first, last):
            carry = compiled(advance_in_plan)(np.int32(i), carry, plan.ids, key, operands)
        return carry

    def epoch(state, plan, key, *operands, resume=_WHOLE):
        row, carry = resume.row, None
        with contextlib.ExitStack() as stack:
            batches = None
            if _is_streamed(operands):
                visited = _visited_rows(plan, operands, placement, row)
                batches = stack.enter_context(contextlib.closing(visited))
            while row < plan.num_steps:
                started = time.monotonic()
                last = min(row + pace.rows, plan.num_steps) if resume.on_pause else plan.num_steps
                if batches is None:
                    if carry is None:
                        ids = jax.tree.map(lambda ids: ids[0], plan.ids)
                        carry = with_sums(state, resume.sums, ids, key, operands)
                    carry = resident(plan, key, operands, row, last, carry)
                else:
                    for i, ids, row_operands in itertools.islice(batches, last - row):
                        carry = carry or with_sums(state, resume.sums, ids, key, row_operands)
                        # While a step runs, only the batch of the next one is being transferred.
                        jax.block_until_ready(carry)
                        carry = compiled(advance)(i, carry, ids, key, row_operands)
                if resume.on_pause and carry and last < plan.num_steps:
                    jax.block_until_ready(carry)
                    pace.took(last - row, time.monotonic() - started)
                    resume.on_pause(last, *carry)
                row = last
        return carry or (state, {})

    return epoch


def _visits(plan_ids, rows: slice) -> tuple[int, int]:
    """Number of steps, and of images in them, in some rows of a plan."""
    visited = [np.asarray(ids)[rows] for ids in jax.tree.leaves(plan_ids)]
    return len(visited[0]), sum(int(np.sum(ids != PADDING)) for ids in visited)


def _visits_of_row(row_ids) -> tuple[int, int]:
    return _visits(jax.tree.map(lambda ids: ids[None], row_ids), slice(1))


def gather_program(
    programs: Programs,
    name: str,
    forward: Callable,
    num_examples: int,
    placement: Placement,
    *,
    static: Hashable,
) -> Callable:
    """Compiles a whole-set evaluation: `forward` on a plan's ids, each result stored at its id.

    Returns:
      `(plan, key, *operands) -> pytree of [N, ...]`, zeros at ids that are not in the plan. A
      `Stream` among the operands gives `forward` its batch.
    """

    traced_forward = jax.jit(forward, inline=True)  # as of a step: one trace for both uses

    def outputs(i, row_ids, key, operands):
        ids = jax.lax.with_sharding_constraint(row_ids, placement.batch)
        with placement.tracing():
            rows = traced_forward(jnp.maximum(ids, 0), jax.random.fold_in(key, i), *operands)
        chex.assert_tree_shape_prefix(rows, ids.shape)
        return ids, rows

    def empty(*row):
        _, shapes = jax.eval_shape(outputs, *row)
        return jax.tree.map(lambda x: jnp.zeros((num_examples, *x.shape[1:]), x.dtype), shapes)

    def file(i, tables, row_ids, key, operands):
        ids, rows = outputs(i, row_ids, key, operands)
        slots = jnp.where(ids == PADDING, num_examples, ids)  # out of range: dropped
        return jax.tree.map(lambda t, x: t.at[slots].set(x, mode="drop"), tables, rows)

    def gather(num_steps, plan_ids, key, operands):
        def body(i, tables):
            return file(i, tables, plan_ids[i], key, operands)

        return jax.lax.fori_loop(0, num_steps, body, empty(0, plan_ids[0], key, operands))

    @functools.cache
    def compiled(function, **options):
        visits = visits_of[function]
        options["out_shardings"] = placement.replicated
        return programs.jit(name, function, static=(static, num_examples), visits=visits, **options)

    visits_of = {
        file: lambda i, tables, row_ids, *_: _visits_of_row(row_ids),
        gather: lambda num_steps, plan_ids, *_: _visits(plan_ids, slice(num_steps)),
    }

    def streamed(plan, key, operands):
        tables = None
        for i, ids, row_operands in _visited_rows(plan, operands, placement):
            if tables is None:
                tables = placement.put(empty(i, ids, key, row_operands))
            jax.block_until_ready(tables)
            tables = compiled(file, donate_argnums=1)(i, tables, ids, key, row_operands)
        return tables

    def evaluate(plan, key, *operands):
        if _is_streamed(operands):
            return streamed(plan, key, operands)
        return compiled(gather)(np.int32(plan.num_steps), plan.ids, key, operands)

    return evaluate
