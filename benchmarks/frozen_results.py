"""Freezes the results of short runs of every method, and finds those that a change has altered.

    python benchmarks/frozen_results.py --write FILE.json      # before the change
    python benchmarks/frozen_results.py --compare FILE.json    # after it: 1 if a row differs

Every recipe on `digits` and every method of its task is run, shortened, on one device, as are some
methods on features and the calls on arrays. Of each run there is a second one, which resumes what a
SIGKILL half way leaves: the six papers' recipes are started as commands and killed; of the other
runs, to save time, the workdir is copied while the process is stopped by SIGSTOP, just before a
file of it is renamed, which is what SIGKILL at that moment would leave.

The table holds the first 16 digits of SHA-256 of each result:

- every CSV file (`label_quality.csv`, `queries/*.csv`, ...) and `student/model.safetensors`: the
  bytes;
- `results.json` and `metrics.jsonl`: the text without durations;
- `classifier/` and `teacher/`: the arrays, in whatever format and under whatever names;
- `config.json`: the text. A difference here, where an option is new, is reported and not counted.

A run begun by one version is resumed by another as follows:

    python benchmarks/frozen_results.py --kill-only DIR                     # the old version
    python benchmarks/frozen_results.py --resume DIR --compare FILE.json    # the new version

Bits depend on the processor, on the versions of JAX and NumPy and on `tests/tiny_recipe.py`; write
and compare on one machine (Linux). Compiled programs are kept in `--cache`, shared by all runs.
Takes about ten minutes of processor time. `--only='^dcfs'` and `--without-kill` are quick checks.
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
import multiprocessing.forkserver
import os
import pathlib
import platform
import queue
import re
import runpy
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection

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
KILLED = ("bldr", "bual", "dcfs", "dhkd", "dpc", "l2d")  # as commands, by SIGKILL
KILL_AFTER = {  # lines of metrics.jsonl, about half of a run
    **{"active_learning_baselines": 5, "bldr": 8, "bual": 9, "dcfs": 8},
    **{"dhkd": 6, "dpc": 9, "kd_baselines": 6, "l2d": 3},
}

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
    "writers": (),
}
FEATURES = "features.npz"  # in the folder that every run is started in
OF_FEATURES = {"dataset.features": FEATURES, "dataset.max_test": 0, "batch_size": 32}
# Recipe -> the row, run before all others, whose teacher teaches in its other rows.
TEACHES = {"dhkd": "kd_baselines/kd", "kd_baselines": "kd_baselines/kd", "l2d": "l2d/l2d"}

_DURATIONS = re.compile(
    r"(^|_)((milli)?seconds?|duration|version|date|commit|host|path|folder)s?(_|$)"
)
NEVER = 1e9  # seconds between checkpoints
SAME = "the same"
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
    """One run.

    Attributes:
      name: in the table.
      recipe, variant: that it is a run of.
      fields: that are set in it.
      kill_after: lines of `metrics.jsonl`.
      is_tiny: whether networks are those of `tests/tiny_recipe.py`.
    """

    name: str
    recipe: str
    variant: str
    fields: dict
    kill_after: int
    is_tiny: bool = False

    def config(self, save_every: float):
        """The recipe for `jaxrobust.tasks.run`."""
        if self.is_tiny:
            config = importlib.import_module("tiny_recipe").get_config(
                f"{self.recipe}/{self.variant}"
            )
        else:
            recipe = importlib.import_module(f"jaxrobust.recipes.{self.recipe}")
            config = recipe.get_config(self.variant)
        config.update_from_flattened_dict(self._all_fields(save_every))
        return config

    def arguments(self, workdir: pathlib.Path, save_every: float) -> list[str]:
        """The same for the command `jaxrobust.main`."""
        assert not self.is_tiny
        fields = self._all_fields(save_every)
        return [
            f"--config={self.recipe}:{self.variant}",
            *(f"--config.{name}={value}" for name, value in fields.items()),
            f"--workdir={workdir}",
        ]

    def _all_fields(self, save_every: float) -> dict:
        return {**EVERY_RUN, **self.fields, "checkpoint.every_seconds": save_every}


def _workdir_of(name: str) -> str:
    return "run_" + re.sub(r"\W+", "_", name)  # a folder `dcfs` would hide the recipe of that name


def rows() -> dict[str, Row]:
    """Of the table, by name."""
    found = []
    for recipe, methods in METHODS.items():
        kill_after = KILL_AFTER[recipe]
        trains_teacher = 4 if recipe in TEACHES else 0  # lines
        found.append(Row(recipe, recipe, "digits", SHORT[recipe], kill_after + trains_teacher))
        for method in methods:
            name = f"{recipe}/{method}"
            fields = {**SHORT[recipe], "method": method}
            if recipe == "bldr":
                fields["model.name"] = "tiny2"
            if method == "fitnet":
                fields["fitnet.hint_stage"] = 1
            if name != TEACHES.get(recipe, name):
                fields["teacher.path"] = f"{_workdir_of(TEACHES[recipe])}/teacher"
            found.append(Row(name, recipe, "digits", fields, kill_after, is_tiny=True))
        for method in ON_FEATURES.get(recipe, ()):
            fields = {**SHORT[recipe], "method": method, **OF_FEATURES}
            name = f"{recipe}/{method} on features"
            found.append(
                Row(name, recipe, "features", fields, 1 if method == "knn" else kill_after)
            )
    return {row.name: row for row in found}


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


class Failed(Exception):
    """A run did not end as it should."""


def _enter(folder: str, log: str) -> None:
    """Makes a forked process ready to run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    import jaxrobust

    assert pathlib.Path(jaxrobust.__file__).is_relative_to(ROOT / "jaxrobust"), jaxrobust.__file__
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


