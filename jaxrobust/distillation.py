"""A small classifier of images from a teacher: arrays in, a classifier out."""

import contextlib
import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxrobust.classifiers import FACTS, Classifier, load_classifier
from jaxrobust.data.augment import num_views, view_of
from jaxrobust.data.dataset import Examples, with_own_statistics
from jaxrobust.data.subsets import hold_out
from jaxrobust.engine.environment import setup_jax
from jaxrobust.errors import UserError
from jaxrobust.inputs import Labels, as_images, as_labels, as_logits, check_lengths
from jaxrobust.models import storage
from jaxrobust.options import replace, to_config
from jaxrobust.tasks import distillation as task
from jaxrobust.tasks.options import check
from jaxrobust.tasks.protocols import distillation as recipe
from jaxrobust.tasks.teachers import TeacherLogits

_ASKED_AT_A_TIME = 256  # images


def distill(
    images: Any,
    labels: Any,
    *,
    teacher: str | os.PathLike | Callable[[np.ndarray], Any] | Any,
    student: str = "resnet8x4",
    method: str = "dhkd",
    test: tuple[Any, Any] | None = None,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    workdir: str | os.PathLike | None = None,
    progress: bool = False,
    class_names: Any = None,
) -> Classifier:
    """Trains a student under a teacher, as the command with the recipe `dhkd:image_folder` does.

    | teacher | what the student sees | methods |
    |---|---|---|
    | folder of a network of ours (`teacher/`, `student/`, a conversion) | random crops and mirror \
images, which the teacher sees too | all |
    | function, or `classifier/` of another run | every image and its mirror image; the teacher is \
asked once about each | of logits |
    | logits `[N, C]` | every image as it is | of logits |

    Logits are of one view of an image, so the student sees no other; of a function,
    `config={"augment.padding": p}` adds crops, and asks it about all 2 (2 p + 1)^2 views.

    Args:
      images: `[N, H, W(, 3)]`, as `find_label_issues` takes them.
      labels: `[N]`, one class for each.
      teacher: see above. A function takes uint8 `[B, H, W, 3]`, B of any size, and returns logits
        `[B, C]`; columns are classes in sorted order, or as `class_names` has them.
      student: name of a network, see `jaxrobust list networks`.
      method: of distillation, see `jaxrobust list methods`.
      test: (images, labels) that the student is measured on; None: a fifth of each class is held
        out for that, as of a folder.
      seed: of all random choices.
      config: fields of the recipe that are to be others, such as `{"num_epochs": 60}`.
      workdir: folder for everything that the run writes, with which a stopped run goes on; None:
        nothing is left.
      progress: whether to show a bar.
      class_names: the C classes in order: names of the ids, or the values that occur in `labels`.

    Returns:
      The student, whose `classes` are in the type of the labels.

    Raises:
      UserError: if an argument is not what it should be, or the method reads more of a teacher than
        this one gives.
    """
    options = {"student.name": student, "seed": seed, "dataset.image_size": 0, **(config or {})}
    asked, stored, logits = _teacher(teacher)
    if stored is None:
        given = {"teacher.logits": "table", "augment.padding": 0}
        options = {**given, **({} if logits is None else {"augment.flip": False}), **options}
    else:
        options["teacher.path"] = str(teacher)
        class_names = stored.class_names or None if class_names is None else class_names
    fields = to_config(replace(recipe(method, "image_folder"), options))
    check(fields)
    if fields.num_seeds != 1:
        raise UserError("distill trains one student; call it once for every seed.")
    num_classes = logits.shape[1] if logits is not None else stored and stored.num_classes
    known = as_labels(labels, class_names=class_names, num_columns=num_classes)
    examples = _examples(images, known, "images", "labels")
    if logits is not None:
        check_lengths(labels=known.ids, teacher=logits)
    if test is None:
        train, tested = hold_out(examples)
    else:
        of_test = as_labels(test[1], class_names=known.classes, argument="test[1]")
        train, tested = examples, _examples(test[0], of_test, "test[0]", "test[1]")
    dataset = with_own_statistics("arrays", train, tested, known.names)
    told = None
    if stored is None:
        crops = {"padding": fields.augment.padding, "flip": fields.augment.flip}
        if logits is not None and num_views(**crops) > 1:
            raise UserError(
                "Stored logits are of the images as they are, but augment.padding and augment.flip "
                "ask for other views; leave them out, or give a function."
            )
        told = TeacherLogits("function" if logits is None else "logits", np.empty(0), None)
        task.read_inputs(fields, dataset, told)  # what is wrong is said before the teacher is asked
        if logits is None:
            train_logits = _ask_about_views(asked, train.images, known.num_classes, crops)
            test_logits = _ask(asked, tested.images, known.num_classes)
        elif test is None:
            train_logits, test_logits = logits[train.origin.ids, None], logits[tested.origin.ids]
        else:
            train_logits, test_logits = logits[:, None], None
        told = dataclasses.replace(told, train=train_logits, test=test_logits)
    setup_jax(fields)
    with contextlib.ExitStack() as stack:
        folder = workdir or stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxrobust-"))
        task.run(fields, folder, dataset=dataset, teacher=told, bar=progress)
        classifier = load_classifier(pathlib.Path(folder) / "student")
    return dataclasses.replace(classifier, classes=known.classes)


