import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.models import NETWORKS
from jaxrobust.models.resnet import ResNet

SMALL = {"stage_sizes": (1, 1), "widths": (8, 16)}


def _count(tree):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("num_classes", "num_heads", "expected"),
    [
        (2, 2, 11_170_884),
        (4, 2, 11_172_936),
        (10, 2, 11_179_092),
        (100, 2, 11_271_432),
        (4, 1, 11_168_832 + 513 * 4),
    ],
)
def test_resnet18_has_the_published_number_of_parameters(num_classes, num_heads, expected):
    module = NETWORKS["resnet18"](num_classes=num_classes, num_heads=num_heads)
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert _count(variables["params"]) == expected


def test_window_pooling_of_64_pixels_gives_2048_features():
    module = NETWORKS["resnet18"](num_classes=7, num_heads=2, pool="window4")
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert _count(variables["params"]) == 11_168_832 + 2 * 2049 * 7


def test_thin_resnet18_of_eaoa():
    module = NETWORKS["resnet18_thin"](num_classes=4, num_heads=1)
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert _count(variables["params"]) == 700_692


@pytest.fixture(scope="module")
def small():
    module = ResNet(num_classes=3, num_heads=2, **SMALL)
    images = jax.random.normal(jax.random.key(1), (6, 8, 8, 3))
    return module, jax.jit(module.init)(jax.random.key(0), images), images


def test_outputs_and_initialisation(small):
    module, variables, images = small
    logits = jax.jit(module.apply)(variables, images)
    assert logits.shape == (6, 2, 3)
    assert logits.dtype == jnp.float32
    heads = [variables["params"][f"heads_{i}"]["Dense_0"] for i in range(2)]
    assert not np.array_equal(heads[0]["kernel"], heads[1]["kernel"])
    bound = 16**-0.5
    for head in heads:
        assert np.abs(head["kernel"]).max() <= bound
        assert 0 < np.abs(head["bias"]).max() <= bound
    stem = variables["params"]["stem_conv"]["Conv_0"]["kernel"]
    assert 0.8 * 27**-0.5 < np.abs(stem).max() <= 27**-0.5


def test_masked_rows_do_not_touch_statistics_or_other_rows(small):
    module, variables, images = small
    where = jnp.array([True, True, True, True, False, False])

    @jax.jit
    def run(images, where):
        return module.apply(variables, images, train=True, where=where, mutable=["batch_stats"])

    logits, updates = run(images, where)
    short_logits, short_updates = run(images[:4], jnp.ones(4, bool))
    spoilt_logits, spoilt_updates = run(images.at[4:].set(1e4), where)
    np.testing.assert_allclose(logits[:4], short_logits, atol=2e-6)
    np.testing.assert_array_equal(logits[:4], spoilt_logits[:4])
    chex.assert_trees_all_close(updates, short_updates, atol=1e-6)
    chex.assert_trees_all_equal(updates, spoilt_updates)


def test_bfloat16_computes_close_to_float32_and_keeps_float32_state(small):
    module, variables, images = small
    half = ResNet(num_classes=3, num_heads=2, dtype=jnp.bfloat16, **SMALL)
    with jax.numpy_dtype_promotion("standard"):  # flax mixes dtypes inside its BatchNorm
        logits = jax.jit(half.apply)(variables, images)
        fresh = jax.eval_shape(half.init, jax.random.key(0), images)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, jax.jit(module.apply)(variables, images), atol=0.05)
    assert {x.dtype for x in jax.tree.leaves(fresh)} == {jnp.dtype(jnp.float32)}
