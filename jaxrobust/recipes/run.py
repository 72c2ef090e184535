"""Parts of every recipe: sections shared by the tasks, and the fields of a run.

There is one dataclass for each section; see `jaxrobust.recipes.fields` for fields.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxrobust.errors import UserError
from jaxrobust.recipes.fields import Names, Options, option

METHODS = "jaxrobust.recipes.methods"
TASK_NAMES = Names(f"{METHODS}:TASKS")
BACKBONES = Names("jaxrobust.models:BACKBONES")
NETWORKS = Names("jaxrobust.models:NETWORKS")


@dataclasses.dataclass(frozen=True)
class CheckpointOptions(Options, section="checkpoint"):
    """How often a run is saved."""

    every_seconds: float = option(120.0, "[0, inf]", "between two saves; inf: only at the end")
    keep: int = option(2, "[1, inf)", "checkpoints kept")


@dataclasses.dataclass(frozen=True)
class DatasetOptions(Options, section="dataset"):
    """The images, or features instead of them."""

    name: str = option("cifar10", str, "name of a data set that `jaxrobust.data` reads")
    path: str = option(
        "",
        str,
        "empty: datasets/ and the default data set folders; for name=features: the folder "
        "of the images, if a person is to see them",
    )
    features: str = option(
        "",
        str,
        "for name=features: .npz file of `jaxrobust.embed`, or .npy or .npz of embeddings; auto: "
        "embed the images of path first",
    )
    labels: str = option(
        "", str, "labels of these features: .npy or .csv file; empty: those in the .npz file"
    )
    corrections: str = option(
        "",
        str,
        "for noisy labels: tables with corrected labels, such as label_review.html saves, "
        "separated by commas; later ones take precedence",
    )
    test_fraction: float = option(
        0.2,
        "[0, 1)",
        "of each class, held out if a file of features names no test part; for noisy labels: 0",
    )
    test2: str = option(
        "",
        str,
        "for noisy labels: folder of class folders, a second test set; WebVision: ImageNet's val",
    )
    image_size: int = option(0, "[0, inf)", "0: unchanged")
    max_train: int = option(0, "[0, inf)", "0: all; a smaller number takes a class-stratified part")
    max_test: int = option(0, "[0, inf)", "as max_train, for the test images")
    mean: tuple[float, ...] = option(
        (), "[0, 1]", "of each channel on the [0, 1] scale; (): the data set's own", lengths=(0, 3)
    )
    std: tuple[float, ...] = option((), "(0, inf)", "of each channel, as mean", lengths=(0, 3))
    stream: bool = option(
        False,
        bool,
        "True: images stay in their files and are read while the device trains, for data sets "
        "that are too large for its memory; labels and everything else stay on the device",
    )
    on_corrupt: str = option(
        "stop",
        Names("jaxrobust.data.streaming:ON_CORRUPT"),
        "for streamed images; skip: name the files and train on others instead",
    )


@dataclasses.dataclass(frozen=True)
class Model(Options, section="model"):
    """The network."""

    name: str = option("resnet18", NETWORKS, "name of a network in `jaxrobust.models`")
    pool: str = option(
        "global",
        Names("jaxrobust.models.resnet:POOLINGS"),
        "pooling of the last feature map; window4: windows of 4 x 4, as in BUAL on Tiny-ImageNet",
    )
    dropout: float = option(
        0.0, "[0, 1)", "for linear and mlp: share of the heads' input that is dropped in training"
    )
    backbone: str = option(
        "",
        str,
        "folder whose backbone every network starts from: what `jaxrobust.models.convert` wrote, "
        "or `student`, `teacher` or `classifier` of a run; empty: random",
    )

    @property
    def architecture(self) -> dict[str, Any]:
        """Arguments of `jaxrobust.models.make_network`."""
        return {"name": self.name, "pool": self.pool, "dropout": self.dropout}


@dataclasses.dataclass(frozen=True)
class ExitsModel(Model):
    """BLDR's network with exits."""

    init: str = option(
        "torch_default", Names("jaxrobust.models:INITIALIZATIONS"), "of the convolutions"
    )


