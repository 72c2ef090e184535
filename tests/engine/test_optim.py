import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.engine.optim import (
    constant_cosine,
    learning_rate,
    make_optimizer,
    one_cycle,
    one_cycle_adam,
)
from jaxrobust.errors import UserError
from jaxrobust.recipes.run import OneCycleAdam, Sgd


def _options(cls=Sgd, **changes):
    defaults = {"learning_rate": 0.1, "decay_factor": 0.5, "weight_decay": 0.01}
    return cls(**{**defaults, **changes})


def test_sgd_decays_before_the_momentum_like_pytorch():
    optimizer = make_optimizer(_options())
    params, velocity = jnp.float32(2.0), 0.0
    state = optimizer.init(params)
    for gradient in (1.0, -0.5, 0.25):
        direction, state = optimizer.update(jnp.float32(gradient), state, params)
        velocity = 0.9 * velocity + gradient + 0.01 * float(params)
        np.testing.assert_allclose(float(direction), velocity, rtol=1e-6)
        params = params - 0.1 * direction


def test_a_clipped_gradient_is_shortened_before_anything_else():
    gradients = {"a": jnp.float32(3.0), "b": jnp.float32(4.0)}
    optimizer = make_optimizer(_options(clip_norm=1.0, weight_decay=0.0, momentum=0.0))
    clipped, _ = optimizer.update(gradients, optimizer.init(gradients), gradients)
    np.testing.assert_allclose([clipped["a"], clipped["b"]], [0.6, 0.8], rtol=1e-6)
    optimizer = make_optimizer(_options(clip_norm=10.0, weight_decay=0.0, momentum=0.0))
    whole, _ = optimizer.update(gradients, optimizer.init(gradients), gradients)
    assert whole == gradients


def test_schedules():
    assert learning_rate(_options(), 99, 100) == 0.1
    step = [learning_rate(_options(schedule="step"), e, 200) for e in (0, 59, 60, 120)]
    np.testing.assert_allclose(step, [0.1, 0.1, 0.05, 0.025])
    options = _options(schedule="milestones", decay_epochs=(60, 80))
    milestones = [learning_rate(options, e, 200) for e in (0, 59, 60, 79, 80, 199)]
    np.testing.assert_allclose(milestones, [0.1, 0.1, 0.05, 0.05, 0.025, 0.025])
    cosine = [learning_rate(_options(schedule="cosine"), e, 10) for e in (0, 5)]
    np.testing.assert_allclose(cosine, [0.1, 0.05])
    options = _options(schedule="constant_cosine", constant_epochs=4, min_learning_rate=0.02)
    rates = [learning_rate(options, e, 10) for e in (0, 4, 7, 10)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.06, 0.02], rtol=1e-6)
    assert learning_rate(options, 3, 4) == rates[0]  # no room for a cosine


@pytest.mark.parametrize("case", ["cifar10", "cifar100"])
def test_constant_cosine_has_the_recorded_rates(load_golden, x64, case):
    golden = load_golden("bldr")
    recorded = golden[f"lr/{case}", "lr_used"]
    warmup, base = (golden[f"lr/{case}", name] for name in ("warmup_epochs", "base_lr"))
    rates = constant_cosine(
        np.arange(len(recorded), dtype=np.float64),
        base_lr=float(base),
        warmup_epochs=int(warmup),
        cosine_epochs=300,
        min_lr=2e-4,
    )
    np.testing.assert_allclose(rates, recorded, rtol=1e-9)


def test_an_unknown_schedule_is_named():
    with pytest.raises(UserError, match=r"'cosin'.*'cosine'"):
        _options(schedule="cosin")


def test_a_schedule_that_an_optimiser_lacks_is_refused():
    with pytest.raises(UserError, match=r"Unknown optimizer.schedule 'milestones'"):
        OneCycleAdam(schedule="milestones")


