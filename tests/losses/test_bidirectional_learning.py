import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxrobust.losses import (
    bldr_loss,
    class_balance_loss,
    complementary_label_mask,
    consistency_kl,
    feature_hint_loss,
    head_agreement_loss,
    negative_learning_loss,
    positive_learning_loss,
    self_distillation_loss,
    sop_noise_terms,
)

DTYPES = [np.float64, np.float32]
PL_CASES = [
    "init",
    "mid",
    "clamped_uv",
    "no_strong",
    "binary_zero_weights",
    "c100",
    "extreme",
    "duplicate_index",
    "no_reg",
    "single",
    "plain_ce",
]
NL_CASES = [
    "default",
    "agree",
    "binary",
    "c100",
    "extreme",
    "no_strong",
    "zero_weights",
    "single",
    "separate_mask",
    "plain",
]
KD_CASES = ["case0", "case1", "case2", "extreme", "ties"]
HEAD_KL_CASES = ["case0", "case1", "case2", "extreme"]
HINT_CASES = ["signed", "relu", "zeros"]


class Reader:
    """One golden case, its floats cast to the tested dtype."""

    def __init__(self, golden, case, dtype):
        self._golden, self._case, self._dtype = golden, case, dtype

    def __getitem__(self, name):
        value = self._golden[self._case, name]
        return value.astype(self._dtype) if value.dtype == np.float64 else value

    def get(self, name):
        return self[name] if (self._case, name) in self._golden else None

    def close(self, actual, name):
        expected = self._golden[self._case, name]
        tolerance = 1e-9 if self._dtype == np.float64 else 1e-5
        assert np.asarray(actual).dtype == self._dtype
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def consistency_term(weak, strong, weight):
    return (
        jnp.zeros((), weak.dtype)
        if strong is None
        else weight * jnp.mean(consistency_kl(weak, strong))
    )


def positive_parts(
    weak, strong, labels, u_rows, v_rows, weights, noise_rate, reg, balance, consist
):
    """The positive criterion of the authors' code: its four terms, each with its coefficient."""
    ce, mse, q = positive_learning_loss(weak, labels, u_rows, v_rows)
    return (
        jnp.mean(weights * ce),
        reg * noise_rate**2 * jnp.mean(mse),
        balance * class_balance_loss(q),
        consistency_term(weak, strong, consist),
    )


def negative_parts(weak, strong, mask, weights, balance, consist):
    """The negative criterion of the authors' code: its three terms, each with its coefficient."""
    return (
        jnp.mean(weights * negative_learning_loss(weak, mask)),
        balance * class_balance_loss(jax.nn.softmax(weak)),
        consistency_term(weak, strong, consist),
    )


def random_rows(seed, shape, scale=1.0):
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape))


@jax.jit
def positive_gradients(logits, labels, u, v, cotangents):
    """Gradients of sum(ce * c0) + sum(mse * c1) + c2 * balance(q), wrt logits, u and v."""

    def scalar(logits, u, v):
        ce, mse, q = positive_learning_loss(logits, labels, u, v)
        return (
            jnp.sum(cotangents[0] * ce)
            + jnp.sum(cotangents[1] * mse)
            + cotangents[2] * class_balance_loss(q)
        )

    return jax.grad(scalar, argnums=(0, 1, 2))(logits, u, v)


# Recorded outputs of the authors' code.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", PL_CASES)
def test_positive_learning_golden(load_golden, x64, case, dtype):
    golden = Reader(load_golden("bldr"), f"pl/{case}", dtype)
    weak, strong = golden["logits_weak"], golden.get("logits_strong")
    index, labels, weights = golden["index"], golden["labels"], golden["weights"]
    scalars = [
        golden[k] for k in ("noise_ratio", "ratio_reg", "ratio_balance", "ratio_consistency")
    ]

    def criterion(weak, strong, u, v):
        parts = positive_parts(weak, strong, labels, u[index], v[index], weights[index], *scalars)
        return sum(parts), parts

    grad_of = (0, 2, 3) if strong is None else (0, 2, 3, 1)
    tables = jnp.asarray(golden["u"]), jnp.asarray(golden["v"])
    (loss, parts), grads = jax.jit(jax.value_and_grad(criterion, grad_of, has_aux=True))(
        weak, strong, *tables
    )
    golden.close(loss, "loss")
    for name, part in zip(["ce", "mse_scaled", "balance_scaled"], parts[:3], strict=True):
        golden.close(part, f"part_{name}")
    names = ["logits_weak", "u", "v"]
    if strong is not None:
        golden.close(parts[3], "part_consistency_scaled")
        names.append("logits_strong")
    for name, grad in zip(names, grads, strict=True):
        golden.close(grad, f"grad_{name}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", NL_CASES)
