"""A page about a run, or about several that are compared: `python -m jaxrobust.report runs/a`.

The page holds everything that it shows, so that it can be mailed: headline numbers, curves with a
band over seeds, what the networks make of the test images, the images that were queried or
suspected, the recipe with what was changed first, the environment and the times. The figures lie
beside it as PNGs. An unfinished run gets a page of what is there.
"""

import argparse
import base64
import csv
import html
import io
import json
import pathlib
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrobust import compare, figures
from jaxrobust.engine.files import unescape_formula, write_text
from jaxrobust.engine.runtime import flatten
from jaxrobust.errors import UserError

_TASKS = {
    "active_learning": "Which images to annotate next, when many are of no known class",
    "noisy_labels": "Training on labels of which some are wrong",
    "distillation": "A small network that a large one teaches",
}
_MAX_EMBEDDED_PNG = 150_000  # bytes; larger contact sheets are embedded as JPEG
_NUM_PAIRS = 8
_NUM_SUSPICIOUS = 20


class _Run(NamedTuple):
    """What one seed left in its workdir.

    Attributes:
      workdir: the folder.
      config: the recipe.
      results: of a finished run, else None.
      starts: environment of every start.
      events: lines of `metrics.jsonl`.
    """

    workdir: pathlib.Path
    config: dict
    results: dict | None
    starts: list[dict]
    events: list[dict]

    @property
    def seconds(self) -> float | None:
        """Time spent, as far as it was recorded."""
        timing = _json(self.workdir / "timing.json") or {}
        return timing.get("seconds", self.events[-1]["seconds"] if self.events else None)


def _json(path: pathlib.Path) -> Any:
    """Content of a file, None where there is none.

    Raises:
      UserError: if it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error}); restore it, or repeat the run's command to write it "
            "anew."
        ) from None


def _rows(path: pathlib.Path) -> list[list[str]]:
    """Lines of a CSV file as they were before `escape_formula`, none where there is no file.

    Raises:
      UserError: if it is damaged.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = [list(map(unescape_formula, row)) for row in csv.reader(file)]
        if any(len(row) != len(rows[0]) for row in rows):
            raise ValueError("its lines differ in length")
        return rows
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path} is damaged ({error}); repeat the run's command to write it anew."
        ) from None


def _tables(runs: Iterable[_Run], name: str) -> dict[pathlib.Path, list[list[str]]]:
    """What `_rows` reads of every run's file of that name, by the file."""
    return {run.workdir / name: _rows(run.workdir / name) for run in runs}


def _numbers(path: pathlib.Path, rows: list[list[str]], first: int) -> np.ndarray:
    """Cells below a file's header, from column `first` on.

    Raises:
      UserError: if they are not numbers, or there is none.
    """
    try:
        numbers = np.array([row[first:] for row in rows[1:]], float)
        if not numbers.size:
            raise ValueError
        return numbers
    except ValueError:
        raise UserError(
            f"{path} is damaged (a number in it is missing or is none); repeat the run's command "
            "to write it anew."
        ) from None


def _events(path: pathlib.Path) -> list[dict]:
    """Events of a run, a torn last line left out."""
    events = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            events.append(json.loads(line))
        except ValueError:
            break
    return events


def _read(workdir: pathlib.Path) -> _Run:
    results, config = workdir / "results.json", _json(workdir / "config.json")
    if not isinstance(config, dict) or config.get("task") not in _TASKS:
        raise UserError(
            f"{workdir / 'config.json'} is not of a run of jaxrobust; give the --workdir of one."
        )
    return _Run(
        workdir=workdir,
        config=config,
        results=compare.load_results(workdir) if results.exists() else None,
        starts=(_json(workdir / "environment.json") or {}).get("starts", []),
        events=_events(workdir / "metrics.jsonl"),
    )


