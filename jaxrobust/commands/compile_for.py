"""`jaxrobust benchmark --compile_for=v5e:2x2`: compiles a recipe's programs for absent devices.

XLA's compilers for TPUs (`libtpu`) and NVIDIA's GPUs run on any machine. The recipe runs through
its real task with shapes instead of data: every program is compiled as a run on the target would
compile it, and returns made-up numbers of the shapes that tracing gives. Nothing is executed.
"""

import dataclasses
import importlib.util
import math
import os
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import tasks
from jaxrobust.commands.compiled_text import collectives, memory_traffic
from jaxrobust.data.dataset import Dataset, FileDataset
from jaxrobust.engine.programs import Programs
from jaxrobust.engine.sharding import AXIS, Placement
from jaxrobust.errors import UserError, unknown_name
from jaxrobust.models.costs import operations_of
from jaxrobust.recipes.fields import replace
from jaxrobust.recipes.parse import Recipe


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak rates of a device according to its vendor."""

    flops: float  # of matrix products in bfloat16, in FLOP/s
    memory_bytes: float  # of a device
    memory_rate: float  # bytes/s between the chip and its memory
    link_rate: float  # bytes/s over all links of a chip to others, one way


# TPUs: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, peak compute, HBM and interchip interconnect, of
# which half goes each way. GPUs: NVIDIA's data sheets of the SXM modules, without sparsity.
CHIPS = {
    "v4": Chip(275e12 / 2, 16e9, 1228e9 / 2, 150e9 / 2),  # of one of the two cores of a chip
    "v5e": Chip(197e12, 16e9, 819e9, 100e9),
    "v5p": Chip(459e12, 95e9, 2765e9, 300e9),
    "v6e": Chip(918e12, 32e9, 1640e9, 224e9),
    "h100": Chip(989e12, 80e9, 3350e9, 450e9),
    "h200": Chip(989e12, 141e9, 4800e9, 450e9),
}
"""By the name in `--compile_for=`."""

_MOST_DRAWN = 10**7  # made-up numbers of an array; of a larger one a row is repeated

# What XLA's compiler asks of a GPU: of an H100 SXM, but for the memory of others of compute
# capability 9.0. Without it the compiler would look for the device.
_HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 l2_cache_size: 52428800
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: {bandwidth:.0f} device_memory_size: {memory:.0f}
  cuda_compute_capability {{ major: 9 minor: 0 }}
  device_address_bits: 64 device_vendor: "NVIDIA Corporation" name: "{name}"
  dnn_version: "9.8.0" runtime_version: "13.0.0" driver_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
}}
platform_name: "CUDA"
device_description_str: "{name}"
"""


def make_target(target: str) -> tuple[Chip, Placement]:
    """The chip that `CHIP:TOPOLOGY` names, and a placement over the devices of the topology.

    The topology of TPUs is written as Google does (`v5e:2x4`, `v4:2x2x1`); that of GPUs is their
    number (`h100:8`).
    """
    name, _, shape = target.partition(":")
    if name not in CHIPS:
        raise UserError(unknown_name("--compile_for target", name, CHIPS))
    chip, is_gpu = CHIPS[name], name.startswith("h")
    module, extra = ("jax_plugins.xla_cuda13", "cuda13") if is_gpu else ("libtpu", "tpu")
    if not _is_installed(module):
        raise UserError(
            f"--compile_for={target} needs XLA's compiler for it: pip install 'jaxrobust[{extra}]'."
        )
    jax.config.update("jax_platforms", "cpu")
    options: dict[str, Any] = {"platform": "tpu", "topology_name": target}
    if is_gpu:
        jax.devices()  # registers the compiler
        description = _HOPPER.format(
            name=f"NVIDIA {name.upper()}", bandwidth=chip.memory_rate, memory=chip.memory_bytes
        )
        options = {"platform": "cuda", "topology_name": name, "topology": f"1x1x{shape or 1}"}
        options["target_config"] = description
    else:
        os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
        os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # no process has a device to itself
        sides = [min(int(n), 2) for n in shape.split("x") if n.isdecimal()]
        options["chips_per_host_bounds"] = [*sides, 1, 1][:3]
    from jax.experimental import topologies

    try:
        devices = topologies.get_topology_desc(**options).devices
    except Exception as error:  # whatever the compiler raises
        raise UserError(
            f"--compile_for={target}: the compiler refuses this topology "
            f"({str(error).splitlines()[0][:200]}); name one such as v5e:2x2, v4:2x2x1 or h100:8."
        ) from None
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.sharding.Mesh(np.array(devices).ravel(), (AXIS,), axis_types=auto)
    return chip, PlannedPlacement(mesh)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


