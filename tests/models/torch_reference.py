"""The networks in PyTorch, with the names of published state dicts; torchvision's own where it has
them."""

import torch
import torch.nn.functional as F
import torchvision
from torch import nn


def conv(inputs, outputs, kernel=3, stride=1, groups=1, bias=False):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)


def pooled(x):
    return x.mean((2, 3))


def shuffled(x, groups):
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class Residual(nn.Module):
    """ResNet block; `shortcut` is the published name of the projection."""

    def __init__(self, inputs, width, stride, bottleneck, shortcut):
        super().__init__()
        sizes = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
        if not bottleneck:
            sizes = [(width, 3, stride), (width, 3, 1)]
        channels = inputs
        for i, (features, kernel, step) in enumerate(sizes, 1):
            setattr(self, f"conv{i}", conv(channels, features, kernel, step))
            setattr(self, f"bn{i}", nn.BatchNorm2d(features))
            channels = features
        self.layers, self.outputs = len(sizes), channels
        self.projection = None
        if stride != 1 or inputs != channels:
            projection = nn.Sequential(conv(inputs, channels, 1, stride), nn.BatchNorm2d(channels))
            self.projection = shortcut
            self.add_module(shortcut, projection)

    def forward(self, x):
        y = x
        for i in range(1, self.layers + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.layers:
                y = F.relu(y)
        if self.projection:
            x = getattr(self, self.projection)(x)
        return F.relu(x + y)


class ResNet(nn.Module):
    def __init__(self, sizes, widths, num_classes, *, stem, bottleneck, shortcut, head):
        super().__init__()
        channels, self.head = stem, head
        self.conv1, self.bn1 = conv(3, channels), nn.BatchNorm2d(channels)
        self.stages = []
        for s, (size, width) in enumerate(zip(sizes, widths, strict=True)):
            blocks = []
            for b in range(size):
                stride = 2 if s and not b else 1
                blocks.append(Residual(channels, width, stride, bottleneck, shortcut))
                channels = blocks[-1].outputs
            self.stages.append(f"layer{s + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
        self.add_module(head, nn.Linear(channels, num_classes))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return getattr(self, self.head)(pooled(x))


class WideUnit(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, width, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width)
        self.convShortcut = conv(inputs, width, 1, stride) if inputs != width else None

    def forward(self, x):
        hidden = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(hidden))))
        return y + (self.convShortcut(hidden) if self.convShortcut else x)


