"""Trained classifiers on disk: the folder `classifier/` or `student/` of a run.

    from jaxrobust import load_classifier
    classifier = load_classifier("runs/dpc/classifier")
    classes = classifier.predict(images)

The files are those of `jaxrobust.models.storage`. A run of noisy labels or annotation writes, in
`classifier/`, the variables of all networks of its predictions and its recipe: the classifier is
rebuilt by the run's method, so it predicts as the run did on its test images.
"""

import dataclasses
import functools
import json
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
from jaxrobust.data.views import make_views, statistics_of
from jaxrobust.errors import UserError
from jaxrobust.methods import noisy_label_method, strategy
from jaxrobust.models import storage
from jaxrobust.recipes.methods import NOISY_LABEL_METHODS, STRATEGIES
from jaxrobust.recipes.parse import ImageRecipe, Recipe, parse
from jaxrobust.recipes.protocols import ActiveLearning, NoisyLabels


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Classifier:
    """A trained classifier of raw images or features.

    Attributes:
      classes: names `[C]`.
      input_shape: (H, W, 3) of images, (D,) of features; () for images of any size.
      origin: short description of method and network.
      is_multilabel: whether an image may have several labels.
      embedding: of the features that it was trained on, if known.
    """

    classes: np.ndarray
    input_shape: tuple[int, ...]
    origin: str
    is_multilabel: bool
    _probs: Callable[[np.ndarray], jax.Array]
    embedding: Embedding | None = None

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.input_shape)) or "of any size"
        return f"Classifier({self.origin}, {len(self.classes)} classes, inputs {shape})"

    def predict_proba(self, inputs: Any, *, batch_size: int = 256) -> np.ndarray:
        """Probabilities float32 `[n, C]`.

        Args:
          inputs: images of `input_shape`, in a form that `image_inputs.as_images` takes, or
            features `[n, D]` or `[n, V, D]`, of which the first view is used.
          batch_size: inputs on the device at a time.

        Raises:
          UserError: if the inputs are invalid or of another shape.
        """
        return in_batches(self._probs, self._raw(inputs), len(self.classes), batch_size)

    def predict(self, inputs: Any) -> np.ndarray:
        """The most probable classes `[n]` by name; {0, 1} `[n, C]` where there may be several."""
        probs = self.predict_proba(inputs)
        if self.is_multilabel:
            return (probs > 0.5).astype(np.uint8)
        return self.classes[probs.argmax(axis=1)]

    def _raw(self, inputs: Any) -> np.ndarray:
        if len(self.input_shape) == 1:
            array = as_features(inputs, "inputs")
            array = array[:, None] if array.ndim == 2 else array
            shape = array.shape[2:]
        else:
            array = as_images(inputs, "inputs")
            shape = array.shape[1:]
        if self.input_shape and shape != tuple(self.input_shape):
            raise UserError(
                f"inputs are of shape {list(shape)}, but this classifier was trained on "
                f"{list(self.input_shape)}; give inputs of that shape."
            )
        return array


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
        padding = [(0, batch_size - len(part)), *[(0, 0)] * (part.ndim - 1)]
        found[start : start + len(part)] = predict(np.pad(part, padding))[: len(part)]
    return found


def save_classifier(
    folder: pathlib.Path,
    *,
    recipe: Recipe,
    networks: Mapping[str, Any],
    class_names: Sequence[str],
    num_examples: int,
    input_shape: Sequence[int],
    mean: Sequence[float] | np.ndarray,
    std: Sequence[float] | np.ndarray,
    embedding: Embedding | None = None,
) -> None:
    """Writes a folder that `load_classifier` reads.

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
    storage.write_folder(folder, networks, facts)


def load_classifier(folder: str | os.PathLike) -> Classifier:
    """Reads the classifier of a run.

    Args:
      folder: `classifier/` of a run of noisy labels or annotation, `student/` or `teacher/` of a
        distillation, the workdir of the run, or a folder that `jaxrobust.models.convert` wrote.

    Returns:
      `Classifier`.

    Raises:
      UserError: if there is none, or a file of it is damaged.

    Examples:
      >>> classifier = load_classifier("runs/dpc")
      >>> names = classifier.predict(images)
    """
    folder = resolve(folder)
    facts = storage.read_facts(folder)
    return _of_run(folder, facts) if storage.is_of_run(facts) else _of_storage(folder)


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
    is_multilabel = stored.decoder is not None
    link = jax.nn.sigmoid if is_multilabel else jax.nn.softmax
    names = stored.class_names or tuple(map(str, range(stored.num_classes)))
    return Classifier(
        classes=np.array(names),
        input_shape=tuple(stored.image_shape),
        origin=stored.arch,
        is_multilabel=is_multilabel,
        _probs=jax.jit(lambda images: link(stored.logits(images))),
    )


def _of_run(folder: pathlib.Path, facts: Mapping[str, Any]) -> Classifier:
    networks = storage.read_variables(folder, facts)
    try:
        recipe = cast(ImageRecipe, parse(facts["config"]))
        names, shape = np.array(facts["class_names"]), tuple(facts["input_shape"])
        statistics = statistics_of(facts["mean"], facts["std"])
        embedding = Embedding(**facts["embedding"]) if facts.get("embedding") else None
        predict = {"noisy_labels": _noisy_labels, "active_learning": _active_learning}
        forward = predict[facts["task"]](recipe, facts)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} holds no classifier that can be read ({error}).") from None
    compiled, networks = _compiled(recipe, forward, shape), jax.device_put(networks)
    return Classifier(
        classes=names,
        input_shape=shape,
        origin=f"{facts['method']}, {recipe.model.name}",
        is_multilabel=False,
        _probs=lambda raw: compiled(networks, statistics, raw),
        embedding=embedding,
    )


def _compiled(recipe: Recipe, forward: Callable, shape: tuple[int, ...]):
    """`(networks, statistics, raw) -> probabilities` as one compiled function."""
    views = make_views(recipe.augment, shape, jnp.float32)
    key = jax.random.key(0)  # not used by test views
    return jax.jit(
        lambda networks, statistics, raw: forward(networks, views("test", key, raw, statistics))
    )


@functools.lru_cache(maxsize=32)
def probabilities(
    settings: str, num_classes: int, num_examples: int, input_shape: tuple[int, ...]
) -> Callable:
    """Predictions of a noisy-labels method, compiled once for classifiers of equal settings.

    Args:
      settings: the recipe, as JSON.
      num_classes: C.
      num_examples: number of training examples.
      input_shape: of an image (H, W, 3), or of features (D,).

    Returns:
      `(variables by network, statistics, raw inputs) -> probabilities [n, C]`.
    """
    recipe = cast(NoisyLabels, parse(json.loads(settings)))
    facts = {
        "class_names": range(num_classes),
        "num_examples": num_examples,
        "input_shape": input_shape,
    }
    return _compiled(recipe, _noisy_labels(recipe, facts), input_shape)


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
