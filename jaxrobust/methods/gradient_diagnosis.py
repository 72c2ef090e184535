"""Agreement of the gradients of cross-entropy and a distillation loss, for head and backbone.

Yang et al., KDD 2025, section 3: on a single classifier head the two gradients oppose each other,
but in the backbone they do not.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxrobust.data.augment import normalize
from jaxrobust.losses import (
    binary_kl_loss,
    etf_deviation,
    gradient_conflict_report,
    logit_conflict,
)
from jaxrobust.methods.distillation_steps import student_apply, teach
from jaxrobust.methods.distiller import Distiller
from jaxrobust.models.auxiliary_head import Outputs
from jaxrobust.models.layers import FeatureMaps

PARTS = {"head": ("primary",), "backbone": ("backbone",)}


@dataclasses.dataclass(frozen=True)
class DiagnosisSpec:
    """The specification that a diagnosis is compiled from.

    Attributes:
      module: the student, as it is trained.
      distiller: how it learns.
      teacher: the teacher's network; None if its logits are given, or if there is no teacher: then
        only the head is measured.
      temperature: temperature of `binary_kl_loss`.
      dtype: of normalised images.
    """

    module: nn.Module
    distiller: Distiller
    teacher: nn.Module | None
    temperature: float
    dtype: Any


def diagnosis(spec: DiagnosisSpec) -> Callable:
    """Agreement of the gradients of the losses on a few images, in evaluation mode.

    Returns:
      `(variables, teacher, images, labels, statistics) -> {group: {measure: scalar}}`; `variables`
      of the student, `teacher` `{"variables", "statistics"}`, `{"logits"}` `[n, C]` or `{}`,
      `images` uint8
      `[n, H, W, 3]`, `labels` int `[n]`. Group `head` has `etf_deviation`; `binary_kl`, that loss
      on the primary head, and `distillation`, the method's own if it does not contrast with other
      images, have the measures of `gradient_conflict_report` for each part, and `binary_kl` has
      `conflicting_examples`, the share of images whose two gradients with respect to the logits
      disagree.
    """
    apply = student_apply(spec.module, spec.distiller.connector)

    def measures(student, teacher, images, labels, statistics):
        kernel = student["params"]["primary"]["Dense_0"]["kernel"]
        found = {"head": {"etf_deviation": etf_deviation(kernel.T)}}
        if not teacher:
            return found
        views = normalize(images, **statistics, dtype=spec.dtype)
        if spec.teacher is None:
            taught = Outputs(teacher["logits"], None, cast(FeatureMaps, None))
        else:
            taught = teach(spec.teacher, teacher, images, dtype=spec.dtype)

        def losses(params):
            outputs, _ = apply(params, student["batch_stats"], views, train=False)
            cross_entropy = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels)
            on_head = binary_kl_loss(outputs.logits, taught.logits, temperature=spec.temperature)
            losses = {"": jnp.mean(cross_entropy), "binary_kl": jnp.mean(on_head)}
            if spec.distiller.has_teacher and not spec.distiller.contrasts:
                valid = jnp.ones(labels.shape, bool)
                _, losses["distillation"] = spec.distiller.objective(
                    outputs, taught, labels, valid, jnp.float32(1)
                )
            return losses, outputs.logits

        values, pull_back, logits = jax.vjp(losses, student["params"], has_aux=True)
        grads = {
            name: pull_back({other: jnp.float32(other == name) for other in values})[0]
            for name in values
        }
        cross_entropy = grads.pop("")
        for name, grad in grads.items():
            parts = gradient_conflict_report(cross_entropy, grad, PARTS)
            found[name] = {
                f"{part}_{measure}": value
                for part, measures in parts.items()
                for measure, value in measures.items()
            }
        inner = logit_conflict(logits, taught.logits, labels, temperature=spec.temperature)
        found["binary_kl"]["conflicting_examples"] = jnp.mean(inner < 0, dtype=jnp.float32)
        return found

    return measures
