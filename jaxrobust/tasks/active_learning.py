"""Active learning with an open set: train, measure, query, annotate, repeat.

The same loop serves every strategy. What an annotator has said so far is one array,
`annotations [N]`: a known class, K for "unknown", or `NOT_ANNOTATED`. `oracle` says who answers:

- `truth`: the data set's labels. They are read in `jaxrobust.tasks.oracles` alone.
- `csv`: a person, about the images of an `image_folder` in `unlabeled`. All class folders are known
  classes. The run writes its questions and stops; the same command continues once the table is
  filled, or a part of it. Images and classes may be added between two rounds. See
  `jaxrobust.tasks.person` and `jaxrobust.tasks.annotator`.
"""

import contextlib
import dataclasses
import logging
import os
import pathlib
import tempfile
from typing import Any, cast

import numpy as np

from jaxrobust.data.dataset import ReadableDataset
from jaxrobust.data.open_set import OpenSetSplit
from jaxrobust.engine import rng
from jaxrobust.engine.plan import pad_rows, place_plan
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.run import Run, Saved, open_run
from jaxrobust.engine.sharding import fetch
from jaxrobust.errors import UserError
from jaxrobust.methods import annotation_gain
from jaxrobust.methods.classifiers import classifier_of_run
from jaxrobust.methods.strategy import NOT_ANNOTATED, Query
from jaxrobust.recipes.protocols import ActiveLearning
from jaxrobust.report.figures import learning_curves
from jaxrobust.tasks.annotation_files import (
    accuracy_text,
    label_counts,
    round_text,
    shorten,
    split_facts,
    summary,
    write_scores,
)
from jaxrobust.tasks.backbones import stored_backbone
from jaxrobust.tasks.common import (
    check_batch_size,
    check_common,
    check_network,
    compute_dtype,
    introduce_networks,
    introduce_pixels,
    load,
    next_command,
    write_test_files,
)
from jaxrobust.tasks.known_images import View
from jaxrobust.tasks.oracles import Oracle, TruthOracle, query_measures, split_by_truth
from jaxrobust.tasks.person import Person
from jaxrobust.tasks.phases import Phases
from jaxrobust.tasks.rounds import Round

log = logging.getLogger("jaxrobust")


def run(
    recipe: ActiveLearning,
    workdir: str | os.PathLike,
    programs: Programs | None = None,
    *,
    dataset: ReadableDataset | None = None,
) -> dict:
    """Runs a whole active-learning experiment, or the rest of an interrupted one.

    Args:
      recipe: a recipe, see `jaxrobust.recipes.protocols.ActiveLearning`.
      workdir: for all files; an interrupted run in it is resumed.
      programs: those of a run of the same recipe with another seed.
      dataset: one in memory, in place of the one that the recipe names.

    Returns:
      What `results.json` holds; if a person has to answer first, `{"waiting_for": table}`.

    Raises:
      UserError: if the recipe, the data, the workdir or the person's table is not usable.
    """
    check_common(recipe)
    data = dataset or cast(ReadableDataset, load(recipe, features=True))
    check_network(recipe, data)
    if recipe.oracle == "csv":
        return _run_with_a_person(recipe, pathlib.Path(workdir), programs, data)
    _split(recipe, data)  # errors are raised before anything is written
    with open_run(recipe, workdir, programs) as run_:
        return cast(dict, _with_truth(recipe, run_, data).learn())


def _with_truth(recipe: ActiveLearning, run_: Run, dataset: ReadableDataset) -> "_Learning":
    """An experiment in which the labels of the data set answer."""
    view = _whole(dataset, _split(recipe, dataset))
    return _Learning(recipe, run_, dataset, view, TruthOracle(view, run_.workdir / "queries"))


