"""What a network costs: parameters, operations, and milliseconds on a CPU."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.models.storage import StoredClassifier

BATCHES = (1, 64)
"""Images in a batch that is timed."""
_SECONDS, _REPEATS = 1.0, 3  # that a size is timed at least


class Cost(NamedTuple):
    """What a classifier costs to keep and to ask.

    Attributes:
      num_parameters: of `params`.
      megabytes: of all its numbers in float32.
      gflop: 1e9 multiplications and additions of one image, those of convolutions and matrix
        products.
    """

    num_parameters: int
    megabytes: float
    gflop: float


def cost(classifier: StoredClassifier) -> Cost:
    """The cost of a classifier that knows the size of its images."""
    parameters, numbers = (
        sum(int(np.size(x)) for x in jax.tree.leaves(tree))
        for tree in (classifier.variables["params"], classifier.variables)
    )
    return Cost(parameters, 4 * numbers / 1e6, num_operations(classifier) / 1e9)


def num_operations(classifier: StoredClassifier) -> int:
    """Multiplications and additions of one image."""
    images = jax.ShapeDtypeStruct((1, *classifier.image_shape), jnp.float32)
    apply = classifier.module().apply
    return operations(lambda images: apply(classifier.variables, images), images)


def operations(function: Callable, *arguments: Any) -> int:
    """Multiplications and additions of a function, of whose arguments only shapes and dtypes count.

    Nothing is computed, nor is JAX started.
    """
    return _operations(jax.make_jaxpr(function)(*arguments).jaxpr)


def _operations(jaxpr: Any) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name == "conv_general_dilated":
            kernel = eqn.invars[1].aval.shape
            _, of_kernel, _ = params["dimension_numbers"]
            per_output = math.prod(kernel) // kernel[of_kernel[0]]
            total += 2 * math.prod(eqn.outvars[0].aval.shape) * per_output
        elif name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            inner = math.prod(shape[i] for i in contracted)
            total += 2 * math.prod(eqn.outvars[0].aval.shape) * inner
        elif name == "cond":  # by platform: the one of no platform has the convolution itself
            total += max(_operations(branch.jaxpr) for branch in params["branches"])
        else:
            for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
                if inner := params.get(key):
                    total += _operations(getattr(inner, "jaxpr", inner))
    return total


def milliseconds(classifier: StoredClassifier) -> dict[str, float]:
    """By size of the batch, as text: milliseconds on the CPU from pixels to logits, the best of
    repeats."""
    device = jax.local_devices(backend="cpu")[0]
    shape = classifier.image_shape
    found = {}
    with jax.default_device(device):
        variables = jax.device_put(dict(classifier.variables), device)
        # The variables are an operand, so that nothing is computed of them while it is compiled.
        logits = jax.jit(
            lambda variables, images: dataclasses.replace(classifier, variables=variables).logits(
                images
            )
        )
        for batch in BATCHES:
            images = jax.device_put(np.zeros((batch, *shape), np.uint8), device)
            logits(variables, images).block_until_ready()
            best, started = math.inf, time.perf_counter()
            for number in range(1000):
                before = time.perf_counter()
                logits(variables, images).block_until_ready()
                now = time.perf_counter()
                best = min(best, now - before)
                if now - started > _SECONDS and number >= _REPEATS:
                    break
            found[str(batch)] = 1000 * best
    return found
