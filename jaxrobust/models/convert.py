"""Published PyTorch weights as parameters of our classifiers.

`python -m jaxrobust.models.convert --arch=resnet32x4 --from=checkpoint.pth --to=DIR`

Reads state dicts (`.pth` or `.safetensors`) of the networks of RepDistiller, DHKD and torchvision,
of tonylins' MobileNetV2, of EfficientNet-Lite0, and of RepVGG and Swin by their authors or timm.
Writes a folder that a distillation recipe takes as its teacher. Exit codes: 0 done; 2 an error that
the user can fix, in one sentence.
"""

import argparse
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxrobust.command_line import reports_errors
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.models import BACKBONES, make_classifier
from jaxrobust.models.storage import MODEL, StoredClassifier, save_classifier
from jaxrobust.models.torch_files import read_checkpoint
from jaxrobust.models.torch_names import canonical_names, torch_module
from jaxrobust.models.torch_weights import load_torch_weights


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
      tensors: by PyTorch name.

    Returns:
      (number of classes, variables of `make_classifier(arch, auxiliary="none")`).

    Raises:
      UserError: for an unknown architecture, or a tensor that is missing, unexpected or of another
        shape.
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


def _published_statistics(arch: str, num_classes: int) -> tuple[str, int, Any, Any]:
    """(whose, side in pixels, mean, std) of the images of published weights, empty if unknown."""
    if arch == "efficientnet_lite0":
        return "EfficientNet-Lite's", 224, *EFFICIENTNET_LITE
    if num_classes == 1000:
        return "ImageNet's", 224, *IMAGENET
    if num_classes == 100:
        return "CIFAR-100's", 32, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    return "", 0, (), ()


def _three_numbers(text: str) -> tuple[float, ...]:
    numbers = tuple(map(float, text.split(",")))
    if len(numbers) != 3:
        raise ValueError
    return numbers


def _class_names(path: pathlib.Path | None, num_classes: int) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        names = tuple(path.read_text().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    if len(names) != num_classes:
        raise UserError(f"{path} has {len(names)} lines, but there are {num_classes} classes.")
    return names


@reports_errors
def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jaxrobust.models.convert")
    parser.add_argument("--arch", required=True, help=", ".join(BACKBONES))
    parser.add_argument(
        "--from", dest="source", required=True, type=pathlib.Path, help=".pth or .safetensors"
    )
    parser.add_argument("--to", required=True, type=pathlib.Path, help="new folder")
    parser.add_argument(
        "--ema", action="store_true", help="convert the moving average if the file holds both"
    )
    numbers = {"type": _three_numbers, "metavar": "R,G,B"}
    parser.add_argument(
        "--mean",
        **numbers,
        help="of the images that it was trained on, on the [0, 1] scale; default: ImageNet's for "
        "1,000 classes, CIFAR-100's for 100",
    )
    parser.add_argument("--std", **numbers, help="standard deviation of these images; likewise")
    parser.add_argument("--size", type=int, help="side of these images in pixels; likewise")
    parser.add_argument("--classes", type=pathlib.Path, help="text file, one class name per line")
    args = parser.parse_args(argv)
    if args.arch not in BACKBONES:
        raise UserError(unknown_name("architecture", args.arch, BACKBONES))
    if (args.mean is None) != (args.std is None) or min(args.std or (1,)) <= 0:
        raise UserError("--mean and --std go together, and std is positive.")
    checkpoint = read_checkpoint(args.source, ema=args.ema)
    num_classes, variables = convert_state_dict(args.arch, checkpoint.tensors)
    whose, size, mean, std = _published_statistics(args.arch, num_classes)
    if args.mean:
        whose, mean, std = "as given", args.mean, args.std
    size = size if args.size is None else args.size
    if (args.to / MODEL).exists():
        raise UserError(f"{args.to} holds a model already; choose another folder.")
    classifier = StoredClassifier(
        args.arch,
        num_classes,
        variables,
        class_names=_class_names(args.classes, num_classes),
        image_shape=(size, size, 3) if size else (),
        mean=mean,
        std=std,
    )
    save_classifier(classifier, args.to)
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    print(f"{args.to}: {args.arch}, {num_classes} classes, {count:,} parameters.")
    if checkpoint.left:
        print(
            f"Converted: {'/'.join(checkpoint.taken)}; the file also holds "
            f"{', '.join(checkpoint.left)} (--ema chooses the moving average of the weights)."
        )
    if mean:
        rounded = ", ".join(f"{x:.4g}" for x in (*mean, *std))
        print(f"Mean and std of its images ({whose}): {rounded}; --mean and --std change them.")
    else:
        print("The file does not say how images are normalised; give --mean and --std.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
