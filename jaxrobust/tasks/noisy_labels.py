"""Learning with noisy labels: train, test, score every given label, again.

The same loop serves every method. True labels are read in two places only: where the noise is
added, and where the detection of wrong labels is measured.
"""

import contextlib
import dataclasses
import io
import logging
import os
import pathlib
import tempfile
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.data.class_folders import test_folder
from jaxrobust.data.corrections import CORRECTED, KEPT, Reviewed
from jaxrobust.data.dataset import Dataset, Examples, FileDataset, FileExamples
from jaxrobust.data.features import FeatureDataset, FeatureExamples, MeansOfViews
from jaxrobust.data.scaling import Scaling
from jaxrobust.data.views import make_views, statistics_of
from jaxrobust.engine import rng
from jaxrobust.engine.files import write_bytes
from jaxrobust.engine.plan import pad_rows, place_plan
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.run import Run, Saved, open_run
from jaxrobust.engine.sharding import fetch
from jaxrobust.errors import UserError
from jaxrobust.methods.classifiers import Classifier, classifier_of_run
from jaxrobust.methods.judged_labels import judged_columns
from jaxrobust.methods.noisy_label_method import (
    WEIGHT,
    Method,
    NoisyLabelProblem,
    flag_by_count,
)
from jaxrobust.recipes.methods import NOISY_LABEL_METHODS
from jaxrobust.recipes.protocols import NoisyLabels
from jaxrobust.review.health import write_health
from jaxrobust.tasks import common, noisy_label_files, noisy_label_results
from jaxrobust.tasks.backbones import stored_backbone
from jaxrobust.tasks.images import images_of, rows_on_devices
from jaxrobust.tasks.noisy_label_programs import (
    check_takes,
    class_shares,
    counted_step,
    given_labels,
    plan_of,
    prediction,
    probabilities,
    scores_of,
    training_step,
    without_count,
)
from jaxrobust.tasks.reviewed_labels import reviewed_data

log = logging.getLogger("jaxrobust")


def run(
    recipe: NoisyLabels,
    workdir: str | os.PathLike,
    programs: Programs | None = None,
    *,
    dataset: Dataset | FeatureDataset | FileDataset | None = None,
) -> dict:
    """Runs a whole noisy-label experiment, or what is left of it: what `results.json` holds.

    A `dataset` in memory takes the place of the one that the recipe names. `programs` are those of
    a run of the same recipe with another seed.
    """
    common.check_common(recipe)
    data = dataset or common.load(recipe, streams=True, features=True)
    data, labels = reviewed_data(recipe, data)
    recipe = with_batches_of_at_most(recipe, len(data.train))
    with open_run(recipe, workdir, programs) as run_:
        return _Learning(recipe, run_, data, labels).learn()


@dataclasses.dataclass(frozen=True, eq=False)
class Learned:
    """What a run has learned about N labels of C classes."""

    label_scores: dict[str, np.ndarray]  # `[N]` by name, as in `Method.score_labels`
    ranked: np.ndarray  # int `[N]`, ids, those whose label looks most wrong first
    pred_probs: np.ndarray  # float32 `[N, C]`, predicted for the training examples
    classifier: Classifier  # the trained networks
    undivided_passes: int = 0  # of a method that divides the labels, after its warm-up


def learn(
    recipe: NoisyLabels,
    dataset: Dataset | FeatureDataset,
    workdir: str | os.PathLike | None = None,
    *,
    weights: np.ndarray | None = None,
    scaling: Scaling | None = None,
    programs: Programs | None = None,
    bar: bool | None = False,
) -> Learned:
    """`run` on data in memory that gives back what was learned.

    Without a workdir no file is left. `weights` float32 `[N]` are of the examples in the loss, on
    average 1. `scaling` is how features were scaled, as those to come have to be. `programs` are
    those of a run of the same recipe on data of the same shapes.
    """
    common.check_common(recipe)
    dataset, labels = reviewed_data(recipe, dataset)
    recipe = with_batches_of_at_most(recipe, len(dataset.train))
    with contextlib.ExitStack() as stack:
        folder = workdir or stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxrobust-"))
        run_ = stack.enter_context(open_run(recipe, folder, programs, bar=bar))
        pads = workdir is None
        learning = _Learning(recipe, run_, dataset, labels, weights, scaling=scaling, pads=pads)
        if workdir is None:
            learning.train()
        else:
            learning.learn()
        return learning.learned()


