"""Networks for `embed`, on the same photographs: seconds, wrong labels found, accuracy.

    python benchmarks/backbones.py --folder=cifar10_jpeg --human=CIFAR-10_human.pt

Three disjoint parts of 2,000 training photographs of CIFAR-10 (`train/CLASS/NNNN.jpg`, 3000 to 3599
of each class) with the human labels of CIFAR-10N, and 2,000 test photographs. Of each network:
seconds of 1,000 photographs, unless the cache of `embed` has them; AUROC of
`find_label_issues(features=)`; test accuracy of a logistic regression (standardised, C = 0.001) on
the true and the given labels. Means of the parts and their standard deviation.
"""

import argparse
import pathlib
import time

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jaxrobust import embed, find_label_issues
from jaxrobust.data.noise import read_cifarn_labels
from jaxrobust.metrics import auroc

STARTS, NUM_FILES = (3000, 3200, 3400), 200
LABELS = ("aggre", "rand1", "worst")


def embedded(folder: pathlib.Path, start: int, backbone: str) -> tuple[np.ndarray, float]:
    """(features [N, D] of `NUM_FILES` files of each class, seconds)."""
    files = range(start, start + NUM_FILES)
    paths = [c / f"{i:04d}.jpg" for c in sorted(folder.iterdir()) for i in files]
    began = time.perf_counter()
    features = embed(paths, backbone=backbone).array[:, 0].astype(np.float32)
    return features, time.perf_counter() - began


def accuracy(features, labels, test, true) -> float:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=1000))
    return 100 * model.fit(features, labels).score(test, true)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--human", type=pathlib.Path, required=True)
    parser.add_argument("--backbones", default="efficientnet_lite0,efficientnet_lite2")
    arguments = parser.parse_args()
    official = read_cifarn_labels(arguments.human, "clean")
    of_class = np.stack([np.flatnonzero(official == c) for c in range(10)])
    true = np.arange(10).repeat(NUM_FILES)
    columns = [f"AUROC, {name}" for name in LABELS] + [f"accuracy, {n}" for n in ("true", *LABELS)]
    print(f"| network | s / 1,000 | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 2)}")
    for backbone in arguments.backbones.split(","):
        test, seconds = embedded(arguments.folder / "test", 0, backbone)
        cells, times = [], [seconds]
        for start in STARTS:
            features, seconds = embedded(arguments.folder / "train", start, backbone)
            times.append(seconds)
            ids = of_class[:, start : start + NUM_FILES].ravel()
            given = [read_cifarn_labels(arguments.human, name)[ids] for name in LABELS]
            areas = []
            for labels in given:
                rank = np.empty(len(labels))
                rank[find_label_issues(labels, features=features).ranked] = np.arange(len(labels))
                areas.append(100 * float(auroc(-rank, labels != true)))
            cells.append(areas + [accuracy(features, y, test, true) for y in (true, *given)])
            print(backbone, start, np.round(cells[-1], 1), np.round(times, 1), flush=True)
        mean, deviation = np.mean(cells, axis=0), np.std(cells, axis=0, ddof=1)
        shown = " | ".join(f"{m:.1f} ± {d:.1f}" for m, d in zip(mean, deviation, strict=True))
        print(f"| `{backbone}` | {1000 * np.mean(times) / len(true):.1f} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
