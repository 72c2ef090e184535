"""ONNX files: every network of the zoo computes in onnxruntime what it computes in JAX."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.commands import cli
from jaxrobust.errors import UserError
from jaxrobust.models import (
    BACKBONES,
    FEATURE_NETWORKS,
    NETWORKS,
    jaxpr_to_onnx,
    make_classifier,
    make_multilabel_classifier,
    onnx_export,
)
from jaxrobust.models.storage import StoredClassifier, save_classifier
from jaxrobust.models.swin import SwinTransformer

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SIZE = 32
DEEPEST = "resnet110"


def small(module):
    """The same network with at most two blocks a stage and a quarter of its channels.

    Of a stage's blocks the first and the second are of different kinds, and the others like one of
    them. Operators do not depend on how many blocks or channels there are.
    """
    changes = {}
    for field, value in vars(module).items():
        if field in ("stage_sizes", "block_sizes", "sizes", "repeats"):
            changes[field] = tuple(min(size, 2) for size in value)
        elif field == "widths":
            changes[field] = tuple(width // 4 for width in value)
        elif field == "width" and isinstance(value, int):  # of Swin, and no factor
            changes[field] = value // 4
        elif field == "depth":
            changes[field] = min(value, 16)
    return module.clone(**changes)


def different(networks, **options):
    """The first name of each of those networks that differ when small."""
    names = {}
    for name, network in networks.items():
        names.setdefault(repr(small(network(**options))), name)
    return list(names.values())


def variables_of(module, image_shape):
    """Drawn weights with which activations keep their size, and averages that are not those at
    the start."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    generator = np.random.default_rng(0)

    def drawn(path, x):
        name = path[-1].key
        if name in ("var", "scale"):
            values = generator.uniform(0.7, 1.3, x.shape)
        elif name == "kernel":
            deviation = np.sqrt(2 / np.prod(x.shape[:-1]))
            values = deviation * generator.normal(size=x.shape)
        else:
            values = 0.1 * generator.normal(size=x.shape)
        return values.astype(x.dtype)

    return {"batch_stats": {}, **jax.tree_util.tree_map_with_path(drawn, dict(shapes))}


def stored(name, *, size=SIZE, decoder=None):
    options = {"num_classes": 5, "dtype": jnp.float32}
    if decoder is None:
        module = make_classifier(name, auxiliary="none", **options)
    else:
        module = make_multilabel_classifier(name, decoder=decoder, **options)
    return StoredClassifier(
        arch=name,
        num_classes=5,
        variables=variables_of(module, (size, size, 3)),
        class_names=("a", "b", "c", "d", "e"),
        image_shape=(size, size, 3),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.25, 0.3),
        decoder=decoder,
    )


@pytest.mark.parametrize("name", [*different(BACKBONES), DEEPEST])
def test_every_backbone_computes_the_same(name, tmp_path, monkeypatch):
    backbone = BACKBONES[name]
    if name != DEEPEST:  # in which rounding errors add up
        monkeypatch.setitem(BACKBONES, name, lambda **options: small(backbone(**options)))
    # That it does, within 1e-5 of the largest logit, is part of the export.
    written = onnx_export.save_onnx(stored(name), tmp_path / "student.onnx")
    assert written.difference <= 1e-5
    assert written.num_bytes == (tmp_path / "student.onnx").stat().st_size


IMAGE_NETWORKS = {name: x for name, x in NETWORKS.items() if name not in FEATURE_NETWORKS}


@pytest.mark.parametrize("name", different(IMAGE_NETWORKS, num_classes=5))
def test_every_network_of_the_other_tasks_can_be_written(name):
    size = 96 if name == "inception_resnet_v2" else SIZE
    module = small(NETWORKS[name](num_classes=5, num_heads=2))
    variables = variables_of(module, (size, size, 3))

    def function(images):
        return module.apply(variables, images)

    shape = (size, size, 3)
    model = jaxpr_to_onnx.to_onnx(function, shape, np.float32, output="logits", metadata={})
    session = onnxruntime.InferenceSession(model.SerializeToString())
    images = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    (found,) = session.run(None, {"images": images})
    expected = np.asarray(jax.jit(module.apply)(variables, images))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_several_labels_through_a_decoder(tmp_path):
    decoder = {"width": 16, "hidden": 32, "num_heads": 4}
    classifier = stored("resnet8", decoder=decoder)
    onnx_export.save_onnx(classifier, tmp_path / "student.onnx", probabilities=True)
    session = onnxruntime.InferenceSession(tmp_path / "student.onnx")
    images = np.zeros((3, SIZE, SIZE, 3), np.uint8)
    (found,) = session.run(["probabilities"], {"images": images})
    expected = jax.nn.sigmoid(jax.jit(classifier.logits)(images))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_swin_pads_and_shifts_images_of_an_odd_size():
    # 44 pixels: windows are padded, maps are shifted, and merging pads a last row.
    backbone = SwinTransformer(8, (2, 1), (2, 2), 0.0)
    variables = variables_of(backbone, (44, 44, 3))

    def function(images):
        return backbone.apply(variables, images).pooled

    model = jaxpr_to_onnx.to_onnx(function, (44, 44, 3), np.float32, output="y", metadata={})
    session = onnxruntime.InferenceSession(model.SerializeToString())
    images = np.random.default_rng(0).normal(size=(2, 44, 44, 3)).astype(np.float32)
    (found,) = session.run(None, {"images": images})
    expected = np.asarray(jax.jit(function)(images))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.fixture(scope="module")
