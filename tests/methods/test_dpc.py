"""DPC's steps on a toy network: the authors' recorded numbers, and what must hold besides."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import dpc as recipe
from jaxrobust.engine.optim import make_optimizer
from jaxrobust.engine.sharding import part_batches
from jaxrobust.engine.training import TrainState, init_state
from jaxrobust.losses import evidential_loss
from jaxrobust.methods import dpc
from jaxrobust.methods.dpc import Objective, linear_rampup, semi_supervised_step, warm_up_step
from jaxrobust.methods.noisy_baselines import dividemix_options
from jaxrobust.methods.noisy_label_method import (
    Batch,
    NoisyLabelProblem,
    network_apply,
    score_labels_by,
)
from jaxrobust.models import NETWORKS
from jaxrobust.models.inception_resnet_v2 import InceptionResNetV2
from jaxrobust.models.layers import BATCH_NORM_MOMENTUM
from jaxrobust.models.resnet import ResNet
from jaxrobust.models.two_headed import TwoHeaded
from jaxrobust.recipes.dpc import Dpc
from jaxrobust.recipes.parse import parse
from jaxrobust.recipes.run import Sgd
from jaxrobust.selection import logit_margin


def _two_linear_heads(params, batch_stats, images, *, train, key=None, where=None, num_batches=1):
    del train, key, where, num_batches
    heads = [images @ params[h]["weight"].T + params[h]["bias"][None] for h in ("h1", "h2")]
    return jnp.stack(heads, axis=1), batch_stats


def _params(golden, case, prefix):
    return {
        head: {
            name: jnp.asarray(golden[case, f"{prefix}_{head}_{name}"])
            for name in ("weight", "bias")
        }
        for head in ("h1", "h2")
    }


def _sgd(golden=None, case=None, *, momentum=0.9, weight_decay=5e-4):
    if golden is not None:
        momentum, weight_decay = (float(golden[case, k]) for k in ("momentum", "weight_decay"))
    return make_optimizer(Sgd(momentum=momentum, weight_decay=weight_decay))


def _state(params, optimizer):
    return TrainState(params, {}, optimizer.init(params))


def _batch(views, labels=None, **columns):
    labels = jnp.zeros(len(views[0]), jnp.int32) if labels is None else jnp.asarray(labels)
    return Batch(None, labels, None, tuple(map(jnp.asarray, views)), columns)


def _recorded_step(golden, case, i, *, optimizer):
    """The arguments of the i-th recorded step, but for the network."""
    strong = [s for s in ("", "_strong") if (case, f"x1{s}") in golden]
    views = {k: [golden[case, f"{k}{v}{s}"][i] for s in strong for v in "12"] for k in "xu"}
    time = jnp.asarray(golden[case, "epoch"] + i / 2)
    ramp = linear_rampup(time, float(golden[case, "warm_up"]))
    scalars = {
        "learning_rate": jnp.asarray(golden[case, "lr"]),
        "weight_u": float(golden[case, "lambda_u"]) * ramp,
    }
    if len(strong) > 1:
        scalars["consistency_weight"] = jnp.asarray(golden[case, "consistency_weight"])
    arguments = (
        {"params": _params(golden, case, "peer"), "batch_stats": {}},
        _batch(views["x"], golden[case, "labels_x"][i], clean_prob=golden[case, "w_x"][i]),
        _batch(views["u"]),
        jnp.asarray(golden[case, "lam_mix"][i]),
        jnp.asarray(golden[case, "perm"][i]),
        jax.random.key(0),
        scalars,
    )
    options = {
        "apply": _two_linear_heads,
        "optimizer": optimizer,
        "objective": Objective(gamma=float(golden[case, "gamma"])),
        "temperature": float(golden[case, "T"]),
    }
    return arguments, options


@functools.cache
def _compiled(step, **options):
    """A step as runs have it: one program, whatever the numbers of its batches."""
    return jax.jit(functools.partial(step, **options))


PLAIN = optax.identity()


class _Witness(Objective):
    """Adds the targets that a step is trained on to what it returns."""

    def mixed(self, logits_x, hard, soft_x, mix, logits_u, soft_u, weights=None):
        targets = {"hard_a": hard[0], "hard_b": hard[1], "mixed_targets_u": soft_u}
        object.__setattr__(self, "targets", targets)
        return super().mixed(logits_x, hard, soft_x, mix, logits_u, soft_u, weights)


def _witnessed(*arguments, objective, **options):
    witness = _Witness(gamma=objective.gamma)
    network, metrics = semi_supervised_step(*arguments, objective=witness, **options)
    return network, metrics, witness.targets


@pytest.mark.parametrize("case", ["step0", "step1", "step2", "step3"])
def test_two_steps_are_those_of_the_authors(case, load_golden, x64):
    golden = load_golden("dpc")
    optimizer = _sgd(golden, case)
    network = _state(_params(golden, case, "net_init"), optimizer)
    for i in range(2):
        # Without momentum, decay and at rate 1, a step subtracts the gradient.
        arguments, options = _recorded_step(golden, case, i, optimizer=PLAIN)
        arguments[-1]["learning_rate"] = jnp.asarray(1.0)
        plain = TrainState(network.params, {}, optax.EmptyState())
        stepped, _ = _compiled(semi_supervised_step, **options)(plain, *arguments)
        gradient = jax.tree.map(jnp.subtract, network.params, stepped.params)
        chex.assert_trees_all_close(
            gradient, _params(golden, case, f"grad{i}"), rtol=1e-9, atol=1e-10
        )

        arguments, options = _recorded_step(golden, case, i, optimizer=optimizer)
        step = _compiled(_witnessed, **options)
        network, metrics, targets = step(network, *arguments)
        for name, key in {
            "loss": "loss_total",
            "loss_x": "loss_x",
            "loss_u": "loss_u",
            "weight_u": "weight_u",
        }.items():
            np.testing.assert_allclose(metrics[name], golden[case, key][i], rtol=1e-10)
        for name in ("hard_a", "hard_b", "mixed_targets_u"):
            np.testing.assert_allclose(targets[name], golden[case, name][i], rtol=1e-10)
    chex.assert_trees_all_close(
        network.params, _params(golden, case, "net_after"), rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize(("case", "penalty"), [("warm_sym", "none"), ("warm_asym", "plain")])
def test_warm_up_is_that_of_the_authors_and_leaves_head_2(case, penalty, load_golden, x64):
    golden, optimizer = load_golden("dpc"), _sgd()
    before = _params(golden, case, "net_init")
    network = _state(before, optimizer)
    for i in range(3):
        images, labels = golden[case, "x"][i], golden[case, "labels"][i]
        step = _compiled(
            warm_up_step,
            apply=_two_linear_heads,
            optimizer=optimizer,
            objective=Objective(gamma=float(golden[case, "gamma"])),
            entropy_penalty=penalty,
            frozen="h2",
        )
        network, metrics = step(
            network,
            _batch([images], labels)._replace(valid=jnp.ones(len(labels), bool)),
            jax.random.key(0),
            {"learning_rate": jnp.asarray(0.02)},
        )
        np.testing.assert_allclose(metrics["loss"], golden[case, "loss"][i], rtol=1e-10)
    chex.assert_trees_all_close(
        network.params, _params(golden, case, "net_after"), rtol=1e-9, atol=1e-11
    )
    chex.assert_trees_all_equal(network.params["h2"], before["h2"])
    momentum = optax.tree_utils.tree_get(network.opt_state, "trace")
    assert all(not np.any(x) for x in jax.tree.leaves(momentum["h2"]))
    assert all(np.any(x) for x in jax.tree.leaves(momentum["h1"]))


def test_without_unsupervised_weight_head_2_only_decays(load_golden, x64):
    golden, case = load_golden("dpc"), "step0"
    network = _state(_params(golden, case, "net_init"), PLAIN)
    arguments, options = _recorded_step(golden, case, 0, optimizer=PLAIN)
    arguments[-1]["weight_u"] = jnp.asarray(0.0)
    stepped, _ = _compiled(semi_supervised_step, **options)(network, *arguments)
    chex.assert_trees_all_equal(stepped.params["h2"], network.params["h2"])


def test_an_unmixed_batch_costs_the_plain_evidential_loss(load_golden, x64):
    golden, case = load_golden("dpc"), "step0"
    network = _state(_params(golden, case, "net_init"), PLAIN)
    arguments, options = _recorded_step(golden, case, 0, optimizer=PLAIN)
    peer, labeled, unlabeled, _, permutation, key, scalars = arguments
    _, metrics = _compiled(semi_supervised_step, **options)(
        network, peer, labeled, unlabeled, jnp.asarray(1.0), permutation, key, scalars
    )
    images = jnp.concatenate(labeled.views)
    logits, _ = _two_linear_heads(network.params, {}, images, train=True)
    # All w are above one half here, so that the refined targets keep the given labels.
    labels = jnp.concatenate([labeled.labels] * 2)
    nll, kl = evidential_loss(logits[:, 0], labels, options["objective"].gamma)
    np.testing.assert_allclose(metrics["loss_x"], jnp.mean(nll) + jnp.mean(kl), rtol=1e-12)


@pytest.mark.parametrize(("strong", "updates"), [(False, 5), (True, 6)])
def test_running_averages_move_once_for_every_forward_pass(strong, updates):
    """A network whose statistic is the mean of its batch, as BatchNorm keeps it."""

    def apply(params, batch_stats, images, *, train, key=None, where=None, num_batches=1):
        logits = jnp.stack([images @ params["w"]] * 2, axis=1)
        for batch in part_batches(images, num_batches) if train else ():
            moved = (1 - BATCH_NORM_MOMENTUM) * jnp.mean(batch)
            batch_stats = BATCH_NORM_MOMENTUM * batch_stats + moved
        return logits, batch_stats

    generator = np.random.default_rng(0)
    views = generator.normal(size=(8, 4, 3)).astype(np.float32)
    x, u = (views[:2], views[2:4]) if not strong else (views[[0, 1, 4, 5]], views[[2, 3, 6, 7]])
    mix, permutation = np.float32(0.75), generator.permutation(16)
    network = TrainState({"w": jnp.ones((3, 2))}, jnp.float32(0.5), optax.EmptyState())
    scalars = {k: jnp.float32(0.1) for k in ("learning_rate", "weight_u", "consistency_weight")}
    options = {"apply": apply, "optimizer": PLAIN, "objective": Objective()}
    stepped, _ = _compiled(semi_supervised_step, **options)(
        network,
        network.variables,
        _batch(x, clean_prob=jnp.ones(4)),
        _batch(u),
        jnp.asarray(mix),
        jnp.asarray(permutation),
        jax.random.key(0),
        scalars,
    )
    x1, x2, u1, u2 = views[:4]
    seen = [u1, u2, x1, x2]
    for rows in (views[:4], views[4:])[: 2 if strong else 1]:
        rows = rows.reshape(16, 3)
        seen.append(mix * rows + (1 - mix) * rows[permutation])
    assert len(seen) == updates
    expected = 0.5
    for batch in seen:
        expected = BATCH_NORM_MOMENTUM * expected + (1 - BATCH_NORM_MOMENTUM) * batch.mean()
    np.testing.assert_allclose(stepped.batch_stats, expected, rtol=1e-5)


def test_guesses_side_by_side_are_guesses_one_after_another():
    module = TwoHeaded(ResNet(num_classes=3, num_heads=0, stage_sizes=(1,), widths=(4,)), 3)
    apply = network_apply(module)
    views = jax.random.normal(jax.random.key(1), (4, 6, 4, 4, 3))
    network = init_state(jax.random.key(0), module, optax.identity(), (4, 4, 3))
    logits, batch_stats = jax.jit(functools.partial(dpc._guess, apply))(
        network, tuple(views), jax.random.key(2)
    )
    one = jax.jit(functools.partial(apply, train=True))
    stats = network.batch_stats
    for i in range(4):
        expected, stats = one(network.params, stats, views[i], key=jax.random.key(3))
        np.testing.assert_allclose(logits[i][:, 0], expected[:, 0], rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(batch_stats, stats, rtol=1e-5, atol=1e-6)


def test_rampup_is_the_recorded_one(load_golden):
    golden = load_golden("dpc")
    times, warm_up = golden["rampup", "epoch"], golden["rampup", "warm_up"]
    values = golden["rampup", "lambda_u"] * np.asarray(linear_rampup(times, warm_up))
    np.testing.assert_allclose(values, golden["rampup", "value"], rtol=1e-6)
    np.testing.assert_array_equal(linear_rampup(np.float32(3), 5, length=0), 1)
    for case in golden.cases("semi"):
        time, warm_up, lambda_u = (golden[case, n] for n in ("epoch", "warm_up", "lambda_u"))
        weight = lambda_u * np.asarray(linear_rampup(time, warm_up))
        np.testing.assert_allclose(weight, golden[case, "weight_u"], rtol=1e-6)


def _passes(**changes):
    options = Dpc(**{"warm_up": 2, **changes})
    return dpc._passes(options, Sgd(), num_epochs=10, batch_size=4, num_examples=30)


def _columns(num_clean_1, num_clean_2):
    clean = np.arange(30)
    return {
        "clean_prob_net1": np.where(clean < num_clean_1, 0.9, 0.1),
        "clean_prob_net2": np.where(clean < num_clean_2, 0.8, 0.2),
    }


def _generator(name):
    return np.random.default_rng(list(name.encode()))


def test_each_network_is_trained_on_the_split_of_the_other():
    first, second = _passes()(2, _columns(21, 10), _generator)
    for entry, name, peer, num_clean in ((first, "net1", "net2", 10), (second, "net2", "net1", 21)):
        assert (entry.stage, entry.network, entry.peer) == ("semi_supervised", name, peer)
        steps = num_clean // 4
        labeled, unlabeled = entry.ids["labeled"], entry.ids["unlabeled"]
        assert labeled.size == unlabeled.size == 4 * steps
        assert len(set(labeled)) == labeled.size and labeled.max() < num_clean
        assert unlabeled.min() >= num_clean
        assert entry.label_scores["clean_prob"][0] > 0.5
        assert entry.notes == {"num_labeled": num_clean}
    # 9 unlabelled examples give two full batches before they are shuffled anew.
    unlabeled = second.ids["unlabeled"]
    for start in range(0, 20, 8):
        part = unlabeled[start : start + 8]
        assert len(set(part)) == part.size


@pytest.mark.parametrize("num_clean", [0, 3, 27, 30])
def test_a_split_with_less_than_a_batch_on_one_side_trains_on_all_labels(num_clean):
    for entry in _passes()(5, _columns(num_clean, num_clean), _generator):
        assert entry.stage == "warm_up"
        assert sorted(entry.ids["all"]) == list(range(30))


def test_warm_up_visits_everything():
    for entry in _passes()(1, _columns(15, 15), _generator):
        assert entry.stage == "warm_up"
        assert sorted(entry.ids["all"]) == list(range(30))


def test_two_networks_judge_each_for_itself_and_together():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 60)
    logits = generator.normal(size=(2, 60, 3))
    logits[:, np.arange(60), labels] += np.where(np.arange(60) < 40, 6, -6)
    score_labels = score_labels_by(
        ("net1", "net2"),
        logit_margin,
        name="margin",
        mode="gmm",
        threshold=0.5,
        kurtosis_threshold=1.2,
    )
    columns = jax.jit(score_labels)(
        jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.int32)
    )
    np.testing.assert_array_equal(columns["flagged"], np.arange(60) >= 40)
    np.testing.assert_array_equal(columns["suggested"], logits.mean(0).argmax(-1))
    np.testing.assert_array_equal(columns["prediction_net2"], logits[1].argmax(-1))
    for name in ("clean_prob", "margin"):
        parts = [columns[f"{name}_net{i}"] for i in (1, 2)]
        np.testing.assert_allclose(columns[name], np.mean(parts, axis=0), rtol=1e-6)


def test_dividemix_fits_its_own_mixture_and_has_no_penalty_of_dpcs():
    def options(variant):
        return dividemix_options(parse(recipe.get_config(variant)).dpc)

    web = options("webvision")
    assert (web.score_mode, web.reg_covar, web.score, web.heads) == ("gmm", 1e-3, "loss", 1)
    assert web.loss == "cross_entropy"
    human, asymmetric = options("cifar10n_worst"), options("cifar10_asym40")
    assert (human.entropy_penalty, asymmetric.entropy_penalty) == ("none", "plain")
    assert human.reg_covar == 5e-4


def test_cross_entropy_objective_is_that_of_dividemix():
    objective = Objective(evidential=False, gamma=0.0)
    generator = np.random.default_rng(0)
    logits = jnp.asarray(generator.normal(size=(6, 4)), jnp.float32)
    soft = jax.nn.softmax(jnp.asarray(generator.normal(size=(6, 4)), jnp.float32))
    hard = (jnp.zeros(3, jnp.int32),) * 2
    supervised, unsupervised = objective.mixed(
        logits[:3], hard, soft[:3], jnp.float32(0.7), logits[3:], soft[3:]
    )
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(
        supervised, -np.mean(np.sum(soft * np.log(probs), -1)[:3]), rtol=1e-5
    )
    np.testing.assert_allclose(unsupervised, np.mean((probs - soft)[3:] ** 2), rtol=1e-5)


def _webvision():
    problem = NoisyLabelProblem(50, 65_944, (299, 299, 3), jnp.float32)
    return dpc.build(parse(recipe.get_config("webvision")), problem)


@pytest.fixture(scope="module")
def webvision():
    return _webvision()


def test_webvision_at_full_size(webvision, monkeypatch):
    """Shapes only: the network is far too large to run in a test."""
    state = jax.eval_shape(webvision.start, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(state.params)) == 54_383_314
    # To a step all blocks of a kind are alike: one of each is traced.
    few_blocks = functools.partial(InceptionResNetV2, repeats=(1, 1, 1))
    monkeypatch.setitem(NETWORKS, "inception_resnet_v2", few_blocks)
    method = _webvision()
    state = jax.eval_shape(method.start, jax.random.key(0))
    (stage,) = (s for s in method.stages if s.name == "semi_supervised")
    assert (stage.views, stage.batch_sizes) == (("weak",) * 2, {"labeled": 32, "unlabeled": 32})
    images = jax.ShapeDtypeStruct((32, 299, 299, 3), jnp.float32)
    ids, probs = (jax.ShapeDtypeStruct((32,), dtype) for dtype in (jnp.int32, jnp.float32))
    batch = Batch(ids, ids, ids, (images,) * 2, {"clean_prob": probs})
    number = jax.ShapeDtypeStruct((), jnp.float32)
    after, metrics = jax.eval_shape(
        stage.step,
        state,
        state.variables,
        {"labeled": batch, "unlabeled": batch},
        jax.random.key(0),
        dict.fromkeys(("learning_rate", "epoch", "progress"), number),
    )
    assert after == state
    assert metrics.keys() == {"loss", "loss_x", "loss_u", "prior", "weight_u"}


def test_what_splits_the_scores(webvision):
    narrow, wide = np.array([-1.0, 3.0] * 5), np.array([0.0] * 50 + [-1.0, 3.0])
    assert webvision.score_threshold(narrow) == webvision.score_threshold(wide) == 1
    config, problem = recipe.get_config("digits"), NoisyLabelProblem(10, 90, (8, 8, 3), jnp.float32)
    assert dpc.build(parse(config), problem).score_threshold(wide) is None
    config.dpc.score_mode = "auto"
    assert dpc.build(parse(config), problem).score_threshold(narrow) is None
    assert dpc.build(parse(config), problem).score_threshold(wide) == 1
