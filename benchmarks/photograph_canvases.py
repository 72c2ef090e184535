"""A multi-label set of real photographs: canvases on which four of them lie, two by two.

    python benchmarks/photograph_canvases.py --images=DIR --out=canvases --num_train=2500 --side=16
    python -m jaxrobust.main --config=l2d:digits --config.dataset.name=multilabel_folder \
        --config.dataset.path=canvases --config.dataset.image_size=32 --config.augment.padding=4 \
        --config.augment.flip=True --config.num_epochs=20 --config.optimizer.cycle_epochs=20 \
        --config.teacher.path=runs/teacher/student --workdir=runs/l2d

DIR holds `train/CLASS/*` and `test/CLASS/*`, small square photographs such as CIFAR's. Labels of a
canvas are the set of classes on it; training and test canvases share no photograph. Between one
and four classes are drawn for each, so that sets of all sizes occur.
"""

import argparse
import csv
import pathlib

import numpy as np
from PIL import Image


def write_part(source: pathlib.Path, out: pathlib.Path, part: str, count: int, side: int) -> None:
    """The canvases of one part and their table."""
    generator = np.random.default_rng(0 if part == "train" else 1)
    files = {
        folder.name: sorted(folder.iterdir())
        for folder in sorted((source / part).iterdir())
        if folder.is_dir()
    }
    classes = list(files)
    (out / part).mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        size = generator.integers(1, 5)
        drawn = generator.choice(classes, size, replace=False)
        cells = np.concatenate([drawn, generator.choice(drawn, 4 - size)])
        generator.shuffle(cells)
        canvas = Image.new("RGB", (2 * side, 2 * side))
        for place, name in enumerate(cells):
            with Image.open(files[name][generator.integers(len(files[name]))]) as photograph:
                tile = photograph.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            canvas.paste(tile, (side * (place % 2), side * (place // 2)))
        path = f"{part}/{number:05d}.png"
        canvas.save(out / path)
        rows.append([path, ";".join(sorted(set(cells.tolist())))])
    with open(out / f"{part}.csv", "w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([["path", "labels"], *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--num_train", type=int, default=5000)
    parser.add_argument("--num_test", type=int, default=1000)
    parser.add_argument("--side", type=int, default=32, help="of a photograph in pixels")
    args = parser.parse_args()
    for part, count in (("train", args.num_train), ("test", args.num_test)):
        write_part(args.images, args.out, part, count, args.side)


if __name__ == "__main__":
    main()
