"""The data of a run on labels after a person has looked at some of them."""

import dataclasses
from typing import Any

import numpy as np

from jaxrobust.data.corrections import EXCLUDED, Reviewed, read_all_corrections
from jaxrobust.data.label_noise import given_labels
from jaxrobust.errors import UserError
from jaxrobust.recipes.protocols import NoisyLabels
from jaxrobust.tasks.common import check_network


def reviewed_data(recipe: NoisyLabels, dataset) -> tuple[Any, Reviewed]:
    """The data that fit the recipe without what a person excluded, and the labels to learn from."""
    check_network(recipe, dataset)
    files = dataset.train.file_names
    found = read_all_corrections(
        list(filter(None, map(str.strip, recipe.dataset.corrections.split(",")))),
        files=files,
        labels=given_labels(recipe.noise, dataset, seed=recipe.seed),
        class_names=dataset.class_names,
    )
    kept = np.flatnonzero(found.review != EXCLUDED)
    if len(kept) < len(found.labels):
        if files is None:
            raise UserError(
                f"{recipe.dataset.corrections} excludes {len(found.labels) - len(kept)} "
                "examples, which is possible only for images in files, since ids would change; "
                "leave these examples out of the data, or change the decisions."
            )
        dataset = dataclasses.replace(dataset, train=dataset.train.take(kept))
        found = Reviewed(found.labels[kept], found.review[kept])
    return dataset, found
