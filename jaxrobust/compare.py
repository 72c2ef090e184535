"""Compares finished runs: `python -m jaxrobust.compare runs/* --out=comparison`.

Draws accuracy, query precision and query recall against the number of annotated images, one line
per group with a band over its seeds, and prints the table behind it.
"""

import argparse
import collections
import json
import pathlib
import statistics
import sys

from jaxrobust.engine.runtime import write_text
from jaxrobust.errors import UserError
from jaxrobust.report import learning_curves


def load_results(workdir: pathlib.Path) -> dict:
    """`results.json` of a finished run.

    Raises:
      UserError: if the run is not finished, or the file is damaged.
    """
    path = workdir / "results.json"
    if not path.exists():
        raise UserError(f"{workdir} holds no results.json; let its run finish first.")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}); delete it and repeat the run's command to write it anew."
        ) from None


def group(workdirs: list[pathlib.Path], by: str) -> dict[str, list[dict]]:
    """Results by label, every label's seeds in ascending order.

    Args:
      workdirs: folders of finished runs.
      by: a field of `config.json`, such as `method` or `select.fine`; several are joined by commas.

    Raises:
      UserError: if a run lacks the field, the runs are of different problems, or a label holds one
        seed twice.
    """
    groups: dict[str, list[dict]] = collections.defaultdict(list)
    problems = {}
    for workdir in workdirs:
        results = load_results(workdir)
        config = json.loads((workdir / "config.json").read_text())
        label = ", ".join(str(_field(config, name, workdir)) for name in by.split(","))
        problem = tuple(results[k] for k in ("dataset", "num_known_classes", "num_classes"))
        problems[problem] = workdir
        if results["seed"] in [r["seed"] for r in groups[label]]:
            raise UserError(
                f"Two runs of {label!r} have seed {results['seed']} (one is {workdir}); leave one "
                "out, or tell them apart with --by=FIELD."
            )
        groups[label].append(results)
    if len(problems) > 1:
        first, second = list(problems.values())[:2]
        raise UserError(
            f"{first} and {second} are not the same problem (dataset and known classes differ); "
            "compare them separately."
        )
    return {label: sorted(rs, key=lambda r: r["seed"]) for label, rs in groups.items()}


def _field(config: dict, name: str, workdir: pathlib.Path):
    value = config
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise UserError(f"{workdir / 'config.json'} has no {name!r}; choose another --by.")
        value = value[part]
    return value


def table(groups: dict[str, list[dict]]) -> str:
    """Markdown table: mean and standard deviation over seeds, in percent."""
    columns = {
        "last accuracy": lambda r: r["last"]["accuracy"],
        "mean accuracy": lambda r: r["mean_accuracy"],
        "area under curve": lambda r: r["area_under_accuracy_curve"],
        "mean query precision": lambda r: r["mean_query_precision"],
        "last query recall": lambda r: r["last_query_recall"],
    }
    lines = [
        "| | seeds | " + " | ".join(columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for label, results in groups.items():
        cells = []
        for value in columns.values():
            try:
                numbers = [100 * value(r) for r in results]
            except KeyError:  # no recall with a person as oracle, no accuracy without test images
                cells.append("–")
                continue
            spread = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
            cells.append(f"{statistics.fmean(numbers):.1f} ± {spread:.1f}")
        lines.append(f"| {label} | {len(results)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdirs", nargs="+", type=pathlib.Path, help="folders of finished runs")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the figure")
    parser.add_argument("--by", default="method", help="config field that tells groups apart")
    arguments = parser.parse_args(argv)
    try:
        groups = group(arguments.workdirs, arguments.by)
    except UserError as error:
        print(f"jaxrobust: {error}", file=sys.stderr)
        return 2
    text = table(groups)
    print(text)
    write_text(arguments.out / "table.md", text + "\n")
    figure = arguments.out / "learning_curves.png"
    learning_curves(groups, figure)
    print(f"figure: {figure}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
