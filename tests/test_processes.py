"""Two processes on this machine, by the command that a user types."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest
import tiny_recipe

from jaxrobust import tasks

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_device", "quick_commands", "tiny_network", "tiny_backbones"),
]

LAUNCH = ("bash", "launch/processes.sh", "--processes=2")
RECIPES = {
    "cross_entropy": ("dpc", {"method": "cross_entropy", "num_epochs": 3}),
    "dpc": ("dpc", {"dpc.warm_up": 1, "num_epochs": 2}),
    "dhkd": ("dhkd", {"num_epochs": 2, "teacher.num_epochs": 1, "optimizer.learning_rate": 0.005}),
    "bual": ("bual", {"num_epochs": 2, "bual.eval_interval": 1, "al.rounds": 2}),
}


def _changes(name):
    return {"dataset.max_train": 150, "dataset.max_test": 100, **RECIPES[name][1]}


def _start(name, workdir, **options):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    always = {"device": "cpu", "log_every_seconds": 0, "writers": "('jsonl',)"}
    changes = {**_changes(name), **always, **options}
    overrides = [f"--config.{field}={value}" for field, value in changes.items()]
    config = f"--config=tests/tiny_recipe.py:{RECIPES[name][0]}"
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.Popen(
        [*LAUNCH, f"--port={port}", "--", config, f"--workdir={workdir}", *overrides],
        cwd=ROOT,
        env={**os.environ, "PATH": path, "JAX_PLATFORMS": "cpu"},
        stderr=subprocess.PIPE,
        text=True,
    )


def _alone(name, workdir):
    config = tiny_recipe.recipe(RECIPES[name][0])
    config.update_from_flattened_dict({**_changes(name), "writers": ("jsonl",)})
    return tasks.run(config, workdir)


def test_a_killed_process_stops_the_other_and_a_restart_ends_as_one_process_does(tmp_path):
    workdir = tmp_path / "two"
    with _start("cross_entropy", workdir, **{"checkpoint.every_seconds": 0}) as run:
        for line in run.stderr:
            if "epoch 2/3" in line:
                break
        victim = ["pgrep", "-f", f"workdir={workdir}.*--process_id=1"]
        for pid in subprocess.run(victim, capture_output=True, text=True).stdout.split():
            os.kill(int(pid), signal.SIGKILL)
        said = run.stderr.read()
    assert run.returncode != 0
    # The survivor says so itself, or is stopped by JAX first.
    killed = "process 1 ended with code 137, and the others stop; rerun the same command to resume."
    assert said.count(killed) == 1, said

    with _start("cross_entropy", workdir) as run:
        said = run.stderr.read()
    assert run.returncode == 0, said
    assert "Resuming the run" in said
    assert said.count("wrong labels after the last epoch: ") == 1  # the other process is silent
    _assert_same_epochs("cross_entropy", workdir, tmp_path)


def _assert_same_epochs(name, workdir, tmp_path):
    together = json.loads((workdir / "results.json").read_text())
    alone = _alone(name, tmp_path / "one")
    for a, b in zip(together["epochs"], alone["epochs"], strict=True):
        # Sums over two devices round differently: one of the 100 test images may change sides.
        assert a["accuracy"] == pytest.approx(b["accuracy"], abs=0.011)
        assert a["labels"]["auroc_clean_prob"] == pytest.approx(
            b["labels"]["auroc_clean_prob"], abs=0.01
        )


@pytest.mark.stress
def test_dpc_in_two_processes_ends_as_one_process_does(tmp_path):
    with _start("dpc", tmp_path / "two") as run:
        said = run.stderr.read()
    assert run.returncode == 0, said
    _assert_same_epochs("dpc", tmp_path / "two", tmp_path)


@pytest.mark.stress
def test_bual_in_two_processes_asks_for_the_same_images(tmp_path):
    with _start("bual", tmp_path / "two") as run:
        said = run.stderr.read()
    assert run.returncode == 0, said
    _alone("bual", tmp_path / "one")
    ids = []
    for name in ("two", "one"):
        table = (tmp_path / name / "queries/round_00.csv").read_text()
        ids.append([row.split(",")[0] for row in table.splitlines()])
    assert ids[0] == ids[1]


@pytest.mark.stress
def test_dhkd_in_two_processes_ends_as_one_process_does(tmp_path):
    with _start("dhkd", tmp_path / "two") as run:
        said = run.stderr.read()
    assert run.returncode == 0, said
    _alone("dhkd", tmp_path / "one")
    events = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("two", "one")
    ]
    assert len(events[1]) == len(events[0]) == 3 + 3 + 2 * 3  # and the diagnoses of two epochs
    for a, b in zip(*events, strict=True):
        assert (a["split"], a["phase"]) == (b["split"], b["phase"])
        for name in ("loss", "gradient_cosine", "head_cosine"):
            # The diagnoses are of gradients that partly cancel.
            assert a.get(name, 0) == pytest.approx(b.get(name, 0), rel=2e-3, abs=2e-3)
        assert a.get("accuracy", 0) == pytest.approx(b.get("accuracy", 0), abs=0.021)
