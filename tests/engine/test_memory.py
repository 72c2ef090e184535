"""What a pool as large as ImageNet takes on the host."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.engine.loops import gather_program
from jaxrobust.engine.plan import place_plan
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.sharding import make_placement
from jaxrobust.selection import select_lowest

POOL = 1_300_000
WIDTH = 8192
ROW = 16  # bytes of an image; those of the whole pool would be 20.8 MB


class _Stream:
    """Images that exist only while they are scored."""

    def batches(self, ids, first=0):
        for row in ids[first:]:
            yield row, np.repeat((row % 251).astype(np.uint8)[:, None], ROW, axis=1)


@pytest.fixture
def host_bytes():
    """Function from a call to its result and to the most that NumPy and Python held in it."""

    def measure(call):
        tracemalloc.start()
        try:
            return call(), tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return measure


def test_a_pool_of_1_3_million_is_planned_and_scored_in_chunks(host_bytes):
    placement = make_placement(jax.devices()[:1])

    def forward(ids, key, images):
        del ids, key
        return jnp.sum(images.astype(jnp.float32), axis=1)

    score = gather_program(Programs(), "score", forward, POOL, placement, static=())
    stream, key = _Stream(), jax.random.key(0)

    def round_(pool):
        plan = place_plan(pool, WIDTH, placement, capacity=POOL)
        return jax.block_until_ready(score(plan, key, stream))

    round_(np.arange(10, dtype=np.int32))  # compiles
    pool = np.arange(POOL, dtype=np.int32)
    scores, peak = host_bytes(lambda: round_(pool))
    np.testing.assert_array_equal(scores, np.arange(POOL) % 251 * ROW)
    # The plan, and what moves it to the devices; the images of a few rows.
    assert peak < 3 * pool.nbytes
    assert peak < 0.8 * POOL * ROW
    chosen, peak = host_bytes(lambda: np.asarray(select_lowest(scores, 100)))
    np.testing.assert_array_equal(chosen, np.arange(100) * 251)
    assert peak < 5 * pool.nbytes
