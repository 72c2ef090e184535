"""What eight devices exchange in a step: sums, and each row that all of them need, once."""

import jax
import pytest
from planned_programs import Chosen

from jaxrobust import tasks
from jaxrobust.commands.benchmark import load_recipe, random_dataset
from jaxrobust.commands.compile_for import PlannedPlacement
from jaxrobust.engine.sharding import make_placement

pytestmark = pytest.mark.usefixtures("tiny_network", "tiny_backbones")

BATCH = 16
IDS, IMAGES = 4 * BATCH, 8 * 8 * 3 * BATCH  # int32 and uint8
LOGITS = 4 * 10 * BATCH  # float32, of ten classes
CHUNK = 512  # of evaluation
TEACHER = ("teacher.name=tiny8", "student.name=tiny4")
WEBVISION = ("dataset.image_size=8", "model.name=tiny", "num_workers=0")

# Recipe, fields, and of each program the bytes that are gathered and the most that are summed.
CASES = {
    # Ids of the labelled; two views of both sets, which are streamed; logits of 50 classes of 4 own
    # guesses, 2 of the peer and the 2 mixed views of the labelled.
    "dpc": (
        "dpc:webvision",
        WEBVISION,
        {"semi_supervised/epoch": (IDS + 4 * IMAGES + 8 * 5 * LOGITS, 3_300)},
    ),
    # Positions and values of what is kept of each example; results of two heads.
    "bldr": (
        "bldr:digits",
        ("model.name=tiny2",),
        {
            "train/epoch": (2 * IDS, 27_000),
            "train/predict": (CHUNK * 4 * (1 + 2 * 10), 0),
        },
    ),
    "bual": (
        "bual:digits",
        ("model.name=tiny",),
        {"negative/epoch": (0, 2_100), "aux/epoch": (0, 2_100)},
    ),
    "dhkd": (
        "dhkd:digits",
        (*TEACHER, "num_diagnosed=40"),
        {"student/epoch": (0, 4_500), "diagnose": (0, 6_300)},
    ),
    # Embeddings of 8 numbers for each image and class, of both networks, and which labels count;
    # these twice.
    "l2d": (
        "l2d:digits",
        (*TEACHER, "decoder.width=8", "decoder.hidden=8"),
        {"student/epoch": (2 * 8 * LOGITS + 2 * 10 * BATCH, 4_500)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_devices_exchange_sums_and_no_row_twice(case, tmp_path):
    recipe, fields, expected = CASES[case]
    sizes = ("dataset.max_train=200", "dataset.max_test=50", f"batch_size={BATCH}")
    recipe = load_recipe(recipe, [*sizes, "dtype=float32", "device_count=0", *fields])
    dataset = random_dataset(recipe, tmp_path) if recipe.dataset.stream else None
    programs = Chosen(PlannedPlacement(make_placement(jax.devices()).mesh), expected)
    tasks.TASKS[recipe.task](recipe, tmp_path / "run", programs, dataset=dataset)
    for name, (gathered, most_summed) in expected.items():
        found = programs.notes[name]["collectives"]
        assert {*found} <= {"all-reduce", "all-gather"}, name
        assert found.get("all-gather", {"bytes": 0})["bytes"] == gathered, name
        assert found.get("all-reduce", {"bytes": 0})["bytes"] <= most_summed, name
