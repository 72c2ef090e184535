"""`jaxrobust.consensus`: the class of each item from the votes of several annotators."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from jaxrobust.api.annotators import Annotators, find_annotators, padded_votes
from jaxrobust.data.doubts import doubt_probabilities
from jaxrobust.data.inputs import aligned, as_features, as_probabilities
from jaxrobust.data.votes import NO_VOTE, Votes, as_votes, is_long_form
from jaxrobust.errors import UserError, check_count

CONSENSUS_FILE = "consensus.csv"
_NUM_FOLDS = 5  # of the votes that are left out in turn
_MANY_VOTES = 100_000  # from which one of the folds is enough
_SMALLEST = 1e-6  # probability of a classifier, which votes can still outweigh
_MOST_VALUES = 1024  # of an image whose pixels are used as features
_TEMPERATURES = tuple(np.arange(1, 41) / 8)  # of given probabilities


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Consensus:
    """The consensus labels of N items of C classes; arrays are in the order of `items`.

    Attributes:
      labels: `[N]` in the type of the votes, the most probable class. Without features or
        probabilities, an item that nobody voted on has no label: -1, or empty text.
      probs: float32 `[N, C]`, probability of each class; the largest one is `quality`.
      quality: float32 `[N]`, probability that the label is correct.
      ranked: int `[N]`, positions of the items, the most doubtful first.
      items: `[N]`, ids as given, otherwise positions; for votes in long form, in order of first
        appearance.
      num_votes: int `[N]`, number of votes on each item.
      classes: `[C]` in the type of the votes, the class of each column of `probs`.
      class_names: names of the C classes.
      annotators: `Annotators`.
      summary: JSON-able: `num_items`, `num_annotators`, `num_votes`, `num_classes`,
        `num_without_votes`, `num_replaced` (votes replaced by a later vote of the same annotator on
        the same item), `source` (the input other than the votes, if any), `expected_error`
        (expected share of wrong labels), `is_calibrated` (whether there were votes to hold out),
        `labels_by_class`.

    Examples:
      >>> found = consensus([["cat", "cat", "dog"], ["dog", "dog", None]])
      >>> found.labels.tolist(), found.num_votes.tolist()
      (['cat', 'dog'], [3, 2])
    """

    labels: np.ndarray
    probs: np.ndarray
    quality: np.ndarray
    ranked: np.ndarray
    items: np.ndarray
    num_votes: np.ndarray
    classes: np.ndarray
    class_names: tuple[str, ...]
    annotators: Annotators
    summary: dict[str, Any]
    _votes: Votes = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        s = self.summary
        return (
            f"Consensus({len(self):,} items, {s['num_votes']:,} votes of "
            f"{s['num_annotators']:,} annotators, {len(self.classes)} classes, "
            f"{100 * s['expected_error']:.1f} % of the labels probably wrong)"
        )

    @property
    def annotations(self) -> np.ndarray:
        """int32 `[N]`, as `query` takes them: class ids, `UNLABELED` for items without votes."""
        ids = self.probs.argmax(axis=1)
        return np.where(self.num_votes > 0, ids, NO_VOTE).astype(np.int32)

    def to_frame(self):
        """A pandas DataFrame in the order of the items, with the items as its index.

        Raises:
          UserError: if pandas is not installed.
        """
        pandas = _pandas("to_frame")
        rank = np.empty(len(self), np.int64)
        rank[self.ranked] = np.arange(len(self))
        columns = {
            "label": self.labels,
            "quality": self.quality,
            "votes": self.num_votes,
            "votes_for_label": self._votes_for_label(),
            "rank": rank,
        }
        return pandas.DataFrame(columns, index=pandas.Index(self.items, name="item"))

    def annotators_frame(self):
        """A pandas DataFrame with the annotators as its index.

        Raises:
          UserError: if pandas is not installed.
        """
        pandas = _pandas("annotators_frame")
        names = ("votes", "accuracy", "accuracy_low", "accuracy_high", "agreement")
        columns = {name: getattr(self.annotators, name) for name in names}
        index = pandas.Index(self.annotators.ids, name="annotator")
        return pandas.DataFrame(columns, index=index)

    def ask(self, budget: int, *, per_item: int = 1) -> np.ndarray:
        """The items for which another opinion is likely to correct the most labels.

        The value of the k-th further opinion on an item of quality r with n votes is

            (1 - r) / (n + k),

        the probability that the label is wrong, divided by the number of votes, since an item that
        many votes have not settled is less worthwhile. With features or probabilities, items that
        nobody voted on are on the same scale.

        Args:
          budget: number of opinions.
          per_item: maximum number of opinions on one item.

        Returns:
          int `[budget]`, positions of the items, the most valuable first, each up to `per_item`
          times; fewer if there are not enough items.

        Raises:
          UserError: if `budget` or `per_item` is not a whole number, at least 1.
        """
        for name, value in (("budget", budget), ("per_item", per_item)):
            check_count(name, value)
        further = self.num_votes[:, None] + np.arange(1, int(per_item) + 1)
        gains = (1 - self.quality[:, None]) / further
        return np.argsort(-gains, axis=None, kind="stable")[: int(budget)] // int(per_item)

    def save_review(
        self,
        path: str | os.PathLike,
        *,
        images: np.ndarray | None = None,
        files: Sequence[str] | None = None,
        folder: str | os.PathLike = ".",
        num_shown: int = 200,
    ) -> None:
        """Writes a page on which a person decides the most doubtful items, shown with all votes.

        The page suggests the second most probable class, and includes a random check of all items.

        Args:
          path: path of the page; its `corrections.csv` is the input of `audit`.
          images: uint8 `[N, H, W, 3]`.
          files: paths of the N images, instead of `images`.
          folder: folder that the paths are relative to.
          num_shown: number of items on the page.

        Raises:
          UserError: if there are neither images nor files, or not N of them.
        """
        from jaxrobust.review import review_page, suspects

        review_page.check_shown(len(self), "item", images=images, files=files)
        first, second = np.argsort(-self.probs, axis=1, kind="stable")[:, :2].T
        is_doubtful = np.zeros(len(self), bool)
        is_doubtful[self.ranked[:num_shown]] = True
        judged = suspects.Judged(
            given=first,
            suggested=np.where(is_doubtful, second, first),
            clean_prob=self.quality,
            ranked=self.ranked,
            class_names=self.class_names,
            probs=self.probs,
            words=lambda i: "; ".join(f"{who}: {vote}" for who, vote in self.opinions(i).items()),
        )
        suspects.write_review(
            pathlib.Path(path),
            judged,
            num_shown,
            files=None if files is None else [str(file) for file in files],
            root=None if files is None else pathlib.Path(folder).expanduser(),
            pictures=None if images is None else lambda ids: images[ids],
            title="Labels that are in doubt",
        )

    def _votes_for_label(self) -> np.ndarray:
        items = self._votes.items
        agrees = self._votes.labels.values(self._votes.votes) == self.labels[items]
        return np.bincount(items[agrees], minlength=len(self))

    def opinions(self, position: int) -> dict[Any, str]:
        """Annotator -> class name, for the annotators who voted on an item."""
        votes = self._votes
        where = np.flatnonzero(votes.items == position)
        people = votes.annotator_ids[votes.annotators[where]].tolist()
        return dict(zip(people, (self.class_names[c] for c in votes.votes[where]), strict=True))

    def save(self, path: str | os.PathLike) -> None:
        """Writes a CSV file of labels, the most doubtful first, and `annotators.csv` next to it."""
        from jaxrobust.data.tables import escape_formula
        from jaxrobust.engine.files import format_number, write_table

        def text(value):
            return escape_formula(str(value))

        path, for_label = pathlib.Path(path), self._votes_for_label()
        rows: list[list] = [["item", "label", "quality", "votes", "votes_for_label"]]
        rows += [
            [
                text(self.items[i]),
                text(self.labels[i]),
                format_number(self.quality[i]),
                int(self.num_votes[i]),
                int(for_label[i]),
            ]
            for i in self.ranked.tolist()
        ]
        write_table(path, rows)
        a = self.annotators
        columns = (a.accuracy, a.accuracy_low, a.accuracy_high, a.agreement)
        header = ["annotator", "votes", "accuracy", "accuracy_low", "accuracy_high", "agreement"]
        table = [
            [text(a.ids[j]), int(a.votes[j]), *(format_number(column[j]) for column in columns)]
            for j in np.argsort(a.accuracy, kind="stable").tolist()
        ]
        write_table(path.with_name("annotators.csv"), [header, *table])


def consensus(
    votes: Any,
    *,
    annotators: Any = None,
    items: Any = None,
    features: Any = None,
    pred_probs: Any = None,
    images: Any = None,
    class_names: Any = None,
    rounds: int = 3,
    seed: int = 0,
    workdir: str | os.PathLike | None = None,
    progress: bool = False,
) -> Consensus:
    """The class of each item from the votes of several annotators, some of whom are often wrong.

    Each annotator has a confusion matrix, shrunk towards a single accuracy
    (`selection.fit_annotators`). With features, a ridge regression is fitted to the consensus; its
    leave-one-out scores, converted to probabilities (`selection.vector_scaling`), replace the class
    shares as the prior. This is repeated `rounds` times. If `pred_probs` are given, they are used
    as the prior instead. The posterior of such a model is overconfident, so `quality` is calibrated
    on held-out votes (`selection.fit_agreement`). It is still too high for items that annotators
    and features get wrong together, which no vote can reveal.

    Args:
      votes: a table `[N, A]`, one column for each annotator: integers, text or bool, with -1, NaN,
        None or "" for no vote. Or in long form: `[V]` with `items` and `annotators`, or a DataFrame
        with these three columns. Only the last vote of an annotator on an item counts.
      annotators: ids of any type: `[V]` for the long form; `[A]` for a table, or None for its
        columns.
      items: ids of any type: `[V]` for the long form, whose items are in order of first appearance;
        `[N]` for a table, or None for its index.
      features: float `[N, D]` or `[N, V, D]` (views are averaged), one row per item in the order of
        the items, including items that nobody voted on. Rows of a DataFrame are matched by `items`.
      pred_probs: float `[N, C]`, out-of-sample predicted probabilities of every item, instead of
        features.
      images: `[N, H, W(, 3)]`, instead of features: photographs of 16 pixels or more are embedded
        by `jaxrobust.embed`, which needs the extra `pretrained`; for smaller ones the pixels are
        used.
      class_names: the C classes: names of the class ids, or the values that occur in `votes`. A
        class that nobody voted for must be named here, or have a column of `pred_probs`.
      rounds: number of times the classifier is fitted.
      seed: random seed of the held-out votes.
      workdir: folder for `consensus.csv` and `annotators.csv`; None to keep nothing.
      progress: whether to show a bar while images are embedded.

    Returns:
      `Consensus`.

    Raises:
      UserError: if an argument is invalid, in one sentence.

    Examples:
      >>> consensus([["cat", "cat", "dog"], ["dog", "dog", None]]).labels.tolist()
      ['cat', 'dog']
    """
    if getattr(votes, "ndim", 2) == 1:
        votes, items, annotators = aligned(votes=votes, items=items, annotators=annotators)
    elif items is None and not is_long_form(votes):
        votes, features, pred_probs, images = aligned(
            votes=votes, features=features, pred_probs=pred_probs, images=images
        )
    given = {"features": features, "pred_probs": pred_probs, "images": images}
    sources = [name for name, value in given.items() if value is not None]
    if len(sources) > 1:
        raise UserError(f"Give one of features=, pred_probs= or images=, not {len(sources)}.")
    check_count("rounds", rounds)
    probs = None if pred_probs is None else as_probabilities(pred_probs)
    known = as_votes(
        votes, items=items, annotators=annotators, class_names=class_names, table=pred_probs
    )
    import jax

    # Starting an accelerator would take longer than the computation.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        predict = None
        if sources:
            (source,) = sources
            inputs = probs if probs is not None else _features(source, given[source], progress)
            inputs = inputs[_rows(source, given[source], inputs, known)]
            if probs is not None:
                doubt_probabilities(known.votes, inputs[known.items], known.labels.classes)
            predict = _classifier(source, inputs, known)
        found = _consensus(known, predict, (*sources, "votes")[0], rounds, seed)
    if workdir is not None:
        found.save(pathlib.Path(workdir) / CONSENSUS_FILE)
    return found


def _features(source: str, given: Any, progress: bool) -> np.ndarray:
    """`[N, D]` of features or images."""
    if source == "features":
        array = as_features(given)
    else:
        from jaxrobust.api import in_memory

        name, images = in_memory.check_inputs(images=given)
        name, array = in_memory.embed_photographs(name, images, None, progress=progress)
        if name == "images" and images[0].size > _MOST_VALUES:
            raise UserError(
                "images= needs a network to compute features: pip install "
                "'jaxrobust[pretrained]', or give features= from another network."
            )
        array = array.reshape(len(array), -1) if name == "images" else array
    array = array.astype(np.float32, copy=False)
    return array if array.ndim == 2 else array.mean(axis=1)


def _rows(source: str, given: Any, array: np.ndarray, votes: Votes) -> Any:
    """Rows of the items: matched by the index of a DataFrame, otherwise all rows in order."""
    index = getattr(given, "index", None)
    if index is not None and not callable(index) and type(index).__name__ != "RangeIndex":
        place = {name: i for i, name in enumerate(index)}
        ids = votes.item_ids.tolist()
        if missing := [x for x in ids if x not in place]:
            raise UserError(
                f"{source} has no row for the item {missing[0]!r} in its index; add it."
            )
        return np.array([place[x] for x in ids])
    if len(array) != votes.num_items:
        raise UserError(
            f"{source} has {len(array)} rows, but there are {votes.num_items} items; row i must "
            "belong to item i (for votes in long form, in order of first appearance)."
        )
    return slice(None)


def _classifier(
    source: str, inputs: np.ndarray, votes: Votes
) -> Callable[[np.ndarray], np.ndarray]:
    """Function from probabilities `[N, C]` of the items to a classifier's log probabilities."""
    from jaxrobust.selection import vector_scaling
    from jaxrobust.selection.ridge import leave_one_out

    has_votes = np.bincount(votes.items, minlength=votes.num_items) > 0
    if source == "pred_probs":
        logits = np.log(np.maximum(inputs, _SMALLEST))
        return lambda probs: vector_scaling(
            logits, probs, where=has_votes, temperatures=_TEMPERATURES
        )
    regression = leave_one_out(inputs, where=None if has_votes.all() else has_votes)
    return lambda probs: vector_scaling(regression(probs), probs, where=has_votes)


