"""Teachers that see images of their own, stored logits, and what was gained by a student."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxrobust import tasks
from jaxrobust.errors import UserError
from jaxrobust.methods.distillation_steps import Targets, soft_labels
from jaxrobust.methods.distiller import SoftLabels, cross_entropy_loss
from jaxrobust.models import make_classifier
from jaxrobust.models.costs import cost
from jaxrobust.models.linear_head import fit_linear_head
from jaxrobust.models.storage import StoredClassifier, load_classifier, save_classifier
from jaxrobust.recipes import dhkd
from jaxrobust.report.page import write_report

pytestmark = pytest.mark.usefixtures("tiny_backbones", "one_device", "unrendered_figures")

CLASSES = ("cat", "dog", "owl")


def _draw(folder, count, level, seed):
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for i in range(count):
        noise = generator.normal(0, 30, (12, 12, 3))
        pixels = np.clip(level + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of images of three classes, which differ in brightness, and some of none."""
    root = tmp_path_factory.mktemp("photographs")
    for k, name in enumerate(CLASSES):
        _draw(root / "train" / name, 10 + 4 * k, 60 + 60 * k, seed=k)
        _draw(root / "test" / name, 5, 60 + 60 * k, seed=10 + k)
    _draw(root / "train" / "unlabeled", 6, 120, seed=20)
    return root


@pytest.fixture(scope="module")
def backbone(tmp_path_factory, tiny_backbones):
    """A folder with a network for seven classes, whose weights are drawn."""
    module = make_classifier("tiny8", num_classes=7, auxiliary="none", dtype=jnp.float32)
    variables = jax.jit(module.init)(jax.random.key(3), jnp.zeros((1, 16, 16, 3)))
    folder = tmp_path_factory.mktemp("backbone")
    stored = StoredClassifier("tiny8", 7, dict(variables), mean=(0.5,) * 3, std=(0.25,) * 3)
    save_classifier(stored, folder)
    return folder


def _config(photographs, **changes):
    config = dhkd.get_config("image_folder")
    config.update_from_flattened_dict(
        {
            "writers": ("jsonl",),
            "dataset.path": str(photographs),
            "dataset.image_size": 8,
            "augment.padding": 1,
            "student.name": "tiny4",
            "num_epochs": 2,
            "batch_size": 16,
            "optimizer.decay_epochs": (1,),
            "num_diagnosed": 10,
            "method": "kd",
            **changes,
        }
    )
    return config


@pytest.fixture(scope="module")
def taught(photographs, backbone, tmp_path_factory, one_device):
    """A run with a head on frozen features as teacher, and the student alone as baseline."""
    workdir = tmp_path_factory.mktemp("taught")
    fields = {"teacher.backbone": str(backbone), "teacher.image_size": 16, "with_baseline": True}
    return workdir, tasks.run(_config(photographs, **fields), workdir)


def _logits_on(stored, photographs, names):
    size = stored.image_shape[0]
    images = [Image.open(photographs / name).resize((size, size), 3) for name in names]
    return np.asarray(jax.jit(stored.logits)(np.stack(list(map(np.asarray, images)))))


def test_a_head_on_frozen_features_is_a_classifier_of_its_own_size(taught, photographs):
    workdir, results = taught
    teacher = load_classifier(workdir / "teacher")
    assert teacher.image_shape == (16, 16, 3) and teacher.class_names == CLASSES
    assert teacher.mean == (0.5,) * 3
    with np.load(workdir / "teacher_logits.npz", allow_pickle=False) as arrays:
        names, logits = arrays["files"].tolist(), arrays["logits"]
    assert len(names) == 42 + 6 + 15 and logits.shape == (63, 2, 3)
    # Features are kept in half precision.
    expected = _logits_on(teacher, photographs, names)
    np.testing.assert_allclose(logits[:, 0], expected, rtol=0, atol=0.02 * np.abs(expected).max())
    tested = [i for i, name in enumerate(names) if name.startswith("test/")]
    labels = np.repeat(np.arange(3), 5)
    accuracy = np.mean(logits[tested, 0].argmax(axis=1) == labels)
    assert results["teacher"]["accuracy"] == pytest.approx(accuracy)
    assert accuracy > 0.8  # brightness is easily seen


def test_what_was_gained_is_in_the_results(taught):
    workdir, results = taught
    student, teacher = (load_classifier(workdir / role) for role in ("student", "teacher"))
    for role, stored in (("student", student), ("teacher", teacher)):
        for name, value in cost(stored)._asdict().items():
            assert results[role][name] == value
    assert results["teacher"]["gflop"] > results["student"]["gflop"] > 0
    assert results["student_alone"]["last"].keys() >= {"accuracy", "ece"}
    assert 0 <= results["agreement"] <= 1
    assert [row["class"] for row in results["classes"]] == list(CLASSES)
    for role, whole in (
        ("student", results["last"]),
        ("teacher", results["teacher"]),
        ("student_alone", results["student_alone"]["last"]),
    ):
        mean = np.mean([row[role] for row in results["classes"]])  # all have as many test images
        assert mean == pytest.approx(whole["accuracy"])
    assert results == json.loads((workdir / "results.json").read_text())