def _single_seeds(workdirs: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """The same folders, those of several seeds replaced by the folder of each seed.

    Raises:
      UserError: if one is no workdir.
    """
    single = []
    for workdir in workdirs:
        seeds = sorted(
            (p.parent for p in workdir.glob("seed_*/config.json")),
            key=lambda p: (len(p.name), p.name),
        )
        if (workdir / "config.json").exists():
            single.append(workdir)
        elif seeds:
            single += seeds
        elif workdir.is_dir():
            raise UserError(
                f"{workdir} is no workdir: it holds no config.json; give the --workdir of a run."
            )
        else:
            raise UserError(f"{workdir} does not exist; give the --workdir of a run.")
    return single


# HTML. Functions whose names are those of elements take text and return markup.


def _table(
    caption: str, header: Sequence[str], rows: Iterable[Sequence[object]], *, numeric: bool = False
) -> str:
    """A table whose first column names its rows; it scrolls where it is too wide."""
    head = "".join(f'<th scope="col">{html.escape(str(cell))}</th>' for cell in header)
    body = ""
    for first, *others in rows:
        cells = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in others)
        body += f'<tr><th scope="row">{html.escape(str(first))}</th>{cells}</tr>\n'
    kind = ' class="numeric"' if numeric else ""
    label = html.escape(caption, quote=True)
    return (
        f'<div class="scroll" role="region" aria-label="{label}" tabindex="0"><table{kind}>'
        f"<caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead>\n"
        f"<tbody>{body}</tbody></table></div>"
    )


def _paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{html.escape(text)}</p>' if kind else f"<p>{html.escape(text)}</p>"


def _section(title: str, *parts: str) -> str:
    """A section, or nothing if all its parts are nothing."""
    body = "\n".join(filter(None, parts))
    return f"<section><h2>{html.escape(title)}</h2>\n{body}\n</section>" if body else ""


def _details(summary: str, *parts: str, is_open: bool = False) -> str:
    body = "\n".join(filter(None, parts))
    start = "<details open>" if is_open else "<details>"
    return f"{start}<summary>{html.escape(summary)}</summary>\n{body}\n</details>" if body else ""


def _side_by_side(*parts: str) -> str:
    body = "\n".join(filter(None, parts))
    return f'<div class="pair">{body}</div>' if body else ""


class _Images:
    """The figures of a page: embedded in it, and as PNGs beside it."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder

    def plot(self, name: str, alt: str, caption: str, draw: Callable[[pathlib.Path, int], None]):
        """A figure of panels: up to three beside each other, one under the other on a phone.

        Args:
          name: of the file, without suffix.
          alt: what is seen, for those who do not see it.
          caption: under the figure.
          draw: `(path, columns)`, which writes a PNG.
        """
        sources = {}
        for columns, suffix in ((3, ""), (1, "_narrow")):
            path = self._folder / f"{name}{suffix}.png"
            draw(path, columns)
            sources[columns] = _data_uri(path.read_bytes())
        return (
            '<figure class="plot"><picture>'
            f'<source media="(max-width: 40rem)" srcset="{sources[1]}">'
            f'<img src="{sources[3]}" alt="{html.escape(alt)}"></picture>'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    def drawn(self, name: str, alt: str, caption: str, draw: Callable[[pathlib.Path], None]) -> str:
        """A figure of one panel; arguments as of `plot`."""
        path = self._folder / f"{name}.png"
        draw(path)
        return self._figure(path.read_bytes(), alt, caption, "plot")

    def found(self, source: pathlib.Path, name: str, alt: str, caption: str, kind: str) -> str:
        """A PNG of the run's, or nothing if it is not there; `kind` is `wide plot` or `photos`."""
        if not source.exists():
            return ""
        content = source.read_bytes()
        (self._folder / f"{name}.png").write_bytes(content)
        return self._figure(content, alt, caption, kind)

    def _figure(self, content: bytes, alt: str, caption: str, kind: str) -> str:
        source = _data_uri(content, photos=kind == "photos")
        image = f'<img src="{source}" alt="{html.escape(alt)}">'
        if kind != "plot":
            image = f'<div class="scroll" tabindex="0">{image}</div>'
        text = f"<figcaption>{html.escape(caption)}</figcaption>"
        return f'<figure class="{kind}">{image}{text}</figure>'


