"""Runs on features whose labels are judged by models that did not see them."""

import csv

import numpy as np
import pytest

from jaxrobust import tasks
from jaxrobust.recipes import dpc

pytestmark = pytest.mark.usefixtures("unrendered_figures", "one_device")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three epochs of the recipe of features on 60 rows, 6 of them wrong, and no test part."""
    folder = tmp_path_factory.mktemp("judged")
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = 4 * generator.normal(size=(3, 6))[labels] + generator.normal(size=(60, 6))
    labels[:6] = (labels[:6] + 1) % 3
    np.savez(folder / "features.npz", features=features.astype(np.float16), labels=labels)
    config = dpc.get_config("features")
    config.dataset.features = str(folder / "features.npz")
    config.num_epochs, config.dpc.warm_up, config.writers = 3, 1, ()
    results = tasks.run(config, folder / "run")
    with open(folder / "run" / "label_quality.csv", newline="") as file:
        return results, list(csv.DictReader(file))


def test_every_label_is_judged_and_nothing_is_held_out(run):
    results, rows = run
    assert len(rows) == 60 and "accuracy" not in results["last"]
    flagged = {int(row["id"]) for row in rows if row["flagged"] == "1"}
    assert flagged == set(range(6))
    assert {int(row["id"]) for row in rows[:6]} == set(range(6))
    assert all((float(row["clean_prob"]) < 0.5) == (row["flagged"] == "1") for row in rows)


def test_results_say_how_many_are_wrong(run):
    counts = run[0]["label_counts"]
    low, high = counts["expected_wrong_interval"]
    assert 4 < counts["expected_wrong"] < 9 and low <= 6 <= high
    assert 0.8 < counts["agreement"] <= 0.95  # of labels of which a tenth is wrong
    total = sum(1 - float(row["clean_prob"]) for row in run[1])
    assert total == pytest.approx(counts["expected_wrong"], abs=0.2)


def test_a_set_smaller_than_a_batch_is_one_that_dpc_cannot_divide(run):
    """Two networks after an epoch of warm-up, in two epochs."""
    assert run[0]["undivided_passes"] == 4
