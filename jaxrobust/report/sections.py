"""The sections of a page for runs of any task."""

import html
import json
import re
import statistics
from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxrobust.engine.workdir import flatten
from jaxrobust.recipes.parse import unread_sections
from jaxrobust.report import compare, figures, markup
from jaxrobust.report.run_files import RunFiles, read_json, read_tables, to_numbers
from jaxrobust.report.task_sections import TASK_SECTIONS

Groups = dict[str, list[RunFiles]]
"""Label -> runs, one for each seed."""

_NUM_PAIRS = 8
_NOT_READ = object()


def headline(groups: Groups) -> str:
    """Main results: of one group as tiles, of several as a table."""
    measured = compare.statistics(_results(groups))
    names = list(dict.fromkeys(name for values in measured.values() for name in values["mean"]))
    if not names:
        return markup.paragraph("The accuracy is unknown: there are no test images.", "note")
    texts = {
        label: {
            name: markup.mean_and_std(values["mean"][name], values["std"][name], len(groups[label]))
            for name in values["mean"]
        }
        for label, values in measured.items()
    }
    what = compare.note(_results(groups))
    if len(groups) == 1:
        ((label, text),) = texts.items()
        tiles = "".join(
            f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(text[name])}<small> %</small></dd>"
            "</div>"
            for name in names
        )
        count = len(groups[label])
        seeds = f" Mean ± standard deviation of {count} seeds." if count > 1 else ""
        return f'<dl class="tiles">{tiles}</dl>{markup.paragraph(f"{what}{seeds}", "note")}'
    rows = [
        [label, len(groups[label]), *(text.get(name, "–") for name in names)]
        for label, text in texts.items()
    ]
    caption = "In percent; mean ± standard deviation where there are several seeds"
    header = ["", "seeds", *names]
    return markup.table(caption, header, rows, numeric=True, stacked=True) + markup.paragraph(
        what, "note"
    )


def _results(groups: Groups) -> dict[str, list[dict]]:
    return {
        label: [run.results for run in runs if run.results is not None]
        for label, runs in groups.items()
    }


def curves(groups: Groups, images: markup.Images) -> str:
    results = _results(groups)
    several = any(len(runs) > 1 for runs in groups.values())
    band = " Lines are means over the seeds, bands one standard deviation." if several else ""
    shown = ", ".join(groups)
    parts = [
        images.plot(
            "curves",
            f"Curves of {shown}: the measures above by round or epoch.",
            "The measures by round, from 0, or by epoch, from 1." + band,
            lambda path, columns: compare.draw(results, path, columns=columns),
        )
    ]
    if next(iter(results.values()))[0]["task"] == "active_learning":
        plot = images.plot(
            "curves_annotated",
            f"Curves of {shown} against the number of annotated images.",
            "The measures by the number of annotated images.",
            lambda path, columns: compare.draw(results, path, x="annotated", columns=columns),
        )
        parts.append(markup.details("Against the number of annotated images", plot))
    return markup.section("Curves", *parts)


def of_group(label: str, runs: list[RunFiles], images: markup.Images, *, alone: bool) -> str:
    """The sections of one group; parts about single images are of its first seed."""
    title, select = TASK_SECTIONS[runs[0].config["task"]]
    tested = test_images(label, runs, images)
    chosen = select(runs[0], markup.file_stem(label), images)
    if len(runs) > 1 and chosen:
        chosen.insert(0, markup.paragraph(f"Of seed {runs[0].config['seed']}.", "note"))
    progress, events = "", runs[0].events
    finished = runs[0].results is not None  # its measures are under Curves
    if any(event["split"] in (("train",) if finished else ("train", "test")) for event in events):
        progress = images.plot(
            f"progress_{markup.file_stem(label)}",
            f"Training loss of {label} by epoch{'' if finished else ', and measures'}.",
            "As logged in metrics.jsonl" + (" of the first seed" if runs[1:] else ""),
            lambda path, columns: figures.progress_curves(
                events, path, with_measures=not finished, columns=columns
            ),
        )
    if alone:
        return "\n".join(
            (
                markup.section(title, *chosen),
                markup.section("Test images", tested),
                markup.section("Training loss" if finished else "Training", progress),
            )
        )
    return markup.details(label, *chosen, tested, progress)


