"""Knowledge distillation: train or take a teacher, train a student under it, hand the student over.

The same loop serves every method. Only the student's primary head is ever evaluated; its last epoch
is the headline, and its best one, known only by looking at the test set, stands beside it.
"""

import dataclasses
import logging
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxrobust.data.augment import num_views, plain_view
from jaxrobust.data.dataset import Dataset, FileDataset, check_has_test, fingerprint
from jaxrobust.data.views import statistics_of
from jaxrobust.engine import rng
from jaxrobust.engine.loops import epoch_program, gather_program
from jaxrobust.engine.optim import learning_rate, make_optimizer
from jaxrobust.engine.plan import make_plan, place_plan
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.run import Run, Saved, open_run
from jaxrobust.engine.sharding import fetch
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.methods.distillation import Distiller, Problem, distillation_schedule
from jaxrobust.methods.distillation_steps import (
    PredictSpec,
    TableSpec,
    TrainSpec,
    all_views,
    inference_variables,
    initial_state,
    prediction,
    training_step,
)
from jaxrobust.methods.gradient_diagnosis import DiagnosisSpec, diagnosis
from jaxrobust.models import (
    MOBILE_BACKBONES,
    make_classifier,
    make_multilabel_classifier,
)
from jaxrobust.models.storage import StoredClassifier, save_classifier, save_program
from jaxrobust.tasks.common import (
    batch_norm_parts,
    check_batch_size,
    check_common,
    compute_dtype,
    introduce_networks,
    load,
    next_command,
    program_settings,
    write_test_files,
)
from jaxrobust.tasks.distillation_measures import (
    MAX_RETRIEVED,
    MULTILABEL,
    SINGLE_LABEL,
    Protocol,
    multilabel_comparison,
)
from jaxrobust.tasks.images import images_of, view_transforms
from jaxrobust.tasks.teachers import (
    TeacherLogits,
    check_table,
    digest,
    has_table,
    stored_backbone,
    stored_teacher,
    with_backbone,
)

log = logging.getLogger("jaxrobust")

ROLES = ("teacher", "student")


def run(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike,
    programs: Programs | None = None,
    *,
    dataset: Dataset | None = None,
    teacher: TeacherLogits | None = None,
    bar: bool | None = None,
) -> dict:
    """Runs a whole distillation experiment, or what is left of it.

    Args:
      config: a recipe, see `jaxrobust.tasks.options.Distillation`.
      workdir: where everything is written; that of an interrupted run goes on.
      programs: those of a run of the same recipe with another seed.
      dataset: one in memory, in place of the one that the recipe names.
      teacher: what a teacher says of these images, in place of the one that the recipe names.
      bar: as of `open_run`.

    Returns:
      What `results.json` holds.

    Raises:
      UserError: if the recipe, the data, the teacher or the workdir is not usable.
    """
    inputs = read_inputs(config, dataset, teacher)
    with open_run(config, workdir, programs, bar=bar) as run_:
        return _Distillation(config, run_, inputs).distill()


@dataclasses.dataclass(frozen=True)
class _Inputs:
    """What a run starts from, all that can be checked before its workdir is opened.

    Attributes:
      dataset: the images.
      protocol: what is measured on them.
      distiller: the method.
      stored: the teacher, None if it is to be trained, if only its logits are given, or if none is
        needed.
      logits: those of a teacher that is not a network.
      backbones: by role, what the network starts from, None if from its initialisation.
    """

    dataset: Dataset | FileDataset
    protocol: Protocol
    distiller: Distiller
    stored: StoredClassifier | None
    logits: TeacherLogits | None
    backbones: Mapping[str, StoredClassifier | None]


def read_inputs(
    config: ml_collections.ConfigDict,
    given: Dataset | None = None,
    logits: TeacherLogits | None = None,
) -> _Inputs:
    """What a run of these arguments would start from.

    Raises:
      UserError: if they cannot be right.
    """
    _check(config)
    dataset: Any = given or load(config, multilabel=None, streams=True)
    check_has_test(dataset)
    protocol = MULTILABEL if dataset.is_multilabel else SINGLE_LABEL
    if config.method not in protocol.distillers:
        raise UserError(
            f"Images of {dataset.name} have {protocol.labels} each. "
            + unknown_name("method for them", config.method, protocol.distillers)
        )
    check_batch_size(config, len(dataset.train))
    stored = stored_teacher(config, dataset)
    distiller = _distiller(config, dataset, protocol, stored, logits)
    check_table(config, distiller, logits)
    backbones = {role: stored_backbone(config, role) for role in ROLES}
    return _Inputs(dataset, protocol, distiller, stored, logits, backbones)


