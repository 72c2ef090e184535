"""What the calls return is kept: folders, ONNX files, pickles, and weights of what is fitted."""

import pickle
import subprocess
import sys

import jax
import joblib
import numpy as np
import pytest
from sklearn.datasets import make_blobs

from jaxrobust import RobustClassifier, UserError, distill, load_classifier
from jaxrobust.api import in_memory
from jaxrobust.tasks import images

OPTIONS = {"num_epochs": 4, "batch_size": 8}


@pytest.fixture(scope="module")
def data():
    """Features `[60, 5]`, and labels 3, 5 and 7."""
    features, ids = make_blobs(60, 5, centers=3, random_state=0)
    return features.astype(np.float32), np.array([7, 3, 5])[ids]


@pytest.fixture(scope="module")
def fitted(data):
    return RobustClassifier("mixup", **OPTIONS).fit(*data)


def test_a_fresh_process_predicts_the_same_bits(data, fitted, tmp_path):
    fitted.save(tmp_path / "folder")
    joblib.dump(fitted, tmp_path / "file.joblib")
    joblib.dump(fitted.classifier_, tmp_path / "classifier.joblib")
    np.save(tmp_path / "features.npy", data[0])
    program = """
import sys, joblib, numpy as np, jaxrobust
folder = sys.argv[1]
features = np.load(f"{folder}/features.npy")
kept = [joblib.load(f"{folder}/file.joblib"), joblib.load(f"{folder}/classifier.joblib")]
kept.append(jaxrobust.load_classifier(f"{folder}/folder"))
assert kept[2].predict(features).dtype == kept[0].predict(features).dtype
np.save(f"{folder}/probs.npy", [each.predict_proba(features) for each in kept])
"""
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True)
    for probs in np.load(tmp_path / "probs.npy"):
        np.testing.assert_array_equal(probs, fitted.predict_proba(data[0]))


