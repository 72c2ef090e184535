"""DHKD's step and its baselines, over a network that is injected."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from configs import dhkd as recipe
from jaxrobust.engine.optim import learning_rate, make_optimizer
from jaxrobust.errors import UserError
from jaxrobust.losses import binary_kl_loss, soft_target_kl, standardize_logits
from jaxrobust.methods import dhkd
from jaxrobust.methods.distillation_steps import (
    CONNECTOR,
    ClassifierState,
    DistillationBatch,
    TrainSpec,
    distillation_step,
    initial_state,
    student_apply,
)
from jaxrobust.methods.distiller import DistillationProblem, distillation_schedule
from jaxrobust.models import make_classifier
from jaxrobust.models.auxiliary_head import Outputs
from jaxrobust.models.layers import FeatureMaps
from jaxrobust.recipes.dhkd import DISTILLATIONS
from jaxrobust.recipes.methods import DISTILLERS
from jaxrobust.recipes.parse import parse

SEED_IN_CONFLICT = 4  # of a batch on which the two gradients of `_random_params` disagree
STEP_CASES = ("aligned", "conflict", "weighted")
PARTS = {"backbone": "backbone", "fc": "primary", "fc2": "auxiliary"}  # golden name -> ours


def _config(**changes) -> ml_collections.ConfigDict:
    config = recipe.get_config("digits")
    config.update_from_flattened_dict(changes)
    return config


def _features(batch, *, channels=3, width=4):
    maps = tuple(jnp.zeros((batch, size, size, channels), jnp.float32) for size in (4, 2))
    return FeatureMaps(jnp.zeros((batch, width), jnp.float32), maps, maps, maps[-1])


def _problem(num_classes=4, *, student="resnet8", teacher="resnet14"):
    features = jax.eval_shape(lambda: _features(1))
    return DistillationProblem(
        num_classes, student, teacher, features, features, jnp.float32, num_examples=8
    )


def _apply(params, batch_stats, inputs, *, train, key=None, where=None, constants=None):
    """Two linear heads on `tanh` of a linear layer, in PyTorch's layout."""
    del train, key, where, constants

    def linear(x, part):
        weight = params[part]["weight"]
        return jnp.matmul(x, weight.T, precision="highest") + params[part]["bias"][None]

    h = jnp.tanh(linear(inputs, "backbone"))
    aux_logits = linear(h, "auxiliary") if "auxiliary" in params else None
    return Outputs(linear(h, "primary"), aux_logits, FeatureMaps(h, (), (), h)), batch_stats


def _params(golden, prefix):
    params = {part: {} for part in PARTS.values()}
    for name in golden.names("train_step"):
        if name.startswith(prefix + "/"):
            part, leaf = name.removeprefix(prefix + "/").split("_")
            params[PARTS[part]][leaf] = golden["train_step", name]
    return params


def _random_params(seed, *, inputs=6, hidden=5, classes=4, scale=0.5):
    generator = np.random.default_rng(seed)

    def linear(rows, columns):
        draw = scale * generator.normal(size=(rows, columns + 1))
        return {"weight": jnp.asarray(draw[:, :-1]), "bias": jnp.asarray(draw[:, -1])}

    return {
        "backbone": linear(hidden, inputs),
        "primary": linear(classes, hidden),
        "auxiliary": linear(classes, hidden),
    }


def _random_batch(seed, *, size=8, inputs=6, classes=4):
    generator = np.random.default_rng(seed)
    images = jnp.asarray(generator.normal(size=(size, inputs)))
    labels = jnp.asarray(generator.integers(0, classes, size))
    teacher = jnp.asarray(3 * generator.normal(size=(size, classes)))
    return DistillationBatch(images, labels, jnp.ones(size, bool)), Outputs(teacher, None, None)


def _stepper(distiller, optimizer):
    step = functools.partial(
        distillation_step, apply=_apply, distiller=distiller, optimizer=optimizer
    )
    return jax.jit(step)


@functools.cache
def _dual_head_step(options):
    config = _config(**dict(options))
    optimizer = make_optimizer(parse(config).optimizer)
    return _stepper(dhkd.build(parse(config), _problem()), optimizer), optimizer


