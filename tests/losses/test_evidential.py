import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxrobust.losses import (
    dcfs_loss,
    dirichlet_alpha,
    dirichlet_kl_to_uniform,
    dirichlet_log_alpha,
    discrepancy_loss,
    edl_loss,
    edl_nll,
    evidential_loss,
    head_discrepancy,
    misleading_kl,
    unknown_kl,
)

KINDS = ("tv", "l1_mean", "l2", "js", "dirichlet_kl")
CASES = [f"case{i}" for i in range(11)]
# On |error| / (1 + |value|). In float32 the divergence is computed without the cancellation that
# the recorded limits of 1e-2 on case3 allow for.
VALUE_TOLERANCE = {np.float64: 1e-10, np.float32: 5e-6}
GRAD_TOLERANCE = {np.float64: 1e-9, np.float32: 5e-6}
CLOSE_HEADS_TOLERANCE = {np.float64: 1e-10, np.float32: 1e-4}  # of disc_dirichlet_kl

seeded = settings(max_examples=10, deadline=None, derandomize=True)
OPTIONS = ("offset", "clip", "evidence", "edl", "discrepancy", "amplify")


@functools.partial(jax.jit, static_argnames=OPTIONS)
def loss_and_gradient(logits, labels, **options):
    return jax.value_and_grad(dcfs_loss, has_aux=True)(logits, labels, **options)


def two_heads(seed, shape=(6, 4), scale=2.0, dtype=np.float32):
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=(2, *shape)), dtype)


def error(actual, expected):
    actual = np.asarray(actual)
    assert actual.shape == expected.shape
    return np.max(np.abs(actual - expected) / (1 + np.abs(expected)), initial=0)


def kl_reference(beta):
    """The formula as printed, in float64."""
    total = beta.sum(-1, keepdims=True)
    return (
        scipy.special.gammaln(total[..., 0])
        - scipy.special.gammaln(beta.shape[-1])
        - scipy.special.gammaln(beta).sum(-1)
        + ((beta - 1) * (scipy.special.psi(beta) - scipy.special.psi(total))).sum(-1)
    )


kl_and_gradient = jax.jit(jax.value_and_grad(dirichlet_kl_to_uniform))


@functools.partial(jax.jit, static_argnames=("offset", "clip"))
def evaluate(logits, labels, picked, *, offset, clip, **weights):
    """Gradient of the loss that the one-hot vector `picked` names, all losses, all row values."""

    def losses(logits):
        total, parts = dcfs_loss(logits, labels, offset=offset, clip=clip, **weights)
        stacked = jnp.stack([parts["nll"], parts["kl"], parts["unk"], parts["dis"], total])
        return jnp.dot(picked, jnp.where(picked == 1, stacked, 0)), stacked

    gradient, values = jax.grad(losses, has_aux=True)(logits)
    log_alpha = dirichlet_log_alpha(logits, offset=offset, clip=clip)
    alpha = dirichlet_alpha(log_alpha)
    rows = {
        "alpha": alpha,
        "prob": jax.nn.softmax(log_alpha),
        "nll": edl_nll(log_alpha, labels),
        "digamma_ce": edl_loss(log_alpha, labels, kind="digamma"),
        "mse": edl_loss(log_alpha, labels, kind="mse"),
        "kl_misleading": misleading_kl(alpha, labels, offset=offset),
        "kl_flat": unknown_kl(alpha, offset=offset),
    }
    for kind in KINDS:
        rows[f"disc_{kind}"] = head_discrepancy(logits, kind=kind, offset=offset, clip=clip)
    return gradient, values, rows


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", CASES)
def test_goldens(load_golden, x64, case, dtype):
    golden = load_golden("dcfs")
    clip = float(golden[case, "clip"])
    compute = functools.partial(
        evaluate,
        golden[case, "logits"].astype(dtype),
        golden[case, "labels"],
        offset=float(golden[case, "offset"]),
        clip=None if math.isnan(clip) else clip,
        **{
            name: golden[case, name].astype(dtype)
            for name in ("kl_weight", "lambda_unk", "lambda_dis", "anneal")
        },
    )
    for i, part in enumerate(("nll", "kl", "unk", "dis", "total")):
        gradient, values, rows = compute(np.eye(5, dtype=dtype)[i])
        if case == "case10" and part in ("kl", "unk", "total"):
            continue
        assert values.dtype == gradient.dtype == dtype
        assert error(values[i], golden[case, f"loss_{part}"]) < VALUE_TOLERANCE[dtype], part
        assert error(gradient, golden[case, f"grad_{part}"]) < GRAD_TOLERANCE[dtype], part

    names = set(golden.names(case)) & set(rows)
    assert len(names) == (9 if case == "case10" else len(rows))
    for name in names:
        tolerance = CLOSE_HEADS_TOLERANCE if name == "disc_dirichlet_kl" else VALUE_TOLERANCE
        assert rows[name].dtype == dtype
        assert error(rows[name], golden[case, name]) < tolerance[dtype], name


