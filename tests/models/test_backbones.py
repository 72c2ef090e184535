"""The distillation networks: sizes, features, initialisation and heads."""

from typing import Any, ClassVar

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.models import BACKBONES, make_classifier
from jaxrobust.models.auxiliary_head import AuxiliaryHead, DualHeadClassifier
from jaxrobust.models.layers import FeatureMaps, global_average
from jaxrobust.models.resnet import ResNetBackbone
from jaxrobust.models.wide_resnet import WideResNet

# Backbone -> feature width and parameters at 100 classes: single head, with a linear and with an
# MLP auxiliary head.
PARAMETERS = {
    "resnet8": (64, 83_892, 90_392, 117_392),
    "resnet14": (64, 181_108, 187_608, 214_608),
    "resnet20": (64, 278_324, 284_824, 311_824),
    "resnet32": (64, 472_756, 479_256, 506_256),
    "resnet44": (64, 667_188, 673_688, 700_688),
    "resnet56": (64, 861_620, 868_120, 895_120),
    "resnet110": (64, 1_736_564, 1_743_064, 1_770_064),
    "resnet8x4": (256, 1_233_540, 1_259_240, 1_305_440),
    "resnet32x4": (256, 7_433_860, 7_459_560, 7_505_760),
    "wrn_16_1": (64, 180_916, 187_416, 214_416),
    "wrn_16_2": (128, 703_284, 716_184, 749_584),
    "wrn_40_1": (64, 569_780, 576_280, 603_280),
    "wrn_40_2": (128, 2_255_156, 2_268_056, 2_301_456),
    "vgg8": (512, 3_965_028, 4_016_328, 4_088_128),
    "vgg11": (512, 9_277_284, 9_328_584, 9_400_384),
    "vgg13": (512, 9_462_180, 9_513_480, 9_585_280),
    "vgg16": (512, 14_774_436, 14_825_736, 14_897_536),
    "vgg19": (512, 20_086_692, 20_137_992, 20_209_792),
    "mobilenet_v1": (1024, 3_309_476, 3_411_976, 3_534_976),
    "mobilenet_v2_half": (1280, 812_836, 940_936, 1_089_536),
    "shuffle_v1": (960, 949_258, 1_045_358, 1_161_958),
    "shuffle_v2": (1024, 1_355_528, 1_458_028, 1_581_028),
    "resnet18": (512, 11_220_132, 11_271_432, 11_343_232),
    "resnet34": (512, 21_328_292, 21_379_592, 21_451_392),
    "resnet50": (2048, 23_705_252, 23_910_152, 24_135_552),
}


class Stub(nn.Module):
    """A backbone without layers."""

    head_options: ClassVar = {}

    width: int

    def __call__(self, images: jax.Array, **_: Any) -> FeatureMaps:
        x = jnp.zeros((*images.shape[:3], self.width))
        return FeatureMaps(global_average(x), (), (), x)


def _count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name):
    width, *expected = PARAMETERS[name]
    images = jnp.zeros((1, 32, 32, 3))
    backbone = BACKBONES[name](dtype=jnp.float32)
    features, variables = jax.eval_shape(backbone.init_with_output, jax.random.key(0), images)
    assert features.pooled.shape == (1, width)
    assert features.final.shape[-1] == width
    shapes = [x.shape for x in features.maps]
    assert [x.shape for x in features.preactivations] == shapes
    assert len(shapes) in (3, 4)

    for auxiliary, total in zip(("none", "linear", "mlp"), expected, strict=True):
        heads = DualHeadClassifier(Stub(width), num_classes=100, auxiliary=auxiliary)
        fresh = jax.eval_shape(heads.init, jax.random.key(0), images[:, :1, :1])
        assert _count(variables["params"]) + _count(fresh["params"]) == total


