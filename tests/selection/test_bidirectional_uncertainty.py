import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.selection import (
    bidirectional_score,
    classifier_confidence,
    min_max_normalize,
    predicted_unknown,
    select_lowest,
)

KINDS = ("lc", "margin", "entropy")
SCORE_CASES = [f"score{i}" for i in range(7)]
ROUND_CASES = [f"round{i}" for i in range(6)]
confidence = jax.jit(classifier_confidence, static_argnums=1)
normalize = jax.jit(min_max_normalize)
score_fn = jax.jit(bidirectional_score, static_argnames="rule")


def random_candidates(seed, size=40):
    """Two confidences, an unknown-class probability and a precision."""
    rng = np.random.default_rng(seed)
    columns = rng.uniform(size=(3, size)).astype(np.float32)
    return *(jnp.asarray(c) for c in columns), np.float32(rng.uniform())


# Recorded outputs of the authors' code.


@jax.jit
def _scores(nl_logits, pl_logits, ratio, unknown_prob):
    """Of every kind, the two confidences and their score."""
    neg_probs = jnp.mean(jax.nn.softmax(nl_logits), axis=0)
    pos_probs = jax.nn.softmax(pl_logits)
    found = {}
    for kind in KINDS:
        conf_neg, conf_pos = confidence(neg_probs, kind), confidence(pos_probs, kind)
        score = score_fn(conf_neg, conf_pos, ratio, unknown_prob=unknown_prob)
        assert conf_neg.dtype == score.dtype == nl_logits.dtype
        found[kind] = {
            "conf_neg": normalize(conf_neg),
            "conf_pos": normalize(conf_pos),
            "score": score,
        }
    return found


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", SCORE_CASES)
def test_score_golden(load_golden, x64, case, dtype):
    golden = load_golden("bual")
    close = {"rtol": 0, "atol": 1e-6 if dtype == np.float64 else 1e-5}
    unknown_prob = None
    if golden[case, "has_aux"]:
        unknown_prob = golden[case, "aux_unknown_prob"].astype(dtype)
    budget = int(golden[case, "query_size"])
    given = (golden[case, name].astype(dtype) for name in ("nl_logits", "pl_logits", "ratio"))
    for kind, found in _scores(*given, unknown_prob).items():
        for name, actual in found.items():
            assert actual.dtype == dtype
            np.testing.assert_allclose(actual, golden[case, f"{kind}/{name}"], **close)
        selected = golden[case, "pool_index"][select_lowest(found["score"], budget)]
        assert len(set(selected)) == budget
        # Float32 may swap near ties.
        if dtype == np.float64 and (case, f"{kind}/selected") in golden:
            assert set(selected) == set(golden[case, f"{kind}/selected"])


def test_confidence_golden(load_golden, x64):
    """As the baselines use it: least confidence and entropy are recorded as uncertainties."""
    golden = load_golden("bual")
    probs = jax.nn.softmax(golden["base0", "logits"])
    np.testing.assert_allclose(1 - confidence(probs, "lc"), golden["base0", "lc"], atol=1e-12)
    np.testing.assert_allclose(confidence(probs, "margin"), golden["base0", "margin"], atol=1e-12)
    np.testing.assert_allclose(-confidence(probs, "entropy"), golden["base0", "entropy"], atol=1e-8)


@pytest.mark.parametrize("case", ROUND_CASES)
def test_round_golden(load_golden, x64, case):
    """A whole selection round from recorded logits, the oracle's early stop included."""
    golden = load_golden("bual")
    pool, is_known = golden[case, "pool_index"], golden[case, "is_known"]
    kind, budget = str(golden[case, "kind"]), int(golden[case, "query_size"])
    neg_probs = np.asarray(jax.nn.softmax(golden[case, "nl_logits"]))
    conf_pos = confidence(jax.nn.softmax(golden[case, "pl_logits"]), kind)
    candidate, unknown_prob = np.ones(len(pool), bool), None
    if golden[case, "has_aux"]:
        aux_probs = jax.nn.softmax(golden[case, "aux_logits"])
        candidate, unknown_prob = ~np.asarray(predicted_unknown(aux_probs)), aux_probs[:, -1]
        assert set(pool[~candidate]) == set(golden[case, "aux_predicted_unknown"])
        np.testing.assert_allclose(unknown_prob[candidate], golden[case, "aux_kept_prob"])
    np.testing.assert_array_equal(pool[candidate], golden[case, "candidate_index"])

    interval, counts, unchanged = int(golden[case, "eval_interval"]), [], 0
    for done in range(1, len(neg_probs) + 1):
        # By NumPy, since every length of a mean in JAX is compiled anew.
        probs = np.mean(neg_probs[:done], axis=0)
        score = score_fn(
            confidence(probs, kind),
            conf_pos,
            golden[case, "ratio_in"],
            unknown_prob=unknown_prob,
            where=candidate,
        )
        picked = select_lowest(score, budget)
        known = int(np.sum(is_known[picked]))
        unchanged = unchanged + 1 if known == (counts[-1] if counts else 0) else 0
        counts.append(known)
        if unchanged == 5:
            break
    eval_epochs = interval * np.arange(done)
    trained = eval_epochs[-1] + (unchanged < 5)

    np.testing.assert_array_equal(eval_epochs, golden[case, "eval_epochs"])
    assert trained == golden[case, "n_train_epochs"]
    np.testing.assert_array_equal(counts, golden[case, "known_counts"])
    np.testing.assert_allclose(done * probs[candidate], golden[case, "prob_sum"], atol=1e-6)
    np.testing.assert_allclose(score[candidate], golden[case, "score"], atol=1e-6)
    selected = pool[picked]
    assert len(selected) == min(budget, candidate.sum())
    assert set(selected) == set(golden[case, "selected"])
    np.testing.assert_allclose(is_known[picked].mean(), golden[case, "ratio_out"])
    for name, asked, left in (
        ("labeled", is_known, "unlabeled_known"),
        ("unknown_labeled", ~is_known, "unlabeled_unknown"),
    ):
        revealed = set(pool[picked][asked[picked]])
        before = set(golden[case, f"{name}_in"])
        assert before | revealed == set(golden[case, f"{name}_out"])
        assert set(pool[asked]) - revealed == set(golden[case, f"{left}_out"])


