"""`jaxrobust.find_label_issues`: which labels are probably wrong, from arrays."""

import dataclasses
import functools
import os
import pathlib
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxrobust.data.inputs import (
    Labels,
    aligned,
    as_labels,
    as_probabilities,
    check_lengths,
    columns_as_classes,
    index_of,
    refuse_labels_among,
)
from jaxrobust.data.scaling import scaling_of
from jaxrobust.errors import UserError

QUALITY_FILE = "label_quality.csv"
_NUM_CONFUSED = 5  # pairs of classes in the summary


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LabelIssues:
    """Findings about N labels of C classes; arrays are in the order of the labels.

    Attributes:
      given: `[N]`, the given labels.
      is_issue: bool `[N]`, whether the label is probably wrong.
      clean_prob: float32 `[N]`, probability that the label is right.
      suggested: `[N]` in the type of the labels, the most probable class.
      pred_probs: float32 `[N, C]`, predicted probabilities.
      ranked: int `[N]`, positions in the labels, the most suspicious first.
      classes: `[C]` in the type of the labels, the class of each column of `pred_probs`.
      class_names: of the C classes.
      summary: JSON-able: `method`, `num_examples`, `num_classes`, `num_issues`, `issue_fraction`,
        `issues_by_class` (given label -> how many) and `most_confused` (given, suggested, how
        many).
      index: `[N]`, the index of the labels if they were a pandas Series, else None.
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
        """The same findings with other values `[C]` for the classes."""
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

    def save(self, path: str | os.PathLike, *, files: Sequence[str] | None = None) -> None:
        """Writes `label_quality.csv`, the most suspicious label first.

        Args:
          path: of the table.
          files: of the N images, for a column `file`; None: they are not files.

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
    ) -> None:
        """Writes `label_review.html`, on which a person reviews the labels that look wrong.

        Args:
          path: of the page.
          images: uint8 `[N, H, W, 3]`; the first 1,000 labels that look wrong are shown.
          files: of the N images, instead of `images`.
          folder: that the files are relative to.

        Raises:
          UserError: if there are neither images nor files, or not N of them.
        """
        from jaxrobust.review import suspects

        shown = images if files is None else files
        if shown is None:
            raise UserError("A review needs images= or files=, of every label.")
        if len(shown) != len(self):
            raise UserError(f"There are {len(shown)} images for {len(self)} labels.")
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


