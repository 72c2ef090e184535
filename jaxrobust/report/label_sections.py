"""Sections about labels: a run's main findings, and the differences between two runs."""

import html
import pathlib
import shlex
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jaxrobust.engine.workdir import flatten
from jaxrobust.report import markup
from jaxrobust.report.run_files import RunFiles, read_rows
from jaxrobust.report.thumbnails import thumbnail

Row = Mapping[str, str]

_NUM_PAIRS = 6
_NUM_PICTURES = 6  # of each pair
_NUM_CHANGED = 60


def opening(run: RunFiles, images: markup.Images) -> str:
    """How many labels look wrong, where to review them, and what they are confused with."""
    rows = _quality(run)
    if not rows:
        return ""
    flagged = [row for row in rows if row["flagged"] == "1"]
    reviewed = sum(bool(row.get("reviewed")) for row in rows)
    known = f" A person has decided about {reviewed:,} others." if reviewed else ""
    if judged := (run.results or {}).get("label_counts"):
        low, high = judged["expected_wrong_interval"]
        how = "nine times in ten"
    else:
        probs = np.array([float(row["clean_prob"]) for row in rows if not row.get("reviewed")])
        counts = [len(flagged), round(float(np.sum(1 - probs))), int(np.sum(probs < 0.5))]
        low, high = min(counts), max(counts)
        how = "as flagged, as expected from the probabilities, and as less probable than not"
    bounds = f"between {low:,} and {high:,}: {how}"
    text = f"{len(flagged):,} of {len(rows):,} labels look wrong ({bounds}).{known}"
    parts = [f'<p class="lead">{html.escape(text)}</p>']
    parts.append(
        images.link(run.workdir / "label_review.html", "Review them here, on label_review.html")
    )
    if (run.workdir / "label_review.html").exists():
        command = f"jaxrobust review {shlex.quote(str(run.workdir))}"
        parts.append(markup.paragraph("To have every answer written into the folder of the run:"))
        parts.append(markup.commands(command))
    parts += [markup.paragraph(text, "warning") for text in omitted(run)]
    parts += [_by_class(rows), _by_pair(run, flagged)]
    return markup.section("Labels that look wrong", *parts)


def _quality(run: RunFiles) -> list[Row]:
    header, *rows = read_rows(run.workdir / "label_quality.csv") or [[]]
    return [dict(zip(header, row, strict=True)) for row in rows]


def omitted(run: RunFiles) -> list[str]:
    """What a method could not do, in sentences."""
    warm_up = flatten(run.config).get("dpc.warm_up")
    if run.config["method"] != "dpc" or warm_up is None:
        return []
    passes = [e for e in run.events if e["split"] == "train" and e.get("epoch", 0) >= warm_up]
    undivided = [e for e in passes if e.get("stage") == "warm_up"]
    if not undivided:
        return []
    return [
        f"In {len(undivided)} of {len(passes)} passes after the warm-up the set was too small to "
        "be divided into clean and wrong labels, fewer of one kind than a batch; there DPC was "
        "trained on all labels, as cross-entropy is."
    ]


def _by_class(rows: Sequence[Row]) -> str:
    names = dict.fromkeys(row["given_label"] for row in rows)
    total = {name: [row for row in rows if row["given_label"] == name] for name in names}
    counts = {name: sum(row["flagged"] == "1" for row in of) for name, of in total.items()}
    cells = [
        [name, len(total[name]), count, markup.percent(count / len(total[name]))]
        for name, count in sorted(counts.items(), key=lambda item: -item[1])
        if count
    ]
    header = ["given label", "images", "look wrong", "% of the class"]
    return markup.details(
        "By class", markup.table("Labels that look wrong by class", header, cells, numeric=True)
    )


