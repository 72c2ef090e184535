"""Every baseline's values on every data set of its authors, each with its source.

Sources: mdistiller is megvii-research/mdistiller at a08d46f, RepDistiller
HobbitLong/RepDistiller at b84f547, ReviewKD dvlab-research/ReviewKD at cede6ea, RLD
zju-SWJ/RLD at d54578f, SOP shengliu66/SOP at 4d991ce, TypiClust avihu111/TypiClust at 4097a71.
"""

import dataclasses

import pytest

from configs import active_learning_baselines, bldr, kd_baselines
from jaxrobust.recipes import baselines
from jaxrobust.recipes.baselines import Baseline
from jaxrobust.recipes.dhkd import DISTILLATIONS

R34, R50 = "resnet34_resnet18_imagenet", "resnet50_mobilenet_v1_imagenet"
CIFAR = tuple(name for name, setting in DISTILLATIONS.items() if setting[0] == "cifar100")
MDISTILLER = "mdistiller, engine/cfg.py and configs/imagenet"
REPDISTILLER = "RepDistiller, README and train_student.py; mdistiller, engine/cfg.py"
REVIEW = "ReviewKD, CIFAR-100/script/reviewKD.sh and ImageNet/README.md"
OURS = "ours"

# section.field -> (source, value on CIFAR-100, {variant: value where it is another})
DISTILLATION = {
    "kd.ce_weight": (MDISTILLER, 0.1, {R34: 0.5, R50: 0.5}),
    "kd.weight": (MDISTILLER, 0.9, {R34: 0.5, R50: 0.5}),
    "kd.temperature": (MDISTILLER, 4.0, {R34: 1.0, R50: 1.0}),
    "kd.standardize": (OURS, False, {}),
    "dkd.alpha": (MDISTILLER, 1.0, {}),
    "dkd.beta": (
        "mdistiller, configs; resnet110_resnet20, which it lacks, as resnet110_resnet32",
        8.0,
        {
            "resnet56_resnet20": 2.0,
            "resnet110_resnet20": 2.0,
            "resnet110_resnet32": 2.0,
            "wrn_40_2_wrn_16_2": 6.0,
            "wrn_40_2_wrn_40_1": 6.0,
            "vgg13_vgg8": 6.0,
            "vgg13_mobilenet_v2_half": 6.0,
            R34: 0.5,
            R50: 2.0,
        },
    ),
    "dkd.temperature": (MDISTILLER, 4.0, {R34: 1.0, R50: 1.0}),
    "dkd.warm_up": (MDISTILLER, 20, {R34: 1, R50: 1}),
    "dkd.standardize": (OURS, False, {}),
    "wttm.weight": ("zkxufo/TTM, README; with CRD", 4.0, {}),
    "wttm.power": ("zkxufo/TTM, README; with CRD", 0.2, {}),
    "wttm.weighted": ("WTTM", True, {}),
    "rld.alpha": ("RLD, engine/cfg.py", 1.0, {}),
    "rld.beta": ("RLD, engine/cfg.py and configs/imagenet", 8.0, {R34: 0.5, R50: 2.0}),
    "rld.temperature": ("RLD, engine/cfg.py and configs/imagenet", 4.0, {R34: 1.0, R50: 1.0}),
    "rld.confidence_temperature": ("RLD, engine/cfg.py", 1.0, {}),
    "rld.warm_up": ("RLD, engine/cfg.py and configs/imagenet", 20, {R34: 1, R50: 1}),
    "fitnet.weight": (REPDISTILLER, 100.0, {}),
    "fitnet.hint_stage": (REPDISTILLER, 2, {}),
    "sp.weight": (REPDISTILLER, 3000.0, {}),
    "vid.weight": (REPDISTILLER, 1.0, {}),
    "vid.variance": (REPDISTILLER, 5.0, {}),
    "crd.weight": (REPDISTILLER, 0.8, {}),
    "crd.width": (REPDISTILLER, 128, {}),
    "crd.num_negatives": (REPDISTILLER, 16384, {}),
    "crd.momentum": (REPDISTILLER, 0.5, {}),
    "crd.temperature": (REPDISTILLER, 0.07, {}),
    "dist.beta": ("DIST's code, weight x beta = 2", 1.0, {}),
    "dist.gamma": ("DIST's code, weight x gamma = 2", 1.0, {}),
    "dist.temperature": ("DIST, section 4", 4.0, {R34: 1.0, R50: 1.0}),
    "dist.weight": ("DIST's code", 2.0, {}),
    "rkd.distance_weight": (MDISTILLER, 25.0, {}),
    "rkd.angle_weight": (MDISTILLER, 50.0, {}),
    "pkt.weight": (REPDISTILLER, 30_000.0, {}),
    "at.weight": (REPDISTILLER, 1000.0, {}),
    "reviewkd.weight": (
        REVIEW,
        5.0,
        {
            "resnet56_resnet20": 0.6,
            "resnet110_resnet32": 1.0,
            "resnet32x4_shuffle_v2": 8.0,
            R34: 1.0,
            R50: 8.0,
        },
    ),
    "reviewkd.warm_up": ("ReviewKD, train.py; none on ImageNet", 20, {R34: 0, R50: 0}),
    "reviewkd.student_maps": (
        "ReviewKD; mdistiller, configs/imagenet",
        "activation",
        {R34: "preactivation", R50: "preactivation"},
    ),
    "reviewkd.width": (
        "ReviewKD, models/reviewkd.py; 0: the student's, at most 512",
        0,
        {R50: 256},
    ),
    "logit_mse.weight": (OURS, 1.0, {}),
}

