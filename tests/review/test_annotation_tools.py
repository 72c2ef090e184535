"""Label Studio and CVAT: files in their documented formats, there and back."""

import csv
import json
import pathlib
from xml.etree import ElementTree

import pytest
from PIL import Image

from jaxrobust.commands import cli
from jaxrobust.data.tables import to_csv
from jaxrobust.errors import UserError
from jaxrobust.review.annotation_tools import (
    Answer,
    Item,
    cvat_annotations,
    label_studio_interface,
    label_studio_tasks,
    read_cvat,
    read_label_studio,
)

EXPORTS = pathlib.Path(__file__).parents[1] / "data" / "tools"
FILES = ("train/cat/a.png", "train/cat/b ü.png", "train/dog/c.png", "train/dog/d.png")
SAID = [Answer(FILES[0], "dog"), Answer(FILES[1], "cat"), Answer(FILES[2], "")]


def test_tasks_are_as_label_studio_documents_them():
    items = [Item(3, FILES[1], "cat", 0.75, {"given_label": "dog"}), Item(4, "=x.png")]
    first, second = label_studio_tasks(items, model="dpc")
    assert first == {
        "data": {
            "image": "/data/local-files/?d=train/cat/b%20%C3%BC.png",
            "file": "train/cat/b ü.png",
            "given_label": "dog",
            "image_id": 3,
        },
        "predictions": [
            {
                "model_version": "jaxrobust dpc",
                "score": 0.75,
                "result": [
                    {
                        "id": "jaxrobust-3",
                        "from_name": "choice",
                        "to_name": "image",
                        "type": "choices",
                        "value": {"choices": ["cat"]},
                    }
                ],
            }
        ],
    }
    assert second == {
        "data": {"image": "/data/local-files/?d=%3Dx.png", "file": "=x.png", "image_id": 4}
    }
    names = ["cat", 'a "b" & <c>', "unknown"]
    view = ElementTree.fromstring(label_studio_interface(names, ["given_label"]))
    assert view.tag == "View" and view.find("Header").attrib == {
        "value": "Given label: $given_label"
    }
    assert view.find("Image").attrib == {"name": "image", "value": "$image"}
    choices = view.find("Choices")
    assert choices.attrib["name"] == "choice" and choices.attrib["toName"] == "image"
    assert choices.attrib["choice"] == "single"
    assert [choice.attrib["value"] for choice in choices] == names


@pytest.mark.parametrize("name", ["label_studio.json", "label_studio_min.json"])
def test_both_exports_of_label_studio_are_read(name):
    assert read_label_studio(EXPORTS / name) == SAID


def test_cvat_there_and_back(tmp_path):
    assert read_cvat(EXPORTS / "cvat.xml") == SAID[:2]
    items = [Item(0, FILES[1], "cat", 1.0), Item(1, FILES[2])]
    path = tmp_path / "annotations.xml"
    path.write_text(cvat_annotations(items, ["cat", "<dog>"], [(3, 4), (5, 6)]), encoding="utf-8")
    assert read_cvat(path) == [Answer(FILES[1], "cat")]
    root = ElementTree.parse(path).getroot()
    assert root.findtext("version") == "1.1"
    assert [x.text for x in root.findall("meta/task/labels/label/name")] == ["cat", "<dog>"]
    assert root.find("image").attrib == {
        "id": "0",
        "name": FILES[1],
        "width": "3",
        "height": "4",
    }
    assert root.find("image/tag").attrib == {"label": "cat", "source": "auto"}


def _task(**changes):
    result = {"from_name": "choice", "type": "choices", "value": {"choices": ["cat"]}}
    task = {"id": 5, "data": {"file": "a.png"}, "annotations": [{"result": [result]}]}
    return [task | changes]


MALFORMED = {
    "no json": ("{", r"is not JSON .*; export from Label Studio as JSON or JSON-MIN"),
    "no list": ("{}", "holds no list of tasks"),
    "no tasks": ("[1]", "holds no list of tasks"),
    "no image": (_task(data={}), r"task 1 \(id 5\) names neither a file nor an image"),
    "annotations of another kind": (_task(annotations={}), "task 1 .* has no list of annotations"),
    "no result": (_task(annotations=[{}]), "has an annotation without a result"),
    "a box": (
        _task(
            annotations=[
                {"result": [{"from_name": "choice", "type": "rectanglelabels", "value": {}}]}
            ]
        ),
        "has a result that is not a choice",
    ),
    "two choices": (
        [{"image": "a.png", "id": 1, "choice": {"choices": ["cat", "dog"]}}],
        "has the choices cat and dog, where one is asked for",
    ),
    "a number": ([{"image": "a.png", "id": 1, "choice": 3}], "has '3' instead of a choice"),
}


