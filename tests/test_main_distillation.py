"""The command on the distillation task: killed with SIGKILL while the student learns."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
COMMAND = (
    sys.executable,
    "-m",
    "jaxrobust.main",
    "--config=configs/dhkd.py:digits",
    "--config.student.name=resnet8",
    "--config.teacher.name=resnet8",
    "--config.dataset.max_train=32",
    "--config.dataset.max_test=20",
    "--config.teacher.num_epochs=2",
    "--config.num_epochs=7",
    "--config.checkpoint.every_seconds=0.01",
    "--config.writers=('jsonl',)",
)


def _start(workdir):
    return subprocess.Popen(
        (*COMMAND, f"--workdir={workdir}"), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


def _outcome(workdir):
    files = ("results.json", "student/variables.npz", "teacher/variables.npz", "student/model.json")
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    events = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
    return {name: (workdir / name).read_bytes() for name in files}, events


@pytest.mark.slow
def test_killed_and_restarted_is_bit_equal(tmp_path):
    process = _start(tmp_path / "killed")
    path = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (path.exists() and path.read_text().count('"phase": "student"') >= 4):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed" / "results.json").exists()
    for name in ("killed", "unkilled"):
        process = _start(tmp_path / name)
        _, stderr = process.communicate(timeout=600)
        assert process.returncode == 0, stderr
        assert ("Going on with the run" in stderr) == (name == "killed")
    assert _outcome(tmp_path / "killed") == _outcome(tmp_path / "unkilled")