@pytest.mark.parametrize("case", ["case0", "case7"])
def test_golden_group_means(load_golden, x64, case):
    golden = load_golden("dcfs")
    labels, disc = golden[case, "labels"], golden[case, "disc_tv"]
    num_classes = golden[case, "logits"].shape[-1]
    known, unknown = golden[case, "disc_known"], golden[case, "disc_unknown"]
    for amplify, expected in (("neg", -unknown), ("one_minus", 1 - unknown)):
        loss = discrepancy_loss(disc, labels, num_classes, amplify=amplify)
        np.testing.assert_allclose(loss, known + expected, rtol=1e-12)


def test_log_alpha_by_hand():
    logits = jnp.array([0.0, math.log(3.0), -2.0, 30.0])
    alpha = jnp.exp(dirichlet_log_alpha(logits))
    np.testing.assert_allclose(alpha, [2, 4, 1 + math.exp(-2), 1 + math.exp(10)], rtol=1e-6)
    alpha = jnp.exp(dirichlet_log_alpha(logits, offset=0.5, clip=None))
    np.testing.assert_allclose(alpha, [1.5, 3.5, 0.5 + math.exp(-2), math.exp(30)], rtol=3e-6)
    np.testing.assert_array_equal(dirichlet_log_alpha(logits, offset=0, clip=None), logits)
    alpha = jnp.exp(dirichlet_log_alpha(logits, evidence="softplus"))
    np.testing.assert_allclose(alpha, 1 + np.log1p(np.exp([0, math.log(3.0), -2, 10])), rtol=1e-6)
    alpha = jnp.exp(dirichlet_log_alpha(logits, evidence="relu", clip=20.0))
    np.testing.assert_allclose(alpha, [1, 1 + math.log(3.0), 1, 21], rtol=1e-6)


def test_softplus_without_offset_does_not_underflow():
    logits = jnp.array([-1e4, -100.0, -41.0, -39.0, 0.0, 50.0])
    log_alpha, slope = jax.vmap(
        jax.value_and_grad(
            lambda z: dirichlet_log_alpha(
                jnp.stack([z, z]), offset=0, clip=None, evidence="softplus"
            )[0]
        )
    )(logits)
    expected = [-1e4, -100, -41, -39, math.log(math.log(2)), math.log(50)]
    np.testing.assert_allclose(log_alpha, expected, rtol=1e-6)
    np.testing.assert_allclose(slope, [1, 1, 1, 1, 0.5 / math.log(2), 1 / 50], rtol=1e-6)


def test_edl_losses_by_hand():
    log_alpha = jnp.log(jnp.array([[2.0, 1.0, 1.0]]))
    labels = jnp.array([0])
    np.testing.assert_allclose(edl_nll(log_alpha, labels), [math.log(2)], rtol=1e-6)
    # psi(4) - psi(2) = 1/2 + 1/3.
    np.testing.assert_allclose(edl_loss(log_alpha, labels, kind="digamma"), [5 / 6], rtol=1e-6)
    error = 0.25 + 2 * 0.0625
    variance = (0.25 + 2 * 0.1875) / 5
    np.testing.assert_allclose(
        edl_loss(log_alpha, labels, kind="mse"), [error + variance], rtol=1e-6
    )


