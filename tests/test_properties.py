"""Properties of every loss and selection function, of splits, noise and plans."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust import losses as L
from jaxrobust import selection as S
from jaxrobust.data import noise
from jaxrobust.data.open_set import open_set_split
from jaxrobust.engine import rng

B, C, D = 6, 5, 3  # examples, classes, width of an embedding
few = settings(max_examples=10, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)

# --------------------------------------------------------------------------------- losses


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss of one array of logits (or embeddings), and what holds for it.

    Attributes:
      of: `(x, given) -> value`; `given` are the other arguments by name.
      shape: of x; its leading axes are `axes`.
      axes: which axis of x counts examples and which classes (None: there is none).
      holds: shift (adding a number to all logits of an example changes nothing), positive (never
        below 0), zero (0 where x is the teacher), matched (an output with classes as last axis),
        mapped (`vmap` of it is tried), outside (x passes a function of JAX's own first, which
        rounds to the precision of its input).
    """

    of: Callable
    holds: tuple[str, ...] = ()
    shape: tuple[int, ...] = (B, C)
    axes: tuple[int | None, int | None] = (0, 1)


def _two_heads(of, *holds):
    return Loss(of, holds, (2, B, C), (1, 2))


def _embeddings(of, *holds):
    return Loss(of, holds, (B, C, D), (0, 1))


def _features(of, *holds):
    return Loss(of, holds, (B, D), (0, None))


def _maps(of, *holds):
    return Loss(of, holds, (B, 4, 4, D), (0, None))


