"""One file per paper: losses, selection and networks wired into what a task runs."""

from collections.abc import Callable

import ml_collections

from jaxrobust.methods import baselines, dcfs
from jaxrobust.methods.strategy import Strategy, Task

STRATEGIES: dict[str, Callable[[ml_collections.ConfigDict, Task], Strategy]] = {
    "dcfs": dcfs.build,
    "entropy": baselines.entropy,
    "random": baselines.random,
}