@pytest.mark.parametrize("method", ["dpc", "bldr"])
def test_features_are_exported(method, data, tmp_path):
    """Those that float16 cannot hold, whose scaling is part of the file, too."""
    onnxruntime = pytest.importorskip("onnxruntime")
    features = data[0] + (np.float32(3e4) if method == "dpc" else 0)
    classifier = RobustClassifier(method, **OPTIONS).fit(features, data[1])
    assert (classifier.classifier_.scaling is not None) == (method == "dpc")
    classifier.export_onnx(tmp_path / "file.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "file.onnx")
    (probs,) = session.run(["probabilities"], {"features": features})
    np.testing.assert_allclose(probs, classifier.predict_proba(features), atol=1e-3)
    classifier.save(tmp_path / "folder")
    again = load_classifier(tmp_path / "folder")
    np.testing.assert_array_equal(again.predict_proba(features), classifier.predict_proba(features))
    with pytest.raises(UserError, match="leave out probabilities=False"):
        again.export_onnx(tmp_path / "file.onnx", probabilities=False)


@pytest.mark.usefixtures("tiny_backbones", "one_device", "unrendered_figures")
def test_a_student_is_kept_and_its_teacher_asked_once(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    ids = np.repeat([4, 9], 24)
    images = (
        np.random.default_rng(0).integers(0, 120, (48, 8, 8, 3)) + 15 * ids[:, None, None, None]
    )
    images, asked = images.astype(np.uint8), []

    def teacher(batch):
        asked.append(len(batch))
        level = batch.mean(axis=(1, 2, 3)) / 255 - 0.6
        return np.stack([-9 * level, 9 * level], axis=1)

    config = {"num_epochs": 1, "batch_size": 16, "num_diagnosed": 8}
    for _ in range(2):
        jax.clear_caches()  # a user's, too, costs time and nothing else
        student = distill(
            images,
            ids,
            teacher=teacher,
            student="tiny4",
            method="kd",
            config=config,
            workdir=tmp_path / "run",
        )
    assert asked == [38, 38, 10]
    probs = student.predict_proba(images)
    student.save(tmp_path / "student")
    for again in (pickle.loads(pickle.dumps(student)), load_classifier(tmp_path / "student")):
        np.testing.assert_array_equal(again.predict_proba(images), probs)
        np.testing.assert_array_equal(again.predict(images), student.predict(images))
        assert again.classes.tolist() == [4, 9]
    student.export_onnx(tmp_path / "student.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "student.onnx")
    (exported,) = session.run(["probabilities"], {"images": images})
    np.testing.assert_allclose(exported, probs, atol=1e-5)


@pytest.mark.parametrize("method", ["bldr", "dividemix", "knn", "mean_margin", "mixup"])
def test_a_weight_of_two_is_the_row_twice(method, data):
    features, labels = data
    weights = np.ones(60)
    weights[:20], weights[-5:] = 2, 0
    rows = np.repeat(np.arange(60), weights.astype(int))
    options = OPTIONS | ({"dpc__warm_up": 2} if method == "dividemix" else {})
    classifier = RobustClassifier(method, **options)
    if method == "knn":
        with pytest.raises(UserError, match="no loss that could be weighted"):
            classifier.fit(features, labels, sample_weight=weights)
        return
    twice = classifier.fit(features[rows], labels[rows]).predict_proba(features)
    weighted = classifier.fit(features[::-1], labels[::-1], sample_weight=weights[::-1])
    np.testing.assert_array_equal(weighted.predict_proba(features), twice)
    assert len(weighted.label_issues_) == 55
    kept = weights > 0
    assert (twice != classifier.fit(features[kept], labels[kept]).predict_proba(features)).any()


def test_weights_of_classes(data):
    features, labels = data
    options = {"num_epochs": 20, "batch_size": 8, "optimizer__learning_rate": 0.3}
    weights = {3: 1000, 5: 0.001, 7: 0.001}
    heavy = RobustClassifier("cross_entropy", class_weight=weights, **options)
    noise = np.random.default_rng(0).normal(size=features.shape)  # by which no class is known
    assert np.mean(heavy.fit(noise, labels).predict(noise) == 3) > 0.9
    rare = np.flatnonzero(labels == 7)[2:]
    features, labels = np.delete(features, rare, axis=0), np.delete(labels, rare)
    counts = dict(zip(*np.unique(labels, return_counts=True), strict=True))
    balanced = RobustClassifier("cross_entropy", class_weight="balanced", **options)
    probs = balanced.fit(features, labels).predict_proba(features)
    by_hand = {name: len(labels) / (3 * count) for name, count in counts.items()}
    balanced.set_params(class_weight=by_hand).fit(features, labels)
    np.testing.assert_allclose(balanced.predict_proba(features), probs, atol=1e-5)
    with pytest.raises(ValueError, match=r"non-zero|0 for every example"):  # scikit-learn's or ours
        balanced.fit(features, labels, sample_weight=np.zeros(len(labels)))


def test_parameters_show_the_fields_of_the_recipe():
    classifier = RobustClassifier("bldr", config={"num_epochs": 7}, bldr__warm_up=3)
    params = classifier.get_params()
    assert (params["num_epochs"], params["bldr__warm_up"], params["seed"]) == (7, 3, 0)
    assert "optimizer__weight_decay" in params and "dataset__path" not in params
    assert classifier.get_params(deep=False).keys() == {
        *("method", "seed", "config", "class_weight", "bldr__warm_up")
    }


def test_smaller_sets_than_a_batch_are_one_batch_each(data):
    features, labels = data
    for fewer in (0, 3):  # of one padded size
        few = RobustClassifier("mixup", num_epochs=1, batch_size=500)
        probs = few.fit(features[fewer:], labels[fewer:]).predict_proba(features)
    whole = RobustClassifier("mixup", num_epochs=1, batch_size=len(features) - 3)
    whole.fit(features[3:], labels[3:])
    np.testing.assert_array_equal(probs, whole.predict_proba(features))


def test_sets_of_about_one_size_share_programs_to_the_bit(data, monkeypatch):
    features, labels = data
    monkeypatch.setattr(in_memory, "_programs", type(in_memory._programs)())
    classifier = RobustClassifier("mixup", **OPTIONS)
    shared = [classifier.fit(features[i:], labels[i:]).predict_proba(features) for i in (0, 3)]
    (programs,) = in_memory._programs.values()
    # By the second call.
    assert programs.traces["train/epoch"] == 0 and programs.traces["score_labels/57"] == 1
    monkeypatch.setattr(images, "padded_size", lambda size: size)
    alone = [classifier.fit(features[i:], labels[i:]).predict_proba(features) for i in (0, 3)]
    assert len(in_memory._programs) == 3
    np.testing.assert_array_equal(shared, alone)
    monkeypatch.setattr(in_memory, "NUM_KEPT", 1)
    classifier.fit(features, labels)
    assert len(in_memory._programs) == 1  # the others are freed
