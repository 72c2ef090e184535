"""The command as a user types it: wrong uses, interruption and restart."""

import json
import os
import pathlib
import signal

import pytest
from commands import Command
from metric_files import events_of

from jaxrobust.commands import cli
from jaxrobust.recipes import locate

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("quick_commands")

DIGITS = "--config=configs/dcfs.py:digits"
TINY = (
    "--config=tests/tiny_recipe.py:dcfs",
    "--config.num_epochs=6",
    "--config.al.rounds=4",
    "--config.al.query_size=20",
    "--config.log_every_seconds=0.1",
)
SAVING = "--config.checkpoint.every_seconds=0.2"  # of runs that are killed


def _start(*arguments):
    return Command("jaxrobust.main", *arguments, folder=ROOT)


def _run(*arguments):
    return _start(*arguments).end()


WRONG_FLAGS = {
    "no config": ((), "--config is missing"),
    "no workdir": ((DIGITS,), "--workdir is missing"),
    "misspelt flag": (("--confg=configs/dcfs.py",), "Unknown command line flag 'confg'"),
    "no such recipe": (("--config=configs/dfcs.py",), "configs/dfcs.py does not exist"),
    "spaced": (("--config", "dfcs:digits"), "dfcs does not exist; give a file or one of"),
    "no such variant": (("--config=configs/dcfs.py:digit",), "did you mean 'digits'"),
    "no such variant, without a flag": (("dcfs:digit",), "did you mean 'digits'"),
    "misspelt field": (
        (DIGITS, "--config.select.kapa=3"),
        "no field 'select.kapa': did you mean --config.select.kappa?",
    ),
    "no such section": ((DIGITS, "--config.foo.bar=1"), "no field 'foo.bar'"),
    "wrong type": ((DIGITS, "--config.num_epochs=many"), "config.num_epochs=many"),
    "stray argument": ((DIGITS, "extra"), "'extra' is not a flag"),
}


