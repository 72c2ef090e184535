"""`jaxrobust.RobustClassifier`: a scikit-learn classifier for labels that may be wrong."""

import dataclasses
import os
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from jaxrobust.api import in_memory, label_issues
from jaxrobust.data.inputs import Labels, aligned, as_labels, check_lengths, is_soft
from jaxrobust.engine.workdir import flatten
from jaxrobust.errors import UserError, as_option, for_python, shown
from jaxrobust.models.onnx_export import OnnxFile
from jaxrobust.recipes.methods import NOISY_LABEL_METHODS, NoisyLabelMethodName

_QUICK = 1000  # training examples up to which compiling costs more than running


class RobustClassifier(ClassifierMixin, BaseEstimator):
    """A classifier of features `[N, D]`, trained by a noisy-label method.

    `fit` does the same as `jaxrobust.find_label_issues(y, features=X)` with a trained method, and
    keeps the trained networks. For up to 1,000 examples, programs are compiled with few
    optimisations, which takes less time and may change the last digits. Programs for equal shapes
    are compiled once per process.

    Args:
      method: noisy-label method: `"dpc"`, `"bldr"`, `"dividemix"`, `"cross_entropy"`...; see
        `jaxrobust list methods`.
      seed: random seed of the training; equal seeds give equal classifiers.
      config: as for `find_label_issues`.
      class_weight: dict of class to weight, with 1 for classes that are not in it, or `"balanced"`
        for N / (C times the weight of the class); None for 1. Not with `"knn"`, which has no loss.
      **options: fields to set in the recipe, sections joined by two underscores, such as
        `num_epochs=5` and `dpc__warm_up=2`. They are also parameters for `set_params` and grid
        searches.

    Attributes:
      classes_: `[C]`, sorted.
      n_features_in_: D.
      label_issues_: `LabelIssues` of the training labels with a weight above 0.
      classifier_: `Classifier`, as `load_classifier` returns it.

    Examples:
      >>> from sklearn.datasets import load_iris
      >>> X, y = load_iris(return_X_y=True)
      >>> classifier = RobustClassifier(class_weight="balanced").fit(X, y)
      >>> classifier.predict_proba(X[:5]).shape
      (5, 3)
      >>> len(classifier.label_issues_)
      150
      >>> classifier.save("iris")  # jaxrobust.load_classifier("iris") reads it
    """

    def __init__(
        self,
        method: NoisyLabelMethodName = "dpc",
        *,
        seed: int = 0,
        config: Any = None,
        class_weight: Any = None,
        **options: Any,
    ) -> None:
        self.method = method
        self.seed = seed
        self.config = config
        self.class_weight = class_weight
        for name, value in options.items():
            setattr(self, name, value)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor; `deep` adds the other fields of the recipe.

        Their values are the recipe's. For small data sets, `fit` lowers `batch_size` and raises
        `num_epochs` unless they are set.
        """
        given = [name for name in vars(self) if not (name.startswith("_") or name.endswith("_"))]
        params = {name: getattr(self, name) for name in given}
        if not deep:
            return params
        try:
            recipe = in_memory.noisy_label_recipe(
                np.zeros((_USUAL_SIZE, 1, 1)), self._recipe(), method=self.method, seed=0
            )
        except (UserError, TypeError):  # as `fit` will say
            return params
        fields = flatten({n: x for n, x in recipe.settings.items() if n not in _NOT_OF_TRAINING})
        return {**{name.replace(".", "__"): value for name, value in fields.items()}, **params}

    def set_params(self, **params: Any) -> "RobustClassifier":
        """Sets arguments, including fields of the recipe.

        Raises:
          ValueError: for a name that cannot be a parameter.
        """
        for name, value in params.items():
            if name.startswith("_") or name.endswith("_") or hasattr(type(self), name):
                raise ValueError(
                    f"{name!r} is not a parameter of RobustClassifier; see get_params()."
                )
            setattr(self, name, value)
        return self

    @for_python(as_option)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "RobustClassifier":
        """Trains on features float `[N, D]` and labels `[N]`, or soft ones.

        Soft labels, as for `find_label_issues`, are a `Consensus` or floats `[N, C]`; classes that
        are never the most probable are left out.

        Args:
          X: features.
          y: labels.
          sample_weight: floats `[N]`, not negative, by which the losses of the examples are
            multiplied; only their ratios count. A weight of 2 is equivalent to having the row
            twice, and a weight of 0 leaves it out. None for 1. Not with `"knn"`.

        Raises:
          UserError: if there is only one class, a field of the recipe is invalid, or the method
            cannot learn from soft labels or takes no weights.
        """
        X, y, sample_weight = aligned(X=X, y=y, sample_weight=sample_weight)
        dtypes = (np.float32, np.float64, np.float16)
        if is_soft(y):
            X = validate_data(self, X, dtype=dtypes)
            known = as_labels(y, argument="y")
            check_lengths(X=X, y=known.ids)
        else:
            X, y = validate_data(self, X, y, dtype=dtypes)
            check_classification_targets(y)
            classes, ids = np.unique(y, return_inverse=True)
            known = Labels(ids.astype(np.int32), classes, tuple(map(str, classes.tolist())))
        weights = np.ones(len(X))
        if sample_weight is not None:
            weights = _check_sample_weight(
                sample_weight, X, dtype=np.float64, ensure_non_negative=True
            )
            counted = weights > 0
            X, weights, known = X[counted], weights[counted], known.take(counted)
        _, known = known.of_present()
        self.classes_, given = known.classes, known.ids if known.probs is None else known.probs
        if len(self.classes_) < 2:
            raise UserError(
                f"y holds only one class, {shown(self.classes_[0])}; a classifier needs two."
            )
        if self.class_weight is not None:
            shares = np.eye(len(self.classes_))[given] if given.ndim == 1 else given
            if self.class_weight == "balanced":
                of_classes = 1 / (weights @ shares)
            else:
                of_classes = compute_class_weight(
                    self.class_weight, classes=self.classes_, y=self.classes_
                )
            weights = weights * (shares @ of_classes)
        issues, classifier = label_issues.learn(
            given,
            features=X,
            images=None,
            method=self.method,
            seed=self.seed,
            config=self._recipe(),
            workdir=None,
            class_names=None,
            progress=False,
            weights=weights if np.ptp(weights) or self._takes_weights() else None,
            is_quick=len(X) <= _QUICK,
        )
        self.label_issues_ = issues.with_classes(self.classes_)
        self.classifier_ = dataclasses.replace(classifier, classes=self.classes_)
        return self

    def _takes_weights(self) -> bool:
        name = self.method  # one that is unknown is refused later
        return name not in NOISY_LABEL_METHODS or NOISY_LABEL_METHODS.entry(name).weighted

    def _recipe(self) -> Any:
        params = self.get_params(deep=False)
        fields = {n.replace("__", "."): params[n] for n in params.keys() - _ARGUMENTS}
        if not fields:
            return self.config
        if self.config is not None and not isinstance(self.config, dict):
            raise UserError("Give a recipe as config=, or fields as arguments, not both.")
        return {**(self.config or {}), **fields}

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities float32 `[n, C]`, columns in the order of `classes_`."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=(np.float32, np.float64, np.float16))
        return self.classifier_.predict_proba(X)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable classes `[n]`, in the type of the labels."""
        probs = self.predict_proba(X)
        return self.classes_[probs.argmax(axis=1)]

    def save(self, folder: str | os.PathLike) -> None:
        """Writes a folder that `jaxrobust.load_classifier` reads, as `Classifier.save` does."""
        check_is_fitted(self)
        self.classifier_.save(folder)

    def export_onnx(self, path: str | os.PathLike) -> OnnxFile:
        """Writes an ONNX file, from features to probabilities, as `Classifier.export_onnx` does."""
        check_is_fitted(self)
        return self.classifier_.export_onnx(path)


_ARGUMENTS = {"method", "seed", "config", "class_weight"}
_USUAL_SIZE = 4000  # examples, for which recipes are made
# Sections and fields of a recipe that have no meaning for features in memory, and arguments.
_NOT_OF_TRAINING = {
    *("task", "method", "seed", "num_seeds", "checkpoint", "dataset", "noise", "writers"),
    *("log_every_seconds", "num_workers", "device", "device_count"),
}
