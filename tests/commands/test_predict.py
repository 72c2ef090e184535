"""Tables of predictions are what the classifier predicts, whatever the images and features."""

import csv
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxrobust import embed, load_classifier, tasks
from jaxrobust.commands import cli
from jaxrobust.models import make_classifier, make_multilabel_classifier
from jaxrobust.models.storage import StoredClassifier, save_classifier
from jaxrobust.recipes import dpc


def stored(folder, *, decoder=None, **facts):
    """A folder with a classifier of three classes, drawn at random."""
    options = {"num_classes": 3, "dtype": jnp.float32}
    if decoder is None:
        module = make_classifier("tiny4", auxiliary="none", **options)
    else:
        module = make_multilabel_classifier("tiny4", decoder=decoder, **options)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: random.uniform(0.1, 1, x.shape).astype(np.float32), shapes)
    facts = {"image_shape": (8, 8, 3), "mean": (0.5,) * 3, "std": (0.25,) * 3} | facts
    names = ("ant", "bee", "=cat")
    save_classifier(
        StoredClassifier("tiny4", 3, variables, names, decoder=decoder, **facts), folder
    )
    return folder


@pytest.fixture
def photographs(tmp_path):
    """Two classes of photographs, of several sizes, one of them grey."""
    random = np.random.default_rng(0)
    for i, shape in enumerate([(8, 8, 3), (8, 8), (16, 16, 3), (9, 13, 3)]):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(path)
    return tmp_path / "photos"


def table(*arguments):
    """The rows that the command writes."""
    out = pathlib.Path(arguments[0]).parent / "out" / "table.csv"
    assert cli.main(["predict", *map(str, arguments), f"--out={out}"]) == 0
    with open(out, newline="") as file:
        return list(csv.DictReader(file))


def refused(capsys, *arguments):
    """What the command says on its way out."""
    assert cli.main(["predict", *map(str, arguments)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]  # on a slow machine below a progress bar
    assert error.startswith("jaxrobust: ")
    return error


def test_images_of_any_kind_in_the_size_of_the_classifier(tiny_backbones, photographs, tmp_path):
    folder = stored(tmp_path / "teacher")
    rows = table(folder, photographs, "--top=2")
    assert [row["file"] for row in rows] == ["a/0.png", "a/2.png", "b/1.png", "b/3.png"]
    opened = [Image.open(photographs / row["file"]).convert("RGB") for row in rows]
    wide = opened[3].crop((2, 0, 11, 9))  # the centre square
    images = [
        np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR)) for image in (*opened[:3], wide)
    ]
    probs = load_classifier(folder).predict_proba(np.stack(images))
    order = np.argsort(-probs, axis=1)
    names = np.array(["ant", "bee", "'=cat"])  # which no spreadsheet may evaluate
    for k, (label, prob) in enumerate([("class", "probability"), ("class_2", "probability_2")]):
        assert [row[label] for row in rows] == names[order[:, k]].tolist()
        written = [float(row[prob]) for row in rows]
        # Pillow's crop and resize in one step rounds some pixels of the wide one differently.
        np.testing.assert_allclose(written[:3], np.sort(probs, axis=1)[:3, -1 - k], rtol=1e-6)
        np.testing.assert_allclose(written[3], np.sort(probs, axis=1)[3, -1 - k], atol=0.05)


def test_several_labels(tiny_backbones, photographs, tmp_path):
    folder = stored(tmp_path / "student", decoder={"width": 8, "num_heads": 2, "hidden": 8})
    rows = table(folder, photographs)
    images = np.stack([np.asarray(Image.open(photographs / "a/0.png"))])
    (probs,) = load_classifier(folder).predict_proba(images)
    assert (probs > 0.5).any()
    order = [i for i in np.argsort(-probs, kind="stable") if probs[i] > 0.5]
    names = ["ant", "bee", "'=cat"]
    assert rows[0]["classes"].split(";") == [names[i] for i in order]
    np.testing.assert_allclose(
        [float(x) for x in rows[0]["probabilities"].split(";")], probs[order], rtol=1e-6
    )


