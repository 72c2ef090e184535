import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.losses import dcfs_loss, dirichlet_log_alpha, head_discrepancy
from jaxrobust.metrics import auroc, query_precision
from jaxrobust.selection import coarse_score, merge_heads, select_coarse_to_fine

KINDS = ("weighted_sum", "product", "rank_sum", "data", "dist", "total")
CASES = [f"sel{i}" for i in range(6)]
seeded = settings(max_examples=40, deadline=None, derandomize=True)
jit_score = jax.jit(coarse_score, static_argnames=("kind", "w_data", "w_dist"))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", CASES)
def test_golden_coarse_scores(load_golden, x64, case, dtype):
    golden = load_golden("dcfs")
    data, dist = golden[case, "data_unc"].astype(dtype), golden[case, "dist_unc"].astype(dtype)
    tolerance = {np.float64: 1e-12, np.float32: 5e-6}[dtype]
    options = {kind: {"kind": kind} for kind in KINDS}
    options["weighted_sum_0.3_1"] = {"w_data": 0.3}
    for name, kwargs in options.items():
        score = jit_score(data, dist, **kwargs)
        assert score.dtype == dtype
        np.testing.assert_allclose(
            score, golden[case, f"coarse_{name}"], rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_golden_selections(load_golden, case, kind):
    golden = load_golden("dcfs")
    coarse, fine = golden[case, f"coarse_{kind}"], golden[case, "fine_tv"]
    budget, kappa = int(golden[case, "budget"]), float(golden[case, "kappa"])
    quotas = {"predictions": golden[case, "pred"], "num_classes": golden[case, "logits"].shape[-1]}
    for name, options in (("global", {}), ("balanced", quotas)):
        candidates, selected = select_coarse_to_fine(coarse, fine, budget, kappa=kappa, **options)
        np.testing.assert_array_equal(candidates, golden[case, f"cand_{name}_{kind}"])
        np.testing.assert_array_equal(selected, golden[case, f"sel_{name}_{kind}"])


@pytest.mark.parametrize("case", CASES)
def test_golden_variants(load_golden, case):
    golden = load_golden("dcfs")
    coarse, fine = golden[case, "coarse_weighted_sum"], golden[case, "fine_tv"]
    budget, kappa = int(golden[case, "budget"]), float(golden[case, "kappa"])
    _, selected = select_coarse_to_fine(coarse, fine, budget, kappa=1)
    assert set(selected) == set(golden[case, "sel_coarse_only"])
    _, selected = select_coarse_to_fine(coarse, -coarse, budget, kappa=1)
    np.testing.assert_array_equal(selected, golden[case, "sel_coarse_only"])
    _, selected = select_coarse_to_fine(coarse, -fine, budget, kappa=kappa)
    np.testing.assert_array_equal(selected, golden[case, "sel_global_fine_low"])
    _, selected = select_coarse_to_fine(fine, golden[case, "data_unc"], budget, kappa=kappa)
    np.testing.assert_array_equal(selected, golden[case, "sel_global_disc_then_data"])


def test_a_shuffled_cut_keeps_any_of_the_picks():
    """Three classes with a quota of 2 for a budget of 4: which 4 of the 6 picks is up to chance."""
    predictions, fine = np.repeat([0, 1, 2], 4), np.tile([3, 2, 1, 0], 3) + np.arange(12) / 100
    options = {"predictions": predictions, "num_classes": 3, "kappa": 2}
    draws = [
        select_coarse_to_fine(-fine, fine, 4, rng=np.random.default_rng(i), **options)[1]
        for i in range(20)
    ]
    assert {len(set(draw)) for draw in draws} == {4}
    assert set(np.concatenate(draws)) == {0, 1, 4, 5, 8, 9}
    np.testing.assert_array_equal(select_coarse_to_fine(-fine, fine, 4, **options)[1], [8, 4, 0, 9])
    # Where the picks are too few, what fills up stays in order.
    _, filled = select_coarse_to_fine(-fine, fine, 9, rng=np.random.default_rng(0), kappa=1)
    assert len(set(filled)) == 9


def test_coarse_scores_by_hand():
    data = jnp.array([1.0, 3.0, 2.0, 1.0])
    dist = jnp.array([0.4, 0.0, 0.2, 0.4])
    expected = {
        "weighted_sum": [1, 1, 1, 1],
        "product": [0, 0, 0.25, 0],
        "rank_sum": [2 / 3, 1, 1, 4 / 3],
        "data": data,
        "dist": dist,
        "total": [1.4, 3, 2.2, 1.4],
    }
    for kind, score in expected.items():
        np.testing.assert_allclose(jit_score(data, dist, kind=kind), score, rtol=1e-6)
    score = jit_score(data, dist, w_data=2.0, w_dist=0.5)
    np.testing.assert_allclose(score, [0.5, 2, 1.25, 0.5], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_coarse_score_sees_the_pool_only(kind):
    rng = np.random.default_rng(0)
    data, dist = rng.uniform(size=(2, 12)).astype(np.float32)
    where = rng.uniform(size=12) < 0.5
    inside = jit_score(data[where], dist[where], kind=kind)
    data[~where], dist[~where] = np.inf, -1e9
    score = jit_score(data, dist, kind=kind, where=where)
    np.testing.assert_allclose(score[where], inside, rtol=1e-6)
    np.testing.assert_array_equal(score[~where], np.inf)


@pytest.mark.parametrize("kind", KINDS)
def test_coarse_score_of_a_constant_or_empty_pool_is_finite(kind):
    same = jnp.full(4, 0.5)
    assert np.all(np.isfinite(jit_score(same, same, kind=kind)))
    nobody = jit_score(same, same, kind=kind, where=jnp.zeros(4, bool))
    np.testing.assert_array_equal(nobody, np.inf)


def test_selection_by_hand():
    #               0    1    2    3    4    5    6    7
    coarse = np.array([0.8, 0.1, 0.2, 0.3, 0.9, 0.4, 0.5, 0.6])
    fine = np.array([0.9, 0.1, 0.5, 0.7, 1.0, 0.5, 0.6, 0.2])
    candidates, selected = select_coarse_to_fine(coarse, fine, 3, kappa=1.5)
    np.testing.assert_array_equal(candidates, [1, 2, 3, 5, 6])
    np.testing.assert_array_equal(selected, [3, 6, 2])
    # Quota ceil(3 / 2) = 2 and ceil(1.5 * 2) = 3 candidates per class, of classes 0 and 1.
    predictions = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    candidates, selected = select_coarse_to_fine(
        coarse, fine, 3, kappa=1.5, predictions=predictions, num_classes=2
    )
    np.testing.assert_array_equal(candidates, [1, 2, 3, 5, 6, 7])
    np.testing.assert_array_equal(selected, [3, 6, 2])


def test_classes_that_are_never_predicted_are_refilled():
    coarse = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    fine = np.array([9.0, 8.0, 0.0, 1.0, 2.0, 3.0])
    # Quota 1 and 2 candidates in each of four classes; only class 2 is ever predicted. After its
    # pick (5) come its other candidate (4), then the rest of the pool by coarse score.
    candidates, selected = select_coarse_to_fine(
        coarse, fine, 4, kappa=2, predictions=np.full(6, 2), num_classes=4
    )
    np.testing.assert_array_equal(candidates, [4, 5])
    np.testing.assert_array_equal(selected, [5, 4, 3, 2])
    # A prediction that is no known class has no quota, but fills up all the same.
    _, selected = select_coarse_to_fine(
        coarse, fine, 4, kappa=2, predictions=np.array([2, 7, -1, 2, 2, 2]), num_classes=4
    )
    np.testing.assert_array_equal(selected, [5, 4, 3, 2])


def test_positions_are_those_of_the_given_arrays():
    rng = np.random.default_rng(1)
    coarse, fine = rng.uniform(size=(2, 30))
    predictions = rng.integers(0, 3, size=30)
    where = rng.uniform(size=30) < 0.5
    ids = np.flatnonzero(where)
    for options in ({}, {"predictions": predictions, "num_classes": 3}):
        inside = dict(options)
        if options:
            inside["predictions"] = predictions[where]
        expected = select_coarse_to_fine(coarse[where], fine[where], 6, kappa=1.5, **inside)
        actual = select_coarse_to_fine(
            np.where(where, coarse, -1),
            np.where(where, fine, 2),
            6,
            kappa=1.5,
            where=where,
            **options,
        )
        for positions, of_inside in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(positions, ids[of_inside])


pools = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "size": st.integers(1, 40),
        "budget": st.integers(0, 45),
        "kappa": st.sampled_from([0.5, 1, 1.3, 2.5, 5]),
        "num_classes": st.sampled_from([None, 2, 7]),
        "levels": st.sampled_from([1, 3, 1000]),
    }
)


