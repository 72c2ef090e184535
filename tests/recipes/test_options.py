"""Options: declared once, checked everywhere."""

import dataclasses
import json
import math
import subprocess
import sys

import ml_collections
import pytest

from configs import bldr, bual, dpc, l2d
from jaxrobust.engine.workdir import flatten
from jaxrobust.errors import UserError
from jaxrobust.recipes.bual import Bual
from jaxrobust.recipes.dpc import Dpc
from jaxrobust.recipes.fields import (
    Follows,
    Names,
    Options,
    is_default,
    option,
    replace,
    to_config,
)
from jaxrobust.recipes.parse import option_classes, parse
from jaxrobust.recipes.protocols import NoisyLabels

CLASSES = {
    cls
    for task in ("active_learning", "distillation", "noisy_labels")
    for cls in option_classes(task)
}


@pytest.mark.parametrize("cls", sorted(CLASSES, key=lambda cls: cls.__name__), ids=str)
def test_every_option_has_a_default_what_it_may_be_and_a_comment(cls):
    assert cls.__doc__ and dataclasses.fields(cls)
    for field in dataclasses.fields(cls):
        if field.name == "settings":
            continue
        if isinstance(field.default, Options):
            assert field.default.section == field.name
            continue
        allowed = field.metadata["allowed"]
        assert len(field.metadata["comment"]) > 2, field.name
        if isinstance(allowed, str):
            low, high = map(float, allowed[1:-1].split(","))
            assert allowed[0] in "[(" and allowed[-1] in ")]" and low < high
        else:
            assert allowed in (bool, str) or tuple(allowed), field.name
        if isinstance(allowed, Names) and not isinstance(field.default, Follows):
            assert field.default in tuple(allowed)


def test_options_are_made_only_with_valid_values():
    assert Dpc().beta == 0.5 and hash(Dpc()) == hash(Dpc(beta=0.5))
    with pytest.raises(UserError, match=r"dpc.beta=-1 must be a number in \[0, inf\)"):
        Dpc(beta=-1)
    with pytest.raises(UserError, match=r"dpc.beta=nan"):
        dataclasses.replace(Dpc(), beta=math.nan)
    with pytest.raises(UserError, match=r"dpc.heads=True must be a number"):
        Dpc(heads=True)
    with pytest.raises(UserError, match="did you mean 'evidential'"):
        Dpc(loss="evidental")
    with pytest.raises(UserError, match=r"dpc.forward_unlabeled=1 must be True or False"):
        Dpc(forward_unlabeled=1)
    with pytest.raises(UserError, match=r"dpc.forward_unlabeled=False leaves them out"):
        Dpc(forward_unlabeled=False)


def test_combinations_wait_until_followed_fields_are_known():
    assert isinstance(Bual(nl_eval_at_start=False).nl_epochs, Follows)
    config = bual.get_config("digits")
    config.update_from_flattened_dict({"bual.nl_eval_at_start": False, "num_epochs": 4})
    with pytest.raises(UserError, match=r"bual.eval_interval=5 is longer than bual.nl_epochs=4"):
        parse(config)


def test_fields_that_follow_others_go_on_doing_so_in_a_config():
    config = bual.get_config("digits")
    config.num_epochs = 7
    assert (config.bual.aux_epochs, config.bual.nl_epochs) == (7, 7)
    config.bual.nl_epochs = 3
    assert (config.num_epochs, config.bual.nl_epochs) == (7, 3)
    config = bldr.get_config("digits")
    config.bldr.warm_up = 5
    assert config.optimizer.constant_epochs == 5


def test_a_field_has_the_default_of_its_declaration():
    config = bual.get_config("digits")
    recipe = flatten(json.loads(config.to_json()))
    assert is_default("bual.nl_epochs", recipe, CLASSES)  # follows num_epochs
    assert is_default("dataset.mean", recipe, CLASSES)  # of no numbers
    assert not is_default("num_epochs", recipe, CLASSES)  # the recipe's own
    assert not is_default("bual.nl_epochs", {**recipe, "bual.nl_epochs": 1}, CLASSES)


def test_a_recipe_is_replaced_by_dotted_names():
    changed = replace(NoisyLabels(), {"noise.rate": 0.2, "optimizer.momentum": 0.0, "seed": 3})
    assert (changed.noise.rate, changed.optimizer.momentum, changed.seed) == (0.2, 0.0, 3)
    assert NoisyLabels().noise.rate == 0.4
    assert to_config(changed).noise.kind == "symmetric"
    with pytest.raises(UserError, match=r"did you mean 'noise\.rate'"):
        replace(NoisyLabels(), {"noise.rat": 0.2})


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("dpc.betta", "Unknown option 'dpc.betta': did you mean 'dpc.beta'?"),
        ("num_epoch", "Unknown option 'num_epoch': did you mean 'num_epochs'?"),
        ("optimizer.constant_epoch", "did you mean 'optimizer.constant_epochs'?"),
    ],
)
def test_a_field_that_nothing_reads_is_refused(field, words):
    config = dpc.get_config("digits")
    config.update_from_flattened_dict({field: 1})
    with pytest.raises(UserError) as caught:
        parse(config)
    assert words in str(caught.value)


def test_a_section_that_nothing_reads_is_refused():
    config = dpc.get_config("digits")
    config.dcp = ml_collections.ConfigDict({"beta": 1.0})
    with pytest.raises(UserError, match="Unknown option 'dcp': did you mean 'dpc'"):
        parse(config)


def test_a_recipe_may_have_the_sections_of_several_methods():
    config = bldr.get_config("digits")
    config.dpc = dpc.get_config("digits").dpc
    config.model.pool = "global"
    parse(config)
    config.dpc.beta = -1.0
    with pytest.raises(UserError, match=r"dpc.beta=-1.0"):
        parse(config)


def test_a_recipe_with_fewer_fields_takes_the_defaults():
    config = ml_collections.ConfigDict(
        {"task": "noisy_labels", "method": "dpc", "dpc": {"beta": 1.0}}
    )
    assert parse(config).dpc == Dpc(beta=1.0)
    config.method = "bldr"
    with pytest.raises(UserError, match=r"method='bldr' reads the section 'bldr', .*configs/bldr"):
        parse(config)


def test_lists_are_read_as_tuples():
    config = l2d.get_config("digits")
    config.dataset.mean = [0.1, 0.2, 0.3]
    parse(config)
    config.dataset.mean = [0.1, 0.2]
    with pytest.raises(UserError, match="must hold 0 or 3 numbers"):
        parse(config)


def test_an_option_of_ones_own():
    @dataclasses.dataclass(frozen=True)
    class Mine(Options, section="mine", recipe="mine.py"):
        """Mine."""

        weights: tuple[float, ...] = option((1.0,), "(0, 1]", "of nothing")

    assert to_config(Mine()).weights == (1.0,)
    with pytest.raises(UserError, match=r"mine.weights=\(2.0,\) must be numbers in \(0, 1\]"):
        Mine(weights=(2.0,))


def test_wrong_numbers_are_refused_without_jax():
    """Of a whole recipe; the names of networks, whose files import JAX, are looked at last."""
    script = """
import json, sys
from configs import dpc
from jaxrobust.errors import UserError
from jaxrobust.recipes.parse import parse
config = dpc.get_config("digits")
config.dpc.beta = -1.0
try:
    parse(config)
except UserError as error:
    print(json.dumps([str(error), "jax" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sentence, has_jax = json.loads(done.stdout)
    assert "dpc.beta=-1.0" in sentence and not has_jax
