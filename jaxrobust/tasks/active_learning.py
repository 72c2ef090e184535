"""Active learning with an open set: train, measure, query, annotate, again.

The same loop serves every strategy. What an annotator has said so far is one array,
`annotations [N]`: a known class, K for "unknown", or `NOT_ANNOTATED`. Hidden labels are read in one
place only, `_Learning.annotate`.
"""

import csv
import hashlib
import io
import json
import logging
import os
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxrobust import metrics
from jaxrobust.data.augment import normalize, pad_crop_flip
from jaxrobust.data.open_set import OpenSetSplit, open_set_split
from jaxrobust.data.sources import Dataset, fingerprint
from jaxrobust.engine import rng
from jaxrobust.engine.plan import LAST_BATCHES, Plan, make_plan
from jaxrobust.engine.programs import epoch_program, gather_program
from jaxrobust.engine.runtime import Run, open_run, write_json, write_text
from jaxrobust.engine.sharding import fetch
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.methods import STRATEGIES
from jaxrobust.methods.strategy import NOT_ANNOTATED, Phase, Query, QueryContext, Strategy, Task
from jaxrobust.report import learning_curves
from jaxrobust.tasks._shared import cell, compute_dtype, load

log = logging.getLogger("jaxrobust")

VIEWS = ("test", "train")


