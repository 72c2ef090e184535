"""The registries of methods: every one by the name that `--config.method=` takes.

Listing them imports no method, and so no JAX; `STRATEGIES["bual"]` imports BUAL's file and returns
its `build`.
"""

from typing import Literal

from jaxrobust.recipes.bldr import BldrRecipe
from jaxrobust.recipes.bual import BualRecipe
from jaxrobust.recipes.dcfs import DcfsRecipe
from jaxrobust.recipes.dpc import DpcRecipe
from jaxrobust.recipes.e2oal import E2oalRecipe
from jaxrobust.recipes.registry import Entry, Registry

_HERE = "jaxrobust.methods"

TASKS = Registry(
    {
        "active_learning": Entry(
            "jaxrobust.tasks.active_learning:run",
            "choose images to annotate, some of unknown classes",
        ),
        "distillation": Entry("jaxrobust.tasks.distillation:run", "train a student with a teacher"),
        "noisy_labels": Entry("jaxrobust.tasks.noisy_labels:run", "learn from partly wrong labels"),
    }
)
"""`(recipe, workdir, dataset=) -> results`, the outer loops."""

STRATEGIES = Registry(
    {
        "badge": Entry(f"{_HERE}.baselines:badge", "k-means++ on gradient embeddings, ICLR 2020"),
        "bual": Entry(f"{_HERE}.bual:build", "bidirectional uncertainty, ECCV 2024", BualRecipe),
        "coreset": Entry(f"{_HERE}.baselines:coreset", "greedy k-center, ICLR 2018"),
        "dcfs": Entry(
            f"{_HERE}.dcfs:build", "Dirichlet-based coarse-to-fine selection, 2024", DcfsRecipe
        ),
        "dropquery": Entry(
            f"{_HERE}.baselines:dropquery", "predictions that dropout changes, 2024"
        ),
        "e2oal": Entry(
            f"{_HERE}.e2oal:build",
            "clusters of unknown images, a target precision, CVPR 2026",
            E2oalRecipe,
        ),
        "eaoa": Entry(f"{_HERE}.baselines:eaoa", "energy-based epistemic uncertainty, CVPR 2025"),
        "entropy": Entry(f"{_HERE}.baselines:entropy", "highest entropy"),
        "lc": Entry(f"{_HERE}.baselines:least_confidence", "least confidence"),
        "lfosa": Entry(f"{_HERE}.baselines:lfosa", "most likely of a known class, CVPR 2022"),
        "margin": Entry(f"{_HERE}.baselines:margin", "smallest margin of the top two classes"),
        "probcover": Entry(
            f"{_HERE}.baselines:probcover", "greedy coverage by balls, NeurIPS 2022"
        ),
        "random": Entry(f"{_HERE}.baselines:random", "uniform draws from the pool"),
        "typiclust": Entry(f"{_HERE}.baselines:typiclust", "typical images of clusters, ICML 2022"),
    }
)
"""`(recipe, problem) -> Strategy` of the active-learning task."""

StrategyName = Literal[
    "badge",
    "bual",
    "coreset",
    "dcfs",
    "dropquery",
    "e2oal",
    "eaoa",
    "entropy",
    "lc",
    "lfosa",
    "margin",
    "probcover",
    "random",
    "typiclust",
]
"""For editors and type checkers, as are the next ones."""

NOISY_LABEL_METHODS = Registry(
    {
        "bldr": Entry(
            f"{_HERE}.bldr:build",
            "bidirectional learning with reweighting, 2022",
            BldrRecipe,
            has_tables=True,
        ),
        "cross_entropy": Entry(
            f"{_HERE}.noisy_baselines:cross_entropy", "training on the given labels"
        ),
        "dividemix": Entry(
            f"{_HERE}.noisy_baselines:dividemix", "co-divided training, ICLR 2020", DpcRecipe
        ),
        "dpc": Entry(
            f"{_HERE}.dpc:build", "Dirichlet-based prediction calibration, AAAI 2024", DpcRecipe
        ),
        "knn": Entry(
            f"{_HERE}.noisy_baselines:knn",
            "votes of the nearest features",
            has_tables=True,
            weighted=False,
        ),
        "mean_margin": Entry(
            f"{_HERE}.mean_margin:build",
            "margins averaged over training, NeurIPS 2020",
            has_tables=True,
        ),
        "mixup": Entry(f"{_HERE}.noisy_baselines:mixup", "mixed images and labels, ICLR 2018"),
    }
)
"""`(recipe, problem) -> Method` of the noisy-label task."""

NoisyLabelMethodName = Literal[
    "bldr",
    "cross_entropy",
    "dividemix",
    "dpc",
    "knn",
    "mean_margin",
    "mixup",
]

_DETECTORS = "jaxrobust.selection.neighbor_detectors"

