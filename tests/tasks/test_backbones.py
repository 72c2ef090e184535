"""Networks of the image tasks that start from the backbone of another one."""

import functools
import json

import jax
import numpy as np
import pytest

from jaxrobust import models, tasks
from jaxrobust.engine.training import backbone_of
from jaxrobust.errors import UserError
from jaxrobust.models.storage import StoredClassifier, save_classifier
from jaxrobust.recipes import bual, dpc
from jaxrobust.recipes.parse import parse
from jaxrobust.tasks import active_learning, noisy_labels
from jaxrobust.tasks.phases import Phases

pytestmark = pytest.mark.usefixtures(
    "one_device", "tiny_network", "shared_programs", "unrendered_figures"
)


def _config(recipe, **changes):
    config = recipe.get_config("digits")
    config.writers = ("jsonl",)
    config.num_epochs = 1
    config.model.name = "tiny"
    config.update_from_flattened_dict(changes)
    return config


NOISY = {"dataset.max_train": 100, "batch_size": 16, "dpc.warm_up": 1}
OPEN_SET = {
    "dataset.max_train": 200,
    "al.rounds": 2,
    "al.query_size": 10,
    "bual.aux_epochs": 1,
    "bual.nl_epochs": 1,
}


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Folder of a classifier whose backbone is that of `tiny`, as `models.convert` writes it."""
    folder = tmp_path_factory.mktemp("converted")
    with pytest.MonkeyPatch.context() as patch:
        backbone = functools.partial(models.ResNetBackbone, stage_sizes=(1,), widths=(4,))
        patch.setitem(models.BACKBONES, "tiny", backbone)
        stored = StoredClassifier("tiny", 3, {})
        variables = stored.module().init(jax.random.key(5), np.zeros((1, 8, 8, 3), "f"))
        save_classifier(StoredClassifier("tiny", 3, variables), folder)
        yield folder


def _starts(task, config, workdir, patch):
    """Variables of every network at its start, by name: those of the first round, then others."""
    starts = {}
    if task is noisy_labels:

        class Looked(noisy_labels._Learning):
            def _restore(self):
                super()._restore()
                for name, network in self.saved.networks.items():
                    starts.setdefault(name, []).append(jax.device_get(network.variables))

        patch.setattr(task, "_Learning", Looked)
    else:

        class Started(Phases):
            def start(self, index, round_, networks):
                network = super().start(index, round_, networks)
                name = self.strategy.phases[index].name
                starts.setdefault(name, []).append(jax.device_get(network.variables))
                return network

        patch.setattr(task, "Phases", Started)
    tasks.run(config, workdir)
    return starts


def _is_backbone(variables, given):
    equal = jax.tree.map(np.array_equal, backbone_of(variables), backbone_of(given))
    return all(jax.tree.leaves(equal))


def test_both_networks_with_noisy_labels(converted, tmp_path, monkeypatch):
    config = _config(dpc, **NOISY, **{"model.backbone": str(converted)})
    starts = _starts(noisy_labels, config, tmp_path / "first", monkeypatch)
    from jaxrobust.models.storage import load_classifier

    given = load_classifier(converted).variables
    assert starts.keys() == {"net1", "net2"}
    for (variables,) in starts.values():
        assert _is_backbone(variables, given)
    heads = [variables["params"]["supervised_head"] for (variables,) in starts.values()]
    assert not np.array_equal(*(jax.tree.leaves(head)[-1] for head in heads))
    assert "backbone_sha256" in json.loads((tmp_path / "first" / "noise.json").read_text())

    # What that run left is a backbone itself.
    config.model.backbone = str(tmp_path / "first")
    starts = _starts(noisy_labels, config, tmp_path / "second", monkeypatch)
    assert not _is_backbone(starts["net1"][0], given)


def test_every_round_of_annotation_starts_from_it(converted, tmp_path, monkeypatch):
    from jaxrobust.models.storage import load_classifier

    config = _config(bual, **OPEN_SET, **{"model.backbone": str(converted)})
    starts = _starts(active_learning, config, tmp_path, monkeypatch)
    given = load_classifier(converted).variables
    assert len(starts["target"]) == 3  # of the state to restore into, and of two rounds
    for name in ("target", "aux"):
        assert all(_is_backbone(variables, given) for variables in starts[name])
    # f_n goes on from the trained f_p instead.
    assert not _is_backbone(starts["negative"][-1], given)
    assert "backbone_sha256" in json.loads((tmp_path / "split.json").read_text())


@pytest.mark.parametrize(("recipe", "sizes"), [(dpc, NOISY), (bual, OPEN_SET)])
def test_one_that_does_not_fit_is_refused_before_training(recipe, sizes, converted, tmp_path):
    config = _config(recipe, **sizes, **{"model.backbone": str(converted)})
    config.model.name = "resnet8_small"
    words = (
        r"holds the backbone of a tiny, which does not fit model\.name='resnet8_small': "
        r"batch_stats/blocks_0/BatchNorm_0/BatchNorm_0/mean has the shape \(4,\), but should have "
        r"\(16,\); change config\.model\.name="
    )
    with pytest.raises(UserError, match=words):
        tasks.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    config.model.backbone = str(tmp_path)
    with pytest.raises(UserError, match=r"holds no classifier; name the folder classifier/"):
        tasks.run(config, tmp_path / "run")


def test_a_linear_head_has_no_backbone(converted):
    module = models.make_network("linear", num_classes=3, num_heads=1, dtype="float32")
    variables = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 5), "f"))
    from jaxrobust.tasks.backbones import stored_backbone

    config = _config(dpc, **{"model.backbone": str(converted)})
    backbone = stored_backbone(parse(config), dataset=None)
    with pytest.raises(UserError, match="consists of heads only and takes no backbone"):
        backbone.check(variables, "linear")


@pytest.mark.parametrize("name", ["resnet18_imagenet", "resnet50_imagenet"])
def test_networks_with_the_stem_of_photographs_have_the_parameters_of_their_backbones(name):
    image = np.zeros((1, 64, 64, 3), "f")
    network = models.make_network(name, num_classes=3, num_heads=2, dtype="float32")
    backbone = models.make_classifier(name, num_classes=5, auxiliary="none", dtype="float32")
    shapes = [
        jax.tree.map(np.shape, backbone_of(jax.eval_shape(x.init, jax.random.key(0), image)))
        for x in (network, backbone)
    ]
    assert shapes[0] == shapes[1]
