"""`jaxrobust predict`: predicts classes of new images or features, as a table.

`python -m jaxrobust predict CLASSIFIER DIR_OR_FEATURES --out=predictions.csv`
"""

import itertools
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image
from tqdm import tqdm

from jaxrobust.commands.parser import Parser, new_file
from jaxrobust.data.array_files import open_arrays
from jaxrobust.data.features import checked_source, embedding_of
from jaxrobust.data.readers import fit_square
from jaxrobust.data.tables import escape_formula
from jaxrobust.engine.files import format_number, write_table
from jaxrobust.errors import UserError
from jaxrobust.methods.classifiers import Classifier, load_classifier
from jaxrobust.models.embedding import embed, folder_images

BATCH_SIZE = 256

# Names of inputs, and the inputs for `Classifier.predict_proba`.
Batch = tuple[Sequence[str], np.ndarray]


def predictions(
    classifier: Classifier,
    source: pathlib.Path,
    *,
    top: int | None = None,
    progress: bool = False,
) -> Iterator[list[str]]:
    """The rows of a table of predictions, the header first.

    Args:
      classifier: trained on images or on features.
      source: a folder of images, as `jaxrobust.embed` reads it. Images that differ in size from the
        classifier's are resized: the centre square or, if an image may have several labels, the
        whole image to a square. A classifier of features takes a `.npy` or `.npz` file of features,
        or a folder of images, which are embedded by the network of its own features.
      top: number of most probable classes in each row; None for one or, if an image may have
        several labels, for those with a probability above 1/2.
      progress: whether to show a progress bar.

    Yields:
      Cells of a row as text.

    Raises:
      UserError: if the source does not fit the classifier, or cannot be read.
    """
    num_classes = len(classifier.classes)
    if top is not None and not 1 <= top <= num_classes:
        raise UserError(f"top must lie in 1 to {num_classes}, the number of classes, not {top}.")
    if classifier.is_multilabel:
        yield ["file", "classes", "probabilities"]
    else:
        more = [[f"class_{i}", f"probability_{i}"] for i in range(2, (top or 1) + 1)]
        yield ["file", "class", "probability", *itertools.chain(*more)]
    if len(classifier.input_shape) != 1:
        batches, count = _of_images(classifier, source)
    elif source.is_dir():
        batches, count = _embedded(classifier, source, progress)
    else:
        batches, count = _of_features(classifier, source)
    names = [escape_formula(str(name)) for name in classifier.classes]
    with tqdm(total=count, unit="row", delay=1, disable=not progress) as bar:
        for files, inputs in batches:
            probs = classifier.predict_proba(inputs, batch_size=BATCH_SIZE)
            for file, row in zip(files, probs, strict=True):
                ids = np.argsort(-row, kind="stable")[: top or num_classes]
                if top is None:
                    ids = ids[row[ids] > 0.5] if classifier.is_multilabel else ids[:1]
                pairs = [(names[i], format_number(row[i])) for i in ids]
                if classifier.is_multilabel:
                    cells = [";".join(pair[k] for pair in pairs) for k in (0, 1)]
                else:
                    cells = itertools.chain(*pairs)
                yield [escape_formula(file), *cells]
            bar.update(len(files))


def _of_images(classifier: Classifier, folder: pathlib.Path) -> tuple[Iterator[Batch], int]:
    if folder.is_file():
        raise UserError(
            f"This classifier was trained on images; give a folder of them, not the file {folder}."
        )
    if not classifier.input_shape:
        raise UserError(
            "This classifier does not state the size of its images; convert its weights again with "
            "--size=."
        )
    found = folder_images(folder)
    if not found.files:
        raise UserError(f"There are no images in {folder}; name a folder of images.")

    def opened(i: int) -> np.ndarray:
        return _sized(classifier, found.open(i), found.names[i])

    def batches():
        with ThreadPoolExecutor() as pool:
            for ids in _batches(len(found.files)):
                yield [found.files[i] for i in ids], np.stack(list(pool.map(opened, ids)))

    return batches(), len(found.files)


def _sized(classifier: Classifier, image: Image.Image, name: str) -> np.ndarray:
    """An image as uint8 `[H, W, 3]` in the size of the classifier's images."""
    height, width, _ = classifier.input_shape
    if image.size == (width, height):
        return np.asarray(image)
    if height != width:
        raise UserError(
            f"{name} is {image.width} x {image.height} pixels, but this classifier was trained on "
            f"images of {width} x {height}; resize it."
        )
    return fit_square(image, height, crop=not classifier.is_multilabel)


def _of_features(classifier: Classifier, path: pathlib.Path) -> tuple[Iterator[Batch], int]:
    if not path.is_file():
        raise UserError(f"There is no file or folder {path}; correct its name.")
    arrays = open_arrays(path)
    source = checked_source(path, arrays)
    known, found = classifier.embedding, embedding_of(arrays)
    if known and found and known.weights_hash != found.weights_hash:
        raise UserError(
            f"The features in {path} are from another network ({found.backbone}) than those that "
            f"this classifier was trained on; embed the images with {known.backbone}."
        )
    if (found_size := source.shape[-1]) != classifier.input_shape[0]:
        raise UserError(
            f"The features in {path} have {found_size} dimensions, but this classifier was "
            f"trained on {classifier.input_shape[0]}; give features from the same network."
        )
    files = arrays.get("files")
    return _rows(source, files if files is not None and len(files) else range(len(source)))


def _embedded(
    classifier: Classifier, folder: pathlib.Path, progress: bool
) -> tuple[Iterator[Batch], int]:
    known = classifier.embedding
    if known is None:
        raise UserError(
            "This classifier was trained on features from a network that it does not name; give "
            f"a .npy or .npz file of such features, not {folder}."
        )
    from jaxrobust.models.pretrained import load_encoder, weights_hash

    if weights_hash(load_encoder(known.backbone)) != known.weights_hash:
        raise UserError(
            f"The network {known.backbone} has different weights from the one whose features "
            "this classifier was trained on; give a file of such features."
        )
    features = embed(folder, backbone=known.backbone, size=known.size, progress=progress)
    return _rows(features.array, features.files)


def _rows(features: np.ndarray, files: Iterable) -> tuple[Iterator[Batch], int]:
    names = list(map(str, files))
    batches = (([names[i] for i in ids], features[ids]) for ids in _batches(len(features)))
    return batches, len(features)


def _batches(count: int) -> Iterator[range]:
    return (range(i, min(i + BATCH_SIZE, count)) for i in range(0, count, BATCH_SIZE))


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = Parser("predict", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "classifier",
        type=pathlib.Path,
        metavar="CLASSIFIER",
        help="classifier/, student/ or teacher/ of a run, or the run's folder",
    )
    parser.add_argument(
        "source",
        type=pathlib.Path,
        metavar="DIR_OR_FEATURES",
        help="folder of images, or file of features",
    )
    parser.add_argument(
        "--out", type=new_file, default=pathlib.Path("predictions.csv"), help="table to write"
    )
    parser.add_argument("--top", type=int, help="number of classes for each image; default: 1")
    arguments = parser.parse_args(argv)
    classifier = load_classifier(arguments.classifier)
    source = arguments.source.expanduser()
    rows = list(predictions(classifier, source, top=arguments.top, progress=True))
    write_table(arguments.out, rows)
    print(f"{len(rows) - 1:,} predictions of {classifier!r}: {arguments.out}")
    return 0
