"""Features of texts compared: what each lets `find_label_issues` and a regression achieve.

    python benchmarks/text_features.py trec.csv banking77.csv sst2.csv

Each file has the columns `text` and `label`; texts that occur twice are left out. `--rows` texts
are drawn by the seed, embedded by each of `--backbones`, and given labels of which 0, 5 and 20 %
are changed to any other class. Prints, in percent, the accuracy of a ridge regression in five
folds with the true labels; AUROC of the ranking of `find_label_issues` and F1 of its flags; flags
where no label is wrong; and the seconds of embedding, the second time (compiled). Means and
standard deviations over seeds. Nothing was tuned on these sets.
"""

import argparse
import pathlib
import time

import numpy as np
import pandas as pd
from real_label_errors import changed, judged, measured
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jaxrobust import embed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=pathlib.Path, nargs="+")
    parser.add_argument("--backbones", default="tfidf,minilm", help="separated by commas")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--num_seeds", type=int, default=3)
    arguments = parser.parse_args()
    columns = ("accuracy", "AUROC 5 %", "AUROC 20 %", "F1 5 %", "F1 20 %", "flags 0 %", "seconds")
    print(f"| texts | features | {' | '.join(columns)} |\n|{'---|' * (2 + len(columns))}")
    for file in arguments.files:
        table = pd.read_csv(file).dropna().drop_duplicates("text")
        for backbone in arguments.backbones.split(","):
            rows = [
                one_seed(
                    table.sample(min(arguments.rows, len(table)), random_state=seed), backbone, seed
                )
                for seed in range(arguments.num_seeds)
            ]
            cells = [
                f"{mean:.1f} ± {std:.1f}"
                for mean, std in zip(np.mean(rows, axis=0), np.std(rows, axis=0), strict=True)
            ]
            print(f"| {file.stem} | {backbone} | {' | '.join(cells)} |", flush=True)


def one_seed(table: pd.DataFrame, backbone: str, seed: int) -> list[float]:
    """A row of the table that `main` prints."""
    texts, true = table.text.tolist(), pd.factorize(table.label, sort=True)[0]
    embed(texts[:256], backbone=backbone)
    started = time.perf_counter()
    features = np.float32(embed(texts, backbone=backbone).array[:, 0])
    seconds = time.perf_counter() - started
    ridge = make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(0, 5, 11)))
    accuracy = 100 * cross_val_score(ridge, features, true).mean()
    found = {}
    for rate in (0, 0.05, 0.2):
        labels = changed(true, "symmetric", rate, seed)
        flags, suspicion, expected, _, spent = judged(labels, {"features": features, "seed": seed})
        found[rate] = measured(flags, suspicion, expected, spent, labels != true)
    ranked = [found[rate][0] for rate in (0.05, 0.2)]
    f1 = [found[rate][3] for rate in (0.05, 0.2)]
    return [accuracy, *ranked, *f1, found[0][4], seconds]


if __name__ == "__main__":
    main()
