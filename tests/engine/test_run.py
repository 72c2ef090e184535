import concurrent.futures
import json
import os
import pathlib
import signal
import sys
import tempfile
import types

import chex
import jax
import numpy as np
import pytest

from configs import dcfs
from jaxrobust.engine import environment, progress
from jaxrobust.engine import run as run_module
from jaxrobust.engine.advice import expected_on_cpu, likely_mistakes, slow_run
from jaxrobust.engine.run import LAYOUT, Saved, open_run
from jaxrobust.engine.sharding import make_placement
from jaxrobust.errors import UserError
from jaxrobust.recipes.parse import parse


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"dtype": "bfloat16"}, "dtype=bfloat16 is slower than float32 on a CPU"),
        ({"batch_size": 100}, "batch_size=100 is not divisible by the number of devices, 8"),
        ({"checkpoint.every_seconds": 7200.0}, "a kill may lose 2:00:00 of work"),
    ],
)
def test_likely_mistakes_are_told(changes, words):
    config = dcfs.get_config("digits")
    config.batch_size = 64
    config.update_from_flattened_dict(changes)
    warnings = likely_mistakes(parse(config), make_placement(jax.devices()))
    assert len(warnings) == (words is not None)
    assert words is None or words in warnings[0]


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
    for module in (run_module, progress):
        monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    return now


def _begin(run, total=1):
    """The position of a run whose epochs are all that it counts."""
    saved = Saved(at=(0,), record={"epochs": []})
    run.begin("inputs.json", {}, dtype=None)
    run.restore(saved, lambda at: at[0])
    run.start_progress(saved, total=total)
    return saved


def test_lines_of_a_log_estimate_the_rest_without_the_time_to_compile(tmp_path, clock, caplog):
    config = dcfs.get_config("digits")
    config.batch_size, config.log_every_seconds = 64, 1.0
    config.checkpoint.every_seconds = 3600.0
    with caplog.at_level("INFO", "jaxrobust"), open_run(parse(config), tmp_path) as run:
        saved = _begin(run, total=11)
        # A program is compiled in the first epoch, and another one in the third.
        for step, seconds, programs in ((1, 500, 1), (2, 530, 1), (3, 960, 2), (4, 990, 2)):
            clock[0] = float(seconds)
            run.programs.traces["epoch"] = programs
            run.epoch_done(saved, at=(step,), where=f"epoch {step}/11")
    assert caplog.messages == [
        "epoch 1/11 | 9 % of the run",
        "epoch 2/11 | 18 % of the run | 04:30 left",
        "epoch 3/11 | 27 % of the run | 04:00 left",
        "epoch 4/11 | 36 % of the run | 03:30 left",
    ]


def test_a_bar_shows_the_same_estimate(tmp_path, clock, capsys):
    shown = progress.Progress(
        11, 0, every_seconds=1.0, workdir=tmp_path, num_compiled=lambda: 1, bar=True
    )
    for step, seconds in ((1, 500.0), (2, 530.0)):
        clock[0] = seconds
        shown.show(step, f"epoch {step}/11")
        shown._bar.refresh()
    shown.close()
    lines = capsys.readouterr().err.split("\r")
    assert "epoch 2/11:  18 %" in lines[-3] and lines[-3].rstrip().endswith(", 04:30 left")


def test_a_bar_is_shown_before_networks_are_initialised(tmp_path, capsys):
    with open_run(parse(dcfs.get_config("digits")), tmp_path, bar=True):
        assert "compiling" in capsys.readouterr().err


def test_the_hours_on_a_cpu_are_said_before_the_first_step(monkeypatch):
    monkeypatch.setattr("jaxrobust.engine.advice.num_cores", lambda: 2)
    # 3 x .354 GFLOP x 800 images x 2 networks / 20 GFLOP/s = 85 s an epoch.
    student = (0.354, 800, 240)
    (said,) = expected_on_cpu({"student": student, "student_alone": student})
    assert "about 5.7 hours (student: 240 epochs of 800 images, 0.35 GFLOP an image; " in said
    assert "minutes: --config.num_epochs=7 '--config.optimizer.decay_epochs=(4,5,6)'" in said
    assert "about 39 minutes" in expected_on_cpu({"student": (0.0816, 800, 240)})[0]
    assert expected_on_cpu({"student": (0.354, 800, 7)}) == []
    # A teacher that is trained from nothing takes the most of the time.
    both = {"teacher": (2.2, 800, 240), "student": (0.0816, 800, 240)}
    (said,) = expected_on_cpu(both)
    assert "about 18.3 hours (teacher: 240" in said
    assert "--config.teacher.num_epochs=2 --config.num_epochs=2 " in said
    (said,) = expected_on_cpu(both, teacher="--config.teacher.backbone=efficientnet_lite0")
    assert "--config.teacher.backbone=efficientnet_lite0 --config.num_epochs=61 " in said


def test_a_slow_run_is_told_once(tmp_path, clock, caplog):
    config = dcfs.get_config("digits")
    config.batch_size, config.checkpoint.every_seconds = 64, 3600.0
    with caplog.at_level("WARNING", "jaxrobust"), open_run(parse(config), tmp_path) as run:
        saved = _begin(run, total=300)
        for step in (1, 2, 3):
            clock[0] = 60.0 * step
            run.epoch_done(saved, at=(step,), where="")
    cpu, temporary = caplog.messages
    assert "takes about 4:58:00 more" in cpu and "temporary folder" in temporary


