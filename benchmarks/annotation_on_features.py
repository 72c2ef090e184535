"""Every annotation strategy on frozen features of photographs, with classes that nobody wants.

    python benchmarks/annotation_on_features.py --features=train.npz,test.npz --out=runs/annotation
    python benchmarks/annotation_on_features.py --features=features.npz --out=runs/bual \
        --openness=0.6 --strategies=bual,bual+bual.base=entropy,e2oal,e2oal+e2oal.target=main@0.6

`--features` are files of `jaxrobust.embed` with a split of training and test images, joined if
there are several. Each strategy runs the recipe `:features` by the library's task, with fields that
follow a + changed, for seeds from --first_seed on, which draw the known classes; behind an @ stands
the only openness at which it runs. Two strategies are scikit-activeml's, of the extra `bench`, the
smallest margin of a logistic regression: `skactiveml_margin_unknown`, as its users would have it,
with images that turn out unknown as a class of their own, and `skactiveml_margin`, which forgets
them.

A line of `rows.jsonl` in --out is one run: accuracies of all its classifiers and precision by
round, and which images it asked for. Runs that stand there are not repeated, and every strategy
runs with a seed before any runs with the next, so that the command may be stopped at any time;
--only_tables prints what there is.

Prints one table for each openness, mean ± sample deviation in percent over the seeds that all its
strategies have. Known classes differ by seed, and so do accuracies: what two strategies differ by
stands in the columns "ahead of random", mean ± standard error of the differences at the same seed.
"Last" and "AULC" are of the classifier that a strategy trains, for scikit-activeml a logistic
regression. "Regression" is one and the same for all, whoever chose: the test accuracy of a logistic
regression on the known images annotated in the end, its C of `CS` by cross-validation on them.
Seconds are of processor time, the median over seeds, of the run alone.
"""

import argparse
import ast
import functools
import importlib
import json
import pathlib
import tempfile
import time

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score

from jaxrobust.engine.environment import setup_jax
from jaxrobust.engine.programs import Programs
from jaxrobust.recipes.methods import STRATEGIES
from jaxrobust.recipes.parse import parse
from jaxrobust.report import figures
from jaxrobust.tasks import active_learning
from jaxrobust.tasks.common import load

OUTSIDE = ("skactiveml_margin", "skactiveml_margin_unknown")
COLUMNS = ("last", "AULC", "precision", "recall", "regression", "seconds")
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
        # The weights are a sum of the images, so that coordinates in their span are enough.
        basis, labels = np.linalg.qr(self.train[ids].T)[0], self.train_labels[ids]
        inputs = self.train[ids] @ basis
        model = LogisticRegression(C=chosen_c(inputs, labels), max_iter=300).fit(inputs, labels)
        of_known = np.isin(self.test_labels, known)
        return float(model.score(self.test[of_known] @ basis, self.test_labels[of_known]))


def configured(strategy: str, features: pathlib.Path, openness: float, seed: int = 0):
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
            "seed": seed,
            "writers": (),
            "device_count": 1,
        }
    )
    for field, value in (change.split("=") for change in changes):
        try:
            value = ast.literal_eval(value)
        except ValueError:
            pass  # text
        config.update_from_flattened_dict({field: value})
    return config


class Runs:
    """Runs strategies, with the features read once and each program compiled once.

    Args:
      features: file of them.
    """

    def __init__(self, features: pathlib.Path):
        self._features = features
        self._photographs = Photographs(features)
        self._programs: dict[tuple[str, float], Programs] = {}
        self._dataset = None

    def row(self, strategy: str, openness: float, seed: int, random: dict | None) -> dict:
        """What is measured in one run; `random` is the row of the strategy of that name."""
        began = time.process_time()
        if strategy in OUTSIDE:
            assert random is not None
            al = configured("random", self._features, openness).al
            unknown_class = strategy.endswith("_unknown")
            found = outside(
                random, self._photographs, al.query_size, al.rounds, unknown_class=unknown_class
            )
        else:
            found = self._of_library(strategy, openness, seed)
        seconds = time.process_time() - began
        return {
            "openness": openness,
            "strategy": strategy,
            "seed": seed,
            "seconds": seconds,
            **found,
            "regression": self._regression(found),
        }

    def _of_library(self, strategy: str, openness: float, seed: int) -> dict:
        recipe = parse(configured(strategy, self._features, openness, seed))
        if self._dataset is None:
            setup_jax(recipe, 1)
            self._dataset = load(recipe, features=True)
        programs = self._programs.setdefault((strategy, openness), Programs())
        with tempfile.TemporaryDirectory() as folder:
            results = active_learning.run(recipe, folder, programs, dataset=self._dataset)
            workdir = pathlib.Path(folder)
            split = json.loads((workdir / "split.json").read_text())
            tables = sorted((workdir / "queries").glob("round_??.csv"))
            queries = [np.loadtxt(t, int, delimiter=",", skiprows=1, usecols=0) for t in tables]
        rounds = results["rounds"]
        names = [name for name in rounds[0] if name.endswith("accuracy")]
        return {
            "known_classes": split["known_classes"],
            "initial_ids": split["initial_ids"],
            "queries": [ids.tolist() for ids in queries],
            "precision": [one["query"]["precision"] for one in rounds[:-1]],
            "recall": results["last_query_recall"],
            **{name: [one[name] for one in rounds] for name in names},
        }

    def _regression(self, found: dict) -> float:
        """The regression's accuracy on all that was annotated."""
        known = [self._photographs.names.index(name) for name in found["known_classes"]]
        return self._photographs.regression(
            np.concatenate([found["initial_ids"], *found["queries"]]), known
        )


