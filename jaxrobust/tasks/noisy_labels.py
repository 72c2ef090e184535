"""Learning under wrong labels: train, test, judge every given label, again.

The same loop serves every method. True labels are read in two places only: where the noise is put
in, and in `_Learning._detection`, which says how well the wrong labels were found.
"""

import hashlib
import io
import json
import logging
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxrobust import figures, metrics
from jaxrobust.data.augment import normalize, pad_crop_flip
from jaxrobust.data.dataset import Dataset, fingerprint
from jaxrobust.data.noise import (
    asymmetric_noise_cifar10,
    asymmetric_noise_cifar100,
    flip_labels,
    pairflip_transition,
    read_cifarn_labels,
    symmetric_noise,
    symmetric_transition,
    transition_matrix,
)
from jaxrobust.data.policies import CIFAR10_POLICY, IMAGENET_POLICY, auto_augment, cutout
from jaxrobust.data.streaming import views_at
from jaxrobust.data.subsets import archive_order
from jaxrobust.engine import rng
from jaxrobust.engine.files import (
    escape_formula,
    format_number,
    write_bytes,
    write_json,
    write_table,
)
from jaxrobust.engine.plan import Plan, place_plan
from jaxrobust.engine.programs import Programs, epoch_program, gather_program
from jaxrobust.engine.runtime import Run, open_run
from jaxrobust.engine.sharding import fetch
from jaxrobust.errors import UserError
from jaxrobust.methods import NOISY_LABEL_METHODS
from jaxrobust.methods.noisy_labels import Batch, Method, Pass, Problem, Stage
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
from jaxrobust.tasks.images import images_of

log = logging.getLogger("jaxrobust")

POLICIES = {"cifar10": CIFAR10_POLICY, "imagenet": IMAGENET_POLICY, "none": None}
NUM_LAST = 10  # epochs in the mean that the papers report
NUM_SHOWN = 60  # images on the contact sheet


def run(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike,
    programs: Programs | None = None,
    *,
    dataset: Dataset | None = None,
) -> dict:
    """Runs a whole noisy-label experiment, or what is left of it.

    Args:
      config: a recipe, see `jaxrobust.tasks.options.NoisyLabels`.
      workdir: where everything is written; that of an interrupted run goes on.
      programs: those of a run of the same recipe with another seed.
      dataset: one in memory, in place of the one that the recipe names.

    Returns:
      What `results.json` holds.

    Raises:
      UserError: if the recipe, the data or the workdir is not usable.
    """
    _check(config)
    dataset = dataset or load(config, streams=True)
    check_batch_size(config, len(dataset.train))
    labels = given_labels(config.noise, dataset, seed=config.seed)
    with open_run(config, workdir, programs) as run_:
        return _Learning(config, run_, dataset, labels).run()


def _check(config: ml_collections.ConfigDict) -> None:
    """Refuses values that no method could run with."""
    check_common(config)


def given_labels(noise: ml_collections.ConfigDict, dataset: Dataset, *, seed: int) -> np.ndarray:
    """The training labels that a method gets to see.

    Args:
      noise: options as of `jaxrobust.tasks.options.Noise`.
      dataset: the clean data.
      seed: of the run.

    Returns:
      int32 `[N]` in the order of the data set.

    Raises:
      UserError: if the noise is not one for this data, or its file is not usable.
    """
    clean, num_classes = dataset.train.labels, dataset.num_classes
    seed = noise.seed if noise.seed >= 0 else seed
    try:
        match noise.kind:
            case "none":
                labels = clean
            case "symmetric":
                labels = symmetric_noise(clean, noise.rate, seed, num_classes)
            case "uniform":
                labels = flip_labels(clean, symmetric_transition(noise.rate, num_classes), seed)
            case "pairflip":
                labels = flip_labels(clean, pairflip_transition(noise.rate, num_classes), seed)
            case "asymmetric":
                labels = _asymmetric(noise, dataset, seed)
            case "transition":
                labels = flip_labels(clean, _read_transition(noise.path, num_classes), seed)
            case "human":
                labels = _human(noise, dataset)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"noise.kind={noise.kind!r}: {error}") from None
    return labels.astype(np.int32)


