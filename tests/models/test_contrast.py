"""CRD's memories of embeddings."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.models.contrast import ContrastiveMemory, Pairs, draw_negatives
from jaxrobust.models.layers import FeatureMaps

LABELS = jnp.array([1, 0, 2, 1, 0, 1])


def _pooled(seed, *shape):
    return FeatureMaps(jax.random.normal(jax.random.key(seed), shape), (), (), jnp.zeros(()))


def _key_of_negatives(module, variables, key):
    """The key that the module draws negatives with."""
    return module.apply(variables, method=lambda m: m.make_rng("dropout"), rngs={"dropout": key})


def test_negatives_are_drawn_uniformly_from_the_other_classes():
    ids = jnp.array([0, 1, 2])
    drawn = np.asarray(draw_negatives(jax.random.key(0), LABELS, ids, 3000))
    for row, i in zip(drawn, ids, strict=True):
        counts = np.bincount(row, minlength=6)
        others = np.flatnonzero(LABELS != LABELS[i])
        assert not counts[np.setdiff1d(np.arange(6), others)].any()
        expected = 3000 / len(others)
        assert np.all(np.abs(counts[others] - expected) < 5 * np.sqrt(expected))


def test_a_step_compares_with_the_memories_and_then_moves_its_rows():
    module = ContrastiveMemory(
        num_examples=6, teacher_width=3, width=4, num_negatives=5, temperature=0.5
    )
    student, teacher = _pooled(0, 3, 2), _pooled(1, 3, 3)
    variables = jax.jit(module.init)(jax.random.key(2), student)
    memories = {
        name: np.asarray(variables["batch_stats"][f"{name}_memory"])
        for name in ("student", "teacher")
    }
    assert all(x.shape == (6, 4) and np.abs(x).max() <= np.sqrt(3 / 4) for x in memories.values())
    pairs = Pairs(teacher, jnp.array([4, 2, 0]), LABELS)  # the last one is padding

    @functools.partial(jax.jit, static_argnames="train")
    def apply(variables, key, train=True):
        return module.apply(
            variables,
            student,
            train=train,
            where=jnp.array([True, True, False]),
            pairs=pairs,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )

    output, updates = apply(variables, jax.random.key(3))
    drawn = draw_negatives(
        _key_of_negatives(module, variables, jax.random.key(3)), LABELS, pairs.ids, 5
    )
    columns = np.concatenate([np.asarray(pairs.ids)[:, None], drawn], axis=1)
    embeddings = {}
    for name, features in (("student", student), ("teacher", teacher)):
        dense = variables["params"][f"{name}_embedding"]["Dense_0"]
        rows = np.asarray(features.pooled @ dense["kernel"] + dense["bias"][None])
        embeddings[name] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    after = updates["batch_stats"]
    for contrast, name, other in zip(
        output.maps, ("student", "teacher"), ("teacher", "student"), strict=True
    ):
        similarities = np.einsum("bd,bmd->bm", embeddings[name], memories[other][columns])
        np.testing.assert_allclose(contrast.similarities, similarities, rtol=1e-5, atol=1e-6)
        z = 6 * np.mean(np.exp(similarities[:2] / 0.5))
        np.testing.assert_allclose(contrast.log_normalizer, np.full((3, 1), np.log(z)), rtol=1e-5)
        moved = memories[name].copy()
        for row, i in enumerate((4, 2)):
            moved[i] = 0.5 * moved[i] + 0.5 * embeddings[name][row]
            moved[i] /= np.linalg.norm(moved[i])
        np.testing.assert_allclose(after[f"{name}_memory"], moved, rtol=1e-5, atol=1e-6)
    # The constant is that of the first batch; without training nothing moves.
    later, again = apply({**variables, "batch_stats": after}, jax.random.key(4))
    for contrast, first in zip(later.maps, output.maps, strict=True):
        np.testing.assert_array_equal(contrast.log_normalizer, first.log_normalizer)
    assert np.any(again["batch_stats"]["student_memory"] != after["student_memory"])
    _, kept = apply(variables, jax.random.key(4), train=False)
    chex.assert_trees_all_equal(kept["batch_stats"], variables["batch_stats"])
