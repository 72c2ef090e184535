"""Trained classifiers as files: two readable without JAX, and a program that needs only JAX.

    from jaxrobust.models.storage import load_classifier
    student = load_classifier("runs/dhkd/student")
    logits = student.logits(images)  # uint8 [n, H, W, 3] -> float32 [n, C]

A folder holds `model.json` (the description: architecture, classes, normalisation, checksum) and
`model.safetensors` (every array under its path, such as `params/primary/Dense_0/kernel`). In the
folder of a noisy-label or annotation run, `model.json` contains the run's recipe, and each path
begins with the name of a network; `jaxrobust.load_classifier` rebuilds the classifier with the
run's method. Older runs wrote the same content as `classifier.json` and `variables.npz`, which can
still be read.

A student may also have `program.bin`, a function from images to logits that contains the
parameters, for any batch size:

    import jax, pathlib
    program = jax.export.deserialize(pathlib.Path("runs/dhkd/student/program.bin").read_bytes())
    logits = program.call(images)

JAX guarantees that its versions of the next six months can read such a program; for longer periods,
use an ONNX file (`jaxrobust.models.onnx_export`).
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxrobust.data import array_files
from jaxrobust.data.augment import normalize
from jaxrobust.engine import digests
from jaxrobust.engine.files import write_bytes, write_json
from jaxrobust.errors import UserError
from jaxrobust.models import make_classifier, make_multilabel_classifier, safetensors_file

MODEL, VARIABLES, PROGRAM = "model.json", "model.safetensors", "program.bin"
_OLD_MODEL, _OLD_VARIABLES = "classifier.json", "variables.npz"
_PLATFORMS = ("cpu", "cuda", "tpu")


@dataclasses.dataclass(frozen=True, eq=False)
class StoredClassifier:
    """A trained classifier with a single head.

    Attributes:
      arch: name of the architecture, a key of `jaxrobust.models.BACKBONES`.
      num_classes: C.
      variables: `params`, `batch_stats` and other collections, float32.
      class_names: C names; empty if unknown.
      image_shape: (H, W, 3) of the training images; empty if unknown.
      mean: mean of each channel on the [0, 1] scale; empty if unknown.
      std: standard deviation of each channel, on the same scale.
      decoder: options of its `MLDecoder` for images with several labels; None for a linear head.
    """

    arch: str
    num_classes: int
    variables: Mapping[str, Any]
    class_names: tuple[str, ...] = ()
    image_shape: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    decoder: Mapping[str, Any] | None = None

    def module(self, dtype: Any = jnp.float32) -> nn.Module:
        """The network that `variables` belong to."""
        options = {"num_classes": self.num_classes, "dtype": dtype}
        if self.decoder is not None:
            return make_multilabel_classifier(self.arch, decoder=self.decoder, **options)
        return make_classifier(self.arch, auxiliary="none", **options)

    def logits(self, images: jax.typing.ArrayLike, *, dtype: Any = jnp.float32) -> jax.Array:
        """Float32 `[n, C]` of raw images uint8 `[n, H, W, 3]`.

        Raises:
          UserError: if the normalisation of images is unknown.
        """
        if not self.mean:
            raise UserError(
                f"This {self.arch} does not state how its images are normalised; normalise them "
                "and call module().apply(variables, images)."
            )
        images = normalize(jnp.asarray(images), self.mean, self.std, dtype=dtype)
        outputs: Any = self.module(dtype).apply(self.variables, images)
        return outputs.logits


def save_classifier(classifier: StoredClassifier, directory: str | os.PathLike) -> None:
    """Writes a folder for `load_classifier`; after a kill, an unfinished folder is refused."""
    write_folder(pathlib.Path(directory), classifier.variables, facts_of(classifier))


def facts_of(classifier: StoredClassifier) -> dict[str, Any]:
    """The facts in the `model.json` of a classifier."""
    names = [field.name for field in dataclasses.fields(classifier) if field.name != "variables"]
    return {name: getattr(classifier, name) for name in names}


def classifier_of(facts: Mapping[str, Any], variables: Mapping[str, Any]) -> StoredClassifier:
    """The classifier with these facts."""
    return StoredClassifier(
        arch=str(facts["arch"]),
        num_classes=int(facts["num_classes"]),
        variables={"batch_stats": {}, **variables},
        decoder=facts.get("decoder"),
        **{
            name: tuple(facts.get(name, ()))
            for name in ("class_names", "image_shape", "mean", "std")
        },
    )


def load_classifier(directory: str | os.PathLike) -> StoredClassifier:
    """Reads a folder written by `save_classifier`.

    Raises:
      UserError: if there is no classifier, a file is damaged, or the parameters do not fit the
        architecture.
    """
    directory = pathlib.Path(directory).expanduser()
    facts = read_facts(directory)
    if is_of_run(facts):
        raise UserError(
            f"{directory} holds the classifier of a run of {facts.get('method')}, not a single "
            "network: name a folder `student` or `teacher` of a run, or a converted one."
        )
    try:
        classifier_of(facts, {})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{directory / MODEL} is damaged ({error}); restore the folder.") from None
    classifier = classifier_of(facts, read_variables(directory, facts))
    _check_shapes(classifier, directory)
    return classifier


def write_folder(
    directory: pathlib.Path, variables: Mapping[str, Any], facts: Mapping[str, Any]
) -> None:
    """Writes the two files of a classifier, the JSON-able facts last."""
    arrays: dict[str, Any] = traverse_util.flatten_dict(
        {name: dict(tree) for name, tree in variables.items()}, sep="/"
    )
    content = safetensors_file.encoded({name: np.asarray(x) for name, x in arrays.items()})
    write_bytes(directory / VARIABLES, content)
    count = sum(x.size for name, x in arrays.items() if "params" in name.split("/")[:2])
    sha256 = hashlib.sha256(content).hexdigest()
    facts = {**facts, "num_parameters": count, "variables_sha256": sha256}
    write_json(directory / MODEL, digests.signed(facts))


def holds_classifier(directory: pathlib.Path) -> bool:
    """Whether there is a classifier in a folder."""
    return any((directory / name).exists() for name in (MODEL, _OLD_MODEL))


def is_of_run(facts: Mapping[str, Any]) -> bool:
    """Whether facts are those of a noisy-label or annotation run, with its recipe."""
    return "config" in facts


def read_facts(directory: pathlib.Path) -> dict[str, Any]:
    """The facts of a classifier.

    Raises:
      UserError: if there is none, or its file is damaged.
    """
    if not holds_classifier(directory):
        near = [name for name in ("student", "teacher") if (directory / name / MODEL).exists()]
        hint = (
            f"did you mean {directory / near[0]}?"
            if near
            else "name a folder `student` or `teacher` of a run, or a converted one."
        )
        raise UserError(f"{directory} holds no {MODEL}: {hint}")
    path = directory / _names(directory)[0]
    try:
        return digests.verified(json.loads(path.read_text()))
    except (ValueError, TypeError, OSError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); restore the folder.") from None


def _names(directory: pathlib.Path) -> tuple[str, str]:
    """The names of the files in a folder."""
    is_old = not (directory / MODEL).exists()
    return (_OLD_MODEL, _OLD_VARIABLES) if is_old else (MODEL, VARIABLES)


def read_variables(directory: pathlib.Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of the classifier with these facts.

    Raises:
      UserError: if their file is damaged.
    """
    path = directory / _names(directory)[1]
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); restore it.") from None
    if hashlib.sha256(content).hexdigest() != facts.get("variables_sha256"):
        raise UserError(
            f"{path} has changed since it was written; restore the folder, or write it again."
        )
    is_npz = path.name == _OLD_VARIABLES
    try:
        arrays = array_files.decoded(content) if is_npz else safetensors_file.decoded(content)
        return traverse_util.unflatten_dict(arrays, sep="/")
    except _UNREADABLE as error:
        kind = "an npz" if is_npz else "a safetensors"
        raise UserError(f"{path} is not {kind} file ({error}); write the folder again.") from None