def _data_uri(content: bytes, *, photos: bool = False) -> str:
    kind = "png"
    if photos and len(content) > _MAX_EMBEDDED_PNG:
        from PIL import Image

        jpeg = io.BytesIO()
        with Image.open(io.BytesIO(content)) as image:
            image.convert("RGB").save(jpeg, "JPEG", quality=85)
        if len(jpeg.getvalue()) < len(content):
            kind, content = "jpeg", jpeg.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _slug(label: str) -> str:
    """Part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", label).strip("._") or "run"


# Numbers as text.


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _mean(mean: float, std: float, num_seeds: int) -> str:
    return f"{_percent(mean)} ± {_percent(std)}" if num_seeds > 1 else _percent(mean)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not recorded"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


# Sections.

_Groups = dict[str, list[_Run]]


def _results(groups: _Groups) -> dict[str, list[dict]]:
    return {label: [run.results for run in runs] for label, runs in groups.items()}


def _headline(groups: _Groups) -> str:
    """Numbers of one recipe as tiles, of several as a table."""
    measured = compare.statistics(_results(groups))
    names = list(dict.fromkeys(name for values in measured.values() for name in values["mean"]))
    texts = {
        label: {
            name: _mean(values["mean"][name], values["std"][name], len(groups[label]))
            for name in values["mean"]
        }
        for label, values in measured.items()
    }
    if len(groups) == 1:
        ((label, text),) = texts.items()
        tiles = "".join(
            f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(text[name])}<small> %</small></dd>"
            "</div>"
            for name in names
        )
        count = len(groups[label])
        note = f"Mean ± standard deviation of {count} seeds." if count > 1 else ""
        return f'<dl class="tiles">{tiles}</dl>' + (_paragraph(note, "note") if note else "")
    rows = [
        [label, len(groups[label]), *(text.get(name, "–") for name in names)]
        for label, text in texts.items()
    ]
    caption = "In percent; mean ± standard deviation where there are several seeds"
    return _table(caption, ["", "seeds", *names], rows, numeric=True)


def _curves(groups: _Groups, images: _Images) -> str:
    results = _results(groups)
    several = any(len(runs) > 1 for runs in groups.values())
    band = " Lines are means over the seeds, bands one standard deviation." if several else ""
    shown = ", ".join(groups)
    parts = [
        images.plot(
            "curves",
            f"Curves of {shown}: the measures above over the course of the run.",
            "How the measures developed." + band,
            lambda path, columns: compare.draw(results, path, columns=columns),
        )
    ]
    if next(iter(results.values()))[0]["task"] == "active_learning":
        plot = images.plot(
            "curves_annotated",
            f"Curves of {shown} against the number of annotated images.",
            "The same against what it cost.",
            lambda path, columns: compare.draw(results, path, x="annotated", columns=columns),
        )
        parts.append(_details("Against the number of annotated images", plot))
    return _section("Curves", *parts)


def _test_images(label: str, runs: list[_Run], images: _Images) -> str:
    """Confusion, calibration and measures of classes, over all seeds of a group together."""
    slug = _slug(label)
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
    tables = _tables(runs, "classes.csv")
    if all(len(rows) > 1 for rows in tables.values()):
        precisions = np.mean([_numbers(*item, 2)[:, 0] for item in tables.items()], axis=0)
        class_names = [row[0] for row in next(iter(tables.values()))[1:]]
        classes = images.drawn(
            f"classes_{slug}",
            f"Average precision of every class by {label}, from {_percent(precisions.min())} to "
            f"{_percent(precisions.max())} percent.",
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
            "How often labels are there, by how probable they were called"
            if classes
            else "How often predictions are right, by how sure the network was",
            lambda path: figures.reliability_diagram(bins, path),
        )
    return "\n".join(filter(None, [_side_by_side(matrix, classes, reliability), pairs]))


def _sum_of_confusion(runs: list[_Run]) -> tuple[np.ndarray | None, list[str]]:
    """Counts over the runs that have the same classes as the first, and the names of those."""
    tables = _tables(runs, "confusion.csv")
    header = next(iter(tables.values()))[:1]
    if not header:
        return None, []
    same = {file: rows for file, rows in tables.items() if rows[:1] == header}
    counts = sum(_numbers(*item, 1).astype(int) for item in same.items())
    return counts, header[0][1:]


def _most_confused(counts: np.ndarray, names: list[str]) -> str:
    wrong = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_NUM_PAIRS]
    of_class = np.maximum(counts.sum(axis=1), 1)
    rows = [
        [names[true], names[taken], wrong[true, taken], _percent(share)]
        for true, taken in zip(*np.unravel_index(order, counts.shape), strict=True)
        if (share := wrong[true, taken] / of_class[true])
    ]
    header = ["true class", "taken for", "images", "% of the class"]
    return _table("Most frequent confusions", header, rows, numeric=True) if rows else ""


def _pooled_reliability(runs: list[_Run]) -> dict[str, np.ndarray] | None:
    tables = _tables(runs, "reliability.csv")
    if not all(len(rows) > 1 for rows in tables.values()):
        return None
    numbers = np.stack([_numbers(*item, 2) for item in tables.items()])
    count, confidence, accuracy = numbers.transpose(2, 0, 1)
    total = np.maximum(count.sum(axis=0), 1)
    return {
        "count": count.sum(axis=0).astype(int),
        "confidence": (count * confidence).sum(axis=0) / total,
        "accuracy": (count * accuracy).sum(axis=0) / total,
    }


def _queries(run: _Run, slug: str, images: _Images) -> list[str]:
    """Rounds of active learning: what each query found, its scores and its images."""
    rounds = run.results["rounds"] if run.results else _rounds_so_far(run.events)
    aurocs = list(
        dict.fromkeys(k for r in rounds for k in r.get("query", {}) if k.startswith("auroc_"))
    )
    header = ["round", "accuracy", "labels of known", "of unknown", "queried", "precision"]
    header += ["recall", *(name.replace("auroc_", "AUROC ") for name in aurocs)]
    rows = []
    for entry in rounds:
        query = entry.get("query", {})
        measures = [query.get(name) for name in ("precision", "recall", *aurocs)]
        rows.append(
            [
                entry["round"],
                _percent(entry["accuracy"]) if "accuracy" in entry else "–",
                int(entry["num_labeled_known"]),
                int(entry["num_labeled_unknown"]),
                int(query["size"]) if query else "–",
                *("–" if value is None else _percent(value) for value in measures),
            ]
        )
    parts = [_table("Rounds (measures in percent)", header, rows, numeric=True)] if rows else []
    tables = sorted((run.workdir / "queries").glob("round_??.csv"))
    for table in tables:
        parts.append(
            _details(
                f"Query of round {int(table.stem[-2:])}",
                _score_histograms(table, slug, images),
                images.found(
                    table.with_suffix(".png"),
                    f"{table.stem}_{slug}",
                    f"Images of the query, in order of choice; they are listed in {table.name}.",
                    "The first images of the query, in order of choice, with the answers: green of "
                    "a known class, orange unknown."
                    if run.config.get("oracle") == "truth"
                    else f"The images that are asked about, by their line in {table.name}.",
                    "photos",
                ),
                is_open=table == tables[-1],
            )
        )
    return parts


def _score_histograms(table: pathlib.Path, slug: str, images: _Images) -> str:
    file = table.with_name(f"{table.stem}_scores.csv")
    rows = _rows(file)
    if len(rows) < 2:
        return ""
    names, values = np.array([row[0] for row in rows[1:]]), _numbers(file, rows, 1)
    scores = {
        str(name): dict(zip(rows[0][1:], values[names == name].T, strict=True))
        for name in dict.fromkeys(names)
    }
    return images.plot(
        f"scores_{table.stem}_{slug}",
        f"Histograms of {', '.join(scores)} over the pool and over the chosen images.",
        "How the scores were distributed over the pool, and over the images that were chosen",
        lambda path, columns: figures.query_histograms(scores, path, columns=columns),
    )


def _rounds_so_far(events: list[dict]) -> list[dict]:
    rounds: dict[int, dict] = {}
    for event in events:
        if event["split"] == "test":
            rounds[event["round"]] = dict(event)
        elif event["split"] == "query":
            rounds[event["round"]]["query"] = event
    return list(rounds.values())


def _suspicions(run: _Run, slug: str, images: _Images) -> list[str]:
    """Labels that look wrong, and how the method tells."""
    folder = run.workdir / "figures"
    known = ("epochs", "reliability", "confusion", "suspicious")
    scores = [p for p in sorted(folder.glob("*.png")) if p.stem not in known]
    parts = [
        images.found(
            path,
            f"{path.stem}_{slug}",
            f"Histogram of {path.stem.replace('_', ' ')} over the training images.",
            "The score by which the method tells right labels from wrong ones",
            "wide plot",
        )
        for path in scores
    ]
    noise = _json(run.workdir / "noise.json")
    if noise and noise["kind"] != "none":
        matrix = images.drawn(
            f"noise_{slug}",
            "Share of every given label among the images of each true class.",
            f"What the labels were turned into: {noise['kind']} noise, "
            f"{_percent(noise['realised_rate'])} % are wrong",
            lambda path: figures.confusion_matrix(
                np.array(noise["transition"]),
                noise["class_names"],
                path,
                title="Given labels, % of each true class",
                column_title="Given label",
            ),
        )
        parts.append(_details("The noise", _side_by_side(matrix)))
    parts.insert(
        0,
        images.found(
            folder / "suspicious.png",
            f"suspicious_{slug}",
            "The images with the most suspicious labels; the table names them.",
            "The most suspicious labels: given, and suggested"
            + ("" if not noise or noise["kind"] == "none" else "; orange where it is wrong indeed"),
            "photos",
        ),
    )
    header, *rows = _rows(run.workdir / "label_quality.csv") or [[]]
    wanted = ("id", "file", "given_label", "suggested_label", "clean_prob", "true_label")
    shown = [header.index(name) for name in wanted if name in header]
    if rows:
        parts.append(
            _details(
                f"The {min(_NUM_SUSPICIOUS, len(rows))} most suspicious of {len(rows)} labels",
                _table(
                    "All are in label_quality.csv",
                    [header[i].replace("_", " ") for i in shown],
                    ([row[i] for i in shown] for row in rows[:_NUM_SUSPICIOUS]),
                ),
            )
        )
    return parts


def _teaching(run: _Run, slug: str, images: _Images) -> list[str]:
    """Student and teacher side by side."""
    del slug, images
    if run.results is None:
        return []
    student, teacher = run.results["student"], run.results["teacher"]
    last = {k: v for k, v in run.results["last"].items() if isinstance(v, float)}
    rows = [[f"student {student['name']}", *map(_percent, last.values())]]
    if teacher:
        measures = (teacher.get(name) for name in last)
        rows.insert(
            0,
            [
                f"teacher {teacher['name']}",
                *("–" if value is None else _percent(value) for value in measures),
            ],
        )
    return [
        _paragraph(f"The student has {student['num_parameters']:,} parameters."),
        _table(
            "On the test images after the last epoch (%)",
            ["", *(name.replace("_", " ") for name in last)],
            rows,
            numeric=True,
        ),
    ]


_SELECTIONS = {
    "active_learning": ("Queries", _queries),
    "noisy_labels": ("Suspicious labels", _suspicions),
    "distillation": ("Student and teacher", _teaching),
}


def _of_group(label: str, runs: list[_Run], images: _Images, *, alone: bool) -> str:
    """What only one group has; of its first seed, where it is about single images."""
    title, select = _SELECTIONS[runs[0].config["task"]]
    tested = _test_images(label, runs, images)
    chosen = select(runs[0], _slug(label), images)
    if len(runs) > 1 and chosen:
        chosen.insert(0, _paragraph(f"Of seed {runs[0].config['seed']}.", "note"))
    progress = ""
    if any(event["split"] in ("train", "test") for event in runs[0].events):
        progress = images.plot(
            f"progress_{_slug(label)}",
            f"Training loss and measures of {label} by epoch.",
            "As logged in metrics.jsonl" + (" of the first seed" if runs[1:] else ""),
            lambda path, columns: figures.progress_curves(runs[0].events, path, columns=columns),
        )
    if alone:
        return "\n".join(
            (
                _section(title, *chosen),
                _section("Test images", tested),
                _section("Training", progress),
            )
        )
    return _details(label, *chosen, tested, progress)


def _changed(run: _Run) -> list[str]:
    """Fields that the command line of the first start set, in its order."""
    command = run.starts[0]["command"] if run.starts else []
    given = (re.match(r"--?(?:no)?config\.([^=]+)", argument) for argument in command)
    fields = flatten(run.config)
    return list(dict.fromkeys(m[1] for m in given if m and m[1] in fields))


def _recipe(run: _Run) -> str:
    command = run.starts[0]["command"] if run.starts else []
    given = [a.partition("=")[2] for a in command if re.match(r"--?config=", a)]
    return given[0] if given else ""


def _value(values: Iterable[object]) -> str:
    """A field's value, or its values where the seeds differ."""
    return " / ".join(dict.fromkeys(json.dumps(v) if v != "" else '""' for v in values))


