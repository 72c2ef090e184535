"""Who answers the queries of active learning: the labels of the data set, or a person."""

import pathlib
from typing import Protocol

import ml_collections
import numpy as np

from jaxrobust import metrics
from jaxrobust.data.dataset import Dataset
from jaxrobust.data.features import FeatureDataset
from jaxrobust.data.open_set import OpenSetSplit, open_set_split
from jaxrobust.engine import rng
from jaxrobust.engine.files import write_text
from jaxrobust.errors import UserError
from jaxrobust.figures import contact_sheet
from jaxrobust.methods.active_learning import NOT_ANNOTATED, Query
from jaxrobust.tasks.annotator import UNKNOWN, Annotator, query_table
from jaxrobust.tasks.options import Al

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

    def ask(self, round_: int, query: Query) -> None:
        """Hands a query over."""

    def answers(self, round_: int, query: Query) -> np.ndarray | None:
        """int32 `[b]`, the class of each image of a query, K for unknown; None for not yet."""

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

    def ask(self, round_: int, query: Query) -> None:
        pass

    def answers(self, round_: int, query: Query) -> np.ndarray:
        answers = self.truth[query.ids]
        table = query_table(query, self._files, [self._names[a] for a in answers])
        write_text(self._folder / f"round_{round_:02d}.csv", table)
        shown = query.ids[:NUM_SHOWN]
        if shown.size and self._images is not None:
            contact_sheet(
                self._images[shown],
                [self._names[a] for a in answers[:NUM_SHOWN]],
                self._folder / f"round_{round_:02d}.png",
                wrong=answers[:NUM_SHOWN] == len(self._names) - 1,
            )
        return answers

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
    """

    truth = None
    may_wait = True

    def __init__(self, annotator: Annotator):
        self._annotator = annotator
        self._still_empty = ""

    def asked(self, round_: int) -> Query | None:
        return self._annotator.asked(round_)

    def ask(self, round_: int, query: Query) -> None:
        self._annotator.ask(round_, query)

    def answers(self, round_: int, query: Query) -> np.ndarray | None:
        self._annotator.show(round_, query)
        answers, self._still_empty = self._annotator.answers(round_, query)
        return answers

    def judge(
        self, query: Query, answers: np.ndarray, in_pool: np.ndarray, num_labeled_known: int
    ) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
        return {}, query.ids, answers == len(self._annotator.class_names)

    def waiting_for(self, round_: int) -> tuple[pathlib.Path, list[str]]:
        annotator = self._annotator
        table = annotator.table(round_)
        return table, [
            f"{self._still_empty}: fill the column `label` of {table}",
            f"images in the same order: {annotator.sheet(round_)}",
            f"write one of {', '.join([*annotator.class_names, UNKNOWN])}; leave the images where "
            "they are, and type the same command to go on",
        ]


def split_by_truth(
    config: ml_collections.ConfigDict, dataset: Dataset | FeatureDataset
) -> OpenSetSplit:
    """The protocol of the papers: classes are declared unknown, labels hidden."""
    al = Al.read(config)
    class_order = al.class_order or None
    if al.shuffle_classes:
        draw = rng.generator(config.seed, "open_set/class_order")
        class_order = tuple(draw.permutation(dataset.num_classes).tolist())
    return open_set_split(
        dataset.train.labels,
        dataset.test.labels,
        num_classes=dataset.num_classes,
        openness=None if al.num_known else al.openness,
        num_known=al.num_known or None,
        class_order=class_order,
        init_fraction=al.init_fraction,
        seed=config.seed,
    )


def split_by_hand(dataset: Dataset | FeatureDataset) -> OpenSetSplit:
    """Every class folder is a known class; of the unlabelled images nothing is known."""
    if dataset.unlabeled is None:
        raise UserError(
            f"oracle='csv' asks a person about unlabelled images, and {dataset.name} has none; use "
            "configs/...:image_folder with the images in a folder `unlabeled` beside the classes."
        )
    if UNKNOWN in dataset.class_names:
        raise UserError(
            f"A class folder may not be called {UNKNOWN!r} with oracle='csv', since that is the "
            "answer for images of no class; rename it."
        )
    num_labeled, num_unlabeled = len(dataset.train), len(dataset.unlabeled)
    return OpenSetSplit(
        known_classes=tuple(range(dataset.num_classes)),
        targets=np.concatenate([dataset.train.labels, np.full(num_unlabeled, NOT_ANNOTATED)]),
        labeled=np.arange(num_labeled + num_unlabeled) < num_labeled,
        test_targets=dataset.test.labels,
        test_known=np.ones(len(dataset.test), bool),
    )
