"""Ways to find wrong labels, on sets of every day: few rows, few wrong labels, people's errors.

    python benchmarks/real_label_errors.py --num_seeds=2
    python benchmarks/real_label_errors.py --sets= --features=photographs.npz --rows=600,2000 \
        --labels=aggre,rand1,worst
    python benchmarks/real_label_errors.py --sets= --label_errors=DIR --cifar10h=DIR

Sets: scikit-learn's iris, wine, breast cancer and digits, and two drawn tables (`table`: 1,500 rows
of 4 classes whose borders are curved; `rare`: 1,500 rows, classes of 70, 20 and 10 %), with 0, 1,
3, 5, 10, 20 and 40 % of the labels changed to any other class (`symmetric`) or to the next one
(`pairs`). `--features`: a file with `features` [N, D] or [N, V, D], `true_labels`, and the arrays
of people's labels that `--labels` names; `--rows` of it are drawn by the seed, and have symmetric
errors, too. `--label_errors`: a checkout of github.com/cleanlab/label-errors, whose
probabilities of MNIST, CIFAR-10, 20news and IMDB are taken; wrong is a label that three of five
workers refuse (`guessed`, `neither`, `neutral`, `off-topic`). The workers saw only candidates that
cleanlab had chosen by these probabilities, so that an error that cleanlab misses counts as right.
`--cifar10h`: one of github.com/jcpeterson/cifar-10h; with CIFAR-10's probabilities above, wrong is
a label that is not the most frequent of some 51 votes.

Ways: `auto` (`find_label_issues(features=)`); on equal out-of-sample probabilities, five folds of
logistic regression whose penalty has the least cross-entropy of five, `pred_probs` and the seven
filters of cleanlab; and the methods that `--methods` names. Settings are frozen before a table is
looked at. Prints, in percent, AUROC and average precision of the ranking, precision of as many as
are wrong, F1 of the flags; flags and expected number over the number of wrong labels (flags in
percent of all where none is wrong); seconds. Then means over all cases with wrong labels, the share
of cases whose expected number is within 0.6 to 1.67 times the truth, and how often the interval
holds the truth. Needs cleanlab, of the extra `test`.
"""

import argparse
import json
import pathlib
import time
import warnings
from typing import NamedTuple

import numpy as np
from cleanlab.filter import find_label_issues as cleanlab_issues
from cleanlab.rank import get_label_quality_scores
from sklearn import datasets
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.preprocessing import StandardScaler

from jaxrobust import find_label_issues
from jaxrobust.metrics import auroc, detection_scores

RATES = "0,0.01,0.03,0.05,0.1,0.2,0.4"
FILTERS = (
    "prune_by_noise_rate",
    "prune_by_class",
    "both",
    "confident_learning",
    "predicted_neq_given",
    "low_normalized_margin",
    "low_self_confidence",
)
MEASURES = ("AUROC", "AP", "precision at n", "F1", "flags", "expected", "seconds")


def drawn_table(seed: int, **options):
    return datasets.make_classification(
        1500, n_informative=8, n_redundant=4, flip_y=0, random_state=seed, **options
    )


SETS = {
    "iris": lambda seed: datasets.load_iris(return_X_y=True),
    "wine": lambda seed: datasets.load_wine(return_X_y=True),
    "breast_cancer": lambda seed: datasets.load_breast_cancer(return_X_y=True),
    "digits": lambda seed: datasets.load_digits(return_X_y=True),
    "table": lambda seed: drawn_table(50 + seed, n_classes=4, class_sep=1.3),
    "rare": lambda seed: drawn_table(70 + seed, n_classes=3, weights=[0.7, 0.2, 0.1]),
}


def changed(true: np.ndarray, kind: str, rate: float, seed: int) -> np.ndarray:
    """Labels of which exactly a share `rate` is wrong."""
    generator = np.random.default_rng(seed)
    num_classes, labels = true.max() + 1, true.copy()
    ids = generator.permutation(len(true))[: round(rate * len(true))]
    steps = generator.integers(1, num_classes, len(ids)) if kind == "symmetric" else 1
    labels[ids] = (true[ids] + steps) % num_classes
    return labels


class Case(NamedTuple):
    """Labels, which of them are wrong, and features or probabilities (None: regressions')."""

    name: str
    features: np.ndarray | None
    labels: np.ndarray
    is_wrong: np.ndarray
    seed: int
    probs: np.ndarray | None = None


