"""ResNet-18 and -50 (He et al., arXiv:1512.03385), with torchvision's names, so that its weights load.

A bottleneck's stride is in its 3x3 convolution, as in torchvision. `blur_pool` blurs before each strided
convolution (Zhang, arXiv:1904.11486), as in FFCV's configurations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

LAYERS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}


def conv(inside: int, outside: int, side: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without bias that keeps the size, or halves it."""
    return nn.Conv2d(inside, outside, side, stride=stride, padding=side // 2, bias=False)


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1, with a shortcut around them."""

    def __init__(self, inside: int, middle: int, stride: int, deep: bool) -> None:
        super().__init__()
        outside = middle * 4 if deep else middle
        shapes = [(inside, middle, 3, stride), (middle, outside, 3, 1)]
        if deep:
            shapes = [(inside, middle, 1, 1), (middle, middle, 3, stride), (middle, outside, 1, 1)]
        self.depth = len(shapes)
        for number, shape in enumerate(shapes, 1):
            self.add_module(f"conv{number}", conv(*shape))
            self.add_module(f"bn{number}", nn.BatchNorm2d(shape[1]))
        nn.init.zeros_(self.get_submodule(f"bn{self.depth}").weight)  # initially, the block is its shortcut
        self.downsample: nn.Module | None = None
        if stride != 1 or inside != outside:
            self.downsample = nn.Sequential(conv(inside, outside, 1, stride), nn.BatchNorm2d(outside))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features of half the size if the block has a stride."""
        shortcut = images if self.downsample is None else self.downsample(images)
        for number in range(1, self.depth + 1):
            images = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(images))
            if number < self.depth:
                images = F.relu(images, inplace=True)
        return F.relu(images + shortcut, inplace=True)


class ResNet(nn.Module):
    """A residual network for images of any size; `width` scales all channels (1: the published ones)."""

    def __init__(self, arch: str, classes: int, width: float = 1.0, *, blur_pool: bool = False) -> None:
        super().__init__()
        deep = arch == "resnet50"
        inside = max(8, round(64 * width))
        self.conv1, self.bn1 = conv(3, inside, 7, 2), nn.BatchNorm2d(inside)
        for number, blocks in enumerate(LAYERS[arch]):
            middle = max(8, round(64 * width)) * 2**number
            layer: list[nn.Module] = []
            for block in range(blocks):
                layer.append(Block(inside, middle, 2 if number and not block else 1, deep))
                inside = middle * 4 if deep else middle
            self.add_module(f"layer{number + 1}", nn.Sequential(*layer))
        self.fc = nn.Linear(inside, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if blur_pool:
            add_blur(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes)."""
        images = F.max_pool2d(F.relu(self.bn1(self.conv1(images)), inplace=True), 3, stride=2, padding=1)
        for number in range(1, 5):
            images = self.get_submodule(f"layer{number}")(images)
        return self.fc(images.mean((2, 3)))


class BlurredConv(nn.Module):
    """A strided convolution of blurred features."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.conv = layer
        one = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("blur", torch.outer(one, one).expand(layer.in_channels, 1, 3, 3).clone())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Blur, then convolve."""
        blur = self.get_buffer("blur").to(images.dtype)
        return self.conv(F.conv2d(images, blur, padding=1, groups=blur.shape[0]))


def add_blur(module: nn.Module) -> None:
    """Insert a blur before every strided convolution except the first one."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d) and max(child.stride) > 1 and child.in_channels > 3:
            setattr(module, name, BlurredConv(child))
        else:
            add_blur(child)
