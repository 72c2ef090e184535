"""Finders of the named sets that stay in their files, each `path -> FileDataset`."""

import functools
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from jaxrobust.data import annotations, readers
from jaxrobust.data._streams import host_generator
from jaxrobust.data.class_folders import image_folder_files, in_files
from jaxrobust.data.dataset import FileDataset, FileExamples
from jaxrobust.data.places import (
    find_places,
    find_tfds,
    images_in,
    listed,
    missing_set,
    subfolders,
)
from jaxrobust.data.subsets import HELD_OUT, covering_subset
from jaxrobust.errors import DataError

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
COCO_CLASSES = tuple(
    """
    airplane apple backpack banana baseball_bat baseball_glove bear bed bench bicycle bird boat book
    bottle bowl broccoli bus cake car carrot cat cell_phone chair clock couch cow cup dining_table
    dog donut elephant fire_hydrant fork frisbee giraffe hair_drier handbag horse hot_dog keyboard
    kite knife laptop microwave motorcycle mouse orange oven parking_meter person pizza potted_plant
    refrigerator remote sandwich scissors sheep sink skateboard skis snowboard spoon sports_ball
    stop_sign suitcase surfboard teddy_bear tennis_racket tie toaster toilet toothbrush
    traffic_light train truck tv umbrella vase wine_glass zebra
    """.split()
)

_KAGGLE = pathlib.Path("ILSVRC", "Data", "CLS-LOC")  # where Kaggle's archive of ImageNet has images
_SOLUTION = "LOC_val_solution.csv"
_MINI_CLASSES = 50  # of WebVision, as in the papers on wrong labels


def coco2014(path: pathlib.Path | None) -> FileDataset:
    """MS-COCO 2014 from its folder or TensorFlow Datasets."""
    for place in find_places("coco2014", path):
        found = [_coco_annotations(place, split) for split in ("train", "val")]
        files = [file for file in found if file is not None]
        if len(files) == len(found):
            break
    else:
        if directory := find_tfds("coco/2014", path):
            return _from_tfds("coco2014", directory, ("train",), ("validation",))
        raise missing_set(
            "MS-COCO 2014",
            path,
            "put train2014, val2014 and annotations/instances_{train,val}2014.json into "
            "datasets/coco2014",
        )
    (train, names), (test, test_names) = (
        _coco_examples(place, split, file)
        for split, file in zip(("train", "val"), files, strict=True)
    )
    if names != test_names:
        raise DataError(f"{files[0]} and {files[1]} have different categories.")
    return FileDataset("coco2014", train, test, names)


def _coco_annotations(place: pathlib.Path, split: str) -> pathlib.Path | None:
    names = (f"annotations/instances_{split}2014.json", f"{split}_anno.json")
    return next((place / name for name in names if (place / name).is_file()), None)


def _coco_examples(
    place: pathlib.Path, split: str, file: pathlib.Path
) -> tuple[FileExamples, tuple[str, ...]]:
    """(examples, class names)."""
    listing, names = annotations.read_coco(file, COCO_CLASSES)
    return _examples(place, f"{split}2014", listing.items(), names, source=file), names


def voc2007(path: pathlib.Path | None) -> FileDataset:
    """Pascal VOC 2007 from its folder or TensorFlow Datasets."""
    for place in find_places("voc2007", path):
        roots = [_voc_root(place, split) for split in ("trainval", "test")]
        if roots[0] and roots[1]:
            train, test = _voc_examples(roots[0], "trainval"), _voc_examples(roots[1], "test")
            return FileDataset("voc2007", train, test, VOC_CLASSES)
        if any(roots):
            found, lacking = ("trainval", "test") if roots[0] else ("test", "trainval")
            raise DataError(
                f"{place} holds the {found} part of Pascal VOC 2007, but not the {lacking} part: "
                f"unpack VOC{lacking}_*.tar there too."
            )
    if directory := find_tfds("voc/2007", path):
        return _from_tfds("voc2007", directory, ("train", "validation"), ("test",))
    raise missing_set("Pascal VOC 2007", path, "put VOCdevkit/VOC2007 into datasets/voc2007")


def _voc_root(place: pathlib.Path, split: str) -> pathlib.Path | None:
    """The folder VOC2007 that lists this split."""
    devkit = pathlib.Path("VOCdevkit", "VOC2007")
    for folder in (".", "VOC2007", devkit, f"VOC{split}2007" / devkit):
        if (place / folder / "ImageSets" / "Main" / f"{split}.txt").is_file():
            return place / folder
    return None


def _voc_examples(root: pathlib.Path, split: str) -> FileExamples:
    sets = root / "ImageSets" / "Main"
    images = annotations.read_lines(sets / f"{split}.txt")
    listing: annotations.Listing = {image: () for image in images}
    if (root / "Annotations").is_dir():
        source = root / "Annotations"
        for image in listing:
            listing[image] = annotations.read_voc_objects(source / f"{image}.xml")
    else:
        source = sets
        for name in VOC_CLASSES:
            file = sets / f"{name}_{split}.txt"
            for line in annotations.read_lines(file):
                image, _, presence = line.partition(" ")
                if image not in listing or presence.strip() not in ("-1", "0", "1"):
                    raise DataError(
                        f"{file}: {line!r} is not an image of {split}.txt and -1, 0 or 1."
                    )
                if presence.strip() != "-1":  # 0: there are only difficult ones
                    listing[image] += (name,)
    rows = [(f"{image}.jpg", classes) for image, classes in listing.items()]
    return _examples(root, "JPEGImages", rows, VOC_CLASSES, source=source)


