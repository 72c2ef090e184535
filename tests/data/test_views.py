"""Views of raw images."""

import jax
import jax.numpy as jnp
import numpy as np

from configs import dpc
from jaxrobust.data.views import PolicyViews, make_views, statistics_of
from jaxrobust.recipes.parse import parse


def test_strong_views_may_have_constants_of_their_own():
    raw = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    own, statistics = ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)), statistics_of((0.5,) * 3, (0.25,) * 3)
    options = {"padding": 0, "flip": False, "dtype": jnp.float32, "policy": "none", "cutout": 0}
    views = jax.jit(PolicyViews(**options, strong_mean=own[0], strong_std=own[1]), static_argnums=0)
    key = jax.random.key(0)
    for kind in ("weak", "test"):
        expected = (raw / 255 - 0.5) / 0.25
        np.testing.assert_allclose(
            views(kind, key, raw, statistics), expected, rtol=1e-5, atol=1e-6
        )
    expected = (raw / 255 - np.array(own[0])) / np.array(own[1])
    np.testing.assert_allclose(
        views("strong", key, raw, statistics), expected, rtol=1e-5, atol=1e-6
    )


def test_dpc_normalises_strong_views_of_cifar100_as_its_code():
    config = dpc.get_config("cifar100_sym50_star")
    views = make_views(parse(config).augment, (8, 8, 3), "float32")
    assert views.strong_mean == (0.4914, 0.4822, 0.4465) != config.dataset.mean
    star = dpc.get_config("cifar10_sym50_star")
    assert make_views(parse(star).augment, (32, 32, 3), "float32").strong_mean == ()
