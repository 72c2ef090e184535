"""What the distillation task asks of a method, as a record of pure functions."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxrobust.engine.training import TrainState, descend
from jaxrobust.losses import gradient_cosine, masked_mean
from jaxrobust.models.dual_head import Outputs as SingleLabelOutputs
from jaxrobust.models.layers import Features
from jaxrobust.models.ml_decoder import MultiLabelOutputs

Outputs = SingleLabelOutputs | MultiLabelOutputs

CONNECTOR = "connector"
"""Top-level key of parameters that only the distillation needs, beside those of the student."""


class ClassifierState(TrainState):
    """The training state of a classifier.

    Attributes:
      constants: further collections of variables by name, which no step changes.
    """

    constants: dict[str, Any]

    @property
    def variables(self) -> dict[str, Any]:
        return {**super().variables, **self.constants}


@dataclasses.dataclass(frozen=True)
class Problem:
    """The problem that a method is built for.

    Attributes:
      num_classes: C.
      student: name of the student's architecture.
      teacher: that of the teacher's.
      student_features: shapes of the student's features for one image.
      teacher_features: likewise of the teacher's.
      dtype: computation dtype of the networks.
    """

    num_classes: int
    student: str
    teacher: str
    student_features: Features
    teacher_features: Features
    dtype: Any


class Batch(NamedTuple):
    """Examples that a step visits.

    Attributes:
      images: `[B, H, W, 3]`, augmented and normalised.
      labels: int32 `[B]`, or {0, 1} `[B, C]` where an image may have several.
      valid: bool `[B]`, False at padding.
    """

    images: jax.Array
    labels: jax.Array
    valid: jax.Array


# (student, teacher or None, labels [B] or targets [B, C], where [B]) -> numbers to report
Measures = Callable[[Outputs, Outputs | None, jax.Array, jax.Array], dict[str, jax.Array]]

# (student, teacher or None, labels [B] or targets [B, C], where [B], ramp) -> (loss_cls, loss_kd)
Objective = Callable[
    [Outputs, Outputs | None, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]
]


def _accuracy(
    student: Outputs, teacher: Outputs | None, labels: jax.Array, where: jax.Array
) -> dict[str, jax.Array]:
    hits = jnp.argmax(student.logits, axis=-1) == labels
    return {"accuracy": masked_mean(hits.astype(student.logits.dtype), where)}


@dataclasses.dataclass(frozen=True)
class Distiller:
    """One way in which a teacher teaches a student.

    Attributes:
      objective: `(student, teacher, labels, where, ramp) -> (loss_cls, loss_kd)`, two weighted
        scalars; `student` and `teacher` are what the networks compute, `teacher` None if not
        `has_teacher`; `ramp` is the share of the warm-up that is done.
      auxiliary: the student's second head: "none", "linear" or "mlp".
      merge: `(grad_cls, grad_kd) -> grad`; None adds them, which takes one backward pass less.
      connector: module from the student's features to those that `objective` sees, trained with
        the student and dropped with the auxiliary head.
      warm_up: epochs in which `ramp` grows from 1 / warm_up to 1; 0: it is 1 from the start.
      has_teacher: whether there is anything to distil.
      logits_only: whether `objective` reads nothing of the teacher but its logits.
      measures: `(student, teacher, labels, where) -> scalars` to report of every step.
    """

    objective: Objective
    auxiliary: str = "none"
    merge: Callable[[Any, Any], Any] | None = None
    connector: nn.Module | None = None
    warm_up: int = 0
    has_teacher: bool = True
    logits_only: bool = False
    measures: Measures = _accuracy


def distillation_schedule(epoch: int, *, warm_up: int, until_epoch: int) -> dict[str, float]:
    """How much the distillation counts in one epoch.

    Args:
      epoch: counted from 0.
      warm_up: epochs until `ramp` is 1; 0: from the start.
      until_epoch: the last epoch with distillation, counted from 1; 0: there is none.

    Returns:
      With e = epoch + 1, `ramp`, min(e / warm_up, 1), and `distill_weight`, which is 1 up to
      `until_epoch` and 0 after it.
    """
    number = epoch + 1
    return {
        "ramp": min(number / warm_up, 1.0) if warm_up else 1.0,
        "distill_weight": 0.0 if 0 < until_epoch < number else 1.0,
    }


# (params, batch_stats, images, *, train, key, where, constants) -> (Outputs, batch_stats)
Apply = Callable[..., tuple[Outputs, Any]]


def student_apply(module: nn.Module, connector: nn.Module | None = None) -> Apply:
    """A student as the function that steps are written over.

    Args:
      module: classifier that returns `Outputs`.
      connector: as in `Distiller`; its variables lie under `CONNECTOR`.

    Returns:
      `(params, batch_stats, images, *, train, key=None, where=None, constants=None) -> (outputs,
      batch_stats)`; `key` for dropout; the statistics are new ones in training.
    """

    def apply(params, batch_stats, images, *, train, key=None, where=None, constants=None):
        options = {"train": train, "where": where}
        if train:
            options["mutable"] = ["batch_stats"]
        of_student, of_connector = _split({"params": params, "batch_stats": batch_stats})
        rngs = None if key is None else {"dropout": key}
        outputs = module.apply({**of_student, **(constants or {})}, images, rngs=rngs, **options)
        outputs, updates = outputs if train else (outputs, {})
        batch_stats = {**batch_stats, **updates.get("batch_stats", {})}
        if connector is not None:
            features = connector.apply(of_connector, outputs.features, **options)
            features, updates = features if train else (features, {})
            outputs = outputs._replace(features=features)
            if updates:
                batch_stats = {**batch_stats, CONNECTOR: updates["batch_stats"]}
        return outputs, batch_stats

    return apply


def _split(variables: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the student's variables, the connector's)."""
    of_student = {
        name: {key: value for key, value in tree.items() if key != CONNECTOR}
        for name, tree in variables.items()
    }
    of_connector = {name: tree.get(CONNECTOR, {}) for name, tree in variables.items()}
    return of_student, of_connector


