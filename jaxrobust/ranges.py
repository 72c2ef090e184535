"""Which numbers each field of a recipe may have."""

import ml_collections

from jaxrobust.errors import UserError

RANGES = {
    # Counts, sizes, and factors that would do nothing or turn round below 1.
    "[1, inf)": (
        "num_seeds",
        "num_epochs",
        "num_diagnosed",
        "teacher.num_epochs",
        "batch_size",
        "eval_batch_size",
        "checkpoint.keep",
        "al.query_size",
        "al.rounds",
        "optimizer.decay_every",
        "optimizer.cycle_epochs",
        "optimizer.div_factor",
        "optimizer.final_div_factor",
        "bual.aux_epochs",
        "bual.aux_batch_size",
        "bual.nl_batch_size",
        "bual.eval_interval",
        "bldr.tables_batch_size",
        "bldr.num_complementary",
        "select.kappa",
        "select.kappa_1",
        "eaoa.kappa",
        "eaoa.num_neighbors",
        "decoder.width",
        "decoder.hidden",
        "decoder.num_heads",
        "reviewkd.width",
    ),
    # Weights of loss terms, epochs that may be none, and sizes of which 0 means "as it is".
    "[0, inf)": (
        "num_workers",
        "distill_until_epoch",
        "dataset.image_size",
        "dataset.max_train",
        "dataset.max_test",
        "augment.padding",
        "augment.resize",
        "augment.cutout",
        "al.num_known",
        "al.class_order",
        "optimizer.learning_rate",
        "optimizer.mobile_learning_rate",
        "optimizer.decay_epochs",
        "optimizer.min_learning_rate",
        "optimizer.weight_decay",
        "optimizer.clip_norm",
        "bual.nl_epochs",
        "bual.subset_size",
        "dpc.warm_up",
        "dpc.lambda_u",
        "dpc.rampup_length",
        "dpc.beta",
        "dpc.gamma_c",
        "dpc.consistency_weight",
        "bldr.warm_up",
        "optimizer.constant_epochs",  # BLDR's is its warm_up
        "bldr.reg_weight",
        "bldr.balance_weight",
        "bldr.consistency_weight",
        "bldr.distillation_weight",
        "bldr.hint_weight",
        "bldr.head_agreement_weight",
        "bldr.learning_rate_u",
        "bldr.learning_rate_v",
        "edl.offset",
        "edl.kl_weight",
        "edl.anneal_epochs",
        "loss.lambda_unk",
        "loss.lambda_dis",
        "loss.margin",
        "loss.pool_amplify",
        "select.w_data",
        "select.w_dist",
        "select.w_discrepancy",
        "eaoa.energy_weight",
        "distill.gamma",
        "distill.alpha",
        "distill.temperature",
        "kd.ce_weight",
        "kd.weight",
        "dkd.alpha",
        "dkd.beta",
        "dkd.warm_up",
        "dist.beta",
        "dist.gamma",
        "rkd.distance_weight",
        "rkd.angle_weight",
        "pkt.weight",
        "at.weight",
        "reviewkd.weight",
        "reviewkd.warm_up",
        "logit_mse.weight",
        "asymmetric.gamma_neg",
        "asymmetric.gamma_pos",
        "l2d.lambda_mld",
        "l2d.lambda_cd",
        "l2d.lambda_id",
        "mse.weight",
        "ps.weight",
    ),
    "(0, inf)": (
        "dataset.std",
        "augment.aspect",
        "baseline.mixup_alpha",
        "dpc.mixup_alpha",
        "dpc.temperature",
        "bldr.temperature",
        "lfosa.temperature",
        "kd.temperature",
        "dkd.temperature",
        "dist.temperature",
    ),
    "[0, inf]": ("log_every_seconds", "checkpoint.every_seconds"),
    "(0, inf]": ("edl.clip",),
    "[0, 1]": (
        "dataset.mean",
        "noise.rate",
        "bual.initial_precision",
        "bldr.noise_rate",
        "bldr.noise_threshold",
        "bldr.detection_threshold",
    ),
    "[0, 1)": (
        "al.openness",
        "optimizer.momentum",
        "baseline.threshold",
        "dpc.threshold",
        "bual.prob_floor",
        "asymmetric.margin",
        "decoder.dropout",
    ),
    "(0, 1]": ("al.init_fraction", "augment.area", "optimizer.decay_factor"),
    "(0, 1)": ("optimizer.pct_start",),
    "[1, 2]": ("dpc.heads",),
    "[0, 4294967295]": ("seed",),
    "[-1, 4294967295]": ("noise.seed",),
    "(-inf, inf)": ("dpc.kurtosis_threshold", "eaoa.known_margin", "eaoa.unknown_margin"),
}
"""Interval -> the fields whose value, or each of whose values, must lie in it. NaN lies in none."""

LENGTHS = {
    "dataset.mean": (0, 3),
    "dataset.std": (0, 3),
    "augment.area": (2,),
    "augment.aspect": (2,),
}
"""Field that holds several numbers -> how many there may be."""


def is_within(value: object, interval: str) -> bool:
    """Whether `value` is a number in an interval such as `[0, 1)`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    low, high = map(float, interval[1:-1].split(","))
    above = low <= value if interval[0] == "[" else low < value
    return above and (value <= high if interval[-1] == "]" else value < high)


def check_ranges(config: ml_collections.ConfigDict) -> None:
    """Refuses a recipe with a number out of its range; fields that it lacks are not looked for.

    Raises:
      UserError: naming the first such field and what it may be.
    """
    for interval, fields in RANGES.items():
        for field in fields:
            value = _value(config, field)
            if value is None:
                continue
            several = isinstance(value, (tuple, list))
            if not all(is_within(v, interval) for v in (value if several else [value])):
                what = "numbers" if several else "a number"
                raise UserError(
                    f"{field}={value} must be {what} in {interval}; correct --config.{field}=."
                )
            if several and len(value) not in LENGTHS.get(field, (len(value),)):
                counts = " or ".join(map(str, LENGTHS[field]))
                raise UserError(
                    f"{field}={value} must hold {counts} numbers; correct --config.{field}=."
                )
    for field in ("augment.area", "augment.aspect"):
        value = _value(config, field)
        if value is not None and value[0] > value[1]:
            raise UserError(
                f"{field}={value} must hold the smaller number first; correct --config.{field}=."
            )


def _value(config: ml_collections.ConfigDict, field: str) -> object:
    for name in field.split("."):
        if name not in config:
            return None
        config = config[name]
    return config