_UNREADABLE = (
    *(ValueError, KeyError, TypeError, AttributeError, struct.error),
    *(OSError, EOFError, zipfile.BadZipFile),
)


def _check_shapes(classifier: StoredClassifier, directory: pathlib.Path) -> None:
    """Refuses variables that do not fit the architecture, naming the first mismatch."""
    # 64 pixels leave a map of at least one pixel in every network.
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    wanted = jax.eval_shape(classifier.module().init, jax.random.key(0), images)
    if difference := first_difference(classifier.variables, wanted):
        raise UserError(
            f"{directory} is not a {classifier.arch} for {classifier.num_classes} classes: "
            f"{difference}."
        )


def first_difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first variable whose shape differs, as the end of a sentence; "" if there is none."""

    def shapes_of(tree) -> dict[str, tuple[int, ...]]:
        leaves: dict[str, Any] = traverse_util.flatten_dict(dict(tree), sep="/")
        return {name: np.shape(leaf) for name, leaf in leaves.items()}

    have, need = shapes_of(found), shapes_of(wanted)
    for name in sorted(have.keys() | need.keys()):
        if have.get(name) != need.get(name):
            return f"{name} has the shape {have.get(name)}, but should have {need.get(name)}"
    return ""


def check_program_packages() -> None:
    """Checks that programs can be written.

    Raises:
      UserError: if flatbuffers is not installed.
    """
    try:
        import flatbuffers  # noqa: F401  jax.export needs it without depending on it
    except ModuleNotFoundError:
        raise UserError(
            "A program can only be written with flatbuffers; pip install 'jaxrobust[export]', or "
            "set --config.export.program=False."
        ) from None


def save_program(
    classifier: StoredClassifier, directory: str | os.PathLike, *, dtype: Any = jnp.float32
) -> None:
    """Writes `program.bin`: raw images uint8 `[batch, H, W, 3]` to logits, parameters included.

    It runs on CPU, CUDA and TPU with any batch size, using only `jax.export.deserialize`, in JAX
    versions of the next six months.

    Raises:
      UserError: if flatbuffers is not installed, or the normalisation of images is unknown.
    """
    check_program_packages()
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *classifier.image_shape), jnp.uint8)
    function = jax.jit(lambda images: classifier.logits(images, dtype=dtype))
    program = jax.export.export(function, platforms=_PLATFORMS)(images)
    write_bytes(pathlib.Path(directory) / PROGRAM, bytes(program.serialize()))
