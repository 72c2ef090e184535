"""Measures recipes: `python -m jaxrobust benchmark --config=configs/dpc.py:digits`.

Runs the first epochs (or rounds) of each recipe as `jaxrobust.main` does, and times every compiled
program of the run, without its first call. The host waits for the device after every call. With
`--random` images are random, in the recipe's shape, and no data set is needed.

A call is a step on a CPU and a part of an epoch on an accelerator, where percentiles are therefore
over parts of up to two seconds, weighted by their steps. A normal run does not wait after every
call, so its device is idle for at most as long as measured here.
"""

import ast
import contextlib
import itertools
import logging
import math
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxrobust import recipes, tasks
from jaxrobust.commands.parser import Parser, new_file
from jaxrobust.data.dataset import Dataset, Examples, FileDataset, FileExamples
from jaxrobust.engine.environment import ask_for_determinism, environment, setup_jax
from jaxrobust.engine.files import write_json
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.signals import Interrupted
from jaxrobust.engine.workdir import flatten
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.recipes.fields import replace
from jaxrobust.recipes.parse import Recipe, parse, plain
from jaxrobust.tasks.common import compute_dtype

# Changes that shorten a recipe, for the fields it has; every stage of every method is still run.
SHORT = {
    "num_epochs": 3,
    "al.query_last": True,  # so that BUAL trains f_aux: after the first answers, for a query
    "al.rounds": 2,
    "bldr.warm_up": 1,
    "dpc.warm_up": 1,
    "e2oal.unknowns": "one",  # the same programs, without features and clusters on the CPU
    "teacher.num_epochs": 2,
}

# Shape of the random images for each data set: number of training and of test images, side in
# pixels, number of classes, and whether an image has several labels.
SETS = {
    "digits": (1_437, 360, 8, 10, False),
    "cifar10": (50_000, 10_000, 32, 10, False),
    "cifar100": (50_000, 10_000, 32, 100, False),
    "fashion_mnist": (60_000, 10_000, 28, 10, False),
    "tiny_imagenet": (100_000, 10_000, 64, 200, False),
    "imagenet": (1_281_167, 50_000, 224, 1000, False),
    "mini_webvision": (65_944, 2_500, 299, 50, False),
    "coco2014": (82_783, 40_504, 224, 80, True),
    "voc2007": (5_011, 4_952, 224, 20, True),
    "nus_wide": (150_000, 60_260, 224, 81, True),
}
STREAMED_BATCHES = 4  # of streamed images, which are decoded
RANDOM_BYTES = 2**30  # most bytes of random images; a larger set is cut


class MeasuredPrograms(Programs):
    """Programs that record the duration of each call.

    Attributes:
      notes: name -> compile time, cost and calls of a program.
      seconds_aside: seconds of compiling and measuring since the first call.
      seconds_to_first_step: from construction to the end of the first training step, including
        reading the data and compiling; None before.
      cache_hits: programs found in the persistent compilation cache.
    """

    def __init__(self, device_loop: bool | None = None):
        super().__init__(device_loop=device_loop)
        self.notes: dict[str, dict] = {}
        self._measured: dict[str, Callable] = {}
        self.seconds_aside = 0.0
        self.seconds_to_first_step: float | None = None
        self.cache_hits = 0
        self.span = [math.inf, 0.0]
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def watching_cache(self) -> Iterator[None]:
        """Counts `cache_hits` inside the context."""

        def count(event: str, **_) -> None:
            self.cache_hits += event == "/jax/compilation_cache/cache_hits"

        jax.monitoring.register_event_listener(count)
        try:
            yield
        finally:
            jax.monitoring.unregister_event_listener(count)

    def jit(
        self, name: str, function: Callable, *, visits: Callable | None = None, **options
    ) -> Callable:
        jitted = super().jit(name, function, **options)
        if name in self._measured:
            return self._measured[name]
        compiled = None

        def measured(*args):
            nonlocal compiled
            entered = time.perf_counter()
            if compiled is None:
                compiled = self._compile(name, jitted, args)
            steps, images = visits(*args) if visits else (1, 0)
            started = time.perf_counter()
            results = jax.block_until_ready(compiled(*args))
            ended = time.perf_counter()
            self.notes[name]["calls"].append((ended - started, steps, images))
            if self.span[0] < entered:
                self.seconds_aside += started - entered
            self.span = [min(self.span[0], started), max(self.span[1], ended)]
            if self.seconds_to_first_step is None and name.endswith("/epoch"):
                self.seconds_to_first_step = ended - self._started
            return results

        self._measured[name] = measured
        return measured

    def _compile(self, name: str, jitted, args):
        started, hits = time.perf_counter(), self.cache_hits
        compiled = jitted.lower(*args).compile()
        seconds = time.perf_counter() - started
        memory = compiled.memory_analysis()
        self.notes[name] = {
            "compile_seconds": seconds,
            "cached": self.cache_hits > hits,
            # XLA counts the body of a loop once, which is one step.
            "flops_per_step": float((compiled.cost_analysis() or {}).get("flops", math.nan)),
            "bytes": sum(
                sign * getattr(memory, f"{kind}_size_in_bytes", 0)
                for kind, sign in {"argument": 1, "output": 1, "temp": 1, "alias": -1}.items()
            ),
            "calls": [],
        }
        return compiled


