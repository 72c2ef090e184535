"""Seconds and memory against the number of images, for what queries and reports are made of.

    python benchmarks/growth.py --out=runs/growth
    python benchmarks/growth.py --out=runs/growth --only=knn,badge --sizes=1000,10000

Every point has a process of its own, so that the highest memory is that of its size, and makes its
own clustered random features. A call that takes less than `--max_repeat` processor seconds is
repeated, and the second one is timed, in which nothing is compiled. A point that the two before it
let expect to take more than `--max_seconds` processor seconds or `--max_gb` of memory is not run.

Writes `growth.csv`, a line for each point as it is done, which is not repeated; `growth.png`; and
prints a table. The exponent is the slope of log seconds over log N by least squares, over the four
largest sizes; of processor seconds, which other work on the machine disturbs less.
"""

import argparse
import csv
import dataclasses
import functools
import json
import math
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

from jaxrobust.recipes.parse import parse

SIZES = (1000, 10_000, 31_623, 100_000, 316_228, 1_000_000)
COLUMNS = ("name", "size", "seconds", "processor_seconds", "gb", "load", "commit")
NUM_FITTED = 4
NUM_CLASSES, WIDTH, COMPONENTS, DIMENSIONS = 10, 256, 128, 1280
BUDGET, ANNOTATED = 1500, 2000
_CHUNK = 65_536


# What is measured: size -> a function without arguments that does it once