def _config(groups: _Groups) -> str:
    """The recipe: what differs between the groups or from the recipe first."""
    fields = {label: [flatten(run.config) for run in runs] for label, runs in groups.items()}
    names = dict.fromkeys(name for runs in fields.values() for run in runs for name in run)
    texts = {
        name: [_value(run.get(name) for run in runs) for runs in fields.values()] for name in names
    }
    everyone = [run for runs in groups.values() for run in runs]
    changed = dict.fromkeys(name for run in everyone for name in _changed(run))
    changed.pop("num_seeds", None)  # each of them is a run of one
    first = [n for n in names if len(set(texts[n])) > 1]
    first += [n for n in changed if n not in first]
    header = ["field", *(groups if len(groups) > 1 else ["value"])]
    recipes = ", ".join(dict.fromkeys(filter(None, map(_recipe, everyone))))
    intro = f"Recipe: {recipes}." if recipes else ""
    caption = "Changed on the command line"
    if len(groups) > 1:
        caption = "What differs, and what was changed on the command line"
    rest = [n for n in names if n not in first]
    return _section(
        "Recipe",
        _paragraph(intro) if intro else "",
        _table(caption, header, [[n, *texts[n]] for n in first]) if first else "",
        _details(
            "All other fields" if first else "All fields",
            _table("config.json", header, [[n, *texts[n]] for n in rest]),
        ),
    )


