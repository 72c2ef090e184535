"""DPC's three networks: sizes, and outputs of the authors' networks for the same weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.models import make_network, make_two_headed
from jaxrobust.models.inception_resnet_v2 import InceptionResNetV2
from jaxrobust.models.preact_resnet import PreActBlock
from jaxrobust.models.resnet import ResNet
from jaxrobust.models.torch_weights import load_torch_weights
from jaxrobust.models.two_headed import UNSUPERVISED_HEAD, TwoHeaded


def _count(variables, collection="params"):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(variables[collection]))


@pytest.mark.parametrize(
    ("name", "num_classes", "parameters", "buffers"),
    [
        ("preact_resnet18", 10, 11_706_836, 6_912),
        ("preact_resnet18", 100, 11_845_256, 6_912),
        ("resnet34", 10, 21_817_684, 17_024),
        ("resnet34", 100, 21_956_104, 17_024),
    ],
)
def test_two_headed_networks_have_the_published_size(name, num_classes, parameters, buffers):
    module = make_two_headed(name, num_classes=num_classes, dtype=jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert _count(variables) == parameters
    assert _count(variables, "batch_stats") == buffers


@pytest.mark.parametrize(
    ("name", "num_classes", "parameters"),
    [
        ("preact_resnet18", 10, 11_171_274),
        ("preact_resnet18", 100, 11_217_444),
        ("resnet34", 10, 21_282_122),
        ("resnet34", 100, 21_328_292),
        ("inception_resnet_v2", 50, 54_383_314),
        ("inception_resnet_v2", 1001, 55_845_001),
    ],
)
def test_one_headed_networks_have_the_published_size(name, num_classes, parameters):
    module = make_network(name, num_classes=num_classes, num_heads=1, dtype=jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 299, 299, 3)))
    assert _count(variables) == parameters


def _torch_weights(golden, case):
    """The weights that the recorded outputs belong to, by PyTorch name."""
    seed = int(golden[case, "seed0"])
    tensors = {}
    for k, entry in enumerate(golden[case, "param_names_shapes"]):
        name, _, shape = str(entry).partition(":")
        shape = tuple(map(int, shape.split("x")))
        z = np.random.RandomState(seed + k).standard_normal(shape)
        if len(shape) > 1:
            z *= np.sqrt(2 / np.prod(shape[1:]))
        else:
            z = 1 + 0.1 * z if name.endswith("weight") else 0.1 * z
        tensors[name] = z.astype(np.float32)
    images = np.random.RandomState(seed + 100_000).standard_normal(golden[case, "input_shape"])
    return tensors, jnp.asarray(images.transpose(0, 2, 3, 1), jnp.float32)


def _fresh_statistics(variables):
    """Running mean 0 and variance 1."""
    return jax.tree.map_with_path(
        lambda path, x: (jnp.ones if path[-1].key == "var" else jnp.zeros)(x.shape, x.dtype),
        variables["batch_stats"],
    )


def _two_headed_modules(stage_sizes):
    """PyTorch module name -> linen path, of both ResNets with two heads."""
    modules = {
        "conv1": ("backbone", "stem_conv", "Conv_0"),
        "bn1": ("backbone", "stem_norm", "BatchNorm_0"),
        "linear": ("supervised_head", "Dense_0"),
        "linear2.0": ("unsupervised_head", "Linear_0", "Dense_0"),
        "linear2.3": ("unsupervised_head", "Linear_1", "Dense_0"),
    }
    blocks = [(s, b) for s, size in enumerate(stage_sizes) for b in range(size)]
    for k, (stage, block) in enumerate(blocks):
        for name, path in {
            "conv1": ("Conv_0", "Conv_0"),
            "bn1": ("BatchNorm_0", "BatchNorm_0"),
            "conv2": ("Conv_1", "Conv_0"),
            "bn2": ("BatchNorm_1", "BatchNorm_0"),
            "shortcut.0": ("Conv_2", "Conv_0"),
            "shortcut.1": ("BatchNorm_2", "BatchNorm_0"),
        }.items():
            modules[f"layer{stage + 1}.{block}.{name}"] = ("backbone", f"blocks_{k}", *path)
    return modules


RESNETS = {
    "net_preact18": (functools.partial(ResNet, block=PreActBlock), (2, 2, 2, 2)),
    "net_resnet34": (ResNet, (3, 4, 6, 3)),
}


@pytest.mark.parametrize("case", RESNETS)
def test_resnets_compute_what_the_authors_networks_compute(case, load_golden):
    golden = load_golden("dpc")
    backbone, stage_sizes = RESNETS[case]
    num_classes = int(golden[case, "num_classes"])
    module = TwoHeaded(
        backbone(num_classes=num_classes, num_heads=0, stage_sizes=stage_sizes), num_classes
    )
    tensors, images = _torch_weights(golden, case)
    fresh = jax.eval_shape(module.init, jax.random.key(0), images)
    modules = _two_headed_modules(stage_sizes)
    params = load_torch_weights({"params": fresh["params"]}, tensors, modules)["params"]
    stats = _fresh_statistics(fresh)
    variables = {"params": params, "batch_stats": stats}

    logits = jax.jit(module.apply)(variables, images)
    for head in (0, 1):
        np.testing.assert_allclose(
            logits[:, head], golden[case, f"eval_logits{head + 1}"], rtol=2e-3, atol=2e-3
        )

    @jax.jit
    def train(variables, images):
        # Without dropout: the head in evaluation mode on features in training mode.
        features, updates = module.apply(
            variables,
            images,
            method=lambda m, x: m.backbone.features(x, train=True),
            mutable=["batch_stats"],
        )

        def heads(m, x):
            return m.supervised_head(x), m.unsupervised_head(x, train=False)

        return module.apply(variables, features, method=heads), updates["batch_stats"]

    logits, stats = train(variables, images)
    for head in (0, 1):
        np.testing.assert_allclose(
            logits[head], golden[case, f"train_nodrop_logits{head + 1}"], rtol=2e-3, atol=2e-3
        )
    batch, height = images.shape[:2]
    last = f"blocks_{sum(stage_sizes[:3]) + 1}"
    for name, found, values in (
        ("bn1", stats["backbone"]["stem_norm"]["BatchNorm_0"], batch * height**2),
        (
            "layer4_1_bn2",
            stats["backbone"][last]["BatchNorm_1"]["BatchNorm_0"],
            batch * (height // 8) ** 2,
        ),
    ):
        np.testing.assert_allclose(
            found["mean"], golden[case, f"{name}_running_mean_after"], rtol=1e-3, atol=1e-4
        )
        # PyTorch keeps the unbiased variance.
        unbiased = 0.9 + (found["var"] - 0.9) * (values / (values - 1))
        np.testing.assert_allclose(
            unbiased, golden[case, f"{name}_running_var_after"], rtol=1e-3, atol=1e-4
        )


def _chains(prefix, path, lengths, *, pooled=False):
    """Branches of PyTorch's network, whose chains of one convolution are not numbered."""
    modules, k = {}, 0
    for branch, length in enumerate(lengths):
        for i in range(length):
            name = f"{prefix}.branch{branch}" + (f".{i}" if length > 1 else "")
            modules |= _conv(name, (*path, f"ConvNormRelu_{k}"))
            k += 1
    if pooled:
        modules |= _conv(f"{prefix}.branch{len(lengths)}.1", (*path, f"ConvNormRelu_{k}"))
    return modules


