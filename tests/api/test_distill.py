"""`distill`: the command's student for arrays and a folder, and teachers that are no network."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxrobust import UserError, distill, load_classifier, tasks
from jaxrobust.data.augment import draw_views, num_views, plain_view, view_of
from jaxrobust.models import make_classifier
from jaxrobust.models.storage import StoredClassifier, save_classifier
from jaxrobust.recipes import dhkd

pytestmark = pytest.mark.usefixtures("tiny_backbones", "one_device", "unrendered_figures")

SHORT = {
    "num_epochs": 2,
    "batch_size": 16,
    "writers": ("jsonl",),
    "optimizer.decay_epochs": (1,),
    "num_diagnosed": 8,
}
CLASSES = np.array(["dark", "light"])


@pytest.fixture(scope="module")
def arrays():
    """48 images of noise, dark and light, sorted by class, and their labels."""
    random = np.random.default_rng(0)
    ids = np.repeat([0, 1], 24)
    images = random.integers(0, 120, (48, 8, 8, 3)) + 120 * ids[:, None, None, None]
    return images.astype(np.uint8), CLASSES[ids]


def bright(images):
    """Logits by the mean brightness."""
    level = np.asarray(images).mean(axis=(1, 2, 3)) / 255 - 0.45
    return np.stack([-9 * level, 9 * level], axis=1)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, tiny_backbones):
    """Folder of a stored network."""
    module = make_classifier("tiny8", num_classes=2, auxiliary="none", dtype=jnp.float32)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    facts = {"class_names": tuple(CLASSES), "image_shape": (8, 8, 3)}
    stored = StoredClassifier("tiny8", 2, variables, mean=(0.4,) * 3, std=(0.3,) * 3, **facts)
    folder = tmp_path_factory.mktemp("teacher")
    save_classifier(stored, folder)
    return folder


def test_of_a_folder_it_is_the_command(arrays, teacher, tmp_path):
    images, labels = arrays
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = tmp_path / "images" / label / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    config = dhkd.get_config("image_folder")
    changes = {"dataset.path": str(tmp_path / "images"), "dataset.image_size": 8}
    changes |= {"teacher.path": str(teacher), "student.name": "tiny4"}
    config.update_from_flattened_dict({**changes, **SHORT})
    results = tasks.run(config, tmp_path / "command")
    student = distill(
        images, labels, teacher=teacher, student="tiny4", config=SHORT, workdir=tmp_path / "call"
    )
    same = json.loads((tmp_path / "call" / "results.json").read_text())
    assert same["epochs"] == results["epochs"]
    assert same["teacher"] == results["teacher"]
    of_command = load_classifier(tmp_path / "command")
    np.testing.assert_array_equal(student.predict_proba(images), of_command.predict_proba(images))
    assert student.classes.tolist() == ["dark", "light"]


def test_a_function_teaches_what_it_says(arrays, tmp_path):
    """The table holds what the function says of each view, in the order of the steps' numbers."""
    images, labels = arrays
    seen = []

    def teacher(batch):
        seen.append(batch)
        return bright(batch)

    options = {**SHORT, "num_epochs": 8, "optimizer.decay_epochs": (6,)}
    student = distill(images, labels, teacher=teacher, student="tiny4", method="kd", config=options)
    assert np.mean(student.predict(images) == labels) > 0.9
    _, mirrored, _ = seen
    np.testing.assert_array_equal(mirrored, seen[0][:, :, ::-1])
    assert len(seen[0]) == 38 and len(seen[2]) == 10  # a fifth of each class is held out


@pytest.mark.parametrize(("padding", "flip"), [(0, False), (0, True), (1, False), (2, True)])
def test_the_plain_view_is_the_image(padding, flip):
    crops = {"padding": padding, "flip": flip}
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), np.uint8)
    number = plain_view(**crops)
    np.testing.assert_array_equal(view_of(images, np.full(3, number, np.int32), **crops), images)
    drawn = draw_views(jax.random.key(0), 400, **crops)
    assert number in drawn and drawn.max() < num_views(**crops)


def test_stored_logits_teach_as_the_function_that_gave_them(arrays, tmp_path):
    images, labels = arrays
    order = np.random.default_rng(1).permutation(len(images))
    images, ids = images[order], (labels == "light").astype(np.int64)[order]
    test = images[:10], ids[:10]
    options = {**SHORT, "augment.flip": False}
    results, asked = {}, []

    def function(batch):
        asked.append(len(batch))
        return bright(batch)

    for name, teacher in {"logits": bright(images), "function": function}.items():
        student = distill(
            images,
            ids,
            teacher=teacher,
            student="tiny4",
            test=test,
            config=options,
            workdir=tmp_path / name,
        )
        results[name] = json.loads((tmp_path / name / "results.json").read_text())
        assert student.classes.tolist() == [0, 1] and student.predict(images).dtype == np.int64
    assert asked == [48, 10]  # every image once, whatever the number of epochs
    assert results["logits"]["epochs"] == results["function"]["epochs"]
    assert results["logits"]["teacher"] == {"name": "logits"}  # of the test images it says nothing
    assert results["function"]["teacher"]["accuracy"] == 1
    assert "head_cosine" in results["logits"]["last"]["diagnosis"]["distillation"]