def _run_with_a_person(
    recipe: ActiveLearning,
    workdir: pathlib.Path,
    programs: Programs | None,
    data: ReadableDataset,
) -> dict:
    """`run` where a person answers: images and classes may be added between two rounds."""
    person = Person(recipe, workdir, data)
    backbone = stored_backbone(recipe, data)
    facts = person.images.facts() | ({"backbone_sha256": backbone.sha256} if backbone else {})
    with open_run(recipe, workdir, programs) as run_:
        run_.begin("split.json", facts, dtype=compute_dtype(recipe.dtype))
        person.begin()
        round_, before = (run_.position() or (0,))[0], None
        while True:
            view = person.images.view(round_)
            learning = _Learning(recipe, run_, data, view, person.oracle(view), before=before)
            results = learning.learn()
            if results is not None:
                return results
            # Other shapes need other programs.
            before, round_ = learning, learning.saved.at[0]
            run_.programs = Programs(run_.placement)


def _whole(dataset: ReadableDataset, split: OpenSetSplit) -> View:
    """All images of a data set."""
    names = tuple(dataset.class_names[c] for c in split.known_classes)
    return View(dataset.examples, split, names, dataset.mean, dataset.std)


def choose(
    recipe: ActiveLearning,
    dataset: ReadableDataset,
    annotations: np.ndarray,
    workdir: str | os.PathLike | None = None,
    *,
    num_classes: int | None = None,
    precisions: tuple[float, ...] = (),
    programs: Programs | None = None,
    bar: bool | None = False,
) -> tuple[Query, np.ndarray]:
    """Trains on annotations and chooses the next images: one round, without an oracle.

    Args:
      recipe: a recipe; `al.query_size` images are chosen.
      dataset: the data.
      annotations: int32 `[N]` of its training images, then of its unlabelled ones: a class, K for
        unknown, or `NOT_ANNOTATED`.
      workdir: as in `run`; None: no files are kept.
      num_classes: K; None for all classes of the data.
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
    known = tuple(range(num_classes or dataset.num_classes))
    split = OpenSetSplit(known, annotations, labeled, nothing, nothing.astype(bool))
    with contextlib.ExitStack() as stack:
        folder = workdir or stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxrobust-"))
        run_ = stack.enter_context(open_run(recipe, folder, programs, bar=bar))
        # What is kept has the rows of the data, so that runs of earlier versions resume.
        view, pads = _whole(dataset, split), workdir is None
        learning = _Learning(recipe, run_, dataset, view, Oracle(), pads=pads)
        return learning.choose(precisions, keep=workdir is not None)


def _split(recipe: ActiveLearning, dataset: ReadableDataset) -> OpenSetSplit:
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


class _Learning:
    """One experiment in progress.

    Args:
      recipe: a recipe.
      run: opened.
      dataset: the data, of which the test part is read.
      view: the images and classes that are used of it.
      oracle: that answers queries.
      before: the same run up to the end of a round with fewer images or classes.
      pads: whether pools of about one size share programs.
    """

    def __init__(
        self,
        recipe: ActiveLearning,
        run: Run,
        dataset: ReadableDataset,
        view: View,
        oracle: Oracle,
        *,
        before: "_Learning | None" = None,
        pads: bool = False,
    ):
        self.recipe, self.run, self.oracle = recipe, run, oracle
        self.dataset, self.view = dataset, view
        self._backbone = stored_backbone(recipe, dataset)
        self.phases = Phases(recipe, run, view, dataset.test, oracle.truth, self._backbone, pads)
        self.problem, self.strategy = self.phases.problem, self.phases.strategy
        arrays, record = {"observed": {}}, {"rounds": [], "verdicts": []}
        self.saved = Saved(arrays=arrays, record=record, at=(0, 0, 0))  # round, phase, epoch
        given = np.where(view.split.labeled, view.split.targets, NOT_ANNOTATED)
        self._set_annotations(given.astype(np.int32))
        self._is_continued = before is not None
        if before is not None:
            self._continue_from(before)

    @property
    def rounds(self) -> list[dict]:
        """The measures of every round so far."""
        return self.saved.record["rounds"]

    # The loop

    def learn(self) -> dict | None:
        """Trains and queries, and returns the results, or what has to be answered first.

        None: the next round has other images or classes, and continues from what is `saved`.
        """
        recipe, run, saved = self.recipe, self.run, self.saved
        self._begin()
        while saved.at[0] < recipe.al.rounds and not saved.record.get("ended"):
            round_ = saved.at[0]
            self._train_round()
            if self.oracle.may_wait:
                self._save_trained(round_)
            self._measure()
            goes_on = self._has_query(round_)
            if goes_on and not self._query(round_):
                if not recipe.al.finish:
                    return self._wait_for_answers(round_)
                goes_on = False
            log.info(round_text(round_, self.rounds[-1], self._gain()))
            saved.record["ended"] = not goes_on
            if goes_on and self.oracle.begin_round(round_ + 1):
                saved.move(round_ + 1, 0, 0)
                run.flush()
                return None
            if goes_on:
                self._set_annotations(self.oracle.annotations(round_ + 1, self.annotations))
            saved.move(round_ + 1, 0, 0)
            run.save(saved)
            run.epoch_done(saved, at=(round_ + 1, 0, 0), where=f"round {round_}")
        run.flush()
        return self._finish()

    def choose(self, precisions: tuple[float, ...], *, keep: bool) -> tuple[Query, np.ndarray]:
        """Trains one round and returns its query, and the target's probabilities `[N, K]`."""
        self._begin()
        self._train_round()
        if keep:
            self._save_trained(0)
        context = self._round.query_context()
        context = dataclasses.replace(context, round=len(precisions), precisions=precisions)
        query = self.strategy.query(context)
        probs = self._round.target_probs()
        self.run.flush()
        return query, probs

    def _begin(self) -> None:
        if not self.run.has_begun:
            facts = split_facts(self.dataset, self.view.split)
            facts |= {"backbone_sha256": self._backbone.sha256} if self._backbone else {}
            self.run.begin("split.json", facts, dtype=self.problem.dtype)
        self._introduce()
        self._restore()
        self._apply_changed_answers()
        introduce_networks(self.saved.networks, self.problem.dtype, self.run)
        total = self.phases.epochs_before((self.recipe.al.rounds, 0, 0))
        self.run.start_progress(self.saved, total=total)

    def _introduce(self) -> None:
        introduce_pixels(self.dataset)
        log.info(
            "%s on %s: %d training images, %d of %d classes known (%s), %d labelled at the start",
            self.recipe.method,
            self.dataset.name,
            len(self.annotations),
            self.problem.num_classes,
            self._num_classes,
            shorten(self.view.class_names),
            int(self.view.split.labeled.sum()),
        )

    @property
    def _num_classes(self) -> int:
        """Known and unknown classes, as far as there are labels of them."""
        known_only = self.oracle.truth is None
        return self.problem.num_classes if known_only else self.dataset.num_classes

    def _has_query(self, round_: int) -> bool:
        """Whether a round ends with a query."""
        in_pool = self.annotations == NOT_ANNOTATED
        return round_ < num_queries(self.recipe) and self.oracle.has_query(round_, in_pool)

    def _wait_for_answers(self, round_: int) -> dict:
        """Ends the command until the person has filled the table."""
        self.run.flush()
        table, lines = self.oracle.waiting_for(round_)
        for line in (f"round {round_}: {accuracy_text(self.rounds[-1])} so far", *lines):
            log.info("%s", line)
        return {"waiting_for": str(table)}

    # State

    def _new_round(self, number: int) -> Round:
        return Round(number, self.recipe, self.phases, self.saved, self.annotations)

    def _set_annotations(self, annotations: np.ndarray) -> None:
        self.annotations = annotations
        self.saved.arrays["annotations"] = self.phases.put(annotations)

    def _save_trained(self, round_: int) -> None:
        """Saves the networks from which a query is computed."""
        self.saved.move(round_, *self.phases.trained_at)
        self.run.save(self.saved)

    def _restore(self) -> None:
        """The state at the start of the run or of this round, or of the latest checkpoint."""
        saved, phases = self.saved, self.phases
        for index, (name, phase) in enumerate(phases.by_name.items()):
            network = saved.networks[name] = phases.start(index, 0, saved.networks)
            if phase.observation is not None:
                saved.arrays["observed"][name] = phases.nothing_observed(name, network)
        if not self._is_continued:
            self.run.restore(saved, phases.epochs_before)
            self.annotations = np.asarray(saved.arrays["annotations"])[: len(self.annotations)]

    def _continue_from(self, before: "_Learning") -> None:
        """Copies what was measured and annotated with fewer images or classes."""
        self.saved.record = before.saved.record
        self.saved.move(*before.saved.at)
        annotations = self.annotations.copy()
        was_unknown = before.annotations == before.problem.num_classes
        annotations[: len(before.annotations)] = np.where(
            was_unknown, self.problem.num_classes, before.annotations
        )
        self._set_annotations(self.oracle.annotations(self.saved.at[0], annotations))

    def _apply_changed_answers(self) -> None:
        """Reports changed answers of earlier rounds; a run that had ended trains once more."""
        saved, oracle = self.saved, self.oracle
        last = saved.at[0] - 1
        annotations = oracle.annotations(last + 1, self.annotations)
        changed = int(np.sum(annotations != self.annotations))
        has_ended = saved.record.get("ended", False)
        if changed:
            when = "the last round is trained again" if has_ended else "used from the next round on"
            log.info("%d answers of earlier rounds have changed: %s", changed, when)
        if not has_ended or not (changed or self._has_query(last)):
            return
        saved.record["ended"] = False
        self.rounds.pop()
        if oracle.asked(last) is not None:  # its answers come next
            return saved.move(last, *self.phases.trained_at)
        self._set_annotations(annotations)
        saved.move(last, 0, 0)

    # Training

    def _train_round(self) -> None:
        """The phases of a round, or those that are left of it."""
        round_, first_phase, _ = self.saved.at
        self._round = self._new_round(round_)
        for index in range(first_phase, len(self.strategy.phases)):
            self._train(round_, index)

    def _train(self, round_: int, index: int) -> None:
        """A phase of a round, or what is left of it."""
        run, saved, phase = self.run, self.saved, self.strategy.phases[index]
        seed, name = self.recipe.seed, phase.name
        if phase.class_probs is None and not self._is_used(name, round_):
            return
        members = self._round.members(index)
        if not members.size:
            return
        labels, scalars = self._round.labels(index)
        first_epoch = saved.at[2] if saved.at[:2] == (round_, index) else 0
        if first_epoch == 0 and not saved.row:
            network = saved.networks[name] = self.phases.start(index, round_, saved.networks)
            saved.record["verdicts"] = []
            if phase.observation is not None:
                saved.arrays["observed"][name] = self.phases.nothing_observed(name, network)
        for epoch in range(first_epoch, phase.num_epochs):
            due = phase.observation is not None and phase.observation.due(epoch)
            if due and not saved.row and self._round.observe_pool(index, epoch):
                break
            where = f"round {round_}, {name}, epoch {epoch + 1}/{phase.num_epochs}"
            order = rng.generator(seed, f"{name}/order", round_, epoch)
            run.train(
                saved,
                name,
                self.phases.programs[name].epoch,
                place_plan(
                    order.permutation(members),
                    phase.batch_size,
                    run.placement,
                    capacity=self.phases.num_rows,  # the same shape in every round
                    last_batch=self.recipe.last_batch,
                ),
                rng.stream(seed, f"{name}/steps", round_, epoch),
                self.phases.images,
                labels,
                self.phases.statistics,
                scalars=phase.scalars(epoch) | scalars,
                at=(round_, index, epoch),
                event={"phase": name, "round": round_, "epoch": epoch},
                where=where,
            )
            run.epoch_done(saved, at=(round_, index, epoch + 1), where=where)

    def _is_used(self, name: str, round_: int) -> bool:
        """Whether a network without class probabilities is used after a round."""
        return self._has_query(round_) or (
            self.oracle.may_wait and name == self.strategy.detector  # by `Round.final_predictions`
        )

    # Measures and queries

    def _measure(self) -> None:
        """Accuracy of every classifier on the test images of known classes."""
        entry = {
            "round": self._round.number,
            **label_counts(self.annotations, self.problem.num_classes),
            **self._round.test_accuracies(self.view.split),
        }
        self.rounds.append(entry)
        self._log_round("test", entry)

    def _log_round(self, split: str, entry: dict) -> None:
        round_ = self._round.number
        step = self.phases.epochs_before((round_ + 1, 0, 0))
        values = {k: v for k, v in entry.items() if isinstance(v, (int, float)) and k != "round"}
        self.run.write({"step": step, "split": split, "round": round_}, values)

    def _gain(self) -> dict[str, Any] | None:
        """What the last queries brought; None where that cannot be said."""
        return annotation_gain.of_last_queries(self.rounds, int(self.view.split.test_known.sum()))

    def _query(self, round_: int) -> bool:
        """Chooses images and has them annotated; False if the annotator has not answered yet."""
        oracle, num_classes = self.oracle, self.problem.num_classes
        query = oracle.asked(round_)
        if query is None:
            context = self._round.query_context()
            eligible = oracle.eligible(round_, context.in_pool[: len(self.annotations)])
            budget = min(context.budget, int(eligible.sum()))
            eligible = pad_rows(eligible, self.phases.num_rows)
            query = self.strategy.query(
                dataclasses.replace(context, in_pool=eligible, budget=budget)
            )
            is_unknown = None if oracle.truth is None else oracle.truth == num_classes
            path = self.run.workdir / "queries" / f"round_{round_:02d}_scores.csv"
            write_scores(path, query, self.annotations, is_unknown)
            oracle.ask(round_, query, self._round.target_probs)
        answered = oracle.answers(round_, query)
        if answered is None:
            return False
        ids, answers = answered
        entry = self.rounds[-1]["query"] = query_measures(
            oracle,
            dataclasses.replace(query, ids=ids),
            answers,
            self.annotations,
            num_classes,
            self.strategy.unknown_scores,
        )
        annotations = self.annotations.copy()
        annotations[ids] = answers
        self._set_annotations(annotations)
        self._log_round("query", entry)
        return True

    # Results

    def _finish(self) -> dict:
        recipe, last, workdir = self.recipe, self.rounds[-1], self.run.workdir
        gain = self._gain()
        results = {
            "task": "active_learning",
            "method": recipe.method,
            "dataset": self.dataset.name,
            "seed": recipe.seed,
            "num_known_classes": self.problem.num_classes,
            "num_classes": self._num_classes,
            **summary(self.rounds),
            **({"last_queries": gain} if gain else {}),
            "rounds": self.rounds,
        }
        figure = workdir / "figures" / "learning_curve.png"
        learning_curves({recipe.method: [results]}, figure)
        final, class_names = self._new_round(last["round"]), list(self.view.class_names)
        split, target = self.view.split, self.strategy.target
        if "accuracy" in last:
            probs = final.test_probs(target, split)
            write_test_files(workdir, probs, split.test_targets[split.test_known], class_names)
        classifier_of_run(
            recipe=recipe,
            networks=fetch({"target": self.saved.networks[target].variables}),
            class_names=class_names,
            num_examples=len(self.annotations),
            input_shape=self.problem.input_shape,
            mean=self.view.mean,
            std=self.view.std,
            embedding=getattr(self.dataset, "embedding", None),
        ).save(workdir / "classifier")
        lines = [
            f"last {accuracy_text(last)}, {self.run.seconds:.0f} s in total",
            f"results: {workdir / 'results.json'}",
            f"queried images and their scores: {workdir / 'queries'}",
            *self.oracle.write_files(
                workdir, final.number + 1, self.annotations, final.final_predictions
            ),
            f"classifier, for jaxrobust predict: {workdir / 'classifier'}",
            f"figure: {figure}",
            next_command(workdir),
        ]
        self.run.finish(results, lines)
        return results
