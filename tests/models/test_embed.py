"""Features of images by a frozen network: any image, any folder, and what a kill leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxrobust
from jaxrobust.commands import cli
from jaxrobust.data import load_features
from jaxrobust.errors import DataError, UserError
from jaxrobust.models import embedding, make_classifier
from jaxrobust.models.embedding import Features, embed
from jaxrobust.models.storage import StoredClassifier, save_classifier


def _colours(images):
    """A backbone of six features: the colours of the left and of the right half, 0 to 1."""
    halves = np.split(np.asarray(images, np.float32) / 255, 2, axis=2)
    return np.concatenate([half.mean((1, 2)) for half in halves], axis=1)


def _drawn(module):
    """Variables of random positive numbers, without compiling an initialisation."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: random.uniform(0.1, 1, x.shape).astype(np.float32), shapes)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home" / ".cache" / "jaxrobust" / "features"


@pytest.fixture(scope="module")
def network(tmp_path_factory, tiny_backbones):
    """Folder of a stored network of four features."""
    folder = tmp_path_factory.mktemp("network") / "tiny"
    module = make_classifier("tiny4", num_classes=2, auxiliary="none", dtype=jnp.float32)
    variables = _drawn(module)
    statistics = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    save_classifier(StoredClassifier("tiny4", 2, variables, **statistics), folder)
    return str(folder)