def _conv(name, path):
    return {f"{name}.conv": (*path, "Conv_0"), f"{name}.bn": (*path, "BatchNorm_0", "BatchNorm_0")}


def _inception_modules(repeats):
    modules = {"last_linear": ("heads_0", "Dense_0")}
    stem = {"1a": (1, 0), "2a": (1, 1), "2b": (1, 2), "3b": (2, 0), "4a": (2, 1)}
    for name, (part, i) in stem.items():
        modules |= _conv(f"conv2d_{name}", (f"stem_{part}_{i}",))
    modules |= _chains("mixed_5b", ("mixed_5b",), (1, 2, 3), pooled=True)
    modules |= _chains("mixed_6a", ("mixed_6a",), (1, 3))
    modules |= _chains("mixed_7a", ("mixed_7a",), (2, 2, 3))
    modules |= _conv("conv2d_7b", ("last_conv",))
    residual = {("block8", "last_block"): (1, 3)}
    for torch_name, name, lengths, number in (
        ("repeat", "blocks_35", (1, 2, 3), repeats[0]),
        ("repeat_1", "blocks_17", (1, 3), repeats[1]),
        ("repeat_2", "blocks_8", (1, 3), repeats[2]),
    ):
        residual |= {(f"{torch_name}.{i}", f"{name}_{i}"): lengths for i in range(number)}
    for (torch_name, name), lengths in residual.items():
        modules |= _chains(torch_name, (name, "Branches_0"), lengths)
        modules[f"{torch_name}.conv2d"] = (name, "Conv_0")
    return modules


