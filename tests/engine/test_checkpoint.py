import logging
import shutil

import chex
import jax
import numpy as np
import pytest

from jaxrobust.engine import digests
from jaxrobust.engine.checkpoint import Checkpoints, abstract_like
from jaxrobust.engine.sharding import make_placement
from jaxrobust.errors import UserError


@pytest.fixture
def placement():
    return make_placement(jax.devices()[:1])


def _tree(placement, value):
    return placement.put(
        {"w": np.full((300, 7), value, np.float32), "n": {"seen": np.arange(5) == value}}
    )


def _saved(directory, placement, steps=(1, 2, 3)):
    checkpoints = Checkpoints(directory, keep=3)
    for step in steps:
        checkpoints.save(_tree(placement, step), {"epoch": step, "rounds": [{"a": 0.1}]})
    checkpoints.close()


def _restore(directory, placement):
    checkpoints = Checkpoints(directory, keep=3)
    try:
        return checkpoints.restore(abstract_like(_tree(placement, 0)))
    finally:
        checkpoints.close()


def test_the_newest_comes_back_bit_equal(tmp_path, placement):
    _saved(tmp_path, placement, steps=(1, 2, 3, 4, 5))
    tree, record = _restore(tmp_path, placement)
    assert record == {"epoch": 5, "rounds": [{"a": 0.1}]}
    chex.assert_trees_all_equal(tree, _tree(placement, 5))
    assert tree["w"].sharding == placement.replicated
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["3", "4", "5"]


def test_a_record_that_changes_while_it_is_written_is_saved_as_it_was(tmp_path, placement):
    checkpoints = Checkpoints(tmp_path, keep=1)
    record = {"rounds": [{"accuracy": 0.1}]}
    checkpoints.save(_tree(placement, 1), record)
    record["rounds"][0]["accuracy"] = 0.2
    record["rounds"].append({})
    checkpoints.close()
    assert _restore(tmp_path, placement)[1] == {"rounds": [{"accuracy": 0.1}]}


def test_nothing_saved_is_none(tmp_path, placement):
    assert _restore(tmp_path, placement) is None


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _zero(path):
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [_truncate, _zero, lambda path: path.unlink()])
@pytest.mark.parametrize("pattern", ["state/**/d/*", "record/metadata"])
def test_damage_to_the_newest_falls_back_in_one_sentence(
    tmp_path, placement, caplog, damage, pattern
):
    _saved(tmp_path, placement)
    for path in (tmp_path / "3").glob(pattern):
        damage(path)
    with caplog.at_level(logging.WARNING, logger="jaxrobust"):
        tree, record = _restore(tmp_path, placement)
    assert record["epoch"] == 2
    chex.assert_trees_all_equal(tree, _tree(placement, 2))
    (message,) = [r.message for r in caplog.records if r.name == "jaxrobust"]
    assert f"Checkpoint {tmp_path / '3'} is damaged" in message
    assert (tmp_path / "damaged_3").is_dir()


def test_a_checkpoint_of_an_earlier_version_has_no_checksums_and_is_read(
    tmp_path, placement, monkeypatch
):
    with monkeypatch.context() as earlier:
        earlier.setattr(digests, "signed", lambda record: {"epoch": record["epoch"]})
        _saved(tmp_path, placement)
    assert "crc32" not in (tmp_path / "3/record/metadata").read_text()
    tree, record = _restore(tmp_path, placement)
    assert record == {"epoch": 3}
    chex.assert_trees_all_equal(tree, _tree(placement, 3))


def test_the_newest_record_is_of_the_snapshot_that_would_be_restored(tmp_path, placement):
    _saved(tmp_path, placement)
    for path in (tmp_path / "3").glob("state/**/d/*"):
        _truncate(path)
    checkpoints = Checkpoints(tmp_path, keep=3)
    assert checkpoints.newest_record()["epoch"] == 2
    assert checkpoints.restore(abstract_like(_tree(placement, 0)))[1]["epoch"] == 2
    checkpoints.close()


def test_after_a_fallback_the_step_can_be_saved_again(tmp_path, placement):
    _saved(tmp_path, placement)
    shutil.rmtree(tmp_path / "3" / "state")
    checkpoints = Checkpoints(tmp_path, keep=3)
    assert checkpoints.restore(abstract_like(_tree(placement, 0)))[1]["epoch"] == 2
    checkpoints.save(_tree(placement, 3), {"epoch": 3})
    checkpoints.close()
    assert _restore(tmp_path, placement)[1] == {"epoch": 3}


def test_all_damaged_is_one_sentence(tmp_path, placement):
    _saved(tmp_path, placement)
    for step in (1, 2, 3):
        shutil.rmtree(tmp_path / str(step) / "state")
    with pytest.raises(UserError, match=r"Every checkpoint in .* is damaged"):
        _restore(tmp_path, placement)
