"""The networks of `pytorch_steps.py`; modules have the names of ours, by which `carry` works."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from jaxrobust.models.preact_resnet import PreActBlock
from jaxrobust.models.resnet import BottleneckBlock


class Conv(nn.Conv2d):
    def __init__(self, inputs, outputs, kernel=3, stride=1):
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """Basic, bottleneck or pre-activation block."""

    def __init__(self, inputs, width, stride, kind):
        super().__init__()
        kind = self.kind = getattr(kind, "func", kind)  # of a block with options
        layers = [(width, 3, stride), (width, 3, 1)]
        if kind is BottleneckBlock:
            layers = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
        channels = inputs
        for i, (features, kernel, step) in enumerate(layers):
            self.add_module(f"Conv_{i}", Conv(channels, features, kernel, step))
            normed = channels if kind is PreActBlock else features
            self.add_module(f"BatchNorm_{i}", nn.BatchNorm2d(normed))
            channels = features
        self.depth, self.outputs = len(layers), channels
        self.projects = stride != 1 or inputs != channels
        if self.projects:
            self.add_module(f"Conv_{self.depth}", Conv(inputs, channels, 1, stride))
            if kind is not PreActBlock:
                self.add_module(f"BatchNorm_{self.depth}", nn.BatchNorm2d(channels))

    def forward(self, x):
        def conv(i, x):
            return getattr(self, f"Conv_{i}")(x)

        def norm(i, x):
            return getattr(self, f"BatchNorm_{i}")(x)

        if self.kind is PreActBlock:
            shortcut = hidden = F.relu(norm(0, x))
            y = conv(1, F.relu(norm(1, conv(0, hidden))))
            return y + (conv(2, hidden) if self.projects else shortcut)
        y = x
        for i in range(self.depth):
            y = norm(i, conv(i, y))
            if i < self.depth - 1:
                y = F.relu(y)
        return F.relu(y + (norm(self.depth, conv(self.depth, x)) if self.projects else x))


class ResNet(nn.Module):
    """The maps at the end of every stage; options as ours."""

    def __init__(
        self,
        block=None,
        stage_sizes=(2, 2, 2, 2),
        widths=(64, 128, 256, 512),
        stem_width=None,
        stem="small",
    ):
        super().__init__()
        channels = stem_width or widths[0]
        self.stem_conv = Conv(3, channels, *((7, 2) if stem == "imagenet" else (3, 1)))
        self.stem_norm = nn.BatchNorm2d(channels)
        self.pools, self.stage_sizes, self.outputs = stem == "imagenet", stage_sizes, []
        number = 0
        for stage, (size, width) in enumerate(zip(stage_sizes, widths, strict=True)):
            for place in range(size):
                made = Block(channels, width, 2 if stage and not place else 1, block)
                self.add_module(f"blocks_{number}", made)
                channels, number = made.outputs, number + 1
            self.outputs.append(channels)

    def forward(self, x):
        x = F.relu(self.stem_norm(self.stem_conv(x)))
        if self.pools:
            x = F.max_pool2d(x, 3, 2, 1)
        maps, number = [], 0
        for size in self.stage_sizes:
            for _ in range(size):
                x = getattr(self, f"blocks_{number}")(x)
                number += 1
            maps.append(x)
        return maps


def resnet(constructor) -> ResNet:
    """The network of an entry of our tables."""
    return ResNet(**constructor.keywords)


def pooled(x):
    return x.mean((2, 3))


class Heads(ResNet):
    """Logits of linear heads, a tuple."""

    def __init__(self, num_heads, num_classes, **options):
        super().__init__(**options)
        self.num_heads = num_heads
        for i in range(num_heads):
            self.add_module(f"heads_{i}", nn.Linear(self.outputs[-1], num_classes))

    def forward(self, x):
        features = pooled(super().forward(x)[-1])
        return tuple(getattr(self, f"heads_{i}")(features) for i in range(self.num_heads))


class MLPHead(nn.Module):
    def __init__(self, width, num_classes):
        super().__init__()
        self.Linear_0, self.Linear_1 = nn.Linear(width, 1024), nn.Linear(1024, num_classes)

    def forward(self, x):
        return self.Linear_1(F.dropout(F.relu(self.Linear_0(x)), 0.5, self.training))


class TwoHeaded(nn.Module):
    def __init__(self, backbone, num_classes):
        super().__init__()
        self.backbone = backbone
        self.supervised_head = nn.Linear(backbone.outputs[-1], num_classes)
        self.unsupervised_head = MLPHead(backbone.outputs[-1], num_classes)

    def forward(self, x):
        features = pooled(self.backbone(x)[-1])
        return self.supervised_head(features), self.unsupervised_head(features)


class Exit(nn.Module):
    def __init__(self, inputs, outputs, kernel):
        super().__init__()
        self.Conv_0 = nn.Conv2d(inputs, outputs // 4, 1)
        self.Conv_1 = nn.Conv2d(outputs // 4, outputs // 4, kernel, kernel)
        self.Conv_2 = nn.Conv2d(outputs // 4, outputs, 1)
        for i, features in enumerate((outputs // 4, outputs // 4, outputs)):
            self.add_module(f"BatchNorm_{i}", nn.BatchNorm2d(features))

    def forward(self, x):
        for i in range(3):
            x = F.relu(getattr(self, f"BatchNorm_{i}")(getattr(self, f"Conv_{i}")(x)))
        return pooled(x)


class MultiExit(nn.Module):
    """Logits of the positive head, the negative head, and the exits; features of last and exits."""

    def __init__(self, backbone, num_classes):
        super().__init__()
        self.backbone = backbone
        *early, width = backbone.outputs
        self.positive_head = nn.Linear(width, num_classes)
        self.negative_head = nn.Linear(width, num_classes)
        self.num_exits = len(early)
        for i, channels in enumerate(early, 1):
            kernel = 2 ** (len(early) + 1 - i)
            self.add_module(f"exit_{i}", Exit(channels, width, kernel))
            self.add_module(f"exit_head_{i}", nn.Linear(width, num_classes))

    def forward(self, x):
        maps = self.backbone(x)
        features = [pooled(maps[-1])]
        logits = [self.positive_head(features[0]), self.negative_head(features[0])]
        for i in range(1, self.num_exits + 1):
            features.append(getattr(self, f"exit_{i}")(maps[i - 1]))
            logits.append(getattr(self, f"exit_head_{i}")(features[-1]))
        return torch.stack(logits, 1), features


class Classifier(nn.Module):
    """Logits of DHKD's primary and, if there is one, its linear auxiliary head."""

    def __init__(self, backbone, num_classes, auxiliary):
        super().__init__()
        self.backbone = backbone
        self.primary = nn.Linear(backbone.outputs[-1], num_classes)
        self.auxiliary = nn.Linear(backbone.outputs[-1], num_classes) if auxiliary else None

    def forward(self, x):
        features = pooled(self.backbone(x)[-1])
        return self.primary(features), self.auxiliary(features) if self.auxiliary else None


