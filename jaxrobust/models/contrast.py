"""CRD's embeddings of student and teacher, and memories of them for all training images.

Tian et al., "Contrastive Representation Distillation", ICLR 2020, https://arxiv.org/abs/1910.10699.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust.models.layers import FeatureMaps, Linear, Network


class Contrast(NamedTuple):
    """Similarities of one network's embeddings to the other's memory."""

    # float32 `[B, M + 1]`, inner products; column 0 is that of the image itself
    similarities: jax.Array
    # float32 `[B, 1]`, log Z of `losses.contrastive_loss`, the same in every row
    log_normalizer: jax.Array


class Pairs(NamedTuple):
    """The other inputs of the contrast beside a batch of the student's features."""

    teacher: FeatureMaps  # the teacher's features of the same images
    ids: jax.Array  # int `[B]`, positions of the images in the training set
    labels: jax.Array  # int `[N]` of the training set


class ContrastiveMemory(Network):
    """CRD's linear embeddings, of length 1, and running averages of every image's embeddings.

    The averages are in the collection `batch_stats`: a training step contrasts its embeddings with
    them, then updates the rows of its images. Defaults are the paper's.
    """

    num_examples: int  # N, images in the training set
    teacher_width: int  # channels of the teacher's pooled features
    width: int = 128  # of the embeddings
    num_negatives: int = 16384  # M, images of other classes, drawn with replacement at every visit
    momentum: float = 0.5  # weight of the old row in an update, whose result is scaled to length 1
    temperature: float = 0.07  # of `losses.contrastive_loss`

    @nn.compact
    def __call__(
        self,
        features: FeatureMaps,
        *,
        train: bool = False,
        where: jax.Array | None = None,
        pairs: Pairs | None = None,
    ) -> FeatureMaps:
        """The features with the student's and the teacher's `Contrast` in place of `maps`.

        Without `pairs`, for initialisation, both are zeros.
        """
        size, count = features.pooled.shape[0], self.num_examples
        teacher = jnp.zeros((size, self.teacher_width)) if pairs is None else pairs.teacher.pooled
        embeddings = {
            "student": _unit(Linear(self.width, name="student_embedding")(features.pooled)),
            "teacher": _unit(
                Linear(self.width, name="teacher_embedding")(jax.lax.stop_gradient(teacher))
            ),
        }
        memories = {
            name: self.variable("batch_stats", f"{name}_memory", self._random_rows, i)
            for i, name in enumerate(embeddings)
        }
        normalizers = {
            name: self.variable("batch_stats", f"{name}_log_normalizer", jnp.zeros, ())
            for name in embeddings
        }
        has_begun = self.variable("batch_stats", "has_begun", jnp.zeros, (), bool)
        if pairs is None:
            none = jnp.zeros((size, 1 + self.num_negatives))
            return features._replace(maps=(Contrast(none, jnp.zeros((size, 1))),) * 2)
        drawn = draw_negatives(
            self.make_rng("dropout"), pairs.labels, pairs.ids, self.num_negatives
        )
        columns = jnp.concatenate([pairs.ids[:, None], drawn], axis=1)
        valid = jnp.ones(size, bool) if where is None else where
        contrasts = []
        for name, other in (("student", "teacher"), ("teacher", "student")):
            near = jnp.matmul(
                embeddings[name], memories[other].value.T, precision=jax.lax.Precision.HIGHEST
            )
            near = jnp.take_along_axis(near, columns, axis=1)
            first = jax.nn.logsumexp(
                jax.lax.stop_gradient(near) / self.temperature,
                where=valid[:, None],
                axis=(0, 1),
            )
            # The mean over valid rows, times N.
            first += math.log(count / columns.shape[1]) - jnp.log(jnp.sum(valid, dtype=jnp.float32))
            log_z = jnp.where(has_begun.value, normalizers[name].value, first)
            contrasts.append(Contrast(near, jnp.broadcast_to(log_z, (size, 1))))
            if train:
                normalizers[name].value = log_z
        if train:
            has_begun.value = jnp.ones((), bool)
            rows = jnp.where(valid, pairs.ids, count)  # out of range at padding: dropped
            for name, memory in memories.items():
                old, new = memory.value[pairs.ids], jax.lax.stop_gradient(embeddings[name])
                moved = _unit(self.momentum * old + (1 - self.momentum) * new)
                memory.value = memory.value.at[rows].set(moved, mode="drop")
        return features._replace(maps=tuple(contrasts))

    def _random_rows(self, number: int) -> jax.Array:
        key = jax.random.fold_in(self.make_rng("params"), number)
        bound = math.sqrt(3 / self.width)
        return jax.random.uniform(key, (self.num_examples, self.width), minval=-bound, maxval=bound)


def draw_negatives(key: jax.Array, labels: jax.Array, ids: jax.Array, count: int) -> jax.Array:
    """Images int32 `[B, M]` of other classes than `ids`, drawn uniformly with replacement."""
    by_class = jnp.argsort(labels)
    own = labels[ids]
    first, end = (
        jnp.searchsorted(labels[by_class], own, side=side).astype(jnp.int32)
        for side in ("left", "right")
    )
    others = len(labels) - (end - first)
    places = jax.random.randint(key, (len(ids), count), 0, others[:, None], jnp.int32)
    places += jnp.where(places >= first[:, None], (end - first)[:, None], 0)
    return by_class[places].astype(jnp.int32)


def _unit(rows: jax.Array) -> jax.Array:
    """Rows scaled to length 1; a row of zeros is not changed."""
    squares = jnp.sum(rows**2, axis=-1, keepdims=True)
    return rows * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))