def _asymmetric(noise: ml_collections.ConfigDict, dataset: Dataset, seed: int) -> np.ndarray:
    if dataset.name in ("cifar10", "cifar10_jpeg"):
        return asymmetric_noise_cifar10(dataset.train.labels, noise.rate, seed)
    if dataset.name == "cifar100":
        return asymmetric_noise_cifar100(
            dataset.train.labels, noise.rate, seed, groups=noise.groups
        )
    raise UserError(
        f"noise.kind='asymmetric' names look-alike classes of CIFAR, not of {dataset.name}; use "
        "'pairflip', or 'transition' with a matrix of your own in noise.path."
    )


def _read_transition(path: str, num_classes: int) -> np.ndarray:
    """Matrix `[C, C]` from a .npy file, or from text with one row per line."""
    if not path:
        raise UserError("noise.kind='transition' needs --config.noise.path= of a C x C matrix.")
    file = pathlib.Path(path).expanduser()
    try:
        if not file.stat().st_size:
            raise ValueError("it is empty")
        if file.suffix == ".npy":
            matrix = np.load(file, allow_pickle=False)
        else:
            matrix = np.loadtxt(file, delimiter="," if file.suffix == ".csv" else None, ndmin=2)
    except (OSError, ValueError) as error:
        raise UserError(
            f"noise.path={path} cannot be read as a matrix ({error}); use .npy, .csv or text."
        ) from None
    if matrix.shape != (num_classes, num_classes):
        raise UserError(
            f"noise.path={path} holds a matrix of shape {matrix.shape}, but there are "
            f"{num_classes} classes; it must be {num_classes} x {num_classes}."
        )
    return matrix


def _human(noise: ml_collections.ConfigDict, dataset: Dataset) -> np.ndarray:
    """CIFAR-N's labels, from the archive's order to that of the images at hand."""
    if dataset.name not in ("cifar10", "cifar10_jpeg", "cifar100"):
        raise UserError(
            f"noise.kind='human' reads the labels of CIFAR-10N and CIFAR-100N, not of "
            f"{dataset.name}; choose another noise.kind."
        )
    path = noise.path or (
        "datasets/CIFAR-100_human.pt"
        if dataset.name == "cifar100"
        else "datasets/CIFAR-10_human.pt"
    )
    origin = dataset.train.origin
    whole = dataset.train.labels if origin is None else origin.labels
    order = archive_order(whole, read_cifarn_labels(path, "clean"))
    labels = np.empty_like(whole)
    labels[order] = read_cifarn_labels(path, noise.label_set)
    if labels.max() >= dataset.num_classes:
        raise UserError(f"{path} holds labels beyond the {dataset.num_classes} classes.")
    return labels if origin is None else labels[origin.ids]


