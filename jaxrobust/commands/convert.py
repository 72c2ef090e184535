"""`jaxrobust convert`: published PyTorch weights as a folder that a recipe takes as its teacher."""

import pathlib

import jax

from jaxrobust.commands.parser import Parser, new_folder
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.models import BACKBONES
from jaxrobust.models.convert import convert_state_dict, published_statistics
from jaxrobust.models.storage import MODEL, StoredClassifier, save_classifier
from jaxrobust.models.torch_files import read_checkpoint


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = Parser("convert", description="Converts published PyTorch weights.")
    parser.add_argument("--arch", required=True, help=", ".join(BACKBONES))
    parser.add_argument(
        "--from", dest="source", required=True, type=pathlib.Path, help=".pth or .safetensors"
    )
    parser.add_argument("--to", required=True, type=new_folder, help="new folder")
    parser.add_argument(
        "--ema", action="store_true", help="convert the moving average if the file holds both"
    )
    numbers = {"type": _three_numbers, "metavar": "R,G,B"}
    parser.add_argument(
        "--mean",
        **numbers,
        help=(
            "mean of the images that the network was trained on, on the [0, 1] scale; default: "
            "ImageNet's for 1,000 classes, CIFAR-100's for 100"
        ),
    )
    parser.add_argument("--std", **numbers, help="standard deviation of these images")
    parser.add_argument("--size", type=int, help="side of these images in pixels")
    parser.add_argument("--classes", type=pathlib.Path, help="text file, one class name per line")
    args = parser.parse_args(argv)
    if args.arch not in BACKBONES:
        raise UserError(unknown_name("architecture", args.arch, BACKBONES))
    if (args.mean is None) != (args.std is None) or min(args.std or (1,)) <= 0:
        raise UserError("--mean and --std go together, and std is positive.")
    checkpoint = read_checkpoint(args.source, ema=args.ema)
    num_classes, variables = convert_state_dict(args.arch, checkpoint.tensors)
    whose, size, mean, std = published_statistics(args.arch, num_classes)
    if args.mean:
        whose, mean, std = "as given", args.mean, args.std
    size = size if args.size is None else args.size
    if (args.to / MODEL).exists():
        raise UserError(f"{args.to} already holds a model; choose another folder.")
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
        print("The file does not state how images are normalised; give --mean and --std.")
    return 0


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
