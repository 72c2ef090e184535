"""`jaxrobust.RobustClassifier`: a scikit-learn classifier for labels that may be wrong."""

import functools
import json
from typing import Any

import jax
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from jaxrobust.api import label_issues
from jaxrobust.data.inputs import aligned, as_labels, check_lengths, is_soft
from jaxrobust.data.views import statistics_of
from jaxrobust.errors import UserError, for_python, shown
from jaxrobust.methods import classifiers
from jaxrobust.recipes.methods import NoisyLabelMethodName

_QUICK = 1000  # training examples up to which compiling costs more than running


class RobustClassifier(ClassifierMixin, BaseEstimator):
    """A classifier of features `[N, D]`, trained by a method for wrong labels.

    `fit` is `jaxrobust.find_label_issues(y, features=X)`, and keeps the trained networks. Up to
    1,000 examples the programs are compiled with few optimisations, which takes less time and may
    change the last digits. Programs for equal shapes are compiled once per process.

    Args:
      method: for wrong labels: `"dpc"`, `"bldr"`, `"dividemix"`, `"cross_entropy"`...; see
        `jaxrobust list methods`.
      seed: of the training; equal seeds give equal classifiers.
      config: as for `find_label_issues`.
      **options: fields to set in the recipe, sections joined by two underscores, such as
        `num_epochs=5` and `dpc__warm_up=2`. They are parameters for `set_params` and grid searches
        too.

    Attributes:
      classes_: `[C]`, sorted.
      n_features_in_: D.
      label_issues_: `LabelIssues` of the training labels.

    Examples:
      >>> from sklearn.datasets import load_iris
      >>> X, y = load_iris(return_X_y=True)
      >>> classifier = RobustClassifier().fit(X, y)
      >>> classifier.predict_proba(X[:5]).shape
      (5, 3)
      >>> len(classifier.label_issues_)
      150
    """

    def __init__(
        self,
        method: NoisyLabelMethodName = "dpc",
        *,
        seed: int = 0,
        config: Any = None,
        **options: Any,
    ) -> None:
        self.method = method
        self.seed = seed
        self.config = config
        for name, value in options.items():
            setattr(self, name, value)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor; `deep` has no effect."""
        del deep
        names = {"method": None, "seed": None, "config": None, **vars(self)}
        return {n: getattr(self, n) for n in names if not (n.startswith("_") or n.endswith("_"))}

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

    @for_python()
    def fit(self, X: Any, y: Any) -> "RobustClassifier":
        """Trains on features float `[N, D]` and labels `[N]`, or soft ones.

        Soft labels, as for `find_label_issues`, are a `Consensus` or floats `[N, C]`; classes that
        are nowhere the most probable are left out.

        Raises:
          UserError: if there is only one class, a field of the recipe is invalid, or the method
            cannot learn from soft labels.
        """
        X, y = aligned(X=X, y=y)
        dtypes = (np.float32, np.float64, np.float16)
        if is_soft(y):
            X = validate_data(self, X, dtype=dtypes)
            _, known = as_labels(y, argument="y").of_present()
            check_lengths(X=X, y=known.ids)
            self.classes_, given = known.classes, known.probs
        else:
            X, y = validate_data(self, X, y, dtype=dtypes)
            check_classification_targets(y)
            self.classes_, given = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise UserError(
                f"y holds only one class, {shown(self.classes_[0])}; a classifier needs two."
            )
        issues, trained = label_issues.learn(
            given,
            features=X,
            images=None,
            method=self.method,
            seed=self.seed,
            config=self._recipe(),
            workdir=None,
            class_names=None,
            progress=False,
            is_quick=len(X) <= _QUICK,
        )
        self.label_issues_ = issues.with_classes(self.classes_)
        recipe = {**trained.recipe.settings, "seed": 0}  # predictions do not depend on the seed
        self._settings = json.dumps(recipe, sort_keys=True)
        self._num_examples = len(X)
        self._networks = jax.tree.map(np.asarray, trained.networks)
        self._statistics = statistics_of(trained.mean, trained.std)
        self._scaling = trained.scaling
        return self

    def _recipe(self) -> Any:
        params = self.get_params()
        fields = {n.replace("__", "."): params[n] for n in params.keys() - _ARGUMENTS}
        if not fields:
            return self.config
        if self.config is not None and not isinstance(self.config, dict):
            raise UserError("Give a recipe as config=, or fields of one by name, not both.")
        return {**(self.config or {}), **fields}

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities float32 `[n, C]`, columns in the order of `classes_`."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=(np.float32, np.float64, np.float16))
        features = X[:, None] if self._scaling is None else self._scaling(X[:, None])
        features = features.astype(np.float16)
        predict = classifiers.probabilities(
            self._settings, len(self.classes_), self._num_examples, (X.shape[1],)
        )
        return classifiers.in_batches(
            functools.partial(predict, self._networks, self._statistics),
            features,
            len(self.classes_),
        )

    def predict(self, X: Any) -> np.ndarray:
        """The most probable classes `[n]`, in the type of the labels."""
        probs = self.predict_proba(X)
        return self.classes_[probs.argmax(axis=1)]


_ARGUMENTS = {"method", "seed", "config"}
