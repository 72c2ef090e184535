"""The distillation loop on images with several labels, with networks of a few channels."""

import csv
import gc
import json
import os
import signal
import weakref

import jax
import numpy as np
import pytest

from configs import dhkd, dpc
from configs import l2d as recipe
from jaxrobust import metrics, tasks
from jaxrobust.data.sources import load_dataset
from jaxrobust.engine import loops
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.signals import Interrupted
from jaxrobust.errors import UserError
from jaxrobust.models.storage import load_classifier
from jaxrobust.recipes.parse import parse
from jaxrobust.report.compare import group, statistics
from jaxrobust.tasks import distillation
from jaxrobust.tasks.distillation_measures import multilabel_comparison

PROGRAMS = Programs()  # of the runs of one recipe

pytestmark = pytest.mark.usefixtures("tiny_backbones", "one_device", "unrendered_figures")


def _config(**changes):
    config = recipe.get_config("digits")
    config.update_from_flattened_dict(
        {
            "writers": ("jsonl",),
            "dataset.max_train": 60,
            "dataset.max_test": 40,
            "batch_size": 20,
            "eval_batch_size": 20,
            "student.name": "tiny4",
            "teacher.name": "tiny8",
            "teacher.num_epochs": 1,
            "num_epochs": 2,
            "optimizer.cycle_epochs": 4,
            "decoder.width": 8,
            "decoder.hidden": 8,
            **changes,
        }
    )
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_backbones, one_device):
    """A run of L2D that trained its own teacher: its folder and its results."""
    workdir = tmp_path_factory.mktemp("l2d")
    return workdir, distillation.run(parse(_config()), workdir, PROGRAMS)


def _events(workdir, **wanted):
    events = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [e for e in events if all(e.get(name) == value for name, value in wanted.items())]


