"""Measures recipes: `python -m jaxrobust.benchmark --config=configs/dpc.py:digits`.

Runs the first epochs (or rounds) of each recipe, as `jaxrobust.main` would, and times every
compiled program of the run. A program is waited for after every call, and its first call is left
out.
"""

import argparse
import ast
import logging
import math
import pathlib
import runpy
import sys
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxrobust import tasks
from jaxrobust.engine.files import write_json
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.runtime import environment, setup_jax
from jaxrobust.errors import UserError
from jaxrobust.recipes import locate, no_recipe
from jaxrobust.tasks._shared import compute_dtype

# What makes a recipe short, where it has the field: every stage of every method is still run.
SHORT = {
    "num_epochs": 3,
    "al.rounds": 2,
    "bldr.warm_up": 1,
    "dpc.warm_up": 1,
    "teacher.num_epochs": 2,
}


class MeasuredPrograms(Programs):
    """Programs that note what each call took.

    Attributes:
      notes: name -> compile time, cost and the calls of a program.
      seconds_compiling: in all.
    """

    def __init__(self):
        super().__init__()
        self.notes: dict[str, dict] = {}
        self.seconds_compiling = 0.0
        self.span = [math.inf, 0.0]

    def jit(
        self, name: str, function: Callable, *, visits: Callable | None = None, **options
    ) -> Callable:
        jitted = super().jit(name, function, **options)
        compiled = None

        def measured(*args):
            nonlocal compiled
            if compiled is None:
                compiled = self._compile(name, jitted, args)
            steps, images = visits(*args) if visits else (1, 0)
            started = time.perf_counter()
            results = jax.block_until_ready(compiled(*args))
            ended = time.perf_counter()
            self.notes[name]["calls"].append((ended - started, steps, images))
            self.span = [min(self.span[0], started), max(self.span[1], ended)]
            return results

        return measured

    def _compile(self, name: str, jitted, args):
        started = time.perf_counter()
        compiled = jitted.lower(*args).compile()
        seconds = time.perf_counter() - started
        if self.span[0] < started:
            self.seconds_compiling += seconds
        memory = compiled.memory_analysis()
        self.notes[name] = {
            "compile_seconds": seconds,
            # The body of a loop is counted once: what one step costs.
            "flops_per_step": float((compiled.cost_analysis() or {}).get("flops", math.nan)),
            "bytes": sum(
                getattr(memory, f"{kind}_size_in_bytes", 0)
                for kind in ("argument", "output", "temp")
            ),
            "calls": [],
        }
        return compiled


def load_config(path: str, changes: list[str]) -> ml_collections.ConfigDict:
    """A recipe, short, with fields changed.

    Args:
      path: `FILE` or `FILE:VARIANT`.
      changes: `FIELD=VALUE`.

    Raises:
      UserError: if there is no such file or field.
    """
    file, _, variant = locate(path).partition(":")
    if not pathlib.Path(file).exists():
        raise UserError(no_recipe(file))
    config = runpy.run_path(file)["get_config"](*([variant] if variant else []))
    fields = {"writers": ("jsonl",), **SHORT}
    for change in changes:
        field, _, text = change.partition("=")
        try:
            fields[field] = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            fields[field] = text
    for field, value in fields.items():
        known = field in _flat(config)
        if known:
            config.update_from_flattened_dict({field: value})
        elif field not in SHORT:
            raise UserError(f"{path} has no field {field!r} to set.")
    return config


def _flat(config: ml_collections.ConfigDict, prefix: str = "") -> set[str]:
    names = set()
    for name, value in config.items():
        is_section = isinstance(value, ml_collections.ConfigDict)
        names |= _flat(value, f"{prefix}{name}.") if is_section else {prefix + name}
    return names


