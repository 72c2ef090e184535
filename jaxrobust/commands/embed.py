"""`jaxrobust embed`: computes the features of a folder of images, as a file."""

import sys

from jaxrobust.commands.parser import Parser, new_file
from jaxrobust.models.embedding import MAX_VIEWS, ON_CORRUPT, embed


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = Parser("embed", description="Computes features of images with a pretrained network.")
    parser.add_argument("folder", metavar="DIR", help="folder of images; see jaxrobust.embed")
    parser.add_argument("--out", required=True, type=new_file, help="file.npz")
    parser.add_argument(
        "--backbone",
        default="efficientnet_lite0",
        help="efficientnet_lite0, efficientnet_lite2, hf:REPO or a folder",
    )
    parser.add_argument("--views", default=1, type=int, help=f"1 to {MAX_VIEWS}")
    parser.add_argument(
        "--size", type=int, help="side of the images in pixels; default: 128, or the network's own"
    )
    parser.add_argument("--batch_size", default=64, type=int)
    parser.add_argument("--on_corrupt", default="stop", choices=ON_CORRUPT)
    args = parser.parse_args(argv)
    try:
        features = embed(
            args.folder,
            backbone=args.backbone,
            views=args.views,
            size=args.size,
            batch_size=args.batch_size,
            progress=True,
            on_corrupt=args.on_corrupt,
        )
        features.save(args.out)
    except KeyboardInterrupt:
        print("jaxrobust: stopped; rerun the same command to resume.", file=sys.stderr)
        return 130
    print(f"{args.out}: {' x '.join(map(str, features.array.shape))} features, {args.backbone}.")
    return 0