def test_images(label: str, runs: list[RunFiles], images: markup.Images) -> str:
    """Confusion matrix, calibration and per-class measures over all seeds of a group."""
    slug = markup.file_stem(label)
    counts, names = _sum_of_confusion(runs)
    matrix = pairs = classes = reliability = ""
    if counts is not None:
        matrix = images.drawn(
            f"confusion_{slug}",
            f"Confusion matrix of {label}; the most frequent confusions are in the table below.",
            f"{int(counts.sum())} test images" + (", all seeds together" if runs[1:] else ""),
            lambda path: figures.confusion_matrix(
                counts, names, path, title="Test images, % of each true class"
            ),
        )
        pairs = _most_confused(counts, names)
    tables = read_tables(runs, "classes.csv")
    if all(len(rows) > 1 for rows in tables.values()):
        precisions = np.mean([to_numbers(*item, 2)[:, 0] for item in tables.items()], axis=0)
        class_names = [row[0] for row in next(iter(tables.values()))[1:]]
        classes = images.drawn(
            f"classes_{slug}",
            f"Average precision of every class by {label}, from "
            f"{markup.percent(precisions.min())} to {markup.percent(precisions.max())} percent.",
            "Average precision of every class, the lowest first",
            lambda path: figures.class_bars(
                precisions, class_names, path, title="Average precision on the test images (%)"
            ),
        )
    bins = _pooled_reliability(runs)
    if bins is not None:
        reliability = images.drawn(
            f"reliability_{slug}",
            f"Reliability diagram of {label}: accuracy by confidence in ten bins.",
            "Share of labels that are present, by their predicted probability"
            if classes
            else "Share of correct predictions, by their confidence",
            lambda path: figures.reliability_diagram(bins, path),
        )
    return "\n".join(filter(None, [markup.side_by_side(matrix, classes, reliability), pairs]))


def _sum_of_confusion(runs: list[RunFiles]) -> tuple[np.ndarray | None, list[str]]:
    """Sum over the runs that have the classes of the first one, and the class names."""
    tables = read_tables(runs, "confusion.csv")
    header = next(iter(tables.values()))[:1]
    if not header:
        return None, []
    same = {file: rows for file, rows in tables.items() if rows[:1] == header}
    counts = np.sum([to_numbers(*item, 1).astype(int) for item in same.items()], axis=0)
    return counts, header[0][1:]


def _most_confused(counts: np.ndarray, names: list[str]) -> str:
    wrong = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_NUM_PAIRS]
    of_class = np.maximum(counts.sum(axis=1), 1)
    rows = [
        [names[true], names[taken], wrong[true, taken], markup.percent(share)]
        for true, taken in zip(*np.unravel_index(order, counts.shape), strict=True)
        if (share := wrong[true, taken] / of_class[true])
    ]
    header = ["true class", "predicted class", "images", "% of the class"]
    return markup.table("Most frequent confusions", header, rows, numeric=True) if rows else ""


def _pooled_reliability(runs: list[RunFiles]) -> dict[str, np.ndarray] | None:
    tables = read_tables(runs, "reliability.csv")
    if not all(len(rows) > 1 for rows in tables.values()):
        return None
    numbers = np.stack([to_numbers(*item, 2) for item in tables.items()])
    count, confidence, accuracy = numbers.transpose(2, 0, 1)
    total = np.maximum(count.sum(axis=0), 1)
    return {
        "count": count.sum(axis=0).astype(int),
        "confidence": (count * confidence).sum(axis=0) / total,
        "accuracy": (count * accuracy).sum(axis=0) / total,
    }