def rows_of(
    recipe: NoisyLabels, dataset: Dataset | FeatureDataset | FileDataset, *, pads: bool
) -> int:
    """Rows of the training examples in programs; features of about one number share them always."""
    entry = NOISY_LABEL_METHODS.entry(recipe.method)
    pads = pads or isinstance(dataset, FeatureDataset)
    return rows_on_devices(len(dataset.train), entry, pads=pads)


def with_batches_of_at_most(recipe: NoisyLabels, num_examples: int) -> NoisyLabels:
    """The recipe, its batch no larger than the set."""
    if recipe.batch_size <= num_examples:
        return recipe
    log.info(
        "batch_size=%d is larger than the %d training examples, and is set to %d",
        recipe.batch_size,
        num_examples,
        num_examples,
    )
    return dataclasses.replace(recipe, batch_size=num_examples)


class _Learning:
    """One experiment in progress."""

    def __init__(
        self,
        recipe: NoisyLabels,
        run: Run,
        dataset: Dataset | FeatureDataset | FileDataset,
        reviewed: Reviewed,
        weights: np.ndarray | None = None,
        *,
        scaling: Scaling | None = None,
        pads: bool = False,
    ):
        self.recipe = recipe
        self.run = run
        self.dataset, self.scaling = dataset, scaling
        self.labels = labels = reviewed.labels
        self._review = reviewed.review if recipe.dataset.corrections else None
        self.true_labels = None if recipe.noise.kind == "none" else dataset.train.labels
        placement = run.placement
        self._num_rows = rows_of(recipe, dataset, pads=pads)
        self._images = images_of(dataset.train, recipe, placement, self._num_rows)
        self._tests: dict[str, Examples | FeatureExamples | FileExamples] = (
            {"test": dataset.test} if len(dataset.test) else {}
        )
        if recipe.dataset.test2:
            if isinstance(dataset.train, FeatureExamples):
                raise UserError(
                    "dataset.test2 is a folder of images, but this data set holds features; clear "
                    "--config.dataset.test2=."
                )
            size = dataset.train.images.shape[1] if isinstance(dataset.train, Examples) else None
            self._tests["test2"] = test_folder(
                pathlib.Path(recipe.dataset.test2),
                dataset.class_names,
                image_size=size,
            )
        self._test_images = {
            split: images_of(examples, recipe, placement) for split, examples in self._tests.items()
        }
        self._labels = placement.put(labels)
        self._weights = {} if weights is None else {WEIGHT: weights}
        given = given_labels(dataset, reviewed)
        self._class_shares = class_shares(given, weights, dataset.num_classes)
        self._statistics = placement.put(statistics_of(dataset.mean, dataset.std))
        self.problem = NoisyLabelProblem(
            num_classes=dataset.num_classes,
            num_examples=len(dataset.train),
            input_shape=self._images.shape,
            dtype=common.compute_dtype(recipe.dtype),
            norm_parts=common.batch_norm_parts(recipe, placement),
        )
        method: Method = NOISY_LABEL_METHODS[recipe.method](recipe, self.problem)
        check_takes(method, recipe.method, soft=given.ndim == 2, weights=weights is not None)
        is_judged = recipe.flag_by == "auto" and isinstance(dataset, FeatureDataset)
        self.method = flag_by_count(method) if is_judged or recipe.flag_by == "count" else method
        self.num_epochs = 1 if method.one_epoch else recipe.num_epochs
        self._given = placement.put(pad_rows(given, self._num_rows))
        self._num_wrong = ()
        if self.method.counts and isinstance(dataset, FeatureDataset):
            num_wrong = noisy_label_results.estimate_before_training(dataset, labels)
            self._num_wrong = (placement.put(np.float32(num_wrong)),)
        self._judged: dict[str, np.ndarray] = {}
        self._facts: dict[str, Any] = {}
        if is_judged:
            self._judged, self._facts = judged_columns(
                MeansOfViews(cast(FeatureExamples, dataset.train))[:],
                labels,
                dataset.num_classes,
                seed=recipe.seed,
            )
        self._backbone = stored_backbone(recipe, dataset)
        if self._backbone:
            shapes = jax.eval_shape(method.start, jax.random.key(0))
            self._backbone.check(shapes, recipe.model.name)
        self.saved = Saved(at=(0, 0))  # epoch, pass
        self._build_programs()

    @property
    def label_scores(self) -> dict[str, np.ndarray]:
        """What the method said about every label at the end of the last epoch, `[N]` by name."""
        return self.saved.arrays["label_scores"]

    # Programs

    def _build_programs(self) -> None:
        placement, method = self.run.placement, self.method
        build = common.ProgramBuilder(
            self.run.programs,
            placement,
            (
                common.program_settings(self.recipe),
                dataclasses.replace(self.problem, num_examples=self._num_rows),
            ),
            common.loops_on_device(self.problem.input_shape),
        )
        options = {"out_shardings": placement.replicated}
        views = make_views(self.recipe.augment, self.problem.input_shape, self.problem.dtype)
        self._start = build.jit("start", method.start, is_start=True, **options)
        self._stages = {stage.name: stage for stage in method.stages}
        self._epoch = {}
        for stage in method.stages:
            epoch = build.epoch(f"{stage.name}/epoch", counted_step(training_step(stage, views)))
            self._epoch[stage.name] = without_count(epoch, placement)
        self._predict = {
            split: build.gather(
                f"{split}/predict",
                prediction(method, view, views, of_training_set=split == "train"),
                size,
            )
            for split, view, size in (
                ("train", method.score_view, self._num_rows),
                *((split, "test", len(examples)) for split, examples in self._tests.items()),
            )
        }
        count = len(self.labels)
        # Sums over the examples round as they do without the rows beyond them.
        name = "score_labels" if count == self._num_rows else f"score_labels/{count}"
        self._score_labels = build.jit(name, scores_of(method, count), **options)
        if method.end_epoch is not None:
            self._end_epoch = build.jit("end_epoch", method.end_epoch, donate_argnums=0, **options)
        self._probs = {
            split: build.jit(
                "probs" if split == "test" else f"{split}/probs", probabilities(method), **options
            )
            for split in ("train", *self._tests)
        }

    # The loop

    def learn(self) -> dict:
        """Trains, writes every file and returns the results."""
        self.train()
        self.run.save(self.saved)
        return _finish(self)

    def train(self) -> None:
        """Trains, or resumes training."""
        run, saved, num_epochs = self.run, self.saved, self.num_epochs
        self._write_noise()
        self._introduce()
        self._restore()
        common.introduce_networks(saved.networks, self.problem.dtype, run)
        run.start_progress(saved, total=num_epochs)
        for epoch in range(saved.at[0], num_epochs):
            self._train(epoch)
            entry = {"epoch": epoch, **self._test_measures(epoch)}
            self._write("test", epoch, entry)
            saved.arrays["label_scores"] = self._label_scores(epoch)
            entry["labels"] = noisy_label_files.detection(self._labels_so_far(), self.method.score)
            self._write("labels", epoch, entry["labels"])
            saved.record["epochs"].append(entry)
            where = f"epoch {epoch + 1}/{num_epochs}"
            if "accuracy" in entry:
                where += f", accuracy {100 * entry['accuracy']:.2f} %"
            run.epoch_done(saved, at=(epoch + 1, 0), where=where)

    def learned(self) -> Learned:
        """What the trained networks say of the training examples."""
        method, last = self.method, self.num_epochs - 1
        probs, _ = fetch(self._probs["train"](self._logits("train", last)))
        probs = probs[: len(self.labels)]
        return Learned(
            label_scores=self.label_scores,
            ranked=self._labels_so_far().by_suspicion(method.score),
            pred_probs=probs,
            classifier=_classifier(self),
            undivided_passes=self.saved.record.get("undivided", 0),
        )

    def _train(self, epoch: int) -> None:
        """The passes of an epoch, or those that are left of it."""
        saved, seed = self.saved, self.recipe.seed
        if saved.at == (epoch, 0) and not saved.row:
            saved.arrays["peers"] = self._peers()
        passes = self.method.passes(
            epoch, self.label_scores, lambda name: rng.generator(seed, name, epoch)
        )
        for number in range(saved.at[1], len(passes)):
            entry = passes[number]
            plan = plan_of(entry, self._stages[entry.stage], self.run.placement, self._num_rows)
            peer = {}
            if entry.peer is not None:
                current = saved.networks[entry.peer].variables
                peer = saved.arrays["peers"].get(entry.peer, current)
            stream = f"{entry.network}/{entry.stage}"
            columns = {**entry.label_scores, **self._weights}
            columns = {name: pad_rows(x, self._num_rows) for name, x in columns.items()}
            if not saved.row:  # not one that was left between two steps
                undivided = saved.record.get("undivided", 0) + int(entry.is_undivided)
                saved.record["undivided"] = undivided
            self.run.train(
                saved,
                entry.network,
                self._epoch[entry.stage],
                plan,
                rng.stream(seed, stream, epoch),
                peer,
                self._images.visit(self._stages[entry.stage].views, stream, epoch),
                self._given,
                self._statistics,
                self.run.placement.put(columns),
                scalars={
                    **entry.scalars,
                    "num_steps": plan.num_steps,
                    "class_shares": self._class_shares,
                },
                at=(epoch, number),
                event={"phase": entry.network, "epoch": epoch, "stage": entry.stage},
                where=f"epoch {epoch + 1}/{self.num_epochs}, {stream}",
                part=(number, len(passes)),
                notes=entry.notes,
            )
        if self.method.end_epoch is not None:
            for name, state in saved.networks.items():
                saved.networks[name] = self._end_epoch(state, np.int32(epoch))

    def _peers(self) -> dict[str, Any]:
        """Variables of the networks that this epoch's passes read, if not the current ones."""
        if self.method.peer_from != "epoch_start":
            return {}
        # Copies, because training consumes the arrays it starts from.
        networks = self.saved.networks
        return {n: jax.tree.map(jnp.copy, s.variables) for n, s in networks.items()}

    def _logits(self, split: str, epoch: int) -> jax.Array:
        """Every predictor's logits `[M, n, C]` on all images of a split, zeros in rows beyond."""
        images, count, view = self._images, len(self.dataset.train), self.method.score_view
        capacity = self._num_rows
        variables = self.method.score_variables
        if split in self._tests:
            images, count, view = self._test_images[split], len(self._tests[split]), "test"
            capacity = count
            variables = self.method.test_variables
        plan = place_plan(
            np.arange(count), self.recipe.eval_batch_size, self.run.placement, capacity=capacity
        )
        visited = images.visit((view,), f"{split}/predict", epoch)
        key = rng.stream(self.recipe.seed, f"{split}/predict", epoch)
        logits = [
            self._predict[split](
                plan, key, variables(self.saved.networks[name]), visited, self._statistics
            )
            for name in self.method.networks
        ]
        return jnp.moveaxis(logits[0], 1, 0) if self.method.heads else jnp.stack(logits)

    def _test_measures(self, epoch: int) -> dict[str, float]:
        """Accuracy and calibration error of all predictors together and of each, per test set."""
        values = {}
        for split, examples in self._tests.items():
            together, each = fetch(self._probs[split](self._logits(split, epoch)))
            several = dict(zip(self.method.predictors, each, strict=True)) if len(each) > 1 else {}
            prefix = "" if split == "test" else f"{split}_"
            for name, probs in {"": together, **several}.items():
                values |= noisy_label_results.measures(
                    probs, examples.labels, prefix, f"_{name}" if name else ""
                )
        return values

    def _label_scores(self, epoch: int) -> dict[str, np.ndarray]:
        label_scores = fetch(
            self._score_labels(self._logits("train", epoch), self._labels, *self._num_wrong)
        )
        chex.assert_shape(list(label_scores.values()), self.labels.shape)
        for name, column in label_scores.items():
            if not np.isfinite(column).all():
                raise UserError(
                    f"The {name} of some training images is not finite after epoch {epoch + 1}; "
                    "lower optimizer.learning_rate, or set --config.dtype=float32."
                )
        return label_scores

    def _write(self, split: str, epoch: int, values: dict) -> None:
        values = {name: value for name, value in values.items() if name != "epoch"}
        self.run.write({"step": epoch + 1, "split": split, "epoch": epoch}, values)

    def _restore(self) -> None:
        """The state at the start, or what the latest checkpoint holds."""
        saved, seed = self.saved, self.recipe.seed
        for name in self.method.networks:
            network = self._start(rng.stream(seed, f"{name}/start"))
            if self._backbone:
                network = self._backbone.put_into(network, self.run.placement)
            saved.networks[name] = network
        shape = (len(self.method.predictors), len(self.labels), self.problem.num_classes)
        shapes = jax.eval_shape(
            self.method.score_labels,
            jax.ShapeDtypeStruct(shape, jnp.float32),
            self._labels,
            *self._num_wrong,
        )
        label_scores = {name: np.zeros(s.shape, s.dtype) for name, s in shapes.items()}
        saved.arrays = {"peers": self._peers(), "label_scores": label_scores}
        saved.record = {"epochs": []}
        self.run.restore(saved, lambda at: at[0])
        saved.arrays["label_scores"] = fetch(saved.arrays["label_scores"])

    def _labels_so_far(self) -> noisy_label_files.JudgedLabels:
        label_scores = {**self.label_scores, **self._judged}
        return noisy_label_files.JudgedLabels(
            self.labels, self.true_labels, label_scores, self.dataset.class_names, self._review
        )

    # Files

    def _write_noise(self) -> None:
        """`noise.json` and `noisy_labels.npy`: which labels the run saw."""
        facts = noisy_label_results.noise_facts(
            self.recipe, self.dataset, self.labels, self.true_labels
        )
        facts |= {"backbone_sha256": self._backbone.sha256} if self._backbone else {}
        if self._review is not None:
            counts = [int(np.sum(self._review == word)) for word in (CORRECTED, KEPT)]
            facts |= {"num_corrected": counts[0], "num_kept": counts[1]}
            log.info("%d labels were corrected and %d kept by review", *counts)
        self.run.begin("noise.json", facts, dtype=self.problem.dtype)
        content = io.BytesIO()
        np.save(content, self.labels)
        write_bytes(self.run.workdir / "noisy_labels.npy", content.getvalue())
        if self.true_labels is not None:
            log.info(
                "%d of %d labels are wrong (%.2f %%); share of each label in each true class:\n%s",
                facts["num_wrong"],
                len(self.labels),
                100 * facts["realised_rate"],
                noisy_label_files.matrix_text(np.array(facts["transition"])),
            )

    # What the user sees

    def _introduce(self) -> None:
        common.introduce_pixels(self.dataset)
        log.info(
            "%s on %s: %d training images, %d classes",
            self.recipe.method,
            self.dataset.name,
            len(self.labels),
            self.problem.num_classes,
        )


