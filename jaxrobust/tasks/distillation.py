"""Knowledge distillation: train or take a teacher, train a student under it, hand the student over.

The same loop serves every method. Only the student's primary head is ever evaluated; its last epoch
is the headline, and its best one, known only by looking at the test set, stands beside it.
"""

import hashlib
import json
import logging
import os
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from jaxrobust import metrics, report
from jaxrobust.data.augment import normalize, pad_crop_flip
from jaxrobust.data.sources import Dataset, fingerprint
from jaxrobust.engine import rng
from jaxrobust.engine.optim import learning_rate, make_optimizer
from jaxrobust.engine.plan import LAST_BATCHES, place_plan
from jaxrobust.engine.programs import Programs, epoch_program, gather_program
from jaxrobust.engine.runtime import Run, open_run, write_json
from jaxrobust.engine.sharding import fetch
from jaxrobust.engine.training import TrainState
from jaxrobust.errors import UserError
from jaxrobust.losses import (
    binary_kl_loss,
    etf_deviation,
    gradient_conflict_report,
    logit_conflict,
)
from jaxrobust.methods import DISTILLERS
from jaxrobust.methods.distillation import (
    Batch,
    Distiller,
    Problem,
    distillation_step,
    distillation_weight,
    inference_variables,
    start,
    student_apply,
)
from jaxrobust.methods.kd_baselines import cross_entropy
from jaxrobust.models import BACKBONES, make_classifier
from jaxrobust.models.storage import Stored, load_classifier, save_classifier, save_program
from jaxrobust.recipes import check_choices, check_minima
from jaxrobust.tasks._shared import compute_dtype, introduce_networks, load

log = logging.getLogger("jaxrobust")

# Networks that the benchmark trains at `optimizer.mobile_learning_rate`.
MOBILE = ("mobilenet_v2", "shufflenet_v1", "shufflenet_v2")
NUM_DIAGNOSED = 512  # training images on which gradients are compared
PARTS = {"head": ("primary",), "backbone": ("backbone",)}


def run(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike,
    programs: Programs | None = None,
) -> dict:
    """Runs a whole distillation experiment, or what is left of it.

    Args:
      config: a recipe with the fields of `jaxrobust.recipes.distillation`.
      workdir: where everything is written; that of an interrupted run goes on.
      programs: those of a run of the same recipe with another seed.

    Returns:
      What `results.json` holds.

    Raises:
      UserError: if the recipe, the data, the teacher or the workdir is not usable.
    """
    _check(config)
    dataset = load(config)
    stored = _stored_teacher(config, dataset)
    with open_run(config, workdir, programs) as run_:
        return _Distillation(config, run_, dataset, stored).run()


def _check(config: ml_collections.ConfigDict) -> None:
    """Refuses values that no method could run with."""
    check_choices(
        config,
        {
            "method": DISTILLERS,
            "student.name": BACKBONES,
            "last_batch": LAST_BATCHES,
            **({} if config.teacher.path else {"teacher.name": BACKBONES}),
        },
    )
    check_minima(
        config,
        {
            "num_epochs": 1,
            "teacher.num_epochs": 1,
            "batch_size": 1,
            "eval_batch_size": 1,
            "distill_until_epoch": 0,
        },
    )


def _stored_teacher(config: ml_collections.ConfigDict, dataset: Dataset) -> Stored | None:
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
    return stored


