"""Malformed input of every kind: one sentence that names it, exit code 2, nothing half-written."""

import dataclasses
import errno
import fcntl
import json
import math
import os
import pathlib
import pickle
import shutil
import subprocess
import sys

import ml_collections
import numpy as np
import pytest
from PIL import Image

from configs import (
    active_learning_baselines,
    bldr,
    bual,
    dcfs,
    dhkd,
    dpc,
    e2oal,
    kd_baselines,
    l2d,
)
from jaxrobust import main, tasks
from jaxrobust.engine import files
from jaxrobust.engine.workdir import check_same_config
from jaxrobust.errors import UserError
from jaxrobust.recipes.dhkd import DISTILLATIONS
from jaxrobust.recipes.fields import is_within
from jaxrobust.recipes.l2d import MULTILABEL_DISTILLATIONS
from jaxrobust.recipes.parse import option_classes, parse
from jaxrobust.recipes.protocols import OPEN_SET
from jaxrobust.tasks import common

ROOT = pathlib.Path(__file__).parents[1]
RECIPES = {
    "active_learning_baselines": (active_learning_baselines, OPEN_SET),
    "bldr": (bldr, bldr.SETTINGS),
    "bual": (bual, OPEN_SET),
    "dcfs": (dcfs, OPEN_SET),
    "dhkd": (dhkd, DISTILLATIONS),
    "dpc": (dpc, dpc.SETTINGS),
    "e2oal": (e2oal, OPEN_SET | e2oal.PROTOCOL),
    "kd_baselines": (kd_baselines, DISTILLATIONS),
    "l2d": (l2d, MULTILABEL_DISTILLATIONS),
}


def _leaves(config, prefix=""):
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


# Field -> (a digits recipe that has it, its value there, the option), for every option.
OPTIONS = {}
for _name, (_recipe, _) in RECIPES.items():
    _digits = _recipe.get_config("digits")
    _classes = option_classes(_digits.task)
    for _field, _value in _leaves(_digits):
        _section, _, _short = _field.rpartition(".")
        for _cls in _classes:
            _declared = {f.name: f for f in dataclasses.fields(_cls)}
            if _cls.section == _section and _short in _declared:
                OPTIONS.setdefault(_field, (_name, _value, _declared[_short].metadata))
NUMBERS = {
    field: (recipe, value, option["allowed"])
    for field, (recipe, value, option) in OPTIONS.items()
    if isinstance(option["allowed"], str)
}
LENGTHS = [field for field, (*_, option) in OPTIONS.items() if option["lengths"]]


def _config(recipe, changes):
    config = RECIPES[recipe][0].get_config("digits")
    config.update_from_flattened_dict(changes)
    return config


# --------------------------------------------------------------------------- numbers of recipes


def test_every_field_of_every_recipe_is_an_option():
    fields = {f for recipe, _ in RECIPES.values() for f, _ in _leaves(recipe.get_config("digits"))}
    assert fields == OPTIONS.keys()


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_variant_is_valid(recipe):
    module, variants = RECIPES[recipe]
    for variant in variants:
        parse(module.get_config(variant))


def _beyond(interval, like):
    """Numbers just and far outside an interval, of the type of `like`."""
    low, high = map(float, interval[1:-1].split(","))
    step = 1 if isinstance(like, int) else 1e-6
    found = [-math.inf, math.inf, math.nan] if isinstance(like, float) else []
    found += [low if interval[0] == "(" else low - step, low - 1000] if low > -math.inf else []
    found += [high if interval[-1] == ")" else high + step, high + 1000] if high < math.inf else []
    return [type(like)(value) for value in found if not is_within(value, interval)]