def test_discrepancies_by_hand():
    # alpha = (3, 1) and (1, 1) with offset 0: p = (3/4, 1/4) and (1/2, 1/2).
    logits = jnp.log(jnp.array([[[3.0, 1.0]], [[1.0, 1.0]]]))
    m = np.array([5 / 8, 3 / 8])
    js = (np.dot([0.75, 0.25], np.log([0.75, 0.25] / m)) + 0.5 * np.sum(np.log(0.5 / m))) / 2
    # 1/2 (3 - 1)(psi(3) - psi(1) - psi(4) + psi(2)) = 3/2 + 1 - (1 + 1/2 + 1/3).
    expected = {"tv": 1 / 4, "l1_mean": 1 / 4, "l2": 1 / 8, "js": js, "dirichlet_kl": 2 / 3}
    for kind, value in expected.items():
        np.testing.assert_allclose(
            head_discrepancy(logits, kind=kind, offset=0), [value], rtol=1e-5
        )
        pair = head_discrepancy((logits[0], logits[1]), kind=kind, offset=0)
        np.testing.assert_allclose(pair, [value], rtol=1e-5)


def test_discrepancy_loss_by_hand():
    disc = jnp.array([0.1, 0.3, 0.2, 0.8, 9.0])
    labels = jnp.array([0, 2, 3, 3, -1])
    for amplify, unknown in (("neg", -0.5), ("one_minus", 0.5), ("hinge", 0.2)):
        loss = discrepancy_loss(disc, labels, 3, amplify=amplify, margin=0.6)
        np.testing.assert_allclose(loss, 0.2 + unknown, rtol=1e-6)


