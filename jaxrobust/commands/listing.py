"""`jaxrobust list`: recipes with their variants, methods, data sets and networks."""

import shutil
import textwrap
from collections.abc import Iterator

from jaxrobust import recipes
from jaxrobust.commands.parser import Parser
from jaxrobust.recipes.registry import Registry


def _recipes() -> Iterator[tuple[str, str]]:
    for name in recipes.names():
        summary, variants = recipes.describe(name)
        yield name, f"{summary}: {', '.join(variants)}"


def _methods() -> Iterator[tuple[str, str]]:
    from jaxrobust.recipes import methods

    of_task = {
        "wrong labels": methods.NOISY_LABEL_METHODS,
        "find-label-issues --features alone": methods.JUDGES,
        "annotation": methods.STRATEGIES,
        "distillation": methods.DISTILLERS,
        "distillation, several labels": methods.MULTILABEL_DISTILLERS,
    }
    for task, registry in of_task.items():
        yield from _entries(registry, task)


def _entries(registry: Registry, task: str) -> Iterator[tuple[str, str]]:
    for name in sorted(registry):
        yield name, f"{task}: {registry.entry(name).summary}"


def _datasets() -> Iterator[tuple[str, str]]:
    from jaxrobust.data.sources import SOURCES

    return ((name, source.description) for name, source in SOURCES.items())


def _networks() -> Iterator[tuple[str, str]]:
    from jaxrobust import models

    for task, networks in {
        "wrong labels, annotation": models.NETWORKS,
        "distillation": models.BACKBONES,
    }.items():
        for name in sorted(networks):
            constructor = getattr(networks[name], "func", networks[name])
            yield name, f"{task}: {constructor.__doc__.splitlines()[0]}"


KINDS = {
    "recipes": _recipes,
    "methods": _methods,
    "datasets": _datasets,
    "networks": _networks,
}


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = Parser("list", description="Lists recipes, methods, data sets and networks.")
    parser.add_argument(
        "kinds",
        nargs="*",
        metavar="KIND",
        help=f"{', '.join(KINDS)}; default: the names of all kinds",
    )
    chosen = parser.parse_args(argv).kinds
    for kind in chosen:
        if kind not in KINDS:
            parser.error(f"there is no kind {kind!r}; choose from {', '.join(KINDS)}")
    width = max(shutil.get_terminal_size().columns, 60)
    for kind in chosen:
        _describe(kind, list(KINDS[kind]()), width)
    if not chosen:
        for kind, entries in KINDS.items():
            names = ", ".join(dict.fromkeys(name for name, _ in entries()))
            print(textwrap.fill(f"{kind}: {names}", width, subsequent_indent="  "))
        print("\n`jaxrobust list KIND` describes each, such as `jaxrobust list recipes`.")
    return 0


def _describe(kind: str, rows: list[tuple[str, str]], width: int) -> None:
    """Prints a line, or a paragraph, for every name."""
    print(kind)
    column = max(len(name) for name, _ in rows)
    for name, text in rows:
        start = f"  {name:<{column}}  "
        print(
            textwrap.fill(
                text,
                max(width, column + 40),
                initial_indent=start,
                subsequent_indent=" " * len(start),
                break_on_hyphens=False,
            )
        )
    print()
