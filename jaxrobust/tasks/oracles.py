"""Oracles of active learning: the labels of the data set, or a person."""

import pathlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from jaxrobust import metrics
from jaxrobust.data.dataset import Dataset
from jaxrobust.data.features import FeatureDataset
from jaxrobust.data.open_set import OpenSetSplit, open_set_split
from jaxrobust.data.tables import to_csv
from jaxrobust.engine import rng
from jaxrobust.engine.files import write_text
from jaxrobust.errors import UserError
from jaxrobust.methods.active_learning import Query
from jaxrobust.recipes.protocols import ActiveLearning
from jaxrobust.report.figures import contact_sheet
from jaxrobust.tasks.annotator import SKIP, UNKNOWN, Annotator, Merged, query_rows

NUM_SHOWN = 60  # queried images on the contact sheet


class Oracle(Protocol):
    """Whoever answers queries with the classes of images.

    Attributes:
      truth: int32 `[N]` annotations; None where nobody knows them.
      may_wait: whether a run may end before its queries are answered.
    """

    @property
    def truth(self) -> np.ndarray | None: ...

    @property
    def may_wait(self) -> bool: ...

    def asked(self, round_: int) -> Query | None:
        """The query of a round as an earlier attempt decided it, if it did."""

    def eligible(self, round_: int, in_pool: np.ndarray) -> np.ndarray:
        """bool `[N]`, images of the pool that may be asked about after a round."""
        ...

    def ask(self, round_: int, query: Query, suggestions: Sequence[tuple[str, float]]) -> None:
        """Hands a query over, with the most probable class of each image and its probability."""

    def answers(self, round_: int, query: Query) -> tuple[np.ndarray, np.ndarray] | None:
        """Ids that were annotated, and int32 the class of each, K for unknown; None: not yet."""

    def judge(
        self, query: Query, answers: np.ndarray, in_pool: np.ndarray, num_labeled_known: int
    ) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
        """What is known about an answered query, before it is entered.

        Args:
          query: the query.
          answers: to it.
          in_pool: bool `[N]`.
          num_labeled_known: images that are annotated with a known class.

        Returns:
          Measures, the ids of images whose truth is known, and which of them are unknown.
        """
        ...

    def waiting_for(self, round_: int) -> tuple[pathlib.Path, list[str]]:
        """The table that is to be filled, and what to tell the person."""
        ...


class TruthOracle:
    """The labels of the data set answer at once. They are read here and nowhere else.

    Args:
      split: of the data set.
      class_names: of the K known classes.
      images: uint8 `[N, H, W, 3]`, for the contact sheets; None: there are none.
      files: of the images, if they came from some.
      folder: for what was asked and answered.
    """

    may_wait = False

    def __init__(
        self,
        split: OpenSetSplit,
        class_names: list[str],
        images: np.ndarray | None,
        files: tuple[str, ...] | None,
        folder: pathlib.Path,
    ):
        self.truth = split.targets
        self._names = [*class_names, UNKNOWN]
        self._images = images
        self._files = files
        self._folder = folder

    def asked(self, round_: int) -> None:
        return None

    def eligible(self, round_: int, in_pool: np.ndarray) -> np.ndarray:
        return in_pool

    def ask(self, round_: int, query: Query, suggestions: Sequence[tuple[str, float]]) -> None:
        pass

    def answers(self, round_: int, query: Query) -> tuple[np.ndarray, np.ndarray]:
        answers = self.truth[query.ids]
        rows = query_rows(query, self._files, [self._names[a] for a in answers])
        write_text(self._folder / f"round_{round_:02d}.csv", to_csv(rows))
        shown = query.ids[:NUM_SHOWN]
        if shown.size and self._images is not None:
            contact_sheet(
                self._images[shown],
                [self._names[a] for a in answers[:NUM_SHOWN]],
                self._folder / f"round_{round_:02d}.png",
                wrong=answers[:NUM_SHOWN] == len(self._names) - 1,
            )
        return query.ids, answers

    def judge(
        self, query: Query, answers: np.ndarray, in_pool: np.ndarray, num_labeled_known: int
    ) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
        num_classes = len(self._names) - 1
        judged = np.flatnonzero(in_pool)
        unknown = self.truth[judged] == num_classes
        pool_known = int(np.sum(~unknown))
        num_found = int((answers < num_classes).sum())
        recall = metrics.query_recall(num_labeled_known, num_found, pool_known)
        measures = {
            "recall": float(recall),
            "pool_known_fraction": pool_known / max(judged.size, 1),
        }
        return measures, judged, unknown

    def waiting_for(self, round_: int) -> tuple[pathlib.Path, list[str]]:
        raise NotImplementedError


