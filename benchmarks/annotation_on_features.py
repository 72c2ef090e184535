"""Every annotation strategy on frozen features of photographs, with classes that nobody wants.

    python benchmarks/annotation_on_features.py --features=train.npz,test.npz --out=runs/annotation
    python benchmarks/annotation_on_features.py --features=features.npz --out=runs/bual \
        --openness=0.6 --strategies=bual,bual+bual.base=entropy,bual+bual.subset_size=1000

`--features` are files of `jaxrobust.embed` with a split of training and test images, joined if
there are several. Each strategy runs the recipe `:features` by `jaxrobust.tasks.run`, with fields
that follow a + changed, for seeds from --first_seed on, which draw the known classes; those of a
strategy share their compiled programs. Two strategies are scikit-activeml's, of the extra `bench`,
the smallest margin of a logistic regression: `skactiveml_margin_unknown`, as its users would have
it, with images that turn out unknown as a class of their own, and `skactiveml_margin`, which
forgets them.

Prints one table for each openness, mean ± sample deviation over seeds in percent. Known classes
differ by seed, and so do accuracies: what two strategies differ by stands in the columns "ahead of
random", mean ± standard error of the differences at the same seed. "Last" and "AULC" are of the
classifier that a strategy trains, for scikit-activeml a logistic regression. "Regression" and
"regression, AULC" are of one and the same for all, whoever chose: the test accuracy of a logistic
regression on the known images annotated so far, its C of `CS` by cross-validation on them. Runs
that are finished are not repeated.
"""

import argparse
import ast
import csv
import importlib
import json
import pathlib
import time

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score

from jaxrobust import tasks
from jaxrobust.recipes.methods import STRATEGIES

OUTSIDE = ("skactiveml_margin", "skactiveml_margin_unknown")
COLUMNS = (
    *("last", "AULC", "precision", "recall", "regression", "regression, AULC"),
    "seconds",
)
CS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_UNKNOWN = -1


def chosen_c(inputs: np.ndarray, labels: np.ndarray) -> float:
    """The C of `CS` with the lowest log loss in three folds; 1e-2 where a class has one label."""
    smallest = np.unique(labels, return_counts=True)[1].min()
    if smallest < 2:
        return 1e-2
    folds = StratifiedKFold(min(3, smallest), shuffle=True, random_state=0)
    scores = []
    for c in CS:
        model = LogisticRegression(C=c, max_iter=300)
        found = cross_val_score(model, inputs, labels, cv=folds, scoring="neg_log_loss")
        scores.append(found.mean())
    return CS[int(np.argmax(scores))]


def area(accuracies: list[float], annotated: list[int]) -> float:
    """Under the curve over annotated images, divided by its width."""
    return float(np.trapezoid(accuracies, annotated) / (annotated[-1] - annotated[0]))


def joined(paths: list[pathlib.Path], out: pathlib.Path) -> pathlib.Path:
    """The file of features, or one of the rows of several."""
    if len(paths) == 1:
        return paths[0]
    path = out / "features.npz"
    if not path.exists():
        loaded = [np.load(p) for p in paths]
        names = ("features", "labels", "files", "split")
        arrays = {name: np.concatenate([part[name] for part in loaded]) for name in names}
        assert all((part["label_names"] == loaded[0]["label_names"]).all() for part in loaded)
        out.mkdir(parents=True, exist_ok=True)
        np.savez(path, label_names=loaded[0]["label_names"], **arrays)
    return path


class Photographs:
    """Standardised first views and labels, for scikit-learn."""

    def __init__(self, path: pathlib.Path):
        with np.load(path) as arrays:
            views = arrays["features"][:, 0].astype(np.float32)
            train, self.names = arrays["split"] == "train", list(arrays["label_names"])
            labels = arrays["labels"]
        mean, std = views[train].mean(axis=0), np.maximum(views[train].std(axis=0), 1e-6)
        self.train, self.test = (views[train] - mean) / std, (views[~train] - mean) / std
        self.train_labels, self.test_labels = labels[train], labels[~train]

    def regression(self, ids: np.ndarray, known: list[int]) -> float:
        """Test accuracy on known classes of a regression on annotated images of them."""
        ids = ids[np.isin(self.train_labels[ids], known)]
        inputs, labels = self.train[ids], self.train_labels[ids]
        model = LogisticRegression(C=chosen_c(inputs, labels), max_iter=300).fit(inputs, labels)
        of_known = np.isin(self.test_labels, known)
        return model.score(self.test[of_known], self.test_labels[of_known])


def configured(
    strategy: str, features: pathlib.Path, openness: float, num_seeds: int, first_seed: int = 0
):
    """The recipe `:features` of a strategy, with the fields that follow a +."""
    method, *changes = strategy.split("+")
    name = method if method in ("bual", "dcfs", "e2oal") else "active_learning_baselines"
    config = importlib.import_module(f"jaxrobust.recipes.{name}").get_config("features")
    config.update_from_flattened_dict(
        {
            "method": method,
            "dataset.features": str(features),
            "al.openness": openness,
            "al.shuffle_classes": True,
            "seed": first_seed,
            "num_seeds": num_seeds,
            "writers": (),
        }
    )
    for field, value in (change.split("=") for change in changes):
        try:
            value = ast.literal_eval(value)
        except ValueError:
            pass  # text
        config.update_from_flattened_dict({field: value})
    return config