def draw(pool):
    """Scores with ties where `levels` is small, and the options of a selection."""
    rng = np.random.default_rng(pool["seed"])
    coarse, fine = rng.permuted(rng.integers(0, pool["levels"], size=(2, pool["size"])), axis=1)
    options = {"kappa": pool["kappa"]}
    if pool["num_classes"]:
        # Lopsided, so that quotas run dry.
        predictions = np.minimum(rng.geometric(0.6, pool["size"]) - 1, pool["num_classes"] - 1)
        options |= {"predictions": predictions, "num_classes": pool["num_classes"]}
    return coarse / pool["levels"], fine / pool["levels"], options


@seeded
@given(pools)
def test_selection_is_unique_and_complete(pool):
    coarse, fine, options = draw(pool)
    budget = pool["budget"]
    candidates, selected = select_coarse_to_fine(coarse, fine, budget, **options)
    size = min(budget, pool["size"])
    assert len(selected) == len(set(selected)) == size
    assert np.all(np.diff(candidates) > 0)
    if not pool["num_classes"]:
        assert set(selected) <= set(candidates)
        needed = max(math.ceil(pool["kappa"] * size), size)
        assert len(candidates) == min(pool["size"], needed)
    elif len(candidates) >= size:
        assert set(selected) <= set(candidates)


