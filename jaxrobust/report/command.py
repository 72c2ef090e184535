"""`jaxrobust report`: finds the runs, groups them, and writes their page."""

import pathlib
from collections.abc import Sequence

from jaxrobust import compare
from jaxrobust.command_line import Parser, reports_errors
from jaxrobust.engine.files import write_text
from jaxrobust.errors import UserError
from jaxrobust.report.markup import Images
from jaxrobust.report.page import compose_page
from jaxrobust.report.workdir import read_run, single_seeds


def write_report(workdirs: Sequence[pathlib.Path], out: pathlib.Path, *, by: str) -> pathlib.Path:
    """Writes the page about some runs.

    Args:
      workdirs: folders of runs, of one seed or of several.
      out: folder for `index.html` and the PNGs.
      by: config fields whose values define the groups, joined by commas.

    Returns:
      Path of the page.

    Raises:
      UserError: if one is not a workdir, its files are damaged, the runs are of different problems,
        or `out` cannot be written.
    """
    single = single_seeds(workdirs)
    finished = [w for w in single if (w / "results.json").exists()]
    notes = [f"{w} is not finished and is left out." for w in single if w not in finished]
    if not finished and len(single) > 1:
        raise UserError(
            f"None of {', '.join(map(str, single))} is finished; name a single one for a page of "
            "what it has written so far."
        )
    if finished:
        folders = compare.folders(finished, by)
        groups = {label: [read_run(w) for w in of_label] for label, of_label in folders.items()}
    else:
        run = read_run(single[0])
        groups = {run.config["method"]: [run]}
        notes = [
            "This run is not finished; the page shows what it has written so far. Repeat its "
            "command to continue it."
        ]
    try:
        out.mkdir(parents=True, exist_ok=True)
        page = out / "index.html"
        write_text(page, compose_page(groups, Images(out), notes))
    except OSError as error:
        raise UserError(
            f"The report cannot be written to {out} ({error.strerror}); choose another --out."
        ) from None
    return page


@reports_errors
def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = Parser(
        "report",
        description="Writes a page about a run, or about several that are compared.",
    )
    parser.add_argument("workdirs", nargs="+", type=pathlib.Path, help="folders of runs")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        help="folder for index.html and the figures; default: report/ in the workdir, of several "
        "workdirs report/ here",
    )
    parser.add_argument(
        "--by", default="method", help="config field whose values define the groups"
    )
    arguments = parser.parse_args(argv)
    alone = len(arguments.workdirs) == 1
    out = arguments.out or (arguments.workdirs[0] if alone else pathlib.Path()) / "report"
    page = write_report(arguments.workdirs, out, by=arguments.by)
    print(f"report: {page}")
    return 0
