"""A person as oracle, played by the tests: questions, answers, mistakes, kills."""

import csv
import io
import json
import pathlib
import shutil

import numpy as np
import pytest
from commands import Command
from PIL import Image
from sklearn.datasets import load_digits

from configs import bual, dcfs
from jaxrobust import load_classifier, tasks
from jaxrobust.engine.run import Run
from jaxrobust.errors import UserError
from jaxrobust.methods.strategy import Query
from jaxrobust.tasks.annotator import Annotator, query_rows

pytestmark = pytest.mark.usefixtures(
    "one_device", "tiny_network", "shared_programs", "unrendered_figures"
)

RECIPES = {"bual": bual, "dcfs": dcfs}
KNOWN = ("0", "1", "2")


class _Killed(BaseException):
    """Ends a run without any of the task's own handling."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Digits as PNGs: a few labelled 0, 1, 2; unlabelled 0 to 4; the truth of each by file."""
    root = tmp_path_factory.mktemp("images")
    digits = load_digits()
    truth = {}

    def save(part, class_name, i):
        path = root / part / class_name / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8(digits.images[i] * 15)).save(path)
        truth[path.relative_to(root).as_posix()] = str(digits.target[i])

    for label in range(5):
        ids = np.flatnonzero(digits.target == label)[:30]
        for i in ids[:8]:
            save("train", "unlabeled", i)
        if label < 3:
            for i in ids[8:14]:
                save("train", str(label), i)
            for i in ids[14:20]:
                save("test", str(label), i)
    return root, truth


def _config(folder, method="random", **changes):
    recipe = RECIPES.get(method, dcfs)
    config = recipe.get_config("image_folder_pixels")
    config.method = method
    config.oracle = "csv"
    config.dataset.path = str(folder[0])
    config.dataset.image_size = 8
    config.model.name = "tiny"
    config.writers = ("jsonl",)
    config.num_epochs = 2
    config.batch_size = 8
    config.eval_batch_size = 16
    config.al.rounds = 3
    config.al.query_size = 6
    config.update_from_flattened_dict(changes)
    return config


def _rows(table):
    return list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8-sig"))))


def _write(table, rows, delimiter=","):
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    table.write_text(text.getvalue(), encoding="utf-8")


def _answer(folder, table, **options):
    """Fills every label as somebody who knows the classes 0, 1 and 2 would."""
    rows = _rows(table)
    for row in rows:
        label = folder[1][row["file"]]
        row["label"] = label if label in KNOWN else "unknown"
    _write(table, rows, **options)
    return rows


def _play(folder, workdir, config):
    """Answers every round; returns the results and everything that was asked."""
    asked = []
    for _ in range(config.al.rounds):
        results = tasks.run(config, workdir)
        if "waiting_for" not in results:
            return results, asked
        asked += [
            r["file"]
            for r in _answer(folder, workdir / "queries" / f"round_{len(asked) // 6:02d}.csv")
        ]
    raise AssertionError("asked once too often")


