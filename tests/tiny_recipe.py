"""Recipes on networks of a block or two, for tests: `--config=tests/tiny_recipe.py:dpc`.

They take a fraction of the time to compile that those of `:digits` do.
"""

import functools
import importlib

from jaxrobust import models

# The second has a stage from which an exit of BLDR leads.
NETWORKS = {
    name: functools.partial(models.ResNet, stage_sizes=sizes, widths=(4,) * len(sizes))
    for name, sizes in (("tiny", (1,)), ("tiny2", (1, 1)))
}
BACKBONES = {
    f"tiny{width}": functools.partial(models.ResNetBackbone, stage_sizes=(1,), widths=(width,))
    for width in (4, 8)
}


def register():
    """Makes the networks known to this process."""
    models.NETWORKS.update(NETWORKS)
    models.BACKBONES.update(BACKBONES)


def get_config(variant):
    """`METHOD` or `METHOD/VARIANT`, with its networks made known to this process."""
    register()
    return recipe(variant)


def recipe(variant):
    """The recipe `METHOD:digits`, or `METHOD:VARIANT`, on these networks."""
    method, _, variant = variant.partition("/")
    config = importlib.import_module(f"jaxrobust.recipes.{method}").get_config(variant or "digits")
    if "student" in config:
        config.teacher.name, config.student.name = "tiny8", "tiny4"
    else:
        config.model.name = "tiny"
    return config
