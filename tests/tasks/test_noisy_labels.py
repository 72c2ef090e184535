"""The loop, called as a library."""

import csv
import dataclasses
import json
import zipfile

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pages
import pytest
from metric_files import events_of
from PIL import Image

from configs import dpc as recipe
from jaxrobust import tasks
from jaxrobust.data import Dataset, Examples, load_dataset, load_features, views
from jaxrobust.data.image_sets import CIFAR10_CLASSES
from jaxrobust.data.label_noise import given_labels
from jaxrobust.data.noise import symmetric_noise
from jaxrobust.data.policies import Op, Policy
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.training import TrainState
from jaxrobust.errors import UserError
from jaxrobust.methods.noisy_label_method import Method, Pass, Stage
from jaxrobust.recipes.dpc import DpcRecipe
from jaxrobust.recipes.parse import parse
from jaxrobust.recipes.registry import Entry
from jaxrobust.selection import logit_margin
from jaxrobust.tasks import noisy_label_files, noisy_labels

pytestmark = pytest.mark.usefixtures(
    "one_device", "tiny_network", "shared_programs", "unrendered_figures"
)

FIGURES = {"confusion.png", "epochs.png", "margin.png", "reliability.png", "suspicious.png"}


def _config(**changes) -> ml_collections.ConfigDict:
    config = recipe.get_config("digits")
    config.writers = ("jsonl",)
    config.model.name = "tiny"
    config.dataset.max_train = 300
    config.num_epochs = 4
    config.batch_size = 16
    config.dpc.warm_up = 2
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def finished(one_device, tiny_network, tmp_path_factory):
    """One DPC run on digits: its folder and its results."""
    workdir = tmp_path_factory.mktemp("dpc")
    return workdir, tasks.run(_config(), workdir)