def _scalars(rate=0.05, **changes):
    values = {"learning_rate": rate, "ramp": 1.0, "distill_weight": 1.0, **changes}
    return {name: np.float64(value) for name, value in values.items()}


@pytest.mark.parametrize("case", STEP_CASES)
@pytest.mark.parametrize("gradients", ["align", "sum"])
def test_golden_steps(load_golden, x64, case, gradients):
    golden = load_golden("dhkd")
    assert {name.split("/")[0] for name in golden.names("train_step")} == set(STEP_CASES)

    def recorded(name):
        return golden["train_step", f"{case}/{name}"]

    gamma, alpha, temperature, rate, momentum, weight_decay = recorded(
        "hyper_gamma_alpha_T_lr_momentum_wd"
    ).tolist()
    options = (
        ("distill.gamma", gamma),
        ("distill.alpha", alpha),
        ("distill.temperature", temperature),
        ("distill.gradients", gradients),
        ("optimizer.momentum", momentum),
        ("optimizer.weight_decay", weight_decay),
    )
    step, optimizer = _dual_head_step(options)
    params = _params(golden, f"{case}/init")
    network = ClassifierState(params, {}, optimizer.init(params), {})
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
    short = {"align": "ga", "sum": "sum"}[gradients]
    steps = list(zip(recorded("x"), recorded("labels"), recorded("teacher"), strict=True))
    for i, (x, labels, teacher) in enumerate(steps, start=1):
        batch = DistillationBatch(x, labels, np.ones(len(x), bool))
        network, metrics = step(
            network, batch, Outputs(teacher, None, None), jax.random.key(0), _scalars(rate)
        )
        if i == 1:
            close(metrics["loss_cls"], gamma * recorded("loss_cls"))
            close(metrics["loss_kd"], alpha * recorded("loss_kd"))
            close(metrics["loss"], recorded("loss_total"))
        if i in (1, len(steps)):
            after = _params(golden, f"{case}/{short}_params_after{i}")
            jax.tree.map(close, network.params, after)


def _gradients_of(distiller, params, batch, teacher):
    """The two gradients that a step merges."""
    optimizer = optax.identity()

    @jax.jit
    def gradients(params):
        found = []

        def merge(*grads):
            found.extend(grads)
            return grads[0]

        distillation_step(
            ClassifierState(params, {}, optimizer.init(params), {}),
            batch,
            teacher,
            None,
            _scalars(),
            apply=_apply,
            distiller=dataclasses.replace(distiller, merge=merge),
            optimizer=optimizer,
        )
        return found

    return gradients(params)


def _norms(tree):
    return {part: float(optax.tree.norm(leaves)) for part, leaves in tree.items()}


def test_each_head_sees_its_own_loss_alone(x64):
    params, (batch, teacher) = _random_params(0), _random_batch(0)
    cls, kd = _gradients_of(dhkd.build(parse(_config()), _problem()), params, batch, teacher)
    assert _norms(cls)["auxiliary"] == 0 == _norms(kd)["primary"]
    assert min(_norms(cls)["primary"], _norms(kd)["auxiliary"], _norms(kd)["backbone"]) > 0
    single = DISTILLERS["cross_entropy_binary_kl"](parse(_config()), _problem())
    assert single.auxiliary == "none" and single.merge is None
    cls, kd = _gradients_of(single, params, batch, teacher)
    assert min(_norms(cls)["primary"], _norms(kd)["primary"]) > 0
    alone = DISTILLERS["binary_kl"](parse(_config()), _problem())
    cls, kd = _gradients_of(alone, params, batch, teacher)
    assert max(_norms(cls).values()) == 0 < _norms(kd)["primary"]


def _merged(params, batch, teacher, **changes):
    """What one step of plain descent at rate 1 takes from the parameters."""
    optimizer = optax.identity()
    step = _stepper(dhkd.build(parse(_config(**changes)), _problem()), optimizer)
    after, metrics = step(
        ClassifierState(params, {}, optimizer.init(params), {}),
        batch,
        teacher,
        jax.random.key(0),
        _scalars(1.0),
    )
    return jax.tree.map(jnp.subtract, params, after.params), metrics


