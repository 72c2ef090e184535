"""Runs killed with SIGKILL anywhere and restarted leave what unkilled ones do, bit for bit.

The ordinary suite kills a tiny network twice, and damages its newest checkpoint. The whole table
(seven methods and the calls on arrays, 20 kills each, about two hours on one core; `-s` shows it;
`NUM_KILLS=5` in the environment kills less often):

    python -m pytest -n 0 -s -m stress tests/test_kill_anywhere.py

Runs are started through this file, which makes them say on standard output what they begin; a kill
falls a random time after a random one of these moments.
"""

import dataclasses
import json
import os
import pathlib
import runpy
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from commands import Command

ROOT = pathlib.Path(__file__).parents[1]
NUM_KILLS = int(os.environ.get("NUM_KILLS", "20"))

# Moment -> the longest wait before the kill, in seconds.
MOMENTS = {
    "start": 1.0,  # reading the checkpoint, first steps
    "epoch": 0.6,
    "checkpoint": 0.3,  # written in the background
    "evaluation": 0.3,
    "query": 0.5,
    "report": 1.5,  # results, tables, figures, stored networks
}
ACTIVE = (
    "--config.num_epochs=6",
    "--config.al.rounds=4",
    "--config.al.query_size=20",
)
TAUGHT = (
    "--config.dataset.max_train=100",
    "--config.dataset.max_test=50",
    "--config.teacher.num_epochs=5",
    "--config.num_epochs=15",
)
# Of each run of the table, and of what the ordinary suite kills.
OPTIONS = {
    "dpc": (
        "--config.dataset.max_train=300",
        "--config.batch_size=16",
        "--config.num_epochs=12",
        "--config.dpc.warm_up=3",
    ),
    "bldr": (
        "--config.dataset.max_train=120",
        "--config.batch_size=32",
        "--config.num_epochs=20",
        "--config.bldr.warm_up=4",
    ),
    "dcfs": ACTIVE,
    "bual": (*ACTIVE, "--config.bual.subset_size=200"),
    "e2oal": ACTIVE,
    "dhkd": (*TAUGHT, "--config.student.name=resnet8", "--config.teacher.name=resnet8"),
    "l2d": (*TAUGHT, "--config.batch_size=25", "--config.student.name=resnet8"),
    "tiny": (
        "--config.dataset.max_train=100",
        "--config.dataset.max_test=50",
        "--config.teacher.num_epochs=2",
        "--config.num_epochs=4",
        "--config.deterministic=True",
    ),
}
METHODS = [name for name in OPTIONS if name != "tiny"]
# Written anew by every start, or holding times.
NOT_COMPARED = (".lock", "environment.json", "timing.json", "checkpoints", "tensorboard", "report")


@dataclasses.dataclass(frozen=True)
class Target:
    """The kill that one attempt gets: `wait` seconds after the `count`-th time of `moment`."""

    moment: str
    count: int
    wait: float


def _draw_target(rng: np.random.Generator, method: str) -> Target:
    moments = [m for m in MOMENTS if m != "query" or method in ("dcfs", "bual", "e2oal")]
    moment = str(rng.choice(moments))
    count = 1 if moment in ("start", "report") else int(rng.integers(1, 5))
    return Target(moment, count, float(rng.uniform(0, MOMENTS[moment])))


def _arguments(name: str, workdir: pathlib.Path, target: Target | None = None) -> tuple[str, ...]:
    recipe = f"configs/{name}.py:digits" if name in METHODS else "tests/tiny_recipe.py:dhkd"
    seconds = 0.3 if name in METHODS else 0
    return (
        f"--config={recipe}",
        *OPTIONS[name],
        # Only a run that is killed needs checkpoints.
        f"--config.checkpoint.every_seconds={seconds if target else 1e9}",
        f"--workdir={workdir}",
    )


def _attempt(name: str, workdir: pathlib.Path, target: Target | None) -> bool:
    """Starts or goes on with a run; True if it ended before it was killed."""
    module = f"tests.{pathlib.Path(__file__).stem}"
    command = Command(module, *_arguments(name, workdir, target), folder=ROOT, renders=True)
    seen = 0
    for line in command.stdout:
        seen += target is not None and line.strip() == target.moment
        if target is not None and seen == target.count:
            time.sleep(target.wait)
            command.process.kill()
            break
    code, said = command.end()
    assert code in (0, -9), said
    return code == 0


