"""The files of a run's workdir: recipe, results, events and tables, checked while reading."""

import csv
import json
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.data.tables import unescape_formula
from jaxrobust.engine.workdir import read_object
from jaxrobust.errors import UserError
from jaxrobust.report import compare

TASKS = {
    "active_learning": "Active learning from a pool with unknown classes",
    "noisy_labels": "Training on partly wrong labels",
    "distillation": "Distillation of a teacher into a smaller student",
}
"""Task -> subtitle of its page."""


class RunFiles(NamedTuple):
    """The files of one seed's workdir."""

    workdir: pathlib.Path  # the folder
    config: dict  # the recipe
    results: dict | None  # of a finished run, else None
    starts: list[dict]  # environment of every start
    events: list[dict]  # lines of `metrics.jsonl`

    @property
    def seconds(self) -> float | None:
        """Duration, or None if it was not recorded."""
        timing = read_json(self.workdir / "timing.json") or {}
        return timing.get("seconds", self.events[-1]["seconds"] if self.events else None)


def read_run(workdir: pathlib.Path) -> RunFiles:
    results, config = workdir / "results.json", read_json(workdir / "config.json")
    if config is None or config.get("task") not in TASKS:
        raise UserError(
            f"{workdir / 'config.json'} is not from a jaxrobust run; give the --workdir of one."
        )
    return RunFiles(
        workdir=workdir,
        config=config,
        results=compare.load_results(workdir) if results.exists() else None,
        starts=(read_json(workdir / "environment.json") or {}).get("starts", []),
        events=_events(workdir / "metrics.jsonl"),
    )


def single_seeds(workdirs: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """The folders, with one of several seeds replaced by the folder of each seed."""
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
                f"{workdir} is not a workdir: it holds no config.json; give the --workdir of a run."
            )
        else:
            raise UserError(f"{workdir} does not exist; give the --workdir of a run.")
    return single


def _events(path: pathlib.Path) -> list[dict]:
    """Events of a run, without a last line that was not written completely."""
    events = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            events.append(json.loads(line))
        except ValueError:
            break
    return events


def read_json(path: pathlib.Path) -> dict[str, Any] | None:
    """The JSON object in a file, None if it does not exist; raises as `read_object`."""
    return read_object(path) if path.exists() else None


def read_rows(path: pathlib.Path) -> list[list[str]]:
    """Rows of a CSV file as they were before `escape_formula`; empty if it does not exist."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [list(map(unescape_formula, row)) for row in csv.reader(file)]
        if any(len(row) != len(rows[0]) for row in rows):
            raise ValueError("its lines differ in length")
        return rows
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path} is damaged ({error}); rerun the run's command to write it again."
        ) from None


def read_tables(runs: Iterable[RunFiles], name: str) -> dict[pathlib.Path, list[list[str]]]:
    """Path -> rows, for the file of that name of every run."""
    return {run.workdir / name: read_rows(run.workdir / name) for run in runs}


def to_numbers(path: pathlib.Path, rows: list[list[str]], first: int) -> np.ndarray:
    """Cells below a file's header, from column `first` on."""
    try:
        numbers = np.array([row[first:] for row in rows[1:]], float)
        if not numbers.size:
            raise ValueError
        return numbers
    except ValueError:
        raise UserError(
            f"{path} is damaged (a number in it is missing or is not a number); rerun the run's "
            "command to write it again."
        ) from None