def nus_wide(path: pathlib.Path | None) -> FileDataset:
    """NUS-WIDE from its folder."""
    for place in find_places("nus_wide", path):
        if (place / "ImageList").is_dir():
            break
    else:
        raise missing_set(
            "NUS-WIDE",
            path,
            "put Flickr, ImageList, TrainTestLabels and Concepts81.txt into datasets/nus_wide",
        )
    names = tuple(
        annotations.read_lines(_first(place, "Concepts81.txt", "ConceptsList/Concepts81.txt"))
    )
    labels = _first(place, "TrainTestLabels", "Groundtruth/TrainTestLabels")
    images = _first(place, "Flickr", "images").name

    def examples(split: str) -> FileExamples:
        lines = annotations.read_lines(place / "ImageList" / f"{split}Imagelist.txt")
        files = [line.replace("\\", "/") for line in lines]
        columns = [labels / f"Labels_{name}_{split}.txt" for name in names]
        return checked_files(place, images, files, annotations.read_columns(columns, len(files)))

    return FileDataset("nus_wide", examples("Train"), examples("Test"), names)


def _first(place: pathlib.Path, *names: str) -> pathlib.Path:
    for name in names:
        if (place / name).exists():
            return place / name
    raise DataError(f"{place} lacks {names[0]}: the data set is incomplete, unpack it again.")


def multilabel_folder(path: pathlib.Path | None) -> FileDataset:
    """A folder of images with tables of their labels."""
    if path is None or not path.is_dir():
        raise DataError(
            "multilabel_folder needs a folder with images and labels.csv: set "
            f"--config.dataset.path= to one{'' if path is None else f', {path} is a file'}."
        )
    if (path / "labels.csv").is_file():
        tables = [path / "labels.csv"] * 2
        parts = _divided(tables[0], annotations.read_csv(tables[0]))
    else:
        tables = [path / "train.csv", path / "test.csv"]
        parts = [[row[:2] for row in annotations.read_csv(table)] for table in tables]
    if (path / "classes.txt").is_file():
        names = tuple(annotations.read_lines(path / "classes.txt"))
    else:
        names = tuple(sorted({name for _, classes in parts[0] for name in classes}))
    train, test = (
        _examples(path, "", rows, names, source=table)
        for rows, table in zip(parts, tables, strict=True)
    )
    return FileDataset("multilabel_folder", train, test, names)


def _divided(
    table: pathlib.Path, rows: Sequence[tuple[str, tuple[str, ...], str]]
) -> list[list[tuple[str, tuple[str, ...]]]]:
    """(image, classes) of the training and of the test rows."""
    splits = {split for _, _, split in rows}
    if splits <= {""}:
        names = sorted({name for _, classes, _ in rows for name in classes})
        targets = annotations.to_targets([row[:2] for row in rows], names, table)
        generator = host_generator(0, "multilabel/hold_out")
        num_train = len(rows) - round(HELD_OUT * len(rows))
        trained = set(covering_subset(targets, num_train, "max_train", generator).tolist())
        divided = [
            [i for i in range(len(rows)) if (i in trained) == part] for part in (True, False)
        ]
        return [[rows[i][:2] for i in ids] for ids in divided]
    if wrong := sorted(splits - {"train", "test"}):
        raise DataError(
            f"{table} has the split {wrong[0]!r}: it must be train or test in all rows."
        )
    return [[row[:2] for row in rows if row[2] == split] for split in ("train", "test")]


def imagenet(path: pathlib.Path | None) -> FileDataset:
    """ImageNet from class folders, or as Kaggle packs it."""
    for place in find_places("imagenet", path):
        for root in (place, place / _KAGGLE):
            if (root / "train").is_dir() and (root / "val").is_dir():
                return _imagenet_in(root)
    raise missing_set(
        "ImageNet",
        path,
        "put train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, or all validation images in val/ with "
        f"{_SOLUTION}, into datasets/imagenet",
    )


def _imagenet_in(root: pathlib.Path) -> FileDataset:
    classes = [folder.name for folder in subfolders(root / "train")]
    train = in_files("train", root, listed(root, "train"), classes)
    entries = listed(root, "val")
    if not entries:
        # Beside the images, or where Kaggle's archive has it.
        places = (root / "val", root, *root.parents[2:3])
        tables = [place / _SOLUTION for place in places if (place / _SOLUTION).is_file()]
        if not tables:
            raise DataError(
                f"{root}/val has no folder for each class and there is no {_SOLUTION}, which names "
                f"the class of each image: put it into {root}."
            )
        class_of = annotations.read_imagenet_solution(tables[0])
        images = images_in(root / "val")
        if missing := [image for image in images if image.stem not in class_of]:
            raise DataError(
                f"{tables[0]} lacks {len(missing)} of the {len(images)} images in {root}/val, "
                f"first {missing[0].name}: copy it again, or remove them."
            )
        entries = [(class_of[image.stem], f"val/{image.name}", image) for image in images]
    test = in_files("test", root, entries, classes)
    return FileDataset("imagenet", train, test, tuple(classes))


