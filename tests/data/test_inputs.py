"""What people have becomes arrays, or is refused in one sentence that names the first wrong row."""

import re

import jax.numpy as jnp
import numpy as np
import pandas
import PIL.Image
import pytest

from jaxrobust import UserError
from jaxrobust.data import annotation_inputs, image_inputs, inputs

NAN = float("nan")
PROBS = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])


class HuggingFace:
    """A `datasets.Dataset` as far as it is looked at; the real one is tested where installed."""

    def __init__(self, **columns):
        self.columns = columns
        self.column_names = list(columns)
        self.features = {name: type("ClassLabel", (), {"names": None})() for name in columns}

    def __getitem__(self, name):
        return self.columns[name]


def test_classes_are_sorted_values():
    cases = {
        "ids": ([0, 2, 1, 2], [0, 1, 2], [0, 2, 1, 2]),
        "text": (["cat", "ant", "cat"], ["ant", "cat"], [1, 0, 1]),
        "bool": ([True, False], [False, True], [1, 0]),
        "any integers": ([-1, 1, 1], [-1, 1], [0, 1, 1]),
        "whole floats": ([2.0, 5.0], [2.0, 5.0], [0, 1]),
        "a column": (np.array([[3], [7]]), [3, 7], [0, 1]),
        "objects": (np.array(["b", "a"], object), ["a", "b"], [1, 0]),
        "jax": (jnp.array([1, 0]), [0, 1], [1, 0]),
    }
    for name, (labels, classes, ids) in cases.items():
        found = inputs.as_labels(labels)
        assert found.classes.tolist() == classes, name
        assert found.ids.tolist() == ids and found.ids.dtype == np.int32, name
        assert found.values(found.ids).tolist() == np.ravel(labels).tolist(), name
        assert found.values(found.ids).dtype.kind == found.classes.dtype.kind


def test_whole_numbers_below_the_number_of_columns_are_class_ids():
    found = inputs.as_labels(np.array([0, 2, 0], np.uint8), num_columns=4)
    assert found.ids.tolist() == [0, 2, 0] and found.classes.dtype == np.uint8
    assert found.names == ("0", "1", "2", "3")
    assert inputs.as_labels([1, 2, 3], num_columns=3).ids.tolist() == [0, 1, 2]
    assert inputs.as_labels([-1, 1], num_columns=2).ids.tolist() == [0, 1]


def test_classes_may_be_given():
    found = inputs.as_labels(["b", "a"], class_names=["b", "c", "a"])
    assert found.ids.tolist() == [0, 2] and found.names == ("b", "c", "a")
    found = inputs.as_labels([0, 2], class_names=["cat", "dog", "fox"])
    assert found.ids.tolist() == [0, 2] and found.names == ("cat", "dog", "fox")
    assert found.values(found.ids).tolist() == [0, 2]
    assert inputs.as_labels([-1, 0, 1], class_names=[-1, 0, 1]).ids.tolist() == [0, 1, 2]


def test_floats_whose_rows_sum_to_one_are_soft_labels():
    table = [[0.2, 0.5, 0.3], [0.9, 0.1, 0.0]]
    found = inputs.as_labels(table)
    assert found.ids.tolist() == [1, 0] and found.classes.tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.probs, table, rtol=1e-6)
    named = inputs.as_labels(pandas.DataFrame(table, columns=["ant", "bee", "cat"]))
    assert named.values(named.ids).tolist() == ["bee", "ant"]
    # A class that is nowhere the most probable is left out.
    present, among = found.of_present()
    assert present.tolist() == [0, 1] and among.names == ("0", "1")
    np.testing.assert_allclose(among.probs, [[2 / 7, 5 / 7], [0.9, 0.1]], rtol=1e-6)
    assert inputs.as_labels([1, 0]).probs is None


