"""Knowledge distillation: train or take a teacher, train a student under it, hand the student over.

The same loop serves every method. Only the student's primary head is ever evaluated. Its last epoch
is the headline; its best epoch, which is chosen on the test set, is reported too.
"""

import dataclasses
import logging
import os
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.data.augment import num_views
from jaxrobust.data.dataset import Dataset, fingerprint
from jaxrobust.engine import rng
from jaxrobust.engine.advice import expected_on_cpu
from jaxrobust.engine.plan import place_plan
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.run import Run, Saved, open_run
from jaxrobust.engine.sharding import fetch
from jaxrobust.methods.distillation_steps import ClassifierState, inference_variables
from jaxrobust.methods.distiller import distillation_schedule
from jaxrobust.models.costs import num_operations
from jaxrobust.models.storage import StoredClassifier, save_classifier
from jaxrobust.recipes.dhkd import Distillation
from jaxrobust.recipes.l2d import MultilabelDistillation
from jaxrobust.recipes.parse import DistillationRecipe
from jaxrobust.tasks.common import compute_dtype, introduce_networks
from jaxrobust.tasks.distillation_inputs import Inputs, class_weights, read_inputs, targets_of
from jaxrobust.tasks.distillation_measures import MAX_RETRIEVED, multilabel_comparison
from jaxrobust.tasks.distillation_results import (
    class_by_class,
    last_lines,
    results_of,
    write_files,
)
from jaxrobust.tasks.distillation_roles import make_networks, uses_table
from jaxrobust.tasks.teachers import NetworkTeacher, TeacherLogits, start_from

log = logging.getLogger("jaxrobust")


def run(
    recipe: DistillationRecipe,
    workdir: str | os.PathLike,
    programs: Programs | None = None,
    *,
    dataset: Dataset | None = None,
    teacher: TeacherLogits | None = None,
    bar: bool | None = None,
    pads: bool = False,
) -> dict:
    """Runs a whole distillation experiment, or what is left of it.

    Args:
      recipe: see `jaxrobust.recipes.parse`.
      workdir: where everything is written; that of an interrupted run is resumed.
      programs: those of a run of the same recipe with another seed.
      dataset: one in memory, in place of the one that the recipe names.
      teacher: a teacher's logits on these images, in place of the one that the recipe names.
      bar: see `open_run`.
      pads: whether runs on about as many images can share programs.

    Returns:
      What `results.json` holds.

    Raises:
      UserError: if the recipe, the data, the teacher or the workdir is not usable.
    """
    inputs = read_inputs(recipe, dataset, teacher, pads=pads)
    with open_run(recipe, workdir, programs, bar=bar) as run_:
        return _Distillation(recipe, run_, _with_teacher_logits(recipe, run_, inputs)).distill()


def _with_teacher_logits(recipe: DistillationRecipe, run_: Run, inputs: Inputs) -> Inputs:
    """The inputs with the logits of a teacher that sees other images than the student, unless it is
    trained in this run."""
    if inputs.teacher is None:
        return inputs
    teacher = inputs.teacher.with_logits(recipe, run_.workdir, inputs.dataset, inputs.taught)
    return dataclasses.replace(inputs, teacher=teacher)