LOSSES = {
    "calibrated_log_softmax": Loss(lambda x, g: L.calibrated_log_softmax(x), ("matched",)),
    "calibrated_softmax": Loss(lambda x, g: L.calibrated_softmax(x), ("matched", "positive")),
    "plain softmax": Loss(
        lambda x, g: L.calibrated_softmax(x, 0), ("matched", "positive", "shift")
    ),
    "evidential_nll": Loss(lambda x, g: L.evidential_nll(x, g["labels"]), ("positive", "mapped")),
    "evidential_kl": Loss(lambda x, g: L.evidential_kl(x, g["labels"]), ("positive", "mapped")),
    "evidential_loss": Loss(lambda x, g: sum(L.evidential_loss(x, g["labels"])), ("positive",)),
    "negative_entropy": Loss(lambda x, g: L.negative_entropy(x)),
    "class_prior_penalty": Loss(
        lambda x, g: L.class_prior_penalty(x, jnp.full(x.shape[-1], 1 / x.shape[-1])),
        ("positive",),
    ),
    "uniform_prior_penalty": Loss(lambda x, g: L.uniform_prior_penalty(x), ("positive",)),
    "semi_supervised_loss": Loss(
        lambda x, g: sum(
            L.semi_supervised_loss(x, g["labels"], g["others"], 0.7, g["teacher"], g["probs"])
        ),
    ),
    "strong_view_consistency": Loss(lambda x, g: L.strong_view_consistency(g["teacher"], x)),
    "edl_nll": Loss(lambda x, g: L.edl_nll(L.dirichlet_log_alpha(x), g["labels"]), ("positive",)),
    **{
        f"edl_loss {kind}": Loss(
            lambda x, g, kind=kind: L.edl_loss(L.dirichlet_log_alpha(x), g["labels"], kind=kind),
            ("positive",),
        )
        for kind in ("nll", "digamma", "mse")
    },
    **{
        f"dirichlet_log_alpha {evidence}": Loss(
            lambda x, g, evidence=evidence: L.dirichlet_log_alpha(x, evidence=evidence),
            ("matched",),
        )
        for evidence in ("exp", "softplus", "relu")
    },
    "dirichlet_kl_to_uniform": Loss(
        lambda x, g: L.dirichlet_kl_to_uniform(jnp.exp(L.dirichlet_log_alpha(x))), ("positive",)
    ),
    "misleading_kl": Loss(
        lambda x, g: L.misleading_kl(jnp.exp(L.dirichlet_log_alpha(x)), g["labels"]), ("positive",)
    ),
    "unknown_kl": Loss(lambda x, g: L.unknown_kl(jnp.exp(L.dirichlet_log_alpha(x))), ("positive",)),
    **{
        f"head_discrepancy {kind}": _two_heads(
            lambda x, g, kind=kind: L.head_discrepancy(x, kind=kind), "positive"
        )
        for kind in ("tv", "l1_mean", "l2", "js", "dirichlet_kl")
    },
    "discrepancy_loss": _two_heads(
        lambda x, g: L.discrepancy_loss(L.head_discrepancy(x), g["labels"], C)
    ),
    "dcfs_loss": _two_heads(lambda x, g: L.dcfs_loss(x, g["labels"])[0], "mapped"),
    "negative_learning_loss": Loss(
        lambda x, g: L.negative_learning_loss(x, g["labels"]), ("positive", "shift", "mapped")
    ),
    "negative_learning_loss mask": Loss(
        lambda x, g: L.negative_learning_loss(x, g["targets"]), ("positive", "shift")
    ),
    "consistency_kl": Loss(
        lambda x, g: L.consistency_kl(g["teacher"], x), ("positive", "shift", "zero")
    ),
    "class_balance_loss": Loss(
        lambda x, g: L.class_balance_loss(jax.nn.softmax(x)), ("shift", "outside")
    ),
    "positive_learning_loss": Loss(
        lambda x, g: sum(L.positive_learning_loss(x, g["labels"], g["u"], g["v"])[:2]), ("shift",)
    ),
    "positive_learning_loss of SOP": Loss(
        lambda x, g: sum(
            L.positive_learning_loss(x, g["labels"], g["u"], g["v"], noise_terms="sop")[:2]
        ),
        ("positive", "shift"),
    ),
    "self_distillation_loss": Loss(
        lambda x, g: L.self_distillation_loss(x, g["teacher"], g["teacher"]),
        ("positive", "shift"),
    ),
    "head_agreement_loss": Loss(lambda x, g: L.head_agreement_loss(x, g["teacher"]), ("shift",)),
    "feature_hint_loss": _features(
        lambda x, g: L.feature_hint_loss(x, g["teacher"]), "positive", "zero"
    ),
    "soft_target_kl": Loss(
        lambda x, g: L.soft_target_kl(x, g["teacher"]), ("positive", "shift", "zero", "mapped")
    ),
    "binary_kl_loss": Loss(
        lambda x, g: L.binary_kl_loss(x, g["teacher"]), ("positive", "zero", "mapped")
    ),
    "binary_kl_norm_loss": Loss(
        lambda x, g: L.binary_kl_norm_loss(x, g["teacher"]), ("positive", "zero", "mapped")
    ),
    "dkd_loss": Loss(
        lambda x, g: L.dkd_loss(x, g["teacher"], g["labels"]), ("positive", "shift", "zero")
    ),
    "rld_loss": Loss(lambda x, g: L.rld_loss(x, g["teacher"], g["labels"]), ("positive", "shift")),
    "transformed_teacher_loss": Loss(
        lambda x, g: L.transformed_teacher_loss(x, g["teacher"]), ("positive", "shift")
    ),
    "standardize_logits": Loss(lambda x, g: L.standardize_logits(x), ("matched", "shift")),
    "dist_loss": Loss(lambda x, g: L.dist_loss(x, g["teacher"]), ("positive", "shift", "zero")),
    "logit_mse_loss": Loss(lambda x, g: L.logit_mse_loss(x, g["teacher"]), ("positive", "zero")),
    "multilabel_bce_loss": Loss(lambda x, g: L.multilabel_bce_loss(x, g["targets"]), ("positive",)),
    "multilabel_logits_distillation_loss": Loss(
        lambda x, g: L.multilabel_logits_distillation_loss(x, g["teacher"]), ("positive", "zero")
    ),
    "asymmetric_loss": Loss(lambda x, g: L.asymmetric_loss(x, g["targets"]), ("positive",)),
    "partial_softmax_distillation_loss": Loss(
        lambda x, g: L.partial_softmax_distillation_loss(x, g["teacher"], g["targets"]), ("zero",)
    ),
    "pairwise_euclidean_distance": _features(
        lambda x, g: jnp.sum(L.pairwise_euclidean_distance(x), axis=-1), "positive"
    ),
    "structural_distance_loss": _features(
        lambda x, g: L.structural_distance_loss(x, g["teacher"]), "positive", "zero"
    ),
    "class_aware_embedding_distillation_loss": _embeddings(
        lambda x, g: L.class_aware_embedding_distillation_loss(x, g["teacher"], g["targets"]),
        "positive",
        "zero",
    ),
    "instance_aware_embedding_distillation_loss": _embeddings(
        lambda x, g: L.instance_aware_embedding_distillation_loss(x, g["teacher"], g["targets"]),
        "positive",
        "zero",
    ),
    "label_embedding_distillation_loss": _embeddings(
        lambda x, g: L.label_embedding_distillation_loss(x, g["teacher"], g["targets"]),
        "positive",
        "zero",
    ),
    "rkd_loss": _features(lambda x, g: L.rkd_loss(x, g["teacher"]), "positive", "zero"),
    "pkt_loss": _features(lambda x, g: L.pkt_loss(x, g["teacher"]), "zero"),
    "review_kd_hcl_loss": _maps(
        lambda x, g: L.review_kd_hcl_loss([x], [g["teacher"]]), "positive", "zero"
    ),
    "attention_transfer_loss": _maps(
        lambda x, g: L.attention_transfer_loss([x], [g["teacher"]]), "positive", "zero"
    ),
    "fitnet_loss": _maps(lambda x, g: L.fitnet_loss(x, g["teacher"]), "positive", "zero"),
    "similarity_preserving_loss": _maps(
        lambda x, g: L.similarity_preserving_loss(x, g["teacher"]), "positive", "zero"
    ),
    "variational_information_loss": _maps(
        lambda x, g: L.variational_information_loss(x, g["teacher"], np.zeros(D, np.float32))
    ),
    # The first similarity is the image's own: columns are not alike.
    "contrastive_loss": Loss(
        lambda x, g: L.contrastive_loss(x, 10, log_normalizer=0.0), ("positive",), axes=(0, None)
    ),
    # The last class is "unknown": classes are not alike.
    "energy_margin_loss": Loss(
        lambda x, g: L.energy_margin_loss(x, g["labels"]), ("positive",), axes=(0, None)
    ),
    "etf_deviation": Loss(lambda x, g: L.etf_deviation(x.T), ("positive",)),
}
EXTREMES = np.array([0.0, 1.0, -1.0, 30.0, -30.0, 1e3, -1e3, 3e4, -3e4])


