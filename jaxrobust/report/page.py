"""The whole page: its sections in order, with the style sheet."""

import html
import os
import pathlib
from collections.abc import Sequence

from jaxrobust.engine.files import write_text
from jaxrobust.errors import UserError
from jaxrobust.report import compare, sections
from jaxrobust.report.label_sections import agreement, changed_labels, opening
from jaxrobust.report.markup import STYLE_SHEET, Images, paragraph, section
from jaxrobust.report.run_files import TASKS, RunFiles, read_run, single_seeds


def compose_page(groups: sections.Groups, images: Images, notes: Sequence[str]) -> str:
    """The HTML document."""
    first = next(iter(groups.values()))[0]
    alone = len(groups) == 1
    title = f"{', '.join(groups)} on {_dataset(first)}"
    seeds = [run.config["seed"] for run in next(iter(groups.values()))]
    facts = [TASKS[first.config["task"]]]
    if alone:
        facts.append(f"seed{'s' if seeds[1:] else ''} {', '.join(map(str, seeds))}")
    finished = first.results is not None
    is_on_labels = first.config["task"] == "noisy_labels"
    parts = [
        f"<header><h1>{html.escape(title)}</h1>{paragraph('; '.join(facts) + '.')}</header>",
        *(paragraph(note, "warning") for note in notes),
        opening(first, images) if alone and is_on_labels else "",
        sections.headline(groups) if finished else "",
        changed_labels(groups) + agreement(groups) if is_on_labels and not alone else "",
        sections.curves(groups, images) if finished else "",
    ]
    details = [
        sections.of_group(label, runs, images, alone=alone) for label, runs in groups.items()
    ]
    parts += details if alone else [section("One by one", *details)]
    parts += [sections.recipe(groups), sections.environment(groups), sections.times(groups)]
    css = STYLE_SHEET.read_text(encoding="utf-8")
    body = "\n".join(filter(None, parts))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(title)}</title><style>{css}</style></head>\n"
        f"<body><main>\n{body}\n</main>\n"
        f"<footer>Written by <code>python -m jaxrobust report</code>.</footer></body></html>\n"
    )


def _dataset(run: RunFiles) -> str:
    """The folder, of a data set of one's own, else its name."""
    name, path = (run.config["dataset"].get(key, "") for key in ("name", "path"))
    if path and name in ("image_folder", "features", "multilabel_folder"):
        return pathlib.Path(path).resolve().name
    return run.results["dataset"] if run.results else name


def write_report(
    workdirs: Sequence[str | os.PathLike],
    out: str | os.PathLike | None = None,
    *,
    by: str = "",
) -> pathlib.Path:
    """Writes the page about some runs.

    Args:
      workdirs: folders of runs, of one seed or of several.
      out: folder for `index.html` and the PNGs; None: `report/` in the workdir, of several
        workdirs `report/` here.
      by: config fields whose values define the groups, joined by commas; empty: what differs.

    Raises:
      UserError: if a folder is not a workdir, its files are damaged, the runs are of different
        problems, or `out` cannot be written.
    """
    folders = [pathlib.Path(workdir) for workdir in workdirs]
    beside = folders[0] if len(folders) == 1 else pathlib.Path()
    out = pathlib.Path(out or beside / "report")
    single = single_seeds(folders)
    finished = [w for w in single if (w / "results.json").exists()]
    notes = [f"{w} is not finished and is left out." for w in single if w not in finished]
    if not finished and len(single) > 1:
        raise UserError(
            f"None of {', '.join(map(str, single))} is finished; name a single one for a page of "
            "what it has written so far."
        )
    if finished:
        of_labels = compare.folders(finished, by)
        groups = {label: [read_run(w) for w in runs] for label, runs in of_labels.items()}
    else:
        run = read_run(single[0])
        groups = {run.config["method"]: [run]}
        notes = [
            "This run is not finished; the page shows what it has written so far. Rerun its "
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