def _consensus(
    votes: Votes,
    predict: Callable[[np.ndarray], np.ndarray] | None,
    source: str,
    rounds: int,
    seed: int,
) -> Consensus:
    from jaxrobust import selection
    from jaxrobust.engine.plan import pad

    fit = _fitter(votes)
    model = fit(np.ones(len(votes), bool))
    prior = None
    if predict is not None:
        for _ in range(rounds):
            prior = predict(model.probs)
            model = fit(np.ones(len(votes), bool), prior, model.probs)
    weights, is_calibrated = _calibrate(votes, fit, prior, seed)
    ids = model.probs.argmax(axis=1)
    evidence = _evidence(model.log_likelihood, model.log_prior, ids)
    right = 1 / (1 + np.exp(-evidence.astype(np.float64) @ weights))
    joint = model.log_likelihood + model.log_prior
    probs = np.asarray(selection.temper(pad(joint), pad(right.astype(np.float32))))[: len(ids)]
    quality = probs[np.arange(len(ids)), ids]
    counts = np.bincount(votes.items, minlength=votes.num_items)
    labels = votes.labels.values(ids)
    if predict is None and (counts == 0).any():
        labels = _without(labels, counts == 0)
    by_class = np.bincount(ids[(counts > 0) | (predict is not None)], minlength=probs.shape[1])
    summary = {
        "num_items": votes.num_items,
        "num_annotators": votes.num_annotators,
        "num_votes": len(votes),
        "num_classes": votes.num_classes,
        "num_without_votes": int((counts == 0).sum()),
        "num_replaced": votes.num_replaced,
        "source": source,
        "expected_error": float(1 - quality.mean(dtype=np.float64)),
        "is_calibrated": is_calibrated,
        "labels_by_class": dict(zip(votes.labels.names, by_class.tolist(), strict=True)),
    }
    return Consensus(
        labels=labels,
        probs=probs,
        quality=quality,
        ranked=np.argsort(quality, kind="stable"),
        items=votes.item_ids,
        num_votes=counts,
        classes=votes.labels.classes,
        class_names=votes.labels.names,
        annotators=find_annotators(votes, probs),
        summary=summary,
        _votes=votes,
    )


