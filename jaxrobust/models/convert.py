"""Published PyTorch weights as parameters of our classifiers.

`jaxrobust convert --arch=resnet32x4 --from=checkpoint.pth --to=DIR`

Reads state dicts (`.pth` or `.safetensors`) of the networks of RepDistiller, DHKD and torchvision,
of tonylins' MobileNetV2, of EfficientNet-Lite0, and of RepVGG and Swin by their authors or timm.
Writes a folder that a distillation recipe can use as its teacher. Exit codes: 0 done; 2 an error
that the user can fix, in one sentence.
"""

import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxrobust.errors import UserError, unknown_name
from jaxrobust.models import BACKBONES, make_classifier
from jaxrobust.models.torch_names import canonical_names, torch_module
from jaxrobust.models.torch_weights import load_torch_weights
from jaxrobust.recipes.registry import resolve


def _abstract_variables(arch: str, num_classes: int) -> tuple[Any, Any]:
    """Classifier without auxiliary head, and the shapes of its variables."""
    module = make_classifier(arch, num_classes=num_classes, auxiliary="none", dtype=jnp.float32)
    # 64 pixels keep a map of at least one pixel in every backbone.
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return module, jax.eval_shape(module.init, jax.random.key(0), images)


def convert_state_dict(arch: str, tensors: Mapping[str, np.ndarray]) -> tuple[int, dict[str, Any]]:
    """Variables of a classifier from a published state dict.

    Args:
      arch: a key of `BACKBONES`.
      tensors: tensors by PyTorch name.

    Returns:
      (number of classes, variables of `make_classifier(arch, auxiliary="none")`).

    Raises:
      UserError: for an unknown architecture, or a tensor that is missing, unexpected or of the
        wrong shape.
    """
    if arch not in BACKBONES:
        raise UserError(unknown_name("architecture", arch, BACKBONES))
    try:
        names = canonical_names(tensors)
    except ValueError as error:
        raise UserError(f"This is not a state dict of {arch}: {error}") from error
    named = {name: tensors[original] for name, original in names.items()}
    head = named.get("fc.weight")
    if head is None or head.ndim != 2:
        raise UserError(
            "The state dict has no classifier: none of fc, linear, classifier, last_linear and "
            "head has a weight with two axes."
        )
    num_classes = head.shape[0]
    module, abstract = _abstract_variables(arch, num_classes)
    paths = {path[1:-1] for path in traverse_util.flatten_dict(dict(abstract))}
    modules = {torch_module(module.backbone, path): path for path in paths}
    try:
        return num_classes, load_torch_weights(abstract, named, modules)
    except ValueError as error:
        raise UserError(f"This is not a state dict of {arch}: {error}") from error


EFFICIENTNET_LITE = ((127 / 255,) * 3, (128 / 255,) * 3)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and std of the images of published weights."""


def published_statistics(arch: str, num_classes: int) -> tuple[str, int, Any, Any]:
    """(source, side in pixels, mean, std) of the images of published weights, empty if unknown."""
    if arch.startswith("efficientnet_lite"):
        return "EfficientNet-Lite's", 260 if arch.endswith("2") else 224, *EFFICIENTNET_LITE
    if num_classes == 1000:
        return "ImageNet's", 224, *IMAGENET
    if num_classes == 100:
        return "CIFAR-100's", 32, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    return "", 0, (), ()


if __name__ == "__main__":
    sys.exit(resolve("jaxrobust.commands.cli:main")(["convert", *sys.argv[1:]]))