def of_run(folder: pathlib.Path, photographs: Photographs) -> dict[str, float]:
    """Measures of one finished seed."""
    results = json.loads((folder / "results.json").read_text())
    timing = json.loads((folder / "timing.json").read_text())
    split = json.loads((folder / "split.json").read_text())
    known = [photographs.names.index(name) for name in split["known_classes"]]
    ids = list(split["initial_ids"])
    annotated, accuracies = [len(ids)], [photographs.regression(np.array(ids), known)]
    for path in sorted((folder / "queries").glob("round_??.csv")):
        with path.open(newline="", encoding="utf-8-sig") as file:
            ids += [int(row["id"]) for row in csv.DictReader(file)]
        annotated.append(len(ids))
        accuracies.append(photographs.regression(np.array(ids), known))
    return {
        "last": results["last"]["accuracy"],
        "AULC": results["area_under_accuracy_curve"],
        "precision": results["mean_query_precision"],
        "recall": results["last_query_recall"],
        "regression": accuracies[-1],
        "regression, AULC": area(accuracies, annotated),
        "seconds": timing["seconds"],
    }


def outside(
    split: dict, photographs: Photographs, query_size: int, rounds: int, *, unknown_class: bool
) -> dict:
    """scikit-activeml's margin from the same start; `unknown_class` keeps images found unknown."""
    from skactiveml.classifier import SklearnClassifier
    from skactiveml.pool import UncertaintySampling

    began = time.perf_counter()
    known = [photographs.names.index(name) for name in split["known_classes"]]
    truth = photographs.train_labels
    is_known = np.isin(truth, known)
    labels = np.full(len(truth), np.nan)
    labels[split["initial_ids"]] = truth[split["initial_ids"]]
    asked = ~np.isnan(labels)
    accuracies, annotated, precisions = [], [], []
    for round_ in range(rounds):
        accuracies.append(photographs.regression(np.flatnonzero(asked), known))
        annotated.append(asked.sum())
        if round_ + 1 == rounds:
            break
        has_label = ~np.isnan(labels)
        c = chosen_c(photographs.train[has_label], labels[has_label])
        classes = [_UNKNOWN, *known] if (labels == _UNKNOWN).any() else known
        model = SklearnClassifier(LogisticRegression(C=c, max_iter=300), classes=classes)
        model.fit(photographs.train, labels)
        ids = UncertaintySampling(method="margin_sampling", random_state=0).query(
            photographs.train,
            labels,
            model,
            fit_clf=False,
            candidates=np.flatnonzero(~asked),
            batch_size=query_size,
        )
        asked[ids] = True
        labels[ids] = np.where(is_known[ids], truth[ids], _UNKNOWN if unknown_class else np.nan)
        precisions.append(is_known[ids].mean())
    return {
        "last": accuracies[-1],
        "AULC": area(accuracies, annotated),
        "precision": np.mean(precisions),
        "recall": np.sum(asked & is_known) / is_known.sum(),
        "regression": accuracies[-1],
        "regression, AULC": area(accuracies, annotated),
        "seconds": time.perf_counter() - began,
    }


def measured(
    strategy: str,
    features: pathlib.Path,
    photographs: Photographs,
    openness: float,
    seeds: range,
    out: pathlib.Path,
) -> dict[str, np.ndarray]:
    """Every measure `[seeds]` of a strategy."""
    folder = out / f"openness_{openness}"
    if strategy in OUTSIDE:
        config = configured("random", features, openness, len(seeds))
        splits = [folder / "random" / f"seed_{seed}" / "split.json" for seed in seeds]
        al = config.al
        runs = [
            outside(
                json.loads(path.read_text()),
                photographs,
                al.query_size,
                al.rounds,
                unknown_class=strategy.endswith("_unknown"),
            )
            for path in splits
        ]
    else:
        config = configured(strategy, features, openness, len(seeds), seeds.start)
        tasks.run(config, folder / strategy)
        runs = [of_run(folder / strategy / f"seed_{s}", photographs) for s in seeds]
    return {name: np.array([run[name] for run in runs]) for name in COLUMNS}


def row(strategy: str, measures: dict[str, np.ndarray], random: dict[str, np.ndarray]) -> str:
    """Of the table, in Markdown."""

    def percent(values, error=False):
        spread = values.std(ddof=1) / (np.sqrt(len(values)) if error else 1)
        return f"{100 * values.mean():.1f} ± {100 * spread:.1f}"

    ahead = [percent(measures[name] - random[name], error=True) for name in ("last", "AULC")]
    cells = [percent(measures[name]) for name in COLUMNS[:-1]]
    cells[2:2] = ahead
    return f"| {strategy} | {' | '.join(cells)} | {measures['seconds'].mean():.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", required=True, help=".npz files, separated by commas")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the runs")
    parser.add_argument("--openness", default="0.6,0.4,0.8,0.2")
    parser.add_argument("--num_seeds", type=int, default=5)
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument(
        "--strategies",
        default=",".join([*STRATEGIES, *OUTSIDE]),
        help="random is always among them",
    )
    arguments = parser.parse_args()
    if arguments.num_seeds < 2:
        parser.error("--num_seeds must be at least 2, for a deviation.")
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.num_seeds)
    features = joined([pathlib.Path(p) for p in arguments.features.split(",")], arguments.out)
    photographs = Photographs(features)
    strategies = ["random", *(s for s in arguments.strategies.split(",") if s != "random")]
    for openness in map(float, arguments.openness.split(",")):
        print(f"\nOpenness {openness}, {arguments.num_seeds} seeds:\n")
        print(
            "| | last accuracy | AULC | last, ahead of random | AULC, ahead of random "
            "| precision | recall | regression | regression, AULC | seconds a run |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
        random: dict[str, np.ndarray] = {}
        for strategy in strategies:
            measures = measured(strategy, features, photographs, openness, seeds, arguments.out)
            random = random or measures
            print(row(strategy, measures, random), flush=True)


if __name__ == "__main__":
    main()
