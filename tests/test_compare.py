import json

import numpy as np
import pytest
from PIL import Image

from jaxrobust import compare, figures
from jaxrobust.errors import UserError


def _workdir(root, name, *, method, seed, shift=0.0, dataset="digits"):
    workdir = root / name
    workdir.mkdir()
    rounds = [
        {
            "round": i,
            "accuracy": 0.5 + 0.1 * i + shift,
            "num_labeled_known": 10 + 20 * i,
            "num_labeled_unknown": 10 * i,
            **({"query": {"size": 30, "precision": 0.6, "recall": 0.1 * i}} if i < 2 else {}),
        }
        for i in range(3)
    ]
    results = {
        "task": "active_learning",
        "method": method,
        "dataset": dataset,
        "seed": seed,
        "num_known_classes": 4,
        "num_classes": 10,
        "last": {"accuracy": 0.7 + shift},
        "mean_accuracy": 0.6 + shift,
        "area_under_accuracy_curve": 0.6 + shift,
        "mean_query_precision": 0.6,
        "last_query_recall": 0.1,
        "rounds": rounds,
    }
    (workdir / "results.json").write_text(json.dumps(results))
    (workdir / "config.json").write_text(json.dumps({"method": method, "al": {"openness": 0.6}}))
    return workdir


@pytest.fixture
def workdirs(tmp_path):
    return [
        _workdir(tmp_path, "a0", method="dcfs", seed=0),
        _workdir(tmp_path, "a1", method="dcfs", seed=1, shift=0.1),
        _workdir(tmp_path, "b0", method="random", seed=0),
    ]


