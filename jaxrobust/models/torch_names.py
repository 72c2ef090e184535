"""Names of our backbones' layers in published PyTorch networks."""

import re
from collections.abc import Iterable, Sequence

import flax.linen as nn

from jaxrobust.models.efficientnet import EfficientNetLite
from jaxrobust.models.mobilenet import MobileNetV1, MobileNetV2
from jaxrobust.models.repvgg import RepVGG
from jaxrobust.models.resnet import BottleneckBlock, ResNetBackbone
from jaxrobust.models.shufflenet import ShuffleNetV1, ShuffleNetV2
from jaxrobust.models.swin import SwinTransformer
from jaxrobust.models.vgg import VGG
from jaxrobust.models.wide_resnet import WideResNet

# Other authors' names -> the name that is used here.
_ALIASES = (
    # The head.
    (r"^(linear|classifier(\.[01])?|last_linear|head(\.fc)?|_fc)\.(?=(weight|bias)$)", "fc."),
    # A ResNet's projection.
    (r"\.shortcut\.(?=[01]\.)", ".downsample."),
    # timm's RepVGG.
    (r"^stem\.(?=conv_)", "stage0."),
    (r"^stages\.(\d)\.", lambda match: f"stage{int(match[1]) + 1}."),
    (r"(?<=\.)conv_kxk\.", "rbr_dense."),
    (r"(?<=\.)conv_1x1\.", "rbr_1x1."),
    (r"^(stage\d\.(?:\d+\.)?)identity\.", r"\1rbr_identity."),
    # The Swin authors' names of torchvision's layers.
    (r"^patch_embed\.proj\.", "features.0.0."),
    (r"^patch_embed\.norm\.", "features.0.2."),
    (r"^layers\.(\d)\.blocks\.", lambda match: f"features.{2 * int(match[1]) + 1}."),
    (r"^layers\.(\d)\.downsample\.", lambda match: f"features.{2 * int(match[1]) + 2}."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
)

# tonylins' MobileNetV2 counts activations and does not nest: position in a block without and with
# an expansion -> torchvision's name.
_TONYLINS = (
    {"0": "0.0", "1": "0.1", "3": "1", "4": "2"},
    {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"},
)

# The auxiliary head of DHKD's students, which does not predict.
_AUXILIARY_HEAD = r"^(fc|linear|classifier|last_linear)2\."

# timm's EfficientNet: the layers of a block without and with an expansion.
_TIMM_BLOCK = {
    "conv_dw": "_depthwise_conv",
    "bn1": "_bn1",
    "conv_pw": "_project_conv",
    "bn2": "_bn2",
}
_TIMM_EXPANDED_BLOCK = {
    "conv_pw": "_expand_conv",
    "bn1": "_bn0",
    "conv_dw": "_depthwise_conv",
    "bn2": "_bn1",
    "conv_pwl": "_project_conv",
    "bn3": "_bn2",
}

# Tensors that a network computes from its shape, or counts.
_NOT_LEARNED = ("num_batches_tracked", "relative_position_index", "attn_mask")


def canonical_names(tensors: Iterable[str]) -> dict[str, str]:
    """Canonical name of every learned tensor of a state dict -> its name there.

    The auxiliary head of a DHKD student is left out.

    Raises:
      ValueError: if two tensors have the same canonical name.
    """
    tensors = list(tensors)
    # timm merges patches at the start of a Swin stage, others at the end of the previous one.
    merges_first = any(name.startswith("layers.3.downsample.") for name in tensors)
    is_tonylins = "features.2.conv.7.weight" in tensors
    is_timms_efficientnet = "conv_stem.weight" in tensors
    found = (re.match(r"blocks\.(\d+)\.(\d+)\.", name) for name in tensors)
    blocks = sorted({(int(match[1]), int(match[2])) for match in found if match})
    names = {}
    for tensor in tensors:
        if tensor.rpartition(".")[2] in _NOT_LEARNED or re.match(_AUXILIARY_HEAD, tensor):
            continue
        name = tensor
        if is_tonylins:
            name = _from_tonylins(name)
        if is_timms_efficientnet:
            name = _from_timms_efficientnet(name, blocks)
        if merges_first:
            name = re.sub(r"^layers\.(\d)\.downsample", lambda m: f"features.{2 * int(m[1])}", name)
        for pattern, replacement in _ALIASES:
            name = re.sub(pattern, replacement, name)
        if name in names:
            raise ValueError(f"{names[name]} and {tensor} have the same role, that of {name}.")
        names[name] = tensor
    return names


def _from_tonylins(name: str) -> str:
    name = re.sub(r"^conv\.(?=[01]\.)", "features.18.", name)
    if match := re.match(r"features\.(\d+)\.conv\.(\d)\.(\w+)$", name):
        block, place, leaf = match.groups()
        return f"features.{block}.conv.{_TONYLINS[block != '1'][place]}.{leaf}"
    return name


def _from_timms_efficientnet(name: str, blocks: Sequence[tuple[int, int]]) -> str:
    if match := re.match(r"blocks\.(\d)\.(\d)\.(\w+)\.(\w+)$", name):
        stage, place, layer, leaf = match.groups()
        number = blocks.index((int(stage), int(place)))
        layer = (_TIMM_BLOCK if stage == "0" else _TIMM_EXPANDED_BLOCK)[layer]
        return f"_blocks.{number}.{layer}.{leaf}"
    top = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    module, _, leaf = name.partition(".")
    return f"{top.get(module, module)}.{leaf}"


def _kind(layer: str) -> tuple[bool, int]:
    """Whether a layer, by its name in linen, is a convolution, and its number."""
    name, _, number = layer.rpartition("_")
    return name == "Conv", int(number)


def _stage(k: int, sizes: Sequence[int]) -> tuple[int, int]:
    """Stage of the k-th block, and its position in the stage."""
    for stage, size in enumerate(sizes):
        if k < size:
            return stage, k
        k -= size
    raise ValueError("There are fewer blocks.")


def _pair(prefix: str, layer: str, first: int) -> str:
    """Name of a convolution at position `first` of a Sequential, or of the BN after it."""
    return f"{prefix}.{first if layer == 'Conv_0' else first + 1}"


def _numbered(prefix: str, layer: str, number: int) -> str:
    """Name of a convolution or BN with a number."""
    return f"{prefix}{'conv' if layer == 'Conv_0' else 'bn'}{number}"


def _resnet(backbone: ResNetBackbone, path: tuple[str, ...]) -> str:
    if len(path) == 1:
        return {"stem_conv": "conv1", "stem_norm": "bn1"}[path[0]]
    block, layer = path
    stage, place = _stage(int(block.removeprefix("blocks_")), backbone.stage_sizes)
    is_conv, number = _kind(layer)
    main = 3 if getattr(backbone.block, "func", backbone.block) is BottleneckBlock else 2
    prefix = f"layer{stage + 1}.{place}"
    if number == main:
        return f"{prefix}.downsample.{0 if is_conv else 1}"
    return f"{prefix}.{'conv' if is_conv else 'bn'}{number + 1}"


def _wide_resnet(backbone: WideResNet, path: tuple[str, ...]) -> str:
    is_conv, number = _kind(path[-1])
    name = "convShortcut" if number == 2 else f"{'conv' if is_conv else 'bn'}{number + 1}"
    if len(path) == 1:
        return name
    size = (backbone.depth - 4) // 6
    stage, place = divmod(int(path[0].removeprefix("WideBlock_")), size)
    return f"block{stage + 1}.layer.{place}.{name}"


def _vgg(backbone: VGG, path: tuple[str, ...]) -> str:
    kind, block, place = path[0].split("_")
    return f"block{block}.{3 * int(place) + (kind == 'norm')}"


def _mobilenet_v1(backbone: MobileNetV1, path: tuple[str, ...]) -> str:
    unit, pointwise = divmod(int(path[0].removeprefix("ConvNorm_")) + 1, 2)
    if unit == 0:
        return _pair("model.0", path[1], 0)
    return _pair(f"model.{unit}", path[1], 3 * pointwise)


def _mobilenet_v2(backbone: MobileNetV2, path: tuple[str, ...]) -> str:
    half = backbone.first_expansion == 1
    if len(path) == 2:
        names = {"stem": "conv1", "last": "conv2"} if half else {}
        return _pair(names.get(path[0]) or f"features.{18 * (path[0] == 'last')}", path[1], 0)
    block, part, layer = path
    stage, place = map(int, block.removeprefix("block_").split("_"))
    index = ("expand", "depthwise", "project").index(part)
    if half:
        return _pair(f"blocks.{stage}.{place}.conv", layer, 3 * index)
    number = 1 + sum((1, 2, 3, 4, 3, 3, 1)[:stage]) + place
    index -= stage == 0
    if part == "project":
        return _pair(f"features.{number}.conv", layer, index)
    return _pair(f"features.{number}.conv.{index}", layer, 0)


def _shufflenet(backbone: ShuffleNetV1 | ShuffleNetV2, path: tuple[str, ...]) -> str:
    number = int(path[-2].removeprefix("ConvNorm_")) + 1
    if len(path) == 2:
        return _numbered("", path[1], number)
    stage, place = _stage(int(path[0].rpartition("_")[2]), (4, 8, 4))
    return _numbered(f"layer{stage + 1}.{place}.", path[2], number)


def _repvgg(backbone: RepVGG, path: tuple[str, ...]) -> str:
    stage, block = path[0].removeprefix("block_").split("_")
    prefix = "stage0" if stage == "0" else f"stage{stage}.{block}"
    branch = {"dense": "rbr_dense", "pointwise": "rbr_1x1", "identity": "rbr_identity"}[path[1]]
    layer = "" if len(path) == 2 else ".conv" if path[2] == "Conv_0" else ".bn"
    return f"{prefix}.{branch}{layer}"


def _swin(backbone: SwinTransformer, path: tuple[str, ...]) -> str:
    fixed = {"patch_conv": "features.0.0", "patch_norm": "features.0.2", "norm": "norm"}
    if path[0] in fixed:
        return fixed[path[0]]
    kind, stage, place = path[0].split("_")
    if kind == "merge":
        return f"features.{2 * int(stage)}.{place}"
    layer = ".".join(path[1:]).replace("mlp_", "mlp.")
    return f"features.{2 * int(stage) + 1}.{place}.{layer}"


def _efficientnet(backbone: EfficientNetLite, path: tuple[str, ...]) -> str:
    unit, layer = path
    is_conv = layer == "Conv_0"
    if unit in ("stem", "last"):
        norm, conv = {"stem": ("_bn0", "_conv_stem"), "last": ("_bn1", "_conv_head")}[unit]
        return conv if is_conv else norm
    _, number, part = unit.split("_")
    index = ("expand", "depthwise", "project").index(part)
    return f"_blocks.{number}." + (f"_{part}_conv" if is_conv else f"_bn{index}")


_FAMILIES = {
    EfficientNetLite: _efficientnet,
    ResNetBackbone: _resnet,
    WideResNet: _wide_resnet,
    VGG: _vgg,
    MobileNetV1: _mobilenet_v1,
    MobileNetV2: _mobilenet_v2,
    ShuffleNetV1: _shufflenet,
    ShuffleNetV2: _shufflenet,
    RepVGG: _repvgg,
    SwinTransformer: _swin,
}


def torch_module(backbone: nn.Module, path: tuple[str, ...]) -> str:
    """Published name of the innermost module at a path such as `("backbone", "Conv_0")`."""
    if path[0] == "primary":
        return "fc"
    # Our layers wrap one of linen's.
    path = path[1:-1] if path[-1] in ("Conv_0", "BatchNorm_0") else path[1:]
    return _FAMILIES[type(backbone)](backbone, path)