@pytest.fixture(scope="module")
def finished(one_device, tiny_network, folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    results, asked = _play(folder, workdir, _config(folder))
    return workdir, results, asked


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bual", "dcfs", "coreset"])
def test_a_person_annotates_to_the_end(folder, tmp_path, method):
    config = _config(folder, method)
    results, asked = _play(folder, tmp_path, config)
    assert len(asked) == len(set(asked)) == 12
    assert all(file.startswith("train/unlabeled/") for file in asked)
    _check_books(folder, tmp_path, results, asked)


def _check_books(folder, workdir, results, asked):
    assert results == json.loads((workdir / "results.json").read_text())
    first, second, last = results["rounds"]
    assert first["num_labeled_known"] == 18 and first["num_labeled_unknown"] == 0
    known = [folder[1][file] in KNOWN for file in asked]
    assert first["query"]["num_known"] == sum(known[:6])
    assert second["query"]["precision"] == sum(known[6:]) / 6
    assert last["num_labeled_known"] == 18 + sum(known)
    assert last["num_labeled_unknown"] == 12 - sum(known)
    assert 0 <= last["accuracy"] <= 1
    # What nobody has told is not reported.
    assert "recall" not in first["query"] and "pool_known_fraction" not in first["query"]
    assert "last_query_recall" not in results


def test_what_the_person_is_given(folder, tmp_path, caplog):
    config = _config(folder, "bual")
    with caplog.at_level("INFO", logger="jaxrobust"):
        waiting = tasks.run(config, tmp_path)
    table = tmp_path / "queries" / "round_00.csv"
    assert waiting == {"waiting_for": str(table)}
    assert "6 images to annotate" in caplog.text and str(table) in caplog.text
    assert "0, 1, 2, unknown, skip" in caplog.text
    assert str(table.with_suffix(".html")) in caplog.text
    assert "round_00.csv" in table.with_suffix(".html").read_text(encoding="utf-8")
    assert table.read_bytes().startswith("\ufeffid,file,label,".encode())
    rows = _rows(table)
    assert list(rows[0]) == ["id", "file", "label", "conf_neg", "conf_pos", "score"]
    assert all((folder[0] / row["file"]).exists() and row["label"] == "" for row in rows)
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores)
    with Image.open(table.with_suffix(".png")) as sheet:
        assert sheet.size == (6 * 100, 114)
        pixels = np.asarray(sheet)
    first = np.asarray(Image.open(folder[0] / rows[0]["file"]).convert("RGB").resize((96, 96), 2))
    np.testing.assert_array_equal(pixels[2:98, 2:98], first)
    assert pixels[99:, :96].min() < 128  # the caption

    # An empty table is not yet an answer.
    before = table.read_bytes()
    assert tasks.run(config, tmp_path) == waiting
    assert table.read_bytes() == before


def _fill(table, answers):
    """Writes answers in the order of the table; returns its rows."""
    rows = _rows(table)
    _write(table, [r | {"label": a} for r, a in zip(rows, answers, strict=True)])
    return rows


def test_a_part_of_the_answers_late_ones_and_changed_ones(folder, tmp_path, caplog):
    config = _config(folder, **{"al.rounds": 8, "al.links": True})
    tables = [tmp_path / "queries" / f"round_{i:02d}.csv" for i in range(3)]
    tasks.run(config, tmp_path)
    first = _fill(tables[0], ["0", "1", "unknown", "skip", "", ""])
    assert tasks.run(config, tmp_path)["waiting_for"] == str(tables[1])
    second = _fill(tables[1], ["2", "2", "2", "2", "2", "2"])
    asked = [[row["id"] for row in rows] for rows in (first, second)]
    assert not set(asked[0][:4]) & set(asked[1])  # what was skipped is not asked about now
    # The first answer was wrong, the last one comes late, and a table that is gone loses nothing.
    _fill(tables[0], ["1", "1", "unknown", "skip", "", "2"])
    with caplog.at_level("INFO", logger="jaxrobust"):
        assert tasks.run(config, tmp_path)["waiting_for"] == str(tables[2])
    assert "2 answers of earlier rounds have changed" in caplog.text
    config.al.finish = True
    tables[1].unlink()
    _fill(tables[2], ["unknown"] * 6)
    results = tasks.run(config, tmp_path)
    assert [r.get("query", {}).get("size") for r in results["rounds"]] == [3, 6, 6, None]
    expected = dict(zip(asked[0], ["1", "1", "unknown", None, None, "2"], strict=True))
    expected |= dict.fromkeys(asked[1], "2")
    expected |= dict.fromkeys((row["id"] for row in _rows(tables[2])), "unknown")
    annotations = _rows(tmp_path / "annotations.csv")
    assert {r["id"]: r["label"] for r in annotations} == {i: a for i, a in expected.items() if a}
    last = results["rounds"][-1]
    num_annotated = last["num_labeled_known"] + last["num_labeled_unknown"] - 18
    assert num_annotated == len(annotations)
    predictions = _rows(tmp_path / "predictions.csv")
    assert list(predictions[0]) == ["file", "class", "probability"]
    assert len(predictions) == 40 - num_annotated
    assert {row["class"] for row in predictions} <= set(KNOWN)
    assert not {r["file"] for r in first[:3]} & {row["file"] for row in predictions}
    links = sorted((tmp_path / "by_class").glob("*/*"))
    assert len(links) == 58 and all(link.resolve().is_file() for link in links)
    assert {link.parent.name for link in links} == {*KNOWN, "unknown"}
    # Nothing has changed: nothing is trained. An answer is corrected: the last round is.
    assert tasks.run(config, tmp_path) == results
    _fill(tables[0], ["1", "1", "1", "skip", "", "2"])
    again = tasks.run(config, tmp_path)["rounds"]
    assert len(again) == 4
    assert again[-1]["num_labeled_known"] == last["num_labeled_known"] + 1
    # It goes on after all.
    config.al.finish = False
    assert tasks.run(config, tmp_path)["waiting_for"].endswith("round_03.csv")


