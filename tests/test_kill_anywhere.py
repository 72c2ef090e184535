"""What is killed with SIGKILL anywhere and begun again leaves what it leaves unkilled, bit for bit.

The ordinary suite kills a tiny network twice, and damages its newest checkpoint. The whole table
(twenty kills of each line of `RUNS` and `CALLS`, and of the review server; `-s` shows it;
`NUM_KILLS=5` in the environment kills less often):

    python -m pytest -n 0 -s -m stress tests/test_kill_anywhere.py

Both are started through this file, which makes them say on standard output what they begin; a kill
falls a random time after a random one of these moments. A new method or call is a line of a table.
"""

import csv
import dataclasses
import hashlib
import http.client
import io
import json
import os
import pathlib
import re
import runpy
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable

import numpy as np
import pytest
from commands import Command

ROOT = pathlib.Path(__file__).parents[1]
NUM_KILLS = int(os.environ.get("NUM_KILLS", "20"))

# Moment -> the longest wait before the kill, in seconds.
MOMENTS = {
    "start": 2.0,  # reading the checkpoint, first steps
    "epoch": 0.3,
    "checkpoint": 0.3,  # written in the background
    "evaluation": 0.3,
    "query": 0.3,
    "report": 1.5,  # results, tables, figures, stored networks
}
FEW = ("--config.dataset.max_train=200", "--config.dataset.max_test=100")
NOISY = ("tests/tiny_recipe.py:dpc", *FEW, "--config.batch_size=16", "--config.num_epochs=10")
ACTIVE = (*FEW, "--config.num_epochs=6", "--config.al.rounds=3", "--config.al.query_size=20")
TAUGHT = (
    "--config.dataset.max_train=100",
    "--config.dataset.max_test=50",
    "--config.teacher.num_epochs=2",
    "--config.num_epochs=8",
    "--config.deterministic=True",
)
# Recipe and options of each run.
RUNS = {
    "dpc": (*NOISY, "--config.dpc.warm_up=3"),
    "dividemix": (*NOISY, "--config.method=dividemix", "--config.dpc.warm_up=3"),
    "cross_entropy": (*NOISY, "--config.method=cross_entropy"),
    "bldr": (
        "tests/tiny_recipe.py:bldr",
        "--config.model.name=tiny2",
        *FEW,
        "--config.batch_size=32",
        "--config.num_epochs=12",
        "--config.bldr.warm_up=3",
    ),
    "dcfs": ("tests/tiny_recipe.py:dcfs", *ACTIVE),
    "bual": ("tests/tiny_recipe.py:bual", *ACTIVE, "--config.bual.subset_size=100"),
    "e2oal": ("tests/tiny_recipe.py:e2oal", *ACTIVE),
    "badge": (
        "tests/tiny_recipe.py:active_learning_baselines",
        *ACTIVE,
        "--config.method=badge",
    ),
    "dhkd": ("tests/tiny_recipe.py:dhkd", *TAUGHT),
    "crd": ("tests/tiny_recipe.py:kd_baselines", *TAUGHT, "--config.method=crd"),
    "l2d": ("tests/tiny_recipe.py:l2d", *TAUGHT, "--config.batch_size=25"),
}
# Calls on arrays that keep their work, each a program of `images`, `labels`, `features`, `votes`
# and WORKDIR that ends with `done` of what is returned.
_ARRAYS = """
rng = np.random.default_rng(0)
labels = np.arange(240) % 3
features = 2.0 * np.eye(3, 8)[labels] + rng.normal(size=(240, 8))
images = (rng.integers(0, 64, (240, 8, 8, 3)) + 60 * labels[:, None, None, None]).astype(np.uint8)
votes = np.where(rng.random((240, 5)) < 0.3, rng.integers(0, 3, (240, 5)), labels[:, None])
OFTEN = {"checkpoint.every_seconds": 0.2}
"""
CALLS = {
    "find_label_issues": """
found = jaxrobust.find_label_issues(labels, features=features, workdir=WORKDIR,
    config={"num_epochs": 60, **OFTEN})
done(found.pred_probs, found.clean_prob, found.ranked)
""",
    "query": """
found = jaxrobust.query(np.where(np.arange(240) < 60, labels, -1), features=features, budget=9,
    workdir=WORKDIR, config={"num_epochs": 60, **OFTEN})
done(found.ids, found.pred_probs)
""",
    "consensus": """
found = jaxrobust.consensus(votes, features=features, workdir=WORKDIR)
done(found.probs, found.quality, found.ranked, found.annotators.accuracy)
""",
    "distill": """
student = jaxrobust.distill(images, labels, teacher=np.log(np.eye(3)[labels] + 0.01),
    student="tiny4", workdir=WORKDIR, config={"num_epochs": 12, **OFTEN})
done(student.predict_proba(images))
""",
    "embed": """
os.environ["HOME"] = str(WORKDIR)
import jax
from jaxrobust.models import embedding, make_classifier
from jaxrobust.models.storage import StoredClassifier
embedding._CHUNK = 8
module = make_classifier("tiny4", num_classes=2, auxiliary="none", dtype=np.float32)
variables = module.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
network = StoredClassifier("tiny4", 2, variables, mean=(0.5,) * 3, std=(0.25,) * 3)
done(jaxrobust.embed(images, backbone=network, size=32, batch_size=8).array)
""",
}
# Written anew by every start, or holding times.
NOT_COMPARED = (".lock", "environment.json", "timing.json", "checkpoints", "tensorboard", "report")


