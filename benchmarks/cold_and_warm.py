"""Seconds and memory of the public calls: the first, the same again, and one of other numbers.

    python benchmarks/cold_and_warm.py --calls=robust_classifier,query

Every call has a process of its own, with an empty compilation cache. "same" is the first call
again; then it is made on seven examples fewer, and with another rate, weight decay and number of
epochs, by which nothing but numbers differ. Prints wall and processor seconds, which differ on a
machine that does other work, and the memory that the process holds after each call.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np

OTHER = {"optimizer.learning_rate": 0.02, "optimizer.weight_decay": 2e-4, "num_epochs": 12}
USUAL = {"optimizer.learning_rate": 0.01, "optimizer.weight_decay": 5e-4, "num_epochs": 10}


def digits():
    """Features float32 `[1797, 64]`, labels of which a tenth is wrong, and images."""
    from sklearn.datasets import load_digits

    data = load_digits()
    random = np.random.default_rng(0)
    labels = data.target.copy()
    wrong = random.random(len(labels)) < 0.1
    labels[wrong] = random.integers(0, 10, wrong.sum())
    return data.data.astype(np.float32), labels, (data.images * 15).astype(np.uint8)


def find_by_features(fewer, config):
    import jaxrobust

    features, labels, _ = digits()
    del config
    jaxrobust.find_label_issues(labels[fewer:], features=features[fewer:])


def find_by_pred_probs(fewer, config):
    import jaxrobust

    _, labels, _ = digits()
    probs = np.random.default_rng(0).dirichlet(np.ones(10), len(labels)).astype(np.float32)
    del config
    jaxrobust.find_label_issues(labels[fewer:], pred_probs=probs[fewer:])


def find_by_dpc(fewer, config):
    import jaxrobust

    features, labels, _ = digits()
    jaxrobust.find_label_issues(
        labels[fewer:], features=features[fewer:], method="dpc", config=config
    )


def robust_classifier(fewer, config):
    """Five folds."""
    from sklearn.model_selection import cross_val_predict

    from jaxrobust import RobustClassifier

    features, labels, _ = digits()
    cross_val_predict(RobustClassifier(config=config), features[fewer:], labels[fewer:], cv=5)


def query(fewer, config):
    import jaxrobust

    features, labels, _ = digits()
    annotations = np.where(labels < 6, labels, jaxrobust.UNKNOWN)
    annotations[300:] = jaxrobust.UNLABELED
    jaxrobust.query(annotations[fewer:], features=features[fewer:], budget=50, config=config)


def query_images(fewer, config):
    """On 500 images, two epochs of each network."""
    import jaxrobust

    _, labels, images = digits()
    annotations = np.where(labels < 6, labels, jaxrobust.UNKNOWN)[:500]
    annotations[200:] = jaxrobust.UNLABELED
    config = {**config, "num_epochs": 2}
    jaxrobust.query(annotations[fewer:], images=images[fewer:500], budget=50, config=config)


def find_by_images(fewer, config):
    import jaxrobust

    _, labels, images = digits()
    config = {**config, "num_epochs": 2, "dpc.warm_up": 2}
    with warnings.catch_warnings(action="ignore"):  # of so few epochs
        jaxrobust.find_label_issues(labels[fewer:500], images=images[fewer:500], config=config)


def distill(fewer, config):
    import jaxrobust

    _, labels, images = digits()
    rows = slice(fewer, 500)
    config = {**config, "num_epochs": 1, "num_diagnosed": 8}
    teacher = 4 * np.eye(10, dtype=np.float32)[labels]
    jaxrobust.distill(
        images[rows],
        labels[rows],
        teacher=teacher[rows],
        student="resnet8",
        method="kd",
        config=config,
    )


def embed(fewer, config):
    import jaxrobust

    images = np.repeat(digits()[2][: 40 - fewer, :, :, None], 3, axis=3)
    del config
    jaxrobust.embed(images)


def consensus(fewer, config):
    import jaxrobust

    _, labels, _ = digits()
    random = np.random.default_rng(0)
    votes = np.where(random.random((len(labels), 5)) < 0.7, labels[:, None], -1)
    del config
    jaxrobust.consensus(votes[fewer:])


CALLS = (
    find_by_features,
    find_by_pred_probs,
    find_by_dpc,
    robust_classifier,
    query,
    query_images,
    find_by_images,
    distill,
    embed,
    consensus,
)


def memory() -> float:
    """MB that this process holds."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


def measure(call) -> str:
    """The row of one call, measured in this process."""
    cells = []
    for fewer, config in ((0, USUAL), (0, USUAL), (7, USUAL), (0, OTHER)):
        wall, processor = time.perf_counter(), time.process_time()
        call(fewer, config)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        cells.append(f"{wall:.1f} / {processor:.1f}, {memory():.0f}")
    return f"| {call.__name__} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [call.__name__ for call in CALLS]
    parser.add_argument("--calls", default=",".join(names))
    parser.add_argument("--here", action="store_true", help="in this process")
    arguments = parser.parse_args()
    calls = [call for call in CALLS if call.__name__ in arguments.calls.split(",")]
    if arguments.here:
        print(measure(calls[0]), flush=True)
        return
    print("| wall / processor s, MB | first | same | 7 examples fewer | other numbers |")
    print("|---|---|---|---|---|", flush=True)
    for call in calls:
        with tempfile.TemporaryDirectory() as cache:
            subprocess.run(
                [sys.executable, __file__, f"--calls={call.__name__}", "--here"],
                env={**os.environ, "JAX_COMPILATION_CACHE_DIR": cache},
                check=True,
            )


if __name__ == "__main__":
    main()
