"""Training steps, predictions and tables of logits: pure functions of frozen specs.

A spec holds everything that a function closes over, which is the same for all seeds of a run.
Everything that depends on the data is an operand: images, labels, and the `statistics` for
normalising images, `{"mean": [3], "std": [3]}`.

    step = jax.jit(training_step(spec))
    network, metrics = step(network, ids, key, teacher, images, labels, statistics, scalars)
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxrobust.data.augment import draw_views, normalize, num_views, view_of
from jaxrobust.data.streaming import views_at
from jaxrobust.engine.training import TrainState, descend
from jaxrobust.losses import gradient_cosine
from jaxrobust.methods.distiller import Distiller, Outputs, SoftLabels
from jaxrobust.models.auxiliary_head import Outputs as SingleLabelOutputs
from jaxrobust.models.contrast import Pairs
from jaxrobust.models.layers import FeatureMaps

CONNECTOR = "connector"
"""Top-level key of the parameters that are not the student's and are dropped after training."""


class ClassifierState(TrainState):
    """The training state of a classifier.

    Attributes:
      constants: further collections of variables by name, which no step changes.
      average: moving average of `params` and `batch_stats`; None if none is kept.
    """

    constants: dict[str, Any]
    average: dict[str, Any] | None = None

    @property
    def variables(self) -> dict[str, Any]:
        return {**super().variables, **self.constants}

    @property
    def predicting(self) -> dict[str, Any]:
        """The variables used for predictions: the average, if one is kept."""
        return {**self.variables, **(self.average or {})}


class DistillationBatch(NamedTuple):
    """Examples that a step visits.

    Attributes:
      images: `[B, H, W, 3]`, augmented and normalised.
      labels: int32 `[B]`, soft labels, or {0, 1} `[B, C]` if an image may have several.
      valid: bool `[B]`, False at padding.
      ids: int32 `[B]`, ids of the training images; arbitrary at padding.
      all_labels: labels of the whole training set. `ids` and `all_labels` are for a method that
        `contrasts`.
    """

    images: jax.Array
    labels: jax.Array | SoftLabels
    valid: jax.Array
    ids: Any = None
    all_labels: Any = None


# (params, batch_stats, images, *, train, key, where, constants) -> (Outputs, batch_stats)
Apply = Callable[..., tuple[Outputs, Any]]


def student_apply(module: nn.Module, connector: nn.Module | None = None) -> Apply:
    """A student and its connector, whose variables are under `CONNECTOR`, as a pure function.

    `(params, batch_stats, images, *, train, key=None, where=None, constants=None, pairs=None) ->
    (outputs, batch_stats)`; `key` is for dropout, `pairs` for a connector that contrasts.
    """

    def apply(
        params, batch_stats, images, *, train, key=None, where=None, constants=None, pairs=None
    ):
        def applied(module, variables, inputs, **options) -> tuple[Any, Any]:
            """(outputs, updates of the variables)."""
            if not train:
                return module.apply(variables, inputs, train=False, where=where, **options), {}
            options["mutable"] = ["batch_stats"]
            return module.apply(variables, inputs, train=True, where=where, **options)

        of_student, of_connector = _split({"params": params, "batch_stats": batch_stats})
        rngs = None if key is None else {"dropout": key}
        outputs, updates = applied(module, of_student | (constants or {}), images, rngs=rngs)
        batch_stats = {**batch_stats, **updates.get("batch_stats", {})}
        if connector is not None:
            options = {} if pairs is None else {"pairs": pairs, "rngs": rngs}
            features, updates = applied(connector, of_connector, outputs.features, **options)
            outputs = outputs._replace(features=features)
            if updates.get("batch_stats"):  # none: a connector without BatchNorm
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


