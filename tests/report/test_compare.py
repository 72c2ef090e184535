import json

import numpy as np
import pytest
import written_runs
from PIL import Image

from jaxrobust.commands import cli
from jaxrobust.errors import UserError
from jaxrobust.report import compare, figures


def _workdir(root, name, results):
    workdir = root / name
    workdir.mkdir()
    (workdir / "results.json").write_text(json.dumps(results))
    config = {"method": results["method"], "al": {"openness": 0.6}}
    (workdir / "config.json").write_text(json.dumps(config))
    return workdir


def _active(root, name, *args, **options):
    return _workdir(root, name, written_runs.active_learning(*args, **options))


def _noisy(root, name, *args, **options):
    return _workdir(root, name, written_runs.noisy_labels(*args, **options))


def _distilled(root, name, *args, **options):
    results = written_runs.distillation(*args, **{"cosines": True, **options})
    return _workdir(root, name, results)


@pytest.fixture
def workdirs(tmp_path):
    return [
        _active(tmp_path, "a0", "dcfs", seed=0),
        _active(tmp_path, "a1", "dcfs", seed=1, shift=0.1),
        _active(tmp_path, "b0", "random", seed=0),
    ]


def test_table_and_figure(workdirs, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["compare", *map(str, workdirs), f"--out={out}"]) == 0
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
    assert cli.main(["compare", *map(str, workdirs), f"--out={tmp_path / 'out'}", *flags]) == 0
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
    assert cli.main(["compare", *map(str, workdirs), f"--out={tmp_path}", "--x=rouds"]) == 2
    assert "did you mean 'rounds'" in capsys.readouterr().err


def test_noisy_label_runs_have_their_own_table_and_figure(workdirs, tmp_path, capsys):
    runs = [
        _noisy(tmp_path, "d0", "dpc", seed=0, accuracy=0.9),
        _noisy(tmp_path, "d1", "dpc", seed=1, accuracy=0.8),
        _noisy(tmp_path, "e0", "cross_entropy", seed=0, accuracy=0.5),
    ]
    out = tmp_path / "noisy"
    assert cli.main(["compare", *map(str, runs), f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    assert "| dpc | 2 | 85.0 ± 7.1 | 85.0 ± 7.1 | 10.0 ± 0.0 | 95.0 ± 0.0 |" in printed
    with Image.open(out / "learning_curves.png") as image:
        assert image.width > 1000
    other_rate = _noisy(tmp_path, "r", "dpc", seed=3, accuracy=0.9, rate=0.2)
    for stranger in (other_rate, workdirs[0]):
        assert cli.main(["compare", str(runs[0]), str(stranger), f"--out={out}"]) == 2
        assert "not the same problem" in capsys.readouterr().err


def test_distillation_runs_have_their_own_table_and_figure(tmp_path, capsys):
    runs = [
        _distilled(tmp_path, "d0", "dhkd", seed=0, accuracy=0.9),
        _distilled(tmp_path, "d1", "dhkd", seed=1, accuracy=0.8),
    ]
    alone = _distilled(tmp_path, "c", "cross_entropy", seed=0, accuracy=0.5, cosines=False)
    widths = []
    for workdirs in (runs, [*runs, alone]):
        assert cli.main(["compare", *map(str, workdirs), f"--out={tmp_path / 'out'}"]) == 0
        with Image.open(tmp_path / "out" / "learning_curves.png") as image:
            widths.append(image.width)
    printed = capsys.readouterr().out
    assert "| dhkd | 2 | 85.0 ± 7.1 | 85.0 ± 7.1 | – | 10.0 ± 0.0 |" in printed
    assert "| cross_entropy | 1 | 50.0 ± 0.0 |" in printed
    # The agreement of gradients is drawn where every run has measured it.
    assert widths[0] > 1.9 * widths[1]
    other = _distilled(tmp_path, "s", "kd", seed=0, accuracy=0.9, student="vgg8")
    assert cli.main(["compare", str(runs[0]), str(other), f"--out={tmp_path / 'out'}"]) == 2
    assert "not the same problem" in capsys.readouterr().err


def test_groups_by_any_field(workdirs):
    groups = compare.group(workdirs[:2], "method,al.openness")
    assert list(groups) == ["dcfs, 0.6"]
    assert [r["seed"] for r in groups["dcfs, 0.6"]] == [0, 1]


def test_what_cannot_be_compared_is_one_sentence(workdirs, tmp_path, capsys):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    damaged = _active(tmp_path, "damaged", "x", seed=0)
    (damaged / "results.json").write_text("{")
    twin = _active(tmp_path, "twin", "dcfs", seed=0)
    other = _active(tmp_path, "other", "dcfs", seed=5, dataset="cifar10")
    for extra, words in (
        (unfinished, "holds no results.json"),
        (damaged, "cannot be read"),
        (twin, "have seed 0"),
        (other, "not the same problem"),
    ):
        arguments = [str(workdirs[0]), str(extra), "--by=method", f"--out={tmp_path / 'o'}"]
        assert cli.main(["compare", *arguments]) == 2
        stderr = capsys.readouterr().err
        assert words in stderr and len(stderr.strip().splitlines()) == 1
    with pytest.raises(UserError, match=r"no field 'select\.fine'|no 'select\.fine'"):
        compare.group(workdirs, "select.fine")
