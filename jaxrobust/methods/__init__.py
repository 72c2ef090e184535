"""One file per paper: losses, selection and networks wired into what a task runs."""

from collections.abc import Callable

import ml_collections

from jaxrobust.methods import baselines, bldr, bual, dcfs, dhkd, dpc, kd_baselines, noisy_baselines
from jaxrobust.methods import distillation as _distillation
from jaxrobust.methods.noisy_labels import Method, Problem
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

NOISY_LABEL_METHODS: dict[str, Callable[[ml_collections.ConfigDict, Problem], Method]] = {
    "bldr": bldr.build,
    "cross_entropy": noisy_baselines.cross_entropy,
    "dividemix": noisy_baselines.dividemix,
    "dpc": dpc.build,
    "mixup": noisy_baselines.mixup,
}

DISTILLERS: dict[
    str, Callable[[ml_collections.ConfigDict, _distillation.Problem], _distillation.Distiller]
] = {
    "at": kd_baselines.at,
    "binary_kl": dhkd.binary_kl,
    "cross_entropy": kd_baselines.cross_entropy,
    "cross_entropy_binary_kl": dhkd.cross_entropy_binary_kl,
    "dhkd": dhkd.build,
    "dhkd_reviewkd": kd_baselines.dhkd_reviewkd,
    "dist": kd_baselines.dist,
    "dkd": kd_baselines.dkd,
    "kd": kd_baselines.kd,
    "logit_mse": kd_baselines.logit_mse,
    "pkt": kd_baselines.pkt,
    "reviewkd": kd_baselines.reviewkd,
    "rkd": kd_baselines.rkd,
}