def test_results_metrics_and_figure(finished):
    workdir, results = finished
    assert results == json.loads((workdir / "results.json").read_text())
    maps = [e["mAP"] for e in results["epochs"]]
    assert len(maps) == 2 and results["best"]["mAP"] == max(maps)
    tested = _events(workdir, split="test", phase="student")
    assert [e["mAP"] for e in tested] == maps
    assert {"OF1", "CF1", "OP_at_half", "CF1_harmonic_at_half"} < set(tested[0])
    found = {p.name for p in (workdir / "figures").iterdir()}
    assert found == {"classes.png", "epochs.png", "reliability.png"}
    with (workdir / "classes.csv").open() as file:
        precisions = [float(row["average_precision"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(np.mean(precisions), results["last"]["mAP"], rtol=1e-6)
    trained = _events(workdir, split="train", phase="student")
    assert trained[0]["steps"] == [1, 3] and trained[1]["steps"] == [4, 6]
    for event in trained:
        terms = 100 * event["mld"] + event["cd"] + 100 * event["id"]
        assert event["loss_kd"] == pytest.approx(terms, rel=1e-4)
    assert not {"mld", "loss_id"} & set(_events(workdir, split="train", phase="teacher")[0])


def test_the_student_that_is_handed_over_is_the_one_evaluated(finished):
    workdir, results = finished
    student, teacher = (load_classifier(workdir / name) for name in ("student", "teacher"))
    assert (student.arch, teacher.arch) == ("tiny4", "tiny8")
    assert student.decoder == teacher.decoder and student.decoder["width"] == 8
    test = load_dataset("digit_canvases", max_train=60, max_test=40).test
    logits = np.asarray(student.logits(test.images))
    ap = metrics.mean_average_precision(logits, test.labels)
    assert ap == pytest.approx(results["last"]["mAP"], abs=1e-3)


def test_results_compare_the_networks_as_the_paper_does(finished):
    workdir, results = finished
    test = load_dataset("digit_canvases", max_train=60, max_test=40).test
    correlations = [
        metrics.class_correlation(1 / (1 + np.exp(-np.asarray(network.logits(test.images)))))
        for network in (load_classifier(workdir / name) for name in ("student", "teacher"))
    ]
    apart = np.abs(np.subtract(*correlations)).sum() / 90
    found = dict(results["comparison"])
    assert found.pop("class_correlation_difference") == pytest.approx(apart, rel=1e-3)
    assert set(found) == {"neighbor_precision_student", "neighbor_precision_teacher"}
    assert all(0 < value < 1 for value in found.values())


def test_what_is_compared_without_a_teacher_or_with_few_images():
    probs, pooled = np.eye(6)[:, :3], np.arange(12.0).reshape(6, 2)
    alone = multilabel_comparison({"student": probs}, {"student": pooled}, np.ones((6, 3)))
    assert alone == {"neighbor_precision_student": 1}
    pair = {"student": probs[:1], "teacher": probs[:1]}
    assert multilabel_comparison(pair, {"student": pooled[:1]}, np.ones((1, 3))) == {}


def test_every_seed_of_several_is_the_seed_alone_and_frees_its_memory(tmp_path, monkeypatch):
    """Of canvases, whose mean and deviation depend on the seed."""
    begun, alive = [], []

    class Watched(distillation._Distillation):
        def __init__(self, *args):
            gc.collect()
            alive.append(sum(earlier() is not None for earlier in begun))
            begun.append(weakref.ref(self))
            super().__init__(*args)

    config = _config(num_epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(distillation, "_Distillation", Watched)
        together = tasks.run(_config(num_epochs=1, num_seeds=2), tmp_path / "together")
    config.seed = 1
    alone = tasks.run(config, tmp_path / "alone")
    assert json.loads((tmp_path / "together/seed_1/results.json").read_text()) == alone
    assert set(together["traces"].values()) == {1}
    assert alive == [0, 0]


def _stop_after_an_epoch(config, workdir, programs, monkeypatch):
    """Runs until a checkpoint holds one epoch of the student, and training went on from there."""

    class Stop(Exception):
        pass

    class Stopped(distillation._Distillation):
        def _test_measures(self, role):
            if role == "student" and self.epochs["student"]:
                self.run.flush()
                raise Stop
            return super()._test_measures(role)

    with monkeypatch.context() as patch:
        patch.setattr(distillation, "_Distillation", Stopped)
        with pytest.raises(Stop):
            distillation.run(parse(config), workdir, programs)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(finished, tmp_path, monkeypatch):
    config = _config(**{"checkpoint.every_seconds": 0.0})
    _stop_after_an_epoch(config, tmp_path, PROGRAMS, monkeypatch)
    assert distillation.run(parse(config), tmp_path, PROGRAMS) == finished[1]


def test_a_teacher_at_hand_and_a_comparison(finished, tmp_path):
    workdir, results = finished
    config = _config(**{"teacher.path": str(workdir / "teacher")})
    alone = distillation.run(parse(config), tmp_path)
    assert alone["teacher"]["mAP"] == results["teacher"]["mAP"]
    assert alone["epochs"] == results["epochs"]
    found = statistics(group([workdir, tmp_path], by="teacher.path"))
    means = [values["mean"] for values in found.values()]
    assert len(means) == 2 and means[0] == means[1]
    assert means[0]["mAP, last epoch"] == results["last"]["mAP"]


def test_the_backbone_may_be_given(finished, tmp_path):
    workdir, _ = finished
    config = _config(**{"student.backbone": str(workdir / "teacher")})
    with pytest.raises(UserError, match=r"holds a tiny8, not the tiny4 of student\.name"):
        distillation.run(parse(config), tmp_path / "first")
    config = _config(**{"student.backbone": str(workdir / "student")})
    given = {}

    class Looked(distillation._Distillation):
        def distill(self):
            self._write_inputs()
            self._restore()
            given.update(self.saved.networks["student"].variables)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation, "_Distillation", Looked)
        distillation.run(parse(config), tmp_path)
    stored = load_classifier(workdir / "student").variables
    kernels = [jax.tree.leaves(x["params"]["backbone"])[-1] for x in (given, stored)]
    np.testing.assert_array_equal(*kernels)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"method": "kd"}, "digit_canvases have several labels each. Unknown method for them 'kd'"),
        ({"method": "l2d_"}, "Unknown method 'l2d_': did you mean 'l2d'"),
        ({"dataset.name": "digits"}, "digits have one label each. Unknown method for them 'l2d'"),
        ({"num_epochs": 5}, "num_epochs=5 must be at most the 4 of optimizer.cycle_epochs"),
    ],
)
def test_a_wrong_recipe_is_a_one_line_error(config, words, tmp_path):
    with pytest.raises(UserError, match=words):
        distillation.run(parse(_config(**config)), tmp_path)


