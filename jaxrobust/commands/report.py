"""`jaxrobust report`: a page about one run, or a comparison of several."""

import pathlib

from jaxrobust.commands.parser import Parser, new_folder
from jaxrobust.report.page import write_report


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = Parser(
        "report",
        description="Writes a page about one run, or a comparison of several.",
    )
    parser.add_argument("workdirs", nargs="+", type=pathlib.Path, help="folders of runs")
    parser.add_argument(
        "--out",
        type=new_folder,
        help=(
            "folder for index.html and the figures; default: report/ in the workdir, or in the "
            "current folder for several workdirs"
        ),
    )
    parser.add_argument(
        "--by",
        default="",
        help=(
            "config field whose values define the groups; default: the method, or whatever else "
            "differs"
        ),
    )
    arguments = parser.parse_args(argv)
    page = write_report(arguments.workdirs, arguments.out, by=arguments.by)
    print(f"report: {page}")
    return 0