def _quality(workdir):
    with open(workdir / "label_quality.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_labels_that_a_run_saw_are_on_record(finished):
    workdir, results = finished
    labels = np.load(workdir / "noisy_labels.npy")
    clean = load_dataset("digits", max_train=300).train.labels
    np.testing.assert_array_equal(labels, symmetric_noise(clean, 0.4, 0, 10))
    noise = json.loads((workdir / "noise.json").read_text())
    assert noise["realised_rate"] == np.mean(labels != clean)
    assert noise["labels_sha256"] == results["noise"]["labels_sha256"]
    transition = np.array(noise["transition"])
    for row in range(10):
        counts = np.bincount(labels[clean == row], minlength=10)
        np.testing.assert_allclose(transition[row], counts / counts.sum())


def test_every_label_is_judged_the_most_suspicious_first(finished):
    workdir, results = finished
    rows = _quality(workdir)
    assert sorted(int(r["id"]) for r in rows) == list(range(300))
    probs = [float(r["clean_prob"]) for r in rows]
    assert probs == sorted(probs)
    labels = np.load(workdir / "noisy_labels.npy")
    clean = load_dataset("digits", max_train=300).train.labels
    flagged, wrong = [], []
    for row in rows:
        i = int(row["id"])
        assert int(row["given_label"]) == labels[i]
        assert int(row["true_label"]) == clean[i]
        each = [float(row[f"clean_prob_net{n}"]) for n in (1, 2)]
        np.testing.assert_allclose(float(row["clean_prob"]), np.mean(each), rtol=1e-6, atol=1e-9)
        assert {row["prediction_net1"], row["prediction_net2"]} <= set("0123456789")
        assert (row["flagged"] == "1") == (float(row["clean_prob"]) <= 0.5)
        flagged.append(row["flagged"] == "1")
        wrong.append(labels[i] != clean[i])
    hits = sum(f and w for f, w in zip(flagged, wrong, strict=True))
    found = results["last"]["labels"]
    assert found["recall"] == pytest.approx(hits / sum(wrong))
    assert found["precision"] == pytest.approx(hits / max(sum(flagged), 1))
    assert found["flagged_fraction"] == pytest.approx(np.mean(flagged))


def test_flagged_labels_are_on_the_page_to_review(finished):
    """Digits are arrays: they are inside the page, and no folder is named."""
    workdir, _ = finished
    data = pages.embedded_data(workdir / "label_review.html")
    flagged = [r for r in _quality(workdir) if r["flagged"] == "1"]
    assert len(flagged) > noisy_label_files.NUM_SHOWN
    asked = [row for row in data["rows"] if "labels" in row[6]]
    assert [row[0] for row in asked] == [r["id"] for r in flagged]
    assert [row[2:4] for row in asked] == [
        [r["given_label"], r["suggested_label"]] for r in flagged
    ]
    assert len(data["pictures"]) == len(data["rows"]) and data["folder"] == ""
    assert all(len(row[5]) == 9 for row in asked)  # the most likely classes
    assert data["total"] == 300 and len(data["random"]) == 200


def test_results_and_metrics_agree(finished):
    workdir, results = finished
    assert results == json.loads((workdir / "results.json").read_text())
    assert [e["epoch"] for e in results["epochs"]] == [0, 1, 2, 3]
    assert results["last"] == results["epochs"][-1]
    accuracies = [e["accuracy"] for e in results["epochs"]]
    assert results["last_epochs"]["accuracy"] == pytest.approx(np.mean(accuracies))
    assert results["best"]["accuracy"] == max(accuracies)
    events = events_of(workdir)
    assert [e["accuracy"] for e in events if e["split"] == "test"] == accuracies
    stages = [(e["epoch"], e["phase"], e["stage"]) for e in events if e["split"] == "train"]
    expected = ["warm_up"] * 2 + ["semi_supervised"] * 2
    assert stages == [(i, net, s) for i, s in enumerate(expected) for net in ("net1", "net2")]
    labels = [e for e in events if e["split"] == "labels"]
    assert {"precision", "recall", "auroc_margin", "auroc_clean_prob_net2"} <= labels[-1].keys()
    assert 0 < labels[-1]["auroc_margin"] < 1


def test_every_program_was_traced_once(finished):
    traces = json.loads((finished[0] / "timing.json").read_text())["traces"]
    assert traces == dict.fromkeys(
        (
            "start",
            "score_labels",
            "probs",
            "test/predict",
            "train/predict",
            "warm_up/epoch",
            "semi_supervised/epoch",
        ),
        1,
    )


def test_a_batch_beyond_the_set_becomes_the_set(caplog):
    chosen = parse(_config(batch_size=5000))
    with caplog.at_level("INFO"):
        fitted = noisy_labels.with_batches_of_at_most(chosen, 1438)
    assert fitted == dataclasses.replace(chosen, batch_size=1438)
    assert "batch_size=5000 is larger than the 1438 training examples" in caplog.text
    assert noisy_labels.with_batches_of_at_most(chosen, 5000) == chosen


def test_figures_can_be_opened(finished):
    found = {p.name for p in (finished[0] / "figures").iterdir()}
    assert found == FIGURES
    for name in found:
        with Image.open(finished[0] / "figures" / name) as image:
            assert min(image.size) > 300


def test_what_the_network_makes_of_the_test_images(finished):
    """The tables agree with the measures of the last epoch."""
    workdir, results = finished
    with open(workdir / "confusion.csv") as file:
        (_, *names), *rows = csv.reader(file)
    counts = np.array([row[1:] for row in rows], int)
    assert names == [row[0] for row in rows] == [str(digit) for digit in range(10)]
    accuracy = np.trace(counts) / counts.sum()
    np.testing.assert_allclose(accuracy, results["last"]["accuracy"], rtol=1e-12)
    with open(workdir / "reliability.csv") as file:
        bins = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert sum(b["count"] for b in bins) == counts.sum()
    gaps = sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in bins)
    np.testing.assert_allclose(gaps / counts.sum(), results["last"]["ece"], rtol=1e-6)


def test_a_finished_run_is_finished(finished):
    workdir, results = finished
    before = (workdir / "label_quality.csv").read_bytes()
    assert tasks.run(_config(), workdir) == results
    assert (workdir / "label_quality.csv").read_bytes() == before


