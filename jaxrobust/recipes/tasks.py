"""Options of the three tasks, and of the sections that they share.

`ActiveLearning`, `NoisyLabels`, `Distillation` and `MultilabelDistillation` are whole recipes, to
which `jaxrobust.recipes` add the sections of a method as further fields.
"""

import dataclasses

import ml_collections

from jaxrobust.errors import UserError, unknown_name
from jaxrobust.recipes import fields as options
from jaxrobust.recipes import methods
from jaxrobust.recipes.augment_options import Augment, StrongAugment
from jaxrobust.recipes.baselines_options import Dropquery, Eaoa, Lfosa, Probcover, Typiclust
from jaxrobust.recipes.dhkd_options import Distill
from jaxrobust.recipes.fields import Names, Options, option
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
from jaxrobust.recipes.label_noise_options import Noise
from jaxrobust.recipes.model_options import ExitsModel, Model
from jaxrobust.recipes.noisy_baselines_options import Baseline
from jaxrobust.recipes.optim_options import MilestoneSgd, OneCycleAdam, Sgd, StudentSgd, WarmUpSgd
from jaxrobust.recipes.registry import Registry

BACKBONES = Names("jaxrobust.models:BACKBONES")
_METHODS = "jaxrobust.recipes.methods"
_TASK_NAMES = Names(f"{_METHODS}:TASKS")
_ALL_DISTILLERS = Names(f"{_METHODS}:DISTILLERS", f"{_METHODS}:MULTILABEL_DISTILLERS")

# Shared sections.


@dataclasses.dataclass(frozen=True)
class Checkpoint(Options, section="checkpoint"):
    """When a run is saved."""

    every_seconds: float = option(120.0, "[0, inf]", "between two saves; inf: at the end alone")
    keep: int = option(2, "[1, inf)", "checkpoints kept")


@dataclasses.dataclass(frozen=True)
class Dataset(Options, section="dataset"):
    """The images, or features in their place."""

    name: str = option("cifar10", str, "of a data set that `jaxrobust.data` reads")
    path: str = option(
        "",
        str,
        "empty: datasets/ and the customary folders of the machine; for name=features: the folder "
        "of the images, if a person is to see them",
    )
    features: str = option(
        "",
        str,
        "for name=features: .npz file of `jaxrobust.embed`, or .npy or .npz of embeddings; auto: "
        "embed the images of path first",
    )
    labels: str = option(
        "", str, "of these features: .npy or .csv file; empty: those in the .npz file"
    )
    corrections: str = option(
        "",
        str,
        "of noisy labels: tables that say which labels are right, such as label_review.html saves, "
        "separated by commas; later ones count",
    )
    test_fraction: float = option(
        0.2, "(0, 1)", "of each class, held out where a file of features names no test part"
    )
    test2: str = option(
        "",
        str,
        "of noisy labels: folder of class folders, a second test set; WebVision: ImageNet's val",
    )
    image_size: int = option(0, "[0, inf)", "0: as it is")
    max_train: int = option(0, "[0, inf)", "0: all; a smaller number takes a class-stratified part")
    max_test: int = option(0, "[0, inf)", "0: all; likewise")
    mean: tuple[float, ...] = option(
        (), "[0, 1]", "of each channel on the [0, 1] scale; (): the data set's own", lengths=(0, 3)
    )
    std: tuple[float, ...] = option((), "(0, inf)", "likewise", lengths=(0, 3))
    stream: bool = option(
        False,
        bool,
        "True: images stay in their files and are read while the device trains, for sets that are "
        "too large for its memory; labels and all else stay on the device",
    )
    on_corrupt: str = option(
        "stop",
        Names("jaxrobust.data.streaming:ON_CORRUPT"),
        "streamed; skip: say which and train on others in their place",
    )


