"""Compares finished runs: `python -m jaxrobust compare runs/* --out=comparison`.

Draws the main measures of the runs' task, one line per group with a band over its seeds, and prints
them as a table. Active learning: accuracy, query precision and query recall by round, or with
`--x=annotated` by the number of annotated images. Noisy labels: accuracy, calibration and detection
by epoch. Distillation: accuracy, calibration and the agreement of gradients by epoch, or mAP and F1
if images have several labels.
"""

import collections
import contextlib
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxrobust.engine.workdir import flatten, read_object
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.report.figures import (
    distillation_curves,
    learning_curves,
    multilabel_curves,
    noisy_label_curves,
)


def _of_labels(name: str) -> Callable[[dict], float]:
    """A measure of detection, which a run has if the true labels are known."""
    return lambda results: results["last_epochs"]["labels"][name]


class _Comparison(NamedTuple):
    """How the runs of one task are compared."""

    problem: Callable[[dict], tuple]  # results -> values that must agree in all runs
    columns: dict[str, Callable[[dict], float]]  # heading -> (results -> fraction in [0, 1])
    note: Callable[[dict], str]  # results -> sentence about the rounds or epochs of the columns
    # quantity on the horizontal axis, the default first -> drawing function
    figures: dict[str, Callable]


_BEST = "; the best epoch is chosen on the test images."

_COMPARISONS = {
    "active_learning": _Comparison(
        problem=lambda r: (r["dataset"], r["num_known_classes"], r["num_classes"]),
        columns={
            "last accuracy": lambda r: r["last"]["accuracy"],
            "mean accuracy": lambda r: r["mean_accuracy"],
            "area under curve": lambda r: r["area_under_accuracy_curve"],
            "mean query precision": lambda r: r["mean_query_precision"],
            "last query recall": lambda r: r["last_query_recall"],
        },
        note=lambda r: "Means are over all rounds.",
        figures={x: functools.partial(learning_curves, x=x) for x in ("rounds", "annotated")},
    ),
    "distillation": _Comparison(
        problem=lambda r: (r["dataset"], r["num_classes"], r["student"]["name"]),
        columns={
            "accuracy, last epoch": lambda r: r["last"]["accuracy"],
            "best accuracy": lambda r: r["best"]["accuracy"],
            "top-5 accuracy": lambda r: r["last"]["top5_accuracy"],
            "calibration error": lambda r: r["last"]["ece"],
        },
        note=lambda r: f"After the last epoch{_BEST}",
        figures={"epochs": distillation_curves},
    ),
    "multi-label distillation": _Comparison(
        problem=lambda r: (r["dataset"], r["num_classes"], r["student"]["name"]),
        columns={
            "mAP, last epoch": lambda r: r["last"]["mAP"],
            "OF1": lambda r: r["last"]["OF1"],
            "CF1": lambda r: r["last"]["CF1"],
            "best mAP": lambda r: r["best"]["mAP"],
        },
        note=lambda r: f"After the last epoch{_BEST}",
        figures={"epochs": multilabel_curves},
    ),
    "noisy_labels": _Comparison(
        problem=lambda r: (r["dataset"], r["noise"]["kind"], r["noise"]["rate"]),
        columns={
            "accuracy, last epochs": lambda r: r["last_epochs"]["accuracy"],
            "best accuracy": lambda r: r["best"]["accuracy"],
            "calibration error": lambda r: r["last_epochs"]["ece"],
            "detection AUROC": _of_labels("auroc_clean_prob"),
            "detection precision": _of_labels("precision"),
            "detection recall": _of_labels("recall"),
            "detection F1": _of_labels("f1"),
        },
        note=lambda r: f"Means of the last {r['last_epochs']['num']} epochs{_BEST}",
        figures={"epochs": noisy_label_curves},
    ),
}


def load_results(workdir: pathlib.Path) -> dict:
    """`results.json` of a finished run."""
    if not (workdir / "results.json").exists():
        raise UserError(f"{workdir} holds no results.json; let its run finish first.")
    return read_object(workdir / "results.json")


def group(workdirs: list[pathlib.Path], by: str) -> dict[str, list[dict]]:
    """Results of the `folders`, by label, every label's seeds in ascending order."""
    found = folders(workdirs, by)
    return {label: [load_results(f) for f in of_label] for label, of_label in found.items()}


def folders(workdirs: list[pathlib.Path], by: str) -> dict[str, list[pathlib.Path]]:
    """Workdirs of single seeds by label, every label's seeds in ascending order.

    `by` is a field of `config.json`, such as `method` or `select.fine`; several are joined by
    commas. Empty: the method, or whatever else differs if two runs of a method have the same seed.
    """
    groups: dict[str, dict[int, pathlib.Path]] = collections.defaultdict(dict)
    problems = {}
    single = _of_single_seeds(workdirs)
    configs = [read_object(workdir / "config.json") for workdir in single]
    seeds = [load_results(workdir)["seed"] for workdir in single]
    labels = _labels(single, configs, seeds, by)
    for workdir, label, seed in zip(single, labels, seeds, strict=True):
        results = load_results(workdir)
        task = _kind(results)
        if task not in _COMPARISONS:
            raise UserError(f"{workdir} is a run of task {task!r}, which cannot be compared.")
        problems[task, *_COMPARISONS[task].problem(results)] = workdir
        if seed in groups[label]:
            differing = [name for name in _differing(configs) if name not in by.split(",")]
            fields = f" by --by={differing[0]}" if differing else ""
            raise UserError(
                f"Two runs of {label!r} have seed {seed} (one is {workdir}); leave one out, or "
                f"separate them{fields or ' by --by=FIELD'}."
            )
        groups[label][seed] = workdir
    if len(problems) > 1:
        first, second = list(problems.values())[:2]
        raise UserError(
            f"{first} and {second} are not the same problem (data set, and known classes, noise "
            "or student, must agree); compare them separately."
        )
    return {label: [of[seed] for seed in sorted(of)] for label, of in groups.items()}


