"""The results of a distillation run, and its files."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrobust.engine.files import write_json
from jaxrobust.models.costs import cost, milliseconds
from jaxrobust.models.storage import StoredClassifier
from jaxrobust.recipes.parse import DistillationRecipe
from jaxrobust.tasks.common import next_command, write_test_files
from jaxrobust.tasks.distillation_measures import Protocol
from jaxrobust.tasks.student_folder import write_student

LATENCY = "latency.json"
"""Milliseconds on the CPU by network and number of images in a batch."""


def results_of(
    recipe: DistillationRecipe,
    dataset: Any,
    protocol: Protocol,
    epochs: Mapping[str, list[dict]],
    *,
    student: StoredClassifier,
    auxiliary: str,
    teacher: StoredClassifier | None,
    teacher_name: str | None,
) -> dict[str, Any]:
    """What `results.json` holds of the scores of every epoch; `teacher_name` None: no teacher."""
    results = {
        "task": "distillation",
        "method": recipe.method,
        "dataset": dataset.name,
        "seed": recipe.seed,
        "num_classes": dataset.num_classes,
        "student": {
            "name": student.arch,
            "auxiliary": auxiliary,
            **cost(student)._asdict(),
        },
        "teacher": None,
        "last": epochs["student"][-1],
        "best": protocol.best(epochs["student"]),
        "epochs": epochs["student"],
    }
    if teacher_name:
        tested = epochs["teacher"][-1] if epochs["teacher"] else {}
        measures = {k: v for k, v in tested.items() if k != "epoch"}
        results["teacher"] = {"name": teacher_name, **measures}
        if teacher:
            results["teacher"] |= cost(teacher)._asdict()
    if alone := epochs.get("student_alone"):
        results["student_alone"] = {"last": alone[-1], "best": protocol.best(alone)}
    return results


def class_by_class(
    labels: np.ndarray, class_names: Sequence[str], predicted: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """`classes`, the share of each class's test images that every network has right, and
    `agreement`, the share of all for which student and teacher name the same class."""
    counts = np.bincount(labels, minlength=len(class_names))
    right = {
        role: np.bincount(labels[classes == labels], minlength=len(class_names))
        for role, classes in predicted.items()
    }
    rows = [
        {
            "class": name,
            "test_images": int(counts[i]),
            **{role: float(hits[i] / max(counts[i], 1)) for role, hits in right.items()},
        }
        for i, name in enumerate(class_names)
    ]
    found: dict[str, Any] = {"classes": rows}
    if "teacher" in predicted:
        found["agreement"] = float((predicted["student"] == predicted["teacher"]).mean())
    return found


def write_files(
    workdir: pathlib.Path,
    recipe: DistillationRecipe,
    dataset: Any,
    protocol: Protocol,
    results: dict[str, Any],
    probs: np.ndarray,
    *,
    student: StoredClassifier,
    teacher: StoredClassifier | None,
    dtype: Any,
) -> None:
    """Writes `student/`, tables and figures of the student's `probs` on the test images and, if
    asked for, `latency.json`; adds the sizes of the student's files to the results."""
    if recipe.measure_latency:  # apart from the results, which are the same in every run
        networks = {"student": student, "teacher": teacher}
        times = {role: milliseconds(network) for role, network in networks.items() if network}
        write_json(workdir / LATENCY, times)
    results["student"]["files"] = write_student(
        workdir / "student",
        student,
        recipe,
        dtype=dtype,
        results=results,
        num_examples=len(dataset.train),
    )
    protocol.draw_curves({recipe.method: [results]}, workdir / "figures" / "epochs.png")
    write_test_files(workdir, probs, dataset.test.labels, dataset.class_names)


def last_lines(
    results: Mapping[str, Any], protocol: Protocol, workdir: pathlib.Path, seconds: float
) -> list[str]:
    """What a finished run logs."""
    best, headline = results["best"], protocol.headline
    lines = [
        f"last epoch: {protocol.describe(results['last'])}; best {headline} "
        f"{100 * best[headline]:.2f} % (epoch {best['epoch'] + 1}), {seconds:.0f} s in total",
        f"results: {workdir / 'results.json'}",
        f"student, without the auxiliary head: {workdir / 'student'}",
        f"figures: {workdir / 'figures'}",
        next_command(workdir),
    ]
    if alone := results.get("student_alone"):
        lines.insert(1, f"student alone: {protocol.describe(alone['last'])}")
    return lines
