"""`jaxrobust.find_label_issues`: finds labels that are probably wrong, from arrays."""

import dataclasses
import os
import pathlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrobust.data.doubts import doubt_issues, doubt_probabilities
from jaxrobust.data.inputs import (
    Labels,
    aligned,
    as_labels,
    as_probabilities,
    check_lengths,
    columns_as_classes,
    index_of,
    merge_equal,
    refuse_labels_among,
)
from jaxrobust.data.scaling import scaling_of
from jaxrobust.errors import UserError, check_count, for_python, shown, unknown_name

if TYPE_CHECKING:
    from jaxrobust.api.audit import Audit
    from jaxrobust.methods.classifiers import Classifier
    from jaxrobust.recipes.methods import JudgeName, NoisyLabelMethodName

QUALITY_FILE = "label_quality.csv"
_NUM_CONFUSED = 5  # pairs of classes in the summary


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LabelIssues:
    """Findings about N labels of C classes; arrays are in the order of the labels.

    Attributes:
      given: `[N]`, the given labels.
      is_issue: bool `[N]`, whether the label is probably wrong.
      clean_prob: float32 `[N]`, probability that the label is correct.
      suggested: `[N]` in the type of the labels, the most probable class.
      pred_probs: float32 `[N, C]`, predicted probabilities.
      ranked: int `[N]`, positions in the labels, the most suspicious first.
      classes: `[C]` in the type of the labels, the class of each column of `pred_probs`.
      class_names: names of the C classes.
      summary: JSON-able: `method`, `num_examples`, `num_classes`, `num_issues`, `issue_fraction`,
        `issues_by_class` (given label -> count), `most_confused` (given, suggested, count) and, for
        probabilities and `"auto"`, `expected_wrong`, `expected_wrong_interval`, `mistakes`,
        `agreement` and `judges`: see `methods.judged_labels.facts_of`. For a method that divides
        the labels, also `undivided_passes` after its warm-up, if there were any.
      index: `[N]`, the index of the labels if they were a pandas Series, else None.

    Examples:
      >>> probs = [[0.9, 0.1], [0.2, 0.8], [0.9, 0.1], [0.7, 0.3]]
      >>> issues = find_label_issues(["cat", "dog", "dog", "cat"], probs)
      >>> issues
      LabelIssues(1 of 4 labels look wrong, 2 classes, method margin)
      >>> issues.suggested[issues.is_issue].tolist()
      ['cat']
    """

    given: np.ndarray
    is_issue: np.ndarray
    clean_prob: np.ndarray
    suggested: np.ndarray
    pred_probs: np.ndarray
    ranked: np.ndarray
    classes: np.ndarray
    class_names: tuple[str, ...]
    summary: dict[str, Any]
    index: Any = None

    def __len__(self) -> int:
        return len(self.given)

    def __repr__(self) -> str:
        return (
            f"LabelIssues({self.summary['num_issues']:,} of {len(self):,} labels look wrong, "
            f"{len(self.classes)} classes, method {self.summary['method']})"
        )

    def with_classes(self, classes: np.ndarray) -> "LabelIssues":
        """The same findings with new values `[C]` for the classes."""
        positions = (_positions(self.classes, x) for x in (self.given, self.suggested))
        given, suggested = (classes[i] for i in positions)
        names = tuple(map(str, classes.tolist()))
        new = dict(zip(self.class_names, names, strict=True))
        by_class = {new[name]: n for name, n in self.summary["issues_by_class"].items()}
        confused = [(new[a], new[b], n) for a, b, n in self.summary["most_confused"]]
        summary = {**self.summary, "issues_by_class": by_class, "most_confused": confused}
        return dataclasses.replace(
            self,
            given=given,
            suggested=suggested,
            classes=classes,
            class_names=names,
            summary=summary,
        )

    def to_frame(self):
        """A pandas DataFrame in the order of the labels, with their index.

        Raises:
          UserError: if pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError("to_frame needs pandas: pip install pandas.") from None
        rank = np.empty(len(self), np.int64)
        rank[self.ranked] = np.arange(len(self))
        columns = {
            "given_label": self.given,
            "suggested_label": self.suggested,
            "clean_prob": self.clean_prob,
            "is_issue": self.is_issue,
            "rank": rank,
        }
        return pandas.DataFrame(columns, index=self.index)

    def top(self, n: int = 10):
        """The n most suspicious labels as a pandas DataFrame, the most suspicious first.

        Its first column is `id`, the position of each label; the others are those of `to_frame`
        without `rank`.

        Raises:
          UserError: if `n` is not an integer of at least 1, or pandas is not installed.

        Examples:
          >>> probs = [[0.9, 0.1], [0.2, 0.8], [0.9, 0.1], [0.7, 0.3]]
          >>> find_label_issues([0, 1, 1, 0], probs).top(2)["id"].tolist()
          [2, 3]
        """
        check_count("n", n, " of labels")
        ids = self.ranked[:n]
        frame = self.to_frame().iloc[ids]
        frame.insert(0, "id", ids)
        return frame.drop(columns="rank")

    def estimate(
        self,
        answers: Mapping[int, bool],
        *,
        drawn: Iterable[int] = (),
        target: float = 0.02,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> "Audit":
        """Estimates how many labels are still wrong, from a person's answers about some of them.

        Args:
          answers: position of a label (as in `id` of `top`, or in `ranked`) -> whether it was
            wrong, in the order of the review.
          drawn: the positions that were drawn at random, as `selection.next_to_review` says; only
            they lower the bound.
          target: as in `audit`; so are `confidence` and `seed`.

        Returns:
          `Audit`.

        Raises:
          UserError: as `audit`, and for an entry of `drawn` that has no answer.

        Examples:
          >>> probs = [[0.9, 0.1], [0.2, 0.8], [0.9, 0.1], [0.7, 0.3]]
          >>> issues = find_label_issues([0, 1, 1, 0], probs)
          >>> issues.estimate({2: True, 1: False}, drawn=[1]).most_left
          2
        """
        from jaxrobust.api.audit import audit

        drawn = set(drawn)
        if missing := drawn - set(answers):
            raise UserError(f"drawn holds {shown(min(missing))}, which answers does not contain.")
        columns = {
            "id": list(answers),
            "wrong": list(answers.values()),
            "drawn": [i in drawn for i in answers],
        }
        return audit(self, columns, target=target, confidence=confidence, seed=seed)

    def save(self, path: str | os.PathLike, *, files: Sequence[str] | None = None) -> None:
        """Writes `label_quality.csv`, the most suspicious label first.

        Args:
          path: path of the table.
          files: paths of the N images, for a column `file`; None if they are not files.

        Raises:
          UserError: if there are not N files.
        """
        from jaxrobust.data.tables import escape_formula
        from jaxrobust.engine.files import format_number, write_table

        names = [escape_formula(name) for name in self.class_names]
        given, suggested = (_positions(self.classes, x) for x in (self.given, self.suggested))
        if files is not None and len(files) != len(self):
            raise UserError(f"There are {len(files)} files for {len(self)} labels.")
        of_files = [] if files is None else ["file"]
        rows: list[list] = [
            ["id", *of_files, "given_label", "suggested_label", "clean_prob", "flagged"]
        ]
        for i, flag in zip(self.ranked.tolist(), self.is_issue[self.ranked], strict=True):
            file = [] if files is None else [escape_formula(str(files[i]))]
            clean_prob = format_number(self.clean_prob[i])
            rows.append([i, *file, names[given[i]], names[suggested[i]], clean_prob, int(flag)])
        write_table(pathlib.Path(path), rows)

    def save_review(
        self,
        path: str | os.PathLike,
        *,
        images: np.ndarray | None = None,
        files: Sequence[str] | None = None,
        folder: str | os.PathLike = ".",
        texts: Sequence[str] | None = None,
    ) -> None:
        """Writes `label_review.html`, on which a person reviews the labels that look wrong.

        Args:
          path: path of the page.
          images: uint8 `[N, H, W, 3]`; the first 1,000 labels that look wrong are shown.
          files: paths of the N images, instead of `images`.
          folder: folder that the paths are relative to.
          texts: texts of the N examples, instead of images: documents, or rows of a table in words.

        Raises:
          UserError: if there are neither images, files nor texts, or not N of them.
        """
        from jaxrobust.review import review_page, suspects

        review_page.check_shown(len(self), "label", images=images, files=files, texts=texts)
        given, suggested = (_positions(self.classes, x) for x in (self.given, self.suggested))
        flagged = self.is_issue[self.ranked]
        judged = suspects.Judged(
            given=given,
            suggested=suggested,
            clean_prob=self.clean_prob,
            ranked=np.concatenate([self.ranked[flagged], self.ranked[~flagged]]),
            class_names=self.class_names,
            probs=self.pred_probs,
        )
        folder = pathlib.Path(folder).expanduser()
        labels = shlex.quote(str(folder))
        suspects.write_review(
            pathlib.Path(path),
            judged,
            int(flagged.sum()),
            files=None if files is None else [str(file) for file in files],
            root=None if files is None else folder,
            pictures=None if images is None else lambda ids: images[ids],
            texts=texts,
            after_saving=[]
            if files is None
            else [
                (
                    "A clean table of all labels, of a folder of class folders:",
                    f"jaxrobust apply-corrections {labels} corrections.csv",
                )
            ],
        )


def _positions(classes: np.ndarray, values: np.ndarray) -> np.ndarray:
    order = np.argsort(classes)
    return order[np.searchsorted(classes, values, sorter=order)]


@for_python()
def find_label_issues(
    labels: Any,
    pred_probs: Any = None,
    *,
    features: Any = None,
    images: Any = None,
    method: "NoisyLabelMethodName | JudgeName | None" = None,
    seed: int = 0,
    config: Any = None,
    workdir: str | os.PathLike | None = None,
    class_names: Any = None,
    progress: bool = False,
) -> LabelIssues:
    """Finds labels that are probably wrong, from features, probabilities or images.

    With features or photographs, every label is judged by four models that did not see it: ridge
    regression, logistic regression, nearest neighbours and kernel ridge regression. They are
    weighted by how well they predict the given labels (`methods.judged_labels.judge_labels`). With
    `method=` or `config=`, a noisy-label method is trained instead, by the task and recipe of the
    command `jaxrobust run --config=dpc:features`; small data sets use smaller batches than the
    recipe.

    With `pred_probs`, nothing is trained. Labels are ranked by their margin, the log probability of
    the label minus the largest other log probability (`selection.logit_margin`). A probability of 0
    counts as half of the smallest positive one.

    In both cases, a model of mistakes estimates the probability that each label is wrong
    (`selection.wrong_labels.find_wrong_labels`); `clean_prob` is its complement. The probabilities
    of being wrong sum to `summary["expected_wrong"]`, with the interval
    `summary["expected_wrong_interval"]`. Labels with `clean_prob` below one half are flagged.

    Args:
      labels: `[N]`, integers, text or bool: a NumPy or JAX array, a list, a pandas Series, or a
        Hugging Face data set with a column `label`. Classes are the values that occur, in sorted
        order; integers below C are class ids, whether or not every class occurs. Or soft labels: a
        `Consensus`, or floats `[N, C]` whose rows sum to 1. The most probable class is judged; a
        trained method learns from the probabilities (`"knn"` cannot), leaving out classes that are
        never the most probable.
      pred_probs: `[N, C]`, out-of-sample predicted probabilities, for example from scikit-learn's
        `cross_val_predict(..., method="predict_proba")`, instead of features or images. Columns are
        in the order of the classes; columns of a DataFrame may carry the class names, in any order.
      features: float `[N, D]`, or `[N, V, D]` with V views of each example, for example from
        `jaxrobust.embed`.
      images: `[N, H, W(, 3)]`, uint8 or floats in [0, 1], or PIL images of one size. If the extra
        `pretrained` is installed, photographs of 16 pixels or more are embedded first, by
        `jaxrobust.embed` with two views; otherwise, or with a recipe in `config`, networks are
        trained on pixels, which needs an accelerator.
      method: noisy-label method, see `jaxrobust list methods`; `"auto"` for the judges. For
        `"simifeat"`, `"simifeat_rank"` and `"wann"` (`selection.neighbor_detectors`), `clean_prob`
        is a share of votes. None means `"auto"` for features or embedded photographs without
        `config`, and `"dpc"` otherwise. Not with `pred_probs`.
      seed: random seed of the training, or of the folds of the judges.
      config: a recipe instead of the method's own; the name of one, such as `"dpc:image_folder"`;
        or fields to set in the method's recipe, such as `{"num_epochs": 5, "dpc.warm_up": 2}`.
      workdir: folder for `label_quality.csv` and, if a method is trained, for all files of the run,
        from which the same call continues after an interruption. None to keep nothing.
      class_names: the C classes in the order of the columns: names of the class ids, or the values
        that occur in `labels`.
      progress: whether to show a progress bar.

    Returns:
      `LabelIssues`.

    Raises:
      UserError: if an argument is invalid, in one sentence that names the first invalid row.

    Examples:
      >>> probs = [[0.9, 0.1], [0.2, 0.8], [0.9, 0.1], [0.7, 0.3]]
      >>> issues = find_label_issues([0, 1, 1, 0], probs)
      >>> issues.is_issue.tolist()
      [False, False, True, False]
      >>> issues.ranked.tolist()
      [2, 3, 1, 0]
    """
    if pred_probs is None:
        refuse_labels_among(features, labels)
        from jaxrobust.recipes.methods import JUDGES, NOISY_LABEL_METHODS

        judge = "auto" if method is None else method
        names = [*JUDGES, *NOISY_LABEL_METHODS]
        if judge not in names:
            raise UserError(unknown_name("method", judge, names))
        given: dict[str, Any] = {"features": features, "images": images, "seed": seed}
        given |= {"class_names": class_names, "progress": progress}
        if judge in JUDGES and config is None:
            found = _judged(judge, labels, **given)
            if found is not None:
                return _kept(found, workdir)
        if method in JUDGES:
            raise UserError(
                f"method={method!r} trains no network, so config= is not used; leave it out, or "
                "name the method that it is for, such as method='dpc'."
                if config is not None
                else (
                    f"method={method!r} judges features, and these images are not embedded: "
                    "install jaxrobust[pretrained], give features= from your own network, or "
                    "name a method that learns from pixels, such as method='dpc'."
                )
            )
        found, _ = learn(labels, method=method, config=config, workdir=workdir, **given)
        doubt_issues(found.is_issue)
        return found
    if features is not None or images is not None:
        raise UserError("Give one of features=, pred_probs= or images=, not several.")
    if method is not None or config is not None:
        raise UserError(
            "With pred_probs= nothing is trained, and method= and config= are not used; leave "
            "them out, or give features= instead of the probabilities."
        )
    return _of_probabilities(labels, pred_probs, class_names, workdir)


def _of_probabilities(
    labels: Any, pred_probs: Any, class_names: Any, workdir: str | os.PathLike | None
) -> LabelIssues:
    from jaxrobust.methods.judged_labels import facts_of
    from jaxrobust.selection.wrong_labels import find_wrong_labels

    labels, pred_probs = aligned(labels=labels, pred_probs=pred_probs)
    index = index_of(labels)
    class_names = columns_as_classes(labels, pred_probs, class_names)
    probs = as_probabilities(pred_probs)
    known = as_labels(labels, class_names=class_names, num_columns=probs.shape[1])
    check_lengths(labels=known.ids, pred_probs=probs)
    with _on_cpu():
        wrong = find_wrong_labels(_log_probabilities(probs)[None], known.ids, order="margin")
    facts = facts_of(wrong, len(known.ids))
    found = _of_wrong(known, "margin", wrong, probs, probs.argmax(axis=1), index, facts)
    is_doubted = doubt_probabilities(known.ids, probs, known.classes)
    return _kept(found, workdir, is_doubted=is_doubted)


def _kept(
    found: LabelIssues, workdir: str | os.PathLike | None, *, is_doubted: bool = False
) -> LabelIssues:
    if workdir is not None:
        found.save(pathlib.Path(workdir) / QUALITY_FILE)
    if not is_doubted:
        doubt_issues(found.is_issue)
    return found


def learn(
    labels: Any,
    *,
    features: Any,
    images: Any,
    method: str | None,
    seed: int,
    config: Any,
    workdir: str | os.PathLike | None,
    class_names: Any,
    progress: bool,
    weights: np.ndarray | None = None,
    is_quick: bool = False,
) -> tuple[LabelIssues, "Classifier"]:
    """`find_label_issues` by training; also returns the classifier.

    Arguments as in `find_label_issues`; `is_quick` as in `in_memory.programs_for`. With `weights`,
    floats `[N]` above 0, equal examples with the same label are merged and their weights added, so
    that a weight of 2 is equivalent to having the example twice.
    """
    from jaxrobust.api import in_memory
    from jaxrobust.tasks import noisy_labels

    labels, features, images = aligned(labels=labels, features=features, images=images)
    index = index_of(labels)
    name, inputs = in_memory.check_inputs(features=features, images=images, pred_probs=None)
    known = as_labels(labels, class_names=class_names)
    check_lengths(labels=known.ids, **{name: inputs})
    name, inputs = in_memory.embed_photographs(name, inputs, config, progress=progress)
    # A class without examples cannot be learned: its probability is 0.
    present, learned_from = known.of_present()
    merged: Any = slice(None)
    if weights is not None:
        kept, merged, weights = merge_equal(inputs, learned_from, weights)
        inputs, learned_from = inputs[kept], learned_from.take(kept)
    scaling = scaling_of(inputs) if name == "features" else None
    dataset = in_memory.make_dataset(
        name,
        inputs if scaling is None else scaling(inputs),
        learned_from.ids,
        learned_from.names,
        learned_from.probs,
    )
    recipe = in_memory.noisy_label_recipe(inputs, config, method=method, seed=seed)
    recipe = noisy_labels.with_batches_of_at_most(recipe, len(dataset.train))
    rows = noisy_labels.rows_of(recipe, dataset, pads=workdir is None)
    kind = weights is None, known.probs is None, recipe.batch_size
    shapes = rows, inputs.shape[1:], len(present), in_memory.shapes_of(dataset), kind
    with in_memory.programs_for(recipe, *shapes, is_quick=is_quick) as programs:
        learned = noisy_labels.learn(
            recipe,
            dataset,
            workdir,
            weights=weights,
            scaling=scaling,
            programs=programs,
            bar=progress,
        )
    probs = np.zeros((len(known.ids), known.num_classes), np.float32)
    probs[:, present] = learned.pred_probs[merged]
    scores = {name: column[merged] for name, column in learned.label_scores.items()}
    issues = _issues(
        known,
        recipe.method,
        scores["clean_prob"].astype(np.float32),
        scores["flagged"].astype(bool),
        np.argsort(np.argsort(learned.ranked)[merged], kind="stable"),
        probs,
        present[scores["suggested"]],
        index,
        {"undivided_passes": learned.undivided_passes} if learned.undivided_passes else {},
    )
    return issues, learned.classifier


def _log_probabilities(probs: np.ndarray) -> np.ndarray:
    """Logarithms `[N, C]`; 0 counts as half of the smallest positive probability, at least 1e-6."""
    smallest = probs[probs > 0].min()
    floor = np.clip(smallest / 2, 1e-6, 0.05) if (probs == 0).any() else 0.0
    return np.log(np.maximum(probs.astype(np.float64), np.maximum(floor, 1e-300)))


def _judged(
    judge: str,
    labels: Any,
    *,
    features: Any,
    images: Any,
    seed: int,
    class_names: Any,
    progress: bool,
) -> LabelIssues | None:
    """The result of one of `JUDGES`; None for images that are not embedded."""
    from jaxrobust.api import in_memory
    from jaxrobust.methods.judged_labels import judged_by

    labels, features, images = aligned(labels=labels, features=features, images=images)
    index = index_of(labels)
    name, inputs = in_memory.check_inputs(features=features, images=images, pred_probs=None)
    known = as_labels(labels, class_names=class_names)
    check_lengths(labels=known.ids, **{name: inputs})
    name, inputs = in_memory.embed_photographs(name, inputs, None, progress=progress)
    if name != "features":
        return None
    means = inputs.mean(axis=1, dtype=np.float64 if inputs.itemsize == 8 else np.float32)
    # A class without examples cannot be learned: its probability is 0.
    present, judged = known.of_present()
    probs = np.zeros((len(known.ids), known.num_classes), np.float32)
    with _on_cpu():
        wrong, facts = judged_by(judge, means, judged.ids, len(present), seed=seed)
    probs[:, present] = wrong.probs
    others = wrong.probs.copy()
    others[np.flatnonzero(wrong.flagged), judged.ids[wrong.flagged]] = -1
    suggested = present[others.argmax(axis=1)]
    return _of_wrong(known, judge, wrong, probs, suggested, index, facts)


def _of_wrong(known, method, wrong, probs, suggested, index, facts) -> LabelIssues:
    clean_prob = (1 - wrong.wrong_prob).astype(np.float32)
    is_issue = wrong.flagged & (suggested != known.ids)
    return _issues(
        known, method, clean_prob, is_issue, wrong.ranked, probs, suggested, index, facts
    )


def _on_cpu() -> Any:
    """Starting an accelerator would take longer than the computation."""
    import jax

    return jax.default_device(jax.local_devices(backend="cpu")[0])


def _issues(
    known: Labels,
    method: str,
    clean_prob: np.ndarray,
    is_issue: np.ndarray,
    ranked: np.ndarray,
    probs: np.ndarray,
    suggested: np.ndarray,
    index: Any,
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> LabelIssues:
    pairs = np.stack([known.ids[is_issue], suggested[is_issue]], axis=1)
    pairs, counts = np.unique(pairs, axis=0, return_counts=True)
    confused = [
        (known.names[pairs[i, 0]], known.names[pairs[i, 1]], int(counts[i]))
        for i in np.argsort(-counts, kind="stable")[:_NUM_CONFUSED]
    ]
    by_class = np.bincount(known.ids[is_issue], minlength=known.num_classes)
    summary = {
        "method": method,
        "num_examples": len(known.ids),
        "num_classes": known.num_classes,
        "num_issues": int(is_issue.sum()),
        "issue_fraction": float(is_issue.mean()),
        "issues_by_class": dict(zip(known.names, by_class.tolist(), strict=True)),
        "most_confused": confused,
        **{name: value for name, value in facts.items() if name != "num_labels"},
    }
    return LabelIssues(
        given=known.values(known.ids),
        is_issue=is_issue,
        clean_prob=clean_prob,
        suggested=known.values(suggested),
        pred_probs=probs.astype(np.float32),
        ranked=ranked,
        classes=known.classes,
        class_names=known.names,
        summary=summary,
        index=index,
    )