def test_alignment_within_the_step(x64):
    params, (batch, teacher) = _random_params(SEED_IN_CONFLICT), _random_batch(SEED_IN_CONFLICT)
    cls, kd = _gradients_of(dhkd.build(parse(_config()), _problem()), params, batch, teacher)
    dot = optax.tree.vdot(cls, kd)
    gain = 1 + abs(dot) / optax.tree.vdot(cls, cls)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
    aligned, metrics = _merged(params, batch, teacher)
    assert metrics["gradient_cosine"] < 0
    jax.tree.map(lambda a, g: close(a, gain * g), aligned["primary"], cls["primary"])
    jax.tree.map(close, aligned["auxiliary"], kd["auxiliary"])
    within, _ = _merged(params, batch, teacher, **{"distill.scope": "backbone"})
    jax.tree.map(close, within["primary"], cls["primary"])
    rest = jax.tree.map(jnp.subtract, within["backbone"], cls["backbone"])
    close(optax.tree.vdot(rest, cls["backbone"]), 0.0, atol=1e-9)
    both, _ = _merged(params, batch, teacher, **{"distill.gradients": "pcgrad"})
    of_kd = 1 + abs(dot) / optax.tree.vdot(kd, kd)
    expected = jax.tree.map(lambda c, k: gain * c + of_kd * k, cls, kd)
    jax.tree.map(close, both, expected)


def test_without_alpha_the_rest_is_plain_training(x64):
    trained = {}
    for method, gradients in (("cross_entropy", "sum"), ("dhkd", "sum"), ("dhkd", "align")):
        config = _config(**{"distill.alpha": 0.0, "distill.gradients": gradients})
        optimizer = make_optimizer(parse(config).optimizer)
        step = _stepper(DISTILLERS[method](parse(config), _problem()), optimizer)
        params = _random_params(1)
        if method == "cross_entropy":
            del params["auxiliary"]
        network = ClassifierState(params, {}, optimizer.init(params), {})
        for seed in range(3):
            network, _ = step(network, *_random_batch(seed), jax.random.key(0), _scalars())
        trained[gradients, method] = network.params
    plain = trained.pop(("sum", "cross_entropy"))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12)
    for params in trained.values():
        jax.tree.map(close, {part: params[part] for part in plain}, plain)


def test_both_losses_fall_and_the_auxiliary_head_nears_the_teacher():
    config = _config()
    optimizer = make_optimizer(parse(config).optimizer)
    step = _stepper(dhkd.build(parse(config), _problem()), optimizer)
    single = functools.partial(jax.tree.map, lambda x: jnp.asarray(x, jnp.float32))
    params = single(_random_params(3, hidden=16))
    batch, teacher = _random_batch(3)
    batch = batch._replace(images=batch.images.astype(jnp.float32))
    teacher = teacher._replace(logits=teacher.logits.astype(jnp.float32))
    scalars = single(_scalars(0.02))
    network, history = ClassifierState(params, {}, optimizer.init(params), {}), []

    @jax.jit
    def distance(params):
        outputs, _ = _apply(params, {}, batch.images, train=False)
        return jnp.mean(jnp.abs(outputs.aux_logits - teacher.logits))

    before = distance(params)
    for _ in range(200):
        network, metrics = step(network, batch, teacher, jax.random.key(0), scalars)
        history.append((metrics["loss_cls"], metrics["loss_kd"]))
    assert history[-1][0] < 0.1 * history[0][0] and history[-1][1] < 0.2 * history[0][1]
    assert distance(network.params) < 0.3 * before


def _outputs(seed, num_classes=4, batch=6):
    generator = np.random.default_rng(seed)
    features = jax.tree.map(
        lambda x: jnp.asarray(generator.normal(size=x.shape), jnp.float32), _features(batch)
    )
    logits = jnp.asarray(3 * generator.normal(size=(2, batch, num_classes)), jnp.float32)
    return Outputs(logits[0], logits[1], features)