@pytest.mark.slow
def test_inception_resnet_v2_computes_what_the_authors_network_computes(load_golden):
    golden, case = load_golden("dpc"), "net_inceptionresnetv2"
    module = InceptionResNetV2(num_classes=50)
    tensors, images = _torch_weights(golden, case)
    fresh = jax.eval_shape(module.init, jax.random.key(0), images)
    params = load_torch_weights(
        {"params": fresh["params"]}, tensors, _inception_modules(module.repeats)
    )["params"]
    stats = _fresh_statistics(fresh)
    logits = jax.jit(module.apply)({"params": params, "batch_stats": stats}, images)
    expected = golden[case, "eval_logits1"]
    np.testing.assert_allclose(logits[:, 0], expected, rtol=0, atol=1e-3 * np.abs(expected).max())


SMALL = {"stage_sizes": (1, 1), "widths": (8, 16)}


def test_dropout_is_in_the_second_head_alone():
    module = TwoHeaded(ResNet(num_classes=3, num_heads=0, block=PreActBlock, **SMALL), 3)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    variables = jax.jit(module.init)(jax.random.key(0), images)
    assert set(variables["params"]) == {"backbone", "supervised_head", UNSUPERVISED_HEAD}

    @jax.jit
    def run(key):
        rngs = {"dropout": key}
        return module.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)[0]

    first, second = run(jax.random.key(1)), run(jax.random.key(2))
    np.testing.assert_array_equal(first[:, 0], second[:, 0])
    assert not np.allclose(first[:, 1], second[:, 1])
    predict = jax.jit(module.apply)
    np.testing.assert_array_equal(*(predict(variables, images)[:, 1] for _ in range(2)))


def test_what_does_not_fit_is_named():
    wanted = {"params": {"fc": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}}}
    modules = {"fc": ("fc",)}
    weight, bias = np.ones((2, 3)), np.ones(2)
    loaded = load_torch_weights(wanted, {"fc.weight": weight, "fc.bias": bias}, modules)
    assert loaded["params"]["fc"]["kernel"].shape == (3, 2)
    with pytest.raises(ValueError, match="No tensor was given for params/fc/bias"):
        load_torch_weights(wanted, {"fc.weight": weight}, modules)
    with pytest.raises(ValueError, match=r"no place for the tensor head\.bias"):
        load_torch_weights(wanted, {"head.bias": bias}, modules)
    with pytest.raises(ValueError, match=r"params/fc/kernel expects \(3, 2\)"):
        load_torch_weights(wanted, {"fc.weight": np.ones((3, 3)), "fc.bias": bias}, modules)