def _draw(name: str, seed: int, *, extreme: bool = False):
    """(x, the other arguments) of a loss."""
    generator = np.random.default_rng(seed)
    loss = LOSSES[name]

    def numbers():
        if extreme:
            return generator.choice(EXTREMES, loss.shape).astype(np.float32)
        return generator.normal(0, 2, loss.shape).astype(np.float32)

    labels = generator.integers(0, C, B).astype(np.int32)
    targets = generator.integers(0, 2, (B, C)).astype(np.float32)
    targets[np.arange(B), labels] = 1  # every image shows something
    targets[:, 0] = [1, 1, 0, 0, 1, 0]
    return numbers(), {
        "teacher": numbers(),
        "labels": labels,
        "others": generator.integers(0, C, B).astype(np.int32),
        "onehot": np.eye(C, dtype=np.float32)[labels],
        "probs": generator.dirichlet(np.ones(C), B).astype(np.float32),
        "targets": targets,
        "u": generator.uniform(-0.5, 0.5, (B, C)).astype(np.float32),
        "v": generator.uniform(-0.5, 0.5, (B, C)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def evaluate():
    """`(name, x, given, dtype) -> (value, gradient of its sum)`, compiled once for each name."""
    compiled = {}

    def run(name, x, given, dtype=jnp.float32):
        if name not in compiled:

            def both(x, given):
                value, pull_back = jax.vjp(lambda x: LOSSES[name].of(x, given), x)
                return value, pull_back(jnp.ones_like(value))[0]

            compiled[name] = jax.jit(both)
        given = {**given, "teacher": given["teacher"].astype(dtype)}
        return jax.device_get(compiled[name](x.astype(dtype), given))

    return run


def _close(found, expected):
    scale = 1 + np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5 * scale)


@pytest.mark.parametrize("name", LOSSES)
@settings(few)
@given(seed=seeds)
def test_values_and_gradients_are_finite_at_extreme_logits(name, evaluate, seed):
    for dtype in (jnp.float32, jnp.bfloat16):
        value, gradient = evaluate(name, *_draw(name, seed, extreme=True), dtype)
        assert np.isfinite(value).all(), dtype
        assert value.dtype == np.float32
        assert np.isfinite(gradient.astype(np.float32)).all(), dtype


@pytest.mark.parametrize("name", [n for n, loss in LOSSES.items() if "outside" not in loss.holds])
@settings(few)
@given(seed=seeds)
def test_half_precision_is_computed_in_single(name, evaluate, seed):
    x, given = _draw(name, seed)
    x, given["teacher"] = (a.astype(jnp.bfloat16) for a in (x, given["teacher"]))
    value, gradient = evaluate(name, x, given, jnp.bfloat16)
    expected, exact_gradient = evaluate(name, x, given)
    np.testing.assert_allclose(value, expected, rtol=2e-6, atol=1e-6)
    assert gradient.dtype == jnp.bfloat16
    # Terms of a sum give half-precision gradients, which are added up.
    scale = 1 + np.abs(exact_gradient).max()
    np.testing.assert_allclose(gradient.astype(np.float32), exact_gradient, atol=2**-7 * scale)


@pytest.mark.parametrize("name", LOSSES)
def test_compiling_changes_nothing(name, evaluate):
    x, given = _draw(name, 0)
    value, _ = evaluate(name, x, given)
    np.testing.assert_allclose(LOSSES[name].of(x, given), value, rtol=2e-6, atol=5e-7)


@pytest.mark.parametrize("name", [n for n, loss in LOSSES.items() if "mapped" in loss.holds])
def test_vmap_gives_what_each_one_gives_alone(name, evaluate):
    """Each example, of a loss per example; else each of two batches."""
    batches = [_draw(name, seed) for seed in range(2)]
    expected = np.stack([evaluate(name, *batch)[0] for batch in batches])
    mapped = jax.vmap(LOSSES[name].of)
    if expected.ndim > 1:
        mapped = jax.vmap(mapped)
    stacked = jax.tree.map(lambda *each: np.stack(each), *batches)
    values = jax.jit(mapped)(*stacked)
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=5e-7)


