"""Data sets in the layouts of the real ones."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def write_voc():
    """Writes images and their classes in the layout of Pascal VOC 2007."""
    from PIL import Image

    from jaxrobust.data.multilabel import VOC_CLASSES

    def write(root, split, images, targets, *, difficult=()):
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

    return write