@pytest.mark.parametrize(
    ("name", "num_classes", "expected"),
    [("resnet18", 1000, 11_681_832), ("mobilenet_v1", 1000, 4_231_976)],
)
def test_number_of_parameters_at_1000_classes(name, num_classes, expected):
    module = make_classifier(name, num_classes=num_classes, auxiliary="none", dtype=jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert _count(variables["params"]) == expected


HE_NETWORKS = ("resnet8", "wrn_16_1", "vgg8", "mobilenet_v2_half")
TORCH_NETWORKS = ("mobilenet_v1", "shuffle_v1", "shuffle_v2")


@pytest.mark.parametrize("name", HE_NETWORKS + TORCH_NETWORKS)
def test_initialisation(name):
    module = make_classifier(name, num_classes=10, auxiliary="linear", dtype=jnp.float32)

    def init(key):
        params = module.init(key, jnp.zeros((1, 32, 32, 3)))["params"]
        leaves = jax.tree.leaves(params.pop("backbone"))
        return max((x for x in leaves if x.ndim == 4), key=jnp.size), params

    # Only what is asked for is computed.
    kernel, params = jax.jit(init)(jax.random.key(0))
    kernel = np.asarray(kernel)
    height, width, fan_in, outputs = kernel.shape
    if name in HE_NETWORKS:
        deviation = np.sqrt(2 / (height * width * outputs))
        assert abs(kernel).max() > 3 * deviation  # normal, neither uniform nor cut at 2 deviations
    else:
        bound = (height * width * fan_in) ** -0.5
        deviation = bound / np.sqrt(3)
        assert 0.99 * bound < abs(kernel).max() <= bound
    assert kernel.std() == pytest.approx(deviation, rel=0.03)

    for head in (params["primary"]["Dense_0"], params["auxiliary"]["Dense_0"]):
        bound = head["kernel"].shape[0] ** -0.5
        if name in ("vgg8", "mobilenet_v2_half"):
            assert head["kernel"].std() == pytest.approx(0.01, rel=0.06)
        else:
            assert 0.98 * bound < abs(head["kernel"]).max() <= bound
        if name in ("vgg8", "mobilenet_v2_half", "wrn_16_1"):
            assert not head["bias"].any()
        else:
            assert 0 < abs(head["bias"]).max() <= bound
    heads = (params[head]["Dense_0"]["kernel"] for head in ("primary", "auxiliary"))
    assert not np.allclose(*heads)


def test_auxiliary_head_computes_what_the_authors_head_computes(load_golden):
    golden, case = load_golden("dhkd"), "aux_head/case0"
    linear = {
        f"Linear_{i}": {
            "Dense_0": {
                "kernel": golden[case, f"fc{i + 1}_weight"].T,
                "bias": golden[case, f"fc{i + 1}_bias"],
            }
        }
        for i in range(2)
    }
    norm = {"scale": golden[case, "bn_scale"], "bias": golden[case, "bn_bias"]}
    stats = {"mean": golden[case, "bn_mean"], "var": golden[case, "bn_var"]}
    variables = {
        "params": {**linear, "BatchNorm_0": {"BatchNorm_0": norm}},
        "batch_stats": {"BatchNorm_0": {"BatchNorm_0": stats}},
    }
    variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables)
    x = jnp.asarray(golden[case, "x"], jnp.float32)
    head = AuxiliaryHead(5, dropout=0.0)
    found = head.apply(variables, x, train=False, where=None)
    np.testing.assert_allclose(found, golden[case, "out_eval"], rtol=1e-4, atol=1e-5)

    def energy(x):
        out, updates = head.apply(variables, x, train=True, where=None, mutable=["batch_stats"])
        return jnp.sum(out**2), (out, updates["batch_stats"])

    differentiate = jax.jit(jax.grad(energy, has_aux=True))
    gradient, (out, stats) = differentiate(x)
    np.testing.assert_allclose(out, golden[case, "out_train_p0"], rtol=1e-4, atol=1e-5)
    expected = golden[case, "grad_x_sumsq_train"]
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4 * abs(expected).max())
    stats = stats["BatchNorm_0"]["BatchNorm_0"]
    np.testing.assert_allclose(stats["mean"], golden[case, "bn_mean_after"], rtol=1e-4, atol=1e-6)
    # PyTorch keeps the unbiased variance of the 6 rows.
    kept = 0.9 * golden[case, "bn_var"]
    unbiased = kept + (stats["var"] - kept) * (6 / 5)
    np.testing.assert_allclose(unbiased, golden[case, "bn_var_after"], rtol=1e-4)


@pytest.fixture(scope="module")
def small():
    backbone = ResNetBackbone(stage_sizes=(1, 1), widths=(4, 8))
    module = DualHeadClassifier(backbone, num_classes=3, auxiliary="mlp")
    images = jax.random.normal(jax.random.key(1), (6, 8, 8, 3))
    return module, jax.jit(module.init)(jax.random.key(0), images), images


