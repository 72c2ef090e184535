"""Several processes, on one machine or on many, that run one experiment together.

Every process runs the same program on the same data and takes part in every compiled step; only the
first one writes files and logs.
"""

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxrobust.errors import UserError

HEARTBEAT_SECONDS = 30

_is_main = True


def join(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Makes this process one of several; to be called before JAX is used.

    `coordinator` is `host:port` of the first process. What is None is asked of the environment
    (SLURM, Kubernetes, Open MPI, a TPU pod). UserError if processes are missing.
    """
    global _is_main
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(
            f"The processes of this run did not find each other ({str(error).splitlines()[0]}); "
            "start all of them, under SLURM, Kubernetes, Open MPI or on a TPU pod with "
            "--distributed, elsewhere with --coordinator=HOST:PORT --num_processes --process_id."
        ) from None
    _is_main = jax.process_index() == 0


def is_main() -> bool:
    """Whether this process writes the files and logs; does not start JAX."""
    return _is_main


def all_max(value: int) -> int:
    """The largest `value` that any process calls this with; all of them have to."""
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def broadcast_from_main(value: int) -> int:
    """The `value` that the main process calls this with; all of them have to."""
    return all_max(value if is_main() else 0)
