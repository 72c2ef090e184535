import json
import os
import signal

import jax
import pytest

from configs import active_learning_baselines
from jaxrobust import tasks
from jaxrobust.engine import sharding, signals
from jaxrobust.engine.sharding import make_placement
from jaxrobust.engine.signals import Interrupted
from jaxrobust.errors import UserError
from jaxrobust.report import compare
from jaxrobust.tasks import seeds

pytestmark = pytest.mark.usefixtures("one_device", "tiny_network")


def _config(**changes):
    config = active_learning_baselines.get_config("digits")
    changes = {"num_epochs": 2, "al.rounds": 2, "device": "cpu", "writers": ("jsonl",), **changes}
    config.update_from_flattened_dict({**changes, "model.name": "tiny", "dataset.max_train": 300})
    return config


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory, one_device, tiny_network):
    """Workdir and results of two seeds."""
    workdir = tmp_path_factory.mktemp("seeds") / "two"
    return workdir, tasks.run(_config(num_seeds=2), workdir)


def test_each_seed_is_the_seed_run_alone(two_seeds, tmp_path):
    workdir, _ = two_seeds
    alone = tasks.run(_config(seed=1), tmp_path)
    assert json.loads((workdir / "seed_1/results.json").read_text()) == alone
    assert (workdir / "seed_1/config.json").read_text() == (tmp_path / "config.json").read_text()


def test_the_seeds_share_their_programs(two_seeds):
    _, results = two_seeds
    assert results["traces"]["target/epoch"] == 1
    assert set(results["traces"].values()) == {1}


def test_mean_and_deviation(two_seeds):
    workdir, results = two_seeds
    a, b = (json.loads((workdir / f"seed_{s}/results.json").read_text()) for s in (0, 1))
    a, b = a["last"]["accuracy"], b["last"]["accuracy"]
    assert results["seeds"] == [0, 1]
    assert results["mean"]["last accuracy"] == pytest.approx((a + b) / 2)
    assert results["std"]["last accuracy"] == pytest.approx(abs(a - b) / 2**0.5)
    assert json.loads((workdir / "results.json").read_text()) == results
    assert (workdir / "figures/curves.png").stat().st_size > 10_000


def test_finished_seeds_are_kept_and_further_ones_are_added(two_seeds, monkeypatch):
    workdir, before = two_seeds
    started = []
    monkeypatch.setitem(
        tasks.TASKS,
        "active_learning",
        lambda config, folder, *_, **__: started.append(folder.name) or _copy(workdir, config.seed),
    )
    after = tasks.run(_config(num_seeds=3), workdir)
    assert started == ["seed_2"]
    assert after["seeds"] == [0, 1, 2]
    (workdir / "results.json").write_text(json.dumps(before))


def _copy(workdir, seed):
    return {**json.loads((workdir / "seed_0/results.json").read_text()), "seed": seed}


def test_another_recipe_in_the_same_folder_is_refused(two_seeds):
    with pytest.raises(UserError, match="num_epochs=2, but this command says num_epochs=1"):
        tasks.run(_config(num_seeds=2, num_epochs=1), two_seeds[0])


def test_a_folder_of_several_seeds_is_compared_seed_by_seed(two_seeds):
    groups = compare.group([two_seeds[0]], "method")
    assert [r["seed"] for r in groups["random"]] == [0, 1]


def test_several_devices_take_a_seed_each_and_are_stopped_together(
    two_seeds, tmp_path, monkeypatch, watched_programs
):
    workdir, _ = two_seeds
    two_devices = make_placement(jax.devices()[2:4])
    monkeypatch.setattr(sharding, "make_placement", lambda **_: two_devices)
    made = []

    def programs(placement):
        made.append(watched_programs(placement))
        made[-1].after = "target/epoch", 2, lambda: os.kill(os.getpid(), signal.SIGTERM)
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr(seeds, "Programs", programs)
        patch.setattr(signals.Stop, "__call__", _once)
        with pytest.raises(Interrupted):
            tasks.run(_config(num_seeds=3), tmp_path)
    assert [p.placement.mesh.devices.item() for p in made] == jax.devices()[2:4]
    assert not list(tmp_path.glob("seed_*/results.json"))
    results = tasks.run(_config(num_seeds=3), tmp_path)
    assert set(results["traces"].values()) == {1}  # by each device
    starts = [json.loads(path.read_text()) for path in tmp_path.glob("seed_*/environment.json")]
    assert sum(len(start["starts"]) for start in starts) > 3
    for seed in (0, 1):
        alone, beside = (
            (folder / f"seed_{seed}/results.json").read_text() for folder in (workdir, tmp_path)
        )
        assert alone == beside
    assert results["seeds"] == [0, 1, 2]


def _once(stop, signum, frame):
    """Both devices' programs send the signal, which twice would mean to leave at once."""
    stop.signum = signum


def test_a_person_cannot_answer_several_seeds(tmp_path):
    with pytest.raises(UserError, match=r"set config.num_seeds=1"):
        tasks.run(_config(num_seeds=2, oracle="csv"), tmp_path)


def test_no_seed_at_all_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"num_seeds=0 must be a number in \[1, inf\)"):
        tasks.run(_config(num_seeds=0), tmp_path)