@dataclasses.dataclass(frozen=True)
class Augment(Options, section="augment"):
    """Augmentation of training images."""

    padding: int = option(4, "[0, inf)", "pixels on each side before a random crop")
    flip: bool = option(True, bool, "random horizontal flip (p = 0.5)")
    feature_noise: float = option(
        0.0, "[0, inf)", "of features: standard deviation of the noise, relative to each feature's"
    )
    feature_dropout: float = option(0.0, "[0, 1)", "for features: share that is set to the mean")
    feature_test: str = option(
        "first",
        ("first", "mean"),
        "for features: what is tested and scored, the first view or the mean of all views",
    )
    crop: str = option(
        "center",
        Names("jaxrobust.data.transforms:CROPS", extra=("multilabel",)),
        "for streamed images, before the padding; multilabel: squeezed to a square, with cutout "
        "and RandAugment in training",
    )
    resize: int = option(0, "[0, inf)", "of the shorter side, before a crop; 0: dataset.image_size")
    crop_from: str = option("original", ("original", "resized"), "source of random_resized crops")
    area: tuple[float, float] = option(
        (0.08, 1.0), "(0, 1]", "of random_resized: shares of the image", lengths=(2,)
    )
    aspect: tuple[float, float] = option(
        (0.75, 4 / 3), "(0, inf)", "of random_resized: width / height", lengths=(2,)
    )

    def check_combinations(self) -> None:
        for name in ("area", "aspect"):
            low, high = value = getattr(self, name)
            if low > high:
                raise UserError(
                    f"augment.{name}={value} must hold the smaller number first; correct "
                    f"--config.augment.{name}=."
                )


@dataclasses.dataclass(frozen=True)
class StrongAugment(Augment):
    """Augmentation including strong views."""

    policy: str = option(
        "cifar10", ("cifar10", "imagenet", "none"), "AutoAugment's policy for strong views"
    )
    cutout: int = option(16, "[0, inf)", "side of the square cut out of strong views; 0: none")
    strong_mean: tuple[float, ...] = option(
        (),
        "[0, 1]",
        "for strong views in memory; (): dataset.mean; DPC's code: CIFAR-10's also on CIFAR-100",
        lengths=(0, 3),
    )
    strong_std: tuple[float, ...] = option(
        (), "(0, inf)", "for strong views in memory; (): dataset.std", lengths=(0, 3)
    )

    def check_combinations(self) -> None:
        super().check_combinations()
        if len(self.strong_mean) != len(self.strong_std):
            raise UserError(
                f"augment.strong_mean={self.strong_mean} and augment.strong_std={self.strong_std} "
                "must hold as many numbers, or none; correct one of the two."
            )


@dataclasses.dataclass(frozen=True)
class Noise(Options, section="noise"):
    """The wrong labels."""

    kind: str = option(
        "symmetric",
        ("none", "symmetric", "uniform", "asymmetric", "pairflip", "transition", "human"),
        "symmetric: the true class can be drawn; uniform: never the true class; asymmetric: of "
        "CIFAR; transition: a matrix in a file; human: CIFAR-N",
    )
    rate: float = option(0.4, "[0, 1]", "share of labels that are redrawn")
    seed: int = option(
        -1, "[-1, 4294967295]", "-1: the run's; the authors of DPC use 123 for every run"
    )
    path: str = option("", str, "path of the matrix, or of CIFAR-N's label file")
    label_set: str = option(
        "worst",
        Names("jaxrobust.data.noise:CIFARN_KEYS"),
        "for human: aggre, worst, rand1, rand2, rand3; for CIFAR-100N noisy100",
    )
    groups: str = option("blocks", ("blocks", "superclasses"), "for asymmetric CIFAR-100")


@dataclasses.dataclass(frozen=True)
class Optimizer(Options, section="optimizer"):
    """Options of every optimiser."""

    learning_rate: float = option(0.01, "[0, inf)", "of the first epoch", static=False)
    schedule: str = option(
        "constant", ("constant", "cosine"), "of the learning rate over epochs", static=False
    )


@dataclasses.dataclass(frozen=True)
class Sgd(Optimizer):
    """SGD with a learning rate that is constant within an epoch."""

    schedule: str = option(
        "constant",
        ("constant", "step", "milestones", "cosine", "constant_cosine"),
        "of the learning rate over epochs",
        static=False,
    )
    decay_every: int = option(60, "[1, inf)", "epochs between decays, for step", static=False)
    decay_epochs: tuple[int, ...] = option(
        (150,),
        "[0, inf)",
        "full epochs before each decay, for milestones",
        static=False,
    )
    decay_factor: float = option(0.5, "(0, 1]", "for step and milestones", static=False)
    constant_epochs: int = option(
        0,
        "[0, inf)",
        "epochs before the cosine of constant_cosine; BLDR: its warm_up",
        static=False,
    )
    min_learning_rate: float = option(
        2e-4, "[0, inf)", "learning rate at the end of constant_cosine", static=False
    )
    warm_up_epochs: int = option(
        0,
        "[0, inf)",
        "first epochs, in which the learning rate rises linearly to its schedule's",
        static=False,
    )
    momentum: float = option(0.9, "[0, 1)", "momentum of SGD", static=False)
    nesterov: bool = option(False, bool, "Nesterov's momentum")
    weight_decay: float = option(
        1e-4, "[0, inf)", "of every parameter, as in PyTorch", static=False
    )
    clip_norm: float = option(0.0, "[0, inf)", "largest norm of the whole gradient; 0: no clipping")
    head_factor: float = option(
        1.0, "(0, inf)", "learning rate of the heads / learning_rate, such as 10 in fine-tuning"
    )