class _Described(np.ndarray):
    """An array of the host with the sharding that it would have on the target."""

    sharding: Any = None

    def __array_finalize__(self, obj: Any) -> None:
        self.sharding = None  # a part of it, or what is computed from it, is somewhere else


def _described(x: Any, sharding: Any) -> Any:
    if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key):
        return x
    described = np.asarray(x).view(_Described)
    described.sharding = sharding
    return described


class PlannedPlacement(Placement):
    """A placement whose arrays stay on the host, since nothing is computed with them."""

    def put_batch(self, tree):
        return self._put(tree, self.batch)

    def _put(self, tree, sharding):
        return jax.tree.map(lambda x: _described(x, sharding), tree)


def _without_padding(x: Any) -> Any:
    """Index plans whose every slot is an example, for the number of images that a step takes."""
    is_plan = isinstance(x, np.ndarray) and x.ndim and np.issubdtype(x.dtype, np.integer)
    return np.zeros_like(x) if is_plan else x


def _is_loop(jaxpr: Any) -> bool:
    """Whether a program is a loop of steps, rather than a step which draws numbers in a loop."""
    return any(
        eqn.primitive.name == "while" and len(eqn.params["body_jaxpr"].jaxpr.eqns) > len(jaxpr.eqns)
        for eqn in jaxpr.eqns
    )


class PlannedPrograms(Programs):
    """Programs that are compiled for a target at their first call, and never run.

    Calls return made-up numbers, the same every time: floats in (0, 1), so that data is divided and
    chosen from, and zeros otherwise. `notes` holds what is known of each program.
    """

    placement: Placement

    def __init__(self, placement: Placement):
        super().__init__(placement)
        self.notes: dict[str, dict[str, Any]] = {}
        self._planned: dict[str, Callable] = {}
        self._rng = np.random.default_rng(0)
        platform = placement.mesh.devices.flat[0].platform
        self._platform = {"gpu": "cuda"}.get(platform, platform)

    def jit(
        self,
        name: str,
        function: Callable,
        *,
        visits: Callable | None = None,
        is_start: bool = False,
        **options,
    ) -> Callable:
        jitted: Any = super().jit(name, function, **options)
        if name in self._planned:
            return self._planned[name]
        results: Any = None

        def planned(*args):
            nonlocal results
            if results is None:
                results = jax.tree.map(self._made_up, self._compile(name, jitted, args))
                full = jax.tree.map(_without_padding, args)
                steps, images = visits(*full) if visits else (1, 0)
                self.notes[name]["images_per_step"] = images // max(steps, 1)
            return results

        self._planned[name] = planned
        return planned

    def _compile(self, name: str, jitted: Any, args: Any) -> Any:
        replicated = self.placement.replicated

        def abstract(x):
            sharding = getattr(x, "sharding", None) if isinstance(x, _Described) else None
            return jax.ShapeDtypeStruct(
                np.shape(x), jnp.result_type(x), sharding=sharding or replicated
            )

        started = time.perf_counter()
        traced = jitted.trace(*jax.tree.map(abstract, args))
        compiled = traced.lower(lowering_platforms=(self._platform,)).compile()
        memory: Any = compiled.memory_analysis()
        size = {
            part: getattr(memory, f"{part}_size_in_bytes", 0)
            for part in ("argument", "output", "temp", "alias")
        }
        cost: Any = compiled.cost_analysis() or {}  # the body of a loop counts once
        if (flops := cost.get("flops")) is None:  # of GPUs: of the whole batch, in equal parts
            flops = operations_of(traced.jaxpr.jaxpr) / self.placement.num_devices
        text = compiled.as_text()
        is_loop = _is_loop(traced.jaxpr.jaxpr)
        self.notes[name] = {
            "compile_seconds": time.perf_counter() - started,
            "flops_per_step": float(flops),
            "bytes_per_step": float(memory_traffic(text, is_loop=is_loop)),
            "memory_bytes": size["argument"] + size["output"] + size["temp"] - size["alias"],
            "temporary_bytes": size["temp"],
            "collectives": collectives(text),
        }
        return traced.out_info

    def _made_up(self, like: Any) -> Any:
        if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
            key = jax.random.key(0)
            return jax.random.split(key, like.shape) if like.shape else key
        if jnp.issubdtype(like.dtype, np.floating):
            size = like.shape if math.prod(like.shape) < _MOST_DRAWN else like.shape[-1:]
            x = np.broadcast_to(self._rng.random(size, np.float32), like.shape)
            return _described(x.astype(like.dtype), self.placement.replicated)
        return _described(np.zeros(like.shape, like.dtype), self.placement.replicated)


