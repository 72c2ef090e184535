"""Seconds that every annotation strategy takes for one query of a large pool of features.

    python benchmarks/query_speed.py --features=tune.npz,train.npz --num_rows=50000

Every view in the files of `jaxrobust.embed` is a row of the pool. `jaxrobust.query` is called twice
for each strategy and the second call is timed, in which nothing is compiled: training on
`--num_annotated` examples of six known and four unknown classes, scoring and choice. Of these,
"choice" is the strategy's own part, from trained networks and their outputs on the pool to ids.
Prints wall and processor seconds, which differ on a machine that does other work.
"""

import argparse
import dataclasses
import time

import jax
import numpy as np

import jaxrobust
from jaxrobust import UNKNOWN, UNLABELED
from jaxrobust.recipes.methods import STRATEGIES
from jaxrobust.tasks import phases


def rows_of(paths: list[str], num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """float16 `[N, D]` and labels `[N]`."""
    features, labels = [], []
    for path in paths:
        with np.load(path) as arrays:
            for view in range(arrays["features"].shape[1]):
                features.append(arrays["features"][:, view])
                labels.append(arrays["labels"])
    rows = np.random.default_rng(0).permutation(sum(map(len, labels)))[:num_rows]
    return np.concatenate(features)[rows], np.concatenate(labels)[rows]


def clock() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", required=True, help=".npz files, separated by commas")
    parser.add_argument("--num_rows", type=int, default=50_000)
    parser.add_argument("--num_annotated", type=int, default=2000)
    parser.add_argument("--budget", type=int, default=1500)
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    arguments = parser.parse_args()
    features, labels = rows_of(arguments.features.split(","), arguments.num_rows)
    annotations = np.full(len(labels), UNLABELED)
    asked = slice(0, arguments.num_annotated)
    annotations[asked] = np.where(labels[asked] < 6, labels[asked], UNKNOWN)
    chosen = {}

    def timed(build):
        def strategy(config, problem):
            made = build(config, problem)

            def query(context):
                for phase in context.trained:
                    jax.block_until_ready(context.predict(phase))  # is kept
                began = clock()
                result = made.query(context)
                chosen["seconds"] = clock() - began
                return result

            return dataclasses.replace(made, query=query)

        return strategy

    phases.STRATEGIES = {name: timed(build) for name, build in STRATEGIES.items()}
    print(f"{features.shape[0]:,} x {features.shape[1]:,}, budget {arguments.budget}:\n")
    print("| | choice, s | choice, processor s | with training and scoring, s | processor s |")
    print("|---|---|---|---|---|", flush=True)
    for strategy in arguments.strategies.split(","):
        for _ in range(2):
            began = clock()
            jaxrobust.query(
                annotations, features=features, budget=arguments.budget, method=strategy
            )
            whole = clock() - began
        cells = " | ".join(f"{x:.1f}" for x in (*chosen["seconds"], *whole))
        print(f"| {strategy} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