WRONG_LABELS = {
    "beyond the classes": (([0, 1, 12], {"num_columns": 10}), "labels[2] is 12, but there are 10"),
    "below": (([0, 1, -1], {"num_columns": 10}), "labels[2] is -1"),
    "a hole at 0": (([0, 1, 3], {"num_columns": 3}), "labels[2] is 3"),
    "fewer classes than columns": ((["a", "b"], {"num_columns": 3}), "there are 3 columns"),
    "unlabelled": (([0, -1, 1], {}), "labels[1] is -1; leave out examples without a label"),
    "one class": (([1, 1], {}), "only the class 1"),
    "none": (([], {}), "holds nothing"),
    "missing": (([1.0, NAN], {}), "labels[1] is nan; leave out"),
    "missing text": ((["a", None], {}), "labels[1] is None; leave out"),
    "missing object": ((np.array(["a", NAN], object), {}), "labels[1] is nan; leave out"),
    "fractions": (([0, 0.5], {}), "labels[1] is 0.5; classes are whole numbers"),
    "mixed": ((np.array(["a", 1], object), {}), "labels[1] is 1, but the ones before are str"),
    "of a strange type": ((np.array([1, {}], object), {}), "labels[1] is {}"),
    "one-hot": ((np.eye(3, dtype=int), {}), "one entry per example, got (3, 3); for one-hot rows"),
    "not probabilities": (([[0.5, 0.2], [0.5, 0.5]], {}), "labels[0] sums to 0.7, not to 1"),
    "soft, of one class": (([[0.8, 0.2], [0.9, 0.1]], {}), "only the class 0"),
    "votes as floats": (([[0.0, 1.0], [1.0, NAN]], {}), "call jaxrobust.consensus(votes)"),
    "soft, with other names": (
        ([[0.5, 0.5], [0.9, 0.1]], {"class_names": ["a", "b", "c"]}),
        "labels has 2 classes, but there are 3 class_names",
    ),
    "not among the given": ((["a", "x"], {"class_names": ["a", "b"]}), "labels[1] is x, which"),
    "numbers for names": (([0, 2], {"class_names": ["a", "b"]}), "labels[1] is 2"),
    "a name twice": ((["a", "b"], {"class_names": ["a", "a"]}), "without repeated names"),
    "names for other columns": (
        (["a", "b"], {"class_names": ["a", "b"], "num_columns": 3}),
        "2 names, but there are 3 columns",
    ),
    "ragged": (([[1], [2, 3]], {}), "cannot be read as an array"),
    "no array": ((None, {}), "labels is None"),
}


@pytest.mark.parametrize("case", WRONG_LABELS)
def test_wrong_labels_are_refused_in_one_sentence(case):
    (labels, options), words = WRONG_LABELS[case]
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        inputs.as_labels(labels, **options)
    assert "\n" not in str(caught.value)


def test_probabilities_stay_as_they_are():
    assert inputs.as_probabilities(PROBS).dtype == np.float64
    for given in (PROBS.tolist(), PROBS.astype(np.float16), jnp.asarray(PROBS, jnp.bfloat16)):
        np.testing.assert_allclose(inputs.as_probabilities(given), PROBS, atol=4e-3)
    np.testing.assert_array_equal(inputs.as_probabilities(np.eye(2, dtype=int)), np.eye(2))


def changed(row, column, value):
    probs = PROBS.copy()
    probs[row, column] = value
    return probs


WRONG_PROBS = {
    "not finite": (changed(1, 2, NAN), "pred_probs[1, 2] is nan"),
    "infinite": (changed(2, 0, np.inf), "pred_probs[2, 0] is inf"),
    "negative": (changed(1, 0, -0.1), "pred_probs[1, 0] is -0.1"),
    "rows do not sum to one": (changed(2, 0, 0.9), "pred_probs[2] sums to 1.7, not to 1"),
    "logits": (np.array([[4.0, -2.0], [1.0, 3.0]]), "[0, 0] is 4, which is not a probability; if"),
    "logarithms": (np.log(PROBS), "look like log-probabilities"),
    "percent": (100 * PROBS, "look like percent"),
    "of one class": (np.ones(4), "numpy.stack([1 - p, p], axis=1)"),
    "one column": (np.ones((4, 1)), "C >= 2"),
    "text": ([["a", "b"]], "real numbers"),
    "complex": (PROBS * 1j, "real numbers"),
    "objects": (np.array([[{}, 1]], object), "holds something other than numbers"),
}


@pytest.mark.parametrize("case", WRONG_PROBS)
def test_wrong_probabilities_are_refused_in_one_sentence(case):
    probs, words = WRONG_PROBS[case]
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        inputs.as_probabilities(probs)
    assert "\n" not in str(caught.value)


def test_sparse_matrices_are_refused():
    import scipy.sparse

    with pytest.raises(UserError, match=r"give features.toarray\(\)"):
        inputs.as_features(scipy.sparse.eye_array(3))


def test_logits_that_are_probabilities_are_refused():
    with pytest.raises(UserError, match="are probabilities"):
        inputs.as_logits(PROBS)
    with pytest.raises(UserError, match=re.escape("logits[1, 0] is nan")):
        inputs.as_logits([[0.0, 1.0], [NAN, 1.0]])
    assert inputs.as_logits(np.log(PROBS)).dtype == np.float32


def test_features():
    assert inputs.as_features([[1, 2], [3, 4]]).dtype == np.float32
    assert inputs.as_features(np.ones((3, 2, 4), np.float16)).dtype == np.float16
    for features, words in (
        (np.ones(3), "for a single feature, give [:, None]"),
        (np.ones((3, 0)), "got (3, 0)"),
        (np.ones((3, 2, 2, 3)), "use images="),
        ([[1.0, 2.0], [NAN, 1.0]], "features[1, 0] is nan"),
        ([[1.0, 1e200]], "float32 ends at"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            inputs.as_features(features)


COLOUR = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), np.uint8)


