"""Data sets, recipes and compiled programs for arrays: shared by the public functions on arrays."""

import collections
import contextlib
import importlib
import logging
import math
import signal
import threading
from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast

import jax
import ml_collections
import numpy as np

from jaxrobust import recipes
from jaxrobust.data.dataset import Dataset, Examples, with_own_statistics
from jaxrobust.data.features import FEATURES, FeatureDataset, feature_dataset
from jaxrobust.data.image_inputs import as_images
from jaxrobust.data.inputs import as_features
from jaxrobust.data.views import statistics_of
from jaxrobust.engine.environment import setup_jax
from jaxrobust.engine.programs import FAST_COMPILE, Programs
from jaxrobust.engine.sharding import make_placement
from jaxrobust.engine.signals import Interrupted
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.models import embedding
from jaxrobust.recipes.methods import NOISY_LABEL_METHODS
from jaxrobust.recipes.parse import Recipe, parse
from jaxrobust.recipes.protocols import NoisyLabels
from jaxrobust.tasks.common import program_settings

NUM_KEPT = 96  # compiled programs, beyond which those of the problems used last are kept
_SMALL_IMAGE = 16  # pixels, below which the networks for digits are used
_USUAL_SIZE = 4000  # number of examples that recipes are made for
_MOST_TIMES = 4  # most by which epochs are multiplied for smaller sets
_DIVIDING = ("dpc", "dividemix")  # methods that divide the examples
_LARGE_BATCHES_FROM, _DIVIDED_BATCH = 1500, 128  # of these methods
_BLDR_BATCH = 64  # the smallest
_USUAL_WIDTH = 64  # features from which on the recipes' learning rate is large enough
_WIDTH_OF_PHOTOGRAPHS = 1280  # of the features that DPC's recipe was made on

_programs: collections.OrderedDict[Any, Programs] = collections.OrderedDict()
_lock = threading.RLock()


def check_inputs(**inputs: Any) -> tuple[str, np.ndarray]:
    """The single input given, checked: `features` `[N, V, D]`, or `images` uint8 `[N, H, W, 3]`."""
    given = [name for name, value in inputs.items() if value is not None]
    if len(given) != 1:
        *first, last = (f"{name}=" for name in inputs)
        names = " or ".join([", ".join(first), last])
        what = "none is given" if not given else "several are given"
        raise UserError(f"Give one of {names}; {what}.")
    (name,) = given
    if name == "images":
        return name, as_images(inputs[name])
    array = as_features(inputs[name], is_wide=True)
    return name, array[:, None] if array.ndim == 2 else array


def embed_photographs(
    name: str, inputs: np.ndarray, config: Any, *, progress: bool
) -> tuple[str, np.ndarray]:
    """Embeds photographs, as the recipes' variant `image_folder` does; other inputs are returned.

    Photographs are embedded only if the extra `pretrained` is installed and no recipe, which may
    need pixels, is given. Returns the name, `"features"` or `"images"`, and the inputs.
    """
    has_recipe = isinstance(config, ml_collections.ConfigDict | str)
    is_small = max(inputs.shape[1:3]) < _SMALL_IMAGE
    if name == FEATURES or has_recipe or is_small or not recipes.has_pretrained():
        return name, inputs
    return FEATURES, embedding.embed(inputs, views=2, progress=progress).array


def make_dataset(
    name: str,
    inputs: np.ndarray,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    probs: np.ndarray | None = None,
) -> Dataset | FeatureDataset:
    """Features `[N, V, D]`, scaled, or images in memory as a data set without a test part.

    Labels are int32 `[N]`, -1 where there is none; of soft ones `probs` are float32 `[N, C]`.
    """
    if name == FEATURES:
        return feature_dataset(inputs, labels, class_names, probs)
    everything = Examples(inputs, labels, probs=probs)
    train, unlabeled = (everything.take(np.flatnonzero(w)) for w in (labels >= 0, labels < 0))
    nothing = train.take(np.arange(0))
    return with_own_statistics(
        "images", train, nothing, class_names, unlabeled if len(unlabeled) else None
    )


