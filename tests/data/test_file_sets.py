"""Tests of the layouts of multi-label sets, on small folders made in them."""

import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from jaxrobust.data import FileDataset, list_dataset
from jaxrobust.data.file_sets import COCO_CLASSES, VOC_CLASSES
from jaxrobust.errors import DataError

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _nothing_installed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


def _images(count):
    return RNG.integers(0, 256, (count, 6, 9, 3), dtype=np.uint8)


def _targets(count, num_classes):
    """Every class occurs; the last image has none."""
    targets = (RNG.random((count, num_classes)) < 0.3).astype(np.uint8)
    targets[np.arange(num_classes) % (count - 1), np.arange(num_classes)] = 1
    targets[-1] = 0
    return targets


def _touch(*files):
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")


def _table(path, rows, header="path,labels"):
    path.write_text("\n".join([header, *rows]) + "\n")


def _refused(name, path, words, **options):
    with pytest.raises(DataError, match=words) as error:
        list_dataset(name, path=path, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["coco2014", "imagenet", "nus_wide", "voc2007"])
def test_a_missing_set_says_how_to_get_it(tmp_path, name):
    _refused(name, tmp_path, rf"was not found in .*put .* into datasets/{name}, or set --config")
    _refused(name, None, "was not found in datasets, ~/tensorflow_datasets or other")
    _refused(name, tmp_path / "no", "There is no .*no: correct --config.dataset.path=")


def test_an_unknown_set_is_named():
    _refused("coco", None, "Unknown dataset 'coco': did you mean 'coco2014'")


# -------------------------------------------------------------------------------------------- VOC


@pytest.fixture
def voc(tmp_path, write_voc):
    """(root, targets of trainval, targets of test) of a set in one folder VOC2007."""
    root = tmp_path / "data" / "VOCdevkit" / "VOC2007"
    train, test = _targets(12, 20), _targets(5, 20)
    write_voc(root, "trainval", _images(12), train, difficult={(0, 0)})
    write_voc(root, "test", _images(5), test)
    return root, train, test


def test_voc(voc, tmp_path):
    root, train, test = voc
    for path in (root, root.parent, root.parent.parent):
        dataset = list_dataset("voc2007", path=path)
        np.testing.assert_array_equal(dataset.train.labels, train)  # difficult objects count
        np.testing.assert_array_equal(dataset.test.labels, test)
        assert dataset.class_names == VOC_CLASSES and dataset.num_classes == 20
    assert dataset.train.names[3] == "JPEGImages/trainval_000003.jpg"
    assert dataset.train.files[3] == root / "JPEGImages" / "trainval_000003.jpg"


def test_voc_unpacked_part_by_part(tmp_path, write_voc):
    for split, count in (("trainval", 12), ("test", 3)):
        root = tmp_path / f"VOC{split}2007" / "VOCdevkit" / "VOC2007"
        if split == "test":
            _refused("voc2007", tmp_path, "trainval part of .* 2007, but not the test part")
        write_voc(root, split, _images(count), _targets(count, 20))
    dataset = list_dataset("voc2007", path=tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (12, 3)


def test_voc_without_annotations_reads_the_lists_of_each_class(voc):
    root, train, test = voc
    (root / "Annotations").rename(root / "hidden")
    sets = root / "ImageSets" / "Main"
    for split, targets in (("trainval", train), ("test", test)):
        images = (sets / f"{split}.txt").read_text().split()
        for label, name in enumerate(VOC_CLASSES):
            cells = [{0: "-1", 1: " 1"}[present] for present in targets[:, label]]
            if label == 0 and split == "trainval":
                cells[0] = " 0"  # difficult ones only
            lines = [f"{i} {cell}" for i, cell in zip(images, cells, strict=True)]
            (sets / f"{name}_{split}.txt").write_text("\n".join(lines))
    dataset = list_dataset("voc2007", path=root)
    np.testing.assert_array_equal(dataset.train.labels, train)
    np.testing.assert_array_equal(dataset.test.labels, test)
    (sets / "cow_test.txt").write_text("test_000000 2\n")
    _refused("voc2007", root, r"cow_test.txt: 'test_000000 2' is not an image of test.txt and -1")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("<annotation><object>", r"trainval_000001.xml is damaged \(no element found"),
        ("<annotation><object><name>cot</name></object></annotation>", "'cot': did you mean 'c"),
        (
            '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><object><name>&x;'
            "</name></object></annotation>",
            "trainval_000001.xml declares a document type",
        ),
    ],
)
def test_a_bad_annotation_is_named(voc, content, words):
    root = voc[0]
    (root / "Annotations" / "trainval_000001.xml").write_text(content)
    _refused("voc2007", root, words)