def test_images_of_many_kinds(tmp_path):
    grey = COLOUR[..., 0]
    paths = [tmp_path / f"{i}.png" for i in range(len(COLOUR))]
    for path, image in zip(paths, COLOUR, strict=True):
        PIL.Image.fromarray(image).save(path)
    of_grey = np.repeat(grey[..., None], 3, axis=-1)
    cases = {
        "uint8": (COLOUR, COLOUR),
        "integers": (COLOUR.astype(np.int64), COLOUR),
        "whole floats": (COLOUR.astype(np.float32), COLOUR),
        "floats in [0, 1]": (COLOUR / 255, COLOUR),
        "float32 of jax": (jnp.asarray(COLOUR, jnp.float32) / 255, COLOUR),
        "grey": (grey, of_grey),
        "grey with a channel": (grey[..., None] / 255, of_grey),
        "bool": (grey > 127, np.where(of_grey > 127, 255, 0)),
        "list of arrays": (list(COLOUR), COLOUR),
        "channels first": (np.moveaxis(COLOUR, -1, 1), COLOUR),
        "channels first of grey floats": (grey[:, None] / 255, of_grey),
        "list of arrays, channels first": (list(np.moveaxis(COLOUR, -1, 1) / 255), COLOUR),
        "list of whole floats, one of them black": (
            list(np.concatenate([0 * COLOUR[:1], COLOUR]).astype(float)),
            np.concatenate([0 * COLOUR[:1], COLOUR]),
        ),
        "paths": (paths, COLOUR),
        "paths in an array": (np.array(list(map(str, paths))), COLOUR),
        "PIL": ([PIL.Image.fromarray(x) for x in COLOUR], COLOUR),
        "grey PIL": ([PIL.Image.fromarray(x) for x in grey], of_grey),
        "Hugging Face": (HuggingFace(image=[PIL.Image.fromarray(x) for x in COLOUR]), COLOUR),
    }
    for name, (given, wanted) in cases.items():
        found = image_inputs.as_images(given)
        assert found.dtype == np.uint8 and found.flags.c_contiguous, name
        np.testing.assert_array_equal(found, wanted, err_msg=name)


WRONG_IMAGES = {
    "one image, channels first": (
        np.moveaxis(COLOUR[0], -1, 0),
        "images is (3, 5, 6), one image with its channels first or three grey ones; give [H, W, 3]",
    ),
    "one float image, channels first": (np.moveaxis(COLOUR[0] / 255, -1, 0), "give [H, W, 3]"),
    "normalised": (COLOUR / 127.5 - 1, "before any normalisation"),
    "16 bit": (COLOUR.astype(np.uint16) * 257, "has pixels from"),
    "not finite": (np.full((1, 2, 2), NAN), "images[0, 0, 0, 0] is nan"),
    "four channels": (np.zeros((1, 2, 2, 4), np.uint8), "[N, H, W, 3]"),
    "vectors": (np.zeros((3, 4)), "[N, H, W, 3]"),
    "several sizes": ([COLOUR[0], COLOUR[1][:3]], "images[1] is 3 x 6 pixels and images[0] 5 x 6"),
    "PIL of 32 bit": ([PIL.Image.new("F", (2, 2))], "images[0]: 32-bit grey values"),
    "one image": (COLOUR[0], "(5, 6, 3), one image; give images[None]"),
    "one PIL image": (PIL.Image.fromarray(COLOUR[0]), "one image; give a list of images"),
    "ones and zeros": (np.ones((2, 3, 5), int), "give uint8 from 0 to 255 or floats"),
    "no image column": (HuggingFace(text=["a"]), "no column 'image', only text"),
}


@pytest.mark.parametrize("case", WRONG_IMAGES)
def test_wrong_images_are_refused_in_one_sentence(case):
    images, words = WRONG_IMAGES[case]
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        image_inputs.as_images(images)
    assert "\n" not in str(caught.value)


def test_annotations():
    found = annotation_inputs.as_annotations([0, 2, -1, -2])
    assert found.ids.tolist() == [0, 2, -1, -2] and found.num_classes == 3
    assert annotation_inputs.as_annotations([0, 1, -1], 5).num_classes == 5
    assert annotation_inputs.as_annotations([7, None, 3], class_names=[3, 7]).ids.tolist() == [
        *(1, -1, 0)
    ]
    assert annotation_inputs.as_annotations([-1, None]).num_classes == 0
    masked = np.ma.masked_array([0, 1, 1], [False, False, True])
    assert annotation_inputs.as_annotations(masked).ids.tolist() == [0, 1, -1]
    for annotations, words in (
        ([0, 1, -3], "annotations[2] is -3"),
        ([0, -1, 0], "only the class 0"),
        ([np.nan, 1, 0.5], "annotations[2] is 0.5; classes are whole"),
        (np.array(["a", None, 3], object), "annotations[2] is 3, but the ones before are str"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            annotation_inputs.as_annotations(annotations)
    with pytest.raises(
        UserError, match=re.escape("annotations[1] is 4; it must be a class 0 to 3")
    ):
        annotation_inputs.as_annotations([0, 4, 1], 4)


def test_lengths():
    assert inputs.check_lengths(labels=[1, 2], features=np.ones((2, 3))) == 2
    with pytest.raises(UserError, match="labels has 2 entries, but features has 3"):
        inputs.check_lengths(labels=[1, 2], features=np.ones((3, 3)))
