"""Files of annotation tools: classification of images by Label Studio and CVAT.

Label Studio: JSON tasks with pre-annotations ("predictions"), the XML of a labelling interface, and
both JSON exports, full and JSON-MIN. CVAT: "CVAT for images 1.1", with tags.
"""

import dataclasses
import json
import pathlib
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from jaxrobust.data import names
from jaxrobust.data.tables import refuse_if_any
from jaxrobust.errors import DataError

LOCAL_FILES = "/data/local-files/?d="
"""URL at which Label Studio serves the files below its `LOCAL_FILES_DOCUMENT_ROOT`."""

_CHOICE, _IMAGE = "choice", "image"  # names of the interface's tags
_MODEL = "jaxrobust"


@dataclasses.dataclass(frozen=True)
class Item:
    """An image to annotate."""

    id: int  # position in the run's data set
    file: str  # relative to the folder of the data set
    suggested: str = ""  # the suggested class; empty for none
    score: float = 0.0  # of the suggestion, by which the tool can sort
    # further text to show, by name
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer for an image; `label` is empty if it was skipped."""

    file: str
    label: str


def label_studio_tasks(items: Iterable[Item], *, model: str, url: str = LOCAL_FILES) -> list[dict]:
    """A task for Label Studio's import per image; `url` prefixes percent-encoded files."""
    tasks = []
    for item in items:
        data = {
            _IMAGE: url + names.quoted(item.file),
            "file": names.escaped(item.file),
            **item.facts,
        }
        task: dict[str, Any] = {"data": {**data, "image_id": item.id}}
        if item.suggested:
            result = {
                "id": f"{_MODEL}-{item.id}",
                "from_name": _CHOICE,
                "to_name": _IMAGE,
                "type": "choices",
                "value": {"choices": [names.escaped(item.suggested)]},
            }
            model_version = f"{_MODEL} {model}"
            task["predictions"] = [
                {"model_version": model_version, "score": item.score, "result": [result]}
            ]
        tasks.append(task)
    return tasks