def _outcome(workdir: pathlib.Path) -> dict[str, object]:
    """Content of every file that a run ends with, by name; of metrics without their times."""
    found = {}
    for path in sorted(p for p in workdir.rglob("*") if p.is_file()):
        name = str(path.relative_to(workdir))
        if name.startswith(NOT_COMPARED):
            continue
        found[name] = path.read_bytes()
        if name == "metrics.jsonl":
            events = map(json.loads, path.read_text().splitlines())
            found[name] = [{k: v for k, v in e.items() if k != "seconds"} for e in events]
    return found


def _differences(found: dict, expected: dict) -> list[str]:
    return [n for n in sorted(found.keys() | expected.keys()) if found.get(n) != expected.get(n)]


def _kill(
    name: str,
    folder: pathlib.Path,
    num_kills: int,
    draw: Callable[[], Target],
    after: Callable[[pathlib.Path], None] = lambda workdir: None,
) -> str:
    """Kills runs `num_kills` times, each time where `draw` says; a row of the table.

    `after` each kill something may be done to the workdir.
    """
    started = time.monotonic()
    assert _attempt(name, folder / "unkilled", None)
    unkilled_seconds = time.monotonic() - started
    expected = _outcome(folder / "unkilled")
    assert "results.json" in expected and any(name.endswith(".png") for name in expected)
    kills, runs, wrong = dict.fromkeys(MOMENTS, 0), 0, []
    while sum(kills.values()) < num_kills:
        workdir, ended = folder / f"killed_{runs}", False
        while not ended:
            is_last = sum(kills.values()) == num_kills
            target = None if is_last else draw()
            ended = _attempt(name, workdir, target)
            if not ended:
                kills[target.moment] += 1
                after(workdir)
        wrong += [f"{workdir.name}/{name}" for name in _differences(_outcome(workdir), expected)]
        runs += 1
    assert not wrong, wrong
    places = ", ".join(f"{n} {moment}" for moment, n in kills.items() if n)
    return (
        f"| {name} | {sum(kills.values())} ({places}) | {runs} | {len(expected)} | {len(wrong)} "
        f"| {unkilled_seconds:.0f} | {time.monotonic() - started:.0f} |"
    )