@pytest.mark.parametrize("name", LOSSES)
@settings(few)
@given(seed=seeds)
def test_the_order_of_examples_does_not_matter(name, evaluate, seed):
    loss, (x, given) = LOSSES[name], _draw(name, seed)
    order = np.random.default_rng(seed).permutation(B)
    value, _ = evaluate(name, x, given)
    shuffled = {k: v if k == "teacher" else v[order] for k, v in given.items()}
    shuffled["teacher"] = np.take(given["teacher"], order, loss.axes[0])
    moved, _ = evaluate(name, np.take(x, order, loss.axes[0]), shuffled)
    _close(moved, value[order] if value.ndim else value)


@pytest.mark.parametrize("name", [n for n, loss in LOSSES.items() if loss.axes[1]])
@settings(few)
@given(seed=seeds)
def test_the_order_of_classes_does_not_matter(name, evaluate, seed):
    loss, (x, given) = LOSSES[name], _draw(name, seed)
    order = np.random.default_rng(seed).permutation(C)
    value, _ = evaluate(name, x, given)
    shuffled = {k: v[:, order] for k, v in given.items() if v.shape == (B, C)}
    for k in ("labels", "others"):
        shuffled[k] = np.argsort(order).astype(np.int32)[given[k]]
    shuffled["teacher"] = np.take(given["teacher"], order, loss.axes[1])
    moved, _ = evaluate(name, np.take(x, order, loss.axes[1]), shuffled)
    _close(moved, value[..., order] if "matched" in loss.holds else value)


@pytest.mark.parametrize("name", [n for n, loss in LOSSES.items() if "shift" in loss.holds])
@settings(few)
@given(seed=seeds, shift=st.floats(-20, 20, width=32))
def test_a_number_added_to_all_logits_of_an_example_changes_nothing(name, evaluate, seed, shift):
    x, given = _draw(name, seed)
    value, gradient = evaluate(name, x, given)
    by_row = np.float32(shift) * np.arange(B, dtype=np.float32)[:, None] / B
    moved, _ = evaluate(name, x + by_row, given)
    _close(moved, value)
    if "matched" not in LOSSES[name].holds:
        _close(1 + gradient.sum(axis=-1), np.ones(B, np.float32))