def label_studio_interface(class_names: Sequence[str], facts: Iterable[str] = ()) -> str:
    """The XML of a labelling interface: the image, the facts, one choice of a class."""
    view = ElementTree.Element("View")
    for name in facts:
        title = name.replace("_", " ").capitalize()
        ElementTree.SubElement(view, "Header", value=f"{title}: ${name}")
    ElementTree.SubElement(view, "Image", name=_IMAGE, value=f"${_IMAGE}")
    attributes = {"name": _CHOICE, "toName": _IMAGE, "choice": "single", "showInLine": "true"}
    choices = ElementTree.SubElement(view, "Choices", attributes)
    for name in class_names:
        ElementTree.SubElement(choices, "Choice", value=names.escaped(name))
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def read_label_studio(path: pathlib.Path) -> list[Answer]:
    """The answers in an export of Label Studio, JSON or JSON-MIN; the last one of each image."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not JSON ({error}); export from Label Studio as JSON or JSON-MIN."
        ) from None
    if not isinstance(content, list) or not all(isinstance(task, dict) for task in content):
        raise DataError(f"{path} holds no list of tasks; export as JSON or JSON-MIN.")
    found, problems = {}, []
    for number, task in enumerate(content, start=1):
        where = f"task {number}" + (f" (id {task['id']})" if "id" in task else "")
        try:
            data = task.get("data", task)
            label = _whole_choice(task) if "data" in task else _choice_of(task.get(_CHOICE))
            name = data.get("file")
            file = names.restored(str(name)) if name else _file_of(data.get(_IMAGE))
        except _Malformed as error:
            problems.append(f"{where} {error}")
            continue
        if label is not None:
            found[file] = label
    refuse_if_any(path, problems)
    return [Answer(file, label) for file, label in found.items()]


class _Malformed(Exception):
    """An error in a task; its message is the end of a sentence."""


def _whole_choice(task: dict) -> str | None:
    """The choice of a task in the full format; None if not annotated, "" if skipped."""
    annotations = task.get("annotations", task.get("completions", []))
    if not isinstance(annotations, list) or not all(isinstance(a, dict) for a in annotations):
        raise _Malformed("has no list of annotations")
    if not annotations:
        return None
    newest = max(annotations, key=lambda a: str(a.get("updated_at") or a.get("created_at") or ""))
    if newest.get("was_cancelled"):
        return ""
    results = newest.get("result")
    if not isinstance(results, list):
        raise _Malformed("has an annotation without a result")
    chosen = [r for r in results if isinstance(r, dict) and r.get("from_name") == _CHOICE]
    if not chosen:
        return ""
    value = chosen[-1].get("value")
    if chosen[-1].get("type") != "choices" or not isinstance(value, dict):
        raise _Malformed("has a result that is not a choice")
    return _choice_of(value)


def _choice_of(value: Any) -> str:
    """The one choice in a value of an export; "" if there is none."""
    choices = value.get("choices") if isinstance(value, dict) else value
    choices = [choices] if isinstance(choices, str) else choices
    if choices is None or choices == []:
        return ""
    if not isinstance(choices, list) or not all(isinstance(c, str) for c in choices):
        raise _Malformed(f"has {str(value)[:40]!r} instead of a choice")
    if len(choices) > 1:
        raise _Malformed(f"has the choices {' and '.join(choices)}, where one is asked for")
    return names.restored(choices[0])


def _file_of(url: Any) -> str:
    if not isinstance(url, str) or not url:
        raise _Malformed("names neither a file nor an image")
    query = urllib.parse.urlsplit(url).query
    given = urllib.parse.parse_qs(query, errors="surrogateescape").get("d")
    return given[0] if given else names.unquoted(url)


def cvat_annotations(
    items: Sequence[Item], class_names: Sequence[str], sizes: Sequence[tuple[int, int]]
) -> str:
    """`annotations.xml` in the format "CVAT for images 1.1", with suggestions as tags.

    `sizes` are (width, height) of each image.
    """
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    ElementTree.SubElement(task, "size").text = str(len(items))
    ElementTree.SubElement(task, "mode").text = "annotation"
    labels = ElementTree.SubElement(task, "labels")
    for name in class_names:
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = names.escaped(name)
        ElementTree.SubElement(label, "type").text = "tag"
        ElementTree.SubElement(label, "attributes")
    for number, (item, (width, height)) in enumerate(zip(items, sizes, strict=True)):
        attributes = {"id": str(number), "name": names.escaped(item.file)}
        attributes |= {"width": str(width), "height": str(height)}
        image = ElementTree.SubElement(root, "image", attributes)
        if item.suggested:
            ElementTree.SubElement(
                image, "tag", label=names.escaped(item.suggested), source="auto"
            ).text = ""
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(
        root, encoding="unicode"
    )


def read_cvat(path: pathlib.Path) -> list[Answer]:
    """The tags, one of an image, in an `annotations.xml` of the format "CVAT for images 1.1"."""
    images: list[tuple[str, list[str]]] = []
    root: list[str] = []
    parser = expat.ParserCreate()

    def enter(tag: str, attributes: dict[str, str]) -> None:
        root.append(tag)
        if tag == "image":
            images.append((names.restored(attributes.get("name", "")), []))
        elif tag == "tag" and images:
            images[-1][1].append(names.restored(attributes.get("label", "")))

    def refuse(*_) -> None:
        raise DataError(
            f"{path} declares a document type, which an annotation file must not; replace it."
        )

    parser.StartElementHandler, parser.StartDoctypeDeclHandler = enter, refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except (OSError, expat.ExpatError) as error:
        raise DataError(
            f'{path} is not XML ({error}); export from CVAT as "CVAT for images 1.1".'
        ) from None
    if root[0] != "annotations":
        raise DataError(
            f'{path} holds <{root[0]}>, not <annotations>; export as "CVAT for images 1.1".'
        )
    problems = []
    for number, (name, labels) in enumerate(images, start=1):
        if not name:
            problems.append(f"image {number} has no name")
        elif len(labels) > 1:
            problems.append(f"{name} has the tags {' and '.join(labels)}, where one is asked for")
        elif labels and not labels[0]:
            problems.append(f"{name} has a tag without a label")
    refuse_if_any(path, problems)
    return [Answer(name, labels[0]) for name, labels in images if labels]