def _environment(groups: _Groups) -> str:
    """Where and when it ran."""
    rows, versions, commands = [], {}, {}
    for label, runs in groups.items():
        for run in runs:
            commands[" ".join(run.starts[0]["command"]) if run.starts else ""] = None
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
    return _section(
        "Environment",
        _table("Every start", header, rows) if rows else "",
        _paragraph(f"Versions: {', '.join(versions)}.") if versions else "",
        _details("Commands", *(f"<pre>{html.escape(c)}</pre>" for c in commands if c)),
    )


def _times(groups: _Groups) -> str:
    rows = []
    for label, runs in groups.items():
        for run in runs:
            trained = {e["step"]: e["seconds"] for e in run.events if e["split"] == "train"}
            gaps = np.diff(list(trained.values()))
            traces = (_json(run.workdir / "timing.json") or {}).get("traces", {})
            rows.append(
                [
                    f"{label}, seed {run.config['seed']}",
                    _duration(run.seconds),
                    len(run.starts),
                    len(trained),
                    f"{statistics.median(gaps):.2f} s" if gaps.size else "–",
                    len(traces) or "–",
                ]
            )
    header = ["run", "in all", "starts", "epochs", "median of an epoch", "programs compiled"]
    return _section("Time", _table("Seconds of wall clock", header, rows, numeric=True))


