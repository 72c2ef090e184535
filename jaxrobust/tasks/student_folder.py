"""The folder `student/` of a distillation run, with its model card and its exports."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

import jaxrobust
from jaxrobust.engine import processes
from jaxrobust.engine.files import write_text
from jaxrobust.models import onnx_export, storage
from jaxrobust.models.storage import (
    MODEL,
    PROGRAM,
    VARIABLES,
    StoredClassifier,
    save_classifier,
    save_program,
)
from jaxrobust.recipes.parse import DistillationRecipe

CARD, ONNX, INT8 = "README.md", "student.onnx", "student.int8.onnx"


def check_export(recipe: DistillationRecipe) -> None:
    """Refuses an export whose packages are not installed, naming them."""
    if recipe.export.onnx or recipe.export.int8:
        onnx_export.check_packages()
    if recipe.export.program:
        storage.check_program_packages()


def write_student(
    folder: pathlib.Path,
    student: StoredClassifier,
    recipe: DistillationRecipe,
    *,
    dtype: Any,
    results: Mapping[str, Any],
    num_examples: int,
) -> dict[str, int]:
    """Writes the folder of a student; the bytes of each file that holds it, by name.

    `program.bin` computes in `dtype`; results and the number of training images are for the card.
    """
    save_classifier(student, folder)
    files = {VARIABLES: 0}
    if recipe.export.program:
        save_program(student, folder, dtype=dtype)
        files[PROGRAM] = 0
    for name, is_asked in ((ONNX, recipe.export.onnx), (INT8, recipe.export.int8)):
        if is_asked and processes.is_main():
            onnx_export.save_onnx(
                student,
                folder / name,
                normalize=recipe.export.onnx_input == "pixels",
                probabilities=recipe.export.onnx_output == "probabilities",
                int8=name == INT8,
            )
            files[name] = 0
    files = {name: (folder / name).stat().st_size for name in files if (folder / name).exists()}
    write_text(folder / CARD, model_card(student, recipe, results, num_examples, tuple(files)))
    return files


def model_card(
    student: StoredClassifier,
    recipe: DistillationRecipe,
    results: Mapping[str, Any],
    num_examples: int,
    files: tuple[str, ...],
) -> str:
    """The README.md of a student, as the Hugging Face hub shows it."""
    is_multilabel = student.decoder is not None
    height, width, _ = student.image_shape
    count = sum(x.size for x in jax.tree.leaves(student.variables["params"]))
    teacher = results["teacher"]
    taught = f" with the teacher {teacher['name']}" if teacher else ""
    kind = "several labels for each" if is_multilabel else "one class for each"
    names = ", ".join(student.class_names[:20])
    more = f" and {len(student.class_names) - 20} more" if len(student.class_names) > 20 else ""
    measures = {k: v for k, v in results["last"].items() if isinstance(v, float)}
    columns = ["", *(name.replace("_", " ") for name in measures)]
    rows = [["student", *(f"{100 * value:.2f}" for value in measures.values())]]
    if teacher:
        values = [teacher.get(name) for name in measures]
        rows.append(["teacher", *("" if x is None else f"{100 * x:.2f}" for x in values)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in [columns, ["---"] * len(columns), *rows])
    contents = {
        MODEL: "architecture, classes, normalisation",
        VARIABLES: "parameters and statistics, float32, with channels last",
        ONNX: f"opset {onnx_export.OPSET}, any batch size; {_of_onnx(recipe)}",
        INT8: "the same with weights in 8 bits and activations quantised dynamically",
        PROGRAM: "a program of JAX, which versions of the six months after it was written read",
    }
    listed = "\n".join(f"- `{name}`: {contents[name]}" for name in (MODEL, *files))
    mean, std = (", ".join(f"{x:.4f}" for x in values) for values in (student.mean, student.std))
    return f"""---
library_name: jaxrobust
pipeline_tag: image-classification
tags: [jax, flax, knowledge-distillation]
---

# {student.arch}, {count:,} parameters

Trained by jaxrobust {jaxrobust.__version__}, method `{recipe.method}`{taught}, on {num_examples:,}
images of {results["dataset"]} (seed {recipe.seed}, {recipe.num_epochs} epochs).

- Input: RGB images of {height} x {width} pixels, `(pixels / 255 - mean) / std` with mean {mean} and
  std {std}.
- Output: {student.num_classes} classes, {kind}: {names}{more}.

## Measured

On the test images after the last epoch, in %.

{table}

## Files

{listed}

```python
from jaxrobust import load_classifier

classes = load_classifier("student").predict(images)  # uint8 [n, {height}, {width}, 3]
```
{_example(recipe) if ONNX in files else ""}"""


def _of_onnx(recipe: DistillationRecipe) -> str:
    takes = "raw pixels, uint8" if recipe.export.onnx_input == "pixels" else "normalised, float32"
    return f"`images` ({takes}, `[batch, H, W, 3]`) to `{recipe.export.onnx_output}`"


def _example(recipe: DistillationRecipe) -> str:
    outputs = json.dumps([recipe.export.onnx_output])
    return f"""
```python
import onnxruntime

session = onnxruntime.InferenceSession("{ONNX}")
(outputs,) = session.run({outputs}, {{"images": images}})
```
"""