@pytest.mark.parametrize("case", WRONG_FLAGS)
def test_a_wrong_flag_is_answered_by_one_sentence(case, tmp_path):
    arguments, sentence = WRONG_FLAGS[case]
    if case not in ("no config", "no workdir"):
        arguments = (*arguments, f"--workdir={tmp_path / 'run'}")
    code, stderr = _run(*arguments)
    assert code == 2
    assert sentence in stderr
    assert "Traceback" not in stderr
    assert len(stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_recipe_is_found_by_its_name_from_any_folder(tmp_path, monkeypatch):
    installed = str(ROOT / "jaxrobust" / "recipes" / "dcfs.py")
    assert locate("configs/dcfs.py:digits") == "configs/dcfs.py:digits"
    monkeypatch.chdir(tmp_path)
    for name in ("dcfs", "dcfs.py", "configs/dcfs.py"):
        assert locate(f"{name}:digits") == f"{installed}:digits"
    assert locate("dcfs") == installed
    assert locate("mine/dcfs.py") == "mine/dcfs.py"
    assert locate("dfcs:digits") == "dfcs:digits"
    (tmp_path / "dcfs").touch()
    assert locate("dcfs") == "dcfs"


def test_a_wrong_value_is_answered_by_one_sentence_through_the_command(tmp_path):
    code, stderr = _run(DIGITS, "--config.al.openness=1.0", f"--workdir={tmp_path / 'run'}")
    assert code == 2
    assert "openness" in stderr and "Traceback" not in stderr
    assert len(stderr.strip().splitlines()) == 1


def _artefacts(workdir):
    names = ["results.json", *(f"queries/{p.name}" for p in (workdir / "queries").iterdir())]
    return {name: (workdir / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unkilled")
    code, stderr = _run(*TINY, f"--workdir={workdir}")
    assert code == 0, stderr
    return workdir


@pytest.mark.slow
def test_stopped_twice_then_killed_and_each_time_restarted_is_bit_equal(unkilled, tmp_path):
    """A signal saves at once, though no checkpoint is due; nothing can be done about SIGKILL."""
    path, seen = tmp_path / "metrics.jsonl", 0
    for signum, code in ((signal.SIGTERM, 75), (signal.SIGINT, 130)):
        command = _start(*TINY, f"--workdir={tmp_path}")
        command.wait_for(path, lambda text, seen=seen: text.count("\n") > seen)
        os.kill(command.process.pid, signum)
        stopped, stderr = command.end()
        assert stopped == code
        assert "rerun the same command to resume" in stderr
        assert "Traceback" not in stderr
        assert ("Resuming the run" in stderr) == (seen > 0)
        seen = path.read_text().count("\n")
    command = _start(*TINY, SAVING, f"--workdir={tmp_path}")
    command.wait_for(path, lambda text: '"round": 2' in text)
    command.process.kill()
    assert command.end()[0] == -signal.SIGKILL
    assert not (tmp_path / "results.json").exists()
    code, stderr = _run(*TINY, f"--workdir={tmp_path}")
    assert code == 0, stderr
    assert "Resuming the run" in stderr
    assert _artefacts(tmp_path) == _artefacts(unkilled)
    assert events_of(tmp_path) == events_of(unkilled)


def test_every_program_was_traced_once_over_all_rounds(unkilled):
    traces = json.loads((unkilled / "timing.json").read_text())["traces"]
    expected = {f"{p}/{q}" for p in ("target", "query") for q in ("start", "epoch", "test")}
    expected |= {"query/query", "query/target"}
    assert traces == dict.fromkeys(expected | {"target/predict", "query/predict"}, 1) | {
        "dcfs/scores": 1
    }


def test_a_finished_run_is_finished(unkilled):
    before = _artefacts(unkilled)
    code, stderr = _run(*TINY, f"--workdir={unkilled}")
    assert code == 0, stderr
    assert _artefacts(unkilled) == before
    assert stderr.rstrip().endswith(f"python -m jaxrobust report {unkilled}")


@pytest.mark.usefixtures("unrendered_figures")
def test_a_page_about_the_run(unkilled, tmp_path):
    assert cli.main(["report", str(unkilled), f"--out={tmp_path}"]) == 0
    page = (tmp_path / "index.html").read_text()
    for words in (
        "dcfs on digits",
        "Query of round 2",
        "Most frequent confusions",
        "tiny_recipe.py:dcfs",
    ):
        assert words in page
    names = {p.name for p in tmp_path.iterdir()}
    assert {"confusion_dcfs.png", "round_02_dcfs.png", "scores_round_02_dcfs.png"} <= names


def test_what_lands_in_the_workdir(unkilled):
    found = {str(p.relative_to(unkilled)) for p in unkilled.rglob("*") if p.is_file()}
    assert {
        "config.json",
        "confusion.csv",
        "environment.json",
        "figures/confusion.png",
        "figures/learning_curve.png",
        "metrics.jsonl",
        "figures/reliability.png",
        "queries/round_00.csv",
        "queries/round_00.png",
        "queries/round_00_scores.csv",
        "queries/round_01.csv",
        "queries/round_02.csv",
        "reliability.csv",
        "results.json",
        "split.json",
        "timing.json",
    } <= found
    assert any(name.startswith("tensorboard/events.out") for name in found)
    header, *rows = (unkilled / "queries/round_00.csv").read_text("utf-8-sig").splitlines()
    columns = header.split(",")
    assert columns[:2] == ["id", "label"]
    assert {"data", "dist", "coarse", "fine", "discrepancy", "prediction"} <= set(columns)
    assert len(rows) == 20
    results = json.loads((unkilled / "results.json").read_text())
    assert len(results["rounds"]) == 4
    assert "query" not in results["rounds"][-1]
    assert results["rounds"][1]["query"]["precision"] >= 0
    assert 0 < results["rounds"][1]["query"]["auroc_dist"] < 1


def test_a_workdir_in_use_is_refused(tmp_path):
    command = _start(*TINY, f"--workdir={tmp_path}")
    try:
        command.wait_for(tmp_path / ".lock_owner", bool)
        code, stderr = _run(*TINY, f"--workdir={tmp_path}")
        assert code == 2
        assert f"is in use by process {command.process.pid}" in stderr
    finally:
        command.process.kill()
        command.end()


def test_a_workdir_of_another_recipe_is_refused_and_names_the_difference(unkilled):
    code, stderr = _run(*TINY, "--config.select.kappa=2", f"--workdir={unkilled}")
    assert code == 2
    assert "select.kappa=0.0" in stderr and "select.kappa=2.0" in stderr


def test_a_machine_without_the_accelerator_asked_for(tmp_path):
    code, stderr = _run(DIGITS, "--config.device=gpu", f"--workdir={tmp_path}")
    assert code == 2
    assert "device='gpu' was asked for" in stderr