def load_recipe(path: str, changes: list[str], short: dict[str, Any] = SHORT) -> Recipe:
    """A recipe, shortened, with fields changed.

    Args:
      path: `FILE` or `FILE:VARIANT`.
      changes: `FIELD=VALUE`.
      short: changes of the fields that the recipe has.

    Raises:
      UserError: if there is no such file or field.
    """
    config = recipes.read(path)
    fields = {"writers": ("jsonl",), **short}
    for change in changes:
        field, _, text = change.partition("=")
        try:
            fields[field] = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            fields[field] = text
    for field, value in fields.items():
        if field in flatten(plain(config)):
            config.update_from_flattened_dict({field: value})
        elif field not in short:
            raise UserError(f"{path} has no field {field!r} to set.")
    return parse(config)


def random_dataset(recipe: Recipe, folder: pathlib.Path | None = None) -> Dataset | FileDataset:
    """Random images and labels in the shape of a recipe's data set, cut to `RANDOM_BYTES`.

    Args:
      recipe: whose data set is imitated.
      folder: for one file, instead of all files that a recipe streams; None if it streams none.

    Raises:
      UserError: if the data set is not in `SETS`.
    """
    fields = recipe.dataset
    if fields.name not in SETS:
        raise UserError(unknown_name("data set of known shape", fields.name, SETS))
    num_train, num_test, side, num_classes, is_multilabel = SETS[fields.name]
    side = fields.image_size or side
    generator = np.random.default_rng(0)

    def labels(count: int) -> np.ndarray:
        labels = generator.permutation(np.arange(count, dtype=np.int32) % num_classes)
        if is_multilabel:
            others = generator.random((count, num_classes)) < 2 / num_classes
            return (others | np.eye(num_classes, dtype=bool)[labels]).astype(np.uint8)
        return labels

    def images(count: int, limit: int) -> Examples:
        count = min(count, RANDOM_BYTES // (3 * side**2), limit or count)
        drawn = generator.integers(0, 256, (count, side, side, 3), np.uint8)
        return Examples(drawn, labels(count))

    def files(count: int, limit: int) -> FileExamples:
        assert folder is not None
        count = max(min(count, limit or count, STREAMED_BATCHES * recipe.batch_size), num_classes)
        file = folder / "image.png"
        Image.fromarray(generator.integers(0, 256, (side, side, 3), np.uint8)).save(file)
        return FileExamples(tuple(f"{i}.png" for i in range(count)), (file,) * count, labels(count))

    kind, examples = (FileDataset, files) if fields.stream and folder else (Dataset, images)
    return cast(Any, kind)(
        fields.name,
        examples(num_train, fields.max_train),
        examples(num_test, fields.max_test),
        tuple(f"class {c}" for c in range(num_classes)),
        fields.mean or (0.5, 0.5, 0.5),
        fields.std or (0.25, 0.25, 0.25),
    )


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


def measure(
    recipe: Recipe,
    dataset: Dataset | FileDataset | None = None,
    *,
    device_loop: bool | None = None,
) -> dict:
    """Runs a recipe and reports the timings of its programs.

    Args:
      recipe: recipe to run.
      dataset: the data; None for the recipe's data set.
      device_loop: as in `Programs`.

    Returns:
      JSON-able: `programs`, a list in descending order of the time spent in them, `idle_share`, the
      fraction of the run in which the device was idle, the time to the first training step, and
      memory.
    """
    setup_jax(recipe)
    programs = MeasuredPrograms(device_loop)
    with tempfile.TemporaryDirectory() as workdir, programs.watching_cache():
        run = tasks.TASKS[recipe.task]
        run(recipe, pathlib.Path(workdir) / "run", programs, dataset=dataset)
    peak = measured_peak(compute_dtype(recipe.dtype)) * jax.device_count()
    rows = [_report(name, note, peak) for name, note in programs.notes.items()]
    busy = sum(seconds for note in programs.notes.values() for seconds, *_ in note["calls"])
    total = programs.span[1] - programs.span[0] - programs.seconds_aside
    stats = jax.devices()[0].memory_stats() or {}
    return {
        "programs": sorted(rows, key=lambda r: -r["total_seconds"]),
        "peak_tflops": peak / 1e12,
        "idle_share": max(0.0, 1 - busy / total),
        "seconds_to_first_step": programs.seconds_to_first_step,
        "programs_from_cache": sum(note["cached"] for note in programs.notes.values()),
        "peak_memory_bytes": max(note["bytes"] for note in programs.notes.values()),
        # Of the process so far, including other recipes; not available on CPU.
        "process_peak_memory_bytes": stats.get("peak_bytes_in_use"),
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
        "cached": note["cached"],
        **{f"step_ms_p{q}": 1e3 * _percentile(per_step, q, steps) for q in (10, 50, 90)},
        "memory_bytes": note["bytes"],
    }
    if images.sum():
        row["images_per_second"] = float(images.sum() / seconds.sum())
        row["gflop_per_image"] = note["flops_per_step"] * float(steps.sum() / images.sum()) / 1e9
        row["mfu"] = note["flops_per_step"] * float(steps.sum() / seconds.sum()) / peak
    return row


def _percentile(values: np.ndarray, q: float, weights: np.ndarray) -> float:
    return float(np.percentile(values, q, weights=weights, method="inverted_cdf"))


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


def _in_words(report: dict) -> str:
    return (
        f"{jax.device_count()} x {jax.devices()[0].device_kind}, measured peak "
        f"{report['peak_tflops']:.2f} TFLOP/s; the device waited for the host "
        f"{report['idle_share']:.1%} of the time; first training step after "
        f"{report['seconds_to_first_step']:.1f} s, {report['programs_from_cache']} of "
        f"{len(report['programs'])} programs from the compilation cache; peak memory "
        f"{report['peak_memory_bytes'] / 1e6:,.0f} MB"
    )


def _planned(path: str, changes: list[str], recipe: Recipe, targets: list[str]) -> list[dict]:
    """Reports on a recipe's programs as compiled for each target, printed as they are made."""
    from jaxrobust.commands import compile_for

    reports = []
    whole = load_recipe(path, changes, {})
    with tempfile.TemporaryDirectory(prefix="jaxrobust-") as folder:
        dataset = random_dataset(recipe, pathlib.Path(folder))
        for target in targets:
            rows = compile_for.compile_recipe(recipe, dataset, target)
            reports.append({"config": path, "changes": changes, "programs": rows})
            text = compile_for.table(rows, whole, SETS[recipe.dataset.name][0])
            print(f"\n{path} {' '.join(changes)}\n\n{text}")
    return reports


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = Parser("benchmark", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", action="append", required=True, metavar="FILE[:VARIANT]")
    parser.add_argument(
        "--batch_sizes", default="", help="batch sizes for each config, separated by commas"
    )
    parser.add_argument(
        "--methods", default="", help="methods for each config, separated by commas"
    )
    parser.add_argument(
        "--random",
        action="store_true",
        help="random images of the recipe's shape on the devices, instead of its data set",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field"
    )
    parser.add_argument(
        "--single_steps",
        action="store_true",
        help="call every step separately, as on a CPU, instead of looping on the accelerator",
    )
    parser.add_argument(
        "--compile_for",
        metavar="TARGETS",
        help=(
            "compile every program for devices that this machine does not need to have, such as "
            "v5e:2x2 (several separated by commas), and report what fits and a lower bound on "
            "the time of a step; no data set is needed, and nothing is timed"
        ),
    )
    parser.add_argument("--out", type=new_file, help="write the reports as JSON")
    arguments = parser.parse_args(argv)
    logging.getLogger("jaxrobust").setLevel(logging.WARNING)
    reports = []
    try:
        for path, method, size in itertools.product(
            arguments.config, arguments.methods.split(","), arguments.batch_sizes.split(",")
        ):
            given = {"method": method, "batch_size": size}
            changes = arguments.set + [
                f"{field}={value}" for field, value in given.items() if value
            ]
            recipe, dataset = load_recipe(path, changes), None
            if arguments.compile_for:
                reports += _planned(path, changes, recipe, arguments.compile_for.split(","))
                continue
            if recipe.deterministic:
                ask_for_determinism()
            if arguments.random:
                recipe = replace(recipe, {"dataset.stream": False})
                dataset = random_dataset(recipe)
            report = measure(recipe, dataset, device_loop=False if arguments.single_steps else None)
            reports.append({"config": path, "changes": changes, **report})
            print(f"\n{path} {' '.join(changes)}\n\n{table(report)}\n\n{_in_words(report)}")
    except Interrupted as stop:
        print(f"jaxrobust: stopped at {stop.where}; nothing is written.", file=sys.stderr)
        return 128 + stop.signum
    if arguments.out:
        write_json(arguments.out, {"environment": environment(), "reports": reports})
        print(f"\nreports: {arguments.out}")
    return 0
