"""The figures that runs and reports show."""

import functools
import io
import pathlib
import threading
from collections.abc import Mapping, Sequence

import numpy as np

from jaxrobust.engine.files import write_bytes
from jaxrobust.metrics import expected_calibration_error
from jaxrobust.selection import fit_gaussian_mixture_1d, min_max_normalize

# Colour-blind safe (Okabe and Ito), in the order in which they tell best apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

_drawing = threading.Lock()


def _one_at_a_time(draw):
    """Several seeds may run in threads, but pyplot's state is the process's."""

    @functools.wraps(draw)
    def locked(*args, **options):
        with _drawing:
            return draw(*args, **options)

    return locked


@_one_at_a_time
def learning_curves(
    runs: Mapping[str, Sequence[dict]], path: pathlib.Path, *, x: str = "rounds"
) -> None:
    """Draws accuracy, query precision and query recall by round.

    Args:
      runs: label -> results of one or more seeds (contents of `results.json`); with several seeds
        the line is their mean and the band one standard deviation to each side.
      path: the PNG to write.
      x: "rounds", or "annotated": the number of images annotated so far, after the query for its
        precision and recall.
    """
    panels = (
        ("Accuracy on known classes (%)", _accuracy(x)),
        ("Query precision (%)", _of_queries("precision", x)),
        ("Query recall (%)", _of_queries("recall", x)),
    )
    first = next(iter(runs.values()))[0]
    figure, axes = _curves(runs, panels)
    for axis in axes:
        axis.set_xlabel({"rounds": "Round", "annotated": "Annotated images"}[x])
        axis.xaxis.get_major_locator().set_params(integer=True)
    _suptitle(
        figure,
        f"{first['dataset']}, {first['num_known_classes']} of {first['num_classes']} classes known",
        runs,
    )
    axes[0].legend(frameon=False, loc="lower right")
    _save(figure, path)