def test_negative_learning_golden(load_golden, x64, case, dtype):
    golden = Reader(load_golden("bldr"), f"nl/{case}", dtype)
    weak, strong = golden["logits_weak"], golden.get("logits_strong")
    labels, weights = golden["labels"], golden["weights"][golden["index"]]
    scalars = [golden[k] for k in ("ratio_balance", "ratio_consistency")]
    mask = complementary_label_mask(labels, golden["mask_logits"])
    golden.close(mask, "neg_mask")

    def criterion(weak, strong):
        parts = negative_parts(weak, strong, mask, weights, *scalars)
        return sum(parts), parts

    grad_of = (0,) if strong is None else (0, 1)
    (loss, parts), grads = jax.jit(jax.value_and_grad(criterion, grad_of, has_aux=True))(
        weak, strong
    )
    golden.close(loss, "loss")
    golden.close(parts[0], "part_nl")
    golden.close(parts[1], "part_balance_scaled")
    golden.close(grads[0], "grad_logits_weak")
    if strong is not None:
        golden.close(parts[2], "part_consistency_scaled")
        golden.close(grads[1], "grad_logits_strong")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", KD_CASES)
def test_self_distillation_golden(load_golden, x64, case, dtype):
    golden = Reader(load_golden("bldr"), f"kd/{case}", dtype)
    temperature = float(golden["temperature"])

    def loss_fn(student, pl, nl):
        return jnp.mean(self_distillation_loss(student, pl, nl, temperature=temperature))

    loss, grads = jax.jit(jax.value_and_grad(loss_fn, (0, 1, 2)))(
        golden["student_logits"], golden["pl_logits"], golden["nl_logits"]
    )
    golden.close(loss, "loss")
    golden.close(loss / temperature**2, "loss_unscaled")
    golden.close(grads[0], "grad_student_logits")
    assert np.all(grads[1] == 0) and np.all(grads[2] == 0)
    # The gradient is T (softmax(student / T) - teacher) / B, which gives the teacher away.
    student = golden["student_logits"]
    softened = jax.nn.softmax(student / dtype(temperature))
    golden.close(softened - grads[0] * dtype(len(student) / temperature), "teacher_probs")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", HEAD_KL_CASES)
def test_head_agreement_golden(load_golden, x64, case, dtype):
    golden = Reader(load_golden("bldr"), f"head_kl/{case}", dtype)
    loss, grads = jax.jit(
        jax.value_and_grad(lambda pl, nl: jnp.mean(head_agreement_loss(pl, nl)), (0, 1))
    )(golden["pl_logits"], golden["nl_logits"])
    golden.close(loss, "loss")
    golden.close(grads[0], "grad_pl_logits")
    golden.close(grads[1], "grad_nl_logits")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", HINT_CASES)
def test_feature_hint_golden(load_golden, x64, case, dtype):
    golden = Reader(load_golden("bldr"), f"hint/{case}", dtype)
    loss, grads = jax.jit(
        jax.value_and_grad(lambda f, t: jnp.sum(feature_hint_loss(f, t)), (0, 1))
    )(golden["features"], golden["target_features"])
    golden.close(loss, "loss")
    golden.close(grads[0], "grad_features")
    assert np.all(grads[1] == 0)


# Values by hand.


