"""Regressors from a student's maps to a teacher's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.losses import variational_information_loss
from jaxrobust.models.layers import FeatureMaps
from jaxrobust.models.regressors import HintRegressor, VariationalRegressor


def features_of(*shapes):
    maps = tuple(
        jax.random.normal(jax.random.key(i), (2, *shape)) for i, shape in enumerate(shapes)
    )
    return FeatureMaps(jnp.zeros((2, 3)), maps, maps, maps[-1])


@pytest.mark.parametrize("size", [(4, 4), (2, 2), (8, 8)])
def test_a_hint_gets_the_teachers_shape(size):
    features = features_of((8, 8, 2), (4, 4, 3))
    module = HintRegressor(level=1, features=5, size=size)
    init = jax.jit(module.init_with_output, static_argnames="train")
    output, variables = init(jax.random.key(0), features, train=True)
    assert [x.shape for x in output.maps] == [(2, *size, 5)]
    assert np.all(output.maps[0] >= 0) and np.ptp(output.maps[0]) > 0
    taps = {(4, 4): 1, (2, 2): 9, (8, 8): 16}[size]
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    assert count == taps * 3 * 5 + 2 * 5


def test_a_hint_of_another_ratio_is_refused():
    with pytest.raises(ValueError, match="4 x 4 has no regressor to the teacher's of 3 x 3"):
        HintRegressor(level=0, features=5, size=(3, 3)).init(
            jax.random.key(0), features_of((4, 4, 3))
        )


def test_variances_start_at_five_and_deep_maps_are_taken():
    features = features_of((8, 8, 2), (4, 4, 3), (2, 2, 4))
    module = VariationalRegressor(channels=(6, 7), sizes=((4, 4), (1, 1)))
    output, variables = jax.jit(module.init_with_output)(jax.random.key(0), features)
    assert [x.mean.shape for x in output.maps] == [(2, 4, 4, 6), (2, 1, 1, 7)]
    # The larger map is pooled before the convolutions: its mean alone gives the same.
    pooled = features._replace(
        maps=(*features.maps[:-1], features.maps[-1].mean((1, 2))[:, None, None])
    )
    again = module.apply(variables, pooled)
    np.testing.assert_allclose(again.maps[1].mean, output.maps[1].mean, atol=1e-6)
    mean, variance_logits = output.maps[0]
    # Where the prediction is exact, the loss is log(variance) / 2.
    loss = variational_information_loss(mean, mean, variance_logits)
    np.testing.assert_allclose(loss, np.log(5) / 2, rtol=1e-5)