class _Distillation:
    """One experiment in progress."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        run_: Run,
        dataset: Dataset,
        stored: Stored | None,
    ):
        self.config = config
        self.io = run_
        self.dataset = dataset
        self.dtype = compute_dtype(config.dtype)
        self.image_shape = dataset.train.images.shape[1:]
        self.stored = stored
        self.teacher_name = stored.name if stored else config.teacher.name
        self.teacher_module = self._classifier(self.teacher_name)
        self.distiller = self._make_distiller()
        self.student_module = self._classifier(config.student.name, self.distiller.auxiliary)
        self.has_teacher = bool(stored) or self.distiller.has_teacher
        self.trains_teacher = self.has_teacher and stored is None
        self.networks: dict[str, TrainState] = {}
        self.epochs: dict[str, list[dict]] = {"teacher": [], "student": []}
        placement = run_.placement
        self._images = placement.put(dataset.train.images)
        self._labels = placement.put(dataset.train.labels)
        self._test_images = placement.put(dataset.test.images)
        self._given = placement.put(stored.variables) if stored else None
        self._build_programs()

    def _classifier(self, name: str, auxiliary: str = "none") -> nn.Module:
        return make_classifier(
            name, num_classes=self.dataset.num_classes, auxiliary=auxiliary, dtype=self.dtype
        )

    def _make_distiller(self) -> Distiller:
        images = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
        outputs, _ = jax.eval_shape(
            self.teacher_module.init_with_output, jax.random.key(0), images
        )
        problem = Problem(
            num_classes=self.dataset.num_classes,
            student=self.config.student.name,
            teacher=self.teacher_name,
            teacher_features=outputs.features,
        )
        return DISTILLERS[self.config.method](self.config, problem)

    # Programs

    def _build_programs(self) -> None:
        programs, placement, config = self.io.programs, self.io.placement, self.config
        optimizer = make_optimizer(config.optimizer)
        connector = self.distiller.connector
        apply = {
            "teacher": student_apply(self.teacher_module),
            "student": student_apply(self.student_module, connector),
        }
        modules = {"teacher": self.teacher_module, "student": self.student_module}
        distillers = {"teacher": cross_entropy(config, None), "student": self.distiller}
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
            self._epoch[role] = epoch_program(
                programs,
                f"{role}/epoch",
                self._step(apply[role], distillers[role], optimizer),
                placement,
            )
            self._predict[role] = gather_program(
                programs,
                f"{role}/predict",
                self._forward(modules[role]),
                len(self.dataset.test),
                placement,
            )
        self._diagnose = programs.jit("diagnose", self._conflicts(apply["student"]), **replicated)

    def _normalized(self, images: jax.Array) -> jax.Array:
        return normalize(images, self.dataset.mean, self.dataset.std, dtype=self.dtype)

    def _step(self, apply, distiller: Distiller, optimizer: optax.GradientTransformation):
        augment = self.config.augment

        def step(network, ids, key, teacher, images, labels, scalars):
            # Slots beyond the batch size only even the rows out over the devices.
            ids = ids[: self.config.batch_size]
            rows = jnp.maximum(ids, 0)
            augment_key, step_key = jax.random.split(key)
            views = pad_crop_flip(
                augment_key, images[rows], padding=augment.padding, flip=augment.flip
            )
            batch = Batch(self._normalized(views), labels[rows], ids >= 0)
            taught = self._teach(teacher, batch.images) if distiller.has_teacher else None
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
        return self.teacher_module.apply(variables, images)

    def _forward(self, module: nn.Module):
        def forward(ids, key, variables, images):
            del key
            return module.apply(inference_variables(variables), self._normalized(images[ids]))

        def logits(*args):
            return forward(*args).logits

        return logits

    def _conflicts(self, apply):
        """Compares the gradients of the losses on a few images, in evaluation mode."""
        temperature = self.config.distill.temperature or 2.0

        def conflicts(student, teacher, ids, images, labels):
            views, labels = self._normalized(images[ids]), labels[ids]
            taught = self._teach(teacher, views)
            valid = jnp.ones(ids.shape, bool)

            def losses(params):
                outputs, _ = apply(params, student["batch_stats"], views, train=False)
                losses = {
                    "classification": jnp.mean(
                        optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels)
                    ),
                    "binary_kl": jnp.mean(
                        binary_kl_loss(outputs.logits, taught.logits, temperature=temperature)
                    ),
                }
                if self.distiller.has_teacher:
                    losses["distillation"] = self.distiller.objective(
                        outputs, taught, labels, valid
                    )[1]
                return losses, outputs.logits

            values, pull_back, logits = jax.vjp(losses, student["params"], has_aux=True)
            grads = {
                name: pull_back({other: jnp.float32(other == name) for other in values})[0]
                for name in values
            }
            of_logits = logit_conflict(logits, taught.logits, labels, temperature=temperature)
            found = {
                f"{name}/{part}_{measure}": value
                for name in values
                if name != "classification"
                for part, measures in gradient_conflict_report(
                    grads["classification"], grads[name], PARTS
                ).items()
                for measure, value in measures.items()
            }
            found["binary_kl/logits_conflicting"] = jnp.mean(of_logits < 0, dtype=jnp.float32)
            return found

        return conflicts

    # The loop

    def run(self) -> dict:
        """Trains what is to be trained, and returns the results."""
        config = self.config
        self._write_inputs()
        phases = [("teacher", config.teacher.num_epochs)] if self.trains_teacher else []
        phases.append(("student", config.num_epochs))
        total = sum(num_epochs for _, num_epochs in phases)
        done = self._restore()
        self._introduce(resumed=done > 0)
        self.io.start_progress(total=total, done=done)
        first = 0
        for role, num_epochs in phases:
            if role == "student":
                self._settle_teacher()
            for epoch in range(max(done - first, 0), num_epochs):
                self._epoch_of(role, epoch, num_epochs, first)
            first += num_epochs
        self.io.save(total, self._tree(), self._record(total))
        self.io.flush()
        return self._finish()

    def _epoch_of(self, role: str, epoch: int, num_epochs: int, first: int) -> None:
        self._train(role, epoch, num_epochs, first)
        entry = {"epoch": epoch, **self._test_measures(role, self._variables(role))}
        step = first + epoch + 1
        self.io.write({"step": step, "split": "test", "phase": role, "epoch": epoch}, _numbers(entry))
        if role == "student":
            entry |= self._diagnosis(step, epoch)
        self.epochs[role].append(entry)
        self.io.epoch_done(
            step,
            self._tree(),
            self._record(step),
            f"{role} epoch {epoch + 1}/{num_epochs}, accuracy {100 * entry['accuracy']:.2f} %",
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
        distiller_warm_up = self.distiller.warm_up if role == "student" else 0
        scalars = {
            "learning_rate": self._learning_rate(role, epoch, num_epochs),
            "distill_weight": distillation_weight(
                epoch, warm_up=distiller_warm_up, until_epoch=config.distill_until_epoch
            ),
        }
        uses_teacher = role == "student" and self.distiller.has_teacher
        self.networks[role], sums = self._epoch[role](
            self.networks[role],
            plan,
            rng.stream(seed, f"{role}/epoch", epoch),
            self._teacher_variables() if uses_teacher else {},
            self._images,
            self._labels,
            {name: np.float32(value) for name, value in scalars.items()},
        )
        event = {"step": first + epoch + 1, "split": "train", "phase": role, "epoch": epoch}
        event["steps"] = [epoch * plan.num_steps + 1, (epoch + 1) * plan.num_steps]
        notes = {name: value * plan.num_steps for name, value in scalars.items()}
        self.io.write(event, {**sums, **notes}, count=plan.num_steps)

    def _learning_rate(self, role: str, epoch: int, num_epochs: int) -> float:
        optimizer = self.config.optimizer.copy_and_resolve_references()
        name = self.teacher_name if role == "teacher" else self.config.student.name
        if name in MOBILE:
            optimizer.learning_rate = optimizer.mobile_learning_rate
        return learning_rate(optimizer, epoch, num_epochs)

    def _variables(self, role: str) -> dict[str, Any]:
        return self.networks[role].variables

    def _teacher_variables(self) -> dict[str, Any]:
        return self._given if self.stored else inference_variables(self._variables("teacher"))

    def _logits(self, role: str, variables: dict[str, Any]) -> np.ndarray:
        plan = place_plan(
            np.arange(len(self.dataset.test)),
            self.config.eval_batch_size,
            self.io.placement,
            capacity=len(self.dataset.test),
        )
        key = rng.stream(self.config.seed, f"{role}/predict")
        return fetch(self._predict[role](plan, key, variables, self._test_images))

    def _test_measures(self, role: str, variables: dict[str, Any]) -> dict[str, float]:
        logits, labels = self._logits(role, variables), self.dataset.test.labels
        values = {"accuracy": _mean_hits(logits, labels, 1)}
        if self.dataset.num_classes > 5:
            values["top5_accuracy"] = _mean_hits(logits, labels, 5)
        values["ece"] = metrics.expected_calibration_error(np.asarray(jax.nn.softmax(logits)), labels)
        return values

    def _diagnosis(self, step: int, epoch: int) -> dict[str, Any]:
        """Agreement of the gradients on a fixed batch, and the shape of the classifier."""
        params = self.networks["student"].params
        found = {"etf_deviation": float(etf_deviation(params["primary"]["Dense_0"]["kernel"].T))}
        event = {"step": step, "split": "diagnosis", "epoch": epoch}
        self.io.write({**event, "phase": "head"}, found)
        if not self.has_teacher:
            return found
        count = len(self.dataset.train)
        ids = rng.generator(self.config.seed, "diagnosis").choice(
            count, min(NUM_DIAGNOSED, count), replace=False
        )
        values = fetch(
            self._diagnose(
                self.networks["student"].variables,
                self._teacher_variables(),
                self.io.placement.put(np.sort(ids).astype(np.int32)),
                self._images,
                self._labels,
            )
        )
        conflict: dict[str, dict[str, float]] = {}
        for name, value in values.items():
            loss, measure = name.split("/")
            conflict.setdefault(loss, {})[measure] = float(value)
        for loss, measures in conflict.items():
            self.io.write({**event, "phase": loss}, measures)
        return {**found, "conflict": conflict}

    # Checkpoints

    def _tree(self) -> dict:
        return {"networks": self.networks}

    def _record(self, step: int) -> dict:
        return {"epoch": step, "epochs": self.epochs}

    def _restore(self) -> int:
        """Epochs done, those of the teacher included; fills the state."""
        roles = ("teacher", "student") if self.trains_teacher else ("student",)
        self.networks = {
            role: self._start[role](rng.stream(self.config.seed, f"{role}/start")) for role in roles
        }
        found = self.io.restore(self._tree())
        if found is None:
            return 0
        tree, record = found
        self.networks, self.epochs = tree["networks"], record["epochs"]
        return record["epoch"]