def test_other_labels_in_the_same_workdir_are_noticed(finished):
    workdir, _ = finished
    path = workdir / "config.json"
    original = path.read_text()
    settings = json.loads(original)
    settings["noise"]["rate"] = 0.3
    path.write_text(json.dumps(settings))
    with pytest.raises(
        UserError, match=r"labels or teacher differ from those that .* was started with"
    ):
        tasks.run(_config(**{"noise.rate": 0.3}), workdir)
    path.write_text(original)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cross_entropy", "mixup", "dividemix"])
def test_baselines_run_by_the_same_command(method, tmp_path):
    results = tasks.run(_config(method=method, num_epochs=3), tmp_path)
    assert results["method"] == method
    assert 0 < results["last"]["labels"]["auroc_negative_loss"] < 1
    columns = _quality(tmp_path)[0].keys()
    assert "negative_loss" in columns and "suggested_label" in columns
    assert ("prediction_net1" in columns) == (method == "dividemix")


OPTIONS = (
    {"dpc.consistency_weight": 3.0, "dpc.entropy_penalty": "clamped", "noise.kind": "pairflip"},
    {
        "dpc.forward_unlabeled": False,
        "dpc.lambda_u": 0.0,
        "dpc.peer_from": "epoch_start",
        "dpc.heads": 1,
        "dpc.score_mode": "minmax",
        "dpc.guess_updates_statistics": False,
    },
    {"dpc.gamma_c": 0.0, "dpc.score": "loss", "dpc.score_mode": "auto", "noise.kind": "uniform"},
)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=", ".join)
def test_every_option_runs(options, tmp_path, monkeypatch):
    # AutoAugment's own, which tests/data/test_policies.py has, takes ten seconds to compile.
    policy = Policy(fill=0, sub_policies=((Op("Invert", 0.5), Op("TranslateX", 0.5, (-1, 1))),))
    monkeypatch.setitem(views.POLICIES, "cifar10", policy)
    results = tasks.run(_config(**options, **{"num_epochs": 2, "dpc.warm_up": 1}), tmp_path)
    stages = {e["stage"] for e in events_of(tmp_path) if e["split"] == "train"}
    assert "semi_supervised" in stages
    assert 0 <= results["last"]["accuracy"] <= 1