def test_what_is_left_is_asked_about_and_what_was_skipped_comes_last(folder, tmp_path):
    config = _config(folder, **{"al.rounds": 9, "al.query_size": 25, "num_epochs": 1})
    tables = [tmp_path / "queries" / f"round_{i:02d}.csv" for i in range(4)]
    tasks.run(config, tmp_path)
    first = _fill(tables[0], ["skip"] * 25)
    tasks.run(config, tmp_path)
    second = _fill(tables[1], ["0"] * 15)
    tasks.run(config, tmp_path)
    third = _fill(tables[2], ["skip"] * 25)
    assert not {r["id"] for r in first} & {r["id"] for r in second}
    assert {r["id"] for r in first} == {r["id"] for r in third}
    results = tasks.run(config, tmp_path)
    assert not tables[3].exists() and len(results["rounds"]) == 4
    assert [r.get("query", {}).get("size") for r in results["rounds"]] == [0, 15, 0, None]
    assert len(_rows(tmp_path / "predictions.csv")) == 25


def test_images_and_classes_come_in_between(folder, tmp_path, caplog):
    root, truth = tmp_path / "data", dict(folder[1])
    shutil.copytree(folder[0], root)
    config = _config((root, truth), "lfosa", **{"al.rounds": 9, "num_epochs": 1})
    workdir = tmp_path / "run"
    tables = [workdir / "queries" / f"round_{i:02d}.csv" for i in range(3)]
    tasks.run(config, workdir)
    rows = _fill(tables[0], ["3", "0", "unknown", "3", "", ""])
    words = r"line 2: '3' is not a class, use .*Correct this, or, if '3' is a new class, add "
    with pytest.raises(UserError, match=words + r"config\.al\.new_classes=3 and rerun"):
        tasks.run(config, workdir)
    config.al.new_classes = "3"
    # The whole folder moves, an image that was asked about has another name, and others come.
    root = root.rename(tmp_path / "moved")
    config.dataset.path = str(root)
    unlabeled = root / "train" / "unlabeled"
    (root / rows[0]["file"]).rename(unlabeled / "renamed.png")
    for i in range(3):
        image = np.full((8, 8), 60 * i, np.uint8)
        Image.fromarray(image).save(unlabeled / f"0000{i}.png")
    sheet = tables[0].with_suffix(".png")
    before = sheet.read_bytes()
    with caplog.at_level("INFO", logger="jaxrobust"):
        assert tasks.run(config, workdir)["waiting_for"] == str(tables[1])
    assert sheet.read_bytes() != before  # it shows the answers
    assert "1 answers are “unknown” from before these classes existed" in caplog.text
    page = tables[1].with_suffix(".html").read_text(encoding="utf-8")
    assert page.partition('"suggestions":[')[2].startswith('["')
    assert "1 images were found under new names" in caplog.text
    assert "3 new images and the classes 3 are used from round 1 on" in caplog.text
    note = json.loads((workdir / "queries" / "images.json").read_text())
    files = [image["file"] for image in note["images"]]
    assert note["classes"] == {"0": 0, "1": 0, "2": 0, "3": 1} and len(files) == 61
    assert files[int(rows[0]["id"])] == "train/unlabeled/renamed.png"
    assert [files[int(r["id"])] for r in rows[1:]] == [r["file"] for r in rows[1:]]
    assert files[58:] == [f"train/unlabeled/0000{i}.png" for i in range(3)]
    # Killed and started again, it is the same round; the flag is not needed any more.
    config.al.new_classes = ""
    before = tables[1].read_bytes()
    assert tasks.run(config, workdir)["waiting_for"] == str(tables[1])
    assert tables[1].read_bytes() == before
    _fill(tables[1], ["3", "unknown", "1", "1", "1", "3"])
    config.al.finish = True
    results = tasks.run(config, workdir)
    assert [r["num_labeled_per_class"] for r in results["rounds"]] == [
        [6, 6, 6],
        [7, 6, 6, 2],
        [7, 9, 6, 4],
    ]
    assert results["num_known_classes"] == 4
    predictions = _rows(workdir / "predictions.csv")
    header = ["file", "class", "probability", "unknown_probability", "known_class"]
    assert list(predictions[0]) == header
    for row in predictions:
        is_unknown = float(row["unknown_probability"]) > 0.5
        assert row["class"] == ("unknown" if is_unknown else row["known_class"])
        assert not is_unknown or row["probability"] == row["unknown_probability"]
    assert len(predictions) == 43 - 10
    assert load_classifier(workdir).classes.tolist() == ["0", "1", "2", "3"]
    assert len(_rows(workdir / "annotations.csv")) == 10
    # What is gone is named.
    (unlabeled / "renamed.png").unlink()
    with pytest.raises(UserError, match=r"renamed\.png is gone; put them back under any name"):
        tasks.run(config, workdir)


