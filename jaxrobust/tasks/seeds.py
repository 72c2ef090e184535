"""One recipe for several seeds on the same compiled programs, one after another on each device."""

import collections
import json
import logging
import os
import pathlib
import queue
import threading
from collections.abc import Callable

import jax

from jaxrobust.engine import sharding
from jaxrobust.engine.files import write_json, write_text
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.sharding import make_placement
from jaxrobust.engine.signals import stop_on_signals
from jaxrobust.engine.workdir import check_same_config
from jaxrobust.errors import UserError
from jaxrobust.methods import annotation_gain
from jaxrobust.recipes.fields import replace
from jaxrobust.recipes.parse import Recipe
from jaxrobust.recipes.protocols import ActiveLearning
from jaxrobust.report import compare
from jaxrobust.tasks.common import next_command

log = logging.getLogger("jaxrobust")


def run_seeds(task: Callable[..., dict], recipe: Recipe, workdir: str | os.PathLike) -> dict:
    """Runs `recipe.num_seeds` seeds, or those of them that are not finished.

    Each seed has a workdir of its own, `workdir/seed_<seed>`, which is that of the same recipe run
    alone on one device, bit for bit. With several devices in one process each of them takes the
    next seed that is left, with programs that it compiles once; several processes, or one device,
    take one seed after another.

    Args:
      task: `(recipe, workdir, programs) -> results` of one seed.
      recipe: a recipe whose seeds are `seed`, `seed + 1`, ...
      workdir: of all seeds together.

    Returns:
      What `workdir/results.json` holds: mean and standard deviation of every measure; `traces`, the
      most that any device traced a program.

    Raises:
      UserError: if a person is the oracle, who cannot be asked by several runs at once, and for
        anything that a single run raises.
      Interrupted: once every seed that was under way is saved, if a signal came.
    """
    if isinstance(recipe, ActiveLearning) and recipe.oracle != "truth":
        raise UserError(
            f"num_seeds={recipe.num_seeds} with oracle={recipe.oracle!r} would ask a person the "
            "same questions for every seed; set --config.num_seeds=1."
        )
    workdir = pathlib.Path(workdir)

    def run_one(seed: int, programs: Programs) -> dict:
        one = replace(recipe, {"seed": seed, "num_seeds": 1})
        folder = workdir / f"seed_{seed}"
        log.info("Seed %d (%d of %d)", seed, seed - recipe.seed + 1, recipe.num_seeds)
        if (folder / "results.json").exists():
            check_same_config(one, folder / "config.json")
            log.info("%s is already finished", folder)
            return json.loads((folder / "results.json").read_text())
        return task(one, folder, programs)

    seeds = range(recipe.seed, recipe.seed + recipe.num_seeds)
    devices = list(sharding.make_placement(count=recipe.device_count).mesh.devices.flat)
    if len(devices) > 1 and jax.process_count() == 1:
        programs = [Programs(make_placement([device])) for device in devices[: len(seeds)]]
        runs = _side_by_side(run_one, seeds, programs)
    else:
        programs = [Programs()]
        runs = [run_one(seed, *programs) for seed in seeds]
    traces = collections.Counter()
    for each in programs:
        traces |= each.traces  # the larger count of either
    groups = {recipe.method: runs}
    results = {
        **{name: runs[0][name] for name in ("task", "method", "dataset")},
        "seeds": [r["seed"] for r in runs],
        "traces": dict(traces),
        **compare.statistics(groups)[recipe.method],
    }
    gain = annotation_gain.over_seeds(runs)
    if gain:
        results["last_queries"] = gain
    write_json(workdir / "results.json", results)
    table = compare.table(groups)
    write_text(workdir / "table.md", table + "\n")
    compare.draw(groups, workdir / "figures" / "curves.png")
    for line in (
        f"mean ± standard deviation over {len(runs)} seeds:\n{table}",
        *([f"mean ± standard error over them: {gain['text']}"] if gain else ()),
        f"results: {workdir / 'results.json'}",
        f"figure: {workdir / 'figures' / 'curves.png'}",
        next_command(workdir),
    ):
        log.info(line)
    return results


def _side_by_side(
    run_one: Callable[[int, Programs], dict], seeds: range, programs: list[Programs]
) -> list[dict]:
    """Results of all seeds, from one thread for each of `programs`, which have their own devices.

    Once all have ended, the first exception that ended a seed is raised.
    """
    left, runs, errors = queue.SimpleQueue(), {}, []
    for seed in seeds:
        left.put(seed)

    def work(mine: Programs) -> None:
        assert mine.placement is not None
        with jax.default_device(mine.placement.mesh.devices.flat[0]):
            while not errors:
                try:
                    seed = left.get_nowait()
                except queue.Empty:
                    return
                threading.current_thread().name = f"seed {seed}"
                try:
                    runs[seed] = run_one(seed, mine)
                except BaseException as error:
                    errors.append(error)

    with stop_on_signals():
        # A second Ctrl-C leaves without waiting for them.
        threads = [threading.Thread(target=work, args=(each,), daemon=True) for each in programs]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.5)  # a signal is answered by this thread, but may wake another
    if errors:
        raise errors[0]
    return [runs[seed] for seed in seeds]
