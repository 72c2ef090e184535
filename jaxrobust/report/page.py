"""The whole page: its sections in order, with the style sheet."""

import html
from collections.abc import Sequence

from jaxrobust.report.markup import STYLE_SHEET, Images, paragraph, section
from jaxrobust.report.sections import (
    Groups,
    curves,
    environment,
    headline,
    of_group,
    recipe,
    times,
)
from jaxrobust.report.workdir import TASKS


def compose_page(groups: Groups, images: Images, notes: Sequence[str]) -> str:
    """The HTML document.

    Args:
      groups: runs by label.
      images: where figures are written.
      notes: warnings, shown first.
    """
    first = next(iter(groups.values()))[0]
    alone = len(groups) == 1
    dataset = first.results["dataset"] if first.results else first.config["dataset"]["name"]
    title = f"{', '.join(groups)} on {dataset}"
    seeds = [run.config["seed"] for run in next(iter(groups.values()))]
    facts = [TASKS[first.config["task"]]]
    if alone:
        facts.append(f"seed{'s' if seeds[1:] else ''} {', '.join(map(str, seeds))}")
    finished = first.results is not None
    parts = [
        f"<header><h1>{html.escape(title)}</h1>{paragraph('; '.join(facts) + '.')}</header>",
        *(paragraph(note, "warning") for note in notes),
        headline(groups) if finished else "",
        curves(groups, images) if finished else "",
    ]
    details = [of_group(label, runs, images, alone=alone) for label, runs in groups.items()]
    parts += details if alone else [section("One by one", *details)]
    parts += [recipe(groups), environment(groups), times(groups)]
    css = STYLE_SHEET.read_text(encoding="utf-8")
    body = "\n".join(filter(None, parts))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(title)}</title><style>{css}</style></head>\n"
        f"<body><main>\n{body}\n</main>\n"
        f"<footer>Written by <code>python -m jaxrobust.report</code>.</footer></body></html>\n"
    )
