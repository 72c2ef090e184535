import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxrobust.losses import energy_margin_loss
from jaxrobust.selection import (
    aleatoric_uncertainty,
    epistemic_energy,
    fit_gaussian_mixture_1d,
    gaussian_mixture_log_odds,
    gaussian_mixture_posterior,
    lfosa_score,
    reverse_neighbor_energy,
)

DTYPES = [np.float64, np.float32]


def detector_loss(logits, labels):
    """EAOA's detector loss and its two parts."""
    log_probs = jax.nn.log_softmax(logits)
    cross_entropy = -jnp.mean(log_probs[jnp.arange(len(labels)), labels])
    energy = energy_margin_loss(logits, labels)
    return cross_entropy + 0.01 * energy, (cross_entropy, energy)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["eaoa0", "eaoa1"])
def test_eaoa_golden(load_golden, x64, case, dtype):
    golden = load_golden("bual")
    tolerance = 1e-6 if dtype == np.float64 else 1e-5
    close = {"rtol": tolerance, "atol": tolerance}
    target = golden[case, "target_logits"].astype(dtype)
    detector = golden[case, "detector_logits"].astype(dtype)
    aleatoric = jax.jit(aleatoric_uncertainty)(target)
    epistemic = jax.jit(epistemic_energy)(detector)
    assert aleatoric.dtype == epistemic.dtype == dtype
    np.testing.assert_allclose(aleatoric, golden[case, "aleatoric"], **close)
    np.testing.assert_allclose(epistemic, golden[case, "epistemic"], **close)
    (total, (cross_entropy, energy)), grad = jax.jit(
        jax.value_and_grad(detector_loss, has_aux=True)
    )(detector, golden[case, "labels"])
    np.testing.assert_allclose(total, golden[case, "loss_total"], **close)
    np.testing.assert_allclose(cross_entropy, golden[case, "loss_xent"], **close)
    np.testing.assert_allclose(energy, golden[case, "loss_energy"], **close)
    np.testing.assert_allclose(grad, golden[case, "grad_detector_logits"], **close)


@pytest.mark.parametrize("dtype", DTYPES)
def test_lfosa_golden(load_golden, x64, dtype):
    """Two classes with the recorded activations, one shifted, and some predicted unknown."""
    golden = load_golden("bual")
    activation = golden["lfosa0", "max_activation"].astype(dtype)
    low, size = activation.min() - 20, len(activation)
    logits = np.full((2 * size + 5, 3), low, dtype)
    logits[:size, 0] = activation
    logits[size : 2 * size, 1] = activation + 2
    logits[2 * size :, 2] = activation[:5]
    score = jax.jit(lfosa_score)(logits)
    assert score.dtype == dtype
    tolerance = 1e-6 if dtype == np.float64 else 1e-4
    for group in (score[:size], score[size : 2 * size]):
        posterior = jax.nn.sigmoid(group)
        np.testing.assert_allclose(posterior, golden["lfosa0", "known_posterior"], atol=tolerance)
    assert np.all(jax.nn.sigmoid(score[2 * size :]) == 0)
    means = fit_gaussian_mixture_1d(activation).means
    np.testing.assert_allclose(means, golden["lfosa0", "means"], rtol=tolerance)


def test_lfosa_groups_and_mask():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20, 3)).astype(np.float32)
    logits[np.arange(20), [0] * 9 + [1] + [2] * 10] += 8
    score = lfosa_score(logits)
    # Alone in its group, or predicted unknown: behind everybody, but still a candidate.
    assert np.all(np.isfinite(score)) and np.all(score[9:] == np.finfo(np.float32).min)
    # The larger activation looks known.
    activation = logits[:9, 0]
    assert score[np.argmax(activation)] > 0 > score[np.argmin(activation)]
    where = np.arange(20) % 3 > 0
    masked = lfosa_score(logits, where=where)
    np.testing.assert_allclose(masked[where], lfosa_score(logits[where]), rtol=1e-4, atol=1e-4)
    assert np.all(masked[~where] == -np.inf)