def _curves(runs, panels, *, markers: bool = True):
    """A figure with one panel per (title, series): mean and deviation over the seeds of a run."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(13 / 3 * len(panels), 4), layout="constrained", squeeze=False
    )
    for axis, (title, series) in zip(axes[0], panels, strict=True):
        for i, (label, results) in enumerate(runs.items()):
            x, mean, std = _band([series(r) for r in results])
            color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)] if markers else None
            axis.plot(x, mean, marker=marker, ms=5, lw=1.8, label=label, color=color)
            if len(results) > 1:
                axis.fill_between(x, mean - std, mean + std, alpha=0.18, lw=0, color=color)
        axis.set_title(title, loc="left", fontsize=11)
        _plain_axis(axis)
    return figure, axes[0]


def _suptitle(figure, text: str, runs) -> None:
    """Title that also says how many seeds are in the figure."""
    most = max(len(results) for results in runs.values())
    seeds = f"{most} seeds" if most > 1 else f"seed {next(iter(runs.values()))[0]['seed']}"
    figure.suptitle(f"{text}, {seeds}", x=0.01, ha="left", fontsize=12)


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
    """x, mean and sample deviation of several curves that were sampled at the same places."""
    shortest = min(len(r) for r in runs)
    points = np.array([r[:shortest] for r in runs]).reshape(len(runs), shortest, 2)
    std = points[..., 1].std(0, ddof=min(len(runs) - 1, 1))
    return points[..., 0].mean(0), points[..., 1].mean(0), std


@_one_at_a_time
def noisy_label_curves(runs: Mapping[str, Sequence[dict]], path: pathlib.Path) -> None:
    """Draws test accuracy, calibration error and detection of wrong labels by epoch.

    Args:
      runs: label -> results of one or more seeds (contents of `results.json`), as for
        `learning_curves`. Detection is left out where the truth is not known.
      path: the PNG to write.
    """
    first = next(iter(runs.values()))[0]
    panels = [
        ("Test accuracy (%)", _of_epochs(lambda e: 100 * e["accuracy"])),
        ("Calibration error on the test images (%)", _of_epochs(lambda e: 100 * e["ece"])),
    ]
    if "f1" in first["last"]["labels"]:
        panels.append(
            ("F1 of wrong labels found (%)", _of_epochs(lambda e: 100 * e["labels"]["f1"]))
        )
    noise = first["noise"]
    figure, axes = _curves(runs, panels, markers=False)
    for axis in axes:
        axis.set_xlabel("Epoch")
    _suptitle(figure, f"{first['dataset']}, noise: {_noise_text(noise)}", runs)
    axes[0].legend(frameon=False, loc="lower right")
    _save(figure, path)


def _noise_text(noise: dict) -> str:
    if noise["kind"] == "none":
        return "as it came"
    return f"{noise['kind']}, {100 * noise['realised_rate']:.1f} % wrong"


def _of_epochs(value):
    """Series of a measure of each epoch."""
    return lambda results: [(e["epoch"], value(e)) for e in results["epochs"]]


@_one_at_a_time
def distillation_curves(runs: Mapping[str, Sequence[dict]], path: pathlib.Path) -> None:
    """Draws a student's test accuracy and calibration error and, where there was a teacher, how the
    gradients of cross-entropy and of BinaryKL on the primary head agree, by epoch.

    Args:
      runs: label -> results of one or more seeds (contents of `results.json`), as for
        `learning_curves`. The gradients are left out if a run has none.
      path: the PNG to write.
    """
    first = next(iter(runs.values()))[0]
    panels = [
        ("Test accuracy (%)", _of_epochs(lambda e: 100 * e["accuracy"])),
        ("Calibration error on the test images (%)", _of_epochs(lambda e: 100 * e["ece"])),
    ]
    if all("binary_kl" in r["last"]["diagnosis"] for results in runs.values() for r in results):
        panels += [
            (f"Cosine of CE and BinaryKL gradients, {part}", _of_epochs(_cosine_on(part)))
            for part in ("head", "backbone")
        ]
    figure, axes = _curves(runs, panels, markers=False)
    for axis in axes:
        axis.set_xlabel("Epoch")
    for axis in axes[2:]:
        axis.axhline(0, color=COLORS[6], lw=0.8, zorder=0)
    _suptitle(figure, _taught(first), runs)
    axes[0].legend(frameon=False, loc="lower right")
    _save(figure, path)


@_one_at_a_time
def multilabel_curves(runs: Mapping[str, Sequence[dict]], path: pathlib.Path) -> None:
    """Draws a student's mAP, and its F1 with as many labels as each image truly has, by epoch.

    Args:
      runs: label -> results of one or more seeds (contents of `results.json`), as for
        `learning_curves`.
      path: the PNG to write.
    """
    first = next(iter(runs.values()))[0]
    titles = {
        "mAP": "mAP (%)",
        "OF1": "F1 over all labels, oracle top-k (%)",
        "CF1": "Mean F1 of the classes, oracle top-k (%)",
    }
    panels = [(title, _of_epochs(_in_percent(name))) for name, title in titles.items()]
    figure, axes = _curves(runs, panels, markers=False)
    for axis in axes:
        axis.set_xlabel("Epoch")
    _suptitle(figure, _taught(first), runs)
    axes[0].legend(frameon=False, loc="lower right")
    _save(figure, path)


def _in_percent(name: str):
    return lambda entry: 100 * entry[name]


def _taught(results: dict) -> str:
    """Data set, student and teacher."""
    taught = f" taught by {results['teacher']['name']}" if results["teacher"] else ""
    return f"{results['dataset']}, {results['student']['name']}{taught}"


def _cosine_on(part: str):
    return lambda entry: entry["diagnosis"]["binary_kl"][f"{part}_cosine"]


@_one_at_a_time
def reliability_diagram(
    probs: np.ndarray, labels: np.ndarray, path: pathlib.Path, *, num_bins: int = 10
) -> None:
    """Draws accuracy against confidence, with the share of images in each bin.

    Args:
      probs: [n, C], predicted probabilities.
      labels: int [n].
      path: the PNG to write.
      num_bins: how many bins of confidence.
    """
    confidence, hits = probs.max(axis=1), probs.argmax(axis=1) == labels
    edges = np.linspace(0, 1, num_bins + 1)
    bins = np.searchsorted(edges[1:-1], confidence, side="left")
    counts = np.bincount(bins, minlength=num_bins)
    accuracy = np.bincount(bins, hits, num_bins) / np.maximum(counts, 1)
    pyplot = _pyplot()
    figure, (top, bottom) = pyplot.subplots(
        2, 1, figsize=(4.5, 5.5), layout="constrained", sharex=True, height_ratios=(3, 1)
    )
    style = {"width": 1 / num_bins, "align": "edge", "ec": "white"}
    top.bar(edges[:-1], accuracy, color=COLORS[0], label="accuracy", **style)
    top.plot([0, 1], [0, 1], color=COLORS[1], lw=1.5, ls="--", label="calibrated")
    error = expected_calibration_error(probs, labels, num_bins=num_bins)
    top.set_title(f"Calibration on the test images, error {error:.3f}", loc="left", fontsize=11)
    top.set_ylabel("Accuracy")
    top.legend(frameon=False, loc="upper left")
    bottom.bar(edges[:-1], counts / len(labels), color=COLORS[6], **style)
    bottom.set_xlabel("Confidence")
    bottom.set_ylabel("Share of images")
    for axis in (top, bottom):
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
    """Draws how a score of the given labels is distributed, and what splits them.

    Args:
      scores: [N], high for labels that look right, by network.
      title: what the score is called.
      path: the PNG to write.
      is_wrong: bool [N], which labels are wrong, if known.
      thresholds: by network, labels whose score is below it are called wrong; None draws the
        mixture of two Gaussians in its place.
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
            axis.hist(score[part], bins, weights=weights, color=color, alpha=0.55, label=label)
        if thresholds[name] is None:
            _draw_mixture(axis, score, low, bins[-1] - bins[0])
        else:
            axis.axvline(thresholds[name], color=COLORS[6], lw=1.4, ls="--", label="flagged below")
        axis.set_title(f"{title}, {name}", loc="left", fontsize=11)
        axis.set_ylabel("Density")
        axis.legend(frameon=False)
        _plain_axis(axis)
    _save(figure, path)


