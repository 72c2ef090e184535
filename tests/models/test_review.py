import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.losses import review_kd_hcl_loss
from jaxrobust.models.review import FusionBlock, ReviewFusion


def _maps(array):
    return jnp.asarray(array.transpose(0, 2, 3, 1), jnp.float32)


@pytest.mark.parametrize("case", ["abf/case0", "abf/case1"])
def test_fusion_block_computes_what_the_authors_block_computes(case, load_golden):
    golden = load_golden("l2d")

    def conv(name):
        return {"Conv_0": {"kernel": golden[case, name].transpose(2, 3, 1, 0)}}

    def norm(name):
        scale, bias = (golden[case, f"{name}_{leaf}"] for leaf in ("scale", "bias"))
        return {"BatchNorm_0": {"scale": scale, "bias": bias}}

    params = {n: conv(n) for n in ("conv1", "conv2")}
    params |= {f"norm{i}": norm(f"bn{i}") for i in (1, 2)}
    deeper = None
    if (case, "y") in golden:
        deeper = _maps(golden[case, "y"])
        params["attention"] = {
            "kernel": golden[case, "att_w"].transpose(2, 3, 1, 0),
            "bias": golden[case, "att_b"],
        }
    expected = _maps(golden[case, "out"])
    block = FusionBlock(expected.shape[-1], expected.shape[1:3], width=4)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    apply = jax.jit(functools.partial(block.apply, train=True, mutable=["batch_stats"]))
    (out, fused), _ = apply({"params": params}, _maps(golden[case, "x"]), deeper)
    np.testing.assert_allclose(out, expected, atol=2e-5)
    np.testing.assert_allclose(fused, _maps(golden[case, "residual"]), atol=2e-5)


@pytest.fixture(scope="module")
def fusion():
    student = [jnp.ones((2, 8, 8, 3)), jnp.ones((2, 4, 4, 5)), jnp.ones((2, 1, 1, 6))]
    module = ReviewFusion(((4, 4, 7), (4, 4, 8), (1, 1, 9)), width=4)
    return module, student


def test_fusion_gives_the_teachers_shapes_which_the_loss_takes(fusion):
    module, student = fusion
    variables = jax.eval_shape(module.init, jax.random.key(0), student)
    outputs = jax.eval_shape(module.apply, variables, student)
    assert [x.shape for x in outputs] == [(2, 4, 4, 7), (2, 4, 4, 8), (2, 1, 1, 9)]
    attentions = [k for k, v in variables["params"].items() if "attention" in v]
    assert len(attentions) == 2  # all levels but the deepest
    assert jax.eval_shape(review_kd_hcl_loss, outputs, outputs).shape == ()


def test_levels_of_different_number_are_refused(fusion):
    module, student = fusion
    with pytest.raises(ValueError, match="2 levels and the teacher 3"):
        jax.eval_shape(module.init, jax.random.key(0), student[:2])
