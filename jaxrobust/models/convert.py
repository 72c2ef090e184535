"""Published PyTorch weights as parameters of our classifiers.

`python -m jaxrobust.models.convert --arch=resnet32x4 --from=checkpoint.pth --to=DIR`

Reads the state dicts of the RepDistiller and DHKD networks, of torchvision's, and of RepVGG and
Swin by their authors or timm (`.pth`, or `.safetensors`), and writes a folder that a distillation
recipe takes as its teacher. Exit codes: 0 done; 2 something the user can mend, in one sentence.
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

from jaxrobust.errors import UserError, unknown_name
from jaxrobust.models import BACKBONES, make_classifier
from jaxrobust.models.storage import MODEL, StoredClassifier, save_classifier
from jaxrobust.models.torch_files import read_state_dict
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
      UserError: for an unknown architecture, or a tensor that is missing, superfluous or misshaped.
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


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jaxrobust.models.convert")
    parser.add_argument("--arch", required=True, help=", ".join(BACKBONES))
    parser.add_argument(
        "--from", dest="source", required=True, type=pathlib.Path, help=".pth or .safetensors"
    )
    parser.add_argument("--to", required=True, type=pathlib.Path, help="new folder")
    args = parser.parse_args(argv)
    try:
        if args.arch not in BACKBONES:
            raise UserError(unknown_name("architecture", args.arch, BACKBONES))
        num_classes, variables = convert_state_dict(args.arch, read_state_dict(args.source))
        if (args.to / MODEL).exists():
            raise UserError(f"{args.to} holds a model already; choose another folder.")
        save_classifier(StoredClassifier(args.arch, num_classes, variables), args.to)
    except UserError as error:
        print(f"jaxrobust: {error}", file=sys.stderr)
        return 2
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    print(f"{args.to}: {args.arch}, {num_classes} classes, {count:,} parameters.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
