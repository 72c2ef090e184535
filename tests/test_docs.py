"""The documentation's examples run, and no function is left out of it."""

import doctest
import importlib
import inspect
import operator
import pathlib
import pkgutil
import re
import runpy

import numpy as np
import pytest
import tiny_recipe

import jaxrobust
from jaxrobust import losses, models, selection

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGES = {"losses": losses, "selection": selection}


def test_every_example_of_the_losses_page_gives_what_it_says():
    result = doctest.testfile(
        str(DOCS / "losses.md"), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert result.attempted > 100
    assert result.failed == 0


def test_every_example_of_the_page_for_python_gives_what_it_says(monkeypatch):
    # A student that is quicker to compile.
    monkeypatch.setitem(models.BACKBONES, "resnet8", tiny_recipe.BACKBONES["tiny4"])
    pytest.importorskip("pandas")
    pytest.importorskip("datasets")
    result = doctest.testfile(
        str(DOCS / "from_python.md"),
        module_relative=False,
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
    )
    assert result.attempted > 20
    assert result.failed == 0


def test_every_example_of_text_and_tables_gives_what_it_says(tmp_path, monkeypatch):
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(
        str(DOCS / "text_and_tables.md"),
        module_relative=False,
        optionflags=doctest.NORMALIZE_WHITESPACE,
    )
    assert result.attempted > 15
    assert result.failed == 0


PUBLIC = {
    name: member
    for name in jaxrobust.__all__
    if callable(member := getattr(jaxrobust, name)) and member is not jaxrobust.UserError
}
# That train for seconds, which the page for Python does, or read what is not there.
NOT_RUN = ("RobustClassifier", "distill", "load_classifier")


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_docstring_has_an_example_that_runs(name):
    pytest.importorskip("pandas")
    examples = [
        test
        for test in doctest.DocTestFinder().find(PUBLIC[name], name, globs={**PUBLIC, "np": np})
        if test.examples
    ]
    assert name in {test.name for test in examples}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in examples:
        if name in NOT_RUN:
            compile("".join(example.source for example in test.examples), name, "exec")
        else:
            assert runner.run(test).failed == 0


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_function_has_an_example(name):
    members = inspect.getmembers(PACKAGES[name], lambda member: not inspect.ismodule(member))
    public = {member for member, _ in members if not member.startswith("_")}
    used = re.findall(rf"\b{name}\.(\w+)", (DOCS / "losses.md").read_text())
    assert public <= set(used)


@pytest.mark.parametrize("name", PACKAGES)
def test_every_module_is_in_the_reference(name):
    modules = pkgutil.iter_modules(PACKAGES[name].__path__, f"jaxrobust.{name}.")
    wanted = {module.name for module in modules if "._" not in module.name}
    listed = re.findall(r"^::: (\S+)$", (DOCS / "api" / f"{name}.md").read_text(), re.M)
    assert wanted == set(listed)


def test_the_csv_of_the_results_is_that_of_the_page():
    namespace = runpy.run_path(str(DOCS / "results_csv.py"))
    made = namespace["as_csv"]((DOCS / "results.md").read_text())
    assert made == (DOCS / "results.csv").read_text(), "python docs/results_csv.py"


def test_a_table_as_csv():
    rows = runpy.run_path(str(DOCS / "results_csv.py"))["rows"]
    table = [
        "## A",
        "",
        "| | x | y |",
        "|---|---|---|",
        "| **b** | −1,200.5 ± 3 | c \\| d |",
        "| | 5 % | |",
    ]
    assert list(rows("\n".join(table))) == [
        ("A", 1, 1, "**b**", "x", "−1,200.5 ± 3", "-1200.5", "3"),
        ("A", 1, 1, "**b**", "y", "c | d", "", ""),
        ("A", 1, 2, "**b**", "x", "5 %", "5", ""),
        ("A", 1, 2, "**b**", "y", "", "", ""),
    ]


def test_recipes_and_fields_in_commands_exist():
    pages = [ROOT / "README.md", *DOCS.rglob("*.md")]
    text = "\n".join(page.read_text() for page in pages).replace("\\\n", " ")
    commands = re.findall(
        r"(?:--config=|jaxrobust run )(?:configs/)?([a-z]\w*)(?:\.py)?:([\w.]+\w)([^`\n]*)", text
    )
    assert len(commands) > 40
    for recipe, variant, rest in commands:
        config = importlib.import_module(f"jaxrobust.recipes.{recipe}").get_config(variant)
        for field in re.findall(r"--config\.([\w.]+)=", rest):
            operator.attrgetter(field)(config)
