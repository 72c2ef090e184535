"""Networks by their names in recipes."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn

from jaxrobust.errors import UserError, unknown_name
from jaxrobust.models.auxiliary_head import AUXILIARY_HEADS, DualHeadClassifier
from jaxrobust.models.efficientnet import EfficientNetLite
from jaxrobust.models.feature_network import FeatureNetwork
from jaxrobust.models.inception_resnet_v2 import InceptionResNetV2
from jaxrobust.models.layers import Backbone, Network, he_normal, torch_uniform
from jaxrobust.models.ml_decoder import MultiLabelClassifier
from jaxrobust.models.mobilenet import MobileNetV1, MobileNetV2
from jaxrobust.models.multi_exit import MultiExit
from jaxrobust.models.preact_resnet import PreActBlock
from jaxrobust.models.repvgg import RepVGG
from jaxrobust.models.resnet import POOLINGS, BottleneckBlock, ResNet, ResNetBackbone
from jaxrobust.models.shufflenet import ShuffleNetV1, ShuffleNetV2
from jaxrobust.models.swin import SwinTransformer
from jaxrobust.models.two_headed import TwoHeaded
from jaxrobust.models.vgg import VGG
from jaxrobust.models.wide_resnet import WideResNet

_RESNET_SIZES = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}

NETWORKS: dict[str, Callable[..., Network]] = {
    "inception_resnet_v2": InceptionResNetV2,
    "preact_resnet18": functools.partial(
        ResNet, block=PreActBlock, stage_sizes=(2, 2, 2, 2), widths=(64, 128, 256, 512)
    ),
    "preact_resnet8_small": functools.partial(
        ResNet, block=PreActBlock, stage_sizes=(1, 1, 1), widths=(16, 32, 64)
    ),
    "resnet18": functools.partial(ResNet, stage_sizes=(2, 2, 2, 2), widths=(64, 128, 256, 512)),
    "resnet18_thin": functools.partial(ResNet, stage_sizes=(2, 2, 2, 2), widths=(16, 32, 64, 128)),
    "resnet34": functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), widths=(64, 128, 256, 512)),
    **{
        f"{name}_imagenet": functools.partial(
            ResNet,
            stage_sizes=sizes,
            stem="imagenet",
            **({"block": BottleneckBlock} if name == "resnet50" else {}),
        )
        for name, sizes in _RESNET_SIZES.items()
    },
    "resnet50_thin": functools.partial(
        ResNet, block=BottleneckBlock, stage_sizes=(3, 4, 6, 3), widths=(16, 32, 64, 128)
    ),
    "resnet8_small": functools.partial(ResNet, stage_sizes=(1, 1, 1), widths=(16, 32, 64)),
    "linear": FeatureNetwork,
    "mlp": functools.partial(FeatureNetwork, width=256),
}

FEATURE_NETWORKS = ("linear", "mlp")
"""Networks whose inputs are features `[B, D]` in place of images."""

INITIALIZATIONS = {"torch_default": torch_uniform, "kaiming_fan_out": he_normal}
"""Initialisations of convolutions' weights, by the name in a recipe."""

_VGG_SIZES = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}

