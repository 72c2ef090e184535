import jax
import numpy as np

from jaxrobust.engine import rng


def test_a_stream_depends_on_seed_name_and_every_index():
    keys = [
        rng.stream(0, "a"),
        rng.stream(1, "a"),
        rng.stream(0, "b"),
        rng.stream(0, "a", 0),
        rng.stream(0, "a", 1),
        rng.stream(0, "a", 0, 0),
    ]
    data = {tuple(jax.random.key_data(k).tolist()) for k in keys}
    assert len(data) == len(keys)


def test_a_stream_is_the_same_under_jit_with_traced_indices():
    eager = rng.stream(3, "steps", 2, 7)
    jitted = jax.jit(lambda i, j: rng.stream(3, "steps", i, j))(2, 7)
    np.testing.assert_array_equal(jax.random.key_data(eager), jax.random.key_data(jitted))


def test_host_generators_are_independent_of_call_order():
    first = rng.generator(0, "order", 1, 2).permutation(20)
    rng.generator(0, "order", 1, 3).permutation(20)
    np.testing.assert_array_equal(first, rng.generator(0, "order", 1, 2).permutation(20))
    assert not np.array_equal(first, rng.generator(0, "order", 2, 1).permutation(20))