def _page(groups: _Groups, images: _Images, notes: Sequence[str]) -> str:
    """The whole document."""
    first = next(iter(groups.values()))[0]
    alone = len(groups) == 1
    dataset = first.results["dataset"] if first.results else first.config["dataset"]["name"]
    title = f"{', '.join(groups)} on {dataset}"
    seeds = [run.config["seed"] for run in next(iter(groups.values()))]
    facts = [_TASKS[first.config["task"]]]
    if alone:
        facts.append(f"seed{'s' if seeds[1:] else ''} {', '.join(map(str, seeds))}")
    finished = first.results is not None
    parts = [
        f"<header><h1>{html.escape(title)}</h1>{_paragraph('; '.join(facts) + '.')}</header>",
        *(_paragraph(note, "warning") for note in notes),
        _headline(groups) if finished else "",
        _curves(groups, images) if finished else "",
    ]
    details = [_of_group(label, runs, images, alone=alone) for label, runs in groups.items()]
    parts += details if alone else [_section("One by one", *details)]
    parts += [_config(groups), _environment(groups), _times(groups)]
    body = "\n".join(filter(None, parts))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(title)}</title><style>{_CSS}</style></head>\n"
        f"<body><main>\n{body}\n</main>\n"
        f"<footer>Written by <code>python -m jaxrobust.report</code>.</footer></body></html>\n"
    )