JUDGES = Registry(
    {
        "auto": Entry(
            f"{_HERE}.judged_labels:judge_labels",
            "four judges that do not see the labels they judge",
        ),
        "simifeat": Entry(
            f"{_DETECTORS}:simifeat", "votes of the ten nearest neighbours, ICML 2022"
        ),
        "simifeat_rank": Entry(
            f"{_DETECTORS}:simifeat_rank", "their lowest scores in each class, ICML 2022"
        ),
        "wann": Entry(f"{_DETECTORS}:wann", "how many neighbours find the label, TMLR 2025"),
    }
)
"""What `find_label_issues(features=, method=)` has besides: it trains no network."""

JudgeName = Literal["auto", "simifeat", "simifeat_rank", "wann"]

DISTILLERS = Registry(
    {
        "at": Entry(f"{_HERE}.kd_baselines:at", "attention maps, ICLR 2017"),
        "binary_kl": Entry(f"{_HERE}.dhkd:binary_kl", "DHKD's logit loss alone on one head"),
        "cross_entropy": Entry(f"{_HERE}.kd_baselines:cross_entropy", "the labels alone"),
        "crd": Entry(
            f"{_HERE}.kd_baselines:crd",
            "contrast with memories of embeddings, ICLR 2020",
            has_tables=True,
        ),
        "cross_entropy_binary_kl": Entry(
            f"{_HERE}.dhkd:cross_entropy_binary_kl", "both losses of DHKD on one head"
        ),
        "dhkd": Entry(f"{_HERE}.dhkd:build", "dual-head knowledge distillation, KDD 2025"),
        "dhkd_reviewkd": Entry(f"{_HERE}.kd_baselines:dhkd_reviewkd", "DHKD and ReviewKD together"),
        "dist": Entry(f"{_HERE}.kd_baselines:dist", "correlations with the teacher, NeurIPS 2022"),
        "dkd": Entry(f"{_HERE}.kd_baselines:dkd", "decoupled distillation, CVPR 2022"),
        "fitnet": Entry(f"{_HERE}.kd_baselines:fitnet", "one map through a regressor, ICLR 2015"),
        "kd": Entry(f"{_HERE}.kd_baselines:kd", "softened teacher probabilities, 2015"),
        "logit_mse": Entry(f"{_HERE}.kd_baselines:logit_mse", "squared error of the logits"),
        "pkt": Entry(f"{_HERE}.kd_baselines:pkt", "similarities within the batch, ECCV 2018"),
        "reviewkd": Entry(f"{_HERE}.kd_baselines:reviewkd", "fused feature maps, CVPR 2021"),
        "rkd": Entry(f"{_HERE}.kd_baselines:rkd", "distances and angles of features, CVPR 2019"),
        "rld": Entry(f"{_HERE}.kd_baselines:rld", "refined logits, ICCV 2025"),
        "sp": Entry(f"{_HERE}.kd_baselines:sp", "similarity-preserving distillation, ICCV 2019"),
        "vid": Entry(f"{_HERE}.kd_baselines:vid", "variational information, CVPR 2019"),
        "wttm": Entry(f"{_HERE}.kd_baselines:wttm", "the teacher alone is softened, ICLR 2024"),
    }
)
"""`(recipe, problem) -> Distiller` of the distillation task, for images with one label."""

DistillerName = Literal[
    "at",
    "binary_kl",
    "crd",
    "cross_entropy",
    "cross_entropy_binary_kl",
    "dhkd",
    "dhkd_reviewkd",
    "dist",
    "dkd",
    "fitnet",
    "kd",
    "logit_mse",
    "pkt",
    "reviewkd",
    "rkd",
    "rld",
    "sp",
    "vid",
    "wttm",
]

MULTILABEL_DISTILLERS = Registry(
    {
        "bce": Entry(f"{_HERE}.l2d:bce", "the labels alone"),
        "l2d": Entry(f"{_HERE}.l2d:build", "multi-label knowledge distillation, ICCV 2023"),
        "mld": Entry(f"{_HERE}.l2d:mld", "L2D's logit term alone"),
        "mld_cd": Entry(f"{_HERE}.l2d:mld_cd", "L2D without its instance-aware term"),
        "mld_id": Entry(f"{_HERE}.l2d:mld_id", "L2D without its class-aware term"),
        "mse": Entry(f"{_HERE}.l2d:mse", "squared error of the logits"),
        "pkt": Entry(f"{_HERE}.l2d:pkt", "similarities within the batch, ECCV 2018"),
        "ps": Entry(f"{_HERE}.l2d:ps", "softmax over each positive and all negative classes"),
        "reviewkd": Entry(f"{_HERE}.l2d:reviewkd", "the final feature map, CVPR 2021"),
        "rkd": Entry(f"{_HERE}.l2d:rkd", "distances and angles of features, CVPR 2019"),
    }
)
"""`(recipe, problem) -> Distiller` of the distillation task, for images with several labels."""
