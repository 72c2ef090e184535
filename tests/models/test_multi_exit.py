"""BLDR's network: sizes, and outputs of the authors' blocks for the same weights."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.models import make_multi_exit
from jaxrobust.models.layers import global_average
from jaxrobust.models.multi_exit import ExitBlock, MultiExit
from jaxrobust.models.resnet import BasicBlock, ResNet
from jaxrobust.models.torch_weights import load_torch_weights


def _count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "num_classes", "parameters", "backbone"),
    [
        ("resnet34", 10, 22_939_762, 21_276_992),
        ("resnet34", 100, 23_170_612, 21_276_992),
        ("resnet18", 10, 12_831_602, None),
        ("resnet18", 100, 13_062_452, None),
        ("preact_resnet18", 10, 12_828_914, None),
        ("preact_resnet18", 100, 13_059_764, None),
    ],
)
def test_live_parameters_are_those_of_the_authors_networks(name, num_classes, parameters, backbone):
    module = make_multi_exit(name, num_classes=num_classes, exits=True, dtype=jnp.float32)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    (logits, features), variables = jax.eval_shape(
        module.init_with_output, jax.random.key(0), images
    )
    params = variables["params"]
    assert _count(params) == parameters
    assert logits.shape == (2, 5, num_classes) and features.shape == (2, 4, 512)
    assert [_count(params[f"exit_{i}"]) for i in (1, 2, 3)] == [1_124_608, 346_368, 166_144]
    for head in ("positive_head", "negative_head", "exit_head_1", "exit_head_2", "exit_head_3"):
        assert _count(params[head]) == 513 * num_classes
    if backbone is not None:
        assert _count(params["backbone"]) == backbone


def _modules(names):
    """Module of the recorded block -> linen path, in the order of their creation."""
    paths, counts = {}, {"Conv": 0, "BatchNorm": 0}
    for name, kind, inner in names:
        paths[name] = (f"{kind}_{counts[kind]}", *inner)
        counts[kind] += 1
    return paths


BLOCKS = {
    "branch/case0": (
        lambda golden, case: ExitBlock(8, 2, int(golden[case, "kernel_size"])),
        _modules(
            [
                (str(i), *(("Conv", ()) if i % 3 == 0 else ("BatchNorm", ("BatchNorm_0",))))
                for i in (0, 1, 3, 4, 6, 7)
            ]
        ),
    ),
    **{
        f"basic_block/{case}": (
            lambda golden, case: BasicBlock(4, int(golden[case, "stride"])),
            _modules(
                [
                    (name, "Conv" if is_conv else "BatchNorm", (inner,))
                    for name, is_conv, inner in (
                        ("conv1", True, "Conv_0"),
                        ("bn1", False, "BatchNorm_0"),
                        ("conv2", True, "Conv_0"),
                        ("bn2", False, "BatchNorm_0"),
                        ("shortcut.0", True, "Conv_0"),
                        ("shortcut.1", False, "BatchNorm_0"),
                    )
                ]
            ),
        )
        for case in ("stride2", "identity")
    },
}


@pytest.mark.parametrize("case", BLOCKS)
def test_blocks_compute_what_the_authors_blocks_compute(case, load_golden):
    golden = load_golden("bldr")
    make, modules = BLOCKS[case]
    module = make(golden, case)
    apply = jax.jit(module.apply, static_argnames=("train", "mutable"))
    images = jnp.asarray(golden[case, "x"].transpose(0, 2, 3, 1), jnp.float32)
    init = functools.partial(module.init, train=False, where=None)
    fresh = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(init, jax.random.key(0), images)
    )

    def recorded(prefix):
        group, _, name = case.partition("/")
        start = f"{name}/{prefix}"
        names = [n for n in golden.names(group) if n.startswith(start)]
        return {n.removeprefix(start): golden[group, n] for n in names}

    def close(actual, name):
        actual = actual[0] if isinstance(actual, tuple) else actual
        np.testing.assert_allclose(
            np.asarray(actual).transpose(0, 3, 1, 2), golden[case, name], atol=2e-6
        )

    tensors = recorded("param/")
    params = load_torch_weights({"params": fresh["params"]}, tensors, modules)
    variables = {**fresh, **params}
    output, updates = apply(variables, images, train=True, where=None, mutable=("batch_stats",))
    close(output, "y_train")
    if case.startswith("branch"):
        np.testing.assert_allclose(
            global_average(output), golden[case, "pooled_train"][..., 0, 0], atol=2e-6
        )
    after = recorded("after/")
    for name, statistic in after.items():
        module_name, _, kind = name.rpartition(".")
        stats = functools.reduce(lambda t, k: t[k], modules[module_name], updates["batch_stats"])
        if kind == "running_mean":
            np.testing.assert_allclose(stats["mean"], statistic, atol=1e-6)
            continue
        # PyTorch averages the unbiased variance, from 1; flax the biased one, here from 0.
        count = len(images) * (output[0] if isinstance(output, tuple) else output).shape[1] ** 2
        if module_name in ("0", "1"):
            count = len(images) * images.shape[1] ** 2
        biased = (statistic - 0.9) * (count - 1) / count
        np.testing.assert_allclose(stats["var"], biased, atol=1e-6)
    trained = load_torch_weights(fresh, {**tensors, **after}, modules)
    close(apply(trained, images, train=False, where=None), "y_eval")


@pytest.fixture(scope="module")
def small():
    """A small network with weights from NumPy, which are much quicker to get than its own."""
    backbone = ResNet(num_classes=3, num_heads=0, stage_sizes=(1, 1), widths=(4, 8))
    module = MultiExit(backbone, 3)
    generator = np.random.default_rng(0)
    images = jnp.asarray(generator.normal(size=(6, 8, 8, 3)), jnp.float32)

    def fill(path, leaf):
        values = {"mean": np.zeros, "bias": np.zeros, "scale": np.ones, "var": np.ones}
        if path[-1].key in values:
            return jnp.asarray(values[path[-1].key](leaf.shape), leaf.dtype)
        return jnp.asarray(0.3 * generator.normal(size=leaf.shape), leaf.dtype)

    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    return module, jax.tree.map_with_path(fill, shapes), images


def test_masked_rows_leave_statistics_and_other_rows_alone(small):
    module, variables, images = small
    where = jnp.array([True, True, True, True, False, False])
    run = jax.jit(
        lambda images: module.apply(
            variables, images, train=True, where=where, mutable=["batch_stats"]
        )
    )
    (logits, features), updates = run(images)
    (spoilt_logits, spoilt_features), spoilt = run(images.at[4:].set(1e4))
    np.testing.assert_array_equal(logits[:4], spoilt_logits[:4])
    np.testing.assert_array_equal(features[:4], spoilt_features[:4])
    chex.assert_trees_all_equal(updates, spoilt)
    assert np.any(updates["batch_stats"]["exit_1"]["BatchNorm_0"]["BatchNorm_0"]["mean"])


def test_heads_read_their_features_and_without_exits_there_are_two(small):
    module, variables, images = small
    logits, features = jax.jit(module.apply)(variables, images)
    assert logits.shape == (6, 3, 3) and features.shape == (6, 2, 8)
    for i, head in enumerate(("positive_head", "negative_head", "exit_head_1")):
        kernel = variables["params"][head]["Dense_0"]["kernel"]
        expected = np.asarray(features[:, max(i - 1, 0)]) @ np.asarray(kernel)
        np.testing.assert_allclose(logits[:, i], expected, rtol=1e-4, atol=1e-5)
    plain = module.clone(exits=False)
    logits, features = jax.eval_shape(plain.init_with_output, jax.random.key(0), images)[0]
    assert logits.shape == (6, 2, 3) and features.shape == (6, 1, 8)


def test_initialization_reaches_every_convolution_and_nothing_else(small):
    module, _, images = small
    seven = nn.initializers.constant(7)
    module = module.clone(
        backbone=module.backbone.clone(kernel_init=seven), kernel_init=seven, parent=None
    )
    params = jax.jit(module.init)(jax.random.key(0), images)["params"]
    for path, leaf in jax.tree.leaves_with_path(params):
        assert np.all(leaf == 7) == (leaf.ndim == 4), path
    biases = [params["exit_1"][f"Conv_{i}"]["bias"] for i in range(3)]
    for bias, fan_in in zip(biases, (4, 2 * 2 * 2, 2), strict=True):
        assert 0 < np.abs(bias).max() <= fan_in**-0.5
    kernels = [params[f"{head}_head"]["Dense_0"]["kernel"] for head in ("positive", "negative")]
    assert not np.allclose(*kernels)


@pytest.mark.parametrize(
    ("init", "variance"), [("torch_default", 1 / 3 / 9 / 50), ("kaiming_fan_out", 2 / 9 / 100)]
)
def test_initializations_by_name(init, variance):
    module = make_multi_exit(
        "resnet8_small", init=init, num_classes=3, exits=True, dtype=jnp.float32
    )
    assert module.kernel_init is module.backbone.kernel_init
    kernel = module.kernel_init(jax.random.key(0), (3, 3, 50, 100))
    np.testing.assert_allclose(np.var(kernel), variance, rtol=0.05)


def test_networks_without_stages_are_refused_in_words():
    def make(**changes):
        options = {"name": "resnet18", **changes}
        return make_multi_exit(**options, num_classes=3, exits=True, dtype=jnp.float32)

    with pytest.raises(UserError, match="exits need a ResNet"):
        make(name="inception_resnet_v2")
    with pytest.raises(UserError, match="exits need a ResNet"):
        make(pool="window4")
    with pytest.raises(UserError, match="did you mean 'kaiming_fan_out'"):
        make(init="kaiming")
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        make(name="resnet_18")