def _by_pair(run: RunFiles, flagged: Iterable[Row]) -> str:
    """The most frequent pairs of given and suggested label, with pictures where there are files."""
    pairs: dict[tuple[str, str], list[Row]] = {}
    for row in flagged:
        if row["given_label"] != row["suggested_label"]:
            pairs.setdefault((row["given_label"], row["suggested_label"]), []).append(row)
    parts = []
    for pair, rows in sorted(pairs.items(), key=lambda item: -len(item[1]))[:_NUM_PAIRS]:
        given, suggested = pair
        rows = sorted(rows, key=lambda row: float(row["clean_prob"]))
        title = f"{given} → {suggested}: {len(rows):,} image{'s' if len(rows) > 1 else ''}"
        shown = _pictures(run, rows[:_NUM_PICTURES], lambda row: pathlib.Path(row["file"]).name)
        parts.append(f"<h3>{html.escape(title)}</h3>{shown}")
    return "\n".join(parts)


def _pictures(run: RunFiles, rows: Sequence[Row], caption) -> str:
    """A gallery of the rows whose images are files that are there."""
    path = run.config["dataset"].get("path")
    if not path or not rows or not rows[0].get("file"):
        return ""
    root = pathlib.Path(path).expanduser()
    found = [(thumbnail(row["file"], root), row) for row in rows]
    return markup.gallery([(uri, row["file"], caption(row)) for uri, row in found if uri])


def changed_labels(groups: Mapping[str, Sequence[RunFiles]]) -> str:
    """The training labels that differ between two groups of runs."""
    if len(groups) != 2:
        return ""
    (first, one), (second, other) = ((label, runs[0]) for label, runs in groups.items())
    before, after = ({_key(row): row for row in _quality(run)} for run in (one, other))
    common = [key for key in before if key in after]
    rows = [
        {**after[key], "before": before[key]["given_label"]}
        for key in common
        if before[key]["given_label"] != after[key]["given_label"]
    ]
    gone = [key for key in before if key not in after]
    if not rows and not gone:
        return ""
    text = f"{len(rows):,} of {len(common):,} labels differ between {first} and {second}."
    if gone:
        images = "1 image of {} is" if len(gone) == 1 else f"{len(gone):,} images of {{}} are"
        text += f" {images.format(first)} not in {second}."
    shown = rows[:_NUM_CHANGED]
    cells = [[_key(row), row["before"], row["given_label"]] for row in shown]
    more = f", the first {_NUM_CHANGED}" if len(rows) > _NUM_CHANGED else ""
    return markup.section(
        "Labels that changed",
        markup.paragraph(text),
        _pictures(other, shown[:24], lambda row: f"{row['before']} → {row['given_label']}"),
        markup.details(
            f"The labels{more}", markup.table("Labels that differ", ["image", first, second], cells)
        )
        if cells
        else "",
    )


def _key(row: Row) -> str:
    return row.get("file") or f"id {row['id']}"


def agreement(groups: Mapping[str, Sequence[RunFiles]]) -> str:
    """The number of labels that all groups of runs flag, only some of them, or none."""
    flags = {
        label: {_key(row): row["flagged"] == "1" for row in _quality(runs[0])}
        for label, runs in groups.items()
    }
    if len(flags) < 2 or not all(flags.values()):
        return ""
    common = [key for key in next(iter(flags.values())) if all(key in x for x in flags.values())]
    kinds: dict[tuple[bool, ...], list[str]] = {}
    for key in common:
        kinds.setdefault(tuple(of_run[key] for of_run in flags.values()), []).append(key)
    ordered = sorted(kinds.items(), key=lambda item: (-sum(item[0]), -len(item[1])))
    words = {kind: ["looks wrong" if flag else "–" for flag in kind] for kind in kinds}
    both = len(kinds.get((True,) * len(flags), ()))
    some = sum(len(keys) for kind, keys in kinds.items() if any(kind)) - both
    text = (
        f"Of {len(common):,} labels {both:,} look wrong to all of {', '.join(flags)}, {some:,} to "
        f"some of them, and {len(common) - both - some:,} to none."
    )
    counts = [[*words[kind], f"{len(keys):,}"] for kind, keys in ordered]
    names = [
        [key, *words[kind]] for kind, keys in ordered if any(kind) for key in keys[:_NUM_CHANGED]
    ]
    listed = markup.table("Labels that look wrong to at least one", ["image", *flags], names)
    return markup.section(
        "Which labels they flag",
        markup.paragraph(text),
        markup.table("Labels by who flags them", [*flags, "labels"], counts),
        markup.details(f"The labels, {_NUM_CHANGED} of each kind at most", listed) if names else "",
    )