@pytest.mark.parametrize("name", [n for n, loss in LOSSES.items() if "positive" in loss.holds])
@settings(few)
@given(seed=seeds, extreme=st.booleans())
def test_never_below_zero(name, evaluate, seed, extreme):
    value, _ = evaluate(name, *_draw(name, seed, extreme=extreme))
    assert value.min() >= (-1e-5 if not extreme else -1e-5 * (1 + np.abs(value).max()))


@pytest.mark.parametrize("name", [n for n, loss in LOSSES.items() if "zero" in loss.holds])
@settings(few)
@given(seed=seeds)
def test_zero_with_no_slope_where_student_and_teacher_agree(name, evaluate, seed):
    _, given = _draw(name, seed)
    value, gradient = evaluate(name, given["teacher"], given)
    np.testing.assert_allclose(value, 0, atol=2e-5)
    np.testing.assert_allclose(gradient, 0, atol=2e-4)


LABELLED = ("evidential_nll", "edl_nll", "edl_loss nll", "edl_loss digamma", "edl_loss mse")


@pytest.mark.parametrize("name", LABELLED)
@settings(few)
@given(seed=seeds)
def test_more_evidence_for_the_label_never_costs(name, evaluate, seed):
    x, given = _draw(name, seed)
    value, gradient = evaluate(name, x, given)
    at_label = gradient[np.arange(B), given["labels"]]
    assert at_label.max() <= 1e-6
    raised = x + given["onehot"]
    assert np.all(evaluate(name, raised, given)[0] <= value + 1e-5)


@pytest.mark.parametrize("name", ["multilabel_bce_loss", "asymmetric_loss"])
@settings(few)
@given(seed=seeds)
def test_certainty_about_the_truth_costs_nothing(name, evaluate, seed):
    _, given = _draw(name, seed)
    certain = (60 * given["targets"] - 30).astype(np.float32)
    np.testing.assert_allclose(evaluate(name, certain, given)[0], 0, atol=1e-6)


@settings(few)
@given(seed=seeds)
def test_sharpening_orders_and_limits(seed):
    probs = np.random.default_rng(seed).dirichlet(np.ones(C), B).astype(np.float32)
    sharp = np.asarray(L.sharpen(probs))
    np.testing.assert_allclose(sharp.sum(axis=-1), 1, rtol=1e-5)
    assert np.array_equal(sharp.argmax(axis=-1), probs.argmax(axis=-1))
    assert np.all(sharp.max(axis=-1) >= probs.max(axis=-1) - 1e-6)
    np.testing.assert_allclose(L.sharpen(probs, temperature=1.0), probs, rtol=1e-5, atol=1e-7)


@settings(few)
@given(seed=seeds)
def test_aligned_gradients_do_not_conflict(seed):
    generator = np.random.default_rng(seed)
    cls, kd = ({"a": generator.normal(size=(2, 3)), "b": generator.normal(size=4)} for _ in "ab")
    cls, kd = jax.tree.map(np.float32, (cls, kd))
    merged = L.align_gradients(cls, kd)
    cosine = float(L.gradient_cosine(cls, kd))
    assert -1 - 1e-6 <= cosine <= 1 + 1e-6
    if cosine >= 0:
        jax.tree.map(
            lambda m, a, b: np.testing.assert_allclose(m, a + b, rtol=1e-5), merged, cls, kd
        )
    assert float(L.gradient_cosine(merged, cls)) >= -1e-5


@settings(few)
@given(seed=seeds)
def test_complementary_labels_are_never_the_label(seed):
    key, labels = jax.random.key(seed), np.random.default_rng(seed).integers(0, C, B)
    drawn = np.asarray(L.sample_complementary_labels(key, jnp.asarray(labels), C))
    assert np.all((drawn != labels) & (0 <= drawn) & (drawn < C))
    logits = jax.random.normal(key, (B, C))
    for mode in ("all_but_label", "all_but_label_and_top", "random"):
        mask = np.asarray(
            L.complementary_label_mask(jnp.asarray(labels), logits, mode=mode, key=key)
        )
        assert set(np.unique(mask)) <= {0, 1} and not mask[np.arange(B), labels].any()
    is_labeled = np.arange(B) % 2 == 0
    targets = np.asarray(L.random_label_targets(key, jnp.asarray(labels), is_labeled, C))
    assert np.all(targets[is_labeled] != labels[is_labeled])
    assert np.all((0 <= targets) & (targets < C))


