"""BUAL in the active-learning task: recorded rounds, phases, evaluations, interruption."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import bual as recipe
from jaxrobust import tasks
from jaxrobust.engine.run import Run
from jaxrobust.errors import UserError
from jaxrobust.methods import bual
from jaxrobust.methods.strategy import NOT_ANNOTATED, AnnotationProblem, QueryContext, cross_entropy
from jaxrobust.recipes.bual import Bual
from jaxrobust.recipes.parse import parse
from jaxrobust.tasks import active_learning

pytestmark = pytest.mark.usefixtures(
    "one_device", "tiny_network", "shared_programs", "unrendered_figures"
)


def _config(**changes):
    config = recipe.get_config("digits")
    config.writers = ("jsonl",)
    config.model.name = "tiny"
    config.num_epochs = 3
    config.al.rounds = 3
    config.al.query_size = 20
    config.bual.nl_epochs = 4
    config.bual.eval_interval = 2
    config.bual.subset_size = 60
    config.update_from_flattened_dict(changes)
    return config


PROBLEM = AnnotationProblem(
    num_classes=4,
    input_shape=(8, 8, 3),
    dtype=jnp.float32,
    budget=5,
    truth=np.array([0, 1, 4, 4, 2, 3, 4, 0]),
)


def _context(num_classes=4, **fields):
    """A round in which only what is given may be looked at."""
    size = len(fields["in_pool"])
    defaults = {
        "predict": lambda name: pytest.fail(f"looked at {name}"),
        "observed": lambda name: pytest.fail(f"looked at {name}"),
        "trained": frozenset(),
        "annotations": np.where(fields["in_pool"], NOT_ANNOTATED, num_classes).astype(np.int32),
        "budget": size,
        "round": 0,
        "precisions": (),
        "rng": np.random.default_rng(0),
        "jit": lambda name, function: jax.jit(function),
    }
    return QueryContext(**(defaults | fields))


# Recorded outputs of the authors' code.


@pytest.mark.parametrize("stop_rule", ["oracle", "none"])
@pytest.mark.parametrize("case", [f"round{i}" for i in range(6)])
def test_round_golden(load_golden, x64, case, stop_rule):
    """The query and its early stop, from recorded logits."""
    golden = load_golden("bual")
    if (case, stop_rule) == ("round4", "none"):
        pytest.skip("recorded with the early stop, which fires in this round")
    pool, is_known = golden[case, "pool_index"], golden[case, "is_known"]
    num_classes = golden[case, "pl_logits"].shape[1]
    size = int(pool.max()) + 3
    in_pool = np.zeros(size, bool)
    in_pool[pool] = True
    truth = np.full(size, NOT_ANNOTATED)
    truth[pool] = np.where(is_known, 0, num_classes)

    def spread(rows, fill):
        table = np.full((size, *rows.shape[1:]), fill)
        table[pool] = rows
        return jnp.asarray(table)

    config = _config(
        **{
            "bual.base": str(golden[case, "kind"]),
            "bual.nl_epochs": int(golden[case, "nl_epochs"]),
            "bual.eval_interval": int(golden[case, "eval_interval"]),
            "bual.stop_rule": stop_rule,
        }
    )
    problem = AnnotationProblem(
        num_classes, (8, 8, 3), jnp.float32, int(golden[case, "query_size"]), truth
    )
    strategy = bual.build(parse(config), problem)
    negative = strategy.phases[-1]
    has_aux = bool(golden[case, "has_aux"])
    # Rows outside the pool are extreme: nothing may depend on them.
    logits = {"target": spread(golden[case, "pl_logits"], 50.0)}
    logits["aux"] = jnp.zeros((size, num_classes + 1))
    if has_aux:
        logits["aux"] = spread(golden[case, "aux_logits"], 50.0)
    total, eval_epochs, known_counts, verdicts, num_trained = 0.0, [], [], [], 0
    programs = {}

    def context():
        return _context(
            num_classes,
            in_pool=in_pool,
            budget=problem.budget,
            predict=logits.__getitem__,
            observed=lambda name: (spread(total, 0.0) / len(eval_epochs), len(eval_epochs)),
            trained=frozenset(("aux",) if has_aux else ()) | {"target", "negative"},
            precisions=(float(golden[case, "ratio_in"]),),
            jit=lambda name, function: programs.setdefault(name, jax.jit(function)),
        )

    for epoch in range(negative.num_epochs):
        if negative.observation.due(epoch):
            evaluation = golden[case, "nl_logits"][len(eval_epochs)]
            total = total + np.asarray(negative.observation.measure(evaluation))
            eval_epochs.append(epoch)
            query = strategy.query(context())
            known_counts.append(int(np.sum(truth[query.ids] < num_classes)))
            if stop_rule == "oracle":
                verdicts.append(negative.observation.verdict(context()))
                if negative.observation.settled(verdicts):
                    break
        num_trained += 1

    np.testing.assert_array_equal(eval_epochs, golden[case, "eval_epochs"])
    assert num_trained == golden[case, "n_train_epochs"]
    np.testing.assert_array_equal(known_counts, golden[case, "known_counts"])
    assert query.notes["num_evaluations"] == len(eval_epochs)
    candidates = golden[case, "candidate_index"]
    np.testing.assert_array_equal(np.flatnonzero(query.scores["score"] < np.inf), candidates)
    np.testing.assert_allclose(query.scores["score"][candidates], golden[case, "score"], atol=1e-6)
    assert ("unknown_prob" in query.scores) == has_aux
    assert set(query.ids) == set(golden[case, "selected"])


@pytest.mark.parametrize("case", ["subset0", "subset1", "subset2"])
def test_stratified_subset_golden(load_golden, case):
    golden = load_golden("bual")
    counts = [int(golden[case, f"n_unlabeled_{name}"]) for name in ("known", "unknown")]
    is_known = np.random.default_rng(0).permutation(np.repeat([True, False], counts))
    pool = 7 + 2 * np.arange(len(is_known))
    size = int(golden[case, "subset_size"])
    rng = np.random.default_rng(1)
    subset = bual.sample_unlabeled_subset(rng, pool, size, is_known=is_known)
    assert len(set(subset)) == len(subset)
    assert int(is_known[(subset - 7) // 2].sum()) == golden[case, "n_subset_known"]
    assert int((~is_known[(subset - 7) // 2]).sum()) == golden[case, "n_subset_unknown"]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", ["ce0", "ce1"])
def test_cross_entropy_golden(load_golden, x64, case, dtype):
    golden = load_golden("bual")
    logits, labels = golden[case, "logits"].astype(dtype), golden[case, "labels"]
    # A row of padding changes nothing.
    logits = np.concatenate([logits, np.full_like(logits[:1], 9)])
    labels = np.append(labels, NOT_ANNOTATED)

    def loss_of(logits, labels):
        return cross_entropy(logits, labels, labels >= 0, jax.random.key(0))

    logits = jnp.asarray(logits)
    (value, _), grad = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(logits, labels)
    tolerance = 1e-6 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(value, golden[case, "loss"], rtol=tolerance)
    np.testing.assert_allclose(grad[:-1], golden[case, "grad_logits"], atol=tolerance)
    assert not np.any(grad[-1])
    rows = jax.jit(jax.vmap(lambda z, y: loss_of(z[None], y[None])[0]))(logits, labels)
    np.testing.assert_allclose(rows[:-1], golden[case, "loss_per_example"], atol=tolerance)


# Parts.


def test_uniform_subset_is_all_of_a_small_pool():
    pool = np.array([3, 5, 9])
    draw = bual.sample_unlabeled_subset(np.random.default_rng(0), pool, 10)
    np.testing.assert_array_equal(np.sort(draw), pool)


def test_members_of_the_phases():
    strategy = bual.build(parse(_config(**{"bual.subset_size": 3})), PROBLEM)
    aux, target, negative = strategy.phases
    annotations = np.array([0, 1, -1, -1, -1, -1, -1, -1], np.int32)
    context = _context(in_pool=annotations < 0, annotations=annotations)
    assert aux.members(context).size == 0
    np.testing.assert_array_equal(target.members(context), [0, 1])
    members = negative.members(context)
    assert set(members[:2]) == {0, 1} and len(members) == 5
    assert np.all(annotations[members[2:]] == NOT_ANNOTATED)
    annotations[3] = 4
    context = _context(in_pool=annotations < 0, annotations=annotations)
    np.testing.assert_array_equal(aux.members(context), [0, 1, 3])
    np.testing.assert_array_equal(target.members(context), [0, 1])
    assert 3 not in negative.members(context)


def test_subset_after_the_filter():
    config = _config(**{"bual.subset_size": 8, "bual.subset_after_filter": True})
    negative = bual.build(parse(config), PROBLEM).phases[-1]
    annotations = np.array([0, 4, -1, -1, -1, -1, -1, -1], np.int32)
    logits = np.zeros((8, 5), np.float32)
    logits[[2, 4], 4] = 3

    def members(logits):
        return set(
            negative.members(
                _context(
                    in_pool=annotations < 0,
                    annotations=annotations,
                    trained=frozenset({"aux"}),
                    predict=lambda name: jnp.asarray(logits),
                )
            )
        )

    assert members(logits) == {0, 3, 5, 6, 7}
    logits[:, 4] = 3  # all look unknown: no filter
    assert members(logits) == {0, 2, 3, 4, 5, 6, 7}


def test_everything_predicted_unknown_means_no_filter():
    strategy = bual.build(parse(_config()), PROBLEM)
    in_pool = np.arange(8) > 1
    probs = jax.nn.softmax(jax.random.normal(jax.random.key(0), (8, 4)))
    context = _context(
        in_pool=in_pool,
        budget=3,
        predict=lambda name: jnp.zeros((8, 5)).at[:, 4].set(3) if name == "aux" else probs,
        observed=lambda name: (probs, 1),
        trained=frozenset({"aux"}),
    )
    query = strategy.query(context)
    assert len(query.ids) == 3 and np.all(query.ids > 1)


def _trained_states(strategy):
    """Freshly started states of all phases."""
    trained = {}
    for i, phase in enumerate(strategy.phases):
        trained[phase.name] = phase.start(jax.random.key(i), trained)
    return trained


def _same(a, b):
    return jax.tree.leaves(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b))


@pytest.mark.parametrize("trainable", ["all", "head"])
def test_negative_phase_goes_on_from_the_target_under_a_fresh_head(trainable):
    strategy = bual.build(parse(_config(**{"bual.nl_trainable": trainable})), PROBLEM)
    trained = _trained_states(strategy)
    target, negative = trained["target"], trained["negative"]
    head = {name: params for name, params in negative.params.items() if name == "heads_0"}
    body = {name: params for name, params in negative.params.items() if name != "heads_0"}
    assert all(_same(body, {name: target.params[name] for name in body}))
    assert all(_same(negative.batch_stats, target.batch_stats))
    assert not any(_same(head, {"heads_0": target.params["heads_0"]}))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(negative.opt_state))

    images = jax.random.normal(jax.random.key(9), (6, 8, 8, 3))
    labels = jnp.array([0, 1, NOT_ANNOTATED, NOT_ANNOTATED, 2, NOT_ANNOTATED], jnp.int32)
    valid = jnp.array([True] * 5 + [False])
    step = jax.jit(strategy.phases[-1].step)

    def after(images, key):
        scalars = {"learning_rate": np.float32(0.1)}
        return step(negative, images, labels, valid, None, key, scalars)

    state, metrics = after(images, jax.random.key(1))
    assert 0 < metrics["loss"] < 11.6
    moved = {name: not all(_same(state.params[name], negative.params[name])) for name in body}
    assert not all(_same(state.params["heads_0"], negative.params["heads_0"]))
    assert all(moved.values()) == (trainable == "all")
    assert any(moved.values()) == (trainable == "all")
    assert all(_same(state.batch_stats, negative.batch_stats)) == (trainable == "head")
    # Random labels are drawn anew at every visit, and padding does not count.
    again, _ = after(images, jax.random.key(2))
    assert not all(_same(state.params["heads_0"], again.params["heads_0"]))
    padded, _ = after(images.at[5].set(1e3), jax.random.key(1))
    assert all(_same(state.params["heads_0"], padded.params["heads_0"]))


@pytest.mark.parametrize("at_start", [True, False])
def test_number_of_evaluations_and_epochs_of_the_paper(at_start):
    config = recipe.get_config()
    config.bual.nl_eval_at_start = at_start
    negative = bual.build(parse(config), PROBLEM).phases[-1]
    due = [epoch for epoch in range(negative.num_epochs) if negative.observation.due(epoch)]
    assert negative.num_epochs == 101
    assert due == list(range(0 if at_start else 5, 101, 5))


def test_settled_after_five_equal_verdicts():
    observation = (
        bual.build(parse(_config(**{"bual.stop_rule": "oracle"})), PROBLEM).phases[-1].observation
    )
    assert not observation.settled([7] * 5)
    assert observation.settled([7] * 6)
    assert not observation.settled([7, 7, 7, 8, 7, 7, 7])
    assert observation.settled([0] * 5)  # the code's counter starts from a previous count of 0


WRONG = {
    "bual.base": "confidence",
    "bual.score_rule": "codes",
    "bual.subset_mode": "random",
    "bual.stop_rule": "never",
    "bual.nl_trainable": "heads",
}


@pytest.mark.parametrize("field", WRONG)
def test_wrong_options_are_named(field):
    with pytest.raises(UserError, match=field):
        bual.build(parse(_config(**{field: WRONG[field]})), PROBLEM)


def test_impossible_combinations_are_named():
    def refused(words, problem=PROBLEM, **changes):
        with pytest.raises(UserError, match=words):
            bual.build(parse(_config(**changes)), problem)

    nobody = AnnotationProblem(4, (8, 8, 3), jnp.float32, 5)
    refused("read hidden labels", nobody, **{"bual.stop_rule": "oracle"})
    refused("read hidden labels", nobody, **{"bual.subset_mode": "stratified"})
    refused("never be evaluated", **{"bual.nl_eval_at_start": False, "bual.eval_interval": 9})
    refused("needs bual.aux_filter", **{"bual.aux_filter": False, "bual.subset_after_filter": True})
    bual.build(parse(_config(**{"bual.stop_rule": "overlap"})), nobody)


# Whole runs.


def _events(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def _epochs(workdir, phase):
    return [(e["round"], e["epoch"]) for e in _events(workdir) if e.get("phase") == phase]


@pytest.fixture(scope="module")
def finished(one_device, tiny_network, tmp_path_factory):
    """A run that was watched: target networks before and after every negative phase."""
    workdir = tmp_path_factory.mktemp("bual")
    watched = []
    train = active_learning._Learning._train

    def watch(learning, round_, index):
        networks = learning.saved.networks
        before = jax.device_get(networks["target"])
        train(learning, round_, index)
        if learning.strategy.phases[index].name == "negative":
            watched.append((before, jax.device_get(networks["target"])))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(active_learning._Learning, "_train", watch)
        results = tasks.run(_config(), workdir)
    return workdir, results, watched


def test_a_run_trains_what_the_paper_says(finished):
    """All networks before a query; after the last query only the one that is reported."""
    workdir, results, _ = finished
    first_unknown = next(r["round"] for r in results["rounds"] if r["num_labeled_unknown"])
    assert {r for r, _ in _epochs(workdir, "aux")} == {first_unknown, 1}
    assert _epochs(workdir, "negative") == [(r, e) for r in range(2) for e in range(5)]
    queries = [r["query"] for r in results["rounds"][:-1]]
    assert [q["num_evaluations"] for q in queries] == [3, 3]
    for round_, columns in enumerate(("", ",unknown_prob")):
        table = workdir / "queries" / f"round_{round_:02d}.csv"
        header = table.read_text(encoding="utf-8-sig").splitlines()[0]
        assert header == "id,label,conf_neg,conf_pos,score" + columns


def test_negative_learning_leaves_the_target_bit_identical(finished):
    for before, after in finished[2]:
        assert all(_same(before, after))


def test_every_program_is_traced_once(finished):
    traces = json.loads((finished[0] / "timing.json").read_text())["traces"]
    assert set(traces.values()) == {1}
    assert {"aux/epoch", "target/epoch", "negative/epoch", "negative/observe"} <= set(traces)


class _Killed(BaseException):
    """Ends a run without any of the task's own handling."""


