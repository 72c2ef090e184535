"""Tests of images that worker processes read while the device works."""

import multiprocessing
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxrobust.data.streaming import FileStream, PackedPaths, packed, read_files, views_at
from jaxrobust.data.transforms import multilabel_transform
from jaxrobust.engine.loops import epoch_program, gather_program
from jaxrobust.engine.plan import make_plan
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.sharding import fetch, make_placement
from jaxrobust.errors import DataError

TRAIN, TEST = (multilabel_transform(8, train=train) for train in (True, False))
PLAN = np.array([[4, 0, 2], [1, 5, 3], [6, -1, -1]], np.int32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Seven images of different sizes, one colour each."""
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{i}.png" for i in range(7)]
    for i, path in enumerate(paths):
        Image.new("RGB", (9 + i, 12), (30 * i, 0, 255)).save(path)
    return paths


def _stream(files, transforms=(TRAIN,), **changes):
    options = {"seed": 3, "name": "weak", **changes}
    return FileStream(packed(files), transforms, (8, 8, 3), **options)


def _read(stream, ids):
    return list(stream.batches(ids))


def _same(some, others):
    assert len(some) == len(others)
    for row, other in zip(some, others, strict=True):
        chex.assert_trees_all_equal(row, other)


def test_batches_follow_the_plan(files):
    rows = _read(_stream(files, (TEST, TRAIN)), PLAN)
    for wanted, (ids, (plain, augmented)) in zip(PLAN, rows, strict=True):
        np.testing.assert_array_equal(ids, wanted)
        assert plain.shape == augmented.shape == (3, 8, 8, 3) and plain.dtype == np.uint8
        for i, image in zip(ids, plain, strict=True):
            color = (0, 0, 0) if i < 0 else (30 * i, 0, 255)
            np.testing.assert_array_equal(image, np.broadcast_to(color, (8, 8, 3)))
        assert not augmented[ids < 0].any()
    assert any((augmented != plain).any() for _, (plain, augmented) in rows)


def test_pixels_depend_on_seed_name_epoch_row_and_image_alone(files):
    whole = _read(_stream(files), PLAN)
    _same(whole, _read(_stream(files), PLAN))
    for changes in ({"seed": 4}, {"name": "strong"}, {"epoch": 1}):
        changed = _read(_stream(files, **changes), PLAN)
        assert any((a[1][0] != b[1][0]).any() for a, b in zip(whole, changed, strict=True))
    other = np.where(PLAN == 5, 6, PLAN)  # its neighbours do not mind
    for (ids, (a,)), (_, (b,)) in zip(whole, _read(_stream(files), other), strict=True):
        np.testing.assert_array_equal(a[ids != 5], b[ids != 5])
    again = _read(_stream(files), np.stack([PLAN[0], PLAN[0]]))
    assert (again[0][1][0] != again[1][1][0]).any()  # a second visit draws anew


def test_workers_change_nothing_and_end_with_the_iterator(files):
    ids = {"x": PLAN, "u": PLAN[::-1]}
    stream = _stream(files, (TRAIN, TEST))
    rows = _read(_stream(files, (TRAIN, TEST), num_workers=2), ids)
    _same(_read(stream, ids), rows)
    for num_workers in (0, 1):  # nor does where it begins
        begun = _stream(files, (TRAIN, TEST), num_workers=num_workers).batches(ids, 1)
        _same(list(begun), rows[1:])
    assert set(rows[0][0]) == {"x", "u"}
    assert not multiprocessing.active_children()
    batches = _stream(files, num_workers=1).batches(PLAN)
    next(batches)
    assert multiprocessing.active_children()
    batches.close()
    assert not multiprocessing.active_children()


@pytest.fixture
def damaged(files, tmp_path):
    """The files, of which 0 and 6 hold no image."""
    bad = [tmp_path / name for name in ("zero.png", "six.png")]
    for path in bad:
        path.write_bytes(b"no image")
    return [bad[0], *files[1:6], bad[1]]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_file_that_cannot_be_decoded_is_named(damaged, num_workers):
    with pytest.raises(DataError, match=r"zero\.png is not an image"):
        _read(_stream(damaged, num_workers=num_workers), PLAN)


def test_a_file_that_cannot_be_decoded_may_be_skipped(damaged, caplog):
    stream = _stream(damaged, (TEST,), on_corrupt="skip")
    for _ in range(2):
        ((ids, (views,)),) = _read(stream, PLAN[:1])
        np.testing.assert_array_equal(ids, [4, 2, 2])  # what the labels are looked up by
        np.testing.assert_array_equal(views[1], views[2])
    (record,) = caplog.records
    assert record.getMessage().startswith(f"Skipped: {damaged[0]} is not an image")
    with pytest.raises(
        DataError, match=r"No image of a batch .*; the first error: .*six\.png is not"
    ):
        _read(stream, PLAN[2:])


def test_some_files_may_be_read_at_once(files, damaged):
    ids = np.array([2, 0])
    images = read_files(files, ids, TEST, (8, 8, 3), "stop")
    np.testing.assert_array_equal(images[:, 0, 0], [[60, 0, 255], [0, 0, 255]])
    skipped = read_files(damaged, ids, TEST, (8, 8, 3), "skip")
    np.testing.assert_array_equal(skipped, images * np.array([1, 0], np.uint8)[:, None, None, None])
    with pytest.raises(DataError, match=r"zero\.png"):
        read_files(damaged, ids, TEST, (8, 8, 3), "stop")


def test_paths_are_packed(files):
    names = [*files, files[0].with_name("é.png")]
    paths = pickle.loads(pickle.dumps(packed(names)))
    assert isinstance(paths, PackedPaths) and list(paths) == names
    with pytest.raises(IndexError):
        paths[-1]
    others = ("a", files[0])
    assert packed(others) is others


@pytest.mark.parametrize("num_devices", [1, 8])
def test_programs_over_a_stream_give_what_they_give_over_an_array(files, num_devices):
    placement = make_placement(jax.devices()[:num_devices])
    images = placement.put(read_files(files, np.arange(7), TEST, (8, 8, 3), "stop"))

    def step(state, ids, key, images):
        del key
        (views,) = views_at(images, jnp.maximum(ids, 0), 1)
        total = jnp.sum(jnp.where(ids >= 0, views.astype(jnp.float32).mean((1, 2, 3)), 0.0))
        return 0.5 * state + total, {"total": total}

    def forward(ids, key, images):
        del key
        (views,) = views_at(images, ids, 1)
        return views.astype(jnp.float32).mean((1, 2))

    plan = make_plan(np.array([4, 0, 2, 6, 5]), 2, capacity=7, width=placement.round_up(2))
    results = []
    for operand in (images, _stream(files, (TEST,))):
        programs = Programs()
        epoch = epoch_program(programs, "epoch", step, placement, static=())
        gather = gather_program(programs, "gather", forward, 7, placement, static=())
        placed = plan._replace(ids=jax.device_put(plan.ids, placement.plan))
        key = jax.random.key(0)
        state, sums = epoch(placement.put(np.float32(1)), placed, key, operand)
        results.append(fetch((state, sums, gather(placed, key, operand))))
        assert programs.traces == {"epoch": 1, "gather": 1}
    chex.assert_trees_all_equal(*results)
