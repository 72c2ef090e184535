"""What several tasks do alike with a recipe."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxrobust.data.sources import Dataset, load_dataset
from jaxrobust.errors import UserError, unknown_name


def load(config: ml_collections.ConfigDict) -> Dataset:
    """The data set of a recipe, with the recipe's normalisation constants where it has some."""
    dataset = load_dataset(
        config.dataset.name,
        path=config.dataset.path or None,
        image_size=config.dataset.image_size or None,
        max_train=config.dataset.max_train or None,
        max_test=config.dataset.max_test or None,
        seed=config.seed,
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
