"""E2OAL's query: recorded numbers of the authors' functions, limits, ties, edges."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.losses import dirichlet_alpha, dirichlet_log_alpha, edl_nll, misleading_kl
from jaxrobust.selection import (
    candidate_count,
    cluster_objective,
    cluster_unknowns,
    divergence_informativeness,
    fit_gaussian_mixture_1d,
    gaussian_mixture_posterior,
    known_unknown_margin,
    select_by_class_quota,
)

properties = settings(max_examples=30, deadline=None, derandomize=True)


@pytest.fixture
def golden(load_golden):
    return load_golden("e2oal")


# Recorded outputs of the authors' code.


@pytest.mark.parametrize(
    ("case", "padding", "dtype"),
    [
        *((f"edl{i}", 0, np.float64) for i in range(5)),
        *((case, 3, dtype) for case in ("edl1", "edl4") for dtype in (np.float64, np.float32)),
    ],
)
def test_loss_golden(golden, x64, case, padding, dtype):
    """With classes that are not there beside those of the record, nothing changes."""
    recorded, labels = golden[case, "logits"], golden[case, "labels"]
    num_classes = recorded.shape[1]
    where = np.arange(num_classes + padding) < num_classes if padding else None
    logits = np.pad(recorded, ((0, 0), (0, padding)), constant_values=7.0).astype(dtype)

    def loss_of(logits):
        log_alpha = dirichlet_log_alpha(logits)
        nll = jnp.mean(edl_nll(log_alpha, labels, where=where))
        kl = jnp.mean(misleading_kl(dirichlet_alpha(log_alpha), labels, where=where))
        return nll + min(1.0, int(golden[case, "epoch"]) / 10) * kl / num_classes

    value, grad = jax.jit(jax.value_and_grad(loss_of))(jnp.asarray(logits))
    # The authors' functions add 1e-10 or so within their logarithms.
    np.testing.assert_allclose(
        value, golden[case, "loss"], rtol=1e-8 if dtype is np.float64 else 1e-6
    )
    atol = 1e-9 if dtype is np.float64 else 3e-7
    np.testing.assert_allclose(grad[:, :num_classes], golden[case, "grad"], atol=atol)
    assert not np.any(grad[:, num_classes:])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", [f"informativeness{i}" for i in range(4)])
def test_informativeness_golden(golden, x64, case, dtype):
    score = divergence_informativeness(golden[case, "logits"].astype(dtype))
    assert score.dtype == dtype
    tolerance = 1e-12 if dtype is np.float64 else 2e-6
    np.testing.assert_allclose(score, golden[case, "score"], rtol=tolerance)


@pytest.mark.parametrize("case", [f"candidates{i}" for i in range(7)])
def test_candidates_golden(golden, case):
    count = candidate_count(
        golden[case, "prob"],
        golden[case, "informativeness"],
        budget=int(golden[case, "budget"]),
        target=float(golden[case, "target"]),
    )
    assert count == golden[case, "count"]


@pytest.mark.parametrize("case", [f"clusters{i}" for i in range(4)])
def test_clusters_golden(golden, case):
    objective, left = cluster_objective(
        golden[case, "labels"], golden[case, "clusters"], int(golden[case, "num_known"])
    )
    assert objective == pytest.approx(float(golden[case, "objective"]), rel=1e-12)
    np.testing.assert_array_equal(left, golden[case, "unknown"])


@pytest.mark.parametrize("case", [f"query{i}" for i in range(3)])
def test_query_golden(golden, x64, case):
    logits, num_known = golden[case, "logits"], int(golden[case, "num_known"])
    budget = int(golden[case, "budget"])
    margin = known_unknown_margin(logits, num_known)
    informativeness = divergence_informativeness(golden[case, "base_logits"])
    count = candidate_count(
        golden[case, "prob"], informativeness, budget=budget, target=float(golden[case, "target"])
    )
    assert count == golden[case, "count"]
    chosen = select_by_class_quota(
        margin,
        informativeness,
        logits.argmax(axis=1),
        num_candidates=count,
        num_known=num_known,
        budget=budget,
    )
    np.testing.assert_array_equal(np.sort(chosen), golden[case, "chosen"])
    assert np.mean(golden[case, "labels"][chosen] < num_known) == golden[case, "precision"]
    # Their mixture also has the labelled examples, which are not recorded, and a random start.
    mixture = fit_gaussian_mixture_1d(margin, num_components=3)
    prob = gaussian_mixture_posterior(margin, mixture)[:, -1]
    assert np.corrcoef(prob, golden[case, "prob"])[0, 1] > 0.98


# Margin.


def test_margin_by_hand():
    logits = jnp.array([[1.0, 3.0, 2.0, -1.0], [1.0, 0.0, 4.0, 4.5]])
    np.testing.assert_array_equal(known_unknown_margin(logits, 2), [1.0, -3.5])
    np.testing.assert_array_equal(known_unknown_margin(logits, 4), [3.0, 4.5])
    absent = logits.at[:, 3].set(-jnp.inf)
    np.testing.assert_array_equal(known_unknown_margin(absent, 2), [1.0, -3.0])
    none = logits.at[:, 2:].set(-jnp.inf)
    np.testing.assert_array_equal(known_unknown_margin(none, 2), [3.0, 1.0])
    assert known_unknown_margin(logits.astype(jnp.bfloat16), 2).dtype == jnp.float32


# Informativeness.


def test_informativeness_by_hand(x64):
    probs = np.array([[0.9, 0.05, 0.03, 0.02], [0.6, 0.3, 0.05, 0.05], [0.25] * 4])
    reverse = divergence_informativeness(jnp.log(probs))
    np.testing.assert_allclose(reverse, [0.106354, 0.201434, 0], atol=1e-6)
    js = divergence_informativeness(jnp.log(probs), divergence="js")
    np.testing.assert_allclose(js, [0.008676, 0.018199, 0], atol=1e-6)


@pytest.mark.parametrize("divergence", ["reverse", "js"])
def test_informativeness_of_extreme_predictions(divergence):
    score = functools.partial(divergence_informativeness, divergence=divergence)
    sure, none, middle = score(jnp.array([[200.0, 0, 0], [1.0, 1, 1], [1.0, 0, 0]])).tolist()
    assert sure == pytest.approx(0, abs=1e-6) and none == 0 and middle > 0.005
    assert np.all(np.isfinite(jax.grad(lambda z: score(z).sum())(jnp.array([[200.0, 0, -200]]))))


@properties
@given(st.integers(0, 10_000), st.sampled_from(["reverse", "js"]))
def test_informativeness_does_not_depend_on_names(seed, divergence):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (6, 5)).astype(np.float32)
    score = divergence_informativeness(logits, divergence=divergence)
    assert np.all(score >= 0)
    permuted = divergence_informativeness(logits[:, rng.permutation(5)], divergence=divergence)
    np.testing.assert_allclose(permuted, score, rtol=1e-3, atol=1e-7)
    shifted = divergence_informativeness(logits + np.float32(3), divergence=divergence)
    np.testing.assert_allclose(shifted, score, rtol=1e-3, atol=1e-7)


# Candidates.


def count_slowly(prob, informativeness, budget, target):
    """By the definition, for distinct values."""
    order = np.argsort(-prob, kind="stable")
    for k in range(budget, len(prob) + 1):
        first = order[:k]
        best = first[np.argsort(-informativeness[first], kind="stable")[:budget]]
        if target > 0 and math.floor(math.fsum(prob[best])) <= target * budget:
            return k
    return len(prob)


@properties
@given(st.integers(0, 10_000), st.integers(0, 12), st.sampled_from([0.0, 0.3, 0.6, 1.0]))
def test_candidates_by_definition(seed, budget, target):
    rng = np.random.default_rng(seed)
    prob, informativeness = rng.beta(0.3, 0.3, 10), rng.permutation(10) / 10
    count = candidate_count(prob, informativeness, budget=budget, target=target)
    assert count == count_slowly(prob, informativeness, budget, target)
    assert min(budget, 10) <= count <= 10


def test_candidates_by_hand():
    prob, informativeness = [0.99, 0.95, 0.9, 0.8, 0.6, 0.4, 0.2, 0.1], [1, 2, 3, 9, 8, 7, 6, 5]
    count = functools.partial(candidate_count, prob, informativeness, budget=3)
    assert [count(target=t / 3) for t in (3, 2.4, 1.8, 1.2)] == [3, 3, 6, 6]
    # The order of the array does not matter, nor does a budget of all or more.
    assert candidate_count(prob[::-1], informativeness[::-1], budget=3, target=0.6) == 6
    assert candidate_count(prob, informativeness, budget=8, target=0.1) == 8
    assert candidate_count(prob, informativeness, budget=9, target=0.6) == 8
    assert candidate_count([], [], budget=2, target=0.6) == 0


def test_candidates_among_equals():
    # Equally informative: of the first three 0 and 1 count, of the first two 1 and 2.
    assert candidate_count([0.05, 0.9, 0.9, 0.01], [1, 1, 1, 1], budget=2, target=0.4) == 3
    assert candidate_count([0.9, 0.9, 0.05, 0.01], [1, 1, 1, 1], budget=2, target=0.4) == 4
    # Probabilities of 1 count fully: ten of them are ten, not nine.
    assert candidate_count(np.ones(20), np.arange(20), budget=10, target=0.95) == 20


# Quotas.


def test_quota_by_hand():
    margin = np.array([5.0, 4, 3, 2, 1, 9, 0])
    informativeness = np.array([0.0, 1, 2, 3, 4, 0, 9])
    predictions = np.array([0, 0, 0, 0, 0, 1, 2])
    choose = functools.partial(select_by_class_quota, margin, informativeness, predictions)
    # ceil(5 / 2) = 3 of class 0 by margin, of which ceil(3 / 2) = 2; class 2 is "unknown".
    np.testing.assert_array_equal(choose(num_candidates=5, num_known=2, budget=3), [2, 1, 5])
    np.testing.assert_array_equal(choose(num_candidates=6, num_known=3, budget=3), [1, 5, 6])
    np.testing.assert_array_equal(choose(num_candidates=7, num_known=1, budget=99), [4, 3, 2, 1, 0])
    assert choose(num_candidates=7, num_known=2, budget=0).size == 0
    ties = select_by_class_quota(
        np.ones(4), np.ones(4), np.zeros(4, int), num_candidates=2, num_known=1, budget=2
    )
    np.testing.assert_array_equal(ties, [0, 1])
    nothing = select_by_class_quota([], [], [], num_candidates=2, num_known=1, budget=2)
    assert nothing.size == 0 and nothing.dtype == np.int64


@properties
@given(st.integers(0, 10_000))
def test_quotas(seed):
    rng = np.random.default_rng(seed)
    num_known, budget, count = rng.integers(1, 5), rng.integers(0, 12), rng.integers(0, 30)
    predictions = rng.integers(0, num_known + 2, 30)
    chosen = select_by_class_quota(
        rng.random(30),
        rng.random(30),
        predictions,
        num_candidates=count,
        num_known=num_known,
        budget=budget,
    )
    assert len(set(chosen)) == len(chosen) < budget + num_known
    per_class = np.bincount(predictions[chosen], minlength=num_known)
    most = min(-(-budget // num_known), -(-count // num_known))
    sizes = np.bincount(predictions, minlength=num_known)[:num_known]
    np.testing.assert_array_equal(per_class, np.minimum(sizes, most))
    assert np.all(np.diff(predictions[chosen]) >= 0)


# Clusters.


def test_objective_by_hand():
    labels, clusters = [0, 0, 0, 1, 1, 1, 2, 2, 2, 2], [0, 0, 3, 1, 1, 1, 2, 2, 3, 0]
    objective, left = cluster_objective(labels, clusters, 2)
    # 2 * 2 / (3 + 3), 1, and of clusters 2 and 3 together 2 * 3 / (4 + 4).
    assert objective == pytest.approx((2 / 3 * 1 * 3 / 4) ** (1 / 3), rel=1e-12)
    np.testing.assert_array_equal(left, [2, 3])
    assert cluster_objective([0, 0, 1, 2], [0, 0, 1, 2], 2)[0] == 1


def test_objective_that_is_not_defined():
    assert math.isnan(cluster_objective([0, 0, 1], [0, 1, 2], 2)[0])  # no unknown
    assert math.isnan(cluster_objective([0, 0, 2], [0, 1, 2], 2)[0])  # no class 1
    assert math.isnan(cluster_objective([0, 1, 2], [0, 0, 0], 2)[0])  # too few clusters
    objective, left = cluster_objective([], [], 2)
    assert math.isnan(objective) and left.size == 0


@properties
@given(st.integers(0, 10_000))
def test_objective_does_not_depend_on_names(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 60)
    clusters = np.where(rng.random(60) < 0.7, labels, rng.integers(0, 7, 60))
    objective, left = cluster_objective(labels, clusters, 3)
    order, names = rng.permutation(60), rng.permutation(7)
    renamed, left_too = cluster_objective(labels[order], names[clusters[order]], 3)
    assert 0 < objective <= 1
    assert renamed == pytest.approx(objective)
    assert len(left_too) == len(left)


def blobs(num_clusters, num_each=12):
    rng = np.random.default_rng(0)
    cluster = np.repeat(np.arange(num_clusters), num_each)
    return 10 * np.eye(num_clusters)[cluster] + rng.normal(
        0, 0.3, (len(cluster), num_clusters)
    ), cluster


def test_clusters_of_unknown_examples():
    features, cluster = blobs(6)
    labels = np.minimum(cluster, 2)  # clusters 2 to 5 are unknown
    divided, count = cluster_unknowns(features, labels, 2, max_clusters=20)
    assert count == 4
    np.testing.assert_array_equal(divided[labels < 2], labels[labels < 2])
    pairs = {(a, b) for a, b in zip(cluster[labels == 2], divided[labels == 2], strict=True)}
    assert len(pairs) == 4 and {b for _, b in pairs} == {2, 3, 4, 5}
    again, _ = cluster_unknowns(features, labels, 2, max_clusters=20)
    np.testing.assert_array_equal(again, divided)


def test_clusters_of_few_examples():
    features, cluster = blobs(3, 2)
    labels = np.minimum(cluster, 2)
    np.testing.assert_array_equal(cluster_unknowns(features, labels, 3)[0], labels)
    assert cluster_unknowns(features, labels, 3)[1] == 0  # none is unknown
    few = np.array([0, 2, 4])
    divided, count = cluster_unknowns(features[few], labels[few], 2)
    assert count == 1 and divided.tolist() == [0, 1, 2]
    same, count = cluster_unknowns(np.ones((6, 2)), labels, 2)
    assert count == 1 and same.tolist() == labels.tolist()
    assert cluster_unknowns(features, labels, 2, max_clusters=3)[1] == 1


def test_errors():
    with pytest.raises(ValueError, match=r"num_known=3 must lie in 1\.\.C"):
        known_unknown_margin(jnp.ones((2, 2)), 3)
    with pytest.raises(ValueError, match="did you mean 'reverse'"):
        divergence_informativeness(jnp.ones((2, 2)), divergence="revers")
    with pytest.raises(ValueError, match="must both be"):
        candidate_count([0.5], [0.5, 0.5], budget=1, target=0.5)
    with pytest.raises(ValueError, match="cannot be summed or ranked"):
        candidate_count([np.nan], [0.5], budget=1, target=0.5)
    with pytest.raises(ValueError, match="budget=-1"):
        candidate_count([0.5], [0.5], budget=-1, target=0.5)
    quota = functools.partial(select_by_class_quota, num_candidates=1, budget=1)
    with pytest.raises(ValueError, match="must all be"):
        quota([1.0], [1.0, 2.0], [0], num_known=1)
    with pytest.raises(ValueError, match="cannot be ranked"):
        quota([np.nan], [1.0], [0], num_known=1)
    with pytest.raises(ValueError, match="num_known=0"):
        quota([1.0], [1.0], [0], num_known=0)
    with pytest.raises(ValueError, match="must both be"):
        cluster_objective([0, 1], [0], 1)
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.1"):
        cluster_objective([0, 2], [0, 1], 1)
    with pytest.raises(ValueError, match="numbered from 0"):
        cluster_objective([0, 1], [0, -1], 1)
    with pytest.raises(ValueError, match="num_components"):
        fit_gaussian_mixture_1d(jnp.ones(3), num_components=1)


# Mixture of three.


def test_mixture_of_three(x64):
    from sklearn.mixture import GaussianMixture

    rng = np.random.default_rng(0)
    x = np.concatenate(
        [rng.normal(m, s, n) for m, s, n in ((-3, 0.5, 60), (0, 1, 90), (4, 0.7, 50))]
    )
    mixture = fit_gaussian_mixture_1d(x, num_components=3, max_iter=300, tol=1e-12)
    reference = GaussianMixture(3, tol=1e-12, max_iter=300, reg_covar=5e-4, random_state=0)
    reference.fit(x[:, None])
    order = np.argsort(reference.means_[:, 0])
    np.testing.assert_allclose(mixture.means, reference.means_[order, 0], atol=1e-4)
    np.testing.assert_allclose(mixture.weights, reference.weights_[order], atol=1e-4)
    posterior = gaussian_mixture_posterior(x, mixture)
    np.testing.assert_allclose(posterior.sum(axis=1), 1, rtol=1e-12)
    expected = reference.predict_proba(x[:, None])[:, order]
    np.testing.assert_allclose(posterior, expected, atol=1e-4)


@pytest.mark.parametrize("x", [np.full(5, 0.1), np.array([1.0, 1, 1, 2]), np.array([3.0])])
def test_mixture_of_three_of_fewer_values(x):
    mixture = fit_gaussian_mixture_1d(x.astype(np.float32), num_components=3)
    posterior = gaussian_mixture_posterior(x.astype(np.float32), mixture)
    assert all(np.all(np.isfinite(part)) for part in (*mixture[:3], posterior))
    np.testing.assert_allclose(posterior.sum(axis=1), 1, rtol=1e-5)