def _before_a_rename(workdir: pathlib.Path, num_lines: int, act: Callable[[], None]) -> list:
    """Calls `act` when a file is to be renamed, with a checkpoint and so many metrics.

    Returns:
      A list; as soon as anything is in it, which is after the first call, there are no more calls.
    """
    done = []

    def hook(event, _):
        if event == "os.rename" and not done and (workdir / "metrics.jsonl").exists():
            enough = (workdir / "metrics.jsonl").read_bytes().count(b"\n") >= num_lines
            if enough and any((workdir / "checkpoints").glob("*.json")):
                done.append(True)
                act()

    sys.addaudithook(hook)
    return done


def _command(arguments: list[str], folder: str, log: str, workdir: str, kill_after: int) -> None:
    """`python -m jaxrobust.main ARGUMENTS`, killed half way if `kill_after`."""
    _enter(folder, log)
    if kill_after:
        kill = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
        _before_a_rename(pathlib.Path(workdir), kill_after, kill)
    sys.argv = ["jaxrobust.main", *arguments]
    runpy.run_module("jaxrobust.main", run_name="__main__", alter_sys=True)


def run_command(row: Row, workdir: pathlib.Path, kill_after: int = 0) -> None:
    """Runs a row as a command.

    Raises:
      Failed: if it does not end as it should, killed or not.
    """
    log = workdir.with_suffix(".log")
    arguments = row.arguments(workdir, save_every=0.0 if kill_after else NEVER)
    args = arguments, str(workdir.parent), str(log), str(workdir), kill_after
    process = _CONTEXT.Process(target=_command, args=args)
    process.start()
    process.join()
    if process.exitcode != (-signal.SIGKILL if kill_after else 0):
        said = log.read_text(errors="replace").strip().splitlines() or ["nothing said"]
        raise Failed(f"exit code {process.exitcode}: {said[-1]}")


