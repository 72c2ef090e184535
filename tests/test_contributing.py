"""The method that CONTRIBUTING adds, in two files of one's own, runs as its recipe says."""

import csv
import json
import pathlib
import re

import pytest
from commands import Command

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("quick_commands")

RUN = (
    *("--config=lse_recipe.py:digits", "--workdir=run", "--config.num_epochs=1"),
    *("--config.al.rounds=2", "--config.dataset.max_train=200", "--config.dataset.max_test=50"),
)


def _command(folder, *arguments):
    return Command("jaxrobust.main", *RUN, *arguments, folder=folder).end()


@pytest.fixture
def folder(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    files = re.findall(r'^```python title="(.*?)"\n(.*?)^```$', text, re.M | re.S)
    assert len(files) == 2
    for name, code in files:
        (tmp_path / name).write_text(code)
    return tmp_path


def test_the_method_of_contributing_queries_the_least_evident_images(folder):
    code, stderr = _command(folder, "--config.lse.temperature=2", "--config.lse.temperature=4.0")
    assert code == 0, stderr
    config = json.loads((folder / "run/config.json").read_text())
    assert (config["method"], config["lse"]) == ("lse", {"temperature": 4.0})
    with open(folder / "run/queries/round_00.csv", newline="") as file:
        evidence = [float(row["evidence"]) for row in csv.DictReader(file)]
    assert len(evidence) == 30 and evidence == sorted(evidence)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.lse.temperature=0", "lse.temperature=0.0 must be a number in (0, inf)"),
        ("--config.lse.temprature=1", "did you mean --config.lse.temperature?"),
    ],
)
def test_its_options_are_checked_as_all_others(folder, flag, words):
    code, stderr = _command(folder, flag)
    assert code == 2
    assert words in stderr and len(stderr.strip().splitlines()) == 1
    assert not (folder / "run").exists()
