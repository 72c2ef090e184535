"""Vision Transformers as transformers publishes them: DINOv2, the image towers of CLIP and SigLIP.

Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
ICLR 2021, https://arxiv.org/abs/2010.11929.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxrobust.data.tables import shortened
from jaxrobust.models.storage import first_difference

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_pytorch_tanh": nn.gelu,
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
}


class Attention(nn.Module):
    """Attention of a sequence to another one, with `num_heads` heads."""

    num_heads: int

    @nn.compact
    def __call__(
        self, queries: jax.Array, others: jax.Array, mask: jax.Array | None = None
    ) -> jax.Array:
        width = queries.shape[-1]

        def projected(name: str, x: jax.Array) -> jax.Array:
            x = nn.Dense(width, name=name)(x)
            return x.reshape(*x.shape[:-1], self.num_heads, width // self.num_heads)

        query, key, value = (
            projected(name, x)
            for name, x in (("query", queries), ("key", others), ("value", others))
        )
        mixed = jax.nn.dot_product_attention(query, key, value, mask=mask)
        return nn.Dense(width, name="out")(mixed.reshape(queries.shape))


class Hidden(nn.Module):
    """A layer of hidden units, and one back to the width of its input."""

    width: int
    activation: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = _ACTIVATIONS[self.activation](nn.Dense(self.width, name="hidden")(x))
        return nn.Dense(x.shape[-1], name="out")(hidden)


class VisionTransformer(nn.Module):
    """Pre-norm transformer of the patches of an image, up to one feature.

    The feature is the class token after the last norm (DINOv2, CLIP), or what the attention of a
    learned probe to all patches makes of them (SigLIP).
    """

    width: int  # D
    hidden_width: int  # of each layer's hidden units
    num_layers: int  # of attention
    num_heads: int  # of each layer, a divisor of D
    patch: int  # side of a patch in pixels
    # patches along a side, for which positions were learned; for another number they are
    # interpolated
    grid: int
    activation: str  # `"gelu"`, `"gelu_pytorch_tanh"` or `"quick_gelu"`
    epsilon: float  # of the norms
    class_token: bool  # whether there is one; without it the feature is that of a probe
    patch_bias: bool  # whether the convolution of the patches has one
    first_norm: bool  # whether the sequence is normalised before the first layer
    layer_scale: bool  # whether a layer's two parts are scaled before they are added

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Features float32 `[B, D]` of normalised images `[B, H, W, 3]`."""
        normal, width = nn.initializers.normal(0.02), self.width
        norm = functools.partial(nn.LayerNorm, epsilon=self.epsilon)
        attention = functools.partial(Attention, self.num_heads)
        hidden = functools.partial(Hidden, self.hidden_width, self.activation)

        def scaled(x: jax.Array, name: str) -> jax.Array:
            ones = nn.initializers.ones
            return x * self.param(name, ones, (1, 1, width)) if self.layer_scale else x

        side = (self.patch, self.patch)
        x = nn.Conv(width, side, side, "VALID", use_bias=self.patch_bias, name="patches")(images)
        size, x = x.shape[1:3], x.reshape(len(x), -1, width)
        positions = self.param("positions", normal, (1, self.grid**2 + self.class_token, width))
        learned = positions[0, int(self.class_token) :].reshape(self.grid, self.grid, width)
        rows, columns = (_interpolation(self.grid, count) for count in size)
        x += jnp.einsum("ij,kl,jlc->ikc", rows, columns, learned).reshape(1, -1, width)
        if self.class_token:
            token = self.param("class_token", normal, (1, 1, width)) + positions[:, :1]
            x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], axis=1)
        if self.first_norm:
            x = norm(name="first_norm")(x)
        for i in range(self.num_layers):
            y = norm(name=f"layer_{i}_norm_1")(x)
            x += scaled(attention(name=f"layer_{i}_attention")(y, y), f"layer_{i}_scale_1")
            y = norm(name=f"layer_{i}_norm_2")(x)
            x += scaled(hidden(name=f"layer_{i}_mlp")(y), f"layer_{i}_scale_2")
        if self.class_token:
            return norm(name="norm")(x[:, 0])
        probe = jnp.tile(self.param("probe", normal, (1, 1, width)), (len(x), 1, 1))
        x = attention(name="probe_attention")(probe, norm(name="norm")(x))[:, 0]
        return x + hidden(name="probe_mlp")(norm(name="probe_norm")(x))


def _interpolation(size: int, count: int) -> np.ndarray:
    """float32 [count, size]: PyTorch's bicubic interpolation of `size` values at `count` places."""
    if size == count:
        return np.eye(size, dtype=np.float32)
    places = (np.arange(count) + 0.5) * size / count - 0.5
    first, a = np.floor(places).astype(int), -0.75
    matrix = np.zeros((count, size), np.float32)
    for step in range(-1, 3):
        distance = np.abs(places - first - step)
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = a * (((distance - 5) * distance + 8) * distance - 4)
        weight = np.where(distance <= 1, near, far)
        np.add.at(matrix, (np.arange(count), np.clip(first + step, 0, size - 1)), weight)
    return matrix


_TOWER = {
    "width": "hidden_size",
    "hidden_width": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "patch": "patch_size",
    "activation": "hidden_act",
    "epsilon": "layer_norm_eps",
}

