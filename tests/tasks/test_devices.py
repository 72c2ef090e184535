"""The number of virtual CPU devices, chosen by the size of a training step."""

import json

import pytest

from configs import bldr, bual, dcfs, dhkd, dpc, kd_baselines, l2d
from jaxrobust.recipes.parse import parse
from jaxrobust.tasks import devices
from jaxrobust.tasks.devices import cpu_devices, gflop_of_step

TOLD = devices._jax_is_told


@pytest.fixture(autouse=True)
def fresh_jax(monkeypatch):
    """JAX as it is before anything is set, on a machine of eight cores."""
    monkeypatch.setattr(devices, "_jax_is_told", lambda: False)
    monkeypatch.setattr(devices, "num_cores", lambda: 8)


@pytest.mark.parametrize(
    ("recipe", "variant", "macs", "batch"),
    [
        # Multiplications with an addition of one image, as in the notes on DHKD.
        (dhkd, "resnet32x4_resnet8x4", 177e6, 64),
        (dhkd, "resnet32x4_shuffle_v2", 44.5e6, 64),
        (bual, "cifar10", 556e6, 128),
    ],
)
def test_a_step_costs_three_times_its_forward_pass(recipe, variant, macs, batch):
    found = gflop_of_step(parse(recipe.get_config(variant)))
    assert found == pytest.approx(6e-9 * macs * batch, rel=0.01)


@pytest.mark.parametrize("recipe", [bldr, bual, dcfs, dhkd, dpc, kd_baselines, l2d])
def test_recipes_of_digits_stay_on_one_device(recipe, tmp_path):
    assert cpu_devices(parse(recipe.get_config("digits")), tmp_path) == 1


def test_features_stay_on_one_device(tmp_path):
    assert cpu_devices(parse(dpc.get_config("features")), tmp_path) == 1


@pytest.mark.parametrize(("parts", "count"), [(100, 6), (2.5, 2), (0.9, 1)])
def test_a_large_step_is_split_evenly_into_parts_that_are_worth_it(
    parts, count, tmp_path, monkeypatch
):
    config = dpc.get_config("cifar10_sym50")
    config.batch_size = 12  # of whose divisors 6 is the largest up to 8
    monkeypatch.setattr(devices, "GFLOP_OF_A_PART", gflop_of_step(parse(config)) / parts)
    assert cpu_devices(parse(config), tmp_path) == count


@pytest.mark.parametrize("field", [{"num_seeds": 2}, {"batch_norm": "per_device"}])
def test_seeds_and_statistics_of_a_device_stay_on_one(field, tmp_path):
    config = dpc.get_config("cifar10_sym50")
    config.update(field)
    assert cpu_devices(parse(config), tmp_path) == 1


def test_a_choice_that_was_made_is_left_alone(tmp_path, monkeypatch):
    config = dpc.get_config("cifar10_sym50")
    with monkeypatch.context() as patch:
        patch.setattr(devices, "_jax_is_told", TOLD)  # of the eight devices of all tests
        assert cpu_devices(parse(config), tmp_path) == 0
    for field in ({"device": "gpu"}, {"device": "auto", "device_count": 3}):
        config.update(field)
        assert cpu_devices(parse(config), tmp_path) == 0


def test_a_run_goes_on_with_the_devices_that_it_had(tmp_path):
    config = dpc.get_config("cifar10_sym50")
    path = tmp_path / "environment.json"
    starts = [{"devices": ["cpu:0 cpu"], "device_count": count} for count in (4, 3)]
    path.write_text(json.dumps({"starts": starts}))
    assert cpu_devices(parse(config), tmp_path) == 3
    path.write_text(json.dumps({"starts": [{"devices": ["gpu:0 H100"], "device_count": 3}]}))
    assert cpu_devices(parse(config), tmp_path) == 8
