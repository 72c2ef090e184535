"""A person works with a run by its pages, in a browser: annotates, and corrects labels."""

import json

import numpy as np
import pages
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from configs import dcfs, dpc
from jaxrobust import tasks
from jaxrobust.tasks.annotator import Annotator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_device", "tiny_network", "unrendered_figures"),
]

KNOWN = ("0", "1", "2")


def _save(root, truth, folder, image, label):
    path = root / folder / f"{len(truth):03d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.uint8(image * 15)).save(path)
    truth[path.relative_to(root).as_posix()] = str(label)


def _data_set(root, *, num_labeled, num_unlabeled, num_wrong):
    """Digits in class folders, the first of every class in the folder of the next; their truth."""
    digits, truth = load_digits(), {}
    for label in range(4 if num_unlabeled else 3):
        images = iter(digits.images[digits.target == label])
        for n in range(num_labeled if label < 3 else 0):
            name = (label + (n < num_wrong)) % 3
            _save(root, truth, f"train/{name}", next(images), label)
        for _ in range(num_unlabeled):
            _save(root, truth, "train/unlabeled", next(images), label)
        for _ in range(4 if label < 3 else 0):
            _save(root, truth, f"test/{label}", next(images), label)
    return truth


def _config(recipe, root, **changes):
    config = recipe.get_config("image_folder_pixels")
    config.dataset.path = str(root)
    config.writers = ("jsonl",)
    config.update_from_flattened_dict(
        {
            "dataset.image_size": 8,
            "model.name": "tiny",
            "num_epochs": 2,
            "batch_size": 8,
            "eval_batch_size": 16,
            **changes,
        }
    )
    return config


def _files(page):
    """Of the images on the page, in its order."""
    return page.locator(".card .name").evaluate_all("names => names.map((n) => n.title)")


@pytest.mark.skipif(not hasattr(Annotator, "page"), reason="the annotator writes no page yet")
def test_three_rounds_of_annotation(browser, tmp_path):
    root, workdir = tmp_path / "data", tmp_path / "run"
    truth = _data_set(root, num_labeled=4, num_unlabeled=6, num_wrong=0)
    config = _config(dcfs, root, oracle="csv", method="random")
    config.update_from_flattened_dict({"al.rounds": 4, "al.query_size": 5})
    asked = []
    for round_ in range(3):
        assert "waiting_for" in tasks.run(config, workdir)
        with pages.opened(browser, workdir / "queries" / f"round_{round_:02d}.html") as page:
            for file in _files(page):
                label = truth[file]
                # The keys of the classes are 1, 2, 3, in the order of their names.
                page.keyboard.press(str(KNOWN.index(label) + 1) if label in KNOWN else "u")
                asked.append(file)
            assert page.text_content("#count") == "5 of 5 answered"
            pages.downloaded(page, "#save", workdir / "queries")
    results = tasks.run(config, workdir)
    assert results == json.loads((workdir / "results.json").read_text())
    assert len(asked) == len(set(asked)) == 15
    num_known = sum(truth[file] in KNOWN for file in asked)
    assert results["rounds"][-1]["num_labeled_known"] == 12 + num_known
    assert results["rounds"][-1]["num_labeled_unknown"] == 15 - num_known


def test_a_round_of_corrections(browser, tmp_path):
    root = tmp_path / "data"
    truth = _data_set(root, num_labeled=10, num_unlabeled=0, num_wrong=2)
    config = _config(dpc, root, method="cross_entropy", **{"noise.kind": "none"})
    tasks.run(config, tmp_path / "first")
    decided = {}
    with pages.opened(browser, tmp_path / "first" / "label_review.html") as page:
        assert page.text_content("#count") == "0 of 30 answered"
        for n, file in enumerate(_files(page)):
            if n == 20:
                pages.reload(page)  # the browser has kept what was decided
                page.locator(".card").nth(n).click()
            if n == 25:
                page.keyboard.press("u")
                continue
            if n == 26:
                page.keyboard.press("x")
                excluded = file
                continue
            decided[file] = truth[file]
            given = file.split("/")[1]
            if given == truth[file]:
                page.keyboard.press("k")
                continue
            page.keyboard.press("o")  # the class by its name
            page.keyboard.type(truth[file])
            page.keyboard.press("Enter")
        assert page.text_content("#count") == "30 of 30 answered"
        corrections = pages.downloaded(page, "#save", tmp_path)
    config.dataset.corrections = str(corrections)
    tasks.run(config, tmp_path / "second")
    noise = json.loads((tmp_path / "second" / "noise.json").read_text())
    corrected = [file for file, label in decided.items() if file.split("/")[1] != label]
    assert noise["num_corrected"] == len(corrected) >= 5
    assert noise["num_kept"] == 28 - len(corrected)
    labels = np.load(tmp_path / "second" / "noisy_labels.npy")
    files = sorted(file for file in truth if file.startswith("train") and file != excluded)
    assert [KNOWN[i] for i in labels] == [decided.get(f, f.split("/")[1]) for f in files]
    # Only what nobody has decided is asked about again.
    data = pages.embedded_data(tmp_path / "second" / "label_review.html")
    asked = [row[1] for row in data["rows"] if "labels" in row[6]]
    assert asked == [f for f in files if f not in decided]