@pytest.mark.parametrize(("method", "normalizes"), [("vid", False), ("fitnet", True)])
def test_a_connector_without_batch_norm_leaves_the_statistics_as_they_were(method, normalizes):
    module = make_classifier("resnet8", num_classes=4, auxiliary="none", dtype=jnp.float32)
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    outputs, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), images)
    problem = DistillationProblem(
        4, "resnet8", "resnet8", outputs.features, outputs.features, jnp.float32, 8
    )
    distiller = DISTILLERS[method](parse(_config()), problem)
    spec = TrainSpec(
        module, distiller, optax.identity(), (8, 8, 3), 2, padding=0, flip=False, dtype=jnp.float32
    )
    network = jax.eval_shape(initial_state(spec), jax.random.key(0))
    apply = functools.partial(student_apply(module, distiller.connector), train=True)
    _, after = jax.eval_shape(apply, network.params, network.batch_stats, images)
    assert jax.tree.structure(after) == jax.tree.structure(network.batch_stats)
    assert (CONNECTOR in after) == normalizes


def _connected(connector, features):
    """Random numbers in the shapes of what a connector makes of features."""
    generator = np.random.default_rng(2)
    shapes = jax.eval_shape(lambda f: connector.init_with_output(jax.random.key(0), f)[0], features)
    return jax.tree.map(lambda x: jnp.asarray(generator.normal(size=x.shape), x.dtype), shapes)


@pytest.mark.parametrize("method", DISTILLERS)
def test_the_registry_says_whose_connector_has_a_row_for_each_image(method):
    features = jax.eval_shape(lambda: _features(1))

    def shapes(count):
        problem = dataclasses.replace(_problem(), num_examples=count)
        connector = DISTILLERS[method](parse(_config()), problem).connector
        variables = connector and jax.eval_shape(connector.init, jax.random.key(0), features)
        return [x.shape for x in jax.tree.leaves(variables)]

    assert (shapes(8) != shapes(9)) == DISTILLERS.entry(method).has_tables


@pytest.mark.parametrize("method", DISTILLERS)
def test_every_method_reads_the_valid_rows_and_leaves_the_teacher_alone(method):
    distiller = DISTILLERS[method](parse(_config()), _problem())
    student, teacher = _outputs(0), _outputs(1)
    if distiller.connector is not None:
        connected = _connected(distiller.connector, student.features)
        student = student._replace(features=connected)
    if distiller.logits_only:
        teacher = Outputs(teacher.logits, aux_logits=None, features=None)
    labels, where = jnp.array([0, 3, 1, 2, 0, 0]), jnp.arange(6) < 4
    ramp = jnp.float32(0.5)

    @jax.jit
    def evaluate(student, teacher):
        def total(student, teacher):
            losses = distiller.objective(student, teacher, labels, where, ramp)
            return sum(losses), losses

        (_, losses), grads = jax.value_and_grad(total, (0, 1), has_aux=True)(student, teacher)
        return losses, grads

    (loss_cls, loss_kd), (of_student, of_teacher) = evaluate(student, teacher)
    assert not any(np.any(g) for g in jax.tree.leaves(of_teacher))
    assert not any(np.any(np.asarray(g)[4:]) for g in jax.tree.leaves(of_student))
    assert (loss_kd > 0) == distiller.has_teacher
    assert (loss_cls > 0) == (method != "binary_kl")
    other = jax.tree.map(lambda x: x.at[4:].set(7.0), student)
    (again_cls, again_kd), _ = evaluate(other, teacher)
    np.testing.assert_allclose([again_cls, again_kd], [loss_cls, loss_kd], rtol=1e-5)


