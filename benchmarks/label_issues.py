"""find_label_issues beside cleanlab's, on the same out-of-sample probabilities.

    python benchmarks/label_issues.py
    python benchmarks/label_issues.py --features=features.npz --labels=worst,rand1,aggre

Without a file: scikit-learn's digits with 5, 20 and 40 % symmetric wrong labels. With one: its
`features` [N, D] or [N, V, D], the mean of whose views is taken, `true_labels`, and the arrays of
wrong labels that `--labels` names. Logistic regression on standardised inputs predicts out of
sample in five folds that the seed shuffles. Its C is that of `CS` with the highest accuracy on the
given labels in these folds; `--c` fixes it. Both sides get the same probabilities.

One row for each of cleanlab's filters, its ranking by self-confidence beside the first, and one for
ours. Prints precision, recall and F1 of the flags, AUROC of the ranking and seconds of the call,
mean of the seeds. Needs cleanlab, of the extra `test`.
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

FILTERS = (
    "prune_by_noise_rate",  # cleanlab's default
    "prune_by_class",
    "both",
    "confident_learning",
    "predicted_neq_given",
    "low_normalized_margin",
    "low_self_confidence",
)
CS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def noisy_digits(rate: float):
    """Seed -> (inputs, labels, true labels)."""
    images, true = load_digits(return_X_y=True)

    def draw(seed):
        rng = np.random.default_rng(seed)
        is_wrong = rng.random(len(true)) < rate
        labels = np.where(is_wrong, (true + rng.integers(1, 10, len(true))) % 10, true)
        return (images - images.mean(axis=0)) / np.maximum(images.std(axis=0), 1e-6), labels, true

    return draw


def of_file(path: pathlib.Path, name: str):
    """Likewise."""
    with np.load(path) as arrays:
        features, labels, true = (arrays[x] for x in ("features", name, "true_labels"))
    features = features.astype(np.float32)
    features = features.mean(axis=1) if features.ndim == 3 else features
    features = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-6)
    return lambda seed: (features, labels, true)


def out_of_sample(inputs, labels, seed: int, cs: tuple[float, ...]):
    """Probabilities `[N, C]` of the regression whose C fits the given labels best, and that C."""
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    found = {}
    for c in cs:
        model = LogisticRegression(C=c, max_iter=300)
        found[c] = cross_val_predict(model, inputs, labels, cv=folds, method="predict_proba")
    best = max(cs, key=lambda c: np.mean(found[c].argmax(axis=1) == labels))
    return found[best], best


def ours(labels, probs):
    issues = find_label_issues(labels, pred_probs=probs)
    rank = np.empty(len(labels))
    rank[issues.ranked] = np.arange(len(labels))
    return issues.is_issue, -rank


def theirs(filter_by):
    def find(labels, probs):
        flags = cleanlab_issues(labels, probs, filter_by=filter_by, n_jobs=1)
        return flags, -get_label_quality_scores(labels, probs)

    return find


FINDERS = {f"cleanlab, {name}": theirs(name) for name in FILTERS} | {"jaxrobust": ours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=pathlib.Path, help=".npz file")
    parser.add_argument("--labels", default="labels", help="arrays of it, separated by commas")
    parser.add_argument("--c", type=float, help="of the regression, in place of the best of CS")
    parser.add_argument("--num_seeds", type=int, default=5)
    arguments = parser.parse_args()
    cases = {f"digits, {rate:.0%}": noisy_digits(rate) for rate in (0.05, 0.2, 0.4)}
    if arguments.features:
        names = arguments.labels.split(",")
        cases = {name: of_file(arguments.features, name) for name in names}
    cs = (arguments.c,) if arguments.c else CS
    print("| labels | wrong | C | by | precision | recall | F1 | AUROC | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case, draw in cases.items():
        measures = {by: [] for by in FINDERS}
        shares, chosen = [], []
        for seed in range(arguments.num_seeds):
            inputs, labels, true = draw(seed)
            is_wrong = labels != true
            shares.append(is_wrong.mean())
            probs, c = out_of_sample(inputs, labels, seed, cs)
            chosen.append(c)
            ours(labels, probs)  # compiles
            for by, find in FINDERS.items():
                started = time.perf_counter()
                flags, suspicion = find(labels, probs)
                seconds = time.perf_counter() - started
                scores = *detection_scores(flags, is_wrong), auroc(suspicion, is_wrong)
                measures[by].append([*(100 * float(x) for x in scores), seconds])
        for by, values in measures.items():
            *scores, seconds = np.mean(values, axis=0)
            cells = " | ".join(f"{x:.1f}" for x in scores)
            print(
                f"| {case} | {np.mean(shares):.1%} | {np.median(chosen):g} | {by} | {cells} "
                f"| {seconds:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