@pytest.mark.parametrize(
    ("num_processes", "error", "waits"),
    [(1, ValueError, True), (2, ValueError, False), (2, UserError, True)],
)
def test_a_run_whose_other_process_is_gone_does_not_wait_for_its_checkpoint(
    tmp_path, monkeypatch, num_processes, error, waits
):
    with (
        pytest.raises(error, match="gone"),
        open_run(parse(dcfs.get_config("digits")), tmp_path) as run,
    ):
        run.begin("labels.json", {}, dtype=None)
        checkpoints = run._checkpoints
        closed = []
        monkeypatch.setattr(checkpoints, "close", lambda: closed.append(True))
        monkeypatch.setattr(run_module.jax, "process_count", lambda: num_processes)
        raise error("gone")
    assert closed == [True] * waits
    monkeypatch.undo()
    checkpoints.close()


def test_a_command_asks_xla_for_determinism_once(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    for _ in range(2):
        environment.ask_for_determinism()
    expected = "--xla_cpu_enable_fast_math=false --xla_gpu_deterministic_ops=true"
    assert os.environ["XLA_FLAGS"] == expected


def test_a_library_call_changes_no_environment_variable():
    before = dict(os.environ)
    config = dcfs.get_config("digits")
    config.deterministic = True
    environment.setup_jax(parse(config))
    assert dict(os.environ) == before


def test_each_python_keeps_compiled_programs_of_its_own():
    """From 3.14 on JAX compresses them otherwise, and warns of those of an older Python."""
    settings = {name: value for name, value in jax.config.values.items() if "cache" in name}
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        environment.setup_jax(parse(dcfs.get_config("digits")))
        folder = pathlib.Path(jax.config.values["jax_compilation_cache_dir"])
        assert folder.name == sys.implementation.cache_tag
    finally:
        for name in ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"):
            jax.config.update(name, settings[name])


def test_more_devices_than_there_are_are_refused():
    config = dcfs.get_config("digits")
    config.device_count = jax.device_count() + 1
    with pytest.raises(UserError, match="device_count=9 was asked for, but JAX has 8 cpu device"):
        environment.setup_jax(parse(config))


def test_a_run_uses_as_many_devices_as_it_was_told_and_says_when_their_number_changed(
    tmp_path, caplog
):
    config = dcfs.get_config("digits")
    for count in (2, 1):
        config.device_count = count
        with open_run(parse(config), tmp_path) as run:
            assert run.placement.num_devices == count
            _begin(run)
    starts = json.loads((tmp_path / "environment.json").read_text())["starts"]
    assert [start["device_count"] for start in starts] == [2, 1]
    (message,) = [r.getMessage() for r in caplog.records if "device(s)" in r.getMessage()]
    assert message.startswith("This run began on 2 device(s) and continues on 1")


def test_what_is_saved_is_the_position_and_all_that_belongs_to_it(tmp_path):
    config = dcfs.get_config("digits")
    config.batch_size = 64
    with open_run(parse(config), tmp_path) as run:
        saved = _begin(run)
        saved.networks = {"net": run.placement.put(np.arange(3.0, dtype=np.float32))}
        saved.arrays = {"scores": {"margin": np.float32([1, 2])}}
        saved.record["epochs"].append({"accuracy": 0.5})
        saved.at, saved.row, saved.sums = (2, 1), 5, {"loss": 1.5}
        run.save(saved)
    with open_run(parse(config), tmp_path) as run:
        found = Saved(
            networks={"net": run.placement.put(np.zeros(3, np.float32))},
            arrays={"scores": {"margin": np.zeros(2, np.float32)}},
        )
        run.begin("inputs.json", {}, dtype=None)
        run.restore(found, lambda at: at[0])
        assert run.is_resumed
    assert (found.at, found.row, found.sums) == ((2, 1), 5, {"loss": 1.5})
    assert found.record == {"epochs": [{"accuracy": 0.5}]}
    chex.assert_trees_all_equal(found.networks, saved.networks)
    chex.assert_trees_all_equal(found.arrays, saved.arrays)


def test_a_checkpoint_of_another_layout_is_refused_and_kept(tmp_path):
    config = dcfs.get_config("digits")
    config.batch_size = 64
    with open_run(parse(config), tmp_path) as run:
        _begin(run)
        run._checkpoints.save({"state": np.zeros(1)}, {"layout": LAYOUT - 1})
    before = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    with (
        pytest.raises(UserError, match=f"layout {LAYOUT - 1}.* this one reads layout {LAYOUT}: "),
        open_run(parse(config), tmp_path) as run,
    ):
        _begin(run)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == before


def test_a_run_outside_the_main_thread_leaves_signals_alone(tmp_path):
    config = dcfs.get_config("digits")
    before = signal.getsignal(signal.SIGTERM)

    def use():
        with open_run(parse(config), tmp_path / "run"):
            assert signal.getsignal(signal.SIGTERM) is before

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(use).result()
    assert not (tmp_path / "run").exists()


def test_the_environment_names_what_numbers_may_depend_on(monkeypatch):
    monkeypatch.setenv("JAX_SOMETHING", "1")
    monkeypatch.setenv("SECRET_TOKEN", "x")
    found = environment.environment("bfloat16")
    assert found["dtype"] == "bfloat16"
    assert found["variables"]["JAX_SOMETHING"] == "1" and "SECRET_TOKEN" not in found["variables"]
    assert {"jax", "jaxlib", "flax", "optax", "numpy"} <= found["versions"].keys()
    assert found.keys() >= {"started", "command", "devices", "commit", "python", "platform", "x64"}