@dataclasses.dataclass(frozen=True)
class StudentSgd(Sgd):
    """SGD of students and teachers."""

    mobile_learning_rate: float = option(
        0.01,
        "[0, inf)",
        "instead of learning_rate, for networks made for mobile devices",
        static=False,
    )


@dataclasses.dataclass(frozen=True)
class OneCycleAdam(Optimizer):
    """Adam under a one-cycle policy, which takes the place of a schedule: L2D's."""

    name: str = option("one_cycle_adam", ("one_cycle_adam",), "name of the optimiser")
    learning_rate: float = option(1e-4, "[0, inf)", "highest learning rate", static=False)
    cycle_epochs: int = option(80, "[1, inf)", "epochs of the cycle, also of the teacher's")
    pct_start: float = option(0.2, "(0, 1)", "share of the cycle in which the learning rate rises")
    div_factor: float = option(25.0, "[1, inf)", "highest rate / first rate")
    final_div_factor: float = option(1e4, "[1, inf)", "first rate / last rate")
    weight_decay: float = option(1e-4, "[0, inf)", "of kernels", static=False)


@dataclasses.dataclass(frozen=True)
class BaseRecipe(Options):
    """Fields that every recipe has."""

    task: str = option("", TASK_NAMES, "outer loop")
    method: str = option("", str, "method of the task")

    seed: int = option(0, "[0, 4294967295]", "seed of every random draw")
    num_seeds: int = option(
        1, "[1, inf)", "above 1: that many runs in one process, from `seed` upwards"
    )
    device: str = option(
        "auto", ("auto", "cpu", "gpu", "tpu"), "refuse to start on any other device"
    )
    device_count: int = option(
        0,
        "[0, inf)",
        "devices that share a batch; 0: all, and a CPU is split into as many as its cores if a "
        "step is large enough",
    )
    deterministic: bool = option(
        False, bool, "True: the same bits in every run, also on a GPU, but slower"
    )
    dtype: str = option(
        "auto",
        ("auto", "float32", "bfloat16"),
        "dtype of convolutions and of L2D's decoder; auto: bfloat16, on CPU float32",
    )
    batch_norm: str = option(
        "global",
        ("global", "per_device"),
        "statistics of the whole batch, or of each device's part of it",
    )
    writers: tuple[str, ...] = option(
        ("auto",),
        str,
        "of metrics, besides metrics.jsonl: tensorboard, wandb; auto: tensorboard if installed",
    )
    log_every_seconds: float = option(15.0, "[0, inf]", "between two lines without a terminal")
    num_workers: int = option(
        0, "[0, inf)", "processes that read streamed images; 0: threads of this process"
    )
    eval_batch_size: int = option(512, "[1, inf)", "images per step without training")
    num_epochs: int = option(100, "[1, inf)", "epochs of each training", static=False)
    batch_size: int = option(128, "[1, inf)", "examples per training step")
    last_batch: str = option(
        "short", Names("jaxrobust.engine.plan:LAST_BATCHES"), "the remainder of an epoch"
    )
    checkpoint: CheckpointOptions = CheckpointOptions()
    dataset: DatasetOptions = DatasetOptions()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    """The whole configuration as `config.json` holds it, with sections that other methods read."""

    def check_combinations(self) -> None:
        if self.task != "noisy_labels" and self.dataset.test2:
            raise UserError(
                f"Task {self.task} has one test set; only noisy_labels has a second one: clear "
                "--config.dataset.test2=."
            )
        if self.task != "noisy_labels" and self.dataset.corrections:
            raise UserError(
                f"Task {self.task} does not correct labels; only noisy_labels does: clear "
                "--config.dataset.corrections=, and correct them by jaxrobust apply-corrections."
            )