def test_hand_computed():
    probs = jnp.array([[0.5, 0.5], [0.25, 0.75]])
    logits = jnp.log(probs)
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    np.testing.assert_allclose(consistency_kl(logits[:1], logits[1:]), [expected], rtol=1e-5)
    np.testing.assert_allclose(
        head_agreement_loss(logits[:1], logits[1:]), [expected / 2], rtol=1e-5
    )
    np.testing.assert_allclose(
        class_balance_loss(probs), -(math.log(0.375) + math.log(0.625)) / 2, rtol=1e-6
    )
    onehot = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    on, off = sop_noise_terms(jnp.full((2, 2), 0.5), jnp.full((2, 2), 2.0), onehot)
    np.testing.assert_allclose(on, 0.25 * onehot)
    np.testing.assert_allclose(off, (1 - 1e-4) * (1 - onehot), rtol=1e-6)
    ce, mse, q = positive_learning_loss(
        logits, jnp.array([0, 0]), jnp.full((2, 2), 0.5), jnp.full((2, 2), 0.5)
    )
    # Row 2: p + U - V = (0.25 + 0.25, 0.75 - 0.25); the hard prediction is class 1.
    np.testing.assert_allclose(q[1], [0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(ce, [-math.log(0.75), -math.log(0.5)], rtol=1e-5)
    np.testing.assert_allclose(
        mse, [0.25**2 + 0.25**2, (0.25 - 1) ** 2 + (1 - 0.25) ** 2], rtol=1e-5
    )
    hint = feature_hint_loss(jnp.array([[1.0, -2.0, -3.0]]), jnp.array([[3.0, 1.0, -1.0]]))
    np.testing.assert_allclose(hint, [4.0 + 9.0])
    kd = self_distillation_loss(logits[1:], logits[:1], logits[:1], temperature=1.0)
    np.testing.assert_allclose(kd, [-(math.log(0.25) + math.log(0.75)) / 2], rtol=1e-5)


# Positive learning.


def test_soft_labels():
    rng = np.random.default_rng(0)
    logits, v_rows = rng.normal(size=(2, 4, 3)).astype(np.float32)
    u_rows, labels = rng.normal(size=(4, 1)).astype(np.float32), jnp.array([0, 2, 1, 1])
    hard = positive_learning_loss(logits, labels, u_rows, v_rows)
    onehot = positive_learning_loss(logits, jax.nn.one_hot(labels, 3), u_rows, v_rows)
    jax.tree.map(np.testing.assert_array_equal, onehot, hard)
    # Without noise the loss is cross-entropy with the shares.
    shares, nothing = rng.dirichlet(np.ones(3), 4).astype(np.float32), np.zeros((4, 3), np.float32)
    ce, _, _ = positive_learning_loss(logits, shares, nothing, nothing)
    np.testing.assert_allclose(ce, optax.softmax_cross_entropy(logits, shares), rtol=1e-5)


def test_plain_limit_is_cross_entropy(x64):
    logits = random_rows(0, (5, 4))
    labels, zeros = jnp.array([0, 3, 1, 2, 2]), jnp.zeros((5, 4))
    weights = jnp.array([1.0, 0.5, 0.0, 2.0, 1.0])

    def plain(logits):
        log_probs = jax.nn.log_softmax(logits)
        return -jnp.sum(weights * log_probs[jnp.arange(5), labels])

    ce = positive_learning_loss(logits, labels, zeros, zeros)[0]
    np.testing.assert_allclose(jnp.sum(weights * ce), plain(logits), rtol=1e-12)
    grad = positive_gradients(logits, labels, zeros, zeros, (weights, jnp.zeros(5), 0.0))[0]
    np.testing.assert_allclose(grad, jax.grad(plain)(logits), atol=1e-12)


def test_muted_label_gets_no_gradient(x64):
    logits = jnp.array([[12.0, 0.0, 0.0, 0.0]])
    u, v = jnp.full((1, 4), 1e-3), jnp.zeros((1, 4))
    labels = jnp.array([1])
    ce = positive_learning_loss(logits, labels, u, v)[0]
    np.testing.assert_allclose(ce, -math.log(1e-4), rtol=1e-3)
    cotangents = (jnp.ones(1), jnp.zeros(1), 0.0)
    for grad in positive_gradients(logits, labels, u, v, cotangents):
        assert np.all(grad == 0)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(0, 10_000))
def test_who_gets_gradient_from_what(seed):
    rng = np.random.default_rng(seed)
    logits = random_rows(seed, (5, 4))
    labels = jnp.asarray(rng.integers(4, size=5))
    u, v = random_rows(seed + 1, (5, 4), 0.4), random_rows(seed + 2, (5, 4), 0.4)
    on_label = np.eye(4, dtype=bool)[np.asarray(labels)]
    weights = jnp.asarray(rng.uniform(size=5), jnp.float32)
    ones, zeros = jnp.ones(5), jnp.zeros(5)
    balance_only = positive_gradients(logits, labels, u, v, (zeros, zeros, 1.0))
    ce_only = positive_gradients(logits, labels, u, v, (weights, zeros, 0.0))
    mse_only = positive_gradients(logits, labels, u, v, (zeros, ones, 0.0))
    for grad_logits, grad_u, grad_v in (ce_only, balance_only):
        assert np.any(grad_logits != 0) and np.all(grad_v == 0)
        assert np.all(grad_u[~on_label] == 0)
    assert np.all(mse_only[0] == 0) and np.all(mse_only[1] == 0)
    assert np.all(mse_only[2][on_label] == 0) and np.any(mse_only[2] != 0)
    # -4 (h - V) v off the label; the step multiplies it by reg_weight * noise_rate^2 / B.
    hard = np.eye(4)[np.argmax(logits, axis=-1)]
    off = np.minimum(np.asarray(v) ** 2, 1 - 1e-4)
    expected = np.where(on_label | (off == 1 - 1e-4), 0, -4 * (hard - off) * np.asarray(v))
    np.testing.assert_allclose(mse_only[2], expected, rtol=1e-4, atol=1e-5)


def test_the_residual_of_sop_teaches_u_up_to_a_bound_of_one(x64):
    """Worked out by hand; in BLDR's code it teaches v alone, and 1 is beyond the bound."""
    logits, labels = jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.array([0, 0])
    u, v = jnp.array([[0.5], [1.0]]), jnp.full((2, 2), 0.2)

    def mse(u, v, **options):
        return positive_learning_loss(logits, labels, u, v, **options)[1]

    np.testing.assert_allclose(mse(u, v, noise_terms="sop"), [0.75**2 + 0.96**2, 1 + 0.04**2])
    gradient = jax.grad(lambda *rows: jnp.sum(mse(*rows, noise_terms="sop")), argnums=(0, 1))
    of_u, of_v = gradient(u, v)
    np.testing.assert_allclose(of_u[:, 0], [2 * -0.75 * 2 * 0.5, 2 * 1 * 2 * 1])
    np.testing.assert_allclose(of_v, [[0, 2 * 0.96 * -2 * 0.2], [0, 2 * -0.04 * -2 * 0.2]])
    assert not np.any(jax.grad(lambda u: jnp.sum(mse(u, v)))(u))


def test_the_first_upload_takes_the_noise_rate_and_not_its_square(x64):
    logits, labels, mask = random_rows(1, (3, 2, 4)), jnp.array([0, 1, 2]), jnp.zeros((3, 4))
    rows, weights = jnp.full((3, 4), 0.3), jnp.zeros(3)

    def residual(power):
        features = jnp.zeros((3, 1, 2))
        batch = (logits, logits, logits, features, labels, mask, rows, rows, weights, 0.2)
        options = {"balance_weight": 0, "reg_weight": 25, "reg_power": power}
        return bldr_loss(*batch, **options)[0]

    expected = 25 * 0.2 * jnp.mean(positive_learning_loss(logits[:, 0], labels, rows, rows)[1])
    np.testing.assert_allclose(residual(1), expected)
    np.testing.assert_allclose(residual(2), 0.2 * expected)


def test_gradient_of_u_by_formula(x64):
    logits, labels = random_rows(3, (5, 4)), jnp.array([0, 1, 2, 3, 0])
    u, v = jnp.full((5, 4), 0.3), jnp.zeros((5, 4))
    grad_u = positive_gradients(logits, labels, u, v, (jnp.ones(5), jnp.zeros(5), 0.0))[1]
    onehot = jax.nn.one_hot(labels, 4)
    q0 = jnp.maximum(jax.nn.softmax(logits) + 0.09 * onehot, 1e-4)
    expected = 0.6 * (1 / jnp.sum(q0, axis=-1, keepdims=True) - 1 / q0) * onehot
    np.testing.assert_allclose(grad_u, expected, rtol=1e-9)


def test_saturated_noise_is_frozen():
    logits, labels = random_rows(4, (5, 4)), jnp.array([0, 1, 2, 3, 0])
    u, v = jnp.full((5, 4), 1.01), jnp.full((5, 4), -1.5)
    cotangents = (jnp.ones(5), jnp.ones(5), 1.0)
    _, grad_u, grad_v = positive_gradients(logits, labels, u, v, cotangents)
    assert np.all(grad_u == 0) and np.all(grad_v == 0)


def test_one_column_of_u_is_enough():
    logits, labels = random_rows(5, (5, 4)), jnp.array([0, 1, 2, 3, 0])
    u, v = random_rows(6, (5, 1), 0.5), random_rows(7, (5, 4), 0.5)
    narrow = positive_learning_loss(logits, labels, u, v)
    wide = positive_learning_loss(logits, labels, jnp.tile(u, (1, 4)), v)
    for a, b in zip(narrow, wide, strict=True):
        np.testing.assert_array_equal(a, b)
    cotangents = (jnp.ones(5), jnp.zeros(5), 1.0)
    narrow = positive_gradients(logits, labels, u, v, cotangents)[1]
    wide = positive_gradients(logits, labels, jnp.tile(u, (1, 4)), v, cotangents)[1]
    np.testing.assert_allclose(narrow[:, 0], jnp.sum(wide, axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [30.0, 1e4])
def test_extreme_logits_are_finite(size):
    logits = jnp.asarray(size * np.random.default_rng(8).choice([-1, 0, 1], (5, 4)), jnp.float32)
    other = jnp.asarray(size * np.random.default_rng(9).choice([-1, 0, 1], (5, 4)), jnp.float32)
    labels = jnp.array([0, 1, 2, 3, 0])
    for rows in (jnp.zeros((5, 4)), jnp.full((5, 4), 1e3), jnp.full((5, 4), 1e30)):
        outputs = positive_learning_loss(logits, labels, rows, rows)
        grads = positive_gradients(logits, labels, rows, rows, (jnp.ones(5), jnp.ones(5), 1.0))
        assert all(np.all(np.isfinite(x)) for x in (*outputs, *grads))
    for loss_fn in (
        consistency_kl,
        head_agreement_loss,
        lambda a, b: self_distillation_loss(a, b, b),
    ):
        value, grads = jax.value_and_grad(lambda a, b, f=loss_fn: jnp.sum(f(a, b)), (0, 1))(
            logits, other
        )
        assert np.isfinite(value) and all(np.all(np.isfinite(g)) for g in grads)


# The other terms.


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.floats(-20.0, 20.0))
def test_divergences(seed, shift):
    a, b = random_rows(seed, (5, 4), 2.0), random_rows(seed + 1, (5, 4), 2.0)
    moved = b + jnp.float32(shift)
    for loss_fn in (consistency_kl, head_agreement_loss):
        loss = loss_fn(a, b)
        assert np.all(loss >= -1e-6)
        np.testing.assert_allclose(loss_fn(a, a), 0, atol=1e-6)
        np.testing.assert_allclose(loss_fn(a, moved), loss, rtol=1e-3, atol=1e-5)
        rows = np.random.default_rng(seed).permutation(5)
        np.testing.assert_array_equal(loss_fn(a[rows], b[rows]), loss[rows])
    np.testing.assert_allclose(
        4 * head_agreement_loss(a, b), consistency_kl(a, b), rtol=1e-5, atol=1e-6
    )


def test_consistency_moves_the_strong_view_only():
    a, b = random_rows(0, (5, 4)), random_rows(1, (5, 4))
    weak, strong = jax.grad(lambda a, b: jnp.sum(consistency_kl(a, b)), (0, 1))(a, b)
    assert np.all(weak == 0)
    np.testing.assert_allclose(strong, jax.nn.softmax(b) - jax.nn.softmax(a), atol=1e-6)


def test_head_agreement_moves_both_heads():
    a, b = random_rows(0, (5, 4)), random_rows(1, (5, 4))
    grads = jax.grad(lambda a, b: jnp.sum(head_agreement_loss(a, b)), (0, 1))(a, b)
    assert all(np.all(np.any(g != 0, axis=-1)) for g in grads)
    np.testing.assert_allclose(grads[1], (jax.nn.softmax(b) - jax.nn.softmax(a)) / 4, atol=1e-6)


def test_class_balance():
    uniform = jnp.full((5, 4), 0.25)
    np.testing.assert_allclose(class_balance_loss(uniform), math.log(4), rtol=1e-6)
    np.testing.assert_allclose(class_balance_loss(jnp.eye(4)), math.log(4), rtol=1e-6)
    one_class = jnp.zeros((5, 4)).at[:, 0].set(1.0)
    value, grad = jax.value_and_grad(class_balance_loss)(one_class)
    np.testing.assert_allclose(value, -3 * math.log(1e-4) / 4, rtol=1e-6)
    assert np.all(grad[:, 1:] == 0) and np.all(grad[:, 0] < 0)
    probs = jax.nn.softmax(random_rows(2, (5, 4)))
    where = jnp.array([True, False, True, True, False])
    padded = jnp.where(where[:, None], probs, jnp.nan)
    np.testing.assert_allclose(
        class_balance_loss(padded, where=where), class_balance_loss(probs[where]), rtol=1e-6
    )


def test_self_distillation_optimum():
    pl, nl = random_rows(0, (5, 4)), random_rows(1, (5, 4))
    best = (pl + nl) / 2
    for temperature in (1.0, 3.0):
        loss, grad = jax.value_and_grad(
            lambda s, t=temperature: jnp.sum(self_distillation_loss(s, pl, nl, temperature=t))
        )(best)
        softened = jax.nn.softmax(best / temperature)
        entropy = -jnp.sum(softened * jnp.log(softened))
        np.testing.assert_allclose(loss, temperature**2 * entropy, rtol=1e-5)
        np.testing.assert_allclose(grad, 0, atol=1e-6)
    student = random_rows(2, (5, 4))
    loss = self_distillation_loss(student, pl, nl)
    for moved in ((student + 3, pl, nl), (student, pl + 3, nl), (student, pl, nl + 3)):
        np.testing.assert_allclose(self_distillation_loss(*moved), loss, rtol=1e-5)


def test_feature_hint():
    f, t = random_rows(0, (3, 2, 2)), random_rows(1, (3, 2, 2))
    loss = feature_hint_loss(f, t)
    assert loss.shape == (3,)
    doubled = feature_hint_loss(jnp.concatenate([f, f]), jnp.concatenate([t, t]))
    np.testing.assert_allclose(jnp.sum(doubled), 2 * jnp.sum(loss), rtol=1e-6)
    grad = jax.grad(lambda f: jnp.sum(feature_hint_loss(f, t)))(f)
    np.testing.assert_allclose(grad, np.where((f > 0) | (t > 0), 2 * (f - t), 0), rtol=1e-6)


# The whole objective: tests/methods/test_bldr.py holds it against the recorded epochs.


def batch_of_two_exits(size=5, num_classes=4):
    """Arguments of `bldr_loss` up to the noise rate."""
    shape = (size, 4, num_classes)
    labels = jnp.arange(size) % num_classes
    weak, strong, again = (random_rows(seed, shape) for seed in range(3))
    return (
        weak,
        strong,
        again,
        jnp.abs(random_rows(3, (size, 3, 6))),
        labels,
        complementary_label_mask(labels, again[:, 1]),
        random_rows(4, (size, num_classes), 0.4),
        random_rows(5, (size, num_classes), 0.4),
        jnp.linspace(0.5, 1.0, size),
        jnp.asarray(0.4),
    )


def test_which_part_of_the_objective_reaches_what(x64):
    """Gradient of every part in every head of every pass, in every feature and in both tables."""
    names = ("weak", "strong", "again", "features", None, None, "u", "v")
    arguments = batch_of_two_exits()

    def parts_of(*arguments):
        return bldr_loss(*arguments, head_agreement_weight=10.0)[1]

    wanted = [i for i, name in enumerate(names) if name]
    jacobian = jax.jit(jax.jacrev(parts_of, argnums=wanted))(*arguments)
    reached = {}
    for part, gradients in jacobian.items():
        reached[part] = set()
        for i, gradient in zip(wanted, gradients, strict=True):
            if names[i] in ("u", "v"):
                on_label = np.eye(4, dtype=bool)[arguments[4]]
                # u moves on the given label, and v off it, if they move at all.
                assert np.all(gradient[on_label if names[i] == "v" else ~on_label] == 0)
                reached[part] |= {names[i]} if np.any(gradient) else set()
            else:
                heads = np.flatnonzero(np.any(gradient != 0, axis=(0, 2)))
                reached[part] |= {f"{names[i]} {head}" for head in heads}
    assert reached == {
        "positive": {"weak 0", "strong 0", "u", "v"},
        "negative": {"weak 1", "strong 1"},
        "exit_1": {"weak 2", "strong 2", "u", "v"},
        "exit_2": {"weak 3", "strong 3", "u", "v"},
        "distillation": {"again 2", "again 3"},
        "hint": {"features 1", "features 2"},
        "agreement": {"again 0", "again 1"},
    }


def test_what_scales_which_gradient(x64):
    *fixed, u, v, weights, noise_rate = batch_of_two_exits()

    @jax.jit
    def gradients(weights, noise_rate, reg_weight):
        def loss(logits, u, v):
            return bldr_loss(logits, *fixed[1:], u, v, weights, noise_rate, reg_weight=reg_weight)[
                0
            ]

        return jax.grad(loss, (0, 1, 2))(fixed[0], u, v)

    plain = gradients(weights, noise_rate, 50.0)
    louder = gradients(weights, 2 * noise_rate, 50.0)
    stricter = gradients(weights, noise_rate, 100.0)
    weighted = gradients(2 * weights, noise_rate, 50.0)
    for logits, on_label, off_label in (louder, stricter):
        np.testing.assert_allclose(logits, plain[0], rtol=1e-12)
        np.testing.assert_allclose(on_label, plain[1], rtol=1e-12)
        factor = 4 if off_label is louder[2] else 2  # the noise rate is squared
        np.testing.assert_allclose(off_label, factor * plain[2], rtol=1e-12)
    np.testing.assert_allclose(weighted[2], plain[2], rtol=1e-12)
    assert not np.allclose(weighted[0], plain[0])


def test_masked_examples_do_not_count_in_the_objective():
    arguments = batch_of_two_exits(size=4)

    def padded(x):
        return jnp.concatenate([x, 1e4 * jnp.ones_like(x[:2])]) if jnp.ndim(x) else x

    labels = jnp.concatenate([arguments[4], jnp.zeros(2, jnp.int32)])
    longer = [labels if i == 4 else padded(x) for i, x in enumerate(arguments)]
    loss, parts = jax.jit(bldr_loss)(*arguments)
    of_longer = jax.jit(jax.value_and_grad(bldr_loss, has_aux=True))
    (padded_loss, padded_parts), gradient = of_longer(*longer, where=jnp.arange(6) < 4)
    np.testing.assert_allclose(padded_loss, loss, rtol=1e-6)
    assert parts.keys() == padded_parts.keys()
    for name, part in parts.items():
        np.testing.assert_allclose(padded_parts[name], part, rtol=1e-5)
    np.testing.assert_allclose(sum(parts.values()), loss, rtol=1e-6)
    assert np.all(gradient[4:] == 0) and np.all(np.isfinite(gradient))


def test_a_hundred_classes_make_the_heads_agree():
    arguments = batch_of_two_exits(num_classes=100)
    agreement = jax.jit(bldr_loss)(*arguments)[1]["agreement"]
    again = arguments[2]
    expected = 10 * jnp.mean(head_agreement_loss(again[:, 0], again[:, 1]))
    np.testing.assert_allclose(agreement, expected, rtol=1e-6)
    without = functools.partial(bldr_loss, head_agreement_weight=0.0)
    assert "agreement" not in jax.eval_shape(without, *arguments)[1]


# What holds for all of them.


def test_check_grads(x64):
    a, b = random_rows(0, (2, 3)), random_rows(1, (2, 3))
    u, v = random_rows(2, (2, 3), 0.3), random_rows(3, (2, 3), 0.1)
    fixed = jax.lax.stop_gradient(a)
    smooth = {
        "consistency": lambda z: consistency_kl(fixed, z),
        "balance": lambda z: class_balance_loss(jax.nn.softmax(z)),
        "distillation": lambda z: self_distillation_loss(z, a, b),
        "agreement": lambda z: head_agreement_loss(z, z**2),
        "ce": lambda z: positive_learning_loss(z, jnp.array([0, 2]), u, v)[::2],
    }
    for loss_fn in smooth.values():
        check_grads(jax.jit(loss_fn), (b,), 1)
    check_grads(jax.jit(lambda u: positive_learning_loss(a, jnp.array([0, 2]), u, v)[0]), (u,), 1)


def test_jit_and_half_precision():
    """Of functions with several results; tests/test_properties.py has the losses."""
    logits = random_rows(0, (5, 4))
    labels, u, v = jnp.array([0, 1, 2, 3, 0]), jnp.full((5, 4), 0.1), jnp.full((5, 4), 0.2)
    functions = [
        (sop_noise_terms, (u, v, jax.nn.one_hot(labels, 4))),
        (lambda z, u, v: positive_learning_loss(z, labels, u, v), (logits, u, v)),
    ]
    for function, args in functions:
        jitted, eager = jax.jit(function)(*args), function(*args)
        chex.assert_trees_all_close(jitted, eager, rtol=1e-5, atol=1e-6)
        halves = function(*(x.astype(jnp.bfloat16) for x in args))
        assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(halves))


