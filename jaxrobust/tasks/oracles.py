"""Oracles of active learning, of which one answers: the labels of the data set. See `person`."""

import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from jaxrobust import metrics
from jaxrobust.data.dataset import ReadableDataset
from jaxrobust.data.open_set import OpenSetSplit, open_set_split
from jaxrobust.data.tables import to_csv
from jaxrobust.engine import rng
from jaxrobust.engine.files import write_text
from jaxrobust.methods.strategy import NOT_ANNOTATED, Query
from jaxrobust.recipes.protocols import ActiveLearning
from jaxrobust.report.figures import contact_sheet
from jaxrobust.tasks.annotator import UNKNOWN, query_rows
from jaxrobust.tasks.known_images import View

NUM_SHOWN = 60  # queried images on the contact sheet


class Oracle:
    """Answers queries with the classes of images. This one cannot be asked."""

    truth: np.ndarray | None = None  # int32 `[N]` annotations; None where nobody knows them
    may_wait = False  # whether a run may end before its queries are answered

    def asked(self, round_: int) -> Query | None:
        """The query of a round if an earlier attempt has decided it."""
        return None

    def eligible(self, round_: int, in_pool: np.ndarray) -> np.ndarray:
        """bool `[N]`, images of the pool that may be asked about after a round."""
        return in_pool

    def has_query(self, round_: int, in_pool: np.ndarray) -> bool:
        """Whether a round that may end with a query does."""
        return True

    def ask(self, round_: int, query: Query, probs: Callable[[], np.ndarray]) -> None:
        """Asks a query; `probs()` are the target classifier's probabilities `[N, K]`."""

    def answers(self, round_: int, query: Query) -> tuple[np.ndarray, np.ndarray] | None:
        """Ids that were annotated, and int32 the class of each, K for unknown; None: not yet."""
        raise NotImplementedError

    def annotations(self, num_rounds: int, before: np.ndarray) -> np.ndarray:
        """Annotations int32 `[N]` by the answers to the first rounds as they are now.

        Args:
          num_rounds: rounds whose tables count.
          before: annotations so far, which stay for images whose table is gone.
        """
        return before

    def judge(
        self, query: Query, answers: np.ndarray, in_pool: np.ndarray, num_labeled_known: int
    ) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
        """What is known about an answered query, before it is entered.

        Returns measures, the ids of images whose truth is known, and which of them are unknown.
        """
        raise NotImplementedError

    def begin_round(self, round_: int) -> bool:
        """Adds new images and classes from a round on; whether there are any."""
        return False

    def waiting_for(self, round_: int) -> tuple[pathlib.Path, list[str]]:
        """The table that is to be filled, and what to tell the person."""
        raise NotImplementedError

    def write_files(
        self,
        workdir: pathlib.Path,
        num_rounds: int,
        annotations: np.ndarray,
        predict: Callable[[], tuple[np.ndarray, np.ndarray | None]],
    ) -> list[str]:
        """Writes all annotations and the predictions of all other images, for a person.

        `predict()` gives class probabilities `[N, K]`, and `[N]` of being unknown, None if not
        predicted. Returns lines that say what was written.
        """
        return []


class TruthOracle(Oracle):
    """The labels of the data set answer at once. They are read here and nowhere else."""

    truth: np.ndarray

    def __init__(self, view: View, folder: pathlib.Path):
        self.truth = view.split.targets
        self._names = [*view.class_names, UNKNOWN]
        self._examples = view.examples
        self._folder = folder

    def answers(self, round_: int, query: Query) -> tuple[np.ndarray, np.ndarray]:
        answers = self.truth[query.ids]
        rows = query_rows(query, self._examples.files, [self._names[a] for a in answers])
        write_text(self._folder / f"round_{round_:02d}.csv", to_csv(rows))
        shown = query.ids[:NUM_SHOWN]
        pictures = self._examples.pictures(shown) if shown.size else None
        if pictures is not None:
            contact_sheet(
                pictures,
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


def query_measures(
    oracle: Oracle,
    query: Query,
    answers: np.ndarray,
    annotations: np.ndarray,
    num_classes: int,
    unknown_scores: Sequence[str],
) -> dict:
    """Precision, recall and AUROCs of an answered query, before it is entered.

    `unknown_scores` as in `Strategy`; `annotations` int32 `[N]` before the answers.
    """
    known = answers < num_classes
    in_pool = annotations == NOT_ANNOTATED
    num_labeled_known = int(np.sum(~in_pool & (annotations < num_classes)))
    measures, judged, unknown = oracle.judge(query, answers, in_pool, num_labeled_known)
    entry = {
        "size": len(query.ids),
        "num_known": int(known.sum()),
        "precision": float(metrics.query_precision(known)),
        "pool_size": int(in_pool.sum()),
        **query.notes,
        **measures,
    }
    if unknown.any() and not unknown.all():
        for name in unknown_scores:
            if name in query.scores:
                entry[f"auroc_{name}"] = float(metrics.auroc(query.scores[name][judged], unknown))
    return entry


def split_by_truth(recipe: ActiveLearning, dataset: ReadableDataset) -> OpenSetSplit:
    """The protocol of the papers: some classes are unknown, and most labels hidden."""
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
