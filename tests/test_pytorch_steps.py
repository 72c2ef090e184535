"""The steps of the benchmark beside PyTorch do on both sides what a paper says: equal losses."""

import functools
import importlib

import jax
import numpy as np
import pytest

from jaxrobust import models
from jaxrobust.engine.sharding import make_placement
from jaxrobust.models.preact_resnet import PreActBlock
from jaxrobust.models.resnet import BasicBlock, BottleneckBlock

pytest.importorskip("torch", reason="needs PyTorch: pip install jaxrobust[test-torch]")
pytestmark = pytest.mark.usefixtures("networks")


@pytest.fixture(scope="module")
def benchmark():
    return importlib.import_module("pytorch_steps")


@pytest.fixture(scope="module")
def networks():
    """Two stages of every kind of block, four and eight channels wide."""
    wide = functools.partial(BottleneckBlock, widening=1)  # as ImageNet's are made
    kinds = {"preact": PreActBlock, "basic": BasicBlock, "bottleneck": wide}
    with pytest.MonkeyPatch.context() as patch:
        for name, block in kinds.items():
            options = {"stage_sizes": (1, 1), "widths": (4, 8)} | (
                {"block": block} if block else {}
            )
            patch.setitem(models.NETWORKS, name, functools.partial(models.ResNet, **options))
            backbone = functools.partial(models.ResNetBackbone, **options)
            patch.setitem(models.BACKBONES, name, backbone)
        yield


DECODER = {"width": 8, "hidden": 8, "num_heads": 2, "dropout": 0.0}
CASES = {
    # The second head drops features, so its loss differs from draw to draw and is left out.
    "dpc": {"network": "preact", "batch": 4, "side": 8, "weight_u": 0.0},
    "bldr": {"network": "basic", "batch": 6, "side": 8},
    "bual": {"network": "basic", "batch": 6, "side": 8},
    "dcfs": {"network": "basic", "batch": 6, "side": 8},
    "dhkd": {"teacher": "bottleneck", "student": "basic", "batch": 6, "side": 8},
    "teacher": {"network": "bottleneck", "batch": 6, "side": 8},
    "l2d": {
        "teacher": "bottleneck",
        "student": "basic",
        "batch": 6,
        "side": 16,
        "num_classes": 5,
        "decoder": DECODER,
    },
    "scoring": {"network": "preact", "batch": 4, "side": 8},
    **{f"conv512{part}": {"batch": 2} for part in ("", "_forward", "_kernel", "_images")},
}


@pytest.mark.parametrize("name", CASES)
def test_both_sides_have_the_same_losses(name, benchmark):
    """Of three steps in a row: the second and third follow from gradients and momentum."""
    case = benchmark.CASES[name](**CASES[name])
    placement = make_placement(jax.devices()[:1])
    ours, *theirs = (
        [step() for _ in range(3)]
        for step in (
            case.our_step(placement),
            *(case.torch_step(layout) for layout in benchmark.LAYOUTS.values()),
        )
    )
    if not name.startswith(("scoring", "conv")):
        assert len(set(ours)) == 3
    for losses in theirs:
        np.testing.assert_allclose(ours, losses, rtol=2e-4)


def test_a_row_has_the_ratios_to_the_better_layout(benchmark):
    report = {
        "what": "a step",
        "seconds": {
            "contiguous": [2.0, 2.0, 2.0],
            "channels_last": [1.0, 1.0, 2.0],
            "devices_1": [2.0, 3.0, 2.0],
            "devices_2": [1.0, 0.5, 2.0],
        },
        "load": [1.04, 0.96],
    }
    assert benchmark.row(report) == (
        "| a step | 2,000 | 1,000 | 2,000 | 1,000 | 2.00 (1.00 to 3.00) | 1.00 (0.50 to 1.00) "
        "| 1.0 to 1.0 |"
    )


def test_a_profile_tells_convolutions_from_the_rest(benchmark):
    case = benchmark.CASES["conv512_kernel"](batch=2)
    shares = benchmark.profiled(case.our_step(make_placement(jax.devices()[:1])))
    assert sum(shares.values()) == pytest.approx(1) and set(shares) <= {
        *benchmark.KINDS,
        "all else",
    }
    assert shares["convolutions"] > shares["all else"]