def find_label_issues(
    labels: Any,
    *,
    features: Any = None,
    pred_probs: Any = None,
    images: Any = None,
    method: str | None = None,
    seed: int = 0,
    config: Any = None,
    workdir: str | os.PathLike | None = None,
    class_names: Any = None,
    progress: bool = False,
) -> LabelIssues:
    """Finds labels that are probably wrong, from features, probabilities or images.

    With features or images a method for wrong labels is trained on them, by the task and recipe of
    the command `jaxrobust run --config=dpc:features`, and flags the labels that are probably wrong.
    Small sets have smaller batches and more epochs than the recipe.

    With `pred_probs` nothing is trained. Labels are ranked by their margin, the log probability of
    the label minus the largest other one (`selection.logit_margin`). The number of wrong labels is
    that of the confident joint (`selection.estimate_num_wrong`); as many labels of the lowest
    margins are flagged, if another class is more probable. The probability of being right is that
    of a mixture of two Gaussians which agrees with this number
    (`selection.clean_probability_given_count`). A label of probability 0 is ranked first, with 0 as
    the probability of being right.

    Args:
      labels: `[N]`, whole numbers, text or bool: NumPy, JAX, a list, a pandas Series, or a Hugging
        Face data set with a column `label`. Classes are the values that occur, in sorted order;
        whole numbers below C are class ids, whether or not every class occurs.
      features: float `[N, D]`, or `[N, V, D]` with V views of each example, such as of
        `jaxrobust.embed`.
      pred_probs: `[N, C]`, predicted out of sample, such as by scikit-learn's
        `cross_val_predict(..., method="predict_proba")`. The columns of a DataFrame may be named by
        the classes, in any order.
      images: `[N, H, W(, 3)]`, uint8 or floats in [0, 1], or PIL images of one size. If the extra
        `pretrained` is installed, photographs of 16 pixels or more are embedded first, by
        `jaxrobust.embed` with two views; else, or with a recipe in `config`, networks are trained
        from pixels, which needs an accelerator.
      method: for wrong labels, see `jaxrobust list methods`; None for `"dpc"`. Not with
        `pred_probs`.
      seed: of the training.
      config: a recipe instead of the method's own; the name of one, such as `"dpc:image_folder"`;
        or fields to set in the method's, such as `{"num_epochs": 5, "dpc.warm_up": 2}`.
      workdir: folder for `label_quality.csv` and, if a method is trained, all files of the command,
        where the same call continues after an interruption. None to keep nothing.
      class_names: the C classes in the order of the columns: names of the class ids, or the values
        that occur in `labels`.
      progress: whether to show a bar.

    Returns:
      `LabelIssues`.

    Raises:
      UserError: if an argument is invalid, in one sentence that names the first invalid row.
    """
    if pred_probs is None:
        refuse_labels_among(features, labels)
        return learn(
            labels,
            features=features,
            images=images,
            method=method,
            seed=seed,
            config=config,
            workdir=workdir,
            class_names=class_names,
            progress=progress,
        )[0]
    if features is not None or images is not None:
        raise UserError("Give one of features=, pred_probs= or images=, not several.")
    if method is not None or config is not None:
        raise UserError(
            "With pred_probs= nothing is trained, and method= and config= are not used; leave "
            "them out, or give features= in place of the probabilities."
        )
    labels, pred_probs = aligned(labels=labels, pred_probs=pred_probs)
    index = index_of(labels)
    class_names = columns_as_classes(labels, pred_probs, class_names)
    probs = as_probabilities(pred_probs)
    known = as_labels(labels, class_names=class_names, num_columns=probs.shape[1])
    check_lengths(labels=known.ids, pred_probs=probs)
    clean_prob, is_issue, ranked = _by_margin(probs, known.ids)
    suggested = probs.argmax(axis=1)
    issues = _issues(known, "margin", clean_prob, is_issue, ranked, probs, suggested, index)
    if workdir is not None:
        issues.save(pathlib.Path(workdir) / QUALITY_FILE)
    return issues


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
    is_quick: bool = False,
) -> tuple[LabelIssues, "Trained"]:
    """`find_label_issues` by training; returns the trained networks, too.

    Arguments as in `find_label_issues`; `is_quick` as in `in_memory.programs_for`.
    """
    from jaxrobust.api import in_memory
    from jaxrobust.tasks import noisy_labels

    labels, features, images = aligned(labels=labels, features=features, images=images)
    index = index_of(labels)
    name, inputs = in_memory.check_inputs(features=features, images=images)
    known = as_labels(labels, class_names=class_names)
    check_lengths(labels=known.ids, **{name: inputs})
    name, inputs = in_memory.embed_photographs(name, inputs, config, progress=progress)
    # A class without examples cannot be learned: its probability is 0.
    present, ids = np.unique(known.ids, return_inverse=True)
    scaling = scaling_of(inputs) if name == "features" else None
    dataset = in_memory.make_dataset(
        name,
        inputs if scaling is None else scaling(inputs),
        ids.astype(np.int32),
        tuple(known.names[i] for i in present),
    )
    shapes = inputs.shape, len(present), in_memory.shapes_of(dataset)
    recipe = in_memory.noisy_label_recipe(inputs, config, method=method, seed=seed)
    with (
        in_memory.called_from_python(),
        in_memory.programs_for(recipe, *shapes, is_quick=is_quick) as programs,
    ):
        learned = noisy_labels.learn(recipe, dataset, workdir, programs=programs, bar=progress)
    probs = np.zeros((len(ids), known.num_classes), np.float32)
    probs[:, present] = learned.pred_probs
    scores = learned.label_scores
    issues = _issues(
        known,
        recipe.method,
        scores["clean_prob"].astype(np.float32),
        scores["flagged"].astype(bool),
        learned.ranked,
        probs,
        present[scores["suggested"]],
        index,
    )
    mean, std = np.asarray(dataset.mean), np.asarray(dataset.std)
    return issues, Trained(recipe, learned.networks, mean, std, scaling)


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """Values from which a classifier of a trained method is made.

    Attributes:
      recipe: of the training.
      networks: variables by name.
      mean: float `[D]`, of the data set, after scaling.
      std: its standard deviation.
      scaling: `data.scaling.Scaling` of features, or None.
    """

    recipe: Any
    networks: dict[str, Any]
    mean: np.ndarray
    std: np.ndarray
    scaling: Any


def _by_margin(probs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clean probabilities, flags and ids by suspicion, from probabilities alone."""
    import jax

    with np.errstate(divide="ignore"):
        log_probs = np.log(probs).astype(np.float32)
    # Starting an accelerator would take longer than the computation.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        scores = _margin_scores()(log_probs, probs.astype(np.float32), labels)
    margins, num_wrong, clean_prob = map(np.asarray, scores)
    ranked = np.argsort(margins, kind="stable")
    is_issue = np.zeros(len(labels), bool)
    is_issue[ranked[: round(float(num_wrong))]] = True
    return clean_prob, is_issue & (margins < 0), ranked


@functools.cache
def _margin_scores() -> Callable:
    """Margins, number of wrong labels and clean probabilities as one compiled function."""
    import jax

    from jaxrobust import selection

    def scores(log_probs, probs, labels):
        margins = selection.logit_margin(log_probs, labels)
        num_wrong = selection.estimate_num_wrong(probs, labels)
        return margins, num_wrong, selection.clean_probability_given_count(margins, num_wrong)

    return jax.jit(scores)


def _issues(
    known: Labels,
    method: str,
    clean_prob: np.ndarray,
    is_issue: np.ndarray,
    ranked: np.ndarray,
    probs: np.ndarray,
    suggested: np.ndarray,
    index: Any,
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
