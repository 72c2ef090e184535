"""The loop, called as a library, with networks of a few channels."""

import dataclasses
import json
import sys
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import dhkd as recipe
from configs import kd_baselines
from jaxrobust import tasks
from jaxrobust.data.sources import load_dataset
from jaxrobust.engine import sharding
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.sharding import make_placement
from jaxrobust.errors import UserError
from jaxrobust.models import make_classifier
from jaxrobust.models.auxiliary_head import DualHeadClassifier
from jaxrobust.models.layers import FeatureMaps
from jaxrobust.models.storage import StoredClassifier, load_classifier, save_classifier
from jaxrobust.recipes.parse import parse
from jaxrobust.tasks import distillation

PROGRAMS = Programs()  # of the runs of one recipe
TRACED = ("start", "epoch", "predict")

pytestmark = pytest.mark.usefixtures("tiny_backbones", "one_device", "unrendered_figures")


def _config(**changes):
    config = recipe.get_config("digits")
    config.update_from_flattened_dict(
        {
            "writers": ("jsonl",),
            "dataset.max_train": 100,
            "dataset.max_test": 60,
            "student.name": "tiny4",
            "teacher.name": "tiny8",
            "teacher.num_epochs": 2,
            "num_epochs": 3,
            "optimizer.decay_epochs": (2,),
            **changes,
        }
    )
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_backbones, one_device):
    """A run of DHKD that trained its own teacher: its folder and its results."""
    workdir = tmp_path_factory.mktemp("dhkd")
    config = _config(**{"distill.auxiliary": "mlp", "distill_until_epoch": 2})
    return workdir, distillation.run(parse(config), workdir, PROGRAMS)


def _events(workdir, **wanted):
    events = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [e for e in events if all(e.get(name) == value for name, value in wanted.items())]


def test_results_and_metrics_agree(finished):
    workdir, results = finished
    assert results == json.loads((workdir / "results.json").read_text())
    assert results["last"] == results["epochs"][-1]
    accuracies = [e["accuracy"] for e in results["epochs"]]
    assert len(accuracies) == 3 and results["best"]["accuracy"] == max(accuracies)
    tested = _events(workdir, split="test", phase="student")
    assert [e["accuracy"] for e in tested] == accuracies
    assert [e["top5_accuracy"] for e in tested] == [e["top5_accuracy"] for e in results["epochs"]]
    assert [e["step"] for e in tested] == [3, 4, 5]
    taught = _events(workdir, split="test", phase="teacher")
    assert len(taught) == 2 and taught[-1]["accuracy"] == results["teacher"]["accuracy"]


def test_schedules_and_steps_are_on_record(finished):
    trained = _events(finished[0], split="train", phase="student")
    assert [e["distill_weight"] for e in trained] == [1, 1, 0]
    assert trained[1]["loss_kd"] > 0 == trained[2]["loss_kd"]
    assert [e["learning_rate"] for e in trained] == pytest.approx([0.05, 0.05, 0.005])
    assert [e["steps"] for e in trained] == [[1, 4], [5, 8], [9, 12]]


def test_the_diagnosis_of_every_epoch(finished):
    workdir, results = finished
    for entry in results["epochs"]:
        diagnosis = entry["diagnosis"]
        assert diagnosis.keys() == {"binary_kl", "distillation", "head"}
        # The two heads of DHKD share no parameter, one head for both losses does.
        assert diagnosis["distillation"]["head_norm_kd"] == 0
        assert diagnosis["binary_kl"]["head_norm_kd"] > 0
        for measures in (diagnosis["binary_kl"], diagnosis["distillation"]):
            parts = [measures[f"{part}_dot"] for part in ("head", "backbone")]
            assert sum(parts) == pytest.approx(measures["all_dot"], rel=1e-3, abs=1e-4)
    logged = _events(workdir, split="diagnosis", phase="binary_kl")
    cosines = [e["diagnosis"]["binary_kl"]["head_cosine"] for e in results["epochs"]]
    assert [e["head_cosine"] for e in logged] == cosines