class _Distillation:
    """One experiment in progress."""

    def __init__(self, recipe: DistillationRecipe, run_: Run, inputs: Inputs):
        self.recipe = recipe
        self.run = run_
        self.dataset, self.protocol = inputs.dataset, inputs.protocol
        self.taught, self.teacher = inputs.taught, inputs.teacher
        self.dtype = compute_dtype(recipe.dtype)
        networks = make_networks(recipe, run_, inputs)
        self.roles, self.distiller = networks.roles, networks.distiller
        self._tabulate, self._diagnose = networks.tabulate, networks.diagnose
        self._looks_up = uses_table(recipe, self.teacher)
        self.saved = Saved(  # at the role's place in `ROLES`, and its epoch
            record={"epochs": {role: [] for role in self.roles}}, at=(0, 0)
        )
        self._rows, self._padded = inputs.rows, inputs.padded
        put, probs = run_.placement.put, getattr(self.taught, "probs", None)
        self._labels: Any = put(self._padded(self.taught.labels if probs is None else probs))
        if targets_of(recipe, self.dataset, self.taught):
            weights = put(class_weights(recipe, self.dataset))
            self._labels = {"labels": self._labels, "class_weights": weights}
        if self.teacher and self.teacher.network:
            self._given = put(self.teacher.network.variables)
        if isinstance(recipe, Distillation):
            ids = _diagnosed(recipe.seed, len(self.dataset.train), recipe.num_diagnosed)
            images = self.roles["student"].view.images.read(ids)
            self._diagnosed_ids = ids
            self._diagnosed = run_.placement.put_split((images, self.dataset.train.labels[ids]))

    @property
    def epochs(self) -> dict[str, list[dict]]:
        """What each network has scored on the test images, by role."""
        return self.saved.record["epochs"]

    # The loop

    def distill(self) -> dict:
        """Trains what is to be trained, and returns the results."""
        run, saved = self.run, self.saved
        self._write_inputs()
        self._introduce()
        self._restore()
        introduce_networks(saved.networks, self.dtype, run)
        trained = {
            name: (num_operations(self._as_stored(name)) / 1e9, role.num_examples, role.num_epochs)
            for name, role in self.roles.items()
            if role.num_epochs
        }
        heads = isinstance(self.recipe, Distillation)
        teacher = "--config.teacher.backbone=efficientnet_lite0" if heads else ""
        for warning in expected_on_cpu(trained, teacher=teacher):
            log.warning("warning: %s", warning)
        run.start_progress(saved, total=sum(role.num_epochs for role in self.roles.values()))
        first = saved.at
        for number, (name, role) in list(enumerate(self.roles.items()))[first[0] :]:
            if name == "student" or (number == first[0] and name == "student_alone"):
                self._finish_teacher()
            if name == "student" and self.distiller.has_teacher and self._looks_up:
                if self._epochs_before(saved.at) < self._epochs_before((1, role.num_epochs)):
                    self._table = self._teacher_table()
            for epoch in range(first[1] if number == first[0] else 0, role.num_epochs):
                self._train(name, epoch)
                entry = self._test(name, epoch)
                self.epochs[name].append(entry)
                headline = self.protocol.headline
                where = f"{self._where(name, epoch)}, {headline} {100 * entry[headline]:.2f} %"
                run.epoch_done(saved, at=(number, epoch + 1), where=where)
        run.save(saved)
        return self._finish()

    def _epochs_before(self, at: tuple[int, ...]) -> int:
        """Finished epochs of all networks."""
        number, epoch = at
        return sum(role.num_epochs for role in list(self.roles.values())[:number]) + epoch

    def _where(self, role: str, epoch: int) -> str:
        return f"{role} epoch {epoch + 1}/{self.roles[role].num_epochs}"

    def _test(self, role: str, epoch: int) -> dict[str, Any]:
        """What a network scores after an epoch and, of the student, how its gradients agree."""
        entry = {"epoch": epoch, **self._test_measures(role)}
        self._write("test", role, role, epoch, entry)
        if role == "student" and self.protocol.diagnoses:
            entry["diagnosis"] = self._diagnose_epoch(epoch)
        return entry

    def _train(self, name: str, epoch: int) -> None:
        """An epoch, or what is left of it."""
        recipe, seed, role = self.recipe, self.recipe.seed, self.roles[name]
        plan = place_plan(
            rng.generator(seed, f"{role.draws}/order", epoch).permutation(role.num_examples),
            recipe.batch_size,
            self.run.placement,
            capacity=self._rows(role.num_examples),
            last_batch=recipe.last_batch,
        )
        warm_up = self.distiller.warm_up if name == "student" else 0
        until_epoch = recipe.distill_until_epoch or self.distiller.until_epoch
        scalars = {
            "learning_rate": role.learning_rate(epoch),
            **distillation_schedule(
                epoch,
                warm_up=warm_up,
                until_epoch=until_epoch,
                warm_up_from=self.distiller.warm_up_from,
            ),
        }
        uses_teacher = name == "student" and self.distiller.has_teacher
        self.run.train(
            self.saved,
            name,
            role.train,
            plan,
            rng.stream(seed, f"{role.draws}/epoch", epoch),
            self._teacher_operand() if uses_teacher else {},
            role.view.images.visit(("weak",), f"{role.draws}/epoch", epoch),
            self._labels,
            role.view.statistics,
            scalars=scalars,
            at=(role.number, epoch),
            event={
                "phase": name,
                "epoch": epoch,
                "steps": [epoch * plan.num_steps + 1, (epoch + 1) * plan.num_steps],
            },
            where=self._where(name, epoch),
            notes=scalars,
        )

    def _variables(self, role: str) -> dict[str, Any]:
        """The variables that a network predicts with."""
        if role == "teacher" and self.teacher and self.teacher.network:
            return self._given
        network = cast(ClassifierState, self.saved.networks[role])
        return inference_variables(network.predicting)

    def _operand(self, role: str) -> dict[str, Any]:
        """A network that predicts, as an operand of programs."""
        statistics = self.roles[role].view.statistics
        return {"variables": self._variables(role), "statistics": statistics}

    def _teacher_operand(self) -> dict[str, Any]:
        """The operand of a step: a table of the teacher's logits, or the teacher."""
        return {"table": self._table} if self._looks_up else self._operand("teacher")

    def _logits(self, role: str) -> np.ndarray:
        """Logits on the test images."""
        return self._outputs(self.roles[role].predict, role, np.arange(len(self.dataset.test)))

    def _outputs(self, program: Any, role: str, ids: np.ndarray) -> np.ndarray:
        """Outputs of a program of predictions for test images."""
        plan = place_plan(
            ids,
            self.recipe.eval_batch_size,
            self.run.placement,
            capacity=self._rows(len(self.dataset.test)),
        )
        key = rng.stream(self.recipe.seed, f"{role}/predict")
        images = self.roles[role].view.test_images.visit(("test",), f"{role}/predict")
        return fetch(program(plan, key, self._operand(role), images))[ids]

    def _comparison(self) -> dict[str, float]:
        """Measures of `multilabel_comparison`."""
        test = self.dataset.test
        roles = ("student", "teacher") if self.teacher else ("student",)
        ids = np.arange(len(test))
        if len(ids) > MAX_RETRIEVED:
            draw = rng.generator(self.recipe.seed, "retrieval")
            ids = np.sort(draw.choice(len(test), MAX_RETRIEVED, replace=False))
        return multilabel_comparison(
            {role: np.asarray(self.protocol.probabilities(self._logits(role))) for role in roles},
            {role: self._outputs(self.roles[role].pool, role, ids) for role in roles},
            test.labels[ids],
        )

    def _teacher_table(self) -> jax.Array:
        """The teacher's logits `[N, V, C]` on all views of all training images."""
        dtype = self.recipe.teacher.table_dtype
        if self.teacher and self.teacher.logits:
            return self.run.placement.put(self._padded(self.teacher.logits.train.astype(dtype)))
        view = self.roles["student"].view
        count, views = len(self.taught), num_views(**view.crops)
        size = count * views * self.dataset.num_classes
        log.info(
            "The teacher's logits on %d views of %d images take %.2f GB of memory on every device",
            views,
            count,
            size * jnp.dtype(dtype).itemsize / 1e9,
        )
        plan = place_plan(
            np.arange(count),
            max(self.recipe.eval_batch_size // views, 1),
            self.run.placement,
            capacity=self._rows(count),
        )
        key = rng.stream(self.recipe.seed, "teacher/table")
        images = view.images.visit(("weak",), "teacher/table")
        return self._tabulate(plan, key, self._operand("teacher"), images)

    def _test_measures(self, role: str) -> dict[str, float]:
        return self.protocol.measures(self._logits(role), self.dataset.test.labels)

    def _diagnose_epoch(self, epoch: int) -> dict[str, dict[str, float]]:
        assert self._diagnose is not None  # of images with one label
        view = self.roles["student"].view
        if self.teacher and self.teacher.logits:
            plain = self.teacher.logits.plain(self._diagnosed_ids, **view.crops)
            teacher = {"logits": self.run.placement.put(plain)}
        else:
            teacher = self._operand("teacher") if self.teacher else {}
        values = self._diagnose(
            self.saved.networks["student"].variables, teacher, *self._diagnosed, view.statistics
        )
        values = jax.tree.map(float, fetch(values))
        for name, measures in values.items():
            self._write("diagnosis", "student", name, epoch, measures)
        return values

    def _write(self, split: str, role: str, phase: str, epoch: int, values: dict) -> None:
        step = self._epochs_before((self.roles[role].number, epoch + 1))
        values = {name: value for name, value in values.items() if name != "epoch"}
        self.run.write({"step": step, "split": split, "phase": phase, "epoch": epoch}, values)

    def _restore(self) -> None:
        """The networks at their start, or those of the latest checkpoint."""
        for name, role in self.roles.items():
            if name == "teacher" and not role.num_epochs:
                continue
            network = role.initialize(rng.stream(self.recipe.seed, f"{role.draws}/start"))
            if role.start:
                network = start_from(network, role.start, self.run.placement)
            self.saved.networks[name] = network
        self.run.restore(self.saved, self._epochs_before)

    # Files

    def _write_inputs(self) -> None:
        """`inputs.json`: which data and which teacher the run saw."""
        facts = {
            "dataset_sha256": fingerprint(self.dataset),
            "class_names": list(self.dataset.class_names),
            "teacher_sha256": self.teacher.sha256 if self.teacher else None,
        }
        self.run.begin("inputs.json", facts, dtype=self.dtype)

    def _finish_teacher(self) -> None:
        """`teacher/`, once it is trained, and its scores."""
        teacher = self.teacher
        if teacher is None:
            return
        scores = self.epochs["teacher"]
        if isinstance(teacher, NetworkTeacher) and teacher.is_trained:
            trained = self._as_stored("teacher")
            save_classifier(trained, self.run.workdir / "teacher")
            if teacher.own_images is not None:
                self.teacher = teacher.with_logits_of(
                    trained, self.recipe, self.run.workdir, self.dataset, self.taught
                )
        elif teacher.logits and not scores:
            if teacher.logits.test is not None:
                labels = self.dataset.test.labels
                scores.append(self.protocol.measures(teacher.logits.test, labels))
        elif not scores:
            scores.append(self._test_measures("teacher"))
        if scores:
            log.info("Teacher %s: %s", teacher.name, self.protocol.describe(scores[-1]))

    def _as_stored(self, role: str) -> StoredClassifier:
        """A network that is trained in this run."""
        view, recipe = self.roles[role].view, self.recipe
        is_multilabel = isinstance(recipe, MultilabelDistillation)
        return StoredClassifier(
            arch=self.roles[role].arch,
            num_classes=self.dataset.num_classes,
            variables=fetch(self._variables(role)),
            class_names=self.dataset.class_names,
            image_shape=view.images.shape,
            mean=view.mean,
            std=view.std,
            decoder=dataclasses.asdict(recipe.decoder) if is_multilabel else None,
        )

    def _stored_teacher(self) -> StoredClassifier | None:
        """The teacher's network, None where there is none or only its logits are known."""
        if self.teacher is None:
            return None
        if self.teacher.is_trained:
            return self._as_stored("teacher")
        stored = self.teacher.network
        if stored and not stored.image_shape:
            shape = self.roles["student"].view.images.shape
            return dataclasses.replace(stored, image_shape=shape)
        return stored

    def _predicted(self) -> dict[str, np.ndarray]:
        """Classes of the test images by each network, student first."""
        roles = [role for role in ("student", "student_alone") if role in self.roles]
        found = {role: self._logits(role).argmax(axis=1) for role in roles}
        if self.teacher and self.teacher.logits:
            if self.teacher.logits.test is not None:
                found["teacher"] = self.teacher.logits.test.argmax(axis=1)
        elif self.teacher:
            found["teacher"] = self._logits("teacher").argmax(axis=1)
        return found

    def _introduce(self) -> None:
        log.info(
            "%s on %s: %d training images, %d classes, %s%s",
            self.recipe.method,
            self.dataset.name,
            len(self.taught),
            self.dataset.num_classes,
            self.recipe.student.name,
            f" taught by {self.teacher.name}" if self.teacher else "",
        )

    def _finish(self) -> dict:
        student, teacher = self._as_stored("student"), self._stored_teacher()
        results = results_of(
            self.recipe,
            self.dataset,
            self.protocol,
            self.epochs,
            student=student,
            auxiliary=self.distiller.auxiliary,
            teacher=teacher,
            teacher_name=self.teacher.name if self.teacher else None,
        )
        if not self.dataset.is_multilabel:
            test = self.dataset.test
            results |= class_by_class(test.labels, self.dataset.class_names, self._predicted())
        if self.protocol.compares:
            results["comparison"] = self._comparison()
        probs = np.asarray(self.protocol.probabilities(self._logits("student")))
        write_files(
            self.run.workdir,
            self.recipe,
            self.dataset,
            self.protocol,
            results,
            probs,
            student=student,
            teacher=teacher,
            dtype=self.dtype,
        )
        lines = last_lines(results, self.protocol, self.run.workdir, self.run.seconds)
        self.run.finish(results, lines)
        return results


def _diagnosed(seed: int, count: int, num_diagnosed: int) -> np.ndarray:
    """Ids of the images on which gradients are compared, the same in every epoch."""
    ids = rng.generator(seed, "diagnosis").choice(count, min(num_diagnosed, count), replace=False)
    return np.sort(ids).astype(np.int32)
