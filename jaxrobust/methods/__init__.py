"""One file per paper: losses, selection and networks wired into what a task runs."""

from collections.abc import Callable

import ml_collections

from jaxrobust.methods import baselines, bual, dcfs
from jaxrobust.methods.strategy import Strategy, Task

STRATEGIES: dict[str, Callable[[ml_collections.ConfigDict, Task], Strategy]] = {
    "badge": baselines.badge,
    "bual": bual.build,
    "coreset": baselines.coreset,
    "dcfs": dcfs.build,
    "eaoa": baselines.eaoa,
    "entropy": baselines.entropy,
    "lc": baselines.least_confidence,
    "lfosa": baselines.lfosa,
    "margin": baselines.margin,
    "random": baselines.random,
}
