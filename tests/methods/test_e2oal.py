"""E2OAL in the active-learning task: loss, clusters, query, interruption."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import e2oal as recipes
from jaxrobust import tasks
from jaxrobust.engine.run import Run
from jaxrobust.errors import UserError
from jaxrobust.methods import e2oal
from jaxrobust.methods.strategy import NOT_ANNOTATED, AnnotationProblem, QueryContext, Relabeled
from jaxrobust.recipes.parse import parse

pytestmark = pytest.mark.usefixtures(
    "one_device", "tiny_network", "shared_programs", "unrendered_figures"
)

K, U, WIDTH = 3, 2, 8
FEW = {"e2oal.max_clusters": WIDTH, "e2oal.num_starts": 2}


def _config(**changes):
    config = recipes.get_config("digits")
    config.update_from_flattened_dict(
        {
            "writers": ("jsonl",),
            "model.name": "tiny",
            "num_epochs": 3,
            "al.rounds": 3,
            "al.query_size": 20,
            **FEW,
            **changes,
        }
    )
    return config


def _strategy(inputs=None, **changes):
    problem = AnnotationProblem(K, (8, 8, 3), jnp.float32, 5, inputs=inputs)
    return e2oal.build(parse(_config(**changes)), problem)


# The loss.


@pytest.mark.parametrize("case", ["edl4"])
def test_loss_golden(load_golden, x64, case):
    """With masked outputs and a row of padding, which change nothing."""
    golden = load_golden("e2oal")
    recorded, labels = golden[case, "logits"], golden[case, "labels"]
    num_outputs, num_known = recorded.shape[1], 2
    auxiliary = jnp.asarray(np.pad(recorded, ((0, 1), (0, 3)), constant_values=5.0))
    main = jax.random.normal(jax.random.key(0), (len(auxiliary), num_known), jnp.float64)
    labels = np.append(labels, NOT_ANNOTATED)

    def total(main, auxiliary):
        anneal = min(1.0, int(golden[case, "epoch"]) / 10)
        return e2oal.e2oal_loss(main, auxiliary, labels, num_outputs=num_outputs, anneal=anneal)

    gradient = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
    (value, parts), grads = gradient(main, auxiliary)
    known = (labels >= 0) & (labels < num_known)
    losses = optax.softmax_cross_entropy_with_integer_labels(main, np.where(known, labels, 0))
    assert parts["ce"] == pytest.approx(float(losses[known].mean()))
    assert value - parts["ce"] == pytest.approx(float(golden[case, "loss"]), rel=1e-8)
    np.testing.assert_allclose(grads[1][:-1, :num_outputs], golden[case, "grad"], atol=1e-9)
    assert not np.any(grads[1][-1]) and not np.any(grads[1][:, num_outputs:])
    assert not np.any(grads[0][~known])


def test_batches_without_a_known_or_any_example():
    logits = jax.random.normal(jax.random.key(0), (4, WIDTH))
    options = {"num_outputs": K + U, "anneal": 1.0}
    for labels, has_loss in (([K, K + 1, K, K], True), ([NOT_ANNOTATED] * 4, False)):

        def total(logits, labels=labels):
            return e2oal.e2oal_loss(logits[:, :K], logits, jnp.array(labels), **options)

        (value, parts), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(logits)
        assert parts["ce"] == 0 and (value > 0) == has_loss
        assert np.all(np.isfinite(grads)) and np.any(grads) == has_loss


def test_divergence_may_be_whole():
    logits = jax.random.normal(jax.random.key(0), (4, WIDTH))
    kl = [
        e2oal.e2oal_loss(
            logits[:, :K],
            logits,
            jnp.arange(4),
            num_outputs=K + U,
            anneal=1.0,
            kl_per_class=per_class,
        )[1]["kl"]
        for per_class in (True, False)
    ]
    assert kl[1] == pytest.approx(float((K + U) * kl[0]))


# Clusters.


def _annotations(num_unknown):
    """Of 40 images: ids 0..8 are known, then come unknown ones."""
    annotations = np.full(40, NOT_ANNOTATED, np.int32)
    annotations[:9] = np.arange(9) % K
    annotations[9 : 9 + num_unknown] = K
    return annotations


def _points():
    """Four groups of points: a known class each, and of unknown ones the even and the odd ids."""
    group = np.where(np.arange(40) < 9, np.arange(40) % K, K + np.arange(40) % 2)
    return np.eye(5, dtype=np.float32)[group] + 0.01 * np.random.default_rng(0).random((40, 5))


def _relabeled(annotations, **changes):
    strategy = _strategy(_points, **changes)
    (phase,) = strategy.phases
    return phase.relabel(_context(annotations=annotations))


def _context(**fields):
    annotations = fields["annotations"]
    defaults = {
        "predict": lambda name: pytest.fail(f"looked at {name}"),
        "observed": lambda name: pytest.fail(f"looked at {name}"),
        "trained": frozenset(),
        "in_pool": annotations == NOT_ANNOTATED,
        "budget": 6,
        "round": 0,
        "precisions": (),
        "rng": np.random.default_rng(0),
        "jit": lambda name, function: jax.jit(function),
    }
    return QueryContext(**(defaults | fields))


def test_unknown_images_are_divided():
    annotations = _annotations(12)
    labels, scalars = _relabeled(annotations)
    assert scalars == {"num_outputs": K + 2}
    np.testing.assert_array_equal(labels[:9], annotations[:9])
    assert {*labels[9:21:2]} | {*labels[10:21:2]} == {K, K + 1}
    assert len({*labels[9:21:2]}) == len({*labels[10:21:2]}) == 1
    assert (labels[21:] == NOT_ANNOTATED).all()
    again, _ = _relabeled(annotations)
    np.testing.assert_array_equal(again, labels)


def test_no_unknown_image_or_one_class_of_them():
    labels, scalars = _relabeled(_annotations(0))
    np.testing.assert_array_equal(labels, _annotations(0))
    assert scalars == {"num_outputs": K}
    labels, scalars = _relabeled(_annotations(12), **{"e2oal.unknowns": "one"})
    np.testing.assert_array_equal(labels, _annotations(12))
    assert scalars == {"num_outputs": K + 1}


def test_where_the_clusters_are_found(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    assert e2oal._embeddings("pixels", images).shape == (40, 192)
    features = np.random.default_rng(0).random((40, 6), np.float32)
    assert e2oal._embeddings("auto", features) is features
    np.save(tmp_path / "a.npy", features)
    np.testing.assert_array_equal(e2oal._embeddings(str(tmp_path / "a.npy"), images), features)
    views, split = np.stack([features, features], axis=1), ["train"] * 30 + ["test"] * 10
    np.savez(tmp_path / "a.npz", features=views, split=split)
    found = e2oal._embeddings(str(tmp_path / "a.npz"), images[:30])
    np.testing.assert_array_equal(found, features[:30])
    with pytest.raises(UserError, match=r"features \[30, 6\] for 40 training images"):
        e2oal._embeddings(str(tmp_path / "a.npz"), images)
    with pytest.raises(UserError, match="There is no file"):
        e2oal._embeddings(str(tmp_path / "b.npy"), images)


# The query.


def test_the_target_follows_the_precision():
    assert e2oal.target_after(0.6, ()) == 0.6
    assert e2oal.target_after(0.6, (0.9,)) == pytest.approx(0.3)
    assert e2oal.target_after(0.6, (0.9, 0.4)) == pytest.approx(0.5)
    assert e2oal.target_after(0.6, (1.0, 1.0, 0.6)) == 0
    assert e2oal.target_after(0.6, (0.0, 0.6)) == 1


def _queried(num_outputs=K + U, annotations=None, **changes):
    """A query of random outputs, in which the masked ones would decide."""
    fields = {name: changes.pop(name) for name in ("budget", "precisions") if name in changes}
    annotations = _annotations(4) if annotations is None else annotations
    keys = jax.random.split(jax.random.key(1))
    outputs = {
        "main": 2 * jax.random.normal(keys[0], (40, K)),
        "auxiliary": (2 * jax.random.normal(keys[1], (40, WIDTH))).at[:, num_outputs:].set(99.0),
    }
    context = _context(
        annotations=annotations,
        predict=lambda name: outputs,
        relabeled={"e2oal": Relabeled(annotations, {"num_outputs": float(num_outputs)})},
        **fields,
    )
    return _strategy(**changes).query(context), outputs


def test_the_query_of_equal_quotas():
    query, outputs = _queried(**{"e2oal.refill": False})
    pool = np.flatnonzero(_annotations(4) == NOT_ANNOTATED)
    auxiliary = np.asarray(outputs["auxiliary"])[:, : K + U]
    prediction = auxiliary.argmax(axis=1)
    np.testing.assert_array_equal(query.scores["prediction"], prediction)
    margin = auxiliary[:, :K].max(axis=1) - auxiliary[:, K:].max(axis=1)
    np.testing.assert_allclose(query.scores["known_margin"], margin, rtol=1e-5)
    assert set(query.ids) <= set(pool) and len(set(query.ids)) == len(query.ids) == 6
    np.testing.assert_array_equal(np.bincount(prediction[query.ids]), [2, 2, 2])
    assert query.notes["num_unknown_clusters"] == U and query.notes["target_precision"] == 0.6
    # A lower target has more candidates: in the end all of the pool.
    counts = [_queried(precisions=(p,))[0].notes["num_candidates"] for p in (0.3, 0.8, 1.0)]
    assert counts == sorted(counts) and counts[0] < len(pool)
    assert _queried(precisions=(1.0, 1.0))[0].notes["num_candidates"] == len(pool)


def test_ablations_of_the_query():
    informative, outputs = _queried(**{"e2oal.select": "informativeness"})
    scores, prediction = informative.scores["informativeness"], outputs["main"].argmax(axis=1)
    pool = _annotations(4) == NOT_ANNOTATED
    for c in range(K):
        of_class = np.flatnonzero(pool & (prediction == c))
        best = of_class[np.argsort(-scores[of_class])[:2]]
        assert set(best) == set(informative.ids[prediction[informative.ids] == c])
    pure, _ = _queried(**{"e2oal.select": "margin"})
    for c in range(K):
        of_class = np.flatnonzero(pool & (pure.scores["prediction"] == c))
        best = of_class[np.argsort(-pure.scores["known_margin"][of_class])[:2]]
        assert set(best) == set(pure.ids[pure.scores["prediction"][pure.ids] == c])
    js = _queried(**{"e2oal.divergence": "js"})[0].scores["informativeness"]
    assert not np.allclose(js, scores)


@pytest.mark.parametrize("refill", [True, False])
def test_a_short_query_is_filled_or_not(refill):
    """Every class of the pool is exhausted: 27 images, some predicted unknown."""
    query, _ = _queried(budget=27, **{"e2oal.refill": refill})
    num_known = int(np.sum(query.scores["prediction"][_annotations(4) == NOT_ANNOTATED] < K))
    assert num_known < 27
    assert len(set(query.ids)) == len(query.ids) == (27 if refill else num_known)


def test_before_an_unknown_image_is_known():
    query, outputs = _queried(num_outputs=K, annotations=_annotations(0))
    margin = np.asarray(outputs["auxiliary"])[:, :K].max(axis=1)
    np.testing.assert_array_equal(query.scores["known_margin"], margin)
    assert len(query.ids) == 6 and query.notes["num_unknown_clusters"] == 0


def test_probability_of_being_unknown():
    strategy = _strategy()
    auxiliary = jnp.full((1, WIDTH), -50.0).at[0, [0, K, K + U]].set([1.0, 2.0, 9.0])
    found = strategy.unknown_probs({"auxiliary": auxiliary}, {"num_outputs": K + U})
    alpha = 1 + np.exp(np.array([1.0, -10, -10, 2.0, -10]))
    np.testing.assert_allclose(found, alpha[K:].sum() / alpha.sum(), rtol=1e-5)


# Whole runs.


def _features():
    rng = np.random.default_rng(0)
    labels = np.arange(200, dtype=np.int32) % 5
    points = 2 * rng.normal(size=(5, 8))[labels] + rng.normal(size=(200, 8))
    split = np.where(np.arange(200) < 150, "train", "test")
    return points[:, None].astype(np.float16), labels, split


@pytest.fixture(scope="module", params=["digits", "features"])
def problem(request, tmp_path_factory):
    """Function to run e2oal:digits or e2oal:features in a folder, small."""
    if request.param == "digits":
        return lambda folder: tasks.run(_config(), folder)
    path = tmp_path_factory.mktemp("features") / "features.npz"
    features, labels, split = _features()
    np.savez(path, features=features, labels=labels, split=split)
    config = recipes.get_config("features")
    config.update_from_flattened_dict(
        {
            "dataset.features": str(path),
            "writers": ("jsonl",),
            "num_epochs": 3,
            "al.rounds": 3,
            "al.query_size": 20,
            "al.init_fraction": 0.2,
            "batch_size": 16,
            **FEW,
            "e2oal.num_components": 4,
        }
    )
    return lambda folder: tasks.run(config, folder)


@pytest.fixture(scope="module")
def finished(problem, one_device, tiny_network, shared_programs, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("e2oal")
    return workdir, problem(workdir)


def test_a_run(finished):
    workdir, results = finished
    queries = [r["query"] for r in results["rounds"][:-1]]
    assert [q["size"] for q in queries] == [20, 20]
    assert queries[0]["num_unknown_clusters"] == 0 < queries[1]["num_unknown_clusters"]
    assert queries[0]["target_precision"] == 0.6
    steered = 0.6 + 0.6 - queries[0]["precision"]
    assert queries[1]["target_precision"] == pytest.approx(min(max(steered, 0), 1))
    assert 0 <= queries[1]["auroc_unknown_prob"] <= 1
    traces = json.loads((workdir / "timing.json").read_text())["traces"]
    assert set(traces.values()) == {1} and {"e2oal/epoch", "e2oal/scores"} <= set(traces)


class _Killed(BaseException):
    """Ends a run without any of the task's own handling."""


