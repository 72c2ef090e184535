"""Methods of the noisy-label task beside cleanlab, on the same features, labels and seeds.

    python benchmarks/noisy_labels_on_features.py --train=train.npz --test=test.npz \
        --human=CIFAR-10_human.pt --runs=dpc,dpc:knn --labels=aggre,sym40 --num_seeds=3

Files are of `jaxrobust.embed`; `--train` takes several. Labels are those of CIFAR-10N (`aggre`,
`rand1`, `worst`), or `symN`, N % drawn anew by the seed. A run is a recipe, its variant `features`
with noise and seed set, `RECIPE:METHOD`, or `RECIPE:METHOD:FIELD=VALUE:...`. The other side:
logistic regression on the mean of the views, standardised, which is what the recipes test on, with
the C of `STRENGTHS` that predicts the given labels best in five folds that the seed shuffles; flags
of cleanlab's seven filters on its probabilities, ranked by self-confidence (normalised margin for
the filter of that name); the test accuracy and calibration error of the regression on all labels,
and on those that each filter keeps. Seconds are counted from the first fold on.

Prints AUROC of the ranking (of ours: the order of `label_quality.csv`), F1 of the flags, precision
of the 100 most suspicious, test accuracy, expected calibration error (all in %) and seconds, mean
and standard deviation of the seeds. Needs cleanlab, of the extra `test`.
"""

import argparse
import ast
import csv
import importlib
import pathlib
import tempfile
import time

import numpy as np
from real_label_errors import FILTERS, filtered
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from jaxrobust import tasks
from jaxrobust.data import load_features
from jaxrobust.data.label_noise import given_labels
from jaxrobust.metrics import auroc, detection_scores, expected_calibration_error
from jaxrobust.recipes.parse import parse

MEASURES = ("AUROC", "F1", "first 100", "accuracy", "ECE", "seconds")
STRENGTHS = (1e-4, 1e-3, 1e-2)
_FIELDS = ("features", "labels", "files")


def joined(train: list[str], test: str, folder: pathlib.Path) -> pathlib.Path:
    """One file of all, each row with its split."""
    parts = [np.load(path) for path in (*train, test)]
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in _FIELDS}
    names = (*("train" for _ in train), "test")
    split = [np.full(len(part["labels"]), name) for part, name in zip(parts, names, strict=True)]
    path = folder / "features.npz"
    label_names = parts[0]["label_names"]
    np.savez(path, split=np.concatenate(split), label_names=label_names, **arrays)
    return path


def recipe_of(run: str, features: pathlib.Path, labels: str, human: str, seed: int):
    """The recipe of a run, such as `dpc`, `dpc:knn` or `dpc:knn:baseline.num_neighbors=10`."""
    name, *rest = run.split(":")
    config = importlib.import_module(f"jaxrobust.recipes.{name}").get_config("features")
    config.method = rest[0] if rest else config.method
    config.flag_by = "count"
    changes = (change.split("=") for change in rest[1:])
    config.update_from_flattened_dict({k: ast.literal_eval(v) for k, v in changes})
    config.dataset.features, config.seed, config.writers = str(features), seed, ()
    if labels.startswith("sym"):
        config.noise.kind, config.noise.rate = "symmetric", float(labels[3:]) / 100
    else:
        config.noise.kind, config.noise.label_set, config.noise.path = "human", labels, human
    return config


def ours(config, folder: pathlib.Path, is_wrong: np.ndarray) -> list[float]:
    started = time.perf_counter()
    results = tasks.run(config, folder)
    seconds = time.perf_counter() - started
    with open(folder / "label_quality.csv", newline="", encoding="utf-8-sig") as file:
        ids = [int(row["id"]) for row in csv.DictReader(file)]
    last = results["last"]
    place = np.empty(len(ids))
    place[ids] = np.arange(len(ids))
    values = [
        auroc(-place, is_wrong),
        last["labels"]["f1"],
        is_wrong[ids[:100]].mean(),
        last["accuracy"],
        last["ece"],
    ]
    return [*(100 * float(x) for x in values), seconds]


