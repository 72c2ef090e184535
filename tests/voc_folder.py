"""Makes a folder in the layout of Pascal VOC 2007 of images at hand, to try the streaming path.

    python tests/voc_folder.py OUT [--images=DIR] [--train=500] [--test=200]

Each picture is a canvas of 2 x 2 places, on some of which small images of ten classes lie: those of
`DIR/{train,test}/CLASS/*`, or without it scikit-learn's digits. The ten classes stand for the first
ten of VOC, and for the other ten where an image lies upside down.
"""

import argparse
import pathlib

import numpy as np
from PIL import Image

from jaxrobust.data.file_sets import VOC_CLASSES
from jaxrobust.data.sources import load_dataset


def write_split(root, split, images, targets, *, difficult=()):
    """Adds a split; `difficult` names (image, class) positions of difficult objects."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    names = [f"{split}_{i:06d}" for i in range(len(images))]
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    for i, (name, image, row) in enumerate(zip(names, images, targets, strict=True)):
        Image.fromarray(image).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        objects = "".join(
            f"<object><name>{VOC_CLASSES[c]}</name><part><name>head</name></part>"
            f"<difficult>{int((i, c) in difficult)}</difficult></object>"
            for c in np.flatnonzero(row)
        )
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><folder>VOC2007</folder>{objects}</annotation>"
        )


def compose(images, labels, count, generator):
    """Canvases uint8 `[count, 2 H, 2 W, 3]`, and what lies on them, `[count, 20]`."""
    _, height, width, _ = images.shape
    canvases = np.full((count, 2 * height, 2 * width, 3), 128, np.uint8)
    targets = np.zeros((count, len(VOC_CLASSES)), np.uint8)
    for i, (canvas, row) in enumerate(zip(canvases, targets, strict=True)):
        places = generator.permutation(4)[: generator.integers(1, 5)]
        for k, place in enumerate(places):
            drawn, turned = generator.integers(len(images)), generator.integers(2)
            if k == 0:  # so that 20 canvases show every class
                drawn, turned = generator.choice(np.flatnonzero(labels == i % 10)), i // 10 % 2
            y, x = divmod(int(place), 2)
            image = images[drawn][::-1] if turned else images[drawn]
            canvas[y * height : (y + 1) * height, x * width : (x + 1) * width] = image
            row[labels[drawn] + 10 * turned] = 1
    return canvases, targets


def make(out, *, images=None, num_train, num_test):
    """Writes the folder; the same one for the same arguments."""
    source = {"name": "image_folder", "path": images, "image_size": 32} if images else None
    dataset = load_dataset(**(source or {"name": "digits"}))
    root = pathlib.Path(out) / "VOCdevkit" / "VOC2007"
    parts = (("trainval", dataset.train, num_train), ("test", dataset.test, num_test))
    for k, (split, part, count) in enumerate(parts):
        pixels = part.images.repeat(3 // part.images.shape[-1], axis=-1)
        canvases, targets = compose(pixels, part.labels, count, np.random.default_rng(k))
        write_split(root, split, canvases, targets)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out")
    parser.add_argument("--images")
    parser.add_argument("--train", type=int, default=500)
    parser.add_argument("--test", type=int, default=200)
    args = parser.parse_args()
    make(args.out, images=args.images, num_train=args.train, num_test=args.test)