def test_missing_annotations_and_images_are_named(voc):
    root = voc[0]
    (root / "JPEGImages" / "test_000002.jpg").unlink()
    _refused("voc2007", root, r"1 of 5 images named by the labels of .* missing, .*test_000002.jpg")
    (root / "Annotations" / "trainval_000001.xml").unlink()
    _refused("voc2007", root, r"trainval_000001.xml is missing: the data set is incomplete")


def test_images_are_decoded_whole(voc):
    root, train, _ = voc
    dataset = list_dataset("voc2007", path=root)
    loaded = pickle.loads(pickle.dumps(dataset)).decode(4)
    assert loaded.is_multilabel and loaded.mean == (0.0,) * 3 and loaded.std == (1.0,) * 3
    with Image.open(dataset.train.files[2]) as image:
        squeezed = image.resize((4, 4), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(loaded.train.images[2], squeezed)
    np.testing.assert_array_equal(loaded.train.labels, train)
    assert loaded.train.files == dataset.train.names
    dataset.train.files[1].write_bytes(b"no image")
    with pytest.raises(DataError, match=r"JPEGImages/trainval_000001.jpg is not an image"):
        dataset.decode(4)


# ------------------------------------------------------------------------------------------- COCO


def _coco(root, targets):
    """The lists that L2D's authors publish, and empty image files."""
    for split, rows in targets.items():
        names = [f"COCO_{split}2014_{i:012d}.jpg" for i in range(len(rows))]
        _touch(*(root / f"{split}2014" / name for name in names))
        content = [
            {"file_name": name, "labels": np.flatnonzero(row).tolist()}
            for name, row in zip(names, rows, strict=True)
        ]
        (root / f"{split}_anno.json").write_text(json.dumps(content))


def test_coco_from_the_authors_lists(tmp_path):
    assert COCO_CLASSES == tuple(sorted(COCO_CLASSES)) and len(COCO_CLASSES) == 80
    assert [COCO_CLASSES.index(c) for c in ("airplane", "person", "zebra")] == [0, 49, 79]
    root = tmp_path / "datasets" / "coco2014"
    targets = {"train": _targets(9, 80), "val": _targets(4, 80)}
    _coco(root, targets)
    dataset = list_dataset("coco2014")
    # The last image of each has no object.
    np.testing.assert_array_equal(dataset.train.labels, targets["train"][:-1])
    np.testing.assert_array_equal(dataset.test.labels, targets["val"][:-1])
    assert dataset.class_names == COCO_CLASSES
    assert dataset.train.names[0] == "train2014/COCO_train2014_000000000000.jpg"
    (root / "val_anno.json").write_text('[{"file_name": "a.jpg", "labels": [3, 80]}]')
    _refused("coco2014", root, "a.jpg has the label 80, but labels must lie in 0 to 79")


def test_coco_from_the_official_annotations(tmp_path):
    (tmp_path / "annotations").mkdir()
    categories = [{"id": 90, "name": "tooth brush"}, {"id": 7, "name": "cat"}]
    for split in ("train", "val"):
        images = [{"id": i, "file_name": f"{split}{i}.jpg"} for i in (5, 3, 4)]
        _touch(*(tmp_path / f"{split}2014" / image["file_name"] for image in images))
        objects = [(3, 7), (5, 90), (3, 7), (3, 90)]
        content = {
            "categories": categories,
            "images": images,
            "annotations": [{"image_id": i, "category_id": c} for i, c in objects],
        }
        file = tmp_path / "annotations" / f"instances_{split}2014.json"
        file.write_text(json.dumps(content))
    dataset = list_dataset("coco2014", path=tmp_path)
    assert dataset.class_names == ("cat", "tooth_brush")
    assert dataset.test.names == ("val2014/val5.jpg", "val2014/val3.jpg")  # 4 shows nothing
    np.testing.assert_array_equal(dataset.test.labels, [[0, 1], [1, 1]])
    categories.pop()
    file.write_text(json.dumps({**content, "annotations": [], "categories": categories}))
    _refused("coco2014", tmp_path, "have different categories")


@pytest.mark.parametrize(
    "content", ["[", "3", '{"images": []}', '[{"file_name": "a.jpg"}]', '[{"file_name": 1}, 2]']
)
def test_a_bad_annotation_file_of_coco_is_named(tmp_path, content):
    _coco(tmp_path, {"train": _targets(9, 80), "val": _targets(4, 80)})
    (tmp_path / "train_anno.json").write_text(content)
    _refused("coco2014", tmp_path, "train_anno.json is neither an instances file of COCO nor")


# --------------------------------------------------------------------------------------- NUS-WIDE


@pytest.fixture
def nus(tmp_path):
    root = tmp_path / "NUS"
    (root / "TrainTestLabels").mkdir(parents=True)
    (root / "ImageList").mkdir()
    (root / "Concepts81.txt").write_text("sky\nwater\nbook\n")
    parts = {"Train": _targets(5, 3), "Test": _targets(4, 3)}
    for split, targets in parts.items():
        files = [f"actor\\{split}_{i}.jpg" for i in range(len(targets))]
        _touch(*(root / "Flickr" / file.replace("\\", "/") for file in files))
        (root / "ImageList" / f"{split}Imagelist.txt").write_text("\r\n".join(files) + "\r\n")
        for name, column in zip(("sky", "water", "book"), targets.T, strict=True):
            file = root / "TrainTestLabels" / f"Labels_{name}_{split}.txt"
            file.write_text("".join(f"{value}\n" for value in column))
    return root, parts


def test_nus_wide(nus):
    root, parts = nus
    for form in ("authors", "official"):
        if form == "official":
            for folder in ("Groundtruth", "ConceptsList"):
                (root / folder).mkdir()
            (root / "TrainTestLabels").rename(root / "Groundtruth" / "TrainTestLabels")
            (root / "Concepts81.txt").rename(root / "ConceptsList" / "Concepts81.txt")
        dataset = list_dataset("nus_wide", path=root)
        assert dataset.class_names == ("sky", "water", "book")
        np.testing.assert_array_equal(dataset.train.labels, parts["Train"])  # with an empty row
        np.testing.assert_array_equal(dataset.test.labels, parts["Test"])
        assert dataset.train.names[1] == "Flickr/actor/Train_1.jpg"


def test_bad_files_of_nus_wide_are_named(nus):
    root, _ = nus
    file = root / "TrainTestLabels" / "Labels_water_Test.txt"
    content = file.read_text()
    file.write_text(content.replace("0", "2", 1))
    _refused("nus_wide", root, r"water_Test.txt, line \d: a label must be 0 or 1, but is 2")
    file.write_text(content[2:])
    _refused("nus_wide", root, "water_Test.txt has 3 lines for 4 images")
    file.unlink()
    _refused("nus_wide", root, "water_Test.txt is missing: the data set is incomplete")
    (root / "Concepts81.txt").unlink()
    _refused("nus_wide", root, "lacks Concepts81.txt")


# ------------------------------------------------------------------------------ multilabel_folder


def test_a_folder_with_one_table(tmp_path):
    files = [f"images/{i}.png" for i in range(10)]
    _touch(*(tmp_path / file for file in files))
    labels = ["cat; dog", "", "dog", "cow", "dog", "dog", "", "dog", "cat", "dog"]
    rows = [f"{file},{label}" for file, label in zip(files, labels, strict=True)]
    _table(tmp_path / "labels.csv", rows)
    dataset = list_dataset("multilabel_folder", path=tmp_path)
    assert isinstance(dataset, FileDataset) and dataset.class_names == ("cat", "cow", "dog")
    assert (len(dataset.train), len(dataset.test)) == (8, 2)
    assert sorted(dataset.train.names + dataset.test.names) == files
    assert dataset.train.labels.any(axis=0).all()  # the only cow is learned from
    again = list_dataset("multilabel_folder", path=tmp_path, seed=3)
    assert again.test.names == dataset.test.names
    for part in (dataset.train, dataset.test):
        for name, row in zip(part.names, part.labels, strict=True):
            given = labels[files.index(name)].replace(" ", "")
            assert ";".join(np.array(dataset.class_names)[row == 1]) == given

    splits = ["train", "test", *["train"] * 8]
    rows = [f"{row},{split}" for row, split in zip(rows, splits, strict=True)]
    _table(tmp_path / "labels.csv", rows, "path,labels,split")
    dataset = list_dataset("multilabel_folder", path=tmp_path)
    assert dataset.test.names == (files[1],) and not dataset.test.labels.any()


def test_a_folder_with_two_tables_and_a_list_of_classes(tmp_path):
    _touch(*(tmp_path / f"{i}.png" for i in range(3)))
    _table(tmp_path / "train.csv", ["0.png,dog;cat", "1.png"])
    _table(tmp_path / "test.csv", ["2.png,cat"])
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    dataset = list_dataset("multilabel_folder", path=tmp_path)
    assert dataset.class_names == ("dog", "cat")
    np.testing.assert_array_equal(dataset.train.labels, [[1, 1], [0, 0]])
    np.testing.assert_array_equal(dataset.test.labels, [[0, 1]])
    small = list_dataset("multilabel_folder", path=tmp_path, max_train=1)
    assert small.train.names == ("0.png",)  # shows both classes
    _table(tmp_path / "test.csv", ["2.png,cats"])
    words = "test.csv, 2.png: Unknown label 'cats': did you mean 'cat'"
    _refused("multilabel_folder", tmp_path, words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"file,label\n", "labels.csv has no column path and no column labels"),
        (b"", "labels.csv has no column path and no column labels"),
        (b"path,labels\n0.png,a,b\n", "line 2 has 3 cells .* semicolons between the labels"),
        (b'path,labels\n"0.png,a\n', r"labels.csv is not a table from line 2 on"),
        (b"path,labels\n0.png,a\n0.png,b\n", "labels.csv names 0.png twice"),
        (b"path,labels\n0.png,a\n9.png,b\n", r"1 of 2 images named .* missing, first .*9\.png"),
        (b"path,labels\n0.png,\xff\n", r"labels.csv cannot be read \(.*save it as CSV in UTF-8"),
        (b"path,labels,split\n0.png,a,train\n1.png,b,\n", "the split '': it must be train or test"),
        (b"path,labels,split\n0.png,a;b,train\n", "The test part of .* holds no images"),
        (b"path,labels\n0.png,a\n1.png,a\n2.png,a\n", "has 1 class: at least 2 are needed"),
    ],
)
def test_a_bad_table_is_refused_in_words(tmp_path, content, words):
    _touch(*(tmp_path / f"{i}.png" for i in range(3)))
    (tmp_path / "labels.csv").write_bytes(content)
    _refused("multilabel_folder", tmp_path, words)


