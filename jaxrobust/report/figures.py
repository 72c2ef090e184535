"""Figures of runs and reports."""

import functools
import io
import math
import pathlib
import textwrap
import threading
from collections.abc import Mapping, Sequence

import numpy as np

from jaxrobust.engine.files import write_bytes
from jaxrobust.report.figure_text import drawable, font_of, fonts, score_words, short_name
from jaxrobust.selection import fit_gaussian_mixture_1d, min_max_normalize

# Colour-blind safe (Okabe and Ito), the most distinguishable first.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_PROGRESS = {
    "test": {"accuracy": "accuracy", "mAP": "mAP", "ece": "calibration error"},
    "query": {"precision": "query precision", "recall": "query recall"},
    "labels": {"f1": "F1 of wrong labels found", "flagged_fraction": "labels flagged"},
}  # split of an event -> measure -> its name in a figure
# Legible as text on white, with contrasts of 5.3 and 5.7, unlike the colours of the lines.
_DARK_GREEN, _DARK_ORANGE = "#007A5A", "#A84B00"
_PALE_BLUE = "#A9CBE3"
_FEW = 10  # predictions in a bin, below which their accuracy is uncertain
_MAX_NAMED = 20  # most classes that are named beside a matrix
_TILE, _LINE = 96, 14  # pixels: side of an image on a contact sheet, height of a line of text

SHEET_LAYOUT = "jaxrobust sheet"
"""Text in the PNG of a contact sheet: width and height of a cell in pixels, number of images."""

_drawing = threading.Lock()


def _one_at_a_time(draw):
    """Serialises drawing: seeds may run in threads, but pyplot's state is global."""

    @functools.wraps(draw)
    def locked(*args, **options):
        with _drawing:
            return draw(*args, **options)

    return locked


@_one_at_a_time
def learning_curves(
    runs: Mapping[str, Sequence[dict]],
    path: pathlib.Path,
    *,
    x: str = "rounds",
    columns: int | None = None,
) -> None:
    """Draws accuracy, query precision and query recall by round, those that are known.

    `runs` maps a label to the results of one or more seeds (contents of `results.json`); for
    several seeds the line is their mean and the band one standard deviation to each side. `x` is
    "rounds", or "annotated": the number of images annotated so far, for precision and recall
    including the query. `columns`: panels side by side; None for all.
    """
    panels = (
        ("Accuracy on known classes (%)", _accuracy(x)),
        ("Query precision (%)", _of_queries("precision", x)),
        ("Query recall (%)", _of_queries("recall", x)),
    )
    # Recall is unknown if a person is the oracle, accuracy without test images.
    known = [p for p in panels if any(p[1](r) for results in runs.values() for r in results)]
    panels = known or panels
    first = next(iter(runs.values()))[0]
    title = f"{first['num_known_classes']} of {first['num_classes']} classes known"
    x_label = {"rounds": "Round", "annotated": "Annotated images"}[x]
    _save(_curves(runs, panels, title, columns=columns, x_label=x_label, markers=True)[0], path)


