"""Active learning with an open set: train, measure, query, annotate, again.

The same loop serves every strategy. What an annotator has said so far is one array,
`annotations [N]`: a known class, K for "unknown", or `NOT_ANNOTATED`. Who answers is `oracle`:

- `truth`: the data set's labels do. They are read in `jaxrobust.tasks.oracles` alone.
- `csv`: a person does, about the images of an `image_folder` that lie in `unlabeled`. All class
  folders are known classes. The run writes its questions and stops; once the table is filled, or a
  part of it, the same command resumes. Images and classes may come in between two rounds. See
  `jaxrobust.tasks.annotator` and `jaxrobust.tasks.known_images`.
"""

import contextlib
import dataclasses
import hashlib
import logging
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import metrics
from jaxrobust.data.dataset import Dataset, Examples, fingerprint
from jaxrobust.data.features import FeatureDataset
from jaxrobust.data.open_set import OpenSetSplit
from jaxrobust.data.views import Views, make_views, statistics_of
from jaxrobust.engine import rng
from jaxrobust.engine.files import format_number, write_table
from jaxrobust.engine.loops import epoch_program, gather_program
from jaxrobust.engine.plan import place_plan
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.run import Run, Saved, open_run
from jaxrobust.engine.sharding import fetch
from jaxrobust.engine.training import TrainState
from jaxrobust.errors import UserError
from jaxrobust.methods.active_learning import (
    NOT_ANNOTATED,
    Observation,
    Phase,
    Problem,
    Query,
    QueryContext,
    Strategy,
)
from jaxrobust.methods.classifiers import save_classifier
from jaxrobust.recipes.methods import STRATEGIES
from jaxrobust.recipes.protocols import ActiveLearning
from jaxrobust.report.figures import learning_curves
from jaxrobust.tasks.annotation_files import (
    ANSWERS,
    LINKS,
    PREDICTIONS,
    link_by_class,
    write_annotations,
    write_predictions,
)
from jaxrobust.tasks.annotator import UNKNOWN, Annotator, new_class_problem
from jaxrobust.tasks.backbones import stored_backbone
from jaxrobust.tasks.common import (
    batch_norm_parts,
    check_batch_size,
    check_common,
    check_network,
    compute_dtype,
    introduce_networks,
    introduce_pixels,
    load,
    loops_on_device,
    next_command,
    program_settings,
    write_test_files,
)
from jaxrobust.tasks.images import images_of
from jaxrobust.tasks.known_images import KnownImages, View, joined
from jaxrobust.tasks.oracles import (
    NoOracle,
    Oracle,
    PersonOracle,
    TruthOracle,
    check_by_hand,
    split_by_truth,
)

log = logging.getLogger("jaxrobust")

NUM_BINS = 40  # of the histograms of scores


def run(
    recipe: ActiveLearning,
    workdir: str | os.PathLike,
    programs: Programs | None = None,
    *,
    dataset: Dataset | FeatureDataset | None = None,
) -> dict:
    """Runs a whole active-learning experiment, or what is left of it.

    Args:
      recipe: a recipe, see `jaxrobust.recipes.tasks.ActiveLearning`.
      workdir: where everything is written; that of an interrupted run is resumed.
      programs: those of a run of the same recipe with another seed.
      dataset: one in memory, in place of the one that the recipe names.

    Returns:
      What `results.json` holds; if a person has to answer first, `{"waiting_for": table}`.

    Raises:
      UserError: if the recipe, the data, the workdir or the person's table is not usable.
    """
    check_common(recipe)
    data = dataset or cast(Dataset | FeatureDataset, load(recipe, features=True))
    check_network(recipe, data)
    if recipe.oracle == "csv":
        return _run_with_a_person(recipe, pathlib.Path(workdir), programs, data)
    _split(recipe, data)  # what is wrong is refused before anything is written
    with open_run(recipe, workdir, programs) as run_:
        return cast(dict, _under_truth(recipe, run_, data).learn())


def _under_truth(
    recipe: ActiveLearning, run_: Run, dataset: Dataset | FeatureDataset
) -> "_Learning":
    """An experiment in which the labels of the data set answer."""
    split, examples = _split(recipe, dataset), joined(dataset)
    view = _whole(dataset, split)
    images = examples.images if isinstance(examples, Examples) else None
    folder = run_.workdir / "queries"
    oracle = TruthOracle(split, list(view.class_names), images, examples.files, folder)
    return _Learning(recipe, run_, dataset, view, oracle)