class NoOracle:
    """Never asked: for calls that end with a query."""

    truth = None
    may_wait = True


class PersonOracle:
    """A person answers, in a table. Only the answers are known: no recall, and AUROCs over them.

    Args:
      annotator: the person's side of the run.
      labels: int32 `[N]` of the images by the folders that they lie in, `NOT_ANNOTATED` for none.
    """

    truth = None
    may_wait = True

    def __init__(self, annotator: Annotator, labels: np.ndarray):
        self._annotator = annotator
        self._labels = labels
        self._names = {name: i for i, name in enumerate(annotator.class_names)}

    def asked(self, round_: int) -> Query | None:
        return self._annotator.asked(round_, len(self._labels))

    def eligible(self, round_: int, in_pool: np.ndarray) -> np.ndarray:
        return self._annotator.eligible(round_, in_pool)

    def ask(self, round_: int, query: Query, suggestions: Sequence[tuple[str, float]]) -> None:
        self._annotator.ask(round_, query, suggestions)

    def answers(self, round_: int, query: Query) -> tuple[np.ndarray, np.ndarray] | None:
        self._annotator.show(round_, query)
        answers = self._annotator.answers(round_)
        if answers.is_untouched:
            return None
        ids = np.array([i for i in query.ids if int(i) in answers.labels], np.int64)
        return ids, np.array([self._code(answers.labels[int(i)]) for i in ids], np.int32)

    def _code(self, label: str) -> int:
        """Of an answer; a class that does not take part in the round yet is unknown to it."""
        return self._names.get(label, len(self._names))

    def merged(self, num_rounds: int) -> Merged:
        """The answers to the first rounds, as the tables say now."""
        return self._annotator.merged(num_rounds)

    def annotations(self, num_rounds: int, before: np.ndarray) -> np.ndarray:
        """Annotations int32 `[N]` by folder and by the answers to the first rounds.

        Args:
          num_rounds: rounds whose tables count.
          before: annotations so far, which stay for images whose table is gone.
        """
        annotations = self._labels.copy()
        for round_ in range(num_rounds):
            query = self.asked(round_)
            if query is not None and not self._annotator.table(round_).exists():
                annotations[query.ids] = before[query.ids]
        for i, label in self.merged(num_rounds).labels.items():
            annotations[i] = self._code(label)
        return annotations

    def judge(
        self, query: Query, answers: np.ndarray, in_pool: np.ndarray, num_labeled_known: int
    ) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
        return {}, query.ids, answers == len(self._names)

    def waiting_for(self, round_: int) -> tuple[pathlib.Path, list[str]]:
        annotator = self._annotator
        table, page = annotator.table(round_), annotator.page(round_)
        count = len(annotator.answers(round_).empty)
        return table, [
            f"{count} images to annotate: open {page} in a browser and put the table that it saves "
            f"in the place of {table}, or fill the column `label` of {table}",
            f"write one of {', '.join([*annotator.class_names, UNKNOWN])}, {SKIP} to pass an image "
            "over, or nothing to be asked again later; then rerun the same command to resume, for "
            "the last time with --config.al.finish=True",
        ]


def split_by_truth(recipe: ActiveLearning, dataset: Dataset | FeatureDataset) -> OpenSetSplit:
    """The protocol of the papers: classes are declared unknown, labels hidden."""
    al = recipe.al
    class_order = al.class_order or None
    if al.shuffle_classes:
        draw = rng.generator(recipe.seed, "open_set/class_order")
        class_order = tuple(draw.permutation(dataset.num_classes).tolist())
    return open_set_split(
        dataset.train.labels,
        dataset.test.labels,
        num_classes=dataset.num_classes,
        openness=None if al.num_known else al.openness,
        num_known=al.num_known or None,
        class_order=class_order,
        init_fraction=al.init_fraction,
        seed=recipe.seed,
    )


def check_by_hand(dataset: Dataset | FeatureDataset, source: str) -> None:
    """Refuses data about which nobody can be asked.

    Args:
      dataset: the data.
      source: file or folder that it was read from, for messages.

    Raises:
      UserError: it has no unlabelled images or no files, or a class is called like an answer.
    """
    if dataset.unlabeled is None:
        raise UserError(
            f"oracle='csv' asks a person about unlabelled images, and {dataset.name} has none; use "
            "configs/...:image_folder with the images in a folder `unlabeled` beside the classes."
        )
    if dataset.train.file_names is None:
        raise UserError(
            f"oracle='csv' asks about files, and {source} names none: write it with python -m "
            "jaxrobust.embed."
        )
    for name in (UNKNOWN, SKIP):
        if name in dataset.class_names:
            raise UserError(
                f"A class folder may not be called {name!r} with oracle='csv', since that is an "
                "answer of its own; rename it."
            )
