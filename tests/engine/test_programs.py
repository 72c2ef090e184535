import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.engine.plan import make_plan
from jaxrobust.engine.programs import Programs, epoch_program, gather_program
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
    programs = Programs()
    epoch = epoch_program(programs, "toy", _step, placement, device_loop=device_loop)
    data = placement.put(np.arange(10, dtype=np.float32))
    key = jax.random.key(0)
    for n in (10, 3, 7):
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
    assert programs.traces == {"toy": 1}


def test_eight_devices_give_the_one_device_epoch():
    results = []
    for devices in (jax.devices()[:1], jax.devices()):
        placement = make_placement(devices)
        epoch = epoch_program(Programs(), "toy", _step, placement)
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
def test_gather_files_results_under_their_ids(num_devices):
    placement = make_placement(jax.devices()[:num_devices])

    def forward(ids, key, data):
        del key
        return {"square": data[ids] ** 2, "pair": jnp.stack([ids, -ids], axis=1)}

    evaluate = gather_program(Programs(), "toy", forward, 12, placement)
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


def test_a_second_trace_is_refused():
    square = Programs().jit("square", lambda x: x * x)
    square(np.zeros(3, np.float32))
    square(np.ones(3, np.float32))
    with pytest.raises(RuntimeError, match="'square' was traced twice"):
        square(np.zeros(4, np.float32))


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
        epoch = epoch_program(Programs(), "toy", step, placement, device_loop=device_loop)
        state, sums = epoch(placement.put(np.float32(0)), plan, jax.random.key(0), data)
        assert float(state) == float(sums["total"]) == 20