# ------------------------------------------------------------------------------ selection

N = 24


@settings(few)
@given(seed=seeds, budget=st.integers(0, 30))
def test_the_lowest_are_selected_in_order_and_only_where_allowed(seed, budget):
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 8, N).astype(np.float32)
    where = generator.random(N) < 0.6
    chosen = S.select_lowest(scores, budget, where=where)
    assert len(chosen) == len(set(chosen.tolist())) == min(budget, where.sum())
    assert where[chosen].all()
    order = [(scores[i], i) for i in chosen.tolist()]
    assert order == sorted(order)  # ties: the lower index first
    left = np.setdiff1d(np.flatnonzero(where), chosen)
    if len(left) and len(chosen):
        assert scores[left].min() >= scores[chosen].max()


@settings(few)
@given(seed=seeds, budget=st.integers(1, 30), balanced=st.booleans(), kappa=st.floats(1, 6))
def test_coarse_to_fine_chooses_among_its_candidates(seed, budget, balanced, kappa):
    generator = np.random.default_rng(seed)
    coarse, fine = generator.random((2, N)).astype(np.float32)
    where = generator.random(N) < 0.7
    options = {"predictions": generator.integers(0, 3, N), "num_classes": 3} if balanced else {}
    candidates, selected = S.select_coarse_to_fine(
        coarse, fine, budget, kappa=kappa, where=where, **options
    )
    assert set(selected.tolist()) <= set(candidates.tolist()) <= set(np.flatnonzero(where).tolist())
    assert len(selected) == len(set(selected.tolist())) == min(budget, where.sum())
    assert np.array_equal(candidates, np.sort(candidates))


_k_center_greedy = jax.jit(S.k_center_greedy, static_argnums=2)
_badge_select = jax.jit(S.badge_select, static_argnums=3)


@settings(few)
@given(seed=seeds)
def test_diverse_choices_are_distinct(seed):
    generator = np.random.default_rng(seed)
    features, labeled = (generator.normal(size=(n, D)).astype(np.float32) for n in (N, 4))
    logits = generator.normal(size=(N, C)).astype(np.float32)
    centres = np.asarray(_k_center_greedy(features, labeled, 6))
    badge = np.asarray(_badge_select(jax.random.key(seed), logits, features, 6))
    for chosen in (centres, badge):
        assert len(set(chosen.tolist())) == 6 and np.all((0 <= chosen) & (chosen < N))
    distance = np.linalg.norm(features[:, None] - labeled[None], axis=-1).min(axis=1)
    np.testing.assert_allclose(distance[centres[0]], distance.max(), rtol=1e-5)


@settings(few)
@given(seed=seeds, scale=st.floats(0.1, 50), shift=st.floats(-20, 20))
def test_normalised_scores_fill_the_unit_interval(seed, scale, shift):
    generator = np.random.default_rng(seed)
    x, where = generator.normal(size=N).astype(np.float32), generator.random(N) < 0.6
    where[:2] = True
    found = np.asarray(S.min_max_normalize(x, where=where))[where]
    assert found.min() == 0 and found.max() == 1
    assert np.array_equal(np.argsort(found, kind="stable"), np.argsort(x[where], kind="stable"))
    changed = np.where(where, np.float32(scale) * x + np.float32(shift), np.float32(1e6))
    again = np.asarray(S.min_max_normalize(changed, where=where))[where]
    np.testing.assert_allclose(again, found, atol=1e-3)


