"""Wrong labels from features and images, as a person calls it."""

import csv
import logging
import types

import jax
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from jaxrobust import UserError, find_label_issues, load_classifier
from jaxrobust.api import in_memory
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.sharding import make_placement
from jaxrobust.methods.classifiers import Classifier
from jaxrobust.recipes import bldr
from jaxrobust.recipes.fields import replace
from jaxrobust.tasks import images, noisy_labels

SHORT = {"num_epochs": 12, "dpc.warm_up": 8, "model.name": "linear", "batch_size": 8}
SHORT |= {"optimizer.learning_rate": 0.02, "model.dropout": 0.0}
BLDR = bldr.get_config("features")
VARYING = np.arange(96 * 3.0).reshape(96, 3)
NAMES = np.array(["dog", "ant", "cat", "bee"])


@pytest.fixture(scope="module")
def data():
    """Two views of 96 points around three centres, labels by name of which a fifth is wrong."""
    rng = np.random.default_rng(0)
    true = np.arange(96) % 3
    features = 2 * rng.normal(size=(3, 8))[true][:, None] + rng.normal(size=(96, 2, 8))
    is_wrong = rng.random(96) < 0.2
    labels = np.where(is_wrong, (true + rng.integers(1, 3, 96)) % 3, true)
    return features.astype(np.float32), NAMES[labels], is_wrong


@pytest.fixture(scope="module")
def issues(data):
    features, labels, _ = data
    return find_label_issues(labels, features=features, config=SHORT)


def test_arrays(data, issues):
    _, labels, is_wrong = data
    assert roc_auc_score(is_wrong, -issues.clean_prob) > 0.9
    assert issues.is_issue.dtype == bool and issues.clean_prob.dtype == np.float32
    assert issues.suggested.dtype == labels.dtype
    assert issues.pred_probs.shape == (96, 3) and issues.pred_probs.dtype == np.float32
    np.testing.assert_allclose(issues.pred_probs.sum(axis=1), 1, atol=1e-5)
    assert sorted(issues.ranked) == list(range(96))
    assert (np.diff(issues.clean_prob[issues.ranked]) >= 0).all()
    assert issues.classes.tolist() == ["ant", "cat", "dog"]
    assert issues.summary["method"] == "dpc"


def test_soft_labels_of_one_class_each_are_these_labels(data, issues):
    features, labels, _ = data
    onehot = (labels[:, None] == issues.classes).astype(np.float32)
    found = find_label_issues(onehot, features=features, config=SHORT, class_names=issues.classes)
    np.testing.assert_array_equal(found.given, issues.given)
    np.testing.assert_allclose(found.pred_probs, issues.pred_probs, atol=1e-4)


@pytest.mark.parametrize("method", ["cross_entropy", "bldr"])
def test_a_doubtful_class_is_learned_as_doubtful(method):
    """Half of the examples are class 0 for sure; the others, elsewhere, are so to 60 %."""
    is_doubtful = np.arange(80) % 2 == 1
    features = np.stack([is_doubtful, ~is_doubtful], axis=1) + np.zeros((80, 2))
    features += 0.1 * np.random.default_rng(0).normal(size=features.shape)
    labels = np.where(is_doubtful[:, None], [0.6, 0.4], [1.0, 0.0])
    labels[:2] = [0.0, 1.0]
    config = {"num_epochs": 40, "model.name": "linear", "batch_size": 16}
    config |= {"bldr.warm_up": 40} if method == "bldr" else {}
    found = find_label_issues(labels, features=features, method=method, config=config)
    sure, doubtful = (
        found.pred_probs[2:][w].mean(axis=0)[0] for w in (~is_doubtful[2:], is_doubtful[2:])
    )
    assert sure > 0.85 and 0.4 < doubtful < 0.8


def test_photographs_are_embedded_first_where_the_weights_are_installed(data, issues, monkeypatch):
    features, labels, _ = data
    monkeypatch.setattr(in_memory.recipes, "has_pretrained", lambda: True)

    def embed(images, *, views, progress):
        assert images.shape == (96, 16, 16, 3) and views == 2 and not progress
        return types.SimpleNamespace(array=features)

    monkeypatch.setattr(in_memory.embedding, "embed", embed)
    again = find_label_issues(labels, images=np.zeros((96, 16, 16), np.uint8), config=SHORT)
    np.testing.assert_array_equal(again.clean_prob, issues.clean_prob)
    # What is wrong with the labels is said before the network is asked: 95 images would fail it.
    with pytest.raises(UserError, match=r"96.*95|95.*96"):
        find_label_issues(labels, images=np.zeros((95, 16, 16), np.uint8))


@pytest.mark.parametrize(
    "method, given, epochs, warm_up",
    [
        # DPC would learn the wrong labels by heart in more epochs than its recipe's.
        ("dpc", {}, 30, 6),
        ("dpc", {"num_epochs": 16}, 16, 6),
        ("dpc", {"dpc.warm_up": 3}, 30, 3),
        # Twice the recipe's for a quarter of 4,000 examples, but around the given number.
        ("bldr", {}, BLDR.num_epochs * 2, BLDR.bldr.warm_up * 2),
        ("bldr", {"num_epochs": 16}, 16, BLDR.bldr.warm_up),
        ("bldr", {"bldr.warm_up": 3}, BLDR.num_epochs * 2, 3),
    ],
)
def test_epochs_of_a_small_set(method, given, epochs, warm_up):
    features = np.zeros((1000, 1, 4), np.float32)
    recipe = in_memory.noisy_label_recipe(features, given, method=method, seed=0)
    own = recipe.bldr if method == "bldr" else recipe.dpc
    assert (recipe.num_epochs, own.warm_up) == (epochs, warm_up)


