"""Runs that are left between two steps of an epoch end as if they had not been."""

import json
import os
import signal

import pytest

from configs import bual, dpc
from jaxrobust import tasks
from jaxrobust.engine import loops
from jaxrobust.engine.signals import Interrupted
from jaxrobust.recipes.parse import parse

pytestmark = pytest.mark.usefixtures("one_device", "tiny_network", "unrendered_figures")

SETTINGS = {
    # Divided, fewer labels than a batch would be on one side, so they are not.
    "dpc, undivided": {
        "dataset.max_train": 110,
        "dataset.max_test": 20,
        "num_epochs": 2,
        "batch_size": 54,
        "dpc.warm_up": 1,
    },
    "dpc": {
        "dataset.max_train": 80,
        "dataset.max_test": 20,
        "num_epochs": 2,
        "batch_size": 4,
        "dpc.warm_up": 1,
        "dpc.peer_from": "epoch_start",
    },
    "bual": {
        "dataset.max_train": 200,
        "dataset.max_test": 20,
        "num_epochs": 2,
        "batch_size": 8,
        "bual.eval_interval": 1,
        "bual.subset_size": 30,
        "al.rounds": 2,
        "al.init_fraction": 0.3,
    },
}


class Crash(Exception):
    pass


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch):
    """Every step is followed by a place where the run may be left."""
    monkeypatch.setattr(loops, "SECONDS_PER_PIECE", 0.0)


def _run(name, workdir, watched, *, saving_after=1e9):
    config = {"dpc": dpc, "bual": bual}[name.partition(",")[0]].get_config("digits")
    config.update_from_flattened_dict(
        {
            "writers": ("jsonl",),
            "model.name": "tiny",
            "checkpoint.every_seconds": saving_after,
            **SETTINGS[name],
        }
    )
    results = tasks.TASKS[config.task](parse(config), workdir, watched)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    events = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
    return results, events


def _crash():
    raise Crash


def _terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("name", "program", "call", "action", "raises", "left_at"),
    [
        # The last step: of the second network, whose peer is what the first was before this epoch.
        ("dpc", "semi_supervised/epoch", -1, _crash, Crash, None),
        ("dpc, undivided", "warm_up/epoch", -1, _crash, Crash, None),
        # After the pool was observed for this epoch.
        ("bual", "negative/epoch", 9, _terminate, Interrupted, "negative, epoch 2/3, step 3$"),
    ],
)
def test_a_run_left_within_an_epoch_goes_on_at_that_step(
    name, program, call, action, raises, left_at, tmp_path, watched_programs
):
    watched = watched_programs()
    whole = _run(name, tmp_path / "whole", watched)
    total = watched.calls.copy()
    watched.after = program, total[program] + range(1, total[program] + 1)[call], action
    with pytest.raises(raises, match=left_at):
        # A crash saves nothing itself: every step before it does.
        _run(name, tmp_path / "left", watched, saving_after=0.0 if raises is Crash else 1e9)
    assert _run(name, tmp_path / "left", watched) == whole
    # A step that had not been saved was repeated, and none but that.
    repeated = 1 if raises is Crash else 0
    assert watched.calls[program] == 2 * total[program] + repeated
    assert set(watched.traces.values()) == {1}