def _work(connection: Connection, folder: str, log: str) -> None:
    """Runs rows in this one process, which takes a third of the time of one for each."""
    _enter(folder, log)
    from jaxrobust import tasks

    def stop():
        connection.send(("stopped", None))
        os.kill(os.getpid(), signal.SIGSTOP)

    known, num_done = rows(), 0
    while (job := connection.recv()) is not None:
        name, workdir, kill_after = job
        done = _before_a_rename(pathlib.Path(workdir), kill_after, stop) if kill_after else []
        try:
            if name in CALLS:
                with np.load(FEATURES) as data:
                    arrays = [data[key][::3] for key in ("features", "images", "labels")]
                connection.send(("done", _digests_of_call(CALLS[name](*arrays))))
            else:
                tasks.run(known[name].config(0.0 if kill_after else NEVER), workdir)
                done.append(True)
                connection.send(("done", digests(pathlib.Path(workdir))))
        except Exception as error:
            traceback.print_exc()
            done.append(True)
            connection.send(("failed", f"{type(error).__name__}: {error}"))
        num_done += 1
        if num_done % 20 == 0:  # Linux lets a process map 65,530 regions, a few for each program
            import jax

            jax.clear_caches()


class Worker:
    """A process that runs rows one after another in a folder."""

    def __init__(self, folder: pathlib.Path, number: int):
        self.connection, other = _CONTEXT.Pipe()
        args = other, str(folder), str(folder / f"worker_{number}.log")
        self.process = _CONTEXT.Process(target=_work, args=args, daemon=True)
        self.process.start()
        other.close()

    def run(self, name: str, workdir: pathlib.Path, copy: pathlib.Path | None, kill_after: int):
        """Digests of a run; `copy` becomes its workdir as SIGKILL would leave it half way."""
        self.connection.send((name, str(workdir), kill_after if copy else 0))
        try:
            said, what = self.connection.recv()
            if said == "stopped":
                while self._state() != "T":
                    time.sleep(0.002)
                shutil.copytree(workdir, copy)
                os.kill(self.process.pid, signal.SIGCONT)
                said, what = self.connection.recv()
        except EOFError:
            raise Failed("the process of this run ended") from None
        if said == "failed":
            raise Failed(what)
        return what

    def _state(self) -> str:
        stat = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0]

    def end(self) -> None:
        """Ends the process."""
        with contextlib.suppress(OSError):
            self.connection.send(None)
        self.process.join()


def _differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    names = sorted(found.keys() | expected.keys())
    return [name for name in names if found.get(name) != expected.get(name)]


def measure(name: str, worker: Worker, folder: pathlib.Path, with_kill: bool, keep: bool) -> dict:
    """The entry of a row in the table."""
    row = rows().get(name)
    once, killed = folder / _workdir_of(name), folder / f"{_workdir_of(name)}_killed"
    for workdir in (once, killed):
        shutil.rmtree(workdir, ignore_errors=True)
    entry = {}
    try:
        if row is None:
            return {"uninterrupted": worker.run(name, once, None, 0)}
        is_command = name in KILLED
        copy = killed if with_kill and not is_command else None
        entry["uninterrupted"] = worker.run(name, once, copy, row.kill_after)
        if with_kill and is_command:
            run_command(row, killed, row.kill_after)
            run_command(row, killed)
            entry["killed"] = _after_kill(digests(killed), entry["uninterrupted"])
        elif with_kill and not killed.exists():
            entry["killed"] = "it ended before it could be killed"
        elif with_kill:
            resumed = worker.run(name, killed, None, 0)
            entry["killed"] = _after_kill(resumed, entry["uninterrupted"])
    except Failed as failure:
        return {**entry, "failed": str(failure)}
    if not keep:
        shutil.rmtree(killed, ignore_errors=True)
        if name not in TEACHES.values():
            shutil.rmtree(once, ignore_errors=True)
    return entry


def _after_kill(found: dict, expected: dict) -> str | dict:
    return {n: found.get(n) for n in _differences(found, expected)} or SAME


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
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    _CONTEXT.set_forkserver_preload(list(_PRELOADED))
    with contextlib.chdir(ROOT):  # from which, before all else, that process imports
        multiprocessing.forkserver.ensure_running()
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


