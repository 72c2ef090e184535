"""Layers that the networks share, and the output of every backbone."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.engine.sharding import join_batches, part_batches
from jaxrobust.errors import UserError

# PyTorch's default for convolutions and linear layers: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias(fan_in: int) -> nn.initializers.Initializer:
    """PyTorch's default for biases, with the bound of the weights of the same layer."""

    def init(key, shape, dtype=jnp.float32):
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


# He et al.'s normal initialisation of convolutions, with the variance 2 / (kernel^2 * outputs).
he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

BATCH_NORM_MOMENTUM = 0.9
"""Weight of the old running average in an update; PyTorch's momentum is 1 minus this, 0.1."""


class FeatureMaps(NamedTuple):
    """Output of a backbone, in its computation dtype unless stated; stages from shallow to deep."""

    pooled: jax.Array  # float32 `[B, D]`, the input of the heads
    maps: tuple[jax.Array, ...]  # `[B, H, W, C]` at the end of every stage, after its activation
    # the same maps before the activation; equal to `maps` for a stage that ends without one
    preactivations: tuple[jax.Array, ...]
    # `[B, H, W, D]`, the map that is pooled: the last of `maps`, unless more layers follow
    final: jax.Array
    # `[B, H, W, C]`, outputs of the last block of each stage, for a network whose `maps` are after
    # a further BatchNorm and activation; else empty
    blocks: tuple[jax.Array, ...] = ()

    @property
    def outputs(self) -> tuple[jax.Array, ...]:
        """What a stage's last block returns, which distillation benchmarks compare: of Wide ResNets
        before any further BatchNorm."""
        return self.blocks or self.maps


class Backbone(nn.Module, kw_only=True):
    """A network from images `[B, H, W, 3]`, normalised, to `FeatureMaps`."""

    # of the `Linear` layers of heads on the pooled feature
    head_options: ClassVar[Mapping[str, Any]] = {}

    dtype: Any = jnp.float32  # computation dtype of the convolutions; the pooled feature is float32


def global_average(x: jax.Array) -> jax.Array:
    """Mean over the positions of maps `[B, H, W, C]`, in float32."""
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


class Linear(nn.Module):
    """Dense layer."""

    features: int  # number of outputs
    kernel_init: nn.initializers.Initializer = torch_uniform  # of the weights; PyTorch's default
    bias_init: nn.initializers.Initializer | None = None  # of the bias; None is PyTorch's default
    dtype: Any = jnp.float32  # computation dtype; parameters are float32

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        dense = nn.Dense(
            self.features,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init or torch_bias(inputs.shape[-1]),
        )
        return dense(inputs)


def depthwise_conv(
    inputs: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """Depthwise convolution, with the arguments of `jax.lax.conv_general_dilated`.

    On CPU it is a sum of shifted products, which XLA fuses into one loop: XLA's grouped convolution
    takes 20 to 100 times as long there. Inputs are `[B, H, W, C]`, the kernel `[k, k, 1, C]`.
    """
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(inputs.shape[1:3], kernel.shape[:2], strides, padding)

    def shifted(inputs, kernel):
        padded = jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
        counts = [
            (padded.shape[axis + 1] - kernel.shape[axis]) // strides[axis] + 1 for axis in (0, 1)
        ]
        products = []
        for i, j in np.ndindex(*kernel.shape[:2]):
            rows, columns = (
                slice(first, first + (count - 1) * stride + 1, stride)
                for first, count, stride in zip((i, j), counts, strides, strict=True)
            )
            products.append(padded[:, rows, columns] * kernel[i : i + 1, j : j + 1])
        return sum(products[1:], start=products[0])

    def grouped(inputs, kernel):
        return jax.lax.conv_general_dilated(inputs, kernel, strides, padding, **options)

    return jax.lax.platform_dependent(inputs, kernel, cpu=shifted, default=grouped)


class Conv(nn.Module):
    """Square convolution with PyTorch's symmetric padding, which keeps the size at stride 1."""

    features: int  # output channels
    kernel: int = 3  # kernel size
    stride: int = 1  # step in both directions
    groups: int = 1  # number of groups that the channels are convolved in
    use_bias: bool = False  # whether a bias, 0 at first, is added
    kernel_init: nn.initializers.Initializer = torch_uniform  # of the weights; PyTorch's default
    padding: str | None = None  # None for the symmetric one, or `"SAME"` for TensorFlow's
    dtype: Any = jnp.float32  # computation dtype; parameters are float32

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        is_depthwise = 1 < self.groups == self.features == inputs.shape[-1]
        return nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=self.padding or self.kernel // 2,
            feature_group_count=self.groups,
            use_bias=self.use_bias,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            conv_general_dilated=depthwise_conv if is_depthwise else None,
        )(inputs)


class Network(nn.Module, kw_only=True):
    """A module that is trained as a whole, with an option for its BatchNorm layers.

    Attributes:
      norm_parts: number of equal parts of a training batch that BatchNorm normalises separately.
        With one per device of the mesh that batches are split over, each device normalises its own
        images only, as in PyTorch's `DataParallel`. Of nested networks the outermost one's holds.
      norm_batches: number of training batches in one, as `join_batches` makes it. BatchNorm
        normalises each by itself, and its averages move as if one came after another.
    """

    norm_parts: int = 1
    norm_batches: int = 1


