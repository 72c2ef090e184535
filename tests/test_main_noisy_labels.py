"""The command on the noisy-label task: interruption and restart."""

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
    "--config=configs/dpc.py:digits",
    "--config.dataset.max_train=300",
    "--config.batch_size=16",
    "--config.num_epochs=8",
    "--config.dpc.warm_up=2",
    "--config.checkpoint.every_seconds=0.2",
    "--config.writers=('jsonl',)",
)


def _start(workdir):
    return subprocess.Popen(
        (*COMMAND, f"--workdir={workdir}"), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


def _finish(workdir):
    process = _start(workdir)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    return stderr


def _outcome(workdir):
    names = ("results.json", "label_quality.csv", "noise.json", "noisy_labels.npy")
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    events = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
    return {name: (workdir / name).read_bytes() for name in names}, events


def _wait_for(process, path, words):
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and words in path.read_text():
            return
        time.sleep(0.01)
    raise AssertionError(f"never reached: {process.communicate()[1]}")


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unkilled")
    _finish(workdir)
    return workdir


@pytest.mark.slow
def test_killed_within_an_epoch_and_restarted_is_bit_equal(unkilled, tmp_path):
    process = _start(tmp_path)
    _wait_for(process, tmp_path / "metrics.jsonl", '"stage": "semi_supervised"')
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "results.json").exists()
    assert "Going on with the run" in _finish(tmp_path)
    assert _outcome(tmp_path) == _outcome(unkilled)


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(unkilled, tmp_path):
    process = _start(tmp_path)
    _wait_for(process, tmp_path / "metrics.jsonl", '"stage": "semi_supervised"')
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate()
    assert process.returncode == 75, stderr
    assert "type the same command to go on" in stderr
    _finish(tmp_path)
    assert _outcome(tmp_path) == _outcome(unkilled)