class Decoder(nn.Module):
    """L2D's ML-Decoder: logits and label embeddings of a map."""

    def __init__(self, channels, num_classes, width, hidden, num_heads, dropout):
        super().__init__()
        self.embed = nn.Linear(channels, width)
        self.attention = nn.MultiheadAttention(width, num_heads, dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.group_kernel = nn.Parameter(torch.zeros(num_classes, width, 1))
        self.group_bias = nn.Parameter(torch.zeros(num_classes))
        self.register_buffer("queries", torch.zeros(num_classes, width))
        self.dropout = dropout

    def forward(self, maps):
        def drop(x):
            return F.dropout(x, self.dropout, self.training)

        memory = F.relu(self.embed(maps.flatten(2).transpose(1, 2)))
        queries = self.queries.expand(len(maps), -1, -1)
        x = self.norm1(queries + drop(queries))
        x = self.norm2(x + drop(self.attention(x, memory, memory, need_weights=False)[0]))
        x = self.norm3(x + drop(self.linear2(drop(F.relu(self.linear1(x))))))
        return (x * self.group_kernel[:, :, 0]).sum(2) + self.group_bias, x


class MultiLabel(nn.Module):
    def __init__(self, backbone, num_classes, options):
        super().__init__()
        self.backbone = backbone
        self.decoder = Decoder(backbone.outputs[-1], num_classes, **options)

    def forward(self, x):
        return self.decoder(self.backbone(x)[-1])


@torch.no_grad()
def carry(variables: dict[str, Any], net: nn.Module) -> None:
    """Copies the weights of our network into the one in PyTorch."""
    params, stats = variables["params"], variables.get("batch_stats", {})

    def at(tree, path):
        for key in path:
            tree = tree[key]
        return tree

    def put(tensor, array):
        tensor.copy_(torch.from_numpy(np.array(array)))

    for name, module in net.named_modules():
        path = tuple(name.split("."))
        if isinstance(module, nn.Conv2d):
            part = at(params, (*path, *(("Conv_0",) if type(module) is Conv else ())))
            put(module.weight, np.transpose(part["kernel"], (3, 2, 0, 1)))
        elif isinstance(module, nn.BatchNorm2d):
            part = at(params, (*path, "BatchNorm_0"))
            put(module.weight, part["scale"])
            put(module.running_mean, at(stats, (*path, "BatchNorm_0"))["mean"])
            put(module.running_var, at(stats, (*path, "BatchNorm_0"))["var"])
        elif isinstance(module, nn.LayerNorm):
            part = at(params, path)
            put(module.weight, part["scale"])
        elif isinstance(module, nn.Linear):
            if path[-1] == "out_proj":
                path = (*path[:-1], "Linear_0")
            part = at(params, (*path, "Dense_0"))
            put(module.weight, np.transpose(part["kernel"]))
        elif isinstance(module, Decoder):
            part = {}
            ours = at(params, path)
            put(module.group_kernel, ours["group_kernel"])
            put(module.group_bias, ours["group_bias"])
            put(module.attention.in_proj_weight, np.transpose(ours["attention"]["kernel"]))
            put(module.attention.in_proj_bias, ours["attention"]["bias"])
            put(module.queries, at(variables["constants"], path)["queries"])
        else:
            continue
        if "bias" in part:
            put(module.bias, part["bias"])
