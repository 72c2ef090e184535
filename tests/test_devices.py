"""On eight devices every method's training steps give the numbers of one device, to rounding."""

import functools

import chex
import jax
import numpy as np
import pytest

from configs import bldr, bual, dcfs, dhkd, dpc, kd_baselines, l2d
from jaxrobust import models
from jaxrobust.engine import rng, run, sharding
from jaxrobust.engine.plan import place_plan
from jaxrobust.engine.sharding import fetch, make_placement
from jaxrobust.recipes.parse import parse
from jaxrobust.tasks import active_learning, distillation, noisy_labels
from jaxrobust.tasks.common import load
from jaxrobust.tasks.reviewed_labels import reviewed_data

pytestmark = pytest.mark.usefixtures("tiny_network", "tiny_backbones")

BATCH = 10  # is split into parts of 2 on eight devices, the last ones of padding alone


def _noisy_labels(config, run_):
    dataset = load(config)
    dataset, reviewed = reviewed_data(config, dataset)
    task, labels = noisy_labels._Learning(config, run_, dataset, reviewed), reviewed.labels
    task._write_noise()
    task._restore()
    run_.start_progress(task.saved, total=1)
    half = np.arange(len(labels)) % 2 / 2 + 0.25
    scores = task.label_scores
    scores |= {n: half.astype(np.float32) for n in scores if "clean_prob" in n}
    task._train(0)
    return task


def _active_learning(config, run_):
    dataset = load(config)
    task = active_learning._with_truth(config, run_, dataset)
    task._begin()
    for phase in task.strategy.phases:
        name = phase.name
        task.saved.networks[name], sums = task.phases.programs[name].epoch(
            task.saved.networks[name],
            place_plan(
                np.arange(25),
                phase.batch_size,
                run_.placement,
                capacity=len(task.annotations),
                last_batch=config.last_batch,
            ),
            rng.stream(0, name),
            task.phases.images,
            task.saved.arrays["annotations"],
            task.phases.statistics,
            {k: np.float32(v) for k, v in phase.scalars(0).items()},
        )
        run_.write({"step": 1, "phase": name}, sums)
    return task


def _distillation(config, run_):
    task = distillation._Distillation(config, run_, distillation.read_inputs(config))
    task._write_inputs()
    task._restore()
    run_.start_progress(task.saved, total=1)
    task._train("student", 0)
    if task.protocol.diagnoses:
        task._diagnose_epoch(0)
    return task


@pytest.fixture(autouse=True)
def two_stages(monkeypatch):
    """`model.name="two_stages"`, so that BLDR has an exit."""
    network = functools.partial(models.ResNet, stage_sizes=(1, 1), widths=(4, 4))
    monkeypatch.setitem(models.NETWORKS, "two_stages", network)


ANNOTATION = {"model.name": "tiny", "al.init_fraction": 0.3, "al.query_size": 5, "al.rounds": 2}
TEACHER = {"teacher.name": "tiny8", "student.name": "tiny4"}
METHODS = {
    "dpc": (_noisy_labels, dpc, {"dpc.warm_up": 0, "model.name": "tiny"}),
    "bldr": (_noisy_labels, bldr, {"bldr.warm_up": 0, "model.name": "two_stages"}),
    "dcfs": (_active_learning, dcfs, ANNOTATION),
    "bual": (_active_learning, bual, {**ANNOTATION, "bual.aux_batch_size": BATCH}),
    "dhkd": (_distillation, dhkd, {**TEACHER, "num_diagnosed": 40}),
    "crd": (_distillation, kd_baselines, {**TEACHER, "method": "crd", "crd.num_negatives": 20}),
    "l2d": (_distillation, l2d, {**TEACHER, "decoder.width": 8, "decoder.hidden": 8}),
}


def _without_noise(tree):
    """Without the biases of attention keys, `[8:16]`, whose gradient is 0, but for Adam no less."""

    return jax.tree.map(lambda x: np.delete(x, slice(8, 16)) if x.shape == (24,) else x, tree)


def _train(method, devices, workdir, monkeypatch, **more):
    """Networks after the steps of `method` on these devices, and the metrics of the steps."""
    train, recipe, changes = METHODS[method]
    config = recipe.get_config("digits")
    config.update_from_flattened_dict(
        {
            "writers": (),
            "dataset.max_train": 60,
            "dataset.max_test": 20,
            "batch_size": BATCH,
            "optimizer.learning_rate": 0.01,
            **changes,
            **more,
        }
    )
    monkeypatch.setattr(sharding, "make_placement", lambda **_: make_placement(devices))
    parsed = parse(config)
    with run.open_run(parsed, workdir) as run_:
        task = train(parsed, run_)
        return fetch(task.saved.networks), [fetch(values) for _, values, _ in run_._pending]


@pytest.mark.parametrize("method", METHODS)
def test_eight_devices_give_the_numbers_of_one(method, tmp_path, monkeypatch):
    one, eight = (
        _without_noise(_train(method, devices, tmp_path / str(len(devices)), monkeypatch))
        for devices in (jax.devices()[:1], jax.devices())
    )
    chex.assert_tree_all_finite(one[1])
    chex.assert_trees_all_close(one, eight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=[pytest.mark.stress] * (m != "dpc")) for m in METHODS]
)
def test_every_device_may_normalise_its_own_images(method, tmp_path, monkeypatch):
    sizes = (
        {"batch_size": 16, "bual.aux_batch_size": 16} if method == "bual" else {"batch_size": 16}
    )
    found = [
        _train(method, jax.devices()[:2], tmp_path / kind, monkeypatch, batch_norm=kind, **sizes)
        for kind in ("global", "per_device")
    ]
    for networks, sums in found:
        assert all(np.isfinite(x).all() for x in jax.tree.leaves((networks, sums)))
    assert found[0][1][0]["loss"] != found[1][1][0]["loss"]