def test_a_temperature_stays_with_its_method():
    student, teacher = _outputs(0), _outputs(1)
    labels, where, one = jnp.zeros(6, int), jnp.ones(6, bool), jnp.float32(1)

    def distilled(method, **changes):
        distiller = DISTILLERS[method](parse(_config(**changes)), _problem())
        return float(distiller.objective(student, teacher, labels, where, one)[1])

    at_4 = 0.9 * float(soft_target_kl(student.logits, teacher.logits, temperature=4.0).mean())
    for changes in ({}, {"distill.temperature": 3.0}, {"dkd.temperature": 1.0}):
        assert distilled("kd", **changes) == pytest.approx(at_4, rel=1e-6)
    at_2 = float(binary_kl_loss(student.logits, teacher.logits, temperature=2.0).mean())
    for changes in ({}, {"kd.temperature": 1.0}):
        assert distilled("binary_kl", **changes) == pytest.approx(at_2, rel=1e-6)
    changes = {"distill.loss": "soft_target_kl", "distill.head": "primary"}
    assert 0.9 * distilled("dhkd", **changes) == pytest.approx(at_4, rel=1e-6)


@pytest.mark.parametrize(("method", "section"), [("kd", "kd"), ("dkd", "dkd"), ("dhkd", "distill")])
def test_standardised_logits_are_a_switch(method, section):
    def distilled(student, teacher, **changes):
        distiller = DISTILLERS[method](parse(_config(**changes)), _problem())
        labels, where = jnp.zeros(6, int), jnp.ones(6, bool)
        return float(distiller.objective(student, teacher, labels, where, jnp.float32(1))[1])

    pair = _outputs(0), _outputs(1)
    standardised = (
        outputs._replace(
            logits=standardize_logits(outputs.logits),
            aux_logits=standardize_logits(outputs.aux_logits),
        )
        for outputs in pair
    )
    found = distilled(*pair, **{f"{section}.standardize": True})
    assert found == pytest.approx(distilled(*standardised), rel=1e-5)
    assert found != pytest.approx(distilled(*pair), rel=1e-2)


def test_a_hint_beyond_the_last_stage_is_refused():
    with pytest.raises(UserError, match="have only 2 stages in common; set one of 1 to 2"):
        DISTILLERS["fitnet"](parse(_config(**{"fitnet.hint_stage": 3})), _problem())


def test_the_auxiliary_head_follows_the_families():
    def head(student, teacher, **changes):
        problem = _problem(student=student, teacher=teacher)
        return dhkd.build(parse(_config(**changes)), problem).auxiliary

    same = (("resnet20", "resnet56"), ("resnet8x4", "resnet32x4"), ("wrn_16_2", "wrn_40_2"))
    cross = (("vgg8", "resnet50"), ("shuffle_v2", "resnet32x4"), ("mobilenet_v2_half", "vgg13"))
    assert {head(*pair) for pair in same} == {"linear"}
    assert {head(*pair) for pair in cross} == {"mlp"}
    assert head("vgg8", "resnet50", **{"distill.auxiliary": "linear"}) == "linear"
    assert head("vgg8", "resnet50", **{"distill.head": "primary"}) == "none"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"distill.loss": "binary"}, "did you mean 'binary_kl'"),
        ({"distill.head": "aux"}, "did you mean 'auxiliary'"),
        ({"distill.auxiliary": "none"}, "Valid: auto, linear, mlp"),
        ({"distill.gradients": "aligned"}, "did you mean 'align'"),
        ({"distill.scope": "head"}, "Unknown distill.scope 'head'"),
        ({"distill.scope": "backbone", "distill.gradients": "sum"}, "set one of the two"),
    ],
)
def test_wrong_options_are_answered_in_words(changes, words):
    with pytest.raises(UserError) as caught:
        dhkd.build(parse(_config(**changes)), _problem())
    assert words in str(caught.value)


def test_wrong_arguments_of_the_objective():
    logits = jnp.zeros((2, 3), jnp.float32)
    for options, words in (
        ({"loss": "kl"}, "Unknown loss 'kl'"),
        ({"head": "both"}, "Unknown head 'both'"),
    ):
        with pytest.raises(ValueError, match=words):
            dhkd.dual_head_objective(logits, logits, logits, jnp.zeros(2, int), **options)


