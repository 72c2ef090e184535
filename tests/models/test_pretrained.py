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
from jaxrobust.models.layers import depthwise_conv
from jaxrobust.models.pretrained import load_pretrained, weights_hash
from jaxrobust.models.storage import StoredClassifier, save_classifier
from jaxrobust.models.torch_names import torch_module

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
    """Writes a repository into a cache of huggingface_hub, which cannot reach the network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def write(name, config, tensors=None):
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
        ('{"model_type": "bert"}', "is not timm's"),
        ('{"architecture": "resnet18"}', "model.safetensors of hf:a/b is neither in the cache"),
    ],
)
def test_repositories_of_another_kind_are_refused(config, message, hub):
    hub("a/b", config)
    with pytest.raises(UserError, match=message):
        load_pretrained("hf:a/b")


def test_without_network_or_package_it_is_said_what_to_do(hub, monkeypatch):
    with pytest.raises(UserError, match=r"config\.json of hf:timm/none is neither in"):
        load_pretrained("hf:timm/none")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'jaxrobust\[hub\]'"):
        load_pretrained("hf:timm/none")
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'jaxrobust\[pretrained\]'"):
        load_pretrained("efficientnet_lite0")


def test_weights_that_do_not_say_their_normalisation_are_refused(tiny_backbones, tmp_path):
    module = make_classifier("tiny4", num_classes=2, auxiliary="none", dtype=jnp.float32)
    variables = _drawn(module)
    plain = StoredClassifier("tiny4", 2, variables)
    save_classifier(plain, tmp_path)
    with pytest.raises(UserError, match="does not say how its images are normalised"):
        load_pretrained(str(tmp_path))
    normalized = StoredClassifier("tiny4", 2, variables, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert weights_hash(plain) != weights_hash(normalized)


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