class HeadedNetwork(Network):
    """A network whose linear `heads`, made in `setup`, read the pooled features of its `stages`.

    Every head is initialised from its own key, so two heads never start equal.
    """

    def stages(
        self, inputs: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> FeatureMaps:
        """The features of inputs `[B, ...]`, normalised; arguments as for `ResNetBackbone`."""
        raise NotImplementedError

    def features(
        self, inputs: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> jax.Array:
        """Pooled features, float32 `[B, D]`; arguments as for `stages`."""
        return self.stages(inputs, train=train, where=where).pooled

    def classify(self, features: jax.Array) -> jax.Array:
        """Logits float32 `[B, num_heads, num_classes]` of pooled features."""
        return jnp.stack([head(features) for head in self.heads], axis=1)

    def __call__(
        self, inputs: jax.Array, *, train: bool = False, where: jax.Array | None = None
    ) -> jax.Array:
        """Logits float32 `[B, num_heads, num_classes]`; arguments as for `stages`."""
        return self.classify(self.features(inputs, train=train, where=where))


class BatchNorm(nn.Module):
    """Batch normalisation over the valid rows, with PyTorch's constants.

    Under `jit` the statistics are those of the global batch, or of each of the parts that the
    enclosing `Network` asks for; the running averages are then the mean over the parts that have
    valid rows. flax keeps the biased variance in its running average where PyTorch keeps the
    unbiased one.
    """

    dtype: Any = jnp.float32  # computation dtype; statistics and parameters are float32
    epsilon: float = 1e-5  # added to the variance

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool, where: jax.Array | None) -> jax.Array:
        options = {
            "use_running_average": not train,
            "momentum": BATCH_NORM_MOMENTUM,
            "epsilon": self.epsilon,
            "dtype": self.dtype,
        }
        norm = nn.BatchNorm(**options, name="BatchNorm_0")
        network = self._network()
        num_parts, num_batches = network.norm_parts, network.norm_batches
        if not train or num_parts == num_batches == 1 or self.is_initializing():
            return norm(inputs, mask=None if where is None else _like(where, inputs))
        norm = nn.BatchNorm(**options, parent=None)
        variables = {
            kind: self.get_variable(kind, "BatchNorm_0") for kind in ("params", "batch_stats")
        }
        of_batch = functools.partial(_in_parts, norm, variables, num_parts)
        if num_batches == 1:
            outputs, averages = of_batch(inputs, where)
        else:
            assert where is None
            # Every batch moved the averages from the same start s to e = m s + (1 - m) b, and
            # e - m s is what it adds.
            outputs, ends = jax.vmap(of_batch)(part_batches(inputs, num_batches))
            start = variables["batch_stats"]
            averages = jax.tree.map(_one_after_another, start, ends)
            outputs = join_batches(outputs)
        self.put_variable("batch_stats", "BatchNorm_0", averages)
        return outputs

    def _network(self) -> Network:
        network, module = Network(parent=None), self.parent
        while isinstance(module, nn.Module):
            if isinstance(module, Network):
                network = module
            module = module.parent
        return network


def _one_after_another(start: jax.Array, ends: jax.Array) -> jax.Array:
    average = start
    for end in ends:
        average = BATCH_NORM_MOMENTUM * average + (end - BATCH_NORM_MOMENTUM * start)
    return average


def _in_parts(
    norm: nn.BatchNorm,
    variables: Any,
    num_parts: int,
    inputs: jax.Array,
    where: jax.Array | None = None,
) -> tuple[jax.Array, Any]:
    """(outputs, averages) of a training batch whose parts are normalised separately."""

    def of_part(x, valid):
        outputs, updates = norm.apply(
            variables,
            x,
            mask=None if valid is None else _like(valid, x),
            mutable=["batch_stats"],
        )
        return outputs, updates["batch_stats"]

    if num_parts == 1:
        return of_part(inputs, where)
    if len(inputs) % num_parts:
        raise UserError(
            f"batch_norm='per_device' splits every batch evenly, but a step normalises "
            f"{len(inputs)} images together and there are {num_parts} devices; choose a "
            "--config.batch_size that is a multiple of that number."
        )
    shape = (num_parts, len(inputs) // num_parts)
    valid = jnp.ones(shape, bool) if where is None else where.reshape(shape)
    counts = jnp.any(valid, axis=1)
    mask = valid | ~counts[:, None]  # statistics without rows would not be finite
    weights = counts.astype(jnp.float32) / jnp.maximum(jnp.sum(counts, dtype=jnp.float32), 1)
    outputs, ends = jax.vmap(of_part)(inputs.reshape(*shape, *inputs.shape[1:]), mask)
    averages = jax.tree.map(lambda x: jnp.tensordot(weights, x, axes=1), ends)
    return outputs.reshape(inputs.shape), averages


def _like(where: jax.Array, inputs: jax.Array) -> jax.Array:
    """A mask of rows with as many axes as `inputs`."""
    return where.reshape(where.shape + (1,) * (inputs.ndim - 1))


class ConvNorm(nn.Module):
    """Convolution without bias, BN and an activation."""

    features: int  # output channels
    kernel: int = 3  # kernel size
    stride: int = 1  # step in both directions
    groups: int = 1  # number of groups that the channels are convolved in
    activation: Callable[[jax.Array], jax.Array] | None = nn.relu  # None for none
    # of the convolution; PyTorch's default
    kernel_init: nn.initializers.Initializer = torch_uniform
    padding: str | None = None  # as in `Conv`
    epsilon: float = 1e-5  # of BN
    dtype: Any = jnp.float32  # computation dtype

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool, where: jax.Array | None) -> jax.Array:
        x = Conv(
            self.features,
            self.kernel,
            self.stride,
            self.groups,
            kernel_init=self.kernel_init,
            padding=self.padding,
            dtype=self.dtype,
        )(inputs)
        x = BatchNorm(dtype=self.dtype, epsilon=self.epsilon)(x, train=train, where=where)
        return x if self.activation is None else self.activation(x)
