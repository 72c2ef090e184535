"""README's picture: the first rows of a run's `label_quality.csv`, as photographs.

    python -m jaxrobust.main --config=dpc:features --workdir=runs/aggre \
        --config.dataset.features=report.npz --config.noise.kind=human \
        --config.noise.label_set=aggre --config.noise.path=CIFAR-10_human.pt
    python benchmarks/suspicious_photographs.py --table=runs/aggre/label_quality.csv \
        --images=cifar10 --out=docs/figures/suspicious.png

Features are of `jaxrobust.embed`, of the images `train/CLASS/NNNN.jpg` of a folder of CIFAR-10;
labels those of CIFAR-10N. Nothing is picked by hand. Prints how many of the first rows are wrong.
"""

import argparse
import csv
import pathlib

from matplotlib import pyplot
from PIL import Image

ROWS, COLUMNS = 3, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("table", "images", "out"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    with open(arguments.table, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    for n in (ROWS * COLUMNS, 100):
        wrong = sum(row["given_label"] != row["true_label"] for row in rows[:n])
        print(f"{wrong} of the first {n} labels are wrong")

    figure, axes = pyplot.subplots(ROWS, COLUMNS, figsize=(10, 5), dpi=100)
    for axis, row in zip(axes.flat, rows, strict=False):
        with Image.open(arguments.images / row["file"]) as image:
            axis.imshow(image.resize((112, 112), Image.Resampling.LANCZOS))
        axis.axis("off")
        for y, name, color in ((1.18, "given", "#b3261e"), (1.03, "suggested", "#00695c")):
            text = row[f"{name}_label"]
            axis.text(0.5, y, text, color=color, ha="center", transform=axis.transAxes)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.9, wspace=0.06, hspace=0.38)
    figure.savefig(arguments.out)
    pyplot.close(figure)
    with Image.open(arguments.out) as image:  # a palette halves the file
        small = image.convert("RGB").quantize(224)
    small.save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
