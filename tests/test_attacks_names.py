"""Names of files and classes that are no text, no single line, formulas or scripts.

A new name is a line of `NAMES`; what writes or reads names takes all of them in one run.
"""

import contextlib
import csv
import io
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import threading

import numpy as np
import pages
import pytest
import tiny_recipe
from PIL import Image

import jaxrobust
from jaxrobust import tasks
from jaxrobust.commands import cli
from jaxrobust.data import names
from jaxrobust.data.tables import escape_formula, read_rows, to_csv, unescape_formula
from jaxrobust.report.run_files import read_rows as report_rows
from jaxrobust.review import annotation_page, annotation_tools, answer_page, review_page
from jaxrobust.review.server import Desk, make_server

# As they are on the disk of a Linux machine.
NAMES = {
    "no UTF-8": b"caf\xe9",
    "half a letter": b"\xe7\x8c",
    "line break": b"two\nlines",
    "return": b"a\rb",
    "tab": b"a\tb",
    "controls": b"bell\x07\x1b[31m",
    "line separator": "a\u2028b".encode(),
    "next line": "a\x85b".encode(),
    "backslash": b"a\\b",
    "what an escape looks like": b"a\\nb\\xff\\\\c",
    "backslash and line break": b"a\\\nb",
    "formula": b"=HYPERLINK(0)",
    "apostrophe": b"'quoted",
    "script": b"<script>alert(1)<",
    "attribute": b'"onerror="alert(1)',
    "separators": b'a,b;"c"',
    "per cent": b"100%25 #1 ?x=y&z",
    "template": b"${0} {{x}} $\\frac",
    "not normal": "e\u0301t\u00e9".encode(),
    "right to left": "\u202eabc".encode(),
    "emoji": "\U0001f408".encode(),
    "blank": b" a b ",
    "null": b"NULL",
}
TEXTS = {name: os.fsdecode(given) for name, given in NAMES.items()}
CLASSES = list(TEXTS.values())


@pytest.mark.parametrize("name", TEXTS)
def test_a_name_is_written_as_one_line_of_text_and_comes_back(name):
    text = names.escaped(TEXTS[name])
    assert len(text.encode().splitlines()) == 1 and len(text.splitlines()) == 1
    assert names.restored(text) == TEXTS[name]
    assert names.unquoted(names.quoted(TEXTS[name])) == TEXTS[name]
    cell = escape_formula(TEXTS[name])
    assert unescape_formula(cell) == TEXTS[name] and cell[0] not in "=+-@\t\r"


@pytest.mark.parametrize("name", ["plain", "été", "a\\b", "C:\\data\\cat", "\U0001f408", "a b"])
def test_most_names_stay_as_they_are(name):
    assert names.escaped(name) == name


def test_a_table_of_all_names_is_read_as_it_was_written(tmp_path):
    rows = [[i, escape_formula(text)] for i, text in enumerate(TEXTS.values())]
    (tmp_path / "t.csv").write_text(to_csv([["id", "name"], *rows]), encoding="utf-8", newline="")
    found = [unescape_formula(row.cells["name"]) for row in read_rows(tmp_path / "t.csv")]
    # Blanks around a cell are a spreadsheet's.
    assert found == [text.strip(" ") for text in TEXTS.values()]
    assert [name for _, name in report_rows(tmp_path / "t.csv")[1:]] == list(TEXTS.values())