def test_epochs_of_a_teacher_that_is_given_are_not_checked(tmp_path):
    config = _config(**{"teacher.path": str(tmp_path / "none"), "teacher.num_epochs": 5})
    with pytest.raises(UserError, match="none") as error:
        distillation.run(parse(config), tmp_path / "run")
    assert "cycle_epochs" not in str(error.value)


def test_a_teacher_of_images_with_several_labels_is_refused_elsewhere(finished, tmp_path):
    config = dhkd.get_config("digits")
    config.teacher.path = str(finished[0] / "teacher")
    with pytest.raises(UserError, match=r"with several labels, but those of digits have one"):
        distillation.run(parse(config), tmp_path)


def test_other_tasks_refuse_images_with_several_labels(tmp_path):
    config = dpc.get_config("digits")
    config.dataset.name = "digit_canvases"
    with pytest.raises(UserError, match="digit_canvases have several labels each, but task noisy_"):
        tasks.run(config, tmp_path)


def test_images_are_streamed_from_files_and_a_run_stopped_within_an_epoch_goes_on(
    tmp_path, write_voc, watched_programs, monkeypatch, caplog
):
    root = tmp_path / "VOCdevkit" / "VOC2007"
    rng = np.random.default_rng(0)
    for split, count in (("trainval", 24), ("test", 10)):
        targets = (rng.random((count, 20)) < 0.2).astype(np.uint8)
        targets[np.arange(20) % count, np.arange(20)] = 1
        write_voc(root, split, rng.integers(0, 256, (count, 9, 12, 3), np.uint8), targets)
    config = recipe.get_config("voc_resnet50_resnet18")
    tiny = _config()
    config.update_from_flattened_dict(
        {
            "method": "bce",
            "writers": ("jsonl",),
            "dataset.path": str(tmp_path),
            "dataset.image_size": 8,
            "num_workers": 0,
            "student.name": "tiny4",
            "teacher.name": "tiny4",
            "teacher.num_epochs": 2,
            "num_epochs": 2,
            "batch_size": 8,
            "optimizer.cycle_epochs": 2,
        }
    )
    config.decoder = tiny.decoder
    monkeypatch.setattr(loops, "SECONDS_PER_PIECE", 0.0)
    watched = watched_programs()
    whole = distillation.run(parse(config), tmp_path / "whole", watched)
    assert whole["dataset"] == "voc2007" and whole["num_classes"] == 20
    assert watched.calls["student/epoch"] == 6
    watched.after = "student/epoch", 6 + 5, lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted, match=r"student epoch 2/2, step 2$"):
        distillation.run(parse(config), tmp_path / "stopped", watched)
    assert distillation.run(parse(config), tmp_path / "stopped", watched) == whole
    assert watched.calls["student/epoch"] == 12
    events = [_events(tmp_path / name, split="train") for name in ("whole", "stopped")]
    assert [e["loss"] for e in events[0]] == [e["loss"] for e in events[1]]
    damaged = root / "JPEGImages" / "trainval_000004.jpg"
    damaged.write_bytes(b"no image")
    config.num_epochs = 1
    with pytest.raises(UserError, match=r"trainval_000004\.jpg is not an image"):
        distillation.run(parse(config), tmp_path / "refused")
    config.dataset.on_corrupt = "skip"
    distillation.run(parse(config), tmp_path / "skipped")
    (skipped,) = [text for text in caplog.messages if text.startswith("Skipped")]
    assert skipped.startswith(f"Skipped: {damaged} is not an image")