def _table(
    wanted: list[str], folder: pathlib.Path, options: argparse.Namespace, frozen: dict
) -> dict:
    """The entries of the rows, a line printed for each when it is there."""
    known, keep, with_kill = rows(), options.workdirs is not None, not options.without_kill
    taught = {known[name].fields.get("teacher.path") for name in wanted if name in known}
    teachers = [
        name
        for name in dict.fromkeys(TEACHES.values())
        if name in wanted or f"{_workdir_of(name)}/teacher" in taught
    ]
    entries, started = {}, time.monotonic()
    workers = [Worker(folder, number) for number in range(options.processes)]
    free = queue.SimpleQueue()
    for worker in workers:
        free.put(worker)

    def measured(name):
        worker = free.get()
        try:
            entries[name] = measure(name, worker, folder, with_kill, keep)
        finally:
            free.put(worker)
        seconds = time.monotonic() - started
        said = _summary(entries[name])
        if name in frozen:
            said += "; DIFFERS" if _wrong(entries[name], frozen[name]) else "; as in the table"
        print(f"{seconds:5.0f} s  {name}: {said}", flush=True)

    with concurrent.futures.ThreadPoolExecutor(options.processes) as pool:
        for group in (teachers, [name for name in wanted if name not in teachers]):
            list(pool.map(measured, group))
    for worker in workers:
        worker.end()
    return dict(sorted(entries.items()))


def _summary(entry: dict) -> str:
    if "failed" in entry:
        return f"FAILED, {entry['failed']}"
    said = f"{len(entry['uninterrupted'])} results"
    if "killed" not in entry:
        return said
    if isinstance(entry["killed"], dict):
        return f"{said}, OTHERS AFTER A KILL"
    return f"{said}, after a kill: {entry['killed']}"


def _wrong(entry: dict, expected: dict) -> list[str]:
    """What of an entry is not as in the table."""
    if "failed" in entry:
        return [entry["failed"]]
    wrong = _differences(entry["uninterrupted"], expected.get("uninterrupted", {}))
    killed = entry.get("killed", SAME)
    if killed in (SAME, expected.get("killed")):
        return wrong
    return wrong + [f"{x} after a kill" for x in (killed if isinstance(killed, dict) else [killed])]


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
        wrong = _wrong(entries[name], frozen[name])
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
    for name in KILLED:
        row, workdir = rows()[name], folder / _workdir_of(name)
        run_command(row, workdir, row.kill_after)
        num_lines = (workdir / "metrics.jsonl").read_bytes().count(b"\n")
        print(f"{workdir}: killed after {num_lines} lines of metrics", flush=True)


def _resume(folder: pathlib.Path, options: argparse.Namespace) -> dict:
    """Entries of copies of the killed workdirs, finished by this version."""
    entries = {}
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(folder, scratch, dirs_exist_ok=True)
        _prepare(pathlib.Path(scratch), options.cache)
        for name in KILLED:
            workdir = pathlib.Path(scratch) / _workdir_of(name)
            if not workdir.exists() or not re.search(options.only or "", name):
                continue
            try:
                run_command(rows()[name], workdir)
                entries[name] = {"uninterrupted": digests(workdir)}
            except Failed as failure:
                entries[name] = {"failed": str(failure)}
            print(f"resumed {name}: {_summary(entries[name])}", flush=True)
    return entries


def _read(path: pathlib.Path) -> dict:
    return json.loads(path.read_text())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    path = pathlib.Path
    parser.add_argument(
        "--write", type=path, metavar="FILE", help="makes the table; with --only, those rows"
    )
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
        wanted = [name for name in wanted if re.search(options.only, name)]
    if options.list:
        print("\n".join(wanted))
        return 0
    if not (options.write or options.compare or options.kill_only):
        parser.error("give --write FILE, --compare FILE or --kill-only DIR")
    if options.resume and not options.compare:
        parser.error("--resume DIR needs --compare FILE")
    if options.kill_only:
        _kill_only(options.kill_only.resolve(), options)
        return 0
    frozen = _read(options.compare) if options.compare else None
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
        entries = _table(wanted, folder, options, frozen["rows"] if frozen else {})
    if options.write:
        if options.only and options.write.exists():
            entries = dict(sorted((_read(options.write)["rows"] | entries).items()))
        table = {"made_with": made_with(), "rows": entries}
        options.write.write_text(json.dumps(table, indent=1) + "\n")
        return int(any("failed" in entry for entry in entries.values()))
    return int(compare(entries, frozen["rows"], partial=bool(options.only)) > 0)


if __name__ == "__main__":
    sys.exit(main())
