"""The loop, called as a library."""

import collections
import csv
import json

import jax
import ml_collections
import numpy as np
import pytest
from PIL import Image

from configs import dcfs as recipe
from jaxrobust import tasks
from jaxrobust.engine import sharding
from jaxrobust.engine.sharding import make_placement
from jaxrobust.errors import UserError
from jaxrobust.methods import dcfs

pytestmark = pytest.mark.usefixtures(
    "one_device", "tiny_network", "shared_programs", "unrendered_figures"
)


def _config(**changes) -> ml_collections.ConfigDict:
    config = recipe.get_config("digits")
    config.writers = ("jsonl",)
    config.model.name = "tiny"
    config.num_epochs = 3
    config.al.rounds = 3
    config.al.query_size = 20
    config.update_from_flattened_dict(changes)
    return config


METHODS = ("random", "entropy", "lc", "margin", "coreset", "badge", "lfosa", "eaoa", "dcfs")


def _score_counts(path):
    """Over how many images a round's histograms go, by score and part of the pool."""
    counts = {}
    with open(path) as file:
        for row in csv.DictReader(file):
            of_score = counts.setdefault(row["score"], collections.Counter())
            of_score.update({name: int(row[name]) for name in ("pool", "chosen", "unknown")})
    return counts


@pytest.mark.parametrize("method", METHODS)
def test_a_run_keeps_its_books(method, tmp_path):
    results = tasks.run(_config(method=method), tmp_path)
    assert results == json.loads((tmp_path / "results.json").read_text())
    split = json.loads((tmp_path / "split.json").read_text())
    assert split["known_classes"] == ["0", "1", "2", "3"]
    seen = set(split["initial_ids"])
    for i, entry in enumerate(results["rounds"][:-1]):
        rows = (tmp_path / "queries" / f"round_{i:02d}.csv").read_text().splitlines()[1:]
        ids = [int(row.split(",")[0]) for row in rows]
        labels = [row.split(",")[1] for row in rows]
        assert len(set(ids)) == 20 and not seen & set(ids)
        seen |= set(ids)
        known = sum(label != "unknown" for label in labels)
        query = entry["query"]
        num_unknown = round(query["pool_size"] * (1 - query["pool_known_fraction"]))
        expected = {"pool": query["pool_size"], "chosen": 20, "unknown": num_unknown}
        for counts in _score_counts(tmp_path / "queries" / f"round_{i:02d}_scores.csv").values():
            assert counts == expected
        with Image.open(tmp_path / "queries" / f"round_{i:02d}.png") as sheet:
            assert sheet.size == (8 * 100, 3 * (96 + 18))
        assert entry["query"]["num_known"] == known
        assert entry["query"]["precision"] == known / 20
        following = results["rounds"][i + 1]
        assert following["num_labeled_known"] == entry["num_labeled_known"] + known
        assert following["num_labeled_known"] + following["num_labeled_unknown"] == len(seen)
    recalls = [r["query"]["recall"] for r in results["rounds"][:-1]]
    assert recalls == sorted(recalls)
    traces = json.loads((tmp_path / "timing.json").read_text())["traces"]
    assert set(traces.values()) == {1}


def test_a_query_after_the_last_round_changes_nothing_before_it(tmp_path):
    changes = {"model.name": "tiny", "al.rounds": 2, "num_epochs": 1}
    without = tasks.run(_config(**changes), tmp_path / "without")
    last = tasks.run(_config(**changes, **{"al.query_last": True}), tmp_path / "last")
    query = last["rounds"][-1].pop("query")
    assert last["rounds"] == without["rounds"]
    assert query["size"] == 20 and (tmp_path / "last" / "queries" / "round_01.csv").exists()
    mean = (query["precision"] + without["mean_query_precision"]) / 2
    assert last["mean_query_precision"] == pytest.approx(mean)
    assert last["last_query_recall"] == query["recall"] > without["last_query_recall"]
    with pytest.raises(UserError, match="asks for 1500 annotations"):
        tasks.run(_config(**{"al.query_last": True, "al.query_size": 500}), tmp_path / "more")


@pytest.mark.stress  # tests/test_devices.py has the steps of every method
def test_eight_devices_give_the_one_device_curve(tmp_path, monkeypatch):
    config = _config(**{"select.fine": "data"})
    one = tasks.run(config, tmp_path / "one")
    monkeypatch.setattr(sharding, "make_placement", lambda **_: make_placement(jax.devices()))
    eight = tasks.run(config, tmp_path / "eight")

    def losses(name):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [e["loss"] for e in map(json.loads, lines) if e["split"] == "train"]

    np.testing.assert_allclose(losses("eight"), losses("one"), rtol=2e-3)
    for a, b in zip(one["rounds"], eight["rounds"], strict=True):
        assert abs(a["accuracy"] - b["accuracy"]) < 0.03


FIRST = {"select.stage_order": "uncertainty_first", "select.fine": "target_entropy"}
OPTIONS = (
    {**FIRST, "select.coarse": "product", "al.score_transform": "train"},
    {**FIRST, "select.coarse": "sequential", "select.fine": "total"},
    {**FIRST, "select.coarse": "gmm_product", "select.fine": "discrepancy_low"},
    {"select.fine": "random", "discrepancy.kind": "l2"},
    {
        "select.first_round": "random",
        "select.kappa": 5.0,
        "select.adaptive_kappa": True,
        "edl.loss": "digamma",
    },
    {"select.first_round": "coarse_only", "select.class_balanced": False, "edl.loss": "mse"},
    {"al.target_model": "shared", "select.fine": "data", "edl.evidence": "softplus"},
    {"loss.dis_route": "heads", "loss.amplify": "hinge", "discrepancy.kind": "js"},
    {
        **FIRST,
        "loss.pool_amplify": 0.1,
        "select.coarse": "weighted_sum",
        "select.w_discrepancy": 1.0,
        "edl.clip": float("inf"),
    },
)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=", ".join)
def test_every_option_runs(options, tmp_path):
    results = tasks.run(_config(**options, **{"num_epochs": 1}), tmp_path)
    assert [r["query"]["size"] for r in results["rounds"][:-1]] == [20, 20]


