import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxrobust.losses import (
    complementary_label_mask,
    negative_learning_loss,
    random_label_targets,
    sample_complementary_labels,
)

NL_CASES = [f"nl{i}" for i in range(10)]
MASK_CASES = ["default", "agree", "binary", "c100", "extreme", "single", "separate_mask"]


def mean_loss(logits, complementary, prob_floor=1e-5):
    return jnp.mean(negative_learning_loss(logits, complementary, prob_floor=prob_floor))


loss_fn = jax.jit(negative_learning_loss, static_argnames="prob_floor")
value_and_grad = jax.jit(jax.value_and_grad(mean_loss), static_argnames="prob_floor")


def grad_of(*args, **options):
    return value_and_grad(*args, **options)[1]


@jax.jit
def evaluate(logits, labels):
    """Loss of the labels, loss of their mask, and value and gradient of the mean."""
    mask = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    mean, grad = jax.value_and_grad(mean_loss)(logits, labels)
    return negative_learning_loss(logits, labels), negative_learning_loss(logits, mask), mean, grad


def random_logits(seed, shape, scale=2.0):
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape), jnp.float32)


def chi_square(draws, classes):
    """Pearson statistic of draws against the uniform distribution over `classes`."""
    counts = np.array([np.sum(draws == c) for c in classes])
    expected = len(draws) / len(classes)
    return np.sum((counts - expected) ** 2 / expected)


def test_hand_computed():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]))
    loss = loss_fn(logits, jnp.array([0, 2]))
    np.testing.assert_allclose(loss, [-math.log(0.5), -math.log(0.2)], rtol=1e-6)
    mask = jnp.array([[1, 0, 1], [0, 0, 0]])
    loss = loss_fn(logits, mask)
    np.testing.assert_allclose(loss, [-math.log(0.5) - math.log(0.8), 0.0], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", NL_CASES)
def test_golden(load_golden, x64, case, dtype):
    golden = load_golden("bual")
    tolerance = 1e-6 if dtype == np.float64 else {"nl8": 1e-4}.get(case, 1e-5)
    logits = jnp.asarray(golden[case, "logits"], dtype)
    num_classes = logits.shape[-1]
    labels = (golden[case, "labels"] + golden[case, "offsets"]) % num_classes
    np.testing.assert_array_equal(labels, golden[case, "comp_labels"])
    loss, mask_loss, mean, grad = evaluate(logits, labels)
    assert loss.dtype == grad.dtype == dtype
    close = {"rtol": tolerance, "atol": tolerance}
    np.testing.assert_allclose(loss, golden[case, "loss_per_example"], **close)
    np.testing.assert_allclose(mean, golden[case, "loss"], **close)
    np.testing.assert_allclose(grad, golden[case, "grad_logits"], **close)
    expected_zero = np.all(golden[case, "grad_logits"] == 0, axis=-1)
    assert np.all(np.asarray(grad)[expected_zero] == 0)
    np.testing.assert_array_equal(mask_loss, loss)
    if dtype == np.float32:  # the authors' log(1 - p), which loses digits near the floor
        np.testing.assert_allclose(mean, golden[case, "loss_f32"], rtol=1e-4)
        np.testing.assert_allclose(grad, golden[case, "grad_logits_f32"], atol=2e-4)


def test_golden_has_saturated_rows(load_golden):
    grad = load_golden("bual")["nl4", "grad_logits"]
    assert np.sum(np.all(grad == 0, axis=-1)) == 4


@pytest.mark.parametrize("case", MASK_CASES)
def test_golden_mask(load_golden, case):
    golden = load_golden("bldr")
    case = f"nl/{case}"
    mask = complementary_label_mask(golden[case, "labels"], golden[case, "mask_logits"])
    np.testing.assert_array_equal(mask, golden[case, "neg_mask"])


def test_uniform_logits():
    for num_classes in (2, 7):
        loss = loss_fn(jnp.zeros((1, num_classes)), jnp.array([1]))
        np.testing.assert_allclose(loss, math.log(num_classes / (num_classes - 1)), rtol=1e-6)


def test_two_classes_is_cross_entropy_of_the_other():
    logits = random_logits(0, (6, 2))
    labels = jnp.array([0, 1, 1, 0, 1, 0])
    cross_entropy = -jnp.take_along_axis(jax.nn.log_softmax(logits), 1 - labels[:, None], axis=-1)[
        :, 0
    ]
    loss = loss_fn(logits, labels)
    np.testing.assert_allclose(loss, cross_entropy, rtol=1e-5, atol=1e-6)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.floats(0.1, 8.0), st.floats(-50.0, 50.0))
