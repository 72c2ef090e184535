"""find_label_issues beside cleanlab's, on the same out-of-sample probabilities.

    python benchmarks/label_issues.py
    python benchmarks/label_issues.py --features=features.npz --labels=worst,rand1,aggre

Without a file: scikit-learn's digits with 5, 20 and 40 % symmetric wrong labels. With one: its
`features` [N, D] or [N, V, D], the mean of whose views is taken, `true_labels`, and the arrays of
wrong labels that `--labels` names. Logistic regression (digits: C = 0.3, features: 1e-3, on
standardised inputs) predicts out of sample in five folds that the seed shuffles. Prints precision,
recall and F1 of the flags, AUROC of the ranking and seconds of the call, mean of the seeds. Needs
cleanlab, of the extra `test`.
"""

import argparse
import pathlib
import time

import numpy as np
from cleanlab.filter import find_label_issues as cleanlab_issues
from cleanlab.rank import get_label_quality_scores
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from jaxrobust import find_label_issues
from jaxrobust.metrics import auroc, detection_scores


def noisy_digits(rate: float):
    """Seed -> (inputs, labels, true labels, C of the regression)."""
    images, true = load_digits(return_X_y=True)

    def draw(seed):
        rng = np.random.default_rng(seed)
        is_wrong = rng.random(len(true)) < rate
        labels = np.where(is_wrong, (true + rng.integers(1, 10, len(true))) % 10, true)
        return images / 16, labels, true, 0.3

    return draw


def of_file(path: pathlib.Path, name: str):
    """Likewise."""
    with np.load(path) as arrays:
        features, labels, true = (arrays[x] for x in ("features", name, "true_labels"))
    features = features.astype(np.float32)
    features = features.mean(axis=1) if features.ndim == 3 else features
    features = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-6)
    return lambda seed: (features, labels, true, 1e-3)


def ours(labels, probs):
    issues = find_label_issues(labels, pred_probs=probs)
    rank = np.empty(len(labels))
    rank[issues.ranked] = np.arange(len(labels))
    return issues.is_issue, -rank


def theirs(labels, probs):
    return cleanlab_issues(labels, probs, n_jobs=1), -get_label_quality_scores(labels, probs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=pathlib.Path, help=".npz file")
    parser.add_argument("--labels", default="labels", help="arrays of it, separated by commas")
    parser.add_argument("--num_seeds", type=int, default=5)
    arguments = parser.parse_args()
    cases = {f"digits, {rate:.0%}": noisy_digits(rate) for rate in (0.05, 0.2, 0.4)}
    if arguments.features:
        names = arguments.labels.split(",")
        cases = {name: of_file(arguments.features, name) for name in names}
    print("| labels | wrong | by | precision | recall | F1 | AUROC | s |")
    print("|---|---|---|---|---|---|---|---|")
    for case, draw in cases.items():
        measures = {"cleanlab": [], "jaxrobust": []}
        shares = []
        for seed in range(arguments.num_seeds):
            inputs, labels, true, c = draw(seed)
            is_wrong = labels != true
            shares.append(is_wrong.mean())
            probs = cross_val_predict(
                LogisticRegression(C=c, max_iter=200),
                inputs,
                labels,
                cv=StratifiedKFold(5, shuffle=True, random_state=seed),
                method="predict_proba",
            )
            ours(labels, probs)  # compiles
            for by, find in (("cleanlab", theirs), ("jaxrobust", ours)):
                started = time.perf_counter()
                flags, suspicion = find(labels, probs)
                seconds = time.perf_counter() - started
                scores = *detection_scores(flags, is_wrong), auroc(suspicion, is_wrong)
                measures[by].append([*(100 * float(x) for x in scores), seconds])
        for by, values in measures.items():
            *scores, seconds = np.mean(values, axis=0)
            cells = " | ".join(f"{x:.1f}" for x in scores)
            print(
                f"| {case} | {np.mean(shares):.1%} | {by} | {cells} | {seconds:.2f} |", flush=True
            )


if __name__ == "__main__":
    main()