def test_a_run_that_is_finished_is_read(taught, photographs, backbone):
    workdir, results = taught
    fields = {"teacher.backbone": str(backbone), "teacher.image_size": 16, "with_baseline": True}
    assert tasks.run(_config(photographs, **fields), workdir) == results


def test_stored_logits_teach_as_the_teacher_did(taught, photographs, tmp_path):
    workdir, results = taught
    files = (str(workdir / "teacher_logits.npz"),) * 2  # the mean of the same is the same
    again = tasks.run(_config(photographs, **{"teacher.logits_file": files}), tmp_path)
    assert again["epochs"] == results["epochs"]
    assert again["teacher"] == {
        "name": "mean of 2 teachers",
        **{k: v for k, v in results["teacher"].items() if k in ("accuracy", "ece")},
    }
    assert again["agreement"] == results["agreement"]


def test_a_teacher_is_fine_tuned_on_images_of_its_own_size(photographs, backbone, tmp_path):
    fields = {
        "teacher.backbone": str(backbone),
        "teacher.train": "all",
        "teacher.image_size": 16,
        "teacher.num_epochs": 2,
        "use_unlabeled": False,
    }
    results = tasks.run(_config(photographs, **fields), tmp_path)
    teacher = load_classifier(tmp_path / "teacher")
    assert teacher.image_shape == (16, 16, 3) and teacher.mean == (0.5,) * 3
    start = load_classifier(backbone).variables["params"]["backbone"]
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), start, teacher.variables["params"]["backbone"]
    )
    assert 0 < max(jax.tree.leaves(moved)) < 1  # it started there, and was trained
    with np.load(tmp_path / "teacher_logits.npz", allow_pickle=False) as arrays:
        names, logits = arrays["files"].tolist(), arrays["logits"]
    expected = _logits_on(teacher, photographs, names[:4])
    np.testing.assert_allclose(logits[:4, 0], expected, rtol=0, atol=1e-2 * np.abs(expected).max())
    assert results["teacher"]["name"] == "tiny8"
    events = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    rates = [e["learning_rate"] for e in events if e.get("phase") == "teacher" and "loss" in e]
    assert rates == pytest.approx([0.01, 0.001])


def test_streamed_images_are_taught_by_logits_computed_once(photographs, backbone, tmp_path):
    fields = {
        "dataset.stream": True,
        "num_workers": 0,
        "teacher.backbone": str(backbone),
        "teacher.image_size": 16,
        "num_epochs": 1,
        "measure_latency": True,
    }
    results = tasks.run(_config(photographs, **fields), tmp_path)
    assert results["teacher"]["accuracy"] > 0.8
    latency = json.loads((tmp_path / "latency.json").read_text())
    assert latency.keys() == {"student", "teacher"}
    assert all(value > 0 for times in latency.values() for value in times.values())
    assert latency["teacher"].keys() == {"1", "64"}


def test_all_that_can_be_done_with_labels(photographs, tmp_path, taught):
    fields = {
        "teacher.logits_file": (str(taught[0] / "teacher_logits.npz"),),
        "method": "dhkd",
        "label_smoothing": 0.1,
        "mixup": 0.2,
        "class_weights": "balanced",
        "ema": 0.5,
        "optimizer.warm_up_epochs": 1,
        "student.name": "tiny8",
    }
    results = tasks.run(_config(photographs, **fields), tmp_path)
    assert len(results["epochs"]) == 2
    events = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    trained = [e for e in events if e.get("phase") == "student" and "loss_kd" in e]
    assert [e["learning_rate"] for e in trained] == pytest.approx([0.025, 0.005])
    # The student that is handed over is the average, and the one that was measured.
    student = load_classifier(tmp_path / "student")
    names = [f"test/{name}/{i}.png" for name in CLASSES for i in range(5)]
    images = np.stack(
        [
            np.asarray(Image.open(photographs / name).resize((8, 8), Image.Resampling.BICUBIC))
            for name in names
        ]
    )
    predicted = np.asarray(jax.jit(student.logits)(images)).argmax(axis=1)
    accuracy = np.mean(predicted == np.repeat(np.arange(3), 5))
    assert accuracy == pytest.approx(results["last"]["accuracy"], abs=0.07)  # one of 15 images


def test_labels_become_shares_of_classes():
    labels, weights = jnp.array([0, 2, -1]), jnp.array([2.0, 1.0, 0.5])
    teacher = jnp.array([[0.0, 1, 0], [0, 1, 0], [0, 1, 0]])
    soft = soft_labels(Targets(smoothing=0.3, weighted=True), labels, weights, teacher)
    # 0.7 at the label and 0.1 everywhere, times the weight of the label's class.
    expected = [[1.6, 0.2, 0.2], [0.05, 0.05, 0.4], [0, 0, 0]]
    np.testing.assert_allclose(soft.targets, expected, rtol=1e-6)
    assert soft.ids.tolist() == [0, 2, 1]


