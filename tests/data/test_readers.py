"""Tests of jaxrobust.data.readers: formats, and what is refused."""

import gzip
import io
import os
import pathlib
import pickle
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from jaxrobust.data import pickles, readers
from jaxrobust.errors import DataError

GREY = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)


# ----------------------------------------------------------------------------------------- idx


@pytest.mark.parametrize("compress", [gzip.compress, bytes])
def test_read_idx(tmp_path, compress):
    values = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype=np.uint8)
    file = tmp_path / "images"
    file.write_bytes(compress(b"\x00\x00\x08\x03" + struct.pack(">3I", 3, 4, 5) + values.tobytes()))
    np.testing.assert_array_equal(readers.read_idx(file), values)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not an idx file of unsigned bytes"),
        (b"<html>not found</html>", "is not an idx file of unsigned bytes"),
        (b"\x00\x00\x0d\x01" + struct.pack(">I", 1) + bytes(4), "is not an idx file"),
        (b"\x00\x00\x08\x03\x00", "is cut short or too long for its header"),
        (b"\x00\x00\x08\x01" + struct.pack(">I", 5) + bytes(4), "is cut short or too long"),
        (b"\x00\x00\x08\x01" + struct.pack(">I", 5) + bytes(6), "is cut short or too long"),
        (
            gzip.compress(bytes(1000), mtime=0)[:-9],
            "Cannot read .*images.*Copy or download it again",
        ),
    ],
)
def test_damaged_idx_is_refused_in_words(tmp_path, content, words):
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(DataError, match=words):
        readers.read_idx(tmp_path / "images")


# ----------------------------------------------------------------------------------------- tar


def _tar(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for member, content in members:
            member = tarfile.TarInfo(member) if isinstance(member, str) else member
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def _link(name, kind):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize("compression", ["", ":gz", ":bz2", ":xz"])
def test_read_tar(tmp_path, compression):
    folder = tarfile.TarInfo("a")
    folder.type = tarfile.DIRTYPE
    members = [(folder, b""), ("a/x", b"1"), ("b", b"")]
    path = _tar(tmp_path / "t", members, f"w{compression}")
    assert list(readers.read_tar(path)) == [("a/x", b"1"), ("b", b"")]


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil"])
def test_tar_with_a_path_that_leads_out_is_refused(tmp_path, name):
    path = _tar(tmp_path / "t", [(name, b"1")])
    with pytest.raises(DataError, match="leads out of the archive"):
        list(readers.read_tar(path))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_tar_with_a_link_or_device_is_refused(tmp_path, kind):
    path = _tar(tmp_path / "t", [("ok", b"1"), (_link("data_batch_1", kind), b"")])
    with pytest.raises(DataError, match="'data_batch_1', which is a link or a device"):
        list(readers.read_tar(path))


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2", "w"])
def test_tar_that_is_cut_short_is_refused(tmp_path, mode):
    noise = np.random.default_rng(0).bytes(50_000)
    path = _tar(tmp_path / "t", [("a", noise), ("b", noise)], mode)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"Cannot read the archive .*may be cut short"):
        list(readers.read_tar(path))


def test_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "t").write_text("<html>")
    with pytest.raises(DataError, match="Cannot read the archive"):
        list(readers.read_tar(tmp_path / "t"))


# ----------------------------------------------------------------------------------------- pickles


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_arrays_in_containers_are_read(protocol):
    record = {"a": np.arange(6, dtype=np.uint8).reshape(2, 3), "b": [1, (2.5, None, "x")]}
    out = pickles.unpickle_arrays(pickle.dumps(record, protocol), "f")
    np.testing.assert_array_equal(out["a"], record["a"])
    assert out["b"] == record["b"]


class _Calls:
    """Pickles to a call of `function`."""

    def __init__(self, function, *arguments):
        self._call = function, arguments

    def __reduce__(self):
        return self._call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (_Calls(os.system, "touch ran"), "posix.system"),
        (_Calls(eval, "open('ran', 'w')"), r"\w+.eval"),
        (_Calls(getattr, "text", "upper"), r"\w+.getattr"),
        (_Calls(np.load, "ran"), r"numpy\w*.*load"),
        (pathlib.PurePosixPath("x"), r"pathlib\S*.PurePosixPath"),
        (np.float64(1), r"numpy\S*.scalar"),
    ],
)
def test_pickles_that_name_anything_else_are_refused(
    tmp_path, monkeypatch, payload, name, protocol
):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({"data": payload}, protocol)
    with pytest.raises(DataError, match=f"Refused to unpickle data_batch_1: it asks for {name}"):
        pickles.unpickle_arrays(content, "data_batch_1")
    assert not (tmp_path / "ran").exists()


def test_pickle_cannot_reach_attributes_of_what_is_admitted():
    content = b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."
    with pytest.raises(DataError, match=r"it asks for numpy\.ndarray\.tofile"):
        pickles.unpickle_arrays(content, "f")


@pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps([1] * 99)[:50]])
def test_damaged_pickles_are_refused(content):
    with pytest.raises(DataError, match="Refused to unpickle f: "):
        pickles.unpickle_arrays(content, "f")


# ----------------------------------------------------------------------------------------- images


def _encoded(image, file_format, **options):
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def _decoded(content, size=None):
    return readers.decode_images([("x", content)], size)[0]


def _rgb(grey=GREY):
    return np.repeat(grey[..., None], 3, axis=-1)