@dataclasses.dataclass(frozen=True)
class Run(Options):
    """Fields that every recipe has."""

    seed: int = option(0, "[0, 4294967295]", "of every random draw")
    num_seeds: int = option(
        1, "[1, inf)", "above 1: that many runs in one process, from `seed` upwards"
    )
    device: str = option(
        "auto", ("auto", "cpu", "gpu", "tpu"), "refuse to start on anything but this"
    )
    device_count: int = option(
        0,
        "[0, inf)",
        "devices that share a batch; 0: all, and a CPU is split into as many as its cores where a "
        "step is large enough",
    )
    deterministic: bool = option(
        False, bool, "True: the same bits in every run on a GPU too, but slower"
    )
    dtype: str = option(
        "auto",
        ("auto", "float32", "bfloat16"),
        "of convolutions; auto: bfloat16, on CPU float32",
    )
    batch_norm: str = option(
        "global",
        ("global", "per_device"),
        "statistics of the whole batch, or of each device's part of it",
    )
    writers: tuple[str, ...] = option(
        ("auto",),
        str,
        "of metrics, beside metrics.jsonl: tensorboard, wandb; auto: tensorboard if installed",
    )
    log_every_seconds: float = option(15.0, "[0, inf]", "between two lines without a terminal")
    num_workers: int = option(
        0, "[0, inf)", "processes that read streamed images; 0: threads of this one"
    )
    eval_batch_size: int = option(512, "[1, inf)", "images per step without training")
    num_epochs: int = option(100, "[1, inf)", "of each training")
    batch_size: int = option(128, "[1, inf)", "examples per training step")
    last_batch: str = option(
        "short", Names("jaxrobust.engine.plan:LAST_BATCHES"), "the remainder of an epoch"
    )
    checkpoint: Checkpoint = Checkpoint()
    dataset: Dataset = Dataset()


# Active learning.


@dataclasses.dataclass(frozen=True)
class Al(Options, section="al"):
    """The open-set annotation protocol of LfOSA, BUAL and EAOA, with BUAL's numbers on CIFAR-10."""

    openness: float = option(0.6, "[0, 1)", "unknown classes / all classes")
    num_known: int = option(0, "[0, inf)", "above 0: known classes, in place of openness")
    class_order: tuple[int, ...] = option(
        (), "[0, inf)", "permutation of class ids, the first ones are known; (): 0, 1, .."
    )
    shuffle_classes: bool = option(
        False, bool, "True: the seed draws class_order, so that several seeds see several of them"
    )
    init_fraction: float = option(
        0.01, "(0, 1]", "of the known training images, labelled at the start"
    )
    query_size: int = option(1500, "[1, inf)", "images to annotate after a round")
    rounds: int = option(
        8, "[1, inf)", "models evaluated: on the initial set, then after each query"
    )
    query_last: bool = option(
        False, bool, "True: query after the last round too, as BUAL's mean precision has it"
    )
    finish: bool = option(
        False,
        bool,
        "of oracle=csv: train once more on what is annotated, and end; without it, go on",
    )
    new_classes: str = option(
        "",
        str,
        "of oracle=csv: names in the tables that no folder has and that are classes all the same, "
        "separated by commas",
    )
    links: bool = option(
        False, bool, "of oracle=csv: leave by_class/, links to all images by their class"
    )
    target_model: str = option(
        "separate", ("separate", "shared"), "shared: report DCFS's query network itself"
    )
    score_transform: str = option(
        "train",
        ("test", "train"),
        "view in which the pool is scored, of every strategy; train: augmented, as BUAL's code",
    )

    def check_combinations(self) -> None:
        if self.shuffle_classes and self.class_order:
            raise UserError(
                "al.shuffle_classes=True draws the order that al.class_order="
                f"{tuple(self.class_order)} gives; set one of the two."
            )


@dataclasses.dataclass(frozen=True)
class ActiveLearning(Run):
    """A recipe of the active-learning task."""

    task: str = option("active_learning", _TASK_NAMES, "the outer loop")
    method: str = option("random", Names(f"{_METHODS}:STRATEGIES"), "chooses the images")
    oracle: str = option(
        "truth",
        ("truth", "csv"),
        "the data set's labels answer; csv: a person does, see `jaxrobust.tasks.annotator`",
    )
    augment: Augment = Augment()
    model: Model = Model()
    optimizer: Sgd = Sgd()
    al: Al = Al()
    lfosa: Lfosa = Lfosa()
    eaoa: Eaoa = Eaoa()
    typiclust: Typiclust = Typiclust()
    probcover: Probcover = Probcover()
    dropquery: Dropquery = Dropquery()