class _Learning:
    """One experiment in progress."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        run_: Run,
        dataset: Dataset,
        labels: np.ndarray,
    ):
        self.config = config
        self.io = run_
        self.dataset = dataset
        self.labels = labels
        self.is_wrong = None if config.noise.kind == "none" else labels != dataset.train.labels
        placement = run_.placement
        self._images = images_of(dataset.train, config, placement)
        self._test_images = images_of(dataset.test, config, placement)
        self._labels = placement.put(labels)
        self.problem = Problem(
            num_classes=dataset.num_classes,
            num_examples=len(dataset.train),
            input_shape=self._images.shape,
            dtype=compute_dtype(config.dtype),
            norm_parts=batch_norm_parts(config, placement),
        )
        self.method: Method = NOISY_LABEL_METHODS[config.method](config, self.problem)
        self.networks: dict[str, Any] = {}
        self.columns: dict[str, np.ndarray] = {}
        self.peers: dict[str, Any] = {}
        self.epochs: list[dict] = []
        self._done_passes = 0  # of the epoch under way
        self._build_programs()

    # Programs

    def _build_programs(self) -> None:
        programs, placement, method = self.io.programs, self.io.placement, self.method
        options = {"out_shardings": placement.replicated}
        self._start = programs.jit("start", method.start, **options)
        self._stages = {stage.name: stage for stage in method.stages}
        self._epoch = {
            stage.name: epoch_program(
                programs,
                f"{stage.name}/epoch",
                self._step(stage),
                placement,
            )
            for stage in method.stages
        }
        self._predict = {
            split: gather_program(
                programs, f"{split}/predict", self._forward(view), size, placement
            )
            for split, view, size in (
                ("train", method.judge_view, len(self.labels)),
                ("test", "test", len(self.dataset.test)),
            )
        }
        self._judge = programs.jit("judge", method.judge, **options)
        if method.end_epoch is not None:
            self._end_epoch = programs.jit(
                "end_epoch", method.end_epoch, donate_argnums=0, **options
            )

        def probs(logits):
            return method.class_probs(logits), jax.vmap(lambda x: method.class_probs(x[None]))(
                logits
            )

        self._probs = programs.jit("probs", probs, **options)

    def _view(self, kind: str, key: jax.Array, images: jax.Array) -> jax.Array:
        """Raw images as a network sees them: a kind of `Stage.views`, or "test"."""
        augment = self.config.augment
        if kind == "test":
            return self._normalized(images)
        policy_key, crop_key, cutout_key = jax.random.split(key, 3)
        policy = POLICIES[augment.policy]

        def crop(images):
            return pad_crop_flip(crop_key, images, padding=augment.padding, flip=augment.flip)

        if kind == "weak" or policy is None:
            images = crop(images)
        elif augment.policy == "imagenet":  # the authors flip first, as it rotates one way only
            images = auto_augment(policy_key, crop(images), policy)
        else:
            images = crop(auto_augment(policy_key, images, policy))
        images = self._normalized(images)
        if kind == "strong" and augment.cutout:
            images = cutout(cutout_key, images, size=augment.cutout)
        return images

    def _normalized(self, images: jax.Array) -> jax.Array:
        return normalize(images, self.dataset.mean, self.dataset.std, dtype=self.problem.dtype)

    def _step(self, stage: Stage):
        def batch(name, key, ids, images, labels, columns):
            # Slots beyond the batch size only even the rows out over the devices.
            ids = ids[: stage.batch_sizes[name]]
            rows = jnp.maximum(ids, 0)
            keys = jax.random.split(key, len(stage.views))
            images = images[name] if isinstance(images, dict) else images
            raw = views_at(images, rows, len(stage.views))
            views = tuple(map(self._view, stage.views, keys, raw))
            values = {name: column[rows] for name, column in columns.items()}
            return Batch(rows, labels[rows], ids >= 0, views, values)

        def step(carry, ids, key, peer, images, labels, columns, scalars):
            network, done = carry
            step_key, *keys = jax.random.split(key, 1 + len(ids))
            batches = {
                name: batch(name, k, ids[name], images, labels, columns)
                for name, k in zip(sorted(ids), keys, strict=True)
            }
            progress = done / scalars["num_steps"]
            network, values = stage.step(
                network, peer, batches, step_key, {**scalars, "progress": progress}
            )
            return (network, done + 1), values

        return step

    def _forward(self, view: str):
        def forward(ids, key, variables, images):
            (raw,) = views_at(images, ids, 1)
            return self.method.forward(variables, self._view(view, key, raw))

        return forward

    # The loop

    def run(self) -> dict:
        num_epochs = self.config.num_epochs
        self._write_noise()
        self._introduce()
        first_epoch = self._restore()
        introduce_networks(self.networks, self.problem.dtype, self.io)
        self.io.start_progress(total=num_epochs, done=first_epoch)
        for epoch in range(first_epoch, num_epochs):
            self._train(epoch)
            entry = {"epoch": epoch, **self._test_measures(epoch)}
            self._write("test", epoch, entry)
            self.columns = self._judged(epoch)
            entry["labels"] = self._detection()
            self._write("labels", epoch, entry["labels"])
            self.epochs.append(entry)
            self.io.epoch_done(
                epoch + 1,
                self._tree(),
                self._record(epoch + 1),
                f"epoch {epoch + 1}/{num_epochs}, accuracy {100 * entry['accuracy']:.2f} %",
            )
        self.io.save(num_epochs, self._tree(), self._record(num_epochs))
        self.io.flush()
        return self._finish()

    def _train(self, epoch: int) -> None:
        seed = self.config.seed
        if not self.io.is_within_epoch:
            self._done_passes, self.peers = 0, self._peers()
        passes = self.method.passes(
            epoch, self.columns, lambda name: rng.generator(seed, name, epoch)
        )
        for entry in passes[self._done_passes :]:
            plan = self._plan(entry)
            peer = {}
            if entry.peer is not None:
                peer = self.peers.get(entry.peer, self.networks[entry.peer].variables)
            views, stream = self._stages[entry.stage].views, f"{entry.network}/{entry.stage}"
            scalars = {**entry.scalars, "num_steps": plan.num_steps}

            def keep(carry, name=entry.network):
                self.networks[name], _ = carry
                return self._tree(), self._record(epoch)

            where = f"epoch {epoch + 1}/{self.config.num_epochs}, {stream}"
            part = self._done_passes, len(passes)
            within = self.io.within_epoch(epoch, where, keep, num_steps=plan.num_steps, part=part)
            carry = self.networks[entry.network], self.io.placement.put(np.float32(within.row))
            (self.networks[entry.network], _), sums = self._epoch[entry.stage](
                carry,
                plan,
                rng.stream(seed, stream, epoch),
                peer,
                self._images.visit(views, stream, epoch),
                self._labels,
                self.io.placement.put(entry.columns),
                {name: np.float32(value) for name, value in scalars.items()},
                within=within,
            )
            self._done_passes += 1
            event = {"step": epoch + 1, "split": "train", "phase": entry.network, "epoch": epoch}
            notes = {name: value * plan.num_steps for name, value in entry.notes.items()}
            self.io.write({**event, "stage": entry.stage}, {**sums, **notes}, count=plan.num_steps)
        if self.method.end_epoch is not None:
            for name, state in self.networks.items():
                self.networks[name] = self._end_epoch(state, np.int32(epoch))

    def _peers(self) -> dict[str, Any]:
        """Variables of the networks that this epoch's passes read, if not those of the moment."""
        if self.method.peer_from != "epoch_start":
            return {}
        # Copies, because training consumes the arrays it starts from.
        return {n: jax.tree.map(jnp.copy, s.variables) for n, s in self.networks.items()}

    def _plan(self, entry: Pass) -> Plan:
        """Rows on the devices; the same shapes in every epoch."""
        stage = self._stages[entry.stage]
        plans = {
            name: place_plan(
                entry.ids[name],
                size,
                self.io.placement,
                capacity=len(self.labels),
                last_batch=stage.last_batch,
            )
            for name, size in stage.batch_sizes.items()
        }
        (num_steps,) = {plan.num_steps for plan in plans.values()}
        return Plan({name: plan.ids for name, plan in plans.items()}, num_steps)

    def _logits(self, split: str, epoch: int) -> jax.Array:
        """Every predictor's logits `[M, n, C]` on all images of a split."""
        images, count, view = self._images, len(self.dataset.train), self.method.judge_view
        variables = self.method.judge_variables
        if split == "test":
            images, count, view = self._test_images, len(self.dataset.test), "test"
            variables = self.method.test_variables
        plan = place_plan(
            np.arange(count), self.config.eval_batch_size, self.io.placement, capacity=count
        )
        visited = images.visit((view,), f"{split}/predict", epoch)
        key = rng.stream(self.config.seed, f"{split}/predict", epoch)
        logits = [
            self._predict[split](plan, key, variables(self.networks[name]), visited)
            for name in self.method.networks
        ]
        return jnp.moveaxis(logits[0], 1, 0) if self.method.heads else jnp.stack(logits)

    def _test_measures(self, epoch: int) -> dict[str, float]:
        """Accuracy and calibration error of all predictors together and of each."""
        together, each = fetch(self._probs(self._logits("test", epoch)))
        labels = self.dataset.test.labels
        several = dict(zip(self.method.predictors, each, strict=True)) if len(each) > 1 else {}
        values = {}
        for name, probs in {"": together, **several}.items():
            suffix = f"_{name}" if name else ""
            values[f"accuracy{suffix}"] = _mean_hits(probs, labels, 1)
            if self.problem.num_classes > 20:
                values[f"top5_accuracy{suffix}"] = _mean_hits(probs, labels, 5)
            values[f"ece{suffix}"] = metrics.expected_calibration_error(probs, labels)
        return values

    def _judged(self, epoch: int) -> dict[str, np.ndarray]:
        columns = fetch(self._judge(self._logits("train", epoch), self._labels))
        for name, column in columns.items():
            if not np.isfinite(column).all():
                raise UserError(
                    f"The {name} of some training images is not finite after epoch {epoch}; lower "
                    "optimizer.learning_rate, or set --config.dtype=float32."
                )
        return columns

    def _detection(self) -> dict[str, float]:
        """How many labels look wrong and, where the truth is known, how many are."""
        flagged = self.columns["flagged"]
        values = {"flagged_fraction": float(flagged.mean())}
        if self.is_wrong is None:
            return values
        precision, recall, f1 = metrics.detection_scores(flagged, self.is_wrong)
        suggested_right = self.columns["suggested"] == self.dataset.train.labels
        values |= {
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "suggested_accuracy": float(suggested_right.mean()),
        }
        if self.is_wrong.any() and not self.is_wrong.all():
            score = self.method.score
            names = [n for n in self.columns if n.startswith(("clean_prob", score))]
            for name in names:
                values[f"auroc_{name}"] = float(metrics.auroc(-self.columns[name], self.is_wrong))
        return values

    def _write(self, split: str, epoch: int, values: dict) -> None:
        values = {name: value for name, value in values.items() if name != "epoch"}
        self.io.write({"step": epoch + 1, "split": split, "epoch": epoch}, values)

    # Checkpoints

    def _tree(self) -> dict:
        columns = self.io.placement.put(self.columns)
        return {"networks": self.networks, "peers": self.peers, "columns": columns}

    def _record(self, epoch: int) -> dict:
        return {"epoch": epoch, "epochs": self.epochs, "done_passes": self._done_passes}

    def _restore(self) -> int:
        """First epoch to train; fills the state."""
        seed = self.config.seed
        self.networks = {
            name: self._start(rng.stream(seed, f"{name}/start")) for name in self.method.networks
        }
        shape = (len(self.method.predictors), len(self.labels), self.problem.num_classes)
        shapes = jax.eval_shape(
            self.method.judge, jax.ShapeDtypeStruct(shape, jnp.float32), self._labels
        )
        self.columns = {name: np.zeros(s.shape, s.dtype) for name, s in shapes.items()}
        self.peers = self._peers()
        found = self.io.restore(self._tree())
        if found is None:
            return 0
        tree, record = found
        self.networks, self.peers = tree["networks"], tree["peers"]
        self._done_passes = record["done_passes"]
        self.columns = fetch(tree["columns"])
        self.epochs = record["epochs"]
        return record["epoch"]

    # Files

    def _write_noise(self) -> None:
        """`noise.json` and `noisy_labels.npy`: which labels the run saw."""
        clean, noise = self.dataset.train.labels, self.config.noise
        facts = {
            "kind": noise.kind,
            "rate": noise.rate,
            "seed": noise.seed if noise.seed >= 0 else self.config.seed,
            "realised_rate": float(np.mean(self.labels != clean)),
            "num_wrong": int(np.sum(self.labels != clean)),
            "labels_sha256": hashlib.sha256(self.labels.astype("<i4").tobytes()).hexdigest(),
            "dataset_sha256": fingerprint(self.dataset),
            "class_names": list(self.dataset.class_names),
            "transition": transition_matrix(clean, self.labels, self.dataset.num_classes).tolist(),
        }
        self.io.begin("noise.json", facts, dtype=self.problem.dtype)
        content = io.BytesIO()
        np.save(content, self.labels)
        write_bytes(self.io.workdir / "noisy_labels.npy", content.getvalue())
        if self.is_wrong is not None:
            log.info(
                "%d of %d labels are wrong (%.2f %%); share of each label in each true class:\n%s",
                facts["num_wrong"],
                len(clean),
                100 * facts["realised_rate"],
                _matrix_text(np.array(facts["transition"])),
            )

    def _by_suspicion(self) -> np.ndarray:
        """Ids, those whose label looks most wrong first."""
        return np.lexsort((self.columns[self.method.score], self.columns["clean_prob"]))

    def _write_label_quality(self) -> None:
        """`label_quality.csv`: every training image, the most suspicious label first."""
        names = [escape_formula(name) for name in self.dataset.class_names]
        files = [escape_formula(name) for name in self._images.names or ()]
        is_class = [n for n in self.columns if n == "suggested" or n.startswith("prediction_")]
        others = [n for n in self.columns if n != "suggested"]
        truth = [] if self.is_wrong is None else ["true_label"]
        header = ["id", *(["file"] if files else []), "given_label", "suggested_label"]
        rows = [[*header, *others, *truth]]
        for i in self._by_suspicion():
            file = [files[i]] if files else []
            classes = [names[self.labels[i]], names[self.columns["suggested"][i]]]
            cells = [
                names[self.columns[n][i]] if n in is_class else format_number(self.columns[n][i])
                for n in others
            ]
            true_label = [names[self.dataset.train.labels[i]]] if truth else []
            rows.append([int(i), *file, *classes, *cells, *true_label])
        write_table(self.io.workdir / "label_quality.csv", rows)

    def _draw(self, results: dict) -> None:
        folder = self.io.workdir / "figures"
        names = self.dataset.class_names
        shown = self._by_suspicion()[:NUM_SHOWN]
        captions = [
            f"{names[self.labels[i]]}\n→ {names[self.columns['suggested'][i]]}" for i in shown
        ]
        wrong = None if self.is_wrong is None else self.is_wrong[shown]
        figures.contact_sheet(
            self._images.read(shown), captions, folder / "suspicious.png", wrong=wrong
        )
        together, _ = fetch(self._probs(self._logits("test", self.config.num_epochs - 1)))
        write_test_files(self.io.workdir, together, self.dataset.test.labels, names)
        score = self.method.score
        columns = self.columns
        scores = {n: columns.get(f"{score}_{n}", columns[score]) for n in self.method.networks}
        figures.score_histogram(
            scores,
            score.replace("_", " "),
            folder / f"{score}.png",
            is_wrong=self.is_wrong,
            thresholds={n: self.method.score_threshold(s) for n, s in scores.items()},
        )
        figures.noisy_label_curves({self.config.method: [results]}, folder / "epochs.png")

    # What the user sees

    def _introduce(self) -> None:
        log.info(
            "%s on %s: %d training images, %d classes",
            self.config.method,
            self.dataset.name,
            len(self.labels),
            self.problem.num_classes,
        )

    def _finish(self) -> dict:
        noise = json.loads((self.io.workdir / "noise.json").read_text())
        results = {
            "task": "noisy_labels",
            "method": self.config.method,
            "dataset": self.dataset.name,
            "seed": self.config.seed,
            "num_classes": self.problem.num_classes,
            "noise": {k: noise[k] for k in ("kind", "rate", "realised_rate", "labels_sha256")},
            **_summary(self.epochs),
            "epochs": self.epochs,
        }
        workdir = self.io.workdir
        write_json(workdir / "results.json", results)
        self._write_label_quality()
        self._draw(results)
        self.io.write_timing()
        lines = [
            f"last accuracy {100 * results['last']['accuracy']:.2f} %, mean of the last "
            f"{results['last_epochs']['num']} epochs "
            f"{100 * results['last_epochs']['accuracy']:.2f} %, calibration error "
            f"{results['last']['ece']:.3f}, {self.io.seconds:.0f} s in all",
        ]
        if self.is_wrong is not None:
            found = results["last"]["labels"]
            lines.append(
                f"wrong labels: {100 * found['recall']:.1f} % found, "
                f"{100 * found['precision']:.1f} % of those flagged are wrong"
            )
        lines += [
            f"results: {workdir / 'results.json'}",
            f"every label, the most suspicious first: {workdir / 'label_quality.csv'}",
            f"figures: {workdir / 'figures'}",
            next_command(workdir),
        ]
        for line in lines:
            log.info(line)
        return results


