"""Every method of both tasks on features in place of images."""

import csv
import dataclasses
import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pages
import pytest
from PIL import Image

from jaxrobust import load_classifier, tasks
from jaxrobust.commands import cli
from jaxrobust.data import load_features
from jaxrobust.data.features import feature_dataset
from jaxrobust.engine import sharding
from jaxrobust.engine.sharding import make_placement
from jaxrobust.errors import UserError
from jaxrobust.methods import noisy_baselines
from jaxrobust.methods.noisy_label_method import NoisyLabelProblem
from jaxrobust.models import embedding
from jaxrobust.recipes import has_pretrained
from jaxrobust.tasks.common import load
from jaxrobust.tasks.oracles import split_by_truth

pytestmark = pytest.mark.usefixtures("unrendered_figures", "one_device")

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
                "num_epochs": 8,
                "optimizer.learning_rate": 0.05,
                "bldr.complementary": "all_but_label",
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
    assert not (tmp_path / "label_review.html").exists()


def test_eight_devices_learn_what_one_does(tmp_path, features, monkeypatch):
    config = _config("dpc", features, method="cross_entropy")
    one = tasks.run(config, tmp_path / "one")
    everywhere = make_placement(jax.devices())
    monkeypatch.setattr(sharding, "make_placement", lambda **_: everywhere)
    eight = tasks.run(config, tmp_path / "eight")
    counts = [
        json.loads((tmp_path / name / "environment.json").read_text())["starts"][0]["device_count"]
        for name in ("one", "eight")
    ]
    assert counts == [1, 8]
    # One of 32 test rows may change sides.
    assert eight["last"]["accuracy"] == pytest.approx(one["last"]["accuracy"], abs=0.032)