@pytest.mark.parametrize(
    "content",
    [
        _encoded(Image.fromarray(GREY), "PNG"),
        _encoded(Image.fromarray(_rgb()), "PNG"),
        _encoded(Image.fromarray(_rgb()), "BMP"),
        _encoded(Image.fromarray(_rgb()), "WEBP", lossless=True),
        _encoded(Image.fromarray(GREY).convert("LA"), "PNG"),
        _encoded(Image.fromarray(GREY).convert("RGBA"), "PNG"),
        _encoded(Image.fromarray(_rgb()).quantize(64), "PNG"),
        _encoded(Image.fromarray(_rgb()).quantize(64), "GIF"),
        _encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"),
        _encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"),
        _encoded(Image.fromarray(_rgb()).convert("CMYK"), "TIFF"),
        _encoded(Image.fromarray(_rgb()).convert("CMYK"), "JPEG", quality=100, subsampling=0),
    ],
    ids="L RGB BMP WEBP LA RGBA P GIF I;16 I;16-tiff CMYK CMYK-jpeg".split(),
)
def test_every_colour_mode_becomes_rgb(content):
    out = _decoded(content)
    assert out.dtype == np.uint8 and out.shape == (8, 8, 3)
    np.testing.assert_allclose(out.astype(int), _rgb(), atol=1)


def test_black_and_white_image():
    out = _decoded(_encoded(Image.fromarray(GREY > 100), "PNG"))
    np.testing.assert_array_equal(out, _rgb(np.where(GREY > 100, 255, 0)))


def test_colours_keep_their_channels():
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[..., 0], colours[..., 2] = 200, 30
    for mode in ("RGB", "CMYK"):
        content = _encoded(Image.fromarray(colours).convert(mode), "TIFF")
        np.testing.assert_array_equal(_decoded(content), colours)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_laid_over_white(mode):
    image = Image.fromarray(GREY).convert(mode)
    image.putalpha(Image.fromarray(np.where(GREY < 128, 0, 255).astype(np.uint8)))
    out = _decoded(_encoded(image, "PNG"))
    np.testing.assert_array_equal(out, _rgb(np.where(GREY < 128, 255, GREY)))


@pytest.mark.parametrize("transparency", [0, bytes([0])])
def test_transparent_palette_entry_is_white(transparency):
    image = Image.fromarray(GREY // 128)
    image.putpalette([10, 20, 30, 40, 50, 60])
    out = _decoded(_encoded(image, "PNG", transparency=transparency))
    np.testing.assert_array_equal(out[0, 0], [255, 255, 255])
    np.testing.assert_array_equal(out[-1, -1], [40, 50, 60])


def test_camera_orientation_is_obeyed():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    tall = np.repeat(GREY[:, :6, None], 3, axis=-1)
    out = _decoded(_encoded(Image.fromarray(tall), "PNG", exif=exif))
    np.testing.assert_array_equal(out, np.rot90(tall, -1))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bit_images_are_refused(dtype):
    content = _encoded(Image.fromarray(GREY.astype(dtype)), "TIFF")
    with pytest.raises(DataError, match="Cannot decode x: 32-bit grey values have no known range"):
        _decoded(content)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP", "WEBP"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_truncated_images_are_refused(file_format, kept):
    content = _encoded(NOISE, file_format)
    _decoded(content)
    with pytest.raises(DataError, match=r"Replace this file, or remove it from the data set\."):
        _decoded(content[: int(kept * len(content))])


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_other_files_are_refused(content):
    with pytest.raises(DataError, match=r"^x is not an image of a known format"):
        _decoded(content)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"Cannot decode x: .*No such file"):
        _decoded(tmp_path / "x.png")


@pytest.mark.parametrize("side", [8, 64])
def test_small_and_large_files_decode_in_order(tmp_path, side):
    """Large files go through threads, small ones do not; contents and paths do the same."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, side, side, 3), dtype=np.uint8)
    contents = [_encoded(Image.fromarray(image), "PNG") for image in images]
    assert (len(contents[0]) >= 4096) == (side == 64)
    named = [(str(i), content) for i, content in enumerate(contents)]
    np.testing.assert_array_equal(readers.decode_images(named), images)
    paths = [(name, tmp_path / name) for name, _ in named]
    for (_, path), content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    np.testing.assert_array_equal(readers.decode_images(paths), images)
    with pytest.raises(DataError, match=r"^7 is not an image"):
        readers.decode_images([*named[:7], ("7", b""), *named[8:]])


def test_different_sizes_need_image_size():
    files = [
        ("a.png", _encoded(Image.fromarray(GREY), "PNG")),
        ("b.png", _encoded(Image.fromarray(GREY[:, :6]), "PNG")),
    ]
    with pytest.raises(DataError, match=r"a.png is 8 x 8 and b.png is 6 x 8. Set image_size"):
        readers.decode_images(files)
    assert readers.decode_images(files, 4).shape == (2, 4, 4, 3)


def test_resizing_crops_the_longer_sides_at_the_centre():
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 2:14] = 200
    for out in (_decoded(_encoded(Image.fromarray(wide), "PNG"), 4), _resized(wide, 4)):
        np.testing.assert_array_equal(out, np.full((4, 4, 3), 200))


def _resized(image, size):
    return readers.resize_images(image[None], size)[0]


def test_resizing_averages_rather_than_skips_pixels():
    checkerboard = (np.indices((16, 16)).sum(0) % 2 * 200).astype(np.uint8)
    np.testing.assert_allclose(_resized(_rgb(checkerboard), 4)[1:-1, 1:-1], 100, atol=8)


def test_images_of_the_right_size_are_not_touched():
    np.testing.assert_array_equal(_decoded(_encoded(Image.fromarray(GREY), "PNG"), 8), _rgb())