# Noisy labels.


@dataclasses.dataclass(frozen=True)
class NoisyLabels(Run):
    """A recipe of the noisy-label task, with DPC's numbers for training; rivals have their own."""

    task: str = option("noisy_labels", _TASK_NAMES, "the outer loop")
    method: str = option(
        "cross_entropy",
        Names(f"{_METHODS}:NOISY_LABEL_METHODS"),
        "learns from the labels",
    )
    flag_by: str = option(
        "method",
        ("method", "count"),
        "which labels are called wrong: those that the method says; count: as many of its lowest "
        "scores as the confident joint counts",
    )
    num_epochs: int = option(301, "[1, inf)", "DPC's code loops over 0..300")
    batch_size: int = option(
        64, "[1, inf)", "of a divided batch; passes over all labels take twice as many"
    )
    augment: StrongAugment = StrongAugment()
    model: Model = Model()
    optimizer: MilestoneSgd = MilestoneSgd(
        learning_rate=0.02,
        schedule="milestones",
        decay_every=150,
        decay_factor=0.1,
        weight_decay=5e-4,
    )
    noise: Noise = Noise()
    baseline: Baseline = Baseline()


# Distillation.


@dataclasses.dataclass(frozen=True)
class Student(Options, section="student"):
    """The student."""

    name: str = option("resnet8x4", BACKBONES, "of a backbone in `jaxrobust.models`")
    backbone: str = option(
        "",
        str,
        "classifier of the same name whose backbone to start from: `efficientnet_lite0` (ImageNet "
        "weights of jaxrobust[pretrained]), `hf:REPO`, or a folder that `jaxrobust.models.convert` "
        "or a run wrote; empty: random",
    )


@dataclasses.dataclass(frozen=True)
class Teacher(Options, section="teacher"):
    """The teacher."""

    path: str = option(
        "",
        str,
        "folder of a trained one: `teacher` or `student` of another run, or what "
        "`jaxrobust.models.convert` wrote; empty: train one first, by this same recipe",
    )
    logits_file: tuple[str, ...] = option(
        (),
        str,
        ".npz files of what teachers say in place of a network, averaged: see "
        "`jaxrobust.tasks.teachers.read_logits`",
    )
    name: str = option("resnet32x4", BACKBONES, "of one that is trained from its initialisation")
    backbone: str = option(
        "",
        str,
        "pretrained network to start from, as student.backbone, in place of name; not read with a "
        "path",
    )
    train: str = option(
        "head",
        ("head", "all"),
        "with a backbone; head: a linear head on its frozen features, minutes on a CPU; all: every "
        "parameter, num_epochs long",
    )
    image_size: int = option(
        0,
        "[0, inf)",
        "side of the images that the teacher sees, if they are not the student's: it is asked once "
        "about each image and its mirror image, and a crop is taught what its image is; 0: the "
        "student's images; with a head, what the backbone was trained on, or 128",
    )
    learning_rate: float = option(
        0.01, "[0, inf)", "of the first epoch, in place of optimizer.learning_rate; with a backbone"
    )
    num_epochs: int = option(240, "[1, inf)", "not read with a path, logits or a head")
    logits: str = option(
        "step",
        ("step", "table"),
        "a forward pass in every step; table: one of every view of every image before the first "
        "step, looked up from then on",
    )
    table_dtype: str = option("float32", ("float32", "float16"), "of the table")


@dataclasses.dataclass(frozen=True)
class Export(Options, section="export"):
    """What is written beside `student/`."""

    onnx: bool = option(
        False, bool, "write student/student.onnx, which onnxruntime has computed the same with"
    )
    int8: bool = option(
        False, bool, "write student/student.int8.onnx, by onnxruntime's dynamic quantisation"
    )
    onnx_input: str = option(
        "pixels",
        ("pixels", "normalized"),
        "what ONNX files take: uint8, normalised inside, or float32 that is normalised already",
    )
    onnx_output: str = option(
        "logits",
        ("logits", "probabilities"),
        "what ONNX files give; probabilities: by softmax, of several labels by sigmoid",
    )
    program: bool = option(
        False,
        bool,
        "write student/program.bin, which JAX promises to read for six months, an ONNX file lasts",
    )


