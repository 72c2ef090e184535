"""BLDR's step on a table of logits: the authors' recorded epochs, and what must hold besides."""

import csv
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import bldr as recipe
from configs import dpc as dpc_recipe
from jaxrobust import tasks
from jaxrobust.engine import optim
from jaxrobust.engine.loops import epoch_program
from jaxrobust.engine.plan import Plan
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.sharding import make_placement
from jaxrobust.errors import UserError
from jaxrobust.losses import bldr_loss, complementary_label_mask
from jaxrobust.methods import bldr
from jaxrobust.methods.bldr import BldrState, bldr_step, end_epoch
from jaxrobust.methods.noisy_label_method import Batch, NoisyLabelProblem
from jaxrobust.metrics import topk_accuracy
from jaxrobust.recipes.bldr import Bldr
from jaxrobust.recipes.methods import NOISY_LABEL_METHODS
from jaxrobust.recipes.parse import parse
from jaxrobust.tasks import noisy_label_files

STEP_CASES = ["cifar10_epoch", "cifar10_warmup", "cifar10_boundary", "cifar100"]
HEADS = ("pl", "nl", "m1", "m2", "m3")
PASSES = ("weak", "cat", "strong")  # pass B, and the two halves of pass A
FEATURES = ("final", "f1", "f2", "f3")


# Recorded epochs of ten classes run as ten examples in batches of six, so that one program serves
# them all, and padding has to leave every number as it is.
SIZE, WIDTH = 10, 6


def _lookup(params, batch_stats, images, *, train, key=None, where=None):
    """A network that looks up what the authors' code was given, and notes the order of its passes.

    Weak views hold an example's id, strong ones the id plus 1000.
    """
    assert train and where.shape == images.shape
    if len(images) == 2 * WIDTH:
        rows, strong = images[:WIDTH], images[WIDTH:] - 1000
        logits = jnp.concatenate([params["cat"][rows], params["strong"][strong]])
        return (logits, None), 10 * batch_stats + 1
    return (params["weak"][images], params["features"][images]), 10 * batch_stats + 2


def _padded(array, length=SIZE):
    return jnp.asarray(np.pad(array, [(0, length - len(array))] + [(0, 0)] * (array.ndim - 1)))


def _recorded(golden, case):
    """Tables of the network and the state before the epoch."""
    params = {
        view: _padded(np.stack([golden[case, f"{view}_{head}"] for head in HEADS], axis=1))
        for view in PASSES
    }
    features = [golden[case, f"weak_{name}"][..., 0, 0] for name in FEATURES]
    params["features"] = _padded(np.stack(features, axis=1))
    return BldrState(
        params=params,
        batch_stats=jnp.asarray(0),
        opt_state=optax.EmptyState(),
        ema={},
        u=_padded(golden[case, "u"]),
        v=_padded(golden[case, "v"]),
        weights=_padded(golden[case, "weights"]),
        nl_probs=jnp.ones(SIZE),
        noise_rate=jnp.asarray(golden[case, "noise_ratio"]),
    )


def _batches(golden, case):
    number, ids = golden[case, "batch_id"], golden[case, "batch_index"]
    labels = golden[case, "labels"]
    for i in range(number.max() + 1):
        rows = _padded(ids[number == i], WIDTH)
        valid = jnp.arange(WIDTH) < np.sum(number == i)
        yield Batch(rows, jnp.asarray(labels)[rows], valid, (rows, rows + 1000), {})


@functools.cache
def _step(**options):
    options = {"apply": _lookup, "optimizer": optax.identity(), **options}
    # At rate 1 a step subtracts the gradient.
    scalars = {"learning_rate": np.float64(1)}
    return jax.jit(
        lambda state, batch: bldr_step(state, batch, jax.random.key(0), scalars, **options)
    )


def _epoch(golden, case, state, **options):
    """The state after the recorded batches, and the metrics of each."""
    assert golden[case, "lr_u"] == golden[case, "lr_v"] == 10  # the defaults
    metrics = []
    for batch in _batches(golden, case):
        state, values = _step(**options)(state, batch)
        metrics.append(values)
    return state, {name: np.array([m[name] for m in metrics]) for name in metrics[0]}