def mini_webvision(path: pathlib.Path | None) -> FileDataset:
    """The first classes of WebVision from its lists, or from class folders."""
    for place in find_places("webvision", path):
        if (place / "info").is_dir():
            train = _webvision_examples(place, "info/train_filelist_google.txt", "")
            test = _webvision_examples(place, "info/val_filelist.txt", "val_images_256")
            return FileDataset("mini_webvision", train, test, _webvision_classes(place, train))
        if (place / "train").is_dir():
            return image_folder_files(place, "mini_webvision")
    raise missing_set(
        "WebVision 1.0",
        path,
        "put info/train_filelist_google.txt, info/val_filelist.txt, google and val_images_256, or "
        "train/<class>/* and val/<class>/*, into datasets/webvision",
    )


def _webvision_examples(root: pathlib.Path, listing: str, folder: str) -> FileExamples:
    """The images of the first classes in a list of lines `file class`."""
    files, labels = [], []
    for line in annotations.read_lines(root / listing):
        file, _, label = line.rpartition(" ")
        if not (file and label.isdecimal()):
            raise DataError(f"{root / listing}: {line!r} is not a file and the number of a class.")
        if int(label) < _MINI_CLASSES:
            files.append(file)
            labels.append(int(label))
    return checked_files(root, folder, files, np.array(labels, np.int32))


def _webvision_classes(root: pathlib.Path, train: FileExamples) -> tuple[str, ...]:
    """The first names of each line of `info/synsets.txt`, or without it the classes' numbers."""
    num_classes = 1 + int(train.labels.max(initial=0))
    synsets = root / "info" / "synsets.txt"
    if not synsets.is_file():
        return tuple(map(str, range(num_classes)))
    lines = annotations.read_lines(synsets)[:num_classes]
    # Two of the first fifty may share a name, but not the identifier in front of it.
    return tuple(line.split(",")[0] for line in lines)


def _examples(
    root: pathlib.Path,
    folder: str,
    listing: Iterable[tuple[str, Sequence[str]]],
    class_names: Sequence[str],
    *,
    source: pathlib.Path,
) -> FileExamples:
    """Examples from (file in `folder`, classes) pairs."""
    listing = list(listing)
    targets = annotations.to_targets(listing, class_names, source)
    return checked_files(root, folder, [file for file, _ in listing], targets)


def checked_files(
    root: pathlib.Path, folder: str, files: Sequence[str], targets: np.ndarray
) -> FileExamples:
    """Examples whose files are all there."""
    if outside := [file for file in files if readers.leads_out(file)]:
        raise DataError(
            f"The labels of {root} name {outside[0]!r}, which is outside the data set: correct "
            "them, or move the image into it."
        )
    paths = [root / folder / file for file in files]

    @functools.cache
    def present(parent: pathlib.Path) -> set[str]:
        # One listing of a folder, where asking for each of its files takes a network drive minutes.
        return set(os.listdir(parent)) if parent.is_dir() else set()

    if missing := [path for path in paths if path.name not in present(path.parent)]:
        raise DataError(
            f"{len(missing)} of {len(paths)} images named by the labels of {root} are missing, "
            f"first {missing[0]}: unpack them, or remove them from the labels."
        )
    names = tuple(pathlib.PurePosixPath(folder, file).as_posix() for file in files)
    return FileExamples(names, tuple(paths), targets)


def _from_tfds(
    name: str, directory: pathlib.Path, train: Sequence[str], test: Sequence[str]
) -> FileDataset:
    import tensorflow_datasets as tfds

    try:
        feature = tfds.builder_from_directory(directory).info.features["objects"].feature["label"]
        names = [class_name.replace(" ", "_") for class_name in feature.names]

        def examples(splits: Sequence[str]) -> FileExamples:
            files, listing = [], []
            for split in splits:
                for i, record in enumerate(readers.tfds_records(directory, split)):
                    classes = {names[label] for label in record["objects"]["label"]}
                    if classes or name != "coco2014":
                        listing.append((record["image/filename"].decode(), sorted(classes)))
                        files.append(readers.TfdsImage(directory, split, i))
            targets = annotations.to_targets(listing, sorted(names), directory)
            return FileExamples(tuple(n for n, _ in listing), tuple(files), targets)

        parts = examples(train), examples(test)
    except NotImplementedError as error:
        raise readers.tfds_needs_tensorflow(directory) from error
    except Exception as error:  # a missing split or file, other features, broken metadata
        raise DataError(
            f"Cannot read the TensorFlow Datasets folder {directory}: {error!r}. Prepare it with "
            f'file_format="array_record" and the splits {", ".join((*train, *test))}.'
        ) from error
    return FileDataset(name, *parts, tuple(sorted(names)))