# Confidence.


def test_confidence_by_hand():
    probs = jnp.array([[0.2, 0.7, 0.1], [0.4, 0.4, 0.2]])
    np.testing.assert_allclose(classifier_confidence(probs, "lc"), [0.7, 0.4])
    np.testing.assert_allclose(classifier_confidence(probs, "margin"), [0.5, 0.0], atol=1e-7)
    entropy = np.sum(probs * np.log(probs), axis=-1)
    np.testing.assert_allclose(classifier_confidence(probs, "entropy"), entropy, rtol=1e-5)
    certain = classifier_confidence(jnp.array([[0.0, 1.0]]), "entropy")
    np.testing.assert_allclose(certain, 0.0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_sum_and_mean_of_evaluations_agree(x64, kind):
    probs = np.random.default_rng(0).dirichlet(np.ones(4), size=(5, 30))
    of_sum = normalize(confidence(probs.sum(axis=0), kind))
    of_mean = normalize(confidence(probs.mean(axis=0), kind))
    np.testing.assert_allclose(of_sum, of_mean, atol=1e-6)


def test_two_classes_make_lc_and_margin_alike(x64):
    probs = np.random.default_rng(1).dirichlet(np.ones(2), size=30)
    lc, margin = (normalize(confidence(probs, k)) for k in ("lc", "margin"))
    np.testing.assert_allclose(lc, margin, atol=1e-12)
    np.testing.assert_array_equal(select_lowest(lc, 9), select_lowest(margin, 9))


def test_predicted_unknown():
    probs = jnp.array([[0.1, 0.2, 0.7], [0.5, 0.1, 0.4], [0.1, 0.45, 0.45]])
    np.testing.assert_array_equal(predicted_unknown(probs), [True, False, False])


# Normalisation.


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.floats(0.1, 50.0), st.floats(-50.0, 50.0))
def test_min_max(seed, scale, shift):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=12), jnp.float32)
    unit = normalize(x)
    assert jnp.min(unit) == 0 and jnp.max(unit) == 1
    moved = normalize(jnp.float32(scale) * x + jnp.float32(shift))
    np.testing.assert_allclose(moved, unit, atol=1e-3)
    where = np.arange(12) < 7
    np.testing.assert_array_equal(np.argsort(unit), np.argsort(x))
    huge = normalize(x + jnp.asarray(np.where(where, 0, 1e9), x.dtype), where=where)
    np.testing.assert_allclose(huge[:7], normalize(x[:7]), atol=1e-6)


def test_min_max_of_equal_scores():
    np.testing.assert_array_equal(normalize(jnp.full(3, 2.0)), 0)
    np.testing.assert_array_equal(normalize(jnp.full(3, 2.0), constant=1.0), 1)
    where = jnp.array([True, False, True])
    one_valid = normalize(jnp.array([2.0, 9.0, 2.0]), where=where)
    np.testing.assert_array_equal(one_valid[where], 0)


# Score.


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 10_000))
def test_score_limits_and_identity(seed):
    conf_neg, conf_pos, unknown, precision = random_candidates(seed)
    c_n, c_p, a = (normalize(x) for x in (conf_neg, conf_pos, unknown))
    with_aux = score_fn(conf_neg, conf_pos, precision, unknown_prob=unknown)
    without = score_fn(conf_neg, conf_pos, precision)
    assert np.all((with_aux >= 0) & (with_aux <= 1))
    assert np.all((without >= 0) & (without <= 1 + precision))
    np.testing.assert_array_equal(score_fn(conf_neg, conf_pos, 0.0), c_n)
    np.testing.assert_allclose(with_aux[jnp.argmax(a)], c_n[jnp.argmax(a)], atol=1e-6)
    np.testing.assert_allclose(with_aux[jnp.argmin(a)], precision * c_p[jnp.argmin(a)], atol=1e-6)
    paper = score_fn(conf_neg, conf_pos, precision, unknown_prob=unknown, rule="paper")
    np.testing.assert_allclose(-paper, precision + (1 - precision) * a - with_aux, atol=1e-6)
    np.testing.assert_allclose(
        -score_fn(conf_neg, conf_pos, precision, rule="paper"), 1 + precision - without, atol=1e-6
    )


