"""Networks whose inputs are features: what every method asks of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.models import (
    FEATURE_NETWORKS,
    make_multi_exit,
    make_network,
    make_two_headed,
)

INPUTS = jax.random.normal(jax.random.key(0), (6, 5))


@pytest.mark.parametrize("name", FEATURE_NETWORKS)
def test_heads_features_and_parameters(name):
    module = make_network(name, num_classes=3, num_heads=2, dtype=jnp.float32)
    variables = module.init(jax.random.key(1), INPUTS)
    assert set(variables) == {"params"}
    logits = module.apply(variables, INPUTS)
    assert logits.shape == (6, 2, 3) and logits.dtype == jnp.float32
    features = module.apply(variables, INPUTS, method="features")
    np.testing.assert_array_equal(module.apply(variables, features, method="classify"), logits)
    params = variables["params"]
    assert not np.array_equal(
        params["heads_0"]["Dense_0"]["kernel"], params["heads_1"]["Dense_0"]["kernel"]
    )
    if name == "linear":
        np.testing.assert_array_equal(features, INPUTS)
        return
    # Dense, LayerNorm, ReLU, worked out here.
    hidden = INPUTS @ params["hidden"]["kernel"] + params["hidden"]["bias"][None]
    mean, var = hidden.mean(axis=1, keepdims=True), hidden.var(axis=1, keepdims=True)
    expected = jax.nn.relu((hidden - mean) / jnp.sqrt(var + 1e-6))
    assert features.shape == (6, 256)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FEATURE_NETWORKS)
def test_two_heads_and_no_exits(name):
    sizes = {"num_classes": 3, "dtype": jnp.float32}
    two_headed = make_two_headed(name, **sizes)
    variables = two_headed.init(jax.random.key(1), INPUTS)
    assert two_headed.apply(variables, INPUTS).shape == (6, 2, 3)
    module = make_multi_exit(name, exits=False, **sizes)
    variables = module.init(jax.random.key(1), INPUTS)
    logits, features = module.apply(variables, INPUTS)
    assert logits.shape == (6, 2, 3) and features.shape[:2] == (6, 1)
    with pytest.raises(UserError, match=r"set --config\.bldr\.self_distillation=False"):
        make_multi_exit(name, exits=True, **sizes)


def test_dropout_only_in_training():
    module = make_network("linear", num_classes=3, num_heads=1, dtype=jnp.float32).clone(
        dropout=0.5
    )
    variables = module.init(jax.random.key(1), INPUTS)
    options = {"train": True, "method": "features"}
    dropped = module.apply(variables, INPUTS, rngs={"dropout": jax.random.key(2)}, **options)
    kept = dropped != 0
    assert 0 < kept.sum() < kept.size
    np.testing.assert_allclose(dropped[kept], 2 * INPUTS[kept], rtol=1e-6)
    np.testing.assert_array_equal(module.apply(variables, INPUTS, method="features"), INPUTS)