class WideStage(nn.Module):
    def __init__(self, units):
        super().__init__()
        self.layer = nn.Sequential(*units)

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    def __init__(self, depth, widening, num_classes):
        super().__init__()
        self.conv1, channels = conv(3, 16), 16
        for s in range(3):
            width = 16 * 2**s * widening
            units = []
            for b in range((depth - 4) // 6):
                units.append(WideUnit(channels, width, 2 if s and not b else 1))
                channels = width
            self.add_module(f"block{s + 1}", WideStage(units))
        self.bn1 = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(pooled(F.relu(self.bn1(x))))


class VGG(nn.Module):
    def __init__(self, sizes, num_classes):
        super().__init__()
        channels = 3
        for block, (size, width) in enumerate(zip(sizes, (64, 128, 256, 512, 512), strict=True)):
            layers = []
            for _ in range(size):
                layers += [conv(channels, width, bias=True), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            self.add_module(f"block{block}", nn.Sequential(*layers))
        self.classifier = nn.Linear(512, num_classes)

    def forward(self, x):
        for block in range(5):
            x = getattr(self, f"block{block}")(x)
            if block < 3:
                x = F.max_pool2d(x, 2)
        return self.classifier(pooled(x))


def unit(inputs, outputs, kernel=3, stride=1, groups=1, activation=nn.ReLU):
    layers = [conv(inputs, outputs, kernel, stride, groups), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([activation()] if activation else []))


class MobileNetV1(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        units, channels = [unit(3, 32, 3, 2)], 32
        for width in (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024):
            stride = 2 if width > channels and width > 64 else 1
            units.append(
                nn.Sequential(
                    *unit(channels, channels, 3, stride, channels), *unit(channels, width, 1)
                )
            )
            channels = width
        self.model = nn.Sequential(*units)
        self.fc = nn.Linear(1024, num_classes)

    def forward(self, x):
        return self.fc(pooled(self.model(x)))


class Inverted(nn.Module):
    """MobileNetV2's unit, flat as in the distillation benchmark."""

    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        width = inputs * expansion
        self.conv = nn.Sequential(
            *unit(inputs, width, 1),
            *unit(width, width, 3, stride, width),
            *unit(width, outputs, 1, activation=None),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2Half(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv1, channels = unit(3, 16, 3, 2), 16
        self.blocks = nn.ModuleList()
        table = [(1, 8, 1, 1), (6, 12, 2, 1), (6, 16, 3, 2), (6, 32, 4, 2)]
        table += [(6, 48, 3, 1), (6, 80, 3, 2), (6, 160, 1, 1)]
        for expansion, width, size, stride in table:
            stage = []
            for b in range(size):
                stage.append(Inverted(channels, width, 1 if b else stride, expansion))
                channels = width
            self.blocks.append(nn.Sequential(*stage))
        self.conv2 = unit(channels, 1280, 1)
        self.classifier = nn.Sequential(nn.Linear(1280, num_classes))

    def forward(self, x):
        x = self.conv1(x)
        for stage in self.blocks:
            x = stage(x)
        return self.classifier(pooled(self.conv2(x)))


class ShuffleUnitV1(nn.Module):
    def __init__(self, inputs, outputs, stride, groups=3):
        super().__init__()
        self.stride, self.first = stride, 1 if inputs == 24 else groups
        width = outputs // 4
        self.conv1, self.bn1 = conv(inputs, width, 1, 1, self.first), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride, width), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, outputs, 1, 1, groups), nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = shuffled(F.relu(self.bn1(self.conv1(x))), self.first)
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        if self.stride == 2:
            return F.relu(torch.cat([y, F.avg_pool2d(x, 3, 2, 1)], 1))
        return F.relu(x + y)


class ShuffleNetV1(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv1, self.bn1, channels = conv(3, 24, 1), nn.BatchNorm2d(24), 24
        for s, (width, size) in enumerate(((240, 4), (480, 8), (960, 4)), 1):
            units = [ShuffleUnitV1(channels, width - channels, 2)]
            units += [ShuffleUnitV1(width, width, 1) for _ in range(size - 1)]
            self.add_module(f"layer{s}", nn.Sequential(*units))
            channels = width
        self.linear = nn.Linear(960, num_classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(pooled(self.layer3(self.layer2(self.layer1(x)))))


class ShuffleUnitV2(nn.Module):
    def __init__(self, inputs, outputs, down):
        super().__init__()
        half = outputs // 2
        right = inputs if down else half
        sizes = [(right, half, 1, 1, 1), (half, half, 3, 2 if down else 1, half)]
        sizes.append((half, half, 1, 1, 1))
        if down:
            sizes = [(inputs, inputs, 3, 2, inputs), (inputs, half, 1, 1, 1), *sizes]
        for i, (a, b, kernel, stride, groups) in enumerate(sizes, 1):
            setattr(self, f"conv{i}", conv(a, b, kernel, stride, groups))
            setattr(self, f"bn{i}", nn.BatchNorm2d(b))
        self.down = down

    def layer(self, i, x):
        return getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))

    def forward(self, x):
        first = 1
        if self.down:
            left, first = F.relu(self.layer(2, self.layer(1, x))), 3
        else:
            left, x = x.chunk(2, 1)
        right = self.layer(first + 1, F.relu(self.layer(first, x)))
        return shuffled(torch.cat([left, F.relu(self.layer(first + 2, right))], 1), 2)


class ShuffleNetV2(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv1, self.bn1, channels = conv(3, 24, 1), nn.BatchNorm2d(24), 24
        for s, (width, size) in enumerate(((116, 4), (232, 8), (464, 4)), 1):
            units = [ShuffleUnitV2(channels, width, True)]
            units += [ShuffleUnitV2(width, width, False) for _ in range(size - 1)]
            self.add_module(f"layer{s}", nn.Sequential(*units))
            channels = width
        self.conv2, self.bn2 = conv(464, 1024, 1), nn.BatchNorm2d(1024)
        self.linear = nn.Linear(1024, num_classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(pooled(F.relu(self.bn2(self.conv2(x)))))


class RepUnit(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.rbr_dense = named_unit(inputs, outputs, 3, stride)
        self.rbr_1x1 = named_unit(inputs, outputs, 1, stride)
        same = stride == 1 and inputs == outputs
        self.rbr_identity = nn.BatchNorm2d(inputs) if same else None

    def forward(self, x):
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        return F.relu(y + self.rbr_identity(x) if self.rbr_identity else y)


def named_unit(inputs, outputs, kernel, stride):
    module = nn.Sequential()
    module.add_module("conv", conv(inputs, outputs, kernel, stride))
    module.add_module("bn", nn.BatchNorm2d(outputs))
    return module


class RepVGG(nn.Module):
    def __init__(self, widths, num_classes):
        super().__init__()
        self.stage0, channels = RepUnit(3, widths[0], 2), widths[0]
        for s, (width, size) in enumerate(zip(widths[1:], (2, 4, 14, 1), strict=True), 1):
            units = [RepUnit(channels, width, 2)]
            units += [RepUnit(width, width, 1) for _ in range(size - 1)]
            self.add_module(f"stage{s}", nn.Sequential(*units))
            channels = width
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x):
        for s in range(5):
            x = getattr(self, f"stage{s}")(x)
        return self.linear(pooled(x))


def make(arch, num_classes):
    """The network that `jaxrobust.models.BACKBONES[arch]` and a head are, with PyTorch's layers."""
    small_resnets = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
    name, _, rest = arch.partition("_")
    published = arch.removesuffix("_imagenet")
    if arch != published or name in ("wide", "swin") or arch == "mobilenet_v2":
        return getattr(torchvision.models, published)(num_classes=num_classes)
    if arch in small_resnets:
        return ResNet(
            small_resnets[arch],
            (64, 128, 256, 512),
            num_classes,
            stem=64,
            bottleneck=arch == "resnet50",
            shortcut="shortcut",
            head="linear",
        )
    if name.startswith("resnet"):
        depth, _, times = name.removeprefix("resnet").partition("x")
        return ResNet(
            ((int(depth) - 2) // 6,) * 3,
            (64, 128, 256) if times else (16, 32, 64),
            num_classes,
            stem=32 if times else 16,
            bottleneck=False,
            shortcut="downsample",
            head="fc",
        )
    if name == "wrn":
        return WideResNet(*map(int, rest.split("_")), num_classes)
    if name.startswith("vgg"):
        last = {"8": (1, 1, 1), "11": (2, 2, 2), "13": (2, 2, 2), "16": (3, 3, 3), "19": (4, 4, 4)}
        depth = name.removeprefix("vgg")
        first = (1, 1) if depth in ("8", "11") else (2, 2)
        return VGG((*first, *last[depth]), num_classes)
    if name == "repvgg":
        widths = {"a0": (48, 48, 96, 192, 1280), "a2": (64, 96, 192, 384, 1408)}
        return RepVGG(widths[rest], num_classes)
    return {
        "mobilenet_v1": MobileNetV1,
        "mobilenet_v2_half": MobileNetV2Half,
        "shuffle_v1": ShuffleNetV1,
        "shuffle_v2": ShuffleNetV2,
    }[arch](num_classes)