def _summary(epochs: list[dict]) -> dict:
    """Last epoch, best epoch, and the mean of the last ones."""
    accuracies = np.array([e["accuracy"] for e in epochs])
    best = int(np.argmax(accuracies))
    tail = epochs[-NUM_LAST:]
    means = {
        name: float(np.mean([e[name] for e in tail]))
        for name, value in epochs[-1].items()
        if isinstance(value, float)
    }
    return {
        "last": epochs[-1],
        "best": {
            "epoch": best,
            "accuracy": float(accuracies[best]),
            "rule": "highest test accuracy of any epoch, known only by looking at the test set",
        },
        "last_epochs": {
            "num": len(tail),
            **means,
            "accuracy_std": float(np.std(accuracies[-NUM_LAST:])),
            "labels": {
                name: float(np.mean([e["labels"][name] for e in tail]))
                for name in epochs[-1]["labels"]
            },
        },
    }


def _mean_hits(probs: np.ndarray, labels: np.ndarray, k: int) -> float:
    return float(np.mean(np.asarray(metrics.topk_accuracy(probs, labels, k)), dtype=np.float64))


def _matrix_text(matrix: np.ndarray, limit: int = 10) -> str:
    rows = [" ".join(f"{x:5.2f}" for x in row[:limit]) for row in matrix[:limit]]
    more = f"\n... ({len(matrix)} x {len(matrix)}, whole in noise.json)"
    return "\n".join(rows) + (more if len(matrix) > limit else "")