def test_a_name_that_cannot_be_a_class_is_refused(folder, tmp_path):
    for name in ("../up", "unknown", "a/b", ".hidden"):
        with pytest.raises(UserError, match=r"al\.new_classes="):
            tasks.run(_config(folder, **{"al.new_classes": name}), tmp_path / "run")
    config = _config(folder, **{"al.finish": True})
    config.oracle = "truth"
    with pytest.raises(UserError, match=r"al\.finish is for oracle='csv'"):
        tasks.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


MISTAKES = {
    "no class": (
        lambda rows: rows[1].update(label="unknwon"),
        r"line 3: 'unknwon' is not a class, perhaps 'unknown' is meant",
    ),
    "nothing like a class": (
        lambda rows: rows[5].update(label="zebra"),
        r"line 7: 'zebra' is not a class, use 0, 1, 2, unknown",
    ),
    "a row missing": (lambda rows: rows.pop(2), r"no line for id \d+ \(train/unlabeled/"),
    "a row twice": (lambda rows: rows.append(dict(rows[0])), r"line 8 repeats id \d+ of line 2"),
    "a foreign id": (
        lambda rows: rows.append(rows[0] | {"id": "0"}),
        r"line 8: id '0' was not asked about",
    ),
    "not an id": (lambda rows: rows[0].update(id="1e2"), r"line 2: id '1e2' was not asked about"),
    "a column sorted alone": (
        lambda rows: rows[0].update(file=rows[1]["file"]),
        r"line 2: id \d+ is train/unlabeled/",
    ),
    "no label column": (lambda rows: [row.pop("label") for row in rows], r"has no column label"),
}


@pytest.fixture
def waiting(finished, tmp_path, folder):
    """A workdir whose first table is filled, and its rows."""
    workdir = tmp_path / "run"
    tasks.run(_config(folder), workdir)
    table = workdir / "queries" / "round_00.csv"
    return workdir, table, _answer(folder, table)


def test_mistakes_are_named_by_line(waiting, folder):
    workdir, table, rows = waiting
    for make, words in MISTAKES.values():
        wrong = [dict(row) for row in rows]
        make(wrong)
        _write(table, wrong)
        before = table.read_bytes()
        with pytest.raises(UserError, match=words) as caught:
            tasks.run(_config(folder), workdir)
        assert str(table) in str(caught.value) and "\n" not in str(caught.value)
        assert table.read_bytes() == before
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="save it as CSV in UTF-8"):
        tasks.run(_config(folder), workdir)
    _write(table, [row | {"label": "?"} for row in rows])
    with pytest.raises(UserError, match=r"and 1 more\. Correct this"):
        tasks.run(_config(folder), workdir)
    # A spreadsheet's mark, separator, order and spaces are no mistakes.
    _write(table, [row | {"label": f" {row['label']} "} for row in rows[::-1]], delimiter=";")
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n"))
    assert tasks.run(_config(folder), workdir)["waiting_for"].endswith("round_01.csv")


