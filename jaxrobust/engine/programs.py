"""The compiled programs of a recipe, each of them traced once."""

import collections
import logging
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.engine.sharding import Placement

log = logging.getLogger("jaxrobust")

# For programs that run once, whose cost is compiling; they round differently in the last digit.
FAST_COMPILE = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
# An initialisation unrolls the generator of every parameter: XLA's CPU backend compiles it for
# seconds, twice as long as with these options, and the bits are the same.
_FOR_STARTS = {**FAST_COMPILE, "xla_backend_optimization_level": 1}


class Programs:
    """The jitted programs of one recipe, each of which may be traced once.

    A second trace means that a shape or a Python value changed between calls, which costs a compile
    of seconds to minutes every time; it is refused. Runs that differ in nothing but the seed share
    their programs: what depends on the seed or on the data is an operand of them.

    Args:
      placement, device_loop: as the attributes.
      compiler_options: of XLA, as in `jax.jit`.

    Attributes:
      traces: how often each program has been traced, by name.
      metrics: dtypes of what each program of an epoch measures, by `(name, static)`.
      placement: where they run; None for all devices.
      device_loop: whether the steps of an epoch are one program; None chooses by the backend.
    """

    def __init__(
        self,
        placement: Placement | None = None,
        *,
        compiler_options: Mapping[str, Any] | None = None,
        device_loop: bool | None = None,
    ):
        self.placement = placement
        self.device_loop = device_loop
        self._compiler_options = compiler_options
        self.traces: collections.Counter[str] = collections.Counter()
        self.metrics: dict[tuple[str, Hashable], dict[str, Any]] = {}
        self._jitted: dict[str, tuple[Hashable, Callable]] = {}

    def jit(
        self,
        name: str,
        function: Callable,
        *,
        static: Hashable,
        visits: Callable | None = None,
        is_start: bool = False,
        **options,
    ) -> Callable:
        """`jax.jit(function, **options)`, counted under `name`, or the program of that name.

        Args:
          name: of the program.
          function: what is compiled.
          static: all that the function closes over, comparable: numbers, strings, frozen
            dataclasses of them; () where it closes over nothing.
          visits: the same arguments -> (steps, images) of a call, for measurements.
          is_start: whether it makes initial networks, so that compiling it is its cost.
          **options: of `jax.jit`.

        Raises:
          RuntimeError: if the program of that name closes over something else.
        """
        del visits
        if name in self._jitted:
            before, jitted = self._jitted[name]
            if before != static:
                raise RuntimeError(
                    f"Program {name!r} was compiled for other settings, or for data of other "
                    "shapes; give each recipe Programs of its own."
                )
            return jitted

        def counted(*args):
            self.traces[name] += 1
            log.info("compiling %s (program %d)", name, len(self.traces))
            if self.traces[name] > 1:
                shapes = jax.tree.map(jnp.shape, args)
                raise RuntimeError(f"Program {name!r} was traced twice; arguments {shapes}.")
            return function(*args)

        counted.__name__ = name.replace("/", "_")
        compiler_options = dict(self._compiler_options or {})
        # Who has JAX optimise less than that already is not overruled.
        is_quick = jax.config.values["jax_disable_most_optimizations"]
        if is_start and jax.default_backend() == "cpu" and not is_quick:
            compiler_options = _FOR_STARTS | compiler_options
        options["compiler_options"] = compiler_options or None
        self._jitted[name] = static, jax.jit(counted, **options)
        return self._jitted[name][1]
