"""Export of classifiers as ONNX files, whose outputs are compared with the network's.

    jaxrobust export runs/dhkd/student --out=student.onnx
    jaxrobust export runs/dhkd/student --out=student.int8.onnx --int8

The file has one input, `images`, `[batch, H, W, 3]` for any batch size: raw pixels uint8, which are
normalised inside, or normalised float32; and one output, `logits` or `probabilities`, float32
`[batch, C]`. The class names are among the model's properties. Any program that reads ONNX can run
it, such as onnxruntime:

    import onnxruntime
    session = onnxruntime.InferenceSession("student.onnx")
    (logits,) = session.run(None, {"images": images})
"""

import dataclasses
import functools
import json
import logging
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.data.scaling import Scaling
from jaxrobust.engine.files import write_bytes
from jaxrobust.errors import UserError
from jaxrobust.models.jaxpr_to_onnx import OPSET, to_onnx
from jaxrobust.models.storage import StoredClassifier

TOLERANCE = 1e-5
"""Largest difference of an output from the network's, relative to its largest output."""

_BATCHES = (1, 3)  # batch sizes at which a file is checked


@dataclasses.dataclass(frozen=True)
class OnnxFile:
    """Facts about a file that was written."""

    num_bytes: int  # its size
    opset: int  # version of ONNX's operators
    difference: float  # largest difference of an output from the network's, relative to the largest


def check_packages() -> None:
    """Checks that onnx and onnxruntime are installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"Writing ONNX files needs the package {error.name}, which is not installed; pip "
            "install 'jaxrobust[onnx]', or leave out export.onnx and export.int8."
        ) from None


def save_onnx(
    classifier: StoredClassifier,
    path: pathlib.Path,
    *,
    normalize: bool = True,
    probabilities: bool = False,
    int8: bool = False,
) -> OnnxFile:
    """Writes a classifier as an ONNX file after comparing its outputs by onnxruntime.

    Args:
      classifier: with the shape and, for `normalize`, the normalisation of its images.
      path: of the file.
      normalize: whether images are raw uint8 and normalised inside; else they are normalised
        float32.
      probabilities: whether the output is the softmax of the logits, or the sigmoid where an image
        may have several labels.
      int8: whether weights are stored in 8 bits and activations are quantised at run time
        (onnxruntime's dynamic quantisation). The outputs then differ by more than `TOLERANCE`; the
        difference is returned.

    Returns:
      `OnnxFile`.

    Raises:
      UserError: if a package is missing, the network cannot be written, or the outputs differ from
        the network's.
    """
    check_packages()
    if not classifier.image_shape:
        raise UserError(
            f"The image size of this {classifier.arch} is unknown, but an ONNX file states it; "
            "set image_shape."
        )
    if normalize and not classifier.mean:
        raise UserError(
            f"This {classifier.arch} does not state how its images are normalised; export it for "
            "images that are already normalised, or set its mean and std."
        )
    return write_onnx(
        _function(classifier, normalize=normalize, probabilities=probabilities),
        classifier.variables,
        random_inputs(classifier.image_shape, np.uint8 if normalize else np.float32),
        path,
        names=("images", "probabilities" if probabilities else "logits"),
        metadata=_properties(classifier, normalize),
        what=f"this {classifier.arch}",
        int8=int8,
    )


def write_onnx(
    function: Callable[[Mapping[str, Any], jax.Array], jax.Array],
    variables: Mapping[str, Any],
    inputs: np.ndarray,
    path: pathlib.Path,
    *,
    names: tuple[str, str],
    metadata: dict[str, str],
    what: str,
    int8: bool = False,
) -> OnnxFile:
    """Writes `(variables, inputs) -> outputs` as an ONNX file; see `save_onnx`.

    The function is traced in float32, with the variables as constants, and compared on `inputs`
    `[n, ...]`. `names` are of input and output; `what` is it, in messages.
    """
    check_packages()
    model = to_onnx(
        functools.partial(function, variables),
        inputs.shape[1:],
        inputs.dtype,
        name=names[0],
        output=names[1],
        metadata=metadata,
    )
    content = model.SerializeToString()
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        # As constants of the program the parameters would take longer to compile.
        expected = np.asarray(jax.jit(function)(jax.device_get(variables), inputs))
    difference = _difference(content, names[0], inputs, expected)
    if not difference <= TOLERANCE:
        raise UserError(
            f"The outputs of {what} as an ONNX file differ by {difference:.1e} of "
            f"the largest from the network's, more than {TOLERANCE:.0e}, so it was not written. "
            "Please report it."
        )
    if int8:
        content = _quantized(content)
        difference = _difference(content, names[0], inputs, expected)
    write_bytes(path, content)
    return OnnxFile(len(content), OPSET, difference)


def _function(classifier: StoredClassifier, *, normalize: bool, probabilities: bool):
    """The function of variables and images that is exported, in float32."""
    module = classifier.module(jnp.float32)
    link = jax.nn.softmax if classifier.decoder is None else jax.nn.sigmoid

    def outputs(variables, images):
        if normalize:
            logits = dataclasses.replace(classifier, variables=variables).logits(images)
        else:
            applied: Any = module.apply(variables, images)
            logits = applied.logits
        return link(logits) if probabilities else logits

    return outputs


def _properties(classifier: StoredClassifier, normalize: bool) -> dict[str, str]:
    facts: dict[str, Any] = {"arch": classifier.arch, "class_names": classifier.class_names}
    if not normalize:
        facts |= {"mean": classifier.mean, "std": classifier.std}
    return {name: x if isinstance(x, str) else json.dumps(x) for name, x in facts.items()}


def random_inputs(shape: tuple[int, ...], dtype: Any, scaling: Scaling | None = None) -> np.ndarray:
    """Random images or features, as many as the largest batch that a file is checked with."""
    generator, shape = np.random.default_rng(0), (max(_BATCHES), *shape)
    if dtype == np.uint8:
        return generator.integers(0, 256, shape).astype(np.uint8)
    values = generator.normal(size=shape)
    if scaling is not None:
        values = scaling.mean + np.where(np.isfinite(scaling.std), scaling.std, 1) * values
    return values.astype(np.float32)


def _difference(content: bytes, name: str, inputs: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference between a file's outputs and the expected, relative to the largest."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    differences = []
    for count in _BATCHES:
        (found,) = session.run(None, {name: inputs[:count]})
        wrong = np.max(np.abs(found - expected[:count]))
        differences.append(wrong / np.max(np.abs(expected[:count])))
    return float(max(differences))


def _quantized(content: bytes) -> bytes:
    """A model by onnxruntime's dynamic quantisation."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it advises a preprocessing that has no effect here
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "int8.onnx"
            # onnxruntime has no CPU kernel for convolutions with signed weights.
            model = onnx.load_from_string(content)
            quantize_dynamic(model, path, weight_type=QuantType.QUInt8)
            return path.read_bytes()
    finally:
        logging.root.setLevel(level)