@pytest.mark.parametrize("case", STEP_CASES)
def test_a_whole_epoch_is_that_of_the_authors(case, load_golden, x64):
    golden, case = load_golden("bldr"), f"step/{case}"
    before, size = _recorded(golden, case), len(golden[case, "labels"])
    state, metrics = _epoch(golden, case, before)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
    criteria = ("positive", "negative", "exit_1", "exit_2", "exit_3")
    close(np.stack([metrics[n] for n in criteria], -1), golden[case, "criterion_losses"])
    close(metrics["loss"], golden[case, "total_loss"])
    agreement = [100 * metrics[f"label_agreement_{head}"].mean() for head in ("pl", "nl")]
    np.testing.assert_allclose(agreement, golden[case, "train_acc"], rtol=1e-6)
    mask = complementary_label_mask(golden[case, "labels"], golden[case, "weak_nl"])
    np.testing.assert_array_equal(mask, golden[case, "neg_mask"])

    gradient = jax.tree.map(lambda a, b: (a - b)[:size], before.params, state.params)
    for view in PASSES:
        for i, head in enumerate(HEADS):
            close(gradient[view][:, i], golden[case, f"grad_{view}_{head}"])
    for i, name in enumerate(FEATURES):
        recorded = golden[case, f"grad_weak_{name}"][..., 0, 0]
        close(gradient["features"][:, i], recorded, atol=1e-14)  # they are of the size of 1e-6
        assert np.any(recorded) == (name != "final")
    close(state.u[:size], golden[case, "u_after"])
    close(state.v[:size], golden[case, "v_after"])
    assert state.u.dtype == state.v.dtype == state.nl_probs.dtype == np.float64
    assert str(int(state.batch_stats)) == "12" * len(metrics["loss"])  # pass A, then pass B

    state = state.replace(nl_probs=state.nl_probs[:size], weights=state.weights[:size])
    after = end_epoch(
        state,
        int(golden[case, "epoch"]),
        warm_up=int(golden[case, "warmup_epochs"]),
        noise_threshold=float(golden[case, "threshold"]),
    )
    close(after.weights, golden[case, "weights_after"])
    close(after.noise_rate, golden[case, "noise_ratio_after"])


def test_eight_devices_give_the_recorded_epoch_too(load_golden, x64):
    """Rows of a batch are split over the devices, the tables are on each of them."""
    golden, case = load_golden("bldr"), "step/cifar10_epoch"
    placement = make_placement(jax.devices())
    assert placement.num_devices == 8
    labels = jnp.asarray(golden[case, "labels"])
    scalars = {"learning_rate": np.float64(1)}

    def step(state, ids, key):
        ids = ids[:WIDTH]
        rows = jnp.maximum(ids, 0)
        batch = Batch(rows, labels[rows], ids >= 0, (rows, rows + 1000), {})
        return bldr_step(state, batch, key, scalars, apply=_lookup, optimizer=optax.identity())

    number, ids = golden[case, "batch_id"], golden[case, "batch_index"]
    plan = np.full((number.max() + 1, placement.round_up(WIDTH)), -1)
    for i, row in enumerate(plan):
        row[: np.sum(number == i)] = ids[number == i]
    plan = Plan(jax.device_put(plan, placement.plan), len(plan))
    epoch = epoch_program(Programs(), "train", step, placement, static=())
    state, sums = epoch(placement.put(_recorded(golden, case)), plan, jax.random.key(0))
    np.testing.assert_allclose(sums["loss"], golden[case, "total_loss"].sum(), rtol=1e-12)
    for name in ("u", "v"):
        table = getattr(state, name)
        assert table.sharding.is_fully_replicated and len(table.devices()) == 8
        np.testing.assert_allclose(table, golden[case, f"{name}_after"], rtol=1e-9)


def test_padding_and_examples_not_visited_keep_their_rows(load_golden, x64):
    golden, case = load_golden("bldr"), "step/cifar10_epoch"
    before = _recorded(golden, case)
    *_, short = _batches(golden, case)
    state, _ = _step()(before, short)
    labels = golden[case, "labels"]
    probs = jax.nn.softmax(golden[case, "weak_nl"])[np.arange(len(labels)), labels]
    visited = np.isin(np.arange(len(labels)), short.ids[short.valid])
    assert visited.sum() == 2
    np.testing.assert_allclose(state.nl_probs, np.where(visited, probs, 1))
    for name in ("u", "v"):
        old, new = getattr(before, name), getattr(state, name)
        np.testing.assert_array_equal(np.any(old != new, axis=1), visited)


