"""Health of a data set: what is planted is found, and nothing else."""

import csv
import json

import numpy as np
import pytest

from jaxrobust.data.dataset import Dataset, Examples
from jaxrobust.data.features import load_features
from jaxrobust.report.health_section import health as section
from jaxrobust.report.run_files import RunFiles
from jaxrobust.review import health


@pytest.fixture(scope="module")
def features():
    """300 directions of 32 dimensions, the last 100 of them for testing, with planted findings."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 32)).astype(np.float16)
    x[:, 0] += 20  # a mean that would make all of them look alike
    x[150] = x[20]  # an exact copy, another label
    x[160] = x[30] + rng.normal(scale=0.02, size=32)  # a near one
    x[210] = x[40]  # of the test part
    x[220] = x[50] + rng.normal(scale=0.02, size=32)
    labels = np.arange(300) % 2
    labels[150] = 1 - labels[20]
    split = np.array(["train"] * 200 + ["test"] * 100)
    files = np.array([f"{i}.png" for i in range(300)])
    arrays = {"features": x, "labels": labels, "split": split, "files": files}
    return load_features(arrays | {"label_names": np.array(["=cat", "dog"])})


def test_what_is_planted_is_found(features, tmp_path):
    labels = features.train.labels
    suggested, suspicious = labels.copy(), np.zeros(200, bool)
    suspicious[[0, 2, 150]] = True
    suggested[[0, 2, 150]] = 1 - suggested[[0, 2, 150]]
    found = health.write_health(tmp_path, features, labels, suggested, suspicious)
    assert found == json.loads((tmp_path / "health.json").read_text())
    exact = {"within_train": 1, "with_another_label": 1, "train_and_test": 1}
    assert found["exact_duplicates"] == exact
    near = {"within_train": 1, "with_another_label": 0, "train_and_test": 1}
    assert found["near_duplicates"] == near
    assert found["outliers"] == 0
    # 0, 2 and 150 look wrong; 150, 160, 40 and 50 are duplicates.
    assert found["healthy_fraction"] == pytest.approx(1 - 6 / 200)
    wrong = {x["class"]: (x["images"], x["suspicious"]) for x in found["classes"]}
    assert wrong == {"=cat": (99, 2), "dog": (101, 1)}
    assert found["most_confused"][0] == {"given": "=cat", "suggested": "dog", "images": 2}
    with open(tmp_path / "health.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["file"], r["finding"], r["other_id"], r["other_file"]) for r in rows] == [
        ("150.png", "exact duplicate", "train 20", "20.png"),
        ("40.png", "exact duplicate", "test 10", "210.png"),
        ("160.png", "near duplicate", "train 30", "30.png"),
        ("50.png", "near duplicate", "test 20", "220.png"),
    ]
    assert rows[1]["label"] == "'=cat" and float(rows[2]["value"]) >= health.NEAR
    (text,) = section(RunFiles(tmp_path, {}, None, [], []))
    assert "97.0 % of 200 training images are healthy" in text and "=cat" in text
    assert section(RunFiles(tmp_path / "none", {}, None, [], [])) == []


def test_an_outlier_is_far_from_all_others():
    rng = np.random.default_rng(1)
    centers = rng.normal(size=(4, 16))
    x = centers[np.arange(80) % 4] + rng.normal(scale=0.4, size=(80, 16))
    x[7] = -5 * centers.sum(axis=0)
    data = load_features(
        {
            "features": x.astype(np.float32),
            "labels": np.arange(80) % 4,
            "split": np.array(["train"] * 80),
        }
    )
    _, outliers = health.neighbors(data.train, data.test)
    assert outliers[0].id == 7  # the farthest first


def test_pixels_are_compared_where_there_are_no_features(tmp_path):
    images = np.random.default_rng(2).integers(0, 256, (6, 2, 2, 3), np.uint8)
    images[3], images[5] = images[0], images[1]
    labels = np.int32([0, 1, 0, 0])
    train, test = Examples(images[:4], labels), Examples(images[4:], np.int32([0, 0]))
    dataset = Dataset("x", train, test, ("a", "b"), (0.0,) * 3, (1.0,) * 3)
    found = health.write_health(tmp_path, dataset, labels, labels, np.zeros(4, bool))
    exact = {"within_train": 1, "with_another_label": 1, "train_and_test": 1}
    assert found["exact_duplicates"] == exact
    assert found["near_duplicates"] is None and found["outliers"] is None