@dataclasses.dataclass(frozen=True)
class Distillation(Run):
    """A recipe of the distillation task, with the CIFAR-100 benchmark's numbers."""

    task: str = option("distillation", _TASK_NAMES, "the outer loop")
    method: str = option(
        "cross_entropy",
        Names(
            "jaxrobust.recipes.methods:DISTILLERS",
            "jaxrobust.recipes.methods:MULTILABEL_DISTILLERS",
        ),
        "how the student learns from the teacher",
    )
    num_epochs: int = option(240, "[1, inf)", "of the student")
    batch_size: int = option(64, "[1, inf)", "images per training step")
    distill_until_epoch: int = option(
        0,
        "[0, inf)",
        "the last one with distillation, whatever the method, counted from 1; 0: as the method has "
        "it, DHKD by distill.until_epoch",
    )
    num_diagnosed: int = option(
        512, "[1, inf)", "training images on which gradients are compared every epoch"
    )
    label_smoothing: float = option(0.0, "[0, 1)", "share of each label spread over all classes")
    mixup: float = option(
        0.0, "[0, inf)", "a of the Beta(a, a) that the shares of mixed images come from; 0: none"
    )
    class_weights: str = option(
        "none",
        ("none", "balanced"),
        "of cross-entropy; balanced: every class counts as much, however many images it has",
    )
    use_unlabeled: bool = option(
        True, bool, "the student learns from images without a label what the teacher says of them"
    )
    ema: float = option(
        0.0,
        "[0, 1)",
        "share of a moving average of each network that stays at every step, which then predicts; "
        "0: none",
    )
    with_baseline: bool = option(
        False, bool, "train the student alone too, from the same start and on the same batches"
    )
    measure_latency: bool = option(
        False, bool, "write latency.json: milliseconds of each network on the CPU"
    )
    augment: Augment = Augment()
    student: Student = Student()
    teacher: Teacher = Teacher()
    optimizer: StudentSgd = StudentSgd(
        learning_rate=0.05,
        schedule="milestones",
        decay_every=150,
        decay_epochs=(150, 180, 210),
        decay_factor=0.1,
        weight_decay=5e-4,
    )
    export: Export = Export()
    distill: Distill = Distill()
    kd: Kd = Kd()
    dkd: Dkd = Dkd()
    dist: Dist = Dist()
    rkd: Rkd = Rkd()
    pkt: Pkt = Pkt()
    at: At = At()
    reviewkd: ReviewKd = ReviewKd()
    logit_mse: LogitMse = LogitMse()
    rld: Rld = Rld()
    fitnet: FitNet = FitNet()
    sp: Sp = Sp()
    vid: Vid = Vid()
    crd: Crd = Crd()


@dataclasses.dataclass(frozen=True)
class BackboneTeacher(Options, section="teacher"):
    """The teacher, with a backbone to start from."""

    path: str = option("", str, "folder of a trained one; empty: train one first, by this recipe")
    name: str = option("resnet101_imagenet", BACKBONES, "not read with a path")
    backbone: str = option("", str, "as student.backbone; not read with a path")
    num_epochs: int = option(
        30, "[1, inf)", "of the cycle, at whose 30th epoch the rate is still high"
    )


@dataclasses.dataclass(frozen=True)
class Decoder(Options, section="decoder"):
    """ML-Decoder."""

    width: int = option(768, "[1, inf)", "of an embedding; a multiple of num_heads")
    hidden: int = option(2048, "[1, inf)", "of the feed-forward part")
    num_heads: int = option(8, "[1, inf)", "of attention")
    dropout: float = option(0.1, "[0, 1)", "in training")

    def check_combinations(self) -> None:
        if self.width % self.num_heads:
            raise UserError(
                f"decoder.width={self.width} cannot be shared by decoder.num_heads="
                f"{self.num_heads}; make it a multiple."
            )