@seeded
@given(pools)
def test_selection_depends_on_the_order_of_the_scores_only(pool):
    coarse, fine, options = draw(pool)
    expected = select_coarse_to_fine(coarse, fine, pool["budget"], **options)
    moved = select_coarse_to_fine(np.exp(3 * coarse), fine**3 - 7, pool["budget"], **options)
    for before, after in zip(expected, moved, strict=True):
        np.testing.assert_array_equal(before, after)


@seeded
@given(pools)
def test_selection_at_the_ends_of_kappa(pool):
    coarse, fine, _ = draw(pool)
    budget, size = pool["budget"], min(pool["budget"], pool["size"])
    _, selected = select_coarse_to_fine(coarse, fine, budget, kappa=1)
    assert set(selected) == set(np.argsort(coarse, kind="stable")[:size])
    _, selected = select_coarse_to_fine(coarse, fine, budget, kappa=pool["size"])
    np.testing.assert_array_equal(selected, np.argsort(-fine, kind="stable")[:size])


@seeded
@given(pools)
def test_selection_follows_a_permuted_pool(pool):
    rng = np.random.default_rng(pool["seed"])
    coarse, fine, options = draw(pool)
    coarse, fine = rng.permutation(pool["size"]), rng.permutation(pool["size"])
    permutation = rng.permutation(pool["size"])
    _, expected = select_coarse_to_fine(coarse, fine, pool["budget"], **options)
    if "predictions" in options:
        options["predictions"] = options["predictions"][permutation]
    _, selected = select_coarse_to_fine(
        coarse[permutation], fine[permutation], pool["budget"], **options
    )
    np.testing.assert_array_equal(permutation[selected], expected)