def recipe(groups: Groups) -> str:
    """The recipe fields that the methods read; those that differ or were changed come first."""
    fields = {label: [_read_fields(run) for run in runs] for label, runs in groups.items()}
    names = dict.fromkeys(name for runs in fields.values() for run in runs for name in run)
    texts = {
        name: [_value(run.get(name, _NOT_READ) for run in runs) for runs in fields.values()]
        for name in names
    }
    everyone = [run for runs in groups.values() for run in runs]
    changed = dict.fromkeys(name for run in everyone for name in _changed(run))
    changed.pop("num_seeds", None)  # each of them is a run of one
    own = [n for n in names if n not in changed and _value([_NOT_READ]) in texts[n]]
    first = [n for n in names if n not in own and len(set(texts[n])) > 1]
    first += [n for n in changed if n not in first]
    header = ["field", *(groups if len(groups) > 1 else ["value"])]
    recipes = ", ".join(dict.fromkeys(filter(None, map(_recipe, everyone))))
    intro = f"Recipe: {recipes}." if recipes else ""
    caption = "Changed on the command line"
    if len(groups) > 1:
        caption = "What differs, and what was changed on the command line"
    rest = [n for n in names if n not in first and n not in own]

    def listed(caption, names):
        return markup.table(caption, header, [[n, *texts[n]] for n in names]) if names else ""

    return markup.section(
        "Recipe",
        markup.paragraph(intro) if intro else "",
        listed(caption, first),
        markup.details(
            "Options specific to one method", listed("Options that not all methods have", own)
        ),
        markup.details("All other fields" if first else "All fields", listed("config.json", rest)),
    )


def _changed(run: RunFiles) -> list[str]:
    """Fields that the command line of the first start sets, in its order."""
    command = run.starts[0]["command"] if run.starts else []
    given = (re.match(r"--?(?:no)?config\.([^=]+)", argument) for argument in command)
    fields = _read_fields(run)
    return list(dict.fromkeys(m[1] for m in given if m and m[1] in fields))


def _read_fields(run: RunFiles) -> dict[str, Any]:
    unread = unread_sections(run.config)
    return {k: v for k, v in flatten(run.config).items() if k.split(".")[0] not in unread}


def _recipe(run: RunFiles) -> str:
    command = run.starts[0]["command"] if run.starts else []
    given = [a.partition("=")[2] for a in command if re.match(r"--?config=", a)]
    return given[0] if given else ""


def _value(values: Iterable[object]) -> str:
    """A field's value, or its values if seeds differ."""
    return " / ".join(dict.fromkeys("–" if v is _NOT_READ else json.dumps(v) for v in values))


def environment(groups: Groups) -> str:
    """Host, devices, versions and command of every start."""
    rows, versions, typed = [], {}, {}
    for label, runs in groups.items():
        for run in runs:
            typed[" ".join(run.starts[0]["command"]) if run.starts else ""] = None
            for start in run.starts:
                versions |= {f"Python {start['python']}": None}
                versions |= {f"{k} {v}": None for k, v in start["versions"].items()}
                devices = dict.fromkeys(d.split(" ", 1)[-1] for d in start["devices"])
                rows.append(
                    [
                        f"{label}, seed {run.config['seed']}",
                        start["started"].replace("T", "\N{NO-BREAK SPACE}").removesuffix("+00:00"),
                        start["host"],
                        f"{len(start['devices'])} x {', '.join(devices)}",
                        start["cpu_count"],
                        start["commit"] or "–",
                    ]
                )
    header = ["run", "started (UTC)", "host", "devices", "CPU cores", "commit"]
    return markup.section(
        "Environment",
        markup.table("Every start", header, rows) if rows else "",
        markup.paragraph(f"Versions: {', '.join(versions)}.") if versions else "",
        markup.details("Commands", *(markup.commands(text) for text in typed if text)),
    )


def times(groups: Groups) -> str:
    rows = []
    for label, runs in groups.items():
        for run in runs:
            trained = {e["step"]: e["seconds"] for e in run.events if e["split"] == "train"}
            gaps = np.diff(list(trained.values()))
            traces = (read_json(run.workdir / "timing.json") or {}).get("traces", {})
            rows.append(
                [
                    f"{label}, seed {run.config['seed']}",
                    markup.duration(run.seconds),
                    len(run.starts),
                    len(trained),
                    f"{statistics.median(gaps):.2f} s" if gaps.size else "–",
                    len(traces) or "–",
                ]
            )
    header = ["run", "total", "starts", "epochs", "median of an epoch", "programs compiled"]
    return markup.section("Time", markup.table("Wall-clock time", header, rows, numeric=True))