def test_a_folder_of_unknown_truth_gives_the_same_files(tmp_path):
    generator = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 180)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(40):
            pixels = generator.normal(level, 30, (8, 8, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    config = recipe.get_config("image_folder_pixels")
    config.update_from_flattened_dict(
        {
            "writers": ("jsonl",),
            "dataset.path": str(tmp_path / "data"),
            "dataset.image_size": 8,
            "dataset.test2": str(tmp_path / "data"),  # the training images, for one
            "model.name": "tiny",
            "num_epochs": 1,
            "batch_size": 16,
        }
    )
    results = tasks.run(config, tmp_path / "run")
    assert results["last"]["labels"].keys() == {"flagged_fraction"}
    assert {"accuracy", "test2_accuracy", "test2_ece"} <= results["last"].keys()
    assert 0 <= results["last"]["test2_accuracy"] <= 1
    rows = _quality(tmp_path / "run")
    assert {r["given_label"] for r in rows} == {"dark", "light"}
    assert all(r["file"].split("/")[0] == r["given_label"] for r in rows)
    assert "true_label" not in rows[0]
    found = {p.name for p in (tmp_path / "run" / "figures").iterdir()}
    assert found == FIGURES


def test_webvision_is_streamed_and_a_stopped_run_goes_on(tmp_path, write_webvision, monkeypatch):
    generator = np.random.default_rng(0)
    classes = np.arange(40) % 2
    levels = generator.normal(100 + 60 * classes[:, None, None, None], 40, (40, 11, 13, 3))
    images = levels.clip(0, 255).astype(np.uint8)
    write_webvision(tmp_path / "data", images, classes.tolist())
    for i in range(20):  # the second test set: every second image in a class that is not trained
        folder = tmp_path / "val" / ("other" if i % 2 else str(classes[i // 2]))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i // 2]).save(folder / f"{i}.png")
    config = recipe.get_config("webvision_star")
    config.update_from_flattened_dict(
        {
            "writers": ("jsonl",),
            "dataset.path": str(tmp_path / "data"),
            "dataset.test2": str(tmp_path / "val"),
            "dataset.image_size": 8,
            "augment.resize": 10,
            "augment.policy": "none",  # takes long to compile
            "model.name": "tiny",
            "num_workers": 0,
            "num_epochs": 3,
            "batch_size": 4,
            "optimizer.learning_rate": 0.05,
        }
    )
    programs = Programs()
    whole = noisy_labels.run(parse(config), tmp_path / "whole", programs)
    config.checkpoint.every_seconds = 0.0
    assert whole["dataset"] == "mini_webvision" and whole["num_classes"] == 2
    stages = [(e["phase"], e["stage"]) for e in events_of(tmp_path / "whole") if "stage" in e]
    assert stages[:2] == [("net1", "warm_up"), ("net2", "warm_up")]
    assert {("net1", "semi_supervised"), ("net2", "semi_supervised")} <= set(stages[2:])
    rows = _quality(tmp_path / "whole")
    assert {r["file"] for r in rows} == {f"google/q{c:04}/{i}.jpg" for i, c in enumerate(classes)}
    assert {p.name for p in (tmp_path / "whole" / "figures").iterdir()} == FIGURES

    real = noisy_labels._Learning._train

    def stop(learning, epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        real(learning, epoch)

    monkeypatch.setattr(noisy_labels._Learning, "_train", stop)
    with pytest.raises(KeyboardInterrupt):
        noisy_labels.run(parse(config), tmp_path / "stopped", programs)
    monkeypatch.setattr(noisy_labels._Learning, "_train", real)
    assert noisy_labels.run(parse(config), tmp_path / "stopped", programs) == whole
    quality = [
        (tmp_path / name / "label_quality.csv").read_bytes() for name in ("whole", "stopped")
    ]
    assert quality[0] == quality[1]


def _pass_it_on(config, problem):
    """A toy method: every network becomes its peer plus one, and adds what it is shown."""

    def step(network, peer, batches, key, scalars):
        del key
        seen = jnp.sum(jnp.where(batches["all"].valid, batches["all"].label_scores["one"], 0))
        params = {"w": peer["params"]["w"] + 1, "seen": network.params["seen"] + seen}
        metrics = {"loss": params["w"], "progress": scalars["progress"], "seen": params["seen"]}
        return TrainState(params, {}, ()), metrics

    def passes(epoch, label_scores, generator):
        del epoch, generator
        assert label_scores["clean_prob"].shape == (problem.num_examples,)
        ids = {"all": np.arange(problem.num_examples)}
        one = {"one": np.ones(problem.num_examples, np.float32)}
        pairs = (("net1", "net2"), ("net2", "net1"))
        return [Pass("copy", name, ids, {}, peer=peer, label_scores=one) for name, peer in pairs]

    def score_labels(logits, labels):
        margin = logit_margin(jnp.mean(logits, axis=0), labels)
        return {
            "clean_prob": margin,
            "margin": margin,
            "flagged": margin < 0,
            "suggested": labels,
        }

    zero = {"w": jnp.float32(0), "seen": jnp.float32(0)}
    return Method(
        networks=("net1", "net2"),
        start=lambda key: TrainState(zero, {}, ()),
        stages=(Stage("copy", {"all": 100}, ("weak",), step),),
        passes=passes,
        forward=lambda variables, images: jnp.zeros((len(images), 10)) + variables["params"]["w"],
        class_probs=lambda logits: jax.nn.softmax(jnp.mean(logits, axis=0)),
        score_labels=score_labels,
        score="margin",
        peer_from=config.dpc.peer_from,
    )


@pytest.mark.parametrize(
    ("peer_from", "expected"), [("now", [1, 2, 3, 4]), ("epoch_start", [1, 1, 2, 2])]
)
def test_the_loop_hands_a_step_its_peer_and_its_examples(
    peer_from, expected, tmp_path, monkeypatch
):
    monkeypatch.setitem(noisy_labels.NOISY_LABEL_METHODS, "toy", Entry(_pass_it_on, "", DpcRecipe))
    tasks.run(_config(**{"method": "toy", "num_epochs": 2, "dpc.peer_from": peer_from}), tmp_path)
    events = [e for e in events_of(tmp_path) if e["split"] == "train"]
    assert [e["loss"] for e in events] == expected
    np.testing.assert_allclose([e["progress"] for e in events], 1 / 3)  # of 0, 1/3, 2/3
    np.testing.assert_allclose([e["seen"] for e in events], [200, 200, 500, 500])


@pytest.mark.slow
def test_a_class_without_labels_and_labels_without_errors(tmp_path):
    matrix = np.eye(10)
    matrix[0] = matrix[1]
    np.savetxt(tmp_path / "matrix.txt", matrix)
    changes = {"num_epochs": 2, "dpc.warm_up": 1, "noise.kind": "transition"}
    config = _config(**changes, **{"noise.path": str(tmp_path / "matrix.txt")})
    results = tasks.run(config, tmp_path / "absent")
    assert not np.any(np.load(tmp_path / "absent" / "noisy_labels.npy") == 0)
    assert np.isfinite(results["last"]["ece"])
    np.savetxt(tmp_path / "matrix.txt", np.eye(10))
    results = tasks.run(config, tmp_path / "clean")
    found = results["last"]["labels"]
    assert results["noise"]["realised_rate"] == found["precision"] == found["recall"] == 0
    assert not any(name.startswith("auroc") for name in found)


def _noise(**changes):
    return dataclasses.replace(parse(recipe.get_config("digits")).noise, **changes)


def _toy(name, labels, num_classes):
    examples = Examples(np.zeros((len(labels), 1, 1, 3), np.uint8), labels.astype(np.int32))
    names = tuple(str(c) for c in range(num_classes))
    return Dataset(name, examples, examples.take(np.arange(1)), names, (0.0,) * 3, (1.0,) * 3)


def test_kinds_of_noise():
    digits = load_dataset("digits")
    clean = digits.train.labels

    def draw(**changes):
        return given_labels(_noise(**changes), digits, seed=5)

    np.testing.assert_array_equal(draw(kind="none"), clean)
    np.testing.assert_array_equal(draw(), symmetric_noise(clean, 0.4, 5, 10))
    np.testing.assert_array_equal(draw(seed=7), symmetric_noise(clean, 0.4, 7, 10))
    flipped = draw(kind="pairflip", rate=1.0)
    np.testing.assert_array_equal(flipped, (clean + 1) % 10)
    uniform = draw(kind="uniform", rate=1.0)
    assert not np.any(uniform == clean)


@pytest.mark.parametrize("suffix", ["npy", "csv", "txt"])
def test_a_transition_matrix_is_read(suffix, tmp_path):
    matrix = np.eye(10)[(np.arange(10) + 3) % 10]
    path = tmp_path / f"matrix.{suffix}"
    if suffix == "npy":
        np.save(path, matrix)
    else:
        np.savetxt(path, matrix, delimiter="," if suffix == "csv" else " ")
    digits = load_dataset("digits")
    noise = _noise(kind="transition", path=str(path))
    labels = given_labels(noise, digits, seed=0)
    np.testing.assert_array_equal(labels, (digits.train.labels + 3) % 10)


@pytest.fixture(scope="module")
def cifar10n(tmp_path_factory):
    """CIFAR-10N's file with labels that are made up: its path, the clean and the human ones."""
    import io
    import pickle

    generator = np.random.default_rng(0)
    archive = np.repeat(np.arange(10), 5000)
    generator.shuffle(archive)
    human = generator.integers(0, 10, 50_000)
    content = io.BytesIO()
    pickle.dump({"clean_label": archive, "worse_label": human}, content)
    path = tmp_path_factory.mktemp("cifar10n") / "CIFAR-10_human.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", content.getvalue())
    return path, archive, human


def test_human_labels_find_their_images(cifar10n):
    """Label files are in the archive's order, images of the JPEG pack are sorted by class."""
    path, archive, human = cifar10n
    generator = np.random.default_rng(1)
    noise = _noise(kind="human", path=str(path), label_set="worst")
    by_class = _toy("cifar10_jpeg", np.sort(archive), 10)
    labels = given_labels(noise, by_class, seed=0)
    expected = np.concatenate([human[archive == c] for c in range(10)])
    np.testing.assert_array_equal(labels, expected)
    in_order = _toy("cifar10", archive, 10)
    np.testing.assert_array_equal(given_labels(noise, in_order, seed=0), human)
    with pytest.raises(UserError, match="use the whole training set"):
        given_labels(noise, _toy("cifar10", archive[:100], 10), seed=0)
    ids = np.sort(generator.permutation(50_000)[:300])
    part = dataclasses.replace(by_class, train=by_class.train.take(ids))
    np.testing.assert_array_equal(given_labels(noise, part, seed=0), expected[ids])
    shuffled = _toy("cifar10", generator.permutation(archive), 10)
    with pytest.raises(UserError, match="neither in the order of the label file nor sorted"):
        given_labels(noise, shuffled, seed=0)


def test_human_labels_find_the_images_of_features(tmp_path, cifar10n):
    """By class and running number, so that any part in any order will do."""
    path, archive, human = cifar10n
    members = [np.flatnonzero(archive == c) for c in range(10)]
    generator = np.random.default_rng(1)
    numbers = np.concatenate([generator.permutation(5000)[:6] for _ in range(10)])
    labels = np.repeat(np.arange(10), 6)
    order = generator.permutation(60)
    pairs = zip(labels, numbers, strict=True)
    files = np.array([f"train/{CIFAR10_CLASSES[c]}/{n:04}.jpg" for c, n in pairs])
    arrays = {
        "features": generator.normal(size=(60, 4)),
        "labels": labels[order],
        "label_names": CIFAR10_CLASSES,
        "files": files[order],
        "split": ["train", "test"] * 30,
    }
    noise = _noise(kind="human", path=str(path), label_set="worst")

    def given(noise=noise, **changes):
        np.savez(tmp_path / "features.npz", **{**arrays, **changes})
        return given_labels(noise, load_features(tmp_path / "features.npz"), seed=0)

    ids = [members[labels[i]][numbers[i]] for i in order[::2]]
    np.testing.assert_array_equal(given(), human[ids])
    with pytest.raises(UserError, match="holds no 'files'"):
        given(files=np.array([], str))
    with pytest.raises(UserError, match=r"'a\.jpg' of class .* must end in .*NNNN.jpg"):
        given(files=["a.jpg", *files[order][1:]])
    with pytest.raises(UserError, match="with the names of its classes"):
        given(label_names=list("abcdefghij"))
    is_truck = arrays["labels"][::2] == 9
    confused = given(_noise(kind="asymmetric", rate=1.0))
    assert (confused[is_truck] == 1).all()


WRONG = {
    "unknown method": ({"method": "dcp"}, "did you mean 'dpc'"),
    "unknown noise": ({"noise.kind": "symetric"}, "did you mean 'symmetric'"),
    "rate above 1": ({"noise.rate": 1.5}, "noise.rate=1.5 must be a number in [0, 1]"),
    "asymmetric digits": ({"noise.kind": "asymmetric"}, "use 'pairflip'"),
    "human digits": ({"noise.kind": "human"}, "CIFAR-10N"),
    "no matrix": ({"noise.kind": "transition"}, "needs config.noise.path="),
    "missing matrix": (
        {"noise.kind": "transition", "noise.path": "/nowhere.npy"},
        "cannot be read as a matrix",
    ),
    "unknown policy": ({"augment.policy": "cifar"}, "did you mean 'cifar10'"),
    "unknown loss": ({"dpc.loss": "evidental"}, "did you mean 'evidential'"),
    "unknown score": ({"dpc.score": "margins"}, "did you mean 'margin'"),
    "unknown mode": ({"dpc.score_mode": "gm"}, "did you mean 'gmm'"),
    "weight of nothing": ({"dpc.forward_unlabeled": False}, "leaves them out"),
    "threshold": ({"dpc.threshold": 1.0}, "dpc.threshold"),
    "temperature": ({"dpc.temperature": 0.0}, "dpc.temperature"),
    "negative weight": ({"dpc.lambda_u": -1.0}, "dpc.lambda_u"),
    "no mixup": ({"method": "mixup", "baseline.mixup_alpha": 0.0}, "baseline.mixup_alpha"),
    "no epochs": ({"num_epochs": 0}, "num_epochs"),
    "unknown network": ({"model.name": "preact"}, "model.name"),
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


def test_every_setting_of_the_paper_is_a_variant():
    names = [*recipe.SETTINGS, *(f"{name}_star" for name in recipe.SETTINGS)]
    for name in names:
        config = recipe.get_config(name)
        assert config.method == "dpc"
        assert (config.dpc.consistency_weight > 0) == name.endswith("_star")
    assert recipe.get_config("cifar100_sym80").dpc.lambda_u == 150
    assert recipe.get_config("cifar10n_worst").dpc.entropy_penalty == "clamped"
    assert recipe.get_config("webvision").num_epochs == 101
    with pytest.raises(UserError, match="did you mean 'cifar10_sym50'"):
        recipe.get_config("cifar10_sym5")


def test_corrections_are_trained_on_and_not_asked_about_again(tmp_path):
    labels = load_dataset("digits", max_train=300).train.labels
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_text(
        f"id,label,decision\n7,{(labels[7] + 1) % 10},other\n8,{labels[8]},keep\n9,,unsure\n"
    )
    second.write_text(f"id,label\n10,{(labels[10] + 1) % 10}\n")
    config = _config(
        **{
            "method": "cross_entropy",
            "num_epochs": 1,
            "noise.kind": "none",
            "dataset.corrections": f"{first}, {second}",
        }
    )
    workdir = tmp_path / "run"
    tasks.run(config, workdir)
    seen = np.load(workdir / "noisy_labels.npy")
    assert np.flatnonzero(seen != labels).tolist() == [7, 10]
    assert json.loads((workdir / "noise.json").read_text())["num_kept"] == 1
    rows = _quality(workdir)
    reviewed = {row["id"]: row for row in rows[-3:]}
    assert {i: row["reviewed"] for i, row in reviewed.items()} == {
        "7": "corrected",
        "8": "kept",
        "10": "corrected",
    }
    assert reviewed["7"]["given_label"] == str((labels[7] + 1) % 10)
    assert {row["flagged"] for row in reviewed.values()} == {"0"}
    assert all(row["reviewed"] == "" for row in rows[:-3]) and len(rows) == 300
    # Other corrections are other labels: the run is not gone on with.
    second.write_text(f"id,label\n11,{(labels[11] + 1) % 10}\n")
    with pytest.raises(UserError, match="The data, labels or teacher differ from those that"):
        tasks.run(config, workdir)
    first.write_text("id,label\n300,1\n")
    with pytest.raises(UserError, match="line 2 has the id '300', which must lie in 0 to 299"):
        tasks.run(config, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_run_whose_labels_are_all_decided_shows_none(tmp_path):
    labels = load_dataset("digits", max_train=300).train.labels
    table = tmp_path / "corrections.csv"
    table.write_text("id,label\n" + "".join(f"{i},{c}\n" for i, c in enumerate(labels)))
    config = _config(
        **{
            "method": "cross_entropy",
            "num_epochs": 1,
            "noise.kind": "none",
            "dataset.corrections": str(table),
        }
    )
    tasks.run(config, tmp_path / "run")
    assert {row["reviewed"] for row in _quality(tmp_path / "run")} == {"kept"}
    assert not (tmp_path / "run" / "figures" / "suspicious.png").exists()
