import dataclasses
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.engine import loops
from jaxrobust.engine.loops import Resume, epoch_program, gather_program
from jaxrobust.engine.plan import make_plan
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.sharding import fetch, make_placement


def _put(placement, plan):
    return plan._replace(ids=jax.device_put(plan.ids, placement.plan))


def _step(state, ids, key, data):
    """Adds the valid rows, and a draw that names the step, to the state."""
    valid = ids >= 0
    rows = jnp.where(valid, data[jnp.maximum(ids, 0)], 0.0)
    total = jnp.sum(rows)
    return state * 0.5 + total, {
        "total": total,
        "count": jnp.sum(valid).astype(jnp.float32),
        "draw": jax.random.uniform(key),
    }


@pytest.mark.parametrize("device_loop", [True, False])
def test_an_epoch_visits_the_plan_and_is_traced_once(device_loop):
    placement = make_placement(jax.devices()[:1])
    counted, calls = Programs(), []

    def step(*args):
        calls.append(args)
        return _step(*args)

    data = placement.put(np.arange(10, dtype=np.float32))
    key = jax.random.key(0)
    for n in (10, 3, 7):
        # As runs of several seeds do, which share their programs.
        epoch = epoch_program(counted, "toy", step, placement, device_loop=device_loop, static=())
        plan = make_plan(np.arange(n), 4, capacity=10)
        state, sums = epoch(placement.put(np.float32(1)), _put(placement, plan), key, data)
        expected = np.float32(1)
        for i in range(0, n, 4):
            expected = expected * 0.5 + np.arange(i, min(i + 4, n)).sum()
        assert float(state) == expected
        assert float(sums["total"]) == np.arange(n).sum()
        assert float(sums["count"]) == n
        draws = [float(jax.random.uniform(jax.random.fold_in(key, i))) for i in range(-(-n // 4))]
        np.testing.assert_allclose(float(sums["draw"]), sum(draws), rtol=1e-6)
    assert counted.traces == {"toy": 1}
    assert len(calls) == 1


def test_what_is_compiled_is_said_before(caplog):
    programs = Programs()
    first, second = (programs.jit(name, jnp.sin, static=None) for name in ("one", "two/epoch"))
    with caplog.at_level("INFO", "jaxrobust"):
        for _ in range(2):
            first(jnp.ones(2))
        second(jnp.ones(2))
    assert caplog.messages == [
        "compiling one (program 1)",
        "compiling two/epoch (program 2)",
    ]


def test_first_networks_are_to_the_bit_those_of_a_fully_optimised_program(optimised):
    initializers = (jax.nn.initializers.he_normal(), jax.nn.initializers.he_uniform())

    def start(key):
        return [init(key, (3, 3, 8, 16)) for init in initializers]

    key = jax.random.key(0)
    chex.assert_trees_all_equal(
        Programs().jit("start", start, static=(), is_start=True)(key), jax.jit(start)(key)
    )


class _Stream:
    """The values of the rows, made on the host."""

    def __init__(self, data):
        self.data, self.closed = data, False

    def batches(self, ids, first=0):
        try:
            for row in ids[first:]:
                yield row, self.data[np.maximum(row, 0)]
        finally:
            self.closed = True


def _step_of_stream(state, ids, key, values):
    total = jnp.sum(jnp.where(ids >= 0, values, 0.0))
    return state * 0.5 + total, {"total": total, "draw": jax.random.uniform(key)}


@pytest.mark.parametrize("kind", ["device_loop", "host_loop", "stream"])
def test_an_epoch_is_left_between_steps_and_taken_up_again(kind, monkeypatch):
    monkeypatch.setattr(loops, "SECONDS_PER_PIECE", 0.0)
    placement = make_placement(jax.devices()[:1])
    data = np.arange(10, dtype=np.float32)
    stream = _Stream(data)
    step, operand = (_step_of_stream, stream) if kind == "stream" else (_step, placement.put(data))
    counted = Programs()
    epoch = epoch_program(
        counted, "toy", step, placement, device_loop=kind == "device_loop", static=()
    )
    plan = _put(placement, make_plan(np.arange(10), 2, capacity=16))
    key = jax.random.key(0)

    def run(state, **resume):
        return fetch(epoch(placement.put(state), plan, key, operand, resume=Resume(**resume)))

    whole = run(np.float32(1))
    left = {}

    def leave(row, state, sums):
        left[row] = fetch((state, sums))
        if row == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(np.float32(1), on_pause=leave)
    assert list(left) == [1, 2, 3]
    assert stream.closed == (kind == "stream")
    state, sums = left[3]
    rows = []
    sums = {name: float(value) for name, value in sums.items()}  # as a checkpoint keeps them
    end = run(state, row=3, sums=sums, on_pause=lambda row, *_: rows.append(row))
    assert rows == [4]
    chex.assert_trees_all_equal(end, whole)
    assert counted.traces == {"toy": 1}


def test_pieces_of_an_epoch_last_as_long_as_they_should(monkeypatch):
    clock = iter(np.arange(0.0, 100.0, 0.5))  # every look at it is half a second later
    monkeypatch.setattr(loops, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    placement = make_placement(jax.devices()[:1])
    epoch = epoch_program(Programs(), "toy", _step, placement, device_loop=True, static=())
    plan = _put(placement, make_plan(np.arange(100), 1, capacity=100))
    rows = []
    resume = Resume(on_pause=lambda row, *_: rows.append(row))
    data = placement.put(np.arange(100, dtype=np.float32))
    epoch(placement.put(np.float32(1)), plan, jax.random.key(0), data, resume=resume)
    assert rows == [1, 5, 21, 85]


def test_eight_devices_give_the_one_device_epoch():
    results = []
    for devices in (jax.devices()[:1], jax.devices()):
        placement = make_placement(devices)
        epoch = epoch_program(Programs(), "toy", _step, placement, static=())
        plan = make_plan(np.arange(10), 3, capacity=10, width=placement.round_up(3))
        state, sums = epoch(
            placement.put(np.float32(1)),
            _put(placement, plan),
            jax.random.key(0),
            placement.put(np.arange(10, dtype=np.float32)),
        )
        results.append((float(state), float(sums["total"]), float(sums["count"])))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)


@pytest.mark.parametrize("num_devices", [1, 8])
def test_gather_files_results_under_their_ids_and_is_traced_once(num_devices):
    placement, calls = make_placement(jax.devices()[:num_devices]), []

    def forward(ids, key, data):
        calls.append(key)
        return {"square": data[ids] ** 2, "pair": jnp.stack([ids, -ids], axis=1)}

    evaluate = gather_program(Programs(), "toy", forward, 12, placement, static=())
    ids = np.array([11, 2, 5, 7, 3])
    plan = make_plan(ids, 2, capacity=12, width=placement.round_up(2))
    out = fetch(
        evaluate(
            _put(placement, plan),
            jax.random.key(0),
            placement.put(np.arange(12, dtype=np.float32)),
        )
    )
    expected = np.zeros(12, np.float32)
    expected[ids] = ids**2
    np.testing.assert_array_equal(out["square"], expected)
    np.testing.assert_array_equal(out["pair"][ids], np.stack([ids, -ids], axis=1))
    assert not out["pair"][[0, 1, 4]].any()
    assert len(calls) == 1  # it is traced once


def test_a_second_trace_is_refused():
    square = Programs().jit("square", lambda x: x * x, static=())
    square(np.zeros(3, np.float32))
    square(np.ones(3, np.float32))
    with pytest.raises(RuntimeError, match="'square' was traced twice"):
        square(np.zeros(4, np.float32))


@dataclasses.dataclass(frozen=True)
class _Spec:
    power: int


def test_a_name_stands_for_one_program():
    programs = Programs()
    first = programs.jit("power", lambda x: x**2, static=_Spec(2))
    assert programs.jit("power", lambda x: x**2, static=_Spec(2)) is first
    with pytest.raises(RuntimeError, match="'power' was compiled for other settings"):
        programs.jit("power", lambda x: x**3, static=_Spec(3))
    placement = make_placement(jax.devices()[:1])
    plan = _put(placement, make_plan(np.arange(4), 2, capacity=4))
    data = placement.put(np.arange(4, dtype=np.float32))

    def run(power):
        epoch = epoch_program(programs, "epoch", _step, placement, static=_Spec(power))
        epoch(placement.put(np.float32(1)), plan, jax.random.key(0), data)

    run(2)
    with pytest.raises(RuntimeError, match="'epoch' was compiled for other settings"):
        run(3)


def test_a_plan_may_hold_several_sets():
    def step(state, ids, key, data):
        del key
        total = jnp.sum(data[ids["x"]]) - jnp.sum(data[ids["u"]])
        return state + total, {"total": total}

    placement = make_placement(jax.devices()[:1])
    data = placement.put(np.arange(10, dtype=np.float32))
    x, u = (make_plan(np.arange(*r), 2, capacity=10) for r in ((5, 9), (0, 4)))
    plan = _put(placement, x._replace(ids={"x": x.ids, "u": u.ids}))
    for device_loop in (True, False):
        epoch = epoch_program(
            Programs(), "toy", step, placement, device_loop=device_loop, static=()
        )
        state, sums = epoch(placement.put(np.float32(0)), plan, jax.random.key(0), data)
        assert float(state) == float(sums["total"]) == 20


def test_a_step_and_a_prediction_that_break_their_contract_are_refused_when_traced():
    placement = make_placement(jax.devices()[:1])
    plan = make_plan(np.arange(6), 4, capacity=6)
    key = jax.random.key(0)

    def step(state, ids, key):
        return state, {"loss": jnp.zeros(len(ids))}

    epoch = epoch_program(Programs(), "toy", step, placement, static=None)
    with pytest.raises(AssertionError, match="assert_rank"):
        epoch(placement.put(np.float32(0)), plan, key)
    predict = gather_program(
        Programs(), "toy", lambda ids, key: jnp.zeros((3, 2)), 6, placement, static=None
    )
    with pytest.raises(AssertionError, match="assert_tree_shape_prefix"):
        predict(plan, key)