# BLDR's `optimizer.constant_epochs` is its `bldr.warm_up`, which is named in its place.
@pytest.mark.parametrize("field", sorted(NUMBERS.keys() - {"optimizer.constant_epochs"}))
def test_numbers_out_of_range_are_refused_by_name(field):
    recipe, value, interval = NUMBERS[field]
    like = value
    if isinstance(value, tuple):
        like = value[0] if value else (0 if field == "al.class_order" else 0.0)
    wrong = _beyond(interval, like)
    assert wrong
    for number in wrong:
        config = _config(recipe, {})
        changed = number if not isinstance(value, tuple) else (number,) * max(len(value), 1)
        config.update_from_flattened_dict({field: changed})
        with pytest.raises(UserError) as caught:
            parse(config)
        message = str(caught.value)
        assert field in message and interval in message and f"--config.{field}=" in message
        assert "\n" not in message


@pytest.mark.parametrize("field", LENGTHS)
def test_too_few_and_too_many_numbers_are_refused(field):
    for value in ((0.5,), (0.5,) * 4):
        with pytest.raises(UserError, match=f"{field}=.* must hold .* numbers"):
            parse(_config(NUMBERS[field][0], {field: value}))


@pytest.mark.parametrize("field", ["augment.area", "augment.aspect"])
def test_a_range_of_numbers_is_written_upwards(field):
    with pytest.raises(UserError, match=f"{field}=.* the smaller number first"):
        parse(_config("dcfs", {field: (0.9, 0.5)}))


def test_words_in_place_of_numbers_are_refused():
    with pytest.raises(UserError, match=r"dataset.mean=.* must be numbers in \[0, 1\]"):
        parse(_config("dcfs", {"dataset.mean": ("a", "b", "c")}))


# ------------------------------------------------------------------- recipes, data and workdirs


@pytest.fixture
def refused(tmp_path):
    """Runs a recipe that must be refused; checks the sentence and that nothing was written."""

    def run(recipe, changes, *words):
        workdir = tmp_path / "runs" / "new"
        with pytest.raises(UserError) as caught:
            tasks.run(_config(recipe, changes), workdir)
        message = str(caught.value)
        for word in words:
            assert word in message, message
        assert "\n" not in message and len(message) < 800
        assert not (tmp_path / "runs").exists()

    return run


