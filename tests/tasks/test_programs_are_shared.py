"""Runs that share their programs: each is what it is alone, and leaves nothing behind."""

import gc
import importlib
import weakref

import jax
import numpy as np
import pytest
from metric_files import events_of

from configs import active_learning_baselines, bldr, dpc
from jaxrobust.data.dataset import Dataset, Examples
from jaxrobust.data.features import feature_dataset
from jaxrobust.data.views import make_views, statistics_of
from jaxrobust.engine.programs import Programs
from jaxrobust.methods.noisy_label_method import NoisyLabelProblem
from jaxrobust.recipes.methods import NOISY_LABEL_METHODS
from jaxrobust.recipes.parse import parse
from jaxrobust.tasks import active_learning, noisy_label_programs, noisy_labels

pytestmark = pytest.mark.usefixtures("one_device", "tiny_network", "unrendered_figures")

RECIPES = {
    "noisy_labels": (noisy_labels, dpc, {"method": "cross_entropy", "num_epochs": 1}),
    "active_learning": (
        active_learning,
        active_learning_baselines,
        {"num_epochs": 1, "al.rounds": 2, "al.query_size": 5, "al.init_fraction": 0.3},
    ),
}


def _config(name, seed):
    config = RECIPES[name][1].get_config("digits")
    changes = {"model.name": "tiny", "batch_size": 16, "writers": ("jsonl",), "seed": seed}
    config.update_from_flattened_dict({**RECIPES[name][2], **changes})
    return config


def _dataset(seed):
    """Images whose brightness and constants of normalisation depend on the seed."""
    generator = np.random.default_rng(seed)

    def examples(count):
        images = generator.integers(0, 100 + 100 * seed, (count, 8, 8, 3), np.uint8)
        return Examples(images, np.arange(count, dtype=np.int32) % 4)

    mean, std = (0.2 + 0.2 * seed,) * 3, (0.1 + 0.05 * seed,) * 3
    return Dataset("toy", examples(80), examples(20), ("a", "b", "c", "d"), mean, std)


@pytest.mark.parametrize("name", RECIPES)
def test_every_run_equals_itself_alone_and_is_gone_before_the_next(name, tmp_path, monkeypatch):
    task = RECIPES[name][0]
    made, alive = [], []
    init = task._Learning.__init__

    def watched(learning, *args):
        gc.collect()
        alive.append([ref() is not None for ref in made])
        made.append(weakref.ref(learning))
        init(learning, *args)

    monkeypatch.setattr(task._Learning, "__init__", watched)
    programs = Programs()
    together = [
        task.run(parse(_config(name, seed)), tmp_path / f"{seed}", programs, dataset=_dataset(seed))
        for seed in (0, 1)
    ]
    assert alive == [[], [False]]
    alone = task.run(parse(_config(name, 1)), tmp_path / "alone", dataset=_dataset(1))
    assert together[1] == alone
    assert events_of(tmp_path / "1") == events_of(tmp_path / "alone") != events_of(tmp_path / "0")
    assert set(programs.traces.values()) == {1}


def test_another_recipe_is_refused_the_programs_of_the_first(tmp_path):
    programs, dataset = Programs(), _dataset(0)
    noisy_labels.run(
        parse(_config("noisy_labels", 0)), tmp_path / "first", programs, dataset=dataset
    )
    other = _config("noisy_labels", 0)
    other.augment.padding += 1
    with pytest.raises(RuntimeError, match="was compiled for other settings"):
        noisy_labels.run(parse(other), tmp_path / "second", programs, dataset=dataset)


def test_a_step_is_called_without_a_run():
    config, dataset = _config("noisy_labels", 0), _dataset(0)
    problem = NoisyLabelProblem(
        num_classes=4, num_examples=80, input_shape=(8, 8, 3), dtype="float32"
    )
    method = NOISY_LABEL_METHODS["cross_entropy"](parse(config), problem)
    views = make_views(parse(config).augment, (8, 8, 3), "float32")
    (stage,) = method.stages
    step = jax.jit(noisy_label_programs.training_step(stage, views))
    before = method.start(jax.random.key(0))
    after, measured = step(
        before,
        {"all": np.arange(16, dtype=np.int32)},
        jax.random.key(1),
        np.float32(0),
        {},
        dataset.train.images,
        dataset.train.labels,
        statistics_of(dataset.mean, dataset.std),
        {},
        {"learning_rate": np.float32(0.1), "num_steps": np.float32(5)},
    )
    assert np.isfinite(measured["loss"])
    changed = jax.tree.map(lambda a, b: np.any(a != b), before.params, after.params)
    assert all(jax.tree.leaves(changed))


@pytest.mark.parametrize("name", NOISY_LABEL_METHODS)
def test_the_registry_says_whose_states_have_a_row_for_each_example(name):
    if name == "bldr":
        config = bldr.get_config("features")
    else:
        config = dpc.get_config("features")
        config.method = name

    def shapes(count):
        problem = NoisyLabelProblem(4, count, (8,), "float32")
        method = NOISY_LABEL_METHODS[name](parse(config), problem)
        state = jax.eval_shape(method.start, jax.random.key(0))
        return [x.shape for x in jax.tree.leaves(state)]

    assert (shapes(40) != shapes(41)) == NOISY_LABEL_METHODS.entry(name).has_tables


NUMBERS = {
    "num_epochs": 2,
    "optimizer.learning_rate": 0.02,
    "optimizer.weight_decay": 0.01,
    "optimizer.momentum": 0.5,
}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpc", "bldr", "bual"])
def test_numbers_are_operands(method, tmp_path):
    """A run with programs of other numbers is, to the bit, what it is alone."""
    is_noisy = method in NOISY_LABEL_METHODS
    module = importlib.import_module(f"jaxrobust.recipes.{method}")
    task = noisy_labels if is_noisy else active_learning
    small = {"batch_size": 8, "num_epochs": 3, "writers": ("jsonl",), "checkpoint.keep": 1}
    small |= {"dpc.warm_up": 1, "dpc.lambda_u": 2.0} if method == "dpc" else {}
    small |= {"bldr.warm_up": 1} if method == "bldr" else {}
    small |= {} if is_noisy else {"al.rounds": 1, "al.init_fraction": 0.5, "al.query_size": 4}
    features = np.random.default_rng(0).normal(size=(48, 1, 6)).astype(np.float16)
    labels = np.arange(48, dtype=np.int32) % 4
    data = feature_dataset(features, labels, tuple("abcd"))

    def run(fields, name, programs=None):
        config = module.get_config("features")
        config.update_from_flattened_dict({**small, **fields})
        task.run(parse(config), tmp_path / name, programs, dataset=data)
        return events_of(tmp_path / name)

    programs = Programs()
    before = run({}, "before", programs)
    together = run(NUMBERS, "together", programs)
    assert together == run(NUMBERS, "alone") != before
    assert set(programs.traces.values()) == {1}
