"""Variants of the active-learning recipes."""

import pytest

from configs import active_learning_baselines, bual, dcfs, dpc, e2oal
from jaxrobust.errors import UserError
from jaxrobust.recipes.protocols import OPEN_SET

RECIPES = [active_learning_baselines, bual, dcfs, e2oal]
# BUAL, section 4: initial share of the known images, images per query and in D_sub.
PROTOCOL = {
    "cifar10": (0.01, 1500, 5000),
    "cifar100": (0.08, 1500, 5000),
    "tiny_imagenet": (0.08, 3000, 10_000),
}


@pytest.mark.parametrize("openness", [0.2, 0.4, 0.6, 0.8])
@pytest.mark.parametrize("dataset", PROTOCOL)
def test_every_setting_of_the_paper_is_a_variant(dataset, openness):
    config = bual.get_config(f"{dataset}_openness_{openness}")
    assert (config.dataset.name, config.al.openness) == (dataset, openness)
    measured = (config.al.init_fraction, config.al.query_size, config.bual.subset_size)
    assert measured == PROTOCOL[dataset]
    assert config.al.rounds == 8 and config.num_epochs == config.bual.nl_epochs == 100


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_share_variants(recipe):
    for name, setting in OPEN_SET.items():
        config = recipe.get_config(name)
        assert (config.dataset.name, config.al.openness) == setting
    default = recipe.get_config().to_dict()
    for name in ("cifar10", "cifar10_openness_0.6"):
        assert recipe.get_config(name).to_dict() == default
    with pytest.raises(UserError, match=r"did you mean 'cifar10_openness_0\.8'"):
        recipe.get_config("cifar10_opennes_0.8")


def test_within_a_table_only_the_method_differs():
    """BUAL's Table 1: the protocol sets pooling and the view in which the pool is scored."""
    for name in OPEN_SET:
        ours, theirs = (r.get_config(name).to_dict() for r in (bual, active_learning_baselines))
        assert ours.pop("bual") and ours.pop("method") != theirs.pop("method")
        assert ours == theirs
    assert bual.get_config("tiny_imagenet").model.pool == "window4"
    assert bual.get_config().al.score_transform == "train"


def test_ablations_of_the_tables_are_variants():
    score = bual.get_config("cifar10_openness_0.6_unc_n").bual
    assert (score.base, score.weights) == ("lc", "negative")
    for name in bual.ABLATIONS:
        changed = bual.get_config(f"cifar100_{name}").to_dict()
        whole = bual.get_config("cifar100").to_dict()
        assert changed.pop("bual") != whole.pop("bual") and changed == whole
    for name in e2oal.ABLATIONS:
        changed = e2oal.get_config(f"cifar100_known_20_{name}").to_dict()
        whole = e2oal.get_config("cifar100_known_20").to_dict()
        assert changed.pop("e2oal") != whole.pop("e2oal") and changed == whole
    for name in dpc.ABLATIONS:
        changed = dpc.get_config(f"cifar10n_worst_{name}").to_dict()
        whole = dpc.get_config("cifar10n_worst").to_dict()
        assert changed.pop("dpc") != whole.pop("dpc") and changed == whole
    with pytest.raises(UserError, match="Unknown config variant"):
        bual.get_config("cifar_unc_n")


@pytest.mark.parametrize("name", e2oal.PROTOCOL)
def test_protocol_of_e2oal(name):
    config = e2oal.get_config(name)
    assert (config.dataset.name, config.al.num_known) == e2oal.PROTOCOL[name]
    share = 0.01 if name.startswith("cifar10_") else 0.08
    assert (config.al.init_fraction, config.al.query_size, config.al.rounds) == (share, 1500, 11)
    assert (config.num_epochs, config.batch_size, config.model.name) == (200, 128, "resnet50_thin")
    sgd = config.optimizer
    assert (sgd.learning_rate, sgd.momentum, sgd.weight_decay) == (0.01, 0.9, 5e-4)
    assert (sgd.schedule, sgd.decay_every, sgd.decay_factor) == ("step", 60, 0.5)
    assert not config.e2oal.refill and config.e2oal.max_clusters == 1000
