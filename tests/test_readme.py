"""README says what is true."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def _blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def test_the_first_two_commands_are_the_ones_that_ci_runs():
    main_job, tests = _blocks("bash")
    assert "python -m jaxrobust.main --config=configs/dcfs.py:digits" in main_job
    assert "python -m pytest" in tests


def test_the_python_example_runs():
    (example,) = _blocks("python")
    subprocess.run([sys.executable, "-W", "error", "-c", example], cwd=ROOT, check=True)


def test_files_that_it_names_exist():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