@pytest.fixture(scope="module")
def features_run(tmp_path_factory, tiny_backbones, one_device):
    """A short run on features of coloured squares: workdir, folder of images, file of features."""
    root = tmp_path_factory.mktemp("features")
    backbone = stored(root / "backbone")
    random = np.random.default_rng(0)
    for i in range(24):
        path = root / "images" / ("dark", "light")[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        low = 180 * (i % 2)
        Image.fromarray(random.integers(low, low + 60, (8, 8, 3), np.uint8)).save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(root))
        features = embed(root / "images", backbone=str(backbone), size=8)
        features.save(root / "features.npz")
        config = dpc.get_config("digits")
        config.update_from_flattened_dict(
            {
                "dataset.name": "features",
                "dataset.features": str(root / "features.npz"),
                "model.name": "linear",
                "num_epochs": 2,
                "dpc.warm_up": 1,
                "batch_size": 8,
            }
        )
        config.writers = ("jsonl",)
        tasks.run(config, root / "run")
        yield root


def test_features_and_the_images_they_are_of(features_run):
    root = features_run
    of_file = table(root / "run", root / "features.npz")
    classifier = load_classifier(root / "run" / "classifier")
    assert classifier.embedding.size == 8
    with np.load(root / "features.npz") as arrays:
        assert [row["file"] for row in of_file] == arrays["files"].tolist()
        expected = classifier.predict(arrays["features"])
        np.save(root / "plain.npy", arrays["features"][:, 0])
        np.savez(root / "other.npz", **{**arrays, "weights_hash": "0"})
        np.save(root / "short.npy", arrays["features"][..., :3])
    assert [row["class"] for row in of_file] == expected.tolist()
    assert table(root / "run", root / "images") == of_file
    plain = table(root / "run", root / "plain.npy")
    assert plain == [{**row, "file": str(i)} for i, row in enumerate(of_file)]


def test_other_features_are_refused(features_run, capsys):
    root = features_run
    assert "are from another network" in refused(capsys, root / "run", root / "other.npz")
    assert "have 3 dimensions, but" in refused(capsys, root / "run", root / "short.npy")
    assert "no file or folder" in refused(capsys, root / "run", root / "absent")


def test_images_are_embedded_by_the_same_network_or_not_at_all(features_run, capsys, monkeypatch):
    root = features_run
    monkeypatch.setattr("jaxrobust.models.pretrained.weights_hash", lambda network: "0")
    assert "has different weights" in refused(capsys, root / "run", root / "images")
    monkeypatch.setattr("jaxrobust.methods.classifiers.Embedding", lambda **facts: None)
    assert "from a network that it does not name" in refused(capsys, root / "run", root / "images")


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no classifier", "holds no classifier"),
        ("no folder", "There is no folder"),
        ("no images", "There are no images in"),
        ("a file", "was trained on images; give a folder"),
        ("no size", "does not state the size of its images"),
        ("not square", "13 x 9 pixels, but this classifier was trained on images of 6 x 8"),
        ("broken", "broken.png"),
        ("top", "top must lie in 1 to 3"),
    ],
)
def test_what_does_not_fit_is_refused(case, words, tiny_backbones, photographs, tmp_path, capsys):
    shapes = {"no size": (), "not square": (8, 6, 3)}
    folder = stored(tmp_path / "model", image_shape=shapes.get(case, (8, 8, 3)))
    source, options = photographs, ["--top=4"] if case == "top" else []
    if case == "no classifier":
        folder = photographs
    elif case == "no folder":
        source = tmp_path / "nowhere"
    elif case == "no images":
        source = folder
    elif case == "a file":
        source = photographs / "a" / "0.png"
    elif case == "not square":
        for path in (photographs / "a").iterdir():
            path.unlink()
        (photographs / "b" / "1.png").unlink()
    elif case == "broken":
        (photographs / "a" / "broken.png").write_bytes(b"no image")
    assert words in refused(capsys, folder, source, *options)