def test_a_closed_set_runs_without_unknowns(tmp_path):
    results = tasks.run(_config(**{"al.openness": 0.0}), tmp_path)
    assert all(r["num_labeled_unknown"] == 0 for r in results["rounds"])
    assert all(r["query"]["precision"] == 1 for r in results["rounds"][:-1])


def test_seeds_differ_and_repeat(tmp_path):
    first, again, other = (
        tasks.run(_config(method="random", seed=s), tmp_path / name)
        for name, s in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again
    assert first["rounds"] != other["rounds"]


def test_a_loss_that_is_not_finite_stops_in_words(tmp_path):
    config = _config(method="random", **{"optimizer.learning_rate": 1e30})
    with pytest.raises(UserError, match=r"became (nan|inf) in round 0.*is none yet"):
        tasks.run(config, tmp_path)


def test_kappa_follows_the_precision():
    assert dcfs.kappa_after(5, ()) == 5
    assert dcfs.kappa_after(5, (0.9, 0.9, 0.6, 0.65, 0.55)) == 7
    assert dcfs.kappa_after(2, (0.1, 0.1, 0.1)) == 1


WRONG = {
    "unknown method": ({"method": "dfcs"}, "did you mean 'dcfs'"),
    "unknown task": ({"task": "active"}, "did you mean 'active_learning'"),
    "unknown dataset": ({"dataset.name": "digit"}, "did you mean 'digits'"),
    "missing data": ({"dataset.name": "cifar100"}, "dataset.path"),
    "no such folder": ({"dataset.path": "/nowhere"}, "There is no /nowhere"),
    "budget above the pool": ({"al.query_size": 1000}, "asks for 2000 annotations"),
    "openness 1": ({"al.openness": 1.0}, "openness"),
    "openness negative": ({"al.openness": -0.2}, "openness"),
    "one known class": ({"al.num_known": 1}, "num_known=1"),
    "too many known classes": ({"al.num_known": 11}, "num_known=11"),
    "classes not permuted": ({"al.class_order": (0, 0, 1)}, "class_order must be a permutation"),
    "nothing labelled": ({"al.init_fraction": 1e-4}, "init_fraction"),
    "unknown network": ({"model.name": "resnet81"}, "model.name"),
    "unknown schedule": ({"optimizer.schedule": "linear"}, "optimizer.schedule"),
    "unknown score": ({"select.fine": "entropy"}, "did you mean 'target_entropy'"),
    "no target classifier": (
        {"al.target_model": "shared", "select.fine": "target_entropy"},
        "needs the separate target",
    ),
    "a weight that does nothing": ({"select.w_discrepancy": 1.0}, "select.coarse"),
    "kappa below 1": ({"select.kappa": 0.5}, "select.kappa"),
    "a kappa that adapts from nothing": ({"select.adaptive_kappa": True}, "select.kappa"),
    "unknown device": ({"device": "cuda"}, "Unknown device 'cuda'"),
    "unknown dtype": ({"dtype": "float16"}, "dtype"),
    "unknown writer": ({"writers": ("jsonl", "csv")}, "Unknown writer 'csv'"),
    "no rounds": ({"al.rounds": 0}, "al.rounds"),
    "no epochs": ({"num_epochs": 0}, "num_epochs"),
    "negative batch": ({"batch_size": -4}, "batch_size"),
    "negative query": ({"al.query_size": 0}, "al.query_size"),
    "unknown oracle": ({"oracle": "person"}, "oracle"),
    "nobody to ask": ({"oracle": "csv"}, "digits has none"),
    "settings of another method": ({"method": "bual"}, "start from config='configs/bual.py'"),
    "shared without a query network": (
        {"method": "entropy", "al.target_model": "shared"},
        "set config.al.target_model='separate'",
    ),
    "a second test set": ({"dataset.test2": "val"}, "clear config.dataset.test2="),
    "unknown view": ({"al.score_transform": "tset"}, "al.score_transform"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_recipe_is_answered_by_one_sentence(case, tmp_path):
    changes, words = WRONG[case]
    with pytest.raises(UserError) as caught:
        tasks.run(_config(**changes), tmp_path / "run")
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert not (tmp_path / "run" / "results.json").exists()


def test_a_class_without_images_is_named(tmp_path):
    for name in ("cat", "dog", "eel"):
        for split in ("train", "test"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            if name != "eel":
                for i in range(4):
                    image = Image.new("RGB", (8, 8), (40 * i, 10, 10))
                    image.save(tmp_path / "data" / split / name / f"{i}.png")
    config = _config(**{"dataset.name": "image_folder", "dataset.path": str(tmp_path / "data")})
    with pytest.raises(UserError, match="eel"):
        tasks.run(config, tmp_path / "run")


def test_an_unwritable_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        tasks.run(_config(), tmp_path / "file" / "run")


def test_changed_data_is_noticed(tmp_path):
    tasks.run(_config(method="random"), tmp_path)
    before = json.loads((tmp_path / "config.json").read_text())
    before["dataset"]["max_train"] = 1000
    (tmp_path / "config.json").write_text(json.dumps(before))
    with pytest.raises(UserError, match=r"differ from those that .* was started with"):
        tasks.run(_config(method="random", **{"dataset.max_train": 1000}), tmp_path)