@settings(few)
@given(seed=seeds)
def test_the_mixture_is_two_ordered_normals_whatever_the_order_of_the_data(seed):
    generator = np.random.default_rng(seed)
    x = np.concatenate([generator.normal(0, 0.1, 12), generator.normal(1, 0.1, 12)])
    x = x.astype(np.float32)
    mixture = S.fit_gaussian_mixture_1d(x)
    assert mixture.means[0] <= mixture.means[1] and np.all(np.asarray(mixture.variances) > 0)
    np.testing.assert_allclose(np.sum(mixture.weights), 1, rtol=1e-5)
    posterior = np.asarray(S.gaussian_mixture_posterior(x, mixture))
    np.testing.assert_allclose(posterior.sum(axis=1), 1, rtol=1e-5)
    order = generator.permutation(N)
    shuffled = S.fit_gaussian_mixture_1d(x[order])
    np.testing.assert_allclose(shuffled.means, mixture.means, rtol=1e-4, atol=1e-5)
    probability = np.asarray(S.gaussian_mixture_posterior(np.float32([1e4, -1e4]), mixture))
    assert np.isfinite(probability).all()
    assert set(np.unique(S.select_clean(posterior[:, 1]))) <= {False, True}


@jax.jit
def _uncertainties(logits):
    log_alpha = L.dirichlet_log_alpha(logits)
    heads = S.merge_heads(log_alpha), S.merge_heads(log_alpha[::-1])
    others = S.vacuity(log_alpha), S.differential_entropy(log_alpha)
    return S.dirichlet_uncertainties(log_alpha), others, heads