@dataclasses.dataclass(frozen=True)
class MultilabelDistillation(Run):
    """A recipe of the distillation task for images with several labels, with L2D's numbers."""

    task: str = option("distillation", _TASK_NAMES, "the outer loop")
    method: str = option(
        "bce",
        Names(
            "jaxrobust.recipes.methods:DISTILLERS",
            "jaxrobust.recipes.methods:MULTILABEL_DISTILLERS",
        ),
        "how the student learns from the teacher",
    )
    num_workers: int = option(
        16, "[0, inf)", "processes that read streamed images; 0: threads of this one"
    )
    eval_batch_size: int = option(128, "[1, inf)", "images per step without training")
    num_epochs: int = option(80, "[1, inf)", "of the student")
    batch_size: int = option(
        64, "[1, inf)", "cross-entropy is a sum over it, the other terms are not"
    )
    last_batch: str = option(
        "drop", Names("jaxrobust.engine.plan:LAST_BATCHES"), "the remainder of an epoch"
    )
    distill_until_epoch: int = option(
        0, "[0, inf)", "the last one with distillation, counted from 1; 0: all"
    )
    dataset: Dataset = Dataset(name="coco2014", image_size=224, stream=True)
    augment: Augment = Augment(  # the paper flips, its code does not
        crop="multilabel", padding=0, flip=False
    )
    student: Student = Student(name="resnet34_imagenet")
    teacher: BackboneTeacher = BackboneTeacher()
    decoder: Decoder = Decoder()
    optimizer: OneCycleAdam = OneCycleAdam()
    export: Export = Export()
    labels: Labels = Labels()
    asymmetric: Asymmetric = Asymmetric()
    l2d: L2d = L2d()
    mse: Mse = Mse()
    ps: Ps = Ps()
    rkd: Rkd = Rkd(distance_weight=10.0, angle_weight=10.0)
    pkt: Pkt = Pkt(weight=1.0)
    reviewkd: FinalReviewKd = FinalReviewKd()


# Checks.

# Task -> its recipes, sections that only some of them have, and registries of its methods.
_TASKS: dict[str, tuple[tuple[type[Options], ...], tuple[Registry, ...]]] = {
    "active_learning": ((ActiveLearning,), (methods.STRATEGIES,)),
    "noisy_labels": ((NoisyLabels, ExitsModel, WarmUpSgd), (methods.NOISY_LABEL_METHODS,)),
    "distillation": (
        (Distillation, MultilabelDistillation),
        (methods.DISTILLERS, methods.MULTILABEL_DISTILLERS),
    ),
}


def option_classes(task: str) -> list[type[Options]]:
    """Those of every recipe of a task: its own sections, and those of all of its methods."""
    classes, registries = _TASKS[task]
    entries = [registry.entry(name) for registry in registries for name in registry]
    return [*classes, *dict.fromkeys(cls for entry in entries for cls in entry.options)]


def check(config: ml_collections.ConfigDict) -> None:
    """Refuses a recipe with a wrong value, or with a field that nothing reads.

    Raises:
      UserError: for the first field that is wrong.
    """
    if (task := config.get("task")) not in _TASKS:
        raise UserError(unknown_name("task", task, _TASKS))
    options.check(config, option_classes(task))
    if task != "noisy_labels" and config.dataset.test2:
        raise UserError(
            f"Task {task} has one test set, and only noisy_labels a second: clear "
            "--config.dataset.test2=."
        )
    if task != "noisy_labels" and config.dataset.corrections:
        raise UserError(
            f"Task {task} takes labels as they are, and only noisy_labels corrects them: clear "
            "--config.dataset.corrections=, and correct them by jaxrobust apply-corrections."
        )
    if task == "active_learning" and config.oracle != "csv":
        for name in ("finish", "new_classes", "links"):
            if getattr(Al.read(config), name):
                raise UserError(
                    f"al.{name} is for oracle='csv', where a person annotates; clear "
                    f"--config.al.{name}=, or set --config.oracle=csv."
                )
    if task == "active_learning" and config.method != "dcfs":
        if Al.read(config).target_model == "shared":
            raise UserError(
                "al.target_model='shared' reports DCFS's query network, which "
                f"method={config.method!r} lacks; set --config.al.target_model=separate."
            )
