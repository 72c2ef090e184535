"""`jaxrobust.audit`: the number of wrong labels left, from the answers of a review."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrobust.data.tables import Texts, read_rows, unescape_formula
from jaxrobust.errors import UserError, shown

_TRUE = ("1", "true", "yes", "1.0")


@dataclasses.dataclass(frozen=True)
class Audit:
    """The result of a review of N labels.

    Attributes:
      num_labels: N, the number of labels.
      num_reviewed: number of reviewed labels.
      num_random: number of reviewed labels that were drawn at random.
      num_found: number of reviewed labels that were wrong.
      expected_left: estimated number of wrong labels among the unreviewed ones.
      most_left: upper bound on the number of wrong labels among the unreviewed ones; it holds with
        probability `confidence` at any time of the review.
      confidence: confidence level of the bound.
      target: share of the N labels that may be wrong.
      answers_needed: approximate number of further answers until the bound is at most `target`; 0
        if it already is, None if more than 20,000.

    Examples:
      >>> probs = [[0.9, 0.1], [0.2, 0.8], [0.9, 0.1], [0.7, 0.3]]
      >>> found = find_label_issues([0, 1, 1, 0], probs).estimate({2: True, 1: False}, drawn=[1])
      >>> found.num_found, found.num_left
      (1, 2)
    """

    num_labels: int
    num_reviewed: int
    num_random: int
    num_found: int
    expected_left: float
    most_left: int
    confidence: float
    target: float
    answers_needed: int | None

    @property
    def num_left(self) -> int:
        """Number of unreviewed labels."""
        return self.num_labels - self.num_reviewed

    @property
    def most_wrong(self) -> float:
        """`most_left` as a share of all labels, once the wrong labels found are corrected."""
        return self.most_left / max(self.num_labels, 1)

    def __str__(self) -> str:
        text = (
            f"{self.num_found:,} of {self.num_reviewed:,} labels looked at were wrong. Of the "
            f"other {self.num_left:,}, about {self.expected_left:,.0f} are wrong, and at most "
            f"{self.most_left:,} ({100 * self.most_wrong:.1f} % of all) with "
            f"{100 * self.confidence:g} % confidence"
        )
        if not self.num_random and self.num_left:
            return text + "; only labels that are drawn at random can lower this bound."
        more, goal = self.answers_needed, f"at most {100 * self.target:g} % wrong"
        if more == 0:
            return f"{text}: {goal}."
        return (
            f"{text}. About {'20,000 or more' if more is None else f'{more:,}'} answers more "
            + (f"until it says {goal}.")
        )


def audit(
    findings: Any,
    answers: Any,
    *,
    target: float = 0.02,
    confidence: float = 0.95,
    seed: int = 0,
) -> Audit:
    """The number of wrong labels left among the unreviewed ones, and the effort until few are left.

    The bound is `selection.wrong_labels_left`. It holds for any choice of reviewed labels and any
    stopping time, but only labels drawn at random lower it: `selection.next_to_review` chooses the
    next label and says whether it is drawn at random. The bound is conservative: showing that at
    most 2 % are wrong takes hundreds of answers; with thousands of labels, that is fewer than with
    random labels alone. If the reviewer makes mistakes, it bounds the number of labels that *this
    reviewer* would correct.

    Args:
      findings: `LabelIssues` or `Consensus`.
      answers: one row per reviewed label, in the order of the review: the path of a
        `corrections.csv`, a DataFrame, or a dictionary of columns. `id` is the position of the
        label (for a `Consensus`, `item` is the id of the item); `label` is the correct label, or
        `wrong` says whether the given one was wrong; `drawn`, 0 or 1, says whether the label was
        drawn at random (0 if the column is missing). If the `decision` is `unsure` or `exclude`,
        the label counts as wrong; rows without a decision and a label are left out.
      target: share of all labels that may still be wrong.
      confidence: of the bound.
      seed: random seed of the simulated reviews that estimate the number of answers needed.

    Returns:
      `Audit`.

    Raises:
      UserError: if a column is missing, or a row names no label or repeats one.

    Examples:
      >>> probs = [[0.9, 0.1], [0.2, 0.8], [0.9, 0.1], [0.7, 0.3]]
      >>> issues = find_label_issues(["cat", "dog", "dog", "cat"], probs)
      >>> answers = {"id": [2, 1], "label": ["cat", "dog"], "drawn": [0, 1]}
      >>> print(audit(issues, answers))
      1 of 2 labels looked at were wrong. Of the other 2, about 0 are wrong, ...
    """
    for name, value in (("target", target), ("confidence", confidence)):
        if not 0 < value < 1:
            raise UserError(f"{name}={shown(value)} must lie between 0 and 1.")
    from jaxrobust.selection import remaining

    given, names, clean_prob, places = _of(findings)
    ids, is_wrong, is_random = _answers(answers, given, names, places)
    bounds = remaining.wrong_labels_left(
        is_wrong, is_random, num_labels=len(given), confidence=confidence
    )
    wrong_prob = 1 - clean_prob.astype(np.float64)
    drawn = ids[is_random]
    # The random ones tell by what factor the probabilities are off.
    factor = (is_wrong[is_random].sum() + 1) / (wrong_prob[drawn].sum() + 1)
    wrong_prob = np.clip(wrong_prob * factor, 0, 1)
    is_left = np.ones(len(given), bool)
    is_left[ids] = False
    return Audit(
        num_labels=len(given),
        num_reviewed=len(ids),
        num_random=len(drawn),
        num_found=int(is_wrong.sum()),
        expected_left=float(wrong_prob[is_left].sum()),
        most_left=int(bounds[-1]),
        confidence=confidence,
        target=target,
        answers_needed=remaining.answers_needed(
            np.asarray(findings.ranked),
            wrong_prob,
            ids,
            is_wrong,
            is_random,
            target=target,
            confidence=confidence,
            seed=seed,
        ),
    )


def _of(findings: Any) -> tuple[np.ndarray, tuple[str, ...], np.ndarray, dict[str, int] | None]:
    """Label names, class names, probabilities of being correct, and items by id."""
    from jaxrobust.api.consensus import Consensus
    from jaxrobust.api.label_issues import LabelIssues

    if isinstance(findings, Consensus):
        places = {str(item): i for i, item in enumerate(findings.items.tolist())}
        return _names(findings.labels, findings), findings.class_names, findings.quality, places
    if isinstance(findings, LabelIssues):
        return _names(findings.given, findings), findings.class_names, findings.clean_prob, None
    raise UserError(
        f"audit needs LabelIssues or a Consensus, not {type(findings).__name__}; give the result "
        "of find_label_issues or consensus."
    )


def _names(labels: np.ndarray, findings: Any) -> np.ndarray:
    names = dict(zip(findings.classes.tolist(), findings.class_names, strict=True))
    return np.array([names.get(label, "") for label in labels.tolist()])


def _answers(
    answers: Any,
    given: np.ndarray,
    class_names: tuple[str, ...],
    places: dict[str, int] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, whether each label was wrong, and whether it was drawn at random."""
    rows = _rows(answers)
    classes = Texts(class_names)
    ids, is_wrong, is_random = [], [], []
    for number, row in enumerate(rows):
        label, decision = row.get("label", ""), row.get("decision", "").lower()
        if "wrong" not in row and not label and decision not in ("unsure", "exclude"):
            continue
        i = _place(row, number, len(given), places)
        if "wrong" in row:
            wrong = row["wrong"].lower() in _TRUE
        else:
            found = classes.find(label) if label else ""
            if found is None:
                raise UserError(
                    f"answers: row {number} has the label {label!r}; {classes.hint(label)}."
                )
            wrong = found != given[i]
        ids.append(i)
        is_wrong.append(wrong)
        is_random.append(row.get("drawn", "").lower() in _TRUE)
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise UserError(f"answers has the id {twice} twice; keep one of the rows.")
    return np.array(ids, np.int64), np.array(is_wrong, bool), np.array(is_random, bool)


