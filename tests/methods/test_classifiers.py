"""What a run hands over predicts what the run measured."""

import csv
import hashlib
import importlib
import json

import numpy as np
import pytest

from jaxrobust import UserError, load_classifier, tasks
from jaxrobust.data import load_dataset
from jaxrobust.metrics import expected_calibration_error
from jaxrobust.models import safetensors_file, storage
from jaxrobust.tasks.backbones import _read

_EMPTY_NPZ = b"PK\x05\x06" + bytes(18)

# Recipe -> what makes it short, and the number of classes. DPC averages four predictions of two
# networks, BLDR two heads of a moving average; DCFS here reports a head of its query network.
SHARED = {"al.target_model": "shared", "select.fine": "data"}
RUNS = {
    "dpc": ({"dataset.max_train": 200, "num_epochs": 2, "dpc.warm_up": 1, "batch_size": 16}, 10),
    "bldr": ({"dataset.max_train": 200, "num_epochs": 2, "bldr.warm_up": 1}, 10),
    "dcfs": ({"num_epochs": 2, "al.rounds": 2, **SHARED}, 4),
    "active_learning_baselines": ({"num_epochs": 2, "al.rounds": 1}, 4),
}


@pytest.fixture(scope="module", params=RUNS)
def run(request, one_device, tiny_network, tmp_path_factory):
    """A short run on digits: name, workdir, results."""
    changes, _ = RUNS[request.param]
    config = importlib.import_module(f"jaxrobust.recipes.{request.param}").get_config("digits")
    config.writers = ("jsonl",)
    config.model.name = "tiny2" if request.param == "bldr" else "tiny"
    config.update_from_flattened_dict(changes)
    workdir = tmp_path_factory.mktemp(request.param)
    return request.param, workdir, tasks.run(config, workdir)


@pytest.fixture(scope="module")
def test_images():
    return load_dataset("digits").test


def test_it_predicts_what_the_run_measured(run, test_images):
    name, workdir, _ = run
    num_classes = RUNS[name][1]
    known = test_images.labels < num_classes
    images, labels = test_images.images[known], test_images.labels[known]
    classifier = load_classifier(workdir / "classifier")
    predicted = classifier.predict(images).astype(int)
    with open(workdir / "confusion.csv") as file:
        _, *rows = csv.reader(file)
    counts = np.zeros((num_classes, num_classes), int)
    np.add.at(counts, (labels, predicted), 1)
    np.testing.assert_array_equal(counts, np.array([row[1:] for row in rows], int))
    probs = classifier.predict_proba(images, batch_size=100)
    assert probs.dtype == np.float32 and probs.shape == (len(images), num_classes)
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-5)
    with open(workdir / "reliability.csv") as file:
        bins = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    measured = sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / len(images)
    # Batches of another size are rounded differently, at most in the seventh digit or so.
    ece = float(expected_calibration_error(probs, labels, num_bins=len(bins)))
    np.testing.assert_allclose(ece, measured, atol=1e-4)


def test_of_the_workdir_itself_and_in_one_line(run):
    name, workdir, _ = run
    num_classes = RUNS[name][1]
    classifier = load_classifier(workdir)
    method = "random" if name == "active_learning_baselines" else name
    assert repr(classifier).startswith(f"Classifier({method}, ")
    assert repr(classifier).endswith(f", {num_classes} classes, inputs 8 x 8 x 3)")
    assert classifier.classes.tolist() == [str(c) for c in range(num_classes)]


def test_other_inputs(run, test_images):
    """Grey ones in [0, 1] are taken; another size is refused."""
    classifier = load_classifier(run[1])
    images = test_images.images[:3]
    grey = images[..., 0] / 255
    np.testing.assert_array_equal(classifier.predict_proba(grey), classifier.predict_proba(images))
    with pytest.raises(UserError, match=r"inputs are of shape \[4, 8, 3\], but"):
        classifier.predict(images[:, :4])


def _arrays(folder) -> dict:
    return safetensors_file.decoded((folder / "model.safetensors").read_bytes())


def _as_older_versions_wrote_it(folder, to):
    """Rewrites a classifier as `classifier.json` and `variables.npz`."""
    to.mkdir()
    np.savez(to / "variables.npz", **_arrays(folder))
    facts = json.loads((folder / "model.json").read_text())
    del facts["num_parameters"]
    facts["variables_sha256"] = hashlib.sha256((to / "variables.npz").read_bytes()).hexdigest()
    del facts["content_crc32"]
    (to / "classifier.json").write_text(json.dumps(facts))
    return to


def test_folders_of_older_versions_are_read(run, test_images, tmp_path):
    old = _as_older_versions_wrote_it(run[1] / "classifier", tmp_path / "classifier")
    images = test_images.images[:20]
    expected = load_classifier(run[1]).predict_proba(images)
    for folder in (old, tmp_path):
        np.testing.assert_array_equal(load_classifier(folder).predict_proba(images), expected)
    read = [_read(folder) for folder in (old, run[1] / "classifier")]
    assert read[0].arch == read[1].arch and read[0].sha256 == read[1].sha256
    (old / "variables.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"variables\.npz has changed since it was written"):
        load_classifier(old)


def test_one_folder_has_two_files_and_their_sizes_agree(run):
    folder = run[1] / "classifier"
    assert {file.name for file in folder.iterdir()} == {"model.json", "model.safetensors"}
    facts, arrays = json.loads((folder / "model.json").read_text()), _arrays(folder)
    parameters = [array for name, array in arrays.items() if name.split("/")[1] == "params"]
    assert facts["num_parameters"] == sum(array.size for array in parameters) > 0


def test_it_is_not_taken_for_a_single_network(run):
    with pytest.raises(UserError, match=r"holds the classifier of a run of \w+, not a"):
        storage.load_classifier(run[1] / "classifier")


@pytest.mark.parametrize("case", ["nothing", "changed", "not JSON", "unknown task"])
@pytest.mark.parametrize(
    ("model", "variables"),
    [("model.json", "model.safetensors"), ("classifier.json", "variables.npz")],
)
def test_what_cannot_be_read_is_refused(model, variables, case, tmp_path):
    facts = {"task": "baking", "method": "dpc", "config": {}, "class_names": ["a", "b"]}
    facts |= {"input_shape": [8, 8, 3], "mean": [0], "std": [1], "variables_sha256": "0"}
    content = safetensors_file.encoded({}) if variables == "model.safetensors" else _EMPTY_NPZ
    (tmp_path / variables).write_bytes(content)
    if case == "unknown task":
        facts["variables_sha256"] = hashlib.sha256(content).hexdigest()
    if case != "nothing":
        (tmp_path / model).write_text("{" if case == "not JSON" else json.dumps(facts))
    with pytest.raises(UserError) as caught:
        load_classifier(tmp_path)
    words = {
        "nothing": "holds no classifier; name the folder",
        "changed": f"{variables} has changed since it was written",
        "not JSON": f"{model} is damaged",
        "unknown task": "holds no classifier that can be read",
    }
    assert words[case] in str(caught.value) and "\n" not in str(caught.value)