def test_a_folder_without_a_table_is_refused(tmp_path):
    _refused("multilabel_folder", tmp_path, "There is no file .*train.csv")
    _refused("multilabel_folder", None, "multilabel_folder needs a folder with images and labels")


# --------------------------------------------------------------------------------------- ImageNet

WNIDS = ("n01440764", "n01443537", "n02979186")
SOLUTION = "ILSVRC2012_val_0000000{},{} 1 2 30 40 {} 5 6 70 80 "


def _flat_imagenet(root, solution, wnids=WNIDS):
    """Two training images a class, three validation images in one folder, and their classes."""
    _touch(*(root / "train" / wnid / f"{wnid}_{i}.JPEG" for wnid in wnids for i in range(2)))
    _touch(*(root / "val" / f"ILSVRC2012_val_0000000{i}.JPEG" for i in range(1, 4)))
    rows = [SOLUTION.format(3 - i, wnid, wnid) for i, wnid in enumerate(WNIDS)]
    _table(solution, rows, header="ImageId,PredictionString")


def test_imagenet_in_class_folders(tmp_path):
    root = tmp_path / "imagenet"
    _touch(*(root / "train" / wnid / f"{wnid}_{i}.JPEG" for wnid in WNIDS[::-1] for i in (0, 1)))
    _touch(root / "val" / WNIDS[2] / "b.JPEG", root / "val" / WNIDS[0] / "a.JPEG")
    _touch(root / "test" / "ILSVRC2012_test_00000001.JPEG")  # unlabelled, not read
    for path in (root, tmp_path):
        dataset = list_dataset("imagenet", path=path)
        assert dataset.class_names == WNIDS and dataset.name == "imagenet"
        np.testing.assert_array_equal(dataset.train.labels, [0, 0, 1, 1, 2, 2])
        np.testing.assert_array_equal(dataset.test.labels, [0, 2])
        assert dataset.test.names == (f"val/{WNIDS[0]}/a.JPEG", f"val/{WNIDS[2]}/b.JPEG")
    _touch(root / "val" / "n09999999" / "c.JPEG")
    _refused("imagenet", root, "c.JPEG belongs to the class 'n09999999', which is not one of the 3")


