"""ReviewKD's fusion block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.models.layers import Features
from jaxrobust.models.review_fusion import ReviewFusion, review_levels


def _features(shapes, width=5, batch=2, seed=0):
    generator = np.random.default_rng(seed)
    maps = tuple(jnp.asarray(generator.normal(size=(batch, *s)), jnp.float32) for s in shapes)
    pooled = jnp.asarray(generator.normal(size=(batch, width)), jnp.float32)
    return Features(pooled, maps, maps, maps[-1])


def test_maps_get_the_shapes_of_the_teacher_and_deep_ones_reach_shallow_ones():
    student = _features([(4, 4, 3)])
    # Another size than the student's at the first level.
    fusion = ReviewFusion(channels=(6, 9), sizes=((2, 2), (1, 1)))
    shapes = jax.eval_shape(fusion.init, jax.random.key(0), student)
    generator = np.random.default_rng(1)
    variables = jax.tree.map(lambda x: jnp.asarray(generator.normal(size=x.shape), x.dtype), shapes)

    @jax.jit
    def fused(*many):
        options = {"train": True, "mutable": ["batch_stats"]}
        return [fusion.apply(variables, features, **options)[0] for features in many]

    other_pooled = student._replace(pooled=-student.pooled)
    other_map = student._replace(maps=(-student.maps[0],))
    maps, of_other_pooled, of_other_map = (f.maps for f in fused(student, other_pooled, other_map))
    assert [m.shape[1:] for m in maps] == [(2, 2, 6), (1, 1, 9)]

    def differ(others):
        return [bool(np.any(a != b)) for a, b in zip(maps, others, strict=True)]

    assert differ(of_other_pooled) == [True, True]
    assert differ(of_other_map) == [True, False]


def test_levels_end_with_the_pooled_feature():
    student = _features([(4, 4, 3)])
    levels = review_levels(student)
    assert [level.shape for level in levels] == [(2, 4, 4, 3), (2, 1, 1, 5)]


def test_a_student_with_too_few_levels_is_refused():
    fusion = ReviewFusion(channels=(1, 1, 1), sizes=((1, 1),) * 3)
    with pytest.raises(ValueError, match="2 levels of features, fewer than the teacher's 3"):
        jax.eval_shape(fusion.init, jax.random.key(0), _features([(4, 4, 3)]))
