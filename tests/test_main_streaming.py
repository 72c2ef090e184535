"""The command on an ImageNet folder read through the stream: killed in the middle of an epoch.

Runs are started through this file, which makes them write down what every batch holds, and kill
themselves at batch number $KILL_AT.
"""

import json
import os
import pathlib
import runpy
import signal
import zlib

import pytest
from commands import Command

ROOT = pathlib.Path(__file__).parents[1]
ARGUMENTS = (
    "--config=tests/tiny_recipe.py:dhkd/resnet34_resnet18_imagenet",
    "--config.dataset.image_size=8",
    "--config.augment.resize=10",
    "--config.batch_size=8",
    "--config.eval_batch_size=8",
    "--config.teacher.num_epochs=1",
    "--config.num_epochs=2",
    "--config.writers=('jsonl',)",
)
# An epoch visits 3 batches of 24 training images, and 2 of 12 test images: past are the teacher's
# one, the student's first, and two batches of its second.
KILL_AT = 2 * (3 + 2) + 1


def _run(workdir, data, *, num_workers=1, kill_at=-1):
    record = workdir.with_suffix(f".{kill_at}.jsonl")
    command = Command(
        f"tests.{pathlib.Path(__file__).stem}",
        *ARGUMENTS,
        f"--config.dataset.path={data}",
        f"--workdir={workdir}",
        f"--config.num_workers={num_workers}",
        # Only a run that is killed needs checkpoints.
        f"--config.checkpoint.every_seconds={0 if kill_at >= 0 else 1e9}",
        folder=ROOT,
        RECORD=str(record),
        KILL_AT=str(kill_at),
    )
    code, said = command.end()
    return code, said, [json.loads(line) for line in record.read_text().splitlines()]


def _outcome(workdir):
    files = ("results.json", "student/model.safetensors", "teacher/model.safetensors")
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    events = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
    return {name: (workdir / name).read_bytes() for name in files}, events


@pytest.mark.slow
@pytest.mark.usefixtures("quick_commands")
def test_killed_and_restarted_sees_the_same_batches_and_is_bit_equal(tmp_path, write_images):
    for k in range(3):
        write_images(tmp_path / "data" / "train" / f"n0000000{k}", 8, (12, 15), seed=k)
        write_images(tmp_path / "data" / "val" / f"n0000000{k}", 4, (12, 15), seed=10 + k)
    code, said, before = _run(tmp_path / "killed", tmp_path / "data", kill_at=KILL_AT)
    assert code == -signal.SIGKILL, said
    assert not (tmp_path / "killed" / "results.json").exists()
    # Nor does it matter that no process beside this one decodes now.
    code, said, after = _run(tmp_path / "killed", tmp_path / "data", num_workers=0)
    assert code == 0, said
    assert "Resuming the run" in said
    code, said, whole = _run(tmp_path / "unkilled", tmp_path / "data", num_workers=0)
    assert code == 0, said
    assert before == whole[: KILL_AT + 1] and before[-1][:2] == ["student/epoch", 1]
    assert after == whole[-len(after) :]
    assert len(after) <= len(whole) - 5  # the last checkpoint but one was whole
    assert _outcome(tmp_path / "killed") == _outcome(tmp_path / "unkilled")


def _write_down_batches() -> None:
    from jaxrobust.data.streaming import FileStream

    record, kill_at = open(os.environ["RECORD"], "w"), int(os.environ["KILL_AT"])
    batches, count = FileStream.batches, 0

    def witnessed(self, ids, first=0):
        nonlocal count
        for row_ids, views in batches(self, ids, first):
            pixels = [zlib.crc32(view) for view in views]
            print(json.dumps([self.name, self.epoch, row_ids.tolist(), pixels]), file=record)
            record.flush()
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            yield row_ids, views

    FileStream.batches = witnessed


if __name__ == "__main__":
    _write_down_batches()
    runpy.run_module("jaxrobust.main", run_name="__main__", alter_sys=True)
