"""What several tasks do alike with a recipe."""

import dataclasses
import logging
import os
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxrobust.data.sources import Dataset, load_dataset
from jaxrobust.engine.training import TrainState
from jaxrobust.errors import UserError, unknown_name

log = logging.getLogger("jaxrobust")


def load(config: ml_collections.ConfigDict, *, multilabel: bool | None = False) -> Dataset:
    """The data set of a recipe, with the recipe's normalisation constants where it has some.

    Args:
      config: a recipe.
      multilabel: whether the task learns from images with several labels; None: from either kind.

    Raises:
      UserError: if the data is not usable, or of the other kind.
    """
    dataset = load_dataset(
        config.dataset.name,
        path=config.dataset.path or None,
        image_size=config.dataset.image_size or None,
        max_train=config.dataset.max_train or None,
        max_test=config.dataset.max_test or None,
        seed=config.seed,
    )
    if multilabel is not None and dataset.is_multilabel != multilabel:
        has, wants = (
            ("several labels", "one") if dataset.is_multilabel else ("one label", "several")
        )
        raise UserError(
            f"Images of {dataset.name} have {has} each, but task {config.task} learns from "
            f"images with {wants}: choose another --config.dataset.name=."
        )
    return dataclasses.replace(
        dataset,
        mean=tuple(config.dataset.mean) or dataset.mean,
        std=tuple(config.dataset.std) or dataset.std,
    )


def compute_dtype(name: str):
    """The dtype of convolutions that a recipe names.

    Raises:
      UserError: if it is none.
    """
    if name == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    if name not in ("float32", "bfloat16"):
        raise UserError(unknown_name("dtype", name, ("auto", "float32", "bfloat16")))
    return jnp.dtype(name)


def cell(value) -> str:
    """A score as text: whole numbers as they are, others with float32's nine digits."""
    return f"{value:.9g}" if isinstance(value, (float, np.floating)) else str(int(value))


def introduce_networks(
    networks: Mapping[str, TrainState], dtype, *, going_on_in: str | os.PathLike | None
) -> None:
    """Says on what devices which networks run, and whether an earlier attempt goes on."""
    devices = jax.devices()
    sizes = ", ".join(
        f"{name} {sum(x.size for x in jax.tree.leaves(state.params)):,} parameters"
        for name, state in networks.items()
    )
    log.info(
        "%d x %s, %s, networks: %s",
        len(devices),
        devices[0].device_kind,
        jnp.dtype(dtype).name,
        sizes,
    )
    if going_on_in is not None:
        log.info("Going on with the run in %s", going_on_in)