def test_schedule_of_the_distillation():
    def weights(epochs, **options):
        options = {"warm_up": 0, "until_epoch": 0, **options}
        found = [distillation_schedule(epoch, **options) for epoch in epochs]
        return [f["ramp"] for f in found], [f["distill_weight"] for f in found]

    assert weights(range(3)) == ([1, 1, 1], [1, 1, 1])
    assert weights((0, 9, 19, 20), warm_up=20) == ([0.05, 0.5, 1, 1], [1, 1, 1, 1])
    assert weights((0, 10, 20), warm_up=20, warm_up_from=0) == ([0, 0.5, 1], [1, 1, 1])
    # Epoch 49 is the last one with distillation, epoch 50 the first without.
    assert weights((0, 48, 49, 99), until_epoch=49)[1] == [1, 1, 0, 0]


def test_learning_rates_as_recorded(load_golden):
    golden = load_golden("dhkd")
    cases = {
        "cifar": ("resnet56_resnet20", "learning_rate"),
        "cifar_mobile": ("resnet32x4_shuffle_v2", "mobile_learning_rate"),
        "imagenet": ("resnet34_resnet18_imagenet", "learning_rate"),
    }
    assert {name.split("/")[0] for name in golden.names("lr")} == set(cases)
    for case, (variant, field) in cases.items():
        base, factor, num_epochs = golden["lr", f"{case}/base_rate_epochs"].tolist()
        config = recipe.get_config(variant)
        assert config.num_epochs == num_epochs and config.optimizer.decay_factor == factor
        assert config.optimizer.decay_epochs == tuple(golden["lr", f"{case}/milestones"])
        assert config.optimizer[field] == pytest.approx(base)
        config.optimizer.learning_rate = config.optimizer[field]
        rates = [
            learning_rate(parse(config).optimizer, e, config.num_epochs)
            for e in range(int(num_epochs))
        ]
        np.testing.assert_allclose(rates, golden["lr", f"{case}/lr"], rtol=1e-12)
    assert rates[0] == 0.1


def test_every_pair_of_the_paper_is_a_variant():
    from jaxrobust.models import BACKBONES

    pairs = {name: v for name, v in DISTILLATIONS.items() if v[0] in ("cifar100", "imagenet")}
    assert len(pairs) == 15
    for name, (dataset, teacher, student, beta) in pairs.items():
        config = recipe.get_config(name)
        assert config.dataset.name == dataset and {teacher, student} <= BACKBONES.keys()
        assert (config.teacher.name, config.student.name) == (teacher, student)
        assert config.dkd.beta == beta
        assert config.distill.gradients == ("sum" if dataset == "imagenet" else "align")
    with pytest.raises(UserError, match="did you mean 'resnet56_resnet20'"):
        recipe.get_config("resnet56_resnet2")


def test_baselines_have_their_authors_settings():
    at_cifar = {
        "resnet56_resnet20": 0.6,
        "resnet110_resnet32": 1.0,
        "resnet32x4_shuffle_v2": 8.0,
        "resnet32x4_resnet8x4": 5.0,
        "wrn_40_2_wrn_16_2": 5.0,
    }
    for variant, weight in at_cifar.items():
        config = recipe.get_config(variant)
        assert (config.reviewkd.weight, config.reviewkd.warm_up) == (weight, 20)
        assert config.reviewkd.student_maps == "activation"
        assert (config.dist.temperature, config.dist.weight) == (4.0, 2.0)
    config = recipe.get_config("resnet50_mobilenet_v1_imagenet")
    review = config.reviewkd
    assert (review.weight, review.warm_up, review.width) == (8.0, 0, 256)
    assert (config.dist.temperature, config.dist.weight) == (1.0, 2.0)


def test_dhkd_alone_stops_distilling_on_imagenet():
    config = recipe.get_config("resnet34_resnet18_imagenet")
    assert config.distill_until_epoch == 0
    last = {
        name: build(parse(config), _problem()).until_epoch for name, build in DISTILLERS.items()
    }
    stopping = {name for name, epoch in last.items() if epoch == 49}
    assert stopping == {"dhkd", "dhkd_reviewkd", "cross_entropy_binary_kl"}
    assert set(last.values()) == {0, 49}