@pytest.fixture
def embedded(tmp_path, monkeypatch):
    """`data` with dark and light images, embedded by a function, and the calls of it."""
    generator = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 180)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(20):
            pixels = generator.normal(level, 20, (4, 4, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    calls = []

    def embed(folder, *, views, progress):
        calls.append((folder, views))
        network = lambda images: images.reshape(len(images), -1).astype(np.float32)  # noqa: E731
        found = embedding.embed(folder, backbone=network, views=views, size=2)
        return dataclasses.replace(found, backbone="network", weights_hash="0")

    monkeypatch.setattr("jaxrobust.tasks.common.embed", embed)
    return calls


def test_a_folder_of_images_is_embedded_first(tmp_path, embedded, caplog):
    """With the extra `pretrained` the variant image_folder does so."""
    config = importlib.import_module("jaxrobust.recipes.dpc").get_config("image_folder_pixels")
    assert (config.dataset.name, config.dataset.features) == ("image_folder", "")
    config = _config(
        "dpc", "auto", method="cross_entropy", **{"noise.kind": "none", "dataset.max_train": 0}
    )
    with pytest.raises(UserError, match=r"set config.dataset.path="):
        tasks.run(config, tmp_path / "run")
    config.dataset.path = str(tmp_path / "data")
    caplog.set_level("INFO", "jaxrobust")
    results = tasks.run(config, tmp_path / "run")
    assert embedded == [(str(tmp_path / "data"), 2)]
    assert "use the variant image_folder_pixels" in caplog.text
    assert results["num_classes"] == 2 and results["last"]["accuracy"] == 1
    assert (tmp_path / "run" / "figures" / "suspicious.png").exists()
    assert load_classifier(tmp_path / "run").embedding == ("network", 2, "0")
    with open(tmp_path / "run" / "label_quality.csv", newline="") as file:
        assert {row["file"].split("/")[0] for row in csv.DictReader(file)} == {"dark", "light"}
    review = pages.embedded_data(tmp_path / "run" / "label_review.html")
    assert review["folder"] == "../data" and all(review["pictures"])


def test_a_person_is_asked_about_images_that_were_embedded(tmp_path, embedded):
    (tmp_path / "data" / "unlabeled").mkdir()
    for path in sorted((tmp_path / "data").glob("*/1?.png")):
        path.rename(tmp_path / "data" / "unlabeled" / f"{path.parent.name}{path.name}")
    changes = {"oracle": "csv", "dataset.path": str(tmp_path / "data"), "dataset.max_train": 0}
    config = _config("dcfs", "auto", **{**ROUNDS, **changes})
    waiting = tasks.run(config, tmp_path / "run")["waiting_for"]
    with open(waiting, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and all(row["file"].startswith("unlabeled/") for row in rows)
    assert (tmp_path / "run" / "queries" / "round_00.png").exists()


def test_the_variant_image_folder_depends_on_the_extra():
    for recipe in ("dcfs", "bual", "e2oal", "active_learning_baselines"):
        config = importlib.import_module(f"jaxrobust.recipes.{recipe}").get_config("image_folder")
        expected = ("features", "auto") if has_pretrained() else ("image_folder", "")
        assert (config.dataset.name, config.dataset.features) == expected
    for recipe in ("dpc", "bldr"):
        config = importlib.import_module(f"jaxrobust.recipes.{recipe}").get_config("image_folder")
        expected = ("features", "auto") if has_pretrained() else ("image_folder", "")
        assert (config.dataset.name, config.dataset.features) == expected
        assert config.noise.kind == "none"


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
    for name in ("classifier/model.json", "figures/epochs.png"):
        assert (tmp_path / "memory" / name).exists()
    assert not (tmp_path / "memory" / "confusion.csv").exists()
    assert cli.main(["report", str(tmp_path / "memory")]) == 0


@pytest.mark.usefixtures("one_device")  # quicker to compile; learning above has all eight
@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("dcfs", {}),
        ("bual", {"bual.nl_epochs": 2}),
        ("e2oal", {"e2oal.num_components": 2}),
        ("active_learning_baselines", {"method": "random", "augment.feature_dropout": 0.1}),
        ("active_learning_baselines", {"method": "typiclust"}),
        ("active_learning_baselines", {"method": "probcover", "checkpoint.every_seconds": np.inf}),
        ("active_learning_baselines", {"method": "dropquery", "al.shuffle_classes": True}),
    ],
    ids=["dcfs", "bual", "e2oal", "random", "typiclust", "probcover", "dropquery"],
)
def test_annotation(tmp_path, features, recipe, changes):
    config = _config(recipe, features, network="mlp", **ROUNDS, **changes)
    results = tasks.run(config, tmp_path)
    assert [r["num_labeled_known"] + r["num_labeled_unknown"] for r in results["rounds"]][1] >= 8
    assert results["last"]["accuracy"] > 0.6  # of two known classes
    assert (tmp_path / "queries" / "round_00.csv").exists()
    assert not (tmp_path / "queries" / "round_00.png").exists()


def test_neighbors_vote_without_their_own_label(tmp_path, features):
    """One epoch, whatever `num_epochs`; votes are as NumPy counts them, an example's own left out.

    The votes of all but the example itself depend on its own label in nothing.
    """
    config = _config("dpc", features, method="knn", **{"baseline.num_neighbors": 5})
    results = tasks.run(config, tmp_path)
    assert len(results["epochs"]) == 1
    dataset = load_features(features, max_train=96)
    x = dataset.train.read_all()[:, 0].astype(np.float32)
    x = (x - dataset.mean) / dataset.std
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x16, given = x.astype(np.float16).astype(np.float32), np.load(tmp_path / "noisy_labels.npy")
    nearness = x @ x16.T
    np.fill_diagonal(nearness, -np.inf)
    nearest = np.argsort(-nearness, axis=1)[:, :5]
    weights = np.maximum(np.take_along_axis(nearness, nearest, axis=1), 0)
    votes = np.stack([(weights * (given[nearest] == c)).sum(1) for c in range(NUM_CLASSES)], 1)
    votes = (votes + 1 / NUM_CLASSES) / (weights.sum(1, keepdims=True) + 1)
    with open(tmp_path / "label_quality.csv", newline="") as file:
        rows = {int(row["id"]): row for row in csv.DictReader(file)}
    agreement = [float(rows[i]["agreement"]) for i in range(96)]
    np.testing.assert_allclose(agreement, votes[np.arange(96), given], rtol=1e-4)
    flagged = [rows[i]["flagged"] == "1" for i in range(96)]
    np.testing.assert_array_equal(flagged, votes.argmax(1) != given)
    assert results["last"]["labels"]["f1"] > 0.6  # chance: 0.3


def test_flags_by_count(tmp_path, features):
    """The number is that of the confident joint; the order is that of the score."""
    config = _config(
        "dpc", features, method="knn", flag_by="count", **{"baseline.num_neighbors": 5}
    )
    tasks.run(config, tmp_path)
    with open(tmp_path / "label_quality.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    agreement, clean_prob = (
        np.array([float(row[name]) for row in rows]) for name in ("agreement", "clean_prob")
    )
    assert (np.diff(agreement) >= 0).all() and (np.diff(clean_prob) >= 0).all()
    flagged = np.array([row["flagged"] == "1" for row in rows])
    agrees = np.array([row["suggested_label"] == row["given_label"] for row in rows])
    np.testing.assert_array_equal(flagged, (clean_prob < 0.5) & ~agrees)
    given = np.load(tmp_path / "noisy_labels.npy")
    assert abs((clean_prob < 0.5).sum() - (given != _truth(rows)).sum()) < 12


def _truth(rows):
    by_id = {int(row["id"]): int(row["true_label"]) for row in rows}
    return np.array([by_id[i] for i in range(len(by_id))])


def test_the_seed_draws_which_classes_are_known(features):
    def known(seed, shuffle_classes):
        config = _config("dcfs", features, seed=seed, **ROUNDS)
        config.al.shuffle_classes = shuffle_classes
        return split_by_truth(config, load(config, features=True)).known_classes

    assert {known(seed, False) for seed in range(4)} == {(0, 1)}
    assert known(3, True) == known(3, True)
    assert len({known(seed, True) for seed in range(4)}) > 1


def test_what_does_not_fit_is_refused_before_training(tmp_path, features):
    digits = {"dataset.name": "digits", "dataset.features": ""}
    for recipe, changes, words in (
        ("dpc", {"model.name": "resnet8_small"}, "takes images, but .* holds features"),
        ("dpc", digits, "takes features, but digits holds images"),
        ("dpc", {"dataset.features": ""}, "set config.dataset.features="),
        ("dpc", {"method": "knn", "baseline.num_neighbors": 96}, "must be below the number"),
        ("dpc", {**digits, "method": "knn", "model.name": "resnet8_small"}, "not images"),
        ("dpc", {"dataset.stream": True}, "held in memory: set config.dataset.stream=False"),
        ("bldr", {"bldr.self_distillation": True}, "set config.bldr.self_distillation=False"),
        ("dpc", {"dataset.labels": "none.csv"}, "There is no file none.csv"),
        ("bual", {"oracle": "csv", **ROUNDS}, "features has none"),
    ):
        with pytest.raises(UserError, match=words):
            tasks.run(_config(recipe, features, **changes), tmp_path)


def test_neighbors_of_a_million_are_warned_of(monkeypatch):
    config = _config("dpc", "features.npz", method="knn")
    monkeypatch.setattr(noisy_baselines, "num_cores", lambda: 2)
    with pytest.warns(UserWarning, match="every pair of 1,000,000 .* about 7 hours"):
        noisy_baselines.knn(config, NoisyLabelProblem(10, 1_000_000, (1280,), jnp.float32))
    noisy_baselines.knn(
        config, NoisyLabelProblem(10, 100_000, (1280,), jnp.float32)
    )  # warnings are errors
