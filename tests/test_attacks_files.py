"""Hostile and impossible files: what is written to, read from, and found in a folder of images.

A new place, file or command is a line of a table.
"""

import io
import json
import os
import pathlib
import socket
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import jaxrobust
from jaxrobust import recipes
from jaxrobust.commands import cli, find_label_issues
from jaxrobust.data import readers
from jaxrobust.data.class_folders import image_folder
from jaxrobust.errors import UserError
from jaxrobust.models import safetensors_file, torch_files
from jaxrobust.models.embedding import embed

ROOT = pathlib.Path(__file__).parents[1]

# ------------------------------------------------------------------------------ where to write

# Command -> its arguments without the place to write to.
WRITERS = {
    "embed": ("embed", "nowhere"),
    "find-label-issues": ("find-label-issues", "labels.npy"),
    "query": ("query", "features.npy", "labels.npy", "--budget=2"),
    "compare": ("compare", "run"),
    "report": ("report", "run"),
    "predict": ("predict", "classifier", "images"),
    "apply-corrections": ("apply-corrections", "images", "corrections.csv"),
    "export": ("export", "student"),
    "export to a tool": ("export", "run", "--to=label-studio"),
    "import": ("import", "run", "answers.json"),
    "benchmark": ("benchmark", "--config=dpc"),
}
FOLDERS = ("compare", "report", "export to a tool")
PLACES = {
    "empty": "",
    "a file in place of a folder": "{}/file/out",
    "no name of a file system": "{}/" + "x" * 300 + "/out",
    "a null byte": "{}/a\0b/out",
    "processes": "/proc/out/out",
    "here": ".",
    "a folder": "{}",
    "a new folder": "{}/new/",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", WRITERS)
def test_a_place_that_cannot_be_written_is_refused_first(command, place, tmp_path, capsys):
    if command in FOLDERS and place in ("here", "a folder", "a new folder"):
        return  # they may be
    if place == "processes" and not pathlib.Path("/proc/self").exists():
        return
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    out = f"--out={PLACES[place].format(tmp_path)}"
    with pytest.raises(SystemExit) as stop:
        cli.main([*WRITERS[command], out])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.startswith("jaxrobust: argument --out: ") and len(said.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_what_fails_later_is_a_sentence_too(tmp_path, capsys, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device", str(tmp_path / "out.csv"))

    labels = tmp_path / "labels.npy"
    np.save(labels, np.arange(6) % 2)
    np.save(tmp_path / "probs.npy", np.full((6, 2), 0.5))
    monkeypatch.setattr(find_label_issues, "find_label_issues", full)
    arguments = [
        str(labels),
        f"--pred-probs={tmp_path / 'probs.npy'}",
        f"--out={tmp_path / 'o.csv'}",
    ]
    assert cli.main(["find-label-issues", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"jaxrobust: {tmp_path / 'out.csv'}: No space left on device; make room")


# ------------------------------------------------------------------------- what is no file


def _socket(path):
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


ENDLESS = {
    "a pipe": os.mkfifo,
    "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a socket": _socket,
}
READERS = {
    "image": lambda path: readers.decode_images([(str(path), path)]),
    "folder of images": lambda path: embed(path.parent, backbone=lambda x: x[:, 0, 0]),
    "list of images": lambda path: embed([path], backbone=lambda x: x[:, 0, 0]),
    "folder of classes": lambda path: image_folder(path.parents[1], 8, 0),
    "archive": lambda path: list(readers.read_tar(path)),
    "idx": readers.read_idx,
    "weights": torch_files.read_checkpoint,
    "labels": lambda path: jaxrobust.data.load_features(path),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such files on this system")
@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("reader", READERS)
def test_what_has_no_end_is_never_read(reader, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    path = pathlib.Path("data/cat/x.png")
    path.parent.mkdir(parents=True)
    ENDLESS[kind](path)
    with pytest.raises(UserError, match=r"is a (pipe|device|socket), not a file|There is no file"):
        READERS[reader](path)


# --------------------------------------------------------------------------------- pictures


def _bytes(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _png_header(width, height):
    """A PNG that claims a size, and has no pixels."""
    import zlib

    chunk = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IHDR" + chunk
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def _square(side=8):
    return Image.fromarray(np.full((side, side, 3), 90, np.uint8))


BAD_PICTURES = {
    "30,000 x 30,000": _bytes(Image.new("1", (30_000, 30_000)), "PNG"),
    "a header alone": _png_header(8, 8),
    "a header of 2 ** 31": _png_header(2**31 - 1, 2**31 - 1),
    "no pixels": _png_header(0, 0),
    "a page": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(/etc/passwd) run\n",
}


@pytest.mark.parametrize("picture", BAD_PICTURES)
def test_a_picture_that_is_none_is_named(picture, tmp_path):
    with pytest.raises(UserError, match=r"x\.png.*(Replace this file|remove)"):
        readers.decode_images([("x.png", BAD_PICTURES[picture])], 8)


def _orientation(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


GOOD_PICTURES = {
    "turned": _bytes(_square(), "JPEG", exif=_orientation(6)),
    "damaged orientation": _bytes(_square(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff"),
    "CMYK": _bytes(_square().convert("CMYK"), "JPEG"),
    "16 bits": _bytes(Image.fromarray(np.full((8, 8), 90 * 257, np.uint16)), "PNG"),
    "animated": _bytes(_square(), "GIF", save_all=True, append_images=[_square()] * 3),
    "one pixel": _bytes(_square(1), "PNG"),
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("picture", GOOD_PICTURES)
def test_unusual_pictures_are_read(picture):
    images = readers.decode_images([("x.png", GOOD_PICTURES[picture])], 8)
    assert images.shape == (1, 8, 8, 3) and abs(int(images.mean()) - 90) < 12


# ----------------------------------------------------------------------- headers and recipes


def _header_of(**offsets):
    entry = {"dtype": "F32", "shape": [2]}
    return json.dumps(
        {n: {**entry, "data_offsets": where} for n, where in offsets.items()}
    ).encode()


# Name -> (length that the file says its header has, header, words of the sentence).
HEADERS = {
    "nested": (500_000, b'{"a":' * 100_000, "nested too deeply"),
    "longer than its file": (1 << 63, b"{}", "its header is cut short"),
    "the same bytes again": (None, _header_of(a=[0, 8], b=[0, 8]), "b does not begin where"),
    "overlapping": (None, _header_of(a=[0, 8], b=[4, 12]), "b does not begin where"),
    "of its own header": (None, _header_of(a=[-8, 0]), "a does not begin where"),
    "with a hole": (None, _header_of(a=[8, 16]), "a does not begin where"),
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_that_lies_is_a_sentence(header, tmp_path):
    length, text, words = HEADERS[header]
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length or len(text)) + text + bytes(16))
    with pytest.raises(UserError, match=words):
        torch_files.read_checkpoint(path)
    with pytest.raises(ValueError, match=words):
        safetensors_file.decoded(path.read_bytes())


RECIPES = {
    "exits": ("exit(7)", "calls exit(7) while it is read"),
    "exits in silence": ("import sys; sys.exit()", "calls exit() while it is read"),
    "fails": ("1 / 0", "ZeroDivisionError"),
    "has no function": ("", "cannot be read (KeyError('get_config'))"),
    "is no Python": ("def (", "SyntaxError"),
    "recurses": ("def f(): f()\nf()", "RecursionError"),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_that_cannot_be_read_is_a_sentence(recipe, tmp_path):
    text, words = RECIPES[recipe]
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(UserError) as caught:
        recipes.read(str(tmp_path / "own.py"))
    assert words in str(caught.value) and str(tmp_path / "own.py") in str(caught.value)


def test_a_recipe_that_exits_does_not_end_the_command_in_silence(tmp_path):
    (tmp_path / "own.py").write_text("exit(7)\n")
    done = subprocess.run(
        [sys.executable, "-m", "jaxrobust", "run", f"--config={tmp_path / 'own.py'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "calls exit(7) while it is read" in done.stderr and "Traceback" not in done.stderr
