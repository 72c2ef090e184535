import json
import sys
import types

import pytest

from jaxrobust.engine.writers import JsonLines, optional_writers, writer_names
from jaxrobust.errors import UserError

EVENT = {"step": 3, "split": "train", "phase": "query", "round": 1, "epoch": 2, "loss": 0.5}


def test_json_lines_are_cut_back_to_what_a_checkpoint_vouches_for(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonLines(path, keep_bytes=0)
    writer.write(EVENT)
    size = writer.size
    writer.write({**EVENT, "step": 4})
    writer.close()
    with path.open("a") as file:
        file.write('{"torn')
    writer = JsonLines(path, keep_bytes=size)
    writer.write({**EVENT, "step": 5})
    writer.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [3, 5]


def test_tensorboard_gets_every_measurement_under_split_and_phase(tmp_path):
    (writer,) = optional_writers(("jsonl", "tensorboard"), tmp_path, first_step=0, config={})
    writer.write(EVENT)
    writer.flush()
    writer.close()
    (file,) = (tmp_path / "tensorboard").glob("events.out*")
    assert b"train/query/loss" in file.read_bytes()
    assert b"train/query/epoch" not in file.read_bytes()


def test_tensorboard_is_the_default_and_left_out_where_it_is_not_installed(
    tmp_path, monkeypatch, caplog
):
    with caplog.at_level("INFO", "jaxrobust"):
        (writer,) = optional_writers(("auto",), tmp_path, first_step=0, config={})
        writer.close()
        assert not caplog.messages
        monkeypatch.setitem(sys.modules, "tensorboardX", None)
        assert optional_writers(("auto",), tmp_path, first_step=0, config={}) == []
    (said,) = caplog.messages
    assert "pip install 'jaxrobust[tensorboard]'" in said


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the package, which CI does not install."""
    fake = types.ModuleType("wandb")
    fake.errors = types.ModuleType("wandb.errors")
    fake.errors.Error = type("Error", (Exception,), {})
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setitem(sys.modules, "wandb.errors", fake.errors)
    return fake


def test_wandb_goes_on_in_the_same_run(tmp_path, wandb):
    calls, logged = [], []
    run = types.SimpleNamespace(
        log=lambda values, step: logged.append((step, values)), finish=lambda: None
    )
    wandb.init = lambda **options: calls.append(options) or run
    for _ in range(2):
        (writer,) = optional_writers(("wandb",), tmp_path, first_step=0, config={"seed": 1})
        writer.write(EVENT)
        writer.close()
    assert calls[0]["id"] == calls[1]["id"] == (tmp_path / "wandb_id.txt").read_text()
    assert calls[0]["config"] == {"seed": 1}
    assert logged[0] == (3, {"train/query/loss": 0.5})


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_what_is_asked_for_and_not_installed_is_one_sentence(name, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    words = rf"writers names {name}.*pip install 'jaxrobust\[{name}\]'"
    with pytest.raises(UserError, match=words):
        optional_writers(("auto", name), tmp_path, first_step=0, config={})


def test_wandb_without_a_key_is_one_sentence(tmp_path, monkeypatch, wandb):
    def refuse(**options):
        raise wandb.errors.Error("no key\nand more")

    wandb.init = refuse
    with pytest.raises(UserError, match=r"cannot be used \(no key\).*`wandb login`"):
        optional_writers(("wandb",), tmp_path, first_step=0, config={})


def test_names_may_be_joined_as_a_flag_gives_them():
    assert writer_names(("tensorboard, wandb", "jsonl")) == ["tensorboard", "wandb", "jsonl"]