@pytest.mark.parametrize("solution", ["LOC_val_solution.csv", "ILSVRC/Data/CLS-LOC/val", "CLS-LOC"])
def test_imagenet_as_kaggle_packs_it(tmp_path, solution):
    root = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    table = {"CLS-LOC": root, "ILSVRC/Data/CLS-LOC/val": root / "val"}.get(solution, tmp_path)
    _flat_imagenet(root, tmp_path / "table.csv")
    (tmp_path / "table.csv").rename(table / "LOC_val_solution.csv")
    for path in (tmp_path, root):
        test = list_dataset("imagenet", path=path).test
        np.testing.assert_array_equal(test.labels, [0, 1, 2])
        assert [name[-6] for name in test.names] == ["3", "2", "1"]


def test_faults_of_imagenet_are_named(tmp_path):
    _refused("imagenet", tmp_path, r"ImageNet was not found in .*put train/<wnid>/\*.JPEG and val/")
    solution = tmp_path / "LOC_val_solution.csv"
    _flat_imagenet(tmp_path, tmp_path / "elsewhere")
    _refused("imagenet", tmp_path, "val has no folder for each class and there is no LOC_val_sol")
    right = (tmp_path / "elsewhere").read_text()
    header, *rows = right.splitlines(keepends=True)
    for content, words in (
        (header + rows[0], "LOC_val_solution.csv lacks 2 of the 3 images"),
        (header + "ILSVRC2012_val_00000001,", "line 2: not an image and its class"),
        ("id,label\n", "must start with the line ImageId,PredictionString"),
        (right.replace("n02979186", "n3"), "belongs to the class 'n3'"),
    ):
        solution.write_text(content)
        _refused("imagenet", tmp_path, words)
    (tmp_path / "train" / "n01484850").mkdir()
    solution.write_text(right)
    _refused("imagenet", tmp_path, "imagenet has no training images of n01484850")