@pytest.mark.parametrize(("content", "words"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_export_of_label_studio(content, words, tmp_path):
    path = tmp_path / "e.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=words) as caught:
        read_label_studio(path)
    assert str(path) in str(caught.value)


MALFORMED_XML = {
    "no xml": ("{}", "is not XML"),
    "another": ("<cvat/>", "holds <cvat>, not <annotations>"),
    "a document type": ('<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "declares a document"),
    "no name": ("<annotations><image/></annotations>", "image 1 has no name"),
    "two tags": (
        '<annotations><image name="a"><tag label="x"/><tag label="y"/></image></annotations>',
        "a has the tags x and y",
    ),
    "no label": ('<annotations><image name="a"><tag/></image></annotations>', "without a label"),
}


@pytest.mark.parametrize(("content", "words"), MALFORMED_XML.values(), ids=MALFORMED_XML)
def test_a_malformed_export_of_cvat(content, words, tmp_path):
    path = tmp_path / "e.xml"
    path.write_text(content)
    with pytest.raises(UserError, match=words):
        read_cvat(path)


# The commands.


def _write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_csv(rows), encoding="utf-8")


def _read(path):
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def annotation(tmp_path):
    """A run that waits for its second query to be answered."""
    for file in FILES:
        (tmp_path / "data" / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 7)).save(tmp_path / "data" / file)
    run = tmp_path / "run"
    header = ["id", "file", "label", "score"]
    _write(run / "queries" / "round_00.csv", [header, [1, "x.png", "cat", 0.5]])
    rows = [[i, file, "", 0.25] for i, file in enumerate(FILES, start=10)]
    rows[3][2] = "unknown"
    _write(run / "queries" / "round_01.csv", [header, *rows])
    note = {"ids": [10, 11, 12, 13], "suggestions": [["cat", 0.9], ["dog", 0.6]] * 2}
    config = {"task": "active_learning", "oracle": "csv", "method": "bual"}
    config["dataset"] = {"path": str(tmp_path / "data")}
    (run / "queries" / "round_01.json").write_text(json.dumps(note))
    (run / "queries" / "images.json").write_text(json.dumps({"classes": {"cat": 0, "dog": 0}}))
    (run / "config.json").write_text(json.dumps(config))
    return run


@pytest.fixture
def review(tmp_path):
    """A finished run on wrong labels."""
    run = tmp_path / "noisy"
    header = ["id", "file", "given_label", "suggested_label", "clean_prob", "flagged", "reviewed"]
    rows = [
        [10, FILES[0], "cat", "dog", 0.01, 1, ""],
        [11, FILES[1], "cat", "dog", 0.02, 1, ""],
        [12, FILES[2], "dog", "cat", 0.03, 1, ""],
        [13, FILES[3], "dog", "dog", 0.9, 0, ""],
        [14, "e.png", "dog", "cat", 0.0, 0, "kept"],
    ]
    _write(run / "label_quality.csv", [header, *rows])
    config = {"task": "noisy_labels", "method": "dpc", "dataset": {"path": ""}}
    (run / "config.json").write_text(json.dumps(config))
    (run / "noise.json").write_text(json.dumps({"class_names": ["cat", "dog"]}))
    return run


@pytest.mark.parametrize("name", ["label_studio.json", "label_studio_min.json", "cvat.xml"])
def test_a_query_there_and_back(name, annotation, capsys):
    tool = "cvat" if name == "cvat.xml" else "label-studio"
    assert cli.main(["export", str(annotation), f"--to={tool}"]) == 0
    assert "4 images to annotate" in capsys.readouterr().out
    if tool == "cvat":
        assert "<name>unknown</name>" in (annotation / tool / "annotations.xml").read_text()
        assert json.loads((annotation / tool / "labels.json").read_text())[2]["name"] == "unknown"
    else:
        tasks = json.loads((annotation / tool / "tasks.json").read_text())
        assert [task["data"]["image_id"] for task in tasks] == [10, 11, 12, 13]
        assert tasks[1]["predictions"][0]["result"][0]["value"] == {"choices": ["dog"]}
    assert cli.main(["import", str(annotation), str(EXPORTS / name)]) == 0
    rows = _read(annotation / "queries" / "round_01.csv")
    skipped = "" if tool == "cvat" else "skip"
    assert [row["label"] for row in rows] == ["dog", "cat", skipped, "unknown"]
    assert [(row["id"], row["score"]) for row in rows] == [(str(i), "0.25") for i in range(10, 14)]


@pytest.mark.parametrize("name", ["label_studio.json", "label_studio_min.json"])
def test_wrong_labels_there_and_back(name, review, capsys):
    assert cli.main(["export", str(review), "--to=label-studio"]) == 0
    tasks = json.loads((review / "label-studio" / "tasks.json").read_text())
    assert [task["data"]["given_label"] for task in tasks] == ["cat", "cat", "dog"]
    assert [task["predictions"][0]["score"] for task in tasks] == [0.99, 0.98, 0.97]
    assert cli.main(["import", str(review), str(EXPORTS / name)]) == 0
    rows = _read(review / "corrections.csv")
    assert [tuple(row.values())[:5] for row in rows] == [
        ("10", FILES[0], "cat", "dog", "accept"),
        ("11", FILES[1], "cat", "cat", "keep"),
        ("12", FILES[2], "dog", "", "unsure"),
    ]
    capsys.readouterr()
    assert cli.main(["import", str(review), str(EXPORTS / name)]) == 2
    assert "already exists; name another table by --out=" in capsys.readouterr().err


def test_what_is_answered_wrongly(annotation, review, tmp_path, capsys):
    def refused(*command):
        assert cli.main(list(map(str, command))) == 2
        return capsys.readouterr().err

    export = tmp_path / "e.json"
    export.write_text(json.dumps([{"file": "z.png", "choice": "cat"}]))
    assert "'z.png' is not an image of" in refused("import", annotation, export)
    export.write_text(json.dumps([{"file": FILES[0], "choice": "zebra"}]))
    assert f"{FILES[0]} has the answer 'zebra', which is not a class" in refused(
        "import", annotation, export
    )
    assert "There is no file" in refused("import", annotation, tmp_path / "none.json")
    assert "holds no config.json" in refused("export", tmp_path, "--to=cvat")
    assert "holds no query of round 7" in refused("export", annotation, "--to=cvat", "--round=7")
    assert "restore the folder that the run used" in refused("export", review, "--to=cvat")
    _write(annotation / "queries" / "round_01.csv", [["id", "file", "label"], [99, "a", ""]])
    assert "line 2: id '99' was not asked about" in refused("import", annotation, export)