def make_config(
    recipe: str,
    inputs: np.ndarray,
    config: Any,
    *,
    method: str | None,
    default: str,
    seed: int,
) -> ml_collections.ConfigDict:
    """The recipe for arrays in memory, for `parse`.

    `config` is a recipe; the name of one, as on the command line; fields, by dotted name, to set in
    the method's recipe; or None. `method` None is that of a given recipe, else `default`.
    """
    changes: Mapping[str, Any] = {}
    if isinstance(config, str):
        try:
            found = recipes.read(config)
        except UserError as error:
            raise UserError(str(error).replace("--config", "config")) from None
    elif isinstance(config, ml_collections.ConfigDict):
        found = config.copy_and_resolve_references()
    elif config is None or isinstance(config, Mapping):
        changes = config or {}
        module = importlib.import_module(f"jaxrobust.recipes.{recipe}")
        found = module.get_config(_variant(inputs, module.VARIANTS))
        found.method = method or default
    else:
        raise UserError(
            "config must be a recipe, the name of one, or a dictionary of fields such as "
            f"{{'num_epochs': 5}}, not {type(config).__name__}."
        )
    with found.unlocked():
        if method is not None:
            found.method = method
        found.seed, found.num_seeds = seed, 1
        found.writers = ()
        set_fields(found, changes)
    return found


def noisy_label_recipe(
    inputs: np.ndarray, config: Any, *, method: str | None, seed: int
) -> NoisyLabels:
    """The recipe for given labels, without added noise; arguments as in `make_config`."""
    if method is not None and method not in NOISY_LABEL_METHODS:
        raise UserError(unknown_name("method", method, NOISY_LABEL_METHODS))
    recipe = "bldr" if method == "bldr" else "dpc"
    found = make_config(recipe, inputs, config, method=method, default="dpc", seed=seed)
    found.noise.kind = "none"
    found.flag_by = "count" if found.flag_by == "auto" else found.flag_by
    if not isinstance(config, ml_collections.ConfigDict | str):
        fit_to_size(found, inputs, config or {})
    return cast(NoisyLabels, parse(found))