def _same_results(workdir, finished):
    assert (workdir / "results.json").read_bytes() == (finished[0] / "results.json").read_bytes()


def test_killed_before_the_table_is_written(finished, folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Annotator, "show", lambda self, round_, query: _kill())
        with pytest.raises(_Killed):
            tasks.run(_config(folder), tmp_path)
    assert not (tmp_path / "queries" / "round_00.csv").exists()
    _, asked = _play(folder, tmp_path, _config(folder))
    assert asked == finished[2]
    _same_results(tmp_path, finished)


def _kill(*_):
    raise _Killed


def test_killed_with_answers_that_are_not_saved_yet(waiting, finished, folder, monkeypatch):
    """The answers of round 0 are read, and the run dies before the checkpoint that holds them."""
    workdir, table, _ = waiting
    answered = table.read_bytes()
    save = Run.save

    def kill(self, saved):
        round_ = saved.at[0]
        assert round_ == 0 or saved.record["rounds"][0]["query"]["size"] == 6
        return _kill() if round_ else save(self, saved)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", kill)
        with pytest.raises(_Killed):
            tasks.run(_config(folder), workdir)
    assert table.read_bytes() == answered
    waits_for = tasks.run(_config(folder), workdir)["waiting_for"]
    assert waits_for.endswith("round_01.csv") and table.read_bytes() == answered
    _answer(folder, workdir / "queries" / "round_01.csv")
    tasks.run(_config(folder), workdir)
    _same_results(workdir, finished)