def _labels(
    workdirs: Sequence[pathlib.Path], configs: Sequence[dict], seeds: Sequence[int], by: str
) -> list[str]:
    if by:
        return [
            ", ".join(_text(name, _field(config, name, workdir)) for name in by.split(","))
            for workdir, config in zip(workdirs, configs, strict=True)
        ]
    methods = [str(config["method"]) for config in configs]
    if len(set(zip(methods, seeds, strict=True))) == len(workdirs):
        return methods
    names = _differing(configs)
    if not 0 < len(names) <= _MAX_FIELDS:
        return [str(workdir) for workdir in workdirs]
    flat = [flatten(config) for config in configs]
    return [
        ", ".join(
            _text(name, fields.get(name))
            if name in ("method", _CORRECTIONS)
            else f"{name.rpartition('.')[2]} {_text(name, fields.get(name))}"
            for name in names
        )
        for fields in flat
    ]


_MAX_FIELDS = 2  # that name runs; else their folders do
_CORRECTIONS = "dataset.corrections"
_NOT_TOLD = ("seed", "num_seeds", "writers", "log_every")  # fields that make no other experiment


def _differing(configs: Sequence[dict]) -> list[str]:
    """Fields that are not the same in all runs, the method first."""
    flat = [flatten(config) for config in configs]
    names = dict.fromkeys(name for fields in flat for name in fields)
    different = [n for n in names if any(fields.get(n) != flat[0].get(n) for fields in flat)]
    told = [n for n in different if n not in _NOT_TOLD]
    return sorted(told, key=lambda name: name != "method")


def _text(name: str, value: object) -> str:
    """A value as the name of a run; never empty."""
    if name == _CORRECTIONS:
        paths = [pathlib.Path(path.strip()).name for path in str(value).split(",") if path.strip()]
        return f"corrected by {', '.join(paths)}" if paths else "labels as given"
    return str(value) if value not in ("", None) else f"no {name}"


def _of_single_seeds(workdirs: list[pathlib.Path]) -> list[pathlib.Path]:
    """The folders, with one of several seeds replaced by the folder of each seed."""
    single = []
    for workdir in workdirs:
        seeds = load_results(workdir).get("seeds")
        single += [workdir] if seeds is None else [workdir / f"seed_{seed}" for seed in seeds]
    return single


def _field(config: dict, name: str, workdir: pathlib.Path):
    value = config
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise UserError(f"{workdir / 'config.json'} has no {name!r}; choose another --by.")
        value = value[part]
    return value


def table(groups: dict[str, list[dict]]) -> str:
    """Markdown table: mean and standard deviation over seeds, in percent."""
    columns = _comparison(groups).columns
    lines = [
        "| | seeds | " + " | ".join(columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for label, values in statistics(groups).items():
        mean, std = values["mean"], values["std"]
        cells = [
            f"{100 * mean[name]:.1f} ± {100 * std[name]:.1f}" if name in mean else "–"
            for name in columns
        ]
        lines.append(f"| {label} | {len(groups[label])} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def statistics(groups: dict[str, list[dict]]) -> dict[str, dict[str, dict[str, float]]]:
    """Label -> `mean` and sample `std` (0 for one seed) of every measure, as fractions.

    Measures that a run does not have are absent: recall with a person as oracle, accuracy without
    test images, detection without true labels.
    """
    columns = _comparison(groups).columns
    found = {}
    for label, results in groups.items():
        mean, std = {}, {}
        for name, value in columns.items():
            with contextlib.suppress(KeyError):
                numbers = [value(r) for r in results]
                mean[name] = float(np.mean(numbers))
                std[name] = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else 0.0
        found[label] = {"mean": mean, "std": std}
    return found


def note(groups: dict[str, list[dict]]) -> str:
    """Sentence about the rounds or epochs of the measures."""
    return _comparison(groups).note(next(iter(groups.values()))[0])


def draw(
    groups: dict[str, list[dict]],
    path: pathlib.Path,
    *,
    x: str | None = None,
    columns: int | None = None,
) -> None:
    """The figure for the task of the runs: one line per label, with a band over its seeds."""
    figures = _comparison(groups).figures
    x = x or next(iter(figures))
    if x not in figures:
        raise UserError(unknown_name("--x", x, figures))
    figures[x](groups, path, columns=columns)


def _comparison(groups: dict[str, list[dict]]) -> _Comparison:
    return _COMPARISONS[_kind(next(iter(groups.values()))[0])]


def _kind(results: dict) -> str:
    """Key of `_COMPARISONS`."""
    return "multi-label distillation" if "mAP" in results.get("last", {}) else results["task"]
