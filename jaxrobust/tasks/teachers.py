"""Trained networks that a distillation run starts from: its teacher, and backbones of either."""

import dataclasses
import hashlib
import logging
from typing import Any

import jax
import ml_collections
import numpy as np

from jaxrobust.data.dataset import Dataset, FileDataset
from jaxrobust.errors import UserError
from jaxrobust.methods.distillation import Distiller
from jaxrobust.models.storage import StoredClassifier, load_classifier

log = logging.getLogger("jaxrobust")


@dataclasses.dataclass(frozen=True, eq=False)
class TeacherLogits:
    """What a teacher that is no network of ours says of the images of a data set.

    Attributes:
      name: what reports call it.
      train: float32 `[N, V, C]`, on the V views of the training images that a recipe's crops have,
        in the order of `draw_views`.
      test: float32 `[n, C]`, on the test images; None if it was not asked.
    """

    name: str
    train: np.ndarray
    test: np.ndarray | None

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All logits."""
        return {"train": self.train} | ({} if self.test is None else {"test": self.test})


def stored_teacher(
    config: ml_collections.ConfigDict, dataset: Dataset | FileDataset
) -> StoredClassifier | None:
    """The teacher of `teacher.path`, None if the recipe names none.

    Raises:
      UserError: if there is none at that place, it is damaged, or it knows other classes.
    """
    if not config.teacher.path:
        return None
    stored = load_classifier(config.teacher.path)
    if stored.num_classes != dataset.num_classes:
        raise UserError(
            f"The teacher in {config.teacher.path} tells {stored.num_classes} classes apart, but "
            f"{dataset.name} has {dataset.num_classes}; give another --config.teacher.path."
        )
    if (stored.decoder is not None) != dataset.is_multilabel:
        has, wants = (
            ("one label", "several") if stored.decoder is None else ("several labels", "one")
        )
        raise UserError(
            f"The teacher in {config.teacher.path} learned from images with {has}, but those of "
            f"{dataset.name} have {wants}; give another --config.teacher.path."
        )
    if stored.class_names and stored.class_names != dataset.class_names:
        log.warning(
            "The teacher in %s knows its classes as %s, those of %s are %s: if they are others, or "
            "in another order, it misleads the student.",
            config.teacher.path,
            _shortened(stored.class_names),
            dataset.name,
            _shortened(dataset.class_names),
        )
    return stored


def _shortened(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def has_table(config: ml_collections.ConfigDict) -> bool:
    """Whether the teacher's logits are computed before the first step."""
    return config.teacher.get("logits", "step") == "table"


def check_table(
    config: ml_collections.ConfigDict, distiller: Distiller, given: TeacherLogits | None
) -> None:
    """Refuses a table of logits where a step needs anything else of the teacher.

    Raises:
      UserError: for such a method, or streamed images.
    """
    if not has_table(config):
        return
    if given and not (distiller.has_teacher and distiller.logits_only):
        reads = "a teacher's features too" if distiller.has_teacher else "labels alone"
        raise UserError(
            f"method {config.method} reads {reads}, but this teacher gives logits: choose one that "
            "learns from logits, such as dhkd, kd, dkd or dist, or give the folder of a network."
        )
    reason = None
    if not distiller.has_teacher:
        reason = f"method {config.method} learns from labels alone"
    elif not distiller.logits_only:
        reason = f"method {config.method} reads the teacher's features too"
    elif config.dataset.stream:
        reason = "streamed images are cropped anew on the host, and no two crops are alike"
    if reason:
        raise UserError(
            "teacher.logits='table' is for methods that read logits of images in memory, but "
            f"{reason}: set --config.teacher.logits=step."
        )


def stored_backbone(config: ml_collections.ConfigDict, role: str) -> StoredClassifier | None:
    """The network whose backbone the teacher or the student starts from, None without one.

    Raises:
      UserError: if there is none at that place, it is damaged, or it is another one.
    """
    path, name = config[role].get("backbone", ""), config[role].name
    if not path or (role == "teacher" and config.teacher.path):
        return None
    stored = load_classifier(path)
    if stored.arch != name:
        raise UserError(
            f"{path} holds a {stored.arch}, not the {name} of {role}.name; give another "
            f"--config.{role}.backbone=."
        )
    return stored


def digest(variables: Any) -> str:
    """SHA-256 over all arrays, in the order of their paths."""
    hashed = hashlib.sha256()
    for path, x in jax.tree_util.tree_leaves_with_path(variables):
        hashed.update(jax.tree_util.keystr(path).encode())
        hashed.update(np.ascontiguousarray(x).data)
    return hashed.hexdigest()
