"""Every method of both tasks on features in place of images."""

import csv
import importlib

import numpy as np
import pytest

from jaxrobust import report, tasks
from jaxrobust.data.features import feature_dataset
from jaxrobust.errors import UserError

NUM_CLASSES = 4


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Two views of 160 points around four centres, as `jaxrobust.embed` writes them."""
    generator = np.random.default_rng(0)
    labels = np.arange(160) % NUM_CLASSES
    centres = 3 * generator.normal(size=(NUM_CLASSES, 8))
    points = centres[labels][:, None] + generator.normal(size=(160, 2, 8))
    path = tmp_path_factory.mktemp("features") / "features.npz"
    names = [f"{i:03d}.jpg" for i in range(160)]
    np.savez(path, features=points.astype(np.float16), labels=labels, files=names)
    return path


def _config(recipe, features, *, network="linear", **changes):
    config = importlib.import_module(f"jaxrobust.recipes.{recipe}").get_config("digits")
    config.update_from_flattened_dict(
        {
            "dataset.name": "features",
            "dataset.features": str(features),
            "dataset.max_train": 96,
            "dataset.max_test": 0,
            "dataset.image_size": 0,
            "model.name": network,
            "model.pool": "global",
            "batch_size": 16,
            "eval_batch_size": 32,
            "num_epochs": 3,
            "writers": (),
            **changes,
        }
    )
    return config


ROUNDS = {"al.rounds": 2, "al.query_size": 8, "al.init_fraction": 0.2}


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("dpc", {"num_epochs": 10, "dpc.warm_up": 8, "augment.feature_noise": 0.1}),
        ("dpc", {"method": "cross_entropy", "model.dropout": 0.2}),
        (
            "bldr",
            {
                "model.name": "mlp",
                "num_epochs": 8,
                "bldr.self_distillation": False,
                "bldr.warm_up": 6,
                "bldr.ema": False,  # the average of so few epochs lags behind
                "dataset.max_train": 0,
            },
        ),
    ],
    ids=["dpc", "cross_entropy", "bldr"],
)
def test_wrong_labels(tmp_path, features, recipe, changes):
    config = _config(recipe, features, **changes)
    results = tasks.run(config, tmp_path)
    assert results["dataset"] == "features" and results["num_classes"] == NUM_CLASSES
    # Chance is 0.25 of 32 test rows, with a deviation of 0.08; the AUROC of chance is 0.5 +- 0.05.
    assert results["last"]["accuracy"] > 0.45
    assert results["last"]["labels"]["auroc_clean_prob"] > 0.6
    with open(tmp_path / "label_quality.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == (config.dataset.max_train or 128) and {row["file"] for row in rows} <= {
        f"{i:03d}.jpg" for i in range(160)
    }
    assert not (tmp_path / "figures" / "suspicious.png").exists()


def test_without_a_test_part(tmp_path, features):
    """A file that names no test part, and the same arrays in memory."""
    arrays = dict(np.load(features))
    source, labels = arrays["features"], arrays["labels"].astype(np.int32)
    path = tmp_path / "train.npz"
    config = _config("dpc", path, method="cross_entropy", **{"dataset.max_train": 0})
    np.savez(path, features=source, labels=labels, split=["train"] * len(labels))
    results = tasks.run(config, tmp_path / "file")
    assert "accuracy" not in results["last"] and "best" not in results
    assert results["last_epochs"]["labels"]["recall"] >= 0
    dataset = feature_dataset(source, labels, "0123")
    tasks.run(config, tmp_path / "memory", dataset=dataset)
    tables = [(tmp_path / d / "label_quality.csv").read_text() for d in ("file", "memory")]
    assert tables[0] == tables[1]
    for name in ("classifier/classifier.json", "figures/epochs.png"):
        assert (tmp_path / "memory" / name).exists()
    assert not (tmp_path / "memory" / "confusion.csv").exists()
    assert report.main([str(tmp_path / "memory")]) == 0


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("dcfs", {}),
        ("bual", {"bual.nl_epochs": 2}),
        ("active_learning_baselines", {"method": "random", "augment.feature_dropout": 0.1}),
    ],
    ids=["dcfs", "bual", "random"],
)
def test_annotation(tmp_path, features, recipe, changes):
    config = _config(recipe, features, network="mlp", **ROUNDS, **changes)
    results = tasks.run(config, tmp_path)
    assert [r["num_labeled_known"] + r["num_labeled_unknown"] for r in results["rounds"]][1] >= 8
    assert results["last"]["accuracy"] > 0.6  # of two known classes
    assert (tmp_path / "queries" / "round_00.csv").exists()
    assert not (tmp_path / "queries" / "round_00.png").exists()


def test_what_does_not_fit_is_refused_before_training(tmp_path, features):
    digits = {"dataset.name": "digits", "dataset.features": ""}
    for recipe, changes, words in (
        ("dpc", {"model.name": "resnet8_small"}, "takes images, but .* holds features"),
        ("dpc", digits, "takes features, but digits holds images"),
        ("dpc", {"dataset.features": ""}, "set --config.dataset.features="),
        ("dpc", {"dataset.stream": True}, "held in memory: set --config.dataset.stream=False"),
        ("bldr", {"bldr.self_distillation": True}, "set --config.bldr.self_distillation=False"),
        ("dpc", {"dataset.labels": "none.csv"}, "There is no file none.csv"),
        ("bual", {"oracle": "csv", **ROUNDS}, "features has none"),
    ):
        with pytest.raises(UserError, match=words):
            tasks.run(_config(recipe, features, **changes), tmp_path)