def start(
    key: jax.Array,
    module: nn.Module,
    optimizer: optax.GradientTransformation,
    input_shape: tuple[int, int, int],
    connector: nn.Module | None = None,
) -> ClassifierState:
    """Fresh state of a classifier and of the connector behind it, if there is one.

    The backbone and the primary head start alike whatever else there is.
    """
    images = jnp.zeros((1, *input_shape))
    variables = {"batch_stats": {}, **module.init(key, images)}
    constants = {k: v for k, v in variables.items() if k not in ("params", "batch_stats")}
    if connector is not None:
        features = module.apply(variables, images).features
        added = connector.init(jax.random.fold_in(key, 1), features)
        for name, tree in added.items():
            variables[name] = {**variables[name], CONNECTOR: tree}
    params = variables["params"]
    return ClassifierState(params, variables["batch_stats"], optimizer.init(params), constants)


def inference_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
    """What prediction needs of a student: its backbone and its primary head, or its decoder."""
    parts = ("backbone", "primary", "decoder")
    return {
        name: {key: value for key, value in tree.items() if key in parts}
        for name, tree in variables.items()
    }


def distillation_step(
    network: ClassifierState,
    batch: Batch,
    teacher: Outputs | None,
    key: jax.Array,
    scalars: Mapping[str, jax.Array],
    *,
    apply: Apply,
    distiller: Distiller,
    optimizer: optax.GradientTransformation,
) -> tuple[ClassifierState, dict[str, jax.Array]]:
    """One descent step on the two losses, from one forward pass.

    Where the gradients are merged, each loss is pulled back through that same pass, so both saw
    one dropout mask and one set of batch statistics.

    Args:
      network: the student before the step.
      batch: examples.
      teacher: what the teacher computes for them.
      key: for dropout.
      scalars: `learning_rate`, `ramp` for the objective, and `distill_weight`, which multiplies
        the distillation loss.
      apply: the student, as in `student_apply`.
      distiller: the method.
      optimizer: gives descent directions, without the rate.

    Returns:
      The student after the step, and the metrics.
    """

    def losses(params):
        outputs, batch_stats = apply(
            params,
            network.batch_stats,
            batch.images,
            train=True,
            key=key,
            where=batch.valid,
            constants=network.constants,
        )
        loss_cls, loss_kd = distiller.objective(
            outputs, teacher, batch.labels, batch.valid, scalars["ramp"]
        )
        pair = loss_cls, loss_kd * scalars["distill_weight"].astype(loss_kd.dtype)
        return pair, (batch_stats, distiller.measures(outputs, teacher, batch.labels, batch.valid))

    (loss_cls, loss_kd), pull_back, (batch_stats, measures) = jax.vjp(
        losses, network.params, has_aux=True
    )
    metrics = {
        "loss": loss_cls + loss_kd,
        "loss_cls": loss_cls,
        "loss_kd": loss_kd,
        **measures,
    }
    one, zero = jnp.ones_like(loss_cls), jnp.zeros_like(loss_cls)
    if distiller.merge is None:
        (grads,) = pull_back((one, one))
    else:
        (grad_cls,), (grad_kd,) = pull_back((one, zero)), pull_back((zero, one))
        grads = distiller.merge(grad_cls, grad_kd)
        metrics["gradient_cosine"] = gradient_cosine(grad_cls, grad_kd)
    rate = scalars["learning_rate"]
    network = descend(network, grads, optimizer, rate).replace(batch_stats=batch_stats)
    return network, metrics