def _damage_newest(workdir: pathlib.Path) -> None:
    """Flips a bit of the largest file of the newest of several checkpoints."""
    numbers = [path for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal()]
    if len(numbers) < 2:
        return
    newest = max(numbers, key=lambda path: int(path.name))
    path = max(newest.glob("state/**/d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_commands")
def test_a_student_killed_and_restarted_or_trained_again_is_bit_equal(tmp_path):
    targets = iter([Target("epoch", 2 + 2, 0.05), Target("report", 1, 0.0)])
    _kill("tiny", tmp_path, 2, lambda: next(targets), after=_damage_newest)
    assert list((tmp_path / "killed_0" / "checkpoints").glob("damaged_*"))
    # Again in a fresh process: nothing compiled is shared, and sets are iterated in another order.
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    command = (sys.executable, "-m", "jaxrobust.main", *_arguments("tiny", tmp_path / "again"))
    subprocess.run(command, cwd=ROOT, env=os.environ | cache, check=True)
    again = _outcome(tmp_path / "again")
    assert not _differences(again, _outcome(tmp_path / "unkilled"))
    assert {"results.json", "student/model.safetensors", "figures/epochs.png"} <= again.keys()
    (start,) = json.loads((tmp_path / "again" / "environment.json").read_text())["starts"]
    assert start["dtype"] == "float32" and start["devices"] and start["started"]
    assert start["variables"]["JAX_COMPILATION_CACHE_DIR"] == cache["JAX_COMPILATION_CACHE_DIR"]
    packages = {"jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn"}
    packages |= {"ml_collections", "tensorflow-datasets", "pillow", "matplotlib"}
    assert packages <= start["versions"].keys()


# Calls on arrays that keep their work: each is a program that ends by printing a digest of what it
# returns, run in a folder with `features`, `labels`, `images` and WORKDIR. A new call is an entry.
_ARRAYS = """
import hashlib, pathlib, sys
import numpy as np
import jaxrobust
rng = np.random.default_rng(0)
labels = np.arange(240) % 3
features = 2.0 * np.eye(3, 8)[labels] + rng.normal(size=(240, 8))
images = (rng.integers(0, 64, (240, 8, 8, 3)) + 60 * labels[:, None, None, None]).astype(np.uint8)
WORKDIR = pathlib.Path(sys.argv[1])
def done(*arrays):
    print("digest", hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in arrays)).hexdigest())
"""
CALLS = {
    "find_label_issues(workdir=)": """
found = jaxrobust.find_label_issues(labels, features=features, workdir=WORKDIR,
    config={"num_epochs": 60, "checkpoint.every_seconds": 0.2})
done(found.pred_probs, found.clean_prob, found.ranked)
""",
    "query(workdir=)": """
found = jaxrobust.query(np.where(np.arange(240) < 60, labels, -1), features=features, budget=9,
    workdir=WORKDIR, config={"num_epochs": 60, "checkpoint.every_seconds": 0.2})
done(found.ids, found.pred_probs)
""",
    "embed": """
import os
os.environ["HOME"] = str(WORKDIR)
from jaxrobust.models import embedding, make_classifier
from jaxrobust.models.storage import StoredClassifier
import jax, jax.numpy as jnp
embedding._CHUNK = 8
module = make_classifier("resnet8", num_classes=2, auxiliary="none", dtype=jnp.float32)
variables = module.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
network = StoredClassifier("resnet8", 2, variables, mean=(0.5,) * 3, std=(0.25,) * 3)
done(jaxrobust.embed(images, backbone=network, size=32, batch_size=8).array)
""",
    "distill(workdir=)": """
student = jaxrobust.distill(images, labels, teacher=np.log(np.eye(3)[labels] + 0.01),
    student="resnet8", workdir=WORKDIR, config={"num_epochs": 12, "checkpoint.every_seconds": 0.2})
done(student.predict_proba(images))
""",
}


def _call(name: str, workdir: pathlib.Path, wait: float | None) -> str | None:
    """The digest that a call ends with; None if it was killed `wait` seconds after its start."""
    command = (sys.executable, "-c", _ARRAYS + CALLS[name], str(workdir))
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        said, _ = process.communicate(timeout=wait)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None
    assert process.returncode == 0, said
    return said.rpartition("digest ")[2].strip()


@pytest.mark.stress
@pytest.mark.parametrize("call", CALLS)
def test_every_call_killed_often_and_anywhere_is_bit_equal(call, tmp_path):
    rng = np.random.default_rng(sorted(CALLS).index(call))
    started = time.monotonic()
    expected = _call(call, tmp_path / "unkilled", None)
    seconds = time.monotonic() - started
    kills, runs, wrong = 0, 0, 0
    while kills < NUM_KILLS:
        found = None
        while found is None:
            # What is killed while it imports has not begun.
            wait = None if kills == NUM_KILLS else float(rng.uniform(0.3, 1) * seconds)
            found = _call(call, tmp_path / f"killed_{runs}", wait)
            kills += found is None
        wrong += found != expected
        runs += 1
    print(
        "\n| call | kills | runs | differences | seconds unkilled | in all |\n"
        f"|---|---|---|---|---|---|\n| {call} | {kills} | {runs} | {wrong} | {seconds:.0f} | "
        f"{time.monotonic() - started:.0f} |",
        flush=True,
    )
    assert not wrong


@pytest.mark.stress
@pytest.mark.parametrize("method", METHODS)
def test_every_method_killed_often_and_anywhere_is_bit_equal(method, tmp_path):
    rng = np.random.default_rng(sorted(METHODS).index(method))
    row = _kill(method, tmp_path, NUM_KILLS, lambda: _draw_target(rng, method))
    print(
        "\n| method | kills | runs | files compared | differences | seconds unkilled | in all |\n"
        f"|---|---|---|---|---|---|---|\n{row}",
        flush=True,
    )


def _announce() -> None:
    """Makes a run say what it begins."""
    from jaxrobust.engine import run
    from jaxrobust.engine.checkpoint import Checkpoints
    from jaxrobust.tasks import active_learning, distillation, noisy_labels

    learning, noisy = active_learning._Learning, noisy_labels._Learning
    distilling = distillation._Distillation
    for moment, owner, name in (
        ("start", run.Run, "restore"),
        ("epoch", run.Run, "epoch_done"),
        ("checkpoint", Checkpoints, "save"),
        ("evaluation", learning, "_measure"),
        ("evaluation", noisy, "_test_measures"),
        ("evaluation", noisy, "_label_scores"),
        ("evaluation", distilling, "_test_measures"),
        ("query", learning, "_query"),
        ("report", learning, "_finish"),
        ("report", noisy_labels, "_finish"),
        ("report", distilling, "_finish"),
    ):
        setattr(owner, name, _announced(moment, getattr(owner, name)))


def _announced(moment: str, function):
    def wrapped(*args, **kwargs):
        print(moment, flush=True)
        return function(*args, **kwargs)

    return wrapped


if __name__ == "__main__":
    _announce()
    runpy.run_module("jaxrobust.main", run_name="__main__", alter_sys=True)