def test_log_odds_rank_what_the_posterior_cannot_tell_apart():
    """Two groups far apart: the upper one's posteriors are 1.0 in float32, its scores are not."""
    activation = np.concatenate([np.linspace(0, 1, 9), np.linspace(19, 20, 9)]).astype(np.float32)
    score = lfosa_score(jnp.stack([activation, jnp.full(18, -50.0)], axis=1))
    assert np.all(jax.nn.sigmoid(score[9:]) == 1)
    assert np.all(np.diff(score) > 0)
    mixture = fit_gaussian_mixture_1d(activation)
    between = jnp.mean(mixture.means)[None]
    posterior = gaussian_mixture_posterior(between, mixture)[:, 1]
    np.testing.assert_allclose(
        jax.nn.sigmoid(gaussian_mixture_log_odds(between, mixture)), posterior, rtol=1e-5
    )


def test_hand_computed():
    logits = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]]))
    np.testing.assert_allclose(aleatoric_uncertainty(logits), np.log([0.3, 0.6]), rtol=1e-5)
    # The known classes sum to 0.9 and 0.6; softplus of log(q) is log(1 + q).
    expected = [-math.log(0.9) + math.log(1.1), -math.log(0.6) + math.log(1.4)]
    np.testing.assert_allclose(epistemic_energy(logits), expected, rtol=1e-5)
    energy = -np.log([0.9, 0.6])
    loss = energy_margin_loss(logits, jnp.array([1, 2]), known_margin=-1.0, unknown_margin=1.0)
    np.testing.assert_allclose(loss, (energy[0] + 1) ** 2 + (1 - energy[1]) ** 2, rtol=1e-5)


def test_energy_margins():
    """Nothing to gain beyond the margins, and an absent group counts nothing."""
    logits = jnp.array([[26.0, 0.0, 3.0], [1.0, 2.0, 3.0]])
    value, grad = jax.value_and_grad(energy_margin_loss)(logits, jnp.array([0, 2]))
    assert value == 0 and np.all(grad == 0)
    swapped = energy_margin_loss(logits, jnp.array([2, 2]))
    np.testing.assert_allclose(swapped, (26.0 - 7.0) ** 2 / 2, rtol=1e-5)
    masked = energy_margin_loss(logits, jnp.array([2, 2]), where=jnp.array([True, False]))
    np.testing.assert_allclose(masked, (26.0 - 7.0) ** 2, rtol=1e-5)


def test_extreme_logits_are_finite():
    logits = 1e4 * jnp.array([[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0], [0.0, 0.0, 0.0]])
    assert np.all(np.isfinite(aleatoric_uncertainty(logits)))
    assert np.all(np.isfinite(epistemic_energy(logits)))
    value, grad = jax.value_and_grad(energy_margin_loss)(logits, jnp.array([0, 2, 1]))
    assert np.isfinite(value) and np.all(np.isfinite(grad))


def test_check_grads(x64):
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    labels = jnp.array([0, 2, 1, 0])
    check_grads(jax.jit(lambda z: energy_margin_loss(z, labels)), (logits,), 1)
    check_grads(jax.jit(epistemic_energy), (logits,), 1)


def test_errors():
    with pytest.raises(ValueError, match="C >= 2 classes"):
        aleatoric_uncertainty(jnp.zeros((2, 1)))
    with pytest.raises(ValueError, match="C >= 2 classes"):
        lfosa_score(jnp.zeros((4, 1)))
    with pytest.raises(ValueError, match="one entry per row"):
        energy_margin_loss(jnp.zeros((2, 3)), jnp.zeros(3, jnp.int32))


def balanced_energy(counts, sizes, mean):
    """EAOA's energy in float64, of counts `[N, K+1]` and class sizes `[K+1]`."""
    w = counts * (mean / np.maximum(sizes, 1))
    return -np.log(np.sum(np.exp(w[:, :-1]), axis=1)) + np.log1p(np.exp(w[:, -1]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "num_annotated"), [(30, 9), (400, 300), (400, 0)])