def published(root: pathlib.Path, cifar10h: pathlib.Path | None):
    """The cases of cleanlab's checkout."""
    for name in ("mnist", "cifar10", "20news", "imdb"):
        probs = np.load(
            root / "cross_validated_predicted_probabilities" / f"{name}_test_set_pyx.npy"
        )
        probs = np.clip(probs, 0, 1)  # of IMDB's some are beyond by rounding
        labels = np.load(
            root / "original_test_labels" / f"{name}_test_set_original_labels.npy"
        ).astype(int)
        answers = json.loads((root / "mturk" / f"{name}_mturk.json").read_text())
        row_of = range(len(labels))
        if name == "imdb":
            index = root / "dataset_indexing" / "imdb_test_set_index_to_filename.json"
            files = json.loads(index.read_text())
            row_of = {f"test/{file.removesuffix('.txt')}": i for i, file in enumerate(files)}
        is_wrong = np.zeros(len(labels), bool)
        for answer in answers:
            votes = answer["mturk"]
            refused = sum(votes.get(v, 0) for v in ("guessed", "neither", "neutral", "off-topic"))
            is_wrong[row_of[answer["id"]]] = refused >= 3
        yield Case(name, None, labels, is_wrong, 0, probs)
        if name == "cifar10" and cifar10h is not None:
            votes = np.load(cifar10h / "data" / "cifar10h-counts.npy")
            yield Case("cifar10, 51 votes", None, labels, votes.argmax(axis=1) != labels, 0, probs)


def cases(arguments):
    if arguments.label_errors:
        yield from published(arguments.label_errors, arguments.cifar10h)
    rates = [float(rate) for rate in arguments.rates.split(",")]
    for seed in range(arguments.num_seeds):
        for name in filter(None, arguments.sets.split(",")):
            features, true = SETS[name](seed)
            for kind in ("symmetric", "pairs"):
                for rate in rates:
                    if kind == "pairs" and not rate:
                        continue  # as above
                    labels = changed(true, kind, rate, seed)
                    yield Case(f"{name}, {kind} {rate:.0%}", features, labels, labels != true, seed)
        if not arguments.features:
            continue
        with np.load(arguments.features) as arrays:
            names = list(filter(None, arguments.labels.split(",")))
            everything = {n: arrays[n] for n in ("features", "true_labels", *names)}
        for size in map(int, arguments.rows.split(",")):
            generator = np.random.default_rng(seed)
            rows = generator.permutation(len(everything["true_labels"]))[:size]
            part = {n: array[rows] for n, array in everything.items()}
            features = part["features"].astype(np.float32)
            features = features.mean(axis=1) if features.ndim == 3 else features
            true = part["true_labels"]
            drawn = {
                f"symmetric {rate:.0%}": changed(true, "symmetric", rate, seed) for rate in rates
            }
            for name, labels in (drawn | {name: part[name] for name in names}).items():
                yield Case(f"photographs {size}, {name}", features, labels, labels != true, seed)


