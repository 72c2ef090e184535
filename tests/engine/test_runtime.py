import os
import pathlib
import tempfile
import types

import jax
import pytest

from configs import dcfs
from jaxrobust.engine import runtime
from jaxrobust.engine.runtime import likely_mistakes, open_run, slow_run
from jaxrobust.engine.sharding import make_placement
from jaxrobust.errors import UserError


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"dtype": "bfloat16"}, "dtype=bfloat16 is slower on a CPU than float32"),
        ({"batch_size": 100}, "batch_size=100 does not divide evenly by 8 devices"),
        ({"checkpoint.every_seconds": 7200.0}, "a kill may cost 2:00:00 of work"),
    ],
)
def test_likely_mistakes_are_told(changes, words):
    config = dcfs.get_config("digits")
    config.batch_size = 64
    config.update_from_flattened_dict(changes)
    doubts = likely_mistakes(config, make_placement(jax.devices()))
    assert len(doubts) == (words is not None)
    assert words is None or words in doubts[0]


def test_a_run_that_takes_long_is_told_so():
    here = pathlib.Path.home() / "runs"
    assert slow_run(here, 100, 35) == []
    (cpu,) = slow_run(here, 100, 72)
    assert "on this CPU the run takes about 2:00:00 more, 01:12 for an epoch" in cpu
    _, lost = slow_run(pathlib.Path(tempfile.gettempdir()) / "run", 100, 72)
    assert "is a temporary folder" in lost


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass as a test says."""
    now = [0.0]
    monkeypatch.setattr(runtime, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_lines_of_a_log_estimate_the_rest_without_the_time_to_compile(tmp_path, clock, caplog):
    config = dcfs.get_config("digits")
    config.batch_size, config.log_every_seconds = 64, 1.0
    config.checkpoint.every_seconds = 3600.0
    with caplog.at_level("INFO", "jaxrobust"), open_run(config, tmp_path) as run:
        run.start_progress(total=11, done=0)
        for step, seconds in ((1, 500.0), (2, 530.0), (3, 560.0)):
            clock[0] = seconds
            run.epoch_done(step, {}, {}, f"epoch {step}/11")
    assert caplog.messages == [
        "epoch 1/11 | 9 % of the run",
        "epoch 2/11 | 18 % of the run | 04:30 left",
        "epoch 3/11 | 27 % of the run | 04:00 left",
    ]


def test_a_slow_run_is_told_once(tmp_path, clock, caplog):
    config = dcfs.get_config("digits")
    config.batch_size, config.checkpoint.every_seconds = 64, 3600.0
    with caplog.at_level("WARNING", "jaxrobust"), open_run(config, tmp_path) as run:
        run.start_progress(total=300, done=0)
        for step in (1, 2, 3):
            clock[0] = 60.0 * step
            run.epoch_done(step, {}, {}, "")
    cpu, temporary = caplog.messages
    assert "takes about 4:58:00 more" in cpu and "temporary folder" in temporary


@pytest.mark.parametrize(
    ("num_processes", "error", "waits"),
    [(1, ValueError, True), (2, ValueError, False), (2, UserError, True)],
)
def test_a_run_whose_other_process_is_gone_does_not_wait_for_its_checkpoint(
    tmp_path, monkeypatch, num_processes, error, waits
):
    with pytest.raises(error, match="gone"), open_run(dcfs.get_config("digits"), tmp_path) as run:
        run.begin("labels.json", {}, dtype=None)
        checkpoints = run._checkpoints
        closed = []
        monkeypatch.setattr(checkpoints, "close", lambda: closed.append(True))
        monkeypatch.setattr(runtime.jax, "process_count", lambda: num_processes)
        raise error("gone")
    assert closed == [True] * waits
    monkeypatch.undo()
    checkpoints.close()


def test_deterministic_runs_ask_xla_for_it_once(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    config = dcfs.get_config("digits")
    runtime.setup_jax(config)
    assert "deterministic" not in os.environ["XLA_FLAGS"]
    config.deterministic = True
    for _ in range(2):
        runtime.setup_jax(config)
    expected = "--xla_cpu_enable_fast_math=false --xla_gpu_deterministic_ops=true"
    assert os.environ["XLA_FLAGS"] == expected


def test_the_environment_names_what_numbers_may_depend_on(monkeypatch):
    monkeypatch.setenv("JAX_SOMETHING", "1")
    monkeypatch.setenv("SECRET_TOKEN", "x")
    found = runtime.environment("bfloat16")
    assert found["dtype"] == "bfloat16"
    assert found["variables"]["JAX_SOMETHING"] == "1" and "SECRET_TOKEN" not in found["variables"]
    assert {"jax", "jaxlib", "flax", "optax", "numpy"} <= found["versions"].keys()
    assert found.keys() >= {"started", "command", "devices", "commit", "python", "platform", "x64"}