def test_the_student_that_is_handed_over_is_the_one_evaluated(finished):
    workdir, results = finished
    student = load_classifier(workdir / "student")
    assert student.variables["params"].keys() == {"backbone", "primary"}
    assert results["student"]["auxiliary"] == "mlp"
    single = jax.eval_shape(student.module().init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    count = sum(x.size for x in jax.tree.leaves(single["params"]))
    assert results["student"]["num_parameters"] == count
    test = load_dataset("digits", max_test=60).test
    predicted = np.argmax(jax.jit(student.logits)(test.images), axis=-1)
    assert np.mean(predicted == test.labels) == pytest.approx(results["last"]["accuracy"])


class _Mean(nn.Module):
    """A backbone without parameters."""

    head_options: ClassVar = {}

    def __call__(self, images, *, train=False, where=None):
        del train, where
        return FeatureMaps(jnp.mean(images, axis=(1, 2)), (images,), (images,), images)


def test_the_auxiliary_head_changes_no_prediction():
    module = DualHeadClassifier(_Mean(), num_classes=3, auxiliary="linear")
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), images)
    apply = jax.jit(module.apply)
    params = dict(variables["params"])
    params["auxiliary"] = jax.tree.map(lambda x: x + 1, params["auxiliary"])
    before, after = apply(variables, images), apply({"params": params}, images)
    np.testing.assert_array_equal(before.logits, after.logits)
    assert np.any(before.aux_logits != after.aux_logits)


def test_every_program_was_traced_once(finished):
    traces = json.loads((finished[0] / "timing.json").read_text())["traces"]
    roles = [f"{role}/{name}" for role in ("teacher", "student") for name in TRACED]
    assert traces == dict.fromkeys([*roles, "diagnose"], 1)


def test_figures_can_be_opened(finished):
    found = {p.name for p in (finished[0] / "figures").iterdir()}
    assert found == {"confusion.png", "epochs.png", "reliability.png"}
    for name in found:
        with Image.open(finished[0] / "figures" / name) as image:
            assert min(image.size) > 300


def test_a_finished_run_is_finished_and_its_teacher_teaches_again(finished, tmp_path):
    workdir, results = finished
    config = _config(**{"distill.auxiliary": "mlp", "distill_until_epoch": 2})
    teacher = (workdir / "teacher" / "model.safetensors").read_bytes()
    assert distillation.run(parse(config), workdir, PROGRAMS) == results
    assert (workdir / "teacher" / "model.safetensors").read_bytes() == teacher
    config.teacher.path = str(workdir / "teacher")
    config.teacher.name = "resnet8"  # not read
    again = distillation.run(parse(config), tmp_path)
    # The student's draws do not depend on where the teacher came from.
    assert again["epochs"] == results["epochs"]
    assert again["teacher"] == results["teacher"]
    assert not (tmp_path / "teacher").exists()
    settings = json.loads((tmp_path / "inputs.json").read_text())
    settings["teacher_sha256"] = "another"
    (tmp_path / "inputs.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"differ from those that .* was started with"):
        distillation.run(parse(config), tmp_path)


def test_plain_training_needs_no_teacher(tmp_path):
    config = _config(**{"method": "cross_entropy", "num_epochs": 1})
    results = tasks.run(config, tmp_path)
    assert results["teacher"] is None
    assert results["last"]["diagnosis"].keys() == {"head"}
    assert not _events(tmp_path, phase="teacher")
    assert not (tmp_path / "teacher").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dhkd_reviewkd", "crd"])
def test_a_connector_is_trained_and_left_behind(method, finished, tmp_path):
    changes = {"reviewkd.warm_up": 4, "crd.num_negatives": 20}
    config = _config(**{"method": method, "num_epochs": 2, **changes})
    config.teacher.path = str(finished[0] / "teacher")
    results = tasks.run(config, tmp_path)
    first, trained = _events(tmp_path, split="train")
    assert (first["ramp"], trained["ramp"]) == ((1, 1) if method == "crd" else (0, 0.25))
    assert np.isfinite(trained["loss_kd"]) and trained["loss_kd"] > 0
    student = load_classifier(tmp_path / "student")
    assert student.variables["params"].keys() == {"backbone", "primary"}
    assert student.variables["batch_stats"].keys() == {"backbone"}
    # Gradients of the connector are no part of the comparison with cross-entropy's head; contrasts
    # with other images are not compared.
    if method == "crd":
        assert "distillation" not in results["last"]["diagnosis"]
    else:
        assert results["last"]["diagnosis"]["distillation"]["head_norm_kd"] == 0


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 2e-3)])
def test_a_table_of_logits_teaches_as_the_teacher_does(finished, tmp_path, dtype, tolerance):
    config = _config(**{"distill.auxiliary": "mlp", "num_epochs": 1})
    config.teacher.update({"path": str(finished[0] / "teacher"), "logits": "table"})
    config.teacher.table_dtype = dtype
    tasks.run(config, tmp_path)
    by_steps, by_table = (
        _events(workdir, split="train", phase="student", epoch=0)[0]
        for workdir in (finished[0], tmp_path)
    )
    for loss in ("loss_cls", "loss_kd", "gradient_cosine"):
        assert by_table[loss] == pytest.approx(by_steps[loss], rel=tolerance)


