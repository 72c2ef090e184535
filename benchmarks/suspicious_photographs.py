"""README's picture: the photographs whose human labels look most wrong, and what is right.

    python benchmarks/suspicious_photographs.py --features=report.npz --images=cifar10 \
        --human=CIFAR-10_human.pt --labels=aggre --out=docs/figures/suspicious.png

Features are of `jaxrobust.embed`, of the images `train/CLASS/NNNN.jpg` of a folder of CIFAR-10;
labels those of CIFAR-10N. A logistic regression predicts out of sample in five folds, and
`find_label_issues` ranks. Nothing is picked by hand: the first images of the ranking are shown.
Prints how many of them, and of the first 100, have a label that is not CIFAR-10's.
"""

import argparse
import pathlib

import numpy as np
from matplotlib import pyplot
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from jaxrobust import find_label_issues
from jaxrobust.data.noise import read_cifarn_labels

ROWS, COLUMNS = 3, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("features", "images", "human", "out"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    parser.add_argument("--labels", default="aggre")
    arguments = parser.parse_args()
    with np.load(arguments.features) as arrays:
        features = arrays["features"].astype(np.float32).mean(axis=1)
        files, true, names = (arrays[x] for x in ("files", "labels", "label_names"))
    features = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-6)

    clean, human = (read_cifarn_labels(arguments.human, x) for x in ("clean", arguments.labels))
    of_class = [np.flatnonzero(clean == label) for label in range(len(names))]
    numbers = [int(pathlib.PurePosixPath(file).stem) for file in files]
    given = np.array([human[of_class[label][i]] for label, i in zip(true, numbers, strict=True)])

    probs = cross_val_predict(
        LogisticRegression(C=1e-3, max_iter=200),
        features,
        given,
        cv=StratifiedKFold(5, shuffle=True, random_state=0),
        method="predict_proba",
    )
    issues = find_label_issues(given, pred_probs=probs)
    wrong = given != true
    first = issues.ranked[: ROWS * COLUMNS]
    print(issues, f"{wrong.sum()} are wrong,", "of those flagged", (wrong & issues.is_issue).sum())
    print(f"{wrong[first].sum()} of the first {len(first)} are wrong,", end=" ")
    print(f"{wrong[issues.ranked[:100]].sum()} of the first 100;", end=" ")
    print(f"{(issues.suggested == true)[first].sum()} suggestions are CIFAR-10's label")

    figure, axes = pyplot.subplots(ROWS, COLUMNS, figsize=(10, 4.9), dpi=100)
    for axis, i in zip(axes.flat, first, strict=True):
        with Image.open(arguments.images / str(files[i])) as image:
            axis.imshow(image.resize((96, 96), Image.Resampling.LANCZOS))
        axis.axis("off")
        right = issues.suggested[i] == true[i]
        axis.text(
            0.5, 1.17, names[given[i]], color="#b3261e", ha="center", transform=axis.transAxes
        )
        suggested = names[issues.suggested[i]] + ("" if right else " ?")
        axis.text(0.5, 1.02, suggested, color="#00695c", ha="center", transform=axis.transAxes)
    figure.subplots_adjust(0.005, 0.01, 0.995, 0.91, wspace=0.06, hspace=0.36)
    figure.savefig(arguments.out)
    with Image.open(arguments.out) as image:  # half the size
        image.convert("RGB").quantize(192).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