def test_table_and_figure(workdirs, tmp_path, capsys):
    out = tmp_path / "out"
    assert compare.main([*map(str, workdirs), f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    # mean of 70 and 80 %, and their sample deviation 10 / sqrt 2
    assert "| dcfs | 2 | 75.0 ± 7.1 |" in printed
    assert "| random | 1 | 70.0 ± 0.0 |" in printed
    assert (out / "table.md").read_text() in printed
    with Image.open(out / "learning_curves.png") as image:
        assert image.width > 1000


def _lines(monkeypatch, workdirs, tmp_path, *flags):
    """Horizontal and vertical values of every line that the command draws, by panel."""
    drawn = []
    monkeypatch.setattr(
        figures,
        "_save",
        lambda figure, path: drawn.extend(
            (axis.get_xlabel(), [line.get_xydata().tolist() for line in axis.lines])
            for axis in figure.axes
        ),
    )
    assert compare.main([*map(str, workdirs), f"--out={tmp_path / 'out'}", *flags]) == 0
    return drawn


def test_the_horizontal_axis(workdirs, tmp_path, monkeypatch, capsys):
    """By round, as the papers; or by what it cost, a query's measures after the query."""
    accuracy, precision, recall = _lines(monkeypatch, workdirs, tmp_path)
    assert accuracy[0] == precision[0] == recall[0] == "Round"
    np.testing.assert_allclose(accuracy[1][0], [[0, 55], [1, 65], [2, 75]])
    np.testing.assert_allclose(precision[1][0], [[0, 60], [1, 60]])
    accuracy, precision, recall = _lines(monkeypatch, workdirs, tmp_path, "--x=annotated")
    assert accuracy[0] == precision[0] == recall[0] == "Annotated images"
    np.testing.assert_allclose(accuracy[1][1], [[10, 50], [40, 60], [70, 70]])
    np.testing.assert_allclose(recall[1][1], [[40, 0], [70, 10]])
    capsys.readouterr()
    assert compare.main([*map(str, workdirs), f"--out={tmp_path}", "--x=rouds"]) == 2
    assert "did you mean 'rounds'" in capsys.readouterr().err


def _noisy(root, name, *, method, seed, accuracy, rate=0.4):
    labels = {"f1": 0.8, "precision": 0.7, "recall": 0.9, "auroc_clean_prob": 0.95}
    epochs = [{"epoch": i, "accuracy": accuracy, "ece": 0.1, "labels": labels} for i in range(3)]
    results = {
        "task": "noisy_labels",
        "method": method,
        "dataset": "digits",
        "seed": seed,
        "noise": {"kind": "symmetric", "rate": rate, "realised_rate": 0.36},
        "last": epochs[-1],
        "best": {"accuracy": accuracy},
        "last_epochs": {"accuracy": accuracy, "ece": 0.1, "labels": labels},
        "epochs": epochs,
    }
    workdir = root / name
    workdir.mkdir()
    (workdir / "results.json").write_text(json.dumps(results))
    (workdir / "config.json").write_text(json.dumps({"method": method}))
    return workdir


def test_noisy_label_runs_have_their_own_table_and_figure(workdirs, tmp_path, capsys):
    runs = [
        _noisy(tmp_path, "d0", method="dpc", seed=0, accuracy=0.9),
        _noisy(tmp_path, "d1", method="dpc", seed=1, accuracy=0.8),
        _noisy(tmp_path, "e0", method="cross_entropy", seed=0, accuracy=0.5),
    ]
    out = tmp_path / "noisy"
    assert compare.main([*map(str, runs), f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    assert "| dpc | 2 | 85.0 ± 7.1 | 85.0 ± 7.1 | 10.0 ± 0.0 | 95.0 ± 0.0 |" in printed
    with Image.open(out / "learning_curves.png") as image:
        assert image.width > 1000
    other_rate = _noisy(tmp_path, "r", method="dpc", seed=3, accuracy=0.9, rate=0.2)
    for stranger in (other_rate, workdirs[0]):
        assert compare.main([str(runs[0]), str(stranger), f"--out={out}"]) == 2
        assert "not the same problem" in capsys.readouterr().err


def _distilled(root, name, *, method, seed, accuracy, student="resnet8", cosines=True):
    diagnosis = {"head": {"etf_deviation": 0.5}}
    if cosines:
        diagnosis["binary_kl"] = {"head_cosine": -0.1, "backbone_cosine": 0.1}
    epochs = [
        {"epoch": i, "accuracy": accuracy, "ece": 0.1, "diagnosis": diagnosis} for i in range(3)
    ]
    results = {
        "task": "distillation",
        "method": method,
        "dataset": "digits",
        "seed": seed,
        "num_classes": 3,
        "student": {"name": student},
        "teacher": {"name": "resnet14"} if cosines else None,
        "last": epochs[-1],
        "best": {"accuracy": accuracy},
        "epochs": epochs,
    }
    workdir = root / name
    workdir.mkdir()
    (workdir / "results.json").write_text(json.dumps(results))
    (workdir / "config.json").write_text(json.dumps({"method": method}))
    return workdir


def test_distillation_runs_have_their_own_table_and_figure(tmp_path, capsys):
    runs = [
        _distilled(tmp_path, "d0", method="dhkd", seed=0, accuracy=0.9),
        _distilled(tmp_path, "d1", method="dhkd", seed=1, accuracy=0.8),
    ]
    alone = _distilled(tmp_path, "c", method="cross_entropy", seed=0, accuracy=0.5, cosines=False)
    widths = []
    for workdirs in (runs, [*runs, alone]):
        assert compare.main([*map(str, workdirs), f"--out={tmp_path / 'out'}"]) == 0
        with Image.open(tmp_path / "out" / "learning_curves.png") as image:
            widths.append(image.width)
    printed = capsys.readouterr().out
    assert "| dhkd | 2 | 85.0 ± 7.1 | 85.0 ± 7.1 | – | 10.0 ± 0.0 |" in printed
    assert "| cross_entropy | 1 | 50.0 ± 0.0 |" in printed
    # The agreement of gradients is drawn where every run has measured it.
    assert widths[0] > 1.9 * widths[1]
    other = _distilled(tmp_path, "s", method="kd", seed=0, accuracy=0.9, student="vgg8")
    assert compare.main([str(runs[0]), str(other), f"--out={tmp_path / 'out'}"]) == 2
    assert "not the same problem" in capsys.readouterr().err


def test_groups_by_any_field(workdirs):
    groups = compare.group(workdirs[:2], "method,al.openness")
    assert list(groups) == ["dcfs, 0.6"]
    assert [r["seed"] for r in groups["dcfs, 0.6"]] == [0, 1]


def test_what_cannot_be_compared_is_one_sentence(workdirs, tmp_path, capsys):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    damaged = _workdir(tmp_path, "damaged", method="x", seed=0)
    (damaged / "results.json").write_text("{")
    twin = _workdir(tmp_path, "twin", method="dcfs", seed=0)
    other = _workdir(tmp_path, "other", method="dcfs", seed=5, dataset="cifar10")
    for extra, words in (
        (unfinished, "holds no results.json"),
        (damaged, "is damaged"),
        (twin, "have seed 0"),
        (other, "not the same problem"),
    ):
        assert compare.main([str(workdirs[0]), str(extra), f"--out={tmp_path / 'o'}"]) == 2
        stderr = capsys.readouterr().err
        assert words in stderr and len(stderr.strip().splitlines()) == 1
    with pytest.raises(UserError, match=r"no field 'select\.fine'|no 'select\.fine'"):
        compare.group(workdirs, "select.fine")
