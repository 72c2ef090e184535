"""The command `jaxrobust`."""

import csv
import importlib
import subprocess
import sys

import numpy as np
import pages
import pytest
from PIL import Image

from jaxrobust import UserError, find_label_issues, query, recipes
from jaxrobust.commands import cli, listing
from jaxrobust.data.sources import SOURCES
from jaxrobust.recipes.methods import STRATEGIES

LABELS = np.array(["ant", "bee", "ant", "bee", "ant", "bee"])
PROBS = np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.3, 0.7], [0.8, 0.2], [0.1, 0.9]])


@pytest.fixture(autouse=True)
def arguments_are_put_back(monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)


def test_usage_names_every_command(capsys):
    assert cli.main([]) == 2
    without = capsys.readouterr().out
    assert cli.main(["--help"]) == 0
    assert capsys.readouterr().out == without
    for name in cli.COMMANDS:
        assert f"  {name} " in without
        assert callable(cli.COMMANDS[name])


def test_a_misspelt_command_is_answered(capsys):
    assert cli.main(["reprot"]) == 2
    assert "Unknown command 'reprot': did you mean 'report'?" in capsys.readouterr().err


def answer(capfd, name, *arguments):
    """Exit code, standard output and standard error of a command."""
    if name == "run":  # whose flags exist once in a process
        command = [sys.executable, "-m", "jaxrobust", name, *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr
    try:
        code = cli.main([name, *arguments])
    except SystemExit as stop:
        code = stop.code or 0
    return code, *capfd.readouterr()


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_answers_in_the_same_way(name, capfd):
    code, out, error = answer(capfd, name, "--help")
    assert code == 0 and not error
    assert out.startswith(f"usage: jaxrobust {name} ") and len(out.splitlines()) > 3
    wrong = ["--colour=red"] if name != "list" else ["animals"]
    for arguments in ([], wrong):
        if name == "list" and not arguments:
            continue  # which needs none
        code, out, error = answer(capfd, name, *arguments)
        assert code == 2 and not out
        assert error.startswith("jaxrobust: ") and len(error.splitlines()) == 1


def test_help_with_a_recipe_lists_its_fields(capfd):
    code, out, _ = answer(capfd, "run", "--config=dcfs:digits", "--help")
    assert code == 0 and "  --config.al.query_size=30\n" in out


def test_as_a_module_and_recipes_run_as_before(tmp_path):
    command = [sys.executable, "-m", "jaxrobust", "run", "--config=dcfs:digits"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "--workdir is missing" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_has_enough_is_no_error():
    command = [sys.executable, "-u", "-m", "jaxrobust", "list", "recipes"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_list(capsys):
    assert cli.main(["list"]) == 0
    names = capsys.readouterr().out
    assert len(names.splitlines()) < 50 and names.count("jaxrobust list recipes") == 1
    assert cli.main(["list", *listing.KINDS]) == 0
    everything = capsys.readouterr().out
    for name in (*recipes.names(), *SOURCES, *STRATEGIES, "resnet32x4", "preact_resnet18"):
        assert f"  {name} " in everything
    assert "None" not in everything
    assert cli.main(["list", "datasets"]) == 0
    some = capsys.readouterr().out
    assert some.startswith("datasets") and "resnet" not in some
    with pytest.raises(SystemExit):
        cli.main(["list", "animals"])
    assert "choose from" in capsys.readouterr().err


@pytest.mark.parametrize("name", recipes.names())
def test_every_listed_variant_is_one_and_others_are_answered_with_these(name):
    get_config = importlib.import_module(f"jaxrobust.recipes.{name}").get_config
    summary, variants = recipes.describe(name)
    assert summary and "digits" in variants
    assert all(get_config(variant).task for variant in (None, *variants))
    with pytest.raises(UserError, match="did you mean") as caught:
        get_config("cifar")
    assert "digits" in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("dpc:cifar10", "those on cifar10 are cifar10_sym20, "),
        ("dhkd:cifar100", "those on cifar100 are resnet56_resnet20, "),
    ],
)
def test_a_data_set_that_is_no_variant_is_answered_with_those_on_it(recipe, words, tmp_path):
    command = [sys.executable, "-m", "jaxrobust", "run", f"--config={recipe}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr and len(done.stderr.splitlines()) == 1


def written(folder, kind):
    """Arguments that name the labels and probabilities in files of one kind."""
    if kind == "one npz":
        path = folder / "data.npz"
        np.savez(path, labels=LABELS, pred_probs=PROBS)
        return [path]
    if kind == "npz of ids":
        path = folder / "data.npz"
        ids = np.unique(LABELS, return_inverse=True)[1]
        np.savez(path, labels=ids, pred_probs=PROBS, class_names=["ant", "bee"])
        return [path]
    if kind == "npy":
        np.save(folder / "labels.npy", LABELS)
        np.save(folder / "probs.npy", PROBS)
        return [folder / "labels.npy", f"--pred-probs={folder / 'probs.npy'}"]
    (folder / "labels.csv").write_text("\n".join(["file,label", *(f"x.png,{x}" for x in LABELS)]))
    lines = [",".join(map(str, row)) for row in PROBS]
    if kind == "csv of a spreadsheet":  # as Excel writes it in Europe
        rows = [";".join(map(str, row)).replace(".", ",") for row in PROBS[:, ::-1]]
        lines = ["\ufeffbee;ant", *rows]
    (folder / "probs.csv").write_text("\n".join(lines), encoding="utf-8")
    return [folder / "labels.csv", f"--pred-probs={folder / 'probs.csv'}"]


@pytest.mark.parametrize("kind", ["one npz", "npz of ids", "npy", "csv", "csv of a spreadsheet"])
def test_find_label_issues_is_the_function(kind, tmp_path, capsys):
    arguments = map(str, written(tmp_path, kind))
    out = tmp_path / "out" / "table.csv"
    assert cli.main(["find-label-issues", *arguments, f"--out={out}"]) == 0
    assert "1 of 6 labels look wrong" in capsys.readouterr().out
    find_label_issues(LABELS, pred_probs=PROBS).save(tmp_path / "same.csv")
    if kind == "csv of a spreadsheet":  # whose columns are summed in another order
        tables = [np.genfromtxt(f, delimiter=",") for f in (out, tmp_path / "same.csv")]
        np.testing.assert_allclose(*tables, rtol=1e-3)
    else:
        assert out.read_text() == (tmp_path / "same.csv").read_text()
    with open(out, newline="") as file:
        first = next(csv.DictReader(file))
    assert (first["id"], first["given_label"], first["suggested_label"]) == ("2", "ant", "bee")


def test_labels_that_look_wrong_are_reviewed_on_a_page(tmp_path, capsys):
    """The page names the files, which lie in the folder of `--images=`."""
    files = [f"{i}.png" for i in range(6)]
    Image.new("RGB", (8, 8)).save(tmp_path / "2.png")
    data = tmp_path / "data.npz"
    np.savez(data, labels=LABELS, pred_probs=PROBS, files=files, class_names=["ant", "bee"])
    arguments = [str(data), f"--images={tmp_path}", f"--out={tmp_path / 'out' / 'table.csv'}"]
    assert cli.main(["find-label-issues", *arguments]) == 0
    review = tmp_path / "out" / "label_review.html"
    assert str(review) in capsys.readouterr().out
    page = pages.embedded_data(review)
    asked = [row[:4] for row in page["rows"] if "labels" in row[6]]
    assert asked == [["2", "2.png", "ant", "bee"]]
    assert page["folder"] == ".." and page["pictures"][0]
    table = tmp_path / "out" / "table.csv"
    with open(table, newline="") as file:
        assert next(csv.DictReader(file))["file"] == "2.png"
    before = review.read_bytes()
    assert cli.main(["find-label-issues", *arguments]) == 2
    assert "label_review.html already exists" in capsys.readouterr().err
    assert review.read_bytes() == before
    for bad, words in (
        ([str(data), "--images=nowhere"], "--images=nowhere is not a folder"),
        ([*map(str, written(tmp_path, "npy")), f"--images={tmp_path}"], "needs a .npz file"),
    ):
        assert cli.main(["find-label-issues", *bad]) == 2
        assert words in capsys.readouterr().err


def test_a_review_of_arrays_shows_them(tmp_path):
    issues = find_label_issues(LABELS, pred_probs=PROBS)
    issues.save_review(tmp_path / "a.html", images=np.zeros((6, 8, 8, 3), np.uint8))
    page = pages.embedded_data(tmp_path / "a.html")
    assert page["rows"][0][:2] == ["2", ""] and page["pictures"][0].startswith("data:image/png")
    with pytest.raises(UserError, match="needs images= or files= or texts="):
        issues.save_review(tmp_path / "a.html")
    with pytest.raises(UserError, match="There are 2 files for 6 labels"):
        issues.save_review(tmp_path / "a.html", files=["a", "b"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("0.5,0.5\n1,a\n", "probs.csv must hold 2 numbers; correct it"),
        ("0.5,0.5\n1\n", "Line 2 of "),
        ("0.5,0.6\n" * 6, "pred_probs[0] sums to 1.1"),
        ("1,0\n", "labels has 6 entries, but pred_probs has 1"),
        (None, "There is no file"),
    ],
)
def test_files_that_do_not_fit_are_refused(content, words, tmp_path, capsys):
    np.save(tmp_path / "labels.npy", LABELS)
    if content is not None:
        (tmp_path / "probs.csv").write_text(content)
    arguments = [str(tmp_path / "labels.npy"), f"--pred-probs={tmp_path / 'probs.csv'}"]
    assert cli.main(["find-label-issues", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1


def test_an_npz_without_the_array_is_refused(tmp_path, capsys):
    np.savez(tmp_path / "data.npz", labels=LABELS)
    assert cli.main(["find-label-issues", str(tmp_path / "data.npz")]) == 2
    assert "holds no array 'features' or 'pred_probs', only labels" in capsys.readouterr().err


@pytest.fixture(scope="module")
def feature_file(tmp_path_factory):
    """Points around three centres, with their labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 3
    features = 4 * np.eye(3, 8)[labels] + rng.normal(size=(48, 8))
    path = tmp_path_factory.mktemp("features") / "features.npz"
    files = [f"{i}.jpg" for i in range(48)]
    np.savez(path, features=features.astype(np.float32), labels=labels, files=files)
    return path


def test_find_label_issues_from_features_is_the_function(feature_file, tmp_path, capsys):
    out = tmp_path / "table.csv"
    arguments = [str(feature_file), "--method=cross_entropy", "--seed=3", f"--out={out}"]
    assert cli.main(["find-label-issues", *arguments]) == 0
    assert "of 48 labels look wrong" in capsys.readouterr().out
    arrays = np.load(feature_file)
    options = {"features": arrays["features"], "method": "cross_entropy", "seed": 3}
    issues = find_label_issues(arrays["labels"], **options)
    issues.save(tmp_path / "same.csv", files=arrays["files"])
    assert out.read_text() == (tmp_path / "same.csv").read_text()


def test_query_is_the_function(feature_file, tmp_path, capsys):
    """Class 2 is not a class that is known; names are in sorted order."""
    arrays = np.load(feature_file)
    given = np.array(["bee", "ant", "unknown"])[arrays["labels"]]
    given[12:] = ""
    (tmp_path / "a.csv").write_text("\n".join(["file,label", *(f"x.jpg,{x}" for x in given)]))
    arguments = [str(feature_file), str(tmp_path / "a.csv"), "--budget=5", "--method=margin"]
    assert cli.main(["query", *arguments, f"--out={tmp_path / 'q.csv'}"]) == 0
    assert "5 examples to annotate" in capsys.readouterr().out
    annotations = np.select([given == "ant", given == "bee", given == ""], [0, 1, -1], -2)
    same = query(annotations, features=arrays["features"], budget=5, method="margin")
    with open(tmp_path / "q.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == same.ids.tolist()
    assert [row["file"] for row in rows] == [f"{i}.jpg" for i in same.ids]
    predicted = np.array(["ant", "bee"])[same.pred_probs[same.ids].argmax(axis=1)]
    assert [row["predicted_label"] for row in rows] == predicted.tolist()
    assert cli.main(["query", *arguments[:2], "--budget=0"]) == 2
    assert "budget=0 must be a whole number" in capsys.readouterr().err