def run(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> dict:
    """Runs a whole active-learning experiment, or what is left of it.

    Args:
      config: a recipe with the fields of `jaxrobust.recipes.active_learning`.
      workdir: where everything is written; that of an interrupted run goes on.

    Returns:
      What `results.json` holds.

    Raises:
      UserError: if the recipe, the data or the workdir is not usable.
    """
    _check(config)
    dataset, split = _load(config)
    with open_run(config, workdir) as run_:
        return _Learning(config, run_, dataset, split).run()


def _check(config: ml_collections.ConfigDict) -> None:
    """Refuses values that no strategy could run with."""
    if config.method not in STRATEGIES:
        raise UserError(unknown_name("method", config.method, STRATEGIES))
    if config.al.score_transform not in VIEWS:
        raise UserError(unknown_name("al.score_transform", config.al.score_transform, VIEWS))
    if config.last_batch not in LAST_BATCHES:
        raise UserError(unknown_name("last_batch", config.last_batch, LAST_BATCHES))
    for field in ("num_epochs", "batch_size", "eval_batch_size", "al.rounds", "al.query_size"):
        value = config
        for part in field.split("."):
            value = value[part]
        if value < 1:
            raise UserError(f"{field}={value} must be at least 1.")


def _load(config: ml_collections.ConfigDict) -> tuple[Dataset, OpenSetSplit]:
    dataset = load(config)
    al = config.al
    split = open_set_split(
        dataset.train.labels,
        dataset.test.labels,
        num_classes=dataset.num_classes,
        openness=None if al.num_known else al.openness,
        num_known=al.num_known or None,
        class_order=tuple(al.class_order) or None,
        init_fraction=al.init_fraction,
        seed=config.seed,
    )
    pool = int(np.sum(~split.labeled))
    wanted = al.query_size * (al.rounds - 1)
    if wanted > pool:
        raise UserError(
            f"al.rounds={al.rounds} with al.query_size={al.query_size} asks for {wanted} "
            f"annotations, but the pool holds {pool} images; lower al.query_size or al.rounds."
        )
    return dataset, split


class _Learning:
    """One experiment in progress."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        run_: Run,
        dataset: Dataset,
        split: OpenSetSplit,
    ):
        self.config = config
        self.io = run_
        self.dataset = dataset
        self.split = split
        self.task = Task(
            num_classes=split.num_known,
            image_shape=dataset.train.images.shape[1:],
            dtype=compute_dtype(config.dtype),
            budget=config.al.query_size,
        )
        self.strategy: Strategy = STRATEGIES[config.method](config, self.task)
        self._set_annotations(
            np.where(split.labeled, split.targets, NOT_ANNOTATED).astype(np.int32)
        )
        self.rounds: list[dict] = []
        self.networks: dict[str, Any] = {}
        self._jitted: dict[str, Any] = {}
        self._predicted: dict[str, Any] = {}
        placement = run_.placement
        self._images = placement.put(dataset.train.images)
        self._test_images = placement.put(dataset.test.images)
        self._build_programs()

    # Programs

    def _build_programs(self) -> None:
        programs, placement = self.io.programs, self.io.placement
        score_augmented = self.config.al.score_transform == "train"
        self._start, self._epoch, self._predict, self._classify = {}, {}, {}, {}
        for phase in self.strategy.phases:
            name = phase.name
            self._start[name] = programs.jit(
                f"{name}/start", phase.start, out_shardings=placement.replicated
            )
            self._epoch[name] = epoch_program(
                programs, f"{name}/epoch", self._step(phase), placement
            )
            self._predict[name] = gather_program(
                programs,
                f"{name}/predict",
                self._forward(phase, augmented=score_augmented),
                len(self.dataset.train),
                placement,
            )
            if phase.class_probs is not None:
                self._classify[name] = gather_program(
                    programs,
                    f"{name}/test",
                    self._forward(phase, augmented=False, then=phase.class_probs),
                    len(self.dataset.test),
                    placement,
                )

    def _view(self, key: jax.Array, images: jax.Array, *, augmented: bool) -> jax.Array:
        """Raw images as a network sees them."""
        if augmented:
            augment = self.config.augment
            images = pad_crop_flip(key, images, padding=augment.padding, flip=augment.flip)
        return normalize(images, self.dataset.mean, self.dataset.std, dtype=self.task.dtype)

    def _step(self, phase: Phase):
        def step(state, ids, key, images, annotations, scalars):
            augment_key, pool_key, pool_augment_key, step_key = jax.random.split(key, 4)
            valid = ids >= 0
            rows = jnp.maximum(ids, 0)
            labels = jnp.where(valid, annotations[rows], NOT_ANNOTATED)
            pool_images = None
            if phase.pool_batch:
                # The k-th image of the pool is the first id at which k + 1 have been counted.
                counts = jnp.cumsum(annotations == NOT_ANNOTATED)
                draws = jax.random.randint(
                    pool_key, (phase.pool_batch,), 0, jnp.maximum(counts[-1], 1), counts.dtype
                )
                pool_images = self._view(
                    pool_augment_key, images[jnp.searchsorted(counts, draws + 1)], augmented=True
                )
            return phase.step(
                state,
                self._view(augment_key, images[rows], augmented=True),
                labels,
                valid,
                pool_images,
                step_key,
                scalars,
            )

        return step

    def _forward(self, phase: Phase, *, augmented: bool, then=lambda outputs: outputs):
        def forward(ids, key, variables, images):
            return then(phase.forward(variables, self._view(key, images[ids], augmented=augmented)))

        return forward

    def jit(self, name: str, function):
        """`function` compiled once for the whole run."""
        if name not in self._jitted:
            self._jitted[name] = self.io.programs.jit(name, function)
        return self._jitted[name]

    # The loop

    def run(self) -> dict:
        config = self.config
        self._write_split()
        round_, phase_index, epoch = self._restore()
        self._introduce(resumed=(round_, phase_index, epoch) != (0, 0, 0))
        self.io.start_progress(
            total=self._step_number(config.al.rounds, 0, 0),
            done=self._step_number(round_, phase_index, epoch),
        )
        while round_ < config.al.rounds:
            for index in range(phase_index, len(self.strategy.phases)):
                self._train(round_, index, first_epoch=epoch if index == phase_index else 0)
            self._predicted = {}
            self._measure(round_)
            if round_ + 1 < config.al.rounds:
                self._query(round_)
            self._show(round_)
            round_, phase_index, epoch = round_ + 1, 0, 0
            step = self._step_number(round_, 0, 0)
            self.io.save(step, self._tree(), self._record(round_, 0, 0))
            self.io.epoch_done(
                step, self._tree(), self._record(round_, 0, 0), f"round {round_ - 1}"
            )
        self.io.flush()
        return self._finish()

    def _train(self, round_: int, index: int, *, first_epoch: int) -> None:
        phase = self.strategy.phases[index]
        seed, name = self.config.seed, phase.name
        members = phase.members(self.annotations)
        if not members.size:
            return
        if first_epoch == 0:
            key = rng.stream(seed, f"{name}/start", round_)
            self.networks[name] = self._start[name](key, self._before(index))
        for epoch in range(first_epoch, phase.num_epochs):
            order = rng.generator(seed, f"{name}/order", round_, epoch)
            plan = self._plan(
                order.permutation(members), phase.batch_size, last_batch=self.config.last_batch
            )
            self.networks[name], sums = self._epoch[name](
                self.networks[name],
                plan,
                rng.stream(seed, f"{name}/steps", round_, epoch),
                self._images,
                self._annotations_on_device,
                {k: np.float32(v) for k, v in phase.scalars(epoch).items()},
            )
            step = self._step_number(round_, index, epoch + 1)
            event = {"step": step, "split": "train", "phase": name, "round": round_}
            self.io.write({**event, "epoch": epoch}, sums, count=plan.num_steps)
            self.io.epoch_done(
                step,
                self._tree(),
                self._record(round_, index, epoch + 1),
                f"round {round_}, {name}, epoch {epoch + 1}/{phase.num_epochs}",
            )

    def _before(self, index: int) -> dict:
        """Networks of the phases that precede phase `index` in a round."""
        return {p.name: self.networks[p.name] for p in self.strategy.phases[:index]}

    def _plan(
        self,
        ids: np.ndarray,
        batch_size: int,
        *,
        capacity: int | None = None,
        last_batch: str = "short",
    ) -> Plan:
        """Rows on the devices; the same shape in every round."""
        placement = self.io.placement
        plan = make_plan(
            ids,
            batch_size,
            capacity=len(self.dataset.train) if capacity is None else capacity,
            width=placement.round_up(batch_size),
            last_batch=last_batch,
        )
        return plan._replace(ids=jax.device_put(plan.ids, placement.plan))

    def _measure(self, round_: int) -> None:
        """Accuracy of every classifying network on the test images of known classes."""
        test_ids = np.flatnonzero(self.split.test_known)
        plan = self._plan(test_ids, self.config.eval_batch_size, capacity=len(self.dataset.test))
        targets = self.split.test_targets[test_ids]
        counts = np.bincount(
            self.annotations[self.annotations != NOT_ANNOTATED], minlength=self.task.num_classes + 1
        )
        entry = {
            "round": round_,
            "num_labeled_known": int(counts[:-1].sum()),
            "num_labeled_unknown": int(counts[-1]),
            "num_labeled_per_class": counts[:-1].tolist(),
        }
        for name in self._trained():
            if name not in self._classify:
                continue
            probs = fetch(
                self._classify[name](
                    plan,
                    rng.stream(self.config.seed, f"{name}/test", round_),
                    self.networks[name].variables,
                    self._test_images,
                )
            )[test_ids]
            hits = np.asarray(metrics.topk_accuracy(probs, targets, 1))
            key = "accuracy" if name == self.strategy.target else f"{name}_accuracy"
            entry[key] = float(hits.mean(dtype=np.float64))
        self.rounds.append(entry)
        self._log_round(round_, "test", entry)

    def _trained(self) -> tuple[str, ...]:
        """Phases that had something to train on in this round."""
        return tuple(p.name for p in self.strategy.phases if p.members(self.annotations).size)

    def _query(self, round_: int) -> None:
        in_pool = self.annotations == NOT_ANNOTATED
        precisions = tuple(r["query"]["precision"] for r in self.rounds if "query" in r)
        context = QueryContext(
            predict=lambda name: self._pool_predictions(name, round_),
            trained=frozenset(self._trained()),
            in_pool=in_pool,
            annotations=self.annotations.copy(),
            budget=self.config.al.query_size,
            round=round_,
            precisions=precisions,
            rng=rng.generator(self.config.seed, f"{self.config.method}/query", round_),
            jit=self.jit,
        )
        query = self.strategy.query(context)
        entry = self._judge(query, in_pool)
        self._write_query(round_, query)
        self.annotate(query.ids)
        self.rounds[-1]["query"] = entry
        self._log_round(round_, "query", entry)

    def _pool_predictions(self, name: str, round_: int) -> Any:
        if name not in self._predicted:
            pool = np.flatnonzero(self.annotations == NOT_ANNOTATED)
            plan = self._plan(pool, self.config.eval_batch_size)
            self._predicted[name] = self._predict[name](
                plan,
                rng.stream(self.config.seed, f"{name}/predict", round_),
                self.networks[name].variables,
                self._images,
            )
        return self._predicted[name]

    def annotate(self, ids: np.ndarray) -> None:
        """The oracle: reveals the class of `ids`, or that it is unknown."""
        annotations = self.annotations.copy()
        annotations[ids] = self.split.targets[ids]
        self._set_annotations(annotations)

    def _set_annotations(self, annotations: np.ndarray) -> None:
        self.annotations = annotations
        self._annotations_on_device = self.io.placement.put(annotations)

    def _judge(self, query: Query, in_pool: np.ndarray) -> dict:
        """Precision, recall and AUROCs of a query, before it is annotated."""
        num_classes = self.task.num_classes
        is_known = self.split.targets < num_classes
        selected_known = is_known[query.ids]
        pool_known = int(np.sum(in_pool & is_known))
        entry = {
            "size": len(query.ids),
            "num_known": int(selected_known.sum()),
            "precision": float(metrics.query_precision(selected_known)),
            "recall": float(
                metrics.query_recall(
                    self.rounds[-1]["num_labeled_known"], int(selected_known.sum()), pool_known
                )
            ),
            "pool_size": int(in_pool.sum()),
            "pool_known_fraction": pool_known / max(int(in_pool.sum()), 1),
            **query.notes,
        }
        unknown = ~is_known[in_pool]
        if unknown.any() and not unknown.all():
            for name in self.strategy.unknown_scores:
                if name in query.scores:
                    entry[f"auroc_{name}"] = float(
                        metrics.auroc(query.scores[name][in_pool], unknown)
                    )
        return entry

    # Files

    def _write_query(self, round_: int, query: Query) -> None:
        """`queries/round_XX.csv`: the chosen images in order of choice, and why."""
        names = [self.dataset.class_names[c] for c in self.split.known_classes] + ["unknown"]
        files = self.dataset.train.files
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["id", *(["file"] if files else []), *query.scores, "label"])
        for i in query.ids:
            cells = [cell(column[i]) for column in query.scores.values()]
            file = [files[i]] if files else []
            table.writerow([int(i), *file, *cells, names[self.split.targets[i]]])
        write_text(self.io.workdir / "queries" / f"round_{round_:02d}.csv", text.getvalue())

    def _write_split(self) -> None:
        """`split.json`: which classes are known, which images started labelled, and of which data.

        Raises:
          UserError: if an earlier attempt in this workdir saw other data.
        """
        names, known = self.dataset.class_names, self.split.known_classes
        initial = np.flatnonzero(self.split.labeled)
        split = {
            "known_classes": [names[c] for c in known],
            "unknown_classes": [n for c, n in enumerate(names) if c not in known],
            "num_train": len(self.dataset.train),
            "num_test_known": int(self.split.test_known.sum()),
            "initial_ids": initial.tolist(),
            "initial_ids_sha256": hashlib.sha256(initial.astype("<i8").tobytes()).hexdigest(),
            "dataset_sha256": fingerprint(self.dataset),
        }
        path = self.io.workdir / "split.json"
        if path.exists() and json.loads(path.read_text()) != split:
            raise UserError(
                f"{self.config.dataset.name} is not the data that {self.io.workdir} was started "
                "with; restore it, or choose another --workdir."
            )
        write_json(path, split)

    def _log_round(self, round_: int, split: str, entry: dict) -> None:
        step = self._step_number(round_ + 1, 0, 0)
        values = {k: v for k, v in entry.items() if isinstance(v, (int, float)) and k != "round"}
        self.io.write({"step": step, "split": split, "round": round_}, values)

    # Checkpoints

    def _step_number(self, round_: int, phase_index: int, epoch: int) -> int:
        """Epochs since the start of the run; a query counts as one."""
        epochs = [p.num_epochs for p in self.strategy.phases]
        return round_ * (sum(epochs) + 1) + sum(epochs[:phase_index]) + epoch

    def _tree(self) -> dict:
        return {"networks": self.networks, "annotations": self._annotations_on_device}

    def _record(self, round_: int, phase_index: int, epoch: int) -> dict:
        return {
            "round": round_,
            "phase": phase_index,
            "epoch": epoch,
            "rounds": self.rounds,
        }

    def _restore(self) -> tuple[int, int, int]:
        """Position (round, phase, epoch) to go on from; fills the state."""
        for index, phase in enumerate(self.strategy.phases):
            key = rng.stream(self.config.seed, f"{phase.name}/start", 0)
            self.networks[phase.name] = self._start[phase.name](key, self._before(index))
        found = self.io.restore(self._tree())
        if found is None:
            return 0, 0, 0
        tree, record = found
        self.networks = tree["networks"]
        self._set_annotations(np.asarray(tree["annotations"]))
        self.rounds = record["rounds"]
        return record["round"], record["phase"], record["epoch"]

    # What the user sees

    def _introduce(self, *, resumed: bool) -> None:
        devices = jax.devices()
        known = [self.dataset.class_names[c] for c in self.split.known_classes]
        log.info(
            "%s on %s: %d training images, %d of %d classes known (%s), %d labelled at the start",
            self.config.method,
            self.dataset.name,
            len(self.dataset.train),
            len(known),
            self.dataset.num_classes,
            _shorten(known),
            int(self.split.labeled.sum()),
        )
        sizes = ", ".join(
            f"{name} {sum(x.size for x in jax.tree.leaves(state.params)):,} parameters"
            for name, state in self.networks.items()
        )
        log.info(
            "%d x %s, %s, networks: %s",
            len(devices),
            devices[0].device_kind,
            jnp.dtype(self.task.dtype).name,
            sizes,
        )
        if resumed:
            log.info("Going on with the run in %s", self.io.workdir)

    def _show(self, round_: int) -> None:
        entry = self.rounds[-1]
        text = (
            f"round {round_}: accuracy {100 * entry['accuracy']:.2f} % with "
            f"{entry['num_labeled_known']} known labels"
        )
        if "query" in entry:
            query = entry["query"]
            text += (
                f"; queried {query['size']}: precision {100 * query['precision']:.1f} %, "
                f"recall {100 * query['recall']:.1f} %"
            )
        log.info(text)

    def _finish(self) -> dict:
        results = {
            "task": "active_learning",
            "method": self.config.method,
            "dataset": self.dataset.name,
            "seed": self.config.seed,
            "num_known_classes": self.task.num_classes,
            "num_classes": self.dataset.num_classes,
            **_summary(self.rounds),
            "rounds": self.rounds,
        }
        workdir = self.io.workdir
        write_json(workdir / "results.json", results)
        write_json(
            workdir / "timing.json",
            {"seconds": self.io.seconds, "traces": dict(self.io.programs.traces)},
        )
        figure = workdir / "figures" / "learning_curve.png"
        learning_curves({self.config.method: [results]}, figure)
        for line in (
            f"last accuracy {100 * results['last']['accuracy']:.2f} %, mean over rounds "
            f"{100 * results['mean_accuracy']:.2f} %, {self.io.seconds:.0f} s in all",
            f"results: {workdir / 'results.json'}",
            f"queried images and their scores: {workdir / 'queries'}",
            f"figure: {figure}",
            f"next: python -m jaxrobust.compare {workdir} ANOTHER_WORKDIR --out=comparison",
        ):
            log.info(line)
        return results


def _summary(rounds: list[dict]) -> dict:
    """Last, best and mean accuracy, and the area under the accuracy curve.

    The area is taken over the number of queried images by the trapezoid rule and divided by its
    width, so that it is an accuracy too.
    """
    accuracies = np.array([r["accuracy"] for r in rounds])
    asked = np.array([r["num_labeled_known"] + r["num_labeled_unknown"] for r in rounds])
    best = int(np.argmax(accuracies))
    width = float(asked[-1] - asked[0])
    area = np.trapezoid(accuracies, asked) / width if width else accuracies[-1]
    queries = [r["query"] for r in rounds if "query" in r]
    return {
        "last": {"round": len(rounds) - 1, "accuracy": rounds[-1]["accuracy"]},
        "best": {
            "round": best,
            "accuracy": float(accuracies[best]),
            "rule": "highest test accuracy of any round, known only by looking at the test set",
        },
        "mean_accuracy": float(accuracies.mean()),
        "area_under_accuracy_curve": float(area),
        "mean_query_precision": float(np.mean([q["precision"] for q in queries] or [0.0])),
        "last_query_recall": queries[-1]["recall"] if queries else 0.0,
    }


def _shorten(names: list[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
