"""What a newcomer meets: defaults alone, on sets of every day, in one table.

    python benchmarks/everyday_sets.py --features=photographs.npz --labels=aggre,rand1

`--features` as of `real_label_errors.py`. Each row is one call at its defaults: which set, how many
of its labels are wrong, flagged and expected (with its interval), how many flags are right labels,
AUROC of the ranking, wrong labels among the first 100, seconds of the wall and of the processors.
Then accuracies of `RobustClassifier()` beside a logistic regression on a third held out, accuracies
on digits of which some have the label of the next class, and seconds for `--sizes` rows of the
photographs, drawn with replacement.
"""

import argparse
import pathlib
import time

import numpy as np
from cleanlab.filter import find_label_issues as cleanlab_issues
from sklearn import datasets
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jaxrobust import RobustClassifier, find_label_issues
from jaxrobust.metrics import auroc


def changed(true: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Labels of which exactly `count` are wrong, of any other class."""
    generator = np.random.default_rng(seed)
    num_classes, labels = true.max() + 1, true.copy()
    ids = generator.permutation(len(true))[:count]
    labels[ids] = (true[ids] + generator.integers(1, num_classes, count)) % num_classes
    return labels


def row(name: str, labels: np.ndarray, true: np.ndarray, **given) -> None:
    """Prints what one call says."""
    is_wrong = labels != true
    wall, busy = time.perf_counter(), time.process_time()
    issues = find_label_issues(labels, **given)
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    rank = np.empty(len(labels))
    rank[issues.ranked] = np.arange(len(labels))
    low, high = issues.summary["expected_wrong_interval"]
    ranking = f"{100 * float(auroc(-rank, is_wrong)):.1f}" if is_wrong.any() else "–"
    first = is_wrong[issues.ranked[:100]].sum() if is_wrong.any() else "–"
    print(
        f"| {name} | {is_wrong.sum()} | {issues.is_issue.sum()} "
        f"| {issues.summary['expected_wrong']:.0f} ({low} to {high}) "
        f"| {(issues.is_issue & ~is_wrong).sum()} | {ranking} | {first} | {wall:.0f}, {busy:.0f} |",
        flush=True,
    )


def table(rows: int, seed: int, **options):
    return datasets.make_classification(
        rows, n_informative=8, n_redundant=4, n_classes=3, flip_y=0, random_state=seed, **options
    )


def accuracy(name: str, features: np.ndarray, labels: np.ndarray, true: np.ndarray) -> None:
    """Prints accuracies on a third of the rows, learned from the labels of the others."""
    test = np.random.default_rng(0).permutation(len(true)) < len(true) // 3
    models = (
        RobustClassifier(),
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    )
    scores = [
        m.fit(features[~test], labels[~test]).score(features[test], true[test]) for m in models
    ]
    most = np.bincount(true[test]).max() / test.sum()
    cells = " | ".join(f"{100 * score:.1f}" for score in (*scores, most))
    print(f"| {name} | {cells} |", flush=True)


def next_class(rate: float) -> None:
    """Prints accuracies on 600 digits, learned from 1,197 of which a share has the next label."""

    def regression():
        return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))

    features, true = datasets.load_digits(return_X_y=True)
    test, rest = np.split(np.random.default_rng(0).permutation(len(true)), [600])
    labels = true[rest].copy()
    ids = np.random.default_rng(1).permutation(len(rest))[: round(rate * len(rest))]
    labels[ids] = (labels[ids] + 1) % 10
    probs = cross_val_predict(regression(), features[rest], labels, cv=5, method="predict_proba")
    keeps = (
        np.ones(len(rest), bool),
        ~cleanlab_issues(labels, probs, n_jobs=1),
        ~find_label_issues(labels, features=features[rest]).is_issue,
    )
    models = [regression().fit(features[rest][keep], labels[keep]) for keep in keeps]
    models += [RobustClassifier(name).fit(features[rest], labels) for name in ("dpc", "bldr")]
    cells = " | ".join(f"{100 * m.score(features[test], true[test]):.1f}" for m in models)
    print(f"| {rate:.0%} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=pathlib.Path, help=".npz file of photographs")
    parser.add_argument("--labels", default="aggre,rand1", help="9 and 18 % wrong, arrays of it")
    parser.add_argument("--sizes", default="600,10000,50000", help="of the rows that are timed")
    arguments = parser.parse_args()
    print("| set | wrong | flags | expected | of the flags right | AUROC | of first 100 | s |")
    print(f"|{'---|' * 8}")
    features, true = datasets.load_breast_cancer(return_X_y=True)
    for count in (0, 15):
        row("breast cancer", changed(true, count), true, features=features)
    balanced, rare = table(3000, 50), table(3000, 70, weights=[0.85, 0.12, 0.03])
    for name, (features, true) in (("3 classes", balanced), ("85, 12 and 3 %", rare)):
        for count in (0, 150):
            row(f"table, {name}", changed(true, count), true, features=features)
    features, true = datasets.load_digits(return_X_y=True)
    labels = changed(true, 180)
    probs = cross_val_predict(
        KNeighborsClassifier(5), features, labels, cv=5, method="predict_proba"
    )
    row("digits, probabilities of five neighbours", labels, true, pred_probs=probs)
    photographs = None
    if arguments.features:
        some, few = arguments.labels.split(",")[::-1]
        with np.load(arguments.features) as arrays:
            photographs = {n: arrays[n] for n in ("features", "true_labels", some, few)}
        order = np.random.default_rng(0).permutation(len(photographs["true_labels"]))
        for size, kind in ((600, some), (500, few), (400, 0), (400, 0.05), (2000, 0), (2000, 0.05)):
            part = {name: array[order[:size]] for name, array in photographs.items()}
            true, is_named = part["true_labels"], isinstance(kind, str)
            labels = part[kind] if is_named else changed(true, round(kind * size))
            name = kind if is_named else f"symmetric {kind:.0%}"
            row(f"{size} photographs, {name}", labels, true, features=part["features"])
    print(f"\n| accuracy | RobustClassifier() | regression | largest class |\n|{'---|' * 4}")
    for name in ("iris", "wine", "breast_cancer"):
        features, true = getattr(datasets, f"load_{name}")(return_X_y=True)
        accuracy(name, features, true, true)
    for count in (0, 150):
        accuracy(f"85, 12 and 3 %, {count} wrong", rare[0], changed(rare[1], count), rare[1])
    print(f"\n| next class | regression | cleanlab | judges | dpc | bldr |\n|{'---|' * 6}")
    for rate in (0.2, 0.3):
        next_class(rate)
    if photographs is None:
        return
    print(f"\n| photographs | wrong | flags | expected | right | AUROC | 100 | s |\n|{'---|' * 8}")
    for size in map(int, arguments.sizes.split(",")):
        rows = np.random.default_rng(1).integers(0, len(order), size)
        true = photographs["true_labels"][rows]
        features = photographs["features"][rows].astype(np.float32)
        features += np.random.default_rng(2).normal(0, 0.1, features.shape).astype(np.float32)
        row(f"{size}", changed(true, size // 10), true, features=features)


if __name__ == "__main__":
    main()