def _panels(count: int, columns: int | None, *, height: float = 4.0):
    """A figure and its `count` axes, row by row, at most `columns` side by side."""
    rows = -(-count // (columns or count))
    columns = -(-count // rows)
    figure, axes = _pyplot().subplots(
        rows,
        columns,
        figsize=(13 / 3 * columns, height * rows),
        layout="constrained",
        squeeze=False,
    )
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, axes.flat[:count]


def _curves(
    runs,
    panels,
    title: str,
    *,
    columns: int | None,
    x_label: str = "Epoch",
    markers: bool = False,
):
    """A figure with one panel per (title, series), and its axes: mean and deviation over seeds.

    Its title begins with the data set and ends with the number of seeds.
    """
    figure, axes = _panels(len(panels), columns)
    for axis, (panel, series) in zip(axes, panels, strict=True):
        for i, (label, results) in enumerate(runs.items()):
            x, mean, std = _band([series(r) for r in results])
            color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)] if markers else None
            axis.plot(x, mean, marker=marker, ms=5, lw=1.8, label=label, color=color)
            if len(results) > 1:
                axis.fill_between(x, mean - std, mean + std, alpha=0.18, lw=0, color=color)
        axis.set_title(panel, loc="left", fontsize=11)
        axis.set_xlabel(x_label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        _plain_axis(axis)
    first = next(iter(runs.values()))[0]
    most = max(len(results) for results in runs.values())
    seeds = f"{most} seeds" if most > 1 else f"seed {first['seed']}"
    told = ", ".join(filter(None, (first["dataset"], title, seeds)))
    lines = textwrap.fill(told, int(11 * figure.get_figwidth()))
    figure.suptitle(lines, x=0.01, ha="left", fontsize=12)
    axes[0].legend(frameon=False, loc="lower right")
    return figure, axes


def _title(figure, text: str) -> None:
    """Title of a figure of one panel, as wide as the figure."""
    lines = textwrap.fill(text, int(12 * figure.get_figwidth()))
    figure.suptitle(lines, x=0.01, ha="left", fontsize=11)


def _annotated(entry: dict) -> int:
    return entry["num_labeled_known"] + entry["num_labeled_unknown"]


def _accuracy(x: str):
    """Series of the accuracy of each round."""

    def series(results: dict) -> list[tuple[float, float]]:
        tested = [r for r in results["rounds"] if "accuracy" in r]
        return [
            (_annotated(r) if x == "annotated" else r["round"], 100 * r["accuracy"]) for r in tested
        ]

    return series


def _of_queries(name: str, x: str):
    """Series of a measure of each query."""

    def series(results: dict) -> list[tuple[float, float]]:
        queried = [(r, r["query"]) for r in results["rounds"] if name in r.get("query", {})]
        return [
            (_annotated(r) + query["size"] if x == "annotated" else r["round"], 100 * query[name])
            for r, query in queried
        ]

    return series


def _band(runs: list[list[tuple[float, float]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, mean and sample deviation of curves with the same x, cut to the shortest."""
    shortest = min(len(r) for r in runs)
    points = np.array([r[:shortest] for r in runs]).reshape(len(runs), shortest, 2)
    std = points[..., 1].std(0, ddof=min(len(runs) - 1, 1))
    return points[..., 0].mean(0), points[..., 1].mean(0), std


@_one_at_a_time
def noisy_label_curves(
    runs: Mapping[str, Sequence[dict]], path: pathlib.Path, *, columns: int | None = None
) -> None:
    """Draws test accuracy, calibration error and detection of wrong labels by epoch.

    Arguments as in `learning_curves`. The first two are left out without test images. If neither
    they nor the true labels are known, the fraction of flagged labels is drawn.
    """
    first = next(iter(runs.values()))[0]
    panels = []
    if "accuracy" in first["last"]:
        panels += [
            ("Test accuracy (%)", _of_epochs(_in_percent("accuracy"))),
            ("Calibration error on the test images (%)", _of_epochs(_in_percent("ece"))),
        ]
    if "f1" in first["last"]["labels"]:
        panels.append(
            ("F1 of wrong labels found (%)", _of_epochs(lambda e: 100 * e["labels"]["f1"]))
        )
    elif not panels:
        flagged = _of_epochs(lambda e: 100 * e["labels"]["flagged_fraction"])
        panels.append(("Labels that look wrong (%)", flagged))
    title = _noise_text(first["noise"])
    _save(_curves(runs, panels, title, columns=columns)[0], path)


def _noise_text(noise: dict) -> str:
    if noise["kind"] == "none":  # nobody knows how many labels of a person's own data are wrong
        return ""
    return f"noise: {noise['kind']}, {100 * noise['realised_rate']:.1f} % wrong"


def _of_epochs(value):
    """Series of a measure of each epoch, counted from 1."""
    return lambda results: [(e["epoch"] + 1, value(e)) for e in results["epochs"]]


@_one_at_a_time
def distillation_curves(
    runs: Mapping[str, Sequence[dict]], path: pathlib.Path, *, columns: int | None = None
) -> None:
    """Draws a student's test accuracy, calibration error and agreement of gradients by epoch.

    The latter is the cosine of the gradients of cross-entropy and BinaryKL of the primary head,
    left out if a run has none, such as without a teacher. Arguments as in `learning_curves`.
    """
    first = next(iter(runs.values()))[0]
    panels = [
        ("Test accuracy (%)", _of_epochs(_in_percent("accuracy"))),
        ("Calibration error on the test images (%)", _of_epochs(_in_percent("ece"))),
    ]
    if all("binary_kl" in r["last"]["diagnosis"] for results in runs.values() for r in results):
        panels += [
            (f"Cosine of CE and BinaryKL gradients, {part}", _of_epochs(_cosine_on(part)))
            for part in ("head", "backbone")
        ]
    figure, axes = _curves(runs, panels, _taught(first), columns=columns)
    for axis in axes[2:]:
        axis.axhline(0, color=COLORS[6], lw=0.8, zorder=0)
    _save(figure, path)


@_one_at_a_time
def multilabel_curves(
    runs: Mapping[str, Sequence[dict]], path: pathlib.Path, *, columns: int | None = None
) -> None:
    """Draws a student's mAP, and its F1 for each image's true number of labels, by epoch.

    Arguments as in `learning_curves`.
    """
    first = next(iter(runs.values()))[0]
    titles = {
        "mAP": "mAP (%)",
        "OF1": "F1 over all labels, oracle top-k (%)",
        "CF1": "Mean F1 of the classes, oracle top-k (%)",
    }
    panels = [(title, _of_epochs(_in_percent(name))) for name, title in titles.items()]
    _save(_curves(runs, panels, _taught(first), columns=columns)[0], path)


def _in_percent(name: str):
    return lambda entry: 100 * entry[name]


def _taught(results: dict) -> str:
    """Student and teacher."""
    taught = f" taught by {results['teacher']['name']}" if results["teacher"] else ""
    return f"{results['student']['name']}{taught}"


def _cosine_on(part: str):
    return lambda entry: entry["diagnosis"]["binary_kl"][f"{part}_cosine"]


@_one_at_a_time
def reliability_diagram(
    bins: Mapping[str, np.ndarray],
    path: pathlib.Path,
    *,
    title: str = "Calibration on the test images",
    confidence: str = "Confidence (%)",
    accuracy: str = "Accuracy (%)",
) -> None:
    """Draws accuracy by confidence, with the fraction and the number of predictions in each bin.

    Bins of few predictions are pale; the title ends with the calibration error.
    """
    count, heights = bins["count"], 100 * bins["accuracy"]
    share = 100 * count / max(count.sum(), 1)
    error = float(share @ np.abs(bins["accuracy"] - bins["confidence"]))
    edges = np.linspace(0, 100, len(count) + 1)
    is_few = (count > 0) & (count < _FEW)
    pyplot = _pyplot()
    figure, (top, bottom) = pyplot.subplots(
        2, 1, figsize=(4.5, 5.8), layout="constrained", sharex=True, height_ratios=(3, 1)
    )
    parts = {
        accuracy.removesuffix(" (%)").lower(): ~is_few,
        f"of fewer than {_FEW} predictions": is_few,
    }
    for (label, part), color in zip(parts.items(), (COLORS[0], _PALE_BLUE), strict=True):
        if part.any():
            style = {"width": edges[1], "align": "edge", "ec": "white", "color": color}
            top.bar(edges[:-1][part], heights[part], label=label, **style)
    top.plot([0, 100], [0, 100], color=COLORS[1], lw=1.5, ls="--", label="calibrated")
    _title(figure, f"{title}, error {error:.1f} %")
    top.set_ylabel(accuracy)
    figure.legend(frameon=False, loc="outside lower center", ncols=3, fontsize=8)
    bottom.bar(edges[:-1], share, width=edges[1], align="edge", ec="white", color=COLORS[6])
    for x, y, number in zip(edges[:-1] + edges[1] / 2, share, count, strict=True):
        if number:
            text = f"{number:,}" if number < 10_000 else f"{number / 1000:,.0f}k"
            bottom.annotate(text, (x, y), (0, 2), "data", "offset points", ha="center", fontsize=7)
    bottom.set_ylim(0, 1.25 * max(share.max(), 1))
    bottom.set_xlabel(confidence)
    bottom.set_ylabel("Share (%)")
    for axis in (top, bottom):
        _plain_axis(axis)
    _save(figure, path)


@_one_at_a_time
def confusion_matrix(
    counts: np.ndarray,
    class_names: Sequence[str],
    path: pathlib.Path,
    *,
    title: str,
    column_title: str = "Predicted class",
) -> None:
    """Draws, for every true class, the fraction of its images in each predicted or given class."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    num_classes = len(counts)
    pyplot = _pyplot()
    names = [short_name(name) for name in class_names] if num_classes <= _MAX_NAMED else []
    room = 0.06 * max(map(len, names), default=0)  # inches
    side = min(max(3.2, 0.45 * num_classes + 1), 8) + room
    figure, axis = pyplot.subplots(figsize=(side, side), layout="constrained")
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    _title(figure, title)
    axis.set_xlabel(column_title)
    axis.set_ylabel("True class")
    if names:
        turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        axis.set_xticks(range(num_classes), names, fontsize=8, **turned)
        axis.set_yticks(range(num_classes), names, fontsize=8)
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                color = "white" if share > 0.5 else "black"
                text = f"{100 * share:.0f}"
                axis.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
    _save(figure, path)


@_one_at_a_time
def class_bars(
    values: np.ndarray, class_names: Sequence[str], path: pathlib.Path, *, title: str
) -> None:
    """Draws a measure of each class, the lowest first."""
    order = np.argsort(values, kind="stable")
    pyplot = _pyplot()
    height = 0.9 + 0.19 * max(len(values), 4)
    figure, axis = pyplot.subplots(figsize=(4.5, height), layout="constrained")
    axis.barh(range(len(values)), 100 * values[order], color=COLORS[0])
    axis.set_yticks(
        range(len(values)), [short_name(class_names[int(c)]) for c in order], fontsize=8
    )
    axis.set_ylim(len(values) - 0.4, -0.6)
    axis.set_xlim(0, 100)
    _title(figure, title)
    _plain_axis(axis)
    _save(figure, path)


@_one_at_a_time
def score_histogram(
    scores: Mapping[str, np.ndarray],
    title: str,
    path: pathlib.Path,
    *,
    is_wrong: np.ndarray | None = None,
    thresholds: Mapping[str, float | None],
) -> None:
    """Draws the distribution of a score of the given labels, and the rule that splits them.

    `scores` are `[N]` by network, high for labels that look right; `is_wrong` bool `[N]`, if known;
    `thresholds`, by network, the score below which labels are flagged, None to draw the mixture of
    two Gaussians instead.
    """
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(
        1, len(scores), figsize=(5.5 * len(scores), 3.6), layout="constrained", squeeze=False
    )
    for axis, (name, score) in zip(axes[0], scores.items(), strict=True):
        low, high = float(score.min()), float(score.max())
        bins = np.linspace(low, high if high > low else low + 1, 61)
        parts = {"all labels": np.ones(len(score), bool)}
        if is_wrong is not None:
            parts = {"right labels": ~is_wrong, "wrong labels": is_wrong}
        for (label, part), color in zip(parts.items(), COLORS, strict=False):
            weights = np.full(part.sum(), 1 / (len(score) * (bins[1] - bins[0])))
            style = {"histtype": "stepfilled", "color": color, "alpha": 0.55, "label": label}
            axis.hist(score[part], bins, weights=weights, **style)
        if thresholds[name] is None:
            _draw_mixture(axis, score, low, bins[-1] - bins[0])
        else:
            axis.axvline(thresholds[name], color=COLORS[6], lw=1.4, ls="--", label="flagged below")
        axis.set_title(score_words(title), loc="left", fontsize=11)
        axis.set_xlabel(f"{title}, {name}")
        axis.set_ylabel("Density")
        axis.legend(frameon=False)
        _plain_axis(axis)
    _save(figure, path)


def _draw_mixture(axis, score: np.ndarray, low: float, width: float) -> None:
    """Draws the densities of the two Gaussians, fitted to normalised scores as by the methods."""
    mixture = fit_gaussian_mixture_1d(min_max_normalize(score))
    x = np.linspace(0, 1, 400)
    components = zip(*map(np.asarray, mixture[:3]), ("two Gaussians", None), strict=True)
    for mean, variance, weight, label in components:
        density = weight * np.exp(-((x - mean) ** 2) / (2 * variance))
        density = density / np.sqrt(2 * np.pi * variance) / width
        axis.plot(low + x * width, density, color=COLORS[6], lw=1.4, label=label)


@_one_at_a_time
def query_histograms(
    scores: Mapping[str, Mapping[str, np.ndarray]],
    path: pathlib.Path,
    *,
    columns: int | None = None,
) -> None:
    """Draws the distribution of each score of a query over the pool and over the chosen images.

    `scores` are, by name, arrays over the bins: their limits `from` and `to`, and the numbers of
    images in the `pool`, `chosen` and, if the truth is known, `unknown`.
    """
    figure, axes = _panels(len(scores), columns, height=2.8)
    for axis, (name, bins) in zip(axes, scores.items(), strict=True):
        parts = {"pool": bins["pool"]}
        if "unknown" in bins:
            known = bins["pool"] - bins["unknown"]
            parts = {"pool, known classes": known, "pool, unknown classes": bins["unknown"]}
        edges = [*bins["from"], bins["to"][-1]]
        for (label, counts), color in zip(parts.items(), COLORS, strict=False):
            shares = counts / max(counts.sum(), 1)
            axis.stairs(shares, edges, fill=True, color=color, alpha=0.55, label=label)
        chosen = bins["chosen"] / max(bins["chosen"].sum(), 1)
        axis.stairs(chosen, edges, color=COLORS[6], lw=1.5, label="chosen")
        axis.set_title(score_words(name), loc="left", fontsize=11)
        axis.set_xlabel(name)
        axis.set_ylabel("Fraction of each group")
        _plain_axis(axis)
    axes[0].legend(frameon=False, fontsize=8)
    _save(figure, path)


@_one_at_a_time
def progress_curves(
    events: Sequence[dict],
    path: pathlib.Path,
    *,
    with_measures: bool = True,
    columns: int | None = None,
) -> None:
    """Draws the training losses and measures of one run by epoch."""
    losses: dict[str, list] = {}
    measures: dict[str, list] = {}
    rounds: dict[str, int | None] = {}
    for event in events:
        phase, step = str(event.get("phase", "")), event["step"]
        if event["split"] == "train" and "loss" in event:
            name = f"{phase} {event.get('stage', '')}".strip() or "loss"
            points = losses.setdefault(name, [])
            if rounds.setdefault(name, event.get("round")) != event.get("round"):
                rounds[name] = event["round"]
                points.append((step, np.nan))  # a gap: the network is trained from scratch again
            points.append((step, event["loss"]))
        for measure, title in _PROGRESS.get(event["split"], {}).items():
            if measure in event:
                points = measures.setdefault(f"{phase} {title}".strip(), [])
                points.append((step, 100 * event[measure]))
    panels = {"Training loss": losses, "Measured (%)": measures if with_measures else {}}
    panels = {title: lines for title, lines in panels.items() if lines}
    figure, axes = _panels(len(panels), columns)
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        for i, (name, points) in enumerate(lines.items()):
            x, y = np.array(points).T
            style = {"color": COLORS[i % len(COLORS)], "marker": "." if len(x) < 30 else None}
            axis.plot(x, y, lw=1.5, label=name.replace("_", " "), **style)
        axis.set_title(title, loc="left", fontsize=11)
        axis.set_xlabel("Epochs since the start")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(frameon=False, fontsize=8)
        _plain_axis(axis)
    _save(figure, path)


def contact_sheet(
    images: np.ndarray,
    captions: Sequence[str],
    path: pathlib.Path,
    *,
    wrong: np.ndarray | None = None,
) -> None:
    """Writes one PNG of all images, uint8 `[n, H, W, 3]`, n >= 1, with text below each, row by row.

    Captions have the same number of lines; long lines are cut. They are orange where `wrong` bool
    `[n]`, else green; black without it.
    """
    from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

    letters = functools.cache(lambda file: ImageFont.truetype(file, 11))

    height, width = images.shape[1:3]
    scale = _TILE / max(height, width)
    if scale >= 1:
        size = (width * int(scale), height * int(scale))
    else:
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
    column, row = _TILE + 4, size[1] + 4 + _LINE * (captions[0].count("\n") + 1)
    columns = max(math.ceil(math.sqrt(len(images))), min(len(images), 8))
    sheet = Image.new("RGB", (columns * column, -(-len(images) // columns) * row), "white")
    draw = ImageDraw.Draw(sheet)
    resample = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    for n, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = n % columns * column + 2, n // columns * row + 2
        sheet.paste(Image.fromarray(image).resize(size, resample), (x + (_TILE - size[0]) // 2, y))
        color = "black" if wrong is None else _DARK_ORANGE if wrong[n] else _DARK_GREEN
        file, drawn = font_of(caption)
        font = letters(file)
        for line in drawn.split("\n"):
            cut = line
            while draw.textlength(cut, font) > _TILE:
                line = line[:-1]
                cut = f"{line}…"
            draw.text((x, y + size[1] + 1), cut, font=font, fill=color)
            y += _LINE
    layout = PngImagePlugin.PngInfo()
    layout.add_text(SHEET_LAYOUT, f"{column} {row} {len(images)}")
    content = io.BytesIO()
    sheet.save(content, format="PNG", pnginfo=layout)
    write_bytes(path, content.getvalue())


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False  # a class may be called $x$
    matplotlib.rcParams["font.family"] = [font.family for font in fonts()]
    from matplotlib import pyplot

    return pyplot


def _plain_axis(axis) -> None:
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _save(figure, path: pathlib.Path) -> None:
    """Writes a PNG, atomically, and closes the figure."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if text.get_text():
            text.set_text(drawable(text.get_text()))
    content = io.BytesIO()
    # `savefig` would lay the figure out twice.
    figure.set_dpi(130)
    figure.canvas.print_png(content)
    write_bytes(path, content.getvalue())
    _pyplot().close(figure)
