"""Cost of a network: parameters, operations, and milliseconds on a CPU."""

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
"""Batch sizes that are timed."""
_SECONDS, _REPEATS = 0.2, 3  # least time and calls for each


class Cost(NamedTuple):
    """Size and computation of a classifier."""

    num_parameters: int  # numbers in `params`
    megabytes: float  # of all its variables in float32
    # 1e9 multiplications and additions in convolutions and matrix products, for one image
    gflop: float


def cost(classifier: StoredClassifier) -> Cost:
    """The cost of a classifier with an `image_shape`."""
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
    """Multiplications and additions of a function of arguments of these shapes and dtypes.

    The function is traced only: nothing is computed, and no backend is started.
    """
    return operations_of(jax.make_jaxpr(function)(*arguments).jaxpr)


def operations_of(jaxpr: Any) -> int:
    """Multiplications and additions of a traced function; the body of a loop counts once."""
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
        elif name == "cond":  # by platform: the default branch has the convolution itself
            total += max(operations_of(branch.jaxpr) for branch in params["branches"])
        else:
            for key in ("jaxpr", "call_jaxpr", "fun_jaxpr", "body_jaxpr"):
                if inner := params.get(key):
                    total += operations_of(getattr(inner, "jaxpr", inner))
    return total


def milliseconds(classifier: StoredClassifier) -> dict[str, float]:
    """Batch size, as text -> milliseconds on the CPU from pixels to logits, best repeat."""
    device = jax.local_devices(backend="cpu")[0]
    shape = classifier.image_shape
    found = {}
    with jax.default_device(device):
        variables = jax.device_put(dict(classifier.variables), device)
        # An operand, since XLA would evaluate expressions of constants while it compiles.
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