# section.field -> (source, value on CIFAR, value on features or None where it is the same)
ANNOTATION = {
    "uncertainty.unknown_class": ("BUAL and EAOA; on features ours", False, True),
    "lfosa.temperature": ("LfOSA, README, known_T and unknown_T", 0.5, None),
    "eaoa.kappa": ("EAOA, section 4; on features the same 15 % of the pool", 5.0, 15.0),
    "eaoa.kappa_step": ("EAOA, section 4; on features in the same ratio", 1.0, 3.0),
    "eaoa.num_neighbors": ("EAOA, section 4; on features the same 0.5 % of the images", 250, 50),
    "eaoa.energy_weight": ("EAOA, section 4", 0.01, None),
    "eaoa.known_margin": ("EAOA, section 4", -25.0, None),
    "eaoa.unknown_margin": ("EAOA, section 4", -7.0, None),
    "typiclust.num_components": (OURS, 128, None),
    "typiclust.num_neighbors": ("TypiClust, typiclust.py", 20, None),
    "typiclust.max_clusters": ("TypiClust, typiclust.py", 500, None),
    "typiclust.min_cluster_size": ("TypiClust, typiclust.py", 6, None),
    "typiclust.unit_length": ("TypiClust, datasets/utils/features.py", True, None),
    "typiclust.squared": ("TypiClust, IndexFlatL2", True, None),
    "probcover.num_components": (OURS, 128, None),
    "probcover.radius": ("by purity", 0.0, None),
    "probcover.purity": ("ProbCover, section 3.3", 0.95, None),
    "probcover.num_covered": (OURS, 2500, None),
    "dropquery.num_components": (OURS, 128, None),
    "dropquery.num_masks": ("DropQuery, section 3", 3, None),
    "dropquery.rate": ("DropQuery, section 3", 0.75, None),
}

# setting -> (batch, weight decay, rate of u, rate of v), SOP's config_cifar100.json and README.
SOP_PLUS = {
    "cifar100_sym50": (128, 1e-3, 1.0, 10.0),
    "cifar100n": (128, 1e-3, 1.0, 10.0),
    "cifar100_pair40": (128, 1e-3, 0.1, 100.0),
    "cifar10_sym50": (256, 5e-4, 10.0, 10.0),  # BLDR's: SOP has no recipe for CIFAR-10
}


def value(config, name):
    return config.to_dict()[name.split(".")[0]][name.split(".")[1]]


def test_every_option_of_a_baseline_has_a_source():
    classes = [
        x
        for x in vars(baselines).values()
        if dataclasses.is_dataclass(x) and hasattr(x, "section") and x is not Baseline
    ]
    names = {f"{x.section}.{field.name}" for x in classes for field in dataclasses.fields(x)}
    assert names == DISTILLATION.keys() | ANNOTATION.keys()


@pytest.mark.parametrize("variant", [*CIFAR, R34, R50])
def test_distillation(variant):
    config = kd_baselines.get_config(variant)
    found = {name: value(config, name) for name in DISTILLATION}
    expected = {
        name: changes.get(variant, default) for name, (_, default, changes) in DISTILLATION.items()
    }
    assert found == expected


def test_annotation():
    images = active_learning_baselines.get_config("cifar10")
    features = active_learning_baselines.get_config("features")
    for name, (_, default, on_features) in ANNOTATION.items():
        assert value(images, name) == default, name
        assert value(features, name) == (default if on_features is None else on_features), name


@pytest.mark.parametrize("setting", SOP_PLUS)
def test_sop_plus(setting):
    config = bldr.get_config(f"{setting}_sop_plus")
    rates = config.bldr.learning_rate_u, config.bldr.learning_rate_v
    assert (config.batch_size, config.optimizer.weight_decay, *rates) == SOP_PLUS[setting]
    assert config.bldr.tables_batch_size == config.batch_size  # rates are not rescaled
