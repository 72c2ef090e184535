"""Votes of several annotators, from tables and long forms of any type, as integer arrays."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrobust.data.inputs import Labels, as_labels, columns_as_classes, to_array
from jaxrobust.data.tables import read_cells, unescape_formula
from jaxrobust.errors import DataError, UserError

NO_VOTE = -1
COLUMNS = {
    "items": ("items", "item", "task", "id", "file"),
    "annotators": ("annotators", "annotator", "worker"),
    "votes": ("votes", "vote", "label", "labels"),
}
"""Names of the columns of a long form."""


@dataclasses.dataclass(frozen=True, eq=False)
class Votes:
    """V votes of A annotators on N items, sorted by item; each at most once on an item."""

    items: np.ndarray  # int32 `[V]`
    annotators: np.ndarray  # int32 `[V]`
    votes: np.ndarray  # int32 `[V]`, class ids
    item_ids: np.ndarray  # `[N]`, as they were given, else positions
    annotator_ids: np.ndarray  # `[A]`, as they were given, else positions
    labels: Labels  # of the votes; `classes` and `names` are used
    num_replaced: int  # votes that a later one by the same annotator on the same item has replaced

    def __len__(self) -> int:
        return len(self.votes)

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    @property
    def num_annotators(self) -> int:
        return len(self.annotator_ids)

    @property
    def num_classes(self) -> int:
        return self.labels.num_classes


def as_votes(
    votes: Any,
    *,
    items: Any = None,
    annotators: Any = None,
    class_names: Any = None,
    table: Any = None,
) -> Votes:
    """Votes as integer arrays.

    Args:
      votes: a table `[N, A]`, or long form `[V]`; whole numbers, text or bool; -1, NaN, None or ""
        where there is no vote. A DataFrame with the columns `items`, `annotators` and `votes` is a
        long form, another one a table.
      items: of a long form `[V]`, of a table `[N]` or None: ids of any type.
      annotators: of a long form `[V]`, of a table `[A]` or None.
      class_names: as in `data.inputs.as_labels`.
      table: probabilities `[N, C]`, whose columns are the classes, or None.
    """
    columns = _long_columns(votes)
    if columns is not None:
        if items is not None or annotators is not None:
            raise UserError(
                "votes has the columns of a long form; leave out items= and annotators=, or give "
                "votes as one column."
            )
        items, annotators, votes = (votes[columns[name]] for name in COLUMNS)
    has_vote, values = present(votes)
    if values.ndim == 2:
        rows, columns = np.nonzero(has_vote)
        item_ids = _names_of(items, votes, "index", values.shape[0], "items")
        annotator_ids = _names_of(annotators, votes, "columns", values.shape[1], "annotators")
        values, is_table = values[has_vote], True
    elif values.ndim == 1:
        if items is None or annotators is None:
            raise UserError(
                "votes has one dimension; give items= and annotators= of the same length, or a "
                "table [N, A] with a column for each annotator."
            )
        rows, item_ids = _codes(items, len(values), "items")
        columns, annotator_ids = _codes(annotators, len(values), "annotators")
        rows, columns, values = rows[has_vote], columns[has_vote], values[has_vote]
        is_table = False
    else:
        raise UserError(
            f"votes must be [N, A], or [V] with items and annotators, got {values.shape}."
        )
    if not len(values):
        raise UserError("votes holds no vote; -1, NaN, None and empty text stand for none.")
    num_columns = None if table is None else np.shape(table)[1]
    class_names = columns_as_classes(values, table, class_names)
    labels = _labels(values, class_names, num_columns, is_table or not has_vote.all())
    order, num_replaced = _last_of_each(rows, columns, len(annotator_ids))
    return Votes(
        rows[order].astype(np.int32),
        columns[order].astype(np.int32),
        labels.ids[order],
        item_ids,
        annotator_ids,
        labels,
        num_replaced,
    )


def is_long_form(votes: Any) -> bool:
    """Whether these are a DataFrame with the columns of a long form."""
    return _long_columns(votes) is not None


def _long_columns(votes: Any) -> dict[str, Any] | None:
    """The columns of a long form in a DataFrame, else None."""
    given = getattr(votes, "columns", None)
    if given is None or callable(given):
        return None
    found = {
        name: next((c for n in names for c in given if str(c).lower() == n), None)
        for name, names in COLUMNS.items()
    }
    return None if None in found.values() else found


def present(votes: Any, argument: str = "votes") -> tuple[np.ndarray, np.ndarray]:
    """Which entries are there, neither -1, NaN, None nor "", and the entries."""
    if hasattr(votes, "isna"):  # pandas
        is_missing = np.asarray(votes.isna())
        values = np.asarray(votes, dtype=object if is_missing.any() else None)
    else:
        is_missing = np.ma.getmaskarray(votes) if np.ma.isMaskedArray(votes) else False
        values = to_array(np.ma.getdata(votes) if np.ma.isMaskedArray(votes) else votes, argument)
    if values.dtype.kind == "f":
        is_missing = is_missing | np.isnan(values) | (values == NO_VOTE)
    elif values.dtype.kind in "iu":
        is_missing = is_missing | (values == NO_VOTE)
    elif values.dtype.kind in "US":
        is_missing = is_missing | (values == values.dtype.type())
    elif values.dtype.kind == "O":
        is_missing = is_missing | np.reshape([_is_no_vote(x) for x in values.ravel()], values.shape)
    return ~np.broadcast_to(is_missing, values.shape), values


def _is_no_vote(value: Any) -> bool:
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    if isinstance(value, (bool, np.bool_, str)):
        return False
    return str(value) in ("nan", "<NA>", "NaT") or value == NO_VOTE


def _labels(values: np.ndarray, class_names: Any, num_columns: int | None, is_part: bool) -> Labels:
    """Votes as class ids; a class need not have a vote."""
    if values.dtype.kind == "O":
        values = np.array(values.tolist())
        if values.ndim != 1:
            raise UserError("votes holds something other than whole numbers, text or bool.")
    every = values
    if class_names is not None or num_columns is not None:
        # That everybody says the same is no mistake if the classes are known.
        names = None if class_names is None else to_array(class_names, "class_names")
        is_named = names is not None and (names.dtype.kind == values.dtype.kind)
        size = num_columns if names is None else len(names)
        known = names if is_named else np.arange(size or 0)
        if known is not None and values.dtype.kind in "iuf" and known.dtype.kind in "iuf":
            every = np.concatenate([values, known.astype(values.dtype)])
        elif is_named and known is not None:
            every = np.concatenate([values, known])
    argument = "votes (without the missing ones)" if is_part else "votes"
    found = as_labels(every, class_names=class_names, num_columns=num_columns, argument=argument)
    return dataclasses.replace(found, ids=found.ids[: len(values)])


def _names_of(given: Any, votes: Any, attribute: str, size: int, argument: str) -> np.ndarray:
    """Ids of the rows or columns of a table."""
    if given is None:
        given = getattr(votes, attribute, None)
        if given is None or callable(given):
            return np.arange(size)
    ids = _as_ids(given, argument)
    if len(ids) != size:
        raise UserError(
            f"{argument} has {len(ids)} entries, but votes has {size} "
            f"{'rows' if argument == 'items' else 'columns'}."
        )
    if len(set(ids.tolist())) != size:
        raise UserError(f"{argument} holds an id twice; every {argument[:-1]} needs its own.")
    return ids


def _codes(given: Any, size: int, argument: str) -> tuple[np.ndarray, np.ndarray]:
    """Positions `[V]` in order of first appearance, and the ids."""
    ids = _as_ids(given, argument)
    if len(ids) != size:
        raise UserError(f"{argument} has {len(ids)} entries, but votes has {size}.")
    if ids.dtype.kind == "O":
        place: dict[Any, int] = {}
        codes = np.fromiter((place.setdefault(x, len(place)) for x in ids.tolist()), np.int64, size)
        return codes, ids[np.unique(codes, return_index=True)[1]]
    present, first, codes = np.unique(ids, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[codes], present[order]


def _as_ids(given: Any, argument: str) -> np.ndarray:
    if hasattr(given, "isna") and np.asarray(given.isna()).any():
        row = int(np.argmax(np.asarray(given.isna())))
        raise UserError(f"{argument}[{row}] is missing; name it.")
    ids = to_array(given, argument)
    if ids.ndim != 1:
        raise UserError(f"{argument} must have one dimension, got {ids.shape}.")
    return ids


def _last_of_each(rows: np.ndarray, columns: np.ndarray, num_annotators: int) -> tuple:
    """Positions of the last vote of each annotator on each item, by item; how many are left out."""
    pairs = rows.astype(np.int64) * num_annotators + columns
    order = np.argsort(pairs, kind="stable")
    is_last = np.append(np.diff(pairs[order]) != 0, True)
    return order[is_last], int((~is_last).sum())


def read_votes(path: pathlib.Path) -> tuple[list, list[str], list[str]]:
    """Votes, items and annotators of a CSV file in long form, or of one with a column for each.

    A table has the items in its first column and a further one for each annotator.
    """
    rows = read_cells(path)
    if len(rows) < 2:
        raise DataError(f"{path} holds no votes; its first line names the columns.")
    header = [unescape_formula(cell) for cell in rows[0][1]]
    width, lower = len(header), [cell.lower() for cell in header]
    table = []
    for line, cells in rows[1:]:
        if any(cells[width:]):
            raise DataError(
                f"Line {line} of {path} has more cells than its first line; correct it."
            )
        if any(cells):
            cells = [unescape_formula(cell) for cell in cells[:width]]
            table.append(cells + [""] * (width - len(cells)))
    places = [
        next((lower.index(name) for name in names if name in lower), None)
        for names in COLUMNS.values()
    ]
    if None not in places:
        items, annotators, votes = ([cells[p] for cells in table] for p in places if p is not None)
        return _as_numbers(votes), items, annotators
    if width < 3:
        raise DataError(
            f"{path} has the columns {', '.join(header)}; it needs item, annotator and vote, or "
            "the items in its first column and one column for each annotator."
        )
    long = [
        (vote, cells[0], name)
        for cells in table
        for name, vote in zip(header[1:], cells[1:], strict=True)
    ]
    votes, items, annotators = (list(column) for column in zip(*long, strict=True))
    return _as_numbers(votes), items, annotators


def _as_numbers(votes: Sequence[str]) -> list:
    """Whole numbers if all are, else text."""
    if all(v.removeprefix("-").isdecimal() or not v for v in votes):
        return [int(v or NO_VOTE) for v in votes]
    return list(votes)