def test_small_images_are_learned_from_pixels():
    rng = np.random.default_rng(0)
    true = np.arange(64) % 2
    images = np.clip(true[:, None, None] + 0.2 * rng.normal(size=(64, 8, 8)), 0, 1)
    labels = np.where(np.arange(64) % 8 == 0, 1 - true, true)
    config = {"num_epochs": 4, "dpc.warm_up": 4, "batch_size": 8}
    found = find_label_issues(labels, images=images, config=config)
    assert roc_auc_score(labels != true, -found.clean_prob) > 0.9


@pytest.mark.filterwarnings("ignore:.* look wrong, more than half")
@pytest.mark.usefixtures("tiny_network", "one_device")
def test_images_of_about_as_many_share_their_programs_to_the_bit(compiled, monkeypatch):
    random = np.random.default_rng(0)
    pixels, labels = random.integers(0, 256, (64, 8, 8), np.uint8), random.integers(0, 2, 64)
    config = {"num_epochs": 2, "batch_size": 8, "model.name": "tiny"}
    find_label_issues(labels, images=pixels, method="mixup", config=config)
    options = {"labels": labels[3:], "images": pixels[3:], "method": "mixup", "config": config}
    with compiled() as names:
        found = find_label_issues(**options)
    # Sums over all examples depend on their number.
    assert "score_labels_61" in names and not any("epoch" in each for each in names)
    monkeypatch.setattr(images, "padded_size", lambda size: size)
    with compiled() as names:
        expected = find_label_issues(**options)
    assert any("epoch" in each for each in names)
    np.testing.assert_array_equal(found.pred_probs, expected.pred_probs)
    np.testing.assert_array_equal(found.clean_prob, expected.clean_prob)


def test_the_same_as_the_command_for_the_same_arrays(tmp_path, data, issues):
    features, labels, _ = data
    recipe = in_memory.noisy_label_recipe(features, SHORT, method=None, seed=0)
    np.savez(tmp_path / "a.npz", features=features, labels=labels, split=["train"] * 96)
    recipe = replace(recipe, {"dataset.features": str(tmp_path / "a.npz")})
    programs = Programs(make_placement(jax.local_devices()[:1]))  # the tests have eight
    noisy_labels.run(recipe, tmp_path / "command", programs)
    with open(tmp_path / "command" / "label_quality.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == issues.ranked.tolist()
    probs = np.array([row["clean_prob"] for row in rows], np.float32)
    np.testing.assert_array_equal(probs, issues.clean_prob[issues.ranked])
    assert [row["suggested_label"] for row in rows] == issues.suggested[issues.ranked].tolist()


def test_the_classifier_of_scaled_features_is_written_once(
    tmp_path, data, monkeypatch, unrendered_figures
):
    features, labels, _ = data
    written, save = [], Classifier.save

    def counted(self, folder):
        written.append(self)
        save(self, folder)

    monkeypatch.setattr(Classifier, "save", counted)
    config = {**SHORT, "num_epochs": 1}
    find_label_issues(labels, features=1e6 * features, config=config, workdir=tmp_path)
    (classifier,) = written
    assert classifier.scaling is not None
    again = load_classifier(tmp_path).predict_proba(1e6 * features)
    np.testing.assert_array_equal(again, classifier.predict_proba(1e6 * features))


def test_a_workdir_is_kept_and_goes_on(tmp_path, data, issues):
    features, labels, _ = data
    for _ in range(2):
        kept = find_label_issues(labels, features=features, config=SHORT, workdir=tmp_path)
        np.testing.assert_array_equal(kept.clean_prob, issues.clean_prob)
        np.testing.assert_array_equal(kept.pred_probs, issues.pred_probs)
    for name in ("label_quality.csv", "results.json", "classifier/model.json"):
        assert (tmp_path / name).exists()


def test_quiet_unless_a_bar_is_asked_for(data, capfd, caplog):
    features, labels, _ = data
    with caplog.at_level(logging.INFO):
        find_label_issues(labels, features=features, config=SHORT)
    assert capfd.readouterr().err == "" and not caplog.records
    find_label_issues(labels, features=features, config=SHORT, progress=True)
    assert "%|" in capfd.readouterr().err  # of a fast run the bar may show no epoch


def test_few_examples_one_view_a_class_of_one_and_one_of_none():
    rng = np.random.default_rng(1)
    labels = np.array([0] * 20 + [1] * 9 + [3])
    features = 3 * np.eye(4)[labels] + rng.normal(size=(30, 4))
    features[:, 3] *= 1e6  # beyond float16
    found = find_label_issues(
        labels, features=features, config={**SHORT, "num_epochs": 3}, class_names=NAMES
    )
    assert found.pred_probs.shape == (30, 4) and (found.pred_probs[:, 2] == 0).all()
    assert np.isfinite(found.clean_prob).all() and set(found.suggested) <= {0, 1, 3}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "Give one of features=, images= or pred_probs=; none"),
        ({"features": np.ones((96, 3)), "pred_probs": np.ones((96, 3)) / 3}, "not several"),
        ({"pred_probs": np.ones((96, 3)) / 3, "method": "dpc"}, "nothing is trained"),
        ({"features": np.ones((95, 3))}, "labels has 96 entries, but features has 95"),
        ({"features": VARYING, "method": "dcp"}, "did you mean 'dpc'"),
        ({"features": VARYING, "config": 3}, "not int"),
        ({"features": VARYING, "config": {"dpc.wram_up": 3}}, "did you mean 'dpc.warm_up"),
        ({"features": np.full((96, 3), np.nan)}, r"features\[0, 0\] is nan"),
    ],
)
def test_what_does_not_fit_is_refused(data, options, words):
    with pytest.raises(UserError, match=words):
        find_label_issues(data[1], **options)