def _classifier(learning: _Learning) -> Classifier:
    """The trained networks."""
    method, networks, dataset = learning.method, learning.saved.networks, learning.dataset
    return classifier_of_run(
        recipe=learning.recipe,
        networks=fetch({name: method.test_variables(networks[name]) for name in method.networks}),
        class_names=dataset.class_names,
        num_examples=len(learning.labels),
        input_shape=learning.problem.input_shape,
        mean=dataset.mean,
        std=dataset.std,
        embedding=getattr(dataset, "embedding", None),
        scaling=learning.scaling,
    )


def _finish(learning: _Learning) -> dict:
    """Writes every file of a trained run, and returns its results."""
    undivided = learning.saved.record.get("undivided", 0)
    results = {
        "task": "noisy_labels",
        "method": learning.recipe.method,
        "dataset": learning.dataset.name,
        "seed": learning.recipe.seed,
        "num_classes": learning.problem.num_classes,
        **noisy_label_results.results_of(learning.saved.record["epochs"], learning.run.workdir),
        **({"label_counts": learning._facts} if learning._facts else {}),
        **({"undivided_passes": undivided} if undivided else {}),
    }
    workdir = learning.run.workdir
    labels, method = learning._labels_so_far(), learning.method
    noisy_label_files.write_label_quality(
        workdir / "label_quality.csv", labels, method.score, learning._images.names
    )
    path = learning.recipe.dataset.path
    root = pathlib.Path(path).expanduser() if path else None
    write_health(
        workdir,
        learning.dataset,
        learning.labels,
        labels.label_scores["suggested"],
        labels.label_scores["flagged"].astype(bool) & ~labels.is_decided,
        root,
    )
    logits = learning._logits("train", learning.num_epochs - 1)
    page = noisy_label_files.write_review(
        workdir,
        labels,
        method.score,
        learning._images,
        root,
        probs=fetch(method.class_probs(logits[:, : len(learning.labels)])),
        seed=learning.recipe.seed,
    )
    probs = None
    if "test" in learning._tests:
        logits = learning._logits("test", learning.num_epochs - 1)
        probs, _ = fetch(learning._probs["test"](logits))
    noisy_label_files.draw(
        workdir, results, labels, method, learning._images, probs, learning.dataset
    )
    _classifier(learning).save(workdir / "classifier")
    lines = noisy_label_results.last_lines(results, workdir, page, learning.run.seconds)
    learning.run.finish(results, lines)
    return results
