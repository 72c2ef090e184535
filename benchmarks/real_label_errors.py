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

`--titles`: one of github.com/uds-lsv/transfer-distant-transformer-african, whose Hausa and Yoruba
titles have labels by keywords; features are TF-IDF.

Ways: `auto` (`find_label_issues(features=)`) and the methods that `--methods` names; on equal
out-of-sample probabilities, five folds of logistic regression whose penalty has the least
cross-entropy, `pred_probs` and the seven filters of cleanlab; with `--rivals` the detectors of
github.com/orange-opensource/mislabeled on that regression, which only rank (and need scikit-learn
below 1.8), and of two classes ALED (PyPI's statlab; pandas below 3). Settings are frozen before a
table is looked at.

`--out` gets a row for each case and way as it is measured: in percent AUROC and average precision
of the ranking, precision of as many as are wrong, F1 of the flags, flags of all labels; flags and
expected number over the number of wrong labels; whether the interval holds it; processor
seconds. `--tables`
prints the table of such files: means over the cases of a family and, of three or more, the standard
error of the paired difference to the first row. Needs cleanlab, of the extra `test`.
"""

import argparse
import contextlib
import csv
import json
import pathlib
import time
import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
from cleanlab.filter import find_label_issues as cleanlab_issues
from cleanlab.rank import get_label_quality_scores
from sklearn import datasets
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jaxrobust import embed, find_label_issues
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
DETECTORS = (
    *("AreaUnderMargin", "SmallLoss", "TracIn", "VoLG", "AGRA", "RepresenterDetector"),
    *("ConfidentLearning", "ConsensusConsistency", "SelfInfluenceDetector"),
)
INVERTING = ("ApproximateLOODetector", "CookDistanceDetector")  # minutes for 10,000 weights
HEADER = (
    *("family", "case", "seed", "rows", "wrong", "by", "AUROC", "average precision"),
    *("precision at n", "F1", "flagged", "flags / wrong", "expected / wrong", "holds", "seconds"),
)


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

    family: str
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
        yield Case("published", name, None, labels, is_wrong, 0, probs)
        if name == "cifar10" and cifar10h is not None:
            votes = np.load(cifar10h / "data" / "cifar10h-counts.npy")
            is_wrong = votes.argmax(axis=1) != labels
            yield Case("published", "cifar10, 51 votes", None, labels, is_wrong, 0, probs)


def titles(root: pathlib.Path):
    """News titles with the labels that keywords give them."""
    for language in ("hausa", "yoruba"):
        folder = root / "data" / f"{language}_newsclass"
        clean, given = (
            pd.read_csv(folder / f"{name}.tsv", sep="\t", quoting=csv.QUOTE_NONE)
            for name in ("train_clean", "train_clean_noisy_labels")
        )
        assert (clean["news_title"] == given["news_title"]).all()
        texts = clean["news_title"].tolist()
        names, both = pd.factorize(
            pd.concat([given["label"], clean["label"]]).str.lower(), sort=True
        )[::-1]
        labels, true = np.split(both, 2)
        assert labels.max() == len(names) - 1
        features = embed(texts, backbone="tfidf").array.mean(axis=1)
        yield Case("titles", language, features, labels, labels != true, 0)


def cases(arguments):
    if arguments.titles:
        yield from titles(arguments.titles)
    if arguments.label_errors:
        yield from published(arguments.label_errors, arguments.cifar10h)
    rates = [float(rate) for rate in filter(None, arguments.rates.split(","))]
    for seed in range(arguments.seed, arguments.seed + arguments.num_seeds):
        for name in filter(None, arguments.sets.split(",")):
            features, true = SETS[name](seed)
            for kind in ("symmetric", "pairs"):
                for rate in rates:
                    if kind == "pairs" and not rate:
                        continue  # as above
                    labels, case = changed(true, kind, rate, seed), f"{name}, {kind} {rate:.0%}"
                    yield Case(kind, case, features, labels, labels != true, seed)
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
                family = "people" if name in names else "symmetric"
                case = f"photographs {size}, {name}"
                yield Case(family, case, features, labels, labels != true, seed)


def out_of_sample(features: np.ndarray, labels: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """Probabilities of the regression that predicts the given labels best, and its C.

    From the strongest of five penalties until the next is no better.
    """
    rows = StandardScaler().fit_transform(features)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    best, found, chosen = np.inf, np.zeros(0), 0.0
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
        loss = log_loss(labels, probs)
        if loss >= best:
            break
        best, found, chosen = loss, probs, inverse
    return found, chosen


def judged(labels, options):
    """(flags, suspicion, expected number, interval, seconds) of one of our ways."""
    started = time.process_time()
    issues = find_label_issues(labels, **options)
    seconds = time.process_time() - started
    rank = np.empty(len(issues))
    rank[issues.ranked] = np.arange(len(issues))
    summary = issues.summary
    expected = summary.get("expected_wrong", np.nan)
    return issues.is_issue, -rank, expected, summary.get("expected_wrong_interval"), seconds


def filtered(labels, probs, name):
    """Likewise, of one of cleanlab's filters."""
    started = time.process_time()
    try:
        flags = cleanlab_issues(labels, probs, filter_by=name, n_jobs=1)
    except ValueError:  # a filter that this set is too small for
        flags = np.zeros(len(labels), bool)
    method = "normalized_margin" if name == "low_normalized_margin" else "self_confidence"
    suspicion = -get_label_quality_scores(labels, probs, method=method)
    return flags, suspicion, np.nan, None, time.process_time() - started


def probed(features, labels, inverse, name):
    """Likewise, of a detector of `mislabeled`, which flags nothing."""
    from mislabeled.detect import detectors

    started = time.process_time()
    base = make_pipeline(StandardScaler(), LogisticRegression(C=inverse, max_iter=200))
    trust = getattr(detectors, name)(base).trust_score(features, labels)
    return None, -np.nan_to_num(trust), np.nan, None, time.process_time() - started


def adaptive(features, labels, seed):
    """Likewise, of ALED on standardised features, its defaults."""
    from statlab.aled import ALEDDetector

    started = time.process_time()
    np.random.seed(seed)  # of its projections
    detector = ALEDDetector()
    detector.X_, detector.y_ = StandardScaler().fit_transform(features), labels.astype(float)
    detector.classes_, detector.feats = np.array([0.0, 1.0]), "given"
    found = detector.fit_predict(None, None)
    flags, suspicion = found["Mislabel"].to_numpy(), found["mislabel_prob"].to_numpy()
    return flags, suspicion, np.nan, None, time.process_time() - started


def measured(flags, suspicion, expected, interval, seconds, is_wrong) -> list:
    """The last columns of `HEADER`."""
    num_wrong, none = int(is_wrong.sum()), ""
    flagged = none if flags is None else 100 * flags.mean()
    holds = none if interval is None else int(interval[0] <= num_wrong <= interval[1])
    if not num_wrong:
        return [*[none] * 4, flagged, none, none, holds, seconds]
    first = np.argsort(-suspicion, kind="stable")[:num_wrong]
    ranked = float(auroc(suspicion, is_wrong)), average_precision_score(is_wrong, suspicion)
    ranked = [100 * x for x in (*ranked, is_wrong[first].mean())]
    f1 = none if flags is None else 100 * float(detection_scores(flags, is_wrong)[2])
    share = none if flags is None else flags.sum() / num_wrong
    counted = none if np.isnan(expected) else expected / num_wrong
    return [*ranked, f1, flagged, share, counted, holds, seconds]


def ways_of(case: Case, methods: list[str], has_rivals: bool):
    """Yields (way, what it found)."""
    probs, inverse = case.probs, 0.0
    if probs is None:
        probs, inverse = out_of_sample(case.features, case.labels, case.seed)
        for name in methods:
            options = {"features": case.features, "method": name, "seed": case.seed}
            yield name, judged(case.labels, options)
    yield "pred_probs", judged(case.labels, {"pred_probs": probs})
    for name in FILTERS:
        yield f"cleanlab {name}", filtered(case.labels, probs, name)
    if has_rivals and case.features is not None:
        is_small = case.features.shape[1] * probs.shape[1] <= 2000
        for name in DETECTORS + INVERTING * is_small:
            with contextlib.suppress(np.linalg.LinAlgError):  # a Hessian without an inverse
                yield f"mislabeled {name}", probed(case.features, case.labels, inverse, name)
        if case.labels.max() == 1:
            yield "ALED", adaptive(case.features, case.labels, case.seed)


def print_table(files: list[str]) -> None:
    rows = pd.concat([pd.read_csv(file) for file in files])
    rows["case"] += ", " + rows["seed"].astype(str)
    wrong = rows[rows["wrong"] > 0]
    families = list(dict.fromkeys(wrong["family"]))
    columns = [(family, measure) for measure in ("AUROC", "F1") for family in families]
    found = {}
    for way in dict.fromkeys(rows["by"]):
        cells = []
        for family, measure in columns:
            table = wrong[wrong["family"] == family].pivot(
                index="case", columns="by", values=measure
            )
            if way not in table or table[way].isna().any():
                cells.append("–")
                continue
            differences = table[way] - table[rows["by"].iloc[0]]
            error = f" ± {differences.std() / len(table) ** 0.5:.1f}" if len(table) > 2 else ""
            cells.append(f"{table[way].mean():.1f}{error if differences.any() else ''}")
        none = rows[(rows["wrong"] == 0) & (rows["by"] == way)]["flagged"]
        found[way] = [*cells, "–" if none.isna().all() else f"{none.mean():.1f}"]
    names = [*(f"{measure}, {family}" for family, measure in columns), "flagged of none wrong"]
    frame = pd.DataFrame(found, index=names).T
    frame = frame.loc[(frame != "–").any(axis=1), (frame != "–").any()]
    print(f"| by | {' | '.join(frame.columns)} |\n|{'---|' * (1 + len(frame.columns))}")
    for way, cells in frame.iterrows():
        print(f"| {way} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", default="iris,wine,breast_cancer,digits,table,rare")
    parser.add_argument("--features", type=pathlib.Path, help=".npz file of photographs")
    parser.add_argument("--rows", default="600,2000", help="of the file, separated by commas")
    parser.add_argument("--labels", default="", help="arrays of the file, separated by commas")
    parser.add_argument("--methods", default="", help="besides auto, separated by commas")
    parser.add_argument("--rivals", action="store_true", help="mislabeled and ALED, too")
    parser.add_argument("--titles", type=pathlib.Path, help="folder of the African titles")
    parser.add_argument("--label_errors", type=pathlib.Path, help="folder of cleanlab's answers")
    parser.add_argument("--cifar10h", type=pathlib.Path, help="folder of CIFAR-10H's votes")
    parser.add_argument("--rates", default=RATES, help="of wrong labels, separated by commas")
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--num_seeds", type=int, default=2)
    parser.add_argument("--out", type=pathlib.Path, default="real_label_errors.csv")
    parser.add_argument("--tables", nargs="+", help="print the table of these files alone")
    arguments = parser.parse_args()
    if arguments.tables:
        return print_table(arguments.tables)
    methods = ["auto", *filter(None, arguments.methods.split(","))]
    with arguments.out.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(HEADER)
        for case in cases(arguments):
            start = case.family, case.name, case.seed, len(case.labels), case.is_wrong.sum()
            for way, found in ways_of(case, methods, arguments.rivals):
                cells = measured(*found, case.is_wrong)
                numbers = (f"{x:.2f}" if isinstance(x, float) else x for x in cells)
                table.writerow([*start, way, *numbers])
            file.flush()
            print(f"{case.name}, seed {case.seed}", flush=True)
    return print_table([arguments.out])


if __name__ == "__main__":
    main()
