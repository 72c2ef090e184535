"""Options of what is done to training images."""

import dataclasses

from jaxrobust.errors import UserError
from jaxrobust.recipes.fields import Names, Options, option


@dataclasses.dataclass(frozen=True)
class Augment(Options, section="augment"):
    """What is done to training images."""

    padding: int = option(4, "[0, inf)", "pixels on each side before a random crop")
    flip: bool = option(True, bool, "mirror every second image")
    feature_noise: float = option(
        0.0, "[0, inf)", "of features: standard deviation of the noise on each, in its own"
    )
    feature_dropout: float = option(0.0, "[0, 1)", "of features: share that is set to the mean")
    feature_test: str = option(
        "first",
        ("first", "mean"),
        "of features: what is tested and scored, the first view or the mean of all views",
    )
    crop: str = option(
        "center",
        Names("jaxrobust.data.transforms:CROPS", extra=("multilabel",)),
        "of streamed images, before the padding; multilabel: squeezed to a square, cutout and "
        "RandAugment in training",
    )
    resize: int = option(0, "[0, inf)", "of the shorter side, before a crop; 0: dataset.image_size")
    crop_from: str = option("original", ("original", "resized"), "where random_resized crops from")
    area: tuple[float, float] = option(
        (0.08, 1.0), "(0, 1]", "of random_resized, shares of the image", lengths=(2,)
    )
    aspect: tuple[float, float] = option(
        (0.75, 4 / 3), "(0, inf)", "of random_resized, width / height", lengths=(2,)
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
    """Also of strong views."""

    policy: str = option(
        "cifar10", ("cifar10", "imagenet", "none"), "AutoAugment's, of strong views"
    )
    cutout: int = option(16, "[0, inf)", "side of the square cut out of strong views; 0: none")
    strong_mean: tuple[float, ...] = option(
        (),
        "[0, 1]",
        "of strong views in memory; (): dataset.mean; DPC's code: CIFAR-10's on CIFAR-100 too",
        lengths=(0, 3),
    )
    strong_std: tuple[float, ...] = option(
        (), "(0, inf)", "likewise; (): dataset.std", lengths=(0, 3)
    )

    def check_combinations(self) -> None:
        super().check_combinations()
        if len(self.strong_mean) != len(self.strong_std):
            raise UserError(
                f"augment.strong_mean={self.strong_mean} and augment.strong_std={self.strong_std} "
                "must hold as many numbers, or none; correct one of the two."
            )