def _fitter(votes: Votes) -> Callable:
    """`selection.fit_annotators` as a function of `where`, `log_prior` and `init_probs`.

    Items, annotators, votes and cells are padded, so that similar sizes share a compiled program.
    """
    from jaxrobust import selection
    from jaxrobust.engine.plan import pad, padded_size
    from jaxrobust.selection.annotators import AnnotatorModel, Cells

    num_pairs = votes.num_annotators * votes.num_classes
    cells = None
    if num_pairs > len(votes):  # most annotators have no vote for most classes
        pairs = votes.annotators.astype(np.int64) * votes.num_classes + votes.votes
        present, of_vote = np.unique(pairs, return_inverse=True)
        parts = (of_vote, present // votes.num_classes, present % votes.num_classes)
        cells = Cells(*(pad(part.astype(np.int32)) for part in parts))
    arrays = padded_votes(votes)
    sizes = votes.num_items, votes.num_classes

    def fit(where, log_prior=None, init_probs=None):
        if init_probs is None:  # not left to the function, which would be compiled once more
            flat = votes.items[where].astype(np.int64) * votes.num_classes + votes.votes[where]
            shares = np.bincount(flat, minlength=np.prod(sizes)).reshape(sizes).astype(np.float32)
            total = shares.sum(axis=1, keepdims=True)
            init_probs = np.where(total > 0, shares / np.maximum(total, 1), 1 / sizes[1])
        found = selection.fit_annotators(
            *arrays,
            num_items=padded_size(votes.num_items),
            num_annotators=padded_size(votes.num_annotators),
            num_classes=votes.num_classes,
            cells=cells,
            where=pad(where),
            log_prior=None if log_prior is None else pad(log_prior, -np.log(sizes[1])),
            init_probs=pad(init_probs.astype(np.float32)),
        )
        rows = (*[slice(votes.num_items)] * 3, slice(votes.num_annotators), ...)
        kept = (np.asarray(x)[r] for x, r in zip(found, rows, strict=True))
        return AnnotatorModel(*cast(Any, kept))

    return fit


def _calibrate(
    votes: Votes, fit: Callable, prior: np.ndarray | None, seed: int
) -> tuple[np.ndarray, bool]:
    """Weights `[4]` of the evidence, from held-out votes, and whether there were any."""
    from jaxrobust import selection
    from jaxrobust.engine.plan import pad

    counts = np.bincount(votes.items, minlength=votes.num_items)
    # Which of an item's votes is left out is drawn; of up to five, one at a time.
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(votes)), votes.items))
    place = np.empty(len(votes), np.int64)
    place[order] = np.arange(len(votes)) - (np.cumsum(counts) - counts)[votes.items]
    fold = (place + rng.integers(0, _NUM_FOLDS, votes.num_items)[votes.items]) % _NUM_FOLDS
    is_told = counts[votes.items] > 1 if prior is None else np.ones(len(votes), bool)
    if not is_told.any():
        return np.array([0.0, 1.0, 0.0, 0.0]), False
    evidence = np.zeros((len(votes), 4), np.float32)
    agrees = np.zeros(len(votes), bool)
    accuracies = np.full(len(votes), 0.5, np.float32)
    folds = range(1 if len(votes) >= _MANY_VOTES else _NUM_FOLDS)
    for k in folds:
        is_out = fold == k
        model = fit(~is_out, prior)
        ids = model.probs.argmax(axis=1)
        found = _evidence(model.log_likelihood, model.log_prior, ids)
        evidence[is_out] = found[votes.items[is_out]]
        agrees[is_out] = votes.votes[is_out] == ids[votes.items[is_out]]
        accuracies[is_out] = model.accuracies[votes.annotators[is_out]]
    weights = selection.fit_agreement(
        pad(evidence),
        pad(agrees),
        pad(accuracies, 0.5),
        num_classes=votes.num_classes,
        where=pad(is_told & (fold < len(folds))),
    )
    return np.asarray(weights, np.float64), True


def _evidence(log_likelihood: np.ndarray, log_prior: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """`selection.consensus_evidence`, padded so that it is compiled for few sizes."""
    from jaxrobust import selection
    from jaxrobust.engine.plan import pad

    found = selection.consensus_evidence(pad(log_likelihood), pad(log_prior), pad(ids))
    return np.asarray(found)[: len(ids)]


def _without(labels: np.ndarray, is_unknown: np.ndarray) -> np.ndarray:
    """Labels with the marker for no label."""
    if labels.dtype.kind == "b":
        labels = labels.astype(object)
    none = {"U": "", "O": None}.get(labels.dtype.kind, NO_VOTE)
    if labels.dtype.kind == "u":
        labels = labels.astype(np.int64)
    return np.where(is_unknown, np.array(none, labels.dtype), labels)


def _pandas(what: str) -> Any:
    try:
        import pandas
    except ImportError:
        raise UserError(f"{what} needs pandas: pip install pandas.") from None
    return pandas
