"""A linear classifier on the frozen features of a network."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxrobust.models.storage import StoredClassifier

_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # candidates for `LinearHead.strength`
_HELD_OUT = 0.2  # fraction of the examples on which they are compared


@dataclasses.dataclass(frozen=True, eq=False)
class LinearHead:
    """Logits `features @ kernel + bias`."""

    kernel: np.ndarray  # float32 `[D, C]`
    bias: np.ndarray  # float32 `[C]`
    strength: float  # the chosen inverse of the penalty (scikit-learn's `C`)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Float32 `[..., C]` of features `[..., D]`."""
        return features.astype(np.float32) @ self.kernel + self.bias

    def on(
        self, backbone: StoredClassifier, class_names: Sequence[str], size: int
    ) -> StoredClassifier:
        """The classifier of this head on a backbone, for images of `size` x `size` pixels."""
        dense = {"Dense_0": {"kernel": self.kernel, "bias": self.bias}}
        variables = {
            name: {"backbone": backbone.variables[name]["backbone"]}
            for name in ("params", "batch_stats")
            if "backbone" in backbone.variables.get(name, {})
        }
        return dataclasses.replace(
            backbone,
            num_classes=len(class_names),
            class_names=tuple(class_names),
            variables={**variables, "params": {**variables["params"], "primary": dense}},
            image_shape=(size, size, 3),
        )


def fit_linear_head(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    seed: int = 0,
    balanced: bool = False,
) -> LinearHead:
    """Logistic regression on standardised features, its penalty chosen on a held-out fifth.

    With too small a penalty the probabilities of training images would tend to 0 and 1 and tell a
    student no more than the labels. Of features `[N, V, D]` all V views are trained on; every class
    occurs. `balanced` gives all classes the same weight, whatever their number of images.
    """
    from sklearn.linear_model import LogisticRegression  # takes long to import
    from sklearn.metrics import log_loss
    from sklearn.model_selection import train_test_split

    if features.ndim == 2:
        features = features[:, None]
    flat = features.reshape(-1, features.shape[-1]).astype(np.float32)
    mean, std = flat.mean(axis=0), flat.std(axis=0)
    std[std == 0] = 1
    ids = np.arange(len(labels))
    # A class of a single image cannot be in both parts.
    stratify = labels if np.bincount(labels).min(initial=2) > 1 else None
    fitted, held_out = train_test_split(
        ids, test_size=_HELD_OUT, random_state=seed, stratify=stratify
    )

    def regression(rows, num_views, strength):
        views = (features[rows, :num_views].astype(np.float32) - mean) / std
        model = LogisticRegression(
            C=strength, max_iter=1000, tol=1e-3, class_weight="balanced" if balanced else None
        )
        return model.fit(views.reshape(-1, len(mean)), np.repeat(labels[rows], num_views))

    def loss(strength):
        model = regression(fitted, 1, strength)
        views = (features[held_out, 0].astype(np.float32) - mean) / std
        probs = np.full((len(held_out), num_classes), 1e-7)
        probs[:, model.classes_] = np.maximum(model.predict_proba(views), 1e-7)
        probs /= probs.sum(axis=1, keepdims=True)
        return log_loss(labels[held_out], probs, labels=np.arange(num_classes))

    best, strength = np.inf, _STRENGTHS[0]
    for candidate in _STRENGTHS:  # a weaker penalty takes longer to fit
        found = loss(candidate)
        if found >= best:
            break
        best, strength = found, candidate
    # Every image has the weight 1, whatever the number of views.
    model = regression(ids, features.shape[1], strength / features.shape[1])
    kernel, bias = model.coef_.T, model.intercept_
    if num_classes == 2:  # sklearn has one column for two classes
        kernel, bias = (np.concatenate([-x / 2, x / 2], axis=-1) for x in (kernel, bias))
    kernel = kernel / std[:, None]
    bias = bias - mean @ kernel
    return LinearHead(kernel.astype(np.float32), bias.astype(np.float32), strength)
