"""One recipe for several seeds, one after another, on the same compiled programs."""

import json
import logging
import os
import pathlib
from collections.abc import Callable

import ml_collections

from jaxrobust import compare
from jaxrobust.engine.files import write_json, write_text
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.runtime import check_same_config, plain
from jaxrobust.errors import UserError

log = logging.getLogger("jaxrobust")


def run_seeds(
    task: Callable[..., dict], config: ml_collections.ConfigDict, workdir: str | os.PathLike
) -> dict:
    """Runs `config.num_seeds` seeds, or those of them that are not finished.

    Each seed has a workdir of its own, `workdir/seed_<seed>`, which is that of the same recipe run
    alone, bit for bit.

    Args:
      task: `(config, workdir, programs) -> results` of one seed.
      config: a recipe whose seeds are `seed`, `seed + 1`, ...
      workdir: of all seeds together.

    Returns:
      What `workdir/results.json` holds: mean and standard deviation of every measure.

    Raises:
      UserError: if a person is to answer, who cannot be asked by several runs at once, or for what
        a single run raises.
    """
    if config.get("oracle", "truth") != "truth":
        raise UserError(
            f"num_seeds={config.num_seeds} with oracle={config.oracle!r} would ask a person the "
            "same questions over and over; set --config.num_seeds=1."
        )
    workdir, programs, runs = pathlib.Path(workdir), Programs(), []
    for seed in range(config.seed, config.seed + config.num_seeds):
        one = config.copy_and_resolve_references()
        one.update({"seed": seed, "num_seeds": 1})
        folder = workdir / f"seed_{seed}"
        log.info("Seed %d (%d of %d)", seed, seed - config.seed + 1, config.num_seeds)
        if (folder / "results.json").exists():
            check_same_config(plain(one), folder / "config.json")
            log.info("%s is finished already", folder)
            runs.append(json.loads((folder / "results.json").read_text()))
        else:
            runs.append(task(one, folder, programs))
    groups = {config.method: runs}
    results = {
        **{name: runs[0][name] for name in ("task", "method", "dataset")},
        "seeds": [r["seed"] for r in runs],
        "traces": dict(programs.traces),
        **compare.statistics(groups)[config.method],
    }
    write_json(workdir / "results.json", results)
    table = compare.table(groups)
    write_text(workdir / "table.md", table + "\n")
    compare.draw(groups, workdir / "figures" / "curves.png")
    for line in (
        f"mean ± deviation over {len(runs)} seeds:\n{table}",
        f"results: {workdir / 'results.json'}",
        f"figure: {workdir / 'figures' / 'curves.png'}",
    ):
        log.info(line)
    return results
