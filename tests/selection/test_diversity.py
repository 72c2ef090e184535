import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.selection import badge_select, k_center_greedy
from jaxrobust.selection.diversity import _squared_distances

k_center = jax.jit(k_center_greedy, static_argnums=2)
badge = jax.jit(badge_select, static_argnums=3)


def greedy_by_hand(features, centers, budget):
    """k-center with all distances written out, and each pick's distance."""
    picks = []
    for _ in range(budget):
        gaps = np.linalg.norm(features[:, None] - centers[None], axis=-1).min(axis=1)
        gaps[picks] = -1
        picks.append(int(np.argmax(gaps)))
        centers = np.concatenate([centers, features[picks[-1:]]])
    return picks


def clusters(seed=0):
    """Three tight groups of logits and features, ten rows each, and their group ids."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(3), 10)
    centers = 10 * np.eye(3)
    features = centers[groups] + 0.01 * rng.normal(size=(30, 3))
    logits = np.eye(4)[0] + 0.01 * rng.normal(size=(30, 4))
    return jnp.asarray(logits), jnp.asarray(features), groups


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_k_center_golden(load_golden, x64, dtype):
    golden = load_golden("bual")
    features = golden["base0", "unlabeled_features"].astype(dtype)
    labeled = golden["base0", "labeled_features"].astype(dtype)
    picks = k_center(features, labeled, int(golden["base0", "query_size"]))
    np.testing.assert_array_equal(picks, golden["base0", "coreset_selected"])


def test_badge_golden(load_golden, x64):
    golden = load_golden("bual")
    logits, features = golden["base0", "logits"], golden["base0", "unlabeled_features"]
    embeddings = golden["base0", "badge_grad"].reshape(len(logits), -1)
    residuals = jax.nn.softmax(logits) - np.eye(logits.shape[1])[logits.argmax(axis=1)]
    factors, rows = (residuals, jnp.asarray(features)), np.array([0, 17, 39])
    np.testing.assert_allclose(
        _squared_distances(factors, tuple(x[rows] for x in factors)),
        np.sum((embeddings[:, None] - embeddings[None, rows]) ** 2, axis=-1),
        atol=1e-9,
    )
    picks = badge(jax.random.key(0), logits, features, int(golden["base0", "query_size"]))
    assert int(picks[0]) == golden["base0", "badge_first"]
    assert len(set(np.asarray(picks))) == int(golden["base0", "query_size"])


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(0, 10_000))
def test_k_center_takes_the_farthest_each_time(seed):
    rng = np.random.default_rng(seed)
    features, labeled = (rng.normal(size=(n, 3)).astype(np.float32) for n in (20, 5))
    picks = k_center(features, labeled, 8)
    np.testing.assert_array_equal(picks, greedy_by_hand(features, labeled, 8))


def test_k_center_over_several_blocks_of_centres():
    rng = np.random.default_rng(0)
    features, labeled = (rng.normal(size=(n, 4)).astype(np.float32) for n in (30, 600))
    picks = k_center(features, labeled, 5)
    np.testing.assert_array_equal(picks, greedy_by_hand(features, labeled, 5))


@pytest.mark.parametrize("budget", [63, 64, 65, 150])
def test_k_center_over_several_blocks_of_picks(budget):
    rng = np.random.default_rng(2)
    features, labeled = (rng.normal(size=(n, 8)).astype(np.float32) for n in (300, 5))
    picks = k_center(features, labeled, budget)
    np.testing.assert_array_equal(picks, greedy_by_hand(features, labeled, budget))


def test_badge_over_several_blocks_of_picks():
    """The same draws as with every distance brought up to date after every pick."""
    rng = np.random.default_rng(3)
    logits, features = (
        jnp.asarray(rng.normal(size=(200, 4))),
        jnp.asarray(rng.normal(size=(200, 6))),
    )
    key = jax.random.key(4)
    picks = np.asarray(badge(key, logits, features, 140))
    residuals = jax.nn.softmax(logits) - jax.nn.one_hot(logits.argmax(1), 4)
    embeddings = np.asarray(residuals[:, :, None] * features[:, None]).reshape(200, -1)
    nearest = np.full(200, np.inf)
    for step, pick in enumerate(picks[:-1]):
        nearest = np.minimum(nearest, np.sum((embeddings - embeddings[pick]) ** 2, axis=1))
        noise = np.asarray(jax.random.gumbel(jax.random.fold_in(key, step), (200,), jnp.float32))
        odds = np.log(np.maximum(nearest, 1e-30)) + noise
        odds[picks[: step + 1]] = -np.inf
        assert picks[step + 1] == np.argmax(odds)


def test_k_center_masks():
    rng = np.random.default_rng(1)
    features, labeled = (rng.normal(size=(n, 3)).astype(np.float32) for n in (20, 5))
    where, labeled_where = rng.uniform(size=20) < 0.5, np.array([True, False, True, True, False])
    picks = k_center(features, labeled, 20, where=where, labeled_where=labeled_where)
    count = where.sum()
    kept = np.flatnonzero(where)[
        np.asarray(k_center(features[where], labeled[labeled_where], count))
    ]
    np.testing.assert_array_equal(picks[:count], kept)
    assert np.all(picks[count:] == -1)


def test_one_pick_or_none():
    logits, features, _ = clusters()
    key = jax.random.key(0)
    assert badge(key, logits, features, 1) == badge(key, logits, features, 5)[:1]
    assert badge(key, logits, features, 0).size == k_center(features, features, 0).size == 0


def test_k_center_never_repeats_a_row():
    """Equal rows are all at distance 0 after the first, yet none is named twice."""
    picks = k_center(jnp.ones((6, 2)), jnp.zeros((1, 2)), 9)
    np.testing.assert_array_equal(picks, np.arange(6))


def test_badge_spreads_over_the_groups():
    logits, features, groups = clusters()
    firsts = set()
    for seed in range(8):
        picks = np.asarray(badge(jax.random.key(seed), logits, features, 3))
        assert set(groups[picks]) == {0, 1, 2}
        firsts.add(picks[0])
    sizes = jnp.sum((jax.nn.softmax(logits) - jax.nn.one_hot(logits.argmax(1), 4)) ** 2, axis=1)
    assert firsts == {int(jnp.argmax(sizes * jnp.sum(features**2, axis=1)))}


def test_badge_draws_in_proportion_to_the_squared_distance():
    # Same residual everywhere, features on a line: distances from the first pick are 1, 2, 3.
    logits = jnp.zeros((4, 2))
    features = jnp.array([[4.0], [3.0], [2.0], [1.0]])
    draw = jax.jit(jax.vmap(lambda key: badge_select(key, logits, features, 2)))
    picks = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    assert np.all(picks[:, 0] == 0)
    frequency = np.bincount(picks[:, 1], minlength=4) / 4000
    np.testing.assert_allclose(frequency, np.array([0, 1, 4, 9]) / 14, atol=0.03)


def test_badge_masks_and_duplicates():
    logits, features, _ = clusters(1)
    where = np.random.default_rng(2).uniform(size=30) < 0.4
    picks = np.asarray(badge(jax.random.key(0), logits, features, 30, where=where))
    assert set(picks[: where.sum()]) == set(np.flatnonzero(where))
    assert np.all(picks[where.sum() :] == -1)
    same = badge(jax.random.key(0), jnp.zeros((5, 2)), jnp.ones((5, 3)), 9)
    assert sorted(np.asarray(same)) == [0, 1, 2, 3, 4]
    # Exact duplicates of the first pick wait until nothing else is left.
    features = jnp.array([[3.0]] * 4 + [[1.0]])
    assert badge(jax.random.key(1), jnp.zeros((5, 2)), features, 5)[1] == 4


def test_badge_is_a_function_of_its_key():
    logits, features, _ = clusters(3)
    draws = [badge(jax.random.key(seed), logits, features, 10) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.any(draws[0] != draws[2])
    eager = badge_select(jax.random.key(0), logits, features, 10)
    np.testing.assert_array_equal(eager, draws[0])


def test_memory_stays_with_the_features():
    """A pool of 50,000 x 512 and 14,000 labelled rows: compiled, not run."""
    pool = jax.ShapeDtypeStruct((50_000, 512), jnp.float32)
    logits = jax.ShapeDtypeStruct((50_000, 100), jnp.float32)
    labeled = jax.ShapeDtypeStruct((14_000, 512), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    for lowered in (k_center.lower(pool, labeled, 1500), badge.lower(key, logits, pool, 1500)):
        memory = lowered.compile().memory_analysis()
        used = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        assert used < 1e9


def test_extreme_logits():
    logits = 1e4 * jnp.eye(4)[jnp.arange(6) % 4]
    picks = badge(jax.random.key(0), logits, jnp.ones((6, 2)), 6)
    assert sorted(np.asarray(picks)) == list(range(6))


def test_errors():
    features = jnp.zeros((4, 3))
    with pytest.raises(ValueError, match=r"must be \[N, D\] and \[L, D\]"):
        k_center_greedy(features, jnp.zeros((2, 2)), 1)
    with pytest.raises(ValueError, match="has no row"):
        k_center_greedy(features, jnp.zeros((0, 3)), 1)
    with pytest.raises(ValueError, match="must not be negative"):
        k_center_greedy(features, features, -1)
    with pytest.raises(ValueError, match=r"must be \[N, C\] and \[N, D\]"):
        badge_select(jax.random.key(0), jnp.zeros((3, 2)), features, 1)
    with pytest.raises(ValueError, match="must not be negative"):
        badge_select(jax.random.key(0), features, features, -1)