def test_reverse_neighbors_equal_the_sorted_distances(x64, dtype, size, num_annotated):
    """Within one block of annotated images, over several, and with none."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(size, 3)).astype(dtype)
    labels = np.where(np.arange(size) < num_annotated, np.arange(size) % 4, -1)
    labels[labels == 2] = 0  # a class without images
    labels = rng.permutation(labels)
    where = labels < 0
    where[np.flatnonzero(where)[-1]] = False  # neither pool nor annotated
    energy_of = jax.jit(reverse_neighbor_energy, static_argnames=("num_known", "num_neighbors"))
    energy = energy_of(features, labels, num_known=3, where=where, num_neighbors=5)
    counts = np.zeros((size, 4))
    for i in np.flatnonzero(labels >= 0):
        distance = np.linalg.norm(features - features[i], axis=1)
        distance[~where] = np.inf
        counts[np.argsort(distance)[:5], labels[i]] += 1
    sizes = np.bincount(labels[labels >= 0], minlength=4)
    expected = balanced_energy(counts, sizes, sizes[:3].mean())
    assert energy.dtype == dtype
    # Counts are exact; their energy is the difference of two terms below 128.
    tolerance = 128 * np.finfo(dtype).eps
    np.testing.assert_allclose(energy[where], expected[where], rtol=0, atol=tolerance)
    # More neighbours than the pool holds: every pool image is one of all.
    everything = energy_of(features, labels, num_known=3, where=where, num_neighbors=250)
    expected = balanced_energy(sizes[None].astype(float), sizes, sizes[:3].mean())
    np.testing.assert_allclose(
        everything[where], np.repeat(expected, where.sum()), rtol=0, atol=tolerance
    )


def test_neighbor_energy_counts_images():
    """Forty neighbours of one class look more known than eleven of each of four.

    Their shares of a class of 400 would rank the two images the other way round.
    """
    # Three pool images far apart, annotated ones beside one of them, 400 of each known class.
    beside = [(0, 0, 40), (1, 0, 11), (2, 0, 349), (2, 4, 1)]
    beside += [row for k in (1, 2, 3) for row in ((1, k, 11), (2, k, 389))]
    places, classes, repeats = (np.array(column) for column in zip(*beside, strict=True))
    features = np.concatenate([[0, 100, 200], np.repeat(100 * places + 1, repeats)])
    labels = np.concatenate([[-1, -1, -1], np.repeat(classes, repeats)])
    energy = reverse_neighbor_energy(
        features[:, None].astype(np.float32), labels, 4, where=labels < 0, num_neighbors=1
    )
    # log 2 is the softplus of no unknown neighbour.
    expected = np.log(2) - np.array([np.log(np.exp(40) + 3), 11 + np.log(4)])
    np.testing.assert_allclose(energy[:2], expected, rtol=1e-6)
    counts = np.array([[40, 0, 0, 0, 0], [11, 11, 11, 11, 0]])
    shares = balanced_energy(counts, np.full(5, 400), 1)
    assert energy[0] < energy[1] and shares[0] > shares[1]
    # While nobody is annotated as unknown the authors' mean is over five classes.
    is_known = labels < 4
    first = reverse_neighbor_energy(
        features[is_known, None].astype(np.float32),
        labels[is_known],
        4,
        where=labels[is_known] < 0,
        num_neighbors=1,
    )
    np.testing.assert_allclose(
        first[:2], balanced_energy(counts, np.full(5, 400), 400 * 4 / 5), rtol=1e-6
    )


def test_memory_stays_with_the_features():
    """A pool of 50,000 x 512 and any number of annotated rows: compiled, not run."""
    share = jax.jit(reverse_neighbor_energy, static_argnames=("num_known", "num_neighbors"))
    features = jax.ShapeDtypeStruct((50_000, 512), jnp.float32)
    labels = jax.ShapeDtypeStruct((50_000,), jnp.int32)
    where = jax.ShapeDtypeStruct((50_000,), bool)
    compiled = share.lower(features, labels, num_known=100, where=where).compile()
    memory = compiled.memory_analysis()
    assert memory.argument_size_in_bytes + memory.temp_size_in_bytes < 1e9


def test_reverse_neighbor_errors():
    features, labels, where = np.zeros((4, 2)), np.zeros(4, int), np.ones(4, bool)
    with pytest.raises(ValueError, match="features and labels"):
        reverse_neighbor_energy(features, labels[:3], 2, where=where)
    with pytest.raises(ValueError, match="num_neighbors"):
        reverse_neighbor_energy(features, labels, 2, where=where, num_neighbors=0)