def _draw_mixture(axis, score: np.ndarray, low: float, width: float) -> None:
    """Densities of the two Gaussians, fitted on the scale on which the methods fit them."""
    mixture = fit_gaussian_mixture_1d(min_max_normalize(score))
    x = np.linspace(0, 1, 400)
    components = zip(*map(np.asarray, mixture[:3]), ("two Gaussians", None), strict=True)
    for mean, variance, weight, label in components:
        density = weight * np.exp(-((x - mean) ** 2) / (2 * variance))
        density = density / np.sqrt(2 * np.pi * variance) / width
        axis.plot(low + x * width, density, color=COLORS[6], lw=1.4, label=label)


@_one_at_a_time
def contact_sheet(
    images: np.ndarray,
    captions: Sequence[tuple[str, str]],
    path: pathlib.Path,
    *,
    wrong: np.ndarray | None = None,
    columns: int = 10,
) -> None:
    """Draws images in rows, each with its given and its suggested label.

    Args:
      images: uint8 [n, H, W, 3].
      captions: (given, suggested) of each.
      path: the PNG to write.
      wrong: bool [n], which given labels are wrong, if known: their captions are coloured.
      columns: images in a row.
    """
    pyplot = _pyplot()
    rows = max(-(-len(images) // columns), 1)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(1.15 * columns, 1.5 * rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for i, (axis, image, (given, suggested)) in enumerate(
        zip(axes.flat, images, captions, strict=False)
    ):
        axis.imshow(image, interpolation="nearest")
        color = "black" if wrong is None else COLORS[1] if wrong[i] else COLORS[2]
        given, suggested = (_shortened(name, 17) for name in (given, suggested))
        axis.set_title(f"{given}\n→ {suggested}", fontsize=7, color=color)
    legend = "" if wrong is None else "; orange: the given label is wrong, green: it is right"
    figure.suptitle(f"Given label → suggested label{legend}", x=0.01, ha="left", fontsize=10)
    _save(figure, path)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False  # a class may be called $x$
    from matplotlib import pyplot

    return pyplot


def _plain_axis(axis) -> None:
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _save(figure, path: pathlib.Path) -> None:
    """Writes a PNG so that a kill leaves the old file or the new one, and closes the figure."""
    content = io.BytesIO()
    figure.savefig(content, dpi=130, format="png")
    write_bytes(path, content.getvalue())
    _pyplot().close(figure)