@dataclasses.dataclass(frozen=True)
class Target:
    """The kill that one attempt gets: `wait` seconds after the `count`-th time of `moment`."""

    moment: str
    count: int
    wait: float


def _draw_target(rng: np.random.Generator, name: str, seconds: float) -> Target:
    """A kill of a run or call that takes so many seconds."""
    if name in ("consensus", "embed"):
        return Target("start", 1, float(rng.uniform(0, seconds)))
    queries = name in ("dcfs", "bual", "e2oal", "badge", "query")
    moment = str(rng.choice([m for m in MOMENTS if m != "query" or queries]))
    count = 1 if moment in ("start", "report") else int(rng.integers(1, 5))
    return Target(moment, count, float(rng.uniform(0, MOMENTS[moment])))


def _arguments(name: str, workdir: pathlib.Path) -> tuple[str, ...]:
    if name in CALLS:
        return ("call", name, str(workdir))
    recipe, *options = RUNS[name]
    every_epoch = "--config.checkpoint.every_seconds=0"
    return (f"--config={recipe}", *options, every_epoch, f"--workdir={workdir}")


def _attempt(name: str, workdir: pathlib.Path, target: Target | None) -> bool:
    """Starts or goes on with a run or call; True if it ended before it was killed."""
    module = f"tests.{pathlib.Path(__file__).stem}"
    renders = name == "dhkd"  # what figures look like is no method's
    arguments = _arguments(name, workdir)
    command = Command(module, *arguments, folder=ROOT, renders=renders)
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
        # Pages name the workdir, and keep answers in the browser under a digest of its path.
        content = path.read_bytes().replace(bytes(workdir), b"WORKDIR")
        found[name] = re.sub(rb'"key":"jaxrobust review [0-9a-f]+"', b"", content)
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
    draw: Callable[[float], Target],
    after: Callable[[pathlib.Path], None] = lambda workdir: None,
) -> str:
    """Kills runs `num_kills` times, each time where `draw` says; a row of the table.

    `after` each kill something may be done to the workdir.
    """
    started = time.monotonic()
    assert _attempt(name, folder / "unkilled", None)
    unkilled_seconds = seconds = time.monotonic() - started
    expected = _outcome(folder / "unkilled")
    assert ("returned" if name in CALLS else "results.json") in expected
    kills, runs, wrong = dict.fromkeys(MOMENTS, 0), 0, []
    while sum(kills.values()) < num_kills:
        workdir, ended = folder / f"killed_{runs}", False
        while not ended:
            is_last = sum(kills.values()) == num_kills
            target = None if is_last else draw(seconds)
            began = time.monotonic()
            ended = _attempt(name, workdir, target)
            if ended:
                seconds = time.monotonic() - began
            else:
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
    """Flips a bit of each file of the newest checkpoint's arrays, where there are several.

    Of each, since some parts of such files are of no array: a store keeps nodes it has replaced.
    """
    numbers = [path for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal()]
    if len(numbers) < 2:
        return
    newest = max(numbers, key=lambda path: int(path.name))
    for path in newest.glob("state/**/d/*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_commands")
def test_a_student_killed_and_restarted_or_trained_again_is_bit_equal(tmp_path):
    # A snapshot waits for the one before it: when the student's fourth begins, two are complete.
    targets = iter([Target("checkpoint", 2 + 4, 0.05), Target("report", 1, 0.0)])
    _kill("dhkd", tmp_path, 2, lambda _: next(targets), after=_damage_newest)
    assert list((tmp_path / "killed_0" / "checkpoints").glob("damaged_*"))
    # Again in a fresh process: nothing compiled is shared, and sets are iterated in another order.
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    command = (sys.executable, "-m", "jaxrobust.main", *_arguments("dhkd", tmp_path / "again"))
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