def compile_recipe(
    recipe: Recipe, dataset: Dataset | FileDataset, target: str
) -> list[dict[str, Any]]:
    """Compiles every program of a recipe, shortened so that all stages are reached quickly.

    A row for each program is JSON-able: `program, target, devices, compile_seconds,
    images_per_step, flops_per_step, bytes_per_step, memory_bytes, temporary_bytes,
    memory_limit_bytes, fits, roofline_ms, images_per_second, collectives`. Images are counted over
    all devices, everything else per device. `roofline_ms` is a lower bound of a step: the larger of
    arithmetic and memory traffic at the chip's peak rates, plus the collectives over its links.
    """
    chip, placement = make_target(target)
    programs = PlannedPrograms(placement)
    changes: dict[str, Any] = {"writers": ("jsonl",), "device_count": 0, "device": "auto"}
    changes["num_workers"] = 0  # one file is read, as often as asked
    changes |= {"dtype": "bfloat16"} if recipe.dtype == "auto" else {}
    with tempfile.TemporaryDirectory(prefix="jaxrobust-") as workdir:
        run = tasks.TASKS[recipe.task]
        run(replace(recipe, changes), pathlib.Path(workdir) / "run", programs, dataset=dataset)
    rows = []
    for name, note in programs.notes.items():
        communicated = sum(entry["bytes"] for entry in note["collectives"].values())
        bound = max(note["flops_per_step"] / chip.flops, note["bytes_per_step"] / chip.memory_rate)
        bound += communicated / chip.link_rate
        row = {"program": name, "target": target, "devices": placement.num_devices, **note}
        row |= {
            "memory_limit_bytes": chip.memory_bytes,
            "fits": note["memory_bytes"] <= chip.memory_bytes,
            "roofline_ms": 1e3 * bound,
        }
        if note["images_per_step"]:
            row["images_per_second"] = note["images_per_step"] / bound
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]], recipe: Recipe, num_images: int) -> str:
    """The rows of `compile_recipe` in markdown, then the training time at the bound.

    The time is that of the whole `recipe`, with `num_images` in every epoch. Annotation has none,
    since the images of an epoch are those that are annotated by then.
    """
    chosen = rows[0]
    lines = [
        f"{chosen['target']}, {chosen['devices']} x {chosen['memory_limit_bytes'] / 1e9:.0f} GB; "
        "FLOP, bytes and memory per device; ms and images/s are bounds, not measurements",
        "",
        "| program | compile s | GFLOP/step | MB/step | memory MB | fits | ms/step at least "
        "| images/s at most | collectives |",
        "|---" * 9 + "|",
    ]
    for row in rows:
        communication = ", ".join(
            f"{entry['count']} {kind} ({entry['bytes'] / 1e6:.1f} MB)"
            for kind, entry in row["collectives"].items()
        )
        rate = f"{row['images_per_second']:,.0f}" if "images_per_second" in row else ""
        lines.append(
            f"| {row['program']} | {row['compile_seconds']:.1f} "
            f"| {row['flops_per_step'] / 1e9:.2f} | {row['bytes_per_step'] / 1e6:,.0f} "
            f"| {row['memory_bytes'] / 1e6:,.0f} "
            f"| {'yes' if row['fits'] else '**no**'} | {row['roofline_ms']:.3f} | {rate} "
            f"| {communication} |"
        )
    if recipe.task == "active_learning":
        return "\n".join(lines)
    for row in rows:
        if row["program"].endswith("/epoch") and row.get("images_per_second"):
            num_epochs = _num_epochs(row["program"], recipe)
            hours = num_images * num_epochs / row["images_per_second"] / 3600
            lines.append(
                f"\n{row['program']}: at least {hours:.2g} hours for {num_epochs} epochs of "
                f"{num_images:,} images."
            )
    return "\n".join(lines)


def _num_epochs(program: str, recipe: Any) -> int:
    """The epochs of a training program in a run of the whole recipe."""
    if program == "teacher/epoch":
        return recipe.teacher.num_epochs
    if program == "warm_up/epoch":
        return recipe.dpc.warm_up
    if program == "semi_supervised/epoch":
        return recipe.num_epochs - recipe.dpc.warm_up
    return recipe.num_epochs