def test_soft_labels_of_one_class_each_are_these_labels(arrays, teacher, tmp_path):
    images, labels = arrays
    options = {"teacher": bright(images), "student": "tiny4", "method": "kd"}
    onehot = (labels[:, None] == CLASSES).astype(np.float32)
    results = {}
    for name, given in {"hard": labels, "soft": onehot}.items():
        student = distill(
            images, given, config=SHORT, workdir=tmp_path / name, class_names=CLASSES, **options
        )
        results[name] = json.loads((tmp_path / name / "results.json").read_text())["epochs"]
        assert student.classes.tolist() == CLASSES.tolist()
    hard, soft = (results[name][-1] for name in ("hard", "soft"))
    assert hard["ece"] > 0 and soft["ece"] == pytest.approx(hard["ece"], abs=1e-4)
    with pytest.raises(UserError, match="soft labels"):
        distill(images, onehot, config=SHORT, teacher=teacher, student="tiny4", method="crd")


@pytest.mark.parametrize("is_network", [False, True])
def test_numbers_near_each_other_share_their_programs_to_the_bit(
    arrays, teacher, compiled, is_network, tmp_path
):
    """Of 48 and 45 images; calls with a workdir are compiled for their numbers."""
    images, labels = arrays
    options = {"teacher": teacher if is_network else bright, "student": "tiny4", "config": SHORT}
    options |= {} if is_network else {"method": "kd", "config": {**SHORT, "augment.padding": 1}}
    distill(images, labels, **options)
    with compiled() as names:
        found = distill(images[3:], labels[3:], **options)
    assert not names
    with compiled() as names:
        expected = distill(images[3:], labels[3:], workdir=tmp_path, **options)
    assert "student_epoch" in names
    np.testing.assert_array_equal(found.predict_proba(images), expected.predict_proba(images))


def test_several_teachers_teach_their_mean(arrays, teacher, tmp_path):
    images, labels = arrays

    def dim(batch):
        return -3 * np.asarray(bright(batch))

    for name, given in {"several": [bright, dim], "mean": lambda x: -np.asarray(bright(x))}.items():
        options = {**SHORT, "num_epochs": 1}
        distill(
            images,
            labels,
            teacher=given,
            student="tiny4",
            method="kd",
            config=options,
            workdir=tmp_path / name,
        )
    several, mean = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("several", "mean")
    )
    assert several["epochs"] == mean["epochs"]
    assert several["teacher"]["accuracy"] < 0.5  # the one that is wrong is surer
    student = distill(images, labels, teacher=[teacher, bright], student="tiny4", config=SHORT)
    assert student.classes.tolist() == ["dark", "light"]


def test_without_a_test_set_the_held_out_rows_measure_the_logits(arrays, tmp_path):
    images, labels = arrays
    distill(images, labels, teacher=bright(images), student="tiny4", config=SHORT, workdir=tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["teacher"]["accuracy"] == 1


REFUSED = {
    "features": ({"method": "rkd"}, "method rkd reads a teacher's features too"),
    "labels": ({"method": "cross_entropy"}, "with_baseline=True"),
    "method": ({"method": "dhkdd"}, "did you mean 'dhkd'"),
    "student": ({"student": "tiny5"}, "did you mean"),
    "field": ({"config": {"epochs": 3}}, "epochs"),
    "field of a section": ({"config": {"kd.temprature": 3}}, "did you mean 'kd.temperature'"),
    "recipe": ({"config": dhkd.get_config("digits")}, "dictionary of fields"),
    "value": ({"config": {"num_epochs": 0}}, "num_epochs"),
    "seeds": ({"config": {"num_seeds": 2}}, "call it once per seed"),
    "views": (
        {"config": {"augment.flip": True, "batch_size": 16}},
        "leave them out, or give a function",
    ),
    "fewer logits": ({"teacher": 2 * np.eye(2)}, "labels has 48 entries, but teacher has 2"),
    "other classes": ({"teacher": lambda x: np.zeros((len(x), 3))}, "3\\] for 38 images of 2 cl"),
    "probabilities": ({"teacher": np.full((48, 2), 0.5)}, "logits are probabilities"),
    "no folder": ({"teacher": "nowhere"}, "nowhere holds no model.json"),
    "labels of rows": (
        {"labels": np.eye(2, dtype=int)[np.repeat([0, 1], 24)]},
        "one entry per example",
    ),
    "fewer images": ({"images": np.zeros((3, 8, 8, 3), np.uint8)}, "images has 3 entries, but"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_before_the_teacher_is_asked(arrays, case):
    changes, words = REFUSED[case]
    images, labels = arrays
    given = {"images": images, "labels": labels, "teacher": bright(images), "student": "tiny4"}
    given["config"] = {"batch_size": 16}
    with pytest.raises(UserError, match=words) as caught:
        distill(**{**given, **changes})
    assert "\n" not in str(caught.value)