def test_kl_to_uniform_by_hand():
    beta = jnp.array([[5.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    np.testing.assert_allclose(dirichlet_kl_to_uniform(beta), [1.517253, 0], atol=1e-6)


@seeded
@given(st.integers(0, 10_000), st.sampled_from([2, 7]), st.floats(0.1, 6.0))
def test_kl_to_uniform_is_positive_and_has_its_closed_gradient(seed, num_classes, spread):
    with jax.enable_x64(True):
        beta = np.exp(spread * np.random.default_rng(seed).normal(size=num_classes))
        total = beta.sum()
        kl, gradient = kl_and_gradient(beta)
        assert kl > 0
        np.testing.assert_allclose(kl, kl_reference(beta), rtol=1e-9, atol=1e-9 * total)
        closed = (beta - 1) * scipy.special.polygamma(1, beta)
        closed -= (total - num_classes) * scipy.special.polygamma(1, total)
        np.testing.assert_allclose(gradient, closed, rtol=1e-8, atol=1e-9)


def test_kl_to_uniform_keeps_its_digits_in_float32():
    """Where the printed formula is off by whole units: 100 classes, S of 2e6."""
    alpha = np.exp(np.linspace(-5, 10, 100)) + 1
    alpha[:90] = alpha[-1]
    kl, gradient = kl_and_gradient(jnp.asarray(alpha, jnp.float32))
    with jax.enable_x64(True):
        exact, exact_gradient = kl_and_gradient(alpha)
    np.testing.assert_allclose(exact, kl_reference(alpha), rtol=1e-9)
    np.testing.assert_allclose(kl, exact, rtol=1e-6)
    gradient, exact_gradient = alpha * np.asarray(gradient), alpha * np.asarray(exact_gradient)
    np.testing.assert_allclose(gradient, exact_gradient, rtol=1e-4, atol=1e-5)


def test_kl_to_uniform_composes_with_transformations(x64):
    """The custom rule under jit and vmap, and differentiated once more."""
    beta = np.exp(np.random.default_rng(0).normal(size=(3, 4)) * 2)
    total = beta.sum(-1)[:, None, None]
    hessian = jax.jit(jax.vmap(jax.hessian(dirichlet_kl_to_uniform)))(beta)
    psi1, psi2 = (functools.partial(scipy.special.polygamma, n) for n in (1, 2))
    expected = np.eye(4) * (psi1(beta) + (beta - 1) * psi2(beta))[:, None]
    expected = expected - psi1(total) - (total - 4) * psi2(total)
    np.testing.assert_allclose(hessian, expected, rtol=1e-8, atol=1e-9)
    check_grads(jax.jit(dirichlet_kl_to_uniform), (beta,), order=1, rtol=1e-5)
    rows = jax.jit(jax.vmap(dirichlet_kl_to_uniform))(beta)
    np.testing.assert_allclose(rows, kl_reference(beta), rtol=1e-10)


def test_translation_changes_a_prediction_only_with_an_offset():
    logits = jnp.array([[0.0, 2.0, 0.0, 0.0], [-2.0, 0.0, -2.0, -2.0]])
    probs = jax.nn.softmax(dirichlet_log_alpha(logits))
    np.testing.assert_allclose(jnp.max(probs, axis=-1), [0.583016, 0.369959], atol=1e-6)
    probs = jax.nn.softmax(dirichlet_log_alpha(logits, offset=0))
    np.testing.assert_allclose(probs, jax.nn.softmax(logits), rtol=1e-6)
    np.testing.assert_allclose(probs[0], probs[1], rtol=1e-6)


def test_without_offset_nll_is_softmax_cross_entropy():
    logits, labels = two_heads(0)[0], np.array([0, 1, 2, 3, 0, 1])

    def nll(logits):
        return jnp.sum(edl_nll(dirichlet_log_alpha(logits, offset=0, clip=None), labels))

    onehot = np.eye(4)[labels]
    value, gradient = jax.jit(jax.value_and_grad(nll))(logits)
    log_probs = scipy.special.log_softmax(logits, axis=-1)
    np.testing.assert_allclose(value, -np.sum(onehot * log_probs), rtol=1e-6)
    np.testing.assert_allclose(gradient, np.exp(log_probs) - onehot, atol=1e-6)


def test_nll_gradient_is_its_closed_form():
    """e_c (1/S - y_c / alpha_c), and zero beyond the clip."""
    logits = jnp.array([0.5, -3.0, 2.0, 30.0, -30.0])
    gradient = jax.jit(jax.grad(lambda z: edl_nll(dirichlet_log_alpha(z), 2)))(logits)
    e = np.exp(np.clip(logits, -10, 10))
    alpha = e + 1
    expected = e / alpha.sum() - e / alpha * (np.arange(5) == 2)
    expected[3:] = 0
    np.testing.assert_allclose(gradient, expected, rtol=1e-4)
    np.testing.assert_array_equal(gradient[3:], 0)


def test_presets_are_the_sibling_methods(x64):
    logits = two_heads(1, (8, 20), dtype=np.float64)[0]
    labels = np.arange(8) % 20
    y = np.eye(20)[labels]
    z = np.asarray(logits)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def nll_and_kl(offset, clip):
        log_alpha = dirichlet_log_alpha(logits, offset=offset, clip=clip)
        alpha = dirichlet_alpha(log_alpha)
        return edl_nll(log_alpha, labels), misleading_kl(alpha, labels, offset=offset)

    # E2OAL: alpha = exp(clip(z)) + 1.
    alpha = np.exp(np.clip(z, -10, 10)) + 1
    nll, kl = nll_and_kl(1.0, 10.0)
    np.testing.assert_allclose(
        nll, np.log(alpha.sum(-1)) - np.log(alpha[np.arange(8), labels]), rtol=1e-12
    )
    np.testing.assert_allclose(kl, kl_reference(y + (1 - y) * alpha), rtol=1e-9)
    # DUC: alpha = exp(z).
    nll, kl = nll_and_kl(0.0, None)
    np.testing.assert_allclose(kl, kl_reference(y + (1 - y) * np.exp(z)), rtol=1e-9)
    # DPC: gamma = 10 / K and the evidence measured in units of gamma.
    nll, kl = nll_and_kl(10 / 20, None)
    dpc_nll, dpc_kl = jax.jit(evidential_loss)(logits, labels)
    np.testing.assert_allclose(nll, dpc_nll, rtol=1e-10)
    np.testing.assert_allclose(0.5 * kl / 20, dpc_kl, rtol=1e-10)


def test_nll_is_the_expected_probability_of_the_label():
    """Monte-Carlo: minus log of the mean sampled p_y."""
    alpha = np.array([0.7, 2.0, 5.0])
    samples = np.random.default_rng(0).dirichlet(alpha, 100_000)[:, 1]
    standard_error = samples.std() / math.sqrt(samples.size)
    nll = edl_nll(jnp.log(jnp.asarray(alpha, jnp.float32)), 1)
    assert abs(math.exp(-nll) - samples.mean()) < 4 * standard_error


@jax.jit
def all_discrepancies(logits):
    return {kind: head_discrepancy(logits, kind=kind) for kind in KINDS}


@seeded
@given(st.integers(0, 10_000), st.sampled_from([2, 5]), st.floats(0.1, 12.0))
def test_discrepancy_properties(seed, num_classes, scale):
    logits = two_heads(seed, (8, num_classes), scale)
    disc = {kind: np.asarray(value) for kind, value in all_discrepancies(logits).items()}
    tv, js = disc["tv"], disc["js"]
    assert np.all((tv >= 0) & (tv <= 1 + 1e-6))
    assert np.all((js >= -1e-6) & (js <= math.log(2) * tv + 1e-6))
    np.testing.assert_allclose(disc["l1_mean"], 2 * tv / num_classes, rtol=1e-5)
    permutation = np.random.default_rng(seed).permutation(num_classes)
    permuted = all_discrepancies(logits[:, :, permutation])
    swapped = all_discrepancies(logits[::-1])
    same = all_discrepancies(jnp.stack([logits[0], logits[0]]))
    for kind, value in disc.items():
        np.testing.assert_allclose(swapped[kind], value, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(permuted[kind], value, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(same[kind], np.zeros(8), atol=1e-6)


def test_swapping_the_heads_keeps_the_loss():
    logits, labels = two_heads(2), jnp.array([0, 1, 4, 4, 3, -1])
    (loss, parts), _ = loss_and_gradient(logits, labels)
    (swapped, swapped_parts), _ = loss_and_gradient(logits[::-1], labels)
    np.testing.assert_allclose(loss, swapped, rtol=1e-6)
    for name in parts:
        np.testing.assert_allclose(parts[name], swapped_parts[name], rtol=1e-5)


def test_total_is_the_weighted_sum_of_its_parts():
    logits, labels = two_heads(3), jnp.array([0, 1, 4, 4, 3, -1])
    (total, parts), _ = loss_and_gradient(
        logits, labels, kl_weight=0.5, lambda_unk=0.25, lambda_dis=3.0, anneal=0.4
    )
    expected = parts["nll"] + 0.4 * (0.5 * parts["kl"] + 0.25 * parts["unk"]) + 3 * parts["dis"]
    assert total.shape == parts["dis"].shape == ()
    np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_options_reach_their_terms():
    logits, labels = two_heads(4), jnp.array([0, 1, 4, 4, 3, -1])
    known, unknown = np.array([0, 1, 4]), np.array([2, 3])

    @jax.jit
    def terms(logits):
        log_alpha = dirichlet_log_alpha(logits, evidence="softplus", clip=2.0)
        alpha = dirichlet_alpha(log_alpha)
        return (
            edl_loss(log_alpha, labels, kind="mse")[:, known],
            misleading_kl(alpha, labels)[:, known] / 4,
            unknown_kl(alpha)[:, unknown] / 4,
            head_discrepancy(logits, kind="js", evidence="softplus", clip=2.0),
        )

    nll, kl, unk, disc = map(np.asarray, terms(logits))
    (_, parts), _ = loss_and_gradient(
        logits,
        labels,
        evidence="softplus",
        clip=2.0,
        edl="mse",
        discrepancy="js",
        amplify="hinge",
        margin=0.2,
    )
    np.testing.assert_allclose(parts["nll"], nll.mean(), rtol=1e-5)
    np.testing.assert_allclose(parts["kl"], kl.mean(), rtol=1e-5)
    np.testing.assert_allclose(parts["unk"], unk.mean(), rtol=1e-5)
    dis = disc[known].mean() + np.maximum(0.2 - disc[unknown], 0).mean()
    np.testing.assert_allclose(parts["dis"], dis, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_reduces_on_known_and_amplifies_on_unknown(kind):
    logits, labels = two_heads(5, (8, 4)), jnp.array([0, 1, 2, 3, 4, 4, 4, 4])

    def loss(logits):
        return discrepancy_loss(head_discrepancy(logits, kind=kind), labels, 4)

    before = all_discrepancies(logits)[kind]
    gradient = jax.jit(jax.grad(loss))(logits)
    step = 1e-2 / jnp.max(jnp.abs(gradient))
    change = all_discrepancies(logits - step * gradient)[kind] - before
    assert np.all(change[:4] < 0) and np.all(change[4:] > 0)


@pytest.mark.parametrize("edl", ["nll", "digamma", "mse"])
def test_absent_groups_count_nothing(edl):
    logits = two_heads(6)
    (_, parts), gradient = loss_and_gradient(logits, jnp.full(6, 1), edl=edl)
    assert parts["unk"] == 0 and parts["dis"] > 0 and np.all(np.isfinite(gradient))
    (_, parts), gradient = loss_and_gradient(logits, jnp.full(6, 4), edl=edl)
    assert parts["nll"] == parts["kl"] == 0 and parts["dis"] < 0 and np.all(np.isfinite(gradient))
    (total, parts), gradient = loss_and_gradient(logits, jnp.full(6, -1), edl=edl)
    assert total == 0 and not any(parts.values())
    np.testing.assert_array_equal(gradient, 0)


def test_padding_has_no_gradient_and_changes_nothing():
    logits, labels = two_heads(7), jnp.array([0, 1, 4, 4, 3, 2])
    padded = jnp.concatenate([logits, jnp.full((2, 3, 4), 1e4)], axis=1)
    padded_labels = jnp.concatenate([labels, jnp.array([-1, -1, 5])])
    (loss, _), gradient = loss_and_gradient(logits, labels, clip=None)
    (padded_loss, _), padded_gradient = loss_and_gradient(padded, padded_labels, clip=None)
    np.testing.assert_allclose(padded_loss, loss, rtol=1e-6)
    np.testing.assert_allclose(padded_gradient[:, :6], gradient, rtol=1e-5)
    np.testing.assert_array_equal(padded_gradient[:, 6:], 0)


def test_no_gradient_through_the_label_of_misleading_kl_or_through_other_rows():
    alpha = jnp.exp(two_heads(8)[0]) + 1
    labels = np.array([0, 1, 2, 3, 4, -1])
    gradient = jax.jit(jax.grad(lambda alpha: jnp.sum(misleading_kl(alpha, labels))))(alpha)
    gradient = np.asarray(gradient)
    is_label = np.arange(4) == labels[:, None]
    np.testing.assert_array_equal(gradient[is_label], 0)
    np.testing.assert_array_equal(gradient[4:], 0)
    assert np.all(gradient[:4][~is_label[:4]] != 0)
    for kind in ("nll", "digamma", "mse"):
        loss = functools.partial(edl_loss, labels=labels, kind=kind)
        gradient = jax.jit(jax.grad(lambda a, loss=loss: jnp.sum(loss(jnp.log(a)))))(alpha)
        np.testing.assert_array_equal(gradient[4:], 0)
        assert np.all(gradient[:4] != 0)


def test_clipped_logits_have_no_gradient_in_any_term():
    logits = two_heads(9).at[:, :, 1].set(30.0).at[:, :, 2].set(-30.0)
    labels = jnp.array([0, 1, 2, 4, 4, 4])
    parts = jax.jit(jax.jacrev(lambda logits: dcfs_loss(logits, labels)[1]))(logits)
    for gradient in parts.values():
        np.testing.assert_array_equal(gradient[:, :, 1:3], 0)
        assert np.any(gradient[:, :, 0] != 0)


def test_equal_heads_stay_equal():
    """Not jitted: compiled, the two heads may round differently and tv's gradient is noise."""
    logits = jnp.stack([two_heads(10)[0]] * 2)
    disc = jax.grad(lambda logits: jnp.sum(head_discrepancy(logits)))(logits)
    np.testing.assert_array_equal(disc, 0)
    _, gradient = loss_and_gradient(logits, jnp.array([0, 1, 2, 4, 4, -1]), lambda_dis=0.0)
    np.testing.assert_allclose(gradient[0], gradient[1], rtol=1e-5)


@pytest.mark.parametrize("kind", ["tv", "l1_mean"])
def test_a_class_on_which_the_heads_agree_adds_no_gradient(kind):
    """p = (1/2, 1/2, 0) and (1/2, 0, 1/2): the gradient of |p1 - p2| to p1 is (0, 1, -1)."""
    logits = jnp.array([[[0.0, 0.0, -1e4]], [[0.0, -1e4, 0.0]]])
    gradient = jax.grad(lambda z: head_discrepancy(z, kind=kind, offset=0, clip=None)[0])(logits)
    scale = {"tv": 1 / 2, "l1_mean": 1 / 3}[kind]
    np.testing.assert_allclose(gradient[0, 0], scale * np.array([-1 / 4, 1 / 4, 0]), rtol=1e-6)


def test_amplification_can_be_confined_to_the_heads():
    rng = np.random.default_rng(11)
    features = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    kernels = jnp.asarray(rng.normal(size=(2, 3, 5)), jnp.float32)
    labels = jnp.array([0, 1, 5, 5])

    def loss(features, kernels, confined):
        def classify(features):
            return jnp.stack([features @ kernel for kernel in kernels])

        routed = classify(jax.lax.stop_gradient(features)) if confined else None
        total, parts = dcfs_loss(classify(features), labels, lambda_unk=0.0, logits_amplify=routed)
        return total, parts["dis"]

    gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    gradient = jax.jit(gradient, static_argnums=2)
    (total, dis), (to_features, to_kernels) = gradient(features, kernels, False)
    (same_total, same_dis), (confined_features, confined_kernels) = gradient(
        features, kernels, True
    )
    assert total == same_total and dis == same_dis
    np.testing.assert_allclose(confined_kernels, to_kernels, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(confined_features[:2], to_features[:2], rtol=1e-5, atol=1e-7)
    assert np.any(to_features[2:] != 0)
    np.testing.assert_array_equal(confined_features[2:], 0)


def test_annealing_may_be_traced():
    logits, labels = two_heads(12), jnp.array([0, 1, 4, 4, 3, -1])
    jit_loss = jax.jit(dcfs_loss)
    for anneal in (0.0, 0.5):
        total, parts = dcfs_loss(logits, labels, anneal=anneal)
        jitted, jitted_parts = jit_loss(logits, labels, anneal=jnp.float32(anneal))
        np.testing.assert_allclose(jitted, total, rtol=1e-6)
        for name in parts:
            np.testing.assert_allclose(jitted_parts[name], parts[name], rtol=1e-5)


def test_gradients_agree_with_differences(x64):
    logits = two_heads(15, (4, 3), dtype=np.float64)
    labels = jnp.array([0, 2, 3, -1])

    @jax.jit
    def smooth(logits):
        log_alpha = dirichlet_log_alpha(logits, evidence="softplus")
        total, _ = dcfs_loss(logits, labels, edl="mse", discrepancy="l2")
        terms = [total, jnp.sum(edl_loss(log_alpha, labels, kind="digamma"))]
        terms += [jnp.sum(edl_nll(log_alpha, labels))]
        return jnp.stack(terms + [head_discrepancy(logits, kind=kind)[0] for kind in KINDS])

    check_grads(smooth, (logits,), order=1, modes=["rev"], rtol=1e-4)


@pytest.mark.parametrize(
    ("offset", "clip", "evidence"),
    [
        (1.0, 10.0, "exp"),
        (1.0, None, "exp"),
        (0.0, None, "exp"),
        (1.0, None, "relu"),
        (0.0, None, "softplus"),
    ],
)
def test_extreme_logits_give_finite_values_and_gradients(offset, clip, evidence):
    rows = [[1e4, -1e4, 0, 3], [-1e4] * 4, [1e4] * 4, [1e4, 1e4, -1e4, -1e4], [-50, -43, 44, 88]]
    logits = np.tile(np.array(rows, np.float32), (3, 1))
    logits = jnp.stack([jnp.asarray(logits), jnp.asarray(logits[::-1])])
    labels = jnp.repeat(jnp.array([0, 4, -1]), len(rows))
    alpha = {"offset": offset, "clip": clip, "evidence": evidence}

    def losses(logits):
        total, parts = dcfs_loss(logits, labels, **alpha)
        log_alpha = dirichlet_log_alpha(logits, **alpha)
        terms = [jnp.stack([total, *parts.values()])]
        terms += [edl_loss(log_alpha, labels, kind=kind) for kind in ("digamma", "mse")]
        terms += [head_discrepancy(logits, kind=kind, **alpha) for kind in KINDS]
        return sum(jnp.sum(term) for term in terms), terms

    (_, terms), gradient = jax.jit(jax.value_and_grad(losses, has_aux=True))(logits)
    assert all(np.all(np.isfinite(term)) for term in terms)
    assert np.all(np.isfinite(gradient))


def test_half_precision_is_computed_in_float32():
    logits = two_heads(17).astype(jnp.float16)
    labels = jnp.array([0, 1, 4, 4, 3, -1])
    (total, parts), gradient = loss_and_gradient(logits, labels)
    (expected, _), _ = loss_and_gradient(logits.astype(jnp.float32), labels)
    assert gradient.dtype == jnp.float16
    assert total.dtype == jnp.float32
    assert all(part.dtype == jnp.float32 for part in parts.values())
    np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_labels_broadcast_over_heads():
    log_alpha = dirichlet_log_alpha(two_heads(18))
    labels = jnp.array([0, 1, 4, 4, 3, -1])
    both = edl_nll(log_alpha, labels)
    assert both.shape == (2, 6)
    np.testing.assert_array_equal(both[1], edl_nll(log_alpha[1], labels))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z, y: dirichlet_log_alpha(z, evidence="expp"), "did you mean 'exp'"),
        (lambda z, y: dirichlet_log_alpha(z, offset=-1.0), "offset=-1.0 must not be negative"),
        (lambda z, y: dirichlet_log_alpha(z, clip=0.0), "clip=0.0 must be positive"),
        (lambda z, y: dirichlet_log_alpha(z, evidence="relu", offset=0.0), "needs offset > 0"),
        (lambda z, y: dirichlet_log_alpha(z[..., :1]), "K|C >= 2 classes"),
        (lambda z, y: edl_loss(z, y, kind="ml"), "Unknown kind 'ml': did you mean"),
        (lambda z, y: edl_nll(z, y[:2]), "do not broadcast"),
        (lambda z, y: edl_nll(z, y.astype(jnp.float32)), "labels must be integers"),
        (lambda z, y: misleading_kl(z, y, offset=-1.0), "offset=-1.0 must not be negative"),
        (lambda z, y: unknown_kl(z[..., :1]), "alpha must be .* >= 2 classes"),
        (lambda z, y: dirichlet_kl_to_uniform(jnp.float32(2.0)), "beta must be .* >= 2 classes"),
        (lambda z, y: head_discrepancy(z, kind="tvd"), "did you mean 'tv'"),
        (lambda z, y: head_discrepancy(z[:1]), "two heads"),
        (lambda z, y: discrepancy_loss(z[0, :, 0], y, 4, amplify="negg"), "did you mean 'neg'"),
        (lambda z, y: discrepancy_loss(z[0, :2, 0], y, 4), "must have one shape"),
        (lambda z, y: discrepancy_loss(z[0, :, 0], y, 1), "num_classes=1 must be at least 2"),
        (lambda z, y: dcfs_loss(z[0], y), "two heads"),
        (lambda z, y: dcfs_loss(z, y[:2]), r"logits must be \[2, B, K\]"),
        (lambda z, y: dcfs_loss(z, y / 2), "labels must be integers"),
        (lambda z, y: dcfs_loss(z, y, edl="mae"), "Unknown kind 'mae'"),
    ],
)
def test_errors_name_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call(two_heads(19), jnp.array([0, 1, 4, 4, 3, -1]))