@pytest.fixture(scope="module")
def train(small):
    """Outputs and new statistics of a training step's forward pass."""
    module, variables, _ = small

    @jax.jit
    def run(images, where, seed):
        rngs = {"dropout": jax.random.key(seed)}
        options = {"train": True, "where": where, "mutable": ["batch_stats"], "rngs": rngs}
        return module.apply(variables, images, **options)

    return run


def test_dropping_the_auxiliary_head_is_deleting_a_key(small):
    module, variables, images = small
    assert set(variables["params"]) == {"backbone", "primary", "auxiliary"}
    outputs = module.apply(variables, images)
    assert outputs.logits.shape == outputs.aux_logits.shape == (6, 3)
    assert outputs.logits.dtype == outputs.features.pooled.dtype == jnp.float32
    kept = {
        collection: {k: v for k, v in tree.items() if k != "auxiliary"}
        for collection, tree in variables.items()
    }
    alone = DualHeadClassifier(module.backbone, num_classes=3).apply(kept, images)
    np.testing.assert_array_equal(alone.logits, outputs.logits)
    assert alone.aux_logits is None


def test_maps_are_the_activated_preactivations(small):
    module, variables, images = small
    features = module.apply(variables, images).features
    assert [x.shape for x in features.maps] == [(6, 8, 8, 4), (6, 4, 4, 8)]
    for activated, before in zip(features.maps, features.preactivations, strict=True):
        assert (before < 0).any()
        np.testing.assert_array_equal(activated, jnp.maximum(before, 0))
    np.testing.assert_allclose(features.pooled, features.final.mean((1, 2)), atol=1e-6)


def test_blocks_of_a_wide_network_come_before_the_norm_of_the_next():
    module = WideResNet(10, 1)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    features, _ = jax.jit(module.init_with_output)(jax.random.key(0), images)
    assert [x.shape for x in features.blocks] == [x.shape for x in features.maps]
    # A fresh BatchNorm divides by sqrt(1 + 1e-5).
    for block, normed in zip(features.blocks, features.preactivations, strict=True):
        np.testing.assert_allclose(normed, block / (1 + 1e-5) ** 0.5, rtol=1e-5, atol=1e-6)


def test_masked_rows_touch_no_statistics_of_backbone_and_heads(small, train):
    images = small[2]
    where = jnp.array([True] * 4 + [False] * 2)
    outputs, updates = train(images, where, 0)
    spoilt, spoilt_updates = train(images.at[4:].set(1e4), where, 0)
    np.testing.assert_array_equal(outputs.logits[:4], spoilt.logits[:4])
    np.testing.assert_array_equal(outputs.aux_logits[:4], spoilt.aux_logits[:4])
    chex.assert_trees_all_equal(updates, spoilt_updates)
    assert "auxiliary" in updates["batch_stats"]


def test_dropout_is_in_the_auxiliary_head_alone(small, train):
    first, second = (train(small[2], jnp.ones(6, bool), seed)[0] for seed in (1, 2))
    np.testing.assert_array_equal(first.logits, second.logits)
    assert not np.allclose(first.aux_logits, second.aux_logits)


def test_bfloat16_keeps_float32_features_and_state(small):
    module, _, images = small
    half = module.clone(backbone=module.backbone.clone(dtype=jnp.bfloat16))
    with jax.numpy_dtype_promotion("standard"):  # flax mixes dtypes inside its BatchNorm
        outputs, fresh = jax.eval_shape(half.init_with_output, jax.random.key(0), images)
    assert outputs.features.maps[0].dtype == jnp.bfloat16
    float32 = (outputs.logits, outputs.aux_logits, outputs.features.pooled, fresh)
    assert {x.dtype for x in jax.tree.leaves(float32)} == {jnp.dtype(jnp.float32)}


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="backbone 'ResNet8x4': did you mean 'resnet8x4'"):
        make_classifier("ResNet8x4", num_classes=2, auxiliary="none", dtype=jnp.float32)
    with pytest.raises(UserError, match="auxiliary head 'lineal': did you mean 'linear'"):
        make_classifier("resnet8x4", num_classes=2, auxiliary="lineal", dtype=jnp.float32)