def test_one_column_of_u_is_enough_and_clipped_tables_stay_in_range(load_golden, x64):
    golden, case = load_golden("bldr"), "step/cifar10_boundary"
    before, labels = _recorded(golden, case), golden[case, "labels"]
    own = np.arange(len(labels)), labels
    narrow = before.replace(u=_padded(golden[case, "u"][own][:, None]))
    state, metrics = _epoch(golden, case, narrow, clip_tables=True)
    np.testing.assert_allclose(metrics["loss"], golden[case, "total_loss"], rtol=1e-9)
    u, v = (golden[case, f"{name}_after"] for name in ("u", "v"))
    assert np.abs(v).max() > 1 or np.abs(u).max() > 1
    np.testing.assert_allclose(state.u[: len(labels), 0], u[own].clip(-1, 1), rtol=1e-9)
    np.testing.assert_allclose(state.v[: len(labels)], v.clip(-1, 1), rtol=1e-9)


@pytest.mark.parametrize(("learning", "silent"), [("positive", 1), ("negative", 0)])
def test_a_head_that_does_not_learn_gets_no_gradient(learning, silent, load_golden, x64):
    golden, case = load_golden("bldr"), "step/cifar10_boundary"
    before = _recorded(golden, case)
    params = {view: before.params[view][:, :2] for view in PASSES}
    params["features"] = before.params["features"][:, :1]
    before = before.replace(params=params)
    other = {"positive": "negative", "negative": "positive"}[learning]
    state, metrics = _epoch(
        golden, case, before, loss=functools.partial(bldr_loss, **{other: False})
    )
    moved = jax.tree.map(lambda a, b: np.any(a != b, axis=(0, 2)), params, state.params)
    for view in ("cat", "strong"):
        np.testing.assert_array_equal(moved[view], np.arange(2) != silent)
    assert not np.any(moved["weak"]) and not np.any(moved["features"])
    assert not {"exit_1", "distillation", "hint", other} & metrics.keys()
    recorded = golden[case, "criterion_losses"][:, 1 - silent]
    np.testing.assert_allclose(metrics["loss"], recorded, rtol=1e-9)
    # Without positive learning the tables have nothing to explain.
    tables_moved = np.any(state.u != before.u) and np.any(state.v != before.v)
    assert tables_moved == (learning == "positive")


def _state(nl_probs, **changes):
    probs = jnp.asarray(nl_probs, jnp.float32)
    fields = {
        "params": {"w": jnp.float32(1)},
        "batch_stats": {},
        "opt_state": (),
        "ema": {},
        "u": probs[:, None],
        "v": probs[:, None],
        "weights": jnp.ones_like(probs),
        "nl_probs": probs,
        "noise_rate": probs.dtype.type(0.1),
    }
    return BldrState(**{**fields, **changes})


def test_weights_and_noise_rate_wait_for_the_warm_up_and_can_be_switched_off():
    finish = jax.jit(end_epoch, static_argnames=("warm_up", "reweighting", "estimate_noise"))
    state = _state([0.2, 0.6, 1.0, 0.3])
    early = finish(state, 4, warm_up=5)
    np.testing.assert_array_equal(early.weights, 1)
    assert early.noise_rate == np.float32(0.1)
    late = finish(state, 5, warm_up=5)
    np.testing.assert_allclose(late.weights, [0, 0.5, 1, 0.125], rtol=1e-6)
    assert late.noise_rate == 0.25
    fixed = finish(state, 5, warm_up=5, reweighting=False)
    np.testing.assert_array_equal(fixed.weights, 1)
    assert fixed.noise_rate == 0.25
    assert finish(state, 5, warm_up=5, estimate_noise=False).noise_rate == np.float32(0.1)


@pytest.mark.parametrize("case", ["case0", "long"])
def test_the_average_is_that_of_the_authors(case, load_golden):
    golden = load_golden("bldr")
    params = jnp.asarray(golden[f"ema/{case}", "params"], jnp.float32)

    @jax.jit
    def finish(ema, params, epoch):
        return end_epoch(_state([0.5], params={"w": params}, ema={"w": ema}), epoch).ema["w"]

    ema = jnp.full_like(params[0], 123.0)  # epoch 0 copies, whatever there was
    for epoch, recorded in enumerate(golden[f"ema/{case}", "ema_params"]):
        ema = finish(ema, params[epoch], epoch)
        np.testing.assert_allclose(ema, recorded, rtol=1e-6, atol=1e-6)  # float32
    decays = bldr.ema_decay(np.arange(len(params)))[1:]
    np.testing.assert_allclose(decays, golden[f"ema/{case}", "decays"][1:], rtol=1e-6)