def inference_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of a student needed for prediction: backbone and primary head, or decoder."""
    parts = ("backbone", "primary", "decoder")
    return {
        name: {key: value for key, value in tree.items() if key in parts}
        for name, tree in variables.items()
    }


def distillation_step(
    network: ClassifierState,
    batch: DistillationBatch,
    teacher: Outputs | None,
    key: jax.Array,
    scalars: Mapping[str, jax.Array],
    *,
    apply: Apply,
    distiller: Distiller,
    optimizer: optax.GradientTransformation,
) -> tuple[ClassifierState, dict[str, jax.Array]]:
    """One gradient descent step on the two losses, from one forward pass.

    If the gradients are merged, each loss is backpropagated through that same pass, so both use the
    same dropout mask and batch statistics. `key` is for dropout; `scalars` are `learning_rate`,
    `ramp` of the objective, and `distill_weight`, which multiplies the distillation loss;
    `optimizer` gives descent directions, without the rate.
    """

    options: dict[str, Any] = {"train": True, "key": key, "where": batch.valid}
    if distiller.contrasts and teacher is not None:
        options["pairs"] = Pairs(teacher.features, batch.ids, batch.all_labels)

    def losses(params):
        outputs, batch_stats = apply(
            params, network.batch_stats, batch.images, constants=network.constants, **options
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
    network = descend(network, grads, optimizer, scalars).replace(batch_stats=batch_stats)
    return network, metrics


# --------------------------------------------------------------------------- what runs compile


@dataclasses.dataclass(frozen=True)
class Targets:
    """How the labels of a batch become targets.

    Attributes:
      smoothing: share of each label that is spread over all classes.
      mixup: a of the Beta(a, a) distribution of the shares in which two images, their labels and
        the teacher's logits are mixed; 0 for no mixup.
      weighted: whether there are class weights, and labels of -1 for unlabelled images.
      soft: whether labels are given as class probabilities.
    """

    smoothing: float = 0.0
    mixup: float = 0.0
    weighted: bool = False
    soft: bool = False


def soft_labels(
    targets: Targets,
    labels: jax.Array,
    class_weights: jax.Array,
    teacher: jax.Array | None,
) -> SoftLabels:
    """Labels, int32 `[B]` or float32 `[B, C]`, as shares of classes; the class of the teacher's
    logits `[B, C]` takes the place of a missing label, -1."""
    num_classes = len(class_weights)
    shares = labels if targets.soft else jax.nn.one_hot(labels, num_classes)  # of -1: 0 everywhere
    shares = shares * class_weights[None, :]
    weights = jnp.sum(shares, axis=1, keepdims=True)
    smooth = (1 - targets.smoothing) * shares + targets.smoothing / num_classes * weights
    if targets.soft:
        labels = jnp.argmax(labels, axis=1).astype(jnp.int32)
    elif teacher is not None:
        labels = jnp.where(labels >= 0, labels, jnp.argmax(teacher, axis=-1).astype(labels.dtype))
    return SoftLabels(labels, smooth)


@dataclasses.dataclass(frozen=True)
class TrainSpec:
    """The specification that the training step of a network is compiled from.

    Attributes:
      module: the network, as it is trained.
      distiller: how it learns.
      optimizer: gives descent directions, without the rate.
      input_shape: (H, W, 3) of an image.
      batch_size: examples per step; further slots of a row are padding.
      padding, flip: parameters of the random crops, as in `pad_crop_flip`.
      dtype: of normalised images.
      teacher: the network that is applied in every step; None if the step reads a table of logits,
        or if nothing is distilled.
      targets: how labels become targets; None: unchanged.
      ema: decay of the moving average of the network per step; 0 for no average.
    """

    module: nn.Module
    distiller: Distiller
    optimizer: optax.GradientTransformation
    input_shape: tuple[int, int, int]
    batch_size: int
    padding: int
    flip: bool
    dtype: Any
    teacher: nn.Module | None = None
    targets: Targets | None = None
    ema: float = 0.0


def initial_state(spec: TrainSpec) -> Callable[[jax.Array], ClassifierState]:
    """`key -> ` the network before its first step, including the connector, if there is one.

    The initialisation of the backbone and the primary head does not depend on the other parts.
    """
    connector = spec.distiller.connector

    def state(key):
        images = jnp.zeros((1, *spec.input_shape))
        variables = {"batch_stats": {}, **spec.module.init(key, images)}
        constants = {k: v for k, v in variables.items() if k not in ("params", "batch_stats")}
        if connector is not None:
            features = cast(Outputs, spec.module.apply(variables, images)).features
            added = connector.init(jax.random.fold_in(key, 1), features)
            for name, tree in added.items():
                variables[name] = {**variables[name], CONNECTOR: tree}
        params = variables["params"]
        opt_state = spec.optimizer.init(params)
        batch_stats = variables["batch_stats"]
        average = {"params": params, "batch_stats": batch_stats} if spec.ema else None
        return ClassifierState(params, batch_stats, opt_state, constants, average)

    return state


def training_step(spec: TrainSpec) -> Callable:
    """The step of `epoch_program`: crops, teacher and descent.

    Returns:
      `(network, ids, key, teacher, images, labels, statistics, scalars) -> (network, metrics)`.
      `ids` int32 `[width]`, -1 at padding; `teacher` is `{"variables", "statistics"}` of
      `spec.teacher`, `{"table": [N, V, C]}` of its logits on all views of all images (or on every
      whole image, V = 1, and its mirror image, V = 2), or `{}`;
      `images` uint8 `[N, H, W, 3]` or a streamed batch; `labels` of all images, with
      `spec.targets` `{"labels": int32 [N] or soft, "class_weights": [C]}`; `scalars` as for
      `distillation_step`.
    """
    apply = student_apply(spec.module, spec.distiller.connector)
    crops = {"padding": spec.padding, "flip": spec.flip}

    def step(network, ids, key, teacher, images, labels, statistics, scalars):
        # Slots beyond the batch size only even the rows out over the devices.
        ids = ids[: spec.batch_size]
        rows = jnp.maximum(ids, 0)
        augment_key, step_key = jax.random.split(key)
        (raw,) = views_at(images, rows, 1)
        numbers = draw_views(augment_key, len(raw), **crops)
        views = view_of(raw, numbers, **crops)
        mix = _mixing(spec.targets, key, len(ids))
        views = mix(views)
        inputs = normalize(views, **statistics, dtype=spec.dtype)
        taught = None
        if spec.teacher is not None:
            taught = teach(spec.teacher, teacher, views, dtype=spec.dtype)
        elif spec.distiller.has_teacher:
            table = teacher["table"]
            # One with fewer views is of whole images: a crop reuses the logits of the full image.
            whole = table.shape[1] < num_views(**crops)
            logits = table[rows, numbers % table.shape[1] if whole else numbers]
            # Of a teacher with a table nothing but logits is read.
            logits = mix(logits.astype(jnp.float32))
            taught = SingleLabelOutputs(logits, None, cast(FeatureMaps, None))
        if spec.targets is None:
            batch = DistillationBatch(inputs, labels[rows], ids >= 0, rows, labels)
        else:
            logits = None if taught is None else taught.logits
            soft = soft_labels(
                spec.targets, labels["labels"][rows], labels["class_weights"], logits
            )
            soft = soft._replace(targets=mix(soft.targets))
            batch = DistillationBatch(inputs, soft, ids >= 0, rows)
        network, metrics = distillation_step(
            network,
            batch,
            taught,
            step_key,
            scalars,
            apply=apply,
            distiller=spec.distiller,
            optimizer=spec.optimizer,
        )
        if network.average is not None:
            now = {"params": network.params, "batch_stats": network.batch_stats}
            average = optax.incremental_update(now, network.average, 1 - spec.ema)
            network = network.replace(average=average)
        return network, metrics

    return step


def _mixing(targets: Targets | None, key: jax.Array, count: int) -> Callable[[Any], Any]:
    """The function that mixes each row of a batch with another, with a share of more than a half
    of its own."""
    if targets is None or not targets.mixup:
        return lambda x: x
    share_key, order_key = jax.random.split(jax.random.fold_in(key, 1))
    share = jax.random.beta(share_key, targets.mixup, targets.mixup, dtype=jnp.float32)
    share = jnp.maximum(share, 1 - share)
    order = jax.random.permutation(order_key, count)

    def mix(x):
        x = x.astype(jnp.float32)
        return share * x + (1 - share) * x[order]

    return mix


def teach(
    module: nn.Module, teacher: Mapping[str, Any], images: jax.Array, *, dtype: Any
) -> Outputs:
    """The outputs of a teacher, `{"variables", "statistics"}`, for raw images `[B, H, W, 3]`."""
    images = normalize(images, **teacher["statistics"], dtype=dtype)
    return cast(Outputs, module.apply(teacher["variables"], images))


@dataclasses.dataclass(frozen=True)
class PredictSpec:
    """The specification that a prediction is compiled from.

    Attributes:
      module: the network, with only its primary head.
      dtype: of normalised images.
      output: "logits" or "pooled", the features that heads read.
    """

    module: nn.Module
    dtype: Any
    output: str = "logits"


def prediction(spec: PredictSpec) -> Callable:
    """The function of `gather_program`: `(ids, key, network, images) -> logits [width, C]`.

    `network` is `{"variables", "statistics"}`. Pooled features are `[width, D]`.
    """

    def predict(ids, key, network, images):
        del key
        (raw,) = views_at(images, ids, 1)
        outputs = teach(spec.module, network, raw, dtype=spec.dtype)
        return outputs.logits if spec.output == "logits" else outputs.features.pooled

    return predict


@dataclasses.dataclass(frozen=True)
class TableSpec:
    """The specification that a table of a teacher's logits is compiled from.

    Attributes:
      module: the teacher.
      padding, flip: parameters of the crops that a step draws.
      dtype: of normalised images.
      table_dtype: name of the table's dtype.
    """

    module: nn.Module
    padding: int
    flip: bool
    dtype: Any
    table_dtype: str


def all_views(spec: TableSpec) -> Callable:
    """The function of `gather_program`: logits `[width, V, C]` on every view that a step may draw.

    `(ids, key, teacher, images) -> logits`; `teacher` is `{"variables", "statistics"}`.
    """
    crops = {"padding": spec.padding, "flip": spec.flip}
    count = num_views(**crops)

    def logits(ids, key, teacher, images):
        del key
        numbers = jnp.tile(jnp.arange(count, dtype=jnp.int32), len(ids))
        views = view_of(images[jnp.repeat(ids, count)], numbers, **crops)
        taught = teach(spec.module, teacher, views, dtype=spec.dtype).logits
        return taught.reshape(len(ids), count, -1).astype(spec.table_dtype)

    return logits