def _clusters(n: int, dimensions: int, dtype=np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Features `[n, D]` around one centre for each class, and classes `[n]`."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(NUM_CLASSES, dimensions)).astype(np.float32)
    labels = rng.integers(NUM_CLASSES, size=n).astype(np.int32)
    features = np.empty((n, dimensions), dtype)
    for start in range(0, n, _CHUNK):
        part = slice(start, start + _CHUNK)
        noise = rng.standard_normal(features[part].shape, np.float32)
        features[part] = 1.5 * noise + centers[labels[part]]
    return features, labels


def _pool(n: int) -> dict:
    """Features, who was asked about which, and a budget, as operands of the selections."""
    annotated = np.arange(n) < min(ANNOTATED, n // 5)
    return {"budget": min(BUDGET, n // 10), "annotated": annotated, "where": ~annotated}


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _target(n: int):
    """The classifier of the recipe bual:features and n images to apply it to, on the device."""
    import jax
    import jax.numpy as jnp

    from jaxrobust.data.views import make_views, statistics_of
    from jaxrobust.engine.environment import setup_jax
    from jaxrobust.engine.sharding import make_placement
    from jaxrobust.methods.strategy import AnnotationProblem
    from jaxrobust.recipes import bual
    from jaxrobust.recipes.methods import STRATEGIES

    config = bual.get_config("features")
    setup_jax(parse(config))
    placement = make_placement(jax.devices()[:1])
    problem = AnnotationProblem(NUM_CLASSES, (DIMENSIONS,), jnp.float32, BUDGET)
    strategy = STRATEGIES["bual"](parse(config), problem)
    (phase,) = [phase for phase in strategy.phases if phase.name == "target"]
    state = placement.put(jax.jit(lambda key: phase.start(key, {}))(jax.random.key(0)))
    features, labels = _clusters(n, DIMENSIONS, np.float16)
    data = placement.put((features[:, None], labels, statistics_of([0.0], [2.0])))
    views = make_views(parse(config).augment, problem.input_shape, problem.dtype)
    return config, placement, phase, views, state, data


def scoring(n: int) -> Callable[[], object]:
    import jax

    from jaxrobust.engine.loops import gather_program
    from jaxrobust.engine.plan import place_plan
    from jaxrobust.engine.programs import Programs
    from jaxrobust.selection import classifier_confidence, select_lowest
    from jaxrobust.tasks.phases import phase_outputs

    config, placement, phase, views, state, (images, _, statistics) = _target(n)

    def confidence(logits):
        return classifier_confidence(jax.nn.softmax(logits), "margin")

    forward = phase_outputs(phase, "test", views, confidence)
    program = gather_program(Programs(placement), "scores", forward, n, placement, static=())

    def score():
        plan = place_plan(np.arange(n), config.eval_batch_size, placement, capacity=n)
        scores = program(plan, jax.random.key(0), state.variables, images, statistics)
        return select_lowest(np.asarray(scores), BUDGET)

    return score


def epoch(n: int) -> Callable[[], object]:
    import jax

    from jaxrobust.engine.loops import epoch_program
    from jaxrobust.engine.plan import place_plan
    from jaxrobust.engine.programs import Programs
    from jaxrobust.tasks.phases import phase_step

    config, placement, phase, views, state, (images, labels, statistics) = _target(n)
    step = phase_step(phase, views)
    program = epoch_program(
        Programs(placement), "epoch", step, placement, static=(), device_loop=True
    )
    states = [state]

    def train():
        order = _rng().permutation(n)
        plan = place_plan(order, config.batch_size, placement, capacity=n)
        rate = {"learning_rate": np.float32(0.005)}
        key = jax.random.key(0)
        states[0], sums = program(states[0], plan, key, images, labels, statistics, rate)
        return jax.block_until_ready(sums)

    return train


def mixture(n: int) -> Callable[[], object]:
    import jax

    from jaxrobust.selection import clean_probability

    is_wrong = _rng().random(n) < 0.3
    margins = np.where(is_wrong, -2, 3).astype(np.float32) + 1.5 * _rng().normal(size=n)
    fit = jax.jit(functools.partial(clean_probability, mode="gmm"))
    return lambda: jax.block_until_ready(fit(margins.astype(np.float32)))


def label_report(n: int) -> Callable[[], object]:
    import jaxrobust

    labels = _rng().integers(NUM_CLASSES, size=n)
    probs = _rng().random((n, NUM_CLASSES), np.float32) ** 4
    probs[np.arange(n), labels] += 0.7
    probs /= probs.sum(axis=1, keepdims=True)
    folder = tempfile.mkdtemp()

    def find():
        issues = jaxrobust.find_label_issues(labels, pred_probs=probs)
        issues.save(pathlib.Path(folder) / "label_quality.csv")

    return find


def leave_one_out(n: int) -> Callable[[], object]:
    from jaxrobust.selection import leave_one_out_scores

    features, labels = _clusters(n, DIMENSIONS, np.float16)
    return lambda: leave_one_out_scores(features, labels, num_classes=NUM_CLASSES)


def coreset(n: int) -> Callable[[], object]:
    import jax

    from jaxrobust.selection import k_center_greedy

    features, _ = _clusters(n, WIDTH)
    pool = _pool(n)
    features = jax.device_put(features)

    @jax.jit
    def pick(features, in_pool, is_center):
        return k_center_greedy(
            features, features, pool["budget"], where=in_pool, labeled_where=is_center
        )

    return lambda: np.asarray(pick(features, pool["where"], pool["annotated"]))


def badge(n: int) -> Callable[[], object]:
    import jax

    from jaxrobust.selection import badge_select

    features, labels = _clusters(n, WIDTH)
    logits = _rng().standard_normal((n, NUM_CLASSES), np.float32)
    logits[np.arange(n), labels] += 2
    pool = _pool(n)
    features, logits = jax.device_put((features, logits))

    @jax.jit
    def pick(key, logits, features, in_pool):
        return badge_select(key, logits, features, pool["budget"], where=in_pool)

    return lambda: np.asarray(pick(jax.random.key(0), logits, features, pool["where"]))


def eaoa(n: int) -> Callable[[], object]:
    import jax

    from jaxrobust.selection import reverse_neighbor_energy

    features, labels = _clusters(n, WIDTH)
    pool = _pool(n)
    labels = np.where(pool["annotated"], labels, -1)
    features = jax.device_put(features)

    @jax.jit
    def energy(features, labels, where):
        return reverse_neighbor_energy(features, labels, NUM_CLASSES - 1, where=where)

    return lambda: np.asarray(energy(features, labels, pool["where"]))


def components(n: int) -> Callable[[], object]:
    from jaxrobust.selection import leading_components

    features, _ = _clusters(n, DIMENSIONS)
    return lambda: leading_components(features, COMPONENTS)


def typiclust(n: int) -> Callable[[], object]:
    from jaxrobust.selection import typical_select

    features, _ = _clusters(n, COMPONENTS)
    return lambda: typical_select(features, rng=_rng(), **_pool(n))


def probcover(n: int) -> Callable[[], object]:
    from jaxrobust.selection import cover_radius, cover_select

    features, _ = _clusters(n, COMPONENTS)
    features /= np.linalg.norm(features, axis=1, keepdims=True)

    def select():
        radius = cover_radius(features, NUM_CLASSES + 1, rng=_rng())
        return cover_select(features, radius=radius, rng=_rng(), **_pool(n))

    return select


def dropquery(n: int) -> Callable[[], object]:
    from jaxrobust.selection import drop_query_select

    features, _ = _clusters(n, COMPONENTS)
    disagreements = _rng().integers(4, size=n)
    pool = _pool(n)
    options = {"budget": pool["budget"], "where": pool["where"], "num_masks": 3}
    return lambda: drop_query_select(features, disagreements, rng=_rng(), **options)


def knn(n: int) -> Callable[[], object]:
    import jax

    from jaxrobust.selection import nearest_neighbors, neighbor_votes

    features, labels = _clusters(n, DIMENSIONS)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    features, labels = jax.device_put((features.astype(np.float16), labels))

    @jax.jit
    def votes(ids, features, labels):
        found = nearest_neighbors(features[ids], features, num_neighbors=50, exclude=ids)
        return neighbor_votes(found[0], labels[found[1]], num_classes=NUM_CLASSES)

    def agree():
        batch = min(512, n)
        starts = (min(start, n - batch) for start in range(0, n, batch))
        rows = (np.arange(start, start + batch, dtype=np.int32) for start in starts)
        return [np.asarray(votes(ids, features, labels)) for ids in rows]

    return agree


def duplicates(n: int) -> Callable[[], object]:
    from jaxrobust.data.features import FeatureExamples
    from jaxrobust.review import health

    features, labels = _clusters(n, DIMENSIONS, np.float16)
    examples = FeatureExamples(features[:, None], np.arange(n), labels)
    return lambda: health.neighbors(examples, examples.take(np.arange(0)))


def query(n: int) -> Callable[[], object]:
    import jaxrobust

    features, labels = _clusters(n, DIMENSIONS, np.float16)
    annotations = np.full(n, jaxrobust.UNLABELED)
    asked = slice(0, min(ANNOTATED, n // 5))
    annotations[asked] = np.where(labels[asked] < 6, labels[asked], jaxrobust.UNKNOWN)
    budget = min(BUDGET, n // 10)
    return lambda: jaxrobust.query(annotations, features=features, budget=budget, method="bual")


@dataclasses.dataclass(frozen=True)
class Curve:
    """What is measured, and how the table and the figure call it.

    Attributes:
      label: in the table and above the panel.
      prepare: size -> what does it once.
      largest: size beyond which the library does not do it, or None.
    """

    label: str
    prepare: Callable[[int], Callable[[], object]]
    largest: int | None = None


CURVES = {
    "scoring": Curve("scoring a pool", scoring),
    "epoch": Curve("one epoch", epoch),
    "query": Curve("BUAL's query", query),
    "mixture": Curve("mixture fit", mixture),
    "leave_one_out": Curve("leave-one-out scores", leave_one_out),
    "label_report": Curve("label report", label_report),
    "coreset": Curve("coreset", coreset),
    "badge": Curve("BADGE", badge),
    "eaoa": Curve("EAOA's neighbours", eaoa),
    "components": Curve("principal components", components),
    "typiclust": Curve("TypiClust", typiclust),
    "probcover": Curve("ProbCover", probcover),
    "dropquery": Curve("DropQuery", dropquery),
    "knn": Curve("kNN agreement", knn),
    "duplicates": Curve("duplicates, outliers", duplicates, largest=100_000),
}


# Measuring


def _measure(name: str, size: int, max_repeat: float) -> dict:
    """A point, in this process."""
    do = CURVES[name].prepare(size)
    taken = np.zeros(2)
    for _ in range(2):
        began = np.array([time.perf_counter(), time.process_time()])
        do()
        taken = np.array([time.perf_counter(), time.process_time()]) - began
        if taken[1] > max_repeat:
            break
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": taken[0], "processor_seconds": taken[1], "gb": kilobytes * 1024 / 1e9}


def expected(points: list[dict], size: int) -> tuple[float, float]:
    """Processor seconds and GB of a further size, by the power law of the last two points.

    Nothing is taken to grow more slowly than N, nor memory faster than N.
    """
    if not points:
        return 0.0, 0.0
    last, times = points[-1], size / points[-1]["size"]
    exponent = max(_exponent(points[-2:], 2) or 1.0, 1.0)
    return last["processor_seconds"] * times**exponent, last["gb"] * times


def _exponent(points: list[dict], count: int = NUM_FITTED) -> float | None:
    """Slope of log processor seconds over log N of the last points; None of a single one."""
    points = points[-count:]
    if len(points) < 2:
        return None
    sizes, seconds = ([p[k] for p in points] for k in ("size", "processor_seconds"))
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def _read(path: pathlib.Path) -> dict[str, list[dict]]:
    """Points of each curve by ascending size."""
    points = {name: [] for name in CURVES}
    if path.exists():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                numbers = {k: float(row[k]) for k in COLUMNS[2:6]}
                points[row["name"]].append(
                    {"size": int(row["size"]), **numbers, "commit": row["commit"]}
                )
    return {name: sorted(found, key=lambda p: p["size"]) for name, found in points.items()}


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    folder = pathlib.Path(__file__).parent
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout.strip()


def _run(path: pathlib.Path, name: str, size: int, arguments: argparse.Namespace) -> None:
    """Measures a point in a process of its own, and adds its line."""
    load = os.getloadavg()[0]
    command = [sys.executable, __file__, "--point", name, "--sizes", str(size)]
    command += ["--max_repeat", str(arguments.max_repeat)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=4 * arguments.max_seconds
        )
    except subprocess.TimeoutExpired:
        return print(f"{name} {size:,}: stopped after {4 * arguments.max_seconds:.0f} s")
    if done.returncode:
        return print(f"{name} {size:,}: {(done.stderr.strip() or 'killed').splitlines()[-1]}")
    point = json.loads(done.stdout.splitlines()[-1])
    cells = [point[k] for k in COLUMNS[2:5]]
    row = [name, size, *(f"{x:.4g}" for x in cells), f"{load:.1f}", _commit()]
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        csv.writer(file).writerows([COLUMNS, row] if is_new else [row])
    print(*row, flush=True)


# What is shown


def _cell(seconds: float) -> str:
    if seconds < 1e-3:
        return "< 0.001"
    return f"{seconds:.{max(0, min(1 - math.floor(math.log10(seconds)), 3))}f}"


def table(points: dict[str, list[dict]]) -> str:
    """Markdown: processor seconds at powers of ten, seconds at the largest, exponent, memory."""
    sizes = [size for size in SIZES if math.log10(size).is_integer()]
    head = [f"{size:,}" for size in sizes]
    rows = [["", *head, "exponent", "clock, s", "GB", "of N"], ["---"] * (len(head) + 5)]
    for name, curve in CURVES.items():
        if not (found := points[name]):
            continue
        at = {p["size"]: p for p in found}
        cells = []
        for size in sizes:
            if size in at:
                cells.append(_cell(at[size]["processor_seconds"]))
            elif curve.largest and size > curve.largest:
                cells.append("not done")
            else:
                exponent, last = _exponent(found) or 1.0, found[-1]
                times = (size / last["size"]) ** exponent
                cells.append(f"not run (about {last['processor_seconds'] * times:,.0f})")
        last = found[-1]
        exponent = _exponent(found)
        slope = "" if exponent is None else f"{exponent:.2f}"
        clock, memory = _cell(last["seconds"]), f"{last['gb']:.1f}"
        rows.append([curve.label, *cells, slope, clock, memory, f"{last['size']:,}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw(points: dict[str, list[dict]], path: pathlib.Path) -> None:
    """Small multiples, two beside each other so that a telephone shows them, on any background."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ink, line = "#808080", "#2b8cbe"
    names = [name for name in CURVES if points[name]]
    style = {"font.size": 14, "text.color": ink, "axes.edgecolor": ink, "axes.labelcolor": ink}
    style |= {"xtick.color": ink, "ytick.color": ink, "axes.titlesize": 15}
    with matplotlib.rc_context(style):
        num_rows = -(-len(names) // 2)
        figure, grid = plt.subplots(
            num_rows, 2, figsize=(7, 2.3 * num_rows), sharex=True, sharey=True, squeeze=False
        )
        for axis in grid.flat[len(names) :]:
            axis.set_axis_off()
        for axis, name in zip(grid.flat, names, strict=False):
            sizes, seconds = ([p[k] for p in points[name]] for k in ("size", "processor_seconds"))
            axis.loglog(sizes, seconds, "o-", color=line, linewidth=2, markersize=6)
            straight = np.array(SIZES, float)
            axis.loglog(straight, seconds[-1] * straight / sizes[-1], "--", color=ink, linewidth=1)
            exponent = _exponent(points[name])
            slope = "" if exponent is None else f"   $N^{{{exponent:.1f}}}$"
            axis.set_title(CURVES[name].label + slope, color=ink)
            axis.set_facecolor("none")
            axis.set_xlim(7e2, 1.5e6)
            axis.set_ylim(1e-3, 1e3)
            axis.set_yticks([1e-3, 1e-1, 1e1, 1e3])
            axis.minorticks_off()
            axis.grid(alpha=0.25, color=ink)
        for axis in grid[:, 0]:
            axis.set_ylabel("processor s")
        for axis in grid.flat[max(len(names) - 2, 0) : len(names)]:  # nothing is below them
            axis.tick_params(labelbottom=True)
            axis.set_xlabel("images N")
        figure.tight_layout()
        figure.savefig(path, dpi=130, transparent=True)
        plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/growth"))
    parser.add_argument("--only", default=",".join(CURVES), help="curves, separated by commas")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--max_seconds", type=float, default=300)
    parser.add_argument("--max_gb", type=float, default=12)
    parser.add_argument("--max_repeat", type=float, default=20)
    parser.add_argument("--point", help="measures one size of a curve in this process")
    arguments = parser.parse_args()
    sizes = [int(float(size)) for size in arguments.sizes.split(",")]
    if arguments.point:
        return print(json.dumps(_measure(arguments.point, sizes[0], arguments.max_repeat)))
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "growth.csv"
    for size in sizes:  # all curves have a point before the next one is dearer
        for name in arguments.only.split(","):
            points = _read(path)[name]
            if any(p["size"] == size for p in points):
                continue
            largest = CURVES[name].largest
            smaller = [p for p in points if p["size"] < size]
            seconds, gigabytes = expected(smaller, size)
            if (largest and size > largest) or (
                seconds > arguments.max_seconds or gigabytes > arguments.max_gb
            ):
                about = f"about {seconds:.0f} processor s, {gigabytes:.1f} GB"
                print(f"{name} {size:,}: not run ({about})", flush=True)
                continue
            _run(path, name, size, arguments)
    points = _read(path)
    draw(points, arguments.out / "growth.png")
    print(f"\n{table(points)}")


if __name__ == "__main__":
    main()
