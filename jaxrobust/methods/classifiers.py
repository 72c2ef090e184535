"""Trained classifiers on disk: the folder `classifier/` or `student/` of a run.

    from jaxrobust import load_classifier
    classifier = load_classifier("runs/dpc/classifier")
    classes = classifier.predict(images)

The files are those of `jaxrobust.models.storage`. A noisy-label or annotation run writes to
`classifier/` its recipe and the variables of all networks that predict. The classifier is rebuilt
with the run's method, so it predicts as the run did on its test images.
"""

import dataclasses
import functools
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.data.features import Embedding
from jaxrobust.data.image_inputs import as_images
from jaxrobust.data.inputs import as_features
from jaxrobust.data.scaling import Scaling
from jaxrobust.data.views import make_views, statistics_of
from jaxrobust.engine.plan import pad_rows, padded_size
from jaxrobust.errors import UserError
from jaxrobust.methods import noisy_label_method, strategy
from jaxrobust.models import storage
from jaxrobust.models.onnx_export import OnnxFile, random_inputs, save_onnx, write_onnx
from jaxrobust.recipes.fields import operands
from jaxrobust.recipes.methods import NOISY_LABEL_METHODS, STRATEGIES
from jaxrobust.recipes.parse import ImageRecipe, Recipe, parse
from jaxrobust.recipes.protocols import ActiveLearning, NoisyLabels