def test_table_update_adds_repeated_rows():
    table = jnp.zeros((4, 2))
    grads = jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    updated = bldr.sop_sgd_update(table, jnp.array([3, 1, 3]), grads, learning_rate=0.5)
    np.testing.assert_allclose(updated, [[0, 0], [0, -0.5], [0, 0], [-1.5, -1]])


@pytest.mark.parametrize(
    ("case", "name"), [("cifar10", "cifar10n_worst"), ("cifar100", "cifar100n")]
)
def test_the_recipe_has_the_authors_learning_rates(case, name, load_golden):
    golden, config = load_golden("bldr"), recipe.get_config(name)
    recorded = golden[f"lr/{case}", "lr_used"]
    assert config.num_epochs == len(recorded)
    assert config.bldr.warm_up == golden[f"lr/{case}", "warmup_epochs"]
    schedule = parse(config).optimizer
    rates = [optim.learning_rate(schedule, e, config.num_epochs) for e in (0, 20, 40, 41)]
    np.testing.assert_allclose(rates, recorded[[0, 20, 40, 41]], rtol=1e-5)
    last = optim.learning_rate(schedule, len(recorded) - 1, len(recorded))
    np.testing.assert_allclose(last, recorded[-1], rtol=1e-4)
    config.bldr.warm_up = 60  # moves the schedule with it
    assert optim.learning_rate(parse(config).optimizer, 60, config.num_epochs) == np.float32(0.04)


@pytest.mark.parametrize("case", ["case0", "case1"])
def test_accuracies_of_both_heads_and_together(case, load_golden, x64):
    golden, case = load_golden("bldr"), f"eval/{case}"
    logits = jnp.stack([golden[case, f"{head}_logits"] for head in ("pl", "nl")])
    predictions = [*jax.nn.softmax(logits), bldr.two_head_probs(logits)]
    labels = golden[case, "labels"]
    found = [100 * np.mean(topk_accuracy(probs, labels, 1)) for probs in predictions]
    np.testing.assert_allclose(found, golden[case, "accuracies"], rtol=1e-6)


# Through the task.


def _config(variant="digits", **changes):
    config = recipe.get_config(variant)
    config.writers = ("jsonl",)
    config.model.name = "tiny2"
    config.dataset.max_train = 90
    config.num_epochs = 4
    config.batch_size = 32
    config.bldr.warm_up = 1
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_network, one_device):
    workdir = tmp_path_factory.mktemp("bldr")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noisy_label_files, "NUM_SHOWN", 5)
        return workdir, tasks.run(_config(), workdir)


def _events(workdir, split):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["split"] == split]


def test_a_run_measures_both_heads_and_estimates_the_noise(finished):
    workdir, results = finished
    for values in (results["last"], results["last_epochs"]):
        assert {"accuracy", "accuracy_pl", "accuracy_nl", "ece_nl"} <= values.keys()
    train = _events(workdir, "train")
    assert [e["stage"] for e in train] == ["train"] * 4
    parts = ("positive", "negative", "exit_1", "distillation", "hint")
    for event in train:
        assert event["loss"] == pytest.approx(sum(event[name] for name in parts), rel=1e-5)
    # The first estimate, after epoch 1, is in use from epoch 2 on.
    for event in train[:2]:
        assert event["noise_rate"] == pytest.approx(0.1) and event["mean_weight"] == 1
    for event in train[2:]:
        assert event["noise_rate"] != pytest.approx(0.1) and event["mean_weight"] < 1
    traces = json.loads((workdir / "timing.json").read_text())["traces"]
    assert traces["train/epoch"] == traces["end_epoch"] == 1 and set(traces.values()) == {1}


