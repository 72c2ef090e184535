"""Tests of the ML-Decoder head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.engine.optim import is_decayed
from jaxrobust.models import make_classifier
from jaxrobust.models.ml_decoder import MLDecoder

CASES = ("ml_decoder/case0", "ml_decoder/case1")


def _recorded(golden, case):
    """The module, its parameters and the input of a recorded case."""
    prefix = "params/decoder."

    def param(name):
        return golden[case, prefix + name]

    layer = "layers.0."

    def linear(weight, bias):
        return {"kernel": weight.T, "bias": bias}

    def norm(i):
        return {
            "scale": param(f"{layer}norm{i}.weight"),
            "bias": param(f"{layer}norm{i}.bias"),
        }

    def projection(name):
        return linear(param(f"{name}.weight"), param(f"{name}.bias"))

    attention = layer + "multihead_attn."
    inputs = zip(
        ("query", "key", "value"),
        np.split(param(attention + "in_proj_weight"), 3),
        np.split(param(attention + "in_proj_bias"), 3),
        strict=True,
    )
    params = {
        "memory": projection("embed_standart"),
        "queries": param("query_embed.weight"),
        "norm1": norm(1),
        "norm2": norm(2),
        "norm3": norm(3),
        "attention": {
            **{name: linear(weight, bias) for name, weight, bias in inputs},
            "out": projection(attention + "out_proj"),
        },
        "expand": projection(layer + "linear1"),
        "contract": projection(layer + "linear2"),
        "kernel": param("duplicate_pooling"),
        "bias": param("duplicate_pooling_bias"),
    }
    features = golden[case, "features"]
    axes = (0, *range(2, features.ndim), 1)
    module = MLDecoder(
        num_classes=len(params["bias"]),
        num_groups=int(golden[case, "groups"]),
        width=params["queries"].shape[1],
        hidden=params["expand"]["bias"].shape[0],
        num_heads=int(golden[case, "num_heads"]),
    )
    return module, params, features.transpose(axes), np.argsort(axes)


@pytest.mark.parametrize("case", CASES)
def test_embeddings_logits_and_gradient_equal_the_recorded_ones(case, load_golden):
    golden = load_golden("l2d")
    module, params, maps, back = _recorded(golden, case)
    params = jax.tree.map(jnp.float32, params)

    @jax.jit
    def run(maps):
        (embeddings, logits) = module.apply({"params": params}, maps)
        return jnp.sum(logits**2), (embeddings, logits)

    (_, (embeddings, logits)), grad = jax.value_and_grad(run, has_aux=True)(jnp.float32(maps))
    np.testing.assert_allclose(embeddings, golden[case, "label_embeddings"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits, golden[case, "logits"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        grad.transpose(back), golden[case, "grad_features_sumsq"], rtol=1e-4, atol=1e-5
    )


@pytest.fixture(scope="module")
def small():
    module = MLDecoder(num_classes=5, width=16, hidden=24)
    maps = np.random.default_rng(0).normal(size=(2, 3, 2, 6)).astype(np.float32)
    apply = jax.jit(module.apply, static_argnames="train")
    return apply, jax.jit(module.init)(jax.random.key(0), maps), maps


def test_dropout_is_for_training_and_positions_have_no_order(small):
    apply, variables, maps = small
    embeddings, logits = apply(variables, maps)
    assert embeddings.shape == (2, 5, 16) and logits.shape == (2, 5)
    moved = maps.reshape(2, 6, 6)[:, [3, 1, 0, 5, 4, 2]].reshape(maps.shape)
    np.testing.assert_allclose(apply(variables, moved)[1], logits, atol=1e-5)
    with_dropout = [
        apply(variables, maps, train=True, rngs={"dropout": jax.random.key(i)})[1] for i in range(2)
    ]
    assert np.any(with_dropout[0] != logits) and np.any(with_dropout[0] != with_dropout[1])


def test_queries_get_no_gradient(small):
    apply, variables, maps = small
    grads = jax.jit(jax.grad(lambda v: jnp.sum(apply(v, maps)[1] ** 2)))(variables)["params"]
    assert not np.any(grads.pop("queries"))
    assert all(np.any(grad) for grad in jax.tree.leaves(grads["memory"]))


def test_numbers_of_parameters():
    def shapes(num_classes):
        module = MLDecoder(num_classes)
        maps = jax.ShapeDtypeStruct((1, 7, 7, 512), jnp.float32)
        return jax.eval_shape(module.init, jax.random.key(0), maps)["params"]

    for num_classes, total in ((20, 5_940_244), (80, 6_032_464), (81, 6_034_001)):
        params = shapes(num_classes)
        # Of ResNet-18 and 34 with this head, less the backbone.
        assert sum(x.size for x in jax.tree.leaves(params)) == total
    decayed = is_decayed(params)
    assert not decayed["queries"] and decayed["kernel"] and not decayed["bias"]
    biases = sum(
        x.size
        for x, weigh in zip(jax.tree.leaves(params), jax.tree.leaves(decayed), strict=True)
        if not weigh
    )
    assert biases - params["queries"].size == 768 + 4 * 768 + 6 * 768 + 2048 + 768 + 81


def test_the_initial_weights_are_pytorchs(small):
    _, variables, _ = small
    params = variables["params"]
    for layer, bound in (
        (params["memory"], 6**-0.5),
        (params["expand"], 16**-0.5),
        (params["attention"]["query"], (6 / 64) ** 0.5),
        (params["attention"]["out"], 16**-0.5),
    ):
        assert 0.9 * bound < np.abs(layer["kernel"]).max() <= bound
    assert np.any(params["memory"]["bias"]) and not np.any(params["attention"]["key"]["bias"])
    np.testing.assert_allclose(np.std(params["kernel"]), (2 / 21) ** 0.5, rtol=0.2)
    np.testing.assert_allclose(np.std(params["queries"]), 1, rtol=0.2)


def test_a_classifier_with_label_embeddings(tiny_backbones):
    decoder = {"width": 8, "hidden": 8, "num_heads": 2}
    module = make_classifier(
        "tiny4", num_classes=3, auxiliary="none", dtype=jnp.float32, decoder=decoder
    )
    outputs, variables = jax.eval_shape(
        module.init_with_output, jax.random.key(0), jnp.zeros((2, 8, 8, 3))
    )
    assert outputs.logits.shape == (2, 3) and outputs.label_embeddings.shape == (2, 3, 8)
    assert set(variables["params"]) == {"backbone", "primary"}
