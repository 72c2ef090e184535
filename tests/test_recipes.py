"""Variants of the active-learning recipes."""

import numpy as np
import pytest

from configs import active_learning_baselines, bual, dcfs
from jaxrobust import recipes
from jaxrobust.data.open_set import open_set_split
from jaxrobust.errors import UserError

CLASSES = {"cifar10": 10, "cifar100": 100, "tiny_imagenet": 200}
TENTHS_KNOWN = {0.2: 8, 0.4: 6, 0.6: 4, 0.8: 2}


@pytest.mark.parametrize("dataset", CLASSES)
def test_every_openness_of_the_paper(dataset):
    """The protocol table of BUAL: known classes, initial labels, pool and test images."""
    num_classes = CLASSES[dataset]
    per_class = {"cifar10": 5000}.get(dataset, 500)
    labels = np.repeat(np.arange(num_classes), per_class)
    test_labels = np.repeat(np.arange(num_classes), 10_000 // num_classes)
    for openness, tenths in TENTHS_KNOWN.items():
        config = bual.get_config(f"{dataset}_openness_{openness}")
        assert config.dataset.name == dataset and config.al.openness == openness
        split = open_set_split(
            labels,
            test_labels,
            num_classes=num_classes,
            openness=config.al.openness,
            init_fraction=config.al.init_fraction,
            seed=0,
        )
        num_known = num_classes * tenths // 10
        percent = 1 if dataset == "cifar10" else 8
        initial = num_known * per_class * percent // 100
        known = split.targets < num_known
        assert split.known_classes == tuple(range(num_known))
        assert split.labeled.sum() == initial and not np.any(split.labeled & ~known)
        assert np.sum(known & ~split.labeled) == num_known * per_class - initial
        assert np.sum(~known) == (num_classes - num_known) * per_class
        assert split.test_known.sum() == 1000 * tenths
        assert config.al.query_size == (3000 if dataset == "tiny_imagenet" else 1500)
        assert config.bual.subset_size == (10000 if dataset == "tiny_imagenet" else 5000)


@pytest.mark.parametrize("recipe", [active_learning_baselines, bual, dcfs])
def test_variants_share_the_protocol(recipe):
    for name, (dataset, openness) in recipes.OPEN_SET.items():
        config = recipe.get_config(name)
        assert config.al == recipes.active_learning(name).al or recipe is bual
        assert (config.dataset.name, config.al.openness) == (dataset, openness)
    assert recipe.get_config().to_dict() == recipe.get_config("cifar10").to_dict()
    same = recipe.get_config("cifar10_openness_0.6")
    assert same.to_dict() == recipe.get_config("cifar10").to_dict()
    with pytest.raises(UserError, match=r"did you mean 'cifar10_openness_0\.8'"):
        recipe.get_config("cifar10_opennes_0.8")