def measured_peak(dtype) -> float:
    """FLOP/s of a large matrix product in `dtype` on one device, the best of ten."""
    size = 1024 if jax.default_backend() == "cpu" else 8192
    x = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    best = math.inf
    for _ in range(10):
        started = time.perf_counter()
        product(x, x).block_until_ready()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def measure(config: ml_collections.ConfigDict) -> dict:
    """Runs a recipe and reports on its programs.

    Returns:
      JSON-able: `programs`, a list ordered by the time spent in them, and the share of the run in
      which the device had nothing to do.
    """
    setup_jax(config)
    programs = MeasuredPrograms()
    with tempfile.TemporaryDirectory() as workdir:
        tasks.TASKS[config.task](config, pathlib.Path(workdir) / "run", programs)
    peak = measured_peak(compute_dtype(config.dtype)) * jax.device_count()
    rows = [_report(name, note, peak) for name, note in programs.notes.items()]
    busy = sum(seconds for note in programs.notes.values() for seconds, *_ in note["calls"])
    total = programs.span[1] - programs.span[0] - programs.seconds_compiling
    stats = jax.devices()[0].memory_stats() or {}
    return {
        "programs": sorted(rows, key=lambda r: -r["total_seconds"]),
        "peak_tflops": peak / 1e12,
        "idle_share": max(0.0, 1 - busy / total),
        # A CPU keeps no count; there it is what the largest program needs.
        "peak_memory_bytes": stats.get(
            "peak_bytes_in_use", max(note["bytes"] for note in programs.notes.values())
        ),
    }


def _report(name: str, note: dict, peak: float) -> dict:
    calls = note["calls"][1:] or note["calls"]
    seconds, steps, images = (np.array(column, float) for column in zip(*calls, strict=True))
    per_step = seconds / np.maximum(steps, 1)
    row = {
        "program": name,
        "calls": len(note["calls"]),
        "steps": int(steps.sum()),
        "total_seconds": float(seconds.sum()),
        "compile_seconds": note["compile_seconds"],
        **{f"step_ms_p{q}": 1e3 * float(np.percentile(per_step, q)) for q in (10, 50, 90)},
        "memory_bytes": note["bytes"],
    }
    if images.sum():
        row["images_per_second"] = float(images.sum() / seconds.sum())
        row["gflop_per_image"] = note["flops_per_step"] * float(steps.sum() / images.sum()) / 1e9
        row["mfu"] = note["flops_per_step"] * float(steps.sum() / seconds.sum()) / peak
    return row


COLUMNS = {
    "program": ("program", "{}"),
    "calls": ("calls", "{}"),
    "images/s": ("images_per_second", "{:,.0f}"),
    "step ms p50": ("step_ms_p50", "{:.2f}"),
    "p10": ("step_ms_p10", "{:.2f}"),
    "p90": ("step_ms_p90", "{:.2f}"),
    "compile s": ("compile_seconds", "{:.1f}"),
    "GFLOP/image": ("gflop_per_image", "{:.4f}"),
    "MFU": ("mfu", "{:.1%}"),
    "memory MB": ("memory_bytes", "{:,.0f}"),
}


def table(report: dict) -> str:
    """The report's programs in markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for row in report["programs"]:
        row = {**row, "memory_bytes": row["memory_bytes"] / 1e6}
        cells = [form.format(row[key]) if key in row else "" for key, form in COLUMNS.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", action="append", required=True, metavar="FILE[:VARIANT]")
    parser.add_argument(
        "--batch_sizes", default="", help="measure each config at these, separated by commas"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field"
    )
    parser.add_argument("--out", type=pathlib.Path, help="write the reports as JSON")
    arguments = parser.parse_args(argv)
    logging.getLogger("jaxrobust").setLevel(logging.WARNING)
    reports = []
    try:
        for path in arguments.config:
            for size in arguments.batch_sizes.split(","):
                changes = arguments.set + ([f"batch_size={size}"] if size else [])
                report = measure(load_config(path, changes))
                reports.append({"config": path, "changes": changes, **report})
                print(
                    f"\n{path} {' '.join(changes)}\n\n{table(report)}\n\n"
                    f"{jax.device_count()} x {jax.devices()[0].device_kind}, measured peak "
                    f"{report['peak_tflops']:.2f} TFLOP/s; the device waited for the host "
                    f"{report['idle_share']:.1%} of the time; peak memory "
                    f"{report['peak_memory_bytes'] / 1e6:,.0f} MB"
                )
    except UserError as error:
        print(f"jaxrobust: {error}", file=sys.stderr)
        return 2
    if arguments.out:
        write_json(arguments.out, {"environment": environment(), "reports": reports})
        print(f"\nreports: {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
