"""The compiled programs of a recipe, each of them traced once."""

import collections
import logging
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.engine.environment import num_cores
from jaxrobust.engine.sharding import Placement

log = logging.getLogger("jaxrobust")

# For programs that run once, whose cost is compiling; they round differently in the last digit.
HARDLY_OPTIMISED = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
# An initialisation unrolls the generator of every parameter: XLA's CPU backend compiles it for
# seconds, twice as long as with these options, and the bits are the same.
_FOR_STARTS = {**HARDLY_OPTIMISED, "xla_backend_optimization_level": 1}


class _Program(NamedTuple):
    static: Hashable
    jitted: Any
    call: Callable


class Programs:
    """The jitted programs of one recipe, each of which may be traced once.

    A second trace means that a shape or a Python value changed between calls, which costs a compile
    of seconds to minutes every time; it is refused. Runs that differ in nothing but the seed share
    their programs: what depends on the seed or on the data is an operand of them.

    Args:
      placement, device_loop: as the attributes.
      compiler_options: of XLA, as of `jax.jit`.

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
        self._programs: dict[str, _Program] = {}
        self._ahead: dict[str, Future] = {}
        self._threads = ThreadPoolExecutor(num_cores(), thread_name_prefix="ahead")

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
        if name in self._programs:
            if self._programs[name].static != static:
                raise RuntimeError(
                    f"Program {name!r} was compiled for other settings, or for data of other "
                    "shapes; give each recipe Programs of its own."
                )
            return self._programs[name].call

        def counted(*args):
            self.traces[name] += 1
            log.info("compiling %s (program %d)", name, len(self.traces))
            if self.traces[name] > 1 + (name in self._ahead):
                shapes = jax.tree.map(jnp.shape, args)
                raise RuntimeError(f"Program {name!r} was traced twice; arguments {shapes}.")
            return function(*args)

        counted.__name__ = name.replace("/", "_")
        compiler_options = dict(self._compiler_options or {})
        if is_start and jax.default_backend() == "cpu":
            compiler_options = _FOR_STARTS | compiler_options
        options["compiler_options"] = compiler_options or None
        jitted = jax.jit(counted, **options)

        def call(*args):
            if name in self._ahead:
                self._ahead[name].result()
            return jitted(*args)

        self._programs[name] = _Program(static, jitted, call)
        return call

    def jitted(self, name: str) -> Any:
        """What `jax.jit` made of the program of that name."""
        return self._programs[name].jitted

    def compile_ahead(self, name: str, *args: Any) -> None:
        """Compiles a program in a thread, while others run; its first call waits for that.

        XLA's CPU backend compiles a program on one core. What fails here fails in that call, and
        arguments that are of other shapes or devices than here cost one more compile there.

        Args:
          name: of a program of `jit`.
          *args: as of its call; of arrays only the shapes, types and devices count.
        """
        if self.traces[name] or name in self._ahead or jax.process_count() > 1:
            return
        jitted, shapes = self.jitted(name), jax.tree.map(_shape, args)
        self._ahead[name] = self._threads.submit(lambda: jitted.lower(*shapes).compile())

    def cancel_ahead(self) -> None:
        """Leaves out what is to be compiled ahead and has not begun."""
        for name, future in list(self._ahead.items()):
            if future.cancel():
                del self._ahead[name]


def _shape(x: Any) -> Any:
    """What a program is compiled for."""
    if not isinstance(x, jax.Array):
        return x
    return jax.ShapeDtypeStruct(
        x.shape,
        x.dtype,
        sharding=x.sharding if x.committed else None,
        weak_type=getattr(x, "weak_type", False),  # keys have none
    )