def test_permuting_the_batch_permutes_the_results():
    a, labels = random_rows(0, (5, 4)), jnp.array([0, 1, 2, 3, 0])
    u, v = random_rows(1, (5, 4), 0.4), random_rows(2, (5, 4), 0.4)
    rows = np.array([3, 1, 4, 0, 2])
    plain = positive_learning_loss(a, labels, u, v)
    permuted = positive_learning_loss(a[rows], labels[rows], u[rows], v[rows])
    for x, y in zip(plain, permuted, strict=True):
        np.testing.assert_array_equal(y, x[rows])
    np.testing.assert_allclose(
        class_balance_loss(permuted[2]), class_balance_loss(plain[2]), rtol=1e-6
    )


def test_errors():
    logits, labels = jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32)
    with pytest.raises(ValueError, match="one entry per row"):
        positive_learning_loss(logits, labels[:1], logits, logits)
    with pytest.raises(ValueError, match="gather the batch's rows"):
        positive_learning_loss(logits, labels, jnp.zeros((5, 3)), logits)
    with pytest.raises(ValueError, match="gather the batch's rows"):
        positive_learning_loss(logits, labels, logits, jnp.zeros((2, 1)))
    with pytest.raises(ValueError, match="Unknown noise_terms 'spo': did you mean 'sop'"):
        positive_learning_loss(logits, labels, logits, logits, noise_terms="spo")
    with pytest.raises(ValueError, match="same shape"):
        feature_hint_loss(logits, jnp.zeros((2, 4)))
    arguments = batch_of_two_exits()
    for head in ("positive", "negative"):
        with pytest.raises(ValueError, match="Exits learn from both heads"):
            bldr_loss(*arguments, **{head: False})
    for position, name in ((1, "logits_strong"), (2, "logits_again"), (3, "features_again")):
        wrong = [x[:, 1:] if i == position else x for i, x in enumerate(arguments)]
        with pytest.raises(ValueError, match=f"{name} of shape"):
            bldr_loss(*wrong)
