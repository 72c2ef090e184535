"""`jaxrobust review`: serves the page on which a person answers, and writes the table."""

import pathlib
import threading
import webbrowser

from jaxrobust.commands.parser import Parser
from jaxrobust.errors import UserError
from jaxrobust.review.server import Desk, make_server


def main(argv: list[str] | None = None) -> int:
    """`jaxrobust review`; returns the exit code."""
    parser = Parser(
        "review",
        description=(
            "Opens the page of a run for reviewing labels or annotating images, and writes "
            "corrections.csv or the table of the query after every answer. Stop it with Ctrl-C."
        ),
    )
    parser.add_argument(
        "run", type=pathlib.Path, metavar="RUN_OR_PAGE", help="workdir of a run, or an .html page"
    )
    parser.add_argument("--round", type=int, help="annotation round; default: the latest")
    parser.add_argument("--port", type=int, default=0, help="default: any free port")
    parser.add_argument(
        "--no-browser", action="store_true", help="print the address without opening a browser"
    )
    arguments = parser.parse_args(argv)
    desk = Desk(_page(arguments.run, arguments.round))
    server, address = make_server(desk, arguments.port)
    print(f"{address}\nEvery answer is written to {desk.table}; Ctrl-C ends it.", flush=True)
    if not arguments.no_browser:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
        desk.close()
    asked = len(desk.data["rows"])
    print(f"\n{desk.num_answered} of {asked} images are answered: {desk.table}")
    return 0


def _page(run: pathlib.Path, round_: int | None) -> pathlib.Path:
    if run.is_file():
        return run
    if not run.is_dir():
        raise UserError(f"There is no folder or page {run}; name the --workdir of a run.")
    if round_ is not None:
        pages = [run / "queries" / f"round_{round_:02d}.html"]
    else:
        pages = [run / "label_review.html", *sorted((run / "queries").glob("round_*.html"))[::-1]]
    for page in pages:
        if page.is_file():
            return page
    seeds = sorted(run.glob("seed_*"))
    hint = f", such as {seeds[0]}" if seeds else ""
    raise UserError(
        f"{run} holds no {pages[0].relative_to(run)}: name the --workdir of a finished "
        f"noisy-label run, or of a run that waits for annotation{hint}."
    )
