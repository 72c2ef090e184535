"""Options of optimisers and learning-rate schedules."""

import dataclasses

from jaxrobust.errors import UserError
from jaxrobust.recipes.fields import Follows, Options, option

SCHEDULES = {
    "constant": (),
    "step": ("decay_every", "decay_factor"),
    "milestones": ("decay_epochs", "decay_factor"),
    "cosine": (),
    "constant_cosine": ("constant_epochs", "min_learning_rate"),
}
"""Schedule -> the fields of `optimizer` that it reads beside `learning_rate`."""


@dataclasses.dataclass(frozen=True)
class Optimizer(Options, section="optimizer"):
    """What every optimiser has."""

    learning_rate: float = option(0.01, "[0, inf)", "of the first epoch")
    schedule: str = option("constant", tuple(SCHEDULES), "of the learning rate over epochs")

    def check_combinations(self) -> None:
        if lacking := [name for name in SCHEDULES[self.schedule] if not hasattr(self, name)]:
            raise UserError(
                f"optimizer.schedule={self.schedule!r} reads {' and '.join(lacking)}, which this "
                "recipe's optimizer lacks; choose another schedule, or add them to the recipe."
            )


@dataclasses.dataclass(frozen=True)
class Sgd(Optimizer):
    """SGD, its learning rate constant within an epoch."""

    decay_every: int = option(60, "[1, inf)", "epochs, for step")
    decay_factor: float = option(0.5, "(0, 1]", "for step and milestones")
    momentum: float = option(0.9, "[0, 1)", "of SGD")
    nesterov: bool = option(False, bool, "Nesterov's momentum")
    weight_decay: float = option(1e-4, "[0, inf)", "of every parameter, as in PyTorch")
    head_factor: float = option(
        1.0, "(0, inf)", "learning rate of the heads / learning_rate, such as 10 in fine-tuning"
    )


@dataclasses.dataclass(frozen=True)
class MilestoneSgd(Sgd):
    """SGD with milestones."""

    decay_epochs: tuple[int, ...] = option(
        (150,), "[0, inf)", "full epochs before each decay, for milestones"
    )


@dataclasses.dataclass(frozen=True)
class WarmUpSgd(MilestoneSgd):
    """SGD with a constant rate, then a cosine: BLDR's."""

    constant_epochs: int = option(
        Follows("bldr.warm_up", both_ways=True), "[0, inf)", "before the cosine; BLDR's warm_up"
    )
    min_learning_rate: float = option(2e-4, "[0, inf)", "at the end of the cosine")


@dataclasses.dataclass(frozen=True)
class StudentSgd(MilestoneSgd):
    """SGD of students and teachers."""

    mobile_learning_rate: float = option(
        0.01, "[0, inf)", "in place of learning_rate, for networks made for mobile devices"
    )
    clip_norm: float = option(0.0, "[0, inf)", "of the merged gradient; 0: none")
    warm_up_epochs: int = option(
        0, "[0, inf)", "first epochs, in which the rate rises linearly to its schedule's"
    )


@dataclasses.dataclass(frozen=True)
class OneCycleAdam(Optimizer):
    """Adam under a one-cycle policy, which takes the place of a schedule: L2D's."""

    name: str = option("one_cycle_adam", ("one_cycle_adam",), "of the optimiser")
    learning_rate: float = option(1e-4, "[0, inf)", "the highest")
    cycle_epochs: int = option(80, "[1, inf)", "of the teacher's cycle too")
    pct_start: float = option(0.2, "(0, 1)", "share of the cycle in which the rate rises")
    div_factor: float = option(25.0, "[1, inf)", "highest rate / first rate")
    final_div_factor: float = option(1e4, "[1, inf)", "first rate / last rate")
    weight_decay: float = option(1e-4, "[0, inf)", "of kernels")