def test_the_tools_of_others_give_the_names_back(tmp_path):
    items = [annotation_tools.Item(i, text, text, 0.5, {}) for i, text in enumerate(TEXTS.values())]
    expected = [annotation_tools.Answer(text, text) for text in TEXTS.values()]
    xml = annotation_tools.cvat_annotations(items, list(TEXTS.values()), [(8, 8)] * len(items))
    (tmp_path / "cvat.xml").write_text(xml, encoding="utf-8", newline="")
    assert annotation_tools.read_cvat(tmp_path / "cvat.xml") == expected
    asked = annotation_tools.label_studio_tasks(items, model="m")
    done = [
        {**task, "annotations": [{"result": task["predictions"][0]["result"]}]} for task in asked
    ]
    (tmp_path / "studio.json").write_text(json.dumps(done, ensure_ascii=False), encoding="utf-8")
    assert annotation_tools.read_label_studio(tmp_path / "studio.json") == expected
    annotation_tools.label_studio_interface(list(TEXTS.values())).encode()


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_pages_write_and_read_names_as_python_does(tmp_path):
    script = (
        pathlib.Path(answer_page.__file__).with_name("page_tables.js").read_text(encoding="utf-8")
    )
    found = re.search(r"// As jaxrobust\.data\.names.*?(?=const quote)", script, re.DOTALL)
    program = f"""{found[0]}
const given = JSON.parse(require("fs").readFileSync(0));
console.log(JSON.stringify(given.map((text) => [
  escapeFormula(text), unescapeFormula(escapeFormula(text)), encodeName(text)])));"""
    (tmp_path / "names.js").write_text(program, encoding="utf-8")
    answer = subprocess.run(
        ["node", str(tmp_path / "names.js")],
        input=json.dumps(list(TEXTS.values())),
        capture_output=True,
        text=True,
        check=True,
    )
    for text, (cell, again, address) in zip(TEXTS.values(), json.loads(answer.stdout), strict=True):
        assert cell == escape_formula(text) and again == text
        assert names.unquoted(address) == text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two class folders and their images, all named so; their names are never those of others."""
    root = tmp_path_factory.mktemp("names") / "data"
    rng = np.random.default_rng(0)
    classes = (b"ca\xe9\nt=<script>", b"=do\\ng")
    try:
        for number, class_name in enumerate(classes):
            os.makedirs(os.path.join(os.fsencode(root), class_name))
            for i, name in enumerate(NAMES.values()):
                pixels = rng.integers(0, 256, (8, 8, 3), np.uint8) // 2 + 100 * number
                path = os.path.join(os.fsencode(root), class_name, b"%d %s.png" % (i, name))
                Image.fromarray(pixels.astype(np.uint8)).save(os.fsdecode(path), "PNG")
    except OSError:
        pytest.skip("this file system keeps no such names")
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory, tiny_network, one_device):
    """A workdir of wrong labels found in that folder."""
    workdir = tmp_path_factory.mktemp("run")
    config = tiny_recipe.recipe("dpc")
    config.update_from_flattened_dict(
        {
            "dataset.name": "image_folder",
            "dataset.path": str(folder),
            "dataset.image_size": 8,
            "dataset.mean": (0.5,) * 3,
            "dataset.std": (0.25,) * 3,
            "noise.kind": "none",
            "num_epochs": 2,
            "dpc.warm_up": 1,
            "batch_size": 16,
        }
    )
    tasks.run(config, workdir)
    return workdir


def _names_of(folder):
    return {os.path.relpath(path, folder) for path in folder.glob("*/*.png")}


def _assert_harmless(folder):
    """No file is other than UTF-8, no page holds a script of a name, no cell is a formula."""
    for path in folder.rglob("*"):
        if path.suffix in (".csv", ".html", ".json", ".md", ".xml"):
            text = path.read_text(encoding="utf-8")
            assert path.suffix != ".html" or "<script>al" not in text, path
        if path.suffix == ".csv":
            for cell in itertools.chain.from_iterable(csv.reader(io.StringIO(text, newline=""))):
                assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")) or _is_number(cell), (
                    path
                )


def _is_number(cell):
    with contextlib.suppress(ValueError):
        return bool(float(cell) or True)


# What writes a table of names of classes or items -> its call.
TABLES = {
    "find_label_issues": lambda path: jaxrobust.find_label_issues(
        np.array(CLASSES * 2), pred_probs=_PROBS, class_names=CLASSES
    ).save(path),
    "consensus": lambda path: jaxrobust.consensus(
        np.array([CLASSES, CLASSES]).T, items=CLASSES, annotators=CLASSES[:2]
    ).save(path),
}  # fmt: skip
_PROBS = np.tile(np.eye(len(NAMES)) * 0.9 + 0.1 / len(NAMES), (2, 1))


@pytest.mark.parametrize("table", TABLES)
def test_no_cell_of_a_table_is_a_formula(table, tmp_path):
    TABLES[table](tmp_path / "table.csv")
    assert report_rows(tmp_path / "table.csv")
    _assert_harmless(tmp_path)


def test_a_run_writes_every_name_and_reads_it_again(run, folder):
    header, *rows = report_rows(run / "label_quality.csv")
    found = {row[header.index("file")] for row in rows}
    assert found <= _names_of(folder) and len(found) == len(rows) > 30
    labels = {row[header.index("given_label")] for row in rows}
    assert labels == {os.fsdecode(b"ca\xe9\nt=<script>"), "=do\\ng"}
    _assert_harmless(run)


# Command -> its arguments, of the run, the folder of images and an empty folder.
COMMANDS = {
    "report": lambda run, data, out: ["report", run, f"--out={out / 'report'}"],
    "export for Label Studio": lambda run, data, out: [
        "export",
        run,
        "--to=label-studio",
        "--top=9",
        f"--out={out}",
    ],
    "export for CVAT": lambda run, data, out: [
        "export",
        run,
        "--to=cvat",
        "--top=9",
        f"--out={out}",
    ],
    "predict": lambda run, data, out: ["predict", run, data, f"--out={out / 'predictions.csv'}"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_every_name(command, run, folder, tmp_path, capfd):
    arguments = [str(argument) for argument in COMMANDS[command](run, folder, tmp_path)]
    code = cli.main(arguments)
    said = capfd.readouterr()
    assert code == 0, said.err
    assert "Traceback" not in said.err
    _assert_harmless(tmp_path)


def test_predictions_name_the_files(run, folder, tmp_path):
    out = tmp_path / "predictions.csv"
    assert cli.main(["predict", str(run), str(folder), f"--out={out}"]) == 0
    header, *rows = report_rows(out)
    assert {row[header.index("file")] for row in rows} == _names_of(folder)


def test_corrections_by_name_are_applied(run, folder, tmp_path):
    """What the page saves, and a person's spreadsheet keeps."""
    header, first, *_ = report_rows(run / "label_quality.csv")
    cells = dict(zip(header, first, strict=True))
    other = ({"=do\\ng", os.fsdecode(b"ca\xe9\nt=<script>")} - {cells["given_label"]}).pop()
    row = [cells["id"], cells["file"], cells["given_label"], other]
    table = tmp_path / "corrections.csv"
    header = ["id", "file", "given_label", "label", "decision"]
    table.write_text(to_csv([header, [*map(escape_formula, row), "other"]]), encoding="utf-8")
    out = tmp_path / "labels.csv"
    assert cli.main(["apply-corrections", str(folder), str(table), f"--out={out}"]) == 0
    labels = dict(report_rows(out)[1:])
    assert labels[cells["file"]] == other
    assert sum(os.path.dirname(file) != label for file, label in labels.items()) == 1