def test_webvision_has_the_first_fifty_classes(tmp_path, write_webvision):
    root = tmp_path / "datasets" / "webvision"
    classes = [*range(50), 49, 50, 999]
    write_webvision(root, _images(len(classes)), classes)
    for dataset in (list_dataset("mini_webvision", path=root), list_dataset("mini_webvision")):
        assert dataset.num_classes == 50 and dataset.class_names[-1] == "49"
        for part in (dataset.train, dataset.test):
            np.testing.assert_array_equal(part.labels, [*range(50), 49])
        assert dataset.train.names[-1] == "google/q0049/50.jpg"
        assert dataset.test.names[-1] == "val_images_256/val50.jpg"
        assert all(file.is_file() for part in (dataset.train, dataset.test) for file in part.files)
    lines = [f"n{i:08} crane, bird" for i in range(1000)]
    (root / "info" / "synsets.txt").write_text("\n".join(lines))
    names = list_dataset("mini_webvision", path=root).class_names
    assert names[:2] == ("n00000000 crane", "n00000001 crane") and len(names) == 50
    _table(root / "info" / "val_filelist.txt", ["val1.jpg"], header="val0.jpg 0")
    _refused("mini_webvision", root, r"val_filelist.txt: 'val1.jpg' is not a file and the number")
    (root / "info" / "val_filelist.txt").unlink()
    _refused("mini_webvision", root, "val_filelist.txt is missing")
    (root / "google" / "q0003" / "3.jpg").unlink()
    _refused("mini_webvision", root, r"1 of 51 images named .* are missing, first .*q0003/3\.jpg")


