"""The registries of methods: every one by the name that `--config.method=` takes.

Listing them imports no method, and so no JAX; `STRATEGIES["bual"]` imports BUAL's file and returns
its `build`.
"""

from jaxrobust.recipes.baselines_options import Dropquery, Eaoa, Lfosa, Probcover, Typiclust
from jaxrobust.recipes.bldr_options import Bldr
from jaxrobust.recipes.bual_options import Bual
from jaxrobust.recipes.dcfs_options import Discrepancy, Edl, Loss, Select
from jaxrobust.recipes.dhkd_options import Distill
from jaxrobust.recipes.dpc_options import Dpc
from jaxrobust.recipes.kd_baselines_options import (
    At,
    Crd,
    Dist,
    Dkd,
    FitNet,
    Kd,
    LogitMse,
    Pkt,
    ReviewKd,
    Rkd,
    Rld,
    Sp,
    Vid,
)
from jaxrobust.recipes.l2d_options import Asymmetric, FinalReviewKd, L2d, Labels, Mse, Ps
from jaxrobust.recipes.noisy_baselines_options import Baseline
from jaxrobust.recipes.registry import Entry, Registry

_HERE = "jaxrobust.methods"
_LABELS = (Labels, Asymmetric)

TASKS = Registry(
    {
        "active_learning": Entry(
            "jaxrobust.tasks.active_learning:run", "choose images to annotate, some of no class"
        ),
        "distillation": Entry(
            "jaxrobust.tasks.distillation:run", "train a student under a teacher"
        ),
        "noisy_labels": Entry(
            "jaxrobust.tasks.noisy_labels:run", "learn from labels of which some are wrong"
        ),
    }
)
"""`(config, workdir, dataset=) -> results`, the outer loops."""

STRATEGIES = Registry(
    {
        "badge": Entry(f"{_HERE}.baselines:badge", "k-means++ on gradient embeddings, ICLR 2020"),
        "bual": Entry(f"{_HERE}.bual:build", "bidirectional uncertainty, ECCV 2024", (Bual,)),
        "coreset": Entry(f"{_HERE}.baselines:coreset", "greedy k-center, ICLR 2018"),
        "dcfs": Entry(
            f"{_HERE}.dcfs:build",
            "Dirichlet-based coarse-to-fine selection, 2024",
            (Edl, Loss, Discrepancy, Select),
        ),
        "dropquery": Entry(
            f"{_HERE}.baselines:dropquery", "predictions that dropout changes, 2024", (Dropquery,)
        ),
        "eaoa": Entry(
            f"{_HERE}.baselines:eaoa", "energy-based epistemic uncertainty, CVPR 2025", (Eaoa,)
        ),
        "entropy": Entry(f"{_HERE}.baselines:entropy", "highest entropy"),
        "lc": Entry(f"{_HERE}.baselines:least_confidence", "least confidence"),
        "lfosa": Entry(f"{_HERE}.baselines:lfosa", "surest of a known class, CVPR 2022", (Lfosa,)),
        "margin": Entry(f"{_HERE}.baselines:margin", "smallest margin of the top two classes"),
        "probcover": Entry(
            f"{_HERE}.baselines:probcover", "greedy coverage by balls, NeurIPS 2022", (Probcover,)
        ),
        "random": Entry(f"{_HERE}.baselines:random", "uniform draws from the pool"),
        "typiclust": Entry(
            f"{_HERE}.baselines:typiclust", "typical images of clusters, ICML 2022", (Typiclust,)
        ),
    }
)
"""`(config, problem) -> Strategy` of the active-learning task."""

NOISY_LABEL_METHODS = Registry(
    {
        "bldr": Entry(
            f"{_HERE}.bldr:build", "bidirectional learning with reweighting, 2022", (Bldr,)
        ),
        "cross_entropy": Entry(
            f"{_HERE}.noisy_baselines:cross_entropy", "the given labels", (Baseline,)
        ),
        "dividemix": Entry(
            f"{_HERE}.noisy_baselines:dividemix", "co-divided training, ICLR 2020", (Dpc,)
        ),
        "dpc": Entry(
            f"{_HERE}.dpc:build", "Dirichlet-based prediction calibration, AAAI 2024", (Dpc,)
        ),
        "knn": Entry(f"{_HERE}.noisy_baselines:knn", "votes of the nearest features", (Baseline,)),
        "mixup": Entry(
            f"{_HERE}.noisy_baselines:mixup", "mixed images and labels, ICLR 2018", (Baseline,)
        ),
    }
)
"""`(config, problem) -> Method` of the noisy-label task."""

