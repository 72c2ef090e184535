"""Knowledge distillation: train or take a teacher, train a student under it, hand the student over.

The same loop serves every method. Only the student's primary head is ever evaluated; its last epoch
is the headline, and its best one, known only by looking at the test set, stands beside it.
"""

import dataclasses
import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from jaxrobust import figures, metrics
from jaxrobust.data.augment import draw_views, normalize, num_views, view_of
from jaxrobust.data.dataset import Dataset, FileDataset, fingerprint
from jaxrobust.data.streaming import views_at
from jaxrobust.engine import rng
from jaxrobust.engine.files import write_json
from jaxrobust.engine.loops import epoch_program, gather_program
from jaxrobust.engine.optim import learning_rate, make_optimizer
from jaxrobust.engine.plan import make_plan, place_plan
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.runtime import Run, open_run
from jaxrobust.engine.sharding import fetch
from jaxrobust.engine.training import TrainState
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.losses import (
    binary_kl_loss,
    etf_deviation,
    gradient_conflict_report,
    logit_conflict,
)
from jaxrobust.methods import DISTILLERS, MULTILABEL_DISTILLERS
from jaxrobust.methods.distillation import (
    Batch,
    Distiller,
    Problem,
    distillation_schedule,
    distillation_step,
    inference_variables,
    start,
    student_apply,
)
from jaxrobust.models import (
    MOBILE_BACKBONES,
    make_classifier,
    make_multilabel_classifier,
)
from jaxrobust.models.dual_head import Outputs
from jaxrobust.models.storage import (
    StoredClassifier,
    load_classifier,
    save_classifier,
    save_program,
)
from jaxrobust.tasks.common import (
    batch_norm_parts,
    check_batch_size,
    check_common,
    compute_dtype,
    introduce_networks,
    load,
    next_command,
    write_test_files,
)
from jaxrobust.tasks.images import images_of, view_transforms

log = logging.getLogger("jaxrobust")

PARTS = {"head": ("primary",), "backbone": ("backbone",)}


@dataclasses.dataclass(frozen=True)
class _Protocol:
    """What differs between images with one label and with several.

    Attributes:
      distillers: methods by name.
      labels_only: name of the method that teachers are trained by.
      measures: `(logits [n, C], labels [n] or [n, C]) -> what a network scores`, as fractions.
      headline: name of the measure that decides which epoch is the best.
      beside: other measures to tell the user of -> what to call them.
    """

    distillers: Mapping[str, Callable[..., Distiller]]
    labels_only: str
    measures: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    headline: str
    beside: Mapping[str, str]

    def in_words(self, measures: Mapping[str, float]) -> str:
        shown = {self.headline: self.headline, **self.beside}
        return ", ".join(f"{title} {100 * measures[name]:.2f} %" for name, title in shown.items())


