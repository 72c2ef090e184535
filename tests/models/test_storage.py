"""Classifiers as files, and the program that needs only JAX."""

import dataclasses
import json
import subprocess
import sys

import chex
import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.errors import UserError
from jaxrobust.models import make_classifier, safetensors_file
from jaxrobust.models.storage import (
    StoredClassifier,
    load_classifier,
    save_classifier,
    save_program,
)

pytestmark = pytest.mark.usefixtures("tiny_backbones")


@pytest.fixture(scope="module")
def classifier(tiny_backbones):
    module = make_classifier("tiny4", num_classes=3, auxiliary="none", dtype=jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    generator = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: generator.uniform(0.1, 1, x.shape).astype(x.dtype), shapes)
    return StoredClassifier(
        arch="tiny4",
        num_classes=3,
        variables=dict(variables),
        class_names=("a", "b", "c"),
        image_shape=(8, 8, 3),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
    )


@pytest.fixture
def folder(classifier, tmp_path):
    save_classifier(classifier, tmp_path / "student")
    return tmp_path / "student"


def test_what_is_written_is_read(classifier, folder):
    found = load_classifier(folder)
    for field in dataclasses.fields(classifier):
        if field.name != "variables":
            assert getattr(found, field.name) == getattr(classifier, field.name)
    assert jax.tree.structure(found.variables) == jax.tree.structure(classifier.variables)
    chex.assert_trees_all_equal(found.variables, classifier.variables)
    count = sum(x.size for x in jax.tree.leaves(classifier.variables["params"]))
    assert json.loads((folder / "model.json").read_text())["num_parameters"] == count


def test_the_same_classifier_gives_the_same_bytes(classifier, folder, tmp_path):
    save_classifier(load_classifier(folder), tmp_path / "again")
    for file in folder.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_images_to_logits(classifier, folder):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    views = ((images / 255 - classifier.mean) / classifier.std).astype(np.float32)
    module = make_classifier("tiny4", num_classes=3, auxiliary="none", dtype=jnp.float32)
    expected = jax.jit(module.apply)(classifier.variables, views).logits
    found = jax.jit(load_classifier(folder).logits)(images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    bare = dataclasses.replace(classifier, mean=(), std=())
    with pytest.raises(UserError, match="does not state how its images are normalised"):
        bare.logits(images)


def test_a_program_runs_where_there_is_only_jax(classifier, folder):
    save_program(classifier, folder)
    script = f"""
import pathlib, sys
import jax
import jax.export
import numpy as np
program = jax.export.deserialize(pathlib.Path({str(folder)!r}, "program.bin").read_bytes())
for size in (1, 5):
    images = np.random.default_rng(0).integers(0, 256, (size, 8, 8, 3)).astype(np.uint8)
    print(program.call(images).tolist())
assert not any(name.split(".")[0] in ("flax", "optax", "jaxrobust") for name in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    one, five = map(json.loads, done.stdout.splitlines())
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    expected = jax.jit(classifier.logits)(images)
    np.testing.assert_allclose(five, expected, rtol=1e-4, atol=1e-5)
    assert np.shape(one) == (1, 3)


def test_a_student_is_read_without_the_code_that_taught_it():
    script = """
import sys
import jaxrobust.models.storage
parts = ("losses", "methods", "tasks", "figures")
assert not {f"jaxrobust.{part}" for part in parts} & set(sys.modules)
assert not {"grain", "matplotlib", "optax", "orbax"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_without_flatbuffers_a_run_is_refused_before_it_trains(monkeypatch):
    from configs import dhkd
    from jaxrobust.tasks.student_folder import check_export

    config = dhkd.get_config("digits")
    check_export(config)
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    check_export(config)
    config.export.program = True
    with pytest.raises(UserError, match=r"pip install 'jaxrobust\[export\]'"):
        check_export(config)


def test_without_flatbuffers_it_says_what_to_install(classifier, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(UserError, match=r"pip install 'jaxrobust\[export\]'"):
        save_program(classifier, tmp_path)


def _shorten(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def _replace_in(path, old, new):
    path.write_text(path.read_text().replace(old, new))


def _swap_arch(folder):
    path = folder / "model.json"
    facts = json.loads(path.read_text()) | {"arch": "tiny8"}
    del facts["content_crc32"]
    path.write_text(json.dumps(facts))


DAMAGES = {
    "changed": (_shorten, "model.safetensors has changed since it was written"),
    "missing": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors cannot be read"),
    "unreadable": (lambda f: (f / "model.json").write_text("{"), "model.json is damaged"),
    "incomplete": (lambda f: (f / "model.json").write_text("{}"), "model.json is damaged"),
    "changed facts": (
        lambda f: _replace_in(f / "model.json", "tiny4", "tiny8"),
        "model.json is damaged (its content has changed since it was written",
    ),
    "nested": (lambda f: (f / "model.json").write_text("[" * 10_000), "model.json is damaged"),
    "no facts": (lambda f: (f / "model.json").unlink(), "holds no model.json"),
    "other network": (_swap_arch, "is not a tiny8 for 3 classes"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_is_a_one_line_error(case, folder):
    damage, words = DAMAGES[case]
    damage(folder)
    with pytest.raises(UserError) as caught:
        load_classifier(folder)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_folder_around_is_answered_with_the_one_meant(folder, tmp_path):
    with pytest.raises(UserError, match=f"did you mean {folder}"):
        load_classifier(tmp_path)
    with pytest.raises(UserError, match="name a folder `student` or `teacher`"):
        load_classifier(tmp_path / "nowhere")


def test_the_library_of_the_format_reads_the_variables(classifier, folder):
    library = pytest.importorskip("safetensors.numpy")
    arrays = library.load_file(folder / "model.safetensors")
    expected = flax.traverse_util.flatten_dict(classifier.variables, sep="/")
    assert "params/primary/Dense_0/kernel" in arrays
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name])


def test_every_type_of_array_comes_back():
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array(7, np.int64),
        "c": np.zeros((0, 2), np.uint8),
        "d": np.array([True, False]),
        "e": np.asfortranarray(np.arange(4, dtype=np.float16).reshape(2, 2)),
    }
    found = safetensors_file.decoded(safetensors_file.encoded(arrays))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)