@pytest.mark.slow
def test_eight_devices_give_the_one_device_curve(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(sharding, "make_placement", lambda **_: make_placement(jax.devices()))
    config = _config(**{"distill.auxiliary": "mlp", "distill_until_epoch": 2})
    config.teacher.path, config.num_epochs = str(finished[0] / "teacher"), 2
    tasks.run(config, tmp_path)
    one, eight = (
        [e["loss"] for e in _events(workdir, split="train", phase="student")][:2]
        for workdir in (finished[0], tmp_path)
    )
    np.testing.assert_allclose(eight, one, rtol=2e-3)


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path):
    changes = {"distill.auxiliary": "mlp", "optimizer.learning_rate": 1e30, "num_epochs": 1}
    with pytest.raises(UserError) as caught:
        distillation.run(parse(_config(**changes)), tmp_path)
    for words in ("phase teacher, epoch 0", "steps 1 to 4", "none yet", "lower"):
        assert words in str(caught.value)


def _foreign_teacher(folder):
    module = make_classifier("tiny4", num_classes=7, auxiliary="none", dtype=jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    save_classifier(StoredClassifier("tiny4", 7, dict(variables)), folder)
    return str(folder)


WRONG = {
    "unknown distiller": ({"method": "dhdk"}, "did you mean 'dhkd'"),
    "unknown student": ({"student.name": "tiny5"}, "student.name"),
    "unknown teacher": ({"teacher.name": "resnet33"}, "teacher.name"),
    "missing teacher": ({"teacher.path": "/nowhere"}, "/nowhere holds no model.json"),
    "no epochs": ({"num_epochs": 0}, "num_epochs=0 must be a number in [1, inf)"),
    "unknown remainder": ({"last_batch": "shot"}, "did you mean 'short'"),
    "unknown loss": ({"distill.loss": "bkl"}, "Unknown distill.loss 'bkl'"),
    "negative weight": ({"method": "kd", "kd.weight": -1.0}, "kd.weight=-1.0 must be"),
    "table of what": ({"teacher.logits": "tables"}, "did you mean 'table'"),
    "table of features": (
        {"teacher.logits": "table", "method": "rkd"},
        "method rkd reads the teacher's features too: set config.teacher.logits='step'",
    ),
    "table without teacher": (
        {"teacher.logits": "table", "method": "cross_entropy"},
        "method cross_entropy learns from labels alone",
    ),
    "unknown schedule": ({"optimizer.schedule": "steps"}, "did you mean 'step'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_recipe_is_a_one_line_error(case, tmp_path):
    changes, words = WRONG[case]
    with pytest.raises(UserError) as caught:
        tasks.run(_config(**changes), tmp_path / "run")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_teacher_sees_images_as_it_was_trained(finished, tmp_path, caplog):
    workdir, results = finished
    stored = load_classifier(workdir / "teacher")
    other = dataclasses.replace(stored, class_names=tuple("abcdefghij"))
    save_classifier(other, tmp_path / "teacher")
    config = _config(**{"num_epochs": 1, "dataset.mean": (0.1,) * 3, "dataset.std": (0.9,) * 3})
    config.teacher.path = str(tmp_path / "teacher")
    taught = tasks.run(config, tmp_path / "run")["teacher"]
    assert taught["accuracy"] == results["teacher"]["accuracy"]
    assert "names its classes a, b, c, ..., but those of digits are 0, 1, 2, ..." in caplog.text


def test_a_teacher_of_other_classes_is_refused(tmp_path):
    path = _foreign_teacher(tmp_path / "teacher")
    with pytest.raises(UserError, match="has 7 classes, but digits has 10"):
        tasks.run(_config(**{"teacher.path": path}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_imagenet_is_streamed_and_a_stopped_run_goes_on(tmp_path, monkeypatch, write_images):
    root = tmp_path / "imagenet"
    for k, wnid in enumerate(("n01440764", "n01443537", "n01484850")):
        write_images(root / "train" / wnid, 8, (12, 15), seed=k)
        write_images(root / "val" / wnid, 3, (15, 12), seed=10 + k)
    config = recipe.get_config("resnet34_resnet18_imagenet")
    config.update_from_flattened_dict(
        {
            "writers": ("jsonl",),
            "dataset.path": str(root),
            "dataset.image_size": 8,
            "augment.resize": 10,
            "num_workers": 0,
            "batch_size": 8,
            "student.name": "tiny4",
            "teacher.name": "tiny8",
            "teacher.num_epochs": 1,
            "num_epochs": 2,
            "distill.until_epoch": 1,
        }
    )
    programs = Programs()
    whole = distillation.run(parse(config), tmp_path / "whole", programs)
    config.checkpoint.every_seconds = 0.0
    assert (whole["dataset"], whole["num_classes"]) == ("imagenet", 3)
    assert load_classifier(tmp_path / "whole" / "student").image_shape == (8, 8, 3)
    distilled = [e["loss_kd"] for e in _events(tmp_path / "whole", split="train", phase="student")]
    assert distilled[0] > 0 == distilled[1]

    class Stop(Exception):
        pass

    class Stopped(distillation._Distillation):
        def _test_measures(self, role):
            if role == "student" and self.epochs["student"]:
                self.run.flush()  # a checkpoint of the first epoch, while the second is under way
                raise Stop
            return super()._test_measures(role)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(distillation, "_Distillation", Stopped)
        distillation.run(parse(config), tmp_path / "stopped", programs)
    assert distillation.run(parse(config), tmp_path / "stopped", programs) == whole


@pytest.mark.slow
def test_a_folder_that_is_streamed_trains_as_one_in_memory(tmp_path, write_images):
    for k, name in enumerate("ab"):
        write_images(tmp_path / "images" / name, 20, (8, 8), seed=k)
    config = recipe.get_config("image_folder")
    config.update_from_flattened_dict(
        {
            "method": "cross_entropy",
            "writers": ("jsonl",),
            "dataset.path": str(tmp_path / "images"),
            "dataset.image_size": 8,
            "dataset.mean": (0.5, 0.5, 0.5),
            "dataset.std": (0.3, 0.3, 0.3),
            "augment.padding": 1,
            "batch_size": 16,
            "student.name": "tiny4",
            "num_epochs": 1,
        }
    )
    in_memory = tasks.run(config, tmp_path / "memory")
    config.dataset.stream = True
    assert tasks.run(config, tmp_path / "streamed")["epochs"] == in_memory["epochs"]


def test_a_wrong_stream_leaves_the_workdir_as_it_was(tmp_path, write_images):
    write_images(tmp_path / "images" / "train" / "a", 2, (8, 8), seed=0)
    write_images(tmp_path / "images" / "train" / "b", 2, (8, 8), seed=1)
    write_images(tmp_path / "images" / "val" / "a", 2, (8, 8), seed=2)
    config = recipe.get_config("resnet34_resnet18_imagenet")
    config.dataset.path = str(tmp_path / "images")
    config.batch_size = 2
    config.augment.resize = 200
    with pytest.raises(UserError, match=r"resize=200 is less than dataset\.image_size=224"):
        tasks.run(config, tmp_path / "run")
    config.augment.resize = 256
    config.teacher.logits = "table"
    with pytest.raises(UserError, match="streamed images are cropped anew on the host"):
        tasks.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_recipes_differ_in_the_method_alone():
    ours, theirs = recipe.get_config(), kd_baselines.get_config()
    assert (ours.method, theirs.method) == ("dhkd", "kd")
    theirs.method = ours.method
    assert ours.to_json() == theirs.to_json()


def test_what_is_handed_over_beside_the_parameters(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    config = _config(num_epochs=1, method="cross_entropy")
    config.export.update({"onnx": True, "int8": True, "onnx_output": "probabilities"})
    results = tasks.run(config, tmp_path)
    folder = tmp_path / "student"
    files = {"model.safetensors", "student.onnx", "student.int8.onnx"}
    assert results["student"]["files"] == {name: (folder / name).stat().st_size for name in files}
    images = load_dataset("digits", seed=0).test.images[:5]
    session = onnxruntime.InferenceSession(folder / "student.onnx")
    (probs,) = session.run(["probabilities"], {"images": images})
    expected = jax.nn.softmax(load_classifier(folder).logits(images))
    np.testing.assert_allclose(probs, expected, atol=1e-5)
    card = (folder / "README.md").read_text()
    accuracy = 100 * results["last"]["accuracy"]
    assert f"| student | {accuracy:.2f} |" in card and "`student.int8.onnx`" in card
    assert "8 x 8 pixels" in card and "program.bin" not in card


def test_an_export_that_cannot_be_written_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    config = _config()
    config.export.int8 = True
    with pytest.raises(UserError, match=r"pip install 'jaxrobust\[onnx\]'"):
        tasks.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