def _run_with_a_person(
    recipe: ActiveLearning,
    workdir: pathlib.Path,
    programs: Programs | None,
    data: Dataset | FeatureDataset,
) -> dict:
    """`run` where a person answers: what takes part may change from round to round."""
    check_by_hand(data, recipe.dataset.features or data.name)
    new_classes = _new_classes(recipe, data)
    root = pathlib.Path(recipe.dataset.path).expanduser() if recipe.dataset.path else None
    if recipe.al.links and root is None:
        raise UserError(
            "al.links=True links to the images; set --config.dataset.path= to the folder that the "
            "names in the file of features are relative to."
        )
    folder = workdir / "queries"
    overridden = bool(recipe.dataset.mean) or bool(recipe.dataset.std)
    known = KnownImages(folder / "images.json", data, root, overridden=overridden)
    backbone = stored_backbone(recipe, data)
    facts = known.facts() | ({"backbone_sha256": backbone.sha256} if backbone else {})
    with open_run(recipe, workdir, programs) as run_:
        run_.begin("split.json", facts, dtype=compute_dtype(recipe.dtype))
        known.write()
        if known.moved:
            log.info("%d images were found again under other names", known.moved)
        round_, before = (run_.position() or (0,))[0], None
        while True:
            view = known.view(round_)
            others = (*known.class_names, *new_classes)
            annotator = Annotator(folder, root, known.files, view.class_names, others)
            oracle = PersonOracle(annotator, view.split.targets)
            learning = _Learning(recipe, run_, data, view, oracle, known=known, before=before)
            results = learning.learn()
            if results is not None:
                return results
            # Other shapes need other programs.
            before, round_ = learning, learning.saved.at[0]
            run_.programs = Programs(run_.placement)


def _new_classes(recipe: ActiveLearning, dataset: Dataset | FeatureDataset) -> list[str]:
    """Names that a person has confirmed to be those of classes."""
    names = [name.strip() for name in recipe.al.new_classes.split(",") if name.strip()]
    for name in names:
        if problem := new_class_problem(name):
            raise UserError(f"al.new_classes={recipe.al.new_classes}: {problem}; correct it.")
    return [name for name in names if name not in dataset.class_names]


def _whole(dataset: Dataset | FeatureDataset, split: OpenSetSplit) -> View:
    """All images of a data set."""
    names = tuple(dataset.class_names[c] for c in split.known_classes)
    return View(joined(dataset), split, names, dataset.mean, dataset.std)


def choose(
    recipe: ActiveLearning,
    dataset: Dataset | FeatureDataset,
    annotations: np.ndarray,
    workdir: str | os.PathLike | None = None,
    *,
    precisions: tuple[float, ...] = (),
    programs: Programs | None = None,
    bar: bool | None = False,
) -> tuple[Query, np.ndarray]:
    """Trains on annotations and chooses the next images: one round, without an oracle.

    Args:
      recipe: a recipe; `al.query_size` images are chosen.
      dataset: the data; K classes.
      annotations: int32 `[N]` of its training images, then of its unlabelled ones: a class, K for
        unknown, or `NOT_ANNOTATED`.
      workdir: as in `run`; None: no file is left.
      precisions: of earlier queries.
      programs: those of a run of the same recipe on data of the same shapes.
      bar: as in `open_run`.

    Returns:
      The query, and the target classifier's probabilities float32 `[N, K]`.

    Raises:
      UserError: as in `run`.
    """
    check_common(recipe)
    check_network(recipe, dataset)
    labeled = annotations != NOT_ANNOTATED
    nothing = np.zeros(0, np.int32)
    known = tuple(range(dataset.num_classes))
    split = OpenSetSplit(known, annotations, labeled, nothing, nothing.astype(bool))
    with contextlib.ExitStack() as stack:
        folder = workdir or stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxrobust-"))
        run_ = stack.enter_context(open_run(recipe, folder, programs, bar=bar))
        view = _whole(dataset, split)
        learning = _Learning(recipe, run_, dataset, view, cast(Oracle, NoOracle()))
        return learning.choose(precisions, keep=workdir is not None)


def _split(recipe: ActiveLearning, dataset: Dataset | FeatureDataset) -> OpenSetSplit:
    al = recipe.al
    if dataset.unlabeled is not None:
        raise UserError(
            f"{recipe.dataset.path} has a folder of unlabelled images, whose labels no file holds; "
            "set --config.oracle=csv to annotate them yourself, or move the folder away."
        )
    split = split_by_truth(recipe, dataset)
    check_batch_size(recipe, len(split.labeled))
    pool = int(np.sum(~split.labeled))
    wanted = al.query_size * num_queries(recipe)
    if wanted > pool:
        raise UserError(
            f"al.rounds={al.rounds} with al.query_size={al.query_size} asks for {wanted} "
            f"annotations, but the pool holds {pool} images; lower al.query_size or al.rounds."
        )
    return split


def num_queries(recipe: ActiveLearning) -> int:
    """Queries of a run: one after every round, after the last one if the recipe says so."""
    return recipe.al.rounds - 1 + recipe.al.query_last


# What is compiled


def training_step(phase: Phase, views: Views) -> Callable:
    """A step of `phase` on raw images.

    Args:
      phase: of a strategy.
      views: of images.

    Returns:
      `(state, ids, key, images, annotations, statistics, scalars) -> (state, metrics)`: `ids` int32
      `[B]`, -1 at padding; `images` of the whole training set, uint8 `[N, H, W, 3]`; `annotations`
      int32 `[N]`; `statistics` as in `statistics_of`; `scalars` as in `Phase.scalars`.
    """

    def step(state, ids, key, images, annotations, statistics, scalars):
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
            drawn = images[jnp.searchsorted(counts, draws + 1)]
            pool_images = views("weak", pool_augment_key, drawn, statistics)
        seen = views("weak", augment_key, images[rows], statistics)
        return phase.step(state, seen, labels, valid, pool_images, step_key, scalars)

    return step