def test_killed_between_the_epochs_of_a_round_and_restarted_is_bit_equal(
    problem, finished, tmp_path, monkeypatch
):
    """In round 1, when unknown images have been divided into clusters."""
    epoch_done, reached = Run.epoch_done, []

    def kill(self, saved, *, at, where):
        if reached:
            raise _Killed
        epoch_done(self, saved, at=at, where=where)
        if where == "round 1, e2oal, epoch 2/3":
            self.save(saved)
            reached.append(where)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "epoch_done", kill)
        with pytest.raises(_Killed):
            problem(tmp_path)
    assert not (tmp_path / "results.json").exists()
    problem(tmp_path)
    for name in ("results.json", "queries/round_00.csv", "queries/round_01.csv"):
        assert (tmp_path / name).read_bytes() == (finished[0] / name).read_bytes()


OPTIONS = (
    {"e2oal.target": "main", "e2oal.mixture": "pool", "e2oal.kl_per_class": False},
    {"e2oal.target": "separate", "e2oal.unknowns": "one", "e2oal.anneal_epochs": 0},
)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=", ".join)
def test_every_option_runs(options, tmp_path):
    results = tasks.run(_config(**options, **{"num_epochs": 1, "al.rounds": 2}), tmp_path)
    assert results["rounds"][0]["query"]["size"] == 20
    has_both = options["e2oal.target"] == "separate"
    assert ("e2oal_accuracy" in results["rounds"][1]) == has_both


def test_too_few_clusters():
    with pytest.raises(UserError, match="max_clusters=3 leaves no cluster"):
        _strategy(**{"e2oal.max_clusters": K})
