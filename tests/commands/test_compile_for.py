"""Compiling a recipe for devices that are not there."""

import json

import jax
import numpy as np
import pytest
import tiny_recipe

from jaxrobust.commands import benchmark, cli, compile_for
from jaxrobust.engine.sharding import make_placement
from jaxrobust.errors import UserError

HLO = """
  %all-reduce.1 = f32[64,128]{1,0} all-reduce(%a), replica_groups={}
  %ar = (f32[10]{0}, bf16[4,4]{1,0}) all-reduce-start(%a, %b), channel_id=1
  %done = f32[10]{0} all-reduce-done(%ar)
  %cp = (u8[8,32]{1,0}, u8[8,32]{1,0}, u32[], u32[]) collective-permute-start(%c), channel_id=2
  %all-gather.7 = bf16[512]{0} all-gather(%d), dimensions={0}
  %add = f32[64]{0} add(%x, %y)
"""


def test_collectives_are_counted_with_their_bytes():
    assert compile_for.collectives(HLO) == {
        "all-reduce": {"count": 2, "bytes": 64 * 128 * 4 + 10 * 4 + 16 * 2},
        "collective-permute": {"count": 1, "bytes": 8 * 32},
        "all-gather": {"count": 1, "bytes": 1024},
    }


def test_every_program_of_a_recipe_is_compiled_and_none_runs(monkeypatch, capsys, tmp_path):
    """For eight virtual CPU devices, so that no compiler of another device is needed."""
    placement = compile_for.PlannedPlacement(make_placement(jax.devices()).mesh)
    chip = compile_for.Chip(flops=1e12, memory_bytes=1e6, memory_rate=1e9, link_rate=1e9)
    monkeypatch.setattr(compile_for, "make_target", lambda target: (chip, placement))
    tiny_recipe.register()
    sizes = [
        *("--set=model.name=tiny", "--set=dataset.max_train=200", "--set=dataset.max_test=50"),
        *("--set=num_epochs=4", "--set=batch_size=16", "--set=dtype=float32"),
    ]
    out = tmp_path / "out.json"
    command = ["benchmark", "--config=dcfs:digits", "--compile_for=here", f"--out={out}", *sizes]
    assert cli.main(command) == 0
    rows = {row["program"]: row for row in json.loads(out.read_text())["reports"][0]["programs"]}
    assert {"target/epoch", "query/epoch", "query/predict", "target/test", "dcfs/scores"} <= {*rows}
    step = rows["target/epoch"]
    assert (step["target"], step["devices"], step["images_per_step"]) == ("here", 8, 16)
    # Within a step devices exchange sums alone: of gradients, metrics and BatchNorm's statistics.
    assert set(step["collectives"]) == {"all-reduce"}
    arithmetic, traffic = step["flops_per_step"] / 1e12, step["bytes_per_step"] / 1e9
    links = step["collectives"]["all-reduce"]["bytes"] / 1e9
    assert step["roofline_ms"] == pytest.approx(1e3 * (max(arithmetic, traffic) + links))
    assert step["fits"] == (step["memory_bytes"] <= 1e6)
    printed = capsys.readouterr().out
    assert "| target/epoch |" in printed and "hours for 4 epochs of 1,437 images" in printed


def test_made_up_numbers_let_data_be_divided():
    programs = compile_for.PlannedPrograms(
        compile_for.PlannedPlacement(make_placement(jax.devices()[:1]).mesh)
    )
    double = programs.jit("double", lambda x: (2 * x, x > 0), static=())
    values, signs = double(np.ones((100, 3), np.float32))
    assert values.shape == (100, 3) and 0 <= values.min() < values.max() < 1
    assert signs.dtype == bool and not signs.any()
    assert programs.traces == {"double": 1} and programs.notes["double"]["flops_per_step"] >= 0


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("v5e:2x2", r"needs XLA's compiler for it: pip install 'jaxrobust\[tpu\]'"),
        ("h100:1", r"needs XLA's compiler for it: pip install 'jaxrobust\[cuda13\]'"),
        ("v7:1x1", "Unknown --compile_for target 'v7'"),
    ],
)
def test_a_missing_compiler_is_named(monkeypatch, target, words):
    monkeypatch.setattr(compile_for, "_is_installed", lambda module: False)
    with pytest.raises(UserError, match=words):
        compile_for.make_target(target)


def test_streamed_sets_are_one_file(tmp_path):
    recipe = benchmark.load_recipe("l2d:coco_resnet101_resnet34", ["batch_size=2"])
    dataset = benchmark.random_dataset(recipe, tmp_path)
    assert len(dataset.train.files) == 80 and len({*dataset.train.files}) == 1  # a class each


def test_a_step_is_compiled_for_a_tpu():
    pytest.importorskip("libtpu")
    chip, placement = compile_for.make_target("v5e:2x2")
    assert placement.num_devices == 4 and chip.memory_bytes == 16e9
    programs = compile_for.PlannedPrograms(placement)
    total = programs.jit("total", lambda x: x.sum(), static=())
    total(placement.put_split(np.ones((8, 128), np.float32)))
    assert "all-reduce" in programs.notes["total"]["collectives"]