_LARGEST = float(np.finfo(np.float16).max)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Classifier:
    """A trained classifier of raw images or features.

    It can be pickled and saved with joblib.

    Attributes:
      classes: `[C]`, names, or values in the type of the labels.
      facts: the content of `model.json`.
      variables: NumPy arrays, as in `model.safetensors`.
    """

    classes: np.ndarray
    facts: Mapping[str, Any]
    variables: Mapping[str, Any]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(H, W, 3) of images, (D,) of features; () for images of any size."""
        name = "input_shape" if storage.is_of_run(self.facts) else "image_shape"
        return tuple(self.facts.get(name, ()))

    @property
    def origin(self) -> str:
        """Short description of method and network."""
        if not storage.is_of_run(self.facts):
            return self.facts["arch"]
        return f"{self.facts['method']}, {self.facts['config']['model']['name']}"

    @property
    def is_multilabel(self) -> bool:
        """Whether an image may have several labels."""
        return self.facts.get("decoder") is not None

    @property
    def embedding(self) -> Embedding | None:
        """The embedding of the training features, if known."""
        return Embedding(**self.facts["embedding"]) if self.facts.get("embedding") else None

    @property
    def scaling(self) -> Scaling | None:
        """The scaling of features that float16 cannot hold unscaled."""
        found = self.facts.get("scaling")
        if not found:
            return None
        mean, std = (np.array(found[name], np.float64) for name in ("mean", "std"))
        return Scaling(mean, np.where(np.isnan(std), np.inf, std))

    @property
    def _names(self) -> list[str]:
        return list(map(str, self.classes.tolist()))

    @functools.cached_property
    def _probs(self) -> Callable[[np.ndarray], jax.Array]:
        return _probabilities_of(self.facts, self.variables)

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.input_shape)) or "of any size"
        return f"Classifier({self.origin}, {len(self.classes)} classes, inputs {shape})"

    def predict_proba(self, inputs: Any, *, batch_size: int = 256) -> np.ndarray:
        """Probabilities float32 `[n, C]`.

        Args:
          inputs: images of `input_shape`, in a form accepted by `image_inputs.as_images`, or
            features `[n, D]` or `[n, V, D]`, of which the first view is used.
          batch_size: number of inputs on the device at a time.

        Raises:
          UserError: if the inputs are invalid or of another shape.
        """
        return in_batches(self._probs, self._raw(inputs), len(self.classes), batch_size)

    def predict(self, inputs: Any) -> np.ndarray:
        """The most probable classes `[n]` by name; {0, 1} `[n, C]` for multi-label classifiers."""
        probs = self.predict_proba(inputs)
        if self.is_multilabel:
            return (probs > 0.5).astype(np.uint8)
        return self.classes[probs.argmax(axis=1)]

    def _raw(self, inputs: Any) -> np.ndarray:
        if len(self.input_shape) == 1:
            array = as_features(inputs, "inputs", is_wide=self.scaling is not None)
            array = array[:, None] if array.ndim == 2 else array
            shape = array.shape[2:]
        else:
            array = as_images(inputs, "inputs", is_batch=True)
            shape = array.shape[1:]
        if self.input_shape and shape != tuple(self.input_shape):
            raise UserError(
                f"inputs are of shape {list(shape)}, but this classifier was trained on "
                f"{list(self.input_shape)}; give inputs of that shape."
            )
        if len(self.input_shape) != 1:
            return array
        array = array if self.scaling is None else self.scaling(array)
        return np.clip(array, -_LARGEST, _LARGEST).astype(np.float16)  # as in training

    def save(self, folder: str | os.PathLike) -> None:
        """Writes `model.json` and `model.safetensors` for `jaxrobust.load_classifier`.

        Args:
          folder: created if necessary; an existing classifier in it is replaced.
        """
        facts = {**self.facts, "class_names": self._names, "class_values": None}
        if self.classes.dtype.kind in "iubf":
            values = {"dtype": self.classes.dtype.name, "values": self.classes.tolist()}
            facts["class_values"] = values
        storage.write_folder(pathlib.Path(folder).expanduser(), self.variables, facts)

    def export_onnx(
        self, path: str | os.PathLike, *, probabilities: bool = True, int8: bool = False
    ) -> OnnxFile:
        """Writes an ONNX file, after comparing its outputs in onnxruntime with the classifier's.

        Its input is `images`, raw uint8 `[n, H, W, 3]`, or `features`, float32 `[n, D]`; its output
        is `probabilities`, float32 `[n, C]`.

        Args:
          path: path of the file.
          probabilities: False for `logits`, which are available for a student; a run's classifier
            has only probabilities.
          int8: whether to store weights in 8 bits, as with `jaxrobust export --int8`.

        Returns:
          `OnnxFile`.

        Raises:
          UserError: if onnx or onnxruntime is missing, the classifier cannot be written, or the
            outputs differ.
        """
        path = pathlib.Path(path).expanduser()
        if not storage.is_of_run(self.facts):
            stored = storage.classifier_of(self.facts, self.variables)
            return save_onnx(stored, path, probabilities=probabilities, int8=int8)
        if not probabilities:
            raise UserError(
                "A classifier of several networks has probabilities but no logits; leave out "
                "probabilities=False."
            )
        is_images = len(self.input_shape) > 1
        return write_onnx(
            _function_of_raw(self.facts, self.scaling),
            self.variables,
            random_inputs(self.input_shape, np.uint8 if is_images else np.float32, self.scaling),
            path,
            names=("images" if is_images else "features", "probabilities"),
            metadata={"origin": self.origin, "class_names": json.dumps(self._names)},
            what=f"this classifier of {self.origin}",
            int8=int8,
        )


def in_batches(
    predict: Callable[[np.ndarray], jax.Array],
    inputs: np.ndarray,
    num_classes: int,
    batch_size: int = 256,
) -> np.ndarray:
    """Probabilities float32 `[n, C]`, computed from batches of one size, which compile once."""
    found = np.empty((len(inputs), num_classes), np.float32)
    for start in range(0, len(inputs), batch_size):
        part = inputs[start : start + batch_size]
        found[start : start + len(part)] = predict(pad_rows(part, batch_size))[: len(part)]
    return found


def classifier_of_run(
    *,
    recipe: Recipe,
    networks: Mapping[str, Any],
    class_names: Sequence[str],
    num_examples: int,
    input_shape: Sequence[int],
    mean: Sequence[float] | np.ndarray,
    std: Sequence[float] | np.ndarray,
    embedding: Embedding | None = None,
    scaling: Scaling | None = None,
) -> Classifier:
    """The classifier of a run.

    `networks` are the variables of every network of the predictions by name; `input_shape` is
    (H, W, 3) of an image, or (D,) of features.
    """
    facts = {
        "task": recipe.task,
        "method": recipe.method,
        "class_names": list(class_names),
        "num_examples": num_examples,
        "input_shape": list(map(int, input_shape)),
        "mean": np.asarray(mean, float).tolist(),
        "std": np.asarray(std, float).tolist(),
        "embedding": embedding and embedding._asdict(),
        "config": dict(recipe.settings),
    }
    if scaling is not None:  # JSON has no infinite numbers
        deviations = [x if math.isfinite(x) else None for x in scaling.std.tolist()]
        facts["scaling"] = {"mean": scaling.mean.tolist(), "std": deviations}
    return Classifier(np.array(class_names), facts, networks)


def load_classifier(folder: str | os.PathLike) -> Classifier:
    """Reads the classifier of a run.

    Args:
      folder: `classifier/` of a noisy-label or annotation run, `student/` or `teacher/` of a
        distillation run, the workdir of the run, or a folder written by `jaxrobust.models.convert`.

    Returns:
      `Classifier`.

    Raises:
      UserError: if there is no classifier, or one of its files is damaged.

    Examples:
      >>> classifier = load_classifier("runs/dpc")
      >>> names = classifier.predict(images)
    """
    folder = resolve(folder)
    facts = storage.read_facts(folder)
    found = _of_run(folder, facts) if storage.is_of_run(facts) else _of_storage(folder)
    if not facts.get("class_values"):
        return found
    classes = np.array(facts["class_values"]["values"], facts["class_values"]["dtype"])
    return dataclasses.replace(found, classes=classes)


def resolve(folder: str | os.PathLike) -> pathlib.Path:
    """The folder of a classifier, given by its path or by the workdir of its run.

    Raises:
      UserError: if there is none.
    """
    folder = pathlib.Path(folder).expanduser()
    for name in ("classifier", "student"):
        if (folder / name).is_dir() and not storage.holds_classifier(folder):
            folder = folder / name
    if not storage.holds_classifier(folder):
        raise UserError(
            f"{folder} holds no classifier; name the folder classifier/ or student/ of a finished "
            "run."
        )
    return folder


def _of_storage(folder: pathlib.Path) -> Classifier:
    stored = storage.load_classifier(folder)
    names = stored.class_names or tuple(map(str, range(stored.num_classes)))
    return Classifier(np.array(names), storage.facts_of(stored), stored.variables)


def _of_run(folder: pathlib.Path, facts: Mapping[str, Any]) -> Classifier:
    variables = storage.read_variables(folder, facts)
    try:
        classifier = Classifier(np.array(facts["class_names"]), facts, variables)
        _forward_of(facts)
        statistics_of(facts["mean"], facts["std"])
        repr((classifier, classifier.embedding, classifier.scaling))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} holds no classifier that can be read ({error}).") from None
    return classifier


def _probabilities_of(facts: Mapping[str, Any], variables: Mapping[str, Any]) -> Callable:
    """`raw inputs -> probabilities [n, C]`, compiled."""
    if not storage.is_of_run(facts):
        stored = storage.classifier_of(facts, variables)
        link = jax.nn.softmax if stored.decoder is None else jax.nn.sigmoid
        return jax.jit(lambda images: link(stored.logits(images)))
    kept = ("task", "num_examples", "input_shape", "config")
    spec = {**{name: facts[name] for name in kept}, "class_names": len(facts["class_names"])}
    # Predictions depend neither on the seed nor on numbers of the training.
    spec["config"] = _without_operands(spec["config"])
    spec["num_examples"] = padded_size(spec["num_examples"])
    compiled = _compiled(json.dumps(spec, sort_keys=True))
    placed, statistics = jax.device_put(variables), statistics_of(facts["mean"], facts["std"])
    return lambda raw: compiled(placed, statistics, raw)


def _without_operands(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = json.loads(json.dumps({**config, "seed": 0}))
    for name in operands(parse(kept)):
        section, _, field = name.rpartition(".")
        (kept[section] if section else kept).pop(field, None)
    return kept


@functools.lru_cache(maxsize=32)
def _compiled(spec: str) -> Callable:
    """`(variables by network, statistics, raw) -> probabilities`, for classifiers of one spec."""
    facts = json.loads(spec)
    facts["class_names"] = range(facts["class_names"])
    return jax.jit(_function_of(facts))


def _function_of(facts: Mapping[str, Any]) -> Callable:
    """`(variables by network, statistics, raw inputs) -> probabilities [n, C]`."""
    recipe, forward = _forward_of(facts)
    views = make_views(recipe.augment, tuple(facts["input_shape"]), jnp.float32)
    key = jax.random.key(0)  # not used by test views
    return lambda networks, statistics, raw: forward(networks, views("test", key, raw, statistics))


def _function_of_raw(facts: Mapping[str, Any], scaling: Scaling | None) -> Callable:
    """`(variables, images uint8 or features float32 [n, D]) -> probabilities`, to be exported."""
    function = _function_of(facts)
    statistics = statistics_of(facts["mean"], facts["std"])

    def of_features(variables, features):
        if scaling is not None:  # float64 as two float32
            high = scaling.mean[None].astype(np.float32)
            low = (scaling.mean[None] - high).astype(np.float32)
            features = ((features - high) - low) / scaling.std[None].astype(np.float32)
        features = jnp.clip(features, -_LARGEST, _LARGEST)
        return function(variables, statistics, features.astype(jnp.float16)[:, None])

    if len(facts["input_shape"]) == 1:
        return of_features
    return lambda variables, images: function(variables, statistics, images)


def _forward_of(facts: Mapping[str, Any]) -> tuple[ImageRecipe, Callable]:
    recipe = cast(ImageRecipe, parse(facts["config"]))
    make = {"noisy_labels": _noisy_labels, "active_learning": _active_learning}[facts["task"]]
    return recipe, make(recipe, facts)


def _noisy_labels(recipe: NoisyLabels, facts: Mapping) -> Callable:
    """`(variables by network, views) -> probabilities`, combined over all predictors."""
    problem = noisy_label_method.NoisyLabelProblem(
        num_classes=len(facts["class_names"]),
        num_examples=facts["num_examples"],
        input_shape=tuple(facts["input_shape"]),
        dtype=jnp.float32,
    )
    method = NOISY_LABEL_METHODS[recipe.method](recipe, problem)

    def forward(networks, views):
        logits = [method.forward(networks[name], views) for name in method.networks]
        stacked = jnp.moveaxis(logits[0], 1, 0) if method.heads else jnp.stack(logits)
        return method.class_probs(stacked)

    return forward


def _active_learning(recipe: ActiveLearning, facts: Mapping) -> Callable:
    """`(variables by network, views) -> probabilities` of the target classifier."""
    problem = strategy.AnnotationProblem(
        num_classes=len(facts["class_names"]),
        input_shape=tuple(facts["input_shape"]),
        dtype=jnp.float32,
        budget=recipe.al.query_size,
    )
    chosen = STRATEGIES[recipe.method](recipe, problem)
    (target,) = [phase for phase in chosen.phases if phase.name == chosen.target]
    return lambda networks, views: target.class_probs(target.forward(networks["target"], views))