def _teacher(
    teacher: Any,
) -> tuple[Callable | None, storage.StoredClassifier | None, np.ndarray | None]:
    """A teacher as a function, as a network of ours, or as logits; two of them are None."""
    if isinstance(teacher, Classifier):
        return _log_probs(teacher), None, None
    if isinstance(teacher, str | os.PathLike):
        folder = pathlib.Path(teacher).expanduser()
        if (folder / FACTS).exists():
            return _log_probs(load_classifier(folder)), None, None
        return None, storage.load_classifier(folder), None
    if callable(teacher):
        return teacher, None, None
    return None, None, as_logits(teacher, "the teacher's logits")


def _log_probs(classifier: Classifier) -> Callable[[np.ndarray], np.ndarray]:
    if classifier.is_multilabel:
        raise UserError("This teacher gives several labels to an image, but a student has one.")

    def classifier_(images):
        probs = classifier.predict_proba(images)
        return np.log(np.maximum(probs, np.finfo(np.float32).tiny))

    return classifier_


def _examples(images: Any, known: Labels, of_images: str, of_labels: str) -> Examples:
    pixels = as_images(images, of_images)
    check_lengths(**{of_images: pixels, of_labels: known.ids})
    return Examples(pixels, known.ids)


def _ask_about_views(
    teacher: Callable, images: np.ndarray, num_classes: int, crops: Mapping[str, Any]
) -> np.ndarray:
    """Logits float32 `[N, V, C]` on all views of the images, in the order of `draw_views`."""
    count = num_views(**crops)
    table = np.empty((len(images), count, num_classes), np.float32)
    for view in range(count):
        numbers = np.full(len(images), view, np.int32)
        for start in range(0, len(images), _ASKED_AT_A_TIME):
            rows = slice(start, start + _ASKED_AT_A_TIME)
            views = np.asarray(view_of(images[rows], numbers[rows], **crops))
            table[rows, view] = _ask(teacher, views, num_classes)
    return table


def _ask(teacher: Callable, images: np.ndarray, num_classes: int) -> np.ndarray:
    """Logits float32 `[N, C]` by a function of batches."""
    parts = []
    for start in range(0, len(images), _ASKED_AT_A_TIME):
        batch = images[start : start + _ASKED_AT_A_TIME]
        logits = as_logits(teacher(batch), "teacher(images)")
        if logits.shape != (len(batch), num_classes):
            raise UserError(
                f"teacher(images) gives {list(logits.shape)} for {len(batch)} images of "
                f"{num_classes} classes; it must be [{len(batch)}, {num_classes}]."
            )
        parts.append(logits)
    return np.concatenate(parts)