def _write(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


@pytest.fixture
def photographs(tmp_path):
    """Eleven images of noise in one folder."""
    random = np.random.default_rng(0)
    for i in range(11):
        _write(tmp_path / "photos" / f"{i:02}.png", random.integers(0, 256, (9, 9, 3), np.uint8))
    return tmp_path / "photos"


def test_images_of_every_kind_are_read_and_cropped_to_the_middle(tmp_path):
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    left_red = np.where(np.arange(8)[None, :, None] < 4, red, 0).astype(np.uint8)
    upper_red = left_red.transpose(1, 0, 2)
    orientation = Image.Exif()
    orientation[0x0112] = 8  # turned to the left by whoever shows it: its top becomes its left
    folder = tmp_path / "kinds"
    folder.mkdir()
    Image.fromarray(upper_red).save(folder / "exif.png", exif=orientation)
    _write(folder / "grey.png", np.full((8, 8), 51, np.uint8))
    _write(folder / "grey16.png", np.full((8, 8), 51 * 257, np.uint16))
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(folder / "print.jpg", quality=100)
    Image.fromarray(red).quantize(2).save(folder / "table.png")
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(folder / "through.png")
    Image.fromarray(np.hstack([red * 0, left_red, red * 0])).save(folder / "wide.png")
    found = embed(folder, backbone=_colours, size=8)
    black, grey, white, of_red = (0, 0, 0), (0.2,) * 3, (1, 1, 1), (1, 0, 0)
    expected = {
        "exif.png": (of_red, black),
        "grey.png": (grey, grey),
        "grey16.png": (grey, grey),
        "print.jpg": (of_red, of_red),
        "table.png": (of_red, of_red),
        "through.png": (white, white),
        "wide.png": (of_red, black),
    }
    assert found.files == tuple(expected)
    assert found.array.dtype == np.float16 and found.array.shape == (7, 1, 6)
    # JPEG and a table of two colours are off by a shade.
    np.testing.assert_allclose(
        found.array[:, 0], np.reshape(list(expected.values()), (7, 6)), atol=0.02
    )
    assert (found.labels, found.split, found.label_names) == (None, None, ())


def test_views_are_the_image_its_mirror_and_corners():
    image = np.zeros((1, 16, 16, 3), np.uint8)
    image[:, :8, :8, 0] = image[:, 8:, :8, 1] = image[:, :8, 8:, 2] = 255
    pixels = {}

    def backbone(images):
        pixels["all"] = images
        return images.reshape(len(images), -1)[:, :1]

    found = embed(image, backbone=backbone, views=10, size=14, batch_size=1)
    assert found.array.shape == (1, 10, 1)
    views = pixels["all"]
    assert views.shape == (10, 14, 14, 3)
    for plain, mirrored in ((0, 1), (2, 6), (3, 7), (4, 8), (5, 9)):
        np.testing.assert_array_equal(views[plain][:, ::-1], views[mirrored])
    # 14 pixels are 7/8 of the image's 16, which need no resampling.
    top, bottom = image[0, :14], image[0, 2:]
    np.testing.assert_array_equal(views[2], top[:, :14])
    np.testing.assert_array_equal(views[3], top[:, 2:])
    np.testing.assert_array_equal(views[4], bottom[:, :14])
    np.testing.assert_array_equal(views[5], bottom[:, 2:])


def test_arrays_lists_and_pillow_images_are_one_and_the_same(photographs):
    paths = sorted(photographs.iterdir())
    images = [Image.open(path) for path in paths]
    array = np.stack([np.asarray(image) for image in images])
    expected = embed(photographs, backbone=_colours, size=8)
    for same in (
        *(paths, list(map(str, paths)), images, array, array / 255.0, jnp.asarray(array)),
        *(array.astype(np.float32), array.astype(np.int64), list(array)),
    ):
        found = embed(same, backbone=_colours, size=8)
        np.testing.assert_array_equal(found.array, expected.array)
    one = embed(paths[3], backbone=_colours, size=8)
    np.testing.assert_array_equal(one.array, expected.array[3:4])
    assert one.files == (paths[3].name,)
    of_two_sizes = embed([array[0], images[1].resize((20, 10))], backbone=_colours, size=8)
    np.testing.assert_array_equal(of_two_sizes.array[0], expected.array[0])
    grey = embed(array[..., 0], backbone=_colours, size=8).array
    np.testing.assert_array_equal(grey[..., :2], grey[..., 1:3])


def test_data_sets_of_hugging_face_and_tensors_of_pytorch_are_embedded(photographs):
    expected = embed(photographs, backbone=_colours, size=8).array
    paths = sorted(photographs.iterdir())
    datasets = pytest.importorskip("datasets")
    columns = datasets.Features({"image": datasets.Image()})
    dataset = datasets.Dataset.from_dict({"image": list(map(str, paths))}, features=columns)
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(np.stack([np.asarray(Image.open(path)) for path in paths]))
    first = tensor.movedim(-1, 1)  # channels first
    for same in (dataset, dataset["image"], tensor, list(tensor), tensor / 255, first, list(first)):
        np.testing.assert_array_equal(embed(same, backbone=_colours, size=8).array, expected)


def test_a_path_of_no_file_is_no_corrupt_image(photographs):
    paths = [*sorted(photographs.iterdir()), photographs / "99.png"]
    for on_corrupt in embedding.ON_CORRUPT:
        with pytest.raises(DataError, match=r"There is no file .*99\.png; correct"):
            embed(paths, backbone=_colours, size=8, on_corrupt=on_corrupt)


def test_a_network_is_compiled_once_for_all_calls(cache, photographs, network):
    options = {"backbone": network, "size": 8}
    embed(photographs, **options)
    traced = embedding._pooled._cache_size()
    embed(np.zeros((2, 9, 9, 3), np.uint8), **options)
    assert embedding._pooled._cache_size() == traced


def test_labels_and_parts_of_a_folder_are_kept(tmp_path):
    blank = np.zeros((4, 4, 3), np.uint8)
    for file in ("train/dog/b.png", "train/cat/a.png", "test/dog/c.png", "unlabeled/d.png"):
        _write(tmp_path / file, blank)
    found = embed(tmp_path, backbone=_colours, size=4)
    assert found.files == (
        "train/cat/a.png",
        "train/dog/b.png",
        "test/dog/c.png",
        "unlabeled/d.png",
    )
    assert found.labels.tolist() == [0, 1, 1, -1] and found.label_names == ("cat", "dog")
    assert found.split == ("train", "train", "test", "unlabeled")
    classes = embed(tmp_path / "train", backbone=_colours, size=4)
    assert classes.labels.tolist() == [0, 1] and classes.split is None
    alone = embed(tmp_path / "train" / "dog", backbone=_colours, size=4)
    assert alone.files == ("b.png",) and alone.labels is None


def test_all_broken_files_are_named_before_any_is_embedded(tmp_path, write_images):
    write_images(tmp_path / "a", 4, (8, 8), 0)
    (tmp_path / "a" / "1.png").write_bytes(b"nothing")
    (tmp_path / "a" / "3.png").write_bytes(b"")
    asked = []
    with pytest.raises(DataError, match=r"Cannot decode 2 images: .*1\.png, .*3\.png\. Replace"):
        embed(tmp_path / "a", backbone=asked.append, size=8)
    assert not asked
    assert len(embed(tmp_path / "a", backbone=_colours, size=8, on_corrupt="skip")) == 2


def test_a_file_that_cannot_be_decoded_is_named(photographs, capsys):
    (photographs / "03.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"03\.png is not an image of a known format"):
        embed(photographs, backbone=_colours, size=8)
    found = embed(photographs, backbone=_colours, size=8, on_corrupt="skip")
    assert "skipped: " in capsys.readouterr().err
    assert len(found) == 10 and "03.png" not in found.files
    assert found.ids.tolist() == [0, 1, 2, *range(4, 11)]


def test_features_come_back_from_their_file(tmp_path, photographs):
    _write(tmp_path / "set" / "train" / "cat" / "été.png", np.zeros((4, 4, 3), np.uint8))
    for folder in (photographs, tmp_path / "set"):
        saved = embed(folder, backbone=_colours, size=8, views=2)
        saved.save(tmp_path / "new" / "features.npz")
        found = Features.load(tmp_path / "new" / "features.npz")
        for name, value in vars(saved).items():
            np.testing.assert_array_equal(getattr(found, name), value)
    with pytest.raises(DataError, match=r"There is no file .*absent\.npz"):
        Features.load(tmp_path / "absent.npz")
    np.savez(tmp_path / "other.npz", embeddings=saved.array)
    with pytest.raises(DataError, match=r"other\.npz was not written by"):
        Features.load(tmp_path / "other.npz")


def test_the_file_is_a_data_set(tmp_path):
    for i, file in enumerate(("train/cat/a", "train/dog/b", "test/cat/c", "test/dog/d")):
        _write(tmp_path / "set" / f"{file}.png", np.full((4, 4, 3), 9 * i, np.uint8))
    saved = embed(tmp_path / "set", backbone=_colours, size=4, views=2)
    saved.save(tmp_path / "features.npz")
    found = load_features(tmp_path / "features.npz")
    assert found.class_names == ("cat", "dog")
    assert found.test.labels.tolist() == [0, 1]
    assert found.train.files == ("train/cat/a.png", "train/dog/b.png")
    np.testing.assert_array_equal(found.train.read_all(), saved.array[:2])


def test_what_was_killed_goes_on_and_what_is_whole_is_read(
    cache, photographs, network, monkeypatch
):
    monkeypatch.setattr(embedding, "_CHUNK", 4)
    options = {"backbone": network, "size": 8, "views": 2, "batch_size": 2}
    whole = embed(photographs, **options)
    (kept,) = cache.iterdir()
    for file in kept.iterdir():
        file.unlink()
    views, opened = embedding._views, []

    def killed(found, i, **more):
        opened.append(i)
        if i == 9:
            raise KeyboardInterrupt
        return views(found, i, **more)

    monkeypatch.setattr(embedding, "_views", killed)
    with pytest.raises(KeyboardInterrupt):
        embed(photographs, **options)
    monkeypatch.setattr(embedding, "_views", lambda *a, **k: opened.append(a[1]) or views(*a, **k))
    opened.clear()
    resumed = embed(photographs, **options)
    assert sorted(opened) == [8, 9, 10]  # two chunks of four were saved
    np.testing.assert_array_equal(resumed.array, whole.array)
    opened.clear()
    again = embed(photographs, **options)
    assert not opened and again.weights_hash == whole.weights_hash
    np.testing.assert_array_equal(again.array, whole.array)
    # Other pixels, another size or other weights are other features.
    _write(photographs / "00.png", np.zeros((9, 9, 3), np.uint8))
    assert embed(photographs, **options).data_hash != whole.data_hash
    assert len(list(cache.iterdir())) == 2


def test_a_bad_file_is_named_from_the_cache_too(cache, photographs, network, capsys):
    (photographs / "03.png").write_bytes(b"no image")
    options = {"backbone": network, "size": 8}
    for _ in range(2):
        assert len(embed(photographs, on_corrupt="skip", **options)) == 10
        assert "03.png" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"03\.png"):
        embed(photographs, **options)


def test_the_command_writes_the_file(cache, photographs, network, tmp_path, capsys):
    out = tmp_path / "features.npz"
    arguments = [str(photographs), f"--out={out}", f"--backbone={network}", "--size=8", "--views=2"]
    assert cli.main(["embed", *arguments]) == 0
    assert "11 x 2 x 4 features" in capsys.readouterr().out
    expected = embed(photographs, backbone=network, size=8, views=2).array
    np.testing.assert_array_equal(Features.load(out).array, expected)
    assert cli.main(["embed", *arguments, "--backbone=nobody"]) == 2
    assert "There is no backbone 'nobody'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ("/no/folder", {}, "There is no folder /no/folder"),
        (np.zeros((32, 32, 3), np.uint8), {}, r"\(32, 32, 3\), one image; give images\[None\]"),
        (Image.new("RGB", (4, 4)), {}, r"one image; give a list of images, \[images\]"),
        ([], {}, "no images to embed"),
        ([3], {}, r"images\[0\] must be a Pillow image, a path or \[H, W"),
        (np.full((2, 4, 4, 3), 2.5), {}, "has pixels from 2.5 to 2.5; give uint8"),
        (np.zeros((2, 4, 4, 5), np.uint8), {}, r"got \(2, 4, 4, 5\)"),
        (np.zeros((2, 4, 4), np.uint8), {"views": 11}, "views must lie in 1 to 10"),
        (np.zeros((2, 4, 4), np.uint8), {"size": 0}, "must be 1 or more"),
        (np.zeros((2, 4, 4), np.uint8), {"on_corrupt": "skp"}, "did you mean 'skip'"),
        (np.zeros((2, 4, 4), np.uint8), {"backbone": lambda x: x}, r"must return \[64, D\]"),
        (
            np.ones((2, 4, 4)),
            {"backbone": lambda x: 1e6 * _colours(x)},
            r"of images\[0\] to images\[1\] are not finite in float16",
        ),
    ],
)
def test_mistakes_are_told_in_one_sentence(images, options, message):
    with pytest.raises(UserError, match=message):
        embed(images, **{"backbone": _colours, "size": 4, **options})


def test_the_package_has_the_function(photographs):
    found = jaxrobust.embed(photographs, backbone=_colours, size=8)
    assert isinstance(found, jaxrobust.Features) and len(found) == 11
