"""L2D's networks: sizes, the ML-Decoder, and Swin's windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.models import BACKBONES, make_multilabel_classifier
from jaxrobust.models.ml_decoder import MLDecoder, MultiLabelClassifier
from jaxrobust.models.resnet import ResNetBackbone
from jaxrobust.models.swin import SwinTransformer

# Backbone -> width of the final map, parameters of the backbone, and of the classifier with 20, 80
# and 81 classes, the frozen queries included.
PARAMETERS = {
    "resnet18_imagenet": (512, 11_176_512, 17_116_756, 17_208_976, 17_210_513),
    "resnet34_imagenet": (512, 21_284_672, 27_224_916, 27_317_136, 27_318_673),
    "resnet50_imagenet": (2048, 23_508_032, 30_627_924, 30_720_144, 30_721_681),
    "resnet101_imagenet": (2048, 42_500_160, 49_620_052, 49_712_272, 49_713_809),
    "wide_resnet50_2": (2048, 66_834_240, 73_954_132, 74_046_352, 74_047_889),
    "wide_resnet101_2": (2048, 124_837_696, 131_957_588, 132_049_808, 132_051_345),
    "mobilenet_v2": (1280, 2_223_872, 8_753_940, 8_846_160, 8_847_697),
    "repvgg_a0": (1280, 7_827_968, 14_358_036, 14_450_256, 14_451_793),
    "repvgg_a2": (1408, 26_801_600, 33_429_972, 33_522_192, 33_523_729),
    "swin_t": (768, 27_519_354, 33_656_206, 33_748_426, 33_749_963),
    "swin_s": (768, 48_837_258, 54_974_110, 55_066_330, 55_067_867),
    "swin_b": (1024, 86_743_224, 93_076_684, 93_168_904, 93_170_441),
}


def _count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name):
    width, backbone_size, *totals = PARAMETERS[name]
    backbone = BACKBONES[name](dtype=jnp.float32)
    images = jnp.zeros((1, 224, 224, 3))
    features, variables = jax.eval_shape(backbone.init_with_output, jax.random.key(0), images)
    assert _count(variables["params"]) == backbone_size
    assert features.final.shape == (1, 7, 7, width)
    assert [x.shape[1] for x in features.maps] == [56, 28, 14, 7]
    for num_classes, total in zip((20, 80, 81), totals, strict=True):
        fresh = jax.eval_shape(MLDecoder(num_classes).init, jax.random.key(0), features.final)
        assert fresh["constants"]["queries"].shape == (num_classes, 768)
        assert backbone_size + _count(fresh) == total


def _decoder_variables(golden, case):
    names = golden.names("ml_decoder")
    prefix = f"{case}/params/decoder."
    torch = {n.removeprefix(prefix): golden["ml_decoder", n] for n in names if n.startswith(prefix)}

    def linear(name):
        return {"kernel": torch[f"{name}.weight"].T, "bias": torch[f"{name}.bias"]}

    def norm(name):
        return {"scale": torch[f"{name}.weight"], "bias": torch[f"{name}.bias"]}

    layer = "layers.0"
    params = {
        "embed": {"Dense_0": linear("embed_standart")},
        "attention": {
            "kernel": torch[f"{layer}.multihead_attn.in_proj_weight"].T,
            "bias": torch[f"{layer}.multihead_attn.in_proj_bias"],
            "Linear_0": {"Dense_0": linear(f"{layer}.multihead_attn.out_proj")},
        },
        **{f"linear{i}": {"Dense_0": linear(f"{layer}.linear{i}")} for i in (1, 2)},
        **{f"norm{i}": norm(f"{layer}.norm{i}") for i in (1, 2, 3)},
        "group_kernel": torch["duplicate_pooling"],
        "group_bias": torch["duplicate_pooling_bias"],
    }
    variables = {"params": params, "constants": {"queries": torch["query_embed.weight"]}}
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables)


@pytest.mark.parametrize("case", ["case0", "case1"])
def test_decoder_computes_what_the_authors_decoder_computes(case, load_golden):
    golden = load_golden("l2d")
    variables = _decoder_variables(golden, case)
    features, logits, embeddings, gradient = (
        golden["ml_decoder", f"{case}/{name}"]
        for name in ("features", "logits", "label_embeddings", "grad_features_sumsq")
    )
    decoder = MLDecoder(
        logits.shape[1],
        num_groups=int(golden["ml_decoder", f"{case}/groups"]),
        width=embeddings.shape[-1],
        hidden=variables["params"]["linear1"]["Dense_0"]["bias"].size,
        num_heads=int(golden["ml_decoder", f"{case}/num_heads"]),
    )

    duplicates = int(golden["ml_decoder", f"{case}/duplicate_factor"])
    assert variables["params"]["group_kernel"].shape[2] == duplicates
    drawn = jax.eval_shape(decoder.init, jax.random.key(0), jnp.moveaxis(features, 1, -1))
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, variables)

    def energy(maps):
        outputs = decoder.apply(variables, maps)
        return jnp.sum(outputs[0] ** 2), outputs

    # PyTorch's channels lie behind the batch, ours last.
    maps = jnp.asarray(np.moveaxis(features, 1, -1), jnp.float32)
    found_gradient, found = jax.jit(jax.grad(energy, has_aux=True))(maps)
    np.testing.assert_allclose(found[0], logits, rtol=1e-4, atol=1e-4 * abs(logits).max())
    np.testing.assert_allclose(found[1], embeddings, rtol=1e-4, atol=1e-4)
    expected = np.moveaxis(gradient, 1, -1)
    np.testing.assert_allclose(found_gradient, expected, rtol=1e-3, atol=1e-4 * abs(expected).max())


@pytest.fixture(scope="module")
def decoder():
    module = MLDecoder(5, width=16, hidden=8)
    maps = jax.random.normal(jax.random.key(1), (2, 3, 2, 4))
    return module, jax.jit(module.init)(jax.random.key(0), maps), maps


def test_decoder_ignores_positions_and_drops_in_training_alone(decoder):
    module, variables, maps = decoder
    evaluate = jax.jit(module.apply)
    permuted, _ = evaluate(variables, maps[:, ::-1, ::-1])
    np.testing.assert_allclose(permuted, evaluate(variables, maps)[0], atol=1e-5)

    @jax.jit
    def train(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return module.apply(variables, maps, train=True, rngs=rngs)[0]

    assert not np.allclose(train(0), train(1))


def test_decoder_multiplies_in_its_dtype_and_returns_float32(decoder):
    module, variables, maps = decoder
    half = module.clone(dtype=jnp.bfloat16)
    program = jax.make_jaxpr(half.apply)(variables, maps.astype(jnp.bfloat16))
    products = [e for e in program.eqns if e.primitive.name == "dot_general"]
    # Three projections, two products of the attention, its output, the memory and two more layers.
    assert [e.invars[0].aval.dtype for e in products].count(jnp.bfloat16) == 9
    assert len(products) == 10  # the logits' product is float32
    for found, expected in zip(
        jax.jit(half.apply)(variables, maps), jax.jit(module.apply)(variables, maps), strict=True
    ):
        assert found.dtype == jnp.float32
        # bfloat16 has 8 bits: a rounding is 0.4 %, of embeddings of unit variance.
        np.testing.assert_allclose(found, expected, atol=0.05)


def test_queries_are_drawn_but_no_parameters(decoder):
    _, variables, _ = decoder
    queries = variables["constants"]["queries"]
    assert queries.shape == (5, 16)
    assert 0.5 < queries.std() < 1.5
    assert queries.shape not in [x.shape for x in jax.tree.leaves(variables["params"])]
    attention = np.abs(variables["params"]["attention"]["kernel"]).max()
    assert 0.9 * (6 / 64) ** 0.5 < attention <= (6 / 64) ** 0.5


def test_classifier_returns_the_three_outputs():
    backbone = ResNetBackbone(stage_sizes=(1,), widths=(4,))
    module = MultiLabelClassifier(backbone, num_classes=3)
    outputs, variables = jax.eval_shape(
        module.init_with_output, jax.random.key(0), jnp.zeros((2, 8, 8, 3))
    )
    assert outputs.logits.shape == (2, 3)
    assert outputs.label_embeddings.shape == (2, 3, 768)
    assert outputs.features.pooled.shape == (2, 4)
    assert set(variables["params"]) == {"backbone", "decoder"}
    with pytest.raises(UserError, match="did you mean 'swin_t'"):
        make_multilabel_classifier("swin_tt", num_classes=3, dtype=jnp.float32)


@pytest.fixture(scope="module")
def swin():
    module = SwinTransformer(width=4, sizes=(2, 1), num_heads=(1, 2), drop=0.5)
    images = jax.random.normal(jax.random.key(1), (2, 56, 44, 3))
    return module, jax.jit(module.init)(jax.random.key(0), images), images


def test_swin_windows_keep_to_themselves_until_they_are_shifted(swin):
    module, variables, images = swin
    features = jax.eval_shape(module.apply, variables, images)
    assert [x.shape for x in features.maps] == [(2, 14, 11, 4), (2, 7, 6, 8)]
    assert features.final.shape == (2, 7, 6, 8)

    def reach(blocks):
        """Positions of the first stage that a change of the image's first patch changes."""
        short = SwinTransformer(width=4, sizes=(blocks,), num_heads=(1,), drop=0.0)
        keep = {"patch_conv", "patch_norm", *(f"block_0_{i}" for i in range(blocks))}
        params = {k: v for k, v in variables["params"].items() if k in keep}
        # Weights so large that no influence is lost to rounding.
        params = jax.tree.map(lambda x: 20 * x if x.ndim == 2 else x, params)
        norm = {"scale": jnp.ones(4), "bias": jnp.zeros(4)}
        apply = jax.jit(short.apply)
        before, after = (
            apply({"params": {**params, "norm": norm}}, x).final
            for x in (images, images.at[:, :4, :4].add(3.0))
        )
        return np.abs(np.asarray(after - before)).max((0, 3)) > 0

    first = reach(1)
    assert first[:7, :7].all() and not first[7:].any() and not first[:, 7:].any()
    # Shifted windows take rows 3 to 9 together, and the rows at both ends apart.
    second = reach(2)
    assert second[:10, :10].all() and not second[10:].any() and not second[:, 10:].any()


def test_swin_drops_whole_branches_of_rows_in_training(swin):
    module, variables, images = swin

    @jax.jit
    def train(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return module.apply(variables, images[:1], train=True, rngs=rngs).pooled[0]

    # Two of the three blocks can lose both of their branches: at most 16 outcomes.
    outcomes = {tuple(np.round(train(seed), 4).tolist()) for seed in range(40)}
    assert 2 <= len(outcomes) <= 16