def _run_until(last, config, workdir, monkeypatch):
    """Runs up to the epoch named `last`, saves there and dies in the next one."""
    epoch_done = Run.epoch_done
    reached = []

    def kill(self, saved, *, at, where):
        if reached:
            raise _Killed
        epoch_done(self, saved, at=at, where=where)
        if where == last:
            self.save(saved)
            reached.append(where)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "epoch_done", kill)
        with pytest.raises(_Killed):
            tasks.run(config, workdir)


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [2, 4])
def test_killed_in_negative_learning_and_restarted_is_bit_equal(
    finished, tmp_path, monkeypatch, epoch
):
    """After the second evaluation has been added, and after all of them."""
    _run_until(f"round 1, negative, epoch {epoch + 1}/5", _config(), tmp_path, monkeypatch)
    assert not (tmp_path / "results.json").exists()
    tasks.run(_config(), tmp_path)
    workdir = finished[0]
    for name in ("results.json", "queries/round_00.csv", "queries/round_01.csv"):
        assert (tmp_path / name).read_bytes() == (workdir / name).read_bytes()

    def without_times(events):
        return [{k: v for k, v in e.items() if k != "seconds"} for e in events]

    assert without_times(_events(tmp_path)) == without_times(_events(workdir))


@pytest.mark.parametrize(
    ("weights", "factors"),
    [("negative", (1, 0)), ("none", (1, 1)), ("precision", (1, 0.5))],
)
def test_ablations_of_the_score(weights, factors):
    """The paper's Table 2 by hand: c_n, c_n + c_p, c_n + r c_p, whatever f_aux says."""
    rng = np.random.default_rng(0)
    negative = rng.dirichlet(np.ones(4), 8).astype(np.float32)
    target, aux = (rng.normal(size=(8, n)).astype(np.float32) for n in (4, 5))
    options = Bual(nl_epochs=1, aux_epochs=1, nl_batch_size=1, weights=weights, aux_filter=False)
    scores = bual._scores(
        options, negative, target, aux, np.bool_(True), np.float32(0.5), np.ones(8, bool)
    )

    def scaled(x):
        return (x - x.min()) / (x.max() - x.min())

    c_n, c_p = (scaled(np.asarray(scores[name])) for name in ("conf_neg", "conf_pos"))
    expected = factors[0] * c_n + factors[1] * c_p
    np.testing.assert_allclose(scores["score"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("has_aux", [False, True])
def test_the_first_query_is_among_what_looks_known(has_aux):
    """A share of the pool by the evidence of f_p, as long as f_aux cannot tell."""
    rng = np.random.default_rng(0)
    negative = rng.dirichlet(np.ones(4), 10).astype(np.float32)
    target, aux = (rng.normal(size=(10, n)).astype(np.float32) for n in (4, 5))
    in_pool = np.arange(10) > 1
    options = Bual(nl_epochs=1, aux_epochs=1, nl_batch_size=1, aux_filter=False, first_share=0.3)
    scores = bual._scores(
        options, negative, target, aux, np.bool_(has_aux), np.float32(0.5), in_pool
    )
    evidence = np.where(in_pool, np.log(np.exp(target).sum(axis=1)), -np.inf)
    wanted = np.flatnonzero(in_pool) if has_aux else np.sort(np.argsort(-evidence)[:3])
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(scores["score"])), wanted)