def outside(
    split: dict, photographs: Photographs, query_size: int, rounds: int, *, unknown_class: bool
) -> dict:
    """scikit-activeml's margin from the same start; `unknown_class` keeps images found unknown."""
    from skactiveml.classifier import SklearnClassifier
    from skactiveml.pool import UncertaintySampling

    known = [photographs.names.index(name) for name in split["known_classes"]]
    truth = photographs.train_labels
    is_known = np.isin(truth, known)
    labels = np.full(len(truth), np.nan)
    labels[split["initial_ids"]] = truth[split["initial_ids"]]
    asked = ~np.isnan(labels)
    accuracies, queries, precisions = [], [], []
    for round_ in range(rounds):
        accuracies.append(photographs.regression(np.flatnonzero(asked), known))
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
        precisions.append(float(is_known[ids].mean()))
        queries.append(ids.tolist())
    return {
        "known_classes": split["known_classes"],
        "initial_ids": split["initial_ids"],
        "queries": queries,
        "precision": precisions,
        "recall": float(np.sum(asked & is_known) / is_known.sum()),
        "accuracy": accuracies,
    }


def measures(rows: list[dict]) -> dict[str, np.ndarray]:
    """Every measure `[seeds]` of the rows of a strategy."""

    def of(row: dict) -> dict[str, float]:
        queries = np.cumsum([len(row["initial_ids"]), *map(len, row["queries"])]).tolist()
        return {
            "last": row["accuracy"][-1],
            "AULC": area(row["accuracy"], queries),
            "precision": float(np.mean(row["precision"])),
            "recall": row["recall"],
            "regression": row["regression"],
            "seconds": row["seconds"],
        }

    return {name: np.array([of(row)[name] for row in rows]) for name in COLUMNS}


def line(strategy: str, measures: dict[str, np.ndarray], random: dict[str, np.ndarray]) -> str:
    """Of the table, in Markdown."""

    def percent(values, error=False):
        spread = values.std(ddof=1) / (np.sqrt(len(values)) if error else 1)
        return f"{100 * values.mean():.1f} ± {100 * spread:.1f}"

    ahead = [percent(measures[name] - random[name], error=True) for name in ("last", "AULC")]
    cells = [percent(measures[name]) for name in COLUMNS[:-1]]
    cells[2:2] = ahead
    return f"| {strategy} | {' | '.join(cells)} | {np.median(measures['seconds']):.0f} |"


def tables(rows: dict[tuple[float, str, int], dict]) -> str:
    """In Markdown, one for each openness, of the seeds that all its strategies have."""
    lines = []
    for openness in dict.fromkeys(key[0] for key in rows):
        found = [key for key in rows if key[0] == openness]
        strategies = list(dict.fromkeys(key[1] for key in found))
        seeds = sorted(
            functools.reduce(
                set.intersection, ({k[2] for k in found if k[1] == s} for s in strategies)
            )
        )
        lines += [f"\nOpenness {openness}, seeds {seeds}:\n"]
        if len(seeds) < 2:
            lines += ["Fewer than two that every strategy has: no deviation, no table."]
            continue
        lines += [
            "| | last accuracy | AULC | last, ahead of random | AULC, ahead of random "
            "| precision | recall | regression | seconds a run |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        of = {s: measures([rows[openness, s, seed] for seed in seeds]) for s in strategies}
        lines += [line(s, of[s], of["random"]) for s in strategies]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", required=True, help=".npz files, separated by commas")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of rows.jsonl")
    parser.add_argument("--openness", default="0.6,0.4,0.8,0.2")
    parser.add_argument("--num_seeds", type=int, default=5)
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument(
        "--strategies",
        default=",".join([*STRATEGIES, *OUTSIDE]),
        help="random is always among them",
    )
    parser.add_argument("--only_tables", action="store_true", help="of the runs that there are")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "rows.jsonl"
    rows = {}
    for text in path.read_text().splitlines() if path.exists() else ():
        row = json.loads(text)
        rows[row["openness"], row["strategy"], row["seed"]] = row
    if not arguments.only_tables:
        figures._save = lambda *_: None  # they take longer than a run
        paths = [pathlib.Path(p) for p in arguments.features.split(",")]
        runs = Runs(joined(paths, arguments.out))
        strategies = ["random", *(s for s in arguments.strategies.split(",") if s != "random")]
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.num_seeds):
            for openness in map(float, arguments.openness.split(",")):
                for named in strategies:
                    strategy, _, only = named.partition("@")
                    key = openness, strategy, seed
                    if key in rows or (only and float(only) != openness):
                        continue
                    random = rows.get((openness, "random", seed))
                    rows[key] = runs.row(strategy, openness, seed, random)
                    with path.open("a") as file:
                        print(json.dumps(rows[key]), file=file)
    print(tables(rows))


if __name__ == "__main__":
    main()