def classifier():
    return stored("resnet8", size=8)


def test_what_a_file_says_of_itself(classifier, tmp_path):
    path = tmp_path / "student.onnx"
    written = onnx_export.save_onnx(classifier, path)
    model = onnx.load(path)
    assert [x.version for x in model.opset_import] == [written.opset] == [17]
    properties = {x.key: x.value for x in model.metadata_props}
    assert json.loads(properties["class_names"]) == ["a", "b", "c", "d", "e"]
    (inputs,) = onnxruntime.InferenceSession(path).get_inputs()
    assert (inputs.name, inputs.type, inputs.shape) == (
        "images",
        "tensor(uint8)",
        ["batch", 8, 8, 3],
    )


def test_batch_norm_lies_in_the_convolutions(classifier, tmp_path):
    onnx_export.save_onnx(classifier, tmp_path / "student.onnx")
    ops = [node.op_type for node in onnx.load(tmp_path / "student.onnx").graph.node]
    # Raw pixels are divided, shifted and divided once; no other scale or shift is left.
    assert ops.count("Sub") == 1 and ops.count("Mul") == 0
    assert ops.count("Conv") == 9


def test_images_that_are_normalised_already(classifier, tmp_path):
    path = tmp_path / "student.onnx"
    onnx_export.save_onnx(classifier, path, normalize=False, probabilities=True)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    views = ((images / 255 - classifier.mean) / classifier.std).astype(np.float32)
    (found,) = onnxruntime.InferenceSession(path).run(None, {"images": views})
    expected = jax.nn.softmax(jax.jit(classifier.logits)(images))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    properties = {x.key: x.value for x in onnx.load(path).metadata_props}
    assert json.loads(properties["std"]) == [0.2, 0.25, 0.3]


def test_eight_bits_are_smaller_and_near(tmp_path):
    classifier = stored("resnet8")
    whole = onnx_export.save_onnx(classifier, tmp_path / "student.onnx")
    small = onnx_export.save_onnx(classifier, tmp_path / "int8.onnx", int8=True)
    assert small.num_bytes < 0.5 * whole.num_bytes
    # Dynamic quantisation rounds every activation to one of 256 values.
    assert whole.difference < small.difference < 0.2


def test_a_file_that_computes_something_else_is_not_written(classifier, tmp_path, monkeypatch):
    relu = jaxpr_to_onnx._ELEMENTWISE["max"]
    monkeypatch.setitem(jaxpr_to_onnx._ELEMENTWISE, "max", ("Min", relu[1]))
    with pytest.raises(UserError, match=r"differ by .* was not written"):
        onnx_export.save_onnx(classifier, tmp_path / "student.onnx")
    assert not list(tmp_path.iterdir())


def test_an_operation_that_is_not_known_is_named():
    def sort(images):
        return jnp.sort(images, axis=0)

    with pytest.raises(UserError, match="'sort' of this network cannot be written as ONNX"):
        jaxpr_to_onnx.to_onnx(sort, (2, 2, 3), np.float32, output="y", metadata={})


def test_what_a_file_needs_is_asked_for(classifier, tmp_path, monkeypatch):
    path = tmp_path / "student.onnx"
    with pytest.raises(UserError, match=f"The image size of this {classifier.arch} is unknown"):
        onnx_export.save_onnx(dataclasses.replace(classifier, image_shape=()), path)
    with pytest.raises(UserError, match="does not state how its images are normalised"):
        onnx_export.save_onnx(dataclasses.replace(classifier, mean=(), std=()), path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'jaxrobust\[onnx\]'"):
        onnx_export.save_onnx(classifier, path)


def test_the_command(classifier, tmp_path, capsys):
    save_classifier(dataclasses.replace(classifier, image_shape=()), tmp_path / "student")
    command = [str(tmp_path / "student"), f"--out={tmp_path / 'student.onnx'}"]
    assert cli.main(["export", *command]) == 2
    assert (
        f"image size of this {classifier.arch} is unknown, but an ONNX" in capsys.readouterr().err
    )
    assert cli.main(["export", *command, "--size=8"]) == 0
    assert "opset 17" in capsys.readouterr().out