def theirs(dataset, labels: np.ndarray, is_wrong: np.ndarray, seed: int):
    started = time.perf_counter()
    train, test = (
        (part.read_all().astype(np.float32).mean(axis=1) - dataset.mean) / dataset.std
        for part in (dataset.train, dataset.test)
    )
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    judged = []
    for strength in STRENGTHS:
        regression = LogisticRegression(C=strength, max_iter=200)
        probs = cross_val_predict(regression, train, labels, cv=folds, method="predict_proba")
        judged.append((log_loss(labels, probs), strength, probs))
    _, strength, probs = min(judged, key=lambda x: x[:2])
    regression = LogisticRegression(C=strength, max_iter=200)
    values = {}
    for by in ("all", *FILTERS):
        flags, suspicion = filtered(labels, probs, by if by in FILTERS else FILTERS[0])[:2]
        first = np.argsort(suspicion, kind="stable")[::-1][:100]
        f1 = np.nan if by == "all" else detection_scores(flags, is_wrong)[2]
        found = auroc(suspicion, is_wrong), f1, is_wrong[first].mean()
        kept = np.full(len(labels), True) if by == "all" else ~flags
        predicted = regression.fit(train[kept], labels[kept]).predict_proba(test)
        accuracy = (predicted.argmax(axis=1) == dataset.test.labels).mean()
        tested = accuracy, expected_calibration_error(predicted, dataset.test.labels)
        percent = [100 * float(x) for x in (*found, *tested)]
        name = "regression on all" if by == "all" else f"cleanlab, {by}"
        values[name] = [*percent, time.perf_counter() - started]
    print(f"seed {seed}: C = {strength}", flush=True)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--human", default="datasets/CIFAR-10_human.pt", help="of CIFAR-10N")
    parser.add_argument("--runs", default="dpc,bldr,dpc:cross_entropy,dpc:dividemix,dpc:knn")
    parser.add_argument("--labels", default="aggre,rand1,worst,sym20,sym40,sym80")
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--num_seeds", type=int, default=3)
    parser.add_argument("--cleanlab_seeds", type=int, help="the first of them; all by default")
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.num_seeds)
    num_theirs = len(seeds) if arguments.cleanlab_seeds is None else arguments.cleanlab_seeds
    print("| labels | wrong | by |", " | ".join(MEASURES), "| seeds |")
    print("|---" * (4 + len(MEASURES)) + "|")
    with tempfile.TemporaryDirectory() as scratch:
        features = joined(arguments.train.split(","), arguments.test, pathlib.Path(scratch))
        dataset = load_features(features)
        for name in arguments.labels.split(","):
            found: dict[str, list[list[float]]] = {}
            shares = []
            for number, seed in enumerate(seeds):
                noise = parse(recipe_of("dpc", features, name, arguments.human, seed)).noise
                labels = given_labels(noise, dataset, seed=seed)
                is_wrong = labels != dataset.train.labels
                for run in filter(None, arguments.runs.split(",")):
                    config = recipe_of(run, features, name, arguments.human, seed)
                    folder = pathlib.Path(tempfile.mkdtemp(dir=scratch))
                    found.setdefault(run, []).append(ours(config, folder, is_wrong))
                shares.append(is_wrong.mean())
                if number < num_theirs:
                    for by, values in theirs(dataset, labels, is_wrong, seed).items():
                        found.setdefault(by, []).append(values)
            for by, values in found.items():
                columns = np.transpose(values)
                cells = " | ".join(
                    f"{x.mean():.1f}" + (f" ± {x.std(ddof=1):.1f}" if len(x) > 1 else "")
                    for x in columns
                )
                wrong = f"{100 * np.mean(shares):.1f} %"
                print(f"| {name} | {wrong} | {by} | {cells} | {len(values)} |", flush=True)


if __name__ == "__main__":
    main()
