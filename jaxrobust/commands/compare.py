"""`jaxrobust compare`: a figure and a table of finished runs."""

import pathlib

from jaxrobust.commands.parser import Parser, new_folder
from jaxrobust.engine.files import write_text
from jaxrobust.report import compare


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = Parser("compare", description="Compares finished runs.")
    parser.add_argument("workdirs", nargs="+", type=pathlib.Path, help="folders of finished runs")
    parser.add_argument("--out", type=new_folder, required=True, help="folder for the figure")
    parser.add_argument(
        "--by",
        default="",
        help=(
            "config field whose values define the groups; default: the method, or whatever else "
            "differs"
        ),
    )
    parser.add_argument("--x", help="horizontal axis: rounds (default) or annotated; epochs")
    arguments = parser.parse_args(argv)
    groups = compare.group(arguments.workdirs, arguments.by)
    figure = arguments.out / "learning_curves.png"
    compare.draw(groups, figure, x=arguments.x)
    text = f"{compare.table(groups)}\n\nIn percent. {compare.note(groups)}"
    print(text)
    write_text(arguments.out / "table.md", text + "\n")
    print(f"figure: {figure}")
    return 0
