"""ReviewKD's fusion block."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.models.layers import FeatureMaps
from jaxrobust.models.review_fusion import FusionBlock, ReviewFusion, review_levels


def _features(shapes, width=5, batch=2, seed=0):
    generator = np.random.default_rng(seed)
    maps = tuple(jnp.asarray(generator.normal(size=(batch, *s)), jnp.float32) for s in shapes)
    pooled = jnp.asarray(generator.normal(size=(batch, width)), jnp.float32)
    return FeatureMaps(pooled, maps, maps, maps[-1])


def test_maps_get_the_shapes_of_the_teacher_and_deep_ones_reach_shallow_ones():
    student = _features([(4, 4, 3)])
    # Another size than the student's at the first level.
    fusion = ReviewFusion(channels=(6, 9), sizes=((2, 2), (1, 1)))
    variables = jax.jit(fusion.init)(jax.random.key(0), student)

    @jax.jit
    def fused(features):
        return fusion.apply(variables, features, train=True, mutable=["batch_stats"])[0]

    maps = fused(student).maps
    assert [m.shape[1:] for m in maps] == [(2, 2, 6), (1, 1, 9)]
    np.testing.assert_array_equal(fused(student).pooled, student.pooled)
    changed = fused(student._replace(pooled=-student.pooled)).maps
    assert all(np.any(a != b) for a, b in zip(maps, changed, strict=True))
    changed = fused(student._replace(preactivations=(-student.maps[0],))).maps
    assert [bool(np.any(a != b)) for a, b in zip(maps, changed, strict=True)] == [True, False]


def test_levels_end_with_the_pooled_feature():
    student = _features([(4, 4, 3)])
    levels = review_levels(student)
    assert [level.shape for level in levels] == [(2, 4, 4, 3), (2, 1, 1, 5)]


def test_a_student_with_too_few_levels_is_refused():
    fusion = ReviewFusion(channels=(1, 1, 1), sizes=((1, 1),) * 3)
    with pytest.raises(ValueError, match="2 levels of features, fewer than the teacher's 3"):
        jax.eval_shape(fusion.init, jax.random.key(0), _features([(4, 4, 3)]))


def _maps(array):
    return jnp.asarray(array.transpose(0, 2, 3, 1), jnp.float32)


@pytest.mark.parametrize("case", ["abf/case0", "abf/case1"])
def test_fusion_block_computes_what_the_authors_block_computes(case, load_golden):
    golden = load_golden("l2d")

    def conv(name):
        return {"Conv_0": {"kernel": golden[case, name].transpose(2, 3, 1, 0)}}

    def norm(name):
        scale, bias = (golden[case, f"{name}_{leaf}"] for leaf in ("scale", "bias"))
        return {"BatchNorm_0": {"scale": scale, "bias": bias}}

    params = {n: conv(n) for n in ("conv1", "conv2")}
    params |= {f"norm{i}": norm(f"bn{i}") for i in (1, 2)}
    deeper = None
    if (case, "y") in golden:
        deeper = _maps(golden[case, "y"])
        params["attention"] = {
            "kernel": golden[case, "att_w"].transpose(2, 3, 1, 0),
            "bias": golden[case, "att_b"],
        }
    expected = _maps(golden[case, "out"])
    block = FusionBlock(expected.shape[-1], expected.shape[1:3], width=4)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    apply = jax.jit(functools.partial(block.apply, train=True, mutable=["batch_stats"]))
    (out, fused), _ = apply({"params": params}, _maps(golden[case, "x"]), deeper)
    np.testing.assert_allclose(out, expected, atol=2e-5)
    np.testing.assert_allclose(fused, _maps(golden[case, "residual"]), atol=2e-5)