def test_shares_that_are_given_stay_and_are_weighted_by_class():
    labels, weights = jnp.array([[0.5, 0.0, 0.5], [0.2, 0.8, 0.0]]), jnp.array([2.0, 1.0, 0.5])
    soft = soft_labels(Targets(soft=True), labels, weights, None)
    np.testing.assert_allclose(soft.targets, [[1.0, 0, 0.25], [0.4, 0.8, 0]], rtol=1e-6)
    assert soft.ids.tolist() == [0, 1]
    soft = soft_labels(Targets(smoothing=0.3, soft=True), labels, jnp.ones(3), None)
    np.testing.assert_allclose(soft.targets, [[0.45, 0.1, 0.45], [0.24, 0.66, 0.1]], rtol=1e-6)


def test_cross_entropy_of_shares_is_a_mean_over_images_that_have_labels():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6], [0.1, 0.1, 0.8]]))
    onehot = jnp.eye(3)[jnp.array([0, 2, 2])]
    where = jnp.array([True, True, False])
    expected = -(np.log(0.5) + np.log(0.6)) / 2
    given = SoftLabels(jnp.array([0, 2, 2]), onehot)
    assert cross_entropy_loss(logits, given, where) == pytest.approx(expected, rel=1e-6)
    assert cross_entropy_loss(logits, given.ids, where) == pytest.approx(expected, rel=1e-6)
    without = given._replace(targets=onehot.at[1].set(0.0))
    assert cross_entropy_loss(logits, without, where) == pytest.approx(-np.log(0.5), rel=1e-6)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_linear_head_finds_a_linear_rule(num_classes):
    generator = np.random.default_rng(0)
    labels = np.arange(300) % num_classes
    centers = 3 * generator.normal(size=(num_classes, 6))
    features = centers[labels] + generator.normal(size=(300, 6))
    head = fit_linear_head(50 + 20 * features, labels, num_classes=num_classes)
    logits = head(50 + 20 * features)
    assert logits.shape == (300, num_classes) and np.mean(logits.argmax(axis=1) == labels) > 0.97
    assert head.kernel.dtype == head.bias.dtype == np.float32


def test_operations_are_counted_by_hand(tiny_backbones):
    module = make_classifier("tiny4", num_classes=3, auxiliary="none", dtype=jnp.float32)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    found = cost(StoredClassifier("tiny4", 3, dict(variables), image_shape=(8, 8, 3)))
    # A stem and two convolutions of 3 x 3 on 8 x 8 positions, and the head.
    operations = 2 * (64 * 27 * 4 + 2 * 64 * 36 * 4 + 4 * 3)
    assert found.gflop == pytest.approx(operations / 1e9)
    assert found.num_parameters == sum(x.size for x in jax.tree.leaves(variables["params"]))


REFUSED = {
    "features of other images": ({"method": "rkd"}, "method rkd reads a teacher's features"),
    "no such backbone": ({"teacher.backbone": "nowhere"}, "There is no backbone 'nowhere'"),
    "another backbone": ({"student.backbone": "BACKBONE"}, "holds a tiny8, not the tiny4"),
    "logits of nothing": ({"teacher.logits_file": ("FILE",)}, "holds no logits of a teacher"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_teach_is_refused_before_training(case, photographs, backbone, tmp_path):
    changes, words = REFUSED[case]
    (tmp_path / "file.npz").write_bytes(b"nothing")
    replaced = {"BACKBONE": str(backbone), ("FILE",): (str(tmp_path / "file.npz"),)}
    changes = {name: replaced.get(value, value) for name, value in changes.items()}
    fields = {"teacher.backbone": str(backbone), "teacher.image_size": 16, **changes}
    with pytest.raises(UserError) as caught:
        tasks.run(_config(photographs, **fields), tmp_path / "run")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_logits_that_do_not_fit_are_refused(taught, photographs, tmp_path):
    with np.load(taught[0] / "teacher_logits.npz", allow_pickle=False) as arrays:
        found = dict(arrays)
    bad = {
        "should be": {"logits": found["logits"][..., :2]},
        "not all finite": {"logits": np.full_like(found["logits"], np.nan)},
        "are for the classes": {"class_names": np.array(["a", "b", "c"])},
        "has no logits for train/cat/0.png and 47 other images": {
            "files": np.array([f"other{i}" for i in range(len(found["files"]))])
        },
    }
    for words, changes in bad.items():
        np.savez(tmp_path / "bad.npz", **{**found, **changes})
        config = _config(photographs, **{"teacher.logits_file": (str(tmp_path / "bad.npz"),)})
        with pytest.raises(UserError) as caught:
            tasks.run(config, tmp_path / "run")
        assert words in str(caught.value)


def test_the_report_says_what_was_gained(taught, tmp_path):
    workdir, results = taught
    page = write_report([workdir], tmp_path, by="method").read_text()
    assert "student alone tiny4" in page and "GFLOP per image" in page
    assert f"{100 * results['agreement']:.1f} % of the test images" in page
    assert "Accuracy by class" in page and ">owl</th>" in page