def _check(config: ml_collections.ConfigDict) -> None:
    """Refuses values that no method could run with."""
    check_common(config)
    cycle = config.optimizer.get("cycle_epochs", 0)
    for field in ("num_epochs", "teacher.num_epochs"):
        num_epochs = config.teacher.num_epochs if "teacher" in field else config.num_epochs
        if cycle and num_epochs > cycle:
            raise UserError(
                f"{field}={num_epochs} must be at most the {cycle} of optimizer.cycle_epochs, at "
                "whose end the learning rate is almost 0."
            )


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
    protocol: Protocol,
    stored: StoredClassifier | None,
    logits: TeacherLogits | None,
) -> Distiller:
    """The recipe's method.

    Raises:
      UserError: if the recipe's options of it, or of streamed images, are none.
    """
    if isinstance(dataset, FileDataset):
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
    given = stored.arch if stored else logits and logits.name
    problem = Problem(
        num_classes=dataset.num_classes,
        student=config.student.name,
        teacher=given or config.teacher.name,
        student_features=features(_classifier(config, dataset, config.student.name)),
        teacher_features=features(teacher),
        dtype=dtype,
        num_examples=len(dataset.train),
    )
    return protocol.distillers[config.method](config, problem)


class _Distillation:
    """One experiment in progress."""

    def __init__(self, config: ml_collections.ConfigDict, run_: Run, inputs: _Inputs):
        self.config = config
        self.run = run_
        self.dataset, self.protocol = inputs.dataset, inputs.protocol
        self.stored, self.distiller = inputs.stored, inputs.distiller
        self.teacher_logits = inputs.logits
        self.dtype = compute_dtype(config.dtype)
        dataset, put = self.dataset, run_.placement.put
        self._images = images_of(dataset.train, config, run_.placement)
        self._test_images = images_of(dataset.test, config, run_.placement)
        self.input_shape = self._images.shape
        self._crops = {"padding": config.augment.padding, "flip": config.augment.flip}
        self.teacher_name = config.teacher.name
        if self.stored:
            self.teacher_name = self.stored.arch
        elif self.teacher_logits:
            self.teacher_name = self.teacher_logits.name
        self.decoder = dict(config.decoder) if dataset.is_multilabel else None
        self.has_teacher = bool(self.stored) or self.distiller.has_teacher
        is_given = bool(self.stored or self.teacher_logits)
        self.trains_teacher = self.has_teacher and not is_given
        self.num_epochs = {
            "teacher": config.teacher.num_epochs if self.trains_teacher else 0,
            "student": config.num_epochs,
        }
        self.saved = Saved(  # at the role's place in `ROLES`, and its epoch
            record={"epochs": {role: [] for role in ROLES}}, at=(0, 0)
        )
        self._labels = put(dataset.train.labels)
        self._statistics = {role: put(statistics_of(dataset.mean, dataset.std)) for role in ROLES}
        if self.stored:
            self._given = put(self.stored.variables)
            if self.stored.mean:  # it sees images as it was trained on them
                self._statistics["teacher"] = put(statistics_of(self.stored.mean, self.stored.std))
        self._backbones = inputs.backbones
        self._build_programs()

    @property
    def epochs(self) -> dict[str, list[dict]]:
        """What each network has scored on the test images, by role."""
        return self.saved.record["epochs"]

    # Programs

    def _build_programs(self) -> None:
        programs, placement, config = self.run.programs, self.run.placement, self.config
        count = len(self.dataset.train)
        specs = self._specs()
        predictors = {
            "teacher": specs["teacher"].module,
            "student": _classifier(config, self.dataset, config.student.name),
        }
        static = (
            program_settings(config),
            self.input_shape,
            self.dataset.num_classes,
            count,
        )
        replicated = {"out_shardings": placement.replicated, "static": static}
        self._start, self._epoch, self._predict, self._pool = {}, {}, {}, {}

        def gather(role, name, output):
            spec = PredictSpec(predictors[role], self.dtype, output)
            return gather_program(
                programs,
                f"{role}/{name}",
                prediction(spec),
                len(self.dataset.test),
                placement,
                static=static,
            )

        for role, spec in specs.items():
            self._start[role] = programs.jit(
                f"{role}/start", initial_state(spec), is_start=True, **replicated
            )
            self._epoch[role] = epoch_program(
                programs, f"{role}/epoch", training_step(spec), placement, static=static
            )
            self._predict[role] = gather(role, "predict", "logits")
            self._pool[role] = gather(role, "pool", "pooled")
        table = TableSpec(
            predictors["teacher"],
            dtype=self.dtype,
            table_dtype=config.teacher.get("table_dtype", "float32"),
            **self._crops,
        )
        self._tabulate = gather_program(
            programs, "teacher/table", all_views(table), count, placement, static=static
        )
        if self.protocol.diagnoses:
            spec = DiagnosisSpec(
                specs["student"].module,
                self.distiller,
                predictors["teacher"] if self.has_teacher and not self.teacher_logits else None,
                config.distill.temperature or 2.0,
                self.dtype,
            )
            self._diagnose = programs.jit("diagnose", diagnosis(spec), **replicated)
            ids = _diagnosed(config.seed, count, config.num_diagnosed)
            self._diagnosed = placement.put(
                (self._images.read(ids), self.dataset.train.labels[ids])
            )
            if self.teacher_logits:
                plain = self.teacher_logits.train[ids, plain_view(**self._crops)]
                self._diagnosed_logits = placement.put(plain)

    def _specs(self) -> dict[str, TrainSpec]:
        """How each network is trained."""
        config, dataset = self.config, self.dataset
        count = len(dataset.train)
        full_epoch = make_plan(
            np.arange(count), config.batch_size, capacity=count, last_batch=config.last_batch
        )
        common = {
            "optimizer": make_optimizer(config.optimizer, full_epoch.num_steps),
            "input_shape": self.input_shape,
            "batch_size": config.batch_size,
            "dtype": self.dtype,
            **self._crops,
        }
        teacher = (
            self.stored.module(self.dtype)
            if self.stored
            else _classifier(config, dataset, config.teacher.name)
        )
        student = _classifier(config, dataset, config.student.name, self.distiller.auxiliary)
        labels_only = self.protocol.distillers[self.protocol.labels_only](config, None)
        asks = self.distiller.has_teacher and not has_table(config)
        parts: dict[str, Any] = {"norm_parts": batch_norm_parts(config, self.run.placement)}
        if self.distiller.connector is not None:
            connector = self.distiller.connector.clone(**parts)
            self.distiller = dataclasses.replace(self.distiller, connector=connector)
        return {
            "teacher": TrainSpec(teacher.clone(**parts), labels_only, **common),
            "student": TrainSpec(
                student.clone(**parts),
                self.distiller,
                teacher=teacher if asks else None,
                **common,
            ),
        }

    # The loop

    def distill(self) -> dict:
        """Trains what is to be trained, and returns the results."""
        run, saved = self.run, self.saved
        self._write_inputs()
        self._introduce()
        self._restore()
        introduce_networks(saved.networks, self.dtype, run)
        total = sum(self.num_epochs.values())
        run.start_progress(saved, total=total)
        first = saved.at
        for number in range(first[0], len(ROLES)):
            role = ROLES[number]
            if role == "student":
                self._settle_teacher()
                if has_table(self.config) and self._epochs_before(saved.at) < total:
                    self._table = self._teacher_table()
            for epoch in range(first[1] if number == first[0] else 0, self.num_epochs[role]):
                self._train(role, epoch)
                entry = self._test(role, epoch)
                self.epochs[role].append(entry)
                headline = self.protocol.headline
                where = f"{self._where(role, epoch)}, {headline} {100 * entry[headline]:.2f} %"
                run.epoch_done(saved, at=(number, epoch + 1), where=where)
        run.save(saved)
        return self._finish()

    def _epochs_before(self, at: tuple[int, ...]) -> int:
        """Finished epochs of both networks."""
        number, epoch = at
        return sum(self.num_epochs[role] for role in ROLES[:number]) + epoch

    def _where(self, role: str, epoch: int) -> str:
        return f"{role} epoch {epoch + 1}/{self.num_epochs[role]}"

    def _test(self, role: str, epoch: int) -> dict[str, Any]:
        """What a network scores after an epoch and, of the student, how its gradients agree."""
        entry = {"epoch": epoch, **self._test_measures(role)}
        self._write("test", role, role, epoch, entry)
        if role == "student" and self.protocol.diagnoses:
            entry["diagnosis"] = self._diagnose_epoch(epoch)
        return entry

    def _train(self, role: str, epoch: int) -> None:
        """An epoch, or what is left of it."""
        config, seed = self.config, self.config.seed
        count = len(self.dataset.train)
        plan = place_plan(
            rng.generator(seed, f"{role}/order", epoch).permutation(count),
            config.batch_size,
            self.run.placement,
            capacity=count,
            last_batch=config.last_batch,
        )
        warm_up = self.distiller.warm_up if role == "student" else 0
        until_epoch = config.distill_until_epoch or self.distiller.until_epoch
        scalars = {
            "learning_rate": self._learning_rate(role, epoch),
            **distillation_schedule(epoch, warm_up=warm_up, until_epoch=until_epoch),
        }
        uses_teacher = role == "student" and self.distiller.has_teacher
        self.run.train(
            self.saved,
            role,
            self._epoch[role],
            plan,
            rng.stream(seed, f"{role}/epoch", epoch),
            self._teacher_operand() if uses_teacher else {},
            self._images.visit(("weak",), f"{role}/epoch", epoch),
            self._labels,
            self._statistics["student"],
            scalars=scalars,
            at=(ROLES.index(role), epoch),
            event={
                "phase": role,
                "epoch": epoch,
                "steps": [epoch * plan.num_steps + 1, (epoch + 1) * plan.num_steps],
            },
            where=self._where(role, epoch),
            notes=scalars,
        )

    def _learning_rate(self, role: str, epoch: int) -> float:
        optimizer = self.config.optimizer.copy_and_resolve_references()
        name = self.teacher_name if role == "teacher" else self.config.student.name
        if name in MOBILE_BACKBONES and "mobile_learning_rate" in optimizer:
            optimizer.learning_rate = optimizer.mobile_learning_rate
        return learning_rate(optimizer, epoch, self.num_epochs[role])

    def _variables(self, role: str) -> dict[str, Any]:
        """What the predictions of a network need."""
        if role == "teacher" and self.stored:
            return self._given
        return inference_variables(self.saved.networks[role].variables)

    def _operand(self, role: str) -> dict[str, Any]:
        """A network that predicts, as an operand of programs."""
        return {"variables": self._variables(role), "statistics": self._statistics[role]}

    def _teacher_operand(self) -> dict[str, Any]:
        """What a step finds the teacher's outputs in: a table of its logits, or the teacher."""
        return {"table": self._table} if has_table(self.config) else self._operand("teacher")

    def _logits(self, role: str) -> np.ndarray:
        """Logits on the test images."""
        return self._outputs(self._predict[role], role, np.arange(len(self.dataset.test)))

    def _outputs(self, program: Any, role: str, ids: np.ndarray) -> np.ndarray:
        """What a program of predictions makes of test images."""
        plan = place_plan(
            ids,
            self.config.eval_batch_size,
            self.run.placement,
            capacity=len(self.dataset.test),
        )
        key = rng.stream(self.config.seed, f"{role}/predict")
        images = self._test_images.visit(("test",), f"{role}/predict")
        return fetch(program(plan, key, self._operand(role), images))[ids]

    def _comparison(self) -> dict[str, float]:
        """Measures of `multilabel_comparison`."""
        test, roles = self.dataset.test, ROLES[::-1] if self.has_teacher else ("student",)
        ids = np.arange(len(test))
        if len(ids) > MAX_RETRIEVED:
            draw = rng.generator(self.config.seed, "retrieval")
            ids = np.sort(draw.choice(len(test), MAX_RETRIEVED, replace=False))
        return multilabel_comparison(
            {role: np.asarray(self.protocol.probabilities(self._logits(role))) for role in roles},
            {role: self._outputs(self._pool[role], role, ids) for role in roles},
            test.labels[ids],
        )

    def _teacher_table(self) -> jax.Array:
        """The teacher's logits `[N, V, C]` on all views of all training images."""
        if self.teacher_logits:
            dtype = self.config.teacher.table_dtype
            return self.run.placement.put(self.teacher_logits.train.astype(dtype))
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
            self.run.placement,
            capacity=count,
        )
        key = rng.stream(self.config.seed, "teacher/table")
        images = self._images.visit(("weak",), "teacher/table")
        return self._tabulate(plan, key, self._operand("teacher"), images)

    def _test_measures(self, role: str) -> dict[str, float]:
        return self.protocol.measures(self._logits(role), self.dataset.test.labels)

    def _diagnose_epoch(self, epoch: int) -> dict[str, dict[str, float]]:
        if self.teacher_logits:
            teacher = {"logits": self._diagnosed_logits}
        else:
            teacher = self._operand("teacher") if self.has_teacher else {}
        values = self._diagnose(
            self.saved.networks["student"].variables,
            teacher,
            *self._diagnosed,
            self._statistics["student"],
        )
        values = jax.tree.map(float, fetch(values))
        for name, measures in values.items():
            self._write("diagnosis", "student", name, epoch, measures)
        return values

    def _write(self, split: str, role: str, phase: str, epoch: int, values: dict) -> None:
        step = self._epochs_before((ROLES.index(role), epoch + 1))
        values = {name: value for name, value in values.items() if name != "epoch"}
        self.run.write({"step": step, "split": split, "phase": phase, "epoch": epoch}, values)

    def _restore(self) -> None:
        """The networks at their start, or what the latest checkpoint holds."""
        for role in ROLES if self.trains_teacher else ("student",):
            network = self._start[role](rng.stream(self.config.seed, f"{role}/start"))
            if stored := self._backbones[role]:
                network = with_backbone(network, stored, self.run.placement)
            self.saved.networks[role] = network
        self.run.restore(self.saved, self._epochs_before)

    # Files

    def _write_inputs(self) -> None:
        """`inputs.json`: which data and which teacher the run saw."""
        facts = {
            "dataset_sha256": fingerprint(self.dataset),
            "class_names": list(self.dataset.class_names),
            "teacher_sha256": digest(self.stored.variables) if self.stored else None,
        }
        if self.teacher_logits:
            facts["teacher_sha256"] = digest(self.teacher_logits.arrays)
        self.run.begin("inputs.json", facts, dtype=self.dtype)

    def _settle_teacher(self) -> None:
        """`teacher/`, once it is trained, and what it scores."""
        if self.trains_teacher:
            save_classifier(self._as_stored("teacher"), self.run.workdir / "teacher")
        elif self.stored and not self.epochs["teacher"]:
            self.epochs["teacher"].append(self._test_measures("teacher"))
        elif self.teacher_logits and not self.epochs["teacher"]:
            logits = self.teacher_logits.test
            if logits is not None:
                measures = self.protocol.measures(logits, self.dataset.test.labels)
                self.epochs["teacher"].append(measures)
        if self.epochs["teacher"]:
            scored = self.protocol.describe(self.epochs["teacher"][-1])
            log.info("Teacher %s: %s", self.teacher_name, scored)

    def _as_stored(self, role: str) -> StoredClassifier:
        dataset = self.dataset
        return StoredClassifier(
            arch=self.teacher_name if role == "teacher" else self.config.student.name,
            num_classes=dataset.num_classes,
            variables=fetch(self._variables(role)),
            class_names=dataset.class_names,
            image_shape=self.input_shape,
            mean=dataset.mean,
            std=dataset.std,
            decoder=self.stored.decoder if role == "teacher" and self.stored else self.decoder,
        )

    def _draw(self, results: dict) -> None:
        workdir, test = self.run.workdir, self.dataset.test
        self.protocol.draw_curves(
            {self.config.method: [results]}, workdir / "figures" / "epochs.png"
        )
        probs = np.asarray(self.protocol.probabilities(self._logits("student")))
        write_test_files(workdir, probs, test.labels, self.dataset.class_names)

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
        epochs, workdir = self.epochs["student"], self.run.workdir
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
            "best": self.protocol.best(epochs),
            "epochs": epochs,
        }
        if self.has_teacher:
            tested = self.epochs["teacher"][-1] if self.epochs["teacher"] else {}
            measures = {k: v for k, v in tested.items() if k != "epoch"}
            results["teacher"] = {"name": self.teacher_name, **measures}
        if self.protocol.compares:
            results["comparison"] = self._comparison()
        save_classifier(student, workdir / "student")
        if self.config.export.program:
            save_program(student, workdir / "student", dtype=self.dtype)
        self._draw(results)
        best = results["best"]
        lines = [
            f"last epoch: {self.protocol.describe(epochs[-1])}; best {self.protocol.headline} "
            f"{100 * best[self.protocol.headline]:.2f} % (epoch {best['epoch'] + 1}), "
            f"{self.run.seconds:.0f} s in all",
            f"results: {workdir / 'results.json'}",
            f"student, without the auxiliary head: {workdir / 'student'}",
            f"figures: {workdir / 'figures'}",
            next_command(workdir),
        ]
        self.run.finish(results, lines)
        return results


def _diagnosed(seed: int, count: int, num_diagnosed: int) -> np.ndarray:
    """Ids of the images on which gradients are compared, the same in every epoch."""
    ids = rng.generator(seed, "diagnosis").choice(count, min(num_diagnosed, count), replace=False)
    return np.sort(ids).astype(np.int32)
