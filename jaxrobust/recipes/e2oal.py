"""E2OAL, clusters of unknowns and a target precision (CVPR 2026); docs/methods/e2oal.md."""

import dataclasses

import ml_collections

from jaxrobust.recipes import choose
from jaxrobust.recipes.fields import Options, option, replace, to_config
from jaxrobust.recipes.protocols import OPEN_SET, ActiveLearning, active_learning


@dataclasses.dataclass(frozen=True)
class E2oal(Options, section="e2oal", recipe="configs/e2oal.py"):
    """E2OAL (CVPR 2026, arXiv 2603.07898); the code's defaults where the paper differs."""

    target_precision: float = option(0.6, "[0, 1]", "target share of known images in queries")
    unknowns: str = option(
        "clusters", ("clusters", "one"), "of the auxiliary head; one: unknown images are one class"
    )
    embeddings: str = option(
        "auto",
        str,
        "features in which unknown images are clustered. Of images: a .npy or .npz file of the "
        "training images in order, such as the paper's CLIP features; auto: of "
        "jaxrobust[pretrained]; or pixels. With dataset.name=features these are clustered, "
        "unless a file is given",
    )
    num_components: int = option(
        0, "[0, inf)", "leading principal components of the embeddings; 0: all, as in the code"
    )
    max_clusters: int = option(
        1000, "[2, inf)", "largest number of clusters, known and unknown; at most one per image"
    )
    num_starts: int = option(10, "[1, inf)", "of every k-means; scikit-learn 0.24's default")
    anneal_epochs: int = option(10, "[0, inf)", "epochs in which the divergence grows from 0")
    kl_per_class: bool = option(True, bool, "divides it by the number of outputs; paper: no")
    divergence: str = option(
        "reverse", ("reverse", "js"), "divergence of the informativeness; paper: js, Jensen-Shannon"
    )
    select: str = option(
        "both",
        ("both", "margin", "informativeness"),
        "margin: images that look most known, however informative; informativeness: however "
        "unknown they look, by the main head's classes",
    )
    mixture: str = option(
        "all", ("all", "pool"), "images to which the mixture is fitted; all: also annotated ones"
    )
    refill: bool = option(
        False, bool, "True: if a class has too few images, others are queried instead"
    )
    target: str = option(
        "auxiliary",
        ("auxiliary", "main", "separate"),
        "which predictions are reported: the K known outputs of the auxiliary head; main: the "
        "main head, as in the paper; separate: a network trained only on known images",
    )


@dataclasses.dataclass(frozen=True)
class E2oalRecipe(ActiveLearning):
    """The annotation protocol with E2OAL."""

    e2oal: E2oal = E2oal()


_AUTHORS = {
    "model.name": "resnet50_thin",
    "num_epochs": 200,
    "optimizer.schedule": "step",
    "optimizer.weight_decay": 5e-4,
    "al.rounds": 11,
}
_OURS = {"e2oal.max_clusters": 64, "e2oal.refill": True}
_BY_DATASET = {
    "cifar10": _AUTHORS,
    "cifar100": _AUTHORS,
    "tiny_imagenet": {**_AUTHORS, "al.query_size": 1500, "model.pool": "global"},
    "fashion_mnist": {**_OURS, "e2oal.embeddings": "pixels"},
    "digits": {**_OURS, "e2oal.embeddings": "pixels"},
    "image_folder": _OURS,
    # More accurate than either head of few images, with the same queries: docs/results.md.
    "features": {**_OURS, "e2oal.num_components": 128, "e2oal.target": "separate"},
}

_KNOWN = {"cifar10": (2, 3, 4), "cifar100": (20, 30, 40), "tiny_imagenet": (20, 30, 40)}
PROTOCOL = {
    f"{dataset}_known_{count}": (dataset, count) for dataset in _KNOWN for count in _KNOWN[dataset]
}
"""Variant of the paper's tables -> data set and known classes."""

ABLATIONS = {
    "one_unknown": {"e2oal.unknowns": "one"},
    "margin_alone": {"e2oal.select": "margin"},
    "informativeness_alone": {"e2oal.select": "informativeness"},
    "known_alone": {"e2oal.target": "separate"},
}
"""Of the paper's tables; `known_alone` is its "Ours*"."""

_PLAIN = (*OPEN_SET, *PROTOCOL)
VARIANTS = (*_PLAIN, *(f"{name}_{ablation}" for name in _PLAIN for ablation in ABLATIONS))


def get_config(variant: str | None = None) -> ml_collections.ConfigDict:
    """Recipe for one variant of `OPEN_SET` or `PROTOCOL`, ablated or not."""
    ablation = next((name for name in ABLATIONS if (variant or "").endswith(f"_{name}")), "")
    name = (variant or "").removesuffix(f"_{ablation}") or None
    name = choose(name, "cifar10", {**OPEN_SET, **PROTOCOL})
    dataset, num_known = PROTOCOL.get(name, (name, 0))
    recipe = active_learning(E2oalRecipe(method="e2oal"), dataset, _BY_DATASET)
    changes = {"al.num_known": num_known} if num_known else {}
    return to_config(replace(recipe, changes | ABLATIONS.get(ablation, {})))
