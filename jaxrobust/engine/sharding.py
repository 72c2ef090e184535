"""Data parallelism: one mesh axis, batches split along it, everything else replicated."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

AXIS = "data"


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where arrays live on a one-axis mesh; the axis is called `data`."""

    mesh: jax.sharding.Mesh

    @property
    def num_devices(self) -> int:
        return self.mesh.size

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch(self) -> NamedSharding:
        """First axis split over the devices."""
        return NamedSharding(self.mesh, PartitionSpec(AXIS))

    @property
    def plan(self) -> NamedSharding:
        """Index plans `[steps, batch]`: the batch axis split over the devices."""
        return NamedSharding(self.mesh, PartitionSpec(None, AXIS))

    def put(self, tree):
        """Replicates a pytree of host arrays on every device of the mesh."""
        return self._put(tree, self.replicated)

    def put_split(self, tree):
        """Splits the rows of host arrays, or replicates them where there are no equal parts."""
        (rows,) = {len(x) for x in jax.tree.leaves(tree)}
        return self._put(tree, self.replicated if rows % self.num_devices else self.batch)

    def put_plan(self, tree):
        """Puts index plans `[steps, batch]` on the devices, the batch axis split over them."""
        return self._put(tree, self.plan)

    def put_batch(self, tree):
        """Puts the slots `[width]` of this process's devices there, as parts of all batches."""
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self.batch, x), tree)

    def tracing(self):
        """The context in which a step is traced, for `on_every_device` and its like."""
        return jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh)

    def _put(self, tree, sharding: NamedSharding):
        if jax.process_count() == 1:
            return jax.device_put(tree, sharding)
        # Every process has the whole array: none needs to be sent or compared.
        return jax.tree.map(
            lambda x: jax.make_array_from_callback(
                np.shape(x), sharding, lambda index: np.asarray(x)[index]
            ),
            tree,
        )

    def round_up(self, batch_size: int) -> int:
        """Smallest multiple of the device count that holds `batch_size` rows."""
        return -(-batch_size // self.num_devices) * self.num_devices


def on_every_device(tree):
    """Within a step over several devices: each gets all rows of these arrays, once."""
    return _laid_out(tree, PartitionSpec())


def split_rows(tree):
    """Within a step over several devices: each computes its own rows of these arrays."""
    return _laid_out(tree, PartitionSpec(AXIS))


def _laid_out(tree, spec: PartitionSpec):
    if _num_shares() == 1:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), tree)


def _num_shares(rows: int = 0) -> int:
    """Devices that the rows of the step that is being traced are split over, if in equal parts."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty or rows % mesh.size else mesh.size


def join_batches(batches: Sequence[jax.Array] | jax.Array) -> jax.Array:
    """V batches `[B, ...]` as one `[V B, ...]`: on one device their concatenation.

    Of several devices each joins its own rows, so that none crosses; the order of the result is
    undone by `part_batches`.
    """
    shares = _num_shares(len(batches[0]))
    if shares == 1:
        return jnp.concatenate(batches)
    parts = [x.reshape(shares, -1, *x.shape[1:]) for x in batches]
    return jnp.concatenate(parts, axis=1).reshape(-1, *batches[0].shape[1:])


def part_batches(joined: jax.Array, count: int) -> jax.Array:
    """`[V, B, ...]` of what `join_batches` made of V batches, or of what was computed of it."""
    shares = _num_shares(len(joined) // count)
    if shares == 1:
        return joined.reshape(count, -1, *joined.shape[1:])
    parts = joined.reshape(shares, count, -1, *joined.shape[1:])
    return jnp.moveaxis(parts, 1, 0).reshape(count, -1, *joined.shape[1:])


def local_slots(plan_ids) -> np.ndarray:
    """The slots `[steps, width]` of a plan that lie on the devices of this process, in order."""
    if not isinstance(plan_ids, jax.Array):
        return plan_ids
    shards = {shard.index[1].start or 0: shard.data for shard in plan_ids.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)], axis=1)


def make_placement(devices: Sequence[Any] | None = None, *, count: int = 0) -> Placement:
    """Placement over some `jax.Device`s (default: the first `count`; 0: all of them)."""
    devices = jax.devices()[: count or None] if devices is None else devices
    mesh = jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
    return Placement(mesh)


def fetch(tree):
    """Copies a pytree of replicated device arrays to NumPy."""
    return jax.tree.map(np.asarray, jax.device_get(tree))