def test_paper_rule_is_less_pure():
    conf_neg, conf_pos, unknown, _ = random_candidates(0, 2000)

    def chosen(precision, rule):
        score = score_fn(conf_neg, conf_pos, precision, unknown_prob=unknown, rule=rule)
        return select_lowest(score, 200)

    mean_unknown = {rule: np.mean(unknown[chosen(0.3, rule)]) for rule in ("code", "paper")}
    assert mean_unknown["code"] < 0.5 < 0.75 < mean_unknown["paper"]
    assert set(chosen(1.0, "code")) == set(chosen(1.0, "paper"))


@pytest.mark.parametrize("rule", ["code", "paper"])
def test_masked_score_equals_the_unmasked_one(rule):
    columns = random_candidates(2)
    where = np.random.default_rng(3).uniform(size=40) < 0.6
    outlier = jnp.asarray(np.where(where, 0, 1e9), jnp.float32)
    conf_neg, conf_pos, unknown = (x + outlier for x in columns[:3])
    masked = score_fn(conf_neg, conf_pos, 0.4, unknown_prob=unknown, where=where, rule=rule)
    kept = bidirectional_score(
        *(x[where] for x in columns[:2]), 0.4, unknown_prob=columns[2][where], rule=rule
    )
    np.testing.assert_allclose(masked[where], kept, atol=1e-6)
    assert np.all(masked[~where] == np.inf)
    positions = np.flatnonzero(where)[select_lowest(kept, 40)]
    np.testing.assert_array_equal(select_lowest(masked, 40), positions)


def test_precision_may_be_traced_without_a_new_program():
    conf_neg, conf_pos, _, _ = random_candidates(4)
    traces = []

    @jax.jit
    def score(precision):
        traces.append(precision)
        return bidirectional_score(conf_neg, conf_pos, precision)

    for precision in (0.0, 0.5, 1.0):
        np.testing.assert_allclose(
            score(precision), bidirectional_score(conf_neg, conf_pos, precision), atol=1e-6
        )
    assert len(traces) == 1


def test_half_precision_is_scored_in_float32():
    conf_neg, conf_pos, unknown, _ = (jnp.asarray(x, jnp.bfloat16) for x in random_candidates(5))
    score = bidirectional_score(conf_neg, conf_pos, 0.5, unknown_prob=unknown)
    probs = classifier_confidence(jnp.full((2, 3), 0.3, jnp.float16), "entropy")
    assert score.dtype == probs.dtype == jnp.float32


# Selection.


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(0, 15))
def test_select_lowest(seed, budget):
    rng = np.random.default_rng(seed)
    scores = rng.integers(5, size=12) / 4
    where = rng.uniform(size=12) < 0.7
    chosen = select_lowest(scores, budget, where=where)
    assert len(chosen) == len(set(chosen)) == min(budget, where.sum())
    assert where[chosen].all()
    # Ascending; among equals the lower position first.
    order = list(zip(scores[chosen], chosen, strict=True))
    assert order == sorted(order)
    left = np.setdiff1d(np.flatnonzero(where), chosen)
    assert not chosen.size or not left.size or scores[chosen].max() <= scores[left].min()
    distinct = rng.permutation(12) + scores / 100
    shuffle = rng.permutation(12)
    np.testing.assert_array_equal(
        shuffle[select_lowest(distinct[shuffle], budget, where=where[shuffle])],
        select_lowest(distinct, budget, where=where),
    )


def test_infinite_scores_are_no_candidates():
    np.testing.assert_array_equal(select_lowest([np.inf, 2.0, -np.inf], 3), [2, 1])
    assert select_lowest([], 3).size == 0


def test_errors():
    with pytest.raises(ValueError, match="did you mean 'margin'"):
        classifier_confidence(jnp.ones((2, 3)), "margins")
    with pytest.raises(ValueError, match="at least two classes"):
        classifier_confidence(jnp.ones((2, 1)), "margin")
    with pytest.raises(ValueError, match="did you mean 'paper'"):
        bidirectional_score(jnp.ones(2), jnp.ones(2), 0.5, rule="papers")
    with pytest.raises(ValueError, match="must not be negative"):
        select_lowest([1.0], -1)
    with pytest.raises(ValueError, match="NaN"):
        select_lowest([1.0, np.nan], 1)
    assert select_lowest([1.0, np.nan], 1, where=[True, False]) == [0]