# Recipe, changes, words of the answer.
WRONG_RECIPES = {
    "task": ("dcfs", {"task": "active_lerning"}, "did you mean 'active_learning'"),
    "method": ("dpc", {"method": "dcp"}, "did you mean 'dpc'"),
    "method of another task": ("dpc", {"method": "dhkd"}, "Unknown method 'dhkd'"),
    "method for several labels": ("l2d", {"method": "dhkd"}, "have several labels each"),
    "section of another recipe": ("dcfs", {"method": "bual"}, "configs/bual.py"),
    "device": ("dcfs", {"device": "cuda"}, "Unknown device 'cuda'"),
    "dtype": ("bldr", {"dtype": "float16"}, "Unknown dtype 'float16'"),
    "writer": ("l2d", {"writers": ("jsonl", "csv")}, "Unknown writer 'csv'"),
    "last batch": ("dhkd", {"last_batch": "keep"}, "Unknown last_batch 'keep'"),
    "schedule": ("bual", {"optimizer.schedule": "linear"}, "Unknown optimizer.schedule"),
    "optimizer": ("l2d", {"optimizer.name": "adam"}, "Unknown optimizer.name 'adam'"),
    "crop": ("dhkd", {"augment.crop": "middle"}, "Unknown augment.crop 'middle'"),
    "crop from": ("dhkd", {"augment.crop_from": "disk"}, "Unknown augment.crop_from 'disk'"),
    "policy": ("bldr", {"augment.policy": "cifar"}, "did you mean 'cifar10'"),
    "on corrupt": ("l2d", {"dataset.on_corrupt": "ignore"}, "Unknown dataset.on_corrupt"),
    "network": ("dcfs", {"model.name": "resnet81"}, "Unknown model.name 'resnet81'"),
    "pooling": ("dpc", {"model.pool": "max"}, "Unknown model.pool 'max'"),
    "student": ("dhkd", {"student.name": "resnet9"}, "Unknown student.name 'resnet9'"),
    "teacher": ("dhkd", {"teacher.name": "resnet9"}, "Unknown teacher.name 'resnet9'"),
    "no such teacher": ("dhkd", {"teacher.path": "/nowhere"}, "/nowhere holds no model.json"),
    "no such backbone": (
        "l2d",
        {"student.backbone": "/nowhere"},
        "There is no backbone '/nowhere'",
    ),
    "head": ("dhkd", {"distill.head": "both"}, "Unknown distill.head 'both'"),
    "decoder heads": ("l2d", {"decoder.num_heads": 5}, "decoder.width=32"),
    "label loss": ("l2d", {"labels.loss": "bec"}, "did you mean 'bce'"),
    "openness 1": ("dcfs", {"al.openness": 1.0}, "al.openness=1.0", "[0, 1)"),
    "openness of one class": ("dcfs", {"al.openness": 0.95}, "makes 0 of 10 classes known"),
    "negative budget": ("bual", {"al.query_size": -5}, "al.query_size=-5", "[1, inf)"),
    "budget above the pool": ("bual", {"al.query_size": 9999}, "the pool holds"),
    "no unknown cluster": ("e2oal", {"e2oal.max_clusters": 4}, "beside 4 known classes; raise"),
    "no embeddings": ("e2oal", {"e2oal.embeddings": "no.npy"}, "There is no file no.npy"),
    "one known class": ("dcfs", {"al.num_known": 1}, "num_known=1"),
    "classes named twice": ("dcfs", {"al.class_order": (0, 0)}, "must be a permutation"),
    "classes shuffled and named": (
        "dcfs",
        {"al.class_order": tuple(range(10)), "al.shuffle_classes": True},
        "set one of the two",
    ),
    "nothing labelled": ("dcfs", {"al.init_fraction": 1e-5}, "leaves none labelled"),
    "view": ("bual", {"al.score_transform": "tset"}, "did you mean 'test'"),
    "target": ("bual", {"al.target_model": "none"}, "Unknown al.target_model 'none'"),
    "oracle": ("bual", {"oracle": "person"}, "Unknown oracle 'person'"),
    "nobody to ask": ("bual", {"oracle": "csv"}, "digits has none"),
    "several persons": ("bual", {"oracle": "csv", "num_seeds": 2}, "set config.num_seeds=1"),
    "batch above the set": ("dcfs", {"batch_size": 5000}, "batch_size=5000", "1438 training"),
    "batch of L2D": ("l2d", {"batch_size": 5000}, "batch_size=5000", "1000 training images"),
    "noise": ("dpc", {"noise.kind": "symetric"}, "did you mean 'symmetric'"),
    "noise rate": ("dpc", {"noise.rate": 1.5}, "noise.rate=1.5", "[0, 1]"),
    "noise of CIFAR": ("dpc", {"noise.kind": "asymmetric"}, "look-alike classes of CIFAR"),
    "noise groups": ("dpc", {"noise.groups": "super"}, "did you mean 'superclasses'"),
    "human noise": ("bldr", {"noise.kind": "human"}, "CIFAR-10N"),
    "no matrix": ("dpc", {"noise.kind": "transition"}, "needs config.noise.path="),
    "learning rate": ("dhkd", {"optimizer.learning_rate": -1.0}, "optimizer.learning_rate=-1.0"),
    "learning rate NaN": ("l2d", {"optimizer.learning_rate": math.nan}, "=nan must be a number"),
    "temperature": ("dpc", {"dpc.temperature": 0.0}, "dpc.temperature=0.0", "(0, inf)"),
    "seed": ("bldr", {"seed": -1}, "seed=-1", "[0, 4294967295]"),
    "seeds": ("bldr", {"num_seeds": 0}, "num_seeds=0", "[1, inf)"),
    "data set": ("dcfs", {"dataset.name": "digit"}, "did you mean 'digits'"),
    "no such data": ("dcfs", {"dataset.path": "/nowhere"}, "There is no /nowhere"),
    "digits in a folder": ("dcfs", {"dataset.path": "/"}, "comes with scikit-learn"),
    "missing data": ("dpc", {"dataset.name": "cifar100"}, "config.dataset.path="),
    "fewer images than classes": ("dpc", {"dataset.max_train": 5}, "fewer than the 10 classes"),
    "streamed arrays": ("dpc", {"dataset.stream": True}, "is for sets of image files"),
    "streamed queries": ("dcfs", {"dataset.stream": True}, "set config.dataset.stream=False"),
    "several labels for DPC": ("dpc", {"dataset.name": "digit_canvases"}, "several labels each"),
    "fewer epochs than a cycle": ("l2d", {"num_epochs": 500}, "optimizer.cycle_epochs"),
    "program of nothing": ("bldr", {"bldr.positive": False, "bldr.negative": False}, "nothing"),
}


