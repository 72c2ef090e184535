"""L2D and its baselines as methods of the distillation task."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import l2d as recipe
from jaxrobust import losses
from jaxrobust.engine.optim import is_decayed
from jaxrobust.engine.sharding import make_placement
from jaxrobust.errors import UserError
from jaxrobust.methods.distiller import DistillationProblem
from jaxrobust.models import make_multilabel_classifier
from jaxrobust.models.layers import FeatureMaps
from jaxrobust.models.ml_decoder import MultiLabelOutputs
from jaxrobust.recipes.l2d import MULTILABEL_DISTILLATIONS
from jaxrobust.recipes.methods import MULTILABEL_DISTILLERS
from jaxrobust.recipes.parse import parse

ONE = jnp.float32(1)


def _config(**changes):
    config = recipe.get_config("coco_resnet101_resnet34")
    config.update_from_flattened_dict(changes)
    return config


def _features(pooled):
    maps = pooled[:, None, None, :]
    return FeatureMaps(pooled, (maps,), (maps,), maps)


def _outputs(rng, num=6, classes=5, width=4):
    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    logits, embeddings = normal(num, classes), normal(num, classes, width)
    return MultiLabelOutputs(logits, embeddings, _features(normal(num, 3)))


@pytest.fixture(scope="module")
def batch():
    """Student, teacher, targets and which images are there: the last two are padding."""
    rng = np.random.default_rng(0)
    student, teacher = _outputs(rng), _outputs(rng)
    targets = np.array(rng.random((6, 5)) < 0.6, np.uint8)
    return student, teacher, targets, np.arange(6) < 4


def _objective(method, batch, **changes):
    """Losses on the labels and of the distillation, and the measures."""
    distiller = MULTILABEL_DISTILLERS[method](parse(_config(**changes)), None)

    @jax.jit
    def run(student, teacher, targets, where):
        pair = distiller.objective(student, teacher, targets, where, ONE)
        return pair, distiller.measures(student, teacher, targets, where)

    return run(*batch)


@pytest.mark.parametrize("case", ["case0", "case1"])
def test_the_recorded_objective_in_a_batch_with_padding(case, load_golden):
    golden = load_golden("l2d")

    def padded(name):
        array = np.float32(golden["l2d_objective", f"{case}/{name}"])
        return np.concatenate([array, np.full((2, *array.shape[1:]), 7, np.float32)])

    targets = padded("targets") % 6  # 7 is 1 here: padding that looks like all classes
    where = np.arange(len(targets)) < len(targets) - 2
    features = _features(np.zeros((len(targets), 3), np.float32))
    teacher = MultiLabelOutputs(padded("teacher_logits"), padded("le_teacher"), features)
    distiller = MULTILABEL_DISTILLERS["l2d"](parse(_config()), None)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def run(logits, embeddings):
        student = MultiLabelOutputs(logits, embeddings, features)
        loss_cls, loss_kd = distiller.objective(student, teacher, targets, where, ONE)
        return loss_cls + loss_kd, (loss_cls, loss_kd)

    (total, parts), grads = run(padded("student_logits"), padded("le_student"))
    wanted = [golden["l2d_objective", f"{case}/loss_{n}"] for n in ("total", "bce", "distill")]
    np.testing.assert_allclose([total, *parts], wanted, rtol=1e-4)
    for grad, name in zip(grads, ("student_logits", "le_student"), strict=True):
        recorded = golden["l2d_objective", f"{case}/grad_{name}"]
        np.testing.assert_allclose(grad[:-2], recorded, rtol=1e-4, atol=1e-4)
        assert not np.any(grad[-2:])


def test_the_ablations_leave_out_their_terms(batch):
    (loss_cls, whole), terms = _objective("l2d", batch)
    assert set(terms) == {"mld", "cd", "id"} and all(value > 0 for value in terms.values())
    weights = {"mld": 10, "cd": 100, "id": 1000}
    np.testing.assert_allclose(whole, sum(weights[n] * terms[n] for n in terms), rtol=1e-5)
    for method, kept in {
        "bce": (),
        "mld": ("mld",),
        "mld_cd": ("mld", "cd"),
        "mld_id": ("mld", "id"),
    }.items():
        (other_cls, loss_kd), measures = _objective(method, batch)
        assert other_cls == loss_cls and set(measures) == set(kept)
        np.testing.assert_allclose(loss_kd, sum(weights[n] * terms[n] for n in kept), rtol=1e-5)


def test_the_papers_reductions(batch):
    student, teacher, targets, _ = batch
    targets = np.where(np.arange(6)[:, None] < 4, targets, 0)
    (code, _), _ = _objective("bce", batch)
    (paper, _), measures = _objective(
        "l2d", batch, **{"labels.reduction": "batchmean", "l2d.normalize": False}
    )
    np.testing.assert_allclose(paper, code / 4, rtol=1e-6)
    raw = losses.class_aware_embedding_distillation_loss(
        student.label_embeddings,
        teacher.label_embeddings,
        targets,
        normalize=False,
        group_mean=False,
    )
    np.testing.assert_allclose(measures["cd"], raw, rtol=1e-5)


def test_the_asymmetric_loss_on_the_labels(batch):
    student, _, targets, where = batch
    options = {"gamma_neg": 2.0, "gamma_pos": 0.0, "margin": 0.0}
    changes = {f"asymmetric.{name}": value for name, value in options.items()}
    (loss, _), _ = _objective("bce", batch, **{"labels.loss": "asymmetric", **changes})
    values = losses.asymmetric_loss(student.logits, targets, **options)
    np.testing.assert_allclose(loss, np.sum(np.asarray(values)[where]), rtol=1e-5)


def test_baselines_see_what_they_are_meant_to(batch):
    student, teacher, targets, _ = batch
    pooled = [x.features.pooled[:4] for x in (student, teacher)]
    logits = [x.logits[:4] for x in (student, teacher)]

    @jax.jit
    def expected():
        return {
            "mse": jnp.mean(losses.logit_mse_loss(*logits)),
            "ps": jnp.mean(losses.partial_softmax_distillation_loss(*logits, targets[:4])),
            "rkd": losses.rkd_loss(*pooled),
            "pkt": losses.pkt_loss(*pooled),
        }

    for method, value in expected().items():
        weight = {} if method == "rkd" else {f"{method}.weight": 3.0}
        (_, loss_kd), measures = _objective(method, batch, **weight)
        np.testing.assert_allclose(measures[method], value, rtol=1e-5)
        np.testing.assert_allclose(loss_kd, measures[method] * (3 if weight else 1), rtol=1e-6)


def test_reviewkd_compares_the_final_maps():
    def features(channels):
        maps = tuple(jax.ShapeDtypeStruct((1, s, s, 4), jnp.float32) for s in (4, 2))
        final = jax.ShapeDtypeStruct((1, 2, 2, channels), jnp.float32)
        return FeatureMaps(jax.ShapeDtypeStruct((1, channels), jnp.float32), maps, maps, final)

    problem = DistillationProblem(5, "a", "b", features(3), features(6), jnp.float32, 8)
    config = _config(**{"reviewkd.width": 8})
    distiller = MULTILABEL_DISTILLERS["reviewkd"](parse(config), problem)
    (student,), params = jax.eval_shape(
        lambda x: (lambda fused, variables: ((fused.maps,), variables["params"]))(
            *distiller.connector.init_with_output(jax.random.key(0), x)
        ),
        features(3),
    )
    assert [level.shape for level in student] == [(1, 2, 2, 6)]
    assert set(params) == {"FusionBlock_0"} and "attention" not in params["FusionBlock_0"]


def test_the_teacher_gets_no_gradient(batch):
    distiller = MULTILABEL_DISTILLERS["l2d"](parse(_config()), None)

    @jax.jit
    @jax.grad
    def of_teacher(arrays):
        student, teacher, targets, where = batch
        logits, embeddings = arrays
        teacher = teacher._replace(logits=logits, label_embeddings=embeddings)
        return sum(distiller.objective(student, teacher, targets, where, ONE))

    grads = of_teacher((batch[1].logits, batch[1].label_embeddings))
    assert not any(np.any(grad) for grad in grads)


def test_groups_reach_over_all_devices():
    """Of eight images on eight devices, no device alone has two with the same class."""
    rng = np.random.default_rng(1)
    arrays = _outputs(rng, num=8), _outputs(rng, num=8)
    targets, where = np.ones((8, 5), np.uint8), np.ones(8, bool)
    placements = make_placement(jax.devices()[:1]), make_placement()
    found = [
        _objective("l2d", jax.device_put((*arrays, targets, where), placement.batch))
        for placement in placements
    ]
    assert found[0][1]["cd"] > 0.1
    chex.assert_trees_all_close(*found, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels.loss": "bec"}, "Unknown labels.loss 'bec': did you mean 'bce'"),
        ({"labels.reduction": "mean"}, "Unknown labels.reduction 'mean'"),
    ],
)
def test_a_wrong_recipe_is_answered_by_one_sentence(changes, words):
    with pytest.raises(UserError, match=words):
        MULTILABEL_DISTILLERS["l2d"](parse(_config(**changes)), None)


def test_recipes_name_every_pair_and_number_of_the_paper():
    assert len(MULTILABEL_DISTILLATIONS) == 19 + 2
    for variant in MULTILABEL_DISTILLATIONS:
        config = recipe.get_config(variant)
        if variant == "digits":
            continue
        assert (config.batch_size, config.num_epochs, config.teacher.num_epochs) == (64, 80, 30)
        assert config.optimizer.cycle_epochs == 80 and config.optimizer.learning_rate == 1e-4
        weights = config.l2d.lambda_mld, config.l2d.lambda_cd, config.l2d.lambda_id
        assert weights == (10, 100, 1000) and config.dataset.image_size == 224
    config = recipe.get_config("voc_wrn101_wrn50")
    assert config.dataset.name == "voc2007"
    assert (config.teacher.name, config.student.name) == ("wide_resnet101_2", "wide_resnet50_2")
    with pytest.raises(UserError, match="did you mean 'voc_resnet50_resnet18'"):
        recipe.get_config("voc_resnet50_resnet81")


def test_weight_decay_reaches_what_the_authors_code_decays():
    module = make_multilabel_classifier("resnet34_imagenet", num_classes=80, dtype=jnp.float32)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    sizes = {True: 0, False: 0}
    for param, decayed in zip(*map(jax.tree.leaves, (params, is_decayed(params))), strict=True):
        sizes[decayed] += param.size
    assert sizes == {True: 27_227_328, False: 28_368}
