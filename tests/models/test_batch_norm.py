"""BatchNorm over the whole batch, and over the part of it that each device has."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import dpc
from jaxrobust.engine.sharding import make_placement
from jaxrobust.errors import UserError
from jaxrobust.models import make_network
from jaxrobust.models.layers import BatchNorm, Network
from jaxrobust.tasks.common import batch_norm_parts


class Norm(Network):
    """BatchNorm alone."""

    @nn.compact
    def __call__(self, images, *, train, where):
        return BatchNorm()(images, train=train, where=where)


class Around(Network):
    """A network of its own inside another one."""

    @nn.compact
    def __call__(self, images, *, train, where):
        return Norm(name="BatchNorm_0")(images, train=train, where=where)


NORM = Norm()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(2, 3, (16, 3, 3, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def variables(images):
    variables = NORM.init(jax.random.key(0), images, train=False, where=None)
    return jax.tree.map(lambda x: x + 0.5, variables)


def _train(variables, images, where, num_parts=1):
    outputs, updates = Norm(norm_parts=num_parts).apply(
        variables, images, train=True, where=where, mutable=["batch_stats"]
    )
    return outputs, updates["batch_stats"]["BatchNorm_0"]["BatchNorm_0"]


@pytest.mark.parametrize("num_valid", [16, 13, 9])
def test_in_parts_each_device_normalises_its_own_images(images, variables, num_valid):
    where = None if num_valid == 16 else jnp.arange(16) < num_valid
    outputs, stats = jax.jit(_train, static_argnums=3)(variables, images, where, 4)
    alone = [
        _train(variables, images[k : k + 4], None if where is None else where[k : k + 4])
        for k in range(0, num_valid, 4)  # a part of padding alone has no statistics
    ]
    expected = np.concatenate([part[0] for part in alone])[:num_valid]
    np.testing.assert_allclose(outputs[:num_valid], expected, rtol=1e-5, atol=1e-5)
    for name in ("mean", "var"):
        expected = np.mean([part[1][name] for part in alone], axis=0)
        np.testing.assert_allclose(stats[name], expected, rtol=1e-5)
    assert np.isfinite(outputs).all()
    whole, _ = _train(variables, images, where)
    assert np.abs(outputs - whole)[:num_valid].max() > 0.1


def test_in_parts_no_device_waits_for_another(images, variables):
    placement = make_placement(jax.devices())

    def text(num_parts):
        program = jax.jit(
            lambda x: _train(variables, x, None, num_parts)[0],
            in_shardings=placement.batch,
            out_shardings=placement.batch,
        )
        return program.lower(images).compile().as_text()

    assert "all-reduce" in text(1)
    assert "all-" not in text(8)


def test_evaluation_is_the_same(images, variables):
    whole = NORM.apply(variables, images, train=False, where=None)
    in_parts = Norm(norm_parts=3).apply(variables, images, train=False, where=None)
    np.testing.assert_array_equal(whole, in_parts)


def test_the_outermost_network_decides(images, variables):
    variables = {kind: {"BatchNorm_0": tree} for kind, tree in variables.items()}
    options = {"train": True, "where": None, "mutable": ["batch_stats"]}
    expected, _ = _train(
        {kind: tree["BatchNorm_0"] for kind, tree in variables.items()}, images, None, 4
    )
    outputs, _ = Around(norm_parts=4).apply(variables, images, **options)
    np.testing.assert_array_equal(outputs, expected)


def test_a_recipe_chooses():
    config, placement = dpc.get_config("digits"), make_placement(jax.devices())
    assert batch_norm_parts(config, placement) == 1
    config.batch_norm = "per_device"
    num_parts = batch_norm_parts(config, placement)
    module = make_network(
        config.model.name, num_classes=3, num_heads=1, dtype=jnp.float32, norm_parts=num_parts
    )
    images = jnp.ones((12, 8, 8, 3))
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    apply = functools.partial(module.apply, train=True, mutable=["batch_stats"])
    with pytest.raises(UserError, match="normalises 12 images together and there are 8 devices"):
        jax.eval_shape(apply, variables, images)
