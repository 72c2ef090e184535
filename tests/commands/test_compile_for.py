"""Compiling a recipe for devices that are not there."""

import json

import jax
import numpy as np
import pytest
import tiny_recipe
from planned_programs import Chosen

from jaxrobust import tasks
from jaxrobust.commands import benchmark, cli, compile_for, compiled_text
from jaxrobust.engine.loops import epoch_program
from jaxrobust.engine.plan import place_plan
from jaxrobust.engine.sharding import make_placement
from jaxrobust.errors import UserError

HLO = """
  %all-reduce.1 = f32[64,128]{1,0} all-reduce(%a), replica_groups={}
  %ar = (f32[10]{0}, bf16[4,4]{1,0}) all-reduce-start(%a, %b), channel_id=1
  %done = f32[10]{0} all-reduce-done(%ar)
  %on-gpu = ((f32[100]{0}), f32[100]{0}) all-reduce-start(%g), channel_id=4
  %cp = (u8[8,32]{1,0}, u8[8,32]{1,0}, u32[], u32[]) collective-permute-start(%c), channel_id=2
  %all-gather.7 = bf16[512]{0} all-gather(%d), channel_id=3, dimensions={0}
  %all-gather.8 = bf16[512]{0} all-gather(%e), channel_id=3, dimensions={0}
  %add = f32[64]{0} add(%x, %y)
"""


def test_collectives_are_counted_with_their_bytes():
    assert compiled_text.collectives(HLO) == {
        "all-reduce": {"count": 3, "bytes": 64 * 128 * 4 + 10 * 4 + 16 * 2 + 100 * 4},
        "collective-permute": {"count": 1, "bytes": 8 * 32},
        "all-gather": {"count": 1, "bytes": 1024},
    }


# A loop whose step takes 8 rows of a table of 1,000, multiplies them by weights that were fetched
# to the chip, and files the results; the table is copied before the loop. From a TPU's text.
LOOP = """
%rows (table: u8[1000,128], ids: s32[8]) -> u8[8,128] {
  %table = u8[1000,128]{1,0:T(8,128)(4,1)} parameter(0)
  %flat = u8[1000,128]{1,0:T(8,128)(4,1)} bitcast(%table)
  %ids = s32[8]{0:T(128)S(1)} parameter(1)
  ROOT %gather.1 = u8[8,128]{1,0:T(8,128)(4,1)S(1)} gather(%flat, %ids), slice_sizes={1,128}
}

%body (state: (u8[1000,128], (f32[128,64], s32[8]), f32[1000,64])) -> (f32[1000,64]) {
  %state = (u8[1000,128]{1,0:T(8,128)(4,1)}, (f32[128,64]{1,0:T(8,128)}, \
s32[8]{0:T(128)S(1)}), f32[1000,64]{1,0:T(8,128)}) parameter(0)
  %fusion.1 = u8[8,128]{1,0:T(8,128)(4,1)S(1)} fusion(%state#0, %state#1#1), calls=%rows
  %fetch = (f32[128,64]{1,0:T(8,128)}, f32[128,64]{1,0:T(8,128)S(1)}, u32[]{:S(2)}) \
copy-start(%state#1#0)
  %weights = f32[128,64]{1,0:T(8,128)S(1)} copy-done(%fetch)
  %dot.1 = f32[8,64]{1,0:T(8,128)} dot(%fusion.1, %weights), lhs_contracting_dims={1}
  %filed = f32[1000,64]{1,0:T(8,128)} scatter(%state#2, %state#1#1, %dot.1), to_apply=%sum
  ROOT %tuple.1 = (f32[1000,64]{1,0:T(8,128)}) tuple(%filed)
}

ENTRY %main (table: u8[1000,128]) -> f32[1000,64] {
  %table.1 = u8[1000,128]{0,1:T(8,128)(4,1)} parameter(0)
  %copy.1 = u8[1000,128]{1,0:T(8,128)(4,1)} copy(%table.1)
  %start = (u8[1000,128]{1,0:T(8,128)(4,1)}) tuple(%copy.1)
  ROOT %while.1 = (f32[1000,64]{1,0:T(8,128)}) while(%start), condition=%more, body=%body
}
""".replace("\\\n", "")


