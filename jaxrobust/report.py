"""Figures of finished runs."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

# Colour-blind safe (Okabe and Ito), in the order in which they tell best apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def learning_curves(runs: Mapping[str, Sequence[dict]], path: pathlib.Path) -> None:
    """Draws accuracy, query precision and query recall against the number of annotated images.

    Args:
      runs: label -> results of one or more seeds (contents of `results.json`); with several seeds
        the line is their mean and the band one standard deviation to each side.
      path: the PNG to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = (
        ("Accuracy on known classes (%)", _accuracy),
        ("Query precision (%)", _of_queries("precision")),
        ("Query recall (%)", _of_queries("recall")),
    )
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for axis, (title, series) in zip(axes, panels, strict=True):
        for i, (label, results) in enumerate(runs.items()):
            x, mean, std = _band([series(r) for r in results])
            style = {"color": COLORS[i % len(COLORS)]}
            axis.plot(x, mean, marker=MARKERS[i % len(MARKERS)], ms=5, lw=1.8, label=label, **style)
            if len(results) > 1:
                axis.fill_between(x, mean - std, mean + std, alpha=0.18, lw=0, **style)
        axis.set_title(title, loc="left", fontsize=11)
        axis.set_xlabel("Annotated images")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    first = next(iter(runs.values()))[0]
    counts = {len(r) for r in runs.values()}
    seeds = f"{max(counts)} seeds" if max(counts) > 1 else f"seed {first['seed']}"
    figure.suptitle(
        f"{first['dataset']}, {first['num_known_classes']} of {first['num_classes']} classes "
        f"known, {seeds}",
        x=0.01,
        ha="left",
        fontsize=12,
    )
    axes[0].legend(frameon=False, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".part")
    figure.savefig(scratch, dpi=130, format="png")
    scratch.replace(path)
    pyplot.close(figure)


def _annotated(entry: dict) -> int:
    return entry["num_labeled_known"] + entry["num_labeled_unknown"]


def _accuracy(results: dict) -> list[tuple[float, float]]:
    return [(_annotated(r), 100 * r["accuracy"]) for r in results["rounds"] if "accuracy" in r]


def _of_queries(name: str):
    """Series of a query's measure, at the number of images annotated after it."""

    def series(results: dict) -> list[tuple[float, float]]:
        queried = [r for r in results["rounds"] if name in r.get("query", {})]
        return [(_annotated(r) + r["query"]["size"], 100 * r["query"][name]) for r in queried]

    return series


def _band(runs: list[list[tuple[float, float]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, mean and standard deviation of several curves that were sampled at the same places."""
    shortest = min(len(r) for r in runs)
    points = np.array([r[:shortest] for r in runs]).reshape(len(runs), shortest, 2)
    return points[..., 0].mean(0), points[..., 1].mean(0), points[..., 1].std(0)
