"""Settings that recipes share; a file in `configs/` starts from one of these."""

import os
import pathlib
from collections.abc import Iterable, Mapping

import ml_collections

from jaxrobust.errors import UserError, unknown_name

# Of the wheel, or of a checkout.
_CONFIGS = pathlib.Path(__file__).parent / "configs"
if not _CONFIGS.exists():
    _CONFIGS = _CONFIGS.parents[1] / "configs"

DATASETS = ("cifar10", "cifar100", "tiny_imagenet", "fashion_mnist", "digits", "image_folder")

OPEN_SET = {dataset: (dataset, 0.6) for dataset in DATASETS} | {
    f"{dataset}_openness_{openness}": (dataset, openness)
    for dataset in ("cifar10", "cifar100", "tiny_imagenet")
    for openness in (0.2, 0.4, 0.6, 0.8)
}
"""Variant of an active-learning recipe -> (data set, unknown classes / all classes)."""

# (data set, teacher, student) of every column of L2D's tables.
_MULTILABEL_PAIRS = (
    ("coco", "repvgg_a2", "repvgg_a0"),
    ("coco", "resnet101", "resnet34"),
    ("coco", "wrn101", "wrn50"),
    ("coco", "swin_s", "swin_t"),
    ("coco", "resnet101", "repvgg_a0"),
    ("coco", "swin_t", "resnet34"),
    ("coco", "resnet101", "mobilenet_v2"),
    ("coco", "swin_t", "mobilenet_v2"),
    ("coco", "resnet34", "resnet101"),  # reversed
    ("voc", "repvgg_a2", "repvgg_a0"),
    ("voc", "resnet50", "resnet18"),
    ("voc", "wrn101", "wrn50"),
    ("voc", "swin_s", "swin_t"),
    ("voc", "resnet50", "repvgg_a0"),
    ("voc", "swin_t", "resnet18"),
    ("voc", "resnet50", "mobilenet_v2"),
    ("voc", "swin_t", "mobilenet_v2"),
    ("nus", "resnet101", "resnet34"),
    ("nus", "swin_t", "mobilenet_v2"),
)
_MULTILABEL_SETS = {"coco": "coco2014", "voc": "voc2007", "nus": "nus_wide"}
_IMAGENET_NAMES = {
    **{f"resnet{depth}": f"resnet{depth}_imagenet" for depth in (18, 34, 50, 101)},
    **{f"wrn{depth}": f"wide_resnet{depth}_2" for depth in (50, 101)},
}
MULTILABEL_DISTILLATIONS = {
    **{
        f"{dataset}_{teacher}_{student}": (
            _MULTILABEL_SETS[dataset],
            *(_IMAGENET_NAMES.get(name, name) for name in (teacher, student)),
        )
        for dataset, teacher, student in _MULTILABEL_PAIRS
    },
    "digits": ("digit_canvases", "resnet8", "resnet8"),  # deeper ones learn less in 30 epochs
    "image_folder": ("multilabel_folder", "resnet101_imagenet", "resnet34_imagenet"),
}
"""Variant of a multi-label distillation recipe -> data set, teacher, student."""


# (teacher, student) -> weight of DKD's non-target part, from its authors.
_CIFAR100_PAIRS = {
    ("resnet56", "resnet20"): 2.0,
    ("resnet110", "resnet20"): 2.0,
    ("resnet110", "resnet32"): 2.0,
    ("resnet32x4", "resnet8x4"): 8.0,
    ("wrn_40_2", "wrn_16_2"): 6.0,
    ("wrn_40_2", "wrn_40_1"): 6.0,
    ("vgg13", "vgg8"): 6.0,
    ("vgg13", "mobilenet_v2_half"): 6.0,
    ("resnet50", "mobilenet_v2_half"): 8.0,
    ("resnet50", "vgg8"): 8.0,
    ("resnet32x4", "shuffle_v1"): 8.0,
    ("resnet32x4", "shuffle_v2"): 8.0,
    ("wrn_40_2", "shuffle_v1"): 8.0,
}
DISTILLATIONS = {
    **{
        f"{teacher}_{student}": ("cifar100", teacher, student, beta)
        for (teacher, student), beta in _CIFAR100_PAIRS.items()
    },
    "resnet34_resnet18_imagenet": ("imagenet", "resnet34_imagenet", "resnet18_imagenet", 0.5),
    "resnet50_mobilenet_v1_imagenet": ("imagenet", "resnet50_imagenet", "mobilenet_v1", 2.0),
    "cifar10": ("cifar10", "resnet32x4", "resnet8x4", 8.0),
    "fashion_mnist": ("fashion_mnist", "resnet20", "resnet8", 8.0),
    "digits": ("digits", "resnet14", "resnet8", 8.0),
    "image_folder": ("image_folder", "resnet32x4", "resnet8x4", 8.0),
}
"""Variant of a distillation recipe -> data set, teacher, student, DKD's beta."""


