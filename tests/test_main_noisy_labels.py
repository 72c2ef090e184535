"""The command on the noisy-label task: interruption and restart."""

import json
import os
import pathlib
import signal

import chex
import numpy as np
import orbax.checkpoint as ocp
import pytest
from commands import Command

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_commands")]

SAVING = "--config.checkpoint.every_seconds=0.2"  # of runs that are killed
RECIPES = {
    "dpc": (
        "--config=tests/tiny_recipe.py:dpc",
        "--config.dataset.max_train=300",
        "--config.batch_size=16",
        "--config.num_epochs=8",
        "--config.dpc.warm_up=2",
    ),
    # Without exits, which take long to compile and keep nothing of their own.
    "bldr": (
        "--config=tests/tiny_recipe.py:bldr/digits_reweighted",
        "--config.dataset.max_train=120",
        "--config.batch_size=32",
        "--config.num_epochs=16",
        "--config.bldr.warm_up=2",
    ),
}


def _start(recipe, workdir, *options):
    options += ("--config.writers=('jsonl',)", f"--workdir={workdir}")
    return Command("jaxrobust.main", *RECIPES[recipe], *options, folder=ROOT)


def _finish(recipe, workdir):
    code, stderr = _start(recipe, workdir).end()
    assert code == 0, stderr
    return stderr


def _outcome(workdir):
    names = ("results.json", "label_quality.csv", "noise.json", "noisy_labels.npy")
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    events = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
    return {name: (workdir / name).read_bytes() for name in names}, events


def _unkilled(recipe, workdir):
    _finish(recipe, workdir)
    return _outcome(workdir)


def test_dpc_killed_within_an_epoch_and_restarted_is_bit_equal(tmp_path):
    workdir = tmp_path / "killed"
    command = _start("dpc", workdir, SAVING)
    command.wait_for(workdir / "metrics.jsonl", lambda text: '"stage": "semi_supervised"' in text)
    command.process.kill()
    assert command.end()[0] == -signal.SIGKILL
    assert not (workdir / "results.json").exists()
    assert "Resuming the run" in _finish("dpc", workdir)
    assert _outcome(workdir) == _unkilled("dpc", tmp_path / "unkilled")


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_bldr_stopped_and_then_killed_ends_with_the_same_state_of_every_example(tmp_path):
    workdir = tmp_path / "killed"
    command = _start("bldr", workdir)
    command.wait_for(workdir / "metrics.jsonl", lambda text: '"split": "train"' in text)
    os.kill(command.process.pid, signal.SIGTERM)
    code, stderr = command.end()
    assert code == 75, stderr
    assert "rerun the same command to resume" in stderr
    command = _start("bldr", workdir, SAVING)
    command.wait_for(workdir / "metrics.jsonl", lambda text: '"epoch": 6' in text)
    command.process.kill()
    assert command.end()[0] == -signal.SIGKILL
    assert "Resuming the run" in _finish("bldr", workdir)
    assert _outcome(workdir) == _unkilled("bldr", tmp_path / "unkilled")
    state, unkilled = (_last_state(tmp_path / name) for name in ("killed", "unkilled"))
    assert state.keys() >= {"u", "v", "weights", "nl_probs", "noise_rate", "ema", "params"}
    assert len(np.unique(state["weights"])) > 100  # they had moved
    chex.assert_trees_all_equal(state, unkilled)


def _last_state(workdir):
    directory = max(workdir.glob("checkpoints/*/state"), key=lambda path: int(path.parent.name))
    return ocp.PyTreeCheckpointer().restore(directory)["networks"]["net"]