def prediction(
    phase: Phase, view: str, views: Views, then: Callable = lambda outputs: outputs
) -> Callable:
    """What the network of a phase gives for raw images, seen in one view.

    Returns:
      `(ids [B], key, variables, images, statistics) -> then(phase.forward(...))`; operands as of
      `training_step`.
    """

    def forward(ids, key, variables, images, statistics):
        return then(phase.forward(variables, views(view, key, images[ids], statistics)))

    return forward


class _Learning:
    """One experiment in progress.

    Args:
      recipe: a recipe.
      run: opened.
      dataset: the data, of which the test part is read.
      view: what takes part of it.
      oracle: who answers.
      known: where a person does, the images that may take part; the run has begun.
      before: the same run up to the end of a round with fewer images or classes.
    """

    def __init__(
        self,
        recipe: ActiveLearning,
        run: Run,
        dataset: Dataset | FeatureDataset,
        view: View,
        oracle: Oracle,
        *,
        known: KnownImages | None = None,
        before: "_Learning | None" = None,
    ):
        self.recipe = recipe
        self.run = run
        self.dataset = dataset
        self.split = split = view.split
        self.examples = view.examples
        self.class_names = list(view.class_names)
        self._mean, self._std = view.mean, view.std
        self._known = known
        placement = run.placement
        self.oracle = oracle
        images = images_of(self.examples, recipe, placement)
        self.problem = Problem(
            num_classes=split.num_known,
            input_shape=images.shape,
            dtype=compute_dtype(recipe.dtype),
            budget=recipe.al.query_size,
            truth=self.oracle.truth,
            norm_parts=batch_norm_parts(recipe, placement),
        )
        self.strategy: Strategy = STRATEGIES[recipe.method](recipe, self.problem)
        self._phases = {phase.name: phase for phase in self.strategy.phases}
        self._backbone = stored_backbone(recipe, dataset)
        for phase in self.strategy.phases:
            if self._backbone and phase.is_fresh:
                shapes = jax.eval_shape(phase.start, jax.random.key(0), {})
                self._backbone.check(shapes, recipe.model.name)
        self.saved = Saved(
            arrays={"observed": {}}, record={"rounds": [], "verdicts": []}, at=(0, 0, 0)
        )  # round, phase, epoch
        self._set_annotations(
            np.where(split.labeled, split.targets, NOT_ANNOTATED).astype(np.int32)
        )
        self._follows = before is not None
        if before is not None:
            self._follow(before)
        self._row_observed: dict[str, Any] = {}
        self._predicted: dict[str, Any] = {}
        self._members: dict[str, np.ndarray] = {}
        self._images = images.visit((), "")
        self._test_images = images_of(dataset.test, recipe, placement).visit((), "")
        self._statistics = placement.put(statistics_of(view.mean, view.std))
        self._build_programs()

    @property
    def rounds(self) -> list[dict]:
        """What was measured in every round so far."""
        return self.saved.record["rounds"]

    # Programs

    def _build_programs(self) -> None:
        programs, placement, recipe = self.run.programs, self.run.placement, self.recipe
        self._static = static = program_settings(recipe), self.problem
        views = self._views = make_views(
            recipe.augment, self.problem.input_shape, self.problem.dtype
        )
        view = "weak" if recipe.al.score_transform == "train" else "test"
        num_train, num_test = len(self.examples), len(self.dataset.test)
        self._start, self._epoch, self._predict, self._classify = {}, {}, {}, {}
        self._observe = {}

        def gather(name, forward, size):
            return gather_program(programs, name, forward, size, placement, static=static)

        for phase in self.strategy.phases:
            name = phase.name
            self._start[name] = programs.jit(
                f"{name}/start",
                phase.start,
                static=static,
                is_start=True,
                out_shardings=placement.replicated,
            )
            step = training_step(phase, views)
            self._epoch[name] = epoch_program(
                programs,
                f"{name}/epoch",
                step,
                placement,
                static=static,
                device_loop=loops_on_device(self.problem.input_shape),
            )
            self._predict[name] = gather(
                f"{name}/predict", prediction(phase, view, views), num_train
            )
            if phase.observation is not None:
                measured = prediction(phase, view, views, phase.observation.measure)
                self._observe[name] = gather(f"{name}/observe", measured, num_train)
            if phase.class_probs is not None and num_test:
                tested = prediction(phase, "test", views, phase.class_probs)
                self._classify[name] = gather(f"{name}/test", tested, num_test)

    def jit(self, name: str, function: Callable) -> Callable:
        """`function` compiled once for the whole run."""
        return self.run.programs.jit(name, function, static=self._static)

    # The loop

    def learn(self) -> dict | None:
        """Trains and queries, and returns the results, or what has to be answered first.

        None: the next round has other images or classes, and goes on with what is `saved`.
        """
        recipe, run, saved = self.recipe, self.run, self.saved
        self._begin()
        while saved.at[0] < recipe.al.rounds and not saved.record.get("ended"):
            round_ = saved.at[0]
            self._train_round()
            if self.oracle.may_wait:
                self._save_trained(round_)
            self._measure(round_)
            goes_on = self._asks(round_)
            if goes_on and not self._query(round_):
                if not recipe.al.finish:
                    return self._wait(round_)
                goes_on = False
            self._show(round_)
            self._predicted, self._members = {}, {}
            saved.record["ended"] = not goes_on
            if goes_on and self._known is not None and self._is_other_round(round_ + 1):
                saved.move(round_ + 1, 0, 0)
                run.flush()
                return None
            saved.move(round_ + 1, 0, 0)
            run.save(saved)
            run.epoch_done(saved, at=(round_ + 1, 0, 0), where=f"round {round_}")
        run.flush()
        return self._finish()

    def _asks(self, round_: int) -> bool:
        """Whether a round ends with a query."""
        if round_ >= num_queries(self.recipe):
            return False
        if self._known is None or self.oracle.asked(round_) is not None:
            return True
        eligible = self.oracle.eligible(round_, self.annotations == NOT_ANNOTATED)
        return not self.recipe.al.finish and bool(eligible.any())

    def _is_other_round(self, round_: int) -> bool:
        """Begins a round with all answers so far; whether other images or classes take part."""
        known, oracle = cast(KnownImages, self._known), cast(PersonOracle, self.oracle)
        merged = oracle.merged(round_)
        given = set(merged.labels.values()) - {UNKNOWN}
        known.begin_round(round_, sorted(given - set(known.class_names)))
        known.write()
        count, names = known.changes_at(round_)
        if count or names:
            classes = f" and the classes {_shorten(names)}" if names else ""
            log.info("%d new images%s take part from round %d on", count, classes, round_)
            return True
        self._set_annotations(oracle.annotations(round_, self.annotations))
        return False

    def choose(self, precisions: tuple[float, ...], *, keep: bool) -> tuple[Query, np.ndarray]:
        """Trains one round and returns its query, and the target's probabilities `[N, K]`."""
        self._begin()
        self._train_round()
        if keep:
            self._save_trained(0)
        stream = f"{self.recipe.method}/query"
        context = self._context(0, stream, num_phases=len(self.strategy.phases))
        context = dataclasses.replace(context, round=len(precisions), precisions=precisions)
        query = self.strategy.query(context)
        probs = self._target_probs(0)
        self.run.flush()
        return query, probs

    def _begin(self) -> None:
        if self._known is None:
            self._write_split()
        self._introduce()
        self._restore()
        if self._known is not None:
            self._take_up_changes()
        introduce_networks(self.saved.networks, self.problem.dtype, self.run)
        total = self._epochs_before((self.recipe.al.rounds, 0, 0))
        self.run.start_progress(self.saved, total=total)

    def _train_round(self) -> None:
        """The phases of a round, or those that are left of it."""
        round_, first_phase, _ = self.saved.at
        for index in range(first_phase, len(self.strategy.phases)):
            self._train(round_, index)

    def _train(self, round_: int, index: int) -> None:
        """A phase of a round, or what is left of it."""
        run, saved, phase = self.run, self.saved, self.strategy.phases[index]
        seed, name = self.recipe.seed, phase.name
        if phase.class_probs is None and not self._is_read(name, round_):
            return
        members = self._visited(round_, index)
        if not members.size:
            return
        first_epoch = saved.at[2] if saved.at[:2] == (round_, index) else 0
        if first_epoch == 0 and not saved.row:
            saved.networks[name] = self._started(round_, index)
            saved.record["verdicts"] = []
            if phase.observation is not None:
                saved.arrays["observed"][name] = self._nothing_observed(phase, phase.observation)
        for epoch in range(first_epoch, phase.num_epochs):
            due = phase.observation is not None and phase.observation.due(epoch)
            if due and not saved.row and self._observe_pool(round_, index, epoch):
                break
            where = f"round {round_}, {name}, epoch {epoch + 1}/{phase.num_epochs}"
            order = rng.generator(seed, f"{name}/order", round_, epoch)
            run.train(
                saved,
                name,
                self._epoch[name],
                place_plan(
                    order.permutation(members),
                    phase.batch_size,
                    run.placement,
                    capacity=len(self.examples),  # the same shape in every round
                    last_batch=self.recipe.last_batch,
                ),
                rng.stream(seed, f"{name}/steps", round_, epoch),
                self._images,
                saved.arrays["annotations"],
                self._statistics,
                scalars=phase.scalars(epoch),
                at=(round_, index, epoch),
                event={"phase": name, "round": round_, "epoch": epoch},
                where=where,
            )
            run.epoch_done(saved, at=(round_, index, epoch + 1), where=where)

    def _is_read(self, name: str, round_: int) -> bool:
        """Whether anything reads a network without class probabilities after a round."""
        if self._asks(round_):
            return True
        return self._known is not None and name == self.strategy.detector

    def _visited(self, round_: int, index: int) -> np.ndarray:
        """Ids that phase `index` visits in this round."""
        phase = self.strategy.phases[index]
        if phase.name not in self._members:
            context = self._context(round_, f"{phase.name}/members", num_phases=index)
            self._members[phase.name] = phase.members(context)
        return self._members[phase.name]

    def _observe_pool(self, round_: int, index: int, epoch: int) -> bool:
        """Adds an evaluation of the pool to those of this phase; whether the phase ends with it."""
        phase = self.strategy.phases[index]
        pool = np.flatnonzero(self.annotations == NOT_ANNOTATED)
        values = self._outputs(self._observe, phase.name, "observe", pool, round_, epoch)
        add = self.jit(f"{phase.name}/add", lambda a, b: jax.tree.map(jnp.add, a, b))
        observed = self.saved.arrays["observed"]
        observed[phase.name] = add(observed[phase.name], {"sum": values, "count": np.int32(1)})
        observation = phase.observation
        if observation is None or observation.verdict is None:
            return False
        context = self._context(round_, f"{phase.name}/verdict", num_phases=index + 1)
        verdicts = self.saved.record["verdicts"]
        verdicts.append(observation.verdict(context))
        return observation.settled(verdicts)

    def _nothing_observed(self, phase: Phase, observation: Observation) -> dict:
        """Zero evaluations of a phase that observes the pool."""
        if phase.name not in self._row_observed:
            forward = prediction(phase, "test", self._views, observation.measure)
            self._row_observed[phase.name] = jax.eval_shape(
                forward,
                np.zeros(1, np.int32),
                jax.random.key(0),
                self.saved.networks[phase.name].variables,
                self._images,
                self._statistics,
            )
        row = self._row_observed[phase.name]
        total = np.zeros((len(self.examples), *row.shape[1:]), row.dtype)
        return self.run.placement.put({"sum": total, "count": np.int32(0)})

    def _started(self, round_: int, index: int) -> TrainState:
        """The network of a phase at the start of a round."""
        phase = self.strategy.phases[index]
        key = rng.stream(self.recipe.seed, f"{phase.name}/start", round_)
        network = self._start[phase.name](key, self._before(index))
        if self._backbone and phase.is_fresh:
            network = self._backbone.put_into(network, self.run.placement)
        return network

    def _before(self, index: int) -> dict:
        """Networks of the phases that precede phase `index` in a round."""
        return {p.name: self.saved.networks[p.name] for p in self.strategy.phases[:index]}

    def _outputs(
        self, programs: Mapping[str, Callable], name: str, stream: str, ids: np.ndarray, *at: int
    ) -> Any:
        """What the network of a phase gives for images; of the test set by `_classify`."""
        is_test = programs is self._classify
        plan = place_plan(
            ids,
            self.recipe.eval_batch_size,
            self.run.placement,
            capacity=len(self.dataset.test if is_test else self.examples),
        )
        return programs[name](
            plan,
            rng.stream(self.recipe.seed, f"{name}/{stream}", *at),
            self.saved.networks[name].variables,
            self._test_images if is_test else self._images,
            self._statistics,
        )

    def _measure(self, round_: int) -> None:
        """Accuracy of every classifying network on the test images of known classes."""
        targets = self.split.test_targets[self.split.test_known]
        counts = np.bincount(
            self.annotations[self.annotations != NOT_ANNOTATED],
            minlength=self.problem.num_classes + 1,
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
            probs = self._test_probs(name, round_)
            hits = np.asarray(metrics.topk_accuracy(probs, targets, 1))
            key = "accuracy" if name == self.strategy.target else f"{name}_accuracy"
            entry[key] = float(hits.mean(dtype=np.float64))
        self.rounds.append(entry)
        self._log_round(round_, "test", entry)

    def _test_probs(self, name: str, round_: int) -> np.ndarray:
        """Class probabilities [n, K] of the n test images of known classes."""
        ids = np.flatnonzero(self.split.test_known)
        return fetch(self._outputs(self._classify, name, "test", ids, round_))[ids]

    def _trained(self) -> tuple[str, ...]:
        """Phases that had something to train on in this round."""
        return tuple(name for name, members in self._members.items() if members.size)

    def _context(self, round_: int, stream: str, *, num_phases: int) -> QueryContext:
        """What the strategy may see once the first `num_phases` phases are trained."""
        names = [p.name for p in self.strategy.phases[:num_phases]]
        for index in range(num_phases):
            self._visited(round_, index)
        return QueryContext(
            predict=lambda name: self._predictions(name, round_),
            observed=self._observations,
            trained=frozenset(names) & frozenset(self._trained()),
            in_pool=self.annotations == NOT_ANNOTATED,
            annotations=self.annotations.copy(),
            budget=self.recipe.al.query_size,
            round=round_,
            precisions=tuple(
                r["query"]["precision"] for r in self.rounds if r.get("query", {}).get("size")
            ),
            rng=rng.generator(self.recipe.seed, stream, round_),
            jit=self.jit,
        )

    def _query(self, round_: int) -> bool:
        """Chooses images and has them annotated; False if the annotator has not answered yet."""
        query = self.oracle.asked(round_)
        if query is None:
            stream = f"{self.recipe.method}/query"
            context = self._context(round_, stream, num_phases=len(self.strategy.phases))
            eligible = self.oracle.eligible(round_, context.in_pool)
            budget = min(context.budget, int(eligible.sum()))
            query = self.strategy.query(
                dataclasses.replace(context, in_pool=eligible, budget=budget)
            )
            self._write_scores(round_, query)
            self.oracle.ask(round_, query, self._suggestions(round_, query.ids))
        answered = self.oracle.answers(round_, query)
        if answered is None:
            return False
        ids, answers = answered
        entry = self._judge(dataclasses.replace(query, ids=ids), answers)
        annotations = self.annotations.copy()
        annotations[ids] = answers
        self._set_annotations(annotations)
        self.rounds[-1]["query"] = entry
        self._log_round(round_, "query", entry)
        return True

    def _suggestions(self, round_: int, ids: np.ndarray) -> list[tuple[str, float]]:
        """What the target classifier takes images for, where a person is asked."""
        if self._known is None:
            return []
        rows = self._target_probs(round_)[ids]
        return [(self.class_names[row.argmax()], float(row.max())) for row in rows]

    def _target_probs(self, round_: int) -> np.ndarray:
        """The target classifier's probabilities `[N, K]` of all images."""
        name = self.strategy.target
        probs = self.jit("target/probs", cast(Callable, self._phases[name].class_probs))
        return fetch(probs(self._predictions(name, round_)))

    def _predictions(self, name: str, round_: int) -> Any:
        if name not in self._predicted:
            everything = np.arange(len(self.examples))
            self._predicted[name] = self._outputs(
                self._predict, name, "predict", everything, round_
            )
        return self._predicted[name]

    def _observations(self, name: str) -> tuple[jax.Array, int]:
        observed = self.saved.arrays["observed"][name]
        total, count = observed["sum"], int(observed["count"])
        return total / np.float32(max(count, 1)), count

    def _set_annotations(self, annotations: np.ndarray) -> None:
        self.annotations = annotations
        self.saved.arrays["annotations"] = self.run.placement.put(annotations)

    def _judge(self, query: Query, answers: np.ndarray) -> dict:
        """Precision, recall and AUROCs of an answered query, before it is entered."""
        known = answers < self.problem.num_classes
        in_pool = self.annotations == NOT_ANNOTATED
        measures, judged, unknown = self.oracle.judge(
            query, answers, in_pool, self.rounds[-1]["num_labeled_known"]
        )
        entry = {
            "size": len(query.ids),
            "num_known": int(known.sum()),
            "precision": float(metrics.query_precision(known)),
            "pool_size": int(in_pool.sum()),
            **query.notes,
            **measures,
        }
        if unknown.any() and not unknown.all():
            for name in self.strategy.unknown_scores:
                if name in query.scores:
                    entry[f"auroc_{name}"] = float(
                        metrics.auroc(query.scores[name][judged], unknown)
                    )
        return entry

    # Files

    def _write_split(self) -> None:
        """`split.json`: which classes are known, which images started labelled, of which data."""
        names, known = self.dataset.class_names, self.split.known_classes
        initial = np.flatnonzero(self.split.labeled)
        split = {
            "known_classes": [names[c] for c in known],
            "unknown_classes": [n for c, n in enumerate(names) if c not in known],
            "num_train": len(self.examples),
            "num_test_known": int(self.split.test_known.sum()),
            "initial_ids": initial.tolist(),
            "initial_ids_sha256": hashlib.sha256(initial.astype("<i8").tobytes()).hexdigest(),
            "dataset_sha256": fingerprint(self.dataset),
            **({"backbone_sha256": self._backbone.sha256} if self._backbone else {}),
        }
        self.run.begin("split.json", split, dtype=self.problem.dtype)

    def _write_scores(self, round_: int, query: Query) -> None:
        """`queries/round_XX_scores.csv`: how every score is distributed over the pool."""
        chosen = np.isin(np.arange(len(self.examples)), query.ids)
        parts = {"pool": self.annotations == NOT_ANNOTATED, "chosen": chosen}
        if self.oracle.truth is not None:
            parts["unknown"] = parts["pool"] & (self.oracle.truth == self.problem.num_classes)
        rows = [["score", "from", "to", *parts]]
        for name, score in query.scores.items():
            score = np.asarray(score)
            valid = parts["pool"] & np.isfinite(score)
            if not np.issubdtype(score.dtype, np.floating) or not valid.any():
                continue
            # The outermost bins take what lies far out.
            score = score.astype(np.float64)
            low, high = np.quantile(score[valid], (0.005, 0.995))
            edges = np.histogram_bin_edges(score[valid], NUM_BINS, (low, high))
            score = np.clip(score, edges[0], edges[-1])
            counts = [np.histogram(score[valid & part], edges)[0] for part in parts.values()]
            for low, high, *row in zip(edges[:-1], edges[1:], *counts, strict=True):
                rows.append([name, *map(format_number, (low, high, *row))])
        write_table(self.run.workdir / "queries" / f"round_{round_:02d}_scores.csv", rows)

    def _log_round(self, round_: int, split: str, entry: dict) -> None:
        step = self._epochs_before((round_ + 1, 0, 0))
        values = {k: v for k, v in entry.items() if isinstance(v, (int, float)) and k != "round"}
        self.run.write({"step": step, "split": split, "round": round_}, values)

    # Checkpoints

    def _epochs_before(self, at: tuple[int, ...]) -> int:
        """Epochs from the start of the run to (round, phase, epoch); a query counts as one."""
        round_, phase_index, epoch = at
        epochs = [p.num_epochs for p in self.strategy.phases]
        return round_ * (sum(epochs) + 1) + sum(epochs[:phase_index]) + epoch

    def _save_trained(self, round_: int) -> None:
        """Saves the networks that a person's questions come from."""
        self.saved.move(round_, *self._trained_at)
        self.run.save(self.saved)

    @property
    def _trained_at(self) -> tuple[int, int]:
        """Phase and epoch at the end of the training of a round."""
        last = len(self.strategy.phases) - 1
        return last, self.strategy.phases[last].num_epochs

    def _follow(self, before: "_Learning") -> None:
        """Takes over what was measured and annotated with fewer images or classes."""
        self.saved.record = before.saved.record
        self.saved.move(*before.saved.at)
        annotations = self.annotations.copy()
        was_unknown = before.annotations == before.problem.num_classes
        annotations[: len(before.annotations)] = np.where(
            was_unknown, self.problem.num_classes, before.annotations
        )
        oracle = cast(PersonOracle, self.oracle)
        self._set_annotations(oracle.annotations(self.saved.at[0], annotations))

    def _take_up_changes(self) -> None:
        """Says what was changed in earlier tables; where nothing would follow, trains again."""
        saved, oracle = self.saved, cast(PersonOracle, self.oracle)
        last = saved.at[0] - 1
        annotations = oracle.annotations(last + 1, self.annotations)
        changed = int(np.sum(annotations != self.annotations))
        has_ended = saved.record.get("ended", False)
        if changed:
            when = "trained on again" if has_ended else "taken up from the next round on"
            log.info("%d answers of earlier rounds have changed: %s", changed, when)
        if not has_ended or not (changed or self._asks(last)):
            return
        saved.record["ended"] = False
        self.rounds.pop()
        if oracle.asked(last) is not None:  # its answers come next
            return saved.move(last, *self._trained_at)
        self._set_annotations(annotations)
        saved.move(last, 0, 0)

    def _restore(self) -> None:
        """The state at the start, or of the round to go on with, or of the latest checkpoint."""
        saved = self.saved
        for index, phase in enumerate(self.strategy.phases):
            saved.networks[phase.name] = self._started(0, index)
            if phase.observation is not None:
                nothing = self._nothing_observed(phase, phase.observation)
                saved.arrays["observed"][phase.name] = nothing
        if not self._follows:
            self.run.restore(saved, self._epochs_before)
            self.annotations = np.asarray(saved.arrays["annotations"])

    # What the user sees

    @property
    def _num_classes(self) -> int:
        """Known and unknown classes, as far as there are labels of them."""
        return self.dataset.num_classes if self._known is None else self.problem.num_classes

    def _introduce(self) -> None:
        introduce_pixels(self.dataset)
        log.info(
            "%s on %s: %d training images, %d of %d classes known (%s), %d labelled at the start",
            self.recipe.method,
            self.dataset.name,
            len(self.examples),
            self.problem.num_classes,
            self._num_classes,
            _shorten(self.class_names),
            int(self.split.labeled.sum()),
        )

    def _show(self, round_: int) -> None:
        entry = self.rounds[-1]
        text = f"round {round_}: {_accuracy(entry)} with {entry['num_labeled_known']} known labels"
        if "query" in entry:
            query = entry["query"]
            text += f"; queried {query['size']}: precision {100 * query['precision']:.1f} %"
            if "recall" in query:
                text += f", recall {100 * query['recall']:.1f} %"
        log.info(text)

    def _wait(self, round_: int) -> dict:
        """Ends the command until the person has filled the table."""
        self.run.flush()
        table, lines = self.oracle.waiting_for(round_)
        for line in (f"round {round_}: {_accuracy(self.rounds[-1])} so far", *lines):
            log.info("%s", line)
        return {"waiting_for": str(table)}

    def _finish(self) -> dict:
        results = {
            "task": "active_learning",
            "method": self.recipe.method,
            "dataset": self.dataset.name,
            "seed": self.recipe.seed,
            "num_known_classes": self.problem.num_classes,
            "num_classes": self._num_classes,
            **_summary(self.rounds),
            "rounds": self.rounds,
        }
        workdir = self.run.workdir
        figure = workdir / "figures" / "learning_curve.png"
        learning_curves({self.recipe.method: [results]}, figure)
        if "accuracy" in self.rounds[-1]:
            write_test_files(
                workdir,
                self._test_probs(self.strategy.target, self.rounds[-1]["round"]),
                self.split.test_targets[self.split.test_known],
                self.class_names,
            )
        target = self.saved.networks[self.strategy.target]
        save_classifier(
            workdir / "classifier",
            recipe=self.recipe,
            networks=fetch({"target": target.variables}),
            class_names=self.class_names,
            num_examples=len(self.examples),
            input_shape=self.problem.input_shape,
            mean=self._mean,
            std=self._std,
            embedding=getattr(self.dataset, "embedding", None),
        )
        lines = [
            f"last {_accuracy(self.rounds[-1])}, {self.run.seconds:.0f} s in all",
            f"results: {workdir / 'results.json'}",
            f"queried images and their scores: {workdir / 'queries'}",
            *(self._hand_back() if self._known is not None else ()),
            f"classifier, for jaxrobust.commands.predict: {workdir / 'classifier'}",
            f"figure: {figure}",
            next_command(workdir),
        ]
        self.run.finish(results, lines)
        return results

    def _hand_back(self) -> list[str]:
        """Writes what a person annotated for; returns lines that say what there is."""
        workdir, last = self.run.workdir, self.rounds[-1]["round"]
        names, files = [*self.class_names, UNKNOWN], cast(tuple, self.examples.file_names)
        oracle = cast(PersonOracle, self.oracle)
        answers = oracle.merged(last + 1)
        asked = (self.annotations != NOT_ANNOTATED) & (self.split.targets == NOT_ANNOTATED)
        labels = {int(i): names[self.annotations[i]] for i in np.flatnonzero(asked)}
        write_annotations(workdir / ANSWERS, files, labels | answers.labels, answers.rounds)

        def outputs(name: str) -> Any:
            program = gather_program(
                self.run.programs,
                f"{name}/all",
                prediction(self._phases[name], "test", self._views),
                len(self.examples),
                self.run.placement,
                static=self._static,
            )
            return self._outputs({name: program}, name, "all", np.arange(len(self.examples)))

        target, detector = self.strategy.target, self.strategy.detector
        probs = fetch(cast(Callable, self._phases[target].class_probs)(outputs(target)))
        unknown_probs = None
        has_unknown = bool(np.any(self.annotations == self.problem.num_classes))
        is_trained = detector and self._visited(last, list(self._phases).index(detector)).size
        if has_unknown and is_trained:
            logits = outputs(detector)
            logits = logits["logits"] if isinstance(logits, dict) else logits
            unknown_probs = fetch(jax.nn.softmax(logits, axis=-1))[:, -1]
        rest = np.flatnonzero(self.annotations == NOT_ANNOTATED)
        write_predictions(
            workdir / PREDICTIONS,
            [files[i] for i in rest],
            self.class_names,
            probs[rest],
            None if unknown_probs is None else unknown_probs[rest],
        )
        lines = [
            f"your annotations of all rounds: {workdir / ANSWERS}",
            f"classes of the {len(rest)} other images: {workdir / PREDICTIONS}",
        ]
        if self.recipe.al.links:
            labels = np.where(
                self.annotations == NOT_ANNOTATED, probs.argmax(axis=1), self.annotations
            )
            root = pathlib.Path(self.recipe.dataset.path).expanduser()
            folder = workdir / LINKS
            count = link_by_class(folder, root, files, [names[label] for label in labels])
            lines.append(f"links to {count} images by class: {folder}")
        return lines


def _summary(rounds: list[dict]) -> dict:
    """Last, best and mean accuracy, the area under the accuracy curve, precision and recall.

    Without test images there is no accuracy, and with a person as oracle no recall.

    The area is taken over the number of queried images by the trapezoid rule and divided by its
    width, so that it is an accuracy too.
    """
    queries = [r["query"] for r in rounds if "query" in r]
    precisions = [q["precision"] for q in queries if q["size"]]
    summary = {"mean_query_precision": float(np.mean(precisions or [0.0]))}
    if not queries or "recall" in queries[-1]:
        summary["last_query_recall"] = queries[-1]["recall"] if queries else 0.0
    if "accuracy" not in rounds[-1]:
        return summary
    accuracies = np.array([r["accuracy"] for r in rounds])
    asked = np.array([r["num_labeled_known"] + r["num_labeled_unknown"] for r in rounds])
    best = int(np.argmax(accuracies))
    width = float(asked[-1] - asked[0])
    area = np.trapezoid(accuracies, asked) / width if width else accuracies[-1]
    return {
        "last": {"round": len(rounds) - 1, "accuracy": rounds[-1]["accuracy"]},
        "best": {
            "round": best,
            "accuracy": float(accuracies[best]),
            "rule": "highest test accuracy of any round, known only by looking at the test set",
        },
        "mean_accuracy": float(accuracies.mean()),
        "area_under_accuracy_curve": float(area),
        **summary,
    }


def _accuracy(entry: dict) -> str:
    if "accuracy" not in entry:
        return "accuracy unknown without test images"
    return f"accuracy {100 * entry['accuracy']:.2f} %"


def _shorten(names: list[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if names[6:] else "")