OPTIONS = (
    {"bual.stop_rule": "overlap", "bual.score_rule": "paper", "al.score_transform": "test"},
    {"bual.nl_trainable": "head", "bual.nl_eval_at_start": False, "bual.base": "entropy"},
    {"bual.subset_mode": "stratified", "bual.subset_after_filter": True, "bual.base": "lc"},
    {"bual.aux_filter": False, "bual.stop_rule": "oracle", "bual.prob_floor": 0.0},
)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=", ".join)
def test_every_option_runs(options, tmp_path):
    results = tasks.run(_config(**options, **{"num_epochs": 1}), tmp_path)
    assert all(0 < r["query"]["size"] <= 20 for r in results["rounds"][:-1])


def test_an_early_stop_survives_a_restart(tmp_path, monkeypatch):
    """The chosen set cannot change where nothing is learnt: six evaluations are enough."""
    changes = {
        "bual.stop_rule": "overlap",
        "bual.nl_epochs": 9,
        "bual.eval_interval": 1,
        "bual.nl_trainable": "head",
        "al.score_transform": "test",
        "optimizer.learning_rate": 0.0,
        "num_epochs": 1,
        "al.rounds": 2,
    }
    _run_until("round 0, negative, epoch 3/10", _config(**changes), tmp_path, monkeypatch)
    results = tasks.run(_config(**changes), tmp_path)
    assert results["rounds"][0]["query"]["num_evaluations"] == 6
    assert _epochs(tmp_path, "negative") == [(0, e) for e in range(5)]
