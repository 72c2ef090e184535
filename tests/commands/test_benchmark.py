import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.commands import benchmark, cli
from jaxrobust.engine.loops import epoch_program, gather_program
from jaxrobust.engine.plan import make_plan
from jaxrobust.engine.sharding import make_placement
from jaxrobust.errors import UserError
from jaxrobust.recipes.fields import replace

RECIPE = "configs/active_learning_baselines.py:digits"
WEIGHTS = np.ones((64, 32), np.float32)


def _step(state, ids, key):
    return state + jnp.sum(WEIGHTS[:, 0]), {"loss": jnp.sum(jnp.ones((8, 64)) @ WEIGHTS)}


@pytest.fixture
def measured():
    return benchmark.MeasuredPrograms(), make_placement(jax.devices()[:1])


@pytest.mark.parametrize("device_loop", [False, True])
def test_an_epoch_is_counted_by_steps_and_images(measured, device_loop):
    programs, placement = measured
    epoch = epoch_program(programs, "train", _step, placement, device_loop=device_loop, static=())
    for _ in range(2):
        plan = make_plan(np.arange(20), 8, capacity=100)
        state, _ = epoch(placement.put(np.float32(0)), plan, jax.random.key(0))
    assert float(state) == 3 * 64
    calls = programs.notes["train"]["calls"]
    assert sum(steps for _, steps, _ in calls) == 6
    assert sum(images for *_, images in calls) == 40
    assert programs.traces == {"train": 1}


def test_a_prediction_is_counted_by_images_and_its_cost_is_that_of_one_step(measured):
    programs, placement = measured
    forward = jax.random.normal(jax.random.key(0), (64, 32))
    program = gather_program(
        programs, "predict", lambda ids, key, x: x[ids] @ forward, 20, placement, static=()
    )
    for _ in range(2):
        program(make_plan(np.arange(20), 8, capacity=20), jax.random.key(0), np.ones((20, 64), "f"))
    note = programs.notes["predict"]
    assert [call[1:] for call in note["calls"]] == [(3, 20)] * 2
    # Eight rows times a 64 x 32 matrix; gathering them costs a little besides.
    assert note["flops_per_step"] == pytest.approx(2 * 8 * 64 * 32, rel=0.1)


def test_a_recipe_is_made_short_and_changed():
    config = benchmark.load_recipe(RECIPE, ["batch_size=16", "method=entropy", "al.openness=0.5"])
    assert (config.num_epochs, config.al.rounds) == (3, 2)
    assert (config.batch_size, config.method, config.al.openness) == (16, "entropy", 0.5)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([f"--config={RECIPE}", "--set=bach_size=3"], "has no field 'bach_size'"),
        (["--config=configs/none.py"], "configs/none.py does not exist"),
    ],
)
def test_mistakes_are_told_in_a_sentence(arguments, said, capsys):
    assert cli.main(["benchmark", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_percentiles_are_over_steps():
    row = benchmark._report(
        "train",
        {
            "calls": [(9.0, 1, 8), (1.0, 1, 8), (20.0, 10, 80)],
            "compile_seconds": 1.0,
            "cached": False,
            "bytes": 10,
            "flops_per_step": 4.0,
        },
        100.0,
    )
    assert [row[f"step_ms_p{q}"] for q in (10, 50, 90)] == [2000.0, 2000.0, 2000.0]
    assert row["images_per_second"] == 88 / 21
    assert row["mfu"] == pytest.approx(4 * 11 / 21 / 100)


def test_random_images_have_the_shape_of_the_set():
    changes = ["dataset.max_train=200", "dataset.max_test=90"]
    recipe = benchmark.load_recipe("configs/l2d.py:coco_resnet101_resnet34", changes)
    dataset = benchmark.random_dataset(recipe)
    assert dataset.train.images.shape == (200, 224, 224, 3)
    assert dataset.test.labels.shape == (90, 80)
    assert dataset.train.labels.any(axis=0).all() and 2 < dataset.train.labels.sum(1).mean() < 4
    with pytest.raises(UserError, match="Unknown data set of known shape 'image_folder'"):
        benchmark.random_dataset(replace(recipe, {"dataset.name": "image_folder"}))


def test_the_command_reports_every_program(tmp_path, capsys, one_device, tiny_network):
    out = tmp_path / "bench.json"
    config = "configs/active_learning_baselines.py:cifar10"
    fields = ("model.name=tiny", "dataset.max_train=300", "dataset.max_test=50", "al.query_size=9")
    arguments = [f"--config={config}", "--random", *(f"--set={field}" for field in fields)]
    assert cli.main(["benchmark", *arguments, f"--out={out}"]) == 0
    report = json.loads(out.read_text())["reports"][0]
    programs = {row["program"]: row for row in report["programs"]}
    train = programs["target/epoch"]
    assert train["images_per_second"] > 0 and train["gflop_per_image"] > 0
    assert 0 < train["step_ms_p10"] <= train["step_ms_p50"] <= train["step_ms_p90"]
    assert 0 <= report["idle_share"] < 1
    assert report["seconds_to_first_step"] > train["compile_seconds"]
    assert report["peak_memory_bytes"] >= train["memory_bytes"] > 300 * 32 * 32 * 3
    assert "| target/epoch |" in capsys.readouterr().out
