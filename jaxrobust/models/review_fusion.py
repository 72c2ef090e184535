"""ReviewKD's fusion of features over the stages of a student.

Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021,
https://arxiv.org/abs/2104.09044, section 3.2.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust.models.layers import BatchNorm, Conv, Features


def review_levels(features: Features) -> tuple[jax.Array, ...]:
    """The maps that ReviewKD compares: the end of every stage, and the pooled feature as a map."""
    return *features.maps, features.pooled[:, None, None, :]


def final_map(features: Features) -> tuple[jax.Array, ...]:
    """The one map that is left to compare where only the last layers count."""
    return (features.final,)


class ReviewFusion(nn.Module):
    """Student features to maps of the shapes of the teacher's, deep ones fused into shallow ones.

    From the deepest level on, conv1x1 - BN takes a level to `width` channels, attention maps weigh
    it against what came from the level below it (resized to the nearest pixel), and conv3x3 - BN
    takes the sum to the teacher's channels and size.

    Attributes:
      channels: of the teacher's levels, shallow to deep.
      sizes: (height, width) of the teacher's levels.
      levels: the student's levels, shallow to deep.
      width: channels while fusing; None for those of the student's deepest level, at most 512.
      dtype: computation dtype.
    """

    channels: Sequence[int]
    sizes: Sequence[tuple[int, int]]
    levels: Callable[[Features], tuple[jax.Array, ...]] = review_levels
    width: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: Features, *, train: bool = False, where: jax.Array | None = None
    ) -> Features:
        """The features with `maps` fused, one for each of the teacher's levels.

        Args:
          features: of the student. Of more levels than the teacher has, the deepest are taken.
          train: as for every network.
          where: likewise.

        Raises:
          ValueError: if the student has fewer levels than the teacher.
        """
        levels = self.levels(features)[-len(self.channels) :]
        if len(levels) < len(self.channels):
            raise ValueError(
                f"The student has {len(levels)} levels of features, fewer than the teacher's "
                f"{len(self.channels)}."
            )
        width = self.width or min(levels[-1].shape[-1], 512)

        def conv_norm(x, channels, kernel):
            x = Conv(channels, kernel, dtype=self.dtype)(x)
            return BatchNorm(dtype=self.dtype)(x, train=train, where=where)

        fused, carried = [], None
        for level, channels, size in reversed(
            list(zip(levels, self.channels, self.sizes, strict=True))
        ):
            level = _resized(conv_norm(level.astype(self.dtype), width, 1), size)
            if carried is not None:
                carried = _resized(carried, size)
                weights = nn.sigmoid(
                    nn.Conv(2, (1, 1), dtype=self.dtype)(jnp.concatenate([level, carried], axis=-1))
                )
                level = level * weights[..., :1] + carried * weights[..., 1:]
            carried = level
            fused.append(conv_norm(level, channels, 3))
        return features._replace(maps=tuple(reversed(fused)))


def _resized(maps: jax.Array, size: tuple[int, int]) -> jax.Array:
    if maps.shape[1:3] == tuple(size):
        return maps
    return jax.image.resize(maps, (maps.shape[0], *size, maps.shape[-1]), "nearest")