@pytest.mark.stress
@pytest.mark.usefixtures("quick_commands")
@pytest.mark.parametrize("name", [*RUNS, *CALLS])
def test_whatever_is_killed_often_and_anywhere_is_bit_equal(name, tmp_path):
    rng = np.random.default_rng()  # no two tables are of the same moments
    row = _kill(name, tmp_path, NUM_KILLS, lambda seconds: _draw_target(rng, name, seconds))
    print(
        "\n| killed | kills | runs | files compared | differences | seconds unkilled | in all |"
        f"\n|---|---|---|---|---|---|---|\n{row}",
        flush=True,
    )


# ------------------------------------------------------------------------- the review server


def _serve(page: pathlib.Path) -> tuple[Command, http.client.HTTPConnection, str]:
    """A server of the page, a connection to it, and the path of its answers."""
    command = Command("jaxrobust", "review", str(page), "--no-browser", folder=ROOT)
    address = urllib.parse.urlsplit(command.stdout.readline().strip())
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    return command, connection, f"{address.path}answers"


def _answer(connection: http.client.HTTPConnection, path: str, number: int, count: int) -> None:
    """Of image after image, again and again: the `number`-th answer of all."""
    label, decision = ("cat", "keep") if number // count % 2 else ("dog", "accept")
    # In milliseconds, after every table that a server finds.
    entry = {str(number % count): [decision, label, 1e15 + number, f"=note {number}\n", 0]}
    connection.request("POST", path, json.dumps(entry), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    assert reply.status == 200, reply.read()
    reply.read()


def _end(command: Command, connection: http.client.HTTPConnection) -> None:
    connection.close()
    command.process.kill()
    command.end()


def _kill_servers(folder: pathlib.Path, num_kills: int, num_answers: int, longest: float) -> str:
    """Kills servers `num_kills` times while answers come in; a row of the table.

    The last one takes `num_answers` and is let live.
    """
    from jaxrobust.review import review_page

    count, rng, started = 50, np.random.default_rng(), time.monotonic()
    rows = [review_page.Suspect(n, f"{n}.png", "cat", "dog", 0.1) for n in range(count)]
    pages = [folder / name / "label_review.html" for name in ("unkilled", "killed")]
    for page in pages:
        review_page.write(page, rows, ["cat", "dog"], root=folder)
    tables = [page.with_name("corrections.csv") for page in pages]
    answered = kills = lost = 0
    while True:
        command, connection, path = _serve(pages[1])
        killer = threading.Timer(rng.uniform(0, longest), command.process.kill)
        if kills < num_kills:
            killer.start()
        last = answered + num_answers
        try:
            while kills < num_kills or answered < last:
                _answer(connection, path, answered, count)
                answered += 1
        except (OSError, http.client.HTTPException):
            kills += 1
        _end(command, connection)
        if not tables[1].exists():
            continue
        text = tables[1].read_text(encoding="utf-8-sig")
        notes = [row["note"] for row in csv.DictReader(io.StringIO(text, newline=""))]
        found = {int(note.split()[1].removesuffix("\\n")) for note in notes}
        # The one that was under way when the kill fell may be there, in place of an older one.
        kept = range(max(0, answered - count + (answered in found)), answered)
        lost += len(set(kept) - found)
        if not killer.ident:
            break
    command, connection, path = _serve(pages[0])
    for number in range(answered):
        _answer(connection, path, number, count)
    _end(command, connection)
    different = tables[0].read_bytes() != tables[1].read_bytes()
    assert not lost and not different
    seconds = time.monotonic() - started
    return f"| {kills} | {answered} | {lost} | {int(different)} | {seconds:.0f} |"


def test_a_review_server_killed_and_started_again_loses_no_answer(tmp_path):
    _kill_servers(tmp_path, 2, 9, 0.1)


@pytest.mark.stress
def test_a_review_server_killed_often_loses_no_answer(tmp_path):
    row = _kill_servers(tmp_path, NUM_KILLS, 100, 0.5)
    print(
        "\n| kills of the review server | answers | lost | tables different | seconds |"
        f"\n|---|---|---|---|---|\n{row}",
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


def _call(name: str, workdir: pathlib.Path) -> None:
    """Makes a call of the table, and keeps a digest of what it returns."""
    import jaxrobust

    sys.path.insert(0, str(ROOT / "tests"))
    import tiny_recipe

    tiny_recipe.register()
    workdir.mkdir(exist_ok=True)

    def done(*arrays):
        content = b"".join(np.asarray(array).tobytes() for array in arrays)
        (workdir / "returned").write_text(hashlib.sha256(content).hexdigest())

    print("start", flush=True)
    given = {"jaxrobust": jaxrobust, "np": np, "os": os, "WORKDIR": workdir, "done": done}
    exec(_ARRAYS + CALLS[name], given)


if __name__ == "__main__":
    _announce()
    if sys.argv[1] == "call":
        _call(sys.argv[2], pathlib.Path(sys.argv[3]))
    else:
        runpy.run_module("jaxrobust.main", run_name="__main__", alter_sys=True)