def test_memory_traffic_is_what_leaves_the_chip():
    taken, weights, results = 8 * 128, 128 * 64 * 4, 8 * 64 * 4
    step = taken + weights + results + 2 * results  # written, then read and filed
    assert compiled_text.memory_traffic(LOOP, is_loop=True) == step
    assert compiled_text.memory_traffic(LOOP, is_loop=False) == step + 2 * 1000 * 128
    # A GPU's arrays have no tiles, and all of them lie in its memory.
    on_gpu = LOOP.replace("S(1)", "").replace(":T(8,128)", "").replace("(4,1)", "")
    on_gpu = on_gpu.replace(":T(128)", "")
    ids = 8 * 4
    rows = (taken + ids + taken) + 2 * weights  # taken from the table, filed; fetched
    product = taken + weights + results
    assert compiled_text.memory_traffic(on_gpu, is_loop=True) == rows + product + 2 * results + ids


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
    assert "| target/epoch |" in printed and "hours" not in printed  # of a pool that is annotated


def test_hours_are_those_of_the_whole_recipe():
    row = {"target": "v5e:1x1", "devices": 1, "memory_limit_bytes": 16e9, "compile_seconds": 1.0}
    row |= {"flops_per_step": 1e9, "bytes_per_step": 1e6, "memory_bytes": 1e6, "fits": True}
    row |= {"roofline_ms": 1.0, "collectives": {}, "images_per_second": 1000.0}

    def hours(path, *programs):
        rows = [{**row, "program": f"{name}/epoch"} for name in programs]
        text = compile_for.table(rows, benchmark.load_recipe(path, [], {}), 36_000)
        return [line for line in text.splitlines() if "hours" in line]

    assert hours("dpc:cifar10_sym50", "warm_up", "semi_supervised") == [
        "warm_up/epoch: at least 0.1 hours for 10 epochs of 36,000 images.",
        "semi_supervised/epoch: at least 2.9 hours for 291 epochs of 36,000 images.",
    ]
    assert hours("dhkd:resnet56_resnet20", "teacher", "student") == [
        "teacher/epoch: at least 2.4 hours for 240 epochs of 36,000 images.",
        "student/epoch: at least 2.4 hours for 240 epochs of 36,000 images.",
    ]


TINY = ("model.name=tiny", "al.query_size=100")


@pytest.mark.parametrize(
    ("recipe", "fields"),
    [
        ("bual:cifar10", TINY),
        ("dcfs:cifar10", TINY),
        ("e2oal:cifar10", TINY),
        ("active_learning_baselines:cifar10", (*TINY, "method=eaoa")),
        ("active_learning_baselines:cifar10", (*TINY, "method=lfosa")),
        ("dhkd:resnet56_resnet20", ("teacher.name=tiny8", "student.name=tiny4")),
    ],
)
def test_every_network_of_a_recipe_is_trained(recipe, fields, tmp_path):
    tiny_recipe.register()
    recipe = benchmark.load_recipe(recipe, ["dataset.max_train=4000", *fields])
    dataset = benchmark.random_dataset(recipe)
    programs = Chosen(compile_for.PlannedPlacement(make_placement(jax.devices()).mesh), ())
    tasks.TASKS[recipe.task](recipe, tmp_path / "run", programs, dataset=dataset)
    networks = {name.removesuffix("/start") for name in programs.notes if name.endswith("/start")}
    trained = {name.removesuffix("/epoch") for name in programs.notes if name.endswith("/epoch")}
    assert networks and networks == trained


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


def test_a_loop_of_steps_is_told_from_a_step_with_a_loop():
    placement = compile_for.PlannedPlacement(make_placement(jax.devices()[:1]).mesh)
    found = []

    class Traced(compile_for.PlannedPrograms):
        def _compile(self, name, jitted, args):
            found.append(compile_for._is_loop(jitted.trace(*args).jaxpr.jaxpr))
            self.notes[name] = {}
            return jitted.trace(*args).out_info

    def step(x, ids, key):
        return x * jax.random.beta(key, 0.5, 0.5) * ids.sum().astype(np.float32), {"x": x}

    for device_loop in (True, False):
        programs = Traced(placement)
        epoch = epoch_program(
            programs, "epoch", step, placement, static=(), device_loop=device_loop
        )
        plan = place_plan(np.arange(4, dtype=np.int32), 2, placement, capacity=4)
        epoch(np.float32(1), plan, np.zeros(2, np.uint32))
    assert found == [True, False]