def test_equal_scores_return_the_first_positions():
    same = np.zeros(9)
    candidates, selected = select_coarse_to_fine(same, same, 4, kappa=1.5)
    np.testing.assert_array_equal(candidates, np.arange(6))
    np.testing.assert_array_equal(selected, np.arange(4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: coarse_score(x, x, kind="weighted"), "did you mean 'weighted_sum'"),
        (lambda x: coarse_score(x, x[:2]), r"must all be \[N\]"),
        (lambda x: coarse_score(x, x, where=jnp.ones(2, bool)), r"must all be \[N\]"),
        (lambda x: select_coarse_to_fine(x, x, -1), "budget=-1"),
        (lambda x: select_coarse_to_fine(x, x, 1, kappa=0), "kappa=0 must be positive"),
        (lambda x: select_coarse_to_fine(x, x, 1, kappa=math.nan), "kappa=nan must be positive"),
        (lambda x: select_coarse_to_fine(x, x[:2], 1), r"must all be \[N\]"),
        (
            lambda x: select_coarse_to_fine(x, x, 1, predictions=np.zeros(4, int)),
            "predictions need their num_classes",
        ),
    ],
)
def test_errors_name_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.arange(4.0))


# The whole method on clusters in the plane: known at (+-3, 0), unknown at (0, +-3).

NUM_POINTS, BUDGET, ROUNDS, STEPS, ANNEAL_STEPS = 400, 30, 3, 200, 20
CENTRES = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
optimizer = optax.adam(5e-3)


def init_network(key):
    """2-64-64 and two linear heads, each with its own key."""
    sizes = [(2, 64), (64, 64), (64, 2), (64, 2)]
    kernels = [
        jax.random.normal(k, size) * math.sqrt(2 / size[0])
        for k, size in zip(jax.random.split(key, 4), sizes, strict=True)
    ]
    return [(kernel, jnp.zeros((1, kernel.shape[1]))) for kernel in kernels]


def two_head_logits(params, x):
    for kernel, bias in params[:2]:
        x = jax.nn.relu(x @ kernel + bias)
    return jnp.stack([x @ kernel + bias for kernel, bias in params[2:]])


@jax.jit
def train(key, x, labels):
    """Full-batch Adam on the labelled points; the others carry -1."""

    def step(i, state):
        params, opt_state = state

        def loss(params):
            anneal = jnp.minimum(1.0, i / ANNEAL_STEPS)
            return dcfs_loss(two_head_logits(params, x), labels, anneal=anneal)[0]

        gradient = jax.grad(loss)(params)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
            updates, opt_state = optimizer.update(gradient, opt_state)
        return optax.apply_updates(params, updates), opt_state

    params = init_network(key)
    params, _ = jax.lax.fori_loop(0, STEPS, step, (params, optimizer.init(params)))
    logits = two_head_logits(params, x)
    data, dist, probs = merge_heads(dirichlet_log_alpha(logits))
    return data, dist, head_discrepancy(logits), jnp.argmax(probs, axis=-1)


def active_learning(seed, centres):
    """Per round: precision less the share of known points in the pool, and the AUROC of dist."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, len(centres), NUM_POINTS)
    x = (centres[cluster] + rng.normal(size=(NUM_POINTS, 2))).astype(np.float32)
    truth = np.minimum(cluster, 2)
    labels = np.full(NUM_POINTS, -1, np.int32)
    start = rng.choice(np.flatnonzero(truth < 2), 10, replace=False)
    labels[start] = truth[start]
    gains, areas = [], []
    for i in range(ROUNDS):
        data, dist, disc, predictions = train(jax.random.key(100 * seed + i), x, labels)
        pool = labels < 0
        _, selected = select_coarse_to_fine(
            coarse_score(data, dist, where=pool),
            disc,
            BUDGET,
            kappa=3,
            predictions=predictions,
            num_classes=2,
            where=pool,
        )
        assert np.all(pool[selected]) and len(set(selected)) == BUDGET
        assert np.all(np.isfinite(dist))
        is_known = truth < 2
        gains.append(query_precision(is_known[selected]) - np.mean(is_known[pool]))
        areas.append(auroc(np.asarray(dist)[pool], ~is_known[pool]))
        labels[selected] = truth[selected]
    return gains, areas


@pytest.mark.slow
def test_clusters_end_to_end():
    gains, areas = np.mean([active_learning(seed, CENTRES) for seed in range(3)], axis=0)
    assert np.mean(gains) > 0.15
    assert np.mean(areas) > 0.7


@pytest.mark.slow
def test_a_closed_set_runs_through():
    gains, areas = active_learning(0, CENTRES[:2])
    assert gains == [0] * ROUNDS and areas == [0] * ROUNDS