def base(dataset: str) -> ml_collections.ConfigDict:
    """Fields that every run has, for one of `DATASETS`."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.num_seeds = 1  # above 1: that many runs in one process, from `seed` upwards
    config.device = "auto"  # or cpu, gpu, tpu: refuse to start on anything else
    config.deterministic = False  # True: the same bits in every run on a GPU too, but slower
    config.dtype = "auto"  # convolutions in bfloat16, on CPU float32; or float32, bfloat16
    config.batch_norm = "global"  # statistics of the whole batch; or per_device, of each one's part
    # Of metrics, beside metrics.jsonl: tensorboard, wandb; auto: tensorboard if it is installed.
    config.writers = ("auto",)
    config.log_every_seconds = 15.0
    config.num_workers = 0  # processes that read streamed images; 0: threads of this one
    config.checkpoint = ml_collections.ConfigDict({"every_seconds": 120.0, "keep": 2})
    config.dataset = ml_collections.ConfigDict(
        {
            "name": dataset,
            "path": "",  # empty: datasets/ and the customary folders of the machine
            "image_size": 0,  # 0: as it is
            "max_train": 0,  # 0: all; a smaller number takes a class-stratified part
            "max_test": 0,
            "mean": (),  # of each channel on the [0, 1] scale; (): the data set's own
            "std": (),
            # True: images stay in their files and are read while the device trains, for sets of
            # files that are too large for its memory; labels and all else stay on the device.
            "stream": False,
            "on_corrupt": "stop",  # streamed; skip: say which and train on others in their place
        }
    )
    config.augment = ml_collections.ConfigDict(
        {
            "padding": 4,
            "flip": True,
            # Of streamed images, before the padding. crop: center, random, random_resized, or
            # multilabel (squeezed to a square; cutout and RandAugment in training).
            "crop": "center",
            "resize": 0,  # of the shorter side, before a crop; 0: dataset.image_size
            "crop_from": "original",  # where random_resized crops from; or resized
            "area": (0.08, 1.0),  # of random_resized, shares of the image
            "aspect": (0.75, 4 / 3),  # of random_resized, width / height
        }
    )
    config.model = ml_collections.ConfigDict({"name": "resnet18", "pool": "global"})
    return config


def active_learning(name: str) -> ml_collections.ConfigDict:
    """The open-set annotation protocol of LfOSA, BUAL and EAOA, as BUAL runs it; one of `OPEN_SET`.

    Every number is BUAL's (ECCV 2024) for `cifar10`, `cifar100` and `tiny_imagenet`; the others are
    ours. `digits` shrinks network, images and epochs and runs the same code in under a minute.
    """
    dataset, openness = OPEN_SET[name]
    config = base(dataset)
    config.eval_batch_size = 512
    config.num_epochs = 100  # of each network, in every round
    config.batch_size = 128
    config.last_batch = "short"  # remainder of an epoch, as the papers; or even, drop
    config.optimizer = ml_collections.ConfigDict(
        {
            "learning_rate": 0.01,
            "schedule": "constant",  # or step, cosine
            "decay_every": 60,  # for step
            "decay_factor": 0.5,  # for step
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 1e-4,
        }
    )
    config.al = ml_collections.ConfigDict(
        {
            "openness": openness,  # unknown classes / all classes
            "num_known": 0,  # above 0: in place of openness
            "class_order": (),  # permutation of class ids, the first ones are known; (): 0, 1, ..
            "init_fraction": 0.01,  # of the known training images, labelled at the start
            "query_size": 1500,
            "rounds": 8,  # models evaluated: on the initial set, then after each query
            "target_model": "separate",  # or shared: report the query network itself
            "score_transform": "test",  # view in which the pool is scored; train: augmented
        }
    )
    # truth: the data set's labels answer. csv: a person does, see `jaxrobust.tasks.annotator`.
    config.oracle = "truth"
    config.lfosa = ml_collections.ConfigDict({"temperature": 0.5})  # of the detector's softmax
    config.eaoa = ml_collections.ConfigDict(
        {
            "kappa": 5.0,  # candidates per image to choose, adapted to the precision
            "num_neighbors": 250,
            "energy_weight": 0.01,
            "known_margin": -25.0,
            "unknown_margin": -7.0,
        }
    )
    match dataset:
        case "cifar100":
            config.dataset.mean = (0.4914, 0.4822, 0.4465)  # BUAL's code: CIFAR-10's constants
            config.dataset.std = (0.2023, 0.1994, 0.2010)
            config.al.init_fraction = 0.08
        case "tiny_imagenet":
            config.al.init_fraction = 0.08
            config.al.query_size = 3000
        case "fashion_mnist":
            config.augment.padding = 2
        case "digits":
            config.model.name = "resnet8_small"
            config.augment.padding = 1
            config.augment.flip = False
            config.num_epochs = 60
            config.batch_size = 32
            config.last_batch = "even"  # BatchNorm on a row of one 8x8 image ruins the network
            config.optimizer.learning_rate = 0.05
            config.optimizer.schedule = "cosine"
            config.al.init_fraction = 0.02
            config.al.query_size = 30
            config.al.rounds = 6
        case "image_folder":
            config.dataset.image_size = 32
    return config


def noisy_labels(dataset: str) -> ml_collections.ConfigDict:
    """Training on labels of which some are wrong, as DPC runs it.

    Every number is DPC's (AAAI 2024) for `cifar10` and `cifar100`; the others are ours. `digits`
    shrinks network, images and epochs and runs the same code in about a minute.
    """
    config = base(dataset)
    config.eval_batch_size = 512
    config.num_epochs = 301  # the code's loop runs over 0..300
    config.batch_size = 64  # of a divided batch; passes over all labels take twice as many
    config.last_batch = "short"  # remainder of a pass over all labels; or even, drop
    config.optimizer = ml_collections.ConfigDict(
        {
            "learning_rate": 0.02,
            "schedule": "milestones",  # or constant, step, cosine
            "decay_epochs": (150,),  # for milestones
            "decay_every": 150,  # for step
            "decay_factor": 0.1,  # for milestones and step
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 5e-4,
        }
    )
    config.augment.policy = "cifar10"  # of strong views; or imagenet, none
    config.augment.cutout = 16  # side of the square cut out of strong views; 0: none
    config.noise = ml_collections.ConfigDict(
        {
            # symmetric (true class among those drawn), uniform (never the true class), asymmetric
            # (CIFAR), pairflip, transition (a matrix in a file), human (CIFAR-N), none
            "kind": "symmetric",
            "rate": 0.4,
            "seed": -1,  # -1: the run's; the authors' code has 123 for every run
            "path": "",  # of the matrix, or of CIFAR-N's label file
            "label_set": "worst",  # for human: aggre, worst, rand1, rand2, rand3; noisy100
            "groups": "blocks",  # for asymmetric CIFAR-100; or superclasses
        }
    )
    # Of cross_entropy and mixup: labels with a clean probability above the threshold are kept.
    config.baseline = ml_collections.ConfigDict({"mixup_alpha": 1.0, "threshold": 0.5})
    match dataset:
        case "fashion_mnist":
            config.augment.padding = 2
        case "digits":
            config.model.name = "preact_resnet8_small"
            config.augment.padding = 1
            config.augment.flip = False
            config.augment.cutout = 4
            config.num_epochs = 40
            config.batch_size = 32
            config.last_batch = "even"
            config.optimizer.decay_epochs = (30,)
        case "image_folder":
            config.dataset.image_size = 32
            config.noise.kind = "none"
    return config


def locate(recipe: str) -> str:
    """Path of a recipe that is named on the command line, its `:VARIANT` kept.

    `configs/dcfs.py` and `dcfs` both mean the recipe of that name in this folder or, from anywhere
    else, the one that is installed with jaxrobust. What is none of these is returned as it is.
    """
    path, colon, argument = recipe.partition(":")
    if path and not os.path.exists(path):
        name = pathlib.Path(path).with_suffix(".py").name
        if path in (name, f"configs/{name}", name[:-3]) and (_CONFIGS / name).exists():
            return f"{_CONFIGS / name}{colon}{argument}"
    return recipe


def no_recipe(path: str) -> str:
    """What to say of a path at which `locate` found nothing."""
    names = ", ".join(sorted(file.stem for file in _CONFIGS.glob("*.py")))
    return f"--config={path} does not exist; give a file or one of {names}."


def distillation(variant: str | None) -> ml_collections.ConfigDict:
    """A student that a teacher teaches, for one of `DISTILLATIONS`; resnet32x4_resnet8x4 for None.

    On CIFAR-100 and ImageNet every number that belongs to no method is DHKD's (KDD 2025), shared by
    the benchmark that its baselines come from; elsewhere they are ours. `digits` shrinks networks,
    images and epochs and runs the same code in under a minute.

    Raises:
      UserError: if there is no such variant.
    """
    name = variant or "resnet32x4_resnet8x4"
    if name not in DISTILLATIONS:
        raise UserError(unknown_name("config variant", name, DISTILLATIONS))
    dataset, teacher, student, beta = DISTILLATIONS[name]
    config = base(dataset)
    del config.model
    config.student = ml_collections.ConfigDict({"name": student})
    config.teacher = ml_collections.ConfigDict(
        {
            # Folder of a trained one: `teacher` or `student` of another run, or what
            # `jaxrobust.models.convert` wrote. Empty: train one first, by this same recipe.
            "path": "",
            "name": teacher,  # not read with a path
            "num_epochs": 240,  # not read with a path
            # step: a forward pass in every step. table: one of every view of every image before the
            # first step, looked up from then on, in table_dtype (or float16).
            "logits": "step",
            "table_dtype": "float32",
        }
    )
    config.eval_batch_size = 512
    config.num_epochs = 240
    config.batch_size = 64
    config.last_batch = "short"  # remainder of an epoch; or even, drop
    config.distill_until_epoch = 0  # the last one with distillation, counted from 1; 0: all
    config.num_diagnosed = 512  # training images on which gradients are compared every epoch
    config.optimizer = ml_collections.ConfigDict(
        {
            "learning_rate": 0.05,
            "mobile_learning_rate": 0.01,  # for the networks of `models.MOBILE_BACKBONES`
            "schedule": "milestones",  # or constant, step, cosine
            "decay_epochs": (150, 180, 210),  # full epochs before each decay, for milestones
            "decay_every": 150,  # for step
            "decay_factor": 0.1,  # for milestones and step
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 5e-4,
            "clip_norm": 0.0,  # of the merged gradient; 0: none
        }
    )
    config.export = ml_collections.ConfigDict({"program": False})  # write student/program.bin
    # DHKD's own. At `temperature` 0 a loss has its own: 2, for soft_target_kl 4; so a temperature
    # set for one method never reaches another.
    config.distill = ml_collections.ConfigDict(
        {
            "loss": "binary_kl_norm",  # or binary_kl, soft_target_kl, logit_mse
            "head": "auxiliary",  # or primary: one head for both losses
            "auxiliary": "auto",  # linear within a family of networks, else mlp
            "gamma": 1.0,  # of cross-entropy
            "alpha": 1.0,  # of the distillation loss; the paper's value per pair is not known
            "temperature": 0.0,
            "gradients": "align",  # or sum; pcgrad: project both
            "scope": "all",  # or backbone: align its gradients alone
        }
    )
    config.kd = ml_collections.ConfigDict({"ce_weight": 0.1, "weight": 0.9, "temperature": 4.0})
    config.dkd = ml_collections.ConfigDict(
        {"alpha": 1.0, "beta": beta, "temperature": 4.0, "warm_up": 20}
    )
    config.dist = ml_collections.ConfigDict({"beta": 1.0, "gamma": 1.0, "temperature": 1.0})
    config.rkd = ml_collections.ConfigDict({"distance_weight": 25.0, "angle_weight": 50.0})
    config.pkt = ml_collections.ConfigDict({"weight": 30_000.0})
    config.at = ml_collections.ConfigDict({"weight": 1000.0})
    config.reviewkd = ml_collections.ConfigDict({"weight": 1.0, "warm_up": 20})
    config.logit_mse = ml_collections.ConfigDict({"weight": 1.0})
    match dataset:
        case "fashion_mnist":
            config.augment.padding = 2
        case "digits":
            config.augment.padding = 1
            config.augment.flip = False
            config.teacher.num_epochs = 30
            config.num_epochs = 30
            config.batch_size = 32
            config.last_batch = "even"
            config.optimizer.decay_epochs = (19, 23, 26)
            config.dkd.warm_up = 3
            config.reviewkd.warm_up = 3
        case "image_folder":
            config.dataset.image_size = 32
        case "imagenet":
            config.dataset.stream = True
            config.dataset.image_size = 224
            config.dataset.mean = (0.485, 0.456, 0.406)
            config.dataset.std = (0.229, 0.224, 0.225)
            config.num_workers = 16
            config.augment.update(
                {
                    "padding": 0,
                    "crop": "random_resized",
                    "resize": 256,
                    "area": (0.1, 1.0),
                    "aspect": (0.8, 1.25),
                }
            )
            config.num_epochs = config.teacher.num_epochs = 100
            config.batch_size = 256  # two GPUs with 128 each
            config.num_diagnosed = 64  # at once, so they take memory
            config.distill_until_epoch = 49
            config.optimizer.learning_rate = 0.1
            config.optimizer.mobile_learning_rate = 0.1
            config.optimizer.decay_epochs = (30, 60, 90)
            config.optimizer.weight_decay = 1e-4
            config.distill.alpha = 0.1
            config.distill.auxiliary = "linear"
            config.distill.gradients = "sum"
            config.kd.update({"ce_weight": 0.5, "weight": 0.5, "temperature": 1.0})
            config.dkd.update({"temperature": 1.0, "warm_up": 1})
    return config


def multilabel_distillation(variant: str | None) -> ml_collections.ConfigDict:
    """A student of images with several labels, for one of `MULTILABEL_DISTILLATIONS`.

    Every number is L2D's (ICCV 2023), the same for all its data sets and pairs; those of `digits`,
    which shrinks networks, images and epochs and runs the same code in about a minute, are ours.

    Raises:
      UserError: if there is no such variant.
    """
    name = variant or "coco_resnet101_resnet34"
    if name not in MULTILABEL_DISTILLATIONS:
        raise UserError(unknown_name("config variant", name, MULTILABEL_DISTILLATIONS))
    dataset, teacher, student = MULTILABEL_DISTILLATIONS[name]
    config = base(dataset)
    del config.model
    config.dataset.image_size = 224
    config.dataset.stream = True
    config.num_workers = 16
    config.augment.crop = "multilabel"
    # Folder of a classifier of the same name whose backbone to start from, such as what
    # `jaxrobust.models.convert` made of ImageNet weights; empty: random.
    config.student = ml_collections.ConfigDict({"name": student, "backbone": ""})
    config.teacher = ml_collections.ConfigDict(
        {
            "path": "",  # folder of a trained one; empty: train one first, by this same recipe
            "name": teacher,  # not read with a path
            "backbone": "",  # not read with a path
            "num_epochs": 30,  # of the cycle, at whose 30th epoch the rate is still high
        }
    )
    config.decoder = ml_collections.ConfigDict(
        {"width": 768, "hidden": 2048, "num_heads": 8, "dropout": 0.1}
    )
    config.eval_batch_size = 128
    config.num_epochs = 80
    config.batch_size = 64  # cross-entropy is a sum over it, the other terms are not
    config.last_batch = "drop"  # remainder of an epoch; or even, short
    config.distill_until_epoch = 0  # the last one with distillation, counted from 1; 0: all
    config.augment.padding = 0
    config.augment.flip = False  # the paper flips, its code does not
    config.optimizer = ml_collections.ConfigDict(
        {
            "name": "one_cycle_adam",
            "learning_rate": 1e-4,  # the highest
            "schedule": "constant",  # the cycle is the optimizer's
            "cycle_epochs": 80,  # of the teacher's cycle too
            "pct_start": 0.2,
            "div_factor": 25.0,
            "final_div_factor": 1e4,
            "weight_decay": 1e-4,
        }
    )
    config.export = ml_collections.ConfigDict({"program": False})  # write student/program.bin
    config.labels = ml_collections.ConfigDict(
        {
            "loss": "bce",  # or asymmetric
            "reduction": "sum",  # over the batch, as the code; batchmean: as the paper
        }
    )
    config.asymmetric = ml_collections.ConfigDict(
        {"gamma_neg": 4.0, "gamma_pos": 1.0, "margin": 0.05}
    )
    config.l2d = ml_collections.ConfigDict(
        {
            "lambda_mld": 10.0,
            "lambda_cd": 100.0,
            "lambda_id": 1000.0,
            "normalize": True,  # distances by their mean, as the code; False: as the paper
        }
    )
    config.mse = ml_collections.ConfigDict({"weight": 1.0})
    config.ps = ml_collections.ConfigDict({"weight": 1.0})
    config.rkd = ml_collections.ConfigDict({"distance_weight": 10.0, "angle_weight": 10.0})
    config.pkt = ml_collections.ConfigDict({"weight": 1.0})
    config.reviewkd = ml_collections.ConfigDict({"weight": 1.0, "width": 256})
    if dataset == "digit_canvases":
        config.dataset.image_size = 0
        config.dataset.stream = False
        config.num_workers = 0
        config.decoder.update({"width": 32, "hidden": 64, "num_heads": 4})
        config.eval_batch_size = 250
        config.batch_size = 50
        config.num_epochs = config.teacher.num_epochs = config.optimizer.cycle_epochs = 30
        config.augment.padding = 2
        config.optimizer.learning_rate = 5e-3
        # With 10 classes and narrow embeddings groups are larger, and distances differ more, than
        # on photographs: these make every term a tenth to a half of cross-entropy at the start.
        config.l2d.update({"lambda_mld": 100.0, "lambda_cd": 1.0, "lambda_id": 100.0})
        config.mse.weight = config.ps.weight = 100.0
    return config


def variant(argument: str | None, *, default: str, choices: Iterable[str] = DATASETS) -> str:
    """The variant that `--config=FILE:ARGUMENT` names.

    Raises:
      UserError: if it is not one of `choices`.
    """
    name = argument or default
    if name not in choices:
        raise UserError(unknown_name("config variant", name, choices))
    return name


def check_choices(config: ml_collections.ConfigDict, choices: Mapping[str, Iterable[str]]) -> None:
    """Refuses a field whose value is not one of its choices, naming the nearest.

    Args:
      config: a recipe.
      choices: field, dotted where it is in a section -> its valid values.

    Raises:
      UserError: for the first field that has another value.
    """
    for field, valid in choices.items():
        if (value := _value(config, field)) not in valid:
            raise UserError(unknown_name(field, value, valid))


def check_section(config: ml_collections.ConfigDict, name: str, path: str) -> None:
    """Refuses a recipe without the section that its method reads, naming one that has it.

    Raises:
      UserError: if the section is missing.
    """
    if name not in config:
        raise UserError(
            f"method={config.method!r} reads the section {name!r}, which this recipe lacks; start "
            f"from {path}."
        )


def _value(config: ml_collections.ConfigDict, field: str):
    for name in field.split("."):
        config = config[name]
    return config
