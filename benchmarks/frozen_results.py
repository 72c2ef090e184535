"""Freezes the results of short runs of every method, and finds those that a change has altered.

    python benchmarks/frozen_results.py --write FILE.json      # before the change
    python benchmarks/frozen_results.py --compare FILE.json    # after it: 1 if a row differs

Every recipe on `digits` and every method of its task is run, shortened, on one device: once
uninterrupted and, from an empty workdir, killed (SIGKILL) half way and resumed by the same command.
Methods on features and the calls on arrays are run, too. The table holds the first 16 digits of
SHA-256 of each result:

- every CSV file (`label_quality.csv`, `queries/*.csv`, ...) and `student/model.safetensors`: the
  bytes;
- `results.json` and `metrics.jsonl`: the text without durations;
- `classifier/` and `teacher/`: the arrays, in whatever format and under whatever names;
- `config.json`: the text. A difference here, where an option is new, is reported and not counted.

A run begun by one version is resumed by another as follows:

    python benchmarks/frozen_results.py --kill-only DIR                     # the old version
    python benchmarks/frozen_results.py --resume DIR --compare FILE.json    # the new version

Bits depend on the processor, on the versions of JAX and NumPy and on `tests/tiny_recipe.py`; write
and compare on one machine. Compiled programs are kept in `--cache`, shared by all runs, so that
the second table takes about half as long as the first. Takes a quarter of an hour on two cores.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import functools
import gc
import hashlib
import importlib
import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import platform
import re
import runpy
import shutil
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
DIGITS = 16  # hexadecimal, of each hash

# Methods by the recipe that they are run with.
METHODS = {
    "active_learning_baselines": (
        *("badge", "coreset", "dropquery", "eaoa", "entropy", "lc", "lfosa", "margin"),
        *("probcover", "random", "typiclust"),
    ),
    "bldr": ("bldr", "dpc"),
    "bual": ("bual",),
    "dcfs": ("dcfs",),
    "dhkd": ("binary_kl", "cross_entropy_binary_kl", "dhkd"),
    "dpc": ("cross_entropy", "dividemix", "dpc", "mixup"),
    "kd_baselines": (
        *("at", "crd", "cross_entropy", "dhkd_reviewkd", "dist", "dkd", "fitnet", "kd"),
        *("logit_mse", "pkt", "reviewkd", "rkd", "rld", "sp", "vid"),
    ),
    "l2d": ("bce", "l2d", "mld", "mld_cd", "mld_id", "mse", "pkt", "ps", "reviewkd", "rkd"),
}
ON_FEATURES = {"bldr": ("bldr",), "bual": ("bual",), "dcfs": ("dcfs",), "dpc": ("dpc", "knn")}
KILLED = ("bldr", "bual", "dcfs", "dhkd", "dpc", "l2d")  # recipes, by `--kill-only`

_ANNOTATION = {"num_epochs": 2, "al.rounds": 3, "al.query_size": 20, "al.init_fraction": 0.1}
_DISTILLATION = {"num_epochs": 3, "teacher.num_epochs": 2, "dataset.max_train": 160}
SHORT = {
    "active_learning_baselines": _ANNOTATION,
    "bldr": {"num_epochs": 5, "bldr.warm_up": 2, "dataset.max_train": 160},
    "bual": {**_ANNOTATION, "bual.subset_size": 100},
    "dcfs": _ANNOTATION,
    "dhkd": _DISTILLATION,
    "dpc": {"num_epochs": 5, "dpc.warm_up": 2, "dataset.max_train": 200},
    "kd_baselines": {**_DISTILLATION, "crd.num_negatives": 64},
    "l2d": {**_DISTILLATION, "optimizer.cycle_epochs": 3},
}
EVERY_RUN = {
    "dataset.max_train": 300,
    "dataset.max_test": 100,
    "device_count": 1,
    "writers": "()",
}
FEATURES = "features.npz"  # in the folder that every run is started in
# Recipe -> the row, run before all others, whose teacher teaches in its other rows.
TEACHES = {"dhkd": "kd_baselines/kd", "kd_baselines": "kd_baselines/kd", "l2d": "l2d/l2d"}

_DURATIONS = re.compile(
    r"(^|_)((milli)?seconds?|duration|version|date|commit|host|path|folder)s?(_|$)"
)
_NOT_COUNTED = ("config.json",)
_CONTEXT = multiprocessing.get_context("forkserver")
# Imported once, by the process that all runs are forked from. No backend is started there.
_PRELOADED = (
    *("jax", "flax", "optax", "orbax.checkpoint", "ml_collections", "absl.app"),
    *("matplotlib.pyplot", "matplotlib.backends.backend_agg", "sklearn.datasets", "PIL.Image"),
    *("jaxrobust", "jaxrobust.tasks.active_learning", "jaxrobust.tasks.distillation"),
    "jaxrobust.tasks.noisy_labels",
)


# The rows of the table.


@dataclasses.dataclass(frozen=True)
class Row:
    """One run by the command, `jaxrobust.main ARGUMENTS`."""

    name: str
    config: str
    fields: dict

    def arguments(self, workdir: pathlib.Path, save_every: float) -> list[str]:
        fields = {**EVERY_RUN, **self.fields, "checkpoint.every_seconds": save_every}
        return [
            f"--config={self.config}",
            *(f"--config.{name}={value}" for name, value in fields.items()),
            f"--workdir={workdir}",
        ]


def _workdir_of(name: str) -> str:
    return "run_" + re.sub(r"\W+", "_", name)  # a folder `dcfs` would hide the recipe of that name


def rows() -> list[Row]:
    """Of the table, those that take longest first."""
    found = [Row(recipe, f"{recipe}:digits", SHORT[recipe]) for recipe in SHORT]
    for recipe, methods in METHODS.items():
        config = f"{ROOT / 'tests' / 'tiny_recipe.py'}:{recipe}/digits"
        for method in methods:
            name = f"{recipe}/{method}"
            fields = {**SHORT[recipe], "method": method}
            if recipe == "bldr":
                fields["model.name"] = "tiny2"
            if name != TEACHES.get(recipe, name):
                fields["teacher.path"] = f"{_workdir_of(TEACHES[recipe])}/teacher"
            found.append(Row(name, config, fields))
    for recipe, methods in ON_FEATURES.items():
        found += [
            Row(
                f"{recipe}/{method} on features",
                f"{recipe}:features",
                {
                    **SHORT[recipe],
                    "dataset.features": FEATURES,
                    "dataset.max_test": 0,
                    "batch_size": 32,
                    "method": method,
                },
            )
            for method in methods
        ]
    return found


def _issues(features, images, labels):
    import jaxrobust

    short = {"num_epochs": 3, "dpc.warm_up": 1}
    return jaxrobust.find_label_issues(labels, features=features, config=short)


def _issues_of_probabilities(features, images, labels):
    import jaxrobust

    probs = np.exp(features[:, :10] - features[:, :10].max(axis=1, keepdims=True))
    return jaxrobust.find_label_issues(
        np.arange(len(probs)) % 10, pred_probs=probs / probs.sum(axis=1, keepdims=True)
    )


def _query(features, images, labels, method="dcfs"):
    import jaxrobust

    annotations = np.where(np.arange(len(labels)) % 4 == 0, labels, -1)
    annotations = np.where((annotations >= 0) & (labels > 5), -2, annotations)
    return jaxrobust.query(
        annotations, features=features, budget=20, method=method, config={"num_epochs": 2}
    )


def _query_bual(features, images, labels):
    return _query(features, images, labels, "bual")


def _distill(features, images, labels):
    import jaxrobust

    pixels = np.repeat(images[..., None], 3, axis=3)
    logits = 4 * np.eye(10, dtype=np.float32)[labels] + features[:, :10]
    short = {"num_epochs": 2, "batch_size": 32, "num_diagnosed": 32, "dataset.image_size": 0}
    student = jaxrobust.distill(pixels, labels, teacher=logits, student="resnet8", config=short)
    return {"predicted": student.predict_proba(pixels)}


CALLS: dict[str, Callable] = {
    "call find_label_issues(features)": _issues,
    "call find_label_issues(pred_probs)": _issues_of_probabilities,
    "call query, dcfs": _query,
    "call query, bual": _query_bual,
    "call distill": _distill,
}


# What is compared.


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]


def _hash_arrays(arrays: list) -> str:
    """Of arrays in any order."""
    arrays = [np.ascontiguousarray(array) for array in arrays]
    return _hash(
        "\n".join(sorted(f"{a.dtype} {a.shape} {_hash(a.tobytes())}" for a in arrays)).encode()
    )


def _without_durations(value):
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not _DURATIONS.search(k)}
        return {k: _without_durations(v) for k, v in kept.items()}
    if isinstance(value, list):
        return [_without_durations(v) for v in value]
    return value


def _arrays_of(file: pathlib.Path) -> list:
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            return [arrays[name] for name in arrays]
    from safetensors.numpy import load_file

    return list(load_file(file).values())


def digests(workdir: pathlib.Path) -> dict[str, str]:
    """Hashes of what a run ended with, by name."""
    found = {}
    for file in sorted(path for path in workdir.rglob("*") if path.is_file()):
        name = str(file.relative_to(workdir))
        if name.startswith(("checkpoints", "figures", "report")):
            continue
        if file.suffix == ".csv" or name == "student/model.safetensors":
            found[name] = _hash(file.read_bytes())
        if name == "metrics.jsonl":
            events = map(json.loads, file.read_text().splitlines())
            found[name] = _hash(json.dumps([_without_durations(e) for e in events]).encode())
        elif name in ("results.json", "config.json"):
            content = json.loads(file.read_text())
            if name == "config.json":
                content.pop("checkpoint", None)
            else:
                content = _without_durations(content)
            found[name] = _hash(json.dumps(content).encode())
    for folder in ("classifier", "teacher", "student"):
        files = [
            file for file in (workdir / folder).glob("*") if file.suffix in (".npz", ".safetensors")
        ]
        if files:
            found[f"{folder}/"] = _hash_arrays([a for file in files for a in _arrays_of(file)])
    return found


def _digests_of_call(value) -> dict[str, str]:
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    found = {}
    for name, part in value.items():
        if isinstance(part, dict) and all(isinstance(a, np.ndarray) for a in part.values()):
            found |= {f"{name}.{key}": _hash_arrays([array]) for key, array in part.items()}
        elif isinstance(part, np.ndarray):
            found[name] = _hash_arrays([part])
    return found


# Processes.


def _enter(folder: str, log: str) -> None:
    """Makes the forked process what the command would be."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.chdir(folder)
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    with contextlib.suppress(ImportError, AttributeError):
        # To make a context of MLIR for each program takes a fifth of compiling a small one.
        from jax._src.interpreters import mlir

        mlir.make_ir_context = functools.cache(mlir.make_ir_context)
    # To render figures takes a fifth of a small run.
    FigureCanvasAgg.print_png = lambda _, to, **__: Image.new("RGB", (1, 1)).save(to, "png")