def out_of_sample(features: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Probabilities of the regression that predicts the given labels best, of five penalties."""
    rows = StandardScaler().fit_transform(features)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    found = []
    for inverse in (1e-3, 1e-2, 0.1, 1.0, 10.0):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            probs = cross_val_predict(
                LogisticRegression(C=inverse, max_iter=200),
                rows,
                labels,
                cv=folds,
                method="predict_proba",
            )
        found.append((log_loss(labels, probs), inverse, probs))
    return min(found, key=lambda x: x[:2])[2]


def judged(labels, options):
    """(flags, suspicion, expected number, interval, seconds) of one of our ways."""
    started = time.perf_counter()
    issues = find_label_issues(labels, **options)
    seconds = time.perf_counter() - started
    rank = np.empty(len(issues))
    rank[issues.ranked] = np.arange(len(issues))
    summary = issues.summary
    expected = summary.get("expected_wrong", np.nan)
    return issues.is_issue, -rank, expected, summary.get("expected_wrong_interval"), seconds


def filtered(labels, probs, name):
    """Likewise, of one of cleanlab's filters."""
    started = time.perf_counter()
    try:
        flags = cleanlab_issues(labels, probs, filter_by=name, n_jobs=1)
    except ValueError:  # a filter that this set is too small for
        flags = np.zeros(len(labels), bool)
    method = "normalized_margin" if name == "low_normalized_margin" else "self_confidence"
    suspicion = -get_label_quality_scores(labels, probs, method=method)
    return flags, suspicion, np.nan, None, time.perf_counter() - started


def measured(flags, suspicion, expected, seconds, is_wrong) -> list[float]:
    num_wrong = is_wrong.sum()
    if not num_wrong:
        return [np.nan] * 4 + [100 * flags.mean(), np.nan, seconds]
    f1 = float(detection_scores(flags, is_wrong)[2])
    first = np.argsort(-suspicion, kind="stable")[:num_wrong]
    ranked = float(auroc(suspicion, is_wrong)), average_precision_score(is_wrong, suspicion)
    percent = [100 * x for x in (*ranked, is_wrong[first].mean(), f1)]
    return [*percent, flags.sum() / num_wrong, expected / num_wrong, seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", default="iris,wine,breast_cancer,digits,table,rare")
    parser.add_argument("--features", type=pathlib.Path, help=".npz file of photographs")
    parser.add_argument("--rows", default="600,2000", help="of the file, separated by commas")
    parser.add_argument("--labels", default="", help="arrays of the file, separated by commas")
    parser.add_argument("--methods", default="", help="that are trained, separated by commas")
    parser.add_argument("--label_errors", type=pathlib.Path, help="folder of cleanlab's answers")
    parser.add_argument("--cifar10h", type=pathlib.Path, help="folder of CIFAR-10H's votes")
    parser.add_argument("--rates", default=RATES, help="of wrong labels, separated by commas")
    parser.add_argument("--num_seeds", type=int, default=2)
    arguments = parser.parse_args()
    values: dict[tuple[str, str], list[list[float]]] = {}
    holds: dict[str, list[bool]] = {}
    methods = ["auto", *filter(None, arguments.methods.split(","))]
    for name, features, labels, is_wrong, seed, probs in cases(arguments):
        if probs is None:
            probs = out_of_sample(features, labels, seed)
        ours = [] if features is None else [{"features": features, "method": m} for m in methods]
        ours = {options["method"]: {**options, "seed": seed} for options in ours}
        for way in [*ours, "pred_probs", *(f"cleanlab {by}" for by in FILTERS)]:
            if way.startswith("cleanlab "):
                found = filtered(labels, probs, way.removeprefix("cleanlab "))
            else:
                found = judged(labels, ours.get(way, {"pred_probs": probs}))
            flags, suspicion, expected, interval, seconds = found
            row = measured(flags, suspicion, expected, seconds, is_wrong)
            values.setdefault((name, way), []).append(row)
            if interval is not None:
                holds.setdefault(way, []).append(interval[0] <= is_wrong.sum() <= interval[1])
        cells = (f"{w} {values[name, w][-1][3]:.0f}" for w in [*ours, "pred_probs"])
        print(f"{name}, seed {seed}: F1 {', '.join(cells)}", flush=True)
    print(f"\n| case | by | {' | '.join(MEASURES)} |\n|{'---|' * (2 + len(MEASURES))}")
    for (name, way), rows in values.items():
        cells = ["–" if np.isnan(x) else f"{x:.1f}" for x in np.mean(rows, axis=0)[:4]]
        cells += ["–" if np.isnan(x) else f"{x:.2f}" for x in np.mean(rows, axis=0)[4:]]
        print(f"| {name} | {way} | {' | '.join(cells)} |")
    print("\n| by | AUROC | AP | precision at n | F1 | flagged of none wrong, % | within | holds |")
    print(f"|{'---|' * 8}")
    for way in dict.fromkeys(way for _, way in values):
        rows = np.array([row for (_, w), part in values.items() if w == way for row in part])
        wrong = ~np.isnan(rows[:, 0])
        cells = [f"{x:.1f}" for x in np.mean(rows[wrong, :4], axis=0)]
        cells.append(f"{np.mean(rows[~wrong, 4]):.1f}" if (~wrong).any() else "–")
        ratio = rows[wrong, 5]
        within = np.mean((ratio >= 0.6) & (ratio <= 1.67))
        cells.append("–" if np.isnan(ratio).all() else f"{100 * within:.0f}")
        cells.append(f"{100 * np.mean(holds[way]):.0f}" if way in holds else "–")
        print(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
