"""Builds the review page from findings about labels: suspects, examples, the random check."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxrobust.data._streams import host_generator
from jaxrobust.review import answer_page
from jaxrobust.review.review_page import Check, Suspect, write

NUM_EXAMPLES = 3
"""Images of each class whose labels look right, beside the one that is reviewed."""

_MAX_CLASSES = 100  # with examples
_MAX_FOUND = 100  # duplicates and outliers
_NUM_RANDOM = 200
_NUM_LIKELY = 9  # classes that have a key


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """N labels of C classes, with the findings about them."""

    given: np.ndarray  # int `[N]`
    suggested: np.ndarray  # int `[N]`
    clean_prob: np.ndarray  # float `[N]`, probability that the given label is right
    ranked: np.ndarray  # int, ids of those that nobody has decided about, the most suspicious first
    class_names: Sequence[str]  # of the C classes
    # float `[N, C]`, predicted probabilities; None where there are none
    probs: np.ndarray | None = None
    # `duplicates` or `outliers` -> id -> what was found, in words
    found: Mapping[str, Mapping[int, str]] = dataclasses.field(default_factory=dict)
    words: Callable[[int], str] | None = None  # id -> what else is shown beside it


def write_review(
    path: pathlib.Path,
    judged: Judged,
    num_suspects: int,
    *,
    files: Sequence[str] | None,
    root: pathlib.Path | None,
    pictures: Callable[[np.ndarray], np.ndarray | None] | None = None,
    texts: Sequence[str] | None = None,
    seed: int = 0,
    after_saving: Sequence[tuple[str, str]] = (),
    title: str = "Labels that look wrong",
) -> bool:
    """Writes the page on which a person reviews the most suspicious labels; False: nothing to show.

    The page asks about the first `num_suspects`. `files` are of the N images, relative to `root`,
    from which they are shown; without it `pictures` (ids -> uint8 `[n, H, W, 3]`, or None where
    there are none) or `texts` are. `seed` draws the random check. `after_saving` are (text,
    command), what to do with the answers.
    """
    if not len(judged.ranked):
        return False
    suspects = judged.ranked[:num_suspects]
    if root is None:
        suspects = suspects[: answer_page.NUM_EMBEDDED]
    tabs: dict[int, list[str]] = {int(i): ["labels"] for i in suspects}
    words: dict[int, list[str]] = {}
    for kind, of_kind in judged.found.items():
        for i, text in list(of_kind.items())[:_MAX_FOUND]:
            tabs.setdefault(i, []).append(kind)
            words.setdefault(i, []).append(text)
    order = host_generator(seed, "review/check").permutation(np.sort(judged.ranked))[:_NUM_RANDOM]
    for i in order.tolist():
        tabs.setdefault(i, []).append("random")
    if judged.words is not None:
        for i in tabs:
            words.setdefault(i, []).append(judged.words(i))
    ids = np.array(list(tabs), np.int64)
    examples = _examples(judged, judged.ranked[num_suspects:])
    shown = None
    if root is None and texts is None:
        shown = pictures(ids) if pictures else None
        if shown is None:
            return False
    names = judged.class_names
    rows = [
        Suspect(
            id=i,
            file=files[i] if files is not None else "",
            given=names[int(judged.given[i])],
            suggested=names[int(judged.suggested[i])],
            clean_prob=float(judged.clean_prob[i]),
            likely=() if judged.probs is None else _likely(judged.probs[i], names),
            tabs=of_image,
            finding="; ".join(words.get(i, ())),
        )
        for i, of_image in tabs.items()
    ]
    write(
        path,
        rows,
        names,
        root=root,
        pictures=shown,
        texts=None if texts is None else [texts[i] for i in tabs],
        examples=_pictures_of(examples, files, root, pictures)
        if texts is None
        else {name: [texts[i] for i in of_class] for name, of_class in examples.items()},
        check=Check(len(judged.ranked), order.tolist()),
        after_saving=after_saving,
        title=title,
    )
    return True


def _likely(probs: np.ndarray, names: Sequence[str]) -> list[str]:
    order = np.argsort(-probs, kind="stable")[:_NUM_LIKELY].tolist()
    return [names[int(c)] for c in order if probs[c] > 0]


def _examples(judged: Judged, others: np.ndarray) -> dict[str, list[int]]:
    """Ids of the labels that look most right, by class."""
    found: dict[str, list[int]] = {}
    for i in others[::-1].tolist():
        if judged.given[i] != judged.suggested[i]:
            continue
        of_class = found.setdefault(judged.class_names[int(judged.given[i])], [])
        if len(of_class) < NUM_EXAMPLES:
            of_class.append(i)
    return dict(list(found.items())[:_MAX_CLASSES])


def _pictures_of(
    examples: Mapping[str, Sequence[int]],
    files: Sequence[str] | None,
    root: pathlib.Path | None,
    pictures: Callable[[np.ndarray], np.ndarray | None] | None,
) -> dict[str, list]:
    if files is not None and root is not None:
        return {name: [files[i] for i in ids] for name, ids in examples.items()}
    if not examples or pictures is None:
        return {}
    shown = pictures(np.array([i for ids in examples.values() for i in ids], np.int64))
    if shown is None:
        return {}
    each = iter(shown)
    return {name: [next(each) for _ in ids] for name, ids in examples.items()}