def test_invariances(seed, scale, shift):
    rng = np.random.default_rng(seed)
    logits = random_logits(seed, (5, 4), scale)
    labels = rng.integers(4, size=5)
    loss = loss_fn(logits, labels)
    grad = grad_of(logits, labels)
    assert np.all(loss >= 0) and np.all(loss <= 11.512926)
    np.testing.assert_allclose(np.sum(grad, axis=-1), 0, atol=1e-6)
    shifted = loss_fn(logits + jnp.float32(shift), labels)
    np.testing.assert_allclose(shifted, loss, rtol=1e-4, atol=1e-4)
    classes, rows = rng.permutation(4), rng.permutation(5)
    relabeled = loss_fn(logits[:, classes], np.argsort(classes)[labels])
    np.testing.assert_allclose(relabeled, loss, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(loss_fn(logits[rows], labels[rows]), loss[rows])


def test_gradient_formula_and_floor(x64):
    logits = jnp.array([[1.0, -0.5, 0.3], [20.0, 0.0, 0.0], [8.0, 0.0, 0.0], [12.0, 0.0, 0.0]])
    labels = jnp.array([0, 0, 0, 1])
    grad = grad_of(logits, labels)
    p = np.asarray(jax.nn.softmax(logits))
    p_y = p[np.arange(4), labels]
    factor = np.where(1 - p_y >= 1e-5, p_y / (1 - p_y), 0.0)
    assert factor[1] == 0 and factor[2] > 0
    expected = factor[:, None] * (np.eye(3)[np.asarray(labels)] - p) / 4
    np.testing.assert_allclose(grad, expected, rtol=1e-9, atol=1e-12)
    assert np.all(grad[1] == 0)


def test_minimum_over_all_labels_is_uniform():
    def average_over_labels(logits):
        return jnp.sum(loss_fn(logits, jnp.ones((1, 5)))) / 5

    grad = jax.grad(average_over_labels)(jnp.zeros((1, 5)))
    np.testing.assert_allclose(grad, 0, atol=1e-7)
    single = grad_of(jnp.zeros((1, 5)), jnp.array([3]))
    assert single[0, 3] > 0.1 and np.all(np.delete(single[0], 3) < 0)


@pytest.mark.parametrize("size", [30.0, 1e4])
@pytest.mark.parametrize("prob_floor", [1e-5, 0.0])
def test_extreme_logits(size, prob_floor):
    logits = jnp.array([[size, -size, -size], [-size, size, size], [-size, 0.0, size]])
    for complementary in (jnp.array([0, 1, 2]), jnp.array([2, 0, 1]), jnp.ones((3, 3))):
        value, grad = value_and_grad(logits, complementary, prob_floor=prob_floor)
        assert np.isfinite(value) and np.all(np.isfinite(grad))
    saturated = grad_of(logits[:1], jnp.array([0]), prob_floor=prob_floor)
    assert np.all(saturated == 0) == (prob_floor > 0)


def test_no_floor_is_the_paper_form():
    logits = jnp.array([[20.0, 0.0, 0.0]])
    loss = loss_fn(logits, jnp.array([0]), prob_floor=0.0)
    np.testing.assert_allclose(loss, 20.0 - math.log(2.0), rtol=1e-6)
    np.testing.assert_allclose(loss_fn(logits, jnp.array([0])), -math.log(1e-5), rtol=1e-6)


def test_mask_influence():
    """Classes outside the mask act through the softmax normaliser only."""
    mask = jnp.array([[0.0, 1.0, 1.0, 0.0]])
    logits = random_logits(1, (1, 4), 1.0)
    grad = grad_of(logits, mask)
    assert np.all(grad[0, jnp.array([0, 3])] < 0)
    raised = logits.at[0, 1].add(1.0)
    assert mean_loss(raised, mask) > mean_loss(logits, mask)
    one = jnp.array([[0.0, 0.0, 1.0, 0.0]])
    np.testing.assert_allclose(
        mean_loss(logits, one), -jnp.log(1 - jax.nn.softmax(logits)[0, 2]), rtol=1e-5
    )


def test_out_of_range_label_and_empty_mask_cost_nothing():
    logits = random_logits(2, (2, 3))
    for complementary in (jnp.array([-1, 3]), jnp.zeros((2, 3), bool)):
        value, grad = value_and_grad(logits, complementary)
        assert value == 0 and np.all(grad == 0)


def test_check_grads(x64):
    logits = jnp.asarray(np.random.default_rng(3).normal(size=(4, 5)))
    labels = jnp.array([0, 1, 4, 2])
    mask = complementary_label_mask(labels, logits)
    check_grads(jax.jit(lambda z: negative_learning_loss(z, labels)), (logits,), 1)
    check_grads(jax.jit(lambda z: negative_learning_loss(z, mask)), (logits,), 1)


def test_compiling_draws_the_same_labels():
    labels, key = jnp.array([0, 1, 2, 0, 1, 2]), jax.random.key(0)
    np.testing.assert_array_equal(
        jax.jit(sample_complementary_labels, static_argnums=2)(key, labels, 3),
        sample_complementary_labels(key, labels, 3),
    )


@pytest.mark.parametrize("num_classes", [2, 5])
def test_random_targets_distribution(num_classes):
    size = 20_000
    labels = jnp.full(size, 1)
    is_labeled = jnp.arange(size) < size // 2
    targets = np.asarray(random_label_targets(jax.random.key(7), labels, is_labeled, num_classes))
    labeled, unlabeled = targets[: size // 2], targets[size // 2 :]
    wrong = [c for c in range(num_classes) if c != 1]
    assert set(np.unique(labeled)) == set(wrong)
    assert set(np.unique(unlabeled)) == set(range(num_classes))
    # 18.5 is the 99.9 % quantile at 4 degrees of freedom, the most there are here.
    assert chi_square(labeled, wrong) < 18.5
    assert chi_square(unlabeled, range(num_classes)) < 18.5


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_complementary_labels_are_wrong(seed, num_classes):
    labels = jnp.asarray(np.random.default_rng(seed).integers(num_classes, size=64))
    key = jax.random.key(seed)
    drawn = sample_complementary_labels(key, labels, num_classes)
    assert drawn.dtype == jnp.int32
    assert np.all((drawn >= 0) & (drawn < num_classes) & (drawn != labels))
    np.testing.assert_array_equal(drawn, sample_complementary_labels(key, labels, num_classes))
    if num_classes == 2:
        np.testing.assert_array_equal(drawn, 1 - labels)
    else:
        again = sample_complementary_labels(jax.random.fold_in(key, 1), labels, num_classes)
        assert np.any(drawn != again)


def test_unlabeled_rows_ignore_their_labels():
    key, hidden = jax.random.key(3), jnp.zeros(8, bool)
    draws = [random_label_targets(key, jnp.full(8, label), hidden, 4) for label in (0, 3, -1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    np.testing.assert_array_equal(draws[0], draws[2])


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.floats(0.1, 10.0), st.floats(-5.0, 5.0))
def test_default_mask(seed, scale, shift):
    logits = random_logits(seed, (6, 4))
    labels = np.random.default_rng(seed + 1).integers(4, size=6)
    mask = complementary_label_mask(labels, logits)
    top = np.argmax(logits, axis=-1)
    np.testing.assert_array_equal(np.sum(mask, axis=-1), np.where(top == labels, 3, 2))
    assert np.all(mask[np.arange(6), labels] == 0) and np.all(mask[np.arange(6), top] == 0)
    moved = logits * jnp.float32(scale) + jnp.float32(shift)
    np.testing.assert_array_equal(complementary_label_mask(labels, moved), mask)


def test_mask_modes():
    labels, logits = jnp.array([0, 1]), jnp.zeros((2, 4))
    # A tie takes the first class as the top one.
    np.testing.assert_array_equal(
        complementary_label_mask(labels, logits), [[0, 1, 1, 1], [0, 0, 1, 1]]
    )
    np.testing.assert_array_equal(
        complementary_label_mask(labels, logits, mode="all_but_label"),
        [[0, 1, 1, 1], [1, 0, 1, 1]],
    )
    rows = jnp.tile(labels, 2000)
    for count in (1, 2, 3):
        mask = complementary_label_mask(
            rows,
            jnp.zeros((4000, 4)),
            mode="random",
            key=jax.random.key(count),
            num_complementary=count,
        )
        np.testing.assert_array_equal(np.sum(mask, axis=-1), count)
        assert np.all(mask[np.arange(4000), rows] == 0)
        np.testing.assert_allclose(np.mean(mask[::2], axis=0)[1:], count / 3, atol=0.05)


def test_binary_disagreement_gives_nothing():
    logits = jnp.array([[0.0, 3.0]])
    mask = complementary_label_mask(jnp.array([0]), logits)
    value, grad = value_and_grad(logits, mask)
    assert value == 0 and np.all(grad == 0)


def test_errors():
    logits, labels, key = jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32), jax.random.key(0)
    with pytest.raises(ValueError, match="C >= 2 classes"):
        negative_learning_loss(jnp.zeros((2, 1)), labels)
    with pytest.raises(ValueError, match="prob_floor must lie"):
        negative_learning_loss(logits, labels, prob_floor=1.0)
    with pytest.raises(ValueError, match="must be integers"):
        negative_learning_loss(logits, jnp.zeros(2))
    with pytest.raises(ValueError, match="must have the logits' shape"):
        negative_learning_loss(logits, jnp.zeros((3, 2)))
    with pytest.raises(ValueError, match="at least two classes"):
        sample_complementary_labels(key, labels, 1)
    with pytest.raises(ValueError, match="at least two classes"):
        random_label_targets(key, labels, labels == 0, 1)
    with pytest.raises(ValueError, match="did you mean 'all_but_label'"):
        complementary_label_mask(labels, logits, mode="all_but_labels")
    with pytest.raises(ValueError, match="one entry per row"):
        complementary_label_mask(labels[:1], logits)
    with pytest.raises(ValueError, match="pass key"):
        complementary_label_mask(labels, logits, mode="random")
    with pytest.raises(ValueError, match=r"num_complementary must lie in 1\.\.2"):
        complementary_label_mask(labels, logits, mode="random", key=key, num_complementary=3)


@pytest.mark.parametrize("mode", ["all_but_label_and_top", "all_but_label"])
def test_a_soft_label_excludes_each_class_as_far_as_it_is_the_label(mode):
    logits = jnp.array([[0.0, 2.0, 1.0], [1.0, 0.0, 3.0]])
    soft = jnp.array([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0]])
    by_class = jnp.stack(
        [complementary_label_mask(jnp.full(2, c), logits, mode=mode) for c in range(3)]
    )
    expected = jnp.einsum("bc,cbk->bk", soft, by_class)
    found = complementary_label_mask(soft, logits, mode=mode)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_of_a_soft_label_random_classes_are_drawn_beside_a_drawn_label():
    soft = jnp.tile(jnp.array([0.5, 0.5, 0.0]), (4000, 1))
    mask = complementary_label_mask(
        soft, jnp.zeros((4000, 3)), mode="random", key=jax.random.key(0)
    )
    np.testing.assert_allclose(mask.mean(axis=0), [0.25, 0.25, 0.5], atol=0.03)
