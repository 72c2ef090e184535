"""FitNet's and VID's regressors of the teacher's maps, trained with the student, then dropped."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.losses.feature_distillation import average_pool_to
from jaxrobust.models.layers import BatchNorm, Conv, FeatureMaps, Network, torch_uniform


class Gaussian(NamedTuple):
    """A student's prediction of a teacher's map."""

    mean: jax.Array  # `[B, H, W, C]`
    variance_logits: jax.Array  # float32 `[C]`, of `losses.variational_information_loss`


class HintRegressor(Network):
    """FitNet's regressor as in CRD's benchmark: convolution, BatchNorm and ReLU of one map.

    The convolution is 1x1 where sizes agree, 3x3 with stride 2 where the student's map is twice as
    large, and a transposed 4x4 one with stride 2 where it is half as large.
    """

    level: int  # index of the student's map
    features: int  # channels of the teacher's map
    size: tuple[int, int]  # its height and width
    dtype: Any = jnp.float32  # computation dtype

    @nn.compact
    def __call__(
        self, features: FeatureMaps, *, train: bool = False, where: jax.Array | None = None
    ) -> FeatureMaps:
        """The features with the regressed map as the only one of `maps`."""
        x = features.outputs[self.level].astype(self.dtype)
        height, width = x.shape[1:3]
        if (height, width) == tuple(self.size):
            x = Conv(self.features, 1, dtype=self.dtype, name="conv")(x)
        elif (height, width) == tuple(2 * n for n in self.size):
            x = Conv(self.features, 3, stride=2, dtype=self.dtype, name="conv")(x)
        elif (2 * height, 2 * width) == tuple(self.size):
            x = nn.ConvTranspose(
                self.features,
                (4, 4),
                (2, 2),
                use_bias=False,
                kernel_init=torch_uniform,
                dtype=self.dtype,
                name="conv",
            )(x)
        else:
            raise ValueError(
                f"A student's map of {height} x {width} has no regressor to the teacher's of "
                f"{self.size[0]} x {self.size[1]}: they must be equal, or one must be twice the "
                "other."
            )
        x = nn.relu(BatchNorm(dtype=self.dtype, name="norm")(x, train=train, where=where))
        return features._replace(maps=(x,))


class VariationalRegressor(Network):
    """VID's regressors: three 1x1 convolutions per map, and a variance per channel.

    A map that is larger than the teacher's is pooled before.
    """

    channels: Sequence[int]  # of the teacher's maps, shallow to deep
    sizes: Sequence[tuple[int, ...]]  # (height, width) of the teacher's maps
    variance: float = 5.0  # of every channel at initialisation
    min_variance: float = 1e-5  # of `losses.variational_information_loss`
    dtype: Any = jnp.float32  # computation dtype

    @nn.compact
    def __call__(
        self, features: FeatureMaps, *, train: bool = False, where: jax.Array | None = None
    ) -> FeatureMaps:
        """The features with a `Gaussian` for each of the teacher's maps in place of `maps`."""
        del train, where
        start = float(np.log(np.expm1(self.variance - self.min_variance)))
        predictions = []
        levels = features.outputs[-len(self.channels) :]
        for i, (x, channels, size) in enumerate(
            zip(levels, self.channels, self.sizes, strict=True)
        ):
            smaller = tuple(map(min, zip(x.shape[1:3], size, strict=True)))
            x = average_pool_to(x.astype(self.dtype), smaller)
            for j in range(3):
                x = nn.relu(x) if j else x
                x = Conv(channels, 1, dtype=self.dtype, name=f"conv{i}_{j}")(x)
            variance_logits = self.param(
                f"variance{i}", nn.initializers.constant(start), (channels,), jnp.float32
            )
            predictions.append(Gaussian(x, variance_logits))
        return features._replace(maps=tuple(predictions))
