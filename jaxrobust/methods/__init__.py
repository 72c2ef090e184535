"""One file per paper: losses, selection and networks wired into what a task runs."""

from collections.abc import Callable

import ml_collections

from jaxrobust.methods import active_learning as _active_learning
from jaxrobust.methods import (
    baselines,
    bldr,
    bual,
    dcfs,
    dhkd,
    dpc,
    kd_baselines,
    l2d,
    noisy_baselines,
)
from jaxrobust.methods import distillation as _distillation
from jaxrobust.methods.active_learning import Strategy
from jaxrobust.methods.noisy_labels import Method, Problem

STRATEGIES: dict[str, Callable[[ml_collections.ConfigDict, _active_learning.Problem], Strategy]] = {
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

MULTILABEL_DISTILLERS: dict[
    str, Callable[[ml_collections.ConfigDict, _distillation.Problem], _distillation.Distiller]
] = {
    "bce": l2d.bce,
    "l2d": l2d.build,
    "mld": l2d.mld,
    "mld_cd": l2d.mld_cd,
    "mld_id": l2d.mld_id,
    "mse": l2d.mse,
    "pkt": l2d.pkt,
    "ps": l2d.ps,
    "reviewkd": l2d.reviewkd,
    "rkd": l2d.rkd,
}