def test_answers_outlive_every_checkpoint(finished, folder, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    for name in ("checkpoints", "results.json"):
        path = workdir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "waiting_for" not in tasks.run(_config(folder), workdir)
    _same_results(workdir, finished)


def test_a_deleted_table_is_written_anew_with_the_same_questions(waiting, folder):
    workdir, table, rows = waiting
    table.unlink()
    table.with_suffix(".png").unlink()
    tasks.run(_config(folder), workdir)
    assert [row | {"label": ""} for row in rows] == _rows(table)
    assert table.with_suffix(".png").exists()


def test_a_damaged_note_is_named(waiting, folder):
    workdir, table, _ = waiting
    table.with_suffix(".json").write_text("{")
    with pytest.raises(UserError, match=r"round_00\.json is damaged"):
        tasks.run(_config(folder), workdir)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_commands")
def test_the_command(folder, tmp_path):
    """Exit code 0 and a message while it waits, and then to the end; mistakes are above."""
    flags = [
        f"--config={pathlib.Path(__file__).parents[1]}/tiny_recipe.py:dcfs/image_folder_pixels",
        f"--config.dataset.path={folder[0]}",
        "--config.oracle=csv",
        "--config.method=random",
        "--config.dataset.image_size=8",
        "--config.num_epochs=1",
        "--config.al.rounds=2",
        "--config.al.query_size=6",
        f"--workdir={tmp_path}",
    ]

    def command():
        code, stderr = Command("jaxrobust.main", *flags, folder=tmp_path).end()
        assert "Traceback" not in stderr
        return code, stderr

    table = tmp_path / "queries" / "round_00.csv"
    code, stderr = command()
    assert code == 0 and f"or fill in the column `label` of {table}" in stderr
    _answer(folder, table)
    code, stderr = command()
    assert code == 0 and (tmp_path / "results.json").exists()


def test_without_a_test_part(folder, tmp_path):
    """Annotation goes on without a single test image; there is only no accuracy."""
    root = tmp_path / "data"
    shutil.copytree(folder[0] / "train", root / "train")
    config = _config((root, folder[1]), **{"al.rounds": 2})
    results, asked = _play((root, folder[1]), tmp_path / "run", config)
    assert len(asked) == 6
    assert "accuracy" not in results["rounds"][-1] and "last" not in results
    assert (tmp_path / "run" / "figures" / "learning_curve.png").exists()


def test_unusable_folders(folder, tmp_path):
    config = _config(folder)
    config.oracle = "truth"
    with pytest.raises(UserError, match=r"set config\.oracle='csv' to annotate them yourself"):
        tasks.run(config, tmp_path / "run")
    root = tmp_path / "data"
    shutil.copytree(folder[0], root)
    shutil.move(root / "train" / "2", root / "train" / "unknown")
    shutil.move(root / "test" / "2", root / "test" / "unknown")
    with pytest.raises(UserError, match="may not be called 'unknown'"):
        tasks.run(_config((root, {})), tmp_path / "run")
    shutil.rmtree(root / "train" / "unlabeled")
    with pytest.raises(UserError, match="image_folder has none"):
        tasks.run(_config((root, {})), tmp_path / "run")


# Parts.

MALFORMED = {
    "empty": ("", "has no column id and no column file and no column label in its first line"),
    "no label": ("id,file\n0,a.png\n", "no column label in its first line, but id, file"),
    "two columns of labels": ("id,file,label,label\n", "has the column label twice"),
    "a workbook": ("PK\x03\x04", "is a workbook, not text; save it as CSV in UTF-8"),
    "an open quote": ('id,file,label\n0,"a.png,cat\n', "is not a table from line 2 on"),
    "a comma": ("id,file,label\n0,a.png,cat,dog\n", "line 2 has 4 cells for 3 columns"),
    "no such id": ("id,file,label\n7,a.png,cat\n", "line 2: id '7' was not asked about"),
    "no id": ("id,file,label\n,a.png,cat\n", "line 2: id '' was not asked about"),
    "a negative id": ("id,file,label\n-1,a.png,cat\n", "line 2: id '-1' was not asked about"),
    "another file": ("id,file,label\n0,b.png,cat\n", "line 2: id 0 is a.png, not 'b.png'"),
    "no file": ("id,file,label\n0,,cat\n", "line 2: id 0 is a.png, not ''"),
    "twice": ("id,file,label\n0,a.png,cat\n0,a.png,cat\n", "line 3 repeats id 0 of line 2"),
    "a row missing": ("id,file,label\n0,a.png,cat\n", "no line for id 1 \\(b.png\\)"),
    "another case": ("id,file,label\n0,a.png,CAT\n", "line 2: 'CAT' is not a class"),
    "nearly": ("id,file,label\n0,a.png,ca\n", "'ca' is not a class, perhaps 'cat' is meant"),
    "nearly unknown": ("id,file,label\n0,a.png,unknwon\n", "perhaps 'unknown' is meant"),
    "two classes": ("id,file,label\n0,a.png,cat dog\n", "line 2: 'cat dog' is not a class"),
    "a new class": (
        "id,file,label\n0,a.png,zebra\n1,b.png,cat\n",
        "line 2: 'zebra' is not a class, use cat, dog, unknown, skip. Correct this, or, if 'zebra' "
        "is "
        "a new class, add --config.al.new_classes=zebra and rerun",
    ),
    "no new class": ("id,file,label\n0,a.png,a/b\n1,b.png,\n", "skip. Correct this and rerun"),
}


@pytest.mark.parametrize(("text", "words"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_table_is_answered_by_line(text, words, tmp_path):
    annotator = Annotator(tmp_path, None, ("a.png", "b.png"), ("cat", "dog"))
    annotator.ask(0, Query(ids=np.array([0, 1]), scores={}))
    annotator.table(0).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=words) as caught:
        annotator.answers(0)
    assert str(annotator.table(0)) in str(caught.value) and "\n" not in str(caught.value)


def test_query_rows():
    query = Query(
        ids=np.array([2, 0]),
        scores={"a": np.float32([0.1, 0.2, 1 / 3]), "n": np.array([1, 2, 3])},
    )
    assert query_rows(query, None, ["cat", "=dog"]) == [
        ["id", "label", "a", "n"],
        [2, "cat", "0.333333343", "3"],
        [0, "'=dog", "0.100000001", "1"],
    ]
    assert query_rows(query, ["x", "y", "z,"]) == [
        ["id", "file", "label", "a", "n"],
        [2, "z,", "", "0.333333343", "3"],
        [0, "x", "", "0.100000001", "1"],
    ]