# ---------------------------------------------------------------------------- in the browser


def _annotation_page(path, root, files):
    """Every class is the answer of an image already."""
    rows = [
        [n, escape_formula(file), escape_formula(label), "0.5"]
        for n, (file, label) in enumerate(zip(files, TEXTS.values(), strict=True))
    ]
    page = path / "queries" / "round_00.html"
    annotation_page.write(page, [["id", "file", "label", "score"], *rows], CLASSES, root=root)
    (page.with_suffix(".csv")).write_text(to_csv([["id", "file", "label", "score"], *rows]))
    return page


def _review_page(path, root, files):
    """Every class is what a label should be."""
    rows = [
        review_page.Suspect(n, file, CLASSES[n - 1], CLASSES[n], 0.1, (CLASSES[n],), finding=file)
        for n, file in enumerate(files)
    ]
    review_page.write(path / "label_review.html", rows, CLASSES, root=root)
    return path / "label_review.html"


PAGES = {"annotation": (_annotation_page, "u"), "review": (_review_page, "a")}


@contextlib.contextmanager
def _served(path):
    server, address = make_server(Desk(path))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield address
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("is_served", [False, True], ids=["file", "served"])
@pytest.mark.parametrize("kind", PAGES)
def test_pages_show_and_save_every_name(kind, is_served, folder, tmp_path, browser):
    write, key = PAGES[kind]
    files = sorted(_names_of(folder), key=lambda file: int(file.rpartition("/")[2].split()[0]))
    files = [file for file in files if file.startswith("=do")]
    path = write(tmp_path, folder, files)
    served = _served(path) if is_served else contextlib.nullcontext(path)
    with served as address, pages.opened(browser, address) as page:
        for _ in files if kind == "review" else files[:1]:
            page.keyboard.press(key)
        page.evaluate("document.querySelectorAll('img').forEach((i) => { i.loading = 'eager'; })")
        shown = "[...document.querySelectorAll('.card img')].map((i) => i.naturalWidth)"
        pages.wait_until(page, f"{shown}.join() === Array({len(files)}).fill(8).join()")
        # Nothing of a name has become a part of the page.
        assert page.locator("script").count() == 2
        assert (
            page.evaluate(
                """[...document.querySelectorAll("*")].flatMap((node) => [...node.attributes])
            .filter((a) => a.name.startsWith("on") || a.value.startsWith("javascript:")).length"""
            )
            == 0
        )
        if is_served:
            pages.wait_until(page, "document.querySelector('#save').textContent === 'Saved ✓'")
            (table,) = path.parent.glob("*.csv")
        else:
            table = pages.downloaded(page, "#save", tmp_path)
    rows = [row.cells for row in read_rows(table)]
    labels = ["unknown", *CLASSES[1:]] if kind == "annotation" else CLASSES
    assert [unescape_formula(row["file"]) for row in rows] == files
    assert [unescape_formula(row["label"]) for row in rows] == [
        label.strip(" ") for label in labels
    ]
    for row in rows:
        assert not row["label"].startswith(("=", "+", "-", "@", "\t", "\r"))