def _become(arguments: list[str], folder: str, log: str) -> None:
    _enter(folder, log)
    sys.argv = ["jaxrobust.main", *arguments]
    runpy.run_module("jaxrobust.main", run_name="__main__", alter_sys=True)


def _call(name: str, folder: str, log: str, out: str) -> None:
    _enter(folder, log)
    with np.load(FEATURES) as data:
        features, images, labels = (data[key] for key in ("features", "images", "labels"))
    found = _digests_of_call(CALLS[name](features[::3], images[::3], labels[::3]))
    pathlib.Path(out).write_text(json.dumps(found))


def _process(target: Callable, *args):
    """Started; its standard input is this process's."""
    process = _CONTEXT.Process(target=target, args=args)
    process.start()
    return process


class Failed(Exception):
    """A run did not end as it should."""


def _check(process, log: pathlib.Path) -> None:
    process.join()
    if process.exitcode:
        said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        raise Failed(f"exit code {process.exitcode}: {said[-1] if said else 'nothing said'}")


def _run(row: Row, workdir: pathlib.Path) -> None:
    log = workdir.with_suffix(".log")
    save_never = 1e9
    args = row.arguments(workdir, save_never), str(workdir.parent), str(log)
    _check(_process(_become, *args), log)


def _num_lines(file: pathlib.Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def _kill(row: Row, workdir: pathlib.Path, num_lines: int) -> None:
    """Starts a run and kills it once it has a checkpoint and that many lines of metrics."""
    log = workdir.with_suffix(".log")
    for wanted in (num_lines, num_lines // 2, 1, 1):
        shutil.rmtree(workdir, ignore_errors=True)
        args = row.arguments(workdir, save_every=0.0), str(workdir.parent), str(log)
        process = _process(_become, *args)
        while process.is_alive():
            saved = any((workdir / "checkpoints").glob("*.json"))
            if saved and _num_lines(workdir / "metrics.jsonl") >= wanted:
                process.kill()
                break
            time.sleep(0.003)
        process.join()
        if process.exitcode == -9 and not (workdir / "results.json").exists():
            return
        if process.exitcode not in (0, -9):
            _check(process, log)
    raise Failed("it ended before it could be killed")


def _differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    names = sorted(found.keys() | expected.keys())
    return [name for name in names if found.get(name) != expected.get(name)]


def measure(row: Row | str, folder: pathlib.Path, with_kill: bool, keep: bool) -> dict:
    """The entry of a row in the table."""
    name = _name(row)
    stem = _workdir_of(name)
    try:
        if isinstance(row, str):
            out, log = folder / f"{stem}.json", folder / f"{stem}.log"
            _check(_process(_call, row, str(folder), str(log), str(out)), log)
            return {"uninterrupted": json.loads(out.read_text())}
        once, killed = folder / stem, folder / f"{stem}_killed"
        for workdir in (once, killed):
            shutil.rmtree(workdir, ignore_errors=True)
        _run(row, once)
        entry: dict = {"uninterrupted": digests(once)}
        if with_kill:
            _kill(row, killed, _num_lines(once / "metrics.jsonl") // 2)
            _run(row, killed)
            entry["killed"] = _after_kill(digests(killed), entry["uninterrupted"])
        if not keep:
            shutil.rmtree(killed, ignore_errors=True)
            if name not in TEACHES.values():
                shutil.rmtree(once, ignore_errors=True)
        return entry
    except Failed as failure:
        return {"failed": str(failure)}


def _after_kill(found: dict, expected: dict) -> str | dict:
    return {n: found.get(n) for n in _differences(found, expected)} or "the same"


# The command.


def _prepare(folder: pathlib.Path, cache: pathlib.Path) -> None:
    """Sets JAX up for the processes to come, and writes the features."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    if importlib.metadata.version("jaxlib").startswith("0.10."):  # quicker to compile
        os.environ["XLA_FLAGS"] = (
            "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        )
    sys.path.insert(0, str(ROOT))
    _CONTEXT.set_forkserver_preload(list(_PRELOADED))
    if not (folder / FEATURES).exists():
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        images, labels = images[:450], labels[:450]
        features = ((images - images.mean(axis=0)) / 6).astype(np.float32)
        np.savez(
            folder / FEATURES,
            features=features,
            labels=labels.astype(np.int64),
            images=(images * 15.9375).astype(np.uint8).reshape(-1, 8, 8),
        )


def made_with() -> dict[str, str]:
    """What the bits depend on beside the code."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn", "scipy")
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def _table(wanted: list, folder: pathlib.Path, options: argparse.Namespace) -> dict:
    """The entries of the rows, a line printed for each when it is there."""
    keep, with_kill = options.workdirs is not None, not options.without_kill
    taught = {str(row.fields.get("teacher.path")) for row in wanted if isinstance(row, Row)}
    teachers = [
        row
        for row in rows()
        if row.name in TEACHES.values()
        and (row in wanted or f"{_workdir_of(row.name)}/teacher" in taught)
    ]
    entries = {}
    with concurrent.futures.ThreadPoolExecutor(options.processes) as pool:
        started = time.monotonic()
        for group in (teachers, [row for row in wanted if row not in teachers]):
            futures = {pool.submit(measure, row, folder, with_kill, keep): row for row in group}
            for future in concurrent.futures.as_completed(futures):
                name, entry = _name(futures[future]), future.result()
                entries[name] = entry
                print(f"{time.monotonic() - started:5.0f} s  {name}: {_summary(entry)}", flush=True)
    return dict(sorted(entries.items()))


def _name(row: Row | str) -> str:
    return row if isinstance(row, str) else row.name


def _summary(entry: dict) -> str:
    if "failed" in entry:
        return f"FAILED, {entry['failed']}"
    said = f"{len(entry['uninterrupted'])} results"
    if "killed" not in entry:
        return said
    same = entry["killed"] == "the same"
    return said + (", the same after a kill" if same else ", OTHERS AFTER A KILL")


def compare(entries: dict, frozen: dict, partial: bool) -> int:
    """Prints what differs; the number of rows that do."""
    num_different = 0
    for name in sorted(entries.keys() | frozen.keys()):
        if name not in entries:
            if not partial:
                num_different += 1
                print(f"{name}: not run")
            continue
        if name not in frozen:
            print(f"{name}: not in the table")
            continue
        entry, expected = entries[name], frozen[name]
        found, wanted = entry.get("uninterrupted", {}), expected.get("uninterrupted", {})
        wrong = [entry["failed"]] if "failed" in entry else _differences(found, wanted)
        if isinstance(entry.get("killed"), dict) and entry["killed"] != expected.get("killed"):
            wrong += [f"{key} after a kill" for key in entry["killed"]]
        if notes := [key for key in wrong if key in _NOT_COUNTED]:
            print(f"{name}: {', '.join(notes)} differs (not counted)")
        if wrong := [key for key in wrong if key not in _NOT_COUNTED]:
            num_different += 1
            print(f"{name}: DIFFERENT: {', '.join(wrong)}")
    print(f"{num_different} of {len(entries)} rows differ from the table")
    return num_different


def _kill_only(folder: pathlib.Path, options: argparse.Namespace) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _prepare(folder, options.cache)
    for row in rows():
        if row.name in KILLED:
            half = _num_lines_of_short_run(row, folder) // 2
            _kill(row, folder / _workdir_of(row.name), half)
            print(f"{row.name}: killed after {half} lines of metrics", flush=True)


def _num_lines_of_short_run(row: Row, folder: pathlib.Path) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copy(folder / FEATURES, scratch)
        workdir = pathlib.Path(scratch) / "run"
        _run(row, workdir)
        return _num_lines(workdir / "metrics.jsonl")


def _resume(folder: pathlib.Path, options: argparse.Namespace) -> dict:
    """Copies of the killed workdirs, finished by this version."""
    entries = {}
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(folder, scratch, dirs_exist_ok=True)
        _prepare(pathlib.Path(scratch), options.cache)
        for row in rows():
            workdir = pathlib.Path(scratch) / _workdir_of(row.name)
            if row.name not in KILLED or not workdir.exists():
                continue
            try:
                _run(row, workdir)
                entry = {"uninterrupted": digests(workdir)}
            except Failed as failure:
                entry = {"failed": str(failure)}
            entries[row.name] = entry
            print(f"resumed {row.name}: {_summary(entry)}", flush=True)
    return entries


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    path = pathlib.Path
    parser.add_argument("--write", type=path, metavar="FILE", help="makes the table")
    parser.add_argument("--compare", type=path, metavar="FILE", help="makes it again and compares")
    parser.add_argument("--only", metavar="PATTERN", help="rows whose name matches this expression")
    parser.add_argument("--without-kill", action="store_true", help="uninterrupted runs alone")
    parser.add_argument("--list", action="store_true", help="prints the names of the rows")
    parser.add_argument("--workdirs", type=path, metavar="DIR", help="keeps all workdirs there")
    parser.add_argument(
        "--kill-only", type=path, metavar="DIR", help=f"leaves killed runs of {', '.join(KILLED)}"
    )
    parser.add_argument("--resume", type=path, metavar="DIR", help="finishes copies of these runs")
    parser.add_argument("--processes", type=int, default=2, help="at once (default 2)")
    parser.add_argument(
        "--cache",
        type=path,
        default=path.home() / ".cache" / "jaxrobust" / "frozen_results",
        help="of compiled programs (default %(default)s)",
    )
    options = parser.parse_args()
    wanted = [*rows(), *CALLS]
    if options.only:
        wanted = [row for row in wanted if re.search(options.only, _name(row))]
    if options.list:
        print("\n".join(map(_name, wanted)))
        return 0
    if not (options.write or options.compare or options.kill_only):
        parser.error("give --write FILE, --compare FILE or --kill-only DIR")
    if options.kill_only:
        _kill_only(options.kill_only.resolve(), options)
        return 0
    frozen = json.loads(options.compare.read_text()) if options.compare else None
    if frozen and frozen["made_with"] != made_with():
        print(f"warning: the table was made with {frozen['made_with']}, this is {made_with()}")
    if options.resume:
        entries = _resume(options.resume.resolve(), options)
        return int(compare(entries, frozen["rows"], partial=True) > 0)
    with contextlib.ExitStack() as stack:
        folder = options.workdirs
        if folder is None:
            folder = path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        _prepare(folder, options.cache)
        entries = _table(wanted, folder, options)
    if options.write:
        table = {"made_with": made_with(), "rows": entries}
        options.write.write_text(json.dumps(table, indent=1) + "\n")
        return int(any("failed" in entry for entry in entries.values()))
    return int(compare(entries, frozen["rows"], partial=bool(options.only)) > 0)


if __name__ == "__main__":
    sys.exit(main())