def test_webvision_as_class_folders(tmp_path):
    files = [f"{part}/{name}/0.jpg" for part in ("train", "val") for name in ("a", "b")]
    _touch(*(tmp_path / file for file in files))
    dataset = list_dataset("mini_webvision", path=tmp_path)
    assert dataset.class_names == ("a", "b")
    assert dataset.train.names + dataset.test.names == tuple(files)
    (tmp_path / "empty").mkdir()
    words = (
        r"WebVision 1\.0 was not found in .*: put info/train_filelist_google.txt, .*webvision, or"
    )
    _refused("mini_webvision", tmp_path / "empty", words)


# --------------------------------------------------------------------------- TensorFlow Datasets


@pytest.mark.parametrize("dataset_name", ["coco2014", "voc2007"])
def test_tfds(tmp_path, dataset_name):
    import tensorflow_datasets as tfds

    splits = ["train", "validation"] + ["test"] * (dataset_name == "voc2007")
    names = ["hot dog", "cat"]
    labels = [[0, 1, 1], [], [1]]
    images = {split: _images(3) for split in splits}

    class Tiny(tfds.core.GeneratorBasedBuilder):
        name = f"tiny_{dataset_name}"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="png"),
                "image/filename": tfds.features.Text(),
                "objects": tfds.features.Sequence({"label": tfds.features.ClassLabel(names=names)}),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split):
            for i, (image, objects) in enumerate(zip(images[split], labels, strict=True)):
                content = io.BytesIO()
                Image.fromarray(image).save(content, "PNG")
                content.seek(0)
                yield (
                    i,
                    {
                        "image": content,
                        "image/filename": f"{split}{i}",
                        "objects": [{"label": label} for label in objects],
                    },
                )

    folder = tmp_path / "tensorflow_datasets"
    Tiny(data_dir=folder / "made", file_format="array_record").download_and_prepare()
    where = folder / dataset_name.replace("2", "/2")
    where.mkdir(parents=True)
    (folder / "made" / f"tiny_{dataset_name}" / "1.0.0").rename(where / "1.0.0")
    dataset = list_dataset(dataset_name, path=folder)
    assert dataset.class_names == ("cat", "hot_dog")
    kept = {"coco2014": 2, "voc2007": 6}[dataset_name]  # VOC keeps images without objects
    assert len(dataset.train) == kept and len(dataset.test) == kept // (
        1 + (dataset_name == "voc2007")
    )
    for file, image_name in zip(dataset.train.files, dataset.train.names, strict=True):
        split, i = image_name[:-1], int(image_name[-1])
        with Image.open(io.BytesIO(pickle.loads(pickle.dumps(file)).read_bytes())) as image:
            np.testing.assert_array_equal(np.asarray(image), images[split][i])
        row = dataset.train.labels[dataset.train.names.index(image_name)]
        assert set(np.flatnonzero(row)) == {1 - label for label in labels[i]}
    assert dataset.decode(5).train.images.shape == (kept, 5, 5, 3)
    (where / "1.0.0" / "dataset_info.json").write_text("{")
    _refused(dataset_name, folder, r"Cannot read the TensorFlow Datasets folder .*1\.0\.0: ")