DISTILLERS = Registry(
    {
        "at": Entry(f"{_HERE}.kd_baselines:at", "attention maps, ICLR 2017", (At,)),
        "binary_kl": Entry(
            f"{_HERE}.dhkd:binary_kl", "DHKD's logit loss alone on one head", (Distill,)
        ),
        "cross_entropy": Entry(f"{_HERE}.kd_baselines:cross_entropy", "the labels alone"),
        "crd": Entry(
            f"{_HERE}.kd_baselines:crd", "contrast with memories of embeddings, ICLR 2020", (Crd,)
        ),
        "cross_entropy_binary_kl": Entry(
            f"{_HERE}.dhkd:cross_entropy_binary_kl", "both losses of DHKD on one head", (Distill,)
        ),
        "dhkd": Entry(
            f"{_HERE}.dhkd:build", "dual-head knowledge distillation, KDD 2025", (Distill,)
        ),
        "dhkd_reviewkd": Entry(
            f"{_HERE}.kd_baselines:dhkd_reviewkd", "DHKD and ReviewKD together", (Distill, ReviewKd)
        ),
        "dist": Entry(
            f"{_HERE}.kd_baselines:dist", "correlations with the teacher, NeurIPS 2022", (Dist,)
        ),
        "dkd": Entry(f"{_HERE}.kd_baselines:dkd", "decoupled distillation, CVPR 2022", (Dkd,)),
        "fitnet": Entry(
            f"{_HERE}.kd_baselines:fitnet", "one map through a regressor, ICLR 2015", (FitNet,)
        ),
        "kd": Entry(f"{_HERE}.kd_baselines:kd", "softened teacher probabilities, 2015", (Kd,)),
        "logit_mse": Entry(
            f"{_HERE}.kd_baselines:logit_mse", "squared error of the logits", (LogitMse,)
        ),
        "pkt": Entry(
            f"{_HERE}.kd_baselines:pkt", "similarities within the batch, ECCV 2018", (Pkt,)
        ),
        "reviewkd": Entry(
            f"{_HERE}.kd_baselines:reviewkd", "fused feature maps, CVPR 2021", (ReviewKd,)
        ),
        "rkd": Entry(
            f"{_HERE}.kd_baselines:rkd", "distances and angles of features, CVPR 2019", (Rkd,)
        ),
        "rld": Entry(f"{_HERE}.kd_baselines:rld", "refined logits, ICCV 2025", (Rld,)),
        "sp": Entry(
            f"{_HERE}.kd_baselines:sp", "similarity-preserving distillation, ICCV 2019", (Sp,)
        ),
        "vid": Entry(f"{_HERE}.kd_baselines:vid", "variational information, CVPR 2019", (Vid,)),
    }
)
"""`(config, problem) -> Distiller` of the distillation task, for images with one label."""

MULTILABEL_DISTILLERS = Registry(
    {
        "bce": Entry(f"{_HERE}.l2d:bce", "the labels alone", _LABELS),
        "l2d": Entry(
            f"{_HERE}.l2d:build", "multi-label knowledge distillation, ICCV 2023", (*_LABELS, L2d)
        ),
        "mld": Entry(f"{_HERE}.l2d:mld", "L2D's logit term alone", (*_LABELS, L2d)),
        "mld_cd": Entry(
            f"{_HERE}.l2d:mld_cd", "L2D without its instance-aware term", (*_LABELS, L2d)
        ),
        "mld_id": Entry(f"{_HERE}.l2d:mld_id", "L2D without its class-aware term", (*_LABELS, L2d)),
        "mse": Entry(f"{_HERE}.l2d:mse", "squared error of the logits", (*_LABELS, Mse)),
        "pkt": Entry(
            f"{_HERE}.l2d:pkt", "similarities within the batch, ECCV 2018", (*_LABELS, Pkt)
        ),
        "ps": Entry(
            f"{_HERE}.l2d:ps", "softmax over each positive and all negative classes", (*_LABELS, Ps)
        ),
        "reviewkd": Entry(
            f"{_HERE}.l2d:reviewkd", "the final feature map, CVPR 2021", (*_LABELS, FinalReviewKd)
        ),
        "rkd": Entry(
            f"{_HERE}.l2d:rkd", "distances and angles of features, CVPR 2019", (*_LABELS, Rkd)
        ),
    }
)
"""`(config, problem) -> Distiller` of the distillation task, for images with several labels."""