def test_dist_is_weighted():
    student, teacher = _outputs(0), _outputs(1)
    labels, where, one = jnp.zeros(6, int), jnp.ones(6, bool), jnp.float32(1)
    once, thrice = (
        DISTILLERS["dist"](parse(_config(**{"dist.weight": weight})), _problem()).objective(
            student, teacher, labels, where, one
        )[1]
        for weight in (1.0, 3.0)
    )
    assert float(thrice) == pytest.approx(3 * float(once))


def test_attention_is_transferred_between_the_outputs_of_wide_blocks():
    student, teacher = _outputs(0), _outputs(1)
    labels, where, one = jnp.zeros(6, int), jnp.ones(6, bool), jnp.float32(1)

    def loss(student, teacher):
        return float(
            DISTILLERS["at"](parse(_config()), _problem()).objective(
                student, teacher, labels, where, one
            )[1]
        )

    def with_blocks(outputs, factor):
        blocks = tuple(factor * x for x in outputs.features.maps)
        maps = tuple(x**2 for x in outputs.features.maps)
        return outputs._replace(features=outputs.features._replace(maps=maps, blocks=blocks))

    # Maps are normalised, so that a factor is of no account, but a square is.
    wanted = loss(student, teacher)
    assert loss(student, with_blocks(teacher, 2.0)) == pytest.approx(wanted, rel=1e-5)
    assert loss(with_blocks(student, 2.0), with_blocks(teacher, 1.0)) == pytest.approx(
        wanted, rel=1e-5
    )


@pytest.mark.parametrize("method", ["fitnet", "sp", "vid", "reviewkd"])
def test_outputs_of_wide_blocks_are_compared_by_the_others_too(method):
    """Of a student with blocks of its own the maps after the next BatchNorm are not read."""
    problem = _problem()
    student = _outputs(0).features
    wide = student._replace(blocks=student.maps, maps=tuple(x**2 for x in student.maps))
    if method == "sp":
        found = [
            DISTILLERS[method](parse(_config()), problem).objective(
                _outputs(0)._replace(features=x),
                _outputs(1),
                jnp.zeros(6, int),
                jnp.ones(6, bool),
                jnp.float32(1),
            )[1]
            for x in (student, wide)
        ]
    else:
        connector = DISTILLERS[method](parse(_config()), problem).connector
        variables = connector.init(jax.random.key(0), student)
        found = [jax.tree.leaves(connector.apply(variables, x).maps) for x in (student, wide)]
    chex.assert_trees_all_equal(*found)


def test_dhkd_reviewkd_goes_on_with_reviewkd_after_dhkd_has_stopped():
    """On ImageNet, whose gradients are added up, it is not in the part that stops."""
    student, teacher = _outputs(0), _outputs(1)
    labels, where = jnp.zeros(6, int), jnp.ones(6, bool)
    parts = {}
    for gradients in ("sum", "align"):
        changes = {"method": "dhkd_reviewkd", "distill.gradients": gradients}
        distiller = DISTILLERS["dhkd_reviewkd"](parse(_config(**changes)), _problem())
        features = _connected(distiller.connector, student.features)
        outputs = student._replace(features=features)
        parts[gradients] = [
            np.array(distiller.objective(outputs, teacher, labels, where, jnp.float32(ramp)))
            for ramp in (0, 1)
        ]
    (before, after), (before_align, after_align) = parts["sum"], parts["align"]
    assert after[0] > before[0] and after[1] == before[1]
    assert after_align[0] == before_align[0] and after_align[1] > before_align[1]
    np.testing.assert_allclose(after.sum(), after_align.sum(), rtol=1e-6)


@pytest.mark.parametrize(("maps", "place"), [("activation", "maps"), ("preactivation", "other")])
def test_reviewkd_reads_the_students_maps_on_either_side_of_the_activation(maps, place):
    config = _config(**{"reviewkd.student_maps": maps})
    fusion = DISTILLERS["reviewkd"](parse(config), _problem()).connector
    features = _features(1)
    features = features._replace(preactivations=tuple(x + 1 for x in features.maps))
    first = fusion.levels(features)[0]
    assert float(jnp.max(first)) == (0 if place == "maps" else 1)
