import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from jaxrobust.engine.optim import learning_rate, make_optimizer
from jaxrobust.errors import UserError


def _config(**changes):
    return ml_collections.ConfigDict(
        {
            "learning_rate": 0.1,
            "schedule": "constant",
            "decay_every": 60,
            "decay_factor": 0.5,
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 0.01,
            **changes,
        }
    )


def test_sgd_decays_before_the_momentum_like_pytorch():
    optimizer = make_optimizer(_config())
    params, velocity = jnp.float32(2.0), 0.0
    state = optimizer.init(params)
    for gradient in (1.0, -0.5, 0.25):
        direction, state = optimizer.update(jnp.float32(gradient), state, params)
        velocity = 0.9 * velocity + gradient + 0.01 * float(params)
        np.testing.assert_allclose(float(direction), velocity, rtol=1e-6)
        params = params - 0.1 * direction


def test_a_clipped_gradient_is_shortened_before_anything_else():
    gradients = {"a": jnp.float32(3.0), "b": jnp.float32(4.0)}
    optimizer = make_optimizer(_config(clip_norm=1.0, weight_decay=0.0, momentum=0.0))
    clipped, _ = optimizer.update(gradients, optimizer.init(gradients), gradients)
    np.testing.assert_allclose([clipped["a"], clipped["b"]], [0.6, 0.8], rtol=1e-6)
    optimizer = make_optimizer(_config(clip_norm=10.0, weight_decay=0.0, momentum=0.0))
    whole, _ = optimizer.update(gradients, optimizer.init(gradients), gradients)
    assert whole == gradients


def test_schedules():
    assert learning_rate(_config(), 99, 100) == 0.1
    step = [learning_rate(_config(schedule="step"), e, 200) for e in (0, 59, 60, 120)]
    np.testing.assert_allclose(step, [0.1, 0.1, 0.05, 0.025])
    config = _config(schedule="milestones", decay_epochs=(60, 80))
    milestones = [learning_rate(config, e, 200) for e in (0, 59, 60, 79, 80, 199)]
    np.testing.assert_allclose(milestones, [0.1, 0.1, 0.05, 0.05, 0.025, 0.025])
    cosine = [learning_rate(_config(schedule="cosine"), e, 10) for e in (0, 5)]
    np.testing.assert_allclose(cosine, [0.1, 0.05])


def test_an_unknown_schedule_is_named():
    with pytest.raises(UserError, match=r"'cosin'.*'cosine'"):
        learning_rate(_config(schedule="cosin"), 0, 10)
