"""`jaxrobust export`: a trained network as ONNX, or a run's images for an annotation tool."""

import argparse
import dataclasses
import json
import pathlib

from PIL import Image

from jaxrobust.commands.parser import Parser, new_file, new_folder
from jaxrobust.data.names import escaped
from jaxrobust.errors import UserError
from jaxrobust.review.annotation_tools import (
    LOCAL_FILES,
    cvat_annotations,
    label_studio_interface,
    label_studio_tasks,
)
from jaxrobust.review.questions import Questions, questions

TOOLS = ("label-studio", "cvat")


def main(argv: list[str] | None = None) -> int:
    """The command, which depends on whether `--to` is given; returns its exit code."""
    argv = argv or []
    to_a_tool = any(argument.partition("=")[0] == "--to" for argument in argv)
    return _questions(argv) if to_a_tool else _network(argv)


def _network(argv: list[str]) -> int:
    parser = Parser(
        "export",
        description="Writes a trained network as an ONNX file.",
        epilog=(
            "Export the images that a run asks a person about by jaxrobust export RUN "
            "--to=label-studio, or --to=cvat."
        ),
    )
    parser.add_argument("folder", metavar="DIR", type=pathlib.Path, help="student/ or teacher/")
    parser.add_argument("--out", required=True, type=new_file, help="file.onnx")
    parser.add_argument(
        "--size", type=int, help="side of the images in pixels, if DIR does not state it"
    )
    parser.add_argument(
        "--normalized", action="store_true", help="take images that are already normalised"
    )
    parser.add_argument("--probabilities", action="store_true", help="instead of logits")
    parser.add_argument("--int8", action="store_true", help="dynamic quantisation to 8 bits")
    args = parser.parse_args(argv)
    from jaxrobust.models.onnx_export import save_onnx
    from jaxrobust.models.storage import load_classifier

    classifier = load_classifier(args.folder)
    if args.size:
        shape = (args.size, args.size, 3)
        classifier = dataclasses.replace(classifier, image_shape=shape)
    written = save_onnx(
        classifier,
        args.out,
        normalize=not args.normalized,
        probabilities=args.probabilities,
        int8=args.int8,
    )
    print(
        f"{args.out}: {written.num_bytes / 1e6:.2f} MB, opset {written.opset}, outputs differ by "
        f"{written.difference:.1e} of the largest."
    )
    return 0


def add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=pathlib.Path, metavar="RUN", help="workdir of the run")
    parser.add_argument(
        "--round", type=int, help="for annotation: round of the query, from 0; default: the latest"
    )
    parser.add_argument(
        "--top",
        type=int,
        help="for wrong labels: number of the most suspicious labels; default: all flagged labels",
    )


def _questions(argv: list[str]) -> int:
    parser = Parser(
        "export",
        description=(
            "Writes the images of a run for an annotation tool: those of its latest query, or "
            "those whose labels look wrong, with the run's suggestions."
        ),
    )
    add_run(parser)
    parser.add_argument("--to", choices=TOOLS, required=True)
    parser.add_argument(
        "--url",
        default=LOCAL_FILES,
        help=(
            "for Label Studio: prefix of every file; default: local files, with the folder of "
            "the data set as LOCAL_FILES_DOCUMENT_ROOT"
        ),
    )
    parser.add_argument(
        "--out", type=new_folder, help="folder; default: RUN/label-studio or RUN/cvat"
    )
    arguments = parser.parse_args(argv)
    asked = questions(arguments.run, arguments.round, arguments.top)
    if not asked.items:
        raise UserError(
            f"{asked.table} flags no label; give the number of the most suspicious labels to "
            "export by --top=."
        )
    folder = arguments.out or arguments.run / arguments.to
    if arguments.to == "label-studio":
        tasks = label_studio_tasks(asked.items, model=asked.method, url=arguments.url)
        files = {
            "tasks.json": json.dumps(tasks, indent=2, ensure_ascii=False) + "\n",
            "interface.xml": label_studio_interface(asked.choices, asked.facts),
        }
    else:
        labels = [
            {"name": escaped(name), "type": "tag", "attributes": []} for name in asked.choices
        ]
        files = {
            "annotations.xml": cvat_annotations(asked.items, asked.choices, _sizes(asked)),
            "labels.json": json.dumps(labels, indent=2, ensure_ascii=False) + "\n",
        }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
    written = " and ".join(str(folder / name) for name in files)
    print(f"{len(asked.items)} images to annotate: {written}")
    return 0


def _sizes(asked: Questions) -> list[tuple[int, int]]:
    sizes = []
    for item in asked.items:
        try:
            with Image.open(asked.root / item.file) as image:
                sizes.append(image.size)
        except OSError as error:
            raise UserError(
                f"{asked.root / item.file} cannot be read ({error}), but CVAT needs the sizes of "
                "images; restore the folder that the run used."
            ) from None
    return sizes