_CSS = """
:root { --ink: #1d2329; --soft: #57616c; --paper: #fff; --panel: #f4f6f8; --line: #d6dce2;
  --accent: #0059a3; --alert: #fff4d6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #a3aeb9; --paper: #14181c;
  --panel: #1e242a; --line: #38414a; --accent: #7cc0ff; --alert: #3a3110; }
  .plot img { filter: invert(.92) hue-rotate(180deg); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main, footer { max-width: 68rem; margin: 0 auto; padding: 1rem; }
footer { color: var(--soft); font-size: .85rem; border-top: 1px solid var(--line); }
h1 { font-size: 1.75rem; line-height: 1.2; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-bottom: .3rem;
  border-bottom: 1px solid var(--line); }
header p, .note, figcaption, caption { color: var(--soft); }
header p { margin: 0 0 1rem; }
.note { font-size: .9rem; margin: .5rem 0; }
.warning { background: var(--alert); border-left: 4px solid #b8860b; padding: .6rem .9rem;
  overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem;
  margin: 1rem 0 0; }
.tiles div { background: var(--panel); border-radius: .5rem; padding: .7rem .9rem;
  display: flex; flex-direction: column; justify-content: space-between; }
.tiles dt { color: var(--soft); font-size: .85rem; }
.tiles dd { margin: .2rem 0 0; font-size: 1.45rem; font-weight: 600; white-space: nowrap; }
.tiles small { font-size: .9rem; font-weight: 400; color: var(--soft); }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; display: block; border-radius: .3rem; }
figcaption { font-size: .9rem; margin-top: .4rem; }
.pair { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
.pair figure { flex: 1 1 20rem; max-width: 33rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
@media (max-width: 40rem) { .photos img, .wide img { max-width: none; width: 42rem; } }
table { border-collapse: collapse; font-size: .9rem; }
caption { text-align: left; font-size: .9rem; padding-bottom: .4rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .9rem .3rem 0;
  border-bottom: 1px solid var(--line); }
thead th { font-weight: 600; color: var(--soft); }
tbody th { font-weight: 500; white-space: nowrap; }
.numeric td, .numeric thead th:not(:first-child) { text-align: right; padding: .3rem .45rem;
  font-variant-numeric: tabular-nums; }
.numeric td { white-space: nowrap; }
details { margin: .6rem 0; border: 1px solid var(--line); border-radius: .5rem;
  padding: 0 .9rem; overflow: hidden; }
summary { cursor: pointer; padding: .55rem 0; font-weight: 500; color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
pre { overflow-x: auto; background: var(--panel); padding: .7rem; border-radius: .3rem;
  font-size: .85rem; }
@media print { details { border: 0; } }
"""


def write_report(workdirs: Sequence[pathlib.Path], out: pathlib.Path, *, by: str) -> pathlib.Path:
    """Writes the page about some runs.

    Args:
      workdirs: folders of runs, of one seed or of several.
      out: folder for `index.html` and the PNGs.
      by: config fields that tell groups apart, joined by commas.

    Returns:
      The page.

    Raises:
      UserError: if one is no workdir, its files are damaged, the runs are of different problems, or
        `out` cannot be written.
    """
    single = _single_seeds(workdirs)
    finished = [w for w in single if (w / "results.json").exists()]
    notes = [f"{w} is not finished and is left out." for w in single if w not in finished]
    if not finished and len(single) > 1:
        raise UserError(
            f"None of {', '.join(map(str, single))} is finished; name one alone for a page of what "
            "is there."
        )
    if finished:
        folders = compare.folders(finished, by)
        groups = {label: [_read(w) for w in of_label] for label, of_label in folders.items()}
    else:
        run = _read(single[0])
        groups = {run.config["method"]: [run]}
        notes = ["This run is not finished; here is what is there. Its command goes on with it."]
    try:
        out.mkdir(parents=True, exist_ok=True)
        page = out / "index.html"
        write_text(page, _page(groups, _Images(out), notes))
    except OSError as error:
        raise UserError(
            f"The report cannot be written to {out} ({error.strerror}); choose another --out."
        ) from None
    return page


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdirs", nargs="+", type=pathlib.Path, help="folders of runs")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        help="folder for index.html and the figures; default: report/ in the workdir, of several "
        "workdirs report/ here",
    )
    parser.add_argument("--by", default="method", help="config field that tells groups apart")
    arguments = parser.parse_args(argv)
    alone = len(arguments.workdirs) == 1
    out = arguments.out or (arguments.workdirs[0] if alone else pathlib.Path()) / "report"
    try:
        page = write_report(arguments.workdirs, out, by=arguments.by)
    except UserError as error:
        print(f"jaxrobust: {error}", file=sys.stderr)
        return 2
    print(f"report: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
