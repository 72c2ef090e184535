"""File formats: from bytes on disk to NumPy arrays, one function per format.

Nothing is unpacked to disk, and nothing that is read is ever executed.
"""

import dataclasses
import functools
import gzip
import io
import lzma
import math
import pathlib
import struct
import tarfile
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from jaxrobust.data import guards
from jaxrobust.data.pickles import unpickle_arrays
from jaxrobust.errors import DataError

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

# (images, labels) of the training part, the same of the test part, and the class names.
Archive = tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray], tuple[str, ...]]

_BLOCK = 1 << 24  # bytes that are unpacked at a time

# What the decompressors and tarfile raise for a file that is cut short or was never an archive.
DAMAGED = (EOFError, OSError, lzma.LZMAError, tarfile.TarError, zlib.error)


def read_bytes(path: pathlib.Path) -> bytes:
    """Whole content of a file, decompressed if it is gzip, whatever its name says."""
    try:
        content = guards.read_regular(path)
        return _unzipped(content, path) if content[:2] == b"\x1f\x8b" else content
    except DAMAGED as error:
        raise DataError(f"Cannot read {path}: {error}. Copy or download it again.") from error


def _unzipped(content: bytes, path: pathlib.Path) -> bytes:
    """What a gzip holds, which is refused once it is more than the memory could."""
    parts, size = [], 0
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        while part := file.read(_BLOCK):
            parts.append(part)
            size += len(part)
            guards.check_memory(
                2 * size, f"{path}, once it is unpacked,"
            )  # the parts and the whole
    return b"".join(parts)