def _rows(answers: Any) -> list[Mapping[str, str]]:
    """Rows of cells as text."""
    if isinstance(answers, (str, os.PathLike)):
        rows = [row.cells for row in read_rows(pathlib.Path(answers), ("id", "label"))]
        return [{k: unescape_formula(v) for k, v in row.items()} for row in rows]
    columns = {str(name).lower(): np.asarray(answers[name]).tolist() for name in answers}
    if not ({"id", "item"} & set(columns)) or not ({"label", "wrong"} & set(columns)):
        raise UserError(
            f"answers has the columns {', '.join(columns) or '(none)'}; it needs id, and label or "
            "wrong."
        )
    if len({len(column) for column in columns.values()}) > 1:
        raise UserError("answers has columns of several lengths; give one entry for each label.")
    return [
        {name: _text(value) for name, value in zip(columns, row, strict=True)}
        for row in zip(*columns.values(), strict=True)
    ]


def _text(value: Any) -> str:
    return "" if value is None or value != value else str(value)


def _place(row: Mapping[str, str], number: int, count: int, places: dict[str, int] | None) -> int:
    if places is not None and row.get("item"):
        if (i := places.get(row["item"])) is None:
            raise UserError(f"answers: row {number} names the item {row['item']!r}; there is none.")
        return i
    text = row.get("id", "")
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    i = int(value) if value.is_integer() else -1
    if not 0 <= i < count:
        raise UserError(
            f"answers: row {number} has the id {text!r}; it must be a position, 0 to {count - 1}."
        )
    return i