@pytest.mark.parametrize("case", WRONG_RECIPES)
def test_a_wrong_recipe_is_refused_before_anything_is_written(case, refused):
    refused(*WRONG_RECIPES[case])


def _picture(path, side=8, mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(side).integers(0, 255, (side, side, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 256)
    elif mode != "RGB":
        image = image.convert(mode)
    image.save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Two classes of twenty images."""
    for name in ("cat", "dog"):
        for i in range(20):
            _picture(tmp_path / "data" / name / f"{i:02d}.png")
    return tmp_path / "data"


def _own(folder, **changes):
    return {
        "dataset.name": "image_folder",
        "dataset.path": str(folder),
        "dataset.image_size": 8,
        "noise.kind": "none",
        **changes,
    }


def _write(content):
    return lambda folder: (folder / "cat" / "00.png").write_bytes(content(folder))


WRONG_FOLDERS = {
    "truncated image": (
        _write(lambda folder: (folder / "dog" / "00.png").read_bytes()[:60]),
        "cat/00.png",
    ),
    "empty image": (_write(lambda _: b""), "cat/00.png"),
    "text for an image": (_write(lambda _: b"not an image"), "cat/00.png"),
    "page for an image": (_write(lambda _: b"<html>404</html>"), "is not an image of a known"),
    "32-bit image": (
        lambda folder: Image.fromarray(np.ones((8, 8), np.int32)).save(folder / "cat" / "0.tiff"),
        "32-bit grey values",
    ),
    "bomb": (
        lambda folder: Image.new("1", (16_000, 16_000)).save(folder / "cat" / "00.png"),
        "cat/00.png",
    ),
    "class without images": (lambda folder: (folder / "eel").mkdir(), "eel"),
    "one class": (lambda folder: shutil.rmtree(folder / "dog"), "has 1 class: at least 2"),
    "no images": (
        lambda folder: [shutil.rmtree(folder / name) for name in ("cat", "dog")],
        "holds no images",
    ),
    "train without test": (
        lambda folder: [
            shutil.move(folder / name, folder / "train" / name) for name in ("cat", "dog")
        ],
        "has train/ but no test/",
    ),
    "test of another class": (
        lambda folder: [
            _picture(folder / name / "0.png")
            for name in ("train/cat", "train/dog", "test/cat", "test/eel")
        ],
        "'eel'",
    ),
}


@pytest.mark.parametrize("case", WRONG_FOLDERS)
def test_a_wrong_folder_is_refused_before_anything_is_written(case, folder, refused):
    change, *words = WRONG_FOLDERS[case]
    change(folder)
    refused("dpc", _own(folder), *words)


def test_images_of_several_sizes_need_one(folder, refused):
    _picture(folder / "cat" / "00.png", side=9)
    refused("dpc", _own(folder, **{"dataset.image_size": 0}), "Set image_size")


def test_a_file_is_no_folder(folder, refused):
    refused("dpc", _own(folder / "cat" / "00.png"), "is a file")


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "png"), ("I;16", "png"), ("CMYK", "jpg"), ("P", "gif"), ("1", "bmp")]
)
def test_grey_deep_and_printed_images_are_welcome(mode, suffix, folder):
    _picture(folder / "cat" / f"new.{suffix}", mode=mode)
    dataset = common.load(_config("dpc", _own(folder)))
    assert len(dataset.train) + len(dataset.test) == 41


# Content of a matrix or label file -> words.
MATRICES = {
    "too small": (b"1 0\n0 1\n", "must be 10 x 10"),
    "words": (b"a b\nc d\n", "cannot be read as a matrix"),
    "binary": (bytes(range(256)), "cannot be read as a matrix"),
    "empty": (b"", "noise.path="),
    "not a number": (b"nan " * 10 + b"\n" + b"0.1 " * 90, "noise.path="),
    "negative": (b"\n".join([b"-1 2" + b" 0" * 8] * 10), "noise.kind='transition'"),
    "not of shares": (b"\n".join([b"1 " * 10] * 10), "noise.kind='transition'"),
}


@pytest.mark.parametrize("case", MATRICES)
def test_a_wrong_transition_matrix_is_refused(case, tmp_path, refused):
    content, words = MATRICES[case]
    (tmp_path / "matrix.txt").write_bytes(content)
    path = str(tmp_path / "matrix.txt")
    refused("dpc", {"noise.kind": "transition", "noise.path": path}, words)


def test_a_pickled_matrix_is_refused(tmp_path, refused):
    np.save(tmp_path / "matrix.npy", np.array([[{}]], object), allow_pickle=True)
    changes = {"noise.kind": "transition", "noise.path": str(tmp_path / "matrix.npy")}
    refused("dpc", changes, "cannot be read as a matrix")


# Content of `labels.csv` beside images 0.png to 3.png -> words.
TABLES = {
    "no column": (b"file,tags\n0.png,a\n", "has no column path and no column labels"),
    "not UTF-8": ("path,labels\n0.png,\u00e9t\u00e9\n".encode("latin1"), "cannot be read", "UTF-8"),
    "an image twice": (b"path,labels\n0.png,a\n0.png,b\n", "names 0.png twice"),
    "missing image": (b"path,labels\n9.png,a\n1.png,b\n", "9.png"),
    "cells": (b"path,labels\n0.png,a,b,c\n", "line 2 has 4 cells for 2 columns"),
    "quote": (b'path,labels\n"0.png,a\n', "is not a table from line 2 on"),
    "split": (b"path,labels,split\n0.png,a,trian\n1.png,b,test\n", "trian"),
    "empty": (b"", "has no column"),
    "out of the folder": (b"path,labels\n../passwd,a\n1.png,b\n2.png,a\n3.png,b\n", "is outside"),
    "absolute": (b"path,labels\n/etc/passwd,a\n1.png,b\n2.png,a\n3.png,b\n", "is outside"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_wrong_table_is_refused(case, tmp_path, refused):
    content, *words = TABLES[case]
    for i in range(4):
        _picture(tmp_path / "data" / f"{i}.png")
    (tmp_path / "data" / "labels.csv").write_bytes(content)
    changes = {"dataset.name": "multilabel_folder", "dataset.path": str(tmp_path / "data")}
    refused("l2d", changes | {"dataset.image_size": 8}, *words)


# --------------------------------------------------------------------------------- workdirs


def _snapshot(folder):
    return {
        p.relative_to(folder): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != ".lock"
    }


def _begun(workdir, recipe="dcfs", **changes):
    """A workdir as a run leaves it that was killed at once."""
    config = _config(recipe, changes)
    workdir.mkdir()
    files.write_json(workdir / "config.json", json.loads(config.to_json()))
    return config


WRONG_WORKDIRS = {
    "another recipe": (
        lambda workdir: None,
        {"seed": 3},
        "belongs to a run with seed=0, but this command says seed=3",
    ),
    "damaged config.json": (
        lambda workdir: (workdir / "config.json").write_text("{"),
        {},
        "config.json cannot be read",
    ),
    "another thing in config.json": (
        lambda workdir: (workdir / "config.json").write_text("[1]"),
        {},
        "config.json cannot be read",
    ),
    "other data": (
        lambda workdir: (workdir / "split.json").write_text("{}"),
        {},
        "differ from those that",
    ),
    "damaged split.json": (
        lambda workdir: (workdir / "split.json").write_text("\0"),
        {},
        "split.json cannot be read",
    ),
}


@pytest.mark.parametrize("case", WRONG_WORKDIRS)
def test_a_workdir_of_something_else_is_left_as_it_is(case, tmp_path):
    change, changes, words = WRONG_WORKDIRS[case]
    config = _begun(tmp_path / "run")
    change(tmp_path / "run")
    before = _snapshot(tmp_path / "run")
    config.update(changes)
    with pytest.raises(UserError) as caught:
        tasks.run(config, tmp_path / "run")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert _snapshot(tmp_path / "run") == before


def test_a_run_older_than_an_option_goes_on_with_its_default(tmp_path):
    config = _config("dcfs", {})
    older = json.loads(config.to_json())
    del older["select"]["fine"], older["checkpoint"]
    files.write_json(tmp_path / "config.json", older)
    check_same_config(parse(config), tmp_path / "config.json")
    config.select.fine = "random"
    with pytest.raises(UserError, match=r"select\.fine=None, but .* says select\.fine='random'"):
        check_same_config(parse(config), tmp_path / "config.json")


def test_a_workdir_in_use_is_left_as_it_is(tmp_path):
    config = _begun(tmp_path / "run")
    before = _snapshot(tmp_path / "run")
    with open(tmp_path / "run" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is in use by another process"):
            tasks.run(config, tmp_path / "run")
    assert _snapshot(tmp_path / "run") == before


@pytest.mark.parametrize("place", ["/proc/jaxrobust", "file/run"])
def test_a_workdir_that_cannot_be_made_is_refused(place, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        tasks.run(_config("dcfs", {}), tmp_path / place)


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_disk_is_told_in_one_sentence(reason, tmp_path, monkeypatch, capsys):
    def write_bytes(path, content):
        raise OSError(reason, os.strerror(reason), str(path))

    monkeypatch.setattr(pathlib.Path, "write_bytes", write_bytes)
    monkeypatch.setattr(main, "_CONFIG", _Flag(_config("dcfs", {})))
    monkeypatch.setattr(main, "_WORKDIR", _Flag(str(tmp_path / "run")))
    monkeypatch.setattr(main, "_is_one_of_several", lambda: False)
    with pytest.raises(SystemExit) as stop:
        main._main()
    assert stop.value.code == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("jaxrobust:")]
    assert os.strerror(reason) in line and "rerun the same command to resume" in line


class _Flag:
    def __init__(self, value):
        self.value = value


# ------------------------------------------------------------------------------ command line

_OWN_RECIPES = {
    "broken.py": "def get_config(:\n",
    "raises.py": "raise RuntimeError('no')\n",
    "imports.py": "import no_such_module\n",
    "empty.py": "",
    "nothing.py": "def get_config(variant=None):\n    return None\n",
    "bare.py": "import ml_collections\n\ndef get_config(variant=None):\n"
    "    return ml_collections.ConfigDict({'seed': 0})\n",
}
DIGITS = "--config=configs/dcfs.py:digits"
# Arguments ({} is a folder of its own) -> words of the one line on standard error.
COMMANDS = {
    "no arguments": ((), "--config is missing"),
    "no workdir": ((DIGITS,), "--workdir is missing"),
    "empty workdir": ((DIGITS, "--workdir="), "--workdir is missing"),
    "misspelt flag": ((DIGITS, "--workdri={}/run"), "Unknown command line flag 'workdri'"),
    "no such recipe": (("--config=configs/none.py",), "configs/none.py does not exist"),
    "no such variant": (("--config=configs/dcfs.py:digit",), "did you mean 'digits'"),
    "variant of another recipe": (("--config=configs/l2d.py:cifar10",), "Unknown config variant"),
    "folder for a recipe": (("--config={}",), "does not exist"),
    "text for a recipe": (("--config=README.md",), "cannot be read"),
    "recipe with a mistake": (("--config={}/broken.py",), "broken.py cannot be read"),
    "recipe that fails": (("--config={}/raises.py",), "raises.py cannot be read"),
    "recipe that needs more": (("--config={}/imports.py",), "imports.py cannot be read"),
    "recipe without get_config": (("--config={}/empty.py",), "get_config"),
    "recipe of nothing": (("--config={}/nothing.py",), "nothing.py"),
    "recipe without a task": (("--config={}/bare.py", "--workdir={}/run"), "Unknown task None"),
    "misspelt field": ((DIGITS, "--config.select.kapa=3"), "did you mean --config.select.kappa?"),
    "no such section": ((DIGITS, "--config.foo.bar=1"), "no field 'foo.bar'"),
    "section for a field": ((DIGITS, "--config.al=3"), "config.al"),
    "word for a number": ((DIGITS, "--config.num_epochs=many"), "config.num_epochs=many"),
    "nothing for a number": ((DIGITS, "--config.num_epochs="), "config.num_epochs"),
    "fraction for a count": ((DIGITS, "--config.batch_size=1.5"), "config.batch_size=1.5"),
    "word for a share": ((DIGITS, "--config.al.openness=half"), "config.al.openness=half"),
    "number for a switch": ((DIGITS, "--config.augment.flip=2"), "config.augment.flip=2"),
    "half a tuple": ((DIGITS, "--config.dataset.mean=(0.1,"), "config.dataset.mean"),
    "stray argument": ((DIGITS, "extra"), "'extra' is not a flag"),
    "half of several processes": ((DIGITS, "--workdir={}/run", "--process_id=1"), "together"),
    "word for a process": ((DIGITS, "--process_id=first"), "process_id=first"),
}

# One process imports the command once and answers every case in a fork, before JAX has started.
_ANSWER = """
import json, os, sys
from absl import app
from jaxrobust import main
for name, arguments in json.load(sys.stdin).items():
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        os.dup2(writer, 2)
        sys.argv = ["main", *arguments]
        app.run(main.main, flags_parser=main.parse_flags)
    os.close(writer)
    with os.fdopen(reader) as lines:
        text = lines.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([name, code, text]), flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Case -> (exit code, standard error)."""
    folder = tmp_path_factory.mktemp("command")
    for name, text in _OWN_RECIPES.items():
        (folder / name).write_text(text)
    given = {
        name: [argument.replace("{}", str(folder)) for argument in arguments]
        for name, (arguments, _) in COMMANDS.items()
    }
    done = subprocess.run(
        [sys.executable, "-c", _ANSWER],
        input=json.dumps(given),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = {name: rest for name, *rest in map(json.loads, done.stdout.splitlines())}
    assert not (folder / "run").exists()
    return found


@pytest.mark.parametrize("case", COMMANDS)
def test_a_wrong_command_is_answered_by_one_sentence(case, answers):
    code, stderr = answers[case]
    assert code == 2, stderr
    assert COMMANDS[case][1] in stderr
    assert "Traceback" not in stderr and len(stderr.strip().splitlines()) == 1


def test_there_are_more_than_a_hundred_cases():
    cases = (WRONG_RECIPES, WRONG_FOLDERS, MATRICES, TABLES, WRONG_WORKDIRS, COMMANDS)
    assert sum(map(len, cases)) > 100


def test_a_hostile_recipe_is_python_but_hostile_data_is_not(tmp_path, refused):
    """The pickle of a CIFAR archive that would write a file when it is read."""

    class Hostile:
        def __reduce__(self):
            return pathlib.Path.touch, (tmp_path / "ran",)

    batches = tmp_path / "cifar-10-batches-py"
    batches.mkdir()
    for name in ("batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        (batches / name).write_bytes(pickle.dumps(Hostile()))
    changes = {"dataset.name": "cifar10", "dataset.path": str(tmp_path)}
    refused("dpc", changes, "Refused to unpickle")
    assert not (tmp_path / "ran").exists()