BACKBONES: dict[str, Callable[..., Backbone]] = {
    **{
        f"resnet{depth}": functools.partial(
            ResNetBackbone, stage_sizes=((depth - 2) // 6,) * 3, widths=(16, 32, 64)
        )
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    **{
        f"resnet{depth}x4": functools.partial(
            ResNetBackbone,
            stage_sizes=((depth - 2) // 6,) * 3,
            widths=(64, 128, 256),
            stem_width=32,
        )
        for depth in (8, 32)
    },
    **{
        name + suffix: functools.partial(
            ResNetBackbone,
            stage_sizes=sizes,
            stem=stem,
            **({"block": BottleneckBlock} if name == "resnet50" else {}),
        )
        for name, sizes in _RESNET_SIZES.items()
        for suffix, stem in (("", "small"), ("_imagenet", "imagenet"))
    },
    **{
        f"wrn_{depth}_{widening}": functools.partial(WideResNet, depth, widening)
        for depth in (16, 40)
        for widening in (1, 2)
    },
    **{f"vgg{depth}": functools.partial(VGG, sizes) for depth, sizes in _VGG_SIZES.items()},
    "efficientnet_lite0": EfficientNetLite,
    "efficientnet_lite2": functools.partial(
        EfficientNetLite, sizes=(1, 3, 3, 4, 4, 5, 1), widths=(16, 24, 48, 88, 120, 208, 352)
    ),
    "mobilenet_v1": MobileNetV1,
    "mobilenet_v2_half": functools.partial(
        MobileNetV2,
        width=0.5,
        strides=(1, 1, 2, 2, 1, 2, 1),
        first_expansion=1,
        activation=nn.relu,
    ),
    "shuffle_v1": ShuffleNetV1,
    "shuffle_v2": ShuffleNetV2,
    **{
        name: functools.partial(
            ResNetBackbone,
            block=functools.partial(BottleneckBlock, widening=widening),
            stage_sizes=sizes,
            stem="imagenet",
        )
        for name, sizes, widening in (
            ("resnet101_imagenet", (3, 4, 23, 3), 1),
            ("wide_resnet50_2", (3, 4, 6, 3), 2),
            ("wide_resnet101_2", (3, 4, 23, 3), 2),
        )
    },
    "mobilenet_v2": MobileNetV2,
    "repvgg_a0": functools.partial(RepVGG, (48, 48, 96, 192, 1280)),
    "repvgg_a2": functools.partial(RepVGG, (64, 96, 192, 384, 1408)),
    "swin_t": SwinTransformer,
    "swin_s": functools.partial(SwinTransformer, sizes=(2, 2, 18, 2), drop=0.3),
    "swin_b": functools.partial(
        SwinTransformer, 128, (2, 2, 18, 2), num_heads=(4, 8, 16, 32), drop=0.5
    ),
}
"""Constructors, called with `dtype`, of networks that return `Features`."""

MOBILE_BACKBONES = ("mobilenet_v2_half", "shuffle_v1", "shuffle_v2")
"""Backbones that CIFAR-100's distillation benchmark trains at `optimizer.mobile_learning_rate`."""


def make_classifier(
    name: str, *, num_classes: int, auxiliary: str, dtype: Any
) -> DualHeadClassifier:
    """A backbone with a primary head and an optional auxiliary head.

    Args:
      name: a key of `BACKBONES`.
      num_classes: outputs per head.
      auxiliary: `"none"`, `"linear"` or `"mlp"`.
      dtype: computation dtype of the backbone.

    Raises:
      UserError: for an unknown name or auxiliary head.
    """
    if auxiliary not in AUXILIARY_HEADS:
        raise UserError(unknown_name("auxiliary head", auxiliary, AUXILIARY_HEADS))
    return DualHeadClassifier(_backbone(name, dtype), num_classes, auxiliary)


def make_multilabel_classifier(
    name: str, *, num_classes: int, dtype: Any, decoder: Mapping[str, Any] = MappingProxyType({})
) -> MultiLabelClassifier:
    """A backbone with an ML-Decoder.

    Args:
      name: a key of `BACKBONES`.
      num_classes: C.
      dtype: computation dtype of the backbone.
      decoder: options of `MLDecoder`.

    Raises:
      UserError: for an unknown name.
    """
    return MultiLabelClassifier(_backbone(name, dtype), num_classes, dict(decoder))


def _backbone(name: str, dtype: Any) -> Backbone:
    if name not in BACKBONES:
        raise UserError(unknown_name("backbone", name, BACKBONES))
    return BACKBONES[name](dtype=dtype)


def make_network(
    name: str,
    *,
    num_classes: int,
    num_heads: int,
    dtype: Any,
    pool: str = "global",
    dropout: float = 0.0,
    norm_parts: int = 1,
) -> Network:
    """A network with linear heads on its pooled feature.

    Args:
      name: a key of `NETWORKS`.
      num_classes: outputs per head.
      num_heads: number of linear heads on the pooled feature.
      dtype: computation dtype.
      pool: pooling of the last feature map, one of `POOLINGS`.
      dropout: for `FEATURE_NETWORKS`, the fraction of the features that is dropped in training.
      norm_parts: as in `Network`.

    Raises:
      UserError: for an unknown name or pooling.
    """
    if name not in NETWORKS:
        raise UserError(unknown_name("model.name", name, NETWORKS))
    if pool not in POOLINGS:
        raise UserError(unknown_name("model.pool", pool, POOLINGS))
    options: dict[str, Any] = {
        "num_classes": num_classes,
        "num_heads": num_heads,
        "dtype": dtype,
        "norm_parts": norm_parts,
    }
    if name in FEATURE_NETWORKS:
        options["dropout"] = dropout
    if name in ("inception_resnet_v2", *FEATURE_NETWORKS):
        if pool != "global":
            raise UserError(f"model.pool={pool!r} is not for {name}; use 'global'.")
    else:
        options["pool"] = pool
    return NETWORKS[name](**options)


def make_two_headed(
    name: str, *, num_classes: int, dtype: Any, norm_parts: int = 1, **options: Any
) -> TwoHeaded:
    """A network with DPC's two heads; arguments and errors as for `make_network`."""
    backbone = make_network(name, num_classes=num_classes, num_heads=0, dtype=dtype, **options)
    return TwoHeaded(backbone, num_classes, norm_parts=norm_parts)


def make_multi_exit(
    name: str,
    *,
    num_classes: int,
    exits: bool,
    dtype: Any,
    pool: str = "global",
    dropout: float = 0.0,
    init: str = "torch_default",
    norm_parts: int = 1,
) -> MultiExit:
    """A network with BLDR's two heads and early exits.

    Args:
      name: a ResNet of `NETWORKS` or, without exits, one of `FEATURE_NETWORKS`.
      num_classes: outputs per head.
      exits: whether to add an exit after every stage but the last.
      dtype: computation dtype.
      pool: `"global"`.
      dropout: as in `make_network`.
      init: a key of `INITIALIZATIONS`.
      norm_parts: as in `Network`.

    Raises:
      UserError: for any other name, pooling or initialisation.
    """
    if init not in INITIALIZATIONS:
        raise UserError(unknown_name("model.init", init, INITIALIZATIONS))
    if name == "inception_resnet_v2" or pool != "global":
        raise UserError(
            f"BLDR's exits need a ResNet and global pooling, not model.name={name!r} with "
            f"model.pool={pool!r}."
        )
    if exits and name in FEATURE_NETWORKS:
        raise UserError(
            f"model.name={name!r} has no stages for BLDR's exits: set "
            "--config.bldr.self_distillation=False."
        )
    kernel_init = INITIALIZATIONS[init]
    backbone = make_network(
        name, num_classes=num_classes, num_heads=0, dtype=dtype, dropout=dropout
    )
    return MultiExit(
        backbone.clone(kernel_init=kernel_init),
        num_classes,
        exits,
        kernel_init,
        dtype,
        norm_parts=norm_parts,
    )