def leads_out(name: str) -> bool:
    """Whether the name of a file in a data set leads out of it."""
    path = pathlib.PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def read_tar(path: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files in a tar, compressed or not, in its order.

    Refuses links, devices and paths that lead out of it.
    """
    try:
        guards.check_regular(path)
        with tarfile.open(path) as tar:
            for member in tar:
                if leads_out(member.name):
                    raise DataError(
                        f"{path} holds the path {member.name!r}, which leads out of the archive, "
                        "unlike in any data set. Download it again from its official page."
                    )
                if not (member.isfile() or member.isdir()):
                    raise DataError(
                        f"{path} holds {member.name!r}, which is a link or a device, not a file, "
                        "unlike any data set. Download it again from its official page."
                    )
                guards.check_memory(member.size, f"{member.name} of {path}")
                if (file := tar.extractfile(member)) is not None:
                    yield member.name, file.read()
    except DataError:
        raise
    except (*DAMAGED, ValueError, OverflowError) as error:  # of numbers in a header
        reason = (str(error).splitlines() or [""])[0].rstrip(":")  # then follow tarfile's attempts
        raise DataError(
            f"Cannot read the archive {path}: {reason}. Download it again; it may be cut short."
        ) from error


# ----------------------------------------------------------------------------------------- arrays


def read_idx(path: pathlib.Path) -> np.ndarray:
    """Array of an idx file of unsigned bytes (MNIST's format), gzipped or not."""
    content = read_bytes(path)
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise DataError(f"{path} is not an idx file of unsigned bytes. Download it again.")
    rank = content[3]
    start = 4 + 4 * rank
    shape = struct.unpack(f">{rank}I", content[4:start]) if len(content) >= start else ()
    if len(shape) != rank or len(content) - start != math.prod(shape):
        raise DataError(f"{path} is cut short or too long for its header. Download it again.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_cifar_python(path: pathlib.Path, fine: bool) -> Archive:
    """CIFAR's python version, archive or folder: two (images, labels), and class names."""
    names = ["train", "test"] if fine else [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    meta_name = "meta" if fine else "batches.meta"
    prefix = "fine_" if fine else ""
    files = _named_files(path, [*names, meta_name])
    batches = []
    for name in names:
        data, labels = _unpickled(files[name], f"{name} of {path}", "data", prefix + "labels")
        is_list = isinstance(labels, list) and all(type(label) is int for label in labels)
        if not isinstance(data, np.ndarray) or not (is_list or isinstance(labels, np.ndarray)):
            raise DataError(f"{name} of {path} holds no arrays. Download it again.")
        pixels, labels = data, np.asarray(labels)
        are_classes = labels.dtype.kind in "iu" and labels.ndim == 1
        if pixels.dtype != np.uint8 or pixels.shape != (labels.size, 3072) or not are_classes:
            raise DataError(
                f"{name} of {path} holds {pixels.dtype} {list(pixels.shape)} for {labels.dtype} "
                f"labels {list(labels.shape)}; a CIFAR batch holds 3072 uint8 values for each. "
                "Download it again."
            )
        batches.append((_planes_to_images(pixels), labels))
    key = prefix + "label_names"
    (class_names,) = _unpickled(files[meta_name], f"{meta_name} of {path}", key)
    if not isinstance(class_names, list) or not all(isinstance(n, str) for n in class_names):
        raise DataError(f"{key} of {path} are not names. Download it again.")
    return _join(batches[:-1]), batches[-1], tuple(class_names)


def _unpickled(content: bytes, source: str, *keys: str) -> list:
    """Values of a pickled dict."""
    record = unpickle_arrays(content, source)
    if not isinstance(record, dict) or any(key not in record for key in keys):
        raise DataError(f"{source} does not hold {' and '.join(keys)}. Download it again.")
    return [record[key] for key in keys]


def read_cifar_binary(path: pathlib.Path, fine: bool) -> Archive:
    """CIFAR's binary version: arguments and returns as `read_cifar_python`."""
    names = (
        ["train.bin", "test.bin"]
        if fine
        else [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    )
    meta_name = "fine_label_names.txt" if fine else "batches.meta.txt"
    label_bytes = 2 if fine else 1  # CIFAR-100: coarse, then fine
    files = _named_files(path, [*names, meta_name])
    batches = []
    for name in names:
        if len(files[name]) % (label_bytes + 3072):
            raise DataError(
                f"{name} of {path} is not a whole number of CIFAR records. Download it again."
            )
        records = np.frombuffer(files[name], np.uint8).reshape(-1, label_bytes + 3072)
        batches.append((_planes_to_images(records[:, label_bytes:]), records[:, label_bytes - 1]))
    class_names = tuple(files[meta_name].decode().split())
    return _join(batches[:-1]), batches[-1], class_names


def _named_files(path: pathlib.Path, names: Sequence[str]) -> dict[str, bytes]:
    """Contents of the named files of a folder or a tar."""
    if path.is_dir():
        files = {name: read_bytes(path / name) for name in names if (path / name).is_file()}
    else:
        members = ((name.rsplit("/", 1)[-1], content) for name, content in read_tar(path))
        files = {name: content for name, content in members if name in names}
    if missing := [name for name in names if name not in files]:
        raise DataError(f"{path} lacks {', '.join(missing)}. Download it again.")
    return files


def _planes_to_images(planes: np.ndarray) -> np.ndarray:
    """[N, 3072] of channel planes -> [N, 32, 32, 3]."""
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _join(batches: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)


# --------------------------------------------------------------------------- TensorFlow Datasets


def read_tfds(directory: pathlib.Path) -> Archive:
    """A prepared TensorFlow Datasets folder with `image`, `label` and the splits train and test.

    Needs no TensorFlow, if the folder was prepared as array_record or parquet. Where the records
    carry an `id` (CIFAR), they are sorted by it, which restores the order of the official archive.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(directory)
        splits = [builder.as_data_source(split) for split in ("train", "test")]
        class_names = tuple(builder.info.features["label"].names)
        parts = []
        for split in splits:
            records = list(split)
            if "id" in builder.info.features:
                records.sort(key=lambda record: record["id"])
            images = np.stack([record["image"] for record in records])
            parts.append((images, np.array([record["label"] for record in records])))
    except NotImplementedError as error:
        raise tfds_needs_tensorflow(directory) from error
    except Exception as error:  # a missing split or file, other features, broken metadata
        raise DataError(
            f"Cannot read the TensorFlow Datasets folder {directory}: {error!r}. Prepare it with "
            'file_format="array_record", splits train and test, and features image and label.'
        ) from error
    return *parts, class_names


@dataclasses.dataclass(frozen=True)
class TfdsImage:
    """An encoded image in a TensorFlow Datasets folder; it is read as a path is."""

    directory: pathlib.Path  # the prepared version
    split: str  # name of the split
    position: int  # in the split

    def read_bytes(self) -> bytes:
        """The file as it was when the set was prepared."""
        return tfds_records(self.directory, self.split)[self.position]["image"]


Content = bytes | pathlib.Path | TfdsImage
"""An encoded image, or what can be asked for it."""


@functools.cache
def tfds_records(directory: pathlib.Path, split: str):
    """A split of a prepared folder, its images still encoded."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(directory)
    return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})


def tfds_needs_tensorflow(directory: pathlib.Path) -> DataError:
    """The error for a folder in TensorFlow's own record format."""
    return DataError(
        f"The TensorFlow Datasets folder {directory} is prepared in a format that only "
        'TensorFlow reads: prepare it again with file_format="array_record".'
    )


# ----------------------------------------------------------------------------------------- images


def decode_images(
    files: Sequence[tuple[str, Content]],
    size: int | None = None,
    *,
    crop: bool = True,
) -> np.ndarray:
    """Decodes image files, (name for messages, content or path), to one array uint8 `[N, H, W, 3]`.

    Grey, palette, CMYK and 16-bit images become 8-bit RGB, transparency is laid over white, and
    the EXIF orientation is applied. Only the first frame of an animation is used. Images are
    resized to `size` x `size`, their longer sides cropped at the centre before, or squeezed; None
    keeps their size, which must then be the same for all.
    """
    from concurrent.futures import ThreadPoolExecutor

    first = _decode(*files[0], size, crop)
    images = np.empty((len(files), *first.shape), np.uint8)

    def decode_into(i: int) -> None:
        image = _decode(*files[i], size, crop)
        if image.shape != first.shape:
            raise DataError(
                f"Images differ in size: {files[0][0]} is {first.shape[1]} x {first.shape[0]} and "
                f"{files[i][0]} is {image.shape[1]} x {image.shape[0]}. Set image_size "
                "(--config.dataset.image_size=) to resize them all."
            )
        images[i] = image

    source = files[0][1]
    if isinstance(source, pathlib.Path):
        num_bytes = source.stat().st_size
    else:
        num_bytes = len(source if isinstance(source, bytes) else source.read_bytes())
    if num_bytes < 4096:  # handing such small files to threads takes longer than decoding them
        for i in range(len(files)):
            decode_into(i)
    else:
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(decode_into, range(len(files))):
                pass
    return images


def resize_images(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 [N, H, W, 3] -> uint8 [N, size, size, 3], as `decode_images` does it."""
    from PIL import Image

    return np.stack([fit_square(Image.fromarray(image), size) for image in images])


_REPLACE_IMAGE = "Replace this file, or remove it from the data set."


def _decode(name: str, file: Content, size: int | None, crop: bool) -> np.ndarray:
    rgb = decode_image(name, file)
    return np.asarray(rgb) if size is None else fit_square(rgb, size, crop=crop)


def decode_image(name: str, file: Content):
    """A Pillow image in RGB, as `decode_images` makes it, of its own size."""
    from PIL import Image, UnidentifiedImageError

    try:
        content = guards.read_regular(file) if isinstance(file, pathlib.Path) else file
        content = content if isinstance(content, bytes) else content.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            return to_rgb(name, image)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"{name} is not an image of a known format. {_REPLACE_IMAGE}") from None
    except Exception as error:  # each codec raises types of its own
        raise DataError(f"Cannot decode {name}: {error}. {_REPLACE_IMAGE}") from error


def to_rgb(name: str, image):
    """A Pillow image of any mode as `decode_image` makes it."""
    from PIL import ImageOps

    try:
        return _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # each codec raises types of its own
        raise DataError(f"Cannot decode {name}: {error}. {_REPLACE_IMAGE}") from error


def _to_rgb(image):
    from PIL import Image

    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips 16-bit values at 255 instead of scaling them.
        return Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("32-bit grey values have no known range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def fit_square(image, size: int, *, crop: bool = True) -> np.ndarray:
    """A Pillow image as uint8 [size, size, 3]; `crop` as in `decode_images`."""
    from PIL import Image, ImageOps

    if image.size != (size, size):
        fit = ImageOps.fit if crop else Image.Image.resize
        image = fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)