# What transformers takes for a key that config.json leaves out.
_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "layer_norm_eps": 1e-6,
}
_OF_FAMILY = {
    "dinov2": {"patch_size": 14, "hidden_act": "gelu", "mlp_ratio": 4},
    "clip": {"patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "siglip": {"patch_size": 16, "hidden_act": "gelu_pytorch_tanh"},
}
MODEL_TYPES = tuple(_OF_FAMILY) + tuple(f"{name}_vision_model" for name in ("clip", "siglip"))
"""`model_type` of the repositories that can be read."""


def family_of(model_type: str) -> str:
    """`"dinov2"`, `"clip"` or `"siglip"`."""
    return model_type.removesuffix("_vision_model")


def vision_transformer(config: Mapping[str, Any]) -> VisionTransformer:
    """The network that a `config.json` with one of `MODEL_TYPES` describes."""
    family = family_of(config["model_type"])
    facts = {**_DEFAULTS, **_OF_FAMILY[family], **(config.get("vision_config") or config)}
    if family == "dinov2":
        if facts.get("use_swiglu_ffn"):
            raise ValueError("use_swiglu_ffn, as in DINOv2 ViT-g, is not supported")
        facts["intermediate_size"] = int(facts["hidden_size"] * facts["mlp_ratio"])
    if facts["hidden_act"] not in _ACTIVATIONS:
        raise ValueError(f"hidden_act {facts['hidden_act']!r} is none of {', '.join(_ACTIVATIONS)}")
    for name in (*list(_TOWER.values())[:5], "image_size"):
        if not isinstance(facts[name], int) or facts[name] < 1:
            raise ValueError(f"{name} is {facts[name]!r}, not a whole number above 0")
    if facts["hidden_size"] % facts["num_attention_heads"]:
        raise ValueError("num_attention_heads is no divisor of hidden_size")
    return VisionTransformer(
        **{ours: facts[theirs] for ours, theirs in _TOWER.items()},
        grid=facts["image_size"] // facts["patch_size"],
        class_token=family != "siglip",
        patch_bias=family != "clip",
        first_norm=family == "clip",
        layer_scale=family == "dinov2",
    )


# Our names of modules and parameters -> those of transformers' CLIP and SigLIP, and DINOv2.
_NAMES = {
    "patches": ("embeddings.patch_embedding", "embeddings.patch_embeddings.projection"),
    "positions": ("embeddings.position_embedding.weight", "embeddings.position_embeddings"),
    "class_token": ("embeddings.class_embedding", "embeddings.cls_token"),
    "first_norm": ("pre_layrnorm", ""),
    "norm": ("post_layernorm", "layernorm"),
    "probe": ("head.probe", ""),
    "probe_attention/query": ("head.attention.in_proj_0", ""),
    "probe_attention/key": ("head.attention.in_proj_1", ""),
    "probe_attention/value": ("head.attention.in_proj_2", ""),
    "probe_attention/out": ("head.attention.out_proj", ""),
    "probe_norm": ("head.layernorm", ""),
    "probe_mlp/hidden": ("head.mlp.fc1", ""),
    "probe_mlp/out": ("head.mlp.fc2", ""),
}
_OF_LAYER = {
    "norm_1": ("layer_norm1", "norm1"),
    "attention/query": ("self_attn.q_proj", "attention.attention.query"),
    "attention/key": ("self_attn.k_proj", "attention.attention.key"),
    "attention/value": ("self_attn.v_proj", "attention.attention.value"),
    "attention/out": ("self_attn.out_proj", "attention.output.dense"),
    "scale_1": ("", "layer_scale1.lambda1"),
    "norm_2": ("layer_norm2", "norm2"),
    "mlp/hidden": ("mlp.fc1", "mlp.fc1"),
    "mlp/out": ("mlp.fc2", "mlp.fc2"),
    "scale_2": ("", "layer_scale2.lambda1"),
}


def vit_variables(module: VisionTransformer, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Variables of a network from the tensors of its repository; a text tower's are not read."""
    is_dinov2 = module.layer_scale
    tower = "dinov2." if is_dinov2 else "vision_model."
    tensors = {name.removeprefix(tower): tensor for name, tensor in tensors.items()}
    for kind in ("weight", "bias"):  # of the three projections of a probe, in one tensor
        joined = tensors.get(f"head.attention.in_proj_{kind}")
        for i, part in enumerate([] if joined is None else np.array_split(joined, 3)):
            tensors[f"head.attention.in_proj_{i}.{kind}"] = part

    def published(path: str) -> str:
        above, _, kind = path.rpartition("/")
        suffix = {"kernel": ".weight", "scale": ".weight", "bias": ".bias"}.get(kind, "")
        ours = above if suffix else path
        if match := re.match(r"layer_(\d+)_(.+)", ours):
            layers = "encoder.layer" if is_dinov2 else "encoder.layers"
            return f"{layers}.{match[1]}.{_OF_LAYER[match[2]][is_dinov2]}{suffix}"
        return _NAMES[ours][is_dinov2] + suffix

    images = jax.ShapeDtypeStruct((1, *[module.patch * module.grid] * 2, 3), jnp.float32)
    wanted = jax.eval_shape(module.init, jax.random.key(0), images)
    leaves: dict[str, Any] = traverse_util.flatten_dict(wanted["params"], sep="/")
    missing = sorted(
        {re.sub(r"in_proj_\d.", "in_proj_", name) for name in map(published, leaves)} - set(tensors)
    )
    if missing:
        raise ValueError(f"it lacks {shortened(missing, 4)}")
    found = {}
    for path, leaf in leaves.items():
        tensor = np.asarray(tensors[published(path)], np.float32)
        if path.endswith("/kernel"):
            found[path] = tensor.transpose((1, 0) if tensor.ndim == 2 else (2, 3, 1, 0))
        else:  # some lack leading axes of length 1
            found[path] = tensor.reshape(leaf.shape) if tensor.size == leaf.size else tensor
    variables = {"params": traverse_util.unflatten_dict(found, sep="/")}
    if difference := first_difference(variables, wanted):
        raise ValueError(difference)
    return variables