def test_one_cycle_equals_the_recorded_rates_and_betas(load_golden, x64):
    golden = load_golden("l2d")
    for case in ("one_cycle/case0", "one_cycle/case1", "one_cycle/case2"):
        num_steps = int(golden[case, "epochs"] * golden[case, "steps_per_epoch"])
        steps, top = np.arange(num_steps), float(golden[case, "max_lr"])
        rise = float(golden[case, "pct_start"])
        rates = one_cycle(steps, num_steps, start=top / 25, peak=top, end=top / 25e4, rise=rise)
        np.testing.assert_allclose(rates, golden[case, "lr"], rtol=1e-6)
        betas = one_cycle(steps, num_steps, start=0.95, peak=0.85, end=0.95, rise=rise)
        np.testing.assert_allclose(betas, golden[case, "beta1"], rtol=1e-6)


def test_one_cycle_by_hand_and_in_single_precision():
    # 10 steps, peak at step 4, end at step 9: a quarter of the way up at step 1.
    values = one_cycle(np.array([0, 1, 2, 4, 9]), 10, start=0.0, peak=1.0, end=-1.0, rise=0.5)
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, [0, (1 - 0.5**0.5) / 2, 0.5, 1, -1], atol=1e-6)
    short = one_cycle(np.arange(2), 2, start=0.0, peak=1.0, end=0.5)
    np.testing.assert_allclose(short[-1], 0.5)
    assert one_cycle(0, 5, start=0.0, peak=1.0, end=0.5) == 1  # the peak is the first step


@pytest.mark.parametrize(("num_steps", "rise"), [(1, 0.2), (10, 0.0), (10, 1.0)])
def test_a_cycle_without_a_rise_and_a_fall_is_refused(num_steps, rise):
    with pytest.raises(UserError, match=r"2 steps or more and 0 < optimizer\.pct_start < 1"):
        one_cycle(0, num_steps, start=0.0, peak=1.0, end=0.0, rise=rise)


@pytest.mark.parametrize("case", ["adam_one_cycle/case0", "adam_one_cycle/case1"])
def test_adam_under_one_cycle_equals_the_recorded_weights(case, load_golden, x64):
    golden = load_golden("l2d")
    kernels, biases = golden[case, "kernel"], golden[case, "bias"]
    assert len(kernels) - 1 == golden[case, "epochs"] * golden[case, "steps_per_epoch"]
    weight_decay = float(golden[case, "weight_decay"])
    optimizer = one_cycle_adam(OneCycleAdam(), len(kernels) - 1, weight_decay=weight_decay)
    params = {"kernel": jnp.asarray(kernels[0]), "bias": jnp.asarray(biases[0])}
    state, rate = optimizer.init(params), float(golden[case, "max_lr"])

    @jax.jit
    def step(params, state, grads):
        directions, state = optimizer.update(grads, state, params)
        return jax.tree.map(lambda p, d: p - rate * d, params, directions), state

    for t in range(len(kernels) - 1):
        grads = {name: golden[case, f"grads_{name}"][t] for name in params}
        params, state = step(params, state, grads)
        np.testing.assert_allclose(params["kernel"], kernels[t + 1], rtol=1e-6)
        np.testing.assert_allclose(params["bias"], biases[t + 1], rtol=1e-6)


def test_one_cycle_adam_spares_vectors_and_biases_of_any_rank_from_decay():
    params = {"kernel": jnp.ones((2, 2)), "scale": jnp.ones(2), "heads": {"bias": jnp.ones((2, 2))}}
    optimizer = one_cycle_adam(OneCycleAdam(), 10, weight_decay=0.1)
    zeros = jax.tree.map(jnp.zeros_like, params)
    directions, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert np.all(directions["kernel"] > 0)
    assert not np.any(directions["scale"]) and not np.any(directions["heads"]["bias"])


def test_heads_learn_at_a_rate_of_their_own():
    for params in (
        {"backbone": {"w": jnp.ones(2)}, "primary": {"w": jnp.ones(2)}},
        {"blocks_0": {"w": jnp.ones(2)}, "heads_0": {"w": jnp.ones(2)}},
    ):
        backbone, head = params
        same, faster = (make_optimizer(Sgd(head_factor=factor)) for factor in (1.0, 10.0))
        expected, _ = same.update(params, same.init(params), params)
        found, _ = faster.update(params, faster.init(params), params)
        np.testing.assert_array_equal(found[backbone]["w"], expected[backbone]["w"])
        np.testing.assert_array_equal(found[head]["w"], 10 * expected[head]["w"])