@settings(few)
@given(seed=seeds, extreme=st.booleans())
def test_uncertainties_add_up(seed, extreme):
    generator = np.random.default_rng(seed)
    logits = generator.choice(EXTREMES, (2, N, C)) if extreme else generator.normal(size=(2, N, C))
    found = jax.device_get(_uncertainties(np.float32(logits)))
    (total, data, dist), (empty, entropy), (merged, swapped) = found
    np.testing.assert_allclose(total, data + dist, atol=1e-4)
    for x in (total, data, dist):
        assert np.isfinite(x).all() and x.min() >= -1e-5 and x.max() <= np.log(C) + 1e-4
    assert np.all((0 < empty) & (empty <= 1 + 1e-6))
    assert np.isfinite(entropy).all()
    for x, y in zip(merged, swapped, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@settings(few)
@given(seed=seeds, kind=st.sampled_from(["weighted_sum", "product", "rank_sum", "data", "dist"]))
def test_a_coarse_score_rises_with_uncertainty(seed, kind):
    generator = np.random.default_rng(seed)
    data, dist = generator.random((2, N)).astype(np.float32)
    where = generator.random(N) < 0.7
    where[:2] = True
    score = np.asarray(S.coarse_score(data, dist, kind=kind, where=where))
    least, most = np.flatnonzero(where)[:2]
    data[[least, most]] = dist[[least, most]] = [-1.0, 2.0]
    score = np.asarray(S.coarse_score(data, dist, kind=kind, where=where))
    assert score[least] == score[where].min() and score[most] == score[where].max()
    outside = np.where(where, data, np.float32(99))
    again = np.asarray(S.coarse_score(outside, dist, kind=kind, where=where))
    np.testing.assert_array_equal(again[where], score[where])


@settings(few)
@given(seed=seeds, kind=st.sampled_from(["lc", "margin", "entropy"]))
def test_confidence_is_highest_for_certainty(seed, kind):
    probs = np.random.default_rng(seed).dirichlet(np.ones(C), N).astype(np.float32)
    probs[0], probs[1] = np.eye(C)[2], np.full(C, 1 / C)
    confidence = np.asarray(S.classifier_confidence(probs, kind))
    assert np.isfinite(confidence).all()
    assert confidence[0] == confidence.max()
    np.testing.assert_allclose(confidence[1], confidence.min(), atol=1e-6)
    order = np.random.default_rng(seed).permutation(C)
    np.testing.assert_allclose(
        S.classifier_confidence(probs[:, order], kind), confidence, rtol=1e-5, atol=1e-6
    )
    assert np.asarray(S.predicted_unknown(probs)).dtype == bool


@settings(few)
@given(seed=seeds, precision=st.floats(0, 1, width=32), rule=st.sampled_from(["code", "paper"]))
def test_bidirectional_scores_sort_what_is_left_out_last(seed, precision, rule):
    generator = np.random.default_rng(seed)
    neg, pos, unknown = generator.random((3, N)).astype(np.float32)
    where = generator.random(N) < 0.7
    where[:2] = True
    score = np.asarray(
        S.bidirectional_score(neg, pos, precision, unknown_prob=unknown, where=where, rule=rule)
    )
    assert np.isfinite(score[where]).all() and np.all(score[~where] == np.inf)


@settings(few)
@given(seed=seeds, low=st.floats(0, 0.5), high=st.floats(0.5, 1))
def test_weights_rates_and_flags_of_negative_learning(seed, low, high):
    generator = np.random.default_rng(seed)
    probs = generator.random(N).astype(np.float32)
    weights = np.asarray(S.weights_from_nl_probs(probs))
    assert np.all(weights >= 0) and np.isfinite(weights).all()
    assert np.array_equal(np.argsort(weights, kind="stable"), np.argsort(probs, kind="stable"))
    np.testing.assert_array_equal(S.weights_from_nl_probs(np.full(N, 0.3, np.float32)), np.ones(N))
    rates = [float(S.estimate_noise_rate(probs, threshold=t)) for t in (low, high)]
    assert 0 <= rates[0] <= rates[1] <= 1
    logits, labels = generator.normal(size=(N, C)).astype(np.float32), generator.integers(0, C, N)
    few_flags, many = (
        np.asarray(S.detect_noisy_labels(logits, labels, threshold=t)) for t in (low, high)
    )
    assert np.all(few_flags <= many)
    margin = np.asarray(S.logit_margin(logits, labels))
    assert np.array_equal(margin > 0, logits.argmax(axis=1) == labels)


# ------------------------------------------------------------------------- splits and noise


@settings(few)
@given(seed=seeds, num_known=st.integers(2, 8), fraction=st.floats(0.05, 1))
def test_splits_are_disjoint_complete_and_the_same_again(seed, num_known, fraction):
    labels = np.random.default_rng(seed).integers(0, 8, 200)
    options = dict(num_classes=8, num_known=num_known, init_fraction=fraction, seed=seed)
    split, again = (open_set_split(labels, labels[:50], **options) for _ in range(2))
    assert sorted(split.known_classes) == list(range(num_known))
    known = labels < num_known
    assert np.array_equal(split.targets[known], labels[known])
    assert np.all(split.targets[~known] == num_known)
    assert known[split.labeled].all()
    assert np.array_equal(split.test_known, labels[:50] < num_known)
    for name in ("targets", "labeled", "test_targets", "test_known"):
        np.testing.assert_array_equal(getattr(split, name), getattr(again, name))


NOISES = {
    "symmetric": lambda labels, rate, seed: noise.symmetric_noise(labels, rate, seed, 10),
    "uniform": lambda labels, rate, seed: noise.flip_labels(
        labels, noise.symmetric_transition(rate, 10), seed
    ),
    "pairflip": lambda labels, rate, seed: noise.flip_labels(
        labels, noise.pairflip_transition(rate, 10), seed
    ),
    "cifar10": noise.asymmetric_noise_cifar10,
}


@pytest.mark.parametrize("kind", NOISES)
@settings(few)
@given(seed=seeds, rate=st.sampled_from([0.0, 0.2, 0.45]))
def test_noise_is_the_same_again_and_leaves_its_input(kind, seed, rate):
    labels = np.random.default_rng(seed).integers(0, 10, 300)
    before = labels.copy()
    noisy, again = (np.asarray(NOISES[kind](labels, rate, seed)) for _ in range(2))
    assert np.array_equal(labels, before) and np.array_equal(noisy, again)
    assert noisy.shape == labels.shape and np.all((0 <= noisy) & (noisy < 10))
    assert np.mean(noisy != labels) <= rate + 0.15
    if rate == 0:
        assert np.array_equal(noisy, labels)
    matrix = noise.transition_matrix(labels, noisy, 10)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)


@settings(few)
@given(seed=seeds, epoch=st.integers(0, 1000))
def test_an_epoch_visits_every_example_once_in_an_order_of_its_own(seed, epoch):
    order, again, next_ = (
        rng.generator(seed, "order", e).permutation(100) for e in (epoch, epoch, epoch + 1)
    )
    assert np.array_equal(np.sort(order), np.arange(100))
    assert np.array_equal(order, again) and not np.array_equal(order, next_)
