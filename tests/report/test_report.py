"""Pages of small workdirs that are written by hand."""

import base64
import html
import html.parser
import io
import json
import pathlib
import re

import commands
import numpy as np
import pages
import pytest
import written_runs
from PIL import Image

from jaxrobust.commands import cli
from jaxrobust.errors import UserError
from jaxrobust.report import figures
from jaxrobust.report.compare import folders
from jaxrobust.report.markup import Images, data_uri
from jaxrobust.report.run_files import read_rows

EVIL = '<script>alert("x")</script>'


def _json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _csv(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))


def _start(command=("main.py", "--config=configs/x.py:digits", "--config.seed=7")):
    return {
        "started": "2026-01-02T03:04:05+00:00",
        "command": list(command),
        "python": "3.13.1",
        "host": EVIL,
        "cpu_count": 2,
        "devices": ["cpu:0 cpu"],
        "versions": {"jax": "0.11.2"},
        "commit": "0123456789ab",
    }


def _workdir(root, name, results, *, names=("cat", "dog"), config=(), events=()):
    """Files that all tasks have; without `results.json` if `results` holds no `last`."""
    workdir = root / name
    fields = {"task": results["task"], "method": results["method"], "seed": results["seed"]}
    dataset = {"name": "digits", "path": EVIL}
    _json(workdir / "config.json", {**fields, "dataset": dataset, "num_epochs": 3, **dict(config)})
    _json(workdir / "environment.json", {"starts": [_start()]})
    lines = [{"step": i + 1, "seconds": 2.0 * i, **event} for i, event in enumerate(events)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if "last" in results:
        _json(workdir / "results.json", results)
        _json(workdir / "timing.json", {"seconds": 61.0, "traces": {"a": 1, "b": 1}})
    counts = [[5, 1], [2, 8]]
    rows = [[name, *row] for name, row in zip(names, counts, strict=True)]
    _csv(workdir / "confusion.csv", ["true", *names], *rows)
    reliability = [[i / 10, (i + 1) / 10, 4, i / 10 + 0.05, i / 10] for i in range(10)]
    _csv(
        workdir / "reliability.csv",
        ["above", "up_to", "count", "confidence", "accuracy"],
        *reliability,
    )
    return workdir


def _active(root, name="al", *, method="dcfs", seed=0, finished=True, shift=0.0):
    results = written_runs.active_learning(method, seed=seed, shift=shift)
    rounds = results["rounds"]
    if not finished:
        del results["last"]
    events = []
    for entry in rounds if finished else rounds[:1]:
        at = {"round": entry["round"]}
        events.append({"split": "train", "phase": "query", "loss": 1.0, **at})
        events.append({"split": "test", **{k: v for k, v in entry.items() if k != "query"}})
        if "query" in entry:
            entry["query"]["auroc_dist"] = 0.8
            events.append({"split": "query", **at, **entry["query"]})
    config = {"edl": {"clip": 1}, "lfosa": {"beta": 1}}
    workdir = _workdir(root, name, results, names=(EVIL, "$x$"), config=config, events=events)
    queries = workdir / "queries"
    _csv(queries / "round_00.csv", ["id", "fine", "label"], [3, 0.5, "dog"])
    _csv(
        queries / "round_00_scores.csv",
        ["score", "from", "to", "pool", "chosen", "unknown"],
        ["fine", 0, 0.5, 10, 1, 2],
        ["fine", 0.5, 1, 5, 0, 5],
    )
    sheet = np.zeros((3, 12, 12, 3), np.uint8)
    figures.contact_sheet(sheet, ["dog"] * 3, queries / "round_00.png")
    return workdir


def _noisy(root):
    results = written_runs.noisy_labels("dpc")
    workdir = _workdir(root, "noisy", results)
    noise = {"kind": "symmetric", "realised_rate": 0.36, "class_names": ["cat", "dog"]}
    _json(workdir / "noise.json", {**noise, "transition": [[0.7, 0.3], [0.4, 0.6]]})
    header = ["id", "given_label", "suggested_label", "clean_prob", "flagged", "margin"]
    _csv(
        workdir / "label_quality.csv",
        [*header, "true_label"],
        [17, "'=x", "cat", 0.01, 1, -3, "cat"],
    )
    (workdir / "label_review.html").touch()
    images = np.zeros((9, 12, 12, 3), np.uint8)
    for name in ("suspicious", "margin", "epochs"):
        figures.contact_sheet(images, ["cat\n→ dog"] * 9, workdir / "figures" / f"{name}.png")
    return workdir


def _distilled(root):
    results = written_runs.distillation("kd", cosines=True)
    return _workdir(root, "kd", results)


def _multilabel(root):
    measures = {"mAP": 0.8, "OF1": 0.7, "CF1": 0.6}
    results = written_runs.distillation("l2d", cosines=True, measures=measures)
    workdir = _workdir(root, "l2d", results)
    (workdir / "confusion.csv").unlink()
    header = ["class", "test_images", "average_precision"]
    _csv(workdir / "classes.csv", header, ["cat", 4, 0.5], ["dog", 5, 0.75])
    return workdir


class _Page(html.parser.HTMLParser):
    """What a browser sees: tags with their attributes, and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self._open = [], "", []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "source"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def _written(*arguments):
    """The page, after what every page must keep to."""
    assert cli.main(["report", *map(str, arguments)]) == 0
    out = next(a.removeprefix("--out=") for a in arguments if str(a).startswith("--out="))
    return _checked(pathlib.Path(out))


def _checked(folder):
    page = _Page((folder / "index.html").read_text(encoding="utf-8"))
    assert {p.suffix for p in folder.iterdir()} == {".html", ".png"}
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    images = page.named("img")
    sources = [a["src"] for a in images] + [a["srcset"] for a in page.named("source")]
    assert sources and all(s.startswith("data:image/") for s in sources)
    assert all(a["alt"] for a in images)
    assert all(a["scope"] in ("col", "row") for a in page.named("th"))
    return page


def _files(out):
    return {p.name for p in out.iterdir()}


def _of_labels(root, name, rows, *, method="dpc", corrections="", events=()):
    """A run on a person's own folder; rows of file, given, suggested, probability, flag."""
    results = written_runs.noisy_labels(method)
    results["noise"] = {**results["noise"], "kind": "none"}
    folder = root / "photos"
    dataset = {"name": "image_folder", "path": str(folder), "corrections": corrections}
    config = {"dataset": dataset, "dpc": {"warm_up": 1}}
    workdir = _workdir(root, name, results, config=config, events=events)
    header = ["id", "file", "given_label", "suggested_label", "clean_prob", "flagged"]
    _csv(workdir / "label_quality.csv", header, *([n, *row] for n, row in enumerate(rows)))
    (workdir / "label_review.html").touch()
    folder.mkdir(exist_ok=True)
    for file, *_ in rows:
        Image.new("RGB", (30, 20), (200, 90, 0)).save(folder / file)
    return workdir


BEFORE = [
    ["a.png", "cat", "dog", 0.01, 1],
    ["b.png", "cat", "dog", 0.02, 1],
    ["c.png", "dog", "cat", 0.3, 1],
    ["d.png", "dog", "cat", 0.4, 0],
    ["e.png", "cat", "cat", 0.99, 0],
]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folders of the pages of one run of each task, of several runs, and of before and after."""
    folder = tmp_path_factory.mktemp("pages")
    for name in ("dcfs", "random"):
        for seed in (0, 1):
            _active(folder / name, f"seed_{seed}", method=name, seed=seed, shift=0.1 * seed)
    after = [["a.png", "dog", "dog", 0.9, 0], *BEFORE[1:4]]
    runs = {
        "annotation": [_active(folder)],
        "folder": [_of_labels(folder, "mine", BEFORE)],
        "distilled": [_distilled(folder)],
        "multilabel": [_multilabel(folder)],
        "noisy": [_noisy(folder)],
        "methods": [folder / "dcfs", folder / "random"],
        "corrected": [
            folder / "mine",
            _of_labels(folder, "corrected", after, corrections="corrections.csv"),
        ],
    }
    for name, workdirs in runs.items():
        with pytest.MonkeyPatch.context() as patch:
            if name in ("folder", "corrected"):  # of figures that others have, too
                patch.setattr(figures, "_save", commands.save_unrendered)
            assert cli.main(["report", *map(str, workdirs), f"--out={folder / name}_page"]) == 0
    return {name: folder / f"{name}_page" for name in runs}


def test_a_page_of_an_annotation_run(written):
    out = written["annotation"]
    page = _checked(out)
    assert "dcfs on digits" in page.text
    assert "70.0 %" in page.text and "last accuracy" in page.text
    # Tables of rounds and of confusions, the latter with names as they are.
    assert "round00" not in page.text and "Query of round 0" in page.text
    assert EVIL in page.text and "$x$" in page.text
    assert "Changed on the command line" in page.text and "configs/x.py:digits" in page.text
    assert page.text.index("seed7") if "seed7" in page.text else page.text.index("seed") > 0
    assert "Do the scores separate unknown images?" in page.text
    assert "how little it resembles any class80.0" in page.text
    assert "1 min 1 s" in page.text and "0.11.2" in page.text and "0123456789ab" in page.text
    assert {
        "index.html",
        "curves.png",
        "curves_narrow.png",
        "curves_annotated.png",
        "confusion_dcfs.png",
        "reliability_dcfs.png",
        "progress_dcfs.png",
        "round_00_dcfs.png",
        "scores_round_00_dcfs.png",
    } <= _files(out)


def test_pages_of_the_other_tasks(written):
    page = _checked(written["noisy"])
    assert "=x" in page.text and "'=x" not in page.text
    assert "Means of the last 3 epochs; the best epoch is chosen" in page.text
    assert "36.0 % are wrong" in page.text and "1 most suspicious of 1 labels" in page.text
    files = _files(written["noisy"])
    assert {"suspicious_dpc.png", "margin_dpc.png", "noise_dpc.png"} <= files
    assert "epochs_dpc.png" not in files
    assert {a["href"] for a in page.named("a")} == {"../noisy/label_review.html"}
    page = _checked(written["distilled"])
    assert "teacher resnet14" in page.text and "1,234" in page.text
    page = _checked(written["multilabel"])
    assert "student resnet8" in page.text
    assert {"classes_l2d.png", "reliability_l2d.png"} <= _files(written["multilabel"])
    assert "confusion_l2d.png" not in _files(written["multilabel"])


@pytest.mark.usefixtures("unrendered_figures")
def test_a_run_on_labels_opens_with_how_many_look_wrong(tmp_path):
    events = [{"split": "train", "epoch": n, "stage": "warm_up", "loss": 1.0} for n in range(3)]
    workdir = _of_labels(tmp_path, "mine", BEFORE, events=events)
    page = _written(workdir, f"--out={tmp_path / 'out'}")
    # Expected wrong: .99 + .98 + .7 + .6 + .01 = 3.28; less probable than not: 4.
    assert "3 of 5 labels look wrong (between 3 and 4: " in page.text
    assert "In 2 of 2 passes after the warm-up the set was too small" in page.text
    assert f"jaxrobust review {workdir}" in page.text
    titles = [
        "labels look wrong (",
        "By class",
        "cat → dog: 2 images",
        "dog → cat: 1 image",
        "Curves",
    ]
    places = [page.text.index(title) for title in titles]
    assert places == sorted(places)
    assert sum(a["alt"] in ("a.png", "b.png", "c.png") for a in page.named("img")) == 3
    assert "none added" not in page.text


@pytest.mark.usefixtures("unrendered_figures")
def test_without_test_images_no_accuracy_is_promised(tmp_path):
    workdirs = [_of_labels(tmp_path, name, BEFORE) for name in ("first", "second")]
    for workdir in workdirs:
        results = json.loads((workdir / "results.json").read_text())
        measures = {"labels": {"flagged_fraction": 0.2}}
        for name in ("last", "last_epochs"):
            results[name] = {k: results[name][k] for k in ("epoch", "num") if k in results[name]}
            results[name] |= measures
        results["epochs"] = [{"epoch": n, **measures} for n in range(3)]
        del results["best"]
        (workdir / "results.json").write_text(json.dumps(results))
    for shown in (workdirs[:1], workdirs):
        page = _written(*shown, f"--out={tmp_path / 'out' / str(len(shown))}")
        assert "The accuracy is unknown: there are no test images." in page.text
        assert "the best epoch" not in page.text


@pytest.mark.usefixtures("unrendered_figures")
def test_before_and_after_corrections_are_compared_by_default(tmp_path):
    after = [["a.png", "dog", "dog", 0.9, 0], *BEFORE[1:4]]
    table = tmp_path / "corrections.csv"
    workdirs = [
        _of_labels(tmp_path, "mine", BEFORE),
        _of_labels(tmp_path, "corrected", after, corrections=str(table)),
    ]
    page = _written(*workdirs, f"--out={tmp_path / 'out'}")
    assert "labels as given, corrected by corrections.csv on photos" in page.text
    assert "1 of 4 labels differ between labels as given and corrected by" in page.text
    assert "1 image of labels as given is not in corrected by" in page.text
    assert "a.pngcatdog" in page.text
    assert "Of 4 labels 2 look wrong to all of" in page.text
    assert "a.pnglooks wrong–" in page.text  # to one of them alone
    assert all(summary for summary in _texts(tmp_path / "out", "summary"))
    assert list(folders(workdirs, "dataset.corrections")) == list(folders(workdirs, ""))
    # Two runs that do not differ are told apart by their folders.
    twin = _of_labels(tmp_path, "twin", BEFORE)
    assert list(folders([workdirs[0], twin], "")) == [str(workdirs[0]), str(twin)]


def test_a_field_that_separates_runs_is_named(tmp_path, capsys):
    workdirs = [
        _of_labels(tmp_path, "mine", BEFORE),
        _of_labels(tmp_path, "corrected", BEFORE, corrections="c.csv"),
    ]
    assert cli.main(["report", *map(str, workdirs), "--by=method"]) == 2
    assert "or separate them by --by=dataset.corrections." in capsys.readouterr().err


def _texts(out, tag):
    text = (out / "index.html").read_text(encoding="utf-8")
    return [html.unescape(x).strip() for x in re.findall(f"<{tag}>(.*?)</{tag}>", text, re.S)]


@pytest.mark.usefixtures("unrendered_figures")
def test_seeds_are_one_group_with_a_band(tmp_path):
    """Of a folder of several seeds, those that are finished; the page lies in it."""
    for seed in (0, 1, 10):
        _active(tmp_path / "run", f"seed_{seed}", seed=seed, finished=seed < 10, shift=0.1 * seed)
    page = _written(tmp_path / "run", f"--out={tmp_path / 'out'}")
    assert "seeds 0, 1" in page.text and "75.0 ± 7.1" in page.text
    assert "seed_10 is not finished and is left out" in page.text
    assert "32 test images, all seeds together" in page.text
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "report" / "index.html").exists()


@pytest.mark.usefixtures("unrendered_figures")
def test_a_comparison_shows_what_differs_first(tmp_path):
    workdirs = [
        _active(tmp_path, "a", method="dcfs", seed=0),
        _active(tmp_path, "b", method="dcfs", seed=1),
        _active(tmp_path, "c", method="random", seed=0),
    ]
    page = _written(*workdirs, f"--out={tmp_path / 'out'}")
    assert "dcfs, random on digits" in page.text
    fields = [page.text.index(name) for name in ('method"dcfs""random"', "seed0 / 10")]
    assert "lfosa.beta" not in page.text  # nor is DCFS's option one of random
    assert page.text.index("edl.clip1–") > page.text.index("Options specific to one method")
    assert max(fields) < page.text.index("num_epochs33")
    assert {"confusion_dcfs.png", "confusion_random.png"} <= _files(tmp_path / "out")


@pytest.mark.usefixtures("unrendered_figures")
def test_an_unfinished_run_gets_a_page_of_what_is_there(tmp_path):
    workdir = _active(tmp_path, finished=False)
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write('{"torn')
    page = _written(workdir, f"--out={tmp_path / 'out'}")
    assert "not finished" in page.text and "Query of round 0" in page.text
    assert "progress_dcfs.png" in _files(tmp_path / "out")
    assert "curves.png" not in _files(tmp_path / "out")
    # Nothing but what the start of a run writes.
    bare = tmp_path / "bare"
    _json(bare / "config.json", json.loads((workdir / "config.json").read_text()))
    assert cli.main(["report", str(bare)]) == 0
    text = (bare / "report" / "index.html").read_text()
    assert "not finished" in text and "All fields" in text


def test_what_cannot_be_reported_is_one_sentence(tmp_path, capsys):
    good, twin = _active(tmp_path, "good"), _active(tmp_path, "twin")
    empty, damaged, broken = (tmp_path / name for name in ("empty", "damaged", "broken"))
    empty.mkdir()
    _active(tmp_path, "damaged")
    (damaged / "results.json").write_text("{")
    _active(tmp_path, "broken")
    (broken / "environment.json").write_text("[")
    _json(tmp_path / "other" / "config.json", {"model_type": "bert"})
    (tmp_path / "file").touch()
    unfinished = [_active(tmp_path, name, finished=False) for name in ("u", "v")]
    for arguments, words in (
        ([empty], "is not a workdir: it holds no config.json"),
        ([tmp_path / "nowhere"], "nowhere does not exist"),
        ([tmp_path / "other"], "is not from a jaxrobust run"),
        ([damaged], "results.json cannot be read"),
        ([broken], "environment.json cannot be read"),
        (unfinished, "is finished; name a single one"),
        ([good, twin, "--by=method"], "have seed 0"),
        ([good, _distilled(tmp_path)], "not the same problem"),
        ([good, "--by=al.opennes"], "has no 'al.opennes'"),
    ):
        assert cli.main(["report", *map(str, arguments)]) == 2, words
        stderr = capsys.readouterr().err
        assert words in stderr and len(stderr.strip().splitlines()) == 1, stderr
    with pytest.raises(UserError, match=r"label_quality\.csv is damaged"):
        path = tmp_path / "label_quality.csv"
        path.write_bytes(b"id\n\xff\n")
        read_rows(path)


@pytest.mark.usefixtures("unrendered_figures")
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (_active, "confusion.csv"),
        (_active, "reliability.csv"),
        (_active, "queries/round_00_scores.csv"),
        (_multilabel, "classes.csv"),
    ],
)
@pytest.mark.parametrize("damage", ["word", "short", "empty"])
def test_damaged_tables_are_named(tmp_path, capsys, make, name, damage):
    workdir = make(tmp_path)
    header, first, *others = (workdir / name).read_text().splitlines()
    label = first.split(",")[0]
    changed = {"word": first.replace(first.split(",")[-1], "x"), "short": label, "empty": ""}
    (workdir / name).write_text("\n".join([header, changed[damage], *others]) + "\n")
    assert cli.main(["report", str(workdir), f"--out={tmp_path / 'out'}"]) == 2
    stderr = capsys.readouterr().err
    assert f"{name} is damaged" in stderr and len(stderr.strip().splitlines()) == 1, stderr


_FEW_ROWS = "document.querySelectorAll('tbody tr:nth-child(n + 4)').forEach((row) => row.remove())"


@pytest.mark.parametrize("size", pages.SIZES)
def test_pages_are_legible_and_accessible(browser, written, size):
    """Also where methods have long names: nothing is wider than the window."""
    is_phone = size == pages.SIZES[2]
    for name in written if is_phone else ("corrected",):
        with pages.opened(browser, written[name] / "index.html", size=size) as page:
            page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                pages.assert_legible(page)
            # On a phone all of a comparison and of a contact sheet is in sight.
            for part in page.locator(".stacked, .photos img").all():
                box = part.bounding_box()
                assert box["x"] >= 0 and box["x"] + box["width"] <= size[0]
            if is_phone:  # what axe sees is the same at every size, and in the rows of a table
                page.evaluate(_FEW_ROWS)
                pages.assert_accessible(page)


def test_a_contact_sheet_has_three_columns_on_a_phone(tmp_path):
    """Every image is found again, in the same order."""
    images = np.arange(1, 11, dtype=np.uint8)[:, None, None, None] * np.ones((96, 96, 3), np.uint8)
    figures.contact_sheet(images, [""] * 10, tmp_path / "sheet.png")
    page = Images(tmp_path).found(tmp_path / "sheet.png", "copy", "alt", "caption", "photos")
    narrow = base64.b64decode(re.search(r'srcset="data:image/png;base64,([^"]+)"', page)[1])
    with Image.open(io.BytesIO(narrow)) as sheet:
        assert sheet.width == 300
        pixels = np.asarray(sheet)[:, :, 0]
    assert [pixels[row * 118 + 50, column * 100 + 50] for row in range(4) for column in range(3)][
        :10
    ] == list(range(1, 11))


def test_large_contact_sheets_are_embedded_as_jpeg(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    for size, photos, kind in ((300, True, "jpeg"), (20, True, "png"), (300, False, "png")):
        Image.fromarray(noise[:size, :size]).save(tmp_path / "a.png")
        uri = data_uri((tmp_path / "a.png").read_bytes(), photos=photos)
        assert uri.startswith(f"data:image/{kind};base64,")