def fit_to_size(
    config: ml_collections.ConfigDict, inputs: np.ndarray, given: Collection[str]
) -> None:
    """Sets batches and, for features, epochs and learning rate by size, except in `given` fields.

    Recipes are made for thousands of examples. On features up to about 1,500 DPC gets eight steps
    per epoch in batches of at most 128; with more steps it memorises wrong labels, with fewer it
    learns nothing from 100 examples. The other methods need more steps: all numbers of epochs are
    multiplied by the same factor, or none if `num_epochs` is given, since a longer warm-up could
    fill it. Recipes for images have enough epochs.

    The squared length of D standardised features is D, and so is the speed at which a linear head
    learns: below 64 features the learning rate is multiplied by 64 / D, and the weight decay
    divided by it, so that the heads reach the logits they would reach on 64. The few steps of DPC
    on up to 1,500 examples need a factor of (1,280 / D)^(1/2) if that is larger.
    """
    num_examples, is_features = len(inputs), inputs.ndim == 3
    sizes: dict[str, Any] = {"batch_size": batch_size_for(num_examples, config.batch_size)}
    if is_features:
        narrow = max(_USUAL_WIDTH / inputs.shape[-1], 1.0)
        if config.method in _DIVIDING and num_examples < _LARGE_BATCHES_FROM:
            narrow = max(narrow, (_WIDTH_OF_PHOTOGRAPHS / inputs.shape[-1]) ** 0.5)
        sizes["optimizer.learning_rate"] = config.optimizer.learning_rate * narrow
        sizes["optimizer.weight_decay"] = config.optimizer.weight_decay / narrow
    if is_features and config.method in _DIVIDING:
        most = config.batch_size if num_examples >= _LARGE_BATCHES_FROM else _DIVIDED_BATCH
        sizes["batch_size"] = min(max(num_examples // 8, 8), most, num_examples)
    elif is_features:
        if config.method == "bldr":
            sizes["batch_size"] = min(max(sizes["batch_size"], _BLDR_BATCH), num_examples)
        times = min(math.ceil((_USUAL_SIZE / num_examples) ** 0.5), _MOST_TIMES)
        times = 1 if "num_epochs" in given else times
        sizes["num_epochs"] = times * config.num_epochs
        if config.method == "bldr":
            sizes["bldr.warm_up"] = times * config.bldr.warm_up
    set_fields(config, {name: size for name, size in sizes.items() if name not in given})


def _variant(inputs: np.ndarray, variants: Collection[str]) -> str:
    if inputs.ndim == 3:
        return FEATURES
    if max(inputs.shape[1:3]) < _SMALL_IMAGE:
        return "digits"
    return next(name for name in ("image_folder_pixels", "image_folder") if name in variants)


def set_fields(config: ml_collections.ConfigDict, changes: Mapping[str, Any]) -> None:
    """Sets fields by dotted name; the task refuses an unknown field."""
    for name, value in changes.items():
        section, _, field = name.rpartition(".")
        part = config.get(section) if section else config
        if not isinstance(part, ml_collections.ConfigDict):
            raise UserError(f"The recipe has no section {section!r} for config {name!r}.")
        before = part.get(field)
        value = value.item() if isinstance(value, np.generic) else value
        try:
            part[field] = type(before)(value) if isinstance(before, float) else value
        except (TypeError, ValueError) as error:
            raise UserError(f"config={{{name!r}: {value!r}}} cannot be used ({error}).") from None


def batch_size_for(num_examples: int, largest: int) -> int:
    """A power of two, from 4 to `largest`, with at least 12 steps per epoch if possible."""
    size = 4
    while 2 * size <= min(largest, num_examples // 12):
        size *= 2
    return min(size, largest, num_examples)


def shapes_of(dataset: Dataset | FeatureDataset) -> tuple[Any, ...]:
    """The shapes of a data set's statistics, which programs also depend on."""
    statistics = statistics_of(dataset.mean, dataset.std)
    return tuple(np.shape(statistics[name]) for name in ("mean", "std"))


@contextlib.contextmanager
def _called_from_python() -> Iterator[None]:
    """Logs only errors unless a level was set; passes on Ctrl-C and SIGTERM to the caller."""
    log = logging.getLogger("jaxrobust")
    level = log.level
    if level == logging.NOTSET:
        log.setLevel(logging.ERROR)
    stopped = None
    try:
        yield
    except Interrupted as stop:  # files are saved, and the caller's handlers are restored
        stopped = stop
    finally:
        log.setLevel(level)
    if stopped is not None:
        signal.raise_signal(stopped.signum)
        raise KeyboardInterrupt


@contextlib.contextmanager
def programs_for(recipe: Recipe, *key: Any, is_quick: bool = False) -> Iterator[Programs]:
    """The compiled programs of a recipe for data of some shapes, from an earlier call if possible.

    Calls exclude each other, since two that trace a program at once would trace it twice. During a
    call, only errors are logged unless a level was set; Ctrl-C and SIGTERM reach the caller
    afterwards. `key` holds the other quantities that the programs depend on: shapes and number of
    classes. `is_quick` compiles with few optimisations, for data so small that compiling dominates
    the time.
    """
    with _lock, _called_from_python():
        setup_jax(recipe)
        # Networks on features are too small for several devices.
        device = jax.local_devices()[0] if recipe.dataset.name == FEATURES else None
        full_key = (program_settings(recipe), device, recipe.device_count, is_quick, *key)
        programs = _programs.pop(full_key, None)
        if programs is None:
            options = FAST_COMPILE if is_quick else None
            placement = make_placement([device]) if device else None
            programs = Programs(placement, compiler_options=options)
        for name in programs.traces:  # counted anew, since jax.clear_caches() may be between calls
            programs.traces[name] = 0
        yield programs
        _programs[full_key] = programs  # not after an error, which may leave some unfinished
        while (
            len(_programs) > 1 and sum(len(each.traces) for each in _programs.values()) > NUM_KEPT
        ):
            _programs.popitem(last=False)