def test_labels_are_judged_by_the_negative_head(finished):
    workdir, results = finished
    with open(workdir / "label_quality.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 90
    probs, clean = ([float(r[name]) for r in rows] for name in ("nl_prob", "clean_prob"))
    assert clean == sorted(clean) and clean[0] == 0 and clean[-1] == 1
    scaled = (np.array(probs) - probs[0]) / (probs[-1] - probs[0])
    np.testing.assert_allclose(clean, scaled, atol=1e-5)
    assert [r["flagged"] == "1" for r in rows] == [p < 0.05 for p in probs]
    assert {r["prediction_pl"] for r in rows} | {r["prediction_nl"] for r in rows} <= set(
        "0123456789"
    )
    found = results["last"]["labels"]
    assert found["auroc_nl_prob"] == pytest.approx(found["auroc_clean_prob"], abs=1e-6)
    figures = {p.name for p in (workdir / "figures").iterdir()}
    assert figures == {
        "confusion.png",
        "epochs.png",
        "nl_prob.png",
        "reliability.png",
        "suspicious.png",
    }


def _build(config):
    problem = NoisyLabelProblem(
        num_classes=10, num_examples=90, input_shape=(8, 8, 3), dtype=jnp.float32
    )
    method = bldr.build(parse(config), problem)
    return method, jax.eval_shape(method.start, jax.random.key(0))


@pytest.mark.parametrize(
    ("variant", "heads", "parts"),
    [
        ("digits", ("pl", "nl"), {"positive", "negative", "exit_1", "distillation", "hint"}),
        ("digits_reweighted", ("pl", "nl"), {"positive", "negative"}),
        ("digits_both", ("pl", "nl"), {"positive", "negative"}),
        ("digits_positive", ("pl",), {"positive"}),
        ("digits_sop_plus", ("pl",), {"positive"}),
        ("digits_negative", ("nl",), {"negative"}),
        ("digits_nlnl", ("nl",), {"negative"}),
    ],
)
def test_ablations_leave_parts_out(variant, heads, parts, tiny_network):
    method, state = _build(_config(variant))
    assert method.heads == heads and method.score == f"{heads[-1]}_prob"
    assert ("exit_1" in state.params) == ("exit_1" in parts)
    images = jax.ShapeDtypeStruct((32, 8, 8, 3), jnp.float32)
    vector = jax.ShapeDtypeStruct((32,), jnp.int32)
    batch = Batch(vector, vector, jax.ShapeDtypeStruct((32,), bool), (images, images), {})
    scalars = {"learning_rate": jax.ShapeDtypeStruct((), jnp.float32)}
    (stage,) = method.stages
    after, metrics = jax.eval_shape(
        stage.step, state, {}, {"all": batch}, jax.random.key(0), scalars
    )
    assert after == state
    rest = {"loss", "noise_rate", "mean_weight", "label_agreement_pl", "label_agreement_nl"}
    assert metrics.keys() - rest == parts
    logits = jax.eval_shape(method.forward, method.test_variables(state), images)
    assert logits.shape == (32, len(heads), 10)
    columns = jax.eval_shape(
        method.score_labels, jax.ShapeDtypeStruct((len(heads), 32, 10), jnp.float32), vector
    )
    assert ("prediction_nl" in columns) == (len(heads) == 2)


def test_what_is_tested_and_what_detects(tiny_network):
    method, state = _build(_config())
    assert method.test_variables(state)["params"] is state.ema
    assert method.test_variables(state)["batch_stats"] is state.batch_stats
    assert method.score_variables(state)["params"] is state.params
    assert method.score_view == "weak"
    clean = {"bldr.detection_view": "clean", "bldr.detection_params": "ema"}
    method, state = _build(_config(**clean))
    assert method.score_variables(state)["params"] is state.ema
    assert method.score_view == "test"
    method, state = _build(_config(**{"bldr.ema": False}))
    assert method.test_variables(state)["params"] is state.params and state.ema == {}


def test_a_negative_head_that_lacks_classes_is_reported_when_it_matters(tiny_network, caplog):
    method, _ = _build(_config(**{"bldr.warm_up": 3}))
    for epoch in range(6):
        for classes in (4, 10):
            columns = {"prediction_nl": np.arange(90) % classes, "suggested": np.arange(90) % 10}
            method.passes(epoch, columns, lambda name: np.random.default_rng(0))
    (record,) = caplog.records
    assert "only 4 of 10 classes" in record.getMessage()


def test_rates_of_the_tables_go_with_the_batch():
    assert bldr.table_learning_rates(Bldr(), 256) == (10, 10)
    assert bldr.table_learning_rates(Bldr(learning_rate_v=2.0), 32) == (1.25, 0.25)


def test_the_start_is_nearly_without_noise(tiny_network):
    method, _ = _build(_config())

    @jax.jit  # without the network, which takes much longer to compile
    def start(key):
        state = method.start(key)
        return state.u, state.v, state.weights, state.noise_rate

    u, v, weights, noise_rate = start(jax.random.key(0))
    assert u.shape == (90, 1) and v.shape == (90, 10)
    for table in (u, v):
        assert 0.5e-8 < np.std(table) < 1.5e-8
    assert np.all(weights == 1) and noise_rate == np.float32(0.1)


WRONG = {
    "mask": ({"bldr.complementary": "randm"}, "did you mean 'random'"),
    "view": ({"bldr.detection_view": "strong"}, "bldr.detection_view"),
    "params": ({"bldr.detection_params": "emma"}, "did you mean 'ema'"),
    "average": ({"bldr.detection_params": "ema", "bldr.ema": False}, "needs bldr.ema=True"),
    "nothing": ({"bldr.positive": False, "bldr.negative": False}, "nothing would learn"),
    "judge": ({"bldr.negative": False}, "set bldr.reweighting=False"),
    "exits": ({"bldr.positive": False}, "set bldr.self_distillation=False"),
    "weight": ({"bldr.reg_weight": -1.0}, "bldr.reg_weight"),
    "number": ({"bldr.num_complementary": 10}, "below the number of classes"),
    "init": ({"model.init": "kaiming"}, "did you mean 'kaiming_fan_out'"),
    "agreement": (
        {
            "bldr.positive": False,
            "bldr.self_distillation": False,
            "bldr.head_agreement_weight": 10.0,
        },
        "set bldr.head_agreement_weight=0",
    ),
    "schedule": ({"optimizer.schedule": "cosin"}, "did you mean 'cosine'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_recipe_is_answered_by_one_sentence(case, tiny_network, tmp_path):
    changes, words = WRONG[case]
    with pytest.raises(UserError) as caught:
        tasks.run(_config(**changes), tmp_path / "run")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_recipe_of_another_method_lacks_the_section():
    with pytest.raises(UserError, match=r"start from --config=configs/bldr\.py"):
        config = dpc_recipe.get_config("digits")
        config.method = "bldr"
        parse(config)


def test_rivals_run_on_its_splits_with_the_numbers_of_dpc(tiny_network):
    for name in ("cifar10n_aggre", "digits", "fashion_mnist", "image_folder"):
        assert recipe.get_config(name).dpc == dpc_recipe.get_config(name).dpc
    assert recipe.get_config("cifar100_pair45").dpc == dpc_recipe.get_config("cifar100_sym50").dpc
    for method in ("dividemix", "dpc"):
        config = _config(method=method)
        problem = NoisyLabelProblem(
            num_classes=10, num_examples=90, input_shape=(8, 8, 3), dtype=jnp.float32
        )
        built = NOISY_LABEL_METHODS[method](parse(config), problem)
        state = jax.eval_shape(built.start, jax.random.key(0))
        assert "batch_stats" in state.variables


def test_every_setting_of_the_issue_is_a_variant():
    for name in recipe.SETTINGS:
        for suffix in ("", *(f"_{ablation}" for ablation in recipe.ABLATIONS)):
            parse(recipe.get_config(name + suffix))
    worst = recipe.get_config()
    assert (worst.noise.kind, worst.noise.label_set) == ("human", "worst")
    assert (worst.model.name, worst.batch_size, worst.num_epochs) == ("resnet34", 256, 320)
    assert worst.bldr.head_agreement_weight == 0
    hundred = recipe.get_config("cifar100n")
    assert hundred.noise.label_set == "noisy100" and hundred.bldr.head_agreement_weight == 10
    pairs = recipe.get_config("cifar10_pair45").noise
    assert (pairs.kind, pairs.rate, pairs.seed) == ("pairflip", 0.45, 0)
    alone = recipe.get_config("digits_positive").bldr
    assert (alone.noise_rate, alone.reg_weight) == (1, 1)
    sop = recipe.get_config("digits_sop_plus").bldr
    assert (sop.noise_terms, sop.noise_rate, sop.reg_weight, sop.ema) == ("sop", 1, 1, False)
    first = recipe.get_config("cifar100n_first_upload")
    assert (first.optimizer.learning_rate, first.model.init) == (0.02, "kaiming_fan_out")
    assert (first.bldr.noise_rate, first.bldr.reg_weight, first.bldr.reg_power) == (0, 25, 1)
    for ablation in ("positive", "negative", "nlnl"):
        assert recipe.get_config(f"cifar100n_{ablation}").bldr.head_agreement_weight == 0
    assert not (alone.estimate_noise or alone.negative or alone.reweighting)
    with pytest.raises(UserError, match="did you mean 'cifar10n_worst'"):
        recipe.get_config("cifar10n_wors")
