"""PyTorch weights as linen variables, by an explicit map from module names to module paths."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

_LEAVES = {
    ("weight", 4): ("params", "kernel", (2, 3, 1, 0)),  # convolution: OIHW -> HWIO
    ("weight", 2): ("params", "kernel", (1, 0)),  # linear: [out, in] -> [in, out]
    ("weight", 1): ("params", "scale", (0,)),  # BatchNorm, LayerNorm
    ("bias", 1): ("params", "bias", (0,)),
    ("running_mean", 1): ("batch_stats", "mean", (0,)),
    ("running_var", 1): ("batch_stats", "var", (0,)),
    ("relative_position_bias_table", 2): ("params", "relative_position_bias_table", (0, 1)),
}


def load_torch_weights(
    variables: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    modules: Mapping[str, tuple[str, ...]],
) -> dict[str, Any]:
    """A network's variables, or a part of them, with the values of a PyTorch state dict.

    `modules` maps a PyTorch module, such as `layer1.0.conv1`, to the path of the linen module that
    holds its leaves; `num_batches_tracked` is ignored. ValueError if a tensor has no variable, has
    another shape, or a variable has no tensor.
    """
    wanted: dict[Any, Any] = traverse_util.flatten_dict(dict(variables))
    filled = {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        if module not in modules or (leaf, tensor.ndim) not in _LEAVES:
            raise ValueError(f"There is no place for the tensor {name} of shape {tensor.shape}.")
        collection, linen_leaf, axes = _LEAVES[leaf, tensor.ndim]
        path = (collection, *modules[module], linen_leaf)
        value = np.transpose(tensor, axes)
        if path not in wanted or wanted[path].shape != value.shape:
            expected = wanted[path].shape if path in wanted else "nothing"
            raise ValueError(
                f"{name} has shape {value.shape} in linen's layout, but {'/'.join(path)} expects "
                f"{expected}."
            )
        filled[path] = jax.numpy.asarray(value, wanted[path].dtype)
    missing = [path for path in wanted if path not in filled]
    if missing:
        names = {path: name for name, path in modules.items()}
        raise ValueError(
            f"No tensor was given for {'/'.join(missing[0])}, a leaf of "
            f"{names.get(missing[0][1:-1], 'no known module')}."
        )
    return traverse_util.unflatten_dict(filled)