def _single_label_measures(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    values = {"accuracy": _mean_hits(logits, labels, 1)}
    if logits.shape[1] > 5:
        values["top5_accuracy"] = _mean_hits(logits, labels, 5)
    probs = np.asarray(jax.nn.softmax(logits))
    values["ece"] = metrics.expected_calibration_error(probs, labels)
    return values


def _multilabel_measures(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """mAP, and F1 with as many labels per image as it truly has and with those above 1/2."""
    oracle = metrics.multilabel_f1(metrics.oracle_topk_predictions(logits, targets), targets)
    threshold = metrics.multilabel_f1(logits > 0, targets)
    return {
        "mAP": metrics.mean_average_precision(logits, targets),
        **oracle,
        **{f"{name}_at_half": value for name, value in threshold.items()},
    }


_SINGLE_LABEL = _Protocol(
    distillers=DISTILLERS,
    labels_only="cross_entropy",
    measures=_single_label_measures,
    headline="accuracy",
    beside={"ece": "calibration error"},
)
_MULTILABEL = _Protocol(
    distillers=MULTILABEL_DISTILLERS,
    labels_only="bce",
    measures=_multilabel_measures,
    headline="mAP",
    beside={"OF1": "OF1", "CF1": "CF1"},
)


def run(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike,
    programs: Programs | None = None,
    *,
    dataset: Dataset | None = None,
) -> dict:
    """Runs a whole distillation experiment, or what is left of it.

    Args:
      config: a recipe, see `jaxrobust.tasks.options.Distillation`.
      workdir: where everything is written; that of an interrupted run goes on.
      programs: those of a run of the same recipe with another seed.
      dataset: one in memory, in place of the one that the recipe names.

    Returns:
      What `results.json` holds.

    Raises:
      UserError: if the recipe, the data, the teacher or the workdir is not usable.
    """
    _check(config)
    dataset = dataset or load(config, multilabel=None, streams=True)
    protocol = _MULTILABEL if dataset.is_multilabel else _SINGLE_LABEL
    if config.method not in protocol.distillers:
        several = "several labels" if dataset.is_multilabel else "one label"
        raise UserError(
            f"Images of {dataset.name} have {several} each. "
            + unknown_name("method for them", config.method, protocol.distillers)
        )
    check_batch_size(config, len(dataset.train))
    stored = _stored_teacher(config, dataset)
    distiller = _distiller(config, dataset, protocol, stored)
    if _has_table(config):
        _check_table(config, distiller)
    with open_run(config, workdir, programs) as run_:
        return _Distillation(config, run_, dataset, protocol, stored, distiller).run()


def _check(config: ml_collections.ConfigDict) -> None:
    """Refuses values that no method could run with."""
    check_common(config)
    cycle = config.optimizer.get("cycle_epochs", 0)
    for field in ("num_epochs", "teacher.num_epochs"):
        num_epochs = config.teacher.num_epochs if "teacher" in field else config.num_epochs
        if cycle and num_epochs > cycle:
            raise UserError(
                f"{field}={num_epochs} must be at most the {cycle} of optimizer.cycle_epochs, at "
                "whose end the learning rate is next to nothing."
            )


def _stored_teacher(
    config: ml_collections.ConfigDict, dataset: Dataset | FileDataset
) -> StoredClassifier | None:
    """The teacher that the recipe takes, None if it names none.

    Raises:
      UserError: if there is none at that place, it is damaged, or it knows other classes.
    """
    if not config.teacher.path:
        return None
    stored = load_classifier(config.teacher.path)
    if stored.num_classes != dataset.num_classes:
        raise UserError(
            f"The teacher in {config.teacher.path} tells {stored.num_classes} classes apart, but "
            f"{dataset.name} has {dataset.num_classes}; give another --config.teacher.path."
        )
    if (stored.decoder is not None) != dataset.is_multilabel:
        has, wants = (
            ("one label", "several") if stored.decoder is None else ("several labels", "one")
        )
        raise UserError(
            f"The teacher in {config.teacher.path} learned from images with {has}, but those of "
            f"{dataset.name} have {wants}; give another --config.teacher.path."
        )
    if stored.class_names and stored.class_names != dataset.class_names:
        log.warning(
            "The teacher in %s knows its classes as %s, those of %s are %s: if they are others, or "
            "in another order, it misleads the student.",
            config.teacher.path,
            _shortened(stored.class_names),
            dataset.name,
            _shortened(dataset.class_names),
        )
    return stored


def _shortened(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _classifier(
    config: ml_collections.ConfigDict,
    dataset: Dataset | FileDataset,
    name: str,
    auxiliary: str = "none",
) -> nn.Module:
    options = {"num_classes": dataset.num_classes, "dtype": compute_dtype(config.dtype)}
    if dataset.is_multilabel:
        return make_multilabel_classifier(name, decoder=dict(config.decoder), **options)
    return make_classifier(name, auxiliary=auxiliary, **options)


def _distiller(
    config: ml_collections.ConfigDict,
    dataset: Dataset | FileDataset,
    protocol: _Protocol,
    stored: StoredClassifier | None,
) -> Distiller:
    """The recipe's method.

    Raises:
      UserError: if the recipe's options of it, or of streamed images, are none.
    """
    if config.dataset.stream:
        view_transforms(config)
        image_shape = (config.dataset.image_size, config.dataset.image_size, 3)
    else:
        image_shape = dataset.train.images.shape[1:]
    dtype = compute_dtype(config.dtype)

    def features(module):
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        outputs, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), images)
        return outputs.features

    teacher = stored.module(dtype) if stored else _classifier(config, dataset, config.teacher.name)
    problem = Problem(
        num_classes=dataset.num_classes,
        student=config.student.name,
        teacher=stored.arch if stored else config.teacher.name,
        student_features=features(_classifier(config, dataset, config.student.name)),
        teacher_features=features(teacher),
        dtype=dtype,
    )
    return protocol.distillers[config.method](config, problem)


def _has_table(config: ml_collections.ConfigDict) -> bool:
    """Whether the teacher's logits are computed before the first step."""
    return config.teacher.get("logits", "step") == "table"


def _check_table(config: ml_collections.ConfigDict, distiller: Distiller) -> None:
    """Refuses a table of logits where a step needs anything else of the teacher.

    Raises:
      UserError: for such a method, or streamed images.
    """
    reason = None
    if not distiller.has_teacher:
        reason = f"method {config.method} learns from labels alone"
    elif not distiller.logits_only:
        reason = f"method {config.method} reads the teacher's features too"
    elif config.dataset.stream:
        reason = "streamed images are cropped anew on the host, and no two crops are alike"
    if reason:
        raise UserError(
            "teacher.logits='table' is for methods that read logits of images in memory, but "
            f"{reason}: set --config.teacher.logits=step."
        )


def _stored_backbone(config: ml_collections.ConfigDict, role: str) -> StoredClassifier | None:
    """The network whose backbone one of the two starts from, None if the recipe names none.

    Raises:
      UserError: if there is none at that place, it is damaged, or it is another one.
    """
    path, name = config[role].get("backbone", ""), config[role].name
    if not path or (role == "teacher" and config.teacher.path):
        return None
    stored = load_classifier(path)
    if stored.arch != name:
        raise UserError(
            f"{path} holds a {stored.arch}, not the {name} of {role}.name; give another "
            f"--config.{role}.backbone=."
        )
    return stored


class _Distillation:
    """One experiment in progress."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        run_: Run,
        dataset: Dataset,
        protocol: _Protocol,
        stored: StoredClassifier | None,
        distiller: Distiller,
    ):
        self.config = config
        self.io = run_
        self.dataset = dataset
        self.protocol = protocol
        self.dtype = compute_dtype(config.dtype)
        placement = run_.placement
        self._norm_parts = batch_norm_parts(config, placement)
        self._images = images_of(dataset.train, config, placement)
        self._test_images = images_of(dataset.test, config, placement)
        self.image_shape = self._images.shape
        self._crops = {"padding": config.augment.padding, "flip": config.augment.flip}
        self.stored = stored
        self.teacher_name = stored.arch if stored else config.teacher.name
        self.decoder = dict(config.decoder) if dataset.is_multilabel else None
        self.teacher_module = (
            stored.module(self.dtype) if stored else self._classifier(self.teacher_name)
        )
        if distiller.connector is not None:
            connector = distiller.connector.clone(norm_parts=self._norm_parts)
            distiller = dataclasses.replace(distiller, connector=connector)
        self.distiller = distiller
        self.student_module = self._classifier(config.student.name, self.distiller.auxiliary)
        self.has_teacher = bool(stored) or self.distiller.has_teacher
        self.trains_teacher = self.has_teacher and stored is None
        self.networks: dict[str, TrainState] = {}
        self.epochs: dict[str, list[dict]] = {"teacher": [], "student": []}
        self._labels = placement.put(dataset.train.labels)
        self._given = placement.put(stored.variables) if stored else None
        self._backbones = {role: _stored_backbone(config, role) for role in ("teacher", "student")}
        self._build_programs()

    def _classifier(self, name: str, auxiliary: str = "none") -> nn.Module:
        network = _classifier(self.config, self.dataset, name, auxiliary)
        return network.clone(norm_parts=self._norm_parts)

    # Programs

    def _build_programs(self) -> None:
        programs, placement, config = self.io.programs, self.io.placement, self.config
        count = len(self.dataset.train)
        full_epoch = make_plan(
            np.arange(count), config.batch_size, capacity=count, last_batch=config.last_batch
        )
        optimizer = make_optimizer(config.optimizer, full_epoch.num_steps)
        connector = self.distiller.connector
        apply = {
            "teacher": student_apply(self.teacher_module),
            "student": student_apply(self.student_module, connector),
        }
        modules = {"teacher": self.teacher_module, "student": self.student_module}
        predictors = {**modules, "student": self._classifier(config.student.name)}
        labels_only = self.protocol.distillers[self.protocol.labels_only](config, None)
        distillers = {"teacher": labels_only, "student": self.distiller}
        replicated = {"out_shardings": placement.replicated}
        self._start, self._epoch, self._predict = {}, {}, {}
        for role in ("teacher", "student"):
            self._start[role] = programs.jit(
                f"{role}/start",
                lambda key, role=role: start(
                    key,
                    modules[role],
                    optimizer,
                    self.image_shape,
                    connector if role == "student" else None,
                ),
                **replicated,
            )
            step = self._step(apply[role], distillers[role], optimizer)
            self._epoch[role] = epoch_program(programs, f"{role}/epoch", step, placement)
            self._predict[role] = gather_program(
                programs,
                f"{role}/predict",
                self._forward(predictors[role], role),
                len(self.dataset.test),
                placement,
            )
        self._tabulate = gather_program(
            programs, "teacher/table", self._forward_all_views(), count, placement
        )
        self._diagnose = None
        if self.protocol is _SINGLE_LABEL:
            ids = _diagnosed(config.seed, count, config.num_diagnosed)
            self._diagnosed = placement.put(
                (self._images.read(ids), self.dataset.train.labels[ids])
            )
            diagnosis = self._diagnosis(apply["student"])
            self._diagnose = programs.jit("diagnose", diagnosis, **replicated)

    def _normalized(self, images: jax.Array, role: str = "student") -> jax.Array:
        """Raw images as a network wants them: a stored teacher as it was trained."""
        of_teacher = role == "teacher" and self.stored and self.stored.mean
        source = self.stored if of_teacher else self.dataset
        return normalize(images, source.mean, source.std, dtype=self.dtype)

    def _step(self, apply, distiller: Distiller, optimizer: optax.GradientTransformation):
        def step(network, ids, key, teacher, images, labels, scalars):
            # Slots beyond the batch size only even the rows out over the devices.
            ids = ids[: self.config.batch_size]
            rows = jnp.maximum(ids, 0)
            augment_key, step_key = jax.random.split(key)
            (raw,) = views_at(images, rows, 1)
            numbers = draw_views(augment_key, len(raw), **self._crops)
            views = view_of(raw, numbers, **self._crops)
            batch = Batch(self._normalized(views), labels[rows], ids >= 0)
            taught = None
            if distiller.has_teacher and _has_table(self.config):
                logits = teacher[rows, numbers].astype(jnp.float32)
                taught = Outputs(logits, aux_logits=None, features=None)
            elif distiller.has_teacher:
                taught = self._teach(teacher, views)
            return distillation_step(
                network,
                batch,
                taught,
                step_key,
                scalars,
                apply=apply,
                distiller=distiller,
                optimizer=optimizer,
            )

        return step

    def _teach(self, variables, images):
        return self.teacher_module.apply(variables, self._normalized(images, "teacher"))

    def _forward(self, module: nn.Module, role: str):
        def logits(ids, key, variables, images):
            del key
            (raw,) = views_at(images, ids, 1)
            return module.apply(variables, self._normalized(raw, role)).logits

        return logits

    def _forward_all_views(self):
        """The teacher's logits `[n, V, C]` on every view that a step may draw of an image."""
        count = num_views(**self._crops)
        dtype = jnp.dtype(self.config.teacher.get("table_dtype", "float32"))

        def logits(ids, key, variables, images):
            del key
            numbers = jnp.tile(jnp.arange(count, dtype=jnp.int32), len(ids))
            views = view_of(images[jnp.repeat(ids, count)], numbers, **self._crops)
            taught = self._teach(variables, views).logits
            return taught.reshape(len(ids), count, -1).astype(dtype)

        return logits

    def _diagnosis(self, apply):
        """How the gradients of the losses agree on a few images, in evaluation mode."""
        temperature = self.config.distill.temperature or 2.0

        def diagnosis(student, teacher, images, labels):
            kernel = student["params"]["primary"]["Dense_0"]["kernel"]
            found = {"head": {"etf_deviation": etf_deviation(kernel.T)}}
            if not self.has_teacher:
                return found
            views = self._normalized(images)
            taught = self._teach(teacher, images)

            def losses(params):
                outputs, _ = apply(params, student["batch_stats"], views, train=False)
                cross_entropy = optax.softmax_cross_entropy_with_integer_labels(
                    outputs.logits, labels
                )
                on_head = binary_kl_loss(outputs.logits, taught.logits, temperature=temperature)
                losses = {"": jnp.mean(cross_entropy), "binary_kl": jnp.mean(on_head)}
                if self.distiller.has_teacher:
                    valid = jnp.ones(labels.shape, bool)
                    _, losses["distillation"] = self.distiller.objective(
                        outputs, taught, labels, valid, jnp.float32(1)
                    )
                return losses, outputs.logits

            values, pull_back, logits = jax.vjp(losses, student["params"], has_aux=True)
            grads = {
                name: pull_back({other: jnp.float32(other == name) for other in values})[0]
                for name in values
            }
            cross_entropy = grads.pop("")
            for name, grad in grads.items():
                parts = gradient_conflict_report(cross_entropy, grad, PARTS)
                found[name] = {
                    f"{part}_{measure}": value
                    for part, measures in parts.items()
                    for measure, value in measures.items()
                }
            inner = logit_conflict(logits, taught.logits, labels, temperature=temperature)
            found["binary_kl"]["conflicting_examples"] = jnp.mean(inner < 0, dtype=jnp.float32)
            return found

        return diagnosis

    # The loop

    def run(self) -> dict:
        """Trains what is to be trained, and returns the results."""
        config = self.config
        self._write_inputs()
        phases = [("teacher", config.teacher.num_epochs)] if self.trains_teacher else []
        phases.append(("student", config.num_epochs))
        total = sum(num_epochs for _, num_epochs in phases)
        self._introduce()
        done = self._restore()
        introduce_networks(self.networks, self.dtype, self.io)
        self.io.start_progress(total=total, done=done)
        first = 0
        for role, num_epochs in phases:
            if role == "student":
                self._settle_teacher()
                if _has_table(config) and done < total:
                    self._table = self._teacher_table()
            for epoch in range(max(done - first, 0), num_epochs):
                self._epoch_of(role, epoch, num_epochs, first)
            first += num_epochs
        self.io.save(total, self._tree(), self._record(total))
        self.io.flush()
        return self._finish()

    def _epoch_of(self, role: str, epoch: int, num_epochs: int, first: int) -> None:
        self._train(role, epoch, num_epochs, first)
        entry = {"epoch": epoch, **self._test_measures(role)}
        step = first + epoch + 1
        self._write("test", role, step, epoch, entry)
        if role == "student" and self._diagnose:
            entry["diagnosis"] = self._diagnose_epoch(step, epoch)
        self.epochs[role].append(entry)
        self.io.epoch_done(
            step,
            self._tree(),
            self._record(step),
            f"{role} epoch {epoch + 1}/{num_epochs}, {self.protocol.headline} "
            f"{100 * entry[self.protocol.headline]:.2f} %",
        )

    def _train(self, role: str, epoch: int, num_epochs: int, first: int) -> None:
        config, seed, placement = self.config, self.config.seed, self.io.placement
        count = len(self.dataset.train)
        plan = place_plan(
            rng.generator(seed, f"{role}/order", epoch).permutation(count),
            config.batch_size,
            placement,
            capacity=count,
            last_batch=config.last_batch,
        )
        warm_up = self.distiller.warm_up if role == "student" else 0
        until_epoch = config.distill_until_epoch
        scalars = {
            "learning_rate": self._learning_rate(role, epoch, num_epochs),
            **distillation_schedule(epoch, warm_up=warm_up, until_epoch=until_epoch),
        }
        uses_teacher = role == "student" and self.distiller.has_teacher

        def keep(network):
            self.networks[role] = network
            return self._tree(), self._record(first + epoch)

        self.networks[role], sums = self._epoch[role](
            self.networks[role],
            plan,
            rng.stream(seed, f"{role}/epoch", epoch),
            self._instruction() if uses_teacher else {},
            self._images.visit(("weak",), f"{role}/epoch", epoch),
            self._labels,
            {name: np.float32(value) for name, value in scalars.items()},
            resume=self.io.within_epoch(
                first + epoch,
                f"{role} epoch {epoch + 1}/{num_epochs}",
                keep,
                num_steps=plan.num_steps,
            ),
        )
        event = {"step": first + epoch + 1, "split": "train", "phase": role, "epoch": epoch}
        event["steps"] = [epoch * plan.num_steps + 1, (epoch + 1) * plan.num_steps]
        notes = {name: value * plan.num_steps for name, value in scalars.items()}
        self.io.write(event, {**sums, **notes}, count=plan.num_steps)

    def _learning_rate(self, role: str, epoch: int, num_epochs: int) -> float:
        optimizer = self.config.optimizer.copy_and_resolve_references()
        name = self.teacher_name if role == "teacher" else self.config.student.name
        if name in MOBILE_BACKBONES and "mobile_learning_rate" in optimizer:
            optimizer.learning_rate = optimizer.mobile_learning_rate
        return learning_rate(optimizer, epoch, num_epochs)

    def _variables(self, role: str) -> dict[str, Any]:
        """What the predictions of a network need."""
        if role == "teacher" and self.stored:
            return self._given
        return inference_variables(self.networks[role].variables)

    def _logits(self, role: str) -> np.ndarray:
        """Logits on the test images."""
        plan = place_plan(
            np.arange(len(self.dataset.test)),
            self.config.eval_batch_size,
            self.io.placement,
            capacity=len(self.dataset.test),
        )
        key = rng.stream(self.config.seed, f"{role}/predict")
        images = self._test_images.visit(("test",), f"{role}/predict")
        return fetch(self._predict[role](plan, key, self._variables(role), images))

    def _instruction(self) -> Any:
        """What a step finds the teacher's outputs in: its table of logits, or its variables."""
        return self._table if _has_table(self.config) else self._variables("teacher")

    def _teacher_table(self) -> jax.Array:
        """The teacher's logits `[N, V, C]` on all views of all training images."""
        count, views = len(self.dataset.train), num_views(**self._crops)
        size = count * views * self.dataset.num_classes
        bytes_ = size * jnp.dtype(self.config.teacher.table_dtype).itemsize
        log.info(
            "Teacher's logits on %d views of %d images: %.2f GB of every device's memory",
            views,
            count,
            bytes_ / 1e9,
        )
        plan = place_plan(
            np.arange(count),
            max(self.config.eval_batch_size // views, 1),
            self.io.placement,
            capacity=count,
        )
        key = rng.stream(self.config.seed, "teacher/table")
        images = self._images.visit(("weak",), "teacher/table")
        return self._tabulate(plan, key, self._variables("teacher"), images)

    def _test_measures(self, role: str) -> dict[str, float]:
        return self.protocol.measures(self._logits(role), self.dataset.test.labels)

    def _diagnose_epoch(self, step: int, epoch: int) -> dict[str, dict[str, float]]:
        values = self._diagnose(
            self.networks["student"].variables,
            self._variables("teacher") if self.has_teacher else {},
            *self._diagnosed,
        )
        values = jax.tree.map(float, fetch(values))
        for name, measures in values.items():
            self._write("diagnosis", name, step, epoch, measures)
        return values

    def _write(self, split: str, phase: str, step: int, epoch: int, values: dict) -> None:
        values = {name: value for name, value in values.items() if name != "epoch"}
        self.io.write({"step": step, "split": split, "phase": phase, "epoch": epoch}, values)

    # Checkpoints

    def _tree(self) -> dict:
        return {"networks": self.networks}

    def _record(self, step: int) -> dict:
        return {"epoch": step, "epochs": self.epochs}

    def _restore(self) -> int:
        """Epochs done, those of the teacher included; fills the state."""
        roles = ("teacher", "student") if self.trains_teacher else ("student",)
        self.networks = {
            role: self._pretrained(
                role, self._start[role](rng.stream(self.config.seed, f"{role}/start"))
            )
            for role in roles
        }
        found = self.io.restore(self._tree())
        if found is None:
            return 0
        tree, record = found
        self.networks, self.epochs = tree["networks"], record["epochs"]
        return record["epoch"]

    def _pretrained(self, role: str, network: TrainState) -> TrainState:
        """The network with the backbone that the recipe names for it, if it names one."""
        stored = self._backbones[role]
        if stored is None:
            return network
        given = self.io.placement.put(
            {key: stored.variables[key]["backbone"] for key in ("params", "batch_stats")}
        )
        return network.replace(
            params={**network.params, "backbone": given["params"]},
            batch_stats={**network.batch_stats, "backbone": given["batch_stats"]},
        )

    # Files

    def _write_inputs(self) -> None:
        """`inputs.json`: which data and which teacher the run saw."""
        facts = {
            "dataset_sha256": fingerprint(self.dataset),
            "class_names": list(self.dataset.class_names),
            "teacher_sha256": _digest(self.stored.variables) if self.stored else None,
        }
        self.io.begin("inputs.json", facts, dtype=self.dtype)

    def _settle_teacher(self) -> None:
        """`teacher/`, once it is trained, and what it scores."""
        if self.trains_teacher:
            save_classifier(self._as_stored("teacher"), self.io.workdir / "teacher")
        elif self.stored and not self.epochs["teacher"]:
            self.epochs["teacher"] = [self._test_measures("teacher")]
        if self.has_teacher:
            scored = self.protocol.in_words(self.epochs["teacher"][-1])
            log.info("Teacher %s: %s", self.teacher_name, scored)

    def _as_stored(self, role: str) -> StoredClassifier:
        dataset = self.dataset
        return StoredClassifier(
            arch=self.teacher_name if role == "teacher" else self.config.student.name,
            num_classes=dataset.num_classes,
            variables=fetch(self._variables(role)),
            class_names=dataset.class_names,
            image_shape=self.image_shape,
            mean=dataset.mean,
            std=dataset.std,
            decoder=self.stored.decoder if role == "teacher" and self.stored else self.decoder,
        )

    def _draw(self, results: dict) -> None:
        folder = self.io.workdir / "figures"
        multilabel = self.protocol is _MULTILABEL
        draw = figures.multilabel_curves if multilabel else figures.distillation_curves
        draw({self.config.method: [results]}, folder / "epochs.png")
        squash = jax.nn.sigmoid if multilabel else jax.nn.softmax
        probs = np.asarray(squash(self._logits("student")))
        write_test_files(self.io.workdir, probs, self.dataset.test.labels, self.dataset.class_names)

    # What the user sees

    def _introduce(self) -> None:
        log.info(
            "%s on %s: %d training images, %d classes, %s%s",
            self.config.method,
            self.dataset.name,
            len(self.dataset.train),
            self.dataset.num_classes,
            self.config.student.name,
            f" taught by {self.teacher_name}" if self.has_teacher else "",
        )

    def _finish(self) -> dict:
        epochs, workdir = self.epochs["student"], self.io.workdir
        student = self._as_stored("student")
        results = {
            "task": "distillation",
            "method": self.config.method,
            "dataset": self.dataset.name,
            "seed": self.config.seed,
            "num_classes": self.dataset.num_classes,
            "student": {
                "name": student.arch,
                "auxiliary": self.distiller.auxiliary,
                "num_parameters": sum(x.size for x in jax.tree.leaves(student.variables["params"])),
            },
            "teacher": None,
            "last": epochs[-1],
            "best": _best(epochs, self.protocol.headline),
            "epochs": epochs,
        }
        if self.has_teacher:
            measures = {k: v for k, v in self.epochs["teacher"][-1].items() if k != "epoch"}
            results["teacher"] = {"name": self.teacher_name, **measures}
        write_json(workdir / "results.json", results)
        save_classifier(student, workdir / "student")
        if self.config.export.program:
            save_program(student, workdir / "student", dtype=self.dtype)
        self._draw(results)
        self.io.write_timing()
        best = results["best"]
        lines = [
            f"last epoch: {self.protocol.in_words(epochs[-1])}; best {self.protocol.headline} "
            f"{100 * best[self.protocol.headline]:.2f} % (epoch {best['epoch'] + 1}), "
            f"{self.io.seconds:.0f} s in all",
            f"results: {workdir / 'results.json'}",
            f"student, without the auxiliary head: {workdir / 'student'}",
            f"figures: {workdir / 'figures'}",
            next_command(workdir),
        ]
        for line in lines:
            log.info(line)
        return results


def _diagnosed(seed: int, count: int, num_diagnosed: int) -> np.ndarray:
    """Ids of the images on which gradients are compared, the same in every epoch."""
    ids = rng.generator(seed, "diagnosis").choice(count, min(num_diagnosed, count), replace=False)
    return np.sort(ids).astype(np.int32)


def _digest(variables: Any) -> str:
    """SHA-256 over all arrays, in the order of their paths."""
    digest = hashlib.sha256()
    for path, x in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(x))
    return digest.hexdigest()


def _best(epochs: list[dict], headline: str) -> dict:
    best = int(np.argmax([e[headline] for e in epochs]))
    return {
        "epoch": best,
        headline: epochs[best][headline],
        "rule": f"highest test {headline} of any epoch, known only by looking at the test set",
    }


def _mean_hits(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    return float(np.mean(np.asarray(metrics.topk_accuracy(logits, labels, k)), dtype=np.float64))
